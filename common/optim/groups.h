/* groups.h - parameter groups: different settings for some of a model's tensors. A group is a pattern of names and its changes to
 * the job's rule. A tensor belongs to the first group whose pattern matches its name (`*` for any run of characters, dots too),
 * otherwise to the rest, which the job's rule trains unchanged:
 *   "*.bias(weight_decay=0); embed.*(optimizer=adagrad(lr=0.05), lr_mult=0.1); conv1.*(freeze=1)"
 * Arguments of a group: values of its optimizer (Lookahead's too, where it is wrapped in one); optimizer, a rule of its own;
 * lookahead, whether that is wrapped as the job's is (0, 1); lr_mult; clip, whether its gradients are bounded, and counted in the
 * norm (0, 1); freeze, for tensors that stay as they are and keep no state (0, 1).
 *
 * A rule for matrices leaves the group's other tensors to a rule that it names; they are a group of their own, which differs in
 * nothing else. */
#pragma once

#include "common/optim/clip.h"
#include "common/optim/optimizer.h"
#include "common/optim/schedule.h"

enum {
    PSD_MAX_GROUPS = 32,    /* of a job, with the rest */
    PSD_GROUP_PATTERN = 64, /* bytes of a pattern, with its end */
    PSD_GROUPS_TEXT = 2048  /* bytes of all groups, printed, with its end */
};

typedef struct psd_group {
    char match[PSD_GROUP_PATTERN]; /* "" of the rest */
    psd_rule_t rule;               /* of frozen tensors one without state */
    double lr_mult;                /* on the scheduled rate */
    bool clips;                    /* bounds hold for its gradients */
    bool freezes;                  /* its tensors are never stepped */
    uint8_t others; /* the group that its tensors are in which its rule does not take (psd_optimizer_t); 0: it takes all */
} psd_group_t;

typedef struct psd_groups {
    uint32_t n;                     /* at least 1 */
    uint32_t n_said;                /* patterns and the rest; behind them are those of tensors that a rule does not take */
    psd_group_t at[PSD_MAX_GROUPS]; /* in the order in which patterns are tried; the rest is the last of those */
} psd_groups_t;

/* The job's rule, and its groups ("": none). PSD_ECONFIG with the column and the reason. */
int psd_groups_parse(psd_groups_t *out, const char *rule, const char *groups, psd_err_t *err);

/* Whether these are groups of some rule: all that can be said of them without it. PSD_ECONFIG as psd_groups_parse. */
int psd_groups_check(const char *groups, psd_err_t *err);

/* Only the rest, with this rule for tensors of any shape. */
psd_groups_t psd_groups_alone(const psd_rule_t *rule);

/* The group of tensors that no pattern matches. Its rule is the job's. */
const psd_group_t *psd_groups_rest(const psd_groups_t *self);

/* Print the groups except the rest, so that with the same rule they parse back to the same groups; "" without any. Returns
 * `text`. */
char *psd_groups_print(const psd_groups_t *self, char text[PSD_GROUPS_TEXT]);

/* The group of a tensor of that name and shape: its index. */
uint8_t psd_groups_of(const psd_groups_t *self, const char *name, const psd_shape_t *shape);

/* Find the group of each of n tensors: group_of[i] is its index. `name` is the first one's name, the next one's lies `stride`
 * bytes further. `tensor`: their shapes; tensors whose rule needs them whole are marked so. PSD_ECONFIG if a pattern other than
 * `*` matches no tensor that an earlier group has not taken, or if all tensors are frozen: it is probably a mistake. */
int psd_groups_assign(const psd_groups_t *self, const char *name, size_t stride, psd_extent_t *tensor, size_t n, uint8_t *group_of,
                      psd_err_t *err);

/* The rate of group `g` in a step, where `base` is the job's base rate in force: a group with a rate of its own keeps its
 * proportion to the job's. */
double psd_groups_rate(const psd_groups_t *self, uint32_t g, const psd_schedule_t *schedule, double base, double progress);

/* The ratio of that rate to the job's: lr_mult, times the ratio of the base rates if the group has its own. */
double psd_groups_factor(const psd_groups_t *self, uint32_t g);

/* The bounds that hold for a group's gradients. */
const psd_clip_t *psd_group_clip(const psd_group_t *self, const psd_clip_t *clip);

/* The sum of squares of g[0..n) of a group's tensor as clipping counts it: bounded by value, and 0 where clipping does not hold
 * for the group. Finite exactly when every element is. */
double psd_group_squares(const psd_group_t *self, const psd_clip_t *clip, const float *g, size_t n);

/* Most arrays that a group's rule keeps; whether any keeps weights for evaluation beside those that are trained. */
int psd_groups_slots(const psd_groups_t *self);
bool psd_groups_have_slow(const psd_groups_t *self);
