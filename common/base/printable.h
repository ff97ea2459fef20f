/* printable.h - makes text from outside, such as a field of a data file, safe to show. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Write the `n` bytes at `text` to `out`, which holds `room` bytes with its end: control characters and invalid UTF-8 are
 * escaped (\n, \x1b), so that nothing in it steers a terminal. "..." replaces what does not fit. Returns `out`. */
char *psd_printable(char *out, size_t room, const char *text, size_t n);

/* The number of bytes of the character at `text` (which has `n` bytes) if it may be shown unchanged; 0 for control characters, for
 * those that change the writing direction, and for invalid UTF-8. */
size_t psd_printable_character(const char *text, size_t n);

/* Whether the whole text is valid UTF-8, shown or not. */
bool psd_is_utf8(const char *text);

/* The same of `n` bytes. */
bool psd_are_utf8(const char *text, size_t n);
