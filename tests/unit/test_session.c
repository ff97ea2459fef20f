#include <criterion/criterion.h>

#include <stdio.h>

#include "worker/session.h"

TestSuite(session, .timeout = 10);

enum { JOB = 9, NONCE = 77, INCARNATION = 3 };

static psd_session_t *session;
static psd_actions_t out;

static void say(psd_kind_t kind, uint64_t incarnation, psd_buf_t *payload)
{
    psd_msg_t msg = {
        .kind = kind, .protocol = PSD_PROTOCOL, .job = JOB, .incarnation = incarnation, .seq = NONCE
    };
    psd_actions_drop(&out, out.n);
    psd_session_message(session, 2000, PSD_PEER_SERVER, &msg, payload, &out);
}

/* A worker that has been welcomed, and leaves. */
static void setup(void)
{
    static uint8_t bytes[PSD_MAX_LIST];
    static psd_cluster_t cluster = {
        .n_servers = 1, .lease_ms = 600, .settings = "sim", .endpoint = { "tcp://here:1" }
    };
    session = psd_session_new(&(psd_session_config_t){ .job = "mnist", .name = "a:1", .nonce = NONCE });
    psd_session_tick(session, 1000, &out);
    psd_buf_t *payload = psd_payload_copy(bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    say(PSD_MSG_WELCOME, INCARNATION, payload);
    psd_buf_unref(&payload);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_JOINED);
    psd_session_leave(session, 2000, true, &out);
}

static void teardown(void)
{
    psd_session_destroy(&session);
    psd_actions_clear(&out);
}

Test(session, who_was_given_up_while_leaving_says_good_bye_until_it_is_heard, .init = setup, .fini = teardown)
{
    size_t n = 0;
    say(PSD_MSG_FENCED, INCARNATION, NULL);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEAVING);
    psd_session_tick(session, 2100, &out); /* a sixth of the lease later */
    for (size_t i = 0; i < out.n; i++)
        n += out.at[i].msg.kind == PSD_MSG_LEAVE;
    cr_assert_eq(n, 1);
    say(PSD_MSG_LEFT, INCARNATION, NULL);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEFT);
}

Test(session, who_was_replaced_while_leaving_has_nobody_to_tell, .init = setup, .fini = teardown)
{
    say(PSD_MSG_FENCED, INCARNATION + 1, NULL);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEFT);
}
