#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/actions.h"
#include "tests/support/said.h"
#include "tests/support/transcript.h"
#include "worker/reading.h"

/* A job of two servers and two tensors. */
enum { RUN = 7, NONCE = 40 };
static psd_reading_t *reading;
static psd_actions_t out;
static uint64_t now;
static const psd_tensor_desc_t tensors[] = { { .name = "w", .n_dims = 1, .dim = { 3 }, .n_elements = 3 },
                                             { .name = "b", .n_dims = 1, .dim = { 3 }, .n_elements = 3 },
                                             { .name = "v", .n_dims = 1, .dim = { 3 }, .n_elements = 3 },
                                             { .name = "a", .n_dims = 1, .dim = { 3 }, .n_elements = 3 } };
static uint32_t n_tensors = 2; /* of these */
static uint32_t part_elements = PSD_MAX_CHUNK;
static uint64_t elements_of_all; /* of each tensor; 0: as above */
static const char *rule = "sgd";

static void setup(void)
{
    now = 1000;
    reading = psd_reading_new(&(psd_reading_config_t){ "job", "eye", NONCE, psd_groups_parse });
    cr_assert_not_null(reading);
}

static void teardown(void)
{
    psd_actions_clear(&out);
    psd_reading_destroy(&reading);
}
TestSuite(reading, .init = setup, .fini = teardown, .timeout = 60);

static void say(uint32_t s, const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *buf = said_with(msg, payload, n);
    psd_actions_drop(&out, out.n);
    psd_reading_message(reading, now, PSD_PEER_SERVER + s, msg, buf, &out);
    psd_buf_unref(&buf);
}

static void pass(uint64_t ms)
{
    now += ms;
    psd_actions_drop(&out, out.n);
    psd_reading_tick(reading, now, &out);
}

static const psd_action_t *sent_to(uint32_t s, psd_kind_t kind)
{
    for (size_t i = 0; i < out.n; i++)
        if (out.at[i].act == PSD_ACT_SEND && out.at[i].to == PSD_PEER_SERVER + s && out.at[i].msg.kind == kind)
            return &out.at[i];
    return NULL;
}

static psd_msg_t message(psd_kind_t kind, uint64_t seq)
{
    return (psd_msg_t){ .kind = kind, .protocol = PSD_PROTOCOL, .job = RUN, .seq = seq };
}

static void tell_model(uint64_t seq)
{
    uint8_t bytes[256];
    const psd_msg_t msg = message(PSD_MSG_MODEL, seq);
    psd_tensor_desc_t own[4];
    memcpy(own, tensors, sizeof own);
    for (uint32_t i = 0; i < 4 && elements_of_all; i++)
        own[i].dim[0] = own[i].n_elements = elements_of_all;
    say(0, &msg, bytes, psd_tensors_encode(&(psd_tensor_list_t){ .n = n_tensors, .tensor = own }, bytes, sizeof bytes));
}

static void tell_snapshot(uint64_t seq, uint64_t run, uint64_t number)
{
    uint8_t bytes[512];
    psd_msg_t msg = message(PSD_MSG_FOLLOWED, seq);
    psd_cluster_t cluster = { .n_servers = 2,
                              .endpoint = { "tcp://here:1", "tcp://there:2" },
                              .settings = { .text = "mode=bsp", .mode = "bsp", .lease_ms = 600, .part_elements = part_elements } };
    snprintf(cluster.settings.optimizer, sizeof cluster.settings.optimizer, "%s", rule);
    msg.job = run;
    msg.clock = number;
    say(0, &msg, bytes, psd_cluster_encode(&cluster, bytes, sizeof bytes));
}

/* A server's one part: three times `x`, NAN: it is gone. */
static void tell_values(uint32_t s, uint64_t seq, uint64_t number, uint64_t version, float x)
{
    const float values[] = { x, x, x };
    psd_msg_t msg = message(PSD_MSG_VALUES, seq);
    const bool gone = isnan(x);
    msg.clock = number;
    msg.shard = s;
    msg.parts = 1;
    msg.version = version;
    msg.n_elements = gone ? 0 : 3;
    msg.dtype = msg.codec = gone ? 0 : 1;
    msg.checksum = gone ? 0 : psd_crc32c(values, sizeof values);
    say(s, &msg, values, gone ? 0 : sizeof values);
}

