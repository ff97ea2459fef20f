#include "worker/npyarray.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "worker/text.h"

enum { PREFIX = 8 /* magic and version */ };

typedef double value_fn(const unsigned char *at);

#define READ(name, type)                                                                                                           \
    static double name(const unsigned char *at)                                                                                    \
    {                                                                                                                              \
        type value;                                                                                                                \
        memcpy(&value, at, sizeof value);                                                                                          \
        return (double)value;                                                                                                      \
    }
READ(read_f4, float)
READ(read_f8, double)
READ(read_u1, uint8_t)
READ(read_i1, int8_t)
READ(read_u2, uint16_t)
READ(read_i2, int16_t)
READ(read_u4, uint32_t)
READ(read_i4, int32_t)
READ(read_u8, uint64_t)
READ(read_i8, int64_t)

struct psd_npy_type {
    const char *descr;
    size_t size;
    value_fn *read;
};

static const psd_npy_type_t dtypes[] = {
    { "<f4", 4, read_f4 }, { "<f8", 8, read_f8 }, { "|u1", 1, read_u1 }, { "|b1", 1, read_u1 },
    { "|i1", 1, read_i1 }, { "<u2", 2, read_u2 }, { "<i2", 2, read_i2 }, { "<u4", 4, read_u4 },
    { "<i4", 4, read_i4 }, { "<u8", 8, read_u8 }, { "<i8", 8, read_i8 },
};

static int flawed(const psd_bytes_t *file, psd_err_t *err, const char *what)
{
    return psd_err_set(err, PSD_EDATA, "%s: %s; save it again with numpy.save", file->name, what);
}

/* ---- The header: a Python dictionary of three keys ---- */

typedef struct scan {
    const char *at, *end;
} scan_t;

static void pass_blanks(scan_t *self)
{
    while (self->at < self->end && (*self->at == ' ' || *self->at == '\n'))
        self->at++;
}

static bool take(scan_t *self, const char *word)
{
    pass_blanks(self);
    const size_t n = strlen(word);
    if ((size_t)(self->end - self->at) < n || memcmp(self->at, word, n))
        return false;
    self->at += n;
    return true;
}

/* A string in either quotes, of at most `room` - 1 bytes. */
static bool take_string(scan_t *self, char *out, size_t room)
{
    pass_blanks(self);
    const char quote = self->at < self->end ? *self->at : 0;
    if (quote != '\'' && quote != '"')
        return false;
    const char *end = memchr(self->at + 1, quote, (size_t)(self->end - self->at - 1));
    const size_t n = end ? (size_t)(end - self->at - 1) : room;
    if (n >= room)
        return false;
    memcpy(out, self->at + 1, n);
    out[n] = '\0';
    self->at = end + 1;
    return true;
}

static bool take_size(scan_t *self, size_t *out)
{
    pass_blanks(self);
    const char *start = self->at;
    for (*out = 0; self->at < self->end && *self->at >= '0' && *self->at <= '9'; self->at++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, (size_t)(*self->at - '0'), out))
            return false;
    return self->at > start;
}

/* "(3, 4)", "(3,)". */
static bool take_shape(scan_t *self, psd_npy_t *out)
{
    out->rows = out->width = 1;
    if (!take(self, "("))
        return false;
    for (out->n_dims = 0; !take(self, ")"); out->n_dims++) {
        size_t size;
        if (!take_size(self, &size))
            return false;
        if (out->n_dims < PSD_NPY_DIMS)
            out->shape[out->n_dims] = size;
        if (!out->n_dims)
            out->rows = size;
        else if (__builtin_mul_overflow(out->width, size, &out->width))
            return false;
        if (!take(self, ",")) {
            out->n_dims++;
            return take(self, ")");
        }
    }
    return true;
}

