/* durable.h - writes a new file atomically: either it is whole and on disk under its name, or the name is as it was before. Bytes
 * go to a temporary file beside it; a failure of any step removes that file, and the next attempt uses another temporary name,
 * because after a failed fsync it is unknown which parts of a file are on disk. One thread at a time each. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_durable psd_durable_t;

/* Make the directory, and missing ones above it, and flush each new name to disk. PSD_EIO. */
int psd_durable_mkdir(const char *dir, psd_err_t *err);

/* Check that files can be made in `dir` or, if it does not exist, that it could be made, by making a file and removing it again.
 * PSD_EIO naming path and cause, with errno as the system left it: some causes are temporary (ENOSPC). */
int psd_durable_probe(const char *dir, psd_err_t *err);

/* Whether errno is a lasting cause: the path is not a directory, may not be written, or leads nowhere. */
bool psd_durable_is_hopeless(int why);

/* Begin the file `path` and reserve `n_bytes` for it (0: none), so that a full disk fails now; a file system that cannot reserve is
 * fine. Its directory must exist. NULL with PSD_EIO naming path and cause, PSD_ENOMEM. */
psd_durable_t *psd_durable_new(const char *path, uint64_t n_bytes, psd_err_t *err);

/* The same for a path that a user has named, which may lead to something other than a file. It follows symbolic links, and does not
 * replace them. A device (but not a disk), a FIFO and an open descriptor (/dev/stdout, /dev/fd/3) are not replaced either: when all
 * is written, it is copied to them front to back, so that they get nothing when an earlier step fails. Opening a FIFO waits for its
 * reader. PSD_EIO for a directory, a disk and a socket. */
psd_durable_t *psd_durable_follow(const char *path, uint64_t n_bytes, psd_err_t *err);

/* psd_durable_follow, writing `n_bytes`, and ending in one call. PSD_EIO, PSD_ENOMEM. */
int psd_durable_put(const char *path, const void *bytes, size_t n_bytes, psd_err_t *err);

/* Check that psd_durable_follow could write `path` or, with `to_append`, that open with O_APPEND could; its directory must exist.
 * Makes a file beside it and removes it again. Does not open a FIFO. PSD_EIO naming path and cause. */
int psd_durable_probe_file(const char *path, bool to_append, psd_err_t *err);

/* Write at `offset`. PSD_EIO: abandon it then. */
int psd_durable_write(psd_durable_t *self, const void *bytes, size_t n_bytes, uint64_t offset, psd_err_t *err);

/* Flush it, give it its name, flush the directory. Frees it and sets it to NULL in any case. PSD_EIO: the name is as it was before;
 * only if flushing the directory failed does the name already have the new, whole file, which a power cut may undo. */
int psd_durable_end(psd_durable_t **self_p, psd_err_t *err);

/* Give up and leave nothing behind. Sets it to NULL; NULL is fine. */
void psd_durable_abandon(psd_durable_t **self_p);

/* Whether a file's name is that of a temporary file made here for the file `name`; for any file, if that is NULL. */
bool psd_durable_is_temporary(const char *file, const char *name);

/* The code for an error number of the system when a file cannot be read or written: PSD_ENOMEM for ENOMEM, after which another try may
 * succeed; otherwise PSD_EIO. */
int psd_durable_code(int number);
