#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "psd/worker.h"
#include "tests/support/cluster.h"

/* Gradients pushed tensor by tensor give the same weights as gradients pushed at once, in any order, and whatever happens in
 * between. */

enum { DONE_MS = 300000, TENSORS = 6, MOST = 300000, STEPS = 24 };

/* Parts of one tensor, of several, and tensors of several parts. */
static const uint64_t sizes[TENSORS] = { MOST, 7, 5000, 1, 64, 70000 };
static const char *const names[TENSORS] = { "a", "b", "c", "d", "e", "f" };

typedef enum order { AT_ONCE, IN_ORDER, FROM_THE_END, MIXED } order_t;

typedef struct model {
    float *w[TENSORS], *g[TENSORS];
    float *own[TENSORS]; /* of the weights, if they do not lie in arrays of the library's */
} model_t;

static bool only_reads; /* weights lie in arrays of psd_worker_alloc_weights */

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(push, .init = setup, .fini = teardown, .timeout = 600);

static void make(model_t *self)
{
    for (size_t t = 0; t < TENSORS; t++) {
        self->w[t] = self->own[t] = malloc(sizes[t] * sizeof(float));
        for (size_t i = 0; i < sizes[t]; i++)
            self->w[t][i] = (float)((i + t) % 17) - 8;
    }
}

static void drop(model_t *self)
{
    for (size_t t = 0; t < TENSORS; t++)
        free(self->own[t]);
}

/* A function of the clock only, so that a repeated step is the same; tensor b sometimes has none. */
static const float *gradient(model_t *self, size_t t, uint64_t clock)
{
    for (size_t i = 0; i < sizes[t]; i++)
        self->g[t][i] = self->w[t][i] * 0.1f + (float)((i * 7 + clock * 3 + t) % 11) - 5;
    return t == 1 && clock % 3 == 0 ? NULL : self->g[t];
}

static psd_worker_t *join(model_t *self)
{
    psd_worker_t *worker = NULL;
    psd_tensor_t tensors[TENSORS];
    const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    for (size_t t = 0; t < TENSORS; t++) {
        if (only_reads)
            self->w[t] = memcpy(psd_worker_alloc_weights(worker, sizes[t]), self->own[t], sizes[t] * sizeof(float));
        tensors[t] = (psd_tensor_t){ names[t], &sizes[t], 1, self->w[t] };
    }
    cr_assert_eq(psd_worker_register(worker, tensors, TENSORS), PSD_W_OK, "%s", psd_worker_error(worker));
    for (size_t t = 0; t < TENSORS; t++) /* servers read them in place, in spite of lost connections */
        self->g[t] = psd_worker_alloc(worker, sizes[t]);
    return worker;
}

static uint64_t clock_of(psd_worker_t *worker)
{
    psd_position_t at = { .size = sizeof at };
    cr_assert_eq(psd_worker_position(worker, &at), PSD_W_OK);
    return at.clock;
}

static void push(psd_worker_t *worker, model_t *self, size_t t, uint64_t clock, psd_ticket_t *ticket)
{
    cr_assert_eq(psd_worker_push(worker, t, gradient(self, t, clock), 32, 0.5, ticket), PSD_W_OK, "%s", psd_worker_error(worker));
}

/* Called between the tensors of a step that is pushed one by one. */
static void (*between)(uint64_t clock, size_t n_pushed);

static void step(psd_worker_t *worker, model_t *self, order_t order)
{
    const uint64_t clock = clock_of(worker);
    psd_ticket_t ticket;
    if (order == AT_ONCE) {
        const float *all[TENSORS];
        for (size_t t = 0; t < TENSORS; t++)
            all[t] = gradient(self, t, clock);
        cr_assert_eq(psd_worker_exchange(worker, all, 32, 0.5, &ticket), PSD_W_OK, "%s", psd_worker_error(worker));
    }
    for (size_t n = 0; order != AT_ONCE && n < TENSORS; n++) {
        if (between)
            between(clock, n);
        push(worker, self, order == IN_ORDER ? n : order == MIXED ? n * 5 % TENSORS : TENSORS - 1 - n, clock, &ticket);
    }
    cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
}

/* A whole training with `order`; the weights at the end are those of tensor after tensor in `out`. */
static void train(unsigned servers, const char *flags, order_t order, float *out)
{
    model_t model;
    make(&model);
    cluster_start_servers(&cluster, servers, "--workers-min=1%s", flags);
    psd_worker_t *worker = join(&model);
    while (clock_of(worker) <= STEPS)
        step(worker, &model, order);
    cr_assert_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cluster_finish(&cluster, DONE_MS);
    for (size_t t = 0; t < TENSORS; out += sizes[t], t++)
        memcpy(out, model.w[t], sizes[t] * sizeof *out);
    psd_worker_close(&worker);
    teardown();
    setup();
    drop(&model);
}

enum { ALL = 400000 };

