/* leases.h - when a worker is given up: it was silent for longer than its lease, or the open round waits for its push alone for longer
 * than round_timeout. The coordinator judges each worker with every tick, and decides what follows. Pure; times are in milliseconds of
 * the caller's clock. One thread. */
#pragma once

#include "proto/actions.h"
#include "server/core/membership.h"

/* What is looked at; borrowed for the call. */
typedef struct psd_leases {
    const psd_membership_t *members;
    uint64_t now_ms;
    uint64_t lease_ms;         /* silence after which a worker is given up */
    uint64_t round_timeout_ms; /* how long a round waits once somebody has pushed; 0: without end */
    uint64_t round_since_ms;   /* when the open round was opened */
    bool in_round;             /* a round is open, and nothing else holds it up */
    uint32_t n_shards;         /* of the job */
} psd_leases_t;

/* Whether the open round is over time: somebody has pushed, and others have not. Ask before anybody is given up. */
bool psd_leases_round_is_late(const psd_leases_t *self);

/* Why a worker is to be given up now, in a word or two for the log; NULL: it is not. `late`: what psd_leases_round_is_late said. */
const char *psd_leases_judge(const psd_leases_t *self, const psd_worker_row_t *row, bool late);

/* Give a worker up, and log it. One whose work is done is let go instead: false. */
bool psd_leases_give_up(psd_worker_row_t *row, uint64_t now_ms, const char *why, psd_actions_t *out);
