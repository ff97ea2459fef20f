/* The coordinator, alone or with the shard of its server, plays tests/golden/transcripts: all that it says in whole jobs, in order,
 * with every field. */
#include <criterion/criterion.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/core/admin.h"
#include "common/base/crc32c.h"
#include "server/core/node.h"
#include "tests/support/said.h"
#include "tests/support/transcript.h"

TestSuite(transcripts, .timeout = 600);

/* The events say what servers, workers, followers and operators send: "WHO KIND FIELD=VALUE ...", where the fields that nobody would
 * get wrong are filled in. The others:
 *
 *   job FIELD=VALUE ...           a new coordinator
 *   node FIELD=VALUE ...          a new server 0: both its machines; other=1: a server that joins another's job, where "first 0" is
 *                                 what server 0 says
 *   worker N incarnation=M        what another server's coordinator gave it
 *   worker N again                its next life, with another nonce
 *   pass MS [alive]               time, with a tick each 100 ms; all servers and workers are there
 *   away MS                       the same without ticks
 *   committed clock=N failure=""  the answer to COMMIT; saved, begun, written part=N, restored: those to the other orders on files
 *   set NAME value=X, stop, save, heard worker=N: calls of coordinator.h and node.h
 *   malformed, version            bytes that are no message, or are one of another version
 *   facts                         what the status page gets */
enum { JOB = 9, MOST = 24, TICK_MS = 100 };

static psd_coordinator_t *coordinator; /* NULL: it is the node's */
static psd_node_t *node;
static psd_admin_t admin;
static psd_actions_t out;
static uint64_t now = 1000, run = JOB, newest, start[MOST], incarnation[MOST], life[MOST];
static uint64_t version[MOST], saved[MOST]; /* as each server said last */
static uint32_t n_servers;
static char tensors[256];

static psd_peer_t peer_of_server(uint32_t s) { return s ? psd_peer_make(100 + s, 3) : PSD_PEER_OWN_SHARD; }

static psd_peer_t peer_of(const char *who, uint32_t i, uint32_t user)
{
    if (!strcmp(who, "server"))
        return peer_of_server(i);
    if (!strcmp(who, "first"))
        return PSD_PEER_COORDINATOR;
    return psd_peer_make((!strcmp(who, "worker") ? 200 : !strcmp(who, "follower") ? 300 : 400) + i, user);
}

static const char *name_of(psd_peer_t peer)
{
    static char name[40];
    static const char *const words[] = { "", "server", "worker", "follower", "operator" };
    const unsigned routing = (unsigned)(peer & 0xffff);
    if (peer == PSD_PEER_OWN_SHARD || peer == PSD_PEER_COORDINATOR)
        return "server 0";
    if (!(peer & PSD_PEER_ROUTER) || routing < 100 || routing >= 500)
        return NULL;
    snprintf(name, sizeof name, "%s %u", words[routing / 100], routing % 100);
    return name;
}

/* Do the work, remember what peers learn from the actions, and write them down. */
static void flush(void)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_WORK) {
            psd_work_t *work = out.at[i].work;
            psd_work_run(work);
            psd_node_worked(node, now, work, &out);
        }
    for (size_t i = 0; i < out.n; i++) {
        const psd_msg_t *msg = &out.at[i].msg;
        if (out.at[i].act != PSD_ACT_SEND)
            continue;
        if (msg->kind == PSD_MSG_SHARD_WELCOME && msg->job) {
            newest = msg->job == run ? newest : 0;
            run = msg->job;
        }
        if (msg->kind == PSD_MSG_COMMAND || msg->kind == PSD_MSG_MODEL || msg->kind == PSD_MSG_TOTALS)
            newest = msg->seq > newest ? msg->seq : newest;
        if (msg->kind == PSD_MSG_WELCOME)
            incarnation[msg->worker] = msg->incarnation;
    }
    transcript_actions(now, &out);
}

static const psd_coordinator_t *look(void) { return node ? psd_node_coordinator(node) : coordinator; }

static psd_coordinator_facts_t facts(void)
{
    psd_coordinator_facts_t f = { 0 };
    if (look())
        psd_coordinator_facts(look(), &f);
    return f;
}

/* ---- bodies ---- */

