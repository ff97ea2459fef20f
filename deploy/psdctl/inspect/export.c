/* export.c - `psdctl export`: the weights of a checkpoint, and what its optimizer keeps, as files that torch and numpy
 * open. */
#include "deploy/psdctl/verb.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "deploy/psdctl/inspect/arrays.h"
#include "deploy/psdctl/say.h"
#include "server/checkpoint/checkpoint.h"

enum {
    MOST_LOOKED_AT = 10000,                     /* checkpoints of a directory */
    FIELDS = PSD_MAX_SLOTS + 1 + PSD_MAX_SCALAR /* most entries of a tensor's state */
};

typedef enum which { AUTO, FAST, SLOW } which_t;
static const char *const which_words[] = { [AUTO] = "auto", [FAST] = "fast", [SLOW] = "slow" };

typedef struct request {
    const char *dir, *to;
    bool has_clock;
    uint64_t clock;
    which_t which;
    const psd_arrays_format_t *format;
    bool optimizer, force;
} request_t;

/* A checkpoint on its way into files. */
typedef struct exported {
    const request_t *request;
    uint64_t clock;
    psd_ckpt_facts_t facts;
    psd_tensor_list_t model;
    psd_rule_t rule;
    psd_rule_state_t *state;     /* per tensor */
    bool slow;                   /* whether it is the slow weights that go */
    psd_array_t *weights, *kept; /* what the two files list: a tensor each; fields of tensors' states */
    size_t n_kept, *kept_from;   /* per tensor, the first of its fields; SIZE_MAX: it has none yet */
    psd_arrays_t *model_file, *state_file;
} exported_t;

/* ---- where ---- */

static int path_of(const request_t *request, const char *name, const char *ending, char path[PATH_MAX], psd_err_t *err)
{
    const int n = snprintf(path, PATH_MAX, "%s/%s.%s", request->to, name, ending);
    if (n < 0 || n >= PATH_MAX)
        return psd_err_set(err, PSD_EIO, "%.200s...: the name is too long", request->to);
    if (!request->force && access(path, F_OK) == 0)
        return psd_err_set(err, PSD_EIO, "%s is there already; --force replaces it, --to names another directory", path);
    return PSD_OK;
}

/* ---- the optimizer's state, as torch calls it ---- */

/* Scalars that a rule carries beside its count of updates. */
static const struct scalar {
    const char *rule, *field;
} scalars[] = { { "nadam", "mu_product" } };

/* The name of the rule's i-th scalar; NULL past its last. */
static const char *scalar_of(const psd_rule_t *rule, size_t i)
{
    for (size_t k = 0; k < sizeof scalars / sizeof *scalars; k++)
        if (strcmp(scalars[k].rule, rule->opt->name) == 0 && i-- == 0)
            return scalars[k].field;
    return NULL;
}

/* A tensor that was never updated has no state yet, as in torch; but where the arrays do not begin at zero,
 * torch makes them with the optimizer. */
static bool has_state(const exported_t *self, uint32_t tensor) { return self->state[tensor].t > 0 || self->rule.opt->slot_start; }

static void list_field(exported_t *self, uint32_t tensor, const char *field, bool scalar)
{
    psd_array_t *array = &self->kept[self->n_kept++];
    const psd_tensor_desc_t *desc = &self->model.tensor[tensor];
    snprintf(array->name, sizeof array->name, "state/%" PRIu32 "/%s", tensor, field);
    array->n_dims = scalar ? 0 : desc->n_dims;
    memcpy(array->shape, desc->dim, sizeof desc->dim);
}

/* The rule's arrays first, then its count and scalars. */
static void list_state(exported_t *self, uint32_t tensor)
{
    const char *field;
    self->kept_from[tensor] = has_state(self, tensor) ? self->n_kept : SIZE_MAX;
    if (!has_state(self, tensor))
        return;
    for (int s = 0; s < self->rule.n_slots; s++)
        list_field(self, tensor, self->rule.slot[s].name, false);
    list_field(self, tensor, "step", true);
    for (size_t i = 0; (field = scalar_of(&self->rule, i)); i++)
        list_field(self, tensor, field, true);
}

static int write_scalars(exported_t *self, uint32_t tensor, psd_err_t *err)
{
    const psd_rule_state_t *state = &self->state[tensor];
    size_t at = self->kept_from[tensor] + (size_t)self->rule.n_slots;
    if (self->kept_from[tensor] == SIZE_MAX)
        return PSD_OK;
    int rc = psd_arrays_write(self->state_file, at++, 0, &(const float){ (float)state->t }, 1, err);
    for (size_t i = 0; !rc && scalar_of(&self->rule, i); i++)
        rc = psd_arrays_write(self->state_file, at++, 0, &(const float){ (float)state->scalar[i] }, 1, err);
    return rc;
}

