#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/cluster.h"

/* No worker waits for another: each push is a separate step. */

enum { DONE_MS = 600000 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(asp, .init = setup, .fini = teardown, .timeout = 600);

#define MODEL                                                                                                                      \
    "--model-kind=mlp --model-layers=784,32,10 --data-train=glyphs:6000 --data-test=glyphs:1000 "                                  \
    "--data-batch=64"

/* Server 0's metrics of staleness while the job runs: the last text before the end. */
static char *last_metrics(void)
{
    char *last = NULL;
    for (const uint64_t end = cluster_now_ms() + DONE_MS; cluster_wait(&cluster.worker[0], 0) < 0; cluster_nap()) {
        char *text = cluster_get(&cluster, 0, "/metrics");
        if (text && strstr(text, "\npsd_staleness_steps_count ")) {
            free(last);
            last = text;
        } else {
            free(text);
        }
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "the job does not end");
    }
    return last;
}

static double number_after(const char *text, const char *words)
{
    const char *at = strstr(text, words);
    cr_assert_not_null(at, "/metrics lack %s", words);
    return strtod(at + strlen(words), NULL);
}

Test(asp, two_workers_train_on_two_servers_and_staleness_is_measured)
{
    cluster_start_servers(&cluster, 2, "--workers-min=2 --sync-mode=asp --optimizer=adam(lr=0.002)");
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, MODEL " --eval-every=0 --stop-epochs=40"); /* long enough to be measured */
    char *metrics = last_metrics();
    cluster_finish(&cluster, DONE_MS);
    json_t *summary = cluster_summary(&cluster, 0);
    const double accuracy = json_number_value(json_object_get(summary, "last_metric"));
    json_decref(summary);
    cr_expect_gt(accuracy, 0.85, "accuracy %.3f", accuracy);
    cr_assert_not_null(metrics);
    const double count = number_after(metrics, "\npsd_staleness_steps_count ");
    const double sum = number_after(metrics, "\npsd_staleness_steps_sum ");
    const double steps = number_after(metrics, "\npsd_steps_total{shard=\"0\"} ");
    cr_expect_gt(count, 0);
    /* One may be in progress. */
    cr_expect(count == steps || count == steps + 1, "%.0f staleness values of %.0f steps", count, steps);
    cr_expect_eq(number_after(metrics, "psd_staleness_steps_bucket{le=\"+Inf\"} "), count);
    /* A worker's intervals from pull to push do not overlap, so that each step of the other makes at most one push older: the mean
     * is about one step however they are scheduled, and 0 when they took turns. The next test shows that it is measured above 0,
     * because its refusals depend on it. */
    cr_expect(isfinite(sum) && sum >= 0 && sum / count < 16, "mean staleness %g", sum / count);
    free(metrics);
}

Test(asp, a_gradient_that_is_too_old_is_refused_and_counted)
{
    /* A worker that is stopped between its pull and its push has an old gradient when it continues, because the other has made
     * steps. The place where it stops is random, so the test repeats until it was there. */
    enum { STEPS = 3000, OLD = 20 };
    cluster_start_servers(&cluster, 1, "--workers-min=2 --sync-mode=asp --sync-max-staleness=1 --optimizer=sgd(lr=0.05)");
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, MODEL " --eval-every=0 --stop-steps=%d", STEPS);
    const pid_t slow = cluster.worker[0].pid;
    cluster_await_steps(&cluster, 1);
    double refused = 0;
    while (refused < 1 && !kill(slow, SIGSTOP)) {
        cluster_await_steps(&cluster, (uint64_t)cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}") + OLD);
        kill(slow, SIGCONT);
        refused = cluster_metric(&cluster, 0, "psd_messages_rejected_total{shard=\"0\",reason=\"stale\"}");
    }
    cr_expect_geq(refused, 1);
    cluster_finish(&cluster, DONE_MS);
}

#ifdef PSD_FAILPOINTS
/* Steps of the newest checkpoint, as `psdctl checkpoint list` has them. */
static unsigned long long saved_steps(void)
{
    cluster_process_t list = { 0 };
    unsigned long long clock, steps = 0;
    cluster_spawn(&cluster, &list, "list", "psdctl", "checkpoint list %s/ck", cluster.directory);
    cr_assert_eq(cluster_wait(&list, DONE_MS), 0);
    char *out = cluster_printed(&cluster, &list, "out"), *row = strchr(out, '\n');
    cr_assert_eq(sscanf(row ? row : "", "%llu %llu", &clock, &steps), 2, "%s", out);
    free(out);
    return steps;
}

Test(asp, the_job_continues_from_its_newest_checkpoint_when_a_server_dies_and_its_last_weights_are_saved)
{
    enum { WORKERS = 2, STEPS = 6000 };
    cluster_process_t job = { 0 };
    char once[128];
    snprintf(once, sizeof once, "%s/fired", cluster.directory);
    setenv("FAILPOINT", "srv.sent.SHARD_STATE:kill@30", 1); /* server 1: server 0 sends to itself without a socket */
    setenv("FAILPOINT_ONCE", once, 1);
    cluster_spawn(&cluster, &job, "job", "psdctl",
                  "run --sync-mode=asp --servers=2 --workers-min=%d --lease=500ms --status-listen=none --job=asp-%d "
                  "--optimizer=sgd(lr=0.05) --checkpoint-dir=%s/ck --checkpoint-every=50ms --run-dir=%s/run "
                  "--stop-steps=%d --eval-every=0 " MODEL,
                  WORKERS, (int)getpid(), cluster.directory, cluster.directory, STEPS);
    unsetenv("FAILPOINT");
    unsetenv("FAILPOINT_ONCE");
    cr_assert_eq(cluster_wait(&job, DONE_MS), 0);
    cr_assert_eq(access(once, F_OK), 0, "a server was killed");
    char *err = cluster_printed(&cluster, &job, "err");
    cr_assert_not_null(strstr(err, "run.restart role=\"server "), "%s", err);
    cr_assert_not_null(strstr(err, "checkpoint=yes"), "not from the beginning: %s", err);
    /* Lost pushes were repeated, each once. A push in flight while the checkpoint was made may be in one file and not in the other,
     * and is not repeated: at most one per worker, because the job went back once. */
    const unsigned long long steps = saved_steps();
    cr_assert(steps <= WORKERS * STEPS && steps + WORKERS >= WORKERS * STEPS, "%llu steps of %d:\n%s", steps, WORKERS * STEPS, err);
    free(err);
}
#endif
