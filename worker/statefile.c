#include "worker/statefile.h"

#include <stdlib.h>
#include <string.h>

#include "worker/slurp.h"
#include "worker/weights.h"

bool psd_statefile_split(const char *name, char tensor[128], const char **field)
{
    if (!strncmp(name, "state/", 6) || !strncmp(name, "state.", 6))
        name += 6;
    const char *slash = strrchr(name, '/'), *cut = slash ? slash : strrchr(name, '.');
    if (!cut || cut == name || !cut[1] || cut - name >= 128)
        return false;
    memcpy(tensor, name, (size_t)(cut - name));
    tensor[cut - name] = '\0';
    *field = cut + 1;
    return true;
}

const char *psd_statefile_tensor(const char *tensor, const char *const *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(name[i], tensor))
            return name[i];
    if (strspn(tensor, "0123456789") != strlen(tensor))
        return tensor;
    const unsigned long long i = strtoull(tensor, NULL, 10);
    return strlen(tensor) < 19 && i < n ? name[i] : NULL;
}

/* ---- the file ---- */

static bool is_npz(const psd_statefile_t *self) { return self->arrays.member != NULL; }

static const char *name_of(const psd_statefile_t *self, size_t i)
{
    return is_npz(self) ? self->arrays.member[i].name : self->tensors.entry[i].name;
}

static int open_npz(psd_statefile_t *self, psd_err_t *err)
{
    int rc = psd_slurp(&self->bytes, self->path, PSD_NPZ_MAGIC, err);
    rc = rc ? rc : psd_npz_read(&self->bytes, &self->arrays, err);
    self->room = self->arrays.n;
    return rc;
}

static int open_safetensors(psd_statefile_t *self, psd_err_t *err)
{
    int rc = psd_safetensors_open(&self->tensors, self->path, err);
    rc = rc ? rc : psd_safetensors_parse(&self->tensors, err);
    self->room = self->tensors.n_entries;
    if (rc)
        return rc;
    self->optimizer = psd_safetensors_note(&self->tensors, PSD_NOTE_OPTIMIZER);
    self->groups = psd_safetensors_note(&self->tensors, PSD_NOTE_GROUPS);
    return PSD_OK;
}

/* The number of elements of the i-th array; *is_number: it has no dimension. */
static size_t size_of(const psd_statefile_t *self, size_t i, bool *is_number)
{
    size_t n = 1;
    if (is_npz(self)) {
        const psd_npy_t *array = &self->arrays.member[i].array;
        *is_number = !array->n_dims;
        return array->rows * array->width;
    }
    *is_number = !self->tensors.entry[i].n_dims;
    for (size_t d = 0; d < self->tensors.entry[i].n_dims; d++)
        n *= self->tensors.entry[i].shape[d];
    return n;
}

static int read_number(const psd_statefile_t *self, size_t i, double *out, psd_err_t *err)
{
    if (!is_npz(self))
        return psd_weights_number(&self->tensors, &self->tensors.entry[i], out, err);
    *out = psd_npy_value(&self->arrays.member[i].array, 0);
    return PSD_OK;
}

static int read_array(const psd_statefile_t *self, size_t i, float *out, size_t n, psd_err_t *err)
{
    if (!is_npz(self))
        return psd_weights_read(&self->tensors, &self->tensors.entry[i], out, n, err);
    for (size_t k = 0; k < n; k++)
        out[k] = (float)psd_npy_value(&self->arrays.member[i].array, k);
    return PSD_OK;
}

/* ---- its fields ---- */

/* The names that numbers stand for: those of the note, one on each line, or the model's. The caller frees them. */
static const char **find_names(psd_statefile_t *self, const psd_model_t *model, size_t *n)
{
    const char *note = is_npz(self) ? NULL : psd_safetensors_note(&self->tensors, PSD_NOTE_TENSORS);
    size_t room = psd_model_n_params(model) + 1;
    for (const char *c = note; c && *c; c++)
        room += *c == '\n';
    const char **name = calloc(room, sizeof *name);
    *n = 0;
    if (!name || (note && !(self->names = strdup(note)))) {
        free(name);
        return NULL;
    }
    for (char *rest = self->names, *line; note && (line = strsep(&rest, "\n"));)
        name[(*n)++] = line;
    for (size_t i = 0; !note && i < psd_model_n_params(model); i++)
        name[(*n)++] = psd_model_params(model)[i].name;
    return name;
}

static bool has_state(const psd_statefile_t *self)
{
    char tensor[128];
    const char *field;
    for (size_t i = 0; i < self->room; i++)
        if (psd_statefile_split(name_of(self, i), tensor, &field) && psd_inherit_knows(field))
            return true;
    return false;
}

static int refuse_model(const psd_statefile_t *self, psd_err_t *err)
{
    if (!self->room)
        return psd_err_set(err, PSD_EDATA, "%s: it has no optimizer state", self->path);
    return psd_err_set(err, PSD_EDATA,
                       "%s: it has no optimizer state: its first array is %.100s, as a model has it. A model is for init; for "
                       "init.state, give what psdctl export --optimizer or psdctl import --state writes, with arrays such as "
                       "state/0/exp_avg",
                       self->path, name_of(self, 0));
}

