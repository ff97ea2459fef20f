#include <criterion/criterion.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "common/base/rng.h"
#include "common/optim/whole.h"
#include "proto/message.h"
#include "server/core/shard.h"
#include "proto/actions.h"
#include "proto/coded.h"
#include "tests/support/alone.h"

TestSuite(shard, .timeout = 600);

enum { N = 20000, SERVERS = 2 };

static psd_partition_t map;
static psd_rule_t rule;
static psd_clip_t clip;
static psd_shard_t *shard;
static float weights[N];

static void setup_rule(const char *spec)
{
    uint64_t stream = 3;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ N }, 1, SERVERS, 1, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &clip, &(psd_codings_t){ 0 }, &map, 0, NULL));
    for (size_t i = 0; i < N; i++)
        weights[i] = (float)psd_uniform(&stream) - 0.5f;
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
        psd_shard_set(shard, p, weights + map.chunk[map.held[0][p]].offset);
}

static void setup(void) { setup_rule("lookahead(adam(lr=0.01), k=2)"); }

static void teardown(void)
{
    psd_shard_destroy(&shard);
    psd_partition_clear(&map);
}

/* Gradients of `k` workers for step `t`, of the whole tensor. */
static void gradients(float g[][N], size_t k, uint64_t t)
{
    uint64_t stream = 1000 * t;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < N; j++)
            g[i][j] = (float)psd_uniform(&stream) - 0.5f;
}

static psd_work_t *make_work(uint32_t part, float g[][N], uint32_t k)
{
    static const double share[] = { 0.25, 0.5, 0.25 };
    const psd_chunk_t *c = &map.chunk[map.held[0][part]];
    psd_work_t *work = psd_shard_work(shard, part, k);
    work->lr[0] = psd_rule_lr(&rule);
    work->n_gradients = k;
    for (uint32_t i = 0; i < k; i++) {
        work->gradient[i] = psd_buf_borrow(g[i] + c->offset, c->n * sizeof(float));
        work->weight[i] = k == 1 ? 1 : share[i];
    }
    return work;
}

static float g3[3][N];

static void reference(float *w, float *const *slot, uint64_t steps)
{
    psd_rule_state_t state;
    memcpy(w, weights, sizeof weights);
    psd_rule_init(&rule, &state, w, slot, N);
    for (uint64_t t = 1; t <= steps; t++) {
        gradients(g3, 3, t);
        const psd_whole_t whole = {
            .n = N, .w = w, .slot = slot, .state = &state, .gradient = (const float *const[]){ g3[0], g3[1], g3[2] }
        };
        psd_whole_step(alone(&rule), &clip, &whole, 1, (double[]){ 0.25, 0.5, 0.25 }, 3, 0, &(const double){ psd_rule_lr(&rule) });
    }
}

static float w_ref[N], slots[PSD_MAX_SLOTS][N];

static void expect_reference(uint64_t steps)
{
    float *slot[PSD_MAX_SLOTS];
    for (int i = 0; i < PSD_MAX_SLOTS; i++)
        slot[i] = slots[i];
    reference(w_ref, slot, steps);
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
        const psd_chunk_t *c = &map.chunk[map.held[0][p]];
        cr_assert_arr_eq(psd_shard_weights(shard, p)->data, w_ref + c->offset, c->n * sizeof(float), "chunk %u", p);
        psd_buf_t *slow = psd_shard_slow(shard, p);
        cr_assert_arr_eq(slow->data, slot[rule.slow_slot] + c->offset, c->n * sizeof(float), "slow chunk %u", p);
        psd_buf_unref(&slow);
    }
}

Test(shard, chunks_step_to_the_bits_of_the_whole_tensor, .init = setup, .fini = teardown)
{
    for (uint64_t t = 1; t <= 5; t++) {
        gradients(g3, 3, t);
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
            psd_work_run(make_work(p, g3, 3));
    }
    expect_reference(5);
}

/* The norm of a difference; y NULL: of x. */
static double distance(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)x[i] - (y ? (double)y[i] : 0)) * ((double)x[i] - (y ? (double)y[i] : 0));
    return sqrt(sum);
}

Test(shard, a_step_that_looks_makes_the_same_weights_and_says_what_it_did_to_each_chunk, .init = setup, .fini = teardown)
{
    static double look[64 * PSD_LOOK_TERMS];
    static float before[N];
    for (uint64_t t = 1; t <= 5; t++) {
        gradients(g3, 3, t);
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
            const psd_chunk_t *c = &map.chunk[map.held[0][p]];
            psd_work_t *work = make_work(p, g3, 3);
            double *at = work->look = look + p * PSD_LOOK_TERMS;
            const float *after;
            memcpy(before, psd_shard_weights(shard, p)->data, c->n * sizeof *before);
            psd_work_run(work);
            after = psd_shard_weights(shard, p)->data;
            cr_assert_eq(at[PSD_LOOK_N], c->n);
            cr_assert_float_eq(sqrt(at[PSD_LOOK_WEIGHT2]), distance(before, NULL, c->n), 1e-9);
            cr_assert_float_eq(sqrt(at[PSD_LOOK_UPDATE2]), distance(before, after, c->n), 1e-9);
            cr_assert_eq(at[PSD_LOOK_RATE], work->lr[0]);
            double sum = 0;
            for (size_t i = c->offset; i < c->offset + c->n; i++) {
                const double g = 0.25 * (double)g3[0][i] + 0.5 * (double)g3[1][i] + 0.25 * (double)g3[2][i];
                sum += g * g;
            }
            cr_assert_float_eq(at[PSD_LOOK_GRADIENT2], sum, 1e-4 * sum);
        }
    }
    expect_reference(5);
    psd_work_t *none = make_work(0, g3, 0);
    none->look = look;
    psd_work_run(none);
    cr_expect_eq(look[PSD_LOOK_N], 0, "without a gradient, nothing of the previous step is left");
}

