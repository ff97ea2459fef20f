#include "worker/dataset.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/number.h"

#define X(name) extern const psd_reader_t psd_reader_##name;
#include "worker/datasets/all.h"
#undef X

static const psd_reader_t *const readers[] = {
#define X(name) &psd_reader_##name,
#include "worker/datasets/all.h"
#undef X
};

const psd_reader_t *psd_reader_at(size_t i)
{
    return i < sizeof readers / sizeof *readers ? readers[i] : NULL;
}

static const psd_reader_t *find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (strlen(readers[i]->name) == n && !memcmp(readers[i]->name, name, n))
            return readers[i];
    return NULL;
}

const psd_reader_t *psd_reader_find(const char *name) { return find(name, strlen(name)); }

int psd_array_grow(void *array_p, size_t *room, size_t need, size_t item_bytes, psd_err_t *err)
{
    if (need <= *room)
        return PSD_OK;
    size_t wanted = *room < 32 ? 64 : *room * 2;
    if (wanted < need)
        wanted = need;
    void *array;
    memcpy(&array, array_p, sizeof array);
    if (wanted > SIZE_MAX / 2 / item_bytes || !(array = realloc(array, wanted * item_bytes)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu items of %zu bytes", wanted, item_bytes);
    memcpy(array_p, &array, sizeof array);
    *room = wanted;
    return PSD_OK;
}

/* ---- Numbers ---- */

/* Powers of ten that a double holds exactly. */
static const double pow10_exact[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Digits with at most one point, at least one digit: their value without the point, and its place. Past 18
 * digits the value is not kept (`*n_digits` tells). */
static const char *mantissa(const char *at, const char *end, uint64_t *value, int *n_digits, int *after_point)
{
    bool point = false, any = false;
    for (*value = 0, *n_digits = *after_point = 0; at < end; at++) {
        if (*at == '.' && !point) {
            point = true;
            continue;
        }
        if (!is_digit(*at))
            break;
        any = true;
        *after_point += point;
        *n_digits += *n_digits > 0 || *at != '0';
        if (*n_digits <= 18)
            *value = *value * 10 + (uint64_t)(*at - '0');
    }
    return any ? at : NULL;
}

/* "e-12": 0 when there is none; NULL when it is not one. Absurd exponents stay absurd without overflowing. */
static const char *exponent(const char *at, const char *end, int *value)
{
    *value = 0;
    if (at == end || (*at != 'e' && *at != 'E'))
        return at;
    at++;
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    if (at == end || !is_digit(*at))
        return NULL;
    for (; at < end && is_digit(*at); at++)
        *value = *value < 10000 ? *value * 10 + (*at - '0') : *value;
    if (negative)
        *value = -*value;
    return at;
}

/* Correctly rounded, for numbers that plain arithmetic cannot do exactly. */
static bool slow_number(const char *at, const char *end, double *out)
{
    char text[400];
    size_t n = (size_t)(end - at);
    if (n >= sizeof text)
        return false;
    memcpy(text, at, n);
    text[n] = '\0';
    return psd_number_read(text, out) == n;
}

bool psd_number_parse(const char *at, const char *end, float *out)
{
    const char *start = at;
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    uint64_t digits;
    int n_digits, after_point, power;
    if (!(at = mantissa(at, end, &digits, &n_digits, &after_point)) || !(at = exponent(at, end, &power)) ||
        at != end)
        return false;
    double value;
    power -= after_point;
    if (n_digits <= 15 && power >= -22 && power <= 22) { /* one exact operation (Clinger 1990) */
        value = power < 0 ? (double)digits / pow10_exact[-power] : (double)digits * pow10_exact[power];
        value = negative ? -value : value;
    } else if (!slow_number(start, end, &value)) {
        return false;
    }
    if (!(fabs(value) <= (double)FLT_MAX))
        return false;
    *out = (float)value;
    return true;
}

/* ---- Labels ---- */

int psd_labels_add(psd_labels_t *self, float label, const char *name, size_t line, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    if (self->options->kind == PSD_LABEL_CLASS) {
        bool minus = label == -1;
        if (!minus && !(label >= 0 && label < PSD_MAX_CLASSES && truncf(label) == label))
            return psd_err_set(
                err, PSD_EDATA,
                "%s:%zu: label %g is no class; classes are whole numbers from 0, or -1 and 1 throughout "
                "(to predict numbers choose model.kind linear)",
                name, line, (double)label);
        if (minus && !self->minus_line)
            self->minus_line = line;
        if (!minus && label != 1 && !self->other_line) {
            self->other_line = line;
            self->other = label;
        }
        const psd_dataset_t *train = self->options->train;
        if (train && label >= (float)train->n_classes)
            return psd_err_set(
                err, PSD_EDATA,
                "%s:%zu: label %g, but the training set's largest is %zu; give both the same classes", name,
                line, (double)label, train->n_classes - 1);
        self->largest = label > self->largest ? label : self->largest;
    }
    if (set->n_rows >= UINT32_MAX)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: more than 4294967295 rows; cut the file in parts", name,
                           line);
    int rc = psd_array_grow(&set->label, &self->room, set->n_rows + 1, sizeof *set->label, err);
    if (!rc)
        set->label[set->n_rows++] = label;
    return rc;
}

int psd_labels_end(psd_labels_t *self, const char *name, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    const psd_dataset_t *train = self->options->train;
    if (!set->n_rows)
        return psd_err_set(err, PSD_EDATA, "%s: no rows; the data set is empty", name);
    set->kind = self->options->kind;
    if (set->kind != PSD_LABEL_CLASS)
        return PSD_OK;
    set->minus_one = self->minus_line > 0;
    if (set->minus_one && self->other_line)
        return psd_err_set(err, PSD_EDATA,
                           "%s:%zu: label -1, but line %zu has %g; use -1 and 1 alone, or classes from 0",
                           name, self->minus_line, self->other_line, (double)self->other);
    if (train && set->minus_one && !train->minus_one)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: label -1, but the training set's classes start at 0",
                           name, self->minus_line);
    if (train && train->minus_one && self->other_line)
        return psd_err_set(err, PSD_EDATA, "%s:%zu: label %g, but the training set's labels are -1 and 1",
                           name, self->other_line, (double)self->other);
    for (size_t i = 0; set->minus_one && i < set->n_rows; i++)
        set->label[i] = set->label[i] > 0;
    set->n_classes = train ? train->n_classes : self->largest < 1 ? 2 : (size_t)self->largest + 1;
    return PSD_OK;
}

/* ---- Loading ---- */

/* All bytes of a file, unzipped when it is gzipped. */
static int slurp(const char *path, psd_bytes_t *out, psd_err_t *err)
{
    gzFile file = gzopen(path, "rb");
    if (!file)
        return psd_err_set(err, errno == ENOENT ? PSD_ENOINPUT : PSD_EIO, "%s: %s", path,
                           errno ? strerror(errno) : "out of memory");
    unsigned char *bytes = NULL;
    size_t n = 0, room = 0;
    int rc = PSD_OK, got = 0;
    gzbuffer(file, 1 << 17);
    do {
        n += (size_t)got;
        rc = psd_array_grow(&bytes, &room, n + (1 << 16), 1, err);
        size_t space = room - n;
        got = rc ? 0 : gzread(file, bytes + n, (unsigned)(space < 1 << 30 ? space : 1 << 30));
    } while (got > 0);
    int zrc = Z_OK;
    const char *why =
        gzerror(file, &zrc); /* a gzip stream that ends too early is no failed read, only this */
    if (!rc && zrc == Z_ERRNO)
        rc = psd_err_set(err, PSD_EIO, "%s: %s", path, strerror(errno));
    else if (!rc && (got < 0 || zrc != Z_OK))
        rc = psd_err_set(err, PSD_EDATA, "%s: damaged gzip data (%s) after %zu bytes; fetch it again", path,
                         why, n);
    gzclose(file);
    if (rc) {
        free(bytes);
        return rc;
    }
    *out = (psd_bytes_t){ .name = path, .at = bytes, .n = n };
    return PSD_OK;
}

static void bytes_free(psd_bytes_t *bytes)
{
    void *at;
    memcpy(&at, &bytes->at, sizeof at);
    free(at);
}

psd_dataset_t *psd_dataset_parse(const psd_reader_t *reader, const psd_bytes_t *file,
                                 const psd_bytes_t *labels, const psd_dataset_options_t *options,
                                 psd_err_t *err)
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

static psd_dataset_t *load_files(const psd_reader_t *reader, const char *path,
                                 const psd_dataset_options_t *options, psd_err_t *err)
{
    psd_bytes_t file = { 0 }, labels = { 0 };
    psd_dataset_t *self = NULL;
    if (slurp(path, &file, err) == PSD_OK &&
        (!reader->needs_labels || slurp(options->labels, &labels, err) == PSD_OK))
        self = psd_dataset_parse(reader, &file, reader->needs_labels ? &labels : NULL, options, err);
    bytes_free(&file);
    bytes_free(&labels);
    return self;
}

static void refuse_format(const char *spec, psd_err_t *err)
{
    char names[128] = "";
    for (size_t i = 0, n = 0; i < sizeof readers / sizeof *readers && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", readers[i]->name);
    psd_err_set(err, PSD_ECONFIG, "data set '%.200s': write FORMAT:FILE with a format of %s", spec, names);
}

psd_dataset_t *psd_dataset_load(const char *spec, const psd_dataset_options_t *options, psd_err_t *err)
{
    size_t n = strcspn(spec, ":");
    const psd_reader_t *reader = find(spec, n);
    const char *where = spec[n] ? spec + n + 1 : "";
    if (!reader) {
        refuse_format(spec, err);
        return NULL;
    }
    if (!reader->needs_labels && options->labels && *options->labels) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' keeps its labels itself; leave data.%s out", spec,
                    options->train ? "test_labels" : "labels");
        return NULL;
    }
    if (reader->no_file)
        return psd_dataset_parse(reader, &(psd_bytes_t){ .name = where }, NULL, options, err);
    if (!*where) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' names no file; write %s:FILE", spec, reader->name);
        return NULL;
    }
    if (reader->needs_labels && (!options->labels || !*options->labels)) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' needs the file of its labels too; set data.%s", spec,
                    options->train ? "test_labels" : "labels");
        return NULL;
    }
    return load_files(reader, where, options, err);
}

void psd_dataset_destroy(psd_dataset_t **self_p)
{
    psd_dataset_t *self = *self_p;
    if (self) {
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
    float shade[256];
    for (int p = 0; self->pixels && p < 256; p++)
        shade[p] = (float)p / 255.0f; /* a division, not a product with 1/255: the same bits as numpy's */
    for (size_t i = 0; i < n; i++, out += width) {
        assert(rows[i] < self->n_rows);
        if (self->dense) {
            memcpy(out, self->dense + rows[i] * width, width * sizeof *out);
            continue;
        }
        const uint8_t *pixel = self->pixels + rows[i] * width;
        for (size_t j = 0; j < width; j++)
            out[j] = shade[pixel[j]];
    }
}
