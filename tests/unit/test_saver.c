#include <criterion/criterion.h>

#include <string.h>

#include "server/core/saver.h"
#include "tests/support/alone.h"

/* A shard of four chunks, none of which is being stepped unless it is set in `busy`. */
enum { CHUNK = 1024, PARTS = 4 };
static psd_partition_t map;
static psd_shard_t *shard;
static psd_saver_t saver;
static psd_actions_t out;
static uint8_t busy[1];
static float g[CHUNK];

static void setup(void)
{
    psd_rule_t rule;
    cr_assert_eq(psd_rule_parse(&rule, "momentum(lr=1)", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ CHUNK * PARTS }, 1, 1, 1, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &(psd_clip_t){ .norm = 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL));
    for (uint32_t p = 0; p < PARTS; p++)
        psd_shard_set(shard, p, g);
    for (size_t i = 0; i < CHUNK; i++)
        g[i] = 1;
}

static void teardown(void)
{
    psd_actions_clear(&out);
    psd_shard_destroy(&shard);
    psd_partition_clear(&map);
}
TestSuite(saver, .init = setup, .fini = teardown, .timeout = 600);

static void begin(uint64_t clock)
{
    psd_saver_order(&saver, clock, false);
    cr_assert(psd_saver_may_begin(&saver, clock));
    psd_saver_begin(&saver, &(psd_save_point_t){ .clock = clock, .applied = &(psd_member_t){ .worker = 9 }, .n_applied = 1 }, &out);
    psd_saver_begun(&saver);
    psd_saver_go_on(&saver, shard, busy, &out);
}

/* The newest action, and its chunk. */
static bool asked(psd_act_t act, uint32_t part) { return out.n && out.at[out.n - 1].act == act && out.at[out.n - 1].part == part; }

static psd_work_t *work_on(uint32_t part)
{
    psd_work_t *work = psd_shard_work(shard, part, 1);
    work->lr[0] = 1;
    work->weight[0] = 1;
    work->gradient[0] = psd_buf_borrow(g, sizeof g);
    work->n_gradients = 1;
    return work;
}

static float saved_weight(uint32_t part) { return psd_shard_state(shard, part).w[0]; }

Test(saver, chunks_go_to_the_writer_one_by_one_and_then_the_file_is_made_durable)
{
    begin(7);
    cr_expect_eq(saver.point.applied[0].worker, 9, "copied");
    for (uint32_t p = 0; p < PARTS; p++) {
        cr_expect(asked(PSD_ACT_SAVE_PART, p) && psd_saver_is_writing(&saver));
        cr_expect_null(psd_saver_part_saved(&saver, shard, p));
        psd_saver_go_on(&saver, shard, busy, &out);
    }
    cr_expect(asked(PSD_ACT_SAVE_END, 0) && psd_saver_is_writing(&saver));
    psd_saver_saved(&saver, shard, busy, NULL);
    cr_expect_eq(saver.saved, 8);
    cr_expect_not(saver.saving || psd_saver_is_writing(&saver));
}

Test(saver, a_chunk_that_is_stepped_before_it_is_written_is_written_as_it_was)
{
    begin(7);
    psd_work_t *work = work_on(2);
    cr_assert(psd_saver_may_step(&saver, shard, work));
    psd_work_run(work);
    cr_expect_eq(((const float *)psd_shard_weights(shard, 2)->data)[0], -1.0f);
    cr_expect_eq(saved_weight(2), 0.0f);
    psd_saver_part_saved(&saver, shard, 0);
    psd_saver_part_saved(&saver, shard, 2);
    cr_expect_eq(saved_weight(2), -1.0f, "the copy is dropped when it is written");
}

Test(saver, the_step_of_the_chunk_that_the_writer_has_is_put_off_and_given_back)
{
    begin(7);
    psd_work_t *work = work_on(0);
    cr_expect_not(psd_saver_may_step(&saver, shard, work));
    cr_expect_eq(psd_saver_part_saved(&saver, shard, 0), work);
    cr_expect_null(saver.deferred);
    psd_saver_go_on(&saver, shard, busy, &out);
    cr_expect_not(psd_saver_may_step(&saver, shard, work_on(1)));
    cr_expect_eq(psd_saver_saved(&saver, shard, busy, "no space left"), psd_shard_pending(shard, 1), "also when it fails");
    cr_expect_eq(saver.failed, 8);
    cr_expect_str_eq(saver.trouble, "no space left");
}

