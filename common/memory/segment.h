/* segment.h - memory of one process that others of this machine read through a descriptor: an anonymous file (memfd) in no file
 * system, gone with the last process that has it, however that ends. /dev/shm and its size play no part.
 *
 * Its size is sealed, so that no access to it can fail later (SIGBUS), and peers may map it to read and not to write. Its owner
 * writes to it as long as it likes: what a peer has mapped may change at any time. */
#pragma once

#include <stddef.h>

#include "common/base/err.h"

typedef struct psd_segment {
    unsigned char *at; /* NULL: none */
    size_t n_bytes;    /* whole pages */
    int fd;            /* what peers are given; -1: none */
} psd_segment_t;

#define PSD_NO_SEGMENT ((psd_segment_t){ .fd = -1 })

/* Memory of at least `n_bytes`, all zero; pages cost nothing until they are touched. In huge pages where the system gives these
 * to shared memory for the asking. PSD_ESYSTEM, and `*self` is PSD_NO_SEGMENT. */
int psd_segment_make(psd_segment_t *self, size_t n_bytes, psd_err_t *err);

/* Map what a peer has handed over, to read; takes `fd` and closes it, whatever comes. PSD_EPROTO when it is not memory, when its
 * size is not sealed, or above `most_bytes`; PSD_ESYSTEM when it cannot be mapped. `*self` is PSD_NO_SEGMENT then. */
int psd_segment_map(psd_segment_t *self, int fd, size_t most_bytes, psd_err_t *err);

/* Unmap and close; PSD_NO_SEGMENT is fine, and is what it becomes. */
void psd_segment_close(psd_segment_t *self);
