/* lars.c - sgd whose gradient is scaled to the weights, tensor by tensor (You et al. 2017, arXiv 1708.03888), in timm's form:
 *   ratio = trust_coeff |w| / (|g| + wd |w| + eps), 1 where |w| or |g| is 0
 *   g <- ratio (g + wd w)
 *   buf, d as sgd
 *   w <- w - lr d
 * Without weight decay the ratio is 1 unless always_adapt. The norms are those before the step, of w and of g by themselves. */
#include "common/optim/kernels/kernel.h"

enum { LR, MOMENTUM, DAMPENING, NESTEROV, WEIGHT_DECAY, TRUST_COEFF, EPS, ALWAYS_ADAPT };
enum { C_LR, C_MU, C_GAIN, C_DECAY, C_NESTEROV, C_FIRST, C_RATIO };
enum { OF_W, OF_G, N_SUMS };

static unsigned slots_used(const double *hyper) { return hyper[MOMENTUM] > 0; }

static int check(const double *hyper, psd_err_t *err)
{
    if (hyper[NESTEROV] > 0 && (hyper[MOMENTUM] <= 0 || hyper[DAMPENING] > 0))
        return psd_err_set(err, PSD_ECONFIG, "nesterov=1 needs momentum above 0 and dampening=0");
    return PSD_OK;
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_MU] = (float)hyper[MOMENTUM];
    coef[C_GAIN] = (float)(1.0 - hyper[DAMPENING]);
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
    coef[C_NESTEROV] = (float)hyper[NESTEROV];
    coef[C_FIRST] = t == 1 ? 1.0f : 0.0f;
    coef[C_RATIO] = 1.0f;
}

static void measure(const psd_step_t *s, psd_lanes_t *sum)
{
    const float *restrict g = s->g, *restrict w = s->w;
    const size_t whole = s->n - s->n % PSD_LANES;
    for (size_t i = 0; i < s->n; i += PSD_LANES) {
        float x[PSD_LANES] = { 0 }, y[PSD_LANES] = { 0 };
        const size_t n = i < whole ? PSD_LANES : s->n - whole;
        for (size_t j = 0; j < n; j++) {
            x[j] = w[i + j];
            y[j] = g[i + j];
        }
        for (size_t j = 0; j < PSD_LANES; j++) {
            sum[OF_W][j] += (double)x[j] * (double)x[j];
            sum[OF_G][j] += (double)y[j] * (double)y[j];
        }
    }
}

static void settle(const double *hyper, double lr, const double *total, double *scalar, float *coef)
{
    (void)lr, (void)scalar;
    const double w = sqrt(total[OF_W]), g = sqrt(total[OF_G]);
    if (w > 0 && g > 0 && (hyper[WEIGHT_DECAY] > 0 || hyper[ALWAYS_ADAPT] > 0))
        coef[C_RATIO] = (float)(hyper[TRUST_COEFF] * w / (g + hyper[WEIGHT_DECAY] * w + hyper[EPS]));
}

PSD_LOOP run(const psd_step_t *s, bool moving, bool nesterov, bool first)
{
    const float lr = s->coef[C_LR], mu = s->coef[C_MU], gain = s->coef[C_GAIN], wd = s->coef[C_DECAY], ratio = s->coef[C_RATIO];
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict buf = s->slot[0];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = ratio * (g[i] + wd * w[i]);
        float d = gi;
        if (moving) {
            buf[i] = first ? gi : mu * buf[i] + gain * gi;
            d = nesterov ? gi + mu * buf[i] : buf[i];
        }
        w[i] -= lr * d;
    }
}

static void step(const psd_step_t *s)
{
    const bool nesterov = s->coef[C_NESTEROV] > 0, first = s->coef[C_FIRST] > 0;
    if (!s->slot[0])
        run(s, false, false, false);
    else if (nesterov && first)
        run(s, true, true, true);
    else if (nesterov)
        run(s, true, true, false);
    else if (first)
        run(s, true, false, true);
    else
        run(s, true, false, false);
}

const psd_optimizer_t PSD_OPTIMIZER(lars) = {
    .name = "lars",
    .summary = "sgd whose gradient is scaled to the weights, tensor by tensor",
    .formula = "g = trust_coeff*|w|/(|g|+wd*|w|+eps) * (g + wd*w); buf = mu*buf + g; w -= lr*buf",
    .paper = "You et al. 2017, arXiv 1708.03888",
    .advice = "For large batches of convolutional networks, where sgd would need a rate for each layer. Leave biases and "
              "normalisation out "
              "with a parameter group.",
    .hyper = { PSD_HYPER_LR(1),
               { .name = "momentum", .def = 0.9, .max = 1, .help = "share of the velocity kept per update" },
               { .name = "dampening", .max = 1, .help = "share of the gradient kept out of the velocity" },
               PSD_HYPER_FLAG("nesterov", 0, "look one velocity ahead"),
               PSD_HYPER_WEIGHT_DECAY(0),
               { .name = "trust_coeff", .def = 0.001, .max = 1e9, .help = "length of a step in lengths of the weights" },
               PSD_HYPER_EPS(1e-8),
               PSD_HYPER_FLAG("always_adapt", 1, "scale by the norms without weight decay, too") },
    .slots = { { "momentum_buffer", PSD_SLOT_MOMENT } },
    .slots_used = slots_used,
    .check = check,
    .n_sums = N_SUMS,
    .measure = measure,
    .settle = settle,
    .uncounted = true,
    .prepare = prepare,
    .step = step,
};
