#include "deploy/psdctl/compare/tuning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/groups.h"

/* The number of rates in the next round: a third, but two in the last round. */
static size_t fewer(size_t n_rates)
{
    const size_t third = (n_rates + PSD_TUNING_THIRD - 1) / PSD_TUNING_THIRD;
    return third < PSD_TUNING_LAST ? PSD_TUNING_LAST : third;
}

size_t psd_tuning_rounds(size_t n_rates)
{
    size_t rounds = 1;
    for (; n_rates > PSD_TUNING_LAST; n_rates = fewer(n_rates))
        rounds++;
    return rounds;
}

/* The fraction of the job in which each Lookahead moves its slow weights once; 0 if that is not known, because the job ends by
 * epochs. */
static double least_share(const psd_tuning_t *self)
{
    const psd_options_t *o = self->grid.options;
    const uint64_t steps = psd_options_uint(o, PSD_OPT_stop_steps);
    uint32_t k = 0;
    for (size_t c = 0; c < self->grid.n; c++)
        if (self->grid.contender[c].rule.lookahead && self->grid.contender[c].rule.k > k)
            k = self->grid.contender[c].rule.k;
    return !steps || psd_options_double(o, PSD_OPT_stop_epochs) > 0 ? 0 : fmin((double)k / (double)steps, 1);
}

/* The fraction of the job in round `r`, from 0: 1 in the last, 0.15 in the one before it, and a third of the next one's in each
 * earlier round. With nine rates, the search costs 9 * 0.05 + 3 * 0.15 + 2 = 2.9 whole jobs instead of nine, less than a third even
 * after each run is rounded up to a whole step. */
static double share_of(const psd_tuning_t *self, size_t r)
{
    const size_t before_last = self->n_rounds - 1 - r;
    return before_last ? fmax(0.15 * pow(PSD_TUNING_THIRD, 1 - (double)before_last), least_share(self)) : 1;
}

/* ---- Range tests ---- */

static const double RANGE_SHARE = 0.05; /* of the job, in which the rate rises; as long as a run of the first of three rounds */

static const psd_contender_t *extreme_of(const psd_comparison_t *grid, size_t rule, bool is_highest)
{
    const psd_contender_t *found = NULL;
    for (size_t c = 0; c < grid->n; c++) {
        const psd_contender_t *one = &grid->contender[c];
        if (one->named == rule && (!found || (one->factor > found->factor) == is_highest))
            found = one;
    }
    return found;
}

/* "adam(lr=1e-05 to 0.1)" */
static void name_range(const psd_comparison_t *grid, size_t rule, char out[PSD_RULE_TEXT])
{
    const char *label = extreme_of(grid, rule, false)->label, *lr = strstr(label, "lr=");
    const int n = lr ? (int)(lr - label + (ptrdiff_t)strcspn(lr, ",)")) : (int)strlen(label);
    snprintf(out, PSD_RULE_TEXT, "%.*s to %.6g%s", n, label, psd_rule_lr(&extreme_of(grid, rule, true)->rule), label + n);
}

/* Why a rate that rises would say nothing of the same rates one by one; NULL: it would. */
static const char *no_test(const psd_tuning_t *self, const psd_contender_t *one)
{
    psd_groups_t groups;
    if (self->n_rates <= PSD_TUNING_FEW)
        return "there are few rates";
    if (psd_range_is_short(&self->rise, self->n_rates))
        return "it would have too few steps";
    if (one->rule.opt->finds_rate)
        return "it finds its own rate";
    if (one->rule.opt->average)
        return "it trains with an average of its steps";
    if (psd_groups_parse(&groups, one->name, psd_options_text(self->grid.options, PSD_OPT_groups), NULL) != PSD_OK)
        return NULL; /* the runs will say what is wrong */
    for (uint32_t g = 0; g < groups.n; g++)
        if (!groups.at[g].freezes && psd_rule_lr(&groups.at[g].rule) != psd_rule_lr(&one->rule))
            return "some tensors have a rate of their own";
    return NULL;
}

/* In epochs if the job ends by them. */
static psd_range_t rise_of(const psd_comparison_t *grid)
{
    const double epochs = psd_options_double(grid->options, PSD_OPT_stop_epochs) * RANGE_SHARE,
                 steps = ceil((double)psd_options_uint(grid->options, PSD_OPT_stop_steps) * RANGE_SHARE);
    return (psd_range_t){ .span = grid->most_factor / grid->least_factor,
                          .length = epochs > 0 ? epochs : fmax(steps, 1),
                          .by_epoch = epochs > 0 };
}

