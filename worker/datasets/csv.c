/* csv.c - tables in the format of RFC 4180 (records.h): one column is the label, another may be the rows' weight, and all others
 * that are not dropped are features. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/array.h"
#include "common/base/printable.h"
#include "common/base/words.h"
#include "worker/labels.h"
#include "worker/records.h"
#include "worker/table.h"
#include "worker/text.h"

#define NONE     SIZE_MAX
#define NOT_UTF8 "is not UTF-8; save the file as UTF-8"

/* What a column of the file is. */
typedef enum role { FEATURE, LABEL, WEIGHT, DROPPED } role_t;

typedef struct parser {
    psd_dataset_t *set;
    const psd_dataset_options_t *options;
    const char *name; /* of the file */
    psd_records_t records;
    psd_labels_t labels;
    psd_table_t table;
    psd_lexicon_t *classes; /* where the labels of a training set are words */
    uint32_t *class_of;     /* the class of each row */
    size_t room_class, room_weight;
    char *single;        /* the words that had doubled quotes, without; NULL: there was none yet */
    char *single_end;    /* behind the last of them */
    size_t n_columns;    /* fields of the first record, and so of all; 0: none read yet */
    size_t label_column; /* its number; NONE: no label, allowed only for rows to be predicted */
    role_t *role;        /* of each column */
    bool *is_word;       /* of each column */
    bool *is_log1p;      /* of each column */
    size_t *feature;     /* of each column, its feature's number in the table; NONE: not a feature */
    size_t n_kept;       /* columns that are not dropped */
} parser_t;

static int refuse(const parser_t *self, const psd_field_t *field, psd_err_t *err, const char *why)
{
    return psd_records_refuse(&self->records, field, err, why);
}

/* ---- Columns ---- */

static int no_column(const parser_t *self, const char *key, const char *wanted, psd_err_t *err)
{
    char name[PSD_TEXT_QUOTE], shown[PSD_TEXT_QUOTE], nearest[PSD_TEXT_QUOTE];
    psd_nearest_t meant = { 0 };
    for (size_t i = 0; self->options->header && i < self->records.n_fields; i++) {
        const psd_field_t field = psd_field_trimmed(self->records.field[i]);
        psd_nearest_consider(&meant, wanted, psd_text_quote(name, field.at, field.end));
    }
    snprintf(nearest, sizeof nearest, "%s", meant.word);
    return psd_err_set(
        err, PSD_ECONFIG, "%s: no column is named '%s'%s%s%s%s; set %s to a name of the first line or a number from 0", self->name,
        psd_text_quote(shown, wanted, wanted + strlen(wanted)), self->options->header ? "" : ", because data.header is off",
        *nearest ? " (did you mean '" : "", nearest, *nearest ? "'?)" : "", key);
}

/* The column that an option names, by its name in the header or by its number. */
static int find_column(const parser_t *self, const char *key, const char *wanted, size_t *out, psd_err_t *err)
{
    size_t n_found = 0;
    for (size_t i = 0; self->options->header && i < self->records.n_fields; i++) {
        if (!psd_field_is(&self->records.field[i], wanted))
            continue;
        if (n_found++)
            return psd_err_set(err, PSD_ECONFIG,
                               "%s: columns %zu and %zu are both named '%s'; set %s to the number of the one that is meant",
                               self->name, *out, i, wanted, key);
        *out = i;
    }
    if (n_found)
        return PSD_OK;
    char *end;
    unsigned long number = strtoul(wanted, &end, 10);
    if (*wanted < '0' || *wanted > '9' || *end)
        return no_column(self, key, wanted, err);
    if (number >= self->records.n_fields)
        return psd_err_set(err, PSD_ECONFIG, "%s: %s is %.20s, but the columns are 0 to %zu", self->name, key, wanted,
                           self->records.n_fields - 1);
    *out = number;
    return PSD_OK;
}

