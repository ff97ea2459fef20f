/* study.h - what psdctl compare and psdctl tune share around their runs: the options, the directory that keeps the runs, the files that
 * are written there at the end, and the end. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "common/config/options.h"
#include "deploy/psdctl/compare/trials.h"
#include "deploy/psdctl/run/place.h"

typedef struct psd_study {
    const char *verb; /* for messages, and for the directory's name if none is given */
    psd_options_t *options;
    char directory[PSD_PLACE_DIRECTORY];
    int lock; /* holds the lock on the directory; -1: not locked */
} psd_study_t;

/* Choose and lock the directory (psd_settings_hold). */
int psd_study_hold(psd_study_t *self, psd_err_t *err);

/* Check every rule of the comparison that has a run to be made: whether it contradicts other options, and whether it fits the job's
 * mode, model and data, so that none fails when its turn comes. Data that can be read only once is refused. */
int psd_study_check_rules(psd_study_t *self, const psd_comparison_t *comparison, psd_err_t *err);

/* Say on stderr how many runs of `what` are kept, and how to continue. */
void psd_study_say_kept(const psd_study_t *self, const psd_trials_t *trials, const char *what);

/* Write a file of the directory atomically: `write` says what. PSD_ENOMEM, or as psd_durable_put. */
int psd_study_write(const psd_study_t *self, const char *name, bool (*write)(const void *what, FILE *out), const void *what,
                    psd_err_t *err);

/* Write a JSON text and free it; false if that failed, or memory ran out (`json` NULL). */
bool psd_study_print_json(json_t *json, FILE *out);

/* Say on stderr what went wrong if `rc` is an error, let go of the directory and the options, and return the exit code: `code`, of
 * the first run that failed, otherwise that of `rc`. */
int psd_study_end(psd_study_t *self, int rc, int code, const psd_err_t *err);
