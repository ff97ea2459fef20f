#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/core/ahead.h"
#include "server/core/engine.h"
#include "tests/support/logged.h"
#include "tests/support/said.h"

TestSuite(engine, .timeout = 600);

/* The engine of a job's only shard; the test sends the messages of the coordinator and the workers. The model has two tensors of 4
 * weights, a part each. */
enum { JOB = 9, PARTS = 2, MOST = 17 };

static psd_engine_t *engine;
static psd_engine_config_t config;
static psd_actions_t out; /* the actions of the last event */
static uint64_t now = 1000, seq, view;
static uint64_t before[MOST];                        /* how many lives each worker has had before this one */
static const char *rule = "sgd(lr=1)", *groups = ""; /* of tensors */
static const char *lr_rule = "none";
static const float initial[4] = { 1, 2, 3, 4 };
static bool threads_are_busy; /* work that is handed out is in `handed_out`, of the last event that had any */
static psd_work_t *handed_out;

static psd_peer_t peer_of(uint32_t connection) { return psd_peer_make(5 + connection, 1); }

static psd_tensor_list_t model(psd_tensor_desc_t tensor[2])
{
    tensor[0] = (psd_tensor_desc_t){ .name = "v", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    tensor[1] = (psd_tensor_desc_t){ .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    return (psd_tensor_list_t){ .n = 2, .tensor = tensor };
}

static void hear(psd_peer_t from, const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *body = said_with(msg, payload, n);
    psd_actions_drop(&out, out.n);
    psd_engine_message(engine, now, from, msg, body, &out);
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_WORK && threads_are_busy) {
            handed_out = out.at[i].work;
        } else if (out.at[i].act == PSD_ACT_WORK) {
            psd_work_run(out.at[i].work);
            psd_engine_worked(engine, now, out.at[i].work, &out);
        }
    psd_buf_unref(&body);
}

static const psd_msg_t *answer(psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind)
            return &out.at[i].msg;
    return NULL;
}

static bool asked(psd_act_t act)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == act)
            return true;
    return false;
}

static unsigned sent_to(psd_peer_t peer, psd_kind_t kind)
{
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        n += out.at[i].act == PSD_ACT_SEND && out.at[i].to == peer && out.at[i].msg.kind == kind;
    return n;
}

/* ---- the coordinator ---- */

static void make(const char *mode, uint32_t welcome)
{
    config.job = "mnist";
    config.settings = "mode=x";
    config.print_rule = psd_rule_print;
    config.endpoint = "tcp://here:1";
    config.wanted_index = -1;
    config.nonce = 1;
    config.mode = psd_mode_find(mode);
    config.lr_rule = psd_lr_rule_find(lr_rule);
    cr_assert_eq(psd_groups_parse(&config.groups, rule, groups, NULL), PSD_OK);
    cr_assert_not_null(engine = psd_engine_new(&config, NULL));
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_WELCOME, .protocol = PSD_PROTOCOL, .job = JOB, .seq = 1, .world = 1, .n_elements = 4 };
    msg.shard_epoch = 1;
    msg.code = welcome;
    msg.clock = welcome & PSD_WELCOME_RESTORE ? 6 : 0;
    hear(PSD_PEER_COORDINATOR, &msg, NULL, 0);
}

static void teardown(void)
{
    psd_engine_destroy(&engine);
    psd_actions_clear(&out);
}

static void log_model(void)
{
    uint8_t bytes[256];
    psd_tensor_desc_t tensor[2];
    const psd_tensor_list_t list = model(tensor);
    psd_msg_t msg = { .kind = PSD_MSG_MODEL, .protocol = PSD_PROTOCOL, .job = JOB, .seq = ++seq };
    hear(PSD_PEER_COORDINATOR, &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
}

static uint64_t nonce_of(uint32_t w) { return 70 + w + 10 * before[w]; }

/* An entry of the log: these workers, as bits, are members from then on, each in its present life. */
static void log_entry(uint64_t number, uint32_t code, psd_round_t round, unsigned members)
{
    uint8_t bytes[4096];
    psd_member_t member[MOST];
    for (uint32_t w = 0; w < MOST; w++)
        if (members >> w & 1)
            member[round.n_members++] = (psd_member_t){ .worker = w, .incarnation = before[w] + 1, .nonce = nonce_of(w) };
    round.member = member;
    round.view_id = ++view;
    round.lr = round.lr > 0 ? round.lr : 1;
    psd_msg_t msg = { .kind = PSD_MSG_COMMAND, .protocol = PSD_PROTOCOL, .job = JOB, .seq = number, .code = code };
    hear(PSD_PEER_COORDINATOR, &msg, bytes, psd_round_encode(&round, bytes, sizeof bytes));
}

static void log_view(unsigned members) { log_entry(++seq, 0, (psd_round_t){ .clock = psd_engine_clock(engine) }, members); }

/* The round is closed with the pushes of these workers, and with `more` in its code. */
static void close_round_with(uint32_t more, unsigned contributors, unsigned members, bool apply)
{
    psd_member_t contributor[MOST];
    psd_round_t round = { .clock = psd_engine_clock(engine) + 1, .apply = apply, .contributor = contributor };
    for (uint32_t w = 0; apply && w < MOST; w++)
        if (contributors >> w & 1)
            contributor[round.n_contributors++] = (psd_member_t){ .worker = w, .incarnation = before[w] + 1, .samples = 8 };
    log_entry(++seq, PSD_COMMAND_CLOSE | more, round, members);
}

static void close_round(unsigned contributors, unsigned members, bool apply) { close_round_with(0, contributors, members, apply); }

/* ---- workers ---- */

static psd_msg_t of_worker(psd_kind_t kind, uint32_t w)
{
    return (psd_msg_t){
        .kind = kind, .protocol = PSD_PROTOCOL, .job = JOB, .worker = w, .incarnation = before[w] + 1, .seq = nonce_of(w)
    };
}

static void attach_as(uint32_t connection, uint32_t w, uint64_t nonce)
{
    psd_msg_t msg = of_worker(PSD_MSG_ATTACH, w);
    msg.seq = nonce;
    hear(peer_of(connection), &msg, NULL, 0);
}

static void attach(uint32_t w) { attach_as(w, w, nonce_of(w)); }

static psd_msg_t part_of(psd_kind_t kind, uint32_t w, uint32_t part, const float *values)
{
    psd_msg_t msg = of_worker(kind, w);
    msg.part = part;
    msg.parts = PARTS;
    msg.n_elements = 4;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(values, 4 * sizeof *values);
    return msg;
}

static void initialise(uint32_t w)
{
    for (uint32_t p = 0; p < PARTS; p++) {
        const psd_msg_t msg = part_of(PSD_MSG_INIT, w, p, initial);
        hear(peer_of(w), &msg, initial, sizeof initial);
    }
}

static void push_part(uint32_t w, uint32_t part, uint64_t clock, uint64_t samples, float gradient, bool confesses)
{
    const float values[4] = { gradient, gradient, gradient, gradient };
    psd_msg_t msg = part_of(PSD_MSG_PUSH, w, part, values);
    msg.clock = clock;
    msg.samples = samples;
    msg.nonfinite = confesses;
    hear(peer_of(w), &msg, values, sizeof values);
}

static void push(uint32_t w, uint64_t clock, float gradient)
{
    for (uint32_t p = 0; p < PARTS; p++)
        push_part(w, p, clock, 8, gradient, !isfinite(gradient));
}

static float weight(uint32_t part, size_t i) { return ((const float *)psd_shard_weights(psd_engine_shard(engine), part)->data)[i]; }

/* A shard with weights and `n` members. */
static void begin(const char *mode, uint32_t workers)
{
    make(mode, 0);
    log_model();
    for (uint32_t w = 0; w < workers; w++)
        attach(w);
    log_view((1u << workers) - 1);
    initialise(0);
    cr_assert_eq(weight(1, 3), 4.0f);
}

/* ---- the owner of a session ---- */

Test(engine, a_stranger_that_attaches_last_before_a_view_may_not_speak_for_the_member, .fini = teardown)
{
    make("bsp", 0);
    log_model();
    attach(0);
    attach_as(3, 0, 99); /* the same life by its number, but not by its nonce */
    cr_assert_not_null(answer(PSD_MSG_ATTACHED), "its identity is not known yet");
    log_view(1);
    cr_expect_null(answer(PSD_MSG_INIT_WANTED), "there is no worker to ask");
    const psd_msg_t msg = part_of(PSD_MSG_INIT, 0, 0, initial);
    hear(peer_of(3), &msg, initial, sizeof initial);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_SESSION);
    attach_as(3, 0, 99);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_WORKER);
    attach(0);
    cr_assert_not_null(answer(PSD_MSG_INIT_WANTED));
    initialise(0);
    cr_expect_eq(sent_to(peer_of(0), PSD_MSG_WEIGHTS), PARTS);
    cr_expect_eq(sent_to(peer_of(3), PSD_MSG_WEIGHTS), 0);
}