/* Give the column that an option names its role. */
static int assign(parser_t *self, const char *key, const char *wanted, role_t role, psd_err_t *err)
{
    size_t column = 0;
    const int rc = find_column(self, key, wanted, &column, err);
    if (rc)
        return rc;
    if (self->role[column] == DROPPED && role != DROPPED)
        return psd_err_set(err, PSD_ECONFIG, "%s: data.drop leaves out column '%s', which is the %s", self->name, wanted,
                           role == LABEL ? "label" : "rows' weight");
    if (self->role[column] == LABEL && role == WEIGHT)
        return psd_err_set(err, PSD_ECONFIG, "%s: column '%s' cannot be both label and weight; set data.weight_column to another",
                           self->name, wanted);
    self->n_kept -= role == DROPPED && self->role[column] != DROPPED;
    self->role[column] = role;
    if (role == LABEL)
        self->label_column = column;
    return PSD_OK;
}

static int drop_columns(parser_t *self, psd_err_t *err)
{
    int rc = PSD_OK;
    self->n_kept = self->n_columns;
    for (size_t i = 0; !rc && i < self->options->n_drop; i++)
        rc = assign(self, "data.drop", self->options->drop[i], DROPPED, err);
    return rc;
}

static int choose_label_column(parser_t *self, psd_err_t *err)
{
    const char *wanted = self->options->label_column;
    if (wanted && *wanted)
        return assign(self, "data.label_column", wanted, LABEL, err);
    for (size_t i = self->n_columns; i-- > 0;)
        if (self->role[i] != DROPPED) {
            self->role[self->label_column = i] = LABEL;
            break;
        }
    return PSD_OK;
}

static int choose_weight_column(parser_t *self, psd_err_t *err)
{
    const char *wanted = self->options->weight_column;
    return !wanted || !*wanted ? PSD_OK : assign(self, "data.weight_column", wanted, WEIGHT, err);
}

/* The words that pandas takes for a missing value, in any case, and the question mark of older tables. */
static bool is_missing(const psd_field_t *field)
{
    static const char *const words[] = { "",         "NA",  "N/A",  "NaN",    "null",    "None",    "<NA>",     "#N/A",
                                         "#N/A N/A", "#NA", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "?" };
    const size_t n = (size_t)(field->end - field->at);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == n && !strncasecmp(field->at, words[i], n))
            return true;
    return false;
}

/* A first line of numbers, or of numbers and missing ones, is a row. */
static bool looks_like_a_row(const parser_t *self)
{
    size_t n_numbers = 0;
    for (size_t i = 0; i < self->records.n_fields; i++) {
        const psd_field_t field = psd_field_trimmed(self->records.field[i]);
        float number;
        if (psd_text_number(field.at, field.end, &number))
            n_numbers++;
        else if (!is_missing(&field))
            return false;
    }
    return n_numbers > 0;
}

static int compare_fields(const void *a, const void *b)
{
    const psd_field_t *x = a, *y = b;
    const size_t n = (size_t)(x->end - x->at), m = (size_t)(y->end - y->at);
    const int order = memcmp(x->at, y->at, n < m ? n : m);
    return order ? order : n < m ? -1 : n > m;
}

/* Check that all columns that are read have different names. */
static int check_names(parser_t *self, psd_err_t *err)
{
    const psd_field_t *first = &self->records.field[0];
    char shown[PSD_TEXT_QUOTE];
    if (!self->options->header)
        return PSD_OK;
    if (looks_like_a_row(self))
        return psd_err_set(err, PSD_EDATA,
                           "%s:%zu: the first line is all numbers, where data.header says that it names the columns; set "
                           "data.header to false, or name them",
                           self->name, first->line);
    psd_field_t *names = malloc(self->n_columns * sizeof *names);
    if (!names)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu names", self->n_columns);
    size_t n = 0;
    int rc = PSD_OK;
    for (size_t i = 0; !rc && i < self->n_columns; i++) {
        if (self->role[i] == DROPPED)
            continue;
        names[n] = psd_field_trimmed(self->records.field[i]);
        if (names[n].at == names[n].end)
            rc = psd_err_set(err, PSD_EDATA,
                             "%s:%zu:%zu: column %zu has no name; name it, or leave it out with data.drop=%zu (pandas writes "
                             "its index so, unless index=False)",
                             self->name, names[n].line, names[n].column, i, i);
        else if (memchr(names[n].at, '\0', (size_t)(names[n].end - names[n].at)))
            rc = refuse(self, &names[n], err, "holds a byte 0, and is not a name; is the file damaged?");
        n++;
    }
    qsort(names, n, sizeof *names, compare_fields);
    for (size_t i = 1; !rc && i < n; i++)
        if (!compare_fields(&names[i - 1], &names[i])) {
            const psd_field_t *later = names[i].column > names[i - 1].column ? &names[i] : &names[i - 1];
            rc = psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%s' names two columns; rename one, or drop it by its number", self->name,
                             later->line, later->column, psd_text_quote(shown, later->at, later->end));
        }
    free(names);
    return rc;
}

