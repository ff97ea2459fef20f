/* tuning_text.c - a search as a table, as JSON and as a page; declared in tuning.h. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "common/base/html.h"
#include "deploy/psdctl/compare/tuning.h"

/* ---- Lines of the table ---- */

/* A line: what became of a rate, or of all rates of a rule. */
typedef struct line {
    char round[24], share[24], result[2 * PSD_CELL];
    const char *optimizer;
    char metric[3 * PSD_CELL];
    bool is_close; /* cut within the range of the chosen rate */
} line_t;

typedef void line_fn(const line_t *line, void *arg);

static size_t kept_of(const psd_tuning_t *self, size_t rule)
{
    size_t n = 0;
    for (size_t c = 0; c < self->round[0].n; c++)
        n += self->round[0].contender[c].named == rule;
    return n;
}

/* "5 of 9 rates kept: the loss falls from 0.05 on and diverges at 1.2". */
static void describe_test(const psd_tuning_t *self, size_t rule, char *out, size_t capacity)
{
    const psd_tuning_rule_t *one = &self->rule[rule];
    const psd_range_found_t *found = &one->found;
    const size_t n = kept_of(self, rule);
    if (!one->is_tested)
        snprintf(out, capacity, "no range test: %s", found->why_not);
    else if (found->why_not)
        snprintf(out, capacity, "%zu of %zu rates kept: %s", n, self->n_rates, found->why_not);
    else if (isfinite(found->diverges_at))
        snprintf(out, capacity, "%zu of %zu rates kept: the loss falls from %.2g on and diverges at %.2g", n, self->n_rates,
                 found->falls_from, found->diverges_at);
    else
        snprintf(out, capacity, "%zu of %zu rates kept: the loss falls from %.2g on and does not diverge", n, self->n_rates,
                 found->falls_from);
}

static void each_of_ranges(const psd_tuning_t *self, line_fn *each, void *arg)
{
    for (size_t i = 0; i < self->n_rules; i++) {
        line_t line = { .round = "range", .share = "-", .optimizer = self->rule[i].label, .metric = "-" };
        if (self->rule[i].is_tested)
            snprintf(line.share, sizeof line.share, "%.2g", self->range.share);
        describe_test(self, i, line.result, sizeof line.result);
        each(&line, arg);
    }
    for (size_t c = 0; c < self->grid.n; c++) {
        line_t line = { .round = "range", .optimizer = self->grid.contender[c].label, .metric = "-" };
        snprintf(line.share, sizeof line.share, "%.2g", self->range.share);
        psd_tuning_describe_cut(self, c, line.result);
        if (*line.result)
            each(&line, arg);
    }
}

/* All but the last round, in which nothing is cut; each rule's rates in the order by which they were cut. */
static void each_of_rounds(const psd_tuning_t *self, line_fn *each, void *arg)
{
    for (size_t r = 0; r + 1 < self->n_rounds && r < self->n_begun; r++)
        for (size_t c = 0; c < self->round[r].n; c++) {
            const psd_comparison_t *round = &self->round[r];
            const psd_contender_t *one = &round->contender[c];
            const psd_spread_t *by = one->final.n ? psd_contender_chosen_by(one) : &one->ended;
            char value[PSD_CELL] = "", failed[PSD_CELL];
            line_t line = { .optimizer = one->label, .metric = "-" };
            snprintf(line.round, sizeof line.round, "%zu", r + 1);
            snprintf(line.share, sizeof line.share, "%.2g", round->share);
            psd_tuning_describe(self, r, c, line.result);
            psd_comparison_value(round, by->mean, value);
            if (by->n > 1)
                snprintf(line.metric, sizeof line.metric, "%s +-%.2g", value, by->sd);
            else if (by->n)
                snprintf(line.metric, sizeof line.metric, "%s", value);
            line.is_close = !strncmp(line.result, "cut", 3) && psd_tuning_overlaps(self, r, c);
            const bool is_said = !strncmp(line.result, "cut", 3) && psd_contender_failure(one);
            if (psd_comparison_failed_seeds(round, one, failed) && !is_said)
                snprintf(line.result + strlen(line.result), sizeof line.result - strlen(line.result), ", %s", failed);
            each(&line, arg);
        }
}

