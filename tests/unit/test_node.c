#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>

#include "server/core/node.h"
#include "tests/support/said.h"

TestSuite(node, .timeout = 600);

/* One server with its coordinator; the test sends their messages. Worker 0 has joined and registered a tensor of 4 weights. */
enum { JOB = 9, PEER = 5, NONCE = 77 };
#define WORKER_PEER (UINT64_C(1) << 63 | PEER)

static psd_node_t *node;
static psd_actions_t out;
static uint64_t now = 1000;
static uint64_t incarnation;

static psd_msg_t message(psd_kind_t kind)
{
    return (psd_msg_t){ .kind = kind, .protocol = PSD_PROTOCOL, .job = JOB, .worker = 0, .incarnation = incarnation, .seq = NONCE };
}

static void run_work(void)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_WORK) {
            psd_work_run(out.at[i].work);
            psd_node_worked(node, now, out.at[i].work, &out);
        }
}

static void say(psd_peer_t from, const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *buf = said_with(msg, payload, n);
    psd_actions_drop(&out, out.n);
    psd_node_message(node, now, from, msg, buf, &out);
    run_work();
    psd_buf_unref(&buf);
}

/* The first message of this kind among the answers; NULL when there is none. */
static const psd_msg_t *answer(psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind)
            return &out.at[i].msg;
    return NULL;
}

static void expect_refusal(psd_refusal_t code, const char *words)
{
    const psd_msg_t *no = answer(PSD_MSG_REFUSED);
    cr_assert_not_null(no);
    cr_assert_eq(no->code, code, "%s: %s", psd_refusal_name(no->code), no->text);
    cr_assert_not_null(strstr(no->text, words), "%s", no->text);
}

static void hello(const char *text, uint64_t nonce)
{
    psd_msg_t msg = message(PSD_MSG_HELLO);
    msg.seq = nonce;
    snprintf(msg.text, sizeof msg.text, "%s", text);
    say(WORKER_PEER, &msg, NULL, 0);
}

static void enrol(uint64_t elements)
{
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { elements }, .n_elements = elements };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    psd_msg_t msg = message(PSD_MSG_REGISTER);
    say(WORKER_PEER, &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
}

static uint64_t patience_ms; /* 0: no limit */
static uint32_t workers_min = 1, n_servers = 1, part_elements = PSD_MAX_CHUNK;

static psd_codings_t codings;

static const psd_mode_t *own_mode; /* NULL: the one of that name */

static void make_node(const char *mode, bool checkpoints)
{
    psd_engine_config_t engine = { .job = "mnist",
                                   .settings = "mode=x",
                                   .print_rule = psd_rule_print,
                                   .endpoint = "tcp://here:1",
                                   .wanted_index = -1,
                                   .nonce = 1,
                                   .mode = own_mode ? own_mode : psd_mode_find(mode),
                                   .lr_rule = psd_lr_rule_find("none"),
                                   .codings = codings,
                                   .max_staleness = 1 };
    psd_groups_parse(&engine.groups, "sgd(lr=1)", "", NULL);
    psd_coordinator_config_t coordinator = {
        .job = "mnist",
        .job_id = JOB,
        .settings = &(psd_job_settings_t){ .text = "mode=x", .mode = "bsp", .optimizer = "sgd", .part_elements = part_elements },
        .n_servers = n_servers,
        .workers_min = workers_min,
        .workers_want = workers_min,
        .lease_ms = 1000,
        .patience_ms = patience_ms,
        .mode = engine.mode,
        .lr = 1,
        .checkpoints = checkpoints
    };
    coordinator.groups = engine.groups;
    node = psd_node_new(&engine, &coordinator, NULL);
    psd_node_tick(node, now, &out);
}

static const float initial[4] = { 1, 2, 3, 4 };

static psd_msg_t chunk(psd_kind_t kind, const float *values)
{
    psd_msg_t msg = message(kind);
    msg.parts = 1;
    msg.n_elements = 4;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(values, sizeof initial);
    return msg;
}

static void join(void)
{
    hello("mnist a:1", NONCE);
    cr_assert_not_null(answer(PSD_MSG_WELCOME));
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    say(WORKER_PEER,
        &(psd_msg_t){ .kind = PSD_MSG_ATTACH, .protocol = PSD_PROTOCOL, .job = JOB, .incarnation = incarnation, .seq = NONCE },
        NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_ATTACHED));
    enrol(4);
    cr_assert_not_null(answer(PSD_MSG_REGISTERED));
    cr_assert_not_null(answer(PSD_MSG_INIT_WANTED));
    psd_msg_t init = chunk(PSD_MSG_INIT, initial);
    say(WORKER_PEER, &init, initial, sizeof initial);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
}

static void setup(void)
{
    make_node("bsp", false);
    join();
}

static void setup_asp(void)
{
    make_node("asp", false);
    join();
}

static void teardown(void)
{
    psd_node_destroy(&node);
    psd_actions_clear(&out);
}

static psd_msg_t push_of(uint64_t clock, const float *g)
{
    psd_msg_t msg = chunk(PSD_MSG_PUSH, g);
    msg.clock = clock;
    msg.samples = 8;
    return msg;
}

static void push(uint64_t clock, const float *g)
{
    psd_msg_t msg = push_of(clock, g);
    say(WORKER_PEER, &msg, g, 4 * sizeof *g);
}

static float weight(size_t i) { return ((const float *)psd_shard_weights(psd_engine_shard(psd_node_engine(node)), 0)->data)[i]; }

static uint64_t refused(psd_refusal_t code) { return psd_engine_stats(psd_node_engine(node))->rejected[code]; }

static const float ones[4] = { 1, 1, 1, 1 };

Test(node, a_push_is_one_step_and_its_answer_is_the_weights, .init = setup, .fini = teardown)
{
    push(1, ones);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
    cr_assert_eq(answer(PSD_MSG_WEIGHTS)->version, 1);
    cr_assert_eq(answer(PSD_MSG_WEIGHTS)->value, 8, "samples of the job");
    cr_assert_eq(weight(1), 1.0f); /* 2 - 1 * 1 */
}

Test(node, the_same_push_again_changes_nothing, .init = setup, .fini = teardown)
{
    push(1, ones);
    push(1, ones);
    cr_assert_null(answer(PSD_MSG_WEIGHTS));
    cr_assert_eq(weight(0), 0.0f);
    cr_assert_eq(refused(PSD_REFUSAL_DUPLICATE), 1);
}

Test(node, a_worker_that_pushes_two_clocks_ahead_receives_the_expected_clock, .init = setup, .fini = teardown)
{
    push(2, ones);
    cr_assert_not_null(answer(PSD_MSG_PROGRESS));
    cr_assert_eq(answer(PSD_MSG_PROGRESS)->clock, 1);
    cr_assert_eq(weight(0), 1.0f);
}

Test(node, a_damaged_payload_is_asked_for_again, .init = setup, .fini = teardown)
{
    psd_msg_t msg = push_of(1, ones);
    say(WORKER_PEER, &msg, initial, sizeof initial);
    cr_assert_not_null(answer(PSD_MSG_PROGRESS));
    cr_assert_eq(refused(PSD_REFUSAL_CHECKSUM), 1);
    push(1, ones);
    cr_assert_eq(weight(0), 0.0f);
}

Test(node, a_nan_that_the_worker_did_not_confess_is_found, .init = setup, .fini = teardown)
{
    push(1, (float[]){ 1, NAN, 1, 1 });
    cr_assert_eq(weight(0), 1.0f);
    cr_assert_eq(psd_engine_version(psd_node_engine(node)), 0);
    cr_assert_eq(psd_engine_clock(psd_node_engine(node)), 1);
    push(2, ones);
    cr_assert_eq(weight(0), 0.0f);
}

Test(node, a_round_without_samples_is_not_a_step, .init = setup, .fini = teardown)
{
    psd_msg_t msg = message(PSD_MSG_PUSH);
    msg.clock = msg.parts = 1;
    say(WORKER_PEER, &msg, NULL, 0);
    cr_assert_eq(psd_engine_version(psd_node_engine(node)), 0);
    cr_assert_eq(psd_engine_clock(psd_node_engine(node)), 1);
}