/* A guess at the true delimiter: the usual one that occurs most often in the line. */
static int one_column(const parser_t *self, psd_err_t *err)
{
    static const struct {
        char is;
        const char *word;
    } others[] = { { ',', "a comma, ','" },
                   { '\t', "a tab, 'tab'" },
                   { ';', "a semicolon, ';'" },
                   { '|', "a bar, '|'" },
                   { ' ', "a blank, ' '" } };
    const psd_field_t *line = &self->records.field[0];
    size_t most = 0, best = 0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        size_t n = 0;
        for (const char *at = line->at; at < line->end; at++)
            n += *at == others[i].is;
        if (n > most && others[i].is != self->records.delimiter)
            most = n, best = i;
    }
    const char delimiter[2] = { self->records.delimiter, '\0' };
    return psd_err_set(err, PSD_EDATA,
                       "%s:%zu: one column, where a label and at least one feature are needed; fields are separated by %s%s%s",
                       self->name, line->line,
                       self->records.delimiter == ','    ? "commas"
                       : self->records.delimiter == '\t' ? "tabs"
                                                         : delimiter,
                       most ? "; set data.delimiter to " : "", most ? others[best].word : "");
}

/* Mark the columns that an option lists. The caller handles "*". */
static int mark(parser_t *self, const char *key, const char *const *list, size_t n, bool *mark, bool *all, psd_err_t *err)
{
    int rc = PSD_OK;
    *all = false;
    for (size_t i = 0; !rc && i < n; i++) {
        size_t column = 0;
        if (!strcmp(list[i], "*")) {
            *all = true;
            continue;
        }
        rc = find_column(self, key, list[i], &column, err);
        if (!rc && self->role[column] == DROPPED)
            rc = psd_err_set(err, PSD_ECONFIG, "%s: %s names column '%s', which data.drop leaves out", self->name, key, list[i]);
        if (!rc)
            mark[column] = true;
    }
    return rc;
}

/* A column in which no row has a number, and some row a word, holds words: what data.categorical "*" asks for. */
static int look_for_words(parser_t *self, psd_err_t *err)
{
    bool *has_number = calloc(self->n_columns, 1), *has_word = calloc(self->n_columns, 1);
    psd_records_t records;
    psd_records_begin(&records, self->name, self->records.at, self->records.end, self->records.delimiter);
    int rc = has_number && has_word ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for %zu columns", self->n_columns);
    while (!rc && !(rc = psd_records_next(&records, NULL)) && records.n_fields)
        for (size_t i = 0; i < records.n_fields && i < self->n_columns; i++) {
            const psd_field_t field = psd_field_trimmed(records.field[i]);
            float number;
            if (psd_text_number(field.at, field.end, &number))
                has_number[i] = true;
            else if (!is_missing(&field))
                has_word[i] = true;
        }
    for (size_t i = 0; rc != PSD_ENOMEM && i < self->n_columns; i++)
        if (self->role[i] != DROPPED && self->role[i] != WEIGHT && has_word[i] && !has_number[i])
            self->is_word[i] = true;
    psd_records_clear(&records);
    free(has_number);
    free(has_word);
    return rc == PSD_ENOMEM ? rc : PSD_OK; /* a malformed record is reported when its row is read */
}

static char *name_of(const parser_t *self, size_t column)
{
    char number[24];
    snprintf(number, sizeof number, "%zu", column);
    return self->options->header ? psd_field_text(&self->records.field[column]) : strdup(number);
}

