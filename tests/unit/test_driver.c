#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/net/clusterfile.h"
#include "tests/support/fake_server.h"
#include "worker/driver.h"

/* Two sockets that play server 0 on this thread, and a driver on its own thread. */
static uv_loop_t loop;
static psd_net_t *worker_net;
static fake_server_t server[2];
static char dir[] = "/tmp/psd-test-XXXXXX", file[64];
static uint64_t hellos[2], attaches[2]; /* attaches: to server 1 */
static uint64_t nonce[2];               /* of the last HELLO to each */
static uint64_t peers[8];               /* connections by which these came, in order */
static uint32_t n_peers;
static bool refuses;
static uint64_t welcomes;            /* the job's run that server 0 welcomes workers to; 0: it does not answer */
static bool explains;                /* it answers each ATTACH with the reason why it has to wait */
static uint32_t leaves[2], n_leaves; /* the first codes of LEAVE that differ */
static atomic_bool was_refused;      /* as the driver reports */
static atomic_uint n_waiting;        /* lines on waiting, */
static int waiting_level;            /* and the level and text of the last one */
static char waiting[1500];
/* The first line with the id `awaited`, without it, and that it is there. */
static const char *awaited = "";
static char line_said[600];
static int level_said;
static atomic_bool was_said;
static uint64_t lease_ms = 60000; /* of the job */
static uint64_t patience_ms = 60000;
static uint64_t registers[2];  /* to server 0, at either address */
static const char *other = ""; /* the address of its second server; "": it has one */
static psd_handover_t *handover;
static psd_views_t *views;
static psd_driver_t *driver;
static psd_err_t err;

static void welcome(uint64_t nonce)
{
    psd_cluster_t cluster = { .n_servers = *other ? 2 : 1,
                              .settings = {
                                  .text = "x", .mode = "bsp", .optimizer = "sgd", .lease_ms = lease_ms, .part_elements = 4 } };
    memcpy(cluster.endpoint[0], server[0].at, sizeof server[0].at);
    snprintf(cluster.endpoint[1], sizeof cluster.endpoint[1], "%s", other);
    fake_server_send_cluster(
        &server[0], &(psd_msg_t){ .kind = PSD_MSG_WELCOME, .job = welcomes, .seq = nonce, .worker = 1, .incarnation = welcomes },
        &cluster);
}

/* Tell the worker that the servers have begun another run. */
static void refuse_run(void)
{
    fake_server_send(&server[0], &(psd_msg_t){ .kind = PSD_MSG_REFUSED, .job = welcomes, .code = PSD_REFUSAL_RUN }, NULL);
}

static void on_heard(fake_server_t *from, const psd_msg_t *msg, psd_buf_t *body)
{
    psd_msg_t answer = { .kind = PSD_MSG_REFUSED, .code = PSD_REFUSAL_JOB, .text = "another job" };
    (void)body;
    hellos[from - server] += msg->kind == PSD_MSG_HELLO;
    registers[from - server] += msg->kind == PSD_MSG_REGISTER || (msg->kind == PSD_MSG_ATTACH && !msg->shard);
    if (msg->kind == PSD_MSG_HELLO)
        nonce[from - server] = msg->seq;
    if (msg->kind == PSD_MSG_ATTACH && msg->shard == 1) {
        attaches[from - server]++;
        if (n_peers < 8 && (!n_peers || peers[n_peers - 1] != from->peer))
            peers[n_peers++] = from->peer;
        if (explains)
            fake_server_send(
                from,
                &(psd_msg_t){
                    .kind = PSD_MSG_WAIT, .job = welcomes, .shard = 1, .worker = 1, .incarnation = welcomes, .text = "worker 0" },
                NULL);
    }
    if (msg->kind == PSD_MSG_LEAVE && n_leaves < 2 && (!n_leaves || leaves[n_leaves - 1] != msg->code)) /* it is repeated */
        leaves[n_leaves++] = msg->code;
    if (msg->kind == PSD_MSG_HEARTBEAT && msg->job != welcomes)
        refuse_run();
    if (msg->kind == PSD_MSG_HELLO && welcomes)
        welcome(msg->seq);
    if (refuses)
        fake_server_send(from, &answer, NULL);
}

