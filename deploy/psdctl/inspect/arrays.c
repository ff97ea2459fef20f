#include "deploy/psdctl/inspect/arrays.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/system/durable.h"

/* A run of elements that was written, and its CRC-32. */
typedef struct piece {
    size_t array;
    uint64_t first;
    uint64_t n_bytes;
    uLong crc;
} piece_t;

/* The functions of a format. */
typedef struct psd_arrays_kind {
    /* Set the place of each array (`at`), open the file with its size, and write the parts that are known already. */
    int (*begin)(psd_arrays_t *self, const char *path, const psd_note_t *notes, size_t n_notes, psd_err_t *err);
    /* Write the parts that depend on the arrays; NULL: there are none. */
    int (*end)(psd_arrays_t *self, psd_err_t *err);
} psd_arrays_kind_t;

struct psd_arrays {
    const psd_arrays_kind_t *kind;
    psd_durable_t *file;
    const psd_array_t *list;
    size_t n;
    uint64_t *at;    /* of each array's first element in the file */
    piece_t *pieces; /* in formats with an end */
    size_t n_pieces, room;
};

static uint64_t n_bytes_of(const psd_array_t *array)
{
    uint64_t n = array->is_number ? sizeof(double) : sizeof(float);
    for (size_t i = 0; i < array->n_dims; i++)
        n *= array->shape[i];
    return n;
}

static int open_file(psd_arrays_t *self, const char *path, uint64_t n_bytes, psd_err_t *err)
{
    self->file = psd_durable_follow(path, n_bytes, err);
    return self->file ? PSD_OK : PSD_EIO;
}

/* ---- safetensors ---- */

static int begin_safetensors(psd_arrays_t *self, const char *path, const psd_note_t *notes, size_t n_notes, psd_err_t *err)
{
    psd_header_t header;
    psd_header_begin(&header, notes, n_notes);
    /* Numbers first: readers want each element at a multiple of its size. */
    for (int numbers = 1; numbers >= 0; numbers--)
        for (size_t i = 0; i < self->n; i++) {
            if (self->list[i].is_number != numbers)
                continue;
            self->at[i] = header.n_data;
            if (numbers)
                psd_header_add_number(&header, self->list[i].name);
            else
                psd_header_add(&header, self->list[i].name, self->list[i].shape, self->list[i].n_dims);
        }
    int rc = psd_header_end(&header, err);
    for (size_t i = 0; i < self->n; i++)
        self->at[i] += header.n_bytes;
    if (rc)
        psd_err_wrap(err, "cannot write %s", path);
    else if (!(rc = open_file(self, path, header.n_bytes + header.n_data, err)))
        rc = psd_durable_write(self->file, header.bytes, header.n_bytes, 0, err);
    free(header.bytes);
    return rc;
}

/* ---- npz: a zip archive of .npy files, stored ----
 * Lengths and offsets are always in zip64's extra fields, so that small and large files are written in one way. */

enum {
    HEAD = 1024,    /* bytes that suffice for any head */
    NPY_ALIGN = 64, /* an .npy's data begin at a multiple of it */
    NPY_FIXED = 10, /* bytes of magic, version and length before an .npy's words */
    VERSION = 45,   /* of zip: the first with zip64 */
    UTF8_NAMES = 1 << 11,
    DAY_ONE = 0x21,   /* 1 January 1980, the first date of zip: so files of one checkpoint are equal */
    EXTRA_LOCAL = 20, /* bytes of a zip64 field with two lengths */
    EXTRA_LISTED = 28 /* and of one with an offset, too */
};
static const uint32_t elsewhere = UINT32_MAX; /* the number is in the zip64 field */

/* A buffer being composed. */
typedef struct head {
    uint8_t bytes[HEAD];
    size_t n;
} head_t;

static void put(head_t *self, const void *bytes, size_t n)
{
    assert(n <= sizeof self->bytes - self->n);
    memcpy(self->bytes + self->n, bytes, n);
    self->n += n;
}

static void put_number(head_t *self, int n_bytes, uint64_t value)
{
    for (int i = 0; i < n_bytes; i++)
        put(self, &(const uint8_t){ (uint8_t)(value >> 8 * i) }, 1);
}

/* The beginning of an .npy file. */
static void put_npy(head_t *self, const psd_array_t *array)
{
    char words[HEAD / 2];
    size_t n =
        (size_t)snprintf(words, sizeof words, "{'descr': '<f%d', 'fortran_order': False, 'shape': (", array->is_number ? 8 : 4);
    for (size_t i = 0; i < array->n_dims; i++)
        n += (size_t)snprintf(words + n, sizeof words - n, i ? " %" PRIu64 "," : "%" PRIu64 ",", array->shape[i]);
    n += (size_t)snprintf(words + n, sizeof words - n, "), }");
    const size_t padding = (NPY_ALIGN - (NPY_FIXED + n + 1) % NPY_ALIGN) % NPY_ALIGN;
    put(self, "\x93NUMPY\x01", 8);
    put_number(self, 2, n + padding + 1);
    put(self, words, n);
    for (size_t i = 0; i < padding; i++)
        put(self, " ", 1);
    put(self, "\n", 1);
}

