#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/number.h"
#include "common/base/rng.h"

Test(number, every_double_prints_so_that_it_reads_back)
{
    uint64_t stream = 9;
    for (int i = 0; i < 20000; i++) {
        char text[PSD_NUMBER_TEXT];
        double value, back = 0;
        const uint64_t bits = psd_splitmix64(&stream);
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        psd_number_print(value, text);
        cr_assert_eq(psd_number_read(text, &back), strlen(text), "%s", text);
        cr_assert_eq(back, value, "%s", text);
    }
}

Test(number, prints_no_more_digits_than_it_needs)
{
    char text[PSD_NUMBER_TEXT];
    cr_expect_str_eq(psd_number_print(0.1, text), "0.1");
    cr_expect_str_eq(psd_number_print(1e-8, text), "1e-08");
    cr_expect_str_eq(psd_number_print(1.0 / 3.0, text), "0.3333333333333333");
}

Test(number, reads_decimal_numbers_and_nothing_else)
{
    static const struct {
        const char *text;
        size_t taken;
    } cases[] = { { "1", 1 },    { "-1.5e-3,", 7 }, { "+.5", 3 }, { "5.", 2 },  { "1e", 1 },
                  { "1e+x", 1 }, { "0x10", 1 },     { " 1", 0 },  { "inf", 0 }, { "-nan", 0 },
                  { "", 0 },     { "-", 0 },        { ".", 0 },   { "e5", 0 },  { "1e5e", 3 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = 0;
        cr_expect_eq(psd_number_read(cases[i].text, &value), cases[i].taken, "'%s'", cases[i].text);
    }
}

Test(number, a_locale_with_a_decimal_comma_changes_nothing)
{
    static const char *const names[] = { "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "ru_RU.UTF-8" };
    const char *set = NULL;
    char text[PSD_NUMBER_TEXT];
    double value = 0;
    for (size_t i = 0; !set && i < sizeof names / sizeof *names; i++)
        set = setlocale(LC_ALL, names[i]); /* without an installed locale, there is nothing to test */
    cr_expect_str_eq(psd_number_print(0.5, text), "0.5");
    cr_expect_eq(psd_number_read("0.25", &value), 4u);
    cr_expect_eq(value, 0.25);
}
