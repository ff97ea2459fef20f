/* rundir.h - the directory of a run while `psdctl run` or `launch` works in it: it belongs to one process at a time, and identifies
 * the run whose results it contains.
 *
 * RUN/run.json names the run that has it ("id", a number drawn for it), when it began, and how it ended: "running" until psdctl has
 * recorded its end. summary.json and summary-N.json of an earlier run are renamed with ".before" appended, so that they are not
 * mistaken for this run's. Metrics are appended to, line by line. */
#pragma once

#include <limits.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_rundir {
    char path[PATH_MAX];
    int lock;        /* the open file whose lock reserves the directory; -1: not reserved */
    uint64_t id;     /* of this run */
    double begun_ts; /* seconds since 1970 */
} psd_rundir_t;

/* Reserve the existing directory for a new run. PSD_ECONFIG while another psdctl works in it; PSD_EIO. */
int psd_rundir_take(psd_rundir_t *out, const char *path, psd_err_t *err);

/* Record how the run ended, in a word or two with psdctl's exit code, and release the directory. PSD_EIO when that cannot be
 * written; it is still released. A directory that was never reserved is fine. */
int psd_rundir_end(psd_rundir_t *self, const char *outcome, int code, psd_err_t *err);
