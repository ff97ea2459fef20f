#include "worker/trainer.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/system/json.h"
#include "common/system/log.h"
#include "common/optim/optimizer.h"
#include "common/optim/schedule.h"
#include "worker/order.h"
#include "worker/patience.h"
#include "worker/record.h"
#include "worker/sampler.h"
#include "worker/trace.h"

#define PSD_TRAINER_RUNNING "running" /* the outcome until there is one */

enum {
    POLL_MS = 100,        /* how often a wait checks `stop` */
    STOP_GRACE_MS = 2000, /* how long a stop waits for the open round, to which this worker has contributed */
    LEAVE_MS = 60000,     /* how long leaving may take: with checkpoints, until the last weights are safe */
    PULL_MS = 60000,      /* how long slow weights may take */
    HOPELESS_STEPS = 20,  /* steps in a row without a finite loss that count as diverged */
};

/* Since the last line of metrics: steps, those that the servers skipped, samples of this worker in them, and the mean loss of
 * these. */
typedef struct window {
    double loss;
    uint64_t samples, steps, skipped;
} window_t;

typedef struct trainer {
    const psd_trainer_config_t *config;
    psd_trainer_result_t *result;
    psd_worker_t *worker;
    psd_sampler_t *sampler;
    psd_record_t *record;
    uint64_t health_step; /* of the figures that it has; 0: none */
    psd_trace_t *trace;   /* NULL: none */
    psd_order_t *order;   /* of the rows so far */
    size_t n;             /* tensors */
    const psd_param_t *params;
    float *slow[PSD_MAX_PARAMS]; /* room for the slow weights; NULL until they are needed */
    uint64_t per_step;           /* rounds that make a step together; they are one step of the trainer, even if one was skipped */
    uint64_t last_step;          /* the last step to make; UINT64_MAX: no limit */
    uint64_t samples;            /* of the whole job so far */
    psd_worker_settings_t settings; /* of the job, from when it is joined */
    window_t window;
    unsigned hopeless; /* steps in a row without a finite loss */
    uint32_t world;    /* the largest view so far */
    bool target_met;
    psd_patience_t patience;
    bool told_idle;                       /* whether it has warned that this worker has no rows */
    uint64_t reported_ms;                 /* when it last reported its progress to the servers */
    uint64_t begun_ms, stop_ms;           /* when the loop began; when `stop` was first seen, 0: not yet */
    double begun_ts;                      /* when the loop began, in seconds since 1970 */
    char sha256_initial[PSD_SHA256_TEXT]; /* of the weights before the first step; "" for a worker that joined later */
} trainer_t;

static uint64_t now_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Convert a failure of the library: negative codes are the same numbers. A deadline here means an absent peer. */
static int failed(const trainer_t *self, int rc, const char *doing, psd_err_t *err)
{
    const char *why = self->worker ? psd_worker_error(self->worker) : "";
    return psd_err_set(err, rc == PSD_W_ETIMEOUT ? PSD_EUNAVAILABLE : rc, "%s: %s", doing, *why ? why : psd_err_text(rc));
}

static bool told_to_stop(const trainer_t *self) { return self->config->stop && *self->config->stop; }

/* ---- Joining ---- */

static psd_position_t position(const trainer_t *self)
{
    psd_position_t at = { .size = sizeof at };
    const int rc = psd_worker_position(self->worker, &at);
    assert(rc == PSD_W_OK && "a struct of this library's own size");
    return at;
}

static int summarise(const trainer_t *self, const char *outcome, psd_err_t *err);
static void note_start(trainer_t *self, uint64_t clock);
static void recall(trainer_t *self, psd_position_t at);

/* For models that are made of checkpoints, which do not say how the data became features. */
static int keep_encoding(const trainer_t *self, psd_err_t *err)
{
    const psd_encoding_t *encoding = self->config->train->encoding;
    char *text = encoding ? psd_encoding_print(encoding, err) : NULL;
    if (encoding && !text)
        return err ? err->code : PSD_ENOMEM;
    const int rc = psd_record_encoding(self->record, text, self->result->steps > 0, err);
    free(text);
    return rc;
}

/* Warn, once per job, of a schedule that does not fit the job's length. */
static void doubt_schedule(const trainer_t *self)
{
    const psd_trainer_config_t *config = self->config;
    const double rows = (double)config->train->n_rows, per_step = (double)config->batch * (double)self->per_step;
    double steps = config->stop_steps ? (double)config->stop_steps : INFINITY;
    char why[PSD_SCHEDULE_DOUBT];
    psd_schedule_t schedule;
    if (config->stop_epochs > 0)
        steps = fmin(steps, config->stop_epochs * rows / per_step);
    if (psd_schedule_parse(&schedule, self->settings.schedule, NULL) != PSD_OK ||
        !psd_schedule_unit_find(self->settings.schedule_unit, &schedule.unit))
        return;
    const double end = schedule.unit == PSD_UNIT_STEP     ? steps
                       : schedule.unit == PSD_UNIT_SAMPLE ? steps * per_step
                                                          : steps * per_step / rows;
    const bool is_known = isfinite(end) && (self->settings.in_rounds || schedule.unit != PSD_UNIT_STEP);
    if (psd_schedule_doubt(&schedule, self->settings.lr, is_known ? end : 0, why))
        psd_log_warn("schedule.doubt", "schedule=\"%s\" reason=\"%s\"", self->settings.schedule, why);
}

