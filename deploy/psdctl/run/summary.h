/* summary.h - the summary of a whole run, made from those of its workers when they have ended.
 *
 * Each worker keeps its own in the run's directory, worker 0 as summary.json, worker N as summary-N.json. Afterwards summary.json
 * is that of the worker that saved the model: the last one that finished as rank 0; if there is none, any that finished; if there
 * is none, worker 0. If that is not worker 0, worker 0's own summary is in summary-0.json. */
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>

#include "common/base/err.h"

/* How a worker of the run ended, as psdctl saw it. */
typedef struct psd_worker_end {
    const char *outcome; /* "done", "killed", from its exit status */
    const char *line;    /* the last line that it printed; "": none */
    bool failed;         /* its end is why the run failed: its summary is that of the run */
    unsigned lives;      /* number of starts */
    double begun_ts;     /* when its first process began to train; 0: unknown */
} psd_worker_end_t;

/* "DIRECTORY/summary.json" of worker 0, "summary-1.json" of worker 1. */
void psd_summary_path(char path[PATH_MAX], const char *directory, unsigned worker);

/* The summary of worker `worker`, before or after psd_summary_settle; NULL: it has none. The caller releases it. */
json_t *psd_summary_of(const char *directory, unsigned worker);

/* When the process that wrote the worker's summary began to train; 0: unknown. */
double psd_summary_begun(const char *directory, unsigned worker);

/* A word for a worker's exit status; `signal` 0: it exited with `code`. */
const char *psd_summary_outcome(int code, int signal);

/* Call it when all workers have ended. A summary that still has the outcome "running" gets that of `end`, and figures from its
 * worker's last line or its metrics since `begun_ts`; unknown ones are null. Then the function chooses the run's summary and
 * writes it as summary.json. Times of a restarted worker count from its first process; the field `lives` is the number of its
 * processes, because its counts are those of the last one. In asp, where workers end at different times, job_samples and epochs
 * are those of the last.
 *
 * Returns the summary, which the caller releases, even when files could not be written (then `err` is set, otherwise its code is
 * PSD_OK); NULL: no worker has written one. `*worker` is its worker; -1 with NULL. */
json_t *psd_summary_settle(const char *directory, double begun_ts, const psd_worker_end_t *end, unsigned n_workers, int *worker,
                           psd_err_t *err);