Test(engine, a_worker_that_leaves_the_view_is_fenced_and_its_push_is_dropped, .fini = teardown)
{
    begin("bsp", 2);
    push(1, 1, 1);
    push(0, 1, 2);
    close_round(1, 1, true);
    cr_expect_eq(weight(0, 0), 1 - 2.0f, "of worker 0 alone");
    push(1, 2, 1);
    cr_expect_not_null(answer(PSD_MSG_FENCED));
    psd_engine_worker_t facts;
    cr_expect_not(psd_engine_worker(engine, 1, &facts));
}

/* ---- the log ---- */

Test(engine, entries_of_the_log_are_carried_out_in_their_order_and_once, .fini = teardown)
{
    psd_member_t contributor = { .worker = 0, .incarnation = 1, .samples = 8 };
    begin("bsp", 1);
    push(0, 1, 1);
    const uint64_t next = seq + 1;
    log_entry(next + 1, 0, (psd_round_t){ .clock = 1 }, 1 | 2); /* has overtaken the previous one */
    cr_expect_eq(psd_engine_clock(engine), 0);
    log_entry(next + 1, 0, (psd_round_t){ .clock = 1 }, 1 | 2);
    log_entry(next, PSD_COMMAND_CLOSE, (psd_round_t){ .clock = 1, .apply = true, .n_contributors = 1, .contributor = &contributor },
              1);
    cr_expect_eq(psd_engine_clock(engine), 1);
    cr_expect_eq(weight(0, 0), 0.0f);
    psd_engine_worker_t facts;
    cr_expect(psd_engine_worker(engine, 1, &facts), "and then the one that was early");
    log_entry(next, PSD_COMMAND_CLOSE, (psd_round_t){ .clock = 1 }, 1);
    cr_expect_eq(psd_engine_version(engine), 1);
    log_entry(next + 1, 0, (psd_round_t){ .clock = 1 }, 1); /* the newest once more, with other contents */
    cr_expect(psd_engine_worker(engine, 1, &facts), "it was carried out");
    cr_assert_not_null(answer(PSD_MSG_SHARD_STATE), "the coordinator does not know that it is done");
    cr_expect_eq(answer(PSD_MSG_SHARD_STATE)->seq, next + 1);
}

Test(engine, the_mean_of_a_round_is_weighted_by_samples, .fini = teardown)
{
    begin("bsp", 2);
    for (uint32_t p = 0; p < PARTS; p++) {
        push_part(0, p, 1, 8, 1, false);
        push_part(1, p, 1, 24, 3, false);
    }
    close_round(3, 3, true);
    cr_expect_eq(weight(0, 0), 1 - 2.5f, "(8 * 1 + 24 * 3) / 32");
    cr_expect_eq(psd_engine_samples(engine), 32);
}

/* A shard of a model that has fewer chunks than there are servers. */
static void begin_empty(void)
{
    make("bsp", 0);
    teardown();
    cr_assert_not_null(engine = psd_engine_new(&config, NULL));
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_WELCOME, .protocol = PSD_PROTOCOL, .job = JOB, .seq = 1, .world = 3, .n_elements = 4 };
    msg.shard = 2;
    msg.shard_epoch = 1;
    hear(PSD_PEER_COORDINATOR, &msg, NULL, 0);
    log_model();
    psd_msg_t hello = of_worker(PSD_MSG_ATTACH, 0);
    hello.shard = 2;
    hear(peer_of(0), &hello, NULL, 0);
    log_view(1);
}

Test(engine, a_gradient_for_a_shard_without_parameters_is_refused, .fini = teardown)
{
    psd_term_t term;
    begin_empty();
    cr_assert_eq(psd_engine_elements(engine), 0);
    psd_msg_t msg = part_of(PSD_MSG_PUSH, 0, 0, initial);
    msg.shard = 2;
    msg.parts = 1;
    msg.clock = 1;
    msg.samples = 8;
    cr_expect_not(psd_engine_term(engine, peer_of(0), &msg, &term));
    hear(peer_of(0), &msg, initial, sizeof initial);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_SHAPE);
}

/* ---- gradients that were added up while they were taken in ---- */

/* The members are 0 .. n - 1, and a round with all of them is foretold. */
static void foretell(uint32_t n)
{
    begin("bsp", n);
    close_round_with(PSD_COMMAND_EVEN, 0, (1u << n) - 1, false);
}

static psd_msg_t taken(uint32_t w, uint32_t part, uint64_t clock, uint64_t samples)
{
    psd_msg_t msg = part_of(PSD_MSG_PUSH, w, part, initial);
    msg.clock = clock;
    msg.samples = samples;
    msg.proven = true;
    msg.checksum = 0;
    return msg;
}

static bool has_term(uint32_t w, uint32_t part, uint64_t clock, uint64_t samples, psd_term_t *out)
{
    const psd_msg_t msg = taken(w, part, clock, samples);
    return psd_engine_term(engine, peer_of(w), &msg, out);
}

/* The number of the mean that worker w's part is a term of. */
static uint64_t mean_of(uint32_t w, uint32_t part, uint64_t clock)
{
    psd_term_t term;
    cr_assert(has_term(w, part, clock, 8, &term));
    return term.mean;
}

/* Worker w's part as a joint gradient of this number. */
static void push_joint(uint32_t w, uint32_t part, uint64_t clock, float mean, uint64_t number)
{
    const float values[4] = { mean, mean, mean, mean };
    psd_buf_t *sum = psd_payload_copy(values, sizeof values), *joint = psd_measured_new_joint(sum, 4.0 * (w + 1), number);
    const psd_msg_t msg = taken(w, part, clock, 8);
    psd_actions_drop(&out, out.n);
    psd_engine_message(engine, now, peer_of(w), &msg, joint, &out);
    psd_buf_unref(&joint);
    psd_buf_unref(&sum);
}

Test(engine, a_push_has_a_place_in_the_mean_of_a_round_that_is_foretold, .fini = teardown)
{
    psd_term_t a, b;
    foretell(2);
    cr_assert(has_term(0, 0, 2, 8, &a) && has_term(1, 0, 2, 8, &b));
    cr_expect(a.n == 2 && a.index == 0 && a.weight == 0.5);
    cr_expect(b.n == 2 && b.index == 1 && b.weight == 0.5 && b.mean == a.mean);
    cr_assert(has_term(1, 1, 2, 8, &b));
    cr_expect_neq(b.mean, a.mean, "another part");
    cr_expect_not(has_term(0, 0, 1, 8, &a), "that round is closed");
    cr_expect_not(has_term(0, 0, 3, 8, &a), "that one is not open");
    cr_expect_not(has_term(0, 0, 2, 0, &a), "it adds nothing");
    cr_expect_not(has_term(2, 0, 2, 8, &a), "no member");
    psd_msg_t msg = taken(0, 0, 2, 8);
    cr_expect_not(psd_engine_term(engine, peer_of(1), &msg, &a), "not its connection");
    msg.nonfinite = true;
    cr_expect_not(psd_engine_term(engine, peer_of(0), &msg, &a));
    msg = taken(0, 0, 2, 8);
    msg.n_elements = 3;
    cr_expect_not(psd_engine_term(engine, peer_of(0), &msg, &a));
    push_part(1, 0, 2, 8, 3, false);
    cr_expect_not(has_term(0, 0, 2, 8, &a), "another has come alone");
    cr_expect(has_term(0, 1, 2, 8, &a), "but not of this part");
    push_part(0, 0, 2, 8, 1, false);
    cr_expect_not(has_term(0, 0, 2, 8, &a), "it is here");
    cr_expect_not(has_term(0, 1, 2, 9, &a), "its other part had 8 samples");
}

