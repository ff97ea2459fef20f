#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/codings.h"

/* The codec bf16 sends the upper halves of floats. */

TestSuite(bf16, .timeout = 600);

Test(bf16, a_value_is_the_two_upper_bytes_of_its_float)
{
    /* 1 is 0x3f800000, -2.5 is 0xc0200000. */
    const uint8_t code[] = { 0x80, 0x3f, 0x20, 0xc0, 0x00, 0x80 };
    expect_code("bf16", (float[]){ 1.0f, -2.5f, -0.0f }, 3, code, 6);
    expect_values("bf16", code, 6, (float[]){ 1.0f, -2.5f, -0.0f }, 3);
}

Test(bf16, a_value_in_the_middle_goes_to_the_even_neighbour_and_others_to_the_nearest)
{
    /* Neighbours of 1 are 2^-7 apart: 1 is even, 1 + 2^-7 odd. */
    const float y[] = { 1 + 0x1p-8f, 1 + 0x1p-8f + 0x1p-23f, 1 + 3 * 0x1p-8f, 1 + 0x1p-8f - 0x1p-23f, -1 - 3 * 0x1p-8f };
    const float expected[] = { 1, 1 + 0x1p-7f, 1 + 0x1p-6f, 1, -1 - 0x1p-6f };
    float out[5];
    there_and_back("bf16", y, NULL, out, 5);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(out[i], expected[i], "%a became %a", (double)y[i], (double)out[i]);
}

Test(bf16, denormal_values_are_rounded_like_others)
{
    /* The least one is 2^-133; its half is a tie with 0. */
    const float y[] = { 0x1p-133f, 0x1p-134f, 0x1.8p-133f, -0x1.8p-134f };
    float out[4];
    there_and_back("bf16", y, NULL, out, 4);
    cr_expect(out[0] == 0x1p-133f && out[1] == 0 && out[2] == 0x1p-132f && out[3] == -0x1p-133f);
}

Test(bf16, a_finite_value_stays_finite)
{
    /* The greatest is 0x7f7f; above it by half of a neighbour's distance or more, the nearest would be Inf. */
    const uint8_t code[] = { 0x7f, 0x7f, 0x7f, 0xff };
    expect_code("bf16", (float[]){ 0x1.fffffep127f, -0x1.ffp127f }, 2, code, 4);
}

Test(bf16, inf_and_nan_are_kept_and_then_the_residual_is_as_it_was)
{
    const psd_coding_t coding = coding_of("bf16");
    uint32_t low_nan = 0x7f800001; /* its upper half is that of Inf */
    float y[] = { INFINITY, -INFINITY, NAN, 0, 1 + 0x1p-20f }, residual[] = { 0, 0, 0, 0, 0.25f }, out[5];
    uint8_t code[10];
    memcpy(&y[3], &low_nan, sizeof low_nan);
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        cr_expect_not(psd_coding_encode(&coding, y, residual, 5, code), "the caller learns of it");
        psd_coding_decode(&coding, code, 5, 0, 5, out);
        cr_expect(out[0] == INFINITY && out[1] == -INFINITY && isnan(out[2]) && isnan(out[3]));
        cr_expect_eq(out[4], 1.25f);
        cr_expect_eq(residual[4], 0.25f);
        cr_expect_not(psd_coding_encode(&coding, y, NULL, 5, code));
        psd_coding_decode(&coding, code, 5, 0, 5, out);
        cr_expect(isnan(out[3]), "no addition has made it another NaN before");
    }
}
