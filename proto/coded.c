#include "proto/coded.h"

#include <math.h>

#include "proto/actions.h"

size_t psd_coded_bytes(const psd_coding_t *coding, const psd_partition_t *map, uint32_t s, uint32_t p)
{
    size_t n = 0;
    for (uint32_t i = 0; i < map->part[s][p].n_chunks; i++)
        n += psd_coding_bytes(coding, psd_partition_at(map, s, p, i)->n);
    return n;
}

bool psd_coded_has(const psd_buf_t *payload, size_t n_codes, uint32_t i)
{
    return payload->n_bytes == n_codes || psd_bitmap_get((const uint8_t *)payload->data + n_codes, i);
}

int psd_coded_check(const psd_coding_t *coding, const psd_partition_t *map, uint32_t s, uint32_t p, const psd_buf_t *payload,
                    bool has_bitmap, psd_err_t *err)
{
    const uint32_t n_chunks = map->part[s][p].n_chunks;
    const size_t n_codes = psd_coded_bytes(coding, map, s, p), expected = n_codes + (has_bitmap ? psd_bitmap_bytes(n_chunks) : 0);
    const uint8_t *code = payload->data;
    if (payload->n_bytes != expected)
        return psd_err_set(err, PSD_EPROTO, "%zu bytes; expected %zu", payload->n_bytes, expected);
    for (uint32_t i = 0; i < n_chunks; i++) {
        const size_t n = psd_partition_at(map, s, p, i)->n, n_bytes = psd_coding_bytes(coding, n);
        if (psd_coded_has(payload, n_codes, i) && psd_coding_check(coding, code, n_bytes, n, err) != PSD_OK)
            return psd_err_wrap(err, "chunk %u", i);
        code += n_bytes;
    }
    return PSD_OK;
}

double psd_coded_squares(const psd_coding_t *coding, const psd_partition_t *map, uint32_t s, uint32_t p, const psd_buf_t *payload,
                         uint32_t *bad)
{
    const size_t n_codes = psd_coded_bytes(coding, map, s, p);
    const uint8_t *code = payload->data;
    double sum = 0;
    *bad = 0;
    for (uint32_t i = 0; i < map->part[s][p].n_chunks; i++) {
        const size_t n = psd_partition_at(map, s, p, i)->n;
        if (psd_coded_has(payload, n_codes, i))
            sum += psd_coding_sum_of_squares(coding, code, n);
        if (!isfinite(sum) && !*bad)
            *bad = i + 1;
        code += psd_coding_bytes(coding, n);
    }
    return sum;
}