static void begin(void)
{
    psd_actions_drop(&out, out.n);
    psd_reading_begin(reading, now, false, &out);
}

static void read_once(float x)
{
    begin();
    cr_assert_not_null(sent_to(0, PSD_MSG_FOLLOW));
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    cr_assert(sent_to(0, PSD_MSG_READ) && sent_to(1, PSD_MSG_READ));
    tell_values(0, seq, 5, 17, x);
    tell_values(1, seq, 5, 17, x);
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_IDLE);
}

Test(reading, weights_of_both_servers_are_there_when_the_last_part_has_come)
{
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.code, PSD_FOLLOW_MODEL);
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    cr_expect_eq(sent_to(1, PSD_MSG_READ)->msg.clock, 5);
    tell_values(1, seq, 5, 17, 2);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_PARTS);
    cr_expect_null(psd_reading_weights(reading));
    tell_values(0, seq, 5, 17, 1);
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_IDLE);
    cr_expect_eq(psd_reading_version(reading), 17);
    cr_expect_eq(psd_reading_weights(reading)[0][2] + psd_reading_weights(reading)[1][2], 3);
}

Test(reading, the_weights_read_last_stay_until_the_next_are_complete)
{
    read_once(1);
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.code, 0, "the model is known");
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.clock, 0, "the snapshot that it has read is not what it asks for");
    tell_snapshot(seq, RUN, 9);
    tell_values(0, seq, 9, 18, 2);
    cr_expect_eq(psd_reading_weights(reading)[0][0], 1);
    cr_expect_eq(psd_reading_version(reading), 17);
    tell_values(1, seq, 9, 18, 2);
    cr_expect_eq(psd_reading_weights(reading)[0][0], 2);
}

Test(reading, the_version_is_that_of_the_server_that_has_made_the_fewest_steps)
{
    for (uint32_t last = 0; last < 2; last++) { /* in asp, servers may be some steps apart */
        begin();
        const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
        tell_model(seq);
        tell_snapshot(seq, RUN, 5);
        tell_values(!last, seq, 5, last ? 17 : 18, 1);
        tell_values(last, seq, 5, last ? 18 : 17, 1);
        cr_assert_eq(psd_reading_phase(reading), PSD_READING_IDLE);
        cr_expect_eq(psd_reading_version(reading), 17);
    }
}

Test(reading, a_silent_server_is_asked_again_after_ever_longer_pauses_of_at_most_a_second)
{
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    static const uint64_t pause_ms[] = { 50, 100, 200, 400, 800, 1000, 1000, 1000 };
    for (size_t i = 0; i < sizeof pause_ms / sizeof *pause_ms; i++) {
        pass(pause_ms[i] - 1);
        cr_expect_null(sent_to(1, PSD_MSG_READ), "pause %zu", i);
        pass(1);
        cr_expect_not_null(sent_to(1, PSD_MSG_READ), "pause %zu", i);
    }
}

Test(reading, values_of_another_snapshot_or_question_are_not_mixed_in)
{
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq - 1, RUN, 4);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_ASKING, "that was the answer to an earlier question");
    tell_snapshot(seq, RUN, 5);
    tell_values(0, seq, 4, 16, 9);
    tell_values(1, seq - 1, 5, 17, 9);
    tell_values(0, seq, 5, 17, 1);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_PARTS, "server 1 has not answered");
}

Test(reading, a_snapshot_that_is_gone_is_requested_again)
{
    begin();
    uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    tell_values(0, seq, 5, 17, 1);
    tell_values(1, seq, 5, 17, NAN);
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_ASKING);
    pass(200);
    cr_assert_not_null(sent_to(0, PSD_MSG_FOLLOW));
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.code, PSD_FOLLOW_GONE);
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.clock, 5);
    seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_snapshot(seq, RUN, 8);
    tell_values(1, seq, 8, 19, 2);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_PARTS, "all parts are read again, also those that had come");
    tell_values(0, seq, 8, 19, 2);
    cr_expect_eq(psd_reading_version(reading), 19);
}

