#include <criterion/criterion.h>

#include <math.h>
#include <uv.h>

#include "common/base/rng.h"
#include "common/optim/whole.h"
#include "proto/message.h"
#include "server/core/shard.h"
#include "proto/actions.h"
#include "proto/coded.h"

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
    cr_assert_not_null(shard = psd_shard_new(&rule, &clip, &(psd_codings_t){ 0 }, &map, 0, NULL));
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

/* Gradients of `k` workers for step `t`, the whole tensor's. */
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
    work->lr = psd_rule_lr(&rule);
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
        psd_whole_step(&rule, &clip, &whole, 1, (double[]){ 0.25, 0.5, 0.25 }, 3, psd_rule_lr(&rule));
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

Test(shard, a_chunk_without_gradients_is_left_alone_with_its_counters, .init = setup, .fini = teardown)
{
    psd_work_run(make_work(0, g3, 0));
    cr_assert_eq(psd_shard_sync_epoch(shard, 0), 0);
    cr_assert_arr_eq(psd_shard_weights(shard, 0)->data, weights + map.chunk[map.held[0][0]].offset, 4 * sizeof(float));
    /* Two steps sync a lookahead of k = 2: the empty work has not counted. */
    gradients(g3, 1, 1);
    psd_work_run(make_work(0, g3, 1));
    cr_assert_eq(psd_shard_sync_epoch(shard, 0), 0);
    psd_work_run(make_work(0, g3, 1));
    cr_assert_eq(psd_shard_sync_epoch(shard, 0), 1);
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
    cr_expect_eq(atomic_load(&w->sum), 0, "nobody has summed the weights of a step that was not to");
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
static psd_coding_t been_through; /* what gradients have been through before */

/* Steps of two workers on a model of three tensors, cut into parts of at most `most` elements; the second lacks a gradient of tensor 1, and
 * nobody has one of tensor 2. Returns the checksum of all weights, chunk after chunk. */
static uint32_t train_in_parts(const char *spec, uint32_t most)
{
    enum { A = 3000, B = 40, C = 500, ALL = A + B + C };
    static float w[ALL], g[2][ALL];
    const size_t from[] = { 0, A, A + B };
    uint64_t stream = 3;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ A, B, C }, 3, 1, most, NULL), PSD_OK);
    cr_assert_not_null(shard = psd_shard_new(&rule, &clip, &codings, &map, 0, NULL));
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
            work->lr = psd_rule_lr(&rule);
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
            cr_expect(!memcmp(state.w, w + from[2] + map.chunk[i].offset, map.chunk[i].n * sizeof(float)), "nobody has a gradient");
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
    cr_assert_not_null(shard = psd_shard_new(&rule, &clip, &codings, &map, 0, NULL));
    psd_shard_set(shard, 0, (float[]){ 1, 1.00390625f, -2, 0 }); /* 1 + 2^-8 is half way from 1 to 1 + 2^-7, and goes to the even */
    psd_shard_sent_t sent = psd_shard_sent(shard, 0);
    cr_assert_eq(sent.codec, psd_coding_number(&codings.pull));
    cr_assert_eq(sent.payload->n_bytes, 8);
    psd_coding_decode(&codings.pull, sent.payload->data, 4, 0, 4, back);
    cr_expect_arr_eq(back, ((float[]){ 1, 1, -2, 0 }), sizeof back);
    cr_expect_eq(((float *)psd_shard_weights(shard, 0)->data)[1], 1.00390625f, "what is trained keeps all of it");
    psd_shard_set(shard, 0, (float[]){ 1, INFINITY, -2, 0 });
    sent = psd_shard_sent(shard, 0);
    cr_expect_eq(sent.codec, PSD_CODEC_F32, "what has diverged is seen as it is");
    cr_expect_eq(sent.payload, psd_shard_weights(shard, 0));
    teardown();
}

/* Steps of three gradients, of which the first `n_early` are added up before, one by one. */
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
