/* rundir.h - the directory of a run while `psdctl run` or `launch` works in it: it belongs to one at a time, and says whose
 * results it holds.
 *
 * RUN/run.json names the run that has it ("id", a number drawn for it), when it began, and how it ended: "running", as long
 * as nobody has said otherwise. What an earlier run has left as summary.json and summary-N.json is set aside under these
 * names with ".before" behind them, so that nobody takes them for this one's. Metrics are added to, line by line. */
#pragma once

#include <limits.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_rundir {
    char path[PATH_MAX];
    int lock;        /* the open file whose lock says that it is ours; -1: it is not */
    uint64_t id;     /* of this run */
    double begun_ts; /* seconds since 1970 */
} psd_rundir_t;

/* Take the directory, which is there, for a new run. PSD_ECONFIG while another psdctl works in it; PSD_EIO. */
int psd_rundir_take(psd_rundir_t *out, const char *path, psd_err_t *err);

/* Say how the run ended, a word or two and psdctl's exit code, and let the directory go. PSD_EIO when that cannot be written;
 * it is let go all the same. One that was never taken is fine. */
int psd_rundir_end(psd_rundir_t *self, const char *outcome, int code, psd_err_t *err);