static void each_line(const psd_tuning_t *self, line_fn *each, void *arg)
{
    each_of_ranges(self, each, arg);
    each_of_rounds(self, each, arg);
}

#define CLOSE "its range over the seeds overlaps with that of the rate chosen for its rule: in longer runs the ranking may change"

/* ---- The table ---- */

typedef struct table {
    FILE *out;
    size_t width; /* of the column of rules */
    bool marked;
} table_t;

static void measure_line(const line_t *line, void *arg)
{
    table_t *self = arg;
    const size_t n = strlen(line->optimizer);
    self->width = n > self->width ? n : self->width;
}

static void print_line(const line_t *line, void *arg)
{
    table_t *self = arg;
    fprintf(self->out, "%-5s  %-5s  %-*s  %-16s  %s%s\n", line->round, line->share, (int)self->width, line->optimizer, line->metric,
            line->result, line->is_close ? " ~" : "");
    self->marked |= line->is_close;
}

void psd_tuning_print_cuts(const psd_tuning_t *self, FILE *out)
{
    table_t table = { .out = out };
    each_line(self, measure_line, &table);
    fprintf(out, "%-5s  %-5s  %-*s  %-16s  %s\n", "round", "share", (int)table.width, "optimizer", self->round[0].metric, "result");
    each_line(self, print_line, &table);
    if (table.marked)
        fprintf(out, "~ " CLOSE "\n");
    if (psd_tuning_grid_steps(self))
        fprintf(out, "%" PRIu64 " steps; the whole grid would take %" PRIu64 "\n", psd_tuning_steps(self),
                psd_tuning_grid_steps(self));
}

/* ---- JSON ---- */

static json_t *real_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *json_rate(const psd_contender_t *one, const char *outcome)
{
    return json_pack("{s:s, s:s, s:f, s:f, s:s}", "optimizer", one->label, "rule", one->name, "lr", psd_rule_lr(&one->rule),
                     "lr_factor", one->factor, "outcome", outcome);
}

/* The losses of a range test by rate, a curve for each seed. */
static json_t *json_curves(const psd_tuning_t *self, const psd_contender_t *one)
{
    json_t *list = json_array();
    for (unsigned s = 0; one && s < self->range.n_seeds; s++) {
        const psd_curve_t *losses = &one->outcome[s].losses;
        json_t *lr = json_array(), *loss = json_array();
        for (size_t i = 0; one->outcome[s].read && i < losses->n; i++) {
            json_array_append_new(lr, json_real(psd_range_rate(&self->rise, losses, i, psd_rule_lr(&one->rule))));
            json_array_append_new(loss, real_or_null(losses->point[i].value));
        }
        json_array_append_new(
            list, json_pack("{s:I, s:o, s:o}", "seed", (json_int_t)(self->range.first_seed + s), "lr", lr, "loss", loss));
    }
    return list;
}

static json_t *json_range(const psd_tuning_t *self, size_t rule)
{
    const psd_tuning_rule_t *one = &self->rule[rule];
    const psd_contender_t *tested = NULL;
    json_t *cut = json_array();
    char what[2 * PSD_CELL];
    for (size_t c = 0; c < self->range.n; c++)
        tested = self->range.contender[c].named == rule ? &self->range.contender[c] : tested;
    for (size_t c = 0; c < self->grid.n; c++) {
        psd_tuning_describe_cut(self, c, what);
        if (self->grid.contender[c].named == rule && *what)
            json_array_append_new(cut, json_rate(&self->grid.contender[c], what));
    }
    describe_test(self, rule, what, sizeof what);
    const bool says = !one->found.why_not;
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "optimizer", one->label, "outcome", what, "falls_from",
                     says ? json_real(one->found.falls_from) : json_null(), "diverges_at",
                     says ? real_or_null(one->found.diverges_at) : json_null(), "cut", cut, "losses", json_curves(self, tested));
}

static json_t *json_ranges(const psd_tuning_t *self)
{
    json_t *list = json_array();
    for (size_t i = 0; i < self->n_rules; i++)
        json_array_append_new(list, json_range(self, i));
    return list;
}

