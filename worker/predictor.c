#include "worker/predictor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/number.h"
#include "worker/setup.h"
#include "worker/weights.h"

typedef struct predictor {
    const psd_options_t *options;
    psd_safetensors_t file; /* the model */
    psd_dataset_t *frame;   /* a set that the rows must fit: a training set, or only its shape */
    psd_dataset_t *rows;
    psd_model_t *model;
    bool all_classes;
    FILE *out;
    double *chance; /* of each class, of one row */
} predictor_t;

/* ---- The model's training set ---- */

/* If the model's file has no encoding, tables need the training set to learn it again. */
static int read_frame(predictor_t *self, const char *spec, psd_err_t *err)
{
    const char *kind = psd_options_string(self->options, PSD_OPT_model_kind);
    psd_setup_t setup;
    const bool is_table = psd_dataset_needs_encoding(spec);
    if (psd_safetensors_note(&self->file, PSD_ENCODING_NOTE) || !is_table) {
        self->frame = psd_weights_frame(&self->file, psd_model_kind_find(kind), err);
        return !self->frame ? err->code
               : is_table || !self->frame->encoding
                   ? PSD_OK
                   : psd_err_set(err, PSD_EDATA,
                                 "%s: the model was trained on the columns of a table, which these rows do not have", spec);
    }
    const int rc = psd_setup_load(&setup, self->options, err);
    self->frame = setup.train;
    setup.train = NULL;
    psd_setup_clear(&setup);
    return rc ? psd_err_wrap(err,
                             "%s does not describe its columns, so the job's training set is needed (psdctl export "
                             "--encoding=run.dir/encoding.json "
                             "describes them)",
                             self->file.path)
              : PSD_OK;
}

static int build_model(predictor_t *self, psd_err_t *err)
{
    psd_weights_taken_t taken;
    int rc = psd_setup_model(&self->model, self->options, self->rows, err);
    rc = rc ? rc : psd_weights_take(self->model, &self->file, false, &taken, err);
    if (!rc && taken.n_unused)
        rc = psd_err_set(err, PSD_EDATA,
                         "%s: it has tensors that the job's model does not have: %s; give the file of this job's model",
                         self->file.path, taken.unused);
    return rc;
}

/* ---- Lines ---- */

/* A word as a field of csv. */
static void print_field(FILE *out, const char *prefix, const char *word)
{
    if (!strpbrk(word, ",\"\r\n")) {
        fprintf(out, "%s%s", prefix, word);
        return;
    }
    fprintf(out, "\"%s", prefix);
    for (; *word; word++)
        fprintf(out, "%s%c", *word == '"' ? "\"" : "", *word);
    fputc('"', out);
}

static void print_class(const predictor_t *self, const char *prefix, size_t class)
{
    const psd_encoding_t *encoding = self->frame->encoding;
    char number[24];
    snprintf(number, sizeof number, "%zu", class);
    print_field(self->out, prefix, encoding && encoding->class_word ? encoding->class_word[class] : number);
}

static void print_number(const predictor_t *self, const char *prefix, double value)
{
    char text[PSD_NUMBER_TEXT];
    fprintf(self->out, "%s%s", prefix, psd_number_print_digits(value, 9, text));
}

static void print_header(const predictor_t *self)
{
    fputs("prediction", self->out);
    if (self->rows->kind == PSD_LABEL_CLASS && !self->all_classes)
        fputs(",p", self->out);
    for (size_t c = 0; self->all_classes && c < self->rows->n_classes; c++) {
        fputc(',', self->out);
        print_class(self, "p_", c);
    }
    fputc('\n', self->out);
}

