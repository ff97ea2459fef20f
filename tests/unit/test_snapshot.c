#include <criterion/criterion.h>

#include "server/core/snapshot.h"
#include "tests/support/alone.h"

/* A shard of two parts, whose weights are 1 and 2. */
enum { CHUNK = 1024, PARTS = 2 };
static psd_partition_t map;
static psd_shard_t *shard;
static psd_snapshot_t snapshot;

static void make_shard(const char *text)
{
    psd_rule_t rule;
    float w[CHUNK];
    cr_assert_eq(psd_rule_parse(&rule, text, NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ CHUNK * PARTS }, 1, 1, 1, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &(psd_clip_t){ .norm = 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL));
    for (uint32_t p = 0; p < PARTS; p++) {
        for (size_t i = 0; i < CHUNK; i++)
            w[i] = (float)(p + 1);
        psd_shard_set(shard, p, w);
    }
}

static void teardown(void)
{
    psd_snapshot_clear(&snapshot);
    psd_shard_destroy(&shard);
    psd_partition_clear(&map);
}
TestSuite(snapshot, .fini = teardown, .timeout = 600);

/* A step by a gradient of ones, at rate 1. */
static void step(uint32_t part)
{
    static float g[CHUNK];
    for (size_t i = 0; i < CHUNK; i++)
        g[i] = 1;
    psd_work_t *work = psd_shard_work(shard, part, 1);
    work->lr[0] = 1;
    work->weight[0] = 1;
    work->gradient[0] = psd_buf_borrow(g, sizeof g);
    work->n_gradients = 1;
    psd_work_run(work);
}

static float first_of(psd_buf_t *const *parts, uint32_t p) { return ((const float *)parts[p]->data)[0]; }

Test(snapshot, its_weights_stay_as_they_were_while_the_shard_makes_steps)
{
    make_shard("sgd(lr=1)");
    psd_snapshot_take(&snapshot, 100, 7, 3, shard, false);
    step(0);
    cr_expect_eq(psd_shard_state(shard, 0).w[0], 0);
    psd_buf_t *const *parts = psd_snapshot_read(&snapshot, 100, 7, false);
    cr_assert_not_null(parts);
    cr_expect(first_of(parts, 0) == 1 && first_of(parts, 1) == 2 && snapshot.version == 3);
}

Test(snapshot, only_the_one_that_was_ordered_last_can_be_read)
{
    make_shard("sgd(lr=1)");
    cr_expect_null(psd_snapshot_read(&snapshot, 0, 0, false), "none was ordered");
    psd_snapshot_take(&snapshot, 100, 7, 3, shard, false);
    psd_snapshot_take(&snapshot, 200, 8, 4, shard, false);
    cr_expect_null(psd_snapshot_read(&snapshot, 200, 7, false));
    cr_expect_null(psd_snapshot_read(&snapshot, 200, 9, false));
    cr_expect_not_null(psd_snapshot_read(&snapshot, 200, 8, false));
}

Test(snapshot, slow_weights_are_its_own_where_the_rule_has_some_and_else_the_weights)
{
    make_shard("lookahead(sgd(lr=1), k=5)");
    step(0);
    psd_snapshot_take(&snapshot, 100, 7, 1, shard, true);
    cr_expect_eq(first_of(psd_snapshot_read(&snapshot, 100, 7, false), 0), 0);
    cr_expect_eq(first_of(psd_snapshot_read(&snapshot, 100, 7, true), 0), 1);
    psd_snapshot_take(&snapshot, 100, 8, 1, shard, false);
    cr_expect_eq(first_of(psd_snapshot_read(&snapshot, 100, 8, true), 0), 0);
}

Test(snapshot, it_is_dropped_when_nobody_has_read_it_for_five_seconds)
{
    make_shard("sgd(lr=1)");
    psd_snapshot_take(&snapshot, 1000, 7, 3, shard, false);
    psd_snapshot_tick(&snapshot, 5999);
    cr_expect_not_null(psd_snapshot_read(&snapshot, 5999, 7, false));
    psd_snapshot_tick(&snapshot, 10998);
    cr_expect_not_null(snapshot.weights, "it was read");
    psd_snapshot_tick(&snapshot, 10999);
    cr_expect_null(snapshot.weights);
    cr_expect_null(psd_snapshot_read(&snapshot, 10999, 7, false));
    cr_expect_eq(snapshot.number, 7, "a follower is told that it is gone, and does not wait for it");
}

Test(snapshot, one_without_values_has_a_number_and_nothing_to_read)
{
    psd_snapshot_take(&snapshot, 100, 7, 0, NULL, false);
    cr_expect_eq(snapshot.number, 7);
    cr_expect_null(psd_snapshot_read(&snapshot, 100, 7, false));
}
