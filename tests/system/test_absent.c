#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/cluster.h"

/* A job with a missing process: which processes report it, where, and how all of them end. Each process judges by silence, so these
 * tests do not depend on the machine's speed, only on a lost process staying lost. */

enum { DONE_MS = 60000 };

static cluster_t cluster;
static cluster_process_t ctl;

static void setup(void)
{
    cluster_open(&cluster);
    ctl.pid = 0;
}

static void teardown(void)
{
    if (ctl.pid)
        kill(ctl.pid, SIGKILL);
    cluster_wait(&ctl, DONE_MS);
    cluster_close(&cluster);
}
TestSuite(absent, .init = setup, .fini = teardown, .timeout = 200);

#define TINY "--data-train=glyphs:200 --data-test=glyphs:50 --data-batch=20 --model-kind=softmax --stop-epochs=0 "
#define LONG TINY "--stop-steps=100000000 "

static void expect_end(cluster_process_t *process, int code, const char *one, const char *other)
{
    cr_expect_eq(cluster_wait(process, DONE_MS), code, "%s ended with %d instead of %d", process->name, process->code, code);
    char *said = cluster_printed(&cluster, process, "err");
    cr_expect(strstr(said, one) && strstr(said, other), "%s lacks \"%s\" or \"%s\" in: %s", process->name, one, other, said);
    free(said);
}

/* Wait until a server's answer at `path` contains these words. */
static void await(unsigned server, const char *path, const char *words)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
        char *body = cluster_get(&cluster, server, path);
        const bool found = body && strstr(body, words);
        if (!found && cluster_now_ms() > end)
            cluster_give_up(&cluster, "%s of server %u lacks \"%s\": %s", path, server, words, body ? body : "no answer");
        free(body);
        if (found)
            return;
    }
}

static void kill_server(unsigned s)
{
    kill(cluster.server[s].pid, SIGKILL);
    cluster_wait(&cluster.server[s], DONE_MS);
}

static void expect_status(unsigned server, int code, const char *words)
{
    cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "status %s", cluster.status[server]);
    cr_expect_eq(cluster_wait(&ctl, DONE_MS), code);
    char *out = cluster_printed(&cluster, &ctl, "out");
    cr_expect(strstr(out, words), "psdctl status lacks \"%s\": %s", words, out);
    free(out);
}

Test(absent, a_dead_server_0_is_named_by_the_others_and_all_end_with_69)
{
    cluster_start_servers(&cluster, 2, "--lease=1s --join-timeout=10s");
    cluster_start_worker(&cluster, LONG "--join-timeout=10s");
    cluster_await_steps(&cluster, 3);
    char who[160];
    snprintf(who, sizeof who, "server 0 at %s", cluster.data[0]);
    kill_server(0);
    await(1, "/readyz?verbose", who);
    await(1, "/status", "\"state\": \"degraded\"");
    await(1, "/status", who);
    cr_expect_eq(cluster_metric(&cluster, 1, "psd_servers_lost"), 1);
    expect_status(1, 75, who);
    expect_end(&cluster.server[1], 69, "id=server.lost", who);
    expect_end(&cluster.worker[0], 69, "id=server.lost", who);
}

Test(absent, a_dead_server_1_is_named_by_server_0_and_all_end_with_69_after_a_last_word)
{
    cluster_start_servers(&cluster, 2, "--lease=1s --join-timeout=10s --sync-mode=asp --sync-lr-rule=none");
    cluster_start_worker(&cluster, LONG "--join-timeout=60s");
    cluster_await_steps(&cluster, 3);
    char who[160];
    snprintf(who, sizeof who, "server 1 at %s", cluster.data[1]);
    kill_server(1);
    await(0, "/status", "\"state\": \"degraded\"");
    await(0, "/readyz?verbose", who);
    cr_expect_eq(cluster_metric(&cluster, 0, "psd_servers_lost"), 1);
    expect_status(0, 75, who);
    expect_end(&cluster.server[0], 69, "id=job.waiting", who);
    expect_end(&cluster.worker[0], 69, "(join_timeout)", who); /* told by server 0: its own patience is longer */
}

