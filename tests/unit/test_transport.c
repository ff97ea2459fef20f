#include <criterion/criterion.h>
#include <dirent.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "common/base/rng.h"
#include "common/net/transport.h"

TestSuite(transport, .timeout = 600);

static uv_loop_t loop;
static psd_net_t *net;
static psd_socket_t *router, *dealer;
static char endpoint[PSD_ENDPOINT_TEXT];
static uint64_t got, echoed, bad, last_ms, longest_gap_ms, asked;
static uint64_t last_peer;
static const char *last_why;

static uint64_t now_ms(void) { return uv_hrtime() / 1000000; }

static void note_arrival(void)
{
    uint64_t now = now_ms();
    if (last_ms && now - last_ms > longest_gap_ms)
        longest_gap_ms = now - last_ms;
    last_ms = now;
}

static void on_server_message(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    (void)arg;
    got++;
    last_peer = peer;
    psd_socket_send(router, peer, header, n, payload);
}

static void on_client_message(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    (void)arg, (void)header, (void)n;
    cr_assert_eq(peer, 16);
    cr_assert(!payload || (uintptr_t)payload->data % sizeof(float) == 0);
    note_arrival();
    echoed++;
    if (echoed == asked)
        uv_stop(&loop);
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    bad++;
    last_why = why;
    uv_stop(&loop);
}

static void setup(void)
{
    uv_loop_init(&loop);
    net = psd_net_new(&(psd_keys_t){ .insecure = true }, NULL);
    router = psd_socket_bind(net, &loop, "tcp://127.0.0.1:0", &(psd_socket_handler_t){ on_server_message, on_bad, NULL, NULL },
                             endpoint, NULL);
    cr_assert_not_null(router);
    dealer = psd_socket_connect(net, &loop, endpoint, 16, &(psd_socket_handler_t){ on_client_message, on_bad, NULL, NULL }, NULL);
    cr_assert_not_null(dealer);
}

static void teardown(void)
{
    psd_socket_close(&router, 0);
    psd_socket_close(&dealer, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    psd_net_destroy(&net);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

/* Until the connection is established, sends find no room. */
static void send_surely(size_t n_payload)
{
    psd_buf_t *payload = n_payload ? psd_buf_new(n_payload) : NULL;
    if (payload)
        memset(payload->data, 7, n_payload);
    while (psd_socket_send(dealer, 0, "head", 4, payload) != PSD_OK)
        uv_run(&loop, UV_RUN_NOWAIT);
    psd_buf_unref(&payload);
}

Test(transport, a_message_comes_back_whole, .init = setup, .fini = teardown)
{
    asked = 1;
    send_surely(1 << 20);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(got == 1 && echoed == 1 && bad == 0);
    cr_assert(last_peer >> 63, "a peer of a ROUTER has bit 63 set");
}

/* ZeroMQ's descriptor is edge-triggered: a driver that misses an edge does not read waiting messages. Bursts of random length, with
 * sends in between that may swallow edges. */
Test(transport, no_message_is_left_lying_in_bursts_of_any_length, .init = setup, .fini = teardown)
{
    uint64_t random = 5, sent = 0;
    send_surely(0);
    asked = sent = 1;
    uv_run(&loop, UV_RUN_DEFAULT);
    while (sent < 200000) {
        uint64_t burst = 1 + psd_splitmix64(&random) % 300;
        for (uint64_t i = 0; i < burst; i++)
            send_surely(psd_splitmix64(&random) % 100);
        asked = sent += burst;
        last_ms = 0;
        uv_run(&loop, UV_RUN_DEFAULT);
        cr_assert_eq(echoed, sent);
    }
    /* Nothing wakes a loop that missed an edge, so an unread message would stay unread; a busy machine may delay the loop for a
     * while. */
    cr_assert_lt(longest_gap_ms, 5000, "a message waited for %llu ms", (unsigned long long)longest_gap_ms);
}

static void stop_loop(uv_timer_t *timer) { uv_stop(timer->loop); }

/* The opposite trap: a loop that polls a descriptor that stays readable burns a core. */
Test(transport, an_idle_loop_sleeps, .init = setup, .fini = teardown)
{
    static uv_timer_t timer; /* closes after the test has returned */
    asked = 1;
    send_surely(0);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, stop_loop, 1000, 0);
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    uv_run(&loop, UV_RUN_DEFAULT);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    double used = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    cr_assert_lt(used, 0.05, "%.3f s of processor in one idle second", used);
    uv_close((uv_handle_t *)&timer, NULL);
}

static void expect_bad(const char *frames[], size_t n, const char *routing_id, const char *why)
{
    void *context = zmq_ctx_new(), *raw = zmq_socket(context, ZMQ_DEALER);
    int linger = 0;
    zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof linger);
    if (routing_id)
        zmq_setsockopt(raw, ZMQ_ROUTING_ID, routing_id, strlen(routing_id));
    cr_assert_eq(zmq_connect(raw, endpoint), 0);
    for (size_t i = 0; i < n; i++)
        zmq_send(raw, frames[i], strlen(frames[i]), i + 1 < n ? ZMQ_SNDMORE : 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(bad, 1);
    cr_assert_not_null(strstr(last_why, why), "%s", last_why);
    zmq_close(raw);
    zmq_ctx_term(context);
}

static size_t count_threads(void)
{
    size_t n = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks && (task = readdir(tasks));)
        n += *task->d_name != '.';
    closedir(tasks);
    return n;
}

