#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cluster.h"
#include "worker/psd/worker.h"

/* A worker whose gradients repeatedly have Inf or NaN loses its place; the others train without it. */

enum { BAD = 3, ROUNDS = 10, DONE_MS = 60000 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(quarantine, .init = setup, .fini = teardown, .timeout = 600);

typedef struct member {
    psd_worker_t *handle;
    const float *gradient;
    float weight[2];
    int exchanges, code; /* number of successful exchanges, and the code of the next one; PSD_W_OK: there was none */
    char why[512];
} member_t;

static void *train(void *arg)
{
    member_t *me = arg;
    static const uint64_t shape = 2;
    const psd_tensor_t tensor = { "w", &shape, 1, me->weight };
    me->code = psd_worker_register(me->handle, &tensor, 1);
    for (; me->code == PSD_W_OK && me->exchanges < ROUNDS; me->exchanges += me->code == PSD_W_OK) {
        psd_ticket_t ticket;
        me->code = psd_worker_exchange(me->handle, &me->gradient, 4, 1, &ticket);
        me->code = me->code ? me->code : psd_worker_wait(me->handle, ticket, -1);
    }
    strncpy(me->why, psd_worker_error(me->handle), sizeof me->why - 1);
    return NULL;
}

/* Wait until the page shows it, because pages lag a little. */
static void await(const char *page, const char *words)
{
    bool there = false;
    for (const uint64_t end = cluster_now_ms() + DONE_MS; !there; cluster_nap()) {
        char *text = cluster_get(&cluster, 0, page);
        there = text && strstr(text, words);
        if (!there && cluster_now_ms() > end)
            cluster_give_up(&cluster, "%s has no %s: %s", page, words, text ? text : "");
        free(text);
    }
}

/* Two workers, one of which is bad, train with two servers until the bad one is given up, and told so in these words. */
static void train_two(const char *more, member_t member[2], const char *words)
{
    pthread_t thread[2];
    cluster_start_servers(&cluster, 2, "--workers-min=1 --workers-want=2 --optimizer=sgd(lr=0.5) --sync-quarantine-after=%d %s",
                          BAD, more);
    for (int w = 0; w < 2; w++) {
        const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
        cr_assert_eq(psd_worker_connect(&member[w].handle, &config), PSD_W_OK);
        cr_assert_eq(pthread_create(&thread[w], NULL, train, &member[w]), 0);
    }
    for (int w = 0; w < 2; w++)
        pthread_join(thread[w], NULL);
    cr_expect_eq(member[0].code, PSD_W_OK, "%s", member[0].why);
    cr_expect_eq(member[1].code, PSD_W_EFENCED, "%s", member[1].why);
    cr_expect_not_null(strstr(member[1].why, words), "%s", member[1].why);
    await("/status", "\"quarantined\"");
    await("/metrics", "psd_workers_quarantined_total 1\n");
    for (int w = 0; w < 2; w++)
        psd_worker_close(&member[w].handle);
}

static const float good[] = { 1, 2 }, bad[] = { 1, NAN };

Test(quarantine, a_worker_with_bad_gradients_in_a_row_is_given_up_with_a_message_and_the_others_continue)
{
    member_t member[2] = { { .gradient = good }, { .gradient = bad } };
    train_two("--sync-mode=bsp", member, "3 of its gradients in a row had Inf or NaN (sync.quarantine_after)");
    cr_expect(member[0].weight[0] == -0.5f * (ROUNDS - BAD) && member[0].weight[1] == -1.0f * (ROUNDS - BAD), "%g",
              (double)member[0].weight[0]);
    cr_expect_lt(member[1].exchanges, BAD, "its last round has not answered it with weights");
}

Test(quarantine, where_each_push_is_a_step_it_is_given_up_too_and_has_cost_the_others_nothing)
{
    member_t member[2] = { { .gradient = good }, { .gradient = bad } };
    /* Server 1, which may be the first to tell it, does not know how many there were. */
    train_two("--sync-mode=asp --sync-lr-rule=none", member, "had Inf or NaN (sync.quarantine_after)");
    cr_expect(member[0].weight[0] == -0.5f * ROUNDS && member[0].weight[1] == -1.0f * ROUNDS, "%g", (double)member[0].weight[0]);
    cr_expect_leq(member[1].exchanges, BAD, "the server that answers it last may be another than the one that decides");
}