Test(reading, a_run_that_begins_meanwhile_is_read_from_its_own_beginning)
{
    begin();
    uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    tell_values(0, seq, 5, 17, 1);
    pass(200);
    cr_assert_not_null(sent_to(0, PSD_MSG_FOLLOW));
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.job, RUN);
    cr_expect_eq(sent_to(0, PSD_MSG_FOLLOW)->msg.clock, 5);
    tell_snapshot(seq, RUN + 1, 5); /* the answer to its report that it still reads */
    cr_assert_not_null(sent_to(0, PSD_MSG_READ));
    cr_expect_eq(sent_to(0, PSD_MSG_READ)->msg.job, RUN + 1);
}

Test(reading, a_waiting_reader_asks_again_and_names_what_it_waits_for)
{
    char text[200];
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    pass(200);
    cr_expect_not_null(sent_to(0, PSD_MSG_FOLLOW));
    psd_msg_t wait = message(PSD_MSG_WAIT, seq);
    snprintf(wait.text, sizeof wait.text, "the job to begin");
    say(0, &wait, NULL, 0);
    psd_reading_describe_wait(reading, text, sizeof text);
    cr_expect_str_eq(text, "the job to begin");
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    tell_values(0, seq, 5, 17, 1);
    psd_reading_describe_wait(reading, text, sizeof text);
    cr_expect_str_eq(text, "1 of 1 parts of server 1 at tcp://there:2");
    pass(50);
    cr_expect_not_null(sent_to(1, PSD_MSG_READ), "the snapshot may not have been there yet");
    cr_expect_null(sent_to(0, PSD_MSG_READ));
}

static void expect_wait(const char *words)
{
    char text[200];
    psd_reading_describe_wait(reading, text, sizeof text);
    cr_expect_str_eq(text, words);
}

Test(reading, a_reason_for_waiting_is_forgotten_with_its_question)
{
    for (int turn = 0; turn < 2; turn++) {
        begin();
        expect_wait("an answer from server 0");
        const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
        psd_msg_t wait = message(PSD_MSG_WAIT, seq);
        snprintf(wait.text, sizeof wait.text, "the job to begin");
        say(0, &wait, NULL, 0);
        expect_wait("the job to begin");
        if (turn) {
            tell_model(seq);
            tell_snapshot(seq, RUN, 5);
            tell_values(0, seq, 5, 17, NAN);
            cr_expect_eq(psd_reading_phase(reading), PSD_READING_ASKING, "it is gone");
            expect_wait("an answer from server 0");
        }
        psd_reading_stop(reading);
    }
}

Test(reading, a_job_that_has_failed_ends_reading_with_its_own_code)
{
    begin();
    psd_msg_t no = message(PSD_MSG_REFUSED, 0); /* it answers no question */
    no.code = PSD_REFUSAL_ABSENT;
    snprintf(no.text, sizeof no.text, "gave up");
    say(1, &no, NULL, 0);
    cr_expect_eq(psd_reading_error(reading)->code, PSD_EUNAVAILABLE);
    cr_expect_not_null(strstr(psd_reading_error(reading)->text, "server 1 refused ("));
}

Test(reading, a_refusal_of_server_0_is_final_and_names_the_reason)
{
    begin();
    psd_msg_t no = message(PSD_MSG_REFUSED, sent_to(0, PSD_MSG_FOLLOW)->msg.seq);
    no.code = PSD_REFUSAL_JOB;
    snprintf(no.text, sizeof no.text, "job job is finished");
    say(0, &no, NULL, 0);
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_FAILED);
    cr_expect_eq(psd_reading_error(reading)->code, PSD_EREFUSED);
    cr_expect_str_eq(psd_reading_error(reading)->text, "server 0 refused (job): job job is finished");
    begin();
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_ASKING);
}

