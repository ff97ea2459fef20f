#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "server/core/coordinator.h"
#include "tests/support/said.h"

TestSuite(servers, .timeout = 600);

/* A coordinator of three servers; the test sends the messages of all, also of its own server. */
enum { JOB = 9, N = 3, LEASE_MS = 2000, PATIENCE_MS = 5000 };

static psd_coordinator_t *coordinator;
static psd_actions_t out;
static uint64_t now = 1000;

static psd_peer_t peer_of(unsigned k) { return k ? psd_peer_make(k, 1) : PSD_PEER_OWN_SHARD; }

static void setup(void)
{
    psd_coordinator_config_t config = { .job = "mnist",
                                        .job_id = JOB,
                                        .settings = &(psd_job_settings_t){ .text = "x", .mode = "bsp", .optimizer = "sgd" },
                                        .n_servers = N,
                                        .workers_min = 1,
                                        .workers_want = 1,
                                        .lease_ms = LEASE_MS,
                                        .patience_ms = PATIENCE_MS,
                                        .mode = psd_mode_find("bsp"),
                                        .lr = 1 };
    cr_assert_eq(psd_groups_parse(&config.groups, "sgd", "", NULL), PSD_OK);
    coordinator = psd_coordinator_new(&config, NULL);
}

static void teardown(void)
{
    psd_coordinator_destroy(&coordinator);
    psd_actions_clear(&out);
}

static const psd_msg_t *answer(psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind)
            return &out.at[i].msg;
    return NULL;
}

/* Process `k`, at its own address, asks for the place `index`; -1: for any. */
static void ask(unsigned k, int index)
{
    psd_msg_t msg = {
        .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = (uint64_t)(k + 1) << 16, .code = (uint32_t)(index + 1)
    };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://host:%u x", k);
    psd_buf_t *body = said_with(&msg, NULL, 0);
    psd_actions_drop(&out, out.n);
    psd_coordinator_message(coordinator, now, peer_of(k), &msg, body, &out);
    psd_buf_unref(&body);
}

/* For this long, processes 0 to `n` - 1 send heartbeats every 250 ms, for these places. */
static void live(uint64_t ms, unsigned n, const int *index)
{
    for (const uint64_t end = now + ms; now < end;) {
        now += 250;
        psd_coordinator_tick(coordinator, now, &out);
        for (unsigned k = 0; k < n; k++)
            ask(k, index[k]);
    }
}

static void expect_place(uint32_t shard)
{
    const psd_msg_t *yes = answer(PSD_MSG_SHARD_WELCOME);
    cr_assert_not_null(yes, "%s", answer(PSD_MSG_REFUSED) ? answer(PSD_MSG_REFUSED)->text : "no answer");
    cr_expect_eq(yes->shard, shard);
}

static void expect_refused(const char *words)
{
    const psd_msg_t *no = answer(PSD_MSG_REFUSED);
    cr_assert_not_null(no);
    cr_expect_eq(no->code, PSD_REFUSAL_SHARD);
    cr_expect(strstr(no->text, words), "%s", no->text);
}

Test(servers, no_other_process_is_server_0, .init = setup, .fini = teardown)
{
    ask(1, 0);
    expect_refused("tcp://host:1 cannot be server 0");
    ask(0, 0);
    expect_place(0);
    ask(1, 0);
    expect_refused("cannot be server 0");
    ask(1, -1);
    expect_place(1);
}

Test(servers, a_second_one_of_an_index_waits_for_the_first_to_prove_lost_and_is_refused_when_it_is_alive, .init = setup,
     .fini = teardown)
{
    const int index[] = { 0, 1, 1 };
    ask(0, 0);
    ask(1, 1);
    expect_place(1);
    ask(2, 1);
    cr_assert_not_null(answer(PSD_MSG_WAIT));
    cr_expect(strstr(answer(PSD_MSG_WAIT)->text, "server 1 at tcp://host:1 was here"), "%s", answer(PSD_MSG_WAIT)->text);
    live(LEASE_MS + 1250, 3, index);
    expect_refused("server 1 is the one at tcp://host:1, which is alive");
    ask(1, 1);
    expect_place(1);
}

Test(servers, a_server_elsewhere_waits_while_the_old_one_may_be_there_and_one_at_its_address_does_not, .init = setup,
     .fini = teardown)
{
    const int index[] = { 0 };
    ask(0, 0);
    ask(1, 1);
    live(1000, 1, index);
    ask(2, 1);
    cr_expect_not_null(answer(PSD_MSG_WAIT), "a second of silence proves nothing");
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = 50 << 16, .code = 2 };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://host:1 x");
    psd_buf_t *body = said_with(&msg, NULL, 0);
    psd_actions_drop(&out, out.n);
    psd_coordinator_message(coordinator, now, peer_of(3), &msg, body, &out);
    psd_buf_unref(&body);
    expect_place(1); /* two processes cannot be bound there */
}