/* For a training set: find the columns of words, and those whose logarithm is taken. The rows begin at `rows`. */
static int choose_kinds(parser_t *self, psd_err_t *err)
{
    const psd_dataset_options_t *options = self->options;
    bool all_words = false, all_log1p = false;
    int rc = mark(self, "data.categorical", options->categorical, options->n_categorical, self->is_word, &all_words, err);
    if (!rc && all_words)
        rc = look_for_words(self, err);
    rc = rc ? rc : mark(self, "data.log1p", options->log1p, options->n_log1p, self->is_log1p, &all_log1p, err);
    for (size_t i = 0; !rc && i < self->n_columns; i++) {
        if (self->is_log1p[i] && (self->is_word[i] || self->role[i] != FEATURE)) {
            char *name = name_of(self, i);
            rc = psd_err_set(err, PSD_ECONFIG, "%s: data.log1p names column '%.60s', which %s; name columns of numbers", self->name,
                             name ? name : "", self->is_word[i] ? "holds words" : "is not a feature");
            free(name);
        }
        self->is_log1p[i] = self->is_log1p[i] || (all_log1p && !self->is_word[i]);
    }
    return rc;
}

/* For a training set: its features are its columns without another role, in their order. */
static int lay_out(parser_t *self, psd_err_t *err)
{
    int rc = choose_kinds(self, err);
    psd_encoding_t *encoding = rc ? NULL : psd_encoding_new(self->set->n_features, err);
    if (!encoding)
        return rc ? rc : PSD_ENOMEM;
    encoding->n_fields = self->n_columns;
    size_t n = 0;
    for (size_t i = 0; !rc && i < self->n_columns; i++) {
        if (self->role[i] != FEATURE)
            continue;
        psd_table_column_t *column = &encoding->column[n];
        column->is_word = self->is_word[i];
        column->log1p = self->is_log1p[i];
        self->feature[i] = n++;
        if (!(column->name = name_of(self, i)))
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for the names of %zu columns", self->n_columns);
        else if (!psd_is_utf8(column->name))
            rc = refuse(self, &self->records.field[i], err, NOT_UTF8);
    }
    if (!rc && !(encoding->label = name_of(self, self->label_column)))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the names of %zu columns", self->n_columns);
    if (!rc && self->is_word[self->label_column]) {
        if (self->options->kind != PSD_LABEL_CLASS)
            rc = psd_err_set(err, PSD_ECONFIG,
                             "%s: the label is a word (data.categorical), and the model predicts numbers; choose "
                             "another model.kind, or another data.label_column",
                             self->name);
        else if (!(self->classes = psd_lexicon_new()))
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for classes");
    }
    rc = rc ? rc : psd_table_begin(&self->table, &encoding, self->options, self->name, err);
    psd_encoding_destroy(&encoding);
    return rc;
}

/* The feature of the training set with this name; NULL: it has none. */
static const psd_table_column_t *feature_called(const psd_encoding_t *encoding, const psd_field_t *field)
{
    for (size_t j = 0; j < encoding->n_columns; j++)
        if (psd_field_is(field, encoding->column[j].name))
            return &encoding->column[j];
    return NULL;
}

static bool has_feature(const parser_t *self, const char *name)
{
    for (size_t i = 0; i < self->n_columns; i++)
        if (self->role[i] == FEATURE && psd_field_is(&self->records.field[i], name))
            return true;
    return false;
}

/* Whether the features have the names of the training set's, in their order. */
static int compare_names(const parser_t *self, const psd_encoding_t *encoding, psd_err_t *err)
{
    size_t n = 0;
    const psd_field_t *first = NULL; /* that differs */
    for (size_t i = 0; i < self->n_columns && !first; i++)
        if (self->role[i] == FEATURE &&
            (n == encoding->n_columns || !psd_field_is(&self->records.field[i], encoding->column[n++].name)))
            first = &self->records.field[i];
    if (!first && n == encoding->n_columns)
        return PSD_OK;
    for (size_t i = 0; i < self->n_columns; i++)
        if (self->role[i] == FEATURE && !feature_called(encoding, &self->records.field[i]))
            return refuse(self, &self->records.field[i], err,
                          "is not a feature of the training set; remove it, or if both files have it, leave it out with data.drop");
    for (size_t j = 0; j < encoding->n_columns; j++)
        if (!has_feature(self, encoding->column[j].name))
            return psd_err_set(err, PSD_EDATA, "%s:%zu: no column is named '%.60s', which the training set has; add it", self->name,
                               self->records.field[0].line, encoding->column[j].name);
    return refuse(self, first, err, "stands in another place than in the training set; give both files the same order of columns");
}

