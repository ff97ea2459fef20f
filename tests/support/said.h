/* said.h - bodies of messages for tests, written as one line of words. */
#pragma once

#include "proto/actions.h"

/* The body of a HELLO ("JOB NAME"), a SHARD_HELLO ("JOB ENDPOINT SETTINGS") or an ADMIN ("JOB VERB WORD", with `value`); the last
 * word takes the rest of the line. NULL for other kinds. */
psd_buf_t *said_body(psd_kind_t kind, const char *line, double value);

enum { SAID_BYTES = 65536 }; /* bytes of the longest body */

/* The same as bytes for the wire; their number, 0 where there are none. */
size_t said_bytes(psd_kind_t kind, const char *line, double value, uint8_t out[SAID_BYTES]);

/* The body of a message as a machine gets it: made from these bytes, or from its text, or NULL. */
psd_buf_t *said_with(const psd_msg_t *msg, const void *bytes, size_t n);

/* The length of a valid payload of this kind that is not a chunk, bitmap or sums; 0 if it has none. */
size_t said_anything(psd_kind_t kind, uint8_t out[SAID_BYTES]);
