/* blas.h - matrix products, by OpenBLAS. Which of its kernels it takes decides the last bits of a gradient, and which it takes by
 * itself depends on the processor: one that is newer than the library gets the slowest. So it is loaded here, when a product is first
 * wanted, and told to take those for AVX2 wherever there is AVX2: the same bits on all of these processors. Who has set
 * OPENBLAS_CORETYPE has chosen otherwise. One thread each: more would cut the sums by how many there are, and a worker is one of many
 * on its machine anyway. */
#pragma once

#include <cblas.h>

#include "common/base/err.h"

typedef struct psd_blas {
    __typeof__(cblas_sgemm) *sgemm; /* as cblas_sgemm of cblas.h */
} psd_blas_t;

/* The products; the same for the life of the process. NULL, with PSD_ESYSTEM in `err`, where OpenBLAS cannot be loaded. Any thread. */
const psd_blas_t *psd_blas(psd_err_t *err);
