#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/log.h"
#include "common/memory/local.h"
#include "server/entrance/entrance.h"

/* An entrance, and two workers of which a list may name none, one or both. The test sets the time. */
static uv_loop_t loop;
static psd_keys_t server_keys, keys[2];
static psd_net_t *net, *worker_net[2];
static psd_socket_t *worker[2];
static psd_entrance_t *entrance;
static uint64_t heard, answers[2], last_peer, now_ms = 1000;
static bool was_denied;
static char list[] = "/tmp/psd-test-XXXXXX";
static psd_err_t err;
static psd_arena_t *arena; /* NULL: no messages go through shared memory */
static psd_local_t *local;
static bool local_is_up;
static bool keeps; /* messages with a payload are stored, not answered */
static psd_buf_t *kept;

static void on_message(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    (void)arg;
    heard++;
    last_peer = peer;
    if (keeps && payload)
        kept = psd_buf_ref(payload);
    else
        psd_entrance_send(entrance, peer, false, header, n, payload);
}

static void on_answer(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    (void)arg, (void)header, (void)n, (void)payload;
    answers[peer - 16]++;
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    cr_expect_fail("%s", why);
}

static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    (void)arg, (void)peer;
    was_denied |= link == PSD_LINK_DENIED;
}

/* As an editor saves: a new file replaces the old one. */
static void write_list(bool first, bool second)
{
    char other[64];
    snprintf(other, sizeof other, "%s.new", list);
    FILE *file = fopen(other, "w");
    fprintf(file, "ps server %s\n", server_keys.public);
    if (first)
        fprintf(file, "one worker %s\n", keys[0].public);
    if (second)
        fprintf(file, "two worker %s\n", keys[1].public);
    fclose(file);
    chmod(other, 0600);
    cr_assert_eq(rename(other, list), 0);
}

static void setup(void)
{
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_ERROR, .comp = "test", .job = "entrance" });
    uv_loop_init(&loop);
    close(mkstemp(list));
    psd_keys_draw(&server_keys);
    for (size_t i = 0; i < 2; i++) {
        psd_keys_draw(&keys[i]);
        memcpy(keys[i].server, server_keys.public, sizeof keys[i].server);
    }
}

static void teardown(void)
{
    for (size_t i = 0; i < 2; i++)
        psd_socket_close(&worker[i], 0);
    psd_entrance_close(&entrance, 0);
    psd_local_close(&local);
    uv_run(&loop, UV_RUN_DEFAULT);
    psd_arena_destroy(&arena);
    psd_net_destroy(&net);
    for (size_t i = 0; i < 2; i++)
        psd_net_destroy(&worker_net[i]);
    cr_expect_eq(uv_loop_close(&loop), 0);
    unlink(list);
}
TestSuite(entrance, .init = setup, .fini = teardown, .timeout = 600);

static void open_with(const psd_keys_t *own, const char *allow, uint64_t memory_max)
{
    const psd_entrance_config_t config = { .loop = &loop,
                                           .net = net = psd_net_new(own, &err),
                                           .listen = "tcp://127.0.0.1:0",
                                           .allow = allow,
                                           .memory_max = memory_max,
                                           .arena = arena,
                                           .on_message = on_message,
                                           .on_bad = on_bad };
    cr_assert_not_null(entrance = psd_entrance_new(&config, &err), "%s", err.text);
}

static void connect_worker(size_t i, const psd_keys_t *own)
{
    const psd_socket_handler_t handler = { on_answer, on_bad, on_link, NULL };
    cr_assert_not_null(worker_net[i] = psd_net_new(own, &err));
    worker[i] = psd_socket_connect(worker_net[i], &loop, psd_entrance_endpoint(entrance), 16 + i, &handler, &err);
    cr_assert_not_null(worker[i], "%s", err.text);
}