static void name_server(size_t s)
{
    psd_clusterfile_t found = { .job = "mnist", .status = "none", .run = s + 1 };
    memcpy(found.data, server[s].at, sizeof found.data);
    cr_assert_eq(psd_clusterfile_write(&found, file, &err), PSD_OK, "%s", err.text);
}

static void setup(void)
{
    const psd_keys_t none = { .insecure = true };
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/cluster.json", dir);
    umask(022);
    uv_loop_init(&loop);
    cr_assert(worker_net = psd_net_new(&none, NULL));
    for (size_t s = 0; s < 2; s++)
        fake_server_open(&server[s], &loop, on_heard);
    cr_assert_not_null(handover = psd_handover_new());
    cr_assert_not_null(views = psd_views_new());
    cr_assert_eq(psd_handover_open(handover, &err), PSD_OK);
}

static void teardown(void)
{
    psd_driver_stop(&driver);
    psd_net_destroy(&worker_net);
    psd_handover_destroy(&handover);
    psd_views_destroy(&views);
    for (size_t s = 0; s < 2; s++)
        fake_server_close(&server[s]);
    uv_run(&loop, UV_RUN_DEFAULT);
    for (size_t s = 0; s < 2; s++)
        fake_server_destroy(&server[s]);
    cr_expect_eq(uv_loop_close(&loop), 0);
    unlink(file);
    rmdir(dir);
}
TestSuite(driver, .init = setup, .fini = teardown, .timeout = 600);

static void on_line(void *arg, int level, const char *id, const char *line)
{
    (void)arg;
    if (!strcmp(id, "join.refused"))
        was_refused = true;
    if (!strcmp(id, awaited) && !was_said) {
        level_said = level;
        snprintf(line_said, sizeof line_said, "%s", line);
        was_said = true;
    }
    if (strcmp(id, "worker.waiting"))
        return;
    waiting_level = level;
    snprintf(waiting, sizeof waiting, "%s", line);
    n_waiting++;
}

static psd_caller_t caller;

static void start(char *join)
{
    static char job[] = "mnist", name[] = "w", recipe[] = "";
    caller = (psd_caller_t){ .net = worker_net,
                             .join = join,
                             .file = file,
                             .job = job,
                             .name = name,
                             .recipe = recipe,
                             .patience_ms = patience_ms,
                             .log = on_line };
    driver = psd_driver_start(&(psd_driver_config_t){ .caller = &caller, .handover = handover, .views = views }, &err);
}

static void await_hello(size_t s)
{
    while (!hellos[s])
        uv_run(&loop, UV_RUN_ONCE);
}

Test(driver, says_hello_where_server_0_is)
{
    psd_handover_state_t state;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_hello(0);
    psd_handover_look(handover, &state);
    cr_expect_str_eq(state.join, server[0].at);
    cr_expect_eq(state.phase, PSD_PHASE_JOINING);
}

Test(driver, a_file_that_is_wrong_starts_nothing)
{
    FILE *wrong = fopen(file, "w");
    fputs("{}", wrong);
    fclose(wrong);
    start("");
    cr_expect_null(driver);
    cr_expect_eq(err.code, PSD_EDATA);
}

Test(driver, a_refusal_by_the_wrong_server_is_not_the_end)
{
    psd_handover_state_t state;
    refuses = true;
    awaited = "join.refused";
    name_server(0);
    start("");
    cr_assert_not_null(driver, "%s", err.text);
    while (!was_refused || !was_said) /* then nothing else wakes this loop */
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(level_said, PSD_LEVEL_WARN, "%s", line_said);
    name_server(1);
    refuses = false;
    await_hello(1);
    psd_handover_look(handover, &state);
    cr_expect_str_eq(state.join, server[1].at);
    cr_expect_eq(state.phase, PSD_PHASE_JOINING, "%s", state.failure.text);
    cr_expect(nonce[0] && nonce[1] && nonce[0] != nonce[1], "it begins anew");
}

static int always(void *arg) { return arg == &server; }

Test(driver, a_program_may_end_the_wait_for_the_file_that_names_server_0)
{
    psd_handover_set_interrupt(handover, always, &server);
    start("");
    cr_expect_null(driver);
    cr_expect_eq(err.code, PSD_ESTOPPED, "%s", err.text);
}