static int join(trainer_t *self, psd_err_t *err)
{
    psd_tensor_t tensors[PSD_MAX_PARAMS];
    int rc = psd_worker_connect(&self->worker, &self->config->server);
    if (rc)
        return failed(self, rc, "cannot join", err);
    float *gradients = psd_worker_alloc(self->worker, psd_model_n_elements(self->config->model));
    if (!gradients)
        return failed(self, PSD_ENOMEM, "cannot join", err);
    psd_model_lend_gradients(self->config->model, gradients);
    for (size_t i = 0; i < self->n; i++)
        tensors[i] = (psd_tensor_t){ .name = self->params[i].name,
                                     .shape = self->params[i].shape,
                                     .n_dims = self->params[i].n_dims,
                                     .data = self->params[i].data };
    rc = psd_worker_register_with(self->worker, tensors, self->n, self->config->state);
    if (rc)
        return failed(self, rc, "cannot register the model", err);
    self->settings = (psd_worker_settings_t){ .size = sizeof self->settings };
    if ((rc = psd_worker_settings(self->worker, &self->settings)))
        return failed(self, rc, "cannot read the job's settings", err);
    psd_position_t at = position(self);
    psd_log_info("worker.joined", "worker=%u rank=%u world=%u step=%" PRIu64, at.worker, at.rank, at.world, at.clock);
    self->world = at.world;
    self->per_step = self->settings.accumulate > 1 ? self->settings.accumulate : 1;
    if (at.rank == 0)
        doubt_schedule(self);
    self->result->steps = (at.clock - 1) / self->per_step;
    note_start(self, at.clock);
    recall(self, at);
    self->record = psd_record_new(self->config->run_dir, at.worker, self->config->metrics_also, err);
    if (self->record && self->config->trace && *self->config->trace && !(self->trace = psd_trace_new(self->config->trace, err)))
        return PSD_EIO;
    if (!self->record)
        return err ? err->code : PSD_EIO;
    rc = keep_encoding(self, err);
    return rc ? rc : summarise(self, PSD_TRAINER_RUNNING, err);
}

/* The beginning of a hash of the initial weights, if they do not come from the seed. */
static const char *initial_hash(const psd_trainer_config_t *config, char out[PSD_SHA256_TEXT])
{
    psd_saved_t tensors[PSD_MAX_PARAMS];
    const size_t n = psd_model_n_params(config->model);
    for (size_t i = 0; i < n; i++) {
        const psd_param_t *param = &psd_model_params(config->model)[i];
        tensors[i] = (psd_saved_t){
            .name = param->name, .shape = param->shape, .n_dims = param->n_dims, .n = param->n, .data = param->data
        };
    }
    return psd_weights_sha256(tensors, n, out);
}

/* Likewise of the optimizer state. */
static const char *state_hash(const psd_worker_state_t *state, char out[PSD_SHA256_TEXT])
{
    psd_saved_t *fields = calloc(state->n + 1, sizeof *fields);
    float *number = calloc(state->n + 1, sizeof *number);
    assert(fields && number && "no memory for a list of fields");
    for (size_t i = 0; i < state->n; i++) {
        const psd_worker_field_t *field = &state->field[i];
        number[i] = (float)field->number;
        fields[i] = field->data ? (psd_saved_t){ .data = field->data, .n = field->n } : (psd_saved_t){ .data = &number[i], .n = 1 };
    }
    psd_weights_sha256(fields, state->n, out);
    free(fields);
    free(number);
    return out;
}

void psd_trainer_recipe(const psd_trainer_config_t *config, char out[PSD_TRAINER_RECIPE])
{
    const char *activation = psd_model_activation(config->model);
    char hash[PSD_SHA256_TEXT] = "", of_state[PSD_SHA256_TEXT] = "";
    snprintf(out, PSD_TRAINER_RECIPE,
             "model=%s%s%s rows=%zu data=%016" PRIx64 " batch=%zu seed=%" PRIu64 " shuffle=%s%s%.16s%s%.16s",
             psd_model_kind(config->model)->name, *activation ? " activation=" : "", activation, config->train->n_rows,
             psd_dataset_hash(config->train), config->batch, config->seed, config->shuffle ? "true" : "false",
             config->warm ? " init=" : "", config->warm ? initial_hash(config, hash) : "", config->state ? " state=" : "",
             config->state ? state_hash(config->state, of_state) : "");
}

/* ---- Evaluation ---- */

