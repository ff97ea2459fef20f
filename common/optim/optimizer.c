#include "common/optim/optimizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"

/* ---- the table ---- */

/* The program's rows of optimizers; those of other instruction sets differ only in their kernels. */
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

bool psd_rule_is_whole(const psd_rule_t *rule) { return rule->opt && rule->opt->whole; }

/* Which of the optimizer's slots is the s-th that the rule keeps; PSD_MAX_SLOTS: that is Lookahead's. */
static int slot_of(const psd_rule_t *rule, int s)
{
    int i = 0;
    while (i < PSD_MAX_SLOTS && rule->opt->slots[i].name && (!(used(rule) >> i & 1) || s--))
        i++;
    return i < PSD_MAX_SLOTS && rule->opt->slots[i].name ? i : PSD_MAX_SLOTS;
}

uint64_t psd_rule_slot_length(const psd_rule_t *rule, int s, const psd_extent_t *tensor)
{
    const int i = rule->opt->slot_length ? slot_of(rule, s) : PSD_MAX_SLOTS;
    return i < PSD_MAX_SLOTS ? rule->opt->slot_length(i, tensor) : tensor->n;
}

size_t psd_rule_slot_elements(const psd_rule_t *rule, int s, const psd_extent_t *tensor, uint64_t from, size_t n)
{
    const uint64_t length = psd_rule_slot_length(rule, s, tensor), left = length > from ? length - from : 0;
    return left < n ? (size_t)left : n;
}

unsigned psd_rule_state_bytes(const psd_rule_t *rule)
{
    const psd_extent_t one = { .n = 1, .shape = { .n_dims = 1 } };
    uint64_t n = 0;
    for (int s = 0; s < rule->n_slots; s++)
        n += psd_rule_slot_length(rule, s, &one);
    return (unsigned)(n * sizeof(float));
}

void psd_rule_begin(const psd_rule_t *rule, psd_rule_state_t *state, const psd_extent_t *tensor, uint64_t from, const float *w,
                    float *const *slot, size_t n)
{
    const psd_optimizer_t *opt = rule->opt;
    *state = (psd_rule_state_t){ 0 };
    if (opt->born)
        opt->born(rule->hyper, state->scalar);
    for (int s = 0; s < rule->n_slots; s++) {
        const int i = slot_of(rule, s);
        const bool is_own = i < PSD_MAX_SLOTS;
        const float start = is_own && opt->slot_start ? opt->slot_start(rule->hyper, i) : 0.0f;
        const bool as_weights = is_own ? opt->of_weights >> i & 1 : s == rule->slow_slot;
        const size_t count = psd_rule_slot_elements(rule, s, tensor, from, n);
        for (size_t j = 0; j < count; j++)
            slot[s][j] = as_weights ? w[j] : start;
    }
}

void psd_rule_init(const psd_rule_t *rule, psd_rule_state_t *state, const float *w, float *const *slot, size_t n)
{
    psd_rule_begin(rule, state, &(const psd_extent_t){ .n = n }, 0, w, slot, n);
}

int psd_rule_n_scalars(const psd_rule_t *rule)
{
    int n = 0;
    while (n < PSD_MAX_SCALAR && rule->opt->scalars[n])
        n++;
    return n;
}

void psd_rule_resume(const psd_rule_t *rule, psd_rule_state_t *state, uint64_t t, const double *scalar)
{
    state->t = t;
    state->sync_epoch = rule->lookahead ? t / rule->k : 0;
    memcpy(state->scalar, scalar, (size_t)psd_rule_n_scalars(rule) * sizeof *scalar);
}

static int hyper_at(const psd_rule_t *rule, const char *name)
{
    int i = 0;
    while (strcmp(rule->opt->hyper[i].name, name) != 0)
        i++;
    return i;
}

/* A cautious rule's decay is not part of the step that is masked. */
static void plan_without_decay(const psd_rule_t *rule, psd_rule_state_t *state, double lr, psd_plan_t *plan)
{
    double hyper[PSD_MAX_HYPER];
    const int at = hyper_at(rule, "weight_decay");
    const double decay = rule->hyper[at];
    const bool decoupled = rule->opt->decay == PSD_DECAY_WEIGHTS ||
                           (rule->opt->decay == PSD_DECAY_CHOSEN && rule->hyper[hyper_at(rule, "decoupled")] > 0);
    memcpy(hyper, rule->hyper, sizeof hyper);
    hyper[at] = 0;
    rule->opt->prepare(hyper, lr, state->t, state->scalar, plan->coef);
    plan->l2 = decoupled ? 0.0f : (float)decay;
    plan->keep = decoupled ? (float)(1.0 - lr * decay) : 1.0f;
    plan->factor = 1.0f;
}

