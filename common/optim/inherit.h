/* inherit.h - the optimizer state of an earlier job, with which a new job starts: named arrays and numbers become slots, update
 * counts and scalars of the new job's tensors. The names are those that psdctl export writes, which are torch's where torch has
 * them: exp_avg, step, slow_param. */
#pragma once

#include "common/base/partition.h"
#include "common/optim/groups.h"

/* One field of one tensor's state. */
typedef struct psd_state_field {
    const char *tensor; /* its name */
    const char *field;
    const float *data; /* an array of n elements; NULL: the field is `number` */
    size_t n;
    double number;
} psd_state_field_t;

/* The state that each tensor starts with. */
typedef struct psd_inheritance {
    uint32_t n;                    /* tensors */
    psd_inherited_t *of;           /* of each */
    float *(*slot)[PSD_MAX_SLOTS]; /* of each, its inherited slots, of psd_rule_slot_length() elements; NULL: not inherited */
    uint32_t n_taken, n_missing;   /* tensors that inherit; tensors whose state is missing or incomplete */
    char missing[256];             /* the first of these, with the missing field */
} psd_inheritance_t;

/* Assign `field[0..n)` to `n_tensors` tensors; tensor i has group group_of[i]. `name` is the first tensor's name, and the next
 * one's lies `stride` bytes further. A tensor inherits everything that its rule keeps, or nothing. Unless `partial`, it is an error
 * (PSD_EDATA) if a tensor's state is incomplete, if a field is not part of the tensor's rule, or if there is no such tensor. With
 * `partial`, a tensor with incomplete state starts with a new optimizer, missing slow weights start as the weights, and superfluous
 * fields are ignored; an error remains if no tensor can inherit. `from`: the rules that kept the state, NULL: unknown; state of
 * another optimizer does not fit. PSD_EDATA also for arrays of the wrong size, Inf, NaN, and negative numbers where the rule has
 * none. PSD_ENOMEM. Arrays are copied. NULL with `err` set. */
psd_inheritance_t *psd_inherit(const char *name, size_t stride, const psd_extent_t *tensor, uint32_t n_tensors,
                               const psd_groups_t *groups, const uint8_t *group_of, const psd_state_field_t *field, size_t n,
                               const psd_groups_t *from, bool partial, psd_err_t *err);

/* Whether any optimizer keeps a field of this name for each tensor. */
bool psd_inherit_knows(const char *field);

/* Free it and set `*self_p` to NULL; NULL is fine. */
void psd_inheritance_destroy(psd_inheritance_t **self_p);
