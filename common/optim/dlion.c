#include "common/optim/dlion.h"

#include <string.h>

#include "common/optim/kernels/kernel.h"

void psd_dlion_vote(float *u, float *m, const float *g, double beta1, double beta2, size_t n)
{
    const float rest1 = (float)(1.0 - beta1), rest2 = (float)(1.0 - beta2);
    psd_isa_active()->vote(u, m, g, (const float[]){ (float)beta1, rest1, (float)beta2, rest2 }, n);
}

void psd_dlion_count(float *d, const float *const *u, size_t k, psd_vote_t vote, size_t n)
{
    const psd_isa_t *isa = psd_isa_active();
    size_t n_voters = 0;
    memset(d, 0, n * sizeof *d);
    for (size_t i = 0; i < k; i++)
        if (u[i]) {
            isa->count(d, u[i], n); /* whole numbers of at most 2^24: exact */
            n_voters++;
        }
    if (vote == PSD_VOTE_MAJORITY)
        isa->majority(d, n);
    else if (n_voters > 1)
        isa->divide(d, (float)n_voters, n);
}

void psd_dlion_step(float *w, const float *d, double lr, double weight_decay, size_t n)
{
    psd_isa_active()->vote_step(w, d, (float)lr, (float)(1.0 - lr * weight_decay), n);
}
