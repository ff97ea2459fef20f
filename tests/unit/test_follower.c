#include <criterion/criterion.h>

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "proto/actions.h"
#include "psd/worker.h"
#include "tests/support/fake_server.h"

/* A thread that plays both servers of a job of two tensors, of which each holds one, or the only server; the test's thread is the
 * follower's. */
enum { RUN = 9, NUMBER = 4 };
static pthread_t thread;
static uv_loop_t loop;
static uv_async_t stop;
static fake_server_t server[3];
static uint32_t n_servers = 1;
static uint32_t second = 1; /* which of these is server 1 */

/* What it answers with: this message, or the weights. */
static struct {
    psd_kind_t kind; /* PSD_MSG_FOLLOWED: the weights; 0: nothing */
    uint32_t code, protocol;
    char text[64];
} script;
static uint32_t read_code;  /* of the last READ */
static unsigned n_reads[3]; /* that each server has had */
static uint64_t dumb_peer;  /* the connection to server 1 that is not answered; 0: none yet */
static bool is_dumb;        /* server 1 does not answer its first connection */
static char greeting[300];  /* "JOB NAME" of the last FOLLOW */
static float x = 1;         /* all weights */
static psd_follower_t *follower;

static void tell(fake_server_t *from, psd_msg_t *msg)
{
    msg->protocol = script.protocol;
    msg->job = RUN;
    fake_server_send(from, msg, NULL);
}

static void tell_snapshot(fake_server_t *from, const psd_msg_t *asked)
{
    const psd_msg_t followed = { .kind = PSD_MSG_FOLLOWED, .job = RUN, .seq = asked->seq, .clock = NUMBER };
    psd_cluster_t cluster = {
        .n_servers = n_servers,
        .settings = { .text = "x", .mode = "bsp", .optimizer = "sgd", .lease_ms = 60000, .part_elements = PSD_MAX_CHUNK }
    };
    for (uint32_t s = 0; s < n_servers; s++)
        memcpy(cluster.endpoint[s], server[s ? second : 0].at, sizeof server[s].at);
    psd_tensor_desc_t tensor[] = { { .name = "w", .n_dims = 2, .dim = { 3, 2 }, .n_elements = 6 },
                                   { .name = "b", .n_elements = 1 } };
    psd_tensor_list_t model = { .n = 2, .tensor = tensor }, list;
    if (asked->code & PSD_FOLLOW_MODEL && psd_tensors_copy(&list, &model) == PSD_OK) {
        psd_buf_t *body = psd_body_of_tensors(&list);
        fake_server_send(from, &(psd_msg_t){ .kind = PSD_MSG_MODEL, .job = RUN, .seq = asked->seq }, body);
        psd_buf_unref(&body);
    }
    fake_server_send_cluster(from, &followed, &cluster);
}

static void tell_weights(fake_server_t *from, const psd_msg_t *asked)
{
    const uint32_t s = from > server, n = n_servers == 1 ? 7 : s ? 1 : 6;
    const psd_msg_t msg = {
        .kind = PSD_MSG_VALUES, .job = RUN, .seq = asked->seq, .clock = NUMBER, .shard = s, .parts = 1, .version = 17 + s
    };
    float values[7];
    for (size_t i = 0; i < 7; i++)
        values[i] = x;
    fake_server_send_floats(from, &msg, values, n);
}

static void on_heard(fake_server_t *from, const psd_msg_t *msg, psd_buf_t *body)
{
    if (msg->kind == PSD_MSG_FOLLOW)
        snprintf(greeting, sizeof greeting, "%s %s", psd_body_hello(body)->job, psd_body_hello(body)->name);
    if (msg->kind == PSD_MSG_READ) {
        read_code = msg->code;
        n_reads[from - server]++;
    }
    if (is_dumb && from == &server[1] && (!dumb_peer || dumb_peer == from->peer))
        dumb_peer = from->peer;
    else if (msg->kind == PSD_MSG_READ)
        tell_weights(from, msg);
    else if (script.kind == PSD_MSG_FOLLOWED)
        tell_snapshot(from, msg);
    else if (script.kind) {
        psd_msg_t answer = { .kind = script.kind, .seq = msg->seq, .code = script.code };
        snprintf(answer.text, sizeof answer.text, "%s", script.text);
        tell(from, &answer);
    }
}

static void on_stop(uv_async_t *async)
{
    for (size_t s = 0; s < 3; s++)
        fake_server_close(&server[s]);
    uv_close((uv_handle_t *)async, NULL);
}

static void *serve(void *arg)
{
    uv_run(&loop, UV_RUN_DEFAULT);
    return arg;
}

static int interruptions = -1; /* calls; -1: the program asks for none */

static int interrupt_second(void *arg)
{
    cr_expect_eq(arg, &script);
    return ++interruptions == 2;
}

