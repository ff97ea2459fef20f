#include <criterion/criterion.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/logged.h"
#include "tests/support/said.h"
#include "tests/support/transcript.h"
#include "worker/session.h"

TestSuite(session, .timeout = 600);

/* A worker's session with one server, whose messages the test sends: a model of two weights. */
enum { NONCE = 77, RUN = 9, NEXT_RUN = 11 };

static psd_session_t *session;
static psd_actions_t out;
static uint64_t now = 1000;
static float weights[2] = { 1, 2 };
static const float *const gradient[] = { (const float[]){ 5, 6 } };
static psd_err_t err;
static psd_codings_t codings; /* of the job */
static bool in_rounds;        /* likewise */

static psd_msg_t message(psd_kind_t kind, uint64_t run)
{
    return (psd_msg_t){ .kind = kind, .protocol = PSD_PROTOCOL, .job = run, .worker = 3, .incarnation = run };
}

static void say(const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *buf = said_with(msg, payload, n);
    psd_actions_drop(&out, out.n);
    psd_session_message(session, now, PSD_PEER_SERVER, msg, buf, &out);
    psd_buf_unref(&buf);
}

static void pass(uint64_t ms)
{
    now += ms;
    psd_actions_drop(&out, out.n);
    psd_session_tick(session, now, &out);
}

/* The first message of this kind that was sent since; NULL when there is none. */
static const psd_msg_t *sent(psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind)
            return &out.at[i].msg;
    return NULL;
}

/* And its payload. */
static psd_buf_t *sent_with(psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind)
            return out.at[i].payload;
    return NULL;
}

static psd_buf_t *pushed(void) { return sent_with(PSD_MSG_PUSH); }

static const char *rule = "sgd"; /* of the job */
static uint32_t part_elements = PSD_MAX_CHUNK;

static void welcome(uint64_t run, uint64_t nonce)
{
    uint8_t bytes[512];
    psd_cluster_t cluster = { .n_servers = 1,
                              .endpoint = { "tcp://here:1" },
                              .settings = { .text = "mode=bsp",
                                            .mode = "bsp",
                                            .lease_ms = 600,
                                            .part_elements = part_elements,
                                            .codings = codings,
                                            .in_rounds = in_rounds } };
    psd_msg_t msg = message(PSD_MSG_WELCOME, run);
    snprintf(cluster.settings.optimizer, sizeof cluster.settings.optimizer, "%s", rule);
    msg.seq = nonce;
    say(&msg, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
}

static void send_weights(uint64_t run, uint64_t clock, float a, float b)
{
    const float w[] = { a, b };
    psd_msg_t attached = message(PSD_MSG_ATTACHED, run), msg = message(PSD_MSG_WEIGHTS, run);
    attached.parts = msg.parts = msg.world = 1;
    say(&attached, NULL, 0);
    msg.clock = clock;
    msg.lr = 1 / (double)clock;
    msg.n_elements = 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(w, sizeof w);
    say(&msg, w, sizeof w);
}

static void refuse_run(void)
{
    psd_msg_t msg = message(PSD_MSG_REFUSED, NEXT_RUN);
    msg.code = PSD_REFUSAL_RUN;
    say(&msg, NULL, 0);
}

static void setup(void)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    float *const data[] = { weights };
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    cr_assert_not_null(sent(PSD_MSG_HELLO));
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &list, data, &out, &err), PSD_OK);
    send_weights(RUN, 4, 1, 2);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_position(session).clock, 5);
}

static void teardown(void)
{
    psd_actions_clear(&out);
    psd_session_destroy(&session);
}

Test(session, between_exchanges_another_run_of_the_servers_changes_nothing_under_the_callers_hands, .init = setup, .fini = teardown)
{
    refuse_run();
    pass(200);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_null(sent(PSD_MSG_HELLO));
    cr_assert_eq(psd_session_rejoins(session), 0);
    cr_assert_eq(psd_session_position(session).clock, 5);
}

Test(session, a_gradient_of_the_old_run_is_not_pushed_into_the_new_one, .init = setup, .fini = teardown)
{
    refuse_run();
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    cr_assert_not(psd_session_pump(session, &out));
    cr_assert_null(sent(PSD_MSG_PUSH));
    pass(50);
    cr_assert_not_null(sent(PSD_MSG_HELLO));
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    send_weights(NEXT_RUN, 2, 7, 8); /* back to round 2 */
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_rejoins(session), 1);
    cr_assert_eq(psd_session_position(session).clock, 3);
    cr_assert(weights[0] == 7 && weights[1] == 8);
    cr_assert_null(sent(PSD_MSG_PUSH));
    weights[0] = 1, weights[1] = 2;
}

Test(session, an_open_exchange_is_void_when_the_servers_begin_another_run, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    while (psd_session_pump(session, &out))
        ;
    cr_assert_not_null(sent(PSD_MSG_PUSH));
    refuse_run();
    cr_assert_not_null(sent(PSD_MSG_HELLO), "at once: the caller waits");
    cr_assert_eq(psd_session_rejoins(session), 1);
}

Test(session, a_worker_that_was_given_up_or_replaced_may_start_anew, .init = setup, .fini = teardown)
{
    psd_msg_t fenced = message(PSD_MSG_FENCED, RUN);
    say(&fenced, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_FAILED);
    cr_assert_eq(psd_session_error(session)->code, PSD_EFENCED);
    cr_assert_eq(psd_err_exit_code(PSD_EFENCED), 75);
}

Test(session, the_request_of_an_operator_comes_with_the_heartbeat, .init = setup, .fini = teardown)
{
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, RUN);
    say(&beat, NULL, 0);
    cr_assert_not(psd_session_drains(session));
    beat.code = PSD_HEARTBEAT_DRAIN;
    beat.incarnation--;
    say(&beat, NULL, 0);
    cr_assert_not(psd_session_drains(session), "that message was for another life");
    beat.incarnation++;
    say(&beat, NULL, 0);
    cr_assert(psd_session_drains(session));
}

Test(session, figures_of_tensors_are_kept_as_server_0_tells_them_to_this_life_of_the_worker, .init = setup, .fini = teardown)
{
    const double figures[2 * PSD_SESSION_FIGURES] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 };
    uint64_t step;
    cr_expect_null(psd_session_health(session, &step));
    psd_msg_t msg = message(PSD_MSG_HEALTH, RUN);
    msg.version = 101;
    msg.parts = 2;
    msg.n_elements = PSD_SESSION_FIGURES;
    msg.incarnation++;
    say(&msg, figures, sizeof figures);
    cr_expect_null(psd_session_health(session, &step), "it was for another life");
    msg.incarnation--;
    msg.n_elements--;
    say(&msg, figures, 2 * (PSD_SESSION_FIGURES - 1) * sizeof *figures);
    cr_expect_null(psd_session_health(session, &step), "another number of figures is ignored");
    msg.n_elements++;
    say(&msg, figures, sizeof figures);
    const psd_buf_t *kept = psd_session_health(session, &step);
    cr_assert_not_null(kept);
    cr_expect_eq(step, 101);
    cr_expect_arr_eq(kept->data, figures, sizeof figures);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    refuse_run();
    cr_expect_eq(psd_session_health(session, &step), kept, "until there are newer ones, in whichever run");
}

Test(session, a_worker_given_up_while_leaving_repeats_its_leave_until_it_is_answered, .init = setup, .fini = teardown)
{
    psd_msg_t fenced = message(PSD_MSG_FENCED, RUN), left = message(PSD_MSG_LEFT, RUN);
    psd_session_leave(session, now, true, &out);
    say(&fenced, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEAVING);
    pass(100); /* a sixth of the lease */
    cr_assert_not_null(sent(PSD_MSG_LEAVE));
    cr_expect_eq(sent(PSD_MSG_LEAVE)->code, PSD_LEAVE_FINISHED);
    say(&left, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEFT);
    cr_assert_not_null(sent(PSD_MSG_LEAVE), "server 0 waits to hear that the answer has come");
    cr_expect_eq(sent(PSD_MSG_LEAVE)->code, PSD_LEAVE_KNOWS);
    say(&left, NULL, 0);
    cr_expect_null(sent(PSD_MSG_LEAVE), "once");
}

Test(session, a_worker_replaced_while_leaving_sends_no_goodbye, .init = setup, .fini = teardown)
{
    psd_msg_t fenced = message(PSD_MSG_FENCED, RUN);
    fenced.incarnation = RUN + 1;
    psd_session_leave(session, now, true, &out);
    say(&fenced, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEFT);
}

Test(session, messages_to_an_earlier_life_do_not_count_before_the_next_is_welcomed, .init = setup, .fini = teardown)
{
    psd_msg_t registered = message(PSD_MSG_REGISTERED, RUN);
    refuse_run();
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    pass(50);
    const uint64_t nonce = sent(PSD_MSG_HELLO)->seq;
    say(&registered, NULL, 0); /* late */
    welcome(NEXT_RUN, nonce);
    pass(100); /* a sixth of the lease: lost messages are sent again */
    cr_assert_not_null(sent(PSD_MSG_REGISTER));
}

static void answer_probe(uint64_t seq, uint64_t clock, uint8_t lacking)
{
    psd_msg_t msg = message(PSD_MSG_PROGRESS, RUN);
    msg.seq = seq;
    msg.clock = clock;
    msg.parts = 1;
    say(&msg, &lacking, 1);
}

Test(session, nothing_is_sent_again_before_a_probes_answer_says_that_it_is_lost, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    while (psd_session_pump(session, &out))
        ;
    pass(300);
    cr_assert_not_null(sent(PSD_MSG_PROBE));
    const uint64_t first = sent(PSD_MSG_PROBE)->seq;
    pass(500);
    cr_assert_not_null(sent(PSD_MSG_PROBE));
    const uint64_t second = sent(PSD_MSG_PROBE)->seq;
    cr_assert_gt(second, first);
    answer_probe(first, 5, 1);
    cr_assert_not_null(sent(PSD_MSG_PUSH), "it had not come");
    cr_expect_neq(pushed()->data, gradient[0], "the caller may have its array back before the repeat has left");
    cr_expect_arr_eq(pushed()->data, gradient[0], 2 * sizeof(float));
    answer_probe(second, 5, 1);
    cr_assert_null(sent(PSD_MSG_PUSH), "that probe left before the repeated push");
    pass(1100);
    const uint64_t third = sent(PSD_MSG_PROBE)->seq;
    answer_probe(third, 6, 0);
    cr_assert_not_null(sent(PSD_MSG_PROBE), "the clock is closed: its weights were sent before, and have not come");
    cr_assert_eq(sent(PSD_MSG_PROBE)->code, PSD_PROBE_SEND);
    cr_assert_eq(psd_session_position(session).step_lr, 0.25, "that of the weights it began with");
    send_weights(RUN, 5, 3, 4);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_position(session).step_lr, 0.2);
    answer_probe(third, 6, 0);
    cr_assert_null(sent(PSD_MSG_PROBE), "nothing is awaited");
    weights[0] = 1, weights[1] = 2;
}

Test(session, a_push_says_how_long_its_gradient_has_taken_since_the_weights_were_here, .init = setup, .fini = teardown)
{
    pass(70);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_assert_not_null(sent(PSD_MSG_PUSH));
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.070, 1e-9);
    for (int i = 0; i < 100; i++)
        pass(50); /* the weights travel for a long time */
    send_weights(RUN, 5, 1, 2);
    pass(3);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.003, 1e-9);
    pass(50);
    pass(700); /* this process was stopped: that time does not count as travel */
    pass(50);
    pass(800);
    send_weights(RUN, 6, 1, 2);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 1.500, 1e-9);
    now += 600; /* stopped again, and the weights are handled before the clock */
    send_weights(RUN, 7, 1, 2);
    pass(2);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.602, 1e-9);
    send_weights(RUN, 8, 1, 2);
    now += 500; /* and once while the gradient is computed */
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.5, 1e-9, "once");
    pass(50);
    send_weights(RUN, 9, 1, 2);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0, 1e-9, "it was counted with the gradient, once");
}

Test(session, the_jobs_samples_come_with_the_weights_and_go_with_the_run, .init = setup, .fini = teardown)
{
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
    cr_assert_eq(psd_session_position(session).samples, 0);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    msg.clock = 5;
    msg.parts = msg.world = 1;
    msg.value = 640;
    say(&msg, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(psd_session_position(session).samples, 640);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    msg.clock = 6;
    msg.value = 320;
    say(&msg, NULL, 0);
    cr_expect_eq(psd_session_position(session).samples, 640, "they only rise");
    refuse_run();
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    pass(50);
    cr_expect_eq(psd_session_position(session).samples, 0);
}

Test(session, a_worker_that_repeats_its_leave_still_sends_heartbeats, .init = setup, .fini = teardown)
{
    bool beats = false;
    for (int i = 0; i < 20; i++) {
        psd_session_leave(session, now, true, &out);
        beats |= sent(PSD_MSG_HEARTBEAT) != NULL;
        pass(50);
    }
    cr_expect(beats, "otherwise the servers give up the worker that waits for their answer");
}

static void fail_by(psd_peer_t server)
{
    psd_msg_t msg = message(PSD_MSG_REFUSED, RUN);
    msg.code = PSD_REFUSAL_ABSENT;
    snprintf(msg.text, sizeof msg.text, "gave up");
    psd_session_message(session, now, server, &msg, NULL, &out);
}

Test(session, any_server_can_report_that_the_job_fails_but_not_to_a_finished_worker, .init = setup, .fini = teardown)
{
    psd_session_leave(session, now, true, &out);
    fail_by(PSD_PEER_SERVER + 1);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_LEAVING, "server 0 decides whether its work is safe");
    fail_by(PSD_PEER_SERVER);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_FAILED);
}

Test(session, a_worker_that_joins_another_run_says_how_far_it_has_come, .init = setup, .fini = teardown)
{
    refuse_run();
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    pass(50);
    cr_assert_not_null(sent(PSD_MSG_HELLO));
    psd_actions_drop(&out, out.n);
    welcome(NEXT_RUN, NONCE + 1);
    cr_assert_not_null(sent(PSD_MSG_REGISTER));
    cr_assert_eq(sent(PSD_MSG_REGISTER)->clock, 5, "by which a server 0 without a checkpoint knows that weights are lost");
}

