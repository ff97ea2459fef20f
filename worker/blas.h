/* blas.h - matrix products, by OpenBLAS. Its kernels decide the last bits of a gradient. By default it chooses them by the
 * processor, and on one newer than itself falls back to the slowest. So this module loads the library, at the first product, and
 * selects its AVX2 kernels on every processor with AVX2: there they always compute the same bits. OPENBLAS_CORETYPE, if set,
 * overrides that. Products run on one thread: with more, the sums would depend on the number of threads, and a machine usually runs
 * several workers anyway. */
#pragma once

#include <cblas.h>

#include "common/base/err.h"

typedef struct psd_blas {
    __typeof__(cblas_sgemm) *sgemm; /* as cblas_sgemm of cblas.h */
} psd_blas_t;

/* The products; the same for the life of the process. NULL, with PSD_ESYSTEM in `err`, when OpenBLAS cannot be loaded. Any
 * thread. */
const psd_blas_t *psd_blas(psd_err_t *err);
