/* export.c - `psdctl export`: writes the weights and the optimizer state of a checkpoint as files that torch and numpy can open. */
#include "deploy/psdctl/verb.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/system/json.h"
#include "deploy/psdctl/inspect/arrays.h"
#include "deploy/psdctl/say.h"
#include "server/checkpoint/checkpoint.h"
#include "worker/encoding.h"
#include "worker/slurp.h"
#include "worker/statefile.h"

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
    char *encoding; /* how the data became features, JSON; NULL: unknown, or there is nothing to say */
} request_t;

/* A checkpoint being exported. */
typedef struct exported {
    const request_t *request;
    uint64_t clock;
    psd_ckpt_facts_t facts;
    psd_tensor_list_t model;
    psd_groups_t groups;
    psd_extent_t *extents;       /* per tensor */
    uint8_t *group_of;           /* per tensor */
    psd_rule_state_t *state;     /* per tensor */
    bool slow;                   /* whether to export the slow weights */
    psd_array_t *weights, *kept; /* the contents of the two files: a tensor each; fields of tensors' states */
    size_t n_kept, *kept_from;   /* per tensor, the first of its fields; SIZE_MAX: it has none yet */
    psd_arrays_t *model_file, *state_file;
} exported_t;

/* ---- the files ---- */

static int path_of(const request_t *request, const char *name, const char *ending, char path[PATH_MAX], psd_err_t *err)
{
    const int n = snprintf(path, PATH_MAX, "%s/%s.%s", request->to, name, ending);
    if (n < 0 || n >= PATH_MAX)
        return psd_err_set(err, PSD_EIO, "%.200s...: the name is too long", request->to);
    return psd_verb_check_new(path, request->force, "directory", err);
}

/* ---- the optimizer's state, with torch's names ---- */

static const psd_rule_t *rule_of(const exported_t *self, uint32_t tensor) { return &self->groups.at[self->group_of[tensor]].rule; }

/* A tensor that was never updated has no state yet, as in torch; except for arrays that do not start at zero, which torch makes
 * with the optimizer. */
static bool has_state(const exported_t *self, uint32_t tensor)
{
    return self->state[tensor].t > 0 || rule_of(self, tensor)->opt->slot_start || rule_of(self, tensor)->opt->of_weights;
}

/* The shape of a slot: its tensor's or, if it is shorter, that of one number per row or column of a matrix, as in torch. */
static void shape_slot(const exported_t *self, uint32_t tensor, int s, psd_array_t *array)
{
    const uint32_t n = self->model.tensor[tensor].n_dims;
    if (psd_rule_slot_length(rule_of(self, tensor), s, &self->extents[tensor]) == self->extents[tensor].n)
        return;
    array->shape[strcmp(rule_of(self, tensor)->slot[s].name, "row_var") ? n - 2 : n - 1] = 1;
}

static bool has_slot(const exported_t *self, uint32_t tensor, int s)
{
    return psd_rule_slot_length(rule_of(self, tensor), s, &self->extents[tensor]) > 0;
}

static void list_field(exported_t *self, uint32_t tensor, const char *field, bool scalar)
{
    psd_array_t *array = &self->kept[self->n_kept++];
    const psd_tensor_desc_t *desc = &self->model.tensor[tensor];
    snprintf(array->name, sizeof array->name, "state/%" PRIu32 "/%s", tensor, field);
    array->n_dims = scalar ? 0 : desc->n_dims;
    array->is_number = scalar;
    memcpy(array->shape, desc->dim, sizeof desc->dim);
}

/* The index of the tensor's s-th slot among the fields; past the last slot, that of its count. */
static size_t field_of(const exported_t *self, uint32_t tensor, int s)
{
    size_t at = self->kept_from[tensor];
    for (int i = 0; i < s; i++)
        at += has_slot(self, tensor, i);
    return at;
}

