#include <criterion/criterion.h>

#include "server/core/failure.h"

TestSuite(failure, .timeout = 600);

Test(failure, the_first_reason_stands)
{
    psd_failure_t failure = { 0 };
    psd_msg_t msg = { 0 };
    cr_expect_not(psd_failure_is_on(&failure));
    cr_expect(psd_failure_begin(&failure, 100, PSD_EDATA, PSD_REFUSAL_DAMAGED, "a page is torn"));
    cr_expect_not(psd_failure_begin(&failure, 200, PSD_EIO, PSD_REFUSAL_UNSAVED, "the disk is full"));
    psd_failure_tell(&failure, &msg);
    cr_expect_eq(msg.code, PSD_REFUSAL_DAMAGED);
    cr_expect_str_eq(msg.text, "a page is torn");
}

Test(failure, everybody_has_a_second_to_hear_it_and_five_where_workers_have_still_to_come)
{
    psd_failure_t failure = { 0 }, lost = { 0 };
    psd_failure_begin(&failure, 100, PSD_EIO, PSD_REFUSAL_UNSAVED, "");
    psd_failure_begin(&lost, 100, PSD_EREFUSED, PSD_REFUSAL_LOST, "");
    cr_expect_not(psd_failure_is_over(&failure, 1099));
    cr_expect(psd_failure_is_over(&failure, 1100));
    cr_expect_not(psd_failure_is_over(&lost, 5099));
    cr_expect(psd_failure_is_over(&lost, 5100));
}

Test(failure, the_process_is_ended_once_with_its_code_and_reason)
{
    psd_failure_t failure = { 0 };
    psd_actions_t out = { 0 };
    psd_failure_begin(&failure, 0, PSD_EUNAVAILABLE, PSD_REFUSAL_ABSENT, "gave up");
    cr_expect(psd_failure_is_told(&failure));
    psd_failure_finish(&failure, &out);
    psd_failure_finish(&failure, &out);
    cr_assert_eq(out.n, 1);
    cr_expect_eq(out.at[0].act, PSD_ACT_FINISH);
    cr_expect_eq(out.at[0].level, PSD_EUNAVAILABLE);
    cr_expect_str_eq(out.at[0].msg.text, "gave up");
    cr_expect_not(psd_failure_is_told(&failure));
    cr_expect(psd_failure_is_on(&failure)); /* every newcomer gets the reason until the process is gone */
    psd_actions_clear(&out);
}
