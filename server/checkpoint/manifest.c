#include "server/checkpoint/manifest.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/printable.h"
#include "common/system/json.h"
#include "server/checkpoint/seal.h"

enum { FORMAT = 1 };
static const char opening[] = "{\n  \"crc\": \"", no_crc[] = "00000000";

/* Add `item`, which is taken, to `*list`. If an item is missing, the whole list is dropped: no manifest is incomplete. */
static void append(json_t **list, json_t *item)
{
    if (*list && json_array_append_new(*list, item) == 0)
        return;
    json_decref(*list);
    *list = NULL;
}

static json_t *tensors_json(const psd_tensor_list_t *model)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < model->n && all; i++) {
        json_t *shape = json_array();
        for (uint32_t k = 0; k < model->tensor[i].n_dims; k++)
            append(&shape, json_integer((json_int_t)model->tensor[i].dim[k]));
        append(&all, json_pack("{s:s, s:o}", "name", model->tensor[i].name, "shape", shape));
    }
    return all;
}

static json_t *files_json(const psd_manifest_t *self)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < self->facts.n_shards && all; i++) {
        char name[48], crc[9];
        snprintf(name, sizeof name, "shard-%" PRIu32 ".safetensors", i);
        snprintf(crc, sizeof crc, "%08" PRIx32, self->file[i].crc);
        append(&all, json_pack("{s:s, s:I, s:s}", "name", name, "bytes", (json_int_t)self->file[i].n_bytes, "header_crc", crc));
    }
    return all;
}

/* Whether JSON can say it. */
static bool is_sayable(const psd_manifest_t *self)
{
    bool good = isfinite(self->facts.lr) && psd_is_utf8(self->facts.job) && psd_is_utf8(self->facts.settings);
    for (uint32_t i = 0; good && i < self->model.n; i++)
        good = psd_is_utf8(self->model.tensor[i].name);
    return good;
}

char *psd_manifest_print(const psd_manifest_t *self, size_t *n_bytes, psd_err_t *err)
{
    const psd_ckpt_facts_t *facts = &self->facts;
    if (!is_sayable(self)) {
        psd_err_set(err, PSD_EINVAL, "job, settings or a tensor's name is not UTF-8, or lr is not finite");
        return NULL;
    }
    json_t *root =
        json_pack("{s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:I, s:o, s:o}", "crc", no_crc, "format", FORMAT, "job",
                  facts->job, "settings", facts->settings, "clock", (json_int_t)facts->clock, "version", (json_int_t)facts->version,
                  "samples", (json_int_t)facts->samples, "view", (json_int_t)facts->view_id, "lr", facts->lr, "rows",
                  (json_int_t)self->model.rows, "files", files_json(self), "tensors", tensors_json(&self->model));
    char *text = psd_json_text(root, JSON_INDENT(2));
    json_decref(root);
    if (!text) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a manifest");
        return NULL;
    }
    *n_bytes = strlen(text);
    psd_manifest_seal(text, *n_bytes);
    return text;
}

/* Where the CRC's digits are; NULL when the text does not begin like a manifest. */
static const char *crc_in(const char *text, size_t n_bytes)
{
    const size_t n_opening = sizeof opening - 1;
    return n_bytes >= n_opening + sizeof no_crc - 1 && memcmp(text, opening, n_opening) == 0 ? text + n_opening : NULL;
}

bool psd_manifest_seal(char *text, size_t n_bytes)
{
    const char *crc = crc_in(text, n_bytes);
    if (crc)
        psd_seal(text, n_bytes, text + (crc - text));
    return crc != NULL;
}

static bool get_count(const json_t *object, const char *key, uint64_t limit, uint64_t *out)
{
    const json_t *value = json_object_get(object, key);
    const json_int_t number = json_integer_value(value);
    *out = (uint64_t)number;
    return json_is_integer(value) && number >= 0 && *out < limit;
}

static bool get_text(const json_t *object, const char *key, char **out)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text && (*out = strdup(text));
}

static bool read_facts(psd_ckpt_facts_t *facts, const json_t *root)
{
    const json_t *lr = json_object_get(root, "lr");
    facts->lr = json_real_value(lr);
    if (!get_count(root, "samples", PSD_MAX_COUNT, &facts->samples))
        facts->samples = 0; /* a manifest from before samples were counted */
    return json_is_real(lr) && isfinite(facts->lr) && get_text(root, "job", &facts->job) &&
           get_text(root, "settings", &facts->settings) && get_count(root, "clock", PSD_MAX_COUNT, &facts->clock) &&
           get_count(root, "version", PSD_MAX_COUNT, &facts->version) && get_count(root, "view", PSD_MAX_COUNT, &facts->view_id);
}

