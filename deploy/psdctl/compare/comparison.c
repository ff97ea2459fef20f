#include "deploy/psdctl/compare/comparison.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/number.h"
#include "proto/message.h"
#include "server/core/mode.h"

/* -- rules and rates -------------------------------------------------------------------------------------- */

/* Rates chosen on the reported test set would flatter the rule with the most of them. */
static const double SWEEP_VALIDATION = 0.1;

/* Name the place of the i-th rule, for a sentence. */
static int refuse(const psd_comparison_t *self, size_t i, const char *sentence, psd_err_t *err)
{
    return psd_err_set(err, PSD_ECONFIG, "%s: rule %zu of compare.optimizers: %s",
                       psd_options_origin(self->options, PSD_OPT_compare_optimizers), i + 1, sentence);
}

static size_t count_of(const char *text, char c)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == c;
    return n;
}

static int read_rule(const psd_comparison_t *self, size_t i, const char *text, psd_rule_t *rule, psd_err_t *err)
{
    psd_err_t why = { 0 };
    char sentence[sizeof why.text + 400];
    if (psd_rule_parse(rule, text, &why) == PSD_OK)
        return PSD_OK;
    snprintf(sentence, sizeof sentence, "%.100s: %s%s", text, why.text,
             count_of(text, '(') != count_of(text, ')')
                 ? "; in [brackets] put a rule with a comma in quotes, or write each rule on a separate line after \"- \""
                 : "");
    return refuse(self, i, sentence, err);
}

/* Multiply the learning rate by the factor, rounded to nine digits: 3 times 0.1 is 0.3. */
static int sweep(psd_contender_t *c, psd_err_t *why)
{
    char number[PSD_NUMBER_TEXT];
    if (c->factor != 1)
        psd_number_read(psd_number_print_digits(c->rule.hyper[0] * c->factor, 9, number), &c->rule.hyper[0]);
    psd_rule_print(&c->rule, c->name);
    psd_rule_print_brief(&c->rule, c->label);
    return psd_rule_parse(&c->rule, c->name, why);
}

