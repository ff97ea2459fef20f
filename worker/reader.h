/* reader.h - a format of data sets: a row of the table datasets/all.h, one file each. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

typedef struct psd_dataset psd_dataset_t;
typedef struct psd_dataset_options psd_dataset_options_t;

/* Bytes to be parsed, not ended by anything, and what to call them in errors. */
typedef struct psd_bytes {
    const char *name;        /* the file; for a reader of no file, what followed the colon ("" if nothing) */
    const unsigned char *at; /* NULL for a reader of no file */
    size_t n;
} psd_bytes_t;

typedef struct psd_reader {
    const char *name;    /* the FORMAT */
    const char *summary; /* one line for people */
    const char *magic;   /* what a file of it begins with, where that would be taken for another one's; else NULL */
    bool no_file;        /* WHERE is an argument of the reader, not a file */
    bool needs_labels;   /* labels lie in a file of their own */
    bool has_columns;    /* label_column, drop and delimiter mean something */
    bool is_table;       /* log1p and standardise do */
    /* Fill the zeroed `self`; what it holds when this fails is freed by the caller. `labels`: NULL unless
     * needed. */
    int (*read)(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err);
} psd_reader_t;