/* The tensors that `text` names, such as "w0:4 w1:2x3". */
static psd_tensor_list_t list_tensors(const char *text, psd_tensor_desc_t tensor[MOST])
{
    psd_tensor_list_t list = { .tensor = tensor };
    while (*text) {
        psd_tensor_desc_t *t = &tensor[list.n++];
        *t = (psd_tensor_desc_t){ .n_elements = 1 };
        const size_t n = strcspn(text, ":");
        snprintf(t->name, sizeof t->name, "%.*s", (int)n, text);
        for (text += n; *text == ':' || *text == 'x';) {
            char *end;
            t->dim[t->n_dims] = strtoull(text + 1, &end, 10);
            t->n_elements *= t->dim[t->n_dims++];
            text = end;
        }
        text += *text == ' ';
    }
    return list;
}

static psd_buf_t *body_of_tensors(const char *event)
{
    static uint8_t bytes[4096];
    psd_tensor_desc_t tensor[MOST];
    psd_inherited_t inherited[MOST];
    psd_buf_t *body;
    psd_err_t err;
    psd_tensor_list_t list = list_tensors(*transcript_text(event, "tensors") ? transcript_text(event, "tensors") : tensors, tensor);
    list.rows = (uint64_t)transcript_number(event, "rows", 0);
    const uint64_t updates = (uint64_t)transcript_number(event, "updates", 0);
    for (uint32_t t = 0; t < list.n; t++)
        inherited[t] = (psd_inherited_t){ .t = updates, .arrays = (uint32_t)transcript_number(event, "arrays", 0) };
    list.inherited = updates ? inherited : NULL;
    const size_t n = psd_tensors_encode(&list, bytes, sizeof bytes);
    cr_assert_eq(psd_body_decode(PSD_PAYLOAD_TENSORS, bytes, n, &body, &err), PSD_OK, "%s", err.text);
    return body;
}

/* Members, such as "0:70 1:71": worker and nonce. */
static void list_members(const char *text, psd_round_t *round)
{
    round->member = calloc(MOST, sizeof *round->member);
    for (const char *at = text; *at; at += strcspn(at, " "), at += *at == ' ') {
        unsigned worker;
        unsigned long long nonce;
        cr_assert_eq(sscanf(at, "%u:%llu", &worker, &nonce), 2, "%s", text);
        round->member[round->n_members++] = (psd_member_t){ .worker = worker, .incarnation = incarnation[worker], .nonce = nonce };
    }
}

/* Whole pushes, such as "0:8:0.5 1:4:0.25:bad": worker, samples, loss, and whether they have Inf or NaN. */
static psd_buf_t *body_of_round(const char *event)
{
    psd_round_t round = { .clock = (uint64_t)transcript_number(event, "round", facts().clock + 1),
                          .contributor = calloc(MOST, sizeof *round.contributor) };
    round.apply = transcript_number(event, "apply", 0);
    round.lr = transcript_number(event, "rate", 0);
    round.view_id = (uint64_t)transcript_number(event, "view", 0);
    list_members(transcript_text(event, "members"), &round);
    for (const char *at = transcript_text(event, "pushes"); *at; at += strcspn(at, " "), at += *at == ' ') {
        unsigned worker;
        unsigned long long samples;
        double loss;
        int n = 0;
        cr_assert_eq(sscanf(at, "%u:%llu:%lf%n", &worker, &samples, &loss, &n), 3, "%s", event);
        round.contributor[round.n_contributors++] =
            (psd_member_t){ .worker = worker,
                            .incarnation = incarnation[worker] - (uint64_t)transcript_number(event, "older", 0),
                            .samples = samples,
                            .loss = loss,
                            .nonfinite = !strncmp(at + n, ":bad", 4) };
    }
    return psd_body_of_round(&round);
}

static psd_buf_t *body_of_sums(const char *event)
{
    double value[256];
    size_t n = 0;
    for (const char *at = transcript_text(event, "values"); *at; at += strcspn(at, " "), at += *at == ' ')
        value[n++] = strtod(at, NULL);
    return n ? psd_payload_copy(value, n * sizeof *value) : NULL;
}

