#include "worker/patience.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/array.h"

static bool is_better(const psd_patience_t *self, double value)
{
    return self->smaller_is_better ? value < self->best : value > self->best;
}

static void take(psd_patience_t *self, const struct psd_look *look)
{
    if (isnan(look->value))
        return;
    if (!self->best_step || is_better(self, look->value)) {
        self->best = look->value;
        self->best_step = look->step;
        self->waited = 0;
    } else {
        self->waited++;
    }
}

bool psd_patience_note(psd_patience_t *self, uint64_t step, double value)
{
    size_t kept = self->n;
    while (kept && self->look[kept - 1].step >= step)
        kept--;
    if (psd_array_grow(&self->look, &self->room, kept + 1, sizeof *self->look, NULL))
        return false;
    const bool went_back = kept < self->n;
    self->look[kept] = (struct psd_look){ step, value };
    self->n = kept + 1;
    if (went_back)
        self->best_step = self->waited = 0;
    for (size_t i = went_back ? 0 : kept; i < self->n; i++)
        take(self, &self->look[i]);
    return true;
}

bool psd_patience_is_out(const psd_patience_t *self) { return self->limit && self->waited >= self->limit; }

void psd_patience_clear(psd_patience_t *self)
{
    free(self->look);
    self->look = NULL;
    self->n = self->room = 0;
}
