#include "common/optim/passes.h"

#include <assert.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"

/* ---- the length of the gradient ---- */

static bool clips_by_norm(const psd_rule_t *rule, const psd_clip_t *clip)
{
    (void)rule;
    return clip->norm > 0;
}

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

static void settle_scale(const psd_rule_t *rule, const psd_clip_t *clip, double lr, const double *total, psd_plan_t *plan)
{
    (void)rule, (void)lr;
    plan->scale = psd_clip_scale(clip, total[0]);
}

/* ---- the rule's own sums ---- */

static bool rule_has_sums(const psd_rule_t *rule, const psd_clip_t *clip)
{
    (void)clip;
    return rule->opt->n_sums > 0;
}

static int sums_of_rule(const psd_rule_t *rule) { return rule->opt->n_sums; }
static psd_scope_t scope_of_rule(const psd_rule_t *rule) { return rule->opt->sums_over; }

static void settle_rule(const psd_rule_t *rule, const psd_clip_t *clip, double lr, const double *total, psd_plan_t *plan)
{
    (void)clip;
    rule->opt->settle(rule->hyper, lr, total, plan->coef);
}

/* In the order in which they are made: a rule sees the gradient as it was clipped. */
static const psd_pass_t table[] = {
    { "gradient norm", clips_by_norm, one, of_model, add_squares, settle_scale },
    { "sums of the rule", rule_has_sums, sums_of_rule, scope_of_rule, psd_rule_measure, settle_rule },
};

psd_passes_t psd_passes_of(const psd_rule_t *rule, const psd_clip_t *clip)
{
    psd_passes_t self = { 0 };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].is_needed(rule, clip))
            self.at[self.n++] = &table[i];
    return self;
}

psd_plan_t psd_passes_plan(const psd_passes_t *self, const psd_rule_t *rule, const psd_clip_t *clip, psd_rule_state_t *state,
                           double lr, const double *const *total, int n_done)
{
    psd_plan_t plan = psd_rule_plan(rule, state, lr);
    for (int i = 0; i < n_done && total[i]; i++)
        self->at[i]->settle(rule, clip, lr, total[i], &plan);
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
