/* look.h - what a step does to a tensor, measured while the step is made: sums over a block of elements that are in the cache
 * anyway. Measuring changes neither weights nor state. Sums are formed per block in a fixed order, and chunks are added in the
 * order of the model, so the bits are the same for any number of servers. */
#pragma once

#include <stddef.h>

/* The terms, doubles that are added up over the elements of a tensor. */
enum {
    PSD_LOOK_N,         /* elements that had a gradient */
    PSD_LOOK_GRADIENT2, /* squares of the gradients that the rule got: the mean, clipped */
    PSD_LOOK_ZEROS,     /* gradients that are 0 */
    PSD_LOOK_REACHED,   /* gradients that reach `bound` */
    PSD_LOOK_WEIGHT2,   /* squares of the weights before the step */
    PSD_LOOK_UPDATE2,   /* squares of what the step added to them, Lookahead's pull included */
    PSD_LOOK_RATE,      /* not added up: the learning rate of the step, which is the same in the whole tensor */
    PSD_LOOK_TERMS
};

/* The square of a gradient this large overflows a float: the second moments of many rules become Inf for good, and the weight no
 * longer moves. */
#define PSD_LOOK_OVERFLOWS 0x1p64f

/* Add the terms of n elements to `look`: their gradient, and the weights before and after the step. A call takes a block of at most
 * PSD_PASS_BLOCK elements (common/optim/passes.h); the division into blocks is always the same. */
void psd_look_add(double look[PSD_LOOK_TERMS], const float *g, const float *before, const float *after, size_t n, float bound);

/* Add the terms of one chunk to those of its tensor. */
void psd_look_join(double look[PSD_LOOK_TERMS], const double chunk[PSD_LOOK_TERMS]);
