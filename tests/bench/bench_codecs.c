/* bench_codecs.c - measures how fast each codec encodes and decodes, on one thread: GB/s of floats by the thread's own time, the
 * median over rounds. A chunk of 256 Ki floats at a time, of a gradient larger than the caches. Usage: bench_codecs [ISA] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/rng.h"
#include "common/codec/codec.h"
#include "common/optim/isa.h"

enum { CHUNK = 1 << 18, CHUNKS = 64, ROUNDS = 9 };

static float *g, *residual, *out;
static uint8_t *bytes;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void encode(const psd_coding_t *coding, size_t from, uint8_t *code)
{
    psd_coding_encode(coding, g + from, residual + from, CHUNK, code);
}

static void encode_plain(const psd_coding_t *coding, size_t from, uint8_t *code)
{
    psd_coding_encode(coding, g + from, NULL, CHUNK, code);
}

static void check(const psd_coding_t *coding, size_t from, uint8_t *code)
{
    (void)from;
    psd_err_t err;
    if (psd_coding_check(coding, code, psd_coding_bytes(coding, CHUNK), CHUNK, &err))
        abort();
}

static void decode(const psd_coding_t *coding, size_t from, uint8_t *code)
{
    enum { RUN = 4096 };
    (void)from;
    for (size_t at = 0; at < CHUNK; at += RUN)
        psd_coding_decode(coding, code, CHUNK, at, RUN, out + at);
}

static const struct {
    const char *name;
    void (*run)(const psd_coding_t *coding, size_t from, uint8_t *code);
} parts[] = { { "encode", encode_plain }, { "with residual", encode }, { "check", check }, { "decode", decode } };
enum { PARTS = sizeof parts / sizeof *parts };

static int ascending(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static double rate(const psd_coding_t *coding, size_t part)
{
    double seconds[ROUNDS];
    const size_t stride = psd_coding_bytes(coding, CHUNK);
    for (int r = 0; r < ROUNDS; r++) {
        const double begin = now_s();
        for (size_t c = 0; c < CHUNKS; c++)
            parts[part].run(coding, c * CHUNK, bytes + c * stride);
        seconds[r] = now_s() - begin;
    }
    qsort(seconds, ROUNDS, sizeof *seconds, ascending);
    return 4e-9 * CHUNK * CHUNKS / seconds[ROUNDS / 2];
}

int main(int argc, char **argv)
{
    static const char *const specs[] = { "f32", "bf16", "int8", "topk(0.01)", "topk(0.1)", "sign" };
    psd_err_t err;
    if (argc > 1 && psd_isa_select(argv[1], &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 64;
    }
    const size_t n = (size_t)CHUNK * CHUNKS;
    g = malloc(n * sizeof *g);
    residual = calloc(n, sizeof *residual);
    out = malloc(CHUNK * sizeof *out);
    bytes = malloc(n * 5);
    if (!g || !residual || !out || !bytes)
        return 71;
    uint64_t stream = 1;
    for (size_t i = 0; i < n; i++) {
        double sum = -6; /* a sum of twelve draws: nearly normal */
        for (int j = 0; j < 12; j++)
            sum += psd_uniform(&stream);
        g[i] = (float)sum;
    }
    printf("%s, GB/s of floats\n%-12s %10s", psd_isa_name(), "codec", "f32 bytes/");
    for (size_t p = 0; p < PARTS; p++)
        printf(" %14s", parts[p].name);
    for (size_t c = 0; c < sizeof specs / sizeof *specs; c++) {
        psd_coding_t coding;
        if (psd_coding_parse(&coding, specs[c], &err))
            abort();
        printf("\n%-12s %10.2f", specs[c], 4.0 * CHUNK / (double)psd_coding_bytes(&coding, CHUNK));
        for (size_t i = 0; i < n; i++)
            residual[i] = 0;
        for (size_t p = 0; p < PARTS; p++)
            printf(" %14.2f", rate(&coding, p));
    }
    puts("");
    free(g), free(residual), free(out), free(bytes);
    return 0;
}
