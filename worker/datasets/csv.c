/* csv.c - tables of numbers as RFC 4180 writes them: records of fields between delimiters, a field in double
 * quotes may hold delimiters, line ends and doubled quotes. One column is the label, all others that are not dropped
 * are features. Lines may end in LF or CRLF; empty lines and a UTF-8 byte order mark are passed over.
 * Not by libcsv, which does not tell where a field stands: each complaint here names line and column. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/array.h"
#include "common/base/words.h"
#include "worker/labels.h"
#include "worker/text.h"

typedef struct field {
    const char *at, *end; /* what it holds, without the outer quotes, inner ones still doubled */
    size_t line, column;  /* where it starts, from 1 */
} field_t;

typedef struct parser {
    psd_dataset_t *set;
    const psd_dataset_options_t *options;
    const char *name; /* of the file */
    psd_labels_t labels;
    const char *at, *end; /* what is still to be read */
    const char *line_at;  /* first character of the line that holds `at` */
    size_t line;          /* its number */
    field_t *fields;      /* of the record just read */
    size_t n_fields, room_fields, room_dense;
    size_t n_columns;    /* fields of the first record, and so of all; 0: none read yet */
    size_t label_column; /* its number */
    size_t n_kept;       /* columns that are not dropped */
    bool *dropped;       /* of each column */
    char delimiter;
} parser_t;

static int refuse(const parser_t *self, const field_t *field, psd_err_t *err, const char *why)
{
    char shown[PSD_TEXT_QUOTE];
    return psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%s' %s", self->name, field->line, field->column,
                       psd_text_quote(shown, field->at, field->end), why);
}

static void next_line(parser_t *self)
{
    self->line++;
    self->line_at = self->at;
}

static int read_quoted(parser_t *self, field_t *out, psd_err_t *err)
{
    for (out->at = ++self->at; self->at < self->end; self->at++) {
        if (*self->at == '\n') {
            self->line++;
            self->line_at = self->at + 1;
        }
        if (*self->at != '"')
            continue;
        if (self->at + 1 < self->end && self->at[1] == '"') {
            self->at++;
            continue;
        }
        out->end = self->at++;
        if (self->at == self->end || *self->at == self->delimiter || *self->at == '\n' || *self->at == '\r')
            return PSD_OK;
        return refuse(self, out, err, "goes on after its closing quote; double the quotes inside a field");
    }
    out->end = self->end;
    return refuse(self, out, err, "starts with a quote that is never closed");
}

static int read_field(parser_t *self, field_t *out, psd_err_t *err)
{
    *out = (field_t){ .line = self->line, .column = (size_t)(self->at - self->line_at) + 1 };
    if (self->at < self->end && *self->at == '"')
        return read_quoted(self, out, err);
    for (out->at = self->at; self->at < self->end && *self->at != self->delimiter && *self->at != '\n'; self->at++)
        if (*self->at == '"') {
            out->end = self->at;
            return refuse(self, out, err, "is followed by a quote; put the whole field in quotes");
        }
    out->end = self->at;
    if (out->end > out->at && out->end[-1] == '\r' && (self->at == self->end || *self->at == '\n'))
        out->end--;
    return PSD_OK;
}

/* Read the next record into `fields`; n_fields is 0 at the end of the file. */
static int read_record(parser_t *self, psd_err_t *err)
{
    self->n_fields = 0;
    while (self->at < self->end && (*self->at == '\n' || (*self->at == '\r' && self->at + 1 < self->end && self->at[1] == '\n'))) {
        self->at += *self->at == '\r' ? 2 : 1;
        next_line(self);
    }
    if (self->at == self->end)
        return PSD_OK;
    for (;;) {
        int rc = psd_array_grow(&self->fields, &self->room_fields, self->n_fields + 1, sizeof *self->fields, err);
        if (!rc)
            rc = read_field(self, &self->fields[self->n_fields++], err);
        if (rc)
            return rc;
        if (self->at < self->end && *self->at == self->delimiter) {
            self->at++;
            continue;
        }
        if (self->at < self->end && *self->at == '\r')
            self->at++;
        if (self->at == self->end)
            return PSD_OK;
        if (*self->at != '\n')
            return refuse(self, &self->fields[self->n_fields - 1], err, "is followed by a carriage return inside the line");
        self->at++;
        next_line(self);
        return PSD_OK;
    }
}

