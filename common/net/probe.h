/* probe.h - finds out why no server answers at an address. ZeroMQ retries for ever without a message; the probe looks up the name
 * and tries a plain connection, without blocking the loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

typedef struct psd_probe psd_probe_t;

/* NULL when memory runs out; all calls accept NULL, and then have no answer. */
psd_probe_t *psd_probe_new(uv_loop_t *loop);

/* Call it from time to time while no server has answered at `endpoint` for `silent_ms`: it probes when that is 2 s or more, and
 * again every 5 s. */
void psd_probe_look(psd_probe_t *self, const char *endpoint, uint64_t silent_ms);

/* The last answer as one clause; "" when there is none yet, or when a process listens there. Valid until the
 * loop runs. */
const char *psd_probe_text(const psd_probe_t *self);

/* Whether the answer was that the host's name cannot be resolved. */
bool psd_probe_is_unknown(const psd_probe_t *self);

/* Forget the answer, because the server has answered. */
void psd_probe_forget(psd_probe_t *self);

/* Free it when the loop has run once more and any look-up in progress has ended. Sets `*self_p` to NULL; NULL is fine. */
void psd_probe_close(psd_probe_t **self_p);
