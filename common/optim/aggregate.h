/* aggregate.h - sums over gradients that come out the same on every machine: the weighted mean of a round, and the sum
 * of squares. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* out[i] = (float)(weight[0] * g[0][i] + weight[1] * g[1][i] + ...), summed in double in this order (the
 * order of ranks, not of arrival), rounded once. Weights are n_k / N: worker k's samples over all samples of
 * the round. A NULL g[k] adds nothing; where all are NULL, or k is 0, `out` is 0. A single gradient of weight
 * 1 is copied bit for bit. `out` overlaps no g[k]. Like a kernel, it gives the same bits on every instruction
 * set, and however the elements are cut into calls. */
void psd_aggregate(float *out, const float *const *g, const double *weight, size_t k, size_t n);

/* The same where a beginning of the sum is in `acc`, made by psd_aggregate_add in the same order: out[i] = (float)(acc[i] + weight[0] *
 * g[0][i] + ...). All g are there. `acc` is changed. The bits are those of psd_aggregate over all of them. */
void psd_aggregate_add(double *acc, const float *g, double weight, bool first, size_t n);
void psd_aggregate_onto(float *out, double *acc, const float *const *g, const double *weight, size_t k, size_t n);

/* The sum of the squares of x[0..n), in double, added in a fixed order: the same bits on every instruction set. Squares
 * of floats cannot overflow a double, so the sum is finite exactly when every element is: the check for Inf and NaN
 * comes with it. */
double psd_sum_of_squares(const float *x, size_t n);
