/* optimizer.h - the contract that an optimizer keeps, the table of them, and the grammar of a rule:
 * "lookahead(radam(lr=1e-3), k=5, alpha=0.5)". Exact formulas: each file of optim/ under its equation.
 *
 * An update of a tensor is made in two halves, so that any part of it may be stepped by any thread:
 * psd_rule_plan() counts the update and forms all its scalars, in double, rounded once; psd_rule_apply() then
 * runs the kernel over any range of elements, in any order, as often as there are ranges. The result does not
 * depend on how the elements were cut, on the compiler, or on the instruction set. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    PSD_MAX_HYPER = 10, /* hyper-parameters of one optimizer */
    PSD_MAX_COEF = 16,  /* float scalars that a kernel reads */
    PSD_MAX_SCALAR = 2, /* double scalars that a tensor carries from update to update (NAdam's product) */
    PSD_MAX_SLOTS = 5,  /* float arrays beside the weights, Lookahead's included */
    PSD_MAX_SUMS = 4,   /* doubles that a rule asks for before its step */
    PSD_LANES = 16,     /* running sums of each, so that the order of additions does not depend on a register's width */
    PSD_RULE_TEXT = 512 /* longest printed rule, with its end */
};

/* What a kernel sees: `n` consecutive elements. Arrays never overlap. */
typedef struct psd_step {
    size_t n;                   /* elements */
    float *w;                   /* weights, updated in place */
    const float *g;             /* gradient */
    float *slot[PSD_MAX_SLOTS]; /* state arrays in the order of the optimizer's `slots` (unused ones NULL) */
    const float *coef;          /* what `prepare` made */
} psd_step_t;

/* The running sums of one double: element i of a block is added to lane i % PSD_LANES. */
typedef double psd_lanes_t[PSD_LANES];

/* What sums are over. */
typedef enum psd_scope { PSD_SCOPE_TENSOR, PSD_SCOPE_MODEL } psd_scope_t;

/* Carried by each tensor (and kept equal by each of its chunks) from update to update. All zero at birth is wrong:
 * use psd_rule_init(). */
typedef struct psd_rule_state {
    uint64_t t;                    /* updates made */
    uint64_t sync_epoch;           /* Lookahead syncs made */
    double scalar[PSD_MAX_SCALAR]; /* the optimizer's own scalars */
} psd_rule_state_t;

typedef struct psd_hyper {
    const char *name;        /* as in OPTIMIZERS: torch's spelling */
    double def;              /* default */
    double min, max;         /* accepted range, both ends included unless `open` */
    bool open_min, open_max; /* whether the end itself is refused */
    bool flag;               /* 0 or 1; also written false, true */
    const char *help;        /* a few words */
} psd_hyper_t;

typedef struct psd_slot {
    const char *name;  /* torch's state name: momentum_buffer, exp_avg, exp_avg_sq, ... */
    bool first_moment; /* whether Lookahead's reset and pullback treat it */
} psd_slot_t;

typedef struct psd_optimizer psd_optimizer_t;
struct psd_optimizer {
    const char *name;                 /* "adam" */
    const char *summary;              /* one line for people */
    const char *formula;              /* one line of mathematics */
    const char *paper;                /* author, year, arXiv number or source */
    const char *advice;               /* when to try it, in a sentence or two for people */
    psd_hyper_t hyper[PSD_MAX_HYPER]; /* ended by a NULL name; "lr" is always the first */
    psd_slot_t slots[PSD_MAX_SLOTS];  /* every slot it may use; ended by a NULL name */
    /* Which of `slots` these values need, as a bit mask; NULL: all. */
    unsigned (*slots_used)(const double *hyper);
    /* The value a slot starts with; NULL: 0. */
    float (*slot_start)(const double *hyper, int slot);
    /* Refuse combinations of values that each are in range (nesterov without momentum); NULL: none. */
    int (*check)(const double *hyper, psd_err_t *err);
    /* Set the scalars of birth (NAdam's product = 1); NULL: zeros. */
    void (*born)(const double *hyper, double *scalar);
    /* Form update number `t` (from 1) with learning rate `lr`: write `coef`, advance `scalar`. */
    void (*prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef);
    /* The kernel: update s->n elements. */
    void (*step)(const psd_step_t *s);
    /* Rules that have to know sums over the whole tensor, or model, before an element may move: how many, up to PSD_MAX_SUMS; 0
     * for all others, which make no second pass. */
    int n_sums;
    psd_scope_t sums_over;
    /* The kernel of the pass before: add the terms of s->n elements to sum[0..n_sums). Weights and slots stay as they are. */
    void (*measure)(const psd_step_t *s, psd_lanes_t *sum);
    /* Bring the sums over the whole, total[0..n_sums), into the scalars that `prepare` formed with `lr`. */
    void (*settle)(const double *hyper, double lr, const double *total, float *coef);
};