static const psd_param_t *find_param(const psd_model_t *model, const char *name)
{
    for (size_t i = 0; i < psd_model_n_params(model); i++)
        if (!strcmp(psd_model_params(model)[i].name, name))
            return &psd_model_params(model)[i];
    return NULL;
}

/* Whether both are matrices of as many elements, but of other sizes. */
static bool is_of_other_shape(const psd_statefile_t *self, size_t i, const psd_param_t *param)
{
    bool is_number;
    const size_t n_dims = is_npz(self) ? self->arrays.member[i].array.n_dims : self->tensors.entry[i].n_dims;
    if (!param || param->n_dims != 2 || n_dims < 2 || size_of(self, i, &is_number) != param->n)
        return false;
    const uint64_t rows = is_npz(self) ? self->arrays.member[i].array.shape[0] : self->tensors.entry[i].shape[0];
    return n_dims > 2 || rows != param->shape[0];
}

static int read_field(psd_statefile_t *self, size_t i, const psd_model_t *model, const char *const *name, size_t n_names,
                      psd_err_t *err)
{
    char written[128];
    bool is_number;
    psd_state_field_t *field = &self->field[i];
    if (!psd_statefile_split(name_of(self, i), written, &field->field))
        return psd_err_set(err, PSD_EDATA,
                           "%s: array %.100s is not optimizer state; its arrays are named state/<tensor>/<field>, such as "
                           "state/0/exp_avg",
                           self->path, name_of(self, i));
    const char *tensor = psd_statefile_tensor(written, name, n_names);
    if (!tensor)
        return psd_err_set(err, PSD_EDATA, "%s: array %.100s is for tensor number %.40s, but there are %zu tensors, from 0",
                           self->path, name_of(self, i), written, n_names);
    if (!(field->tensor = self->tensor[i] = strdup(tensor)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for the state in %s", self->path);
    field->n = size_of(self, i, &is_number);
    if (is_of_other_shape(self, i, find_param(model, tensor)))
        return psd_err_set(err, PSD_EDATA, "%s: array %.100s has another shape than its tensor; is it transposed?", self->path,
                           name_of(self, i));
    if (is_number)
        return read_number(self, i, &field->number, err);
    if (!(field->data = self->data[i] = malloc(field->n * sizeof *field->data + 1)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for array %.100s", name_of(self, i));
    return read_array(self, i, self->data[i], field->n, err);
}

int psd_statefile_read(psd_statefile_t *self, const char *path, const psd_model_t *model, psd_err_t *err)
{
    *self = (psd_statefile_t){ .path = path, .tensors = { .fd = -1 } };
    int rc = psd_slurp_begins(path, PSD_NPZ_MAGIC) ? open_npz(self, err) : open_safetensors(self, err);
    if (rc)
        return rc;
    size_t n_names = 0;
    const char **name = find_names(self, model, &n_names);
    self->field = calloc(self->room + 1, sizeof *self->field);
    self->tensor = calloc(self->room + 1, sizeof *self->tensor);
    self->data = calloc(self->room + 1, sizeof *self->data);
    if (!name || !self->field || !self->tensor || !self->data)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the state in %s", path);
    if (!rc && !has_state(self))
        rc = refuse_model(self, err);
    for (size_t i = 0; !rc && i < self->room; i++)
        rc = read_field(self, i, model, name, n_names, err);
    self->n = rc ? 0 : self->room;
    free(name);
    return rc;
}

void psd_statefile_clear(psd_statefile_t *self)
{
    if (!self->path)
        return;
    for (size_t i = 0; self->tensor && i < self->room; i++)
        free(self->tensor[i]);
    for (size_t i = 0; self->data && i < self->room; i++)
        free(self->data[i]);
    free(self->tensor);
    free(self->data);
    free(self->field);
    free(self->names);
    psd_npz_clear(&self->arrays);
    psd_slurp_free(&self->bytes);
    psd_safetensors_close(&self->tensors);
    *self = (psd_statefile_t){ 0 };
}

/* ---- the model ---- */

psd_inheritance_t *psd_statefile_fit(const psd_statefile_t *self, const psd_model_t *model, const char *rule, const char *groups,
                                     bool partial, psd_err_t *err)
{
    const psd_param_t *params = psd_model_params(model);
    const size_t n = psd_model_n_params(model);
    psd_extent_t extent[PSD_MAX_PARAMS];
    uint8_t group_of[PSD_MAX_PARAMS];
    psd_groups_t ours, from;
    for (size_t i = 0; i < n; i++)
        extent[i] = psd_model_extent(&params[i]);
    if (psd_groups_parse(&ours, rule, groups, err) ||
        psd_groups_assign(&ours, params->name, sizeof *params, extent, n, group_of, err))
        return NULL;
    if (self->optimizer && psd_groups_parse(&from, self->optimizer, self->groups ? self->groups : "", err)) {
        psd_err_wrap(err, "%s", self->path);
        return NULL;
    }
    psd_inheritance_t *out = psd_inherit(params->name, sizeof *params, extent, (uint32_t)n, &ours, group_of, self->field, self->n,
                                         self->optimizer ? &from : NULL, partial, err);
    if (!out)
        psd_err_wrap(err, "%s", self->path);
    return out;
}
