/* lookahead.c - k steps forward, 1 step back (Zhang et al. 2019, arXiv 1907.08610), at every k-th update:
 *   slow <- slow + alpha (w - slow);   w <- slow
 * and, with pullback, for each first moment:  m <- alpha m + (1 - alpha) slow_m;   slow_m <- m
 * alpha = 1 is the inner optimizer and must stay so to the last bit, which slow + 1 (w - slow) would not. */
#include "common/optim/kernels/around.h"

void PSD_PER_ISA(psd_lookahead_sync)(float *restrict w, float *restrict slow, float alpha, size_t n)
{
    if (alpha == 1.0f) {
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            slow[i] = w[i];
        return;
    }
    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        slow[i] += alpha * (w[i] - slow[i]);
        w[i] = slow[i];
    }
}

void PSD_PER_ISA(psd_lookahead_pullback)(float *restrict m, float *restrict slow_m, float alpha, float rest, size_t n)
{
    if (alpha == 1.0f) {
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            slow_m[i] = m[i];
        return;
    }
    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        m[i] = alpha * m[i] + rest * slow_m[i];
        slow_m[i] = m[i];
    }
}
