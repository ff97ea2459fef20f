/* place.h - the paths of the programs, and of a run's directory. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "common/config/options.h"

/* This program, and the directory that contains it and the others. */
typedef struct psd_place {
    char self[PATH_MAX], bin[PATH_MAX];
} psd_place_t;

enum { PSD_PLACE_DIRECTORY = PATH_MAX - 128 }; /* longest directory of a run, with its end; leaves room for its files */

/* Find them. PSD_ENOINPUT when a program is missing, PSD_ESYSTEM. */
int psd_place_find(psd_place_t *self, psd_err_t *err);

/* Choose the directory of a run: run.dir, otherwise runs/JOBKIND-TIME (`kind` such as "-compare", or ""), one that does not exist
 * yet. Makes nothing. */
void psd_place_choose(const psd_options_t *options, const char *kind, char out[PSD_PLACE_DIRECTORY]);

/* Make a directory and its parents; it may exist. PSD_EIO. */
int psd_place_make(const char *path, psd_err_t *err);

/* Reserve an existing directory for this process, until `*lock` is closed, whichever verb it is for. PSD_ECONFIG while another
 * psdctl works in it; PSD_EIO. After a failure `*lock` is -1. */
int psd_place_reserve(const char *directory, int *lock, psd_err_t *err);

/* Remove a directory and its contents; it need not exist. PSD_EIO. */
int psd_place_remove(const char *path, psd_err_t *err);
