/* optimizer.h - the contract that an optimizer keeps, the table of them, and the grammar of a rule:
 * "lookahead(cautious(adamw(lr=1e-3)), k=5, alpha=0.5)". Exact formulas: each file of optim/ under its equation.
 *
 * An update of a tensor is made in two halves, so that any part of it may be stepped by any thread: psd_rule_plan() counts the
 * update and forms all its scalars, in double, rounded once; psd_rule_apply() then runs the kernel over any range of elements,
 * in any order, as often as there are ranges. The result does not depend on how the elements were cut, on the compiler, or on
 * the instruction set. A rule that needs the whole tensor (`whole` in its row) gets all of it at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/lanes.h"
#include "common/base/partition.h"

enum {
    PSD_MAX_HYPER = 14, /* hyper-parameters of one optimizer */
    PSD_MAX_COEF = 16,  /* float scalars that a kernel reads */
    PSD_MAX_SCALAR = 4, /* double scalars that a tensor carries from update to update (NAdam's product) */
    PSD_MAX_SLOTS = 5,  /* float arrays beside the weights, Lookahead's included */
    PSD_MAX_SUMS = 4,   /* doubles that a rule asks for before its step */
    PSD_RULE_TEXT = 512 /* longest printed rule, with its end */
};

/* What a kernel sees: `n` consecutive elements. Arrays never overlap. */
typedef struct psd_step {
    size_t n;                   /* elements */
    float *w;                   /* weights, updated in place */
    const float *g;             /* gradient */
    float *slot[PSD_MAX_SLOTS]; /* state arrays in the order of the optimizer's `slots` (unused ones NULL) */
    const float *coef;          /* what `prepare` made */
    const psd_shape_t *shape;   /* of a rule that needs the whole tensor: its matrices */
} psd_step_t;

/* What sums are over. */
typedef enum psd_scope { PSD_SCOPE_TENSOR, PSD_SCOPE_MODEL } psd_scope_t;

/* Carried by each tensor (and kept equal by each of its chunks) from update to update. All zero at birth is wrong:
 * use psd_rule_init(). */
typedef struct psd_rule_state {
    uint64_t t;                    /* updates made */
    uint64_t sync_epoch;           /* Lookahead syncs made */
    double scalar[PSD_MAX_SCALAR]; /* the optimizer's own scalars */
} psd_rule_state_t;

/* What another job's optimizer has kept of a tensor, but for its arrays. */
typedef struct psd_inherited {
    uint64_t t;                    /* updates that were made of it; 0: its optimizer starts afresh, and the rest is 0 */
    uint32_t arrays;               /* bit s: it inherits slot s of the tensor's rule */
    uint32_t n_scalars;            /* as many as its rule has */
    double scalar[PSD_MAX_SCALAR]; /* these */
} psd_inherited_t;

typedef struct psd_hyper {
    const char *name;        /* as in OPTIMIZERS: torch's spelling */
    double def;              /* default */
    double min, max;         /* accepted range, both ends included unless `open` */
    bool open_min, open_max; /* whether the end itself is refused */
    bool flag;               /* 0 or 1; also written false, true */
    const char *help;        /* a few words */
} psd_hyper_t;

typedef enum psd_slot_kind {
    PSD_SLOT_PLAIN,   /* may hold any numbers */
    PSD_SLOT_MOMENT,  /* a first moment: Lookahead's reset and pullback treat it */
    PSD_SLOT_SQUARES, /* made of squares or magnitudes: no element is ever negative */
} psd_slot_kind_t;

typedef struct psd_rule_slot {
    const char *name; /* torch's state name: momentum_buffer, exp_avg, exp_avg_sq, ... */
    psd_slot_kind_t kind;
} psd_rule_slot_t;

/* Where weight_decay goes. */
typedef enum psd_decay {
    PSD_DECAY_UNSAID,  /* the rule cannot be cautious */
    PSD_DECAY_L2,      /* into the gradient */
    PSD_DECAY_WEIGHTS, /* onto the weights, before the step: decoupled */
    PSD_DECAY_CHOSEN   /* either, by a flag `decoupled` */
} psd_decay_t;

