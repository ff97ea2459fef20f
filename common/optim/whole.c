#include "common/optim/whole.h"

#include <assert.h>
#include <stdlib.h>

#include "common/base/partition.h"
#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"
#include "common/optim/passes.h"

/* What is known of a model while a step of it is made. */
typedef struct step {
    const psd_rule_t *rule;
    const psd_clip_t *clip;
    const psd_whole_t *tensor;
    size_t n_tensors;
    double lr;
    psd_passes_t passes;
    psd_partition_t map; /* chunks, whose sums are added in their order */
    float **sum;         /* the summed gradient of each tensor, bounded by value; NULL: it has none */
    double *total;       /* [pass][tensor][sum] */
} step_t;

static double *total_of(const step_t *self, int pass, size_t tensor)
{
    const bool whole = self->passes.at[pass]->scope(self->rule) == PSD_SCOPE_MODEL;
    return self->total + ((size_t)pass * self->n_tensors + (whole ? 0 : tensor)) * PSD_MAX_SUMS;
}

static psd_plan_t plan(const step_t *self, size_t t, psd_rule_state_t *state, int n_done)
{
    const double *total[PSD_MAX_PASSES] = { 0 };
    for (int i = 0; i < n_done; i++)
        total[i] = total_of(self, i, t);
    return psd_passes_plan(&self->passes, self->rule, self->clip, state, self->lr, total, n_done);
}

static void make_pass(const step_t *self, int pass)
{
    for (uint32_t c = 0; c < self->map.n_chunks; c++) {
        const psd_chunk_t *chunk = &self->map.chunk[c];
        const psd_whole_t *t = &self->tensor[chunk->tensor];
        if (!self->sum[chunk->tensor])
            continue;
        psd_rule_state_t ahead = *t->state;
        const psd_plan_t p = plan(self, chunk->tensor, &ahead, pass);
        float *slot[PSD_MAX_SLOTS] = { 0 };
        double sum[PSD_MAX_SUMS] = { 0 };
        for (int s = 0; s < self->rule->n_slots; s++)
            slot[s] = t->slot[s] + chunk->offset;
        psd_passes_measure(&self->passes, pass, self->rule, &p, t->w + chunk->offset, slot,
                           self->sum[chunk->tensor] + chunk->offset, chunk->n, sum);
        for (int k = 0; k < self->passes.at[pass]->n_sums(self->rule); k++)
            total_of(self, pass, chunk->tensor)[k] += sum[k];
    }
}

static float *sum_up(const psd_whole_t *t, const double *weight, size_t n_gradients)
{
    bool any = false;
    for (size_t k = 0; k < n_gradients; k++)
        any |= t->gradient[k] != NULL;
    if (!any)
        return NULL;
    float *sum = malloc(t->n * sizeof *sum);
    assert(sum && "no memory for a summed gradient");
    psd_aggregate(sum, t->gradient, weight, n_gradients, t->n);
    return sum;
}

static void begin(step_t *self, const double *weight, size_t n_gradients)
{
    uint64_t *size = calloc(self->n_tensors, sizeof *size);
    self->sum = calloc(self->n_tensors, sizeof *self->sum);
    self->total = calloc(PSD_MAX_PASSES * PSD_MAX_SUMS * self->n_tensors, sizeof *self->total);
    assert(size && self->sum && self->total && "no memory for a step");
    for (size_t t = 0; t < self->n_tensors; t++) {
        size[t] = self->tensor[t].n;
        if ((self->sum[t] = sum_up(&self->tensor[t], weight, n_gradients)))
            psd_clip_by_value(self->clip, self->sum[t], self->tensor[t].n);
    }
    const int rc = psd_partition_make(&self->map, size, self->n_tensors, 1, PSD_MOST_OF_PART, NULL);
    assert(rc == PSD_OK && "a model that one process holds has few chunks");
    free(size);
}

void psd_whole_step(const psd_rule_t *rule, const psd_clip_t *clip, const psd_whole_t *tensor, size_t n_tensors,
                    const double *weight, size_t n_gradients, double lr)
{
    step_t self = {
        .rule = rule, .clip = clip, .tensor = tensor, .n_tensors = n_tensors, .lr = lr, .passes = psd_passes_of(rule, clip)
    };
    begin(&self, weight, n_gradients);
    for (int i = 0; i < self.passes.n; i++)
        make_pass(&self, i);
    for (size_t t = 0; t < n_tensors; t++) {
        if (!self.sum[t])
            continue;
        const psd_plan_t p = plan(&self, t, tensor[t].state, self.passes.n);
        if (p.scale != 1.0f)
            psd_isa_active()->scale(self.sum[t], self.sum[t], p.scale, tensor[t].n);
        psd_rule_apply(rule, &p, tensor[t].w, tensor[t].slot, self.sum[t], tensor[t].n);
        free(self.sum[t]);
    }
    psd_partition_clear(&self.map);
    free(self.sum);
    free(self.total);
}

static bool can_say(const psd_coding_t *coding, const psd_chunk_t *c, float *const *value, float *const *residual)
{
    const float *kept = residual ? residual[c->tensor] + c->offset : NULL;
    return !value[c->tensor] || psd_coding_can_say(coding, value[c->tensor] + c->offset, kept, c->n);
}

bool psd_whole_code(const psd_coding_t *coding, const uint64_t *size, size_t n_tensors, float *const *value, float *const *residual)
{
    psd_partition_t map;
    if (psd_coding_is_lossless(coding))
        return true;
    const int rc = psd_partition_make(&map, size, n_tensors, 1, PSD_MOST_OF_PART, NULL);
    uint8_t *code = malloc((size_t)PSD_MOST_OF_PART * PSD_MAX_CODED);
    bool all = true;
    assert(rc == PSD_OK && code && "no memory to code a model");
    for (uint32_t k = 0; k < map.n_chunks; k++)
        all &= can_say(coding, &map.chunk[k], value, residual);
    for (uint32_t k = 0; (all || !residual) && k < map.n_chunks; k++) {
        const psd_chunk_t *c = &map.chunk[k];
        if (!value[c->tensor] || !can_say(coding, c, value, residual))
            continue;
        float *at = value[c->tensor] + c->offset;
        psd_coding_encode(coding, at, residual ? residual[c->tensor] + c->offset : NULL, c->n, code);
        psd_coding_decode(coding, code, c->n, 0, c->n, at);
    }
    free(code);
    psd_partition_clear(&map);
    return all;
}
