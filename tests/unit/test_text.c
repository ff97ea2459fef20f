#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text.h"

TestSuite(text, .timeout = 600);

static bool number(const char *text, float *out) { return psd_text_number(text, text + strlen(text), out); }

Test(text, numbers_are_rounded_like_the_c_library_rounds_them)
{
    const char *good[] = { "0",
                           "-0.0",
                           "1",
                           "+2.5",
                           ".5",
                           "5.",
                           "1e3",
                           "1E-3",
                           "3.4028234e38",
                           "0.1",
                           "123456789012345678901234567890",
                           "1e-50",
                           "0.000000000000000000000000000000000000000001",
                           "16777217",
                           "9007199254740993",
                           "2.2250738585072011e-308",
                           "0000000000000000000000000000000000001.5",
                           "1.00000005960464477539062500000000000000000000000001" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        float got = -7, want = (float)strtod(good[i], NULL);
        cr_assert(number(good[i], &got), "refused %s", good[i]);
        cr_assert_arr_eq(&got, &want, sizeof got, "%s is %.9g, not %.9g", good[i], (double)got, (double)want);
    }
}

Test(text, a_text_that_is_not_a_decimal_number_is_refused)
{
    const char *bad[] = { "",    "-",  "+",  ".",   "e5",    "1e",    "1e+",    "0x10", "inf",
                          "nan", "1 ", " 1", "1,5", "1.2.3", "1e999", "3.5e38", "--1",  "1_000" };
    float out;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_not(number(bad[i], &out), "accepted '%s'", bad[i]);
}

Test(text, a_delimiter_is_one_character_or_the_word_tab)
{
    char c;
    psd_err_t err;
    const struct {
        const char *text;
        char is;
    } good[] = { { ",", ',' }, { "tab", '\t' }, { "\\t", '\t' }, { "\t", '\t' }, { ";", ';' }, { "|", '|' }, { " ", ' ' } };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert_eq(psd_text_delimiter(good[i].text, &c, &err), PSD_OK, "%s", good[i].text);
        cr_assert_eq(c, good[i].is);
    }
    const char *bad[] = { "", "comma", ";;", "a", "1", ".", "-", "+", "\"", "'", "\n", "\x1b" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(psd_text_delimiter(bad[i], &c, &err), PSD_ECONFIG, "accepted '%s'", bad[i]);
    cr_assert_str_eq(err.text, "data.delimiter is '\\x1b'; give one character, such as , ; | or the word tab");
}

Test(text, words_stand_between_blanks_and_a_colon_divides_them)
{
    static const char line[] = " \ta:1  :b\r";
    const char *at = line, *end = line + strlen(line);
    psd_text_word_t word = psd_text_next_word(&at, end);
    cr_expect_eq(word.at, line + 2);
    cr_expect_eq(word.end, line + 5);
    cr_expect_eq(psd_text_colon(word), line + 3);
    word = psd_text_next_word(&at, end);
    cr_expect_eq(word.end - word.at, 2);
    cr_expect_eq(psd_text_colon(word), word.at);
    word = psd_text_next_word(&at, end);
    cr_expect_eq(word.at, word.end, "there is no more");
    cr_expect_eq(psd_text_colon(word), word.end);
}

Test(text, a_word_that_is_refused_is_named_with_its_place)
{
    static const char line[] = "1 x\001y 2";
    psd_err_t err;
    const psd_text_word_t word = { line + 2, line + 5 };
    cr_expect_eq(psd_text_refuse("rows.txt", 7, line, word, "is not a feature", &err), PSD_EDATA);
    cr_expect_str_eq(err.text, "rows.txt:7:3: 'x\\x01y' is not a feature");
}

static int take_line(void *arg, size_t line, const char *at, const char *end, psd_err_t *why)
{
    char *out = arg;
    sprintf(out + strlen(out), "%zu:%.*s;", line, (int)(end - at), at);
    return end - at == 4 ? psd_err_set(why, PSD_EDATA, "four") : PSD_OK;
}

Test(text, lines_are_numbered_from_1_to_the_first_that_fails_and_the_last_needs_no_end)
{
    static const struct {
        const char *file, *lines;
        int rc;
    } rows[] = { { "", "", PSD_OK },
                 { "a\n\nb", "1:a;2:;3:b;", PSD_OK },
                 { "\xef\xbb\xbf"
                   "a\n",
                   "1:a;", PSD_OK },
                 { "a\nfour\nb\n", "1:a;2:four;", PSD_EDATA },
                 { "\xff\xfe", "", PSD_EDATA } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char seen[64] = "";
        psd_err_t err = { 0 };
        const psd_bytes_t file = { .name = "f", .at = (const unsigned char *)rows[i].file, .n = strlen(rows[i].file) };
        cr_expect_eq(psd_text_each_line(&file, take_line, seen, &err), rows[i].rc, "%s", rows[i].file);
        cr_expect_str_eq(seen, rows[i].lines);
    }
}
