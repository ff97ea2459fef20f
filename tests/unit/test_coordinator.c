#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "server/core/coordinator.h"
#include "server/core/journal.h"
#include "tests/support/logged.h"
#include "tests/support/said.h"

TestSuite(coordinator, .timeout = 600);

/* A coordinator of two servers; the test sends the messages of both, also of its own server, and of the workers. */
enum { JOB = 9, SERVERS = 2, MOST = 4, LEASE_MS = 60000, WANT_MS = PSD_WANT_MS };

static psd_coordinator_t *coordinator;
static psd_coordinator_config_t config;
static psd_actions_t out; /* the actions of the last event, and of the ticks since */
static uint64_t now = 1000, run = JOB, seq, start[SERVERS], incarnation[MOST], life[MOST];

static const char *optimizer = "sgd", *recipe = "";

static psd_peer_t peer_of_server(uint32_t s) { return s ? psd_peer_make(100 + s, 3) : PSD_PEER_OWN_SHARD; }
static psd_peer_t peer_of(uint32_t worker) { return UINT64_C(1) << 63 | (5 + worker); }

static void make(const char *mode)
{
    static const psd_job_settings_t settings = { .text = "x", .mode = "x", .optimizer = "sgd", .part_elements = 8 };
    config.job = "mnist";
    config.job_id = JOB;
    config.settings = &settings;
    config.n_servers = SERVERS;
    config.lease_ms = config.lease_ms ? config.lease_ms : LEASE_MS;
    config.workers_want = config.workers_want ? config.workers_want : config.workers_min;
    config.mode = psd_mode_find(mode);
    config.lr = 1;
    cr_assert_eq(psd_groups_parse(&config.groups, optimizer, "", NULL), PSD_OK);
    cr_assert_not_null(coordinator = psd_coordinator_new(&config, NULL));
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

static bool asked(psd_act_t act)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == act)
            return true;
    return false;
}

/* The newest COMMAND to that server, and its round; NULL when there is none. */
static const psd_msg_t *command_to(uint32_t server, const psd_round_t **round)
{
    const psd_msg_t *found = NULL;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_COMMAND && out.at[i].to == peer_of_server(server)) {
            found = &out.at[i].msg;
            if (round)
                *round = psd_body_round(out.at[i].payload);
        }
    return found;
}

static void hear(psd_peer_t from, psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *body = said_with(msg, payload, n);
    psd_actions_drop(&out, out.n);
    psd_coordinator_message(coordinator, now, from, msg, body, &out);
    const psd_msg_t *welcome = answer(PSD_MSG_SHARD_WELCOME);
    if (welcome && welcome->job)
        run = welcome->job;
    psd_buf_unref(&body);
}

static void tick(void)
{
    now += 50;
    psd_coordinator_tick(coordinator, now, &out);
}

/* The resulting actions stay in `out`. */
static void pass(uint64_t ms)
{
    psd_actions_drop(&out, out.n);
    for (const uint64_t end = now + ms; now < end;)
        tick();
}

/* ---- servers ---- */

static void server_joins(uint32_t s)
{
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = (10 * s + start[s] + 1) << 16, .code = s + 1 };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://host:%u x", s);
    hear(peer_of_server(s), &msg, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_SHARD_WELCOME), "%s", answer(PSD_MSG_REFUSED) ? answer(PSD_MSG_REFUSED)->text : "");
}

static psd_coordinator_facts_t facts(void)
{
    psd_coordinator_facts_t f;
    psd_coordinator_facts(coordinator, &f);
    return f;
}

static uint64_t n_samples = 8; /* of each push */
static unsigned spoilt;        /* workers, as bits, whose pushes have Inf or NaN */

/* Server `s` has carried out all its commands, has made `version` steps, and has whole pushes of these workers (as bits) for the
 * open round. */
static void server_says(uint32_t s, uint64_t version, unsigned workers, uint32_t code, uint64_t saved)
{
    uint8_t bytes[1024];
    psd_member_t complete[MOST];
    const psd_coordinator_facts_t f = facts();
    psd_round_t state = { .clock = f.clock + 1, .contributor = complete };
    for (uint32_t w = 0; w < MOST; w++)
        if (workers >> w & 1)
            complete[state.n_contributors++] = (psd_member_t){
                .worker = w, .incarnation = incarnation[w], .samples = n_samples, .loss = 1, .nonfinite = spoilt >> w & 1
            };
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_STATE,
                      .protocol = PSD_PROTOCOL,
                      .job = run,
                      .shard = s,
                      .seq = seq,
                      .clock = f.clock,
                      .version = version,
                      .view_id = f.view_id,
                      .saved = saved,
                      .code = PSD_SHARD_STARTED | code };
    hear(peer_of_server(s), &msg, bytes, psd_round_encode(&state, bytes, sizeof bytes));
}

/* ---- workers ---- */

static psd_msg_t of_worker(psd_kind_t kind, uint32_t w)
{
    return (psd_msg_t){
        .kind = kind, .protocol = PSD_PROTOCOL, .job = run, .worker = w, .incarnation = incarnation[w], .seq = 70 + w + 10 * life[w]
    };
}

static void worker_says(psd_kind_t kind, uint32_t w)
{
    psd_msg_t msg = of_worker(kind, w);
    hear(peer_of(w), &msg, NULL, 0);
}

static const psd_msg_t *worker_greets(uint32_t w)
{
    psd_msg_t msg = of_worker(PSD_MSG_HELLO, w);
    snprintf(msg.text, sizeof msg.text, "mnist host%u", w);
    hear(peer_of(w), &msg, NULL, 0);
    return answer(PSD_MSG_WELCOME);
}

static uint32_t n_tensors = 1;     /* of the model, each of 4 elements */
static psd_inherited_t *inherited; /* by each of them; NULL: nothing */
static uint64_t n_rows;            /* of an epoch, as workers say */
enum { MOST_TENSORS = 16 };

static void worker_registers(uint32_t w)
{
    uint8_t bytes[1024];
    psd_tensor_desc_t tensor[MOST_TENSORS];
    for (uint32_t t = 0; t < n_tensors; t++) {
        tensor[t] = (psd_tensor_desc_t){ .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
        snprintf(tensor[t].name, sizeof tensor[t].name, "w%u", t);
    }
    psd_tensor_list_t list = { .n = n_tensors, .tensor = tensor, .inherited = inherited, .rows = n_rows };
    const psd_msg_t *welcome = worker_greets(w);
    cr_assert_not_null(welcome);
    cr_assert_eq(welcome->worker, w);
    incarnation[w] = welcome->incarnation;
    psd_msg_t msg = of_worker(PSD_MSG_REGISTER, w);
    snprintf(msg.text, sizeof msg.text, "%s", recipe);
    hear(peer_of(w), &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
}

static void worker_joins(uint32_t w)
{
    worker_registers(w);
    cr_assert_not_null(answer(PSD_MSG_REGISTERED));
}

static psd_worker_state_t state_of(uint32_t w) { return psd_coordinator_members(coordinator)->row[w].state; }

/* A job in training with `n` workers. */
static void begin(const char *mode, uint32_t workers)
{
    config.workers_min = config.workers_min ? config.workers_min : workers;
    make(mode);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    for (uint32_t w = 0; w < workers; w++)
        worker_joins(w);
    cr_assert_eq(facts().state, PSD_JOB_TRAINING);
    seq = command_to(0, NULL) ? command_to(0, NULL)->seq : seq;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 0, 0, 0);
}

static bool ends_within(uint64_t ms, int *code, char text[PSD_MAX_TEXT])
{
    for (const uint64_t end = now + ms; now < end;) {
        psd_actions_drop(&out, out.n);
        tick();
        for (size_t i = 0; i < out.n; i++)
            if (out.at[i].act == PSD_ACT_FINISH) {
                *code = out.at[i].level;
                snprintf(text, PSD_MAX_TEXT, "%s", out.at[i].msg.text);
                return true;
            }
    }
    return false;
}

/* ---- round_timeout ---- */

static void setup_timeout(void)
{
    config.round_timeout_ms = 2000;
    config.workers_min = 1;
    config.workers_want = 3;
    begin("bsp", 3);
}

Test(coordinator, round_timeout_gives_up_exactly_those_that_are_late, .init = setup_timeout, .fini = teardown)
{
    server_says(0, 0, 1 | 2, 0, 0); /* worker 1's push is at one server, worker 2's at none */
    server_says(1, 0, 1, 0, 0);
    pass(1900);
    cr_expect_eq(facts().n_members, 3, "there is time yet");
    pass(200);
    cr_expect_eq(state_of(0), PSD_WORKER_LIVE);
    cr_expect_eq(state_of(1), PSD_WORKER_LOST);
    cr_expect_eq(state_of(2), PSD_WORKER_LOST);
    cr_expect_eq(facts().clock, 1, "and the round is closed without them");
}

Test(coordinator, round_timeout_gives_no_worker_up_when_none_has_pushed, .init = setup_timeout, .fini = teardown)
{
    server_says(0, 0, 1, 0, 0); /* one server is not all of them */
    pass(10000);
    cr_expect_eq(facts().n_members, 3);
}

Test(coordinator, round_timeout_begins_again_with_each_round_and_after_a_pause, .init = setup_timeout, .fini = teardown)
{
    pass(1500);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 7, 0, 0);
    cr_assert_eq(facts().clock, 1);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 1, 1, 0, 0);
    pass(1900);
    cr_expect_eq(facts().n_members, 3, "the round before took its own time");
    psd_coordinator_pause(coordinator, now, true, &out);
    pass(5000);
    psd_coordinator_pause(coordinator, now, false, &out);
    pass(1900);
    cr_expect_eq(facts().n_members, 3, "no worker is late during a pause");
    pass(200);
    cr_expect_eq(facts().n_members, 1);
}

/* ---- the end ---- */

Test(coordinator, a_lost_worker_is_waited_for_only_so_long_at_the_end, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    config.lease_ms = 1000;
    config.patience_ms = 5000;
    begin("bsp", 2);
    worker_says(PSD_MSG_LEAVE, 0);
    cr_assert_eq(state_of(0), PSD_WORKER_LEFT);
    pass(1000);
    cr_assert_not(ends_within(4900, &code, text), "worker 1 may come back: %s", text);
    cr_expect_eq(facts().state, PSD_JOB_DEGRADED);
    cr_assert(ends_within(10000, &code, text));
    cr_expect_eq(code, PSD_EUNAVAILABLE);
    cr_expect(strstr(text, "of 2 workers 1 has finished, and 0 are here"), "%s", text);
}

