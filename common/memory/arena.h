/* arena.h - the memory of this process that peers of the same machine and user may read (common/memory/segment.h): buffers in it
 * travel without being copied.
 *
 * Every peer that was admitted can read all of it, so nothing secret goes here. What was freed is kept for the next buffers; the
 * system has it back when the arena and its last buffer are gone, or the process. Any thread may call all of this. A child by
 * fork() shares the memory with its parent, and must not write to it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/memory/segment.h"

enum { PSD_ARENA_SEGMENTS = 256 };

typedef struct psd_arena psd_arena_t;

/* One whose buffers are never more than `most_bytes` together. It takes memory as it is needed: in segments of 64 MiB, and larger
 * ones as it grows. NULL, with `err` set, when memory runs out. */
psd_arena_t *psd_arena_new(size_t most_bytes, psd_err_t *err);

/* The owner is done; the memory lives until the last buffer is gone. Sets `*self_p` to NULL; NULL is fine. */
void psd_arena_destroy(psd_arena_t **self_p);

/* `n_bytes` uninitialised bytes, aligned to 64, that its last reference gives back. NULL when there is no room: whoever can, takes
 * psd_buf_new, and the bytes are copied when they travel. */
psd_buf_t *psd_arena_new_buf(psd_arena_t *self, size_t n_bytes);

/* Whether these bytes lie in it, a part of a buffer too; then in which segment, and where. */
bool psd_arena_find(psd_arena_t *self, const void *data, size_t n_bytes, uint32_t *segment, uint64_t *offset);

/* The segment of this number, from 0; NULL: there are not so many yet. One that is there stays. */
const psd_segment_t *psd_arena_segment(psd_arena_t *self, uint32_t segment);

/* Bytes of buffers that are not given back, in whole blocks of 512. */
size_t psd_arena_used(psd_arena_t *self);
