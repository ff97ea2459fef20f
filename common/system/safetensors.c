#include "common/system/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/system/json.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are written as they lie in memory, which must be little-endian"
#endif

enum { ALIGN = 4096, LENGTH = 8 /* bytes of the header's length */ };

/* ---- writing ---- */

/* Make room for `n` more bytes, and return it; NULL after an earlier failure, or when this fails. */
static char *extend(psd_header_t *self, size_t n)
{
    if (self->code != PSD_OK)
        return NULL;
    if (n > LENGTH + PSD_MAX_ST_HEADER - self->n_bytes) {
        self->code = PSD_EINVAL;
        return NULL;
    }
    if (self->n_bytes + n > self->room) {
        const size_t room = 2 * (self->n_bytes + n) + ALIGN;
        char *bytes = realloc(self->bytes, room);
        if (!bytes) {
            self->code = PSD_ENOMEM;
            return NULL;
        }
        self->bytes = bytes;
        self->room = room;
    }
    char *at = self->bytes + self->n_bytes;
    self->n_bytes += n;
    return at;
}

static void put(psd_header_t *self, const char *text)
{
    const size_t n = strlen(text);
    char *at = extend(self, n);
    if (at)
        memcpy(at, text, n);
}

static void put_string(psd_header_t *self, const char *text)
{
    json_t *string = json_string(text);
    char *quoted = psd_json_text(string, JSON_ENCODE_ANY);
    if (quoted)
        put(self, quoted);
    else if (self->code == PSD_OK)
        self->code = string ? PSD_ENOMEM : PSD_EINVAL;
    free(quoted);
    json_decref(string);
}

static void put_number(psd_header_t *self, const char *before, uint64_t number)
{
    char text[32];
    snprintf(text, sizeof text, "%s%" PRIu64, before, number);
    put(self, text);
}

void psd_header_begin(psd_header_t *self, const psd_note_t *notes, size_t n_notes)
{
    *self = (psd_header_t){ 0 };
    char *length = extend(self, LENGTH);
    if (length)
        memset(length, 0, LENGTH);
    put(self, "{\"__metadata__\":{");
    for (size_t i = 0; i < n_notes; i++) {
        put(self, i ? "," : "");
        put_string(self, notes[i].key);
        put(self, ":");
        put_string(self, notes[i].value);
    }
    put(self, "}");
}

static void add(psd_header_t *self, const char *name, const char *dtype, size_t size, const uint64_t *shape, size_t n_dims)
{
    uint64_t n = 1;
    put(self, ",");
    put_string(self, name);
    put(self, ":{\"dtype\":\"");
    put(self, dtype);
    put(self, "\",\"shape\":[");
    for (size_t i = 0; i < n_dims; n *= shape[i++])
        put_number(self, i ? "," : "", shape[i]);
    put_number(self, "],\"data_offsets\":[", self->n_data);
    self->n_data += n * size;
    put_number(self, ",", self->n_data);
    put(self, "]}");
}

void psd_header_add(psd_header_t *self, const char *name, const uint64_t *shape, size_t n_dims)
{
    add(self, name, "F32", sizeof(float), shape, n_dims);
}

void psd_header_add_number(psd_header_t *self, const char *name) { add(self, name, "F64", sizeof(double), NULL, 0); }

int psd_header_end(psd_header_t *self, psd_err_t *err)
{
    put(self, "}");
    const size_t padding = (ALIGN - self->n_bytes % ALIGN) % ALIGN;
    char *at = extend(self, padding);
    if (self->code == PSD_ENOMEM)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a header");
    if (self->code != PSD_OK)
        return psd_err_set(err, self->code, "a name is not UTF-8, or there are too many for a header of %d MiB",
                           PSD_MAX_ST_HEADER >> 20);
    memset(at, ' ', padding);
    const uint64_t length = self->n_bytes - LENGTH;
    memcpy(self->bytes, &length, LENGTH);
    return PSD_OK;
}

