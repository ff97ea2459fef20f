#include "common/optim/schedule.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- arithmetic that is the same everywhere ---- */

/* x^y for x >= 0 and y >= 0: the whole part of y by squaring, the rest by the binary digits of its fraction, each of which is
 * one more square root. */
static double power(double x, double y)
{
    double out = 1, square = x, root = x;
    for (uint64_t n = (uint64_t)y; n; n >>= 1, square *= square)
        if (n & 1)
            out *= square;
    for (double rest = y - floor(y); rest > 0 && root != 1;) {
        root = sqrt(root);
        rest *= 2;
        if (rest >= 1) {
            out *= root;
            rest -= 1;
        }
    }
    return out;
}

/* cos(pi p) for p in [0, 1], by the series about 0 of the cosine, or of the sine, in the eighth of the circle where it converges
 * best: the terms left out are below 2^-60. */
static double cos_pi(double p)
{
    static const double pi = 3.14159265358979323846;
    if (p > 0.5)
        return -cos_pi(1 - p);
    const bool is_sine = p > 0.25;
    const double x = pi * (is_sine ? 0.5 - p : p), square = x * x;
    double sum = 0;
    for (int k = is_sine ? 19 : 18; k > 1; k -= 2)
        sum = (1 - sum) * square / (double)(k * (k - 1));
    return is_sine ? x * (1 - sum) : 1 - sum;
}

static double min_of(double a, double b) { return a < b ? a : b; }

/* ---- the kinds ---- */

#define NONE NAN
#define STEPS(text)                                                                                                                \
    {                                                                                                                              \
        .name = "steps", .def = NONE, .min = 0, .open_min = true, .max = 1e15, .help = text                                        \
    }

static double constant(const psd_schedule_t *self, double base, double s)
{
    (void)self, (void)s;
    return base;
}

enum { STEP_SIZE, STEP_GAMMA };
static double step(const psd_schedule_t *self, double base, double s)
{
    return base * power(self->value[STEP_GAMMA], floor(s / self->value[STEP_SIZE]));
}

enum { MULTISTEP_MILESTONES, MULTISTEP_GAMMA };
static double multistep(const psd_schedule_t *self, double base, double s)
{
    uint32_t passed = 0;
    while (passed < (uint32_t)self->value[MULTISTEP_MILESTONES] && self->milestone[passed] <= s)
        passed++;
    return base * power(self->value[MULTISTEP_GAMMA], passed);
}

enum { EXPONENTIAL_GAMMA };
static double exponential(const psd_schedule_t *self, double base, double s)
{
    return base * power(self->value[EXPONENTIAL_GAMMA], s);
}

enum { GEOMETRIC_STEPS, GEOMETRIC_START, GEOMETRIC_END };
static double geometric(const psd_schedule_t *self, double base, double s)
{
    const double t = self->value[GEOMETRIC_STEPS], from = self->value[GEOMETRIC_START], to = self->value[GEOMETRIC_END];
    return base * (from * power(to / from, min_of(s, t) / t));
}

enum { LINEAR_STEPS, LINEAR_START, LINEAR_END };
static double linear(const psd_schedule_t *self, double base, double s)
{
    const double t = self->value[LINEAR_STEPS], from = self->value[LINEAR_START], to = self->value[LINEAR_END];
    return base * (from + (to - from) * min_of(s, t) / t);
}

enum { POLYNOMIAL_STEPS, POLYNOMIAL_POWER };
static double polynomial(const psd_schedule_t *self, double base, double s)
{
    const double t = self->value[POLYNOMIAL_STEPS];
    return base * power(1 - min_of(s, t) / t, self->value[POLYNOMIAL_POWER]);
}

enum { COSINE_STEPS, COSINE_MIN };
static double cosine(const psd_schedule_t *self, double base, double s)
{
    const double t = self->value[COSINE_STEPS], least = self->value[COSINE_MIN];
    return least + (base - least) * (1 + cos_pi(min_of(s, t) / t)) / 2;
}

enum { CYCLE_STEPS, CYCLE_PCT, CYCLE_DIV, CYCLE_FINAL, CYCLE_ANNEAL, CYCLE_MOMENTUM, CYCLE_LEAST, CYCLE_MOST };

