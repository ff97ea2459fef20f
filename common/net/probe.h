/* probe.h - why nobody answers at an address. ZeroMQ tries again for ever and says nothing; here the system
 * is asked by a look-up of the name and a plain connection, beside everything else on the loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

typedef struct psd_probe psd_probe_t;

/* NULL when memory runs out; all calls take a NULL and then know nothing. */
psd_probe_t *psd_probe_new(uv_loop_t *loop);

/* Call now and then while nobody answers at `endpoint`, which has been so for `silent_ms`: it asks when that
 * is 2 s or more, and again every 5 s. */
void psd_probe_look(psd_probe_t *self, const char *endpoint, uint64_t silent_ms);

/* What the last answer was, as one clause; "" when there is none yet, or somebody listens there. Valid until
 * the loop runs. */
const char *psd_probe_text(const psd_probe_t *self);

/* Whether the answer was that the host's name cannot be resolved. */
bool psd_probe_is_unknown(const psd_probe_t *self);

/* Forget the answer: somebody was heard. */
void psd_probe_forget(psd_probe_t *self);

/* It goes when the loop has run once more and a look-up under way has come back. Sets `*self_p` to NULL; NULL
 * is fine. */
void psd_probe_close(psd_probe_t **self_p);
