#include "worker/npz.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/base/array.h"

enum {
    END = 22,      /* bytes of the record at the end of an archive, without its comment, */
    LOCATOR = 20,  /* of what stands before it in ZIP64, and says where the wider record is, */
    WIDE_END = 56, /* of that record, */
    ENTRY = 46,    /* of an entry of its directory, without name, extra field and comment, */
    LOCAL = 30,    /* and of the head of a member, without name and extra field */
    COMMENT = 65535,
    STORED = 0,
    DEFLATED = 8,
    MOST_RATIO = 1040, /* of bytes unpacked to bytes packed, by the format */
    WIDE = 0xffffffff  /* a size that stands in a ZIP64 field */
};

typedef struct member {
    uint64_t packed, size, at; /* bytes in the archive and unpacked, and where its head begins */
    uint32_t crc;
    unsigned method;
    const unsigned char *name;
    size_t n_name;
} member_t;

static uint32_t word(const unsigned char *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }
static uint32_t quad(const unsigned char *at) { return word(at) | word(at + 2) << 16; }
static uint64_t wide(const unsigned char *at) { return (uint64_t)quad(at) | (uint64_t)quad(at + 4) << 32; }

static int damaged(const psd_bytes_t *file, const char *what, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDATA, "%s: a damaged npz archive: %s; save it again with numpy.savez", file->name, what);
}

/* The record at the end, which tells where the directory is. */
static const unsigned char *find_end(const psd_bytes_t *file)
{
    for (size_t back = END; back <= file->n && back <= END + COMMENT; back++)
        if (!memcmp(file->at + file->n - back, "PK\5\6", 4))
            return file->at + file->n - back;
    return NULL;
}

/* How many entries the directory has, and where it begins; numbers that do not fit stand in ZIP64's record. */
static bool read_end(const psd_bytes_t *file, const unsigned char *end, uint64_t *n, uint64_t *at)
{
    *n = word(end + 10);
    *at = quad(end + 16);
    if (*n != 0xffff && *at != (uint32_t)WIDE)
        return true;
    const unsigned char *locator = end - LOCATOR;
    if (end - file->at < LOCATOR || memcmp(locator, "PK\6\7", 4) || wide(locator + 8) > file->n ||
        file->n - wide(locator + 8) < WIDE_END)
        return false;
    const unsigned char *record = file->at + wide(locator + 8);
    if (memcmp(record, "PK\6\6", 4))
        return false;
    *n = wide(record + 32);
    *at = wide(record + 48);
    return true;
}

/* Sizes that do not fit 32 bits stand in the extra field of kind 1, in the order of those that are WIDE. */
static bool read_wide(const unsigned char *extra, size_t n, member_t *out)
{
    uint64_t *const value[] = { &out->size, &out->packed, &out->at };
    while (n >= 4 && word(extra) != 1 && n >= 4 + word(extra + 2)) {
        const size_t skip = 4 + word(extra + 2);
        extra += skip;
        n -= skip;
    }
    size_t left = n >= 4 && word(extra) == 1 && n >= 4 + word(extra + 2) ? word(extra + 2) : 0;
    const unsigned char *at = extra + 4;
    for (size_t i = 0; i < 3; i++) {
        if (*value[i] != (uint32_t)WIDE)
            continue;
        if (left < 8)
            return false;
        *value[i] = wide(at);
        at += 8;
        left -= 8;
    }
    return true;
}

static int unpack(const psd_bytes_t *file, const member_t *m, const unsigned char *packed, psd_npz_array_t *out, psd_err_t *err)
{
    z_stream unzip = { 0 };
    if (m->packed > UINT32_MAX || m->size > UINT32_MAX)
        return psd_err_set(err, PSD_EDATA, "%s: array '%.60s' has more than 4 GiB and is compressed; save it with numpy.savez",
                           file->name, out->name);
    if (!(out->bytes = malloc(m->size ? m->size : 1)))
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory to unpack '%.60s'", file->name, out->name);
    if (inflateInit2(&unzip, -15) != Z_OK)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory to unpack it", file->name);
    union {
        const unsigned char *in;
        unsigned char *next;
    } source = { packed }; /* zlib reads it only, and its type does not say so */
    unzip.next_in = source.next;
    unzip.avail_in = (unsigned)m->packed;
    unzip.next_out = out->bytes;
    unzip.avail_out = (unsigned)m->size;
    const int zrc = inflate(&unzip, Z_FINISH);
    const bool whole = zrc == Z_STREAM_END && !unzip.avail_out;
    inflateEnd(&unzip);
    return whole ? PSD_OK : damaged(file, "a member does not unpack to its size", err);
}

