/* bench_kernels.c - measures how close to the speed of memory each optimizer runs, on one thread. A step of 16 Mi parameters, chunk
 * by chunk as a server makes it, with the pass that measures before it if the rule has one, against a loop that scales as many bytes
 * in place, in turns; the table gives the median of the ratios. The rate on a block that fits into the first-level cache shows the
 * limit of the arithmetic. Usage: bench_kernels [--isa NAME] [--rounds N] [RULE...] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "common/config/usage.h"
#include "common/optim/isa.h"
#include "common/optim/optimizer.h"
#include "common/base/rng.h"

enum { N = 1 << 24, CHUNK = 1 << 18, SMALL = 1024, MAX_ROUNDS = 101, ARRAYS = 2 + PSD_MAX_SLOTS };

/* Arrays of equal alignment have their i-th elements in the same set of the first-level cache, which has
 * fewer places than an optimizer has arrays; so each array begins some lines later than the one before. */
enum { STAGGER = 64 * 5 };
static const size_t array_bytes = (size_t)N * sizeof(float) + 4096;

static char *memory; /* ARRAYS arrays */

typedef struct bench {
    psd_rule_t rule;            /* what is measured */
    psd_rule_state_t state;     /* of its one tensor */
    float *w, *g;               /* weights and gradient */
    float *slot[PSD_MAX_SLOTS]; /* state arrays */
    size_t n;                   /* elements: for a rule for matrices a million, whose products take long enough */
    double bytes;               /* read and written per parameter and update */
    int updates;                /* per round: a whole period of Lookahead */
} bench_t;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *array_at(int i) { return (float *)(void *)(memory + (size_t)i * (array_bytes + STAGGER)); }

static void fill(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(psd_uniform(&seed) - 0.5);
}

/* The yardstick, with the widest vectors that the processor has. */
typedef float vector_t __attribute__((vector_size(64), aligned(64)));
#define SCALE                                                                                                                      \
    for (size_t i = 0; i < n; i++)                                                                                                 \
    x[i] *= by
#ifdef __x86_64__
__attribute__((target("avx512f"))) static void scale_avx512(vector_t *x, size_t n, float by) { SCALE; }
__attribute__((target("avx2"))) static void scale_avx2(vector_t *x, size_t n, float by) { SCALE; }
#endif
static void scale_plain(vector_t *x, size_t n, float by) { SCALE; }

static void scale(size_t bytes)
{
    static volatile float one = 1.0f; /* with a constant 1, the compiler would remove the loop */
    const float by = one;
    vector_t *x = (vector_t *)(void *)memory;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        scale_avx512(x, bytes / sizeof *x, by);
    else if (__builtin_cpu_supports("avx2"))
        scale_avx2(x, bytes / sizeof *x, by);
    else
#endif
        scale_plain(x, bytes / sizeof *x, by);
}

/* A matrix as square as powers of two allow. */
static psd_shape_t shape_of(size_t n)
{
    size_t rows = 1;
    while (rows * rows < n)
        rows *= 2;
    return (psd_shape_t){ .n_dims = 2, .n_matrices = 1, .rows = rows, .cols = n / rows };
}

/* Bytes of its rule's arrays that an update reads and writes per element. */
static double slot_bytes(const psd_rule_t *rule)
{
    const psd_extent_t all = { .n = N, .shape = shape_of(N) };
    double bytes = 0;
    for (int i = 0; i < rule->n_slots; i++)
        bytes += i == rule->slow_slot ? 0 : 8.0 * (double)psd_rule_slot_length(rule, i, &all) / N;
    return bytes;
}

/* Bytes per element that a rule reads in the pass that measures, before the pass that steps: the gradient and what it needs of
 * weights and state; a cautious rule the gradient and its state. */
static double measured_bytes(const psd_rule_t *rule)
{
    static const struct {
        const char *rule;
        double bytes;
    } of[] = { { "lars", 8 }, { "lamb", 16 }, { "prodigy", 16 } };
    if (rule->cautious)
        return 4 + slot_bytes(rule) / 2;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (strcmp(of[i].rule, rule->opt->name) == 0)
            return of[i].bytes;
    return 0;
}

/* Measure, if the rule does, as a server does before the step. */
static void prepare(bench_t *self, psd_plan_t *plan, size_t n, size_t chunk)
{
    double sum[PSD_MAX_SUMS] = { 0 };
    for (size_t from = 0; from < n; from += chunk) {
        float *slot[PSD_MAX_SLOTS];
        for (int i = 0; i < self->rule.n_slots; i++)
            slot[i] = self->slot[i] + from;
        psd_rule_measure(&self->rule, plan, self->w + from, slot, self->g + from, chunk, sum);
    }
    psd_rule_settle(&self->rule, psd_rule_lr(&self->rule), sum, &self->state, plan);
}