Test(session, a_refusal_that_ends_the_job_ends_a_worker_that_asks_for_nothing, .init = setup, .fini = teardown)
{
    static const struct {
        psd_refusal_t reason;
        int code;
    } ends[] = { { PSD_REFUSAL_ABSENT, PSD_EUNAVAILABLE },
                 { PSD_REFUSAL_LOST, PSD_EREFUSED },
                 { PSD_REFUSAL_UNSAVED, PSD_EIO },
                 { PSD_REFUSAL_DAMAGED, PSD_EDATA },
                 { PSD_REFUSAL_UNFIT, PSD_ECONFIG } };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        psd_msg_t msg = message(PSD_MSG_REFUSED, RUN);
        msg.code = ends[i].reason;
        msg.seq = NONCE;
        snprintf(msg.text, sizeof msg.text, "so it is");
        say(&msg, NULL, 0);
        cr_expect_eq(psd_session_phase(session), PSD_PHASE_FAILED);
        cr_expect_eq(psd_session_error(session)->code, ends[i].code);
        cr_expect_str_eq(psd_session_error(session)->text, "so it is");
        teardown();
        now = 1000;
        setup();
    }
}

Test(session, a_server_that_is_back_was_silent_for_as_long_as_it_was, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    for (int i = 0; i < 50; i++)
        pass(100);
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, RUN);
    say(&beat, NULL, 0);
    pass(40);
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_LOG && !strcmp(out.at[i].id, "server.back")) {
            cr_expect_not_null(strstr(out.at[i].msg.text, "silent_ms=5000"), "%s", out.at[i].msg.text);
            return;
        }
    cr_assert_fail("the return of the server was not logged");
}

/* Register with two servers, one of which (`silent`) never answers, until the session gives it up; before, perhaps, finish in a run
 * that the servers then go back behind. */
static void give_up(uint32_t silent, bool after_work)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    float *const data[] = { weights };
    uint8_t bytes[512];
    psd_cluster_t cluster = {
        .n_servers = 2,
        .endpoint = { "tcp://here:1", "tcp://there:2" },
        .settings = { .text = "mode=bsp", .mode = "bsp", .optimizer = "sgd", .lease_ms = 600, .part_elements = PSD_MAX_CHUNK }
    };
    const uint64_t run = after_work ? NEXT_RUN : RUN;
    psd_msg_t hello = message(PSD_MSG_WELCOME, RUN), beat = message(PSD_MSG_HEARTBEAT, run);
    session = psd_session_new(&(psd_session_config_t){
        .job = "job", .name = "me", .nonce = NONCE, .patience_ms = 5000, .read_groups = psd_groups_parse });
    pass(0);
    hello.seq = NONCE;
    say(&hello, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    cr_assert_eq(psd_session_register(session, now, &list, data, &out, &err), PSD_OK);
    if (after_work) {
        psd_session_leave(session, now, true, &out);
        refuse_run();
        hello = message(PSD_MSG_WELCOME, NEXT_RUN);
        hello.seq = sent(PSD_MSG_HELLO)->seq;
        say(&hello, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    }
    for (int i = 0; i < 100 && psd_session_phase(session) != PSD_PHASE_FAILED; i++) {
        if (silent)
            say(&beat, NULL, 0);
        pass(100);
    }
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_FAILED);
    cr_expect_eq(psd_session_error(session)->code, PSD_EUNAVAILABLE);
}

Test(session, a_worker_that_gives_up_server_1_tells_server_0_that_it_leaves_unfinished, .fini = teardown)
{
    give_up(1, false);
    cr_expect_not_null(strstr(psd_session_error(session)->text, "gave up waiting for server 1 at tcp://there:2"), "%s",
                       psd_session_error(session)->text);
    const psd_msg_t *leave = sent(PSD_MSG_LEAVE);
    cr_assert_not_null(leave, "otherwise server 0 takes the worker for lost");
    cr_expect_eq(leave->seq, NONCE);
    cr_expect_eq(leave->code, 1, "its work is not done");
}

Test(session, a_worker_that_gives_up_a_run_in_which_it_works_again_leaves_unfinished, .fini = teardown)
{
    give_up(1, true);
    cr_assert_not_null(sent(PSD_MSG_LEAVE));
    cr_expect_eq(sent(PSD_MSG_LEAVE)->code, 1, "that it had finished is undone");
}

Test(session, a_worker_that_gives_up_server_0_sends_no_goodbye, .fini = teardown)
{
    give_up(0, false);
    cr_expect_not_null(strstr(psd_session_error(session)->text, "gave up waiting for server 0"));
    cr_expect_null(sent(PSD_MSG_LEAVE));
}

/* Server 0 answers a heartbeat, of which there is one per second at most. */
Test(session, however_short_the_lease_a_server_is_not_lost_within_two_seconds_and_then_named, .init = setup, .fini = teardown)
{
    uint32_t lost = 9;
    char text[256];
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    for (int i = 0; i < 20; i++)
        pass(100);
    cr_expect_not(psd_session_lost_server(session, &lost), "of a lease of 600 ms");
    for (int i = 0; i < 30; i++)
        pass(100);
    cr_assert(psd_session_lost_server(session, &lost));
    cr_expect_eq(lost, 0);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "server 0 at tcp://here:1, silent for 5 s");
}

/* ---- codes ---- */

static void setup_codes(void)
{
    codings = (psd_codings_t){ { psd_codec_find("sign"), 0 }, { psd_codec_find("bf16"), 0 } };
    setup();
}

static void ask_for_push(void)
{
    psd_msg_t progress = message(PSD_MSG_PROGRESS, RUN);
    progress.clock = 5;
    progress.parts = 1;
    say(&progress, &(uint8_t[]){ 1 }, 1);
}

Test(session, a_push_in_a_code_that_is_asked_for_again_is_the_same_bytes_and_the_next_one_has_what_it_lost, .init = setup_codes,
     .fini = teardown)
{
    float residual[2] = { 0 };
    uint8_t code[16];
    const size_t n = psd_coding_bytes(&codings.push, 2);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_assert(sent(PSD_MSG_PUSH) && sent(PSD_MSG_PUSH)->codec == psd_coding_number(&codings.push));
    cr_assert_eq(pushed()->n_bytes, n);
    psd_coding_encode(&codings.push, gradient[0], residual, 2, code);
    cr_expect_arr_eq(pushed()->data, code, n);
    for (int i = 0; i < 2; i++) {
        ask_for_push();
        cr_assert_not_null(pushed());
        cr_expect_arr_eq(pushed()->data, code, n);
    }
    send_weights(RUN, 5, 1, 2);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    psd_coding_encode(&codings.push, gradient[0], residual, 2, code);
    cr_expect_arr_eq(pushed()->data, code, n);
}

Test(session, a_push_lost_in_another_run_is_not_repeated_in_this_one, .init = setup_codes, .fini = teardown)
{
    float residual[2] = { 0 };
    uint8_t code[16];
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_session_pump(session, &out);
    refuse_run();
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    send_weights(NEXT_RUN, 2, 7, 8);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    psd_coding_encode(&codings.push, gradient[0], residual, 2, code);
    cr_expect_arr_eq(pushed()->data, code, psd_coding_bytes(&codings.push, 2));
}

Test(session, weights_come_in_the_code_of_the_job_or_as_they_are_and_in_no_other, .init = setup_codes, .fini = teardown)
{
    uint8_t code[16];
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
    msg.parts = msg.world = 1;
    msg.clock = 5;
    msg.n_elements = 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = psd_coding_number(&codings.pull);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_coding_encode(&codings.pull, (float[]){ 3, 0.5f }, NULL, 2, code);
    msg.checksum = psd_crc32c(code, 4) + 1;
    say(&msg, code, 4);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_EXCHANGING, "it was damaged on the way");
    msg.checksum = psd_crc32c(code, 4);
    say(&msg, code, 4);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect(weights[0] == 3 && weights[1] == 0.5f);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    msg.clock = 6;
    msg.checksum = psd_crc32c(code, 2);
    say(&msg, code, 2);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_FAILED, "it is too short");
    cr_expect_eq(psd_session_error(session)->code, PSD_EPROTO);
    cr_expect_eq(strncmp(psd_session_error(session)->text,
                         "server 0 sent part 0 of its weights in a code that is not this job's, bf16: ", 76),
                 0, "%s", psd_session_error(session)->text);
    teardown();
    now = 1000;
    setup();
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    msg.clock = 5;
    msg.checksum = psd_crc32c(code, 4);
    msg.codec = psd_coding_number(&codings.push);
    say(&msg, code, 4);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_FAILED);
    cr_expect_str_eq(psd_session_error(session)->text,
                     "server 0 sent part 0 of its weights in a code that is not this job's, bf16: codec 5");
}

Test(session, a_gradient_that_no_code_can_say_is_pushed_as_0_and_said_to_be_so, .init = setup_codes, .fini = teardown)
{
    const float *const bad[] = { (const float[]){ 5, NAN } };
    cr_assert_eq(psd_session_exchange(session, now, bad, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_assert(sent(PSD_MSG_PUSH)->nonfinite);
    for (size_t i = 0; i < pushed()->n_bytes; i++)
        cr_expect_eq(((const uint8_t *)pushed()->data)[i], 0);
}

Test(session, initial_values_are_returned_unchanged_after_coded_weights_have_arrived, .fini = teardown)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    float *const data[] = { weights };
    const float initial[] = { 1.001f, 2 };
    codings = (psd_codings_t){ .pull = { psd_codec_find("bf16"), 0 } };
    memcpy(weights, initial, sizeof weights);
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 1, .tensor = &tensor }, data, &out, &err), PSD_OK);
    send_weights(RUN, 0, 1, 2); /* rounded */
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    refuse_run();
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    psd_msg_t wanted = message(PSD_MSG_INIT_WANTED, NEXT_RUN);
    wanted.parts = wanted.seq = 1;
    say(&wanted, &(uint8_t[]){ 1 }, 1);
    cr_assert_not_null(sent(PSD_MSG_INIT));
    cr_expect_arr_eq(sent_with(PSD_MSG_INIT)->data, initial, sizeof initial);
}

Test(session, inherited_state_is_reported_array_by_array_until_a_step_is_made, .fini = teardown)
{
    psd_tensor_desc_t tensor[] = { { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 }, { .name = "b", .n_elements = 1 } };
    psd_inherited_t inherited[] = { { .t = 9, .arrays = 1 }, { .t = 0 } };
    float w[3] = { 1, 2, 3 };
    const float momentum[] = { 4, 5 };
    psd_inheritance_t *all = calloc(1, sizeof *all);
    *all = (psd_inheritance_t){ .n = 2, .of = calloc(2, sizeof *all->of), .slot = calloc(2, sizeof *all->slot) };
    memcpy(all->of, inherited, sizeof inherited);
    memcpy(all->slot[0][0] = malloc(sizeof momentum), momentum, sizeof momentum);
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    rule = "sgd(momentum=0.9)";
    welcome(RUN, NONCE);
    psd_session_inherit(session, &all);
    cr_expect_null(all);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 2, .tensor = tensor, .inherited = inherited },
                                      (float *const[]){ w, w + 2 }, &out, &err),
                 PSD_OK);
    psd_msg_t wanted = message(PSD_MSG_INIT_WANTED, RUN);
    wanted.parts = wanted.seq = 1;
    say(&wanted, &(uint8_t[]){ 1 }, 1);
    cr_assert_not_null(sent(PSD_MSG_INIT));
    cr_expect_eq(sent(PSD_MSG_INIT)->n_elements, 3);
    cr_expect_eq(sent(PSD_MSG_INIT)->code, 0);
    wanted.seq = 2;
    wanted.code = 1;
    say(&wanted, &(uint8_t[]){ 1 }, 1);
    cr_assert_not_null(sent(PSD_MSG_INIT));
    cr_expect_eq(sent(PSD_MSG_INIT)->n_elements, 2, "tensor b inherits nothing");
    cr_expect_eq(sent(PSD_MSG_INIT)->code, 1);
    cr_expect_arr_eq(sent_with(PSD_MSG_INIT)->data, momentum, sizeof momentum);
    wanted.seq = 3;
    wanted.code = 2;
    say(&wanted, &(uint8_t[]){ 1 }, 1);
    cr_expect_null(sent(PSD_MSG_INIT), "there is no such array");
}

/* ---- a tensor in two parts ---- */

enum { LONG = 2048 };
static float long_w[LONG];

/* A worker that registers it; `all` NULL: it inherits nothing. */
static void setup_long(psd_inheritance_t *all, psd_inherited_t *inherited)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { LONG }, .n_elements = LONG };
    part_elements = LONG / 2;
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    psd_session_inherit(session, &all);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 1, .tensor = &tensor, .inherited = inherited },
                                      (float *const[]){ long_w }, &out, &err),
                 PSD_OK);
}

Test(session, each_part_of_an_array_that_is_inherited_goes_where_its_weights_do, .fini = teardown)
{
    psd_inherited_t inherited = { .t = 9, .arrays = 2 };
    psd_inheritance_t *all = calloc(1, sizeof *all);
    *all = (psd_inheritance_t){ .n = 1, .of = calloc(1, sizeof *all->of), .slot = calloc(1, sizeof *all->slot) };
    all->of[0] = inherited;
    all->slot[0][1] = malloc(sizeof long_w);
    for (int i = 0; i < LONG; i++)
        all->slot[0][1][i] = (float)(i + 1);
    rule = "adam";
    setup_long(all, &inherited);
    psd_msg_t wanted = message(PSD_MSG_INIT_WANTED, RUN);
    wanted.parts = 2;
    wanted.seq = 1;
    wanted.code = 2;
    say(&wanted, &(uint8_t[]){ 3 }, 1);
    cr_assert_eq(out.n, 2);
    for (uint32_t p = 0; p < 2; p++) {
        cr_expect_eq(out.at[p].msg.part, p);
        cr_expect_eq(out.at[p].msg.code, 2);
        cr_assert_eq(out.at[p].payload->n_bytes, sizeof long_w / 2);
        cr_expect_eq(*(const float *)out.at[p].payload->data, (float)(p * LONG / 2 + 1));
    }
    wanted.seq = 2;
    wanted.code = 1;
    say(&wanted, &(uint8_t[]){ 3 }, 1);
    cr_expect_eq(out.n, 0, "of Adam's arrays only the second is inherited");
}

