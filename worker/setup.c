#include "worker/setup.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/contradictions.h"
#include "common/optim/groups.h"
#include "common/system/log.h"
#include "worker/holdout.h"
#include "worker/sampler.h"
#include "worker/text.h"
#include "worker/weights.h"

/* The spec of the test set, if there is one: glyphs have a built-in one. */
static const char *test_spec(const psd_options_t *o)
{
    const char *test = psd_options_string(o, PSD_OPT_data_test), *train = psd_options_string(o, PSD_OPT_data_train);
    return *test ? test : !strncmp(train, "glyphs", 6) ? "glyphs" : "";
}

/* Add to the error the place where the option was set. */
static int blame(const psd_options_t *o, psd_option_id_t id, psd_err_t *err)
{
    const char *origin = psd_options_origin(o, id);
    return strcmp(origin, "default") ? psd_err_wrap(err, "%s", origin) : err->code;
}

/* From so many features on, psd says which line they come from, if few occur. */
enum { WIDE = 1 << 24 };

#define WIDE_CURE "number features without gaps, or write the rows for vw, which hashes their names into 2^data.hash_bits"

/* Log what was read, and warn of readings that may surprise the user. */
static void tell(const psd_setup_t *self, const psd_options_t *o)
{
    const psd_dataset_t *train = self->train, *test = self->test;
    psd_log_info("data.loaded", "train=%s rows=%zu features=%zu classes=%zu%s test_rows=%zu held_out=%zu",
                 psd_options_string(o, PSD_OPT_data_train), train->n_rows, train->n_features, train->n_classes,
                 train->weight ? " weighted=true" : "", test ? test->n_rows : 0, self->held ? self->held->n_rows : 0);
    if (train->n_skipped || (test && test->n_skipped))
        psd_log_warn("data.skipped", "rows=%zu test_rows=%zu reason=\"data.na=skip leaves out rows with a missing value\"",
                     train->n_skipped, test ? test->n_skipped : 0);
    if (test && test->n_unknown)
        psd_log_warn("data.unknown",
                     "words=%zu reason=\"the test set has words that the training set does not have; they have no "
                     "feature\"",
                     test->n_unknown);
    if (train->widest_line && train->n_features >= WIDE && train->row_start[train->n_rows] < train->n_features / 10)
        psd_log_warn("data.wide",
                     "features=%zu values=%" PRIu64 " line=%zu reason=\"memory is taken for every index up to the largest, "
                     "which that line has; " WIDE_CURE "\"",
                     train->n_features, train->row_start[train->n_rows], train->widest_line);
    if (psd_dataset_has_one_class(train))
        psd_log_warn("data.one_class", "class=%.0f rows=%zu reason=\"all rows that are trained on are of one class\"",
                     (double)train->label[0], train->n_rows);
    if (train->first_class == 1 && train->n_classes > 2)
        psd_log_warn("data.classes", "labels=1..%zu classes=%zu reason=\"classes count from 0: class 0 never occurs\"",
                     train->n_classes - 1, train->n_classes);
}

/* Rows of which none counts can neither be trained on nor judge. */
static int check_weights(const psd_dataset_t *set, const char *which, const psd_options_t *o, psd_err_t *err)
{
    size_t i = 0;
    while (set && set->weight && i < set->n_rows && !(set->weight[i] > 0))
        i++;
    if (!set || !set->weight || i < set->n_rows)
        return PSD_OK;
    psd_err_set(err, PSD_EDATA,
                "the weights of all %zu %s rows are 0, so none of them counts; is data.weight_column the right one?", set->n_rows,
                which);
    return blame(o, PSD_OPT_data_weight_column, err);
}

