/* dlion.h - Lion with a vote (Liu et al. 2024, arXiv 2404.00438): each worker keeps the momentum and says the signs alone, the server
 * counts them. For worker k of N in a round:
 *   c_k = b1 m_k + (1 - b1) g_k
 *   u_k = sign(c_k)
 *   m_k = b2 m_k + (1 - b2) g_k
 * and for the server:
 *   S = sum_k u_k
 *   d = sign(S), by majority; or S / N, by mean
 *   w = (1 - lr wd) w - lr d
 * The sign of 0 is 0 and a tie is 0: a weight without a gradient does not drift. A vote is one however many samples are behind it, and
 * workers that are absent do not vote. Counts are exact, so their order does not matter. With one worker the weights have the bits of
 * rule lion. Votes survive codec sign (common/codec/codec.h) bit for bit.
 *
 * Like kernels of optimizers, all of this may be done to any range of elements, and gives the same bits on every instruction
 * set. Arrays do not overlap. */
#pragma once

#include <stddef.h>

typedef enum psd_vote { PSD_VOTE_MAJORITY, PSD_VOTE_MEAN } psd_vote_t;

/* A worker's half: its votes u[0..n), each -1, 0 or 1, for gradient g[0..n); m[0..n), its momentum, moves on. `m` is 0 at birth. */
void psd_dlion_vote(float *u, float *m, const float *g, double beta1, double beta2, size_t n);

/* The server's count: d[0..n) of the votes u[0..k)[0..n). A NULL u[i] is a worker that does not vote; where nobody does, d is 0. */
void psd_dlion_count(float *d, const float *const *u, size_t k, psd_vote_t vote, size_t n);

/* The server's step of w[0..n) along d. */
void psd_dlion_step(float *w, const float *d, double lr, double weight_decay, size_t n);