static json_t *json_round(const psd_tuning_t *self, size_t r)
{
    json_t *rates = json_array();
    for (size_t c = 0; c < self->round[r].n; c++) {
        const psd_contender_t *one = &self->round[r].contender[c];
        const psd_spread_t *by = psd_contender_chosen_by(one);
        char what[PSD_CELL];
        psd_tuning_describe(self, r, c, what);
        json_t *rate = json_rate(one, what);
        json_object_set_new(rate, "mean", real_or_null(by->mean));
        json_object_set_new(rate, "least", real_or_null(by->least));
        json_object_set_new(rate, "most", real_or_null(by->most));
        json_object_set_new(rate, "seeds_diverged", json_integer((json_int_t)one->n_diverged));
        json_object_set_new(rate, "seeds_untrained", json_integer((json_int_t)one->n_untrained));
        json_object_set_new(rate, "overlaps", json_boolean(!strncmp(what, "cut", 3) && psd_tuning_overlaps(self, r, c)));
        json_array_append_new(rates, rate);
    }
    return json_pack("{s:I, s:f, s:o}", "round", (json_int_t)r + 1, "share", self->round[r].share, "rates", rates);
}

json_t *psd_tuning_json(const psd_tuning_t *self)
{
    json_t *rounds = json_array();
    for (size_t r = 0; r < self->n_begun; r++)
        json_array_append_new(rounds, json_round(self, r));
    const psd_contender_t *choice = psd_tuning_choice(self);
    return json_pack("{s:s, s:s, s:s, s:o, s:I, s:I, s:o, s:o}", "schema", "psd.tune/1", "version", PSD_VERSION, "metric",
                     self->round[0].metric, "choice", choice ? json_string(choice->name) : json_null(), "steps",
                     (json_int_t)psd_tuning_steps(self), "grid_steps", (json_int_t)psd_tuning_grid_steps(self), "range_tests",
                     json_ranges(self), "rounds", rounds);
}

/* ---- The page ---- */

static void put_cell(FILE *out, const char *text, const char *classes)
{
    fprintf(out, "<td class=\"%s\">", classes);
    psd_html_put(out, text);
    fputs("</td>", out);
}

static void put_line(const line_t *line, void *arg)
{
    table_t *self = arg;
    char result[sizeof line->result + 3];
    snprintf(result, sizeof result, "%s%s", line->result, line->is_close ? " ~" : "");
    self->marked |= line->is_close;
    fputs("<tr>", self->out);
    put_cell(self->out, line->round, "w");
    put_cell(self->out, line->share, "");
    put_cell(self->out, line->optimizer, "w r");
    put_cell(self->out, line->metric, "");
    put_cell(self->out, result, "w long");
    fputs("</tr>\n", self->out);
}

static void put_search(FILE *out, const void *arg)
{
    const psd_tuning_t *self = arg;
    table_t table = { .out = out };
    fputs("<h2>The search</h2>\n<div class=\"wide\"><table><thead><tr><th class=\"w\">round</th><th>share</th>"
          "<th class=\"w\">optimizer</th><th>",
          out);
    psd_html_put(out, self->round[0].metric);
    fputs("</th><th class=\"w\">result</th></tr></thead><tbody>\n", out);
    each_line(self, put_line, &table);
    fputs("</tbody></table></div>\n<p class=\"dim\">Share: of the job's steps or epochs. In a range test, the learning rate rises "
          "by the same factor in every step. ",
          out);
    if (table.marked)
        fputs("~: " CLOSE ". ", out);
    fprintf(out, "The search took %" PRIu64 " steps; the whole grid would take %" PRIu64 ".</p>\n", psd_tuning_steps(self),
            psd_tuning_grid_steps(self));
}

bool psd_tuning_page(const psd_tuning_t *self, FILE *out)
{
    json_t *ranges = json_ranges(self);
    const psd_page_part_t search = { .put = put_search, .arg = self, .ranges = ranges };
    const bool good = psd_comparison_page(&self->round[self->n_rounds - 1], &search, out);
    json_decref(ranges);
    return good;
}
