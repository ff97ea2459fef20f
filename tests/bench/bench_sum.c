/* bench_sum.c - measures a server's work on a gradient besides the step, on one thread, out of cache: check it as it comes
 * (checksum and sum of squares), add it to sums in double before its round is decided, sum several in one pass after that.
 * docs/scale.md uses these figures. Prints a line each: nanoseconds per element and gradient, and the resulting memory traffic. */
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "common/base/crc32c.h"
#include "common/optim/aggregate.h"

enum { N = 1 << 24, K = 8, TURNS = 7, BLOCK = 4096 };

static float *g[K], *out;
static double *sums;
static volatile double sink;

static void look(void)
{
    uint32_t crc = 0;
    double norm2 = 0;
    for (size_t at = 0; at < N; at += BLOCK) {
        crc = psd_crc32c_extend(crc, g[0] + at, BLOCK * sizeof(float));
        norm2 += psd_sum_of_squares(g[0] + at, BLOCK);
    }
    sink = norm2 + crc;
}

/* Three at a time, as a server does. */
static void fold(void)
{
    for (size_t at = 0; at < N; at += BLOCK)
        for (int k = 0; k < 3; k++)
            psd_aggregate_add(sums + at, g[k] + at, 0.125, false, BLOCK);
}

static void sum(void)
{
    static const double weight[K] = { 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125 };
    const float *from[K];
    for (size_t at = 0; at < N; at += BLOCK) {
        for (int k = 0; k < K; k++)
            from[k] = g[k] + at;
        psd_aggregate(out + at, from, weight, K, BLOCK);
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void time_it(const char *what, void (*run)(void), int gradients, double bytes)
{
    double ns[TURNS];
    run();
    for (int i = 0; i < TURNS; i++) {
        const uint64_t began = uv_hrtime();
        run();
        ns[i] = (double)(uv_hrtime() - began) / N / gradients;
    }
    qsort(ns, TURNS, sizeof *ns, by_size);
    printf("%-44s %.2f ns per element and gradient, %.1f GB/s\n", what, ns[TURNS / 2], bytes / ns[TURNS / 2]);
}

int main(void)
{
    for (int k = 0; k < K; k++) {
        if (!(g[k] = malloc(N * sizeof(float))))
            return 1;
        for (size_t i = 0; i < N; i++)
            g[k][i] = (float)((i * 31 + (size_t)k) % 1000) * 1e-3f;
    }
    if (!(out = calloc(N, sizeof *out)) || !(sums = calloc(N, sizeof *sums)))
        return 1;
    time_it("look into one as it comes", look, 1, 4);
    time_it("add three to the sums before the decision", fold, 3, 4 + 16.0 / 3);
    time_it("sum eight in one pass", sum, K, 4 + 4.0 / K);
    return 0;
}
