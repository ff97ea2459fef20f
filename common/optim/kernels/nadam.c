/* nadam.c - adam with Nesterov's momentum on a schedule (Dozat 2016), in the form of torch 2:
 *   g <- g + wd w or, decoupled, w <- (1 - lr wd) w
 *   m, v as adam
 *   den = sqrt(v/(1 - b2^t)) + eps
 *   mu_t = b1 (1 - 0.96^(t momentum_decay)/2)
 *   P <- P mu_t, from 1
 *   w <- w - lr (1 - mu_t)/(1 - P) g/den
 *   w <- w - lr mu_(t+1)/(1 - P mu_(t+1)) m/den */
#include "common/optim/kernels/kernel.h"
#include "common/optim/kernels/real.h"

enum { LR, BETA1, BETA2, EPS, MOMENTUM_DECAY, DECOUPLED, WEIGHT_DECAY };
enum { C_STEP_G, C_STEP_M, C_BETA1, C_REST1, C_BETA2, C_REST2, C_BIAS2, C_EPS, C_L2, C_KEEP };
enum { EXP_AVG, EXP_AVG_SQ };

static void born(const double *hyper, double *scalar)
{
    (void)hyper;
    scalar[0] = 1.0;
}

static double mu_at(const double *hyper, double t)
{
    const double log_096 = -0.040821994520255166;
    return hyper[BETA1] * (1.0 - 0.5 * psd_exp(log_096 * (t * hyper[MOMENTUM_DECAY])));
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    const double b1 = hyper[BETA1], b2 = hyper[BETA2], decay = hyper[WEIGHT_DECAY];
    const bool decoupled = hyper[DECOUPLED] > 0;
    const double mu = mu_at(hyper, (double)t), next = mu_at(hyper, (double)t + 1.0);
    scalar[0] *= mu;
    coef[C_STEP_G] = (float)(lr * (1.0 - mu) / (1.0 - scalar[0]));
    coef[C_STEP_M] = (float)(lr * next / (1.0 - scalar[0] * next));
    coef[C_BETA1] = (float)b1;
    coef[C_REST1] = (float)(1.0 - b1);
    coef[C_BETA2] = (float)b2;
    coef[C_REST2] = (float)(1.0 - b2);
    coef[C_BIAS2] = (float)(1.0 - psd_power(b2, t));
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_L2] = (float)(decoupled ? 0.0 : decay);
    coef[C_KEEP] = (float)(decoupled ? 1.0 - lr * decay : 1.0);
}

PSD_LOOP run(const psd_step_t *s, bool l2)
{
    const float step_g = s->coef[C_STEP_G], step_m = s->coef[C_STEP_M], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1],
                b2 = s->coef[C_BETA2], rest2 = s->coef[C_REST2], bias2 = s->coef[C_BIAS2], eps = s->coef[C_EPS], wd = s->coef[C_L2],
                keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = l2 ? g[i] + wd * w[i] : g[i];
        const float wi = l2 ? w[i] : keep * w[i];
        m[i] = psd_mean(m[i], b1, rest1, gi);
        v[i] = psd_mean_sq(v[i], b2, rest2, gi);
        const float den = sqrtf(v[i] / bias2) + eps;
        w[i] = (wi - step_g * gi / den) - step_m * m[i] / den;
    }
}

static void step(const psd_step_t *s)
{
    if (s->coef[C_L2] > 0)
        run(s, true);
    else
        run(s, false);
}

const psd_optimizer_t PSD_OPTIMIZER(nadam) = {
    .name = "nadam",
    .summary = "adam with Nesterov's momentum on a schedule",
    .formula = "g += wd*w (decoupled: w *= 1-lr*wd); m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; mu(t) = "
               "b1*(1-0.96^(t*momentum_decay)/2); P *= mu(t); den = sqrt(v/(1-b2^t))+eps; "
               "w -= lr*(1-mu(t))/(1-P)*g/den + lr*mu(t+1)/(1-P*mu(t+1))*m/den",
    .paper = "Dozat 2016",
    .advice = "Like adam, and often a little faster in the first epochs; a good choice for short runs. torch 1.13's NAdam steps "
              "differently unless it is made with foreach=True: it multiplies mu(t) into P twice.",
    .hyper = { PSD_HYPER_LR(0.002),
               PSD_HYPER_BETA1(0.9),
               PSD_HYPER_BETA2(0.999),
               PSD_HYPER_EPS(1e-8),
               { .name = "momentum_decay", .def = 0.004, .max = 1e9, .help = "how fast the momentum warms up" },
               PSD_HYPER_FLAG("decoupled", 0, "decay the weights, not the gradient"),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [EXP_AVG] = { "exp_avg", PSD_SLOT_MOMENT }, [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES } },
    .decay = PSD_DECAY_CHOSEN,
    .born = born,
    .scalars = { "mu_product" },
    .prepare = prepare,
    .step = step,
};