Test(absent, the_same_command_takes_a_dead_servers_place_and_the_job_continues)
{
    cluster_start_servers(&cluster, 3, "--lease=1s --checkpoint-dir=%s/ck --checkpoint-every-steps=20", cluster.directory);
    cluster_start_worker(&cluster, TINY "--stop-steps=4000");
    cluster_await_steps(&cluster, 25);
    kill_server(1);
    cluster_spawn(&cluster, &cluster.server[1], "server-1b", "psd",
                  "--servers=3 --lease=1s --checkpoint-dir=%s/ck --checkpoint-every-steps=20 --listen=tcp://127.0.0.1:0 "
                  "--status-listen=none --join=%s",
                  cluster.directory, cluster.data[0]);
    cluster_finish(&cluster, 2 * DONE_MS);
    char *said = cluster_printed(&cluster, &cluster.server[1], "out");
    cr_expect(strstr(said, "psd ready shard=1/3"), "%s", said);
    free(said);
}

Test(absent, at_the_old_address_the_same_command_need_not_wait_for_the_lease)
{
    char ports[128];
    cluster_start_servers(&cluster, 2, "--lease=50s --checkpoint-dir=%s/ck --checkpoint-every-steps=20", cluster.directory);
    snprintf(ports, sizeof ports, "%s", cluster.data[1]);
    cluster_start_worker(&cluster, TINY "--stop-steps=4000");
    cluster_await_steps(&cluster, 25);
    kill_server(1);
    const uint64_t begun = cluster_now_ms();
    cluster_spawn(
        &cluster, &cluster.server[1], "server-1b", "psd",
        "--servers=2 --lease=50s --checkpoint-dir=%s/ck --checkpoint-every-steps=20 --listen=%s --status-listen=none --join=%s",
        cluster.directory, ports, cluster.data[0]);
    for (bool ready = false; !ready; cluster_nap()) {
        char *said = cluster_printed(&cluster, &cluster.server[1], "out");
        ready = strstr(said, "psd ready shard=1/2");
        free(said);
        if (cluster_now_ms() > begun + 40000)
            cluster_give_up(&cluster, "the server had to wait for the lease");
    }
    cluster_finish(&cluster, 2 * DONE_MS);
}

Test(absent, with_as_many_as_workers_min_training_does_not_wait_for_workers_want)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2 --workers-want=3");
    cluster_start_worker(&cluster, TINY "--stop-steps=20");
    cluster_start_worker(&cluster, TINY "--stop-steps=20");
    cluster_finish(&cluster, DONE_MS);
}

Test(absent, too_few_workers_are_counted_and_all_processes_end_with_69)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2 --join-timeout=10s");
    cluster_start_worker(&cluster, LONG "--join-timeout=60s");
    await(0, "/status", "1 of 2 workers have registered");
    await(0, "/readyz?verbose", "1 of 2 workers have registered");
    expect_end(&cluster.server[0], 69, "1 of 2 workers have registered", "(join_timeout)");
    expect_end(&cluster.worker[0], 69, "worker.waiting for=\"more workers: 1 of 2 workers have registered", "(join_timeout)");
}

Test(absent, a_server_that_no_worker_joins_ends_with_69)
{
    cluster_start_server(&cluster, 2, "--join-timeout=2s");
    expect_end(&cluster.server[0], 69, "server 1 of 2, which has not joined yet", "0 of 1 workers have registered");
}

Test(absent, a_worker_that_is_needed_and_lost_is_named_and_ends_the_job)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2 --workers-lost=wait --lease=1s --join-timeout=10s");
    cluster_start_worker(&cluster, LONG "--worker-name=first");
    cluster_start_worker(&cluster, LONG "--worker-name=second");
    cluster_await_steps(&cluster, 3);
    kill(cluster.worker[1].pid, SIGKILL);
    await(0, "/status", "\"state\": \"degraded\"");
    await(0, "/readyz?verbose", "(second)");
    cr_expect_eq(cluster_metric(&cluster, 0, "psd_workers_lost_total"), 1);
    cr_expect_eq(cluster_metric(&cluster, 0, "psd_workers_missing"), 1);
    expect_end(&cluster.server[0], 69, "1 of 2 workers are here", "(second)");
    expect_end(&cluster.worker[0], 69, "gave up after", "(second)");
}

