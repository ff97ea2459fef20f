#include "common/optim/aggregate.h"

#include <assert.h>
#include <string.h>

#include "common/base/copy.h"
#include "common/base/lanes.h"
#include "common/optim/kernels/kernel.h"

void psd_aggregate(float *out, const float *const *g, const double *weight, size_t k, size_t n)
{
    /* The sums of a block stay in the first-level cache while the workers' gradients pass by. */
    enum { BLOCK = 1024 };
    double acc[BLOCK];
    const psd_isa_t *isa = psd_isa_active();
    size_t first = 0, last = k;
    while (first < k && !g[first])
        first++;
    while (last > first && !g[last - 1])
        last--;
    if (first == last) {
        memset(out, 0, n * sizeof *out);
        return;
    }
    if (first + 1 == last && weight[first] == 1.0) {
        memcpy(out, g[first], n * sizeof *out);
        return;
    }
    if (first + 2 == last) {
        isa->pair(out, g[first], weight[first], g[first + 1], weight[first + 1], n);
        return;
    }
    for (size_t from = 0; from < n; from += BLOCK) {
        const size_t count = n - from < BLOCK ? n - from : BLOCK;
        for (size_t i = first; i + 1 < last; i++)
            if (g[i])
                isa->accumulate(acc, g[i] + from, weight[i], i == first, count);
        isa->finish(out + from, acc, g[last - 1] + from, weight[last - 1], last - 1 == first, count);
    }
}

void psd_aggregate_add(double *acc, const float *g, double weight, bool first, size_t n)
{
    psd_isa_active()->accumulate(acc, g, weight, first, n);
}

void psd_aggregate_onto(float *out, double *acc, const float *const *g, const double *weight, size_t k, size_t n)
{
    enum { BLOCK = 1024 };
    const psd_isa_t *isa = psd_isa_active();
    for (size_t from = 0; from < n; from += BLOCK) {
        const size_t count = n - from < BLOCK ? n - from : BLOCK;
        for (size_t i = 0; i + 1 < k; i++)
            isa->accumulate(acc + from, g[i] + from, weight[i], false, count);
        if (k)
            isa->finish(out + from, acc + from, g[k - 1] + from, weight[k - 1], false, count);
        for (size_t j = 0; !k && j < count; j++)
            out[from + j] = (float)acc[from + j];
    }
}

void psd_aggregate_divide(float *out, const double *acc, double divisor, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(acc[i] / divisor);
}

double psd_sum_of_squares(const float *x, size_t n)
{
    psd_lanes_t sum = { 0 };
    psd_isa_active()->squares(sum, x, n);
    return psd_lanes_total(sum);
}

static bool may_stream(const float *to, bool large) { return large && (uintptr_t)to % 16 == 0; }

double psd_sum_of_squares_copied(float *to, const float *x, bool large, size_t n)
{
    psd_lanes_t sum = { 0 };
    psd_isa_active()->copied(sum, to, x, may_stream(to, large), n);
    return psd_lanes_total(sum);
}

void psd_aggregate_taken(float *out, const float *const *g, const double *weight, double *squares, size_t k, bool large, size_t n)
{
    enum { BLOCK = 1024 };
    assert(k >= 2 && k <= PSD_AGGREGATE_TAKEN);
    const psd_isa_t *isa = psd_isa_active();
    psd_lanes_t sum[PSD_AGGREGATE_TAKEN] = { { 0 } };
    if (k == 2)
        isa->taken(sum, out, g[0], weight[0], g[1], weight[1], may_stream(out, large), n);
    for (size_t from = 0, count; k > 2 && from < n; from += count) {
        float own[PSD_AGGREGATE_TAKEN][BLOCK], mean[BLOCK];
        const float *term[PSD_AGGREGATE_TAKEN];
        count = n - from < BLOCK ? n - from : BLOCK;
        for (size_t i = 0; i < k; i++) {
            isa->copied(sum[i], own[i], g[i] + from, false, count);
            term[i] = own[i];
        }
        psd_aggregate(mean, term, weight, k, count);
        psd_copy_large(out + from, mean, count * sizeof *mean, large);
    }
    for (size_t i = 0; i < k; i++)
        squares[i] = psd_lanes_total(sum[i]);
}

static const char *const names[] = {
    [PSD_REDUCE_MEAN_SAMPLES] = "mean_samples", [PSD_REDUCE_MEAN_WORKERS] = "mean_workers", [PSD_REDUCE_SUM] = "sum"
};

bool psd_reduce_find(const char *name, psd_reduce_t *out)
{
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (psd_reduce_t)i;
            return true;
        }
    return false;
}

const char *psd_reduce_name(psd_reduce_t how) { return names[how]; }

double psd_reduce_weight(psd_reduce_t how, uint64_t samples, uint64_t total, uint32_t n)
{
    if (how == PSD_REDUCE_MEAN_SAMPLES)
        return (double)samples / (double)total;
    if (!samples)
        return 0;
    return how == PSD_REDUCE_SUM ? 1.0 : 1.0 / n;
}

double psd_reduce_term(psd_reduce_t how, uint64_t samples)
{
    return how == PSD_REDUCE_MEAN_SAMPLES ? (double)samples : samples ? 1 : 0;
}

double psd_reduce_divisor(psd_reduce_t how, uint64_t total, uint32_t n)
{
    return how == PSD_REDUCE_MEAN_SAMPLES ? (double)total : how == PSD_REDUCE_MEAN_WORKERS ? n : 1;
}