/* The weights to evaluate and to save: the slow ones if there are any. */
static int fetch_slow(trainer_t *self, psd_err_t *err)
{
    for (size_t i = 0; i < self->n; i++)
        if (!self->slow[i] && !(self->slow[i] = malloc(self->params[i].n * sizeof(float))))
            return psd_err_set(err, PSD_ENOMEM, "no memory for the slow weights");
    int rc = psd_worker_pull_slow(self->worker, self->slow, PULL_MS);
    return rc ? failed(self, rc, "cannot read the slow weights", err) : PSD_OK;
}

/* The main metric. */
static const psd_metric_t *metric_of(const trainer_t *self)
{
    return self->config->metric ? self->config->metric : psd_metric_find(psd_model_kind(self->config->model)->metric);
}

static void note_score(trainer_t *self, psd_score_t score)
{
    psd_trainer_result_t *r = self->result;
    const bool smaller = metric_of(self)->smaller_is_better;
    const bool better = isnan(r->best_metric) || (smaller ? score.metric < r->best_metric : score.metric > r->best_metric);
    r->best_metric = better || !r->evaluated ? score.metric : r->best_metric;
    r->last_score = score;
    r->evaluated = true;
    const double target = self->config->stop_target;
    if (target > 0)
        self->target_met |= smaller ? score.metric <= target : score.metric >= target;
}

enum { NAME = 32 };

/* Write a line with all metrics that suit the set: "val/loss", "val/accuracy" and so on; for the training rows without the loss,
 * because "train/loss" is the mean over the steps. */
static void record_score(trainer_t *self, const char *what, const psd_dataset_t *set, const psd_score_t *score)
{
    char name[PSD_MAX_METRICS + 1][NAME];
    psd_measure_t line[4 + PSD_MAX_METRICS] = { { "step", (double)self->result->steps },
                                                { "epoch", self->result->epochs },
                                                { "samples", (double)self->samples } };
    size_t n = 3;
    snprintf(name[PSD_MAX_METRICS], NAME, "%s/loss", what);
    if (set != self->config->train)
        line[n++] = (psd_measure_t){ name[PSD_MAX_METRICS], score->loss };
    for (size_t i = 0; psd_metric_at(i); i++) {
        snprintf(name[i], NAME, "%s/%s", what, psd_metric_at(i)->name);
        if (psd_metric_suits(psd_metric_at(i), set))
            line[n++] = (psd_measure_t){ name[i], score->value[i] };
    }
    psd_record_line(self->record, (double)now_ms(CLOCK_REALTIME) / 1e3, line, n);
}

/* The score that patience uses: of the held-out rows, otherwise of the test set. */
static bool looks_at_held(const trainer_t *self) { return self->config->held != NULL; }

static void remember(void *arg, uint64_t step, double value)
{
    trainer_t *self = arg;
    if (step * self->per_step < position(self).clock)
        psd_patience_note(&self->patience, step, value);
}

/* Read the evaluations of this worker's earlier incarnations from its metrics file. */
static void recall(trainer_t *self, psd_position_t at)
{
    char name[NAME];
    self->patience =
        (psd_patience_t){ .limit = self->config->stop_patience, .smaller_is_better = metric_of(self)->smaller_is_better };
    if (!self->patience.limit || at.clock == 1)
        return;
    snprintf(name, sizeof name, "%s/%s", looks_at_held(self) ? "holdout" : "val", metric_of(self)->name);
    psd_record_history(self->config->run_dir, at.worker, name, remember, self);
    if (!self->patience.n)
        psd_log_warn("train.patience",
                     "step=%" PRIu64 " reason=\"this worker has no evaluations from before this step: its patience begins here\"",
                     at.clock - 1);
}

static int lose_patience(trainer_t *self, psd_err_t *err)
{
    const psd_patience_t *p = &self->patience;
    const double value = looks_at_held(self) ? self->result->held_score.metric : self->result->last_score.metric;
    if (!p->limit)
        return PSD_OK;
    if (!psd_patience_note(&self->patience, self->result->steps, value))
        return psd_err_set(err, PSD_ENOMEM, "no memory for evaluations");
    if (psd_patience_is_out(p))
        psd_log_info("train.stopped",
                     "step=%" PRIu64 " reason=\"stop.patience: the last %" PRIu64 " evaluations were no better than "
                     "%s %.6g, of step %" PRIu64 "\"",
                     self->result->steps, p->waited, metric_of(self)->name, p->best, p->best_step);
    return PSD_OK;
}

