/* intake.h - payloads that lie in their senders' memory come in: each is copied into memory of our own, measured as it is
 * (proto/measured.h), on the pool's threads, some at a time, while the loop goes on; and all are delivered in the order in which they
 * came. One whose sender has left before it was copied is dropped, as lost. Loop's thread. */
#pragma once

#include <uv.h>

#include "common/net/transport.h"

typedef struct psd_intake psd_intake_t;

/* Deliver by `on_message(arg, ...)`; what is held counts for its sender (psd_net_charge). NULL when memory runs out. */
psd_intake_t *psd_intake_new(uv_loop_t *loop, psd_net_t *net, psd_on_message_fn *on_message, void *arg);

/* A message has come; `payload` NULL: it is empty. Delivered at once where nothing before it waits and a copy is soon made. */
void psd_intake_put(psd_intake_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Deliver nothing more. What the pool has in hand ends before the loop does. Sets `*self_p` to NULL; NULL is fine. */
void psd_intake_close(psd_intake_t **self_p);
