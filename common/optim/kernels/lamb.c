/* lamb.c - adam whose step has the length of the weights, tensor by tensor (You et al. 2020, arXiv 1904.00962), in timm's form:
 *   m, v as adam
 *   u = m/(1 - b1^t) / (sqrt(v)/sqrt(1 - b2^t) + eps) + wd w
 *   ratio = |w|/|u|, the norms of the tensor before the step; 1 where one of them is 0
 *   trust_clip: ratio = min(ratio, 1)
 *   w <- w - lr ratio u
 * Without weight decay the ratio is 1 unless always_adapt. Both norms come from a pass before the step, which forms m, v and u
 * as the step does, and keeps none of them. */
#include "common/optim/kernels/kernel.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, ALWAYS_ADAPT, TRUST_CLIP };
enum { C_STEP, C_BETA1, C_REST1, C_BETA2, C_REST2, C_UNBIAS1, C_ROOT2, C_EPS, C_DECAY };
enum { EXP_AVG, EXP_AVG_SQ };
enum { OF_W, OF_U, N_SUMS };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    const double b1 = hyper[BETA1], b2 = hyper[BETA2];
    coef[C_STEP] = (float)lr;
    coef[C_BETA1] = (float)b1;
    coef[C_REST1] = (float)(1.0 - b1);
    coef[C_BETA2] = (float)b2;
    coef[C_REST2] = (float)(1.0 - b2);
    coef[C_UNBIAS1] = (float)(1.0 / (1.0 - psd_power(b1, t)));
    coef[C_ROOT2] = (float)sqrt(1.0 - psd_power(b2, t));
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
}

static void settle(const double *hyper, double lr, const double *total, double *scalar, float *coef)
{
    (void)scalar;
    double ratio = total[OF_W] > 0 && total[OF_U] > 0 ? sqrt(total[OF_W]) / sqrt(total[OF_U]) : 1.0;
    if (hyper[TRUST_CLIP] > 0 && ratio > 1.0)
        ratio = 1.0;
    if (!(hyper[WEIGHT_DECAY] > 0) && !(hyper[ALWAYS_ADAPT] > 0))
        ratio = 1.0;
    coef[C_STEP] = (float)(lr * ratio);
}

/* The update of an element, from the new m and v. */
static inline float direction(const float *c, float w, float m, float v)
{
    return m * c[C_UNBIAS1] / (sqrtf(v) / c[C_ROOT2] + c[C_EPS]) + c[C_DECAY] * w;
}

static void measure(const psd_step_t *s, psd_lanes_t *sum)
{
    const float *restrict g = s->g, *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ];
    const float *c = s->coef;
    const size_t whole = s->n - s->n % PSD_LANES;
    for (size_t i = 0; i < s->n; i += PSD_LANES) {
        float u[PSD_LANES] = { 0 }, x[PSD_LANES] = { 0 };
        const size_t n = i < whole ? PSD_LANES : s->n - whole;
        for (size_t j = 0; j < n; j++) {
            const float mj = psd_mean(m[i + j], c[C_BETA1], c[C_REST1], g[i + j]);
            const float vj = psd_mean_sq(v[i + j], c[C_BETA2], c[C_REST2], g[i + j]);
            x[j] = w[i + j];
            u[j] = direction(c, x[j], mj, vj);
        }
        for (size_t j = 0; j < PSD_LANES; j++) {
            sum[OF_W][j] += (double)x[j] * (double)x[j];
            sum[OF_U][j] += (double)u[j] * (double)u[j];
        }
    }
}

static void step(const psd_step_t *s)
{
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ];
    const float *c = s->coef;
    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        m[i] = psd_mean(m[i], c[C_BETA1], c[C_REST1], g[i]);
        v[i] = psd_mean_sq(v[i], c[C_BETA2], c[C_REST2], g[i]);
        w[i] -= c[C_STEP] * direction(c, w[i], m[i], v[i]);
    }
}

const psd_optimizer_t PSD_OPTIMIZER(lamb) = {
    .name = "lamb",
    .summary = "adam whose step has the length of the weights, tensor by tensor",
    .formula = "m = b1*m + (1-b1)*g; v = b2*v + (1-b2)*g^2; u = m/(1-b1^t)/(sqrt(v)/sqrt(1-b2^t)+eps) + wd*w; w -= lr*|w|/|u|*u",
    .paper = "You et al. 2020, arXiv 1904.00962",
    .advice = "For large batches (thousands of rows a step): it keeps each layer's step in proportion to its weights.",
    .hyper = { PSD_HYPER_LR(0.001), PSD_HYPER_BETA1(0.9), PSD_HYPER_BETA2(0.999), PSD_HYPER_EPS(1e-6), PSD_HYPER_WEIGHT_DECAY(0.01),
               PSD_HYPER_FLAG("always_adapt", 1, "scale by the norms without weight decay, too"),
               PSD_HYPER_FLAG("trust_clip", 0, "never make the step longer") },
    .slots = { [EXP_AVG] = { "exp_avg", PSD_SLOT_MOMENT }, [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES } },
    .n_sums = N_SUMS,
    .measure = measure,
    .settle = settle,
    .prepare = prepare,
    .step = step,
};