static int evaluate(trainer_t *self, psd_err_t *err)
{
    const psd_position_t at = position(self);
    const psd_trainer_config_t *config = self->config;
    psd_trainer_result_t *r = self->result;
    const bool by_all = config->stop_target > 0 || config->stop_patience;
    if ((!config->test && !config->eval_train) || (at.rank != 0 && !by_all))
        return PSD_OK;
    int rc = at.has_slow ? fetch_slow(self, err) : PSD_OK;
    if (rc)
        return rc == PSD_EAGAIN ? PSD_OK : rc; /* the job has gone back: there is nothing to evaluate now */
    const float *const *weights = at.has_slow ? (const float *const *)self->slow : NULL;
    if (config->eval_train && !at.rank) {
        r->train_score = psd_model_evaluate(config->model, weights, config->train, metric_of(self));
        r->train_evaluated = true;
        record_score(self, "train", config->train, &r->train_score);
    }
    if (!config->test)
        return PSD_OK;
    const psd_score_t score = psd_model_evaluate(config->model, weights, config->test, metric_of(self));
    note_score(self, score);
    record_score(self, "val", config->test, &score);
    if (config->held) {
        r->held_score = psd_model_evaluate(config->model, weights, config->held, metric_of(self));
        r->held_evaluated = true;
        record_score(self, "holdout", config->held, &r->held_score);
    }
    char name[NAME];
    snprintf(name, sizeof name, "val/%s", metric_of(self)->name);
    psd_worker_report(self->worker, "val/loss", score.loss);
    psd_worker_report(self->worker, name, score.metric);
    psd_log_info("train.evaluated", "step=%" PRIu64 " epoch=%.3f val_loss=%.6g val_%s=%.6g weights=%s", r->steps, r->epochs,
                 score.loss, metric_of(self)->name, score.metric, at.has_slow ? "slow" : "fast");
    return lose_patience(self, err);
}

/* Whether a multiple of `eval_every` epochs lies in (before, after], both in samples. */
static bool evaluation_is_due(const trainer_t *self, uint64_t before, uint64_t after)
{
    const double period = self->config->eval_every * (double)self->config->train->n_rows;
    return period > 0 && floor((double)after / period + 1e-9) > floor((double)before / period + 1e-9);
}

/* ---- One step ---- */

/* Wait for the round to end. After a stop it still waits for a while, because other workers need this gradient. */
static int await(trainer_t *self, psd_ticket_t ticket, psd_err_t *err)
{
    for (;;) {
        int rc = psd_worker_wait(self->worker, ticket, POLL_MS);
        if (rc == PSD_OK)
            return PSD_OK;
        if (rc != PSD_W_ETIMEOUT)
            return failed(self, rc, "the exchange failed", err);
        if (!told_to_stop(self))
            continue;
        const uint64_t now = now_ms(CLOCK_MONOTONIC);
        self->stop_ms = self->stop_ms ? self->stop_ms : now;
        if (now - self->stop_ms > STOP_GRACE_MS)
            return psd_err_set(err, PSD_ESTOPPED, "stopped inside round %" PRIu64 ", which did not end within %d ms",
                               position(self).clock, STOP_GRACE_MS);
    }
}

/* Write the health of each tensor for TensorBoard, if the servers have looked again. */
static void write_health(trainer_t *self)
{
    enum { TAG = sizeof self->params->name + 24 };
    for (size_t i = 0; psd_record_has_events(self->record) && i < self->n; i++) {
        psd_worker_health_t now = { .size = sizeof now };
        if (psd_worker_health(self->worker, i, &now) != PSD_W_OK || (!i && now.step == self->health_step))
            return;
        const psd_measure_t of[] = { { "gradient_norm", now.gradient_norm },
                                     { "weight_norm", now.weight_norm },
                                     { "update_ratio", now.update_ratio },
                                     { "zero_share", now.zero_share } };
        enum { N = sizeof of / sizeof *of };
        char tag[N][TAG];
        psd_measure_t event[1 + N] = { { "step", (double)now.step } };
        for (size_t k = 0; k < N; k++) {
            snprintf(tag[k], TAG, "%s/%s", of[k].name, self->params[i].name);
            event[1 + k] = (psd_measure_t){ tag[k], of[k].value };
        }
        psd_record_event(self->record, (double)now_ms(CLOCK_REALTIME) / 1e3, event, 1 + N);
        self->health_step = now.step;
    }
}

/* Write a line with the measures of the steps since the last line. */
static void write_metrics(trainer_t *self)
{
    window_t *w = &self->window;
    psd_measure_t line[7] = { { "step", (double)self->result->steps },
                              { "epoch", self->result->epochs },
                              { "samples", (double)self->samples },
                              { "train/samples", (double)w->samples } };
    size_t n = 4;
    if (w->skipped)
        line[n++] = (psd_measure_t){ "train/skipped", (double)w->skipped };
    if (w->samples)
        line[n++] = (psd_measure_t){ "train/loss", w->loss };
    line[n++] = (psd_measure_t){ "lr", psd_worker_step_lr(self->worker) };
    psd_record_line(self->record, (double)now_ms(CLOCK_REALTIME) / 1e3, line, n);
    write_health(self);
    *w = (window_t){ 0 };
}

/* The window's loss is the mean over its samples; that of a single step is kept to the last bit. */
static void note_loss(trainer_t *self, double loss, uint64_t samples)
{
    window_t *w = &self->window;
    w->steps++;
    if (!samples && self->settings.in_rounds)
        self->result->last_loss = psd_worker_round_loss(self->worker); /* the mean loss of the other workers */
    if (!samples)
        return;
    w->loss = w->samples ? (w->loss * (double)w->samples + loss * (double)samples) / (double)(w->samples + samples) : loss;
    w->samples += samples;
    self->result->last_loss = loss;
    self->result->samples += samples;
    self->hopeless = isfinite(loss) ? 0 : self->hopeless + 1;
}

