#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/compare/comparison.h"

/* -- cells ------------------------------------------------------------------------------------------------- */

/* 1234567 -> "1.23 M", with the unit. */
static void print_scaled(double value, const char *unit, char out[PSD_CELL])
{
    static const char *const prefix[] = { "", "k", "M", "G", "T" };
    size_t i = 0;
    for (; fabs(value) >= 999.5 && i + 1 < sizeof prefix / sizeof *prefix; i++)
        value /= 1000;
    const char *space = *prefix[i] || *unit ? " " : "";
    snprintf(out, PSD_CELL, "%.*f%s%s%s", value >= 99.95 || i == 0 ? 0 : value >= 9.995 ? 1 : 2, value, space, prefix[i], unit);
}

/* "0.9597 ±0.0012" */
static void print_spread(const psd_spread_t *spread, bool is_share, char out[PSD_CELL])
{
    const int n = spread->n ? psd_comparison_number(spread->mean, is_share, out, PSD_CELL) : snprintf(out, PSD_CELL, "-");
    if (spread->n > 1)
        snprintf(out + n, PSD_CELL - (size_t)n, is_share ? " ±%.4f" : " ±%.2g", spread->sd);
}

/* The mean over the seeds that reached the target. Returns the length of the text. */
static int print_reached(const psd_comparison_t *self, const psd_contender_t *c, const psd_spread_t *to, int places,
                         const char *unit, char out[PSD_CELL])
{
    return to->n ? snprintf(out, PSD_CELL, "%.*f%s", places, to->mean, unit)
                 : snprintf(out, PSD_CELL, c->final.n && !isnan(self->target) ? "not" : "-");
}

static void print_groups(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    (void)self;
    int n = snprintf(out, PSD_CELL, c->groups.first ? "%u" : "-", c->groups.first);
    if (c->groups.last > c->groups.first)
        snprintf(out + n, PSD_CELL - (size_t)n, "-%u", c->groups.last);
}

static void print_rule(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    (void)self;
    snprintf(out, PSD_CELL, "%.*s", PSD_CELL - 1, c->label);
}

/* With the reason why the figure is not over all seeds. */
static void print_final(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    char failed[PSD_CELL];
    print_spread(&c->final, !self->smaller_is_better, out);
    const size_t n = strlen(out);
    if (c->n_diverged + c->n_undefined + c->n_untrained == self->n_seeds)
        snprintf(out, PSD_CELL, "%s", psd_contender_failure(c));
    else if (psd_comparison_failed_seeds(self, c, failed))
        snprintf(out + n, PSD_CELL - n, ", %s", failed);
}

static bool has_held(const psd_comparison_t *self)
{
    for (size_t c = 0; c < self->n; c++)
        if (self->contender[c].held.n)
            return true;
    return false;
}

/* The value by which learning rates are chosen; a star marks the chosen one. */
static void print_held(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    print_spread(&c->held, !self->smaller_is_better, out);
    const size_t n = strlen(out);
    if (c->is_best_of_sweep && self->is_swept && c->held.n)
        snprintf(out + n, PSD_CELL - n, " *");
}

static void print_best(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    print_spread(&c->best, !self->smaller_is_better, out);
}

static void print_loss(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    (void)self;
    print_spread(&c->loss, false, out);
}

/* With the number of those seeds, unless all did. */
static void print_steps(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    const int n = print_reached(self, c, &c->steps_to_target, 0, "", out);
    if (c->steps_to_target.n && c->steps_to_target.n < self->n_seeds)
        snprintf(out + n, PSD_CELL - (size_t)n, " (%zu of %u)", c->steps_to_target.n, self->n_seeds);
}

static void print_seconds(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    print_reached(self, c, &c->seconds_to_target, 2, " s", out);
}

static void print_mean(const psd_spread_t *spread, const char *unit, char out[PSD_CELL])
{
    snprintf(out, PSD_CELL, "-");
    if (spread->n)
        print_scaled(spread->mean, unit, out);
}

static void print_moved(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    (void)self;
    print_mean(&c->moved_bytes, "B", out);
}

static double state_of(const psd_contender_t *c) { return (double)psd_rule_state_bytes(&c->rule); }

static void print_state(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    (void)self;
    snprintf(out, PSD_CELL, "%.0f B", state_of(c));
}

static void print_speed(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL])
{
    (void)self;
    print_mean(&c->samples_per_s, "", out);
}

