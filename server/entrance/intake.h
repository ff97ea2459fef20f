/* intake.h - takes in payloads that lie in their senders' memory. The pool's threads copy each into our own memory and measure it
 * on the way (proto/measured.h), several at a time, while the loop continues. Gradients whose mean is expected, and that wait
 * together, are not copied: only their mean is kept. All are delivered in the order of their arrival. A payload whose sender leaves
 * before it was read counts as lost. Loop's thread. */
#pragma once

#include <uv.h>

#include "common/net/transport.h"
#include "proto/measured.h"

typedef struct psd_intake psd_intake_t;

/* The place of a message's payload in a mean, before it is delivered; false: it has none. */
typedef bool psd_on_term_fn(void *arg, uint64_t peer, const void *header, size_t n_header, size_t n_payload, psd_term_t *out);

/* Deliver by `on_message(arg, ...)`, and ask `on_term(arg, ...)` about each large payload; held bytes count against their sender
 * (psd_net_charge), those of a mean against the sender of its first term. NULL when memory runs out. */
psd_intake_t *psd_intake_new(uv_loop_t *loop, psd_net_t *net, psd_on_message_fn *on_message, psd_on_term_fn *on_term, void *arg);

/* Take in a message; `payload` NULL: it is empty. Delivers it at once if none waits before it and it is quick to copy. */
void psd_intake_put(psd_intake_t *self, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload);

/* Deliver nothing more. Copies that the pool has begun end before the loop does. Sets `*self_p` to NULL; NULL is fine. */
void psd_intake_close(psd_intake_t **self_p);