Test(coordinator, where_lost_workers_are_dropped_the_others_work_is_all, .fini = teardown)
{
    int code = -1;
    char text[PSD_MAX_TEXT] = "";
    config.lease_ms = 1000;
    config.drops_lost = true;
    begin("bsp", 2);
    worker_says(PSD_MSG_LEAVE, 0);
    cr_assert(ends_within(7000, &code, text), "1 s of lease, and 4 s for the servers to read the end");
    cr_expect_eq(code, PSD_OK);
    cr_expect_str_eq(text, "1 of 2 workers has finished; worker 1 (host1) was lost and not replaced, at round 0");
}

Test(coordinator, the_last_checkpoint_is_waited_for_only_so_long, .fini = teardown)
{
    int code = -1;
    char text[PSD_MAX_TEXT] = "";
    config.checkpoints = true;
    begin("bsp", 1);
    worker_says(PSD_MSG_LEAVE, 0);
    cr_expect_null(answer(PSD_MSG_LEFT), "its work may have to be done again");
    cr_expect_not(ends_within(10000, &code, text));
    now += 60000; /* server 0 is suspended */
    cr_expect_not(ends_within(19800, &code, text));
    cr_expect_eq(state_of(0), PSD_WORKER_DONE);
    cr_expect_not(ends_within(4000, &code, text), "the servers have not confirmed that they know");
    cr_expect_eq(state_of(0), PSD_WORKER_LEFT);
    cr_expect_eq(facts().state, PSD_JOB_FINISHED);
    now += 60000;
    cr_expect_not(ends_within(100, &code, text));
    cr_expect(ends_within(4000, &code, text));
}

/* ---- quarantine ---- */

/* A round of both workers, in which the pushes of these have Inf or NaN. */
static void make_round(unsigned bad)
{
    const uint64_t clock = facts().clock;
    spoilt = bad;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 3, 0, 0);
    spoilt = 0;
    cr_assert_eq(facts().clock, clock + 1);
    seq = command_to(0, NULL)->seq;
}

Test(coordinator, a_worker_is_quarantined_after_that_many_bad_pushes_in_a_row, .fini = teardown)
{
    config.quarantine_after = 3;
    config.workers_min = 1;
    begin("bsp", 2);
    static const unsigned rounds[] = { 2, 2, 0, 2, 2, 1, 2, 2 }; /* which workers' pushes are bad in each round */
    for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++) {
        make_round(rounds[i]);
        cr_expect_eq(state_of(1), PSD_WORKER_LIVE, "after round %zu", i + 1);
    }
    cr_expect_eq(facts().workers_quarantined, 0);
    make_round(2);
    cr_expect_eq(state_of(1), PSD_WORKER_LOST);
    cr_expect_eq(state_of(0), PSD_WORKER_LIVE);
    cr_expect_eq(facts().workers_quarantined, 1);
    cr_expect_eq(facts().workers_lost, 1);
    cr_expect_not_null(answer(PSD_MSG_FENCED));
}

/* ---- inherited state ---- */

Test(coordinator, a_worker_with_state_that_the_job_does_not_keep_is_refused_and_gives_up_its_place, .fini = teardown)
{
    config.workers_min = 1;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    inherited = &(psd_inherited_t){ .t = 7, .arrays = 1 };
    worker_registers(0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(
        answer(PSD_MSG_REFUSED)->text,
        "worker 0 starts with optimizer state that this job does not keep: tensor w0 with arrays 0x1 and 0 scalars, of which "
        "sgd keeps 0 and 0; give all the same optimizer");
    cr_expect_eq(state_of(0), PSD_WORKER_LEFT);
    inherited = &(psd_inherited_t){ .t = 7 };
    life[0]++;
    worker_joins(0);
    cr_expect_eq(facts().state, PSD_JOB_TRAINING);
    inherited = NULL;
}

/* ---- followers ---- */

enum { FOLLOWER = 40 };

static void follower_asks(uint32_t who, uint64_t number)
{
    uint8_t bytes[256];
    const psd_hello_t us = { .job = "mnist", .name = "eye" };
    psd_msg_t msg = { .kind = PSD_MSG_FOLLOW, .protocol = PSD_PROTOCOL, .job = number ? run : 0, .seq = 31, .clock = number };
    hear(peer_of(FOLLOWER + who), &msg, bytes, psd_hello_encode(&us, bytes, sizeof bytes));
}

/* The number of the snapshot that a follower may read now; 0: none. */
static uint64_t snapshot(void) { return answer(PSD_MSG_FOLLOWED) ? answer(PSD_MSG_FOLLOWED)->clock : 0; }

Test(coordinator, a_follower_of_a_job_that_has_ended_is_told_how, .fini = teardown)
{
    begin("bsp", 1);
    psd_coordinator_stop(coordinator, now, &out);
    follower_asks(0, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "job mnist was stopped; its weights are in its checkpoints");
    teardown();
    out = (psd_actions_t){ 0 };
    run = JOB;
    begin("bsp", 1);
    worker_says(PSD_MSG_LEAVE, 0);
    follower_asks(0, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "job mnist is finished; its weights are in its checkpoints");
}

Test(coordinator, followers_share_a_snapshot_until_the_job_has_trained_on, .fini = teardown)
{
    begin("bsp", 1);
    follower_asks(0, 0);
    const uint64_t first = snapshot();
    cr_assert(first && command_to(1, NULL) && command_to(1, NULL)->code & PSD_COMMAND_SNAPSHOT);
    now += 60000;
    follower_asks(1, 0);
    cr_expect_eq(snapshot(), first, "the weights are still those");
    cr_expect_null(command_to(1, NULL));
    seq = first;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0);
    cr_assert_eq(facts().clock, 1);
    now += 2000;
    const uint64_t present = run;
    run++;
    follower_asks(2, first);
    run = present;
    cr_expect_gt(snapshot(), first, "the snapshot of that number in another run is not this one");
    follower_asks(3, 0);
    const uint64_t second = snapshot();
    cr_expect_gt(second, first);
    now += 60000;
    follower_asks(4, 0);
    cr_expect_eq(snapshot(), second, "the weights are still those after one round");
}

/* ---- the health of tensors ---- */

/* All servers have looked at their tensors in step `step`, of which the first `n_dead` have only zeros for gradients. The actions
 * of the last message stay in `out`. */
static void servers_look(uint64_t step, uint32_t n_dead)
{
    static const double
        dead[PSD_LOOK_TERMS] = { [PSD_LOOK_N] = 4, [PSD_LOOK_ZEROS] = 4, [PSD_LOOK_WEIGHT2] = 16 },
        well[PSD_LOOK_TERMS] = {
            [PSD_LOOK_N] = 4, [PSD_LOOK_GRADIENT2] = 4, [PSD_LOOK_WEIGHT2] = 16, [PSD_LOOK_UPDATE2] = 1e-4, [PSD_LOOK_RATE] = 1
        };
    psd_partition_t map;
    uint64_t sizes[MOST_TENSORS];
    for (uint32_t t = 0; t < n_tensors; t++)
        sizes[t] = 4;
    cr_assert_eq(psd_partition_make(&map, sizes, n_tensors, SERVERS, PSD_MOST_OF_PART, NULL), PSD_OK);
    for (uint32_t s = 0; s < SERVERS; s++) {
        double terms[MOST_TENSORS][PSD_LOOK_TERMS];
        for (uint32_t i = 0; i < map.n_held[s]; i++)
            memcpy(terms[i], map.chunk[map.held[s][i]].tensor < n_dead ? dead : well, sizeof terms[i]);
        psd_msg_t msg = { .kind = PSD_MSG_LOOK,
                          .protocol = PSD_PROTOCOL,
                          .job = run,
                          .shard = s,
                          .version = step,
                          .parts = map.n_held[s],
                          .n_elements = PSD_LOOK_TERMS };
        if (map.n_held[s])
            hear(peer_of_server(s), &msg, terms, map.n_held[s] * sizeof *terms);
    }
    psd_partition_clear(&map);
}

/* The number of lines with this id among the actions; `text` and `level`: of the last one. */
static int level;
static unsigned count_lines(const char *id, char text[PSD_MAX_TEXT]) { return logged(&out, id, text, &level); }

Test(coordinator, a_look_after_which_many_tensors_are_dead_logs_eight_of_them_and_the_number_of_the_others, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    n_tensors = 12;
    begin("bsp", 1);
    for (uint64_t step = 1; step < 5; step++)
        servers_look(step, 11);
    cr_expect_eq(count_lines("tensor.dead", text), 0);
    servers_look(5, 11);
    cr_expect_eq(count_lines("tensor.dead", text), 8);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect(strstr(text, "tensor=\"w7\" step=5 reason=\"all its gradients were 0 in the last 5 looks"), "%s", text);
    cr_expect_eq(count_lines("tensor.more", text), 1);
    cr_expect_str_eq(text, "tensors=3 step=5");
    servers_look(6, 0);
    cr_expect_eq(count_lines("tensor.recovered", text), 8);
    cr_expect_eq(level, PSD_LEVEL_INFO);
    cr_expect_str_eq(text, "tensor=\"w7\" step=6");
    servers_look(7, 0);
    cr_expect_eq(count_lines("tensor.recovered", text) + count_lines("tensor.more", text), 0);
}

Test(coordinator, each_life_of_worker_0_gets_the_figures_of_the_newest_look_once, .fini = teardown)
{
    config.workers_min = 1;
    begin("bsp", 2);
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_null(answer(PSD_MSG_HEALTH), "there was no look yet");
    servers_look(1, 0);
    worker_says(PSD_MSG_HEARTBEAT, 1);
    cr_expect_null(answer(PSD_MSG_HEALTH), "only worker 0 records the run");
    for (unsigned k = 0; k < 2; k++) {
        worker_says(PSD_MSG_HEARTBEAT, 0);
        cr_assert_not_null(answer(PSD_MSG_HEALTH), "life %u", k);
        cr_expect_eq(answer(PSD_MSG_HEALTH)->version, 1);
        worker_says(PSD_MSG_HEARTBEAT, 0);
        cr_expect_null(answer(PSD_MSG_HEALTH), "it has these");
        if (k)
            break;
        psd_msg_t leaves = of_worker(PSD_MSG_LEAVE, 0);
        leaves.code = 1;
        hear(peer_of(0), &leaves, NULL, 0);
        life[0]++;
        incarnation[0] = 0;
        worker_joins(0);
    }
    servers_look(2, 0);
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_assert_not_null(answer(PSD_MSG_HEALTH));
    cr_expect_eq(answer(PSD_MSG_HEALTH)->version, 2);
}

