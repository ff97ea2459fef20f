/* channel.h - the connection to one admitted peer on this machine: two boards (common/memory/board.h) and the socket between the
 * processes. The socket hands over segments, wakes a sleeping side, and closes when a process ends.
 *
 * The peer may lie at any time: in its board, in its packets, in its segments. A lie is PSD_EPROTO with a sentence; after it the
 * only valid call is psd_channel_close. No read goes beyond the memory that the peer has handed over, and no call waits.
 *
 * A received payload is a psd_buf_t over the peer's memory, mapped read-only. If the peer is honest and the channel is up, it does
 * not change until its last reference is dropped. But if the peer lies or has left, it may change while it is read, even between
 * two loads of one word. So
 *
 *     psd_channel_take       copies it first: use it if a payload must be checked before it is used
 *     psd_channel_is_whole   tells, after reading, whether the bytes read are those sent, if the peer is honest
 *     psd_channel_may_keep   tells whether it may be kept for long
 *
 * Take a payload before parsing it. One of at most PSD_CHANNEL_SMALL bytes is already a private copy.
 *
 * All functions belong to one thread, except these three and the release of a payload. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/memory/arena.h"
#include "common/memory/board.h"

enum {
    PSD_CHANNEL_PAYLOAD = (1 << 20) + 4096, /* bytes of a payload, at most */
    PSD_CHANNEL_SMALL = 16384,              /* bytes up to which a copy costs less than a release */
    PSD_CHANNEL_BACKLOG = 65536             /* messages that wait for room, at most */
};

typedef struct psd_channel psd_channel_t;

/* Takes over the socket `fd` (common/memory/handoff.h) and both boards, even when it fails: `mine` from psd_segment_make, `theirs`
 * from the peer. `arena` is borrowed, and must outlive the channel. It maps at most `most_bytes` of the peer's memory. NULL, with
 * `err` set, when the peer's board is too small or memory runs out. */
psd_channel_t *psd_channel_new(int fd, psd_segment_t *mine, psd_segment_t *theirs, psd_arena_t *arena, size_t most_bytes,
                               psd_err_t *err);

/* Announce to the peer that payloads may change from now on, and release those it still has. Received payloads stay valid. Sets
 * `*self_p` to NULL; NULL is fine. */
void psd_channel_close(psd_channel_t **self_p);

/* Send without waiting: 1 to PSD_BOARD_HEADER bytes of header, which are copied, and a payload (NULL: empty) of at most
 * PSD_CHANNEL_PAYLOAD. The channel keeps a reference to it until the peer is done with it. The bytes must not change until then if
 * they lie in the arena, otherwise until they are copied there. Messages without room wait in order. PSD_EAGAIN: too many wait;
 * PSD_EPROTO: the peer lied, and psd_channel_tend tells how. */
int psd_channel_send(psd_channel_t *self, const void *header, size_t n_header, psd_buf_t *payload);

/* Release returned payloads and send waiting messages. PSD_OK or PSD_EPROTO. Call it once a turn of the loop. */
int psd_channel_tend(psd_channel_t *self, psd_err_t *err);

/* The next message: 1; 0: there is none, or one of a sender that has left; PSD_EPROTO; PSD_ESYSTEM when the peer's memory cannot be
 * mapped. `post` has its header; the payload is the caller's reference, NULL when empty. */
int psd_channel_receive(psd_channel_t *self, psd_post_t *post, psd_buf_t **payload, psd_err_t *err);

/* Read the socket: segments, wakes. PSD_OK; PSD_EUNAVAILABLE: the peer has left or crashed, and its earlier messages can still be
 * received; PSD_EPROTO; PSD_ESYSTEM as above, and when this process has no descriptor left. */
int psd_channel_listen(psd_channel_t *self, psd_err_t *err);

/* Whether there is something to receive or to tend: call it between psd_channel_sleep and the sleep, and while spinning. */
bool psd_channel_has_news(const psd_channel_t *self);

/* Send nothing more and receive nothing more, but leave the payloads that the peer still has as they are, until psd_channel_close:
 * the peer learns that the channel ends, and can copy them first. False: it has none. After it, call only psd_channel_has_ended and
 * psd_channel_close. */
bool psd_channel_part(psd_channel_t *self);

/* After psd_channel_part: whether the peer has closed its end. Reads the socket. */
bool psd_channel_has_ended(psd_channel_t *self);

/* Announce that this side is about to sleep, so that its socket must wake it; that it is awake. Cheap when nothing changes. */
void psd_channel_sleep(psd_channel_t *self);
void psd_channel_rise(psd_channel_t *self);

/* Whether messages wait for memory in the arena or room in the socket, for which there is no wake-up. Then tend it by a timer. */
bool psd_channel_is_starved(const psd_channel_t *self);

/* Bytes of the peer's payloads that were received and not yet released. */
uint64_t psd_channel_held(const psd_channel_t *self);

/* The payload in memory that no other process writes to: a copy, or another reference if it does not lie in a peer's memory. NULL
 * when the peer has left meanwhile, so that the bytes may have changed, or when memory runs out. */
psd_buf_t *psd_channel_take(psd_buf_t *payload);

/* Whether all bytes of it read so far are those that were sent; true for a payload outside a peer's memory. */
bool psd_channel_is_whole(const psd_buf_t *payload);

/* Whether it lies in a peer's memory, and the peer can go on sending while it is kept: at most half of its tickets are out. */
bool psd_channel_may_keep(const psd_buf_t *payload);
