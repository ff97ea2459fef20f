#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"
#include "tests/support/said.h"

TestSuite(wire, .timeout = 600);

static uint8_t frame[PSD_MAX_FRAME_HEADER];
static psd_err_t err;

static psd_msg_t of(psd_kind_t kind) { return (psd_msg_t){ .kind = kind, .protocol = PSD_PROTOCOL, .seq = 7 }; }

/* Write a message to the wire and read it back. */
static psd_buf_t *travel(psd_kind_t kind, psd_buf_t *body)
{
    psd_msg_t in = of(kind), out;
    psd_buf_t *bytes, *came;
    const size_t n = psd_wire_write(&in, body, false, frame, &bytes);
    cr_assert_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(out.kind, kind);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
    return came;
}

Test(wire, a_hello_arrives_with_its_fields)
{
    psd_buf_t *body = travel(PSD_MSG_HELLO, said_body(PSD_MSG_HELLO, "mnist a:1", 0));
    cr_expect_str_eq(psd_body_hello(body)->job, "mnist");
    cr_expect_str_eq(psd_body_hello(body)->name, "a:1");
    psd_buf_unref(&body);
}

Test(wire, a_servers_hello_arrives_with_its_fields)
{
    psd_buf_t *body = travel(PSD_MSG_SHARD_HELLO, said_body(PSD_MSG_SHARD_HELLO, "mnist tcp://b:1 servers=2 mode=bsp", 0));
    cr_expect_str_eq(psd_body_shard_hello(body)->job, "mnist");
    cr_expect_str_eq(psd_body_shard_hello(body)->endpoint, "tcp://b:1");
    cr_expect_str_eq(psd_body_shard_hello(body)->settings, "servers=2 mode=bsp");
    psd_buf_unref(&body);
}

Test(wire, an_operators_request_arrives_with_its_fields)
{
    psd_buf_t *body = travel(PSD_MSG_ADMIN, said_body(PSD_MSG_ADMIN, "mnist set optimizer.lr", 0.25));
    const psd_admin_request_t *request = psd_body_admin_request(body);
    cr_expect(!strcmp(request->job, "mnist") && !strcmp(request->verb, "set") && !strcmp(request->word, "optimizer.lr"));
    cr_expect_eq(request->value, 0.25);
    psd_buf_unref(&body);
    cr_expect_null(travel(PSD_MSG_ADMIN, NULL), "an answer has none");
}

Test(wire, lists_arrive_whole_and_belong_to_the_body)
{
    psd_member_t *member = calloc(2, sizeof *member);
    member[0] = (psd_member_t){ .worker = 3, .incarnation = 1, .samples = 5 };
    member[1] = (psd_member_t){ .worker = 9, .incarnation = 2, .samples = 6 };
    const psd_round_t round = { .clock = 8, .lr = 0.5, .n_contributors = 2, .contributor = member };
    psd_buf_t *body = travel(PSD_MSG_COMMAND, psd_body_of_round(&round));
    cr_assert_eq(psd_body_round(body)->n_contributors, 2);
    cr_expect_eq(psd_body_round(body)->contributor[1].worker, 9);
    cr_expect_eq(psd_body_round(body)->contributor[1].samples, 6);
    cr_expect_eq(psd_body_round(body)->lr, 0.5);
    psd_buf_unref(&body);
}

Test(wire, numbers_travel_uncopied)
{
    const uint8_t map[] = { 5 };
    psd_msg_t in = of(PSD_MSG_PROBE), out;
    psd_buf_t *body = psd_payload_copy(map, sizeof map), *bytes, *came;
    in.parts = 3;
    const size_t n = psd_wire_write(&in, body, false, frame, &bytes);
    cr_expect_eq(bytes, body);
    cr_assert_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(came, body);
    psd_buf_unref(&came);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}

