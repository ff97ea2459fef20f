/* forecast.h - the expected next round: its contributors, and the samples of each. A shard may then add up pushes, or step parts, before
 * the round is decided, because the weight of each push, its samples over all samples, is known.
 *
 * Both sides keep one: the coordinator, which says in a COMMAND whether shards may rely on a forecast, and on which; and each
 * shard, which reads it there. If a round will be decided otherwise, the coordinator announces that first, and the shards request
 * the pushes again that they have added up. Pure. One thread. */
#pragma once

#include "proto/message.h"

typedef enum psd_forecast_kind {
    PSD_FORECAST_NONE, /* nothing is expected */
    PSD_FORECAST_SAME, /* the round's contributors again, with as many samples */
    PSD_FORECAST_EVEN  /* the members of the view, each with as many samples as the first */
} psd_forecast_kind_t;

/* All zero: nothing is expected. Others read it; only forecast.c changes it. */
typedef struct psd_forecast {
    psd_forecast_kind_t kind;
    uint32_t n;           /* contributors */
    psd_member_t *member; /* by rank: worker, incarnation, samples, which are 0 until they are known */
    uint64_t samples;     /* of all, likewise */
} psd_forecast_t;

/* Expect a round like this one, or with its members. After a round that made no step, nothing is expected. Aborts when memory runs
 * out. */
void psd_forecast_take(psd_forecast_t *self, const psd_round_t *round, psd_forecast_kind_t kind);

/* Expect nothing any more. Also frees what it holds. */
void psd_forecast_clear(psd_forecast_t *self);

/* The first contributor of an even round has pushed this many samples: the others will push as many. */
void psd_forecast_settle(psd_forecast_t *self, uint64_t samples);

/* Whether a round makes a step of exactly the pushes that are expected. */
bool psd_forecast_comes_true(const psd_forecast_t *self, const psd_round_t *round);

/* Whether two lists name the same lives of the same workers; whether all of a list have as many samples. */
bool psd_members_are_same(const psd_member_t *a, uint32_t n_a, const psd_member_t *b, uint32_t n_b);
bool psd_members_are_even(const psd_member_t *member, uint32_t n);
