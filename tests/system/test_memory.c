#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/system/safetensors.h"
#include "tests/support/cluster.h"

/* Workers of the server's machine are served through memory, and it makes no difference but in time. */

enum { DONE_MS = 300000, STEPS = 400 };
#define MODEL                                                                                                                      \
    "--model-kind=mlp --model-layers=784,32,10 --data-train=glyphs:1500 --data-test=glyphs:100 --data-batch=60 --eval-every=0"

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(memory, .init = setup, .fini = teardown, .timeout = 600);

static double links(unsigned server)
{
    char series[64];
    snprintf(series, sizeof series, "psd_memory_links{shard=\"%u\"}", server);
    return cluster_metric(&cluster, server, series);
}

static void start(const char *more)
{
    cluster_start_servers(&cluster, 2, "--workers-min=2 --optimizer=adam(lr=0.002)%s", more);
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, MODEL " --stop-steps=%d", STEPS);
}

static void await_links(unsigned server, double n)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS; links(server) != n; cluster_nap())
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "server %u has %g links through memory, %g wanted", server, links(server), n);
}

/* Of the weights at the end. */
static void train(const char *more, char sha256[PSD_SHA256_TEXT])
{
    start(more);
    cluster_finish(&cluster, DONE_MS);
    json_t *summary = cluster_summary(&cluster, 0);
    snprintf(sha256, PSD_SHA256_TEXT, "%s", json_string_value(json_object_get(summary, "sha256")));
    json_decref(summary);
    cluster_close(&cluster);
    cluster_open(&cluster);
}

Test(memory, workers_of_this_machine_have_links_and_without_them_the_weights_are_the_same)
{
    char by_memory[PSD_SHA256_TEXT], by_sockets[PSD_SHA256_TEXT];
    train("", by_memory);
    train(" --net-local=off", by_sockets);
    cr_expect_str_eq(by_memory, by_sockets);
}

Test(memory, links_are_counted_and_end_with_their_worker)
{
    cluster_start_servers(&cluster, 2, "--workers-min=1 --workers-want=2 --lease=500ms");
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, MODEL " --stop-steps=1000000");
    await_links(0, 2);
    await_links(1, 2);
    kill(cluster.worker[1].pid, SIGKILL);
    await_links(0, 1);
    await_links(1, 1);
    cluster_await_steps(&cluster, (uint64_t)cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}") + 20);
}

Test(memory, with_net_local_off_there_is_none)
{
    cluster_start_servers(&cluster, 1, "--workers-min=1 --net-local=off");
    cluster_start_worker(&cluster, MODEL " --stop-steps=1000000");
    cluster_await_steps(&cluster, 50);
    cr_expect_eq(links(0), 0);
}
