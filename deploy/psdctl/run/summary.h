/* summary.h - the summary of a whole run, made of those of its workers when they are gone.
 *
 * Each worker keeps its own in the run's directory, worker 0 as summary.json, worker N as summary-N.json. Afterwards
 * summary.json is that of the worker who kept the model: who ended well as rank 0, the last of them; without one, whoever ended
 * well; without one, worker 0. When that is another than worker 0, what worker 0 said of itself is in summary-0.json. */
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>

#include "common/base/err.h"

/* How a worker of the run ended, as psdctl saw it. */
typedef struct psd_worker_end {
    const char *outcome; /* "done", "killed", as its exit says */
    const char *line;    /* the last one that it printed; "": none */
    unsigned lives;      /* how often it was started */
    double begun_ts;     /* when its first life began to train; 0: it is not known */
} psd_worker_end_t;

/* "DIRECTORY/summary.json" of worker 0, "summary-1.json" of worker 1. */
void psd_summary_path(char path[PATH_MAX], const char *directory, unsigned worker);

/* What worker `worker` said of itself, before or after psd_summary_settle; NULL: it has left nothing. To be released. */
json_t *psd_summary_of(const char *directory, unsigned worker);

/* When the life of the worker that has left its summary began to train; 0: it has not said. */
double psd_summary_begun(const char *directory, unsigned worker);

/* A word for what a worker's exit says: `signal` 0: it ended with `code`. */
const char *psd_summary_outcome(int code, int signal);

/* All workers are gone. A summary that still says "running" gets the outcome of `end`, and what its worker's last line or its
 * metrics since `begun_ts` say; what nobody knows is null. Then the run's summary is chosen and written as summary.json. The
 * times of a worker that had several lives are those from the first; `lives` says how many, for what it counted is of the last
 * life. In asp, where workers end one after another, job_samples and epochs are those of the last.
 *
 * Returns the summary, to be released, even when files could not be written (`err` is set then, else its code is PSD_OK);
 * NULL: no worker has left one. `*worker` is whose it is; -1 with NULL. */
json_t *psd_summary_settle(const char *directory, double begun_ts, const psd_worker_end_t *end, unsigned n_workers, int *worker,
                           psd_err_t *err);
