#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "worker/draw.h"

TestSuite(draw, .timeout = 60);

static size_t count(const bool *flags, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += flags[i];
    return sum;
}

Test(draw, a_share_is_rounded_and_at_least_one_row)
{
    cr_expect_eq(psd_draw_count(0.1, 14), 1);
    cr_expect_eq(psd_draw_count(0.1, 15), 2, "1.5 rounds up");
    cr_expect_eq(psd_draw_count(0.001, 10), 1);
}

Test(draw, as_many_rows_as_asked_for_and_the_same_for_the_same_seed)
{
    bool *a = psd_draw_rows(1000, 100, 7), *b = psd_draw_rows(1000, 100, 7), *c = psd_draw_rows(1000, 100, 8);
    cr_expect_eq(count(a, 1000), 100);
    cr_expect_arr_eq(a, b, 1000);
    cr_expect_neq(memcmp(a, c, 1000), 0);
    free(a);
    free(b);
    free(c);
}

Test(draw, each_row_is_as_likely_as_any_other)
{
    size_t drawn[10] = { 0 };
    for (uint64_t seed = 0; seed < 1000; seed++) {
        bool *held = psd_draw_rows(10, 3, seed);
        for (size_t i = 0; i < 10; i++)
            drawn[i] += held[i];
        free(held);
    }
    for (size_t i = 0; i < 10; i++)
        cr_expect(drawn[i] > 230 && drawn[i] < 370, "row %zu: %zu of 1000, where 300 are expected, deviation 14.5", i, drawn[i]);
}
