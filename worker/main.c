/* main.c - psd-worker: the built-in trainer. Options in, exit code out; stdout carries only the line of the
 * result. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/hangup.h"
#include "common/net/keys.h"
#include "common/system/log.h"
#include "common/config/options.h"
#include "common/system/outputs.h"
#include "common/net/rendezvous.h"
#include "common/system/stdfds.h"
#include "worker/setup.h"
#include "worker/trainer.h"

static volatile sig_atomic_t training, stop;

/* During training, the first signal lets the round end; before training, and at a second signal, the process ends at once. */
static void on_signal(int number)
{
    if (number == SIGHUP && training && stop)
        return;
    if (!training || stop)
        _exit(psd_err_exit_code(PSD_ESTOPPED));
    stop = 1;
}

static void begin_training(void) { training = 1; }

static void watch_signals(void)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (!psd_hangup_is_ignored())
        sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* The parts of the job, in the order in which they are made. */
typedef struct job {
    const psd_options_t *options;
    psd_rendezvous_t at; /* the server to join, and the worker id */
    psd_progress_t *progress;
    psd_setup_t setup;
} job_t;

static const char *text_of(const job_t *job, psd_option_id_t id) { return psd_options_string(job->options, id); }

static int start_showing(job_t *job, psd_err_t *err)
{
    const char *mode = text_of(job, PSD_OPT_progress);
    const bool terminal = psd_progress_can_redraw(STDERR_FILENO);
    job->progress =
        psd_progress_new(&(psd_progress_config_t){ .mode = mode,
                                                   .interval_ms = psd_options_ms(job->options, PSD_OPT_progress_interval),
                                                   .fd = STDERR_FILENO,
                                                   .terminal = terminal },
                         err);
    if (!job->progress)
        return err->code;
    const bool bar = !strcmp(mode, "bar") || (!strcmp(mode, "auto") && terminal);
    psd_log_config_t log = { .level = PSD_LOG_INFO,
                             .comp = "worker",
                             .job = text_of(job, PSD_OPT_job),
                             .format = strcmp(text_of(job, PSD_OPT_log_format), "json") ? PSD_LOG_AUTO : PSD_LOG_JSON,
                             .sink = bar ? psd_progress_sink : NULL,
                             .sink_arg = job->progress };
    psd_log_level_parse(text_of(job, PSD_OPT_log_level), &log.level);
    psd_log_init(&log);
    return PSD_OK;
}

/* Log a line of the library: its levels are those of log.h. */
static void pass_on(void *arg, int level, const char *id, const char *line)
{
    (void)arg;
    psd_log_write((psd_log_level_t)level, id, "%s", line);
}

/* What the file of init.state has, as the library takes it; the caller frees it. NULL when memory runs out. */
static psd_worker_field_t *fields_of_state(const psd_statefile_t *state)
{
    psd_worker_field_t *field = calloc(state->n + 1, sizeof *field);
    for (size_t i = 0; field && i < state->n; i++) {
        const psd_state_field_t *from = &state->field[i];
        field[i] = (psd_worker_field_t){ from->tensor, from->field, from->data, from->n, from->number };
    }
    return field;
}

