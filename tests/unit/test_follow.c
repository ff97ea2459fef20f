#include <criterion/criterion.h>

#include "server/core/follow.h"

enum { A = 101, B, C };
static psd_follow_t follow;

static void setup(void)
{
    psd_follow_clear(&follow);
    cr_assert_eq(psd_follow_ask(&follow, 1000, A, 0, false, 5), PSD_FOLLOW_MAKE);
    psd_follow_made(&follow, 1000, A, 7, 5);
}
TestSuite(follow, .init = setup, .timeout = 60);

Test(follow, a_snapshot_is_as_good_as_new_until_the_job_gets_on)
{
    cr_expect_eq(psd_follow_ask(&follow, 60000, B, 0, false, 5), PSD_FOLLOW_READ);
    cr_expect_eq(follow.number, 7);
}

Test(follow, for_a_moment_others_read_the_same_one)
{
    cr_expect_eq(psd_follow_ask(&follow, 1199, B, 0, false, 6), PSD_FOLLOW_READ);
    cr_expect_eq(follow.n_readers, 2);
}

Test(follow, a_new_one_waits_for_the_readers_of_the_one_before)
{
    cr_expect_eq(psd_follow_ask(&follow, 1300, B, 0, false, 6), PSD_FOLLOW_WAIT);
    cr_expect_eq(psd_follow_ask(&follow, 2000, A, 7, false, 6), PSD_FOLLOW_READ, "it still reads");
    cr_expect_eq(psd_follow_ask(&follow, 2600, B, 0, false, 7), PSD_FOLLOW_WAIT);
    cr_expect_eq(psd_follow_ask(&follow, 3499, B, 0, false, 7), PSD_FOLLOW_WAIT);
    cr_expect_eq(psd_follow_ask(&follow, 3500, B, 0, false, 8), PSD_FOLLOW_MAKE, "it has been silent for too long");
}

Test(follow, a_reader_that_asks_for_newer_weights_has_finished)
{
    cr_expect_eq(psd_follow_ask(&follow, 1300, A, 0, false, 6), PSD_FOLLOW_MAKE);
    psd_follow_made(&follow, 1300, A, 9, 6);
    cr_expect_eq(follow.n_readers, 1);
}

Test(follow, no_reader_keeps_others_waiting_for_ever)
{
    for (uint64_t now = 1000; now < 61000; now += 1000) {
        cr_assert_eq(psd_follow_ask(&follow, now, A, 7, false, now), PSD_FOLLOW_READ);
        cr_assert_eq(psd_follow_ask(&follow, now + 300, B, 0, false, now), PSD_FOLLOW_WAIT);
    }
    cr_expect_eq(psd_follow_ask(&follow, 61000, B, 0, false, 99), PSD_FOLLOW_MAKE);
}

Test(follow, a_snapshot_that_a_shard_does_not_have_is_made_again)
{
    cr_expect_eq(psd_follow_ask(&follow, 1100, A, 6, true, 5), PSD_FOLLOW_READ, "an older one");
    cr_expect_eq(psd_follow_ask(&follow, 1100, A, 7, true, 5), PSD_FOLLOW_MAKE);
}

Test(follow, more_readers_than_there_is_room_for_wait)
{
    for (uint32_t i = 1; i < PSD_MAX_READERS; i++)
        cr_assert_eq(psd_follow_ask(&follow, 1000, 1000 + i, 0, false, 5), PSD_FOLLOW_READ);
    cr_expect_eq(psd_follow_ask(&follow, 1000, C, 0, false, 5), PSD_FOLLOW_WAIT);
    cr_expect_eq(psd_follow_ask(&follow, 1000, A, 7, false, 5), PSD_FOLLOW_READ, "one that has a place keeps it");
}
