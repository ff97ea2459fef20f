#include <criterion/criterion.h>

#include <math.h>

#include "server/core/ahead.h"

enum { PARTS = 11 };
static psd_ahead_t ahead;
static psd_stepping_t with = { .lr = { 0.5, 0.25 }, .momentum = NAN };

static void setup(void) { cr_assert(psd_ahead_init(&ahead, PARTS)); }
static void teardown(void) { psd_ahead_clear(&ahead); }
TestSuite(ahead, .init = setup, .fini = teardown, .timeout = 600);

static void step(uint32_t part)
{
    cr_assert(psd_ahead_may_begin(&ahead, part, &with), "part %u", part);
    psd_ahead_begin(&ahead, part, &with);
    psd_ahead_returned(&ahead);
}

Test(ahead, an_attempt_has_a_number_of_its_own_also_in_another_run)
{
    cr_expect_eq(ahead.number, 0, "there was none");
    for (uint64_t number = 1; number <= 3; number++) {
        step(10);
        step(0);
        cr_expect_eq(ahead.number, number);
        psd_ahead_end(&ahead);
        psd_ahead_end(&ahead);
        cr_expect_eq(ahead.number, number, "a round without steps ahead needs none");
    }
    psd_ahead_clear(&ahead);
    cr_assert(psd_ahead_init(&ahead, PARTS));
    step(0);
    cr_expect_eq(ahead.number, 4);
}

Test(ahead, a_part_is_stepped_once_and_while_another_is_being_stepped)
{
    psd_ahead_begin(&ahead, 8, &with);
    cr_expect_not(psd_ahead_may_begin(&ahead, 8, &with));
    psd_ahead_begin(&ahead, 0, &with);
    cr_expect_eq(ahead.running, 2);
    psd_ahead_returned(&ahead);
    cr_expect_not(psd_ahead_may_begin(&ahead, 8, &with), "it is not known which has come back");
    psd_ahead_returned(&ahead);
    cr_expect_eq(ahead.running, 0);
    psd_ahead_end(&ahead);
    cr_expect(psd_ahead_may_begin(&ahead, 8, &with), "in the next round");
}

Test(ahead, all_parts_of_an_attempt_are_stepped_with_the_same_rates_and_momentum)
{
    psd_stepping_t other = with;
    step(1);
    cr_expect(psd_ahead_may_begin(&ahead, 2, &other), "NaN is itself");
    other.lr[1] = 0.125;
    cr_expect_not(psd_ahead_may_begin(&ahead, 2, &other));
    other = with;
    other.momentum = 0.9;
    cr_expect_not(psd_ahead_may_begin(&ahead, 2, &other));
    psd_ahead_end(&ahead);
    cr_expect(psd_ahead_may_begin(&ahead, 2, &other));
}

Test(ahead, what_was_stepped_as_the_round_steps_is_adopted_and_nothing_else)
{
    step(3);
    step(9);
    cr_expect_not(psd_ahead_has(&ahead, 3), "the round is not decided");
    psd_ahead_settle(&ahead, &with);
    cr_expect(ahead.adopted && psd_ahead_has(&ahead, 3) && psd_ahead_has(&ahead, 9));
    cr_expect_not(psd_ahead_has(&ahead, 4));
    cr_expect_eq(psd_ahead_end(&ahead), 0, "in vain");
    cr_expect(!ahead.adopted && !psd_ahead_has(&ahead, 3));
    psd_ahead_settle(&ahead, &with);
    cr_expect_not(ahead.adopted, "nothing was stepped ahead");
}

Test(ahead, steps_with_other_rates_than_the_rounds_are_in_vain)
{
    psd_stepping_t other = with;
    step(3);
    step(9);
    other.lr[0] = nextafter(0.5, 1);
    psd_ahead_settle(&ahead, &other);
    cr_expect(!ahead.adopted && !psd_ahead_has(&ahead, 3));
    cr_expect_eq(psd_ahead_end(&ahead), 2);
    cr_expect_eq(psd_ahead_end(&ahead), 0, "they are counted once");
    step(3);
    psd_ahead_settle(&ahead, &with);
    cr_expect(psd_ahead_has(&ahead, 3) && !psd_ahead_has(&ahead, 9), "of this attempt only");
}
