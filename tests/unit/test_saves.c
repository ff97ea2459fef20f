#include <criterion/criterion.h>

#include "server/core/saves.h"

TestSuite(saves, .timeout = 600);

/* A synchronous job of two servers that saves every three rounds, from checkpoint 4. */
enum { SERVERS = 2, FROM = 4, ENTRY = 7 };

static psd_saves_t saves;
static psd_actions_t out;

static psd_progress_t at(uint64_t clock)
{
    psd_progress_t p = { .clock = clock, .servers = SERVERS };
    psd_saves_look(&saves, 0, &p);
    return p;
}

static bool is_due(uint64_t now_ms, uint64_t clock)
{
    const psd_progress_t p = at(clock);
    return psd_saves_is_due(&saves, now_ms, &p, false);
}

static bool is_saved(uint64_t clock)
{
    const psd_progress_t p = at(clock);
    return psd_saves_is_saved(&saves, &p);
}

static void order(uint64_t now_ms, uint64_t clock)
{
    const psd_progress_t p = at(clock);
    psd_saves_begin(&saves, now_ms, &p, ENTRY);
}

static void shard_says(uint32_t shard, uint32_t code, uint64_t saved)
{
    psd_saves_note_shard(&saves, &(psd_msg_t){ .shard = shard, .code = code, .saved = saved, .seq = ENTRY, .text = "full" }, &out);
}

/* Both servers save, and so does server 0 its manifest. */
static void make(uint64_t now_ms, uint64_t clock)
{
    order(now_ms, clock);
    shard_says(0, 0, clock + 1);
    shard_says(1, 0, clock + 1);
    cr_assert(psd_saves_note_manifest(&saves, now_ms + 50, clock, NULL, &out));
}

static void setup_of(size_t n_points)
{
    const psd_saves_config_t config = { .possible = true, .n_servers = SERVERS, .mode = psd_mode_find("bsp"), .every_rounds = 3 };
    const uint64_t point[] = { FROM, 1 };
    psd_saves_init(&saves, &config, point, n_points);
    const psd_progress_t p = at(psd_saves_newest(&saves));
    psd_saves_begin_run(&saves, &p);
    shard_says(0, PSD_SHARD_STARTED, 0);
    shard_says(1, PSD_SHARD_STARTED, 0);
}

static void setup(void) { setup_of(2); }
static void setup_without(void) { setup_of(0); }
static void teardown(void) { psd_actions_clear(&out); }

Test(saves, one_is_due_after_so_many_rounds_or_when_it_is_asked_for, .init = setup, .fini = teardown)
{
    cr_expect_not(is_due(0, FROM + 2));
    cr_expect(is_due(0, FROM + 3));
    psd_saves_ask(&saves);
    cr_expect(is_due(0, FROM + 1));
    cr_expect_not(is_due(0, FROM)); /* nothing has happened since the newest */
}

Test(saves, what_was_asked_for_or_being_made_is_forgotten_when_a_run_begins, .init = setup, .fini = teardown)
{
    order(100, 6);
    psd_saves_ask(&saves);
    const psd_progress_t p = at(FROM);
    psd_saves_begin_run(&saves, &p);
    cr_expect_not(psd_saves_is_busy(&saves) || psd_saves_can_save(&saves) || psd_saves_is_urgent(&saves));
    shard_says(0, PSD_SHARD_STARTED, 6 + 1);
    shard_says(1, PSD_SHARD_STARTED, 6 + 1);
    cr_expect_eq(out.n, 0, "no manifest is made of files of the run before");
    cr_expect_not(is_due(200, FROM + 2));
    cr_expect(is_due(200, FROM + 3), "rounds count from where the run begins");
}

Test(saves, time_counts_from_the_last_order, .fini = teardown)
{
    const psd_saves_config_t config = { .possible = true, .n_servers = SERVERS, .mode = psd_mode_find("bsp"), .every_ms = 1000 };
    const uint64_t point[] = { FROM };
    psd_saves_init(&saves, &config, point, 1);
    const psd_progress_t p = at(FROM);
    psd_saves_begin_run(&saves, &p);
    shard_says(0, PSD_SHARD_STARTED, 0);
    shard_says(1, PSD_SHARD_STARTED, 0);
    make(5000, 6);
    cr_expect_not(is_due(5999, 7));
    cr_expect(is_due(6000, 7));
    cr_expect_not(is_due(6000, 6), "but none is due without a step since");
}

Test(saves, none_is_due_before_every_shard_has_weights, .fini = teardown)
{
    setup_without();
    cr_expect(is_due(0, 0)); /* the first one is always due */
    const psd_progress_t p = at(0);
    psd_saves_begin_run(&saves, &p);
    shard_says(1, PSD_SHARD_STARTED, 0);
    cr_expect_not(is_due(0, 0));
    cr_expect_not(psd_saves_can_save(&saves));
}

Test(saves, the_manifest_is_asked_for_once_and_when_every_file_is_durable, .init = setup, .fini = teardown)
{
    order(100, 6);
    cr_expect_not(is_due(100, 20)); /* one at a time */
    shard_says(0, 0, 6 + 1);
    shard_says(1, 0, FROM + 1); /* a file of another checkpoint */
    cr_expect_eq(out.n, 0);
    shard_says(1, 0, 6 + 1);
    shard_says(1, 0, 6 + 1);
    cr_assert_eq(out.n, 1);
    cr_expect_eq(out.at[0].act, PSD_ACT_COMMIT);
    cr_expect_eq(out.at[0].clock, 6);
    cr_expect_eq(psd_saves_newest(&saves), FROM); /* until the manifest is durable */
    cr_expect_not(psd_saves_note_manifest(&saves, 150, 5, NULL, &out));
    cr_expect(psd_saves_note_manifest(&saves, 150, 6, NULL, &out));
    cr_expect_eq(psd_saves_newest(&saves), 6);
    cr_expect_eq(saves.took_ms, 50);
    cr_expect(is_saved(6));
    cr_expect_not(is_saved(7));
}

