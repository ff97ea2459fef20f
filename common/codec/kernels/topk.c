/* topk.c - the largest values by magnitude, exact; the others are 0. Of n values k = ceil(p n) are kept, among equal magnitudes
 * those of lower index; if p n is a whole number except for the rounding of p, k is that number.
 *
 * The k values come first (4 bytes each), then the number of values in each block (2 bytes each), then the place of each value in
 * its block (1 byte each). Values are in the order of their indexes. The blocks together may have fewer than k values; the
 * remaining values and places are then 0. */
#include "common/codec/kernels/code.h"

static size_t n_kept(size_t n, double p)
{
    const size_t k = (size_t)ceil(p * (double)n * (1.0 - 1e-12));
    return k < n ? k : n;
}

static size_t n_bytes(size_t n, double p) { return n_kept(n, p) * (sizeof(float) + 1) + psd_blocks(n) * sizeof(uint16_t); }

/* Where the parts of a code are. */
typedef struct layout {
    size_t counts, places; /* offsets of their first bytes; that of the values is 0 */
} layout_t;

static layout_t layout_of(size_t n, double p)
{
    const size_t counts = n_kept(n, p) * sizeof(float);
    return (layout_t){ counts, counts + psd_blocks(n) * sizeof(uint16_t) };
}

static uint32_t load_count(const uint8_t *counts, size_t block)
{
    uint16_t count;
    memcpy(&count, counts + block * sizeof count, sizeof count);
    return count;
}

/* ---- selection ---- */

/* Magnitudes have 31 bits; a radix select looks at this many at a time, from the highest. */
enum { DIGITS = 3, RADIX = 1 << 11 };
static const struct {
    unsigned shift, width;
} digit[DIGITS] = { { 20, 11 }, { 10, 10 }, { 0, 10 } };

/* Put into `found` the places of the block's values whose magnitude, without its lowest `shift` bits, is `wanted`, or at least that
 * with `or_more`; returns how many. The comparison has no branch, and words without any such value are skipped. */
static inline __attribute__((always_inline)) size_t find(const float *restrict block, size_t m, unsigned shift, uint32_t wanted,
                                                         bool or_more, uint8_t *restrict found)
{
    uint8_t is_found[PSD_CODEC_BLOCK];
    size_t n_found = 0;
    if (m < PSD_CODEC_BLOCK)
        memset(is_found, 0, sizeof is_found);
    PSD_VECTOR
    for (size_t i = 0; i < m; i++) {
        const int32_t size = (int32_t)(psd_f32_magnitude(block[i]) >> shift);
        is_found[i] = or_more ? size >= (int32_t)wanted : size == (int32_t)wanted;
    }
    for (size_t i = 0; i < m; i += sizeof(uint64_t)) {
        uint64_t eight;
        memcpy(&eight, is_found + i, sizeof eight);
        for (; eight; eight &= eight - 1)
            found[n_found++] = (uint8_t)(i + (size_t)__builtin_ctzll(eight) / 8);
    }
    return n_found;
}

/* Count the y[0..n) that have `prefix` above the digit, by the value of the digit. The first digit, where all values count, uses
 * four tables, because increments of one counter in a row are slow. */
static void count_digits(const float *y, size_t n, int level, uint32_t prefix, size_t table[RADIX])
{
    enum { TABLES = 4 };
    uint32_t count[TABLES][RADIX];
    const unsigned shift = digit[level].shift, width = digit[level].width;
    memset(count, 0, sizeof count);
    if (level == 0)
        for (size_t i = 0; i < n; i++)
            count[i % TABLES][psd_f32_magnitude(y[i]) >> shift]++;
    for (size_t from = 0; level && from < n; from += PSD_CODEC_BLOCK) {
        uint8_t found[PSD_CODEC_BLOCK];
        const size_t n_found = find(y + from, psd_block_elements(n, from), shift + width, prefix, false, found);
        for (size_t i = 0; i < n_found; i++)
            count[0][psd_f32_magnitude(y[from + found[i]]) >> shift & ((1u << width) - 1)]++;
    }
    for (size_t d = 0; d < RADIX; d++) {
        table[d] = 0;
        for (size_t t = 0; t < TABLES; t++)
            table[d] += count[t][d];
    }
}