/* A worker of a model whose two tensors are one part. */
static void setup_both(psd_inheritance_t *all, psd_inherited_t *inherited)
{
    static const psd_tensor_desc_t both[] = { { .name = "a", .n_dims = 1, .dim = { 2 }, .n_elements = 2 },
                                              { .name = "b", .n_dims = 1, .dim = { 3 }, .n_elements = 3 } };
    psd_tensor_desc_t tensor[2];
    memcpy(tensor, both, sizeof both);
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    psd_session_inherit(session, &all);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 2, .tensor = tensor, .inherited = inherited },
                                      (float *const[]){ long_w, long_w + 100 }, &out, &err),
                 PSD_OK);
}

Test(session, what_the_tensors_of_a_part_inherit_follows_in_their_order, .fini = teardown)
{
    static const float of[2][3] = { { 4, 5 }, { 6, 7, 8 } };
    psd_inherited_t inherited[] = { { .t = 9, .arrays = 1 }, { .t = 9, .arrays = 1 } };
    psd_inheritance_t *all = calloc(1, sizeof *all);
    *all = (psd_inheritance_t){ .n = 2, .of = calloc(2, sizeof *all->of), .slot = calloc(2, sizeof *all->slot) };
    memcpy(all->of, inherited, sizeof inherited);
    for (int t = 0; t < 2; t++)
        memcpy(all->slot[t][0] = malloc(sizeof of[t]), of[t], sizeof of[t]);
    rule = "sgd(momentum=0.9)";
    setup_both(all, inherited);
    psd_msg_t wanted = message(PSD_MSG_INIT_WANTED, RUN);
    wanted.parts = wanted.seq = wanted.code = 1;
    say(&wanted, &(uint8_t[]){ 1 }, 1);
    cr_assert_not_null(sent_with(PSD_MSG_INIT));
    cr_assert_eq(sent_with(PSD_MSG_INIT)->n_bytes, 5 * sizeof(float));
    cr_expect_arr_eq(sent_with(PSD_MSG_INIT)->data, ((const float[]){ 4, 5, 6, 7, 8 }), 5 * sizeof(float));
}

Test(session, the_tensors_of_a_coded_part_are_decoded_one_after_the_other, .fini = teardown)
{
    static const float w[] = { 1, 2, 3, 4, 5 };
    uint8_t code[10];
    codings.pull = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    setup_both(NULL, NULL);
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
    msg.parts = msg.world = 1;
    msg.n_elements = 5;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = psd_coding_number(&codings.pull);
    psd_coding_encode(&codings.pull, w, NULL, 2, code);
    psd_coding_encode(&codings.pull, w + 2, NULL, 3, code + psd_coding_bytes(&codings.pull, 2));
    msg.checksum = psd_crc32c(code, sizeof code);
    say(&msg, code, sizeof code);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_arr_eq(long_w, w, 2 * sizeof *w);
    cr_expect_arr_eq(long_w + 100, w + 2, 3 * sizeof *w);
}

Test(session, each_part_of_coded_weights_is_decoded_where_it_belongs, .fini = teardown)
{
    static float w[LONG / 2];
    static uint8_t code[LONG];
    codings.pull = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    setup_long(NULL, NULL);
    const psd_msg_t attached = message(PSD_MSG_ATTACHED, RUN);
    say(&attached, NULL, 0);
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
    msg.parts = 2;
    msg.world = 1;
    msg.clock = 1;
    msg.n_elements = LONG / 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = psd_coding_number(&codings.pull);
    for (msg.part = 0; msg.part < 2; msg.part++) {
        w[0] = w[LONG / 2 - 1] = (float)(msg.part + 1);
        psd_coding_encode(&codings.pull, w, NULL, LONG / 2, code);
        msg.checksum = psd_crc32c(code, sizeof code);
        say(&msg, code, sizeof code);
    }
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect(long_w[0] == 1 && long_w[1] == 0 && long_w[LONG / 2 - 1] == 1);
    cr_expect(long_w[LONG / 2] == 2 && long_w[LONG / 2 + 1] == 0 && long_w[LONG - 1] == 2);
}

static bool always(void *arg, uint32_t s) { return arg == &session && s == 0; }

static psd_buf_t *(*new_buf)(void *arg, size_t n_bytes); /* of the transport; NULL: it has none */

/* Push part 0 of a model of three tensors with these gradients; NULL: a tensor has none. */
static void push_three(const float *a, const float *b, const float *c, bool (*copies)(void *, uint32_t))
{
    psd_tensor_desc_t tensor[] = { { .name = "a", .n_dims = 1, .dim = { 2 }, .n_elements = 2 },
                                   { .name = "b", .n_dims = 1, .dim = { 3 }, .n_elements = 3 },
                                   { .name = "c", .n_dims = 0, .n_elements = 1 } };
    static float w[6];
    session = psd_session_new(&(psd_session_config_t){ .job = "job",
                                                       .name = "me",
                                                       .nonce = NONCE,
                                                       .copies = copies,
                                                       .new_buf = new_buf,
                                                       .arg = &session,
                                                       .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 3, .tensor = tensor },
                                      (float *const[]){ w, w + 2, w + 5 }, &out, &err),
                 PSD_OK);
    psd_msg_t attached = message(PSD_MSG_ATTACHED, RUN), msg = message(PSD_MSG_WEIGHTS, RUN);
    attached.parts = msg.parts = msg.world = 1;
    say(&attached, NULL, 0);
    msg.n_elements = 6;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(w, sizeof w);
    say(&msg, w, sizeof w);
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ a, b, c }, 1, 0, &err), PSD_OK);
    psd_session_pump(session, &out);
}

/* Returns whether the message uses the caller's array, not a copy. */
static bool is_pushed_uncopied(const float *a, const float *b, const float *c, bool (*copies)(void *, uint32_t))
{
    push_three(a, b, c, copies);
    const bool uncopied = pushed()->data == a;
    cr_expect(uncopied || !memcmp((const float *)pushed()->data + 2, b, 3 * sizeof *b));
    teardown();
    return uncopied;
}

Test(session, tensors_that_follow_each_other_in_memory_are_pushed_from_where_they_lie)
{
    const float g[7] = { 1, 2, 3, 4, 5, 6, 7 };
    cr_expect(is_pushed_uncopied(g, g + 2, g + 5, NULL));
    cr_expect_not(is_pushed_uncopied(g, g + 2, g + 6, NULL), "the third lies elsewhere");
    cr_expect_not(is_pushed_uncopied(g + 4, g, g + 3, NULL), "in another order");
    cr_expect_not(is_pushed_uncopied(g, g + 2, NULL, NULL), "one has none");
    cr_expect_not(is_pushed_uncopied(g, g + 2, g + 5, always), "the way wants copies");
}

/* ---- weights in a server's memory ---- */

static unsigned n_placed;
static bool places; /* whether the transport can */

static bool place(void *arg, float *to, psd_buf_t *payload, const float *from, size_t n)
{
    cr_expect_eq(arg, &session);
    cr_expect(from >= (const float *)payload->data && n == 2);
    if (places)
        memcpy(to, from, n * sizeof *to); /* stands for the pages of the server */
    n_placed += places;
    return places;
}

static bool are_placed(void *arg) { return arg == &session && n_placed; }

static void setup_placing(void)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    session = psd_session_new(&(psd_session_config_t){ .job = "job",
                                                       .name = "me",
                                                       .nonce = NONCE,
                                                       .place = place,
                                                       .are_placed = are_placed,
                                                       .arg = &session,
                                                       .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 1, .tensor = &tensor }, (float *const[]){ weights },
                                      &out, &err),
                 PSD_OK);
    send_weights(RUN, 4, 3, 4);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect(weights[0] == 3 && weights[1] == 4);
}

/* Exchange, and hear that the weights have not changed. */
static void exchange_for_nothing(void)
{
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    psd_session_pump(session, &out);
    msg.parts = msg.world = 1;
    msg.clock = 5;
    say(&msg, NULL, 0);
}

Test(session, weights_that_a_server_may_change_after_the_push_are_requested_again_if_a_round_has_left_them_as_they_were,
     .fini = teardown)
{
    in_rounds = places = true;
    setup_placing();
    cr_expect_eq(n_placed, 1);
    exchange_for_nothing();
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_EXCHANGING);
    const psd_msg_t *probe = sent(PSD_MSG_PROBE);
    cr_assert_not_null(probe);
    cr_expect(probe->code == PSD_PROBE_SEND && probe->clock == 5);
    cr_expect(psd_bitmap_get(sent_with(PSD_MSG_PROBE)->data, 0));
    send_weights(RUN, 5, 3, 4);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(n_placed, 2);
}

Test(session, slow_weights_are_copied_into_the_callers_arrays, .fini = teardown)
{
    float slow[2];
    const float w[] = { 5, 6 };
    in_rounds = places = true;
    setup_placing();
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_pull_slow(session, now, (float *const[]){ slow }, &out, &err), PSD_OK);
    psd_msg_t msg = message(PSD_MSG_SLOW, RUN);
    msg.seq = sent(PSD_MSG_PULL)->seq;
    msg.parts = 1;
    msg.n_elements = 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.proven = true;
    say(&msg, w, sizeof w);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect(slow[0] == 5 && slow[1] == 6);
    cr_expect_eq(n_placed, 1, "only the weights that were there before");
}

Test(session, weights_that_were_copied_are_not_requested_again, .fini = teardown)
{
    in_rounds = true;
    setup_placing();
    exchange_for_nothing();
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_null(sent(PSD_MSG_PROBE));
}

Test(session, weights_of_a_job_without_rounds_are_copied_because_its_servers_go_on, .fini = teardown)
{
    places = true;
    setup_placing();
    cr_expect_eq(n_placed, 0);
}

Test(session, weights_before_the_first_step_are_copied_in_a_job_whose_others_are_decoded_into_their_memory, .fini = teardown)
{
    codings.pull = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    in_rounds = places = true;
    setup_placing();
    cr_expect_eq(n_placed, 0);
}

/* ---- tensor by tensor ---- */

enum { HALF = PSD_MOST_OF_PART }; /* elements of each of two tensors, each of which is one part */
static float big[2 * HALF];

/* A worker of a job with the weights of clock 0, which are 0. */
static void setup_two(void)
{
    psd_tensor_desc_t tensor[] = { { .name = "a", .n_dims = 1, .dim = { HALF }, .n_elements = HALF },
                                   { .name = "b", .n_dims = 1, .dim = { HALF }, .n_elements = HALF } };
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = 2, .tensor = tensor },
                                      (float *const[]){ big, big + HALF }, &out, &err),
                 PSD_OK);
}

static void send_part(uint64_t run, uint64_t clock, uint32_t part, float value)
{
    static float w[HALF];
    psd_msg_t attached = message(PSD_MSG_ATTACHED, run), msg = message(PSD_MSG_WEIGHTS, run);
    for (size_t i = 0; i < HALF; i++)
        w[i] = value;
    attached.parts = msg.parts = 2;
    msg.world = 1;
    say(&attached, NULL, 0);
    msg.clock = clock;
    msg.part = part;
    msg.n_elements = HALF;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.proven = true;
    say(&msg, w, sizeof w);
}

static void push(uint32_t tensor, const float *g)
{
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_push(session, now, tensor, g, 10, 1, &err), PSD_OK, "%s", err.text);
    while (psd_session_pump(session, &out))
        ;
}

Test(session, a_part_leaves_with_its_last_tensor_and_no_weights_are_taken_before_that_of_all, .init = setup_two, .fini = teardown)
{
    static float g[2 * HALF];
    send_part(RUN, 4, 0, 1);
    send_part(RUN, 4, 1, 1);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    push(1, g + HALF);
    cr_assert(sent(PSD_MSG_PUSH) && sent(PSD_MSG_PUSH)->part == 1 && pushed()->data == g + HALF);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_COLLECTING);
    cr_expect_eq(psd_session_push(session, now, 1, g, 10, 1, &err), PSD_EINVAL);
    cr_expect_str_eq(err.text, "push: tensor b was pushed already in this exchange");
    cr_expect_eq(psd_session_push(session, now, 0, g, 11, 1, &err), PSD_EINVAL);
    cr_expect_str_eq(err.text, "push: tensor a is over 11 samples, but the earlier ones of this exchange are over 10");
    send_part(RUN, 5, 1, 2);
    cr_expect_eq(big[HALF], 1, "the caller computes with it");
    push(0, g);
    cr_assert(sent(PSD_MSG_PUSH) && sent(PSD_MSG_PUSH)->part == 0 && pushed()->data == g);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_EXCHANGING);
    send_part(RUN, 5, 1, 2);
    send_part(RUN, 5, 0, 2);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect(big[0] == 2 && big[HALF] == 2);
    push(1, g + HALF); /* the next exchange begins with none */
    push(0, g);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_EXCHANGING);
}

Test(session, parts_that_are_awaited_are_counted_and_the_servers_reason_replaces_them, .init = setup_two, .fini = teardown)
{
    static float g[2 * HALF];
    char text[256];
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, RUN);
    send_part(RUN, 4, 0, 1);
    send_part(RUN, 4, 1, 1);
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ g, g + HALF }, 10, 1, &err), PSD_OK);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "2 of 2 parts of server 0 (clock 5)");
    send_part(RUN, 5, 1, 2);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "1 of 2 parts of server 0 (clock 5)");
    snprintf(beat.text, sizeof beat.text, "pushes of workers 3 (round 5)");
    say(&beat, NULL, 0);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "pushes of workers 3 (round 5)");
    refuse_run();
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "an answer from server 0");
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    psd_msg_t attached = message(PSD_MSG_ATTACHED, NEXT_RUN);
    attached.parts = 2;
    say(&attached, NULL, 0);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "2 of 2 parts of server 0 (clock 5)", "the reason was one of the run before");
}

static void expect_wait(const char *words)
{
    char text[256];
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, words);
}

