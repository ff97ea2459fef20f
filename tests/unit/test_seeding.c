#include <criterion/criterion.h>

#include "server/core/seeding.h"
#include "tests/support/alone.h"

/* A shard of 40 chunks of 2^17 elements: a window has eight of them. */
enum { CHUNK = 1 << 17, PARTS = 128, IN_WINDOW = 8 };
static psd_partition_t map;
static psd_shard_t *shard;
static psd_seeding_t seeding;

static void setup(void)
{
    psd_rule_t rule;
    cr_assert_eq(psd_rule_parse(&rule, "sgd", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ (uint64_t)CHUNK * PARTS }, 1, 1, 1, NULL), PSD_OK);
    cr_assert_eq(map.n_chunks, PARTS);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &(psd_clip_t){ .norm = 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL));
    cr_assert(psd_seeding_init(&seeding, PARTS));
    psd_seeding_turn_to(&seeding, 3, 1, 1000);
}

static void teardown(void)
{
    psd_seeding_clear(&seeding);
    psd_shard_destroy(&shard);
    psd_partition_clear(&map);
}
TestSuite(seeding, .init = setup, .fini = teardown, .timeout = 600);

static uint32_t wanted(void)
{
    uint32_t n = 0;
    for (uint32_t p = 0; p < PARTS; p++)
        n += (uint32_t)psd_bitmap_get(seeding.newest, p);
    return n;
}

static bool come(uint32_t part) { return psd_seeding_came(&seeding, shard, part); }

Test(seeding, no_more_is_asked_for_than_a_window_until_half_of_it_has_come)
{
    cr_assert(psd_seeding_widen(&seeding, shard, 1000));
    cr_expect_eq(wanted(), IN_WINDOW);
    cr_expect_eq(seeding.seq, 1);
    cr_expect_not(psd_seeding_widen(&seeding, shard, 1000), "the window is full");
    for (uint32_t p = 0; p + 1 < IN_WINDOW / 2; p++)
        cr_expect_not(come(p), "%u", p);
    cr_expect(come(IN_WINDOW / 2 - 1));
    cr_assert(psd_seeding_widen(&seeding, shard, 1000));
    cr_expect_eq(wanted(), IN_WINDOW / 2);
    cr_expect(psd_bitmap_get(seeding.newest, IN_WINDOW), "those that follow");
}

Test(seeding, parts_lost_from_an_answer_are_requested_again_by_another_number)
{
    psd_seeding_widen(&seeding, shard, 1000);
    come(1);
    cr_expect_not(psd_seeding_answered(&seeding, 3, 0), "an older request");
    cr_expect_not(psd_seeding_answered(&seeding, 4, 1), "another worker");
    cr_assert(psd_seeding_answered(&seeding, 3, 1));
    cr_assert(psd_seeding_widen(&seeding, shard, 1000));
    cr_expect(psd_bitmap_get(seeding.newest, 0) && !psd_bitmap_get(seeding.newest, 1));
    cr_expect_eq(seeding.seq, 2);
}

Test(seeding, the_shard_waits_for_a_worker_while_it_is_the_same_life_and_not_silent)
{
    cr_expect(psd_seeding_waits(&seeding, 1, 2999));
    cr_expect_not(psd_seeding_waits(&seeding, 2, 1001), "another life of it");
    cr_expect_not(psd_seeding_waits(&seeding, 1, 3000));
    psd_seeding_heard(&seeding, 4, 1, 2900);
    cr_expect_not(psd_seeding_waits(&seeding, 1, 3000), "the message was another worker's");
    psd_seeding_heard(&seeding, 3, 2, 2900);
    cr_expect_not(psd_seeding_waits(&seeding, 1, 3000), "the message was from the next life of the worker");
    psd_seeding_heard(&seeding, 3, 1, 2900);
    cr_expect(psd_seeding_waits(&seeding, 1, 3000));
}

Test(seeding, a_request_is_repeated_twice_a_second)
{
    psd_seeding_widen(&seeding, shard, 1000);
    cr_expect_not(psd_seeding_repeats(&seeding, 1499));
    cr_expect(psd_seeding_repeats(&seeding, 1500));
    cr_expect_not(psd_seeding_repeats(&seeding, 1999));
}

Test(seeding, from_a_checkpoint_all_have_values)
{
    psd_seeding_set_all(&seeding);
    cr_expect(seeding.is_over);
    cr_expect_not(psd_seeding_lacks(&seeding, 0, 0));
    cr_expect_not(psd_seeding_widen(&seeding, shard, 1000));
}

Test(seeding, without_inherited_state_all_is_there_with_the_weights)
{
    for (uint32_t p = 0; p < PARTS; p++) {
        cr_expect(psd_seeding_lacks(&seeding, 0, p));
        cr_expect_not(seeding.is_over);
        come(p);
    }
    cr_expect(seeding.is_over);
}

/* There are two tensors, each with half of the parts: the first inherits both moments of adam, the second nothing. */
Test(seeding, arrays_of_inherited_state_come_after_the_weights_of_parts_that_have_them)
{
    static const psd_inherited_t inherited[2] = { { .t = 5, .arrays = 3 } };
    psd_rule_t rule;
    teardown();
    cr_assert_eq(psd_rule_parse(&rule, "adam", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ CHUNK * 2, CHUNK * 2 }, 2, 1, 1, NULL), PSD_OK);
    shard = psd_shard_new(alone(&rule), NULL, &(psd_clip_t){ .norm = 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL);
    const uint32_t n = psd_shard_parts(shard);
    psd_shard_inherit(shard, inherited);
    cr_assert(psd_seeding_init(&seeding, n));
    psd_seeding_turn_to(&seeding, 3, 1, 1000);
    for (uint32_t p = 0; p < n; p++)
        cr_expect_eq(come(p), p + 1 == n, "after the last part's weights, the next array is requested at once");
    for (uint32_t array = 1; array <= 2; array++) {
        cr_expect_eq(seeding.array, array);
        cr_expect_not(psd_seeding_lacks(&seeding, array - 1, 0), "of the array before");
        cr_assert(psd_seeding_widen(&seeding, shard, 1000));
        for (uint32_t p = 0; p < n; p++) {
            cr_expect_eq(psd_bitmap_get(seeding.newest, p), psd_shard_initial_elements(shard, array, p) > 0, "%u", p);
            if (psd_seeding_lacks(&seeding, array, p))
                come(p);
        }
    }
    cr_expect(seeding.is_over);
}
