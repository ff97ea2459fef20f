#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/log.h"
#include "common/system/safetensors.h"
#include "worker/encoding.h"
#include "worker/setup.h"

/* What a worker logs of the data that it has read. */
static char dir[] = "/tmp/psd-setup-XXXXXX", logged[1 << 14];
static psd_options_t *options;
static psd_setup_t setup_of;
static psd_err_t err;

static void take_line(void *arg, const char *line, size_t n)
{
    (void)arg;
    const size_t at = strlen(logged);
    snprintf(logged + at, sizeof logged - at, "%.*s", (int)n, line);
}

static void setup(void)
{
    clearenv();
    cr_assert_not_null(mkdtemp(dir));
    cr_assert_eq(chdir(dir), 0);
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .format = PSD_LOG_LOGFMT, .sink = take_line });
}

static void teardown(void)
{
    psd_setup_clear(&setup_of);
    psd_options_destroy(&options);
    unlink("train.csv"), unlink("test.csv"), unlink("w.safetensors"), unlink("rows.csv"), unlink("rows.svm"), unlink("rows.vw"),
        unlink("wide.svm");
    rmdir(dir);
}
TestSuite(setup, .init = setup, .fini = teardown, .timeout = 600);

static void write_file(const char *name, const char *text)
{
    FILE *file = fopen(name, "w");
    cr_assert(file && fputs(text, file) >= 0 && !fclose(file));
}

/* Load with these flags, separated by blanks. */
static int try_load(const char *flags)
{
    char copy[512], *argv[24] = { "psd-worker", "--data-train=csv:train.csv", "--data-label-column=y", "--data-batch=2" };
    int argc = 4;
    snprintf(copy, sizeof copy, "%s", flags);
    for (char *rest = copy, *word; (word = strtok_r(rest, " ", &rest));)
        argv[argc++] = word;
    psd_setup_clear(&setup_of);
    psd_options_destroy(&options);
    logged[0] = '\0';
    cr_assert_not_null(options = psd_options_new(PSD_PROGRAM_WORKER));
    cr_assert_eq(psd_options_load(options, argc, argv, &err), PSD_OK, "%s", err.text);
    return psd_setup_load(&setup_of, options, &err);
}

static void load(const char *flags) { cr_assert_eq(try_load(flags), PSD_OK, "%s", err.text); }

static void expect_logged(const char *words) { cr_expect_not_null(strstr(logged, words), "no %s in %s", words, logged); }

Test(setup, what_was_read_is_a_line_with_its_numbers)
{
    write_file("train.csv", "a,b,y\n1,2,0\n3,4,1\n5,6,0\n");
    write_file("test.csv", "a,b,y\n1,2,0\n3,4,1\n");
    load("--model-kind=softmax --data-test=csv:test.csv");
    expect_logged("level=info");
    expect_logged(" id=data.loaded train=csv:train.csv rows=3 features=2 classes=2 test_rows=2 held_out=0\n");
    cr_expect_null(strstr(logged, "level=warn"), "%s", logged);
    load("--model-kind=softmax");
    expect_logged(" classes=2 test_rows=0 held_out=0\n");
    write_file("train.csv", "a,b,y\n1,2,0\n3,1,1\n5,6,0\n");
    load("--model-kind=softmax --data-weight-column=b");
    expect_logged(" rows=3 features=1 classes=2 weighted=true test_rows=0 held_out=0\n");
}

