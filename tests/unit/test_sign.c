#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

#include "tests/support/codings.h"

/* Signs, zeros, and a scale per block. */

TestSuite(sign, .timeout = 600);

Test(sign, scales_come_first_then_the_bits_for_nonzero_then_those_for_negative)
{
    /* (1 + 2 + 6 + 3) / 4 = 3 = 0x40400000; not 0: values 0, 2, 3 and 8; negative: 2 and 8. */
    const float y[] = { 1, 0, -2, 6, 0, -0.0f, 0, 0, -3 };
    const uint8_t code[] = { 0, 0, 0x40, 0x40, 0x0d, 0x01, 0x04, 0x01 };
    expect_code("sign", y, 9, code, sizeof code);
    expect_values("sign", code, sizeof code, (float[]){ 3, 0, -3, 3, 0, 0, 0, 0, -3 }, 9);
}

Test(sign, each_256_values_have_a_scale_of_their_own)
{
    float y[258] = { 0 };
    uint8_t code[2 * 4 + 2 * 33] = { 0 };
    y[255] = 5;
    y[257] = -0.5f;
    code[2] = 0xa0, code[3] = 0x40; /* 5 */
    code[7] = 0x3f;                 /* 0.5 */
    code[8 + 31] = 0x80;            /* value 255 */
    code[8 + 32] = 0x02;            /* value 257 */
    code[8 + 33 + 32] = 0x02;       /* is negative */
    expect_code("sign", y, 258, code, sizeof code);
    expect_values("sign", code, sizeof code, y, 258);
}

Test(sign, it_takes_at_most_a_fourteenth_of_the_floats_bytes)
{
    const psd_coding_t coding = coding_of("sign");
    cr_expect_eq(psd_coding_bytes(&coding, 1 << 18), 1024 * 4 + 2 * (1 << 15));
    cr_expect_leq(14 * psd_coding_bytes(&coding, 1 << 18), 4u << 18);
}

Test(sign, multiples_of_a_number_by_minus_one_zero_or_one_come_back_without_residual)
{
    float y[1000], residual[1000] = { 0 }, out[1000];
    for (int i = 0; i < 1000; i++)
        y[i] = (float)(i * i % 3 - i % 2) * 0.1f;
    there_and_back("sign", y, residual, out, 1000);
    for (int i = 0; i < 1000; i++)
        cr_expect(out[i] == y[i] && residual[i] == 0, "%d: %a", i, (double)out[i]);
}

Test(sign, the_greatest_and_the_least_floats_have_a_scale)
{
    const float y[] = { FLT_MAX, -FLT_MAX, 0 }, least[] = { 0x1p-149f, 0, -0x1p-149f };
    float out[3];
    there_and_back("sign", y, NULL, out, 3);
    cr_expect_eq(memcmp(out, y, sizeof y), 0);
    there_and_back("sign", least, NULL, out, 3);
    cr_expect_eq(memcmp(out, least, sizeof least), 0);
}

Test(sign, no_other_bytes_than_those_of_a_code_are_taken)
{
    expect_values("sign", (uint8_t[]){ 0, 0, 0x80, 0x3f, 0x03, 0x02 }, 6, (float[]){ 1, -1, 0 }, 3);
    expect_refused("sign", (uint8_t[]){ 0, 0, 0x80, 0x3f, 3, 2 }, 5, 3, "sign: 5 bytes for 3 values; expected 6");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0x80, 0x3f, 3, 4 }, 6, 3, "sign: block 0 has a value that is both 0 and negative");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0x80, 0x3f, 8, 0 }, 6, 3, "sign: there are bits after the last of 3 values");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0x80, 0x3f, 0, 0 }, 6, 3, "sign: block 0 has only zeros but a scale of 1");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0, 0, 1, 0 }, 6, 3, "sign: block 0 has values but a scale of 0");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0x80, 0xbf, 1, 0 }, 6, 3, "sign: the scale of block 0 is -1");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0, 0x80, 0, 0 }, 6, 3, "sign: the scale of block 0 is -0");
    expect_refused("sign", (uint8_t[]){ 0, 0, 0x80, 0x7f, 1, 0 }, 6, 3, "sign: the scale of block 0 is inf");
    expect_refused("sign", (uint8_t[]){ 1, 0, 0x80, 0x7f, 1, 0 }, 6, 3, "sign: the scale of block 0 is nan");
}
