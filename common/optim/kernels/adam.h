/* adam.h - the rule that adam and adamw share; they differ in where weight decay goes, and in its default. */
#pragma once

#include "common/optim/kernels/kernel.h"

unsigned PSD_PER_ISA(psd_adam_slots_used)(const double *hyper);
void PSD_PER_ISA(psd_adam_prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef);
void PSD_PER_ISA(psd_adamw_prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef);
void PSD_PER_ISA(psd_adam_step)(const psd_step_t *s);

#define PSD_ADAM_ROW(key, text, mathematics, source, when, wd, how, acts)                                                          \
    {                                                                                                                              \
        .name = key, .summary = text, .formula = mathematics, .paper = source, .advice = when,                                     \
        .hyper = { PSD_HYPER_LR(0.001), PSD_HYPER_BETA1(0.9),       PSD_HYPER_BETA2(0.999),                                        \
                   PSD_HYPER_EPS(1e-8), PSD_HYPER_WEIGHT_DECAY(wd), PSD_HYPER_FLAG("amsgrad", 0, "never forget a large square") }, \
        .slots = { { "exp_avg", PSD_SLOT_MOMENT }, { "exp_avg_sq", PSD_SLOT_SQUARES }, { "max_exp_avg_sq", PSD_SLOT_SQUARES } },   \
        .slots_used = PSD_PER_ISA(psd_adam_slots_used), .prepare = PSD_PER_ISA(how), .step = PSD_PER_ISA(psd_adam_step),           \
        .decay = acts,                                                                                                             \
    }