Test(reading, a_request_for_parts_names_the_snapshot_and_which_weights)
{
    for (int slow = 0; slow < 2; slow++) {
        psd_actions_drop(&out, out.n);
        psd_reading_begin(reading, now, slow, &out);
        const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
        tell_model(seq);
        tell_snapshot(seq, RUN, 5 + (uint64_t)slow);
        for (uint32_t s = 0; s < 2; s++) {
            const psd_action_t *asked = sent_to(s, PSD_MSG_READ);
            cr_assert_not_null(asked);
            cr_expect_eq(asked->msg.job, RUN);
            cr_expect_eq(asked->msg.seq, seq);
            cr_expect_eq(asked->msg.clock, 5 + (uint64_t)slow);
            cr_expect_eq(asked->msg.shard, s);
            cr_expect_eq(asked->msg.parts, 1);
            cr_expect_eq(asked->msg.code, slow ? PSD_READ_SLOW : 0);
            cr_expect_eq(*(const uint8_t *)asked->payload->data, 1);
        }
        for (uint32_t s = 0; s < 2; s++)
            tell_values(s, seq, 5 + (uint64_t)slow, 17, 1);
    }
}

/* A reader in the middle of snapshot 5. Returns the number of its question. */
static uint64_t half_read(void)
{
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    tell_values(0, seq, 5, 17, 1);
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_PARTS);
    return seq;
}

/* It asks server 0 anew, for any snapshot. */
static void expect_asked_anew(uint64_t seq)
{
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_ASKING);
    pass(200);
    const psd_action_t *asked = sent_to(0, PSD_MSG_FOLLOW);
    cr_assert_not_null(asked);
    cr_expect_eq(asked->msg.clock, 0);
    cr_expect_eq(asked->msg.code, 0, "no snapshot is gone");
    cr_expect_neq(asked->msg.seq, seq);
}

Test(reading, a_reader_that_is_told_to_wait_for_its_snapshot_asks_anew_for_any)
{
    const uint64_t seq = half_read();
    psd_msg_t wait = message(PSD_MSG_WAIT, seq - 1);
    snprintf(wait.text, sizeof wait.text, "other followers");
    say(0, &wait, NULL, 0);
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_PARTS, "that was the answer to another question");
    wait.seq = seq;
    say(0, &wait, NULL, 0);
    expect_wait("other followers");
    expect_asked_anew(seq);
}

Test(reading, a_server_that_has_restarted_has_the_reader_ask_anew)
{
    static const psd_refusal_t reasons[] = { PSD_REFUSAL_JOB, PSD_REFUSAL_SHARD, PSD_REFUSAL_SHAPE };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        const uint64_t seq = half_read();
        psd_msg_t no = message(PSD_MSG_REFUSED, seq - 1);
        no.code = reasons[i];
        say(1, &no, NULL, 0);
        cr_expect_eq(psd_reading_phase(reading), PSD_READING_PARTS, "that was the answer to another question");
        no.seq = seq;
        say(1, &no, NULL, 0);
        expect_asked_anew(seq);
    }
}

Test(reading, a_damaged_part_is_read_again)
{
    const uint64_t seq = half_read();
    const float values[] = { 2, 2, 2 };
    psd_msg_t msg = message(PSD_MSG_VALUES, seq);
    msg.clock = 5;
    msg.shard = 1;
    msg.parts = 1;
    msg.version = 17;
    msg.n_elements = 3;
    msg.dtype = msg.codec = 1;
    msg.checksum = psd_crc32c(values, sizeof values) + 1;
    say(1, &msg, values, sizeof values);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_PARTS);
    pass(50);
    cr_assert_not_null(sent_to(1, PSD_MSG_READ));
    tell_values(1, seq, 5, 17, 2);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_IDLE);
    cr_expect_eq(psd_reading_run(reading), RUN);
    cr_expect_eq(psd_reading_model(reading)->n, 2);
    cr_expect_eq(psd_reading_cluster(reading)->n_servers, 2);
}

