/* criteo.c - the click logs of Criteo's display advertising challenge: lines of fields between tabs, a label, 13 whole numbers
 * (I1 to I13) and 26 hexadecimal words (C1 to C26); an empty field is missing. Rows to be predicted may come without the label,
 * as the challenge's test set does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/labels.h"
#include "worker/table.h"
#include "worker/text.h"

enum { NUMBERS = 13, WORDS = 26, FEATURES = NUMBERS + WORDS, LONGEST_WORD = 16 };

typedef struct parser {
    psd_dataset_t *set;
    const psd_dataset_options_t *options;
    const char *name; /* of the file */
    psd_labels_t labels;
    psd_table_t table;
    size_t line;
    const char *line_at; /* its first character */
    size_t n_fields;     /* of the first line, and so of all; 0: none read yet */
} parser_t;

static int refuse(const parser_t *self, psd_text_word_t field, psd_err_t *err, const char *why)
{
    return psd_text_refuse(self->name, self->line, self->line_at, field, why, err);
}

static int miss(const parser_t *self, psd_text_word_t field, bool *skip, psd_err_t *err)
{
    *skip = *skip || self->options->na == PSD_NA_SKIP;
    return self->options->na == PSD_NA_ERROR
               ? refuse(self, field, err,
                        self->options->predicts ? "is a missing value, as the format has many; set data.na to zero or mean"
                                                : "is a missing value, as the format has many; set data.na to zero, mean or skip")
               : PSD_OK;
}

static int add_number(const parser_t *self, psd_text_word_t field, psd_cell_t *cell, bool *skip, psd_err_t *err)
{
    if (field.at == field.end) {
        cell->number = self->options->na == PSD_NA_MEAN ? NAN : 0;
        return miss(self, field, skip, err);
    }
    const char *fault = psd_text_fault(field.at, field.end);
    return psd_text_number(field.at, field.end, &cell->number)
               ? PSD_OK
               : refuse(self, field, err, fault ? fault : "is not a number; fields 2 to 14 are numbers");
}

static int add_word(parser_t *self, size_t column, psd_text_word_t field, psd_cell_t *cell, bool *skip, psd_err_t *err)
{
    if (field.at == field.end) {
        const int rc = miss(self, field, skip, err);
        cell->word = PSD_NO_WORD;
        if (rc || self->options->na != PSD_NA_MEAN)
            return rc;
    }
    const size_t n = (size_t)(field.end - field.at);
    for (const char *at = field.at; at < field.end; at++)
        if (n > LONGEST_WORD || !strchr("0123456789abcdefABCDEF", *at) || !*at)
            return refuse(self, field, err, "is not a hexadecimal word, as fields 15 to 40 must be");
    cell->word = psd_table_word(&self->table, column, field.at, n, err);
    return cell->word == PSD_NO_WORD ? PSD_ENOMEM : PSD_OK;
}

/* Split a line into fields; returns their number, at most one too many. */
static size_t split(const char *at, const char *end, psd_text_word_t field[FEATURES + 2])
{
    size_t n = 0;
    for (; n < FEATURES + 2; n++) {
        const char *tab = memchr(at, '\t', (size_t)(end - at));
        field[n] = (psd_text_word_t){ at, tab ? tab : end };
        if (!tab)
            return n + 1;
        at = tab + 1;
    }
    return n;
}

static int parse_line(void *arg, size_t line, const char *at, const char *end, psd_err_t *err)
{
    parser_t *self = arg;
    psd_text_word_t field[FEATURES + 2];
    float label = 0;
    bool skip = false;
    end -= end > at && end[-1] == '\r';
    self->line = line;
    self->line_at = at;
    if (at == end)
        return PSD_OK;
    const size_t n = split(at, end, field);
    const bool bare = n == FEATURES && self->options->predicts;
    if (n != FEATURES + 1 && !bare)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %s%zu fields between tabs, where a row has %d: a label, 13 numbers, 26 words",
                           self->name, self->line, n > FEATURES + 1 ? "more than " : "", n > FEATURES + 1 ? n - 1 : n,
                           FEATURES + 1);
    if (self->n_fields && self->n_fields != n)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %zu fields, where the first line has %zu", self->name, self->line, n,
                           self->n_fields);
    self->n_fields = n;
    const psd_text_word_t *feature = field + !bare;
    if (!bare && !psd_text_number(field[0].at, field[0].end, &label))
        return refuse(self, field[0], err, "is not a label; a row starts with 0 or 1");
    psd_cell_t *cell = psd_table_row(&self->table, err);
    int rc = cell ? PSD_OK : PSD_ENOMEM;
    for (size_t j = 0; !rc && j < FEATURES; j++)
        rc = j < NUMBERS ? add_number(self, feature[j], &cell[j], &skip, err) : add_word(self, j, feature[j], &cell[j], &skip, err);
    self->set->n_skipped += !rc && skip;
    if (rc || skip)
        return rc;
    self->table.n_rows++;
    return psd_labels_add(&self->labels, label, self->name, self->line, err);
}

static int begin(parser_t *self, psd_err_t *err)
{
    const psd_dataset_t *train = self->options->train;
    if (train && (!train->encoding || train->encoding->n_columns != FEATURES || strcmp(train->encoding->column[0].name, "I1")))
        return psd_err_set(err, PSD_EDATA, "%s is a criteo file, but the training set is not; give both the same format",
                           self->name);
    psd_encoding_t *encoding = train ? train->encoding : psd_encoding_new(FEATURES, err);
    bool whole = encoding && (train || (encoding->label = strdup("label")));
    for (size_t j = 0; whole && !train && j < FEATURES; j++) {
        char name[8];
        snprintf(name, sizeof name, j < NUMBERS ? "I%zu" : "C%zu", j < NUMBERS ? j + 1 : j + 1 - NUMBERS);
        encoding->column[j].is_word = j >= NUMBERS;
        whole = (encoding->column[j].name = strdup(name)) != NULL;
    }
    int rc = whole ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for %d columns", FEATURES);
    if (!train && !rc) {
        encoding->n_fields = FEATURES + 1;
        rc = psd_table_mark_log1p(encoding, self->options, self->name, err);
    }
    rc = rc ? rc : psd_table_begin(&self->table, &encoding, self->options, self->name, err);
    if (!train)
        psd_encoding_destroy(&encoding);
    return rc;
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    (void)labels;
    parser_t parser = { .set = self, .options = options, .name = file->name, .labels = { .set = self, .options = options } };
    int rc = begin(&parser, err);
    rc = rc ? rc : psd_text_each_line(file, parse_line, &parser, err);
    rc = rc ? rc : psd_labels_end(&parser.labels, file->name, err);
    rc = rc ? rc : psd_table_end(&parser.table, self, err);
    self->unlabelled = parser.n_fields == FEATURES;
    psd_table_clear(&parser.table);
    return rc;
}

const psd_reader_t psd_reader_criteo = {
    .name = "criteo",
    .summary = "Criteo's click logs: a label, 13 numbers and 26 words between tabs",
    .is_table = true,
    .read = read,
};