static void show(trainer_t *self)
{
    const psd_trainer_result_t *r = self->result;
    const psd_progress_state_t state = { .step = r->steps,
                                         .steps = self->last_step == UINT64_MAX ? 0 : self->last_step,
                                         .epoch = r->epochs,
                                         .samples = self->samples,
                                         .loss = r->last_loss,
                                         .metric = r->evaluated ? r->last_score.metric : NAN,
                                         .metric_name = metric_of(self)->name };
    if (self->config->progress)
        psd_progress_update(self->config->progress, now_ms(CLOCK_MONOTONIC), &state);
}

/* Report progress from time to time, for the servers' status pages. */
static void report_progress(trainer_t *self, uint32_t rank, uint64_t now)
{
    enum { PAUSE_MS = 1000 };
    const psd_trainer_result_t *r = self->result;
    if (rank || (now - self->reported_ms < PAUSE_MS && r->steps < self->last_step))
        return;
    self->reported_ms = now;
    psd_worker_report(self->worker, "progress/rows", (double)self->config->train->n_rows);
    if (self->last_step != UINT64_MAX && r->rounds)
        psd_worker_report(self->worker, "progress/left_seconds",
                          (double)(now - self->begun_ms) / 1e3 / (double)r->rounds *
                              (double)((self->last_step - r->steps) * self->per_step));
}

static bool gradient_is_finite(const trainer_t *self)
{
    for (size_t i = 0; i < self->n; i++)
        if (psd_first_nonfinite(self->params[i].grad, self->params[i].n) < self->params[i].n)
            return false;
    return true;
}

/* Account for an exchange that has ended. */
static void note_round(trainer_t *self, psd_position_t at, const psd_slice_t *slice, double loss, bool skipped)
{
    psd_trainer_result_t *r = self->result;
    self->samples = self->settings.in_rounds ? slice->samples_before + slice->n_round : psd_worker_job_samples(self->worker);
    self->world = at.world > self->world ? at.world : self->world;
    r->steps = at.clock / self->per_step;
    r->epochs = (double)self->samples / (double)self->config->train->n_rows;
    r->rounds++;
    r->skipped += skipped;
    self->window.skipped += skipped;
    note_loss(self, loss, slice->n);
    psd_order_add(self->order, self->config->train, slice->rows, slice->n);
    if (at.clock % (self->config->metrics_every * self->per_step) == 0)
        write_metrics(self);
}

/* An exchange that is pushed tensor by tensor. */
typedef struct pushing {
    trainer_t *trainer;
    uint64_t samples;
    psd_ticket_t ticket;
    int rc; /* of the first push that failed */
} pushing_t;

static void push(void *arg, size_t param, double loss)
{
    pushing_t *self = arg;
    trainer_t *trainer = self->trainer;
    if (self->rc == PSD_W_OK)
        self->rc = psd_worker_push(trainer->worker, param, trainer->params[param].grad, self->samples, loss, &self->ticket);
}

/* Read the rows of the next round while the servers work on this one. Not across epochs, because the next epoch's order would
 * replace this one's. */
static void read_ahead(trainer_t *self, psd_position_t at, const psd_slice_t *slice)
{
    if (slice->ends_epoch)
        return;
    const psd_slice_t next = psd_sampler_at(self->sampler, at.clock + 1, at.rank, at.world);
    if (next.n)
        psd_model_expect(self->config->model, self->config->train, next.rows, next.n);
}

/* Whether the round that began at `at` was skipped. */
static bool made_none(const trainer_t *self, psd_position_t at)
{
    const psd_position_t now = position(self);
    return now.version == at.version && !now.gathered;
}

/* The last step to make; UINT64_MAX: no limit. */
static uint64_t last_round(const trainer_t *self)
{
    return self->last_step < UINT64_MAX / self->per_step ? self->last_step * self->per_step : UINT64_MAX;
}

/* One round: gradient, exchange, accounts. The servers get the last layers while the first are computed. */
static int step(trainer_t *self, psd_position_t at, psd_err_t *err)
{
    const psd_slice_t slice = psd_sampler_at(self->sampler, at.clock, at.rank, at.world);
    pushing_t out = { .trainer = self, .samples = slice.n };
    double loss = 0;
    if (slice.n)
        loss = psd_model_gradient_each(self->config->model, self->config->train, slice.rows, slice.n, push, &out);
    else
        out.rc = psd_worker_exchange(self->worker, NULL, 0, 0, &out.ticket);
    if (!slice.n && !self->told_idle) {
        self->told_idle = true;
        psd_log_warn("worker.idle",
                     "worker=%u rows=%" PRIu64 " workers=%u reason=\"a step has fewer rows than there are workers: this one "
                     "has none to compute\"",
                     at.worker, slice.n_round, at.world);
    }
    read_ahead(self, at, &slice);
    const bool is_bad = !self->settings.in_rounds && slice.n && !gradient_is_finite(self);
    int rc = out.rc ? failed(self, out.rc, "cannot exchange", err) : await(self, out.ticket, err);
    if (rc == PSD_EDIVERGED && (self->settings.in_rounds || is_bad))
        note_round(self, at, &slice, loss, true); /* it was the last skipped round that the job allows */
    if (rc || position(self).clock != at.clock + 1)
        return rc; /* the job has gone back, and will make this round again */
    if (self->trace && (rc = psd_trace_step(self->trace, at.clock, at.world, self->params, self->n, err)) != 0)
        return rc;
    note_round(self, at, &slice, loss, self->settings.in_rounds ? made_none(self, at) : is_bad);
    if (at.clock == last_round(self) || evaluation_is_due(self, slice.samples_before, slice.samples_before + slice.n_round))
        rc = evaluate(self, err);
    show(self);
    report_progress(self, at.rank, now_ms(CLOCK_MONOTONIC));
    return rc;
}

