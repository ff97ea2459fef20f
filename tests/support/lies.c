#include "tests/support/lies.h"

#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "tests/support/said.h"

enum { PARTS = 14, ELEMENTS = 64 };

static uint64_t draw(lies_t *self, uint64_t n) { return psd_splitmix64(&self->chance) % n; }

static void draw_bytes(lies_t *self, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)draw(self, 256);
}

size_t lies_seal(uint8_t *frame, size_t n)
{
    const uint32_t crc = psd_crc32c(frame, n);
    for (size_t i = 0; i < PSD_SEAL; i++)
        frame[n + i] = (uint8_t)(crc >> 8 * i);
    return n + PSD_SEAL;
}

/* ---- in the contents ---- */

static void not_a_number(lies_t *self, psd_msg_t *m)
{
    static const double odd[] = { NAN, INFINITY, -INFINITY, -1, -1e308 };
    *(draw(self, 2) ? &m->norm2 : &m->lr) = odd[draw(self, 5)];
}

static void no_text(lies_t *self, psd_msg_t *m)
{
    static const char *const texts[] = { "\x1b[2J\x07",      "\xff\xfe", "\xc0\xaf",     "\xed\xa0\x80",
                                         "\xf4\x90\x80\x80", "a\x7f",    "half \xe2\x82" };
    strcpy(m->text, texts[draw(self, 7)]);
}

/* Messages of other programs than a worker, of every kind that a worker does not send. */
static void of_servers(lies_t *self, psd_msg_t *m)
{
    static const psd_kind_t kinds[] = { PSD_MSG_WELCOME,    PSD_MSG_REFUSED,  PSD_MSG_WAIT,     PSD_MSG_FENCED,
                                        PSD_MSG_REGISTERED, PSD_MSG_LEFT,     PSD_MSG_ATTACHED, PSD_MSG_INIT_WANTED,
                                        PSD_MSG_WEIGHTS,    PSD_MSG_PROGRESS, PSD_MSG_SLOW,     PSD_MSG_SHARD_WELCOME,
                                        PSD_MSG_COMMAND,    PSD_MSG_MODEL };
    m->kind = kinds[draw(self, sizeof kinds / sizeof *kinds)];
}

static void of_another_run(lies_t *self, psd_msg_t *m)
{
    static const psd_kind_t kinds[] = { PSD_MSG_HEARTBEAT, PSD_MSG_LEAVE, PSD_MSG_REPORT, PSD_MSG_SETTING };
    m->kind = kinds[draw(self, 4)];
    m->job ^= 1 + draw(self, UINT32_MAX);
}

static void a_clock_that_is_closed(lies_t *self, psd_msg_t *m) { m->clock = draw(self, m->clock + 1); }
static void a_clock_to_come(lies_t *self, psd_msg_t *m) { m->clock += 1 + draw(self, 1000); }
static void the_other_server(lies_t *self, psd_msg_t *m) { (void)self, m->shard ^= 1; }
static void another_job(lies_t *self, psd_msg_t *m) { m->job ^= 1 + draw(self, UINT32_MAX); }
static void a_part_beyond(lies_t *self, psd_msg_t *m) { m->part = m->parts + (uint32_t)draw(self, 1000); }
static void a_rank_beyond(lies_t *self, psd_msg_t *m) { m->rank = m->world = 1 + (uint32_t)draw(self, 1000); }

static void a_setting(lies_t *self, psd_msg_t *m)
{
    strcpy(m->text, "optimizer.lr");
    m->value = (double)draw(self, 1000);
}

/* ---- in the encoding: true when it must still be sealed ---- */

static bool append(lie_t *lie, const void *bytes, size_t n)
{
    memcpy(lie->header + lie->n_header, bytes, n);
    lie->n_header += n;
    return true;
}

static bool payload_of(lie_t *lie, size_t n)
{
    lie->n_payload = n;
    return true;
}

static bool no_payload(lies_t *self, lie_t *lie) { return (void)self, payload_of(lie, 0); }
static bool a_byte_less(lies_t *self, lie_t *lie) { return (void)self, payload_of(lie, lie->n_payload - 1); }
static bool a_byte_more(lies_t *self, lie_t *lie) { return (void)self, payload_of(lie, lie->n_payload + 1); }
static bool a_byte_alone(lies_t *self, lie_t *lie) { return (void)self, payload_of(lie, 1); }
static bool floats_less(lies_t *self, lie_t *lie) { return payload_of(lie, 4 * draw(self, ELEMENTS)); }
static bool the_largest(lies_t *self, lie_t *lie) { return (void)self, payload_of(lie, sizeof lie->payload); }

