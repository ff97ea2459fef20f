#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/codings.h"

/* Values as they are. */

TestSuite(f32, .timeout = 600);

Test(f32, a_value_is_its_four_bytes)
{
    const uint8_t code[] = { 0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x20, 0xc0 };
    expect_code("f32", (float[]){ 1.0f, -2.5f }, 2, code, 8);
    expect_values("f32", code, 8, (float[]){ 1.0f, -2.5f }, 2);
}

Test(f32, every_bit_comes_back_and_the_residual_does_not_change)
{
    const float y[] = { -0.0f, INFINITY, -INFINITY, NAN, 0x1p-149f, 0x1.fffffep127f };
    float residual[] = { 1, 2, 3, 4, 5, 6 }, out[6];
    there_and_back("f32", y, residual, out, 6);
    cr_expect_eq(memcmp(out, y, sizeof y), 0);
    for (int i = 0; i < 6; i++)
        cr_expect_eq(residual[i], (float)(i + 1));
}