static void collect(const trainer_t *self, bool slow, psd_saved_t *out)
{
    for (size_t i = 0; i < self->n; i++)
        out[i] = (psd_saved_t){ .name = self->params[i].name,
                                .shape = self->params[i].shape,
                                .n_dims = self->params[i].n_dims,
                                .n = self->params[i].n,
                                .data = slow ? self->slow[i] : self->params[i].data };
}

/* The hash of the common initial weights, if this worker was there from the start. */
static void note_start(trainer_t *self, uint64_t clock)
{
    psd_saved_t tensors[PSD_MAX_PARAMS];
    self->begun_ms = now_ms(CLOCK_MONOTONIC);
    self->begun_ts = (double)now_ms(CLOCK_REALTIME) / 1e3;
    if (clock != 1)
        return;
    collect(self, false, tensors);
    psd_weights_sha256(tensors, self->n, self->sha256_initial);
}

static uint64_t choose_last_step(const trainer_t *self)
{
    const psd_trainer_config_t *config = self->config;
    uint64_t last = config->stop_steps ? config->stop_steps : UINT64_MAX;
    if (config->stop_epochs > 0) {
        const double rounds = ceil(config->stop_epochs * (double)psd_sampler_steps_per_epoch(self->sampler) - 1e-9);
        const double steps = ceil(rounds / (double)self->per_step); /* rows of the next epoch complete the last step */
        if (steps < (double)last)
            last = steps < 1 ? 1 : (uint64_t)steps;
    }
    return last;
}

static int loop(trainer_t *self, psd_err_t *err)
{
    self->last_step = choose_last_step(self);
    int rc = PSD_OK;
    psd_position_t at = position(self);
    self->result->steps = (at.clock - 1) / self->per_step;
    for (; !rc && at.clock <= last_round(self) && !self->target_met && !psd_patience_is_out(&self->patience); at = position(self)) {
        if (told_to_stop(self))
            return psd_err_set(err, PSD_ESTOPPED, "stopped after step %" PRIu64, self->result->steps);
        if (psd_worker_asked_to_leave(self->worker))
            return psd_err_set(err, PSD_EDRAINED, "left after step %" PRIu64 ", at an operator's request", self->result->steps);
        rc = step(self, at, err);
        if (!rc && self->hopeless >= HOPELESS_STEPS)
            return psd_err_set(err, PSD_EDIVERGED,
                               "the loss was not finite for %d steps in a row, up to step %" PRIu64 "; lower the learning rate",
                               HOPELESS_STEPS, self->result->steps);
    }
    if (!rc && self->config->stop_target > 0 && self->result->evaluated && !self->target_met)
        return psd_err_set(err, PSD_EDIVERGED, "the target was not met: %s is %.6g after step %" PRIu64 ", and should reach %.6g",
                           metric_of(self)->name, self->result->last_score.metric, self->result->steps, self->config->stop_target);
    return rc;
}

/* ---- The end ---- */

/* A run that has failed leaves a file of an earlier run at `save` as it is, and says so; false: there is none. */
static bool leaves_earlier_model(const trainer_t *self)
{
    struct stat facts;
    if (stat(self->config->save, &facts) || !S_ISREG(facts.st_mode))
        return false;
    psd_log_warn("save.kept", "file=\"%s\" reason=\"the run has failed, so the earlier file of that name stays as it is\"",
                 self->config->save);
    return true;
}

