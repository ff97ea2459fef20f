#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "psd/worker.h"
#include "tests/support/cluster.h"

/* The library's calls that read the weights of a running job, and those that start a job with the optimizer state of another
 * one. */

enum { N = 5000 };
static cluster_t cluster;
static float w[N], gradient[N];
static const uint64_t shape[1] = { N };

static void setup(void)
{
    cluster_open(&cluster);
    for (size_t i = 0; i < N; i++) {
        w[i] = 1;
        gradient[i] = 1;
    }
}
static void teardown(void) { cluster_close(&cluster); }
TestSuite(follower, .init = setup, .fini = teardown, .timeout = 600);

static psd_worker_config_t configuration(void)
{
    return (psd_worker_config_t){ .size = sizeof(psd_worker_config_t), .join = cluster.data[0], .insecure = true };
}

static psd_worker_t *join(void)
{
    psd_worker_t *worker = NULL;
    const psd_worker_config_t config = configuration();
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    return worker;
}

static void step(psd_worker_t *worker)
{
    psd_ticket_t ticket = 0;
    int rc = psd_worker_exchange(worker, (const float *const[]){ gradient }, 1, 1, &ticket);
    rc = rc ? rc : psd_worker_wait(worker, ticket, -1);
    cr_assert_eq(rc, PSD_W_OK, "%s", psd_worker_error(worker));
}

static const psd_tensor_t model[] = { { .name = "w", .shape = shape, .n_dims = 1, .data = w } };

static psd_follower_t *open_follower(void)
{
    psd_follower_t *follower = NULL;
    const psd_worker_config_t config = configuration();
    cr_assert_eq(psd_follower_open(&follower, &config), PSD_W_OK, "%s", follower ? psd_follower_error(follower) : "");
    return follower;
}

static void expect_weights(psd_follower_t *follower, float x, uint64_t version)
{
    psd_tensor_t tensor;
    cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    cr_assert_eq(psd_follower_n_tensors(follower), 1);
    cr_assert_eq(psd_follower_tensor(follower, 0, &tensor), PSD_W_OK);
    cr_expect_str_eq(tensor.name, "w");
    cr_expect(tensor.n_dims == 1 && tensor.shape[0] == N);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(tensor.data[i], x, "%zu", i);
    cr_expect_eq(psd_follower_version(follower), version);
}