/* ---- where each push is a step ---- */

Test(coordinator, no_round_is_foretold_where_there_are_none, .fini = teardown)
{
    config.foretell_from = 2;
    begin("asp", 2);
    psd_err_t err;
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "me", &out, &err), PSD_OK);
    cr_assert_not_null(command_to(0, NULL));
    cr_expect_eq(command_to(0, NULL)->code & (PSD_COMMAND_SAME | PSD_COMMAND_EVEN), 0);
    teardown();
    begin("bsp", 2);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 3, 0, 0);
    cr_assert_not_null(command_to(0, NULL));
    cr_expect(command_to(0, NULL)->code & PSD_COMMAND_EVEN);
}

Test(coordinator, in_asp_a_learning_rate_reaches_every_shard_at_once, .fini = teardown)
{
    psd_err_t err;
    begin("asp", 2);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "me", &out, &err), PSD_OK);
    for (uint32_t s = 0; s < SERVERS; s++) {
        const psd_round_t *round = NULL;
        cr_assert_not_null(command_to(s, &round), "server %u", s);
        cr_expect_eq(round->lr, 0.25, "server %u", s);
        cr_expect_eq(round->n_members, 2, "server %u", s);
    }
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "me", &out, &err), PSD_OK);
    cr_expect_null(command_to(0, NULL), "it has not changed");
}

/* Server `s` has rejected so many pushes in a row of worker `w` in that incarnation. */
static void server_rejects(uint32_t s, uint32_t w, uint64_t of_incarnation, uint64_t n)
{
    uint8_t bytes[256];
    psd_member_t bad = { .worker = w, .incarnation = of_incarnation, .samples = n, .nonfinite = true };
    const psd_coordinator_facts_t f = facts();
    psd_round_t state = { .clock = f.clock + 1, .contributor = &bad, .n_contributors = 1 };
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_STATE,
                      .protocol = PSD_PROTOCOL,
                      .job = run,
                      .shard = s,
                      .seq = seq,
                      .view_id = f.view_id,
                      .code = PSD_SHARD_STARTED };
    hear(peer_of_server(s), &msg, bytes, psd_round_encode(&state, bytes, sizeof bytes));
}

Test(coordinator, in_asp_a_worker_whose_pushes_any_server_has_rejected_often_enough_is_given_up_once, .fini = teardown)
{
    config.quarantine_after = 3;
    config.workers_min = 1;
    begin("asp", 2);
    server_rejects(0, 1, incarnation[1], 2);
    server_rejects(1, 1, incarnation[1] - 1, 3);
    cr_expect_eq(state_of(1), PSD_WORKER_LIVE, "2 in a row, and 3 of an older life");
    server_rejects(1, 1, incarnation[1], 3);
    cr_expect_eq(state_of(1), PSD_WORKER_LOST);
    cr_assert_not_null(answer(PSD_MSG_FENCED));
    cr_expect_not_null(strstr(answer(PSD_MSG_FENCED)->text, "3 of its gradients in a row had Inf or NaN (sync.quarantine_after)"));
    for (uint32_t s = 0; s < SERVERS; s++) {
        const psd_round_t *round = NULL;
        cr_assert_not_null(command_to(s, &round), "server %u", s);
        cr_expect_eq(round->n_members, 1, "server %u", s);
    }
    server_rejects(0, 1, incarnation[1], 3);
    cr_expect_eq(facts().workers_quarantined, 1);
    cr_expect_eq(state_of(0), PSD_WORKER_LIVE);
}

static const psd_msg_t *worker_sets_the_rate(void)
{
    psd_msg_t msg = of_worker(PSD_MSG_SETTING, 0);
    msg.code = 7;
    msg.value = 0.25;
    snprintf(msg.text, sizeof msg.text, "optimizer.lr");
    hear(peer_of(0), &msg, NULL, 0);
    return answer(PSD_MSG_SETTING);
}

Test(coordinator, in_asp_a_worker_that_sets_the_rate_is_answered_when_every_shard_has_it, .fini = teardown)
{
    begin("asp", 1);
    cr_expect_null(worker_sets_the_rate(), "its next push may be faster than the log");
    seq = command_to(0, NULL)->seq;
    for (uint32_t s = 0; s < SERVERS; s++) {
        cr_expect_null(answer(PSD_MSG_SETTING), "server %u has not carried out the log", s);
        server_says(s, 0, 0, 0, 0);
    }
    const psd_msg_t *done = answer(PSD_MSG_SETTING);
    cr_assert_not_null(done);
    cr_expect(done->code == 7 && done->value == 0.25 && !strcmp(done->text, "optimizer.lr"));
    server_says(0, 0, 0, 0, 0);
    cr_expect_null(answer(PSD_MSG_SETTING), "one answer is enough");
    cr_expect_not_null(worker_sets_the_rate(), "a repeated request, which every shard has carried out");
}

static void worker_says_rows(uint32_t w, const char *rows)
{
    psd_msg_t msg = of_worker(PSD_MSG_SETTING, w);
    msg.code = 7;
    snprintf(msg.text, sizeof msg.text, PSD_SETTING_ROWS "%s", rows);
    hear(peer_of(w), &msg, NULL, 0);
}

Test(coordinator, a_worker_that_divides_other_rows_is_refused_naming_both_and_is_no_member_any_longer, .fini = teardown)
{
    begin("asp", 2);
    worker_says_rows(1, "60 rows");
    const psd_msg_t *done = answer(PSD_MSG_SETTING);
    cr_assert_not_null(done);
    cr_expect(done->code == 7 && !strcmp(done->text, "rows=60 rows"));
    worker_says_rows(0, "61 rows");
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text,
                     "worker 0 takes its batches from 61 rows, but worker 1 from 60 rows; give all workers "
                     "the same data and the same values");
    cr_expect_null(answer(PSD_MSG_SETTING));
    cr_expect_eq(state_of(0), PSD_WORKER_LEFT);
    const psd_round_t *round = NULL;
    cr_assert_not_null(command_to(0, &round));
    cr_expect_eq(round->n_members, 1);
}

Test(coordinator, a_rate_that_is_set_is_logged_with_the_one_before_and_by_whom, .fini = teardown)
{
    psd_err_t err;
    begin("bsp", 1);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "operator", &out, &err), PSD_OK);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "worker 0", &out, &err), PSD_OK);
    unsigned n = 0;
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_LOG && !strcmp(out.at[i].id, "optimizer.lr")) {
            n++;
            cr_expect_str_eq(out.at[i].msg.text, "by=\"operator\" lr=0.25 was=1 after_clock=0");
        }
    cr_expect_eq(n, 1, "the same rate again is no news");
    cr_expect_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", -1, "operator", &out, &err), PSD_ECONFIG);
    cr_expect_eq(facts().lr, 0.25);
}

Test(coordinator, in_bsp_a_worker_that_sets_the_rate_is_answered_at_once, .fini = teardown)
{
    begin("bsp", 1);
    cr_expect_not_null(worker_sets_the_rate());
}

Test(coordinator, a_worker_that_joins_is_told_the_learning_rate_in_force, .fini = teardown)
{
    psd_err_t err;
    config.workers_min = 1;
    begin("bsp", 1);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "me", &out, &err), PSD_OK);
    cr_assert_not_null(worker_greets(1));
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_WELCOME)
            cr_expect_eq(psd_body_cluster(out.at[i].payload)->settings.lr, 0.25);
}

Test(coordinator, in_bsp_a_learning_rate_waits_for_the_round_to_close, .fini = teardown)
{
    psd_err_t err;
    const psd_round_t *round = NULL;
    begin("bsp", 1);
    psd_actions_drop(&out, out.n);
    cr_assert_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0.25, "me", &out, &err), PSD_OK);
    cr_expect_null(command_to(0, NULL));
    server_says(0, 0, 1, 0, 0);
    server_says(1, 0, 1, 0, 0);
    for (uint32_t s = 0; s < SERVERS; s++) {
        cr_assert_not_null(command_to(s, &round), "server %u", s);
        cr_expect_eq(round->lr, 0.25, "server %u", s);
    }
}

/* The newest entry orders to hold pushes, and not yet to save. */
static bool holds_only(void)
{
    const psd_msg_t *command = command_to(0, NULL);
    return command && command->code & PSD_COMMAND_HOLD && !(command->code & PSD_COMMAND_SAVE);
}

/* All shards carry out the newest entry. */
static void carry_out(uint64_t version)
{
    seq = command_to(0, NULL)->seq;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, version, 0, 0, 0);
}

/* Both files of the checkpoint that was ordered last are durable, and so is its manifest. */
static void save(uint64_t version)
{
    const psd_msg_t *command = command_to(0, NULL);
    cr_assert(command && command->code & PSD_COMMAND_SAVE);
    seq = command->seq;
    const uint64_t clock = facts().clock;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, version, 0, 0, clock + 1);
    cr_assert(asked(PSD_ACT_COMMIT));
    psd_coordinator_committed(coordinator, now, clock, NULL, &out);
}

Test(coordinator, in_asp_every_steps_counts_pushes_however_many_servers_there_are, .fini = teardown)
{
    config.checkpoints = true;
    config.save_every_rounds = 10;
    begin("asp", 1);
    pass(100);
    save(0); /* the first, of the initial weights */
    for (uint64_t push = 1; push < 10; push++) {
        server_says(0, push, 0, 0, 0);
        server_says(1, push, 0, 0, 0);
        pass(100);
        cr_assert(!command_to(0, NULL) || !(command_to(0, NULL)->code & PSD_COMMAND_SAVE), "%u of 10 pushes", (unsigned)push);
    }
    server_says(0, 10, 0, 0, 0);
    server_says(1, 10, 0, 0, 0);
    pass(100);
    carry_out(10);
    save(10);
    server_says(0, 19, 0, 0, 0);
    server_says(1, 19, 0, 0, 0);
    pass(100);
    cr_expect(!command_to(0, NULL) || !(command_to(0, NULL)->code & PSD_COMMAND_SAVE), "they are counted from the one before");
}