Test(node, another_job_is_refused_naming_both, .init = setup, .fini = teardown)
{
    hello("cifar b:2", 78);
    expect_refusal(PSD_REFUSAL_JOB, "this is job mnist, you belong to job cifar");
}

Test(node, a_name_that_would_write_into_the_log_is_refused, .init = setup, .fini = teardown)
{
    static const char *const names[] = {
        "job gpu1 worker=0 silent_ms=0", "job a=b", "job a\"b", "job a\\b", "job a\x1b[2J", "job \xff", "job ", "job"
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[80];
        snprintf(text, sizeof text, "mnist%s", names[i] + 3);
        hello(text, 100 + i);
        expect_refusal(PSD_REFUSAL_CONFIG, "cannot be a worker's name");
    }
}

Test(node, another_run_of_the_job_is_refused_naming_both, .init = setup, .fini = teardown)
{
    psd_msg_t msg = push_of(1, ones);
    msg.job = 10;
    say(WORKER_PEER, &msg, ones, sizeof ones);
    expect_refusal(PSD_REFUSAL_JOB, "000000000000000a");
}

Test(node, another_shape_is_refused_naming_both, .init = setup, .fini = teardown)
{
    psd_msg_t msg = message(PSD_MSG_HELLO);
    msg.seq = 78;
    snprintf(msg.text, sizeof msg.text, "mnist b:2");
    say(WORKER_PEER + 1, &msg, NULL, 0);
    const psd_msg_t *welcome = answer(PSD_MSG_WELCOME);
    cr_assert_not_null(welcome);
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 5 }, .n_elements = 5 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    psd_msg_t other = { .kind = PSD_MSG_REGISTER,
                        .protocol = PSD_PROTOCOL,
                        .job = JOB,
                        .worker = welcome->worker,
                        .incarnation = welcome->incarnation,
                        .seq = 78 };
    say(WORKER_PEER + 1, &other, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
    expect_refusal(PSD_REFUSAL_SHAPE, "[4]");
    expect_refusal(PSD_REFUSAL_SHAPE, "[5]");
}

/* A worker with this name and nonce, on another connection, registers the job's model, and trains on `recipe`. */
static void enrol_another(unsigned k, const char *recipe)
{
    psd_msg_t msg = message(PSD_MSG_HELLO);
    msg.seq = 90 + k;
    snprintf(msg.text, sizeof msg.text, "mnist w:%u", k);
    say(WORKER_PEER + k, &msg, NULL, 0);
    const psd_msg_t *welcome = answer(PSD_MSG_WELCOME);
    cr_assert_not_null(welcome);
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    psd_msg_t registers = { .kind = PSD_MSG_REGISTER,
                            .protocol = PSD_PROTOCOL,
                            .job = JOB,
                            .worker = welcome->worker,
                            .incarnation = welcome->incarnation,
                            .seq = 90 + k };
    snprintf(registers.text, sizeof registers.text, "%s", recipe);
    say(WORKER_PEER + k, &registers, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
}

Test(node, a_worker_that_trains_on_something_else_is_refused_naming_both, .init = setup, .fini = teardown)
{
    enrol_another(1, "batch=4 seed=1");
    cr_assert_not_null(answer(PSD_MSG_REGISTERED), "worker 0 has not reported a recipe");
    enrol_another(2, "batch=4 seed=2");
    expect_refusal(PSD_REFUSAL_CONFIG, "batch=4 seed=2");
    expect_refusal(PSD_REFUSAL_CONFIG, "the others have batch=4 seed=1");
    enrol_another(3, "");
    cr_expect_not_null(answer(PSD_MSG_REGISTERED), "a worker without a recipe is not compared");
    enrol_another(4, "batch=4 seed=1");
    cr_expect_not_null(answer(PSD_MSG_REGISTERED));
}

/* The same with optimizer state. */
static void enrol_heir(unsigned k, psd_inherited_t inherited)
{
    psd_msg_t msg = message(PSD_MSG_HELLO);
    msg.seq = 90 + k;
    snprintf(msg.text, sizeof msg.text, "mnist w:%u", k);
    say(WORKER_PEER + k, &msg, NULL, 0);
    const psd_msg_t *welcome = answer(PSD_MSG_WELCOME);
    cr_assert_not_null(welcome);
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor, .inherited = &inherited };
    psd_msg_t registers = { .kind = PSD_MSG_REGISTER,
                            .protocol = PSD_PROTOCOL,
                            .job = JOB,
                            .worker = welcome->worker,
                            .incarnation = welcome->incarnation,
                            .seq = 90 + k };
    say(WORKER_PEER + k, &registers, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
}

Test(node, a_worker_whose_optimizer_state_differs_from_the_others_is_refused_before_the_first_step, .init = setup, .fini = teardown)
{
    enrol_heir(1, (psd_inherited_t){ .t = 7 });
    expect_refusal(PSD_REFUSAL_CONFIG, "tensor w: ours starts with new state, theirs with that after 7 updates");
    push(1, ones);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
    enrol_heir(2, (psd_inherited_t){ .t = 7 });
    cr_expect_not_null(answer(PSD_MSG_REGISTERED), "now the state is no longer needed");
}

Test(node, an_older_incarnation_is_fenced, .init = setup, .fini = teardown)
{
    psd_msg_t msg = push_of(1, ones);
    msg.incarnation = 0;
    say(WORKER_PEER, &msg, ones, sizeof ones);
    cr_assert_not_null(answer(PSD_MSG_FENCED));
    cr_assert_eq(weight(0), 1.0f);
}

static psd_msg_t attach(uint64_t nonce)
{
    psd_msg_t msg = message(PSD_MSG_ATTACH);
    msg.seq = nonce;
    return msg;
}

Test(node, a_peer_that_does_not_know_the_workers_nonce_gets_no_session, .init = setup, .fini = teardown)
{
    psd_msg_t thief = attach(78);
    say(WORKER_PEER + 1, &thief, NULL, 0);
    expect_refusal(PSD_REFUSAL_WORKER, "not yours");
    push(1, ones);
    cr_assert_eq(weight(0), 0.0f);
}

Test(node, a_worker_continues_over_a_new_connection, .init = setup, .fini = teardown)
{
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT), again = attach(NONCE), msg = push_of(1, ones);
    say(WORKER_PEER + 1, &beat, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_HEARTBEAT));
    say(WORKER_PEER + 1, &again, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_ATTACHED));
    say(WORKER_PEER + 1, &msg, ones, sizeof ones);
    cr_assert_eq(weight(0), 0.0f);
}

Test(node, a_heartbeat_in_anothers_name_is_fenced_and_counted, .init = setup, .fini = teardown)
{
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT);
    psd_coordinator_facts_t facts;
    beat.seq = 78;
    say(WORKER_PEER + 1, &beat, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_FENCED));
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_eq(facts.rejected[PSD_REFUSAL_INCARNATION], 1);
}

Test(node, a_session_that_came_before_the_view_is_the_workers_only_with_its_number, .fini = teardown)
{
    make_node("bsp", false);
    incarnation = 1;
    psd_msg_t thief = attach(78);
    thief.incarnation = PSD_MAX_COUNT; /* so that it looks newer than any later life */
    say(WORKER_PEER + 1, &thief, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_ATTACHED));
    join();
    push(1, ones);
    cr_assert_eq(weight(0), 0.0f);
}

Test(node, a_worker_cannot_send_messages_for_another_over_its_own_connection, .init = setup, .fini = teardown)
{
    psd_msg_t msg = push_of(1, ones);
    say(WORKER_PEER + 1, &msg, ones, sizeof ones);
    expect_refusal(PSD_REFUSAL_SESSION, "attach first");
    cr_assert_eq(weight(0), 1.0f);
}

Test(node, messages_of_servers_are_refused_from_a_worker, .init = setup, .fini = teardown)
{
    psd_msg_t msg = message(PSD_MSG_WELCOME);
    say(WORKER_PEER, &msg, NULL, 0);
    expect_refusal(PSD_REFUSAL_SENDER, "WELCOME");
}

