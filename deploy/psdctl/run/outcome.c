#include "deploy/psdctl/run/outcome.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/run/summary.h"
#include "worker/score.h"

enum { LAST_SHARE = 10 /* the final loss is the mean over the last steps, one in this many */ };

/* The metrics of all workers, summed by step. */
typedef struct tally {
    double sum[PSD_CURVE_POINTS], samples[PSD_CURVE_POINTS];  /* of the losses, weighted; and their weight */
    double step[PSD_CURVE_POINTS], seconds[PSD_CURVE_POINTS]; /* of the last line, */
    double epochs[PSD_CURVE_POINTS];                          /* and these too */
    double tenth[LAST_SHARE], tenth_samples[LAST_SHARE];
    double begun_ts, first_step;
    double chance, test_rows;      /* score of the best constant prediction, and its number of rows; NaN: unknown */
    double held_chance, held_rows; /* the same on the rows held out of training */
    uint64_t steps;
    char metric[40]; /* "val/accuracy" */
} tally_t;

bool psd_outcome_smaller_is_better(const char *metric)
{
    const psd_metric_t *row = psd_metric_find(metric);
    return row ? row->smaller_is_better : !strcmp(metric, PSD_TRAINING_LOSS);
}

const psd_point_t *psd_outcome_reached(const psd_outcome_t *self, double target)
{
    const psd_curve_t *curve = self->looks.n ? &self->looks : &self->losses;
    const bool smaller = psd_outcome_smaller_is_better(self->metric);
    for (size_t i = 0; i < curve->n; i++)
        if (smaller ? curve->point[i].value <= target : curve->point[i].value >= target)
            return &curve->point[i];
    return NULL;
}

void psd_outcome_clear(psd_outcome_t *self)
{
    free(self->order);
    free(self->losses.point);
    free(self->looks.point);
    *self = (psd_outcome_t){ 0 };
}

/* -- summaries --------------------------------------------------------------------------------------------- */

/* "DIRECTORY/NAME.EXTENSION" of worker 0, "NAME-1.EXTENSION" of worker 1. */
static void name_file(char path[PATH_MAX], const char *directory, const char *name, unsigned worker, const char *extension)
{
    if (worker)
        snprintf(path, PATH_MAX, "%s/%s-%u.%s", directory, name, worker, extension);
    else
        snprintf(path, PATH_MAX, "%s/%s.%s", directory, name, extension);
}

