/* sfadamw.c - adamw that averages its own weights instead of following a schedule (Defazio et al. 2024, arXiv 2405.15682). The
 * weights that are trained, y, lie between z, which makes adamw's steps, and their average x, which is what one evaluates:
 *   l = lr min(1, t/warmup_steps), lmax = max(lmax, l)
 *   q = t^r lmax^weight_lr_power, S <- S + q, c = q/S, 0 when S is
 *   v <- b2 v + (1 - b2) g^2
 *   d = g / (sqrt(v/(1 - b2^t)) + eps) + wd y
 *   z <- z - l d
 *   x <- (1 - c) x + c z
 *   y <- b1 x + (1 - b1) z
 * x is not kept: it is (y - (1 - b1) z)/b1, so y <- y + c (z - y) - l (1 - b1 (1 - c)) d with the old z. */
#include "common/optim/kernels/kernel.h"
#include "common/optim/kernels/real.h"

enum { LR, BETA1, BETA2, EPS, WEIGHT_DECAY, WARMUP_STEPS, R, WEIGHT_LR_POWER };
enum { C_STEP_Z, C_STEP_Y, C_SHARE, C_BETA2, C_REST2, C_BIAS2, C_EPS, C_DECAY };
enum { Z, EXP_AVG_SQ };
enum { LARGEST_LR, SUM };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    const double part = hyper[WARMUP_STEPS] > 0 ? (double)t / hyper[WARMUP_STEPS] : 1.0, l = lr * (part < 1.0 ? part : 1.0);
    scalar[LARGEST_LR] = l > scalar[LARGEST_LR] ? l : scalar[LARGEST_LR];
    const double q = psd_real_power((double)t, hyper[R]) * psd_real_power(scalar[LARGEST_LR], hyper[WEIGHT_LR_POWER]);
    scalar[SUM] += q;
    const double c = scalar[SUM] > 0 ? q / scalar[SUM] : 0.0;
    coef[C_STEP_Z] = (float)l;
    coef[C_STEP_Y] = (float)(l * (1.0 - hyper[BETA1] * (1.0 - c)));
    coef[C_SHARE] = (float)c;
    coef[C_BETA2] = (float)hyper[BETA2];
    coef[C_REST2] = (float)(1.0 - hyper[BETA2]);
    coef[C_BIAS2] = (float)(1.0 - psd_power(hyper[BETA2], t));
    coef[C_EPS] = (float)hyper[EPS];
    coef[C_DECAY] = (float)hyper[WEIGHT_DECAY];
}

static void step(const psd_step_t *s)
{
    const float step_z = s->coef[C_STEP_Z], step_y = s->coef[C_STEP_Y], share = s->coef[C_SHARE], b2 = s->coef[C_BETA2],
                rest2 = s->coef[C_REST2], bias2 = s->coef[C_BIAS2], eps = s->coef[C_EPS], wd = s->coef[C_DECAY];
    const float *restrict g = s->g;
    float *restrict y = s->w, *restrict z = s->slot[Z], *restrict v = s->slot[EXP_AVG_SQ];

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        v[i] = psd_mean_sq(v[i], b2, rest2, g[i]);
        const float d = g[i] / (sqrtf(v[i] / bias2) + eps) + wd * y[i];
        y[i] = (y[i] + share * (z[i] - y[i])) - step_y * d;
        z[i] -= step_z * d;
    }
}

static void average(const double *hyper, float *restrict x, const float *restrict y, float *const *slot, size_t n)
{
    const float gain = (float)((1.0 - hyper[BETA1]) / hyper[BETA1]);
    const float *restrict z = slot[Z];
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        x[i] = y[i] + gain * (y[i] - z[i]);
}

const psd_optimizer_t PSD_OPTIMIZER(sfadamw) = {
    .name = "sfadamw",
    .summary = "adamw that averages its own weights and needs no schedule",
    .formula = "l = lr*min(1, t/warmup_steps); c = t^r*max(l)^weight_lr_power / its sum; v = b2*v + (1-b2)*g^2; d = "
               "g/(sqrt(v/(1-b2^t))+eps) + wd*y; z -= l*d; x = (1-c)*x + c*z; y = b1*x + (1-b1)*z; trained is y, evaluated x",
    .paper = "Defazio et al. 2024, arXiv 2405.15682",
    .advice = "When you do not know beforehand how long you will train: it does about as well as adamw with a schedule that fits. "
              "Use 1 to 10 times adamw's learning rate, some warmup_steps and no schedule; psd evaluates and exports the average.",
    .hyper = { PSD_HYPER_LR(0.0025),
               { .name = "beta1",
                 .def = 0.9,
                 .max = 1,
                 .open_min = true,
                 .open_max = true,
                 .help = "share of the average in the weights that are trained" },
               PSD_HYPER_BETA2(0.999),
               PSD_HYPER_EPS(1e-8),
               PSD_HYPER_WEIGHT_DECAY(0),
               { .name = "warmup_steps", .max = 1e15, .help = "updates in which the rate grows from 0" },
               { .name = "r", .max = 100, .help = "power of the update's number in its weight" },
               { .name = "weight_lr_power", .def = 2, .max = 100, .help = "power of the largest rate in an update's weight" } },
    .slots = { [Z] = { "z", PSD_SLOT_PLAIN }, [EXP_AVG_SQ] = { "exp_avg_sq", PSD_SLOT_SQUARES } },
    .of_weights = 1u << Z,
    .alone = "it averages its weights by itself",
    .scalars = { [LARGEST_LR] = "lr_max", [SUM] = "weight_sum" },
    .prepare = prepare,
    .step = step,
    .average = average,
};
