#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/optimizer.h"
#include "common/base/rng.h"
#include "tests/support/data.h"
#include "worker/model.h"
#include "worker/sampler.h"

enum { ROWS = 37, FEATURES = 6, CLASSES = 3 };

static psd_err_t err;

TestSuite(model, .timeout = 600);
TestSuite(convergence, .timeout = 600);

static float between(uint64_t *rng, float low, float high) { return low + (high - low) * (float)psd_uniform(rng); }

/* A small random set, half of whose features are 0; as CSR when `sparse`. */
static psd_dataset_t *make_set(psd_label_kind_t kind, size_t classes, size_t rows, bool sparse)
{
    uint64_t rng = 99;
    psd_dataset_t *set = calloc(1, sizeof *set);
    *set = (psd_dataset_t){ .n_rows = rows, .n_features = FEATURES, .kind = kind, .n_classes = classes };
    set->label = malloc(rows * sizeof(float));
    set->weight = malloc(rows * sizeof(float));
    set->dense = calloc(rows * FEATURES, sizeof(float));
    set->row_start = calloc(rows + 1, sizeof *set->row_start);
    set->column = malloc(rows * FEATURES * sizeof *set->column);
    set->value = malloc(rows * FEATURES * sizeof(float));
    size_t n = 0;
    for (size_t i = 0; i < rows; i++) {
        set->label[i] = classes ? (float)(psd_splitmix64(&rng) % classes) : between(&rng, -2, 2);
        set->weight[i] = between(&rng, 0.5f, 2);
        for (uint32_t j = 0; j < FEATURES; j++)
            if (psd_splitmix64(&rng) & 1) {
                set->value[n] = set->dense[i * FEATURES + j] = between(&rng, -1, 1);
                set->column[n++] = j;
            }
        set->row_start[i + 1] = n;
    }
    free(sparse ? (void *)set->dense : set->row_start);
    *(sparse ? (void **)&set->dense : (void **)&set->row_start) = NULL;
    return set;
}

typedef struct shape {
    const char *kind, *activation;
    size_t classes;
    size_t layers[4];
    size_t n_layers;
} shape_t;

static const shape_t shapes[] = {
    { "linear", NULL, 0, { 0 }, 0 },
    { "logistic", NULL, 2, { 0 }, 0 },
    { "softmax", NULL, CLASSES, { 0 }, 0 },
    { "mlp", "relu", CLASSES, { FEATURES, 8, CLASSES }, 3 },
    { "mlp", "tanh", CLASSES, { FEATURES, 8, 5, CLASSES }, 4 },
    { "mlp", "gelu", CLASSES, { FEATURES, 8, 5, CLASSES }, 4 },
};
enum { RELU = 3, N_SHAPES = sizeof shapes / sizeof *shapes };

static psd_model_t *make_model(const shape_t *shape, const psd_dataset_t *set)
{
    psd_model_config_t config = {
        .kind = shape->kind, .activation = shape->activation, .layers = shape->layers, .n_layers = shape->n_layers, .seed = 3
    };
    psd_model_t *model = psd_model_new(&config, set, &err);
    cr_assert_not_null(model, "%s", err.text);
    return model;
}

static psd_dataset_t *set_for(const shape_t *shape, size_t rows, bool sparse)
{
    return make_set(shape->classes ? PSD_LABEL_CLASS : PSD_LABEL_TARGET, shape->classes, rows, sparse);
}

static const uint32_t *every_row(size_t n)
{
    static uint32_t rows[5000];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = i;
    return rows;
}

/* ---- Gradients ---- */

