#include <criterion/criterion.h>

#include "deploy/psdctl/run/restarts.h"

TestSuite(restarts, .timeout = 600);

Test(restarts, a_process_that_keeps_dying_is_restarted_as_often_as_allowed)
{
    psd_restarts_t child = { 0 };
    for (int i = 0; i < 3; i++)
        cr_assert(psd_restarts_use(&child, 3, 1000 + 100 * i));
    cr_assert_not(psd_restarts_use(&child, 3, 1300));
    cr_assert_eq(psd_restarts_left(&child, 3, 1300), 0);
}

Test(restarts, they_come_back_with_time_one_by_one)
{
    psd_restarts_t child = { 0 };
    psd_restarts_use(&child, 2, 1000);
    psd_restarts_use(&child, 2, 2000);
    cr_assert_eq(psd_restarts_left(&child, 2, 1000 + PSD_RESTART_BACK_MS - 1), 0);
    cr_assert_eq(psd_restarts_left(&child, 2, 1000 + PSD_RESTART_BACK_MS), 1);
    cr_assert_eq(psd_restarts_left(&child, 2, 1000 + 2 * PSD_RESTART_BACK_MS), 2);
    cr_assert_eq(psd_restarts_left(&child, 2, 1000 + 9 * (uint64_t)PSD_RESTART_BACK_MS), 2, "and never more than there were");
}

Test(restarts, those_that_come_back_unnoticed_do_not_delay_the_next)
{
    psd_restarts_t child = { 0 };
    for (int i = 0; i < 3; i++)
        psd_restarts_use(&child, 3, 1000);
    cr_assert_eq(psd_restarts_left(&child, 3, 1000 + 5 * (uint64_t)PSD_RESTART_BACK_MS / 2), 2, "2.5 times have passed");
    cr_assert_eq(psd_restarts_left(&child, 3, 1000 + 3 * (uint64_t)PSD_RESTART_BACK_MS - 1), 2);
    cr_assert_eq(psd_restarts_left(&child, 3, 1000 + 3 * (uint64_t)PSD_RESTART_BACK_MS), 3);
}

Test(restarts, one_death_a_day_never_ends_a_job)
{
    psd_restarts_t child = { 0 };
    for (uint64_t day = 1; day < 400; day++)
        cr_assert(psd_restarts_use(&child, 1, day * 86400000));
}

Test(restarts, with_no_restarts_allowed_nothing_is_restarted)
{
    psd_restarts_t child = { 0 };
    cr_assert_not(psd_restarts_use(&child, 0, 1000));
    cr_assert_not(psd_restarts_use(&child, 0, 1000000000));
}
