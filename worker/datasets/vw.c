/* vw.c - Vowpal Wabbit's text format, as far as most files use it: LABEL [IMPORTANCE] ['TAG]|NAMESPACE[:FACTOR] FEATURE[:VALUE] ...
 * and more namespaces. Features are hashed as in Vowpal Wabbit: MurmurHash3 of the name with the namespace's hash as seed; a name
 * of digits is its number plus that hash (a namespace's seed is 0). The lower data.hash_bits bits are used. Features of a row with
 * the same hash add up. Tags are ignored. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/array.h"
#include "worker/labels.h"
#include "worker/murmur3.h"
#include "worker/text.h"

/* A feature of the row that is being read. */
typedef struct entry {
    uint32_t column;
    uint32_t place; /* in the row, for the order of the sum */
    float value;
} entry_t;

typedef struct parser {
    psd_dataset_t *set;
    const psd_dataset_options_t *options;
    const char *name; /* of the file */
    psd_labels_t labels;
    size_t line;
    const char *line_at; /* its first character */
    entry_t *entry;      /* of the row */
    size_t n_entries, room_entries;
    size_t n; /* values so far */
    size_t room_start, room_column, room_value, room_weight;
    size_t labelled_line; /* the first line with a label, and the first without one; 0: none */
    size_t bare_line;
} parser_t;

static int refuse(const parser_t *self, psd_text_word_t word, psd_err_t *err, const char *why)
{
    return psd_text_refuse(self->name, self->line, self->line_at, word, why, err);
}

/* The word, from `at` on, cannot be used: because of what is known to be wrong with it, or else of `why`. */
static int refuse_number(const parser_t *self, psd_text_word_t word, const char *at, psd_err_t *err, const char *why)
{
    float number;
    const char *fault = psd_text_number(at, word.end, &number) ? NULL : psd_text_fault(at, word.end);
    return refuse(self, word, err, fault ? fault : why);
}

/* ---- Before the bar ---- */

/* At the first row with an importance, all rows before it get 1. */
static int add_importance(parser_t *self, float importance, bool given, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    if (!given && !set->weight)
        return PSD_OK;
    const bool first = !set->weight;
    const int rc = psd_array_grow(&set->weight, &self->room_weight, set->n_rows, sizeof *set->weight, err);
    for (size_t i = 0; !rc && first && i < set->n_rows; i++)
        set->weight[i] = 1;
    if (!rc)
        set->weight[set->n_rows - 1] = importance;
    return rc;
}

static int parse_head(parser_t *self, const char *at, const char *bar, psd_err_t *err)
{
    psd_text_word_t word[4];
    size_t n = 0;
    for (psd_text_word_t next = psd_text_next_word(&at, bar); next.at < next.end && n < 4; next = psd_text_next_word(&at, bar))
        if (*next.at != '\'')
            word[n++] = next;
    const bool touches = n && word[n - 1].end == bar;
    if (n == 1 && touches)
        return refuse(self, word[0], err, "touches the bar, which makes it a tag; put a blank between label and bar");
    n -= touches;
    float label = 0, importance = 1;
    if (n > 2)
        return refuse(self, word[2], err, "is a third number; only LABEL IMPORTANCE 'TAG are read before the bar");
    if (n > 0 && !psd_text_number(word[0].at, word[0].end, &label))
        return refuse_number(self, word[0], word[0].at, err, "is not a label; a row starts with a number");
    if (n > 1 && (!psd_text_number(word[1].at, word[1].end, &importance) || importance < 0))
        return refuse_number(self, word[1], word[1].at, err, "is not an importance; expected a number from 0");
    if (n == 0 && !self->options->predicts)
        return refuse(self, (psd_text_word_t){ bar, bar + 1 }, err,
                      "stands where the label is missing; a row starts with its label");
    size_t *seen = n ? &self->labelled_line : &self->bare_line;
    *seen = *seen ? *seen : self->line;
    if (self->labelled_line && self->bare_line)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: this row has %s label, and that of line %zu has %s; label all rows, or none",
                           self->name, self->line, n ? "a" : "no", n ? self->bare_line : self->labelled_line, n ? "none" : "one");
    const int rc = psd_labels_add(&self->labels, label, self->name, self->line, err);
    return rc ? rc : add_importance(self, importance, n > 1, err);
}

/* ---- Behind it ---- */

static bool is_number(psd_text_word_t name)
{
    for (const char *at = name.at; at < name.end; at++)
        if (*at < '0' || *at > '9')
            return false;
    return name.at < name.end;
}

static uint32_t hash_of(psd_text_word_t name, uint32_t seed)
{
    if (!is_number(name))
        return psd_murmur3(name.at, (size_t)(name.end - name.at), seed);
    uint32_t number = 0;
    for (const char *at = name.at; at < name.end; at++)
        number = number * 10 + (uint32_t)(*at - '0');
    return number + seed;
}

/* The number after a colon; 1 without a colon. */
static int parse_value(const parser_t *self, psd_text_word_t word, float *out, psd_err_t *err)
{
    const char *colon = psd_text_colon(word);
    *out = 1;
    return colon == word.end || psd_text_number(colon + 1, word.end, out)
               ? PSD_OK
               : refuse_number(self, word, colon + 1, err, "has no number after its colon");
}

