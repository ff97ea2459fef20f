#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "common/optim/aggregate.h"
#include "common/optim/isa.h"
#include "tests/support/codec_hash.h"
#include "tests/support/codings.h"

/* The properties of every codec in the table. */

#define GOLDEN PSD_SOURCE_DIR "/tests/golden"

TestSuite(codecs, .timeout = 600);

enum { N = 4 * 2048 + 700 };
static float g[N], residual[N], before[N], out[N];
static uint8_t bytes[5 * N + 1024], again[5 * N + 1024];

static void draw(uint64_t seed)
{
    for (size_t i = 0; i < N; i++)
        g[i] = codec_hash_draw(&seed, i);
}

/* Call `look` with each codec on every instruction set; codecs with an argument get several values of it. */
static void each(void (*look)(const psd_coding_t *coding, const char *spec))
{
    for (size_t isa = 0; psd_isa_at(isa); isa++)
        for (size_t i = 0; i < sizeof codec_hash_specs / sizeof *codec_hash_specs; i++) {
            const psd_coding_t coding = coding_of(codec_hash_specs[i]);
            cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
            memset(residual, 0, sizeof residual);
            draw(isa + 5);
            look(&coding, codec_hash_specs[i]);
        }
}

Test(codecs, their_numbers_never_change)
{
    static const char *const by_number[] = { "f32", "bf16", "int8", "topk", "sign" };
    psd_coding_t coding;
    psd_err_t err;
    size_t n = 0;
    for (; psd_codec_at(n); n++)
        cr_expect_eq(psd_codec_find(psd_codec_at(n)->name), psd_codec_at(n));
    cr_expect_eq(n, sizeof by_number / sizeof *by_number);
    cr_expect_eq(n, PSD_MAX_CODEC);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(psd_coding_of(&coding, i + 1, i == 3 ? 0.5 : 0, &err), PSD_OK, "%s", err.text);
        cr_expect_str_eq(coding.codec->name, by_number[i]);
    }
    cr_expect_null(psd_codec_find("topk(0.1)"));
}

Test(codecs, a_message_can_name_no_other_codec_and_no_other_argument)
{
    static const struct {
        uint32_t number;
        double argument;
        const char *sentence;
    } row[] = { { 6, 0, "there is no codec 6" },
                { 0, 0, "there is no codec 0" },
                { 3, 0.5, "codec int8 has an argument of 0.5" },
                { 4, 0, "codec topk has an argument of 0" },
                { 4, 1.5, "codec topk has an argument of 1.5" },
                { 4, (double)NAN, "codec topk has an argument of nan" },
                { 1, (double)NAN, "codec f32 has an argument of nan" } };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        psd_coding_t coding;
        psd_err_t err;
        cr_expect_eq(psd_coding_of(&coding, row[i].number, row[i].argument, &err), PSD_EPROTO);
        cr_expect_str_eq(err.text, row[i].sentence, "%s", err.text);
    }
}

Test(codecs, every_instruction_set_gives_the_committed_bits)
{
    char line[HASH_TEXT], expected[HASH_TEXT];
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        FILE *file = fopen(GOLDEN "/codec_hash.expected", "r");
        cr_assert_not_null(file);
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        for (size_t i = 0; codec_hash_line(i, line); i++) {
            cr_assert_not_null(fgets(expected, sizeof expected, file), "a line is missing: %s", line);
            expected[strcspn(expected, "\n")] = '\0';
            cr_expect_str_eq(line, expected, "%s: %s instead of %s", psd_isa_name(), line, expected);
        }
        cr_expect_null(fgets(expected, sizeof expected, file), "one line too many: %s", expected);
        fclose(file);
    }
}

/* ---- error feedback ---- */

static void look_at_residual(const psd_coding_t *coding, const char *spec)
{
    for (int t = 0; t < 4; t++) {
        draw((uint64_t)t);
        memcpy(before, residual, sizeof before);
        cr_assert(psd_coding_encode(coding, g, residual, N, bytes));
        psd_coding_decode(coding, bytes, N, 0, N, out);
        size_t wrong = 0, left = 0;
        for (size_t i = 0; i < N; i++) {
            const float y = g[i] + before[i], rest = y - out[i];
            wrong += residual[i] != rest;
            left += rest != 0;
        }
        cr_expect_eq(wrong, 0, "%s, step %d: %zu residuals", spec, t, wrong);
        cr_expect(coding->codec->lossless || coding->argument == 1 || left > N / 10, "%s loses nothing of these values", spec);
        cr_expect(left == 0 || (!coding->codec->lossless && coding->argument != 1), "%s loses something", spec);
    }
}

