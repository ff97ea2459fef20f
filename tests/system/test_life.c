#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cluster.h"

/* Who lives is not given up: however long the judge was away itself, and however slow the link is. */

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
                                       "--eval-every=0 --data-batch=60 --stop-steps=400");
    cluster_await_steps(&cluster, 20);
    stop_for(&cluster.server[which], 5 * LEASE_MS / 2);
    cluster_finish(&cluster, DONE_MS);
    cr_expect(!has_said(&cluster.server[0], "worker.lost"), "%s, server %u", mode, which);
}

Test(life, nobody_is_lost_because_server_0_stood_still) { stop_a_server("bsp", 0); }
Test(life, nobody_is_lost_because_server_0_stood_still_in_asp) { stop_a_server("asp", 0); }
Test(life, nobody_is_lost_because_another_server_stood_still) { stop_a_server("bsp", 1); }
