/* lion.c - the sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675):
 *   w <- (1 - lr wd) w
 *   c = b1 m + (1 - b1) g
 *   w <- w - lr sign(c)
 *   m <- b2 m + (1 - b2) g
 * c sees the old m, and the two betas differ on purpose. */
#include "common/optim/kernels/kernel.h"

enum { LR, BETA1, BETA2, WEIGHT_DECAY };
enum { C_LR, C_BETA1, C_REST1, C_BETA2, C_REST2, C_KEEP };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_BETA1] = (float)hyper[BETA1];
    coef[C_REST1] = (float)(1.0 - hyper[BETA1]);
    coef[C_BETA2] = (float)hyper[BETA2];
    coef[C_REST2] = (float)(1.0 - hyper[BETA2]);
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
}

static void step(const psd_step_t *s)
{
    const float lr = s->coef[C_LR], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2],
                rest2 = s->coef[C_REST2], keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[0];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float c = psd_mean(m[i], b1, rest1, g[i]);
        w[i] = keep * w[i] - lr * psd_sign(c);
        m[i] = psd_mean(m[i], b2, rest2, g[i]);
    }
}

const psd_optimizer_t PSD_OPTIMIZER(lion) = {
    .name = "lion",
    .summary = "the sign of an interpolated momentum",
    .formula = "w *= 1-lr*wd; w -= lr*sign(b1*m + (1-b1)*g); m = b2*m + (1-b2)*g",
    .paper = "Chen et al. 2023, arXiv 2302.06675",
    .advice =
        "When memory is short: half of adam's state. Use a third to a tenth of adam's learning rate, and a larger weight decay.",
    .hyper = { PSD_HYPER_LR(1e-4), PSD_HYPER_BETA("beta1", 0.9, "share of momentum in the direction"),
               PSD_HYPER_BETA("beta2", 0.99, "share of momentum kept per update"), PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { { "exp_avg", PSD_SLOT_MOMENT } },
    .decay = PSD_DECAY_WEIGHTS,
    .uncounted = true,
    .prepare = prepare,
    .step = step,
};
