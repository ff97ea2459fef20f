#include "server/core/forecast.h"

#include <assert.h>
#include <stdlib.h>

bool psd_members_are_same(const psd_member_t *a, uint32_t n_a, const psd_member_t *b, uint32_t n_b)
{
    bool same = n_a == n_b;
    for (uint32_t i = 0; same && i < n_a; i++)
        same = a[i].worker == b[i].worker && a[i].incarnation == b[i].incarnation;
    return same;
}

bool psd_members_are_even(const psd_member_t *member, uint32_t n)
{
    bool even = true;
    for (uint32_t i = 1; even && i < n; i++)
        even = member[i].samples == member[0].samples;
    return even;
}

void psd_forecast_clear(psd_forecast_t *self)
{
    free(self->member);
    *self = (psd_forecast_t){ 0 };
}

void psd_forecast_take(psd_forecast_t *self, const psd_round_t *round, psd_forecast_kind_t kind)
{
    const bool same = kind == PSD_FORECAST_SAME;
    const psd_member_t *from = same ? round->contributor : round->member;
    const uint32_t n = same ? round->n_contributors : round->n_members;
    psd_forecast_clear(self);
    if (!n || kind == PSD_FORECAST_NONE || (same && !round->apply))
        return;
    self->member = calloc(n, sizeof *self->member);
    assert(self->member && "no memory for a round's contributors");
    self->kind = kind;
    self->n = n;
    for (uint32_t i = 0; i < n; i++) {
        self->member[i] =
            (psd_member_t){ .worker = from[i].worker, .incarnation = from[i].incarnation, .samples = same ? from[i].samples : 0 };
        self->samples += self->member[i].samples;
    }
}

void psd_forecast_settle(psd_forecast_t *self, uint64_t samples)
{
    if (self->kind != PSD_FORECAST_EVEN || self->samples)
        return;
    for (uint32_t i = 0; i < self->n; i++)
        self->member[i].samples = samples;
    self->samples = samples * self->n;
}

bool psd_forecast_comes_true(const psd_forecast_t *self, const psd_round_t *round)
{
    bool same = round->apply && self->kind != PSD_FORECAST_NONE &&
                psd_members_are_same(self->member, self->n, round->contributor, round->n_contributors);
    if (same && self->kind == PSD_FORECAST_EVEN && !self->samples)
        return psd_members_are_even(round->contributor, round->n_contributors);
    for (uint32_t i = 0; same && i < self->n; i++)
        same = self->member[i].samples == round->contributor[i].samples;
    return same;
}
