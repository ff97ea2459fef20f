/* local.h - connections to peers of the same machine and user through memory instead of sockets, with the contract of
 * common/net/transport.h. One psd_local_t holds all such links of a loop.
 *
 * How a link is made. The listening side draws a token for a peer that it knows by an authenticated connection (psd_local_expect),
 * and sends the peer its name and the token there. The peer connects with them (psd_local_connect). A process of another user or
 * without a token is refused; a token opens one link. If the two are not in one network namespace of one machine, the name does not
 * exist there, and all messages stay with ZeroMQ. Both sides get PSD_LINK_UP by `on_link`.
 *
 * Guarantees. A message arrives whole and in order, or is lost with the link: then `on_link` reports PSD_LINK_BROKEN, once, after
 * the last message that the peer had sent; if the peer lied, `on_bad` reports it before that. Payloads of an honest peer that lives
 * do not change until `on_link` returns: one that has to drop a link keeps what it has lent until the other side has closed it. A
 * link does not reconnect; a new token makes a new one. There is no order between messages sent by ZeroMQ and messages sent in memory.
 *
 * Received payloads lie in the peer's memory and may change while they are read: see psd_channel_take and psd_channel_is_whole in
 * common/memory/channel.h. Payloads in the arena travel uncopied; others are copied into it once.
 *
 * Before the loop sleeps, it polls for a few microseconds, as long as that pays off and no other threads need the processor. All
 * functions belong to the loop's thread, except the release of payloads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/memory/arena.h"
#include "common/memory/channel.h"
#include "common/memory/handoff.h"
#include "common/net/transport.h"

typedef struct psd_local psd_local_t;

/* Links that are up; connections that were refused; links that ended because the peer lied. */
typedef struct psd_local_counts {
    uint64_t up, refused, lies;
} psd_local_counts_t;

/* `arena` is borrowed, and must outlive it. It maps at most `most_bytes` of each peer's memory, which may count as memory of this
 * process once it is read. NULL, with `err` set, when memory runs out. */
psd_local_t *psd_local_new(uv_loop_t *loop, psd_arena_t *arena, size_t most_bytes, const psd_socket_handler_t *handler,
                           psd_err_t *err);

/* Listen under a new name; send it to peers with their tokens. Call it once. PSD_ESYSTEM. */
int psd_local_listen(psd_local_t *self, char name[PSD_HANDOFF_NAME], psd_err_t *err);

/* Draw the token with which `peer` may connect; an older one of this peer is void. PSD_EAGAIN: 65536 are expected. */
int psd_local_expect(psd_local_t *self, uint64_t peer, uint8_t token[PSD_TOKEN_BYTES], psd_err_t *err);

/* Connect to the name under which `peer` listens. PSD_OK: the answer comes by `on_link`. PSD_EUNAVAILABLE: no process listens
 * there, so stay with ZeroMQ; PSD_EAUTH: a process of another user listens there; PSD_ESYSTEM. It closes an older link with this
 * peer, and reports it by `on_link`. */
int psd_local_connect(psd_local_t *self, const char *name, const uint8_t token[PSD_TOKEN_BYTES], uint64_t peer, psd_err_t *err);

/* Whether there is a link to `peer`, so that psd_local_send can be used. */
bool psd_local_has(const psd_local_t *self, uint64_t peer);

/* As psd_socket_send: a header of 1 to PSD_BOARD_HEADER bytes, and a reference to `payload` (NULL: empty) of at most
 * PSD_CHANNEL_PAYLOAD, whose bytes must not change until released. PSD_EAGAIN: too many messages wait; PSD_EUNAVAILABLE: there is
 * no link to this peer. */
int psd_local_send(psd_local_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Drop `peer`: void its token and close its link, without a call of `on_link`. The side that listens keeps the payloads that the peer
 * still has as they are until the peer, too, has closed the link; the other side's may change at once. Handlers may call this. */
void psd_local_drop(psd_local_t *self, uint64_t peer);

/* Bytes of payloads that `peer` has sent and that are not yet released; 0 without a link. */
uint64_t psd_local_held(const psd_local_t *self, uint64_t peer);

const psd_local_counts_t *psd_local_counts(const psd_local_t *self);

/* Close all links without a call of `on_link`, and free. Not from handlers. Run the loop once more, so that its handles close. The
 * last messages sent may be lost. Sets `*self_p` to NULL; NULL is fine. */
void psd_local_close(psd_local_t **self_p);
