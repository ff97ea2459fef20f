/* lexicon.h - the distinct words of a column of data, numbered from 0 as they come. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define PSD_NO_WORD UINT32_MAX /* not a word's number */

typedef struct psd_lexicon psd_lexicon_t;

/* An empty one. NULL: no memory. */
psd_lexicon_t *psd_lexicon_new(void);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_lexicon_destroy(psd_lexicon_t **self_p);

/* The number of the `n` bytes at `at`, which stay the caller's and must outlive the lexicon. PSD_NO_WORD: no memory. */
uint32_t psd_lexicon_number(psd_lexicon_t *self, const char *at, size_t n);

/* How many there are, and the i-th. */
size_t psd_lexicon_size(const psd_lexicon_t *self);
const char *psd_lexicon_word(const psd_lexicon_t *self, size_t i, size_t *n);
