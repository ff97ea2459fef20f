#include "worker/weights.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Types ---- */

static double from_f64(const uint8_t *at)
{
    double value;
    memcpy(&value, at, sizeof value);
    return value;
}

static double from_f32(const uint8_t *at)
{
    float value;
    memcpy(&value, at, sizeof value);
    return (double)value;
}

static double from_bf16(const uint8_t *at)
{
    const uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* 1 sign, 5 exponent, 10 mantissa. */
static double from_f16(const uint8_t *at)
{
    const unsigned bits = (unsigned)at[0] | (unsigned)at[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double value = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                         : exponent     ? ldexp(1024 + mantissa, (int)exponent - 25)
                                        : ldexp(mantissa, -24);
    return bits >> 15 ? -value : value;
}

static double from_i64(const uint8_t *at)
{
    int64_t value;
    memcpy(&value, at, sizeof value);
    return (double)value;
}

static double from_i32(const uint8_t *at)
{
    int32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static const struct type {
    const char *dtype;
    size_t size;
    double (*from)(const uint8_t *at);
    bool whole; /* types of single numbers only */
} types[] = { { "F32", 4, from_f32, false }, { "F64", 8, from_f64, false }, { "BF16", 2, from_bf16, false },
              { "F16", 2, from_f16, false }, { "I64", 8, from_i64, true },  { "I32", 4, from_i32, true } };

static const struct type *type_of(const psd_entry_t *entry, bool whole)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].dtype, entry->dtype) && (whole || !types[i].whole))
            return &types[i];
    return NULL;
}

int psd_weights_number(const psd_safetensors_t *file, const psd_entry_t *entry, double *out, psd_err_t *err)
{
    const struct type *type = type_of(entry, true);
    uint8_t bytes[8];
    if (!type)
        return psd_err_set(err, PSD_EDATA, "%s: %.100s has type %s; save it as float64", file->path, entry->name, entry->dtype);
    const int rc = psd_safetensors_read(file, entry, bytes, err);
    *out = rc ? 0 : type->from(bytes);
    return rc || isfinite(*out) ? rc : psd_err_set(err, PSD_EDATA, "%s: %.100s is Inf or NaN", file->path, entry->name);
}

int psd_weights_read(const psd_safetensors_t *file, const psd_entry_t *entry, float *out, size_t n, psd_err_t *err)
{
    const struct type *type = type_of(entry, false);
    if (!type)
        return psd_err_set(err, PSD_EDATA, "%s: tensor %.100s has type %s; save it as float32", file->path, entry->name,
                           entry->dtype);
    uint8_t *bytes = malloc(n * type->size + 1);
    if (!bytes)
        return psd_err_set(err, PSD_ENOMEM, "%s: no memory for tensor %.100s", file->path, entry->name);
    int rc = psd_safetensors_read(file, entry, bytes, err);
    for (size_t i = 0; !rc && i < n; i++) {
        const double value = type->from(bytes + i * type->size);
        out[i] = (float)value;
        if (!(fabs(value) <= (double)FLT_MAX))
            rc = psd_err_set(err, PSD_EDATA, "%s: tensor %.100s, element %zu of %zu is %s; training cannot start from that",
                             file->path, entry->name, i, n, isnan(value) ? "NaN" : "beyond the range of float32");
    }
    free(bytes);
    return rc;
}

/* ---- Tensors ---- */

static const psd_entry_t *find(const psd_safetensors_t *file, const char *name)
{
    for (size_t i = 0; i < file->n_entries; i++)
        if (!strcmp(file->entry[i].name, name))
            return &file->entry[i];
    return NULL;
}