typedef struct psd_optimizer psd_optimizer_t;
struct psd_optimizer {
    const char *name;                     /* "adam" */
    const char *summary;                  /* one line for people */
    const char *formula;                  /* one line of mathematics */
    const char *paper;                    /* author, year, arXiv number or source */
    const char *advice;                   /* when to try it, in a sentence or two for people */
    psd_hyper_t hyper[PSD_MAX_HYPER];     /* ended by a NULL name; "lr" is always the first */
    psd_rule_slot_t slots[PSD_MAX_SLOTS]; /* every slot it may use; ended by a NULL name */
    /* Which of `slots` these values need, as a bit mask; NULL: all. */
    unsigned (*slots_used)(const double *hyper);
    /* The value a slot starts with; NULL: 0. */
    float (*slot_start)(const double *hyper, int slot);
    unsigned of_weights; /* slots that begin as the weights, as a bit mask */
    const char *alone;   /* why Lookahead may not wrap it; NULL: it may */
    psd_decay_t decay;   /* of rules that may be cautious */
    const char *bold;    /* why one may not; NULL: it has not been shown to help */
    /* Refuse combinations of values that each are in range (nesterov without momentum); NULL: none. */
    int (*check)(const double *hyper, psd_err_t *err);
    /* The names of its own scalars, in their order; ended by NULL when there are fewer than PSD_MAX_SCALAR. */
    const char *scalars[PSD_MAX_SCALAR];
    unsigned signed_scalars; /* those that may be negative, as a bit mask */
    /* Other programs keep no count of updates for it: their state without a count belongs to a tensor that has been updated any
     * number of times. */
    bool uncounted;
    /* It finds its own learning rate, and lr is a factor on that. */
    bool finds_rate;
    /* Set the scalars of birth (NAdam's product = 1); NULL: zeros. */
    void (*born)(const double *hyper, double *scalar);
    /* Form update number `t` (from 1) with learning rate `lr`: write `coef`, advance `scalar`. */
    void (*prepare)(const double *hyper, double lr, uint64_t t, double *scalar, float *coef);
    /* The kernel: update s->n elements. */
    void (*step)(const psd_step_t *s);
    /* For rules that need sums over the whole tensor, or model, before an element may move: their number, up to PSD_MAX_SUMS; 0 for
     * all others, which need no second pass. */
    int n_sums;
    psd_scope_t sums_over;
    /* The kernel of the pass before: add the terms of s->n elements to sum[0..n_sums). Weights and slots stay as they are. */
    void (*measure)(const psd_step_t *s, psd_lanes_t *sum);
    /* Bring the sums over the whole, total[0..n_sums), into the scalars that `prepare` formed with `lr`, and into those that are
     * carried on. Where sums are over the model, the latter move on also of a tensor that has no gradient. */
    void (*settle)(const double *hyper, double lr, const double *total, double *scalar, float *coef);
    /* For rules that evaluate other weights than they train: compute these, x, for n elements; NULL: the same weights. */
    void (*average)(const double *hyper, float *x, const float *w, float *const *slot, size_t n);
    /* Rules whose workers send votes instead of gradients; NULL for all others. A worker's half: its votes u[0..n) for gradient
     * g[0..n); kept[0..n), 0 at birth, is its own and moves on. */
    void (*vote)(const double *hyper, float *u, float *kept, const float *g, size_t n);
    /* Count the votes u[0..k)[0..n) into what `step` gets as its gradient. A NULL u[i] does not vote. */
    void (*count)(const double *hyper, float *d, const float *const *u, size_t k, size_t n);
    /* Rules whose `step` takes all elements of a tensor together, in the order of its shape. Such a tensor lies on one server. */
    bool whole;
    /* Elements of slot `slot` for a tensor, at most as many as that has, and then 0 at birth; NULL: as many. */
    uint64_t (*slot_length)(int slot, const psd_extent_t *tensor);
    const char *of_matrix; /* what it keeps of a matrix, where that is not what it keeps of other tensors */
    /* Rules for matrices: the rule of a job's other tensors, unless its groups say otherwise; NULL: it takes all. */
    const char *others;
};

