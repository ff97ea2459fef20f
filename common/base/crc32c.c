#include "common/base/crc32c.h"

#include <isa-l/crc.h>

uint32_t psd_crc32c_extend(uint32_t crc, const void *data, size_t n_bytes)
{
    /* ISA-L leaves both inversions of the standard to its caller, and takes lengths as int. */
    const size_t most = 1 << 30;
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t n; n_bytes; p += n, n_bytes -= n) {
        n = n_bytes < most ? n_bytes : most;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)n, crc);
    }
    return ~crc;
}

uint32_t psd_crc32c(const void *data, size_t n_bytes) { return psd_crc32c_extend(0, data, n_bytes); }
