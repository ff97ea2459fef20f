/* arena.h - the memory of this process that peers of the same machine and user may read (common/memory/segment.h): buffers in it
 * travel without being copied.
 *
 * Every admitted peer can read all of it, so it must not contain secrets. The arena reuses freed memory for later buffers; the
 * system gets it back when the arena and its last buffer are gone, or when the process ends. All functions are thread-safe. A child
 * of fork() shares the memory with its parent, and must not write to it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/memory/segment.h"

enum { PSD_ARENA_SEGMENTS = 256 };

typedef struct psd_arena psd_arena_t;

/* An arena whose buffers take at most `most_bytes` together. It allocates memory on demand, in segments of 64 MiB, and in larger
 * ones as it grows. NULL, with `err` set, when memory runs out. */
psd_arena_t *psd_arena_new(size_t most_bytes, psd_err_t *err);

/* The same that no peer can read: large buffers that come and go lie in huge pages. */
psd_arena_t *psd_arena_new_private(size_t most_bytes, psd_err_t *err);

/* The owner is done; the memory lives until the last buffer is gone. Sets `*self_p` to NULL; NULL is fine. */
void psd_arena_destroy(psd_arena_t **self_p);

/* `n_bytes` uninitialised bytes, aligned to 64, returned to the arena with the last reference. NULL when there is no room: the
 * caller may then use psd_buf_new, whose bytes are copied when they are sent. */
psd_buf_t *psd_arena_new_buf(psd_arena_t *self, size_t n_bytes);

/* Whether these bytes, possibly a part of a buffer, lie in it; if so, in which segment, and where. */
bool psd_arena_find(psd_arena_t *self, const void *data, size_t n_bytes, uint32_t *segment, uint64_t *offset);

/* The segment of this number, from 0; NULL when there is no such segment yet. A segment stays valid as long as the arena. */
const psd_segment_t *psd_arena_segment(psd_arena_t *self, uint32_t segment);

/* Bytes of buffers in use, in whole blocks of 512. */
size_t psd_arena_used(psd_arena_t *self);
