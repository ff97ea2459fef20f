#include "worker/table.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/array.h"
#include "worker/draw.h"

int psd_table_begin(psd_table_t *self, psd_encoding_t **encoding, const psd_dataset_options_t *options, const char *file,
                    psd_err_t *err)
{
    *self = (psd_table_t){ .options = options, .file = file, .encoding = *encoding };
    *encoding = NULL;
    self->lexicon = calloc(self->encoding->n_columns, sizeof *self->lexicon);
    bool whole = self->lexicon != NULL;
    for (size_t i = 0; whole && i < self->encoding->n_columns; i++)
        if (self->encoding->column[i].is_word)
            whole = (self->lexicon[i] = psd_lexicon_new()) != NULL;
    return whole ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for %zu columns", self->encoding->n_columns);
}

int psd_table_mark_log1p(psd_encoding_t *encoding, const psd_dataset_options_t *options, const char *file, psd_err_t *err)
{
    for (size_t i = 0; i < options->n_log1p; i++) {
        const char *name = options->log1p[i];
        const bool all = !strcmp(name, "*");
        bool found = all;
        for (size_t j = 0; j < encoding->n_columns; j++) {
            psd_table_column_t *column = &encoding->column[j];
            const bool is_it = all ? !column->is_word : !strcmp(name, column->name);
            if (is_it && column->is_word)
                return psd_err_set(err, PSD_ECONFIG,
                                   "%s: data.log1p names column '%.60s', which holds words; name columns of numbers", file, name);
            column->log1p = column->log1p || is_it;
            found = found || is_it;
        }
        if (!found)
            return psd_err_set(err, PSD_ECONFIG, "%s: data.log1p: no column is named '%.60s'; they are %s to %s", file, name,
                               encoding->column[0].name, encoding->column[encoding->n_columns - 1].name);
    }
    return PSD_OK;
}

psd_cell_t *psd_table_row(psd_table_t *self, psd_err_t *err)
{
    const size_t start = self->n_rows * self->encoding->n_columns;
    return psd_array_grow(&self->cell, &self->room, start + self->encoding->n_columns, sizeof *self->cell, err)
               ? NULL
               : self->cell + start;
}

uint32_t psd_table_word(psd_table_t *self, size_t column, const char *at, size_t n, psd_err_t *err)
{
    const uint32_t word = psd_lexicon_number(self->lexicon[column], at, n);
    if (word == PSD_NO_WORD)
        psd_err_set(err, PSD_ENOMEM, "%s: no memory for the words of column '%.60s'", self->file,
                    self->encoding->column[column].name);
    return word;
}

void psd_table_clear(psd_table_t *self)
{
    for (size_t i = 0; self->lexicon && i < self->encoding->n_columns; i++)
        psd_lexicon_destroy(&self->lexicon[i]);
    free(self->lexicon);
    free(self->cell);
    if (self->options && !self->options->train)
        psd_encoding_destroy(&self->encoding);
    *self = (psd_table_t){ 0 };
}

/* ---- Learning ---- */

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void free_texts(char **text, size_t n)
{
    for (size_t i = 0; text && i < n; i++)
        free(text[i]);
    free(text);
}

char **psd_table_sorted(const psd_lexicon_t *lexicon, psd_err_t *err)
{
    const size_t n = psd_lexicon_size(lexicon);
    char **text = calloc(n ? n : 1, sizeof *text);
    bool whole = text != NULL;
    for (size_t i = 0; whole && i < n; i++) {
        size_t length;
        const char *word = psd_lexicon_word(lexicon, i, &length);
        whole = (text[i] = strndup(word, length)) != NULL;
    }
    if (!whole) {
        free_texts(text, n);
        psd_err_set(err, PSD_ENOMEM, "no memory for %zu words", n);
        return NULL;
    }
    qsort(text, n, sizeof *text, compare_texts);
    return text;
}

static const psd_cell_t *cell_at(const psd_table_t *self, size_t row, size_t column)
{
    return &self->cell[row * self->encoding->n_columns + column];
}

/* Mean and standard deviation (of the population) of the transformed numbers that are there, in two passes in the order of rows:
 * every worker that reads the file has the same bits. */