Test(codecs, the_residual_is_exactly_what_the_code_loses) { each(look_at_residual); }

static void look_at_sum(const psd_coding_t *coding, const char *spec)
{
    /* Whole numbers and their halves: each sum is exact, so no addition rounds. */
    double given = 0, arrived = 0, kept = 0;
    for (int t = 0; t < 50; t++) {
        for (size_t i = 0; i < N; i++) {
            g[i] = (float)((int)((i * 7 + (size_t)t * 13) % 41) - 20) * 0.5f;
            given += (double)g[i];
        }
        cr_assert(psd_coding_encode(coding, g, residual, N, bytes));
        psd_coding_decode(coding, bytes, N, 0, N, out);
        for (size_t i = 0; i < N; i++)
            arrived += (double)out[i];
    }
    for (size_t i = 0; i < N; i++)
        kept += coding->codec->lossless ? 0 : (double)residual[i];
    cr_expect_leq(fabs(arrived + kept - given), 1.0, "%s: %g arrived and %g are kept of %g", spec, arrived, kept, given);
}

Test(codecs, decoded_values_plus_residuals_are_the_original_values) { each(look_at_sum); }

static void look_at_repetition(const psd_coding_t *coding, const char *spec)
{
    cr_assert(psd_coding_encode(coding, g, residual, N, bytes));
    memset(again, 0xa5, sizeof again);
    memset(residual, 0, sizeof residual);
    cr_assert(psd_coding_encode(coding, g, residual, N, again));
    cr_expect_eq(memcmp(bytes, again, psd_coding_bytes(coding, N)), 0, "%s: the bytes are a function of the values alone", spec);
    cr_expect_eq(again[psd_coding_bytes(coding, N)], 0xa5, "%s: nothing is written behind them", spec);
}

Test(codecs, the_same_values_give_the_same_bytes) { each(look_at_repetition); }

/* ---- values that are not finite ---- */

static void look_at_nonfinite(const psd_coding_t *coding, const char *spec)
{
    static const float odd[] = { INFINITY, -INFINITY, NAN, 0x1.8p127f };
    psd_err_t err = { .text = "" };
    if (coding->codec->lossless)
        return;
    for (size_t k = 0; k < 4; k++)
        for (size_t at = 0; at < N; at += N - 1) {
            draw(k);
            for (size_t i = 0; i < N; i++)
                residual[i] = (float)i;
            residual[at] = 0x1.8p127f; /* with the last of `odd`, each value is finite, but their sum is not */
            memcpy(before, residual, sizeof before);
            g[at] = odd[k];
            cr_expect_not(psd_coding_encode(coding, g, residual, N, bytes), "%s: %g at %zu", spec, (double)odd[k], at);
            cr_expect_eq(memcmp(before, residual, sizeof before), 0, "%s: the residual stays as it was", spec);
            cr_assert_eq(psd_coding_check(coding, bytes, psd_coding_bytes(coding, N), N, &err), PSD_OK, "%s", err.text);
            psd_coding_decode(coding, bytes, N, 0, N, out);
            if (coding->codec->keeps_nonfinite)
                cr_expect_not(isfinite(out[at]), "%s", spec);
            else
                for (size_t i = 0; i < N; i++)
                    cr_expect_eq(out[i], 0, "%s", spec);
        }
}

Test(codecs, a_value_that_is_not_finite_is_reported_and_leaves_the_residual_unchanged) { each(look_at_nonfinite); }

/* ---- decoding ---- */

static void look_at_cuts(const psd_coding_t *coding, const char *spec)
{
    static const size_t cuts[] = { 256, 512, 1280, 4096 };
    static float piece[N];
    cr_assert(psd_coding_encode(coding, g, NULL, N, bytes));
    psd_coding_decode(coding, bytes, N, 0, N, out);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        memset(piece, 0xff, sizeof piece);
        for (size_t from = 0; from < N; from += cuts[c])
            psd_coding_decode(coding, bytes, N, from, N - from < cuts[c] ? N - from : cuts[c], piece + from);
        cr_expect_eq(memcmp(piece, out, sizeof out), 0, "%s in pieces of %zu", spec, cuts[c]);
    }
    memset(piece, 0xff, sizeof piece);
    psd_coding_decode(coding, bytes, N, 512, 7, piece);
    cr_expect_eq(memcmp(piece, out + 512, 7 * sizeof *out), 0, "%s: a part of a block", spec);
    cr_expect(isnan(piece[7]), "%s: and no more", spec);
}

