#include "common/optim/inherit.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Files store counts as doubles, which are exact up to this value. */
#define MOST_UPDATES (UINT64_C(1) << 53)

/* The job's tensors. */
typedef struct names {
    const char *first;
    size_t stride;
    uint32_t n;
} names_t;

static const char *name_of(const names_t *self, uint32_t i) { return self->first + i * self->stride; }

/* Fields in the order of their tensors' names. */
typedef struct fields {
    const psd_state_field_t **at;
    size_t n;
} fields_t;

static int by_tensor(const void *a, const void *b)
{
    const psd_state_field_t *x = *(const psd_state_field_t *const *)a, *y = *(const psd_state_field_t *const *)b;
    const int order = strcmp(x->tensor, y->tensor);
    return order ? order : strcmp(x->field, y->field);
}

/* The fields of one tensor. */
static fields_t of_tensor(const fields_t *all, const char *tensor)
{
    size_t low = 0, high = all->n, end;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (strcmp(all->at[middle]->tensor, tensor) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (end = low; end < all->n && !strcmp(all->at[end]->tensor, tensor); end++)
        ;
    return (fields_t){ all->at + low, end - low };
}

static const psd_state_field_t *find(const fields_t *self, const char *field)
{
    for (size_t i = 0; i < self->n; i++)
        if (!strcmp(self->at[i]->field, field))
            return self->at[i];
    return NULL;
}

/* The rule that updates a tensor; NULL: the tensor is frozen and has no state. */
static const psd_rule_t *rule_of(const psd_groups_t *groups, uint8_t group)
{
    return groups->at[group].freezes ? NULL : &groups->at[group].rule;
}

static bool keeps(const psd_rule_t *rule, const char *field)
{
    bool kept = rule && !strcmp(field, "step");
    for (int s = 0; rule && s < rule->n_slots; s++)
        kept = kept || !strcmp(rule->slot[s].name, field);
    for (int i = 0; rule && i < psd_rule_n_scalars(rule); i++)
        kept = kept || !strcmp(rule->opt->scalars[i], field);
    return kept;
}

bool psd_inherit_knows(const char *field)
{
    if (!strcmp(field, "step"))
        return true;
    for (size_t i = 0; psd_optimizer_at(i); i++) {
        const psd_optimizer_t *opt = psd_optimizer_at(i);
        for (int s = 0; s < PSD_MAX_SLOTS && opt->slots[s].name; s++)
            if (!strcmp(opt->slots[s].name, field))
                return true;
        for (int k = 0; k < PSD_MAX_SCALAR && opt->scalars[k]; k++)
            if (!strcmp(opt->scalars[k], field))
                return true;
    }
    return false;
}

/* Whether a job can continue without this slot: slow weights start as the weights, and the momentum kept with them as 0. */
static bool is_lookaheads(const psd_rule_t *rule, int slot) { return rule->slow_slot >= 0 && slot >= rule->slow_slot; }

static bool needs_count(const psd_rule_t *rule) { return !rule->opt->uncounted || rule->lookahead; }

/* The first field that the rule keeps and the state does not have; NULL: none is missing. */
static const char *lacks(const psd_rule_t *rule, const psd_extent_t *tensor, const fields_t *fields, bool partial)
{
    for (int s = 0; s < rule->n_slots; s++)
        if (psd_rule_slot_length(rule, s, tensor) && !find(fields, rule->slot[s].name) && !(partial && is_lookaheads(rule, s)))
            return rule->slot[s].name;
    for (int i = 0; i < psd_rule_n_scalars(rule); i++)
        if (!find(fields, rule->opt->scalars[i]))
            return rule->opt->scalars[i];
    return needs_count(rule) && !find(fields, "step") ? "step" : NULL;
}

static int take_number(const psd_state_field_t *field, double least, double most, double *out, psd_err_t *err)
{
    if (field->data && field->n != 1)
        return psd_err_set(err, PSD_EDATA, "%s of tensor %.100s is an array of %zu; expected a number", field->field, field->tensor,
                           field->n);
    *out = field->data ? (double)*field->data : field->number;
    if (!(*out >= least && *out <= most))
        return psd_err_set(err, PSD_EDATA, "%s of tensor %.100s is %g; expected %g to %g", field->field, field->tensor, *out, least,
                           most);
    return PSD_OK;
}

static int fail_negative(const psd_rule_t *rule, const psd_state_field_t *field, const char *where, double value, psd_err_t *err)
{
    return psd_err_set(err, PSD_EDATA,
                       "%s of tensor %.100s is %g%s, but %s never makes it negative: it is damaged, or another field; write the "
                       "state again from the optimizer that kept it",
                       field->field, field->tensor, value, where, rule->opt->name);
}

static int take_scalar(const psd_rule_t *rule, const psd_state_field_t *field, bool may_be_negative, double *out, psd_err_t *err)
{
    const int rc = take_number(field, -HUGE_VAL, HUGE_VAL, out, err);
    if (!rc && !isfinite(*out))
        return psd_err_set(err, PSD_EDATA, "%s of tensor %.100s is Inf or NaN", field->field, field->tensor);
    return !rc && *out < 0 && !may_be_negative ? fail_negative(rule, field, "", *out, err) : rc;
}

static int take_numbers(const psd_rule_t *rule, const fields_t *fields, psd_inherited_t *out, psd_err_t *err)
{
    const psd_state_field_t *step = find(fields, "step");
    double t = 1;
    int rc = step ? take_number(step, 0, (double)MOST_UPDATES, &t, err) : PSD_OK;
    if (!rc && t != floor(t))
        rc = psd_err_set(err, PSD_EDATA, "step of tensor %.100s is %g; expected a whole number", step->tensor, t);
    out->n_scalars = (uint32_t)psd_rule_n_scalars(rule);
    for (uint32_t i = 0; !rc && i < out->n_scalars; i++)
        rc = take_scalar(rule, find(fields, rule->opt->scalars[i]), rule->opt->signed_scalars >> i & 1, &out->scalar[i], err);
    out->t = (uint64_t)t;
    return rc;
}

static int fail_element(const psd_rule_t *rule, const psd_state_field_t *field, size_t i, double value, psd_err_t *err)
{
    char where[48];
    snprintf(where, sizeof where, " at element %zu", i);
    return isfinite(value) ? fail_negative(rule, field, where, value, err)
                           : psd_err_set(err, PSD_EDATA, "%s of tensor %.100s is %g%s; training cannot start from that",
                                         field->field, field->tensor, value, where);
}

static int take_array(const psd_rule_t *rule, int slot, const psd_state_field_t *field, uint64_t n, float **out, psd_err_t *err)
{
    const float *from = field->data ? field->data : &(const float){ (float)field->number };
    const size_t n_from = field->data ? field->n : 1;
    const bool may_be_negative = rule->slot[slot].kind != PSD_SLOT_SQUARES;
    if (n_from != n)
        return psd_err_set(err, PSD_EDATA, "%s of tensor %.100s has %zu elements; this job's has %" PRIu64, field->field,
                           field->tensor, n_from, n);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(from[i]) || (from[i] < 0 && !may_be_negative))
            return fail_element(rule, field, i, from[i], err);
    if (!(*out = malloc(n * sizeof *from)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for %s of tensor %.100s", field->field, field->tensor);
    memcpy(*out, from, n * sizeof *from);
    return PSD_OK;
}

/* A tensor whose state is complete. */
static int take_tensor(psd_inheritance_t *self, uint32_t i, const psd_rule_t *rule, const psd_extent_t *extent,
                       const fields_t *fields, psd_err_t *err)
{
    int rc = take_numbers(rule, fields, &self->of[i], err);
    for (int s = 0; !rc && self->of[i].t && s < rule->n_slots; s++) {
        const uint64_t n = psd_rule_slot_length(rule, s, extent);
        const psd_state_field_t *field = n ? find(fields, rule->slot[s].name) : NULL;
        if (!field)
            continue;
        rc = take_array(rule, s, field, n, &self->slot[i][s], err);
        self->of[i].arrays |= 1u << s;
    }
    if (!self->of[i].t) /* never updated: the same as new */
        self->of[i] = (psd_inherited_t){ 0 };
    self->n_taken++;
    return rc;
}

static void note_missing(psd_inheritance_t *self, const char *tensor, const char *field)
{
    const size_t n = strlen(self->missing);
    snprintf(self->missing + n, sizeof self->missing - n, "%s%.60s/%s", n ? ", " : "", tensor, field);
    self->n_missing++;
}

/* The optimizer that kept a tensor's state, if that is not the one that trains it now; NULL: it is the same, or unknown. */
static const char *stranger(const psd_groups_t *from, const char *name, const psd_extent_t *extent, const psd_rule_t *rule)
{
    if (!from)
        return NULL;
    const psd_group_t *group = &from->at[psd_groups_of(from, name, &extent->shape)];
    return group->freezes || group->rule.opt == rule->opt ? NULL : group->rule.opt->name;
}

static int inherit_tensor(psd_inheritance_t *self, const char *name, uint32_t i, const psd_rule_t *rule, const psd_groups_t *from,
                          const psd_extent_t *extent, const fields_t *all, bool partial, psd_err_t *err)
{
    const fields_t fields = of_tensor(all, name);
    const char *other = rule && fields.n ? stranger(from, name, extent, rule) : NULL;
    if (other && !partial)
        return psd_err_set(
            err, PSD_EDATA,
            "the state of tensor %.100s was kept by %s, but this job trains it with %s; use the same optimizer, or start without "
            "its state",
            name, other, rule->opt->name);
    for (size_t k = 0; !partial && k < fields.n; k++)
        if (!keeps(rule, fields.at[k]->field))
            return psd_err_set(err, PSD_EDATA,
                               "the state of tensor %.100s has %.60s, which %s does not keep: another optimizer kept it; use that "
                               "optimizer, or start without its state",
                               name, fields.at[k]->field, rule ? rule->opt->name : "a frozen tensor");
    for (size_t k = 0; !partial && k + 1 < fields.n; k++)
        if (!strcmp(fields.at[k]->field, fields.at[k + 1]->field))
            return psd_err_set(err, PSD_EDATA, "the state of tensor %.100s has %.60s twice", name, fields.at[k]->field);
    if (!rule || (!rule->n_slots && !psd_rule_n_scalars(rule) && !fields.n))
        return PSD_OK;
    const char *missing = other ? rule->opt->name : lacks(rule, extent, &fields, partial);
    if (!missing)
        return take_tensor(self, i, rule, extent, &fields, err);
    note_missing(self, name, missing);
    return partial ? PSD_OK
                   : psd_err_set(
                         err, PSD_EDATA,
                         "there is no %s of tensor %.100s, which %s%s keeps; allow partial state (init.partial) to start it afresh",
                         missing, name, rule->lookahead ? "lookahead around " : "", rule->opt->name);
}

/* Check that each field belongs to one of the job's tensors. */
static int check_tensors(const names_t *names, const fields_t *all, psd_err_t *err)
{
    size_t n = 0;
    for (uint32_t i = 0; i < names->n; i++)
        n += of_tensor(all, name_of(names, i)).n;
    for (size_t k = 0; n < all->n && k < all->n; k++) {
        bool known = false;
        for (uint32_t i = 0; !known && i < names->n; i++)
            known = !strcmp(name_of(names, i), all->at[k]->tensor);
        if (!known)
            return psd_err_set(err, PSD_EDATA, "it has %.60s of tensor %.100s, which the model does not have; its first is %.100s",
                               all->at[k]->field, all->at[k]->tensor, names->first);
    }
    return PSD_OK;
}

static psd_inheritance_t *new_inheritance(uint32_t n)
{
    psd_inheritance_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->n = n;
    self->of = calloc(n + 1, sizeof *self->of);
    self->slot = calloc(n + 1, sizeof *self->slot);
    if (!self->of || !self->slot)
        psd_inheritance_destroy(&self);
    return self;
}

psd_inheritance_t *psd_inherit(const char *name, size_t stride, const psd_extent_t *tensor, uint32_t n_tensors,
                               const psd_groups_t *groups, const uint8_t *group_of, const psd_state_field_t *field, size_t n,
                               const psd_groups_t *from, bool partial, psd_err_t *err)
{
    const names_t names = { name, stride, n_tensors };
    psd_inheritance_t *self = new_inheritance(n_tensors);
    fields_t all = { calloc(n + 1, sizeof *all.at), n };
    int rc = PSD_OK;
    if (!self || !all.at)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the optimizer state of %" PRIu32 " tensors", n_tensors);
    for (size_t i = 0; !rc && i < n; i++)
        all.at[i] = &field[i];
    if (!rc)
        qsort(all.at, n, sizeof *all.at, by_tensor);
    if (!rc && !partial)
        rc = check_tensors(&names, &all, err);
    for (uint32_t i = 0; !rc && i < n_tensors; i++)
        rc = inherit_tensor(self, name_of(&names, i), i, rule_of(groups, group_of[i]), from, &tensor[i], &all, partial, err);
    if (!rc && !self->n_taken && self->n_missing)
        rc = psd_err_set(err, PSD_EDATA, "no tensor has all the state that its optimizer keeps; missing: %s", self->missing);
    free(all.at);
    if (rc)
        psd_inheritance_destroy(&self);
    return self;
}

void psd_inheritance_destroy(psd_inheritance_t **self_p)
{
    psd_inheritance_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (uint32_t i = 0; self->slot && i < self->n; i++)
        for (int s = 0; s < PSD_MAX_SLOTS; s++)
            free(self->slot[i][s]);
    free(self->slot);
    free(self->of);
    free(self);
}
