#include "proto/message.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "psd.pb-c.h"

/* Every field except the text: X(field, largest valid value). One table writes, reads and checks them, so that no field can be sent
 * but not checked. */
#define WHOLE_FIELDS(X)                                                                                                            \
    X(kind, UINT32_MAX)                                                                                                            \
    X(protocol, PSD_PROTOCOL)                                                                                                      \
    X(job, UINT64_MAX)                                                                                                             \
    X(view_id, PSD_MAX_COUNT)                                                                                                      \
    X(map_id, UINT64_MAX)                                                                                                          \
    X(worker, PSD_MAX_WORKERS - 1)                                                                                                 \
    X(incarnation, PSD_MAX_COUNT)                                                                                                  \
    X(clock, PSD_MAX_COUNT)                                                                                                        \
    X(base_version, PSD_MAX_COUNT)                                                                                                 \
    X(version, PSD_MAX_COUNT)                                                                                                      \
    X(sync_epoch, PSD_MAX_COUNT)                                                                                                   \
    X(shard, PSD_MAX_SERVERS - 1)                                                                                                  \
    X(shard_epoch, PSD_MAX_COUNT)                                                                                                  \
    X(part, PSD_MAX_PARTS)                                                                                                         \
    X(parts, PSD_MAX_PARTS)                                                                                                        \
    X(samples, PSD_MAX_SAMPLES)                                                                                                    \
    X(nonfinite, 1)                                                                                                                \
    X(dtype, PSD_DTYPE_F32)                                                                                                        \
    X(codec, PSD_MAX_CODEC)                                                                                                        \
    X(checksum, header->proven ? 0 : UINT32_MAX)                                                                                   \
    X(n_elements, PSD_MAX_CHUNK)                                                                                                   \
    X(chunks, PSD_MAX_CHUNK)                                                                                                       \
    X(seq, UINT64_MAX)                                                                                                             \
    X(saved, PSD_MAX_COUNT)                                                                                                        \
    X(code, UINT32_MAX)                                                                                                            \
    X(proven, 1)                                                                                                                   \
    X(rank, PSD_MAX_WORKERS)                                                                                                       \
    X(world, PSD_MAX_WORKERS)

/* X(field, may it be Inf or NaN, may it be negative) */
#define REAL_FIELDS(X)                                                                                                             \
    X(loss, true, true)                                                                                                            \
    X(norm2, header->nonfinite, header->nonfinite)                                                                                 \
    X(lr, false, false)                                                                                                            \
    X(value, true, true)

/* X(field, how its text is copied); X(field, largest value) - of Settings. */
#define SETTINGS_TEXTS(X)                                                                                                          \
    X(text, take_text)                                                                                                             \
    X(mode, take_word)                                                                                                             \
    X(optimizer, take_word)                                                                                                        \
    X(lr_rule, take_text)                                                                                                          \
    X(schedule, take_text)                                                                                                         \
    X(schedule_unit, take_text)                                                                                                    \
    X(groups, take_text)
#define SETTINGS_NUMBERS(X)                                                                                                        \
    X(lr, DBL_MAX)                                                                                                                 \
    X(max_staleness, UINT64_MAX)                                                                                                   \
    X(clip_value, DBL_MAX)                                                                                                         \
    X(clip_norm, DBL_MAX)                                                                                                          \
    X(accumulate, UINT32_MAX)                                                                                                      \
    X(lease_ms, UINT32_MAX)                                                                                                        \
    X(has_slow, 1)                                                                                                                 \
    X(in_rounds, 1)                                                                                                                \
    X(whole_norm, 1)                                                                                                               \
    X(checkpoints, 1)                                                                                                              \
    X(saves_residuals, 1)                                                                                                          \
    X(part_elements, PSD_MAX_CHUNK)

typedef struct kind_row {
    const char *name;
    unsigned sender, receiver;
    psd_payload_t payload;
    bool may_be_empty; /* a part without elements, an answer without a request */
} kind_row_t;