static void update(bench_t *self, size_t n, size_t chunk)
{
    psd_plan_t plan = psd_rule_plan(&self->rule, &self->state, psd_rule_lr(&self->rule));
    if (psd_rule_is_whole(&self->rule)) {
        plan.shape = shape_of(n);
        chunk = n;
    }
    if (psd_rule_n_sums(&self->rule))
        prepare(self, &plan, n, chunk);
    for (size_t from = 0; from < n; from += chunk) {
        float *slot[PSD_MAX_SLOTS];
        for (int i = 0; i < self->rule.n_slots; i++)
            slot[i] = self->slot[i] + from;
        psd_rule_apply(&self->rule, &plan, self->w + from, slot, self->g + from, chunk);
    }
}

static void begin(bench_t *self, const char *spec)
{
    psd_err_t err;
    if (psd_rule_parse(&self->rule, spec, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(64);
    }
    self->w = array_at(0);
    self->g = array_at(1);
    for (int i = 0; i < PSD_MAX_SLOTS; i++)
        self->slot[i] = array_at(2 + i);
    self->n = self->rule.opt->others ? 1 << 20 : N;
    fill(self->w, N, 1);
    fill(self->g, N, 2);
    psd_rule_init(&self->rule, &self->state, self->w, self->slot, N);
    const bool lookahead = self->rule.lookahead;
    self->updates = lookahead ? (int)self->rule.k : 1;
    /* The gradient is read; weights and state are read and written; slow weights at a sync only. */
    self->bytes = 4 + 8 + slot_bytes(&self->rule) + measured_bytes(&self->rule) + (lookahead ? 8.0 / self->rule.k : 0.0);
}

/* Updates of a block in the first-level cache: parameters per second. */
static double cached_rate(bench_t *self)
{
    enum { REPEATS = 20000 };
    const double start = now_s();
    for (int i = 0; i < REPEATS; i++)
        update(self, SMALL, SMALL);
    return (double)REPEATS * SMALL / (now_s() - start);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return values[n / 2];
}

static void measure(const char *spec, int rounds)
{
    bench_t self;
    double rate[MAX_ROUNDS], ratio[MAX_ROUNDS];
    begin(&self, spec);
    /* The first updates of some rules are cheaper than the rest (sgd's first, radam's unrectified). */
    for (int i = 0; i < 10; i++)
        update(&self, self.n, CHUNK);
    for (int r = 0; r < rounds; r++) {
        const double n = (double)self.n, bytes = self.bytes * n * self.updates;
        const double span = self.bytes < 8.0 ? 8.0 * n : self.bytes * n;
        double start = now_s();
        for (int i = 0; i < 2 * self.updates; i++)
            scale((size_t)(span / 4));
        const double scaled = span * self.updates / (now_s() - start);
        start = now_s();
        for (int i = 0; i < self.updates; i++)
            update(&self, self.n, CHUNK);
        const double seconds = now_s() - start;
        rate[r] = n * self.updates / seconds;
        ratio[r] = bytes / seconds / scaled;
    }
    const double fast = cached_rate(&self), share = median(ratio, rounds), params = median(rate, rounds);
    printf("%-34s %5.1f %9.3g %9.1f %8.2f %11.2f\n", spec, self.bytes, params / 1e9, self.bytes * params / 1e9, share, fast / 1e9);
    fflush(stdout);
}

enum { ISA, ROUNDS };
static const psd_option_t flags[] = {
    [ISA] = { .key = "isa", .type = PSD_OPTION_STRING, .argument = "NAME", .help = "the instruction set; default: the best" },
    [ROUNDS] = { .key = "rounds",
                 .type = PSD_OPTION_INT,
                 .preset = "9",
                 .range = "1..101",
                 .help = "number of rounds, of which the median is printed" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "bench_kernels",
                                   .words = "[RULE...]",
                                   .does = "time the optimizers, or these rules",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    static const char *const wrapped[] = { "lookahead(adam, k=5)", "lookahead(radam, k=5)",
                                           "adam(amsgrad=1)",      "rmsprop(centered=1, momentum=0.9)",
                                           "cautious(adamw)",      "cautious(lion)" };
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const int rounds = (int)given->value[ROUNDS].i;
    psd_err_t err;
    if (given->flag[ISA] && psd_isa_select(given->flag[ISA], &err))
        return fprintf(stderr, "bench_kernels: %s\n", err.text), 64;
    const size_t bytes = ARRAYS * (array_bytes + STAGGER);
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return perror("mmap"), 71;
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 0, bytes);

    printf("%d parameters, one thread, %s, median of %d rounds\n", N, psd_isa_name(), rounds);
    printf("%-34s %5s %9s %9s %8s %11s\n", "rule", "bytes", "Gparam/s", "GB/s", "of scale", "in L1 Gp/s");
    for (size_t i = 0; i < given->n_words; i++)
        measure(given->word[i], rounds);
    for (size_t i = 0; !given->n_words && psd_optimizer_at(i); i++)
        measure(psd_optimizer_at(i)->name, rounds);
    for (size_t i = 0; !given->n_words && i < sizeof wrapped / sizeof *wrapped; i++)
        measure(wrapped[i], rounds);
    return 0;
}
