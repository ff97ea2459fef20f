#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "common/base/copy.h"

enum { ROOM = 70000 };

static unsigned char from[ROOM], to[ROOM];

static void setup(void)
{
    for (size_t i = 0; i < ROOM; i++)
        from[i] = (unsigned char)(i * 7 + i / 251);
}
TestSuite(copy, .init = setup, .timeout = 600);

/* Of all alignments, and of sizes around those of lines and pages. */
Test(copy, every_byte_is_copied_and_none_beside_them)
{
    static const size_t sizes[] = { 0, 1, 63, 64, 65, 127, 4096, 16383, 16384, 16385, 16448, 32768, 65537 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t a = 0; a < 130; a += 13)
            for (int large = 0; large < 2; large++) {
                const size_t n = sizes[i], b = (a * 5 + 3) % 64;
                memset(to, 0xee, sizeof to);
                psd_copy_large(to + 64 + a, from + b, n, large);
                cr_assert_eq(memcmp(to + 64 + a, from + b, n), 0, "%zu bytes to %zu, large: %d", n, a, large);
                cr_assert(to[63 + a] == 0xee && to[64 + a + n] == 0xee);
            }
}

Test(copy, a_few_kilobytes_are_not_large_and_a_model_is)
{
    cr_expect_not(psd_copy_is_large(1 << 20));
    cr_expect(psd_copy_is_large((size_t)96 << 20));
}
