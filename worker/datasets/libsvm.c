/* libsvm.c - sparse text, a row a line:   LABEL[:WEIGHT] [qid:Q] INDEX:VALUE INDEX:VALUE ...   # comment Indices start at
 * data.index_base and need no order; each occurs once per row. WEIGHT multiplies the row's loss. Either all rows have a weight or
 * no row has; otherwise a row without its label would look like a weighted one. Q, the query of a ranking, is checked and ignored,
 * because no model here ranks. Rows stay sparse. A UTF-8 byte order mark is ignored. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/array.h"
#include "worker/labels.h"
#include "worker/text.h"

typedef struct parser {
    psd_dataset_t *set;
    const psd_dataset_options_t *options;
    const char *name; /* of the file */
    psd_labels_t labels;
    size_t line;                                                /* from 1 */
    const char *line_at;                                        /* its first character */
    size_t n, room_column, room_value, room_start, room_weight; /* values so far, and rooms of the arrays */
    size_t n_features;                                          /* largest index so far + 1 */
    size_t first_line;                                          /* of the first row; 0: none yet */
    bool weighted;                                              /* whether that row has a weight */
    bool sorted;                                                /* whether the row's indices rise so far */
    uint32_t *scratch;                                          /* the indices of a row that is not sorted, sorted */
    size_t room_scratch;
} parser_t;

