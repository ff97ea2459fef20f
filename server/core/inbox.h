/* inbox.h - the part of one worker's open push that has reached a shard: the payloads as they came, which parts are missing, and
 * the worker's figures for it. Emptied when the clock is closed. Owned by the engine; pure. */
#pragma once

#include "proto/actions.h"

typedef struct psd_inbox {
    uint32_t n_parts;   /* parts of a whole push; 0: never sized */
    uint32_t held;      /* parts that have come */
    uint8_t *have;      /* bitmap of those */
    uint8_t *ahead;     /* bitmap of those whose sender takes weights that were made ahead (ahead.h) */
    psd_buf_t **parked; /* their payloads; NULL: no gradient */
    bool complete;      /* all of it has come */
    bool folded;        /* it is in the shard's sums, and its payloads are gone */
    bool joint;         /* some of its payloads stand for the mean with others (proto/measured.h) */
    uint64_t samples;   /* n_i */
    double loss;
    double norm2;       /* sum of squares of what came here */
    double whole_norm2; /* of the whole gradient, on all shards, as the worker reports it */
    bool nonfinite;     /* a value is Inf or NaN, as seen here or reported by the worker */
    uint32_t bad_chunk; /* the first chunk here that is not finite, from 1; 0: none here */
    uint64_t base_version;
} psd_inbox_t;

/* Make room for pushes of this many parts, once. Aborts without memory. */
void psd_inbox_size(psd_inbox_t *self, uint32_t n_parts);

/* Forget everything that has come, and free it. All zero is an empty inbox. */
void psd_inbox_empty(psd_inbox_t *self);
void psd_inbox_clear(psd_inbox_t *self);

/* Whether this part has come, or all have. */
bool psd_inbox_has(const psd_inbox_t *self, uint32_t part);

/* Whether this part has come, and a step of it may be made ahead. */
bool psd_inbox_goes_ahead(const psd_inbox_t *self, uint32_t part);

/* Keep a part that was checked: its payload, of which a reference is taken, its sum of squares and, when that is not finite,
 * the number of the chunk that is to blame, from 1. The shard is at `version`: a worker cannot have weights that are newer.
 * Returns whether the push is whole now. */
bool psd_inbox_take(psd_inbox_t *self, const psd_msg_t *msg, psd_buf_t *payload, double norm2, uint32_t bad_chunk,
                    uint64_t version);

/* Keep only the fact that the whole push has come: it becomes one without samples. */
void psd_inbox_drop_gradient(psd_inbox_t *self);

/* A new bitmap of the parts that are missing. */
psd_buf_t *psd_inbox_lacking(const psd_inbox_t *self);
