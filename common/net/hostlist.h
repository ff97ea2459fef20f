/* hostlist.h - expands machine names as Slurm writes them, "gpu[01-03,7],login": finds one of them by its number. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"

/* Host number `index`, from 0, of `list`; "gpu[01-03,7]" is gpu01, gpu02, gpu03, gpu7, in this order; with several brackets in one
 * name, the last one varies fastest. PSD_EINVAL, with a sentence, when the list is malformed or has fewer hosts. */
int psd_hostlist_at(const char *list, size_t index, char *out, size_t capacity, psd_err_t *err);