Test(driver, a_refusal_by_the_server_that_the_file_names_is_final_after_five_seconds)
{
    const uint64_t begun = uv_hrtime();
    psd_handover_state_t state;
    refuses = true;
    name_server(0);
    start("");
    cr_assert_not_null(driver, "%s", err.text);
    do {
        uv_run(&loop, UV_RUN_NOWAIT);
        psd_handover_look(handover, &state);
    } while (state.phase != PSD_PHASE_FAILED);
    cr_expect_geq(uv_hrtime() - begun, UINT64_C(4900000000));
    cr_expect_eq(state.failure.code, PSD_EREFUSED);
    cr_expect_str_eq(state.failure.text, "server 0 refused (job): another job");
}

static void *await_joined(void *arg)
{
    static psd_err_t why;
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_JOINED, "join", -1, &why), PSD_EREFUSED, "%s", why.text);
    psd_driver_stop(&driver);
    uv_async_send(arg);
    return NULL;
}

static void end_loop(uv_async_t *async) { uv_close((uv_handle_t *)async, NULL), uv_stop(&loop); }

Test(driver, a_refusal_at_a_fixed_address_is_final)
{
    pthread_t caller;
    uv_async_t done;
    uv_async_init(&loop, &done, end_loop);
    refuses = true;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    pthread_create(&caller, NULL, await_joined, &done);
    uv_run(&loop, UV_RUN_DEFAULT);
    pthread_join(caller, NULL);
}

Test(driver, a_request_that_comes_too_soon_is_refused)
{
    static float array[1], *data = array;
    psd_err_t why;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    psd_handover_post(handover, &(psd_request_t){ .kind = PSD_REQUEST_PULL_SLOW, .data = &data });
    psd_driver_take_up(driver);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "pull", -1, &why), PSD_EINVAL, "%s", why.text);
}

static psd_handover_state_t look(void)
{
    psd_handover_state_t state;
    psd_handover_look(handover, &state);
    return state;
}

/* Run the loop of server 0 until the worker has joined, having rejoined this often. */
static void await_joined_again(uint64_t rejoins)
{
    for (psd_handover_state_t state = look(); state.phase != PSD_PHASE_JOINED || state.rejoins != rejoins; state = look())
        uv_run(&loop, UV_RUN_NOWAIT); /* both in one look: between two, it may have left the run before */
}

static void leave(bool finished, uint64_t rejoins)
{
    psd_handover_post(handover, &(psd_request_t){ .kind = PSD_REQUEST_LEAVE, .finished = finished, .rejoins = rejoins });
    psd_driver_take_up(driver);
}

Test(driver, work_that_was_finished_before_the_servers_went_back_is_not_left_as_finished)
{
    welcomes = 9;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    welcomes = 11;
    await_joined_again(1);
    leave(true, 0); /* posted while the first run was on, as far as the caller knew */
    leave(false, 0);
    while (!n_leaves)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(leaves[0], 1, "unfinished work may be left in any run");
    leave(true, 1);
    while (n_leaves < 2)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(leaves[1], 0);
}

Test(driver, a_program_is_told_that_it_waits_once_in_four_seconds)
{
    const uint64_t begun = uv_hrtime();
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    while (n_waiting < 2) {
        uv_run(&loop, UV_RUN_NOWAIT);
        usleep(1000);
    }
    cr_expect_geq(uv_hrtime() - begun, 2 * UINT64_C(4000000000), "each line comes so long after the one before");
    cr_expect_eq(waiting_level, PSD_LEVEL_INFO);
    cr_expect_str_eq(waiting, "for=\"an answer from server 0\"");
    cr_expect_str_eq(look().waiting, "waiting for an answer from server 0");
}

