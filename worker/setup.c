#include "worker/setup.h"

#include <string.h>

#include "common/system/log.h"
#include "worker/holdout.h"
#include "worker/sampler.h"
#include "worker/text.h"

/* The test set, where there is one: the glyphs bring their own. */
static const char *test_spec(const psd_options_t *o)
{
    const char *test = psd_options_string(o, PSD_OPT_data_test), *train = psd_options_string(o, PSD_OPT_data_train);
    return *test ? test : !strncmp(train, "glyphs", 6) ? "glyphs" : "";
}

/* Say where the option was given that is to blame. */
static int blame(const psd_options_t *o, psd_option_id_t id, psd_err_t *err)
{
    const char *origin = psd_options_origin(o, id);
    return strcmp(origin, "default") ? psd_err_wrap(err, "%s", origin) : err->code;
}

/* What was read, and what of it perhaps otherwise than its owner thinks. */
static void tell(const psd_setup_t *self, const psd_options_t *o)
{
    const psd_dataset_t *train = self->train, *test = self->test;
    psd_log_info("data.loaded", "train=%s rows=%zu features=%zu classes=%zu%s test_rows=%zu held_out=%zu",
                 psd_options_string(o, PSD_OPT_data_train), train->n_rows, train->n_features, train->n_classes,
                 train->weight ? " weighted=true" : "", test ? test->n_rows : 0, self->held ? self->held->n_rows : 0);
    if (train->n_skipped || (test && test->n_skipped))
        psd_log_warn("data.skipped", "rows=%zu test_rows=%zu reason=\"data.na=skip leaves out rows with a missing value\"",
                     train->n_skipped, test ? test->n_skipped : 0);
    if (train->first_class == 1 && train->n_classes > 2)
        psd_log_warn("data.classes", "labels=1..%zu classes=%zu reason=\"classes count from 0: class 0 never occurs\"",
                     train->n_classes - 1, train->n_classes);
}

/* Rows held out beside a test set are to choose by; without one they are it. */
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

static int load_data(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    const psd_model_kind_t *kind = psd_model_kind_find(psd_options_string(o, PSD_OPT_model_kind));
    static const psd_na_t na[] = { PSD_NA_ERROR, PSD_NA_ZERO, PSD_NA_SKIP };
    static const char *const na_name[] = { "error", "zero", "skip" };
    psd_dataset_options_t options = { .kind = kind->labels,
                                      .labels = psd_options_string(o, PSD_OPT_data_labels),
                                      .label_column = psd_options_string(o, PSD_OPT_data_label_column),
                                      .header = psd_options_bool(o, PSD_OPT_data_header),
                                      .index_base = (int)psd_options_int(o, PSD_OPT_data_index_base) };
    options.drop = psd_options_texts(o, PSD_OPT_data_drop, &options.n_drop);
    if (psd_text_delimiter(psd_options_string(o, PSD_OPT_data_delimiter), &options.delimiter, err))
        return blame(o, PSD_OPT_data_delimiter, err);
    for (size_t i = 0; i < sizeof na / sizeof *na; i++)
        if (!strcmp(psd_options_string(o, PSD_OPT_data_na), na_name[i]))
            options.na = na[i];
    if (!(self->train = psd_dataset_load(psd_options_string(o, PSD_OPT_data_train), &options, err)))
        return blame(o, PSD_OPT_data_train, err);
    options.train = self->train;
    options.labels = psd_options_string(o, PSD_OPT_data_test_labels);
    if (*test_spec(o) && !(self->test = psd_dataset_load(test_spec(o), &options, err)))
        return blame(o, PSD_OPT_data_test, err);
    const int rc = hold_out(self, o, err);
    if (rc)
        return rc;
    if (!self->test && psd_options_double(o, PSD_OPT_stop_target) > 0)
        return psd_err_set(err, PSD_ECONFIG, "stop.target is set, but there is no test set to meet it on; set data.test"),
               blame(o, PSD_OPT_stop_target, err);
    tell(self, o);
    return PSD_OK;
}

static int build_model(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
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
    self->model = psd_model_new(&config, self->train, err);
    return self->model ? PSD_OK : blame(o, n ? PSD_OPT_model_layers : PSD_OPT_model_kind, err);
}

int psd_setup_load(psd_setup_t *self, const psd_options_t *o, psd_err_t *err)
{
    *self = (psd_setup_t){ 0 };
    int rc = load_data(self, o, err);
    rc = rc ? rc : build_model(self, o, err);
    if (!rc && psd_batch_parse(psd_options_string(o, PSD_OPT_data_batch), self->train->n_rows, &self->batch, err))
        rc = blame(o, PSD_OPT_data_batch, err);
    return rc;
}

void psd_setup_clear(psd_setup_t *self)
{
    psd_model_destroy(&self->model);
    psd_dataset_destroy(&self->held);
    psd_dataset_destroy(&self->test);
    psd_dataset_destroy(&self->train);
}