/* The probabilities of all classes from the outputs: a logistic model has a single output, others have one per class. */
static size_t find_chances(const predictor_t *self, const float *z, size_t n)
{
    double sum = 0, most = (double)z[0];
    size_t best = 0;
    if (n == 1) {
        self->chance[1] = z[0] >= 0 ? 1 / (1 + exp(-(double)z[0])) : exp((double)z[0]) / (1 + exp((double)z[0]));
        self->chance[0] = z[0] >= 0 ? exp(-(double)z[0]) / (1 + exp(-(double)z[0])) : 1 / (1 + exp((double)z[0]));
        return z[0] > 0;
    }
    for (size_t c = 1; c < n; c++)
        if ((double)z[c] > most) {
            most = (double)z[c];
            best = c;
        }
    for (size_t c = 0; c < n; c++)
        sum += self->chance[c] = exp((double)z[c] - most);
    for (size_t c = 0; c < n; c++)
        self->chance[c] /= sum;
    return best;
}

static int print_row(void *arg, size_t row, const float *z, size_t n)
{
    const predictor_t *self = arg;
    (void)row;
    if (self->rows->kind != PSD_LABEL_CLASS) {
        print_number(self, "", (double)z[0]);
    } else {
        const size_t best = find_chances(self, z, n);
        print_class(self, "", best);
        if (!self->all_classes)
            print_number(self, ",", self->chance[best]);
        for (size_t c = 0; self->all_classes && c < self->rows->n_classes; c++)
            print_number(self, ",", self->chance[c]);
    }
    return fputc('\n', self->out) < 0 ? PSD_EIO : PSD_OK;
}

/* The quality of the predictions, if the rows have labels. */
static void describe(const predictor_t *self, psd_predictions_t *said)
{
    const psd_score_t score = psd_model_evaluate(self->model, NULL, self->rows, NULL);
    size_t n = 0;
    for (size_t i = 0; psd_metric_at(i) && n < sizeof said->metrics; i++)
        if (psd_metric_suits(psd_metric_at(i), self->rows) && !isnan(score.value[i]))
            n += (size_t)snprintf(said->metrics + n, sizeof said->metrics - n, "%s%s %.6g", n ? ", " : "", psd_metric_at(i)->name,
                                  score.value[i]);
}

static int predict(predictor_t *self, const char *path, const char *spec, psd_predictions_t *said, psd_err_t *err)
{
    int rc = psd_safetensors_open(&self->file, path, err);
    rc = rc ? rc : psd_safetensors_parse(&self->file, err);
    rc = rc ? rc : read_frame(self, spec, err);
    rc = rc ? rc : psd_setup_rows(&self->rows, self->options, spec, self->frame, err);
    if (!rc && self->rows->n_skipped)
        rc = psd_err_set(err, PSD_EDATA,
                         "%s: %zu rows have a missing value, and data.na=skip would leave them out, but every row gets a "
                         "prediction: set data.na to zero or mean",
                         spec, self->rows->n_skipped);
    rc = rc ? rc : build_model(self, err);
    if (!rc && !(self->chance = calloc(self->rows->n_classes + 1, sizeof *self->chance)))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for %zu classes", self->rows->n_classes);
    if (rc)
        return rc;
    print_header(self);
    if (psd_model_predict(self->model, self->rows, print_row, self))
        return psd_err_set(err, PSD_EIO, "cannot write the predictions");
    said->n_rows = self->rows->n_rows;
    said->n_unknown = self->rows->n_unknown;
    if (!self->rows->unlabelled)
        describe(self, said);
    return PSD_OK;
}

int psd_predictor_write(const psd_options_t *o, const char *path, const char *spec, bool all_classes, FILE *out,
                        psd_predictions_t *said, psd_err_t *err)
{
    const bool classes = psd_model_kind_find(psd_options_string(o, PSD_OPT_model_kind))->labels == PSD_LABEL_CLASS;
    predictor_t self = { .options = o, .file = { .fd = -1 }, .all_classes = all_classes && classes, .out = out };
    *said = (psd_predictions_t){ 0 };
    const int rc = predict(&self, path, spec, said, err);
    free(self.chance);
    psd_model_destroy(&self.model);
    psd_dataset_destroy(&self.rows);
    psd_dataset_destroy(&self.frame);
    psd_safetensors_close(&self.file);
    return rc;
}