static bool cut_short(lies_t *self, lie_t *lie)
{
    lie->n_header = draw(self, lie->n_header);
    return true;
}

static bool damaged(lies_t *self, lie_t *lie)
{
    lie->n_header = lies_seal(lie->header, lie->n_header);
    lie->header[draw(self, lie->n_header)] ^= (uint8_t)(1u << draw(self, 8));
    return false;
}

static bool with_more_behind(lies_t *self, lie_t *lie)
{
    uint8_t more[32];
    lie->n_header = lies_seal(lie->header, lie->n_header);
    draw_bytes(self, more, sizeof more);
    append(lie, more, 1 + draw(self, sizeof more));
    return false;
}

static bool unsealed_noise(lies_t *self, lie_t *lie)
{
    lie->n_header = PSD_SEAL + 1 + draw(self, PSD_MAX_HEADER);
    draw_bytes(self, lie->header, lie->n_header);
    return payload_of(lie, draw(self, 4096)), false;
}

static bool sealed_noise(lies_t *self, lie_t *lie)
{
    lie->n_header = 1 + draw(self, PSD_MAX_HEADER);
    draw_bytes(self, lie->header, lie->n_header);
    lie->header[0] |= 0x80; /* no header begins with a tag of two bytes */
    return payload_of(lie, draw(self, 4096));
}

static bool too_long(lies_t *self, lie_t *lie)
{
    lie->n_header = PSD_MAX_FRAME_HEADER + 1 + draw(self, 60);
    return false;
}

static bool too_short(lies_t *self, lie_t *lie)
{
    lie->n_header = draw(self, PSD_SEAL + 1);
    return false;
}

static bool frames_of(lie_t *lie, size_t n)
{
    lie->n_frames = n;
    return true;
}

static bool one_frame(lies_t *self, lie_t *lie) { return (void)self, frames_of(lie, 1); }
static bool three_frames(lies_t *self, lie_t *lie) { return (void)self, frames_of(lie, 3); }
static bool four_frames(lies_t *self, lie_t *lie) { return (void)self, frames_of(lie, 4); }
static bool many_frames(lies_t *self, lie_t *lie) { return frames_of(lie, draw(self, 50) ? 5 : 1000); }

static bool unknown_field(lies_t *self, lie_t *lie)
{
    const uint8_t field[] = { (uint8_t)(0x80 | draw(self, 16) << 3), (uint8_t)(4 + draw(self, 100)), 1 };
    return append(lie, field, sizeof field);
}

static bool unknown_fields(lies_t *self, lie_t *lie)
{
    while (lie->n_header + 3 <= PSD_MAX_HEADER)
        unknown_field(self, lie);
    return true;
}

static bool a_field_twice(lies_t *self, lie_t *lie)
{
    static const char protocol[] = { 0x10, PSD_PROTOCOL, '\0' };
    static const char *const fields[] = { "\x08\x10", protocol, "\x38\x01" }; /* kind, protocol, incarnation */
    return append(lie, fields[draw(self, 3)], 2);
}

static bool a_zero_in_words(lies_t *self, lie_t *lie)
{
    const uint8_t field[] = { (uint8_t)((4 + draw(self, 2)) << 3), 0 }; /* map_id, or worker: 0 */
    return append(lie, field, sizeof field);
}

/* The kind's varint in more bytes than it needs. */
static bool a_long_number(lies_t *self, lie_t *lie)
{
    const size_t more = 1 + draw(self, 8);
    memmove(lie->header + 2 + more, lie->header + 2, lie->n_header - 2);
    lie->header[1] |= 0x80;
    memset(lie->header + 2, 0x80, more - 1);
    lie->header[1 + more] = 0;
    lie->n_header += more;
    return true;
}

static bool an_endless_number(lies_t *self, lie_t *lie)
{
    uint8_t bytes[64];
    memset(bytes, 0xff, sizeof bytes);
    return append(lie, bytes, 11 + draw(self, 40));
}

