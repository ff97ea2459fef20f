/* floats.h - the arrays that a program gets from the library: memory that servers on its machine may read, so that data in it
 * travel without being copied. If the system gives no such memory, they lie in the heap, and only the speed differs. One thread at
 * a time. */
#pragma once

#include <stddef.h>

#include "common/memory/arena.h"

typedef struct psd_floats psd_floats_t;

/* NULL when memory runs out. */
psd_floats_t *psd_floats_new(void);

/* Frees all arrays. Sets `*self_p` to NULL; NULL is fine. */
void psd_floats_destroy(psd_floats_t **self_p);

/* The memory in which they lie; valid as long as this. For the links through which servers read it. */
psd_arena_t *psd_floats_arena(const psd_floats_t *self);

/* `n` floats, all 0, aligned to 64 bytes; for an `n` of 0 one float. NULL when memory runs out. */
float *psd_floats_take(psd_floats_t *self, size_t n);

/* Give one of these back. */
void psd_floats_give_back(psd_floats_t *self, const float *array);

/* The number of floats that an array has room for, at least 1; 0: not one of these arrays. */
size_t psd_floats_size(const psd_floats_t *self, const float *array);