Test(session, a_server_without_a_session_is_named_with_its_reason_or_address, .init = setup_two, .fini = teardown)
{
    psd_msg_t wait = message(PSD_MSG_WAIT, RUN), refused = message(PSD_MSG_REFUSED, RUN);
    expect_wait("a session with server 0 (tcp://here:1)");
    snprintf(wait.text, sizeof wait.text, "the checkpoint is loaded");
    say(&wait, NULL, 0);
    expect_wait("a session with server 0 (the checkpoint is loaded)");
    send_part(RUN, 4, 0, 1);
    send_part(RUN, 4, 1, 1);
    expect_wait("");
    static float g[2 * HALF];
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ g, g + HALF }, 10, 1, &err), PSD_OK);
    refused.code = PSD_REFUSAL_SESSION;
    say(&refused, NULL, 0);
    expect_wait("a session with server 0 (tcp://here:1)"); /* that reason was an earlier session's */
    pass(10);
    cr_expect_not_null(sent(PSD_MSG_ATTACH), "at once, not when the last request would be repeated");
}

Test(session, what_only_server_0_can_answer_is_said_to_wait_for_it, .init = setup, .fini = teardown)
{
    expect_wait("");
    cr_assert_eq(psd_session_set_lr(session, now, 0, &out, &err), PSD_OK, "a rate of 0 is one");
    expect_wait("server 0's answer");
    psd_session_leave(session, now, true, &out);
    expect_wait("server 0's answer");
}

Test(session, another_protocol_is_told_with_both_numbers, .init = setup, .fini = teardown)
{
    char text[128];
    psd_session_other_protocol(session, PSD_PEER_SERVER + 1, PSD_PROTOCOL + 2);
    snprintf(text, sizeof text, "server 1 uses protocol %d, this worker %d; install the same version on both", PSD_PROTOCOL + 2,
             PSD_PROTOCOL);
    cr_expect_str_eq(psd_session_error(session)->text, text);
    cr_expect_eq(psd_session_error(session)->code, PSD_EREFUSED);
}

static unsigned count_sent(psd_kind_t kind)
{
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        n += out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind;
    return n;
}

static void setup_small_parts(void)
{
    part_elements = HALF / 4;
    setup_two();
}

Test(session, between_pushes_a_server_is_asked_for_a_sign_of_life_after_each_mebibyte, .init = setup_small_parts, .fini = teardown)
{
    static float g[2 * HALF];
    static float w[HALF / 4];
    psd_msg_t attached = message(PSD_MSG_ATTACHED, RUN), msg = message(PSD_MSG_WEIGHTS, RUN);
    attached.parts = msg.parts = 8;
    msg.world = 1;
    say(&attached, NULL, 0);
    msg.n_elements = HALF / 4;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.proven = true;
    for (msg.part = 0; msg.part < 8; msg.part++)
        say(&msg, w, sizeof w);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ g, g + HALF }, 10, 1, &err), PSD_OK);
    cr_expect(psd_session_pump(session, &out));
    cr_expect_eq(count_sent(PSD_MSG_PUSH), 4, "and there are more");
    cr_expect_eq(count_sent(PSD_MSG_PROBE), 1, "after the fourth");
    cr_expect_not(psd_session_pump(session, &out));
    cr_expect_eq(count_sent(PSD_MSG_PUSH), 8);
    cr_expect_eq(count_sent(PSD_MSG_PROBE), 1, "behind the last, the weights answer");
    psd_msg_t alive = message(PSD_MSG_PROGRESS, RUN);
    alive.seq = sent(PSD_MSG_PROBE)->seq;
    alive.clock = 1;
    alive.parts = 8;
    say(&alive, &(uint8_t[]){ 0xf0 }, 1);
    cr_expect_null(sent(PSD_MSG_PUSH), "those behind the probe were on their way");
    psd_msg_t same = message(PSD_MSG_WEIGHTS, RUN);
    same.clock = 1;
    same.parts = 8;
    same.world = 1;
    say(&same, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ g, g + HALF }, 10, 1, &err), PSD_OK);
    for (unsigned n = 4; n <= 8; n += 4) {
        psd_session_pump(session, &out);
        cr_expect_eq(count_sent(PSD_MSG_PUSH), n);
        cr_expect_eq(count_sent(PSD_MSG_PROBE), 1, "each exchange is counted from its beginning");
    }
}

Test(session, while_tensors_are_missing_another_run_of_the_servers_changes_nothing, .init = setup_two, .fini = teardown)
{
    static float g[2 * HALF];
    send_part(RUN, 4, 0, 1);
    send_part(RUN, 4, 1, 1);
    push(1, g + HALF);
    refuse_run();
    pass(200);
    cr_expect_null(sent(PSD_MSG_HELLO));
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_COLLECTING);
    push(0, g);
    cr_expect_null(sent(PSD_MSG_PUSH), "it is not a gradient of the new run");
    pass(50);
    cr_assert_not_null(sent(PSD_MSG_HELLO));
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    send_part(NEXT_RUN, 2, 0, 3);
    send_part(NEXT_RUN, 2, 1, 3);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(psd_session_position(session).clock, 3);
    cr_expect(big[0] == 3 && big[HALF] == 3);
}

/* ---- the servers' views ---- */

static uint64_t present_run = RUN;

static void send_view(uint64_t clock, uint64_t view, uint32_t rank, uint32_t world)
{
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, present_run);
    msg.clock = clock;
    msg.parts = 1;
    msg.view_id = view;
    msg.rank = rank;
    msg.world = world;
    say(&msg, NULL, 0);
}

Test(session, weights_of_an_older_view_change_no_rank, .init = setup, .fini = teardown)
{
    static const struct {
        uint64_t view;
        uint32_t rank, world, rank_then, world_then;
    } said[] = { { 7, 2, 5, 2, 5 }, { 6, 1, 9, 2, 5 }, { 7, 3, 6, 3, 6 }, { 8, 0, 1, 0, 1 }, { 7, 3, 6, 0, 1 } };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
        send_view(5 + i, said[i].view, said[i].rank, said[i].world);
        cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY, "but are weights all the same");
        cr_expect_eq(psd_session_position(session).rank, said[i].rank_then, "%zu", i);
        cr_expect_eq(psd_session_position(session).world, said[i].world_then, "%zu", i);
    }
}

Test(session, views_of_another_run_are_counted_anew, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    send_view(5, 50, 2, 5);
    refuse_run();
    pass(50);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    pass(50);
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    send_weights(NEXT_RUN, 2, 7, 8);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    present_run = NEXT_RUN;
    send_view(3, 1, 1, 2);
    cr_expect_eq(psd_session_position(session).rank, 1);
    cr_expect_eq(psd_session_position(session).world, 2);
    cr_expect_eq(psd_session_position(session).view_id, 1);
    weights[0] = 1, weights[1] = 2;
}

/* ---- a model of two tensors, one on each of two servers; each push is a step ---- */

static float pair[2][2] = { { 1, 2 }, { 3, 4 } };
static double clip_value; /* of the job */
static bool (*pair_copies)(void *arg, uint32_t s);

static void say_as(uint32_t server, const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *buf = said_with(msg, payload, n);
    psd_session_message(session, now, PSD_PEER_SERVER + server, msg, buf, &out);
    psd_buf_unref(&buf);
}

static double samples_of[2] = { 0, 0 }, lr_of[2] = { 0.5, 0.25 }; /* as each server says */

static void weights_of(uint32_t server, uint64_t clock)
{
    psd_msg_t msg = message(PSD_MSG_ATTACHED, RUN);
    msg.shard = server;
    msg.parts = msg.world = 1;
    say_as(server, &msg, NULL, 0);
    msg.kind = PSD_MSG_WEIGHTS;
    msg.clock = clock;
    msg.value = samples_of[server];
    msg.lr = lr_of[server];
    msg.n_elements = 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(pair[server], sizeof pair[server]);
    say_as(server, &msg, pair[server], sizeof pair[server]);
}

static void setup_pair(void)
{
    uint8_t bytes[512];
    psd_tensor_desc_t tensor[] = { { .name = "v", .n_dims = 1, .dim = { 2 }, .n_elements = 2 },
                                   { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 } };
    psd_tensor_list_t list = { .n = 2, .tensor = tensor };
    float *const data[] = { pair[0], pair[1] };
    psd_cluster_t cluster = { .n_servers = 2,
                              .endpoint = { "tcp://here:1", "tcp://there:1" },
                              .settings = { .text = "mode=asp",
                                            .mode = "asp",
                                            .optimizer = "sgd",
                                            .lease_ms = 600,
                                            .part_elements = PSD_MAX_CHUNK,
                                            .clip_value = clip_value,
                                            .whole_norm = true } };
    session = psd_session_new(
        &(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .copies = pair_copies, .arg = &session });
    pass(0);
    psd_msg_t msg = message(PSD_MSG_WELCOME, RUN);
    msg.seq = NONCE;
    say(&msg, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    cr_assert_eq(psd_session_register(session, now, &list, data, &out, &err), PSD_OK);
    for (uint32_t s = 0; s < 2; s++)
        weights_of(s, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
}

/* Push this gradient; both servers get the same fields. */
static void expect_pushes(const float *const *of, bool nonfinite, double norm2)
{
    unsigned n = 0;
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    psd_session_pump(session, &out);
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_PUSH) {
            n++;
            cr_expect_eq(out.at[i].msg.nonfinite, nonfinite, "server %u", out.at[i].msg.shard);
            cr_expect_eq(out.at[i].msg.norm2, norm2, "server %u", out.at[i].msg.shard);
        }
    cr_expect_eq(n, 2, "one to each");
    psd_actions_drop(&out, out.n);
    const uint64_t clock = psd_session_position(session).clock;
    for (uint32_t s = 0; s < 2; s++)
        weights_of(s, clock);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
}

Test(session, a_nan_in_any_tensor_of_a_push_that_is_a_step_is_confessed_to_every_server, .init = setup_pair, .fini = teardown)
{
    expect_pushes((const float *const[]){ (float[]){ 1, 2 }, (float[]){ 3, NAN } }, true, 0);
    expect_pushes((const float *const[]){ (float[]){ NAN, 2 }, (float[]){ 3, 4 } }, true, 0);
    expect_pushes((const float *const[]){ (float[]){ 1, 2 }, (float[]){ -INFINITY, 4 } }, true, 0);
    expect_pushes((const float *const[]){ (float[]){ 1, 2 }, (float[]){ 3, 4 } }, false, 30);
    expect_pushes((const float *const[]){ NULL, (float[]){ 3, 4 } }, false, 25);
}

Test(session, the_jobs_samples_are_those_of_the_server_that_is_ahead_and_the_rate_is_that_of_server_0, .init = setup_pair,
     .fini = teardown)
{
    cr_expect_eq(psd_session_position(session).step_lr, 0.5);
    for (uint32_t ahead = 0; ahead < 2; ahead++) {
        samples_of[ahead] = 30 + 10 * ahead;
        samples_of[!ahead] = 25 + 10 * ahead;
        expect_pushes((const float *const[]){ (float[]){ 1, 2 }, (float[]){ 3, 4 } }, false, 30);
        cr_expect_eq(psd_session_position(session).samples, 30 + 10 * ahead);
    }
    lr_of[0] = 0.125;
    expect_pushes((const float *const[]){ (float[]){ 1, 2 }, (float[]){ 3, 4 } }, false, 30);
    cr_expect_eq(psd_session_position(session).step_lr, 0.125);
}

static bool server_1_only(void *arg, uint32_t s) { return arg == &session && s == 1; }

static void setup_copying(void)
{
    pair_copies = server_1_only;
    setup_pair();
}

Test(session, only_a_server_whose_way_wants_copies_gets_them, .init = setup_copying, .fini = teardown)
{
    const float *const of[] = { (float[]){ 1, 2 }, (float[]){ 3, 4 } };
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_assert_eq(out.n, 2);
    for (uint32_t i = 0; i < 2; i++) {
        const uint32_t s = out.at[i].msg.shard;
        cr_expect_eq(out.at[i].payload->data == of[s], s == 0, "server %u", s);
        cr_expect_arr_eq(out.at[i].payload->data, of[s], 2 * sizeof(float));
    }
}

static void setup_clipped(void)
{
    clip_value = 2;
    setup_pair();
}

Test(session, the_norm_of_a_push_that_is_a_step_is_that_of_the_clipped_gradient, .init = setup_clipped, .fini = teardown)
{
    /* 1 + 4 + 4 + 4 */
    expect_pushes((const float *const[]){ (float[]){ 1, 2 }, (float[]){ 3, -4 } }, false, 13);
}

Test(session, a_learning_rate_is_set_when_server_0_has_said_so_of_this_asking, .init = setup, .fini = teardown)
{
    cr_expect_eq(psd_session_set_lr(session, now, -1, &out, &err), PSD_EINVAL);
    cr_expect_eq(psd_session_set_lr(session, now, NAN, &out, &err), PSD_EINVAL);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_set_lr(session, now, 0.1, &out, &err), PSD_OK);
    cr_assert_not_null(sent(PSD_MSG_SETTING));
    cr_expect_eq(sent(PSD_MSG_SETTING)->value, 0.1);
    cr_expect_str_eq(sent(PSD_MSG_SETTING)->text, "optimizer.lr");
    psd_msg_t set = message(PSD_MSG_SETTING, RUN);
    set.code = sent(PSD_MSG_SETTING)->code;
    psd_msg_t late = set;
    late.code--;
    psd_actions_drop(&out, out.n);
    for (int i = 0; i < 6 && !sent(PSD_MSG_SETTING); i++)
        pass(100);
    cr_assert_not_null(sent(PSD_MSG_SETTING), "a message that may have been lost is repeated");
    cr_expect_eq(sent(PSD_MSG_SETTING)->value, 0.1);
    say(&late, NULL, 0);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_SETTING, "that was the answer to one before");
    say(&set, NULL, 0);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_set_lr(session, now, 0.125, &out, &err), PSD_OK);
    say(&set, NULL, 0);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_SETTING, "that answer came twice");
}

Test(session, what_rows_it_trains_on_is_said_like_a_setting, .init = setup, .fini = teardown)
{
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_say_rows(session, now, "60 rows, batch_size 8", &out, &err), PSD_OK);
    cr_assert_not_null(sent(PSD_MSG_SETTING));
    cr_expect_str_eq(sent(PSD_MSG_SETTING)->text, "rows=60 rows, batch_size 8");
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_SETTING);
    cr_expect_eq(psd_session_say_rows(session, now, "60 rows", &out, &err), PSD_EINVAL, "one at a time");
}