/* For a test set: its columns are the training set's, in the same order. */
static int follow(parser_t *self, psd_err_t *err)
{
    const psd_dataset_t *train = self->options->train;
    psd_encoding_t *encoding = train->encoding;
    if (!encoding)
        return psd_err_set(err, PSD_EDATA, "%s is a table, but the training set is not; give both the same format", self->name);
    if (self->options->header && compare_names(self, encoding, err))
        return err->code;
    if (encoding->n_columns != self->set->n_features)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %zu features, the training set has %zu; give both the same columns", self->name,
                           self->records.field[0].line, self->set->n_features, encoding->n_columns);
    for (size_t i = 0, n = 0; i < self->n_columns; i++)
        if (self->role[i] == FEATURE) {
            self->is_word[i] = encoding->column[n].is_word;
            self->feature[i] = n++;
        }
    return psd_table_begin(&self->table, &encoding, self->options, self->name, err);
}

static bool is_called(const parser_t *self, size_t column, const char *name)
{
    char number[24];
    snprintf(number, sizeof number, "%zu", column);
    return self->options->header ? psd_field_is(&self->records.field[column], name) : !strcmp(number, name);
}

/* For rows to be predicted: the columns that the model was trained on, in any order; without a header, all columns of training or
 * only the features. */
static int seek(parser_t *self, psd_err_t *err)
{
    psd_encoding_t *encoding = self->options->train->encoding;
    const char *weight = self->options->weight_column;
    if (!encoding)
        return psd_err_set(err, PSD_EDATA, "%s is a table, but the training set is not; give both the same format", self->name);
    const bool bare = !self->options->header && self->n_columns == encoding->n_columns && self->n_columns != encoding->n_fields;
    if (!self->options->header && !bare && self->n_columns != encoding->n_fields)
        return psd_err_set(err, PSD_EDATA,
                           "%s:%zu: %zu columns; the model was trained on a file of %zu, and has %zu features: give "
                           "all columns, or only the features",
                           self->name, self->records.field[0].line, self->n_columns, encoding->n_fields, encoding->n_columns);
    for (size_t i = 0; i < self->n_columns; i++) {
        self->role[i] = self->role[i] == WEIGHT ? WEIGHT : DROPPED;
        if (!bare && is_called(self, i, encoding->label))
            self->role[self->label_column = i] = LABEL;
        else if (!bare && weight && *weight && is_called(self, i, weight))
            self->role[i] = WEIGHT;
    }
    for (size_t j = 0; j < encoding->n_columns; j++) {
        size_t i = bare ? j : 0;
        while (!bare && i < self->n_columns && !is_called(self, i, encoding->column[j].name))
            i++;
        if (i == self->n_columns)
            return psd_err_set(err, PSD_EDATA, "%s:%zu: no column is named '%.60s', which the model was trained on; add it",
                               self->name, self->records.field[0].line, encoding->column[j].name);
        self->role[i] = FEATURE;
        self->feature[i] = j;
        self->is_word[i] = encoding->column[j].is_word;
    }
    return psd_table_begin(&self->table, &encoding, self->options, self->name, err);
}

/* For rows to be trained on with a model's encoding: the columns that options name are there, as they must be without a model. */
static int check_named(parser_t *self, psd_err_t *err)
{
    const psd_dataset_options_t *options = self->options;
    bool all = false;
    int rc = drop_columns(self, err);
    rc = rc ? rc : choose_weight_column(self, err);
    rc = rc ? rc : mark(self, "data.categorical", options->categorical, options->n_categorical, self->is_word, &all, err);
    return rc ? rc : mark(self, "data.log1p", options->log1p, options->n_log1p, self->is_log1p, &all, err);
}