Test(driver, a_lost_server_is_warned_of_four_seconds_after_the_worker_has_joined)
{
    uint64_t joined;
    lease_ms = 600;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    for (const uint64_t end = uv_hrtime() + UINT64_C(3000000000); uv_hrtime() < end;)
        uv_run(&loop, UV_RUN_NOWAIT);
    welcomes = 9;
    await_joined_again(0);
    joined = uv_hrtime();
    while (!n_waiting)
        uv_run(&loop, UV_RUN_NOWAIT); /* heartbeats are not answered */
    cr_expect_geq(uv_hrtime() - joined, UINT64_C(3900000000), "the wait before was another one");
    cr_expect_eq(waiting_level, PSD_LEVEL_WARN);
    char words[256];
    snprintf(words, sizeof words, "for=\"server 0 at %s, silent for ", server[0].at);
    cr_expect_eq(strncmp(waiting, words, strlen(words)), 0, "%s", waiting);
    cr_expect_eq(strncmp(look().waiting, "waiting for server 0 at ", 24), 0, "%s", look().waiting);
}

Test(driver, an_address_where_nothing_listens_is_told_as_it_is)
{
    start("tcp://127.0.0.1:1");
    cr_assert_not_null(driver, "%s", err.text);
    while (!n_waiting)
        usleep(1000);
    cr_expect_str_eq(waiting, "for=\"no process listens at 127.0.0.1:1: connection refused\"");
    cr_expect_str_eq(look().waiting, "no process listens at 127.0.0.1:1: connection refused");
}

/* Run the loop of server 0 until the driver says a line with this id, which begins with these words. */
static void expect_line(const char *id, int level, const char *words)
{
    while (!was_said)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(level_said, level, "%s", line_said);
    cr_expect_eq(strncmp(line_said, words, strlen(words)), 0, "%s says %s", id, line_said);
    was_said = false;
}

static void start_and_await(const char *id)
{
    awaited = id;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
}

Test(driver, a_message_that_cannot_be_read_is_told_with_its_server)
{
    start_and_await("server.malformed");
    await_hello(0);
    psd_socket_send(server[0].socket, server[0].peer, "nonsense", 8, NULL);
    expect_line("server.malformed", PSD_LEVEL_WARN, "server=0 reason=\"");
}

Test(driver, a_server_whose_address_is_none_is_unreachable)
{
    welcomes = 9;
    other = "tcp://nowhere";
    start_and_await("server.unreachable");
    expect_line("server.unreachable", PSD_LEVEL_ERROR, "tcp://nowhere");
    await_joined_again(0); /* the next welcome may name another address */
}

/* It looks for news for a moment before it sleeps. */
Test(driver, a_program_that_waits_for_long_sleeps)
{
    struct timespec before, after;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    psd_driver_share(driver);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_JOINED, "join", 1000, &err), PSD_ETIMEOUT);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    const double used = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    cr_expect_lt(used, 0.2, "%.3f s of processor in a second", used);
}

Test(driver, memory_of_another_machine_is_not_used)
{
    const psd_offer_t offer = { .name = "psd-of-another-machine", .token = { 5 } };
    welcomes = 9;
    start_and_await("memory.unavailable");
    await_joined_again(0);
    psd_buf_t *body = psd_body_of_offer(&offer);
    fake_server_send(&server[0], &(psd_msg_t){ .kind = PSD_MSG_OFFER, .job = welcomes, .worker = 1, .incarnation = welcomes },
                     body);
    psd_buf_unref(&body);
    expect_line("memory.unavailable", PSD_LEVEL_DEBUG, "server=0 reason=\"");
    cr_expect_eq(look().phase, PSD_PHASE_JOINED);
}

Test(driver, a_worker_that_is_given_up_between_two_exchanges_is_told_by_the_descriptor)
{
    struct pollfd fd = { .fd = psd_handover_fd(handover), .events = POLLIN };
    welcomes = 9;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    cr_expect_eq(poll(&fd, 1, 0), 0);
    fake_server_send(&server[0],
                     &(psd_msg_t){ .kind = PSD_MSG_FENCED, .job = welcomes, .worker = 1, .incarnation = welcomes, .text = "x" },
                     NULL);
    while (look().phase != PSD_PHASE_FAILED)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(poll(&fd, 1, 60000), 1);
    cr_expect_eq(look().failure.code, PSD_EFENCED);
}