static int begin_ranges(psd_tuning_t *self, psd_err_t *err)
{
    bool *keep = calloc(self->grid.n, sizeof *keep);
    if (!keep || !(self->rule = calloc(self->n_rules, sizeof *self->rule))) {
        free(keep);
        return psd_err_set(err, PSD_ENOMEM, "no memory for a search");
    }
    self->rise = rise_of(&self->grid);
    for (size_t i = 0; i < self->n_rules; i++) {
        psd_tuning_rule_t *rule = &self->rule[i];
        const psd_contender_t *first = extreme_of(&self->grid, i, false);
        name_range(&self->grid, i, rule->label);
        rule->found.why_not = no_test(self, first);
        rule->is_tested = keep[first - self->grid.contender] = !rule->found.why_not;
    }
    const psd_schedule_t schedule = psd_range_schedule(&self->rise);
    const int rc = psd_comparison_narrow(&self->range, &self->grid, keep, RANGE_SHARE, err);
    psd_schedule_print(&schedule, self->range.schedule);
    self->range.schedule_unit = psd_schedule_unit_name(self->rise.by_epoch ? PSD_UNIT_EPOCH : PSD_UNIT_STEP);
    for (size_t c = 0; c < self->range.n; c++)
        memcpy(self->range.contender[c].label, self->rule[self->range.contender[c].named].label, PSD_RULE_TEXT);
    free(keep);
    return rc;
}

/* Over the seeds; a run that failed says nothing. */
static void judge_range(psd_tuning_t *self, const psd_contender_t *one)
{
    psd_range_found_t *found = &self->rule[one->named].found;
    for (unsigned s = 0; s < self->range.n_seeds; s++) {
        const psd_outcome_t *o = &one->outcome[s];
        psd_range_found_t here = { .why_not = "its range test failed" };
        if (o->read)
            here = psd_range_judge(&self->rise, &o->losses, psd_rule_lr(&one->rule), self->n_rates);
        *found = s ? psd_range_both(*found, here) : here;
    }
}

static int by_rate(const void *a, const void *b)
{
    const double x = psd_rule_lr(&(*(const psd_contender_t *const *)a)->rule),
                 y = psd_rule_lr(&(*(const psd_contender_t *const *)b)->rule);
    return (x > y) - (x < y);
}

/* Which rates of the grid the range tests leave. */
static int pick(const psd_tuning_t *self, bool *keep, psd_err_t *err)
{
    const psd_contender_t **of = calloc(self->n_rates, sizeof *of);
    double *rate = calloc(self->n_rates, sizeof *rate);
    bool *kept = calloc(self->n_rates, sizeof *kept);
    const bool good = of && rate && kept;
    for (size_t i = 0; good && i < self->n_rules; i++) {
        size_t n = 0;
        for (size_t c = 0; c < self->grid.n; c++)
            if (self->grid.contender[c].named == i)
                of[n++] = &self->grid.contender[c];
        qsort(of, n, sizeof *of, by_rate);
        for (size_t k = 0; k < n; k++)
            rate[k] = psd_rule_lr(&of[k]->rule);
        psd_range_keep(&self->rule[i].found, rate, n, PSD_TUNING_FEW, kept);
        for (size_t k = 0; k < n; k++)
            keep[of[k] - self->grid.contender] = kept[k];
    }
    free(of);
    free(rate);
    free(kept);
    return good ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for a search");
}

/* ---- The search ---- */

/* Begin the next round with the chosen contenders of `from`. */
static int begin_round(psd_tuning_t *self, const psd_comparison_t *from, const bool *keep, psd_err_t *err)
{
    const size_t next = self->n_begun++;
    return psd_comparison_narrow(&self->round[next], from, keep, share_of(self, next), err);
}

static int begin_first_round(psd_tuning_t *self, psd_err_t *err)
{
    bool *keep = calloc(self->grid.n, sizeof *keep);
    int rc = keep ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for a search");
    for (size_t c = 0; c < self->range.n; c++)
        judge_range(self, &self->range.contender[c]);
    rc = rc ? rc : pick(self, keep, err);
    rc = rc ? rc : begin_round(self, &self->grid, keep, err);
    free(keep);
    return rc;
}

int psd_tuning_begin(psd_tuning_t *self, const psd_options_t *options, psd_err_t *err)
{
    *self = (psd_tuning_t){ 0 };
    psd_options_numbers(options, PSD_OPT_compare_lr_sweep, &self->n_rates);
    self->n_rounds = psd_tuning_rounds(self->n_rates);
    int rc = psd_comparison_begin(&self->grid, options, err);
    if (!rc && self->n_rates < 2)
        rc = psd_err_set(err, PSD_ECONFIG, "%s: a search needs more than one learning rate; give compare.lr_sweep several factors",
                         psd_options_origin(options, PSD_OPT_compare_lr_sweep));
    if (!rc && self->n_rounds > PSD_TUNING_ROUNDS)
        rc = psd_err_set(err, PSD_ECONFIG, "%zu learning rates are more than a search takes: at most 4374", self->n_rates);
    if (rc)
        return rc;
    self->n_rules = self->grid.n / self->n_rates;
    rc = begin_ranges(self, err);
    return rc || self->range.n ? rc : begin_first_round(self, err);
}