static void follow(const char *mode)
{
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=sgd(lr=1) --sync-mode=%s", mode);
    psd_worker_t *worker = join();
    cr_assert_eq(psd_worker_register(worker, model, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_follower_t *follower = open_follower();
    expect_weights(follower, 1, 0);
    for (int i = 0; i < 3; i++)
        step(worker);
    for (int i = 0; psd_follower_version(follower) < 3 && i < 10000; i++)
        cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    expect_weights(follower, -2, 3);
    psd_tensor_t tensor;
    cr_expect_eq(psd_follower_tensor(follower, 1, &tensor), PSD_W_EINVAL);
    cr_expect_str_eq(psd_follower_error(follower), "tensor: there is no tensor 1; 1 were pulled");
    step(worker);
    psd_follower_close(&follower);
    cr_expect_null(follower);
    cr_expect_eq(psd_worker_leave(worker, 1, 60000), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}

Test(follower, it_reads_what_the_servers_hold_as_the_job_gets_on) { follow("bsp"); }
Test(follower, it_reads_what_the_servers_hold_as_the_job_gets_on_in_asp) { follow("asp"); }

static int enough(void *arg) { return ++*(int *)arg > 5; }

Test(follower, a_wait_ends_by_a_timeout_or_by_the_programs_request_and_says_for_what)
{
    int asked = 0;
    cluster_start_servers(&cluster, 1, "--workers-min=1 --optimizer=sgd(lr=1)");
    psd_follower_t *follower = open_follower();
    cr_expect_eq(psd_follower_n_tensors(follower), 0);
    const char *const words = "in 100 ms; waiting for the job to begin";
    for (int i = 0; i < 600 && !strstr(psd_follower_error(follower), words); i++) /* server 0 answers soon */
        cr_assert_eq(psd_follower_pull(follower, 0, 100), PSD_W_ETIMEOUT);
    cr_expect(strstr(psd_follower_error(follower), words), "%s", psd_follower_error(follower));
    cr_expect_eq(psd_follower_pull(follower, 0, 0), PSD_W_ETIMEOUT, "with 0 it only looks");
    psd_follower_close(&follower);
    psd_worker_config_t config = configuration();
    config.interrupted = enough;
    config.interrupted_arg = &asked;
    cr_assert_eq(psd_follower_open(&follower, &config), PSD_W_OK);
    cr_expect_eq(psd_follower_pull(follower, 0, -1), PSD_W_ESTOPPED);
    cr_expect_eq(psd_follower_pull(follower, 0, 600000), PSD_W_ESTOPPED, "with a timeout too");
    psd_follower_close(&follower);
    config.size = sizeof config + 8;
    cr_expect_eq(psd_follower_open(&follower, &config), PSD_W_EINVAL);
    cr_expect_eq(psd_follower_pull(follower, 0, 0), PSD_W_EINVAL, "it is not open");
    psd_follower_close(&follower);
}

Test(follower, it_reads_slow_weights_where_there_are_any)
{
    psd_tensor_t tensor;
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=lookahead(sgd(lr=1),k=5,alpha=0.5)");
    psd_worker_t *worker = join();
    cr_assert_eq(psd_worker_register(worker, model, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    step(worker);
    psd_follower_t *follower = open_follower();
    expect_weights(follower, 0, 1);
    cr_assert_eq(psd_follower_pull(follower, 1, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    cr_assert_eq(psd_follower_tensor(follower, 0, &tensor), PSD_W_OK);
    cr_expect_eq(tensor.data[0], 1, "those before the first step");
    psd_follower_close(&follower);
    cr_expect_eq(psd_worker_leave(worker, 1, 60000), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}

Test(follower, a_fork_is_told_whose_handle_it_has)
{
    char words[128];
    int ended = -1;
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_follower_t *follower = open_follower();
    snprintf(words, sizeof words, "pull: this handle belongs to process %d, of which this is a fork; open one in this process",
             (int)getpid());
    const pid_t child = fork();
    if (!child)
        _exit(psd_follower_pull(follower, 0, 0) == PSD_W_EINVAL && !strcmp(psd_follower_error(follower), words) ? 0 : 1);
    cr_assert_eq(waitpid(child, &ended, 0), child);
    cr_expect_eq(ended, 0);
    psd_follower_close(&follower);
}

Test(follower, a_job_begins_with_the_state_that_its_first_worker_brings)
{
    float velocity[N];
    for (size_t i = 0; i < N; i++)
        velocity[i] = 2;
    psd_worker_field_t field[] = { { .tensor = "w", .field = "momentum_buffer", .data = velocity, .n = N },
                                   { .tensor = "w", .field = "exp_avg", .data = velocity, .n = N } };
    psd_worker_state_t state = { .size = sizeof state, .field = field, .n = 2 };
    cluster_start_servers(&cluster, 3, "--workers-min=1 --optimizer=sgd(lr=1,momentum=0.5)");
    psd_worker_t *worker = join();
    cr_expect_eq(psd_worker_register_with(worker, model, 1, &state), PSD_W_EDATA);
    cr_expect_str_eq(psd_worker_error(worker), "optimizer state: the state of tensor w has exp_avg, which sgd does not keep: "
                                               "another optimizer kept it; use that optimizer, or start without its state");
    state.size = 8;
    cr_expect_eq(psd_worker_register_with(worker, model, 1, &state), PSD_W_EINVAL);
    state = (psd_worker_state_t){ .size = sizeof state, .field = field, .n = 1, .optimizer = "lion" };
    cr_expect_eq(psd_worker_register_with(worker, model, 1, &state), PSD_W_EDATA, "of another optimizer");
    state.optimizer = "sgd(lr=7, momentum=0.9)";
    cr_assert_eq(psd_worker_register_with(worker, model, 1, &state), PSD_W_OK, "%s", psd_worker_error(worker));
    memset(velocity, 0, sizeof velocity); /* it is copied */
    step(worker);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(w[i], -1.0f, "1 - (0.5 * 2 + 1)");
    cr_expect_eq(psd_worker_leave(worker, 1, 60000), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}
