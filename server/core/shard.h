/* shard.h - one server's chunks: their weights, the optimizer state that trains them, and one step of one part, which is a run of
 * chunks (common/base/partition.h); a tensor whose rule needs it whole is stepped by the thread that sums its last gradient. It
 * knows nothing of sockets, clocks or rounds. Parts are independent: any number may be stepped side by side, each by one thread at
 * a time. */
#pragma once

#include <stdbool.h>

#include "common/base/buffer.h"
#include "common/codec/codec.h"
#include "common/optim/optimizer.h"
#include "common/base/partition.h"
#include "common/optim/look.h"
#include "common/optim/passes.h"
#include "proto/message.h"

typedef struct psd_shard psd_shard_t;

/* One pass over one part, ready to run: everything that a thread needs, so that it shares nothing while it runs. A step is one
 * pass, unless its rule or clipping needs others before it (common/optim/passes.h), which change neither weights nor state. */
typedef struct psd_work {
    psd_shard_t *shard;
    uint32_t part;
    int pass;             /* which of the shard's passes; from their number on, the step */
    uint32_t n_gradients; /* contributions in rank order; a chunk without a gradient does not change */
    psd_buf_t **gradient; /* n_gradients payloads in the coding of pushes (proto/coded.h), checked; the work holds references, and
                             drops them when the step has run */
    double *weight;       /* n_i / N of each, summed in double in this order, rounded once */
    bool folds;           /* not a pass: add the contributions to the part's sums, before later ones, and drop them */
    bool ahead;           /* the step of a round that is not decided: put its result aside, where psd_shard_adopt takes it */
    bool onto;            /* the part's sums, if it has any, are the beginning of the mean: the contributions come after them */
    double divisor;  /* of the sums, where they are of several rounds: the contributions are added to them, then all is divided; 0:
                             the weights make a mean as they are */
    bool is_bounded; /* there is one gradient, which is the sum, in f32, bounded by value */
    double lr[PSD_MAX_GROUPS];           /* learning rate of this step, of each group */
    double momentum;                     /* its momentum, of rules that have one; NaN: their own */
    float scale;                         /* on the summed gradient, if it is known without a pass; 1 for none */
    const double *total[PSD_MAX_PASSES]; /* totals of earlier passes, of the model or of its first tensor; borrowed */
    size_t stride[PSD_MAX_PASSES];       /* doubles from one tensor's to the next; 0: they are of the model */
    uint32_t capacity;                   /* room in `gradient` and `weight` */
    bool sums;                           /* let the step compute the checksum of the weights while it has them in the cache */
    bool preserve;                       /* keep a copy of the part from before this step, for a checkpoint */
    double *sum;                         /* where a pass before the step puts its terms, chunk after chunk; borrowed */
    double *look;  /* where the step puts what it does to each chunk, PSD_LOOK_TERMS each; NULL: it does not look */
    float clipped; /* set by the step: the factor by which the gradient was clipped; 1: not clipped */
} psd_work_t;

/* Chunks of server `server` in `map`, all weights 0 until psd_shard_set; tensor i is of group group_of[i] (NULL: all are of the
 * first). The codings are those of received gradients and sent weights. `map` is borrowed for the shard's life. NULL, with `err`
 * set, when memory runs out. */
psd_shard_t *psd_shard_new(const psd_groups_t *groups, const uint8_t *group_of, const psd_clip_t *clip,
                           const psd_codings_t *codings, const psd_partition_t *map, uint32_t server, psd_err_t *err);

/* Keep weights in buffers of `new_buf(arg, n_bytes)` from now on; where that returns NULL, in those of psd_buf_new. Call it before
 * anything is sent. False when memory runs out. */
bool psd_shard_use(psd_shard_t *self, psd_buf_t *(*new_buf)(void *arg, size_t n_bytes), void *arg);

/* The passes that this shard makes before each step. */
const psd_passes_t *psd_shard_passes(const psd_shard_t *self);

/* Free it and set `*self_p` to NULL; weights still in flight live on until they are released. NULL is fine. */
void psd_shard_destroy(psd_shard_t **self_p);

/* Number of chunks; of parts; elements of a part, and its chunks: which is the first, and how many. */
uint32_t psd_shard_chunks(const psd_shard_t *self);
uint32_t psd_shard_parts(const psd_shard_t *self);
uint32_t psd_shard_elements(const psd_shard_t *self, uint32_t part);
uint32_t psd_shard_first(const psd_shard_t *self, uint32_t part);
uint32_t psd_shard_chunks_of(const psd_shard_t *self, uint32_t part);