static void start(psd_kind_t kind, uint32_t code, const char *text)
{
    script.kind = kind;
    script.code = code;
    snprintf(script.text, sizeof script.text, "%s", text);
    uv_loop_init(&loop);
    uv_async_init(&loop, &stop, on_stop);
    for (size_t s = 0; s < 3; s++)
        fake_server_open(&server[s], &loop, on_heard);
    cr_assert_eq(pthread_create(&thread, NULL, serve, NULL), 0);
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = server[0].at,
                                         .job = "mnist",
                                         .name = "eye",
                                         .insecure = true,
                                         .interrupted = interruptions < 0 ? NULL : interrupt_second,
                                         .interrupted_arg = &script };
    cr_assert_eq(psd_follower_open(&follower, &config), PSD_W_OK, "%s", psd_follower_error(follower));
}

static void teardown(void)
{
    psd_follower_close(&follower);
    uv_async_send(&stop);
    pthread_join(thread, NULL);
    cr_expect_eq(uv_loop_close(&loop), 0);
    for (size_t s = 0; s < 3; s++)
        fake_server_destroy(&server[s]);
}
TestSuite(follower, .fini = teardown, .timeout = 120);

static void expect_tensor(size_t i, const char *name, size_t n_dims)
{
    psd_tensor_t tensor;
    cr_assert_eq(psd_follower_tensor(follower, i, &tensor), PSD_W_OK, "%s", psd_follower_error(follower));
    cr_expect_str_eq(tensor.name, name);
    cr_expect_eq(tensor.n_dims, n_dims);
    if (n_dims)
        cr_expect(tensor.shape[0] == 3 && tensor.shape[1] == 2);
    for (size_t k = 0; k < (n_dims ? 6 : 1); k++)
        cr_expect_eq(tensor.data[k], x);
}