/* 0.3 is the bound, and the gradients lie between -0.5 and 0.5. */
Test(shard, a_look_counts_the_gradients_that_reach_the_bound_after_clipping, .fini = teardown)
{
    double look[PSD_LOOK_TERMS];
    uint32_t want = 0;
    clip = (psd_clip_t){ .value = (double)0.3f };
    setup_rule("sgd(lr=0.01)");
    gradients(g3, 1, 1);
    psd_work_t *work = make_work(0, g3, 1);
    const psd_chunk_t *c = &map.chunk[map.held[0][0]];
    for (size_t i = c->offset; i < c->offset + c->n; i++)
        want += fabsf(g3[0][i]) >= 0.3f;
    work->scale = 0.7f; /* by clip.norm */
    work->look = look;
    psd_work_run(work);
    cr_expect(want > 0 && want < c->n);
    cr_expect_eq(look[PSD_LOOK_REACHED], want);
    cr_expect_lt(look[PSD_LOOK_GRADIENT2], 0.21 * 0.21 * c->n * 1.0001);
}

static void run_one(void *work) { psd_work_run(work); }

Test(shard, chunks_stepped_by_threads_side_by_side_give_the_same_bits, .init = setup, .fini = teardown)
{
    for (uint64_t t = 1; t <= 5; t++) {
        uv_thread_t thread[64];
        uint32_t n = psd_shard_parts(shard);
        gradients(g3, 3, t);
        for (uint32_t p = 0; p < n; p++)
            uv_thread_create(&thread[p], run_one, make_work(p, g3, 3));
        for (uint32_t p = 0; p < n; p++)
            uv_thread_join(&thread[p]);
    }
    expect_reference(5);
}

Test(shard, weights_that_are_still_being_sent_do_not_change, .init = setup, .fini = teardown)
{
    psd_buf_t *in_flight = psd_buf_ref(psd_shard_weights(shard, 0));
    size_t n = psd_shard_elements(shard, 0);
    float before = ((float *)in_flight->data)[n - 1];
    gradients(g3, 1, 1);
    psd_work_run(make_work(0, g3, 1));
    cr_assert_eq(((float *)in_flight->data)[n - 1], before);
    cr_assert_neq(((float *)psd_shard_weights(shard, 0)->data)[n - 1], before);
    psd_buf_unref(&in_flight);
}

Test(shard, a_chunk_without_gradients_and_its_counters_do_not_change, .init = setup, .fini = teardown)
{
    psd_work_run(make_work(0, g3, 0));
    cr_assert_eq(psd_shard_sync_epoch(shard), 0);
    cr_assert_arr_eq(psd_shard_weights(shard, 0)->data, weights + map.chunk[map.held[0][0]].offset, 4 * sizeof(float));
    /* Two steps sync a lookahead of k = 2: the empty work has not counted. */
    gradients(g3, 1, 1);
    psd_work_run(make_work(0, g3, 1));
    cr_assert_eq(psd_shard_sync_epoch(shard), 0);
    psd_work_run(make_work(0, g3, 1));
    cr_assert_eq(psd_shard_sync_epoch(shard), 1);
}

Test(shard, the_checksum_that_a_step_makes_is_that_of_the_new_weights, .init = setup, .fini = teardown)
{
    gradients(g3, 1, 1);
    psd_work_t *work = make_work(0, g3, 1);
    work->sums = true;
    psd_work_run(work);
    psd_buf_t *w = psd_shard_weights(shard, 0);
    cr_expect_neq(atomic_load(&w->sum), 0, "it is known before it is asked for");
    cr_expect_eq(psd_buf_checksum(psd_shard_sent(shard, 0).payload), psd_crc32c(w->data, w->n_bytes));
    gradients(g3, 1, 1);
    psd_work_run(make_work(0, g3, 1));
    w = psd_shard_weights(shard, 0);
    cr_expect_eq(atomic_load(&w->sum), 0, "a step that need not compute the checksum has not done so");
    cr_expect_eq(psd_buf_checksum(w), psd_crc32c(w->data, w->n_bytes));
}

static void setup_sgd(void) { setup_rule("sgd(lr=1)"); }

Test(shard, a_clipped_step_scales_the_summed_gradient, .init = setup_sgd, .fini = teardown)
{
    for (size_t i = 0; i < N; i++)
        g3[0][i] = 1;
    psd_work_t *work = make_work(0, g3, 1);
    work->scale = 0.25f;
    psd_work_run(work);
    /* w - 1 * (0.25 * 1) */
    cr_assert_eq(((float *)psd_shard_weights(shard, 0)->data)[0], weights[map.chunk[map.held[0][0]].offset] - 0.25f);
}

