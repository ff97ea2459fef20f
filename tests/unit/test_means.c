#include <criterion/criterion.h>

#include "server/core/means.h"

static psd_means_t means;
static char item[4];

static void setup(void) { psd_means_init(&means); }
TestSuite(means, .init = setup, .timeout = 600);

static psd_mean_t *add(uint64_t now_ms, uint64_t number, uint32_t index, uint32_t n)
{
    const psd_term_t term = { .mean = number, .n = n, .index = index };
    return psd_means_add(&means, now_ms, &term, &item[index]);
}

static void forget(psd_mean_t *mean, unsigned n)
{
    while (n--)
        psd_means_forget(&means, mean);
}

Test(means, a_term_is_held_until_the_last_one_has_come)
{
    psd_mean_t *mean = add(1000, 7, 1, 3);
    cr_assert_not_null(mean);
    cr_expect(mean->is_held);
    cr_expect_eq(psd_means_end_ms(&means), 1000 + PSD_MEANS_HOLD_MS);
    cr_expect_eq(add(1001, 7, 0, 3), mean);
    cr_expect(mean->is_held);
    cr_expect_null(add(1002, 7, 1, 3), "that one is here");
    cr_expect_null(add(1002, 7, 2, 4), "another would be of four");
    cr_expect_eq(add(1002, 7, 2, 3), mean);
    cr_expect_not(mean->is_held);
    cr_expect_eq(psd_means_end_ms(&means), UINT64_MAX);
    for (uint32_t k = 0; k < 3; k++)
        cr_expect_eq(mean->item[k], &item[k], "in the order of their places");
    cr_expect_null(add(1003, 7, 0, 3), "it is complete");
    forget(mean, 3);
    cr_expect_neq(add(1004, 7, 0, 3), NULL, "and then forgotten");
}

Test(means, means_that_share_a_chain_are_told_apart)
{
    psd_mean_t *first = add(1000, 7, 0, 2), *second = add(1000, 7 + 256, 0, 2), *third = add(1000, 7 + 512, 0, 2);
    cr_assert(first != second && second != third);
    cr_expect_eq(add(1000, 7 + 256, 1, 2), second);
    forget(second, 2);
    cr_expect_eq(add(1000, 7 + 512, 1, 2), third);
    cr_expect_eq(add(1000, 7, 1, 2), first);
    forget(third, 2);
    forget(first, 2);
}

Test(means, after_its_time_a_mean_is_given_up_and_those_that_are_late_stand_alone)
{
    psd_mean_t *early = add(1000, 1, 0, 2), *later = add(1003, 2, 1, 2);
    cr_expect_null(psd_means_give_up(&means, 1000 + PSD_MEANS_HOLD_MS - 1));
    cr_expect_eq(psd_means_give_up(&means, 1000 + PSD_MEANS_HOLD_MS), early);
    cr_expect(early->item[0] == &item[0] && !early->item[1]);
    cr_expect_null(psd_means_give_up(&means, 1000 + PSD_MEANS_HOLD_MS), "the other has time");
    cr_expect_eq(psd_means_end_ms(&means), 1003 + PSD_MEANS_HOLD_MS);
    cr_expect_null(add(1006, 1, 1, 2), "the first is on its way alone");
    cr_expect_eq(add(1006, 2, 0, 2), later);
    forget(early, 1);
    forget(later, 2);
    cr_expect_null(psd_means_give_up(&means, UINT64_MAX));
}

/* Hold one in vain at this time; returns how long terms pass after it. */
static uint64_t pause_after(uint64_t now_ms)
{
    cr_assert_not_null(add(now_ms, 9, 0, 2));
    const uint64_t end_ms = psd_means_end_ms(&means);
    psd_mean_t *mean = psd_means_give_up(&means, end_ms);
    forget(mean, 1);
    uint64_t pause_ms = 0;
    while (!(mean = add(end_ms + pause_ms, 10, 0, 2)))
        pause_ms++;
    add(end_ms + pause_ms, 10, 1, 2);
    forget(mean, 2);
    return pause_ms;
}

/* The same without success in between. */
static uint64_t give_up_again(uint64_t now_ms)
{
    psd_mean_t *mean = NULL;
    while (!(mean = add(now_ms, 9, 0, 2)))
        now_ms++;
    now_ms += PSD_MEANS_HOLD_MS;
    cr_assert_eq(psd_means_give_up(&means, now_ms), mean);
    forget(mean, 1);
    return now_ms;
}

Test(means, terms_pass_for_longer_each_time_that_some_were_held_in_vain_but_not_after_a_success)
{
    const uint64_t first = pause_after(1000);
    cr_expect_geq(first, PSD_MEANS_HOLD_MS);
    cr_expect_eq(pause_after(2000), first, "a mean has come about since");
    uint64_t now_ms = give_up_again(3000), most = 0, before = 0;
    for (int i = 0; i < 20; i++) {
        const uint64_t next_ms = give_up_again(now_ms), passed = next_ms - PSD_MEANS_HOLD_MS - now_ms;
        cr_expect_geq(passed, before);
        before = most = passed;
        now_ms = next_ms;
    }
    cr_expect(most >= 5000 && most <= 10000, "%lu ms", (unsigned long)most);
    cr_expect_lt(pause_after(now_ms + most), most + 1);
    cr_expect_eq(pause_after(now_ms + 100000), first);
}

Test(means, several_that_are_given_up_together_count_once)
{
    for (uint64_t number = 0; number < 50; number++)
        cr_assert_not_null(add(1000, number, 0, 2));
    for (psd_mean_t *mean; (mean = psd_means_give_up(&means, 1000 + PSD_MEANS_HOLD_MS));)
        forget(mean, 1);
    psd_mean_t *mean = add(1000 + PSD_MEANS_HOLD_MS + 20, 1, 0, 2);
    cr_assert_not_null(mean, "the shortest pause is over");
    forget(mean, 1);
}