typedef enum psd_pullback { PSD_PULLBACK_NONE, PSD_PULLBACK_RESET, PSD_PULLBACK_PULLBACK } psd_pullback_t;

typedef struct psd_rule {
    const psd_optimizer_t *opt;          /* the (inner) optimizer */
    double hyper[PSD_MAX_HYPER];         /* its values, in the order of opt->hyper */
    bool cautious;                       /* whether steps against the gradient are left out (kernels/cautious.c) */
    double caution_min;                  /* cautious: least share of a tensor that counts as agreeing */
    bool lookahead;                      /* whether Lookahead wraps it */
    uint32_t k;                          /* Lookahead: updates between syncs */
    double alpha;                        /* Lookahead: fraction of the way that the slow weights move */
    psd_pullback_t pullback;             /* Lookahead: what happens to first moments at a sync */
    int n_slots;                         /* float arrays beside the weights that this rule keeps */
    psd_rule_slot_t slot[PSD_MAX_SLOTS]; /* their names, in storage order: opt's used ones, then slow_param, slow_momentum */
    int slow_slot;                       /* index of the slow weights, -1 without Lookahead */
} psd_rule_t;

/* One planned update: everything that is the same for all elements of the tensor. Plain data, copy freely. */
typedef struct psd_plan {
    float coef[PSD_MAX_COEF]; /* the optimizer's scalars */
    float scale;              /* on the gradient, applied by the caller; 1 unless it is clipped (common/optim/passes.h) */
    bool sync;                /* Lookahead syncs in this update */
    float alpha;              /* its step */
    float rest;               /* 1 - alpha, for the pullback of first moments */
    float l2, keep, factor;   /* of a cautious rule: its decay, and the factor on agreeing elements */
    psd_shape_t shape;        /* of the tensor, set by the caller that steps it whole */
} psd_plan_t;

/* Read a rule such as "adam(lr=1e-3, amsgrad=1)" or "lookahead(sgd(lr=0.1, momentum=0.9), k=5)"; spaces are
 * free. PSD_ECONFIG with the column, the reason and the nearest valid word when it is not one. */
int psd_rule_parse(psd_rule_t *rule, const char *spec, psd_err_t *err);

/* Replace some of its values, "weight_decay=0, beta1=0.8": those of its optimizer and, where it wraps it, of Lookahead.
 * PSD_ECONFIG as above; the rule stays as it was then. */
int psd_rule_change(psd_rule_t *rule, const char *arguments, psd_err_t *err);

/* Wrap it in Lookahead, as `as` is where that is wrapped, or take Lookahead off; one that is as it should be stays. PSD_ECONFIG
 * when it cannot be wrapped. */
int psd_rule_wrap(psd_rule_t *rule, bool lookahead, const psd_rule_t *as, psd_err_t *err);

/* Print the rule with every value, so that it parses back to the same rule. Returns `buf`. */
char *psd_rule_print(const psd_rule_t *rule, char buf[PSD_RULE_TEXT]);

/* The same for people: the learning rate, and what is not the default. It too parses back to the same rule. */
char *psd_rule_print_brief(const psd_rule_t *rule, char buf[PSD_RULE_TEXT]);

/* The configured learning rate: the value of "lr". */
double psd_rule_lr(const psd_rule_t *rule);

/* Whether the rule keeps a momentum, as "momentum" or, as adam and its kin do, "beta1"; and give it another. */
bool psd_rule_has_momentum(const psd_rule_t *rule);
void psd_rule_set_momentum(psd_rule_t *rule, double momentum);

/* Whether it keeps weights for evaluation beside those that are trained (Lookahead's slow ones, an average); and copy them of n
 * elements to `out`: without such, the weights. */
bool psd_rule_has_slow(const psd_rule_t *rule);
void psd_rule_slow(const psd_rule_t *rule, const float *w, float *const *slot, float *out, size_t n);