/* torch's OneCycleLR of two phases: up until s = pct_start*steps - 1, then down until steps - 1, the position of the last step. Where
 * samples or epochs count, that position is not known, and nearly `steps`. */
static double cycle(const psd_schedule_t *self, double start, double middle, double end, double s)
{
    const double one = self->unit == PSD_UNIT_STEP ? 1 : 0;
    const double up = self->value[CYCLE_PCT] * self->value[CYCLE_STEPS] - one, last = self->value[CYCLE_STEPS] - one;
    const bool rises = s <= up;
    const double from = rises ? start : middle, to = rises ? middle : end;
    const double p = rises ? (up > 0 ? s / up : 1) : last > up ? min_of((s - up) / (last - up), 1) : 1;
    return self->value[CYCLE_ANNEAL] > 0 ? from + (to - from) * p : to + (from - to) / 2 * (cos_pi(p) + 1);
}

static double onecycle(const psd_schedule_t *self, double base, double s)
{
    const double start = base / self->value[CYCLE_DIV];
    return cycle(self, start, base, start / self->value[CYCLE_FINAL], s);
}

static double onecycle_momentum(const psd_schedule_t *self, double s)
{
    const double least = self->value[CYCLE_LEAST], most = self->value[CYCLE_MOST];
    return self->value[CYCLE_MOMENTUM] > 0 ? cycle(self, most, least, most, s) : NAN;
}

enum { WSD_STABLE, WSD_DECAY, WSD_RATIO, WSD_SHAPE };
enum { SHAPE_SQRT, SHAPE_LINEAR, SHAPE_COSINE };
static double wsd(const psd_schedule_t *self, double base, double s)
{
    const double rest = self->value[WSD_RATIO];
    if (s < self->value[WSD_STABLE])
        return base;
    const double p = min_of((s - self->value[WSD_STABLE]) / self->value[WSD_DECAY], 1);
    const int shape = (int)self->value[WSD_SHAPE];
    const double f = shape == SHAPE_SQRT ? 1 - sqrt(p) : shape == SHAPE_LINEAR ? 1 - p : (1 + cos_pi(p)) / 2;
    return base * (rest + (1 - rest) * f);
}

