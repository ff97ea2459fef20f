/* restarts.h - how often one child may be started again. What keeps dying comes to an end; what dies now and then, in a job of
 * months or of a thousand workers, does not use up what others need. Pure: the caller knows the time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A restart that was used is there again after so long. */
enum { PSD_RESTART_BACK_MS = 600000 };

/* Of one child; all zero at first. */
typedef struct psd_restarts {
    int64_t used;
    uint64_t back_ms; /* from when on the wait for the next to come back counts */
} psd_restarts_t;

/* How many of `most` are left. */
int64_t psd_restarts_left(psd_restarts_t *self, int64_t most, uint64_t now_ms);

/* Use one. False when none is left. */
bool psd_restarts_use(psd_restarts_t *self, int64_t most, uint64_t now_ms);
