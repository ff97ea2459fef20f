/* import.c - `psdctl import`: converts another program's weights, such as torch's state_dict in safetensors or npz, to a model of
 * psd for `init` and psdctl predict; with --state, its optimizer's state for `init.state`. */
#include "deploy/psdctl/verb.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/options.h"
#include "common/system/safetensors.h"
#include "deploy/psdctl/inspect/arrays.h"
#include "deploy/psdctl/say.h"
#include "worker/npz.h"
#include "worker/setup.h"
#include "worker/slurp.h"
#include "worker/statefile.h"
#include "worker/weights.h"

enum { FROM, TO, OPTIMIZER, FORCE };

/* A file of arrays, of either format. */
typedef struct source {
    const char *path;
    psd_safetensors_t tensors;
    psd_bytes_t bytes;
    psd_npz_t arrays;
    bool is_npz;
    size_t n;
    size_t *order; /* its arrays, sorted by name, with numbers in names as numbers */
} source_t;

static const char *name_of(const source_t *self, size_t i)
{
    return self->is_npz ? self->arrays.member[self->order[i]].name : self->tensors.entry[self->order[i]].name;
}

static size_t dims_of(const source_t *self, size_t i)
{
    return self->is_npz ? self->arrays.member[self->order[i]].array.n_dims : self->tensors.entry[self->order[i]].n_dims;
}

static uint64_t size_of(const source_t *self, size_t i, size_t dim)
{
    return self->is_npz ? self->arrays.member[self->order[i]].array.shape[dim] : self->tensors.entry[self->order[i]].shape[dim];
}

/* "layer2" before "layer10": the order in which torch lists layers. */
static int compare_names(const void *a, const void *b, void *arg)
{
    const source_t *self = arg;
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return self->is_npz ? strverscmp(self->arrays.member[x].name, self->arrays.member[y].name)
                        : strverscmp(self->tensors.entry[x].name, self->tensors.entry[y].name);
}

static int read_source(source_t *self, const char *path, psd_err_t *err)
{
    *self = (source_t){ .path = path, .tensors = { .fd = -1 } };
    self->is_npz = psd_slurp_begins(path, PSD_NPZ_MAGIC);
    int rc;
    if (self->is_npz) {
        rc = psd_slurp(&self->bytes, path, PSD_NPZ_MAGIC, err);
        rc = rc ? rc : psd_npz_read(&self->bytes, &self->arrays, err);
        self->n = self->arrays.n;
    } else {
        rc = psd_safetensors_open(&self->tensors, path, err);
        rc = rc ? rc : psd_safetensors_parse(&self->tensors, err);
        self->n = self->tensors.n_entries;
    }
    if (!rc && !(self->order = malloc((self->n + 1) * sizeof *self->order)))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for %zu names", self->n);
    for (size_t i = 0; !rc && i < self->n; i++)
        self->order[i] = i;
    if (!rc)
        qsort_r(self->order, self->n, sizeof *self->order, compare_names, self);
    return rc;
}

static void close_source(source_t *self)
{
    free(self->order);
    psd_npz_clear(&self->arrays);
    psd_slurp_free(&self->bytes);
    psd_safetensors_close(&self->tensors);
}

static int read_values(const source_t *self, size_t i, float *out, size_t n, psd_err_t *err)
{
    if (!self->is_npz)
        return psd_weights_read(&self->tensors, &self->tensors.entry[self->order[i]], out, n, err);
    for (size_t k = 0; k < n; k++)
        out[k] = (float)psd_npy_value(&self->arrays.member[self->order[i]].array, k);
    const size_t bad = psd_first_nonfinite(out, n);
    return bad == n ? PSD_OK
                    : psd_err_set(err, PSD_EDATA, "%s: array '%.60s', element %zu of %zu is not a finite float32", self->path,
                                  name_of(self, i), bad, n);
}

/* ---- Matching ---- */

static bool has_shape(const source_t *self, size_t i, const psd_param_t *param)
{
    bool same = dims_of(self, i) == param->n_dims;
    for (size_t d = 0; same && d < param->n_dims; d++)
        same = size_of(self, i, d) == param->shape[d];
    return same;
}

