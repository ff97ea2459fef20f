/* sum.c - a weighted sum of gradients, in double, rounded once to float: see common/aggregate.c. */
#include "common/optim/around.h"

void PSD_PER_ISA(psd_sum_accumulate)(double *restrict acc, const float *restrict g, double weight, bool first,
                                     size_t n)
{
    if (first)
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            acc[i] = weight * (double)g[i];
    else
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            acc[i] += weight * (double)g[i];
}

void PSD_PER_ISA(psd_sum_finish)(float *restrict out, const double *restrict acc, const float *restrict g,
                                 double weight, bool first, size_t n)
{
    if (first)
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            out[i] = (float)(weight * (double)g[i]);
    else
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            out[i] = (float)(acc[i] + weight * (double)g[i]);
}