static int read_member(const psd_bytes_t *file, const member_t *m, psd_npz_array_t *out, psd_err_t *err)
{
    if (m->at > file->n || file->n - m->at < LOCAL || memcmp(file->at + m->at, "PK\3\4", 4))
        return damaged(file, "a member is not at the offset that the directory gives", err);
    const unsigned char *head = file->at + m->at;
    const uint64_t begin = m->at + LOCAL + word(head + 26) + word(head + 28);
    if (begin > file->n || m->packed > file->n - begin || (m->method == STORED && m->packed != m->size))
        return damaged(file, "a member extends beyond the end", err);
    if (m->method == DEFLATED && m->size / MOST_RATIO > m->packed)
        return damaged(file, "a member claims to unpack to more than it can", err);
    const unsigned char *data = file->at + begin;
    if (m->method == DEFLATED) {
        const int rc = unpack(file, m, data, out, err);
        if (rc)
            return rc;
        data = out->bytes;
    } else if (m->method != STORED) {
        return damaged(file, "a member is compressed in another way than numpy does", err);
    }
    uLong crc = crc32(0, NULL, 0);
    for (uint64_t at = 0; at < m->size; at += 1 << 30)
        crc = crc32(crc, data + at, (uInt)(m->size - at < 1 << 30 ? m->size - at : 1 << 30));
    if (crc != m->crc)
        return damaged(file, "a member's checksum is wrong", err);
    return psd_npy_read(&(psd_bytes_t){ .name = out->name, .at = data, .n = (size_t)m->size }, &out->array, err)
               ? psd_err_wrap(err, "%s", file->name)
               : PSD_OK;
}

static int add_member(const psd_bytes_t *file, const member_t *m, psd_npz_t *out, size_t *room, psd_err_t *err)
{
    const bool is_array = m->n_name > 4 && !memcmp(m->name + m->n_name - 4, ".npy", 4);
    const int rc = psd_array_grow(&out->member, room, out->n + 1, sizeof *out->member, err);
    if (rc)
        return rc;
    if (!is_array || memchr(m->name, '\0', m->n_name))
        return damaged(file, "a member is not a .npy file, as in what torch.save writes (save the state_dict with numpy.savez)",
                       err);
    psd_npz_array_t *member = &out->member[out->n++];
    *member = (psd_npz_array_t){ .name = strndup((const char *)m->name, m->n_name - 4) };
    return member->name ? read_member(file, m, member, err) : psd_err_set(err, PSD_ENOMEM, "%s: no memory to read it", file->name);
}

int psd_npz_read(const psd_bytes_t *file, psd_npz_t *out, psd_err_t *err)
{
    const unsigned char *end = find_end(file);
    size_t room = 0;
    *out = (psd_npz_t){ 0 };
    if (!end)
        return damaged(file, "it has no directory at its end", err);
    uint64_t n, at;
    int rc = read_end(file, end, &n, &at) ? PSD_OK : damaged(file, "the place of its directory is missing", err);
    for (uint64_t i = 0; !rc && i < n; i++) {
        const unsigned char *entry = file->at + at;
        if (at > file->n || file->n - at < ENTRY || memcmp(entry, "PK\1\2", 4))
            return damaged(file, "its directory is incomplete", err);
        const size_t n_name = word(entry + 28), n_extra = word(entry + 30), n_comment = word(entry + 32);
        if (file->n - at - ENTRY < n_name + n_extra + n_comment)
            return damaged(file, "its directory is incomplete", err);
        member_t m = { .method = word(entry + 10),
                       .crc = quad(entry + 16),
                       .packed = quad(entry + 20),
                       .size = quad(entry + 24),
                       .at = quad(entry + 42),
                       .name = entry + ENTRY,
                       .n_name = n_name };
        rc = read_wide(entry + ENTRY + n_name, n_extra, &m) ? add_member(file, &m, out, &room, err)
                                                            : damaged(file, "a size is missing", err);
        at += ENTRY + n_name + n_extra + n_comment;
    }
    return rc ? rc : out->n ? PSD_OK : psd_err_set(err, PSD_EDATA, "%s: an npz archive without arrays", file->name);
}

void psd_npz_clear(psd_npz_t *self)
{
    for (size_t i = 0; i < self->n; i++) {
        free(self->member[i].name);
        free(self->member[i].bytes);
    }
    free(self->member);
    *self = (psd_npz_t){ 0 };
}