static const kind_row_t kinds[] = {
#define X(name, number, sender, receiver, payload, may_be_empty, meaning)                                                          \
    [number] = { #name, sender, receiver, PSD_PAYLOAD_##payload, may_be_empty },
    PSD_MESSAGES(X)
#undef X
};

static const kind_row_t *kind_row(psd_kind_t kind)
{
    static const kind_row_t unknown = { "unknown", 0, 0, PSD_PAYLOAD_NONE, false };
    return (size_t)kind < sizeof kinds / sizeof *kinds && kinds[kind].name ? &kinds[kind] : &unknown;
}

const char *psd_kind_name(psd_kind_t kind) { return kind_row(kind)->name; }
psd_payload_t psd_kind_payload(psd_kind_t kind) { return kind_row(kind)->payload; }
unsigned psd_kind_sender(psd_kind_t kind) { return kind_row(kind)->sender; }
unsigned psd_kind_receiver(psd_kind_t kind) { return kind_row(kind)->receiver; }

bool psd_kind_is_data(psd_kind_t kind)
{
    const psd_payload_t payload = psd_kind_payload(kind);
    return payload == PSD_PAYLOAD_PART || payload == PSD_PAYLOAD_BITMAP;
}

const char *psd_refusal_name(unsigned code)
{
    static const char *const names[] = {
#define X(name, number, text, end) [number] = text,
        PSD_REFUSALS(X)
#undef X
    };
    return code < PSD_N_REFUSALS ? names[code] : "unknown";
}

int psd_refusal_end(unsigned code)
{
    static const int ends[] = {
#define X(name, number, text, end) [number] = end,
        PSD_REFUSALS(X)
#undef X
    };
    return code < PSD_N_REFUSALS ? ends[code] : PSD_OK;
}

/* Memory for one unpacked message: allocated sequentially, freed all at once. protobuf-c may request up to 68 times the bytes that
 * it parses; this arena grants as much as an honest message needs, and returns NULL beyond that. */
typedef struct arena {
    uint8_t *bytes; /* aligned for any object */
    size_t used;
    size_t capacity;
} arena_t;

enum {
    HEADER_ARENA = 16 << 10,   /* header, text and 64 parsed fields: over twice what the 30 fields take */
    LIST_ARENA_PER_BYTE = 80,  /* an empty tensor takes 72 bytes of memory for each of its own, others fewer */
    LIST_ARENA_MOST = 24 << 20 /* 65536 tensors with names of 32 bytes and 4 dimensions take 11 MiB */
};

static void *arena_alloc(void *data, size_t size)
{
    arena_t *arena = data;
    const size_t align = _Alignof(max_align_t), left = arena->capacity - arena->used;
    if (size > left)
        return NULL;
    void *taken = arena->bytes + arena->used;
    size_t rounded = (size + align - 1) / align * align;
    arena->used += rounded < left ? rounded : left;
    return taken;
}

static void arena_free(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

/* Parse `frame` into `arena`; NULL when it is not such a message, or not an honest one. */
static ProtobufCMessage *unpack(const ProtobufCMessageDescriptor *type, const void *frame, size_t n_bytes, arena_t *arena)
{
    ProtobufCAllocator allocator = { arena_alloc, arena_free, arena };
    return protobuf_c_message_unpack(type, &allocator, n_bytes, frame);
}

/* One message has one encoding: the parsed message would be written in as many bytes. Refuses encodings about which parsers
 * disagree (repeated singular fields, over-long varints, explicit zeros, strings with NUL inside). */
static bool is_canonical(const ProtobufCMessage *message, size_t n_bytes)
{
    return message->n_unknown_fields == 0 && protobuf_c_message_get_packed_size(message) == n_bytes;
}

/* Bytes of the code point at `s` if it is well-formed (no overlong form, no surrogate) and printable, else 0. */
static size_t printable_length(const unsigned char *s)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (*s < 0x80)
        return *s >= 0x20 && *s != 0x7f;
    size_t n = *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : 2;
    if (*s < 0xc2 || *s > 0xf4)
        return 0;
    uint32_t point = *s & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        point = point << 6 | (s[i] & 0x3fu);
    }
    bool control = point < 0xa0, surrogate = point >= 0xd800 && point < 0xe000;
    return point < least[n] || control || surrogate || point > 0x10ffff ? 0 : n;
}

/* Check that `text` is printable and, with its end, fits `capacity`; names it `where` in the sentence. */
static int check_text(const char *text, size_t capacity, const char *where, psd_err_t *err)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t n = 0; *s; s += n) {
        n = printable_length(s);
        if (n == 0)
            return psd_err_set(err, PSD_EPROTO, "%s has an unprintable byte 0x%02x at %td", where, *s,
                               s - (const unsigned char *)text);
    }
    size_t length = (size_t)(s - (const unsigned char *)text);
    if (length >= capacity)
        return psd_err_set(err, PSD_EPROTO, "%s has %zu bytes, at most %zu", where, length, capacity - 1);
    return PSD_OK;
}

/* The same, and copy it to `out`, which must be all zero. */
static int take_text(char *out, size_t capacity, const char *text, const char *where, psd_err_t *err)
{
    const int rc = check_text(text, capacity, where, err);
    if (rc == PSD_OK)
        memcpy(out, text, strlen(text));
    return rc;
}

/* The same for a text that must not be empty. */
static int take_word(char *out, size_t capacity, const char *text, const char *where, psd_err_t *err)
{
    return *text ? take_text(out, capacity, text, where, err) : psd_err_set(err, PSD_EPROTO, "%s is empty", where);
}

/* Protobuf-c lacks const; it does not write to the message that it packs. */
static char *packed(const char *text) { return (char *)(uintptr_t)text; }

size_t psd_msg_encode(const psd_msg_t *msg, uint8_t frame[PSD_MAX_HEADER])
{
    /* 29 numbers of at most 12 bytes and one bounded text: it always fits. */
    assert(memchr(msg->text, '\0', sizeof msg->text));
    Psd__Header header;
    psd__header__init(&header);
#define X(field, ...) header.field = msg->field;
    WHOLE_FIELDS(X)
    REAL_FIELDS(X)
#undef X
    header.text = packed(msg->text);
    return psd__header__pack(&header, frame);
}

/* The length of a code depends on how the model is cut, which is not known here. */
static int check_coded(const Psd__Header *header, const kind_row_t *kind, size_t n_bytes, psd_err_t *err)
{
    const size_t most = (size_t)header->n_elements * PSD_MAX_CODED + (header->chunks + 7) / 8;
    if (n_bytes == 0 || n_bytes > most)
        return psd_err_set(err, PSD_EPROTO, "%s payload has %zu bytes of codec %" PRIu32 "; expected 1 to %zu", kind->name, n_bytes,
                           header->codec, most);
    return PSD_OK;
}

