#include "worker/murmur3.h"

static uint32_t rotate(uint32_t x, int by) { return x << by | x >> (32 - by); }

static uint32_t scramble(uint32_t k) { return rotate(k * 0xcc9e2d51u, 15) * 0x1b873593u; }

uint32_t psd_murmur3(const void *bytes, size_t n, uint32_t seed)
{
    const unsigned char *at = bytes;
    uint32_t h = seed, k = 0;
    for (size_t i = 0; i < n / 4; i++, at += 4) {
        h ^= scramble((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
        h = rotate(h, 13) * 5 + 0xe6546b64u;
    }
    for (size_t i = n % 4; i > 0; i--)
        k = k << 8 | at[i - 1];
    h ^= scramble(k) ^ (uint32_t)n;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}
