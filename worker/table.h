/* table.h - the feature columns of a data set as its reader finds them: rows of cells, each a number, a word, or missing. At the
 * end they become the features of the set: of a training set by an encoding that is learned of its own rows but those held out, of
 * another by the training set's (encoding.h). */
#pragma once

#include "worker/dataset.h"
#include "worker/lexicon.h"

/* A missing number is NaN, a missing word PSD_NO_WORD. */
typedef union psd_cell {
    float number;
    uint32_t word; /* its number in the column's lexicon */
} psd_cell_t;

typedef struct psd_table {
    const psd_dataset_options_t *options;
    const char *file;         /* for errors */
    psd_encoding_t *encoding; /* with names and kinds of columns; of a training set the table's own until the end, else borrowed */
    psd_cell_t *cell;         /* n_rows rows and one that is being filled */
    size_t n_rows, room;
    psd_lexicon_t **lexicon; /* per column; NULL where it holds numbers */
} psd_table_t;

/* Begin a table of the columns that `encoding` names, taken over when it is to be learned, and borrowed when it is that of
 * `options->train`. PSD_ENOMEM; clear it in any case. */
int psd_table_begin(psd_table_t *self, psd_encoding_t **encoding, const psd_dataset_options_t *options, const char *file,
                    psd_err_t *err);

/* Of columns whose names are the format's: mark those that options->log1p names. PSD_ECONFIG when there is none of a name, or it
 * holds words. */
int psd_table_mark_log1p(psd_encoding_t *encoding, const psd_dataset_options_t *options, const char *file, psd_err_t *err);

/* The cells of the next row, which counts when `n_rows` is raised. NULL with `err` set: no memory. */
psd_cell_t *psd_table_row(psd_table_t *self, psd_err_t *err);

/* The number of a word of a column; its bytes must live until the end. PSD_NO_WORD with `err` set: no memory. */
uint32_t psd_table_word(psd_table_t *self, size_t column, const char *at, size_t n, psd_err_t *err);

/* All rows are in: learn if that is to be done, and give `set` its features, and the encoding if it is its own. PSD_EDATA,
 * PSD_ENOMEM. */
int psd_table_end(psd_table_t *self, psd_dataset_t *set, psd_err_t *err);

/* Free what is there; all zero is fine. */
void psd_table_clear(psd_table_t *self);

/* The words of a lexicon as ordered texts; the caller frees each and all. NULL with `err` set: PSD_ENOMEM. */
char **psd_table_sorted(const psd_lexicon_t *lexicon, psd_err_t *err);
