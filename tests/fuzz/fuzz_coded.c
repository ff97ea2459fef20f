/* fuzz_coded.c - any bytes as a part of the model in a codec: refused with a sentence, or a part whose chunks can each be decoded
 * and measured, with the same result as the chunk by itself. The first byte chooses the codec, the second whether a bitmap is
 * expected, the next four the sizes of the tensors. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/actions.h"
#include "proto/coded.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TENSORS = 4, HEAD = 2 + TENSORS };

/* Read all of an accepted part, as servers and workers do. */
static void look_at(const psd_coding_t *coding, const psd_partition_t *map, const psd_buf_t *payload)
{
    const size_t n_codes = psd_coded_bytes(coding, map, 0, 0);
    const uint8_t *code = payload->data;
    double sum = 0;
    uint32_t bad, first_bad = 0;
    for (uint32_t i = 0; i < map->part[0][0].n_chunks; i++) {
        const size_t n = psd_partition_at(map, 0, 0, i)->n;
        float *out = malloc(n * sizeof *out);
        assert(out);
        if (psd_coded_has(payload, n_codes, i)) {
            assert(psd_coding_check(coding, code, psd_coding_bytes(coding, n), n, NULL) == PSD_OK);
            psd_coding_decode(coding, code, n, 0, n, out);
            for (size_t k = 0; k < n; k++)
                assert(coding->codec->keeps_nonfinite || isfinite(out[k]));
            sum += psd_coding_sum_of_squares(coding, code, n);
        }
        if (!isfinite(sum) && !first_bad)
            first_bad = i + 1;
        code += psd_coding_bytes(coding, n);
        free(out);
    }
    const double squares = psd_coded_squares(coding, map, 0, 0, payload, &bad);
    assert(bad == first_bad && (memcmp(&squares, &sum, sizeof sum) == 0 || (isnan(squares) && isnan(sum))));
}

static void try(const psd_coding_t *coding, const psd_partition_t *map, const uint8_t *bytes, size_t n_bytes, bool has_bitmap)
{
    psd_buf_t *payload = psd_buf_new(n_bytes);
    psd_err_t err = { .text = "" };
    assert(payload);
    if (n_bytes)
        memcpy(payload->data, bytes, n_bytes);
    if (psd_coded_check(coding, map, 0, 0, payload, has_bitmap, &err) == PSD_OK)
        look_at(coding, map, payload);
    else
        assert(err.code == PSD_EPROTO && *err.text);
    psd_buf_unref(&payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        uint32_t number;
        double argument;
    } codings[] = { { 1, 0 }, { 2, 0 }, { 3, 0 }, { 4, 0.01 }, { 4, 0.3 }, { 4, 1 }, { 5, 0 } };
    uint64_t elements[TENSORS];
    psd_coding_t coding;
    psd_partition_t map;
    if (size < HEAD)
        return 0;
    const size_t which = data[0] % (sizeof codings / sizeof *codings);
    const bool has_bitmap = data[1] & 1;
    for (size_t t = 0; t < TENSORS; t++)
        elements[t] = 1 + 3 * (uint64_t)data[2 + t];
    assert(psd_coding_of(&coding, codings[which].number, codings[which].argument, NULL) == PSD_OK);
    assert(psd_partition_make(&map, elements, TENSORS, 1, PSD_MOST_OF_PART, NULL) == PSD_OK);
    try(&coding, &map, data + HEAD, size - HEAD, has_bitmap);

    /* Otherwise hardly any length would ever be right. */
    const size_t n_bytes = psd_coded_bytes(&coding, &map, 0, 0) + (has_bitmap ? psd_bitmap_bytes(TENSORS) : 0);
    uint8_t *fitting = calloc(1, n_bytes);
    assert(fitting);
    memcpy(fitting, data + HEAD, n_bytes < size - HEAD ? n_bytes : size - HEAD);
    try(&coding, &map, fitting, n_bytes, has_bitmap);
    free(fitting);
    psd_partition_clear(&map);
    return 0;
}
