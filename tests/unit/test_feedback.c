#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "proto/actions.h"
#include "worker/feedback.h"
#include "tests/support/alone.h"

TestSuite(feedback, .timeout = 600);

/* A model of three tensors on one server, in one part. */
enum { A = 700, B = 40, C = 3, ALL = A + B + C };

static psd_partition_t map;
static psd_coding_t coding;
static psd_rule_t rule;
static psd_feedback_t *feedback;
static float g[ALL], residual[ALL];
static const float *const whole[] = { g, g + A, g + A + B }, *const without_b[] = { g, NULL, g + A + B };

static void setup_with(const char *spec, const char *codec)
{
    uint64_t stream = 3;
    cr_assert_eq(psd_coding_parse(&coding, codec, NULL), PSD_OK);
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ A, B, C }, 3, 1, PSD_MOST_OF_PART, NULL), PSD_OK);
    cr_assert(map.n_parts[0] == 1 && map.n_chunks == 3);
    cr_assert_not_null(feedback = psd_feedback_new(&rule, &coding, &map, true, NULL));
    memset(residual, 0, sizeof residual);
    for (size_t i = 0; i < ALL; i++)
        g[i] = (float)psd_uniform(&stream) - 0.5f;
}

static void setup(void) { setup_with("sgd", "int8"); }

static void teardown(void)
{
    psd_feedback_destroy(&feedback);
    psd_partition_clear(&map);
}

/* The expected payload: the chunks of `with`, one after the other, encoded by the codec itself. */
static void expect_codes(const psd_feedback_part_t *part, const float *const *with)
{
    uint8_t code[4 * ALL];
    size_t at = 0;
    for (uint32_t t = 0; t < 3; t++) {
        const psd_chunk_t *c = &map.chunk[t];
        const size_t n = psd_coding_bytes(&coding, c->n);
        memset(code, 0, n);
        if (with[t])
            psd_coding_encode(&coding, with[t], residual + c->at, c->n, code);
        cr_expect_arr_eq((uint8_t *)part->payload->data + at, code, n, "chunk %u", t);
        at += n;
    }
    cr_expect_eq(part->payload->n_bytes, at + part->has_bitmap);
}

Test(feedback, the_loss_of_a_codec_is_added_to_the_next_gradient, .init = setup, .fini = teardown)
{
    for (int round = 0; round < 3; round++) {
        cr_assert(psd_feedback_open(feedback, whole));
        const psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
        expect_codes(&part, whole);
        psd_feedback_close(feedback);
    }
}

Test(feedback, a_part_that_is_asked_for_again_is_the_same_bytes, .init = setup, .fini = teardown)
{
    cr_assert(psd_feedback_open(feedback, whole));
    const psd_feedback_part_t first = psd_feedback_part(feedback, 0, 0), second = psd_feedback_part(feedback, 0, 0);
    cr_expect_eq(first.payload, second.payload);
    expect_codes(&second, whole);
    cr_assert(psd_feedback_open(feedback, whole));
    const psd_feedback_part_t next = psd_feedback_part(feedback, 0, 0);
    expect_codes(&next, whole); /* the residual has moved once, not twice */
}

Test(feedback, a_tensor_without_a_gradient_keeps_its_residual, .init = setup, .fini = teardown)
{
    static const float *const nobody[3] = { NULL };
    cr_assert(psd_feedback_open(feedback, whole));
    psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
    cr_expect_not(part.has_bitmap);
    expect_codes(&part, whole);
    cr_assert(psd_feedback_open(feedback, without_b));
    part = psd_feedback_part(feedback, 0, 0);
    cr_assert(part.has_bitmap);
    cr_expect_eq(((uint8_t *)part.payload->data)[part.payload->n_bytes - 1], 5, "the first and the third of three");
    expect_codes(&part, without_b);
    cr_assert(psd_feedback_open(feedback, nobody));
    cr_expect_null(psd_feedback_part(feedback, 0, 0).payload);
    cr_assert(psd_feedback_open(feedback, whole));
    part = psd_feedback_part(feedback, 0, 0);
    expect_codes(&part, whole);
}