/* Hyper-parameters that torch calls otherwise. */
static const struct synonym {
    const char *ours, *torchs;
} synonyms[] = { { "initial_accumulator", "initial_accumulator_value" }, { "decoupled", "decoupled_weight_decay" } };

static const char *torchs_name(const char *ours)
{
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcmp(synonyms[i].ours, ours) == 0)
            return synonyms[i].torchs;
    return ours;
}

static void add_hyper(json_t *group, const psd_hyper_t *hyper, double value)
{
    if (strncmp(hyper->name, "beta", 4) != 0) {
        json_object_set_new(group, torchs_name(hyper->name), hyper->flag ? json_boolean(value > 0) : json_real(value));
        return;
    }
    if (!json_object_get(group, "betas")) /* beta1, then beta2 */
        json_object_set_new(group, "betas", json_array());
    json_array_append_new(json_object_get(group, "betas"), json_real(value));
}

/* torch's param_groups: one, of all tensors. Keys that torch does not know stay in it untouched. */
static json_t *groups_json(const exported_t *self)
{
    char rule[PSD_RULE_TEXT];
    json_t *group = json_object(), *params = json_array(), *names = json_array(), *steps = json_array();
    for (int i = 0; self->rule.opt->hyper[i].name; i++)
        add_hyper(group, &self->rule.opt->hyper[i], i ? self->rule.hyper[i] : self->facts.lr);
    for (uint32_t t = 0; t < self->model.n; t++) {
        json_array_append_new(params, json_integer(t));
        json_array_append_new(names, json_string(self->model.tensor[t].name));
        json_array_append_new(steps, json_integer((json_int_t)self->state[t].t));
    }
    json_object_set_new(group, "params", params);
    json_object_set_new(group, "names", names);
    json_object_set_new(group, "steps", steps);
    json_object_set_new(group, "rule", json_string(psd_rule_print(&self->rule, rule)));
    return json_pack("[o]", group);
}

static int write_groups(const exported_t *self, const char *path, psd_err_t *err)
{
    json_t *groups = groups_json(self);
    char *text = groups ? json_dumps(groups, JSON_INDENT(2)) : NULL;
    json_decref(groups);
    if (!text)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %s", path);
    const size_t n = strlen(text);
    text[n] = '\n'; /* where its end was */
    const int rc = psd_durable_put(path, text, n + 1, err);
    free(text);
    return rc;
}

/* ---- one checkpoint ---- */

static int read_checkpoint(exported_t *self, psd_err_t *err)
{
    int rc = psd_ckpt_read(self->request->dir, self->clock, &self->facts, &self->model, err);
    if (rc)
        return rc;
    self->state = calloc(self->model.n, sizeof *self->state);
    self->weights = calloc(self->model.n, sizeof *self->weights);
    self->kept = calloc((size_t)self->model.n * FIELDS, sizeof *self->kept);
    self->kept_from = calloc(self->model.n, sizeof *self->kept_from);
    if (!self->state || !self->weights || !self->kept || !self->kept_from)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a list of %" PRIu32 " tensors", self->model.n);
    return psd_ckpt_counters(self->request->dir, self->clock, &self->model, &self->rule, self->state, err);
}

static int choose_weights(exported_t *self, psd_err_t *err)
{
    char rule[PSD_RULE_TEXT];
    if (self->request->which == SLOW && !self->rule.lookahead)
        return psd_err_set(err, PSD_EUSAGE,
                           "clock %" PRIu64 " was saved by %.300s, which keeps no slow weights; try --weights=fast", self->clock,
                           psd_rule_print(&self->rule, rule));
    self->slow = self->rule.lookahead && self->request->which != FAST;
    return PSD_OK;
}

static void list_arrays(exported_t *self)
{
    for (uint32_t t = 0; t < self->model.n; t++) {
        const psd_tensor_desc_t *desc = &self->model.tensor[t];
        psd_array_t *array = &self->weights[t];
        snprintf(array->name, sizeof array->name, "%s", desc->name);
        array->n_dims = desc->n_dims;
        memcpy(array->shape, desc->dim, sizeof desc->dim);
        list_state(self, t);
    }
}

