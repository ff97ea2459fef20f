/* patience.h - whether evaluations still improve: patience runs out when `limit` evaluations in a row are no better than the best
 * before them. NaN, of a metric that is undefined, is no evaluation. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct psd_patience {
    uint64_t limit; /* evaluations allowed without a better one; 0: any number */
    bool smaller_is_better;
    double best;        /* the best value */
    uint64_t best_step; /* the step after which it was reached; 0: none yet */
    uint64_t waited;    /* evaluations since then */
    struct psd_look {
        uint64_t step;
        double value;
    } * look; /* all, in the order of their steps, because a job may go back */
    size_t n, room;
} psd_patience_t;

/* Add an evaluation after `step`. Forgets those of this and later steps: the job has gone back and makes them again. False: no
 * memory. */
bool psd_patience_note(psd_patience_t *self, uint64_t step, double value);

bool psd_patience_is_out(const psd_patience_t *self);

/* Free what it remembers; all zero is fine. */
void psd_patience_clear(psd_patience_t *self);