Test(model, gradients_agree_with_finite_differences_for_every_kind_dense_and_sparse)
{
    for (int s = 0; s < 2 * N_SHAPES; s++) {
        const shape_t *shape = &shapes[s / 2];
        psd_dataset_t *set = set_for(shape, ROWS, s % 2);
        psd_model_t *model = make_model(shape, set);
        const psd_param_t *param = psd_model_params(model);
        psd_model_gradient(model, set, every_row(ROWS), ROWS);
        for (size_t i = 0; i < psd_model_n_params(model); i++) {
            float *analytic = malloc(param[i].n * sizeof(float));
            memcpy(analytic, param[i].grad, param[i].n * sizeof(float));
            for (size_t j = 0; j < param[i].n; j++) {
                const float was = param[i].data[j], h = 4e-3f;
                param[i].data[j] = was + h;
                const double up = psd_model_gradient(model, set, every_row(ROWS), ROWS), high = param[i].data[j];
                param[i].data[j] = was - h;
                const double down = psd_model_gradient(model, set, every_row(ROWS), ROWS), low = param[i].data[j];
                param[i].data[j] = was;
                /* Rounding of the float32 forward pass over 2h: some 1e-7 / 8e-3; curvature: h^2; a relu's
                 * kink: h. */
                const double numeric = (up - down) / (high - low);
                cr_assert_float_eq(analytic[j], numeric, s / 2 == RELU ? 2e-3 : 1e-4, "%s %s %s[%zu]: %g, not %g", shape->kind,
                                   shape->activation ? shape->activation : "", param[i].name, j, (double)analytic[j], numeric);
            }
            /* The reverse comparison, over the whole tensor, so that a gradient of zeros cannot pass. */
            double norm = 0;
            for (size_t j = 0; j < param[i].n; j++)
                norm += fabs((double)analytic[j]);
            cr_assert_gt(norm / (double)param[i].n, 5e-4, "%s %s", shape->kind, param[i].name);
            free(analytic);
            psd_model_gradient(model, set, every_row(ROWS), ROWS);
        }
        psd_model_destroy(&model);
        psd_dataset_destroy(&set);
    }
}

Test(model, sparse_rows_give_the_loss_and_gradient_of_the_same_dense_rows)
{
    for (int s = 0; s < N_SHAPES; s++) {
        psd_dataset_t *dense = set_for(&shapes[s], ROWS, false), *sparse = set_for(&shapes[s], ROWS, true);
        psd_model_t *a = make_model(&shapes[s], dense), *b = make_model(&shapes[s], sparse);
        cr_assert_float_eq(psd_model_gradient(a, dense, every_row(ROWS), ROWS),
                           psd_model_gradient(b, sparse, every_row(ROWS), ROWS), 1e-6);
        for (size_t i = 0; i < psd_model_n_params(a); i++)
            for (size_t j = 0; j < psd_model_params(a)[i].n; j++)
                cr_assert_float_eq(psd_model_params(a)[i].grad[j], psd_model_params(b)[i].grad[j], 1e-6f);
        psd_model_destroy(&a);
        psd_model_destroy(&b);
        psd_dataset_destroy(&dense);
        psd_dataset_destroy(&sparse);
    }
}

Test(model, the_gradient_of_the_same_rows_has_the_same_bits_every_time)
{
    for (int s = 0; s < 2 * N_SHAPES; s++) {
        psd_dataset_t *set = set_for(&shapes[s / 2], 4000, s % 2);
        psd_model_t *a = make_model(&shapes[s / 2], set);
        void *shift = malloc(1000 + 40); /* so that the second model lies at another address */
        psd_model_t *b = make_model(&shapes[s / 2], set);
        for (size_t n = 1; n <= 4000; n = n * 3 + 1) {
            double loss_a = psd_model_gradient(a, set, every_row(n), n), loss_b = psd_model_gradient(b, set, every_row(n), n);
            cr_assert_eq(loss_a, loss_b);
            for (size_t i = 0; i < psd_model_n_params(a); i++)
                cr_assert_eq(
                    memcmp(psd_model_params(a)[i].grad, psd_model_params(b)[i].grad, psd_model_params(a)[i].n * sizeof(float)), 0);
        }
        free(shift);
        psd_model_destroy(&a);
        psd_model_destroy(&b);
        psd_dataset_destroy(&set);
    }
}