/* The number of threads that a new net starts with its first socket. */
static size_t threads_of_a_net(int n)
{
    psd_net_t *other = psd_net_new(&(psd_keys_t){ .insecure = true }, NULL);
    if (n)
        psd_net_use_threads(other, n);
    const size_t before = count_threads();
    psd_socket_t *socket =
        psd_socket_connect(other, &loop, endpoint, 16, &(psd_socket_handler_t){ on_client_message, on_bad, NULL, NULL }, NULL);
    const size_t begun = count_threads() - before;
    psd_socket_close(&socket, 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    psd_net_destroy(&other);
    return begun;
}

Test(transport, connections_are_carried_by_the_configured_number_of_threads, .init = setup, .fini = teardown)
{
    cr_expect_eq(threads_of_a_net(1), threads_of_a_net(0), "one by default");
    cr_expect_eq(threads_of_a_net(3), threads_of_a_net(1) + 2);
}

Test(transport, one_frame_is_no_message, .init = setup, .fini = teardown)
{
    expect_bad((const char *[]){ "head" }, 1, NULL, "one frame");
}

Test(transport, three_frames_are_no_message, .init = setup, .fini = teardown)
{
    expect_bad((const char *[]){ "head", "body", "tail" }, 3, NULL, "more than two");
}

Test(transport, a_routing_id_of_ones_own_choice_is_refused, .init = setup, .fini = teardown)
{
    expect_bad((const char *[]){ "head", "body" }, 2, "worker-1", "routing id");
}

Test(transport, an_address_in_use_is_an_error_that_names_it, .init = setup, .fini = teardown)
{
    psd_err_t err;
    char bound[PSD_ENDPOINT_TEXT];
    cr_assert_null(
        psd_socket_bind(net, &loop, endpoint, &(psd_socket_handler_t){ on_server_message, on_bad, NULL, NULL }, bound, &err));
    cr_assert_eq(err.code, PSD_EIO);
    cr_assert_not_null(strstr(err.text, endpoint));
}

Test(transport, a_send_to_an_unknown_peer_says_so, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_socket_send(router, UINT64_C(1) << 63 | 12345, "head", 4, NULL), PSD_EUNAVAILABLE);
}

/* ---- keys ---- */

static psd_keys_t server_keys, client_keys;
static psd_socket_t *guard;
static psd_link_t last_link;
static unsigned n_links;
static uint8_t known_key[PSD_KEY_BYTES];
enum { ALICE = 513 };

static uint32_t admit(void *arg, const uint8_t key[PSD_KEY_BYTES])
{
    (void)arg;
    return memcmp(key, known_key, PSD_KEY_BYTES) ? 0 : ALICE;
}

static uint32_t admit_all(void *arg, const uint8_t key[PSD_KEY_BYTES])
{
    (void)arg, (void)key;
    return 1;
}

static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    (void)arg, (void)peer;
    last_link = link;
    n_links++;
    uv_stop(&loop);
}

