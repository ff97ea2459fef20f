#include <criterion/criterion.h>

#include "server/core/seeding.h"

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
    cr_assert_not_null(shard = psd_shard_new(&rule, &(psd_clip_t){ .norm = 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL));
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

static bool come(uint32_t part)
{
    psd_seeding_set(&seeding, part);
    return psd_seeding_came(&seeding, shard, part);
}

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

Test(seeding, what_was_answered_and_has_not_come_is_asked_for_again_by_another_number)
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

Test(seeding, who_is_asked_is_waited_for_while_it_is_the_same_life_and_not_silent)
{
    cr_expect(psd_seeding_waits(&seeding, 1, 2999));
    cr_expect_not(psd_seeding_waits(&seeding, 2, 1001), "another life of it");
    cr_expect_not(psd_seeding_waits(&seeding, 1, 3000));
    psd_seeding_heard(&seeding, 4, 2900);
    cr_expect_not(psd_seeding_waits(&seeding, 1, 3000), "somebody else spoke");
    psd_seeding_heard(&seeding, 3, 2900);
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
    psd_seeding_set_all(&seeding, PARTS);
    cr_expect_eq(seeding.n_started, PARTS);
    cr_expect_not(psd_seeding_widen(&seeding, shard, 1000));
}
