/* around.h - the kernels that stand around an optimizer: see psd_isa_t for what each does. */
#pragma once

#include "common/optim/kernels/kernel.h"

void PSD_PER_ISA(psd_lookahead_sync)(float *w, float *slow, float alpha, size_t n);
void PSD_PER_ISA(psd_lookahead_pullback)(float *m, float *slow_m, float alpha, float rest, size_t n);
void PSD_PER_ISA(psd_cautious_gradient)(float *out, const float *g, const float *w, float l2, size_t n);
void PSD_PER_ISA(psd_cautious_step)(float *w, const float *z, const float *g, float keep, float factor, size_t n);
size_t PSD_PER_ISA(psd_cautious_count)(const float *z, const float *g, size_t n);
void PSD_PER_ISA(psd_sum_accumulate)(double *acc, const float *g, double weight, bool first, size_t n);
void PSD_PER_ISA(psd_sum_pair)(float *restrict out, const float *restrict g, double of_g, const float *restrict h, double of_h,
                               size_t n);
void PSD_PER_ISA(psd_sum_finish)(float *out, const double *acc, const float *g, double weight, bool first, size_t n);
void PSD_PER_ISA(psd_sum_clamp)(float *x, float c, size_t n);
void PSD_PER_ISA(psd_sum_scale)(float *out, const float *x, float factor, size_t n);
void PSD_PER_ISA(psd_sum_squares)(double *restrict sum, const float *restrict x, size_t n);
void PSD_PER_ISA(psd_sum_copied)(double *restrict sum, float *restrict to, const float *restrict x, bool streams, size_t n);
void PSD_PER_ISA(psd_sum_taken)(double of_squares[2][16], float *restrict out, const float *restrict g, double of_g,
                                const float *restrict h, double of_h, bool streams, size_t n);
void PSD_PER_ISA(psd_sum_distance)(double *restrict sum, const float *restrict x, const float *restrict y, size_t n);
size_t PSD_PER_ISA(psd_sum_zeros)(const float *restrict x, size_t n);
size_t PSD_PER_ISA(psd_sum_reach)(const float *restrict x, float bound, size_t n);