/* Check that the payload has the length required by kind and counts; products cannot overflow, because counts are small. */
static int check_payload(const Psd__Header *header, const kind_row_t *kind, size_t n_bytes, psd_err_t *err)
{
    size_t wanted = 0;
    switch (kind->payload) {
    case PSD_PAYLOAD_NONE:
        break;
    case PSD_PAYLOAD_BITMAP:
        wanted = (header->parts + 7) / 8;
        break;
    case PSD_PAYLOAD_PART:
        if (header->n_elements == 0 && !kind->may_be_empty)
            return psd_err_set(err, PSD_EPROTO, "%s.n_elements is 0, at least 1", kind->name);
        if (header->n_elements && (!header->dtype || !header->codec))
            return psd_err_set(err, PSD_EPROTO, "%s.%s is 0 with a part, at least 1", kind->name,
                               header->dtype ? "codec" : "dtype");
        if (header->n_elements && header->parts == 0)
            return psd_err_set(err, PSD_EPROTO, "%s.parts is 0 with a part, at least 1", kind->name);
        if (header->chunks > header->n_elements)
            return psd_err_set(err, PSD_EPROTO, "%s.chunks is %" PRIu32 " of %" PRIu32 " elements", kind->name, header->chunks,
                               header->n_elements);
        wanted = (size_t)header->n_elements * sizeof(float) + (header->chunks + 7) / 8;
        if (header->n_elements && header->codec != PSD_CODEC_F32)
            return check_coded(header, kind, n_bytes, err);
        break;
    case PSD_PAYLOAD_SUMS:
        wanted = (size_t)header->parts * header->n_elements * sizeof(double);
        break;
    case PSD_PAYLOAD_TENSORS:
    case PSD_PAYLOAD_CLUSTER:
    case PSD_PAYLOAD_ROUND:
    case PSD_PAYLOAD_HELLO:
    case PSD_PAYLOAD_SHARD_HELLO:
    case PSD_PAYLOAD_ADMIN_REQUEST:
    case PSD_PAYLOAD_OFFER:
        if (n_bytes == 0 && kind->may_be_empty)
            return PSD_OK;
        if (n_bytes == 0 || n_bytes > PSD_MAX_LIST)
            return psd_err_set(err, PSD_EPROTO, "%s payload has %zu bytes; expected 1 to %d", kind->name, n_bytes, PSD_MAX_LIST);
        return PSD_OK;
    }
    if (n_bytes != wanted)
        return psd_err_set(err, PSD_EPROTO, "%s payload has %zu bytes; expected %zu", kind->name, n_bytes, wanted);
    return PSD_OK;
}

static int check_real(const char *kind, const char *field, double x, bool nonfinite, bool negative, psd_err_t *err)
{
    if (!nonfinite && !isfinite(x))
        return psd_err_set(err, PSD_EPROTO, "%s.%s is %f; expected finite", kind, field, x);
    if (!negative && x < 0)
        return psd_err_set(err, PSD_EPROTO, "%s.%s is %g, at least 0", kind, field, x);
    return PSD_OK;
}

