#include <criterion/criterion.h>
#include <glob.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/optim/optimizer.h"
#include "common/system/log.h"
#include "common/system/safetensors.h"
#include "tests/support/transcript.h"
#include "worker/sampler.h"
#include "worker/trace.h"
#include "worker/trainer.h"

/* ---- A server inside this process: one optimizer behind psd/worker.h, and a script of faults ---- */

struct psd_worker {
    int unused;
};

static struct {
    psd_tensor_t tensor[PSD_MAX_PARAMS];
    size_t n;
    psd_rule_t rule;
    psd_rule_state_t state[PSD_MAX_PARAMS];
    float *slot[PSD_MAX_PARAMS][PSD_MAX_SLOTS];
    bool frozen; /* gradients are accepted, but the weights do not change */
    psd_position_t position;
    uint64_t health_every; /* it takes a look at each multiple of this clock; 0: never */
    double round_loss;     /* the mean loss of the last step */
    uint64_t job_samples;  /* and of all */
    uint32_t accumulate;   /* rounds of a step; 0: 1 */
    bool gathers;          /* of these, only the last makes new weights */
    bool in_asp;
    uint64_t hopeless_at;                  /* clock whose exchange fails the job; 0: none */
    uint64_t world_shrinks_at;             /* clock after which one worker is left; 0: none */
    int connect_rc, exchange_rc, leave_rc; /* the return values of these calls */
    int waits_before_ready;                /* timeouts of each wait before it succeeds */
    uint64_t stop_at, poison_at;           /* clocks at which `stop` is set, and the weights become NaN */
    uint64_t well_every;   /* up to the second multiple of this clock, the weights are NaN except at the multiples; 0: never */
    uint64_t goes_back_at; /* the clock at whose exchange the job goes back to `goes_back_to`; 0: none */
    uint64_t goes_back_to;
    uint64_t pull_forgotten_at; /* the pull of this number is forgotten, because the job goes back as above; 0: none */
    uint64_t pulls;
    bool leave_forgotten; /* so is the first goodbye */
    bool slow_ails;       /* the slow weights have a NaN */
    bool reads_summary;   /* the summary's outcome is a line at each exchange */
    uint64_t samples, exchanges, null_gradients;
    uint64_t skips_at; /* the clock whose round makes no step; 0: none */
    uint64_t drain_at; /* clock from which an operator wants the worker to leave; 0: never */
    int left;          /* -1: not yet; otherwise the argument `finished` of leaving */
    int waits;
    char schedule[64], unit[16];     /* "": a constant rate; steps */
    double first_takes, first_since; /* seconds that the first exchange takes at least; when it began */
} server;

static volatile sig_atomic_t stop;
static psd_worker_t handle;
static bool plays; /* a transcript, in which each call of the library is a line */
#define note_call(...) (void)(plays && (transcript_say(__VA_ARGS__), true))

static size_t elements(const psd_tensor_t *tensor)
{
    size_t n = 1;
    for (size_t i = 0; i < tensor->n_dims; i++)
        n *= tensor->shape[i];
    return n;
}

int psd_worker_connect(psd_worker_t **out, const psd_worker_config_t *config)
{
    note_call("connect join=%s job=%s recipe=%s rows=%" PRIu64, config->join, config->job, config->recipe, config->rows);
    *out = &handle;
    return server.connect_rc;
}

int psd_worker_register_with(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors, const psd_worker_state_t *state)
{
    (void)self, (void)state;
    for (size_t i = 0; i < n_tensors; i++)
        note_call("register %s of %zu floats", tensors[i].name, elements(&tensors[i]));
    memcpy(server.tensor, tensors, n_tensors * sizeof *tensors);
    server.n = n_tensors;
    for (size_t i = 0; i < n_tensors; i++) {
        for (int s = 0; s < server.rule.n_slots; s++) {
            free(server.slot[i][s]); /* of an earlier run of the same test */
            server.slot[i][s] = malloc(elements(&tensors[i]) * sizeof(float));
        }
        psd_rule_init(&server.rule, &server.state[i], tensors[i].data, server.slot[i], elements(&tensors[i]));
    }
    return 0;
}

int psd_worker_health(psd_worker_t *self, size_t tensor, psd_worker_health_t *out)
{
    (void)self;
    const uint64_t done = server.position.clock - 1, step = server.health_every ? done - done % server.health_every : 0;
    if (!step)
        return PSD_W_EAGAIN;
    *out = (psd_worker_health_t){ .size = sizeof *out,
                                  .step = step,
                                  .gradient_norm = (double)tensor,
                                  .weight_norm = 20 + (double)tensor,
                                  .update_ratio = 0.25,
                                  .zero_share = (double)step / 64,
                                  .cut_share = 0.875 };
    return 0;
}

double psd_worker_round_loss(const psd_worker_t *self) { return (void)self, server.round_loss; }

/* The rate falls from step to step. */
double psd_worker_step_lr(const psd_worker_t *self) { return (void)self, 1 / (double)(server.position.clock - 1); }

uint64_t psd_worker_job_samples(const psd_worker_t *self) { return (void)self, server.job_samples; }

int psd_worker_position(psd_worker_t *self, psd_position_t *out)
{
    (void)self;
    *out = server.position;
    return 0;
}

int psd_worker_settings(psd_worker_t *self, psd_worker_settings_t *out)
{
    static char rule[PSD_RULE_TEXT];
    (void)self;
    *out = (psd_worker_settings_t){ .text = "as told",
                                    .mode = server.in_asp ? "asp" : "bsp",
                                    .schedule = server.schedule[0] ? server.schedule : "constant()",
                                    .schedule_unit = server.unit[0] ? server.unit : "step",
                                    .optimizer = psd_rule_print(&server.rule, rule),
                                    .lr_rule = "",
                                    .lr = psd_rule_lr(&server.rule),
                                    .in_rounds = !server.in_asp,
                                    .accumulate = server.accumulate };
    return 0;
}

