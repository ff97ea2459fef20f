/* trials.h - makes the runs of a comparison, each by a separate psdctl run, one after the other or several at once; shows their
 * progress, and keeps finished ones. */
#pragma once

#include "deploy/psdctl/compare/comparison.h"

/* The result. */
typedef struct psd_trials {
    size_t n, n_kept; /* number of runs; of those finished, now or before */
    bool stopped;     /* stopped by a signal, or by an error that makes the other runs useless: the rest was not tried */
    int code;         /* exit code: 0, or that of the first failure */
} psd_trials_t;

/* Make every run of `comparison` that is not kept below `directory`/runs (an existing path), and read the results of all. A failed
 * run is reported on stderr, and the others continue, unless they would fail in the same way. SIGINT and SIGTERM stop the present
 * runs, a second signal kills them. PSD_OK; PSD_ENOINPUT, PSD_ESYSTEM, PSD_ENOMEM when it could not start. `verb` names the verb in
 * messages: "compare". */
int psd_trials_run(const char *verb, const psd_options_t *options, psd_comparison_t *comparison, const char *directory,
                   psd_trials_t *result, psd_err_t *err);
