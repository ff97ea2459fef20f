#include "common/base/copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { LARGE = 8 << 20, LINE = 64 };

bool psd_copy_is_large(size_t n_bytes) { return n_bytes > LARGE; }

/* Copy whole lines; `to` is aligned to one. Returns the bytes copied. */
static size_t stream(unsigned char *to, const unsigned char *from, size_t n_bytes)
{
    size_t at = 0;
#if defined(__SSE2__)
    for (; n_bytes - at >= LINE; at += LINE)
        for (size_t i = at; i < at + LINE; i += sizeof(__m128i))
            _mm_stream_si128((__m128i *)(void *)(to + i), _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
    _mm_sfence();
#endif
    return at;
}

void psd_copy_large(void *to, const void *from, size_t n_bytes, bool large)
{
    const size_t head = large ? (0 - (uintptr_t)to) % LINE : n_bytes, first = head < n_bytes ? head : n_bytes;
    memcpy(to, from, first);
    if (first == n_bytes)
        return;
    unsigned char *rest = (unsigned char *)to + first;
    const size_t done = stream(rest, (const unsigned char *)from + first, n_bytes - first);
    memcpy(rest + done, (const unsigned char *)from + first + done, n_bytes - first - done);
}