/* The weights as they are at `clock`. */
static void ail(uint64_t clock)
{
    static float well;
    float *weight = server.tensor[0].data;
    const bool is_well = clock % server.well_every == 0 || clock > 2 * server.well_every;
    if (isfinite(*weight))
        well = *weight;
    *weight = is_well ? well : NAN;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void say_outcome(void);

int psd_worker_exchange(psd_worker_t *self, const float *const *gradients, uint64_t samples, double loss, psd_ticket_t *ticket)
{
    (void)self;
    *ticket = ++server.exchanges;
    note_call("exchange samples=%" PRIu64 " loss=%.5g clock=%" PRIu64, samples, loss, server.position.clock);
    if (server.reads_summary)
        say_outcome();
    if (server.exchanges == 1)
        server.first_since = seconds();
    server.samples += samples;
    server.waits = 0;
    for (size_t i = 0; i < server.n; i++) {
        const psd_tensor_t *t = &server.tensor[i];
        server.null_gradients += !gradients || !gradients[i];
        if (server.frozen || !gradients || !gradients[i])
            continue;
        psd_plan_t plan = psd_rule_plan(&server.rule, &server.state[i], psd_rule_lr(&server.rule));
        psd_rule_apply(&server.rule, &plan, t->data, server.slot[i], gradients[i], elements(t));
    }
    if (server.position.clock == server.poison_at)
        server.tensor[0].data[0] = server.tensor[1].data[0] = NAN;
    if (server.well_every)
        ail(server.position.clock + 1);
    stop = stop || server.position.clock == server.stop_at;
    return server.exchange_rc;
}

/* The library's array: the gradients lie in it one after the other, so that they are sent without being copied together. */
static float *lent;
static size_t n_lent;

float *psd_worker_alloc(psd_worker_t *self, size_t n)
{
    (void)self;
    n_lent = n;
    return lent = calloc(n, sizeof *lent);
}

/* Gradients are pushed from the last layer back. */
int psd_worker_push(psd_worker_t *self, size_t tensor, const float *gradient, uint64_t samples, double loss, psd_ticket_t *ticket)
{
    static const float *gradients[PSD_MAX_PARAMS];
    static size_t n;
    cr_assert_eq(tensor, server.n - 1 - n);
    note_call("push tensor=%zu samples=%" PRIu64 " loss=%.5g", tensor, samples, loss);
    cr_expect(gradient >= lent && gradient + elements(&server.tensor[tensor]) <= lent + n_lent);
    cr_expect(!n || gradient + elements(&server.tensor[tensor]) == gradients[tensor + 1]);
    gradients[tensor] = gradient;
    n = (n + 1) % server.n;
    return n ? 0 : psd_worker_exchange(self, gradients, samples, loss, ticket);
}

int psd_worker_wait(psd_worker_t *self, psd_ticket_t ticket, int timeout_ms)
{
    (void)self, (void)timeout_ms;
    cr_assert_eq(ticket, server.exchanges);
    if (server.waits++ < server.waits_before_ready)
        return PSD_W_ETIMEOUT;
    while (server.exchanges == 1 && seconds() < server.first_since + server.first_takes)
        ;
    if (server.position.clock == server.hopeless_at)
        return PSD_EDIVERGED;
    if (server.position.clock == server.world_shrinks_at)
        server.position.world = 1;
    if (server.position.clock == server.goes_back_at) {
        server.goes_back_at = 0; /* once */
        server.position.clock = server.goes_back_to;
        return 0;
    }
    server.position.gathered = server.gathers && server.position.clock % server.accumulate != 0;
    server.position.version += server.position.clock != server.skips_at && !server.position.gathered;
    server.position.clock++;
    return 0;
}

int psd_worker_pull_slow(psd_worker_t *self, float *const *out, int timeout_ms)
{
    (void)self, (void)timeout_ms;
    note_call("pull_slow timeout_ms=%d", timeout_ms);
    if (++server.pulls == server.pull_forgotten_at) {
        server.position.clock = server.goes_back_to;
        return PSD_W_EAGAIN;
    }
    for (size_t i = 0; i < server.n; i++)
        memcpy(out[i], server.slot[i][server.rule.slow_slot], elements(&server.tensor[i]) * sizeof(float));
    if (server.slow_ails)
        out[1][3] = NAN;
    return 0;
}

static double reported, left_s[64], rows; /* as reported: the metric, the time left each time, rows of an epoch */
static unsigned reports_of_progress, n_left;
int psd_worker_report(psd_worker_t *self, const char *name, double value)
{
    (void)self;
    if (strncmp(name, "progress/", strlen("progress/"))) /* which come by the clock */
        note_call("report %s=%.5g", name, value);
    reports_of_progress += !strncmp(name, "progress/", strlen("progress/"));
    if (!strcmp(name, "val/accuracy"))
        reported = value;
    if (!strcmp(name, "progress/rows"))
        rows = value;
    if (!strcmp(name, "progress/left_seconds") && n_left < sizeof left_s / sizeof *left_s)
        left_s[n_left++] = value;
    return 0;
}

int psd_worker_asked_to_leave(const psd_worker_t *self)
{
    (void)self;
    return server.drain_at && server.position.clock >= server.drain_at;
}

int psd_worker_leave(psd_worker_t *self, int finished, int timeout_ms)
{
    (void)self;
    if (server.left != finished) /* it may be said again and again */
        note_call("leave finished=%d timeout_ms=%d", finished, timeout_ms);
    server.left = finished;
    if (server.leave_forgotten) {
        server.leave_forgotten = false;
        server.left = -1;
        server.position.clock = server.goes_back_to;
        return PSD_W_EAGAIN;
    }
    return server.leave_rc;
}

void psd_worker_close(psd_worker_t **self_p)
{
    *self_p = NULL;
    free(lent);
    lent = NULL;
}
int psd_worker_fd(const psd_worker_t *self) { return self ? -1 : -2; }
const char *psd_worker_error(const psd_worker_t *self)
{
    return self && server.connect_rc ? "no answer from tcp://nowhere:7470" : "";
}
const char *psd_strerror(int code) { return psd_err_text(code); }
const char *psd_version(void) { return PSD_VERSION; }

/* ---- Fixture ---- */

enum { ROWS = 500, BATCH = 64, STEPS = 8 /* ceil(500 / 64) */ };

static psd_err_t err;
static psd_dataset_t *train, *test;
static psd_model_t *model;
static psd_trainer_result_t result;
static psd_trainer_config_t config;
static char dir[] = "/tmp/psd-test-XXXXXX";

static psd_model_t *new_model(void)
{
    psd_model_t *made = psd_model_new(&(psd_model_config_t){ .kind = "softmax", .seed = 4 }, train, &err);
    cr_assert_not_null(made, "%s", err.text);
    return made;
}

static void setup(void)
{
    psd_dataset_options_t options = { 0 };
    train = psd_dataset_load("glyphs:500", &options, &err);
    options.train = train;
    test = psd_dataset_load("glyphs:200", &options, &err);
    model = new_model();
    server.left = -1;
    server.position = (psd_position_t){ .clock = 1, .world = 1 };
    cr_assert_eq(psd_rule_parse(&server.rule, "adam(lr=0.01)", &err), PSD_OK);
    cr_assert_not_null(mkdtemp(dir));
    config = (psd_trainer_config_t){ .server = { .size = sizeof config.server, .join = "tcp://nowhere:7470" },
                                     .model = model,
                                     .train = train,
                                     .test = test,
                                     .batch = BATCH,
                                     .shuffle = true,
                                     .seed = 4,
                                     .stop_epochs = 3,
                                     .eval_every = 1,
                                     .metrics_every = 1,
                                     .run_dir = dir,
                                     .stop = &stop };
}

static char path[256];
static const char *in_dir(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void teardown(void)
{
    const char *names[] = { "metrics.jsonl", "summary.json", "metrics-1.jsonl", "summary-1.json", "w.safetensors" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(in_dir(names[i]));
    rmdir(dir);
    psd_model_destroy(&model);
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&train);
    for (size_t i = 0; i < server.n; i++)
        for (int s = 0; s < server.rule.n_slots; s++)
            free(server.slot[i][s]);
}

TestSuite(trainer, .init = setup, .fini = teardown, .timeout = 600);

static char logged[1 << 14];

static void take_line(void *arg, const char *line, size_t n)
{
    (void)arg;
    if (strlen(logged) + n < sizeof logged)
        strncat(logged, line, n);
}

static void keep_log(void)
{
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .format = PSD_LOG_LOGFMT, .sink = take_line });
}

static unsigned count_logged(const char *words)
{
    unsigned n = 0;
    for (const char *at = logged; (at = strstr(at, words)); at++)
        n++;
    return n;
}

/* The lines of a metrics file that have `key`, as an array. */
static json_t *lines_with(const char *name, const char *key)
{
    json_t *lines = json_array();
    char text[1024];
    FILE *file = fopen(in_dir(name), "r");
    cr_assert_not_null(file, "%s is missing", path);
    while (fgets(text, sizeof text, file)) {
        json_t *line = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        cr_assert_not_null(line, "not JSON: %s", text);
        if (json_object_get(line, key))
            json_array_append(lines, line);
        json_decref(line);
    }
    fclose(file);
    return lines;
}

static double number(const json_t *line, const char *key)
{
    cr_assert(json_is_number(json_object_get(line, key)), "no %s", key);
    return json_number_value(json_object_get(line, key));
}

/* ---- Tests ---- */

Test(trainer, a_run_makes_the_bits_of_the_same_loop_without_servers)
{
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(result.steps, 3 * STEPS);
    cr_assert_eq(result.rounds, 3 * STEPS);
    cr_assert_eq(result.samples, 3 * ROWS);
    cr_assert_eq(server.samples, 3 * ROWS);
    cr_assert_eq(server.left, 1);
    psd_model_t *plain = new_model();
    psd_sampler_t *sampler = psd_sampler_new(ROWS, BATCH, true, 4, NULL);
    psd_rule_state_t state[2];
    float *slot[2][PSD_MAX_SLOTS] = { { NULL } };
    for (uint64_t clock = 1; clock <= 3 * STEPS; clock++) {
        psd_slice_t slice = psd_sampler_at(sampler, clock, 0, 1);
        psd_model_gradient(plain, train, slice.rows, slice.n);
        for (size_t i = 0; i < 2; i++) {
            const psd_param_t *p = &psd_model_params(plain)[i];
            if (clock == 1) {
                for (int s = 0; s < server.rule.n_slots; s++)
                    slot[i][s] = malloc(p->n * sizeof(float));
                psd_rule_init(&server.rule, &state[i], p->data, slot[i], p->n);
            }
            psd_plan_t plan = psd_rule_plan(&server.rule, &state[i], 0.01);
            psd_rule_apply(&server.rule, &plan, p->data, slot[i], p->grad, p->n);
        }
    }
    for (size_t i = 0; i < 2; i++) {
        const psd_param_t *p = &psd_model_params(plain)[i];
        cr_assert_eq(memcmp(p->data, psd_model_params(model)[i].data, p->n * sizeof(float)), 0);
        for (int s = 0; s < server.rule.n_slots; s++)
            free(slot[i][s]);
    }
    psd_score_t score = psd_model_evaluate(plain, NULL, test, NULL);
    cr_assert_eq(result.last_score.metric, score.metric);
    cr_assert_eq(reported, score.metric);
    cr_assert_gt(score.metric, 0.3);
    psd_sampler_destroy(&sampler);
    psd_model_destroy(&plain);
}