Test(session, slow_weights_are_those_of_the_last_pull, .init = setup, .fini = teardown)
{
    float slow[2] = { 0 };
    const float w[] = { 3, 4 };
    float *const to[] = { slow };
    psd_msg_t msg = message(PSD_MSG_SLOW, RUN);
    msg.parts = 1;
    msg.n_elements = 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(w, sizeof w);
    for (int i = 0; i < 2; i++) {
        slow[0] = slow[1] = 0;
        psd_actions_drop(&out, out.n);
        cr_assert_eq(psd_session_pull_slow(session, now, to, &out, &err), PSD_OK);
        cr_assert_not_null(sent(PSD_MSG_PULL));
        cr_expect(*(const uint8_t *)sent_with(PSD_MSG_PULL)->data & 1, "it asks for part 0");
        const uint64_t seq = sent(PSD_MSG_PULL)->seq;
        if (i)
            say(&msg, w, sizeof w);
        cr_expect_eq(slow[0], 0, "those were of the pull before");
        msg.seq = seq;
        say(&msg, w, sizeof w);
        cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
        cr_expect(slow[0] == 3 && slow[1] == 4);
        cr_expect(weights[0] == 1 && weights[1] == 2);
    }
}

/* ---- what it says ---- */

/* The number of lines with this id; `text` and `level`: of the last one. */
static int level;
static unsigned count_lines(const char *id, char text[PSD_MAX_TEXT]) { return logged(&out, id, text, &level); }

Test(session, a_worker_that_joins_again_says_from_where, .init = setup, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    refuse_run();
    cr_expect_eq(count_lines("worker.rejoin", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_str_eq(text, "worker=3 clock=5 reason=\"the servers have begun another run\"");
    welcome(NEXT_RUN, sent(PSD_MSG_HELLO)->seq);
    cr_expect_eq(count_lines("worker.welcome", text), 1);
    cr_expect_eq(level, PSD_LEVEL_INFO);
    cr_expect_str_eq(text, "worker=3 incarnation=11 servers=1 settings=\"mode=bsp\"");
}

Test(session, a_server_is_warned_of_when_it_is_lost_but_not_for_a_time_in_which_this_process_was_stopped, .init = setup,
     .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    unsigned lost = 0, back = 0;
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    pass(100);
    pass(20000);
    cr_expect_eq(count_lines("server.lost", text), 0, "nobody could hear it: %s", text);
    for (int i = 0; i < 30; i++) {
        pass(100);
        lost += count_lines("server.lost", text);
        if (*text)
            cr_expect_eq(level, PSD_LEVEL_WARN);
    }
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, RUN);
    say(&beat, NULL, 0);
    pass(40);
    back = count_lines("server.back", text);
    cr_expect_eq(level, PSD_LEVEL_INFO);
    cr_expect(lost == 1 && back == 1, "%u lost, %u back", lost, back);
}

Test(session, a_server_that_has_attached_a_worker_owes_it_nothing_until_that_is_a_member, .fini = teardown)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    float *const data[] = { weights };
    uint8_t bytes[512];
    psd_cluster_t cluster = {
        .n_servers = 2,
        .endpoint = { "tcp://here:1", "tcp://there:2" },
        .settings = { .text = "mode=bsp", .mode = "bsp", .optimizer = "sgd", .lease_ms = 600, .part_elements = PSD_MAX_CHUNK }
    };
    psd_msg_t hello = message(PSD_MSG_WELCOME, RUN), beat = message(PSD_MSG_HEARTBEAT, RUN),
              attached = message(PSD_MSG_ATTACHED, RUN);
    session = psd_session_new(&(psd_session_config_t){
        .job = "job", .name = "me", .nonce = NONCE, .patience_ms = 5000, .read_groups = psd_groups_parse });
    pass(0);
    hello.seq = NONCE;
    say(&hello, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    cr_assert_eq(psd_session_register(session, now, &list, data, &out, &err), PSD_OK);
    for (uint32_t s = 0; s < 2; s++)
        say_as(s, &attached, NULL, 0);
    for (int i = 0; i < 200; i++) {
        say(&beat, NULL, 0);
        pass(100);
    }
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_REGISTERING, "%s", psd_session_error(session)->text);
}

Test(session, a_call_at_the_wrong_time_is_named, .init = setup, .fini = teardown)
{
    float slow[2];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    static const char rest[] = ": called in the wrong order; register first, then make one exchange at a time";
    static const char *const names[] = { "register", "push", "exchange", "pull", "set the learning rate" };
    cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const int rc = i == 0   ? psd_session_register(session, now, &list, (float *const[]){ weights }, &out, &err)
                       : i == 1 ? psd_session_push(session, now, 0, gradient[0], 10, 1, &err)
                       : i == 2 ? psd_session_exchange(session, now, gradient, 10, 1, &err)
                       : i == 3 ? psd_session_pull_slow(session, now, (float *const[]){ slow }, &out, &err)
                                : psd_session_set_lr(session, now, 1, &out, &err);
        char want[160];
        snprintf(want, sizeof want, "%s%s", names[i], rest);
        cr_expect_eq(rc, PSD_EINVAL);
        cr_expect_str_eq(err.text, want);
    }
}

Test(session, a_push_has_the_samples_and_the_loss_of_its_exchange, .init = setup, .fini = teardown)
{
    cr_assert_eq(psd_session_exchange(session, now, gradient, 12, 0.75, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    cr_assert_not_null(sent(PSD_MSG_PUSH));
    cr_expect(sent(PSD_MSG_PUSH)->samples == 12 && sent(PSD_MSG_PUSH)->loss == 0.75F);
}

Test(session, a_rate_that_is_none_is_refused_in_words, .init = setup, .fini = teardown)
{
    static const struct {
        double rate;
        const char *said;
    } cases[] = { { -1, "-1" }, { INFINITY, "inf" }, { -INFINITY, "-inf" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[128];
        cr_expect_eq(psd_session_set_lr(session, now, cases[i].rate, &out, &err), PSD_EINVAL);
        snprintf(want, sizeof want, "a learning rate must be a finite number of at least 0; this is %s", cases[i].said);
        cr_expect_str_eq(err.text, want);
    }
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
}

Test(session, a_refusal_and_a_fence_are_told_with_who_and_why, .init = setup, .fini = teardown)
{
    psd_msg_t msg = message(PSD_MSG_REFUSED, RUN);
    msg.code = PSD_REFUSAL_SHAPE;
    snprintf(msg.text, sizeof msg.text, "w is [3]");
    say(&msg, NULL, 0);
    cr_expect_eq(psd_session_error(session)->code, PSD_EREFUSED);
    cr_expect_str_eq(psd_session_error(session)->text, "server 0 refused (shape): w is [3]");
    teardown();
    now = 1000;
    setup();
    msg = message(PSD_MSG_FENCED, RUN);
    snprintf(msg.text, sizeof msg.text, "it was silent");
    say(&msg, NULL, 0);
    cr_expect_eq(psd_session_error(session)->code, PSD_EFENCED);
    cr_expect_str_eq(psd_session_error(session)->text, "server 0 gave this worker up: it was silent");
}

Test(session, the_version_only_rises_and_whether_rounds_wait_is_as_last_said, .init = setup, .fini = teardown)
{
    static const struct {
        uint64_t version, shown;
        uint32_t code;
    } said[] = { { 9, 9, PSD_WEIGHTS_GATHERED }, { 8, 9, PSD_WEIGHTS_RESIDUAL }, { 10, 10, 0 } };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
        cr_assert_eq(psd_session_exchange(session, now, gradient, 10, 1, &err), PSD_OK);
        msg.clock = 5 + i;
        msg.parts = msg.world = 1;
        msg.version = said[i].version;
        msg.code = said[i].code;
        say(&msg, NULL, 0);
        cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
        cr_expect_eq(psd_session_position(session).version, said[i].shown);
        cr_expect_eq(psd_session_position(session).gathered, said[i].code == PSD_WEIGHTS_GATHERED);
    }
}

Test(session, the_reason_of_server_0_is_said_once_however_many_servers_are_waited_for, .init = setup_pair, .fini = teardown)
{
    char text[256];
    const float *const of[] = { (float[]){ 1, 2 }, (float[]){ 3, 4 } };
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "1 of 1 parts of server 0 (clock 1), 1 of 1 parts of server 1 (clock 1)");
    char little[100];
    memset(little, '#', sizeof little);
    psd_session_describe_wait(session, little, 10);
    cr_expect_str_eq(little, "1 of 1 pa", "as far as there is room");
    for (size_t i = 10; i < sizeof little; i++)
        cr_expect_eq(little[i], '#');
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, RUN);
    snprintf(beat.text, sizeof beat.text, "pushes of workers 1 (round 1)");
    say(&beat, NULL, 0);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "pushes of workers 1 (round 1)");
}

Test(session, one_that_leaves_unfinished_after_all_says_so_once, .init = setup, .fini = teardown)
{
    psd_session_leave(session, now, true, &out);
    cr_assert_not_null(sent(PSD_MSG_LEAVE));
    cr_expect_eq(sent(PSD_MSG_LEAVE)->code, PSD_LEAVE_FINISHED);
    psd_actions_drop(&out, out.n);
    psd_session_leave(session, now, false, &out);
    cr_assert_not_null(sent(PSD_MSG_LEAVE));
    cr_expect_eq(sent(PSD_MSG_LEAVE)->code, PSD_LEAVE_UNFINISHED);
    psd_actions_drop(&out, out.n);
    psd_session_leave(session, now, false, &out);
    cr_expect_null(sent(PSD_MSG_LEAVE));
}

Test(session, one_that_joins_waits_for_what_server_0_says, .fini = teardown)
{
    char text[256];
    session = psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE });
    pass(0);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "an answer from server 0");
    psd_msg_t wait = message(PSD_MSG_WAIT, RUN);
    snprintf(wait.text, sizeof wait.text, "both places are taken");
    say(&wait, NULL, 0);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "both places are taken");
}

Test(session, a_reported_name_has_up_to_63_characters, .init = setup, .fini = teardown)
{
    char name[71] = "";
    memset(name, 'x', 70);
    psd_session_report(session, name, 2.5, &out);
    cr_assert_not_null(sent(PSD_MSG_REPORT));
    cr_expect_eq(strlen(sent(PSD_MSG_REPORT)->text), 63);
    cr_expect_eq(sent(PSD_MSG_REPORT)->value, 2.5);
    cr_expect_eq(sent(PSD_MSG_REPORT)->seq, NONCE);
}

/* ---- residuals and checkpoints: a tensor of two weights on server 0, and one on server 1 unless that has none ---- */

static uint32_t n_pair = 2; /* tensors */

static void send_of(uint32_t server, uint64_t clock, uint32_t code, uint64_t saved)
{
    psd_msg_t msg = message(PSD_MSG_ATTACHED, RUN);
    msg.shard = server;
    msg.parts = msg.world = 1;
    say_as(server, &msg, NULL, 0);
    msg.kind = PSD_MSG_WEIGHTS;
    msg.clock = clock;
    msg.code = code;
    msg.saved = saved;
    const bool has = server < n_pair;
    if (has) {
        msg.n_elements = 2;
        msg.dtype = PSD_DTYPE_F32;
        msg.codec = PSD_CODEC_F32;
        msg.checksum = psd_crc32c(pair[server], sizeof pair[server]);
    }
    say_as(server, &msg, has ? pair[server] : NULL, has ? sizeof pair[server] : 0);
}

