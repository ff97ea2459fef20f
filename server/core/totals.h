/* totals.h - what a pass before the step has measured on all shards, added up. Every shard tells its sums chunk by chunk; chunks
 * are added in the order of the model, whoever holds them: the same bits for any number of servers. Owned by the
 * coordinator; pure. */
#pragma once

#include "common/base/partition.h"
#include "common/base/server_set.h"
#include "common/optim/passes.h"

typedef struct psd_totals {
    psd_rule_t rule;
    psd_passes_t passes;
    psd_partition_t map; /* of the model; no chunks before it is known */
    uint32_t n_tensors;
    int pass;              /* that is awaited; the number of passes: none */
    psd_server_set_t told; /* shards that have told their sums of that pass */
    double *sum;           /* [chunk][sum] */
    double *total;         /* [tensor][sum], or of the model alone [sum] */
} psd_totals_t;

/* For a job with this rule and these bounds. */
void psd_totals_init(psd_totals_t *self, const psd_rule_t *rule, const psd_clip_t *clip);

/* Nothing is awaited any more, and the model may be another. Also frees what this holds. */
void psd_totals_clear(psd_totals_t *self);

/* A step was decided: its passes are awaited, if it makes any. `sizes`: elements of each tensor. PSD_ENOMEM. */
int psd_totals_await(psd_totals_t *self, const uint64_t *sizes, uint32_t n_tensors, uint32_t n_servers);

/* Whether a pass is awaited. */
bool psd_totals_is_awaiting(const psd_totals_t *self);

/* Shard `shard` has told `n` doubles of pass `pass`. Returns whether all have now told theirs; then `total` has the `*n_total` doubles
 * of the whole until the next call, and the next pass is awaited. What is not awaited is let be. */
bool psd_totals_take(psd_totals_t *self, uint32_t shard, int pass, const double *sums, size_t n, uint32_t *n_total);
