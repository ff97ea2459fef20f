/* passes.h - what a step must know of the whole before it may move an element: sums over a tensor, or over the model.
 *
 * A step of most rules is one pass over the elements. Clipping by norm needs the length of the whole gradient first, lamb the
 * norms of each tensor: for each of these there is a pass before the step, which changes nothing and adds up some doubles. Sums
 * are formed per chunk, block by block, and chunks are added in the order of the model, on whatever server they lie: the same
 * bits for any number of servers. A rule that needs the whole tensor has a pass without sums, which waits until all gradients of
 * a tensor are summed, where it lies (server/core/shard.c). A job none of whose groups wants such sums makes none of these
 * passes; in one that is made for some groups the others' chunks add nothing. */
#pragma once

#include "common/optim/clip.h"
#include "common/optim/groups.h"
#include "common/optim/optimizer.h"

enum {
    PSD_MAX_PASSES = 3,   /* before the step */
    PSD_PASS_BLOCK = 4096 /* elements that are summed by themselves */
};

typedef struct psd_pass {
    const char *name; /* of what it finds: for logs */
    bool (*is_needed)(const psd_group_t *group, const psd_clip_t *clip);
    int (*n_sums)(const psd_rule_t *rule); /* doubles that it adds up; at most PSD_MAX_SUMS; 0: servers have nothing to exchange */
    /* What they are sums over. */
    psd_scope_t (*scope)(const psd_rule_t *rule);
    /* Add the terms of n elements, at most PSD_PASS_BLOCK, to sum[0..n_sums). `g` is the summed gradient, bounded by value and
     * scaled as the passes before have found. */
    void (*measure)(const psd_rule_t *rule, const psd_plan_t *plan, const float *w, float *const *slot, const float *g, size_t n,
                    double *sum);
    /* Bring what was found, total[0..n_sums), into the plan of the passes after this one, and of the step. */
    void (*settle)(const psd_rule_t *rule, const psd_clip_t *clip, double lr, const double *total, psd_rule_state_t *state,
                   psd_plan_t *plan);
} psd_pass_t;

/* The passes that a job makes before its step, in their order. Plain data. */
typedef struct psd_passes {
    int n;
    const psd_pass_t *at[PSD_MAX_PASSES];
    int n_sums[PSD_MAX_PASSES]; /* of a chunk: of the group that has most */
    psd_scope_t
        scope[PSD_MAX_PASSES]; /* MODEL: there is one total; TENSOR: one for each tensor, where that of the groups whose sums are
                                          over the model is the same for all of theirs */
} psd_passes_t;
psd_passes_t psd_passes_of(const psd_groups_t *groups, const psd_clip_t *clip);

/* Whether pass `i` makes the steps of whole tensors, aside, before they count. */
bool psd_passes_is_whole(const psd_passes_t *self, int i);

/* Whether pass `i` looks at a group's tensors, and whether its total is over all of such tensors together. */
bool psd_passes_measures(const psd_passes_t *self, int i, const psd_group_t *group, const psd_clip_t *clip);
bool psd_passes_is_over_model(const psd_passes_t *self, int i, const psd_group_t *group);

/* Whether the scalars that a group's tensors carry are one for all of them, so that a step moves on also those of a tensor that
 * has no gradient: plan it with a copy of its state, and keep the copy's scalars. */
bool psd_passes_move_all(const psd_group_t *group);

/* The plan of the pass after the first `n_done`, or of the step when that is all of them: `state` counts the update; total[i]
 * is what pass i found for this tensor or for the model; NULL: it was not made. Give a copy of the state to all but the step. */
psd_plan_t psd_passes_plan(const psd_passes_t *self, const psd_group_t *group, const psd_clip_t *clip, psd_rule_state_t *state,
                           double lr, const double *const *total, int n_done);

/* Make pass `i` over n elements of a chunk, from its first one on: add their terms to sum[0..n_sums), block by block. `g` is
 * bounded by value; the plan's scale is applied here. */
void psd_passes_measure(const psd_passes_t *self, int i, const psd_rule_t *rule, const psd_plan_t *plan, const float *w,
                        float *const *slot, const float *g, size_t n, double *sum);