Test(trainer, every_step_and_every_evaluation_has_a_line_of_metrics)
{
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *steps = lines_with("metrics.jsonl", "train/loss"), *evaluations = lines_with("metrics.jsonl", "val/accuracy");
    cr_assert_eq(json_array_size(steps), 3 * STEPS);
    cr_assert_eq(json_array_size(evaluations), 3);
    const json_t *last = json_array_get(steps, 3 * STEPS - 1), *eighth = json_array_get(steps, STEPS - 1);
    cr_assert_eq(number(last, "train/loss"), result.last_loss, "all digits are there");
    cr_assert_eq(number(eighth, "step"), STEPS);
    cr_assert_eq(number(eighth, "epoch"), 1);
    cr_assert_eq(number(eighth, "samples"), ROWS);
    cr_assert_eq(number(eighth, "train/samples"), ROWS % BATCH);
    cr_assert_eq(number(eighth, "lr"), 1.0 / STEPS, "that of the step");
    cr_assert_eq(number(last, "lr"), 1.0 / (3 * STEPS));
    cr_assert_null(json_object_get(eighth, "val/accuracy"));
    cr_assert_gt(number(eighth, "ts"), 1.7e9);
    cr_assert_eq(number(json_array_get(evaluations, 0), "step"), STEPS);
    cr_assert_eq(number(json_array_get(evaluations, 2), "val/accuracy"), result.last_score.metric);
    json_decref(steps);
    json_decref(evaluations);
}

Test(trainer, fewer_lines_carry_the_mean_of_their_steps_by_sample)
{
    server.frozen = true;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    json_t *fine = lines_with("metrics.jsonl", "train/loss");
    unlink(in_dir("metrics.jsonl"));
    server.position.clock = 1;
    config.metrics_every = 5;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    json_t *coarse = lines_with("metrics.jsonl", "train/loss");
    cr_assert_eq(json_array_size(coarse), 5, "steps 5, 10, 15, 20 and the last, 24");
    double loss = 0, samples = 0;
    for (size_t i = 5; i < 10; i++) {
        loss += number(json_array_get(fine, i), "train/loss") * number(json_array_get(fine, i), "train/samples");
        samples += number(json_array_get(fine, i), "train/samples");
    }
    cr_assert_eq(number(json_array_get(coarse, 1), "train/samples"), samples);
    cr_assert_float_eq(number(json_array_get(coarse, 1), "train/loss"), loss / samples, 1e-12);
    json_decref(fine);
    json_decref(coarse);
}

/* How often a name occurs in TensorBoard's event file; `newest`: its last value, a float after one byte that says so; NULL: not asked
 * for. */
static unsigned count_in_events(const char *word, float *newest)
{
    static char bytes[1 << 16];
    char pattern[256];
    glob_t found;
    unsigned n = 0;
    snprintf(pattern, sizeof pattern, "%s", in_dir("tb/events.out.tfevents.*"));
    cr_assert_eq(glob(pattern, 0, NULL, &found), 0);
    FILE *in = fopen(found.gl_pathv[0], "rb");
    const size_t size = in ? fread(bytes, 1, sizeof bytes, in) : 0;
    for (size_t i = 0; i + strlen(word) + 1 + sizeof *newest <= size; i++) {
        const bool is_here = !memcmp(bytes + i, word, strlen(word));
        if (is_here && newest)
            memcpy(newest, bytes + i + strlen(word) + 1, sizeof *newest);
        n += is_here;
    }
    fclose(in);
    globfree(&found);
    return n;
}

Test(trainer, tensorboard_gets_the_health_of_each_tensor_once_per_look)
{
    config.metrics_also = "tensorboard";
    server.health_every = 7;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    static const struct {
        const char *name;
        float value;
    } want[] = { { "gradient_norm/fc1.weight", 0 },       { "weight_norm/fc1.weight", 20 }, { "update_ratio/fc1.weight", 0.25f },
                 { "zero_share/fc1.weight", 21 / 64.0f }, { "gradient_norm/fc1.bias", 1 },  { "weight_norm/fc1.bias", 21 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        float newest = -1;
        cr_expect_eq(count_in_events(want[i].name, &newest), 3, "%s: of 24 steps, those after steps 7, 14 and 21", want[i].name);
        cr_expect_eq(newest, want[i].value, "%s is %g", want[i].name, (double)newest);
    }
    json_t *lines = lines_with("metrics.jsonl", "train/loss");
    cr_expect_eq(json_array_size(lines), 24);
    json_decref(lines);
}

Test(trainer, two_workers_lines_combine_into_the_line_of_one)
{
    json_t *lines[3];
    server.frozen = true;
    for (uint32_t run = 0; run < 3; run++) {
        server.position = (psd_position_t){ .clock = 1, .world = run < 2 ? 2 : 1, .rank = run % 2, .worker = run % 2 };
        cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
        lines[run] = lines_with(run == 1 ? "metrics-1.jsonl" : "metrics.jsonl", "train/loss");
        unlink(path);
    }
    for (size_t i = 0; i < 3 * STEPS; i++) {
        const json_t *a = json_array_get(lines[0], i), *b = json_array_get(lines[1], i), *whole = json_array_get(lines[2], i);
        const double n = number(a, "train/samples") + number(b, "train/samples");
        cr_assert_eq(n, number(whole, "train/samples"));
        const double mean =
            (number(a, "train/loss") * number(a, "train/samples") + number(b, "train/loss") * number(b, "train/samples")) / n;
        cr_assert_float_eq(mean, number(whole, "train/loss"), 1e-7 * mean);
        cr_assert_eq(number(a, "samples"), number(whole, "samples"));
    }
    for (int run = 0; run < 3; run++)
        json_decref(lines[run]);
}

Test(trainer, an_evaluation_is_written_with_the_samples_and_epochs_of_all_workers)
{
    server.position.world = 2;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_assert_lt(result.samples, 2 * ROWS, "of three epochs, it has had half");
    json_t *evaluations = lines_with("metrics.jsonl", "val/loss");
    cr_assert_eq(json_array_size(evaluations), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *line = json_array_get(evaluations, i);
        cr_expect_eq(number(line, "samples"), (double)(i + 1) * ROWS);
        cr_expect_eq(number(line, "epoch"), (double)(i + 1));
        cr_expect_eq(number(line, "step"), (double)(i + 1) * STEPS);
    }
    cr_expect_eq(number(json_array_get(evaluations, 2), "val/loss"), result.last_score.loss);
    json_decref(evaluations);
}

Test(trainer, the_time_left_is_that_of_the_rounds_of_all_steps_that_are_left)
{
    server.accumulate = 4;
    server.first_takes = 0.02;
    config.stop_epochs = 0;
    config.stop_steps = 10;
    const double begun = seconds();
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_leq(n_left, 3 + seconds() - begun, "after the first round and the last, and each second");
    cr_expect_eq(rows, ROWS);
    cr_assert_geq(n_left, 2);
    cr_expect_geq(left_s[0], 40 * 0.02, "after one of the 40 rounds, no step is made; it is %g", left_s[0]);
    cr_expect_eq(left_s[n_left - 1], 0, "at the end");
}

Test(trainer, a_recipe_names_what_workers_must_have_in_common)
{
    char recipe[PSD_TRAINER_RECIPE], wanted[PSD_TRAINER_RECIPE];
    config.seed = 17;
    psd_trainer_recipe(&config, recipe);
    snprintf(wanted, sizeof wanted, "model=softmax rows=500 data=%016llx batch=64 seed=17 shuffle=true",
             (unsigned long long)psd_dataset_hash(train));
    cr_expect_str_eq(recipe, wanted);
    config.shuffle = false;
    config.warm = true;
    psd_trainer_recipe(&config, recipe);
    cr_expect_not_null(strstr(recipe, " seed=17 shuffle=false init="), "%s", recipe);
    /* each number of the weights and of the state is part of it */
    float moment[] = { 1, 2, 3 };
    psd_worker_field_t fields[] = { { "fc1.bias", "exp_avg", moment, 3, 0 }, { "fc1.bias", "step", NULL, 0, 7 } };
    const psd_worker_state_t state = { .size = sizeof state, .field = fields, .n = 2 };
    char earlier[PSD_TRAINER_RECIPE];
    config.state = &state;
    psd_trainer_recipe(&config, earlier);
    cr_expect_eq(strncmp(earlier, recipe, strlen(recipe)), 0, "%s", earlier);
    cr_expect_eq(strncmp(earlier + strlen(recipe), " state=", 7), 0, "%s", earlier);
    for (int i = 0; i < 3; i++) {
        moment[2] += i == 0;
        fields[1].number += i == 1;
        psd_model_params(model)[1].data[9] += (float)(i == 2);
        psd_trainer_recipe(&config, recipe);
        cr_expect_str_neq(recipe, earlier, "change %d", i);
        snprintf(earlier, sizeof earlier, "%s", recipe);
    }
}

Test(trainer, a_model_is_saved_with_its_step_and_its_rule)
{
    char save[256], rule[PSD_RULE_TEXT];
    psd_safetensors_t file = { .fd = -1 };
    snprintf(save, sizeof save, "%s/w.safetensors", dir);
    config.save = save;
    server.accumulate = 4;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_open(&file, save, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_parse(&file, &err), PSD_OK, "%s", err.text);
    cr_expect_str_eq(psd_safetensors_note(&file, "psd.step"), "6", "of 24 rounds");
    cr_expect_str_eq(psd_safetensors_note(&file, "psd.optimizer"), psd_rule_print(&server.rule, rule));
    cr_expect_str_eq(psd_safetensors_note(&file, "psd.which"), "fast");
    cr_expect_str_eq(psd_safetensors_note(&file, "psd.job"), "psd");
    psd_safetensors_close(&file);
}

Test(trainer, it_logs_who_it_is_and_each_evaluation)
{
    char words[256];
    keep_log();
    server.position = (psd_position_t){ .clock = 1, .world = 3, .rank = 0, .worker = 2 };
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(count_logged(" id=worker.joined worker=2 rank=0 world=3 step=1\n"), 1, "%s", logged);
    cr_expect_eq(count_logged(" id=train.evaluated step="), 3);
    snprintf(words, sizeof words, " id=train.evaluated step=24 epoch=3.000 val_loss=%.6g val_accuracy=%.6g weights=fast\n",
             result.last_score.loss, result.last_score.metric);
    cr_expect_eq(count_logged(words), 1, "no %s in %s", words, logged);
    unlink(in_dir("metrics-2.jsonl"));
    unlink(in_dir("summary-2.json"));
}

Test(trainer, patience_that_begins_in_the_middle_is_warned_of)
{
    keep_log();
    server.position = (psd_position_t){ .clock = 9, .world = 1 };
    config.stop_patience = 50;
    unlink(in_dir("metrics.jsonl"));
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(count_logged(" id=train.patience step=8 reason=\"this worker has no evaluations from before this step: its "
                              "patience begins here\"\n"),
                 1, "%s", logged);
    cr_expect_eq(count_logged("level=warn"), 1);
}

Test(trainer, a_worker_without_rows_takes_part_with_nothing)
{
    keep_log();
    server.position = (psd_position_t){ .clock = 1, .world = 3, .rank = 1, .worker = 1 };
    config.batch = 1; /* the row of a round is the last rank's: m r / w is 0 for the others */
    config.stop_epochs = 0;
    config.stop_steps = 4;
    server.round_loss = 0.75;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(result.rounds, 4);
    cr_assert_eq(server.samples, 0);
    cr_assert_eq(result.last_loss, 0.75, "that of the job, for it has none of its own: %g", result.last_loss);
    cr_assert_eq(server.null_gradients, 4 * 2);
    cr_expect_eq(count_logged(" id=worker.idle worker=1 rows=1 workers=3 "), 1, "once: %s", logged);
    cr_expect_eq(count_logged("worker.idle"), 1);
    cr_assert_not(result.evaluated, "only rank 0 evaluates");
    json_t *lines = lines_with("metrics-1.jsonl", "train/samples");
    cr_assert_eq(json_array_size(lines), 4);
    cr_assert_null(json_object_get(json_array_get(lines, 0), "train/loss"), "values that were not measured are absent");
    json_decref(lines);
}

Test(trainer, slow_weights_are_judged_hashed_and_saved)
{
    char save[256];
    snprintf(save, sizeof save, "%s/w.safetensors", dir);
    cr_assert_eq(psd_rule_parse(&server.rule, "lookahead(sgd(lr=0.5), k=5, alpha=0.5)", &err), PSD_OK);
    server.position.has_slow = 1;
    config.save = save;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text); /* 24 steps: 4 past the last sync */
    const float *slow[2] = { server.slot[0][server.rule.slow_slot], server.slot[1][server.rule.slow_slot] };
    cr_assert_eq(result.last_score.metric, psd_model_evaluate(model, slow, test, NULL).metric);
    cr_assert_eq(result.last_score.loss, psd_model_evaluate(model, slow, test, NULL).loss);
    cr_assert_neq(result.last_score.loss, psd_model_evaluate(model, NULL, test, NULL).loss);
    cr_assert_str_neq(result.sha256, result.sha256_slow);
    FILE *file = fopen(save, "rb");
    uint64_t n;
    float first;
    cr_assert_eq(fread(&n, 8, 1, file), 1);
    char *header = calloc(n + 1, 1);
    cr_assert_eq(fread(header, 1, n, file), n);
    cr_expect_not_null(strstr(header, "\"psd.which\":\"slow\""), "%s", header);
    free(header);
    cr_assert_eq(fread(&first, 4, 1, file), 1);
    fclose(file);
    cr_assert_eq(first, slow[0][0]);
}

