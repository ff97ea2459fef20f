#include "proto/measured.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Number of floats of one sum. */
enum { BLOCK = 4096 };

typedef struct measured {
    psd_buf_t buf;
    psd_buf_t *bytes;
    double squares;
    uint64_t mean; /* the number of the one that it holds; 0: it is one gradient */
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
    self->mean = 0;
    psd_buf_init(&self->buf, self->bytes->data, self->bytes->n_bytes, release);
    *bytes = NULL;
    return &self->buf;
}

void psd_measured_join(void *to, psd_buf_t *const *from, const double *weight, uint32_t n, bool large, double *squares)
{
    const float *x[PSD_AGGREGATE_TAKEN];
    float *out = to;
    assert(n >= 2 && n <= PSD_AGGREGATE_TAKEN);
    for (uint32_t k = 0; k < n; k++) {
        x[k] = from[k]->data;
        squares[k] = 0;
    }
    for (size_t left = from[0]->n_bytes / sizeof *out, count; left; left -= count, out += count) {
        double of_block[PSD_AGGREGATE_TAKEN];
        count = block_of(left);
        psd_aggregate_taken(out, x, weight, of_block, n, large, count);
        for (uint32_t k = 0; k < n; k++) {
            squares[k] += of_block[k];
            x[k] += count;
        }
    }
}

psd_buf_t *psd_measured_new_joint(psd_buf_t *mean, double squares, uint64_t number)
{
    psd_buf_t *bytes = psd_buf_ref(mean), *joint = psd_measured_new(&bytes, squares);
    ((measured_t *)joint)->mean = number;
    return joint;
}

uint64_t psd_measured_mean(const psd_buf_t *self)
{
    return self && self->release == release ? ((const measured_t *)self)->mean : 0;
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
