/* csv.c - tables of numbers as RFC 4180 writes them: records of fields between commas, a field in double
 * quotes may hold commas, line ends and doubled quotes. One column is the label, all others are features.
 * Lines may end in LF or CRLF; empty lines and a UTF-8 byte order mark are passed over. */
#include <stdlib.h>
#include <string.h>

#include "worker/dataset.h"

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
} parser_t;

static int refuse(const parser_t *self, const field_t *field, psd_err_t *err, const char *why)
{
    size_t n = (size_t)(field->end - field->at);
    return psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%.*s' %s", self->name, field->line, field->column,
                       (int)(n < 40 ? n : 40), field->at, why);
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
        if (self->at == self->end || *self->at == ',' || *self->at == '\n' || *self->at == '\r')
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
    for (out->at = self->at; self->at < self->end && *self->at != ',' && *self->at != '\n'; self->at++)
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
    while (self->at < self->end &&
           (*self->at == '\n' || (*self->at == '\r' && self->at + 1 < self->end && self->at[1] == '\n'))) {
        self->at += *self->at == '\r' ? 2 : 1;
        next_line(self);
    }
    if (self->at == self->end)
        return PSD_OK;
    for (;;) {
        int rc =
            psd_array_grow(&self->fields, &self->room_fields, self->n_fields + 1, sizeof *self->fields, err);
        if (!rc)
            rc = read_field(self, &self->fields[self->n_fields++], err);
        if (rc)
            return rc;
        if (self->at < self->end && *self->at == ',') {
            self->at++;
            continue;
        }
        if (self->at < self->end && *self->at == '\r')
            self->at++;
        if (self->at == self->end)
            return PSD_OK;
        if (*self->at != '\n')
            return refuse(self, &self->fields[self->n_fields - 1], err,
                          "is followed by a carriage return inside the line");
        self->at++;
        next_line(self);
        return PSD_OK;
    }
}

/* Whether the field, with its doubled quotes made single, is `name`. */
static bool field_is(const field_t *field, const char *name)
{
    const char *at = field->at;
    for (; at < field->end && *name; at++, name++) {
        if (*at != *name)
            return false;
        if (*at == '"' && at + 1 < field->end && at[1] == '"')
            at++;
    }
    return at == field->end && !*name;
}

static int number_of_label_column(parser_t *self, psd_err_t *err)
{
    const char *wanted = self->options->label_column;
    if (!wanted || !*wanted) {
        self->label_column = self->n_fields - 1;
        return PSD_OK;
    }
    for (size_t i = 0; self->options->header && i < self->n_fields; i++)
        if (field_is(&self->fields[i], wanted)) {
            self->label_column = i;
            return PSD_OK;
        }
    char *end;
    unsigned long number = strtoul(wanted, &end, 10);
    if (*wanted < '0' || *wanted > '9' || *end)
        return psd_err_set(
            err, PSD_ECONFIG,
            "%s: no column is named '%s'%s; set data.label_column to a name of the first line or a "
            "number from 0",
            self->name, wanted, self->options->header ? "" : ", for data.header is off");
    if (number >= self->n_fields)
        return psd_err_set(err, PSD_ECONFIG, "%s: data.label_column is %lu, but the columns are 0 to %zu",
                           self->name, number, self->n_fields - 1);
    self->label_column = number;
    return PSD_OK;
}

/* FNV-1a over the names of the feature columns, so that a test set in another order is not taken for this
 * one. */
static uint64_t hash_names(const parser_t *self)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < self->n_fields; i++) {
        if (i == self->label_column)
            continue;
        for (const char *at = self->fields[i].at; at < self->fields[i].end; at++)
            hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
        hash = (hash ^ 0x100u) * 0x100000001b3u;
    }
    return hash;
}

/* What the first record tells: the number of columns, and perhaps their names. */
static int begin(parser_t *self, psd_err_t *err)
{
    const psd_dataset_t *train = self->options->train;
    if (!self->n_fields)
        return psd_err_set(err, PSD_EDATA, "%s: no rows; the file is empty", self->name);
    self->n_columns = self->n_fields;
    if (self->n_columns < 2)
        return psd_err_set(
            err, PSD_EDATA,
            "%s:%zu: one column, where a label and at least one feature are needed; fields are "
            "separated by commas",
            self->name, self->fields[0].line);
    if (number_of_label_column(self, err))
        return PSD_ECONFIG;
    self->set->n_features = self->n_columns - 1;
    self->set->names_hash = self->options->header ? hash_names(self) : 0;
    if (train && train->n_features != self->set->n_features)
        return psd_err_set(err, PSD_EDATA,
                           "%s:%zu: %zu features, the training set has %zu; give both the same columns",
                           self->name, self->fields[0].line, self->set->n_features, train->n_features);
    if (train && train->names_hash != self->set->names_hash)
        return psd_err_set(err, PSD_EDATA,
                           "%s:%zu: the columns have other names, or another order, than the training set's",
                           self->name, self->fields[0].line);
    return PSD_OK;
}

static bool is_missing(const field_t *field)
{
    static const char *const words[] = { "", "NA", "N/A", "NaN", "nan", "NULL", "null" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (field_is(field, words[i]))
            return true;
    return false;
}

/* A field's number; a missing one sets `*skip`, or is 0, or an error, as data.na wants. */
static int parse_field(const parser_t *self, size_t column, float *out, bool *skip, psd_err_t *err)
{
    const field_t *field = &self->fields[column];
    const char *at = field->at, *end = field->end;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    while (at < end && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (psd_number_parse(at, end, out))
        return PSD_OK;
    if (!is_missing(&(field_t){ .at = at, .end = end }))
        return refuse(self, field, err, "is not a number; turn words into numbers first, or drop the column");
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
        return psd_err_set(err, PSD_EDATA, "%s:%zu: %zu fields, where the first line has %zu", self->name,
                           self->fields[0].line, self->n_fields, self->n_columns);
    size_t start = set->n_rows * set->n_features;
    int rc = psd_array_grow(&set->dense, &self->room_dense, start + set->n_features, sizeof *set->dense, err);
    float label = 0, *out = rc ? NULL : set->dense + start;
    bool skip = false;
    for (size_t i = 0; !rc && i < self->n_fields; i++)
        rc = parse_field(self, i, i == self->label_column ? &label : out++, &skip, err);
    return rc || skip
               ? rc
               : psd_labels_add(&self->labels, label, self->name, self->fields[self->label_column].line, err);
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

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels,
                const psd_dataset_options_t *options, psd_err_t *err)
{
    (void)labels;
    const char *at = (const char *)file->at, *end = at + file->n;
    if (file->n >= 3 && !memcmp(at, "\xef\xbb\xbf", 3))
        at += 3;
    parser_t parser = { .set = self,
                        .options = options,
                        .name = file->name,
                        .at = at,
                        .line_at = at,
                        .end = end,
                        .line = 1,
                        .labels = { .set = self, .options = options } };
    int rc = parse(&parser, err);
    free(parser.fields);
    return rc;
}

const psd_reader_t psd_reader_csv = {
    .name = "csv",
    .summary = "a table of numbers as RFC 4180 writes it, one column of them the label",
    .read = read,
};
