#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/message.h"

TestSuite(message, .timeout = 600);

/* A correct PUSH of three elements, with the fields that follow replaced. */
#define PUSH(...)                                                                                                                  \
    ((psd_msg_t){ .kind = PSD_MSG_PUSH,                                                                                            \
                  .protocol = PSD_PROTOCOL,                                                                                        \
                  .job = 7,                                                                                                        \
                  .view_id = 3,                                                                                                    \
                  .map_id = 2,                                                                                                     \
                  .worker = 1,                                                                                                     \
                  .incarnation = 4,                                                                                                \
                  .clock = 9,                                                                                                      \
                  .base_version = 8,                                                                                               \
                  .shard = 1,                                                                                                      \
                  .shard_epoch = 2,                                                                                                \
                  .part = 5,                                                                                                       \
                  .parts = 6,                                                                                                      \
                  .samples = 64,                                                                                                   \
                  .loss = 0.5,                                                                                                     \
                  .norm2 = 1.5,                                                                                                    \
                  .dtype = PSD_DTYPE_F32,                                                                                          \
                  .codec = PSD_CODEC_F32,                                                                                          \
                  .checksum = 0xfeed,                                                                                              \
                  .n_elements = 3,                                                                                                 \
                  __VA_ARGS__ })
#define LEFT(...) ((psd_msg_t){ .kind = PSD_MSG_LEFT, .protocol = PSD_PROTOCOL, __VA_ARGS__ })

static psd_err_t err;

static int trip(const psd_msg_t *in, size_t payload_bytes, psd_msg_t *out)
{
    uint8_t frame[PSD_MAX_HEADER];
    size_t n = psd_msg_encode(in, frame);
    cr_assert(n <= PSD_MAX_HEADER);
    return psd_msg_decode(out, frame, n, payload_bytes, &err);
}

static void assert_refused(const uint8_t *frame, size_t n, size_t payload_bytes, const char *why)
{
    psd_msg_t out;
    err.text[0] = '\0';
    cr_assert_eq(psd_msg_decode(&out, frame, n, payload_bytes, &err), PSD_EPROTO, "accepted: %s", why);
    cr_assert_not_null(strstr(err.text, why), "\"%s\" lacks \"%s\"", err.text, why);
}

Test(message, every_field_survives_the_trip)
{
    psd_msg_t in = PUSH(.version = 10, .sync_epoch = 11, .nonfinite = true, .seq = UINT64_MAX, .code = 12, .rank = 13, .world = 14,
                        .lr = 0.001, .value = -2.5, .text = "größer → 日本 🙂");
    psd_msg_t out;
    cr_assert_eq(trip(&in, 12, &out), PSD_OK, "%s", err.text);
    cr_assert_eq(out.kind, PSD_MSG_PUSH);
    cr_assert_eq(memcmp(&in, &out, sizeof in), 0);
}

