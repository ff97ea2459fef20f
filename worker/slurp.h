/* slurp.h - a file of data, whole, in memory; unzipped when it is gzipped. */
#pragma once

#include "common/base/err.h"
#include "worker/reader.h"

/* Read all of `path`, which the bytes' name is then, borrowed; release them with psd_slurp_free. PSD_ENOINPUT, PSD_EIO,
 * PSD_ENOMEM; PSD_EDATA for gzip data that is damaged, and for a file that no reader reads, such as an archive or a web page. */
int psd_slurp(psd_bytes_t *out, const char *path, psd_err_t *err);

/* All zero is fine. */
void psd_slurp_free(psd_bytes_t *bytes);
