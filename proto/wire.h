/* wire.h - converts the messages of the state machines to bytes and back; only this module does.
 *
 * A body is the content of a payload. If the payload consists of numbers (chunk, bitmap, sums), the body is these bytes
 * themselves, uncopied. If it is a protobuf message, the body is its struct, in a reference-counted buffer: it is encoded once
 * when it leaves the process, and decoded once, with all checks, when it comes in. Messages between machines of one process are
 * never encoded. */
#pragma once

#include "common/base/buffer.h"
#include "proto/message.h"

/* X(PAYLOAD, word, type, function that frees its lists) - payloads whose body is a struct. psd_<word>_encode and _decode are in
 * message.h. */
#define PSD_BODIES(X)                                                                                                              \
    X(TENSORS, tensors, psd_tensor_list_t, psd_tensors_clear)                                                                      \
    X(CLUSTER, cluster, psd_cluster_t, psd_no_lists)                                                                               \
    X(ROUND, round, psd_round_t, psd_round_clear)                                                                                  \
    X(HELLO, hello, psd_hello_t, psd_no_lists)                                                                                     \
    X(SHARD_HELLO, shard_hello, psd_shard_hello_t, psd_no_lists)                                                                   \
    X(ADMIN_REQUEST, admin_request, psd_admin_request_t, psd_no_lists)                                                             \
    X(OFFER, offer, psd_offer_t, psd_no_lists)

static inline void psd_no_lists(void *value) { (void)value; }

/* A body with this struct: takes over the lists in `*value`, and copies the rest. Aborts when memory runs out. */
psd_buf_t *psd_body_make(psd_payload_t payload, const void *value);

/* Its bytes for the wire; their number, 0 when `capacity` is too small. */
size_t psd_body_encode(psd_payload_t payload, const psd_buf_t *body, uint8_t *buf, size_t capacity);

/* A body from bytes, with all checks; the caller owns `*body`, which is NULL with PSD_EPROTO or PSD_ENOMEM. */
int psd_body_decode(psd_payload_t payload, const void *buf, size_t n_bytes, psd_buf_t **body, psd_err_t *err);

/* The struct of a body, valid as long as the body. Asserts that it is one of this payload. */
const void *psd_body_look(const psd_buf_t *body, psd_payload_t payload);

/* The same by type: psd_body_of_round(&round) makes one, psd_body_round(body) returns its struct; and so on. */
#define X(PAYLOAD, word, type, clear)                                                                                              \
    static inline psd_buf_t *psd_body_of_##word(const type *value) { return psd_body_make(PSD_PAYLOAD_##PAYLOAD, value); }         \
    static inline const type *psd_body_##word(const psd_buf_t *body) { return psd_body_look(body, PSD_PAYLOAD_##PAYLOAD); }
PSD_BODIES(X)
#undef X

/* Convert a message to its two frames: writes the sealed header to `frame`, returns its length, and sets `*bytes` to the payload
 * frame, a reference that the caller owns; NULL when it is empty. `body` NULL: none. `proven`: the transport protects the payload
 * (encryption, or one host's memory), so it needs no checksum; otherwise the header gets one. Aborts when memory runs out. Any
 * thread. */
size_t psd_wire_write(const psd_msg_t *msg, psd_buf_t *body, bool proven, uint8_t frame[PSD_MAX_FRAME_HEADER], psd_buf_t **bytes);

/* The inverse, with every check that needs no knowledge of the job; `bytes` NULL: an empty payload. `*body` is a reference that the
 * caller owns, NULL if there is none. PSD_EDATA: it was damaged on the way, and counts as lost; PSD_EPROTO: it is not a message of
 * psd; PSD_ENOMEM. On an error `*body` is NULL, and `*msg` has at most kind and protocol. Any thread. */
int psd_wire_read(psd_msg_t *msg, psd_buf_t **body, const void *frame, size_t n_frame, psd_buf_t *bytes, psd_err_t *err);
