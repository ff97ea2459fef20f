/* channel.h - the way to one peer of this machine, once it was let in: two boards (common/memory/board.h) and the socket between the
 * processes, which hands over segments, wakes who sleeps, and ends when a process does.
 *
 * The peer may lie at any time: in its board, in its packets, in its segments. A lie is PSD_EPROTO with a sentence, and the channel is
 * good for nothing then but psd_channel_close. Nobody's bytes are read outside of what the peer has handed over, nothing waits.
 *
 * A payload that has come is a psd_buf_t over the peer's memory, mapped to read. As long as the peer is honest and the channel is up,
 * it stays as it was sent, until its last reference goes. But a peer may lie, or have left, and then it changes under whoever reads it,
 * at any time, between two loads of one word even. So
 *
 *     psd_channel_take       copies it first: for whoever checks and then uses
 *     psd_channel_is_whole   is asked after a reading: whether what was read is what was sent, if the peer is honest
 *
 * Whatever is parsed is taken first. One of at most PSD_CHANNEL_SMALL bytes is a private copy already.
 *
 * All is for one thread but these two and the end of a payload's last reference. */
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
    PSD_CHANNEL_SMALL = 16384,              /* bytes up to which a copy costs less than to give back */
    PSD_CHANNEL_BACKLOG = 65536             /* messages that wait for room, at most */
};

typedef struct psd_channel psd_channel_t;

/* Takes the socket `fd` (common/memory/handoff.h) and both boards, whatever comes: `mine` from psd_segment_make, `theirs` as the peer
 * has handed it over. `arena` is borrowed, and outlives it. Of the peer's memory at most `most_bytes` are mapped. NULL, with `err` set,
 * when the peer's board is too small or memory runs out. */
psd_channel_t *psd_channel_new(int fd, psd_segment_t *mine, psd_segment_t *theirs, psd_arena_t *arena, size_t most_bytes,
                               psd_err_t *err);

/* The peer is told that payloads may change from now on, and those that are out are released here. Payloads that came outlive this.
 * Sets `*self_p` to NULL; NULL is fine. */
void psd_channel_close(psd_channel_t **self_p);

/* Send without waiting: 1 to PSD_BOARD_HEADER bytes of header, which are copied, and a payload (NULL: empty) of at most
 * PSD_CHANNEL_PAYLOAD. A reference to it is kept until the peer is done with it, and its bytes must not change until then, if they lie
 * in the arena; else until they were copied there. What finds no room waits in order. PSD_EAGAIN: too much waits; PSD_EPROTO: the peer
 * lied, and psd_channel_tend says how. */
int psd_channel_send(psd_channel_t *self, const void *header, size_t n_header, psd_buf_t *payload);

/* Release what has come back, send what waits. PSD_OK or PSD_EPROTO. Call it once a turn of the loop. */
int psd_channel_tend(psd_channel_t *self, psd_err_t *err);

/* The next message: 1; 0: there is none, or one of a sender that has left; PSD_EPROTO; PSD_ESYSTEM when the peer's memory cannot be
 * mapped. `post` has its header; the payload is the caller's reference, NULL when empty. */
int psd_channel_receive(psd_channel_t *self, psd_post_t *post, psd_buf_t **payload, psd_err_t *err);

/* Read the socket: segments, wakes. PSD_OK; PSD_EUNAVAILABLE: the peer has left or is dead, and what it sent before can still be
 * received; PSD_EPROTO; PSD_ESYSTEM as above, and when this process may have no more descriptors. */
int psd_channel_listen(psd_channel_t *self, psd_err_t *err);

/* Whether there is something to receive or to tend: between psd_channel_sleep and the sleep, and while spinning. */
bool psd_channel_has_news(const psd_channel_t *self);

/* This side is about to sleep, and is to be woken by its socket; it is awake. Cheap when nothing changes. */
void psd_channel_sleep(psd_channel_t *self);
void psd_channel_rise(psd_channel_t *self);

/* Whether messages wait for something that nobody wakes for: memory of the arena, or room in the socket. Tend it by a timer. */
bool psd_channel_is_starved(const psd_channel_t *self);

/* Bytes of the peer's payloads that were received and not yet released. */
uint64_t psd_channel_held(const psd_channel_t *self);

/* The payload in memory that nobody else writes to: a copy, or one more reference when it is not a peer's. NULL when the peer has left
 * meanwhile, so that the bytes may be others than it sent, or when memory runs out. */
psd_buf_t *psd_channel_take(psd_buf_t *payload);

/* Whether all that was read of it until now is as it was sent; true for one that is not a peer's. */
bool psd_channel_is_whole(const psd_buf_t *payload);