static double groups_of(const psd_contender_t *c) { return c->groups.first ? (double)c->groups.first : (double)NAN; }
static double named_of(const psd_contender_t *c) { return (double)c->named; }
static double final_of(const psd_contender_t *c) { return c->final.mean; }
static double held_of(const psd_contender_t *c) { return c->held.mean; }
static double best_of(const psd_contender_t *c) { return c->best.mean; }
static double loss_of(const psd_contender_t *c) { return c->loss.mean; }
static double steps_of(const psd_contender_t *c) { return c->steps_to_target.mean; }
static double seconds_of(const psd_contender_t *c) { return c->seconds_to_target.mean; }
static double moved_of(const psd_contender_t *c) { return c->moved_bytes.mean; }
static double speed_of(const psd_contender_t *c) { return c->samples_per_s.mean; }

static const psd_column_t columns[] = {
    { "group", PSD_TITLE_PLAIN, false, NULL, print_groups, groups_of },
    { "optimizer", PSD_TITLE_PLAIN, true, NULL, print_rule, named_of },
    { "", PSD_TITLE_METRIC, true, NULL, print_final, final_of },
    { "held out", PSD_TITLE_PLAIN, true, has_held, print_held, held_of },
    { "best", PSD_TITLE_PLAIN, true, NULL, print_best, best_of },
    { "train loss", PSD_TITLE_PLAIN, true, NULL, print_loss, loss_of },
    { "steps to", PSD_TITLE_TARGET, false, NULL, print_steps, steps_of },
    { "in", PSD_TITLE_PLAIN, false, NULL, print_seconds, seconds_of },
    { "moved", PSD_TITLE_PLAIN, false, NULL, print_moved, moved_of },
    { "state/param", PSD_TITLE_PLAIN, false, NULL, print_state, state_of },
    { "samples/s", PSD_TITLE_PLAIN, false, NULL, print_speed, speed_of },
};

enum { N_COLUMNS = sizeof columns / sizeof *columns };

const psd_column_t *psd_comparison_column(size_t i) { return i < N_COLUMNS ? &columns[i] : NULL; }

void psd_comparison_title(const psd_comparison_t *self, size_t i, char out[PSD_CELL])
{
    const psd_column_t *column = &columns[i];
    if (column->kind == PSD_TITLE_METRIC)
        snprintf(out, PSD_CELL, "%s", *self->metric ? self->metric : "metric");
    else if (column->kind == PSD_TITLE_PLAIN)
        snprintf(out, PSD_CELL, "%s", column->title);
    else if (isnan(self->target))
        snprintf(out, PSD_CELL, "%s target", column->title);
    else
        snprintf(out, PSD_CELL, "%s %.4g", column->title, self->target);
}

/* -- the table --------------------------------------------------------------------------------------------- */

/* How long the runs were, of those that did not diverge; without stop.patience all are equally long. "" while there is none. */
static void describe_length(const psd_comparison_t *self, char *out, size_t capacity)
{
    const psd_outcome_t *least = NULL, *most = NULL;
    for (size_t c = 0; c < self->n; c++)
        for (unsigned s = 0; s < self->n_seeds; s++) {
            const psd_outcome_t *outcome = &self->contender[c].outcome[s];
            if (!outcome->read || outcome->diverged)
                continue;
            least = !least || outcome->steps < least->steps ? outcome : least;
            most = !most || outcome->steps > most->steps ? outcome : most;
        }
    *out = '\0';
    if (!least)
        return;
    if (least->steps == most->steps)
        snprintf(out, capacity, ", %" PRIu64 " steps in %.4g epoch%s", most->steps, most->epochs, most->epochs > 1 ? "s" : "");
    else
        snprintf(out, capacity, ", %" PRIu64 " to %" PRIu64 " steps in %.4g to %.4g epochs", least->steps, most->steps,
                 least->epochs, most->epochs);
}

