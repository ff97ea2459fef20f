#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cluster.h"
#include "worker/psd/worker.h"

/* A server of many workers frees gradients as their turn comes. */

enum { DONE_MS = 300000, WORKERS = 64, ELEMENTS = 1 << 20, PARTS = 4, ROUNDS = 2, GRADIENT = ELEMENTS * (int)sizeof(float) };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(fold, .init = setup, .fini = teardown, .timeout = 600);

typedef struct member {
    pthread_t thread;
    psd_worker_t *handle;
    float *weights;
} member_t;

static member_t member[WORKERS];
static float gradient[ELEMENTS];

static double metric(const char *name)
{
    char series[64];
    snprintf(series, sizeof series, "%s{shard=\"0\"}", name);
    return cluster_metric(&cluster, 0, series);
}

/* A figure of the server in /proc, in bytes. */
static double memory(const char *line)
{
    char path[64], text[128];
    double kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)cluster.server[0].pid);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    while (fgets(text, sizeof text, file))
        if (!strncmp(text, line, strlen(line)))
            kib = strtod(text + strlen(line), NULL);
    fclose(file);
    return kib * 1024;
}

static void *enrol(void *arg)
{
    member_t *me = arg;
    static const uint64_t shape = ELEMENTS;
    const psd_tensor_t tensor = { "w", &shape, 1, me->weights };
    cr_assert_eq(psd_worker_register(me->handle, &tensor, 1), PSD_W_OK, "%s", psd_worker_error(me->handle));
    return NULL;
}

static void join_all(void)
{
    for (int w = 0; w < WORKERS; w++) {
        const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
        member_t *me = &member[w];
        cr_assert_eq(psd_worker_connect(&me->handle, &config), PSD_W_OK, "%s", me->handle ? psd_worker_error(me->handle) : "");
        cr_assert_not_null(me->weights = calloc(ELEMENTS, sizeof *me->weights));
        cr_assert_eq(pthread_create(&me->thread, NULL, enrol, me), 0);
    }
    for (int w = 0; w < WORKERS; w++)
        pthread_join(member[w].thread, NULL);
}

static void await(const char *name, double n)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS; metric(name) < n; cluster_nap())
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "%s is %g, %g wanted", name, metric(name), n);
}

/* Each pushes when the one before it has been added: ranks are ids here, and ids were given in the order of joining. */
static void push_in_turn(int round)
{
    psd_ticket_t ticket[WORKERS];
    const double pushed = metric("psd_pushes_total"), folded = metric("psd_pushes_folded_total");
    for (int w = 0; w < WORKERS; w++) {
        cr_assert_eq(psd_worker_exchange(member[w].handle, (const float *const[]){ gradient }, 4, 0.5, &ticket[w]), PSD_W_OK, "%s",
                     psd_worker_error(member[w].handle));
        if (w + 1 == WORKERS)
            break;
        await("psd_pushes_total", pushed + (w + 1) * PARTS);
        await("psd_pushes_folded_total", folded + w + 1 - 2);
    }
    for (int w = 0; w < WORKERS; w++) {
        cr_assert_eq(psd_worker_wait(member[w].handle, ticket[w], DONE_MS), PSD_W_OK, "%s", psd_worker_error(member[w].handle));
        for (int i = 0; i < ELEMENTS; i += 4099)
            cr_assert_eq(member[w].weights[i], -(float)round * gradient[i], "worker %d, element %d", w, i);
    }
}

Test(fold, at_most_eight_of_sixty_four_gradients_that_come_in_turn_are_in_memory)
{
    for (int i = 0; i < ELEMENTS; i++)
        gradient[i] = (float)(i % 8); /* whose sums are exact */
    cluster_start_servers(&cluster, 1, "--workers-min=%d --optimizer=sgd(lr=1) --net-local=off", WORKERS);
    const double before = memory("VmRSS:");
    join_all();
    for (int round = 1; round <= ROUNDS; round++)
        push_in_turn(round);
    const double beside = memory("VmHWM:") - before - GRADIENT;
    fprintf(stderr, "%.1f gradients beside the shard\n", beside / GRADIENT);
    cr_expect_leq(beside, 8.0 * GRADIENT, "%g gradients", beside / GRADIENT);
    cr_expect_eq(metric("psd_pushes_asked_again_total"), 0);
    for (int w = 0; w < WORKERS; w++) {
        cr_expect_eq(psd_worker_leave(member[w].handle, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(member[w].handle));
        psd_worker_close(&member[w].handle);
        free(member[w].weights);
    }
    cluster_finish(&cluster, DONE_MS);
}
