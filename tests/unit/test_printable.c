#include <criterion/criterion.h>
#include <string.h>

#include "common/base/printable.h"

static void shows(const char *text, const char *want)
{
    char out[32];
    cr_expect_str_eq(psd_printable(out, sizeof out, text, strlen(text)), want);
}

Test(printable, text_stays_and_what_steers_a_terminal_is_escaped)
{
    shows("", "");
    shows("plain, text", "plain, text");
    shows("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    shows("a\tb\nc\rd", "a\\tb\\nc\\rd");
    shows("\x1b[31m\x7f", "\\x1b[31m\\x7f");
    shows("\xc2\x9b", "\\xc2\\x9b");
    shows("\xc2\x9f\xc2\xa0", "\\xc2\\x9f\xc2\xa0");
    shows("\xe2\x80\xae", "\\xe2\\x80\\xae");
}

Test(printable, invalid_utf_8_is_escaped)
{
    shows("\xff", "\\xff");
    shows("\xc3", "\\xc3");
    shows("\xc0\xaf", "\\xc0\\xaf");
    shows("\xe0\x80\x80", "\\xe0\\x80\\x80");
    shows("\xed\xa0\x80", "\\xed\\xa0\\x80");
    shows("\xf5\x80\x80", "\\xf5\\x80\\x80");
}

Test(printable, a_text_that_is_too_long_is_cut_between_characters)
{
    char out[8];
    cr_assert_str_eq(psd_printable(out, sizeof out, "1234567", 7), "1234567");
    cr_assert_str_eq(psd_printable(out, sizeof out, "12345678", 8), "1234...");
    cr_assert_str_eq(psd_printable(out, sizeof out,
                                   "123\xc3\xa9"
                                   "45678",
                                   10),
                     "123...");
    cr_assert_str_eq(psd_printable(out, sizeof out,
                                   "12\xff"
                                   "8888",
                                   7),
                     "12...");
}

Test(printable, a_text_is_utf_8_even_where_it_is_not_printable)
{
    cr_expect(psd_is_utf8(""));
    cr_expect(psd_is_utf8("a\n\x1b\x7f\xc2\x9b\xe2\x80\xae\xf0\x9f\x98\x80"));
    cr_expect_not(psd_is_utf8("a\xff"));
    cr_expect_not(psd_is_utf8("a\xc3"));
    cr_expect_not(psd_is_utf8("\xc0\xaf"));
    cr_expect_not(psd_is_utf8("\xed\xa0\x80"));
    cr_expect_not(psd_is_utf8("\xf5\x80\x80\x80"));
}
