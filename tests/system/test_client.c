#include <criterion/criterion.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "psd/worker.h"
#include "tests/support/cluster.h"

/* The library's messages for wrong calls; and accepted calls harm no other process. */

enum { DONE_MS = 600000 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(client, .init = setup, .fini = teardown, .timeout = 600);

static psd_worker_t *connect_to_job(void)
{
    psd_worker_t *worker = NULL;
    const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    return worker;
}

static void expect_error(const psd_worker_t *worker, int rc, const char *words)
{
    cr_expect_eq(rc, PSD_W_EINVAL, "%d", rc);
    cr_expect_not_null(strstr(psd_worker_error(worker), words), "\"%s\" lacks \"%s\"", psd_worker_error(worker), words);
}

static int step(psd_worker_t *worker, double loss)
{
    static const float gradient[2] = { 1, 1 };
    psd_ticket_t ticket = 0;
    int rc = psd_worker_exchange(worker, (const float *const[]){ gradient }, 1, loss, &ticket);
    return rc ? rc : psd_worker_wait(worker, ticket, DONE_MS);
}

/* The most tensors that a model may have, each in a chunk of its own. */
Test(client, a_model_of_sixty_five_thousand_tensors_is_trained_and_saved)
{
    enum { MANY = 65536 };
    static psd_tensor_t tensors[MANY];
    static char names[MANY][8];
    static float value[MANY], gradient[MANY];
    static const float *gradients[MANY];
    static const uint64_t one = 1;
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=sgd(lr=0.5) --checkpoint-dir=%s/checkpoints",
                          cluster.directory);
    psd_worker_t *worker = NULL;
    const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    for (size_t i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "t%zu", i);
        tensors[i] = (psd_tensor_t){ .name = names[i], .shape = &one, .n_dims = 1, .data = &value[i] };
        gradient[i] = (float)(i % 7);
        gradients[i] = &gradient[i];
    }
    cr_assert_eq(psd_worker_register(worker, tensors, MANY), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_ticket_t ticket = 0;
    cr_assert_eq(psd_worker_exchange(worker, gradients, 1, 0.5, &ticket), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    for (size_t i = 0; i < MANY; i++)
        cr_assert_eq(value[i], -0.5f * gradient[i], "tensor %zu is %g", i, (double)value[i]);
    cr_expect_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    cluster_finish(&cluster, 60000);
}

/* The messages for a model of too many tensors, for one of none, and for a second registration. */
Test(client, the_library_reports_the_number_of_tensors_that_is_too_large)
{
    enum { MANY = 65537 };
    static psd_tensor_t tensors[MANY];
    static char names[MANY][8];
    static float value[MANY];
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_t *worker = NULL;
    const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    for (size_t i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "t%zu", i);
        tensors[i] = (psd_tensor_t){ .name = names[i], .data = &value[i] };
    }
    cr_expect(psd_worker_register(worker, tensors, MANY) < 0);
    cr_expect_not_null(strstr(psd_worker_error(worker), "65537 tensors were given to register; 1 to 65536 are allowed"), "%s",
                       psd_worker_error(worker));
    cr_expect(psd_worker_register(worker, tensors, 0) < 0);
    cr_expect_not_null(strstr(psd_worker_error(worker), "0 tensors were given"), "%s", psd_worker_error(worker));
    cr_expect_eq(psd_worker_register(worker, tensors, 2), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect(psd_worker_register(worker, tensors, 2) < 0);
    cr_expect_not_null(strstr(psd_worker_error(worker), "2 tensors are registered already"), "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}

Test(client, a_wrong_call_reports_its_mistake_and_the_job_continues)
{
    static float w[2] = { 0, 0 }, bad[2] = { 0, NAN };
    static const uint64_t two = 2;
    static const float gradient[2] = { 1, 1 };
    const psd_tensor_t tensor = { "w", &two, 1, w };
    psd_ticket_t ticket;
    cluster_start_servers(&cluster, 1, "--workers-min=1 --optimizer=sgd(lr=0.5)");
    psd_worker_t *worker = connect_to_job();
    expect_error(worker, psd_worker_register(worker, &(psd_tensor_t){ "w", NULL, 1, w }, 1), "a shape of at most");
    /* 2^33 * 2^31 is 0 in 64 bits. */
    expect_error(
        worker,
        psd_worker_register(worker, &(psd_tensor_t){ "w", (const uint64_t[]){ UINT64_C(1) << 33, UINT64_C(1) << 31 }, 2, w }, 1),
        "tensor w: dimension 1 is 2147483648");
    expect_error(worker, psd_worker_register(worker, (psd_tensor_t[]){ tensor, tensor }, 2), "w");
    expect_error(worker, psd_worker_register(worker, &(psd_tensor_t){ "w", &two, 1, bad }, 1), "tensor w: initial value 1 is nan");
    cr_assert_eq(psd_worker_register(worker, &tensor, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    expect_error(worker, psd_worker_report(worker, "a\nb", 1), "printable");
    expect_error(worker, psd_worker_report(worker, "", 1), "1 to 63 bytes");
    expect_error(worker, psd_worker_report(worker, NULL, 1), "1 to 63 bytes");
    expect_error(worker, psd_worker_report(worker, "0123456789012345678901234567890123456789012345678901234567890123", 1),
                 "1 to 63 bytes");
    cr_expect_eq(psd_worker_report(worker, "012345678901234567890123456789012345678901234567890123456789012", 1), PSD_W_OK);
    expect_error(worker, psd_worker_say_rows(worker, "", DONE_MS), "1 to 255 bytes");
    expect_error(worker, psd_worker_say_rows(worker, "a\nb", DONE_MS), "printable");
    cr_expect_eq(psd_worker_say_rows(worker, "60 rows", DONE_MS), PSD_W_OK);
    expect_error(worker, psd_worker_exchange(worker, (const float *const[]){ gradient }, UINT64_C(1) << 60, 0, &ticket),
                 "at most 1099511627776");
    expect_error(worker, psd_worker_exchange(worker, (const float *const[]){ gradient }, 1, 0, NULL), "place for its ticket");
    expect_error(worker, psd_worker_pull_slow(worker, NULL, DONE_MS), "a place for each tensor");
    expect_error(worker, psd_worker_set_lr(worker, 2e9, DONE_MS), "between 0 and 1e9; this is 2e+09");
    cr_expect_eq(psd_worker_set_lr(worker, 1e9, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(psd_worker_set_lr(worker, 0.5, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    for (int i = 0; i < 200; i++) /* more than the queue holds */
        cr_assert_eq(psd_worker_report(worker, "many", i), PSD_W_OK);
    cr_assert_eq(step(worker, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(w[0], -0.5f);
    cr_expect_eq(psd_worker_job_samples(worker), 1);
    cr_assert_eq(psd_worker_exchange(worker, (const float *const[]){ gradient }, UINT64_C(1) << 40, 1, &ticket), PSD_W_OK);
    cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(psd_worker_job_samples(worker), 1 + (UINT64_C(1) << 40));
    cr_assert_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    psd_worker_close(&worker);
    psd_worker_close(NULL);
    cluster_finish(&cluster, DONE_MS);
}

Test(client, a_handle_that_did_not_connect_reports_that_for_every_call)
{
    psd_worker_t *worker = NULL;
    psd_ticket_t ticket;
    float w = 0;
    const psd_tensor_t tensor = { "w", NULL, 0, &w };
    cr_expect_eq(psd_worker_connect(NULL, NULL), PSD_W_EINVAL);
    cr_expect_eq(psd_worker_connect(&worker, NULL), PSD_W_EINVAL);
    expect_error(worker, psd_worker_register(worker, &tensor, 1), "the configuration needs `size`");
    expect_error(worker, psd_worker_exchange(worker, NULL, 0, 0, &ticket), "the configuration needs `size`");
    expect_error(worker, psd_worker_report(worker, "x", 1), "the configuration needs `size`");
    cr_expect_eq(psd_worker_settings(worker, &(psd_worker_settings_t){ .size = sizeof(psd_worker_settings_t) }), PSD_W_EAGAIN);
    psd_worker_close(&worker);
    const psd_worker_config_t nowhere = {
        .size = sizeof nowhere, .join = "tcp://127.0.0.1:1", .job = "mnist", .insecure = true, .join_timeout_ms = 300
    };
    const char *const words = "job mnist at tcp://127.0.0.1:1: not joined after 300 ms; ";
    cr_expect_eq(psd_worker_connect(&worker, &nowhere), PSD_W_ETIMEOUT);
    cr_expect_eq(strncmp(psd_worker_error(worker), words, strlen(words)), 0, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    const psd_worker_config_t larger = { .size = sizeof larger + 8, .join = "tcp://127.0.0.1:1", .insecure = true };
    cr_expect_eq(psd_worker_connect(&worker, &larger), PSD_W_EINVAL);
    psd_worker_close(&worker);
}

/* Position and settings, for programs of this release and of earlier ones. */
Test(client, position_and_settings_fill_a_struct_up_to_its_size)
{
    cluster_start_servers(&cluster, 1,
                          "--workers-min=1 --optimizer=lookahead(sgd(lr=0.25),k=5) --clip-norm=3 --codec-push=topk(0.1) "
                          "--schedule=cosine(steps=9) --schedule-unit=sample --lease=12s");
    psd_worker_t *worker = connect_to_job();
    psd_worker_settings_t s = { .size = sizeof s }, earlier = { .size = offsetof(psd_worker_settings_t, optimizer) },
                          later = { .size = sizeof s + 8 };
    cr_assert_eq(psd_worker_settings(worker, &s), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect(!strcmp(s.mode, "bsp") && !strcmp(s.lr_rule, "") && s.in_rounds && s.has_slow && !s.checkpoints && s.servers == 1);
    cr_expect(!strncmp(s.optimizer, "lookahead(sgd(lr=0.25,", 22) && s.lr == 0.25, "%s", s.optimizer);
    cr_expect(s.clip_value == 0 && s.clip_norm == 3 && s.lease_ms == 12000);
    cr_expect(!strcmp(s.codec_push, "topk(0.1)") && !strcmp(s.codec_pull, "f32"), "%s, %s", s.codec_push, s.codec_pull);
    cr_expect(strstr(s.text, "mode=bsp") && strstr(s.text, s.optimizer), "%s", s.text);
    cr_expect(!strcmp(s.schedule, "cosine(steps=9, min=0, warmup=0, warmup_start=0)") && !strcmp(s.schedule_unit, "sample"),
              "%s, %s", s.schedule, s.schedule_unit);
    cr_expect(!strcmp(s.groups, "") && s.accumulate == 1 && s.max_staleness == 0);
    cr_expect_eq(psd_worker_settings(worker, &earlier), PSD_W_OK);
    cr_expect(!strcmp(earlier.mode, "bsp") && !earlier.optimizer, "what it does not know is left alone");
    expect_error(worker, psd_worker_settings(worker, &later), "settings: size is");
    expect_error(worker, psd_worker_settings(worker, &(psd_worker_settings_t){ 0 }), "settings: size is 0");
    psd_position_t at = { .size = sizeof at };
    cr_assert_eq(psd_worker_position(worker, &at), PSD_W_OK);
    cr_expect_eq(at.worker, 0);
    expect_error(worker, psd_worker_position(worker, &(psd_position_t){ 0 }), "position: size is 0");
    psd_worker_close(&worker);
}

/* A program that was built before the struct grew, by each of its fields in turn. */
Test(client, a_shorter_configuration_is_one_of_an_earlier_release)
{
    static const size_t ends[] = { offsetof(psd_worker_config_t, key), offsetof(psd_worker_config_t, cluster_file),
                                   offsetof(psd_worker_config_t, recipe), sizeof(psd_worker_config_t) };
    cluster_start_servers(&cluster, 1, "--workers-min=9");
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        psd_worker_t *worker = NULL;
        const psd_worker_config_t config = { .size = ends[i], .join = cluster.data[0], .insecure = true };
        cr_expect_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "size %zu: %s", ends[i], psd_worker_error(worker));
        psd_worker_close(&worker);
    }
}

Test(client, a_fork_can_close_its_handle_and_the_parent_trains_on)
{
    static float w[2];
    static const uint64_t two = 2;
    int status = -1;
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_t *worker = connect_to_job();
    cr_assert_eq(psd_worker_register(worker, &(psd_tensor_t){ "w", &two, 1, w }, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_assert_eq(step(worker, 1), PSD_W_OK, "%s", psd_worker_error(worker)); /* there is a ticket to wait for */
    const pid_t child = fork();
    if (child == 0) {
        float *out[] = { w };
        const bool told = step(worker, 1) == PSD_W_EINVAL && strstr(psd_worker_error(worker), "connect again in this process") &&
                          psd_worker_wait(worker, 1, -1) == PSD_W_EINVAL && psd_worker_pull_slow(worker, out, -1) == PSD_W_EINVAL &&
                          psd_worker_set_lr(worker, 0.1, -1) == PSD_W_EINVAL && psd_worker_report(worker, "x", 1) == PSD_W_EINVAL &&
                          psd_worker_leave(worker, 1, 0) == PSD_W_EINVAL && !psd_worker_alloc(worker, 2) &&
                          !psd_worker_alloc_weights(worker, 2);
        psd_worker_close(&worker);
        _exit(told && !worker ? 0 : 1);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect_eq(status, 0);
    cr_expect_eq(step(worker, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    cluster_finish(&cluster, DONE_MS);
}

/* A diverged run must not look perfect. */
Test(client, a_loss_that_is_not_finite_is_shown_as_missing)
{
    static float w[2];
    static const uint64_t two = 2;
    static const double losses[] = { 3.5, NAN, INFINITY };
    static const char *shown[] = { "3.5", "null", "null" },
                      *printed[] = { "training loss 3.5", "training loss nan", "training loss nan" };
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_t *worker = connect_to_job();
    cr_assert_eq(psd_worker_register(worker, &(psd_tensor_t){ "w", &two, 1, w }, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    for (unsigned i = 0; i < 3; i++) {
        char wanted[64];
        cluster_process_t look = { 0 };
        cr_assert_eq(step(worker, losses[i]), PSD_W_OK, "%s", psd_worker_error(worker));
        psd_worker_report(worker, "score", losses[i]);
        cluster_await_steps(&cluster, i + 1);
        snprintf(wanted, sizeof wanted, "\"train\": %s", shown[i]);
        char *status = cluster_get(&cluster, 0, "/status");
        cr_expect_not_null(strstr(status, wanted), "no %s in %s", wanted, status);
        snprintf(wanted, sizeof wanted, "\"loss\": %s", shown[i]);
        cr_expect_not_null(strstr(status, wanted), "no %s in %s", wanted, status);
        free(status);
        cluster_spawn(&cluster, &look, "look", "psdctl", "status %s", cluster.status[0]);
        cr_expect_eq(cluster_wait(&look, DONE_MS), 0);
        char *text = cluster_printed(&cluster, &look, "out");
        cr_expect_not_null(strstr(text, printed[i]), "no \"%s\" in %s", printed[i], text);
        free(text);
        char *metrics = cluster_get(&cluster, 0, "/metrics");
        cr_expect_eq(!strstr(metrics, "\npsd_training_loss 3.5"), i > 0, "%s", strstr(metrics, "\npsd_training_loss"));
        free(metrics);
    }
    psd_worker_close(&worker);
}

Test(client, a_worker_that_has_registered_nothing_cannot_have_finished)
{
    static const uint64_t none = 0;
    static float w[2];
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_t *worker = connect_to_job();
    cr_expect_eq(psd_worker_register(worker, &(psd_tensor_t){ "w", &none, 1, w }, 1), PSD_W_EINVAL);
    expect_error(worker, psd_worker_leave(worker, 1, DONE_MS), "no tensors are registered");
    cr_expect_eq(psd_worker_leave(worker, 0, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    cr_expect_eq(cluster_wait(&cluster.server[0], 0), -1, "the job has not been done");
}

/* Blocks for received weights are not returned to the system and faulted in again by the next exchange. Without that, 40 exchanges
 * of 64 MiB fault in more than 100000 pages; with it, only those that ZeroMQ reads ahead, once. */
Test(client, an_exchange_finds_the_memory_of_the_one_before)
{
#if defined(__SANITIZE_ADDRESS__) /* it keeps freed blocks to detect their use */
    cr_skip_test("not with AddressSanitizer's heap");
#endif
    enum { N = 16 << 20, EXCHANGES = 40, PAGES = N / 1024 };
    float *weights = calloc(N, sizeof *weights), *gradient = calloc(N, sizeof *gradient);
    const uint64_t shape[] = { N };
    const psd_tensor_t tensor = { "w", shape, 1, weights };
    struct rusage before, after;
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_t *worker = connect_to_job();
    for (size_t i = 0; i < N; i++)
        weights[i] = gradient[i] = 1;
    cr_assert_eq(psd_worker_register(worker, &tensor, 1), PSD_W_OK);
    for (int i = 0; i < 5 + EXCHANGES; i++) {
        psd_ticket_t ticket;
        if (i == 5)
            getrusage(RUSAGE_SELF, &before);
        cr_assert_eq(psd_worker_exchange(worker, (const float *const[]){ gradient }, 1, 1, &ticket), PSD_W_OK);
        cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    }
    getrusage(RUSAGE_SELF, &after);
    cr_expect_lt(after.ru_minflt - before.ru_minflt, 2 * PAGES, "%ld pages", after.ru_minflt - before.ru_minflt);
    psd_worker_leave(worker, 1, DONE_MS);
    psd_worker_close(&worker);
    free(weights);
    free(gradient);
}

/* ---- other calls than training ---- */

static const uint64_t two = 2;

static void register_pair(psd_worker_t *worker, float tensor[2][2])
{
    const psd_tensor_t tensors[] = { { "v", &two, 1, tensor[0] }, { "w", &two, 1, tensor[1] } };
    cr_assert_eq(psd_worker_register(worker, tensors, 2), PSD_W_OK, "%s", psd_worker_error(worker));
}

static psd_ticket_t begin_step(psd_worker_t *worker)
{
    static const float gradient[2] = { 1, 1 };
    psd_ticket_t ticket = 0;
    cr_assert_eq(psd_worker_exchange(worker, (const float *const[]){ gradient, gradient }, 1, 1, &ticket), PSD_W_OK, "%s",
                 psd_worker_error(worker));
    return ticket;
}

static void set_rates(const char *mode)
{
    static float w[2][2];
    memset(w, 0, sizeof w);
    cluster_start_servers(&cluster, 2, "--workers-min=1 --sync-mode=%s --sync-lr-rule=none --optimizer=sgd(lr=0.5)", mode);
    psd_worker_t *worker = connect_to_job();
    register_pair(worker, w);
    cr_assert_eq(psd_worker_wait(worker, begin_step(worker), DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect(w[0][0] == -0.5f && w[1][1] == -0.5f, "%g, %g", (double)w[0][0], (double)w[1][1]);
    expect_error(worker, psd_worker_set_lr(worker, -1, DONE_MS), "a learning rate must be between 0 and 1e9; this is -1");
    expect_error(worker, psd_worker_set_lr(worker, NAN, DONE_MS), "a learning rate must be between");
    expect_error(worker, psd_worker_set_lr(worker, 2e9, DONE_MS), "a learning rate must be between");
    cr_assert_eq(psd_worker_set_lr(worker, 0.25, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_assert_eq(psd_worker_wait(worker, begin_step(worker), DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect(w[0][0] == -0.75f && w[1][1] == -0.75f, "%g at one server, %g at the other", (double)w[0][0], (double)w[1][1]);
    const psd_ticket_t open = begin_step(worker);
    cr_expect_lt(psd_worker_set_lr(worker, 1, DONE_MS), 0, "not while an exchange is open");
    cr_assert_eq(psd_worker_wait(worker, open, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(w[0][0], -1.0f);
    cr_expect_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    cluster_finish(&cluster, DONE_MS);
}

Test(client, a_learning_rate_that_the_program_sets_is_that_of_the_next_step_at_every_server) { set_rates("bsp"); }
Test(client, a_learning_rate_that_the_program_sets_is_that_of_the_next_step_at_every_server_in_asp) { set_rates("asp"); }

static psd_worker_t *second;
static float seconds[2][2];

static void *register_second(void *arg)
{
    (void)arg;
    register_pair(second, seconds);
    return NULL;
}

static int is_readable(const psd_worker_t *worker, int timeout_ms)
{
    struct pollfd fd = { .fd = psd_worker_fd(worker), .events = POLLIN };
    return poll(&fd, 1, timeout_ms);
}

Test(client, the_descriptor_is_readable_when_the_open_ticket_is_done_and_not_before)
{
    static float w[2][2];
    pthread_t thread;
    cluster_start_servers(&cluster, 1, "--workers-min=2 --optimizer=sgd(lr=0.5)");
    psd_worker_t *first = connect_to_job();
    second = connect_to_job();
    cr_assert_eq(pthread_create(&thread, NULL, register_second, NULL), 0); /* it waits for the other */
    register_pair(first, w);
    pthread_join(thread, NULL);
    for (int round = 1; round <= 3; round++) {
        const psd_ticket_t ticket = begin_step(first);
        cr_expect_eq(is_readable(first, 0), 0, "the second has not pushed in round %d", round);
        cr_expect_eq(psd_worker_wait(first, ticket, 0), PSD_W_EAGAIN);
        cr_expect_eq(round > 1 ? psd_worker_wait(first, ticket - 1, 0) : PSD_W_OK, PSD_W_OK, "the one before is over");
        const psd_ticket_t other = begin_step(second);
        cr_assert_eq(is_readable(first, DONE_MS), 1);
        cr_assert_eq(psd_worker_wait(first, ticket, 0), PSD_W_OK, "and then there is nothing to wait for: %s",
                     psd_worker_error(first));
        cr_expect_eq(w[1][1], -0.5f * (float)round);
        cr_assert_eq(psd_worker_wait(second, other, DONE_MS), PSD_W_OK, "%s", psd_worker_error(second));
    }
    psd_worker_t *const both[] = { first, second };
    for (int i = 0; i < 2; i++) {
        psd_worker_t *worker = both[i];
        cr_expect_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
        psd_worker_close(&worker);
    }
    cluster_finish(&cluster, DONE_MS);
}

static int asked; /* number of calls */

static int is_enough(void *arg)
{
    cr_expect_eq(arg, &asked);
    return ++asked > 1;
}

Test(client, a_program_may_end_a_wait_and_then_leave)
{
    static float w[2];
    const uint64_t two = 2;
    psd_worker_t *worker = NULL;
    cluster_start_servers(&cluster, 1, "--workers-min=2 --optimizer=sgd(lr=0.5)");
    const psd_worker_config_t config = {
        .size = sizeof config, .join = cluster.data[0], .insecure = true, .interrupted = is_enough, .interrupted_arg = &asked
    };
    asked = -1000000;
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    asked = 0;
    cr_expect_eq(psd_worker_register(worker, &(psd_tensor_t){ "w", &two, 1, w }, 1), PSD_W_ESTOPPED, "there is no second worker");
    cr_expect_eq(asked, 2);
    cr_expect_not_null(strstr(psd_worker_error(worker), "register: interrupted"), "%s", psd_worker_error(worker));
    asked = -1000000;
    cr_expect_eq(psd_worker_leave(worker, 0, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}

/* Call leave(finished) without waiting until it is answered; PSD_W_EAGAIN when it is not in time. */
static int look_until_left(psd_worker_t *worker)
{
    int rc = PSD_W_EAGAIN;
    for (const uint64_t end = cluster_now_ms() + 60000; rc == PSD_W_EAGAIN && cluster_now_ms() < end; cluster_nap())
        rc = psd_worker_leave(worker, 1, 0);
    return rc;
}

/* A server that is lost before the last weights are safe takes the job back, while the program only looks whether it has left. */
Test(client, a_program_that_only_looks_whether_it_has_left_can_leave_again_after_the_job_went_back)
{
    static float w[2];
    const uint64_t two = 2;
    static const char common[] = "--workers-min=1 --optimizer=sgd(lr=0.5) --checkpoint-every=0s --checkpoint-every-steps=9";
    cluster_start_servers(&cluster, 2, "%s --checkpoint-dir=%s/points", common, cluster.directory);
    psd_worker_t *worker = connect_to_job();
    cr_assert_eq(psd_worker_register(worker, &(psd_tensor_t){ "w", &two, 1, w }, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    for (int i = 0; i < 3; i++)
        cr_assert_eq(step(worker, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    kill(cluster.server[1].pid, SIGSTOP); /* so that the last checkpoint cannot be made */
    cr_expect_eq(psd_worker_leave(worker, 1, 0), PSD_W_EAGAIN);
    kill(cluster.server[1].pid, SIGKILL);
    cluster_wait(&cluster.server[1], DONE_MS);
    cluster_spawn(
        &cluster, &cluster.server[1], "server-1b", "psd",
        "--servers=2 --server-index=1 --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0 --join=%s --checkpoint-dir=%s/points "
        "%s",
        cluster.data[0], cluster.directory, common);
    psd_position_t at = { .size = sizeof at };
    while (psd_worker_position(worker, &at) == PSD_W_OK && (at.clock != 1 || step(worker, 1) != PSD_W_OK))
        cluster_nap();
    for (int i = 0; i < 2; i++)
        cr_assert_eq(step(worker, 1), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(w[0], -1.5f);
    cr_expect_eq(look_until_left(worker), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}

Test(client, the_rule_that_a_program_expects_is_the_jobs_or_is_refused)
{
    cluster_start_servers(&cluster, 1, "--optimizer=lookahead(adam(lr=0.001),k=5)");
    psd_worker_t *worker = connect_to_job();
    cr_expect_eq(psd_worker_check_rule(worker, "lookahead(adam(lr=1e-3, beta1=0.9))"), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(psd_worker_check_rule(worker, "adam(lr=1e-3)"), PSD_W_EREFUSED);
    cr_expect_not_null(strstr(psd_worker_error(worker), "asks for adam("), "%s", psd_worker_error(worker));
    cr_expect_not_null(strstr(psd_worker_error(worker), "job trains with lookahead(adam("), "%s", psd_worker_error(worker));
    expect_error(worker, psd_worker_check_rule(worker, "adamm"), "the nearest is 'adam'");
    psd_worker_close(&worker);
}

Test(client, a_tensor_that_is_not_registered_counts_as_a_matrix_and_a_registered_one_as_what_it_is)
{
    static float w[2];
    const uint64_t two = 2;
    cluster_start_servers(&cluster, 1, "--workers-min=1 --optimizer=muon(lr=0.1)");
    psd_worker_t *worker = connect_to_job();
    psd_worker_group_t group = { .size = sizeof group };
    cr_assert_eq(psd_worker_group(worker, "fc.weight", &group), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(strncmp(group.optimizer, "muon(", 5), 0, "%s", group.optimizer);
    cr_assert_eq(psd_worker_register(worker, &(psd_tensor_t){ "fc.weight", &two, 1, w }, 1), PSD_W_OK, "%s",
                 psd_worker_error(worker));
    cr_assert_eq(psd_worker_group(worker, "fc.weight", &group), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_eq(strncmp(group.optimizer, "adamw(", 6), 0, "a vector is trained by the rule beside it, %s", group.optimizer);
    psd_worker_close(&worker);
}

Test(client, state_of_an_optimizer_that_is_none_is_malformed_data)
{
    float w[2] = { 0 };
    const uint64_t two = 2;
    const psd_worker_state_t state = { .size = sizeof state, .optimizer = "adam(lr=" };
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_t *worker = connect_to_job();
    cr_expect_eq(psd_worker_register_with(worker, &(psd_tensor_t){ "w", &two, 1, w }, 1, &state), PSD_W_EDATA, "%s",
                 psd_worker_error(worker));
    psd_worker_close(&worker);
}

Test(client, a_program_can_ask_how_the_job_trains_a_tensor)
{
    cluster_start_servers(&cluster, 1,
                          "--optimizer=adam(lr=0.1) --groups=embed.*(optimizer=sgd(lr=0.4),lr_mult=0.5,clip=0);*.bias(freeze=1)");
    psd_worker_t *worker = connect_to_job();
    psd_worker_group_t group = { .size = sizeof group };
    cr_assert_eq(psd_worker_group(worker, "embed.weight", &group), PSD_W_OK, "%s", psd_worker_error(worker));
    cr_expect_str_eq(group.match, "embed.*");
    cr_expect_eq(strncmp(group.optimizer, "sgd(lr=0.4, ", 12), 0, "%s", group.optimizer);
    cr_expect_eq(group.lr_mult, 2, "of a rate four times the job's");
    cr_expect(!group.clips && !group.freezes);
    cr_assert_eq(psd_worker_group(worker, "fc.bias", &group), PSD_W_OK);
    cr_expect(group.freezes);
    cr_assert_eq(psd_worker_group(worker, "fc.weight", &group), PSD_W_OK);
    cr_expect_str_eq(group.match, "");
    cr_expect_eq(strncmp(group.optimizer, "adam(lr=0.1, ", 13), 0, "%s", group.optimizer);
    cr_expect(group.lr_mult == 1 && group.clips && !group.freezes);
    group.size++;
    expect_error(worker, psd_worker_group(worker, "fc.weight", &group), "group: size is");
    psd_worker_close(&worker);
}
