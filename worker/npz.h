/* npz.h - the arrays of a file as numpy.savez and savez_compressed write it: a zip archive whose members are .npy files. */
#pragma once

#include "worker/npyarray.h"

typedef struct psd_npz_array {
    char *name; /* without its ".npy" */
    psd_npy_t array;
    unsigned char *bytes; /* of a compressed member, unpacked; else NULL */
} psd_npz_array_t;

typedef struct psd_npz {
    psd_npz_array_t *member; /* in the order of the archive */
    size_t n;
} psd_npz_t;

/* What such a file begins with. */
#define PSD_NPZ_MAGIC "PK\3\4"

/* Read the archive in `file`, whose bytes are borrowed as long as the arrays are used. PSD_EDATA with what is wrong, PSD_ENOMEM;
 * clear it in any case. */
int psd_npz_read(const psd_bytes_t *file, psd_npz_t *out, psd_err_t *err);

/* Free what was unpacked; all zero is fine. */
void psd_npz_clear(psd_npz_t *self);