static void report(const char *name, double value)
{
    psd_msg_t msg = message(PSD_MSG_REPORT);
    snprintf(msg.text, sizeof msg.text, "%s", name);
    msg.value = value;
    say(WORKER_PEER, &msg, NULL, 0);
}

Test(node, reported_numbers_are_kept_by_name_up_to_a_number_of_names, .init = setup, .fini = teardown)
{
    psd_coordinator_facts_t facts;
    char name[16];
    report("val/loss", 0.5);
    report("val/accuracy", 0.9);
    report("val/loss", 0.25);
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_eq(facts.n_reports, 2);
    cr_assert_str_eq(facts.report[0].name, "val/loss");
    cr_assert_eq(facts.report[0].value, 0.25);
    cr_assert_str_eq(facts.report[1].name, "val/accuracy");
    cr_assert_eq(facts.report[1].value, 0.9);
    for (int i = 0; i < 2 * PSD_MAX_REPORTS; i++) {
        snprintf(name, sizeof name, "more/%d", i);
        report(name, i);
    }
    report("val/accuracy", 0.95);
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_eq(facts.n_reports, PSD_MAX_REPORTS);
    cr_assert_eq(facts.report[1].value, 0.95);
}

Test(node, a_job_that_was_stopped_is_finished_and_reports_that_it_was_stopped, .init = setup, .fini = teardown)
{
    psd_coordinator_facts_t facts;
    psd_node_stop(node, now, &out);
    for (int i = 0; i < 200; i++)
        psd_node_tick(node, now += 50, &out);
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_eq(facts.state, PSD_JOB_FINISHED);
    cr_assert(facts.stopped);
}

Test(node, a_push_for_another_shard_is_refused, .init = setup, .fini = teardown)
{
    psd_msg_t msg = push_of(1, ones);
    msg.shard = 3;
    say(WORKER_PEER, &msg, ones, sizeof ones);
    expect_refusal(PSD_REFUSAL_SHARD, "this is shard 0, the message is for shard 3");
}

Test(node, a_chunk_of_another_size_is_refused, .init = setup, .fini = teardown)
{
    psd_msg_t msg = push_of(1, ones);
    msg.n_elements = 3;
    say(WORKER_PEER, &msg, ones, 3 * sizeof *ones);
    expect_refusal(PSD_REFUSAL_SHAPE, "3 elements");
}

Test(node, another_protocol_is_refused_as_such, .init = setup, .fini = teardown)
{
    psd_actions_drop(&out, out.n);
    psd_node_malformed(node, WORKER_PEER, PSD_PROTOCOL + 1, "protocol is 3, this side speaks 2", &out);
    expect_refusal(PSD_REFUSAL_PROTOCOL, "speaks 2");
}

/* Time passes as in a process that is scheduled regularly. */
static void pass(uint64_t ms)
{
    psd_actions_drop(&out, out.n);
    for (const uint64_t end = now + ms; now < end;) {
        now += end - now < 100 ? end - now : 100;
        psd_node_tick(node, now, &out);
    }
}

static bool is_given_up(void) { return psd_coordinator_members(psd_node_coordinator(node))->row[0].state == PSD_WORKER_LOST; }

Test(node, a_silent_worker_is_given_up_after_its_lease_and_then_fenced, .init = setup, .fini = teardown)
{
    pass(1001);
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_eq(facts.state, PSD_JOB_DEGRADED);
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT);
    say(WORKER_PEER, &beat, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_FENCED));
    cr_expect_not_null(strstr(answer(PSD_MSG_FENCED)->text, "worker 0 incarnation 1 was given up: it has sent nothing"), "%s",
                       answer(PSD_MSG_FENCED)->text);
}

Test(node, a_silence_while_the_server_was_suspended_does_not_count, .init = setup, .fini = teardown)
{
    psd_node_tick(node, now += 6000, &out);
    cr_expect(!is_given_up(), "the server was away itself");
    pass(1000);
    cr_expect(!is_given_up(), "after a long absence every worker has a full lease");
    pass(1);
    cr_expect(is_given_up(), "and no more than that");
}

Test(node, a_short_absence_extends_a_lease_by_its_length, .init = setup, .fini = teardown)
{
    pass(600);
    psd_node_tick(node, now += 400, &out);
    pass(400);
    cr_expect(!is_given_up());
    pass(1);
    cr_expect(is_given_up());
}

Test(node, any_message_of_a_worker_to_server_0_renews_its_lease, .init = setup, .fini = teardown)
{
    psd_msg_t probe = message(PSD_MSG_PROBE);
    const uint8_t lacking = 1;
    probe.parts = 1;
    pass(900);
    say(WORKER_PEER, &probe, &lacking, 1);
    pass(900);
    cr_expect(!is_given_up());
    probe.incarnation--; /* of an earlier life */
    say(WORKER_PEER, &probe, &lacking, 1);
    probe.incarnation++;
    say(psd_peer_make(PEER + 1, 2), &probe, &lacking, 1); /* of another user */
    pass(101);
    cr_expect(is_given_up());
}

/* -- a model of two windows of initial values: 128 chunks of 64 KiB */

enum { CHUNK = 1 << 14, CHUNKS = 128 };
static float values[CHUNK];

static size_t n_answers(psd_kind_t kind)
{
    size_t n = 0;
    for (size_t i = 0; i < out.n; i++)
        n += out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind;
    return n;
}

/* How many chunks the first INIT_WANTED among the answers asks for. */
static unsigned wanted(void)
{
    unsigned n = 0;
    for (size_t i = 0; i < out.n && !n; i++)
        for (uint32_t p = 0; p < CHUNKS && out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_INIT_WANTED; p++)
            n += psd_bitmap_get(out.at[i].payload->data, p);
    return n;
}

static void send_init(uint32_t part)
{
    psd_msg_t msg = message(PSD_MSG_INIT);
    msg.part = part;
    msg.parts = CHUNKS;
    msg.n_elements = CHUNK;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(values, sizeof values);
    say(WORKER_PEER, &msg, values, sizeof values);
}

static void send_probe(uint64_t seq, uint64_t answered, uint32_t code)
{
    const uint8_t lacking[CHUNKS / 8] = { 0x81 };
    psd_msg_t msg = message(PSD_MSG_PROBE);
    msg.seq = seq;
    msg.code = code;
    msg.base_version = answered;
    msg.parts = CHUNKS;
    say(WORKER_PEER, &msg, lacking, sizeof lacking);
}

static void setup_large(void)
{
    part_elements = CHUNK;
    make_node("bsp", false);
    hello("mnist a:1", NONCE);
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    psd_msg_t attach = message(PSD_MSG_ATTACH);
    say(WORKER_PEER, &attach, NULL, 0);
    enrol(CHUNK * CHUNKS);
}

Test(node, initial_values_are_asked_for_by_windows_and_each_chunk_once, .init = setup_large, .fini = teardown)
{
    cr_assert_eq(wanted(), 64, "4 MiB");
    cr_assert_eq(answer(PSD_MSG_INIT_WANTED)->seq, 1);
    pass(400);
    cr_expect_eq(wanted(), 0, "it may be on its way");
    for (uint32_t p = 0; p < 31; p++) {
        send_init(p);
        cr_expect_eq(wanted(), 0);
    }
    send_init(31);
    cr_expect_eq(wanted(), 32, "half of the window has come");
    unsigned more = 0;
    for (uint32_t p = 32; p < CHUNKS; p++) {
        send_init(p);
        more += wanted();
    }
    cr_expect_eq(more, 32);
    cr_expect_eq(n_answers(PSD_MSG_WEIGHTS), CHUNKS);
}

Test(node, a_silent_link_is_asked_again_by_the_same_number_and_a_lost_chunk_by_another, .init = setup_large, .fini = teardown)
{
    pass(600);
    cr_assert_eq(wanted(), 64);
    cr_expect_eq(answer(PSD_MSG_INIT_WANTED)->seq, 1, "so a worker that has answered does not answer again");
    send_init(0);
    send_probe(1, 0, 0);
    cr_expect_eq(wanted(), 0, "it was sent before the worker had heard");
    send_probe(2, 1, 0);
    cr_expect_eq(wanted(), 64, "the requested parts were sent earlier, but have not come");
    cr_expect_eq(answer(PSD_MSG_INIT_WANTED)->seq, 2);
}

