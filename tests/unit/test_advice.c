#include <criterion/criterion.h>

#include "deploy/psdctl/doctor/advice.h"

static const psd_way_t ways[] = {
    { "f32", "f32", 1, 1, 0 },
    { "bf16", "bf16", 0.5, 0.5, 0.001 },
    { "sign", "bf16", 0.0625, 0.5, 0.002 },
};
static const psd_speeds_t speeds = { .compute_s = 0.01, .n_bytes = 1e6, .link_bytes_s = 1e8, .workers = 1, .servers = 1 };

Test(advice, a_step_is_computing_coding_and_what_travels)
{
    cr_expect_float_eq(psd_advice_step(&speeds, &ways[0]), 0.01 + 0.02, 1e-12);
    cr_expect_float_eq(psd_advice_step(&speeds, &ways[2]), 0.01 + 0.002 + 0.005625, 1e-12);
}

Test(advice, a_servers_link_carries_what_all_workers_send_it)
{
    psd_speeds_t many = speeds;
    many.workers = 8, many.servers = 2;
    cr_expect_float_eq(psd_advice_step(&many, &ways[0]), 0.01 + 4 * 0.02, 1e-12);
    many.workers = 3, many.servers = 2;
    cr_expect_float_eq(psd_advice_step(&many, &ways[0]), 0.01 + 1.5 * 0.02, 1e-12);
    many.workers = 2, many.servers = 8;
    cr_expect_float_eq(psd_advice_step(&many, &ways[0]), 0.01 + 0.02, 1e-12, "a worker's own link is the busiest then");
}

Test(advice, where_both_directions_of_a_link_work_at_once_the_longer_one_counts)
{
    psd_speeds_t s = speeds;
    s.overlaps = true;
    cr_expect_float_eq(psd_advice_step(&s, &ways[0]), 0.01 + 0.01, 1e-12);
    cr_expect_float_eq(psd_advice_step(&s, &ways[2]), 0.01 + 0.002 + 0.005, 1e-12,
                       "sign makes nothing shorter: weights take longer");
    s.workers = 3, s.servers = 2;
    cr_expect_float_eq(psd_advice_step(&s, &ways[0]), 0.01 + 1.5 * 0.01, 1e-12);
}

Test(advice, takes_the_codec_that_loses_least_of_those_that_are_about_as_fast)
{
    psd_speeds_t s = speeds;
    cr_expect_eq(psd_advise(&s, ways, 3), 2, "17.6 ms against 21 and 30");
    s.compute_s = 1;
    cr_expect_eq(psd_advise(&s, ways, 3), 0, "1.018 s against 1.020: nothing is worth a loss");
    s.compute_s = 0.06;
    cr_expect_eq(psd_advise(&s, ways, 3), 0 + 1, "67.6 ms, 71 and 80: bf16 is within 5 %% of sign, f32 is not");
    s.link_bytes_s = 1e10;
    cr_expect_eq(psd_advise(&s, ways, 3), 0);
}

Test(advice, a_codec_pays_where_the_link_is_slower_than_coding_saves_bytes)
{
    psd_speeds_t s = speeds;
    const double edge = psd_advice_pays_below(&s, &ways[0], &ways[1]);
    s.link_bytes_s = edge;
    cr_expect_float_eq(psd_advice_step(&s, &ways[0]), psd_advice_step(&s, &ways[1]), 1e-9);
    s.link_bytes_s = edge / 2;
    cr_expect_lt(psd_advice_step(&s, &ways[1]), psd_advice_step(&s, &ways[0]));
    cr_expect_eq(psd_advice_pays_below(&s, &ways[1], &ways[0]), 0, "more bytes never pay");
}
