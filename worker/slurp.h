/* slurp.h - a file of data, whole, in memory; unzipped when it is gzipped. */
#pragma once

#include <stdbool.h>

#include "common/base/err.h"
#include "worker/reader.h"

/* Read all of `path`, which the bytes' name is then, borrowed; release them with psd_slurp_free. PSD_ENOINPUT, PSD_EIO,
 * PSD_ENOMEM; PSD_EDATA for gzip data that is damaged, and for a file that its reader does not read, such as an archive or a web
 * page; `own` is what such a file begins with that is read (NULL: none). */
int psd_slurp(psd_bytes_t *out, const char *path, const char *own, psd_err_t *err);

/* Whether there is a file of that path which begins with these bytes. */
bool psd_slurp_begins(const char *path, const char *magic);

/* All zero is fine. */
void psd_slurp_free(psd_bytes_t *bytes);
