/* signsgd.c - a step of fixed length per weight (Bernstein et al. 2018, arXiv 1802.04434):
 *   w <- (1 - lr wd) w - lr sign(g) */
#include "common/optim/kernels/kernel.h"

enum { LR, WEIGHT_DECAY };
enum { C_LR, C_KEEP };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
}

static void step(const psd_step_t *s)
{
    const float lr = s->coef[C_LR], keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w;

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++)
        w[i] = keep * w[i] - lr * psd_sign(g[i]);
}

const psd_optimizer_t PSD_OPTIMIZER(signsgd) = {
    .name = "signsgd",
    .summary = "a step of fixed length per weight",
    .formula = "w *= 1-lr*wd; w -= lr*sign(g)",
    .paper = "Bernstein et al. 2018, arXiv 1802.04434",
    .advice = "When nothing but the sign of a gradient can be trusted: heavy-tailed noise, or as a baseline for lion.",
    .hyper = { PSD_HYPER_LR(1e-4), PSD_HYPER_WEIGHT_DECAY(0) },
    .uncounted = true,
    .prepare = prepare,
    .step = step,
};