/* ---- parts of several chunks ---- */

static psd_codings_t codings;     /* of the shard */
static psd_coding_t been_through; /* the coding that gradients went through before */

/* Steps of two workers on a model of three tensors, cut into parts of at most `most` elements; the second has no gradient of tensor
 * 1, and neither has one of tensor 2. Returns the checksum of all weights, chunk after chunk. */
static uint32_t train_in_parts(const char *spec, uint32_t most)
{
    enum { A = 3000, B = 40, C = 500, ALL = A + B + C };
    static float w[ALL], g[2][ALL];
    const size_t from[] = { 0, A, A + B };
    uint64_t stream = 3;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ A, B, C }, 3, 1, most, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &clip, &codings, &map, 0, NULL));
    for (size_t i = 0; i < ALL; i++) {
        w[i] = (float)psd_uniform(&stream);
        g[0][i] = (float)psd_uniform(&stream) - 0.5f;
        g[1][i] = (float)psd_uniform(&stream) - 0.5f;
    }
    for (uint32_t k = 0; k < 2; k++)
        psd_whole_code(&been_through, (uint64_t[]){ A, B, C }, 3, (float *[]){ g[k], g[k] + A, g[k] + A + B }, NULL);
    for (uint32_t p = 0; p < map.n_parts[0]; p++) {
        psd_buf_t *values = psd_buf_new(map.part[0][p].n * sizeof(float));
        for (uint32_t i = 0; i < map.part[0][p].n_chunks; i++) {
            const psd_chunk_t *c = psd_partition_at(&map, 0, p, i);
            memcpy((float *)values->data + c->at, w + from[c->tensor] + c->offset, c->n * sizeof(float));
        }
        psd_shard_set(shard, p, values->data);
        psd_buf_unref(&values);
    }
    for (int t = 0; t < 3; t++)
        for (uint32_t p = 0; p < map.n_parts[0]; p++) {
            const psd_part_t *part = &map.part[0][p];
            psd_work_t *work = psd_shard_work(shard, p, 2);
            work->lr[0] = psd_rule_lr(&rule);
            for (uint32_t k = 0; k < 2; k++) {
                const size_t n_codes = psd_coded_bytes(&codings.push, &map, 0, p);
                psd_buf_t *payload = psd_buf_new(n_codes + psd_bitmap_bytes(part->n_chunks));
                uint8_t *map_of = (uint8_t *)payload->data + n_codes, *code = payload->data;
                memset(map_of, 0, psd_bitmap_bytes(part->n_chunks));
                for (uint32_t i = 0; i < part->n_chunks; i++) {
                    const psd_chunk_t *c = psd_partition_at(&map, 0, p, i);
                    psd_coding_encode(&codings.push, g[k] + from[c->tensor] + c->offset, NULL, c->n, code);
                    code += psd_coding_bytes(&codings.push, c->n);
                    if (c->tensor < 2 - k)
                        psd_bitmap_set(map_of, i);
                }
                work->weight[work->n_gradients] = 0.5;
                work->gradient[work->n_gradients++] = payload;
            }
            work->pass = psd_shard_passes(shard)->n;
            psd_work_run(work);
            const psd_shard_sent_t sent = psd_shard_sent(shard, p);
            cr_expect_eq(psd_buf_checksum(sent.payload), psd_crc32c(sent.payload->data, sent.payload->n_bytes));
            cr_expect_eq(sent.codec, psd_coding_number(&codings.pull));
            cr_expect(sent.codec != PSD_CODEC_F32 || sent.payload == psd_shard_weights(shard, p));
        }
    uint32_t crc = 0;
    for (uint32_t i = 0; i < map.n_held[0]; i++) {
        const psd_shard_state_t state = psd_shard_state(shard, i);
        crc = psd_crc32c_extend(crc, state.w, map.chunk[i].n * sizeof(float));
        if (map.chunk[i].tensor == 2)
            cr_expect(!memcmp(state.w, w + from[2] + map.chunk[i].offset, map.chunk[i].n * sizeof(float)),
                      "no worker has a gradient");
    }
    teardown();
    return crc;
}

Test(shard, parts_of_any_size_make_the_same_weights)
{
    static const char *const specs[] = { "sgd(lr=0.1)", "lookahead(adam(lr=0.01), k=2)" };
    for (size_t i = 0; i < 2; i++) {
        const uint32_t crc = train_in_parts(specs[i], 1);
        cr_expect_eq(train_in_parts(specs[i], 2100), crc);
        cr_expect_eq(train_in_parts(specs[i], PSD_MOST_OF_PART), crc);
    }
}

/* Three steps of a 60 x 50 matrix, a vector, and a matrix without a gradient, in parts of at most `most` elements, with the work of
 * passes in any order, compared with the step of one process. */
