#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "server/core/coordinator.h"
#include "tests/support/said.h"

TestSuite(endings, .timeout = 600);

/* How a job ends, depending on its workers: a coordinator of two servers; the test sends the messages of the servers and the
 * workers. */
enum { JOB = 9, LEASE_MS = 1000, PATIENCE_MS = 3000, WORKERS = 3 };

static psd_coordinator_t *coordinator;
static psd_actions_t out;
static uint64_t now = 1000;
static bool alive[WORKERS], shard_alive = true;

static void say(psd_peer_t from, const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *buf = said_with(msg, payload, n);
    psd_coordinator_message(coordinator, now, from, msg, buf, &out);
    psd_buf_unref(&buf);
}

static psd_peer_t worker_peer(uint32_t w) { return psd_peer_make(10 + w, 1); }

static psd_msg_t by_worker(psd_kind_t kind, uint32_t w)
{
    return (
        psd_msg_t){ .kind = kind, .protocol = PSD_PROTOCOL, .job = JOB, .worker = w, .incarnation = 1, .seq = 70 + w, .clock = 5 };
}

static void ask_for_places(void)
{
    for (uint32_t s = 0; s < (shard_alive ? 2 : 1); s++) {
        psd_msg_t hello = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = (uint64_t)(s + 1) << 16, .code = s + 1 };
        snprintf(hello.text, sizeof hello.text, "mnist tcp://host:%u x", s);
        say(s ? psd_peer_make(2, 1) : PSD_PEER_OWN_SHARD, &hello, NULL, 0);
    }
}

static void join(uint32_t w)
{
    psd_msg_t hello = by_worker(PSD_MSG_HELLO, w), list = by_worker(PSD_MSG_REGISTER, w);
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    snprintf(hello.text, sizeof hello.text, "mnist host:%u", 100 + w);
    say(worker_peer(w), &hello, NULL, 0);
    list.clock = 0; /* it has not trained elsewhere */
    say(worker_peer(w), &list, bytes, psd_tensors_encode(&(psd_tensor_list_t){ .n = 1, .tensor = &tensor }, bytes, sizeof bytes));
    psd_msg_t beat = by_worker(PSD_MSG_HEARTBEAT, w);
    say(worker_peer(w), &beat, NULL, 0);
    alive[w] = true;
}

static void leave(uint32_t w, bool finished)
{
    psd_msg_t msg = by_worker(PSD_MSG_LEAVE, w);
    msg.code = finished ? 0 : 1;
    alive[w] = false;
    say(worker_peer(w), &msg, NULL, 0);
}

static void begin(const char *mode, uint32_t min, bool drops)
{
    psd_coordinator_config_t config = { .job = "mnist",
                                        .job_id = JOB,
                                        .settings = &(psd_job_settings_t){ .text = "x", .mode = "bsp", .optimizer = "sgd" },
                                        .n_servers = 2,
                                        .workers_min = min,
                                        .workers_want = 2,
                                        .drops_lost = drops,
                                        .lease_ms = LEASE_MS,
                                        .patience_ms = PATIENCE_MS,
                                        .mode = psd_mode_find(mode),
                                        .lr = 1 };
    cr_assert_eq(psd_groups_parse(&config.groups, "sgd", "", NULL), PSD_OK);
    coordinator = psd_coordinator_new(&config, NULL);
    ask_for_places();
    join(0);
    join(1);
}

static void teardown(void)
{
    psd_coordinator_destroy(&coordinator);
    psd_actions_clear(&out);
}

/* Let time pass until the end; returns its code, with its sentence in `text`, or -1 if there is no end. */
static int end_within(uint64_t ms, char text[PSD_MAX_TEXT])
{
    psd_actions_drop(&out, out.n);
    for (const uint64_t end = now + ms; now < end;) {
        now += 50;
        psd_coordinator_tick(coordinator, now, &out);
        for (size_t i = 0; i < out.n; i++)
            if (out.at[i].act == PSD_ACT_FINISH) {
                snprintf(text, PSD_MAX_TEXT, "%s", out.at[i].msg.text);
                return out.at[i].level;
            }
        ask_for_places();
        for (uint32_t w = 0; w < WORKERS; w++)
            if (alive[w]) {
                psd_msg_t beat = by_worker(PSD_MSG_HEARTBEAT, w);
                say(worker_peer(w), &beat, NULL, 0);
            }
    }
    return -1;
}

static void expect_end(uint64_t ms, int code, const char *words)
{
    char text[PSD_MAX_TEXT] = "";
    cr_assert_eq(end_within(ms, text), code, "%s", text);
    cr_expect(strstr(text, words), "\"%s\" lacks \"%s\"", text, words);
}

static psd_coordinator_facts_t facts(void)
{
    psd_coordinator_facts_t f;
    psd_coordinator_facts(coordinator, &f);
    return f;
}

/* How often this message has been sent to `to` since. */
static unsigned told(psd_peer_t to, psd_kind_t kind, unsigned code, const char *words)
{
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        n += out.at[i].act == PSD_ACT_SEND && out.at[i].to == to && out.at[i].msg.kind == kind &&
             (out.at[i].msg.code & code) == code && strstr(out.at[i].msg.text, words);
    return n;
}

Test(endings, a_finished_worker_is_not_missing, .fini = teardown)
{
    char text[PSD_MAX_TEXT] = "";
    begin("bsp", 2, false);
    leave(0, true);
    cr_assert_eq(end_within(3 * PATIENCE_MS, text), -1, "%s", text);
    cr_expect_eq(facts().state, PSD_JOB_TRAINING);
    cr_expect(facts().quorum);
    cr_expect_eq(facts().n_finished, 1);
    cr_expect_eq(facts().n_absent, 0);
    leave(1, true);
    expect_end(5000, PSD_OK, "every worker has finished");
}

