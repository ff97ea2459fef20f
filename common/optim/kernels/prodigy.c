/* prodigy.c - adam that finds its own learning rate from how far the weights have gone (Mishchenko, Defazio 2023, arXiv
 * 2306.06101), in the authors' form. From p0 = w, m = v = s = 0, d = dmax = d0, num = 0, k = 0:
 *   nothing at all while lr is 0
 *   q = sqrt(1 - b2^(k+1))/(1 - b1^(k+1)) with use_bias_correction, else 1;   dlr = d lr q
 *   g <- g + wd w unless decoupled
 *   num' = b3 num + (d/d0) dlr SUM g (p0 - w)
 *   m <- b1 m + d (1 - b1) g;   v <- b2 v + d^2 (1 - b2) g^2
 *   s <- b3 s + (d/d0) (d with safeguard_warmup, else dlr) g;   den = SUM |s|
 *   nothing more while den is 0
 *   dhat = d_coef num'/den;   d1 = max(d, dhat) while d is d0, else d;   dmax = max(dmax, dhat);   d1 = min(dmax, d1 growth_rate)
 *   decoupled: w <- (1 - dlr wd) w;   w <- w - dlr m / (sqrt(v) + d1 eps)
 *   d = d1, num = num', k <- k + 1
 * The sums are over all tensors that it trains, so d is one for all of them. They come from a pass before the step. */
#include "common/optim/kernels/kernel.h"

enum { LR, BETA1, BETA2, BETA3, EPS, WEIGHT_DECAY, DECOUPLED, D0, D_COEF, GROWTH_RATE, USE_BIAS_CORRECTION, SAFEGUARD_WARMUP };
enum { C_BETA1, C_REST1, C_BETA2, C_REST2, C_BETA3, C_GAIN, C_L2, C_KEEP, C_DLR, C_EPS, C_RESTS, C_MOVES };
enum { EXP_AVG, EXP_AVG_SQ, S, P0 };
enum { D, D_MAX, NUM, K };
enum { OF_WAY, OF_S, N_SUMS };

static void born(const double *hyper, double *scalar)
{
    scalar[D] = scalar[D_MAX] = hyper[D0];
    scalar[NUM] = scalar[K] = 0;
}

static double beta3(const double *hyper) { return hyper[BETA3] > 0 ? hyper[BETA3] : sqrt(hyper[BETA2]); }

static double rate(const double *hyper, double lr, const double *scalar)
{
    const uint64_t k = (uint64_t)scalar[K] + 1;
    const double q =
        hyper[USE_BIAS_CORRECTION] > 0 ? sqrt(1.0 - psd_power(hyper[BETA2], k)) / (1.0 - psd_power(hyper[BETA1], k)) : 1.0;
    return scalar[D] * lr * q;
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t;
    const double d = scalar[D], dlr = rate(hyper, lr, scalar);
    const bool decoupled = hyper[DECOUPLED] > 0;
    coef[C_BETA1] = (float)hyper[BETA1];
    coef[C_REST1] = (float)(d * (1.0 - hyper[BETA1]));
    coef[C_BETA2] = (float)hyper[BETA2];
    coef[C_REST2] = (float)(d * d * (1.0 - hyper[BETA2]));
    coef[C_BETA3] = (float)beta3(hyper);
    coef[C_GAIN] = (float)(d / hyper[D0] * (hyper[SAFEGUARD_WARMUP] > 0 ? d : dlr));
    coef[C_L2] = (float)(decoupled ? 0.0 : hyper[WEIGHT_DECAY]);
    coef[C_KEEP] = (float)(decoupled ? 1.0 - dlr * hyper[WEIGHT_DECAY] : 1.0);
    coef[C_DLR] = (float)dlr;
    coef[C_EPS] = (float)(d * hyper[EPS]);
    coef[C_RESTS] = lr > 0 ? 0.0f : 1.0f;
    coef[C_MOVES] = 1.0f;
}

static void settle(const double *hyper, double lr, const double *total, double *scalar, float *coef)
{
    if (!(lr > 0))
        return;
    const double d = scalar[D], dlr = rate(hyper, lr, scalar);
    const double num = beta3(hyper) * scalar[NUM] + d / hyper[D0] * dlr * total[OF_WAY];
    if (!(total[OF_S] > 0)) {
        coef[C_MOVES] = 0.0f;
        return;
    }
    const double dhat = hyper[D_COEF] * num / total[OF_S];
    double next = d == hyper[D0] && dhat > d ? dhat : d;
    scalar[D_MAX] = dhat > scalar[D_MAX] ? dhat : scalar[D_MAX];
    next = hyper[GROWTH_RATE] > 0 ? next * hyper[GROWTH_RATE] : scalar[D_MAX];
    scalar[D] = next < scalar[D_MAX] ? next : scalar[D_MAX];
    scalar[NUM] = num;
    scalar[K]++;
    coef[C_EPS] = (float)(scalar[D] * hyper[EPS]);
}