static const psd_schedule_kind_t kinds[] = {
    { .name = "constant", .formula = "base", .rate = constant },
    { .name = "step",
      .formula = "base*gamma^floor(s/step_size)",
      .rate = step,
      .arg = { [STEP_SIZE] = { .name = "step_size",
                               .def = NONE,
                               .min = 0,
                               .open_min = true,
                               .max = 1e15,
                               .help = "between two drops" },
               [STEP_GAMMA] = { .name = "gamma", .def = 0.1, .min = 0, .max = 1, .help = "factor of each drop" } } },
    { .name = "multistep",
      .formula = "base*gamma^(milestones that are passed)",
      .rate = multistep,
      .arg = { [MULTISTEP_MILESTONES] = { .name = "milestones",
                                          .def = NONE,
                                          .min = 0,
                                          .max = 1e15,
                                          .list = true,
                                          .help = "of each drop" },
               [MULTISTEP_GAMMA] = { .name = "gamma", .def = 0.1, .min = 0, .max = 1, .help = "factor of each drop" } } },
    { .name = "exponential",
      .formula = "base*gamma^s",
      .rate = exponential,
      .arg = { [EXPONENTIAL_GAMMA] = { .name = "gamma",
                                       .def = NONE,
                                       .min = 0,
                                       .open_min = true,
                                       .max = 1,
                                       .help = "factor of each unit" } } },
    { .name = "geometric",
      .formula = "base*start_factor*(end_factor/start_factor)^(min(s,steps)/steps)",
      .rate = geometric,
      .arg = { [GEOMETRIC_STEPS] = STEPS("until the end"),
               [GEOMETRIC_START] = { .name = "start_factor",
                                     .def = 1,
                                     .min = 0,
                                     .open_min = true,
                                     .max = 1e15,
                                     .help = "factor at the start" },
               [GEOMETRIC_END] = { .name = "end_factor",
                                   .def = NONE,
                                   .min = 0,
                                   .open_min = true,
                                   .max = 1e15,
                                   .help = "factor at the end" } } },
    { .name = "linear",
      .formula = "base*(start_factor + (end_factor-start_factor)*min(s,steps)/steps)",
      .rate = linear,
      .arg = { [LINEAR_STEPS] = STEPS("until the end"),
               [LINEAR_START] = { .name = "start_factor", .def = 1, .min = 0, .max = 1e6, .help = "factor at the start" },
               [LINEAR_END] = { .name = "end_factor", .def = 0, .min = 0, .max = 1e6, .help = "factor at the end" } } },
    { .name = "polynomial",
      .formula = "base*(1-min(s,steps)/steps)^power",
      .rate = polynomial,
      .arg = { [POLYNOMIAL_STEPS] = STEPS("until the rate is 0"),
               [POLYNOMIAL_POWER] = { .name = "power", .def = 1, .min = 0, .open_min = true, .max = 100, .help = "exponent" } } },
    { .name = "cosine",
      .formula = "min + (base-min)*(1+cos(pi*min(s,steps)/steps))/2",
      .rate = cosine,
      .arg = { [COSINE_STEPS] = STEPS("until the rate is min"),
               [COSINE_MIN] = { .name = "min", .def = 0, .min = 0, .max = 1e6, .is_least = true, .help = "rate at the end" } } },
    { .name = "onecycle",
      .formula =
          "from base/div_factor up to base at pct_start*steps - 1, then down to base/div_factor/final_div_factor at steps - 1; "
          "without the 1 where samples or epochs count",
      .rate = onecycle,
      .momentum = onecycle_momentum,
      .arg = { [CYCLE_STEPS] = STEPS("of the whole cycle"),
               [CYCLE_PCT] = { .name = "pct_start",
                               .def = 0.3,
                               .min = 0,
                               .max = 1,
                               .help = "share of the cycle in which the rate rises" },
               [CYCLE_DIV] = { .name = "div_factor",
                               .def = 25,
                               .min = 0,
                               .open_min = true,
                               .max = 1e15,
                               .help = "base over the first rate" },
               [CYCLE_FINAL] = { .name = "final_div_factor",
                                 .def = 1e4,
                                 .min = 0,
                                 .open_min = true,
                                 .max = 1e15,
                                 .help = "first rate over the last" },
               [CYCLE_ANNEAL] = { .name = "anneal", .def = 0, .words = "cos|linear", .help = "how the rate rises and falls" },
               [CYCLE_MOMENTUM] = { .name = "cycle_momentum",
                                    .def = 1,
                                    .min = 0,
                                    .max = 1,
                                    .help = "whether momentum goes the other way" },
               [CYCLE_LEAST] = { .name = "base_momentum", .def = 0.85, .min = 0, .max = 1, .help = "momentum at the highest rate" },
               [CYCLE_MOST] = { .name = "max_momentum", .def = 0.95, .min = 0, .max = 1, .help = "momentum at both ends" } } },
    { .name = "wsd",
      .formula = "base for stable; then base*(min_ratio + (1-min_ratio)*f(p)), p from 0 to 1 over decay, f = 1-sqrt(p), 1-p or "
                 "(1+cos(pi*p))/2",
      .rate = wsd,
      .arg = { [WSD_STABLE] = { .name = "stable", .def = NONE, .min = 0, .max = 1e15, .help = "before the decay" },
               [WSD_DECAY] = { .name = "decay",
                               .def = NONE,
                               .min = 0,
                               .open_min = true,
                               .max = 1e15,
                               .help = "length of the decay" },
               [WSD_RATIO] = { .name = "min_ratio", .def = 0, .min = 0, .max = 1, .help = "last rate over base" },
               [WSD_SHAPE] = { .name = "shape", .def = SHAPE_SQRT, .words = "sqrt|linear|cosine", .help = "of the decay" } } },
};

/* Every kind has these. */
static const psd_schedule_arg_t common_args[] = {
    { .name = "warmup", .def = 0, .min = 0, .max = 1e15, .help = "before the schedule begins, while the rate rises" },
    { .name = "warmup_start", .def = 0, .min = 0, .max = 1, .help = "first rate of the warm-up over base" },
};

const psd_schedule_arg_t *psd_schedule_arg(const psd_schedule_kind_t *kind, size_t i)
{
    assert(i < PSD_SCHEDULE_VALUES);
    if (i >= PSD_SCHEDULE_ARGS)
        return &common_args[i - PSD_SCHEDULE_ARGS];
    return kind->arg[i].name ? &kind->arg[i] : NULL;
}

