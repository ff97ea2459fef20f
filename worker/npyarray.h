/* npyarray.h - an array as numpy.save writes it (.npy), in memory. Format versions 1 to 3, order C; bool, whole numbers of 8 to 64
 * bits and floats of 32 or 64, little-endian. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"
#include "worker/reader.h"

enum { PSD_NPY_DIMS = 4 };

typedef struct psd_npy_type psd_npy_type_t;

typedef struct psd_npy {
    const char *name; /* of the file, borrowed */
    const psd_npy_type_t *type;
    size_t n_dims; /* 0, of a single value, to 4 */
    size_t shape[PSD_NPY_DIMS];
    size_t rows, width; /* the first size, and the product of the others; 1 where there are none */
    const unsigned char *data;
} psd_npy_t;

/* Read the header in `file`, whose bytes are borrowed as long as the array is used. PSD_EDATA with what is wrong. */
int psd_npy_read(const psd_bytes_t *file, psd_npy_t *out, psd_err_t *err);

/* The i-th of its rows x width elements. */
double psd_npy_value(const psd_npy_t *self, size_t i);
