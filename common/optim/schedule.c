#include "common/optim/schedule.h"

#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/scanner.h"
#include "common/base/words.h"
#include "common/config/number.h"

/* ---- arithmetic that is the same everywhere ---- */

/* x^y for x >= 0 and y >= 0: the whole part of y by squaring, the rest by the binary digits of its fraction, each of which is one more
 * square root. */
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

/* torch's OneCycleLR of two phases: up until s = pct_start*steps - 1, then down until steps - 1. */
static double cycle(const psd_schedule_t *self, double start, double middle, double end, double s)
{
    const double up = self->value[CYCLE_PCT] * self->value[CYCLE_STEPS] - 1, last = self->value[CYCLE_STEPS] - 1;
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
               [COSINE_MIN] = { .name = "min", .def = 0, .min = 0, .max = 1e6, .help = "rate at the end" } } },
    { .name = "onecycle",
      .formula =
          "from base/div_factor up to base at pct_start*steps - 1, then down to base/div_factor/final_div_factor at steps - 1",
      .rate = onecycle,
      .momentum = onecycle_momentum,
      .arg = { [CYCLE_STEPS] = STEPS("of the whole cycle"),
               [CYCLE_PCT] = { .name = "pct_start", .def = 0.3, .min = 0, .max = 1, .help = "share of it that rises" },
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
               [CYCLE_ANNEAL] = { .name = "anneal", .def = 0, .words = "cos|linear", .help = "how it rises and falls" },
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
enum { WARMUP, WARMUP_START };
static const psd_schedule_arg_t common_args[] = {
    [WARMUP] = { .name = "warmup", .def = 0, .min = 0, .max = 1e15, .help = "before the schedule begins, while the rate rises" },
    [WARMUP_START] = { .name = "warmup_start", .def = 0, .min = 0, .max = 1, .help = "first rate of the warm-up over base" },
};

const psd_schedule_kind_t *psd_schedule_kind_at(size_t i) { return i < sizeof kinds / sizeof *kinds ? &kinds[i] : NULL; }

double psd_schedule_rate(const psd_schedule_t *self, double base, double s)
{
    assert(s >= 0);
    if (s < self->warmup)
        return base * (self->warmup_start + (1 - self->warmup_start) * s / self->warmup);
    return self->kind->rate(self, base, s - self->warmup);
}

bool psd_schedule_momentum(const psd_schedule_t *self, double s, double *momentum)
{
    if (!self->kind->momentum)
        return false;
    *momentum = self->kind->momentum(self, s < self->warmup ? 0 : s - self->warmup);
    return !isnan(*momentum);
}

/* ---- the grammar: kind [ "(" name "=" value { "," name "=" value } ")" ] ---- */

enum { N_COMMON = sizeof common_args / sizeof *common_args };

/* Where the values of one schedule are kept while it is read: the kind's own, then the common ones. */
typedef struct values {
    double value[PSD_SCHEDULE_ARGS + N_COMMON];
    bool given[PSD_SCHEDULE_ARGS + N_COMMON];
} values_t;

static const psd_schedule_arg_t *arg_at(const psd_schedule_kind_t *kind, size_t i)
{
    if (i < PSD_SCHEDULE_ARGS)
        return kind->arg[i].name ? &kind->arg[i] : NULL;
    return &common_args[i - PSD_SCHEDULE_ARGS];
}

static int read_kind(psd_scanner_t *p, const psd_schedule_kind_t **out)
{
    char word[PSD_SCANNER_WORD], known[160] = "";
    psd_nearest_t nearest = { 0 };
    const int rc = psd_scanner_word(p, word, "the name of a schedule");
    if (rc)
        return rc;
    for (size_t i = 0; (*out = psd_schedule_kind_at(i)); i++) {
        const size_t used = strlen(known);
        if (!strcmp((*out)->name, word))
            return PSD_OK;
        psd_nearest_consider(&nearest, word, (*out)->name);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", (*out)->name);
    }
    const char *at = p->at - strlen(word);
    if (*nearest.word)
        return psd_scanner_fail(p, at, "unknown schedule '%s'; the nearest is '%s'", word, nearest.word);
    return psd_scanner_fail(p, at, "unknown schedule '%s'; there are %s", word, known);
}

static int read_name(psd_scanner_t *p, const psd_schedule_kind_t *kind, size_t *out)
{
    char word[PSD_SCANNER_WORD];
    psd_nearest_t nearest = { 0 };
    const int rc = psd_scanner_word(p, word, "the name of an argument");
    if (rc)
        return rc;
    for (*out = 0; *out < PSD_SCHEDULE_ARGS + N_COMMON; ++*out) {
        const psd_schedule_arg_t *arg = arg_at(kind, *out);
        if (arg && !strcmp(arg->name, word))
            return PSD_OK;
        if (arg)
            psd_nearest_consider(&nearest, word, arg->name);
    }
    const char *at = p->at - strlen(word);
    if (*nearest.word)
        return psd_scanner_fail(p, at, "%s has no '%s'; the nearest is '%s'", kind->name, word, nearest.word);
    return psd_scanner_fail(p, at, "%s has no '%s'", kind->name, word);
}

static int read_number(psd_scanner_t *p, const psd_schedule_arg_t *arg, double *value)
{
    char min[PSD_NUMBER_TEXT], max[PSD_NUMBER_TEXT];
    psd_scanner_skip_spaces(p);
    const char *at = p->at;
    const size_t n = psd_number_read(at, value);
    if (n == 0)
        return psd_scanner_expected(p, "a finite decimal number");
    p->at += n;
    if (!(*value >= arg->min && *value <= arg->max) || (arg->open_min && *value == arg->min))
        return psd_scanner_fail(p, at, "%.*s is out of range for %s: it must be %s %s and at most %s", n < 40 ? (int)n : 40, at,
                                arg->name, arg->open_min ? "above" : "at least", psd_number_print(arg->min, min),
                                psd_number_print(arg->max, max));
    return PSD_OK;
}

static int read_word(psd_scanner_t *p, const psd_schedule_arg_t *arg, double *value)
{
    char word[PSD_SCANNER_WORD], *rest, words[64], *name;
    const int rc = psd_scanner_word(p, word, arg->words);
    if (rc)
        return rc;
    snprintf(words, sizeof words, "%s", arg->words);
    rest = words;
    for (*value = 0; (name = strsep(&rest, "|")); ++*value)
        if (!strcmp(name, word))
            return PSD_OK;
    return psd_scanner_fail(p, p->at - strlen(word), "%s is %s, not '%s'", arg->name, arg->words, word);
}

static int read_list(psd_scanner_t *p, const psd_schedule_arg_t *arg, double milestone[PSD_MILESTONES], double *n)
{
    *n = 0;
    do {
        const size_t i = (size_t)*n;
        psd_scanner_skip_spaces(p);
        const char *at = p->at;
        if (i == PSD_MILESTONES)
            return psd_scanner_fail(p, at, "more than %d %s", PSD_MILESTONES, arg->name);
        const int rc = read_number(p, arg, &milestone[i]);
        if (rc)
            return rc;
        if (i && !(milestone[i] > milestone[i - 1]))
            return psd_scanner_fail(p, at, "%s must rise", arg->name);
        ++*n;
    } while (psd_scanner_take(p, '/'));
    return PSD_OK;
}

static int read_argument(psd_scanner_t *p, psd_schedule_t *out, values_t *values)
{
    size_t i = 0;
    psd_scanner_skip_spaces(p);
    const char *at = p->at;
    int rc = read_name(p, out->kind, &i);
    if (rc)
        return rc;
    const psd_schedule_arg_t *arg = arg_at(out->kind, i);
    if (values->given[i])
        return psd_scanner_fail(p, at, "%s is given twice", arg->name);
    if (!psd_scanner_take(p, '='))
        return psd_scanner_expected(p, "'='");
    values->given[i] = true;
    return arg->list    ? read_list(p, arg, out->milestone, &values->value[i])
           : arg->words ? read_word(p, arg, &values->value[i])
                        : read_number(p, arg, &values->value[i]);
}

static int read_arguments(psd_scanner_t *p, psd_schedule_t *out, values_t *values)
{
    if (!psd_scanner_take(p, '(') || psd_scanner_take(p, ')'))
        return PSD_OK;
    do {
        const int rc = read_argument(p, out, values);
        if (rc)
            return rc;
    } while (psd_scanner_take(p, ','));
    return psd_scanner_take(p, ')') ? PSD_OK : psd_scanner_expected(p, "',' or ')'");
}

int psd_schedule_parse(psd_schedule_t *out, const char *spec, psd_err_t *err)
{
    psd_scanner_t p = { .what = "schedule", .text = spec, .at = spec, .err = err };
    psd_schedule_t read = { 0 };
    values_t values = { 0 };
    int rc = read_kind(&p, &read.kind);
    rc = rc ? rc : read_arguments(&p, &read, &values);
    if (rc)
        return rc;
    psd_scanner_skip_spaces(&p);
    if (*p.at)
        return psd_scanner_expected(&p, "nothing more");
    for (size_t i = 0; i < PSD_SCHEDULE_ARGS + N_COMMON; i++) {
        const psd_schedule_arg_t *arg = arg_at(read.kind, i);
        if (arg && !values.given[i] && isnan(arg->def))
            return psd_scanner_fail(&p, p.at, "%s needs %s, %s", read.kind->name, arg->name, arg->help);
        const double value = !arg ? 0 : values.given[i] ? values.value[i] : arg->def;
        if (i < PSD_SCHEDULE_ARGS)
            read.value[i] = value;
        else if (i == PSD_SCHEDULE_ARGS + WARMUP)
            read.warmup = value;
        else
            read.warmup_start = value;
    }
    *out = read;
    return PSD_OK;
}

static size_t print_value(const psd_schedule_t *self, const psd_schedule_arg_t *arg, double value, char *out, size_t room)
{
    char text[PSD_NUMBER_TEXT];
    size_t n = 0;
    if (arg->words) {
        const char *word = arg->words;
        for (size_t i = 0; i < (size_t)value; i++)
            word = strchr(word, '|') + 1;
        return (size_t)snprintf(out, room, "%.*s", (int)strcspn(word, "|"), word);
    }
    if (!arg->list)
        return (size_t)snprintf(out, room, "%s", psd_number_print(value, text));
    for (size_t i = 0; i < (size_t)value && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%s", i ? "/" : "", psd_number_print(self->milestone[i], text));
    return n;
}

char *psd_schedule_print(const psd_schedule_t *self, char buf[PSD_SCHEDULE_TEXT])
{
    size_t n = (size_t)snprintf(buf, PSD_SCHEDULE_TEXT, "%s(", self->kind->name);
    for (size_t i = 0; i < PSD_SCHEDULE_ARGS + N_COMMON; i++) {
        const psd_schedule_arg_t *arg = arg_at(self->kind, i);
        if (!arg)
            continue;
        const double value = i < PSD_SCHEDULE_ARGS             ? self->value[i]
                             : i == PSD_SCHEDULE_ARGS + WARMUP ? self->warmup
                                                               : self->warmup_start;
        n += (size_t)snprintf(buf + n, PSD_SCHEDULE_TEXT - n, "%s%s=", buf[n - 1] == '(' ? "" : ", ", arg->name);
        n += print_value(self, arg, value, buf + n, PSD_SCHEDULE_TEXT - n);
    }
    snprintf(buf + n, PSD_SCHEDULE_TEXT - n, ")");
    return buf;
}
