/* words.h - the word that was probably meant by one that is not known. */
#pragma once

#include <stddef.h>

/* Letters to add, drop, replace or swap with the next one to make one word of the other (Damerau 1964); 100 when either
 * is longer. */
size_t psd_words_distance(const char *a, const char *b);

/* The candidate that is nearest so far; begin with {0}. */
typedef struct psd_nearest {
    char word[64]; /* "" as long as none is near enough to be meant */
    size_t distance;
} psd_nearest_t;

/* Take `candidate` when it is nearer to `typed` than those before, and near enough: one letter for each three of the
 * longer word, whatever their case. What both begin with, up to a dot, -, _ or blank, does not count as alike: data.foo is as
 * far from data.na as foo is from na. A candidate that people elsewhere call by the name typed is the nearest of all:
 * lr for learning_rate. */
void psd_nearest_consider(psd_nearest_t *self, const char *typed, const char *candidate);