Test(saver, the_writer_waits_for_a_chunk_that_is_being_stepped)
{
    psd_bitmap_set(busy, 0);
    begin(7);
    cr_expect(saver.blocked && !psd_saver_is_writing(&saver));
    psd_bitmap_unset(busy, 0);
    psd_saver_stepped(&saver, shard, 1, busy, &out);
    cr_expect(saver.blocked, "another chunk");
    psd_saver_stepped(&saver, shard, 0, busy, &out);
    cr_expect(asked(PSD_ACT_SAVE_PART, 0));
}

Test(saver, an_order_that_cannot_wait_fails_while_another_file_is_written)
{
    begin(3);
    psd_saver_order(&saver, 4, true);
    cr_expect_eq(saver.failed, 5);
    cr_expect_str_eq(saver.trouble, "an older one took too long");
    psd_saver_saved(&saver, shard, busy, NULL);
    cr_expect_not(psd_saver_may_begin(&saver, 4), "steps were made since");
    psd_saver_order(&saver, 5, true);
    cr_expect_eq(saver.failed, 0);
    cr_expect(psd_saver_may_begin(&saver, 5));
}

Test(saver, an_order_whose_state_is_gone_has_failed_and_one_that_is_durable_is_not_made_again)
{
    psd_saver_order(&saver, 7, false);
    cr_expect_not(psd_saver_may_begin(&saver, 8));
    cr_expect_eq(saver.failed, 8);
    cr_expect_str_eq(saver.trouble, "an older one took too long");
    saver.saved = 10;
    psd_saver_order(&saver, 9, false);
    cr_expect_eq(saver.failed, 0);
    cr_expect_not(psd_saver_may_begin(&saver, 9));
    cr_expect_not(psd_saver_may_begin(&saver, 9), "nor asked for any more");
}

Test(saver, a_run_that_begins_anew_makes_the_files_of_the_one_before_again)
{
    begin(7);
    psd_saver_saved(&saver, shard, busy, NULL);
    psd_saver_order(&saver, 8, false);
    cr_expect_not(psd_saver_may_begin(&saver, 9));
    cr_expect_eq(saver.failed, 9);
    psd_saver_clear(&saver);
    cr_expect(saver.saved == 0 && saver.failed == 0, "neither is told of the new run");
    psd_saver_order(&saver, 7, false);
    cr_expect(psd_saver_may_begin(&saver, 7));
}

Test(saver, the_file_ends_when_the_residuals_are_there_too)
{
    static const uint32_t of[] = { 9 };
    const psd_save_point_t point = {
        .clock = 7, .applied = &(psd_member_t){ .worker = 9 }, .n_applied = 1, .residual_of = of, .n_residuals = 1
    };
    psd_saver_order(&saver, 7, false);
    cr_assert(psd_saver_may_begin(&saver, 7));
    psd_saver_begin(&saver, &point, &out);
    psd_saver_begun(&saver);
    psd_saver_go_on(&saver, shard, busy, &out);
    for (uint32_t p = 0; p < PARTS; p++) {
        psd_saver_part_saved(&saver, shard, p);
        psd_saver_go_on(&saver, shard, busy, &out);
    }
    cr_expect(asked(PSD_ACT_SAVE_PART, PARTS - 1) && !psd_saver_is_writing(&saver));
    cr_expect(saver.point.n_residuals == 1 && saver.point.residual_of[0] == 9, "copied");
    psd_saver_has_residuals(&saver, shard, busy, &out);
    cr_expect(asked(PSD_ACT_SAVE_END, 0));
}

Test(saver, a_chunk_is_kept_for_the_writer_by_a_step_and_not_by_a_pass_that_only_measures)
{
    begin(7);
    psd_work_t *work = work_on(2);
    work->n_gradients = 0;
    cr_expect(psd_saver_may_step(&saver, shard, work) && !work->preserve);
    work->onto = true; /* of pushes that were added up before */
    cr_expect(psd_saver_may_step(&saver, shard, work) && work->preserve);
    work->onto = false;
}
