/* whole.h - one step of a whole model in one process: what a cluster must equal, bit for bit, however the model is spread. */
#pragma once

#include "common/codec/codec.h"
#include "common/optim/clip.h"
#include "common/optim/optimizer.h"

typedef struct psd_whole {
    size_t n;                     /* elements of the tensor */
    float *w;                     /* weights, in place */
    float *const *slot;           /* as psd_rule_init made them, in place */
    psd_rule_state_t *state;      /* likewise */
    const float *const *gradient; /* of each contributor, in rank order; NULL: it has none for this tensor */
} psd_whole_t;

/* Step tensor[0..n_tensors) along the sum of `n_gradients` gradients with these weights (n_i / N, psd_aggregate), clipped. A
 * tensor for which nobody has a gradient is left alone. Aborts without memory. */
void psd_whole_step(const psd_rule_t *rule, const psd_clip_t *clip, const psd_whole_t *tensor, size_t n_tensors,
                    const double *weight, size_t n_gradients, double lr);

/* What arrives of a model's tensors when they are sent in `coding`: value[i] becomes, in place, what comes back of it, coded chunk by
 * chunk as a cluster does. residual[i] is what is lost of it, for the next time (0 at first); `residual` NULL: it is lost. NULL values:
 * there is no such tensor. A lossless coding changes nothing, nor does one that cannot say all of a chunk that chunk. False when
 * there was one that it cannot say: with residuals nothing has changed then. Aborts without memory. */
bool psd_whole_code(const psd_coding_t *coding, const uint64_t *size, size_t n_tensors, float *const *value,
                    float *const *residual);