static void setup_keys(void)
{
    uv_loop_init(&loop);
    psd_keys_draw(&server_keys);
    psd_keys_draw(&client_keys);
    memcpy(server_keys.server, server_keys.public, PSD_KEY_TEXT);
    memcpy(client_keys.server, server_keys.public, PSD_KEY_TEXT);
    cr_assert(psd_key_decode(known_key, client_keys.public));
    net = psd_net_new(&server_keys, NULL);
    cr_assert_not_null(guard = psd_socket_guard(net, &loop, admit, NULL, NULL));
    router = psd_socket_bind(net, &loop, "tcp://0.0.0.0:0", &(psd_socket_handler_t){ on_server_message, on_bad, NULL, NULL },
                             endpoint, NULL);
    cr_assert_not_null(router, "with keys, any address will do");
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", atoi(strrchr(endpoint, ':') + 1));
}

static void teardown_keys(void)
{
    psd_socket_close(&router, 0);
    psd_socket_close(&guard, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    psd_net_destroy(&net);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

/* Connect with these keys, and wait for the outcome. */
static psd_link_t link_with(psd_net_t **client, const psd_keys_t *keys)
{
    *client = psd_net_new(keys, NULL);
    dealer =
        psd_socket_connect(*client, &loop, endpoint, 16, &(psd_socket_handler_t){ on_client_message, on_bad, on_link, NULL }, NULL);
    cr_assert_not_null(dealer);
    uv_run(&loop, UV_RUN_DEFAULT);
    return last_link;
}

static void hang_up(psd_net_t **client)
{
    psd_socket_close(&dealer, 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    psd_net_destroy(client);
}

Test(transport, a_known_key_is_let_in_and_its_messages_are_its_users, .init = setup_keys, .fini = teardown_keys)
{
    psd_net_t *client;
    cr_assert_eq(link_with(&client, &client_keys), PSD_LINK_UP);
    for (asked = 1; asked <= 20; asked++) { /* after polling, too */
        send_surely(asked % 2 ? 0 : 3000);
        uv_run(&loop, UV_RUN_DEFAULT);
        cr_assert_eq(psd_peer_user(last_peer), ALICE);
        cr_assert_eq(last_peer >> 63, 1);
    }
    cr_assert(got == 20 && echoed == 20 && bad == 0);
    hang_up(&client);
}

static psd_buf_t *kept[3];

static void keep_message(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    (void)arg, (void)peer, (void)header, (void)n;
    kept[got++] = psd_buf_ref(payload);
    if (got == 3)
        uv_stop(&loop);
}

Test(transport, a_users_bytes_are_counted_until_they_are_released, .init = setup_keys, .fini = teardown_keys)
{
    psd_net_t *client;
    psd_socket_close(&router, 0);
    router = psd_socket_bind(net, &loop, "tcp://127.0.0.1:0", &(psd_socket_handler_t){ keep_message, on_bad, NULL, NULL }, endpoint,
                             NULL);
    cr_assert_eq(link_with(&client, &client_keys), PSD_LINK_UP);
    send_surely(1 << 20);
    send_surely(5); /* lies within ZeroMQ's own memory */
    send_surely(1000);
    while (got < 3)
        uv_run(&loop, UV_RUN_ONCE);
    cr_assert_eq(psd_net_held(net, ALICE), (1 << 20) + 5 + 1000);
    cr_assert_eq(psd_net_held(net, 0), (1 << 20) + 5 + 1000, "all users");
    cr_assert_eq(psd_net_held(net, ALICE + 1), 0);
    psd_buf_unref(&kept[0]);
    psd_buf_unref(&kept[1]);
    cr_assert_eq(psd_net_held(net, ALICE), 1000);
    hang_up(&client);
    teardown_keys();
    psd_buf_unref(&kept[2]); /* after the net */
    setup_keys();
}

Test(transport, a_stranger_that_the_guard_admits_is_seen, .init = setup_keys, .fini = teardown_keys)
{
    psd_socket_close(&guard, 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    for (int i = 0; i < 1000 && !guard; i++, uv_sleep(1)) /* it is closed in ZeroMQ's thread */
        guard = psd_socket_guard(net, &loop, admit_all, NULL, NULL);
    cr_assert_not_null(guard);
    dealer = psd_socket_knock(net, &loop, endpoint, &(psd_socket_handler_t){ on_client_message, on_bad, on_link, NULL }, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(last_link, PSD_LINK_UP);
    psd_socket_close(&dealer, 0);
}

Test(transport, an_unknown_key_receives_a_refusal_and_its_messages_are_dropped, .init = setup_keys, .fini = teardown_keys)
{
    psd_net_t *client;
    psd_keys_t other;
    char why[400];
    psd_keys_draw(&other);
    memcpy(other.server, server_keys.public, PSD_KEY_TEXT);
    cr_assert_eq(link_with(&client, &other), PSD_LINK_DENIED);
    psd_link_describe(client, last_link, endpoint, why, sizeof why);
    cr_assert_not_null(strstr(why, other.public), "%s", why);
    cr_assert_neq(psd_socket_send(dealer, 0, "head", 4, NULL), PSD_OK);
    hang_up(&client);

    memcpy(other.server, client_keys.public, PSD_KEY_TEXT); /* it takes the server for another */
    cr_assert_eq(link_with(&client, &other), PSD_LINK_BROKEN);
    hang_up(&client);
    psd_keys_t cheat = client_keys; /* alice's public key without her secret */
    memcpy(cheat.secret, other.secret, PSD_KEY_TEXT);
    cr_assert_eq(link_with(&client, &cheat), PSD_LINK_BROKEN);
    hang_up(&client);
    psd_link_t without = link_with(&client, &(psd_keys_t){ .insecure = true });
    cr_assert(without == PSD_LINK_BROKEN || without == PSD_LINK_MISMATCH, "%d", without);
    hang_up(&client);
    cr_assert(got == 0 && bad == 0);
}

Test(transport, a_stranger_that_knocks_is_denied, .init = setup_keys, .fini = teardown_keys)
{
    dealer = psd_socket_knock(net, &loop, endpoint, &(psd_socket_handler_t){ on_client_message, on_bad, on_link, NULL }, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(last_link, PSD_LINK_DENIED);
    psd_socket_close(&dealer, 0);
}

static void bind_anew(void)
{
    psd_socket_close(&router, 0);
    for (int i = 0; i < 5000 && !router; i++, uv_sleep(1)) /* the address comes free in ZeroMQ's thread */
        router =
            psd_socket_bind(net, &loop, endpoint, &(psd_socket_handler_t){ on_server_message, on_bad, NULL, NULL }, endpoint, NULL);
    cr_assert_not_null(router);
}

Test(transport, a_socket_that_is_bound_again_has_lost_all_peers_and_accepts_them_again, .init = setup_keys, .fini = teardown_keys)
{
    psd_net_t *client;
    cr_assert_eq(link_with(&client, &client_keys), PSD_LINK_UP);
    asked = 1;
    send_surely(0);
    uv_run(&loop, UV_RUN_DEFAULT);
    const uint64_t before = last_peer;
    bind_anew();
    cr_assert_eq(psd_socket_send(router, before, "head", 4, NULL), PSD_EUNAVAILABLE);
    n_links = 0;
    while (!n_links)
        uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(last_link, PSD_LINK_UP, "it connects again by itself");
    asked = 2;
    send_surely(0);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_neq(last_peer, before);
    cr_assert_eq(psd_peer_user(last_peer), ALICE);
    known_key[0] ^= 1; /* and now she may not */
    bind_anew();
    n_links = 0;
    while (!n_links)
        uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(last_link, PSD_LINK_DENIED);
    hang_up(&client);
}

/* Whether a new connection gets ZeroMQ's greeting within `wait_ms`. */
static bool is_answered(int wait_ms)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    to.sin_port = htons((uint16_t)atoi(strrchr(endpoint, ':') + 1));
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pollfd heard = { .fd = fd, .events = POLLIN };
    cr_assert(connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS);
    const bool answered = poll(&heard, 1, wait_ms) == 1 && heard.revents == POLLIN;
    close(fd);
    return answered;
}

Test(transport, existing_connections_stay_while_no_new_ones_are_taken, .init = setup, .fini = teardown)
{
    asked = 1;
    send_surely(0);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert(is_answered(10000));
    psd_socket_take(router, false);
    cr_expect_not(is_answered(300));
    asked = 2;
    send_surely(0);
    uv_run(&loop, UV_RUN_DEFAULT);
    cr_expect_eq(echoed, 2);
    psd_socket_take(router, true);
    cr_expect(is_answered(10000));
}

Test(transport, without_keys_only_addresses_of_this_machine_are_taken, .init = setup, .fini = teardown)
{
    static const struct {
        const char *endpoint;
        bool here;
    } cases[] = { { "tcp://127.0.0.1:1", true },
                  { "tcp://127.9.9.9:1", true },
                  { "tcp://localhost:1", true },
                  { "tcp://[::1]:1", true },
                  { "ipc:///tmp/psd-test", true },
                  { "tcp://0.0.0.0:1", false },
                  { "tcp://10.0.0.1:1", false },
                  { "tcp://127.evil.org:1", false },
                  { "tcp://[::]:1", false },
                  { "tcp://*:1", false },
                  { "tcp://lo:1", false },
                  { "ipc://@psd-test", false },
                  { "tcp://localhost.evil.org:1", false },
                  { "tcp://128.0.0.1:1", false },
                  { "tcp://1", false } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        psd_err_t err = { 0 };
        psd_socket_t *socket = psd_socket_connect(net, &loop, cases[i].endpoint, 16,
                                                  &(psd_socket_handler_t){ on_client_message, on_bad, NULL, NULL }, &err);
        cr_expect_eq(socket != NULL, cases[i].here, "%s: %s", cases[i].endpoint, err.text);
        cr_expect(socket || (err.code == PSD_ECONFIG && strstr(err.text, "is not on this machine")), "%s", err.text);
        psd_socket_close(&socket, 0);
    }
    char bound[PSD_ENDPOINT_TEXT];
    psd_err_t err;
    cr_expect_null(psd_socket_bind(net, &loop, "tcp://0.0.0.0:0", &(psd_socket_handler_t){ on_server_message, on_bad, NULL, NULL },
                                   bound, &err));
    cr_expect_eq(err.code, PSD_ECONFIG);
}

/* ---- when ZeroMQ asks its guard, and when it admits every peer ---- */

typedef struct doorman {
    void *context, *rep;
    const char *status; /* "200", "400"; NULL: there is none */
} doorman_t;

/* Answers every request in the same way, until the context ends. */
static void answer_requests(void *arg)
{
    doorman_t *self = arg;
    void *rep = self->rep;
    char frame[256], id[256];
    while (zmq_recv(rep, frame, sizeof frame, 0) >= 0) {
        int more = 1, n_id = zmq_recv(rep, id, sizeof id, 0);
        size_t size = sizeof more;
        while (!zmq_getsockopt(rep, ZMQ_RCVMORE, &more, &size) && more)
            zmq_recv(rep, frame, sizeof frame, 0);
        const char *const rest[] = { self->status, "", "alice", "" };
        zmq_send(rep, "1.0", 3, ZMQ_SNDMORE);
        zmq_send(rep, id, n_id, ZMQ_SNDMORE);
        for (int f = 0; f < 4; f++)
            zmq_send(rep, rest[f], strlen(rest[f]), f < 3 ? ZMQ_SNDMORE : 0);
    }
    zmq_close(rep);
}

/* Wait without limit for a peer that is admitted, and only a moment for one that is not. */
static bool lets_a_stranger_in(const char *status, bool has_domain, int enforce, bool expected)
{
    doorman_t doorman = { .context = zmq_ctx_new(), .status = status };
    psd_keys_t server, stranger;
    uv_thread_t thread;
    char at[PSD_ENDPOINT_TEXT], text[8];
    size_t n = sizeof at;
    int one = 1, zero = 0, patience = expected ? 30000 : 700;
    psd_keys_draw(&server);
    psd_keys_draw(&stranger);
    if (status) {
        doorman.rep = zmq_socket(doorman.context, ZMQ_REP);
        cr_assert_eq(zmq_bind(doorman.rep, "inproc://zeromq.zap.01"), 0);
        uv_thread_create(&thread, answer_requests, &doorman);
    }
    void *door = zmq_socket(doorman.context, ZMQ_ROUTER), *client = zmq_socket(doorman.context, ZMQ_DEALER);
    zmq_setsockopt(door, ZMQ_CURVE_SERVER, &one, sizeof one);
    zmq_setsockopt(door, ZMQ_CURVE_SECRETKEY, server.secret, PSD_KEY_TEXT);
    if (has_domain)
        zmq_setsockopt(door, ZMQ_ZAP_DOMAIN, "psd", 3);
    cr_assert_eq(zmq_setsockopt(door, 93 /* ZMQ_ZAP_ENFORCE_DOMAIN */, &enforce, sizeof enforce), 0);
    zmq_setsockopt(door, ZMQ_RCVTIMEO, &patience, sizeof patience);
    cr_assert_eq(zmq_bind(door, "tcp://127.0.0.1:*"), 0);
    zmq_getsockopt(door, ZMQ_LAST_ENDPOINT, at, &n);
    zmq_setsockopt(client, ZMQ_CURVE_PUBLICKEY, stranger.public, PSD_KEY_TEXT);
    zmq_setsockopt(client, ZMQ_CURVE_SECRETKEY, stranger.secret, PSD_KEY_TEXT);
    zmq_setsockopt(client, ZMQ_CURVE_SERVERKEY, server.public, PSD_KEY_TEXT);
    zmq_setsockopt(client, ZMQ_LINGER, &zero, sizeof zero);
    zmq_connect(client, at);
    zmq_send(client, "in", 2, 0);
    bool in = zmq_recv(door, text, sizeof text, 0) >= 0;
    zmq_close(client);
    zmq_close(door);
    while (zmq_ctx_shutdown(doorman.context) && errno == EINTR)
        ;
    if (status)
        uv_thread_join(&thread);
    zmq_ctx_term(doorman.context);
    return in;
}

/* Of all ways to set it up, only ours stays closed both when the guard refuses and when there is no guard. If an update of ZeroMQ
 * changes a row, check our use of it. */
Test(transport, zeromq_lets_strangers_in_unless_a_guard_with_a_domain_is_enforced)
{
    static const struct {
        const char *status;
        bool domain;
        int enforce;
        bool lets_in;
    } table[] = {
        { NULL, false, 0, true },   { NULL, false, 1, true },  { NULL, true, 0, true },   { NULL, true, 1, false },
        { "400", false, 0, false }, { "400", false, 1, true }, { "400", true, 0, false }, { "400", true, 1, false },
        { "200", false, 0, true },  { "200", false, 1, true }, { "200", true, 0, true },  { "200", true, 1, true },
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        cr_expect_eq(lets_a_stranger_in(table[i].status, table[i].domain, table[i].enforce, table[i].lets_in), table[i].lets_in,
                     "guard says %s, domain %d, enforced %d", table[i].status ? table[i].status : "nothing", table[i].domain,
                     table[i].enforce);
}

/* The test sets the clock, so that it does not wait for handshakes that never come; a connection that is not accepted yet is
 * counted later. */
Test(transport, only_a_connection_that_never_shakes_hands_is_counted, .init = setup, .fini = teardown)
{
    enum { HOSTILE = 30 };
    static const char *const noise[] = { "GET / HTTP/1.0\r\n\r\n", "\x01", "" };
    uint64_t clock_ms = 0;
    unsigned short port = (unsigned short)strtoul(strrchr(endpoint, ':') + 1, NULL, 10);
    asked = 1;
    send_surely(0);
    uv_run(&loop, UV_RUN_DEFAULT);
    for (int i = 0; i < HOSTILE; i++) {
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
        send(fd, noise[i % 3], strlen(noise[i % 3]), MSG_NOSIGNAL);
        close(fd);
    }
    for (const uint64_t end = now_ms() + 60000; now_ms() < end && psd_net_refused(net, clock_ms += 5000) < HOSTILE;)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(psd_net_refused(net, clock_ms += 5000), HOSTILE, "and not the one that trains");
    cr_expect_eq(psd_net_refused(net, clock_ms += 5000), HOSTILE, "each once");
}