Test(trainer, told_to_stop_it_ends_the_round_and_leaves_with_work_left)
{
    server.stop_at = 5;
    server.waits_before_ready = 2;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_ESTOPPED);
    cr_assert_eq(psd_err_exit_code(PSD_ESTOPPED), 75);
    cr_assert_eq(server.exchanges, 5);
    cr_assert_eq(server.position.clock, 6, "the open round was waited for");
    cr_assert_eq(server.left, 0);
    cr_assert_str_eq(err.text, "stopped after step 5");
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_assert_str_eq(json_string_value(json_object_get(summary, "outcome")), "stopped before finishing");
    cr_assert_eq(number(summary, "steps"), 5);
    json_decref(summary);
}

Test(trainer, however_long_it_has_trained_it_waits_for_the_round_in_which_it_is_stopped)
{
    server.first_takes = 2.1; /* longer than such a wait may take */
    server.stop_at = 2;
    server.waits_before_ready = 2;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_ESTOPPED);
    cr_expect_str_eq(err.text, "stopped after step 2");
}

Test(trainer, drained_it_leaves_with_work_left_and_ends_well)
{
    server.drain_at = 4; /* three exchanges are done before the fourth */
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDRAINED);
    cr_assert_eq(psd_err_exit_code(PSD_EDRAINED), 0, "so that no supervisor restarts it");
    cr_assert_eq(server.exchanges, 3);
    cr_assert_eq(server.left, 0);
}

Test(trainer, a_worker_that_was_given_up_before_it_could_say_that_it_is_done_fails_to_be_started_again)
{
    server.leave_rc = PSD_W_EFENCED;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EFENCED);
    cr_assert_eq(psd_err_exit_code(PSD_EFENCED), 75);
}

Test(trainer, told_to_stop_while_the_last_weights_are_not_safe_it_does_not_wait_for_long)
{
    server.leave_rc = PSD_W_ETIMEOUT;
    server.stop_at = (uint64_t)(config.stop_epochs * STEPS + 0.5); /* in the last step */
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_ESTOPPED);
    cr_assert_str_eq(err.text, "stopped after the last step, before the last weights were safe");
}

Test(trainer, a_target_that_is_met_ends_the_run_and_one_that_is_not_fails_it)
{
    config.stop_target = 0.2;
    config.stop_epochs = 50;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert_lt(result.steps, 50 * STEPS);
    cr_assert_geq(result.last_score.metric, 0.2);
    cr_assert_eq(server.left, 1);
    server.position.clock = 1;
    server.left = -1;
    server.frozen = true;
    config.stop_target = 1.0;
    config.stop_epochs = 1;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
    cr_assert_eq(psd_err_exit_code(PSD_EDIVERGED), 1);
    cr_assert_not_null(strstr(err.text, "the target was not met: accuracy is "), "%s", err.text);
    cr_assert_eq(server.left, 1, "its work is done anyway");
    server.position.clock = 1;
    config.stop_target = result.last_score.metric;
    cr_expect_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "what is reached exactly is reached: %s", err.text);
}

Test(trainer, patience_ends_a_run_whose_evaluations_do_not_improve)
{
    char words[128];
    keep_log();
    server.frozen = true; /* the weights do not change, so neither does the metric */
    config.stop_patience = 2;
    config.stop_epochs = 50;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(result.steps, 3 * STEPS, "the first evaluation is the best, two are not better");
    snprintf(
        words, sizeof words,
        " id=train.stopped step=24 reason=\"stop.patience: the last 2 evaluations were no better than accuracy %.6g, of step 8\"\n",
        result.last_score.metric);
    cr_expect_eq(count_logged(words), 1, "no %s in %s", words, logged);
    cr_assert_eq(server.left, 1);
    /* The worker's next life knows the evaluations of this one. */
    server.position.clock = 3 * STEPS + 1;
    config.stop_patience = 4;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(result.steps, 5 * STEPS);
}