/* The worker joins a job that continues after `clock`; the servers say with these codes what they have of it. */
static void continue_at(uint64_t clock, uint32_t code_0, uint32_t code_1)
{
    uint8_t bytes[512];
    psd_tensor_desc_t tensor[] = { { .name = "v", .n_dims = 1, .dim = { 2 }, .n_elements = 2 },
                                   { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 } };
    psd_tensor_list_t list = { .n = n_pair, .tensor = tensor };
    codings.push = (psd_coding_t){ psd_codec_find("sign"), 0 };
    psd_cluster_t cluster = { .n_servers = 2,
                              .endpoint = { "tcp://here:1", "tcp://there:1" },
                              .settings = { .text = "mode=bsp",
                                            .mode = "bsp",
                                            .optimizer = "sgd",
                                            .lease_ms = 60000,
                                            .part_elements = PSD_MAX_CHUNK,
                                            .codings = codings,
                                            .in_rounds = true,
                                            .saves_residuals = true } };
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    psd_msg_t msg = message(PSD_MSG_WELCOME, RUN);
    msg.seq = NONCE;
    say(&msg, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    cr_assert_eq(psd_session_register(session, now, &list, (float *const[]){ pair[0], pair[1] }, &out, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    send_of(0, clock, code_0, 0);
    send_of(1, clock, code_1, 0);
}

/* A server's answer to the request for this worker's residual; NULL: it has none. */
static void send_residual(uint32_t server, uint64_t seq, const float *residual)
{
    psd_msg_t msg = message(PSD_MSG_RESIDUAL, RUN);
    msg.shard = server;
    msg.seq = seq;
    msg.parts = 1;
    if (residual) {
        msg.n_elements = 2;
        msg.dtype = PSD_DTYPE_F32;
        msg.codec = PSD_CODEC_F32;
        msg.checksum = psd_crc32c(residual, 2 * sizeof *residual);
    }
    say_as(server, &msg, residual, residual ? 2 * sizeof *residual : 0);
}

static const float two_gradients[2][2] = { { 5, 6 }, { -1, 3 } };

/* Push both gradients: the codes are those of a worker with these residuals, which then are those after it. */
static void expect_codes(float residual[2][2])
{
    uint8_t code[16];
    unsigned n = 0;
    const float *const of[] = { two_gradients[0], two_gradients[1] };
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    for (size_t i = 0; i < out.n; i++) {
        const uint32_t s = out.at[i].msg.shard;
        if (out.at[i].act != PSD_ACT_SEND || out.at[i].msg.kind != PSD_MSG_PUSH || s >= n_pair)
            continue;
        psd_coding_encode(&codings.push, of[s], residual[s], 2, code);
        cr_assert_eq(out.at[i].payload->n_bytes, psd_coding_bytes(&codings.push, 2));
        cr_expect_arr_eq(out.at[i].payload->data, code, psd_coding_bytes(&codings.push, 2), "server %u", s);
        n++;
    }
    cr_expect_eq(n, n_pair);
    psd_actions_drop(&out, out.n);
}

Test(session, a_worker_that_continues_takes_up_its_residual_from_every_server_that_has_weights, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    for (n_pair = 1; n_pair <= 2; n_pair++) {
        float residual[2][2] = { { 0.5F, -0.25F }, { 4, -8 } };
        continue_at(4, PSD_WEIGHTS_RESIDUAL, n_pair > 1 ? PSD_WEIGHTS_RESIDUAL : 0);
        cr_assert_eq(psd_session_phase(session), PSD_PHASE_RESTORING, "of %u tensors", n_pair);
        unsigned n = 0;
        uint64_t seq = 0;
        for (size_t i = 0; i < out.n; i++)
            if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_RESIDUAL_WANTED) {
                n++;
                seq = out.at[i].msg.seq;
                cr_expect_eq(*(const uint8_t *)out.at[i].payload->data, 1, "part 0");
            }
        cr_expect_eq(n, n_pair);
        for (uint32_t s = 0; s < n_pair; s++) {
            cr_expect_eq(psd_session_phase(session), PSD_PHASE_RESTORING);
            psd_actions_drop(&out, out.n);
            send_residual(s, seq, residual[s]);
        }
        cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
        cr_expect_eq(count_lines("residual.restored", text), 1);
        cr_expect_eq(level, PSD_LEVEL_INFO);
        cr_expect_str_eq(text, "worker=3 clock=5");
        cr_expect_eq(count_lines("residual.reset", text), 0);
        expect_codes(residual);
        teardown();
        now = 1000;
    }
    n_pair = 2;
    continue_at(0, 0, 0);
}

static const char begun_anew[] = "worker=3 clock=5 reason=\"the worker keeps the residual of codec.push, or dlion's momentum, and "
                                 "the checkpoint that it continues from does not hold it\"";

Test(session, a_worker_whose_residual_one_server_no_longer_has_begins_without_any, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    float residual[2][2] = { { 0.5F, -0.25F }, { 0, 0 } };
    continue_at(4, PSD_WEIGHTS_RESIDUAL, PSD_WEIGHTS_RESIDUAL);
    const uint64_t seq = sent(PSD_MSG_RESIDUAL_WANTED)->seq;
    send_residual(0, seq, residual[0]);
    psd_actions_drop(&out, out.n);
    send_residual(1, seq, NULL);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(count_lines("residual.reset", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_str_eq(text, begun_anew);
    memset(residual, 0, sizeof residual);
    expect_codes(residual);
}

Test(session, a_worker_whose_residual_was_not_saved_says_that_it_begins_without, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    for (int has_0 = 0; has_0 < 2; has_0++) {
        float residual[2][2] = { { 0 } };
        continue_at(4, has_0 ? PSD_WEIGHTS_RESIDUAL : 0, has_0 ? 0 : PSD_WEIGHTS_RESIDUAL);
        cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
        cr_expect_eq(count_lines("residual.reset", text), 1);
        cr_expect_str_eq(text, begun_anew);
        expect_codes(residual);
        teardown();
        now = 1000;
    }
    continue_at(0, 0, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(count_lines("residual.reset", text), 0, "before the first step there is none to lose");
}

/* Server `s` asks for this worker's residual after `clock`. Returns the answer, with the values in `out`; NULL: none came. */
static const psd_msg_t *want_residual(uint32_t s, uint64_t clock, float values[2])
{
    psd_msg_t msg = message(PSD_MSG_RESIDUAL_WANTED, RUN);
    msg.shard = s;
    msg.clock = clock;
    msg.parts = 1;
    psd_actions_drop(&out, out.n);
    say_as(s, &msg, &(uint8_t[]){ 1 }, 1);
    const psd_buf_t *kept = sent_with(PSD_MSG_RESIDUAL);
    if (kept)
        memcpy(values, kept->data, 2 * sizeof *values);
    return sent(PSD_MSG_RESIDUAL);
}

Test(session, the_residual_that_a_checkpoint_needs_is_kept_as_it_was_until_no_server_needs_it, .fini = teardown)
{
    float residual[2][2] = { { 0 } }, after_1[2][2], got[2];
    continue_at(0, 0, 0);
    expect_codes(residual);
    memcpy(after_1, residual, sizeof residual);
    for (uint32_t s = 0; s < 2; s++)
        send_of(s, 1, 0, 0);
    expect_codes(residual);
    send_of(0, 2, 0, 1 + 1); /* server 0 saves the weights after clock 1, and server 1 those after clock 2 */
    send_of(1, 2, 0, 2 + 1);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    float after_2[2][2];
    memcpy(after_2, residual, sizeof residual);
    cr_assert_not_null(want_residual(0, 1, got));
    cr_expect_arr_eq(got, after_1[0], sizeof got);
    cr_assert_not_null(want_residual(1, 2, got));
    cr_expect_eq(sent(PSD_MSG_RESIDUAL)->clock, 2);
    cr_expect_eq(sent(PSD_MSG_RESIDUAL)->n_elements, 2);
    cr_expect_arr_eq(got, after_2[1], sizeof got);
    cr_expect_null(want_residual(0, 3, got), "nothing of that exchange has been pushed");
    expect_codes(residual);
    cr_assert_not_null(want_residual(0, 1, got));
    cr_expect_arr_eq(got, after_1[0], sizeof got, "it stays while training goes on");
    cr_expect_null(want_residual(0, 7, got), "that is yet to come");
    send_of(0, 3, 0, 0); /* the checkpoint is made */
    send_of(1, 3, 0, 0);
    cr_assert_not_null(want_residual(0, 1, got));
    cr_expect_null(sent_with(PSD_MSG_RESIDUAL), "it has gone with the checkpoint");
}

/* ---- what is repeated ---- */

/* Ticks of 50 ms for this long; the times, from now, at which a message of this kind was sent to server 0. Returns their number. */
static unsigned times_of(psd_kind_t kind, uint64_t ms, uint64_t at[16])
{
    unsigned n = 0;
    for (const uint64_t begun = now; now < begun + ms;) {
        pass(50);
        for (size_t i = 0; i < out.n; i++)
            if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind && n < 16)
                at[n++] = now - begun;
    }
    return n;
}

Test(session, a_server_that_does_not_answer_is_asked_after_ever_longer_pauses_until_a_part_comes, .init = setup_pair,
     .fini = teardown)
{
    static const uint64_t pauses[] = { 200, 400, 800, 1000, 1000 };
    const float *const of[] = { (float[]){ 1, 2 }, (float[]){ 3, 4 } };
    uint64_t at[16], before = 0;
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    psd_session_pump(session, &out);
    weights_of(1, 1); /* only server 0 is silent */
    cr_assert_eq(times_of(PSD_MSG_PROBE, 3450, at), 5);
    for (size_t i = 0; i < 5; i++) {
        cr_expect_eq(at[i] - before, pauses[i], "the %zu-th after %u ms", i, (unsigned)(at[i] - before));
        before = at[i];
    }
    weights_of(0, 1);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    cr_assert_eq(times_of(PSD_MSG_PROBE, 200, at), 2, "the next exchange begins with the shortest one");
    cr_expect(at[0] == 200 && at[1] == 200);
}

Test(session, a_registration_is_repeated_with_heartbeats_until_it_is_confirmed, .fini = teardown)
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 2 }, .n_elements = 2 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    uint64_t at[16];
    session = psd_session_new(
        &(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .recipe = "mlp", .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &list, (float *const[]){ weights }, &out, &err), PSD_OK);
    cr_assert_not_null(sent(PSD_MSG_REGISTER));
    cr_expect_str_eq(sent(PSD_MSG_REGISTER)->text, "mlp");
    cr_expect_eq(sent(PSD_MSG_REGISTER)->seq, NONCE);
    cr_expect_eq(sent(PSD_MSG_ATTACH)->seq, NONCE);
    cr_expect_eq(times_of(PSD_MSG_REGISTER, 1000, at), 10, "of a lease of 600 ms a sixth");
    const psd_msg_t registered = message(PSD_MSG_REGISTERED, RUN);
    say(&registered, NULL, 0);
    cr_expect_eq(times_of(PSD_MSG_REGISTER, 1000, at), 0);
}

/* By this number server 0 knows the worker: it refuses messages of any other. */
Test(session, whatever_a_worker_says_to_server_0_has_the_number_that_it_drew, .init = setup, .fini = teardown)
{
    pass(1000);
    cr_assert_not_null(sent(PSD_MSG_HEARTBEAT));
    cr_expect_eq(sent(PSD_MSG_HEARTBEAT)->seq, NONCE);
    cr_assert_eq(psd_session_set_lr(session, now, 0.25, &out, &err), PSD_OK);
    cr_expect_eq(sent(PSD_MSG_SETTING)->seq, NONCE);
    psd_actions_drop(&out, out.n);
    psd_session_report(session, "x", 1, &out);
    cr_expect_eq(sent(PSD_MSG_REPORT)->seq, NONCE);
    psd_session_leave(session, now, false, &out);
    cr_expect_eq(sent(PSD_MSG_LEAVE)->seq, NONCE);
}

Test(session, a_session_that_is_made_again_is_asked_at_once_for_what_is_missing, .init = setup_pair, .fini = teardown)
{
    uint64_t at[16];
    psd_msg_t lost = message(PSD_MSG_REFUSED, RUN), attached = message(PSD_MSG_ATTACHED, RUN);
    lost.code = PSD_REFUSAL_SESSION;
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ (float[]){ 1, 2 }, (float[]){ 3, 4 } }, 10, 1, &err),
                 PSD_OK);
    psd_session_pump(session, &out);
    say_as(1, &lost, NULL, 0);
    cr_expect_eq(times_of(PSD_MSG_ATTACH, 100, at), 1);
    cr_expect_eq(at[0], 50);
    say_as(1, &attached, NULL, 0);
    cr_expect_eq(times_of(PSD_MSG_PROBE, 50, at), 1, "the weights may have been lost with the old one");
}

Test(session, whoever_has_left_hears_nothing_more, .init = setup, .fini = teardown)
{
    psd_session_leave(session, now, true, &out);
    const psd_msg_t left = message(PSD_MSG_LEFT, RUN);
    say(&left, NULL, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_LEFT);
    cr_assert_not_null(sent(PSD_MSG_LEAVE));
    cr_expect_eq(sent(PSD_MSG_LEAVE)->code, PSD_LEAVE_KNOWS);
    psd_msg_t refused = message(PSD_MSG_REFUSED, RUN);
    refused.code = PSD_REFUSAL_SHAPE;
    say(&refused, NULL, 0);
    psd_session_other_protocol(session, PSD_PEER_SERVER, 1);
    psd_session_shut_out(session, "no key");
    pass(5000);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_LEFT);
    cr_expect_eq(out.n, 0);
}

Test(session, after_each_part_that_comes_the_server_is_asked_for_the_others_as_soon_as_at_first, .init = setup_two,
     .fini = teardown)
{
    static float g[2 * HALF];
    char text[256] = "x";
    uint64_t at[16];
    send_part(RUN, 4, 0, 1);
    send_part(RUN, 4, 1, 1);
    psd_session_describe_wait(session, text, sizeof text);
    cr_expect_str_eq(text, "", "it waits for nothing");
    cr_assert_eq(psd_session_exchange(session, now, (const float *const[]){ g, g + HALF }, 10, 1, &err), PSD_OK);
    while (psd_session_pump(session, &out))
        ;
    cr_expect_eq(times_of(PSD_MSG_PROBE, 700, at), 2, "after 200 and 600 ms");
    send_part(RUN, 5, 1, 2);
    cr_expect_eq(times_of(PSD_MSG_PROBE, 300, at), 1);
    cr_expect_eq(at[0], 200);
    cr_expect_null(sent(PSD_MSG_PROBE), "that was 100 ms ago");
    cr_expect_eq(times_of(PSD_MSG_PROBE, 300, at), 1);
    cr_assert_not_null(sent_with(PSD_MSG_PROBE));
    cr_expect_eq(*(const uint8_t *)sent_with(PSD_MSG_PROBE)->data, 1, "it has the second part");
}

Test(session, a_part_in_which_a_tensor_has_no_gradient_says_which_ones_have, .fini = teardown)
{
    static const float a[] = { 1, 2 }, c[] = { 6 };
    const float want[] = { 1, 2, 0, 0, 0, 6 };
    push_three(a, NULL, c, NULL);
    cr_assert_not_null(pushed());
    cr_expect_eq(sent(PSD_MSG_PUSH)->chunks, 3);
    cr_expect_eq(sent(PSD_MSG_PUSH)->n_elements, 6);
    cr_assert_eq(pushed()->n_bytes, sizeof want + 1);
    cr_expect_arr_eq(pushed()->data, want, sizeof want);
    cr_expect_eq(((const uint8_t *)pushed()->data)[sizeof want], 5, "the first and the third");
}

Test(session, so_does_a_part_of_more_tensors_than_a_byte_has_bits, .fini = teardown)
{
    enum { N = 12 };
    psd_tensor_desc_t tensor[N];
    static float w[N], g[N];
    float *data[N];
    const float *of[N];
    for (uint32_t i = 0; i < N; i++) {
        tensor[i] = (psd_tensor_desc_t){ .n_elements = 1 };
        snprintf(tensor[i].name, sizeof tensor[i].name, "t%u", i);
        data[i] = &w[i];
        g[i] = (float)(i + 1);
        of[i] = i == 0 || i == 10 ? NULL : &g[i];
    }
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    welcome(RUN, NONCE);
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = N, .tensor = tensor }, data, &out, &err), PSD_OK);
    psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
    msg.parts = msg.world = 1;
    msg.n_elements = N;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.proven = true;
    say(&msg, w, sizeof w);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_exchange(session, now, of, 1, 0, &err), PSD_OK);
    psd_session_pump(session, &out);
    cr_assert_not_null(pushed());
    cr_expect_eq(sent(PSD_MSG_PUSH)->chunks, N);
    cr_assert_eq(pushed()->n_bytes, sizeof g + 2);
    g[0] = g[10] = 0;
    cr_expect_arr_eq(pushed()->data, g, sizeof g);
    cr_expect_arr_eq((const uint8_t *)pushed()->data + sizeof g, ((const uint8_t[]){ 0xfe, 0x0b }), 2);
}

