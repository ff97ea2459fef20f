/* fuzz_codecs.c - any bytes as a coded chunk: refused with a sentence, or floats that are finite if the codec promises it, and the
 * same on every instruction set and in whatever pieces they are decoded. The first byte chooses the codec, the next two the number
 * of values; that many floats of the rest are also encoded, and must come back through error feedback. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/codec/codec.h"
#include "common/optim/isa.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of exactly that size, so that a read or write past the end is detected. */
static void *room(size_t n)
{
    void *at = calloc(1, n ? n : 1);
    assert(at);
    return at;
}

static void decode(const psd_coding_t *coding, const uint8_t *bytes, size_t n)
{
    float *whole = room(n * sizeof *whole), *pieces = room(n * sizeof *pieces);
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        assert(psd_isa_select(psd_isa_at(isa), NULL) == PSD_OK);
        psd_coding_decode(coding, bytes, n, 0, n, isa ? pieces : whole);
        assert(isa == 0 || memcmp(whole, pieces, n * sizeof *whole) == 0);
    }
    for (size_t from = 0; from < n; from += PSD_CODEC_BLOCK)
        psd_coding_decode(coding, bytes, n, from, n - from < PSD_CODEC_BLOCK ? n - from : PSD_CODEC_BLOCK, pieces + from);
    assert(memcmp(whole, pieces, n * sizeof *whole) == 0);
    for (size_t i = 0; i < n; i++)
        assert(coding->codec->keeps_nonfinite || isfinite(whole[i]));
    free(whole);
    free(pieces);
}

static void there_and_back(const psd_coding_t *coding, const float *g, size_t n)
{
    const size_t n_bytes = psd_coding_bytes(coding, n);
    uint8_t *bytes = room(n_bytes), *other = room(n_bytes);
    float *residual = room(n * sizeof *residual), *out = room(n * sizeof *out);
    psd_err_t err;
    const bool is_finite = psd_coding_encode(coding, g, residual, n, bytes);
    assert(psd_coding_check(coding, bytes, n_bytes, n, &err) == PSD_OK);
    decode(coding, bytes, n);
    psd_coding_decode(coding, bytes, n, 0, n, out);
    for (size_t i = 0; i < n; i++) {
        const float y = g[i] + 0.0f;
        const float rest = y - out[i];
        assert(is_finite && !coding->codec->lossless ? residual[i] == rest && isfinite(rest) : residual[i] == 0);
    }
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        assert(psd_isa_select(psd_isa_at(isa), NULL) == PSD_OK);
        memset(residual, 0, n * sizeof *residual);
        assert(psd_coding_encode(coding, g, residual, n, other) == is_finite);
        assert(memcmp(bytes, other, n_bytes) == 0);
    }
    free(bytes), free(other), free(residual), free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        uint32_t number;
        double argument;
    } codings[] = { { 1, 0 }, { 2, 0 }, { 3, 0 }, { 4, 0.01 }, { 4, 0.3 }, { 4, 1 }, { 5, 0 } };
    psd_coding_t coding;
    psd_err_t err = { .text = "" };
    if (size < 3)
        return 0;
    const size_t which = data[0] % (sizeof codings / sizeof *codings), n = (size_t)(data[1] | data[2] << 8) % 2048;
    assert(psd_coding_of(&coding, codings[which].number, codings[which].argument, &err) == PSD_OK);

    uint8_t *bytes = room(size - 3);
    memcpy(bytes, data + 3, size - 3);
    if (psd_coding_check(&coding, bytes, size - 3, n, &err) == PSD_OK)
        decode(&coding, bytes, n);
    else
        assert(err.code == PSD_EPROTO && *err.text);
    /* Otherwise hardly any length would ever be right. */
    const size_t n_bytes = psd_coding_bytes(&coding, n);
    uint8_t *fitting = room(n_bytes);
    memcpy(fitting, data + 3, n_bytes < size - 3 ? n_bytes : size - 3);
    if (psd_coding_check(&coding, fitting, n_bytes, n, &err) == PSD_OK)
        decode(&coding, fitting, n);

    const size_t n_floats = (size - 3) / sizeof(float);
    float *g = room(n_floats * sizeof *g);
    memcpy(g, data + 3, n_floats * sizeof *g);
    there_and_back(&coding, g, n_floats);
    free(bytes), free(fitting), free(g);
    return 0;
}
