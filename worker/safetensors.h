/* safetensors.h - trained weights as one file that other tools open: 8 bytes of header length, a JSON header,
 * the tensors as they lie in memory. Data start at a multiple of 4096; the file is either whole or not there.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

typedef struct psd_saved {
    const char *name;      /* unique */
    const uint64_t *shape; /* n_dims sizes */
    size_t n_dims;
    const float *data; /* product(shape) elements, row-major */
    size_t n;          /* that product */
} psd_saved_t;

/* A pair of the header's __metadata__. */
typedef struct psd_note {
    const char *key, *value;
} psd_note_t;

/* Write the tensors to `path`: a temporary file beside it, flushed to disk, then renamed over it. PSD_EIO,
 * and what was at `path` is as before; PSD_ENOMEM. */
int psd_safetensors_write(const char *path, const psd_saved_t *tensors, size_t n_tensors,
                          const psd_note_t *notes, size_t n_notes, psd_err_t *err);

enum { PSD_SHA256_TEXT = 65 /* 64 hexadecimal digits and the end */ };

/* SHA-256 of the elements alone, one tensor after the other, as little-endian float32. Returns `text`. */
char *psd_weights_sha256(const psd_saved_t *tensors, size_t n_tensors, char text[PSD_SHA256_TEXT]);