/* What its tensors inherit from another job's optimizer, inherited[i] being tensor i's; NULL: all state is new. Borrowed for the
 * shard's life. Call it before initial values come. What a tensor's rule does not keep is left out. */
void psd_shard_inherit(psd_shard_t *self, const psd_inherited_t *inherited);

/* What a part begins with comes in arrays: 0 are its weights, s + 1 is slot s of each tensor that inherits it. Their number, at
 * least 1, and a part's elements of one, which may be none. */
uint32_t psd_shard_initial_arrays(const psd_shard_t *self);
uint32_t psd_shard_initial_elements(const psd_shard_t *self, uint32_t array, uint32_t part);

/* Begin a part with these initial weights, one per element. State that is not inherited is new: Lookahead's slow weights start
 * equal. Then its other arrays. */
void psd_shard_set(psd_shard_t *self, uint32_t part, const float *values);
void psd_shard_set_array(psd_shard_t *self, uint32_t array, uint32_t part, const float *values);

/* The part's weights; borrowed, take a reference to keep them. */
psd_buf_t *psd_shard_weights(const psd_shard_t *self, uint32_t part);

/* The same as sent: encoded once after each step, so that all receivers get the same bytes. Weights that the codec cannot encode,
 * because some are Inf or NaN, are sent in f32. */
typedef struct psd_shard_sent {
    psd_buf_t *payload; /* borrowed, likewise */
    uint32_t codec;     /* its number */
} psd_shard_sent_t;
psd_shard_sent_t psd_shard_sent(const psd_shard_t *self, uint32_t part);

/* A new buffer with the part's slow weights (for tensors without slow weights, the weights themselves). NULL without memory. */
psd_buf_t *psd_shard_slow(const psd_shard_t *self, uint32_t part);

/* Syncs of Lookahead so far, of the first tensor here that has it. */
uint64_t psd_shard_sync_epoch(const psd_shard_t *self);

/* A chunk's whole state, for a checkpoint: as a work preserved it, otherwise as it is now. Borrowed. */
typedef struct psd_shard_state {
    float *w;
    float *slot[PSD_MAX_SLOTS];
    psd_rule_state_t *state;
} psd_shard_state_t;
psd_shard_state_t psd_shard_state(psd_shard_t *self, uint32_t chunk);

/* Whether a work has preserved the part; drop the preserved copy, if there is one. */
bool psd_shard_is_kept(const psd_shard_t *self, uint32_t part);
void psd_shard_forget(psd_shard_t *self, uint32_t part);

/* Call it after the arrays and counters of all chunks were filled from a checkpoint. */
void psd_shard_filled(psd_shard_t *self, uint32_t part);

/* The part's work, with room for `capacity` contributions, everything else zero. Not while it is running. NULL without memory. */
psd_work_t *psd_shard_work(psd_shard_t *self, uint32_t part, uint32_t capacity);

/* Sums of contributions that were added up before their round was decided: the beginning of a round's mean, in double. The first
 * call makes room for them, once; false without memory. The second forgets them, while no work runs; a work made `onto` them has
 * forgotten those of its part. */
bool psd_shard_make_sums(psd_shard_t *self);
void psd_shard_forget_sums(psd_shard_t *self);

/* Make room, once, for steps that are made ahead of their rounds' decisions: as much memory again as the weights and their state.
 * False if there is none, or if a step here takes several passes. */
bool psd_shard_make_spare(psd_shard_t *self);

/* For a part whose last work was made ahead: its weights after that, as sent; and make the result the part's. */
psd_shard_sent_t psd_shard_ahead(const psd_shard_t *self, uint32_t part);
void psd_shard_adopt(psd_shard_t *self, uint32_t part);

/* The part's work as it was last made, for its next pass. */
psd_work_t *psd_shard_pending(psd_shard_t *self, uint32_t part);

/* Make the pass. A step sums the contributions and steps the optimizer, block by block, in one pass over memory; then it drops the
 * gradients. The first pass before a step puts their sum, bounded by value, in their place. Any thread. Weights that are still in
 * use (by a send in flight) are copied first, others are not. */
void psd_work_run(psd_work_t *work);