/* Elements, and the fields that belong to them. */
static psd_buf_t *body_of_part(const char *event, psd_msg_t *msg)
{
    float value[64];
    uint32_t n = 0;
    for (const char *at = transcript_text(event, "values"); *at; at += strcspn(at, " "), at += *at == ' ')
        value[n++] = strtof(at, NULL);
    psd_buf_t *payload = n ? psd_payload_copy(value, n * sizeof *value) : NULL;
    msg->parts = (uint32_t)transcript_number(event, "parts", 1);
    msg->n_elements = n;
    msg->dtype = n ? PSD_DTYPE_F32 : 0;
    msg->codec = n ? PSD_CODEC_F32 : 0;
    msg->checksum = n ? psd_crc32c(value, n * sizeof *value) ^ (uint32_t)transcript_number(event, "damage", 0) : 0;
    return payload;
}

static psd_buf_t *body_of_bitmap(const char *event, psd_msg_t *msg)
{
    uint8_t bits = (uint8_t)transcript_number(event, "bits", 1);
    msg->parts = (uint32_t)transcript_number(event, "parts", 1);
    return psd_payload_copy(&bits, 1);
}

static psd_buf_t *body_of(const char *event, psd_msg_t *msg)
{
    const psd_hello_t hello = { .job = "mnist", .name = "eye" };
    switch (psd_kind_payload(msg->kind)) {
    case PSD_PAYLOAD_TENSORS:
        return body_of_tensors(event);
    case PSD_PAYLOAD_ROUND:
        return body_of_round(event);
    case PSD_PAYLOAD_SUMS:
        return body_of_sums(event);
    case PSD_PAYLOAD_PART:
        return body_of_part(event, msg);
    case PSD_PAYLOAD_BITMAP:
        return body_of_bitmap(event, msg);
    default:
        return msg->kind == PSD_MSG_FOLLOW ? psd_body_of_hello(&hello) : said_body(msg->kind, msg->text, msg->value);
    }
}

/* ---- events ---- */

static void hear(const char *event, const char *who, uint32_t i, const char *kind)
{
    const psd_coordinator_facts_t f = facts();
    psd_msg_t msg = { .kind = transcript_kind(kind), .protocol = PSD_PROTOCOL, .job = run };
    if (!strcmp(who, "first"))
        msg.seq = UINT64_C(1) << 16;
    else if (!strcmp(who, "worker")) {
        msg.worker = i;
        msg.incarnation = incarnation[i];
        msg.seq = 70 + i + 10 * life[i];
        msg.code = msg.kind == PSD_MSG_HELLO ? i + 1 : 0;
        if (msg.kind == PSD_MSG_HELLO)
            snprintf(msg.text, sizeof msg.text, "mnist host%u", i);
    } else if (msg.kind == PSD_MSG_SHARD_HELLO) {
        msg.job = 0;
        msg.seq = (10 * i + start[i] + 1) << 16;
        msg.code = i + 1;
        snprintf(msg.text, sizeof msg.text, "mnist tcp://host:%u x", i);
    } else if (!strcmp(who, "server")) {
        msg.shard = i;
        msg.seq = newest;
        msg.clock = f.clock;
        msg.view_id = f.view_id;
        msg.version = version[i];
        msg.saved = saved[i];
        msg.code = msg.kind == PSD_MSG_SHARD_STATE ? PSD_SHARD_STARTED : 0;
    } else
        msg.seq = 31;
    if (node && strcmp(who, "server"))
        msg.shard = psd_engine_index(psd_node_engine(node));
    transcript_fields(event, &msg);
    if (msg.kind == PSD_MSG_SHARD_STATE) {
        version[i] = msg.version;
        saved[i] = msg.saved;
    }
    psd_buf_t *body = body_of(event, &msg);
    const psd_peer_t from = peer_of(who, i, (uint32_t)transcript_number(event, "user", 0));
    if (node)
        psd_node_message(node, now, from, &msg, body, &out);
    else if (psd_admin_takes(msg.kind))
        psd_admin_message(&admin, coordinator, now, from, &msg, body, &out);
    else
        psd_coordinator_message(coordinator, now, from, &msg, body, &out);
    psd_buf_unref(&body);
    flush();
}

static void forget_machines(void)
{
    psd_node_destroy(&node);
    psd_coordinator_destroy(&coordinator);
}

