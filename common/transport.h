/* transport.h - ZeroMQ sockets as citizens of a libuv loop: the one place where ZeroMQ is met.
 *
 * A message is two frames, a header and a payload; anything else is reported as bad and read to its end. ZeroMQ
 * promises no delivery, and neither does this: a send that finds no room or no peer says so, and what was accepted may
 * still be lost with the connection. Whoever sends asks again (the machines of server/ and worker/ do).
 * Everything here belongs to the loop's thread; only the release of sent payloads happens in ZeroMQ's own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "common/buffer.h"
#include "common/err.h"

enum {
    PSD_MAX_FRAME = (1 << 20) + 4096,   /* bytes of a frame that is let in: a chunk, and some room */
    PSD_ENDPOINT_TEXT = 128             /* bytes of an endpoint, with its end */
};

typedef struct psd_net psd_net_t;
typedef struct psd_socket psd_socket_t;

/* ZeroMQ's context: one per daemon, one per worker handle. NULL, with `err` set, when the system refuses. */
psd_net_t *psd_net_new(psd_err_t *err);

/* After all its sockets are closed and the loop has run. Sets `*self_p` to NULL. */
void psd_net_destroy(psd_net_t **self_p);

/* A message has come. `header` is borrowed; `payload` is NULL when empty, borrowed (take a reference to keep it),
 * aligned for floats. `peer` has bit 63 set for a ROUTER's peers, else it is the number given to psd_socket_connect. */
typedef void psd_on_message_fn(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Frames have come that are no message; `peer` as above, 0 when it cannot be answered. */
typedef void psd_on_bad_fn(void *arg, uint64_t peer, const char *why);

typedef struct psd_socket_handler {
    psd_on_message_fn *on_message;
    psd_on_bad_fn *on_bad;
    void *arg;
} psd_socket_handler_t;

/* A ROUTER bound to `endpoint` ("tcp://127.0.0.1:0"); `bound` gets the true one. PSD_EIO in `err` when taken. */
psd_socket_t *psd_socket_bind(psd_net_t *net, uv_loop_t *loop, const char *endpoint, const psd_socket_handler_t *handler,
                              char bound[PSD_ENDPOINT_TEXT], psd_err_t *err);

/* A DEALER that connects to `endpoint`, and goes on trying; its messages come from `peer`. */
psd_socket_t *psd_socket_connect(psd_net_t *net, uv_loop_t *loop, const char *endpoint, uint64_t peer,
                                 const psd_socket_handler_t *handler, psd_err_t *err);

/* Send without waiting. A reference is taken on `payload` (NULL: empty); its bytes must not change until released.
 * PSD_EAGAIN: no room or not connected; PSD_EUNAVAILABLE: the ROUTER knows no such peer (any more). */
int psd_socket_send(psd_socket_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Stop and free; what was just sent gets `linger_ms` to leave. Run the loop once more, so that its handles close.
 * Sets `*self_p` to NULL; NULL is fine. */
void psd_socket_close(psd_socket_t **self_p, int linger_ms);
