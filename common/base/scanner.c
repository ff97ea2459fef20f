#include "common/base/scanner.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int psd_scanner_fail(const psd_scanner_t *self, const char *at, const char *format, ...)
{
    char sentence[sizeof self->err->text];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return psd_err_set(self->err, PSD_ECONFIG, "%s, column %zu: %s", self->what, (size_t)(at - self->text) + 1, sentence);
}

int psd_scanner_expected(const psd_scanner_t *self, const char *expected)
{
    const unsigned char found = (unsigned char)*self->at;
    if (found == '\0')
        return psd_scanner_fail(self, self->at, "expected %s, found the end", expected);
    if (isprint(found))
        return psd_scanner_fail(self, self->at, "expected %s, found '%c'", expected, found);
    return psd_scanner_fail(self, self->at, "expected %s, found byte 0x%02x", expected, found);
}

void psd_scanner_skip_spaces(psd_scanner_t *self) { self->at += strspn(self->at, " \t\r\n"); }

bool psd_scanner_take(psd_scanner_t *self, char c)
{
    psd_scanner_skip_spaces(self);
    if (*self->at != c)
        return false;
    self->at++;
    return true;
}

int psd_scanner_word(psd_scanner_t *self, char word[PSD_SCANNER_WORD], const char *expected)
{
    psd_scanner_skip_spaces(self);
    const size_t n = strspn(self->at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    if (n == 0)
        return psd_scanner_expected(self, expected);
    if (n >= PSD_SCANNER_WORD)
        return psd_scanner_fail(self, self->at, "expected %s, found a word of %zu letters", expected, n);
    memcpy(word, self->at, n);
    word[n] = '\0';
    self->at += n;
    return PSD_OK;
}
