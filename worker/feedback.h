/* feedback.h - gradients in a code that loses something, with error feedback: what the code loses of a chunk stays here, as its
 * residual, and goes with the next gradient. A part is encoded once in an exchange, when it is first asked for; asked again, it is
 * the same bytes. Owned by the session; pure. */
#pragma once

#include "common/optim/clip.h"
#include "proto/coded.h"

typedef struct psd_feedback psd_feedback_t;

/* A part of the open exchange, as it is pushed. */
typedef struct psd_feedback_part {
    psd_buf_t *payload; /* borrowed; NULL: no chunk of it has a gradient */
    bool has_bitmap;    /* some have none, and it ends in the bitmap of those that have (proto/coded.h) */
} psd_feedback_part_t;

/* For the parts of `map`, which is borrowed, in a coding that loses something; residuals are 0. NULL, with `err` set, when memory
 * runs out. */
psd_feedback_t *psd_feedback_new(const psd_coding_t *coding, const psd_partition_t *map, psd_err_t *err);

/* Free it, with its residuals, and set `*self_p` to NULL; NULL is fine. Payloads on their way live on. */
void psd_feedback_destroy(psd_feedback_t **self_p);

/* Open an exchange with these gradients, gradient[i] of tensor i (NULL: it has none), borrowed until the exchange is closed. False
 * when an element is Inf or NaN, or is so with its residual: all that is pushed is 0 then, and no residual changes. */
bool psd_feedback_open(psd_feedback_t *self, const float *const *gradient);

/* Part `p` of server `s`. Aborts when memory runs out. */
psd_feedback_part_t psd_feedback_part(psd_feedback_t *self, uint32_t s, uint32_t p);

/* The sum of squares of all that is pushed, bounded by the clip's value, as it comes out of the code: chunk after chunk in the order
 * of the model. Encodes all of it. */
double psd_feedback_squares(psd_feedback_t *self, const psd_clip_t *clip);

/* The exchange is over: forget its bytes. */
void psd_feedback_close(psd_feedback_t *self);