/* "[128, 784]" */
static void print_shape(const uint64_t *shape, size_t n_dims, char *out, size_t room)
{
    size_t n = (size_t)snprintf(out, room, "[");
    for (size_t i = 0; i < n_dims && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (n < room)
        snprintf(out + n, room - n, "]");
}

static bool has_shape(const psd_entry_t *entry, const psd_param_t *param)
{
    bool same = entry->n_dims == param->n_dims;
    for (size_t i = 0; same && i < param->n_dims; i++)
        same = entry->shape[i] == param->shape[i];
    return same;
}

static void append(char list[256], const char *name)
{
    const size_t n = strlen(list);
    snprintf(list + n, 256 - n, "%s%.60s", n ? ", " : "", name);
}

static int refuse(const psd_safetensors_t *file, const psd_param_t *param, const psd_entry_t *entry, psd_err_t *err)
{
    char there[128], ours[128];
    print_shape(param->shape, param->n_dims, ours, sizeof ours);
    if (!entry)
        return psd_err_set(err, PSD_EDATA, "%s: it has no tensor %s %s, but the model does", file->path, param->name, ours);
    print_shape(entry->shape, entry->n_dims, there, sizeof there);
    return psd_err_set(err, PSD_EDATA, "%s: tensor %s is %s there, but %s in the model", file->path, param->name, there, ours);
}

static void list_unused(const psd_safetensors_t *file, const psd_param_t *params, size_t n, psd_weights_taken_t *taken)
{
    for (size_t e = 0; e < file->n_entries; e++) {
        bool ours = false;
        for (size_t i = 0; i < n; i++)
            ours = ours || !strcmp(file->entry[e].name, params[i].name);
        if (ours)
            continue;
        taken->n_unused++;
        append(taken->unused, file->entry[e].name);
    }
}

int psd_weights_take(psd_model_t *model, const psd_safetensors_t *file, bool partial, psd_weights_taken_t *taken, psd_err_t *err)
{
    const psd_param_t *params = psd_model_params(model);
    const size_t n = psd_model_n_params(model);
    *taken = (psd_weights_taken_t){ 0 };
    list_unused(file, params, n, taken);
    for (size_t i = 0; i < n; i++) {
        const psd_entry_t *entry = find(file, params[i].name);
        if (entry && has_shape(entry, &params[i])) {
            const int rc = psd_weights_read(file, entry, params[i].data, params[i].n, err);
            if (rc)
                return rc;
            taken->n_taken++;
            continue;
        }
        if (!partial)
            return refuse(file, &params[i], entry, err);
        taken->n_missing++;
        append(taken->missing, params[i].name);
    }
    return taken->n_taken
               ? PSD_OK
               : psd_err_set(err, PSD_EDATA, "%s: none of its tensors fits the model: the model's first is %s, the file has %s",
                             file->path, params[0].name, taken->n_unused ? taken->unused : "none");
}

/* ---- The shape of the training set ---- */

/* The number of features, which the first layer takes, and of outputs, which the last one gives. */
static int read_sizes(const psd_safetensors_t *file, size_t *features, size_t *outputs, psd_err_t *err)
{
    uint64_t last = 0;
    *features = *outputs = 0;
    for (size_t i = 0; i < file->n_entries; i++) {
        const psd_entry_t *entry = &file->entry[i];
        uint64_t layer;
        int n = 0;
        if (sscanf(entry->name, "fc%" SCNu64 ".weight%n", &layer, &n) != 1 || entry->name[n] || entry->n_dims != 2)
            continue;
        if (layer == 1)
            *features = (size_t)entry->shape[1];
        if (layer > last) {
            last = layer;
            *outputs = (size_t)entry->shape[0];
        }
    }
    return *features && *features <= PSD_MAX_FEATURES && *outputs && *outputs <= PSD_MAX_CLASSES
               ? PSD_OK
               : psd_err_set(err, PSD_EDATA,
                             "%s: it has no tensor fc1.weight of two dimensions, as models of psd have; psdctl import renames the "
                             "tensors of other models",
                             file->path);
}

psd_dataset_t *psd_weights_frame(const psd_safetensors_t *file, const psd_model_kind_t *kind, psd_err_t *err)
{
    const char *text = psd_safetensors_note(file, PSD_ENCODING_NOTE);
    size_t features, outputs;
    if (read_sizes(file, &features, &outputs, err))
        return NULL;
    psd_dataset_t *frame = calloc(1, sizeof *frame);
    if (!frame) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a data set");
        return NULL;
    }
    frame->n_features = features;
    frame->kind = kind->labels;
    frame->n_classes = kind->labels != PSD_LABEL_CLASS ? 0 : outputs == 1 ? 2 : outputs;
    if (text && !(frame->encoding = psd_encoding_parse(text, err)))
        psd_err_wrap(err, "%s", file->path);
    else if (frame->encoding && frame->encoding->n_features != features)
        psd_err_set(err, PSD_EDATA, "%s: its encoding makes %zu features, but its first tensor takes %zu; train the model again",
                    file->path, frame->encoding->n_features, features);
    else if (frame->encoding && frame->encoding->class_word && frame->encoding->n_classes != frame->n_classes)
        psd_err_set(err, PSD_EDATA, "%s: its encoding has %zu classes, but its last tensor %zu outputs; train the model again",
                    file->path, frame->encoding->n_classes, outputs);
    else
        return frame;
    psd_dataset_destroy(&frame);
    return NULL;
}