static int take_descr(const psd_bytes_t *file, scan_t *scan, psd_npy_t *out, psd_err_t *err)
{
    char descr[24], shown[PSD_TEXT_QUOTE];
    if (!take_string(scan, descr, sizeof descr))
        return flawed(file, err, "its type is damaged, or a structure, which is not supported");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].descr, descr))
            out->type = &dtypes[i];
    return out->type ? PSD_OK
                     : psd_err_set(err, PSD_EDATA, "%s: values of type %s; save it as float32, with array.astype('<f4')",
                                   file->name, psd_text_quote(shown, descr, descr + strlen(descr)));
}

static int read_dictionary(const psd_bytes_t *file, scan_t scan, psd_npy_t *out, psd_err_t *err)
{
    bool fortran = false, shaped = false;
    char key[24];
    if (!take(&scan, "{"))
        return flawed(file, err, "its header is not a dictionary");
    while (!take(&scan, "}")) {
        if (!take_string(&scan, key, sizeof key) || !take(&scan, ":"))
            return flawed(file, err, "its header is not a dictionary");
        int rc = PSD_OK;
        if (!strcmp(key, "descr"))
            rc = take_descr(file, &scan, out, err);
        else if (!strcmp(key, "fortran_order"))
            rc = (fortran = take(&scan, "True")) || take(&scan, "False") ? PSD_OK
                                                                         : flawed(file, err, "its order is neither C nor Fortran");
        else if (!strcmp(key, "shape"))
            rc = (shaped = take_shape(&scan, out)) ? PSD_OK : flawed(file, err, "its shape is not a tuple of sizes");
        else
            rc = flawed(file, err, "its header has an unknown key");
        if (rc)
            return rc;
        take(&scan, ",");
    }
    if (!out->type || !shaped)
        return flawed(file, err, "its header has no type, or no shape");
    if (out->n_dims > PSD_NPY_DIMS)
        return psd_err_set(err, PSD_EDATA, "%s: %zu dimensions; at most %d are supported", file->name, out->n_dims, PSD_NPY_DIMS);
    return fortran && out->n_dims > 1
               ? psd_err_set(err, PSD_EDATA, "%s: its order is Fortran's; save numpy.ascontiguousarray of it", file->name)
               : PSD_OK;
}

int psd_npy_read(const psd_bytes_t *file, psd_npy_t *out, psd_err_t *err)
{
    *out = (psd_npy_t){ .name = file->name };
    if (file->n < PREFIX + 2 || memcmp(file->at, "\x93NUMPY", 6))
        return flawed(file, err, "it does not begin like a NumPy array");
    const unsigned char *at = file->at + PREFIX;
    const size_t of_length = file->at[6] == 1 ? 2 : 4;
    if (file->at[6] < 1 || file->at[6] > 3 || file->n < PREFIX + of_length)
        return psd_err_set(err, PSD_EDATA, "%s: a NumPy array of version %u; 1 to 3 are read", file->name, file->at[6]);
    size_t length = (size_t)at[0] | (size_t)at[1] << 8;
    if (of_length == 4)
        length |= (size_t)at[2] << 16 | (size_t)at[3] << 24;
    const size_t begin = PREFIX + of_length;
    if (length > file->n - begin)
        return psd_err_set(err, PSD_EDATA, "%s: the file ends inside its header; fetch it again", file->name);
    const char *text = (const char *)file->at + begin;
    int rc = read_dictionary(file, (scan_t){ text, text + length }, out, err);
    if (rc)
        return rc;
    size_t n_bytes;
    const size_t there = file->n - begin - length;
    if (__builtin_mul_overflow(out->rows, out->width, &n_bytes) || __builtin_mul_overflow(n_bytes, out->type->size, &n_bytes) ||
        n_bytes != there)
        return psd_err_set(err, PSD_EDATA, "%s: its shape does not match the %zu bytes of data in the file; fetch it again",
                           file->name, there);
    out->data = file->at + begin + length;
    return PSD_OK;
}

double psd_npy_value(const psd_npy_t *self, size_t i) { return self->type->read(self->data + i * self->type->size); }
