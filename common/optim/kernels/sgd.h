/* sgd.h - the rule that sgd, momentum and nesterov share; they differ only in their defaults. */
#pragma once

#include "common/optim/kernels/kernel.h"

unsigned PSD_PER_ISA(psd_sgd_slots_used)(const double *hyper);
int PSD_PER_ISA(psd_sgd_check)(const double *hyper, psd_err_t *err);
void PSD_PER_ISA(psd_sgd_prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef);
void PSD_PER_ISA(psd_sgd_step)(const psd_step_t *s);

/* The row of one of them: its words, and its default momentum and nesterov. */
#define PSD_SGD_ROW(key, text, mathematics, source, when, mu, look_ahead)                                                          \
    {                                                                                                                              \
        .name = key, .summary = text, .formula = mathematics, .paper = source, .advice = when,                                     \
        .hyper = { PSD_HYPER_LR(0.01),                                                                                             \
                   { .name = "momentum", .def = mu, .max = 1, .help = "share of the velocity kept per update" },                   \
                   { .name = "dampening", .max = 1, .help = "share of the gradient kept out of the velocity" },                    \
                   PSD_HYPER_FLAG("nesterov", look_ahead, "look one velocity ahead"),                                              \
                   PSD_HYPER_WEIGHT_DECAY(0) },                                                                                    \
        .slots = { { "momentum_buffer", PSD_SLOT_MOMENT } }, .uncounted = true, .slots_used = PSD_PER_ISA(psd_sgd_slots_used),     \
        .check = PSD_PER_ISA(psd_sgd_check), .prepare = PSD_PER_ISA(psd_sgd_prepare), .step = PSD_PER_ISA(psd_sgd_step),           \
        .decay = PSD_DECAY_L2,                                                                                                     \
    }
