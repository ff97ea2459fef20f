/* around.h - the kernels that stand around an optimizer: see psd_isa_t for what each does. */
#pragma once

#include "common/optim/kernels/kernel.h"

void PSD_PER_ISA(psd_lookahead_sync)(float *w, float *slow, float alpha, size_t n);
void PSD_PER_ISA(psd_lookahead_pullback)(float *m, float *slow_m, float alpha, float rest, size_t n);
void PSD_PER_ISA(psd_sum_accumulate)(double *acc, const float *g, double weight, bool first, size_t n);
void PSD_PER_ISA(psd_sum_finish)(float *out, const double *acc, const float *g, double weight, bool first, size_t n);
void PSD_PER_ISA(psd_sum_clamp)(float *x, float c, size_t n);
void PSD_PER_ISA(psd_sum_scale)(float *out, const float *x, float factor, size_t n);
void PSD_PER_ISA(psd_sum_squares)(double *restrict sum, const float *restrict x, size_t n);
void PSD_PER_ISA(psd_vote_cast)(float *restrict u, float *restrict m, const float *restrict g, const float coef[4], size_t n);
void PSD_PER_ISA(psd_vote_count)(float *restrict d, const float *restrict u, size_t n);
void PSD_PER_ISA(psd_vote_majority)(float *d, size_t n);
void PSD_PER_ISA(psd_vote_divide)(float *d, float by, size_t n);
void PSD_PER_ISA(psd_vote_step)(float *restrict w, const float *restrict d, float lr, float keep, size_t n);