/* With a test set, held-out rows are for choosing hyper-parameters; without one, they are the test set. */
static int hold_out(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    const double share = psd_options_double(o, PSD_OPT_data_validation);
    if (!(share > 0))
        return PSD_OK;
    psd_dataset_t *held = psd_holdout_take(&self->train, share, psd_options_uint(o, PSD_OPT_seed), err);
    if (!held)
        return blame(o, PSD_OPT_data_validation, err);
    *(self->test ? &self->held : &self->test) = held;
    return PSD_OK;
}

/* The encoding learned from the training set goes into the model's file at the end; check at the start that it fits. */
static int look_at_encoding(const psd_dataset_t *train, psd_err_t *err)
{
    enum { MOST_BYTES = 16 << 20 };
    char *text = train->encoding ? psd_encoding_print(train->encoding, err) : NULL;
    if (!train->encoding)
        return PSD_OK;
    const size_t n = text ? strlen(text) : 0;
    free(text);
    return !text ? err->code
           : n <= MOST_BYTES
               ? PSD_OK
               : psd_err_set(
                     err, PSD_EDATA,
                     "the dictionaries of its columns have %zu bytes, but a model's file has room for %d; lower data.one_hot", n,
                     MOST_BYTES);
}

/* The data options. */
static int read_options(psd_dataset_options_t *out, const psd_options_t *o, psd_err_t *err)
{
    const psd_model_kind_t *kind = psd_model_kind_find(psd_options_string(o, PSD_OPT_model_kind));
    static const psd_na_t na[] = { PSD_NA_ERROR, PSD_NA_ZERO, PSD_NA_SKIP, PSD_NA_MEAN };
    static const char *const na_name[] = { "error", "zero", "skip", "mean" };
    *out = (psd_dataset_options_t){ .kind = kind->labels,
                                    .labels = psd_options_string(o, PSD_OPT_data_labels),
                                    .label_column = psd_options_string(o, PSD_OPT_data_label_column),
                                    .weight_column = psd_options_string(o, PSD_OPT_data_weight_column),
                                    .header = psd_options_bool(o, PSD_OPT_data_header),
                                    .standardise = !strcmp(psd_options_string(o, PSD_OPT_data_scale), "standard"),
                                    .one_hot = psd_options_uint(o, PSD_OPT_data_one_hot),
                                    .hash_bits = (unsigned)psd_options_int(o, PSD_OPT_data_hash_bits),
                                    .held_share = psd_options_double(o, PSD_OPT_data_validation),
                                    .seed = psd_options_uint(o, PSD_OPT_seed),
                                    .index_base = (int)psd_options_int(o, PSD_OPT_data_index_base) };
    out->drop = psd_options_texts(o, PSD_OPT_data_drop, &out->n_drop);
    out->categorical = psd_options_texts(o, PSD_OPT_data_categorical, &out->n_categorical);
    out->log1p = psd_options_texts(o, PSD_OPT_data_log1p, &out->n_log1p);
    for (size_t i = 0; i < sizeof na / sizeof *na; i++)
        if (!strcmp(psd_options_string(o, PSD_OPT_data_na), na_name[i]))
            out->na = na[i];
    return psd_text_delimiter(psd_options_string(o, PSD_OPT_data_delimiter), &out->delimiter, err)
               ? blame(o, PSD_OPT_data_delimiter, err)
               : PSD_OK;
}

/* Columns have the roles that they had when the model's encoding was learned: an option that gives one another is an error. Numbers
 * of columns are compared where these have no names, because they may stand in another order than in training. */
