/* bf16.c - the upper half of each float, rounded to nearest, ties to even: n of 2 bytes. A finite value stays finite: a value that
 * would round to Inf becomes the greatest finite one, because its residual would be Inf. Inf stays, NaN stays NaN (a quiet one,
 * with its upper bits). */
#include "common/codec/kernels/code.h"

enum { GREATEST = 0x7f7f, QUIET = 0x40 };

static size_t n_bytes(size_t n, double argument)
{
    (void)argument;
    return n * sizeof(uint16_t);
}

static inline uint32_t upper_half(float y)
{
    const uint32_t bits = psd_f32_bits(y), size = bits & (uint32_t)PSD_F32_MAGNITUDE, sign = bits >> 16 & 0x8000;
    const uint32_t rounded = (size + 0x7fff + (size >> 16 & 1)) >> 16;
    const uint32_t finite = rounded > GREATEST ? GREATEST : rounded;
    const uint32_t other = size >> 16 | (size > (uint32_t)PSD_F32_INF ? QUIET : 0);
    return sign | (size < (uint32_t)PSD_F32_INF ? finite : other);
}

static void encode(const float *restrict y, size_t n, size_t from, size_t count, double argument, uint8_t *restrict bytes)
{
    (void)n, (void)argument;
    for (size_t at = 0; at < count; at += PSD_CODEC_BLOCK) {
        const size_t m = psd_block_elements(count, at);
        uint16_t half[PSD_CODEC_BLOCK];
        PSD_VECTOR
        for (size_t i = 0; i < m; i++)
            half[i] = (uint16_t)upper_half(y[at + i]);
        memcpy(bytes + (from + at) * sizeof *half, half, m * sizeof *half);
    }
}

static void decode(const uint8_t *restrict bytes, size_t n, size_t from, size_t count, double argument, float *restrict out)
{
    (void)n, (void)argument;
    for (size_t at = 0; at < count; at += PSD_CODEC_BLOCK) {
        const size_t m = psd_block_elements(count, at);
        uint16_t half[PSD_CODEC_BLOCK];
        memcpy(half, bytes + (from + at) * sizeof *half, m * sizeof *half);
        PSD_VECTOR
        for (size_t i = 0; i < m; i++)
            out[at + i] = psd_f32_of((uint32_t)half[i] << 16);
    }
}

const psd_codec_t PSD_CODEC(bf16) = {
    .name = "bf16",
    .summary = "8 bits of precision, 16 bits a value",
    .number = 2,
    .keeps_nonfinite = true,
    .n_bytes = n_bytes,
    .encode = encode,
    .decode = decode,
};