static int begin_files(exported_t *self, const char *model_path, const char *state_path, psd_err_t *err)
{
    char rule[PSD_RULE_TEXT], clock[24], step[24];
    snprintf(clock, sizeof clock, "%" PRIu64, self->clock);
    snprintf(step, sizeof step, "%" PRIu64, self->facts.version);
    const psd_note_t notes[] = { { "format", "pt" },
                                 { "psd.job", self->facts.job },
                                 { "psd.step", step },
                                 { "psd.clock", clock },
                                 { "psd.optimizer", psd_rule_print(&self->rule, rule) },
                                 { "psd.version", PSD_VERSION },
                                 { "psd.which", self->slow ? "slow" : "fast" } };
    const size_t n_notes = sizeof notes / sizeof *notes;
    const psd_arrays_format_t *format = self->request->format;
    self->model_file = psd_arrays_new(format, model_path, self->weights, self->model.n, notes, n_notes, err);
    if (!self->model_file)
        return err->code;
    if (!self->request->optimizer)
        return PSD_OK;
    /* All but the last note are as true of the state. */
    self->state_file = psd_arrays_new(format, state_path, self->kept, self->n_kept, notes, n_notes - 1, err);
    return self->state_file ? PSD_OK : err->code;
}

/* What is not finite is no result, and training would not go on from it. */
static int look(const exported_t *self, const psd_chunk_t *chunk, const char *field, const float *values, psd_err_t *err)
{
    const size_t i = psd_first_nonfinite(values, chunk->n);
    if (i == chunk->n)
        return PSD_OK;
    return psd_err_set(err, PSD_EDIVERGED,
                       "clock %" PRIu64 ": %s of %.100s is not finite at element %" PRIu64 "; nothing is written", self->clock,
                       field, self->model.tensor[chunk->tensor].name, chunk->offset + i);
}

static int take_chunk(void *arg, const psd_chunk_t *chunk, const psd_ckpt_target_t *data, psd_err_t *err)
{
    exported_t *self = arg;
    const float *weights = self->slow ? data->slot[self->rule.slow_slot] : data->w;
    int rc = look(self, chunk, self->slow ? "the slow weights" : "the weights", weights, err);
    rc = rc ? rc : psd_arrays_write(self->model_file, chunk->tensor, chunk->offset, weights, chunk->n, err);
    if (!self->state_file || self->kept_from[chunk->tensor] == SIZE_MAX)
        return rc;
    for (int s = 0; !rc && s < self->rule.n_slots; s++) {
        rc = look(self, chunk, self->rule.slot[s].name, data->slot[s], err);
        rc = rc ? rc
                : psd_arrays_write(self->state_file, self->kept_from[chunk->tensor] + (size_t)s, chunk->offset, data->slot[s],
                                   chunk->n, err);
    }
    return rc;
}

static int fill_files(exported_t *self, psd_err_t *err)
{
    int rc = psd_ckpt_each(self->request->dir, self->clock, &self->model, take_chunk, self, err);
    for (uint32_t t = 0; !rc && self->state_file && t < self->model.n; t++)
        rc = write_scalars(self, t, err);
    return rc;
}

static int end_files(exported_t *self, const char *groups_path, psd_err_t *err)
{
    int rc = psd_arrays_end(&self->model_file, err);
    if (!rc && self->state_file)
        rc = psd_arrays_end(&self->state_file, err);
    if (!rc && self->request->optimizer)
        rc = write_groups(self, groups_path, err);
    return rc;
}

static int write_files(exported_t *self, psd_err_t *err)
{
    const request_t *request = self->request;
    char model[PATH_MAX], state[PATH_MAX], groups[PATH_MAX];
    int rc = path_of(request, "model", request->format->name, model, err);
    if (!rc && request->optimizer)
        rc = path_of(request, "optimizer_state", request->format->name, state, err);
    if (!rc && request->optimizer)
        rc = path_of(request, "optimizer_param_groups", "json", groups, err);
    if (rc || (rc = psd_durable_mkdir(request->to, err)) || (rc = begin_files(self, model, state, err)) ||
        (rc = fill_files(self, err)) || (rc = end_files(self, groups, err)))
        return rc;
    printf("%s: %s weights of clock %" PRIu64 ", step %" PRIu64 "\n", model, self->slow ? "slow" : "fast", self->clock,
           self->facts.version);
    if (request->optimizer)
        printf("%s\n%s\n", state, groups);
    if (request->optimizer && self->slow)
        fprintf(stderr, "psdctl export: the optimizer's state goes with the fast weights; to train on from "
                        "here, export with --weights=fast\n");
    return PSD_OK;
}

static int export_clock(const request_t *request, uint64_t clock, psd_err_t *err)
{
    exported_t self = { .request = request, .clock = clock };
    int rc = read_checkpoint(&self, err);
    if (!rc)
        rc = choose_weights(&self, err);
    if (!rc) {
        list_arrays(&self);
        rc = write_files(&self, err);
    }
    psd_arrays_abandon(&self.model_file);
    psd_arrays_abandon(&self.state_file);
    psd_ckpt_facts_clear(&self.facts);
    psd_tensors_clear(&self.model);
    free(self.state);
    free(self.weights);
    free(self.kept);
    free(self.kept_from);
    return rc;
}

