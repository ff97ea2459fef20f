#include "worker/encoding.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/printable.h"
#include "common/system/json.h"
#include "worker/dataset.h"

#define SCHEMA "psd.encoding/1"

enum { MOST_HASH_BITS = 24 };

psd_encoding_t *psd_encoding_new(size_t n_columns, psd_err_t *err)
{
    psd_encoding_t *self = calloc(1, sizeof *self);
    psd_table_column_t *column = calloc(n_columns ? n_columns : 1, sizeof *column);
    if (!self || !column) {
        free(self);
        free(column);
        psd_err_set(err, PSD_ENOMEM, "no memory for %zu columns", n_columns);
        return NULL;
    }
    for (size_t i = 0; i < n_columns; i++)
        column[i].scale = 1;
    self->column = column;
    self->n_columns = n_columns;
    return self;
}

static void free_words(char **word, size_t n)
{
    for (size_t i = 0; word && i < n; i++)
        free(word[i]);
    free(word);
}

void psd_encoding_destroy(psd_encoding_t **self_p)
{
    psd_encoding_t *self = *self_p;
    for (size_t i = 0; self && i < self->n_columns; i++) {
        free(self->column[i].name);
        free_words(self->column[i].word, self->column[i].n_words);
    }
    if (self) {
        free_words(self->class_word, self->n_classes);
        free(self->label);
        free(self->column);
    }
    free(self);
    *self_p = NULL;
}

int psd_encoding_place(psd_encoding_t *self, const char *file, psd_err_t *err)
{
    size_t n = 0;
    bool hashes = false;
    self->has_words = false;
    for (size_t i = 0; i < self->n_columns; i++) {
        psd_table_column_t *column = &self->column[i];
        column->first = n;
        n += !column->is_word ? 1 : column->is_hashed ? 0 : column->n_words;
        hashes = hashes || (column->is_word && column->is_hashed);
        self->has_words = self->has_words || column->is_word;
    }
    for (size_t i = 0; i < self->n_columns; i++)
        if (self->column[i].is_word && self->column[i].is_hashed)
            self->column[i].first = n;
    self->n_features = n + (hashes ? (size_t)1 << self->hash_bits : 0);
    if (!self->n_features)
        return psd_err_set(err, PSD_EDATA, "%s: no feature is left: the columns of words hold none", file);
    return self->n_features <= PSD_MAX_FEATURES ? PSD_OK
                                                : psd_err_set(err, PSD_EDATA, "%s: %zu features, more than %d; lower data.one_hot",
                                                              file, self->n_features, PSD_MAX_FEATURES);
}

float psd_encoding_value(const psd_table_column_t *column, double number)
{
    const double x = column->log1p ? copysign(log1p(fabs(number)), number) : number;
    const double value = (x - column->mean) / column->scale; /* of another set's number, perhaps beyond a float */
    return (float)fmax(-(double)FLT_MAX, fmin((double)FLT_MAX, value));
}

/* The place of [at, at + n) in ordered words; PSD_NO_FEATURE. */
static size_t find(char *const *word, size_t n_words, const char *at, size_t n)
{
    size_t low = 0, high = n_words;
    while (low < high) {
        const size_t middle = low + (high - low) / 2, m = strlen(word[middle]);
        const int order = memcmp(at, word[middle], n < m ? n : m);
        if (order == 0 && n == m)
            return middle;
        if (order < 0 || (order == 0 && n < m))
            high = middle;
        else
            low = middle + 1;
    }
    return PSD_NO_FEATURE;
}

size_t psd_encoding_feature(const psd_encoding_t *self, const psd_table_column_t *column, const char *word, size_t n)
{
    if (column->is_hashed) /* one word in two columns is two */
        return column->first +
               (size_t)(XXH3_64bits_withSeed(word, n, XXH3_64bits(column->name, strlen(column->name))) >> (64 - self->hash_bits));
    const size_t i = find(column->word, column->n_words, word, n);
    return i == PSD_NO_FEATURE ? i : column->first + i;
}

size_t psd_encoding_class(const psd_encoding_t *self, const char *word, size_t n)
{
    return find(self->class_word, self->n_classes, word, n);
}

/* ---- JSON ---- */

