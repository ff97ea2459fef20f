/* feedback.h - the kernels of error feedback: see psd_isa_t for what each does. */
#pragma once

#include "common/optim/kernels/kernel.h"

bool PSD_PER_ISA(psd_feedback_is_finite)(const float *g, const float *residual, size_t n);
void PSD_PER_ISA(psd_feedback_add)(float *y, const float *g, const float *residual, size_t n);
void PSD_PER_ISA(psd_feedback_take)(float *residual, const float *y, const float *q, size_t n);
