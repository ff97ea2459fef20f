/* floats.h - the arrays that a program has from the library: memory that servers of its machine may read, so that what lies in it
 * travels without being copied. Where there is no such memory, because the system gives none, they lie in the heap, and nobody but the
 * clock sees a difference. One thread at a time. */
#pragma once

#include <stddef.h>

#include "common/memory/arena.h"

typedef struct psd_floats psd_floats_t;

/* NULL when memory runs out. */
psd_floats_t *psd_floats_new(void);

/* Frees all arrays. Sets `*self_p` to NULL; NULL is fine. */
void psd_floats_destroy(psd_floats_t **self_p);

/* Where they lie; valid as long as this. For the links through which servers read it. */
psd_arena_t *psd_floats_arena(const psd_floats_t *self);

/* `n` floats, all 0, aligned to 64 bytes; of 0 one. NULL when memory runs out. */
float *psd_floats_take(psd_floats_t *self, size_t n);

/* Give one of these back. */
void psd_floats_give_back(psd_floats_t *self, const float *array);

/* How many floats an array has room for, at least 1; 0: it is none of these. */
size_t psd_floats_size(const psd_floats_t *self, const float *array);