Test(driver, a_server_of_another_protocol_fails_the_session_with_both_numbers)
{
    welcomes = 9;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    fake_server_send(&server[0], &(psd_msg_t){ .kind = PSD_MSG_HEARTBEAT, .protocol = PSD_PROTOCOL + 1, .job = welcomes }, NULL);
    while (look().phase != PSD_PHASE_FAILED)
        uv_run(&loop, UV_RUN_NOWAIT);
    char words[120];
    snprintf(words, sizeof words, "server 0 uses protocol %d, this worker %d; install the same version on both", PSD_PROTOCOL + 1,
             PSD_PROTOCOL);
    cr_expect_str_eq(look().failure.text, words);
    cr_expect_eq(look().failure.code, PSD_EREFUSED);
}

static void register_model(void)
{
    static psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    static psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    static float w[2], *const data[] = { w };
    psd_handover_post(handover, &(psd_request_t){ .kind = PSD_REQUEST_REGISTER, .list = &list, .data = data });
    psd_driver_take_up(driver);
}

Test(driver, a_server_that_owes_an_answer_and_is_silent_is_connected_to_again_after_five_seconds)
{
    welcomes = 9;
    other = server[1].at;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    for (const uint64_t end = uv_hrtime() + UINT64_C(2000000000); uv_hrtime() < end;)
        uv_run(&loop, UV_RUN_NOWAIT); /* in which it owes nothing */
    const uint64_t begun = uv_hrtime();
    register_model();
    while (n_peers < 3)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_geq(uv_hrtime() - begun, UINT64_C(9900000000), "twice");
    cr_expect(peers[0] != peers[1] && peers[1] != peers[2] && peers[0] != peers[2]);
    cr_expect_eq(attaches[0], 0);
}

/* The new one is where server 0 listens too, so that a restarted server needs no third socket. */
Test(driver, server_1_is_attached_to_where_each_welcome_says_that_it_is)
{
    welcomes = 9;
    lease_ms = 600;
    other = server[1].at;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    register_model();
    while (!attaches[1])
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(attaches[0], 0);
    other = server[0].at;
    welcomes = 11;
    while (!attaches[0])
        uv_run(&loop, UV_RUN_NOWAIT);
}

/* ---- connections that fail ---- */

/* A listener that is no socket of ZeroMQ's; `at` gets its address. */
static int listen_plainly(char at[PSD_ENDPOINT_TEXT])
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && !bind(fd, (struct sockaddr *)&address, size) && !listen(fd, 16));
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    snprintf(at, PSD_ENDPOINT_TEXT, "tcp://127.0.0.1:%d", ntohs(address.sin_port));
    return fd;
}

/* Answer the next connection with these bytes. */
static int answer_with(int listener, const void *bytes, size_t n)
{
    const int fd = accept(listener, NULL, NULL);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, bytes, n), (ssize_t)n);
    return fd;
}

/* A greeting of ZeroMQ's protocol, with this mechanism of keys, and what a server says next if there are none. */
static int greet(int listener, const char *mechanism)
{
    static const char ready[] = "\4\x29\5READY\x0bSocket-Type\0\0\0\6ROUTER\x08Identity\0\0\0";
    char greeting[64] = { (char)0xff, [9] = 0x7f, [10] = 3, [32] = 1 };
    memcpy(greeting + 12, mechanism, strlen(mechanism));
    const int fd = answer_with(listener, greeting, sizeof greeting);
    if (!strcmp(mechanism, "NULL"))
        cr_assert_eq(write(fd, ready, sizeof ready), sizeof ready);
    return fd;
}

/* Run the loop of server 0 until the driver says that it waits for this. */
static void await_wait(const char *text)
{
    const uint64_t end = uv_hrtime() + UINT64_C(60000000000);
    while (strcmp(look().waiting, text) && uv_hrtime() < end)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_assert_str_eq(look().waiting, text);
}

#define NOT_PSD "accepts the connection, but not the handshake: check that it is a server of psd without keys"