/* The part `part` of two of a server. */
static void tell_part(uint32_t s, uint64_t seq, uint32_t part, float x)
{
    const float values[] = { x, x, x };
    psd_msg_t msg = message(PSD_MSG_VALUES, seq);
    msg.clock = 5;
    msg.shard = s;
    msg.part = part;
    msg.parts = 2;
    msg.version = 17;
    msg.n_elements = 3;
    msg.dtype = msg.codec = 1;
    msg.checksum = psd_crc32c(values, sizeof values);
    say(s, &msg, values, sizeof values);
}

Test(reading, after_each_part_the_others_are_waited_for_anew_and_only_these_are_asked_for)
{
    n_tensors = 4;
    part_elements = 3;
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    cr_assert_not_null(sent_to(1, PSD_MSG_READ));
    cr_expect_eq(sent_to(1, PSD_MSG_READ)->msg.parts, 2);
    cr_expect_eq(*(const uint8_t *)sent_to(1, PSD_MSG_READ)->payload->data, 3, "both parts");
    tell_part(0, seq, 0, 1);
    tell_part(0, seq, 1, 1);
    now += 40;
    tell_part(1, seq, 0, 1);
    tell_part(1, seq, 0, 1); /* it comes twice */
    expect_wait("1 of 2 parts of server 1 at tcp://there:2");
    pass(960);
    cr_expect_null(sent_to(1, PSD_MSG_READ), "a server that sends may take a second for the next one");
    pass(40);
    cr_assert_not_null(sent_to(1, PSD_MSG_READ));
    cr_expect_eq(*(const uint8_t *)sent_to(1, PSD_MSG_READ)->payload->data, 2);
    cr_expect_null(sent_to(0, PSD_MSG_READ));
    tell_part(1, seq, 1, 1);
    cr_expect_eq(psd_reading_phase(reading), PSD_READING_IDLE);
}

/* The parts that a server was asked for by the last event: a bit each. */
static unsigned parts_asked_of(uint32_t s)
{
    const psd_action_t *asked = sent_to(s, PSD_MSG_READ);
    return asked ? *(const uint8_t *)asked->payload->data : 0;
}

Test(reading, a_server_is_asked_for_four_mib_at_once_and_for_more_when_half_of_them_have_come)
{
    enum { PART = 1 << 18, PARTS = 8 }; /* elements of a part, 1 MiB */
    static float values[PART];
    part_elements = PART;
    elements_of_all = PARTS * PART;
    begin();
    const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
    tell_model(seq);
    tell_snapshot(seq, RUN, 5);
    cr_assert_not_null(sent_to(0, PSD_MSG_READ));
    cr_expect_eq(sent_to(0, PSD_MSG_READ)->msg.parts, PARTS);
    cr_expect_eq(parts_asked_of(0), 0xf);
    cr_expect_eq(parts_asked_of(1), 0xf);
    pass(50);
    cr_expect_eq(parts_asked_of(0), 0xf, "none has come: all four may be lost");
    cr_expect_eq(parts_asked_of(1), 0xf);
    tell_snapshot(seq, RUN, 6);
    cr_expect_eq(parts_asked_of(0), 0xf, "of another snapshot none is on its way");
    cr_expect_eq(parts_asked_of(1), 0xf);
    /* By each part that comes, the parts that are then asked for; the first was not asked for. */
    static const struct {
        uint32_t part;
        unsigned then;
    } come[] = { { 7, 0 }, { 0, 0 }, { 2, 0x30 }, { 1, 0 }, { 4, 0x40 }, { 3, 0 } };
    psd_msg_t msg = message(PSD_MSG_VALUES, seq);
    msg.clock = 6;
    msg.parts = PARTS;
    msg.n_elements = PART;
    msg.dtype = msg.codec = 1;
    for (size_t i = 0; i < sizeof come / sizeof *come; i++) {
        msg.part = come[i].part;
        values[0] = values[PART - 1] = (float)msg.part;
        msg.checksum = psd_crc32c(values, sizeof values);
        say(0, &msg, values, sizeof values);
        cr_expect_eq(parts_asked_of(0), come[i].then, "after part %u: %x", msg.part, parts_asked_of(0));
    }
    expect_wait("2 of 8 parts of server 0 at tcp://here:1");
    pass(1000);
    cr_expect_eq(parts_asked_of(0), 0x60, "%x", parts_asked_of(0));
    for (uint32_t s = 0; s < 2; s++)
        for (msg.part = s ? 0 : 5; msg.part < PARTS; msg.part++) {
            values[0] = values[PART - 1] = (float)msg.part;
            msg.checksum = psd_crc32c(values, sizeof values);
            msg.shard = s;
            say(s, &msg, values, sizeof values);
        }
    cr_assert_eq(psd_reading_phase(reading), PSD_READING_IDLE);
    unsigned found[PARTS] = { 0 }; /* each tensor has PARTS chunks, and each server has some of both */
    for (uint32_t t = 0; t < 2; t++)
        for (uint32_t c = 0; c < PARTS; c++) {
            const float *chunk = psd_reading_weights(reading)[t] + (size_t)c * PART;
            cr_assert(chunk[0] >= 0 && chunk[0] < PARTS);
            cr_expect_eq(chunk[0], chunk[PART - 1]);
            found[(int)chunk[0]]++;
        }
    for (uint32_t part = 0; part < PARTS; part++)
        cr_expect_eq(found[part], 2, "part %u of each server", part);
}