Test(trainer, patience_goes_by_the_rows_held_out_in_the_next_life_too)
{
    psd_dataset_options_t options = { .train = train };
    psd_dataset_t *one = psd_dataset_load("glyphs:1", &options, &err); /* which the model gets wrong for some epochs */
    cr_assert_not_null(one, "%s", err.text);
    config.held = one;
    config.stop_patience = 2;
    config.stop_epochs = 50;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *held = lines_with("metrics.jsonl", "holdout/accuracy"), *tested = lines_with("metrics.jsonl", "val/accuracy");
    cr_assert_eq(json_array_size(held), 3);
    for (size_t i = 1; i < 3; i++) {
        cr_expect_eq(number(json_array_get(held, i), "holdout/accuracy"), number(json_array_get(held, 0), "holdout/accuracy"));
        cr_expect_gt(number(json_array_get(tested, i), "val/accuracy"), number(json_array_get(tested, i - 1), "val/accuracy"),
                     "the test set has no part in it");
    }
    server.frozen = true;
    const uint64_t steps = result.steps;
    config.stop_patience = 4;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(result.steps, steps + 2 * STEPS, "two evaluations were waited for before");
    json_decref(held);
    json_decref(tested);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect_eq(number(summary, "holdout_rows"), 1);
    cr_expect_eq(number(summary, "test_rows"), 200);
    cr_expect_eq(number(summary, "holdout_metric"), result.held_score.metric);
    cr_expect_eq(result.held_score.loss, psd_model_evaluate(model, NULL, one, NULL).loss);
    cr_expect_eq(number(summary, "holdout_chance_metric"), psd_metric_find("accuracy")->chance(one));
    json_decref(summary);
    config.held = NULL;
    psd_dataset_destroy(&one);
}

Test(trainer, evaluations_of_steps_that_will_be_made_again_are_not_remembered)
{
    FILE *file = fopen(in_dir("metrics.jsonl"), "w");
    fputs("{\"step\": 1, \"val/accuracy\": 0.5}\n{\"step\": 2, \"val/accuracy\": 0.4}\n{\"step\": 3, \"val/accuracy\": 0.4}\n",
          file);
    fclose(file);
    server.accumulate = 4;
    server.position.clock = 5; /* the first step is made */
    config.stop_patience = 2;
    config.stop_epochs = 0;
    config.stop_steps = 2;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(result.rounds, 4);
}

Test(trainer, all_metrics_that_suit_are_in_lines_and_summary_and_the_one_that_counts_is_chosen)
{
    config.metric = psd_metric_find("logloss");
    config.eval_train = true;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *tested = lines_with("metrics.jsonl", "val/logloss"), *trained = lines_with("metrics.jsonl", "train/logloss");
    cr_assert_eq(json_array_size(tested), 3);
    cr_assert_eq(json_array_size(trained), 3);
    const json_t *last = json_array_get(tested, 2);
    cr_expect_eq(number(last, "val/logloss"), number(last, "val/loss"));
    cr_expect_gt(number(last, "val/accuracy"), 0.3);
    cr_expect_null(json_object_get(last, "val/auc"), "it is for two classes");
    cr_expect_eq(number(json_array_get(trained, 2), "train/logloss"), psd_model_evaluate(model, NULL, train, NULL).loss);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "metric")), "logloss");
    cr_expect_eq(number(summary, "last_metric"), number(last, "val/logloss"));
    cr_expect_eq(number(json_object_get(summary, "test_metrics"), "accuracy"), number(last, "val/accuracy"));
    cr_expect_eq(number(json_object_get(summary, "train_metrics"), "logloss"), result.train_score.metric);
    cr_expect(json_is_null(json_object_get(summary, "holdout_metrics")));
    double best = number(json_array_get(tested, 0), "val/logloss");
    for (size_t i = 1; i < 3; i++)
        best = fmin(best, number(json_array_get(tested, i), "val/logloss"));
    cr_expect_eq(number(summary, "best_metric"), best, "a loss is better when it is smaller");
    json_decref(tested);
    json_decref(trained);
    json_decref(summary);
}

Test(trainer, with_a_target_every_rank_evaluates)
{
    server.position.rank = 1;
    server.position.world = 2;
    config.stop_target = 0.01;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_assert(result.evaluated);
    cr_assert_eq(result.steps, STEPS);
}

Test(trainer, a_loss_that_stays_infinite_fails_the_run)
{
    server.poison_at = 3;
    config.stop_epochs = 100;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
    cr_assert_eq(result.steps, 3 + 20);
    cr_assert_str_eq(err.text, "the loss was not finite for 20 steps in a row, up to step 23; lower the learning rate");
}

Test(trainer, a_run_that_fails_saves_its_model_only_where_no_file_is)
{
    char save[256], link[256], text[8] = "";
    snprintf(save, sizeof save, "%s/w.safetensors", dir);
    snprintf(link, sizeof link, "%s/link.safetensors", dir);
    cr_assert_eq(symlink("w.safetensors", link), 0);
    keep_log();
    server.hopeless_at = 7;
    const char *const to[] = { save, link };
    for (size_t i = 0; i < 2; i++) {
        config.save = to[i];
        FILE *file = fopen(save, "w");
        fputs("earlier", file);
        fclose(file);
        server.position.clock = 1;
        cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
        file = fopen(save, "r");
        cr_assert_not_null(fgets(text, sizeof text, file));
        fclose(file);
        cr_expect_str_eq(text, "earlier", "%s", to[i]);
        cr_expect_eq(count_logged(" id=save.kept file="), i + 1, "%s", logged);
        cr_expect(*result.sha256, "the summary names the weights anyway");
    }
    unlink(save);
    server.position.clock = 1;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
    cr_expect_eq(access(save, F_OK), 0, "a model that has just missed its target is worth keeping");
    cr_expect_eq(count_logged("save.kept"), 2);
    unlink(link);
}

Test(trainer, a_loss_that_is_finite_now_and_then_does_not_fail_the_run)
{
    server.frozen = true;
    server.well_every = 20; /* steps 2 to 19 and 21 to 39: 37 in all, and no 20 of them in a row */
    config.stop_epochs = 0;
    config.stop_steps = 41;
    config.eval_every = 0;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *losses = lines_with("metrics.jsonl", "train/loss");
    size_t bad = 0;
    for (size_t i = 0; i < json_array_size(losses); i++)
        bad += json_is_null(json_object_get(json_array_get(losses, i), "train/loss"));
    cr_expect_eq(bad, 37);
    json_decref(losses);
}

Test(trainer, a_round_that_the_job_goes_back_behind_is_made_again_and_counted_once)
{
    server.goes_back_at = 6;
    server.goes_back_to = 4;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(server.exchanges, 3 * STEPS + 3, "4, 5 and 6 are made twice");
    cr_expect_eq(result.rounds, 3 * STEPS + 2, "and the first 6 is not a round that was closed");
    cr_expect_eq(result.steps, 3 * STEPS);
    json_t *lines = lines_with("metrics.jsonl", "train/loss");
    cr_expect_eq(json_array_size(lines), result.rounds);
    json_decref(lines);
}

Test(trainer, the_smaller_of_steps_and_epochs_ends_the_run)
{
    config.stop_steps = 5;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_expect_eq(result.steps, 5, "of 3 epochs it would be 24");
    server.position.clock = 1;
    config.stop_steps = 100;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_expect_eq(result.steps, 3 * STEPS);
}

/* The file may grow up to this size: a line that does not fit fails, as on a full disk. */
static void limit_files(rlim_t bytes)
{
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ bytes, RLIM_INFINITY }), 0);
}

Test(trainer, metrics_that_found_no_room_fail_a_run_that_trained_well)
{
    limit_files(3000); /* about 20 of 24 lines, and a complete summary */
    const int rc = psd_trainer_run(&config, &result, &err);
    limit_files(RLIM_INFINITY);
    cr_assert_eq(rc, PSD_EIO);
    cr_expect(strstr(err.text, "summary.json are incomplete: File too large"), "%s", err.text);
    cr_expect_eq(result.steps, 3 * STEPS, "it trains to its end");
    cr_expect_eq(server.left, 1, "and takes leave");
}

/* ---- Regression: y = x, and a model that learns it ---- */

static void setup_numbers(void)
{
    psd_model_destroy(&model);
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&train);
    FILE *file = fopen(in_dir("numbers.csv"), "w");
    for (int i = 0; i < 64; i++)
        fprintf(file, "%g,%g\n", i / 32.0 - 1, i / 32.0 - 1);
    fclose(file);
    char spec[300];
    snprintf(spec, sizeof spec, "csv:%s", path);
    psd_dataset_options_t options = { .kind = PSD_LABEL_TARGET };
    cr_assert_not_null(train = psd_dataset_load(spec, &options, &err), "%s", err.text);
    options.train = train;
    cr_assert_not_null(test = psd_dataset_load(spec, &options, &err), "%s", err.text);
    cr_assert_not_null(model = psd_model_new(&(psd_model_config_t){ .kind = "linear", .seed = 4 }, train, &err), "%s", err.text);
    config.model = model;
    config.train = train;
    config.test = test;
    config.batch = 16;
}

static void teardown_numbers(void) { unlink(in_dir("numbers.csv")); }

/* The least and the greatest value of the evaluations' metric. */
static void take_range(const char *key, double *least, double *most)
{
    json_t *lines = lines_with("metrics.jsonl", key);
    *least = INFINITY, *most = -INFINITY;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        *least = fmin(*least, number(json_array_get(lines, i), key));
        *most = fmax(*most, number(json_array_get(lines, i), key));
    }
    json_decref(lines);
}

