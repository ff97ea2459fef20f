#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/cluster.h"

/* An operator's requests to a running job with psdctl, and their effects. */

enum { DONE_MS = 600000, ASK_MS = 300000 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(admin, .init = setup, .fini = teardown, .timeout = 600);

#define WORKER                                                                                                                     \
    "--model-kind=softmax --model-layers=784,10 --data-train=glyphs:3000 --data-test=glyphs:100 "                                  \
    "--data-batch=60 --eval-every=0 --stop-steps=1000000"

/* Run `psdctl WORDS --join=SERVER 0`; its output goes to `said`. Returns its exit code. */
static int ask(char said[512], const char *format, ...) __attribute__((format(printf, 2, 3)));

static int ask(char said[512], const char *format, ...)
{
    static unsigned n;
    char words[256], name[16];
    cluster_process_t psdctl = { 0 };
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    snprintf(name, sizeof name, "ask-%u", n++);
    cluster_spawn(&cluster, &psdctl, name, "psdctl", "%s --join=%s", words, cluster.data[0]);
    int code = cluster_wait(&psdctl, ASK_MS);
    char *out = cluster_printed(&cluster, &psdctl, code ? "err" : "out");
    snprintf(said, 512, "%s", out);
    free(out);
    return code;
}

static bool is_in_state(const char *state)
{
    char *text = cluster_get(&cluster, 0, "/status");
    json_t *status = text ? json_loads(text, 0, NULL) : NULL;
    const char *now = json_string_value(json_object_get(status, "state"));
    bool yes = now && !strcmp(now, state);
    json_decref(status);
    free(text);
    return yes;
}

static void await_state(const char *state)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS; !is_in_state(state); cluster_nap())
        if (cluster_now_ms() > end || cluster_wait(&cluster.server[0], 0) >= 0)
            cluster_give_up(&cluster, "the job does not become %s", state);
}

static double steps(void) { return cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}"); }

Test(admin, a_job_is_paused_saved_and_resumed)
{
    char said[512];
    cluster_start_servers(&cluster, 2, "--workers-min=2 --checkpoint-dir=%s/ckpt --checkpoint-every=0s", cluster.directory);
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 20);
    cr_assert_eq(ask(said, "pause"), 0, "%s", said);
    await_state("paused");
    unsigned long long clock, saved = 0;
    cr_assert_eq(sscanf(said, "paused after round %llu;", &clock), 1, "%s", said);
    cr_assert_eq(ask(said, "checkpoint save"), 0, "%s", said);
    cr_assert_eq(sscanf(said, "checkpoint %llu is safe", &saved), 1, "%s", said);
    cr_assert_eq(saved, clock, "what was paused is what was saved");
    cr_assert_eq(steps(), (double)clock, "and no step has been made since");
    cr_assert_eq(ask(said, "set optimizer.lr=0.25"), 0, "%s", said);
    cr_assert_eq(ask(said, "resume"), 0, "%s", said);
    cluster_await_steps(&cluster, clock + 20);
    cr_assert_eq(cluster_metric(&cluster, 0, "psd_learning_rate"), 0.25);
    cr_assert_eq(ask(said, "checkpoint save"), 0, "%s", said);
    cr_assert_eq(sscanf(said, "checkpoint %llu is safe", &saved), 1, "%s", said);
    cr_assert_gt(saved, clock, "beside training, too");
}

/* Send server 0 the signal for a last checkpoint, and wait until all processes have ended. */
static void stop_all(void)
{
    kill(cluster.server[0].pid, SIGTERM);
    for (unsigned s = 0; s < cluster.n_servers; s++)
        cr_assert_geq(cluster_wait(&cluster.server[s], DONE_MS), 0);
    for (unsigned w = 0; w < cluster.n_workers; w++)
        cr_assert_geq(cluster_wait(&cluster.worker[w], DONE_MS), 0);
    cluster.n_servers = cluster.n_workers = 0;
}

/* From the newest checkpoint, as `psdctl export` writes it: torch's only param group, and the number of steps. */
static json_t *exported_group(unsigned long long *steps_made)
{
    cluster_process_t psdctl = { 0 };
    cluster_spawn(&cluster, &psdctl, "export", "psdctl", "export --optimizer --force --to=%s %s/ckpt", cluster.directory,
                  cluster.directory);
    cr_assert_eq(cluster_wait(&psdctl, ASK_MS), 0);
    char *said = cluster_printed(&cluster, &psdctl, "out");
    const char *at = strstr(said, ", step ");
    cr_assert(at && sscanf(at, ", step %llu", steps_made) == 1, "%s", said);
    free(said);
    char *text = cluster_file(&cluster, "optimizer_param_groups.json");
    json_t *groups = text ? json_loads(text, 0, NULL) : NULL;
    json_t *group = json_incref(json_array_get(groups, 0));
    cr_assert(group, "%s", text);
    json_decref(groups);
    free(text);
    return group;
}