static int write_tensors(const char *path, const psd_header_t *header, const psd_saved_t *tensors, size_t n_tensors, psd_err_t *err)
{
    uint64_t at = header->n_bytes;
    psd_durable_t *file = psd_durable_follow(path, at + header->n_data, err);
    if (!file)
        return PSD_EIO;
    int rc = psd_durable_write(file, header->bytes, header->n_bytes, 0, err);
    for (size_t i = 0; !rc && i < n_tensors; at += tensors[i++].n * sizeof(float))
        rc = psd_durable_write(file, tensors[i].data, tensors[i].n * sizeof(float), at, err);
    if (!rc)
        return psd_durable_end(&file, err);
    psd_durable_abandon(&file);
    return rc;
}

int psd_safetensors_write(const char *path, const psd_saved_t *tensors, size_t n_tensors, const psd_note_t *notes, size_t n_notes,
                          psd_err_t *err)
{
    psd_header_t header;
    psd_header_begin(&header, notes, n_notes);
    for (size_t i = 0; i < n_tensors; i++)
        psd_header_add(&header, tensors[i].name, tensors[i].shape, tensors[i].n_dims);
    int rc = psd_header_end(&header, err);
    rc = rc ? psd_err_wrap(err, "cannot write %s", path) : write_tensors(path, &header, tensors, n_tensors, err);
    free(header.bytes);
    return rc;
}

char *psd_weights_sha256(const psd_saved_t *tensors, size_t n_tensors, char text[PSD_SHA256_TEXT])
{
    crypto_hash_sha256_state state;
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_init(&state);
    for (size_t i = 0; i < n_tensors; i++)
        crypto_hash_sha256_update(&state, (const unsigned char *)tensors[i].data, tensors[i].n * sizeof(float));
    crypto_hash_sha256_final(&state, hash);
    return sodium_bin2hex(text, PSD_SHA256_TEXT, hash, sizeof hash);
}

/* ---- reading ---- */

static const struct dtype {
    const char *name;
    unsigned bits; /* of an element */
} dtypes[] = {
    { "F64", 64 }, { "F32", 32 },    { "F16", 16 },    { "BF16", 16 }, { "F8_E4M3", 8 }, { "F8_E5M2", 8 }, { "F8_E8M0", 8 },
    { "C64", 64 }, { "F6_E2M3", 6 }, { "F6_E3M2", 6 }, { "F4", 4 },    { "I64", 64 },    { "I32", 32 },    { "I16", 16 },
    { "I8", 8 },   { "U64", 64 },    { "U32", 32 },    { "U16", 16 },  { "U8", 8 },      { "BOOL", 8 },
};

