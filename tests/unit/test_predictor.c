#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/safetensors.h"
#include "worker/predictor.h"

static psd_err_t err;
static char dir[] = "/tmp/psd-test-XXXXXX", model[64], rows[64], spec[80];
static psd_options_t *options;

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(model, sizeof model, "%s/m.safetensors", dir);
    snprintf(rows, sizeof rows, "%s/rows.csv", dir);
    snprintf(spec, sizeof spec, "csv:%s", rows);
}

static void teardown(void)
{
    psd_options_destroy(&options);
    unlink(model);
    unlink(rows);
    rmdir(dir);
}

TestSuite(predictor, .init = setup, .fini = teardown, .timeout = 60);

/* z = 2 a - 1 + 3 [town is "x,y"], the chance of "yes". */
static void write_model(const float weights[3], const char *encoding)
{
    const psd_saved_t tensors[] = {
        { .name = "fc1.weight", .shape = (const uint64_t[]){ 1, 3 }, .n_dims = 2, .n = 3, .data = weights },
        { .name = "fc1.bias", .shape = (const uint64_t[]){ 1 }, .n_dims = 1, .n = 1, .data = (const float[]){ -1 } }
    };
    const psd_note_t note = { "psd.encoding", encoding };
    cr_assert_eq(psd_safetensors_write(model, tensors, 2, &note, 1, &err), PSD_OK, "%s", err.text);
}

static const char encoding[] =
    "{\"schema\":\"psd.encoding/1\",\"label\":\"income\",\"hash_bits\":4,\"fields\":3,\"classes\":[\"no\",\"yes, \\\"all\\\"\"],"
    "\"columns\":[{\"name\":\"a\"},{\"name\":\"town\",\"words\":[\"w\",\"x,y\"]}]}";

static int predict(const char *text, bool all, char **out, psd_predictions_t *said)
{
    FILE *file = fopen(rows, "w");
    fputs(text, file);
    fclose(file);
    size_t n;
    options = psd_options_new(PSD_PROGRAM_WORKER);
    const char *job = "model: {kind: logistic}\n";
    cr_assert_eq(psd_options_load_text(options, "job", job, strlen(job), &err), PSD_OK, "%s", err.text);
    FILE *stream = open_memstream(out, &n);
    const int rc = psd_predictor_write(options, model, spec, all, stream, said, &err);
    fclose(stream);
    psd_options_destroy(&options);
    return rc;
}

Test(predictor, a_line_for_each_row_has_the_likeliest_class_and_the_chances)
{
    char *out;
    psd_predictions_t said;
    write_model((const float[]){ 2, 0, 3 }, encoding);
    cr_assert_eq(predict("town,a\n\"x,y\",0\nw,0.5\nnew,0\n", true, &out, &said), PSD_OK, "%s", err.text);
    /* z is 2, 0 and -1; a tie goes to the first class. */
    cr_expect_str_eq(out, "prediction,p_no,\"p_yes, \"\"all\"\"\"\n\"yes, \"\"all\"\"\",0.119202922,0.880797078\nno,0.5,0.5\n"
                          "no,0.731058579,0.268941421\n");
    cr_expect_eq(said.n_rows, 3);
    cr_expect_eq(said.n_unknown, 1);
    cr_expect_str_eq(said.metrics, "");
    free(out);
    cr_assert_eq(predict("a,town,income\n0,w,no\n0,\"x,y\",no\n", false, &out, &said), PSD_OK, "%s", err.text);
    cr_expect_str_eq(out, "prediction,p\nno,0.731058579\n\"yes, \"\"all\"\"\",0.880797078\n");
    cr_expect_eq(strncmp(said.metrics, "accuracy 0.5, logloss ", 22), 0, "%s", said.metrics);
    free(out);
}

Test(predictor, a_mismatch_is_reported)
{
    char *out;
    psd_predictions_t said;
    write_model((const float[]){ 2, 0, 3 }, encoding);
    cr_expect_eq(predict("town\nw\n", true, &out, &said), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "no column is named 'a', which the model was trained on; add it"), "%s", err.text);
    free(out);
    write_model((const float[]){ 2, 0, 3 }, "{}");
    cr_expect_eq(predict("town,a\nw,1\n", true, &out, &said), PSD_EDATA);
    cr_expect_not_null(strstr(err.text, "the model's encoding (psd.encoding) is damaged: it has no columns"), "%s", err.text);
    free(out);
}
