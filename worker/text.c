#include "worker/text.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "common/config/number.h"
#include "common/base/printable.h"

/* Powers of ten that a double holds exactly. */
static const double pow10_exact[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Digits with at most one point, at least one digit: their value without the point, and its place. Past 18
 * digits the value is not kept (`*n_digits` tells). */
static const char *mantissa(const char *at, const char *end, uint64_t *value, int *n_digits, int *after_point)
{
    bool point = false, any = false;
    for (*value = 0, *n_digits = *after_point = 0; at < end; at++) {
        if (*at == '.' && !point) {
            point = true;
            continue;
        }
        if (!is_digit(*at))
            break;
        any = true;
        *after_point += point;
        *n_digits += *n_digits > 0 || *at != '0';
        if (*n_digits <= 18)
            *value = *value * 10 + (uint64_t)(*at - '0');
    }
    return any ? at : NULL;
}

/* "e-12": 0 when there is none; NULL when it is not one. Absurd exponents stay absurd without overflowing. */
static const char *exponent(const char *at, const char *end, int *value)
{
    *value = 0;
    if (at == end || (*at != 'e' && *at != 'E'))
        return at;
    at++;
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    if (at == end || !is_digit(*at))
        return NULL;
    for (; at < end && is_digit(*at); at++)
        *value = *value < 10000 ? *value * 10 + (*at - '0') : *value;
    if (negative)
        *value = -*value;
    return at;
}

/* Correctly rounded, for numbers that plain arithmetic cannot do exactly. */
static bool slow_number(const char *at, const char *end, double *out)
{
    char text[400];
    size_t n = (size_t)(end - at);
    if (n >= sizeof text)
        return false;
    memcpy(text, at, n);
    text[n] = '\0';
    return psd_number_read(text, out) == n;
}

bool psd_text_number(const char *at, const char *end, float *out)
{
    const char *start = at;
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    uint64_t digits;
    int n_digits, after_point, power;
    if (!(at = mantissa(at, end, &digits, &n_digits, &after_point)) || !(at = exponent(at, end, &power)) || at != end)
        return false;
    double value;
    power -= after_point;
    if (n_digits <= 15 && power >= -22 && power <= 22) { /* one exact operation (Clinger 1990) */
        value = power < 0 ? (double)digits / pow10_exact[-power] : (double)digits * pow10_exact[power];
        value = negative ? -value : value;
    } else if (!slow_number(start, end, &value)) {
        return false;
    }
    if (!(fabs(value) <= (double)FLT_MAX))
        return false;
    *out = (float)value;
    return true;
}

/* Whether [at, end) is `word`, whatever its letters' case. */
static bool is_word(const char *at, const char *end, const char *word)
{
    return (size_t)(end - at) == strlen(word) && !strncasecmp(at, word, strlen(word));
}

const char *psd_text_fault(const char *at, const char *end)
{
    uint64_t digits;
    int n_digits, after_point, power;
    const char *start = at + (at < end && (*at == '-' || *at == '+'));
    const char *behind = mantissa(start, end, &digits, &n_digits, &after_point);
    const char *comma = memchr(at, ',', (size_t)(end - at));
    float part;
    if (is_word(start, end, "inf") || is_word(start, end, "infinity") || is_word(start, end, "nan"))
        return "is not finite; fill it in, or leave its row out";
    if (end - start > 2 && *start == '0' && (start[1] == 'x' || start[1] == 'X'))
        return "is hexadecimal; write it in decimal digits";
    if (behind && exponent(behind, end, &power) == end)
        return "exceeds the range of float32 (3.4e38); scale it down";
    if (comma && psd_text_number(at, comma, &part) && psd_text_number(comma + 1, end, &part))
        return "has a comma in it; write a decimal point, and nothing between thousands";
    if (memchr(at, ';', (size_t)(end - at)))
        return "is not a number; is data.delimiter a semicolon?";
    if (memchr(at, '\t', (size_t)(end - at)))
        return "is not a number; is data.delimiter a tab?";
    return NULL;
}

/* ---- Text ---- */

const char *psd_text_quote(char out[PSD_TEXT_QUOTE], const char *at, const char *end)
{
    return psd_printable(out, PSD_TEXT_QUOTE, at, (size_t)(end - at));
}

bool psd_text_is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

psd_text_word_t psd_text_next_word(const char **at, const char *end)
{
    while (*at < end && psd_text_is_blank(**at))
        ++*at;
    psd_text_word_t word = { *at, *at };
    while (word.end < end && !psd_text_is_blank(*word.end))
        word.end++;
    *at = word.end;
    return word;
}

const char *psd_text_colon(psd_text_word_t word)
{
    const char *colon = memchr(word.at, ':', (size_t)(word.end - word.at));
    return colon ? colon : word.end;
}

int psd_text_refuse(const char *file, size_t line, const char *line_at, psd_text_word_t word, const char *why, psd_err_t *err)
{
    char shown[PSD_TEXT_QUOTE];
    return psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%s' %s", file, line, (size_t)(word.at - line_at) + 1,
                       psd_text_quote(shown, word.at, word.end), why);
}

int psd_text_open(const psd_bytes_t *file, const char **at, const char **end, psd_err_t *err)
{
    *at = (const char *)file->at;
    *end = *at + file->n;
    if (file->n >= 2 && (!memcmp(*at, "\xff\xfe", 2) || !memcmp(*at, "\xfe\xff", 2)))
        return psd_err_set(err, PSD_EDATA, "%s: UTF-16 text; save it as UTF-8", file->name);
    if (file->n >= 3 && !memcmp(*at, "\xef\xbb\xbf", 3))
        *at += 3;
    const char *cr = *at == *end ? NULL : memchr(*at, '\r', (size_t)(*end - *at));
    if (cr && !memchr(*at, '\n', (size_t)(*end - *at)))
        return psd_err_set(err, PSD_EDATA, "%s: lines end in CR; convert them to LF, as tr '\\r' '\\n' does", file->name);
    return PSD_OK;
}

int psd_text_each_line(const psd_bytes_t *file, psd_text_line_fn *take, void *arg, psd_err_t *err)
{
    const char *at, *end;
    int rc = psd_text_open(file, &at, &end, err);
    for (size_t line = 1; !rc && at < end; line++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        rc = take(arg, line, at, newline ? newline : end, err);
        at = newline ? newline + 1 : end;
    }
    return rc;
}

int psd_text_delimiter(const char *text, char *out, psd_err_t *err)
{
    const bool is_tab = !strcmp(text, "tab") || !strcmp(text, "\\t") || !strcmp(text, "\t");
    *out = is_tab ? '\t' : text[0];
    if (is_tab || (text[0] && !text[1] && ispunct((unsigned char)text[0]) && !strchr("\"'.+-_", text[0])) || !strcmp(text, " "))
        return PSD_OK;
    char shown[PSD_TEXT_QUOTE];
    return psd_err_set(err, PSD_ECONFIG, "data.delimiter is '%s'; give one character, such as , ; | or the word tab",
                       psd_text_quote(shown, text, text + strlen(text)));
}
