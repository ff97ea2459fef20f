#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "common/optim/whole.h"
#include "proto/actions.h"
#include "server/core/update.h"
#include "tests/support/alone.h"

TestSuite(update, .timeout = 600);

/* A shard with all chunks of a model of two tensors. */
enum { FIRST = 3000, SECOND = 500, N = FIRST + SECOND };
static psd_partition_t map;
static psd_rule_t rule;
static psd_clip_t bounds;
static psd_shard_t *shard;
static psd_update_t update;
static float g[N];

static void begin(const char *spec, double norm)
{
    bounds.norm = norm;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ FIRST, SECOND }, 2, 1, 1, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &bounds, &(psd_codings_t){ 0 }, &map, 0, NULL));
    cr_assert(psd_update_init(&update, shard, 2));
    for (size_t i = 0; i < N; i++)
        g[i] = (float)sin((double)i);
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
        psd_shard_set(shard, p, g + (map.chunk[p].tensor ? FIRST : 0) + map.chunk[p].offset);
}

static void teardown(void)
{
    psd_update_clear(&update);
    psd_shard_destroy(&shard);
    psd_partition_clear(&map);
}

static void make_work(void)
{
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
        psd_work_t *work = psd_shard_work(shard, p, 1);
        work->lr[0] = psd_rule_lr(&rule);
        work->weight[0] = 1;
        work->gradient[0] = psd_buf_borrow(g + (map.chunk[p].tensor ? FIRST : 0) + map.chunk[p].offset, map.chunk[p].n * sizeof *g);
        work->n_gradients = 1;
    }
}

/* Run the pass; only its last piece ends it. */
static void run_pass(void)
{
    const uint32_t parts = psd_shard_parts(shard);
    for (uint32_t p = 0; p < parts; p++) {
        psd_update_hand_out(&update, psd_shard_pending(shard, p));
        psd_bitmap_set(update.busy, p);
    }
    cr_expect_eq(update.running, parts);
    for (uint32_t p = 0; p < parts; p++) {
        psd_work_run(psd_shard_pending(shard, p));
        cr_expect_eq(psd_update_returned(&update, psd_shard_pending(shard, p)), p + 1 == parts);
        cr_expect_not(psd_bitmap_get(update.busy, p));
    }
}

/* The pass's measurements, per tensor or over the model, as the coordinator adds them up. */
static size_t add_up(bool of_model, double *total)
{
    const uint32_t k = psd_update_sums(&update);
    memset(total, 0, 8 * sizeof *total);
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
        for (uint32_t i = 0; i < k; i++)
            total[(of_model ? 0 : map.chunk[p].tensor) * k + i] += update.sum[p * k + i];
    return (of_model ? 1 : 2) * k;
}

Test(update, a_step_of_a_rule_without_sums_is_one_pass, .fini = teardown)
{
    begin("sgd(lr=1)", 0);
    make_work();
    psd_update_begin(&update, 8, true, false);
    cr_expect(update.open && psd_update_is_step(&update));
    run_pass();
    cr_expect_not(update.open);
    cr_expect_eq(((const float *)psd_shard_weights(shard, 0)->data)[1], 0.0f, "w - 1 * g, where both are the same");
}

Test(update, passes_are_made_one_after_the_other_and_the_step_equals_that_of_a_single_process, .fini = teardown)
{
    double total[8];
    float w[N], slots[2][N];
    float *slot[2][PSD_MAX_SLOTS] = { { slots[0], slots[1] }, { slots[0] + FIRST, slots[1] + FIRST } };
    psd_rule_state_t state[2];
    begin("lamb(lr=0.1)", 0.5);
    make_work();
    psd_update_begin(&update, 8, true, false);
    cr_expect_not(psd_update_is_step(&update));
    run_pass();
    cr_assert(update.measured && update.open);
    size_t n = add_up(true, total);
    cr_expect_not(psd_update_settle(&update, 1, total, n), "not the pass that is awaited");
    cr_expect_not(psd_update_settle(&update, 0, total, n + 1));
    cr_assert(psd_update_settle(&update, 0, total, n));
    run_pass();
    n = add_up(false, total);
    cr_assert(psd_update_settle(&update, 1, total, n));
    cr_expect(psd_update_is_step(&update));
    run_pass();
    cr_expect_not(update.open);
    cr_expect_lt(psd_shard_pending(shard, 0)->clipped, 0.1f);

    memcpy(w, g, sizeof w);
    psd_whole_t whole[2];
    for (int t = 0; t < 2; t++) {
        const size_t at = t ? FIRST : 0, size = t ? SECOND : FIRST;
        psd_rule_init(&rule, &state[t], w + at, slot[t], size);
        whole[t] = (psd_whole_t){ .n = size, .w = w + at, .slot = slot[t], .state = &state[t] };
    }
    const float *first = g, *second = g + FIRST;
    whole[0].gradient = &first;
    whole[1].gradient = &second;
    psd_whole_step(alone(&rule), &bounds, whole, 2, (double[]){ 1 }, 1, 0, &(const double){ psd_rule_lr(&rule) });
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
        cr_expect_eq(memcmp(psd_shard_weights(shard, p)->data, w + (map.chunk[p].tensor ? FIRST : 0) + map.chunk[p].offset,
                            map.chunk[p].n * sizeof *w),
                     0, "chunk %u", p);
}

Test(update, where_the_whole_is_known_from_elsewhere_the_step_comes_at_once, .fini = teardown)
{
    begin("sgd(lr=1)", 0.5);
    make_work();
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
        psd_shard_pending(shard, p)->scale = 0.25f;
    psd_update_begin(&update, 8, false, false);
    cr_expect(psd_update_is_step(&update));
    run_pass();
    cr_expect_eq(psd_shard_pending(shard, 0)->clipped, 0.25f);
    cr_expect_eq(((const float *)psd_shard_weights(shard, 0)->data)[1], g[1] - 0.25f * g[1]);
}

Test(update, a_shard_without_chunks_is_over_at_once, .fini = teardown)
{
    cr_assert_eq(psd_rule_parse(&rule, "lamb", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ 5 }, 1, 2, 1, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &bounds, &(psd_codings_t){ 0 }, &map, 1, NULL));
    cr_assert(psd_update_init(&update, shard, 1));
    psd_update_begin(&update, 8, true, false);
    cr_expect(psd_update_pass_is_over(&update) && update.measured);
    cr_assert(psd_update_settle(&update, 0, (double[]){ 1, 1 }, 2));
    cr_expect(psd_update_pass_is_over(&update) && !update.open);
}