const psd_schedule_kind_t *psd_schedule_kind_at(size_t i) { return i < sizeof kinds / sizeof *kinds ? &kinds[i] : NULL; }

bool psd_schedule_is_constant(const psd_schedule_t *self)
{
    return (!self->kind || self->kind == kinds) && !(self->value[PSD_SCHEDULE_WARMUP] > 0);
}

static const char *const units[] = { [PSD_UNIT_STEP] = "step", [PSD_UNIT_SAMPLE] = "sample", [PSD_UNIT_EPOCH] = "epoch" };

bool psd_schedule_unit_find(const char *name, psd_schedule_unit_t *out)
{
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcmp(units[i], name)) {
            *out = (psd_schedule_unit_t)i;
            return true;
        }
    return false;
}

const char *psd_schedule_unit_name(psd_schedule_unit_t unit) { return units[unit]; }

double psd_schedule_progress(const psd_schedule_t *self, uint64_t steps, uint64_t samples, uint64_t rows)
{
    if (self->unit == PSD_UNIT_STEP)
        return (double)steps;
    if (self->unit == PSD_UNIT_SAMPLE)
        return (double)samples;
    return rows ? (double)samples / (double)rows : 0;
}

double psd_schedule_rate(const psd_schedule_t *self, double base, double s)
{
    assert(s >= 0);
    if (s < self->value[PSD_SCHEDULE_WARMUP])
        return base * (self->value[PSD_SCHEDULE_WARMUP_START] +
                       (1 - self->value[PSD_SCHEDULE_WARMUP_START]) * s / self->value[PSD_SCHEDULE_WARMUP]);
    return self->kind ? self->kind->rate(self, base, s - self->value[PSD_SCHEDULE_WARMUP]) : base;
}

/* The first of `parts` points of the job from which on the rate is 0 up to its end; `parts`: it is not. */
static int zero_from(const psd_schedule_t *self, double base, double end, int parts)
{
    int first = parts;
    while (first > 0 && psd_schedule_rate(self, base, end * (first - 1) / parts) == 0)
        first--;
    return first;
}

bool psd_schedule_doubt(const psd_schedule_t *self, double base, double end, char why[PSD_SCHEDULE_DOUBT])
{
    enum { PARTS = 100, LAST = 98 }; /* a rate that is 0 only in the last steps is one that falls to 0 */
    const char *unit = psd_schedule_unit_name(self->unit);
    const double warmup = self->value[PSD_SCHEDULE_WARMUP];
    if (!self->kind || !(base > 0))
        return false;
    for (size_t i = 0; i < PSD_SCHEDULE_ARGS; i++) {
        const psd_schedule_arg_t *arg = &self->kind->arg[i];
        if (!arg->is_least || self->value[i] <= base)
            continue;
        snprintf(why, PSD_SCHEDULE_DOUBT,
                 "%s is %g, above the optimizer's learning rate, %g, so the rate rises; lower %s, or raise lr", arg->name,
                 self->value[i], base, arg->name);
        return true;
    }
    if (!(end > 0))
        return false;
    if (warmup >= end) {
        snprintf(
            why, PSD_SCHEDULE_DOUBT,
            "the warm-up takes %g %ss, but the job ends after %g, before the rate reaches %g; shorten warmup, or train for longer",
            warmup, unit, end, base);
        return true;
    }
    const int from = zero_from(self, base, end, PARTS);
    if (from > LAST)
        return false;
    snprintf(why, PSD_SCHEDULE_DOUBT,
             "the rate is 0 from about %s %.6g on, but the job ends after %.6g: the rest changes nothing; lengthen the schedule, "
             "or train for less long",
             unit, end * from / PARTS, end);
    return true;
}

bool psd_schedule_momentum(const psd_schedule_t *self, double s, double *momentum)
{
    if (!self->kind || !self->kind->momentum)
        return false;
    *momentum = self->kind->momentum(self, s < self->value[PSD_SCHEDULE_WARMUP] ? 0 : s - self->value[PSD_SCHEDULE_WARMUP]);
    return !isnan(*momentum);
}
