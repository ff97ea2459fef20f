/* isa.h - the instruction set that the kernels run with. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"

/* Kernels are compiled once per instruction set and chosen at first use by what the processor has; all give the
 * same bits. The i-th name ("sse2", "avx2", "avx512"; "generic" where there is no x86), NULL past the last that this
 * processor can run. */
const char *psd_isa_at(size_t i);

/* Use the named one from now on (tests and benchmarks); PSD_EINVAL when unknown or not runnable here.
 * Not to be called while another thread steps. */
int psd_isa_select(const char *name, psd_err_t *err);

/* The one in use. */
const char *psd_isa_name(void);