Test(engine, a_push_has_no_such_place_where_nothing_is_foretold_or_the_round_is_no_mean_of_floats, .fini = teardown)
{
    psd_term_t term;
    begin("bsp", 2);
    cr_expect_not(has_term(0, 0, 1, 8, &term));
    teardown();
    seq = 0;
    rule = "dlion";
    foretell(2);
    cr_expect_not(has_term(0, 0, 2, 8, &term), "votes are counted");
    teardown();
    seq = 0;
    rule = "sgd(lr=1)";
    config.accumulate = 2;
    foretell(2);
    cr_expect_not(has_term(0, 0, 2, 8, &term), "the round makes no step");
    teardown();
    seq = 0;
    config.accumulate = 0;
    cr_assert_eq(psd_coding_parse(&config.codings.push, "bf16", NULL), PSD_OK);
    make("bsp", 0);
    log_model();
    attach(0);
    attach(1);
    log_view(3);
    close_round_with(PSD_COMMAND_EVEN, 0, 3, false);
    cr_expect_not(has_term(0, 0, 2, 8, &term));
}

Test(engine, a_joint_gradient_stands_for_all_of_its_round, .fini = teardown)
{
    foretell(3);
    for (uint32_t w = 0; w < 3; w++) /* the first part alone, the second together */
        push_part(w, 0, 2, 8, (float)w, false);
    const uint64_t number = mean_of(0, 1, 2);
    for (uint32_t w = 0; w < 3; w++)
        push_joint(w, 1, 2, 5, number);
    cr_expect_eq(psd_engine_stats(engine)->folded, 3);
    close_round(7, 7, true);
    cr_expect_eq(weight(0, 0), 1 - 1.0f);
    cr_expect_eq(weight(1, 0), 1 - 5.0f);
    cr_expect_eq(weight(1, 3), 4 - 5.0f);
    cr_expect_eq(psd_engine_stats(engine)->grad_norm2, 4.0 * 5 + 4 + 8 + 12, "each one's own");
}

Test(engine, joint_gradients_are_requested_again_when_the_round_will_be_another, .fini = teardown)
{
    foretell(3);
    const uint64_t number[] = { mean_of(0, 0, 2), mean_of(0, 1, 2) };
    for (uint32_t w = 0; w < 3; w++) {
        push_joint(w, 0, 2, 5, number[0]);
        if (w)
            push_joint(w, 1, 2, 5, number[1]);
    }
    log_view(3); /* worker 2 is gone */
    cr_expect_eq(sent_to(peer_of(0), PSD_MSG_PROGRESS), 1);
    cr_expect_eq(sent_to(peer_of(1), PSD_MSG_PROGRESS), 1);
    cr_expect_eq(psd_engine_stats(engine)->asked_again, 2, "those that were whole");
    push(0, 2, 1);
    push(1, 2, 2);
    close_round(3, 3, true);
    cr_expect_eq(weight(0, 0), 1 - 1.5f);
    cr_expect_eq(weight(1, 0), 1 - 1.5f);
}

Test(engine, a_joint_gradient_is_of_the_round_that_was_expected_when_it_was_taken_in_and_of_no_other, .fini = teardown)
{
    foretell(2);
    const uint64_t number = mean_of(0, 0, 2);
    before[1]++;
    log_entry(++seq, PSD_COMMAND_EVEN, (psd_round_t){ .clock = 1 }, 3); /* worker 1 is another now, and has not pushed */
    attach(1);
    push_joint(0, 0, 2, 5, number);
    cr_assert_not_null(answer(PSD_MSG_PROGRESS));
    cr_expect_eq(answer(PSD_MSG_PROGRESS)->worker, 0);
    cr_expect_neq(mean_of(0, 0, 2), number);
    log_view(3);
    push_joint(0, 0, 2, 5, number);
    cr_expect_not_null(answer(PSD_MSG_PROGRESS), "nothing is expected any more");
    push(0, 2, 1);
    push(1, 2, 2);
    close_round(3, 3, true);
    cr_expect_eq(weight(0, 0), 1 - 1.5f);
    before[1]--;
}

/* ---- parts that are stepped before their round is decided ---- */

static void push_ahead(uint32_t w, uint32_t part, uint64_t clock, float gradient)
{
    const float values[4] = { gradient, gradient, gradient, gradient };
    psd_msg_t msg = part_of(PSD_MSG_PUSH, w, part, values);
    msg.clock = clock;
    msg.samples = 8;
    msg.code = PSD_PUSH_AHEAD;
    hear(peer_of(w), &msg, values, sizeof values);
}

static void push_both_ahead(uint32_t part, uint64_t clock, float a, float b)
{
    push_ahead(0, part, clock, a);
    push_ahead(1, part, clock, b);
}

/* Worker w's weights of `code` in the last actions: how many, and the last one. */
static unsigned weights_to(uint32_t w, uint32_t code, const psd_action_t **last)
{
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].to == peer_of(w) && out.at[i].msg.kind == PSD_MSG_WEIGHTS &&
            out.at[i].msg.code == code) {
            n++;
            if (last)
                *last = &out.at[i];
        }
    return n;
}

static float first_of(const psd_action_t *sent) { return ((const float *)sent->payload->data)[0]; }

static uint64_t n_ahead(void) { return psd_engine_stats(engine)->ahead; }
static uint64_t n_in_vain(void) { return psd_engine_stats(engine)->ahead_in_vain; }

/* Workers 0 and 1 are members, and both have pushed the first part of round 2, with the mean 2. */
static void go_ahead(void)
{
    config.goes_ahead = true;
    foretell(2);
    push_both_ahead(0, 2, 1, 3);
    cr_assert_eq(n_ahead(), 1);
}

/* And the other part. */
static void go_on(float gradient)
{
    push_both_ahead(1, 2, 1, gradient);
    cr_assert_eq(n_ahead(), 1, "the step of the part that came last will soon be ordered");
}

/* The next round is closed with this rate. */
static void close_with_rate(double lr)
{
    psd_member_t both[] = { { .worker = 0, .incarnation = 1, .samples = 8 }, { .worker = 1, .incarnation = 1, .samples = 8 } };
    log_entry(
        ++seq, PSD_COMMAND_CLOSE,
        (psd_round_t){ .clock = psd_engine_clock(engine) + 1, .apply = true, .lr = lr, .n_contributors = 2, .contributor = both },
        3);
}

/* An entry of the log that changes neither members nor clock. */
static void log_more(uint32_t code, double lr)
{
    view--;
    log_entry(++seq, code, (psd_round_t){ .clock = psd_engine_clock(engine), .lr = lr }, 3);
}

static void expect_ordinary_weights(uint32_t w, float a, float b)
{
    cr_expect_eq(weights_to(w, PSD_WEIGHTS_ADOPTED, NULL), 0);
    cr_expect_eq(weights_to(w, 0, NULL), PARTS);
    cr_expect(weight(0, 0) == a && weight(1, 0) == b, "%g and %g", (double)weight(0, 0), (double)weight(1, 0));
    cr_expect_eq(n_in_vain(), 1);
}

