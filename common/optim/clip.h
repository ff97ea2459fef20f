/* clip.h - the bounds that the summed gradient of a round is kept within (clip.value, clip.norm), in torch's form
 * (torch.nn.utils, clip_grad_value_ and clip_grad_norm_): by value first, element by element; then by the Euclidean norm of all
 * tensors of the model together. Clipping each worker's gradient would be another algorithm. */
#pragma once

#include <stddef.h>

typedef struct psd_clip {
    double value; /* elements beyond -value and value become that bound; 0: no bound */
    double norm;  /* a longer gradient is shortened to this; 0: no bound */
} psd_clip_t;

/* Bound g[0..n) by value, in place. NaN stays NaN. The same bits on every instruction set. */
void psd_clip_by_value(const psd_clip_t *self, float *g, size_t n);

/* The factor on all of a gradient whose elements, bounded by value, have this sum of squares:
 * min(1, norm / (sqrt(sum) + 1e-6)), in double, rounded once. 1 without a bound. */
float psd_clip_scale(const psd_clip_t *self, double sum_of_squares);

/* The sum of squares of g[0..n) after it is bounded by value; finite exactly when every element is. In double, added in a fixed
 * order. */
double psd_clip_sum_of_squares(const psd_clip_t *self, const float *g, size_t n);
