/* board.h - how two processes of one machine exchange messages in memory. Each has a board that only it writes and the other reads;
 * no memory is written by both. A board holds
 *
 *   a ring of slots       the messages that its owner has sent: the header's bytes, and the payload's place in its owner's segments
 *   a ring of tickets     the peer's payloads that its owner has released; each payload has a ticket
 *   a few words           its owner's positions in its rings and in the peer's; whether it sleeps, waits for room, has left
 *
 * The peer's board may contain anything, and may change at any moment. So each value is read once, checked, and then used; an
 * invalid one is PSD_EPROTO with a sentence. Nothing here waits, and no loop runs longer than a ring.
 *
 * One thread posts and reads. psd_board_give_back, psd_board_wake and psd_board_has_left may be called on any thread: a lock
 * orders the calls that give back. */
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
    PSD_BOARD_LINE = 64       /* of the cache; values that change at different times have lines of their own */
};

/* The layout, which is the same in both processes. */
typedef struct psd_slot {
    _Atomic uint32_t n_header, segment, ticket, unused;
    _Atomic uint64_t n_bytes, offset;
    uint8_t header[(PSD_BOARD_HEADER + 32 + PSD_BOARD_LINE - 1) / PSD_BOARD_LINE * PSD_BOARD_LINE - 32];
} psd_slot_t;
typedef struct psd_board {
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t sent;   /* messages */
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t read;   /* messages read from the peer's board */
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t given;  /* the peer's payloads that were released */
    _Alignas(PSD_BOARD_LINE) _Atomic uint64_t sleeps; /* odd: asleep */
    _Alignas(PSD_BOARD_LINE) _Atomic uint32_t wants_room, left;
    _Alignas(PSD_BOARD_LINE) _Atomic uint32_t ticket[PSD_BOARD_TICKETS]; /* that were given back, in turns */
    _Alignas(PSD_BOARD_LINE) psd_slot_t slot[PSD_BOARD_SLOTS];           /* messages, in turns */
} psd_board_t;

/* Bytes of a board, in whole pages of any size that Linux has. All zero is an empty board. */
size_t psd_board_bytes(void);

/* A message on a board. */
typedef struct psd_post {
    size_t n_header; /* 1 to PSD_BOARD_HEADER */
    uint64_t n_bytes, offset;
    uint32_t segment, ticket; /* where the payload lies; without meaning when it has no bytes */
    uint8_t header[PSD_BOARD_HEADER];
} psd_post_t;

/* Two boards, and the positions of this side. */
typedef struct psd_boards {
    psd_board_t *mine;
    const psd_board_t *theirs;
    uint64_t sent, read;        /* messages sent; messages read */
    uint64_t read_by_them;      /* the peer's positions, as read last */
    uint64_t given, returned;   /* the peer's tickets released; own tickets that came back */
    atomic_uint_fast64_t woken; /* the last of the peer's sleeps from which this side woke it */
} psd_boards_t;

void psd_boards_init(psd_boards_t *self, psd_board_t *mine, const psd_board_t *theirs);

/* ---- ours ---- */

/* Whether there is room for one more message: 1, 0, or PSD_EPROTO. */
int psd_board_has_room(psd_boards_t *self, psd_err_t *err);

/* Send one, after psd_board_has_room. `place` has all but the header. */
void psd_board_post(psd_boards_t *self, const psd_post_t *place, const void *header, size_t n_header);

/* The next ticket that came back, of `n_out` that are out: 1, 0, or PSD_EPROTO. The caller checks that it was out. */
int psd_board_returned(psd_boards_t *self, size_t n_out, uint32_t *ticket, psd_err_t *err);

/* Announce that this side waits for room, or for tickets, and must be woken when there is more. */
void psd_board_want_room(psd_boards_t *self, bool wants);

/* Announce that this side's payloads may change from now on: a reader must discard those it is still reading. */
void psd_board_leave(psd_boards_t *self);

/* ---- theirs ---- */

/* The next message: 1, 0, or PSD_EPROTO. This frees its slot for the peer. */
int psd_board_next(psd_boards_t *self, psd_post_t *post, psd_err_t *err);

/* Release one of the peer's payloads. */
void psd_board_give_back(psd_boards_t *self, uint32_t ticket);

/* Whether the peer waits for room. */
bool psd_board_wants_room(const psd_boards_t *self);

/* Whether the peer has left, so that its payloads may have changed. Call it after reading. */
bool psd_board_has_left(const psd_boards_t *self);

/* ---- sleep ---- */

/* Whether the peer's board has something that this side has not seen: a message; with `for_room`, also any progress. */
bool psd_board_has_news(const psd_boards_t *self, bool for_room);

/* Announce that this side is about to sleep: then check for news, and only then sleep. Announce that it is awake. */
void psd_board_sleep(psd_boards_t *self);
void psd_board_rise(psd_boards_t *self);

/* Whether the peer sleeps and must be woken now; true once for each sleep. Call it after writing all that the peer must see. */
bool psd_board_must_wake(psd_boards_t *self);
