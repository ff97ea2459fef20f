#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cluster.h"

/* A live process is not given up, however long the judging process was suspended, and however slow the link is. */

enum { LEASE_MS = 1000, DONE_MS = 600000 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(life, .init = setup, .fini = teardown, .timeout = 3000);

static bool has_said(const cluster_process_t *process, const char *what)
{
    char *log = cluster_printed(&cluster, process, "err");
    const bool any = log && strstr(log, what);
    free(log);
    return any;
}

static void stop_for(const cluster_process_t *process, uint64_t ms)
{
    kill(process->pid, SIGSTOP);
    for (const uint64_t end = cluster_now_ms() + ms; cluster_now_ms() < end;)
        cluster_nap();
    kill(process->pid, SIGCONT);
}

static void stop_a_server(const char *mode, unsigned which)
{
    cluster_start_servers(&cluster, 2, "--sync-mode=%s --workers-min=2 --lease=%dms", mode, LEASE_MS);
    for (unsigned w = 0; w < 2; w++)
        cluster_start_worker(&cluster, "--model-kind=mlp --model-layers=784,32,10 --data-train=glyphs:1500 --data-test=glyphs:100 "
                                       "--eval-every=0 --data-batch=60 --stop-steps=5000");
    cluster_await_steps(&cluster, 20);
    stop_for(&cluster.server[which], 5 * LEASE_MS / 2);
    cluster_finish(&cluster, DONE_MS);
    cr_expect(!has_said(&cluster.server[0], "worker.lost"), "%s, server %u", mode, which);
}

Test(life, no_worker_is_lost_because_server_0_was_suspended) { stop_a_server("bsp", 0); }
Test(life, no_worker_is_lost_because_server_0_was_suspended_in_asp) { stop_a_server("asp", 0); }
Test(life, no_worker_is_lost_because_another_server_was_suspended) { stop_a_server("bsp", 1); }

/* A forwarder to server 0 that passes this many bytes per second in each direction; workers get its address. */
static void slow_down(cluster_process_t *proxy, unsigned bytes)
{
    char address[CLUSTER_TEXT] = "";
    cluster_spawn(&cluster, proxy, "proxy", "psd-tcp-proxy", "--to=%s --rate=%u", cluster.data[0] + strlen("tcp://"), bytes);
    for (const uint64_t end = cluster_now_ms() + DONE_MS; !*address && cluster_now_ms() < end; cluster_nap()) {
        char *said = cluster_printed(&cluster, proxy, "out");
        const char *at = said ? strstr(said, "listen=") : NULL;
        if (at && strchr(at, ' '))
            sscanf(at, "listen=%100s", address);
        free(said);
    }
    snprintf(cluster.data[0], sizeof cluster.data[0], "tcp://%s", address);
}

/* Of server 0's last line. */
static double bytes_of(const char *field)
{
    char *log = cluster_printed(&cluster, &cluster.server[0], "err");
    const char *at = log ? strstr(log, field) : NULL;
    const double n = at ? atof(at + strlen(field)) : 0;
    free(log);
    return n;
}

/* A model that takes several leases to pass, in each direction and in each use of the link: initial values, weights to begin
 * with, a push, weights again, slow weights. */
static void train_over_a_slow_link(const char *mode)
{
    enum { RATE = 10000000, STEPS = 2, PULLS = 2 /* of slow weights, at the end */ };
    const double model = 4.0 * (784 * 10000 + 10000 + 10000 * 10 + 10);
    cluster_process_t proxy = { 0 };
    cluster_start_servers(&cluster, 1, "--net-local=off --sync-mode=%s --lease=%dms --optimizer=lookahead(sgd(lr=0.01),k=5)", mode,
                          LEASE_MS);
    slow_down(&proxy, RATE);
    cluster_start_worker(&cluster,
                         "--model-kind=mlp --model-layers=784,10000,10 --data-train=glyphs:20 --data-test=glyphs:20 "
                         "--eval-every=0 --data-batch=2 --stop-steps=%d",
                         STEPS);
    cr_assert_eq(cluster_wait(&cluster.worker[0], DONE_MS), 0);
    cr_assert_eq(cluster_wait(&cluster.server[0], DONE_MS), 0);
    kill(proxy.pid, SIGKILL);
    cluster_wait(&proxy, DONE_MS);
    cr_expect(!has_said(&cluster.server[0], "worker.lost"));
    cr_expect(!has_said(&cluster.worker[0], "server.lost"));
    const double received = bytes_of("received_bytes="), sent = bytes_of("sent_bytes=");
    cr_expect_leq(received, 1.05 * model * (1 + STEPS), "%.0f bytes came for %.0f", received, model * (1 + STEPS));
    cr_expect_leq(sent, 1.05 * model * (1 + STEPS + PULLS), "%.0f bytes went for %.0f", sent, model * (1 + STEPS + PULLS));
    fprintf(stderr, "received %.3f, sent %.3f models\n", received / model, sent / model);
}

Test(life, a_large_model_passes_a_slow_link_each_chunk_once) { train_over_a_slow_link("bsp"); }
Test(life, a_large_model_passes_a_slow_link_each_chunk_once_in_asp) { train_over_a_slow_link("asp"); }
