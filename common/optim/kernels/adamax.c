/* adamax.c - adam with the largest recent gradient in place of the mean square (Kingma, Ba 2015, arXiv 1412.6980):
 *   g <- g + wd w
 *   m <- b1 m + (1 - b1) g
 *   u <- max(b2 u, |g| + eps)
 *   w <- w - lr/(1 - b1^t) m/u */
#include "common/optim/kernels/kernel.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY };
enum { C_STEP, C_BETA1, C_REST1, C_BETA2, C_EPS, C_DECAY };
enum { EXP_AVG, EXP_INF };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    coef[C_STEP] = (float)(lr / (1.0 - psd_power(hyper[BETA1], t)));
    coef[C_BETA1] = (float)hyper[BETA1];
    coef[C_REST1] = (float)(1.0 - hyper[BETA1]);
    coef[C_BETA2] = (float)hyper[BETA2];
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
}

PSD_LOOP run(const psd_step_t *s, bool decay)
{
    const float lr = s->coef[C_STEP], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2], eps = s->coef[C_EPS],
                wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict u = s->slot[EXP_INF];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = decay ? g[i] + wd * w[i] : g[i];
        m[i] = psd_mean(m[i], b1, rest1, gi);
        const float before = b2 * u[i], now = fabsf(gi) + eps;
        u[i] = before > now ? before : now;
        w[i] -= lr * m[i] / u[i];
    }
}

static void step(const psd_step_t *s)
{
    if (s->coef[C_DECAY] > 0)
        run(s, true);
    else
        run(s, false);
}

const psd_optimizer_t PSD_OPTIMIZER(adamax) = {
    .name = "adamax",
    .summary = "adam scaled by the largest recent gradient",
    .formula = "g += wd*w; m = b1*m + (1-b1)*g; u = max(b2*u, |g|+eps); w -= lr/(1-b1^t) * m/u",
    .paper = "Kingma, Ba 2015, arXiv 1412.6980",
    .advice = "Like adam, for use when single large gradients upset it: embeddings, rare features.",
    .hyper = { PSD_HYPER_LR(0.002), PSD_HYPER_BETA1(0.9),
               PSD_HYPER_BETA("beta2", 0.999, "share of the largest gradient kept per update"), PSD_HYPER_EPS(1e-8),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [EXP_AVG] = { "exp_avg", PSD_SLOT_MOMENT }, [EXP_INF] = { "exp_inf", PSD_SLOT_SQUARES } },
    .prepare = prepare,
    .step = step,
};
