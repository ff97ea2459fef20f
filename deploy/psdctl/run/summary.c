#include "deploy/psdctl/run/summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/system/json.h"
#include "common/system/durable.h"

static const char running[] = "running"; /* the outcome of a worker that has not ended, or has not reported how */

void psd_summary_path(char path[PATH_MAX], const char *directory, unsigned worker)
{
    if (worker)
        snprintf(path, PATH_MAX, "%s/summary-%u.json", directory, worker);
    else
        snprintf(path, PATH_MAX, "%s/summary.json", directory);
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void set_real(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

static void set_count(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, isfinite(value) ? json_integer((json_int_t)value) : json_null());
}

json_t *psd_summary_of(const char *directory, unsigned worker)
{
    char path[PATH_MAX];
    json_t *summary = NULL;
    if (!worker) { /* once another worker's has taken its name */
        snprintf(path, sizeof path, "%s/summary-0.json", directory);
        summary = json_load_file(path, 0, NULL);
    }
    psd_summary_path(path, directory, worker);
    summary = summary ? summary : json_load_file(path, 0, NULL);
    return summary;
}

double psd_summary_begun(const char *directory, unsigned worker)
{
    json_t *summary = psd_summary_of(directory, worker);
    const double begun_ts = number_of(summary, "begun_ts");
    json_decref(summary);
    return begun_ts > 0 ? begun_ts : 0;
}

const char *psd_summary_outcome(int code, int signal)
{
    static const struct {
        const char *programs;
        int code;
        const char *outcome;
    } ends[] = {
#define END(id, programs, code, outcome, situation, on_disk, run_does, user_does) { programs, code, outcome },
#define OTHER                                                                     END
#include "common/base/ends.def"
#undef OTHER
#undef END
    };
    for (size_t i = 0; !signal && i < sizeof ends / sizeof *ends; i++)
        if (ends[i].code == code && strcmp(ends[i].outcome, "-") &&
            (strstr(ends[i].programs, "psd-worker") || !strcmp(ends[i].programs, "all")))
            return ends[i].outcome;
    return "killed";
}

/* -- workers without an outcome ------------------------------------------------------------------ */

/* The last line of this run in the worker's metrics, with the last loss; NULL: there is none. */
static json_t *last_metrics(const char *directory, unsigned worker, double begun_ts)
{
    char path[PATH_MAX], text[1024];
    json_t *last = NULL;
    if (worker)
        snprintf(path, sizeof path, "%s/metrics-%u.jsonl", directory, worker);
    else
        snprintf(path, sizeof path, "%s/metrics.jsonl", directory);
    FILE *file = fopen(path, "re");
    while (file && fgets(text, sizeof text, file)) {
        json_t *line = json_loads(text, 0, NULL);
        if (number_of(line, "ts") >= begun_ts) {
            if (!json_object_get(line, "train/loss") && last)
                json_object_set(line, "train/loss", json_object_get(last, "train/loss"));
            json_decref(last);
            last = json_incref(line);
        }
        json_decref(line);
    }
    if (file)
        fclose(file);
    return last;
}

/* Counters that it could not report. */
static void forget_counts(json_t *summary)
{
    static const char *const counts[] = { "rounds",        "skipped",     "samples",     "job_samples",
                                          "samples_per_s", "wall_time_s", "sha256_order" };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(summary, counts[i], json_null());
}

static void complete(json_t *summary, const char *directory, unsigned worker, double begun_ts, const psd_worker_end_t *end)
{
    double steps, epochs, samples, seconds;
    json_object_set_new(summary, "outcome", json_string(end->outcome));
    forget_counts(summary);
    if (sscanf(end->line, "%*s run=%*s steps=%lf epochs=%lf samples=%lf seconds=%lf", &steps, &epochs, &samples, &seconds) == 4) {
        set_count(summary, "steps", steps);
        set_real(summary, "epochs", epochs);
        set_count(summary, "samples", samples);
        set_real(summary, "wall_time_s", seconds);
        set_real(summary, "ended_ts", number_of(summary, "begun_ts") + seconds);
        return;
    }
    json_t *last = last_metrics(directory, worker, begun_ts);
    if (last) {
        set_count(summary, "steps", number_of(last, "step"));
        set_real(summary, "epochs", number_of(last, "epoch"));
        set_count(summary, "job_samples", number_of(last, "samples"));
        set_real(summary, "last_loss", number_of(last, "train/loss"));
        set_real(summary, "ended_ts", number_of(last, "ts"));
        set_real(summary, "wall_time_s", number_of(last, "ts") - number_of(summary, "begun_ts"));
    }
    json_decref(last);
}

/* -- the summary of the run ------------------------------------------------------------------------------------- */

static int merit(const json_t *summary, const psd_worker_end_t *end)
{
    if (end->failed)
        return 3;
    if (strcmp(text_of(summary, "outcome"), "done") != 0)
        return 0;
    return number_of(summary, "rank") == 0 ? 2 : 1;
}

static int choose(json_t *const *summary, const psd_worker_end_t *end, unsigned n_workers)
{
    int best = -1;
    for (unsigned i = 0; i < n_workers; i++) {
        if (!summary[i])
            continue;
        const int its = merit(summary[i], &end[i]), most = best < 0 ? -1 : merit(summary[best], &end[best]);
        const bool is_better = its > most;
        const bool is_later = its == 2 && most == 2 && number_of(summary[i], "ended_ts") > number_of(summary[best], "ended_ts");
        best = is_better || is_later ? (int)i : best;
    }
    return best;
}

static int put(const char *path, const json_t *summary, psd_err_t *err)
{
    char *text = psd_json_text(summary, JSON_INDENT(2) | JSON_REAL_PRECISION(17)), *line = NULL;
    const int n = text ? asprintf(&line, "%s\n", text) : -1;
    const int rc = n < 0 ? psd_err_set(err, PSD_ENOMEM, "no memory for %s", path) : psd_durable_put(path, line, (size_t)n, err);
    if (n >= 0)
        free(line);
    free(text);
    return rc;
}

static void keep_first(psd_err_t *first, int rc, const psd_err_t *err)
{
    if (rc && !first->code)
        *first = *err;
}

/* Copy the facts of the whole job, which are the same from any worker. */
static void tell_of_job(json_t *chosen, json_t *const *summary, const psd_worker_end_t *end, unsigned n_workers, int worker)
{
    double samples = number_of(chosen, "job_samples"), epochs = number_of(chosen, "epochs"),
           begun_ts = number_of(chosen, "begun_ts");
    for (unsigned i = 0; i < n_workers; i++) {
        const double more = number_of(summary[i], "job_samples");
        if (more > samples) {
            samples = more;
            epochs = number_of(summary[i], "epochs");
        }
        begun_ts = end[i].begun_ts > 0 ? fmin(begun_ts, end[i].begun_ts) : begun_ts;
    }
    if (isfinite(samples)) {
        set_count(chosen, "job_samples", samples);
        set_real(chosen, "epochs", epochs);
    }
    if (end[worker].lives < 2)
        return;
    json_object_set_new(chosen, "lives", json_integer(end[worker].lives));
    set_real(chosen, "begun_ts", begun_ts);
    set_real(chosen, "wall_time_s", number_of(chosen, "ended_ts") - begun_ts);
}

json_t *psd_summary_settle(const char *directory, double begun_ts, const psd_worker_end_t *end, unsigned n_workers, int *worker,
                           psd_err_t *err)
{
    char path[PATH_MAX];
    json_t **summary = calloc(n_workers + 1, sizeof(json_t *)), *chosen = NULL;
    psd_err_t late = { 0 };
    *err = (psd_err_t){ 0 };
    *worker = -1;
    for (unsigned i = 0; summary && i < n_workers; i++) {
        summary[i] = psd_summary_of(directory, i);
        if (!summary[i] || strcmp(text_of(summary[i], "outcome"), running))
            continue;
        complete(summary[i], directory, i, begun_ts, &end[i]);
        psd_summary_path(path, directory, i);
        keep_first(err, put(path, summary[i], &late), &late);
    }
    if (summary)
        *worker = choose(summary, end, n_workers);
    if (*worker >= 0) {
        chosen = json_deep_copy(summary[*worker]);
        tell_of_job(chosen, summary, end, n_workers, *worker);
        snprintf(path, sizeof path, "%s/summary-0.json", directory);
        if (*worker > 0 && summary[0])
            keep_first(err, put(path, summary[0], &late), &late);
        psd_summary_path(path, directory, 0);
        if (*worker > 0 || !json_equal(chosen, summary[0]))
            keep_first(err, put(path, chosen, &late), &late);
    }
    for (unsigned i = 0; summary && i < n_workers; i++)
        json_decref(summary[i]);
    free(summary);
    return chosen;
}
