/* vote.c - the loops of Lion with a vote (common/optim/dlion.c). What both have in common with lion.c is written in the same way, so that
 * it gives the same bits. */
#include "common/optim/kernels/around.h"

void PSD_PER_ISA(psd_vote_cast)(float *restrict u, float *restrict m, const float *restrict g, const float coef[4], size_t n)
{
    const float b1 = coef[0], rest1 = coef[1], b2 = coef[2], rest2 = coef[3];
    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        u[i] = psd_sign(psd_mean(m[i], b1, rest1, g[i]));
        m[i] = psd_mean(m[i], b2, rest2, g[i]);
    }
}

void PSD_PER_ISA(psd_vote_count)(float *restrict d, const float *restrict u, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        d[i] += u[i];
}

void PSD_PER_ISA(psd_vote_majority)(float *d, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        d[i] = psd_sign(d[i]);
}

void PSD_PER_ISA(psd_vote_divide)(float *d, float by, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        d[i] = d[i] / by;
}

void PSD_PER_ISA(psd_vote_step)(float *restrict w, const float *restrict d, float lr, float keep, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        w[i] = keep * w[i] - lr * d[i];
}