void psd_comparison_describe(const psd_comparison_t *self, char *out, size_t capacity)
{
    const psd_options_t *o = self->options;
    char seeds[64], length[96];
    describe_length(self, length, sizeof length);
    if (self->n_seeds == 1)
        snprintf(seeds, sizeof seeds, "seed %" PRIu64, self->first_seed);
    else
        snprintf(seeds, sizeof seeds, "seeds %" PRIu64 " to %" PRIu64, self->first_seed, self->first_seed + self->n_seeds - 1);
    char chosen[PSD_CELL], held[PSD_CELL + 40] = "";
    if (psd_comparison_chosen_on(self, chosen))
        snprintf(held, sizeof held, ", learning rate chosen on %s", chosen);
    else if (!strcmp(self->metric, PSD_TRAINING_LOSS))
        snprintf(held, sizeof held, ", ranked by training loss because there is no test set");
    snprintf(out, capacity, "%s on %s, batch %s, %s, %u server%s, %u worker%s, %s%s%s", psd_options_string(o, PSD_OPT_model_kind),
             psd_options_string(o, PSD_OPT_data_train), psd_options_text(o, PSD_OPT_data_batch),
             psd_options_string(o, PSD_OPT_sync_mode), self->n_servers, self->n_servers > 1 ? "s" : "", self->n_workers,
             self->n_workers > 1 ? "s" : "", seeds, length, held);
}

/* The width of the text on a terminal: the number of bytes that begin a UTF-8 character. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static bool is_shown(const psd_comparison_t *self, const psd_column_t *column)
{
    return !column->is_shown || column->is_shown(self);
}

static void print_cell(FILE *out, const char *text, size_t room, bool is_left, bool is_last)
{
    const int pad = (int)(room - width(text));
    if (is_left)
        fprintf(out, "%s%*s", text, is_last ? 0 : pad, "");
    else
        fprintf(out, "%*s%s", pad, "", text);
    fputs(is_last ? "\n" : "  ", out);
}

void psd_comparison_print(const psd_comparison_t *self, FILE *out)
{
    size_t room[N_COLUMNS];
    char cell[PSD_CELL], line[512];
    for (size_t i = 0; i < N_COLUMNS; i++) {
        psd_comparison_title(self, i, cell);
        room[i] = width(cell);
        for (size_t c = 0; c < self->n; c++) {
            columns[i].text(self, &self->contender[c], cell);
            room[i] = width(cell) > room[i] ? width(cell) : room[i];
        }
    }
    psd_comparison_describe(self, line, sizeof line);
    fprintf(out, "%s: %s\n\n", psd_options_string(self->options, PSD_OPT_job), line);
    for (size_t i = 0; i < N_COLUMNS; i++) {
        psd_comparison_title(self, i, cell);
        if (is_shown(self, &columns[i]))
            print_cell(out, cell, room[i], columns[i].is_text, i + 1 == N_COLUMNS);
    }
    for (size_t c = 0; c < self->n; c++)
        for (size_t i = 0; i < N_COLUMNS; i++) {
            columns[i].text(self, &self->contender[c], cell);
            if (is_shown(self, &columns[i]))
                print_cell(out, cell, room[i], columns[i].is_text, i + 1 == N_COLUMNS);
        }
    fprintf(out, "\n%s\n", self->verdict);
    if (*self->advice)
        fprintf(out, "%s\n", self->advice);
}

/* -- JSON -------------------------------------------------------------------------------------------------- */

static json_t *real_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *text_or_null(const char *text) { return *text ? json_string(text) : json_null(); }

static json_t *json_spread(const psd_spread_t *s)
{
    return json_pack("{s:I, s:o, s:o, s:o, s:o}", "n", (json_int_t)s->n, "mean", real_or_null(s->mean), "sd", real_or_null(s->sd),
                     "min", real_or_null(s->least), "max", real_or_null(s->most));
}

/* As arrays of steps, seconds and values, which takes a third of the bytes. */
static json_t *json_curve(const psd_curve_t *curve)
{
    json_t *step = json_array(), *seconds = json_array(), *value = json_array();
    for (size_t i = 0; i < curve->n; i++) {
        json_array_append_new(step, json_integer((json_int_t)curve->point[i].step));
        json_array_append_new(seconds, real_or_null(curve->point[i].seconds));
        json_array_append_new(value, real_or_null(curve->point[i].value));
    }
    return json_pack("{s:o, s:o, s:o}", "step", step, "seconds", seconds, "value", value);
}

static json_t *json_order(const char *order)
{
    json_t *list = json_array();
    for (size_t n; order && *order; order += n + (order[n] == ' ')) {
        n = strcspn(order, " ");
        json_array_append_new(list, json_stringn(order, n));
    }
    return list;
}