static int check_roles(const psd_encoding_t *encoding, const char *spec, const char *init, const psd_options_t *o, psd_err_t *err)
{
    const char *in = *init ? " in " : "", *cure = *init ? ", or start without init" : "";
    const char *label = psd_options_string(o, PSD_OPT_data_label_column);
    if (strncmp(spec, "csv:", 4))
        return PSD_OK;
    const bool is_number = label[strspn(label, "0123456789")] == '\0';
    if (strcmp(label, encoding->label) && !(is_number && (!*label || psd_options_bool(o, PSD_OPT_data_header))))
        return psd_err_set(err, PSD_ECONFIG, "data.label_column is %.60s, but the model%s%s was trained with %.60s; leave it out%s",
                           label, in, init, encoding->label, cure),
               blame(o, PSD_OPT_data_label_column, err);
    size_t n = 0;
    const char *const *drop = psd_options_texts(o, PSD_OPT_data_drop, &n),
                      *weight = psd_options_string(o, PSD_OPT_data_weight_column);
    for (size_t i = 0; i <= n; i++) { /* the last one is the weight */
        const char *name = i < n ? drop[i] : weight;
        const psd_option_id_t id = i < n ? PSD_OPT_data_drop : PSD_OPT_data_weight_column;
        const bool is_label = !strcmp(name, encoding->label);
        bool is_feature = false;
        for (size_t j = 0; !is_label && !is_feature && j < encoding->n_columns; j++)
            is_feature = !strcmp(name, encoding->column[j].name);
        if (is_label || is_feature)
            return psd_err_set(err, PSD_ECONFIG, "%s names %.60s, but the model%s%s was trained with it as %s; leave it out%s",
                               i < n ? "data.drop" : "data.weight_column", name, in, init, is_label ? "the label" : "a feature",
                               cure),
                   blame(o, id, err);
    }
    return PSD_OK;
}

/* Reading may take as long as whoever writes to it, and meanwhile the servers only know that a worker is missing. */
static void say_if_piped(const psd_options_t *o, psd_option_id_t id)
{
    const psd_option_t *row = psd_option_at(id);
    const char *text = psd_options_text(o, id);
    if (psd_contradiction_is_stream(row, text))
        psd_log_warn("data.pipe", "option=%s from=\"%s\" reason=\"it is read to its end before the worker joins the job\"",
                     row->key, text);
}

/* The training set. If training starts from a model with an encoding, it uses that encoding, and finds its columns by name. */
static int load_train(psd_setup_t *self, psd_dataset_t *frame, psd_dataset_options_t *options, const psd_options_t *o,
                      psd_err_t *err)
{
    const char *spec = psd_options_string(o, PSD_OPT_data_train);
    if (frame && check_roles(frame->encoding, spec, psd_options_string(o, PSD_OPT_init), o, err))
        return err->code;
    options->train = frame;
    options->predicts = options->trains = frame != NULL;
    say_if_piped(o, PSD_OPT_data_train);
    self->train = psd_dataset_load(spec, options, err);
    options->predicts = options->trains = false;
    if (!self->train)
        return blame(o, PSD_OPT_data_train, err);
    if (frame && self->train->unlabelled)
        return psd_err_set(err, PSD_EDATA,
                           "%s: no column is named '%.60s', as the label is in the model's training set; add it, or rename the "
                           "label's column",
                           spec, frame->encoding->label),
               blame(o, PSD_OPT_data_train, err);
    if (frame) {
        self->train->encoding = frame->encoding;
        frame->encoding = NULL;
    }
    return look_at_encoding(self->train, err) ? blame(o, PSD_OPT_data_train, err) : PSD_OK;
}

static int load_data(psd_setup_t *self, psd_dataset_t *frame, const psd_options_t *o, psd_err_t *err)
{
    psd_dataset_options_t options;
    int rc = read_options(&options, o, err);
    rc = rc ? rc : load_train(self, frame, &options, o, err);
    if (rc)
        return rc;
    options.train = self->train;
    options.predicts = frame != NULL && psd_dataset_needs_encoding(test_spec(o));
    options.labels = psd_options_string(o, PSD_OPT_data_test_labels);
    say_if_piped(o, PSD_OPT_data_test);
    if (*test_spec(o) && !(self->test = psd_dataset_load(test_spec(o), &options, err)))
        return blame(o, PSD_OPT_data_test, err);
    if (self->test && self->test->unlabelled)
        return psd_err_set(err, PSD_EDATA, "%s: it has no labels", test_spec(o)), blame(o, PSD_OPT_data_test, err);
    if ((rc = hold_out(self, o, err)) || (rc = check_weights(self->train, "training", o, err)) ||
        (rc = check_weights(self->test, "test", o, err)) || (rc = check_weights(self->held, "held-out", o, err)))
        return rc;
    if (!self->test && psd_options_uint(o, PSD_OPT_stop_patience))
        return psd_err_set(err, PSD_ECONFIG,
                           "stop.patience is set, but there are no rows to evaluate; set data.validation or data.test"),
               blame(o, PSD_OPT_stop_patience, err);
    if (!self->test && psd_options_double(o, PSD_OPT_stop_target) > 0)
        return psd_err_set(err, PSD_ECONFIG, "stop.target is set, but there is no test set to measure it on; set data.test"),
               blame(o, PSD_OPT_stop_target, err);
    tell(self, o);
    return PSD_OK;
}

