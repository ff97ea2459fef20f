/* fake_server.h - a socket that plays a server, in the test's process: the test reads what workers say to it, and answers as its
 * script wants. All is of the loop's thread. */
#pragma once

#include <uv.h>

#include "common/net/transport.h"
#include "proto/wire.h"

typedef struct fake_server {
    char at[PSD_ENDPOINT_TEXT]; /* its address */
    uint64_t peer;              /* that has sent something last, and is sent the answers */
    void (*heard)(struct fake_server *self, const psd_msg_t *msg, psd_buf_t *body);
    psd_net_t *net;
    psd_socket_t *socket;
} fake_server_t;

/* Bind it on a free port; from then on `heard` is called for each message, while the loop runs. */
void fake_server_open(fake_server_t *self, uv_loop_t *loop,
                      void (*heard)(fake_server_t *self, const psd_msg_t *msg, psd_buf_t *body));

/* Close it; then run the loop, and free the rest. */
void fake_server_close(fake_server_t *self);
void fake_server_destroy(fake_server_t *self);

/* Send a message, of this protocol if it names none; `body` NULL: none. */
void fake_server_send(fake_server_t *self, const psd_msg_t *msg, psd_buf_t *body);

/* The same with a cluster, a part of floats (dtype, codec, elements and checksum are added), or a bitmap of the first `n` parts. */
void fake_server_send_cluster(fake_server_t *self, const psd_msg_t *msg, const psd_cluster_t *cluster);
void fake_server_send_floats(fake_server_t *self, const psd_msg_t *msg, const float *values, uint32_t n);
void fake_server_send_parts(fake_server_t *self, const psd_msg_t *msg, uint32_t n);