static void print_shape(const source_t *self, size_t i, char out[160])
{
    size_t n = (size_t)snprintf(out, 160, "[");
    for (size_t d = 0; d < dims_of(self, i) && n < 130; d++)
        n += (size_t)snprintf(out + n, 160 - n, "%s%" PRIu64, d ? ", " : "", size_of(self, i, d));
    snprintf(out + n, 160 - n, "]");
}

/* Match every tensor of the model by name; false when one has no array. */
static bool match_by_name(const source_t *self, const psd_param_t *param, size_t n, size_t *which)
{
    for (size_t p = 0; p < n; p++) {
        which[p] = self->n;
        for (size_t i = 0; i < self->n; i++)
            if (!strcmp(name_of(self, i), param[p].name))
                which[p] = i;
        if (which[p] == self->n)
            return false;
    }
    return true;
}

/* The k-th array of `n_dims` dimensions: torch's layers have other names but the same order, a matrix and a vector each. */
static size_t kth(const source_t *self, size_t n_dims, size_t k)
{
    for (size_t i = 0; i < self->n; i++)
        if (dims_of(self, i) == n_dims && k-- == 0)
            return i;
    return self->n;
}

static int match(const source_t *self, const psd_param_t *param, size_t n, size_t *which, psd_err_t *err)
{
    char shape[160];
    if (!match_by_name(self, param, n, which)) {
        size_t missing = 0;
        while (which[missing] != self->n)
            missing++;
        if (self->n != n) /* otherwise the names are torch's */
            return psd_err_set(
                err, PSD_EDATA,
                "%s: none of its %zu arrays is %s; the job's model has %zu tensors, %s to %s: add what is missing, or, "
                "if the names are torch's, leave out arrays that are not a weight or bias of a layer",
                self->path, self->n, param[missing].name, n, param[0].name, param[n - 1].name);
        for (size_t p = 0; p < n; p++)
            which[p] = kth(self, param[p].n_dims, p / 2);
    }
    for (size_t p = 0; p < n; p++) {
        if (which[p] == self->n)
            return psd_err_set(err, PSD_EDATA, "%s: it has fewer arrays of %zu dimensions than the model", self->path,
                               param[p].n_dims);
        if (has_shape(self, which[p], &param[p]))
            continue;
        print_shape(self, which[p], shape);
        return psd_err_set(err, PSD_EDATA,
                           "%s: array '%.60s' is %s, but %s of the job's model is [%" PRIu64 "%s%.0" PRIu64
                           "]; a weight is [outputs, "
                           "inputs]",
                           self->path, name_of(self, which[p]), shape, param[p].name, param[p].shape[0],
                           param[p].n_dims > 1 ? ", " : "", param[p].n_dims > 1 ? param[p].shape[1] : 0);
    }
    return PSD_OK;
}

static int convert(const source_t *self, const psd_options_t *o, const char *to, psd_err_t *err)
{
    psd_setup_t setup;
    size_t which[PSD_MAX_PARAMS];
    psd_saved_t saved[PSD_MAX_PARAMS];
    int rc = psd_setup_load_anew(&setup, o, err);
    const size_t n = rc ? 0 : psd_model_n_params(setup.model);
    const psd_param_t *param = rc ? NULL : psd_model_params(setup.model);
    rc = rc ? rc : match(self, param, n, which, err);
    for (size_t p = 0; !rc && p < n; p++) {
        rc = read_values(self, which[p], param[p].data, param[p].n, err);
        saved[p] = (psd_saved_t){
            .name = param[p].name, .shape = param[p].shape, .n_dims = param[p].n_dims, .n = param[p].n, .data = param[p].data
        };
    }
    const psd_note_t notes[] = { { "format", "pt" },
                                 { "psd.job", psd_options_string(o, PSD_OPT_job) },
                                 { "psd.version", PSD_VERSION } };
    rc = rc ? rc : psd_safetensors_write(to, saved, n, notes, sizeof notes / sizeof *notes, err);
    for (size_t p = 0; !rc && p < n; p++) {
        char shape[160];
        print_shape(self, which[p], shape);
        printf("%s %s: ", param[p].name, shape);
        psd_say_text(stdout, name_of(self, which[p]), 100);
        putchar('\n');
    }
    if (!rc)
        printf("%s: %zu tensors\n", to, n);
    psd_setup_clear(&setup);
    return rc;
}

