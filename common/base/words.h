/* words.h - finds the word that a user probably meant by an unknown one. */
#pragma once

#include <stddef.h>

/* The number of letters to add, drop, replace or swap with the next one to turn one word into the other (Damerau 1964); 100 when
 * either word is too long. */
size_t psd_words_distance(const char *a, const char *b);

/* The nearest candidate so far; begin with {0}. */
typedef struct psd_nearest {
    char word[64]; /* "" while none is near enough */
    size_t distance;
} psd_nearest_t;

/* Take `candidate` if it is nearer to `typed` than the earlier ones, and near enough: one letter of difference for each three
 * letters of the longer word, ignoring case. A common prefix up to a dot, -, _ or blank does not count: data.foo is as far from
 * data.na as foo is from na. A candidate that other programs call by the name typed is the nearest of all: lr for learning_rate. */
void psd_nearest_consider(psd_nearest_t *self, const char *typed, const char *candidate);