static size_t n_asked, n_refused; /* bytes of buffers that the transport was asked for; and how often it had none */
static psd_buf_t *lent;

static psd_buf_t *lend(void *arg, size_t n_bytes)
{
    cr_expect_eq(arg, &session);
    n_asked = n_bytes;
    if (n_refused++)
        return NULL;
    lent = psd_buf_new(n_bytes);
    memset(lent->data, 0xff, n_bytes); /* what was sent before */
    return lent;
}

Test(session, what_is_gathered_lies_in_the_transports_buffers_as_long_as_it_has_some, .fini = teardown)
{
    static const float a[] = { 1, 2 }, c[] = { 6 };
    const float want[] = { 1, 2, 0, 0, 0, 6 };
    for (int i = 0; i < 2; i++) {
        new_buf = lend;
        push_three(a, NULL, c, NULL);
        cr_assert_not_null(pushed());
        cr_expect_eq(n_asked, sizeof want + 1, "with the bitmap");
        cr_expect_eq(pushed() == lent, i == 0);
        cr_expect_arr_eq(pushed()->data, want, sizeof want);
        teardown();
    }
}

Test(session, a_part_that_leaves_early_says_how_long_its_own_gradient_has_taken, .init = setup_two, .fini = teardown)
{
    static float g[2 * HALF];
    send_part(RUN, 4, 0, 1);
    send_part(RUN, 4, 1, 1);
    now += 70;
    push(1, g + HALF);
    cr_assert_not_null(sent(PSD_MSG_PUSH));
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.07, 1e-12);
    now += 50;
    push(0, g);
    cr_assert_not_null(sent(PSD_MSG_PUSH));
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.12, 1e-12);
    send_part(RUN, 5, 0, 1);
    send_part(RUN, 5, 1, 1);
    now += 600; /* this process is stopped while it computes */
    push(1, g + HALF);
    push(0, g);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0.6, 1e-12);
    pass(50);
    send_part(RUN, 6, 0, 1);
    send_part(RUN, 6, 1, 1);
    push(1, g + HALF);
    cr_expect_float_eq(sent(PSD_MSG_PUSH)->value, 0, 1e-12, "that time does not count again");
}

Test(session, a_probe_names_the_newest_request_for_initial_values_that_was_answered, .init = setup_two, .fini = teardown)
{
    psd_msg_t attached = message(PSD_MSG_ATTACHED, RUN), registered = message(PSD_MSG_REGISTERED, RUN),
              wanted = message(PSD_MSG_INIT_WANTED, RUN);
    say(&attached, NULL, 0);
    say(&registered, NULL, 0);
    wanted.parts = 2;
    for (wanted.seq = 3; wanted.seq > 1; wanted.seq--) { /* the second comes late */
        say(&wanted, &(uint8_t[]){ 1 }, 1);
        cr_expect_eq(sent(PSD_MSG_INIT) != NULL, wanted.seq == 3);
    }
    for (int i = 0; i < 10 && !sent(PSD_MSG_PROBE); i++)
        pass(50);
    cr_assert_not_null(sent(PSD_MSG_PROBE));
    cr_expect_eq(sent(PSD_MSG_PROBE)->base_version, 3);
    cr_expect_eq(sent(PSD_MSG_PROBE)->clock, 0, "any weights will do");
}

enum { MANY = 6 }; /* tensors of a part each: 4 of them fill a window */
static float many[MANY][HALF];

static void send_many(psd_kind_t kind, uint64_t clock, uint32_t code, uint64_t seq, uint32_t part)
{
    psd_msg_t msg = message(kind, RUN);
    msg.clock = clock;
    msg.code = code;
    msg.seq = seq;
    msg.parts = MANY;
    msg.part = part;
    msg.world = 1;
    msg.n_elements = HALF;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.proven = true;
    say(&msg, many[part], sizeof many[part]);
}

static float *many_data[MANY];

/* The servers' weights of clock `clock` have come to a worker of this model. */
static void setup_many(uint64_t clock, uint32_t code)
{
    uint8_t bytes[512];
    psd_tensor_desc_t tensor[MANY];
    for (uint32_t i = 0; i < MANY; i++) {
        tensor[i] = (psd_tensor_desc_t){ .n_dims = 1, .dim = { HALF }, .n_elements = HALF };
        snprintf(tensor[i].name, sizeof tensor[i].name, "t%u", i);
        many_data[i] = many[i];
    }
    psd_cluster_t cluster = { .n_servers = 1,
                              .endpoint = { "tcp://here:1" },
                              .settings = { .text = "mode=bsp",
                                            .mode = "bsp",
                                            .optimizer = "sgd",
                                            .lease_ms = 600,
                                            .part_elements = PSD_MAX_CHUNK,
                                            .codings = codings,
                                            .in_rounds = true,
                                            .saves_residuals = true } };
    session =
        psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .read_groups = psd_groups_parse });
    pass(0);
    psd_msg_t msg = message(PSD_MSG_WELCOME, RUN);
    msg.seq = NONCE;
    say(&msg, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
    cr_assert_eq(psd_session_register(session, now, &(psd_tensor_list_t){ .n = MANY, .tensor = tensor }, many_data, &out, &err),
                 PSD_OK);
    const psd_msg_t attached = message(PSD_MSG_ATTACHED, RUN);
    say(&attached, NULL, 0);
    for (uint32_t p = 0; p < MANY; p++)
        send_many(PSD_MSG_WEIGHTS, clock, code, 0, p);
}

/* What is requested by windows: `asks` are the requests, `gives` their answers, of which some are lost. */
static void expect_windows(psd_kind_t asks, psd_kind_t gives)
{
    cr_assert_not_null(sent_with(asks));
    cr_expect_eq(*(const uint8_t *)sent_with(asks)->data, 0x0F, "the first four");
    const uint64_t pull = sent(asks)->seq;
    psd_msg_t progress = message(PSD_MSG_PROGRESS, RUN);
    progress.parts = MANY;
    for (int i = 0; i < 30 && !sent(PSD_MSG_PROBE); i++)
        pass(50);
    cr_assert_not_null(sent(PSD_MSG_PROBE));
    progress.seq = sent(PSD_MSG_PROBE)->seq;
    send_many(gives, 0, 0, pull, 0);
    cr_expect_null(sent(asks), "more than half a window is on its way");
    send_many(gives, 0, 0, pull, 1);
    cr_assert_not_null(sent_with(asks));
    cr_expect_eq(*(const uint8_t *)sent_with(asks)->data, 0x30, "the others");
    say(&progress, &(uint8_t[]){ 0 }, 1);
    cr_expect_eq(out.n, 0, "that probe left before the second request");
    send_many(gives, 0, 0, pull, 5);
    /* The answer to a later probe shows that the third to fifth are lost. */
    for (int i = 0; i < 30 && !sent(PSD_MSG_PROBE); i++)
        pass(50);
    cr_assert_not_null(sent(PSD_MSG_PROBE));
    progress.seq = sent(PSD_MSG_PROBE)->seq;
    say(&progress, &(uint8_t[]){ 0 }, 1);
    cr_assert_not_null(sent_with(asks));
    cr_expect_eq(*(const uint8_t *)sent_with(asks)->data, 0x1C);
    for (uint32_t p = 2; p < 5; p++)
        send_many(gives, 0, 0, pull, p);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
}

Test(session, slow_weights_of_a_large_model_are_requested_by_windows_and_again_when_they_are_lost, .fini = teardown)
{
    setup_many(0, 0);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_pull_slow(session, now, many_data, &out, &err), PSD_OK);
    expect_windows(PSD_MSG_PULL, PSD_MSG_SLOW);
}

Test(session, so_is_a_residual_of_a_large_model, .fini = teardown)
{
    codings.push = (psd_coding_t){ psd_codec_find("sign"), 0 };
    setup_many(4, PSD_WEIGHTS_RESIDUAL);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_RESTORING);
    expect_windows(PSD_MSG_RESIDUAL_WANTED, PSD_MSG_RESIDUAL);
}

Test(session, a_worker_that_is_shut_out_fails_with_the_reason, .init = setup, .fini = teardown)
{
    psd_session_shut_out(session, "its key is on no list");
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_FAILED);
    cr_expect_eq(psd_session_error(session)->code, PSD_EAUTH);
    cr_expect_str_eq(psd_session_error(session)->text, "its key is on no list");
    psd_session_other_protocol(session, PSD_PEER_SERVER, PSD_PROTOCOL + 1);
    psd_session_shut_out(session, "it is another reason");
    cr_expect_str_eq(psd_session_error(session)->text, "its key is on no list", "the first reason is the one that is told");
}

Test(session, whoever_has_not_joined_reports_nothing_and_leaves_at_once, .fini = teardown)
{
    session = psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE });
    pass(0);
    psd_actions_drop(&out, out.n);
    psd_session_report(session, "x", 1, &out);
    psd_session_leave(session, now, false, &out);
    cr_expect_eq(out.n, 0);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_LEFT);
}

Test(session, a_damaged_residual_is_not_taken_and_asked_for_again, .fini = teardown)
{
    float residual[2][2] = { { 0.5F, -0.25F }, { 4, -8 } };
    continue_at(4, PSD_WEIGHTS_RESIDUAL, PSD_WEIGHTS_RESIDUAL);
    const uint64_t seq = sent(PSD_MSG_RESIDUAL_WANTED)->seq;
    psd_msg_t msg = message(PSD_MSG_RESIDUAL, RUN);
    msg.seq = seq;
    msg.parts = 1;
    msg.n_elements = 2;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(residual[0], sizeof residual[0]) + 1;
    say_as(0, &msg, residual[1], sizeof residual[1]);
    send_residual(1, seq, residual[1]);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_RESTORING);
    uint64_t at[16];
    cr_expect_eq(times_of(PSD_MSG_PROBE, 250, at), 1, "server 0 has not sent it yet");
    send_residual(0, seq, residual[0]);
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    expect_codes(residual);
}

/* Whether the worker waits for an answer of each server: it decides which connections are made anew when nothing comes. */
Test(session, the_servers_that_owe_an_answer_are_those_of_its_phase, .init = setup_pair, .fini = teardown)
{
    float slow[2][2];
    const float *const of[] = { (float[]){ 1, 2 }, (float[]){ 3, 4 } };
    cr_expect(!psd_session_asks(session, 0) && !psd_session_asks(session, 1), "while the caller computes none does");
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    cr_expect(psd_session_asks(session, 0) && psd_session_asks(session, 1));
    weights_of(1, 1);
    cr_expect(psd_session_asks(session, 0) && !psd_session_asks(session, 1), "server 1 has answered");
    weights_of(0, 1);
    cr_assert_eq(psd_session_pull_slow(session, now, (float *const[]){ slow[0], slow[1] }, &out, &err), PSD_OK);
    cr_expect(psd_session_asks(session, 0) && psd_session_asks(session, 1));
    cr_expect_not(psd_session_asks(session, 2));
    for (uint32_t s = 0; s < 2; s++) {
        psd_msg_t msg = message(PSD_MSG_SLOW, RUN);
        msg.seq = sent(PSD_MSG_PULL)->seq;
        msg.shard = s;
        msg.parts = 1;
        msg.n_elements = 2;
        msg.dtype = PSD_DTYPE_F32;
        msg.codec = PSD_CODEC_F32;
        msg.checksum = psd_crc32c(pair[s], sizeof pair[s]);
        say_as(s, &msg, pair[s], sizeof pair[s]);
    }
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_assert_eq(psd_session_set_lr(session, now, 0.5, &out, &err), PSD_OK);
    cr_expect(psd_session_asks(session, 0) && !psd_session_asks(session, 1), "server 0 sets rates");
    psd_session_leave(session, now, false, &out);
    cr_expect(psd_session_asks(session, 0) && !psd_session_asks(session, 1));
}

Test(session, each_push_names_the_version_of_the_weights_that_its_server_sent, .init = setup_pair, .fini = teardown)
{
    const float *const of[] = { (float[]){ 1, 2 }, (float[]){ 3, 4 } };
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    for (uint32_t s = 0; s < 2; s++) {
        psd_msg_t msg = message(PSD_MSG_WEIGHTS, RUN);
        msg.shard = s;
        msg.parts = msg.world = 1;
        msg.clock = 1;
        msg.version = 20 + s;
        msg.n_elements = 2;
        msg.dtype = PSD_DTYPE_F32;
        msg.codec = PSD_CODEC_F32;
        msg.checksum = psd_crc32c(pair[s], sizeof pair[s]);
        say_as(s, &msg, pair[s], sizeof pair[s]);
    }
    cr_assert_eq(psd_session_phase(session), PSD_PHASE_READY);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_session_exchange(session, now, of, 10, 1, &err), PSD_OK);
    psd_session_pump(session, &out);
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_PUSH) {
            cr_expect_eq(out.at[i].msg.base_version, 20 + out.at[i].msg.shard);
            cr_expect_eq(out.at[i].msg.clock, 2);
            n++;
        }
    cr_expect_eq(n, 2);
    cr_expect_eq(psd_session_position(session).version, 20, "that of server 0");
}

Test(session, a_welcome_that_comes_twice_changes_nothing, .init = setup, .fini = teardown)
{
    const psd_cluster_t *cluster = psd_session_cluster(session);
    welcome(NEXT_RUN, NONCE);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    welcome(RUN, NONCE);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(psd_session_cluster(session), cluster);
    cr_expect_eq(psd_session_position(session).run, RUN);
    cr_expect_eq(psd_session_position(session).clock, 5);
}

Test(session, a_worker_without_samples_tells_every_server_so, .init = setup_pair, .fini = teardown)
{
    cr_assert_eq(psd_session_exchange(session, now, NULL, 0, 0, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_session_pump(session, &out);
    unsigned told = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_PUSH) {
            cr_expect_null(out.at[i].payload);
            cr_expect_eq(out.at[i].msg.samples, 0);
            cr_expect_eq(out.at[i].msg.clock, 1);
            told |= 1U << out.at[i].msg.shard;
        }
    cr_expect_eq(told, 3);
    for (uint32_t s = 0; s < 2; s++)
        weights_of(s, 1);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_READY);
    cr_expect_eq(psd_session_position(session).clock, 2);
}

