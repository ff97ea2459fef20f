#include "proto/measured.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/aggregate.h"

/* Number of floats of one sum. */
enum { BLOCK = 4096 };

typedef struct measured {
    psd_buf_t buf;
    psd_buf_t *bytes;
    double squares;
} measured_t;

static void release(psd_buf_t *buf)
{
    measured_t *self = (measured_t *)buf;
    psd_buf_unref(&self->bytes);
    free(self);
}

static size_t block_of(size_t left) { return left < BLOCK ? left : BLOCK; }

double psd_measured_copy(void *to, const psd_buf_t *from, bool large)
{
    const float *x = from->data;
    float *out = to;
    double sum = 0;
    for (size_t left = from->n_bytes / sizeof *x, n; left; left -= n, x += n, out += n) {
        n = block_of(left);
        sum += psd_sum_of_squares_copied(out, x, large, n);
    }
    memcpy(out, x, from->n_bytes % sizeof *x);
    return sum;
}

psd_buf_t *psd_measured_new(psd_buf_t **bytes, double squares)
{
    measured_t *self = malloc(sizeof *self);
    assert(self && "no memory for a gradient's measure");
    self->bytes = *bytes;
    self->squares = squares;
    psd_buf_init(&self->buf, self->bytes->data, self->bytes->n_bytes, release);
    *bytes = NULL;
    return &self->buf;
}

bool psd_measured_is(const psd_buf_t *self, size_t n) { return self->release == release && self->n_bytes == n * sizeof(float); }

double psd_measured_squares(const psd_buf_t *self, size_t n)
{
    const float *x = self->data;
    double sum = 0;
    if (psd_measured_is(self, n))
        return ((const measured_t *)self)->squares;
    for (size_t count; n; n -= count, x += count) {
        count = block_of(n);
        sum += psd_sum_of_squares(x, count);
    }
    return sum;
}
