#include "deploy/psdctl/compare/tuning.h"

#include <math.h>
#include <string.h>

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

/* The fraction of the job in round `r`, from 0: 1 in the last, 0.15 in the one before it, and a third of the next one's in each
 * earlier round. With nine rates, the search costs 9 * 0.05 + 3 * 0.15 + 2 = 2.9 whole jobs instead of nine, less than a third even
 * after each run is rounded up to a whole step. */
static double share_of(const psd_tuning_t *self, size_t r)
{
    const size_t before_last = self->n_rounds - 1 - r;
    return before_last ? 0.15 * pow(PSD_TUNING_THIRD, 1 - (double)before_last) : 1;
}

int psd_tuning_begin(psd_tuning_t *self, const psd_options_t *options, psd_err_t *err)
{
    size_t n_rates;
    *self = (psd_tuning_t){ .n_begun = 1 };
    psd_options_numbers(options, PSD_OPT_compare_lr_sweep, &n_rates);
    self->n_rounds = psd_tuning_rounds(n_rates);
    int rc = psd_comparison_begin(&self->round[0], options, err);
    if (!rc && n_rates < 2)
        rc = psd_err_set(err, PSD_ECONFIG, "a search needs more than one learning rate: give --lr-sweep several factors");
    if (!rc && self->n_rounds > PSD_TUNING_ROUNDS)
        rc = psd_err_set(err, PSD_ECONFIG, "%zu learning rates are more than a search takes: at most 4374", n_rates);
    self->round[0].share = share_of(self, 0);
    return rc;
}

void psd_tuning_clear(psd_tuning_t *self)
{
    for (size_t r = 0; r < self->n_begun; r++)
        psd_comparison_clear(&self->round[r]);
    *self = (psd_tuning_t){ 0 };
}

psd_comparison_t *psd_tuning_now(psd_tuning_t *self) { return &self->round[self->n_begun - 1]; }

/* Rates per rule in a round; all rules have the same number. */
static size_t rates_of(const psd_comparison_t *round)
{
    size_t n = 0;
    for (size_t c = 0; c < round->n; c++)
        n += round->contender[c].named == round->contender[0].named;
    return n;
}

int psd_tuning_next(psd_tuning_t *self, bool *done, psd_err_t *err)
{
    psd_comparison_t *now = psd_tuning_now(self);
    const int rc = psd_comparison_judge(now, err);
    *done = self->n_begun == self->n_rounds;
    if (rc || *done)
        return rc;
    const size_t next = self->n_begun++;
    return psd_comparison_narrow(&self->round[next], now, fewer(rates_of(now)), share_of(self, next), err);
}

const psd_contender_t *psd_tuning_choice(const psd_tuning_t *self)
{
    const psd_comparison_t *last = &self->round[self->n_rounds - 1];
    return self->n_begun == self->n_rounds && last->n && last->contender[0].final.n ? &last->contender[0] : NULL;
}

/* The contender of a later round with this rule and rate; NULL: it was cut. */
static const psd_contender_t *later(const psd_tuning_t *self, size_t r, const psd_contender_t *one)
{
    for (size_t c = 0; r < self->n_begun && c < self->round[r].n; c++)
        if (!strcmp(self->round[r].contender[c].name, one->name))
            return &self->round[r].contender[c];
    return NULL;
}

bool psd_tuning_overlaps(const psd_tuning_t *self, size_t r, size_t c)
{
    const psd_comparison_t *round = &self->round[r], *last = &self->round[self->n_rounds - 1];
    const psd_spread_t *cut = psd_contender_chosen_by(&round->contender[c]);
    for (size_t k = 0; k < last->n; k++) {
        if (last->contender[k].named != round->contender[c].named || !last->contender[k].is_best_of_sweep)
            continue;
        const psd_contender_t *chosen = later(self, r, &last->contender[k]);
        const psd_spread_t *of = chosen ? psd_contender_chosen_by(chosen) : NULL;
        if (of && of->n && cut->n && cut->least <= of->most && of->least <= cut->most)
            return true;
    }
    return false;
}