Test(model, rows_that_were_read_ahead_count_for_the_next_call_only_and_for_the_same_rows_of_the_same_set)
{
    psd_dataset_t *set = set_for(&shapes[RELU], ROWS, false), *other = set_for(&shapes[RELU], ROWS, false);
    psd_model_t *model = make_model(&shapes[RELU], set);
    const double loss = psd_model_gradient(model, set, every_row(ROWS), ROWS);
    const double of_fewer = psd_model_gradient(model, set, every_row(ROWS), ROWS - 1);
    const double of_others = psd_model_gradient(model, set, every_row(ROWS) + 1, ROWS - 1);
    psd_model_expect(model, set, every_row(ROWS), ROWS - 1);
    cr_expect_eq(psd_model_gradient(model, set, every_row(ROWS) + 1, ROWS - 1), of_others, "a job that goes back has other rows");

    psd_model_expect(model, set, every_row(ROWS), ROWS);
    cr_expect_eq(psd_model_gradient(model, set, every_row(ROWS), ROWS - 1), of_fewer);

    psd_model_expect(model, set, every_row(ROWS), ROWS);
    for (size_t i = 0; i < (size_t)ROWS * FEATURES; i++)
        set->dense[i] = 1;
    cr_expect_eq(psd_model_gradient(model, set, every_row(ROWS), ROWS), loss, "as they were when they were read");
    cr_expect_neq(psd_model_gradient(model, set, every_row(ROWS), ROWS), loss, "and only once");

    psd_model_expect(model, set, every_row(ROWS), ROWS);
    cr_expect_eq(psd_model_gradient(model, other, every_row(ROWS), ROWS), loss, "another set has other rows of the same numbers");
    psd_model_destroy(&model);
    psd_dataset_destroy(&set);
    psd_dataset_destroy(&other);
}

Test(model, the_gradient_of_a_batch_is_the_weighted_mean_of_its_slices)
{
    const shape_t *shape = &shapes[RELU];
    psd_dataset_t *set = set_for(shape, 3000, false); /* more than a block of rows */
    psd_model_t *whole = make_model(shape, set), *part = make_model(shape, set);
    const double loss = psd_model_gradient(whole, set, every_row(3000), 3000);
    const size_t cut[] = { 0, 700, 701, 3000 };
    double sum[400] = { 0 }, loss_sum = 0;
    for (int c = 0; c < 3; c++) {
        const size_t n = cut[c + 1] - cut[c];
        loss_sum += (double)n * psd_model_gradient(part, set, every_row(3000) + cut[c], n);
        for (size_t j = 0; j < psd_model_params(part)[0].n; j++)
            sum[j] += (double)n * (double)psd_model_params(part)[0].grad[j];
    }
    cr_assert_float_eq(loss, loss_sum / 3000, 1e-9);
    for (size_t j = 0; j < psd_model_params(whole)[0].n; j++)
        cr_assert_float_eq(psd_model_params(whole)[0].grad[j], sum[j] / 3000, 1e-6);
    psd_model_destroy(&whole);
    psd_model_destroy(&part);
    psd_dataset_destroy(&set);
}

Test(model, huge_outputs_give_finite_losses_and_gradients)
{
    float dz[3];
    cr_assert_float_eq(psd_softmax_loss((float[]){ 1e30f, -1e30f, 0 }, 3, 1, dz), 2e30, 1e24);
    cr_assert_arr_eq(dz, ((float[]){ 1, -1, 0 }), sizeof dz);
    cr_assert_float_eq(psd_softmax_loss((float[]){ 1e30f, -1e30f, 0 }, 3, 0, dz), 0, 1e-30);
    const psd_model_kind_t *logistic = psd_model_kind_find("logistic");
    cr_assert_float_eq(logistic->loss((float[]){ 1e30f }, 1, 0, dz), 1e30, 1e24);
    cr_assert_eq(dz[0], 1);
    cr_assert_float_eq(logistic->loss((float[]){ -1e30f }, 1, 0, dz), 0, 1e-30);
    cr_assert_eq(dz[0], 0);
    cr_assert_float_eq(logistic->loss((float[]){ 0 }, 1, 1, dz), log(2), 1e-15);
    cr_assert_eq(dz[0], -0.5f);
}

