#include "common/optim/groups.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

psd_groups_t psd_groups_alone(const psd_rule_t *rule)
{
    return (psd_groups_t){ .n = 1, .n_said = 1, .at[0] = { .rule = *rule, .lr_mult = 1, .clips = true } };
}

const psd_group_t *psd_groups_rest(const psd_groups_t *self)
{
    assert(self->n && "groups are parsed before they are used");
    return &self->at[self->n_said - 1];
}

/* ---- whose a tensor is ---- */

/* Whether the pattern matches all of the name: a star takes the shortest run that lets the rest match, and one more character
 * when it does not. */
static bool matches(const char *pattern, const char *name)
{
    const char *star = NULL, *from = name;
    while (*name) {
        if (*pattern == '*') {
            star = pattern++;
            from = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star + 1;
            name = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

uint8_t psd_groups_of(const psd_groups_t *self, const char *name, const psd_shape_t *shape)
{
    uint8_t g = 0;
    while (g + 1u < self->n_said && !matches(self->at[g].match, name))
        g++;
    return self->at[g].others && shape->n_dims != 2 ? self->at[g].others : g;
}

/* No tensor is in the group: its pattern is one for other names, or earlier groups take all that it matches. */
static int complain(const psd_group_t *group, const char *name, size_t stride, size_t n, psd_err_t *err)
{
    char names[200] = "";
    bool any = false;
    for (size_t i = 0; i < n; i++)
        any |= matches(group->match, name + i * stride);
    for (size_t i = 0, used = 0; i < n && used < sizeof names - 1; i++) {
        if (any && !matches(group->match, name + i * stride))
            continue;
        const int more = snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", name + i * stride);
        used = used + (size_t)more < sizeof names ? used + (size_t)more : sizeof names - 1;
    }
    const char *dots = strlen(names) == sizeof names - 1 ? "..." : "";
    if (any)
        return psd_err_set(err, PSD_ECONFIG,
                           "groups: earlier groups take all tensors that %s matches: %s%s; put it before them, or leave it out",
                           group->match, names, dots);
    return psd_err_set(err, PSD_ECONFIG,
                       "groups: %s matches no tensor of the model, which has %s%s; correct the pattern, or leave the group out",
                       group->match, names, dots);
}

int psd_groups_assign(const psd_groups_t *self, const char *name, size_t stride, psd_extent_t *tensor, size_t n, uint8_t *group_of,
                      psd_err_t *err)
{
    for (size_t i = 0; i < n; i++) {
        group_of[i] = psd_groups_of(self, name + i * stride, &tensor[i].shape);
        tensor[i].whole = psd_rule_is_whole(&self->at[group_of[i]].rule);
    }
    for (uint32_t g = 0; g + 1 < self->n_said; g++) {
        bool any = !strcmp(self->at[g].match, "*"); /* all others, of which there may be none */
        for (size_t i = 0; i < n && !any; i++)
            any = group_of[i] == g || (self->at[g].others && group_of[i] == self->at[g].others);
        if (!any)
            return complain(&self->at[g], name, stride, n, err);
    }
    bool trains = n == 0;
    for (size_t i = 0; i < n; i++)
        trains |= !self->at[group_of[i]].freezes;
    return trains ? PSD_OK
                  : psd_err_set(err, PSD_ECONFIG,
                                "groups: every tensor of the model is frozen, so nothing would be trained; leave one out of the "
                                "groups with freeze");
}

/* ---- what holds for a group ---- */

double psd_groups_rate(const psd_groups_t *self, uint32_t g, const psd_schedule_t *schedule, double base, double progress)
{
    const psd_group_t *group = &self->at[g];
    const double jobs = psd_rule_lr(&psd_groups_rest(self)->rule), its = psd_rule_lr(&group->rule);
    if (its != jobs)
        base = jobs > 0 ? its * (base / jobs) : its;
    return group->lr_mult * psd_schedule_rate(schedule, base, progress);
}

double psd_groups_factor(const psd_groups_t *self, uint32_t g)
{
    const double jobs = psd_rule_lr(&psd_groups_rest(self)->rule), its = psd_rule_lr(&self->at[g].rule);
    return self->at[g].lr_mult * (its != jobs && jobs > 0 ? its / jobs : 1);
}

const psd_clip_t *psd_group_clip(const psd_group_t *self, const psd_clip_t *clip)
{
    static const psd_clip_t none = { .value = 0 };
    return self->clips && !self->freezes ? clip : &none;
}

double psd_group_squares(const psd_group_t *self, const psd_clip_t *clip, const float *g, size_t n)
{
    const double sum = psd_clip_sum_of_squares(psd_group_clip(self, clip), g, n);
    return self->clips && !self->freezes ? sum : sum * 0; /* Inf and NaN show */
}

int psd_groups_slots(const psd_groups_t *self)
{
    int most = 0;
    for (uint32_t g = 0; g < self->n; g++)
        most = self->at[g].rule.n_slots > most ? self->at[g].rule.n_slots : most;
    return most;
}

bool psd_groups_have_slow(const psd_groups_t *self)
{
    bool any = false;
    for (uint32_t g = 0; g < self->n; g++)
        any |= psd_rule_has_slow(&self->at[g].rule);
    return any;
}