static int make_columns(parser_t *self, psd_err_t *err)
{
    self->role = calloc(self->n_columns, sizeof *self->role);
    self->is_word = calloc(self->n_columns, sizeof *self->is_word);
    self->is_log1p = calloc(self->n_columns, sizeof *self->is_log1p);
    self->feature = malloc(self->n_columns * sizeof *self->feature);
    for (size_t i = 0; self->feature && i < self->n_columns; i++)
        self->feature[i] = NONE;
    return self->role && self->is_word && self->is_log1p && self->feature
               ? PSD_OK
               : psd_err_set(err, PSD_ENOMEM, "no memory for %zu columns", self->n_columns);
}

/* Read the first record: the number of columns, and their names if it is a header. */
static int begin(parser_t *self, psd_err_t *err)
{
    if (!self->records.n_fields)
        return psd_err_set(err, PSD_EDATA, "%s: no rows; no line has any text", self->name);
    self->n_columns = self->records.n_fields;
    if (self->n_columns < 2 && !self->options->predicts)
        return one_column(self, err);
    int rc = make_columns(self, err);
    self->label_column = NONE;
    rc = !rc && self->options->trains ? check_named(self, err) : rc;
    if (self->options->predicts)
        return rc ? rc : seek(self, err);
    rc = rc ? rc : drop_columns(self, err);
    rc = rc ? rc : choose_label_column(self, err);
    rc = rc ? rc : choose_weight_column(self, err);
    rc = rc ? rc : check_names(self, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < self->n_columns; i++)
        self->set->n_features += self->role[i] == FEATURE;
    if (!self->set->n_features)
        return psd_err_set(err, PSD_ECONFIG,
                           "%s: data.drop leaves %zu of %zu columns, where a label and at least one feature are needed", self->name,
                           self->n_kept, self->n_columns);
    return self->options->train ? follow(self, err) : lay_out(self, err);
}

/* ---- Rows ---- */

/* Handle a missing value: its row is left out (`*skip`), or it is an error, or the caller handles it. */
static int miss(const parser_t *self, const psd_field_t *field, role_t role, bool *skip, psd_err_t *err)
{
    if (self->options->na == PSD_NA_SKIP) {
        *skip = true;
        return PSD_OK;
    }
    const bool predicts = self->options->predicts; /* skip would leave a row without a prediction */
    if (role == LABEL)
        return refuse(self, field, err,
                      predicts ? "is a missing label; fill it in, or leave the column out"
                               : "is a missing label; set data.na to skip, or fill it in");
    if (role == WEIGHT)
        return refuse(self, field, err,
                      predicts ? "is a missing weight; fill it in, or leave the column out"
                               : "is a missing weight; set data.na to skip, or fill it in");
    if (self->options->na == PSD_NA_ERROR)
        return refuse(self, field, err,
                      predicts ? "is a missing value; set data.na to zero or mean, or fill it in"
                               : "is a missing value; set data.na to zero, mean or skip, or fill it in");
    return PSD_OK;
}

static int parse_number(const parser_t *self, size_t column, float *out, bool *missing, bool *skip, psd_err_t *err)
{
    const psd_field_t *field = &self->records.field[column], number = psd_field_trimmed(*field);
    if (psd_text_number(number.at, number.end, out))
        return PSD_OK;
    const bool may_be_header = !self->options->header && !self->set->n_rows && !self->set->n_skipped;
    if (!is_missing(&number)) {
        const char *cause = may_be_header ? "is not a number; where the first line names the columns, set data.header to true"
                                          : psd_text_fault(number.at, number.end);
        return refuse(self, field, err,
                      cause                          ? cause
                      : self->role[column] == WEIGHT ? "is not a number; is data.weight_column the right one?"
                      : self->options->train ? "is not a number, as it was in the training set; correct it, or leave its row out"
                      : self->role[column] == LABEL
                          ? "is not a number; where labels are words, name their column in data.categorical"
                          : "is not a number; name its column in data.categorical, or drop it");
    }
    *missing = true;
    return miss(self, field, self->role[column], skip, err);
}