Test(node, a_probe_has_weights_sent_again_only_when_it_says_so, .init = setup_large, .fini = teardown)
{
    for (uint32_t p = 0; p < CHUNKS; p++)
        send_init(p);
    send_probe(7, 3, 0);
    cr_expect_eq(n_answers(PSD_MSG_WEIGHTS), 0, "they may be on their way");
    cr_assert_not_null(answer(PSD_MSG_PROGRESS));
    cr_expect_eq(answer(PSD_MSG_PROGRESS)->seq, 7);
    send_probe(8, 3, PSD_PROBE_SEND);
    cr_expect_eq(n_answers(PSD_MSG_WEIGHTS), 2);
}

static bool is_finished(void)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_FINISH)
            return true;
    return false;
}

/* The milliseconds until the process ends, in ticks of 50. */
static unsigned ends_after(void)
{
    for (unsigned ms = 50;; ms += 50) {
        pass(50);
        if (is_finished() || ms > 60000)
            return ms;
    }
}

Test(node, server_0_stays_while_a_worker_asks_whether_it_may_go_because_an_answer_was_lost, .init = setup, .fini = teardown)
{
    psd_msg_t leave = message(PSD_MSG_LEAVE);
    say(WORKER_PEER, &leave, NULL, 0);
    for (int i = 0; i < 10; i++)
        pass(200);
    cr_assert_not(is_finished());
    say(WORKER_PEER + 1, &leave, NULL, 0); /* over another connection */
    cr_assert_not_null(answer(PSD_MSG_LEFT));
    leave.code = PSD_LEAVE_KNOWS;
    say(WORKER_PEER + 1, &leave, NULL, 0);
    cr_expect(ends_after() <= 100);
}

Test(node, a_worker_that_confirms_nothing_keeps_server_0_for_as_long_as_it_would_take_to_ask_again, .init = setup, .fini = teardown)
{
    const psd_msg_t leave = message(PSD_MSG_LEAVE);
    say(WORKER_PEER, &leave, NULL, 0);
    const unsigned ms = ends_after();
    cr_expect(ms > 2000 && ms < 4000, "%u", ms);
}

Test(node, the_job_is_finished_when_its_workers_say_so, .init = setup, .fini = teardown)
{
    psd_msg_t leave = message(PSD_MSG_LEAVE);
    say(WORKER_PEER, &leave, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_LEFT));
    leave.code = PSD_LEAVE_KNOWS;
    say(WORKER_PEER, &leave, NULL, 0);
    cr_assert_null(answer(PSD_MSG_LEFT));
    psd_node_tick(node, now, &out); /* the end is written into the log */
    psd_node_tick(node, now, &out); /* the shard has read it */
    bool finished = false;
    for (size_t i = 0; i < out.n; i++)
        finished |= out.at[i].act == PSD_ACT_FINISH && out.at[i].level == PSD_OK;
    cr_assert(finished);
}

Test(node, a_stale_push_is_dropped_and_answered_with_fresh_weights, .init = setup_asp, .fini = teardown)
{
    for (uint64_t clock = 1; clock <= 2; clock++)
        push(clock, ones);
    cr_assert_eq(weight(0), -1.0f);
    push(3, ones); /* base_version is 0, and the shard is at 2: staleness 2, but at most 1 is allowed */
    cr_assert_eq(weight(0), -1.0f);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
    cr_assert_eq(answer(PSD_MSG_WEIGHTS)->n_elements, 4, "without them it would stay as old as it is");
    cr_assert_eq(answer(PSD_MSG_WEIGHTS)->value, 16, "its samples have made no step");
    cr_assert_eq(psd_engine_samples(psd_node_engine(node)), 16);
    cr_assert_eq(refused(PSD_REFUSAL_STALE), 1);
}

/* ---- custom modes: the state machines do what the answers of a row require ---- */

static psd_push_t every_second(const psd_progress_t *p) { return p->push % 2 ? PSD_PUSH_STEPS : PSD_PUSH_DROPS; }

static void drop_every_second(const char *mode)
{
    static psd_mode_t toy;
    toy = *psd_mode_find(mode);
    toy.whole_push = every_second;
    own_mode = &toy;
    make_node(mode, false);
    join();
    for (uint64_t clock = 1; clock <= 4; clock++) {
        psd_msg_t msg = push_of(clock, ones);
        msg.base_version = psd_engine_version(psd_node_engine(node));
        say(WORKER_PEER, &msg, ones, sizeof ones);
        cr_assert_not_null(answer(PSD_MSG_WEIGHTS), "the worker goes on after clock %u", (unsigned)clock);
    }
    cr_expect_eq(weight(0), -1.0f, "two of four pushes are steps");
    cr_expect_eq(psd_engine_version(psd_node_engine(node)), 2);
}

Test(node, a_mode_that_drops_every_second_push_makes_half_of_the_steps, .fini = teardown) { drop_every_second("asp"); }

Test(node, a_mode_with_rounds_that_drops_every_second_push_makes_half_of_the_steps, .fini = teardown)
{
    drop_every_second("bsp");
    cr_expect_eq(psd_engine_clock(psd_node_engine(node)), 4, "but closes all of the rounds");
}

Test(node, a_second_server_with_other_settings_is_refused_naming_both, .init = setup, .fini = teardown)
{
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = 5 };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://there:1 mode=y");
    say(WORKER_PEER + 2, &msg, NULL, 0);
    expect_refusal(PSD_REFUSAL_CONFIG, "ours mode=x, theirs mode=y");
}

Test(node, a_server_of_another_job_is_refused_naming_both, .init = setup, .fini = teardown)
{
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = 5 };
    snprintf(msg.text, sizeof msg.text, "cifar tcp://there:1 mode=x");
    say(WORKER_PEER + 2, &msg, NULL, 0);
    expect_refusal(PSD_REFUSAL_JOB, "this is job mnist, you belong to job cifar");
}

/* ---- an operator ---- */

#define OPERATOR_PEER (UINT64_C(1) << 63 | (PEER + 9))

static void request(uint64_t seq, const char *text, double value)
{
    psd_msg_t msg = { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL, .seq = seq, .value = value };
    snprintf(msg.text, sizeof msg.text, "%s", text);
    say(OPERATOR_PEER, &msg, NULL, 0);
}

static const char *granted(void) { return answer(PSD_MSG_ADMIN) ? answer(PSD_MSG_ADMIN)->text : "nothing"; }

static psd_job_state_t state(void)
{
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    return facts.state;
}

Test(node, a_paused_job_closes_no_round_until_it_is_resumed, .init = setup, .fini = teardown)
{
    request(1, "mnist pause", 0);
    cr_assert_str_eq(granted(), "paused after round 0; run psdctl resume to continue");
    cr_assert_eq(state(), PSD_JOB_PAUSED);
    push(1, ones);
    cr_assert_eq(weight(0), 1.0f);
    request(2, "mnist resume", 0);
    cr_assert_eq(weight(0), 0.0f, "1 - 1 * 1: the push that had come makes its round");
    cr_assert_eq(state(), PSD_JOB_TRAINING);
    request(3, "mnist resume", 0);
    cr_assert_str_eq(granted(), "it was not paused; it is at round 1");
}

Test(node, in_asp_pushes_wait_while_the_job_is_paused, .init = setup_asp, .fini = teardown)
{
    request(1, "mnist pause", 0);
    push(1, ones);
    cr_assert_eq(weight(0), 1.0f);
    request(2, "mnist resume", 0);
    cr_assert_eq(weight(0), 0.0f);
}

