/* sign.c - the sign of each value, which may be 0, and a scale per block:
 *   scale = sum |y| / (values that are not 0)
 *   decoded: scale * sign(y)
 * The sum is formed in double, in a fixed order, and the quotient rounded once to float. The mean excludes zeros, because they are
 * decoded exactly: so it is the scale with the least square error, and values of -1, 0 and 1 are decoded exactly.
 *
 * The scales of all blocks (4 bytes each) come first; then a bit per value, set if it is not 0; then a bit per value, set if it is
 * negative. The first value has the lowest bit of a byte, and bits past the last value are 0. A scale is 0 exactly when its block
 * is. */
#include "common/base/lanes.h"
#include "common/codec/kernels/code.h"

static size_t plane_bytes(size_t n) { return (n + 7) / 8; }

static size_t n_bytes(size_t n, double argument)
{
    (void)argument;
    return psd_blocks(n) * sizeof(float) + 2 * plane_bytes(n);
}

/* Pack eight bytes of 0 or 1 into the bits of one byte. */
static inline uint8_t gather(const uint8_t *flag)
{
    uint64_t eight;
    memcpy(&eight, flag, sizeof eight);
    return (uint8_t)((eight * 0x0102040810204080u) >> 56);
}

/* The inverse: byte i is bit i. */
static inline void scatter(uint8_t *flag, uint8_t bits)
{
    const uint64_t apart = (bits * 0x0101010101010101u) & 0x8040201008040201u;
    const uint64_t eight = (apart + 0x7f7f7f7f7f7f7f7fu) >> 7 & 0x0101010101010101u;
    memcpy(flag, &eight, sizeof eight);
}

/* The mean of the magnitudes over `n_nonzero` of the block's values. */
static inline float scale_of(const float *y, size_t n, size_t n_nonzero)
{
    psd_lanes_t sum = { 0 };
    size_t i = 0;
    for (; i + PSD_LANES <= n; i += PSD_LANES)
        for (size_t j = 0; j < PSD_LANES; j++)
            sum[j] += (double)psd_f32_of(psd_f32_magnitude(y[i + j]));
    for (; i < n; i++)
        sum[i % PSD_LANES] += (double)psd_f32_of(psd_f32_magnitude(y[i]));
    return n_nonzero ? (float)(psd_lanes_total(sum) / (double)n_nonzero) : 0.0f;
}

static void encode(const float *restrict y, size_t n, size_t from, size_t count, double argument, uint8_t *restrict bytes)
{
    (void)argument;
    uint8_t *scales = bytes + from / PSD_CODEC_BLOCK * sizeof(float);
    uint8_t *nonzero = bytes + psd_blocks(n) * sizeof(float) + from / 8, *negative = nonzero + plane_bytes(n);
    for (size_t at = 0; at < count; at += PSD_CODEC_BLOCK, scales += sizeof(float)) {
        const size_t m = psd_block_elements(count, at);
        uint8_t is_nonzero[PSD_CODEC_BLOCK], is_negative[PSD_CODEC_BLOCK];
        uint32_t n_nonzero = 0;
        if (m < PSD_CODEC_BLOCK) {
            memset(is_nonzero, 0, sizeof is_nonzero);
            memset(is_negative, 0, sizeof is_negative);
        }
        PSD_VECTOR
        for (size_t i = 0; i < m; i++) {
            const float x = y[at + i];
            is_nonzero[i] = x != 0.0f;
            is_negative[i] = x < 0.0f;
        }
        PSD_VECTOR
        for (size_t i = 0; i < m; i++)
            n_nonzero += is_nonzero[i];
        for (size_t i = 0; i < plane_bytes(m); i++) {
            nonzero[at / 8 + i] = gather(is_nonzero + 8 * i);
            negative[at / 8 + i] = gather(is_negative + 8 * i);
        }
        psd_f32_store(scales, scale_of(y + at, m, n_nonzero));
    }
}

static int check(const uint8_t *bytes, size_t n, double argument, psd_err_t *err)
{
    (void)argument;
    const uint8_t *nonzero = bytes + psd_blocks(n) * sizeof(float), *negative = nonzero + plane_bytes(n);
    for (size_t b = 0; b < psd_blocks(n); b++) {
        const float scale = psd_f32_load(bytes + b * sizeof scale);
        const size_t from = b * PSD_CODEC_BLOCK / 8, m = plane_bytes(psd_block_elements(n, b * PSD_CODEC_BLOCK));
        uint8_t any = 0, minus_zero = 0;
        for (size_t i = from; i < from + m; i++) {
            any |= nonzero[i];
            minus_zero |= (uint8_t)(negative[i] & ~nonzero[i]);
        }
        if (psd_f32_bits(scale) >= (uint32_t)PSD_F32_INF)
            return psd_err_set(err, PSD_EPROTO, "sign: the scale of block %zu is %g", b, (double)scale);
        if ((scale != 0) != (any != 0))
            return psd_err_set(err, PSD_EPROTO, "sign: block %zu has %s but a scale of %g", b, any ? "values" : "only zeros",
                               (double)scale);
        if (minus_zero)
            return psd_err_set(err, PSD_EPROTO, "sign: block %zu has a value that is both 0 and negative", b);
    }
    if (n % 8 && nonzero[n / 8] >> n % 8)
        return psd_err_set(err, PSD_EPROTO, "sign: there are bits after the last of %zu values", n);
    return PSD_OK;
}

static void decode(const uint8_t *restrict bytes, size_t n, size_t from, size_t count, double argument, float *restrict out)
{
    (void)argument;
    const uint8_t *scales = bytes + from / PSD_CODEC_BLOCK * sizeof(float);
    const uint8_t *nonzero = bytes + psd_blocks(n) * sizeof(float) + from / 8, *negative = nonzero + plane_bytes(n);
    for (size_t at = 0; at < count; at += PSD_CODEC_BLOCK, scales += sizeof(float)) {
        const size_t m = psd_block_elements(count, at);
        uint8_t is_nonzero[PSD_CODEC_BLOCK], is_negative[PSD_CODEC_BLOCK];
        int8_t sign[PSD_CODEC_BLOCK];
        for (size_t i = 0; i < plane_bytes(m); i++) {
            scatter(is_nonzero + 8 * i, nonzero[at / 8 + i]);
            scatter(is_negative + 8 * i, negative[at / 8 + i]);
        }
        PSD_VECTOR
        for (size_t i = 0; i < m; i++)
            sign[i] = (int8_t)(is_nonzero[i] - 2 * is_negative[i]);
        psd_dequantize(out + at, sign, psd_f32_load(scales), m);
    }
}

const psd_codec_t PSD_CODEC(sign) = {
    .name = "sign",
    .summary = "-1, 0 or 1 and a scale per 256 values, 2.13 bits a value",
    .number = 5,
    .n_bytes = n_bytes,
    .encode = encode,
    .check = check,
    .decode = decode,
};
