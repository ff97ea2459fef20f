/* kernel.h - what the files of optim/ and codec/ share. Each of them is compiled once per instruction set, with PSD_ISA
 * set to its name, and everything that it shows carries that name: psd_adam_sse2, psd_adam_avx2. Contraction
 * is off, and division and root are IEEE's, so all of them compute the same bits. */
#pragma once

#include <math.h>

#include "common/codec/codec.h"
#include "common/optim/optimizer.h"

#define PSD_JOIN_EXPANDED(a, b) a##_##b
#define PSD_JOIN(a, b)          PSD_JOIN_EXPANDED(a, b)
#define PSD_TEXT_EXPANDED(a)    #a
#define PSD_TEXT(a)             PSD_TEXT_EXPANDED(a)
#ifdef PSD_ISA
#define PSD_PER_ISA(name)   PSD_JOIN(name, PSD_ISA)
#define PSD_OPTIMIZER(name) PSD_PER_ISA(psd_##name)
#endif

/* A loop body with flags as constant arguments: each call is a loop of its own, without a branch inside. */
#define PSD_LOOP static inline __attribute__((always_inline)) void

/* Before each loop over elements: its arrays do not overlap, so that no compiler need check (clang forgets `restrict`
 * on local pointers, and gives up when there are many). */
#ifdef __clang__
#define PSD_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#else
#define PSD_VECTOR _Pragma("GCC ivdep")
#endif

/* One instruction set's worth of kernels. */
typedef struct psd_isa {
    const char *name;
    const psd_optimizer_t *const *optimizers; /* in the order of all.h, ended by NULL */
    /* Lookahead's sync: slow += alpha * (w - slow); w = slow. With alpha 1: slow = w, which keeps w's bits. */
    void (*sync)(float *w, float *slow, float alpha, size_t n);
    /* Its pullback of a first moment: m = alpha * m + rest * slow_m; slow_m = m. */
    void (*pullback)(float *m, float *slow_m, float alpha, float rest, size_t n);
    /* A cautious rule (cautious.c): out = g + l2 * w; w = keep * w + factor * z where z, the step of a weight 0 along g, goes
     * down it; and of how many elements that is so. */
    void (*cautious_gradient)(float *out, const float *g, const float *w, float l2, size_t n);
    void (*cautious_step)(float *w, const float *z, const float *g, float keep, float factor, size_t n);
    size_t (*cautious_count)(const float *z, const float *g, size_t n);
    /* acc = weight * g, or acc += weight * g unless `first`. */
    void (*accumulate)(double *acc, const float *g, double weight, bool first, size_t n);
    /* out = (float)(acc + weight * g), or (float)(weight * g) when `first`: the last of the terms. */
    void (*finish)(float *out, const double *acc, const float *g, double weight, bool first, size_t n);
    /* out = (float)(of_g * g + of_h * h): the two above for a sum of two terms, in one pass. */
    void (*pair)(float *out, const float *g, double of_g, const float *h, double of_h, size_t n);
    /* x = c where it is above, -c where it is below; NaN stays. */
    void (*clamp)(float *x, float c, size_t n);
    /* out = factor * x; `out` may be x. */
    void (*scale)(float *out, const float *x, float factor, size_t n);
    /* sum[i % 16] += x[i]^2, in double. */
    void (*squares)(double sum[16], const float *x, size_t n);
    /* The same, and to = x, each x[i] being read once; `streams`: past the caches, to a multiple of 16 bytes. */
    void (*copied)(double sum[16], float *to, const float *x, bool streams, size_t n);
    /* `pair`, and the squares of each term, each g[i] and h[i] being read once; `streams`: as above. */
    void (*taken)(double of_squares[2][16], float *out, const float *g, double of_g, const float *h, double of_h, bool streams,
                  size_t n);
    /* sum[i % 16] += (x[i] - y[i])^2, in double. */
    void (*distance)(double sum[16], const float *x, const float *y, size_t n);
    /* Elements that are 0, and those whose magnitude is at least `bound`; n is below 2^32. */
    size_t (*zeros)(const float *x, size_t n);
    size_t (*reach)(const float *x, float bound, size_t n);
    const psd_codec_t *const *codecs; /* in the order of codec/kernels/all.h, ended by NULL */
    /* Whether each g + residual is finite; without a residual (NULL), each g. */
    bool (*feedback_is_finite)(const float *g, const float *residual, size_t n);
    /* y = g + residual; `y` may be `residual`. */
    void (*feedback_add)(float *y, const float *g, const float *residual, size_t n);
    /* residual = y - q; `residual` may be `y`. */
    void (*feedback_take)(float *residual, const float *y, const float *q, size_t n);
} psd_isa_t;

/* The one in use; the one that runs on every processor. */
const psd_isa_t *psd_isa_active(void);
const psd_isa_t *psd_isa_plainest(void);

/* b^t by squaring, for 0 <= b < 1. The C library's pow() rounds differently with and without FMA; this does
 * not, and its error, t * 1e-16 of b^t, is far below what float32 can see wherever b^t counts. */
static inline double psd_power(double b, uint64_t t)
{
    double power = 1.0;
    for (; t > 0; t >>= 1, b *= b)
        if (t & 1)
            power *= b;
    return power;
}

/* The moving averages of the adaptive rules, in torch's order of operations. */
static inline float psd_mean(float m, float beta, float rest, float g) { return beta * m + rest * g; }
static inline float psd_mean_sq(float v, float beta, float rest, float g) { return beta * v + rest * g * g; }

/* sign(x), where the sign of both zeros (and of NaN) is 0: two selects of constants, which gcc vectorises anywhere. */
static inline float psd_sign(float x) { return (x > 0.0f ? 1.0f : 0.0f) - (x < 0.0f ? 1.0f : 0.0f); }

/* Hyper-parameters that many rules have. */
#define PSD_HYPER_LR(value)                                                                                                        \
    {                                                                                                                              \
        .name = "lr", .def = value, .max = 1e9, .help = "learning rate"                                                            \
    }
#define PSD_HYPER_WEIGHT_DECAY(value)                                                                                              \
    {                                                                                                                              \
        .name = "weight_decay", .def = value, .max = 1e9, .help = "pull of the weights towards 0"                                  \
    }
/* FLT_MIN: what is less is 0 in float32, or has lost digits, and divides nothing by nothing. */
#define PSD_LEAST_EPS 1.17549435082228750796873653722224568e-38
#define PSD_HYPER_EPS(value)                                                                                                       \
    {                                                                                                                              \
        .name = "eps", .def = value, .min = PSD_LEAST_EPS, .max = 1e9, .help = "keeps the divisor from 0"                          \
    }
#define PSD_HYPER_BETA(key, value, text)                                                                                           \
    {                                                                                                                              \
        .name = key, .def = value, .max = 1, .open_max = true, .help = text                                                        \
    }
#define PSD_HYPER_BETA1(value) PSD_HYPER_BETA("beta1", value, "share of the mean kept per update")
#define PSD_HYPER_BETA2(value) PSD_HYPER_BETA("beta2", value, "share of the mean square kept per update")
#define PSD_HYPER_FLAG(key, value, text)                                                                                           \
    {                                                                                                                              \
        .name = key, .def = value, .max = 1, .flag = true, .help = text                                                            \
    }