/* The machines of an event "job" or "node". */
static void make(const char *event, const psd_coordinator_config_t *config)
{
    forget_machines();
    if (strncmp(event, "node ", 5)) {
        cr_assert_not_null(coordinator = psd_coordinator_new(config, NULL));
        return;
    }
    psd_engine_config_t engine = { .job = "mnist",
                                   .settings = config->settings->text,
                                   .print_rule = psd_rule_print,
                                   .endpoint = transcript_number(event, "other", 0) ? "tcp://host:1" : "tcp://host:0",
                                   .wanted_index = -1,
                                   .nonce = UINT64_C(1) << 16,
                                   .groups = config->groups,
                                   .mode = config->mode,
                                   .lr_rule = psd_lr_rule_find(
                                       *transcript_text(event, "lr_rule") ? transcript_text(event, "lr_rule") : "none"),
                                   .max_staleness = (uint64_t)transcript_number(event, "max_staleness", 0),
                                   .max_skipped = (uint64_t)transcript_number(event, "max_skipped", 0),
                                   .look_every = (uint64_t)transcript_number(event, "look_every", 0),
                                   .accumulate = config->accumulate,
                                   .clip = config->clip,
                                   .fold_at = (uint32_t)transcript_number(event, "fold_at", 0) };
    cr_assert_not_null(node = psd_node_new(&engine, transcript_number(event, "other", 0) ? NULL : config, NULL));
}

static void begin(const char *event)
{
    static psd_job_settings_t settings = { .text = "x", .optimizer = "sgd", .part_elements = 8, .lease_ms = 2500 };
    psd_coordinator_config_t config = { .job = "mnist", .job_id = JOB, .settings = &settings };
    psd_tensor_desc_t tensor[MOST];
    uint64_t point[2];
    char mode[16], rule[64], groups[64];
    snprintf(mode, sizeof mode, "%s", transcript_text(event, "mode"));
    snprintf(rule, sizeof rule, "%s", *transcript_text(event, "optimizer") ? transcript_text(event, "optimizer") : "sgd");
    snprintf(groups, sizeof groups, "%s", transcript_text(event, "groups"));
    snprintf(settings.mode, sizeof settings.mode, "%s", mode);
    snprintf(tensors, sizeof tensors, "%s", *transcript_text(event, "tensors") ? transcript_text(event, "tensors") : "w0:4");
#define NUMBER(field, otherwise) config.field = transcript_number(event, #field, otherwise)
    NUMBER(n_servers, 2);
    NUMBER(workers_min, 1);
    NUMBER(workers_want, config.workers_min);
    NUMBER(drops_lost, 0);
    NUMBER(lease_ms, 3000);
    NUMBER(round_timeout_ms, 0);
    NUMBER(start_timeout_ms, 0);
    NUMBER(patience_ms, 0);
    NUMBER(needs_rows, 0);
    NUMBER(lr, 0.5);
    NUMBER(checkpoints, 0);
    NUMBER(save_every_rounds, 0);
    NUMBER(save_every_ms, 0);
    NUMBER(foretell_from, 0);
    NUMBER(accumulate, 0);
    NUMBER(quarantine_after, 0);
#undef NUMBER
    n_servers = config.n_servers;
    config.mode = psd_mode_find(mode);
    config.clip.norm = transcript_number(event, "clip_norm", 0);
    point[0] = (uint64_t)transcript_number(event, "point", 0);
    point[1] = (uint64_t)transcript_number(event, "older_point", 0);
    config.points = point;
    config.n_points = !!point[0] + !!point[1];
    const psd_tensor_list_t model = list_tensors(tensors, tensor);
    config.model = config.n_points ? &model : NULL;
    cr_assert_eq(psd_groups_parse(&config.groups, rule, groups, NULL), PSD_OK);
    now = 1000;
    newest = 0;
    run = JOB;
    memset(version, 0, sizeof version);
    memset(saved, 0, sizeof saved);
    admin = (psd_admin_t){ 0 };
    make(event, &config);
}

/* `alive`: servers and workers say meanwhile that they are there. */
static void pass(uint64_t ms, bool alive)
{
    for (const uint64_t end = now + ms; now < end;) {
        now += TICK_MS;
        for (uint32_t w = 0; alive && coordinator && w < MOST; w++)
            psd_coordinator_heard(coordinator, now, peer_of("worker", w, 0),
                                  &(psd_msg_t){ .job = run, .worker = w, .incarnation = incarnation[w] });
        for (uint32_t s = node != NULL; alive && s < n_servers; s++)
            hear("", "server", s, "SHARD_STATE");
        if (node)
            psd_node_tick(node, now, &out);
        else
            psd_coordinator_tick(coordinator, now, &out);
        flush();
    }
}