void psd_tuning_clear(psd_tuning_t *self)
{
    psd_comparison_clear(&self->grid);
    psd_comparison_clear(&self->range);
    for (size_t r = 0; r < self->n_begun; r++)
        psd_comparison_clear(&self->round[r]);
    free(self->rule);
    *self = (psd_tuning_t){ 0 };
}

psd_comparison_t *psd_tuning_now(psd_tuning_t *self) { return self->n_begun ? &self->round[self->n_begun - 1] : &self->range; }

/* Rates of the rule with index `named` in a round. */
static size_t rates_of(const psd_comparison_t *round, size_t named)
{
    size_t n = 0;
    for (size_t c = 0; c < round->n; c++)
        n += round->contender[c].named == named;
    return n;
}

/* The contender of round `r` with this rule and rate; NULL: that round has none. */
static const psd_contender_t *in_round(const psd_tuning_t *self, size_t r, const psd_contender_t *one)
{
    for (size_t c = 0; r < self->n_begun && c < self->round[r].n; c++)
        if (!strcmp(self->round[r].contender[c].name, one->name))
            return &self->round[r].contender[c];
    return NULL;
}

/* The contender of the first round with the next lower rate; NULL: none lower was trained. */
static const psd_contender_t *next_lower(const psd_tuning_t *self, const psd_contender_t *one)
{
    const psd_contender_t *found = NULL;
    for (size_t c = 0; c < self->round[0].n; c++) {
        const psd_contender_t *other = &self->round[0].contender[c];
        if (other->named == one->named && other->factor < one->factor && (!found || other->factor > found->factor))
            found = other;
    }
    return found;
}

/* Whether it is worth training for longer: it did not diverge or fail. */
static bool is_worth_it(const psd_contender_t *one) { return one->final.n || one->n_untrained; }

/* The contender of the present round with this place among the rates of the rule. */
static const psd_contender_t *placed(const psd_comparison_t *now, size_t named, size_t place)
{
    for (size_t c = 0; c < now->n; c++)
        if (now->contender[c].named == named && psd_comparison_place(now, c) == place)
            return &now->contender[c];
    return NULL;
}

/* What is trained for the whole job beside the best rate. Short runs favour high rates, so it is a lower one: of this round's the
 * one that did best; if it has none, the next lower one that was trained; if that has failed, too, the second best. */
static const psd_contender_t *beside(const psd_tuning_t *self, const psd_comparison_t *now, const psd_contender_t *best)
{
    const psd_contender_t *one, *lower = next_lower(self, best);
    for (size_t place = 2; (one = placed(now, best->named, place)); place++)
        if (one->factor < best->factor && is_worth_it(one))
            return one;
    return lower && is_worth_it(lower) ? lower : placed(now, best->named, 2);
}

static void keep_for_the_last_round(const psd_tuning_t *self, const psd_comparison_t *now, bool *keep)
{
    for (size_t i = 0; i < self->n_rules; i++) {
        const psd_contender_t *best = placed(now, i, 1), *other = beside(self, now, best);
        for (size_t c = 0; c < self->round[0].n; c++) {
            const psd_contender_t *one = &self->round[0].contender[c];
            keep[c] |= !strcmp(one->name, best->name) || !strcmp(one->name, other->name);
        }
    }
}

int psd_tuning_next(psd_tuning_t *self, bool *done, psd_err_t *err)
{
    psd_comparison_t *now = psd_tuning_now(self);
    *done = false;
    if (!self->n_begun)
        return begin_first_round(self, err);
    int rc = psd_comparison_judge(now, err);
    *done = self->n_begun == self->n_rounds;
    if (rc || *done)
        return rc;
    psd_comparison_sort_by_choice(now);
    const bool is_last = self->n_begun + 1 == self->n_rounds;
    bool *keep = calloc(self->grid.n, sizeof *keep);
    size_t n_kept = self->n_rates;
    for (size_t r = 0; r < self->n_begun; r++)
        n_kept = fewer(n_kept);
    for (size_t c = 0; keep && !is_last && c < now->n; c++)
        keep[c] = psd_comparison_place(now, c) <= n_kept;
    if (keep && is_last)
        keep_for_the_last_round(self, now, keep);
    rc = keep ? begin_round(self, is_last ? &self->round[0] : now, keep, err)
              : psd_err_set(err, PSD_ENOMEM, "no memory for a search");
    free(keep);
    return rc;
}

