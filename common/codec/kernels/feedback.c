/* feedback.c - error feedback: the sender keeps what a code loses (common/codec/codec.c). */
#include "common/codec/kernels/feedback.h"

#include "common/codec/kernels/code.h"

/* Adding one to an exponent of all ones carries into the sign. */
static inline uint32_t carry(float y) { return psd_f32_magnitude(y) + 0x00800000u; }

bool PSD_PER_ISA(psd_feedback_is_finite)(const float *restrict g, const float *restrict residual, size_t n)
{
    uint32_t all = 0;
    if (residual)
        PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        all |= carry(g[i] + residual[i]);
    else PSD_VECTOR for (size_t i = 0; i < n; i++) all |= carry(g[i]);
    return !(all & (uint32_t)PSD_F32_SIGN);
}

/* `y` may be `residual`: each element is read before it is written. */
void PSD_PER_ISA(psd_feedback_add)(float *y, const float *g, const float *residual, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        y[i] = g[i] + residual[i];
}

void PSD_PER_ISA(psd_feedback_take)(float *residual, const float *y, const float *q, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        residual[i] = y[i] - q[i];
}
