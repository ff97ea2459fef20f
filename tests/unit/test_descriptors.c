#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/entrance/descriptors.h"

enum { LIMIT = 512 };

static psd_descriptors_t descriptors;
static int taken[LIMIT];
static unsigned n_taken;

static void setup(void)
{
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){ LIMIT / 2, LIMIT });
    psd_descriptors_open(&descriptors);
}
static void teardown(void) { psd_descriptors_close(&descriptors); }
TestSuite(descriptors, .init = setup, .fini = teardown, .timeout = 600);

/* Open as many descriptors as possible, up to `most`. */
static unsigned come(unsigned most)
{
    unsigned n = 0;
    for (; n < most && (taken[n_taken] = open("/dev/null", O_RDONLY)) >= 0; n++)
        n_taken++;
    return n;
}

static void go(void)
{
    while (n_taken)
        close(taken[--n_taken]);
}

Test(descriptors, it_asks_for_all_that_the_system_allows) { cr_expect_eq(psd_descriptors_limit(), LIMIT); }

Test(descriptors, while_there_is_room_all_are_taken)
{
    come(LIMIT / 2 - PSD_DESCRIPTORS_RESERVE / 2);
    cr_expect_eq(psd_descriptors_look(&descriptors, 1000), PSD_DESCRIPTORS_REST);
}

Test(descriptors, when_none_is_left_it_takes_no_more_and_makes_room_for_those_at_the_door)
{
    come(LIMIT);
    cr_expect_lt(open("/dev/null", O_RDONLY), 0);
    cr_expect_eq(psd_descriptors_look(&descriptors, 1000), PSD_DESCRIPTORS_REFUSE);
    cr_expect_eq(come(LIMIT), PSD_DESCRIPTORS_RESERVE);
}

Test(descriptors, it_does_not_wait_for_the_very_last)
{
    come(LIMIT);
    for (unsigned i = 0; i < PSD_DESCRIPTORS_NEAR / 2; i++)
        close(taken[--n_taken]);
    cr_expect_eq(psd_descriptors_look(&descriptors, 1000), PSD_DESCRIPTORS_REFUSE);
}

Test(descriptors, it_takes_them_again_after_a_pause_in_which_some_have_gone)
{
    const unsigned all = come(LIMIT);
    cr_assert_eq(psd_descriptors_look(&descriptors, 1000), PSD_DESCRIPTORS_REFUSE);
    go();
    cr_expect_eq(psd_descriptors_look(&descriptors, 1000 + PSD_DESCRIPTORS_PAUSE_MS - 1), PSD_DESCRIPTORS_REST);
    cr_expect_eq(psd_descriptors_look(&descriptors, 1000 + PSD_DESCRIPTORS_PAUSE_MS), PSD_DESCRIPTORS_TAKE);
    cr_expect_eq(psd_descriptors_look(&descriptors, 1001 + PSD_DESCRIPTORS_PAUSE_MS), PSD_DESCRIPTORS_REST);
    cr_expect_eq(come(LIMIT), all, "some are held back again");
}

Test(descriptors, as_long_as_no_connection_closes_none_is_accepted)
{
    come(LIMIT);
    cr_assert_eq(psd_descriptors_look(&descriptors, 1000), PSD_DESCRIPTORS_REFUSE);
    come(LIMIT);
    cr_expect_eq(psd_descriptors_look(&descriptors, 100000), PSD_DESCRIPTORS_REST);
    cr_expect(psd_descriptors_are_full(&descriptors));
    go();
    cr_expect_eq(psd_descriptors_look(&descriptors, 100050), PSD_DESCRIPTORS_TAKE);
    cr_expect_not(psd_descriptors_are_full(&descriptors));
}