Test(node, a_drain_reaches_the_worker_with_its_heartbeat_and_succeeds_when_it_has_left, .init = setup, .fini = teardown)
{
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT), leave = message(PSD_MSG_LEAVE);
    leave.code = 1;
    say(WORKER_PEER, &beat, NULL, 0);
    cr_assert_eq(answer(PSD_MSG_HEARTBEAT)->code, 0);
    request(7, "mnist drain 3", 0);
    expect_refusal(PSD_REFUSAL_CONFIG, "there is no worker 3");
    request(8, "mnist drain a:1", 0);
    cr_assert_not_null(answer(PSD_MSG_WAIT));
    say(WORKER_PEER, &beat, NULL, 0);
    cr_assert_eq(answer(PSD_MSG_HEARTBEAT)->code, PSD_HEARTBEAT_DRAIN);
    say(WORKER_PEER, &leave, NULL, 0);
    request(8, "mnist drain a:1", 0);
    cr_assert_str_eq(granted(), "worker 0 has left; 0 are here, fewer than workers.min: rounds wait for another");
}

Test(node, a_granted_drain_does_not_drain_the_next_holder_of_the_place, .init = setup, .fini = teardown)
{
    psd_msg_t leave = message(PSD_MSG_LEAVE);
    leave.code = 1;
    request(8, "mnist drain 0", 0);
    say(WORKER_PEER, &leave, NULL, 0);
    hello("mnist b:2", NONCE + 1);
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    request(8, "mnist drain 0", 0);
    cr_assert_not_null(answer(PSD_MSG_ADMIN));
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT);
    beat.seq = NONCE + 1;
    say(WORKER_PEER, &beat, NULL, 0);
    cr_assert_eq(answer(PSD_MSG_HEARTBEAT)->code, 0);
}

Test(node, an_operator_sets_the_learning_rate_within_its_limits, .init = setup, .fini = teardown)
{
    request(1, "mnist set optimizer.lr", 0.5);
    cr_assert_str_eq(granted(), "optimizer.lr is 0.5 from the next step on");
    push(1, ones);
    cr_assert_eq(weight(0), 0.5f, "1 - 0.5 * 1");
    request(2, "mnist set optimizer.lr", -1);
    expect_refusal(PSD_REFUSAL_CONFIG, "only optimizer.lr can be set, from 0 to 1e+09");
    request(3, "mnist set optimizer.lr", NAN);
    expect_refusal(PSD_REFUSAL_CONFIG, "only optimizer.lr can be set");
    request(4, "mnist set optimizer.momentum", 0.5);
    expect_refusal(PSD_REFUSAL_CONFIG, "only optimizer.lr can be set");
}

Test(node, requests_that_make_no_sense_are_refused_saying_why, .init = setup, .fini = teardown)
{
    request(1, "other pause", 0);
    expect_refusal(PSD_REFUSAL_JOB, "this is job mnist, you ask for job other");
    static const char *const bad[] = { "mnist", "mnist dance", "mnist pause now", "mnist drain", "mnist drain 0 1", "" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        request(2 + i, bad[i], 0);
        cr_assert_not_null(answer(PSD_MSG_REFUSED), "%s", bad[i]);
    }
    request(20, "mnist save", 0);
    expect_refusal(PSD_REFUSAL_CONFIG, "checkpoint.dir");
}

/* Let time pass, tick by tick; returns whether the node has ended meanwhile, with its code and sentence. */
static bool ends_within(uint64_t ms, int *code, char text[PSD_MAX_TEXT])
{
    for (uint64_t end = now + ms; now < end;) {
        now += 50;
        psd_actions_drop(&out, out.n);
        psd_node_tick(node, now, &out);
        for (size_t i = 0; i < out.n; i++)
            if (out.at[i].act == PSD_ACT_FINISH) {
                *code = out.at[i].level;
                snprintf(text, PSD_MAX_TEXT, "%s", out.at[i].msg.text);
                return true;
            }
    }
    return false;
}

/* ---- checkpoints ---- */

static void setup_checkpoints(void)
{
    make_node("bsp", true);
    join();
}

static size_t asked(psd_act_t act)
{
    size_t n = 0;
    for (size_t i = 0; i < out.n; i++)
        n += out.at[i].act == act;
    return n;
}

static void tick(uint64_t later_ms)
{
    psd_actions_drop(&out, out.n);
    psd_node_tick(node, now += later_ms, &out);
}

/* The file is written and durable; the resulting actions stay in `out`. */
static void save_file(void)
{
    psd_actions_drop(&out, out.n);
    psd_node_save_begun(node, now, &out);
    cr_assert_eq(asked(PSD_ACT_SAVE_PART), 1);
    psd_actions_drop(&out, out.n);
    psd_node_part_saved(node, now, 0, &out);
    cr_assert_eq(asked(PSD_ACT_SAVE_END), 1);
    psd_actions_drop(&out, out.n);
    psd_node_saved(node, now, NULL, &out);
}

Test(node, a_file_that_is_durable_is_not_written_again_when_its_manifest_could_not_be, .init = setup_checkpoints, .fini = teardown)
{
    tick(100);
    cr_assert_eq(asked(PSD_ACT_SAVE_BEGIN), 1);
    save_file();
    cr_assert_eq(asked(PSD_ACT_COMMIT), 1);
    psd_node_committed(node, now, 0, "cannot write /x: No space left on device", &out);
    tick(1001); /* tried again after a second */
    cr_assert_eq(asked(PSD_ACT_SAVE_BEGIN), 0);
    cr_assert_eq(asked(PSD_ACT_COMMIT), 1);
}

Test(node, a_save_that_is_asked_for_is_done_when_a_newer_checkpoint_is_safe, .init = setup_checkpoints, .fini = teardown)
{
    tick(100);
    save_file();
    psd_node_committed(node, now, 0, NULL, &out);
    request(1, "mnist save", 0);
    cr_expect_str_eq(granted(), "checkpoint 0 is safe", "nothing was trained since");
    push(1, ones);
    tick(100);
    request(2, "mnist save", 0);
    cr_assert_not_null(answer(PSD_MSG_WAIT), "%s", granted());
    cr_expect_str_eq(answer(PSD_MSG_WAIT)->text, "the checkpoint is being written");
    for (int i = 0; i < 20 && !asked(PSD_ACT_SAVE_BEGIN); i++)
        tick(50);
    cr_assert_eq(asked(PSD_ACT_SAVE_BEGIN), 1);
    request(2, "mnist save", 0);
    cr_expect_not_null(answer(PSD_MSG_WAIT), "the question is repeated: %s", granted());
    save_file();
    psd_node_committed(node, now, 1, NULL, &out);
    request(2, "mnist save", 0);
    cr_expect_str_eq(granted(), "checkpoint 1 is safe");
}

Test(node, a_save_that_fails_is_told_to_the_operator_and_the_next_request_saves_again, .init = setup_checkpoints, .fini = teardown)
{
    tick(100);
    save_file();
    psd_node_committed(node, now, 0, NULL, &out);
    push(1, ones);
    tick(100);
    request(2, "mnist save", 0);
    for (int i = 0; i < 20 && !asked(PSD_ACT_SAVE_BEGIN); i++)
        tick(50);
    psd_node_saved(node, now, "No space left on device", &out);
    tick(50);
    request(2, "mnist save", 0);
    expect_refusal(PSD_REFUSAL_CONFIG, "the checkpoint could not be written (the servers' logs say why); the one before stays the "
                                       "newest");
    tick(1000);
    request(3, "mnist save", 0);
    cr_assert_not_null(answer(PSD_MSG_WAIT), "%s", granted());
    for (int i = 0; i < 40 && !asked(PSD_ACT_SAVE_BEGIN); i++)
        tick(50);
    request(3, "mnist save", 0);
    cr_expect_not_null(answer(PSD_MSG_WAIT), "the one before has failed, and not this one");
    save_file();
    psd_node_committed(node, now, 1, NULL, &out);
    request(3, "mnist save", 0);
    cr_expect_str_eq(granted(), "checkpoint 1 is safe");
}

