/* board.h - what two processes of one machine tell each other in memory. Each has a board that it alone writes and the other reads;
 * nothing is ever written by both. A board holds
 *
 *   a ring of slots       the messages that its owner has sent: the header's bytes, and where the payload lies in its owner's segments
 *   a ring of tickets     the payloads of the other that its owner is done with; each payload travels under a ticket
 *   a few words           how far its owner is in either ring, and in the other's; whether it sleeps, waits for room, has left
 *
 * The other's board may hold anything, and anything else a moment later. What is read from it is read once, checked, and then used;
 * a lie is PSD_EPROTO with a sentence. Nothing here waits, and no loop runs longer than a ring.
 *
 * One thread posts and reads. psd_board_give_back, psd_board_wake and psd_board_has_left are for any thread: those who give back take
 * turns by a lock of their own. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    PSD_BOARD_SLOTS = 256,    /* messages that were sent and not yet read */
    PSD_BOARD_TICKETS = 4096, /* payloads that were sent and not yet given back */
    PSD_BOARD_HEADER = 4100,  /* bytes of a header, at most */
    PSD_BOARD_LINE = 64       /* of the cache; what changes at different times lies in different ones */
};

/* The layout, which is the same in both processes. */
typedef struct psd_slot {
    _Atomic uint32_t n_header, segment, ticket, unused;
    _Atomic uint64_t n_bytes, offset;
    uint8_t header[(PSD_BOARD_HEADER + 32 + PSD_BOARD_LINE - 1) / PSD_BOARD_LINE * PSD_BOARD_LINE - 32];
} psd_slot_t;
typedef struct psd_board {
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t sent;   /* messages */
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t read;   /* messages of the other's */
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t given;  /* payloads of the other's that were given back */
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t sleeps; /* odd: asleep */
    _Alignas(PSD_BOARD_LINE) _Atomic uint32_t wants_room, left;
    _Alignas(PSD_BOARD_LINE) _Atomic uint32_t ticket[PSD_BOARD_TICKETS]; /* that were given back, in turns */
    _Alignas(PSD_BOARD_LINE) psd_slot_t slot[PSD_BOARD_SLOTS];           /* messages, in turns */
} psd_board_t;

/* Bytes of a board, in whole pages of any size that Linux has. All zero is a board on which nothing stands yet. */
size_t psd_board_bytes(void);

/* A message as it stands on a board. */
typedef struct psd_post {
    size_t n_header; /* 1 to PSD_BOARD_HEADER */
    uint64_t n_bytes, offset;
    uint32_t segment, ticket; /* where the payload lies; without meaning when it has no bytes */
    uint8_t header[PSD_BOARD_HEADER];
} psd_post_t;

/* Two boards, and how far we are. */
typedef struct psd_boards {
    psd_board_t *mine;
    const psd_board_t *theirs;
    uint64_t sent, read;        /* messages of ours; of theirs */
    uint64_t read_by_them;      /* as they said last */
    uint64_t given, returned;   /* tickets of theirs that we gave back; of ours that came back */
    atomic_uint_fast64_t woken; /* of their sleeps, the last from which we woke them */
} psd_boards_t;

void psd_boards_init(psd_boards_t *self, psd_board_t *mine, const psd_board_t *theirs);

/* ---- ours ---- */

/* Whether there is room for one more message: 1, 0, or PSD_EPROTO. */
int psd_board_has_room(psd_boards_t *self, psd_err_t *err);

/* Send one, after psd_board_has_room. `place` has all but the header. */
void psd_board_post(psd_boards_t *self, const psd_post_t *place, const void *header, size_t n_header);

/* The next ticket that came back, of `n_out` that are out: 1, 0, or PSD_EPROTO. Whether it was out is for the caller to see. */
int psd_board_returned(psd_boards_t *self, size_t n_out, uint32_t *ticket, psd_err_t *err);

/* Say that this side waits for room, or for tickets, and is to be woken when there is more. */
void psd_board_want_room(psd_boards_t *self, bool wants);

/* Say that our payloads may change from now on: those that are still being read are not what was sent. */
void psd_board_leave(psd_boards_t *self);

/* ---- theirs ---- */

/* The next message: 1, 0, or PSD_EPROTO. Its slot is theirs again. */
int psd_board_next(psd_boards_t *self, psd_post_t *post, psd_err_t *err);

/* Give a payload of theirs back. */
void psd_board_give_back(psd_boards_t *self, uint32_t ticket);

/* Whether they wait for room. */
bool psd_board_wants_room(const psd_boards_t *self);

/* Whether they have left, so that payloads of theirs may have changed. Ask after the reading. */
bool psd_board_has_left(const psd_boards_t *self);

/* ---- sleep ---- */

/* Whether something stands on their board that this side has not seen: a message; with `for_room`, any progress of theirs too. */
bool psd_board_has_news(const psd_boards_t *self, bool for_room);

/* Say that this side is about to sleep; look for news after that, and only then sleep. And that it is awake. */
void psd_board_sleep(psd_boards_t *self);
void psd_board_rise(psd_boards_t *self);

/* Whether they sleep and are to be woken now; true once for each sleep. Ask after whatever they should know was written. */
bool psd_board_must_wake(psd_boards_t *self);
