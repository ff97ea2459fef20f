#include <criterion/criterion.h>
#include <math.h>

#include "deploy/psdctl/compare/range.h"

TestSuite(range, .timeout = 60);

enum { N = 81, RATES = 9 };

/* The rate rises from 1e-4 to 1 in 80 steps: by 10 in 20. */
static const psd_range_t rise = { .span = 1e4, .length = 80 };
static psd_point_t point[N];
static psd_curve_t losses;

/* A loss of 2 until rate `falls`, then down by 1 per decade, and up by 8 per decade from rate `diverges` on; with a saw of height
 * `noise`. */
static void draw(double falls, double diverges, double noise)
{
    for (size_t i = 0; i < N; i++) {
        const double lr = 1e-4 * pow(10, ((double)i - 1) / 20);
        const double down = fmax(log10(fmin(lr, diverges) / falls), 0), up = fmax(log10(lr / diverges), 0);
        point[i] = (psd_point_t){ .step = (double)i + 1,
                                  .epochs = ((double)i + 1) / 100,
                                  .value = 2 - down + 8 * up + noise * ((double)(i % 3) - 1) };
    }
    losses = (psd_curve_t){ .point = point, .n = N };
}

static void expect_near(double value, double wanted)
{
    cr_expect(value > wanted / 1.5 && value < wanted * 1.5, "%g is not about %g", value, wanted);
}

Test(range, the_schedule_rises_by_the_same_factor_in_every_step)
{
    const psd_schedule_t schedule = psd_range_schedule(&rise);
    for (double s = 0; s <= 80; s++)
        cr_expect_float_eq(psd_schedule_rate(&schedule, 1e-4, s) / (1e-4 * pow(10, s / 20)), 1, 1e-9);
}

Test(range, a_loss_shows_the_update_before_it)
{
    draw(0.01, 0.3, 0);
    cr_expect_float_eq(psd_range_rate(&rise, &losses, 1, 1e-4), 1e-4, 1e-12, "the second loss is of the first update");
    cr_expect_float_eq(psd_range_rate(&rise, &losses, 21, 1e-4), 1e-3, 1e-9);
    const psd_range_t by_epoch = { .span = 1e4, .length = 0.8, .by_epoch = true };
    cr_expect_float_eq(psd_range_rate(&by_epoch, &losses, 21, 1e-4), 1e-3, 1e-9, "an epoch of 100 steps");
}

Test(range, it_finds_where_the_loss_falls_and_where_it_diverges_through_noise)
{
    for (double noise = 0; noise < 0.1; noise += 0.03) {
        draw(0.01, 0.3, noise);
        const psd_range_found_t found = psd_range_judge(&rise, &losses, 1e-4, RATES);
        cr_assert_null(found.why_not, "%s", found.why_not);
        /* 0.05 of the fall by 1.5: lr = 0.01 * 10^0.075 = 0.012. Nine tenths of it are lost again 1.35/8 decades later: 0.44. */
        expect_near(found.falls_from, 0.012);
        expect_near(found.diverges_at, 0.44);
    }
}

Test(range, the_loss_before_anything_was_learned_is_the_mean_of_the_first_three_points)
{
    draw(0.01, 0.3, 0);
    point[0].value = 2.6; /* the mean is 2.2, so the loss of 2 at the next rates has fallen */
    expect_near(psd_range_judge(&rise, &losses, 1e-4, RATES).falls_from, 1e-4);
}

Test(range, a_loss_that_is_not_finite_has_diverged)
{
    draw(0.01, 2, 0);
    cr_expect_eq(psd_range_judge(&rise, &losses, 1e-4, RATES).diverges_at, INFINITY);
    for (size_t i = 71; i < N; i++) /* rate 0.0001 * 10^(70/20) */
        point[i].value = NAN;
    expect_near(psd_range_judge(&rise, &losses, 1e-4, RATES).diverges_at, 0.316);
}

Test(range, a_loss_that_does_not_fall_and_a_run_that_is_too_short_say_nothing)
{
    draw(10, 20, 0.1);
    cr_expect_str_eq(psd_range_judge(&rise, &losses, 1e-4, RATES).why_not, "its loss does not fall");
    draw(0.01, 0.3, 0);
    losses.n = 17;
    cr_expect_str_eq(psd_range_judge(&rise, &losses, 1e-4, RATES).why_not, "it has too few steps");
    losses.n = N;
    for (size_t i = 2; i < N; i++)
        point[i].value = INFINITY;
    cr_expect_str_eq(psd_range_judge(&rise, &losses, 1e-4, RATES).why_not, "it has too few steps", "all but two diverged");
}

Test(range, whether_a_run_is_too_short_is_known_before_it_where_steps_end_it)
{
    cr_expect(psd_range_is_short(&(psd_range_t){ .span = 10, .length = 17 }, RATES));
    cr_expect_not(psd_range_is_short(&(psd_range_t){ .span = 10, .length = 18 }, RATES));
    cr_expect_not(psd_range_is_short(&(psd_range_t){ .span = 10, .length = 100 }, 80), "a curve has no more than 100 points");
    cr_expect_not(psd_range_is_short(&(psd_range_t){ .span = 10, .length = 0.5, .by_epoch = true }, RATES));
}

Test(range, two_seeds_leave_what_either_leaves)
{
    const psd_range_found_t a = { .falls_from = 0.1, .diverges_at = 1 }, b = { .falls_from = 0.2, .diverges_at = INFINITY },
                            none = { .why_not = "so" };
    cr_expect_eq(psd_range_both(a, b).falls_from, 0.1);
    cr_expect_eq(psd_range_both(a, b).diverges_at, INFINITY);
    cr_expect_str_eq(psd_range_both(a, none).why_not, "so");
    cr_expect_str_eq(psd_range_both(none, b).why_not, "so");
}

/* The kept rates of 1, 10, ... 1e8. */
static void expect_kept(psd_range_found_t found, size_t least, const char *wanted)
{
    static const double rate[RATES] = { 1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8 };
    bool keep[RATES];
    char text[RATES + 1] = "";
    psd_range_keep(&found, rate, RATES, least, keep);
    for (size_t i = 0; i < RATES; i++)
        text[i] = keep[i] ? (char)('0' + i) : '.';
    cr_expect_str_eq(text, wanted);
}

Test(range, a_tenth_and_a_neighbour_on_either_side_are_kept_too_and_never_fewer_than_some)
{
    expect_kept((psd_range_found_t){ .falls_from = 5e4, .diverges_at = 5e5 }, 3, "...3456..");
    expect_kept((psd_range_found_t){ .falls_from = 1e4, .diverges_at = 1e6 }, 3, "..23456..");
    expect_kept((psd_range_found_t){ .falls_from = 0.5, .diverges_at = INFINITY }, 3, "012345678");
    expect_kept((psd_range_found_t){ .falls_from = 1e11, .diverges_at = INFINITY }, 3, "......678");
    expect_kept((psd_range_found_t){ .falls_from = 0.1, .diverges_at = 0.5 }, 3, "012......");
    expect_kept((psd_range_found_t){ .falls_from = 5e4, .diverges_at = 6e4 }, 4, "..2345...");
    expect_kept((psd_range_found_t){ .why_not = "so", .falls_from = 5, .diverges_at = 5 }, 3, "012345678");
}