/* 0.25 is set while the job, which began with 0.5, trains under `schedule`; the rate is 0.25 * (from + slope * steps). */
static void set_a_rate_and_start_again(const char *schedule, double from, double slope)
{
    char said[512];
    unsigned long long made = 0;
    static const char job[] =
        "--workers-min=1 --checkpoint-dir=%s/ckpt --checkpoint-every=0s --optimizer=sgd(lr=0.5) --schedule=%s";
    cluster_start_servers(&cluster, 2, job, cluster.directory, schedule);
    cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 20);
    cr_assert_eq(ask(said, "set optimizer.lr=0.25"), 0, "%s", said);
    cluster_await_steps(&cluster, (uint64_t)steps() + 20);
    stop_all();

    json_t *group = exported_group(&made);
    const double rate = 0.25 * (from + slope * (double)made);
    cr_expect_gt(made, 40);
    cr_expect_float_eq(json_number_value(json_object_get(group, "lr")), rate, 1e-12, "after %llu steps", made);
    cr_expect_eq(json_number_value(json_object_get(group, "initial_lr")), 0.25);
    json_decref(group);
    cluster_process_t psdctl = { 0 };
    cluster_spawn(&cluster, &psdctl, "list", "psdctl", "checkpoint list %s/ckpt", cluster.directory);
    cr_assert_eq(cluster_wait(&psdctl, ASK_MS), 0);
    char *list = cluster_printed(&cluster, &psdctl, "out"), row[64];
    snprintf(row, sizeof row, " %10.4g  psd", rate);
    cr_expect_not_null(strstr(list, row), "%s is not in %s", row, list);
    free(list);

    /* No worker trains yet: the rate is that of the next step. */
    cluster_start_servers(&cluster, 2, job, cluster.directory, schedule);
    for (const uint64_t end = cluster_now_ms() + DONE_MS; /* until server 1 is there, too */
         !(fabs(cluster_metric(&cluster, 0, "psd_learning_rate") - rate) <= 1e-12) && cluster_now_ms() < end;)
        cluster_nap();
    char *text = cluster_get(&cluster, 0, "/status");
    json_t *status = text ? json_loads(text, 0, NULL) : NULL;
    const json_t *progress = json_object_get(status, "progress");
    cr_expect_eq(json_number_value(json_object_get(progress, "step")), (double)made, "%s", text);
    cr_expect_eq(json_number_value(json_object_get(progress, "samples")), 60.0 * (double)made, "%s", text);
    json_decref(status);
    free(text);
    cr_expect_float_eq(cluster_metric(&cluster, 0, "psd_learning_rate"), rate, 1e-12);
    cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 20); /* of this start */
    cr_assert_eq(ask(said, "pause"), 0, "%s", said);
    await_state("paused");
    cr_expect_float_eq(cluster_metric(&cluster, 0, "psd_learning_rate"), 0.25 * (from + slope * ((double)made + steps() - 1)),
                       1e-12, "of the last step");
}

Test(admin, a_rate_set_live_survives_a_stop_and_a_start) { set_a_rate_and_start_again("constant()", 1, 0); }

Test(admin, a_rate_set_live_survives_a_stop_and_a_start_under_a_schedule)
{
    set_a_rate_and_start_again("constant(warmup=1000000,warmup_start=0.5)", 0.5, 0.5e-6);
}

Test(admin, a_drained_worker_exits_with_0_and_the_others_continue)
{
    char said[512];
    cluster_start_servers(&cluster, 1, "--workers-min=2 --workers-want=3");
    for (int w = 0; w < 3; w++)
        cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 20);
    cr_assert_eq(ask(said, "drain 1"), 0, "%s", said);
    cr_assert_str_eq(said, "worker 1 has left; 2 are here\n");
    unsigned ended = 0; /* it is unknown which of the processes is worker 1 */
    for (const uint64_t end = cluster_now_ms() + DONE_MS; !ended && cluster_now_ms() < end; cluster_nap())
        for (unsigned w = 0; w < 3; w++)
            if (cluster_wait(&cluster.worker[w], 0) == 0) {
                char *line = cluster_printed(&cluster, &cluster.worker[w], "out");
                cr_expect_eq(strncmp(line, "drained run=", 12), 0, "%s", line);
                free(line);
                ended++;
            }
    cr_assert_eq(ended, 1, "one has ended, with 0");
    cluster_await_steps(&cluster, (uint64_t)steps() + 20);
}

