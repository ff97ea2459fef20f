/* whole.h - one step of a whole model in one process: what a cluster must equal, bit for bit, however the model is spread. */
#pragma once

#include "common/codec/codec.h"
#include "common/optim/clip.h"
#include "common/optim/groups.h"
#include "common/optim/optimizer.h"

typedef struct psd_whole {
    size_t n;                     /* elements of the tensor */
    uint8_t group;                /* which it is of */
    float *w;                     /* weights, in place */
    float *const *slot;           /* as psd_rule_init made them, in place */
    psd_rule_state_t *state;      /* likewise */
    const float *const *gradient; /* of each contributor, in rank order; NULL: it has none for this tensor */
    psd_shape_t shape;            /* heeded by rules that need the whole tensor */
} psd_whole_t;

/* Step tensor[0..n_tensors) along the sum of `n_gradients` gradients, or votes, with these weights (n_i / N, psd_rule_sum),
 * clipped, each with its group's rule and rate lr[group]. With a `divisor` that is not 0 the gradients are those of several rounds,
 * in their order, the weights those of psd_reduce_term, and the sum is divided by it. A tensor that is frozen, or without a
 * gradient, is left alone. Aborts without memory. */
void psd_whole_step(const psd_groups_t *groups, const psd_clip_t *clip, const psd_whole_t *tensor, size_t n_tensors,
                    const double *weight, size_t n_gradients, double divisor, const double *lr);

/* What arrives of a model's tensors when they are sent in `coding`: value[i] becomes, in place, what comes back of it, coded
 * chunk by chunk as a cluster does. residual[i] is what is lost of it, for the next time (0 at first); `residual` NULL: it is
 * lost. NULL values: there is no such tensor. A lossless coding changes nothing, nor does one that cannot say all of a chunk
 * that chunk. False when there was one that it cannot say: with residuals nothing has changed then. Aborts without memory. */
bool psd_whole_code(const psd_coding_t *coding, const uint64_t *size, size_t n_tensors, float *const *value,
                    float *const *residual);

/* What arrives of a worker's gradients: as psd_whole_code() with kept[i] as residuals or, where the rule has workers vote, the
 * votes, kept[i] being what the worker keeps for them (0 at first). False when there is a gradient that is not finite, or that
 * the coding cannot say: nothing has changed then. */
bool psd_whole_send(const psd_rule_t *rule, const psd_coding_t *coding, const uint64_t *size, size_t n_tensors, float *const *value,
                    float *const *kept);
