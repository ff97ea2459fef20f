/* dlion.c - Lion with a vote (Liu et al. 2024, arXiv 2404.00438): each worker keeps the momentum and sends signs only, the servers
 * count them. For worker k of the N that vote in a round:
 *   c_k = b1 m_k + (1 - b1) g_k
 *   u_k = sign(c_k)
 *   m_k <- b2 m_k + (1 - b2) g_k
 * and for the servers:
 *   S = sum_k u_k
 *   d = sign(S), or S / N with `mean`
 *   w <- (1 - lr wd) w - lr d
 * The sign of 0 is 0, and so is a tie: a weight without a gradient does not drift. Every worker has one vote, however many
 * samples are behind it. Counts are whole numbers, so their order does not matter. With one worker the weights have the bits of
 * lion, because both halves are written as lion.c is. The servers count the sign of what arrives, which every codec keeps that
 * keeps all votes. */
#include "common/optim/kernels/kernel.h"

#include <string.h>

enum { LR, BETA1, BETA2, WEIGHT_DECAY, MEAN };
enum { C_LR, C_KEEP };

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
}

static void step(const psd_step_t *s)
{
    const float lr = s->coef[C_LR], keep = s->coef[C_KEEP];
    const float *restrict d = s->g;
    float *restrict w = s->w;

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++)
        w[i] = keep * w[i] - lr * d[i];
}

static void vote(const double *hyper, float *restrict u, float *restrict m, const float *restrict g, size_t n)
{
    const float b1 = (float)hyper[BETA1], rest1 = (float)(1.0 - hyper[BETA1]), b2 = (float)hyper[BETA2],
                rest2 = (float)(1.0 - hyper[BETA2]);

    PSD_VECTOR
    for (size_t i = 0; i < n; i++) {
        u[i] = psd_sign(psd_mean(m[i], b1, rest1, g[i]));
        m[i] = psd_mean(m[i], b2, rest2, g[i]);
    }
}

static void add(float *restrict d, const float *restrict u, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        d[i] += psd_sign(u[i]);
}

static void take_signs(float *d, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        d[i] = psd_sign(d[i]);
}

static void divide(float *d, float by, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        d[i] = d[i] / by;
}

static void count(const double *hyper, float *d, const float *const *u, size_t k, size_t n)
{
    size_t n_voters = 0;
    memset(d, 0, n * sizeof *d);
    for (size_t i = 0; i < k; i++)
        if (u[i]) {
            add(d, u[i], n); /* whole numbers of at most 2^24: exact */
            n_voters++;
        }
    if (hyper[MEAN] == 0)
        take_signs(d, n);
    else if (n_voters > 1)
        divide(d, (float)n_voters, n);
}

const psd_optimizer_t PSD_OPTIMIZER(dlion) = {
    .name = "dlion",
    .summary = "lion by vote: workers keep the momentum and send signs, the majority decides",
    .formula = "u = sign(b1*m + (1-b1)*g); m = b2*m + (1-b2)*g; d = sign(sum of u over workers); w *= 1-lr*wd; w -= lr*d",
    .paper = "Liu et al. 2024, arXiv 2404.00438",
    .advice =
        "When the network is the bottleneck: with codec.push=sign a gradient takes a fifteenth of its bytes, and nothing is lost. "
        "Servers keep no state; each worker keeps 4 bytes per parameter. Use lion's learning rate.",
    .hyper = { PSD_HYPER_LR(1e-4), PSD_HYPER_BETA("beta1", 0.9, "share of momentum in the vote"),
               PSD_HYPER_BETA("beta2", 0.99, "share of momentum kept per update"), PSD_HYPER_WEIGHT_DECAY(0),
               PSD_HYPER_FLAG("mean", 0, "the mean of the votes instead of their majority") },
    .uncounted = true,
    .prepare = prepare,
    .step = step,
    .vote = vote,
    .count = count,
};