/* "cut 4th of 9", "diverged", "kept". */
static void describe(const psd_tuning_t *self, size_t r, size_t c, char out[PSD_CELL])
{
    const psd_comparison_t *round = &self->round[r];
    const psd_contender_t *one = &round->contender[c];
    const char *failure = psd_contender_failure(one);
    if (later(self, r + 1, one) || r + 1 == self->n_rounds)
        snprintf(out, PSD_CELL, "kept");
    else if (failure)
        snprintf(out, PSD_CELL, "cut: %s", failure);
    else
        snprintf(out, PSD_CELL, "cut: %zu of %zu", psd_comparison_place(round, c), rates_of(round));
}

void psd_tuning_print_cuts(const psd_tuning_t *self, FILE *out)
{
    bool marked = false;
    size_t width = 0;
    for (size_t c = 0; c < self->round[0].n; c++) {
        const size_t n = strlen(self->round[0].contender[c].label);
        width = n > width ? n : width;
    }
    fprintf(out, "%-5s  %-5s  %-*s  %-16s  %s\n", "round", "share", (int)width, "optimizer", self->round[0].metric, "result");
    for (size_t r = 0; r + 1 < self->n_rounds && r < self->n_begun; r++)
        for (size_t c = 0; c < self->round[r].n; c++) {
            const psd_comparison_t *round = &self->round[r];
            const psd_contender_t *one = &round->contender[c];
            const psd_spread_t *by = psd_contender_chosen_by(one);
            char what[PSD_CELL], value[PSD_CELL] = "", range[3 * PSD_CELL] = "-";
            describe(self, r, c, what);
            psd_comparison_value(round, by->mean, value);
            if (by->n > 1)
                snprintf(range, sizeof range, "%s +-%.2g", value, by->sd);
            else if (by->n)
                snprintf(range, sizeof range, "%s", value);
            const bool close = !strncmp(what, "cut", 3) && psd_tuning_overlaps(self, r, c);
            marked = marked || close;
            fprintf(out, "%-5zu  %-5.2g  %-*s  %-16s  %s%s\n", r + 1, round->share, (int)width, one->label, range, what,
                    close ? " ~" : "");
        }
    if (marked)
        fprintf(out, "~ its range over the seeds overlaps with that of the rate chosen for its rule: in longer runs the ranking "
                     "may change\n");
}

static json_t *real_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

json_t *psd_tuning_json(const psd_tuning_t *self)
{
    json_t *rounds = json_array();
    for (size_t r = 0; r < self->n_begun; r++) {
        json_t *rates = json_array();
        for (size_t c = 0; c < self->round[r].n; c++) {
            const psd_contender_t *one = &self->round[r].contender[c];
            const psd_spread_t *by = psd_contender_chosen_by(one);
            char what[PSD_CELL];
            describe(self, r, c, what);
            const bool cut = !strncmp(what, "cut", 3);
            json_array_append_new(rates, json_pack("{s:s, s:s, s:o, s:f, s:o, s:o, s:o, s:s, s:b}", "optimizer", one->label, "rule",
                                                   one->name, "lr", json_real(psd_rule_lr(&one->rule)), "lr_factor", one->factor,
                                                   "mean", real_or_null(by->mean), "least", real_or_null(by->least), "most",
                                                   real_or_null(by->most), "outcome", what, "overlaps",
                                                   cut && psd_tuning_overlaps(self, r, c)));
        }
        json_array_append_new(
            rounds, json_pack("{s:I, s:f, s:o}", "round", (json_int_t)r + 1, "share", self->round[r].share, "rates", rates));
    }
    const psd_contender_t *choice = psd_tuning_choice(self);
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "schema", "psd.tune/1", "version", PSD_VERSION, "metric", self->round[0].metric,
                     "choice", choice ? json_string(choice->name) : json_null(), "rounds", rounds);
}