Test(servers, a_second_server_takes_a_silent_ones_index_and_the_first_is_refused_when_it_returns, .init = setup, .fini = teardown)
{
    const int index[] = { 0 }, others[] = { 0, 1, 1 };
    ask(0, 0);
    ask(1, 1);
    live(1250, 1, index);
    ask(2, 1);
    expect_place(1);
    ask(1, 1);
    cr_assert_not_null(answer(PSD_MSG_WAIT));
    for (const uint64_t end = now + LEASE_MS + 1250; now < end; now += 250) {
        ask(0, others[0]);
        ask(2, 1);
        ask(1, 1);
    }
    expect_refused("server 1 is the one at tcp://host:2, which is alive");
}

Test(servers, several_that_are_too_many_are_each_refused, .init = setup, .fini = teardown)
{
    const int index[] = { 0, -1, -1, -1, -1, -1 };
    live(LEASE_MS + 1250, 6, index);
    for (unsigned k = 3; k < 6; k++) {
        ask(k, -1);
        expect_refused("is one too many: the job has 3");
    }
    ask(2, -1);
    expect_place(2);
}

Test(servers, a_place_between_two_runs_is_still_its_servers, .init = setup, .fini = teardown)
{
    ask(0, 0);
    ask(1, 1);
    ask(2, 2);
    psd_msg_t hello = { .kind = PSD_MSG_HELLO, .protocol = PSD_PROTOCOL, .seq = 77, .text = "mnist a:1" };
    psd_buf_t *body = said_with(&hello, NULL, 0);
    psd_actions_drop(&out, out.n);
    psd_coordinator_message(coordinator, now, psd_peer_make(9, 1), &hello, body, &out);
    psd_buf_unref(&body);
    cr_assert_not_null(answer(PSD_MSG_WELCOME)); /* a worker has been sent the servers' addresses */
    const int index[] = { 0, 1 };
    live(1250, 2, index);
    ask(3, 2); /* for server 2, which is silent: another run */
    expect_place(2);
    cr_expect_neq(answer(PSD_MSG_SHARD_WELCOME)->job, JOB);
    ask(4, 1); /* before server 1 has come back */
    cr_assert_not_null(answer(PSD_MSG_WAIT));
    ask(1, 1);
    expect_place(1);
}

/* The table alone: three servers; process k listens at host:k. */
static psd_servers_t table;

static char why[PSD_MAX_TEXT]; /* the reason of the last verdict */

static psd_server_admission_t judge(unsigned k, unsigned hello, uint32_t place, bool over)
{
    static char endpoint[32];
    snprintf(endpoint, sizeof endpoint, "tcp://host:%u", k);
    psd_server_hello_t h = { .from = peer_of(k), .nonce = ((uint64_t)(k + 1) << 16) + hello, .place = place, .endpoint = endpoint };
    const psd_server_admission_t said = psd_servers_judge(&table, now, &h, over, why, sizeof why);
    bool is_new;
    if (said == PSD_SERVER_ADMITTED)
        cr_assert_geq(psd_servers_join(&table, now, &h, 1, &is_new, why, sizeof why), 0, "%s", why);
    return said;
}

static void setup_table(void)
{
    psd_servers_init(&table, N, LEASE_MS);
    judge(0, 0, 0, false);
    judge(1, 1, 2, false);
}

static void drop(void) { psd_actions_clear(&out); }

Test(servers, when_another_run_begins_each_server_gets_its_own_place_at_once, .init = setup_table, .fini = drop)
{
    cr_expect_eq(judge(2, 1, 0, false), PSD_SERVER_ADMITTED);
    psd_servers_begin_run(&table);
    now += 10;
    cr_expect_eq(judge(2, 1, 0, false), PSD_SERVER_ADMITTED, "%s", why);
    cr_expect_eq(judge(1, 1, 0, false), PSD_SERVER_ADMITTED, "%s", why);
    cr_expect(psd_servers_is_from(&table, peer_of(2), 2) && psd_servers_is_from(&table, peer_of(1), 1));
}

Test(servers, a_hello_that_a_later_one_of_its_process_has_overtaken_gets_no_answer, .init = setup_table, .fini = drop)
{
    cr_expect_eq(judge(1, 0, 2, false), PSD_SERVER_OVERTAKEN);
    cr_expect_eq(judge(1, 1, 2, false), PSD_SERVER_ADMITTED);
    cr_expect_eq(judge(1, 2, 2, false), PSD_SERVER_RESTARTED);
}

Test(servers, when_the_job_is_over_a_restarted_server_is_reported_without_waiting_for_the_old_one, .init = setup_table,
     .fini = drop)
{
    cr_expect_eq(judge(2, 0, 2, false), PSD_SERVER_WAITS);
    cr_expect_eq(judge(2, 0, 2, true), PSD_SERVER_RESTARTED);
}