const psd_contender_t *psd_tuning_choice(const psd_tuning_t *self)
{
    const psd_comparison_t *last = &self->round[self->n_rounds - 1];
    return self->n_begun == self->n_rounds && last->n && last->contender[0].final.n == last->n_seeds ? &last->contender[0] : NULL;
}

bool psd_tuning_overlaps(const psd_tuning_t *self, size_t r, size_t c)
{
    const psd_comparison_t *round = &self->round[r], *last = &self->round[self->n_rounds - 1];
    const psd_spread_t *cut = psd_contender_chosen_by(&round->contender[c]);
    for (size_t k = 0; k < last->n; k++) {
        if (last->contender[k].named != round->contender[c].named || !last->contender[k].is_best_of_sweep)
            continue;
        const psd_contender_t *chosen = in_round(self, r, &last->contender[k]);
        const psd_spread_t *of = chosen ? psd_contender_chosen_by(chosen) : NULL;
        if (of && of->n && cut->n && cut->least <= of->most && of->least <= cut->most)
            return true;
    }
    return false;
}

/* Why the last round has a rate of the round before it. */
static void describe_last(const psd_tuning_t *self, const psd_comparison_t *round, const psd_contender_t *one, char out[PSD_CELL])
{
    const psd_contender_t *best = placed(round, one->named, 1), *lower = next_lower(self, best);
    if (one == best)
        snprintf(out, PSD_CELL, "kept: the best");
    else if (!lower)
        snprintf(out, PSD_CELL, "kept: the second best; no lower rate was trained");
    else if (!strcmp(lower->name, one->name))
        snprintf(out, PSD_CELL, "kept: next below the best");
    else if (one->factor < best->factor)
        snprintf(out, PSD_CELL, "kept: the best of the lower rates");
    else
        snprintf(out, PSD_CELL, "kept: the second best; the next lower rate, %.3g, %s", psd_rule_lr(&lower->rule),
                 psd_contender_failure(lower));
}

void psd_tuning_describe(const psd_tuning_t *self, size_t r, size_t c, char out[PSD_CELL])
{
    const psd_comparison_t *round = &self->round[r];
    const psd_contender_t *one = &round->contender[c];
    const char *failure = psd_contender_failure(one);
    if (r + 2 == self->n_rounds && in_round(self, r + 1, one))
        describe_last(self, round, one, out);
    else if (in_round(self, r + 1, one) || r + 1 == self->n_rounds)
        snprintf(out, PSD_CELL, "kept");
    else if (in_round(self, self->n_rounds - 1, one))
        snprintf(out, PSD_CELL, "kept for the last round: next below the best");
    else if (failure)
        snprintf(out, PSD_CELL, "cut: %s", failure);
    else
        snprintf(out, PSD_CELL, "cut: %zu of %zu", psd_comparison_place(round, c), rates_of(round, one->named));
}

void psd_tuning_describe_cut(const psd_tuning_t *self, size_t c, char out[PSD_CELL])
{
    const psd_contender_t *one = &self->grid.contender[c];
    const psd_range_found_t *found = &self->rule[one->named].found;
    *out = '\0';
    if (!self->n_begun || in_round(self, 0, one))
        return;
    if (psd_rule_lr(&one->rule) < found->falls_from)
        snprintf(out, PSD_CELL, "cut by the range test: the loss falls only from %.2g on", found->falls_from);
    else
        snprintf(out, PSD_CELL, "cut by the range test: the loss diverges at %.2g", found->diverges_at);
}

static uint64_t steps_of(const psd_comparison_t *comparison, uint64_t *most)
{
    uint64_t steps = 0;
    for (size_t c = 0; c < comparison->n; c++)
        for (unsigned s = 0; s < comparison->n_seeds; s++) {
            const psd_outcome_t *o = &comparison->contender[c].outcome[s];
            steps += o->read ? o->steps : 0;
            *most = o->read && o->steps > *most ? o->steps : *most;
        }
    return steps;
}

uint64_t psd_tuning_steps(const psd_tuning_t *self)
{
    uint64_t most = 0, steps = steps_of(&self->range, &most);
    for (size_t r = 0; r < self->n_begun; r++)
        steps += steps_of(&self->round[r], &most);
    return steps;
}

uint64_t psd_tuning_grid_steps(const psd_tuning_t *self)
{
    uint64_t whole = 0;
    if (self->n_begun == self->n_rounds)
        steps_of(&self->round[self->n_rounds - 1], &whole);
    return whole * self->grid.n * self->grid.n_seeds;
}
