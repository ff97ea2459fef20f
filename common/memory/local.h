/* local.h - the other way to a peer of the same machine and user: memory instead of sockets, with the contract of
 * common/net/transport.h. One psd_local_t holds all such links of a loop.
 *
 * How a link comes to be. The side that listens draws a token for a peer that it knows by a keyed connection (psd_local_expect), and
 * tells it there: the listener's name and the token. The other connects with them (psd_local_connect). Whoever is of another user, or
 * has no token, is refused, and a token opens one link. Where the two are not on one machine, or not in one network namespace, nobody
 * listens under that name, and everything stays with ZeroMQ. Both sides hear PSD_LINK_UP by `on_link`.
 *
 * What it promises. A message arrives whole, in order, or is lost with the link: then `on_link` says PSD_LINK_BROKEN, once, after the
 * last message that the peer had sent; when the peer lied, `on_bad` says how before that. A link does not come back by itself; a new
 * token makes a new one. Messages that are sent by ZeroMQ and in memory have no order between them.
 *
 * Payloads that come lie in the peer's memory and may change while they are read: read what common/memory/channel.h says of
 * psd_channel_take and psd_channel_is_whole. Payloads in the arena travel uncopied, any other is copied into it once.
 *
 * Before it sleeps, the loop looks out for a message a few microseconds longer, as long as that turns out to be worth it: never when
 * others want the processor. All belongs to the loop's thread, but the release of payloads. */
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

/* What to count: links that are up; processes that knocked and were not let in; links that ended because the peer lied. */
typedef struct psd_local_counts {
    uint64_t up, refused, lies;
} psd_local_counts_t;

/* `arena` is borrowed, and outlives it. Of each peer's memory at most `most_bytes` are mapped; reading them may be counted as memory of
 * this process. NULL, with `err` set, when memory runs out. */
psd_local_t *psd_local_new(uv_loop_t *loop, psd_arena_t *arena, size_t most_bytes, const psd_socket_handler_t *handler,
                           psd_err_t *err);

/* Let peers come, under a new name, which is to be told them with their tokens. Once. PSD_ESYSTEM. */
int psd_local_listen(psd_local_t *self, char name[PSD_HANDOFF_NAME], psd_err_t *err);

/* Draw the token with which `peer` may come; an older one of this peer is void. PSD_EAGAIN: 65536 are expected. */
int psd_local_expect(psd_local_t *self, uint64_t peer, uint8_t token[PSD_TOKEN_BYTES], psd_err_t *err);

/* Connect to where `peer` listens. PSD_EUNAVAILABLE: nobody is there, stay with ZeroMQ; PSD_EAUTH: somebody of another user is;
 * PSD_ESYSTEM. PSD_OK: the answer comes by `on_link`. An older link with this peer is closed, and `on_link` says so. */
int psd_local_connect(psd_local_t *self, const char *name, const uint8_t token[PSD_TOKEN_BYTES], uint64_t peer, psd_err_t *err);

/* Whether there is a link to `peer`, so that psd_local_send is the way. */
bool psd_local_has(const psd_local_t *self, uint64_t peer);

/* As psd_socket_send: a header of 1 to PSD_BOARD_HEADER bytes, and a reference to `payload` (NULL: empty) of at most
 * PSD_CHANNEL_PAYLOAD, whose bytes must not change until released. PSD_EAGAIN: too much waits already; PSD_EUNAVAILABLE: there is no
 * link to this peer (any more). */
int psd_local_send(psd_local_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Have nothing more to do with `peer`: its token is void, its link is closed, without a word by `on_link`. From handlers too. */
void psd_local_drop(psd_local_t *self, uint64_t peer);

/* Bytes of payloads that `peer` has sent and that are not yet released; 0 without a link. */
uint64_t psd_local_held(const psd_local_t *self, uint64_t peer);

const psd_local_counts_t *psd_local_counts(const psd_local_t *self);

/* Close all links, without a word, and free. Not from handlers. Run the loop once more, so that its handles close. What was sent last
 * may be lost. Sets `*self_p` to NULL; NULL is fine. */
void psd_local_close(psd_local_t **self_p);
