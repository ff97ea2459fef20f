#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/net/clusterfile.h"
#include "common/net/uplink.h"

/* Two servers, one of which a file names; the test sets the time. */
static uv_loop_t loop;
static psd_net_t *net;
static psd_socket_t *server[2];
static char at[2][PSD_ENDPOINT_TEXT], dir[] = "/tmp/psd-test-XXXXXX", file[64];
static uint64_t heard[2], last_peer[2], answers, moves, run;
static char last_id[64], last_line[512];
static psd_uplink_t *link_up;
static psd_err_t err;

static void on_hello(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    const size_t s = (size_t)(uintptr_t)arg;
    heard[s]++;
    last_peer[s] = peer;
    psd_socket_send(server[s], peer, header, n, payload);
}

static void on_answer(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    (void)arg, (void)header, (void)n, (void)payload;
    cr_expect_eq(peer, 16);
    answers++;
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    cr_expect_fail("%s", why);
}

static void on_denied(void *arg, const char *why)
{
    (void)arg;
    cr_expect_fail("%s", why);
}

static void on_moved(void *arg) { (void)arg, moves++; }
static bool on_waiting(void *arg, const char *reason)
{
    (void)arg;
    cr_expect_null(reason);
    return true;
}

static void on_line(void *arg, psd_log_level_t level, const char *id, const char *line)
{
    (void)arg, (void)level;
    snprintf(last_id, sizeof last_id, "%s", id);
    snprintf(last_line, sizeof last_line, "%s", line);
}

static void name_server(size_t s)
{
    psd_clusterfile_t found = { .job = "mnist", .status = "none", .run = ++run };
    memcpy(found.data, at[s], sizeof found.data);
    cr_assert_eq(psd_clusterfile_write(&found, file, &err), PSD_OK, "%s", err.text);
}

static psd_uplink_config_t config(const char *join)
{
    return (psd_uplink_config_t){ .net = net,
                                  .job = "mnist",
                                  .join = join,
                                  .file = file,
                                  .timeout_ms = 1,
                                  .peer = 16,
                                  .on_message = on_answer,
                                  .on_bad = on_bad,
                                  .on_denied = on_denied,
                                  .on_moved = on_moved,
                                  .on_waiting = on_waiting,
                                  .log = on_line };
}

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/cluster.json", dir);
    umask(022);
    uv_loop_init(&loop);
    cr_assert_not_null(net = psd_net_new(&(psd_keys_t){ .insecure = true }, NULL));
    for (uintptr_t s = 0; s < 2; s++) {
        const psd_socket_handler_t handler = { on_hello, on_bad, NULL, (void *)s };
        cr_assert_not_null(server[s] = psd_socket_bind(net, &loop, "tcp://127.0.0.1:0", &handler, at[s], NULL));
    }
}