Test(absent, all_servers_and_workers_end_with_the_words_of_server_0)
{
    cluster_start_server(&cluster, 2, "--workers-min=2 --lease=1s --join-timeout=5s");
    cluster_start_server(&cluster, 2, "--workers-min=2 --lease=1s --join-timeout=100s");
    cluster_start_worker(&cluster, LONG "--worker-name=first --join-timeout=100s");
    cluster_start_worker(&cluster, LONG "--worker-name=second --join-timeout=100s");
    cluster_await_steps(&cluster, 3);
    kill(cluster.worker[1].pid, SIGKILL);
    expect_end(&cluster.server[0], 69, "gave up after 5 s (join_timeout)", "(second), silent for");
    expect_end(&cluster.server[1], 69, "gave up after 5 s (join_timeout)", "(second), silent for");
    expect_end(&cluster.worker[0], 69, "gave up after 5 s (join_timeout)", "(second), silent for");
}

Test(absent, every_server_shows_the_state_of_the_job)
{
    cluster_start_servers(&cluster, 2, "--workers-min=2 --lease=1s --join-timeout=0s");
    await(1, "/status", "\"state\": \"waiting\"");
    await(1, "/readyz?verbose", "[-]missing more workers: 0 of 2 workers have registered");
    cluster_start_worker(&cluster, LONG "--worker-name=first --join-timeout=0s");
    cluster_start_worker(&cluster, LONG "--worker-name=second --join-timeout=0s");
    cluster_await_steps(&cluster, 3);
    await(1, "/status", "\"state\": \"training\"");
    await(1, "/readyz?verbose", "readyz check passed");
    cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "pause --join=%s", cluster.data[0]);
    cr_expect_eq(cluster_wait(&ctl, DONE_MS), 0);
    await(1, "/status", "\"state\": \"paused\"");
    cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "resume --join=%s", cluster.data[0]);
    cr_expect_eq(cluster_wait(&ctl, DONE_MS), 0);
    kill(cluster.worker[1].pid, SIGKILL);
    await(1, "/status", "\"state\": \"degraded\"");
    await(1, "/readyz?verbose", "(second), silent for");
    await(1, "/readyz?verbose", "readyz check failed");
    await(1, "/metrics", "psd_job_state{state=\"degraded\"} 1");
    expect_status(1, 75, "(second), silent for");
}

Test(absent, a_worker_that_gives_up_by_itself_leaves_and_is_not_lost)
{
    cluster_start_servers(&cluster, 2, "--lease=1s --join-timeout=8s");
    cluster_start_worker(&cluster, LONG "--worker-name=first --join-timeout=3s");
    cluster_await_steps(&cluster, 3);
    kill_server(1);
    expect_end(&cluster.worker[0], 69, "gave up waiting for server 1", "(join_timeout)");
    expect_end(&cluster.server[0], 69, "worker=0 name=first finished=false", "waiting for server 1 at");
    char *said = cluster_printed(&cluster, &cluster.server[0], "err");
    cr_expect_null(strstr(said, "id=worker.lost"), "%s", said);
    free(said);
}

Test(absent, a_lost_worker_is_waited_for_also_when_the_other_has_finished_which_ends_well)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2 --workers-lost=wait --lease=1s --join-timeout=5s --checkpoint-dir=%s/ck",
                          cluster.directory);
    cluster_start_worker(&cluster, TINY "--stop-steps=20 --join-timeout=4s");
    cluster_start_worker(&cluster, LONG "--worker-name=second");
    cluster_await_steps(&cluster, 100);
    cr_expect_eq(cluster_wait(&cluster.worker[0], 0), -1, "its work may be needed until the last checkpoint");
    kill(cluster.worker[1].pid, SIGKILL);
    await(0, "/status", "\"state\": \"degraded\"");
    expect_end(&cluster.server[0], 69, "1 has finished, and 0 are here", "(second), silent for");
    cr_expect_eq(cluster_wait(&cluster.worker[0], DONE_MS), 0);
}

