/* transport.h - ZeroMQ sockets in a libuv loop. Only this module uses ZeroMQ, apart from making keys.
 *
 * Connections are encrypted, and both ends are authenticated by their keys (CURVE), unless the net has no keys: then only endpoints
 * of this machine are accepted (loopback, ipc). The guard admits or refuses each connection (ZAP).
 *
 * A message is two frames, a header and a payload; anything else is reported as bad and skipped. Like ZeroMQ, this module does not
 * guarantee delivery: a send without room or peer returns an error, and an accepted message may still be lost with the connection.
 * Senders retry by themselves (the machines of server/ and worker/). Everything here belongs to the loop's thread; only the release
 * of sent payloads happens in ZeroMQ's thread. */
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
    PSD_MAX_FRAME = (4 << 20) + 4096, /* bytes of the largest accepted frame: a list of a model's tensors, and some room */
    PSD_ENDPOINT_TEXT = 128           /* bytes of an endpoint, with its end */
};

typedef struct psd_net psd_net_t;
typedef struct psd_socket psd_socket_t;

/* ZeroMQ's context: one per daemon, one per worker handle. Copies the keys into locked memory, which it wipes at the end. NULL,
 * with `err` set, when the system refuses. */
psd_net_t *psd_net_new(const psd_keys_t *keys, psd_err_t *err);

/* Use `n` threads (at least 1) for its connections, each for some of them. Call it before making the first socket. */
void psd_net_use_threads(psd_net_t *self, int n);

/* Its public key; "" without keys. */
const char *psd_net_public(const psd_net_t *self);

/* Whether its connections are encrypted, which also protects messages against changes. */
bool psd_net_is_keyed(const psd_net_t *self);

/* Whether messages to this endpoint stay on this machine. A name other than localhost depends on a name server; an abstract ipc
 * address has no permissions. */
bool psd_net_is_of_this_machine(const char *endpoint);

/* Use this as the servers' public key for new connections. */
void psd_net_trust(psd_net_t *self, const char server[PSD_KEY_TEXT]);

/* The version of ZeroMQ that this was built with, and of the one that runs. */
void psd_net_versions(char built[24], char runs[24]);

/* Call it after all its sockets are closed and the loop has run. Sets `*self_p` to NULL. */
void psd_net_destroy(psd_net_t **self_p);

/* A message has come. `header` is borrowed; `payload` is NULL when empty, borrowed (take a reference to keep
 * it), aligned for floats. `peer` is one of a ROUTER's (common/base/peer.h), else the number given to
 * psd_socket_connect. */
typedef void psd_on_message_fn(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Frames have come that are not a message; `peer` as above, 0 when it cannot be answered. */
typedef void psd_on_bad_fn(void *arg, uint64_t peer, const char *why);

/* The state of a DEALER's connection. */
typedef enum psd_link {
    PSD_LINK_UP,       /* connected; with keys, both ends are authenticated */
    PSD_LINK_DENIED,   /* the other end refuses this key; no retry */
    PSD_LINK_MISMATCH, /* one end has keys and the other has none; no retry */
    PSD_LINK_BROKEN    /* the handshake failed: a wrong server key, or not a server of psd; retried */
} psd_link_t;
typedef void psd_on_link_fn(void *arg, uint64_t peer, psd_link_t link);

typedef struct psd_socket_handler {
    psd_on_message_fn *on_message;
    psd_on_bad_fn *on_bad;
    psd_on_link_fn *on_link; /* NULL: not needed */
    void *arg;
} psd_socket_handler_t;

/* The sentence for a user whose connection to `endpoint` is DENIED, MISMATCH or BROKEN. */
void psd_link_describe(const psd_net_t *net, psd_link_t link, const char *endpoint, char *text, size_t n);

/* The number of the user with this public key, from 1 to PSD_MAX_USERS - 1; 0: no user has it, refuse the connection. */
typedef uint32_t psd_admit_fn(void *arg, const uint8_t key[PSD_KEY_BYTES]);

/* Make the guard, which admits or refuses every connection to a ROUTER of this net, on the loop's thread. A net with keys needs it
 * before anything is bound. Close it last. */
psd_socket_t *psd_socket_guard(psd_net_t *net, uv_loop_t *loop, psd_admit_fn *admit, void *arg, psd_err_t *err);

/* A ROUTER bound to `endpoint` ("tcp://127.0.0.1:0"); `bound` gets the true one. PSD_EIO in `err` when taken,
 * PSD_ECONFIG when it can be reached from elsewhere and there are no keys. */
psd_socket_t *psd_socket_bind(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                              char bound[PSD_ENDPOINT_TEXT], psd_err_t *err);

/* Accept new connections to a bound socket, as it does at first, or none: then connecting peers get no answer. Existing connections
 * stay. Has no effect on ipc. */
void psd_socket_take(psd_socket_t *self, bool new_ones);

/* Bytes of payloads that a user has sent to a ROUTER of this net, or was charged with, and that are not yet released; user 0: of
 * all users. */
uint64_t psd_net_held(const psd_net_t *self, uint32_t user);

/* Count a payload that came some other way as if `user` had sent it to a ROUTER of this net, until it is released. Takes the
 * caller's reference over and gives one back, to the same bytes. NULL when memory runs out; then it has released `payload`. */
psd_buf_t *psd_net_charge(psd_net_t *self, uint32_t user, psd_buf_t *payload);

/* Incoming connections that never completed a handshake, for any reason: an unknown key, another protocol, noise, silence. Each is
 * counted some seconds after it came. Call it from time to time, with any clock that runs forward. */
uint64_t psd_net_refused(psd_net_t *self, uint64_t now_ms);

/* A DEALER that connects to `endpoint`, and keeps trying; its messages come from `peer`. PSD_ECONFIG as above. */
psd_socket_t *psd_socket_connect(psd_net_t *net, uv_loop_t *loop, const char *endpoint, uint64_t peer,
                                 const psd_socket_handler_t *handler, psd_err_t *err);

/* A DEALER with a new, unknown key that sends nothing: for checking that it is DENIED. */
psd_socket_t *psd_socket_knock(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                               psd_err_t *err);

/* Send without waiting. A reference is taken on `payload` (NULL: empty); its bytes must not change until
 * released. PSD_EAGAIN: no room or not connected; PSD_EUNAVAILABLE: the ROUTER knows no such peer (any more). */
int psd_socket_send(psd_socket_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Stop and free; messages just sent get `linger_ms` to leave. Run the loop once more, so that its handles close. Sets `*self_p` to
 * NULL; NULL is fine. */
void psd_socket_close(psd_socket_t **self_p, int linger_ms);