/* The field without the blanks around what it holds. */
static field_t trimmed(field_t field)
{
    while (field.at < field.end && (*field.at == ' ' || *field.at == '\t'))
        field.at++;
    while (field.at < field.end && (field.end[-1] == ' ' || field.end[-1] == '\t'))
        field.end--;
    return field;
}

/* Whether the field, trimmed and with its doubled quotes made single, is `name`, of which blanks around do not count. */
static bool field_is(const field_t *untrimmed, const char *name)
{
    const field_t field = trimmed(*untrimmed);
    const char *at = field.at, *end = name + strlen(name);
    name += strspn(name, " \t");
    while (end > name && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    for (; at < field.end && name < end; at++, name++) {
        if (*at != *name)
            return false;
        if (*at == '"' && at + 1 < field.end && at[1] == '"')
            at++;
    }
    return at == field.end && name == end;
}

/* ---- Columns ---- */

static int no_column(const parser_t *self, const char *key, const char *wanted, psd_err_t *err)
{
    char name[PSD_TEXT_QUOTE], shown[PSD_TEXT_QUOTE], nearest[PSD_TEXT_QUOTE];
    psd_nearest_t meant = { 0 };
    for (size_t i = 0; self->options->header && i < self->n_fields; i++) {
        const field_t field = trimmed(self->fields[i]);
        psd_nearest_consider(&meant, wanted, psd_text_quote(name, field.at, field.end));
    }
    snprintf(nearest, sizeof nearest, "%s", meant.word);
    return psd_err_set(
        err, PSD_ECONFIG, "%s: no column is named '%s'%s%s%s%s; set %s to a name of the first line or a number from 0", self->name,
        psd_text_quote(shown, wanted, wanted + strlen(wanted)), self->options->header ? "" : ", for data.header is off",
        *nearest ? " (did you mean '" : "", nearest, *nearest ? "'?)" : "", key);
}

/* The column that an option names, by its name in the header or by its number. */
static int find_column(const parser_t *self, const char *key, const char *wanted, size_t *out, psd_err_t *err)
{
    size_t n_found = 0;
    for (size_t i = 0; self->options->header && i < self->n_fields; i++) {
        if (!field_is(&self->fields[i], wanted))
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
    if (number >= self->n_fields)
        return psd_err_set(err, PSD_ECONFIG, "%s: %s is %.20s, but the columns are 0 to %zu", self->name, key, wanted,
                           self->n_fields - 1);
    *out = number;
    return PSD_OK;
}

static int drop_columns(parser_t *self, psd_err_t *err)
{
    self->dropped = calloc(self->n_columns, sizeof *self->dropped);
    if (!self->dropped)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu columns", self->n_columns);
    self->n_kept = self->n_columns;
    for (size_t i = 0; i < self->options->n_drop; i++) {
        size_t column = 0;
        int rc = find_column(self, "data.drop", self->options->drop[i], &column, err);
        if (rc)
            return rc;
        self->n_kept -= !self->dropped[column];
        self->dropped[column] = true;
    }
    return PSD_OK;
}

static int choose_label_column(parser_t *self, psd_err_t *err)
{
    const char *wanted = self->options->label_column;
    if (wanted && *wanted) {
        int rc = find_column(self, "data.label_column", wanted, &self->label_column, err);
        if (rc)
            return rc;
        if (self->dropped[self->label_column])
            return psd_err_set(err, PSD_ECONFIG, "%s: data.drop leaves out column '%s', which is the label", self->name, wanted);
        return PSD_OK;
    }
    for (size_t i = self->n_columns; i-- > 0;)
        if (!self->dropped[i]) {
            self->label_column = i;
            break;
        }
    return PSD_OK;
}

static bool is_missing(const field_t *field);

/* A first line of numbers, or of numbers and missing ones, is a row. */
static bool looks_like_a_row(const parser_t *self)
{
    size_t n_numbers = 0;
    for (size_t i = 0; i < self->n_fields; i++) {
        const field_t field = trimmed(self->fields[i]);
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
    const field_t *x = a, *y = b;
    const size_t n = (size_t)(x->end - x->at), m = (size_t)(y->end - y->at);
    const int order = memcmp(x->at, y->at, n < m ? n : m);
    return order ? order : n < m ? -1 : n > m;
}

/* Each column that is read has a name of its own. */
static int check_names(parser_t *self, psd_err_t *err)
{
    const field_t *first = &self->fields[0];
    char shown[PSD_TEXT_QUOTE];
    if (!self->options->header)
        return PSD_OK;
    if (looks_like_a_row(self))
        return psd_err_set(err, PSD_EDATA,
                           "%s:%zu: the first line is all numbers, where data.header says that it names the columns; set "
                           "data.header to false, or name them",
                           self->name, first->line);
    field_t *names = malloc(self->n_columns * sizeof *names);
    if (!names)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu names", self->n_columns);
    size_t n = 0;
    int rc = PSD_OK;
    for (size_t i = 0; !rc && i < self->n_columns; i++) {
        if (self->dropped[i])
            continue;
        names[n] = trimmed(self->fields[i]);
        if (names[n].at == names[n].end)
            rc = psd_err_set(err, PSD_EDATA,
                             "%s:%zu:%zu: column %zu has no name; name it, or leave it out with data.drop=%zu (pandas writes "
                             "its index so, unless index=False)",
                             self->name, names[n].line, names[n].column, i, i);
        n++;
    }
    qsort(names, n, sizeof *names, compare_fields);
    for (size_t i = 1; !rc && i < n; i++)
        if (!compare_fields(&names[i - 1], &names[i])) {
            const field_t *later = names[i].column > names[i - 1].column ? &names[i] : &names[i - 1];
            rc = psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%s' names two columns; rename one, or drop it by its number", self->name,
                             later->line, later->column, psd_text_quote(shown, later->at, later->end));
        }
    free(names);
    return rc;
}

/* A hash of the names of the feature columns, so that a test set in another order is not taken for this
 * one. */
static uint64_t hash_names(const parser_t *self)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (size_t i = 0; i < self->n_fields; i++) {
        if (i == self->label_column || self->dropped[i])
            continue;
        const field_t name = trimmed(self->fields[i]);
        XXH3_64bits_update(&state, name.at, (size_t)(name.end - name.at));
        XXH3_64bits_update(&state, "", 1); /* no name has this byte */
    }
    return XXH3_64bits_digest(&state);
}

/* Perhaps the delimiter is another one: of those that people use, the one that the line has most of. */
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
    const field_t *line = &self->fields[0];
    size_t most = 0, best = 0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        size_t n = 0;
        for (const char *at = line->at; at < line->end; at++)
            n += *at == others[i].is;
        if (n > most && others[i].is != self->delimiter)
            most = n, best = i;
    }
    const char delimiter[2] = { self->delimiter, '\0' };
    return psd_err_set(err, PSD_EDATA,
                       "%s:%zu: one column, where a label and at least one feature are needed; fields are separated by %s%s%s",
                       self->name, line->line,
                       self->delimiter == ','    ? "commas"
                       : self->delimiter == '\t' ? "tabs"
                                                 : delimiter,
                       most ? "; set data.delimiter to " : "", most ? others[best].word : "");
}

