#include "worker/dataset.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zlib.h>

#include "common/number.h"
#include "common/printable.h"

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

/* Whether [at, end) is `word`, whatever its letters' case. */
static bool is_word(const char *at, const char *end, const char *word)
{
    return (size_t)(end - at) == strlen(word) && !strncasecmp(at, word, strlen(word));
}

const char *psd_number_fault(const char *at, const char *end)
{
    uint64_t digits;
    int n_digits, after_point, power;
    const char *start = at + (at < end && (*at == '-' || *at == '+'));
    const char *behind = mantissa(start, end, &digits, &n_digits, &after_point);
    const char *comma = memchr(at, ',', (size_t)(end - at));
    float part;
    if (is_word(start, end, "inf") || is_word(start, end, "infinity") || is_word(start, end, "nan"))
        return "is not finite; fill it in, or leave its row out";
    if (end - start > 2 && *start == '0' && (start[1] == 'x' || start[1] == 'X'))
        return "is hexadecimal; write it in decimal digits";
    if (behind && exponent(behind, end, &power) == end)
        return "is beyond what a float32 holds (3.4e38); scale it down";
    if (comma && psd_number_parse(at, comma, &part) && psd_number_parse(comma + 1, end, &part))
        return "has a comma in it; write a decimal point, and nothing between thousands";
    if (memchr(at, ';', (size_t)(end - at)))
        return "is not a number; is data.delimiter a semicolon?";
    if (memchr(at, '\t', (size_t)(end - at)))
        return "is not a number; is data.delimiter a tab?";
    return "is not a number; turn words into numbers first, or drop the column";
}

/* ---- Text ---- */

const char *psd_quote(char out[PSD_QUOTE], const char *at, const char *end)
{
    return psd_printable(out, PSD_QUOTE, at, (size_t)(end - at));
}

int psd_text_open(const psd_bytes_t *file, const char **at, const char **end, psd_err_t *err)
{
    *at = (const char *)file->at;
    *end = *at + file->n;
    if (file->n >= 2 && (!memcmp(*at, "\xff\xfe", 2) || !memcmp(*at, "\xfe\xff", 2)))
        return psd_err_set(err, PSD_EDATA, "%s: UTF-16 text; save it as UTF-8", file->name);
    if (file->n >= 3 && !memcmp(*at, "\xef\xbb\xbf", 3))
        *at += 3;
    const char *cr = *at == *end ? NULL : memchr(*at, '\r', (size_t)(*end - *at));
    if (cr && !memchr(*at, '\n', (size_t)(*end - *at)))
        return psd_err_set(err, PSD_EDATA, "%s: lines end in CR; convert them to LF, as tr '\\r' '\\n' does", file->name);
    return PSD_OK;
}

int psd_delimiter_parse(const char *text, char *out, psd_err_t *err)
{
    const bool is_tab = !strcmp(text, "tab") || !strcmp(text, "\\t") || !strcmp(text, "\t");
    *out = is_tab ? '\t' : text[0];
    if (is_tab || (text[0] && !text[1] && ispunct((unsigned char)text[0]) && !strchr("\"'.+-_", text[0])) ||
        !strcmp(text, " "))
        return PSD_OK;
    char shown[PSD_QUOTE];
    return psd_err_set(err, PSD_ECONFIG, "data.delimiter is '%s'; it is one character, such as , ; | or the word tab",
                       psd_quote(shown, text, text + strlen(text)));
}

/* ---- Labels ---- */

