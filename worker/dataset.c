#include "worker/dataset.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "worker/slurp.h"

#define X(name) extern const psd_reader_t psd_reader_##name;
#include "worker/datasets/all.h"
#undef X

static const psd_reader_t *const readers[] = {
#define X(name) &psd_reader_##name,
#include "worker/datasets/all.h"
#undef X
};

const psd_reader_t *psd_dataset_reader_at(size_t i) { return i < sizeof readers / sizeof *readers ? readers[i] : NULL; }

static const psd_reader_t *find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (strlen(readers[i]->name) == n && !memcmp(readers[i]->name, name, n))
            return readers[i];
    return NULL;
}

const psd_reader_t *psd_dataset_reader(const char *name) { return find(name, strlen(name)); }

psd_dataset_t *psd_dataset_parse(const psd_reader_t *reader, const psd_bytes_t *file, const psd_bytes_t *labels,
                                 const psd_dataset_options_t *options, psd_err_t *err)
{
    psd_dataset_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a data set");
        return NULL;
    }
    if (reader->read(self, file, labels, options, err) != PSD_OK)
        psd_dataset_destroy(&self);
    else
        assert(self->n_rows && self->n_features && self->label);
    return self;
}

static psd_dataset_t *load_files(const psd_reader_t *reader, const char *path, const psd_dataset_options_t *options, psd_err_t *err)
{
    psd_bytes_t file = { 0 }, labels = { 0 };
    psd_dataset_t *self = NULL;
    const bool labelled = reader->needs_labels && options->labels && *options->labels;
    if (psd_slurp(&file, path, reader->magic, err) == PSD_OK &&
        (!labelled || psd_slurp(&labels, options->labels, reader->magic, err) == PSD_OK))
        self = psd_dataset_parse(reader, &file, labelled ? &labels : NULL, options, err);
    psd_slurp_free(&file);
    psd_slurp_free(&labels);
    return self;
}

int psd_dataset_check_format(const char *spec, psd_err_t *err)
{
    char names[128] = "", such[240] = "";
    const char *dot = strrchr(spec, '.');
    if (find(spec, strcspn(spec, ":")))
        return PSD_OK;
    for (size_t i = 0, n = 0; i < sizeof readers / sizeof *readers && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", readers[i]->name);
    if (dot && psd_dataset_reader(dot + 1))
        snprintf(such, sizeof such, ", such as %s:%.200s", dot + 1, spec);
    return psd_err_set(err, PSD_ECONFIG, "data set '%.200s': write FORMAT:FILE with a format of %s%s", spec, names, such);
}

bool psd_dataset_has_one_class(const psd_dataset_t *self)
{
    size_t i = 1;
    while (i < self->n_rows && self->label[i] == self->label[0])
        i++;
    return self->kind == PSD_LABEL_CLASS && i == self->n_rows;
}

/* An option of tables that this reader has no use for; NULL: there is none. */
static const char *misplaced_option(const psd_reader_t *reader, const psd_dataset_options_t *options)
{
    const struct {
        const char *key;
        bool given, may;
    } rows[] = {
        { "drop", options->n_drop, reader->has_columns },
        { "delimiter", options->delimiter && options->delimiter != ',', reader->has_columns },
        { "label_column", options->label_column && *options->label_column, reader->has_columns },
        { "weight_column", options->weight_column && *options->weight_column, reader->has_columns },
        { "categorical", options->n_categorical, reader->has_columns },
        { "log1p", options->n_log1p, reader->is_table },
        { "scale", options->standardise, reader->is_table },
    };
    for (size_t i = 0; (!options->train || options->trains) && i < sizeof rows / sizeof *rows; i++)
        if (rows[i].given && !rows[i].may)
            return rows[i].key;
    return NULL;
}

psd_dataset_t *psd_dataset_load(const char *spec, const psd_dataset_options_t *options, psd_err_t *err)
{
    size_t n = strcspn(spec, ":");
    const psd_reader_t *reader = find(spec, n);
    const char *where = spec[n] ? spec + n + 1 : "";
    if (psd_dataset_check_format(spec, err))
        return NULL;
    if (!reader->needs_labels && options->labels && *options->labels) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' keeps its labels itself; leave data.%s out", spec,
                    options->train ? "test_labels" : "labels");
        return NULL;
    }
    const char *misplaced = misplaced_option(reader, options);
    if (misplaced) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' has no columns %s; leave data.%s out", spec,
                    reader->is_table ? "to choose" : "with names", misplaced);
        return NULL;
    }
    if (reader->no_file)
        return psd_dataset_parse(reader, &(psd_bytes_t){ .name = where }, NULL, options, err);
    if (!*where) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' names no file; write %s:FILE", spec, reader->name);
        return NULL;
    }
    if (reader->needs_labels && !options->predicts && (!options->labels || !*options->labels)) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' needs the file of its labels too; set data.%s", spec,
                    options->train ? "test_labels" : "labels");
        return NULL;
    }
    return load_files(reader, where, options, err);
}

bool psd_dataset_needs_encoding(const char *spec)
{
    const psd_reader_t *reader = find(spec, strcspn(spec, ":"));
    return reader && reader->is_table;
}

void psd_dataset_destroy(psd_dataset_t **self_p)
{
    psd_dataset_t *self = *self_p;
    if (self) {
        psd_encoding_destroy(&self->encoding);
        free(self->label);
        free(self->weight);
        free(self->pixels);
        free(self->dense);
        free(self->row_start);
        free(self->column);
        free(self->value);
    }
    free(self);
    *self_p = NULL;
}

void psd_dataset_gather(const psd_dataset_t *self, const uint32_t *rows, size_t n, float *out)
{
    assert(!psd_dataset_is_sparse(self));
    const size_t width = self->n_features;
    for (size_t i = 0; i < n; i++, out += width) {
        assert(rows[i] < self->n_rows);
        if (self->dense) {
            memcpy(out, self->dense + rows[i] * width, width * sizeof *out);
            continue;
        }
        const uint8_t *pixel = self->pixels + rows[i] * width;
        for (size_t j = 0; j < width; j++)
            out[j] = (float)pixel[j] / 255.0f; /* a division, not a product with 1/255: the same bits as numpy's */
    }
}

static void hash_bytes(XXH3_state_t *state, const void *bytes, size_t n)
{
    if (bytes)
        XXH3_64bits_update(state, bytes, n);
}

uint64_t psd_dataset_hash(const psd_dataset_t *self)
{
    const size_t cells = self->n_rows * self->n_features, values = self->row_start ? self->row_start[self->n_rows] : 0;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    hash_bytes(&state, &self->n_rows, sizeof self->n_rows);
    hash_bytes(&state, &self->n_features, sizeof self->n_features);
    hash_bytes(&state, self->label, self->n_rows * sizeof *self->label);
    hash_bytes(&state, self->weight, self->n_rows * sizeof *self->weight);
    hash_bytes(&state, self->pixels, cells);
    hash_bytes(&state, self->dense, cells * sizeof *self->dense);
    hash_bytes(&state, self->row_start, (self->n_rows + 1) * sizeof *self->row_start);
    hash_bytes(&state, self->column, values * sizeof *self->column);
    hash_bytes(&state, self->value, values * sizeof *self->value);
    return XXH3_64bits_digest(&state);
}
