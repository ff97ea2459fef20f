/* signum.c - the sign of the momentum (Bernstein et al. 2018, arXiv 1802.04434):
 *   m <- mu m + (1 - mu) g;   w <- (1 - lr wd) w - lr sign(m) */
#include "common/optim/kernels/kernel.h"

enum { LR, MOMENTUM, WEIGHT_DECAY };
enum { C_LR, C_MU, C_REST, C_KEEP };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_MU] = (float)hyper[MOMENTUM];
    coef[C_REST] = (float)(1.0 - hyper[MOMENTUM]);
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
}

static void step(const psd_step_t *s)
{
    const float lr = s->coef[C_LR], mu = s->coef[C_MU], rest = s->coef[C_REST], keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[0];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        m[i] = psd_mean(m[i], mu, rest, g[i]);
        w[i] = keep * w[i] - lr * psd_sign(m[i]);
    }
}

const psd_optimizer_t PSD_OPTIMIZER(signum) = {
    .name = "signum",
    .summary = "the sign of the momentum",
    .formula = "m = momentum*m + (1-momentum)*g; w *= 1-lr*wd; w -= lr*sign(m)",
    .paper = "Bernstein et al. 2018, arXiv 1802.04434",
    .advice = "As signsgd, with less noise: its momentum votes on the sign.",
    .hyper = { PSD_HYPER_LR(1e-4), PSD_HYPER_BETA("momentum", 0.9, "share of momentum kept per update"),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { { "momentum_buffer", PSD_SLOT_MOMENT } },
    .uncounted = true,
    .prepare = prepare,
    .step = step,
};
