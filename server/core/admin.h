/* admin.h - an operator's requests: one row per verb, each carried out by a call of coordinator.h. A repeated request has no
 * further effect: its number identifies it, and the answer is WAIT until it is done. Pure. One thread. */
#pragma once

#include "server/core/coordinator.h"

/* What must be remembered between two requests. All zero at first; embedded by its owner. */
typedef struct psd_admin {
    struct {
        uint64_t asked; /* number of the request */
        uint32_t worker;
        uint64_t incarnation, runs;
    } drain; /* the last one requested */
    struct {
        uint64_t asked, ms;
    } save; /* the last checkpoint requested, and when */
} psd_admin_t;

/* Whether this module, and not psd_coordinator_message, takes the kind. */
bool psd_admin_takes(psd_kind_t kind);

/* A message ADMIN with its body, NULL without one. Answered with ADMIN, WAIT or REFUSED. */
void psd_admin_message(psd_admin_t *self, psd_coordinator_t *coordinator, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                       const psd_buf_t *payload, psd_actions_t *out);
