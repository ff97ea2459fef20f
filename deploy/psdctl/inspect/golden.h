/* golden.h - reads files of exact trajectories: for each case a rule, initial weights, a gradient per step, and the expected
 * weights. One record per line, tokens separated by one space, '#' begins a comment line:
 *
 *   case <id> opt=<name> n=<weights> steps=<T> [shape=<4x3,5>] [tol=<tolerance>] <argument>=<value> ...
 *   w0 <n values>                                initial weights
 *   d  <t> <value>                               prodigy's d after step t, for readers
 *   skip <t> <tensor>                            tensor of this number, from 0, has no gradient in step t
 *   lr <t> <value>                               learning rate of step t, if it differs from the rule's
 *   g  <t> <n values>                            gradient of step t, or instead, from several workers,
 *   gw <t> <worker> <samples> <n values>         one worker's mean gradient; workers ascending
 *   c  <t> <n values>                            expected gradient of step t once it is clipped
 *   w  <t> <n values>                            expected weights after step t
 *   x  <t> <n values>                            expected slow weights after step t
 *   end
 *
 * So is opt=cautious, with caution_min=. Parameter groups are opt=groups names=<tensors' names, with commas between> lr=
 * group0=<pattern>;<optimizer>;lr_mult:<x>;<key>:<value>... group1=... Lookahead is opt=lookahead inner=<name> k= alpha=
 * pullback=, then the inner rule's arguments. A case of clipping is opt=clip [clip_value=] [max_norm=]; it has no weights, and its
 * rule is sgd(lr=1), whose step from 0 is the clipped gradient. A case of a schedule is opt=schedule kind=<name> lr=<base>
 * steps=<T>, with the schedule's arguments; all its records are
 *
 *   lr <t> <value> [<momentum>]                  expected learning rate, and momentum, of step t, from 0 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/base/partition.h"
#include "common/optim/clip.h"
#include "common/optim/schedule.h"

enum {
    PSD_GOLDEN_ID = 64,          /* longest case id, with its end */
    PSD_GOLDEN_SPEC = 1024,      /* longest rule of a header, with its end */
    PSD_GOLDEN_N = 1 << 20,      /* most weights */
    PSD_GOLDEN_STEPS = 1000000,  /* most steps */
    PSD_GOLDEN_VALUES = 1 << 26, /* most values of a case: weights times steps */
    PSD_GOLDEN_WORKERS = 1024,   /* most workers of a step */
    PSD_GOLDEN_TENSORS = 1024    /* most tensors */
};

/* One worker's part of a step. */
typedef struct psd_golden_push {
    uint32_t worker;  /* its number, ascending within a step */
    uint64_t samples; /* number of samples behind its mean gradient */
    float *g;         /* n values */
} psd_golden_push_t;

typedef struct psd_golden_step {
    bool has_lr;               /* whether the file gives this step a learning rate */
    double lr;                 /* that rate; in a schedule's case, the expected one */
    double momentum;           /* in a schedule's case: the expected one; NaN when the file has none */
    float *g;                  /* gradient, NULL where there are pushes */
    psd_golden_push_t *pushes; /* the workers' parts, NULL where there is one gradient */
    size_t n_pushes;           /* how many */
    uint8_t *skips;            /* of each tensor: 1 when it has no gradient; NULL: all have */
    double *w, *x, *c;         /* expected weights, slow weights and clipped gradient; NULL when the file has none */
} psd_golden_step_t;

typedef struct psd_golden_case {
    char id[PSD_GOLDEN_ID];
    char *header;                /* the line that began it */
    char spec[PSD_GOLDEN_SPEC];  /* its rule, in the grammar of psd_rule_parse() */
    double tol;                  /* tolerance, 0 when the file gives none */
    size_t n;                    /* weights */
    size_t *size, n_tensors;     /* number of them per tensor; one tensor if the file gives no shape */
    psd_extent_t *tensor;        /* the same with their shapes */
    char (*name)[PSD_GOLDEN_ID]; /* of each tensor: w0, w1, ... if the file gives none */
    char *groups;                /* parameter groups, in the grammar of psd_groups_parse(); "" without */
    bool clips;                  /* it is a case of clipping: the file has the clipped gradient of each step */
    psd_clip_t clip;             /* how */
    bool schedules;              /* it is a schedule's case, without weights: the file has n_steps rates, from 0 */
    psd_schedule_t schedule;
    double lr;                /* its base rate */
    float *w0;                /* initial weights */
    psd_golden_step_t *steps; /* the steps, from t = 1 */
    size_t n_steps;           /* how many */
} psd_golden_case_t;

/* Whether tensor `t` has no gradient in a step. */
static inline bool psd_golden_skips(const psd_golden_step_t *step, size_t t) { return step->skips && step->skips[t]; }

typedef struct psd_golden psd_golden_t;

/* Read cases from `file`, which still belongs to the caller; errors call it `name`. NULL without memory. */
psd_golden_t *psd_golden_new(FILE *file, const char *name, psd_err_t *err);

/* Free the reader and set `*self_p` to NULL. */
void psd_golden_destroy(psd_golden_t **self_p);

/* Read the next case into `*out`, which becomes the caller's: NULL after the last. PSD_EDATA with "file:line:
 * reason" when the file breaks the format or a limit above; PSD_EIO, PSD_ENOMEM. */
int psd_golden_next(psd_golden_t *self, psd_golden_case_t **out, psd_err_t *err);

/* Free the case and set `*self_p` to NULL. A NULL case is fine. */
void psd_golden_case_destroy(psd_golden_case_t **self_p);

/* Print one record, "w 3 ...", with the 9 digits that give each float back. */
void psd_golden_print(FILE *out, char record, size_t t, const float *values, size_t n);