/* Hash the trained weights and, on rank 0, save them; weights that are not finite are an error. */
static int keep_weights(trainer_t *self, bool has_failed, psd_err_t *err)
{
    const psd_position_t at = position(self);
    psd_saved_t tensors[PSD_MAX_PARAMS];
    collect(self, false, tensors);
    psd_weights_sha256(tensors, self->n, self->result->sha256);
    int rc = at.has_slow ? fetch_slow(self, err) : PSD_OK;
    if (rc)
        return rc;
    if (at.has_slow) {
        collect(self, true, tensors);
        psd_weights_sha256(tensors, self->n, self->result->sha256_slow);
    }
    collect(self, false, tensors);
    if ((rc = psd_weights_look(tensors, self->n, err)) != 0)
        return rc;
    if (at.has_slow) {
        collect(self, true, tensors);
        if ((rc = psd_weights_look(tensors, self->n, err)) != 0)
            return rc;
    }
    if (at.rank != 0 || !self->config->save || !*self->config->save || (has_failed && leaves_earlier_model(self)))
        return PSD_OK;
    char step_text[24];
    snprintf(step_text, sizeof step_text, "%" PRIu64, self->result->steps);
    char *encoding = NULL;
    if (self->config->train->encoding && !(encoding = psd_encoding_print(self->config->train->encoding, err)))
        return err ? err->code : PSD_ENOMEM;
    const psd_note_t notes[] = { { "format", "pt" },
                                 { "psd.job", self->config->server.job ? self->config->server.job : "psd" },
                                 { "psd.step", step_text },
                                 { "psd.optimizer", self->settings.optimizer },
                                 { "psd.which", at.has_slow ? "slow" : "fast" },
                                 { "psd.version", PSD_VERSION },
                                 { PSD_ENCODING_NOTE, encoding } };
    const size_t n_notes = sizeof notes / sizeof *notes - !encoding;
    rc = psd_safetensors_write(self->config->save, tensors, self->n, notes, n_notes, err);
    free(encoding);
    return rc;
}

