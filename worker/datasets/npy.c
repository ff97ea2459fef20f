/* npy.c - arrays as numpy.save writes them: features in one file, a row per row of its first dimension, labels in another
 * (npyarray.h). NaN is a missing value. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/labels.h"
#include "worker/npyarray.h"
#include "worker/table.h"

/* ---- Rows ---- */

static int refuse(const psd_npy_t *self, size_t row, size_t column, psd_err_t *err, const char *why)
{
    return psd_err_set(err, PSD_EDATA, "%s: [%zu, %zu] %s", self->name, row, column, why);
}

static int take_value(const psd_npy_t *self, size_t row, size_t column, const psd_dataset_options_t *options, float *out,
                      bool *skip, psd_err_t *err)
{
    const double value = psd_npy_value(self, row * self->width + column);
    *out = (float)value;
    if (isnan(value)) {
        *skip = *skip || options->na == PSD_NA_SKIP;
        *out = options->na == PSD_NA_MEAN ? NAN : 0;
        return options->na == PSD_NA_ERROR
                   ? refuse(self, row, column, err,
                            options->predicts ? "is NaN, a missing value; set data.na to zero or mean, or fill it in"
                                              : "is NaN, a missing value; set data.na to zero, mean or skip, or fill it in")
                   : PSD_OK;
    }
    return fabs(value) <= (double)FLT_MAX ? PSD_OK : refuse(self, row, column, err, "is beyond the range of float32 (3.4e38)");
}

static psd_encoding_t *columns_of(size_t width, psd_err_t *err)
{
    psd_encoding_t *encoding = psd_encoding_new(width, err);
    bool whole = encoding && (encoding->label = strdup("label"));
    for (size_t j = 0; whole && j < width; j++) {
        char number[24];
        snprintf(number, sizeof number, "%zu", j);
        whole = (encoding->column[j].name = strdup(number)) != NULL;
    }
    if (!whole && encoding) {
        psd_encoding_destroy(&encoding);
        psd_err_set(err, PSD_ENOMEM, "no memory for %zu columns", width);
    } else if (encoding) {
        encoding->n_fields = width;
    }
    return encoding;
}

static int begin(psd_table_t *table, const psd_npy_t *array, const psd_dataset_options_t *options, psd_err_t *err)
{
    const psd_dataset_t *train = options->train;
    if (train && (!train->encoding || train->encoding->has_words))
        return psd_err_set(err, PSD_EDATA, "%s is an array of numbers, but the training set is not; give both the same format",
                           array->name);
    if (train && train->encoding->n_columns != array->width)
        return psd_err_set(err, PSD_EDATA, "%s: %zu values a row, the training set has %zu; give both the same shape", array->name,
                           array->width, train->encoding->n_columns);
    psd_encoding_t *encoding = train ? train->encoding : columns_of(array->width, err);
    int rc = encoding ? PSD_OK : PSD_ENOMEM;
    if (!train && !rc)
        rc = psd_table_mark_log1p(encoding, options, array->name, err);
    rc = rc ? rc : psd_table_begin(table, &encoding, options, array->name, err);
    if (!train)
        psd_encoding_destroy(&encoding);
    return rc;
}

static int read_rows(psd_table_t *table, const psd_npy_t *x, const psd_npy_t *y, psd_labels_t *labels, psd_err_t *err)
{
    int rc = PSD_OK;
    for (size_t i = 0; !rc && i < x->rows; i++) {
        psd_cell_t *cell = psd_table_row(table, err);
        bool skip = false;
        float label = 0;
        rc = cell ? PSD_OK : PSD_ENOMEM;
        for (size_t j = 0; !rc && j < x->width; j++)
            rc = take_value(x, i, j, labels->options, &cell[j].number, &skip, err);
        if (!rc && y && isnan(psd_npy_value(y, i)) && labels->options->na != PSD_NA_SKIP)
            rc = refuse(y, i, 0, err, "is NaN, a missing label; set data.na to skip, or fill it in");
        if (!rc && y)
            rc = take_value(y, i, 0, labels->options, &label, &skip, err);
        labels->set->n_skipped += !rc && skip;
        if (rc || skip)
            continue;
        table->n_rows++;
        psd_err_t why = { 0 };
        if ((rc = psd_labels_add(labels, label, y ? y->name : x->name, i, &why)))
            psd_err_set(err, rc, "%s (the number after the file is the row, from 0)", why.text);
    }
    return rc;
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels_file, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    psd_npy_t x, y;
    psd_table_t table = { 0 };
    psd_labels_t labels = { .set = self, .options = options };
    int rc = psd_npy_read(file, &x, err);
    if (!rc && !x.n_dims)
        rc = psd_err_set(err, PSD_EDATA, "%s: a single value; expected an array with an element for each row", file->name);
    if (!rc && (!x.rows || !x.width))
        rc = psd_err_set(err, PSD_EDATA, "%s: no values; the array is empty", file->name);
    if (!rc && x.width > PSD_MAX_FEATURES)
        rc = psd_err_set(err, PSD_EDATA, "%s: %zu values a row, more than %d", file->name, x.width, PSD_MAX_FEATURES);
    if (!rc && labels_file && !(rc = psd_npy_read(labels_file, &y, err)) && (y.width != 1 || y.rows != x.rows))
        rc = psd_err_set(err, PSD_EDATA, "%s: %zu rows of %zu labels for %zu rows of features; give files that belong together",
                         labels_file->name, y.rows, y.width, x.rows);
    rc = rc ? rc : begin(&table, &x, options, err);
    rc = rc ? rc : read_rows(&table, &x, labels_file ? &y : NULL, &labels, err);
    rc = rc ? rc : psd_labels_end(&labels, labels_file ? labels_file->name : file->name, err);
    rc = rc ? rc : psd_table_end(&table, self, err);
    self->unlabelled = !labels_file;
    psd_table_clear(&table);
    return rc;
}

const psd_reader_t psd_reader_npy = {
    .name = "npy",
    .summary = "arrays that numpy.save has written: features, and labels in a file of their own",
    .magic = "\x93NUMPY",
    .needs_labels = true,
    .is_table = true,
    .read = read,
};
