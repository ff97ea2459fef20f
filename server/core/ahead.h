/* ahead.h - steps that a shard makes before their round is decided, part by part, as soon as a part's gradients have come from all
 * expected contributors. The weights after them leave at once, so that both directions of the network work at the same time. They
 * count only if the round is decided as expected; until then the part itself stays as it is (psd_work_t.ahead), and workers are
 * told that these weights may yet be replaced.
 *
 * An attempt is everything that one open round has made ahead; its number tells it from all others, so that a worker never takes
 * weights of one for those of another. Owned by the engine; pure. */
#pragma once

#include "server/core/shard.h"

/* What a step is made with, besides gradients and their weights in the mean. */
typedef struct psd_stepping {
    double lr[PSD_MAX_GROUPS]; /* of each group */
    double momentum;           /* NaN: the rules' own */
} psd_stepping_t;

typedef struct psd_ahead {
    uint64_t number; /* of this attempt, or of the last, from 1; 0: there was none */
    bool open;       /* parts of the open round have been stepped, or are being stepped */
    bool adopted;    /* that round is decided, and makes these steps */
    uint32_t n_parts;
    uint32_t n_begun, running; /* parts whose step was begun; of those, parts that threads have */
    uint8_t *begun;            /* bitmap of the first */
    psd_stepping_t with;       /* what the steps are made with */
} psd_ahead_t;

/* For a shard of this many parts. False when memory runs out. All zero before, and after psd_ahead_clear, but for the number. */
bool psd_ahead_init(psd_ahead_t *self, uint32_t n_parts);
void psd_ahead_clear(psd_ahead_t *self);

/* Whether this part's step may be made ahead `with` these: it has not been, and the others were made with the same. */
bool psd_ahead_may_begin(const psd_ahead_t *self, uint32_t part, const psd_stepping_t *with);

/* Begin it: its work is handed out. One has come back. */
void psd_ahead_begin(psd_ahead_t *self, uint32_t part, const psd_stepping_t *with);
void psd_ahead_returned(psd_ahead_t *self);

/* The round is decided as expected, and its step is made `with` these: if that is what was done, it is adopted. And whether a part
 * has its step from there. */
void psd_ahead_settle(psd_ahead_t *self, const psd_stepping_t *with);
bool psd_ahead_has(const psd_ahead_t *self, uint32_t part);

/* The round is over, or will be another than was expected; no work is running. Returns the number of parts that were stepped in
 * vain. */
uint32_t psd_ahead_end(psd_ahead_t *self);