Test(follower, it_reads_every_tensor_with_its_shape_and_the_version_of_all)
{
    start(PSD_MSG_FOLLOWED, 0, "");
    cr_expect_eq(psd_follower_n_tensors(follower), 0);
    cr_expect_eq(psd_follower_version(follower), 0);
    for (int slow = 0; slow < 2; slow++, x++) {
        cr_assert_eq(psd_follower_pull(follower, slow, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
        cr_expect_eq(read_code, slow ? PSD_READ_SLOW : 0);
        cr_expect_eq(psd_follower_n_tensors(follower), 2);
        cr_expect_eq(psd_follower_version(follower), 17);
        expect_tensor(0, "w", 2);
        expect_tensor(1, "b", 0);
    }
    cr_expect_str_eq(greeting, "mnist eye");
    psd_tensor_t tensor;
    cr_expect_eq(psd_follower_tensor(follower, 2, &tensor), PSD_W_EINVAL);
    cr_expect_str_eq(psd_follower_error(follower), "tensor: there is no tensor 2; 2 were pulled");
}

Test(follower, a_job_that_has_failed_is_told_with_its_own_code)
{
    start(PSD_MSG_REFUSED, PSD_REFUSAL_ABSENT, "gave up waiting for worker 3");
    cr_expect_eq(psd_follower_pull(follower, 0, 60000), PSD_W_EUNAVAILABLE);
    cr_expect_not_null(strstr(psd_follower_error(follower), "gave up waiting for worker 3"), "%s", psd_follower_error(follower));
}

Test(follower, another_job_is_a_refusal)
{
    start(PSD_MSG_REFUSED, PSD_REFUSAL_JOB, "this is job cifar");
    cr_expect_eq(psd_follower_pull(follower, 0, 60000), PSD_W_EREFUSED);
    cr_expect_not_null(strstr(psd_follower_error(follower), "this is job cifar"), "%s", psd_follower_error(follower));
}

Test(follower, another_protocol_is_told_with_both_numbers)
{
    char words[128];
    script.protocol = PSD_PROTOCOL + 1;
    start(PSD_MSG_WAIT, 0, "x");
    snprintf(words, sizeof words, "server 0 uses protocol %d, this library %d; install one version everywhere", PSD_PROTOCOL + 1,
             PSD_PROTOCOL);
    cr_expect_eq(psd_follower_pull(follower, 0, 60000), PSD_W_EREFUSED);
    cr_expect_str_eq(psd_follower_error(follower), words);
}

Test(follower, a_pull_waits_for_as_long_as_it_may_and_says_for_what)
{
    start(PSD_MSG_WAIT, 0, "the job to begin");
    cr_expect_eq(psd_follower_pull(follower, 0, 0), PSD_W_ETIMEOUT, "with 0 it only looks");
    char words[80 + PSD_ENDPOINT_TEXT];
    snprintf(words, sizeof words, "pull: nothing was read from %s in 100 ms; waiting for the job to begin", server[0].at);
    for (int i = 0; i < 600 && strcmp(psd_follower_error(follower), words); i++) /* the answer comes soon */
        cr_assert_eq(psd_follower_pull(follower, 0, 100), PSD_W_ETIMEOUT);
    cr_expect_str_eq(psd_follower_error(follower), words);
}

Test(follower, it_reads_from_every_server_and_has_the_version_of_the_one_that_is_behind)
{
    n_servers = 2;
    start(PSD_MSG_FOLLOWED, 0, "");
    for (int i = 0; i < 2; i++, x++) {
        cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
        cr_expect_eq(psd_follower_version(follower), 17);
        expect_tensor(0, "w", 2);
        expect_tensor(1, "b", 0);
    }
}

Test(follower, a_server_that_has_moved_is_read_where_it_is_now)
{
    n_servers = 2;
    start(PSD_MSG_FOLLOWED, 0, "");
    cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    cr_expect(n_reads[0] && n_reads[1] && !n_reads[2]);
    n_reads[0] = n_reads[1] = 0;
    second = 2;
    x = 2;
    cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    expect_tensor(0, "w", 2);
    expect_tensor(1, "b", 0);
    cr_expect(n_reads[0] && !n_reads[1] && n_reads[2]);
    n_servers = 1; /* and the next run has one server */
    x = 3;
    cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    expect_tensor(0, "w", 2);
    expect_tensor(1, "b", 0);
}

Test(follower, a_server_that_is_silent_is_connected_to_again_after_five_seconds)
{
    n_servers = 2;
    is_dumb = true;
    start(PSD_MSG_FOLLOWED, 0, "");
    const uint64_t begun = uv_hrtime();
    cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    cr_expect_geq(uv_hrtime() - begun, UINT64_C(4900000000));
    cr_expect_neq(dumb_peer, 0);
    expect_tensor(0, "w", 2);
    expect_tensor(1, "b", 0);
}

Test(follower, a_fork_of_the_program_gets_no_weights_and_leaves_the_parents_alone)
{
    int status;
    char words[160];
    start(PSD_MSG_FOLLOWED, 0, "");
    snprintf(words, sizeof words, "pull: this handle belongs to process %d, of which this is a fork; open one in this process",
             (int)getpid());
    const pid_t child = fork();
    if (!child) {
        const bool ok = psd_follower_pull(follower, 0, 60000) == PSD_W_EINVAL && !strcmp(psd_follower_error(follower), words);
        psd_follower_close(&follower);
        _exit(ok && !follower ? 0 : 1);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(psd_follower_pull(follower, 0, 60000), PSD_W_OK, "%s", psd_follower_error(follower));
    expect_tensor(0, "w", 2);
}

Test(follower, a_program_may_end_a_pull)
{
    interruptions = 0;
    start(PSD_MSG_WAIT, 0, "the job to begin");
    cr_expect_eq(psd_follower_pull(follower, 0, -1), PSD_W_ESTOPPED);
    cr_expect_eq(interruptions, 2);
    cr_expect_str_eq(psd_follower_error(follower), "pull: interrupted");
}

Test(follower, a_program_may_end_the_wait_for_the_address_of_server_0)
{
    start(PSD_MSG_WAIT, 0, "");
    psd_follower_close(&follower);
    interruptions = 0;
    const psd_worker_config_t config = { .size = sizeof config,
                                         .cluster_file = "/no/such/directory/cluster",
                                         .join_timeout_ms = 10000,
                                         .insecure = true,
                                         .interrupted = interrupt_second,
                                         .interrupted_arg = &script };
    cr_expect_eq(psd_follower_open(&follower, &config), PSD_W_ESTOPPED, "%s", psd_follower_error(follower));
    cr_expect_eq(interruptions, 2);
    cr_expect_eq(strncmp(psd_follower_error(follower), "interrupted while waiting for server 0: ", 40), 0, "%s",
                 psd_follower_error(follower));
}

Test(follower, a_handle_that_is_not_open_says_why_and_has_nothing)
{
    psd_tensor_t tensor;
    start(PSD_MSG_WAIT, 0, "");
    psd_follower_close(&follower);
    cr_expect_eq(psd_follower_open(NULL, NULL), PSD_W_EINVAL);
    cr_expect_eq(psd_follower_open(&follower, &(psd_worker_config_t){ .size = 1 }), PSD_W_EINVAL);
    cr_expect_eq(psd_follower_pull(follower, 0, -1), PSD_W_EINVAL);
    cr_expect_neq(psd_follower_error(follower)[0], '\0');
    cr_expect_eq(psd_follower_n_tensors(follower), 0);
    cr_expect_eq(psd_follower_version(follower), 0);
    cr_expect_eq(psd_follower_tensor(follower, 0, &tensor), PSD_W_EINVAL);
    cr_expect_str_eq(psd_follower_error(follower), "tensor: there is no tensor 0; 0 were pulled");
    psd_follower_close(&follower);
    cr_expect_null(follower);
    psd_follower_close(NULL);
    cr_expect_str_eq(psd_follower_error(NULL), "");
}
