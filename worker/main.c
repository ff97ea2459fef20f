/* main.c - psd-worker: the built-in trainer. Options in, exit code out; stdout carries the result's line
 * alone. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/options.h"
#include "worker/sampler.h"
#include "worker/trainer.h"

static volatile sig_atomic_t training, stop;

/* The first signal in training ends the round; before training, and at the second, there is nothing to wait
 * for. */
static void on_signal(int number)
{
    (void)number;
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
    signal(SIGPIPE, SIG_IGN);
}

/* What the job needs, in the order of making it. */
typedef struct job {
    const psd_options_t *options;
    psd_progress_t *progress;
    psd_dataset_t *train, *test;
    psd_model_t *model;
} job_t;

static const char *text_of(const job_t *job, const char *key)
{
    return psd_options_string(job->options, key);
}

static int start_showing(job_t *job, psd_err_t *err)
{
    const char *mode = text_of(job, "progress");
    const bool terminal = psd_progress_can_redraw(STDERR_FILENO);
    job->progress = psd_progress_new(
        &(psd_progress_config_t){ .mode = mode,
                                  .interval_ms = psd_options_ms(job->options, "progress_interval"),
                                  .fd = STDERR_FILENO,
                                  .terminal = terminal },
        err);
    if (!job->progress)
        return err->code;
    const bool bar = !strcmp(mode, "bar") || (!strcmp(mode, "auto") && terminal);
    psd_log_config_t log = { .level = PSD_LOG_INFO,
                             .comp = "worker",
                             .job = text_of(job, "job"),
                             .format =
                                 strcmp(text_of(job, "log.format"), "json") ? PSD_LOG_AUTO : PSD_LOG_JSON,
                             .sink = bar ? psd_progress_sink : NULL,
                             .sink_arg = job->progress };
    psd_log_level_parse(text_of(job, "log.level"), &log.level);
    psd_log_init(&log);
    return PSD_OK;
}

/* The test set, where there is one: the glyphs bring their own. */
static const char *test_spec(const job_t *job)
{
    const char *test = text_of(job, "data.test"), *train = text_of(job, "data.train");
    return *test ? test : !strncmp(train, "glyphs", 6) ? "glyphs" : "";
}

static int load_data(job_t *job, psd_err_t *err)
{
    const psd_model_kind_t *kind = psd_model_kind_find(text_of(job, "model.kind"));
    static const psd_na_t na[] = { PSD_NA_ERROR, PSD_NA_ZERO, PSD_NA_SKIP };
    static const char *const na_name[] = { "error", "zero", "skip" };
    psd_dataset_options_t options = { .kind = kind->labels,
                                      .labels = text_of(job, "data.labels"),
                                      .label_column = text_of(job, "data.label_column"),
                                      .header = psd_options_bool(job->options, "data.header"),
                                      .index_base = (int)psd_options_int(job->options, "data.index_base") };
    for (size_t i = 0; i < sizeof na / sizeof *na; i++)
        if (!strcmp(text_of(job, "data.na"), na_name[i]))
            options.na = na[i];
    if (!(job->train = psd_dataset_load(text_of(job, "data.train"), &options, err)))
        return err->code;
    options.train = job->train;
    options.labels = text_of(job, "data.test_labels");
    if (*test_spec(job) && !(job->test = psd_dataset_load(test_spec(job), &options, err)))
        return err->code;
    if (!job->test && psd_options_double(job->options, "stop.target") > 0)
        return psd_err_set(err, PSD_ECONFIG,
                           "stop.target is set, but there is no test set to meet it on; set data.test");
    psd_log_info("data.loaded", "train=%s rows=%zu features=%zu classes=%zu test_rows=%zu",
                 text_of(job, "data.train"), job->train->n_rows, job->train->n_features,
                 job->train->n_classes, job->test ? job->test->n_rows : 0);
    return PSD_OK;
}

static int build_model(job_t *job, psd_err_t *err)
{
    size_t n = 0, layers[PSD_MAX_LAYERS + 2];
    const int64_t *list = psd_options_list(job->options, "model.layers", &n);
    for (size_t i = 0; i < n && i < sizeof layers / sizeof *layers; i++)
        layers[i] = (size_t)list[i];
    psd_model_config_t config = { .kind = text_of(job, "model.kind"),
                                  .layers = layers,
                                  .n_layers = n,
                                  .activation = text_of(job, "model.activation"),
                                  .loss = text_of(job, "model.loss"),
                                  .seed = psd_options_uint(job->options, "seed") };
    job->model = psd_model_new(&config, job->train, err);
    return job->model ? PSD_OK : err->code;
}

