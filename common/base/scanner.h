/* scanner.h - reads a short text of words, numbers and brackets from left to right, and reports the column of the first unexpected
 * word: the common part of the grammars of rules and codecs. It allocates no memory; one thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

enum { PSD_SCANNER_WORD = 32 }; /* bytes of a word, with its end */

typedef struct psd_scanner {
    const char *what; /* "rule": the first word of each sentence */
    const char *text; /* all of it; borrowed */
    const char *at;   /* position of the reader */
    psd_err_t *err;   /* NULL: no sentence needed */
} psd_scanner_t;

/* PSD_ECONFIG, and the sentence with the column of `at`. */
int psd_scanner_fail(const psd_scanner_t *self, const char *at, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for the text at the reader, where `expected` should stand. */
int psd_scanner_expected(const psd_scanner_t *self, const char *expected);

void psd_scanner_skip_spaces(psd_scanner_t *self);

/* Skip spaces, then take `c` if it is next. */
bool psd_scanner_take(psd_scanner_t *self, char c);

/* Skip spaces, then read a word of letters, digits and '_'; PSD_ECONFIG, with `expected` in the sentence, when there is none. */
int psd_scanner_word(psd_scanner_t *self, char word[PSD_SCANNER_WORD], const char *expected);