/* ---- Shape, values and scores ---- */

Test(model, tensors_and_initial_values_are_those_of_the_convergence_references)
{
    psd_dataset_t *set = make_set(PSD_LABEL_CLASS, CLASSES, ROWS, false);
    psd_model_t *model = make_model(&shapes[RELU], set);
    const psd_param_t *p = psd_model_params(model);
    const char *names[] = { "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias" };
    const size_t fan_in[] = { FEATURES, FEATURES, 8, 8 };
    uint64_t rng = 3;
    cr_assert_eq(psd_model_n_params(model), 4);
    for (int i = 0; i < 4; i++) {
        cr_assert_str_eq(p[i].name, names[i]);
        for (size_t j = 0; j < p[i].n; j++) {
            double u = (double)(psd_splitmix64(&rng) >> 11) * 0x1p-53;
            cr_assert_eq(p[i].data[j], (float)((2 * u - 1) / sqrt((double)fan_in[i])));
        }
    }
    cr_assert_eq(p[2].shape[0], CLASSES);
    cr_assert_eq(p[2].shape[1], 8);
    cr_assert_eq(p[3].n_dims, 1);
    psd_model_destroy(&model);
    psd_dataset_destroy(&set);
}

Test(model, an_mlp_without_sizes_has_one_hidden_layer_of_128)
{
    psd_dataset_t *set = make_set(PSD_LABEL_CLASS, CLASSES, ROWS, false);
    psd_model_t *model = make_model(&(shape_t){ .kind = "mlp" }, set);
    cr_assert_eq(psd_model_n_params(model), 4);
    cr_assert_eq(psd_model_params(model)[0].n, FEATURES * 128);
    cr_assert_eq(psd_model_params(model)[2].n, 128 * CLASSES);
    psd_model_destroy(&model);
    psd_dataset_destroy(&set);
}

Test(model, the_first_of_equal_outputs_wins)
{
    cr_assert_eq(psd_softmax_score((float[]){ 1, 2, 2 }, 3, 1), 1);
    cr_assert_eq(psd_softmax_score((float[]){ 1, 2, 2 }, 3, 2), 0);
    const psd_model_kind_t *logistic = psd_model_kind_find("logistic");
    cr_assert_eq(logistic->score((float[]){ 0 }, 1, 0), 1);
    cr_assert_eq(logistic->score((float[]){ 0 }, 1, 1), 0);
}

Test(model, evaluation_uses_the_weights_it_is_given_and_leaves_the_models_own)
{
    psd_dataset_t *set = make_set(PSD_LABEL_TARGET, 0, ROWS, false);
    psd_model_t *model = make_model(&shapes[0], set);
    const psd_param_t *p = psd_model_params(model);
    const float w0 = p[0].data[0], zeros[FEATURES] = { 0 }, half = 0.5f;
    /* Predicting 0.5 everywhere: the mean of (0.5 - y)^2 by weight. */
    double want = 0, weight = 0;
    for (size_t i = 0; i < ROWS; i++) {
        want += (double)set->weight[i] * (0.5 - (double)set->label[i]) * (0.5 - (double)set->label[i]);
        weight += (double)set->weight[i];
    }
    want /= weight;
    psd_score_t score = psd_model_evaluate(model, (const float *[]){ zeros, &half }, set, NULL);
    cr_assert_float_eq(score.metric, want, 1e-9);
    cr_assert_float_eq(score.loss, want, 1e-9);
    cr_assert_eq(p[0].data[0], w0);
    psd_model_destroy(&model);
    psd_dataset_destroy(&set);
}

static int sum_outputs(void *arg, size_t row, const float *z, size_t n)
{
    *(double *)arg += (double)z[0] + 1000 * (double)row + (double)n;
    return row == 2 ? PSD_EIO : PSD_OK;
}