Test(message, every_kind_travels_with_the_payload_that_its_row_names){
#define X(name, number, sender, receiver, payload, may_be_empty, meaning)                                                          \
    {                                                                                                                              \
        bool chunk = PSD_PAYLOAD_##payload == PSD_PAYLOAD_PART;                                                                    \
        bool sums = PSD_PAYLOAD_##payload == PSD_PAYLOAD_SUMS, list = PSD_PAYLOAD_##payload >= PSD_PAYLOAD_TENSORS;                \
        psd_msg_t in = { .kind = number,                                                                                           \
                         .protocol = PSD_PROTOCOL,                                                                                 \
                         .parts = 9,                                                                                               \
                         .dtype = chunk,                                                                                           \
                         .codec = chunk,                                                                                           \
                         .n_elements = chunk || sums ? 5 : 0 },                                                                    \
                  out;                                                                                                             \
        size_t right = chunk ? 20 : sums ? 360 : PSD_PAYLOAD_##payload == PSD_PAYLOAD_BITMAP ? 2 : list ? 77 : 0;                  \
        cr_assert_eq(trip(&in, right, &out), PSD_OK, "%s: %s", #name, err.text);                                                   \
        cr_assert_eq(trip(&in, right + (list ? PSD_MAX_LIST : 1), &out), PSD_EPROTO);                                              \
        if (right)                                                                                                                 \
            cr_assert_eq(trip(&in, list ? 0 : right - 1, &out), list &&may_be_empty ? PSD_OK : PSD_EPROTO);                        \
        cr_assert_str_eq(psd_kind_name(number), #name);                                                                            \
        cr_assert_eq(psd_kind_sender(number), (unsigned)(sender));                                                                 \
        cr_assert_eq(psd_kind_receiver(number), (unsigned)(receiver));                                                             \
        cr_assert_eq(psd_kind_payload(number), PSD_PAYLOAD_##payload);                                                             \
        in.n_elements = 0;                                                                                                         \
        if (chunk)                                                                                                                 \
            cr_assert_eq(trip(&in, 0, &out), may_be_empty ? PSD_OK : PSD_EPROTO, "%s empty", #name);                               \
    }
    PSD_MESSAGES(X)
#undef X
}

Test(message, names_of_unknown_numbers_are_unknown)
{
    cr_assert_str_eq(psd_kind_name(0), "unknown");
    cr_assert_str_eq(psd_kind_name((psd_kind_t)4000000000u), "unknown");
    cr_assert_eq(psd_kind_sender((psd_kind_t)99), 0);
    cr_assert_eq(psd_kind_receiver((psd_kind_t)99), 0);
    cr_assert_str_eq(psd_refusal_name(PSD_REFUSAL_NONFINITE), "nonfinite");
    cr_assert_str_eq(psd_refusal_name(PSD_N_REFUSALS), "unknown");
}

Test(message, a_field_out_of_its_range_is_refused_by_name)
{
    const struct {
        const char *sentence;
        size_t payload_bytes;
        psd_msg_t msg;
    } lies[] = {
        { "PUSH.protocol is 1, ours is 8", 12, PUSH(.protocol = 1) },
        { "PUSH.protocol is 0", 12, PUSH(.protocol = 0) },
        { "PUSH.protocol is 99", 12, PUSH(.protocol = 99) },
        { "kind 100 is unknown", 12, PUSH(.kind = 100) },
        { "kind 0 is unknown", 12, PUSH(.kind = 0) },
        { "PUSH.worker is 4096, at most 4095", 12, PUSH(.worker = 4096) },
        { "PUSH.worker is 4294967295", 12, PUSH(.worker = UINT32_MAX) },
        { "PUSH.view_id is", 12, PUSH(.view_id = UINT64_MAX) },
        { "PUSH.incarnation is 4611686018427387905", 12, PUSH(.incarnation = PSD_MAX_COUNT + 1) },
        { "PUSH.clock is 9223372036854775808", 12, PUSH(.clock = UINT64_C(1) << 63) },
        { "PUSH.base_version is", 12, PUSH(.base_version = UINT64_MAX) },
        { "PUSH.version is", 12, PUSH(.version = UINT64_MAX) },
        { "PUSH.sync_epoch is", 12, PUSH(.sync_epoch = UINT64_MAX) },
        { "PUSH.shard is 256, at most 255", 12, PUSH(.shard = 256) },
        { "PUSH.shard_epoch is", 12, PUSH(.shard_epoch = UINT64_MAX) },
        { "PUSH.part is 6 of 6", 12, PUSH(.part = 6) },
        { "PUSH.part is 5 of 0", 12, PUSH(.parts = 0) },
        { "PUSH.parts is 0 with a part", 12, PUSH(.part = 0, .parts = 0) },
        { "PUSH.parts is 1048577", 12, PUSH(.parts = (1 << 20) + 1) },
        { "PUSH.samples is", 12, PUSH(.samples = PSD_MAX_SAMPLES + 1) },
        { "PUSH.norm2 is inf; expected finite", 12, PUSH(.norm2 = INFINITY) },
        { "PUSH.norm2 is nan; expected finite", 12, PUSH(.norm2 = NAN) },
        { "PUSH.norm2 is -1, at least 0", 12, PUSH(.norm2 = -1) },
        { "PUSH.lr is inf", 12, PUSH(.lr = INFINITY) },
        { "PUSH.lr is -0.1", 12, PUSH(.lr = -0.1) },
        { "PUSH.dtype is 2, at most 1", 12, PUSH(.dtype = 2) },
        { "PUSH.dtype is 0 with a part, at least 1", 12, PUSH(.dtype = 0) },
        { "PUSH.codec is 6, at most 5", 12, PUSH(.codec = 6) },
        { "PUSH.codec is 0 with a part, at least 1", 12, PUSH(.codec = 0) },
        { "PUSH payload has 0 bytes of codec 3; expected 1 to 24", 0, PUSH(.codec = 3) },
        { "PUSH payload has 25 bytes of codec 3; expected 1 to 24", 25, PUSH(.codec = 3) },
        { "PUSH.n_elements is 262145", (PSD_MAX_CHUNK + 1) * 4, PUSH(.n_elements = PSD_MAX_CHUNK + 1) },
        /* 2^30 elements of 4 bytes are 0 in 32 bits. */
        { "PUSH.n_elements is 1073741824", 0, PUSH(.n_elements = 1u << 30) },
        { "PUSH payload has 11 bytes; expected 12", 11, PUSH(.code = 0) },
        { "PUSH payload has 13 bytes", 13, PUSH(.code = 0) },
        { "PUSH payload has 0 bytes", 0, PUSH(.code = 0) },
        { "PUSH payload has 1048577 bytes", (1 << 20) + 1, PUSH(.n_elements = PSD_MAX_CHUNK) },
        { "PUSH.rank is 2 of 2", 12, PUSH(.rank = 2, .world = 2) },
        { "PUSH.rank is 1 of 0", 12, PUSH(.rank = 1) },
        { "PUSH.world is 4097", 12, PUSH(.world = 4097) },
        { "INIT.n_elements is 0", 0, PUSH(.kind = PSD_MSG_INIT, .n_elements = 0) },
        { "REFUSED.code is 25, at most 24", 0, PUSH(.kind = PSD_MSG_REFUSED, .code = 25) },
        { "LEFT payload has 1 bytes; expected 0", 1, LEFT(.code = 0) },
        { "LEFT.text has an unprintable byte 0x0a at 3", 0, LEFT(.text = "two\nlines") },
        { "LEFT.text has an unprintable byte 0x1b at 0", 0, LEFT(.text = "\033[2J") },
        { "LEFT.text has an unprintable byte 0x7f", 0, LEFT(.text = "\177") },
        { "unprintable byte 0xc2", 0, LEFT(.text = "\xc2\x85") },         /* C1 control */
        { "unprintable byte 0xc0", 0, LEFT(.text = "\xc0\xaf") },         /* overlong '/' */
        { "unprintable byte 0xe0", 0, LEFT(.text = "\xe0\x80\xaf") },     /* overlong '/' */
        { "unprintable byte 0xed", 0, LEFT(.text = "\xed\xa0\x80") },     /* surrogate */
        { "unprintable byte 0xf4", 0, LEFT(.text = "\xf4\x90\x80\x80") }, /* above U+10FFFF */
        { "unprintable byte 0xe2", 0, LEFT(.text = "\xe2\x82") },         /* cut */
        { "unprintable byte 0x80", 0, LEFT(.text = "\x80") },             /* no start */
        { "PROBE payload has 1 bytes; expected 2", 1, PUSH(.kind = PSD_MSG_PROBE, .parts = 9) },
        { "REGISTER payload has 4194305 bytes", PSD_MAX_LIST + 1, PUSH(.kind = PSD_MSG_REGISTER) },
        { "REGISTER payload has 0 bytes", 0, PUSH(.kind = PSD_MSG_REGISTER) },
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint8_t frame[PSD_MAX_HEADER];
        size_t n = psd_msg_encode(&lies[i].msg, frame);
        assert_refused(frame, n, lies[i].payload_bytes, lies[i].sentence);
    }
}

Test(message, a_refused_header_leaves_nothing_but_kind_and_protocol)
{
    psd_msg_t in = PUSH(.worker = 5000), out, want = { .kind = PSD_MSG_PUSH, .protocol = PSD_PROTOCOL };
    memset(&out, 0xaa, sizeof out);
    cr_assert_eq(trip(&in, 12, &out), PSD_EPROTO);
    cr_assert_eq(memcmp(&out, &want, sizeof out), 0);
}

Test(message, a_diverged_worker_can_report_its_loss)
{
    psd_msg_t in = PUSH(.loss = NAN, .norm2 = INFINITY, .nonfinite = true, .value = -INFINITY), out;
    cr_assert_eq(trip(&in, 12, &out), PSD_OK, "%s", err.text);
    cr_assert(isnan(out.loss) && isinf(out.norm2) && out.nonfinite && out.value < 0);
}

Test(message, a_header_cut_anywhere_is_refused)
{
    uint8_t frame[PSD_MAX_HEADER];
    psd_msg_t push = PUSH(.code = 0);
    size_t n = psd_msg_encode(&push, frame);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + 1); /* so that the sanitizers notice a read past the end */
        memcpy(exact, frame, cut);
        assert_refused(exact, cut, 12, "");
        free(exact);
    }
}

Test(message, any_byte_after_the_end_is_refused)
{
    uint8_t frame[PSD_MAX_HEADER];
    psd_msg_t push = PUSH(.code = 0);
    size_t n = psd_msg_encode(&push, frame);
    for (unsigned byte = 0; byte < 256; byte++) {
        frame[n] = (uint8_t)byte;
        assert_refused(frame, n + 1, 12, "malformed");
    }
}

static size_t put_varint(uint8_t *p, uint64_t value)
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7)
        p[n++] = (uint8_t)(value | 0x80);
    p[n++] = (uint8_t)value;
    return n;
}