/* The rule's arrays first, then its count and scalars. */
static void list_state(exported_t *self, uint32_t tensor)
{
    self->kept_from[tensor] = has_state(self, tensor) ? self->n_kept : SIZE_MAX;
    if (!has_state(self, tensor))
        return;
    const psd_rule_t *rule = rule_of(self, tensor);
    for (int s = 0; s < rule->n_slots; s++) {
        if (!has_slot(self, tensor, s))
            continue;
        list_field(self, tensor, rule->slot[s].name, false);
        shape_slot(self, tensor, s, &self->kept[self->n_kept - 1]);
    }
    list_field(self, tensor, "step", true);
    for (int i = 0; i < psd_rule_n_scalars(rule); i++)
        list_field(self, tensor, rule->opt->scalars[i], true);
}

static int write_scalars(exported_t *self, uint32_t tensor, psd_err_t *err)
{
    const psd_rule_state_t *state = &self->state[tensor];
    size_t at = field_of(self, tensor, rule_of(self, tensor)->n_slots);
    if (self->kept_from[tensor] == SIZE_MAX)
        return PSD_OK;
    int rc = psd_arrays_write_number(self->state_file, at++, (double)state->t, err);
    for (int i = 0; !rc && i < psd_rule_n_scalars(rule_of(self, tensor)); i++)
        rc = psd_arrays_write_number(self->state_file, at++, state->scalar[i], err);
    return rc;
}

/* Hyper-parameters with another name in torch. */
static const struct synonym {
    const char *ours, *torchs;
} synonyms[] = { { "initial_accumulator", "initial_accumulator_value" },
                 { "decoupled", "decoupled_weight_decay" },
                 { "clip_d", "d" } };

static const char *torchs_name(const char *ours)
{
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcmp(synonyms[i].ours, ours) == 0)
            return synonyms[i].torchs;
    return ours;
}

/* torch's name of the list to which a numbered value belongs, betas for beta1 and eps for eps1; NULL: it is separate. */
static const char *list_of(const char *name)
{
    const size_t n = strlen(name);
    const bool is_numbered = n && name[n - 1] >= '0' && name[n - 1] <= '9';
    return is_numbered && n == 5 && !strncmp(name, "beta", 4)  ? "betas"
           : is_numbered && n == 4 && !strncmp(name, "eps", 3) ? "eps"
                                                               : NULL;
}

static void add_hyper(json_t *group, const psd_hyper_t *hyper, double value)
{
    const char *list = list_of(hyper->name);
    if (!list) {
        json_object_set_new(group, torchs_name(hyper->name), hyper->flag ? json_boolean(value > 0) : json_real(value));
        return;
    }
    if (!json_object_get(group, list)) /* in the order of their numbers */
        json_object_set_new(group, list, json_array());
    json_array_append_new(json_object_get(group, list), json_real(value));
}

/* One of torch's param_groups, with the learning rate and the momentum of the next step; the rate before a schedule is initial_lr,
 * as in torch's schedulers. torch keeps keys that it does not know. */
static json_t *group_json(const exported_t *self, uint32_t g)
{
    static const psd_schedule_t constant = { .kind = NULL };
    char rule[PSD_RULE_TEXT];
    double momentum;
    json_t *group = json_object(), *params = json_array(), *names = json_array(), *steps = json_array();
    const psd_group_t *is = &self->groups.at[g];
    const double lr = psd_ckpt_group_lr(&self->facts, self->model.rows, &self->groups, g, &momentum);
    psd_rule_t next = is->rule;
    if (!isnan(momentum) && psd_rule_has_momentum(&next))
        psd_rule_set_momentum(&next, momentum);
    for (int i = 0; next.opt->hyper[i].name; i++)
        add_hyper(group, &next.opt->hyper[i], i ? next.hyper[i] : lr);
    json_object_set_new(group, "initial_lr", json_real(psd_groups_rate(&self->groups, g, &constant, self->facts.lr, 0)));
    for (uint32_t t = 0; t < self->model.n; t++) {
        if (self->group_of[t] != g)
            continue;
        json_array_append_new(params, json_integer(t));
        json_array_append_new(names, json_string(self->model.tensor[t].name));
        json_array_append_new(steps, json_integer((json_int_t)self->state[t].t));
    }
    json_object_set_new(group, "params", params);
    json_object_set_new(group, "names", names);
    json_object_set_new(group, "steps", steps);
    json_object_set_new(group, "rule", json_string(psd_rule_print(&is->rule, rule)));
    if (*is->match)
        json_object_set_new(group, "match", json_string(is->match));
    if (self->groups.n_said > 1) {
        json_object_set_new(group, "lr_mult", json_real(is->lr_mult));
        json_object_set_new(group, "clip", json_boolean(is->clips));
        json_object_set_new(group, "frozen", json_boolean(is->freezes));
    }
    return group;
}

