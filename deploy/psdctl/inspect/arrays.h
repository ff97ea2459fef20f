/* arrays.h - named float32 arrays as one new file that other programs open, written piece by piece in any
 * order: safetensors, or numpy's npz. The file is whole under its name, on disk, or it is not there
 * (common/system/durable.h). One thread at a time each. Not by libzip, which writes members whole
 * and in their order: here a piece goes to its place as it comes, and memory does not grow with the model. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/system/safetensors.h"

enum { PSD_ARRAY_NAME = 160 /* bytes of a name, with its end */ };

typedef struct psd_array {
    char name[PSD_ARRAY_NAME]; /* unique in its file, UTF-8 */
    size_t n_dims;             /* 0: a scalar */
    uint64_t shape[PSD_ENTRY_DIMS];
} psd_array_t;

typedef struct psd_arrays_format {
    const char *name; /* "npz": also what its files' names end with */
    const struct psd_arrays_kind *kind;
} psd_arrays_format_t;

/* The i-th format, the first being what is meant when nobody says; NULL past the last. */
const psd_arrays_format_t *psd_arrays_format_at(size_t i);

typedef struct psd_arrays psd_arrays_t;

/* Begin the file `path` for `n` arrays, in that order, with room reserved for all; `list` is borrowed until
 * the end. Notes are kept where the format has a place for them. NULL with PSD_EIO, PSD_ENOMEM, or PSD_EINVAL
 * for a name or note that is not UTF-8. */
psd_arrays_t *psd_arrays_new(const psd_arrays_format_t *format, const char *path, const psd_array_t *list, size_t n,
                             const psd_note_t *notes, size_t n_notes, psd_err_t *err);

/* Write `n` elements of an array from its element `first` on; all of it, each element once. PSD_EIO,
 * PSD_ENOMEM: abandon it then. */
int psd_arrays_write(psd_arrays_t *self, size_t array, uint64_t first, const float *values, size_t n, psd_err_t *err);

/* All is written: make the file durable under its name. Sets it to NULL in any case. PSD_EIO. */
int psd_arrays_end(psd_arrays_t **self_p, psd_err_t *err);

/* Give up: nothing is left. Sets it to NULL; NULL is fine. */
void psd_arrays_abandon(psd_arrays_t **self_p);
