/* shard.h - one server's chunks: their weights, the optimizer state that trains them, and one step of one part, which is a run of
 * chunks (common/base/partition.h). It knows nothing of sockets, clocks or rounds. Parts are independent: any number may be
 * stepped side by side, each by one thread at a time. */
#pragma once

#include <stdbool.h>

#include "common/base/buffer.h"
#include "common/codec/codec.h"
#include "common/optim/optimizer.h"
#include "common/base/partition.h"
#include "common/optim/passes.h"

typedef struct psd_shard psd_shard_t;

/* One pass over one part, ready to run: all that a thread needs, so that nothing is shared while it runs. A step is one
 * pass, unless its rule or clipping asks for others before it (common/optim/passes.h): these change neither weights nor state. */
typedef struct psd_work {
    psd_shard_t *shard;
    uint32_t part;
    int pass;             /* which of the shard's passes; from their number on, the step */
    uint32_t n_gradients; /* contributions in rank order; a chunk of which nobody had a gradient is left alone */
    psd_buf_t **gradient; /* n_gradients payloads in the coding of pushes (proto/coded.h), checked; the work holds references, and
                             drops them when the step has run */
    double *weight;       /* n_i / N of each, summed in double in this order, rounded once */
    bool folds;           /* no pass: the contributions are added to the part's sums, before those that come later, and dropped */
    bool onto;            /* the part's sums, if it has any, are the beginning of the mean: the contributions come after them */
    bool is_bounded;      /* there is one gradient, which is the sum, in f32, bounded by value */
    double lr;            /* learning rate of this step */
    double momentum;      /* its momentum; NaN: the rule's own */
    float scale;          /* on the summed gradient, where that is known from elsewhere than a pass; 1 for none */
    const double *total[PSD_MAX_PASSES]; /* what the passes before have found, of the model or of its first tensor; borrowed */
    size_t stride[PSD_MAX_PASSES];       /* doubles from one tensor's to the next; 0: they are of the model */
    uint32_t capacity;                   /* room in `gradient` and `weight` */
    bool sums;                           /* have the step sum the weights for the wire, where it has them at hand */
    bool preserve;                       /* keep a copy of the part as it is before this step, for a checkpoint */
    double *sum;                         /* where a pass before the step puts its terms, chunk after chunk; borrowed */
    float clipped; /* set by the run of the step: the factor that the gradient was clipped by; 1: it was not */
} psd_work_t;

/* Chunks of server `server` in `map`, all weights 0 until psd_shard_set; gradients come, and weights leave, in these codings. `map`
 * is borrowed for the shard's life. NULL, with `err` set, when memory runs out. */
psd_shard_t *psd_shard_new(const psd_rule_t *rule, const psd_clip_t *clip, const psd_codings_t *codings, const psd_partition_t *map,
                           uint32_t server, psd_err_t *err);

/* Where weights lie from now on: `new_buf(arg, n_bytes)` makes their buffers, NULL where it cannot, which then come from
 * psd_buf_new. Before anything is sent. False when memory runs out. */
bool psd_shard_use(psd_shard_t *self, psd_buf_t *(*new_buf)(void *arg, size_t n_bytes), void *arg);

/* Its rule. */
const psd_rule_t *psd_shard_rule(const psd_shard_t *self);

/* The passes that a step of this shard makes before it moves an element. */
const psd_passes_t *psd_shard_passes(const psd_shard_t *self);

/* Free it and set `*self_p` to NULL; weights still in flight live on until they are released. NULL is fine. */
void psd_shard_destroy(psd_shard_t **self_p);

/* Number of chunks; of parts; elements of a part, and its chunks: which is the first, and how many. */
uint32_t psd_shard_chunks(const psd_shard_t *self);
uint32_t psd_shard_parts(const psd_shard_t *self);
uint32_t psd_shard_elements(const psd_shard_t *self, uint32_t part);
uint32_t psd_shard_first(const psd_shard_t *self, uint32_t part);
uint32_t psd_shard_chunks_of(const psd_shard_t *self, uint32_t part);

/* Begin a part with these initial values (its number of elements of them). Lookahead's slow weights start equal. */
void psd_shard_set(psd_shard_t *self, uint32_t part, const float *values);

/* The part's weights; borrowed, take a reference to keep them. */
psd_buf_t *psd_shard_weights(const psd_shard_t *self, uint32_t part);

/* The same as they are sent: coded once after each step, so that whoever gets them gets the same bytes. Weights that the code
 * cannot say, because some are Inf or NaN, leave in f32. */
typedef struct psd_shard_sent {
    psd_buf_t *payload; /* borrowed, likewise */
    uint32_t codec;     /* its number */
} psd_shard_sent_t;
psd_shard_sent_t psd_shard_sent(const psd_shard_t *self, uint32_t part);

/* A new buffer with the part's slow weights (the weights themselves without Lookahead). NULL without memory. */
psd_buf_t *psd_shard_slow(const psd_shard_t *self, uint32_t part);

/* Syncs of Lookahead so far, of the tensor of chunk `chunk`. */
uint64_t psd_shard_sync_epoch(const psd_shard_t *self, uint32_t chunk);

/* A chunk's whole state, for a checkpoint: as it was when a work preserved it, else as it is. Borrowed. */
typedef struct psd_shard_state {
    float *w;
    float *slot[PSD_MAX_SLOTS];
    psd_rule_state_t *state;
} psd_shard_state_t;
psd_shard_state_t psd_shard_state(psd_shard_t *self, uint32_t chunk);

/* Whether a work has preserved the part; drop what it has, and nothing preserved is fine. */
bool psd_shard_is_kept(const psd_shard_t *self, uint32_t part);
void psd_shard_forget(psd_shard_t *self, uint32_t part);

/* After the arrays and counters of all its chunks were filled from a checkpoint. */
void psd_shard_filled(psd_shard_t *self, uint32_t part);

/* The part's work, with room for `capacity` contributions, all else zero. Not while it is running. NULL without memory. */
psd_work_t *psd_shard_work(psd_shard_t *self, uint32_t part, uint32_t capacity);

/* Sums of contributions that were added up before their round was decided: the beginning of the mean of a round, in double. Make room for
 * them, once; false without memory. Forget all that is in them, while no work runs; one that was made `onto` them has forgotten those of
 * its part. */
bool psd_shard_make_sums(psd_shard_t *self);
void psd_shard_forget_sums(psd_shard_t *self);

/* The part's work as it was last made, for its next pass. */
psd_work_t *psd_shard_pending(psd_shard_t *self, uint32_t part);

/* Make the pass. A step sums the contributions and steps the optimizer, block by block, in one pass over memory; then it
 * drops the gradients. The first pass before a step puts their sum, bounded by value, in their place. Any thread. Weights that somebody still holds (a send in flight) are copied first, and only then. */
void psd_work_run(psd_work_t *work);