int psd_setup_rows(psd_dataset_t **out, const psd_options_t *o, const char *spec, const psd_dataset_t *frame, psd_err_t *err)
{
    psd_dataset_options_t options;
    int rc = read_options(&options, o, err);
    if (!rc && frame->encoding)
        rc = check_roles(frame->encoding, spec, "", o, err);
    if (rc)
        return rc;
    options.train = frame;
    options.predicts = true;
    options.labels = strcmp(spec, psd_options_string(o, PSD_OPT_data_test)) ? "" : psd_options_string(o, PSD_OPT_data_test_labels);
    *out = psd_dataset_load(spec, &options, err);
    return *out ? PSD_OK : err->code;
}

static int choose_metric(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    const char *name = psd_options_string(o, PSD_OPT_eval_metric);
    const psd_model_kind_t *kind = psd_model_kind_find(psd_options_string(o, PSD_OPT_model_kind));
    self->metric = psd_metric_find(strcmp(name, "auto") ? name : kind->metric);
    const double target = psd_options_double(o, PSD_OPT_stop_target);
    if (psd_metric_suits(self->metric, self->train) && !self->metric->smaller_is_better && target > 1)
        return psd_err_set(err, PSD_ECONFIG, "stop.target is %g, but %s is at most 1; set a target up to 1", target,
                           self->metric->name),
               blame(o, PSD_OPT_stop_target, err);
    if (psd_metric_suits(self->metric, self->train))
        return PSD_OK;
    if (self->metric->labels == self->train->kind)
        psd_err_set(err, PSD_ECONFIG, "eval.metric %s is for 2 classes, the training set has %zu; choose accuracy or logloss", name,
                    self->train->n_classes);
    else
        psd_err_set(err, PSD_ECONFIG, "eval.metric %s does not go with model.kind %s; choose %s", name, kind->name,
                    kind->labels == PSD_LABEL_CLASS ? "accuracy, logloss or auc" : "mse, mae or r2");
    return blame(o, PSD_OPT_eval_metric, err);
}

enum { FLAW = 300 };

/* Whether the metric is undefined on these rows, of the test set if `is_test`. */
static bool find_flaw(const psd_setup_t *self, const psd_dataset_t *set, bool is_test, char out[FLAW])
{
    const char *flaw = set ? psd_metric_flaw(self->metric, set) : NULL;
    if (flaw)
        snprintf(out, FLAW, "%s is undefined on the %zu %s rows, which all %s; %s, or set another eval.metric", self->metric->name,
                 set->n_rows, is_test ? "test" : "held-out", flaw,
                 is_test ? "add other rows to data.test" : "raise data.validation, change seed");
    return flaw;
}

int psd_setup_check_metric(const psd_setup_t *self, const psd_options_t *o, bool by_held, psd_err_t *err)
{
    char flaw[FLAW];
    if ((by_held && find_flaw(self, self->held, false, flaw)) || find_flaw(self, self->test, *test_spec(o), flaw))
        return psd_err_set(err, PSD_ECONFIG, "%s", flaw), blame(o, PSD_OPT_eval_metric, err);
    return PSD_OK;
}