/* Make the doubled quotes of a word single. All words that have any are shorter than what is left of the file. */
static int make_single(parser_t *self, psd_field_t *word, psd_err_t *err)
{
    if (!self->single && !(self->single = self->single_end = malloc((size_t)(self->records.end - word->at) + 1)))
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory for its words", self->name);
    const char *at = self->single_end;
    self->single_end += psd_field_copy(word, self->single_end) - at;
    word->at = at;
    word->end = self->single_end;
    return PSD_OK;
}

/* The field as a word, with doubled quotes made single; a missing one is empty. */
static int parse_word(parser_t *self, size_t column, psd_field_t *out, bool *missing, bool *skip, psd_err_t *err)
{
    const psd_field_t *field = &self->records.field[column];
    *out = psd_field_trimmed(*field);
    if (is_missing(out)) {
        *missing = true;
        out->end = out->at;
        return miss(self, field, self->role[column], skip, err);
    }
    const size_t n = (size_t)(out->end - out->at);
    if (memchr(out->at, '\0', n))
        return refuse(self, field, err, "holds a byte 0, and is not a word; leave its row out");
    if (!psd_are_utf8(out->at, n))
        return refuse(self, field, err, NOT_UTF8);
    return memmem(out->at, n, "\"\"", 2) ? make_single(self, out, err) : PSD_OK;
}

static int add_label(parser_t *self, float *label, bool *skip, psd_err_t *err)
{
    const size_t at = self->label_column;
    const psd_encoding_t *encoding = self->options->train ? self->options->train->encoding : NULL;
    bool missing = false;
    psd_field_t word;
    if (!self->classes && !(encoding && encoding->class_word))
        return parse_number(self, at, label, &missing, skip, err);
    const int rc = parse_word(self, at, &word, &missing, skip, err);
    if (rc || *skip)
        return rc;
    const size_t n = (size_t)(word.end - word.at);
    if (self->classes) {
        const uint32_t class = psd_lexicon_number(self->classes, word.at, n);
        if (class == PSD_NO_WORD ||
            psd_array_grow(&self->class_of, &self->room_class, self->set->n_rows + 1, sizeof *self->class_of, NULL))
            return psd_err_set(err, PSD_ENOMEM, "%s: no memory for its labels", self->name);
        self->class_of[self->set->n_rows] = class;
        *label = 0; /* the class's number is known only when all classes are */
        return PSD_OK;
    }
    const size_t class = psd_encoding_class(encoding, word.at, n);
    if (class == PSD_NO_FEATURE)
        return refuse(self, &self->records.field[at], err, "is a label that the training set does not have");
    *label = (float)class;
    return PSD_OK;
}

static int add_cell(parser_t *self, size_t column, psd_cell_t *cell, bool *skip, psd_err_t *err)
{
    const psd_na_t na = self->options->na;
    bool missing = false;
    if (!self->is_word[column]) {
        const int rc = parse_number(self, column, &cell->number, &missing, skip, err);
        if (missing)
            cell->number = na == PSD_NA_MEAN ? NAN : 0;
        return rc;
    }
    psd_field_t word;
    const int rc = parse_word(self, column, &word, &missing, skip, err);
    if (rc || *skip)
        return rc;
    cell->word = PSD_NO_WORD;
    if (missing && na != PSD_NA_MEAN)
        return PSD_OK;
    cell->word = psd_table_word(&self->table, self->feature[column], word.at, (size_t)(word.end - word.at), err);
    return cell->word == PSD_NO_WORD ? PSD_ENOMEM : PSD_OK;
}

static int add_weight(parser_t *self, size_t column, float *weight, bool *skip, psd_err_t *err)
{
    bool missing = false;
    const int rc = parse_number(self, column, weight, &missing, skip, err);
    return rc || missing || *weight >= 0 ? rc
                                         : refuse(self, &self->records.field[column], err, "is not a weight; weights are from 0");
}

static int keep_weight(parser_t *self, float weight, psd_err_t *err)
{
    const size_t n = self->set->n_rows;
    const int rc = psd_array_grow(&self->set->weight, &self->room_weight, n, sizeof *self->set->weight, err);
    if (!rc)
        self->set->weight[n - 1] = weight;
    return rc;
}

