/* logtext.h - the text of a log line before it is written: words, then fields. Values keep to their field, whatever
 * they hold. Pure, for the core composes lines, too. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

/* Compose `format` into `out`, at most `n` bytes with the end, as vsnprintf would, but that a string keeps to its
 * place: a %s that is all of a field's value (name=%s) is put in quotes unless it is one plain word, and in any %s
 * between quotes of the format (why="cannot join %s") quotes and backslashes are escaped by a backslash. A %s anywhere
 * else is taken as it is: it is text that was composed before, or a word of ours.
 * Conversions are those of C but n, a and L. Returns the number of bytes written, without the end. */
size_t psd_logtext_compose(char *out, size_t n, const char *format, va_list args);

/* Whether the string is one word that needs no quotes: printable, no blank, quote, '=' or backslash, valid UTF-8. */
int psd_logtext_is_plain(const char *s, size_t n);