Test(feedback, a_gradient_that_is_not_finite_is_pushed_as_0_and_changes_no_residual, .init = setup, .fini = teardown)
{
    cr_assert(psd_feedback_open(feedback, whole));
    psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
    expect_codes(&part, whole);
    const float was = g[ALL - 1];
    g[ALL - 1] = NAN; /* in the last chunk, but those before it are 0 too */
    cr_assert_not(psd_feedback_open(feedback, whole));
    part = psd_feedback_part(feedback, 0, 0);
    cr_assert_not_null(part.payload);
    for (size_t i = 0; i < part.payload->n_bytes; i++)
        cr_assert_eq(((uint8_t *)part.payload->data)[i], 0);
    g[ALL - 1] = was;
    cr_assert(psd_feedback_open(feedback, whole));
    part = psd_feedback_part(feedback, 0, 0);
    expect_codes(&part, whole);
}

Test(feedback, the_sum_of_squares_is_that_of_the_decoded_values, .fini = teardown)
{
    setup_with("sgd", "sign");
    cr_assert(psd_feedback_open(feedback, whole));
    const psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
    const uint8_t *code = part.payload->data;
    double sum = 0, bounded = 0;
    for (uint32_t t = 0; t < 3; t++) {
        float back[A];
        psd_coding_decode(&coding, code, map.chunk[t].n, 0, map.chunk[t].n, back);
        code += psd_coding_bytes(&coding, map.chunk[t].n);
        for (size_t i = 0; i < map.chunk[t].n; i++) {
            sum += (double)back[i] * (double)back[i];
            bounded += fmin((double)back[i] * (double)back[i], 0.0625 * 0.0625);
        }
    }
    cr_expect_float_eq(
        psd_feedback_squares(feedback, &(psd_clip_t){ .value = 0 }, alone(&(psd_rule_t){ 0 }), (const uint8_t[3]){ 0 }), sum,
        1e-9 * sum);
    cr_expect_float_eq(
        psd_feedback_squares(feedback, &(psd_clip_t){ .value = 0.0625 }, alone(&(psd_rule_t){ 0 }), (const uint8_t[3]){ 0 }),
        bounded, 1e-9 * sum);
}

Test(feedback, the_sum_of_squares_is_bounded_where_the_tensors_group_is_clipped, .init = setup, .fini = teardown)
{
    psd_groups_t groups;
    double sum = 0;
    cr_assert_eq(psd_groups_parse(&groups, "sgd", "b(clip=0)", NULL), PSD_OK);
    cr_assert(psd_feedback_open(feedback, whole));
    const uint8_t *code = psd_feedback_part(feedback, 0, 0).payload->data;
    for (uint32_t t = 0; t < 3; t++) {
        float back[A];
        psd_coding_decode(&coding, code, map.chunk[t].n, 0, map.chunk[t].n, back);
        code += psd_coding_bytes(&coding, map.chunk[t].n);
        for (size_t i = 0; i < map.chunk[t].n; i++)
            sum += t == 1 ? 0 : fmin((double)back[i] * (double)back[i], 0.0625 * 0.0625);
    }
    cr_expect_float_eq(psd_feedback_squares(feedback, &(psd_clip_t){ .value = 0.0625 }, &groups, (const uint8_t[3]){ 1, 0, 1 }),
                       sum, 1e-9 * sum);
}

Test(feedback, a_gradient_that_is_infinite_once_its_residual_is_added_is_pushed_as_0, .init = setup, .fini = teardown)
{
    static float kept[ALL];
    kept[A + 7] = 3e38f; /* of the second tensor */
    psd_feedback_take(feedback, 0, 0, kept);
    g[A + 7] = 3e38f;
    cr_expect_not(psd_feedback_open(feedback, whole));
    const psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
    for (size_t i = 0; i < part.payload->n_bytes; i++)
        cr_assert_eq(((uint8_t *)part.payload->data)[i], 0);
    psd_feedback_close(feedback);
    g[A + 7] = 0;
    g[7] = 3e38f;
    cr_expect(psd_feedback_open(feedback, whole), "the residual of another element has no part in it");
}

