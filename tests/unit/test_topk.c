#include <criterion/criterion.h>
#include <math.h>

#include "common/base/rng.h"
#include "tests/support/codings.h"

/* The largest values. */

TestSuite(topk, .timeout = 600);

Test(topk, the_largest_come_first_then_the_counts_of_blocks_then_places)
{
    float y[300] = { 0 };
    y[7] = -4;
    y[5] = 2;
    y[258] = 3;
    y[100] = 1;
    /* 0.01 * 300 = 3: 2 (0x40000000), -4 (0xc0800000), 3 (0x40400000); 2 in the first block, 1 in the second. */
    const uint8_t code[] = { 0, 0, 0, 0x40, 0, 0, 0x80, 0xc0, 0, 0, 0x40, 0x40, 2, 0, 1, 0, 5, 7, 2 };
    expect_code("topk(0.01)", y, 300, code, sizeof code);
    y[100] = 0;
    expect_values("topk(0.01)", code, sizeof code, y, 300);
}

Test(topk, among_equal_magnitudes_the_lower_index_is_kept)
{
    const float y[] = { 1, -2, 2, -2, 2, 1, 1, 3 };
    float out[8];
    there_and_back("topk(0.5)", y, NULL, out, 8); /* 4 of 8: the 3, and three of the four of magnitude 2 */
    const float expected[] = { 0, -2, 2, -2, 0, 0, 0, 3 };
    for (int i = 0; i < 8; i++)
        cr_expect_eq(out[i], expected[i], "%d", i);
}

Test(topk, the_number_kept_is_rounded_up_unless_the_share_is_whole_but_for_its_own_rounding)
{
    /* In double, 0.07 * 100 is 7.000000000000001. In addition to the values, there are 2 bytes for the one block. */
    static const struct {
        const char *spec;
        size_t n, k;
    } row[] = { { "topk(0.07)", 100, 7 },  { "topk(0.01)", 100, 1 },  { "topk(0.01)", 101, 2 }, { "topk(0.01)", 1, 1 },
                { "topk(0.001)", 200, 1 }, { "topk(0.29)", 200, 58 }, { "topk(1)", 256, 256 },  { "topk(1e-300)", 9, 1 } };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const psd_coding_t coding = coding_of(row[i].spec);
        cr_expect_eq(psd_coding_bytes(&coding, row[i].n), 5 * row[i].k + 2, "%s of %zu", row[i].spec, row[i].n);
    }
}

Test(topk, a_hundredth_takes_at_most_a_fortieth_of_the_floats_bytes)
{
    const psd_coding_t coding = coding_of("topk(0.01)");
    cr_expect_eq(psd_coding_bytes(&coding, 1 << 18), 5 * 2622 + 2 * 1024);
    cr_expect_leq(40 * psd_coding_bytes(&coding, 1 << 18), 4u << 18);
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x > y ? -1 : x < y;
}

Test(topk, kept_values_are_exact_and_no_omitted_value_is_larger)
{
    enum { N = 5000, K = 250 };
    static float y[N], size[N], out[N];
    uint64_t stream = 3;
    for (int i = 0; i < N; i++) {
        y[i] = (float)ldexp(psd_uniform(&stream) - 0.5, (int)(psd_splitmix64(&stream) % 60) - 30);
        size[i] = fabsf(y[i]);
    }
    qsort(size, N, sizeof *size, descending);
    there_and_back("topk(0.05)", y, NULL, out, N);
    int kept = 0;
    for (int i = 0; i < N; i++) {
        cr_expect_eq(out[i], fabsf(y[i]) >= size[K - 1] ? y[i] : 0, "%d", i);
        kept += out[i] != 0;
    }
    cr_expect_eq(kept, K);
}

Test(topk, all_of_a_chunk_may_be_kept_and_all_may_be_zero)
{
    float y[600], out[600];
    for (int i = 0; i < 600; i++)
        y[i] = (float)(i - 300);
    there_and_back("topk(1)", y, NULL, out, 600);
    cr_expect_eq(memcmp(out, y, sizeof y), 0);
    memset(y, 0, sizeof y);
    there_and_back("topk(0.01)", y, NULL, out, 600);
    cr_expect_eq(memcmp(out, y, sizeof y), 0);
}

/* Two of eight values: those at 1 and 6 are 1 and -1. */
#define CODE                                                                                                                       \
    {                                                                                                                              \
        0, 0, 0x80, 0x3f, 0, 0, 0x80, 0xbf, 2, 0, 1, 6                                                                             \
    }

static void expect_refused_with(size_t at, uint8_t byte, const char *sentence)
{
    uint8_t code[] = CODE;
    code[at] = byte;
    expect_refused("topk(0.25)", code, sizeof code, 8, sentence);
}

Test(topk, no_other_bytes_than_those_of_a_code_are_taken)
{
    const uint8_t code[] = CODE;
    expect_values("topk(0.25)", code, sizeof code, (float[]){ 0, 1, 0, 0, 0, 0, -1, 0 }, 8);
    expect_refused("topk(0.25)", code, sizeof code - 1, 8, "topk: 11 bytes for 8 values; expected 12");
    expect_refused_with(8, 3, "topk: block 0 has 3 values of 8, with 0 of 2 in those before it");
    expect_refused_with(9, 255, "topk: block 0 has 65282 values of 8, with 0 of 2 in those before it");
    expect_refused_with(11, 8, "topk: place 8 in block 0 of 8 values is outside, or out of order");
    expect_refused_with(11, 1, "topk: place 1 in block 0 of 8 values is outside, or out of order");
    expect_refused_with(10, 7, "topk: place 6 in block 0 of 8 values is outside, or out of order");
    expect_refused_with(3, 0x7f, "topk: value 0 is not finite");
    expect_refused("topk(0.25)", (uint8_t[]){ 0, 0, 0x80, 0x3f, 0, 0, 0, 0, 1, 0, 1, 6 }, 12, 8,
                   "topk: the blocks have 1 values together, and there is another");
    expect_refused("topk(0.25)", (uint8_t[]){ 0, 0, 0x80, 0x3f, 0, 0, 0, 0x80, 1, 0, 1, 0 }, 12, 8,
                   "topk: the blocks have 1 values together, and there is another");
    expect_values("topk(0.25)", (uint8_t[]){ 0, 0, 0x80, 0x3f, 0, 0, 0, 0, 1, 0, 1, 0 }, 12, (float[]){ 0, 1, 0, 0, 0, 0, 0, 0 },
                  8);
    expect_refused_with(8, 1, "topk: the blocks have 1 values together, and there is another");
}
