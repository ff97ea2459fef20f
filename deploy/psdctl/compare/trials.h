/* trials.h - the runs of a comparison: each a psdctl run of its own, as a child, one after the other or several at once;
 * their progress shown, and what is finished kept. */
#pragma once

#include "deploy/psdctl/compare/comparison.h"

/* How it went. */
typedef struct psd_trials {
    size_t n, n_kept; /* runs; those that are finished, now or before */
    bool stopped;     /* by a signal, or by what makes the others useless: the rest was not tried */
    int code;         /* exit code: 0, or that of the first thing that went wrong */
} psd_trials_t;

/* Have every run of `comparison` made that is not kept below `directory`/runs, an absolute or relative path that is
 * there, and take all. A run that fails is named on stderr, and the others go on, unless they would say the same. SIGINT
 * and SIGTERM end those that are on, a second one hard. PSD_OK; PSD_ENOINPUT, PSD_ESYSTEM, PSD_ENOMEM, and nothing was
 * tried. */
int psd_trials_run(const psd_options_t *options, psd_comparison_t *comparison, const char *directory, psd_trials_t *result,
                   psd_err_t *err);