static void step_whole(const char *spec, uint32_t most)
{
    enum { A = 3000, B = 40, C = 600, ALL = A + B + C };
    static float w[ALL], before[ALL], g[ALL], arrays[PSD_MAX_SLOTS][ALL];
    static double look[16 * PSD_LOOK_TERMS];
    static const size_t from[] = { 0, A, A + B }, size[] = { A, B, C };
    psd_extent_t extent[] = { { A, { 2, 1, 60, 50 }, true }, { B, { .n_dims = 1 }, true }, { C, { 2, 1, 10, 60 }, true } };
    psd_whole_t whole[3];
    psd_rule_state_t state[3];
    float *slot[3][PSD_MAX_SLOTS];
    const float *gradient[3] = { g, g + A, NULL };
    uint64_t stream = 3;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    cr_assert_eq(psd_partition_cut(&map, extent, 3, 1, most, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &(psd_clip_t){ .norm = 0 }, &(psd_codings_t){ 0 }, &map, 0, NULL));
    memset(arrays, 0, sizeof arrays);
    for (size_t i = 0; i < ALL; i++)
        w[i] = (float)psd_uniform(&stream);
    for (size_t t = 0; t < 3; t++) {
        for (int s = 0; s < PSD_MAX_SLOTS; s++)
            slot[t][s] = arrays[s] + from[t];
        psd_rule_begin(&rule, &state[t], &extent[t], 0, w + from[t], slot[t], size[t]);
        whole[t] = (psd_whole_t){ size[t], 0, w + from[t], slot[t], &state[t], &gradient[t], extent[t].shape };
    }
    for (uint32_t p = 0; p < map.n_parts[0]; p++) {
        float *values = malloc(map.part[0][p].n * sizeof *values);
        for (uint32_t i = 0; i < map.part[0][p].n_chunks; i++) {
            const psd_chunk_t *c = psd_partition_at(&map, 0, p, i);
            memcpy(values + c->at, w + from[c->tensor] + c->offset, c->n * sizeof *w);
        }
        psd_shard_set(shard, p, values);
        free(values);
    }
    for (int t = 0; t < 3; t++) {
        for (size_t i = 0; i < ALL; i++)
            g[i] = (float)psd_uniform(&stream) - 0.5f;
        for (uint32_t p = 0; p < map.n_parts[0]; p++) {
            const psd_part_t *part = &map.part[0][p];
            psd_work_t *work = psd_shard_work(shard, p, 1);
            psd_buf_t *payload = psd_buf_new(part->n * sizeof(float) + psd_bitmap_bytes(part->n_chunks));
            uint8_t *has = (uint8_t *)payload->data + part->n * sizeof(float);
            memset(payload->data, 0, payload->n_bytes);
            for (uint32_t i = 0; i < part->n_chunks; i++) {
                const psd_chunk_t *c = psd_partition_at(&map, 0, p, i);
                memcpy((float *)payload->data + c->at, g + from[c->tensor] + c->offset, c->n * sizeof *g);
                if (c->tensor < 2)
                    psd_bitmap_set(has, i);
            }
            work->lr[0] = psd_rule_lr(&rule);
            work->weight[0] = 1;
            work->gradient[work->n_gradients++] = payload;
        }
        cr_assert_eq(psd_shard_passes(shard)->n, 1);
        for (int pass = 0; pass < 2; pass++)
            for (uint32_t i = map.n_parts[0]; i-- > 0;) {
                psd_work_t *work = psd_shard_pending(shard, t % 2 ? i : map.n_parts[0] - 1 - i);
                double none;
                work->pass = pass;
                work->sum = &none;
                work->look = pass && t == 2 ? look + psd_shard_first(shard, work->part) * PSD_LOOK_TERMS : NULL;
                psd_work_run(work);
            }
        memcpy(before, w, sizeof before);
        psd_whole_step(alone(&rule), &(psd_clip_t){ .norm = 0 }, whole, 3, (double[]){ 1 }, 1, 0, (double[]){ psd_rule_lr(&rule) });
    }
    for (uint32_t i = 0; i < map.n_held[0]; i++) { /* the measurements of the last step */
        const psd_chunk_t *c = &map.chunk[i];
        const size_t at = from[c->tensor] + c->offset;
        const double *of = look + i * PSD_LOOK_TERMS;
        cr_expect_eq(of[PSD_LOOK_N], c->tensor < 2 ? c->n : 0);
        cr_expect_float_eq(sqrt(of[PSD_LOOK_UPDATE2]), c->tensor < 2 ? distance(w + at, before + at, c->n) : 0, 1e-9, "%s", spec);
        cr_expect_float_eq(sqrt(of[PSD_LOOK_GRADIENT2]), c->tensor < 2 ? distance(g + at, NULL, c->n) : 0, 1e-9, "%s", spec);
    }
    for (uint32_t i = 0; i < map.n_held[0]; i++) {
        const psd_chunk_t *c = &map.chunk[i];
        const psd_shard_state_t got = psd_shard_state(shard, i);
        cr_expect_arr_eq(got.w, w + from[c->tensor] + c->offset, c->n * sizeof *w, "%s, chunk %u", spec, i);
        cr_expect_eq(got.state->t, c->tensor < 2 ? 3 : 0);
        for (int s = 0; s < rule.n_slots; s++)
            cr_expect_arr_eq(got.slot[s], slot[c->tensor][s] + c->offset,
                             psd_rule_slot_elements(&rule, s, &extent[c->tensor], c->offset, c->n) * sizeof *w, "%s, slot %d", spec,
                             s);
    }
    teardown();
}