static int add_contender(psd_comparison_t *self, const psd_contender_t *model, psd_err_t *err)
{
    psd_contender_t *c = &self->contender[self->n];
    psd_err_t why = { 0 };
    char sentence[2 * PSD_RULE_TEXT];
    *c = *model;
    if (sweep(c, &why)) {
        snprintf(sentence, sizeof sentence, "%s, which is %.9g of compare.lr_sweep times its own", why.text, c->factor);
        return refuse(self, c->named, sentence, err);
    }
    for (size_t i = 0; i < self->n; i++)
        if (!strcmp(self->contender[i].name, c->name)) {
            if (self->contender[i].named != c->named)
                snprintf(sentence, sizeof sentence, "%s is the same as rule %zu; leave one out", c->label,
                         self->contender[i].named + 1);
            else
                snprintf(sentence, sizeof sentence,
                         "%s has one learning rate at two factors of compare.lr_sweep, %.9g and %.9g; %s", c->label,
                         self->contender[i].factor, c->factor, c->rule.hyper[0] == 0 ? "give it a rate above 0" : "leave one out");
            return refuse(self, c->named, sentence, err);
        }
    if (!(c->outcome = calloc(self->n_seeds, sizeof *c->outcome)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a comparison");
    self->n++;
    return PSD_OK;
}

/* Runs are compared on the same rows. Where workers do not wait for each other, the rows of one depend on when another ends. */
static int refuse_other_rows(const psd_comparison_t *self, psd_err_t *err)
{
    if (self->n_workers == 1 || psd_mode_has_rounds(psd_mode_find(psd_options_string(self->options, PSD_OPT_sync_mode))))
        return PSD_OK;
    return psd_err_set(err, PSD_ECONFIG,
                       "in asp, %u workers get other rows in each run, because none waits for the others, so rules cannot be "
                       "compared; set workers.min to 1, or sync.mode to bsp",
                       self->n_workers);
}

int psd_comparison_begin(psd_comparison_t *self, const psd_options_t *options, psd_err_t *err)
{
    const int64_t least = psd_options_int(options, PSD_OPT_workers_min), want = psd_options_int(options, PSD_OPT_workers_want);
    static const double as_it_is = 1;
    size_t n_rules, n_factors;
    const char *const *rule = psd_options_texts(options, PSD_OPT_compare_optimizers, &n_rules);
    const double *factor = psd_options_numbers(options, PSD_OPT_compare_lr_sweep, &n_factors);
    *self = (psd_comparison_t){ .options = options,
                                .n_seeds = (unsigned)psd_options_int(options, PSD_OPT_compare_seeds),
                                .n_servers = (unsigned)psd_options_int(options, PSD_OPT_servers),
                                .n_workers = (unsigned)(want > least ? want : least),
                                .first_seed = psd_options_uint(options, PSD_OPT_seed),
                                .share = 1,
                                .target = NAN };
    factor = n_factors ? factor : &as_it_is;
    n_factors = n_factors ? n_factors : 1;
    self->is_swept = n_factors > 1;
    self->least_factor = self->most_factor = factor[0];
    for (size_t f = 1; f < n_factors; f++) {
        self->least_factor = fmin(self->least_factor, factor[f]);
        self->most_factor = fmax(self->most_factor, factor[f]);
    }
    self->validation = self->is_swept && !strcmp(psd_options_origin(options, PSD_OPT_data_validation), "default")
                           ? SWEEP_VALIDATION
                           : psd_options_double(options, PSD_OPT_data_validation);
    if (!n_rules)
        return psd_err_set(err, PSD_ECONFIG,
                           "nothing to compare: name rules after --optimizers, or in the job file's "
                           "compare: {optimizers: [...]}");
    if (!(self->contender = calloc(n_rules * n_factors, sizeof *self->contender)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a comparison");
    int rc = refuse_other_rows(self, err);
    for (size_t i = 0; !rc && i < n_rules; i++) {
        psd_contender_t model = { .named = i };
        rc = read_rule(self, i, rule[i], &model.rule, err);
        for (size_t f = 0; !rc && f < n_factors; f++) {
            model.factor = factor[f];
            rc = add_contender(self, &model, err);
        }
    }
    return rc;
}

void psd_comparison_clear(psd_comparison_t *self)
{
    for (size_t c = 0; c < self->n; c++) {
        for (unsigned s = 0; s < self->n_seeds; s++)
            psd_outcome_clear(&self->contender[c].outcome[s]);
        free(self->contender[c].outcome);
    }
    free(self->contender);
    *self = (psd_comparison_t){ 0 };
}

void psd_comparison_run_name(const psd_comparison_t *self, size_t c, unsigned s, char out[PSD_CELL])
{
    const psd_contender_t *one = &self->contender[c];
    char what[PSD_RULE_TEXT + PSD_SCHEDULE_TEXT + 64];
    int n = snprintf(what, sizeof what, "%s", one->name);
    if (self->is_swept && self->validation > 0) /* trained on other rows than without a sweep */
        n += snprintf(what + n, sizeof what - (size_t)n, " validation=%.9g", self->validation);
    if (self->share < 1)
        n += snprintf(what + n, sizeof what - (size_t)n, " share=%.9g", self->share);
    if (*self->schedule)
        n += snprintf(what + n, sizeof what - (size_t)n, " schedule=%s", self->schedule);
    snprintf(out, PSD_CELL, "%s%s-%08x-seed%" PRIu64, one->rule.lookahead ? "lookahead-" : "", one->rule.opt->name,
             psd_crc32c(what, (size_t)n), self->first_seed + s);
}

/* -- measurements ------------------------------------------------------------------------------------- */

static int differs(const psd_comparison_t *self, const psd_contender_t *one, const psd_contender_t *other, unsigned s,
                   const char *what, const char *directory, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDIVERGED,
                       "with seed %" PRIu64 ", %s %s than %s: they cannot be compared; look at %s, or remove it and start "
                       "again",
                       self->first_seed + s, one->label, what, other->label, directory);
}

/* A run that stopped early has had fewer rows. */
static int check_hashes(const psd_comparison_t *self, const psd_contender_t *one, unsigned s, const char *directory, psd_err_t *err)
{
    const psd_outcome_t *mine = &one->outcome[s];
    for (size_t i = 0; i < self->n; i++) {
        const psd_contender_t *other = &self->contender[i];
        const psd_outcome_t *theirs = &other->outcome[s];
        if (other == one || !theirs->read)
            continue;
        if (strcmp(mine->sha256_initial, theirs->sha256_initial) != 0)
            return differs(self, one, other, s, "started with other weights", directory, err);
        if (mine->steps == theirs->steps && strcmp(mine->order, theirs->order) != 0)
            return differs(self, one, other, s, "was given other rows, or in another order,", directory, err);
    }
    return PSD_OK;
}

int psd_comparison_take(psd_comparison_t *self, size_t c, unsigned s, const char *directory, psd_err_t *err)
{
    psd_contender_t *one = &self->contender[c];
    psd_outcome_t *outcome = &one->outcome[s];
    int rc = psd_outcome_read(outcome, directory, self->n_workers, self->n_servers, err);
    if (!rc && strcmp(outcome->optimizer, one->name) != 0)
        rc = psd_err_set(err, PSD_EDATA, "it was trained with %s", outcome->optimizer);
    rc = rc ? rc : check_hashes(self, one, s, directory, err);
    if (rc)
        psd_outcome_clear(outcome);
    return rc;
}

/* -- evaluation ------------------------------------------------------------------------------------------ */

enum { MOST_SEEDS = 100 /* as compare.seeds allows */ };

typedef double field_fn(const psd_outcome_t *outcome, double target);

static double final_of(const psd_outcome_t *o, double target) { return (void)target, o->final; }
static double best_of(const psd_outcome_t *o, double target) { return (void)target, o->best; }
static double loss_of(const psd_outcome_t *o, double target) { return (void)target, o->loss; }
static double seconds_of(const psd_outcome_t *o, double target) { return (void)target, o->seconds; }
static double speed_of(const psd_outcome_t *o, double target) { return (void)target, o->samples_per_s; }
static double bytes_of(const psd_outcome_t *o, double target) { return (void)target, (double)o->moved_bytes; }

static double steps_to(const psd_outcome_t *o, double target)
{
    const psd_point_t *at = psd_outcome_reached(o, target);
    return at ? at->step : NAN;
}

static double seconds_to(const psd_outcome_t *o, double target)
{
    const psd_point_t *at = psd_outcome_reached(o, target);
    return at ? at->seconds : NAN;
}

static double held_of(const psd_outcome_t *o, double target) { return (void)target, o->held; }

/* What chooses among rates: the held-out rows, otherwise the test set. */
static double chosen_by(const psd_outcome_t *o, double target) { return (void)target, isfinite(o->held) ? o->held : o->final; }

typedef bool seeds_fn(const psd_outcome_t *o);
static bool has_ended(const psd_outcome_t *o) { return o->read && !o->diverged && !o->undefined; }
static bool is_good(const psd_outcome_t *o) { return has_ended(o) && !o->untrained; }

/* The spread over the seeds that count and have the field. */
static psd_spread_t spread_over(const psd_comparison_t *self, const psd_contender_t *c, seeds_fn *counts, field_fn *field)
{
    double value[MOST_SEEDS];
    size_t n = 0;
    for (unsigned s = 0; s < self->n_seeds; s++) {
        const psd_outcome_t *o = &c->outcome[s];
        value[n] = counts(o) ? field(o, self->target) : NAN;
        n += isnan(value[n]) ? 0 : 1;
    }
    return psd_spread_of(value, n);
}

static psd_spread_t spread_of(const psd_comparison_t *self, const psd_contender_t *c, field_fn *field)
{
    return spread_over(self, c, is_good, field);
}

static void sum_up(const psd_comparison_t *self, psd_contender_t *c)
{
    c->held = spread_of(self, c, held_of);
    c->ended = spread_over(self, c, has_ended, chosen_by);
    c->final = spread_of(self, c, final_of);
    c->best = spread_of(self, c, best_of);
    c->loss = spread_of(self, c, loss_of);
    c->seconds = spread_of(self, c, seconds_of);
    c->samples_per_s = spread_of(self, c, speed_of);
    c->moved_bytes = spread_of(self, c, bytes_of);
    c->n_read = c->n_diverged = c->n_undefined = c->n_untrained = 0;
    for (unsigned s = 0; s < self->n_seeds; s++) {
        c->n_read += c->outcome[s].read;
        c->n_diverged += c->outcome[s].read && c->outcome[s].diverged;
        c->n_undefined += c->outcome[s].read && c->outcome[s].undefined;
        c->n_untrained += c->outcome[s].read && c->outcome[s].untrained;
    }
}

/* The metric of the first outcome: all have the same one, because they are of one job. */
static void find_metric(psd_comparison_t *self)
{
    for (size_t c = 0; c < self->n && !*self->metric; c++)
        for (unsigned s = 0; s < self->n_seeds && !*self->metric; s++)
            if (self->contender[c].outcome[s].read)
                snprintf(self->metric, sizeof self->metric, "%s", self->contender[c].outcome[s].metric);
    self->smaller_is_better = psd_outcome_smaller_is_better(self->metric);
}

static bool is_whole(const psd_comparison_t *self, const psd_contender_t *c) { return c->final.n == self->n_seeds; }

/* Below zero: `a` is better, by the means of the two spreads; contenders with more successful seeds come first in any case. */
static int compare_by(const psd_comparison_t *self, const psd_contender_t *a, const psd_contender_t *b, const psd_spread_t *of_a,
                      const psd_spread_t *of_b)
{
    if (a->final.n != b->final.n)
        return a->final.n > b->final.n ? -1 : 1;
    if (of_a->n && of_b->n && of_a->mean != of_b->mean)
        return (of_a->mean < of_b->mean) == self->smaller_is_better ? -1 : 1;
    return 0;
}

/* The chosen ones first. */
static int by_rank(const void *a_, const void *b_, void *arg)
{
    const psd_comparison_t *self = arg;
    const psd_contender_t *a = a_, *b = b_;
    if (a->is_best_of_sweep != b->is_best_of_sweep)
        return a->is_best_of_sweep ? -1 : 1;
    const int order = compare_by(self, a, b, &a->final, &b->final);
    if (order)
        return order;
    return a->named != b->named ? (a->named < b->named ? -1 : 1) : (a->factor > b->factor) - (a->factor < b->factor);
}

int psd_comparison_number(double value, bool is_share, char *out, size_t capacity)
{
    return snprintf(out, capacity, is_share ? "%.4f" : "%.4g", value);
}

void psd_comparison_value(const psd_comparison_t *self, double value, char out[PSD_CELL])
{
    psd_comparison_number(value, !self->smaller_is_better, out, PSD_CELL);
}

/* Round to the digits of the table, so that values that look equal there count as equal. */
static psd_spread_t as_shown(const psd_comparison_t *self, psd_spread_t spread)
{
    char text[PSD_CELL];
    psd_comparison_value(self, spread.least, text);
    spread.least = strtod(text, NULL);
    psd_comparison_value(self, spread.most, text);
    spread.most = strtod(text, NULL);
    return spread;
}

/* A single value has no range, so a single seed cannot distinguish rules. */
static int find_groups(psd_comparison_t *self)
{
    psd_spread_t *spread = calloc(self->n, sizeof *spread);
    psd_spread_groups_t *groups = calloc(self->n, sizeof *groups);
    const bool good = spread && groups;
    for (size_t i = 0; good && i < self->n; i++)
        if (i < self->n_chosen && is_whole(self, &self->contender[i]) && self->n_seeds > 1)
            spread[i] = as_shown(self, self->contender[i].final);
    if (good)
        psd_spread_groups(spread, self->n, self->smaller_is_better, groups);
    for (size_t i = 0; good && i < self->n; i++)
        self->contender[i].groups = groups[i];
    free(spread);
    free(groups);
    return good ? PSD_OK : PSD_ENOMEM;
}

/* Below zero: `a` is the better rate of a rule, by the held-out rows, otherwise by the test set. If neither has trained, those
 * still tell which one comes closer. Of equal ones, as when slow weights have not moved yet, the one nearer to the rule's own rate. */
static int compare_rates(const psd_comparison_t *self, const psd_contender_t *a, const psd_contender_t *b)
{
    const bool by_held = a->held.n && b->held.n, failed = !a->final.n && !b->final.n && a->ended.n && b->ended.n;
    const int order = failed    ? compare_by(self, a, b, &a->ended, &b->ended)
                      : by_held ? compare_by(self, a, b, &a->held, &b->held)
                                : compare_by(self, a, b, &a->final, &b->final);
    const double farther = fabs(log(a->factor)) - fabs(log(b->factor));
    return order ? order : (farther > 1e-9) - (farther < -1e-9);
}

/* Choose each rule's best learning rate. */
static void find_best_of_sweeps(psd_comparison_t *self)
{
    for (size_t i = 0; i < self->n; i++) {
        psd_contender_t *c = &self->contender[i];
        bool best = true;
        for (size_t k = 0; k < self->n; k++) {
            const psd_contender_t *other = &self->contender[k];
            if (k == i || other->named != c->named)
                continue;
            const int order = compare_rates(self, other, c);
            best = best && (order > 0 || (order == 0 && k > i));
        }
        c->is_best_of_sweep = best;
        c->is_at_edge = best && self->is_swept && c->final.n && (c->factor <= self->least_factor || c->factor >= self->most_factor);
        self->n_chosen += best;
    }
}

const psd_spread_t *psd_contender_chosen_by(const psd_contender_t *self) { return self->held.n ? &self->held : &self->final; }

/* As psd_comparison_place, rule by rule. */
static int by_choice(const void *a_, const void *b_, void *arg)
{
    const psd_contender_t *a = a_, *b = b_;
    if (a->named != b->named)
        return a->named < b->named ? -1 : 1;
    const int order = compare_rates(arg, a, b);
    return order ? order : (a->factor > b->factor) - (a->factor < b->factor);
}

void psd_comparison_sort_by_choice(psd_comparison_t *self)
{
    qsort_r(self->contender, self->n, sizeof *self->contender, by_choice, self);
}

size_t psd_comparison_place(const psd_comparison_t *self, size_t c)
{
    const psd_contender_t *one = &self->contender[c];
    size_t place = 1;
    for (size_t k = 0; k < self->n; k++) {
        const psd_contender_t *other = &self->contender[k];
        if (k == c || other->named != one->named)
            continue;
        const int order = compare_rates(self, other, one);
        place += order < 0 || (order == 0 && other->factor < one->factor);
    }
    return place;
}

int psd_comparison_narrow(psd_comparison_t *self, const psd_comparison_t *from, const bool *keep, double share, psd_err_t *err)
{
    *self = (psd_comparison_t){ .options = from->options,
                                .n_seeds = from->n_seeds,
                                .n_servers = from->n_servers,
                                .n_workers = from->n_workers,
                                .first_seed = from->first_seed,
                                .share = share,
                                .least_factor = from->least_factor,
                                .most_factor = from->most_factor,
                                .validation = from->validation,
                                .is_swept = from->is_swept,
                                .target = NAN };
    if (!(self->contender = calloc(from->n, sizeof *self->contender)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a comparison");
    for (size_t c = 0; c < from->n; c++) {
        if (!keep[c])
            continue;
        const psd_contender_t *one = &from->contender[c];
        psd_contender_t *kept = &self->contender[self->n];
        *kept = (psd_contender_t){ .rule = one->rule, .named = one->named, .factor = one->factor };
        memcpy(kept->label, one->label, sizeof kept->label);
        memcpy(kept->name, one->name, sizeof kept->name);
        if (!(kept->outcome = calloc(self->n_seeds, sizeof *kept->outcome)))
            return psd_err_set(err, PSD_ENOMEM, "no memory for a comparison");
        self->n++;
    }
    return PSD_OK;
}

bool psd_comparison_failed_seeds(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    const struct {
        unsigned n;
        const char *how;
    } kind[] = { { c->n_diverged, "diverged" },
                 { c->n_untrained, "failed to train" },
                 { c->n_undefined, "undefined" },
                 { self->n_seeds - c->n_read, "failed" } };
    size_t used = 0;
    *out = '\0';
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++)
        if (kind[i].n)
            used += (size_t)snprintf(out + used, PSD_CELL - used, "%s%u of %u %s", used ? ", " : "", kind[i].n, self->n_seeds,
                                     kind[i].how);
    return used > 0;
}

const char *psd_contender_failure(const psd_contender_t *self)
{
    return self->final.n       ? NULL
           : self->n_untrained ? "failed to train"
           : self->n_diverged  ? "diverged"
           : self->n_undefined ? "undefined"
                               : "failed";
}

const char *psd_comparison_chosen_on(const psd_comparison_t *self, char out[PSD_CELL])
{
    bool held = false, read = false;
    for (size_t c = 0; c < self->n; c++)
        for (unsigned s = 0; s < self->n_seeds; s++) {
            const psd_outcome_t *o = &self->contender[c].outcome[s];
            read = read || o->read;
            held = held || (o->read && (isfinite(o->held) || (o->undefined && self->validation > 0)));
        }
    if (!self->is_swept)
        return NULL;
    if (held || (!read && self->validation > 0))
        snprintf(out, PSD_CELL, "the %.3g %% of the training rows that were held out", 100 * self->validation);
    else if (self->validation > 0)
        snprintf(out, PSD_CELL, "the held-out rows that it is reported on: there is no test set");
    else if (!strcmp(self->metric, PSD_TRAINING_LOSS))
        snprintf(out, PSD_CELL, "the training loss that it is reported by: there is no test set");
    else
        snprintf(out, PSD_CELL, "the test set that it is reported on, which flatters it");
    return out;
}

/* The target is the one given, otherwise the final value of the baseline's worst seed, which all its seeds reach, and which other
 * rules may reach sooner. The baseline is the first rule given, in a sweep with its best learning rate, or the first successful one
 * after it. */
static void find_target(psd_comparison_t *self)
{
    const double told = psd_options_double(self->options, PSD_OPT_compare_target),
                 stop = psd_options_double(self->options, PSD_OPT_stop_target);
    const psd_contender_t *base = NULL;
    for (size_t i = 0; i < self->n; i++) {
        const psd_contender_t *c = &self->contender[i];
        base = c->is_best_of_sweep && c->final.n && (!base || c->named < base->named) ? c : base;
    }
    self->target_is_ours = !(told > 0 || stop > 0);
    self->target = told > 0 ? told : stop > 0 ? stop : !base ? NAN : self->smaller_is_better ? base->final.most : base->final.least;
}

static void append(psd_comparison_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(psd_comparison_t *self, const char *format, ...)
{
    const size_t used = strlen(self->verdict);
    va_list args;
    va_start(args, format);
    vsnprintf(self->verdict + used, sizeof self->verdict - used, format, args);
    va_end(args);
}

/* Name the rules whose range overlaps with the first one's; false when there is none. */
static bool name_equals(psd_comparison_t *self)
{
    enum { NAMED = 4 };
    const psd_contender_t *first = &self->contender[0];
    unsigned n = 0, more = 0;
    for (size_t i = 1; i < self->n_chosen; i++) {
        const psd_contender_t *c = &self->contender[i];
        if (!c->groups.first || c->groups.first > first->groups.last || c->groups.last < first->groups.first)
            continue;
        if (n == 0)
            append(self, "No winner: over %u seeds, the %s of %s overlaps with that of ", self->n_seeds, self->metric,
                   first->label);
        if (n < NAMED)
            append(self, "%s%s", n ? ", " : "", c->label);
        more += n++ >= NAMED;
    }
    if (more)
        append(self, " and %u more", more);
    if (n)
        append(self, ".");
    return n > 0;
}

/* The verdict on a single rule. */
static void tell_of_one(psd_comparison_t *self)
{
    const psd_contender_t *one = &self->contender[0];
    const char *failure = psd_contender_failure(one);
    char value[PSD_CELL], failed[PSD_CELL];
    psd_comparison_value(self, one->final.mean, value);
    append(self, "One rule only: %s ", one->label);
    if (failure)
        append(self, "%s.", failure);
    else if (self->is_swept)
        append(self, "does best of %zu learning rates, with %s %s", self->n, self->metric, value);
    else
        append(self, "ends with %s %s", self->metric, value);
    if (!failure && psd_comparison_failed_seeds(self, one, failed))
        append(self, "; of its seeds, %s", failed);
    if (!failure)
        append(self, ". Name another rule to compare it with.");
}

static void find_verdict(psd_comparison_t *self)
{
    size_t whole = 0;
    for (size_t i = 0; i < self->n_chosen; i++)
        whole += is_whole(self, &self->contender[i]);
    if (self->n_chosen == 1)
        tell_of_one(self);
    else if (whole < 2)
        append(self, "No winner: only %zu of %zu succeeded with every seed.", whole, self->n_chosen);
    else if (self->n_seeds == 1)
        append(self, "No winner: one seed cannot rule out chance. Try --seeds=3 or more.");
    else if (!name_equals(self)) {
        self->winner = &self->contender[0];
        append(self,
               "%s is ahead: its worst seed is better than the best one of %s. Between two equal rules, this would happen by "
               "chance in 1 of %.6g comparisons.",
               self->winner->label, self->n_chosen > 2 ? "every other" : self->contender[1].label,
               1 / psd_spread_chance(self->n_seeds));
    }
}

/* Note that the best learning rate may lie outside the grid. */
static void find_advice(psd_comparison_t *self)
{
    size_t used = 0;
    for (size_t i = 0; i < self->n_chosen; i++)
        if (self->contender[i].is_at_edge && used < sizeof self->advice)
            used += (size_t)snprintf(self->advice + used, sizeof self->advice - used, "%s%s", used ? ", " : "",
                                     self->contender[i].label);
    if (used && used < sizeof self->advice)
        snprintf(self->advice + used, sizeof self->advice - used, ": best at the edge of the grid: widen it.");
}

int psd_comparison_judge(psd_comparison_t *self, psd_err_t *err)
{
    find_metric(self);
    for (size_t i = 0; i < self->n; i++)
        sum_up(self, &self->contender[i]);
    find_best_of_sweeps(self);
    qsort_r(self->contender, self->n, sizeof *self->contender, by_rank, self);
    find_target(self);
    for (size_t i = 0; i < self->n; i++) {
        self->contender[i].steps_to_target = spread_of(self, &self->contender[i], steps_to);
        self->contender[i].seconds_to_target = spread_of(self, &self->contender[i], seconds_to);
    }
    const int rc = find_groups(self);
    find_verdict(self);
    find_advice(self);
    return rc ? psd_err_set(err, rc, "no memory to compare") : PSD_OK;
}
