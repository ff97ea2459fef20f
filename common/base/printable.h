/* printable.h - text of other people's making, such as a field of a data file, for a person to read. */
#pragma once

#include <stddef.h>

/* Write the `n` bytes at `text` to `out`, which holds `room` bytes with its end: control characters and invalid UTF-8 are
 * escaped (\n, \x1b), so that nothing in it steers a terminal. "..." replaces what does not fit. Returns `out`. */
char *psd_printable(char *out, size_t room, const char *text, size_t n);

/* Bytes of the character at `text`, of which `n` bytes are there, when it may be shown as it is; 0 for a control character, for
 * those that turn the direction of what follows, and for what is no UTF-8. */
size_t psd_printable_character(const char *text, size_t n);
