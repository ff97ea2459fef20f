#include "common/optim/passes.h"

#include <assert.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"

/* ---- the length of the gradient ---- */

static bool clips_by_norm(const psd_group_t *group, const psd_clip_t *clip) { return psd_group_clip(group, clip)->norm > 0; }

static int one(const psd_rule_t *rule)
{
    (void)rule;
    return 1;
}

static psd_scope_t of_model(const psd_rule_t *rule)
{
    (void)rule;
    return PSD_SCOPE_MODEL;
}

static void add_squares(const psd_rule_t *rule, const psd_plan_t *plan, const float *w, float *const *slot, const float *g,
                        size_t n, double *sum)
{
    (void)rule, (void)plan, (void)w, (void)slot;
    sum[0] += psd_sum_of_squares(g, n);
}

static void settle_scale(const psd_rule_t *rule, const psd_clip_t *clip, double lr, const double *total, psd_rule_state_t *state,
                         psd_plan_t *plan)
{
    (void)rule, (void)lr, (void)state;
    plan->scale = psd_clip_scale(clip, total[0]);
}

/* ---- the rule's own sums ---- */

static bool rule_has_sums(const psd_group_t *group, const psd_clip_t *clip)
{
    (void)clip;
    return psd_rule_n_sums(&group->rule) > 0;
}

static void settle_rule(const psd_rule_t *rule, const psd_clip_t *clip, double lr, const double *total, psd_rule_state_t *state,
                        psd_plan_t *plan)
{
    (void)clip;
    psd_rule_settle(rule, lr, total, state, plan);
}

/* ---- whole tensors ---- */

static bool rule_is_whole(const psd_group_t *group, const psd_clip_t *clip)
{
    (void)clip;
    return psd_rule_is_whole(&group->rule);
}

static int no_sums(const psd_rule_t *rule)
{
    (void)rule;
    return 0;
}

static psd_scope_t of_tensor(const psd_rule_t *rule)
{
    (void)rule;
    return PSD_SCOPE_TENSOR;
}

static void settle_nothing(const psd_rule_t *rule, const psd_clip_t *clip, double lr, const double *total, psd_rule_state_t *state,
                           psd_plan_t *plan)
{
    (void)rule, (void)clip, (void)lr, (void)total, (void)state, (void)plan;
}

/* In the order in which they are made: a rule sees the gradient as it was clipped. Those whose sums are exchanged come first. */
static const psd_pass_t table[] = {
    { "gradient norm", clips_by_norm, one, of_model, add_squares, settle_scale },
    { "sums of the rule", rule_has_sums, psd_rule_n_sums, psd_rule_sums_over, psd_rule_measure, settle_rule },
    { "whole tensors", rule_is_whole, no_sums, of_tensor, NULL, settle_nothing },
};

psd_passes_t psd_passes_of(const psd_groups_t *groups, const psd_clip_t *clip)
{
    psd_passes_t self = { 0 };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        bool is_needed = false;
        self.at[self.n] = &table[i];
        self.n_sums[self.n] = 0;
        self.scope[self.n] = PSD_SCOPE_MODEL;
        for (uint32_t g = 0; g < groups->n; g++) {
            if (!table[i].is_needed(&groups->at[g], clip))
                continue;
            const int n_sums = table[i].n_sums(&groups->at[g].rule);
            is_needed = true;
            self.n_sums[self.n] = n_sums > self.n_sums[self.n] ? n_sums : self.n_sums[self.n];
            if (table[i].scope(&groups->at[g].rule) == PSD_SCOPE_TENSOR)
                self.scope[self.n] = PSD_SCOPE_TENSOR;
        }
        self.n += is_needed;
    }
    return self;
}

bool psd_passes_is_whole(const psd_passes_t *self, int i) { return !self->at[i]->measure; }

bool psd_passes_measures(const psd_passes_t *self, int i, const psd_group_t *group, const psd_clip_t *clip)
{
    return !group->freezes && self->at[i]->is_needed(group, clip);
}

bool psd_passes_is_over_model(const psd_passes_t *self, int i, const psd_group_t *group)
{
    return self->at[i]->scope(&group->rule) == PSD_SCOPE_MODEL;
}

bool psd_passes_move_all(const psd_group_t *group)
{
    return !group->freezes && psd_rule_n_sums(&group->rule) > 0 && psd_rule_sums_over(&group->rule) == PSD_SCOPE_MODEL;
}

psd_plan_t psd_passes_plan(const psd_passes_t *self, const psd_group_t *group, const psd_clip_t *clip, psd_rule_state_t *state,
                           double lr, const double *const *total, int n_done)
{
    psd_plan_t plan = psd_rule_plan(&group->rule, state, lr);
    for (int i = 0; i < n_done && total[i]; i++)
        if (psd_passes_measures(self, i, group, clip))
            self->at[i]->settle(&group->rule, clip, lr, total[i], state, &plan);
    return plan;
}

void psd_passes_measure(const psd_passes_t *self, int i, const psd_rule_t *rule, const psd_plan_t *plan, const float *w,
                        float *const *slot, const float *g, size_t n, double *sum)
{
    float scaled[PSD_PASS_BLOCK];
    float *at[PSD_MAX_SLOTS] = { 0 };
    const int n_sums = self->at[i]->n_sums(rule);
    for (size_t from = 0, count; from < n; from += count) {
        double block[PSD_MAX_SUMS] = { 0 };
        count = n - from < PSD_PASS_BLOCK ? n - from : PSD_PASS_BLOCK;
        for (int s = 0; s < rule->n_slots; s++)
            at[s] = slot[s] + from;
        if (plan->scale != 1.0f)
            psd_isa_active()->scale(scaled, g + from, plan->scale, count);
        self->at[i]->measure(rule, plan, w + from, at, plan->scale != 1.0f ? scaled : g + from, count, block);
        for (int k = 0; k < n_sums; k++)
            sum[k] += block[k];
    }
}
