#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/optim/aggregate.h"
#include "proto/measured.h"

enum { N = 10001, BLOCK = 4096 };

static float x[N];

static void setup(void)
{
    for (size_t i = 0; i < N; i++)
        x[i] = (float)sin((double)i) * 3;
}
TestSuite(measured, .init = setup, .timeout = 600);

/* Block by block, as a shard adds. */
static double expected(size_t n)
{
    double sum = 0;
    for (size_t at = 0; at < n; at += BLOCK)
        sum += psd_sum_of_squares(x + at, n - at < BLOCK ? n - at : BLOCK);
    return sum;
}

static psd_buf_t *measure(size_t n_bytes, bool large)
{
    psd_buf_t *from = psd_buf_borrow(x, n_bytes), *own = psd_buf_new(n_bytes);
    const double squares = psd_measured_copy(own->data, from, large);
    cr_expect_eq(memcmp(own->data, x, n_bytes), 0);
    psd_buf_unref(&from);
    psd_buf_t *out = psd_measured_new(&own, squares);
    cr_expect_null(own);
    return out;
}

Test(measured, a_copy_knows_the_bits_of_the_sum_that_is_formed_of_the_floats_themselves)
{
    for (size_t n = 1; n <= N; n += 1250)
        for (int large = 0; large < 2; large++) {
            psd_buf_t *copy = measure(n * sizeof *x, large), *plain = psd_buf_borrow(x, n * sizeof *x);
            cr_expect(psd_measured_is(copy, n));
            cr_expect_not(psd_measured_is(plain, n));
            cr_expect_eq(psd_measured_squares(copy, n), expected(n));
            cr_expect_eq(psd_measured_squares(plain, n), expected(n));
            psd_buf_unref(&plain);
            psd_buf_unref(&copy);
        }
}

Test(measured, a_payload_with_a_bitmap_is_copied_and_measured_without_the_bitmap)
{
    const size_t n = 5000;
    psd_buf_t *copy = measure(n * sizeof *x + 7, true);
    cr_expect_not(psd_measured_is(copy, n), "its sum may be of other bytes too");
    cr_expect_eq(psd_measured_squares(copy, n), expected(n));
    psd_buf_unref(&copy);
}

Test(measured, one_that_is_not_finite_is_seen)
{
    for (int large = 0; large < 2; large++) {
        x[N - 1] = large ? NAN : INFINITY;
        psd_buf_t *copy = measure(N * sizeof *x, large);
        cr_expect_not(isfinite(psd_measured_squares(copy, N)));
        psd_buf_unref(&copy);
    }
}

Test(measured, a_joint_gradient_holds_the_mean_of_all_and_its_own_sum_of_squares)
{
    static float y[N], mean[N];
    const double weight[] = { 0.25, 0.75 };
    double squares[2];
    for (size_t i = 0; i < N; i++)
        y[i] = (float)cos((double)i);
    psd_buf_t *from[] = { psd_buf_borrow(x, sizeof x), psd_buf_borrow(y, sizeof y) }, *sum = psd_buf_new(sizeof x);
    psd_aggregate(mean, (const float *const[]){ x, y }, weight, 2, N);
    for (int large = 0; large < 2; large++) {
        psd_measured_join(sum->data, from, weight, 2, large, squares);
        cr_expect_arr_eq(sum->data, mean, sizeof mean);
        cr_expect_eq(squares[0], expected(N));
        cr_expect_eq(squares[1], psd_measured_squares(from[1], N));
    }
    psd_buf_t *joint = psd_measured_new_joint(sum, squares[1], 7);
    psd_buf_unref(&sum);
    cr_expect_eq(psd_measured_squares(joint, N), squares[1], "not of the mean");
    cr_expect_eq(psd_measured_mean(joint), 7);
    cr_expect_arr_eq(joint->data, mean, sizeof mean);
    psd_buf_t *copy = measure(sizeof x, false);
    cr_expect_eq(psd_measured_mean(copy), 0, "a copy is of one gradient");
    cr_expect_eq(psd_measured_mean(from[0]), 0);
    cr_expect_eq(psd_measured_mean(NULL), 0);
    psd_buf_unref(&copy);
    psd_buf_unref(&joint);
    psd_buf_unref(&from[0]);
    psd_buf_unref(&from[1]);
}