Test(engine, weights_of_a_part_leave_when_its_gradients_have_come_and_count_when_the_round_is_as_expected, .fini = teardown)
{
    const psd_action_t *sent = NULL;
    config.goes_ahead = true;
    foretell(2);
    attach(2);
    close_round_with(PSD_COMMAND_EVEN, 0, 3, false);
    push_ahead(0, 0, 3, 1);
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_AHEAD, NULL), 0);
    push_ahead(1, 0, 3, 3);
    for (uint32_t w = 0; w < 2; w++) {
        cr_assert_eq(weights_to(w, PSD_WEIGHTS_AHEAD, &sent), 1);
        cr_expect(sent->msg.clock == 3 && sent->msg.part == 0 && sent->msg.parts == PARTS && sent->msg.n_elements == 4);
        cr_expect(sent->msg.version == 1 && sent->msg.seq == 1 && sent->msg.worker == w);
        cr_expect_eq(first_of(sent), 1 - 2.0f);
    }
    cr_expect(weight(0, 0) == 1 && !psd_engine_version(engine) && !psd_engine_samples(engine), "nothing is decided");
    push_both_ahead(1, 3, 1, 5);
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_AHEAD, NULL), 0, "the step of the last part will soon be ordered");
    close_round_with(PSD_COMMAND_EVEN, 3, 7, true); /* worker 2 joins */
    for (uint32_t w = 0; w < 2; w++) {
        cr_assert_eq(weights_to(w, PSD_WEIGHTS_ADOPTED, &sent), 1);
        cr_expect(!sent->payload && sent->msg.clock == 3 && sent->msg.seq == 1 && sent->msg.version == 1 && sent->msg.value == 16);
        cr_assert_eq(weights_to(w, 0, &sent), 1);
        cr_expect(sent->msg.part == 1 && first_of(sent) == 1 - 3.0f);
    }
    cr_expect_eq(weights_to(2, 0, NULL), PARTS, "it has none");
    cr_expect_eq(weights_to(2, PSD_WEIGHTS_ADOPTED, NULL), 0);
    cr_expect(weight(0, 0) == 1 - 2.0f && weight(0, 3) == 4 - 2.0f && weight(1, 0) == 1 - 3.0f);
    cr_expect(psd_engine_version(engine) == 1 && psd_engine_samples(engine) == 16 && psd_engine_stats(engine)->steps == 1);
    push_both_ahead(0, 4, 1, 1);
    cr_expect_eq(n_ahead(), 1, "worker 2 has not pushed");
    push_ahead(2, 0, 4, 1);
    cr_assert_eq(weights_to(2, PSD_WEIGHTS_AHEAD, &sent), 1);
    cr_expect(sent->msg.seq == 2 && sent->msg.version == 2 && first_of(sent) == 1 - 3.0f);
    cr_expect(n_ahead() == 2 && !n_in_vain());
}

/* All of them, then workers 0 and 1. */
Test(engine, a_member_whose_push_is_not_expected_gets_its_weights_when_the_round_is_decided, .fini = teardown)
{
    config.goes_ahead = true;
    foretell(3);
    for (uint32_t part = 0; part < PARTS; part++)
        for (uint32_t w = 0; w < 3; w++)
            push_ahead(w, part, 2, 1);
    close_round(7, 7, true);
    cr_expect_eq(weights_to(2, PSD_WEIGHTS_ADOPTED, NULL), 1);
    push(0, 3, 1);
    push(1, 3, 1);
    close_round_with(PSD_COMMAND_SAME, 3, 7, true);
    push_both_ahead(0, 4, 1, 3);
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_AHEAD, NULL), 1);
    cr_expect_eq(weights_to(2, PSD_WEIGHTS_AHEAD, NULL), 0);
    push_both_ahead(1, 4, 1, 3);
    close_round(3, 7, true);
    cr_expect(weights_to(0, PSD_WEIGHTS_ADOPTED, NULL) == 1 && weights_to(0, 0, NULL) == 1);
    cr_expect(weights_to(2, PSD_WEIGHTS_ADOPTED, NULL) == 0 && weights_to(2, 0, NULL) == PARTS);
}

Test(engine, a_push_of_another_life_than_expected_is_not_stepped_ahead, .fini = teardown)
{
    psd_member_t both[] = { { .worker = 0, .incarnation = 1, .samples = 8 }, { .worker = 1, .incarnation = 1, .samples = 8 } };
    config.goes_ahead = true;
    begin("bsp", 2);
    push(0, 1, 1);
    push(1, 1, 1);
    before[1]++;
    log_entry(++seq, PSD_COMMAND_CLOSE | PSD_COMMAND_SAME,
              (psd_round_t){ .clock = 1, .apply = true, .n_contributors = 2, .contributor = both }, 3);
    attach(1);
    push_both_ahead(0, 2, 1, 1);
    cr_expect_eq(psd_engine_stats(engine)->messages, 6);
    cr_expect_eq(n_ahead(), 0);
    before[1]--;
}

Test(engine, a_round_without_a_step_leaves_all_as_it_was_and_the_next_is_not_stepped_ahead, .fini = teardown)
{
    const psd_action_t *sent = NULL;
    go_ahead();
    go_on(NAN);
    close_round_with(PSD_COMMAND_EVEN, 3, 3, false);
    cr_assert_eq(weights_to(0, 0, &sent), 1);
    cr_expect_null(sent->payload, "the worker asks for what was replaced");
    cr_expect(weight(0, 0) == 1 && weight(1, 0) == 1 && n_in_vain() == 1 && !psd_engine_version(engine));
    push_both_ahead(0, 3, 1, 3);
    cr_expect_eq(n_ahead(), 1);
    push(0, 3, 1);
    push(1, 3, 1);
    close_round_with(PSD_COMMAND_EVEN, 3, 3, true);
    push_both_ahead(0, 4, 1, 3);
    cr_expect_eq(n_ahead(), 2);
}

Test(engine, a_round_that_is_announced_or_decided_otherwise_is_stepped_as_if_nothing_had_been_made_ahead, .fini = teardown)
{
    go_ahead();
    push_ahead(0, 1, 2, 4);
    log_view(1); /* worker 1 is lost */
    cr_expect_eq(n_in_vain(), 1);
    close_round(1, 1, true);
    expect_ordinary_weights(0, 1 - 1.0f, 1 - 4.0f);
    teardown();
    seq = 0;
    go_ahead();
    go_on(5);
    close_round(1, 3, true);
    expect_ordinary_weights(0, 1 - 1.0f, 1 - 1.0f);
    expect_ordinary_weights(1, 1 - 1.0f, 1 - 1.0f);
}

Test(engine, a_step_ahead_has_the_rate_that_is_in_force_and_counts_only_with_that, .fini = teardown)
{
    config.goes_ahead = true;
    foretell(2);
    log_more(0, 0.5);
    push_both_ahead(0, 2, 1, 3);
    go_on(3);
    close_with_rate(0.5);
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_ADOPTED, NULL), 1);
    cr_expect_eq(weight(0, 0), 1 - 0.5f * 2);
    teardown();
    seq = 0;
    go_ahead();
    log_more(0, 0.25);
    go_on(3);
    close_with_rate(0.25);
    expect_ordinary_weights(0, 1 - 0.25f * 2, 1 - 0.25f * 2);
}

Test(engine, a_checkpoint_of_the_round_has_the_step_that_was_made_ahead_and_while_it_is_written_none_is_made, .fini = teardown)
{
    go_ahead();
    go_on(3);
    close_round_with(PSD_COMMAND_SAVE | PSD_COMMAND_EVEN, 3, 3, true);
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_ADOPTED, NULL), 1);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    cr_expect(psd_engine_point(engine)->clock == 2 && psd_engine_point(engine)->version == 1 && weight(0, 0) == 1 - 2.0f);
    push_both_ahead(0, 3, 1, 3);
    cr_expect_eq(n_ahead(), 1);
    psd_actions_drop(&out, out.n);
    psd_engine_saved(engine, now, NULL, &out);
    push_both_ahead(1, 3, 1, 1);
    close_round_with(PSD_COMMAND_EVEN, 3, 3, true);
    push_both_ahead(0, 4, 1, 3);
    cr_expect_eq(n_ahead(), 2);
}

Test(engine, a_part_that_was_stepped_ahead_before_a_checkpoint_began_is_stepped_again, .fini = teardown)
{
    go_ahead();
    log_more(PSD_COMMAND_SAVE, 1);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    go_on(3);
    close_round(3, 3, true);
    expect_ordinary_weights(0, 1 - 2.0f, 1 - 2.0f);
    cr_expect(psd_shard_is_kept(psd_engine_shard(engine), 0), "as it was before, for the file");
}

Test(engine, the_log_waits_for_a_thread_that_steps_ahead, .fini = teardown)
{
    config.goes_ahead = true;
    foretell(2);
    push_ahead(0, 0, 2, 1);
    threads_are_busy = true;
    push_ahead(1, 0, 2, 3);
    cr_assert(handed_out->ahead);
    push_both_ahead(1, 2, 1, 3);
    close_round(3, 3, true);
    cr_expect_eq(psd_engine_clock(engine), 1);
    threads_are_busy = false;
    psd_work_run(handed_out);
    psd_actions_drop(&out, out.n);
    psd_engine_worked(engine, now, handed_out, &out);
    cr_expect_eq(psd_engine_clock(engine), 2);
    cr_expect(weights_to(0, PSD_WEIGHTS_AHEAD, NULL) == 1 && weights_to(0, PSD_WEIGHTS_ADOPTED, NULL) == 1);
    cr_expect_eq(weight(0, 0), 1 - 2.0f);
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_WORK) {
            cr_expect_eq(out.at[i].work->part, 1, "only that is left to do");
            psd_work_run(out.at[i].work);
        }
}

