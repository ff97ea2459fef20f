/* blas.h - matrix products, by OpenBLAS. Its kernels decide the last bits of a gradient. Left alone, it chooses them by the processor,
 * and on one newer than itself falls back to the slowest. So the library is loaded here, at the first product, with its AVX2
 * kernels on every processor that has AVX2: these all compute the same bits. OPENBLAS_CORETYPE, if set, overrides that.
 * Products run on one thread: with more, the sums would depend on how many there are, and a machine runs several workers anyway. */
#pragma once

#include <cblas.h>

#include "common/base/err.h"

typedef struct psd_blas {
    __typeof__(cblas_sgemm) *sgemm; /* as cblas_sgemm of cblas.h */
} psd_blas_t;

/* The products; the same for the life of the process. NULL, with PSD_ESYSTEM in `err`, where OpenBLAS cannot be loaded. Any thread. */
const psd_blas_t *psd_blas(psd_err_t *err);
