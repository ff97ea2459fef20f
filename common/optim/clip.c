#include "common/optim/clip.h"

#include <math.h>
#include <string.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"

void psd_clip_by_value(const psd_clip_t *self, float *g, size_t n)
{
    if (self->value > 0)
        psd_isa_active()->clamp(g, (float)self->value, n);
}

float psd_clip_scale(const psd_clip_t *self, double sum_of_squares)
{
    const double scale = self->norm / (sqrt(sum_of_squares) + 1e-6);
    return self->norm > 0 && scale < 1 ? (float)scale : 1.0f;
}

double psd_clip_sum_of_squares(const psd_clip_t *self, const float *g, size_t n)
{
    enum { BLOCK = 4096 };
    float bounded[BLOCK];
    double sum = 0;
    if (!(self->value > 0))
        return psd_sum_of_squares(g, n);
    for (size_t count; n; n -= count, g += count) {
        count = n < BLOCK ? n : BLOCK;
        sum += psd_sum_of_squares(g, count) * 0; /* Inf and NaN show, which a bound would hide */
        memcpy(bounded, g, count * sizeof *g);
        psd_clip_by_value(self, bounded, count);
        sum += psd_sum_of_squares(bounded, count);
    }
    return sum;
}
