#include "server/core/means.h"

#include <assert.h>
#include <stdlib.h>

enum { CHAINS = sizeof((psd_means_t *)NULL)->chain / sizeof(psd_mean_t *), FIRST_PAUSE_MS = 20, LONGEST_PAUSE_MS = 10000 };

void psd_means_init(psd_means_t *self) { *self = (psd_means_t){ .pause_ms = FIRST_PAUSE_MS }; }

static psd_mean_t **find(psd_means_t *self, uint64_t number)
{
    psd_mean_t **at = &self->chain[number % CHAINS];
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

static psd_mean_t *begin(psd_means_t *self, uint64_t now_ms, const psd_term_t *term)
{
    psd_mean_t *mean = calloc(1, sizeof *mean);
    assert(mean && "no memory for a mean");
    *mean = (psd_mean_t){ .number = term->mean, .n = term->n, .since_ms = now_ms, .is_held = true };
    *find(self, term->mean) = mean;
    mean->earlier = self->last;
    *(self->last ? &self->last->later : &self->first) = mean;
    self->last = mean;
    return mean;
}

static void release(psd_means_t *self, psd_mean_t *mean)
{
    *(mean->earlier ? &mean->earlier->later : &self->first) = mean->later;
    *(mean->later ? &mean->later->earlier : &self->last) = mean->earlier;
    mean->is_held = false;
}

psd_mean_t *psd_means_add(psd_means_t *self, uint64_t now_ms, const psd_term_t *term, void *item)
{
    assert(term->index < term->n && term->n <= PSD_AGGREGATE_TAKEN);
    psd_mean_t *mean = *find(self, term->mean);
    if (!mean && now_ms < self->pass_until_ms)
        return NULL;
    if (!mean)
        mean = begin(self, now_ms, term);
    if (!mean->is_held || mean->n != term->n || mean->item[term->index])
        return NULL;
    mean->item[term->index] = item;
    mean->n_left++;
    if (++mean->n_here == mean->n) {
        release(self, mean);
        self->pause_ms = FIRST_PAUSE_MS;
    }
    return mean;
}

uint64_t psd_means_end_ms(const psd_means_t *self) { return self->first ? self->first->since_ms + PSD_MEANS_HOLD_MS : UINT64_MAX; }

psd_mean_t *psd_means_give_up(psd_means_t *self, uint64_t now_ms)
{
    psd_mean_t *mean = self->first;
    if (!mean || now_ms < psd_means_end_ms(self))
        return NULL;
    release(self, mean);
    if (now_ms >= self->pass_until_ms) {
        self->pass_until_ms = now_ms + self->pause_ms;
        self->pause_ms = 2 * self->pause_ms < LONGEST_PAUSE_MS ? 2 * self->pause_ms : LONGEST_PAUSE_MS;
    }
    return mean;
}

void psd_means_forget(psd_means_t *self, psd_mean_t *mean)
{
    if (--mean->n_left)
        return;
    *find(self, mean->number) = mean->next;
    free(mean);
}
