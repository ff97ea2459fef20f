#include "worker/slurp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "common/base/array.h"
#include "common/system/durable.h"

/* What a file is that no reader reads, and what its owner can do. */
static const struct magic {
    const char *bytes;
    size_t n;
    const char *what, *cure;
} magics[] = {
#define MAGIC(bytes, what, cure)                                                                                                   \
    {                                                                                                                              \
        bytes, sizeof bytes - 1, what, cure                                                                                        \
    }
    MAGIC("\x1f\x8b", "gzip data inside gzip", "unpack it once, with gzip -d"),
    MAGIC("\xfd"
          "7zXZ\0",
          "xz data", "unpack it with xz -d; gzip is read as it is"),
    MAGIC("\x28\xb5\x2f\xfd", "zstd data", "unpack it with zstd -d; gzip is read as it is"),
    MAGIC("\x04\x22\x4d\x18", "lz4 data", "unpack it with lz4 -d; gzip is read as it is"),
    MAGIC("PK\3\4", "a zip archive (or an .xlsx or .npz)", "unpack it with unzip; gzip is read as it is"),
    MAGIC("PK\5\6", "an empty zip archive", "fetch it again"),
    MAGIC("7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with 7z x; gzip is read as it is"),
    MAGIC("\x1f\x9d", "compress (.Z) data", "unpack it with gzip -d"),
    MAGIC("PAR1\x15", "a parquet file", "write it as csv, with DataFrame.to_csv"),
    MAGIC("ARROW1\0", "an Arrow file", "write it as csv, with DataFrame.to_csv"),
    MAGIC("\x93NUMPY", "a NumPy array", "name it npy:FILE"),
    MAGIC("\x89HDF\r\n\x1a\n", "an HDF5 file", "write it as csv"),
    MAGIC("SQLite format 3\0", "an SQLite database", "write it as csv, with sqlite3 -csv -header"),
    MAGIC("version https://git-lfs", "a pointer of git lfs, and not the file itself", "fetch it with git lfs pull"),
    MAGIC("<!DOCTYPE html", "a web page", "fetch the file itself"),
    MAGIC("<!doctype html", "a web page", "fetch the file itself"),
    MAGIC("<html", "a web page", "fetch the file itself"),
#undef MAGIC
};

static int refuse_magic(const char *path, const psd_bytes_t *bytes, const char *own, psd_err_t *err)
{
    if (bytes->n >= 10 && !memcmp(bytes->at, "BZh", 3) && !memcmp(bytes->at + 4, "1AY&SY", 6))
        return psd_err_set(err, PSD_EDATA, "%s: this is bzip2 data; unpack it with bzip2 -d; gzip is read as it is", path);
    if (bytes->n >= 262 && !memcmp(bytes->at + 257, "ustar", 5))
        return psd_err_set(err, PSD_EDATA, "%s: this is a tar archive; unpack it with tar -xf, and name the file in it", path);
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        if (bytes->n >= magics[i].n && !(own && !strcmp(own, magics[i].bytes)) && !memcmp(bytes->at, magics[i].bytes, magics[i].n))
            return psd_err_set(err, PSD_EDATA, "%s: this is %s; %s", path, magics[i].what, magics[i].cure);
    return PSD_OK;
}

/* A file on its way into memory. */
typedef struct slurp {
    const char *path;
    const char *own; /* magic that is read; NULL: none */
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
    return psd_err_set(err, PSD_EDATA, "%s: damaged gzip data (%s) after %zu bytes; fetch it again", self->path, why, self->n);
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

/* Between two members: the next begins like one; zeros, as tapes pad with, are skipped; anything else is an error. */
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
                           "%s: bytes that are not gzip data follow the gzip data, which unpacks to %zu bytes; cut them "
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
    return rc ? rc : refuse_magic(self->path, &(psd_bytes_t){ .at = self->bytes, .n = self->n }, self->own, err);
}

int psd_slurp(psd_bytes_t *out, const char *path, const char *own, psd_err_t *err)
{
    slurp_t *self = calloc(1, sizeof *self);
    if (!self)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory to read it", path);
    self->path = path;
    self->own = own;
    self->fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = self->fd < 0
                 ? psd_err_set(err, psd_durable_is_hopeless(errno) ? PSD_ENOINPUT : PSD_EIO, "%s: %s", path, strerror(errno))
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

void psd_slurp_free(psd_bytes_t *bytes)
{
    void *at;
    memcpy(&at, &bytes->at, sizeof at);
    free(at);
}

bool psd_slurp_begins(const char *path, const char *magic)
{
    char bytes[16];
    const size_t n = strlen(magic);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const bool begins = fd >= 0 && n <= sizeof bytes && read(fd, bytes, n) == (ssize_t)n && !memcmp(bytes, magic, n);
    if (fd >= 0)
        close(fd);
    return begins;
}
