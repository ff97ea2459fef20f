#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "server/core/admin.h"
#include "tests/support/said.h"

TestSuite(admin, .timeout = 600);

/* A job of one server that no worker has joined yet. */
enum { OPERATOR = 77 };

static psd_coordinator_t *coordinator;
static psd_admin_t admin;
static psd_actions_t out;

static bool checkpoints; /* of the job */

static void setup(void)
{
    psd_coordinator_config_t config = { .checkpoints = checkpoints,
                                        .job = "mnist",
                                        .job_id = 9,
                                        .settings = &(psd_job_settings_t){ .text = "x", .mode = "bsp", .optimizer = "sgd" },
                                        .n_servers = 1,
                                        .workers_min = 1,
                                        .workers_want = 1,
                                        .lease_ms = 2000,
                                        .mode = psd_mode_find("bsp"),
                                        .lr = 1 };
    cr_assert_eq(psd_groups_parse(&config.groups, "sgd", "", NULL), PSD_OK);
    cr_assert_not_null(coordinator = psd_coordinator_new(&config, NULL));
    admin = (psd_admin_t){ 0 };
}

static void teardown(void)
{
    psd_coordinator_destroy(&coordinator);
    psd_actions_clear(&out);
}

/* The answer, which is the last message sent. */
static const psd_msg_t *ask(uint64_t seq, double value, const char *text)
{
    psd_msg_t msg = { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL, .seq = seq };
    psd_buf_t *body = *text ? said_body(PSD_MSG_ADMIN, text, value) : NULL;
    psd_actions_drop(&out, out.n);
    psd_admin_message(&admin, coordinator, 1000, OPERATOR, &msg, body, &out);
    psd_buf_unref(&body);
    cr_assert_gt(out.n, 0);
    cr_expect_eq(out.at[out.n - 1].to, OPERATOR);
    cr_expect_eq(out.at[out.n - 1].msg.seq, seq);
    return &out.at[out.n - 1].msg;
}

static void expect(const psd_msg_t *msg, psd_kind_t kind, uint32_t code, const char *text)
{
    cr_expect_eq(msg->kind, kind);
    cr_expect_eq(msg->code, code);
    cr_expect(strstr(msg->text, text), "%s", msg->text);
}

Test(admin, a_verb_is_carried_out_and_its_answer_says_where_the_job_is, .init = setup, .fini = teardown)
{
    expect(ask(1, 0, "mnist pause"), PSD_MSG_ADMIN, 0, "paused after round 0");
    expect(ask(2, 0, "mnist resume"), PSD_MSG_ADMIN, 0, "continues after round 0");
    expect(ask(3, 0, "mnist resume"), PSD_MSG_ADMIN, 0, "it was not paused");
    expect(ask(4, 0.5, "mnist set optimizer.lr"), PSD_MSG_ADMIN, 0, "optimizer.lr is 0.5 from the next step on");
    cr_expect(out.at[0].act == PSD_ACT_LOG && strstr(out.at[0].msg.text, "by=\"operator\""), "%s", out.at[0].msg.text);
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(coordinator, &facts);
    cr_expect_eq(facts.lr, 0.5);
}

Test(admin, a_request_that_makes_no_sense_is_refused_and_counted, .init = setup, .fini = teardown)
{
    expect(ask(1, 0, "cifar pause"), PSD_MSG_REFUSED, PSD_REFUSAL_JOB, "this is job mnist, you ask for job cifar");
    expect(ask(2, 0, "mnist dance"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "not a request that psd knows");
    expect(ask(3, 0, "mnist pause now"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "not a request that psd knows");
    expect(ask(7, 0, ""), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "nothing is asked for");
    expect(ask(4, 0, "mnist drain"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "not a request that psd knows");
    expect(ask(5, 0, "mnist drain b"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "there is no worker b");
    expect(ask(6, 0, "mnist save"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "nowhere to save to");
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(coordinator, &facts);
    cr_expect_eq(facts.rejected[PSD_REFUSAL_JOB], 1);
    cr_expect_eq(facts.rejected[PSD_REFUSAL_CONFIG], 6);
}

Test(admin, a_job_that_ends_takes_no_more_requests, .init = setup, .fini = teardown)
{
    psd_coordinator_stop(coordinator, 1000, &out);
    expect(ask(1, 0, "mnist pause"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "job mnist is ending");
}

static void setup_checkpoints(void)
{
    checkpoints = true;
    setup();
}

Test(admin, nothing_is_saved_before_the_job_trains, .init = setup_checkpoints, .fini = teardown)
{
    expect(ask(1, 0, "mnist save"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG, "nothing is being trained: the job is waiting");
}

static void hear(psd_peer_t from, psd_msg_t *msg)
{
    psd_buf_t *body = said_with(msg, NULL, 0);
    psd_coordinator_message(coordinator, 1000, from, msg, body, &out);
    psd_buf_unref(&body);
}

static psd_peer_t peer_of(uint32_t worker) { return UINT64_C(1) << 63 | (5 + worker); }

static void worker_says(psd_kind_t kind, uint32_t worker)
{
    psd_msg_t msg = { .kind = kind, .protocol = PSD_PROTOCOL, .job = 9, .worker = worker, .incarnation = 1, .seq = 50 + worker };
    if (kind == PSD_MSG_HELLO)
        snprintf(msg.text, sizeof msg.text, "mnist host%u", worker);
    msg.code = kind == PSD_MSG_LEAVE ? PSD_LEAVE_UNFINISHED : 0;
    hear(peer_of(worker), &msg);
}

Test(admin, of_several_workers_the_one_that_was_named_is_drained, .init = setup, .fini = teardown)
{
    psd_msg_t server = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = 1 << 16, .code = 1 };
    snprintf(server.text, sizeof server.text, "mnist tcp://here:1 x");
    hear(PSD_PEER_OWN_SHARD, &server);
    for (uint32_t w = 0; w < 3; w++)
        worker_says(PSD_MSG_HELLO, w);
    expect(ask(1, 0, "mnist drain host2"), PSD_MSG_WAIT, 0, "worker 2 (host2) leaves after its open round");
    worker_says(PSD_MSG_LEAVE, 1);
    expect(ask(1, 0, "mnist drain host2"), PSD_MSG_WAIT, 0, "worker 2 (host2) leaves after its open round");
    worker_says(PSD_MSG_LEAVE, 2);
    expect(ask(1, 0, "mnist drain host2"), PSD_MSG_ADMIN, 0,
           "worker 2 has left; 0 are here, fewer than workers.min: rounds wait for another");
    expect(ask(2, 0, "mnist drain 0"), PSD_MSG_WAIT, 0, "worker 0 (host0) leaves after its open round");
    expect(ask(3, 0, "mnist drain 2"), PSD_MSG_REFUSED, PSD_REFUSAL_CONFIG,
           "there is no worker 2; psdctl status lists the workers");
}
