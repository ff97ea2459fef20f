/* logtext.h - the text of a log line before it is written: words, then fields. No value can break out of its field. Pure, because
 * the core composes lines too. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

/* Compose `format` into `out`, at most `n` bytes with the end, as vsnprintf would, except that no string can leave its field: a %s
 * that is the whole value of a field (name=%s) is put in quotes unless it is one plain word, and in a %s between quotes of the
 * format (why="cannot join %s") quotes and backslashes are escaped by a backslash. Any other %s is written unchanged: it is text
 * that was composed before, or a word of psd. Supports the conversions of C except n, a and L. Returns the number of bytes written,
 * without the end. */
size_t psd_logtext_compose(char *out, size_t n, const char *format, va_list args);

/* Whether the string is one word that needs no quotes: printable, valid UTF-8, without blank, quote, '=' or backslash. */
int psd_logtext_is_plain(const char *s, size_t n);