/* Where the labels leave the metric undefined, it can decide nothing: an error if it has to, otherwise a warning. */
static int check_metric(const psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    char flaw[FLAW];
    const psd_dataset_t *set[] = { self->held, self->test };
    for (size_t i = 0; i < sizeof set / sizeof *set; i++) {
        const bool patience = psd_options_uint(o, PSD_OPT_stop_patience) && (set[i] == self->held || !self->held),
                   target = psd_options_double(o, PSD_OPT_stop_target) > 0 && set[i] == self->test;
        if (!find_flaw(self, set[i], set[i] == self->test && *test_spec(o), flaw))
            continue;
        if (patience || target)
            return psd_err_set(err, PSD_ECONFIG, "%s is set, but %s", patience ? "stop.patience" : "stop.target", flaw),
                   blame(o, patience ? PSD_OPT_stop_patience : PSD_OPT_stop_target, err);
        psd_log_warn("eval.undefined", "reason=\"%s\"", flaw);
    }
    return PSD_OK;
}

/* The features are as many as the largest index says. */
static int blame_index(const psd_dataset_t *set, const psd_options_t *o, psd_err_t *err)
{
    const psd_err_t why = *err;
    psd_err_set(err, why.code, "line %zu of the training set has the largest index, and %s; " WIDE_CURE, set->widest_line,
                why.text);
    return blame(o, PSD_OPT_data_train, err);
}

int psd_setup_model(psd_model_t **out, const psd_options_t *o, const psd_dataset_t *set, psd_err_t *err)
{
    size_t n = 0, layers[PSD_MAX_LAYERS + 2];
    const int64_t *list = psd_options_list(o, PSD_OPT_model_layers, &n);
    for (size_t i = 0; i < n && i < sizeof layers / sizeof *layers; i++)
        layers[i] = (size_t)list[i];
    psd_model_config_t config = { .kind = psd_options_string(o, PSD_OPT_model_kind),
                                  .layers = layers,
                                  .n_layers = n,
                                  .activation = psd_options_string(o, PSD_OPT_model_activation),
                                  .loss = psd_options_string(o, PSD_OPT_model_loss),
                                  .seed = psd_options_uint(o, PSD_OPT_seed) };
    *out = psd_model_new(&config, set, err);
    if (!*out && err->code == PSD_ENOMEM && set->widest_line && set->n_features >= WIDE)
        return blame_index(set, o, err);
    return *out ? PSD_OK : blame(o, n ? PSD_OPT_model_layers : PSD_OPT_model_kind, err);
}

/* ---- What training starts from ---- */

/* The encoding of the training rows in the file of `init`, if it has one. */
static int read_frame(psd_dataset_t **out, const psd_safetensors_t *file, const psd_options_t *o, psd_err_t *err)
{
    const psd_model_kind_t *kind = psd_model_kind_find(psd_options_string(o, PSD_OPT_model_kind));
    if (!psd_safetensors_note(file, PSD_ENCODING_NOTE) || !psd_dataset_needs_encoding(psd_options_string(o, PSD_OPT_data_train)))
        return PSD_OK;
    *out = psd_weights_frame(file, kind, err);
    return *out ? PSD_OK : blame(o, PSD_OPT_init, err);
}

static int take_weights(const psd_setup_t *self, const psd_safetensors_t *file, const psd_options_t *o, psd_err_t *err)
{
    psd_weights_taken_t taken;
    if (psd_weights_take(self->model, file, psd_options_bool(o, PSD_OPT_init_partial), &taken, err))
        return blame(o, PSD_OPT_init, err);
    psd_log_info("init.loaded", "file=%s tensors=%zu missing=%zu unused=%zu", file->path, taken.n_taken, taken.n_missing,
                 taken.n_unused);
    if (taken.n_missing)
        psd_log_warn(
            "init.missing",
            "tensors=%zu names=\"%s\" reason=\"the file has no tensor of that name and shape: these start as without init\"",
            taken.n_missing, taken.missing);
    if (taken.n_unused)
        psd_log_warn("init.unused", "tensors=%zu names=\"%s\" reason=\"the model has no tensor of that name\"", taken.n_unused,
                     taken.unused);
    return PSD_OK;
}