/* What the first record tells: the number of columns, and perhaps their names. */
static int begin(parser_t *self, psd_err_t *err)
{
    const psd_dataset_t *train = self->options->train;
    if (!self->n_fields)
        return psd_err_set(err, PSD_EDATA, "%s: no rows; no line has any text", self->name);
    self->n_columns = self->n_fields;
    if (self->n_columns < 2)
        return one_column(self, err);
    int rc = drop_columns(self, err);
    rc = rc ? rc : choose_label_column(self, err);
    rc = rc ? rc : check_names(self, err);
    if (rc)
        return rc;
    if (self->n_kept < 2)
        return psd_err_set(err, PSD_ECONFIG,
                           "%s: data.drop leaves %zu of %zu columns, where a label and at least one feature are needed", self->name,
                           self->n_kept, self->n_columns);
    self->set->n_features = self->n_kept - 1;
    self->set->names_hash = self->options->header ? hash_names(self) : 0;
    if (train && train->n_features != self->set->n_features)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %zu features, the training set has %zu; give both the same columns", self->name,
                           self->fields[0].line, self->set->n_features, train->n_features);
    if (train && train->names_hash != self->set->names_hash)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: the columns have other names, or another order, than the training set's",
                           self->name, self->fields[0].line);
    return PSD_OK;
}