static void expect_parts(uint32_t most, uint32_t n_parts)
{
    static float kept[ALL], after[ALL];
    memset(kept, 0, sizeof kept);
    setup();
    teardown();
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ A, B, C }, 3, 2, most, NULL), PSD_OK);
    cr_assert_eq(map.n_parts[0] + map.n_parts[1], n_parts);
    cr_assert_not_null(feedback = psd_feedback_new(&rule, &coding, &map, true, NULL));
    for (int round = 0; round < 2; round++) {
        double sum = 0;
        const float *const *with = round ? without_b : whole;
        cr_assert(psd_feedback_open(feedback, with));
        for (uint32_t s = 0, base = 0; s < 2; s++)
            for (uint32_t p = 0; p < map.n_parts[s]; base += map.part[s][p++].n) {
                const psd_feedback_part_t part = psd_feedback_part(feedback, s, p);
                const uint8_t *code = part.payload ? part.payload->data : NULL;
                uint32_t n_with = 0;
                for (uint32_t i = 0; i < map.part[s][p].n_chunks; i++) {
                    const psd_chunk_t *c = psd_partition_at(&map, s, p, i);
                    uint8_t wanted[4 * A];
                    float back[A];
                    n_with += with[c->tensor] != NULL;
                    if (!with[c->tensor]) {
                        code = code ? code + psd_coding_bytes(&coding, c->n) : NULL;
                        continue;
                    }
                    cr_assert_not_null(code);
                    psd_coding_encode(&coding, with[c->tensor] + c->offset, kept + base + c->at, c->n, wanted);
                    cr_expect_arr_eq(code, wanted, psd_coding_bytes(&coding, c->n), "server %u, part %u", s, p);
                    psd_coding_decode(&coding, code, c->n, 0, c->n, back);
                    for (uint32_t k = 0; k < c->n; k++)
                        sum += (double)back[k] * (double)back[k];
                    code += psd_coding_bytes(&coding, c->n);
                }
                cr_expect_eq(part.has_bitmap, n_with && n_with < map.part[s][p].n_chunks);
                cr_expect_eq(!part.payload, !n_with);
            }
        cr_expect_float_eq(
            psd_feedback_squares(feedback, &(psd_clip_t){ .value = 0 }, alone(&(psd_rule_t){ 0 }), (const uint8_t[3]){ 0 }), sum,
            1e-9 * sum);
        psd_feedback_close(feedback);
        memcpy(after, kept, sizeof after);
        for (uint32_t s = 0, base = 0; s < 2; s++) {
            psd_feedback_set_aside(feedback, s, false);
            for (uint32_t p = 0; p < map.n_parts[s]; base += map.part[s][p++].n)
                cr_expect_arr_eq(psd_feedback_aside(feedback, s, p)->data, after + base, map.part[s][p].n * sizeof(float));
        }
        psd_feedback_drop_aside(feedback, 1);
        cr_expect_not_null(psd_feedback_aside(feedback, 0, 0));
        for (uint32_t p = 0; p < map.n_parts[1]; p++)
            cr_expect_null(psd_feedback_aside(feedback, 1, p), "part %u", p);
        psd_feedback_drop_aside(feedback, 0);
        for (uint32_t p = 0; p < map.n_parts[0]; p++)
            cr_expect_null(psd_feedback_aside(feedback, 0, p), "part %u", p);
    }
    /* each part takes its own residual, and all of them lose it */
    for (uint32_t s = 0, base = 0; s < 2; s++)
        for (uint32_t p = 0; p < map.n_parts[s]; base += map.part[s][p++].n) {
            for (size_t i = 0; i < map.part[s][p].n; i++)
                after[base + i] = (float)(100 * s + 10 * p + i % 7);
            psd_feedback_take(feedback, s, p, after + base);
        }
    for (int is_reset = 0; is_reset < 2; is_reset++) {
        if (is_reset)
            psd_feedback_reset(feedback);
        for (uint32_t s = 0, base = 0; s < 2; s++) {
            psd_feedback_set_aside(feedback, s, false);
            for (uint32_t p = 0; p < map.n_parts[s]; base += map.part[s][p++].n)
                for (size_t i = 0; i < map.part[s][p].n; i++)
                    cr_assert_eq(((float *)psd_feedback_aside(feedback, s, p)->data)[i], is_reset ? 0 : after[base + i]);
        }
    }
}

Test(feedback, each_part_of_each_server_has_its_own_codes_residual_and_share_of_the_squares, .fini = teardown)
{
    expect_parts(100, 2);
    teardown();
    expect_parts(40, 3);
}

