/* restarts.h - how often a child may be restarted. A child that keeps crashing is given up in the end; occasional crashes, in a job
 * of months or of a thousand workers, do not use up the restarts of others. Pure: the caller passes the time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A used restart is available again after this time. */
enum { PSD_RESTART_BACK_MS = 600000 };

/* The restarts of one child; all zero at first. */
typedef struct psd_restarts {
    int64_t used;
    uint64_t back_ms; /* when the wait for the next available restart began */
} psd_restarts_t;

/* The number of restarts left of `most`. */
int64_t psd_restarts_left(psd_restarts_t *self, int64_t most, uint64_t now_ms);

/* Use one. False when none is left. */
bool psd_restarts_use(psd_restarts_t *self, int64_t most, uint64_t now_ms);
