#include "server/checkpoint/seal.h"

#include "common/base/crc32c.h"

void psd_seal_put(char *at, int n_digits, uint64_t value)
{
    for (int i = n_digits; i-- > 0; value >>= 4)
        at[i] = "0123456789abcdef"[value & 15];
}

bool psd_seal_get(const char *at, int n_digits, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < n_digits; i++) {
        const char c = at[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *value = *value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

static uint32_t crc_without(const char *bytes, size_t n_bytes, const char *at)
{
    const size_t before = (size_t)(at - bytes);
    uint32_t crc = psd_crc32c(bytes, before);
    crc = psd_crc32c_extend(crc, "00000000", PSD_SEAL_DIGITS);
    return psd_crc32c_extend(crc, at + PSD_SEAL_DIGITS, n_bytes - before - PSD_SEAL_DIGITS);
}

void psd_seal(char *bytes, size_t n_bytes, char *at) { psd_seal_put(at, PSD_SEAL_DIGITS, crc_without(bytes, n_bytes, at)); }

bool psd_seal_ok(const char *bytes, size_t n_bytes, const char *at, uint32_t *crc)
{
    uint64_t said;
    *crc = crc_without(bytes, n_bytes, at);
    return psd_seal_get(at, PSD_SEAL_DIGITS, &said) && said == *crc;
}
