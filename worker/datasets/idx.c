/* idx.c - the files of the MNIST family: 00 00 TYPE NDIM, NDIM sizes as big-endian 32-bit numbers, then the
 * values row by row. Read here: unsigned bytes (TYPE 08), any number of dimensions for images, one for
 * labels. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "worker/labels.h"

enum { UNSIGNED_BYTE = 8, MAX_DIMS = 8 };

typedef struct header {
    size_t n_dims;
    size_t rows;      /* the first size */
    size_t row_bytes; /* the product of the others */
    size_t n_bytes;   /* of the header itself */
} header_t;

static uint32_t big_endian(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int read_magic(const psd_bytes_t *file, header_t *out, psd_err_t *err)
{
    if (file->n < 4)
        return psd_err_set(err, PSD_EDATA, "%s: offset %zu: the file ends inside the 4 bytes of its magic; is it an idx file?",
                           file->name, file->n);
    if (file->at[0] || file->at[1])
        return psd_err_set(err, PSD_EDATA,
                           "%s: offset 0: an idx file starts with bytes 00 00, this one with %02x %02x; is "
                           "it another format?",
                           file->name, file->at[0], file->at[1]);
    if (file->at[2] != UNSIGNED_BYTE)
        return psd_err_set(err, PSD_EDATA,
                           "%s: offset 2: values of type 0x%02x; only unsigned bytes (0x08) are read, convert the file", file->name,
                           file->at[2]);
    out->n_dims = file->at[3];
    if (out->n_dims < 1 || out->n_dims > MAX_DIMS)
        return psd_err_set(err, PSD_EDATA, "%s: offset 3: %zu dimensions, where 1 to %d are read", file->name, out->n_dims,
                           MAX_DIMS);
    out->n_bytes = 4 + 4 * out->n_dims;
    if (file->n < out->n_bytes)
        return psd_err_set(err, PSD_EDATA, "%s: offset %zu: the file ends inside its %zu sizes; fetch it again", file->name,
                           file->n, out->n_dims);
    return PSD_OK;
}

static int read_header(const psd_bytes_t *file, header_t *out, psd_err_t *err)
{
    if (read_magic(file, out, err))
        return PSD_EDATA;
    size_t total = out->rows = big_endian(file->at + 4);
    out->row_bytes = 1;
    for (size_t i = 0; i < out->n_dims; i++) {
        size_t size = big_endian(file->at + 4 + 4 * i);
        if (!size)
            return psd_err_set(err, PSD_EDATA, "%s: offset %zu: dimension %zu has size 0; the data set is empty", file->name,
                               4 + 4 * i, i);
        if (i && (__builtin_mul_overflow(total, size, &total) || __builtin_mul_overflow(out->row_bytes, size, &out->row_bytes)))
            return psd_err_set(err, PSD_EDATA, "%s: offset %zu: the product of the sizes overflows; the header is damaged",
                               file->name, 4 + 4 * i);
    }
    if (file->n - out->n_bytes != total)
        return psd_err_set(err, PSD_EDATA, "%s: offset %zu: the sizes promise %zu values, the file holds %zu; fetch it again",
                           file->name, out->n_bytes, total, file->n - out->n_bytes);
    return PSD_OK;
}

static int read_labels(psd_dataset_t *self, const psd_bytes_t *file, size_t rows, const psd_dataset_options_t *options,
                       psd_err_t *err)
{
    header_t head;
    if (read_header(file, &head, err))
        return PSD_EDATA;
    if (head.n_dims != 1)
        return psd_err_set(err, PSD_EDATA, "%s: offset 3: labels have 1 dimension, these have %zu; are images and labels swapped?",
                           file->name, head.n_dims);
    if (head.rows != rows)
        return psd_err_set(err, PSD_EDATA, "%s: %zu labels for %zu images; give files that belong together", file->name, head.rows,
                           rows);
    psd_labels_t labels = { .set = self, .options = options };
    for (size_t i = 0; i < rows; i++) {
        psd_err_t why = { 0 };
        if (psd_labels_add(&labels, file->at[head.n_bytes + i], file->name, head.n_bytes + i, &why))
            return psd_err_set(err, why.code, "%s (the number after the file is the offset)", why.text);
    }
    return psd_labels_end(&labels, file->name, err);
}

/* Images that are to be predicted need no labels. */
static int have_none(psd_dataset_t *self, const psd_bytes_t *file, size_t rows, const psd_dataset_options_t *options,
                     psd_err_t *err)
{
    psd_labels_t labels = { .set = self, .options = options };
    int rc = PSD_OK;
    for (size_t i = 0; !rc && i < rows; i++)
        rc = psd_labels_add(&labels, 0, file->name, i, err);
    return rc ? rc : psd_labels_end(&labels, file->name, err);
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    header_t head;
    if (read_header(file, &head, err))
        return PSD_EDATA;
    if (head.row_bytes > PSD_MAX_FEATURES)
        return psd_err_set(err, PSD_EDATA, "%s: %zu values a row, more than %d", file->name, head.row_bytes, PSD_MAX_FEATURES);
    if (options->train && head.row_bytes != options->train->n_features)
        return psd_err_set(err, PSD_EDATA, "%s: %zu values a row, the training set has %zu; give both the same image size",
                           file->name, head.row_bytes, options->train->n_features);
    int rc = labels ? read_labels(self, labels, head.rows, options, err) : have_none(self, file, head.rows, options, err);
    if (rc)
        return rc;
    self->unlabelled = !labels;
    self->n_features = head.row_bytes;
    self->pixels = malloc(head.rows * head.row_bytes);
    if (!self->pixels)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory for %zu values", file->name, head.rows * head.row_bytes);
    memcpy(self->pixels, file->at + head.n_bytes, head.rows * head.row_bytes);
    return PSD_OK;
}

const psd_reader_t psd_reader_idx = {
    .name = "idx",
    .summary = "images and labels in the files of the MNIST family, .gz or not",
    .needs_labels = true,
    .read = read,
};