static int export_named(const request_t *request, psd_err_t *err)
{
    const int rc = export_clock(request, request->clock, err);
    return rc == PSD_ENOINPUT
               ? psd_err_wrap(err, "clock %" PRIu64 " is not among what psdctl checkpoint list shows", request->clock)
               : rc;
}

/* The newest one that turns out to be whole. */
static int export_newest(const request_t *request, psd_err_t *err)
{
    uint64_t *clocks = malloc(MOST_LOOKED_AT * sizeof *clocks);
    const size_t n = clocks ? psd_ckpt_manifests(request->dir, clocks, MOST_LOOKED_AT) : 0;
    int rc = n ? PSD_OK
               : psd_err_set(err, PSD_ENOINPUT, "there is no checkpoint below %s; is it what the job has as checkpoint.dir?",
                             request->dir);
    for (size_t i = 0; i < n; i++) {
        rc = export_clock(request, clocks[i], err);
        if (rc != PSD_EDATA && rc != PSD_ENOINPUT)
            break;
        if (i + 1 < n) {
            psd_say_error("export", err);
            fprintf(stderr, "psdctl export: taking an older checkpoint, of clock %" PRIu64 "\n", clocks[i + 1]);
        }
    }
    free(clocks);
    return rc;
}

/* ---- the verb ---- */

static const psd_arrays_format_t *format_called(const char *name)
{
    const psd_arrays_format_t *format;
    for (size_t i = 0; (format = psd_arrays_format_at(i)) && strcmp(format->name, name); i++)
        ;
    return format;
}

static which_t which_called(const char *word)
{
    which_t which = AUTO;
    while (strcmp(which_words[which], word))
        which++;
    return which;
}

/* A whole number, all of the text. */
static int take_clock(request_t *request, const char *text, psd_err_t *err)
{
    char *end;
    request->clock = strtoull(text, &end, 10);
    request->has_clock = true;
    if (*text < '0' || *text > '9' || *end || request->clock >= PSD_MAX_COUNT)
        return psd_err_set(err, PSD_EUSAGE, "CLOCK is a whole number, as psdctl checkpoint list shows it; not %s", text);
    return PSD_OK;
}

enum { WEIGHTS, OPTIMIZER, FORMAT, TO, FORCE };

static int run(const psd_args_t *args)
{
    request_t request = { .dir = args->word[0],
                          .to = args->flag[TO] ? args->flag[TO] : ".",
                          .format = args->flag[FORMAT] ? format_called(args->flag[FORMAT]) : psd_arrays_format_at(0),
                          .which = args->flag[WEIGHTS] ? which_called(args->flag[WEIGHTS]) : AUTO,
                          .optimizer = args->flag[OPTIMIZER],
                          .force = args->flag[FORCE] };
    psd_err_t err = { 0 };
    int rc = PSD_OK;
    if (args->word[1])
        rc = take_clock(&request, args->word[1], &err);
    if (!rc)
        rc = request.has_clock ? export_named(&request, &err) : export_newest(&request, &err);
    return rc ? psd_say_error("export", &err) : 0;
}

const psd_verb_t psd_verb_export = {
    .name = "export",
    .words = "DIR [CLOCK]",
    .does = "a checkpoint as files that torch and numpy open",
    .about = "Writes the newest whole checkpoint below DIR, or that of CLOCK, as model.safetensors: one array per tensor, "
             "under its name and in its shape.",
    .flag = { [WEIGHTS] = { .key = "weights",
                            .type = PSD_OPTION_STRING,
                            .argument = "auto|fast|slow",
                            .range = "auto|fast|slow",
                            .help = "which ones, with Lookahead: the fast ones are what training goes on from, the slow ones "
                                    "what one evaluates; auto (default): the slow ones where there are any" },
              [OPTIMIZER] = { .key = "optimizer",
                              .type = PSD_OPTION_SWITCH,
                              .help = "also optimizer_state.safetensors, arrays called state/<tensor>/<field> with torch's "
                                      "field names, and optimizer_param_groups.json" },
              [FORMAT] = { .key = "format",
                           .type = PSD_OPTION_STRING,
                           .argument = "safetensors|npz",
                           .range = "safetensors|npz",
                           .help = "of the arrays' files (npz: numpy.load)" },
              [TO] = { .key = "to",
                       .type = PSD_OPTION_PATH,
                       .argument = "PATH",
                       .help = "directory for the files, made when missing (default: the current one)" },
              [FORCE] = { .key = "force", .type = PSD_OPTION_SWITCH, .help = "replace files that are there" } },
    .examples = "psdctl export runs/glyphs/checkpoints\n"
                "psdctl export --optimizer --weights=fast --to=for-torch runs/glyphs/checkpoints 2350\n",
    .exits = "65 when what was asked for is damaged; 66 when there is none; 74 when a file is there already or cannot be "
             "written",
    .run = run,
};