static bool another_wire_type(lies_t *self, lie_t *lie)
{
    lie->header[0] = (uint8_t)(0x08 | (1 + draw(self, 7)));
    return true;
}

static bool a_long_text(lies_t *self, lie_t *lie)
{
    const size_t n = PSD_MAX_TEXT + draw(self, 2048);
    const uint8_t head[] = { 0xf2, 1, (uint8_t)(0x80 | (n & 0x7f)), (uint8_t)(n >> 7) };
    append(lie, head, sizeof head);
    memset(lie->header + lie->n_header, 'a', n);
    lie->n_header += n;
    return true;
}

static bool a_text_with_nul(lies_t *self, lie_t *lie)
{
    return (void)self, append(lie,
                              "\xf2\x01\x03"
                              "a\0b",
                              6);
}

/* A text that claims two gigabytes, and is missing. */
static bool a_text_that_lacks(lies_t *self, lie_t *lie)
{
    const uint8_t head[] = { 0xf2, 1, 0xff, 0xff, 0xff, 0xff, (uint8_t)draw(self, 8), 'a' };
    return append(lie, head, sizeof head);
}

static bool a_payload_damaged(lies_t *self, lie_t *lie)
{
    lie->payload[draw(self, lie->n_payload)] ^= (uint8_t)(1u << draw(self, 8));
    return true;
}

/* ---- the table ---- */

#define NO(name)   PSD_REFUSAL_##name
#define SET(field) .offset = offsetof(psd_msg_t, field), .size = sizeof((psd_msg_t *)0)->field