Test(wire, bytes_that_are_no_body_are_refused_by_name)
{
    static const struct {
        psd_kind_t kind;
        const char *line, *sentence;
    } bad[] = {
        { PSD_MSG_HELLO, " a:1", "Hello.job is empty" },
        { PSD_MSG_HELLO, "mnist a\x1b", "Hello.name has an unprintable byte 0x1b at 1" },
        { PSD_MSG_SHARD_HELLO, "mnist \x7f x", "ShardHello.endpoint has an unprintable byte 0x7f at 0" },
        { PSD_MSG_ADMIN, "mnist  x", "AdminRequest.verb is empty" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        psd_msg_t in = of(bad[i].kind), out;
        psd_buf_t *body = said_body(bad[i].kind, bad[i].line, 0), *bytes, *came;
        const size_t n = psd_wire_write(&in, body, false, frame, &bytes);
        cr_expect_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_EPROTO);
        cr_expect_str_eq(err.text, bad[i].sentence);
        cr_expect_null(came);
        cr_expect(out.kind == bad[i].kind && out.protocol == PSD_PROTOCOL && out.seq == 0, "no more of it is known");
        psd_buf_unref(&bytes);
        psd_buf_unref(&body);
    }
    psd_buf_t *body = said_body(PSD_MSG_ADMIN, "mnist set optimizer.lr", INFINITY), *bytes, *came;
    psd_msg_t in = of(PSD_MSG_ADMIN), out;
    const size_t n = psd_wire_write(&in, body, false, frame, &bytes);
    cr_expect_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_EPROTO);
    cr_expect_str_eq(err.text, "AdminRequest.value is inf; expected finite");
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}

Test(wire, a_payload_that_was_damaged_counts_as_lost)
{
    psd_msg_t in = of(PSD_MSG_HELLO), out;
    psd_buf_t *body = said_body(PSD_MSG_HELLO, "mnist a:1", 0), *bytes, *came;
    const size_t n = psd_wire_write(&in, body, false, frame, &bytes);
    ((uint8_t *)bytes->data)[3] ^= 1;
    cr_expect_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_EDATA);
    cr_expect_null(came);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}

static psd_msg_t push_of(uint32_t n)
{
    psd_msg_t msg = of(PSD_MSG_PUSH);
    msg.parts = 1;
    msg.n_elements = n;
    msg.dtype = PSD_DTYPE_F32;
    msg.codec = PSD_CODEC_F32;
    return msg;
}

Test(wire, a_payload_that_its_connection_proves_has_no_checksum_and_says_so)
{
    float gradient[] = { 1, 2 };
    psd_msg_t in = push_of(2), out;
    psd_buf_t *body = psd_buf_borrow(gradient, sizeof gradient), *bytes, *came;
    size_t n = psd_wire_write(&in, body, true, frame, &bytes);
    cr_expect_eq(atomic_load(&body->sum), 0, "the checksum was not requested");
    cr_assert_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_OK, "%s", err.text);
    cr_expect(out.proven && out.checksum == 0);
    cr_expect(psd_checksum_ok(&out, "other bytes", 8));
    psd_buf_unref(&came);
    psd_buf_unref(&bytes);
    n = psd_wire_write(&in, body, false, frame, &bytes);
    cr_assert_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_OK, "%s", err.text);
    cr_expect(!out.proven && out.checksum == psd_crc32c(gradient, sizeof gradient));
    psd_buf_unref(&came);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}

Test(wire, a_small_payload_too_is_summed_only_where_its_way_proves_nothing)
{
    psd_msg_t in = of(PSD_MSG_HELLO), out;
    psd_buf_t *body = said_body(PSD_MSG_HELLO, "mnist a:1", 0), *bytes, *came;
    const size_t n = psd_wire_write(&in, body, true, frame, &bytes);
    cr_assert_eq(psd_wire_read(&out, &came, frame, n, bytes, &err), PSD_OK, "%s", err.text);
    cr_expect(out.proven && out.checksum == 0);
    psd_buf_unref(&came);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}