static const char *text_of(const json_t *summary, const char *key)
{
    const char *text = json_string_value(json_object_get(summary, key));
    return text ? text : "";
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Add a worker's hash of its rows to the others'. */
static int note_order(psd_outcome_t *self, const char *hash, psd_err_t *err)
{
    char *more;
    if (asprintf(&more, "%s%s%s", self->order ? self->order : "", self->order ? " " : "", hash) < 0)
        return psd_err_set(err, PSD_ENOMEM, "no memory for an outcome");
    free(self->order);
    self->order = more;
    return PSD_OK;
}

static int note_hashes(psd_outcome_t *self, const json_t *summary, unsigned worker, psd_err_t *err)
{
    const char *initial = text_of(summary, "sha256_initial");
    if (!worker)
        snprintf(self->sha256_initial, sizeof self->sha256_initial, "%s", initial);
    if (!*initial || strcmp(initial, self->sha256_initial) != 0)
        return psd_err_set(err, PSD_EDATA, "worker %u %s", worker,
                           *initial ? "started with other weights than worker 0" : "joined after the first step");
    return note_order(self, text_of(summary, "sha256_order"), err);
}

/* Read the facts of the whole job from the run's summary. */
static void note_job(psd_outcome_t *self, const json_t *summary, tally_t *tally)
{
    self->steps = tally->steps = (uint64_t)json_integer_value(json_object_get(summary, "steps"));
    self->epochs = number_of(summary, "epochs");
    self->seconds = number_of(summary, "wall_time_s");
    self->samples_per_s = number_of(summary, "job_samples") / self->seconds;
    self->final = number_of(summary, "last_metric");
    self->best = number_of(summary, "best_metric");
    self->held = number_of(summary, "holdout_metric");
    tally->chance = number_of(summary, "chance_metric");
    tally->test_rows = number_of(summary, "test_rows");
    tally->held_chance = number_of(summary, "holdout_chance_metric");
    tally->held_rows = number_of(summary, "holdout_rows");
    tally->begun_ts = number_of(summary, "begun_ts");
    snprintf(self->metric, sizeof self->metric, "%s", text_of(summary, "metric"));
    snprintf(tally->metric, sizeof tally->metric, "val/%s", self->metric);
    snprintf(self->optimizer, sizeof self->optimizer, "%s", text_of(summary, "optimizer"));
    snprintf(self->sha256, sizeof self->sha256, "%s", text_of(summary, "sha256"));
    self->diverged |= !isfinite(number_of(summary, "last_loss"));
}

/* Use the outcome of a worker that failed: psdctl run then stops the others, which report that they were stopped. */
static int read_summaries(psd_outcome_t *self, const char *directory, unsigned n_workers, tally_t *tally, psd_err_t *err)
{
    char path[PATH_MAX], unfinished[200] = "";
    int rc = PSD_OK;
    psd_summary_path(path, directory, 0);
    json_t *job = json_load_file(path, 0, NULL);
    if (job)
        note_job(self, job, tally);
    json_decref(job);
    for (unsigned worker = 0; !rc && worker < n_workers; worker++) {
        json_t *summary = psd_summary_of(directory, worker);
        if (!summary)
            return psd_err_set(err, PSD_EDATA, "worker %u left no summary", worker);
        if (!strcmp(text_of(summary, "outcome"), psd_err_text(PSD_EDIVERGED)))
            self->diverged = true;
        else if (strcmp(text_of(summary, "outcome"), "done") != 0)
            snprintf(unfinished, sizeof unfinished, "worker %u ended with: %.100s", worker, text_of(summary, "outcome"));
        rc = note_hashes(self, summary, worker, err);
        json_decref(summary);
    }
    return rc || self->diverged || !*unfinished ? rc : psd_err_set(err, PSD_EDATA, "%s", unfinished);
}

/* -- metrics ----------------------------------------------------------------------------------------------- */

static int add_look(psd_outcome_t *self, psd_point_t look, psd_err_t *err)
{
    psd_point_t *more = realloc(self->looks.point, (self->looks.n + 1) * sizeof *more);
    if (!more)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a curve");
    self->looks.point = more;
    more[self->looks.n++] = look;
    return PSD_OK;
}

static void add_loss(psd_outcome_t *self, tally_t *tally, psd_point_t at, double samples)
{
    const double share = (at.step - 1) / (double)tally->steps; /* lines of an earlier run come before these */
    const size_t bins = tally->steps < PSD_CURVE_POINTS ? tally->steps : PSD_CURVE_POINTS;
    if (!(share >= 0 && share < 1))
        return;
    if (!(at.step > tally->first_step)) {
        self->first_loss = at.value;
        tally->first_step = at.step;
    }
    const size_t bin = (size_t)(share * (double)bins + 1e-9); /* with few steps, the last step is the last tenth */
    const size_t tenth = at.step >= (double)tally->steps ? LAST_SHARE - 1 : (size_t)(share * LAST_SHARE + 1e-9);
    tally->sum[bin] += at.value * samples;
    tally->samples[bin] += samples;
    tally->step[bin] = fmax(tally->step[bin], at.step);
    tally->seconds[bin] = fmax(tally->seconds[bin], at.seconds);
    tally->epochs[bin] = fmax(tally->epochs[bin], at.epochs);
    tally->tenth[tenth] += at.value * samples;
    tally->tenth_samples[tenth] += samples;
}

static int read_line(psd_outcome_t *self, const json_t *line, tally_t *tally, psd_err_t *err)
{
    const double samples = number_of(line, "train/samples");
    psd_point_t at = { .step = number_of(line, "step"),
                       .seconds = number_of(line, "ts") - tally->begun_ts,
                       .epochs = number_of(line, "epoch") };
    if (json_object_get(line, tally->metric)) {
        at.value = number_of(line, tally->metric);
        return add_look(self, at, err);
    }
    at.value = number_of(line, "train/loss");
    if (samples > 0)
        add_loss(self, tally, at, samples);
    return PSD_OK;
}

static int read_metrics(psd_outcome_t *self, const char *directory, unsigned n_workers, tally_t *tally, psd_err_t *err)
{
    char path[PATH_MAX], text[1024];
    int rc = PSD_OK;
    for (unsigned worker = 0; !rc && worker < n_workers; worker++) {
        name_file(path, directory, "metrics", worker, "jsonl");
        FILE *file = fopen(path, "re");
        if (!file)
            return psd_err_set(err, PSD_EDATA, "worker %u left no metrics", worker);
        while (!rc && fgets(text, sizeof text, file)) {
            json_t *line = json_loads(text, 0, NULL);
            rc = line ? read_line(self, line, tally, err) : psd_err_set(err, PSD_EDATA, "%s has a line that cannot be read", path);
            json_decref(line);
        }
        fclose(file);
    }
    return rc;
}

static int draw_losses(psd_outcome_t *self, const tally_t *tally, psd_err_t *err)
{
    if (!(self->losses.point = calloc(PSD_CURVE_POINTS, sizeof *self->losses.point)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a curve");
    for (size_t i = 0; i < PSD_CURVE_POINTS; i++)
        if (tally->samples[i] > 0)
            self->losses.point[self->losses.n++] = (psd_point_t){ .step = tally->step[i],
                                                                  .seconds = tally->seconds[i],
                                                                  .epochs = tally->epochs[i],
                                                                  .value = tally->sum[i] / tally->samples[i] };
    return PSD_OK;
}

/* Without a test set, judge by the training loss. */
static void judge_by_loss(psd_outcome_t *self, const tally_t *tally)
{
    snprintf(self->metric, sizeof self->metric, PSD_TRAINING_LOSS);
    self->final = self->loss;
    self->best = NAN;
    for (size_t i = 0; i < LAST_SHARE; i++)
        if (tally->tenth_samples[i] > 0)
            self->best = fmin(self->best, tally->tenth[i] / tally->tenth_samples[i]);
}

/* -- bytes ------------------------------------------------------------------------------------------------- */

/* Read the traffic from the last lines of the servers' logs. */
static int read_traffic(psd_outcome_t *self, const char *directory, unsigned n_servers, psd_err_t *err)
{
    char path[PATH_MAX], line[8192];
    for (unsigned i = 0; i < n_servers; i++) {
        uint64_t received = 0, sent = 0;
        bool found = false;
        snprintf(path, sizeof path, "%s/logs/server-%u.log", directory, i);
        FILE *file = fopen(path, "re");
        while (file && fgets(line, sizeof line, file)) {
            const char *at = strstr(line, " id=server.exit ") ? strstr(line, " received_bytes=") : NULL;
            found |= at && sscanf(at, " received_bytes=%" SCNu64 " sent_bytes=%" SCNu64, &received, &sent) == 2;
        }
        if (file)
            fclose(file);
        if (!found)
            return psd_err_set(err, PSD_EDATA, "server %u did not report its traffic", i);
        self->moved_bytes += received + sent;
    }
    return PSD_OK;
}

/* Whether a score is no better than chance: a share of rows must be significantly above it, an error below it. */
static bool is_chance(const psd_outcome_t *self, double score, double chance, double rows)
{
    enum { DEVIATIONS = 3 };
    if (psd_outcome_smaller_is_better(self->metric))
        return score >= chance;
    return score <= chance + DEVIATIONS * sqrt(chance * (1 - chance) / fmax(rows, 1));
}

/* Whether the model has learned nothing. The test set has no part in any choice where rows were held out; where there is neither,
 * the loss must be below its first value. */
static bool learned_nothing(const psd_outcome_t *self, const tally_t *tally)
{
    if (isfinite(self->held) && isfinite(tally->held_chance))
        return is_chance(self, self->held, tally->held_chance, tally->held_rows);
    return self->looks.n ? is_chance(self, self->final, tally->chance, tally->test_rows) : self->final >= self->first_loss;
}

/* Whether the metric is NaN because of the labels, not of the model. */
static bool is_undefined(const psd_outcome_t *self, const tally_t *tally)
{
    const psd_metric_t *row = psd_metric_find(self->metric);
    return row && row->if_equal && isfinite(self->loss) && (isnan(self->final) || (isnan(self->held) && tally->held_rows > 0));
}

int psd_outcome_read(psd_outcome_t *self, const char *directory, unsigned n_workers, unsigned n_servers, psd_err_t *err)
{
    *self = (psd_outcome_t){ .final = NAN, .best = NAN, .loss = NAN, .held = NAN, .first_loss = NAN };
    tally_t tally = { .first_step = INFINITY, .chance = NAN, .held_chance = NAN };
    int rc = read_summaries(self, directory, n_workers, &tally, err);
    rc = rc ? rc : read_metrics(self, directory, n_workers, &tally, err);
    rc = rc ? rc : draw_losses(self, &tally, err);
    rc = rc ? rc : read_traffic(self, directory, n_servers, err);
    if (rc)
        return rc;
    self->loss = tally.tenth[LAST_SHARE - 1] / tally.tenth_samples[LAST_SHARE - 1];
    if (!self->looks.n)
        judge_by_loss(self, &tally);
    self->undefined = !self->diverged && is_undefined(self, &tally);
    self->diverged |= !self->undefined && (!isfinite(self->loss) || !isfinite(self->final));
    self->untrained = !self->diverged && !self->undefined && learned_nothing(self, &tally);
    self->read = true;
    return PSD_OK;
}