static bool read_files(psd_manifest_t *out, const json_t *files)
{
    const size_t n = json_array_size(files);
    if (n == 0 || n > PSD_MAX_SERVERS)
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *file = json_array_get(files, i);
        const char *crc = json_string_value(json_object_get(file, "header_crc"));
        char again[9];
        out->file[i].crc = crc ? (uint32_t)strtoul(crc, NULL, 16) : 0;
        snprintf(again, sizeof again, "%08" PRIx32, out->file[i].crc);
        if (!crc || strcmp(crc, again) != 0 || !get_count(file, "bytes", PSD_MAX_COUNT, &out->file[i].n_bytes))
            return false;
    }
    out->facts.n_shards = (uint32_t)n;
    return true;
}

static bool read_tensor(psd_tensor_desc_t *tensor, const json_t *value)
{
    const char *name = json_string_value(json_object_get(value, "name"));
    const json_t *shape = json_object_get(value, "shape");
    const size_t n_dims = json_array_size(shape);
    if (!name || strlen(name) >= PSD_MAX_NAME || !json_is_array(shape) || n_dims > PSD_MAX_DIMS)
        return false;
    memcpy(tensor->name, name, strlen(name));
    tensor->n_dims = (uint32_t)n_dims;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return false;
        tensor->dim[i] = (uint64_t)json_integer_value(dim);
    }
    return true;
}

/* proto/message.h defines a valid model: pass the list through its checks once. */
static bool read_tensors(psd_tensor_list_t *model, const json_t *tensors, psd_err_t *err)
{
    const size_t n = json_array_size(tensors);
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    psd_tensor_list_t list = { 0 };
    bool ok = n > 0 && n <= PSD_MAX_TENSORS && bytes && (list.tensor = calloc(n, sizeof *list.tensor));
    for (; ok && list.n < n; list.n++)
        ok = read_tensor(&list.tensor[list.n], json_array_get(tensors, list.n));
    const size_t n_bytes = ok ? psd_tensors_encode(&list, bytes, PSD_MAX_LIST) : 0;
    ok = n_bytes && psd_tensors_decode(model, bytes, n_bytes, err) == PSD_OK;
    psd_tensors_clear(&list);
    free(bytes);
    return ok;
}

static int read_root(psd_manifest_t *out, const json_t *root, uint64_t clock, const char *path, psd_err_t *err)
{
    uint64_t format;
    if (!get_count(root, "format", PSD_MAX_COUNT, &format))
        return psd_err_set(err, PSD_EDATA, "%s: not a manifest of psd", path);
    if (format != FORMAT)
        return psd_err_set(err, PSD_EDATA, "%s: of format %" PRIu64 "; this psd reads %d", path, format, FORMAT);
    if (!read_facts(&out->facts, root))
        return psd_err_set(err, PSD_EDATA, "%s: job, settings, clock, version, view or lr is wrong", path);
    if (out->facts.clock != clock)
        return psd_err_set(err, PSD_EDATA, "%s: of clock %" PRIu64, path, out->facts.clock);
    if (!read_files(out, json_object_get(root, "files")))
        return psd_err_set(err, PSD_EDATA, "%s: files are wrong", path);
    if (!read_tensors(&out->model, json_object_get(root, "tensors"), err))
        return psd_err_set(err, PSD_EDATA, "%s: tensors are wrong", path);
    if (!get_count(root, "rows", PSD_MAX_COUNT, &out->model.rows))
        out->model.rows = 0; /* a manifest from before schedules counted epochs */
    return PSD_OK;
}

int psd_manifest_parse(psd_manifest_t *out, const char *text, size_t n_bytes, uint64_t clock, const char *path, psd_err_t *err)
{
    uint32_t crc;
    json_error_t why;
    const char *digits = crc_in(text, n_bytes);
    *out = (psd_manifest_t){ 0 };
    if (!digits)
        return psd_err_set(err, PSD_EDATA, "%s: not a manifest of psd", path);
    if (!psd_seal_ok(text, n_bytes, digits, &crc))
        return psd_err_set(err, PSD_EDATA, "%s is damaged: its CRC differs", path);
    json_t *root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return psd_err_set(err, PSD_EDATA, "%s: line %d: %s", path, why.line, why.text);
    int rc = read_root(out, root, clock, path, err);
    json_decref(root);
    return rc;
}

void psd_manifest_clear(psd_manifest_t *self)
{
    psd_ckpt_facts_clear(&self->facts);
    psd_tensors_clear(&self->model);
}
