/* leases.h - when the coordinator gives up a worker: it was silent for longer than its lease, or the open round has waited only for
 * late pushes such as its own for longer than round_timeout. The coordinator checks each worker at every tick, and decides what
 * follows. Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include "proto/actions.h"
#include "server/core/membership.h"

/* What is looked at; borrowed for the call. */
typedef struct psd_leases {
    const psd_membership_t *members;
    uint64_t now_ms;
    uint64_t lease_ms;         /* silence after which a worker is given up */
    uint64_t round_timeout_ms; /* how long a round waits after its first push; 0: no limit */
    uint64_t round_since_ms;   /* when the open round was opened */
    bool in_round;             /* a round is open, and nothing else holds it up */
    uint32_t n_shards;         /* of the job */
} psd_leases_t;

/* Whether the open round has waited too long: some workers have pushed, and others have not. Call it before giving up any
 * worker. */
bool psd_leases_round_is_late(const psd_leases_t *self);

/* The reason to give up a worker now, in a word or two for the log; NULL: there is none. `late`: the result of
 * psd_leases_round_is_late. */
const char *psd_leases_judge(const psd_leases_t *self, const psd_worker_row_t *row, bool late);

/* Give up a worker, and log it. False: its work is done, so it may simply leave. */
bool psd_leases_give_up(psd_worker_row_t *row, uint64_t now_ms, const char *why, psd_actions_t *out);