Test(model, predictions_are_the_outputs_of_each_row_until_the_taker_fails)
{
    psd_dataset_t *set = make_set(PSD_LABEL_TARGET, 0, ROWS, false);
    psd_model_t *model = make_model(&shapes[0], set);
    const psd_param_t *p = psd_model_params(model);
    memset(p[0].data, 0, p[0].n * sizeof(float));
    p[1].data[0] = 7;
    double sum = 0;
    cr_assert_eq(psd_model_predict(model, set, sum_outputs, &sum), PSD_EIO);
    cr_assert_eq(sum, 3 * 7 + 1000 * (0 + 1 + 2) + 3);
    psd_model_destroy(&model);
    psd_dataset_destroy(&set);
}

Test(model, a_model_that_does_not_fit_the_data_is_refused_with_both_numbers)
{
    psd_dataset_t *set = make_set(PSD_LABEL_CLASS, CLASSES, ROWS, false);
    const struct {
        psd_model_config_t config;
        const char *sentence;
    } cases[] = {
        { { .kind = "resnet" }, "model.kind is 'resnet'; it takes linear, logistic, softmax or mlp" },
        { { .kind = "mlp", .layers = (size_t[]){ 6, 3 }, .n_layers = 2 },
          "model.layers has 2 sizes; mlp takes 3 to 17, as in [6, 128, 3]" },
        { { .kind = "mlp", .layers = (size_t[]){ 7, 8, 3 }, .n_layers = 3 },
          "model.layers starts with 7, but the training set has 6 features" },
        { { .kind = "mlp", .layers = (size_t[]){ 6, 8, 2 }, .n_layers = 3 },
          "model.layers ends with 2, but the training set asks for 3 outputs" },
        { { .kind = "mlp", .layers = (size_t[]){ 6, 0, 3 }, .n_layers = 3 },
          "model.layers[1] is 0; a layer has 1 to 2147483647 outputs" },
        { { .kind = "softmax", .layers = (size_t[]){ 6, 8, 3 }, .n_layers = 3 },
          "model.layers has 3 sizes; softmax takes 2 to 2, as in [6, 3]" },
        { { .kind = "softmax", .loss = "mse" }, "model.loss 'mse' does not go with model.kind softmax; its loss is softmax" },
        { { .kind = "softmax", .activation = "swish" }, "model.activation is 'swish'; it takes relu, tanh or gelu" },
        { { .kind = "logistic" }, "model.kind logistic is for 2 classes, the training set has 3; choose softmax" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_null(psd_model_new(&cases[i].config, set, &err));
        cr_expect_str_eq(err.text, cases[i].sentence);
        cr_expect_eq(err.code, PSD_ECONFIG);
    }
    psd_dataset_destroy(&set);
}

/* ---- Compared with the references ---- */

/* MNIST, or the drawn digits. */
static psd_dataset_t *load_digits(const char *which, const psd_dataset_t *train)
{
    char images[64], labels[64], spec[DATA_PATH], path[DATA_PATH];
    snprintf(images, sizeof images, "mnist/%s-images-idx3-ubyte.gz", which);
    snprintf(labels, sizeof labels, "mnist/%s-labels-idx1-ubyte.gz", which);
    psd_dataset_options_t options = { .labels = data_path(labels, path), .train = train };
    psd_dataset_t *set = psd_dataset_load(data_spec("idx", images, spec), &options, &err);
    cr_assert_not_null(set, "%s", err.text);
    return set;
}

static psd_model_t *reference_model(const char *kind, const psd_dataset_t *train, uint64_t seed)
{
    psd_model_config_t config = {
        .kind = kind, .layers = (size_t[]){ 784, 128, 10 }, .n_layers = strcmp(kind, "mlp") ? 0 : 3, .seed = seed
    };
    psd_model_t *model = psd_model_new(&config, train, &err);
    cr_assert_not_null(model, "%s", err.text);
    return model;
}

/* Training in this process: the optimizer on each tensor, as a server would run it. */
typedef struct local {
    psd_rule_t rule;
    psd_rule_state_t state[PSD_MAX_PARAMS];
    float *slot[PSD_MAX_PARAMS][PSD_MAX_SLOTS];
} local_t;

static void local_start(local_t *self, const char *rule, const psd_model_t *model)
{
    cr_assert_eq(psd_rule_parse(&self->rule, rule, &err), PSD_OK, "%s", err.text);
    for (size_t i = 0; i < psd_model_n_params(model); i++) {
        const psd_param_t *p = &psd_model_params(model)[i];
        for (int s = 0; s < self->rule.n_slots; s++)
            self->slot[i][s] = malloc(p->n * sizeof(float));
        psd_rule_init(&self->rule, &self->state[i], p->data, self->slot[i], p->n);
    }
}

static void local_step(local_t *self, const psd_model_t *model)
{
    for (size_t i = 0; i < psd_model_n_params(model); i++) {
        const psd_param_t *p = &psd_model_params(model)[i];
        psd_plan_t plan = psd_rule_plan(&self->rule, &self->state[i], psd_rule_lr(&self->rule));
        psd_rule_apply(&self->rule, &plan, p->data, self->slot[i], p->grad, p->n);
    }
}

static void local_stop(local_t *self, const psd_model_t *model)
{
    for (size_t i = 0; i < psd_model_n_params(model); i++)
        for (int s = 0; s < self->rule.n_slots; s++)
            free(self->slot[i][s]);
}

/* The reference's names in our grammar; the learning rate is the trace's. */
static const struct {
    const char *name, *rule;
} rules[] = {
    { "sgd", "sgd(lr=%g)" },
    { "momentum", "sgd(lr=%g, momentum=0.9)" },
    { "adagrad", "adagrad(lr=%g)" },
    { "adadelta", "adadelta(lr=%g)" },
    { "rmsprop", "rmsprop(lr=%g)" },
    { "adam", "adam(lr=%g)" },
    { "adamw", "adamw(lr=%g)" },
    { "nadam", "nadam(lr=%g)" },
    { "radam", "radam(lr=%g)" },
    { "lion", "lion(lr=%g)" },
    { "lookahead-radam", "lookahead(radam(lr=%g), k=5, alpha=0.5)" },
};

/* Steps 1 to 20 of one optimizer on one model; the largest relative error of a loss. */
static double replay(const char *kind, const char *name, double lr, const double *losses, const psd_dataset_t *train)
{
    char rule[128] = "";
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (!strcmp(rules[i].name, name)) {
            const char *tail = strchr(rules[i].rule, '%');
            snprintf(rule, sizeof rule, "%.*s%.9g%s", (int)(tail - rules[i].rule), rules[i].rule, lr, tail + 2);
        }
    cr_assert(*rule, "no rule for the trace's '%s'", name);
    psd_model_t *model = reference_model(kind, train, 1);
    psd_sampler_t *sampler = psd_sampler_new(train->n_rows, 64, true, 1, &err);
    local_t local = { 0 };
    double worst = 0;
    local_start(&local, rule, model);
    for (uint64_t step = 1; step <= 20; step++) {
        psd_slice_t slice = psd_sampler_at(sampler, step, 0, 1);
        double loss = psd_model_gradient(model, train, slice.rows, slice.n), off = fabs(loss - losses[step - 1]) / losses[step - 1];
        worst = off > worst ? off : worst;
        local_step(&local, model);
    }
    local_stop(&local, model);
    psd_sampler_destroy(&sampler);
    psd_model_destroy(&model);
    return worst;
}

Test(convergence, the_first_20_losses_are_those_of_the_references_for_every_optimizer)
{
    psd_dataset_t *train = load_digits("train", NULL);
    const bool drawn = data_is_drawn("mnist"); /* its references are those of tests/data/draw */
    FILE *file = fopen(
        drawn ? PSD_SOURCE_DIR "/tests/data/convergence_trace.tsv" : PSD_SOURCE_DIR "/tests/golden/convergence_trace.tsv", "r");
    cr_assert_not_null(file);
    char kind[32], name[32];
    double lr, loss, losses[20];
    int step, cases = 0;
    cr_assert_neq(fscanf(file, "%*[^\n]"), EOF);
    while (fscanf(file, "%31s %31s %lf %d %lf", kind, name, &lr, &step, &loss) == 5) {
        cr_assert(step >= 1 && step <= 20);
        losses[step - 1] = loss;
        if (step < 20)
            continue;
        double worst = replay(kind, name, lr, losses, train);
        printf("%s %s: %.2g\n", kind, name, worst);
        cr_expect_leq(worst, 1e-5, "%s %s is off by %g", kind, name, worst);
        cases++;
    }
    fclose(file);
    cr_assert_eq(cases, drawn ? 6 : 22);
    psd_dataset_destroy(&train);
}

Test(convergence, epochs_of_sgd_reach_the_references_accuracy)
{
    psd_dataset_t *train = load_digits("train", NULL), *test = load_digits("t10k", train);
    const struct {
        const char *kind, *rule;
        double accuracy, within;
        uint64_t epochs;
    } of_mnist[] = { { "softmax", "sgd(lr=0.2)", 0.9120, 0.001, 1 }, { "mlp", "sgd(lr=0.5)", 0.9597, 0.004, 1 } },
      of_drawn[] = { { "softmax", "sgd(lr=0.2)", 161 / 200.0, 0.005, 5 }, { "mlp", "sgd(lr=0.5)", 157 / 200.0, 0.005, 5 } },
      *cases = data_is_drawn("mnist") ? of_drawn : of_mnist;
    for (size_t i = 0; i < 2; i++) {
        psd_model_t *model = reference_model(cases[i].kind, train, 1);
        psd_sampler_t *sampler = psd_sampler_new(train->n_rows, 64, true, 1, &err);
        local_t local = { 0 };
        local_start(&local, cases[i].rule, model);
        for (uint64_t step = 1; step <= cases[i].epochs * psd_sampler_steps_per_epoch(sampler); step++) {
            psd_slice_t slice = psd_sampler_at(sampler, step, 0, 1);
            psd_model_gradient(model, train, slice.rows, slice.n);
            local_step(&local, model);
        }
        psd_score_t score = psd_model_evaluate(model, NULL, test, NULL);
        printf("%s: %.4f\n", cases[i].kind, score.metric);
        cr_expect_float_eq(score.metric, cases[i].accuracy, cases[i].within, "%s: %.4f", cases[i].kind, score.metric);
        local_stop(&local, model);
        psd_sampler_destroy(&sampler);
        psd_model_destroy(&model);
    }
    psd_dataset_destroy(&test);
    psd_dataset_destroy(&train);
}

/* ---- tensor by tensor ---- */

enum { PARAMS = 6 };
static size_t told[PARAMS], n_told;
static float when_told[PARAMS];
static double loss_told;
static const psd_param_t *params_told;

static void note(void *arg, size_t param, double loss)
{
    (void)arg;
    told[n_told] = param;
    when_told[n_told++] = params_told[param].grad[0];
    loss_told = loss;
}

Test(model, gradients_are_known_from_the_last_layer_back_and_change_no_more)
{
    const shape_t *shape = &shapes[N_SHAPES - 1];
    psd_dataset_t *set = set_for(shape, 3000, false); /* more than a block of rows */
    psd_model_t *model = make_model(shape, set);
    params_told = psd_model_params(model);
    const double loss = psd_model_gradient_each(model, set, every_row(3000), 3000, note, NULL);
    cr_assert_eq(n_told, PARAMS, "each once, however many blocks of rows there are");
    for (size_t i = 0; i < PARAMS; i++) {
        cr_expect_eq(told[i], PARAMS - 1 - i);
        cr_expect_eq(when_told[i], params_told[told[i]].grad[0]);
    }
    cr_expect_eq(loss_told, loss);
    cr_expect_eq(psd_model_gradient(model, set, every_row(3000), 3000), loss);
    psd_model_destroy(&model);
    psd_dataset_destroy(&set);
}