Test(setup, readings_that_may_surprise_are_warned_of)
{
    write_file("train.csv", "a,b,y\n1,2,0\n3,,1\n5,6,0\n,1,1\n7,8,1\n");
    write_file("test.csv", "a,b,y\n1,2,0\n3,,1\n");
    load("--model-kind=softmax --data-test=csv:test.csv --data-na=skip");
    expect_logged("level=warn");
    expect_logged(" id=data.skipped rows=2 test_rows=1 reason=\"data.na=skip leaves out rows with a missing value\"\n");
    expect_logged(" id=data.loaded train=csv:train.csv rows=3 features=2 classes=2 test_rows=1 held_out=0\n");
    write_file("train.csv", "a,b,y\n1,2,1\n3,4,3\n5,6,2\n");
    load("--model-kind=softmax");
    expect_logged(" id=data.classes labels=1..3 classes=4 reason=\"classes count from 0: class 0 never occurs\"\n");
    write_file("wide.svm", "1 3:1\n0 20000000:1 1:2\n");
    load("--data-train=libsvm:wide.svm --data-label-column= --model-kind=logistic");
    expect_logged(
        " id=data.wide features=20000000 values=3 line=2 reason=\"memory is taken for every index up to the largest, which that "
        "line has; number features without gaps, or ");
    write_file("train.csv", "a,b,y\n1,2,1\n3,4,1\n5,6,1\n");
    load("--model-kind=logistic");
    expect_logged(" id=data.one_class class=1 rows=3 reason=\"all rows that are trained on are of one class\"\n");
    cr_expect_null(strstr(logged, "data.classes"), "it is said once: %s", logged);
    write_file("train.csv", "a,b,y\n1,2,0\n3,4,1\n5,6,0\n");
    load("--model-kind=softmax --data-test=csv:test.csv --data-na=skip");
    expect_logged(" id=data.skipped rows=0 test_rows=1 reason=");
    write_file("train.csv", "a,b,y\n1,2,0\n3,,1\n5,6,0\n");
    load("--model-kind=softmax --data-na=skip");
    expect_logged(" id=data.skipped rows=1 test_rows=0 reason=");
}

Test(setup, what_may_take_long_because_it_is_a_pipe_is_said_before_it_is_read)
{
    cr_expect_neq(try_load("--model-kind=softmax --data-train=csv:/dev/null"), PSD_OK);
    expect_logged(" id=data.pipe option=data.train from=csv:/dev/null reason=\"it is read to its end before the worker joins the "
                  "job\"\n");
    write_file("train.csv", "a,b,y\n1,2,0\n3,4,1\n");
    cr_expect_neq(try_load("--model-kind=softmax --data-test=csv:/dev/null"), PSD_OK);
    expect_logged(" id=data.pipe option=data.test from=");
}

#define ALL_POSITIVE                                                                                                               \
    "auc is undefined on the 2 test rows, which all are of one class; add other rows to data.test, or set another eval.metric"

