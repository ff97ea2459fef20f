#include "proto/wire.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The functions that write, read and free the struct of a payload. */
typedef struct row {
    size_t size;
    size_t (*encode)(const void *value, uint8_t *buf, size_t capacity);
    int (*decode)(void *out, const void *buf, size_t n_bytes, psd_err_t *err);
    void (*clear)(void *value);
} row_t;

#define X(PAYLOAD, word, type, clear)                                                                                              \
    static size_t encode_##word(const void *value, uint8_t *buf, size_t capacity)                                                  \
    {                                                                                                                              \
        return psd_##word##_encode(value, buf, capacity);                                                                          \
    }                                                                                                                              \
    static int decode_##word(void *out, const void *buf, size_t n_bytes, psd_err_t *err)                                           \
    {                                                                                                                              \
        return psd_##word##_decode(out, buf, n_bytes, err);                                                                        \
    }                                                                                                                              \
    static void clear_##word(void *value) { clear(value); }
PSD_BODIES(X)
#undef X

static const row_t rows[] = {
#define X(PAYLOAD, word, type, clear) [PSD_PAYLOAD_##PAYLOAD] = { sizeof(type), encode_##word, decode_##word, clear_##word },
    PSD_BODIES(X)
#undef X
};

/* NULL: the body is the bytes themselves. */
static const row_t *row_of(psd_payload_t payload)
{
    return (size_t)payload < sizeof rows / sizeof *rows && rows[payload].size ? &rows[payload] : NULL;
}

static void release(psd_buf_t *self)
{
    const row_t *row = self->owner;
    row->clear(self->data);
    free(self);
}

/* One allocation: the buffer's header, and the struct behind it, all zero. */
static psd_buf_t *new_body(const row_t *row)
{
    const size_t head = (sizeof(psd_buf_t) + _Alignof(max_align_t) - 1) / _Alignof(max_align_t) * _Alignof(max_align_t);
    psd_buf_t *self = calloc(1, head + row->size);
    assert(self && "no memory for a message");
    psd_buf_init(self, (unsigned char *)self + head, row->size, release);
    self->owner = (void *)(uintptr_t)row;
    return self;
}

psd_buf_t *psd_body_make(psd_payload_t payload, const void *value)
{
    const row_t *row = row_of(payload);
    assert(row && "a payload whose body is a struct");
    psd_buf_t *self = new_body(row);
    memcpy(self->data, value, row->size);
    return self;
}

const void *psd_body_look(const psd_buf_t *body, psd_payload_t payload)
{
    assert(body && body->release == release && body->owner == row_of(payload) && "a body of that payload");
    return body->data;
}

size_t psd_body_encode(psd_payload_t payload, const psd_buf_t *body, uint8_t *buf, size_t capacity)
{
    return row_of(payload)->encode(psd_body_look(body, payload), buf, capacity);
}

int psd_body_decode(psd_payload_t payload, const void *buf, size_t n_bytes, psd_buf_t **body, psd_err_t *err)
{
    *body = new_body(row_of(payload));
    const int rc = row_of(payload)->decode((*body)->data, buf, n_bytes, err);
    if (rc != PSD_OK)
        psd_buf_unref(body);
    return rc;
}

/* Most bodies are short, so allocate more room only for one that needs it. */
static psd_buf_t *encode(psd_payload_t payload, const psd_buf_t *body)
{
    enum { ROOM = 4096, MORE = 32 };
    uint8_t room[ROOM], *bytes = room;
    size_t capacity = ROOM, n = psd_body_encode(payload, body, bytes, ROOM);
    while (!n && capacity < PSD_MAX_LIST) {
        capacity *= MORE;
        bytes = realloc(bytes == room ? NULL : bytes, capacity);
        assert(bytes && "no memory for a message");
        n = psd_body_encode(payload, body, bytes, capacity);
    }
    assert(n && "messages of the machines fit the limits");
    psd_buf_t *buf = psd_buf_new(n);
    assert(buf && "no memory for a message");
    memcpy(buf->data, bytes, n);
    if (bytes != room)
        free(bytes);
    return buf;
}

size_t psd_wire_write(const psd_msg_t *msg, psd_buf_t *body, bool proven, uint8_t frame[PSD_MAX_FRAME_HEADER], psd_buf_t **bytes)
{
    const psd_payload_t payload = psd_kind_payload(msg->kind);
    *bytes = body && row_of(payload) ? encode(payload, body) : psd_buf_ref(body);
    psd_msg_t sent = *msg;
    sent.proven = proven;
    sent.checksum = payload == PSD_PAYLOAD_PART && *bytes && !proven ? psd_buf_checksum(*bytes) : 0;
    return psd_msg_seal(&sent, *bytes ? (*bytes)->data : NULL, *bytes ? (*bytes)->n_bytes : 0, frame);
}

int psd_wire_read(psd_msg_t *msg, psd_buf_t **body, const void *frame, size_t n_frame, psd_buf_t *bytes, psd_err_t *err)
{
    const size_t n = bytes ? bytes->n_bytes : 0;
    *body = NULL;
    int rc = psd_msg_open(msg, frame, n_frame, n ? bytes->data : NULL, n, err);
    if (rc != PSD_OK || !n)
        return rc;
    if (!row_of(psd_kind_payload(msg->kind)))
        *body = psd_buf_ref(bytes);
    else if ((rc = psd_body_decode(psd_kind_payload(msg->kind), bytes->data, n, body, err)) != PSD_OK)
        *msg = (psd_msg_t){ .kind = msg->kind, .protocol = msg->protocol };
    return rc;
}