Test(shard, a_whole_tensor_in_parts_of_any_size_steps_as_in_one_process)
{
    static const char *const specs[] = { "adafactor", "lookahead(adafactor(lr=0.1, weight_decay=0.1), k=2)", "muon",
                                         "lookahead(muon(weight_decay=0.1), k=2, pullback=pullback)" };
    for (size_t i = 0; i < 4; i++) {
        step_whole(specs[i], 1);
        step_whole(specs[i], 2100);
        step_whole(specs[i], PSD_MOST_OF_PART);
    }
}

Test(shard, gradients_in_a_code_step_like_the_floats_that_come_out_of_it)
{
    static const char *const codecs[] = { "bf16", "int8", "topk(0.05)", "sign" };
    static const char *const specs[] = { "lookahead(adam(lr=0.01), k=2)", "lamb(lr=0.01)" }; /* in one pass, and in several */
    for (size_t i = 0; i < 8; i++) {
        psd_coding_t coding;
        cr_assert_eq(psd_coding_parse(&coding, codecs[i % 4], NULL), PSD_OK);
        codings = (psd_codings_t){ 0 };
        been_through = coding;
        const uint32_t crc = train_in_parts(specs[i / 4], PSD_MOST_OF_PART);
        codings.push = coding;
        been_through = (psd_coding_t){ 0 };
        cr_expect_eq(train_in_parts(specs[i / 4], PSD_MOST_OF_PART), crc, "%s", codecs[i % 4]);
        cr_expect_eq(train_in_parts(specs[i / 4], 1), crc, "%s", codecs[i % 4]);
        codings.pull = (psd_coding_t){ psd_codec_find("int8"), 0 };
        cr_expect_eq(train_in_parts(specs[i / 4], 2100), crc, "how weights leave does not change them");
        codings = (psd_codings_t){ 0 };
    }
}

Test(shard, weights_leave_in_their_code_as_soon_as_there_are_some)
{
    float back[4];
    codings.pull = (psd_coding_t){ psd_codec_find("bf16"), 0 };
    cr_assert_eq(psd_rule_parse(&rule, "sgd(lr=1)", NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ 4 }, 1, 1, 1, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(alone(&rule), NULL, &clip, &codings, &map, 0, NULL));
    /* 1 + 2^-8 is halfway between 1 and 1 + 2^-7, and is rounded to the even one. */
    psd_shard_set(shard, 0, (float[]){ 1, 1.00390625f, -2, 0 });
    psd_shard_sent_t sent = psd_shard_sent(shard, 0);
    cr_assert_eq(sent.codec, psd_coding_number(&codings.pull));
    cr_assert_eq(sent.payload->n_bytes, 8);
    psd_coding_decode(&codings.pull, sent.payload->data, 4, 0, 4, back);
    cr_expect_arr_eq(back, ((float[]){ 1, 1, -2, 0 }), sizeof back);
    cr_expect_eq(((float *)psd_shard_weights(shard, 0)->data)[1], 1.00390625f, "the trained weights keep all bits");
    psd_shard_set(shard, 0, (float[]){ 1, INFINITY, -2, 0 });
    sent = psd_shard_sent(shard, 0);
    cr_expect_eq(sent.codec, PSD_CODEC_F32, "weights that have diverged are sent unchanged");
    cr_expect_eq(sent.payload, psd_shard_weights(shard, 0));
    teardown();
}

/* Steps of three gradients, the first `n_early` of which are summed up early, one by one. */
static void step_folding(uint64_t steps, uint32_t n_early)
{
    for (uint64_t t = 1; t <= steps; t++) {
        gradients(g3, 3, t);
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
            cr_assert(psd_shard_make_sums(shard));
            for (uint32_t k = 0; k < n_early; k++) {
                psd_work_t *fold = make_work(p, g3 + k, 1);
                fold->weight[0] = k == 1 ? 0.5 : 0.25;
                fold->folds = true;
                psd_work_run(fold);
                cr_expect_eq(fold->n_gradients, 0, "its payload is let go");
            }
            psd_work_t *work = make_work(p, g3, 3);
            work->onto = true;
            for (uint32_t k = 0; k < n_early; k++)
                psd_buf_unref(&work->gradient[k]);
            for (uint32_t k = n_early; k < 3; k++) {
                work->gradient[k - n_early] = work->gradient[k];
                work->weight[k - n_early] = work->weight[k];
            }
            work->n_gradients = 3 - n_early;
            psd_work_run(work);
        }
    }
}

Test(shard, contributions_that_are_added_up_early_give_the_same_bits, .init = setup, .fini = teardown)
{
    static float w[N], slots[PSD_MAX_SLOTS][N];
    float *slot[PSD_MAX_SLOTS];
    for (int i = 0; i < PSD_MAX_SLOTS; i++)
        slot[i] = slots[i];
    reference(w, slot, 4);
    for (uint32_t n_early = 0; n_early <= 3; n_early++) {
        teardown();
        setup();
        step_folding(4, n_early);
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
            const psd_chunk_t *c = &map.chunk[map.held[0][p]];
            cr_expect_arr_eq(psd_shard_weights(shard, p)->data, w + c->offset, c->n * sizeof *w, "%u early", n_early);
        }
    }
}