static void measure(const psd_step_t *s, psd_lanes_t *sum)
{
    const float *restrict g = s->g, *restrict w = s->w, *restrict from = s->slot[P0], *restrict seen = s->slot[S];
    const float b3 = s->coef[C_BETA3], gain = s->coef[C_GAIN], wd = s->coef[C_L2];
    const size_t whole = s->n - s->n % PSD_LANES;
    for (size_t i = 0; i < s->n; i += PSD_LANES) {
        float x[PSD_LANES] = { 0 }, way[PSD_LANES] = { 0 }, y[PSD_LANES] = { 0 };
        const size_t n = i < whole ? PSD_LANES : s->n - whole;
        for (size_t j = 0; j < n; j++) {
            x[j] = g[i + j] + wd * w[i + j];
            way[j] = from[i + j] - w[i + j];
            y[j] = fabsf(b3 * seen[i + j] + gain * x[j]);
        }
        for (size_t j = 0; j < PSD_LANES; j++) {
            sum[OF_WAY][j] += (double)x[j] * (double)way[j];
            sum[OF_S][j] += (double)y[j];
        }
    }
}

static void step(const psd_step_t *s)
{
    const float b1 = s->coef[C_BETA1], rest1 = s->coef[C_REST1], b2 = s->coef[C_BETA2], rest2 = s->coef[C_REST2],
                b3 = s->coef[C_BETA3], gain = s->coef[C_GAIN], wd = s->coef[C_L2], eps = s->coef[C_EPS], moves = s->coef[C_MOVES],
                keep = moves > 0 ? s->coef[C_KEEP] : 1.0f, dlr = moves > 0 ? s->coef[C_DLR] : 0.0f;
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict m = s->slot[EXP_AVG], *restrict v = s->slot[EXP_AVG_SQ], *restrict seen = s->slot[S];
    if (s->coef[C_RESTS] > 0)
        return;
    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        const float gi = g[i] + wd * w[i];
        m[i] = psd_mean(m[i], b1, rest1, gi);
        v[i] = psd_mean_sq(v[i], b2, rest2, gi);
        seen[i] = b3 * seen[i] + gain * gi;
        w[i] = keep * w[i] - (moves > 0 ? dlr * m[i] / (sqrtf(v[i]) + eps) : 0.0f);
    }
}

const psd_optimizer_t PSD_OPTIMIZER(prodigy) = {
    .name = "prodigy",
    .summary = "adam that finds its own learning rate",
    .formula = "dlr = d*lr; num = b3*num + d/d0*dlr*SUM g*(p0-w); m = b1*m + d*(1-b1)*g; v = b2*v + d^2*(1-b2)*g^2; s = b3*s + "
               "d/d0*dlr*g; d = max(d, d_coef*num/SUM|s|); w -= dlr*(m/(sqrt(v)+d*eps) + wd*w)",
    .paper = "Mishchenko, Defazio 2023, arXiv 2306.06101",
    .advice =
        "When you do not want to tune a learning rate: leave lr at 1, and use a cosine schedule or none. It keeps four arrays.",
    .hyper = { PSD_HYPER_LR(1),
               PSD_HYPER_BETA1(0.9),
               PSD_HYPER_BETA2(0.999),
               PSD_HYPER_BETA("beta3", 0, "share of the estimate kept per update; 0: the root of beta2"),
               PSD_HYPER_EPS(1e-8),
               PSD_HYPER_WEIGHT_DECAY(0),
               PSD_HYPER_FLAG("decoupled", 1, "decay the weights, not the gradient"),
               { .name = "d0", .def = 1e-6, .min = 1e-30, .max = 1e9, .help = "first estimate of the distance to the solution" },
               { .name = "d_coef", .def = 1, .max = 1e9, .open_min = true, .help = "factor on the estimate" },
               { .name = "growth_rate", .max = 1e9, .help = "largest growth of the estimate per update; 0: no bound" },
               PSD_HYPER_FLAG("use_bias_correction", 0, "adam's bias correction in the rate"),
               PSD_HYPER_FLAG("safeguard_warmup", 0, "keep a warm-up out of the estimate") },
    .slots = { [EXP_AVG] = { "exp_avg", PSD_SLOT_MOMENT },
               [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES },
               [S] = { "s", PSD_SLOT_PLAIN },
               [P0] = { "p0", PSD_SLOT_PLAIN } },
    .of_weights = 1u << P0,
    .alone = "it measures how far its own steps have gone",
    .n_sums = N_SUMS,
    .sums_over = PSD_SCOPE_MODEL,
    .finds_rate = true,
    .born = born,
    .measure = measure,
    .settle = settle,
    .scalars = { [D] = "d", [D_MAX] = "d_max", [NUM] = "d_numerator", [K] = "k" },
    .signed_scalars = 1u << NUM,
    .prepare = prepare,
    .step = step,
};
