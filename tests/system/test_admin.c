#include <criterion/criterion.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/cluster.h"

/* What an operator asks of a running job with psdctl, and what becomes of it. */

enum { DONE_MS = 600000, ASK_MS = 300000 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(admin, .init = setup, .fini = teardown, .timeout = 600);

#define WORKER                                                                                                                     \
    "--model-kind=softmax --model-layers=784,10 --data-train=glyphs:3000 --data-test=glyphs:100 "                                  \
    "--data-batch=60 --eval-every=0 --stop-steps=1000000"

/* Run `psdctl WORDS --join=SERVER 0`; what it printed goes to `said`. Its exit code. */
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
        if (cluster_now_ms() > end)
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

Test(admin, a_drained_worker_ends_well_and_the_others_go_on)
{
    char said[512];
    cluster_start_servers(&cluster, 1, "--workers-min=2 --workers-want=3");
    for (int w = 0; w < 3; w++)
        cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 20);
    cr_assert_eq(ask(said, "drain 1"), 0, "%s", said);
    cr_assert_str_eq(said, "worker 1 has left; 2 are here\n");
    unsigned ended = 0; /* which of the processes is worker 1 is not said */
    for (const uint64_t end = cluster_now_ms() + DONE_MS; !ended && cluster_now_ms() < end; cluster_nap())
        for (unsigned w = 0; w < 3; w++)
            ended += cluster_wait(&cluster.worker[w], 0) == 0;
    cr_assert_eq(ended, 1, "one has ended, with 0");
    cluster_await_steps(&cluster, (uint64_t)steps() + 20);
}

Test(admin, where_rounds_wait_for_a_lost_worker_they_go_on_when_another_has_taken_its_place)
{
    cluster_start_servers(&cluster, 1, "--workers-min=1 --workers-want=2 --workers-lost=wait --lease=300ms");
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

Test(admin, what_cannot_be_granted_is_refused_in_a_sentence)
{
    char said[512];
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, WORKER);
    cluster_await_steps(&cluster, 1);
    cr_assert_eq(ask(said, "pause --job=other"), 76);
    cr_assert_str_eq(said, "psdctl pause: this is job psd, you ask for job other\n");
    cr_assert_eq(ask(said, "drain nobody"), 76);
    cr_assert_str_eq(said, "psdctl drain: no worker nobody is here; psdctl status lists those that are\n");
    cr_assert_eq(ask(said, "checkpoint save"), 76);
    cr_assert_eq(ask(said, "set optimizer.lr=fast"), 64);
    cr_assert_eq(ask(said, "pause --timeout=60 --join=tcp://127.0.0.1:1"), 0, "the later --join, ours, holds");
    snprintf(cluster.data[0], sizeof cluster.data[0], "tcp://127.0.0.1:1");
    cr_assert_eq(ask(said, "resume --timeout=0.3"), 69);
    cr_assert_str_eq(said, "psdctl resume: nobody answers at tcp://127.0.0.1:1; is server 0 running, and "
                           "this its address (--join)?\n");
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

Test(admin, a_manifest_that_cannot_be_written_is_told_and_mended_when_it_can)
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
    cr_assert_eq(mkdir(path, 0700), 0); /* where it would be */
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
