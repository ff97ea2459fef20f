/* f32.c - the floats as they are: n of 4 bytes. */
#include "common/codec/kernels/code.h"

static size_t n_bytes(size_t n, double argument)
{
    (void)argument;
    return n * sizeof(float);
}

static void encode(const float *y, size_t n, size_t from, size_t count, double argument, uint8_t *bytes)
{
    (void)n, (void)argument;
    memcpy(bytes + from * sizeof *y, y, count * sizeof *y);
}

static void decode(const uint8_t *bytes, size_t n, size_t from, size_t count, double argument, float *out)
{
    (void)n, (void)argument;
    memcpy(out, bytes + from * sizeof *out, count * sizeof *out);
}

const psd_codec_t PSD_CODEC(f32) = {
    .name = "f32",
    .summary = "as they are, 32 bits a value",
    .number = 1,
    .lossless = true,
    .keeps_nonfinite = true,
    .n_bytes = n_bytes,
    .encode = encode,
    .decode = decode,
};
