/* dataset.h - a data set held in memory: rows of float32 features, dense or sparse, each with a label.
 *
 * "FORMAT:WHERE" names one: "idx:train-images.gz", "libsvm:train.txt", "csv:table.csv", "glyphs:60000". A
 * format is a row of the reader table (datasets/all.h), one file each. Files may be gzipped. Errors name
 * file:line (or offset), the cause and the cure, and show what the file holds with its control characters
 * escaped. A loaded set is read-only: any number of threads may read it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "worker/encoding.h"
#include "worker/reader.h"

enum {
    PSD_MAX_CLASSES = 1 << 20,     /* labels of a classification run from 0 to one less */
    PSD_MAX_FEATURES = 0x7fffffff, /* columns of a row */
    PSD_ONE_HOT = 100,             /* default of `one_hot` */
    PSD_HASH_BITS = 16,            /* default of `hash_bits` */
};

/* What a label means: the number of a class, or the number that a regression predicts. */
typedef enum psd_label_kind { PSD_LABEL_CLASS, PSD_LABEL_TARGET } psd_label_kind_t;

/* What becomes of a missing value of a table: the file is refused, it counts as 0 (a word has no feature), its row is left out, or
 * it is the mean of its column in the rows that are trained on (a word is one of its own). */
typedef enum psd_na { PSD_NA_ERROR, PSD_NA_ZERO, PSD_NA_SKIP, PSD_NA_MEAN } psd_na_t;

/* Exactly one of `pixels`, `dense` and `row_start` is set. */
struct psd_dataset {
    size_t n_rows;            /* at least 1, fits 32 bits */
    size_t n_features;        /* at least 1 */
    psd_label_kind_t kind;    /* what `label` holds */
    size_t n_classes;         /* of PSD_LABEL_CLASS: the largest label of the training set + 1, at least 2; else 0 */
    size_t first_class;       /* of PSD_LABEL_CLASS: the smallest label; 0 unless classes are counted from 1, or some are missing */
    size_t n_skipped;         /* rows of the file that data.na left out */
    size_t n_unknown;         /* words that the training set does not have, and that so have no feature */
    size_t widest_line;       /* of a sparse file: the line with the largest index, from 1; 0: none */
    bool minus_one;           /* labels were -1 and +1 in the file, and are 0 and 1 here */
    bool unlabelled;          /* rows to be predicted: there are no labels, and `label` is 0 */
    psd_encoding_t *encoding; /* of a training set that is a table: how its columns became features; else NULL */
    float *label;             /* n_rows labels */
    float *weight;            /* n_rows factors of the rows' losses; NULL: all 1 */
    uint8_t *pixels;          /* dense, row-major, 0..255; the feature is pixel / 255 */
    float *dense;             /* dense, row-major */
    uint64_t *row_start;      /* sparse (CSR): row i is column/value [row_start[i], row_start[i + 1]) */
    uint32_t *column;         /* from 0, below n_features; in file order, each once a row */
    float *value;
};

/* How to read. Zero is a good start, but for `index_base`; strings are borrowed for the call. */
struct psd_dataset_options {
    psd_label_kind_t kind;    /* what the model wants the labels to be */
    const char *labels;       /* idx: the file of labels. NULL: none given */
    const char *label_column; /* csv: its name in the header, or its number from 0. NULL or "": the last one */
    const char *const *drop;  /* tables: columns that are left out, by name or number, n_drop of them */
    size_t n_drop;
    const char *const *categorical; /* tables: columns that hold words; "*": all in which no row has a number */
    size_t n_categorical;
    const char *const *log1p; /* tables: columns whose numbers x become sign(x) log(1 + |x|); "*": all that hold numbers */
    size_t n_log1p;
    const char *weight_column; /* csv: the column that multiplies a row's loss. NULL or "": none */
    bool standardise;          /* tables: numbers get mean 0 and deviation 1 over the rows that are trained on */
    size_t one_hot;            /* tables: most words of a column that have a feature each; more are hashed */
    unsigned hash_bits;        /* tables: hashed words share 2^hash_bits features. 0: PSD_HASH_BITS */
    double held_share; /* share of the rows that will be held out (holdout.h) and must not influence the encoding. 0: none */
    uint64_t seed;     /* that says which */
    char delimiter;    /* csv: the separator of fields; 0: a comma */
    bool header;       /* csv: the first record names the columns */
    psd_na_t na;       /* csv: missing values */
    int index_base;    /* libsvm: 0 or 1, the number of the first feature; never guessed */
    const psd_dataset_t *train; /* read a test set: features and classes must fit this training set. NULL: train */
    bool predicts;              /* with `train`: rows that need no label; the columns of a csv may stand anywhere */
    bool trains;                /* with `predicts`: they are trained on, so the columns that options name must be there */
};

/* Load "FORMAT:WHERE". NULL with `err` set: PSD_ECONFIG for a wrong spec or option, PSD_ENOINPUT for a file
 * that is not there, PSD_EDATA for one that is wrong, PSD_EIO, PSD_ENOMEM. */
psd_dataset_t *psd_dataset_load(const char *spec, const psd_dataset_options_t *options, psd_err_t *err);

/* Whether sets of that name are tables, whose columns become features by an encoding. */
bool psd_dataset_needs_encoding(const char *spec);

/* PSD_ECONFIG, with the formats that there are, when it does not begin with one. */
int psd_dataset_check_format(const char *spec, psd_err_t *err);

/* Whether its rows, classes, are all of one class: a model would learn to say always that. */
bool psd_dataset_has_one_class(const psd_dataset_t *self);

/* Free it and set `*self_p` to NULL; NULL inside is fine. */
void psd_dataset_destroy(psd_dataset_t **self_p);

/* Write the features of `n` rows, one after the other, to `out`, `n_features` floats each. Dense sets only. */
void psd_dataset_gather(const psd_dataset_t *self, const uint32_t *rows, size_t n, float *out);

/* A number that depends on every label, weight and feature (XXH3, 64 bits; not for defence): two sets of one number are the
 * same rows in the same order. */
uint64_t psd_dataset_hash(const psd_dataset_t *self);

static inline bool psd_dataset_is_sparse(const psd_dataset_t *self) { return self->row_start != NULL; }

/* The i-th reader, NULL past the end of the table; by name, NULL when there is none. */
const psd_reader_t *psd_dataset_reader_at(size_t i);
const psd_reader_t *psd_dataset_reader(const char *name);

/* Parse bytes in memory, as psd_dataset_load does with a file's. */
psd_dataset_t *psd_dataset_parse(const psd_reader_t *reader, const psd_bytes_t *file, const psd_bytes_t *labels,
                                 const psd_dataset_options_t *options, psd_err_t *err);
