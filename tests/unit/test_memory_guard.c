#include <criterion/criterion.h>

#include "server/entrance/memory_guard.h"

TestSuite(memory_guard, .timeout = 600);

#define MIB (UINT64_C(1) << 20)

/* Measure until it has closed, trimmed and measured again; `left` is the resident memory then. */
static void go_through(psd_memory_guard_t *self, uint64_t *now, uint64_t resident, uint64_t left)
{
    cr_assert_eq(psd_memory_guard_look(self, *now += 50, resident), PSD_MEMORY_GUARD_CLOSE);
    unsigned trims = 0;
    for (int i = 0; i < 20 && psd_memory_guard_is_closing(self); i++)
        trims += psd_memory_guard_look(self, *now += 50, left) == PSD_MEMORY_GUARD_TRIM;
    cr_assert_eq(trims, 1);
    cr_assert_not(psd_memory_guard_is_closing(self));
}

Test(memory_guard, it_closes_above_the_bound_and_again_when_it_is_passed_again)
{
    psd_memory_guard_t guard = { .max = 1000 * MIB, .seen = 1000 * MIB };
    uint64_t now = 1000;
    cr_expect_eq(psd_memory_guard_look(&guard, now, 1000 * MIB), PSD_MEMORY_GUARD_REST);
    go_through(&guard, &now, 1000 * MIB + 1, 100 * MIB);
    for (uint64_t mib = 100; mib < 990; mib++) /* it rises slowly, and stays below */
        cr_expect_eq(psd_memory_guard_look(&guard, now += 50, mib * MIB), PSD_MEMORY_GUARD_REST);
    go_through(&guard, &now, 1001 * MIB, 100 * MIB);
    cr_expect_eq(guard.closings, 2);
}

Test(memory_guard, memory_that_closing_does_not_free_is_the_jobs_own_and_does_not_close_again)
{
    psd_memory_guard_t guard = { .max = 1000 * MIB };
    uint64_t now = 1000;
    go_through(&guard, &now, 2000 * MIB, 1600 * MIB);
    /* 1600 and an eighth of it, and 64, are 1864. */
    for (uint64_t mib = 1600; mib <= 1857; mib++)
        cr_expect_eq(psd_memory_guard_look(&guard, now += 50, mib * MIB), PSD_MEMORY_GUARD_REST);
    guard.seen = 1864 * MIB;
    cr_expect_eq(psd_memory_guard_look(&guard, now += 50, 1864 * MIB), PSD_MEMORY_GUARD_REST);
    cr_expect_eq(psd_memory_guard_look(&guard, now += 50, 1864 * MIB + 1), PSD_MEMORY_GUARD_CLOSE);
}

Test(memory_guard, memory_that_rises_fast_closes_before_the_bound)
{
    psd_memory_guard_t guard = { .max = 1000 * MIB };
    uint64_t now = 1000;
    cr_expect_eq(psd_memory_guard_look(&guard, now += 10, 400 * MIB), PSD_MEMORY_GUARD_REST, "the half is not there");
    cr_expect_eq(psd_memory_guard_look(&guard, now += 10, 480 * MIB), PSD_MEMORY_GUARD_REST);
    cr_expect_eq(psd_memory_guard_look(&guard, now += 10, 560 * MIB), PSD_MEMORY_GUARD_CLOSE, "six times 80 on top are 1040");
    guard = (psd_memory_guard_t){ .max = 1000 * MIB, .floor = 800 * MIB, .seen = 800 * MIB };
    cr_expect_eq(psd_memory_guard_look(&guard, now += 10, 890 * MIB), PSD_MEMORY_GUARD_REST,
                 "of 200 above the job's own, 100 are not there");
    cr_expect_eq(psd_memory_guard_look(&guard, now += 10, 910 * MIB), PSD_MEMORY_GUARD_CLOSE);
}

Test(memory_guard, without_a_bound_it_never_closes)
{
    psd_memory_guard_t guard = { .max = 0 };
    cr_expect_eq(psd_memory_guard_look(&guard, 1, UINT64_MAX), PSD_MEMORY_GUARD_REST);
}