Test(driver, the_trouble_with_a_connection_is_told_until_it_is_up_and_ends_the_session_only_if_it_will_never_be)
{
    char at[PSD_ENDPOINT_TEXT], not_psd[300], attaches_to[400], gone[300], keyed[300];
    const int listener = listen_plainly(at);
    welcomes = 9;
    other = at;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    snprintf(not_psd, sizeof not_psd, "%s " NOT_PSD, at);
    snprintf(attaches_to, sizeof attaches_to, "waiting for a session with server 0 (%s), a session with server 1 (%s)",
             server[0].at, at);
    snprintf(gone, sizeof gone, "no process listens at %.120s: connection refused", server[0].at + strlen("tcp://"));
    register_model();
    close(answer_with(listener, "HTTP/1.1 400 Bad Request\r\n\r\n", 28));
    await_wait(not_psd);
    const int connection = greet(listener, "NULL");
    await_wait(attaches_to);
    cr_expect_eq(look().phase, PSD_PHASE_REGISTERING);
    fake_server_close(&server[0]);
    await_wait(gone);
    close(connection);
    close(answer_with(listener, "HTTP/1.1 400 Bad Request\r\n\r\n", 28));
    await_wait(not_psd);
    close(greet(listener, "CURVE"));
    while (look().phase != PSD_PHASE_FAILED)
        usleep(1000);
    cr_expect_eq(look().failure.code, PSD_EAUTH);
    snprintf(keyed, sizeof keyed, "%s expects keys, but this program runs with --insecure", at);
    cr_expect_str_eq(look().failure.text, keyed);
    close(listener);
}

Test(driver, a_lost_server_is_told_with_the_reason_why_it_cannot_be_reached)
{
    char begin[200], end[300];
    welcomes = 9;
    lease_ms = 600;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    register_model();
    fake_server_close(&server[0]);
    snprintf(begin, sizeof begin, "waiting for server 0 at %s, silent for ", server[0].at);
    snprintf(end, sizeof end, " s (no process listens at %.120s: connection refused)", server[0].at + strlen("tcp://"));
    for (const uint64_t until = uv_hrtime() + UINT64_C(60000000000); !strstr(look().waiting, "refused)") && uv_hrtime() < until;)
        uv_run(&loop, UV_RUN_NOWAIT);
    const psd_handover_state_t state = look();
    cr_expect_eq(strncmp(state.waiting, begin, strlen(begin)), 0, "%s", state.waiting);
    const char *tail = strstr(state.waiting, " s (");
    cr_assert_not_null(tail, "%s", state.waiting);
    cr_expect_str_eq(tail, end);
}

Test(driver, a_server_that_says_why_it_has_to_wait_is_not_connected_to_again)
{
    welcomes = 9;
    other = server[1].at;
    explains = true;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    register_model();
    for (const uint64_t end = uv_hrtime() + UINT64_C(7000000000); uv_hrtime() < end;)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(n_peers, 1);
    cr_expect_gt(attaches[1], 1);
}

Test(driver, what_was_asked_for_before_the_end_is_still_done_and_sent)
{
    welcomes = 9;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    psd_handover_post(handover, &(psd_request_t){ .kind = PSD_REQUEST_LEAVE, .finished = false });
    psd_driver_stop(&driver);
    for (const uint64_t end = uv_hrtime() + UINT64_C(60000000000); !n_leaves && uv_hrtime() < end;)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(n_leaves, 1);
    cr_expect_eq(leaves[0], 1);
}

Test(driver, a_worker_that_has_joined_goes_on_where_the_file_says_that_server_0_is_now)
{
    welcomes = 9;
    name_server(0);
    start("");
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    register_model();
    while (!registers[0])
        uv_run(&loop, UV_RUN_NOWAIT);
    name_server(1);
    while (!registers[1])
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(hellos[1], 0, "it is still the same worker");
    cr_expect_str_eq(look().join, server[1].at);
    cr_expect_eq(look().phase, PSD_PHASE_REGISTERING);
}

Test(driver, a_server_that_stays_lost_is_given_up_when_the_patience_is_over)
{
    char words[200];
    welcomes = 9;
    lease_ms = 600;
    patience_ms = 2000;
    start(server[0].at);
    cr_assert_not_null(driver, "%s", err.text);
    await_joined_again(0);
    while (look().phase != PSD_PHASE_FAILED)
        uv_run(&loop, UV_RUN_NOWAIT); /* heartbeats are not answered */
    cr_expect_eq(look().failure.code, PSD_EUNAVAILABLE);
    snprintf(words, sizeof words, "gave up waiting for server 0 at %s, silent for ", server[0].at);
    cr_expect_eq(strncmp(look().failure.text, words, strlen(words)), 0, "%s", look().failure.text);
}