Test(shard, sums_that_are_forgotten_are_in_no_step, .init = setup, .fini = teardown)
{
    static float w[N], slots[PSD_MAX_SLOTS][N];
    float *slot[PSD_MAX_SLOTS];
    for (int i = 0; i < PSD_MAX_SLOTS; i++)
        slot[i] = slots[i];
    reference(w, slot, 2);
    cr_assert(psd_shard_make_sums(shard));
    gradients(g3, 3, 9);
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
        psd_work_t *fold = make_work(p, g3, 1);
        fold->folds = true;
        psd_work_run(fold);
    }
    psd_shard_forget_sums(shard);
    step_folding(2, 1);
    for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
        const psd_chunk_t *c = &map.chunk[map.held[0][p]];
        cr_expect_arr_eq(psd_shard_weights(shard, p)->data, w + c->offset, c->n * sizeof *w);
    }
}

/* ---- steps that are made ahead ---- */

enum { TENSORS = 4 };

/* Two shards of the same four tensors, in parts of several chunks: the first makes each step as ever, the second some ahead. */
static struct pair {
    psd_groups_t groups;
    uint8_t group_of[TENSORS];
    psd_shard_t *shard[2];
    struct {
        psd_buf_t *buf;
        uint32_t crc;
    } flying[8192]; /* sends in flight: buffers, and what they held when they were sent */
    size_t n_flying;
} pair;

static void begin_pair(const char *spec, const char *groups, uint64_t scale)
{
    const uint64_t sizes[TENSORS] = { 3000 * scale, 40, 500 * scale, 1500 * scale };
    uint64_t stream = 3;
    cr_assert_eq(psd_groups_parse(&pair.groups, spec, groups, NULL), PSD_OK, "%s, %s", spec, groups);
    cr_assert_eq(psd_partition_make(&map, sizes, TENSORS, 1, scale > 1 ? 20000 : 2100, NULL), PSD_OK);
    for (uint32_t i = 0; i < TENSORS; i++)
        pair.group_of[i] = psd_groups_of(&pair.groups, (const char *const[]){ "a", "b", "c", "d" }[i], &map.tensor[i].shape);
    for (int i = 0; i < 2; i++)
        cr_assert_not_null(pair.shard[i] = psd_shard_new(&pair.groups, pair.group_of, &clip, &codings, &map, 0, NULL));
    for (uint32_t p = 0; p < map.n_parts[0]; p++) {
        float *values = malloc(map.part[0][p].n * sizeof *values);
        for (uint32_t i = 0; i < map.part[0][p].n; i++)
            values[i] = (float)psd_uniform(&stream) - 0.5f;
        psd_shard_set(pair.shard[0], p, values);
        psd_shard_set(pair.shard[1], p, values);
        free(values);
    }
}

static void fly(psd_buf_t *buf)
{
    cr_assert_lt(pair.n_flying, 8192);
    pair.flying[pair.n_flying].crc = psd_crc32c(buf->data, buf->n_bytes);
    pair.flying[pair.n_flying++].buf = psd_buf_ref(buf);
}

static void end_pair(void)
{
    for (size_t i = 0; i < pair.n_flying; i++) {
        psd_buf_t *buf = pair.flying[i].buf;
        cr_expect_eq(psd_crc32c(buf->data, buf->n_bytes), pair.flying[i].crc, "what is sent does not change, number %zu", i);
        psd_buf_unref(&buf);
    }
    pair.n_flying = 0;
    psd_shard_destroy(&pair.shard[0]);
    psd_shard_destroy(&pair.shard[1]);
    psd_partition_clear(&map);
}

/* Worker k's gradients of a part in step t: at times it has none of a tensor, and neither has the other. */
static psd_buf_t *gradients_of(uint32_t p, uint64_t t, uint32_t k)
{
    const psd_part_t *part = &map.part[0][p];
    const size_t n_codes = psd_coded_bytes(&codings.push, &map, 0, p);
    psd_buf_t *payload = psd_buf_new(n_codes + psd_bitmap_bytes(part->n_chunks));
    uint8_t *has = (uint8_t *)payload->data + n_codes, *code = payload->data;
    uint64_t stream = 1000 * t + 10 * p + k;
    memset(has, 0, psd_bitmap_bytes(part->n_chunks));
    for (uint32_t i = 0; i < part->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&map, 0, p, i);
        float *g = malloc(c->n * sizeof *g);
        for (uint32_t j = 0; j < c->n; j++)
            g[j] = (float)psd_uniform(&stream) - 0.5f;
        psd_coding_encode(&codings.push, g, NULL, c->n, code);
        code += psd_coding_bytes(&codings.push, c->n);
        if ((c->tensor != 1 || !k) && (c->tensor != 2 || t % 2))
            psd_bitmap_set(has, i);
        free(g);
    }
    return payload;
}

static psd_work_t *work_of(int which, uint32_t p, uint64_t t, bool ahead)
{
    psd_work_t *work = psd_shard_work(pair.shard[which], p, 2);
    for (uint32_t g = 0; g < pair.groups.n; g++)
        work->lr[g] = 0.01 * (g + 1);
    work->momentum = t % 3 ? NAN : 0.5;
    work->sums = t % 2;
    work->ahead = ahead;
    for (uint32_t k = 0; k < 2; k++) {
        work->weight[k] = k ? 0.75 : 0.25;
        work->gradient[k] = gradients_of(p, t, k);
    }
    work->n_gradients = 2;
    return work;
}

