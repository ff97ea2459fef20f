/* sum.c - a weighted sum of gradients, in double, rounded once to float (common/optim/aggregate.c), and its bounds
 * (common/optim/clip.c). */
#include "common/optim/kernels/around.h"

void PSD_PER_ISA(psd_sum_accumulate)(double *restrict acc, const float *restrict g, double weight, bool first, size_t n)
{
    if (first)
        PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        acc[i] = weight * (double)g[i];
    else PSD_VECTOR for (size_t i = 0; i < n; i++) acc[i] += weight * (double)g[i];
}

void PSD_PER_ISA(psd_sum_finish)(float *restrict out, const double *restrict acc, const float *restrict g, double weight,
                                 bool first, size_t n)
{
    if (first)
        PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(weight * (double)g[i]);
    else PSD_VECTOR for (size_t i = 0; i < n; i++) out[i] = (float)(acc[i] + weight * (double)g[i]);
}

void PSD_PER_ISA(psd_sum_clamp)(float *restrict x, float c, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        const float low = x[i] < -c ? -c : x[i];
        x[i] = low > c ? c : low;
    }
}

void PSD_PER_ISA(psd_sum_scale)(float *out, const float *x, float factor, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = factor * x[i];
}

/* Sixteen running sums: the order of additions does not depend on the width of a register, and there are enough of them
 * to keep the adders busy. */
void PSD_PER_ISA(psd_sum_squares)(double *restrict sum, const float *restrict x, size_t n)
{
    double s[16];
    for (size_t j = 0; j < 16; j++)
        s[j] = sum[j];
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            s[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++)
        s[i % 16] += (double)x[i] * (double)x[i];
    for (size_t j = 0; j < 16; j++)
        sum[j] = s[j];
}

void PSD_PER_ISA(psd_sum_distance)(double *restrict sum, const float *restrict x, const float *restrict y, size_t n)
{
    double s[16];
    for (size_t j = 0; j < 16; j++)
        s[j] = sum[j];
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            s[j] += ((double)x[i + j] - (double)y[i + j]) * ((double)x[i + j] - (double)y[i + j]);
    for (; i < n; i++)
        s[i % 16] += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    for (size_t j = 0; j < 16; j++)
        sum[j] = s[j];
}

/* Counters are as wide as the elements, so that they fill registers alike. */
size_t PSD_PER_ISA(psd_sum_zeros)(const float *restrict x, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += x[i] == 0.0f;
    return count;
}

size_t PSD_PER_ISA(psd_sum_reach)(const float *restrict x, float bound, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += fabsf(x[i]) >= bound;
    return count;
}