Test(session, a_hello_says_whose_it_is_for_which_job_and_place_and_is_repeated_until_it_is_welcomed, .fini = teardown)
{
    uint64_t at[16];
    session = psd_session_new(&(psd_session_config_t){ .job = "job", .name = "me", .nonce = NONCE, .wanted = 4 });
    pass(0);
    cr_assert_not_null(sent(PSD_MSG_HELLO));
    cr_expect_eq(sent(PSD_MSG_HELLO)->seq, NONCE);
    cr_expect_eq(sent(PSD_MSG_HELLO)->code, 4);
    cr_expect_str_eq(psd_body_hello(sent_with(PSD_MSG_HELLO))->job, "job");
    cr_expect_str_eq(psd_body_hello(sent_with(PSD_MSG_HELLO))->name, "me");
    cr_expect_eq(times_of(PSD_MSG_HELLO, 1000, at), 5);
    cr_expect_eq(at[0], 200);
    welcome(RUN, NONCE + 1);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_JOINING, "that was for another");
    welcome(RUN, NONCE);
    cr_expect_eq(psd_session_phase(session), PSD_PHASE_JOINED);
    cr_expect_eq(times_of(PSD_MSG_HELLO, 1000, at), 0);
}

/* ---- whole lives, compared with their transcripts ---- */

/* The events of tests/golden/transcripts/session_*.txt; the numbers that every message has are filled in:
 *
 *   job FIELD=VALUE ...          the job that the servers welcome to, and a new session; `near`: server 0 is on its machine
 *   cluster servers=N at=HOST    in the next run there are other servers, or another rule
 *   from=N KIND FIELD=VALUE ...  server N says so: a part has `values`, a bitmap `bits`
 *   pass MS                      time, with a tick each 50 ms
 *   stop MS                      time in which this process is suspended
 *   register, push tensor=N, exchange without=N, pull, rate lr=X, rows text="...", report, leave finished=1: calls */

static psd_cluster_t played;
static psd_tensor_desc_t played_tensor[] = { { .name = "a", .n_dims = 1, .dim = { 2 }, .n_elements = 2 },
                                             { .name = "b", .n_dims = 1, .dim = { 3 }, .n_elements = 3 },
                                             { .name = "c", .n_elements = 1 } };
static float played_w[3][3], played_slow[3][3];
static float *const played_data[] = { played_w[0], played_w[1], played_w[2] };
static const float played_g[3][3] = { { 10, 20 }, { 30, 40, 50 }, { 60 } };
static char facts_before[2048];

static const char *name_of_server(psd_peer_t peer)
{
    static char name[32];
    snprintf(name, sizeof name, "server %u", (unsigned)(peer - PSD_PEER_SERVER));
    return name;
}

static void begin_cluster(const char *event)
{
    played.n_servers = (uint32_t)transcript_number(event, "servers", 1);
    for (uint32_t s = 0; s < played.n_servers; s++)
        snprintf(played.endpoint[s], sizeof played.endpoint[s], "tcp://%s:%u", transcript_text(event, "at"), s + 1);
    if (*transcript_text(event, "rule"))
        snprintf(played.settings.optimizer, sizeof played.settings.optimizer, "%s", transcript_text(event, "rule"));
}

static bool is_near(void *arg, uint32_t s)
{
    (void)arg;
    return s == 0;
}

static void begin_job(const char *event)
{
    psd_job_settings_t *s = &played.settings;
    const bool in_asp = !strcmp(transcript_text(event, "mode"), "asp");
    psd_session_destroy(&session);
    now = 1000;
    *facts_before = '\0';
    memset(played_slow, 0, sizeof played_slow);
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < 3; i++)
            played_w[t][i] = (float)(10 * t + i + 1);
    played = (psd_cluster_t){ .n_servers = (uint32_t)transcript_number(event, "servers", 1),
                              .endpoint = { "tcp://here:1", "tcp://there:2" } };
    *s = (psd_job_settings_t){ .text = "as told",
                               .lease_ms = (uint64_t)transcript_number(event, "lease_ms", 1200),
                               .in_rounds = !in_asp,
                               .whole_norm = in_asp,
                               .saves_residuals = transcript_number(event, "saves_residuals", 0) != 0,
                               .part_elements = (uint32_t)transcript_number(event, "part_elements", 4) };
    snprintf(s->mode, sizeof s->mode, "%s", in_asp ? "asp" : "bsp");
    const char *of = transcript_text(event, "rule");
    snprintf(s->optimizer, sizeof s->optimizer, "%s", *of ? of : "sgd");
    s->clip_value = transcript_number(event, "clip_value", 0);
    snprintf(s->groups, sizeof s->groups, "%s", transcript_text(event, "groups"));
    const char *code = transcript_text(event, "push");
    s->codings.push = (psd_coding_t){ psd_codec_find(*code ? code : "f32"), 0 };
    code = transcript_text(event, "pull");
    s->codings.pull = (psd_coding_t){ psd_codec_find(*code ? code : "f32"), 0 };
    session = psd_session_new(&(psd_session_config_t){ .job = "mnist",
                                                       .name = "me",
                                                       .wanted = 4,
                                                       .nonce = NONCE,
                                                       .recipe = "60 rows",
                                                       .patience_ms = (uint64_t)transcript_number(event, "patience_ms", 0),
                                                       .is_near = transcript_number(event, "near", 0) != 0 ? is_near : NULL,
                                                       .read_groups = psd_groups_parse });
}

/* The numbers in "1, 2.5, nan". */
static size_t list_floats(const char *text, float *values)
{
    size_t n = 0;
    for (char *end; *text; text = *end ? end + 1 : end)
        values[n++] = strtof(text, &end);
    return n;
}

static void hear(const char *event)
{
    char kind[32];
    float values[64];
    uint8_t bytes[8192];
    const size_t word = strcspn(event, " ") + 1;
    snprintf(kind, sizeof kind, "%.*s", (int)strcspn(event + word, " "), event + word);
    const uint32_t from = (uint32_t)transcript_number(event, "from", 0);
    psd_msg_t msg = { .kind = transcript_kind(kind),
                      .protocol = PSD_PROTOCOL,
                      .job = RUN,
                      .worker = 3,
                      .incarnation = RUN,
                      .shard = from,
                      .dtype = PSD_DTYPE_F32 };
    transcript_fields(event, &msg);
    size_t n = 0;
    switch (psd_kind_payload(msg.kind)) {
    case PSD_PAYLOAD_CLUSTER:
        n = psd_cluster_encode(&played, bytes, sizeof bytes);
        break;
    case PSD_PAYLOAD_BITMAP:
        for (const char *bit = transcript_text(event, "bits"); *bit; bit++, msg.parts++) {
            bytes[msg.parts / 8] = (uint8_t)(msg.parts % 8 ? bytes[msg.parts / 8] : 0);
            if (*bit == '1')
                psd_bitmap_set(bytes, msg.parts);
        }
        n = psd_bitmap_bytes(msg.parts);
        break;
    case PSD_PAYLOAD_PART:
        if (!*transcript_text(event, "values"))
            break;
        msg.n_elements = (uint32_t)list_floats(transcript_text(event, "values"), values);
        msg.codec = PSD_CODEC_F32;
        n = msg.n_elements * sizeof *values;
        memcpy(bytes, values, n);
        msg.checksum = psd_crc32c(bytes, n) + (transcript_number(event, "damaged", 0) != 0);
        break;
    default:
        break;
    }
    psd_buf_t *buf = n ? said_with(&msg, bytes, n) : NULL;
    psd_session_message(session, now, PSD_PEER_SERVER + from, &msg, buf, &out);
    psd_buf_unref(&buf);
}

static void call(const char *event)
{
    const float *const g[] = { played_g[0], played_g[1], played_g[2] };
    const float *some[] = { g[0], g[1], g[2] };
    static const float bad[] = { 10, NAN };
    float *const slow[] = { played_slow[0], played_slow[1], played_slow[2] };
    psd_tensor_list_t list = { .n = 3, .tensor = played_tensor, .rows = 1000 };
    const uint32_t tensor = (uint32_t)transcript_number(event, "tensor", 0),
                   without = (uint32_t)transcript_number(event, "without", 9);
    const uint64_t samples = (uint64_t)transcript_number(event, "samples", 10);
    const double loss = transcript_number(event, "loss", 1.5), lr = transcript_number(event, "lr", 0);
    int rc = PSD_OK;
    err = (psd_err_t){ 0 };
    if (without < 3)
        some[without] = NULL;
    if (transcript_number(event, "bad", 0) != 0)
        some[0] = bad;
    if (!strncmp(event, "register", 8))
        rc = psd_session_register(session, now, &list, played_data, &out, &err);
    else if (!strncmp(event, "push", 4))
        rc = psd_session_push(session, now, tensor, some[tensor], samples, loss, &err);
    else if (!strncmp(event, "exchange", 8))
        rc = psd_session_exchange(session, now, some, samples, loss, &err);
    else if (!strncmp(event, "pull", 4))
        rc = psd_session_pull_slow(session, now, slow, &out, &err);
    else if (!strncmp(event, "rate", 4))
        rc = psd_session_set_lr(session, now, lr, &out, &err);
    else if (!strncmp(event, "rows", 4))
        rc = psd_session_say_rows(session, now, transcript_text(event, "text"), &out, &err);
    else if (!strncmp(event, "report", 6))
        psd_session_report(session, transcript_text(event, "name"), lr, &out);
    else if (!strncmp(event, "leave", 5))
        psd_session_leave(session, now, transcript_number(event, "finished", 1) != 0, &out);
    else
        cr_assert_fail("no such event: %s", event);
    while (psd_session_pump(session, &out))
        ;
    if (rc != PSD_OK)
        transcript_say("= %d %s", rc, err.text);
}

static void say_facts_that_changed(void)
{
    static const char *const phases[] = { "JOINING",    "JOINED",  "REGISTERING", "RESTORING", "READY", "COLLECTING",
                                          "EXCHANGING", "PULLING", "SETTING",     "LEAVING",   "LEFT",  "FAILED" };
    char facts[2048], wait[300];
    uint32_t lost = 0;
    const psd_session_position_t at = psd_session_position(session);
    psd_session_describe_wait(session, wait, sizeof wait);
    const bool is_lost = psd_session_lost_server(session, &lost);
    snprintf(facts, sizeof facts,
             "= %s clock=%" PRIu64 " version=%" PRIu64 " view=%" PRIu64 " rank=%u/%u samples=%g loss=%g lr=%g%s moved=%" PRIu64
             " rejoins=%" PRIu64 "%s%s asks=%d%d waits=\"%s\" a=%g,%g b=%g,%g,%g c=%g slow=%g,%g,%g %s",
             phases[psd_session_phase(session)], at.clock, at.version, at.view_id, at.rank, at.world, at.samples, at.round_loss,
             at.step_lr, at.gathered ? " gathered" : "", psd_session_moved(session), psd_session_rejoins(session),
             psd_session_drains(session) ? " drains" : "", is_lost ? lost ? " lost=1" : " lost=0" : "",
             psd_session_asks(session, 0), psd_session_asks(session, 1), wait, (double)played_w[0][0], (double)played_w[0][1],
             (double)played_w[1][0], (double)played_w[1][1], (double)played_w[1][2], (double)played_w[2][0],
             (double)played_slow[0][0], (double)played_slow[1][0], (double)played_slow[2][0], psd_session_error(session)->text);
    if (strcmp(facts, facts_before))
        transcript_say("%s", facts);
    snprintf(facts_before, sizeof facts_before, "%s", facts);
}

static void perform(const char *event)
{
    psd_actions_drop(&out, out.n);
    if (!strncmp(event, "pass ", 5)) {
        for (uint64_t end = now + strtoull(event + 5, NULL, 10); now < end;) {
            now += 50;
            psd_session_tick(session, now, &out);
            transcript_actions(now, &out);
        }
    } else if (!strncmp(event, "job", 3)) {
        begin_job(event);
        psd_session_tick(session, now, &out);
    } else if (!strncmp(event, "stop ", 5)) {
        now += strtoull(event + 5, NULL, 10);
    } else if (!strncmp(event, "cluster", 7)) {
        begin_cluster(event);
    } else if (!strncmp(event, "from=", 5)) {
        hear(event);
    } else {
        call(event);
    }
    transcript_actions(now, &out);
    say_facts_that_changed();
}

static void play(const char *name)
{
    const char *difference = transcript_play(name, perform, name_of_server);
    cr_expect_null(difference, "%s", difference);
}

Test(session, a_life_in_rounds_is_as_in_its_transcript, .fini = teardown) { play("session_bsp"); }
Test(session, a_life_in_a_job_without_rounds_is_as_in_its_transcript, .fini = teardown) { play("session_asp"); }
Test(session, a_life_with_servers_that_are_lost_and_go_back_is_as_in_its_transcript, .fini = teardown) { play("session_lost"); }
Test(session, a_life_in_one_run_after_another_is_as_in_its_transcript, .fini = teardown) { play("session_again"); }
Test(session, a_life_with_residuals_is_as_in_its_transcript, .fini = teardown) { play("session_coded"); }
Test(session, a_life_with_weights_that_may_be_replaced_is_as_in_its_transcript, .fini = teardown) { play("session_ahead"); }

/* Chunks of more than 4096 elements, which are copied and checked block by block. */
Test(session, weights_of_a_large_model_arrive_where_they_belong_and_are_checked_to_the_end, .init = setup_two, .fini = teardown)
{
    static float w[HALF];
    psd_msg_t attached = message(PSD_MSG_ATTACHED, RUN), msg = message(PSD_MSG_WEIGHTS, RUN);
    for (size_t i = 0; i < HALF; i++)
        w[i] = (float)i;
    attached.parts = msg.parts = 2;
    say(&attached, NULL, 0);
    msg.world = 1;
    msg.clock = 4;
    msg.part = 1;
    msg.n_elements = HALF;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(w, sizeof w);
    w[HALF - 1] = -1;
    say(&msg, w, sizeof w);
    cr_expect_eq(psd_session_moved(session), 0, "its last element was damaged");
    w[HALF - 1] = HALF - 1;
    say(&msg, w, sizeof w);
    cr_expect_eq(psd_session_moved(session), 1);
    cr_expect_arr_eq(big + HALF, w, sizeof w);
}