static int refuse(const parser_t *self, psd_text_word_t word, psd_err_t *err, const char *why)
{
    return psd_text_refuse(self->name, self->line, self->line_at, word, why, err);
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

static int add_weight(parser_t *self, float weight, psd_err_t *err)
{
    int rc = psd_array_grow(&self->set->weight, &self->room_weight, self->set->n_rows, sizeof *self->set->weight, err);
    if (!rc)
        self->set->weight[self->set->n_rows - 1] = weight;
    return rc;
}

/* The first row decides whether labels have weights. */
static int check_weights_agree(parser_t *self, psd_text_word_t word, bool weighted, psd_err_t *err)
{
    char why[200];
    if (!self->first_line) {
        self->first_line = self->line;
        self->weighted = weighted;
    }
    if (weighted == self->weighted)
        return PSD_OK;
    snprintf(why, sizeof why,
             weighted ? "has a colon: is it a feature, and the row's label missing? All labels have a weight, or none, "
                        "and that of line %zu has none"
                      : "has no weight, but that of line %zu has one; all labels have a weight, or none",
             self->first_line);
    return refuse(self, word, err, why);
}

static int add_label(parser_t *self, psd_text_word_t word, psd_err_t *err)
{
    float label, weight = 1;
    const char *colon = psd_text_colon(word);
    const bool weighted = colon < word.end;
    if (weighted && word.at > self->line_at)
        return refuse(self, word, err, "follows a blank where the label is missing; a row starts with its label");
    if (colon - word.at == 3 && !memcmp(word.at, "qid", 3))
        return refuse(self, word, err, "stands where the label is missing; a row starts with its label");
    if (!psd_text_number(word.at, colon, &label))
        return refuse(self, word, err, "is not a label; a row starts with a number");
    if (weighted && (!psd_text_number(colon + 1, word.end, &weight) || weight < 0))
        return refuse(self, word, err, "has no weight after its colon; write LABEL:WEIGHT with a number from 0");
    int rc = check_weights_agree(self, word, weighted, err);
    rc = rc ? rc : psd_labels_add(&self->labels, label, self->name, self->line, err);
    return rc || !weighted ? rc : add_weight(self, weight, err);
}

static int add_value(parser_t *self, uint64_t column, float value, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    int rc = psd_array_grow(&set->column, &self->room_column, self->n + 1, sizeof *set->column, err);
    if (!rc)
        rc = psd_array_grow(&set->value, &self->room_value, self->n + 1, sizeof *set->value, err);
    if (rc)
        return rc;
    self->sorted = self->sorted && (self->n == set->row_start[set->n_rows - 1] || set->column[self->n - 1] < column);
    set->column[self->n] = (uint32_t)column;
    set->value[self->n++] = value;
    if (column >= self->n_features) {
        self->n_features = column + 1;
        set->widest_line = self->line;
    }
    return PSD_OK;
}

/* The text after the colon is not a number. */
static int fault(const parser_t *self, psd_text_word_t word, const char *value, psd_err_t *err)
{
    char shown[PSD_TEXT_QUOTE], why[200];
    if (value == word.end)
        return refuse(self, word, err, "has no number after its colon");
    const char *cause = psd_text_fault(value, word.end);
    snprintf(why, sizeof why, "has no number after its colon: '%s' %s", psd_text_quote(shown, value, word.end),
             cause ? cause : "is not a number; turn words into numbers first, or drop the column");
    return refuse(self, word, err, why);
}

static int compare_columns(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Refuse an index that occurs twice in the row; its features lie between `at` and `end`. */
static int check_once(parser_t *self, const char *at, const char *end, psd_err_t *err)
{
    const psd_dataset_t *set = self->set;
    const size_t start = set->row_start[set->n_rows - 1], n = self->n - start;
    if (self->sorted)
        return PSD_OK;
    int rc = psd_array_grow(&self->scratch, &self->room_scratch, n, sizeof *self->scratch, err);
    if (rc)
        return rc;
    memcpy(self->scratch, set->column + start, n * sizeof *self->scratch);
    qsort(self->scratch, n, sizeof *self->scratch, compare_columns);
    size_t i = 1;
    while (i < n && self->scratch[i] != self->scratch[i - 1])
        i++;
    if (i >= n)
        return PSD_OK;
    bool seen = false;
    for (psd_text_word_t word = psd_text_next_word(&at, end); word.at < word.end; word = psd_text_next_word(&at, end)) {
        uint64_t index;
        if (!parse_index(word.at, psd_text_colon(word), &index) || index - (uint64_t)self->options->index_base != self->scratch[i])
            continue;
        if (seen)
            return refuse(self, word, err, "has an index that occurs twice in this row; give each one value");
        seen = true;
    }
    return PSD_OK;
}

static int add_feature(parser_t *self, psd_text_word_t word, psd_err_t *err)
{
    const char *colon = psd_text_colon(word);
    uint64_t index;
    float value;
    if (colon == word.end)
        return refuse(self, word, err, "is not a feature; write INDEX:VALUE");
    if (colon - word.at == 3 && !memcmp(word.at, "qid", 3))
        return parse_index(colon + 1, word.end, &index) ? PSD_OK : refuse(self, word, err, "has no query number after its colon");
    if (!parse_index(word.at, colon, &index))
        return refuse(self, word, err, "has no index before its colon; indices are whole numbers");
    if (index < (uint64_t)self->options->index_base)
        return refuse(self, word, err, "has index 0, but indices were declared to start at 1; set data.index_base to 0");
    index -= (uint64_t)self->options->index_base;
    if (index >= PSD_MAX_FEATURES)
        return refuse(self, word, err, "has an index beyond 2147483646; hash the features into fewer");
    if (self->options->train && index >= self->options->train->n_features)
        return refuse(self, word, err, "has an index that is not in the training set; leave that feature out");
    if (!psd_text_number(colon + 1, word.end, &value))
        return fault(self, word, colon + 1, err);
    return add_value(self, index, value, err);
}

static int parse_line(void *arg, size_t line, const char *at, const char *end, psd_err_t *err)
{
    parser_t *self = arg;
    const char *comment = memchr(at, '#', (size_t)(end - at));
    end = comment ? comment : end;
    self->line = line;
    self->line_at = at;
    self->sorted = true;
    psd_text_word_t word = psd_text_next_word(&at, end);
    if (word.at == word.end)
        return PSD_OK;
    psd_dataset_t *set = self->set;
    int rc = psd_array_grow(&set->row_start, &self->room_start, set->n_rows + 2, sizeof *set->row_start, err);
    if (!rc) {
        set->row_start[set->n_rows] = self->n;
        rc = add_label(self, word, err);
    }
    const char *features = at;
    for (word = psd_text_next_word(&at, end); !rc && word.at < word.end; word = psd_text_next_word(&at, end))
        rc = add_feature(self, word, err);
    rc = rc ? rc : check_once(self, features, end, err);
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
        return psd_err_set(err, PSD_EDATA, "%s: no row has a feature; write INDEX:VALUE after the labels", self->name);
    return PSD_OK;
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    (void)labels;
    if (options->index_base != 0 && options->index_base != 1)
        return psd_err_set(err, PSD_ECONFIG, "data.index_base is %d; it is 0 or 1", options->index_base);
    parser_t parser = { .set = self, .options = options, .name = file->name, .labels = { .set = self, .options = options } };
    const int rc = psd_text_each_line(file, parse_line, &parser, err);
    free(parser.scratch);
    return rc ? rc : finish(&parser, err);
}

const psd_reader_t psd_reader_libsvm = {
    .name = "libsvm",
    .summary = "sparse text: label[:weight] [qid:q] index:value ...",
    .read = read,
};