/* A turn of the loop and a tick, a millisecond by both clocks: an address that was closed comes free in ZeroMQ's time. */
static void turn(void)
{
    uv_sleep(1);
    now_ms += 1;
    cr_assert_eq(psd_entrance_tick(entrance, now_ms, &err), PSD_OK, "%s", err.text);
    uv_run(&loop, UV_RUN_NOWAIT);
}

static void open_up(void)
{
    const uint64_t began_ms = now_ms;
    while (!psd_entrance_is_open(entrance)) {
        turn();
        now_ms = began_ms; /* the test of a stranger takes no time */
    }
}

/* Send until an answer comes. */
static void talk(size_t i)
{
    for (const uint64_t before = answers[i]; answers[i] == before; turn())
        psd_socket_send(worker[i], 0, "head", 4, NULL);
}

Test(entrance, without_keys_every_peer_is_admitted_at_once)
{
    const psd_keys_t none = { .insecure = true };
    open_with(&none, "", 0);
    cr_expect(psd_entrance_is_open(entrance));
    connect_worker(0, &none);
    talk(0);
    cr_expect_geq(heard, 1);
    char why[64];
    cr_expect_eq(psd_entrance_judge(entrance, last_peer, PSD_MSG_ADMIN, 0, why, sizeof why), PSD_REFUSAL_NONE);
}

