/* pace.h - where each worker's time goes, as one shard sees it, and which worker the others wait for.
 *
 * A worker is always in one of four phases: it has its weights, and computes; the first chunk of its push comes, and it sends; the
 * push is complete, and it waits for the others' (bsp); the round is closed, and the server steps and sends weights, until the
 * worker has them. The next push tells the server when that was, because the worker says how long it has computed. Until then, the
 * shard assumes that the weights travel as long as the last time, and the first ones until the push. `computing` includes reading
 * data, and `sending` one way of the network: a shard cannot distinguish them.
 *
 * Sums forget: an event PSD_PACE_MEMORY_S ago weighs 1/e. Pure: time is an argument, in nanoseconds of one clock. One thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { PSD_PACE_MEMORY_S = 10 };

typedef enum psd_phase {
    PSD_PHASE_COMPUTING,
    PSD_PHASE_SENDING,
    PSD_PHASE_WAITING, /* for the others */
    PSD_PHASE_SERVING, /* the server's turn */
    PSD_N_PHASES
} psd_phase_t;

typedef struct psd_pace psd_pace_t;

/* `has_rounds`: whole pushes wait for their round; otherwise each is a step. NULL when memory runs out. */
psd_pace_t *psd_pace_new(bool has_rounds);
void psd_pace_destroy(psd_pace_t **self_p);

/* A part of a worker's push was accepted; the worker reports the seconds of computing for it. The last part completes the
 * push. */
void psd_pace_part(psd_pace_t *self, uint32_t worker, double compute_s, uint64_t ns);
void psd_pace_complete(psd_pace_t *self, uint32_t worker, uint64_t samples, double compute_s, uint64_t ns);

/* Another life of the worker begins: forget the figures of the previous one. No worker has waited for the new one yet. */
void psd_pace_forget(psd_pace_t *self, uint32_t worker, uint64_t ns);

/* The round is closed: its times in seconds, from the round before to this one (negative when it is the
 * first) and from the first complete push to the last (0 where there are no rounds to wait in). */
typedef struct psd_pace_round {
    double duration_s, barrier_s;
} psd_pace_round_t;
psd_pace_round_t psd_pace_close(psd_pace_t *self, uint64_t ns);

/* Weights are sent to a worker. The seconds since its push was complete, negative when they answer none. */
double psd_pace_answer(psd_pace_t *self, uint32_t worker, uint64_t ns);

/* How a worker spent its last seconds. */
typedef struct psd_pace_facts {
    psd_phase_t phase;
    double share[PSD_N_PHASES];        /* of time; the sum is 1 */
    double compute_s, send_s, serve_s; /* per push; 0 before the first */
    double samples_per_s;
    double awaited;    /* share of time in which only its push was missing from the round */
    double awaiting_s; /* for how long it has been so in the open round */
} psd_pace_facts_t;

/* False if nothing was heard from it yet. */
bool psd_pace_facts(const psd_pace_t *self, uint32_t worker, uint64_t ns, psd_pace_facts_t *out);