Test(engine, no_part_is_stepped_ahead_of_a_step_that_threads_still_make, .fini = teardown)
{
    config.goes_ahead = true;
    foretell(2);
    push(0, 2, 1);
    push(1, 2, 3);
    threads_are_busy = true;
    close_round_with(PSD_COMMAND_EVEN, 3, 3, true);
    push_ahead(0, 1, 3, 1); /* by workers that cannot have the weights yet */
    push_ahead(1, 1, 3, 1);
    cr_expect_eq(n_ahead(), 0);
    threads_are_busy = false;
}

Test(engine, a_run_is_left_when_the_threads_that_step_ahead_are_done, .fini = teardown)
{
    config.goes_ahead = true;
    foretell(2);
    push_ahead(0, 0, 2, 1);
    threads_are_busy = true;
    push_ahead(1, 0, 2, 3);
    const psd_msg_t msg = { .kind = PSD_MSG_REFUSED, .protocol = PSD_PROTOCOL, .job = JOB + 1, .code = PSD_REFUSAL_RUN };
    hear(PSD_PEER_COORDINATOR, &msg, NULL, 0);
    cr_expect_null(answer(PSD_MSG_SHARD_HELLO));
    threads_are_busy = false;
    psd_work_run(handed_out);
    psd_actions_drop(&out, out.n);
    psd_engine_worked(engine, now, handed_out, &out);
    cr_expect_not_null(answer(PSD_MSG_SHARD_HELLO));
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_AHEAD, NULL), 0);
}

Test(engine, a_look_sees_the_same_of_a_step_that_was_made_ahead, .fini = teardown)
{
    uint8_t seen[2][2 * PSD_LOOK_TERMS * sizeof(double)];
    config.look_every = 1;
    for (int ahead = 0; ahead < 2; ahead++) {
        config.goes_ahead = ahead;
        seq = 0;
        foretell(2);
        for (uint32_t part = 0; part < PARTS; part++)
            for (uint32_t w = 0; w < 2; w++)
                push_ahead(w, part, 2, (float)(1 + part + w));
        cr_expect_eq(n_ahead(), (uint64_t)ahead);
        close_round(3, 3, true);
        size_t i = 0;
        while (i < out.n && !(out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_LOOK))
            i++;
        cr_assert(i < out.n && out.at[i].payload->n_bytes == sizeof *seen);
        memcpy(seen[ahead], out.at[i].payload->data, sizeof *seen);
        teardown();
    }
    config.look_every = 0;
    cr_expect_arr_eq(seen[0], seen[1], sizeof *seen);
}

/* Whether the first part is stepped ahead when it has come from all of `n` members, the last of which pushes so many samples. */
static bool goes_ahead_with(uint32_t n, uint64_t samples, uint32_t code, float gradient)
{
    const float values[4] = { gradient, gradient, gradient, gradient };
    seq = 0;
    foretell(n);
    for (uint32_t w = 0; w + 1 < n; w++)
        push_ahead(w, 0, 2, 1);
    psd_msg_t msg = part_of(PSD_MSG_PUSH, n - 1, 0, values);
    msg.clock = 2;
    msg.samples = samples;
    msg.code = code;
    hear(peer_of(n - 1), &msg, values, sizeof values);
    const bool ahead = n_ahead() != 0;
    cr_expect_eq(weights_to(0, PSD_WEIGHTS_AHEAD, NULL), ahead);
    teardown();
    return ahead;
}

Test(engine, a_part_is_stepped_ahead_only_where_its_step_needs_nothing_else_and_will_probably_count)
{
    const psd_engine_config_t as_it_was = config;
    cr_expect_not(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1), "it is off");
    config.goes_ahead = true;
    const psd_engine_config_t on = config;
    cr_expect(goes_ahead_with(1, 8, PSD_PUSH_AHEAD, 1));
    cr_expect(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1));
    cr_expect(goes_ahead_with(PSD_MOST_AHEAD, 8, PSD_PUSH_AHEAD, 1));
    cr_expect_not(goes_ahead_with(PSD_MOST_AHEAD + 1, 8, PSD_PUSH_AHEAD, 1));
    cr_expect_not(goes_ahead_with(2, 9, PSD_PUSH_AHEAD, 1), "as many samples were expected as of the first");
    cr_expect_not(goes_ahead_with(2, 8, 0, 1), "one worker does not take that");
    cr_expect_not(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, NAN));
    seq = 0;
    foretell(2);
    push_part(0, 0, 2, 8, 1, false);
    push_ahead(1, 0, 2, 1);
    cr_expect_eq(n_ahead(), 0, "nor does the other take it");
    teardown();
    config.accumulate = 2;
    cr_expect_not(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1));
    config = on;
    config.clip.norm = 1;
    cr_expect_not(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1));
    config = on;
    config.fold_at = 2;
    config.fold_from = 3;
    cr_expect(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1));
    cr_expect_not(goes_ahead_with(3, 8, PSD_PUSH_AHEAD, 1), "these are added up");
    config = on;
    config.max_skipped = 1;
    cr_expect_not(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1));
    config.max_skipped = 2;
    cr_expect(goes_ahead_with(2, 8, PSD_PUSH_AHEAD, 1));
    config = as_it_was;
}

/* How many pushes of the open round are added up before it is decided: those of workers 0 and 1 of three are whole. */
static uint64_t count_folded(const char *by)
{
    rule = by;
    config.fold_at = 2;
    seq = 0;
    begin("bsp", 3);
    close_round_with(PSD_COMMAND_EVEN, 0, 7, false);
    push(0, 2, 1);
    push(1, 2, 1);
    const uint64_t folded = psd_engine_stats(engine)->folded;
    teardown();
    return folded;
}

Test(engine, votes_are_counted_in_the_step_and_not_added_up_before)
{
    cr_expect_eq(count_folded("sgd(lr=1)"), 2);
    cr_expect_eq(count_folded("dlion"), 0);
}

Test(engine, another_worker_is_asked_for_the_first_values_when_the_one_before_is_silent, .fini = teardown)
{
    make("bsp", 0);
    log_model();
    attach(0);
    attach(1);
    log_view(3);
    cr_assert_not_null(answer(PSD_MSG_INIT_WANTED));
    const uint32_t first = sent_to(peer_of(1), PSD_MSG_INIT_WANTED) ? 1 : 0;
    psd_actions_drop(&out, out.n);
    for (const uint64_t end = now + 60000; now < end && !sent_to(peer_of(1 - first), PSD_MSG_INIT_WANTED);) {
        now += 50;
        psd_engine_tick(engine, now, &out);
    }
    cr_expect_neq(sent_to(peer_of(1 - first), PSD_MSG_INIT_WANTED), 0);
}

/* ---- server 0 ---- */

static char line[PSD_MAX_TEXT]; /* the last line of a kind */
static int level;

static unsigned count_lines(const char *id) { return logged(&out, id, line, &level); }

/* Ticks; what they make stays in `out`. */
static void pass(uint64_t ms)
{
    psd_actions_drop(&out, out.n);
    for (const uint64_t end = now + ms; now < end;) {
        now += 50;
        psd_engine_tick(engine, now, &out);
    }
}

