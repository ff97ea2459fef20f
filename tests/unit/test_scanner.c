#include <criterion/criterion.h>

#include "common/base/scanner.h"

TestSuite(scanner, .timeout = 600);

static psd_err_t err;
static char word[PSD_SCANNER_WORD];

static psd_scanner_t over(const char *text) { return (psd_scanner_t){ .what = "rule", .text = text, .at = text, .err = &err }; }

Test(scanner, words_and_signs_are_taken_past_spaces)
{
    psd_scanner_t s = over("  adam ( lr_2");
    cr_assert_eq(psd_scanner_word(&s, word, "a name"), PSD_OK);
    cr_expect_str_eq(word, "adam");
    cr_expect_not(psd_scanner_take(&s, ')'), "another sign stays");
    cr_expect(psd_scanner_take(&s, '('));
    cr_assert_eq(psd_scanner_word(&s, word, "a name"), PSD_OK);
    cr_expect_str_eq(word, "lr_2");
}

Test(scanner, an_unexpected_character_is_named_with_its_column)
{
    psd_scanner_t s = over("adam =");
    psd_scanner_word(&s, word, "a name");
    cr_expect_eq(psd_scanner_word(&s, word, "an argument"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "rule, column 6: expected an argument, found '='");
    s = over("");
    psd_scanner_expected(&s, "a name");
    cr_expect_str_eq(err.text, "rule, column 1: expected a name, found the end");
    s = over("\x1b");
    psd_scanner_expected(&s, "a name");
    cr_expect_str_eq(err.text, "rule, column 1: expected a name, found byte 0x1b");
}

Test(scanner, a_word_that_does_not_fit_is_refused_by_its_length)
{
    psd_scanner_t s = over("abcdefghijabcdefghijabcdefghijab(");
    cr_expect_eq(psd_scanner_word(&s, word, "a name"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "rule, column 1: expected a name, found a word of 32 letters");
    s = over("abcdefghijabcdefghijabcdefghija(");
    cr_expect_eq(psd_scanner_word(&s, word, "a name"), PSD_OK, "31 and the end fit");
}
