/* adopt.c - adam that divides by the second moment before it sees this step's gradient (Taniguchi et al. 2024, arXiv 2411.02853),
 * with the authors' clipping of November 2024:
 *   g <- g + wd w or, decoupled, w <- (1 - lr wd) w
 *   first update: v <- g^2, and nothing else, not even the decay
 *   later: q = g / max(sqrt(v), eps), of the old v
 *          clip: q within +-(t - 1)^(1/4)
 *          m <- b1 m + (1 - b1) q
 *          w <- w - lr m
 *          v <- b2 v + (1 - b2) g^2
 * There is no bias correction, and eps is a floor. */
#include "common/optim/kernels/kernel.h"

enum { LR, BETA1, BETA2, EPS, CLIP, DECOUPLED, WEIGHT_DECAY };
enum { C_LR, C_BETA1, C_REST1, C_BETA2, C_REST2, C_EPS, C_CLIP, C_L2, C_KEEP, C_FIRST };
enum { EXP_AVG, EXP_AVG_SQ };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    const bool decoupled = hyper[DECOUPLED] > 0;
    coef[C_LR] = (float)lr;
    coef[C_BETA1] = (float)hyper[BETA1];
    coef[C_REST1] = (float)(1.0 - hyper[BETA1]);
    coef[C_BETA2] = (float)hyper[BETA2];
    coef[C_REST2] = (float)(1.0 - hyper[BETA2]);
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_CLIP] = hyper[CLIP] > 0 ? (float)sqrt(sqrt((double)(t - 1))) : INFINITY;
    coef[C_L2] = (float)(decoupled ? 0.0 : hyper[WEIGHT_DECAY]);
    coef[C_KEEP] = (float)(decoupled ? 1.0 - lr * hyper[WEIGHT_DECAY] : 1.0);
    coef[C_FIRST] = t == 1 ? 1.0f : 0.0f;
}

PSD_LOOP run(const psd_step_t *s, bool l2, bool first)
{
    const float lr = s->coef[C_LR], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2],
                rest2 = s->coef[C_REST2], eps = s->coef[C_EPS], most = s->coef[C_CLIP], wd = s->coef[C_L2], keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = l2 ? g[i] + wd * w[i] : g[i];
        if (first) {
            v[i] = gi * gi;
            continue;
        }
        const float root = sqrtf(v[i]);
        float q = gi / (root > eps ? root : eps);
        q = q > most ? most : q;
        q = q < -most ? -most : q;
        m[i] = psd_mean(m[i], b1, rest1, q);
        w[i] = keep * w[i] - lr * m[i];
        v[i] = psd_mean_sq(v[i], b2, rest2, gi);
    }
}

static void step(const psd_step_t *s)
{
    const bool l2 = s->coef[C_L2] > 0, first = s->coef[C_FIRST] > 0;
    if (l2 && first)
        run(s, true, true);
    else if (l2)
        run(s, true, false);
    else if (first)
        run(s, false, true);
    else
        run(s, false, false);
}

const psd_optimizer_t PSD_OPTIMIZER(adopt) = {
    .name = "adopt",
    .summary = "adam that divides by the second moment of the steps before",
    .formula =
        "g += wd*w (decoupled: w *= 1-lr*wd); first v = g^2 and no step; then q = g/max(sqrt(v),eps) within +-(t-1)^0.25; m = "
        "b1*m + (1-b1)*q; w -= lr*m; v = b2*v + (1-b2)*g^2",
    .paper = "Taniguchi et al. 2024, arXiv 2411.02853",
    .advice = "Like adam, for use where a large beta2 makes adam unstable, as with noisy gradients of small batches: adopt "
              "converges with "
              "any beta2.",
    .hyper = { PSD_HYPER_LR(0.001), PSD_HYPER_BETA1(0.9), PSD_HYPER_BETA2(0.9999), PSD_HYPER_EPS(1e-6),
               PSD_HYPER_FLAG("clip", 1, "bound the normalised gradient by the fourth root of the steps made"),
               PSD_HYPER_FLAG("decoupled", 0, "decay the weights, not the gradient"), PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [EXP_AVG] = { "exp_avg", PSD_SLOT_MOMENT }, [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES } },
    .prepare = prepare,
    .step = step,
};