Test(codecs, no_cut_changes_what_is_decoded) { each(look_at_cuts); }

static void look_at_alignment(const psd_coding_t *coding, const char *spec)
{
    psd_err_t err = { .text = "" };
    cr_assert(psd_coding_encode(coding, g, NULL, N, bytes));
    cr_assert(psd_coding_encode(coding, g, NULL, N, again + 1));
    cr_expect_eq(memcmp(bytes, again + 1, psd_coding_bytes(coding, N)), 0, "%s", spec);
    psd_coding_decode(coding, bytes, N, 0, N, out);
    cr_assert_eq(psd_coding_check(coding, again + 1, psd_coding_bytes(coding, N), N, &err), PSD_OK, "%s", err.text);
    psd_coding_decode(coding, again + 1, N, 0, N, before);
    cr_expect_eq(memcmp(before, out, sizeof out), 0, "%s", spec);
}

Test(codecs, bytes_may_begin_anywhere_in_memory) { each(look_at_alignment); }

static void look_at_zeros(const psd_coding_t *coding, const char *spec)
{
    psd_err_t err = { .text = "" };
    memset(bytes, 0, sizeof bytes);
    cr_assert_eq(psd_coding_check(coding, bytes, psd_coding_bytes(coding, N), N, &err), PSD_OK, "%s: %s", spec, err.text);
    psd_coding_decode(coding, bytes, N, 0, N, out);
    for (size_t i = 0; i < N; i++)
        cr_expect(out[i] == 0 && !signbit(out[i]));
}

Test(codecs, bytes_of_0_are_the_code_of_zeros) { each(look_at_zeros); }

static void look_at_lengths(const psd_coding_t *coding, const char *spec)
{
    const size_t n_bytes = psd_coding_bytes(coding, N);
    psd_err_t err = { .text = "" };
    cr_assert(psd_coding_encode(coding, g, NULL, N, bytes));
    cr_expect_eq(psd_coding_check(coding, bytes, n_bytes - 1, N, &err), PSD_EPROTO, "%s", spec);
    cr_expect_eq(psd_coding_check(coding, bytes, n_bytes + 1, N, &err), PSD_EPROTO, "%s", spec);
    cr_expect_eq(psd_coding_check(coding, bytes, 0, N, &err), PSD_EPROTO, "%s", spec);
    cr_expect_eq(psd_coding_bytes(coding, 0), 0, "%s", spec);
    cr_expect(psd_coding_encode(coding, g, NULL, 0, bytes) && psd_coding_check(coding, bytes, 0, 0, &err) == PSD_OK, "%s", spec);
}

Test(codecs, a_code_of_another_length_is_refused) { each(look_at_lengths); }

static void look_at_squares(const psd_coding_t *coding, const char *spec)
{
    cr_assert(psd_coding_encode(coding, g, NULL, N, bytes));
    psd_coding_decode(coding, bytes, N, 0, N, out);
    cr_expect_eq(psd_coding_sum_of_squares(coding, bytes, N), psd_sum_of_squares(out, N), "%s", spec);
    g[N - 1] = NAN;
    psd_coding_encode(coding, g, NULL, N, bytes);
    cr_expect_eq(!isfinite(psd_coding_sum_of_squares(coding, bytes, N)), coding->codec->keeps_nonfinite, "%s", spec);
}

Test(codecs, the_sum_of_squares_has_the_bits_of_that_of_the_floats) { each(look_at_squares); }

Test(codecs, sums_of_losslessly_coded_chunks_have_the_bits_of_sums_of_floats)
{
    const psd_coding_t coding = coding_of("f32");
    static float decoded[3][N], plain[3][N], sum[N], expected[N];
    const double weight[] = { 0.5, 1.0 / 3, 1.0 / 6 };
    for (uint64_t k = 0; k < 3; k++) {
        draw(k);
        memcpy(plain[k], g, sizeof g);
        cr_assert(psd_coding_encode(&coding, g, NULL, N, bytes));
        psd_coding_decode(&coding, bytes, N, 0, N, decoded[k]);
    }
    psd_aggregate(sum, (const float *const[]){ decoded[0], decoded[1], decoded[2] }, weight, 3, N);
    psd_aggregate(expected, (const float *const[]){ plain[0], plain[1], plain[2] }, weight, 3, N);
    cr_expect_eq(memcmp(sum, expected, sizeof sum), 0);
}
