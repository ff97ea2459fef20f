/* lies.h - messages that no server may accept: a table of kinds, each with random variants, and the reason for which it must be
 * refused. The liar is not a member of the job, but knows the job's number, a member's id and its incarnation. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/message.h"

enum { LIES_HEADER = PSD_MAX_FRAME_HEADER + 64 };

/* A liar's knowledge, and its target. */
typedef struct lies {
    uint64_t job, clock;
    uint32_t server; /* the server that gets it */
    bool keys;       /* it has a worker's key; otherwise there are no keys */
    uint64_t chance;
} lies_t;

/* Frames of one message: the header, the payload, and further ones if requested, each with the payload's first bytes. */
typedef struct lie {
    psd_refusal_t reason; /* PSD_REFUSAL_NONE: it is answered, or dropped, and changes nothing */
    size_t n_frames, n_header, n_payload;
    uint8_t header[LIES_HEADER];
    uint8_t payload[PSD_MAX_CHUNK * sizeof(float)];
} lie_t;
enum { LIES_MORE = 8 }; /* bytes of a frame after the payload, at most */

size_t lies_n_kinds(void);
const char *lies_name(size_t kind);

/* Make up a lie of that kind. */
void lies_tell(lies_t *self, size_t kind, lie_t *out);

/* The true push of the member with id 0, no matter who sends it; and bytes followed by their seal. */
psd_msg_t lies_push(const lies_t *self, const void *payload, size_t n);
size_t lies_seal(uint8_t *frame, size_t n);
