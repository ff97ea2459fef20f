/* code.h - helpers shared by the files of this folder. Like the optimizers (common/optim/kernels/kernel.h) each file is compiled
 * once per instruction set, from plain loops, and all give the same bits. */
#pragma once

#include <string.h>

#include "common/codec/codec.h"
#include "common/optim/kernels/kernel.h"

#define PSD_CODEC(name) PSD_PER_ISA(psd_codec_##name)

enum {
    PSD_F32_SIGN = (int)0x80000000,
    PSD_F32_MAGNITUDE = 0x7fffffff, /* all bits but the sign: ordered as the magnitudes are */
    PSD_F32_INF = 0x7f800000        /* the magnitude of Inf; NaN's are above */
};

static inline uint32_t psd_f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float psd_f32_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t psd_f32_magnitude(float x) { return psd_f32_bits(x) & (uint32_t)PSD_F32_MAGNITUDE; }

/* Read and write numbers in bytes that need not be aligned. */
static inline float psd_f32_load(const uint8_t *at)
{
    float x;
    memcpy(&x, at, sizeof x);
    return x;
}

static inline void psd_f32_store(uint8_t *at, float x) { memcpy(at, &x, sizeof x); }

/* Blocks of a chunk of `n` elements, the last of which may be short. */
static inline size_t psd_blocks(size_t n) { return (n + PSD_CODEC_BLOCK - 1) / PSD_CODEC_BLOCK; }

/* Elements of the block that begins `at` elements into a run of `count`. */
static inline size_t psd_block_elements(size_t count, size_t at)
{
    return count - at < PSD_CODEC_BLOCK ? count - at : (size_t)PSD_CODEC_BLOCK;
}

/* out = scale * q, of small whole numbers: one rounding each. */
PSD_LOOP psd_dequantize(float *restrict out, const int8_t *restrict q, float scale, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = scale * (float)q[i];
}