Test(setup, a_metric_that_is_undefined_on_rows_is_warned_of_and_cannot_decide_by_them)
{
    write_file("train.csv", "a,y\n1,0\n3,1\n5,1\n7,1\n");
    write_file("test.csv", "a,y\n1,1\n3,1\n");
    load("--model-kind=logistic --data-test=csv:test.csv --eval-metric=auc");
    expect_logged(" id=eval.undefined reason=\"" ALL_POSITIVE "\"\n");
    cr_expect_eq(psd_setup_check_metric(&setup_of, options, false, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "--eval-metric: " ALL_POSITIVE);
    cr_assert_eq(try_load("--model-kind=logistic --data-test=csv:test.csv --eval-metric=auc --stop-patience=2"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "--stop-patience: stop.patience is set, but " ALL_POSITIVE);
    cr_assert_eq(try_load("--model-kind=logistic --data-test=csv:test.csv --eval-metric=auc --stop-target=0.9"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "--stop-target: stop.target is set, but " ALL_POSITIVE);
    load("--model-kind=logistic --data-test=csv:test.csv --stop-patience=2 --stop-target=0.9");
    cr_expect_null(strstr(logged, "eval.undefined"), "accuracy is defined on one class: %s", logged);
    write_file("test.csv", "a,y\n1,1\n3,0\n");
    cr_assert_eq(
        try_load("--model-kind=logistic --data-test=csv:test.csv --data-validation=0.25 --eval-metric=auc --stop-patience=2"),
        PSD_ECONFIG, "patience goes by the row held out");
    cr_expect_not_null(strstr(err.text, "auc is undefined on the 1 held-out rows"), "%s", err.text);
    load("--model-kind=logistic --data-test=csv:test.csv --data-validation=0.25 --eval-metric=auc --stop-target=0.5");
    expect_logged(" id=eval.undefined reason=\"auc is undefined on the 1 held-out rows, which all are of one class; raise "
                  "data.validation, change seed, or set another eval.metric\"\n");
    cr_expect_eq(psd_setup_check_metric(&setup_of, options, false, &err), PSD_OK);
    cr_expect_eq(psd_setup_check_metric(&setup_of, options, true, &err), PSD_ECONFIG);
    write_file("test.csv", "a,y\n1,2.5\n3,2.5\n");
    load("--model-kind=linear --data-test=csv:test.csv --eval-metric=r2");
    expect_logged("r2 is undefined on the 2 test rows, which all have the same label; ");
}

Test(setup, words_that_only_the_test_set_has_are_warned_of)
{
    write_file("train.csv", "a,b,y\n1,red,0\n3,blue,1\n5,red,0\n");
    write_file("test.csv", "a,b,y\n1,green,0\n3,blue,1\n4,grey,1\n");
    load("--model-kind=softmax --data-test=csv:test.csv --data-categorical=b");
    expect_logged(" id=data.unknown words=2 reason=\"the test set has words that the training set does not have; they have no "
                  "feature\"\n");
}

/* Keep the weights of a model of three classes, whose bias has the name `bias`, and a tensor that no model has. */
static void keep_weights(const char *bias)
{
    static const float values[6] = { 1, 2, 3, 4, 5, 6 };
    const uint64_t matrix[] = { 3, 2 }, three = 3;
    const psd_saved_t saved[] = { { .name = "fc1.weight", .shape = matrix, .n_dims = 2, .n = 6, .data = values },
                                  { .name = bias, .shape = &three, .n_dims = 1, .n = 3, .data = values },
                                  { .name = "head.weight", .shape = &three, .n_dims = 1, .n = 3, .data = values } };
    cr_assert_eq(psd_safetensors_write("w.safetensors", saved, 3, NULL, 0, &err), PSD_OK, "%s", err.text);
}

Test(setup, weights_to_start_from_are_told_with_those_that_are_missing_and_those_that_no_tensor_takes)
{
    write_file("train.csv", "a,b,y\n1,2,0\n3,4,1\n5,6,2\n");
    keep_weights("fc1.bias");
    load("--model-kind=softmax --init=w.safetensors");
    expect_logged(" id=init.loaded file=w.safetensors tensors=2 missing=0 unused=1\n");
    expect_logged(" id=init.unused tensors=1 names=head.weight reason=\"the model has no tensor of that name\"\n");
    cr_expect_null(strstr(logged, "init.missing"), "%s", logged);
    keep_weights("bias");
    load("--model-kind=softmax --init=w.safetensors --init-partial=true");
    expect_logged(" id=init.loaded file=w.safetensors tensors=1 missing=1 unused=2\n");
    expect_logged(" id=init.missing tensors=1 names=fc1.bias reason=\"the file has no tensor of that name and shape: these "
                  "start as without init\"\n");
    expect_logged(" id=init.unused tensors=2 names=\"bias, head.weight\"");
}

/* ---- refusals ---- */

static void expect_refused_at(int line, const char *flags, int code, const char *sentence)
{
    err = (psd_err_t){ 0 };
    cr_expect_eq(try_load(flags), code, "line %d: %d", line, err.code);
    cr_expect_str_eq(err.text, sentence, "line %d: %s", line, err.text);
}
#define expect_refused(flags, code, sentence) expect_refused_at(__LINE__, flags, code, sentence)

Test(setup, rows_of_which_none_counts_are_refused_wherever_they_are)
{
    const char *const some = "w,a,y\n1,2,0\n0,4,1\n1,5,0\n0,7,1\n", *const none = "w,a,y\n0,2,0\n0,4,1\n";
    write_file("train.csv", none);
    expect_refused("--model-kind=softmax --data-weight-column=w", PSD_EDATA,
                   "--data-weight-column: the weights of all 2 training rows are 0, so none of them counts; is data.weight_column "
                   "the right one?");
    write_file("train.csv", some);
    write_file("test.csv", none);
    expect_refused("--model-kind=softmax --data-weight-column=w --data-test=csv:test.csv", PSD_EDATA,
                   "--data-weight-column: the weights of all 2 test rows are 0, so none of them counts; is data.weight_column the "
                   "right one?");
    write_file("train.csv", "w,a,y\n1,2,0\n0,4,1\n0,5,0\n1,7,1\n"); /* the two in the middle are held out */
    write_file("test.csv", some);
    expect_refused("--model-kind=softmax --data-weight-column=w --data-test=csv:test.csv --data-validation=0.5", PSD_EDATA,
                   "--data-weight-column: the weights of all 2 held-out rows are 0, so none of them counts; is data.weight_column "
                   "the right one?");
}

Test(setup, an_end_that_needs_an_evaluation_needs_rows_to_evaluate)
{
    write_file("train.csv", "a,y\n2,0\n4,1\n5,0\n7,1\n");
    expect_refused("--model-kind=softmax --stop-patience=3", PSD_ECONFIG,
                   "--stop-patience: stop.patience is set, but there are no rows to evaluate; set data.validation or data.test");
    expect_refused("--model-kind=softmax --stop-target=0.9", PSD_ECONFIG,
                   "--stop-target: stop.target is set, but there is no test set to measure it on; set data.test");
    load("--model-kind=softmax --stop-patience=3 --data-validation=0.5");
    cr_expect(setup_of.test && setup_of.test->n_rows == 2 && setup_of.train->n_rows == 2 && !setup_of.held);
    load("--data-train=glyphs:30 --data-label-column= --model-kind=softmax --stop-patience=3");
    cr_expect(setup_of.test && setup_of.test->n_rows > 30, "glyphs come with a test set");
}

Test(setup, a_metric_that_the_rows_do_not_suit_is_refused)
{
    write_file("train.csv", "a,y\n2,0\n4,1\n5,2\n7,1\n");
    write_file("test.csv", "a,y\n2,0\n4,1\n5,2\n7,1\n");
    expect_refused("--model-kind=softmax --eval-metric=auc", PSD_ECONFIG,
                   "--eval-metric: eval.metric auc is for 2 classes, the training set has 3; choose accuracy or logloss");
    expect_refused("--model-kind=linear --eval-metric=auc", PSD_ECONFIG,
                   "--eval-metric: eval.metric auc does not go with model.kind linear; choose mse, mae or r2");
    expect_refused("--model-kind=softmax --eval-metric=mae", PSD_ECONFIG,
                   "--eval-metric: eval.metric mae does not go with model.kind softmax; choose accuracy, logloss or auc");
    expect_refused("--model-kind=softmax --data-test=csv:test.csv --stop-target=1.5", PSD_ECONFIG,
                   "--stop-target: stop.target is 1.5, but accuracy is at most 1; set a target up to 1");
    load("--model-kind=softmax --data-test=csv:test.csv --stop-target=1.5 --eval-metric=logloss");
    load("--model-kind=softmax --data-test=csv:test.csv --stop-target=1");
}

/* ---- a model that knows its columns ---- */

/* Keep a model of the columns city (words) and age, and the label y. */
static void keep_model(void)
{
    const char *flags = "--model-kind=softmax --data-categorical=city";
    write_file("train.csv", "city,age,y\nOslo,3,0\nRome,4,1\nRome,9,0\nOslo,5,1\n");
    load(flags);
    psd_saved_t saved[2];
    for (size_t i = 0; i < 2; i++) {
        const psd_param_t *p = &psd_model_params(setup_of.model)[i];
        saved[i] = (psd_saved_t){ .name = p->name, .shape = p->shape, .n_dims = p->n_dims, .n = p->n, .data = p->data };
    }
    char *text = psd_encoding_print(setup_of.train->encoding, &err);
    const psd_note_t note = { PSD_ENCODING_NOTE, text };
    cr_assert_eq(psd_safetensors_write("w.safetensors", saved, 2, &note, 1, &err), PSD_OK, "%s", err.text);
    free(text);
}

#define WARM "--model-kind=softmax --init=w.safetensors "
#define CURE "; leave it out, or start without init"

Test(setup, rows_for_a_model_that_knows_its_columns_have_their_names_and_roles)
{
    keep_model();
    write_file("train.csv", "y,age,city\n0,3,Rome\n1,4,Oslo\n");
    load(WARM);
    cr_expect_eq(setup_of.train->n_features, 3);
    cr_assert_not_null(setup_of.train->encoding, "it goes on into the next model");
    cr_expect_str_eq(setup_of.train->encoding->column[0].name, "city");
    load(WARM "--data-label-column=0");
    expect_refused(WARM "--data-header=false --data-label-column=0", PSD_ECONFIG,
                   "--data-label-column: data.label_column is 0, but the model in w.safetensors was trained with y" CURE);
    expect_refused(WARM "--data-label-column=age", PSD_ECONFIG,
                   "--data-label-column: data.label_column is age, but the model in w.safetensors was trained with y" CURE);
    expect_refused(WARM "--data-drop=age", PSD_ECONFIG,
                   "--data-drop: data.drop names age, but the model in w.safetensors was trained with it as a feature" CURE);
    expect_refused(WARM "--data-drop=y", PSD_ECONFIG,
                   "--data-drop: data.drop names y, but the model in w.safetensors was trained with it as the label" CURE);
    expect_refused(WARM "--data-weight-column=city", PSD_ECONFIG,
                   "--data-weight-column: data.weight_column names city, but the model in w.safetensors was trained with it as a "
                   "feature" CURE);
    write_file("train.csv", "age,city\n3,Rome\n4,Oslo\n");
    expect_refused(WARM, PSD_EDATA,
                   "--data-train: csv:train.csv: no column is named 'y', as the label is in the model's training set; add it, or "
                   "rename the label's column");
    write_file("train.csv", "y,age,city\n0,3,Rome\n1,4,Oslo\n");
    write_file("test.csv", "age,city\n3,Rome\n4,Oslo\n");
    expect_refused(WARM "--data-test=csv:test.csv", PSD_EDATA, "--data-test: csv:test.csv: it has no labels");
    write_file("test.csv", "age,city,y\n3,Rome,0\n4,Oslo,1\n5,Rome,0\n");
    load(WARM "--data-test=csv:test.csv");
    cr_expect_eq(setup_of.test->n_rows, 3);
}

/* A column of `n` words of half a mebibyte. */
static void write_long_words(int n)
{
    enum { HALF = 1 << 19 };
    char *word = malloc(HALF);
    memset(word, 'w', HALF);
    FILE *file = fopen("train.csv", "w");
    fputs("a,y\n", file);
    for (int i = 0; i < n; i++)
        fprintf(file, "%.*s%02d,%d\n", HALF - 2, word, i, i % 2);
    cr_assert_eq(fclose(file), 0);
    free(word);
}

Test(setup, dictionaries_have_to_find_room_in_the_file_of_the_model)
{
    write_long_words(31);
    load("--model-kind=softmax --data-categorical=a --data-one-hot=64");
    write_long_words(33);
    cr_expect_eq(try_load("--model-kind=softmax --data-categorical=a --data-one-hot=64"), PSD_EDATA);
    const char *begin = "--data-train: the dictionaries of its columns have 173", *end = " bytes, but a model's file has room for "
                                                                                         "16777216; lower data.one_hot";
    cr_expect(!strncmp(err.text, begin, strlen(begin)) && strstr(err.text, end), "%s", err.text);
}

/* ---- options ---- */

/* What is read with these flags, as "flags: ROWSxFEATURES/CLASSES values; ..." */
static void print_read(FILE *out, const char *flags)
{
    char all[200];
    snprintf(all, sizeof all, "--model-kind=softmax %s", flags);
    load(all);
    const psd_dataset_t *set = setup_of.train;
    fprintf(out, "%s: %zux%zu/%zu", flags, set->n_rows, set->n_features, set->n_classes);
    for (size_t i = 0; set->dense && i < set->n_rows * set->n_features; i++)
        fprintf(out, "%s%.4g", i % set->n_features ? "," : " ", (double)set->dense[i]);
    fprintf(out, " batch=%zu\n", setup_of.batch);
}

Test(setup, each_option_of_the_data_does_what_it_says)
{
    static const char *const flags[] = { "--data-drop=b",
                                         "--data-na=zero",
                                         "--data-na=mean",
                                         "--data-na=skip --data-log1p=b",
                                         "--data-na=zero --data-scale=standard",
                                         "--data-na=zero --data-categorical=b --data-one-hot=9",
                                         "--data-na=zero --data-weight-column=a",
                                         "--data-na=zero --data-batch=3",
                                         "--data-na=zero --data-validation=0.5",
                                         "--data-na=zero --data-validation=0.5 --seed=2",
                                         "--data-na=zero --data-validation=0.5 --data-scale=standard" };
    static const char wanted[] = /* of a: the mean is 3.5, the deviation sqrt(5.25) */
        "--data-drop=b: 4x1/2 1 2 4 7 batch=2\n"
        "--data-na=zero: 4x2/2 1,3 2,5 4,0 7,9 batch=2\n"
        "--data-na=mean: 4x2/2 1,3 2,5 4,5.667 7,9 batch=2\n"
        "--data-na=skip --data-log1p=b: 3x2/2 1,1.386 2,1.792 7,2.303 batch=2\n"
        "--data-na=zero --data-scale=standard: 4x2/2 -1.091,-0.3824 -0.6547,0.2294 0.2182,-1.3 1.528,1.453 batch=2\n"
        "--data-na=zero --data-categorical=b --data-one-hot=9: 4x4/2 batch=2\n"
        "--data-na=zero --data-weight-column=a: 4x1/2 3 5 0 9 batch=2\n"
        "--data-na=zero --data-batch=3: 4x2/2 1,3 2,5 4,0 7,9 batch=3\n"
        "--data-na=zero --data-validation=0.5: 2x2/2 1,3 7,9 batch=2\n"
        "--data-na=zero --data-validation=0.5 --seed=2: 2x2/2 2,5 4,0 batch=2\n"
        "--data-na=zero --data-validation=0.5 --data-scale=standard: 2x2/2 -1,-1 1,1 batch=2\n"
        "--data-delimiter=; --data-header=false --data-label-column=2: 2x2/2 1,3 2,5 batch=2\n"
        "--data-train=libsvm:rows.svm --data-label-column=: 2x3/2 batch=2\n"
        "--data-train=libsvm:rows.svm --data-label-column= --data-index-base=0: 2x4/2 batch=2\n"
        "--data-train=vw:rows.vw --data-label-column= --data-hash-bits=5: 2x32/2 batch=2\n";
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    write_file("train.csv", "a,b,y\n1,3,0\n2,5,1\n4,,0\n7,9,1\n");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        print_read(out, flags[i]);
    write_file("train.csv", "1;3;0\n2;5;1\n");
    print_read(out, "--data-delimiter=; --data-header=false --data-label-column=2");
    write_file("rows.svm", "0 1:2\n1 3:5\n");
    print_read(out, "--data-train=libsvm:rows.svm --data-label-column=");
    print_read(out, "--data-train=libsvm:rows.svm --data-label-column= --data-index-base=0");
    write_file("rows.vw", "0 | red\n1 | blue\n");
    print_read(out, "--data-train=vw:rows.vw --data-label-column= --data-hash-bits=5");
    fclose(out);
    cr_expect_str_eq(text, wanted, "%s", text);
    free(text);
}

Test(setup, the_model_is_made_as_the_options_say_and_what_it_cannot_be_is_refused)
{
    write_file("train.csv", "a,b,y\n1,2,0\n3,4,1\n5,6,0\n");
    load("--model-kind=mlp --model-layers=2,3,2 --model-activation=tanh");
    cr_expect_str_eq(psd_model_kind(setup_of.model)->name, "mlp");
    cr_expect_str_eq(psd_model_activation(setup_of.model), "tanh");
    cr_assert_eq(psd_model_n_params(setup_of.model), 4);
    cr_expect(psd_model_params(setup_of.model)[0].shape[0] == 3 && psd_model_params(setup_of.model)[0].shape[1] == 2);
    const float first = psd_model_params(setup_of.model)[0].data[0];
    load("--model-kind=mlp --model-layers=2,3,2 --model-activation=tanh");
    cr_expect_eq(psd_model_params(setup_of.model)[0].data[0], first);
    load("--model-kind=mlp --model-layers=2,3,2 --model-activation=tanh --seed=5");
    cr_expect_neq(psd_model_params(setup_of.model)[0].data[0], first, "another seed");
    expect_refused("--model-kind=softmax --model-loss=mse", PSD_ECONFIG,
                   "--model-kind: model.loss 'mse' does not go with model.kind softmax; its loss is softmax");
    cr_expect_neq(try_load("--model-kind=mlp --model-layers=3,3,2"), PSD_OK);
    cr_expect_eq(strncmp(err.text, "--model-layers: ", 16), 0, "%s", err.text);
    keep_weights("fc1.bias");
    load("--model-kind=linear --data-test=csv:train.csv --stop-target=7");
    write_file("train.csv", "a,b,y\n1,2,0\n3,4,1\n5,6,2\n");
    load("--model-kind=softmax --init=w.safetensors");
    cr_expect_eq(psd_model_params(setup_of.model)[1].data[2], 3, "that of the file");
    psd_setup_clear(&setup_of);
    cr_assert_eq(psd_setup_load_anew(&setup_of, options, &err), PSD_OK, "%s", err.text);
    cr_expect_neq(psd_model_params(setup_of.model)[1].data[2], 3);
}

/* Keep `n` images of two pixels, and their labels. */
static void write_images(const char *images, const char *labels, const char *label, int n)
{
    FILE *file = fopen(images, "wb");
    fwrite((char[]){ 0, 0, 8, 3, 0, 0, 0, (char)n, 0, 0, 0, 1, 0, 0, 0, 2 }, 1, 16, file);
    for (int i = 0; i < 2 * n; i++)
        fputc(40 * i + n, file);
    cr_assert_eq(fclose(file), 0);
    file = fopen(labels, "wb");
    fwrite((char[]){ 0, 0, 8, 1, 0, 0, 0, (char)n }, 1, 8, file);
    fwrite(label, 1, (size_t)n, file);
    cr_assert_eq(fclose(file), 0);
}

Test(setup, labels_in_another_file_are_those_of_their_own_set)
{
    psd_dataset_t *rows = NULL;
    write_images("train.idx", "train-labels.idx", (char[]){ 0, 1, 0 }, 3);
    write_images("test.idx", "test-labels.idx", (char[]){ 1, 1 }, 2);
    load("--data-train=idx:train.idx --data-labels=train-labels.idx --data-test=idx:test.idx --data-test-labels=test-labels.idx "
         "--data-label-column= --model-kind=softmax");
    cr_assert(setup_of.train->n_rows == 3 && setup_of.test->n_rows == 2);
    cr_expect(setup_of.train->label[0] < 1 && setup_of.train->label[1] > 0 && setup_of.train->label[2] < 1);
    cr_expect(setup_of.test->label[0] > 0 && setup_of.test->label[1] > 0);
    cr_assert_eq(psd_setup_rows(&rows, options, "idx:test.idx", setup_of.train, &err), PSD_OK, "%s", err.text);
    cr_expect(!rows->unlabelled && rows->label[0] > 0);
    psd_dataset_destroy(&rows);
    cr_assert_eq(psd_setup_rows(&rows, options, "idx:train.idx", setup_of.train, &err), PSD_OK, "%s", err.text);
    cr_expect(rows->unlabelled, "the test set's labels are not theirs");
    psd_dataset_destroy(&rows);
    unlink("train.idx"), unlink("train-labels.idx"), unlink("test.idx"), unlink("test-labels.idx");
}