static int check_fields(const Psd__Header *header, const char *kind, psd_err_t *err)
{
    int rc;
#define X(field, most)                                                                                                             \
    if ((uint64_t)header->field > (uint64_t)(most))                                                                                \
        return psd_err_set(err, PSD_EPROTO, "%s." #field " is %" PRIu64 ", at most %" PRIu64, kind, (uint64_t)header->field,       \
                           (uint64_t)(most));
    WHOLE_FIELDS(X)
#undef X
#define X(field, nonfinite, negative)                                                                                              \
    if ((rc = check_real(kind, #field, header->field, nonfinite, negative, err)))                                                  \
        return rc;
    REAL_FIELDS(X)
#undef X
    if (header->part >= header->parts && (header->part || header->parts))
        return psd_err_set(err, PSD_EPROTO, "%s.part is %" PRIu32 " of %" PRIu32, kind, header->part, header->parts);
    if (header->rank >= header->world && (header->rank || header->world))
        return psd_err_set(err, PSD_EPROTO, "%s.rank is %" PRIu32 " of %" PRIu32, kind, header->rank, header->world);
    if (header->kind == PSD_MSG_REFUSED && header->code >= PSD_N_REFUSALS)
        return psd_err_set(err, PSD_EPROTO, "%s.code is %" PRIu32 ", at most %d", kind, header->code, PSD_N_REFUSALS - 1);
    return PSD_OK;
}

static int check_header(const Psd__Header *header, size_t n_bytes, size_t payload_bytes, psd_err_t *err)
{
    const kind_row_t *kind = kind_row(header->kind);
    int rc;
    /* First, because a later version may have other kinds and fields, and the answer should name the version. */
    if (header->protocol != PSD_PROTOCOL)
        return psd_err_set(err, PSD_EPROTO, "%s.protocol is %" PRIu32 ", ours is %d", kind->name, header->protocol, PSD_PROTOCOL);
    if (!kind->sender)
        return psd_err_set(err, PSD_EPROTO, "kind %" PRIu32 " is unknown", header->kind);
    if (header->base.n_unknown_fields)
        return psd_err_set(err, PSD_EPROTO, "%s has an unknown field %" PRIu32, kind->name, header->base.unknown_fields[0].tag);
    if (!is_canonical(&header->base, n_bytes))
        return psd_err_set(err, PSD_EPROTO, "%s of %zu bytes is not in the canonical encoding", kind->name, n_bytes);
    if ((rc = check_fields(header, kind->name, err)))
        return rc;
    if (*header->text) {
        char where[48];
        snprintf(where, sizeof where, "%s.text", kind->name);
        if ((rc = check_text(header->text, PSD_MAX_TEXT, where, err)))
            return rc;
    }
    return check_payload(header, kind, payload_bytes, err);
}

int psd_msg_decode(psd_msg_t *out, const void *frame, size_t n_bytes, size_t payload_bytes, psd_err_t *err)
{
    *out = (psd_msg_t){ 0 };
    if (n_bytes == 0 || n_bytes > PSD_MAX_HEADER)
        return psd_err_set(err, PSD_EPROTO, "header has %zu bytes; expected 1 to %d", n_bytes, PSD_MAX_HEADER);

    _Alignas(max_align_t) uint8_t bytes[HEADER_ARENA];
    arena_t arena = { bytes, 0, sizeof bytes };
    const Psd__Header *header = (Psd__Header *)unpack(&psd__header__descriptor, frame, n_bytes, &arena);
    if (!header)
        return psd_err_set(err, PSD_EPROTO, "header of %zu bytes is malformed", n_bytes);
    int rc = check_header(header, n_bytes, payload_bytes, err);
    if (rc) {
        out->kind = header->kind;
        out->protocol = header->protocol;
        return rc;
    }
#define X(field, ...) out->field = header->field;
    WHOLE_FIELDS(X)
    REAL_FIELDS(X)
#undef X
    memcpy(out->text, header->text, strlen(header->text));
    return PSD_OK;
}

bool psd_checksum_ok(const psd_msg_t *msg, const void *payload, size_t n_bytes)
{
    return msg->proven || psd_crc32c(payload, n_bytes) == msg->checksum;
}

/* -- frames ------------------------------------------------------------------------------------------------ */

static bool seals_payload(psd_kind_t kind) { return psd_kind_payload(kind) != PSD_PAYLOAD_PART; }

static void put_seal(uint8_t *frame, size_t n)
{
    const uint32_t crc = psd_crc32c(frame, n);
    for (size_t i = 0; i < PSD_SEAL; i++)
        frame[n + i] = (uint8_t)(crc >> 8 * i);
}

size_t psd_msg_seal(const psd_msg_t *msg, const void *payload, size_t n_bytes, uint8_t frame[PSD_MAX_FRAME_HEADER])
{
    size_t n;
    if (n_bytes && !msg->proven && seals_payload(msg->kind)) {
        psd_msg_t copy = *msg;
        copy.checksum = psd_crc32c(payload, n_bytes);
        n = psd_msg_encode(&copy, frame);
    } else {
        n = psd_msg_encode(msg, frame);
    }
    put_seal(frame, n);
    return n + PSD_SEAL;
}

int psd_msg_open(psd_msg_t *out, const void *frame, size_t n_frame, const void *payload, size_t n_bytes, psd_err_t *err)
{
    uint8_t seal[PSD_SEAL];
    *out = (psd_msg_t){ 0 };
    if (n_frame <= PSD_SEAL || n_frame > PSD_MAX_FRAME_HEADER)
        return psd_err_set(err, PSD_EPROTO, "header frame has %zu bytes; expected %d to %d", n_frame, PSD_SEAL + 1,
                           PSD_MAX_FRAME_HEADER);
    const size_t n = n_frame - PSD_SEAL;
    const uint32_t crc = psd_crc32c(frame, n);
    memcpy(seal, (const uint8_t *)frame + n, sizeof seal);
    for (size_t i = 0; i < PSD_SEAL; i++)
        if (seal[i] != (uint8_t)(crc >> 8 * i))
            return psd_err_set(err, PSD_EDATA, "header of %zu bytes was damaged on the way", n);
    const int rc = psd_msg_decode(out, frame, n, n_bytes, err);
    if (rc == PSD_OK && n_bytes && seals_payload(out->kind) && !psd_checksum_ok(out, payload, n_bytes)) {
        const psd_kind_t kind = out->kind;
        *out = (psd_msg_t){ 0 };
        return psd_err_set(err, PSD_EDATA, "payload of %s was damaged on the way", psd_kind_name(kind));
    }
    return rc;
}

/* -- protobuf messages ------------------------------------------------------------------------------------------------- */

static size_t pack_list(const ProtobufCMessage *message, uint8_t *buf, size_t capacity)
{
    size_t n_bytes = protobuf_c_message_get_packed_size(message);
    return n_bytes <= capacity && n_bytes <= PSD_MAX_LIST ? protobuf_c_message_pack(message, buf) : 0;
}

/* Parse a message into an arena on the heap, which the caller frees by free(arena->bytes) in any case. */
static int unpack_list(const ProtobufCMessageDescriptor *type, const void *buf, size_t n_bytes, arena_t *arena,
                       const ProtobufCMessage **out, psd_err_t *err)
{
    const size_t wanted = 4096 + n_bytes * LIST_ARENA_PER_BYTE;
    *arena = (arena_t){ .capacity = wanted < LIST_ARENA_MOST ? wanted : LIST_ARENA_MOST };
    if (n_bytes == 0 || n_bytes > PSD_MAX_LIST)
        return psd_err_set(err, PSD_EPROTO, "%s has %zu bytes; expected 1 to %d", type->short_name, n_bytes, PSD_MAX_LIST);
    if (!(arena->bytes = malloc(arena->capacity)))
        return psd_err_set(err, PSD_ENOMEM, "no memory to read a %s", type->short_name);
    if (!(*out = unpack(type, buf, n_bytes, arena)))
        return psd_err_set(err, PSD_EPROTO, "%s of %zu bytes is malformed", type->short_name, n_bytes);
    if (!is_canonical(*out, n_bytes))
        return psd_err_set(err, PSD_EPROTO, "%s of %zu bytes is not in the canonical encoding", type->short_name, n_bytes);
    return PSD_OK;
}

size_t psd_tensors_encode(const psd_tensor_list_t *list, uint8_t *buf, size_t capacity)
{
    assert(list->n <= PSD_MAX_TENSORS);
    Psd__Tensor *row = calloc(list->n + 1, sizeof *row), **rows = calloc(list->n + 1, sizeof *rows);
    Psd__Inherited *inherited = list->inherited ? calloc(list->n + 1, sizeof *inherited) : NULL;
    assert(row && rows && (inherited || !list->inherited) && "no memory for a list of tensors");
    for (uint32_t i = 0; i < list->n; i++) {
        const psd_tensor_desc_t *tensor = &list->tensor[i];
        assert(tensor->n_dims <= PSD_MAX_DIMS);
        psd__tensor__init(rows[i] = &row[i]);
        row[i].name = packed(tensor->name);
        row[i].n_dim = tensor->n_dims;
        row[i].dim = (uint64_t *)(uintptr_t)tensor->dim;
        if (!inherited || !list->inherited[i].t)
            continue;
        psd__inherited__init(row[i].inherited = &inherited[i]);
        inherited[i].updates = list->inherited[i].t;
        inherited[i].arrays = list->inherited[i].arrays;
        inherited[i].n_scalar = list->inherited[i].n_scalars;
        inherited[i].scalar = list->inherited[i].scalar;
    }
    Psd__TensorList message;
    psd__tensor_list__init(&message);
    message.n_tensor = list->n;
    message.tensor = rows;
    message.rows = list->rows;
    const size_t n_bytes = pack_list(&message.base, buf, capacity);
    free(inherited);
    free(row);
    free(rows);
    return n_bytes;
}

static int read_inherited(psd_inherited_t *out, const Psd__Inherited *in, size_t index, psd_err_t *err)
{
    if (in->base.n_unknown_fields || !in->updates || in->updates > PSD_MAX_COUNT || in->arrays >> PSD_MAX_SLOTS ||
        in->n_scalar > PSD_MAX_SCALAR)
        return psd_err_set(err, PSD_EPROTO,
                           "tensor %zu inherits %" PRIu64 " updates, arrays %#" PRIx32
                           " and %zu scalars; expected 1 to 2^62, below "
                           "%#x, at most %d, and nothing else",
                           index, in->updates, in->arrays, in->n_scalar, 1u << PSD_MAX_SLOTS, PSD_MAX_SCALAR);
    *out = (psd_inherited_t){ .t = in->updates, .arrays = in->arrays, .n_scalars = (uint32_t)in->n_scalar };
    for (size_t i = 0; i < in->n_scalar; i++) {
        if (!isfinite(in->scalar[i]))
            return psd_err_set(err, PSD_EPROTO, "tensor %zu inherits a scalar that is Inf or NaN", index);
        out->scalar[i] = in->scalar[i];
    }
    return PSD_OK;
}

static int read_tensor(psd_tensor_desc_t *out, const Psd__Tensor *tensor, size_t index, psd_err_t *err)
{
    char where[48];
    snprintf(where, sizeof where, "tensor %zu's name", index);
    int rc = take_word(out->name, sizeof out->name, tensor->name, where, err);
    if (rc)
        return rc;
    if (tensor->base.n_unknown_fields)
        return psd_err_set(err, PSD_EPROTO, "tensor %zu has an unknown field", index);
    if (tensor->n_dim > PSD_MAX_DIMS)
        return psd_err_set(err, PSD_EPROTO, "tensor %zu has %zu dimensions, at most %d", index, tensor->n_dim, PSD_MAX_DIMS);
    out->n_elements = 1;
    for (size_t i = 0; i < tensor->n_dim; i++) {
        uint64_t dim = tensor->dim[i];
        if (dim == 0 || dim > PSD_MAX_ELEMENTS / out->n_elements)
            return psd_err_set(err, PSD_EPROTO, "tensor %zu's dimension %zu is %" PRIu64 "; 1 to 2^40 elements in all", index, i,
                               dim);
        out->dim[i] = dim;
        out->n_elements *= dim;
    }
    out->n_dims = (uint32_t)tensor->n_dim;
    return PSD_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Check that no two tensors share a name, by sorting pointers: comparing thousands of names in pairs would be slow. */
static int check_names_differ(const psd_tensor_list_t *list, psd_err_t *err)
{
    int rc = PSD_OK;
    const char **names = calloc(list->n, sizeof *names);
    if (!names)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %" PRIu32 " names", list->n);
    for (uint32_t i = 0; i < list->n; i++)
        names[i] = list->tensor[i].name;
    qsort(names, list->n, sizeof *names, by_name);
    for (uint32_t i = 1; rc == PSD_OK && i < list->n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = psd_err_set(err, PSD_EPROTO, "two tensors are called %s", names[i]);
    free(names);
    return rc;
}

static int read_tensors(psd_tensor_list_t *out, const Psd__TensorList *message, psd_err_t *err)
{
    int rc;
    if (message->n_tensor == 0 || message->n_tensor > PSD_MAX_TENSORS)
        return psd_err_set(err, PSD_EPROTO, "TensorList has %zu tensors; expected 1 to %d", message->n_tensor, PSD_MAX_TENSORS);
    if (message->rows > PSD_MAX_COUNT)
        return psd_err_set(err, PSD_EPROTO, "rows is %" PRIu64 "; expected at most %" PRIu64, message->rows, PSD_MAX_COUNT);
    if (!(out->tensor = calloc(message->n_tensor, sizeof *out->tensor)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu tensors", message->n_tensor);
    for (size_t i = 0; i < message->n_tensor; i++) {
        if ((rc = read_tensor(&out->tensor[i], message->tensor[i], i, err)))
            return rc;
        if (!message->tensor[i]->inherited)
            continue;
        if (!out->inherited && !(out->inherited = calloc(message->n_tensor, sizeof *out->inherited)))
            return psd_err_set(err, PSD_ENOMEM, "no memory for what %zu tensors inherit", message->n_tensor);
        if ((rc = read_inherited(&out->inherited[i], message->tensor[i]->inherited, i, err)))
            return rc;
    }
    out->n = (uint32_t)message->n_tensor;
    out->rows = message->rows;
    return check_names_differ(out, err);
}

int psd_tensors_decode(psd_tensor_list_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *message = NULL;
    *out = (psd_tensor_list_t){ 0 };
    int rc = unpack_list(&psd__tensor_list__descriptor, buf, n_bytes, &arena, &message, err);
    if (!rc)
        rc = read_tensors(out, (const Psd__TensorList *)message, err);
    if (rc)
        psd_tensors_clear(out);
    free(arena.bytes);
    return rc;
}

void psd_tensors_clear(psd_tensor_list_t *list)
{
    free(list->tensor);
    free(list->inherited);
    *list = (psd_tensor_list_t){ 0 };
}

int psd_tensors_copy(psd_tensor_list_t *out, const psd_tensor_list_t *in)
{
    *out = (psd_tensor_list_t){ 0 };
    if (in->n == 0)
        return PSD_OK;
    out->tensor = calloc(in->n, sizeof *out->tensor);
    out->inherited = in->inherited ? calloc(in->n, sizeof *out->inherited) : NULL;
    if (!out->tensor || (in->inherited && !out->inherited)) {
        psd_tensors_clear(out);
        return PSD_ENOMEM;
    }
    memcpy(out->tensor, in->tensor, in->n * sizeof *out->tensor);
    if (in->inherited)
        memcpy(out->inherited, in->inherited, in->n * sizeof *out->inherited);
    out->n = in->n;
    out->rows = in->rows;
    return PSD_OK;
}

static psd_shape_t shape_of(const psd_tensor_desc_t *tensor)
{
    const uint32_t n = tensor->n_dims;
    if (n < 2)
        return (psd_shape_t){ .n_dims = n };
    psd_shape_t shape = { .n_dims = n, .n_matrices = 1, .rows = tensor->dim[n - 2], .cols = tensor->dim[n - 1] };
    for (uint32_t i = 0; i + 2 < n; i++)
        shape.n_matrices *= tensor->dim[i];
    return shape;
}

psd_extent_t *psd_tensors_extents(const psd_tensor_list_t *list)
{
    psd_extent_t *extents = calloc(list->n + 1, sizeof *extents);
    for (uint32_t i = 0; extents && i < list->n; i++)
        extents[i] = (psd_extent_t){ .n = list->tensor[i].n_elements, .shape = shape_of(&list->tensor[i]) };
    return extents;
}

/* "fc1.weight [128, 784]", or "missing" past the end of the list. */
static const char *describe(const psd_tensor_list_t *list, uint32_t index, char *text, size_t capacity)
{
    if (index >= list->n)
        return "missing";
    const psd_tensor_desc_t *tensor = &list->tensor[index];
    int used = snprintf(text, capacity, "%s [", tensor->name);
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        used += snprintf(text + used, capacity - (size_t)used, "%s%" PRIu64, i ? ", " : "", tensor->dim[i]);
    snprintf(text + used, capacity - (size_t)used, "]");
    return text;
}

int psd_tensors_compare(const psd_tensor_list_t *ours, const psd_tensor_list_t *theirs, psd_err_t *err)
{
    enum { ROOM = PSD_MAX_NAME + 22 * PSD_MAX_DIMS + 4 }; /* 20 digits and ", " per dimension */
    uint32_t most = ours->n > theirs->n ? ours->n : theirs->n;
    for (uint32_t i = 0; i < most; i++) {
        char a[ROOM], b[ROOM];
        const char *our = describe(ours, i, a, sizeof a), *their = describe(theirs, i, b, sizeof b);
        if (strcmp(our, their) != 0)
            return psd_err_set(err, PSD_EINVAL, "its tensor %" PRIu32 " is %s, the job's is %s", i, their, our);
    }
    return PSD_OK;
}

/* "that after 100 updates, with arrays 0x3" */
static const char *describe_inherited(const psd_inherited_t *inherited, char text[96])
{
    if (inherited->t)
        snprintf(text, 96, "that after %" PRIu64 " updates, with arrays %#" PRIx32, inherited->t, inherited->arrays);
    return inherited->t ? text : "new state";
}

static bool same_inherited(const psd_inherited_t *a, const psd_inherited_t *b)
{
    bool same = a->t == b->t && a->arrays == b->arrays && a->n_scalars == b->n_scalars;
    for (uint32_t i = 0; same && i < a->n_scalars; i++)
        same = !memcmp(&a->scalar[i], &b->scalar[i], sizeof *a->scalar);
    return same;
}

int psd_tensors_compare_inherited(const psd_tensor_list_t *ours, const psd_tensor_list_t *theirs, psd_err_t *err)
{
    static const psd_inherited_t fresh;
    for (uint32_t i = 0; i < ours->n; i++) {
        const psd_inherited_t *a = ours->inherited ? &ours->inherited[i] : &fresh;
        const psd_inherited_t *b = theirs->inherited ? &theirs->inherited[i] : &fresh;
        char our[96], their[96];
        if (!same_inherited(a, b))
            return psd_err_set(err, PSD_EINVAL, "tensor %s: ours starts with %s, theirs with %s%s", ours->tensor[i].name,
                               describe_inherited(a, our), describe_inherited(b, their),
                               a->t == b->t && a->arrays == b->arrays ? "; their scalars differ" : "");
    }
    return PSD_OK;
}

size_t psd_cluster_encode(const psd_cluster_t *cluster, uint8_t *buf, size_t capacity)
{
    assert(cluster->n_servers <= PSD_MAX_SERVERS);
    char *endpoints[PSD_MAX_SERVERS];
    for (uint32_t i = 0; i < cluster->n_servers; i++)
        endpoints[i] = packed(cluster->endpoint[i]);
    Psd__Cluster message;
    psd__cluster__init(&message);
    message.n_endpoint = cluster->n_servers;
    message.endpoint = endpoints;
    Psd__Settings settings;
    psd__settings__init(&settings);
#define X(field, ...) settings.field = packed(cluster->settings.field);
    SETTINGS_TEXTS(X)
#undef X
#define X(field, ...) settings.field = cluster->settings.field;
    SETTINGS_NUMBERS(X)
#undef X
    settings.push_codec = psd_coding_number(&cluster->settings.codings.push);
    settings.push_argument = cluster->settings.codings.push.argument;
    settings.pull_codec = psd_coding_number(&cluster->settings.codings.pull);
    settings.pull_argument = cluster->settings.codings.pull.argument;
    message.settings = &settings;
    return pack_list(&message.base, buf, capacity);
}

static int read_settings(psd_job_settings_t *out, const Psd__Settings *message, psd_err_t *err)
{
    int rc;
    if (!message)
        return psd_err_set(err, PSD_EPROTO, "Cluster has no settings");
    if (message->base.n_unknown_fields)
        return psd_err_set(err, PSD_EPROTO, "Cluster.settings has an unknown field");
#define X(field, take)                                                                                                             \
    if ((rc = take(out->field, sizeof out->field, message->field, "Settings." #field, err)))                                       \
        return rc;
    SETTINGS_TEXTS(X)
#undef X
#define X(field, most)                                                                                                             \
    if (!((double)message->field >= 0 && (double)message->field <= (double)(most)))                                                \
        return psd_err_set(err, PSD_EPROTO, "Settings." #field " is %g; expected 0 to %g", (double)message->field,                 \
                           (double)(most));                                                                                        \
    out->field = message->field;
    SETTINGS_NUMBERS(X)
#undef X
    if (!message->part_elements)
        return psd_err_set(err, PSD_EPROTO, "Settings.part_elements is 0, at least 1");
    if ((rc = psd_coding_of(&out->codings.push, message->push_codec, message->push_argument, err)) ||
        (rc = psd_coding_of(&out->codings.pull, message->pull_codec, message->pull_argument, err)))
        psd_err_wrap(err, "Settings");
    return rc;
}

static int read_cluster(psd_cluster_t *out, const Psd__Cluster *message, psd_err_t *err)
{
    int rc = PSD_OK;
    if (message->n_endpoint == 0 || message->n_endpoint > PSD_MAX_SERVERS)
        return psd_err_set(err, PSD_EPROTO, "Cluster has %zu endpoints; expected 1 to %d", message->n_endpoint, PSD_MAX_SERVERS);
    out->n_servers = (uint32_t)message->n_endpoint;
    for (size_t i = 0; !rc && i < message->n_endpoint; i++) {
        char where[48];
        snprintf(where, sizeof where, "Cluster.endpoint %zu", i);
        rc = take_word(out->endpoint[i], sizeof out->endpoint[i], message->endpoint[i], where, err);
    }
    return rc ? rc : read_settings(&out->settings, message->settings, err);
}

int psd_cluster_decode(psd_cluster_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *message = NULL;
    *out = (psd_cluster_t){ 0 };
    int rc = unpack_list(&psd__cluster__descriptor, buf, n_bytes, &arena, &message, err);
    if (!rc)
        rc = read_cluster(out, (const Psd__Cluster *)message, err);
    if (rc)
        *out = (psd_cluster_t){ 0 };
    free(arena.bytes);
    return rc;
}

size_t psd_hello_encode(const psd_hello_t *hello, uint8_t *buf, size_t capacity)
{
    Psd__Hello message;
    psd__hello__init(&message);
    message.job = packed(hello->job);
    message.name = packed(hello->name);
    return pack_list(&message.base, buf, capacity);
}

int psd_hello_decode(psd_hello_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *list = NULL;
    *out = (psd_hello_t){ 0 };
    int rc = unpack_list(&psd__hello__descriptor, buf, n_bytes, &arena, &list, err);
    const Psd__Hello *message = (const Psd__Hello *)list;
    if (rc || (rc = take_word(out->job, sizeof out->job, message->job, "Hello.job", err)) ||
        (rc = take_text(out->name, sizeof out->name, message->name, "Hello.name", err)))
        *out = (psd_hello_t){ 0 };
    free(arena.bytes);
    return rc;
}

size_t psd_shard_hello_encode(const psd_shard_hello_t *hello, uint8_t *buf, size_t capacity)
{
    Psd__ShardHello message;
    psd__shard_hello__init(&message);
    message.job = packed(hello->job);
    message.endpoint = packed(hello->endpoint);
    message.settings = packed(hello->settings);
    return pack_list(&message.base, buf, capacity);
}

int psd_shard_hello_decode(psd_shard_hello_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *list = NULL;
    *out = (psd_shard_hello_t){ 0 };
    int rc = unpack_list(&psd__shard_hello__descriptor, buf, n_bytes, &arena, &list, err);
    const Psd__ShardHello *message = (const Psd__ShardHello *)list;
    if (rc || (rc = take_word(out->job, sizeof out->job, message->job, "ShardHello.job", err)) ||
        (rc = take_text(out->endpoint, sizeof out->endpoint, message->endpoint, "ShardHello.endpoint", err)) ||
        (rc = take_text(out->settings, sizeof out->settings, message->settings, "ShardHello.settings", err)))
        *out = (psd_shard_hello_t){ 0 };
    free(arena.bytes);
    return rc;
}

size_t psd_offer_encode(const psd_offer_t *offer, uint8_t *buf, size_t capacity)
{
    Psd__Offer message;
    psd__offer__init(&message);
    message.name = packed(offer->name);
    message.token = (ProtobufCBinaryData){ sizeof offer->token, (uint8_t *)(uintptr_t)offer->token };
    return pack_list(&message.base, buf, capacity);
}

int psd_offer_decode(psd_offer_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *list = NULL;
    *out = (psd_offer_t){ 0 };
    int rc = unpack_list(&psd__offer__descriptor, buf, n_bytes, &arena, &list, err);
    const Psd__Offer *message = (const Psd__Offer *)list;
    if (!rc)
        rc = take_word(out->name, sizeof out->name, message->name, "Offer.name", err);
    if (!rc && message->token.len != sizeof out->token)
        rc = psd_err_set(err, PSD_EPROTO, "Offer.token has %zu bytes; expected %zu", message->token.len, sizeof out->token);
    if (rc)
        *out = (psd_offer_t){ 0 };
    else
        memcpy(out->token, message->token.data, sizeof out->token);
    free(arena.bytes);
    return rc;
}

size_t psd_admin_request_encode(const psd_admin_request_t *request, uint8_t *buf, size_t capacity)
{
    Psd__AdminRequest message;
    psd__admin_request__init(&message);
    message.job = packed(request->job);
    message.verb = packed(request->verb);
    message.word = packed(request->word);
    message.value = request->value;
    return pack_list(&message.base, buf, capacity);
}

int psd_admin_request_decode(psd_admin_request_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *list = NULL;
    *out = (psd_admin_request_t){ 0 };
    int rc = unpack_list(&psd__admin_request__descriptor, buf, n_bytes, &arena, &list, err);
    const Psd__AdminRequest *message = (const Psd__AdminRequest *)list;
    if (rc || (rc = take_word(out->job, sizeof out->job, message->job, "AdminRequest.job", err)) ||
        (rc = take_word(out->verb, sizeof out->verb, message->verb, "AdminRequest.verb", err)) ||
        (rc = take_text(out->word, sizeof out->word, message->word, "AdminRequest.word", err)) ||
        (rc = check_real("AdminRequest", "value", message->value, false, true, err)))
        *out = (psd_admin_request_t){ 0 };
    else
        out->value = message->value;
    free(arena.bytes);
    return rc;
}

/* `n` members as protobuf-c expects them: pointers, in one block with the rows after them, for the caller to free. */
static Psd__Member **write_members(const psd_member_t *member, uint32_t n)
{
    assert(n <= PSD_MAX_WORKERS);
    Psd__Member **rows = malloc(n * (sizeof *rows + sizeof **rows) + 1);
    assert(rows && "no memory for a round");
    Psd__Member *row = (Psd__Member *)(void *)(rows + n);
    for (uint32_t i = 0; i < n; i++) {
        psd__member__init(rows[i] = &row[i]);
        row[i].worker = member[i].worker;
        row[i].incarnation = member[i].incarnation;
        row[i].samples = member[i].samples;
        row[i].loss = member[i].loss;
        row[i].norm2 = member[i].norm2;
        row[i].nonfinite = member[i].nonfinite;
        row[i].nonce = member[i].nonce;
    }
    return rows;
}

size_t psd_round_encode(const psd_round_t *round, uint8_t *buf, size_t capacity)
{
    Psd__Member **contributor = write_members(round->contributor, round->n_contributors);
    Psd__Member **member = write_members(round->member, round->n_members);
    Psd__Round message;
    psd__round__init(&message);
    message.layout = 1;
    message.clock = round->clock;
    message.apply = round->apply;
    message.lr = round->lr;
    message.view_id = round->view_id;
    message.n_contributor = round->n_contributors;
    message.contributor = contributor;
    message.n_member = round->n_members;
    message.member = member;
    const size_t n_bytes = pack_list(&message.base, buf, capacity);
    free(contributor);
    free(member);
    return n_bytes;
}

static int check_member(const Psd__Member *member, const Psd__Member *before, const char *where, psd_err_t *err)
{
    if (member->worker >= PSD_MAX_WORKERS)
        return psd_err_set(err, PSD_EPROTO, "%s.worker is %" PRIu32 ", at most %d", where, member->worker, PSD_MAX_WORKERS - 1);
    if (before && before->worker >= member->worker)
        return psd_err_set(err, PSD_EPROTO, "%s.worker is %" PRIu32 " after %" PRIu32 "; expected ascending", where, member->worker,
                           before->worker);
    if (member->incarnation > PSD_MAX_COUNT || member->samples > PSD_MAX_SAMPLES)
        return psd_err_set(err, PSD_EPROTO, "%s.%s is too large", where,
                           member->incarnation > PSD_MAX_COUNT ? "incarnation" : "samples");
    if (member->base.n_unknown_fields)
        return psd_err_set(err, PSD_EPROTO, "%s has an unknown field", where);
    return check_real(where, "norm2", member->norm2, member->nonfinite, member->nonfinite, err);
}

static int read_members(psd_member_t **out, uint32_t *n_out, Psd__Member *const *rows, size_t n, const char *list, psd_err_t *err)
{
    int rc;
    if (n > PSD_MAX_WORKERS)
        return psd_err_set(err, PSD_EPROTO, "Round has %zu %ss, at most %d", n, list, PSD_MAX_WORKERS);
    if (n && !(*out = calloc(n, sizeof **out)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu %ss", n, list);
    for (size_t i = 0; i < n; i++) {
        char where[48];
        snprintf(where, sizeof where, "Round.%s %zu", list, i);
        if ((rc = check_member(rows[i], i ? rows[i - 1] : NULL, where, err)))
            return rc;
        (*out)[i] = (psd_member_t){ .worker = rows[i]->worker,
                                    .incarnation = rows[i]->incarnation,
                                    .samples = rows[i]->samples,
                                    .loss = rows[i]->loss,
                                    .norm2 = rows[i]->norm2,
                                    .nonfinite = rows[i]->nonfinite,
                                    .nonce = rows[i]->nonce };
    }
    *n_out = (uint32_t)n;
    return PSD_OK;
}

static int read_round(psd_round_t *out, const Psd__Round *message, psd_err_t *err)
{
    int rc;
    if (message->layout != 1)
        return psd_err_set(err, PSD_EPROTO, "Round.layout is %" PRIu32 ", 1 is known", message->layout);
    if (message->clock > PSD_MAX_COUNT || message->view_id > PSD_MAX_COUNT)
        return psd_err_set(err, PSD_EPROTO, "Round.%s is too large", message->clock > PSD_MAX_COUNT ? "clock" : "view_id");
    if ((rc = check_real("Round", "lr", message->lr, false, false, err)) ||
        (rc = read_members(&out->contributor, &out->n_contributors, message->contributor, message->n_contributor, "contributor",
                           err)) ||
        (rc = read_members(&out->member, &out->n_members, message->member, message->n_member, "member", err)))
        return rc;
    out->clock = message->clock;
    out->apply = message->apply;
    out->lr = message->lr;
    out->view_id = message->view_id;
    return PSD_OK;
}

int psd_round_decode(psd_round_t *out, const void *buf, size_t n_bytes, psd_err_t *err)
{
    arena_t arena;
    const ProtobufCMessage *message = NULL;
    *out = (psd_round_t){ 0 };
    int rc = unpack_list(&psd__round__descriptor, buf, n_bytes, &arena, &message, err);
    if (!rc)
        rc = read_round(out, (const Psd__Round *)message, err);
    if (rc)
        psd_round_clear(out);
    free(arena.bytes);
    return rc;
}

void psd_round_clear(psd_round_t *round)
{
    free(round->contributor);
    free(round->member);
    *round = (psd_round_t){ 0 };
}