Test(coordinator, in_asp_all_shards_hold_pushes_before_they_save_so_that_their_files_are_at_most_a_push_apart, .fini = teardown)
{
    config.checkpoints = true;
    begin("asp", 1);
    pass(100);
    save(0);
    server_says(0, 7, 0, 0, 0);
    server_says(1, 9, 0, 0, 0);
    psd_coordinator_request_save(coordinator);
    pass(50);
    cr_expect(holds_only());
    seq = command_to(0, NULL)->seq;
    server_says(0, 9, 0, 0, 0);
    pass(1000);
    cr_expect(!command_to(0, NULL) || holds_only(), "server 1 may still make steps");
    server_says(1, 9, 0, 0, 0);
    for (uint32_t s = 0; s < SERVERS; s++) {
        const psd_msg_t *command = command_to(s, NULL);
        cr_assert(command && command->code & PSD_COMMAND_SAVE, "at once, because pushes wait: server %u", s);
        cr_expect_not(command->code & PSD_COMMAND_HOLD, "and then they pass again");
    }
}

/* ---- what it waits for ---- */

Test(coordinator, it_says_whom_and_what_it_waits_for, .fini = teardown)
{
    config.workers_min = 2;
    make("bsp");
    cr_expect_str_eq(facts().waiting_for, "servers 0, 1 of 2");
    server_joins(0);
    cr_expect_str_eq(facts().waiting_for, "servers 1 of 2");
    server_joins(1);
    cr_expect_str_eq(facts().waiting_for, "more workers: 0 of 2 workers have registered");
    worker_joins(0);
    worker_greets(1);
    cr_expect_str_eq(facts().waiting_for, "more workers: 1 of 2 workers have registered, 1 are joining");
    worker_joins(1);
    seq = command_to(0, NULL)->seq;
    cr_expect_str_eq(facts().waiting_for, "pushes of workers 0, 1 (round 1)");
    for (uint32_t s = 0; s < SERVERS; s++) {
        server_says(s, 0, 1, 0, 0);
        cr_expect_str_eq(facts().waiting_for, s ? "pushes of workers 1 (round 1)" : "pushes of workers 0, 1 (round 1)");
    }
    make_round(0);
    cr_expect_str_eq(facts().waiting_for, "pushes of workers 0, 1 (round 2)");
    psd_coordinator_pause(coordinator, now, true, &out);
    cr_expect_str_eq(facts().waiting_for, "an operator to resume it (psdctl resume)");
}

static bool logs_waiting(void)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_LOG && !strcmp(out.at[i].id, "job.waiting"))
            return true;
    return false;
}

Test(coordinator, a_round_is_waited_for_in_the_log_when_it_is_old, .fini = teardown)
{
    begin("bsp", 2);
    for (int i = 0; i < 12; i++) {
        pass(1000);
        cr_expect(!logs_waiting(), "a round a second is training as usual");
        make_round(0);
    }
    char position[64];
    psd_coordinator_describe_position(coordinator, position, sizeof position);
    cr_expect_str_eq(position, "round 12", "however many servers there are");
    pass(11000);
    cr_expect(logs_waiting());
}

Test(coordinator, where_a_schedule_counts_epochs_workers_say_how_many_rows_one_has, .fini = teardown)
{
    config.workers_min = 2;
    config.needs_rows = true;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    static const struct {
        uint32_t worker;
        uint64_t rows;
        bool is_taken;
    } said[] = { { 0, 0, false }, { 0, 60, true }, { 1, 0, false }, { 1, 61, false }, { 1, 60, true } };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        n_rows = said[i].rows;
        life[said[i].worker]++;
        worker_registers(said[i].worker);
        cr_expect_eq(answer(PSD_MSG_REGISTERED) != NULL, said[i].is_taken, "%zu", i);
        if (!said[i].is_taken)
            cr_expect(answer(PSD_MSG_REFUSED) && strstr(answer(PSD_MSG_REFUSED)->text, "schedule.unit is epoch"));
    }
}

/* ---- the start, and another one ---- */

static void setup_want(void)
{
    config.workers_min = 1;
    config.workers_want = 2;
    config.start_timeout_ms = 60000;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
}

Test(coordinator, workers_want_are_waited_for_as_long_as_they_keep_coming, .init = setup_want, .fini = teardown)
{
    worker_joins(0);
    pass(WANT_MS - 100);
    cr_expect_eq(facts().state, PSD_JOB_GATHERING);
    pass(200);
    cr_expect_eq(facts().state, PSD_JOB_TRAINING, "no worker has come since");
}

Test(coordinator, the_pause_for_workers_want_begins_with_the_newest, .fini = teardown)
{
    config.workers_min = 1;
    config.workers_want = 3;
    config.start_timeout_ms = 60000;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    worker_joins(0);
    pass(WANT_MS - 100);
    worker_joins(1);
    pass(WANT_MS - 100);
    cr_expect_eq(facts().state, PSD_JOB_GATHERING, "a third may be on its way");
    pass(200);
    cr_expect_eq(facts().state, PSD_JOB_TRAINING);
}

Test(coordinator, a_worker_that_waits_for_workers_want_sees_the_start_within_half_of_start_timeout, .fini = teardown)
{
    config.workers_min = 1;
    config.workers_want = MOST;
    config.start_timeout_ms = 3 * WANT_MS;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    worker_joins(0);
    pass(WANT_MS - 200);
    worker_joins(1);
    pass(WANT_MS / 2);
    cr_expect_eq(facts().state, PSD_JOB_GATHERING);
    pass(300);
    cr_expect_eq(facts().state, PSD_JOB_TRAINING, "however newly the second has come");
}

Test(coordinator, a_time_in_which_server_0_was_suspended_is_no_pause_for_workers_want, .init = setup_want, .fini = teardown)
{
    worker_joins(0);
    pass(100);
    now += 2 * WANT_MS;
    tick();
    cr_expect_eq(facts().state, PSD_JOB_GATHERING, "the second worker's messages may have come meanwhile");
    pass(WANT_MS - 200);
    cr_expect_eq(facts().state, PSD_JOB_GATHERING);
    pass(200);
    cr_expect_eq(facts().state, PSD_JOB_TRAINING);
}

/* Only server 1 is restarted; the run starts again for all. */
static void restart_server_1(void)
{
    for (uint64_t end = now + 3000; now < end;) { /* its earlier life is silent, but server 0 is not */
        pass(200);
        server_says(0, 0, 0, 0, 0);
    }
    start[1]++;
    server_joins(1);
    server_joins(0);
    seq = 0;
    for (uint32_t w = 0; w < MOST; w++)
        life[w]++;
}

Test(coordinator, after_a_restart_workers_want_is_waited_for_again, .init = setup_want, .fini = teardown)
{
    worker_joins(0);
    worker_joins(1);
    cr_assert_eq(facts().state, PSD_JOB_TRAINING);
    pass(40000); /* longer than half of start_timeout */
    restart_server_1();
    cr_assert_eq(facts().runs, 2);
    worker_joins(0);
    pass(100);
    cr_expect_eq(facts().n_members, 0, "worker 1 is on its way back, as worker 0 was");
    worker_joins(1);
    cr_expect_eq(facts().n_members, 2);
}

Test(coordinator, a_restart_forgets_snapshots_and_the_health_of_tensors, .init = setup_want, .fini = teardown)
{
    worker_joins(0);
    worker_joins(1);
    seq = command_to(0, NULL)->seq;
    servers_look(1, 0);
    follower_asks(0, 0);
    cr_assert(command_to(1, NULL) && command_to(1, NULL)->code & PSD_COMMAND_SNAPSHOT);
    seq = command_to(1, NULL)->seq;
    restart_server_1();
    worker_joins(0);
    worker_joins(1);
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_null(answer(PSD_MSG_HEALTH), "those figures are of the run before");
    const uint64_t present = run;
    run = JOB;
    servers_look(2, 0); /* it was under way */
    run = present;
    cr_expect_eq(psd_coordinator_health(coordinator)->looks, 0);
    cr_expect_eq(facts().rejected[PSD_REFUSAL_SESSION], 1);
    follower_asks(0, 0);
    cr_assert_not_null(answer(PSD_MSG_FOLLOWED));
    cr_expect(command_to(1, NULL) && command_to(1, NULL)->code & PSD_COMMAND_SNAPSHOT, "the shards of this run have none yet");
    servers_look(1, 0);
    cr_expect_eq(psd_coordinator_health(coordinator)->looks, 1);
}

/* ---- a fixed number of workers ---- */

Test(coordinator, a_finished_worker_keeps_its_place_in_a_fixed_job, .fini = teardown)
{
    config.checkpoints = true;
    begin("bsp", 2);
    worker_says(PSD_MSG_LEAVE, 1);
    cr_assert_eq(state_of(1), PSD_WORKER_DONE);
    cr_expect_null(worker_greets(2), "of two workers both have their work, or have done it");
    cr_assert_not_null(answer(PSD_MSG_WAIT));
}

Test(coordinator, where_the_number_is_not_fixed_a_newcomer_gets_a_place_of_its_own, .fini = teardown)
{
    config.checkpoints = true;
    config.workers_min = 1;
    config.workers_want = 2;
    begin("bsp", 2);
    worker_says(PSD_MSG_LEAVE, 1);
    const psd_msg_t *welcome = worker_greets(2);
    cr_assert_not_null(welcome);
    cr_expect_eq(welcome->worker, 2);
}

/* ---- the end, with checkpoints and restarts ---- */

Test(coordinator, a_finished_job_without_any_checkpoint_fails, .fini = teardown)
{
    int code = -1;
    char text[PSD_MAX_TEXT] = "";
    config.checkpoints = true;
    begin("bsp", 1);
    pass(100);
    seq = command_to(0, NULL)->seq;
    server_says(0, 0, 0, PSD_SHARD_SAVE_FAILED, 0);
    worker_says(PSD_MSG_LEAVE, 0);
    cr_assert(ends_within(40000, &code, text));
    cr_expect_eq(code, PSD_EIO);
    cr_expect_str_eq(text,
                     "the last checkpoint could not be made (checkpoint.dir): server 0: the server's log says why; there is none");
}