Test(message, ten_thousand_unknown_fields_are_refused_each)
{
    uint8_t frame[PSD_MAX_HEADER];
    psd_msg_t push = PUSH(.code = 0);
    size_t n = psd_msg_encode(&push, frame);
    for (unsigned number = 34; number < 10034; number++) {
        size_t end = n + put_varint(frame + n, (uint64_t)number << 3);
        frame[end++] = 1;
        char why[64];
        snprintf(why, sizeof why, "PUSH has an unknown field %u", number);
        assert_refused(frame, end, 12, why);
    }
}

Test(message, a_header_full_of_unknown_fields_is_refused_without_taking_memory)
{
    uint8_t frame[PSD_MAX_HEADER];
    psd_msg_t push = PUSH(.code = 0);
    size_t n = psd_msg_encode(&push, frame);
    for (; n + 3 <= sizeof frame; n += 3)
        memcpy(frame + n, (uint8_t[]){ 0x90, 0x02, 1 }, 3); /* field 34, varint 1 */
    assert_refused(frame, n, 12, "malformed");
}

Test(message, one_message_has_one_encoding)
{
    const struct {
        const char *what;
        size_t n;
        uint8_t bytes[16];
    } more[] = {
        { "clock again, as it was", 2, { 0x40, 9 } },
        { "clock again, different", 2, { 0x40, 10 } },
        { "version explicitly zero", 2, { 0x50, 0 } },
        { "version 1 in ten bytes", 11, { 0x50, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0 } },
        { "text empty", 3, { 0xf2, 0x01, 0 } },
        { "text with a NUL inside", 6, { 0xf2, 0x01, 3, 'a', 0, 'b' } },
        { "rank and world with 2^32 added", 9, { 0xd8, 0x01, 0x82, 0x80, 0x80, 0x80, 0x10 } },
    };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        uint8_t frame[PSD_MAX_HEADER];
        psd_msg_t push = PUSH(.code = 0), out;
        size_t n = psd_msg_encode(&push, frame);
        memcpy(frame + n, more[i].bytes, more[i].n);
        cr_assert_eq(psd_msg_decode(&out, frame, n + more[i].n, 12, &err), PSD_EPROTO, "%s", more[i].what);
    }
}

