#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "worker/blas.h"

TestSuite(blas, .timeout = 600);

Test(blas, a_product_is_that_of_its_matrices)
{
    psd_err_t err = { 0 };
    const psd_blas_t *blas = psd_blas(&err);
    cr_assert_not_null(blas, "%s", err.text);
    const float a[] = { 1, 2, 3, 4, 5, 6 }, b[] = { 1, 0, -1, 2, 1, 0 };
    float c[4] = { 9, 9, 9, 9 };
    blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 2, 2, 3, 1, a, 3, b, 3, 0, c, 2);
    cr_expect(c[0] == -2 && c[1] == 4 && c[2] == -2 && c[3] == 13);
    cr_expect_eq(psd_blas(NULL), blas);
}

Test(blas, its_kernels_are_those_for_avx2_unless_the_environment_chooses)
{
    unsetenv("OPENBLAS_CORETYPE");
    cr_assert_not_null(psd_blas(NULL));
    const char *chosen = getenv("OPENBLAS_CORETYPE");
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        cr_expect_str_eq(chosen, "Haswell");
    else
#endif
        cr_expect_null(chosen);
}

Test(blas, the_kernels_that_a_user_chose_are_used)
{
    setenv("OPENBLAS_CORETYPE", "Nehalem", 1);
    cr_assert_not_null(psd_blas(NULL));
    cr_expect_str_eq(getenv("OPENBLAS_CORETYPE"), "Nehalem");
}
