/* rmsprop.c - gradients divided by their recent size (Tieleman, Hinton 2012), centered as in Graves 2013:
 *   g <- g + wd w
 *   v <- alpha v + (1 - alpha) g^2
 *   q = v;   centered: ga <- alpha ga + (1 - alpha) g,   q = max(v - ga^2, 0)
 *   d = g / (sqrt(q) + eps)
 *   momentum: buf <- mu buf + d,   d = buf
 *   w <- w - lr d
 * v - ga^2 cancels on near-constant gradients and may round below 0, whose root would be NaN for good. */
#include "common/optim/kernels/kernel.h"

enum { LR, ALPHA, EPS, MOMENTUM, CENTERED, WEIGHT_DECAY };
enum { C_LR, C_ALPHA, C_REST, C_EPS, C_MU, C_DECAY };
enum { SQUARE_AVG, MOMENTUM_BUFFER, GRAD_AVG };

static unsigned slots_used(const double *hyper)
{
    return 1u << SQUARE_AVG | (hyper[MOMENTUM] > 0 ? 1u << MOMENTUM_BUFFER : 0u) | (hyper[CENTERED] > 0 ? 1u << GRAD_AVG : 0u);
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_ALPHA] = (float)hyper[ALPHA];
    coef[C_REST] = (float)(1.0 - hyper[ALPHA]);
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_MU] = (float)hyper[MOMENTUM];
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
}

PSD_LOOP run(const psd_step_t *s, bool decay, bool momentum, bool centered)
{
    const float lr = s->coef[C_LR], alpha = s->coef[C_ALPHA], rest = s->coef[C_REST], eps = s->coef[C_EPS], mu = s->coef[C_MU],
                wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict v = s->slot[SQUARE_AVG], *restrict buf = s->slot[MOMENTUM_BUFFER],
                    *restrict ga = s->slot[GRAD_AVG];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = decay ? g[i] + wd * w[i] : g[i];
        v[i] = psd_mean_sq(v[i], alpha, rest, gi);
        float q = v[i];
        if (centered) {
            ga[i] = psd_mean(ga[i], alpha, rest, gi);
            q -= ga[i] * ga[i];
            q = q < 0.0f ? 0.0f : q;
        }
        const float den = sqrtf(q) + eps;
        if (momentum) {
            buf[i] = mu * buf[i] + gi / den;
            w[i] -= lr * buf[i];
        } else {
            w[i] -= lr * gi / den;
        }
    }
}

PSD_LOOP any_slots(const psd_step_t *s, bool decay)
{
    const bool momentum = s->slot[MOMENTUM_BUFFER], centered = s->slot[GRAD_AVG];
    if (momentum && centered)
        run(s, decay, true, true);
    else if (momentum)
        run(s, decay, true, false);
    else if (centered)
        run(s, decay, false, true);
    else
        run(s, decay, false, false);
}

static void step(const psd_step_t *s)
{
    if (s->coef[C_DECAY] > 0)
        any_slots(s, true);
    else
        any_slots(s, false);
}

const psd_optimizer_t PSD_OPTIMIZER(rmsprop) = {
    .name = "rmsprop",
    .summary = "gradients divided by their recent size",
    .formula = "g += wd*w; v = alpha*v + (1-alpha)*g^2; q = v (centered: ga = alpha*ga + (1-alpha)*g; "
               "q = max(v-ga^2, 0)); d = g/(sqrt(q)+eps) (momentum: buf = momentum*buf + d; d = buf); w -= lr*d",
    .paper = "Tieleman, Hinton 2012; centered: Graves 2013, arXiv 1308.0850",
    .advice = "For noisy or non-stationary losses: recurrent networks, reinforcement learning.",
    .hyper = { PSD_HYPER_LR(0.01),
               { .name = "alpha", .def = 0.99, .max = 1, .help = "share of the mean square kept per update" },
               PSD_HYPER_EPS(1e-8),
               { .name = "momentum", .max = 1, .help = "share of the velocity kept per update" },
               PSD_HYPER_FLAG("centered", 0, "take the mean gradient off the mean square"),
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [SQUARE_AVG] = { "square_avg", PSD_SLOT_SQUARES },
               [MOMENTUM_BUFFER] = { "momentum_buffer", PSD_SLOT_MOMENT },
               [GRAD_AVG] = { "grad_avg", PSD_SLOT_PLAIN } },
    .slots_used = slots_used,
    .prepare = prepare,
    .step = step,
};
