/* codec_hash.h - a fingerprint of every codec: pseudo-random chunks are coded with error feedback, and bytes, values and residuals
 * are hashed. Every compiler, optimisation level and instruction set must give the committed ones
 * (tests/golden/codec_hash.expected). */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec/codec.h"
#include "tests/support/optim_hash.h"

enum { CODEC_HASH_N = 5003, CODEC_HASH_STEPS = 16 };

static const char *const codec_hash_specs[] = { "f32", "bf16", "int8", "topk(0.01)", "topk(0.3)", "topk(1)", "sign" };

static inline uint64_t codec_hash_bytes(uint64_t hash, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return hash;
}

/* Values whose kind changes from block to block: of all magnitudes; of a few magnitudes, with many ties; and so small that they
 * have few digits. */
static inline float codec_hash_draw(uint64_t *stream, size_t i)
{
    switch (i / 256 % 3) {
    case 0:
        return hash_draw(stream);
    case 1:
        return (float)((int)(psd_splitmix64(stream) % 7) - 3) * 0.25f;
    default:
        return hash_draw(stream) * 0x1p-126f;
    }
}

/* The fingerprint of a codec, over chunks of `n` elements. */
static inline uint64_t hash_coding(const psd_coding_t *coding, size_t n)
{
    static float g[CODEC_HASH_N], residual[CODEC_HASH_N], out[CODEC_HASH_N];
    static uint8_t bytes[5 * CODEC_HASH_N + 64];
    uint64_t stream = 44, hash = 0xcbf29ce484222325u;
    psd_err_t err;
    memset(residual, 0, sizeof residual);
    for (int t = 0; t < CODEC_HASH_STEPS; t++) {
        const size_t n_bytes = psd_coding_bytes(coding, n);
        for (size_t i = 0; i < n; i++)
            g[i] = codec_hash_draw(&stream, i);
        if (!psd_coding_encode(coding, g, residual, n, bytes) || psd_coding_check(coding, bytes, n_bytes, n, &err))
            abort();
        psd_coding_decode(coding, bytes, n, 0, n, out);
        hash = codec_hash_bytes(hash, bytes, n_bytes);
        hash = hash_floats(hash_floats(hash, out, n), residual, n);
    }
    return hash;
}

/* The i-th line, "<hash> <codec> <elements>"; false past the end. */
static inline bool codec_hash_line(size_t i, char line[HASH_TEXT])
{
    static const size_t lengths[] = { CODEC_HASH_N, 257, 256, 255, 1 };
    enum { LENGTHS = sizeof lengths / sizeof *lengths, SPECS = sizeof codec_hash_specs / sizeof *codec_hash_specs };
    psd_coding_t coding;
    if (i >= (size_t)LENGTHS * SPECS)
        return false;
    const char *spec = codec_hash_specs[i / LENGTHS];
    if (psd_coding_parse(&coding, spec, NULL))
        abort();
    const size_t n = lengths[i % LENGTHS];
    snprintf(line, HASH_TEXT, "%016llx %s %zu", (unsigned long long)hash_coding(&coding, n), spec, n);
    return true;
}
