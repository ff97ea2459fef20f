/* arrays.h - writes named float32 arrays, and single float64 numbers, as one new file that other programs can open, piece by
 * piece in any order: safetensors, or numpy's npz. The file appears under its name only when it is whole and on disk
 * (common/system/durable.h). One thread at a time each. Does not use libzip, which writes members whole and in order: here each
 * piece is written at its place as it comes, so memory does not grow with the model. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/system/safetensors.h"

enum { PSD_ARRAY_NAME = 160 /* bytes of a name, with its end */ };

typedef struct psd_array {
    char name[PSD_ARRAY_NAME]; /* unique in its file, UTF-8 */
    size_t n_dims;             /* 0: a scalar */
    uint64_t shape[PSD_ENTRY_DIMS];
    bool is_number; /* a single float64 */
} psd_array_t;

typedef struct psd_arrays_format {
    const char *name; /* "npz": also the extension of its files */
    const struct psd_arrays_kind *kind;
} psd_arrays_format_t;

/* The i-th format, the first being the default; NULL past the last. */
const psd_arrays_format_t *psd_arrays_format_at(size_t i);

typedef struct psd_arrays psd_arrays_t;

/* Begin the file `path` for `n` arrays, in that order, with room reserved for all; `list` is borrowed until
 * the end. Notes are kept where the format has a place for them. NULL with PSD_EIO, PSD_ENOMEM, or PSD_EINVAL
 * for a name or note that is not UTF-8. */
psd_arrays_t *psd_arrays_new(const psd_arrays_format_t *format, const char *path, const psd_array_t *list, size_t n,
                             const psd_note_t *notes, size_t n_notes, psd_err_t *err);

/* Write `n` elements of an array from its element `first` on; write each element exactly once. After PSD_EIO or PSD_ENOMEM, abandon
 * the file. */
int psd_arrays_write(psd_arrays_t *self, size_t array, uint64_t first, const float *values, size_t n, psd_err_t *err);

/* Write a number, once. As above. */
int psd_arrays_write_number(psd_arrays_t *self, size_t array, double value, psd_err_t *err);

/* Call it when all is written: makes the file durable under its name. Sets it to NULL in any case. PSD_EIO. */
int psd_arrays_end(psd_arrays_t **self_p, psd_err_t *err);

/* Give up and leave nothing behind. Sets it to NULL; NULL is fine. */
void psd_arrays_abandon(psd_arrays_t **self_p);
