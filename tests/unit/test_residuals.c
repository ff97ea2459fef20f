#include <criterion/criterion.h>

#include "server/core/residuals.h"
#include "tests/support/alone.h"

TestSuite(residuals, .timeout = 60);

/* A shard of more than a window: a little over 5 MiB. */
enum { SMALL = 10, LARGE = 1 << 18 };

static psd_partition_t map;
static psd_shard_t *shard;
static psd_residuals_t residuals;

static void setup(void)
{
    psd_rule_t rule;
    uint64_t sizes[] = { SMALL, 5 * (uint64_t)LARGE };
    cr_assert_eq(psd_rule_parse(&rule, "sgd", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, sizes, 2, 1, PSD_MOST_OF_PART, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &(psd_clip_t){ 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL));
    psd_residuals_begin(&residuals, shard);
}

static void teardown(void)
{
    psd_residuals_clear(&residuals);
    psd_shard_destroy(&shard);
    psd_partition_clear(&map);
}

/* Take all parts that the row was asked for, and report them as written; returns their number. */
static uint32_t answer(const psd_residual_row_t *row)
{
    uint32_t n = 0;
    for (uint32_t p = 0; p < residuals.n_parts; p++)
        n += psd_residuals_take(&residuals, row->worker, row->incarnation, row->clock, p, 0);
    for (uint32_t i = 0; i < n; i++)
        psd_residuals_written(&residuals);
    return n;
}

Test(residuals, each_is_asked_for_by_windows_until_all_of_it_is_written, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 1, 7, 40);
    psd_residuals_add(&residuals, 4, 1, 41);
    uint32_t n[2] = { 0 }, asked[2] = { 0 };
    for (const psd_residual_row_t *row; (row = psd_residuals_ask(&residuals, 0));) {
        const int who = row->worker == 4;
        cr_assert(who || !n[1], "one after the other");
        cr_assert(row->worker == (who ? 4 : 1) && row->incarnation == (who ? 1 : 7) && row->clock == (who ? 41 : 40));
        cr_expect(!psd_residuals_is_over(&residuals));
        asked[who]++;
        n[who] += answer(row);
    }
    cr_expect(n[0] == psd_shard_parts(shard) && n[1] == n[0]);
    cr_expect(asked[0] == 2 && asked[1] == 2, "%u: a window is 4 MiB, the shard 5", asked[0]);
    cr_expect(psd_residuals_is_over(&residuals));
}

Test(residuals, missing_parts_are_requested_again_and_parts_that_came_are_not, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 2, 1, 9);
    cr_assert_not_null(psd_residuals_ask(&residuals, 1000));
    cr_expect_null(psd_residuals_ask(&residuals, 1100));
    cr_assert(psd_residuals_take(&residuals, 2, 1, 9, 0, 1400));
    cr_expect_not(psd_residuals_take(&residuals, 2, 1, 9, 0, 1400), "it has come");
    cr_expect_null(psd_residuals_ask(&residuals, 1800));
    cr_assert_not_null(psd_residuals_ask(&residuals, 1900));
    cr_expect_not(psd_bitmap_get(residuals.wanted, 0));
    cr_expect(psd_bitmap_get(residuals.wanted, 1));
    cr_expect_null(psd_residuals_ask(&residuals, 2800), "twice as long");
    cr_assert_not_null(psd_residuals_ask(&residuals, 2900));
}

Test(residuals, only_the_residual_of_the_expected_life_and_clock_is_taken, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 2, 5, 9);
    psd_residuals_add(&residuals, 3, 5, 9);
    cr_assert_not_null(psd_residuals_ask(&residuals, 0));
    cr_expect_not(psd_residuals_take(&residuals, 2, 4, 9, 0, 0));
    cr_expect_not(psd_residuals_take(&residuals, 2, 5, 8, 0, 0));
    cr_expect_not(psd_residuals_take(&residuals, 2, 5, 9, psd_shard_parts(shard), 0));
    cr_expect(psd_residuals_take(&residuals, 2, 5, 9, 0, 0));
    cr_expect_not(psd_residuals_take(&residuals, 3, 5, 9, 0, 0), "its turn has not come");
    cr_expect_eq(psd_residuals_wish(&residuals, 2, 5), 10);
    cr_expect_eq(psd_residuals_wish(&residuals, 3, 5), 10);
    cr_expect_eq(psd_residuals_wish(&residuals, 3, 6), 0);
    cr_expect_eq(psd_residuals_wish(&residuals, 9, 5), 0);
}

Test(residuals, the_checkpoint_waits_for_the_writer_but_not_for_a_worker_that_is_left_out, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 2, 1, 9);
    psd_residuals_add(&residuals, 3, 1, 9);
    const psd_residual_row_t *row = psd_residuals_ask(&residuals, 0);
    cr_assert(psd_residuals_take(&residuals, 2, 1, 9, 0, 0));
    psd_residuals_leave_out(&residuals, 2, 1);
    cr_expect_eq(psd_residuals_wish(&residuals, 2, 1), 0);
    cr_expect_null(psd_residuals_ask(&residuals, 0), "the writer has a part");
    psd_residuals_leave_out(&residuals, 3, 1);
    cr_expect_not(psd_residuals_is_over(&residuals));
    psd_residuals_written(&residuals);
    cr_expect(psd_residuals_is_over(&residuals));
    (void)row;
}