Test(trainer, the_best_mse_is_the_smallest, .init = setup_numbers, .fini = teardown_numbers)
{
    double least, most;
    psd_rule_parse(&server.rule, "sgd(lr=0.3, momentum=0.95)", NULL); /* this overshoots after epoch 9 */
    config.stop_epochs = 12;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    take_range("val/mse", &least, &most);
    cr_assert(least > 0 && least < result.last_score.metric && result.last_score.metric < most, "%g < %g < %g", least,
              result.last_score.metric, most);
    cr_expect_eq(result.best_metric, least);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect_eq(number(summary, "best_metric"), least);
    cr_expect_eq(number(summary, "last_metric"), result.last_score.metric);
    json_decref(summary);
}

Test(trainer, a_target_that_is_missed_is_told_with_the_last_value_not_the_best, .init = setup_numbers, .fini = teardown_numbers)
{
    char words[128];
    psd_rule_parse(&server.rule, "sgd(lr=0.3, momentum=0.95)", NULL);
    config.stop_epochs = 12;
    config.stop_target = 1e-12;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
    cr_assert_gt(result.last_score.metric, result.best_metric);
    snprintf(words, sizeof words, "the target was not met: mse is %.6g after step 48, and should reach 1e-12",
             result.last_score.metric);
    cr_expect_str_eq(err.text, words);
}

Test(trainer, a_target_of_mse_is_met_from_above, .init = setup_numbers, .fini = teardown_numbers)
{
    psd_rule_parse(&server.rule, "sgd(lr=0.1)", NULL);
    config.stop_epochs = 200;
    config.stop_target = 0.001;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_leq(result.last_score.metric, 0.001);
    cr_expect(result.steps > 4 && result.steps < 200 * 4, "after some of the epochs: %d", (int)result.steps);
}

Test(trainer, the_best_accuracy_is_the_greatest)
{
    double least, most;
    psd_rule_parse(&server.rule, "sgd(lr=20)", NULL);
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    take_range("val/accuracy", &least, &most);
    cr_expect_eq(result.best_metric, most);
    cr_expect_lt(least, most);
}

Test(trainer, servers_that_cannot_be_reached_are_named_and_unavailable)
{
    server.connect_rc = PSD_W_ETIMEOUT;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EUNAVAILABLE);
    cr_assert_eq(psd_err_exit_code(PSD_EUNAVAILABLE), 69);
    cr_assert_str_eq(err.text, "cannot join: no answer from tcp://nowhere:7470");
    cr_assert_eq(result.rounds, 0);
}

Test(trainer, a_failed_exchange_ends_the_run_with_its_code)
{
    server.exchange_rc = PSD_W_EFENCED;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EFENCED);
    cr_assert_str_eq(err.text, "cannot exchange: given up by the servers, or replaced");
    cr_assert_eq(server.left, -1, "a worker that was given up cannot leave");
}

Test(trainer, a_late_worker_starts_at_the_round_of_the_others)
{
    server.position.clock = 3 * STEPS - 1;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_assert_eq(result.rounds, 2);
    cr_assert_eq(result.steps, 3 * STEPS);
    server.position.clock = 1000;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_assert_eq(result.rounds, 0);
    cr_assert_eq(server.left, 1);
}

Test(trainer, half_epochs_stop_and_evaluate_on_the_step_that_completes_them)
{
    config.stop_epochs = 1.5;
    config.eval_every = 0.5;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_assert_eq(result.steps, 12);
    json_t *evaluations = lines_with("metrics.jsonl", "val/loss");
    /* 250 samples are reached by step 4 (256), 500 by step 8, 750 by step 12 (500 + 256). */
    const int at[] = { 4, 8, 12 };
    cr_assert_eq(json_array_size(evaluations), 3);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(number(json_array_get(evaluations, i), "step"), at[i]);
    json_decref(evaluations);
}

Test(trainer, the_last_step_is_evaluated_wherever_it_lies)
{
    for (unsigned accumulate = 1; accumulate <= 2; accumulate++) {
        server.position.clock = 1;
        server.accumulate = accumulate;
        config.stop_epochs = 0;
        config.stop_steps = 3;
        cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
        json_t *evaluations = lines_with("metrics.jsonl", "val/loss");
        cr_assert_eq(json_array_size(evaluations), 1);
        cr_expect_eq(number(json_array_get(evaluations, 0), "step"), 3);
        cr_expect_eq(result.rounds, 3 * accumulate);
        json_decref(evaluations);
        unlink(in_dir("metrics.jsonl"));
    }
}

Test(trainer, rows_of_the_next_epoch_complete_the_last_step)
{
    server.accumulate = 3;
    config.stop_epochs = 1; /* 8 rounds */
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    cr_expect_eq(result.steps, 3);
    cr_expect_eq(result.rounds, 9);
}

Test(trainer, a_skipped_round_is_in_the_line_of_its_step_only)
{
    server.skips_at = 5;
    config.metrics_every = 2;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(result.skipped, 1);
    json_t *skipped = lines_with("metrics.jsonl", "train/skipped");
    cr_assert_eq(json_array_size(skipped), 1);
    cr_expect_eq(number(json_array_get(skipped, 0), "step"), 6);
    cr_expect_eq(number(json_array_get(skipped, 0), "train/skipped"), 1);
    json_decref(skipped);
}

Test(trainer, the_summary_describes_the_run_and_how_it_ended)
{
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    json_t *summary = json_load_file(in_dir("summary.json"), JSON_REJECT_DUPLICATES, NULL);
    char rule[PSD_RULE_TEXT];
    cr_assert_not_null(summary);
    cr_assert_str_eq(json_string_value(json_object_get(summary, "schema")), "psd.summary/1");
    cr_assert_str_eq(json_string_value(json_object_get(summary, "outcome")), "done");
    cr_assert_str_eq(json_string_value(json_object_get(summary, "optimizer")), psd_rule_print(&server.rule, rule));
    cr_assert_str_eq(json_string_value(json_object_get(summary, "sha256")), result.sha256);
    cr_assert(json_is_null(json_object_get(summary, "sha256_slow")));
    cr_assert_eq(number(summary, "samples"), 3 * ROWS);
    cr_assert_eq(number(summary, "last_metric"), result.last_score.metric);
    cr_assert_geq(number(summary, "best_metric"), result.last_score.metric);
    cr_expect_eq(number(summary, "last_val_loss"), result.last_score.loss);
    cr_expect_eq(number(summary, "last_loss"), result.last_loss);
    cr_expect_eq(number(summary, "steps"), 3 * STEPS);
    cr_expect_eq(number(summary, "rounds"), 3 * STEPS);
    cr_expect_eq(number(summary, "skipped"), 0);
    cr_expect_eq(number(summary, "epochs"), 3);
    cr_expect_eq(number(summary, "job_samples"), 3 * ROWS);
    cr_expect_eq(number(summary, "test_rows"), 200);
    cr_expect_eq(number(summary, "wall_time_s"), result.seconds);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "metric")), "accuracy");
    cr_expect_str_eq(json_string_value(json_object_get(summary, "settings")), "as told");
    cr_expect_str_eq(json_string_value(json_object_get(summary, "job")), "psd");
    json_decref(summary);
}

/* The summary's hashes of the start and of the rows, for a run with this seed of the sampler and this rule. */
static void run_for_hashes(uint64_t seed, const char *rule, const psd_dataset_t *set, char initial[65], char order[65])
{
    psd_model_destroy(&model);
    config.model = model = new_model();
    config.seed = seed;
    config.train = set;
    server.position.clock = 1;
    cr_assert_eq(psd_rule_parse(&server.rule, rule, NULL), PSD_OK);
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    snprintf(initial, 65, "%s", json_string_value(json_object_get(summary, "sha256_initial")));
    snprintf(order, 65, "%s", json_string_value(json_object_get(summary, "sha256_order")));
    cr_expect_gt(number(summary, "begun_ts"), 1.7e9);
    json_decref(summary);
}

Test(trainer, the_summary_has_hashes_of_the_start_and_of_the_order_of_rows_that_no_optimizer_changes)
{
    char initial[4][65], order[4][65];
    run_for_hashes(4, "adam(lr=0.01)", train, initial[0], order[0]);
    run_for_hashes(4, "sgd(lr=0.1)", train, initial[1], order[1]);
    run_for_hashes(5, "adam(lr=0.01)", train, initial[2], order[2]);
    cr_expect_str_eq(initial[0], initial[1]);
    cr_expect_str_eq(order[0], order[1]);
    cr_expect_str_eq(initial[0], initial[2], "the model has the same seed");
    cr_expect_str_neq(order[0], order[2], "another order of the same rows");
    train->label[7] = train->label[7] ? 0 : 1;
    run_for_hashes(4, "adam(lr=0.01)", train, initial[3], order[3]);
    cr_expect_str_neq(order[0], order[3], "a row with another label");
    psd_saved_t tensors[2];
    psd_model_t *fresh = new_model();
    for (size_t i = 0; i < 2; i++) {
        const psd_param_t *p = &psd_model_params(fresh)[i];
        tensors[i] = (psd_saved_t){ .name = p->name, .shape = p->shape, .n_dims = p->n_dims, .n = p->n, .data = p->data };
    }
    char hash[PSD_SHA256_TEXT];
    cr_expect_str_eq(initial[0], psd_weights_sha256(tensors, 2, hash), "those of the model before any step");
    psd_model_destroy(&fresh);
}

