#include <criterion/criterion.h>
#include <string.h>

#include "worker/murmur3.h"

static uint32_t hash(const char *text, uint32_t seed) { return psd_murmur3(text, strlen(text), seed); }

/* The values of the author's reference code. */
Test(murmur3, gives_the_published_values)
{
    cr_expect_eq(hash("", 0), 0);
    cr_expect_eq(hash("", 1), 0x514e28b7);
    cr_expect_eq(hash("test", 0), 0xba6bd213);
    cr_expect_eq(hash("a", 0x9747b28c), 0x7fa09ea6);
    cr_expect_eq(hash("abc", 0), 0xb3dd93fa);
    cr_expect_eq(hash("Hello, world!", 0x9747b28c), 0x24884cba);
    cr_expect_eq(hash("The quick brown fox jumps over the lazy dog", 0x9747b28c), 0x2fa826cd);
}