static int add_feature(parser_t *self, psd_text_word_t word, uint32_t seed, float factor, psd_err_t *err)
{
    const psd_text_word_t name = { word.at, psd_text_colon(word) };
    const unsigned bits = self->options->hash_bits ? self->options->hash_bits : PSD_HASH_BITS;
    float value;
    if (name.at == name.end)
        return refuse(self, word, err, "has no name before its colon; write FEATURE:VALUE");
    int rc = parse_value(self, word, &value, err);
    rc = rc ? rc : psd_array_grow(&self->entry, &self->room_entries, self->n_entries + 1, sizeof *self->entry, err);
    if (rc)
        return rc;
    self->entry[self->n_entries] =
        (entry_t){ hash_of(name, seed) & (((uint32_t)1 << bits) - 1), (uint32_t)self->n_entries, value * factor };
    self->n_entries++;
    return isfinite(value * factor) ? PSD_OK
                                    : refuse(self, word, err, "is beyond the range of float32, with its namespace's factor");
}

/* One namespace: from after its bar to the next bar or the end. */
static int parse_namespace(parser_t *self, const char *at, const char *end, psd_err_t *err)
{
    uint32_t seed = 0;
    float factor = 1;
    int rc = PSD_OK;
    if (at < end && !psd_text_is_blank(*at)) {
        const psd_text_word_t word = psd_text_next_word(&at, end), name = { word.at, psd_text_colon(word) };
        if (name.at == name.end)
            return refuse(self, word, err, "has no name before its colon; write |NAMESPACE:FACTOR");
        seed = hash_of(name, 0);
        rc = parse_value(self, word, &factor, err);
    }
    for (psd_text_word_t word = psd_text_next_word(&at, end); !rc && word.at < word.end; word = psd_text_next_word(&at, end))
        rc = add_feature(self, word, seed, factor, err);
    return rc;
}

static int compare_entries(const void *a, const void *b)
{
    const entry_t *x = a, *y = b;
    return x->column != y->column ? (x->column > y->column) - (x->column < y->column)
                                  : (x->place > y->place) - (x->place < y->place);
}

/* The row's features in order; those with the same hash are added up. */
static int keep_row(parser_t *self, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    const size_t start = self->n;
    int rc = psd_array_grow(&set->column, &self->room_column, start + self->n_entries + 1, sizeof *set->column, err);
    rc = rc ? rc : psd_array_grow(&set->value, &self->room_value, start + self->n_entries + 1, sizeof *set->value, err);
    if (rc)
        return rc;
    if (self->n_entries)
        qsort(self->entry, self->n_entries, sizeof *self->entry, compare_entries);
    for (size_t i = 0; i < self->n_entries; i++) {
        const entry_t *entry = &self->entry[i];
        if (self->n > start && set->column[self->n - 1] == entry->column) {
            set->value[self->n - 1] += entry->value;
        } else {
            set->column[self->n] = entry->column;
            set->value[self->n++] = entry->value;
        }
        if (!isfinite(set->value[self->n - 1]))
            return psd_err_set(err, PSD_EDATA,
                               "%s:%zu: features with one hash add up to more than a float32 holds; raise data.hash_bits",
                               self->name, self->line);
    }
    set->row_start[set->n_rows] = self->n;
    return PSD_OK;
}

static int parse_line(void *arg, size_t line, const char *at, const char *end, psd_err_t *err)
{
    parser_t *self = arg;
    const char *start = at, *bar = memchr(at, '|', (size_t)(end - at));
    const psd_text_word_t first = psd_text_next_word(&start, end);
    psd_dataset_t *set = self->set;
    self->line = line;
    self->line_at = at;
    self->n_entries = 0;
    if (first.at == first.end)
        return PSD_OK;
    if (!bar)
        return refuse(self, first, err, "begins a line without a bar; features follow a |");
    int rc = psd_array_grow(&set->row_start, &self->room_start, set->n_rows + 2, sizeof *set->row_start, err);
    if (!rc) {
        set->row_start[set->n_rows] = self->n;
        rc = parse_head(self, at, bar, err);
    }
    while (!rc && bar) {
        const char *next = memchr(bar + 1, '|', (size_t)(end - bar - 1));
        rc = parse_namespace(self, bar + 1, next ? next : end, err);
        bar = next;
    }
    return rc ? rc : keep_row(self, err);
}

static int finish(parser_t *self, psd_err_t *err)
{
    const size_t n_features = (size_t)1 << (self->options->hash_bits ? self->options->hash_bits : PSD_HASH_BITS);
    const psd_dataset_t *train = self->options->train;
    const int rc = psd_labels_end(&self->labels, self->name, err);
    if (rc)
        return rc;
    self->set->n_features = n_features;
    self->set->unlabelled = !self->labelled_line;
    if (train && train->n_features != n_features)
        return psd_err_set(err, PSD_EDATA,
                           "%s: hashed into %zu features, and the training set has %zu; give both the same data.hash_bits",
                           self->name, n_features, train->n_features);
    return self->n ? PSD_OK : psd_err_set(err, PSD_EDATA, "%s: no row has a feature; write them behind a |", self->name);
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    (void)labels;
    parser_t parser = { .set = self, .options = options, .name = file->name, .labels = { .set = self, .options = options } };
    const int rc = psd_text_each_line(file, parse_line, &parser, err);
    free(parser.entry);
    return rc ? rc : finish(&parser, err);
}

const psd_reader_t psd_reader_vw = {
    .name = "vw",
    .summary = "Vowpal Wabbit's text: label [importance] ['tag]|namespace feature:value ..., hashed as it does",
    .read = read,
};