/* The words that pandas takes for a missing value, in any case, and the question mark of older tables. */
static bool is_missing(const field_t *field)
{
    static const char *const words[] = { "",         "NA",  "N/A",  "NaN",    "null",    "None",    "<NA>",     "#N/A",
                                         "#N/A N/A", "#NA", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "?" };
    const size_t n = (size_t)(field->end - field->at);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i]) == n && !strncasecmp(field->at, words[i], n))
            return true;
    return false;
}

/* A field's number; a missing one sets `*skip`, or is 0, or an error, as data.na wants. */
static int parse_field(const parser_t *self, size_t column, float *out, bool *skip, psd_err_t *err)
{
    const field_t *field = &self->fields[column], number = trimmed(*field);
    if (psd_text_number(number.at, number.end, out))
        return PSD_OK;
    const bool may_be_header = !self->options->header && !self->set->n_rows && !self->set->n_skipped;
    if (!is_missing(&number))
        return refuse(self, field, err,
                      may_be_header ? "is not a number; where the first line names the columns, set data.header to true"
                                    : psd_text_fault(number.at, number.end));
    if (self->options->na == PSD_NA_SKIP) {
        *skip = true;
        return PSD_OK;
    }
    if (column == self->label_column)
        return refuse(self, field, err, "is a missing label; set data.na to skip, or fill it in");
    if (self->options->na == PSD_NA_ERROR)
        return refuse(self, field, err, "is a missing value; set data.na to zero or skip, or fill it in");
    *out = 0;
    return PSD_OK;
}

/* Append the record just read as a row. */
static int add_row(parser_t *self, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    if (self->n_fields != self->n_columns)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %zu fields, where the first line has %zu", self->name, self->fields[0].line,
                           self->n_fields, self->n_columns);
    size_t start = set->n_rows * set->n_features;
    int rc = psd_array_grow(&set->dense, &self->room_dense, start + set->n_features, sizeof *set->dense, err);
    float label = 0, *out = rc ? NULL : set->dense + start;
    bool skip = false;
    for (size_t i = 0; !rc && i < self->n_fields; i++)
        if (!self->dropped[i])
            rc = parse_field(self, i, i == self->label_column ? &label : out++, &skip, err);
    set->n_skipped += !rc && skip;
    return rc || skip ? rc : psd_labels_add(&self->labels, label, self->name, self->fields[self->label_column].line, err);
}

static int parse(parser_t *self, psd_err_t *err)
{
    int rc = read_record(self, err);
    if (!rc)
        rc = begin(self, err);
    if (!rc && self->options->header)
        rc = read_record(self, err);
    while (!rc && self->n_fields) {
        rc = add_row(self, err);
        if (!rc)
            rc = read_record(self, err);
    }
    return rc ? rc : psd_labels_end(&self->labels, self->name, err);
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    (void)labels;
    const char *at, *end;
    if (psd_text_open(file, &at, &end, err))
        return PSD_EDATA;
    parser_t parser = { .set = self,
                        .options = options,
                        .name = file->name,
                        .at = at,
                        .line_at = at,
                        .end = end,
                        .line = 1,
                        .delimiter = options->delimiter ? options->delimiter : ',',
                        .labels = { .set = self, .options = options } };
    int rc = parse(&parser, err);
    free(parser.fields);
    free(parser.dropped);
    return rc;
}

const psd_reader_t psd_reader_csv = {
    .name = "csv",
    .summary = "a table of numbers as RFC 4180 writes it, one column of them the label",
    .has_columns = true,
    .read = read,
};
