/* radam.c - adam that trusts its second moment only once it has seen enough (Liu et al. 2020, arXiv 1908.03265), in torch's form:
 *   g <- g + wd w or, decoupled, w <- (1 - lr wd) w
 *   m, v as adam
 *   rinf = 2/(1 - b2) - 1
 *   rho = rinf - 2 t b2^t/(1 - b2^t)
 *   rho > 5:  r = sqrt((rho-4)(rho-2) rinf / ((rinf-4)(rinf-2) rho))
 *             w <- w - lr/(1 - b1^t) r sqrt(1 - b2^t) m/(sqrt(v) + eps)
 *   else:     w <- w - lr/(1 - b1^t) m
 * rho is a difference of near-equal numbers: in float it would be wrong, and so on the wrong side of 5. */
#include "common/optim/kernels/kernel.h"

enum { LR, BETA1, BETA2, EPS, DECOUPLED, WEIGHT_DECAY };
enum { C_STEP, C_BETA1, C_REST1, C_BETA2, C_REST2, C_EPS, C_L2, C_KEEP, C_RECTIFIED };
enum { EXP_AVG, EXP_AVG_SQ };

/* r sqrt(1 - b2^t), or 0 while the second moment is not to be trusted. */
static double rectification(double b2, uint64_t t)
{
    const double power = psd_power(b2, t), rinf = 2.0 / (1.0 - b2) - 1.0;
    const double rho = rinf - 2.0 * (double)t * power / (1.0 - power);
    if (rho <= 5.0)
        return 0.0;
    return sqrt((rho - 4.0) * (rho - 2.0) * rinf / ((rinf - 4.0) * (rinf - 2.0) * rho)) * sqrt(1.0 - power);
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    const double b1 = hyper[BETA1], b2 = hyper[BETA2], decay = hyper[WEIGHT_DECAY];
    const bool decoupled = hyper[DECOUPLED] > 0;
    const double trust = rectification(b2, t), unrectified = lr / (1.0 - psd_power(b1, t));
    coef[C_RECTIFIED] = trust > 0 ? 1.0f : 0.0f;
    coef[C_STEP] = (float)(trust > 0 ? unrectified * trust : unrectified);
    coef[C_BETA1] = (float)b1;
    coef[C_REST1] = (float)(1.0 - b1);
    coef[C_BETA2] = (float)b2;
    coef[C_REST2] = (float)(1.0 - b2);
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_L2] = (float)(decoupled ? 0.0 : decay);
    coef[C_KEEP] = (float)(decoupled ? 1.0 - lr * decay : 1.0);
}

PSD_LOOP run(const psd_step_t *s, bool l2, bool rectified)
{
    const float lr = s->coef[C_STEP], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2],
                rest2 = s->coef[C_REST2], eps = s->coef[C_EPS], wd = s->coef[C_L2], keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = l2 ? g[i] + wd * w[i] : g[i];
        const float wi = l2 ? w[i] : keep * w[i];
        m[i] = psd_mean(m[i], b1, rest1, gi);
        v[i] = psd_mean_sq(v[i], b2, rest2, gi);
        w[i] = rectified ? wi - lr * m[i] / (sqrtf(v[i]) + eps) : wi - lr * m[i];
    }
}

static void step(const psd_step_t *s)
{
    const bool l2 = s->coef[C_L2] > 0, rectified = s->coef[C_RECTIFIED] > 0;
    if (l2 && rectified)
        run(s, true, true);
    else if (l2)
        run(s, true, false);
    else if (rectified)
        run(s, false, true);
    else
        run(s, false, false);
}

const psd_optimizer_t PSD_OPTIMIZER(radam) = {
    .name = "radam",
    .summary = "adam that trusts its second moment once it has seen enough",
    .formula = "g += wd*w (decoupled: w *= 1-lr*wd); m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; "
               "rho = rinf - 2*t*b2^t/(1-b2^t), rinf = 2/(1-b2)-1; rho > 5: r = sqrt((rho-4)*(rho-2)*rinf"
               "/((rinf-4)*(rinf-2)*rho)), w -= lr/(1-b1^t)*r*sqrt(1-b2^t)*m/(sqrt(v)+eps); else w -= lr/(1-b1^t)*m",
    .paper = "Liu et al. 2020, arXiv 1908.03265",
    .advice = "Like adam, for use when training is unstable at the start and you have no warm-up.",
    .hyper = { PSD_HYPER_LR(0.001), PSD_HYPER_BETA1(0.9), PSD_HYPER_BETA2(0.999), PSD_HYPER_EPS(1e-8),
               PSD_HYPER_FLAG("decoupled", 0, "decay the weights, not the gradient"), PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [EXP_AVG] = { "exp_avg", PSD_SLOT_MOMENT }, [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES } },
    .decay = PSD_DECAY_CHOSEN,
    .prepare = prepare,
    .step = step,
};