/* The least magnitude kept when `k` of y[0..n) are; *n_ties: the number of kept values with exactly that magnitude. */
static uint32_t least_kept(const float *y, size_t n, size_t k, size_t *n_ties)
{
    uint32_t prefix = 0;
    for (int level = 0; level < DIGITS; level++) {
        size_t table[RADIX];
        count_digits(y, n, level, prefix, table);
        uint32_t d = (1u << digit[level].width) - 1;
        for (; table[d] < k; d--)
            k -= table[d];
        prefix = prefix << digit[level].width | d;
    }
    *n_ties = k;
    return prefix;
}

static void encode(const float *restrict y, size_t n, size_t from, size_t count, double p, uint8_t *restrict bytes)
{
    (void)from, (void)count;
    const layout_t at = layout_of(n, p);
    uint8_t *value = bytes, *counts = bytes + at.counts, *place = bytes + at.places;
    size_t n_ties = 0;
    const size_t k = n_kept(n, p);
    const uint32_t least = k ? least_kept(y, n, k, &n_ties) : 0;
    for (size_t b = 0; b < psd_blocks(n); b++) {
        const float *block = y + b * PSD_CODEC_BLOCK;
        const size_t m = psd_block_elements(n, b * PSD_CODEC_BLOCK);
        const uint8_t *first = place;
        uint8_t found[PSD_CODEC_BLOCK];
        const size_t n_found = find(block, m, 0, least, true, found);
        for (size_t i = 0; i < n_found; i++) {
            const float kept = block[found[i]];
            const bool ties = psd_f32_magnitude(kept) == least;
            if (ties && n_ties == 0)
                continue;
            n_ties -= ties;
            psd_f32_store(value, kept);
            value += sizeof kept;
            *place++ = found[i];
        }
        const uint16_t n_here = (uint16_t)(place - first);
        memcpy(counts + b * sizeof n_here, &n_here, sizeof n_here);
    }
}

/* ---- checks ---- */

static int check(const uint8_t *bytes, size_t n, double p, psd_err_t *err)
{
    const layout_t at = layout_of(n, p);
    const uint8_t *counts = bytes + at.counts, *place = bytes + at.places;
    const size_t k = n_kept(n, p);
    size_t kept = 0;
    for (size_t b = 0; b < psd_blocks(n); b++) {
        const size_t m = psd_block_elements(n, b * PSD_CODEC_BLOCK), count = load_count(counts, b);
        if (count > m || kept + count > k)
            return psd_err_set(err, PSD_EPROTO, "topk: block %zu has %zu values of %zu, with %zu of %zu in those before it", b,
                               count, m, kept, k);
        for (size_t i = 0; i < count; i++)
            if (place[kept + i] >= m || (i && place[kept + i] <= place[kept + i - 1]))
                return psd_err_set(err, PSD_EPROTO, "topk: place %u in block %zu of %zu values is outside, or out of order",
                                   place[kept + i], b, m);
        kept += count;
    }
    for (size_t i = 0; i < k; i++)
        if (psd_f32_magnitude(psd_f32_load(bytes + i * sizeof(float))) >= (uint32_t)PSD_F32_INF)
            return psd_err_set(err, PSD_EPROTO, "topk: value %zu is not finite", i);
    for (size_t i = kept; i < k; i++)
        if (place[i] || psd_f32_bits(psd_f32_load(bytes + i * sizeof(float))))
            return psd_err_set(err, PSD_EPROTO, "topk: the blocks have %zu values together, and there is another", kept);
    return PSD_OK;
}

static void decode(const uint8_t *restrict bytes, size_t n, size_t from, size_t count, double p, float *restrict out)
{
    const layout_t at = layout_of(n, p);
    const uint8_t *counts = bytes + at.counts, *place = bytes + at.places;
    const size_t first = from / PSD_CODEC_BLOCK;
    size_t kept = 0;
    for (size_t b = 0; b < first; b++)
        kept += load_count(counts, b);
    memset(out, 0, count * sizeof *out);
    for (size_t b = 0; b < psd_blocks(count); b++)
        for (size_t i = load_count(counts, first + b); i; i--, kept++) {
            const size_t e = b * PSD_CODEC_BLOCK + place[kept];
            if (e < count)
                out[e] = psd_f32_load(bytes + kept * sizeof(float));
        }
}

const psd_codec_t PSD_CODEC(topk) = {
    .name = "topk",
    .summary = "the largest values, exact: a share p of them, 40 bits each",
    .number = 4,
    .argument = "share of the values",
    .max = 1,
    .needs_whole = true,
    .n_bytes = n_bytes,
    .encode = encode,
    .check = check,
    .decode = decode,
};
