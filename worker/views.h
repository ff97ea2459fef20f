/* views.h - arrays of weights that a program only reads. Weights that come in a server's memory (common/memory/channel.h) are not
 * copied into such an array: the pages of the server's memory take the place of the array's own, as far as they lie at whole pages
 * of both.
 *
 * The server steps weights in place unless someone holds their payload, so each payload is held from its arrival until the program
 * no longer needs the weights (psd_views_let_go). When a link ends, everything becomes a copy (psd_views_settle) before the server
 * learns that it has ended.
 *
 * Pages of a server cannot be written; where psd_views_place does not place weights, it makes the pages the array's own again. All
 * functions are thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/base/buffer.h"

typedef struct psd_views psd_views_t;

/* NULL when memory runs out. */
psd_views_t *psd_views_new(void);

/* Frees all arrays. Sets `*self_p` to NULL; NULL is fine. */
void psd_views_destroy(psd_views_t **self_p);

/* `n` floats, all 0, at a page of their own, at least one. NULL when memory runs out. */
float *psd_views_take(psd_views_t *self, size_t n);

/* Give one of these back. */
void psd_views_give_back(psd_views_t *self, const float *array);

/* The number of floats that an array has room for, at least 1; 0: not one of these arrays. */
size_t psd_views_size(psd_views_t *self, const float *array);

/* Whether `to` lies in one of these arrays. */
bool psd_views_has(psd_views_t *self, const float *to);

/* The `n` floats at `from`, which lie in `payload`, become those at `to`. False: they do not, and those at `to` may be written, so
 * copy them. If they do, the payload is held, and nothing is left to copy. */
bool psd_views_place(psd_views_t *self, float *to, psd_buf_t *payload, const float *from, size_t n);

/* Whether any weights lie in a server's memory now. */
bool psd_views_are_placed(psd_views_t *self);

/* The program no longer needs the weights: hold no payload. Their values are undefined until others have been placed. */
void psd_views_let_go(psd_views_t *self);

/* Make everything the arrays' own, with its present values. Aborts when memory runs out. */
void psd_views_settle(psd_views_t *self);