static void teardown(void)
{
    psd_uplink_close(&link_up, 0);
    for (size_t s = 0; s < 2; s++)
        psd_socket_close(&server[s], 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    psd_net_destroy(&net);
    cr_expect_eq(uv_loop_close(&loop), 0);
    unlink(file);
    rmdir(dir);
}
TestSuite(uplink, .init = setup, .fini = teardown, .timeout = 600);

static void open_by(const char *join)
{
    const psd_uplink_config_t c = config(join);
    cr_assert_not_null(link_up = psd_uplink_new(&c, &err), "%s", err.text);
    cr_assert_eq(psd_uplink_connect(link_up, &loop, &err), PSD_OK, "%s", err.text);
}

static void tick(uint64_t now_ms, bool asks) { cr_expect_eq(psd_uplink_tick(link_up, now_ms, asks, &err), PSD_OK, "%s", err.text); }

/* Tick regularly, so that no time counts as absence. */
static void tick_until(uint64_t from_ms, uint64_t to_ms, bool asks)
{
    for (uint64_t now = from_ms; now <= to_ms; now += 50)
        tick(now, asks);
}

/* Send until an answer comes. */
static void talk(void)
{
    const uint64_t before = answers;
    while (psd_uplink_send(link_up, "head", 4, NULL) != PSD_OK)
        uv_run(&loop, UV_RUN_NOWAIT);
    while (answers == before)
        uv_run(&loop, UV_RUN_ONCE);
}

Test(uplink, a_fixed_address_takes_precedence_over_the_file)
{
    name_server(1);
    open_by(at[0]);
    cr_expect_str_eq(psd_uplink_address(link_up), at[0]);
    talk();
    cr_expect(heard[0] == 1 && heard[1] == 0);
    tick_until(1000, 4000, true);
    cr_expect_eq(moves, 0);
    cr_expect_not(psd_uplink_doubts(link_up, 4000, PSD_EREFUSED, "no"), "no other server can be meant");
}

Test(uplink, the_file_says_where_server_0_is)
{
    name_server(1);
    open_by("");
    talk();
    cr_expect(heard[1] == 1 && heard[0] == 0);
}

Test(uplink, a_file_that_never_comes_is_reported_with_the_reason_of_the_wait)
{
    const psd_uplink_config_t c = config("");
    cr_expect_null(psd_uplink_new(&c, &err));
    cr_expect_eq(err.code, PSD_ETIMEOUT);
    cr_expect_not_null(strstr(err.text, file), "%s", err.text);
}

Test(uplink, a_silent_server_is_left_for_the_one_that_the_file_names_now)
{
    name_server(0);
    open_by("");
    tick(1000, true);
    name_server(1);
    tick_until(1050, 1450, true);
    cr_expect_eq(moves, 0, "450 ms do not count as silence");
    tick(1500, true);
    cr_expect_eq(moves, 1);
    cr_expect_str_eq(psd_uplink_address(link_up), at[1]);
    cr_expect_str_eq(last_id, "join.elsewhere");
    talk();
    cr_expect_eq(heard[1], 1);
}

Test(uplink, a_server_that_answers_or_owes_nothing_is_not_left)
{
    name_server(0);
    open_by("");
    tick(1000, true);
    name_server(1);
    tick_until(1050, 9000, false);
    for (uint64_t now = 9050; now < 12000; now += 200) {
        talk();
        tick(now, true);
    }
    cr_expect_eq(moves, 0);
    cr_expect_eq(heard[1], 0);
}

Test(uplink, a_deaf_connection_is_made_anew)
{
    open_by(at[0]);
    talk();
    const uint64_t before = last_peer[0];
    tick_until(1000, 5950, true);
    talk();
    cr_expect_eq(last_peer[0], before, "4950 ms do not count as a dead link");
    tick_until(6000, 11000, true);
    talk();
    cr_expect_neq(last_peer[0], before);
}

Test(uplink, silence_during_our_own_absence_does_not_count)
{
    open_by(at[0]);
    talk();
    const uint64_t before = last_peer[0];
    tick(1000, true);
    tick(60000, true); /* this process was stopped for 59 s */
    talk();
    cr_expect_eq(last_peer[0], before);
}

Test(uplink, a_refusal_at_an_address_of_the_file_is_final_after_a_while)
{
    name_server(0);
    open_by("");
    tick(1000, true);
    cr_assert(psd_uplink_doubts(link_up, 1000, PSD_EREFUSED, "the job is full"));
    cr_expect_str_eq(last_id, "join.refused");
    cr_expect_not_null(strstr(last_line, "the job is full"), "%s", last_line);
    cr_expect(psd_uplink_doubts(link_up, 2000, PSD_EAUTH, "a later one"));
    cr_expect_null(psd_uplink_refusal(link_up, 5999));
    const psd_err_t *refusal = psd_uplink_refusal(link_up, 6000);
    cr_assert_not_null(refusal);
    cr_expect_eq(refusal->code, PSD_EREFUSED);
    cr_expect_str_eq(refusal->text, "the job is full");
}

Test(uplink, a_refusal_by_the_wrong_server_is_forgotten)
{
    name_server(0);
    open_by("");
    tick(1000, true);
    cr_assert(psd_uplink_doubts(link_up, 1000, PSD_EREFUSED, "the job is full"));
    cr_expect_str_eq(psd_uplink_trouble(link_up, 1000), "the job is full");
    name_server(1);
    tick(1050, false);
    cr_expect_eq(moves, 1, "the file is read without a silence");
    cr_expect_null(psd_uplink_refusal(link_up, 60000));
    cr_expect_str_eq(psd_uplink_trouble(link_up, 1050), "");
}

Test(uplink, a_silent_address_is_explained_by_the_system)
{
    psd_socket_close(&server[0], 0);
    uv_run(&loop, UV_RUN_NOWAIT);
    open_by("tcp://127.0.0.1:1");
    tick(1000, true);
    cr_expect_str_eq(psd_uplink_trouble(link_up, 2900), "", "too early to ask");
    while (!*psd_uplink_trouble(link_up, 3000))
        uv_run(&loop, UV_RUN_ONCE);
    cr_expect_not_null(strstr(psd_uplink_trouble(link_up, 3000), "no process listens at 127.0.0.1:1"), "%s",
                       psd_uplink_trouble(link_up, 3000));
    cr_expect_not(psd_uplink_is_unresolved(link_up));
}