/* Let every attempt at the first checkpoint fail for this long; returns the code of the end, or -1. */
static int without_room(uint64_t ms, char text[PSD_MAX_TEXT])
{
    for (uint64_t end = now + ms; now < end;) {
        tick(50);
        for (size_t i = 0; i < out.n; i++)
            if (out.at[i].act == PSD_ACT_FINISH) {
                snprintf(text, PSD_MAX_TEXT, "%s", out.at[i].msg.text);
                return out.at[i].level;
            }
        if (asked(PSD_ACT_SAVE_BEGIN))
            psd_node_saved(node, now, "cannot write /x: No space left on device", &out);
        psd_msg_t beat = message(PSD_MSG_HEARTBEAT);
        say(WORKER_PEER, &beat, NULL, 0);
    }
    return -1;
}

static void no_first_checkpoint(const char *mode)
{
    char text[PSD_MAX_TEXT] = "";
    psd_coordinator_facts_t facts;
    patience_ms = 5000;
    make_node(mode, true);
    join();
    push(1, ones);
    cr_assert_eq(without_room(3000, text), -1, "%s", text);
    cr_expect_eq(weight(0), 1.0f, "nothing is trained");
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_expect_eq(facts.state, PSD_JOB_DEGRADED);
    cr_expect(facts.lacks_first_point);
    cr_expect_str_eq(facts.waiting_for, "the first checkpoint, before which nothing is trained; it cannot be made: server 0: "
                                        "cannot write /x: No space left on device");
    cr_assert_eq(without_room(5000, text), PSD_EIO, "%s", text);
    cr_expect(strstr(text, "no checkpoint could be made for 5 s (join_timeout)") && strstr(text, "/x: No space left"), "%s", text);
}

Test(node, a_first_checkpoint_that_cannot_be_made_is_waited_for_for_join_timeout, .fini = teardown) { no_first_checkpoint("bsp"); }

Test(node, in_asp_a_first_checkpoint_that_cannot_be_made_is_waited_for_for_join_timeout, .fini = teardown)
{
    no_first_checkpoint("asp");
}

Test(node, a_stop_does_not_wait_for_a_first_checkpoint_that_cannot_be_made, .init = setup_checkpoints, .fini = teardown)
{
    char text[PSD_MAX_TEXT] = "";
    cr_assert_eq(without_room(1000, text), -1, "without a bound: %s", text);
    psd_node_stop(node, now, &out);
    cr_assert_eq(without_room(500, text), PSD_ESTOPPED, "%s", text);
    cr_expect(strstr(text, "no checkpoint could be made: server 0: cannot write /x"), "%s", text);
}

Test(node, a_round_that_waits_for_the_first_checkpoint_says_so, .init = setup_checkpoints, .fini = teardown)
{
    psd_coordinator_facts_t facts;
    push(1, ones);
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_eq(facts.clock, 0);
    cr_assert_str_eq(facts.waiting_for, "the first checkpoint");
}

Test(node, a_job_that_ends_reports_that_it_waits_for_its_last_checkpoint, .init = setup_checkpoints, .fini = teardown)
{
    psd_coordinator_facts_t facts;
    psd_msg_t leave = message(PSD_MSG_LEAVE);
    say(WORKER_PEER, &leave, NULL, 0);
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_assert_str_eq(facts.waiting_for, "the last checkpoint (number 0)");
}

Test(node, a_finished_worker_that_was_given_up_stays_until_the_last_weights_are_safe, .init = setup_checkpoints, .fini = teardown)
{
    psd_msg_t leave = message(PSD_MSG_LEAVE);
    pass(1001); /* its lease */
    say(WORKER_PEER, &leave, NULL, 0);
    cr_assert_null(answer(PSD_MSG_LEFT));
    save_file();
    psd_node_committed(node, now, 0, NULL, &out);
    tick(100);
    cr_assert_not_null(answer(PSD_MSG_LEFT));
}

static void setup_asp_checkpoints(void)
{
    make_node("asp", true);
    join();
}

Test(node, in_asp_pushes_wait_for_the_first_checkpoint_and_the_next_has_the_next_number, .init = setup_asp_checkpoints,
     .fini = teardown)
{
    const psd_engine_t *engine = psd_node_engine(node);
    tick(100);
    cr_assert_eq(asked(PSD_ACT_SAVE_BEGIN), 1);
    cr_assert_eq(psd_engine_point(engine)->clock, 1);
    push(1, ones);
    cr_assert_eq(weight(0), 1.0f, "only this shard has the initial weights");
    save_file();
    psd_node_committed(node, now, 1, NULL, &out);
    run_work();
    cr_assert_eq(weight(0), 0.0f);
    tick(300); /* the shard reports its progress */
    psd_node_request_save(node);
    tick(100);
    cr_assert_eq(asked(PSD_ACT_SAVE_BEGIN), 1);
    cr_assert_eq(psd_engine_point(engine)->clock, 2);
    cr_assert_eq(psd_engine_point(engine)->applied[0].samples, 1);
    save_file();
    cr_assert_eq(asked(PSD_ACT_COMMIT), 1);
}

Test(node, in_asp_a_job_that_is_stopped_takes_up_no_push_and_ends_with_all_that_was_trained, .init = setup_asp_checkpoints,
     .fini = teardown)
{
    tick(100);
    save_file();
    psd_node_committed(node, now, 1, NULL, &out);
    push(1, ones);
    cr_assert_eq(weight(0), 0.0f);
    psd_actions_drop(&out, out.n);
    psd_node_stop(node, now, &out);
    bool begun = asked(PSD_ACT_SAVE_BEGIN);
    push(2, ones);
    cr_expect_eq(weight(0), 0.0f, "otherwise the checkpoint would be outdated before it is made");
    for (int i = 0; i < 100 && state() != PSD_JOB_FINISHED; i++) {
        if (!begun) {
            tick(50);
            begun = asked(PSD_ACT_SAVE_BEGIN);
            continue;
        }
        begun = false;
        const uint64_t number = psd_engine_point(psd_node_engine(node))->clock;
        cr_assert_eq(psd_engine_point(psd_node_engine(node))->applied[0].samples, 1);
        save_file();
        psd_node_committed(node, now, number, NULL, &out);
    }
    cr_assert_eq(state(), PSD_JOB_FINISHED);
}

/* Workers 0 and 1 of a job that wants two; worker 1 has its own connection, and is silent from then on. */
static void join_two(const char *mode, bool checkpoints)
{
    enum { OTHER_NONCE = NONCE + 100 };
    const psd_peer_t other = UINT64_C(1) << 63 | (PEER + 1);
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    workers_min = 2;
    make_node(mode, checkpoints);
    hello("mnist a:1", NONCE);
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    psd_msg_t msg = message(PSD_MSG_ATTACH);
    say(WORKER_PEER, &msg, NULL, 0);
    enrol(4);
    msg = message(PSD_MSG_HELLO);
    msg.seq = OTHER_NONCE;
    snprintf(msg.text, sizeof msg.text, "mnist b:2");
    say(other, &msg, NULL, 0);
    cr_assert_eq(answer(PSD_MSG_WELCOME)->worker, 1);
    msg = message(PSD_MSG_REGISTER);
    msg.worker = 1;
    msg.seq = OTHER_NONCE;
    msg.incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    say(other, &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
    psd_msg_t init = chunk(PSD_MSG_INIT, initial);
    say(WORKER_PEER, &init, initial, sizeof initial);
    cr_assert_eq(state(), PSD_JOB_TRAINING);
}

static bool not_ahead(const psd_progress_t *p) { return p->slowest + 1 >= p->push - 1; }

Test(node, a_worker_that_is_ahead_gets_its_weights_when_the_mode_lets_it, .fini = teardown)
{
    static psd_mode_t toy;
    toy = *psd_mode_find("asp");
    toy.may_pull = not_ahead;
    own_mode = &toy;
    join_two("asp", false);
    push(1, ones);
    cr_expect_not_null(answer(PSD_MSG_WEIGHTS), "one clock ahead of worker 1");
    psd_msg_t msg = push_of(2, ones);
    msg.base_version = 1;
    say(WORKER_PEER, &msg, ones, sizeof ones);
    cr_expect_eq(weight(0), -1.0f, "the push is a step");
    cr_expect_null(answer(PSD_MSG_WEIGHTS), "two ahead");
    msg = push_of(1, ones);
    msg.worker = 1;
    const psd_peer_t other = UINT64_C(1) << 63 | (PEER + 1);
    psd_msg_t attaches = attach(NONCE + 100);
    attaches.worker = 1;
    say(other, &attaches, NULL, 0);
    msg.base_version = 2;
    say(other, &msg, ones, sizeof ones);
    cr_expect_eq(weight(0), -2.0f);
    unsigned to_both = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_WEIGHTS)
            to_both |= 1u << out.at[i].msg.worker;
    cr_expect_eq(to_both, 3, "worker 1 gets its weights, and worker 0 the ones it waited for");
}