Test(residuals, one_that_does_not_answer_is_asked_again_after_the_others_and_left_out_in_the_end, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 2, 1, 9);
    psd_residuals_add(&residuals, 3, 1, 9);
    psd_residuals_add(&residuals, 4, 1, 9);
    cr_assert_eq(psd_residuals_ask(&residuals, 0)->worker, 2);
    const psd_residual_row_t *row = psd_residuals_ask(&residuals, 200);
    cr_assert(row && row->worker == 3);
    answer(row);
    cr_assert((row = psd_residuals_ask(&residuals, 300)) && row->worker == 3, "it answers: the rest of it first");
    answer(row);
    cr_assert((row = psd_residuals_ask(&residuals, 300)) && row->worker == 4);
    cr_assert((row = psd_residuals_ask(&residuals, 500)) && row->worker == 2);
    cr_assert((row = psd_residuals_ask(&residuals, 700)) && row->worker == 4);
    cr_expect_null(psd_residuals_silent(&residuals, 9999));
    for (uint32_t n = 0; n < 2; n++) {
        cr_assert_not_null(row = psd_residuals_silent(&residuals, 10000), "two of them");
        psd_residuals_leave_out(&residuals, row->worker, row->incarnation);
    }
    cr_expect(psd_residuals_is_over(&residuals));
}

Test(residuals, a_residual_that_comes_late_is_taken_and_a_silent_worker_affects_no_other, .init = setup, .fini = teardown)
{
    for (uint32_t w = 2; w < 5; w++)
        psd_residuals_add(&residuals, w, 1, 9);
    cr_assert_eq(psd_residuals_ask(&residuals, 0)->worker, 2);
    cr_assert_eq(psd_residuals_ask(&residuals, 200)->worker, 3);
    cr_expect(psd_residuals_take(&residuals, 2, 1, 9, 0, 250), "2 was asked first");
    cr_expect_not(psd_residuals_take(&residuals, 3, 1, 9, 0, 260), "one after the other");
    psd_residuals_written(&residuals);
    cr_expect_null(psd_residuals_ask(&residuals, 700));
    cr_assert_eq(psd_residuals_ask(&residuals, 750)->worker, 2, "a worker that has begun has to finish first");
    cr_expect_null(psd_residuals_silent(&residuals, 10249));
    const psd_residual_row_t *silent = psd_residuals_silent(&residuals, 10250);
    cr_assert(silent && silent->worker == 2);
    psd_residuals_leave_out(&residuals, 2, 1);
    cr_expect_null(psd_residuals_silent(&residuals, 10250), "the others have their time");
    cr_assert_eq(psd_residuals_ask(&residuals, 10250)->worker, 3);
    cr_assert_eq(psd_residuals_ask(&residuals, 10450)->worker, 4);
    cr_assert_eq(psd_residuals_ask(&residuals, 10650)->worker, 3);
    cr_expect_null(psd_residuals_silent(&residuals, 20249), "their time begins when they are asked");
    cr_expect_not_null(psd_residuals_silent(&residuals, 20250));
}

Test(residuals, no_worker_is_left_out_that_was_not_asked_since_the_last_answer, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 2, 1, 9);
    psd_residuals_add(&residuals, 3, 1, 9);
    cr_assert_eq(psd_residuals_ask(&residuals, 0)->worker, 2);
    cr_assert_eq(psd_residuals_ask(&residuals, 200)->worker, 3);
    const psd_residual_row_t *row = psd_residuals_ask(&residuals, 400);
    cr_assert_eq(row->worker, 2);
    answer(row);
    cr_assert((row = psd_residuals_ask(&residuals, 500)) && row->worker == 2);
    answer(row);
    cr_expect_null(psd_residuals_silent(&residuals, 60000), "2 has answered, and 3 not been asked again");
    cr_assert_eq(psd_residuals_ask(&residuals, 60000)->worker, 3);
    cr_expect_null(psd_residuals_silent(&residuals, 60199));
    cr_assert_eq(psd_residuals_ask(&residuals, 60200)->worker, 3, "there is no other one");
    cr_expect_eq(psd_residuals_silent(&residuals, 60200)->worker, 3);
}

Test(residuals, while_the_writer_has_a_part_no_other_worker_is_turned_to, .init = setup, .fini = teardown)
{
    for (uint32_t w = 2; w < 5; w++)
        psd_residuals_add(&residuals, w, 1, 9);
    cr_assert_eq(psd_residuals_ask(&residuals, 0)->worker, 2);
    cr_assert(psd_residuals_take(&residuals, 2, 1, 9, 0, 0));
    psd_residuals_leave_out(&residuals, 2, 1);
    cr_expect_not(psd_residuals_take(&residuals, 4, 1, 9, 0, 10), "it has not been asked, and a part of 2 is being written");
    cr_expect_null(psd_residuals_ask(&residuals, 10));
    psd_residuals_written(&residuals);
    cr_assert_eq(psd_residuals_ask(&residuals, 20)->worker, 3);
}

Test(residuals, a_slow_worker_is_asked_again_every_4_seconds_at_least, .init = setup, .fini = teardown)
{
    psd_residuals_add(&residuals, 2, 1, 9);
    cr_assert_not_null(psd_residuals_ask(&residuals, 1000));
    cr_assert(psd_residuals_take(&residuals, 2, 1, 9, 0, 1000));
    static const uint64_t asked[] = { 1500, 2500, 4500, 8500, 12500, 16500 };
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        cr_expect_null(psd_residuals_ask(&residuals, asked[i] - 1), "at %u ms", (unsigned)asked[i]);
        cr_expect_not_null(psd_residuals_ask(&residuals, asked[i]), "at %u ms", (unsigned)asked[i]);
    }
}
