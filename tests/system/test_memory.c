#include <criterion/criterion.h>
#include <pthread.h>
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
typedef float *alloc_fn(psd_worker_t *worker, size_t n);
static float *floats(psd_worker_t *worker, alloc_fn *alloc)
{
    float *array = alloc ? alloc(worker, MODEL_SIZE) : calloc(MODEL_SIZE, sizeof *array);
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
static void train_here(const char *more, alloc_fn *of_weights, alloc_fn *of_gradients, float out[MODEL_SIZE])
{
    static const uint64_t first = FIRST, second = SECOND;
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=adam(lr=0.01)%s", more);
    psd_worker_t *worker = connect_to(0);
    float *w = floats(worker, of_weights), *g = floats(worker, of_gradients);
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
        if (of_gradients)
            cr_expect_eq(psd_worker_free(worker, g), PSD_W_EINVAL, "the exchange is open");
        cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
        memset(g, 0x7f, MODEL_SIZE * sizeof *g);
    }
    memcpy(out, w, MODEL_SIZE * sizeof *w);
    cr_assert_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    if (!of_weights)
        free(w);
    if (!of_gradients)
        free(g);
    cluster_finish(&cluster, DONE_MS);
    cluster_close(&cluster);
    cluster_open(&cluster);
}

Test(memory, arrays_of_the_library_make_no_difference_but_in_time)
{
    static float private[MODEL_SIZE], of_library[MODEL_SIZE], only_read[MODEL_SIZE], by_sockets[MODEL_SIZE];
    train_here("", NULL, NULL, private);
    train_here("", psd_worker_alloc, psd_worker_alloc, of_library);
    train_here("", psd_worker_alloc_weights, psd_worker_alloc, only_read);
    train_here(" --net-local=off", psd_worker_alloc_weights, psd_worker_alloc, by_sockets);
    cr_expect_eq(memcmp(private, of_library, sizeof private), 0);
    cr_expect_eq(memcmp(private, only_read, sizeof private), 0);
    cr_expect_eq(memcmp(private, by_sockets, sizeof private), 0);
}

/* ---- weights that a program only reads ---- */

/* A worker with such weights, all 1, and a gradient that is all 1. */
typedef struct reader {
    psd_worker_t *worker;
    float *w, *g;
} reader_t;

static void join_reader(reader_t *self)
{
    static const uint64_t n = MODEL_SIZE;
    self->worker = connect_to(0);
    self->w = floats(self->worker, psd_worker_alloc_weights);
    self->g = floats(self->worker, psd_worker_alloc);
    for (size_t i = 0; i < MODEL_SIZE; i++)
        self->w[i] = self->g[i] = 1;
    cr_assert_eq(psd_worker_register(self->worker, &(psd_tensor_t){ "w", &n, 1, self->w }, 1), PSD_W_OK, "%s",
                 psd_worker_error(self->worker));
}

static psd_ticket_t push_ones(reader_t *self)
{
    psd_ticket_t ticket;
    cr_assert_eq(psd_worker_exchange(self->worker, (const float *const[]){ self->g }, 1, 0, &ticket), PSD_W_OK, "%s",
                 psd_worker_error(self->worker));
    return ticket;
}

static void expect_all(const reader_t *self, float value)
{
    for (size_t i = 0; i < MODEL_SIZE; i++)
        cr_assert_eq(self->w[i], value, "element %zu is %g, not %g", i, (double)self->w[i], (double)value);
}

/* The weights' pages that are a server's memory, which is named so in the list of a process's memory. */
static bool shows_a_server(const reader_t *self)
{
    char line[512];
    bool shows = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && (uintptr_t)self->w >= from && (uintptr_t)self->w < to)
            shows = strstr(line, "memfd:psd") && strstr(line, " r--s ");
    }
    fclose(maps);
    return shows;
}

static void *join_in_thread(void *reader)
{
    join_reader(reader);
    return NULL;
}

/* The second joins while the first waits for it. */
static void join_two(reader_t reader[2])
{
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, join_in_thread, &reader[1]), 0);
    join_reader(&reader[0]);
    cr_assert_eq(pthread_join(thread, NULL), 0);
}

static int finish(reader_t *self, psd_ticket_t ticket) { return psd_worker_wait(self->worker, ticket, DONE_MS); }

