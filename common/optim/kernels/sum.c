/* sum.c - a weighted sum of gradients, in double, rounded once to float (common/optim/aggregate.c), and its bounds
 * (common/optim/clip.c). */
#include "common/optim/kernels/around.h"

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

void PSD_PER_ISA(psd_sum_accumulate)(double *restrict acc, const float *restrict g, double weight, bool first, size_t n)
{
    if (first)
        PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        acc[i] = weight * (double)g[i];
    else PSD_VECTOR for (size_t i = 0; i < n; i++) acc[i] += weight * (double)g[i];
}

void PSD_PER_ISA(psd_sum_finish)(float *restrict out, const double *restrict acc, const float *restrict g, double weight,
                                 bool first, size_t n)
{
    if (first)
        PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(weight * (double)g[i]);
    else PSD_VECTOR for (size_t i = 0; i < n; i++) out[i] = (float)(acc[i] + weight * (double)g[i]);
}

void PSD_PER_ISA(psd_sum_pair)(float *restrict out, const float *restrict g, double of_g, const float *restrict h, double of_h,
                               size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(of_g * (double)g[i] + of_h * (double)h[i]);
}

void PSD_PER_ISA(psd_sum_clamp)(float *restrict x, float c, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        const float low = x[i] < -c ? -c : x[i];
        x[i] = low > c ? c : low;
    }
}

void PSD_PER_ISA(psd_sum_scale)(float *out, const float *x, float factor, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        out[i] = factor * x[i];
}

/* Sixteen running sums: the order of additions does not depend on the width of a register, and there are enough of them
 * to keep the adders busy. */
void PSD_PER_ISA(psd_sum_squares)(double *restrict sum, const float *restrict x, size_t n)
{
    double s[16];
    for (size_t j = 0; j < 16; j++)
        s[j] = sum[j];
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            s[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++)
        s[i % 16] += (double)x[i] * (double)x[i];
    for (size_t j = 0; j < 16; j++)
        sum[j] = s[j];
}

/* Write a line of the cache. With `streams` it leaves past the caches, so that the processor need not read what it overwrites; `to`
 * is then aligned to 16 bytes. */
PSD_LOOP put_line(float *to, const float line[16], bool streams)
{
#ifdef __SSE2__
    for (size_t j = 0; j < 16 && streams; j += 4)
        _mm_stream_ps(to + j, _mm_load_ps(line + j));
    if (streams)
        return;
#else
    (void)streams;
#endif
    memcpy(to, line, 16 * sizeof *line);
}

/* A line is read once, into memory of its own: what is summed is what is copied, even while others write. */
PSD_LOOP copy_lines(double *restrict s, float *restrict to, const float *restrict x, bool streams, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        _Alignas(64) float line[16];
        memcpy(line, x + i, sizeof line);
        __asm__("" : "+m"(line));
        for (size_t j = 0; j < 16; j++)
            s[j] += (double)line[j] * (double)line[j];
        put_line(to + i, line, streams);
    }
}

void PSD_PER_ISA(psd_sum_copied)(double *restrict sum, float *restrict to, const float *restrict x, bool streams, size_t n)
{
    const size_t whole = n / 16 * 16;
    double s[16];
    for (size_t j = 0; j < 16; j++)
        s[j] = sum[j];
    if (streams)
        copy_lines(s, to, x, true, whole);
    else
        copy_lines(s, to, x, false, whole);
    for (size_t j = 0; j < n - whole; j++) {
        const volatile float *once = x + whole + j;
        to[whole + j] = *once;
        s[j] += (double)to[whole + j] * (double)to[whole + j];
    }
    for (size_t j = 0; j < 16; j++)
        sum[j] = s[j];
#ifdef __SSE2__
    if (streams)
        _mm_sfence();
#endif
}

/* The same for two terms of a sum, which is all that leaves. */
PSD_LOOP take_lines(double *restrict s, double *restrict t, float *restrict out, const float *restrict g, double of_g,
                    const float *restrict h, double of_h, bool streams, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        _Alignas(64) float a[16], b[16], line[16];
        memcpy(a, g + i, sizeof a);
        memcpy(b, h + i, sizeof b);
        __asm__("" : "+m"(a), "+m"(b));
        for (size_t j = 0; j < 16; j++) {
            s[j] += (double)a[j] * (double)a[j];
            t[j] += (double)b[j] * (double)b[j];
            line[j] = (float)(of_g * (double)a[j] + of_h * (double)b[j]);
        }
        put_line(out + i, line, streams);
    }
}

void PSD_PER_ISA(psd_sum_taken)(double of_squares[2][16], float *restrict out, const float *restrict g, double of_g,
                                const float *restrict h, double of_h, bool streams, size_t n)
{
    const size_t whole = n / 16 * 16;
    double s[2][16];
    memcpy(s, of_squares, sizeof s);
    if (streams)
        take_lines(s[0], s[1], out, g, of_g, h, of_h, true, whole);
    else
        take_lines(s[0], s[1], out, g, of_g, h, of_h, false, whole);
    for (size_t j = 0; j < n - whole; j++) {
        const volatile float *once = g + whole + j, *too = h + whole + j;
        const double a = (double)*once, b = (double)*too;
        s[0][j] += a * a;
        s[1][j] += b * b;
        out[whole + j] = (float)(of_g * a + of_h * b);
    }
    memcpy(of_squares, s, sizeof s);
#ifdef __SSE2__
    if (streams)
        _mm_sfence();
#endif
}

void PSD_PER_ISA(psd_sum_distance)(double *restrict sum, const float *restrict x, const float *restrict y, size_t n)
{
    double s[16];
    for (size_t j = 0; j < 16; j++)
        s[j] = sum[j];
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 16; j++)
            s[j] += ((double)x[i + j] - (double)y[i + j]) * ((double)x[i + j] - (double)y[i + j]);
    for (; i < n; i++)
        s[i % 16] += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    for (size_t j = 0; j < 16; j++)
        sum[j] = s[j];
}

/* Counters are as wide as the elements, so that they fill registers alike. */
size_t PSD_PER_ISA(psd_sum_zeros)(const float *restrict x, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += x[i] == 0.0f;
    return count;
}

size_t PSD_PER_ISA(psd_sum_reach)(const float *restrict x, float bound, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += fabsf(x[i]) >= bound;
    return count;
}
