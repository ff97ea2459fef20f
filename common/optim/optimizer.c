#include "common/optim/optimizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"

/* ---- the table ---- */

/* The rows that the program knows optimizers by; those of other instruction sets differ in `step` alone. */
static const psd_optimizer_t *const *table(void) { return psd_isa_plainest()->optimizers; }

const psd_optimizer_t *psd_optimizer_at(size_t i)
{
    size_t n = 0;
    while (table()[n])
        n++;
    return i < n ? table()[i] : NULL;
}

const psd_optimizer_t *psd_optimizer_find(const char *name)
{
    for (size_t i = 0; table()[i]; i++)
        if (strcmp(table()[i]->name, name) == 0)
            return table()[i];
    return NULL;
}

/* ---- a rule at work ---- */

double psd_rule_lr(const psd_rule_t *rule) { return rule->hyper[0]; }

/* Where it is among the values; -1: nowhere. A momentum of 0 has no array. */
static int momentum_at(const psd_rule_t *rule)
{
    for (int i = 0; i < PSD_MAX_HYPER && rule->opt->hyper[i].name; i++)
        if (!strcmp(rule->opt->hyper[i].name, "beta1") || (!strcmp(rule->opt->hyper[i].name, "momentum") && rule->hyper[i] > 0))
            return i;
    return -1;
}

bool psd_rule_has_momentum(const psd_rule_t *rule) { return momentum_at(rule) >= 0; }

void psd_rule_set_momentum(psd_rule_t *rule, double momentum)
{
    const int at = momentum_at(rule);
    assert(at >= 0 && "the rule has a momentum");
    rule->hyper[at] = momentum;
}

/* Which of the optimizer's slots the rule keeps, as a bit mask. */
static unsigned used(const psd_rule_t *rule) { return rule->opt->slots_used ? rule->opt->slots_used(rule->hyper) : ~0u; }

void psd_rule_init(const psd_rule_t *rule, psd_rule_state_t *state, const float *w, float *const *slot, size_t n)
{
    const psd_optimizer_t *opt = rule->opt;
    *state = (psd_rule_state_t){ 0 };
    if (opt->born)
        opt->born(rule->hyper, state->scalar);

    int kept = 0;
    for (int i = 0; i < PSD_MAX_SLOTS && opt->slots[i].name; i++) {
        if (!(used(rule) >> i & 1))
            continue;
        const float start = opt->slot_start ? opt->slot_start(rule->hyper, i) : 0.0f;
        for (size_t j = 0; j < n; j++)
            slot[kept][j] = start;
        kept++;
    }
    for (; kept < rule->n_slots; kept++) {
        if (kept == rule->slow_slot)
            memcpy(slot[kept], w, n * sizeof *w);
        else
            memset(slot[kept], 0, n * sizeof *w);
    }
}

psd_plan_t psd_rule_plan(const psd_rule_t *rule, psd_rule_state_t *state, double lr)
{
    psd_plan_t plan = { .alpha = (float)rule->alpha, .rest = (float)(1.0 - rule->alpha), .scale = 1.0f };
    state->t++;
    rule->opt->prepare(rule->hyper, lr, state->t, state->scalar, plan.coef);
    plan.sync = rule->lookahead && state->t % rule->k == 0;
    state->sync_epoch += plan.sync;
    return plan;
}

/* Lookahead's part of the update, on the elements [from, from + n). */
static void look_back(const psd_isa_t *isa, const psd_rule_t *rule, const psd_plan_t *plan, float *w, float *const *slot,
                      size_t from, size_t n)
{
    isa->sync(w + from, slot[rule->slow_slot] + from, plan->alpha, n);
    for (int i = 0; i < rule->slow_slot; i++) {
        if (!rule->slot[i].first_moment)
            continue;
        if (rule->pullback == PSD_PULLBACK_RESET)
            memset(slot[i] + from, 0, n * sizeof(float));
        else if (rule->pullback == PSD_PULLBACK_PULLBACK)
            isa->pullback(slot[i] + from, slot[rule->slow_slot + 1] + from, plan->alpha, plan->rest, n);
    }
}

/* The row of the rule's optimizer in every instruction set's table. */
static size_t row_of(const psd_rule_t *rule)
{
    size_t row = 0;
    while (table()[row] && table()[row] != rule->opt)
        row++;
    assert(table()[row]); /* rules come from psd_rule_parse() */
    return row;
}

/* The optimizer's own slots among those that the rule keeps, from element `from` on. */
static void find_slots(const psd_rule_t *rule, float *const *slot, size_t from, psd_step_t *s)
{
    int kept = 0;
    for (int i = 0; i < PSD_MAX_SLOTS && rule->opt->slots[i].name; i++)
        if (used(rule) >> i & 1)
            s->slot[i] = slot[kept++] + from;
}

void psd_rule_apply(const psd_rule_t *rule, const psd_plan_t *plan, float *w, float *const *slot, const float *g, size_t n)
{
    /* So many elements of eight arrays fit the smallest first-level cache: a sync finds there what the step
     * wrote. */
    enum { BLOCK = 1024 };
    const psd_isa_t *isa = psd_isa_active();
    const size_t row = row_of(rule), stride = plan->sync ? BLOCK : n;
    for (size_t from = 0; from < n; from += stride) {
        const size_t count = n - from < stride ? n - from : stride;
        psd_step_t s = { .n = count, .w = w + from, .g = g + from, .coef = plan->coef };
        find_slots(rule, slot, from, &s);
        isa->optimizers[row]->step(&s);
        if (plan->sync)
            look_back(isa, rule, plan, w, slot, from, count);
    }
}

void psd_rule_measure(const psd_rule_t *rule, const psd_plan_t *plan, const float *w, float *const *slot, const float *g, size_t n,
                      double *sum)
{
    psd_lanes_t lanes[PSD_MAX_SUMS] = { { 0 } };
    union {
        const float *read;
        float *write;
    } weights = { .read = w }; /* psd_step_t is the step's, which writes; a measuring kernel does not */
    psd_step_t s = { .n = n, .w = weights.write, .g = g, .coef = plan->coef };
    find_slots(rule, slot, 0, &s);
    psd_isa_active()->optimizers[row_of(rule)]->measure(&s, lanes);
    for (int k = 0; k < rule->opt->n_sums; k++) {
        for (size_t half = PSD_LANES / 2; half; half /= 2)
            for (size_t j = 0; j < half; j++)
                lanes[k][j] += lanes[k][j + half];
        sum[k] += lanes[k][0];
    }
}