typedef enum psd_pullback { PSD_PULLBACK_NONE, PSD_PULLBACK_RESET, PSD_PULLBACK_PULLBACK } psd_pullback_t;

typedef struct psd_rule {
    const psd_optimizer_t *opt;     /* the (inner) optimizer */
    double hyper[PSD_MAX_HYPER];    /* its values, in the order of opt->hyper */
    bool lookahead;                 /* whether Lookahead wraps it */
    uint32_t k;                     /* Lookahead: updates between syncs */
    double alpha;                   /* Lookahead: share of the way the slow weights go */
    psd_pullback_t pullback;        /* Lookahead: what happens to first moments at a sync */
    int n_slots;                    /* float arrays beside the weights that this rule keeps */
    psd_slot_t slot[PSD_MAX_SLOTS]; /* their names, in storage order: opt's used ones, then slow_param, slow_momentum */
    int slow_slot;                  /* index of the slow weights, -1 without Lookahead */
} psd_rule_t;

/* One planned update: everything that is the same for all elements of the tensor. Plain data, copy freely. */
typedef struct psd_plan {
    float coef[PSD_MAX_COEF]; /* the optimizer's scalars */
    float scale;              /* on the gradient, by whoever gives it; 1 unless it is clipped (common/optim/passes.h) */
    bool sync;                /* Lookahead syncs in this update */
    float alpha;              /* its step */
    float rest;               /* 1 - alpha, for the pullback of first moments */
} psd_plan_t;

/* Read a rule such as "adam(lr=1e-3, amsgrad=1)" or "lookahead(sgd(lr=0.1, momentum=0.9), k=5)"; spaces are
 * free. PSD_ECONFIG with the column, the reason and the nearest valid word when it is not one. */
int psd_rule_parse(psd_rule_t *rule, const char *spec, psd_err_t *err);

/* Print the rule with every value, so that it parses back to the same rule. Returns `buf`. */
char *psd_rule_print(const psd_rule_t *rule, char buf[PSD_RULE_TEXT]);

/* The same for people: the learning rate, and what is not the default. It too parses back to the same rule. */
char *psd_rule_print_brief(const psd_rule_t *rule, char buf[PSD_RULE_TEXT]);

/* The configured learning rate: the value of "lr". */
double psd_rule_lr(const psd_rule_t *rule);

/* Whether the rule keeps a momentum, as "momentum" or, as adam and its kin do, "beta1"; and give it another. */
bool psd_rule_has_momentum(const psd_rule_t *rule);
void psd_rule_set_momentum(psd_rule_t *rule, double momentum);

/* Begin a tensor (or a part of one): `state` for update 0 and the `n` elements of each slot, from weights `w`. */
void psd_rule_init(const psd_rule_t *rule, psd_rule_state_t *state, const float *w, float *const *slot, size_t n);

/* Count one more update in `state` and form its scalars with learning rate `lr`. */
psd_plan_t psd_rule_plan(const psd_rule_t *rule, psd_rule_state_t *state, double lr);

/* Make the planned update on `n` elements: `w` and `slot[0..n_slots)` in place, along gradient `g`. */
void psd_rule_apply(const psd_rule_t *rule, const psd_plan_t *plan, float *w, float *const *slot, const float *g, size_t n);

/* Add the rule's terms of `n` elements, which stay as they are, to sum[0..n_sums) (see psd_optimizer_t). Each sum is formed in
 * PSD_LANES running ones, which are then added pairwise. */
void psd_rule_measure(const psd_rule_t *rule, const psd_plan_t *plan, const float *w, float *const *slot, const float *g, size_t n,
                      double *sum);

/* The i-th optimizer of the table in the order of documentation, NULL past its end. */
const psd_optimizer_t *psd_optimizer_at(size_t i);

/* By name; NULL when there is none. */
const psd_optimizer_t *psd_optimizer_find(const char *name);