Test(absent, a_job_with_lost_wait_waits_and_continues_when_the_lost_worker_is_back)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2 --workers-lost=wait --lease=500ms --join-timeout=0s");
    cluster_start_worker(&cluster, TINY "--stop-steps=2000 --join-timeout=0s");
    cluster_start_worker(&cluster, TINY "--stop-steps=2000 --join-timeout=0s");
    cluster_await_steps(&cluster, 3);
    kill(cluster.worker[1].pid, SIGKILL);
    cluster_wait(&cluster.worker[1], DONE_MS);
    await(0, "/status", "\"state\": \"degraded\"");
    cluster_start_worker_at(&cluster, 1, TINY "--stop-steps=2000 --join-timeout=0s");
    cluster_finish(&cluster, 2 * DONE_MS);
}

Test(absent, a_directory_that_cannot_hold_checkpoints_ends_psd_with_74)
{
    static const char *const bad[] = { "file", "file/below", "dangling" };
    char path[128], target[128];
    snprintf(path, sizeof path, "%s/file", cluster.directory);
    fclose(fopen(path, "w"));
    snprintf(path, sizeof path, "%s/dangling", cluster.directory);
    snprintf(target, sizeof target, "%s/nowhere/at/all", cluster.directory);
    cr_assert_eq(symlink(target, path), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(path, sizeof path, "%s/%s", cluster.directory, bad[i]);
        cluster_spawn(&cluster, &ctl, "psd", "psd", "--listen=tcp://127.0.0.1:0 --status-listen=none --checkpoint-dir=%s", path);
        expect_end(&ctl, 74, "checkpoint.dir", path);
        cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "run " TINY "--stop-steps=2 --checkpoint-dir=%s --run-dir=%s/run", path,
                      cluster.directory);
        expect_end(&ctl, 74, "checkpoint.dir", path);
        cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "config check " TINY "--stop-steps=2 --checkpoint-dir=%s", path);
        expect_end(&ctl, 74, "checkpoint.dir", path);
        cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "doctor " TINY "--stop-steps=2 --checkpoint-dir=%s", path);
        cr_expect_neq(cluster_wait(&ctl, DONE_MS), 0);
    }
}

Test(absent, a_hangup_stops_a_run_as_sigterm_does)
{
    for (int times = 1; times <= 2; times++) {
        char name[32];
        snprintf(name, sizeof name, "run-%d/summary.json", times);
        snprintf(name, sizeof name, "psdctl-%d", times); /* so that no output of the run before is read */
        cluster_spawn(&cluster, &ctl, name, "psdctl",
                      "run " LONG "--listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --progress=log --progress-interval=10ms "
                      "--run-dir=%s/run-%d --checkpoint-dir=%s/ck-%d --log-level=info",
                      cluster.directory, times, cluster.directory, times);
        for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
            char *said = cluster_printed(&cluster, &ctl, "err");
            const bool trains = strstr(said, "step=") != NULL;
            free(said);
            if (trains)
                break;
            if (cluster_now_ms() > end)
                cluster_give_up(&cluster, "psdctl run does not train");
        }
        for (int i = 0; i < times; i++) /* a terminal sends one, and so does its shell */
            kill(ctl.pid, SIGHUP);
        cr_expect_eq(cluster_wait(&ctl, DONE_MS), 75);
        char *log = cluster_printed(&cluster, &ctl, "err");
        cr_expect(strstr(log, "stopping after this round"), "%s", log);
        free(log);
        snprintf(name, sizeof name, "run-%d/logs/server-0.log", times);
        log = cluster_file(&cluster, name);
        cr_expect(log && strstr(log, "id=checkpoint.committed"), "%s", log ? log : "no log of server 0");
        free(log);
    }
}