psd_plan_t psd_rule_plan(const psd_rule_t *rule, psd_rule_state_t *state, double lr)
{
    psd_plan_t plan = { .alpha = (float)rule->alpha, .rest = (float)(1.0 - rule->alpha), .scale = 1.0f };
    state->t++;
    if (rule->cautious)
        plan_without_decay(rule, state, lr, &plan);
    else
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
        if (rule->slot[i].kind != PSD_SLOT_MOMENT)
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

bool psd_rule_has_slow(const psd_rule_t *rule) { return rule->slow_slot >= 0 || rule->opt->average; }

void psd_rule_slow(const psd_rule_t *rule, const float *w, float *const *slot, float *out, size_t n)
{
    if (rule->opt->average)
        psd_isa_active()->optimizers[row_of(rule)]->average(rule->hyper, out, w, slot, n);
    else
        memcpy(out, rule->slow_slot < 0 ? w : slot[rule->slow_slot], n * sizeof *out);
}

/* The optimizer's own slots among those that the rule keeps, from element `from` on. */
static void find_slots(const psd_rule_t *rule, float *const *slot, size_t from, psd_step_t *s)
{
    int kept = 0;
    for (int i = 0; i < PSD_MAX_SLOTS && rule->opt->slots[i].name; i++)
        if (used(rule) >> i & 1)
            s->slot[i] = slot[kept++] + from;
}

/* So many elements of eight arrays fit the smallest first-level cache: a sync finds there what the step wrote. */
enum { BLOCK = 1024 };

/* The step that weights 0 would make: `z`; s->slot move on. Returns the gradient along which it goes: with its decay, in `decayed`, or
 * as it is. */
static const float *step_from_zero(const psd_isa_t *isa, const psd_rule_t *rule, const psd_plan_t *plan, const psd_step_t *s,
                                   float z[BLOCK], float decayed[BLOCK])
{
    psd_step_t from_zero = *s;
    if (plan->l2 > 0) {
        isa->cautious_gradient(decayed, s->g, s->w, plan->l2, s->n);
        from_zero.g = decayed;
    }
    memset(z, 0, s->n * sizeof *z);
    from_zero.w = z;
    isa->optimizers[row_of(rule)]->step(&from_zero);
    return from_zero.g;
}

/* How many of n elements step along their gradient, and n. */
static void count_agreement(const psd_rule_t *rule, const psd_plan_t *plan, psd_step_t *s, double *sum)
{
    const psd_isa_t *isa = psd_isa_active();
    float z[BLOCK], decayed[BLOCK], kept[PSD_MAX_SLOTS][BLOCK];
    const size_t all = s->n;
    psd_step_t part = *s;
    for (size_t from = 0; from < all; from += part.n) {
        part.n = all - from < BLOCK ? all - from : BLOCK;
        part.w = s->w + from;
        part.g = s->g + from;
        for (int i = 0; i < PSD_MAX_SLOTS; i++) {
            part.slot[i] = s->slot[i] ? kept[i] : NULL;
            if (s->slot[i])
                memcpy(kept[i], s->slot[i] + from, part.n * sizeof(float));
        }
        const float *g = step_from_zero(isa, rule, plan, &part, z, decayed);
        sum[0] += (double)isa->cautious_count(z, g, part.n);
        sum[1] += (double)part.n;
    }
}

void psd_rule_apply(const psd_rule_t *rule, const psd_plan_t *plan, float *w, float *const *slot, const float *g, size_t n)
{
    const psd_isa_t *isa = psd_isa_active();
    const size_t row = row_of(rule), stride = !rule->opt->whole && (plan->sync || rule->cautious) ? BLOCK : n;
    float z[BLOCK], decayed[BLOCK];
    for (size_t from = 0; from < n; from += stride) {
        const size_t count = n - from < stride ? n - from : stride;
        psd_step_t s = { .n = count, .w = w + from, .g = g + from, .coef = plan->coef, .shape = &plan->shape };
        find_slots(rule, slot, from, &s);
        if (rule->cautious) {
            const float *along = step_from_zero(isa, rule, plan, &s, z, decayed);
            isa->cautious_step(s.w, z, along, plan->keep, plan->factor, count);
        } else {
            isa->optimizers[row]->step(&s);
        }
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
    if (rule->cautious) {
        count_agreement(rule, plan, &s, sum);
        return;
    }
    psd_isa_active()->optimizers[row_of(rule)]->measure(&s, lanes);
    for (int k = 0; k < rule->opt->n_sums; k++)
        sum[k] += psd_lanes_total(lanes[k]);
}

int psd_rule_n_sums(const psd_rule_t *rule) { return rule->cautious ? 2 : rule->opt->n_sums; }

psd_scope_t psd_rule_sums_over(const psd_rule_t *rule) { return rule->cautious ? PSD_SCOPE_TENSOR : rule->opt->sums_over; }

void psd_rule_settle(const psd_rule_t *rule, double lr, const double *total, psd_rule_state_t *state, psd_plan_t *plan)
{
    if (!rule->cautious) {
        rule->opt->settle(rule->hyper, lr, total, state->scalar, plan->coef);
        return;
    }
    const double mean = total[0] / total[1];
    plan->factor = (float)(1.0 / (mean > rule->caution_min ? mean : rule->caution_min));
}

bool psd_rule_votes(const psd_rule_t *rule) { return rule->opt && rule->opt->vote; }

void psd_rule_vote(const psd_rule_t *rule, float *u, float *kept, const float *g, size_t n)
{
    psd_isa_active()->optimizers[row_of(rule)]->vote(rule->hyper, u, kept, g, n);
}

void psd_rule_sum(const psd_rule_t *rule, float *out, const float *const *sent, const double *weight, size_t k, size_t n)
{
    if (psd_rule_votes(rule))
        psd_isa_active()->optimizers[row_of(rule)]->count(rule->hyper, out, sent, k, n);
    else
        psd_aggregate(out, sent, weight, k, n);
}