Test(saves, one_that_failed_leaves_the_one_before_and_is_tried_again_after_a_second, .init = setup, .fini = teardown)
{
    char text[256];
    order(100, 6);
    shard_says(1, PSD_SHARD_SAVE_FAILED, 0);
    cr_expect(psd_saves_is_failing(&saves));
    cr_expect_not(psd_saves_is_busy(&saves));
    cr_expect(psd_saves_has_failed_since(&saves, 100));
    cr_expect_not(psd_saves_has_failed_since(&saves, 101));
    cr_expect_eq(psd_saves_newest(&saves), FROM);
    cr_expect_not(is_due(2000, 8), "the next one is that of round 9");
    psd_saves_ask(&saves);
    cr_expect_not(is_due(1099, 6));
    cr_expect(is_due(1100, 6));
    psd_saves_describe_trouble(&saves, text, sizeof text);
    cr_expect_str_eq(text,
                     "the last checkpoint could not be made (checkpoint.dir): server 1: full; the one before stays the newest");
}

Test(saves, none_fails_any_more_once_one_is_safe, .init = setup, .fini = teardown)
{
    order(100, 6);
    shard_says(1, PSD_SHARD_SAVE_FAILED, 0);
    make(1100, 6);
    cr_expect_not(psd_saves_is_failing(&saves));
    cr_expect_not(psd_saves_has_failed_since(&saves, 0));
    cr_expect(is_due(1150, 9), "without a pause");
}

Test(saves, one_that_is_under_way_has_not_failed_whatever_became_of_the_one_before, .init = setup, .fini = teardown)
{
    order(100, 6);
    shard_says(1, PSD_SHARD_SAVE_FAILED, 0);
    order(1100, 6);
    cr_expect(psd_saves_is_failing(&saves));
    cr_expect_not(psd_saves_has_failed_since(&saves, 500));
    shard_says(0, PSD_SHARD_SAVE_FAILED, 0);
    cr_expect(psd_saves_has_failed_since(&saves, 500));
}

Test(saves, one_that_was_asked_for_is_made_once, .init = setup, .fini = teardown)
{
    psd_saves_ask(&saves);
    cr_expect(psd_saves_is_urgent(&saves));
    make(100, 6);
    cr_expect_not(psd_saves_is_urgent(&saves));
    cr_expect_not(is_due(200, 8), "the next one is that of round 9");
    cr_expect(is_due(200, 9));
    psd_saves_ask(&saves);
    psd_saves_unask(&saves);
    cr_expect_not(is_due(200, 8));
}

Test(saves, one_is_newer_than_what_was_known_when_it_was_begun, .init = setup, .fini = teardown)
{
    make(100, 6);
    cr_expect(psd_saves_is_newer(&saves, 100));
    cr_expect_not(psd_saves_is_newer(&saves, 101), "it became safe at 150, without what came since 100");
    psd_progress_t p = { .clock = 6, .servers = SERVERS };
    psd_saves_look(&saves, 100, &p);
    cr_expect(p.point_is_final, "no push could follow any more when it was ordered");
    psd_saves_look(&saves, 101, &p);
    cr_expect_not(p.point_is_final);
}

Test(saves, a_failure_reported_before_the_order_does_not_belong_to_it, .init = setup, .fini = teardown)
{
    order(100, 6);
    psd_saves_note_shard(&saves, &(psd_msg_t){ .shard = 1, .code = PSD_SHARD_SAVE_FAILED, .seq = ENTRY - 1 }, &out);
    cr_expect_not(psd_saves_is_failing(&saves));
}

Test(saves, without_any_checkpoint_no_step_is_safe_and_the_first_waits_for_no_round, .init = setup_without, .fini = teardown)
{
    cr_expect_not(psd_saves_is_safe(&saves));
    cr_expect(psd_saves_is_urgent(&saves));
    order(100, 0);
    shard_says(0, PSD_SHARD_SAVE_FAILED, 0);
    cr_expect(psd_saves_has_none(&saves));
    order(2000, 0);
    shard_says(0, 0, 1);
    shard_says(1, 0, 1);
    cr_expect(psd_saves_note_manifest(&saves, 2100, 0, NULL, &out));
    cr_expect(psd_saves_is_safe(&saves));
    cr_expect_not(psd_saves_has_none(&saves));
    cr_expect_not(psd_saves_is_urgent(&saves));
}

Test(saves, when_the_newest_cannot_be_read_the_one_before_is_the_newest, .init = setup, .fini = teardown)
{
    psd_saves_drop_newest(&saves);
    cr_expect_eq(psd_saves_newest(&saves), 1);
    psd_saves_drop_newest(&saves);
    cr_expect_eq(saves.n_points, 0);
}

Test(saves, only_the_last_sixteen_are_kept_to_go_back_to, .init = setup, .fini = teardown)
{
    for (uint64_t clock = 5; clock < 5 + PSD_MAX_POINTS + 3; clock++) {
        order(0, clock);
        shard_says(0, 0, clock + 1);
        shard_says(1, 0, clock + 1);
        cr_assert(psd_saves_note_manifest(&saves, 0, clock, NULL, &out));
    }
    cr_expect_eq(saves.n_points, PSD_MAX_POINTS);
    cr_expect_eq(saves.point[0], 5 + PSD_MAX_POINTS + 2);
    cr_expect_eq(saves.point[PSD_MAX_POINTS - 1], 5 + 3);
}
