#include "worker/blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static psd_blas_t blas;
static psd_err_t failure;

static bool has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

static void load(void)
{
    /* OpenBLAS reads these only when it is loaded. */
    const char *chosen = getenv("OPENBLAS_CORETYPE");
    if ((!chosen || !*chosen) && has_avx2())
        setenv("OPENBLAS_CORETYPE", "Haswell", 1);
    setenv("OPENBLAS_NUM_THREADS", "1", 1);
    void *library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    void *sgemm = library ? dlsym(library, "cblas_sgemm") : NULL;
    if (sgemm)
        memcpy(&blas.sgemm, &sgemm, sizeof sgemm); /* C has no cast from an object pointer to a function pointer */
    else
        psd_err_set(&failure, PSD_ESYSTEM, "cannot load OpenBLAS: %s; install libopenblas0", dlerror());
}

const psd_blas_t *psd_blas(psd_err_t *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    if (blas.sgemm)
        return &blas;
    psd_err_set(err, failure.code, "%s", failure.text);
    return NULL;
}