/* Append the record just read as a row. */
static int add_row(parser_t *self, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    const size_t line = self->records.field[0].line;
    if (self->records.n_fields != self->n_columns)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %zu fields, where the first line has %zu", self->name, line,
                           self->records.n_fields, self->n_columns);
    psd_cell_t *cell = psd_table_row(&self->table, err);
    float label = 0, weight = 1;
    bool skip = false, weighted = false;
    int rc = cell ? PSD_OK : PSD_ENOMEM;
    for (size_t i = 0; !rc && i < self->n_columns; i++)
        switch (self->role[i]) {
        case LABEL:
            rc = add_label(self, &label, &skip, err);
            break;
        case WEIGHT:
            weighted = true;
            rc = add_weight(self, i, &weight, &skip, err);
            break;
        case FEATURE:
            rc = add_cell(self, i, &cell[self->feature[i]], &skip, err);
            break;
        case DROPPED:
            break;
        }
    set->n_skipped += !rc && skip;
    if (rc || skip)
        return rc;
    self->table.n_rows++;
    rc = psd_labels_add(&self->labels, label, self->name,
                        self->label_column == NONE ? line : self->records.field[self->label_column].line, err);
    return rc || !weighted ? rc : keep_weight(self, weight, err);
}

/* Number the classes in byte order of their words. */
static int number_classes(parser_t *self, psd_err_t *err)
{
    psd_encoding_t *encoding = self->table.encoding;
    const size_t n = psd_lexicon_size(self->classes);
    if (n > PSD_MAX_CLASSES)
        return psd_err_set(err, PSD_EDATA, "%s: %zu words in the label's column, more than %d classes", self->name, n,
                           PSD_MAX_CLASSES);
    if (!(encoding->class_word = psd_table_sorted(self->classes, err)))
        return PSD_ENOMEM;
    encoding->n_classes = n;
    float *number = malloc((n + 1) * sizeof *number);
    if (!number)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu classes", n);
    for (size_t i = 0; i < n; i++) {
        size_t length;
        const char *word = psd_lexicon_word(self->classes, i, &length);
        number[i] = (float)psd_encoding_class(encoding, word, length);
    }
    for (size_t i = 0; i < self->set->n_rows; i++)
        self->set->label[i] = number[self->class_of[i]];
    self->labels.largest = (float)n - 1;
    free(number);
    return PSD_OK;
}

static int parse(parser_t *self, psd_err_t *err)
{
    const char *start = self->records.at;
    int rc = psd_records_next(&self->records, err);
    if (!rc && !self->options->header) { /* the first record is a row too; columns are chosen with all rows ahead */
        const psd_records_t first = self->records;
        self->records.at = start;
        rc = begin(self, err);
        self->records.at = first.at;
    } else if (!rc) {
        rc = begin(self, err);
    }
    if (!rc && self->options->header)
        rc = psd_records_next(&self->records, err);
    while (!rc && self->records.n_fields) {
        rc = add_row(self, err);
        if (!rc)
            rc = psd_records_next(&self->records, err);
    }
    if (!rc && self->classes && self->set->n_rows)
        rc = number_classes(self, err);
    rc = rc ? rc : psd_labels_end(&self->labels, self->name, err);
    return rc ? rc : psd_table_end(&self->table, self->set, err);
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    (void)labels;
    const char *at, *end;
    if (psd_text_open(file, &at, &end, err))
        return PSD_EDATA;
    parser_t parser = { .set = self, .options = options, .name = file->name, .labels = { .set = self, .options = options } };
    psd_records_begin(&parser.records, file->name, at, end, options->delimiter ? options->delimiter : ',');
    const int rc = parse(&parser, err);
    self->unlabelled = parser.label_column == NONE;
    psd_records_clear(&parser.records);
    psd_table_clear(&parser.table);
    psd_lexicon_destroy(&parser.classes);
    free(parser.class_of);
    free(parser.single);
    free(parser.role);
    free(parser.is_word);
    free(parser.is_log1p);
    free(parser.feature);
    return rc;
}

const psd_reader_t psd_reader_csv = {
    .name = "csv",
    .summary = "a table as RFC 4180 writes it, of numbers and of words, one column of it the label",
    .has_columns = true,
    .is_table = true,
    .read = read,
};
