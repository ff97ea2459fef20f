/* adagrad.c - a learning rate per weight, from the sum of its squared gradients (Duchi, Hazan, Singer 2011):
 *   g <- g + wd w
 *   G <- G + g^2
 *   w <- w - lr / (1 + (t-1) lr_decay) g / (sqrt(G) + eps) */
#include "common/optim/kernels/kernel.h"

enum { LR, LR_DECAY, INITIAL_ACCUMULATOR, EPS, WEIGHT_DECAY };
enum { C_LR, C_EPS, C_DECAY };

static float slot_start(const double *hyper, int slot)
{
    (void)slot;
    return (float)hyper[INITIAL_ACCUMULATOR];
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    coef[C_LR] = (float)(lr / (1.0 + (double)(t - 1) * hyper[LR_DECAY]));
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
}

PSD_LOOP run(const psd_step_t *s, bool decay)
{
    const float lr = s->coef[C_LR], eps = s->coef[C_EPS], wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict sum = s->slot[0];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = decay ? g[i] + wd * w[i] : g[i];
        sum[i] += gi * gi;
        w[i] -= lr * gi / (sqrtf(sum[i]) + eps);
    }
}

static void step(const psd_step_t *s)
{
    if (s->coef[C_DECAY] > 0)
        run(s, true);
    else
        run(s, false);
}

const psd_optimizer_t PSD_OPTIMIZER(adagrad) = {
    .name = "adagrad",
    .summary = "a learning rate per weight, shrinking with its gradients",
    .formula = "g += wd*w; G += g^2; w -= lr/(1+(t-1)*lr_decay) * g/(sqrt(G)+eps)",
    .paper = "Duchi, Hazan, Singer 2011",
    .advice =
        "For sparse or very unequal features (text, clicks, linear models). Its steps shrink for good, so long runs may stall.",
    .hyper = { PSD_HYPER_LR(0.01),
               { .name = "lr_decay", .max = 1e9, .help = "how fast the learning rate shrinks with t" },
               { .name = "initial_accumulator", .max = 1e9, .help = "what the sum of squares starts at" },
               PSD_HYPER_EPS(1e-10),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { { "sum", PSD_SLOT_SQUARES } },
    .slot_start = slot_start,
    .prepare = prepare,
    .step = step,
};
