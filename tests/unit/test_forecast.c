#include <criterion/criterion.h>

#include "server/core/forecast.h"

static psd_forecast_t forecast;
static psd_member_t pushed[3], members[3];
static psd_round_t round_of_three;

/* Workers 2, 5 and 6 have contributed 4, 4 and 3 samples to a step, and stay. */
static void setup(void)
{
    static const uint32_t ids[] = { 2, 5, 6 }, samples[] = { 4, 4, 3 };
    for (int i = 0; i < 3; i++) {
        members[i] = (psd_member_t){ .worker = ids[i], .incarnation = 1, .nonce = 77 };
        pushed[i] = (psd_member_t){ .worker = ids[i], .incarnation = 1, .samples = samples[i] };
    }
    round_of_three = (psd_round_t){ .apply = true, .n_contributors = 3, .contributor = pushed, .n_members = 3, .member = members };
}

static void teardown(void) { psd_forecast_clear(&forecast); }
TestSuite(forecast, .init = setup, .fini = teardown, .timeout = 600);

Test(forecast, the_same_round_comes_true_and_no_other)
{
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_SAME);
    cr_expect_eq(forecast.samples, 11);
    cr_expect(psd_forecast_comes_true(&forecast, &round_of_three));
    pushed[1].samples = 5;
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three), "another count");
    pushed[1].samples = 4;
    pushed[2].incarnation = 2;
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three), "another life");
    pushed[2].incarnation = 1;
    pushed[0].incarnation = 2;
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three), "another life of the first");
    pushed[0].incarnation = 1;
    round_of_three.n_contributors = 2;
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three), "one is missing");
    round_of_three.n_contributors = 3;
    round_of_three.apply = false;
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three), "no step");
}

Test(forecast, the_same_is_of_those_that_pushed_even_where_fewer_stay)
{
    round_of_three.n_members = 1;
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_SAME);
    cr_assert_eq(forecast.n, 3);
    cr_expect_eq(forecast.member[2].samples, 3);
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_EVEN);
    cr_assert_eq(forecast.n, 1);
    cr_expect_eq(forecast.member[0].worker, 2);
}

Test(forecast, an_even_round_is_known_with_its_first_push)
{
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_EVEN);
    cr_expect_eq(forecast.samples, 0);
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three));
    pushed[2].samples = 4;
    cr_expect(psd_forecast_comes_true(&forecast, &round_of_three), "with any equal number of samples");
    psd_forecast_settle(&forecast, 8);
    cr_expect(forecast.samples == 24 && forecast.member[2].samples == 8);
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three), "the first had another count");
    psd_forecast_settle(&forecast, 4);
    cr_expect_eq(forecast.samples, 24, "it is settled once");
}

Test(forecast, nothing_is_expected_after_a_round_without_a_step_or_without_members)
{
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_NONE);
    cr_expect_eq(forecast.n, 0);
    round_of_three.apply = false;
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_SAME);
    cr_expect_eq(forecast.n, 0);
    cr_expect_not(psd_forecast_comes_true(&forecast, &round_of_three));
    psd_forecast_take(&forecast, &(psd_round_t){ .apply = true }, PSD_FORECAST_EVEN);
    cr_expect_eq(forecast.kind, PSD_FORECAST_NONE);
}

Test(forecast, a_forecast_outlives_the_message_that_it_was_read_from)
{
    psd_forecast_take(&forecast, &round_of_three, PSD_FORECAST_SAME);
    pushed[0].worker = 1;
    cr_expect_eq(forecast.member[0].worker, 2);
}
