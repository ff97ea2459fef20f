/* ademamix.c - adamw with a second, much slower mean of the gradients (Pagliardini et al. 2024, arXiv 2409.03137):
 *   al = alpha min(1, t/alpha_warmup)
 *   b3 = beta3; while t < beta3_warmup, with a = t/beta3_warmup: b3 = e^(1/((1 - a)/ln beta1 + a/ln beta3)), where 1/ln 0 is 0
 *   w <- (1 - lr wd) w
 *   m1 <- b1 m1 + (1 - b1) g
 *   m2 <- b3 m2 + (1 - b3) g
 *   v <- b2 v + (1 - b2) g^2
 *   w <- w - lr (m1/(1 - b1^t) + al m2) / (sqrt(v)/sqrt(1 - b2^t) + eps)
 * m2 has no bias correction. The warm-ups count from 1, and what grows evenly is the length of the slow mean, not beta3. */
#include "common/optim/kernels/kernel.h"
#include "common/optim/kernels/real.h"

enum { LR, BETA1, BETA2, BETA3, ALPHA, ALPHA_WARMUP, BETA3_WARMUP, EPS, WEIGHT_DECAY };
enum { C_LR, C_BETA1, C_REST1, C_BETA2, C_REST2, C_BETA3, C_REST3, C_UNBIAS1, C_ROOT2, C_ALPHA, C_EPS, C_KEEP };
enum { EXP_AVG_FAST, EXP_AVG_SLOW, EXP_AVG_SQ };

static double length_of(double beta) { return beta > 0 ? 1.0 / psd_log(beta) : 0.0; }

static double beta3_at(const double *hyper, double t)
{
    const double a = t / hyper[BETA3_WARMUP];
    if (!(hyper[BETA3_WARMUP] > 0) || a >= 1 || !(hyper[BETA3] > 0))
        return hyper[BETA3];
    return psd_exp(1.0 / ((1.0 - a) * length_of(hyper[BETA1]) + a * length_of(hyper[BETA3])));
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    const double b1 = hyper[BETA1], b2 = hyper[BETA2], b3 = beta3_at(hyper, (double)t);
    const double part = hyper[ALPHA_WARMUP] > 0 ? (double)t / hyper[ALPHA_WARMUP] : 1.0;
    coef[C_LR] = (float)lr;
    coef[C_BETA1] = (float)b1;
    coef[C_REST1] = (float)(1.0 - b1);
    coef[C_BETA2] = (float)b2;
    coef[C_REST2] = (float)(1.0 - b2);
    coef[C_BETA3] = (float)b3;
    coef[C_REST3] = (float)(1.0 - b3);
    coef[C_UNBIAS1] = (float)(1.0 / (1.0 - psd_power(b1, t)));
    coef[C_ROOT2] = (float)sqrt(1.0 - psd_power(b2, t));
    coef[C_ALPHA] = (float)(hyper[ALPHA] * (part < 1.0 ? part : 1.0));
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
}

static void step(const psd_step_t *s)
{
    const float lr = s->coef[C_LR], b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2],
                rest2 = s->coef[C_REST2], b3 = s->coef[C_BETA3], rest3 = s->coef[C_REST3], unbias1 = s->coef[C_UNBIAS1],
                root2 = s->coef[C_ROOT2], alpha = s->coef[C_ALPHA], eps = s->coef[C_EPS], keep = s->coef[C_KEEP];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict fast = s->slot[EXP_AVG_FAST], *restrict slow = s->slot[EXP_AVG_SLOW],
                    *restrict v = s->slot[EXP_AVG_SQ];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        fast[i] = psd_mean(fast[i], b1, rest1, g[i]);
        slow[i] = psd_mean(slow[i], b3, rest3, g[i]);
        v[i] = psd_mean_sq(v[i], b2, rest2, g[i]);
        w[i] = keep * w[i] - lr * (fast[i] * unbias1 + alpha * slow[i]) / (sqrtf(v[i]) / root2 + eps);
    }
}

const psd_optimizer_t PSD_OPTIMIZER(ademamix) = {
    .name = "ademamix",
    .summary = "adamw with a second, much slower mean of the gradients",
    .formula = "w *= 1-lr*wd; m1 = b1*m1 + (1-b1)*g; m2 = b3*m2 + (1-b3)*g; v = b2*v + (1-b2)*g^2; w -= lr*(m1/(1-b1^t) + "
               "alpha*m2)/(sqrt(v)/sqrt(1-b2^t)+eps)",
    .paper = "Pagliardini et al. 2024, arXiv 2409.03137",
    .advice = "For long runs, of tens of thousands of steps, where gradients of long ago still help. In short ones keep alpha "
              "small, or let "
              "alpha_warmup and beta3_warmup take the whole run.",
    .hyper = { PSD_HYPER_LR(0.001),
               PSD_HYPER_BETA1(0.9),
               PSD_HYPER_BETA2(0.999),
               PSD_HYPER_BETA("beta3", 0.9999, "share of the slow mean kept per update"),
               { .name = "alpha", .def = 5, .max = 1e9, .help = "weight of the slow mean" },
               { .name = "alpha_warmup", .max = 1e15, .help = "updates in which alpha grows from 0; 0: none" },
               { .name = "beta3_warmup", .max = 1e15, .help = "updates in which beta3 grows from beta1; 0: none" },
               PSD_HYPER_EPS(1e-8),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [EXP_AVG_FAST] = { "exp_avg_fast", PSD_SLOT_MOMENT },
               [EXP_AVG_SLOW] = { "exp_avg_slow", PSD_SLOT_MOMENT },
               [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES } },
    .prepare = prepare,
    .step = step,
};