static json_t *real_or_null(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *text_or_null(const char *text) { return *text ? json_string(text) : json_null(); }

/* The metrics that suit a set, by name; null where there was no evaluation; NULL without memory. */
static json_t *scores_or_null(bool evaluated, const psd_dataset_t *set, const psd_score_t *score)
{
    json_t *object = evaluated ? json_object() : json_null();
    int lost = 0;
    for (size_t i = 0; evaluated && psd_metric_at(i); i++)
        if (psd_metric_suits(psd_metric_at(i), set))
            lost |= json_object_set_new(object, psd_metric_at(i)->name, real_or_null(score->value[i]));
    if (!lost)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *count(uint64_t value) { return json_integer((json_int_t)value); }

/* The summary: job and worker, progress, and outcome; NULL when memory runs out. The caller frees it. */
static char *summary_text(const trainer_t *self, const char *outcome)
{
    const psd_trainer_result_t *r = self->result;
    const psd_position_t at = position(self);
    const char *job = self->config->server.job;
    char order[PSD_SHA256_TEXT];
    const double ended_ts = strcmp(outcome, PSD_TRAINER_RUNNING) ? (double)now_ms(CLOCK_REALTIME) / 1e3 : NAN;
    const struct {
        const char *key;
        json_t *value;
    } rows[] = {
        { "schema", json_string("psd.summary/1") },
        { "job", json_string(job ? job : "psd") },
        { "outcome", json_string(outcome) },
        { "run", json_sprintf("%016" PRIx64, at.run) },
        { "worker", count(at.worker) },
        { "rank", count(at.rank) },
        { "world", count(self->world) },
        { "steps", count(r->steps) },
        { "rounds", count(r->rounds) },
        { "skipped", count(r->skipped) },
        { "epochs", real_or_null(r->epochs) },
        { "samples", count(r->samples) },
        { "job_samples", count(self->samples) },
        { "begun_ts", real_or_null(self->begun_ts) },
        { "ended_ts", real_or_null(ended_ts) },
        { "wall_time_s", real_or_null(r->seconds) },
        { "samples_per_s", real_or_null(r->seconds > 0 ? (double)r->samples / r->seconds : NAN) },
        { "last_loss", real_or_null(r->last_loss) },
        { "metric", json_string(metric_of(self)->name) },
        { "last_metric", real_or_null(r->evaluated ? r->last_score.metric : NAN) },
        { "best_metric", real_or_null(r->evaluated ? r->best_metric : NAN) },
        { "last_val_loss", real_or_null(r->evaluated ? r->last_score.loss : NAN) },
        { "holdout_metric", real_or_null(r->held_evaluated ? r->held_score.metric : NAN) },
        { "test_metrics", scores_or_null(r->evaluated, self->config->test, &r->last_score) },
        { "holdout_metrics", scores_or_null(r->held_evaluated, self->config->held, &r->held_score) },
        { "train_metrics", scores_or_null(r->train_evaluated, self->config->train, &r->train_score) },
        { "chance_metric", real_or_null(self->config->test ? metric_of(self)->chance(self->config->test) : NAN) },
        { "test_rows", count(self->config->test ? self->config->test->n_rows : 0) },
        { "holdout_chance_metric", real_or_null(self->config->held ? metric_of(self)->chance(self->config->held) : NAN) },
        { "holdout_rows", count(self->config->held ? self->config->held->n_rows : 0) },
        { "sha256_initial", text_or_null(self->sha256_initial) },
        { "sha256_order", text_or_null(psd_order_sha256(self->order, order)) },
        { "sha256", text_or_null(r->sha256) },
        { "sha256_slow", text_or_null(r->sha256_slow) },
        { "optimizer", json_string(self->settings.optimizer) },
        { "settings", json_string(self->settings.text) },
    };
    json_t *root = json_object();
    int lost = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        lost |= json_object_set_new(root, rows[i].key, rows[i].value);
    char *text = lost ? NULL : psd_json_text(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(root);
    return text;
}

static int summarise(const trainer_t *self, const char *outcome, psd_err_t *err)
{
    char *text = summary_text(self, outcome);
    const int rc = text ? psd_record_summarise(self->record, text, err) : psd_err_set(err, PSD_ENOMEM, "no memory for the summary");
    free(text);
    return rc;
}

/* Leave, and wait for the servers' answer; with checkpoints they answer when the last weights are safe. After a stop it waits only
 * for a while. */
static int leave(trainer_t *self, bool finished)
{
    const uint64_t begun = now_ms(CLOCK_MONOTONIC);
    for (;;) {
        const int rc = psd_worker_leave(self->worker, finished, POLL_MS);
        const uint64_t now = now_ms(CLOCK_MONOTONIC);
        if (told_to_stop(self) && !self->stop_ms)
            self->stop_ms = now;
        if (rc != PSD_W_ETIMEOUT || now - begun > LEAVE_MS || (self->stop_ms && now - self->stop_ms > STOP_GRACE_MS))
            return rc;
    }
}

/* Leave the job. A worker that diverged or missed its target has no more work, so it is finished, too. Returns `rc`, or the failure
 * to leave. */
static int part(trainer_t *self, int rc, psd_err_t *err)
{
    const bool finished = rc == PSD_OK || rc == PSD_EDIVERGED;
    if (!finished && rc != PSD_ESTOPPED && rc != PSD_EDRAINED)
        return rc;
    const int left = leave(self, finished);
    if (rc != PSD_OK)
        return rc;
    if (left == PSD_W_EAGAIN)
        return PSD_EAGAIN;
    if (left == PSD_W_ETIMEOUT && told_to_stop(self))
        return psd_err_set(err, PSD_ESTOPPED, "stopped after the last step, before the last weights were safe");
    if (left == PSD_W_EFENCED) /* the servers do not know that the work is done; the next incarnation reports it */
        return failed(self, left, "cannot leave", err);
    return PSD_OK;
}

/* After the loop, however it ended: save the weights, write the summary, leave. Returns the first failure. */
static int finish(trainer_t *self, int rc, psd_err_t *err)
{
    psd_err_t late = { 0 };
    self->result->run = position(self).run;
    self->result->rank = position(self).rank;
    self->result->seconds = (double)(now_ms(CLOCK_MONOTONIC) - self->begun_ms) / 1e3;
    if (self->window.steps)
        write_metrics(self);
    if (self->config->progress)
        psd_progress_end(self->config->progress, now_ms(CLOCK_MONOTONIC));
    int late_rc = PSD_OK;
    if (rc == PSD_OK || rc == PSD_EDIVERGED)
        late_rc = keep_weights(self, rc != PSD_OK, &late);
    if (rc == PSD_OK && late_rc == PSD_EAGAIN)
        return PSD_EAGAIN; /* a server was lost at the very end: make the last rounds again */
    const int end = rc ? rc : late_rc;
    const int summary_rc = summarise(self, end ? psd_err_text(end) : "done", late_rc ? NULL : &late);
    late_rc = late_rc ? late_rc : summary_rc;
    if (!rc && late_rc == PSD_ENOMEM) /* not finished: the worker that is started in this one's place leaves the results */
        return psd_err_set(err, late_rc, "%s", late.text);
    const int before = rc;
    rc = part(self, rc, err);
    if (rc != before) /* the job has gone back: it is not done */
        summarise(self, rc == PSD_EAGAIN ? PSD_TRAINER_RUNNING : psd_err_text(rc), NULL);
    if (!rc && late_rc)
        return psd_err_set(err, late_rc, "%s", late.text);
    return rc;
}

int psd_trainer_run(const psd_trainer_config_t *config, psd_trainer_result_t *result, psd_err_t *err)
{
    *result = (psd_trainer_result_t){ .last_loss = NAN };
    trainer_t self = {
        .config = config, .result = result, .n = psd_model_n_params(config->model), .params = psd_model_params(config->model)
    };
    self.sampler = psd_sampler_new(config->train->n_rows, config->batch, config->shuffle, config->seed, err);
    self.order = psd_order_new(err);
    int rc = self.sampler && self.order ? join(&self, err) : PSD_ENOMEM;
    if (!rc) {
        if (config->joined)
            config->joined();
        do
            rc = finish(&self, loop(&self, err), err);
        while (rc == PSD_EAGAIN);
    }
    psd_model_lend_gradients(config->model, NULL);
    if (self.worker)
        psd_worker_close(&self.worker); /* first, because it may write to the slow weights' arrays until then */
    for (size_t i = 0; i < self.n; i++)
        free(self.slow[i]);
    psd_patience_clear(&self.patience);
    psd_trace_destroy(&self.trace);
    psd_record_destroy(&self.record);
    psd_order_destroy(&self.order);
    psd_sampler_destroy(&self.sampler);
    return rc;
}