/* The votes of a gradient, by the rule itself. */
static void expect_votes(const psd_feedback_part_t *part, float *kept)
{
    static float u[ALL], got[ALL];
    size_t at = 0;
    psd_rule_vote(&rule, u, kept, g, ALL);
    for (uint32_t t = 0; t < 3; t++) {
        const psd_chunk_t *c = &map.chunk[t];
        psd_coding_decode(&coding, (uint8_t *)part->payload->data + at, c->n, 0, c->n, got + c->at);
        at += psd_coding_bytes(&coding, c->n);
    }
    for (size_t i = 0; i < ALL; i++)
        cr_assert_eq(copysignf(1, got[i]) * (got[i] != 0), u[i], "element %zu", i);
}

Test(feedback, by_a_rule_with_votes_the_signs_are_pushed_and_the_momentum_is_kept, .fini = teardown)
{
    static const char *const codecs[] = { "f32", "bf16", "int8", "sign" };
    for (size_t i = 0; i < 4; i++) {
        static float kept[ALL];
        memset(kept, 0, sizeof kept);
        setup_with("dlion(beta1=0.5)", codecs[i]);
        for (int round = 0; round < 4; round++) {
            g[7] = round == 2 ? INFINITY : -0.25f; /* no vote then, and the momentum stays */
            cr_assert_eq(psd_feedback_open(feedback, whole), round != 2);
            const psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
            if (round != 2)
                expect_votes(&part, kept);
            for (int k = 0; k < ALL; k++)
                g[k] = -0.75f * g[k];
        }
        if (i < 3)
            teardown();
    }
}

static const float *aside(void) { return psd_feedback_aside(feedback, 0, 0)->data; }

Test(feedback, a_residual_set_aside_is_that_of_the_last_or_of_the_open_exchange_and_does_not_change, .init = setup,
     .fini = teardown)
{
    static float after[3][ALL];
    cr_assert_null(psd_feedback_aside(feedback, 0, 0));
    for (int round = 0; round < 3; round++) {
        cr_assert(psd_feedback_open(feedback, round == 1 ? without_b : whole));
        if (round == 1) { /* nothing has been encoded, so both are the same */
            psd_feedback_set_aside(feedback, 0, true);
            cr_expect_arr_eq(aside(), after[0], sizeof after[0]);
        }
        const psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
        expect_codes(&part, round == 1 ? without_b : whole);
        memcpy(after[round], residual, sizeof residual);
        psd_feedback_set_aside(feedback, 0, true);
        cr_expect_arr_eq(aside(), after[round], sizeof after[0]);
        if (round)
            psd_feedback_set_aside(feedback, 0, false);
        if (round)
            cr_expect_arr_eq(aside(), after[round - 1], sizeof after[0]);
        psd_feedback_close(feedback);
        if (round)
            cr_expect_arr_eq(aside(), after[round - 1], sizeof after[0], "until another one is set aside");
        psd_feedback_set_aside(feedback, 0, false);
        cr_expect_arr_eq(aside(), after[round], sizeof after[0], "the exchange that was open is closed");
    }
    psd_feedback_drop_aside(feedback, 0);
    cr_expect_null(psd_feedback_aside(feedback, 0, 0));
}

Test(feedback, a_feedback_with_anothers_residual_continues_as_that_one, .init = setup, .fini = teardown)
{
    static float kept[ALL];
    cr_assert(psd_feedback_open(feedback, whole));
    psd_feedback_part_t part = psd_feedback_part(feedback, 0, 0);
    expect_codes(&part, whole);
    psd_feedback_close(feedback);
    psd_feedback_set_aside(feedback, 0, false);
    memcpy(kept, aside(), sizeof kept);
    psd_feedback_destroy(&feedback);
    cr_assert_not_null(feedback = psd_feedback_new(&rule, &coding, &map, true, NULL));
    psd_feedback_take(feedback, 0, 0, kept);
    cr_assert(psd_feedback_open(feedback, whole));
    part = psd_feedback_part(feedback, 0, 0);
    expect_codes(&part, whole);
    psd_feedback_close(feedback);
    psd_feedback_reset(feedback);
    memset(residual, 0, sizeof residual);
    cr_assert(psd_feedback_open(feedback, whole));
    part = psd_feedback_part(feedback, 0, 0);
    expect_codes(&part, whole);
}