static void learn_numbers(psd_table_t *self, size_t at, const bool *held)
{
    psd_table_column_t *column = &self->encoding->column[at];
    double sum = 0, squares = 0;
    size_t n = 0;
    for (size_t i = 0; i < self->n_rows; i++) {
        const float x = cell_at(self, i, at)->number;
        if (isnan(x) || (held && held[i]))
            continue;
        sum += column->log1p ? copysign(log1p(fabs((double)x)), (double)x) : (double)x;
        n++;
    }
    const double mean = n ? sum / (double)n : 0;
    if (self->encoding->fills) /* a number of the file: its logarithm, if that is taken, is the mean of logarithms */
        column->fill = column->log1p ? copysign(expm1(fabs(mean)), mean) : mean;
    if (!self->options->standardise || !n)
        return;
    for (size_t i = 0; i < self->n_rows; i++) {
        const float x = cell_at(self, i, at)->number;
        if (isnan(x) || (held && held[i]))
            continue;
        const double off = (column->log1p ? copysign(log1p(fabs((double)x)), (double)x) : (double)x) - mean;
        squares += off * off;
    }
    const double deviation = sqrt(squares / (double)n);
    column->mean = mean;
    column->scale = deviation > 0 ? deviation : 1; /* a constant column is 0 everywhere */
}

/* The words of the rows that are trained on, where they are few enough to have a feature each. */
static int learn_words(psd_table_t *self, size_t at, const bool *held, psd_err_t *err)
{
    psd_table_column_t *column = &self->encoding->column[at];
    const psd_lexicon_t *all = self->lexicon[at];
    psd_lexicon_t *seen = psd_lexicon_new();
    int rc = seen ? PSD_OK : PSD_ENOMEM;
    for (size_t i = 0; !rc && i < self->n_rows && psd_lexicon_size(seen) <= self->options->one_hot; i++) {
        const uint32_t word = cell_at(self, i, at)->word;
        size_t n;
        if (word == PSD_NO_WORD || (held && held[i]))
            continue;
        const char *text = psd_lexicon_word(all, word, &n);
        rc = psd_lexicon_number(seen, text, n) == PSD_NO_WORD ? PSD_ENOMEM : PSD_OK;
    }
    if (!rc && psd_lexicon_size(seen) > self->options->one_hot)
        column->is_hashed = true;
    else if (!rc && (column->word = psd_table_sorted(seen, err)))
        column->n_words = psd_lexicon_size(seen);
    else
        rc = psd_err_set(err, PSD_ENOMEM, "%s: no memory for the words of column '%.60s'", self->file, column->name);
    psd_lexicon_destroy(&seen);
    return rc;
}

static int learn(psd_table_t *self, psd_err_t *err)
{
    const psd_dataset_options_t *options = self->options;
    const size_t n_held = options->held_share > 0 ? psd_draw_count(options->held_share, self->n_rows) : 0;
    bool *held = n_held && n_held < self->n_rows ? psd_draw_rows(self->n_rows, n_held, options->seed) : NULL;
    int rc =
        n_held && n_held < self->n_rows && !held ? psd_err_set(err, PSD_ENOMEM, "no memory to hold out %zu rows", n_held) : PSD_OK;
    self->encoding->hash_bits = options->hash_bits ? options->hash_bits : PSD_HASH_BITS;
    self->encoding->fills = options->na == PSD_NA_MEAN;
    for (size_t i = 0; !rc && i < self->encoding->n_columns; i++)
        if (self->encoding->column[i].is_word)
            rc = learn_words(self, i, held, err);
        else
            learn_numbers(self, i, held);
    free(held);
    return rc ? rc : psd_encoding_place(self->encoding, self->file, err);
}

/* ---- Encoding ---- */

static float value_of(const psd_table_column_t *column, float number)
{
    return psd_encoding_value(column, isnan(number) ? column->fill : (double)number);
}

