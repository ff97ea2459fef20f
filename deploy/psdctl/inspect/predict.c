/* predict.c - `psdctl predict`: the predictions of a trained model for the rows of a file. */
#include "deploy/psdctl/verb.h"

#include <stdlib.h>
#include <string.h>

#include "common/config/contradictions.h"
#include "common/config/options.h"
#include "common/system/durable.h"
#include "deploy/psdctl/say.h"
#include "worker/predictor.h"
#include "worker/setup.h"

enum { MODEL, ROWS, TO, CLASSES };

typedef struct request {
    const char *model, *rows, *to;
    bool all_classes;
} request_t;

static int choose(request_t *self, const psd_args_t *args, const psd_options_t *o, psd_err_t *err)
{
    *self = (request_t){ .model = args->flag[MODEL] ? args->flag[MODEL] : psd_options_string(o, PSD_OPT_save),
                         .rows = args->flag[ROWS] ? args->flag[ROWS] : psd_options_string(o, PSD_OPT_data_test),
                         .to = args->flag[TO],
                         .all_classes = !args->flag[CLASSES] || !strcmp(args->flag[CLASSES], "all") };
    if (!*self->model)
        return psd_err_set(err, PSD_EUSAGE, "a model is missing: give --weights=FILE, or set save in the job file");
    if (!*self->rows)
        return psd_err_set(err, PSD_EUSAGE, "rows are missing: give --rows=FORMAT:FILE, or set data.test in the job file");
    char why[PSD_OPTION_WHY];
    if (self->to && !args->flag[MODEL] && psd_contradiction_replaces("--to", self->to, "save", self->model, why))
        return psd_err_set(err, PSD_EUSAGE, "%s", why);
    if (self->to && psd_verb_check_output(args, o, TO, self->to, err))
        return err->code;
    if (psd_dataset_check_format(self->rows, err) == PSD_OK)
        return PSD_OK;
    err->code = args->flag[ROWS] ? PSD_EUSAGE : PSD_ECONFIG;
    return psd_err_wrap(err, "%s", args->flag[ROWS] ? "--rows" : psd_options_origin(o, PSD_OPT_data_test));
}

/* Write to a file, atomically, or to standard output. */
static int deliver(const request_t *self, const char *text, size_t n, psd_err_t *err)
{
    if (self->to)
        return psd_durable_put(self->to, text, n, err);
    return fwrite(text, 1, n, stdout) == n && !fflush(stdout)
               ? PSD_OK
               : psd_err_set(err, PSD_EIO, "cannot write the predictions to standard output");
}

static int predict(const psd_args_t *args, const psd_options_t *o, psd_err_t *err)
{
    request_t request;
    psd_predictions_t said;
    char *text = NULL;
    size_t n = 0;
    int rc = choose(&request, args, o, err);
    FILE *out = rc ? NULL : open_memstream(&text, &n);
    if (!out)
        return rc ? rc : psd_err_set(err, PSD_ENOMEM, "no memory for predictions");
    rc = psd_predictor_write(o, request.model, request.rows, request.all_classes, out, &said, err);
    if (fclose(out) && !rc)
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for predictions");
    rc = rc ? rc : deliver(&request, text, n, err);
    free(text);
    if (rc)
        return rc;
    fprintf(stderr, "psdctl predict: %zu rows%s%s\n", said.n_rows, *said.metrics ? ": " : "", said.metrics);
    if (said.n_unknown)
        fprintf(stderr, "psdctl predict: words that did not occur in training, and so have no feature: %zu\n", said.n_unknown);
    return PSD_OK;
}

static int predict_and_say(const psd_args_t *args, const psd_options_t *options)
{
    psd_err_t err = { 0 };
    return predict(args, options, &err) ? psd_say_error("predict", &err) : 0;
}

static int run(const psd_args_t *args) { return psd_verb_with_options(args, predict_and_say); }

const psd_verb_t psd_verb_predict = {
    .name = "predict",
    .words = "[JOB]",
    .does = "predict the rows of a file with a trained model",
    .about =
        "Writes a CSV line for each row: the likeliest class and the probability of each, or the number. Encodes the rows as the "
        "training set was encoded, and reports any that do not fit. Rows need no labels; if they have labels, it reports the "
        "quality of the predictions on standard error.",
    .flag = { [MODEL] = { .key = "weights",
                          .type = PSD_OPTION_PATH,
                          .argument = "FILE",
                          .help = "model from psd-worker or psdctl export (default: the job's save)" },
              [ROWS] = { .key = "rows",
                         .type = PSD_OPTION_DATA,
                         .argument = "FORMAT:FILE",
                         .help = "rows to predict, in a format of data.train (default: the job's data.test)" },
              [TO] = { .key = "to",
                       .type = PSD_OPTION_PATH,
                       .argument = "PATH",
                       .help = "file for the predictions (default: standard output)" },
              [CLASSES] = { .key = "classes",
                            .type = PSD_OPTION_STRING,
                            .argument = "all|likeliest",
                            .range = "all|likeliest",
                            .help = "classes whose probabilities are written (default: all)" } },
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_WORKER,
    .examples = "psdctl predict deploy/examples/linear.yaml --weights=model.safetensors --rows=csv:deploy/examples/linear.csv\n",
    .exits = "78 and 64 as config check; 65 when model, rows and job do not fit each other; 66 when a file does not exist",
    .run = run,
};