static int read_at(const psd_safetensors_t *self, void *to, size_t n_bytes, uint64_t offset, psd_err_t *err)
{
    for (char *at = to; n_bytes > 0;) {
        ssize_t done = pread(self->fd, at, n_bytes, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return psd_err_set(err, psd_durable_code(errno), "cannot read %s: %s", self->path, strerror(errno));
        if (done == 0)
            return psd_err_set(err, PSD_EDATA, "%s ends at byte %" PRIu64, self->path, offset);
        at += done;
        offset += (size_t)done;
        n_bytes -= (size_t)done;
    }
    return PSD_OK;
}

/* What else the file is, if psd knows it, and what to do. */
static int refuse_format(const psd_safetensors_t *self, uint64_t n_file, uint64_t length, psd_err_t *err)
{
    unsigned char start[128] = { 0 };
    read_at(self, start, n_file < sizeof start ? (size_t)n_file : sizeof start, 0, NULL);
    const bool is_zip = !memcmp(start, "PK\3\4", 4);
    if (start[0] == 0x80 || (is_zip && memmem(start, sizeof start, "/data.pkl", 9)))
        return psd_err_set(
            err, PSD_EDATA,
            "%s was written by torch.save; save the state_dict as safetensors, or as npz with numpy.savez, and convert "
            "that: psdctl import JOB --from=FILE --to=%.100s.safetensors",
            self->path, self->path);
    if (is_zip)
        return psd_err_set(err, PSD_EDATA,
                           "%s is an npz archive; convert it: psdctl import JOB --from=%.150s --to=%.150s.safetensors", self->path,
                           self->path, self->path);
    return psd_err_set(err, PSD_EDATA,
                       "%s: a header of %" PRIu64 " bytes in a file of %" PRIu64 ": it is damaged, or not a safetensors file",
                       self->path, length, n_file);
}

static int read_header(psd_safetensors_t *self, uint64_t n_file, psd_err_t *err)
{
    uint64_t length;
    if (n_file < LENGTH)
        return psd_err_set(err, PSD_EDATA, "%s has %" PRIu64 " bytes, too few for a header", self->path, n_file);
    int rc = read_at(self, &length, LENGTH, 0, err);
    if (rc)
        return rc;
    if (length > PSD_MAX_ST_HEADER || length > n_file - LENGTH)
        return refuse_format(self, n_file, length, err);
    self->n_bytes = (size_t)(LENGTH + length);
    self->n_data = n_file - self->n_bytes;
    if (!(self->bytes = malloc(self->n_bytes)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for the header of %s", self->path);
    return read_at(self, self->bytes, self->n_bytes, 0, err);
}

int psd_safetensors_open(psd_safetensors_t *out, const char *path, psd_err_t *err)
{
    struct stat info;
    *out = (psd_safetensors_t){ .fd = -1, .path = strdup(path) };
    if (!out->path)
        return psd_err_set(err, PSD_ENOMEM, "no memory to read %s", path);
    /* Not blocking, because opening a FIFO of that name would wait. */
    out->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (out->fd < 0 || fstat(out->fd, &info))
        return psd_err_set(err, psd_durable_is_hopeless(errno) ? PSD_ENOINPUT : psd_durable_code(errno), "cannot read %s: %s", path,
                           strerror(errno));
    if (!S_ISREG(info.st_mode))
        return psd_err_set(err, PSD_ENOINPUT, "%s: is %s", path,
                           S_ISDIR(info.st_mode) ? "a directory; name the file in it"
                                                 : "not a regular file, and cannot be read in any order; write it to a file");
    return read_header(out, (uint64_t)info.st_size, err);
}

static int flaw(const psd_safetensors_t *self, const char *name, const char *what, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDATA, "%s: %.200s: %s", self->path, name, what);
}

/* A number of the header: an integer that is not negative. */
static bool count(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* The bytes of an array of that type and shape; false when the number overflows or is not whole. */
static bool length_of(const psd_entry_t *entry, const struct dtype *dtype, uint64_t *out)
{
    uint64_t n = dtype->bits;
    for (size_t i = 0; i < entry->n_dims; i++)
        if (__builtin_mul_overflow(n, entry->shape[i], &n))
            return false;
    *out = n / 8;
    return n % 8 == 0;
}

static int read_shape(const psd_safetensors_t *self, psd_entry_t *entry, const json_t *shape, psd_err_t *err)
{
    if (!json_is_array(shape) || json_array_size(shape) > PSD_ENTRY_DIMS)
        return flaw(self, entry->name, "shape is not a list of at most 8 sizes", err);
    entry->n_dims = json_array_size(shape);
    for (size_t i = 0; i < entry->n_dims; i++)
        if (!count(json_array_get(shape, i), &entry->shape[i]))
            return flaw(self, entry->name, "a size of its shape is not a count", err);
    return PSD_OK;
}

static int read_entry(const psd_safetensors_t *self, psd_entry_t *entry, const json_t *value, psd_err_t *err)
{
    const json_t *offsets = json_object_get(value, "data_offsets");
    const char *name = json_string_value(json_object_get(value, "dtype"));
    const struct dtype *dtype = NULL;
    uint64_t length;
    if (json_object_size(value) != 3 || !name || !offsets)
        return flaw(self, entry->name, "an entry is dtype, shape and data_offsets", err);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            dtype = &dtypes[i];
    if (!dtype)
        return flaw(self, entry->name, "its dtype is unknown", err);
    entry->dtype = dtype->name;
    int rc = read_shape(self, entry, json_object_get(value, "shape"), err);
    if (rc)
        return rc;
    if (json_array_size(offsets) != 2 || !count(json_array_get(offsets, 0), &entry->begin) ||
        !count(json_array_get(offsets, 1), &entry->end) || entry->begin > entry->end || entry->end > self->n_data)
        return flaw(self, entry->name, "its data_offsets are not within the file", err);
    if (!length_of(entry, dtype, &length) || length != entry->end - entry->begin)
        return flaw(self, entry->name, "its data_offsets do not match its shape", err);
    return PSD_OK;
}

static int read_notes(psd_safetensors_t *self, json_t *notes, psd_err_t *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(notes))
        return flaw(self, "__metadata__", "not an object", err);
    if (!(self->note = calloc(json_object_size(notes) + 1, sizeof *self->note)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for the notes of %s", self->path);
    json_object_foreach(notes, key, value)
    {
        if (!json_is_string(value))
            return flaw(self, key, "metadata that is not a string", err);
        self->note[self->n_notes++] = (psd_note_t){ key, json_string_value(value) };
    }
    return PSD_OK;
}

static int by_place(const void *a, const void *b)
{
    const psd_entry_t *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Check that every byte of data belongs to exactly one array, so that the file cannot hide other contents. */
static int check_cover(psd_safetensors_t *self, psd_err_t *err)
{
    uint64_t at = 0;
    qsort(self->entry, self->n_entries, sizeof *self->entry, by_place);
    for (size_t i = 0; i < self->n_entries; at = self->entry[i++].end)
        if (self->entry[i].begin != at)
            return flaw(self, self->entry[i].name, self->entry[i].begin < at ? "it overlaps another entry" : "a hole before it",
                        err);
    if (at != self->n_data)
        return psd_err_set(err, PSD_EDATA, "%s has %" PRIu64 " bytes of data, its entries %" PRIu64, self->path, self->n_data, at);
    return PSD_OK;
}

static int read_root(psd_safetensors_t *self, json_t *root, psd_err_t *err)
{
    const char *key;
    json_t *value;
    if (!(self->entry = calloc(json_object_size(root) + 1, sizeof *self->entry)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for the entries of %s", self->path);
    json_object_foreach(root, key, value)
    {
        psd_entry_t *entry = &self->entry[self->n_entries];
        entry->name = key;
        int rc = strcmp(key, "__metadata__") == 0 ? read_notes(self, value, err) : read_entry(self, entry, value, err);
        if (rc)
            return rc;
        self->n_entries += strcmp(key, "__metadata__") != 0;
    }
    return check_cover(self, err);
}

int psd_safetensors_parse(psd_safetensors_t *self, psd_err_t *err)
{
    const char *text = (const char *)self->bytes + LENGTH;
    json_error_t why;
    if (self->n_bytes <= LENGTH || *text != '{')
        return psd_err_set(err, PSD_EDATA, "%s: the header is not a JSON object", self->path);
    json_t *root = json_loadb(text, self->n_bytes - LENGTH, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return psd_err_set(err, PSD_EDATA, "%s: header, byte %d: %s", self->path, why.position, why.text);
    self->owner = root;
    return read_root(self, root, err);
}

int psd_safetensors_read(const psd_safetensors_t *self, const psd_entry_t *entry, void *to, psd_err_t *err)
{
    return read_at(self, to, (size_t)(entry->end - entry->begin), self->n_bytes + entry->begin, err);
}

const char *psd_safetensors_note(const psd_safetensors_t *self, const char *key)
{
    for (size_t i = 0; i < self->n_notes; i++)
        if (strcmp(self->note[i].key, key) == 0)
            return self->note[i].value;
    return NULL;
}

void psd_safetensors_close(psd_safetensors_t *self)
{
    if (self->fd >= 0)
        close(self->fd);
    free(self->path);
    free(self->bytes);
    free(self->entry);
    free(self->note);
    json_decref(self->owner);
    *self = (psd_safetensors_t){ .fd = -1 };
}

size_t psd_first_nonfinite(const float *values, size_t n)
{
    size_t i = 0;
    while (i < n && isfinite(values[i]))
        i++;
    return i;
}

int psd_weights_look(const psd_saved_t *tensors, size_t n_tensors, psd_err_t *err)
{
    for (size_t t = 0; t < n_tensors; t++) {
        const size_t i = psd_first_nonfinite(tensors[t].data, tensors[t].n);
        if (i < tensors[t].n)
            return psd_err_set(err, PSD_EDIVERGED, "the weights are not finite: %.100s is %s at element %zu of %zu",
                               tensors[t].name, isnan(tensors[t].data[i]) ? "NaN" : "infinite", i, tensors[t].n);
    }
    return PSD_OK;
}
