#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/system/safetensors.h"
#include "psd/worker.h"
#include "tests/support/cluster.h"

/* Workers on the server's machine are served through memory, which changes nothing but the time. */

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

Test(memory, with_net_local_off_nothing_travels_through_memory)
{
    cluster_start_servers(&cluster, 1, "--workers-min=1 --net-local=off");
    cluster_start_worker(&cluster, MODEL " --stop-steps=1000000");
    cluster_await_steps(&cluster, 50);
    cr_expect_eq(links(0), 0);
}

/* ---- arrays of the library ---- */

enum { FIRST = 300000, SECOND = 70001, MODEL_SIZE = FIRST + SECOND };

/* One array of the program's or of the library's. */
static float *floats(psd_worker_t *worker, bool of_library)
{
    float *array = of_library ? psd_worker_alloc(worker, MODEL_SIZE) : calloc(MODEL_SIZE, sizeof *array);
    cr_assert_not_null(array);
    return array;
}

static psd_worker_t *connect_to(unsigned server)
{
    psd_worker_t *worker = NULL;
    const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[server], .insecure = true };
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    return worker;
}

/* Two tensors that follow each other in one array; the gradient is overwritten as soon as that is allowed. */
static void train_here(const char *more, bool of_library, float out[MODEL_SIZE])
{
    static const uint64_t first = FIRST, second = SECOND;
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=adam(lr=0.01)%s", more);
    psd_worker_t *worker = connect_to(0);
    float *w = floats(worker, of_library), *g = floats(worker, of_library);
    for (size_t i = 0; i < MODEL_SIZE; i++)
        w[i] = (float)(i % 17) - 8;
    const psd_tensor_t tensors[] = { { "a", &first, 1, w }, { "b", &second, 1, w + FIRST } };
    cr_assert_eq(psd_worker_register(worker, tensors, 2), PSD_W_OK, "%s", psd_worker_error(worker));
    for (int step = 0; step < 12; step++) {
        psd_ticket_t ticket;
        for (size_t i = 0; i < MODEL_SIZE; i++)
            g[i] = w[i] * (float)(1 + (i + (size_t)step) % 5);
        cr_assert_eq(psd_worker_exchange(worker, (const float *const[]){ g, step % 4 ? g + FIRST : NULL }, 1, 0, &ticket),
                     PSD_W_OK);
        if (of_library)
            cr_expect_eq(psd_worker_free(worker, g), PSD_W_EINVAL, "the exchange is open");
        cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
        memset(g, 0x7f, MODEL_SIZE * sizeof *g);
    }
    memcpy(out, w, MODEL_SIZE * sizeof *w);
    cr_assert_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    if (!of_library) {
        free(w);
        free(g);
    }
    cluster_finish(&cluster, DONE_MS);
    cluster_close(&cluster);
    cluster_open(&cluster);
}

Test(memory, arrays_of_the_library_make_no_difference_but_in_time)
{
    static float private[MODEL_SIZE], of_library[MODEL_SIZE], by_sockets[MODEL_SIZE];
    train_here("", false, private);
    train_here("", true, of_library);
    train_here(" --net-local=off", true, by_sockets);
    cr_expect_eq(memcmp(private, of_library, sizeof private), 0);
    cr_expect_eq(memcmp(private, by_sockets, sizeof private), 0);
}

static void expect_refusal(psd_worker_t *worker, float *array, const char *words)
{
    cr_expect_eq(psd_worker_free(worker, array), PSD_W_EINVAL);
    cr_expect_not_null(strstr(psd_worker_error(worker), words), "\"%s\" lacks \"%s\"", psd_worker_error(worker), words);
}

Test(memory, an_array_is_freed_when_nothing_needs_it_and_with_the_handle_at_the_latest)
{
    static const uint64_t four = 4;
    static float other[4];
    psd_worker_t *worker = NULL;
    psd_ticket_t ticket;
    cr_expect_eq(psd_worker_connect(&worker, NULL), PSD_W_EINVAL);
    float *early = psd_worker_alloc(worker, 4);
    cr_assert_not_null(early, "a handle that has not connected gives arrays too");
    early[3] = 1;
    cr_expect_eq(psd_worker_free(worker, early), PSD_W_OK);
    cr_expect_eq(psd_worker_free(worker, NULL), PSD_W_OK);
    psd_worker_close(&worker);
    cluster_start_servers(&cluster, 1, "--workers-min=1 --optimizer=sgd(lr=1)");
    worker = connect_to(0);
    float *w = psd_worker_alloc(worker, 8), *g = psd_worker_alloc(worker, 4);
    const psd_tensor_t tensor = { "w", &four, 1, w + 4 };
    cr_assert_eq(psd_worker_register(worker, &tensor, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_assert_eq(psd_worker_exchange(worker, (const float *const[]){ g }, 1, 0, &ticket), PSD_W_OK);
    expect_refusal(worker, g, "an exchange or a pull is open");
    cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    expect_refusal(worker, w, "tensor w lies in this array");
    expect_refusal(worker, other, "was not allocated by psd_worker_alloc");
    expect_refusal(worker, g + 1, "was not allocated by psd_worker_alloc");
    cr_expect_eq(psd_worker_free(worker, g), PSD_W_OK);
    expect_refusal(worker, g, "was not allocated by psd_worker_alloc");
    cr_expect_null(psd_worker_alloc(worker, SIZE_MAX / 2));
    cr_expect_not_null(strstr(psd_worker_error(worker), "no memory for an array of"));
    psd_worker_close(&worker);
}