Test(coordinator, a_job_whose_shards_still_load_their_checkpoint_ends_after_the_last_one, .fini = teardown)
{
    int code = -1;
    char text[PSD_MAX_TEXT] = "";
    config.checkpoints = true;
    begin("asp", 1);
    pass(100);
    save(0);
    restart_server_1();
    cr_assert_eq(facts().runs, 2);
    worker_joins(0);
    worker_says(PSD_MSG_LEAVE, 0);
    cr_assert(psd_coordinator_is_ending(coordinator));
    cr_expect_not(ends_within(10000, &code, text), "neither shard has reported that it has loaded its share");
    cr_expect_neq(facts().state, PSD_JOB_FINISHED);
    carry_out(0);
    pass(100);
    save(0);
    pass(100);
    carry_out(0);
    cr_expect(ends_within(4000, &code, text));
    cr_expect_eq(code, PSD_OK, "%s", text);
}

Test(coordinator, a_job_that_is_stopped_remains_so_when_a_server_is_restarted, .fini = teardown)
{
    config.checkpoints = true;
    begin("bsp", 1);
    psd_coordinator_stop(coordinator, now, &out);
    restart_server_1();
    cr_assert_eq(facts().runs, 2);
    cr_expect(psd_coordinator_is_ending(coordinator));
    cr_expect(facts().stopped);
}

Test(coordinator, the_last_checkpoint_is_made_before_the_job_gives_up_and_the_whole_wait_is_told, .fini = teardown)
{
    config.checkpoints = true;
    config.lease_ms = 1000;
    config.patience_ms = 5000;
    begin("bsp", 2);
    pass(100);
    save(0);
    make_round(0);
    uint64_t asked_ms = 0;
    const uint64_t begun_ms = now;
    for (pass(200); !answer(PSD_MSG_REFUSED) && now < begun_ms + 60000; pass(200)) {
        if (!asked_ms && command_to(0, NULL) && command_to(0, NULL)->code & PSD_COMMAND_SAVE)
            asked_ms = now;
        worker_says(PSD_MSG_HEARTBEAT, 0); /* worker 1 is lost */
        for (uint32_t s = 0; s < SERVERS; s++)
            server_says(s, 1, 0, 0, 0); /* without a word of the checkpoint */
    }
    cr_expect(asked_ms >= begun_ms + 6000 && asked_ms < begun_ms + 7000, "after the lease and join_timeout");
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_not_null(strstr(answer(PSD_MSG_REFUSED)->text, "gave up after 35 s (join_timeout) of waiting for more workers"), "%s",
                       answer(PSD_MSG_REFUSED)->text);
}

Test(coordinator, after_a_long_suspension_every_lease_begins_again, .fini = teardown)
{
    config.lease_ms = 2000;
    config.workers_min = 1;
    config.workers_want = 2;
    begin("bsp", 2);
    pass(1900);
    now += 10000;
    pass(1900);
    cr_expect_eq(facts().n_members, 2, "their messages may have been lost meanwhile");
    pass(200);
    cr_expect_eq(facts().n_members, 0);
    cr_expect_eq(facts().workers_lost, 2);
}

Test(coordinator, one_that_is_lost_before_the_start_counts_too, .fini = teardown)
{
    config.workers_min = 2;
    config.lease_ms = 1000;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    worker_joins(0);
    pass(900);
    cr_expect_eq(state_of(0), PSD_WORKER_WAITING);
    pass(200);
    cr_expect_eq(state_of(0), PSD_WORKER_LOST);
    cr_expect_eq(facts().workers_lost, 1);
}

/* ---- what it tells ---- */

Test(coordinator, each_change_is_a_line_with_its_numbers, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    config.workers_min = 2;
    config.workers_want = 3;
    begin("bsp", 3);
    psd_actions_drop(&out, out.n);
    psd_msg_t leaves = of_worker(PSD_MSG_LEAVE, 2);
    leaves.code = 1;
    leaves.clock = 5;
    hear(peer_of(2), &leaves, NULL, 0);
    cr_expect_eq(count_lines("worker.left", text), 1);
    cr_expect_str_eq(text, "worker=2 name=host2 finished=false clock=5");
    leaves = of_worker(PSD_MSG_LEAVE, 1);
    leaves.code = 1;
    hear(peer_of(1), &leaves, NULL, 0);
    cr_expect_eq(count_lines("job.degraded", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_str_eq(text, "members=1 min=2");
    pass(6000);
    cr_expect_geq(count_lines("job.waiting", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    life[1]++;
    worker_registers(1);
    cr_expect_eq(count_lines("job.training", text), 1);
    cr_expect_eq(level, PSD_LEVEL_INFO);
    cr_expect_str_eq(text, "members=2 min=2");
    cr_expect_eq(count_lines("worker.joined", text), 1);
    char joined[128];
    snprintf(joined, sizeof joined, "worker=1 name=host1 incarnation=%llu view=%llu clock=0", (unsigned long long)incarnation[1],
             (unsigned long long)facts().view_id);
    cr_expect_str_eq(text, joined);
    psd_actions_drop(&out, out.n);
    psd_coordinator_pause(coordinator, now, true, &out);
    cr_expect_eq(count_lines("job.paused", text), 1);
    cr_expect_eq(level, PSD_LEVEL_INFO);
    pass(6000);
    cr_expect_geq(count_lines("job.waiting", text), 1);
    cr_expect_eq(level, PSD_LEVEL_INFO);
}

Test(coordinator, a_worker_that_waits_joins_when_the_round_closes, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    config.workers_min = 1;
    begin("bsp", 1);
    worker_joins(1);
    cr_expect_eq(state_of(1), PSD_WORKER_WAITING);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0);
    cr_expect_eq(state_of(1), PSD_WORKER_LIVE);
    cr_expect_eq(count_lines("worker.joined", text), 1);
    cr_expect(strstr(text, "worker=1 ") && strstr(text, " clock=1"), "it takes part in the next one: %s", text);
}

Test(coordinator, an_end_between_the_rounds_of_a_step_is_warned_of_unless_it_is_a_stop, .fini = teardown)
{
    for (int stopped = 0; stopped < 2; stopped++) {
        char text[PSD_MAX_TEXT];
        config.accumulate = 3;
        begin("bsp", 1);
        spoilt = 0;
        for (uint32_t s = 0; s < SERVERS; s++)
            server_says(s, 0, 1, 0, 0);
        cr_assert_eq(facts().gathered, 1);
        psd_actions_drop(&out, out.n);
        if (stopped)
            psd_coordinator_stop(coordinator, now, &out);
        else
            worker_says(PSD_MSG_LEAVE, 0);
        cr_expect_eq(count_lines("accumulate.incomplete", text), !stopped);
        if (!stopped)
            cr_expect_eq(strncmp(text, "rounds=1 of=3 ", 14), 0, "%s", text);
        cr_expect_eq(count_lines("job.ending", text), 1);
        cr_expect_str_eq(text, stopped ? "clock=1 finished=false" : "clock=1 finished=true");
        teardown();
        out = (psd_actions_t){ 0 };
        run = JOB;
        seq = 0;
    }
    make("bsp");
}

Test(coordinator, a_job_that_gathers_again_counts_work_that_is_done, .fini = teardown)
{
    config.workers_min = 1;
    config.workers_want = 2;
    config.start_timeout_ms = 60000;
    make("asp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    cr_expect_eq(facts().n_shards, SERVERS);
    worker_joins(0);
    worker_joins(1);
    worker_says(PSD_MSG_LEAVE, 1);
    restart_server_1();
    cr_expect_str_eq(facts().waiting_for, "more workers: 1 of 2 workers have registered");
}

Test(coordinator, in_asp_the_first_checkpoint_is_waited_for, .fini = teardown)
{
    config.checkpoints = true;
    begin("asp", 1);
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_str_eq(answer(PSD_MSG_HEARTBEAT)->text, "the first checkpoint");
    pass(100);
    cr_expect_str_eq(facts().waiting_for, "the first checkpoint");
    save(0);
    cr_expect_str_eq(facts().waiting_for, "");
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_str_eq(answer(PSD_MSG_HEARTBEAT)->text, "");
}

Test(coordinator, workers_hear_what_the_job_waits_for_as_it_is_now, .fini = teardown)
{
    begin("bsp", 2);
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_str_eq(answer(PSD_MSG_HEARTBEAT)->text, "pushes of workers 0, 1 (round 1)");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0);
    now += 100;
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_str_eq(answer(PSD_MSG_HEARTBEAT)->text, "pushes of workers 1 (round 1)");
}

Test(coordinator, of_more_names_than_there_is_room_for_the_first_keep_their_newest_values, .fini = teardown)
{
    begin("bsp", 1);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < PSD_MAX_REPORTS + 2; i++) {
            psd_msg_t msg = of_worker(PSD_MSG_REPORT, 0);
            snprintf(msg.text, sizeof msg.text, "name/%d", i);
            msg.value = 100 * pass + i;
            hear(peer_of(0), &msg, NULL, 0);
        }
    cr_assert_eq(facts().n_reports, PSD_MAX_REPORTS);
    for (int i = 0; i < PSD_MAX_REPORTS; i++)
        cr_expect_eq(facts().report[i].value, 100 + i, "%s", facts().report[i].name);
}

Test(coordinator, a_rate_may_be_anything_from_0_to_a_billion, .fini = teardown)
{
    psd_err_t err;
    begin("bsp", 1);
    cr_expect_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 0, "me", &out, &err), PSD_OK);
    cr_expect_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 1e9, "me", &out, &err), PSD_OK);
    cr_expect_eq(psd_coordinator_set(coordinator, now, "optimizer.lr", 2e9, "me", &out, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "optimizer.lr cannot be set to 2e+09: only optimizer.lr can be set, from 0 to 1e+09");
    cr_expect_eq(psd_coordinator_set(coordinator, now, "seed", 1, "me", &out, &err), PSD_ECONFIG);
    cr_expect_eq(facts().lr, 1e9);
}

Test(coordinator, a_server_that_is_lost_keeps_the_others_from_being_ready, .init = setup_want, .fini = teardown)
{
    worker_joins(0);
    worker_joins(1);
    server_joins(0);
    cr_expect(answer(PSD_MSG_SHARD_WELCOME)->code & PSD_WELCOME_READY);
    for (int i = 0; i < 1000 && !facts().n_lost_servers; i++) {
        pass(200);
        for (uint32_t w = 0; w < 2; w++)
            worker_says(PSD_MSG_HEARTBEAT, w);
    }
    cr_assert_eq(facts().n_lost_servers, 1, "server 1 is silent");
    server_joins(0);
    cr_expect_not(answer(PSD_MSG_SHARD_WELCOME)->code & PSD_WELCOME_READY);
    cr_expect_eq(answer(PSD_MSG_SHARD_WELCOME)->code / PSD_WELCOME_STATE - 1, PSD_JOB_DEGRADED);
}

