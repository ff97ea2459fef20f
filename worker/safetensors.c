#include "worker/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are written as they lie in memory, which must be little-endian"
#endif

enum { ALIGN = 4096 };

static json_t *describe(const psd_saved_t *tensor, uint64_t begin)
{
    json_t *shape = json_array();
    for (size_t i = 0; i < tensor->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + tensor->n * sizeof(float)));
}

/* The header's JSON, padded with spaces so that the data that follow it and its length are aligned. The
 * caller frees it. */
static char *make_header(const psd_saved_t *tensors, size_t n_tensors, const psd_note_t *notes,
                         size_t n_notes, size_t *n_bytes)
{
    json_t *root = json_object(), *metadata = json_object();
    int failed = 0;
    for (size_t i = 0; i < n_notes; i++)
        failed |= json_object_set_new(metadata, notes[i].key, json_string(notes[i].value));
    failed |= json_object_set_new(root, "__metadata__", metadata);
    uint64_t at = 0;
    for (size_t i = 0; i < n_tensors; at += tensors[i++].n * sizeof(float))
        failed |= json_object_set_new(root, tensors[i].name, describe(&tensors[i], at));
    char *text = failed ? NULL : json_dumps(root, JSON_COMPACT), *padded = NULL;
    json_decref(root);
    if (text) {
        const size_t n = strlen(text);
        *n_bytes = (8 + n + ALIGN - 1) / ALIGN * ALIGN - 8;
        if ((padded = malloc(*n_bytes))) {
            memset(padded, ' ', *n_bytes);
            memcpy(padded, text, n);
        }
    }
    free(text);
    return padded;
}

static int write_all(int fd, const void *bytes, size_t n)
{
    for (const char *at = bytes; n > 0;) {
        ssize_t done = write(fd, at, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        at += done;
        n -= (size_t)done;
    }
    return 0;
}

static int write_file(int fd, const char *header, size_t n_header, const psd_saved_t *tensors,
                      size_t n_tensors)
{
    const uint64_t length = n_header;
    int failed = write_all(fd, &length, sizeof length) || write_all(fd, header, n_header);
    for (size_t i = 0; !failed && i < n_tensors; i++)
        failed = write_all(fd, tensors[i].data, tensors[i].n * sizeof(float));
    failed = failed || fsync(fd);
    const int why = errno;
    failed = close(fd) || failed;
    errno = why;
    return failed;
}

/* A rename is on disk when its directory is. */
static void sync_directory(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

int psd_safetensors_write(const char *path, const psd_saved_t *tensors, size_t n_tensors,
                          const psd_note_t *notes, size_t n_notes, psd_err_t *err)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >= (int)sizeof temporary)
        return psd_err_set(err, PSD_EIO, "%.200s...: the name is too long", path);
    size_t n_header = 0;
    char *header = make_header(tensors, n_tensors, notes, n_notes, &n_header);
    if (!header)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the header of %s", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    const int failed =
        fd < 0 || write_file(fd, header, n_header, tensors, n_tensors) || rename(temporary, path);
    const int why = errno;
    free(header);
    if (failed) {
        if (fd >= 0)
            unlink(temporary);
        return psd_err_set(err, PSD_EIO, "cannot write %s: %s", path, strerror(why));
    }
    sync_directory(path);
    return PSD_OK;
}

char *psd_weights_sha256(const psd_saved_t *tensors, size_t n_tensors, char text[PSD_SHA256_TEXT])
{
    crypto_hash_sha256_state state;
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_init(&state);
    for (size_t i = 0; i < n_tensors; i++)
        crypto_hash_sha256_update(&state, (const unsigned char *)tensors[i].data,
                                  tensors[i].n * sizeof(float));
    crypto_hash_sha256_final(&state, hash);
    return sodium_bin2hex(text, PSD_SHA256_TEXT, hash, sizeof hash);
}