static json_t *json_run(const psd_comparison_t *self, const psd_contender_t *c, unsigned s)
{
    const psd_outcome_t *o = &c->outcome[s];
    const psd_point_t *at = o->read ? psd_outcome_reached(o, self->target) : NULL;
    const json_int_t seed = (json_int_t)(self->first_seed + s);
    if (!o->read)
        return json_pack("{s:I, s:s}", "seed", seed, "outcome", "failed");
    return json_pack(
        "{s:I, s:s, s:o, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "seed", seed, "outcome",
        o->diverged    ? "diverged"
        : o->undefined ? "undefined"
        : o->untrained ? "failed to train"
                       : "done",
        "final", real_or_null(o->final), "held_out", real_or_null(o->held), "best", real_or_null(o->best), "train_loss",
        real_or_null(o->loss), "steps", (json_int_t)o->steps, "epochs", real_or_null(o->epochs), "seconds",
        real_or_null(o->seconds), "samples_per_s", real_or_null(o->samples_per_s), "moved_bytes", (json_int_t)o->moved_bytes,
        "steps_to_target", real_or_null(at ? at->step : NAN), "seconds_to_target", real_or_null(at ? at->seconds : NAN), "sha256",
        text_or_null(o->sha256), "sha256_initial", text_or_null(o->sha256_initial), "sha256_order", json_order(o->order), "losses",
        json_curve(&o->losses), "metrics", json_curve(&o->looks));
}

static json_t *json_groups(const psd_spread_groups_t *groups)
{
    json_t *list = json_array();
    for (unsigned g = groups->first; g && g <= groups->last; g++)
        json_array_append_new(list, json_integer(g));
    return list;
}

static json_t *json_contender(const psd_comparison_t *self, const psd_contender_t *c)
{
    json_t *runs = json_array();
    for (unsigned s = 0; s < self->n_seeds; s++)
        json_array_append_new(runs, json_run(self, c, s));
    return json_pack("{s:s, s:s, s:I, s:o, s:o, s:b, s:b, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "optimizer", c->label, "rule", c->name, "named", (json_int_t)c->named + 1, "lr",
                     json_real(psd_rule_lr(&c->rule)), "lr_factor", json_real(c->factor), "chosen", c->is_best_of_sweep, "at_edge",
                     c->is_at_edge, "groups", json_groups(&c->groups), "seeds_read", (json_int_t)c->n_read, "seeds_diverged",
                     (json_int_t)c->n_diverged, "seeds_untrained", (json_int_t)c->n_untrained, "held_out", json_spread(&c->held),
                     "final", json_spread(&c->final), "best", json_spread(&c->best), "train_loss", json_spread(&c->loss),
                     "steps_to_target", json_spread(&c->steps_to_target), "seconds_to_target", json_spread(&c->seconds_to_target),
                     "moved_bytes", json_spread(&c->moved_bytes), "state_bytes_per_parameter",
                     json_integer((json_int_t)state_of(c)), "samples_per_s", json_spread(&c->samples_per_s), "runs", runs);
}

json_t *psd_comparison_json(const psd_comparison_t *self)
{
    json_t *seeds = json_array(), *rules = json_array();
    char line[512], chosen[PSD_CELL];
    psd_comparison_describe(self, line, sizeof line);
    for (unsigned s = 0; s < self->n_seeds; s++)
        json_array_append_new(seeds, json_integer((json_int_t)(self->first_seed + s)));
    for (size_t c = 0; c < self->n; c++)
        json_array_append_new(rules, json_contender(self, &self->contender[c]));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:o, s:s, s:o, s:I, s:I, s:f, s:o, s:s, s:s, s:o, s:o}", "schema",
                     "psd.compare/1", "version", PSD_VERSION, "job", psd_options_string(self->options, PSD_OPT_job), "about", line,
                     "metric", self->metric, "smaller_is_better", self->smaller_is_better, "target", real_or_null(self->target),
                     "target_from", self->target_is_ours ? "baseline" : "option", "seeds", seeds, "servers",
                     (json_int_t)self->n_servers, "workers", (json_int_t)self->n_workers, "validation", self->validation,
                     "rate_chosen_on", psd_comparison_chosen_on(self, chosen) ? json_string(chosen) : json_null(), "verdict",
                     self->verdict, "advice", self->advice, "winner", self->winner ? json_string(self->winner->label) : json_null(),
                     "optimizers", rules);
}