Test(engine, the_silence_of_server_0_is_told_from_when_it_is_lost_until_it_is_back_or_given_up, .fini = teardown)
{
    config.lease_ms = 2000;
    config.patience_ms = 14000;
    config.first = "tcp://first:1";
    begin("bsp", 1);
    log_view(1);
    pass(2000);
    cr_expect_eq(count_lines("server.lost"), 0);
    cr_expect_eq(psd_engine_first_silent_ms(engine), 0, "it is not lost yet");
    pass(50);
    cr_expect_eq(count_lines("server.lost"), 1);
    cr_expect_str_eq(line, "shard=0 endpoint=tcp://first:1 silent_ms=2050");
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_eq(psd_engine_first_silent_ms(engine), 2050);
    pass(4900);
    cr_expect_eq(count_lines("job.waiting") + count_lines("server.lost"), 0, "a line in 5 s");
    pass(5200);
    cr_expect_eq(count_lines("job.waiting"), 2, "after 7.05 and 12.05 s");
    cr_expect_str_eq(line, "for=\"server 0 at tcp://first:1, silent for 12 s\"");
    log_view(1);
    pass(50);
    cr_expect_eq(count_lines("server.back"), 1);
    cr_expect_str_eq(line, "shard=0 endpoint=tcp://first:1");
    cr_expect_eq(level, PSD_LEVEL_INFO);
    now += 900; /* this process is suspended: */
    pass(50);
    cr_expect_eq(count_lines("server.away"), 0);
    now += 60000;
    pass(50);
    cr_expect_eq(count_lines("server.away"), 1);
    cr_expect_eq(strncmp(line, "ms=60050 ", 9), 0, "%s", line);
    cr_expect_not(asked(PSD_ACT_FINISH));
    log_view(1);
    pass(13900);
    cr_expect_not(asked(PSD_ACT_FINISH));
    pass(100);
    cr_assert(asked(PSD_ACT_FINISH));
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_FINISH) {
            cr_expect_eq(out.at[i].level, PSD_EUNAVAILABLE);
            cr_expect_str_eq(out.at[i].msg.text, "gave up waiting for server 0 at tcp://first:1, silent for 14 s (join_timeout)");
        }
}

/* ---- what workers are told ---- */

static void expect_told(psd_kind_t kind, const char *text)
{
    cr_assert_not_null(answer(kind), "%s", text);
    cr_expect_eq(strncmp(answer(kind)->text, text, strlen(text)), 0, "%s", answer(kind)->text);
}

Test(engine, a_worker_is_told_why_it_is_fenced_or_waits_and_what_is_wrong_with_a_push, .fini = teardown)
{
    begin("bsp", 2);
    psd_msg_t msg = of_worker(PSD_MSG_ATTACH, 1);
    msg.incarnation = 2;
    hear(peer_of(3), &msg, NULL, 0);
    expect_told(PSD_MSG_WAIT, "shard 0 waits for worker 1's older incarnation to be given up");
    msg = part_of(PSD_MSG_PUSH, 0, 0, initial);
    msg.clock = 1;
    msg.samples = 8;
    msg.parts = 3;
    hear(peer_of(0), &msg, initial, sizeof initial);
    expect_told(PSD_MSG_REFUSED, "push of part 0/3 with 4 elements; shard 0 has 2 parts");
    cr_expect_null(strstr(answer(PSD_MSG_REFUSED)->text, "size"));
    msg.parts = PARTS;
    msg.n_elements = 3;
    hear(peer_of(0), &msg, initial, 3 * sizeof *initial);
    expect_told(PSD_MSG_REFUSED, "push of part 0/2 with 3 elements; shard 0 has 2 parts, this one of another size");
    log_view(1);
    push(1, 1, 1);
    expect_told(PSD_MSG_FENCED, "worker 1 incarnation 1 is no longer a member: ");
}

/* ---- gradients that are not finite ---- */

Test(engine, parts_of_a_push_that_differ_in_their_samples_are_refused, .fini = teardown)
{
    begin("bsp", 1);
    push_part(0, 0, 1, 8, 1, false);
    push_part(0, 1, 1, 9, 1, false);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_SHAPE);
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "clock 1: part 1 has 9 samples, others 8");
    push_part(0, 1, 1, 8, 1, false);
    psd_engine_worker_t facts;
    cr_assert(psd_engine_worker(engine, 0, &facts));
    cr_expect_eq(facts.held, 2);
}

Test(engine, max_skipped_rounds_in_a_row_without_a_step_end_the_job_and_one_step_restarts_the_count, .fini = teardown)
{
    config.max_skipped = 3;
    begin("bsp", 1);
    uint64_t clock = 0;
    for (unsigned turn = 0; turn < 2; turn++) {
        for (unsigned i = 0; i < 2; i++) {
            push(0, ++clock, NAN);
            close_round(1, 1, false);
            cr_assert_null(psd_engine_hopeless(engine));
        }
        push(0, ++clock, 1);
        close_round(1, 1, true);
    }
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_null(psd_engine_hopeless(engine), "%u", i);
        push(0, ++clock, NAN);
        close_round(1, 1, false);
    }
    cr_assert_not_null(psd_engine_hopeless(engine));
    cr_expect_not_null(
        strstr(psd_engine_hopeless(engine),
               "3 rounds in a row made no step (sync.max_skipped): the gradient of worker 0 has Inf or NaN, first in tensor v"),
        "%s", psd_engine_hopeless(engine));
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_HOPELESS);
    pass(300);
    cr_expect_geq(sent_to(peer_of(0), PSD_MSG_REFUSED), 5, "a message may be lost");
    cr_expect_not(asked(PSD_ACT_FINISH));
    pass(50);
    cr_expect(asked(PSD_ACT_FINISH));
}

/* Two rounds with a push whose Inf or NaN only its worker has seen: in another server's part, or before it was coded. */
static void end_by_confession(void)
{
    config.max_skipped = 2;
    begin("bsp", 1);
    for (uint64_t clock = 1; clock <= 2; clock++) {
        for (uint32_t p = 0; p < PARTS; p++) {
            uint8_t code[16] = { 0 };
            psd_msg_t msg = part_of(PSD_MSG_PUSH, 0, p, initial);
            const size_t n = psd_coding_bytes(&config.codings.push, 4);
            msg.clock = clock;
            msg.samples = 8;
            msg.nonfinite = true;
            msg.codec = psd_coding_number(&config.codings.push);
            msg.checksum = psd_crc32c(code, n);
            hear(peer_of(0), &msg, code, n);
        }
        close_round(1, 1, false);
    }
    cr_assert_not_null(psd_engine_hopeless(engine));
}

Test(engine, a_shard_that_has_not_seen_the_nan_leaves_it_to_the_one_that_names_it, .fini = teardown)
{
    end_by_confession();
    cr_expect_not_null(strstr(psd_engine_hopeless(engine), "at another server, which names it"), "%s", psd_engine_hopeless(engine));
    cr_expect_null(answer(PSD_MSG_REFUSED), "a worker keeps the first reason that it hears");
    pass(200);
    cr_expect_eq(sent_to(peer_of(0), PSD_MSG_REFUSED), 0);
}

Test(engine, where_gradients_are_coded_any_shard_names_the_worker_that_confesses, .fini = teardown)
{
    config.codings.push = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    end_by_confession();
    cr_expect_not_null(strstr(psd_engine_hopeless(engine), "the gradient of worker 0 has Inf or NaN"), "%s",
                       psd_engine_hopeless(engine));
    cr_assert_not_null(answer(PSD_MSG_REFUSED), "no shard has seen it");
}

Test(engine, a_round_in_which_no_worker_had_samples_is_none_without_a_step, .fini = teardown)
{
    config.max_skipped = 2;
    begin("bsp", 1);
    for (uint64_t clock = 1; clock <= 4; clock++) {
        psd_msg_t msg = of_worker(PSD_MSG_PUSH, 0);
        msg.clock = clock;
        msg.parts = PARTS;
        hear(peer_of(0), &msg, NULL, 0);
        close_round(0, 1, false);
    }
    cr_expect_eq(psd_engine_clock(engine), 4);
    cr_expect_null(psd_engine_hopeless(engine), "there was nothing to step with");
}

Test(engine, in_asp_a_worker_whose_pushes_in_a_row_are_all_bad_ends_the_job_and_another_workers_do_not_count, .fini = teardown)
{
    config.max_skipped = 3;
    begin("asp", 2);
    uint64_t clock[2] = { 0 };
    for (unsigned i = 0; i < 2; i++) { /* 4 in all, but no worker has 3 in a row */
        push(0, ++clock[0], NAN);
        push(1, ++clock[1], NAN);
    }
    push(0, ++clock[0], 1);
    push(0, ++clock[0], NAN);
    push(0, ++clock[0], NAN);
    cr_assert_null(psd_engine_hopeless(engine), "%s", psd_engine_hopeless(engine));
    cr_expect_eq(psd_engine_stats(engine)->rejected[PSD_REFUSAL_NONFINITE], 6);
    cr_expect_eq(psd_engine_version(engine), 1);
    push(1, ++clock[1], NAN);
    cr_assert_not_null(psd_engine_hopeless(engine));
    cr_expect_not_null(strstr(psd_engine_hopeless(engine), "3 pushes of a worker in a row made no step"), "%s",
                       psd_engine_hopeless(engine));
    cr_expect_not_null(strstr(psd_engine_hopeless(engine), "the gradient of worker 1"), "%s", psd_engine_hopeless(engine));
}

