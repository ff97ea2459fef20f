#include "common/optim/whole.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/partition.h"
#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"
#include "common/optim/passes.h"

/* What is known of a model while a step of it is made. */
typedef struct step {
    const psd_groups_t *groups;
    const psd_clip_t *clip;
    const psd_whole_t *tensor;
    size_t n_tensors;
    const double *lr; /* of each group */
    psd_passes_t passes;
    psd_partition_t map; /* chunks, whose sums are added in their order */
    float **sum;         /* the summed gradient of each tensor, bounded by value; NULL: it has none */
    double *total;       /* [pass][tensor, then the model][sum] */
} step_t;

static const psd_group_t *group_of(const step_t *self, size_t tensor) { return &self->groups->at[self->tensor[tensor].group]; }

static double *total_of(const step_t *self, int pass, size_t tensor)
{
    const size_t row = psd_passes_is_over_model(&self->passes, pass, group_of(self, tensor)) ? self->n_tensors : tensor;
    return self->total + ((size_t)pass * (self->n_tensors + 1) + row) * PSD_MAX_SUMS;
}

static psd_plan_t plan(const step_t *self, size_t t, psd_rule_state_t *state, int n_done)
{
    const double *total[PSD_MAX_PASSES] = { 0 };
    for (int i = 0; i < n_done; i++)
        total[i] = total_of(self, i, t);
    psd_plan_t plan =
        psd_passes_plan(&self->passes, group_of(self, t), self->clip, state, self->lr[self->tensor[t].group], total, n_done);
    plan.shape = self->tensor[t].shape;
    return plan;
}

static void make_pass(const step_t *self, int pass)
{
    for (uint32_t c = 0; c < self->map.n_chunks; c++) {
        const psd_chunk_t *chunk = &self->map.chunk[c];
        const psd_whole_t *t = &self->tensor[chunk->tensor];
        const psd_rule_t *rule = &group_of(self, chunk->tensor)->rule;
        if (!self->sum[chunk->tensor] || !psd_passes_measures(&self->passes, pass, group_of(self, chunk->tensor), self->clip))
            continue;
        psd_rule_state_t ahead = *t->state;
        const psd_plan_t p = plan(self, chunk->tensor, &ahead, pass);
        float *slot[PSD_MAX_SLOTS] = { 0 };
        double sum[PSD_MAX_SUMS] = { 0 };
        for (int s = 0; s < rule->n_slots; s++)
            slot[s] = t->slot[s] + chunk->offset;
        psd_passes_measure(&self->passes, pass, rule, &p, t->w + chunk->offset, slot, self->sum[chunk->tensor] + chunk->offset,
                           chunk->n, sum);
        for (int k = 0; k < self->passes.at[pass]->n_sums(rule); k++)
            total_of(self, pass, chunk->tensor)[k] += sum[k];
    }
}

/* The sum in double, divided. */
static void add_up(float *out, const psd_whole_t *t, const double *weight, size_t n_gradients, double divisor)
{
    double *acc = calloc(t->n, sizeof *acc);
    bool any = false;
    assert(acc && "no memory for a sum in double");
    for (size_t k = 0; k < n_gradients; k++) {
        if (!t->gradient[k])
            continue;
        psd_aggregate_add(acc, t->gradient[k], weight[k], !any, t->n);
        any = true;
    }
    psd_aggregate_divide(out, acc, divisor, t->n);
    free(acc);
}

static float *sum_up(const psd_rule_t *rule, const psd_whole_t *t, const double *weight, size_t n_gradients, double divisor)
{
    bool any = false;
    for (size_t k = 0; k < n_gradients; k++)
        any |= t->gradient[k] != NULL;
    if (!any)
        return NULL;
    float *sum = malloc(t->n * sizeof *sum);
    assert(sum && "no memory for a summed gradient");
    if (divisor != 0)
        add_up(sum, t, weight, n_gradients, divisor);
    else
        psd_rule_sum(rule, sum, t->gradient, weight, n_gradients, t->n);
    return sum;
}

static void begin(step_t *self, const double *weight, size_t n_gradients, double divisor)
{
    uint64_t *size = calloc(self->n_tensors, sizeof *size);
    self->sum = calloc(self->n_tensors, sizeof *self->sum);
    self->total = calloc(PSD_MAX_PASSES * PSD_MAX_SUMS * (self->n_tensors + 1), sizeof *self->total);
    assert(size && self->sum && self->total && "no memory for a step");
    for (size_t t = 0; t < self->n_tensors; t++) {
        size[t] = self->tensor[t].n;
        const psd_group_t *group = group_of(self, t);
        if (!group->freezes && (self->sum[t] = sum_up(&group->rule, &self->tensor[t], weight, n_gradients, divisor)))
            psd_clip_by_value(psd_group_clip(group, self->clip), self->sum[t], self->tensor[t].n);
    }
    const int rc = psd_partition_make(&self->map, size, self->n_tensors, 1, PSD_MOST_OF_PART, NULL);
    assert(rc == PSD_OK && "a model that one process holds has few chunks");
    free(size);
}

void psd_whole_step(const psd_groups_t *groups, const psd_clip_t *clip, const psd_whole_t *tensor, size_t n_tensors,
                    const double *weight, size_t n_gradients, double divisor, const double *lr)
{
    step_t self = {
        .groups = groups, .clip = clip, .tensor = tensor, .n_tensors = n_tensors, .lr = lr, .passes = psd_passes_of(groups, clip)
    };
    begin(&self, weight, n_gradients, divisor);
    for (int i = 0; i < self.passes.n; i++)
        if (!psd_passes_is_whole(&self.passes, i))
            make_pass(&self, i);
    for (size_t t = 0; t < n_tensors; t++) {
        if (!self.sum[t] && psd_passes_move_all(group_of(&self, t))) {
            psd_rule_state_t ahead = *tensor[t].state;
            plan(&self, t, &ahead, self.passes.n);
            memcpy(tensor[t].state->scalar, ahead.scalar, sizeof ahead.scalar);
        }
        if (!self.sum[t])
            continue;
        const psd_plan_t p = plan(&self, t, tensor[t].state, self.passes.n);
        if (p.scale != 1.0f)
            psd_isa_active()->scale(self.sum[t], self.sum[t], p.scale, tensor[t].n);
        psd_rule_apply(&group_of(&self, t)->rule, &p, tensor[t].w, tensor[t].slot, self.sum[t], tensor[t].n);
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

/* The votes for a gradient, in its place. */
static void vote(const psd_rule_t *rule, float *value, float *kept, size_t n)
{
    float *u = malloc(n * sizeof *u + 1);
    assert(u && "no memory to vote");
    psd_rule_vote(rule, u, kept, value, n);
    memcpy(value, u, n * sizeof *u);
    free(u);
}

bool psd_whole_send(const psd_rule_t *rule, const psd_coding_t *coding, const uint64_t *size, size_t n_tensors, float *const *value,
                    float *const *kept)
{
    if (!psd_rule_votes(rule))
        return psd_whole_code(coding, size, n_tensors, value, kept);
    for (size_t t = 0; t < n_tensors; t++)
        if (value[t] && !isfinite(psd_sum_of_squares(value[t], size[t])))
            return false;
    for (size_t t = 0; t < n_tensors; t++)
        if (value[t])
            vote(rule, value[t], kept[t], size[t]);
    return psd_whole_code(coding, size, n_tensors, value, NULL);
}
