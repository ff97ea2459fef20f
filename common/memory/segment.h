/* segment.h - memory of one process that others of this machine read through a descriptor: an anonymous file (memfd), outside any
 * file system, which disappears with the last process that has it, however that process ends. It does not use /dev/shm.
 *
 * Its size is sealed, so that no access to it can fail later (SIGBUS), and peers may map it only for reading. Its owner may write
 * to it at any time, so a mapped segment may change under its reader. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"

typedef struct psd_segment {
    unsigned char *at; /* NULL: none */
    size_t n_bytes;    /* whole pages */
    int fd;            /* the descriptor that peers get; -1: none */
} psd_segment_t;

#define PSD_NO_SEGMENT ((psd_segment_t){ .fd = -1 })

/* Memory of at least `n_bytes`, all zero; pages cost nothing until they are touched. In huge pages if the system offers them for
 * shared memory. PSD_ESYSTEM, and `*self` is PSD_NO_SEGMENT. */
int psd_segment_make(psd_segment_t *self, size_t n_bytes, psd_err_t *err);

/* The same that no peer can get: without a descriptor, and in huge pages wherever the system has them. */
int psd_segment_make_private(psd_segment_t *self, size_t n_bytes, psd_err_t *err);

/* Map a segment that a peer has handed over, read-only; takes `fd` and closes it, even on failure. PSD_EPROTO when it is not
 * memory, when its size is not sealed, or above `most_bytes`; PSD_ESYSTEM when it cannot be mapped. `*self` is PSD_NO_SEGMENT
 * then. */
int psd_segment_map(psd_segment_t *self, int fd, size_t most_bytes, psd_err_t *err);

/* Unmap and close, and set `*self` to PSD_NO_SEGMENT, which is also fine as an argument. */
void psd_segment_close(psd_segment_t *self);