Test(reading, a_tensor_that_is_stepped_whole_is_read_from_one_server_and_another_from_all)
{
    elements_of_all = 2048; /* two chunks */
    part_elements = 1024;
    n_tensors = 1;
    for (int whole = 0; whole < 2; whole++) {
        teardown();
        setup();
        rule = whole ? "adafactor" : "sgd";
        begin();
        const uint64_t seq = sent_to(0, PSD_MSG_FOLLOW)->msg.seq;
        tell_model(seq);
        tell_snapshot(seq, RUN, 5);
        cr_expect_eq(parts_asked_of(0), whole ? 3 : 1, "%s: %x", rule, parts_asked_of(0));
        cr_expect_eq(parts_asked_of(1), whole ? 0 : 1, "%s: %x", rule, parts_asked_of(1));
    }
}

/* ---- a whole life, as in its transcript ---- */

static const char *name_of_server(psd_peer_t peer)
{
    static char name[24];
    snprintf(name, sizeof name, "server %u", (unsigned)(peer - PSD_PEER_SERVER));
    return name;
}

static size_t played_cluster(const char *event, uint8_t *bytes, size_t capacity)
{
    psd_cluster_t cluster = { .n_servers = (uint32_t)transcript_number(event, "servers", 2),
                              .settings = { .text = "mode=bsp", .mode = "bsp", .lease_ms = 600 } };
    for (uint32_t s = 0; s < cluster.n_servers; s++)
        snprintf(cluster.endpoint[s], sizeof cluster.endpoint[s], "tcp://host%u:7", s);
    snprintf(cluster.settings.optimizer, sizeof cluster.settings.optimizer, "%s",
             *transcript_text(event, "rule") ? transcript_text(event, "rule") : "sgd");
    cluster.settings.part_elements = (uint32_t)transcript_number(event, "most", 4);
    return psd_cluster_encode(&cluster, bytes, capacity);
}