/* A number that changes with anything that can be seen of a part. */
static uint32_t sight_of(int which, uint32_t p)
{
    psd_shard_t *of = pair.shard[which];
    const psd_shard_sent_t sent = psd_shard_sent(of, p);
    psd_buf_t *slow = psd_shard_slow(of, p);
    uint32_t crc = psd_crc32c_extend(sent.codec, sent.payload->data, sent.payload->n_bytes);
    cr_expect_eq(psd_buf_checksum(sent.payload), psd_crc32c(sent.payload->data, sent.payload->n_bytes));
    crc = psd_crc32c_extend(crc, slow->data, slow->n_bytes);
    psd_buf_unref(&slow);
    for (uint32_t i = 0; i < map.part[0][p].n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&map, 0, p, i);
        const psd_shard_state_t state = psd_shard_state(of, psd_shard_first(of, p) + i);
        crc = psd_crc32c_extend(crc, state.w, c->n * sizeof(float));
        crc = psd_crc32c_extend(crc, state.state, sizeof *state.state);
        for (int s = 0; s < pair.groups.at[pair.group_of[c->tensor]].rule.n_slots; s++)
            crc = psd_crc32c_extend(crc, state.slot[s], c->n * sizeof(float));
    }
    return psd_crc32c_extend(crc, &(uint64_t){ psd_shard_sync_epoch(of) }, sizeof(uint64_t));
}

/* Step a part of the second shard ahead: nothing that can be seen of it changes, nor anything that is being sent. */
static void go_ahead(uint32_t p, uint64_t t, bool flies)
{
    const uint32_t before = sight_of(1, p);
    const psd_buf_t *payload = psd_shard_sent(pair.shard[1], p).payload;
    psd_work_t *work = work_of(1, p, t, true);
    psd_work_run(work);
    cr_expect_eq(work->n_gradients, 0, "the gradients are let go");
    cr_expect_eq(sight_of(1, p), before);
    cr_expect_eq(psd_shard_sent(pair.shard[1], p).payload, payload);
    if (flies)
        fly(psd_shard_ahead(pair.shard[1], p).payload);
}

/* False: this rule makes no steps ahead. */
static bool compare_pair(const char *spec, const char *groups, uint64_t scale)
{
    enum { STEPS = 8 };
    begin_pair(spec, groups, scale);
    const bool steps_ahead = psd_shard_make_spare(pair.shard[1]);
    for (uint64_t t = 1; steps_ahead && t <= STEPS; t++)
        for (uint32_t p = 0; p < map.n_parts[0]; p++) {
            const uint64_t draw = 5 * t + 3 * p, kind = t == 1 ? 1 : draw % 5;
            for (uint32_t i = 0; i < 2; i++)
                if ((draw + i) % 3) /* only then the step copies */
                    fly(psd_shard_sent(pair.shard[i], p).payload);
            psd_work_run(work_of(0, p, t, false));
            if (kind >= 2) /* in vain, at times twice */
                go_ahead(p, t + 100, draw % 2);
            if (kind == 4)
                go_ahead(p, t + 200, false);
            if (kind % 2) {
                go_ahead(p, t, draw % 4);
                const psd_shard_sent_t sent = psd_shard_ahead(pair.shard[1], p);
                psd_shard_adopt(pair.shard[1], p);
                cr_expect_eq(psd_shard_sent(pair.shard[1], p).payload, sent.payload, "it has left");
                cr_expect_eq(psd_shard_sent(pair.shard[1], p).codec, sent.codec);
            } else {
                psd_work_run(work_of(1, p, t, false));
            }
            cr_assert_eq(sight_of(1, p), sight_of(0, p), "%s, %s: part %u in step %" PRIu64, spec, groups, p, t);
        }
    end_pair();
    return steps_ahead;
}

Test(shard, a_step_made_ahead_counts_when_it_is_adopted_and_then_it_is_the_same_to_the_bit)
{
    const psd_optimizer_t *opt;
    size_t n_ahead = 0;
    for (size_t i = 0; (opt = psd_optimizer_at(i)); i++) {
        char looking_back[96];
        snprintf(looking_back, sizeof looking_back, "lookahead(%s, k=2, pullback=%s)", opt->name, i % 2 ? "reset" : "pullback");
        clip.value = i % 3 ? 0 : 0.3;
        const bool steps_ahead = compare_pair(opt->name, "", 1);
        cr_expect_eq(steps_ahead, !opt->n_sums && !opt->whole, "%s", opt->name);
        if (psd_rule_parse(&rule, looking_back, NULL) == PSD_OK) /* not all rules can be wrapped */
            cr_expect_eq(compare_pair(looking_back, "", 1), steps_ahead, "%s", looking_back);
        n_ahead += steps_ahead;
    }
    cr_expect_geq(n_ahead, 10);
    clip.value = 0;
    compare_pair("lookahead(adam, k=2)", "", 250);
    compare_pair("momentum", "", 250);
    cr_expect(compare_pair("adam", "a(freeze=1); b(lr_mult=0.5, clip=0); c(optimizer=lookahead(nadam, k=2))", 1));
    cr_expect(compare_pair("lookahead(momentum, k=2)", "d(freeze=1); a(optimizer=lion); b(lookahead=0)", 1));
}

