/* totals.h - the sums that a pass before the step has measured on all shards. Every shard reports its sums chunk by chunk; chunks
 * are added in the order of the model, whichever shard holds them: the same bits for any number of servers. Owned by the
 * coordinator; pure. */
#pragma once

#include "common/base/partition.h"
#include "common/base/server_set.h"
#include "common/optim/passes.h"

typedef struct psd_totals {
    psd_groups_t groups;
    psd_passes_t passes; /* whose sums are exchanged */
    psd_partition_t map; /* of the model; no chunks before it is known */
    uint8_t *group_of;   /* of each tensor */
    uint32_t n_tensors;
    int pass;              /* that is awaited; the number of passes: none */
    psd_server_set_t told; /* shards that have reported their sums of that pass */
    double *sum;           /* [chunk][sum] */
    double *total;         /* [tensor][sum], or only of the model [sum] */
} psd_totals_t;

/* For a job with these groups and these bounds. */
void psd_totals_init(psd_totals_t *self, const psd_groups_t *groups, const psd_clip_t *clip);

/* Nothing is awaited any more, and the model may be another. Also frees what this holds. */
void psd_totals_clear(psd_totals_t *self);

/* Set the model, before the first step; `group_of`: each tensor's group. Without passes it is not needed. PSD_ENOMEM. */
int psd_totals_begin(psd_totals_t *self, const psd_extent_t *tensors, const uint8_t *group_of, uint32_t n_tensors,
                     uint32_t n_servers);
bool psd_totals_has_begun(const psd_totals_t *self);

/* A step was decided: its passes are awaited, if it makes any. */
void psd_totals_await(psd_totals_t *self);

/* Whether a pass is awaited. */
bool psd_totals_is_awaiting(const psd_totals_t *self);

/* Shard `shard` has told `n` doubles of pass `pass`. Returns whether all have now told theirs; then `total` has the `*n_total`
 * doubles of the whole until the next call, and the next pass is awaited. Sums that are not awaited are ignored. */
bool psd_totals_take(psd_totals_t *self, uint32_t shard, int pass, const double *sums, size_t n, uint32_t *n_total);
