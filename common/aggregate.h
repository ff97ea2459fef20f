/* aggregate.h - the gradient of a synchronous round: the weighted mean of the workers' gradients. */
#pragma once

#include <stddef.h>

/* out[i] = (float)(weight[0] * g[0][i] + weight[1] * g[1][i] + ...), summed in double in this order (the
 * order of ranks, not of arrival), rounded once. Weights are n_k / N: worker k's samples over all samples of
 * the round. A NULL g[k] adds nothing; where all are NULL, or k is 0, `out` is 0. A single gradient of weight
 * 1 is copied bit for bit. `out` overlaps no g[k]. Like a kernel, it gives the same bits on every instruction
 * set, and however the elements are cut into calls. */
void psd_aggregate(float *out, const float *const *g, const double *weight, size_t k, size_t n);