static int train(job_t *job, psd_trainer_result_t *result, psd_err_t *err)
{
    const psd_options_t *o = job->options;
    const char *name = text_of(job, PSD_OPT_worker_name);
    char recipe[PSD_TRAINER_RECIPE];
    psd_worker_field_t *field = fields_of_state(&job->setup.state);
    if (!field)
        return psd_err_set(err, PSD_ENOMEM, "no memory for optimizer state");
    const psd_worker_state_t state = { .size = sizeof state,
                                       .field = field,
                                       .n = job->setup.state.n,
                                       .partial = psd_options_bool(o, PSD_OPT_init_partial),
                                       .optimizer = job->setup.state.optimizer,
                                       .groups = job->setup.state.groups };
    const psd_trainer_config_t config = {
        .server = { .size = sizeof(psd_worker_config_t),
                    .join = job->at.join,
                    .cluster_file = job->at.file,
                    .job = text_of(job, PSD_OPT_job),
                    .name = *name ? name : NULL,
                    .worker = job->at.worker + 1,
                    .join_timeout_ms = job->at.join_timeout_ms,
                    .log = pass_on,
                    .key = text_of(job, PSD_OPT_worker_key),
                    .server_public = text_of(job, PSD_OPT_server_public),
                    .recipe = recipe,
                    .rows = job->setup.train->n_rows,
                    .insecure = psd_options_bool(o, PSD_OPT_insecure),
                    .net_threads = (int)psd_options_int(o, PSD_OPT_net_threads) },
        .model = job->setup.model,
        .train = job->setup.train,
        .test = job->setup.test,
        .held = job->setup.held,
        .metric = job->setup.metric,
        .batch = job->setup.batch,
        .shuffle = psd_options_bool(o, PSD_OPT_data_shuffle),
        .seed = psd_options_uint(o, PSD_OPT_seed),
        .stop_epochs = psd_options_double(o, PSD_OPT_stop_epochs),
        .stop_steps = psd_options_uint(o, PSD_OPT_stop_steps),
        .stop_target = psd_options_double(o, PSD_OPT_stop_target),
        .stop_patience = psd_options_uint(o, PSD_OPT_stop_patience),
        .eval_train = psd_options_bool(o, PSD_OPT_eval_train),
        .warm = *text_of(job, PSD_OPT_init),
        .state = state.n ? &state : NULL,
        .eval_every = psd_options_double(o, PSD_OPT_eval_every),
        .metrics_every = psd_options_uint(o, PSD_OPT_metrics_every),
        .metrics_also = text_of(job, PSD_OPT_metrics_also),
        .run_dir = text_of(job, PSD_OPT_run_dir),
        .save = text_of(job, PSD_OPT_save),
        .trace = text_of(job, PSD_OPT_trace),
        .progress = job->progress,
        .stop = &stop,
        .joined = begin_training,
    };
    psd_trainer_recipe(&config, recipe);
    const int rc = psd_trainer_run(&config, result, err);
    free(field);
    return rc;
}

static void print_result(const job_t *job, const psd_trainer_result_t *r, int rc)
{
    printf("%s run=%016llx steps=%llu epochs=%.6g samples=%llu seconds=%.3f",
           !rc                  ? "done"
           : rc == PSD_ESTOPPED ? "stopped"
           : rc == PSD_EDRAINED ? "drained"
                                : "failed",
           (unsigned long long)r->run, (unsigned long long)r->steps, r->epochs, (unsigned long long)r->samples, r->seconds);
    if (!isnan(r->last_loss))
        printf(" train_loss=%.6g", r->last_loss);
    if (r->evaluated)
        printf(" val_%s=%.6g", job->setup.metric->name, r->last_score.metric);
    if (*r->sha256)
        printf(" sha256=%s", r->sha256);
    if (*r->sha256_slow)
        printf(" sha256_slow=%s", r->sha256_slow);
    printf(" rank=%u\n", r->rank);
}

static int run(job_t *job, psd_err_t *err)
{
    psd_trainer_result_t result = { 0 };
    if (*text_of(job, PSD_OPT_worker_key))
        psd_keys_guard_process();
    int rc = start_showing(job, err);
    rc = rc ? rc : psd_outputs_probe_all(job->options, PSD_PROGRAM_WORKER, err);
    rc = rc ? rc : psd_rendezvous_find_own(&job->at, PSD_PROGRAM_WORKER, job->options, err);
    rc = rc ? rc : psd_setup_load(&job->setup, job->options, err);
    if (rc)
        return rc;
    rc = train(job, &result, err);
    if (result.rounds || !rc)
        print_result(job, &result, rc);
    return rc;
}

int main(int argc, char **argv)
{
    psd_err_t err = { 0 };
    psd_stdfds_open();
    psd_options_t *options = psd_options_new(PSD_PROGRAM_WORKER);
    if (!options) {
        fprintf(stderr, "psd-worker: out of memory\n");
        return psd_err_exit_code(PSD_ENOMEM);
    }
    job_t job = { .options = options };
    int rc = psd_options_load(options, argc, argv, &err);
    if (rc < 0) {
        fprintf(stderr, "%s\n", psd_options_complaints(options)[0] ? psd_options_complaints(options) : err.text);
    } else if (rc == PSD_OK) {
        watch_signals();
        rc = run(&job, &err);
        psd_log_flush();
        if (rc)
            fprintf(stderr, "psd-worker: %s\n", err.text);
    }
    psd_setup_clear(&job.setup);
    psd_progress_destroy(&job.progress);
    psd_options_destroy(&options);
    return psd_stdfds_end("psd-worker", rc > 0 ? 0 : psd_err_exit_code(rc));
}