/* The library's own lines: its levels are those of log.h. */
static void pass_on(void *arg, int level, const char *id, const char *line)
{
    (void)arg;
    psd_log_write((psd_log_level_t)level, id, "%s", line);
}

static int train(job_t *job, psd_trainer_result_t *result, psd_err_t *err)
{
    const psd_options_t *o = job->options;
    const char *name = text_of(job, "worker.name");
    size_t batch;
    int rc = psd_batch_parse(text_of(job, "data.batch"), job->train->n_rows, &batch, err);
    if (rc)
        return rc;
    const psd_trainer_config_t config = {
        .server = { .size = sizeof(psd_worker_config_t),
                    .join = text_of(job, "join"),
                    .job = text_of(job, "job"),
                    .name = *name ? name : NULL,
                    .worker = (int)psd_options_int(o, "worker.id"),
                    .join_timeout_ms = (int)psd_options_ms(o, "join_timeout"),
                    .log = pass_on },
        .model = job->model,
        .train = job->train,
        .test = job->test,
        .batch = batch,
        .shuffle = psd_options_bool(o, "data.shuffle"),
        .seed = psd_options_uint(o, "seed"),
        .stop_epochs = psd_options_double(o, "stop.epochs"),
        .stop_steps = psd_options_uint(o, "stop.steps"),
        .stop_target = psd_options_double(o, "stop.target"),
        .eval_every = psd_options_double(o, "eval.every"),
        .metrics_every = psd_options_uint(o, "metrics.every"),
        .run_dir = text_of(job, "run.dir"),
        .save = text_of(job, "save"),
        .progress = job->progress,
        .stop = &stop,
        .joined = begin_training,
    };
    return psd_trainer_run(&config, result, err);
}

static void print_result(const job_t *job, const psd_trainer_result_t *r, int rc)
{
    printf("%s steps=%llu epochs=%.6g samples=%llu seconds=%.3f",
           !rc                  ? "done"
           : rc == PSD_ESTOPPED ? "stopped"
           : rc == PSD_EDRAINED ? "drained"
                                : "failed",
           (unsigned long long)r->steps, r->epochs, (unsigned long long)r->samples, r->seconds);
    if (!isnan(r->last_loss))
        printf(" train_loss=%.6g", r->last_loss);
    if (r->evaluated)
        printf(" val_%s=%.6g", psd_model_kind(job->model)->metric, r->last_score.metric);
    if (*r->sha256)
        printf(" sha256=%s", r->sha256);
    if (*r->sha256_slow)
        printf(" sha256_slow=%s", r->sha256_slow);
    printf("\n");
}

static int run(job_t *job, psd_err_t *err)
{
    psd_trainer_result_t result = { 0 };
    if (!*text_of(job, "join"))
        return psd_err_set(
            err, PSD_EUSAGE,
            "whom to join? Set --join to the address of server 0, as in --join tcp://127.0.0.1:7470");
    int rc = start_showing(job, err);
    rc = rc ? rc : load_data(job, err);
    rc = rc ? rc : build_model(job, err);
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
    psd_options_t *options = psd_options_new(PSD_PROGRAM_WORKER);
    if (!options) {
        fprintf(stderr, "psd-worker: out of memory\n");
        return psd_err_exit_code(PSD_ENOMEM);
    }
    job_t job = { .options = options };
    int rc = psd_options_load(options, argc, argv, &err);
    if (rc < 0) {
        fprintf(stderr, "%s\n",
                psd_options_complaints(options)[0] ? psd_options_complaints(options) : err.text);
    } else if (rc == PSD_OK) {
        watch_signals();
        rc = run(&job, &err);
        psd_log_flush();
        if (rc)
            fprintf(stderr, "psd-worker: %s\n", err.text);
    }
    psd_model_destroy(&job.model);
    psd_dataset_destroy(&job.test);
    psd_dataset_destroy(&job.train);
    psd_progress_destroy(&job.progress);
    psd_options_destroy(&options);
    return rc > 0 ? 0 : psd_err_exit_code(rc);
}