Test(node, in_asp_pushes_wait_while_too_few_workers_are_here, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    patience_ms = 3000;
    join_two("asp", false);
    push(1, ones);
    cr_assert_eq(weight(0), 0.0f);
    bool ended = false;
    for (uint64_t clock = 2, i = 0; i < 200 && !ended; i++) {
        psd_msg_t beat = message(PSD_MSG_HEARTBEAT);
        say(WORKER_PEER, &beat, NULL, 0);
        if (state() == PSD_JOB_DEGRADED && clock == 2)
            push(clock++, ones);
        ended = ends_within(100, &code, text);
    }
    cr_expect_eq(weight(0), 0.0f, "no step is made below workers.min");
    cr_assert(ended, "join_timeout bounds the wait");
    cr_expect_eq(code, PSD_EUNAVAILABLE);
    cr_expect(strstr(text, "worker 1 (b:2), silent for"), "%s", text);
}

Test(node, a_workers_id_belongs_only_to_its_user, .init = setup, .fini = teardown)
{
    const psd_peer_t other = psd_peer_make(PEER + 1, 2);
    psd_msg_t msg = message(PSD_MSG_HELLO);
    snprintf(msg.text, sizeof msg.text, "mnist b:2");
    say(other, &msg, NULL, 0); /* with the nonce of worker 0 */
    expect_refusal(PSD_REFUSAL_WORKER, "worker id 0 belongs to another user");
    msg.seq = 78;
    msg.code = 1;
    say(other, &msg, NULL, 0); /* asking for its id */
    expect_refusal(PSD_REFUSAL_WORKER, "worker id 0 belongs to another user");
    static const psd_kind_t kinds[] = { PSD_MSG_HEARTBEAT, PSD_MSG_LEAVE, PSD_MSG_SETTING };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        msg = message(kinds[i]);
        say(other, &msg, NULL, 0);
        cr_expect_not_null(answer(PSD_MSG_FENCED), "%s", psd_kind_name(kinds[i]));
    }
    pass(1001); /* its lease is over */
    msg = message(PSD_MSG_HELLO);
    msg.seq = 79;
    snprintf(msg.text, sizeof msg.text, "mnist b:2");
    say(other, &msg, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_WELCOME));
    cr_expect_eq(answer(PSD_MSG_WELCOME)->worker, 1, "another place");
    msg.seq = 80;
    msg.code = 1;
    say(WORKER_PEER, &msg, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_WELCOME));
    cr_expect_eq(answer(PSD_MSG_WELCOME)->worker, 0, "and worker 0's user takes its own again");
}

/* ---- weights that are lost ---- */

static bool ends_lost(const char *words)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    const bool ended = ends_within(10000, &code, text);
    cr_expect(strstr(text, "no checkpoint to go back to") && strstr(text, words), "%s", text);
    return ended && code == PSD_EREFUSED;
}

Test(node, a_worker_that_has_trained_ends_the_job_of_a_server_0_that_knows_nothing_of_it, .fini = teardown)
{
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    make_node("bsp", false);
    hello("mnist a:1", NONCE);
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    psd_msg_t msg = message(PSD_MSG_REGISTER);
    msg.clock = 200;
    say(WORKER_PEER, &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
    expect_refusal(PSD_REFUSAL_LOST, "server 0 was started again");
    cr_expect_null(answer(PSD_MSG_REGISTERED));
    hello("mnist b:2", NONCE + 1);
    expect_refusal(PSD_REFUSAL_LOST, "server 0 was started again");
    cr_assert(ends_lost("worker 0 (a:1) had trained"));
}

/* Server 1 of two joins; `start` counts its starts. */
static void server_1(uint64_t start, uint64_t nonce)
{
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = start << 16 | nonce, .code = 2 };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://there:1 mode=x");
    say(psd_peer_make(9, 3), &msg, NULL, 0);
}

/* Server 1 reports the commands that it has carried out, and the pushes that it has. */
static void server_1_says(uint64_t seq, uint64_t version, const psd_member_t *complete)
{
    uint8_t bytes[256];
    psd_round_t round = { .clock = 1, .n_contributors = complete ? 1 : 0, .contributor = (psd_member_t *)(uintptr_t)complete };
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_STATE,
                      .protocol = PSD_PROTOCOL,
                      .job = JOB,
                      .shard = 1,
                      .seq = seq,
                      .version = version,
                      .view_id = facts.view_id,
                      .code = PSD_SHARD_STARTED };
    say(psd_peer_make(9, 3), &msg, bytes, psd_round_encode(&round, bytes, sizeof bytes));
}

static void with_server_1_started_again(const char *mode, bool trained)
{
    n_servers = 2; /* one of which has no chunk, because the model is a single chunk */
    make_node(mode, false);
    server_1(1, 1);
    cr_assert_not_null(answer(PSD_MSG_SHARD_WELCOME));
    hello("mnist a:1", NONCE);
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    psd_msg_t msg = message(PSD_MSG_ATTACH);
    say(WORKER_PEER, &msg, NULL, 0);
    enrol(4);
    msg = chunk(PSD_MSG_INIT, initial);
    say(WORKER_PEER, &msg, initial, sizeof initial);
    if (trained && !strcmp(mode, "bsp"))
        push(1, ones);
    server_1_says(2, trained, trained ? &(psd_member_t){ .worker = 0, .incarnation = incarnation, .samples = 8 } : NULL);
    for (int i = 0; i < 60; i++)
        tick(50); /* the earlier process is silent */
    server_1(2, 1);
}

Test(node, a_server_that_is_started_again_ends_a_job_that_has_trained_and_has_no_checkpoint, .fini = teardown)
{
    with_server_1_started_again("bsp", true);
    expect_refusal(PSD_REFUSAL_LOST, "server 1 was started again");
    cr_assert(ends_lost("server 1 was started again"));
}

Test(node, in_asp_a_server_that_is_started_again_ends_a_job_that_has_trained_and_has_no_checkpoint, .fini = teardown)
{
    with_server_1_started_again("asp", true);
    expect_refusal(PSD_REFUSAL_LOST, "server 1 was started again");
}

Test(node, a_server_that_is_started_again_before_anything_was_trained_takes_its_place, .fini = teardown)
{
    with_server_1_started_again("bsp", false);
    cr_expect_null(answer(PSD_MSG_REFUSED));
    cr_assert_not_null(answer(PSD_MSG_SHARD_WELCOME));
}

static void setup_impatient(void)
{
    patience_ms = 3000;
    make_node("bsp", false);
    join();
}

Test(node, a_job_that_misses_a_worker_for_too_long_ends_and_names_it, .init = setup_impatient, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    psd_coordinator_facts_t facts;
    cr_assert_not(ends_within(3900, &code, text), "1000 ms of lease, then 3000 of patience: %s", text);
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_expect_eq(facts.state, PSD_JOB_DEGRADED);
    cr_expect_eq(facts.n_lost_workers, 1);
    cr_expect_eq(facts.n_absent, 2);
    cr_assert(ends_within(300, &code, text));
    cr_expect_eq(code, PSD_EUNAVAILABLE);
    cr_expect(strstr(text, "0 of 1 workers are here; worker 0 (a:1), silent for"), "%s", text);
}