/* The groups that have tensors. */
static json_t *groups_json(const exported_t *self)
{
    json_t *groups = json_array();
    for (uint32_t g = 0; g < self->groups.n; g++)
        if (memchr(self->group_of, (int)g, self->model.n))
            json_array_append_new(groups, group_json(self, g));
    return groups;
}

static int write_groups(const exported_t *self, const char *path, psd_err_t *err)
{
    json_t *groups = groups_json(self);
    char *text = psd_json_text(groups, JSON_INDENT(2));
    json_decref(groups);
    if (!text)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %s", path);
    const size_t n = strlen(text);
    text[n] = '\n'; /* in place of its end */
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
    self->group_of = calloc(self->model.n, 1);
    self->extents = psd_tensors_extents(&self->model);
    if (!self->state || !self->weights || !self->kept || !self->kept_from || !self->group_of || !self->extents)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a list of %" PRIu32 " tensors", self->model.n);
    rc = psd_ckpt_counters(self->request->dir, self->clock, &self->model, &self->groups, self->state, err);
    for (uint32_t t = 0; !rc && t < self->model.n; t++)
        self->group_of[t] = psd_groups_of(&self->groups, self->model.tensor[t].name, &self->extents[t].shape);
    return rc;
}

static int choose_weights(exported_t *self, psd_err_t *err)
{
    char rule[PSD_RULE_TEXT];
    const bool has_slow = psd_groups_have_slow(&self->groups);
    if (self->request->which == SLOW && !has_slow)
        return psd_err_set(err, PSD_EUSAGE,
                           "clock %" PRIu64 " was saved by %.300s, which keeps no slow weights; try --weights=fast", self->clock,
                           psd_rule_print(&psd_groups_rest(&self->groups)->rule, rule));
    self->slow = has_slow && self->request->which != FAST;
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

/* The tensors' names, one on each line. To be freed. */
static char *names_of(const psd_tensor_list_t *model)
{
    size_t n = 0;
    char *names = malloc(model->n * sizeof model->tensor->name);
    for (uint32_t t = 0; names && t < model->n; t++)
        n += (size_t)sprintf(names + n, "%s%s", t ? "\n" : "", model->tensor[t].name);
    return names;
}

static int begin_files(exported_t *self, const char *model_path, const char *state_path, psd_err_t *err)
{
    char rule[PSD_RULE_TEXT], groups[PSD_GROUPS_TEXT], clock[24], step[24];
    snprintf(clock, sizeof clock, "%" PRIu64, self->clock);
    snprintf(step, sizeof step, "%" PRIu64, self->facts.version);
    const psd_note_t notes[] = { { "format", "pt" },
                                 { "psd.job", self->facts.job },
                                 { "psd.step", step },
                                 { "psd.clock", clock },
                                 { PSD_NOTE_OPTIMIZER, psd_rule_print(&psd_groups_rest(&self->groups)->rule, rule) },
                                 { PSD_NOTE_GROUPS, psd_groups_print(&self->groups, groups) },
                                 { "psd.version", PSD_VERSION },
                                 { "psd.which", self->slow ? "slow" : "fast" } };
    const size_t n_notes = sizeof notes / sizeof *notes;
    const psd_arrays_format_t *format = self->request->format;
    psd_note_t of_model[sizeof notes / sizeof *notes + 1];
    memcpy(of_model, notes, sizeof notes);
    of_model[n_notes] = (psd_note_t){ PSD_ENCODING_NOTE, self->request->encoding };
    self->model_file = psd_arrays_new(format, model_path, self->weights, self->model.n, of_model,
                                      n_notes + (self->request->encoding != NULL), err);
    if (!self->model_file)
        return err->code;
    if (!self->request->optimizer)
        return PSD_OK;
    /* All these notes except the last also apply to the state, which has the names of its numbered tensors instead. */
    char *names = names_of(&self->model);
    if (!names)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the names of %" PRIu32 " tensors", self->model.n);
    psd_note_t of_state[sizeof notes / sizeof *notes];
    memcpy(of_state, notes, sizeof notes);
    of_state[n_notes - 1] = (psd_note_t){ PSD_NOTE_TENSORS, names };
    self->state_file = psd_arrays_new(format, state_path, self->kept, self->n_kept, of_state, n_notes, err);
    free(names);
    return self->state_file ? PSD_OK : err->code;
}

/* Refuse weights that are not finite: training could not continue from them. */
static int look(const exported_t *self, const psd_chunk_t *chunk, const char *field, const float *values, size_t n, psd_err_t *err)
{
    const size_t i = psd_first_nonfinite(values, n);
    if (i == n)
        return PSD_OK;
    return psd_err_set(err, PSD_EDIVERGED,
                       "clock %" PRIu64 ": %s of %.100s is not finite at element %" PRIu64 "; nothing is written", self->clock,
                       field, self->model.tensor[chunk->tensor].name, chunk->offset + i);
}

static int take_chunk(void *arg, const psd_chunk_t *chunk, const psd_ckpt_target_t *data, psd_err_t *err)
{
    exported_t *self = arg;
    static float slow[PSD_MAX_CHUNK];
    const psd_rule_t *rule = rule_of(self, chunk->tensor);
    if (self->slow)
        psd_rule_slow(rule, data->w, data->slot, slow, chunk->n);
    const float *weights = self->slow ? slow : data->w;
    int rc = look(self, chunk, self->slow ? "the slow weights" : "the weights", weights, chunk->n, err);
    rc = rc ? rc : psd_arrays_write(self->model_file, chunk->tensor, chunk->offset, weights, chunk->n, err);
    if (!self->state_file || self->kept_from[chunk->tensor] == SIZE_MAX)
        return rc;
    for (int s = 0; !rc && s < rule->n_slots; s++) {
        const size_t n = psd_rule_slot_elements(rule, s, &self->extents[chunk->tensor], chunk->offset, chunk->n);
        if (!n)
            continue;
        rc = look(self, chunk, rule->slot[s].name, data->slot[s], n, err);
        rc = rc ? rc : psd_arrays_write(self->state_file, field_of(self, chunk->tensor, s), chunk->offset, data->slot[s], n, err);
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
        fprintf(
            stderr,
            "psdctl export: the optimizer's state belongs to the fast weights; to continue training, export with --weights=fast\n");
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
    free(self.group_of);
    free(self.extents);
    return rc;
}

static int export_named(const request_t *request, psd_err_t *err)
{
    const int rc = export_clock(request, request->clock, err);
    return rc == PSD_ENOINPUT ? psd_err_wrap(err, "clock %" PRIu64 " is not listed by psdctl checkpoint list", request->clock) : rc;
}

/* Export the newest checkpoint that is whole. */
static int export_newest(const request_t *request, psd_err_t *err)
{
    uint64_t *clocks = malloc(MOST_LOOKED_AT * sizeof *clocks);
    const size_t n = clocks ? psd_ckpt_manifests(request->dir, clocks, MOST_LOOKED_AT) : 0;
    int rc = n ? PSD_OK
               : psd_err_set(err, PSD_ENOINPUT, "there is no checkpoint below %s; check that it is the checkpoint.dir of the job",
                             request->dir);
    for (size_t i = 0; i < n; i++) {
        rc = export_clock(request, clocks[i], err);
        if (rc != PSD_EDATA && rc != PSD_ENOINPUT)
            break;
        if (i + 1 < n) {
            psd_say_error("export", err);
            fprintf(stderr, "psdctl export: trying an older checkpoint, of clock %" PRIu64 "\n", clocks[i + 1]);
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

/* Read the whole text as a whole number. */
static int take_clock(request_t *request, const char *text, psd_err_t *err)
{
    char *end;
    request->clock = strtoull(text, &end, 10);
    request->has_clock = true;
    if (*text < '0' || *text > '9' || *end || request->clock >= PSD_MAX_COUNT)
        return psd_err_set(err, PSD_EUSAGE, "CLOCK is a whole number, as psdctl checkpoint list shows it; not %s", text);
    return PSD_OK;
}

/* Read and check the encoding: the file that is named, or that beside the directory of checkpoints, where psdctl run has both. */
static int read_encoding(request_t *request, const char *named, psd_err_t *err)
{
    char beside[PATH_MAX];
    psd_bytes_t file = { 0 };
    const int n = snprintf(beside, sizeof beside, "%s/../encoding.json", request->dir);
    const bool is_there = n < (int)sizeof beside && access(beside, F_OK) == 0;
    if (!named && !is_there)
        return PSD_OK;
    int rc = psd_slurp(&file, named ? named : beside, NULL, err);
    if (!rc && !(request->encoding = strndup((const char *)file.at, file.n)))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for %s", file.name);
    psd_encoding_t *parsed = rc ? NULL : psd_encoding_parse(request->encoding, err);
    if (!rc && !parsed) {
        rc = err->code;
        psd_err_wrap(err, "%s", named ? named : beside);
    }
    psd_encoding_destroy(&parsed);
    psd_slurp_free(&file);
    return rc;
}

enum { WEIGHTS, OPTIMIZER, FORMAT, TO, ENCODING, FORCE };

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
    rc = rc ? rc : read_encoding(&request, args->flag[ENCODING], &err);
    if (!rc)
        rc = request.has_clock ? export_named(&request, &err) : export_newest(&request, &err);
    free(request.encoding);
    return rc ? psd_say_error("export", &err) : 0;
}

const psd_verb_t psd_verb_export = {
    .name = "export",
    .words = "DIR [CLOCK]",
    .does = "write a checkpoint as files that torch and numpy can open",
    .about = "Writes the newest whole checkpoint below DIR, or that of CLOCK, as model.safetensors: one array per tensor, "
             "under its name and in its shape.",
    .flag = { [WEIGHTS] = { .key = "weights",
                            .type = PSD_OPTION_STRING,
                            .argument = "auto|fast|slow",
                            .range = "auto|fast|slow",
                            .help = "which weights, with Lookahead: training continues from the fast ones, and the slow ones "
                                    "are for evaluation; auto (default): the slow ones if there are any" },
              [OPTIMIZER] = { .key = "optimizer",
                              .type = PSD_OPTION_SWITCH,
                              .help = "also write optimizer_state.safetensors, with arrays named state/<tensor>/<field> after "
                                      "torch's fields, and optimizer_param_groups.json" },
              [FORMAT] = { .key = "format",
                           .type = PSD_OPTION_STRING,
                           .argument = "safetensors|npz",
                           .range = "safetensors|npz",
                           .help = "format of the files (npz: numpy.load)" },
              [TO] = { .key = "to",
                       .type = PSD_OPTION_PATH,
                       .argument = "PATH",
                       .help = "directory for the files, made when missing (default: the current one)" },
              [ENCODING] = { .key = "encoding",
                             .type = PSD_OPTION_PATH,
                             .argument = "FILE",
                             .help = "encoding.json of the run's directory, which says how the columns of a table became features, "
                                     "for psdctl predict and init (default: the one in the directory that DIR is in, if any)" },
              [FORCE] = { .key = "force", .type = PSD_OPTION_SWITCH, .help = "replace existing files" } },
    .examples = "psdctl export runs/glyphs/checkpoints\n"
                "psdctl export --optimizer --weights=fast --to=for-torch runs/glyphs/checkpoints 2350\n",
    .exits = "65 when the checkpoint is damaged; 66 when there is none; 74 when a file exists already or cannot be written",
    .run = run,
};