static void expect_same_weights(const char *flags)
{
    static float whole[ALL], apart[ALL];
    memset(whole, 0, sizeof whole);
    train(2, flags, AT_ONCE, whole);
    for (order_t order = IN_ORDER; order <= MIXED; order++) {
        memset(apart, 0, sizeof apart);
        train(2, flags, order, apart);
        cr_expect_eq(memcmp(whole, apart, sizeof whole), 0, "%s, order %d", flags, (int)order);
    }
    only_reads = true;
    train(2, flags, MIXED, apart);
    cr_expect_eq(memcmp(whole, apart, sizeof whole), 0, "%s, weights that the program only reads", flags);
}

Test(push, in_any_order_of_tensors_the_weights_are_the_same) { expect_same_weights(" --optimizer=adam(lr=0.01)"); }
Test(push, by_sockets_too) { expect_same_weights(" --optimizer=sgd(lr=0.01) --net-local=off"); }
Test(push, tensor_by_tensor_the_residual_is_that_of_a_whole_push)
{
    expect_same_weights(" --optimizer=sgd(lr=0.01) --codec-push=int8");
}
Test(push, where_each_push_is_a_step_too) { expect_same_weights(" --optimizer=adam(lr=0.01) --sync-mode=asp"); }
Test(push, where_the_whole_gradient_is_measured_first)
{
    expect_same_weights(" --optimizer=sgd(lr=0.01) --sync-mode=asp --clip-norm=1");
}

static void expect_refusal(psd_worker_t *worker, int rc, const char *words)
{
    cr_expect_eq(rc, PSD_W_EINVAL, "%d", rc);
    cr_expect_not_null(strstr(psd_worker_error(worker), words), "\"%s\" lacks \"%s\"", psd_worker_error(worker), words);
}

Test(push, a_wrong_push_is_refused_and_the_exchange_continues)
{
    model_t model;
    psd_ticket_t ticket, other;
    make(&model);
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=sgd(lr=0.01)");
    psd_worker_t *worker = join(&model);
    expect_refusal(worker, psd_worker_push(worker, TENSORS, model.g[0], 32, 0, &ticket), "there is no tensor 6; 6 are registered");
    expect_refusal(worker, psd_worker_push(worker, 0, model.g[0], 0, 0, &ticket), "at least 1 sample");
    expect_refusal(worker, psd_worker_push(worker, 0, model.g[0], 32, 0, NULL), "place for its ticket");
    const float before = model.w[0][0];
    push(worker, &model, 4, 1, &ticket);
    expect_refusal(worker, psd_worker_push(worker, 4, model.g[4], 32, 0, &other), "tensor e was pushed already");
    expect_refusal(worker, psd_worker_push(worker, 3, model.g[3], 31, 0, &other),
                   "tensor d over 31 samples; this exchange is over 32");
    expect_refusal(worker, psd_worker_wait(worker, ticket, 0),
                   "1 of 6 tensors of this exchange have been pushed; tensor a has not");
    expect_refusal(worker, psd_worker_exchange(worker, (const float *const *)model.g, 32, 0, &other),
                   "one exchange or pull at a time");
    for (size_t t = 0; t < TENSORS; t++)
        if (t != 4) {
            cr_expect_eq(model.w[0][0], before, "the weights stay until the last");
            push(worker, &model, t, 1, &other);
            cr_expect_eq(other, ticket);
        }
    cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_neq(model.w[0][0], before);
    cr_expect_eq(clock_of(worker), 2);
    push(worker, &model, 0, 2, &ticket);
    cr_assert_eq(psd_worker_leave(worker, 0, DONE_MS), PSD_W_OK, "one may leave in the middle of it: %s", psd_worker_error(worker));
    psd_worker_close(&worker);
    drop(&model);
}

/* ---- a server dies in between ---- */

static char flags[256];

/* Server 1 dies after half of the tensors of one step, and comes back. */
static bool killed;

static void kill_once(uint64_t clock, size_t n_pushed)
{
    if (killed || clock != STEPS / 2 || n_pushed != TENSORS / 2)
        return;
    killed = true;
    kill(cluster.server[1].pid, SIGKILL);
    cluster_wait(&cluster.server[1], DONE_MS);
    cluster_spawn(&cluster, &cluster.server[1], "server-1b", "psd",
                  "--servers=2 --server-index=1 --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --join=%s --workers-min=1%s",
                  cluster.data[0], flags);
}

Test(push, a_servers_death_between_two_tensors_changes_nothing)
{
    static float peace[ALL], war[ALL];
    char directory[64] = "/tmp/psd-push-XXXXXX", command[128];
    cr_assert_not_null(mkdtemp(directory));
    train(2, " --optimizer=adam(lr=0.01)", AT_ONCE, peace);
    snprintf(flags, sizeof flags, " --optimizer=adam(lr=0.01) --checkpoint-dir=%s --checkpoint-every=0s --checkpoint-every-steps=5",
             directory);
    between = kill_once;
    for (int i = 0; i < 2; i++) {
        only_reads = i;
        killed = false;
        train(2, flags, FROM_THE_END, war);
        cr_expect(killed);
        cr_expect_eq(memcmp(peace, war, sizeof peace), 0, "only_reads=%d", i);
        snprintf(command, sizeof command, "rm -rf %s", directory);
        cr_expect_eq(system(command), 0);
    }
}
