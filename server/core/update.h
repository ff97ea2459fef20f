/* update.h - the update that a shard is making: one piece of work per part and pass, handed out together; when all have come back
 * the pass is over. In a step with several passes, the shard first reports the sums of each pass to the coordinator, and the totals
 * of all shards come back in the log. Owned by the engine; pure; one thread at a time. */
#pragma once

#include "common/base/partition.h"
#include "server/core/shard.h"

typedef struct psd_update {
    psd_shard_t *shard; /* borrowed */
    uint32_t n_tensors;
    bool open;        /* from its beginning until the step has run */
    bool measures;    /* it makes the passes before the step */
    bool measured;    /* a pass is over, and its totals have not come */
    bool looks;       /* the step measures what it does to each tensor (common/optim/look.h) */
    int pass;         /* which is being made; the number of passes: the step */
    uint32_t running; /* pieces of work that have not come back */
    uint64_t samples; /* behind the step */
    uint8_t *busy;    /* bitmap of parts that a thread has now */
    double *sum;      /* the sums of the pass: n_sums of each chunk of this shard */
    double *total;    /* totals of the passes, [pass][tensor][PSD_MAX_SUMS] */
    double *look;     /* what the last step that looked has measured: PSD_LOOK_TERMS of each chunk of this shard */
} psd_update_t;

/* For a shard of a model of `n_tensors` tensors. False when memory runs out. All zero before, and after psd_update_clear. */
bool psd_update_init(psd_update_t *self, psd_shard_t *shard, uint32_t n_tensors);
void psd_update_clear(psd_update_t *self);

/* Begin one with `samples` behind it; with `measures`, its passes come first; otherwise there is only the step. With `looks`, that
 * measures what it does, into `look`. */
void psd_update_begin(psd_update_t *self, uint64_t samples, bool measures, bool looks);

/* Where the step of a part puts what it measures, if it looks. */
double *psd_update_look(const psd_update_t *self, uint32_t part);

/* Give the work of a part what the pass needs, and count it as running. */
void psd_update_hand_out(psd_update_t *self, psd_work_t *work);

/* Whether the pass that is being made is the step. */
bool psd_update_is_step(const psd_update_t *self);

/* A piece of work has come back. Returns whether it was the last one of its pass (see below). */
bool psd_update_returned(psd_update_t *self, const psd_work_t *work);

/* Whether no work is running, for example because this shard has no chunks. Then the pass is over: if it was the step, so is the
 * update; otherwise its sums are ready. */
bool psd_update_pass_is_over(psd_update_t *self);

/* Doubles per chunk that the pass measures. Not of the step. */
uint32_t psd_update_sums(const psd_update_t *self);

/* The totals of pass `pass` have come, `n` doubles: continue with the next. False if this pass is not awaited. */
bool psd_update_settle(psd_update_t *self, int pass, const double *total, size_t n);