Test(admin, rounds_that_wait_for_a_lost_worker_continue_when_another_takes_its_place)
{
    cluster_start_servers(&cluster, 1, "--workers-min=1 --workers-want=2 --workers-lost=wait --lease=2s");
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 5);
    kill(cluster.worker[0].pid, SIGKILL);
    await_state("degraded");
    const double then = steps();
    cluster_start_worker(&cluster, WORKER);
    await_state("training");
    cluster_await_steps(&cluster, (uint64_t)then + 5);
}

Test(admin, an_impossible_request_is_refused_in_a_sentence)
{
    char said[512];
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 1);
    cr_assert_eq(ask(said, "pause --job=other"), 76);
    cr_assert_str_eq(said, "psdctl pause: this is job psd, you ask for job other\n");
    cr_assert_eq(ask(said, "drain nobody"), 76);
    cr_assert_str_eq(said, "psdctl drain: there is no worker nobody; psdctl status lists the workers\n");
    cr_assert_eq(ask(said, "checkpoint save"), 76);
    cr_assert_eq(ask(said, "set optimizer.lr=fast"), 64);
    cr_assert_eq(ask(said, "pause --timeout=60 --join=tcp://127.0.0.1:1"), 0, "the later --join, ours, holds");
    snprintf(cluster.data[0], sizeof cluster.data[0], "tcp://127.0.0.1:1");
    cr_assert_eq(ask(said, "resume --timeout=0.3"), 69);
    cr_assert_str_eq(said, "psdctl resume: no server answers at tcp://127.0.0.1:1; check that server 0 is running and that this is "
                           "its address (--join)\n");
}

/* Wait until /status has these words. */
static void await_words(const char *words)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
        char *status = cluster_get(&cluster, 0, "/status");
        const bool has = status && strstr(status, words);
        free(status);
        if (has)
            return;
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "/status does not say %s", words);
    }
}

Test(admin, a_manifest_that_cannot_be_written_is_reported_and_retried)
{
    char said[512], path[200];
    unsigned long long clock = 0;
    cluster_start_servers(&cluster, 1, "--workers-min=1 --checkpoint-dir=%s/ckpt --checkpoint-every=0s", cluster.directory);
    cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 20);
    cr_assert_eq(ask(said, "pause"), 0, "%s", said);
    await_state("paused");
    cr_assert_eq(sscanf(said, "paused after round %llu;", &clock), 1, "%s", said);
    snprintf(path, sizeof path, "%s/ckpt/MANIFEST-%012llu.json", cluster.directory, clock);
    cr_assert_eq(mkdir(path, 0700), 0); /* at the place of the file */
    cr_assert_eq(ask(said, "checkpoint save"), 76);
    cr_expect_not_null(strstr(said, "the checkpoint could not be written"), "%s", said);
    char *log = cluster_printed(&cluster, &cluster.server[0], "err");
    const char *line = strstr(log, "id=checkpoint.failed");
    cr_expect(line && strstr(line, "where=manifest") && strstr(line, "the one before stays the newest"), "%s", log);
    free(log);
    await_words("\"failing\": true");
    await_words("checkpoints cannot be written; see the log");
    cr_assert_eq(rmdir(path), 0);
    cr_assert_eq(ask(said, "checkpoint save"), 0, "%s", said);
    unsigned long long saved = 0;
    cr_expect(sscanf(said, "checkpoint %llu is safe", &saved) == 1 && saved == clock, "%s", said);
}

/* Whether server 0 says this within a minute. */
static bool says(const char *words)
{
    bool said = false;
    for (const uint64_t end = cluster_now_ms() + 60000; !said && cluster_now_ms() < end; cluster_nap()) {
        char *text = cluster_printed(&cluster, &cluster.server[0], "err");
        said = strstr(text, words);
        free(text);
    }
    return said;
}

Test(admin, a_signal_to_save_where_nothing_can_be_saved_is_warned_of_and_the_server_stays)
{
    cluster_start_server(&cluster, 1, "--workers-min=1");
    kill(cluster.server[0].pid, SIGUSR1);
    cr_expect(says("checkpoint.unasked"));
    cr_expect(says("SIGUSR1 is for server 0 of a job with checkpoint.dir"));
    cr_expect_eq(cluster_wait(&cluster.server[0], 0), -1, "it still runs");
}
