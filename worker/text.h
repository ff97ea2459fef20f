/* text.h - numbers and words as they stand in a file of data, and the sentences about those that do not belong there. */
#pragma once

#include <stdbool.h>

#include "common/base/err.h"
#include "worker/reader.h"

/* Read all of [at, end) as one decimal number that a float can hold. False for anything else: empty, blanks,
 * hex, inf, nan, too large. */
bool psd_text_number(const char *at, const char *end, float *out);

/* What psd_text_number did not take, as the end of a sentence that begins with it, with cause and cure: "has a
 * decimal comma; ...". NULL: it is just not a number. */
const char *psd_text_fault(const char *at, const char *end);

enum { PSD_TEXT_QUOTE = 64 /* longest text of a file in a sentence, with its end */ };

/* [at, end) for a sentence: control characters escaped, cut where it is long. Returns `out`. */
const char *psd_text_quote(char out[PSD_TEXT_QUOTE], const char *at, const char *end);

/* A word of a line, [at, end). */
typedef struct psd_text_word {
    const char *at, *end;
} psd_text_word_t;

/* Whether it stands between words. */
bool psd_text_is_blank(char c);

/* The next word of [*at, end), between blanks, and `*at` behind it; an empty one at the end. */
psd_text_word_t psd_text_next_word(const char **at, const char *end);

/* Where the word's first colon is, or its end. */
const char *psd_text_colon(psd_text_word_t word);

/* "FILE:LINE:COLUMN: 'word' why", where the line begins at `line_at`. Returns PSD_EDATA. */
int psd_text_refuse(const char *file, size_t line, const char *line_at, psd_text_word_t word, const char *why, psd_err_t *err);

/* Where the text of a file begins and ends, behind its byte order mark. PSD_EDATA for one in UTF-16, and one whose
 * lines end in CR alone. */
int psd_text_open(const psd_bytes_t *file, const char **at, const char **end, psd_err_t *err);

/* Takes one line of a file, [at, end), the `line`-th from 1. */
typedef int psd_text_line_fn(void *arg, size_t line, const char *at, const char *end, psd_err_t *err);

/* Open a file as psd_text_open does, and hand its lines to `take(arg, ...)`, until one of them fails. */
int psd_text_each_line(const psd_bytes_t *file, psd_text_line_fn *take, void *arg, psd_err_t *err);

/* The character that data.delimiter names, such as ";" or "tab". PSD_ECONFIG when it names none. */
int psd_text_delimiter(const char *text, char *out, psd_err_t *err);