Test(trainer, only_rank_0_reports_progress_and_saves_the_model)
{
    char save[256];
    snprintf(save, sizeof save, "%s/w.safetensors", dir);
    config.save = save;
    server.position.world = 2;
    server.position.rank = 1;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(reports_of_progress, 0);
    cr_expect_neq(access(save, F_OK), 0, "rank 1 has saved it");
    server.position = (psd_position_t){ .clock = 1, .world = 2 };
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_gt(reports_of_progress, 0);
    cr_expect_eq(access(save, F_OK), 0);
}

/* Every 17.6 rows; the 25th time is after 440, and in floating point 440 / 17.6 is a little less than 25. */
Test(trainer, an_evaluation_is_due_at_the_sample_that_completes_its_share_of_an_epoch)
{
    config.batch = 10;
    config.stop_epochs = 1;
    config.eval_every = 0.0352;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    json_t *evaluations = lines_with("metrics.jsonl", "val/loss");
    cr_assert_eq(json_array_size(evaluations), 28, "500 / 17.6");
    cr_expect_eq(number(json_array_get(evaluations, 24), "step"), 44);
    json_decref(evaluations);
}

Test(trainer, a_late_worker_reports_nothing_of_the_start)
{
    server.position.clock = 3;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect(json_is_null(json_object_get(summary, "sha256_initial")));
    json_decref(summary);
}

Test(trainer, the_round_that_the_job_could_not_bear_is_counted)
{
    server.hopeless_at = 7;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
    cr_expect_eq(result.rounds, 7);
    cr_expect_eq(result.steps, 7);
    cr_expect_eq(result.skipped, 1);
    json_t *skipped = lines_with("metrics.jsonl", "train/skipped");
    cr_expect_eq(json_array_size(skipped), 1);
    json_decref(skipped);
    server.position.clock = 1;
    server.in_asp = true; /* in asp it was another worker's push, so it is not a round of this worker */
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EDIVERGED);
    cr_expect_eq(result.skipped, 0);
    cr_expect_eq(result.rounds, 6);
}

Test(trainer, in_asp_the_jobs_samples_are_those_that_the_servers_count)
{
    server.in_asp = true;
    server.job_samples = 7 * ROWS;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect_eq(number(summary, "samples"), 3 * ROWS);
    cr_expect_eq(number(summary, "job_samples"), 7 * ROWS);
    cr_expect_eq(number(summary, "epochs"), 7);
    json_decref(summary);
}

Test(trainer, the_summary_has_the_most_workers_that_were_there)
{
    server.position.world = 3;
    server.world_shrinks_at = 5;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect_eq(number(summary, "world"), 3);
    cr_expect_lt(number(summary, "samples"), number(summary, "job_samples"));
    cr_expect_float_eq(number(summary, "samples_per_s") * number(summary, "wall_time_s"), number(summary, "samples"), 1e-6,
                       "its own");
    cr_expect_geq(number(summary, "ended_ts"), number(summary, "begun_ts"));
    json_decref(summary);
}

Test(trainer, a_worker_that_could_not_leave_is_not_done)
{
    server.leave_rc = PSD_W_EFENCED;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_EFENCED);
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "outcome")), psd_err_text(PSD_EFENCED));
    json_decref(summary);
}

Test(trainer, the_summary_says_whose_it_is_and_how_long_it_took)
{
    const double begun = seconds();
    server.position = (psd_position_t){ .clock = 1, .world = 4, .rank = 2, .worker = 1, .run = 0xabc };
    server.first_takes = 0.02;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    const double took = seconds() - begun;
    json_t *summary = json_load_file(in_dir("summary-1.json"), 0, NULL);
    cr_assert_not_null(summary);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "run")), "0000000000000abc");
    cr_expect_eq(number(summary, "worker"), 1);
    cr_expect_eq(number(summary, "rank"), 2);
    cr_expect_eq(number(summary, "world"), 4);
    cr_expect(result.run == 0xabc && result.rank == 2, "the line at the end says it too");
    cr_expect_eq(strlen(json_string_value(json_object_get(summary, "sha256_initial"))), 64);
    cr_expect_eq(strlen(json_string_value(json_object_get(summary, "sha256_order"))), 64);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "sha256")), result.sha256);
    cr_expect(json_is_null(json_object_get(summary, "sha256_slow")));
    cr_expect_eq(number(summary, "chance_metric"), psd_metric_find("accuracy")->chance(test));
    cr_expect(json_is_null(json_object_get(summary, "holdout_chance_metric")));
    cr_expect(number(summary, "wall_time_s") >= 0.02 && number(summary, "wall_time_s") <= took + 1e-3, "%g of %g s",
              number(summary, "wall_time_s"), took);
    cr_expect_leq(number(summary, "ended_ts") - number(summary, "begun_ts"), took + 2e-3);
    json_decref(summary);
}

Test(trainer, a_run_from_the_start_says_nothing_of_patience)
{
    keep_log();
    config.stop_patience = 50;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(count_logged("train.patience"), 0, "%s", logged);
}

/* ---- whole runs, compared with their transcript ---- */

/* ---- Words: what the columns mean is kept beside the metrics and in the model ---- */

static void setup_words(void)
{
    FILE *file = fopen(in_dir("words.csv"), "w");
    for (int i = 0; i < 40; i++)
        fprintf(file, "%s,%d,%d\n", i % 3 ? "red" : "blue", i, i % 2);
    fclose(file);
    char spec[300];
    snprintf(spec, sizeof spec, "csv:%s", path);
    static const char *const categorical[] = { "0" };
    psd_dataset_options_t options = { .label_column = "2", .one_hot = 9, .categorical = categorical, .n_categorical = 1 };
    psd_model_destroy(&model);
    psd_dataset_destroy(&train);
    cr_assert_not_null(train = psd_dataset_load(spec, &options, &err), "%s", err.text);
    cr_assert_not_null(train->encoding);
    model = new_model();
    config.model = model;
    config.train = train;
    config.test = NULL;
    config.batch = 8;
    config.stop_epochs = 0;
    config.stop_steps = 2;
}

static void teardown_words(void)
{
    unlink(in_dir("words.csv"));
    unlink(in_dir("encoding.json"));
    teardown();
}

static void expect_encoding(const char *wanted)
{
    char there[2048] = "";
    FILE *file = fopen(in_dir("encoding.json"), "r");
    cr_assert_eq(file != NULL, wanted != NULL);
    if (!file)
        return;
    cr_assert_lt(fread(there, 1, sizeof there - 1, file), sizeof there - 1);
    fclose(file);
    cr_expect_str_eq(there, wanted);
}

Test(trainer, what_columns_of_words_mean_is_kept_with_the_run_and_the_model_and_a_job_that_goes_on_does_not_change_it,
     .fini = teardown_words)
{
    char save[256];
    psd_safetensors_t file = { .fd = -1 };
    setup_words();
    char *text = psd_encoding_print(train->encoding, &err);
    snprintf(save, sizeof save, "%s/w.safetensors", dir);
    config.save = save;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    expect_encoding(text);
    cr_assert_eq(psd_safetensors_open(&file, save, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_safetensors_parse(&file, &err), PSD_OK, "%s", err.text);
    cr_expect_str_eq(psd_safetensors_note(&file, PSD_ENCODING_NOTE), text);
    psd_safetensors_close(&file);
    free(train->encoding->column[0].word[0]);
    train->encoding->column[0].word[0] = strdup("black");
    char *other = psd_encoding_print(train->encoding, &err);
    server.position = (psd_position_t){ .clock = 2, .world = 1 };
    cr_expect_eq(psd_trainer_run(&config, &result, &err), PSD_ECONFIG);
    cr_expect_eq(strncmp(err.text, "the job goes on, but its columns would become other features than those that its weights", 87),
                 0, "%s", err.text);
    expect_encoding(text);
    server.position.clock = 1;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "another job has begun: %s", err.text);
    expect_encoding(other);
    psd_encoding_destroy(&train->encoding);
    server.position.clock = 1;
    cr_assert_eq(psd_trainer_run(&config, &result, &err), PSD_OK, "%s", err.text);
    expect_encoding(NULL);
    free(text), free(other);
}