Test(message, a_varint_of_eleven_bytes_is_malformed)
{
    uint8_t frame[16] = { 0x08, 0x90, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00 };
    assert_refused(frame, 12, 0, "malformed");
}

Test(message, a_field_of_the_wrong_wire_type_is_refused)
{
    for (unsigned field = 1; field <= 30; field++)
        for (unsigned type = 0; type < 8; type++) {
            uint8_t frame[PSD_MAX_HEADER] = { 0x08, 16, 0x10, PSD_PROTOCOL }; /* kind PUSH */
            size_t n = 4 + put_varint(frame + 4, field << 3 | type);
            static const uint8_t value[8] = { 1 };
            size_t length = type == 1 ? 8 : type == 5 ? 4 : type == 2 ? 2 : 1;
            memcpy(frame + n, value, length);
            bool fixed64 = field == 3 || field == 17 || field == 18 || field == 28 || field == 29;
            unsigned right = fixed64 ? 1 : field == 22 ? 5 : field == 30 ? 2 : 0;
            if (type != right)
                assert_refused(frame, n + length, 0, "");
        }
}

Test(message, a_header_of_4097_bytes_is_refused_unread)
{
    static uint8_t frame[PSD_MAX_HEADER + 1];
    assert_refused(frame, sizeof frame, 0, "header has 4097 bytes; expected 1 to 4096");
    assert_refused(frame, 0, 0, "header has 0 bytes");
}

Test(message, a_text_of_1023_bytes_travels_and_one_of_1024_is_refused)
{
    psd_msg_t left = LEFT(.code = 0), out;
    memset(left.text, 'x', PSD_MAX_TEXT - 1);
    cr_assert_eq(trip(&left, 0, &out), PSD_OK);
    cr_assert_str_eq(out.text, left.text);

    uint8_t frame[PSD_MAX_HEADER];
    psd_msg_t empty = LEFT(.code = 0);
    size_t n = psd_msg_encode(&empty, frame);
    memcpy(frame + n, (uint8_t[]){ 0xf2, 0x01, 0x80, 0x08 }, 4); /* field 30, 1024 bytes */
    memset(frame + n + 4, 'x', 1024);
    assert_refused(frame, n + 4 + 1024, 0, "LEFT.text has 1024 bytes, at most 1023");
}

Test(message, the_checksum_is_crc32c)
{
    cr_assert_eq(psd_crc32c("123456789", 9), 0xe3069283u); /* the check value of the Castagnoli polynomial */
    cr_assert_eq(psd_crc32c("", 0), 0);
    psd_msg_t msg = { .checksum = 0xe3069283u };
    cr_assert(psd_checksum_ok(&msg, "123456789", 9));
    cr_assert_not(psd_checksum_ok(&msg, "123456788", 9));
}

Test(message, a_payload_that_is_proven_has_no_checksum)
{
    psd_msg_t out, both = PUSH(.proven = true), one = PUSH(.proven = true, .checksum = 0);
    cr_expect_eq(trip(&one, 12, &out), PSD_OK, "%s", err.text);
    cr_expect(out.proven);
    cr_expect_eq(trip(&both, 12, &out), PSD_EPROTO);
    cr_expect_not_null(strstr(err.text, "checksum is 65261, at most 0"), "%s", err.text);
}