Test(coordinator, a_server_with_other_settings_is_told_both, .fini = teardown)
{
    make("bsp");
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = 1 << 16, .code = 2 };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://host:1 y");
    hear(peer_of_server(1), &msg, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "server tcp://host:1 has other settings: ours x, theirs y");
}

Test(coordinator, a_save_that_another_operator_has_asked_for_is_made_when_the_one_before_is_safe, .fini = teardown)
{
    uint64_t clock;
    config.checkpoints = true;
    begin("bsp", 1);
    pass(100);
    save(0);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0);
    const uint64_t first_ms = now;
    psd_coordinator_request_save(coordinator);
    pass(100);
    cr_assert(command_to(0, NULL) && command_to(0, NULL)->code & PSD_COMMAND_SAVE);
    seq = command_to(0, NULL)->seq;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 1, 1, 0, 0); /* a round meanwhile */
    cr_assert_eq(facts().clock, 2);
    const uint64_t second_ms = now;
    psd_coordinator_request_save(coordinator);
    seq = command_to(0, NULL)->seq;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 2, 0, 0, 2);
    psd_coordinator_committed(coordinator, now, 1, NULL, &out);
    cr_expect_eq(psd_coordinator_save_outcome(coordinator, first_ms, &clock), PSD_SAVE_SAFE);
    cr_expect_eq(clock, 1);
    cr_expect_eq(psd_coordinator_save_outcome(coordinator, second_ms + 1, &clock), PSD_SAVE_PENDING);
    pass(100);
    cr_expect(command_to(0, NULL) && command_to(0, NULL)->code & PSD_COMMAND_SAVE, "for the second");
}

/* ---- what it refuses, and counts ---- */

Test(coordinator, each_refusal_is_counted_and_warned_of_with_both_sides, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    config.workers_min = 2;
    config.needs_rows = true;
    make("bsp");
    cr_expect_eq(facts().n_lost_servers, 0, "they have not come yet");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    n_rows = 60;
    recipe = "rows=60";
    worker_joins(0);
    n_rows = 61;
    worker_registers(1);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "worker 1 says that an epoch has 61 rows, the others say 60; schedule.unit is "
                                                    "epoch, so all workers have to say the same");
    cr_expect_eq(count_lines("peer.refused", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_eq(strncmp(text, "reason=config text=\"worker 1 says that", 38), 0, "%s", text);
    n_rows = 60;
    recipe = "rows=60 seed=2";
    life[1]++;
    worker_registers(1);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "worker 1 trains another model, on other data or in another order: it has "
                                                    "rows=60 seed=2; the others have rows=60");
    cr_expect_eq(facts().rejected[PSD_REFUSAL_CONFIG], 2);
    n_rows = 0;
    recipe = "";
    run++;
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "this is job run 0000000000000009, you are of 000000000000000a");
    server_says(1, 0, 0, 0, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text, "this is job run 0000000000000009, you are of 000000000000000a");
    run--;
    cr_expect_eq(facts().rejected[PSD_REFUSAL_RUN], 2);
    psd_msg_t state = { .kind = PSD_MSG_SHARD_STATE, .protocol = PSD_PROTOCOL, .job = run, .shard = 1 };
    uint8_t bytes[256];
    const psd_round_t nothing = { .clock = 1 };
    hear(peer_of_server(0), &state, bytes, psd_round_encode(&nothing, bytes, sizeof bytes));
    cr_expect_eq(facts().rejected[PSD_REFUSAL_SESSION], 1, "server 0 is not server 1");
    life[0] += 5;
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_expect_not_null(answer(PSD_MSG_FENCED));
    cr_expect_eq(facts().rejected[PSD_REFUSAL_INCARNATION], 1);
    psd_coordinator_answer(coordinator, peer_of(9), PSD_MSG_REFUSED, 1, PSD_REFUSAL_JOB, "no", &out);
    psd_coordinator_answer(coordinator, peer_of(9), PSD_MSG_ADMIN, 1, PSD_REFUSAL_JOB, "yes", &out);
    cr_expect_eq(facts().rejected[PSD_REFUSAL_JOB], 1);
}

Test(coordinator, whoever_comes_after_the_end_is_told_how_it_ended, .fini = teardown)
{
    for (int stopped = 0; stopped < 2; stopped++) {
        config.workers_min = 1;
        begin("bsp", 1);
        if (stopped)
            psd_coordinator_stop(coordinator, now, &out);
        else
            worker_says(PSD_MSG_LEAVE, 0);
        cr_expect_null(worker_greets(1));
        cr_assert_not_null(answer(PSD_MSG_REFUSED));
        cr_expect_not_null(strstr(answer(PSD_MSG_REFUSED)->text, stopped ? "was stopped" : "is finished"), "%s",
                           answer(PSD_MSG_REFUSED)->text);
        cr_expect(facts().quorum, "no worker is missing at the end");
        teardown();
        out = (psd_actions_t){ 0 };
        run = JOB;
        seq = 0;
    }
    make("bsp");
}

Test(coordinator, a_job_that_has_ended_is_not_degraded_by_a_server_that_was_lost, .init = setup_want, .fini = teardown)
{
    worker_joins(0);
    worker_joins(1);
    for (int i = 0; i < 1000 && !facts().n_lost_servers; i++) {
        pass(200);
        for (uint32_t w = 0; w < 2; w++)
            worker_says(PSD_MSG_HEARTBEAT, w);
    }
    cr_assert_eq(facts().state, PSD_JOB_DEGRADED);
    psd_coordinator_stop(coordinator, now, &out);
    pass(100);
    cr_expect_eq(facts().n_lost_servers, 1);
    cr_expect_eq(facts().state, PSD_JOB_FINISHED);
}

Test(coordinator, a_pause_shows_whoever_is_missing, .fini = teardown)
{
    begin("bsp", 2);
    psd_msg_t leaves = of_worker(PSD_MSG_LEAVE, 1);
    leaves.code = 1;
    hear(peer_of(1), &leaves, NULL, 0);
    cr_expect_eq(facts().state, PSD_JOB_DEGRADED);
    psd_coordinator_pause(coordinator, now, true, &out);
    cr_expect_eq(facts().state, PSD_JOB_PAUSED);
    psd_coordinator_pause(coordinator, now, false, &out);
    cr_expect_eq(facts().state, PSD_JOB_DEGRADED);
}

/* Of two workers the second falls silent. */
static void begin_and_lose_one(void)
{
    config.workers_min = 1;
    config.workers_want = 2;
    begin("bsp", 2);
    for (int i = 0; i < 1000 && state_of(1) == PSD_WORKER_LIVE; i++) {
        pass(200);
        worker_says(PSD_MSG_HEARTBEAT, 0);
        for (uint32_t s = 0; s < SERVERS; s++)
            server_says(s, 0, 0, 0, 0);
    }
    cr_assert_eq(state_of(1), PSD_WORKER_LOST);
}

Test(coordinator, a_worker_that_is_lost_is_not_among_those_whose_push_is_missing, .fini = teardown)
{
    begin_and_lose_one();
    cr_expect_str_eq(facts().waiting_for, "pushes of workers 0 (round 1)");
}