/* The events of tests/golden/transcripts/trainer.txt: "run FIELD=VALUE ...", where the fields are those of the server above and of
 * the configuration. Times and hashes are "~". */

/* The log counts lines that come again soon. */
static uint64_t later(void *arg)
{
    static uint64_t now;
    (void)arg;
    return now += UINT64_C(60000000);
}

/* The fields of a line whose values depend on the time. */
static void hide_pace(char *line)
{
    static const char *const fields[] = { " samples_per_s=", " eta_s=" };
    for (size_t i = 0; i < 2; i++) {
        char *at = strstr(line, fields[i]);
        if (!at)
            continue;
        at += strlen(fields[i]);
        memmove(at + 1, at + strcspn(at, " "), strlen(at + strcspn(at, " ")) + 1);
        *at = '~';
    }
}

static void say_line(void *arg, const char *line, size_t n)
{
    char text[2000];
    (void)arg;
    snprintf(text, sizeof text, "%.*s", (int)n - 1, line + strcspn(line, " ") + 1);
    text[strcspn(text, "\n")] = '\0';
    hide_pace(text);
    transcript_say("log %s", text);
}

static void print_value(FILE *out, const char *key, const json_t *value)
{
    static const char *const times[] = { "ts", "begun_ts", "ended_ts", "wall_time_s", "samples_per_s" };
    bool varies = !strncmp(key, "sha256", 6);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        varies = varies || !strcmp(key, times[i]);
    fprintf(out, " %s=", key);
    if (json_is_null(value) && strcmp(key, "samples_per_s") != 0) /* which has no value after no time */
        fprintf(out, "null");
    else if (varies)
        fprintf(out, "~");
    else if (json_is_string(value))
        fprintf(out, "%s", json_string_value(value));
    else if (json_is_number(value))
        fprintf(out, "%.5g", json_number_value(value));
}

static void print_object(FILE *out, json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        print_value(out, key, value);
        if (!json_is_object(value))
            continue;
        fprintf(out, "(");
        print_object(out, value);
        fprintf(out, " )");
    }
}

static void say_object(const char *what, json_t *object)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    cr_assert_not_null(object, "%s is not JSON", what);
    print_object(out, object);
    fclose(out);
    transcript_say("%s:%s", what, text);
    free(text);
    json_decref(object);
}

/* Lines of a trace: STEP WORLD HASH TENSOR. */
static void say_trace(FILE *file)
{
    psd_trace_line_t line;
    while (psd_trace_read(file, &line))
        transcript_say("trace: %" PRIu64 " %u ~ %s", line.step, line.world, line.tensor);
    fclose(file);
}

/* And remove them. */
static void say_files(void)
{
    char pattern[300], text[4096];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/*", dir);
    glob(pattern, 0, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *name = found.gl_pathv[i] + strlen(dir) + 1;
        FILE *file = strstr(name, ".jsonl") ? fopen(found.gl_pathv[i], "r") : NULL;
        if (!strncmp(name, "summary", 7))
            say_object(name, json_load_file(found.gl_pathv[i], 0, NULL));
        else if (!strcmp(name, "trace"))
            say_trace(fopen(found.gl_pathv[i], "r"));
        else if (!file)
            transcript_say("%s", name);
        while (file && fgets(text, sizeof text, file))
            say_object(name, json_loads(text, 0, NULL));
        if (file)
            fclose(file);
        unlink(found.gl_pathv[i]);
    }
    globfree(&found);
}

static void say_outcome(void)
{
    json_t *summary = json_load_file(in_dir("summary.json"), 0, NULL);
    transcript_say("outcome=%s", json_string_value(json_object_get(summary, "outcome")));
    json_decref(summary);
}

static void forget_slots(void)
{
    for (size_t i = 0; i < server.n; i++)
        for (int s = 0; s < server.rule.n_slots; s++)
            free(server.slot[i][s]);
    memset(&server, 0, sizeof server);
}

static void configure_server(const char *event)
{
    forget_slots();
    server.position = (psd_position_t){ .clock = (uint64_t)transcript_number(event, "clock", 1),
                                        .version = 100,
                                        .rank = (uint32_t)transcript_number(event, "rank", 0),
                                        .world = (uint32_t)transcript_number(event, "world", 1),
                                        .worker = (uint32_t)transcript_number(event, "worker", 0),
                                        .run = 171,
                                        .has_slow = transcript_number(event, "slow", 0) != 0 };
    cr_assert_eq(psd_rule_parse(&server.rule, server.position.has_slow ? "lookahead(sgd(lr=0.5), k=2)" : "sgd(lr=0.5)", &err),
                 PSD_OK);
    server.left = -1;
    snprintf(server.schedule, sizeof server.schedule, "%s", transcript_text(event, "schedule"));
    snprintf(server.unit, sizeof server.unit, "%s", transcript_text(event, "unit"));
    server.round_loss = 0.625;
    server.accumulate = (uint32_t)transcript_number(event, "accumulate", 1);
    server.gathers = transcript_number(event, "gathers", 0) != 0;
    server.in_asp = transcript_number(event, "asp", 0) != 0;
    server.job_samples = (uint64_t)transcript_number(event, "job_samples", 0);
    server.connect_rc = (int)transcript_number(event, "connect_rc", 0);
    server.exchange_rc = (int)transcript_number(event, "exchange_rc", 0);
    server.leave_rc = (int)transcript_number(event, "leave_rc", 0);
    server.stop_at = (uint64_t)transcript_number(event, "stop_at", 0);
    server.drain_at = (uint64_t)transcript_number(event, "drain_at", 0);
    server.skips_at = (uint64_t)transcript_number(event, "skips_at", 0);
    server.hopeless_at = (uint64_t)transcript_number(event, "hopeless_at", 0);
    server.goes_back_at = (uint64_t)transcript_number(event, "goes_back_at", 0);
    server.goes_back_to = (uint64_t)transcript_number(event, "goes_back_to", 0);
    server.pull_forgotten_at = (uint64_t)transcript_number(event, "pull_forgotten_at", 0);
    server.leave_forgotten = transcript_number(event, "leave_forgotten", 0) != 0;
    server.reads_summary = server.leave_forgotten || server.pull_forgotten_at;
    server.slow_ails = transcript_number(event, "slow_ails", 0) != 0;
    server.poison_at = (uint64_t)transcript_number(event, "poison_at", 0);
    server.world_shrinks_at = (uint64_t)transcript_number(event, "world_shrinks_at", 0);
    server.waits_before_ready = (int)transcript_number(event, "waits", 0);
}

static void say_joined(void) { transcript_say("joined"); }

static void perform_run(const char *event)
{
    char save[256], trace[256];
    psd_progress_t *progress = psd_progress_new(&(psd_progress_config_t){ .mode = "log", .fd = -1 }, &err);
    stop = 0;
    configure_server(event);
    psd_model_destroy(&model);
    model = new_model();
    snprintf(save, sizeof save, "%s/w.safetensors", dir);
    snprintf(trace, sizeof trace, "%s/trace", dir);
    config.model = model;
    config.batch = (size_t)transcript_number(event, "batch", 200);
    config.server.job = "mnist";
    config.server.recipe = "as all";
    config.server.rows = 500;
    config.stop_epochs = transcript_number(event, "epochs", 1);
    config.stop_steps = (uint64_t)transcript_number(event, "steps", 0);
    config.stop_target = transcript_number(event, "target", 0);
    config.stop_patience = (uint64_t)transcript_number(event, "patience", 0);
    config.eval_every = transcript_number(event, "eval_every", 1);
    config.metrics_every = (uint64_t)transcript_number(event, "metrics_every", 1);
    config.eval_train = transcript_number(event, "eval_train", 0) != 0;
    config.test = transcript_number(event, "test", 1) != 0 ? test : NULL;
    config.held = transcript_number(event, "held", 0) != 0 ? train : NULL;
    config.save = transcript_number(event, "save", 0) != 0 ? save : NULL;
    config.trace = transcript_number(event, "trace", 0) != 0 ? trace : "";
    config.progress = transcript_number(event, "progress", 0) != 0 ? progress : NULL;
    config.metric = psd_metric_find(transcript_text(event, "metric"));
    config.joined = say_joined;
    err = (psd_err_t){ 0 };
    const int rc = psd_trainer_run(&config, &result, &err);
    transcript_say("= %d %s", rc, err.text);
    if (!transcript_number(event, "keep", 0)) /* for the next life */
        say_files();
    psd_progress_destroy(&progress);
}

static void play_runs(const char *name)
{
    plays = true;
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .format = PSD_LOG_LOGFMT, .sink = say_line, .now_us = later });
    const char *difference = transcript_play(name, perform_run, NULL);
    cr_expect_null(difference, "%s", difference);
    plays = false;
}

Test(trainer, whole_runs_are_as_in_their_transcript) { play_runs("trainer"); }
Test(trainer, whole_runs_that_end_otherwise_are_as_in_their_transcript) { play_runs("trainer_ends"); }