/* What the newest SHARD_STATE lists; it lives until the actions are dropped. */
static const psd_round_t *listed(void)
{
    const psd_round_t *found = NULL;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_SHARD_STATE)
            found = psd_body_round(out.at[i].payload);
    return found;
}

Test(engine, in_asp_a_rejected_push_is_reported_at_once_with_how_many_there_were_in_a_row, .fini = teardown)
{
    begin("asp", 2);
    push(1, 1, NAN);
    push(1, 2, NAN);
    const psd_round_t *list = listed();
    cr_assert(list && list->n_contributors == 1, "worker 0 has done nothing wrong");
    cr_expect(list->contributor[0].worker == 1 && list->contributor[0].samples == 2 && list->contributor[0].nonfinite);
    push(1, 3, 1);
    push(0, 1, NAN);
    list = listed();
    cr_assert(list && list->n_contributors == 1, "a good push ends the row");
    cr_expect(list->contributor[0].worker == 0 && list->contributor[0].samples == 1);
}

Test(engine, in_asp_a_workers_next_life_is_not_blamed_for_what_was_rejected_before, .fini = teardown)
{
    config.max_skipped = 3;
    begin("asp", 2);
    push(1, 1, NAN);
    push(1, 2, NAN);
    log_view(1); /* it is given up, */
    before[1]++; /* and replaced */
    attach(1);
    log_view(3);
    const psd_round_t *list = listed();
    cr_assert_not_null(list);
    cr_expect_eq(list->n_contributors, 0, "it would be given up for nothing");
    push(1, 1, NAN);
    list = listed();
    cr_assert(list && list->n_contributors == 1);
    cr_expect(list->contributor[0].worker == 1 && list->contributor[0].incarnation == 2);
    cr_expect_eq(list->contributor[0].samples, 1);
    cr_expect_null(psd_engine_hopeless(engine));
}

Test(engine, in_asp_a_rate_that_is_divided_by_the_workers_counts_those_that_are_members_now, .fini = teardown)
{
    lr_rule = "1/W";
    begin("asp", 2);
    push(1, 1, 1);
    cr_expect_eq(weight(0, 3), 3.5f);
    log_view(2); /* worker 0 leaves, */
    push(1, 2, 1);
    cr_expect_eq(weight(0, 3), 2.5f, "the other is alone");
    before[0]++; /* and comes again */
    attach(0);
    log_view(3);
    push(0, 1, 1);
    cr_expect_eq(weight(0, 3), 2.0f);
}

Test(engine, a_nan_that_is_confessed_is_skipped_where_all_that_is_here_is_finite, .fini = teardown)
{
    begin("asp", 1);
    for (uint32_t p = 0; p < PARTS; p++)
        push_part(0, p, 1, 8, 1, true);
    cr_expect_eq(psd_engine_version(engine), 0, "it is in another shard's part");
    cr_expect_eq(weight(0, 0), 1.0f);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS), "and the worker continues");
    cr_expect_eq(answer(PSD_MSG_WEIGHTS)->clock, 1);
}

/* ---- checkpoints ---- */

/* The shard starts from a checkpoint with these clocks of workers 0, 1 and 2. */
static void begin_from(const char *mode)
{
    psd_tensor_desc_t tensor[2];
    psd_err_t err;
    const psd_tensor_list_t list = model(tensor);
    const psd_member_t applied[] = { { .worker = 0, .incarnation = 4, .samples = 20 },
                                     { .worker = 1, .incarnation = 5, .samples = 30 },
                                     { .worker = 2, .incarnation = 6, .samples = 40 } };
    static const uint32_t residual_of[] = { 0, 1 };
    make(mode, PSD_WELCOME_RESTORE);
    cr_assert(asked(PSD_ACT_RESTORE));
    cr_assert_eq(psd_engine_restore(engine, &list, &err), PSD_OK);
    psd_actions_drop(&out, out.n);
    psd_engine_restored(engine, now, NULL,
                        &(psd_save_point_t){ .clock = 6,
                                             .version = 90,
                                             .samples = 720,
                                             .lr = 0.5,
                                             .applied = applied,
                                             .n_applied = 3,
                                             .residual_of = residual_of,
                                             .n_residuals = 2 },
                        &out);
}

static void begin_from_checkpoint(void) { begin_from("asp"); }

Test(engine, before_the_first_step_the_learning_rate_is_that_of_the_next_one, .fini = teardown)
{
    cr_assert_eq(psd_schedule_parse(&config.schedule, "linear(steps=100)", NULL), PSD_OK);
    config.schedule.unit = PSD_UNIT_STEP;
    make("asp", 0);
    cr_expect_eq(psd_engine_stats(engine)->lr, 1, "sgd(lr=1), at its first step");
    psd_engine_destroy(&engine);
    begin_from_checkpoint();
    /* 0.5 at step 90 of 100: a tenth is left */
    cr_expect_float_eq(psd_engine_stats(engine)->lr, 0.05, 1e-15);
    attach(0);
    log_view(1);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
    cr_expect_float_eq(answer(PSD_MSG_WEIGHTS)->lr, 0.05, 1e-15, "which workers are told");
    push(0, 21, 1);
    psd_actions_drop(&out, out.n);
    push(0, 22, 1);
    cr_assert_eq(psd_engine_version(engine), 92);
    /* log_view says a base of 1 */
    cr_expect_float_eq(answer(PSD_MSG_WEIGHTS)->lr, 0.09, 1e-15, "of step 91, the last one");
}

/* The entry of that worker in the next checkpoint. */
static uint64_t saved_clock(uint32_t worker)
{
    const psd_save_point_t *point = psd_engine_point(engine);
    for (uint32_t i = 0; i < point->n_applied; i++)
        if (point->applied[i].worker == worker)
            return point->applied[i].samples;
    return 0;
}

Test(engine, a_worker_not_yet_back_keeps_its_clock_in_the_next_checkpoint, .fini = teardown)
{
    begin_from_checkpoint();
    attach(0);
    attach(1); /* has registered here, but the log does not name it yet */
    log_view(1);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
    cr_expect_eq(answer(PSD_MSG_WEIGHTS)->clock, 20, "it continues after the clocks of the checkpoint");
    push(0, 21, 1);
    cr_assert_eq(psd_engine_version(engine), 91);
    log_entry(++seq, PSD_COMMAND_SAVE, (psd_round_t){ .clock = 7, .lr = 0.25 }, 1);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    cr_expect_eq(saved_clock(0), 21);
    cr_expect_eq(saved_clock(1), 30);
    cr_expect_eq(saved_clock(2), 40);
    const psd_save_point_t *point = psd_engine_point(engine);
    cr_expect_eq(point->clock, 7);
    cr_expect_eq(point->version, 91);
    cr_expect_eq(point->samples, 728);
    cr_expect_eq(point->lr, 0.25, "in force");
}

/* ---- what is logged of the model and the run ---- */

Test(engine, a_checkpoint_between_the_rounds_of_a_step_has_the_clocks_of_its_weights, .fini = teardown)
{
    config.accumulate = 2;
    begin("bsp", 1);
    push(0, 1, 1);
    close_round_with(PSD_COMMAND_GATHER, 1, 1, true);
    cr_assert_eq(psd_engine_clock(engine), 1);
    log_entry(++seq, PSD_COMMAND_SAVE, (psd_round_t){ .clock = 1 }, 1);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    cr_expect_eq(psd_engine_point(engine)->clock, 0);
    cr_expect_eq(saved_clock(0), 0, "a job that continues from it makes the round again");
}

/* ---- residuals ---- */

static void setup_residuals(void)
{
    config.saves_residuals = true;
    config.codings.push = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    begin_from("bsp");
}

