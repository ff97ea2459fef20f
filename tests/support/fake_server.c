#include "tests/support/fake_server.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/actions.h"

static void on_message(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    fake_server_t *self = arg;
    psd_msg_t msg;
    psd_buf_t *body;
    psd_err_t err;
    if (psd_wire_read(&msg, &body, header, n, payload, &err) != PSD_OK) {
        fprintf(stderr, "a worker sent what cannot be read: %s\n", err.text);
        abort();
    }
    self->peer = peer;
    self->heard(self, &msg, body);
    psd_buf_unref(&body);
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    fprintf(stderr, "a worker sent no message: %s\n", why);
    abort();
}

void fake_server_open(fake_server_t *self, uv_loop_t *loop,
                      void (*heard)(fake_server_t *self, const psd_msg_t *msg, psd_buf_t *body))
{
    const psd_keys_t none = { .insecure = true };
    const psd_socket_handler_t handler = { on_message, on_bad, NULL, self };
    psd_err_t err = { 0 };
    *self = (fake_server_t){ .heard = heard, .net = psd_net_new(&none, &err) };
    self->socket = self->net ? psd_socket_bind(self->net, loop, "tcp://127.0.0.1:0", &handler, self->at, &err) : NULL;
    if (!self->socket) {
        fprintf(stderr, "a server cannot be played: %s\n", err.text);
        abort();
    }
}

void fake_server_close(fake_server_t *self) { psd_socket_close(&self->socket, 0); }

void fake_server_destroy(fake_server_t *self) { psd_net_destroy(&self->net); }

void fake_server_send(fake_server_t *self, const psd_msg_t *msg, psd_buf_t *body)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    psd_msg_t sent = *msg;
    psd_buf_t *bytes;
    if (!sent.protocol)
        sent.protocol = PSD_PROTOCOL;
    const size_t n = psd_wire_write(&sent, body, false, header, &bytes);
    psd_socket_send(self->socket, self->peer, header, n, bytes);
    psd_buf_unref(&bytes);
}

void fake_server_send_cluster(fake_server_t *self, const psd_msg_t *msg, const psd_cluster_t *cluster)
{
    psd_buf_t *body = psd_body_of_cluster(cluster);
    fake_server_send(self, msg, body);
    psd_buf_unref(&body);
}

void fake_server_send_floats(fake_server_t *self, const psd_msg_t *msg, const float *values, uint32_t n)
{
    psd_msg_t sent = *msg;
    psd_buf_t *body = psd_payload_copy(values, n * sizeof *values);
    sent.n_elements = n;
    sent.dtype = PSD_DTYPE_F32;
    sent.codec = PSD_CODEC_F32;
    fake_server_send(self, &sent, body);
    psd_buf_unref(&body);
}

void fake_server_send_parts(fake_server_t *self, const psd_msg_t *msg, uint32_t n)
{
    psd_msg_t sent = *msg;
    uint8_t map[32] = { 0 };
    assert(n <= 8 * sizeof map);
    for (uint32_t p = 0; p < n; p++)
        psd_bitmap_set(map, p);
    psd_buf_t *body = psd_payload_copy(map, psd_bitmap_bytes(n));
    sent.parts = n;
    fake_server_send(self, &sent, body);
    psd_buf_unref(&body);
}
