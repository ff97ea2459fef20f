#include "common/aggregate.h"
#include "common/optimizer.h"

#include <assert.h>
#include <stdlib.h>
#include <stdatomic.h>
#include <string.h>

#include "common/optim/kernel.h"

/* ---- instruction sets ---- */

static bool always(void) { return true; }

#ifdef __x86_64__
extern const psd_isa_t psd_isa_sse2, psd_isa_avx2, psd_isa_avx512;
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#else
extern const psd_isa_t psd_isa_generic;
#endif

/* From the plainest to the widest; who can run one can run those before it. */
static const struct {
    const psd_isa_t *isa;
    bool (*runs_here)(void);
} isas[] = {
#ifdef __x86_64__
    { &psd_isa_sse2, always },
    { &psd_isa_avx2, has_avx2 },
    { &psd_isa_avx512, has_avx512 },
#else
    { &psd_isa_generic, always },
#endif
};
enum { N_ISAS = sizeof isas / sizeof *isas };

/* Set by the first who asks; threads that ask at once find the same answer. */
static _Atomic(const psd_isa_t *) active;

const char *psd_isa_at(size_t i) { return i < N_ISAS && isas[i].runs_here() ? isas[i].isa->name : NULL; }

const psd_isa_t *psd_isa_active(void)
{
    const psd_isa_t *isa = atomic_load_explicit(&active, memory_order_acquire);
    if (isa)
        return isa;
    for (size_t i = 0; psd_isa_at(i); i++)
        isa = isas[i].isa;
    atomic_store_explicit(&active, isa, memory_order_release);
    return isa;
}

int psd_isa_select(const char *name, psd_err_t *err)
{
    for (size_t i = 0; psd_isa_at(i); i++)
        if (strcmp(psd_isa_at(i), name) == 0) {
            atomic_store_explicit(&active, isas[i].isa, memory_order_release);
            return PSD_OK;
        }
    return psd_err_set(err, PSD_EINVAL, "no instruction set '%s' on this processor", name);
}

const char *psd_isa_name(void) { return psd_isa_active()->name; }

/* ---- the table ---- */

/* The rows that the program knows optimizers by; those of other instruction sets differ in `step` alone. */
static const psd_optimizer_t *const *table(void) { return isas[0].isa->optimizers; }

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

/* Which of the optimizer's slots the rule keeps, as a bit mask. */
static unsigned used(const psd_rule_t *rule)
{
    return rule->opt->slots_used ? rule->opt->slots_used(rule->hyper) : ~0u;
}

void psd_rule_init(const psd_rule_t *rule, psd_rule_state_t *state, const float *w, float *const *slot,
                   size_t n)
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
    psd_plan_t plan = { .alpha = (float)rule->alpha, .rest = (float)(1.0 - rule->alpha) };
    state->t++;
    rule->opt->prepare(rule->hyper, lr, state->t, state->scalar, plan.coef);
    plan.sync = rule->lookahead && state->t % rule->k == 0;
    state->sync_epoch += plan.sync;
    return plan;
}

/* Lookahead's part of the update, on the elements [from, from + n). */
static void look_back(const psd_isa_t *isa, const psd_rule_t *rule, const psd_plan_t *plan, float *w,
                      float *const *slot, size_t from, size_t n)
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

void psd_rule_apply(const psd_rule_t *rule, const psd_plan_t *plan, float *w, float *const *slot,
                    const float *g, size_t n)
{
    /* So many elements of eight arrays fit the smallest first-level cache: a sync finds there what the step
     * wrote. */
    enum { BLOCK = 1024 };
    const psd_isa_t *isa = psd_isa_active();
    size_t row = 0;
    while (table()[row] && table()[row] != rule->opt)
        row++;
    assert(table()[row]); /* rules come from psd_rule_parse() */

    const size_t stride = plan->sync ? BLOCK : n;
    for (size_t from = 0; from < n; from += stride) {
        const size_t count = n - from < stride ? n - from : stride;
        psd_step_t s = { .n = count, .w = w + from, .g = g + from, .coef = plan->coef };
        int kept = 0;
        for (int i = 0; i < PSD_MAX_SLOTS && rule->opt->slots[i].name; i++)
            if (used(rule) >> i & 1)
                s.slot[i] = slot[kept++] + from;
        isa->optimizers[row]->step(&s);
        if (plan->sync)
            look_back(isa, rule, plan, w, slot, from, count);
    }
}

void psd_step_reference(const psd_rule_t *rule, psd_rule_state_t *state, float *w, float *const *slot, size_t n,
                        const float *const *gradient, const double *weight, size_t n_gradients, double lr)
{
    psd_plan_t plan = psd_rule_plan(rule, state, lr);
    float *sum = malloc(n * sizeof *sum);
    assert(sum);
    psd_aggregate(sum, gradient, weight, n_gradients, n);
    psd_rule_apply(rule, &plan, w, slot, sum, n);
    free(sum);
}