Test(shard, steps_made_ahead_are_the_same_to_the_bit_in_any_code)
{
    static const char *const codecs[] = { "f32", "bf16", "int8", "sign", "topk(0.1)" };
    for (size_t i = 0; i < 15; i++) {
        cr_assert_eq(psd_coding_parse(&codings.push, codecs[i % 5], NULL), PSD_OK);
        cr_assert_eq(psd_coding_parse(&codings.pull, codecs[i / 5], NULL), PSD_OK);
        cr_expect(compare_pair(i % 2 ? "lookahead(adam, k=2)" : "momentum", "", 1));
    }
    codings = (psd_codings_t){ 0 };
}

Test(shard, rules_that_measure_the_whole_before_a_step_make_none_ahead)
{
    static const char *const specs[] = { "lamb", "lookahead(adafactor, k=2)", "muon", "cautious(adamw)" };
    for (size_t i = 0; i < 4; i++)
        cr_expect_not(compare_pair(specs[i], "", 1), "%s", specs[i]);
    cr_expect_not(compare_pair("sgd", "b(optimizer=lars)", 1));
    clip.norm = 1;
    cr_expect_not(compare_pair("sgd", "", 1));
    clip.norm = 0;
}

/* ---- the state of another job ---- */

/* Take the shard's whole state, chunk by chunk, into arrays of its tensor: weights, then slots. */
static void take_state(float all[1 + PSD_MAX_SLOTS][N], psd_rule_state_t *state)
{
    for (uint32_t i = 0; i < psd_shard_chunks(shard); i++) {
        const psd_chunk_t *c = &map.chunk[map.held[0][i]];
        const psd_shard_state_t view = psd_shard_state(shard, i);
        memcpy(all[0] + c->offset, view.w, c->n * sizeof(float));
        for (int s = 0; s < rule.n_slots; s++)
            memcpy(all[1 + s] + c->offset, view.slot[s], c->n * sizeof(float));
        *state = *view.state;
    }
}

static void begin_with(float all[1 + PSD_MAX_SLOTS][N])
{
    for (uint32_t array = 0; array < psd_shard_initial_arrays(shard); array++)
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++) {
            cr_assert_eq(psd_shard_initial_elements(shard, array, p), psd_shard_elements(shard, p));
            psd_shard_set_array(shard, array, p, all[array] + map.chunk[map.held[0][p]].offset);
        }
}

Test(shard, a_job_continues_from_anothers_state_as_that_job_would_have, .fini = teardown)
{
    static float state[1 + PSD_MAX_SLOTS][N], uninterrupted[1 + PSD_MAX_SLOTS][N], continued[1 + PSD_MAX_SLOTS][N], g[2][N];
    psd_rule_state_t then, end, resumed;
    setup_rule("lookahead(nadam(lr=0.01), k=3)");
    for (uint64_t t = 1; t <= 9; t++) {
        gradients(g, 2, t);
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
            psd_work_run(make_work(p, g, 2));
        if (t == 4)
            take_state(state, &then);
    }
    take_state(uninterrupted, &end);
    teardown();
    setup_rule("lookahead(nadam(lr=0.01), k=3)");
    const psd_inherited_t inherited = { .t = then.t, .arrays = 7, .n_scalars = 1, .scalar = { then.scalar[0] } };
    psd_shard_inherit(shard, &inherited);
    cr_assert_eq(psd_shard_initial_arrays(shard), 4);
    begin_with(state);
    for (uint64_t t = 5; t <= 9; t++) {
        gradients(g, 2, t);
        for (uint32_t p = 0; p < psd_shard_parts(shard); p++)
            psd_work_run(make_work(p, g, 2));
    }
    take_state(continued, &resumed);
    cr_expect_eq(memcmp(continued, uninterrupted, sizeof continued), 0);
    cr_expect_eq(memcmp(&resumed, &end, sizeof end), 0);
}

Test(shard, slow_weights_that_are_not_inherited_begin_as_the_weights, .fini = teardown)
{
    static float state[1 + PSD_MAX_SLOTS][N], begun[1 + PSD_MAX_SLOTS][N];
    psd_rule_state_t then;
    const psd_inherited_t inherited = { .t = 8, .arrays = 3 };
    setup();
    psd_shard_inherit(shard, &inherited);
    cr_assert_eq(psd_shard_initial_arrays(shard), 3);
    for (size_t i = 0; i < N; i++) {
        state[0][i] = weights[i];
        state[1][i] = (float)i;
        state[2][i] = 1;
    }
    begin_with(state);
    take_state(begun, &then);
    cr_expect_eq(then.t, 8);
    cr_expect_eq(then.sync_epoch, 4, "k is 2");
    for (uint32_t i = 0; i < psd_shard_chunks(shard); i++) {
        const psd_chunk_t *c = &map.chunk[map.held[0][i]];
        cr_expect_eq(memcmp(begun[1] + c->offset, state[1] + c->offset, c->n * sizeof(float)), 0);
        cr_expect_eq(memcmp(begun[3] + c->offset, weights + c->offset, c->n * sizeof(float)), 0, "slow_param");
    }
}

Test(shard, what_a_rule_does_not_keep_is_not_inherited, .init = setup_sgd, .fini = teardown)
{
    const psd_inherited_t inherited = { .t = 8, .arrays = 3 };
    psd_shard_inherit(shard, &inherited);
    cr_expect_eq(psd_shard_initial_arrays(shard), 1);
}
