#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "common/base/rng.h"
#include "deploy/psdctl/compare/spread.h"

TestSuite(spread, .timeout = 600);

static psd_spread_t range(double least, double most) { return psd_spread_of((double[]){ least, most }, 2); }

Test(spread, mean_and_deviation_are_those_of_a_sample)
{
    const psd_spread_t s = psd_spread_of((double[]){ 2, 4, 9 }, 3);
    cr_expect_eq(s.n, 3);
    cr_expect_float_eq(s.mean, 5, 1e-12);
    cr_expect_float_eq(s.sd, sqrt((9 + 1 + 16) / 2.0), 1e-12);
    cr_expect(s.least == 2 && s.most == 9);
}

Test(spread, one_value_has_no_deviation_and_none_has_no_mean)
{
    const psd_spread_t one = psd_spread_of((double[]){ 7 }, 1), none = psd_spread_of(NULL, 0);
    cr_expect(one.n == 1 && one.mean == 7 && isnan(one.sd) && one.least == 7 && one.most == 7);
    cr_expect(none.n == 0 && isnan(none.mean) && isnan(none.sd) && isnan(none.least));
}

Test(spread, a_range_between_two_others_is_in_a_group_with_each)
{
    /* The best and the worst share a group only with the one between them. */
    const psd_spread_t s[] = { range(0.95, 0.97), range(0.93, 0.955), range(0.92, 0.94), range(0.5, 0.6) };
    psd_spread_groups_t g[4];
    cr_assert_eq(psd_spread_groups(s, 4, false, g), 3);
    cr_expect(g[0].first == 1 && g[0].last == 1);
    cr_expect(g[1].first == 1 && g[1].last == 2);
    cr_expect(g[2].first == 2 && g[2].last == 2);
    cr_expect(g[3].first == 3 && g[3].last == 3);
    cr_assert_eq(psd_spread_groups(s, 4, true, g), 3);
    cr_expect(g[3].first == 1 && g[0].last == 3, "small ones first");
}

Test(spread, ranges_that_touch_overlap_and_no_values_are_in_no_group)
{
    const psd_spread_t s[] = { range(2, 3), range(1, 2), psd_spread_of(NULL, 0) };
    psd_spread_groups_t g[3];
    cr_assert_eq(psd_spread_groups(s, 3, false, g), 1);
    cr_expect(g[0].first == 1 && g[1].first == 1);
    cr_expect(g[2].first == 0 && g[2].last == 0);
    cr_expect_eq(psd_spread_groups(s + 2, 1, false, g), 0);
}

static bool share(psd_spread_groups_t a, psd_spread_groups_t b) { return a.first <= b.last && b.first <= a.last; }

/* Whether some group's members are all members of another. */
static bool one_is_in_another(const psd_spread_groups_t *g, size_t n, unsigned n_groups)
{
    for (unsigned a = 1; a <= n_groups; a++)
        for (unsigned b = 1; b <= n_groups; b++) {
            bool within = a != b;
            for (size_t i = 0; i < n; i++)
                within = within && (!(g[i].first <= a && a <= g[i].last) || (g[i].first <= b && b <= g[i].last));
            if (within)
                return true;
        }
    return false;
}

Test(spread, two_ranges_share_a_group_exactly_when_they_overlap)
{
    enum { N = 12 };
    uint64_t stream = 3;
    for (int draw = 0; draw < 3000; draw++) {
        psd_spread_t s[N];
        psd_spread_groups_t g[N];
        for (size_t i = 0; i < N; i++) { /* coarse, so that some ends are equal */
            const double at = floor(30 * psd_uniform(&stream)), width = floor((double)(draw % 8) * psd_uniform(&stream));
            s[i] = range(at, at + width);
        }
        const bool down = draw & 1;
        const unsigned n = psd_spread_groups(s, N, down, g);
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < N; k++)
                cr_assert_eq(share(g[i], g[k]), s[i].least <= s[k].most && s[k].least <= s[i].most, "draw %d: %zu, %zu", draw, i,
                             k);
        cr_assert_not(one_is_in_another(g, N, n), "draw %d", draw);
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < N; k++)
                if (down ? s[i].most < s[k].least : s[i].least > s[k].most)
                    cr_assert_lt(g[i].last, g[k].first, "the better is first: draw %d", draw);
    }
}

Test(spread, chance_separates_two_equal_rules_as_often_as_counting_orders_predicts)
{
    cr_expect_float_eq(psd_spread_chance(1), 1, 1e-12);
    cr_expect_float_eq(psd_spread_chance(3), 2 / 20.0, 1e-12);  /* C(6, 3) = 20 */
    cr_expect_float_eq(psd_spread_chance(5), 2 / 252.0, 1e-12); /* C(10, 5) = 252 */
}