Test(memory, weights_do_not_change_under_a_worker_that_is_late_while_the_others_go_on)
{
    reader_t reader[2];
    cluster_start_servers(&cluster, 1,
                          "--workers-min=1 --workers-want=2 --optimizer=sgd(lr=1) --round-timeout=2s --workers-lost=drop");
    join_two(reader);
    psd_ticket_t ticket[2] = { push_ones(&reader[0]), push_ones(&reader[1]) };
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(finish(&reader[i], ticket[i]), PSD_W_OK);
        expect_all(&reader[i], 0);
        cr_expect(shows_a_server(&reader[i]), "nothing was copied");
    }
    for (int step = 1; step <= 20; step++) { /* the first of these gives reader 0 up */
        cr_assert_eq(finish(&reader[1], push_ones(&reader[1])), PSD_W_OK);
        expect_all(&reader[0], 0);
        expect_all(&reader[1], (float)-step);
    }
    /* It may have heard of that already, or hears of it while it waits. */
    int rc = psd_worker_exchange(reader[0].worker, (const float *const[]){ reader[0].g }, 1, 0, &ticket[0]);
    cr_expect_eq(rc ? rc : finish(&reader[0], ticket[0]), PSD_W_EFENCED);
    psd_worker_close(&reader[0].worker);
    cr_assert_eq(psd_worker_leave(reader[1].worker, 1, DONE_MS), PSD_W_OK);
    expect_all(&reader[1], -20);
    psd_worker_close(&reader[1].worker);
}

Test(memory, gradients_that_come_together_are_added_up_while_they_are_taken_in)
{
    reader_t reader[2];
    cluster_start_servers(&cluster, 1, "--workers-min=2 --optimizer=sgd(lr=1)");
    join_two(reader);
    for (size_t i = 0; i < MODEL_SIZE; i++)
        reader[1].g[i] = 3;
    const uint64_t end = cluster_now_ms() + DONE_MS;
    for (int step = 1; cluster_metric(&cluster, 0, "psd_pushes_folded_total{shard=\"0\"}") < 4; step++) {
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "none after %d steps", step);
        psd_ticket_t ticket[2] = { push_ones(&reader[0]), push_ones(&reader[1]) };
        for (int i = 0; i < 2; i++) {
            cr_assert_eq(finish(&reader[i], ticket[i]), PSD_W_OK);
            expect_all(&reader[i], (float)(1 - 2 * step));
        }
    }
    for (int i = 0; i < 2; i++)
        psd_worker_close(&reader[i].worker);
}

Test(memory, weights_that_the_program_has_outlive_their_server_and_are_its_own_after_the_last_exchange)
{
    reader_t reader;
    cluster_start_servers(&cluster, 1, "--workers-min=1 --optimizer=sgd(lr=1)");
    join_reader(&reader);
    cr_assert_eq(finish(&reader, push_ones(&reader)), PSD_W_OK);
    cr_expect(shows_a_server(&reader));
    kill(cluster.server[0].pid, SIGKILL);
    cluster_wait(&cluster.server[0], DONE_MS);
    expect_all(&reader, 0);
    psd_worker_leave(reader.worker, 0, 1000);
    expect_all(&reader, 0);
    psd_worker_close(&reader.worker);
}

Test(memory, rounds_that_change_nothing_leave_the_weights_readable)
{
    reader_t reader;
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=sgd(lr=1) --sync-accumulate=3");
    join_reader(&reader);
    for (int round = 1; round <= 9; round++) {
        cr_assert_eq(finish(&reader, push_ones(&reader)), PSD_W_OK);
        expect_all(&reader, (float)(1 - round / 3));
        cr_expect(shows_a_server(&reader));
    }
    cr_assert_eq(psd_worker_leave(reader.worker, 1, DONE_MS), PSD_W_OK);
    expect_all(&reader, -2);
    cr_expect_not(shows_a_server(&reader));
    reader.w[0] = 5; /* it is the program's own now */
    psd_worker_close(&reader.worker);
}

Test(memory, slow_weights_do_not_go_where_weights_are_only_read)
{
    reader_t reader;
    cluster_start_servers(&cluster, 1, "--workers-min=1 --optimizer=lookahead(sgd(lr=1))");
    join_reader(&reader);
    cr_expect_eq(psd_worker_pull_slow(reader.worker, &reader.w, DONE_MS), PSD_W_EINVAL);
    cr_expect_not_null(
        strstr(psd_worker_error(reader.worker), "the place of tensor w lies in an array of psd_worker_alloc_weights"));
    cr_expect_eq(psd_worker_pull_slow(reader.worker, &reader.g, DONE_MS), PSD_W_OK, "%s", psd_worker_error(reader.worker));
    cr_expect_eq(reader.g[MODEL_SIZE - 1], 1);
    cr_expect_eq(psd_worker_free(reader.worker, reader.w), PSD_W_EINVAL, "tensor w lies there");
    float *other = psd_worker_alloc_weights(reader.worker, 5);
    cr_expect_eq(psd_worker_free(reader.worker, other), PSD_W_OK);
    psd_worker_close(&reader.worker);
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