/* -- frames */

/* PROTOCOL.md, section 2: a damaged header counts as lost, whatever its fields are. */
Test(message, any_bit_changed_in_a_sealed_header_is_found)
{
    uint8_t frame[PSD_MAX_FRAME_HEADER];
    psd_msg_t push = PUSH(.checksum = 0), out;
    const float chunk[3] = { 1, 2, 3 };
    push.checksum = psd_crc32c(chunk, sizeof chunk);
    const size_t n = psd_msg_seal(&push, chunk, sizeof chunk, frame);
    cr_assert_eq(psd_msg_open(&out, frame, n, chunk, sizeof chunk, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(memcmp(&out, &push, sizeof out), 0);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_eq(psd_msg_open(&out, frame, n, chunk, sizeof chunk, &err), PSD_EDATA, "bit %zu", bit);
        cr_assert_eq(out.kind, 0);
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < n; cut++)
        cr_assert_neq(psd_msg_open(&out, frame, cut, chunk, sizeof chunk, &err), PSD_OK, "cut at %zu", cut);
}

/* The reader of a chunk compares its checksum: see psd_checksum_ok. */
Test(message, any_bit_changed_in_a_payload_that_is_no_chunk_is_found)
{
    uint8_t frame[PSD_MAX_FRAME_HEADER], map[2] = { 0x81, 1 };
    psd_msg_t probe = PUSH(.kind = PSD_MSG_PROBE, .parts = 9, .n_elements = 0), out;
    const size_t n = psd_msg_seal(&probe, map, sizeof map, frame);
    cr_assert_eq(psd_msg_open(&out, frame, n, map, sizeof map, &err), PSD_OK, "%s", err.text);
    for (size_t bit = 0; bit < 8 * sizeof map; bit++) {
        map[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_eq(psd_msg_open(&out, frame, n, map, sizeof map, &err), PSD_EDATA, "bit %zu", bit);
        map[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* -- lists */

static uint8_t buf[PSD_MAX_LIST];

Test(message, tensors_survive_the_trip_and_compare_equal)
{
    psd_tensor_desc_t rows[] = { { .name = "fc1.weight", .n_dims = 2, .dim = { 128, 784 }, .n_elements = 128 * 784 },
                                 { .name = "scale", .n_dims = 0, .n_elements = 1 } };
    psd_tensor_list_t in = { .n = 2, .tensor = rows }, out, copy;
    size_t n = psd_tensors_encode(&in, buf, sizeof buf);
    cr_assert_gt(n, 0);
    cr_assert_eq(psd_tensors_encode(&in, buf, n - 1), 0);
    cr_assert_eq(psd_tensors_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(out.n, 2);
    cr_assert_eq(memcmp(out.tensor, rows, sizeof rows), 0);
    cr_assert_eq(psd_tensors_copy(&copy, &out), PSD_OK);
    psd_tensors_clear(&out);
    cr_assert_eq(psd_tensors_compare(&in, &copy, &err), PSD_OK);
    psd_tensors_clear(&copy);
    psd_tensors_clear(&copy);
}

Test(message, what_tensors_inherit_survives_the_trip_and_is_compared_apart)
{
    psd_tensor_desc_t rows[] = { { .name = "w", .n_dims = 1, .dim = { 3 }, .n_elements = 3 }, { .name = "b", .n_elements = 1 } };
    psd_inherited_t inherited[] = { { .t = 100, .arrays = 3, .n_scalars = 2, .scalar = { 0.1, 0 } }, { .t = 0 } };
    const psd_tensor_list_t in = { .n = 2, .tensor = rows, .inherited = inherited }, anew = { .n = 2, .tensor = rows };
    psd_tensor_list_t out, copy;
    const size_t n = psd_tensors_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_tensors_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_tensors_copy(&copy, &out), PSD_OK);
    psd_tensors_clear(&out);
    cr_expect_eq(psd_tensors_compare_inherited(&in, &copy, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(copy.inherited[1].t, 0);
    cr_expect_eq(psd_tensors_compare(&anew, &copy, &err), PSD_OK, "the tensors are the same");
    cr_expect_eq(psd_tensors_compare_inherited(&anew, &anew, &err), PSD_OK);
    cr_expect_eq(psd_tensors_compare_inherited(&copy, &anew, &err), PSD_EINVAL);
    cr_expect_str_eq(err.text, "tensor w: ours starts with that after 100 updates, with arrays 0x3, theirs with new state");
    copy.inherited[0].scalar[0] = 0.2;
    cr_expect_eq(psd_tensors_compare_inherited(&in, &copy, &err), PSD_EINVAL);
    cr_expect(strstr(err.text, "; their scalars differ"), "%s", err.text);
    psd_tensors_clear(&copy);
}

static void assert_inherited_refused(psd_inherited_t inherited, const char *why)
{
    psd_tensor_desc_t row = { .name = "w", .n_elements = 1 };
    psd_tensor_list_t in = { .n = 1, .tensor = &row, .inherited = &inherited }, out;
    const size_t n = psd_tensors_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_tensors_decode(&out, buf, n, &err), PSD_EPROTO, "accepted: %s", why);
    cr_expect(strstr(err.text, why), "\"%s\" lacks \"%s\"", err.text, why);
    cr_expect_null(out.inherited);
}

Test(message, what_no_tensor_can_inherit_is_refused)
{
    assert_inherited_refused((psd_inherited_t){ .t = PSD_MAX_COUNT + 1 }, "inherits 4611686018427387905 updates");
    assert_inherited_refused((psd_inherited_t){ .t = 1, .arrays = 32 }, "arrays 0x20");
    assert_inherited_refused((psd_inherited_t){ .t = 1, .n_scalars = 1, .scalar = { INFINITY } }, "scalar that is Inf or NaN");
}

Test(message, the_first_tensor_that_differs_is_named_with_both_sides)
{
    psd_tensor_desc_t a[] = { { .name = "w", .n_dims = 2, .dim = { 128, 784 } }, { .name = "b", .n_dims = 1, .dim = { 3 } } };
    psd_tensor_desc_t b[] = { { .name = "w", .n_dims = 2, .dim = { 100, 784 } }, { .name = "b", .n_dims = 1, .dim = { 3 } } };
    psd_tensor_list_t ours = { .n = 2, .tensor = a }, theirs = { .n = 2, .tensor = b }, shorter = { .n = 1, .tensor = a };
    cr_assert_eq(psd_tensors_compare(&ours, &theirs, &err), PSD_EINVAL);
    cr_assert_str_eq(err.text, "its tensor 0 is w [100, 784], the job's is w [128, 784]");
    cr_assert_eq(psd_tensors_compare(&ours, &shorter, &err), PSD_EINVAL);
    cr_assert_str_eq(err.text, "its tensor 1 is missing, the job's is b [3]");
    cr_assert_eq(psd_tensors_compare(&shorter, &ours, &err), PSD_EINVAL);
    cr_assert_str_eq(err.text, "its tensor 1 is b [3], the job's is missing");
}

static void assert_tensors_refused(psd_tensor_desc_t *rows, uint32_t n_rows, const char *why)
{
    psd_tensor_list_t in = { .n = n_rows, .tensor = rows }, out;
    size_t n = psd_tensors_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_tensors_decode(&out, buf, n, &err), PSD_EPROTO, "accepted: %s", why);
    cr_assert_not_null(strstr(err.text, why), "\"%s\" lacks \"%s\"", err.text, why);
    cr_assert_null(out.tensor);
}

Test(message, a_dishonest_tensor_is_refused)
{
    const uint64_t big = UINT64_C(1) << 32;
    assert_tensors_refused((psd_tensor_desc_t[]){ { .name = "" } }, 1, "tensor 0's name is empty");
    assert_tensors_refused((psd_tensor_desc_t[]){ { .name = "a\tb" } }, 1, "tensor 0's name has an unprintable byte 0x09");
    assert_tensors_refused((psd_tensor_desc_t[]){ { .name = "a" }, { .name = "b" }, { .name = "a" } }, 3,
                           "two tensors are called a");
    assert_tensors_refused((psd_tensor_desc_t[]){ { .name = "a", .n_dims = 1, .dim = { 0 } } }, 1, "dimension 0 is 0");
    /* 2^32 * 2^32 is 0 in 64 bits. */
    assert_tensors_refused((psd_tensor_desc_t[]){ { .name = "a", .n_dims = 2, .dim = { big, big } } }, 1,
                           "dimension 1 is 4294967296");
    assert_tensors_refused(NULL, 0, "TensorList has 0 bytes");
    const uint8_t nine_dims[] = { 0x0a, 14, 0x0a, 1, 'a', 0x12, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    psd_tensor_list_t out;
    cr_assert_eq(psd_tensors_decode(&out, nine_dims, sizeof nine_dims, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "tensor 0 has 9 dimensions, at most 8");
}

Test(message, a_list_of_empty_messages_is_refused_without_taking_memory)
{
    for (size_t i = 0; i + 2 <= sizeof buf; i += 2)
        memcpy(buf + i, (uint8_t[]){ 0x0a, 0 }, 2); /* two million tensors of no bytes */
    psd_tensor_list_t out;
    cr_assert_eq(psd_tensors_decode(&out, buf, sizeof buf, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "TensorList of 4194304 bytes is malformed");
    cr_assert_eq(psd_tensors_decode(&out, buf, 2 * 65537, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "TensorList has 65537 tensors; expected 1 to 65536");
}

Test(message, the_largest_model_fits_its_list)
{
    static psd_tensor_desc_t rows[PSD_MAX_TENSORS];
    for (unsigned i = 0; i < PSD_MAX_TENSORS; i++) {
        rows[i] = (psd_tensor_desc_t){ .n_dims = 4, .dim = { 512, 512, 3, 3 }, .n_elements = 512 * 512 * 9 };
        snprintf(rows[i].name, sizeof rows[i].name, "backbone.stage%05u.block.conv.weight", i);
    }
    static psd_inherited_t inherited[PSD_MAX_TENSORS];
    for (unsigned i = 0; i < PSD_MAX_TENSORS; i++)
        inherited[i] = (psd_inherited_t){ .t = 100000, .arrays = 3 };
    psd_tensor_list_t in = { .n = PSD_MAX_TENSORS, .tensor = rows }, out;
    for (int heirs = 0; heirs < 2; heirs++) {
        in.inherited = heirs ? inherited : NULL;
        size_t n = psd_tensors_encode(&in, buf, sizeof buf);
        cr_assert_gt(n, 0);
        cr_assert_eq(psd_tensors_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
        cr_assert_eq(psd_tensors_compare(&in, &out, &err), PSD_OK);
        cr_assert_eq(psd_tensors_compare_inherited(&in, &out, &err), PSD_OK);
        psd_tensors_clear(&out);
    }
}

Test(message, a_cluster_survives_the_trip)
{
    psd_cluster_t in = { .n_servers = 2,
                         .endpoint = { "tcp://10.0.0.1:7470", "tcp://10.0.0.2:7470" },
                         .settings = { .text = "mode=asp optimizer=adam(lr=0.001)",
                                       .mode = "asp",
                                       .optimizer = "adam(lr=0.001)",
                                       .lr_rule = "1/W",
                                       .lr = 0.5,
                                       .max_staleness = 7,
                                       .clip_value = 1.5,
                                       .clip_norm = 2.5,
                                       .lease_ms = 3000,
                                       .has_slow = true,
                                       .in_rounds = true,
                                       .whole_norm = true,
                                       .checkpoints = true,
                                       .saves_residuals = true,
                                       .part_elements = 4096,
                                       .codings = { .push = { psd_codec_find("topk"), 0.25 },
                                                    .pull = { psd_codec_find("int8"), 0 } } } },
                  out;
    size_t n = psd_cluster_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_cluster_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(memcmp(&in, &out, sizeof in), 0);
}

Test(message, the_largest_cluster_fits_its_list)
{
    static psd_cluster_t in = { .n_servers = PSD_MAX_SERVERS,
                                .settings = { .mode = "bsp", .optimizer = "sgd", .lease_ms = 1, .part_elements = 1 } },
                         out;
    in.settings.codings = (psd_codings_t){ 0 };
    for (uint32_t s = 0; s < PSD_MAX_SERVERS; s++)
        memset(in.endpoint[s], 'h', PSD_MAX_NAME - 1);
    size_t n = psd_cluster_encode(&in, buf, sizeof buf);
    cr_assert_gt(n, 0);
    cr_assert_eq(psd_cluster_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(out.n_servers, PSD_MAX_SERVERS);
    cr_assert_eq(memcmp(in.endpoint, out.endpoint, sizeof in.endpoint), 0);
    in.n_servers = PSD_MAX_SERVERS;
    n = psd_cluster_encode(&in, buf, sizeof buf);
    const size_t first = 2 + PSD_MAX_NAME - 1; /* one more endpoint, in front */
    memmove(buf + first, buf, n);
    cr_assert_eq(psd_cluster_decode(&out, buf, n + first, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "Cluster has 257 endpoints; expected 1 to 256");
}

Test(message, a_cluster_without_an_endpoint_is_refused)
{
    psd_cluster_t in = { .n_servers = 2,
                         .endpoint = { "tcp://10.0.0.1:7470", "" },
                         .settings = { .mode = "bsp", .optimizer = "sgd", .lease_ms = 1 } },
                  out;
    size_t n = psd_cluster_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_cluster_decode(&out, buf, n, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "Cluster.endpoint 1 is empty");
    in.n_servers = 0;
    n = psd_cluster_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_cluster_decode(&out, buf, n, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "Cluster has 0 endpoints; expected 1 to 256");
}

Test(message, the_largest_round_fits_its_list)
{
    static psd_member_t rows[PSD_MAX_WORKERS];
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        rows[i] = (psd_member_t){ i, PSD_MAX_COUNT, 0, 0, 0, false, UINT64_MAX };
    psd_round_t in = { .clock = 7,
                       .apply = true,
                       .lr = 0.1,
                       .view_id = 5,
                       .n_contributors = PSD_MAX_WORKERS,
                       .contributor = rows,
                       .n_members = PSD_MAX_WORKERS,
                       .member = rows },
                out;
    size_t n = psd_round_encode(&in, buf, sizeof buf);
    cr_assert_gt(n, 0);
    cr_assert_eq(psd_round_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(out.n_members, PSD_MAX_WORKERS);
    for (uint32_t i = 0; i < PSD_MAX_WORKERS; i++)
        cr_assert(out.member[i].worker == i && out.member[i].incarnation == PSD_MAX_COUNT && out.member[i].nonce == UINT64_MAX);
    cr_assert(out.apply && out.lr == 0.1 && out.view_id == 5 && out.clock == 7);
    psd_round_clear(&out);
}

Test(message, a_round_of_more_members_than_there_can_be_is_refused)
{
    psd_member_t row = { .worker = 1 };
    psd_round_t in = { .n_contributors = 1, .contributor = &row }, out;
    const size_t n = psd_round_encode(&in, buf, sizeof buf), one = 4; /* key, length, key, id */
    for (size_t i = 1; i <= PSD_MAX_WORKERS; i++)
        memcpy(buf + n + (i - 1) * one, buf + n - one, one);
    cr_assert_eq(psd_round_decode(&out, buf, n + PSD_MAX_WORKERS * one, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "Round has 4097 contributors, at most 4096");
}

Test(message, a_round_of_zeros_is_a_payload)
{
    psd_round_t in = { 0 }, out;
    size_t n = psd_round_encode(&in, buf, sizeof buf);
    cr_assert_gt(n, 0);
    cr_assert_eq(psd_round_decode(&out, buf, n, &err), PSD_OK, "%s", err.text);
    cr_assert_null(out.contributor);
    psd_round_clear(&out);
}

static void assert_round_refused(psd_round_t in, const char *why)
{
    psd_round_t out;
    size_t n = psd_round_encode(&in, buf, sizeof buf);
    cr_assert_eq(psd_round_decode(&out, buf, n, &err), PSD_EPROTO, "accepted: %s", why);
    cr_assert_not_null(strstr(err.text, why), "\"%s\" lacks \"%s\"", err.text, why);
    cr_assert(!out.contributor && !out.member);
}

Test(message, a_dishonest_round_is_refused)
{
#define BY(...) .n_contributors = 2, .contributor = (psd_member_t[]){ __VA_ARGS__ }
    assert_round_refused((psd_round_t){ .clock = UINT64_MAX }, "Round.clock is too large");
    assert_round_refused((psd_round_t){ .view_id = UINT64_MAX }, "Round.view_id is too large");
    assert_round_refused((psd_round_t){ .lr = NAN }, "Round.lr is nan");
    assert_round_refused((psd_round_t){ .lr = -1 }, "Round.lr is -1, at least 0");
    assert_round_refused((psd_round_t){ BY({ .worker = 1 }, { .worker = 1 }) }, "contributor 1.worker is 1 after 1");
    assert_round_refused((psd_round_t){ BY({ .worker = 2 }, { .worker = 1 }) }, "1 after 2; expected ascending");
    assert_round_refused((psd_round_t){ BY({ .worker = 1 }, { .worker = 4096 }) }, "worker is 4096, at most 4095");
    assert_round_refused((psd_round_t){ BY({ .worker = 1 }, { .worker = 2, .samples = UINT64_MAX }) }, "samples is too large");
    assert_round_refused((psd_round_t){ BY({ .worker = 1 }, { .worker = 2, .incarnation = UINT64_MAX }) },
                         "incarnation is too large");
    assert_round_refused((psd_round_t){ BY({ .worker = 1 }, { .worker = 2, .norm2 = NAN }) }, "norm2 is nan");
    const uint8_t other_layout[] = { 0x08, 2 }, unknown[] = { 0x08, 1, 0x3a, 2, 0x40, 1 };
    psd_round_t out;
    cr_assert_eq(psd_round_decode(&out, other_layout, sizeof other_layout, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "Round.layout is 2, 1 is known");
    cr_assert_eq(psd_round_decode(&out, unknown, sizeof unknown, &err), PSD_EPROTO);
    cr_assert_str_eq(err.text, "Round.contributor 0 has an unknown field");
}

Test(message, a_list_cut_anywhere_is_never_read_past_its_end)
{
    psd_tensor_desc_t rows[] = { { .name = "fc1.weight", .n_dims = 2, .dim = { 128, 784 }, .n_elements = 128 * 784 } };
    psd_tensor_list_t in = { .n = 1, .tensor = rows }, out;
    size_t n = psd_tensors_encode(&in, buf, sizeof buf);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, buf, cut);
        cr_assert_eq(psd_tensors_decode(&out, exact, cut, &err), PSD_EPROTO);
        free(exact);
    }
}
