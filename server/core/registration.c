#include "server/core/registration.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void refuse(psd_registration_t *out, psd_refusal_t refusal, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void refuse(psd_registration_t *out, psd_refusal_t refusal, const char *format, ...)
{
    va_list args;
    out->verdict = PSD_REGISTRATION_REFUSED;
    out->refusal = refusal;
    va_start(args, format);
    vsnprintf(out->why, sizeof out->why, format, args);
    va_end(args);
}

/* The number of rows of an epoch has to be told, and to equal the others', if it is needed. */
static void check_rows(psd_registration_t *out, const psd_registration_look_t *look, const psd_registrant_t *it)
{
    const uint64_t theirs = it->model->rows;
    if (!look->needs_rows)
        return;
    if (!theirs)
        refuse(
            out, PSD_REFUSAL_CONFIG,
            "worker %u does not say how many rows an epoch has, but schedule.unit is epoch; let it say so when it connects (rows), "
            "or use schedule.unit step or sample",
            it->row->id);
    else if (look->model->n && theirs != look->model->rows)
        refuse(out, PSD_REFUSAL_CONFIG,
               "worker %u says that an epoch has %" PRIu64 " rows, the others say %" PRIu64
               "; schedule.unit is epoch, so all workers have to say the same",
               it->row->id, theirs, look->model->rows);
}

/* Every group must have tensors; otherwise it names tensors that do not exist. */
static void check_groups(psd_registration_t *out, const psd_registration_look_t *look, const psd_registrant_t *it)
{
    psd_err_t err = { 0 };
    if (look->model->n)
        return;
    psd_extent_t *extents = psd_tensors_extents(it->model);
    uint8_t *group_of = malloc(it->model->n);
    assert(extents && group_of && "no memory for the groups of a model");
    if (psd_groups_assign(look->groups, it->model->tensor->name, sizeof *it->model->tensor, extents, it->model->n, group_of,
                          &err)) {
        out->verdict = PSD_REGISTRATION_UNFIT;
        snprintf(out->why, sizeof out->why, "%s", err.text);
    }
    free(group_of);
    free(extents);
}

/* Whether the rules of the tensors keep the state that these inherit. */
static int keeps_inherited(const psd_groups_t *groups, const psd_tensor_list_t *model, psd_err_t *err)
{
    psd_extent_t *extents = psd_tensors_extents(model);
    assert(extents && "no memory for the sizes of a model");
    int rc = PSD_OK;
    for (uint32_t i = 0; model->inherited && !rc && i < model->n; i++) {
        const psd_inherited_t *it = &model->inherited[i];
        const psd_group_t *group = &groups->at[psd_groups_of(groups, model->tensor[i].name, &extents[i].shape)];
        const int n_scalars = group->freezes ? 0 : psd_rule_n_scalars(&group->rule);
        if (!it->t || (it->n_scalars == (uint32_t)n_scalars && !(it->arrays >> group->rule.n_slots)))
            continue;
        rc =
            psd_err_set(err, PSD_ECONFIG, "tensor %s with arrays %#" PRIx32 " and %" PRIu32 " scalars, of which %s keeps %d and %d",
                        model->tensor[i].name, it->arrays, it->n_scalars,
                        group->freezes ? "a frozen tensor" : group->rule.opt->name, group->rule.n_slots, n_scalars);
    }
    free(extents);
    return rc;
}

/* All workers bring the optimizer state that the job starts with. */
static void check_inherited(psd_registration_t *out, const psd_registration_look_t *look, const psd_registrant_t *it)
{
    psd_err_t err = { 0 };
    if (!look->inherits)
        return;
    if (look->model->n && psd_tensors_compare_inherited(look->model, it->model, &err))
        refuse(out, PSD_REFUSAL_CONFIG,
               "worker %u starts with other optimizer state than the others: %s; give all workers the same state", it->row->id,
               err.text);
    else if (!look->model->n && keeps_inherited(look->groups, it->model, &err))
        refuse(out, PSD_REFUSAL_CONFIG,
               "worker %u starts with optimizer state that this job does not keep: %s; give all the same optimizer", it->row->id,
               err.text);
}

static void check_model(psd_registration_t *out, const psd_registration_look_t *look, const psd_registrant_t *it)
{
    psd_err_t err = { 0 };
    if (look->model->n && psd_tensors_compare(look->model, it->model, &err))
        refuse(out, PSD_REFUSAL_SHAPE,
               "worker %u registers another model: %s; give all workers the same tensors, in the same order", it->row->id,
               err.text);
}

typedef void check_fn(psd_registration_t *out, const psd_registration_look_t *look, const psd_registrant_t *it);
static check_fn *const checks[] = { check_rows, check_groups, check_model, check_inherited };

void psd_registration_judge(psd_registration_t *out, const psd_registration_look_t *look, psd_membership_t *members,
                            const psd_registrant_t *registrant)
{
    *out = (psd_registration_t){ .verdict = PSD_REGISTRATION_FITS };
    for (size_t i = 0; out->verdict == PSD_REGISTRATION_FITS && i < sizeof checks / sizeof *checks; i++)
        checks[i](out, look, registrant);
    if (out->verdict == PSD_REGISTRATION_FITS && !psd_membership_agrees(members, registrant->row, registrant->recipe))
        refuse(out, PSD_REFUSAL_CONFIG,
               "worker %u trains another model, on other data or in another order: it has %.255s; the others have %s",
               registrant->row->id, registrant->recipe, members->recipe);
}
