/* transport.h - ZeroMQ sockets as citizens of a libuv loop: the one place where ZeroMQ is met, but for the
 * making of keys.
 *
 * All is encrypted and both ends know each other by their keys (CURVE), unless the net was made without: then
 * endpoints of this machine alone are taken (loopback, ipc). Who may connect is asked of the guard (ZAP),
 * connection by connection.
 *
 * A message is two frames, a header and a payload; anything else is reported as bad and read to its end.
 * ZeroMQ promises no delivery, and neither does this: a send that finds no room or no peer says so, and what
 * was accepted may still be lost with the connection. Whoever sends asks again (the machines of server/ and
 * worker/ do). Everything here belongs to the loop's thread; only the release of sent payloads happens in
 * ZeroMQ's own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/net/keys.h"
#include "common/base/peer.h"

enum {
    PSD_MAX_FRAME = (4 << 20) + 4096, /* bytes of a frame that is let in: a list of a model's tensors, and some room */
    PSD_ENDPOINT_TEXT = 128           /* bytes of an endpoint, with its end */
};

typedef struct psd_net psd_net_t;
typedef struct psd_socket psd_socket_t;

/* ZeroMQ's context: one per daemon, one per worker handle. Takes a copy of the keys into memory that is
 * locked, and wiped at the end. NULL, with `err` set, when the system refuses. */
psd_net_t *psd_net_new(const psd_keys_t *keys, psd_err_t *err);

/* Its own public key; "" without keys. */
const char *psd_net_public(const psd_net_t *self);

/* Whether its connections are encrypted, which proves that messages come as they were sent. */
bool psd_net_is_keyed(const psd_net_t *self);

/* Take this for the servers' public key in connections that are made from now on. */
void psd_net_trust(psd_net_t *self, const char server[PSD_KEY_TEXT]);

/* The version of ZeroMQ that this was built with, and of the one that runs. */
void psd_net_versions(char built[24], char runs[24]);

/* After all its sockets are closed and the loop has run. Sets `*self_p` to NULL. */
void psd_net_destroy(psd_net_t **self_p);

/* A message has come. `header` is borrowed; `payload` is NULL when empty, borrowed (take a reference to keep
 * it), aligned for floats. `peer` is one of a ROUTER's (common/base/peer.h), else the number given to
 * psd_socket_connect. */
typedef void psd_on_message_fn(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Frames have come that are no message; `peer` as above, 0 when it cannot be answered. */
typedef void psd_on_bad_fn(void *arg, uint64_t peer, const char *why);

/* How it goes with a DEALER's connection. */
typedef enum psd_link {
    PSD_LINK_UP,       /* made; both ends know each other, where there are keys */
    PSD_LINK_DENIED,   /* the other end does not let our key in; not tried again */
    PSD_LINK_MISMATCH, /* one end has keys and the other has none; not tried again */
    PSD_LINK_BROKEN    /* the handshake broke off: another key than the server's, or no server of ours; tried
                          again */
} psd_link_t;
typedef void psd_on_link_fn(void *arg, uint64_t peer, psd_link_t link);

typedef struct psd_socket_handler {
    psd_on_message_fn *on_message;
    psd_on_bad_fn *on_bad;
    psd_on_link_fn *on_link; /* NULL: not of interest */
    void *arg;
} psd_socket_handler_t;

/* The sentence for a person whose connection to `endpoint` is DENIED, MISMATCH or BROKEN. */
void psd_link_describe(const psd_net_t *net, psd_link_t link, const char *endpoint, char *text, size_t n);

/* Who has this public key: the user's number, from 1 to PSD_MAX_USERS - 1; 0: nobody, the connection is
 * refused. */
typedef uint32_t psd_admit_fn(void *arg, const uint8_t key[PSD_KEY_BYTES]);

/* The one that is asked for every connection to a ROUTER of this net, on the loop's thread. A net with keys
 * has one before anything is bound. Close it last. */
psd_socket_t *psd_socket_guard(psd_net_t *net, uv_loop_t *loop, psd_admit_fn *admit, void *arg, psd_err_t *err);

/* A ROUTER bound to `endpoint` ("tcp://127.0.0.1:0"); `bound` gets the true one. PSD_EIO in `err` when taken,
 * PSD_ECONFIG when it can be reached from elsewhere and there are no keys. */
psd_socket_t *psd_socket_bind(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                              char bound[PSD_ENDPOINT_TEXT], psd_err_t *err);

/* Take new connections to a socket that was bound, as it does at first, or none: those who knock get no answer. Those
 * that are there stay. Without effect on ipc. */
void psd_socket_take(psd_socket_t *self, bool new_ones);

/* Bytes of payloads that a user has sent to a ROUTER of this net, or was charged with, and that are not yet released;
 * user 0: of all. */
uint64_t psd_net_held(const psd_net_t *self, uint32_t user);

/* Count a payload that came some other way as if `user` had sent it to a ROUTER of this net, until it is released. Takes
 * the caller's reference over and gives one back, to the same bytes. NULL when memory runs out, `payload` let go. */
psd_buf_t *psd_net_charge(psd_net_t *self, uint32_t user, psd_buf_t *payload);

/* Connections to what was bound that never shook hands, by whatever was wrong: no key that is let in, another protocol, noise,
 * silence. Each is counted some seconds after it came. Call it now and then; the clock is any that runs forward. */
uint64_t psd_net_refused(psd_net_t *self, uint64_t now_ms);

/* A DEALER that connects to `endpoint`, and goes on trying; its messages come from `peer`. PSD_ECONFIG as
 * above. */
psd_socket_t *psd_socket_connect(psd_net_t *net, uv_loop_t *loop, const char *endpoint, uint64_t peer,
                                 const psd_socket_handler_t *handler, psd_err_t *err);

/* A DEALER with a key that nobody knows, and nothing to say: to see that it is DENIED. */
psd_socket_t *psd_socket_knock(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                               psd_err_t *err);

/* Send without waiting. A reference is taken on `payload` (NULL: empty); its bytes must not change until
 * released. PSD_EAGAIN: no room or not connected; PSD_EUNAVAILABLE: the ROUTER knows no such peer (any more). */
int psd_socket_send(psd_socket_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Stop and free; what was just sent gets `linger_ms` to leave. Run the loop once more, so that its handles
 * close. Sets `*self_p` to NULL; NULL is fine. */
void psd_socket_close(psd_socket_t **self_p, int linger_ms);