Test(entrance, no_peer_is_heard_before_a_stranger_was_refused)
{
    write_list(true, false);
    open_with(&server_keys, list, 0);
    connect_worker(0, &keys[0]);
    while (psd_socket_send(worker[0], 0, "head", 4, NULL) != PSD_OK)
        uv_run(&loop, UV_RUN_NOWAIT);
    for (size_t i = 0; i < 100; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_not(psd_entrance_is_open(entrance));
    cr_expect_eq(heard, 0);
    open_up();
    talk(0);
    cr_expect_geq(heard, 1);
    cr_expect_eq(psd_entrance_refused(entrance, now_ms), 0, "the stranger of the test is not counted");
}

Test(entrance, a_test_that_does_not_end_ends_the_server)
{
    write_list(true, false);
    open_with(&server_keys, list, 0);
    cr_assert_eq(psd_entrance_tick(entrance, 100000, &err), PSD_OK, "the time before the first tick does not count");
    cr_expect_eq(psd_entrance_tick(entrance, 105000, &err), PSD_OK);
    cr_expect_eq(psd_entrance_tick(entrance, 105001, &err), PSD_EAUTH);
    cr_expect_not_null(strstr(err.text, "stranger"), "%s", err.text);
}

Test(entrance, an_unknown_key_is_refused_and_counted)
{
    write_list(true, false);
    open_with(&server_keys, list, 0);
    open_up();
    connect_worker(1, &keys[1]);
    while (!was_denied)
        turn();
    cr_expect_eq(psd_entrance_refused(entrance, now_ms), 1);
    cr_expect_eq(heard, 0);
}

Test(entrance, a_user_removed_from_the_list_is_disconnected_and_the_others_reconnect)
{
    char why[64];
    write_list(true, true);
    open_with(&server_keys, list, 0);
    open_up();
    connect_worker(0, &keys[0]);
    connect_worker(1, &keys[1]);
    talk(0);
    talk(1);
    const uint64_t second = last_peer;
    char endpoint[PSD_ENDPOINT_TEXT];
    memcpy(endpoint, psd_entrance_endpoint(entrance), sizeof endpoint);
    write_list(true, false);
    now_ms += 250;
    turn();
    cr_expect_eq(psd_entrance_send(entrance, second, false, "head", 4, NULL), PSD_EAGAIN, "all connections are closed");
    const uint64_t before = answers[1];
    talk(0);
    cr_expect_eq(answers[1], before);
    cr_expect_str_eq(psd_entrance_endpoint(entrance), endpoint, "it is bound where it was");
    cr_expect_eq(psd_entrance_judge(entrance, second, PSD_MSG_PUSH, 0, why, sizeof why), PSD_REFUSAL_SENDER);
}

/* Whether the worker's side of a link through shared memory is up. */
static void on_local_link(void *arg, uint64_t peer, psd_link_t link)
{
    (void)arg, (void)peer;
    local_is_up = link == PSD_LINK_UP;
}

/* The second worker, linked through shared memory to an entrance; returns its peer there. */
static psd_peer_t link_through_memory(void)
{
    psd_offer_t offer;
    cr_assert_not_null(arena = psd_arena_new(SIZE_MAX / 2, &err), "%s", err.text);
    open_with(&server_keys, list, 0);
    open_up();
    connect_worker(1, &keys[1]);
    talk(1);
    const psd_peer_t second = last_peer;
    cr_assert(psd_entrance_offer(entrance, second, &offer));
    const psd_socket_handler_t handler = { on_answer, on_bad, on_local_link, NULL };
    cr_assert_not_null(local = psd_local_new(&loop, arena, SIZE_MAX / 2, &handler, &err), "%s", err.text);
    cr_assert_eq(psd_local_connect(local, offer.name, offer.token, 17, &err), PSD_OK, "%s", err.text);
    while (!local_is_up || !psd_entrance_links(entrance))
        turn();
    return second;
}

Test(entrance, a_link_through_memory_is_the_peers_that_was_offered_it_and_ends_with_its_connection)
{
    psd_offer_t offer;
    write_list(true, true);
    const psd_peer_t second = link_through_memory();
    cr_expect_not(psd_entrance_offer(entrance, second, &offer), "it has one");
    const size_t before = heard;
    cr_assert_eq(psd_local_send(local, 17, "head", 4, NULL), PSD_OK);
    while (heard == before)
        turn();
    cr_expect_eq(last_peer, second, "with the user that its key has");
    write_list(true, false);
    now_ms += 250;
    turn();
    cr_expect_eq(psd_entrance_links(entrance), 0);
    while (local_is_up)
        turn();
}

Test(entrance, a_payload_through_memory_counts_among_its_senders_bytes_until_it_is_released)
{
    write_list(true, true);
    const psd_peer_t second = link_through_memory();
    psd_buf_t *payload = psd_arena_new_buf(arena, 2048);
    cr_assert_not_null(payload);
    memset(payload->data, 7, payload->n_bytes);
    keeps = true;
    cr_assert_eq(psd_local_send(local, 17, "head", 4, payload), PSD_OK);
    psd_buf_unref(&payload);
    while (!kept)
        turn();
    cr_expect_eq(kept->n_bytes, 2048);
    cr_expect_eq(((const uint8_t *)kept->data)[2047], 7);
    cr_expect_eq(psd_net_held(net, psd_peer_user(second)), 2048);
    cr_expect_eq(psd_net_held(net, 0), 2048);
    psd_buf_unref(&kept);
    cr_expect_eq(psd_net_held(net, psd_peer_user(second)), 0);
    cr_expect_eq(psd_net_held(net, 0), 0);
}

Test(entrance, memory_over_its_bound_closes_all_connections_once)
{
    const psd_keys_t none = { .insecure = true };
    open_with(&none, "", 1);
    connect_worker(0, &none);
    while (psd_entrance_send(entrance, 17, false, "head", 4, NULL) != PSD_EAGAIN) /* otherwise no peer has that number */
        uv_run(&loop, UV_RUN_ONCE);
    talk(0);
    cr_expect_geq(answers[0], 1, "the process's own needs are no reason to close again");
}

Test(entrance, a_list_without_this_server_is_refused_where_there_are_others)
{
    write_list(true, true);
    net = psd_net_new(&keys[1], &err);
    const psd_entrance_config_t config = { .loop = &loop,
                                           .net = net,
                                           .listen = "tcp://127.0.0.1:0",
                                           .allow = list,
                                           .has_peers = true,
                                           .on_message = on_message,
                                           .on_bad = on_bad };
    cr_expect_null(psd_entrance_new(&config, &err));
    cr_expect_eq(err.code, PSD_ECONFIG);
}
