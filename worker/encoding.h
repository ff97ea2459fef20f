/* encoding.h - how columns of numbers and words become the features of a model, and words its classes. The parts that depend on
 * data (means, deviations, dictionaries) are learned from the rows that are trained on, by table.h; test sets and rows to be
 * predicted use the same encoding. It is kept with the model as JSON. Read-only once it is learned: any thread may ask. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define PSD_NO_FEATURE    SIZE_MAX
#define PSD_ENCODING_NOTE "psd.encoding" /* the note of a saved model that holds it */

typedef struct psd_table_column {
    char *name;     /* in the file's header; the column's number where it has none */
    bool is_word;   /* it holds words, otherwise numbers */
    bool log1p;     /* of a number x: sign(x) log(1 + |x|) comes first, */
    double mean;    /* then this is taken off, */
    double scale;   /* and what is left divided by this; 0 and 1 without standardisation */
    double fill;    /* what a missing number is before all that: with data.na mean it becomes the mean of training, otherwise 0 */
    bool is_hashed; /* of words: each has its feature by a hash, otherwise one of its own */
    char **word;    /* those with a feature of their own, ordered by bytes */
    size_t n_words;
    size_t first; /* its first feature; of a hashed column, that of all hashed columns */
} psd_table_column_t;

typedef struct psd_encoding {
    psd_table_column_t *column;
    size_t n_columns;
    size_t n_fields; /* columns of the file that it was learned from, with the label and the dropped ones */
    size_t n_features;
    unsigned hash_bits; /* the hashed columns share 2^hash_bits features, the last ones */
    bool has_words;     /* some column holds words: rows are sparse */
    bool fills;         /* a missing number is the mean, a missing word a word: ""; otherwise a missing word has no feature */
    char *label;        /* the name of the label's column, or its number */
    char **class_word;  /* the classes' words, ordered by bytes; NULL: labels are numbers */
    size_t n_classes;   /* of class_word */
} psd_encoding_t;

/* One of `n_columns` columns of numbers without names, to be filled in. NULL with `err` set: PSD_ENOMEM. */
psd_encoding_t *psd_encoding_new(size_t n_columns, psd_err_t *err);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_encoding_destroy(psd_encoding_t **self_p);

/* Give each column its first feature and count them. PSD_EDATA when they are more than a data set may have. */
int psd_encoding_place(psd_encoding_t *self, const char *file, psd_err_t *err);

/* A number of a column of numbers as its feature's value. */
float psd_encoding_value(const psd_table_column_t *column, double number);

/* The feature of a word; PSD_NO_FEATURE if the word did not occur in training. */
size_t psd_encoding_feature(const psd_encoding_t *self, const psd_table_column_t *column, const char *word, size_t n);

/* The class of a word; PSD_NO_FEATURE if there is none. */
size_t psd_encoding_class(const psd_encoding_t *self, const char *word, size_t n);

/* As JSON, on one line; the caller frees it. NULL with `err` set: PSD_ENOMEM; PSD_EDATA when a name or a word is not UTF-8. */
char *psd_encoding_print(const psd_encoding_t *self, psd_err_t *err);

/* Parse the text of psd_encoding_print, from an untrusted source. NULL with `err` set: PSD_EDATA, PSD_ENOMEM. */
psd_encoding_t *psd_encoding_parse(const char *text, psd_err_t *err);
