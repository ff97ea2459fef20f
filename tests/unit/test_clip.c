#include <criterion/criterion.h>

#include <math.h>

#include "common/optim/aggregate.h"
#include "common/optim/clip.h"

TestSuite(clip, .timeout = 600);

Test(clip, elements_beyond_the_bound_are_set_to_it_and_nan_stays)
{
    float g[] = { 3, -3, 0.5f, -0.25f, INFINITY, -INFINITY, NAN, -0.0f };
    psd_clip_by_value(&(psd_clip_t){ .value = 0.5 }, g, 8);
    const float want[] = { 0.5f, -0.5f, 0.5f, -0.25f, 0.5f, -0.5f };
    for (size_t i = 0; i < 6; i++)
        cr_expect_eq(g[i], want[i], "%zu", i);
    cr_expect(isnan(g[6]) && g[7] == 0);
}

Test(clip, without_a_bound_nothing_changes)
{
    float g[] = { 3, -1e30f };
    psd_clip_by_value(&(psd_clip_t){ .norm = 1 }, g, 2);
    cr_expect(g[0] == 3 && g[1] == -1e30f);
    cr_expect_eq(psd_clip_scale(&(psd_clip_t){ .value = 1 }, 1e10), 1.0f);
}

Test(clip, by_norm_a_longer_gradient_is_shortened_and_a_shorter_one_is_not)
{
    cr_expect_eq(psd_clip_scale(&(psd_clip_t){ .norm = 2 }, 16), (float)(2 / (4 + 1e-6)));
    cr_expect_eq(psd_clip_scale(&(psd_clip_t){ .norm = 5 }, 16), 1.0f);
    cr_expect_eq(psd_clip_scale(&(psd_clip_t){ .norm = 5 }, 0), 1.0f);
}

Test(clip, the_norm_is_that_of_the_values_once_they_are_bounded)
{
    enum { N = 10000 };
    static float g[N];
    for (size_t i = 0; i < N; i++)
        g[i] = i % 2 ? 3.0f : 0.5f;
    cr_expect_float_eq(psd_clip_sum_of_squares(&(psd_clip_t){ .value = 1 }, g, N), N / 2 * 1.25, 1e-6);
    cr_expect_eq(psd_clip_sum_of_squares(&(psd_clip_t){ .norm = 1 }, g, N), psd_sum_of_squares(g, N));
    g[7777] = INFINITY;
    cr_expect_not(isfinite(psd_clip_sum_of_squares(&(psd_clip_t){ .value = 1 }, g, N)), "a bound hides no Inf");
}