/* A push unless `kind` says otherwise; then one field is set, or `say` or `spell` change something. */
static const struct kind {
    const char *name;
    psd_refusal_t reason, elsewhere, keyed; /* at server 0; at others; at server 0 with a worker's key */
    psd_kind_t kind;
    const char *text;
    size_t offset, size;  /* of the field to set; no size: none */
    uint64_t least, span; /* its value, chosen at random */
    void (*say)(lies_t *self, psd_msg_t *m);
    bool (*spell)(lies_t *self, lie_t *lie);
} kinds[] = {
    /* who */
    { "a member's push, on another's connection", NO(SESSION), .kind = PSD_MSG_PUSH },
    { "a worker that does not exist", NO(VIEW), SET(worker), .least = 500, .span = 500 },
    { "a worker beyond the most", NO(MALFORMED), SET(worker), .least = PSD_MAX_WORKERS, .span = 100000 },
    { "a worker of all bits", NO(MALFORMED), SET(worker), .least = UINT32_MAX, .span = 1 },
    { "an incarnation before the first", NO(INCARNATION), SET(incarnation), .least = 0, .span = 1 },
    { "an incarnation to come", NO(VIEW), SET(incarnation), .least = 2, .span = 1000 },
    { "an incarnation beyond the most", NO(MALFORMED), SET(incarnation), .least = PSD_MAX_COUNT + 1, .span = 1 << 30 },
    { "an incarnation of all bits", NO(MALFORMED), SET(incarnation), .least = UINT64_MAX, .span = 1 },
    { "a member's session opened", NO(WORKER), .kind = PSD_MSG_ATTACH },
    { "its older session opened", NO(INCARNATION), .kind = PSD_MSG_ATTACH, SET(incarnation), .least = 0, .span = 1 },
    { "its later session opened", NO(NONE), .kind = PSD_MSG_ATTACH, SET(incarnation), .least = 2, .span = 1000 },
    { "a session for a future worker", NO(NONE), .kind = PSD_MSG_ATTACH, SET(worker), .least = 300, .span = 100 },
    { "a member's id asked for", NO(NONE), NO(SENDER), NO(WORKER), .kind = PSD_MSG_HELLO, .text = "psd w:0", SET(code), .least = 1,
      .span = 1 },
    { "HELLO without end", NO(NONE), NO(SENDER), .kind = PSD_MSG_HELLO, .text = "psd flood" },
    { "a member's heartbeat", NO(INCARNATION), NO(SENDER), .kind = PSD_MSG_HEARTBEAT },
    { "a member's good-bye", NO(INCARNATION), NO(SENDER), .kind = PSD_MSG_LEAVE },
    { "a member's report", NO(INCARNATION), NO(SENDER), .kind = PSD_MSG_REPORT, .text = "loss" },
    { "a member's setting", NO(INCARNATION), NO(SENDER), .kind = PSD_MSG_SETTING, .say = a_setting },
    { "a member's tensors", NO(INCARNATION), NO(SENDER), .kind = PSD_MSG_REGISTER },
    { "initial values", NO(SESSION), .kind = PSD_MSG_INIT },
    { "a member's probe", NO(SESSION), .kind = PSD_MSG_PROBE },
    { "a member's pull", NO(SESSION), .kind = PSD_MSG_PULL },
    /* of what job */
    { "another run's push", NO(JOB), .say = another_job },
    { "no run's push", NO(JOB), SET(job), .least = 0, .span = 1 },
    { "a heartbeat of another run", NO(RUN), NO(SENDER), .say = of_another_run },
    { "another run's report of a server", NO(RUN), NO(SENDER), NO(SENDER), .kind = PSD_MSG_SHARD_STATE, SET(job), .least = 1,
      .span = 1000 },
    { "another job", NO(JOB), NO(SENDER), .kind = PSD_MSG_HELLO, .text = "another w:1" },
    { "a path for a job", NO(JOB), NO(SENDER), .kind = PSD_MSG_HELLO, .text = "../../etc/passwd w:1" },
    { "no job", NO(MALFORMED), .kind = PSD_MSG_HELLO, .text = "" },
    { "a version to come", NO(PROTOCOL), SET(protocol), .least = PSD_PROTOCOL + 1, .span = 97 },
    { "no version", NO(MALFORMED), SET(protocol), .least = 0, .span = 1 },
    /* to whom */
    { "the other server's push", NO(SHARD), .say = the_other_server },
    { "a push for no server", NO(SHARD), SET(shard), .least = 2, .span = PSD_MAX_SERVERS - 2 },
    { "a push for a server beyond the most", NO(MALFORMED), SET(shard), .least = PSD_MAX_SERVERS, .span = 1000 },
    { "a view beyond the most", NO(MALFORMED), SET(view_id), .least = PSD_MAX_COUNT + 1, .span = 1 << 30 },
    { "another view", NO(SESSION), SET(view_id), .least = 0, .span = 10 },
    { "another map", NO(SESSION), SET(map_id), .least = 1, .span = 1 << 30 },
    { "a server's life beyond the most", NO(MALFORMED), SET(shard_epoch), .least = PSD_MAX_COUNT + 1, .span = 1 << 30 },
    { "another life of the server", NO(SESSION), SET(shard_epoch), .least = 2, .span = 1 << 30 },
    /* when */
    { "a clock that is closed", NO(SESSION), .say = a_clock_that_is_closed },
    { "a clock to come", NO(SESSION), .say = a_clock_to_come },
    { "a clock beyond the most", NO(MALFORMED), SET(clock), .least = UINT64_C(1) << 63, .span = 1 << 30 },
    { "a version of weights beyond the most", NO(MALFORMED), SET(base_version), .least = PSD_MAX_COUNT + 1, .span = 9 },
    { "steps beyond the most", NO(MALFORMED), SET(version), .least = PSD_MAX_COUNT + 1, .span = 9 },
    { "syncs beyond the most", NO(MALFORMED), SET(sync_epoch), .least = UINT64_MAX, .span = 1 },
    { "a checkpoint beyond the most", NO(MALFORMED), SET(saved), .least = PSD_MAX_COUNT + 1, .span = 9 },
    /* what */
    { "a part beyond the parts", NO(MALFORMED), .say = a_part_beyond },
    { "a part of no parts", NO(MALFORMED), SET(parts), .least = 0, .span = 1 },
    { "more parts than there can be", NO(MALFORMED), SET(parts), .least = PSD_MAX_PARTS + 1, .span = 1000 },
    { "no elements", NO(MALFORMED), SET(n_elements), .least = 0, .span = 1 },
    { "fewer elements than come", NO(MALFORMED), SET(n_elements), .least = 1, .span = ELEMENTS - 1 },
    { "more elements than come", NO(MALFORMED), SET(n_elements), .least = ELEMENTS + 1, .span = 100 },
    { "elements whose bytes overflow", NO(MALFORMED), SET(n_elements), .least = UINT32_MAX / 4 + 1 + ELEMENTS, .span = 1 },
    { "initial values of no elements", NO(MALFORMED), .kind = PSD_MSG_INIT, SET(n_elements), .least = 0, .span = 1 },
    { "no type of elements", NO(MALFORMED), SET(dtype), .least = 0, .span = 1 },
    { "an unknown type", NO(MALFORMED), SET(dtype), .least = 2, .span = 5 },
    { "no packing", NO(MALFORMED), SET(codec), .least = 0, .span = 1 },
    { "an unknown packing", NO(MALFORMED), SET(codec), .least = PSD_MAX_CODEC + 1, .span = 5 },
    { "a packing that is not the job's", NO(SESSION), SET(codec), .least = PSD_CODEC_F32 + 1,
      .span = PSD_MAX_CODEC - PSD_CODEC_F32 },
    { "more samples than there can be", NO(MALFORMED), SET(samples), .least = PSD_MAX_SAMPLES + 1, .span = 1 << 30 },
    { "a number that cannot be", NO(MALFORMED), .say = not_a_number },
    { "a rank beyond the world", NO(MALFORMED), .say = a_rank_beyond },
    { "a world beyond the most", NO(MALFORMED), SET(world), .least = PSD_MAX_WORKERS + 1, .span = 1000 },
    { "a text that cannot be printed", NO(MALFORMED), .say = no_text },
    { "no payload", NO(MALFORMED), .spell = no_payload },
    { "a payload of a byte less", NO(MALFORMED), .spell = a_byte_less },
    { "a payload of a byte more", NO(MALFORMED), .spell = a_byte_more },
    { "a payload of one byte", NO(MALFORMED), .spell = a_byte_alone },
    { "a payload of fewer floats", NO(MALFORMED), .spell = floats_less },
    { "a payload as large as can be", NO(MALFORMED), .spell = the_largest },
    { "tensors that were damaged", NO(CHECKSUM), .kind = PSD_MSG_REGISTER, .spell = a_payload_damaged },
    /* whose turn */
    { "an unknown kind", NO(MALFORMED), SET(kind), .least = 60, .span = 1000 },
    { "no kind", NO(MALFORMED), SET(kind), .least = 0, .span = 1 },
    { "what servers say", NO(SENDER), .say = of_servers },
    { "a server that joins", NO(CONFIG), NO(SENDER), NO(SENDER), .kind = PSD_MSG_SHARD_HELLO,
      .text = "psd tcp://127.0.0.1:1 servers=2 mode=bsp optimizer=sgd" },
    { "a server of another job", NO(JOB), NO(SENDER), NO(SENDER), .kind = PSD_MSG_SHARD_HELLO,
      .text = "another tcp://127.0.0.1:1 servers=2 mode=bsp optimizer=sgd" },
    { "a server's report", NO(SESSION), NO(SENDER), NO(SENDER), .kind = PSD_MSG_SHARD_STATE },
    { "an operator's request for another job", NO(JOB), NO(SENDER), NO(SENDER), .kind = PSD_MSG_ADMIN, .text = "another pause" },
    { "an unknown request", NO(CONFIG), NO(SENDER), NO(SENDER), .kind = PSD_MSG_ADMIN, .text = "psd destroy" },
    { "a checkpoint by a path", NO(CONFIG), NO(SENDER), NO(SENDER), .kind = PSD_MSG_ADMIN, .text = "psd save ../../x" },
    { "a request with one word too many", NO(CONFIG), NO(SENDER), NO(SENDER), .kind = PSD_MSG_ADMIN, .text = "psd drain 1 2" },
    /* frames */
    { "one frame", NO(MALFORMED), .spell = one_frame },
    { "three frames", NO(MALFORMED), .spell = three_frames },
    { "four frames", NO(MALFORMED), .spell = four_frames },
    { "many frames", NO(MALFORMED), .spell = many_frames },
    { "a header without bytes", NO(MALFORMED), .spell = too_short },
    { "a header that is too long", NO(MALFORMED), .spell = too_long },
    { "a header cut short, and sealed", NO(MALFORMED), .spell = cut_short },
    { "a header damaged on the way", NO(CHECKSUM), .spell = damaged },
    { "a header with more behind it", NO(CHECKSUM), .spell = with_more_behind },
    { "noise", NO(CHECKSUM), .spell = unsealed_noise },
    { "noise, sealed", NO(MALFORMED), .spell = sealed_noise },
    /* words */
    { "an unknown field", NO(MALFORMED), .spell = unknown_field },
    { "as many as there is room for", NO(MALFORMED), .spell = unknown_fields },
    { "a field twice", NO(MALFORMED), .spell = a_field_twice },
    { "a zero in so many words", NO(MALFORMED), .spell = a_zero_in_words },
    { "a number in too many bytes", NO(MALFORMED), .spell = a_long_number },
    { "a number without end", NO(MALFORMED), .spell = an_endless_number },
    { "a field of another type", NO(MALFORMED), .spell = another_wire_type },
    { "a text that is too long", NO(MALFORMED), .spell = a_long_text },
    { "a text with a zero in it", NO(MALFORMED), .spell = a_text_with_nul },
    { "a text that is not there", NO(MALFORMED), .spell = a_text_that_lacks },
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

size_t lies_n_kinds(void) { return N_KINDS; }
const char *lies_name(size_t kind) { return kinds[kind].name; }

/* ---- telling ---- */

psd_msg_t lies_push(const lies_t *self, const void *payload, size_t n)
{
    return (psd_msg_t){ .kind = PSD_MSG_PUSH,
                        .protocol = PSD_PROTOCOL,
                        .job = self->job,
                        .incarnation = 1,
                        .clock = self->clock,
                        .shard = self->server,
                        .parts = PARTS,
                        .samples = 20,
                        .norm2 = 1,
                        .loss = 1,
                        .dtype = PSD_DTYPE_F32,
                        .codec = PSD_CODEC_F32,
                        .n_elements = (uint32_t)(n / sizeof(float)),
                        .checksum = psd_crc32c(payload, n) };
}

/* The payload that the kind requires: none, a chunk, a bitmap of the parts, or a protobuf message, with these words if the row has
 * any. */
static size_t make_payload(psd_kind_t kind, const char *words, uint8_t *out)
{
    switch (psd_kind_payload(kind)) {
    case PSD_PAYLOAD_NONE:
        return 0;
    case PSD_PAYLOAD_BITMAP:
        return (PARTS + 7) / 8;
    case PSD_PAYLOAD_PART:
    case PSD_PAYLOAD_SUMS:
        return ELEMENTS * sizeof(float);
    default:
        return words ? said_bytes(kind, words, 0, out) : said_anything(kind, out);
    }
}

/* The message, before a row changes anything in it. */
static psd_msg_t begin(lies_t *self, psd_kind_t kind, const void *payload)
{
    psd_msg_t m = lies_push(self, payload, ELEMENTS * sizeof(float));
    if (kind && kind != PSD_MSG_PUSH) {
        m.kind = kind;
        m.seq = psd_splitmix64(&self->chance);
        m.norm2 = 0;
    }
    return m;
}

static void set(lies_t *self, const struct kind *row, psd_msg_t *m)
{
    const uint64_t value = row->least + (row->span > 1 ? draw(self, row->span) : 0);
    const uint32_t half = (uint32_t)value;
    if (row->size == sizeof half)
        memcpy((uint8_t *)m + row->offset, &half, sizeof half);
    else
        memcpy((uint8_t *)m + row->offset, &value, sizeof value);
}

void lies_tell(lies_t *self, size_t kind, lie_t *out)
{
    const struct kind *row = &kinds[kind];
    uint8_t sealed[PSD_MAX_FRAME_HEADER];
    out->reason = self->server && row->elsewhere ? row->elsewhere : self->keys && row->keyed ? row->keyed : row->reason;
    out->n_frames = 2;
    memset(out->payload, 0, ELEMENTS * sizeof(float) + 1);
    psd_msg_t m = begin(self, row->kind, out->payload);
    if (row->text && psd_kind_payload(row->kind) == PSD_PAYLOAD_NONE)
        strcpy(m.text, row->text);
    if (row->size)
        set(self, row, &m);
    if (row->say)
        row->say(self, &m);
    out->n_payload =
        make_payload(row->size && row->offset == offsetof(psd_msg_t, kind) ? PSD_MSG_PUSH : m.kind, row->text, out->payload);
    out->n_header = psd_msg_seal(&m, out->payload, out->n_payload, sealed) - PSD_SEAL;
    memcpy(out->header, sealed, out->n_header);
    if (!row->spell || row->spell(self, out))
        out->n_header = lies_seal(out->header, out->n_header);
}