static json_t *words_json(char *const *word, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++)
        if (json_array_append_new(list, json_string(word[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* Usual values are left out, because an array may have many columns. */
static int set_unless(json_t *json, const char *key, double value, double usual)
{
    return value < usual || value > usual ? json_object_set_new(json, key, json_real(value)) : 0;
}

static json_t *column_json(const psd_table_column_t *column)
{
    json_t *json = json_object();
    int lost = !json || json_object_set_new(json, "name", json_string(column->name));
    if (!lost && column->is_word)
        lost = column->is_hashed ? json_object_set_new(json, "hashed", json_true())
                                 : json_object_set_new(json, "words", words_json(column->word, column->n_words));
    if (!lost && !column->is_word)
        lost = (column->log1p && json_object_set_new(json, "log1p", json_true())) || set_unless(json, "mean", column->mean, 0) ||
               set_unless(json, "scale", column->scale, 1) || set_unless(json, "fill", column->fill, 0);
    if (lost) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* The first column with a name or a word that JSON cannot hold; NULL: there is none. */
static const char *find_not_utf8(const psd_encoding_t *self)
{
    for (size_t i = 0; i < self->n_columns; i++) {
        const psd_table_column_t *column = &self->column[i];
        bool good = psd_is_utf8(column->name);
        for (size_t k = 0; good && column->is_word && !column->is_hashed && k < column->n_words; k++)
            good = psd_is_utf8(column->word[k]);
        if (!good)
            return column->name;
    }
    bool good = psd_is_utf8(self->label);
    for (size_t k = 0; good && self->class_word && k < self->n_classes; k++)
        good = psd_is_utf8(self->class_word[k]);
    return good ? NULL : self->label;
}

char *psd_encoding_print(const psd_encoding_t *self, psd_err_t *err)
{
    const char *wrong = find_not_utf8(self);
    if (wrong) {
        psd_err_set(err, PSD_EDATA, "column '%.60s': its name or a word in it is not UTF-8; save the file as UTF-8", wrong);
        return NULL;
    }
    json_t *root = json_object(), *columns = json_array();
    int lost = !root || !columns || json_object_set_new(root, "schema", json_string(SCHEMA)) ||
               json_object_set_new(root, "hash_bits", json_integer(self->hash_bits)) ||
               json_object_set_new(root, "fields", json_integer((json_int_t)self->n_fields)) ||
               json_object_set_new(root, "fills", json_boolean(self->fills));
    for (size_t i = 0; !lost && i < self->n_columns; i++)
        lost = json_array_append_new(columns, column_json(&self->column[i]));
    lost = lost || json_object_set_new(root, "label", json_string(self->label)) ||
           (self->class_word && json_object_set_new(root, "classes", words_json(self->class_word, self->n_classes))) ||
           json_object_set(root, "columns", columns);
    char *text = lost ? NULL : psd_json_text(root, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!text)
        psd_err_set(err, PSD_ENOMEM, "no memory to write down %zu columns", self->n_columns);
    json_decref(columns);
    json_decref(root);
    return text;
}

static int flawed(psd_err_t *err, const char *what)
{
    return psd_err_set(err, PSD_EDATA, "the model's encoding (psd.encoding) is damaged: %s; train the model again", what);
}

/* Words that are ordered, without a repetition. */
static int take_words(const json_t *list, char ***out, size_t *n, psd_err_t *err)
{
    const size_t size = json_array_size(list);
    if (!json_is_array(list))
        return flawed(err, "its words are not a list");
    if (!(*out = calloc(size ? size : 1, sizeof **out)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu words", size);
    for (; *n < size; ++*n) {
        const char *word = json_string_value(json_array_get(list, *n));
        if (!word || (*n && strcmp((*out)[*n - 1], word) >= 0))
            return flawed(err, "a list of words is not in order");
        if (!((*out)[*n] = strdup(word)))
            return psd_err_set(err, PSD_ENOMEM, "no memory for %zu words", size);
    }
    return PSD_OK;
}

static int take_column(psd_table_column_t *column, const json_t *json, psd_err_t *err)
{
    const char *name = json_string_value(json_object_get(json, "name"));
    const json_t *words = json_object_get(json, "words");
    if (!name)
        return flawed(err, "a column has no name");
    if (!(column->name = strdup(name)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a column");
    column->is_hashed = json_is_true(json_object_get(json, "hashed"));
    column->is_word = column->is_hashed || words;
    if (column->is_word)
        return column->is_hashed ? PSD_OK : take_words(words, &column->word, &column->n_words, err);
    column->log1p = json_is_true(json_object_get(json, "log1p"));
    column->mean = json_number_value(json_object_get(json, "mean"));
    if (json_object_get(json, "scale"))
        column->scale = json_number_value(json_object_get(json, "scale"));
    column->fill = json_number_value(json_object_get(json, "fill"));
    return column->scale > 0 ? PSD_OK : flawed(err, "a column's scale is not above 0");
}

static int take(psd_encoding_t *self, const json_t *root, psd_err_t *err)
{
    const json_int_t bits = json_integer_value(json_object_get(root, "hash_bits"));
    const json_t *classes = json_object_get(root, "classes"), *columns = json_object_get(root, "columns");
    const char *label = json_string_value(json_object_get(root, "label"));
    if (!label)
        return flawed(err, "the label has no name");
    if (!(self->label = strdup(label)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for a name");
    int rc = bits < 1 || bits > MOST_HASH_BITS ? flawed(err, "hash_bits is not 1 to 24") : PSD_OK;
    self->hash_bits = (unsigned)bits;
    self->n_fields = (size_t)json_integer_value(json_object_get(root, "fields"));
    self->fills = json_is_true(json_object_get(root, "fills"));
    for (size_t i = 0; !rc && i < self->n_columns; i++)
        rc = take_column(&self->column[i], json_array_get(columns, i), err);
    if (!rc && classes)
        rc = take_words(classes, &self->class_word, &self->n_classes, err);
    return rc ? rc : psd_encoding_place(self, "the model's encoding", err);
}

psd_encoding_t *psd_encoding_parse(const char *text, psd_err_t *err)
{
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    const char *schema = json_string_value(json_object_get(root, "schema"));
    const json_t *columns = json_object_get(root, "columns");
    psd_encoding_t *self = NULL;
    if (!root || !schema || !json_array_size(columns))
        flawed(err, root ? "it has no columns" : "it is not JSON");
    else if (strcmp(schema, SCHEMA))
        psd_err_set(err, PSD_EDATA, "the model's encoding is of another version, '%.40s'; this psd reads " SCHEMA, schema);
    else if ((self = psd_encoding_new(json_array_size(columns), err)) && take(self, root, err))
        psd_encoding_destroy(&self);
    json_decref(root);
    return self;
}