static int import_weights(const psd_options_t *o, const char *from, const char *to, psd_err_t *err)
{
    source_t source;
    int rc = read_source(&source, from, err);
    rc = rc ? rc : convert(&source, o, to, err);
    close_source(&source);
    return rc;
}

/* ---- The optimizer's state ---- */

/* What a file of state lists: the fields of all tensors that inherit. */
typedef struct listed {
    psd_array_t *array;
    const float **data; /* of each; NULL: it is a number */
    double *number;
    size_t n;
} listed_t;

static void list_field(listed_t *self, const psd_param_t *param, const char *field, const float *data, uint64_t length,
                       double number)
{
    psd_array_t *array = &self->array[self->n];
    snprintf(array->name, sizeof array->name, "state/%s/%s", param->name, field);
    array->is_number = !data;
    array->n_dims = !data ? 0 : length == param->n ? param->n_dims : 1;
    array->shape[0] = length;
    if (length == param->n)
        memcpy(array->shape, param->shape, param->n_dims * sizeof *param->shape);
    self->data[self->n] = data;
    self->number[self->n++] = number;
}

static void list_tensor(listed_t *self, const psd_inheritance_t *all, size_t i, const psd_param_t *param, const psd_rule_t *rule)
{
    const psd_extent_t extent = psd_model_extent(param);
    if (!all->of[i].t)
        return;
    for (int s = 0; s < rule->n_slots; s++)
        if (all->slot[i][s])
            list_field(self, param, rule->slot[s].name, all->slot[i][s], psd_rule_slot_length(rule, s, &extent), 0);
    list_field(self, param, "step", NULL, 0, (double)all->of[i].t);
    for (uint32_t k = 0; k < all->of[i].n_scalars; k++)
        list_field(self, param, rule->opt->scalars[k], NULL, 0, all->of[i].scalar[k]);
}

static int write_listed(const listed_t *self, const char *to, const psd_note_t *notes, size_t n_notes, psd_err_t *err)
{
    psd_arrays_t *file = psd_arrays_new(psd_arrays_format_at(0), to, self->array, self->n, notes, n_notes, err);
    int rc = file ? PSD_OK : err->code;
    for (size_t i = 0; !rc && i < self->n; i++) {
        size_t n = 1;
        for (size_t d = 0; d < self->array[i].n_dims; d++)
            n *= self->array[i].shape[d];
        rc = self->data[i] ? psd_arrays_write(file, i, 0, self->data[i], n, err)
                           : psd_arrays_write_number(file, i, self->number[i], err);
    }
    if (!rc)
        rc = psd_arrays_end(&file, err);
    psd_arrays_abandon(&file);
    return rc;
}

/* Write what the tensors of the model inherit, and say it. */
static int write_state(const psd_inheritance_t *all, const psd_model_t *model, const psd_options_t *o, const char *to,
                       psd_err_t *err)
{
    enum { FIELDS = PSD_MAX_SLOTS + 1 + PSD_MAX_SCALAR };
    const size_t n = psd_model_n_params(model);
    const psd_param_t *param = psd_model_params(model);
    char rule[PSD_RULE_TEXT], text[PSD_GROUPS_TEXT];
    psd_groups_t groups; /* psd_statefile_fit has read the same */
    psd_groups_parse(&groups, psd_options_string(o, PSD_OPT_optimizer), psd_options_string(o, PSD_OPT_groups), NULL);
    listed_t listed = { .array = calloc(n * FIELDS, sizeof *listed.array),
                        .data = calloc(n * FIELDS, sizeof *listed.data),
                        .number = calloc(n * FIELDS, sizeof *listed.number) };
    int rc = listed.array && listed.data && listed.number ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for a list of fields");
    for (size_t i = 0; !rc && i < n; i++) {
        const psd_extent_t extent = psd_model_extent(&param[i]);
        const psd_rule_t *its = &groups.at[psd_groups_of(&groups, param[i].name, &extent.shape)].rule;
        list_tensor(&listed, all, i, &param[i], its);
        if (all->of[i].t)
            printf("%s: %s after %" PRIu64 " updates\n", param[i].name, its->opt->name, all->of[i].t);
        else
            printf("%s: starts with new state\n", param[i].name);
    }
    const psd_note_t notes[] = { { "format", "pt" },
                                 { "psd.job", psd_options_string(o, PSD_OPT_job) },
                                 { "psd.version", PSD_VERSION },
                                 { PSD_NOTE_OPTIMIZER, psd_rule_print(&psd_groups_rest(&groups)->rule, rule) },
                                 { PSD_NOTE_GROUPS, psd_groups_print(&groups, text) } };
    rc = rc ? rc : write_listed(&listed, to, notes, sizeof notes / sizeof *notes, err);
    if (!rc)
        printf("%s: state of %u tensors\n", to, all->n_taken);
    free(listed.array);
    free(listed.data);
    free(listed.number);
    return rc;
}

