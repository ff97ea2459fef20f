/* durable.h - a new file that is either whole under its name, on disk, or not there at all; what had the name
 * before is as it was until then. Bytes go to a temporary file beside it; a failure of any step removes that,
 * and the next attempt has another temporary name: after a failed fsync nobody knows what of a file is on
 * disk. One thread at a time each. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

typedef struct psd_durable psd_durable_t;

/* Make the directory and those above it as far as they are missing; each new name is on disk. PSD_EIO. */
int psd_durable_mkdir(const char *dir, psd_err_t *err);

/* Whether files can be made in `dir`, or, where it is not there yet, whether it could be made. A file is made there for a
 * moment; nothing stays. PSD_EIO naming path and cause, with errno as the system left it: some causes pass (ENOSPC). */
int psd_durable_probe(const char *dir, psd_err_t *err);

/* Whether errno is a cause that does not pass by itself: what is there is no directory, may not be written, or is nothing. */
bool psd_durable_is_hopeless(int why);

/* Begin the file `path` and reserve `n_bytes` for it (0: none), so that a full disk is known now; a file
 * system that cannot reserve is fine. Its directory exists. NULL with PSD_EIO naming path and cause,
 * PSD_ENOMEM. */
psd_durable_t *psd_durable_new(const char *path, uint64_t n_bytes, psd_err_t *err);

/* The same for a path that a person has named, for which what lies there may be other than a file. A symbolic link is
 * followed, and stays. A device (but no disk), a FIFO and an open descriptor (/dev/stdout, /dev/fd/3) stay what they
 * are: when all is written, it goes to them front to back, so that nothing comes of it when a step before fails. To
 * open a FIFO waits for its reader. PSD_EIO for a directory, a disk and a socket. */
psd_durable_t *psd_durable_follow(const char *path, uint64_t n_bytes, psd_err_t *err);

/* All of one in one call: psd_durable_follow, and `n_bytes` of it. PSD_EIO, PSD_ENOMEM. */
int psd_durable_put(const char *path, const void *bytes, size_t n_bytes, psd_err_t *err);

/* Whether psd_durable_follow could write `path`, or, `to_append`, whether open with O_APPEND could; its directory has to be
 * there. A file is made beside it for a moment; nothing stays. A FIFO is not opened. PSD_EIO naming path and cause. */
int psd_durable_probe_file(const char *path, bool to_append, psd_err_t *err);

/* Write at `offset`. PSD_EIO: abandon it then. */
int psd_durable_write(psd_durable_t *self, const void *bytes, size_t n_bytes, uint64_t offset, psd_err_t *err);

/* Flush it, give it its name, flush the directory. Frees it and sets it to NULL in any case. PSD_EIO: there
 * is no such file, or what was there before; only when the directory itself could not be flushed is the new
 * file whole under its name already, but may not be after a power cut. */
int psd_durable_end(psd_durable_t **self_p, psd_err_t *err);

/* Give up: nothing is left. Sets it to NULL; NULL is fine. */
void psd_durable_abandon(psd_durable_t **self_p);

/* Whether a file's name is that of a temporary file made here for the file `name`; of any, when that is NULL. */
bool psd_durable_is_temporary(const char *file, const char *name);