/* The rules of the job are the servers' to know: whether the state fits them is found out when the model is registered. */
static int take_state(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    const char *path = psd_options_string(o, PSD_OPT_init_state);
    if (psd_statefile_read(&self->state, path, self->model, err))
        return blame(o, PSD_OPT_init_state, err);
    psd_log_info("init.state", "file=%s fields=%zu optimizer=\"%s\"", path, self->state.n,
                 self->state.optimizer ? self->state.optimizer : "");
    return PSD_OK;
}

static int load(psd_setup_t *self, const psd_options_t *o, const char *init, psd_err_t *err)
{
    psd_safetensors_t file = { .fd = -1 };
    psd_dataset_t *frame = NULL;
    int rc = PSD_OK;
    *self = (psd_setup_t){ 0 };
    if (*init) {
        rc = psd_safetensors_open(&file, init, err);
        rc = rc ? rc : psd_safetensors_parse(&file, err);
        rc = rc ? blame(o, PSD_OPT_init, err) : read_frame(&frame, &file, o, err);
    }
    rc = rc ? rc : load_data(self, frame, o, err);
    rc = rc ? rc : choose_metric(self, o, err);
    rc = rc ? rc : check_metric(self, o, err);
    rc = rc ? rc : psd_setup_model(&self->model, o, self->train, err);
    if (!rc && *init)
        rc = take_weights(self, &file, o, err);
    if (!rc && *init && *psd_options_string(o, PSD_OPT_init_state))
        rc = take_state(self, o, err);
    if (!rc && psd_batch_parse(psd_options_string(o, PSD_OPT_data_batch), self->train->n_rows, &self->batch, err))
        rc = blame(o, PSD_OPT_data_batch, err);
    psd_dataset_destroy(&frame);
    psd_safetensors_close(&file);
    return rc;
}

int psd_setup_load(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    return load(self, o, psd_options_string(o, PSD_OPT_init), err);
}

int psd_setup_load_anew(psd_setup_t *self, const psd_options_t *o, psd_err_t *err) { return load(self, o, "", err); }

/* Whether the options say anything of the model or of its data. */
static bool names_a_model(const psd_options_t *o)
{
    static const psd_option_id_t ids[] = { PSD_OPT_data_train, PSD_OPT_model_kind, PSD_OPT_model_layers };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (strcmp(psd_options_origin(o, ids[i]), "default") != 0)
            return true;
    return false;
}

int psd_setup_check_groups(const psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    psd_groups_t groups;
    psd_extent_t extent[PSD_MAX_PARAMS];
    uint8_t group_of[PSD_MAX_PARAMS];
    const size_t n = psd_model_n_params(self->model);
    const psd_param_t *params = psd_model_params(self->model);
    if (!names_a_model(o))
        return PSD_OK;
    for (size_t i = 0; i < n; i++)
        extent[i] = psd_model_extent(&params[i]);
    int rc = psd_groups_parse(&groups, psd_options_string(o, PSD_OPT_optimizer), psd_options_string(o, PSD_OPT_groups), err);
    rc = rc ? rc : psd_groups_assign(&groups, params->name, sizeof *params, extent, n, group_of, err);
    return rc ? blame(o, PSD_OPT_groups, err) : PSD_OK;
}

void psd_setup_clear(psd_setup_t *self)
{
    psd_statefile_clear(&self->state);
    psd_model_destroy(&self->model);
    psd_dataset_destroy(&self->held);
    psd_dataset_destroy(&self->test);
    psd_dataset_destroy(&self->train);
}