Test(coordinator, a_round_that_makes_no_step_is_counted_and_told_by_its_own_number, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    begin("bsp", 2);
    make_round(0);
    cr_expect_eq(facts().skipped, 0);
    make_round(2);
    cr_expect_eq(count_lines("gradient.nonfinite", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_str_eq(text, "worker=1 clock=2 effect=\"the round is skipped on every shard\"");
    cr_expect_eq(facts().skipped, 1);
    n_samples = 0;
    make_round(0);
    n_samples = 8;
    cr_expect_eq(facts().skipped, 2, "nobody had rows");
}

Test(coordinator, in_asp_pushes_that_were_not_rejected_count_for_nothing, .fini = teardown)
{
    config.quarantine_after = 3;
    begin("asp", 1);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0); /* of 8 samples */
    cr_expect_eq(state_of(0), PSD_WORKER_LIVE);
}

Test(coordinator, a_run_that_begins_again_from_a_checkpoint_says_so_and_keeps_the_model_only, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    config.checkpoints = true;
    config.accumulate = 3;
    begin("bsp", 2);
    pass(100);
    save(0);
    make_round(0);
    cr_assert_eq(facts().gathered, 1);
    for (uint64_t end = now + 3000; now < end;) {
        pass(200);
        server_says(0, 0, 0, 0, 0);
    }
    start[1]++;
    server_joins(1);
    cr_expect_eq(count_lines("job.restart", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_str_eq(text, "why=\"server 1 was started again\" from_clock=0 checkpoint=yes run=2");
    cr_expect_eq(facts().gathered, 0);
    cr_expect_eq(facts().clock, 0);
    server_joins(0);
    seq = 0;
    for (uint32_t w = 0; w < MOST; w++)
        life[w]++;
    worker_joins(0);
    cr_expect_null(answer(PSD_MSG_MODEL), "the shards know it from the checkpoint");
}

Test(coordinator, without_any_checkpoint_the_job_ends_as_a_failure_of_the_disk, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    config.checkpoints = true;
    config.patience_ms = 5000;
    begin("bsp", 1);
    pass(100);
    seq = command_to(0, NULL)->seq;
    server_says(0, 0, 0, PSD_SHARD_SAVE_FAILED, 0);
    cr_assert(ends_within(20000, &code, text));
    cr_expect_eq(code, PSD_EIO);
    cr_expect_eq(
        strncmp(text, "no checkpoint could be made for 5 s (join_timeout), and nothing is trained before there is one: ", 96), 0,
        "%s", text);
}

Test(coordinator, state_that_the_rules_keep_otherwise_is_told_with_the_numbers_of_both, .fini = teardown)
{
    config.workers_min = 1;
    optimizer = "sgd(momentum=0.9)";
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    inherited = &(psd_inherited_t){ .t = 7, .arrays = 3, .n_scalars = 2 };
    worker_registers(0);
    inherited = NULL;
    optimizer = "sgd";
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_not_null(
        strstr(answer(PSD_MSG_REFUSED)->text, "tensor w0 with arrays 0x3 and 2 scalars, of which sgd keeps 1 and 0;"), "%s",
        answer(PSD_MSG_REFUSED)->text);
}

Test(coordinator, a_follower_is_told_why_it_waits, .fini = teardown)
{
    config.workers_min = 1;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    follower_asks(0, 0);
    cr_assert_not_null(answer(PSD_MSG_WAIT));
    cr_expect_str_eq(answer(PSD_MSG_WAIT)->text, "the job to begin: it has no weights yet");
    worker_joins(0);
    seq = command_to(0, NULL)->seq;
    follower_asks(0, 0);
    cr_assert(snapshot());
    seq = command_to(0, NULL)->seq;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0);
    cr_assert_eq(facts().clock, 1);
    now += 300;
    follower_asks(1, 0);
    cr_assert_not_null(answer(PSD_MSG_WAIT));
    cr_expect_str_eq(answer(PSD_MSG_WAIT)->text, "other followers to finish reading");
}

Test(coordinator, an_absence_of_over_half_a_lease_is_told_with_its_length, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    config.lease_ms = 10000;
    begin("bsp", 1);
    pass(100);
    now += 4000;
    tick();
    cr_expect_eq(count_lines("server.away", text), 0);
    now += 6000;
    tick();
    cr_expect_eq(count_lines("server.away", text), 1);
    cr_expect_eq(level, PSD_LEVEL_WARN);
    cr_expect_str_eq(text, "ms=6050 effect=\"this process got no time; all leases start again\"");
}

Test(coordinator, a_worker_that_is_to_drain_hears_it_with_each_heartbeat, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    begin("bsp", 2);
    cr_expect_not_null(psd_coordinator_drain(coordinator, "1", &out));
    cr_expect_eq(count_lines("worker.drain", text), 1);
    cr_expect_str_eq(text, "worker=1 name=host1");
    for (uint32_t w = 0; w < 2; w++) {
        worker_says(PSD_MSG_HEARTBEAT, w);
        cr_expect_eq(answer(PSD_MSG_HEARTBEAT)->code, w ? PSD_HEARTBEAT_DRAIN : 0, "worker %u", w);
    }
}

Test(coordinator, a_reported_name_has_up_to_63_characters, .fini = teardown)
{
    begin("bsp", 1);
    psd_msg_t msg = of_worker(PSD_MSG_REPORT, 0);
    memset(msg.text, 'x', 70);
    hear(peer_of(0), &msg, NULL, 0);
    cr_assert_eq(facts().n_reports, 1);
    cr_expect_eq(strlen(facts().report[0].name), 63);
}

Test(coordinator, whoever_comes_is_logged_once, .fini = teardown)
{
    char text[PSD_MAX_TEXT], want[128];
    config.workers_min = 1;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++) {
        server_joins(s);
        cr_expect_eq(count_lines("server.joined", text), 1);
        cr_expect_eq(level, PSD_LEVEL_INFO);
        snprintf(want, sizeof want, "shard=%u endpoint=tcp://host:%u", s, s);
        cr_expect_str_eq(text, want);
        server_joins(s);
        cr_expect_eq(count_lines("server.joined", text), 0, "it repeats its hello");
    }
    const psd_msg_t *welcome = worker_greets(0);
    cr_assert_not_null(welcome);
    cr_expect_eq(count_lines("worker.hello", text), 1);
    cr_expect_eq(level, PSD_LEVEL_DEBUG);
    snprintf(want, sizeof want, "worker=0 name=host0 incarnation=%llu", (unsigned long long)welcome->incarnation);
    cr_expect_str_eq(text, want);
    worker_greets(0);
    cr_expect_eq(count_lines("worker.hello", text), 0);
}

Test(coordinator, weights_that_are_lost_without_a_checkpoint_end_the_job_with_the_reason, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    begin("bsp", 2);
    make_round(0);
    for (uint64_t end = now + 3000; now < end;) {
        pass(200);
        server_says(0, 1, 0, 0, 0);
    }
    start[1]++;
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = (10 + start[1] + 1) << 16, .code = 2 };
    snprintf(msg.text, sizeof msg.text, "mnist tcp://host:1 x");
    hear(peer_of_server(1), &msg, NULL, 0);
    cr_expect_eq(count_lines("job.lost", text), 1);
    cr_expect_eq(level, PSD_LEVEL_ERROR);
    cr_expect_str_eq(text, "why=\"server 1 was started again\" clock=1 checkpoint=none");
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_str_eq(answer(PSD_MSG_REFUSED)->text,
                     "the servers have lost the weights and there is no checkpoint to go back to: server 1 was started again "
                     "(checkpoint.dir keeps them)");
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_LOST);
}

/* ---- sums over the whole model ---- */

/* Server `s` has measured this in the first pass of the step of round `clock`, of the one part that it holds. */
static void server_measures(uint32_t s, uint64_t clock, double sum)
{
    psd_msg_t msg = {
        .kind = PSD_MSG_SUMS, .protocol = PSD_PROTOCOL, .job = run, .shard = s, .clock = clock, .parts = 1, .n_elements = 1
    };
    hear(peer_of_server(s), &msg, &sum, sizeof sum);
}

static void all_push(void)
{
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 1, 0, 0);
}

static double total_to(uint32_t s)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == PSD_MSG_TOTALS && out.at[i].to == peer_of_server(s))
            return *(const double *)out.at[i].payload->data;
    return -1;
}

static void begin_clipped(void)
{
    config.clip.norm = 1;
    n_tensors = 2; /* one on each server */
    begin("bsp", 1);
}

Test(coordinator, the_round_after_a_step_that_is_clipped_as_a_whole_waits_for_the_sums_of_every_server, .fini = teardown)
{
    begin_clipped();
    all_push();
    cr_assert_eq(facts().clock, 1);
    all_push();
    cr_expect_eq(facts().clock, 1);
    server_measures(0, 1, 3);
    server_measures(0, 1, 3);
    server_measures(1, 0, 9);
    cr_expect_eq(total_to(0), -1, "server 1 has not said it of this step");
    pass(1000);
    cr_expect_eq(facts().clock, 1);
    server_measures(1, 1, 4);
    for (uint32_t s = 0; s < SERVERS; s++)
        cr_expect_eq(total_to(s), 7, "server %u", s);
    cr_expect_eq(facts().clock, 2, "the pushes were there");
}

Test(coordinator, a_round_that_waits_for_its_step_waits_for_no_sums, .fini = teardown)
{
    config.accumulate = 2;
    begin_clipped();
    all_push();
    all_push();
    cr_expect_eq(facts().clock, 2, "only the second made a step");
    all_push();
    cr_expect_eq(facts().clock, 2);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_measures(s, 2, 3);
    cr_expect_eq(facts().clock, 3);
}

Test(coordinator, a_round_that_makes_no_step_waits_for_no_sums, .fini = teardown)
{
    begin_clipped();
    spoilt = 1;
    all_push();
    spoilt = 0;
    all_push();
    cr_expect_eq(facts().clock, 2);
}

Test(coordinator, another_run_waits_for_no_sums_of_the_one_before, .fini = teardown)
{
    const uint64_t point = 5;
    config.checkpoints = true;
    config.points = &point;
    config.n_points = 1;
    begin_clipped();
    all_push();
    cr_assert_eq(facts().clock, 6);
    restart_server_1();
    cr_assert_eq(facts().runs, 2);
    worker_joins(0);
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 5, 0, 0, 0);
    cr_assert_eq(facts().state, PSD_JOB_TRAINING);
    all_push();
    cr_expect_eq(facts().clock, 6);
}

/* ---- what servers and workers are told when they come ---- */

static const psd_buf_t *body_of(psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].msg.kind == kind)
            return out.at[i].payload;
    return NULL;
}

Test(coordinator, a_worker_is_told_where_every_server_is_and_how_the_job_trains, .fini = teardown)
{
    config.workers_min = 1;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    cr_assert_not_null(worker_greets(0));
    const psd_cluster_t *told = psd_body_cluster(body_of(PSD_MSG_WELCOME));
    cr_expect_eq(told->n_servers, SERVERS);
    cr_expect_str_eq(told->endpoint[0], "tcp://host:0");
    cr_expect_str_eq(told->endpoint[1], "tcp://host:1");
    cr_expect_str_eq(told->settings.text, "x");
    cr_expect_eq(told->settings.lr, 1);
    cr_expect_eq(answer(PSD_MSG_WELCOME)->seq, 70);
    cr_expect_eq(answer(PSD_MSG_WELCOME)->job, JOB);
}

Test(coordinator, a_server_is_told_its_place_its_run_and_the_checkpoint_to_load, .fini = teardown)
{
    const uint64_t points[] = { 9, 5 };
    config.checkpoints = true;
    config.points = points;
    config.n_points = 2;
    config.workers_min = 1;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++) {
        server_joins(s);
        const psd_msg_t *told = answer(PSD_MSG_SHARD_WELCOME);
        cr_expect_eq(told->shard, s);
        cr_expect_eq(told->world, SERVERS);
        cr_expect_eq(told->n_elements, 8, "of a part");
        cr_expect_eq(told->shard_epoch, 1);
        cr_expect_eq(told->seq, (10 * s + 1) << 16);
        cr_expect_eq(told->clock, 9);
        cr_expect(told->code & PSD_WELCOME_RESTORE);
    }
    server_says(1, 0, 0, PSD_SHARD_RESTORE_FAILED, 0);
    cr_expect_eq(facts().runs, 2);
    for (uint32_t s = 0; s < SERVERS; s++) {
        server_joins(s);
        cr_expect_eq(answer(PSD_MSG_SHARD_WELCOME)->shard_epoch, 2);
        cr_expect_eq(answer(PSD_MSG_SHARD_WELCOME)->clock, 5, "the one before");
    }
}

Test(coordinator, a_checkpoint_that_a_server_cannot_load_gives_way_to_the_one_before_or_ends_the_job, .fini = teardown)
{
    const uint64_t points[] = { 9, 5 };
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    config.checkpoints = true;
    config.points = points;
    config.n_points = 2;
    config.workers_min = 1;
    make("bsp");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    server_says(1, 0, 0, PSD_SHARD_RESTORE_FAILED, 0);
    cr_expect_eq(facts().point_clock, 5);
    cr_expect_eq(facts().clock, 5);
    cr_expect_eq(count_lines("job.restart", text), 1);
    cr_expect_str_eq(text, "why=\"server 1 cannot load the checkpoint of clock 9: \" from_clock=5 checkpoint=yes run=2");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    server_says(0, 0, 0, PSD_SHARD_RESTORE_FAILED, 0);
    cr_assert(ends_within(10000, &code, text));
    cr_expect_eq(code, PSD_EDATA);
    cr_expect_eq(strncmp(text, "server 0 cannot load the checkpoint of clock 5: ", 48), 0, "%s", text);
}