Test(node, patience_starts_again_when_the_lost_worker_is_back, .init = setup_impatient, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    cr_assert_not(ends_within(3900, &code, text), "%s", text);
    hello("mnist b:2", NONCE + 1); /* takes the place, and then is silent */
    incarnation = answer(PSD_MSG_WELCOME)->incarnation;
    psd_msg_t beat = message(PSD_MSG_REGISTER);
    beat.seq = NONCE + 1;
    uint8_t bytes[256];
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    psd_tensor_list_t list = { .n = 1, .tensor = &tensor };
    say(WORKER_PEER, &beat, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
    cr_assert_not(ends_within(3900, &code, text), "%s", text);
    cr_assert(ends_within(500, &code, text));
}

Test(node, a_paused_job_waits_without_limit, .init = setup_impatient, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    request(1, "mnist pause", 0);
    cr_assert_not(ends_within(20000, &code, text), "%s", text);
    request(2, "mnist resume", 0);
    cr_assert(ends_within(3500, &code, text));
}

/* ---- gradients and weights in a code ---- */

static void setup_codes(void)
{
    codings = (psd_codings_t){ { psd_codec_find("sign"), 0 }, { psd_codec_find("bf16"), 0 } };
    setup();
}

static void teardown_codes(void)
{
    codings = (psd_codings_t){ 0 };
    teardown();
}

/* A push of clock 1 whose payload is `n` bytes of `code`. */
static psd_msg_t coded_push(const uint8_t *code, size_t n)
{
    psd_msg_t msg = push_of(1, initial);
    msg.codec = psd_coding_number(&codings.push);
    msg.checksum = psd_crc32c(code, n);
    return msg;
}

Test(node, a_coded_push_steps_along_its_decoded_values_and_weights_are_sent_in_their_own_codec, .init = setup_codes,
     .fini = teardown_codes)
{
    uint8_t code[16];
    float back[4];
    const size_t n = psd_coding_bytes(&codings.push, 4);
    psd_coding_encode(&codings.push, (float[]){ 0.01f, -0.01f, 0.03f, 0 }, NULL, 4, code);
    psd_coding_decode(&codings.push, code, 4, 0, 4, back);
    psd_msg_t msg = coded_push(code, n);
    say(WORKER_PEER, &msg, code, n);
    cr_assert_null(answer(PSD_MSG_REFUSED));
    for (size_t i = 0; i < 4; i++)
        cr_expect_eq(weight(i), initial[i] - back[i]);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS));
    cr_expect_eq(answer(PSD_MSG_WEIGHTS)->codec, psd_coding_number(&codings.pull));
}

Test(node, a_push_that_is_no_code_of_its_part_is_refused_with_the_reason, .init = setup_codes, .fini = teardown_codes)
{
    uint8_t code[32] = { 0 };
    const size_t n = psd_coding_bytes(&codings.push, 4);
    for (size_t bytes = 1; bytes <= 32; bytes++) {
        psd_msg_t msg = coded_push(code, bytes);
        if (bytes == n)
            continue;
        say(WORKER_PEER, &msg, code, bytes);
        cr_assert_not_null(answer(PSD_MSG_REFUSED), "%zu bytes", bytes);
        cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_SHAPE);
    }
    psd_msg_t msg = coded_push(code, n);
    msg.codec = PSD_CODEC_F32;
    msg.checksum = psd_crc32c(initial, sizeof initial);
    say(WORKER_PEER, &msg, initial, sizeof initial);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "push of part 0 in codec 1; this job's gradients are sign");
    const float nan = NAN;
    memcpy(code, &nan, sizeof nan); /* the scale */
    code[4] = 1;
    msg = coded_push(code, n);
    say(WORKER_PEER, &msg, code, n);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_SHAPE);
    msg.checksum++;
    say(WORKER_PEER, &msg, code, n);
    cr_assert_null(answer(PSD_MSG_REFUSED), "a part damaged on its way is requested again");
    cr_assert_not_null(answer(PSD_MSG_PROGRESS));
    cr_expect_eq(psd_engine_stats(psd_node_engine(node))->messages, 0);
}

/* ---- followers ---- */

enum { FOLLOWER_PEER = WORKER_PEER + 50 };

static void follow(uint64_t number, uint32_t code)
{
    uint8_t bytes[256];
    const psd_hello_t us = { .job = "mnist", .name = "eye" };
    const psd_msg_t msg = {
        .kind = PSD_MSG_FOLLOW, .protocol = PSD_PROTOCOL, .job = number ? JOB : 0, .seq = 31, .clock = number, .code = code
    };
    say(FOLLOWER_PEER, &msg, bytes, psd_hello_encode(&us, bytes, sizeof bytes));
}

static void read_part(uint64_t number)
{
    const psd_msg_t msg = { .kind = PSD_MSG_READ, .protocol = PSD_PROTOCOL, .job = JOB, .seq = 31, .clock = number, .parts = 1 };
    say(FOLLOWER_PEER, &msg, &(uint8_t[]){ 1 }, 1);
}

static float value_read(size_t i)
{
    for (size_t k = 0; k < out.n; k++)
        if (out.at[k].act == PSD_ACT_SEND && out.at[k].msg.kind == PSD_MSG_VALUES && out.at[k].payload)
            return ((const float *)out.at[k].payload->data)[i];
    return NAN;
}

Test(node, a_follower_reads_the_weights_of_one_version_while_steps_are_made, .init = setup, .fini = teardown)
{
    follow(0, PSD_FOLLOW_MODEL);
    cr_assert_not_null(answer(PSD_MSG_MODEL));
    cr_assert_not_null(answer(PSD_MSG_FOLLOWED));
    const uint64_t number = answer(PSD_MSG_FOLLOWED)->clock;
    cr_expect_eq(answer(PSD_MSG_FOLLOWED)->seq, 31);
    push(1, ones);
    cr_assert_not_null(answer(PSD_MSG_WEIGHTS), "no round waits for a follower");
    cr_expect_eq(weight(1), 1.0f);
    read_part(number);
    cr_assert_not_null(answer(PSD_MSG_VALUES));
    cr_expect_eq(answer(PSD_MSG_VALUES)->version, 0);
    cr_expect_eq(value_read(1), 2.0f, "as it was before that step");
    follow(number, 0);
    cr_assert_not_null(answer(PSD_MSG_FOLLOWED));
    cr_expect_eq(answer(PSD_MSG_FOLLOWED)->clock, number, "it still reads this one");
    follow(0, 0);
    cr_assert_not_null(answer(PSD_MSG_FOLLOWED));
    read_part(answer(PSD_MSG_FOLLOWED)->clock);
    now += 300;
    follow(0, 0);
    cr_assert_gt(answer(PSD_MSG_FOLLOWED)->clock, number);
    read_part(answer(PSD_MSG_FOLLOWED)->clock);
    cr_expect_eq(answer(PSD_MSG_VALUES)->version, 1);
    cr_expect_eq(value_read(1), 1.0f);
    read_part(number);
    cr_assert_not_null(answer(PSD_MSG_VALUES));
    cr_expect(isnan(value_read(1)), "the older one is gone");
    cr_expect_eq(psd_coordinator_members(psd_node_coordinator(node))->n_rows, 1, "a follower is not a worker");
}

Test(node, a_snapshot_without_readers_is_dropped, .init = setup, .fini = teardown)
{
    follow(0, 0);
    cr_expect_null(answer(PSD_MSG_MODEL), "it was not asked for");
    const uint64_t number = answer(PSD_MSG_FOLLOWED)->clock;
    for (int i = 0; i < 30; i++) {
        now += 250;
        psd_actions_clear(&out);
        psd_node_tick(node, now, &out);
    }
    read_part(number);
    cr_assert_not_null(answer(PSD_MSG_VALUES));
    cr_expect(isnan(value_read(1)));
}

Test(node, a_follower_of_another_job_is_refused_and_one_of_a_job_without_weights_waits, .init = setup, .fini = teardown)
{
    uint8_t bytes[256];
    const psd_hello_t us = { .job = "cifar", .name = "eye" };
    const psd_msg_t msg = { .kind = PSD_MSG_FOLLOW, .protocol = PSD_PROTOCOL, .seq = 31 };
    say(FOLLOWER_PEER, &msg, bytes, psd_hello_encode(&us, bytes, sizeof bytes));
    expect_refusal(PSD_REFUSAL_JOB, "cifar");
}
