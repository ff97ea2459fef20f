/* place.h - where psdctl finds the programs, and where it keeps what a run leaves. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "common/config/options.h"

/* This program, and the directory that holds it and the others. */
typedef struct psd_place {
    char self[PATH_MAX], bin[PATH_MAX];
} psd_place_t;

enum { PSD_PLACE_DIRECTORY = PATH_MAX - 128 }; /* longest directory of a run, with its end; leaves room for its files */

/* Find them. PSD_ENOINPUT when a program is missing, PSD_ESYSTEM. */
int psd_place_find(psd_place_t *self, psd_err_t *err);

/* The directory of a run: run.dir, or else runs/JOBKIND-TIME (`kind` such as "-compare", or ""), one that is not there
 * yet. Nothing is made. */
void psd_place_choose(const psd_options_t *options, const char *kind, char out[PSD_PLACE_DIRECTORY]);

/* Make a directory, and those that it lies in; it may be there. PSD_EIO. */
int psd_place_make(const char *path, psd_err_t *err);

/* Remove a directory with all in it; none there is fine. PSD_EIO. */
int psd_place_remove(const char *path, psd_err_t *err);
