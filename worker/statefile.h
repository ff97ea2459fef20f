/* statefile.h - the optimizer state in a file of safetensors or numpy's npz, as psdctl export, psdctl import or a torch program
 * writes it: an array for each field of each tensor, named state/<tensor>/<field>. <tensor> is a tensor's name or its number, from
 * 0, among the optimizer's parameters; the leading "state/" may be missing, and a dot may stand for a slash. */
#pragma once

#include "common/optim/inherit.h"
#include "common/system/safetensors.h"
#include "worker/model.h"
#include "worker/npz.h"

/* The notes of a file: the rule that kept the state, its groups, and the names of the numbered tensors, one on each line. */
#define PSD_NOTE_OPTIMIZER "psd.optimizer"
#define PSD_NOTE_GROUPS    "psd.groups"
#define PSD_NOTE_TENSORS   "psd.tensors"

typedef struct psd_statefile {
    psd_state_field_t *field; /* n of them */
    size_t n;
    const char *path;               /* borrowed; NULL: nothing was read */
    const char *optimizer, *groups; /* the rule that kept the state, and its groups; NULL: the file has no such note */
    char *names;                    /* of the tensors, as in the note */
    size_t room;                    /* of these: names and values of the fields */
    char **tensor;
    float **data;
    psd_safetensors_t tensors; /* the file's contents, in one of the two formats */
    psd_bytes_t bytes;
    psd_npz_t arrays;
} psd_statefile_t;

/* Read `path` for a model: numbered tensors are those of the file's own note, otherwise the model's. Call psd_statefile_clear in
 * any case; on all zeros it does nothing. As psd_safetensors_open and _parse, psd_slurp and psd_npz_read; PSD_EDATA for an array
 * that is not state, or that has Inf or NaN. */
int psd_statefile_read(psd_statefile_t *self, const char *path, const psd_model_t *model, psd_err_t *err);
void psd_statefile_clear(psd_statefile_t *self);

/* Assign the state to the model's tensors, as trained with these values of options optimizer and groups (common/optim/inherit.h).
 * The caller destroys the result. NULL with `err` set as by psd_inherit, with the file's name. */
psd_inheritance_t *psd_statefile_fit(const psd_statefile_t *self, const psd_model_t *model, const char *rule, const char *groups,
                                     bool partial, psd_err_t *err);

/* Split the name of an array into its tensor, as written, and its field. False: it is not the name of a field. */
bool psd_statefile_split(const char *name, char tensor[128], const char **field);

/* The name of a tensor that is written as `tensor`: that text itself if it is one of the `n` names or not a number; otherwise the
 * name with that number. NULL: there is none. */
const char *psd_statefile_tensor(const char *tensor, const char *const *name, size_t n);