int psd_labels_add(psd_labels_t *self, float label, const char *name, size_t line, psd_err_t *err)
{
    psd_dataset_t *set = self->set;
    if (self->options->kind == PSD_LABEL_CLASS) {
        bool minus = label == -1;
        if (label >= PSD_MAX_CLASSES && truncf(label) == label)
            return psd_err_set(err, PSD_EDATA, "%s:%zu: label %.9g is too large for a class; %d classes fit, numbered from 0 (to predict "
                               "numbers choose model.kind linear)", name, line, (double)label, PSD_MAX_CLASSES);
        if (!minus && !(label >= 0 && truncf(label) == label))
            return psd_err_set(
                err, PSD_EDATA,
                "%s:%zu: label %.9g is no class; classes are whole numbers from 0, or -1 and 1 throughout "
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
        self->smallest = !set->n_rows || label < self->smallest ? label : self->smallest;
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
        return set->n_skipped
                   ? psd_err_set(err, PSD_EDATA, "%s: no rows are left; data.na=skip has left out all %zu", name,
                                 set->n_skipped)
                   : psd_err_set(err, PSD_EDATA, "%s: no rows; the data set is empty", name);
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
    set->first_class = self->smallest > 0 ? (size_t)self->smallest : 0;
    for (size_t i = 0; set->minus_one && i < set->n_rows; i++)
        set->label[i] = set->label[i] > 0;
    set->n_classes = train ? train->n_classes : self->largest < 1 ? 2 : (size_t)self->largest + 1;
    return PSD_OK;
}

/* ---- Loading ---- */

/* What a file is that no reader reads, and what its owner can do. */
static const struct magic {
    const char *bytes;
    size_t n;
    const char *what, *cure;
} magics[] = {
#define MAGIC(bytes, what, cure) { bytes, sizeof bytes - 1, what, cure }
    MAGIC("\x1f\x8b", "gzip data inside gzip", "unpack it once, with gzip -d"),
    MAGIC("\xfd" "7zXZ\0", "xz data", "unpack it with xz -d; gzip is read as it is"),
    MAGIC("\x28\xb5\x2f\xfd", "zstd data", "unpack it with zstd -d; gzip is read as it is"),
    MAGIC("\x04\x22\x4d\x18", "lz4 data", "unpack it with lz4 -d; gzip is read as it is"),
    MAGIC("PK\3\4", "a zip archive (or an .xlsx or .npz)", "unpack it with unzip; gzip is read as it is"),
    MAGIC("PK\5\6", "an empty zip archive", "fetch it again"),
    MAGIC("7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z x; gzip is read as it is"),
    MAGIC("\x1f\x9d", "compress (.Z) data", "unpack it with gzip -d"),
    MAGIC("PAR1\x15", "a parquet file", "write it as csv, with DataFrame.to_csv"),
    MAGIC("ARROW1\0", "an Arrow file", "write it as csv, with DataFrame.to_csv"),
    MAGIC("\x93NUMPY", "a NumPy array", "write it as csv, with numpy.savetxt"),
    MAGIC("\x89HDF\r\n\x1a\n", "an HDF5 file", "write it as csv"),
    MAGIC("SQLite format 3\0", "an SQLite database", "write it as csv, with sqlite3 -csv -header"),
    MAGIC("version https://git-lfs", "a pointer of git lfs, and not the file itself", "fetch it with git lfs pull"),
    MAGIC("<!DOCTYPE html", "a web page", "fetch the file itself"),
    MAGIC("<!doctype html", "a web page", "fetch the file itself"),
    MAGIC("<html", "a web page", "fetch the file itself"),
#undef MAGIC
};

static int refuse_magic(const char *path, const psd_bytes_t *bytes, psd_err_t *err)
{
    if (bytes->n >= 10 && !memcmp(bytes->at, "BZh", 3) && !memcmp(bytes->at + 4, "1AY&SY", 6))
        return psd_err_set(err, PSD_EDATA, "%s: this is bzip2 data; unpack it with bzip2 -d; gzip is read as it is", path);
    if (bytes->n >= 262 && !memcmp(bytes->at + 257, "ustar", 5))
        return psd_err_set(err, PSD_EDATA, "%s: this is a tar archive; unpack it with tar -xf, and name the file in it", path);
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if (bytes->n >= magics[i].n && !memcmp(bytes->at, magics[i].bytes, magics[i].n))
            return psd_err_set(err, PSD_EDATA, "%s: this is %s; %s", path, magics[i].what, magics[i].cure);
    return PSD_OK;
}

/* A file on its way into memory. */
typedef struct slurp {
    const char *path;
    int fd;
    unsigned char in[1 << 17]; /* as it lies on disk */
    size_t n_in;
    unsigned char *bytes; /* as it is meant */
    size_t n, room;
    z_stream unzip;
} slurp_t;

/* Fill `in`; n_in is 0 at the end of the file. A pipe gives what it has, and may give it in parts. */
static int fill(slurp_t *self, psd_err_t *err)
{
    for (self->n_in = 0; self->n_in < sizeof self->in;) {
        ssize_t got = read(self->fd, self->in + self->n_in, sizeof self->in - self->n_in);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return psd_err_set(err, errno == EISDIR ? PSD_ENOINPUT : PSD_EIO, "%s: %s", self->path, strerror(errno));
        if (!got)
            break;
        self->n_in += (size_t)got;
    }
    return PSD_OK;
}

static int copy(slurp_t *self, psd_err_t *err)
{
    int rc = PSD_OK;
    while (!rc && self->n_in) {
        if ((rc = psd_array_grow(&self->bytes, &self->room, self->n + self->n_in, 1, err)))
            return rc;
        memcpy(self->bytes + self->n, self->in, self->n_in);
        self->n += self->n_in;
        rc = fill(self, err);
    }
    return rc;
}

static int damaged(const slurp_t *self, const char *why, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDATA, "%s: damaged gzip data (%s) after %zu bytes; fetch it again", self->path, why,
                       self->n);
}

/* Unpack what is in `in`, up to the end of a member, or of `in`. */
static int unpack_some(slurp_t *self, bool *inside, psd_err_t *err)
{
    int zrc = Z_OK;
    do {
        int rc = psd_array_grow(&self->bytes, &self->room, self->n + (1 << 16), 1, err);
        if (rc)
            return rc;
        const size_t space = self->room - self->n;
        self->unzip.next_out = self->bytes + self->n;
        self->unzip.avail_out = space < 1 << 30 ? (unsigned)space : 1 << 30;
        const unsigned before = self->unzip.avail_out;
        zrc = inflate(&self->unzip, Z_NO_FLUSH);
        self->n += before - self->unzip.avail_out;
    } while (zrc == Z_OK && (self->unzip.avail_in || !self->unzip.avail_out));
    *inside = zrc != Z_STREAM_END;
    if (zrc == Z_MEM_ERROR)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory to unpack it", self->path);
    return zrc == Z_OK || zrc == Z_STREAM_END || zrc == Z_BUF_ERROR
               ? PSD_OK
               : damaged(self, self->unzip.msg ? self->unzip.msg : "a preset dictionary", err);
}

/* Between two members: the next begins like one; zeros, as tapes pad with, are passed over; all else is an error. */
static int look_behind_member(slurp_t *self, bool *padded, psd_err_t *err)
{
    while (self->unzip.avail_in && !*self->unzip.next_in) {
        self->unzip.next_in++;
        self->unzip.avail_in--;
        *padded = true;
    }
    if (!self->unzip.avail_in)
        return PSD_OK;
    if (*padded || *self->unzip.next_in != 0x1f)
        return psd_err_set(err, PSD_EDATA,
                           "%s: bytes that are no gzip data follow the gzip data, which unpacks to %zu bytes; cut them "
                           "off, or fetch it again",
                           self->path, self->n);
    inflateReset(&self->unzip);
    return PSD_OK;
}

static int unpack(slurp_t *self, psd_err_t *err)
{
    enum { GZIP = 15 + 16 };
    bool inside = true, padded = false;
    int rc = PSD_OK;
    if (inflateInit2(&self->unzip, GZIP) != Z_OK)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory to unpack it", self->path);
    while (!rc && self->n_in) {
        self->unzip.next_in = self->in;
        self->unzip.avail_in = (unsigned)self->n_in;
        while (!rc && self->unzip.avail_in) {
            if (!inside)
                rc = look_behind_member(self, &padded, err);
            if (!rc && self->unzip.avail_in)
                rc = unpack_some(self, &inside, err);
        }
        rc = rc ? rc : fill(self, err);
    }
    inflateEnd(&self->unzip);
    return rc ? rc : inside ? damaged(self, "it ends too early", err) : PSD_OK;
}

static int take(slurp_t *self, psd_err_t *err)
{
    struct stat facts;
    if (fstat(self->fd, &facts) == 0 && S_ISDIR(facts.st_mode))
        return psd_err_set(err, PSD_ENOINPUT, "%s: is a directory; name the file in it", self->path);
    int rc = fill(self, err);
    const bool is_gzip = self->n_in >= 2 && self->in[0] == 0x1f && self->in[1] == 0x8b;
    rc = rc ? rc : is_gzip ? unpack(self, err) : copy(self, err);
    return rc ? rc : refuse_magic(self->path, &(psd_bytes_t){ .at = self->bytes, .n = self->n }, err);
}

/* All bytes of a file, unzipped when it is gzipped. */
static int slurp(const char *path, psd_bytes_t *out, psd_err_t *err)
{
    slurp_t *self = calloc(1, sizeof *self);
    if (!self)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory to read it", path);
    self->path = path;
    self->fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = self->fd < 0
                 ? psd_err_set(err, errno == ENOENT || errno == ENOTDIR ? PSD_ENOINPUT : PSD_EIO, "%s: %s", path, strerror(errno))
                 : take(self, err);
    if (self->fd >= 0)
        close(self->fd);
    if (rc)
        free(self->bytes);
    else
        *out = (psd_bytes_t){ .name = path, .at = self->bytes, .n = self->n };
    free(self);
    return rc;
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
    const char *misplaced = reader->has_columns || options->train ? NULL
                            : options->n_drop                       ? "drop"
                            : options->delimiter && options->delimiter != ',' ? "delimiter"
                            : options->label_column && *options->label_column ? "label_column"
                                                                              : NULL;
    if (misplaced) {
        psd_err_set(err, PSD_ECONFIG, "data set '%s' has no columns with names; leave data.%s out", spec, misplaced);
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