static void lose_the_last_of_two(const char *mode, uint32_t min, bool drops)
{
    begin(mode, min, drops);
    leave(0, true);
    alive[1] = false;
}

Test(endings, one_of_workers_min_that_is_lost_is_waited_for_also_when_the_others_have_finished, .fini = teardown)
{
    static const char *const modes[] = { "bsp", "asp" };
    for (size_t i = 0; i < 2; i++) {
        char text[PSD_MAX_TEXT] = "";
        lose_the_last_of_two(modes[i], 2, false);
        cr_assert_eq(end_within(LEASE_MS + PATIENCE_MS - 100, text), -1, "%s", text);
        cr_expect_eq(facts().state, PSD_JOB_DEGRADED);
        expect_end(2000, PSD_EUNAVAILABLE, "of 2 workers 1 has finished, and 0 are here; worker 1 (host:101), silent for");
        if (!i)
            teardown();
    }
}

Test(endings, the_job_continues_when_the_lost_worker_is_back, .fini = teardown)
{
    char text[PSD_MAX_TEXT] = "";
    lose_the_last_of_two("bsp", 2, false);
    cr_assert_eq(end_within(LEASE_MS + PATIENCE_MS / 2, text), -1);
    psd_msg_t hello = by_worker(PSD_MSG_HELLO, 2), leaves = by_worker(PSD_MSG_LEAVE, 1);
    snprintf(hello.text, sizeof hello.text, "mnist host:200");
    say(worker_peer(2), &hello, NULL, 0); /* in the free place */
    leaves.incarnation = 2;
    leaves.seq = hello.seq;
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    psd_msg_t list = leaves;
    list.kind = PSD_MSG_REGISTER;
    list.clock = 0;
    say(worker_peer(2), &list, bytes, psd_tensors_encode(&(psd_tensor_list_t){ .n = 1, .tensor = &tensor }, bytes, sizeof bytes));
    say(worker_peer(2), &leaves, NULL, 0);
    expect_end(5000, PSD_OK, "every worker has finished");
}

Test(endings, one_beyond_workers_min_that_is_lost_is_not_waited_for_and_the_end_names_it, .fini = teardown)
{
    lose_the_last_of_two("bsp", 1, false);
    expect_end(LEASE_MS + 5000, PSD_OK, "1 of 2 workers has finished; worker 1 (host:101) was lost at round 5");
}

Test(endings, where_lost_ones_are_dropped_it_is_enough_that_those_left_have_finished, .fini = teardown)
{
    lose_the_last_of_two("bsp", 2, true);
    expect_end(LEASE_MS + 5000, PSD_OK, "1 of 2 workers has finished; worker 1 (host:101) was lost and not replaced, at round 5");
}

Test(endings, one_that_has_left_with_work_to_do_is_named, .fini = teardown)
{
    begin("bsp", 1, false);
    leave(0, true);
    leave(1, false);
    expect_end(5000, PSD_OK, "1 of 2 workers has finished; worker 1 (host:101) left before its work was done at round 5");
    cr_expect_geq(told(psd_peer_make(2, 1), PSD_MSG_COMMAND, PSD_COMMAND_FINISH, "worker 1 (host:101) left"), 1,
                  "the other servers end in the same way");
}

Test(endings, the_cause_of_the_jobs_failure_is_sent_repeatedly_to_all, .fini = teardown)
{
    begin("bsp", 2, false);
    alive[1] = false;
    expect_end(LEASE_MS + PATIENCE_MS + 2000, PSD_EUNAVAILABLE, "1 of 2 workers are here; worker 1 (host:101), silent for");
    cr_expect_geq(told(worker_peer(0), PSD_MSG_REFUSED, PSD_REFUSAL_ABSENT, "worker 1 (host:101), silent for"), 10);
    cr_expect_geq(told(psd_peer_make(2, 1), PSD_MSG_REFUSED, PSD_REFUSAL_ABSENT, "worker 1 (host:101), silent for"), 10);
    cr_expect_eq(told(worker_peer(1), PSD_MSG_REFUSED, PSD_REFUSAL_ABSENT, ""), 0);
}

Test(endings, a_worker_that_joins_while_the_job_fails_receives_the_cause, .fini = teardown)
{
    char text[PSD_MAX_TEXT] = "";
    begin("bsp", 2, false);
    alive[1] = false;
    while (!told(worker_peer(0), PSD_MSG_REFUSED, PSD_REFUSAL_ABSENT, ""))
        cr_assert_eq(end_within(50, text), -1);
    psd_msg_t hello = by_worker(PSD_MSG_HELLO, 2);
    snprintf(hello.text, sizeof hello.text, "mnist host:102");
    say(worker_peer(2), &hello, NULL, 0);
    cr_expect_eq(told(worker_peer(2), PSD_MSG_REFUSED, PSD_REFUSAL_ABSENT, "worker 1 (host:101), silent for"), 1);
}

Test(endings, a_worker_that_has_registered_nothing_has_not_finished, .fini = teardown)
{
    char text[PSD_MAX_TEXT] = "";
    begin("bsp", 1, false);
    psd_msg_t hello = by_worker(PSD_MSG_HELLO, 2);
    snprintf(hello.text, sizeof hello.text, "mnist host:102");
    say(worker_peer(2), &hello, NULL, 0);
    leave(2, true);
    cr_expect_eq(facts().n_finished, 0);
    leave(0, false);
    leave(1, false);
    cr_assert_neq(end_within(2000, text), PSD_OK, "%s", text);
}
