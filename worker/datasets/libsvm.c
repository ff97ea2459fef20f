/* libsvm.c - sparse text, a row a line:   LABEL[:WEIGHT] [qid:Q] INDEX:VALUE INDEX:VALUE ...   # comment
 * Indices start at data.index_base and need no order. WEIGHT multiplies the row's loss; Q, the query of a
 * ranking, is checked and passed over, for no model here ranks. Rows stay sparse. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "worker/dataset.h"

typedef struct parser {
    psd_dataset_t *set;
    const psd_dataset_options_t *options;
    const char *name; /* of the file */
    psd_labels_t labels;
    size_t line;                                                /* from 1 */
    const char *line_at;                                        /* its first character */
    size_t n, room_column, room_value, room_start, room_weight; /* values so far, and rooms of the arrays */
    size_t n_features;                                          /* largest index so far + 1 */
} parser_t;

typedef struct span {
    const char *at, *end;
} span_t;

static int refuse(const parser_t *self, span_t word, psd_err_t *err, const char *why)
{
    size_t length = (size_t)(word.end - word.at);
    return psd_err_set(err, PSD_EDATA, "%s:%zu:%zu: '%.*s' %s", self->name, self->line,
                       (size_t)(word.at - self->line_at) + 1, (int)(length < 40 ? length : 40), word.at, why);
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* The next word of the line, or an empty one at its end. */
static span_t next_word(const char **at, const char *end)
{
    while (*at < end && is_blank(**at))
        ++*at;
    span_t word = { *at, *at };
    while (word.end < end && !is_blank(*word.end))
        word.end++;
    *at = word.end;
    return word;
}

static const char *colon_of(span_t word)
{
    const char *colon = memchr(word.at, ':', (size_t)(word.end - word.at));
    return colon ? colon : word.end;
}

static bool parse_index(const char *at, const char *end, uint64_t *out)
{
    if (at == end || end - at > 19)
        return false;
    for (*out = 0; at < end; at++) {
        if (*at < '0' || *at > '9')
            return false;
        *out = *out * 10 + (uint64_t)(*at - '0');
    }
    return true;
}

/* Weights are kept from the first row that has one; the rows before it weigh 1. */
static int add_weight(parser_t *self, float weight, psd_err_t *err)
{
    if (!self->set->weight && weight == 1)
        return PSD_OK;
    size_t known = self->set->weight ? self->set->n_rows - 1 : 0;
    int rc = psd_array_grow(&self->set->weight, &self->room_weight, self->set->n_rows,
                            sizeof *self->set->weight, err);
    for (size_t i = known; !rc && i + 1 < self->set->n_rows; i++)
        self->set->weight[i] = 1;
    if (!rc)
        self->set->weight[self->set->n_rows - 1] = weight;
    return rc;
}

static int add_label(parser_t *self, span_t word, psd_err_t *err)
{
    float label, weight = 1;
    const char *colon = colon_of(word);
    if (!psd_number_parse(word.at, colon, &label))
        return refuse(self, word, err, "is no label; a row starts with a number");
    if (colon < word.end && (!psd_number_parse(colon + 1, word.end, &weight) || weight < 0))
        return refuse(self, word, err,
                      "has no weight after its colon; write LABEL:WEIGHT with a number from 0");
    int rc = psd_labels_add(&self->labels, label, self->name, self->line, err);
    return rc ? rc : add_weight(self, weight, err);
}

static int add_value(parser_t *self, uint64_t column, float value, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    int rc = psd_array_grow(&set->column, &self->room_column, self->n + 1, sizeof *set->column, err);
    if (!rc)
        rc = psd_array_grow(&set->value, &self->room_value, self->n + 1, sizeof *set->value, err);
    if (rc)
        return rc;
    set->column[self->n] = (uint32_t)column;
    set->value[self->n++] = value;
    if (column >= self->n_features)
        self->n_features = column + 1;
    return PSD_OK;
}

static int add_feature(parser_t *self, span_t word, psd_err_t *err)
{
    const char *colon = colon_of(word);
    uint64_t index;
    float value;
    if (colon == word.end)
        return refuse(self, word, err, "is no feature; write INDEX:VALUE");
    if (colon - word.at == 3 && !memcmp(word.at, "qid", 3))
        return parse_index(colon + 1, word.end, &index)
                   ? PSD_OK
                   : refuse(self, word, err, "has no query number after its colon");
    if (!parse_index(word.at, colon, &index))
        return refuse(self, word, err, "has no index before its colon; indices are whole numbers");
    if (index < (uint64_t)self->options->index_base)
        return refuse(self, word, err,
                      "has index 0, but indices were declared to start at 1; set data.index_base to 0");
    index -= (uint64_t)self->options->index_base;
    if (index >= PSD_MAX_FEATURES)
        return refuse(self, word, err, "has an index beyond 2147483646; hash the features into fewer");
    if (self->options->train && index >= self->options->train->n_features)
        return refuse(self, word, err, "has an index that the training set lacks; leave that feature out");
    if (!psd_number_parse(colon + 1, word.end, &value))
        return refuse(self, word, err, "has no number after its colon");
    return add_value(self, index, value, err);
}

static int parse_line(parser_t *self, const char *at, const char *end, psd_err_t *err)
{
    const char *comment = memchr(at, '#', (size_t)(end - at));
    end = comment ? comment : end;
    self->line_at = at;
    span_t word = next_word(&at, end);
    if (word.at == word.end)
        return PSD_OK;
    psd_dataset_t *set = self->set;
    int rc = psd_array_grow(&set->row_start, &self->room_start, set->n_rows + 2, sizeof *set->row_start, err);
    if (!rc) {
        set->row_start[set->n_rows] = self->n;
        rc = add_label(self, word, err);
    }
    for (word = next_word(&at, end); !rc && word.at < word.end; word = next_word(&at, end))
        rc = add_feature(self, word, err);
    if (!rc)
        set->row_start[set->n_rows] = self->n;
    return rc;
}

static int finish(parser_t *self, psd_err_t *err)
{
    int rc = psd_labels_end(&self->labels, self->name, err);
    if (rc)
        return rc;
    self->set->n_features = self->options->train ? self->options->train->n_features : self->n_features;
    if (!self->set->n_features)
        return psd_err_set(err, PSD_EDATA, "%s: no row has a feature; write INDEX:VALUE after the labels",
                           self->name);
    return PSD_OK;
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels,
                const psd_dataset_options_t *options, psd_err_t *err)
{
    (void)labels;
    if (options->index_base != 0 && options->index_base != 1)
        return psd_err_set(err, PSD_ECONFIG, "data.index_base is %d; it is 0 or 1", options->index_base);
    parser_t parser = {
        .set = self, .options = options, .name = file->name, .labels = { .set = self, .options = options }
    };
    const char *at = (const char *)file->at, *end = at + file->n;
    int rc = PSD_OK;
    while (!rc && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        parser.line++;
        rc = parse_line(&parser, at, newline ? newline : end, err);
        at = newline ? newline + 1 : end;
    }
    return rc ? rc : finish(&parser, err);
}

const psd_reader_t psd_reader_libsvm = {
    .name = "libsvm",
    .summary = "sparse text: label[:weight] [qid:q] index:value ...",
    .read = read,
};
