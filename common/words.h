/* words.h - the word that was probably meant by one that is not known. */
#pragma once

#include <stddef.h>

/* Letters to add, drop or replace to make one word of the other (Levenshtein 1965); 100 when either is longer. */
size_t psd_words_distance(const char *a, const char *b);

/* The candidate that is nearest so far; begin with {0}. */
typedef struct psd_nearest {
    char word[64]; /* "" as long as none is near enough to be meant */
    size_t distance;
} psd_nearest_t;

/* Take `candidate` when it is nearer to `typed` than those before, and near enough: two letters, and one more for
 * each eight of it. */
void psd_nearest_consider(psd_nearest_t *self, const char *typed, const char *candidate);
