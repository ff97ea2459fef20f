#include <criterion/criterion.h>

#include <time.h>
#include <zmq.h>

#include "common/rng.h"
#include "common/transport.h"

TestSuite(transport, .timeout = 120);

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
    net = psd_net_new(NULL);
    router = psd_socket_bind(net, &loop, "tcp://127.0.0.1:0", &(psd_socket_handler_t){ on_server_message, on_bad, NULL }, endpoint, NULL);
    cr_assert_not_null(router);
    dealer = psd_socket_connect(net, &loop, endpoint, 16, &(psd_socket_handler_t){ on_client_message, on_bad, NULL }, NULL);
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

/* Until the connection stands, sends find no room. */
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

/* ZeroMQ's descriptor is edge-triggered: a driver that misses an edge leaves messages lying. Bursts of random length,
 * with sends in between that may swallow edges. */
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
    /* Nothing wakes a loop that missed an edge, so that a message left lying lies for ever; a busy machine
     * may keep the loop waiting for a while. */
    cr_assert_lt(longest_gap_ms, 5000, "a message lay for %llu ms", (unsigned long long)longest_gap_ms);
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
    cr_assert_null(psd_socket_bind(net, &loop, endpoint, &(psd_socket_handler_t){ on_server_message, on_bad, NULL }, bound, &err));
    cr_assert_eq(err.code, PSD_EIO);
    cr_assert_not_null(strstr(err.text, endpoint));
}

Test(transport, a_send_to_an_unknown_peer_says_so, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_socket_send(router, UINT64_C(1) << 63 | 12345, "head", 4, NULL), PSD_EUNAVAILABLE);
}
