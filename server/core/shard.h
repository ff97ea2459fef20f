/* shard.h - one server's chunks: their weights, the optimizer state that trains them, and one step of one chunk.
 * It knows nothing of sockets, clocks or rounds. Chunks are independent: any number may be stepped side by side,
 * each by one thread at a time. */
#pragma once

#include <stdbool.h>

#include "common/base/buffer.h"
#include "common/optim/optimizer.h"
#include "common/base/partition.h"
#include "common/optim/passes.h"

typedef struct psd_shard psd_shard_t;

/* One pass over one chunk, ready to run: all that a thread needs, so that nothing is shared while it runs. A step is one
 * pass, unless its rule or clipping asks for others before it (common/optim/passes.h): these change neither weights nor state. */
typedef struct psd_work {
    psd_shard_t *shard;
    uint32_t part;                       /* the chunk */
    int pass;                            /* which of the shard's passes; from their number on, the step */
    uint32_t n_gradients;                /* contributions in rank order; 0: nobody had a gradient, the chunk is left alone */
    psd_buf_t **gradient;                /* n_gradients; the work holds references, and drops them when the step has run */
    double *weight;                      /* n_i / N of each, summed in double in this order, rounded once */
    bool is_bounded;                     /* there is one gradient, which is the sum, bounded by value */
    double lr;                           /* learning rate of this step */
    float scale;                         /* on the summed gradient, where that is known from elsewhere than a pass; 1 for none */
    const double *total[PSD_MAX_PASSES]; /* what the passes before have found, of the chunk's tensor or of the model; borrowed */
    uint32_t capacity;                   /* room in `gradient` and `weight` */
    bool preserve;                       /* keep a copy of the chunk as it is before this step, for a checkpoint */
    double sum[PSD_MAX_SUMS];            /* set by the run of a pass before the step: this chunk's terms */
    uint32_t checksum;                   /* set by the run of the step: CRC-32C of the new weights */
    float clipped;                       /* likewise: the factor that the gradient was clipped by; 1: it was not */
} psd_work_t;

/* Chunks of server `server` in `map`, all weights 0 until psd_shard_set. `map` is borrowed for the shard's life.
 * NULL, with `err` set, when memory runs out. */
psd_shard_t *psd_shard_new(const psd_rule_t *rule, const psd_clip_t *clip, const psd_partition_t *map, uint32_t server,
                           psd_err_t *err);

/* Its rule. */
const psd_rule_t *psd_shard_rule(const psd_shard_t *self);

/* The passes that a step of this shard makes before it moves an element. */
const psd_passes_t *psd_shard_passes(const psd_shard_t *self);

/* Free it and set `*self_p` to NULL; weights still in flight live on until they are released. NULL is fine. */
void psd_shard_destroy(psd_shard_t **self_p);

/* Number of chunks, and elements of one. */
uint32_t psd_shard_parts(const psd_shard_t *self);
uint32_t psd_shard_elements(const psd_shard_t *self, uint32_t part);

/* Begin a chunk with these initial values (its number of elements of them). Lookahead's slow weights start equal. */
void psd_shard_set(psd_shard_t *self, uint32_t part, const float *values);

/* The chunk's weights: a buffer to send, borrowed; take a reference to keep it. Its CRC-32C. */
psd_buf_t *psd_shard_weights(const psd_shard_t *self, uint32_t part);
uint32_t psd_shard_checksum(const psd_shard_t *self, uint32_t part);

/* A new buffer with the chunk's slow weights (the weights themselves without Lookahead). NULL without memory. */
psd_buf_t *psd_shard_slow(const psd_shard_t *self, uint32_t part);

/* Syncs of Lookahead so far, of the chunk's tensor. */
uint64_t psd_shard_sync_epoch(const psd_shard_t *self, uint32_t part);

/* A chunk's whole state, for a checkpoint: as it was when a work preserved it, else as it is. Borrowed. */
typedef struct psd_shard_state {
    float *w;
    float *slot[PSD_MAX_SLOTS];
    psd_rule_state_t *state;
} psd_shard_state_t;
psd_shard_state_t psd_shard_state(psd_shard_t *self, uint32_t part);

/* Drop what a work preserved of the chunk; nothing preserved is fine. */
void psd_shard_forget(psd_shard_t *self, uint32_t part);

/* After the arrays and counters of psd_shard_state were filled from a checkpoint. */
void psd_shard_filled(psd_shard_t *self, uint32_t part);

/* The chunk's work, with room for `capacity` contributions, all else zero. Not while it is running. NULL without memory. */
psd_work_t *psd_shard_work(psd_shard_t *self, uint32_t part, uint32_t capacity);

/* The chunk's work as it was last made, for its next pass. */
psd_work_t *psd_shard_pending(psd_shard_t *self, uint32_t part);

/* Make the pass. A step sums the contributions and steps the optimizer, block by block, in one pass over memory; then it
 * drops the gradients. The first pass before a step puts their sum, bounded by value, in their place. Any thread. Weights that somebody still holds (a send in flight) are copied first, and only then. */
void psd_work_run(psd_work_t *work);
