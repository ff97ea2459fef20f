#include "common/base/copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { LARGE = 8 << 20, LINE = 64, PAGE = 4096, AT_ONCE = 4 };

bool psd_copy_is_large(size_t n_bytes) { return n_bytes > LARGE; }

#if defined(__SSE2__)

static void stream_line(unsigned char *to, const unsigned char *from)
{
    for (size_t i = 0; i < LINE; i += sizeof(__m128i))
        _mm_stream_si128((__m128i *)(void *)(to + i), _mm_loadu_si128((const __m128i *)(const void *)(from + i)));
}

/* Copy several pages in parallel, so that several rows of the memory are open. `to` is aligned to a cache line. Returns the bytes
 * copied. */
static size_t stream(unsigned char *to, const unsigned char *from, size_t n_bytes, const unsigned char *next)
{
    size_t at = 0;
    for (; n_bytes - at >= AT_ONCE * PAGE; at += AT_ONCE * PAGE)
        for (size_t i = 0; i < PAGE; i += LINE)
            for (size_t k = 0; k < AT_ONCE; k++) {
                if (next)
                    _mm_prefetch((const char *)next + at + k * PAGE + i, _MM_HINT_T0);
                stream_line(to + at + k * PAGE + i, from + at + k * PAGE + i);
            }
    for (; n_bytes - at >= LINE; at += LINE)
        stream_line(to + at, from + at);
    _mm_sfence();
    return at;
}

#else

static size_t stream(unsigned char *to, const unsigned char *from, size_t n_bytes, const unsigned char *next)
{
    (void)to, (void)from, (void)n_bytes, (void)next;
    return 0;
}

#endif

void psd_copy_and_fetch(void *to, const void *from, size_t n_bytes, const void *next)
{
    const size_t head = (0 - (uintptr_t)to) % LINE, first = head < n_bytes ? head : n_bytes;
    memcpy(to, from, first);
    if (first == n_bytes)
        return;
    unsigned char *rest = (unsigned char *)to + first;
    const size_t done = stream(rest, (const unsigned char *)from + first, n_bytes - first, next);
    memcpy(rest + done, (const unsigned char *)from + first + done, n_bytes - first - done);
}

void psd_copy_large(void *to, const void *from, size_t n_bytes, bool large)
{
    if (large)
        psd_copy_and_fetch(to, from, n_bytes, NULL);
    else
        memcpy(to, from, n_bytes);
}