Test(servers, a_server_that_falls_silent_is_logged_once_and_again_when_it_speaks, .init = setup_table, .fini = drop)
{
    now += LEASE_MS;
    psd_servers_look(&table, now, &out);
    cr_expect_eq(psd_servers_count_lost(&table), 0); /* a lease is over after its last millisecond */
    cr_expect_eq(psd_servers_count_missing(&table), 1, "server 2 has not joined");
    now++;
    psd_servers_look(&table, now, &out);
    psd_servers_look(&table, now, &out);
    cr_expect_eq(psd_servers_count_lost(&table), 1); /* server 0 lives here and cannot be lost */
    cr_expect_eq(psd_servers_count_missing(&table), 2);
    psd_servers_note_state(&table, now, 1, 0, 0);
    psd_servers_look(&table, now, &out);
    cr_assert_eq(out.n, 2);
    cr_expect_str_eq(out.at[0].id, "server.lost");
    cr_expect_str_eq(out.at[0].msg.text, "shard=1 endpoint=tcp://host:1 silent_ms=2001");
    cr_expect_str_eq(out.at[1].id, "server.back");
    cr_expect_str_eq(out.at[1].msg.text, "shard=1 endpoint=tcp://host:1");
}

Test(servers, no_server_is_lost_for_a_silence_while_server_0_was_suspended, .init = setup_table, .fini = drop)
{
    now += LEASE_MS + 500;
    psd_servers_excuse(&table, 500, now);
    psd_servers_look(&table, now, &out);
    cr_expect_eq(psd_servers_count_lost(&table), 0);
}

Test(servers, a_time_in_which_server_0_was_suspended_does_not_count_for_how_long_a_server_has_asked, .init = setup_table,
     .fini = drop)
{
    judge(2, 0, 3, false);
    cr_expect_eq(judge(3, 0, 0, false), PSD_SERVER_WAITS, "all places are taken");
    cr_expect_str_eq(why, "all 3 servers of the job have been heard of within 2000 ms");
    now += 10 * LEASE_MS;
    psd_servers_excuse(&table, 10 * LEASE_MS, now);
    cr_expect_eq(judge(3, 0, 0, false), PSD_SERVER_WAITS, "the holder of a place may be gone, unnoticed meanwhile");
    now += LEASE_MS + 750;
    for (unsigned s = 1; s < N; s++)
        psd_servers_note_state(&table, now, s, 0, 0);
    cr_expect_eq(judge(3, 0, 0, false), PSD_SERVER_WAITS);
    now++;
    cr_expect_eq(judge(3, 0, 0, false), PSD_SERVER_REFUSED);
}

Test(servers, a_new_process_gets_the_place_that_its_address_had_before_another_that_is_free, .init = setup_table, .fini = drop)
{
    char why[PSD_MAX_TEXT];
    judge(2, 0, 3, false);
    now += LEASE_MS + 1; /* both are silent */
    psd_server_hello_t h = { .from = peer_of(9), .nonce = UINT64_C(99) << 16, .endpoint = "tcp://host:2" };
    cr_expect_eq(psd_servers_judge(&table, now, &h, false, why, sizeof why), PSD_SERVER_RESTARTED);
    cr_expect_eq(h.place, 3);
}

Test(servers, of_many_that_ask_the_one_that_began_first_is_forgotten, .init = setup_table, .fini = drop)
{
    judge(2, 0, 3, false);
    for (unsigned k = 3; k < 3 + PSD_MAX_ASKERS + 1; k++, now++)
        cr_expect_eq(judge(k, 0, 0, false), PSD_SERVER_WAITS);
    now += LEASE_MS + 750;
    for (unsigned s = 1; s < N; s++)
        psd_servers_note_state(&table, now, s, 0, 0);
    for (unsigned k = 4; k < 3 + PSD_MAX_ASKERS; k++)
        cr_expect_eq(judge(k, 0, 0, false), PSD_SERVER_REFUSED, "%u", k);
    cr_expect_eq(judge(3, 0, 0, false), PSD_SERVER_WAITS, "as if it had begun now");
}

Test(servers, only_the_connection_that_joined_speaks_for_a_server_of_this_run, .init = setup_table, .fini = drop)
{
    cr_expect(psd_servers_is_from(&table, peer_of(1), 1));
    cr_expect_not(psd_servers_is_from(&table, peer_of(2), 1));
    cr_expect_not(psd_servers_is_from(&table, peer_of(1), 2));
    cr_expect_not(psd_servers_is_from(&table, peer_of(1), N));
    psd_servers_begin_run(&table);
    cr_expect_not(psd_servers_is_from(&table, peer_of(1), 1));
}

Test(servers, those_that_are_missing_are_named_and_steps_are_added_up, .init = setup_table, .fini = drop)
{
    char text[32];
    psd_servers_note_state(&table, now, 0, 4, 4);
    psd_servers_note_state(&table, now, 1, 3, 3);
    cr_expect_eq(psd_servers_count_steps(&table), 7);
    psd_servers_leave(&table, 1);
    psd_servers_list_missing(&table, text, sizeof text);
    cr_expect_str_eq(text, "1, 2");
    psd_servers_begin_run(&table);
    cr_expect_eq(psd_servers_count_steps(&table), 0);
}