static int import_state(const psd_options_t *o, const char *from, const char *to, psd_err_t *err)
{
    psd_setup_t setup;
    psd_statefile_t file = { .path = NULL };
    psd_inheritance_t *all = NULL;
    int rc = psd_setup_load_anew(&setup, o, err);
    rc = rc ? rc : psd_statefile_read(&file, from, setup.model, err);
    if (!rc && !(all = psd_statefile_fit(&file, setup.model, psd_options_string(o, PSD_OPT_optimizer),
                                         psd_options_string(o, PSD_OPT_groups), psd_options_bool(o, PSD_OPT_init_partial), err)))
        rc = err->code;
    rc = rc ? rc : write_state(all, setup.model, o, to, err);
    psd_inheritance_destroy(&all);
    psd_statefile_clear(&file);
    psd_setup_clear(&setup);
    return rc;
}

static int import(const psd_args_t *args, const psd_options_t *options)
{
    psd_err_t err = { 0 };
    const bool is_state = args->flag[OPTIMIZER];
    const char *to = args->flag[TO] ? args->flag[TO] : is_state ? "optimizer_state.safetensors" : "model.safetensors";
    int rc = psd_verb_check_output(args, options, TO, to, &err);
    rc = rc ? rc : psd_verb_check_new(to, args->flag[FORCE], "file", &err);
    rc = rc ? rc : (is_state ? import_state : import_weights)(options, args->flag[FROM], to, &err);
    return rc ? psd_say_error("import", &err) : 0;
}

static int run(const psd_args_t *args)
{
    if (!args->flag[FROM])
        return psd_verb_misuse(args->verb, "a file is missing: give --from=FILE");
    return psd_verb_with_options(args, import);
}

const psd_verb_t psd_verb_import = {
    .name = "import",
    .words = "[JOB]",
    .does = "convert another program's weights to a model of the job",
    .about = "Reads a torch state_dict that was saved as safetensors or npz, and writes a model for init and psdctl predict. It "
             "matches arrays with the names of the job's tensors by name; otherwise it takes matrices and vectors in the order of "
             "their names, which is that of torch's layers. It prints the match for each tensor. With --state it reads the state "
             "of a torch "
             "optimizer, with arrays such as state/0/exp_avg, checks that the job's optimizer keeps it, and writes what init.state "
             "reads.",
    .flag = { [FROM] = { .key = "from",
                         .type = PSD_OPTION_PATH,
                         .argument = "FILE",
                         .help = "safetensors or npz with the weights" },
              [TO] = { .key = "to",
                       .type = PSD_OPTION_PATH,
                       .argument = "PATH",
                       .help = "file for the model (default: model.safetensors), or for the state (default: "
                               "optimizer_state.safetensors)" },
              [OPTIMIZER] = { .key = "state", .type = PSD_OPTION_SWITCH, .help = "FILE holds an optimizer's state, not weights" },
              [FORCE] = { .key = "force", .type = PSD_OPTION_SWITCH, .help = "replace an existing file" } },
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_WORKER,
    .examples = "psdctl import deploy/examples/glyphs.yaml --from=net.npz --to=init.safetensors\n"
                "psdctl import deploy/examples/glyphs.yaml --state --from=adam.npz --to=state.safetensors\n",
    .exits = "78 and 64 as config check; 65 when the arrays do not fit the job's model; 66 when a file does not exist; "
             "74 when the file to write exists already",
    .run = run,
};
