/* int8.c - whole numbers from -127 to 127, and a scale per block:
 *   scale = max |y| / 127
 *   q = y / scale, rounded to nearest, ties to even, and bounded to +-127
 *   decoded: scale * q
 * in float. The scales of all blocks (4 bytes each) come first, then the n numbers (1 byte each). 127 * scale is finite: if
 * rounding would make it Inf, the scale is the next lower float. The bound matters when the scale has lost digits, below 1e-36;
 * when it is 0, so are all q. */
#include "common/codec/kernels/code.h"

enum { MOST = 127 };

static size_t n_bytes(size_t n, double argument)
{
    (void)argument;
    return psd_blocks(n) * sizeof(float) + n;
}

static inline float scale_of(const float *y, size_t n)
{
    uint32_t most = 0;
    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        const uint32_t size = psd_f32_magnitude(y[i]);
        most = (int32_t)size > (int32_t)most ? size : most;
    }
    const float scale = psd_f32_of(most) / (float)MOST;
    const bool overflows = psd_f32_magnitude(scale * (float)MOST) >= (uint32_t)PSD_F32_INF;
    return overflows ? psd_f32_of(psd_f32_bits(scale) - 1) : scale;
}

/* Adding 1.5 * 2^23 leaves no room for a fraction, so the addition itself rounds to the nearest whole number, ties to even, which
 * is then in the lowest bits. */
static const float rounder = 12582912.0f;

static void encode(const float *restrict y, size_t n, size_t from, size_t count, double argument, uint8_t *restrict bytes)
{
    (void)argument;
    uint8_t *scales = bytes + from / PSD_CODEC_BLOCK * sizeof(float);
    int8_t *numbers = (int8_t *)bytes + psd_blocks(n) * sizeof(float) + from;
    for (size_t at = 0; at < count; at += PSD_CODEC_BLOCK, scales += sizeof(float)) {
        const size_t m = psd_block_elements(count, at);
        const float scale = scale_of(y + at, m);
        psd_f32_store(scales, scale);
        if (scale == 0) {
            memset(numbers + at, 0, m);
            continue;
        }
        int32_t number[PSD_CODEC_BLOCK];
        PSD_VECTOR
        for (size_t i = 0; i < m; i++)
            number[i] = (int32_t)(psd_f32_bits(y[at + i] / scale + rounder) - psd_f32_bits(rounder));
        PSD_VECTOR
        for (size_t i = 0; i < m; i++) {
            const int32_t above = number[i] < -MOST ? -MOST : number[i];
            numbers[at + i] = (int8_t)(above > MOST ? MOST : above);
        }
    }
}

static int check(const uint8_t *bytes, size_t n, double argument, psd_err_t *err)
{
    (void)argument;
    const int8_t *numbers = (const int8_t *)bytes + psd_blocks(n) * sizeof(float);
    for (size_t b = 0; b < psd_blocks(n); b++) {
        const float scale = psd_f32_load(bytes + b * sizeof scale);
        if (psd_f32_bits(scale) & (uint32_t)PSD_F32_SIGN || psd_f32_magnitude(scale * (float)MOST) >= (uint32_t)PSD_F32_INF)
            return psd_err_set(err, PSD_EPROTO, "int8: the scale of block %zu is %g", b, (double)scale);
        const size_t from = b * PSD_CODEC_BLOCK, m = psd_block_elements(n, from);
        uint8_t outside = 0, used = 0;
        PSD_VECTOR
        for (size_t i = 0; i < m; i++) {
            outside |= numbers[from + i] == INT8_MIN;
            used |= (uint8_t)numbers[from + i];
        }
        if (outside)
            return psd_err_set(err, PSD_EPROTO, "int8: block %zu has a number of -128; the least is -127", b);
        if (used && scale == 0)
            return psd_err_set(err, PSD_EPROTO, "int8: block %zu has numbers but a scale of 0", b);
    }
    return PSD_OK;
}

static void decode(const uint8_t *restrict bytes, size_t n, size_t from, size_t count, double argument, float *restrict out)
{
    (void)argument;
    const uint8_t *scales = bytes + from / PSD_CODEC_BLOCK * sizeof(float);
    const int8_t *numbers = (const int8_t *)bytes + psd_blocks(n) * sizeof(float) + from;
    for (size_t at = 0; at < count; at += PSD_CODEC_BLOCK, scales += sizeof(float))
        psd_dequantize(out + at, numbers + at, psd_f32_load(scales), psd_block_elements(count, at));
}

const psd_codec_t PSD_CODEC(int8) = {
    .name = "int8",
    .summary = "whole numbers up to 127 and a scale per 256 values, 8.13 bits a value",
    .number = 3,
    .n_bytes = n_bytes,
    .encode = encode,
    .check = check,
    .decode = decode,
};