/* What the checkpoint has of a worker's residual. */
static void residual_loaded(uint32_t w)
{
    psd_buf_t **part = calloc(PARTS, sizeof *part);
    for (uint32_t p = 0; p < PARTS; p++)
        part[p] = psd_payload_copy(initial, sizeof initial);
    psd_actions_drop(&out, out.n);
    psd_engine_residual_loaded(engine, now, w, part, NULL, &out);
}

Test(engine, a_worker_gets_no_weights_before_its_residual_is_loaded, .init = setup_residuals, .fini = teardown)
{
    attach(0);
    cr_assert(asked(PSD_ACT_LOAD_RESIDUAL));
    log_view(1);
    cr_expect_null(answer(PSD_MSG_WEIGHTS), "they tell whether there is one");
    const uint8_t all = 3;
    psd_msg_t probe = of_worker(PSD_MSG_PROBE, 0);
    probe.code = PSD_PROBE_SEND;
    probe.clock = 6;
    probe.parts = PARTS;
    hear(peer_of(0), &probe, &all, 1);
    cr_expect_null(answer(PSD_MSG_WEIGHTS));
    cr_expect_not_null(answer(PSD_MSG_ATTACHED), "it is still here");
    residual_loaded(0);
    cr_assert_eq(sent_to(peer_of(0), PSD_MSG_WEIGHTS), PARTS);
    cr_expect(answer(PSD_MSG_WEIGHTS)->code & PSD_WEIGHTS_RESIDUAL);
}

Test(engine, a_residual_that_is_loaded_after_the_job_has_gone_on_is_not_the_workers_any_longer, .init = setup_residuals,
     .fini = teardown)
{
    attach(0);
    residual_loaded(0);
    attach(1);
    cr_assert(asked(PSD_ACT_LOAD_RESIDUAL));
    log_view(1);
    close_round(0, 1, false);
    residual_loaded(1);
    log_view(3);
    cr_assert_eq(sent_to(peer_of(1), PSD_MSG_WEIGHTS), PARTS);
    cr_expect_not(answer(PSD_MSG_WEIGHTS)->code & PSD_WEIGHTS_RESIDUAL, "it is of another clock");
}

Test(engine, the_residual_of_a_worker_without_a_closed_clock_is_not_waited_for, .fini = teardown)
{
    config.saves_residuals = true;
    config.codings.push = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    begin("asp", 2);
    log_entry(++seq, PSD_COMMAND_SAVE, (psd_round_t){ .clock = 1 }, 3);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    cr_expect_eq(psd_engine_point(engine)->n_residuals, 0);
    cr_expect_null(answer(PSD_MSG_RESIDUAL_WANTED));
}

Test(engine, residuals_that_the_checkpoint_does_not_have_are_counted_as_reset, .init = setup_residuals, .fini = teardown)
{
    log_view(1 | 2);
    cr_expect_eq(psd_engine_stats(engine)->residual_resets, 0);
    log_view(1 | 2 | 4);
    cr_expect_eq(psd_engine_stats(engine)->residual_resets, 1, "of worker 2");
}

Test(engine, only_a_worker_that_no_longer_has_the_residual_of_this_checkpoint_is_left_out_of_it, .init = setup_residuals,
     .fini = teardown)
{
    attach(0);
    residual_loaded(0);
    log_view(1);
    close_round_with(PSD_COMMAND_SAVE, 0, 1, false);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    cr_assert_eq(sent_to(peer_of(0), PSD_MSG_RESIDUAL_WANTED), 1);
    psd_msg_t gone = of_worker(PSD_MSG_RESIDUAL, 0);
    gone.clock = 6; /* the answer to a question for the checkpoint before */
    hear(peer_of(0), &gone, NULL, 0);
    pass(300);
    cr_expect_geq(sent_to(peer_of(0), PSD_MSG_RESIDUAL_WANTED), 1);
    const float bad[4] = { 1, INFINITY, 3, 4 };
    psd_msg_t part = part_of(PSD_MSG_RESIDUAL, 0, 0, bad);
    part.clock = 7;
    hear(peer_of(0), &part, bad, sizeof bad);
    expect_told(PSD_MSG_REFUSED, "residual of part 0 has Inf or NaN; a residual is finite");
    cr_expect_not(asked(PSD_ACT_SAVE_RESIDUAL));
    gone.clock = 7;
    hear(peer_of(0), &gone, NULL, 0);
    pass(2000);
    cr_expect_eq(sent_to(peer_of(0), PSD_MSG_RESIDUAL_WANTED), 0);
}

/* Its coordinator may order one while this shard still writes the one before, which has failed at another server. */
Test(engine, a_checkpoint_that_is_ordered_while_an_older_one_is_written_begins_when_that_is_over, .fini = teardown)
{
    begin("bsp", 1);
    log_entry(++seq, PSD_COMMAND_SAVE, (psd_round_t){ .clock = 0 }, 1);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    push(0, 1, 1);
    close_round_with(PSD_COMMAND_SAVE, 1, 1, true);
    cr_assert_eq(psd_engine_version(engine), 1);
    cr_expect_not(asked(PSD_ACT_SAVE_BEGIN), "one at a time");
    psd_actions_drop(&out, out.n);
    psd_engine_saved(engine, now, NULL, &out);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    cr_expect_eq(psd_engine_point(engine)->clock, 1);
    cr_expect_eq(psd_engine_point(engine)->version, 1);
    cr_assert_not_null(answer(PSD_MSG_SHARD_STATE));
    cr_expect_eq(answer(PSD_MSG_SHARD_STATE)->saved, 1, "clock 0, of the older one");
    cr_expect_not(answer(PSD_MSG_SHARD_STATE)->code & PSD_SHARD_SAVE_FAILED);
}

Test(engine, the_model_its_groups_and_its_first_values_are_logged_with_their_numbers, .fini = teardown)
{
    groups = "v(optimizer=sgd(lr=0.5), lr_mult=0.25, clip=0)";
    make("bsp", 0);
    groups = "";
    log_model();
    cr_expect_eq(count_lines("shard.model"), 1);
    cr_expect_str_eq(line, "tensors=2 chunks=2 of=2 parts=2 parameters=8");
    cr_expect_eq(level, PSD_LEVEL_INFO);
    cr_expect_eq(count_lines("optimizer.group"), 2);
    static const char *const lines[] = {
        "match=\"v\" optimizer=\"sgd(lr=0.5, momentum=0, dampening=0, nesterov=0, weight_decay=0)\" lr_mult=0.25 clip=off "
        "frozen=no "
        "tensors=1 parameters=4",
        "match=\"\" optimizer=\"sgd(lr=1, momentum=0, dampening=0, nesterov=0, weight_decay=0)\" lr_mult=1 clip=on frozen=no "
        "tensors=1 parameters=4"
    };
    size_t n = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_LOG && !strcmp(out.at[i].id, "optimizer.group"))
            cr_expect_str_eq(out.at[i].msg.text, lines[n++ % 2]);
    attach(0);
    log_view(1);
    initialise(0);
    cr_expect_eq(count_lines("shard.started"), 1);
    cr_expect_str_eq(line, "worker=0 chunks=2");
    cr_expect_eq(level, PSD_LEVEL_INFO);
}

Test(engine, a_shard_that_is_told_of_another_run_says_so_and_asks_for_its_place_again, .fini = teardown)
{
    begin("bsp", 1);
    psd_msg_t msg = { .kind = PSD_MSG_REFUSED, .protocol = PSD_PROTOCOL, .job = JOB, .code = PSD_REFUSAL_RUN };
    hear(PSD_PEER_COORDINATOR, &msg, NULL, 0); /* the late answer to a message of the run before this one */
    cr_expect_eq(count_lines("shard.restart"), 0);
    cr_expect(psd_engine_is_ready(engine));
    msg.job = JOB + 1;
    hear(PSD_PEER_COORDINATOR, &msg, NULL, 0);
    cr_expect_eq(count_lines("shard.restart"), 1);
    cr_expect_str_eq(line, "reason=\"server 0 has begun another run of the job\"");
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_assert_not_null(answer(PSD_MSG_SHARD_HELLO));
    cr_expect_eq(answer(PSD_MSG_SHARD_HELLO)->seq, 2, "as another start of it");
    cr_expect_eq(answer(PSD_MSG_SHARD_HELLO)->code, 1, "for the same place");
}