static void say_facts(void)
{
    const psd_coordinator_facts_t f = facts();
#define SHOW(field)                                                                                                                \
    if (f.field)                                                                                                                   \
    transcript_say(#field "=%.9g", (double)f.field)
    if (look())
        transcript_say("state=%s", psd_job_state_name(f.state));
    SHOW(stopped);
    SHOW(view_id);
    SHOW(clock);
    SHOW(skipped);
    SHOW(gathered);
    SHOW(lr);
    SHOW(runs);
    SHOW(has_point);
    SHOW(saving);
    SHOW(save_failing);
    SHOW(point_clock);
    SHOW(point_ms);
    SHOW(save_ms);
    SHOW(n_members);
    SHOW(n_shards);
    SHOW(n_finished);
    SHOW(quorum);
    SHOW(lacks_first_point);
    SHOW(n_lost_servers);
    SHOW(n_lost_workers);
    SHOW(workers_lost);
    SHOW(workers_quarantined);
    SHOW(workers_min);
    SHOW(workers_want);
#undef SHOW
    for (uint32_t i = 0; i < f.n_absent; i++)
        transcript_say("absent: %s", f.absent[i]);
    if (*f.waiting_for)
        transcript_say("waiting for: %s", f.waiting_for);
    for (uint32_t i = 0; i < f.n_reports; i++)
        transcript_say("report: %s=%.9g", f.report[i].name, f.report[i].value);
    for (unsigned i = 0; i < PSD_N_REFUSALS; i++)
        if (f.rejected[i])
            transcript_say("rejected: %s=%" PRIu64, psd_refusal_name(i), f.rejected[i]);
    if (node) {
        const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(node));
#define SHOW(field)                                                                                                                \
    if (stats->field)                                                                                                              \
    transcript_say("shard: " #field "=%.9g", (double)stats->field)
        SHOW(steps);
        SHOW(rounds);
        SHOW(pushes);
        SHOW(folded);
        SHOW(asked_again);
        SHOW(messages);
        SHOW(samples);
        SHOW(pulls_fast);
        SHOW(pulls_slow);
        SHOW(staleness_sum);
        SHOW(staleness_max);
        SHOW(loss);
        SHOW(lr);
        SHOW(grad_norm2);
        SHOW(clip_scale);
#undef SHOW
        for (unsigned i = 0; i < PSD_N_REFUSALS; i++)
            if (stats->rejected[i])
                transcript_say("shard: rejected: %s=%" PRIu64, psd_refusal_name(i), stats->rejected[i]);
    }
    if (!look())
        return;
    const psd_membership_t *members = psd_coordinator_members(look());
    psd_server_facts_t server;
    for (uint32_t s = 0; psd_coordinator_server(look(), s, &server); s++)
        transcript_say("server %u:%s%s endpoint=%s clock=%" PRIu64 " version=%" PRIu64 " heard_ms=%" PRIu64, s,
                       server.joined ? " joined" : "", server.lost ? " lost" : "", server.endpoint, server.clock, server.version,
                       server.heard_ms);
    for (uint32_t w = 0; w < members->n_rows; w++) {
        const psd_worker_row_t *row = &members->row[w];
        transcript_say("worker %u: %s%s%s%s%s name=%s incarnation=%" PRIu64 " clock=%" PRIu64 " heard_ms=%" PRIu64, w,
                       psd_worker_state_name(row->state), psd_coordinator_worker_is_lost(look(), w) ? " missed" : "",
                       row->finished ? " finished" : "", row->drains ? " drains" : "", row->quarantined ? " quarantined" : "",
                       row->name, row->incarnation, row->clock, row->heard_ms);
    }
}

static void call(const char *event)
{
    char name[64];
    psd_err_t err = { 0 };
    snprintf(name, sizeof name, "%s", transcript_text(event, "name"));
    const char *failure = *transcript_text(event, "failure") ? transcript_text(event, "failure") : NULL;
    psd_msg_t msg = { .job = run };
    if (!strncmp(event, "set ", 4)) {
        if (psd_coordinator_set(coordinator, now, name, transcript_number(event, "value", 0), "operator", &out, &err) != PSD_OK)
            transcript_say("%s", err.text);
    } else if (!strncmp(event, "committed ", 10)) {
        if (node)
            psd_node_committed(node, now, (uint64_t)transcript_number(event, "clock", 0), failure, &out);
        else
            psd_coordinator_committed(coordinator, now, (uint64_t)transcript_number(event, "clock", 0), failure, &out);
    } else if (!strcmp(event, "begun")) {
        psd_node_save_begun(node, now, &out);
    } else if (!strncmp(event, "written ", 8)) {
        psd_node_part_saved(node, now, (uint32_t)transcript_number(event, "part", 0), &out);
    } else if (!strncmp(event, "saved", 5)) {
        psd_node_saved(node, now, failure, &out);
    } else if (!strncmp(event, "heard ", 6)) {
        msg.worker = (uint32_t)transcript_number(event, "worker", 0);
        msg.incarnation = incarnation[msg.worker];
        psd_coordinator_heard(coordinator, now, peer_of("worker", msg.worker, (uint32_t)transcript_number(event, "user", 0)), &msg);
    } else if (!strcmp(event, "stop") && node)
        transcript_say("%s", psd_node_stop(node, now, &out) ? "it stops" : "only server 0 can stop the job");
    else if (!strcmp(event, "save"))
        transcript_say("%s", psd_node_request_save(node) ? "it saves" : "only server 0 can save");
    else if (!strcmp(event, "malformed"))
        psd_node_malformed(node, peer_of("worker", 0, 0), 0, "bytes", &out);
    else if (!strcmp(event, "version"))
        psd_node_malformed(node, peer_of("worker", 0, 0), 1, "version 1", &out);
    else if (!strcmp(event, "stop"))
        psd_coordinator_stop(coordinator, now, &out);
    else if (!strcmp(event, "facts"))
        say_facts();
    else
        cr_assert_fail("no such event: %s", event);
    flush();
}

static void perform(const char *event)
{
    char who[16], what[24];
    unsigned i;
    unsigned long long ms;
    if (!strncmp(event, "job ", 4) || !strncmp(event, "node ", 5))
        begin(event);
    else if (sscanf(event, "pass %llu", &ms) == 1)
        pass(ms, strstr(event, "alive"));
    else if (sscanf(event, "away %llu", &ms) == 1)
        now += ms;
    else if (sscanf(event, "servers %23s", what) == 1)
        for (uint32_t s = 0; s < n_servers; s++)
            hear(event, "server", s, what);
    else if (sscanf(event, "worker %u %23s", &i, what) == 2 && !strncmp(what, "incarnation=", strlen("incarnation=")))
        incarnation[i] = (uint64_t)transcript_number(event, "incarnation", 0);
    else if (sscanf(event, "%15s %u %23s", who, &i, what) != 3)
        call(event);
    else if (strcmp(what, "again"))
        hear(event, who, i, what);
    else if (!strcmp(who, "server"))
        start[i]++;
    else {
        life[i]++;
        incarnation[i] = 0;
    }
}

static void play(const char *name)
{
    const char *difference = transcript_play(name, perform, name_of);
    cr_assert_null(difference, "%s", difference);
    forget_machines();
    psd_actions_clear(&out);
}

Test(transcripts, of_a_job_in_rounds_from_its_first_server_to_its_end) { play("bsp"); }

Test(transcripts, of_a_job_in_which_each_push_is_a_step_until_it_is_stopped) { play("asp"); }

Test(transcripts, of_a_job_that_goes_on_from_its_checkpoints_until_none_can_be_read) { play("servers"); }

Test(transcripts, of_a_job_whose_workers_are_late_lost_and_never_come_back) { play("late"); }

Test(transcripts, of_workers_that_finish_and_wait_for_the_last_checkpoint) { play("end"); }

Test(transcripts, of_jobs_that_fail) { play("lost"); }

Test(transcripts, of_what_servers_followers_and_operators_ask_for) { play("sums"); }

Test(transcripts, of_the_edges_of_checkpoints_forecasts_and_patience) { play("edges"); }

Test(transcripts, of_those_that_are_gone_or_say_something_again) { play("gone"); }

Test(transcripts, of_what_a_new_run_forgets) { play("runs"); }

Test(transcripts, of_a_coordinator_that_gets_no_time) { play("away"); }

Test(transcripts, of_who_gets_which_place) { play("places"); }

Test(transcripts, of_server_0_with_its_shard) { play("server"); }

Test(transcripts, of_a_server_that_joins_anothers_job) { play("other"); }
