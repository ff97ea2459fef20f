#include "common/config/number.h"

#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static locale_t c_locale;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* Switch this thread to the C locale. The program that uses the worker library may have set another one. Returns the locale for
 * leave_c(). */
static locale_t enter_c(void)
{
    pthread_once(&once, make_locale);
    return c_locale ? uselocale(c_locale) : (locale_t)0;
}

static void leave_c(locale_t before)
{
    if (before)
        uselocale(before);
}

static size_t digits_at(const char *text)
{
    size_t n = 0;
    while (text[n] >= '0' && text[n] <= '9')
        n++;
    return n;
}

/* The length of the number at `text`. strtod would also take spaces, hex, "inf" and "nan". */
static size_t span(const char *text)
{
    size_t i = text[0] == '+' || text[0] == '-';
    const size_t whole = digits_at(text + i);
    i += whole;
    const size_t part = text[i] == '.' ? digits_at(text + i + 1) : 0;
    if (whole + part == 0)
        return 0;
    if (text[i] == '.')
        i += 1 + part;
    if (text[i] == 'e' || text[i] == 'E') {
        const size_t sign = text[i + 1] == '+' || text[i + 1] == '-';
        const size_t exponent = digits_at(text + i + 1 + sign);
        if (exponent)
            i += 1 + sign + exponent;
    }
    return i;
}

size_t psd_number_read(const char *text, double *value)
{
    const size_t n = span(text);
    if (n == 0)
        return 0;
    const locale_t before = enter_c();
    *value = strtod(text, NULL);
    leave_c(before);
    return n;
}

char *psd_number_print_digits(double value, int digits, char buf[PSD_NUMBER_TEXT])
{
    const locale_t before = enter_c();
    snprintf(buf, PSD_NUMBER_TEXT, "%.*g", digits, value);
    leave_c(before);
    return buf;
}

char *psd_number_print(double value, char buf[PSD_NUMBER_TEXT])
{
    for (int digits = 15; digits < 17; digits++) {
        double back = 0;
        psd_number_print_digits(value, digits, buf);
        if (psd_number_read(buf, &back) && back == value)
            return buf;
    }
    return psd_number_print_digits(value, 17, buf);
}
