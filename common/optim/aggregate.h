/* aggregate.h - sums over gradients that come out the same on every machine: the weighted mean of a round, and the sum
 * of squares. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a round's gradients, each the mean over its worker's samples, are combined: the mean over all samples, the mean over the
 * workers that have samples, or the sum over these. */
typedef enum psd_reduce { PSD_REDUCE_MEAN_SAMPLES, PSD_REDUCE_MEAN_WORKERS, PSD_REDUCE_SUM } psd_reduce_t;

/* Find one by its name, "mean_samples", "mean_workers" or "sum"; false for any other word. And its name. */
bool psd_reduce_find(const char *name, psd_reduce_t *out);
const char *psd_reduce_name(psd_reduce_t how);

/* The weight, for psd_aggregate, of a gradient of `samples` samples among `n` of `total` samples together. */
double psd_reduce_weight(psd_reduce_t how, uint64_t samples, uint64_t total, uint32_t n);

/* The same where several rounds make one step (sync.accumulate), so that the number of samples is not known before the last of
 * them: the weight of a gradient in a sum in double, and what that sum is divided by when all `n` gradients, of `total` samples,
 * are in it. */
double psd_reduce_term(psd_reduce_t how, uint64_t samples);
double psd_reduce_divisor(psd_reduce_t how, uint64_t total, uint32_t n);

/* out[i] = (float)(weight[0] * g[0][i] + weight[1] * g[1][i] + ...), summed in double in this order (the order of ranks, not of
 * arrival), rounded once. Weights are those of psd_reduce_weight. A NULL g[k] adds nothing; if all are NULL, or k is 0, `out` is 0.
 * A single gradient of weight 1 is copied bit for bit. `out` overlaps no g[k]. Like a kernel, it gives the same bits on every
 * instruction set, and however the elements are cut into calls. */
void psd_aggregate(float *out, const float *const *g, const double *weight, size_t k, size_t n);

/* The same, continuing the sum in `acc` that psd_aggregate_add began in the same order: out[i] = (float)(acc[i] + weight[0] *
 * g[0][i] + ...). All g are there. `acc` is changed. The bits are those of psd_aggregate over all of them. */
void psd_aggregate_add(double *acc, const float *g, double weight, bool first, size_t n);
void psd_aggregate_onto(float *out, double *acc, const float *const *g, const double *weight, size_t k, size_t n);

/* out[i] = (float)(acc[i] / divisor): a sum of such terms, made by psd_aggregate_add, rounded once. */
void psd_aggregate_divide(float *out, const double *acc, double divisor, size_t n);

/* The sum of the squares of x[0..n), in double, added in a fixed order: the same bits on every instruction set. Squares
 * of floats cannot overflow a double, so the sum is finite exactly when every element is: the check for Inf and NaN
 * comes with it. */
double psd_sum_of_squares(const float *x, size_t n);

enum { PSD_AGGREGATE_TAKEN = 8 };

/* The mean of gradients that others may write to: out as psd_aggregate, and squares[k] the sum of squares of g[k], each float of
 * which is read once, so that both are of the same values. k is 2 to PSD_AGGREGATE_TAKEN; none is NULL. A `large` one bypasses the
 * cache. */
void psd_aggregate_taken(float *out, const float *const *g, const double *weight, double *squares, size_t k, bool large, size_t n);

/* The same of floats that are copied to `to`, each being read once: the sum is that of the copy even while another process writes
 * to x. A `large` copy bypasses the cache (common/base/copy.h). */
double psd_sum_of_squares_copied(float *to, const float *x, bool large, size_t n);
