/* adam.c - moments of the gradient, corrected for their start at 0 (Kingma, Ba 2015, arXiv 1412.6980; amsgrad: Reddi et al.
 * 2018), in torch's form:
 *   adam:    g <- g + wd w
 *   adamw:   w <- (1 - lr wd) w
 *   m <- b1 m + (1 - b1) g
 *   v <- b2 v + (1 - b2) g^2
 *   amsgrad: vmax <- max(vmax, v), used for v below
 *   w <- w - lr/(1 - b1^t) m / (sqrt(v)/sqrt(1 - b2^t) + eps) */
#include "common/optim/kernels/adam.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, AMSGRAD };
enum { C_STEP, C_BETA1, C_REST1, C_BETA2, C_REST2, C_ROOT2, C_EPS, C_L2, C_KEEP };
enum { EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ };

unsigned PSD_PER_ISA(psd_adam_slots_used)(const double *hyper)
{
    return 1u << EXP_AVG | 1u << EXP_AVG_SQ | (hyper[AMSGRAD] > 0 ? 1u << MAX_EXP_AVG_SQ : 0u);
}

/* The scalars of both; `l2` is the coupled decay, `keep` what the decoupled one leaves of a weight. */
static void scalars(const double *hyper, double lr, uint64_t t, double l2, double keep, float *coef)
{
    const double b1 = hyper[BETA1], b2 = hyper[BETA2];
    coef[C_STEP] = (float)(lr / (1.0 - psd_power(b1, t)));
    coef[C_BETA1] = (float)b1;
    coef[C_REST1] = (float)(1.0 - b1);
    coef[C_BETA2] = (float)b2;
    coef[C_REST2] = (float)(1.0 - b2);
    coef[C_ROOT2] = (float)sqrt(1.0 - psd_power(b2, t));
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_L2] = (float)l2;
    coef[C_KEEP] = (float)keep;
}

void PSD_PER_ISA(psd_adam_prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    scalars(hyper, lr, t, hyper[WEIGHT_DECAY], 1.0, coef);
}

void PSD_PER_ISA(psd_adamw_prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    scalars(hyper, lr, t, 0.0, 1.0 - lr * hyper[WEIGHT_DECAY], coef);
}

PSD_LOOP run(const psd_step_t *s, bool l2, bool amsgrad)
{
    const float lr = s->coef[C_STEP], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2],
                rest2 = s->coef[C_REST2], root2 = s->coef[C_ROOT2], eps = s->coef[C_EPS], wd = s->coef[C_L2],
                keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ],
                    *restrict vmax = s->slot[MAX_EXP_AVG_SQ];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = l2 ? g[i] + wd * w[i] : g[i];
        const float wi = l2 ? w[i] : keep * w[i];
        m[i] = psd_mean(m[i], b1, rest1, gi);
        v[i] = psd_mean_sq(v[i], b2, rest2, gi);
        float vi = v[i];
        if (amsgrad)
            vmax[i] = vi = vmax[i] > vi ? vmax[i] : vi;
        w[i] = wi - lr * m[i] / (sqrtf(vi) / root2 + eps);
    }
}

void PSD_PER_ISA(psd_adam_step)(const psd_step_t *s)
{
    const bool l2 = s->coef[C_L2] > 0, amsgrad = s->slot[MAX_EXP_AVG_SQ];
    if (l2 && amsgrad)
        run(s, true, true);
    else if (l2)
        run(s, true, false);
    else if (amsgrad)
        run(s, false, true);
    else
        run(s, false, false);
}

const psd_optimizer_t PSD_OPTIMIZER(adam) =
    PSD_ADAM_ROW("adam", "moments of the gradient, corrected for their start at 0",
                 "g += wd*w; m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; w -= lr/(1-b1^t) * m/(sqrt(v)/sqrt(1-b2^t)+eps)",
                 "Kingma, Ba 2015, arXiv 1412.6980",
                 "A good first try on most networks: forgiving about the learning rate and the scale of gradients.", 0,
                 psd_adam_prepare, PSD_DECAY_L2);