/* Begin a tensor (or a part of one): `state` for update 0 and the `n` elements of each slot, from weights `w`. */
void psd_rule_init(const psd_rule_t *rule, psd_rule_state_t *state, const float *w, float *const *slot, size_t n);

/* The same of elements [from, from + n) of a tensor, whose slots have as many elements as psd_rule_slot_elements() says. */
void psd_rule_begin(const psd_rule_t *rule, psd_rule_state_t *state, const psd_extent_t *tensor, uint64_t from, const float *w,
                    float *const *slot, size_t n);

/* The number of the rule's own scalars. psd_rule_resume: continue with a tensor after `t` updates (at least 1) that another job has
 * made, with its scalars of that time, after psd_rule_begin(). The caller fills the slots. */
int psd_rule_n_scalars(const psd_rule_t *rule);
void psd_rule_resume(const psd_rule_t *rule, psd_rule_state_t *state, uint64_t t, const double *scalar);

/* Whether the rule needs all of a tensor for its step: psd_rule_apply() gets all elements at once then, and their shape in the
 * plan. */
bool psd_rule_is_whole(const psd_rule_t *rule);

/* The elements of the rule's s-th slot for all of a tensor, at most as many as that has; those that are kept with the tensor's
 * elements [from, from + n): a slot that is shorter than its tensor is kept with the first ones, element by element. */
uint64_t psd_rule_slot_length(const psd_rule_t *rule, int s, const psd_extent_t *tensor);
size_t psd_rule_slot_elements(const psd_rule_t *rule, int s, const psd_extent_t *tensor, uint64_t from, size_t n);

/* Count one more update in `state` and form its scalars with learning rate `lr`. */
psd_plan_t psd_rule_plan(const psd_rule_t *rule, psd_rule_state_t *state, double lr);

/* Make the planned update on `n` elements: `w` and `slot[0..n_slots)` in place, along gradient `g`. */
void psd_rule_apply(const psd_rule_t *rule, const psd_plan_t *plan, float *w, float *const *slot, const float *g, size_t n);

/* Add the rule's terms of `n` elements, which stay as they are, to sum[0..n_sums) (see psd_optimizer_t). Each sum is formed in
 * PSD_LANES running ones, which are then added pairwise. */
void psd_rule_measure(const psd_rule_t *rule, const psd_plan_t *plan, const float *w, float *const *slot, const float *g, size_t n,
                      double *sum);

/* Whether workers send votes, which are counted, and not gradients, of which the mean is taken (by no rule, all 0, they do not);
 * a worker's votes (see psd_optimizer_t). Arrays do not overlap, and may be cut anywhere. */
bool psd_rule_votes(const psd_rule_t *rule);
void psd_rule_vote(const psd_rule_t *rule, float *u, float *kept, const float *g, size_t n);

/* What a step goes along: the sum of what k workers have sent, sent[0..k)[0..n), with these weights (psd_aggregate), or the
 * count of their votes. A NULL sent[i] adds nothing. `out` overlaps none of them. */
void psd_rule_sum(const psd_rule_t *rule, float *out, const float *const *sent, const double *weight, size_t k, size_t n);

/* How many doubles the rule asks for before its step, over what; and bring them, found over the whole, into the plan that was
 * made with `lr`, and into the state. */
int psd_rule_n_sums(const psd_rule_t *rule);
psd_scope_t psd_rule_sums_over(const psd_rule_t *rule);
void psd_rule_settle(const psd_rule_t *rule, double lr, const double *total, psd_rule_state_t *state, psd_plan_t *plan);

/* Bytes that the rule keeps for each parameter of a tensor that is no matrix, beside the weights. */
unsigned psd_rule_state_bytes(const psd_rule_t *rule);

/* The i-th optimizer of the table in the order of documentation, NULL past its end. */
const psd_optimizer_t *psd_optimizer_at(size_t i);

/* By name; NULL when there is none. */
const psd_optimizer_t *psd_optimizer_find(const char *name);