Test(coordinator, what_a_server_has_not_done_is_said_to_it_again, .fini = teardown)
{
    begin("bsp", 1);
    pass(200);
    cr_expect_null(command_to(0, NULL), "they have done it all");
    all_push();
    cr_assert(command_to(0, NULL) && command_to(1, NULL));
    const uint64_t last = command_to(0, NULL)->seq;
    seq = last;
    server_says(0, 1, 0, 0, 0);
    seq = last - 1;
    server_says(1, 0, 0, 0, 0);
    pass(PSD_JOURNAL_REPEAT_MS - 50);
    cr_expect_null(command_to(1, NULL));
    pass(50);
    cr_expect_null(command_to(0, NULL), "server 0 has done it");
    cr_assert_not_null(command_to(1, NULL));
    cr_expect_eq(command_to(1, NULL)->seq, last);
    cr_expect_eq(command_to(1, NULL)->shard, 1);
}

Test(coordinator, while_the_job_fails_whoever_speaks_is_told_but_not_a_server_that_reports_its_state, .fini = teardown)
{
    const uint64_t point = 9;
    config.checkpoints = true;
    config.points = &point;
    config.n_points = 1;
    begin("bsp", 1);
    server_says(1, 0, 0, PSD_SHARD_RESTORE_FAILED, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    server_says(1, 0, 0, 0, 0);
    cr_expect_null(answer(PSD_MSG_REFUSED), "the number in it is not that of a hello");
    server_says(0, 0, 0, 0, 0);
    cr_expect_null(answer(PSD_MSG_REFUSED));
    worker_says(PSD_MSG_HEARTBEAT, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_DAMAGED);
    cr_expect_eq(answer(PSD_MSG_REFUSED)->seq, 70);
    cr_expect_eq(strncmp(answer(PSD_MSG_REFUSED)->text, "server 1 cannot load the checkpoint of clock 9: ", 48), 0);
}

Test(coordinator, a_checkpoint_between_the_rounds_of_a_step_is_that_of_the_last_step, .fini = teardown)
{
    config.checkpoints = true;
    config.accumulate = 2;
    begin("bsp", 2);
    pass(100);
    save(0);
    for (int round = 0; round < 3; round++)
        make_round(0);
    cr_assert_eq(facts().gathered, 1);
    psd_coordinator_request_save(coordinator);
    pass(100);
    const psd_msg_t *command = command_to(0, NULL);
    cr_assert(command && command->code & PSD_COMMAND_SAVE);
    seq = command->seq;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 1, 0, 0, 2 + 1);
    cr_assert(asked(PSD_ACT_COMMIT), "of the weights after round 2");
    psd_coordinator_committed(coordinator, now, 2, NULL, &out);
    cr_expect_eq(facts().point_clock, 2);
    cr_expect_eq(facts().clock, 3, "the third round is not undone");
}

/* ---- checkpoints of rounds ---- */

Test(coordinator, a_checkpoint_that_is_due_by_rounds_is_ordered_as_the_round_closes, .fini = teardown)
{
    config.checkpoints = true;
    config.save_every_rounds = 2;
    begin("bsp", 2);
    pass(100);
    save(0);
    for (uint64_t round = 1; round <= 4; round++) {
        make_round(0);
        const psd_msg_t *command = command_to(1, NULL);
        cr_expect(command->code & PSD_COMMAND_CLOSE);
        cr_expect_eq((command->code & PSD_COMMAND_SAVE) != 0, round % 2 == 0, "round %u", (unsigned)round);
        if (round % 2)
            continue;
        cr_expect(facts().saving);
        save(round);
        cr_expect_eq(facts().point_clock, round);
        cr_expect_not(facts().saving);
    }
}

/* ---- those that come at the wrong time ---- */

Test(coordinator, the_hello_of_a_life_that_is_over_is_answered_so, .fini = teardown)
{
    begin_and_lose_one();
    worker_greets(1);
    cr_assert_not_null(answer(PSD_MSG_FENCED));
    cr_expect_not_null(strstr(answer(PSD_MSG_FENCED)->text, "worker 1 incarnation 1 was given up: it has sent nothing"), "%s",
                       answer(PSD_MSG_FENCED)->text);
    cr_expect_eq(answer(PSD_MSG_FENCED)->incarnation, 1);
}

Test(coordinator, groups_of_tensors_that_the_model_does_not_have_end_the_job, .fini = teardown)
{
    int code = 0;
    char text[PSD_MAX_TEXT] = "";
    config.workers_min = 1;
    make("bsp");
    psd_coordinator_destroy(&coordinator);
    cr_assert_eq(psd_groups_parse(&config.groups, "sgd", "head.*(lr_mult=2)", NULL), PSD_OK);
    cr_assert_not_null(coordinator = psd_coordinator_new(&config, NULL));
    for (uint32_t s = 0; s < SERVERS; s++)
        server_joins(s);
    worker_registers(0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_UNFIT);
    cr_expect_not_null(strstr(answer(PSD_MSG_REFUSED)->text, "head.*"), "%s", answer(PSD_MSG_REFUSED)->text);
    cr_assert(ends_within(10000, &code, text));
    cr_expect_eq(code, PSD_ECONFIG);
}

Test(coordinator, a_rate_that_is_none_is_refused_to_the_worker_that_sets_it, .fini = teardown)
{
    begin("bsp", 1);
    psd_msg_t msg = of_worker(PSD_MSG_SETTING, 0);
    msg.code = 7;
    msg.value = -1;
    snprintf(msg.text, sizeof msg.text, "optimizer.lr");
    hear(peer_of(0), &msg, NULL, 0);
    cr_assert_not_null(answer(PSD_MSG_REFUSED));
    cr_expect_eq(answer(PSD_MSG_REFUSED)->code, PSD_REFUSAL_CONFIG);
    cr_expect_eq(answer(PSD_MSG_REFUSED)->seq, 70);
    cr_expect_eq(strncmp(answer(PSD_MSG_REFUSED)->text, "optimizer.lr cannot be set to -1: ", 34), 0);
    cr_expect_null(answer(PSD_MSG_SETTING));
    cr_expect_eq(facts().lr, 1);
}

Test(coordinator, a_server_that_is_started_again_after_the_end_is_told_that_it_is_over, .fini = teardown)
{
    begin("bsp", 1);
    worker_says(PSD_MSG_LEAVE, 0);
    pass(50);
    cr_assert_eq(facts().state, PSD_JOB_FINISHED);
    start[1]++;
    server_joins(1);
    cr_expect_eq(answer(PSD_MSG_SHARD_WELCOME)->code, PSD_WELCOME_FINISHED);
    cr_expect_eq(answer(PSD_MSG_SHARD_WELCOME)->seq, (10 + start[1] + 1) << 16);
    cr_expect_eq(facts().runs, 1);
}

Test(coordinator, pushes_of_an_older_life_close_no_round, .fini = teardown)
{
    begin("bsp", 2);
    incarnation[1]--;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 3, 0, 0);
    cr_expect_eq(facts().clock, 0);
    incarnation[1]++;
    for (uint32_t s = 0; s < SERVERS; s++)
        server_says(s, 0, 3, 0, 0);
    cr_expect_eq(facts().clock, 1);
}

Test(coordinator, sums_of_another_run_or_server_are_counted_as_refused, .fini = teardown)
{
    begin_clipped();
    all_push();
    run++;
    server_measures(0, 1, 3);
    run--;
    cr_expect_eq(facts().rejected[PSD_REFUSAL_SESSION], 1);
    psd_msg_t msg = { .kind = PSD_MSG_SUMS, .protocol = PSD_PROTOCOL, .job = run, .shard = 1, .clock = 1, .parts = 1 };
    hear(peer_of_server(0), &msg, NULL, 0);
    cr_expect_eq(facts().rejected[PSD_REFUSAL_SESSION], 2, "server 0 speaks for itself only");
    for (uint32_t s = 0; s < SERVERS; s++)
        server_measures(s, 1, 3);
    cr_expect_eq(total_to(1), 6);
}

Test(coordinator, in_asp_a_worker_that_divides_other_rows_leaves_the_shards_members, .fini = teardown)
{
    config.workers_min = 1;
    begin("asp", 2);
    worker_says_rows(1, "60 rows");
    worker_says_rows(0, "61 rows");
    const psd_round_t *round = NULL;
    cr_assert_not_null(command_to(1, &round), "the other one is enough, so nothing else has to be said");
    cr_expect_eq(round->n_members, 1);
    cr_expect_eq(round->member[0].worker, 1);
}

Test(coordinator, each_state_of_the_job_has_its_word)
{
    static const char *const words[] = { "waiting", "training", "degraded", "paused", "finished", "unknown" };
    for (psd_job_state_t state = PSD_JOB_GATHERING; state <= PSD_JOB_FINISHED + 1; state++)
        cr_expect_str_eq(psd_job_state_name(state), words[state]);
}

Test(coordinator, a_server_that_ends_with_the_job_is_not_lost, .fini = teardown)
{
    char text[PSD_MAX_TEXT];
    config.lease_ms = 1000;
    begin("bsp", 1);
    worker_says(PSD_MSG_LEAVE, 0);
    pass(50);
    cr_assert_eq(facts().state, PSD_JOB_FINISHED);
    pass(3500); /* server 1 is silent: it knows, and its word of that is lost */
    cr_expect_eq(count_lines("server.lost", text), 0, "%s", text);
    cr_expect_eq(facts().n_lost_servers, 0);
}

Test(coordinator, a_job_that_is_finished_is_not_stopped_any_more, .fini = teardown)
{
    int code = -1;
    char text[PSD_MAX_TEXT] = "";
    begin("bsp", 1);
    worker_says(PSD_MSG_LEAVE, 0);
    pass(50);
    cr_assert_eq(facts().state, PSD_JOB_FINISHED);
    psd_coordinator_stop(coordinator, now, &out);
    cr_expect_not(facts().stopped);
    cr_assert(ends_within(10000, &code, text));
    cr_expect_eq(code, PSD_OK);
    cr_expect_str_eq(text, "every worker has finished");
}
