/* adadelta.c - steps in the units of the weights, without a learning rate to choose (Zeiler 2012, arXiv 1212.5701):
 *   g <- g + wd w
 *   v <- rho v + (1 - rho) g^2
 *   d = sqrt(u + eps) / sqrt(v + eps) g
 *   u <- rho u + (1 - rho) d^2
 *   w <- w - lr d */
#include "common/optim/kernels/kernel.h"

enum { LR, RHO, EPS, WEIGHT_DECAY };
enum { C_LR, C_RHO, C_REST, C_EPS, C_DECAY };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_RHO] = (float)hyper[RHO];
    coef[C_REST] = (float)(1.0 - hyper[RHO]);
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
}

PSD_LOOP run(const psd_step_t *s, bool decay)
{
    const float lr = s->coef[C_LR], rho = s->coef[C_RHO], rest = s->coef[C_REST], eps = s->coef[C_EPS], wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict v = s->slot[0], *restrict u = s->slot[1];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = decay ? g[i] + wd * w[i] : g[i];
        v[i] = psd_mean_sq(v[i], rho, rest, gi);
        const float d = sqrtf(u[i] + eps) / sqrtf(v[i] + eps) * gi;
        u[i] = psd_mean_sq(u[i], rho, rest, d);
        w[i] -= lr * d;
    }
}

static void step(const psd_step_t *s)
{
    if (s->coef[C_DECAY] > 0)
        run(s, true);
    else
        run(s, false);
}

const psd_optimizer_t PSD_OPTIMIZER(adadelta) = {
    .name = "adadelta",
    .summary = "steps in the units of the weights; lr is a multiplier",
    .formula = "g += wd*w; v = rho*v + (1-rho)*g^2; d = sqrt(u+eps)/sqrt(v+eps)*g; u = rho*u + (1-rho)*d^2; "
               "w -= lr*d",
    .paper = "Zeiler 2012, arXiv 1212.5701",
    .advice = "When you do not want to choose a learning rate at all: 1 is usually fine. Seldom the fastest.",
    .hyper = { PSD_HYPER_LR(1.0),
               { .name = "rho", .def = 0.9, .max = 1, .help = "share of both mean squares kept per update" },
               PSD_HYPER_EPS(1e-6),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { { "square_avg", PSD_SLOT_SQUARES }, { "acc_delta", PSD_SLOT_SQUARES } },
    .prepare = prepare,
    .step = step,
};