/* The fields that an entry has both before its data and in the directory. */
static void put_common(head_t *self, uint32_t crc, size_t n_name, unsigned n_extra)
{
    put_number(self, 2, VERSION);
    put_number(self, 2, UTF8_NAMES);
    put_number(self, 2, 0); /* stored */
    put_number(self, 2, 0); /* midnight */
    put_number(self, 2, DAY_ONE);
    put_number(self, 4, crc);
    put_number(self, 4, elsewhere);
    put_number(self, 4, elsewhere);
    put_number(self, 2, n_name);
    put_number(self, 2, n_extra);
}

static void put_name_and_extra(head_t *self, const psd_array_t *array, unsigned n_extra, uint64_t length)
{
    put(self, array->name, strlen(array->name));
    put(self, ".npy", 4);
    put_number(self, 2, 1); /* zip64 */
    put_number(self, 2, n_extra - 4);
    put_number(self, 8, length);
    put_number(self, 8, length);
}

/* An entry up to its elements. */
static void put_entry(head_t *self, const psd_array_t *array, const head_t *npy, uint32_t crc)
{
    put(self, "PK\3\4", 4);
    put_common(self, crc, strlen(array->name) + 4, EXTRA_LOCAL);
    put_name_and_extra(self, array, EXTRA_LOCAL, npy->n + n_bytes_of(array));
    put(self, npy->bytes, npy->n);
}

/* Its line in the directory. */
static void put_listed(head_t *self, const psd_array_t *array, const head_t *npy, uint32_t crc, uint64_t at)
{
    put(self, "PK\1\2", 4);
    put_number(self, 2, VERSION); /* made by */
    put_common(self, crc, strlen(array->name) + 4, EXTRA_LISTED);
    put_number(self, 2, 0); /* comment */
    put_number(self, 2, 0); /* disk */
    put_number(self, 2, 0); /* attributes */
    put_number(self, 4, 0);
    put_number(self, 4, elsewhere);
    put_name_and_extra(self, array, EXTRA_LISTED, npy->n + n_bytes_of(array));
    put_number(self, 8, at);
}

/* Write the records after the directory, which has `n_bytes` from `at` on. */
static void put_ends(head_t *self, size_t n, uint64_t at, uint64_t n_bytes)
{
    put(self, "PK\6\6", 4);
    put_number(self, 8, 44); /* bytes that follow */
    put_number(self, 2, VERSION);
    put_number(self, 2, VERSION);
    put_number(self, 8, 0); /* disks */
    put_number(self, 8, n);
    put_number(self, 8, n);
    put_number(self, 8, n_bytes);
    put_number(self, 8, at);
    put(self, "PK\6\7", 4);
    put_number(self, 4, 0);
    put_number(self, 8, at + n_bytes);
    put_number(self, 4, 1);
}

/* The record at the end of every zip; without entries it is the whole file. */
static void put_last(head_t *self, bool has_entries)
{
    put(self, "PK\5\6", 4);
    put_number(self, 4, 0); /* disks */
    put_number(self, 2, has_entries ? UINT16_MAX : 0);
    put_number(self, 2, has_entries ? UINT16_MAX : 0);
    put_number(self, 4, has_entries ? elsewhere : 0);
    put_number(self, 4, has_entries ? elsewhere : 0);
    put_number(self, 2, 0); /* comment */
}

static int begin_npz(psd_arrays_t *self, const char *path, const psd_note_t *notes, size_t n_notes, psd_err_t *err)
{
    (void)notes, (void)n_notes;
    uint64_t at = 0;
    for (size_t i = 0; i < self->n; i++) {
        head_t npy = { .n = 0 }, entry = { .n = 0 };
        put_npy(&npy, &self->list[i]);
        put_entry(&entry, &self->list[i], &npy, 0);
        self->at[i] = at + entry.n;
        at = self->at[i] + n_bytes_of(&self->list[i]);
    }
    return open_file(self, path, at, err);
}