static void hear(const char *event)
{
    static psd_tensor_desc_t a_to_d[] = { { .name = "a", .n_dims = 1, .dim = { 2 }, .n_elements = 2 },
                                          { .name = "b", .n_dims = 1, .dim = { 3 }, .n_elements = 3 },
                                          { .name = "c", .n_dims = 2, .dim = { 2, 2 }, .n_elements = 4 },
                                          { .name = "d", .n_dims = 1, .dim = { 3 }, .n_elements = 3 } };
    char kind[32];
    uint8_t bytes[2048];
    float values[8];
    uint32_t n_values = 0;
    const size_t word = strcspn(event, " ") + 1;
    snprintf(kind, sizeof kind, "%.*s", (int)strcspn(event + word, " "), event + word);
    const uint32_t from = (uint32_t)transcript_number(event, "from", 0);
    psd_msg_t msg = message(transcript_kind(kind), NONCE + 1);
    msg.shard = from;
    transcript_fields(event, &msg);
    size_t n = 0;
    if (msg.kind == PSD_MSG_MODEL)
        n = psd_tensors_encode(&(psd_tensor_list_t){ .n = (uint32_t)transcript_number(event, "tensors", 4), .tensor = a_to_d },
                               bytes, sizeof bytes);
    else if (msg.kind == PSD_MSG_FOLLOWED)
        n = played_cluster(event, bytes, sizeof bytes);
    const char *text = transcript_text(event, "values");
    for (char *end; *text; text = *end ? end + 1 : end)
        values[n_values++] = strtof(text, &end);
    if (n_values) {
        msg.n_elements = n_values;
        msg.dtype = PSD_DTYPE_F32;
        msg.codec = (uint32_t)transcript_number(event, "codec", PSD_CODEC_F32);
        n = n_values * sizeof *values;
        memcpy(bytes, values, n);
        msg.checksum = psd_crc32c(values, n) + (transcript_number(event, "damaged", 0) != 0);
    }
    psd_buf_t *buf = n ? said_with(&msg, bytes, n) : NULL;
    psd_reading_message(reading, now, PSD_PEER_SERVER + from, &msg, buf, &out);
    psd_buf_unref(&buf);
}

static void say_facts_that_changed(void)
{
    static const char *const phases[] = { "IDLE", "ASKING", "PARTS", "FAILED" };
    static char before[2048];
    char *facts, wait[300];
    size_t size;
    FILE *page = open_memstream(&facts, &size);
    const psd_tensor_list_t *model = psd_reading_model(reading);
    psd_reading_describe_wait(reading, wait, sizeof wait);
    fprintf(page, "= %s run=%lu version=%lu servers=%u waits=\"%s\" %d \"%s\"", phases[psd_reading_phase(reading)],
            (unsigned long)psd_reading_run(reading), (unsigned long)psd_reading_version(reading),
            psd_reading_cluster(reading) ? psd_reading_cluster(reading)->n_servers : 0, wait, psd_reading_error(reading)->code,
            psd_reading_error(reading)->text);
    for (uint32_t t = 0; t < model->n; t++) {
        fprintf(page, " %s", model->tensor[t].name);
        for (uint64_t i = 0; psd_reading_weights(reading) && i < model->tensor[t].n_elements; i++)
            fprintf(page, "%c%g", i ? ',' : '=', (double)psd_reading_weights(reading)[t][i]);
    }
    fclose(page);
    if (strcmp(facts, before))
        transcript_say("%s", facts);
    snprintf(before, sizeof before, "%s", facts);
    free(facts);
}

static void perform(const char *event)
{
    psd_actions_drop(&out, out.n);
    if (!strncmp(event, "pass ", 5)) {
        for (uint64_t end = now + strtoull(event + 5, NULL, 10); now < end;) {
            now += 50;
            psd_reading_tick(reading, now, &out);
            transcript_actions(now, &out);
        }
    } else if (!strncmp(event, "from=", 5))
        hear(event);
    else if (!strncmp(event, "begin", 5))
        psd_reading_begin(reading, now, transcript_number(event, "slow", 0) != 0, &out);
    else if (!strncmp(event, "stop", 4))
        psd_reading_stop(reading);
    else if (!strncmp(event, "fail", 4))
        psd_reading_fail(reading, (int)transcript_number(event, "code", 0), transcript_text(event, "why"));
    else
        cr_assert_fail("no such event: %s", event);
    transcript_actions(now, &out);
    say_facts_that_changed();
}

Test(reading, a_life_is_as_in_its_transcript)
{
    const char *difference = transcript_play("reading", perform, name_of_server);
    cr_expect_null(difference, "%s", difference);
}
