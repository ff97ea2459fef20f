#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

#include "tests/support/codings.h"

/* Whole numbers and a scale per block. */

TestSuite(int8, .timeout = 600);

Test(int8, the_scale_is_the_greatest_magnitude_over_127_and_ties_go_to_the_even_number)
{
    /* max 254 / 127 = 2 = 0x40000000. 1 / 2 = 0.5 -> 0; 3 / 2 = 1.5 -> 2; -5 / 2 = -2.5 -> -2; 100 / 2 = 50. */
    const uint8_t code[] = { 0x00, 0x00, 0x00, 0x40, 0, 2, 0xfe, 50, 0x81 };
    expect_code("int8", (float[]){ 1, 3, -5, 100, -254 }, 5, code, 9);
    expect_values("int8", code, 9, (float[]){ 0, 4, -4, 100, -254 }, 5);
}

Test(int8, each_256_values_have_a_scale_of_their_own_and_all_scales_come_first)
{
    float y[257];
    uint8_t code[2 * 4 + 257];
    for (int i = 0; i < 256; i++)
        y[i] = i ? 0.0f : -127.0f;
    y[256] = 63.5f;                                                                      /* scale 0.5, number 127 */
    const uint8_t expected[] = { 0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x00, 0x3f, 0x81 }; /* 1, 0.5, -127 */
    memset(code, 0, sizeof code);
    memcpy(code, expected, sizeof expected);
    code[8 + 256] = 127;
    expect_code("int8", y, 257, code, sizeof code);
    expect_values("int8", code, sizeof code, y, 257);
}

Test(int8, it_takes_at_most_26_hundredths_of_the_floats_bytes)
{
    const psd_coding_t coding = coding_of("int8");
    cr_expect_eq(psd_coding_bytes(&coding, 1 << 18), (1 << 18) + 4 * 1024);
    cr_expect_leq((double)psd_coding_bytes(&coding, 1 << 18), 0.26 * 4 * (1 << 18));
}

Test(int8, the_error_is_at_most_half_a_scale)
{
    float y[1000], out[1000];
    for (int i = 0; i < 1000; i++)
        y[i] = sinf((float)i) * 3;
    there_and_back("int8", y, NULL, out, 1000);
    for (int i = 0; i < 1000; i++)
        cr_expect_leq(fabs((double)out[i] - (double)y[i]), 0.5 * 3.0 / 127 * 1.00001, "%d", i);
}

Test(int8, the_greatest_floats_come_back_finite_and_the_least_as_zeros_or_themselves)
{
    const float greatest[] = { FLT_MAX, -FLT_MAX, 1 };
    float out[3];
    there_and_back("int8", greatest, NULL, out, 3);
    cr_expect(isfinite(out[0]) && out[0] >= FLT_MAX * 0.999f && out[1] == -out[0] && out[2] == 0);
    /* In units of 2^-149: 60 / 127 is rounded to 0; 190 / 127 to 1, so that +-190 is bounded to +-127. */
    const float least[] = { 60 * 0x1p-149f, -1 * 0x1p-149f, 0 }, more[] = { 190 * 0x1p-149f, -2 * 0x1p-149f, -190 * 0x1p-149f };
    there_and_back("int8", least, NULL, out, 3);
    cr_expect(out[0] == 0 && out[1] == 0 && out[2] == 0);
    there_and_back("int8", more, NULL, out, 3);
    cr_expect(out[0] == 127 * 0x1p-149f && out[1] == more[1] && out[2] == -out[0]);
}

Test(int8, no_other_bytes_than_those_of_a_code_are_taken)
{
    uint8_t code[] = { 0x00, 0x00, 0x00, 0x40, 1, 0x80 };
    expect_refused("int8", code, 6, 2, "int8: block 0 has a number of -128; the least is -127");
    expect_refused("int8", code, 5, 2, "int8: 5 bytes for 2 values; expected 6");
    expect_refused("int8", code, 7, 2, "int8: 7 bytes for 2 values; expected 6");
    expect_refused("int8", (uint8_t[]){ 0, 0, 0, 0xc0, 1, 1 }, 6, 2, "int8: the scale of block 0 is -2");
    expect_refused("int8", (uint8_t[]){ 0, 0, 0, 0x80, 0, 0 }, 6, 2, "int8: the scale of block 0 is -0");
    expect_refused("int8", (uint8_t[]){ 0, 0, 0x80, 0x7f, 0, 0 }, 6, 2, "int8: the scale of block 0 is inf");
    expect_refused("int8", (uint8_t[]){ 0, 0, 0xc0, 0x7f, 0, 0 }, 6, 2, "int8: the scale of block 0 is nan");
    /* 127 times 2^122 is beyond float32. */
    expect_refused("int8", (uint8_t[]){ 0, 0, 0x80, 0x7c, 0, 0 }, 6, 2, "int8: the scale of block 0 is 5.31691e+36");
    expect_refused("int8", (uint8_t[]){ 0, 0, 0, 0, 0, 1 }, 6, 2, "int8: block 0 has numbers but a scale of 0");
}