static int by_place(const void *a, const void *b)
{
    const piece_t *x = a, *y = b;
    if (x->array != y->array)
        return x->array < y->array ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* The CRC of an .npy, from its head's and those of its pieces, of which the first is at `*next`. */
static uint32_t crc_of(const psd_arrays_t *self, size_t array, const head_t *npy, size_t *next)
{
    uLong crc = crc32_z(0, npy->bytes, npy->n);
    for (; *next < self->n_pieces && self->pieces[*next].array == array; ++*next)
        crc = crc32_combine(crc, self->pieces[*next].crc, (z_off_t)self->pieces[*next].n_bytes);
    return (uint32_t)crc;
}

static int end_npz(psd_arrays_t *self, psd_err_t *err)
{
    const size_t last = self->n - 1;
    const uint64_t directory = self->n ? self->at[last] + n_bytes_of(&self->list[last]) : 0;
    uint64_t at = directory, begin = 0;
    size_t next = 0;
    int rc = PSD_OK;
    if (self->n_pieces)
        qsort(self->pieces, self->n_pieces, sizeof *self->pieces, by_place);
    for (size_t i = 0; !rc && i < self->n; i++) {
        head_t npy = { .n = 0 }, entry = { .n = 0 }, listed = { .n = 0 };
        put_npy(&npy, &self->list[i]);
        const uint32_t crc = crc_of(self, i, &npy, &next);
        put_entry(&entry, &self->list[i], &npy, crc);
        put_listed(&listed, &self->list[i], &npy, crc, begin);
        rc = psd_durable_write(self->file, entry.bytes, entry.n, begin, err);
        if (!rc)
            rc = psd_durable_write(self->file, listed.bytes, listed.n, at, err);
        at += listed.n;
        begin = self->at[i] + n_bytes_of(&self->list[i]);
    }
    head_t ends = { .n = 0 };
    if (self->n)
        put_ends(&ends, self->n, directory, at - directory);
    put_last(&ends, self->n > 0);
    return rc ? rc : psd_durable_write(self->file, ends.bytes, ends.n, at, err);
}

/* ---- all ---- */

static const psd_arrays_kind_t safetensors = { begin_safetensors, NULL }, npz = { begin_npz, end_npz };
static const psd_arrays_format_t formats[] = { { "safetensors", &safetensors }, { "npz", &npz } };

const psd_arrays_format_t *psd_arrays_format_at(size_t i) { return i < sizeof formats / sizeof *formats ? &formats[i] : NULL; }

psd_arrays_t *psd_arrays_new(const psd_arrays_format_t *format, const char *path, const psd_array_t *list, size_t n,
                             const psd_note_t *notes, size_t n_notes, psd_err_t *err)
{
    psd_arrays_t *self = calloc(1, sizeof *self);
    uint64_t *at = calloc(n + 1, sizeof *at);
    if (!self || !at) {
        psd_err_set(err, PSD_ENOMEM, "no memory to write %s", path);
        free(at);
        free(self);
        return NULL;
    }
    *self = (psd_arrays_t){ .kind = format->kind, .list = list, .n = n, .at = at };
    if (self->kind->begin(self, path, notes, n_notes, err) != PSD_OK)
        psd_arrays_abandon(&self);
    return self;
}

static int note_piece(psd_arrays_t *self, const piece_t *piece, psd_err_t *err)
{
    if (self->n_pieces == self->room) {
        const size_t room = 2 * self->room + 64;
        piece_t *pieces = realloc(self->pieces, room * sizeof *pieces);
        if (!pieces)
            return psd_err_set(err, PSD_ENOMEM, "no memory for a list of %zu pieces", room);
        self->pieces = pieces;
        self->room = room;
    }
    self->pieces[self->n_pieces++] = *piece;
    return PSD_OK;
}

static int write_bytes(psd_arrays_t *self, size_t array, uint64_t first, uint64_t offset, const void *values, size_t n_bytes,
                       psd_err_t *err)
{
    assert(array < self->n && offset + n_bytes <= n_bytes_of(&self->list[array]));
    if (self->kind->end) {
        const piece_t piece = { array, first, n_bytes, crc32_z(0, (const Bytef *)values, n_bytes) };
        const int rc = note_piece(self, &piece, err);
        if (rc)
            return rc;
    }
    return psd_durable_write(self->file, values, n_bytes, self->at[array] + offset, err);
}

int psd_arrays_write(psd_arrays_t *self, size_t array, uint64_t first, const float *values, size_t n, psd_err_t *err)
{
    return write_bytes(self, array, first, first * sizeof *values, values, n * sizeof *values, err);
}

int psd_arrays_write_number(psd_arrays_t *self, size_t array, double value, psd_err_t *err)
{
    return write_bytes(self, array, 0, 0, &value, sizeof value, err);
}

int psd_arrays_end(psd_arrays_t **self_p, psd_err_t *err)
{
    psd_arrays_t *self = *self_p;
    int rc = self->kind->end ? self->kind->end(self, err) : PSD_OK;
    if (!rc)
        rc = psd_durable_end(&self->file, err);
    psd_arrays_abandon(self_p);
    return rc;
}

void psd_arrays_abandon(psd_arrays_t **self_p)
{
    psd_arrays_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_durable_abandon(&self->file);
    free(self->pieces);
    free(self->at);
    free(self);
}