/* Only numbers: in place, because a cell has the size of a float. */
static void encode_dense(psd_table_t *self, psd_dataset_t *set)
{
    const size_t width = self->encoding->n_columns;
    static_assert(sizeof(psd_cell_t) == sizeof(float), "cells become floats in place");
    for (size_t i = 0; i < self->n_rows; i++)
        for (size_t j = 0; j < width; j++)
            self->cell[i * width + j].number = value_of(&self->encoding->column[j], self->cell[i * width + j].number);
    set->dense = &self->cell->number;
    self->cell = NULL;
}

/* The feature of each word of each column. */
static size_t **find_features(const psd_table_t *self)
{
    const psd_encoding_t *encoding = self->encoding;
    size_t **feature = calloc(encoding->n_columns, sizeof *feature);
    for (size_t j = 0; feature && j < encoding->n_columns; j++) {
        if (!self->lexicon[j])
            continue;
        const size_t n_words = psd_lexicon_size(self->lexicon[j]);
        if (!(feature[j] = calloc(n_words + 1, sizeof **feature))) {
            for (size_t i = 0; i < j; i++)
                free(feature[i]);
            free(feature);
            return NULL;
        }
        for (size_t w = 0; w < n_words; w++) {
            size_t n;
            const char *word = psd_lexicon_word(self->lexicon[j], w, &n);
            feature[j][w] = psd_encoding_feature(encoding, &encoding->column[j], word, n);
        }
    }
    return feature;
}

/* Two words of a row may have one hash: their feature is the sum. */
static void add_value(psd_dataset_t *set, uint64_t start, uint64_t *n, size_t feature, float value)
{
    for (uint64_t k = start; k < *n; k++)
        if (set->column[k] == feature) {
            set->value[k] += value;
            return;
        }
    set->column[*n] = (uint32_t)feature;
    set->value[(*n)++] = value;
}

static void encode_row(const psd_table_t *self, size_t row, size_t *const *feature, psd_dataset_t *set, uint64_t *n)
{
    const uint64_t start = *n;
    set->row_start[row] = start;
    for (size_t j = 0; j < self->encoding->n_columns; j++) {
        const psd_table_column_t *column = &self->encoding->column[j];
        const psd_cell_t *cell = cell_at(self, row, j);
        if (column->is_word) {
            if (cell->word == PSD_NO_WORD)
                continue;
            const size_t at = feature[j][cell->word];
            if (at == PSD_NO_FEATURE)
                set->n_unknown++;
            else if (column->is_hashed)
                add_value(set, start, n, at, 1);
            else
                set->column[*n] = (uint32_t)at, set->value[(*n)++] = 1;
            continue;
        }
        const float value = value_of(column, cell->number);
        if (value != 0)
            set->column[*n] = (uint32_t)column->first, set->value[(*n)++] = value;
    }
    set->row_start[row + 1] = *n;
}

static int encode_sparse(const psd_table_t *self, psd_dataset_t *set, psd_err_t *err)
{
    const size_t most = self->n_rows * self->encoding->n_columns;
    size_t **feature = find_features(self);
    set->row_start = calloc(self->n_rows + 1, sizeof *set->row_start);
    set->column = malloc(most * sizeof *set->column);
    set->value = malloc(most * sizeof *set->value);
    const bool whole = feature && set->row_start && set->column && set->value;
    uint64_t n = 0;
    for (size_t i = 0; whole && i < self->n_rows; i++)
        encode_row(self, i, feature, set, &n);
    for (size_t j = 0; feature && j < self->encoding->n_columns; j++)
        free(feature[j]);
    free(feature);
    return whole ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "%s: no memory for %zu values", self->file, most);
}

int psd_table_end(psd_table_t *self, psd_dataset_t *set, psd_err_t *err)
{
    int rc = self->options->train ? PSD_OK : learn(self, err);
    if (rc)
        return rc;
    set->n_features = self->encoding->n_features;
    if (self->encoding->has_words)
        rc = encode_sparse(self, set, err);
    else
        encode_dense(self, set);
    if (!rc && !self->options->train) {
        set->encoding = self->encoding;
        for (size_t i = 0; i < set->encoding->n_columns; i++)
            psd_lexicon_destroy(&self->lexicon[i]);
        free(self->lexicon);
        self->lexicon = NULL;
        self->encoding = NULL;
    }
    return rc;
}
