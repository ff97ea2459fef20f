#include "worker/model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "worker/blas.h"

#define X(name) extern const psd_model_kind_t psd_model_##name;
#include "worker/models/all.h"
#undef X

static const psd_model_kind_t *const kinds[] = {
#define X(name) &psd_model_##name,
#include "worker/models/all.h"
#undef X
};

/* An activation: `n` outputs `y` of as many inputs `x`; and derivatives by `y` multiplied by those of y by x, so that they are
 * by x. */
typedef struct activation {
    const char *name;
    void (*of)(size_t n, const float *x, float *y);
    void (*descend)(size_t n, const float *x, const float *y, float *delta);
} activation_t;

struct psd_model {
    const psd_model_kind_t *kind;
    const activation_t *activation;
    const psd_blas_t *blas;
    size_t n_layers;                   /* affine ones */
    size_t width[PSD_MAX_LAYERS + 1];  /* features, hidden ..., outputs */
    psd_param_t param[PSD_MAX_PARAMS]; /* weight and bias of each layer */
    size_t block;                      /* rows that go through the layers at a time */
    size_t total;                      /* elements of all params */
    float *values, *gradients;         /* all data; all gradients, unless the caller provides their array */
    float *input;                      /* block x features; NULL for sparse data */
    const psd_dataset_t *ready_of;     /* the set whose rows were read into it ahead, if not NULL: */
    uint32_t *ready;
    size_t n_ready;
    float *before[PSD_MAX_LAYERS]; /* block x width: each layer's result before the activation */
    float *after[PSD_MAX_LAYERS];  /* and after it; the last one holds derivatives only */
    float *delta[2];               /* block x widest: derivatives of the loss on their way down */
    uint32_t *every;               /* block row numbers, for evaluation */
};

const psd_model_kind_t *psd_model_kind_at(size_t i) { return i < sizeof kinds / sizeof *kinds ? kinds[i] : NULL; }

const psd_model_kind_t *psd_model_kind_find(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i]->name, name))
            return kinds[i];
    return NULL;
}

const psd_model_kind_t *psd_model_kind(const psd_model_t *self) { return self->kind; }
const char *psd_model_activation(const psd_model_t *self) { return self->n_layers > 1 ? self->activation->name : ""; }
size_t psd_model_n_params(const psd_model_t *self) { return 2 * self->n_layers; }
psd_extent_t psd_model_extent(const psd_param_t *param)
{
    psd_extent_t extent = { .n = param->n, .shape = { .n_dims = (uint32_t)param->n_dims } };
    if (param->n_dims == 2)
        extent.shape = (psd_shape_t){ .n_dims = 2, .n_matrices = 1, .rows = param->shape[0], .cols = param->shape[1] };
    return extent;
}

const psd_param_t *psd_model_params(const psd_model_t *self) { return self->param; }
size_t psd_model_n_elements(const psd_model_t *self) { return self->total; }

void psd_model_lend_gradients(psd_model_t *self, float *array)
{
    free(self->gradients);
    self->gradients = NULL;
    for (size_t i = 0; i < psd_model_n_params(self); array += array ? self->param[i].n : 0, i++)
        self->param[i].grad = array;
}

/* ---- Activations ---- */

static void relu(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] > 0 ? x[i] : 0;
}

static void relu_descend(size_t n, const float *x, const float *y, float *delta)
{
    (void)y;
    for (size_t i = 0; i < n; i++)
        delta[i] *= (float)(x[i] > 0);
}

static void hyperbolic(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = tanhf(x[i]);
}

static void hyperbolic_descend(size_t n, const float *x, const float *y, float *delta)
{
    (void)x;
    for (size_t i = 0; i < n; i++)
        delta[i] *= 1 - y[i] * y[i];
}

/* x times the normal distribution's share below x (Hendrycks and Gimpel 2016), exact, not the tanh
 * approximation. */
static void gelu(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
}

static void gelu_descend(size_t n, const float *x, const float *y, float *delta)
{
    (void)y;
    for (size_t i = 0; i < n; i++)
        delta[i] *= 0.5f * (1 + erff(x[i] * 0.70710678f)) + x[i] * 0.39894228f * expf(-0.5f * x[i] * x[i]);
}

static const activation_t activations[] = {
    { "relu", relu, relu_descend },
    { "tanh", hyperbolic, hyperbolic_descend },
    { "gelu", gelu, gelu_descend },
};

static const activation_t *find_activation(const char *name)
{
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (!strcmp(activations[i].name, name))
            return &activations[i];
    return NULL;
}

/* ---- Building ---- */

static int choose_widths(psd_model_t *self, const psd_model_config_t *config, const psd_dataset_t *train, psd_err_t *err)
{
    const psd_model_kind_t *kind = self->kind;
    const size_t outputs = kind->outputs(train), n = config->n_layers;
    if (!outputs && train->first_class)
        return psd_err_set(err, PSD_ECONFIG,
                           "model.kind %s is for 2 classes, and classes count from 0; the training set's labels are %zu to "
                           "%zu: make them 0 and 1",
                           kind->name, train->first_class, train->n_classes - 1);
    if (!outputs)
        return psd_err_set(err, PSD_ECONFIG, "model.kind %s is for 2 classes, the training set has %zu; choose softmax", kind->name,
                           train->n_classes);
    if (!n) {
        self->n_layers = kind->hidden ? 2 : 1;
        self->width[0] = train->n_features;
        self->width[1] = kind->hidden;
        self->width[self->n_layers] = outputs;
        return PSD_OK;
    }
    if (n < 2 || n < (size_t)kind->fewest_layers || n > (size_t)kind->most_layers)
        return psd_err_set(err, PSD_ECONFIG, "model.layers has %zu sizes; %s takes %d to %d, as in [%zu, %s%zu]", n, kind->name,
                           kind->fewest_layers > 2 ? kind->fewest_layers : 2, kind->most_layers, train->n_features,
                           kind->most_layers > 2 ? "128, " : "", outputs);
    for (size_t i = 0; i < n; i++)
        if (!(self->width[i] = config->layers[i]) || self->width[i] > PSD_MAX_FEATURES)
            return psd_err_set(err, PSD_ECONFIG, "model.layers[%zu] is %zu; a layer has 1 to %d outputs", i, config->layers[i],
                               PSD_MAX_FEATURES);
    if (config->layers[0] != train->n_features)
        return psd_err_set(err, PSD_ECONFIG, "model.layers starts with %zu, but the training set has %zu features",
                           config->layers[0], train->n_features);
    if (config->layers[n - 1] != outputs)
        return psd_err_set(err, PSD_ECONFIG, "model.layers ends with %zu, but the training set asks for %zu outputs%s",
                           config->layers[n - 1], outputs,
                           train->first_class ? "; classes count from 0, and none of its labels is 0" : "");
    self->n_layers = n - 1;
    return PSD_OK;
}

static int choose(psd_model_t *self, const psd_model_config_t *config, const psd_dataset_t *train, psd_err_t *err)
{
    self->kind = psd_model_kind_find(config->kind);
    if (!self->kind)
        return psd_err_set(err, PSD_ECONFIG, "model.kind is '%.40s'; it takes linear, logistic, softmax or mlp", config->kind);
    if (config->loss && *config->loss && strcmp(config->loss, self->kind->loss_name) != 0)
        return psd_err_set(err, PSD_ECONFIG, "model.loss '%.40s' does not go with model.kind %s; its loss is %s", config->loss,
                           self->kind->name, self->kind->loss_name);
    self->activation = find_activation(config->activation && *config->activation ? config->activation : "relu");
    if (!self->activation)
        return psd_err_set(err, PSD_ECONFIG, "model.activation is '%.40s'; it takes relu, tanh or gelu", config->activation);
    assert(train->kind == self->kind->labels);
    return choose_widths(self, config, train, err);
}

static void *array(size_t n, size_t m)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, m, &bytes) || __builtin_mul_overflow(bytes, sizeof(float), &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    return aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
}

/* Name and place the tensors; their total size, 0 when it overflows. */
static size_t lay_out(psd_model_t *self)
{
    size_t total = 0;
    for (size_t i = 0; i < self->n_layers; i++) {
        psd_param_t *weight = &self->param[2 * i], *bias = weight + 1;
        const size_t in = self->width[i], out = self->width[i + 1];
        *weight = (psd_param_t){ .shape = { out, in }, .n_dims = 2, .n = in * out };
        *bias = (psd_param_t){ .shape = { out }, .n_dims = 1, .n = out };
        snprintf(weight->name, sizeof weight->name, "fc%zu.weight", i + 1);
        snprintf(bias->name, sizeof bias->name, "fc%zu.bias", i + 1);
        if (weight->n > SIZE_MAX / 64)
            return 0;
        total += weight->n + bias->n;
    }
    return total;
}

/* The number of rows per block: as many as keep their features in the cache, so that a full batch needs no copy of the data. It
 * depends only on the shape, because it determines the order of additions. */
static size_t choose_block(size_t widest)
{
    const size_t rows = ((size_t)1 << 20) / widest;
    return rows < 64 ? 64 : rows > 1024 ? 1024 : rows;
}

static int allocate(psd_model_t *self, const psd_dataset_t *train)
{
    const size_t total = lay_out(self);
    size_t widest = 1;
    for (size_t i = 1; i <= self->n_layers; i++)
        widest = self->width[i] > widest ? self->width[i] : widest;
    const bool sparse = psd_dataset_is_sparse(train);
    self->block = choose_block(!sparse && self->width[0] > widest ? self->width[0] : widest);
    self->total = total;
    self->values = total ? array(total, 1) : NULL;
    self->gradients = total ? array(total, 1) : NULL;
    self->input = sparse ? NULL : array(self->block, self->width[0]);
    self->every = array(self->block, 1);
    self->ready = array(self->block, 1);
    bool ok = self->values && self->gradients && (sparse || self->input) && self->every && self->ready;
    for (size_t i = 0; i < 2; i++)
        ok &= (self->delta[i] = array(self->block, widest)) != NULL;
    for (size_t i = 0; i < self->n_layers; i++) {
        ok &= (self->before[i] = array(self->block, self->width[i + 1])) != NULL;
        ok &= (self->after[i] = array(self->block, self->width[i + 1])) != NULL;
    }
    size_t at = 0;
    for (size_t i = 0; ok && i < psd_model_n_params(self); at += self->param[i++].n) {
        self->param[i].data = self->values + at;
        self->param[i].grad = self->gradients + at;
    }
    return ok;
}

static void initialise(psd_model_t *self, uint64_t seed)
{
    uint64_t rng = seed;
    for (size_t i = 0; i < psd_model_n_params(self); i++) {
        const double root = sqrt((double)self->width[i / 2]);
        for (size_t j = 0; j < self->param[i].n; j++)
            self->param[i].data[j] = (float)((2 * psd_uniform(&rng) - 1) / root);
        memset(self->param[i].grad, 0, self->param[i].n * sizeof(float));
    }
}

/* Check before memory is taken that weights and gradients fit into the machine's. */
static int check_size(const psd_model_t *self, psd_err_t *err)
{
    const double gib = 1 << 30, room = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    double bytes = 0;
    for (size_t i = 0; i < self->n_layers; i++)
        bytes += 2 * sizeof(float) * (double)self->width[i] * (double)self->width[i + 1];
    return bytes < room
               ? PSD_OK
               : psd_err_set(err, PSD_ENOMEM,
                             "a model of %zu features and %zu outputs takes %.3g GiB for weights and gradients, more than the "
                             "%.3g GiB of this machine",
                             self->width[0], self->width[self->n_layers], bytes / gib, room / gib);
}

psd_model_t *psd_model_new(const psd_model_config_t *config, const psd_dataset_t *train, psd_err_t *err)
{
    const psd_blas_t *blas = psd_blas(err);
    psd_model_t *self = blas ? calloc(1, sizeof *self) : NULL;
    if (!self) {
        if (blas)
            psd_err_set(err, PSD_ENOMEM, "no memory for a model");
        return NULL;
    }
    self->blas = blas;
    if (choose(self, config, train, err) || check_size(self, err)) {
        psd_model_destroy(&self);
    } else if (!allocate(self, train)) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a model of %zu features and %zu outputs", self->width[0],
                    self->width[self->n_layers]);
        psd_model_destroy(&self);
    } else {
        initialise(self, config->seed);
    }
    return self;
}

void psd_model_destroy(psd_model_t **self_p)
{
    psd_model_t *self = *self_p;
    if (self) {
        free(self->values);
        free(self->gradients);
        free(self->input);
        free(self->every);
        free(self->ready);
        free(self->delta[0]);
        free(self->delta[1]);
        for (size_t i = 0; i < PSD_MAX_LAYERS; i++) {
            free(self->before[i]);
            free(self->after[i]);
        }
    }
    free(self);
    *self_p = NULL;
}

/* ---- Forward ---- */

/* out = rows x W^T, rows of sparse features. */
static void sparse_product(const psd_dataset_t *set, const uint32_t *rows, size_t n, const float *weight, size_t in, size_t out,
                           float *result)
{
    for (size_t r = 0; r < n; r++, result += out) {
        memset(result, 0, out * sizeof *result);
        for (uint64_t k = set->row_start[rows[r]]; k < set->row_start[rows[r] + 1]; k++) {
            const float value = set->value[k], *w = weight + set->column[k];
            for (size_t o = 0; o < out; o++)
                result[o] += value * w[o * in];
        }
    }
}

/* Compute the outputs of `n` rows (at most a block) into before[n_layers - 1]. */
static void forward(psd_model_t *self, const float *const *weights, const psd_dataset_t *set, const uint32_t *rows, size_t n)
{
    if (self->input && (self->ready_of != set || n != self->n_ready || memcmp(rows, self->ready, n * sizeof *rows)))
        psd_dataset_gather(set, rows, n, self->input);
    self->ready_of = NULL;
    for (size_t i = 0; i < self->n_layers; i++) {
        const size_t in = self->width[i], out = self->width[i + 1];
        const float *bias = weights[2 * i + 1];
        float *z = self->before[i], *y = self->after[i];
        if (i || self->input)
            self->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)out, (int)in, 1,
                              i ? self->after[i - 1] : self->input, (int)in, weights[2 * i], (int)in, 0, z, (int)out);
        else
            sparse_product(set, rows, n, weights[0], in, out, z);
        for (size_t r = 0; r < n; r++)
            for (size_t o = 0; o < out; o++)
                z[r * out + o] += bias[o];
        if (i + 1 < self->n_layers)
            self->activation->of(n * out, z, y);
    }
}

/* ---- Backward ---- */

static void sparse_gradient(const psd_dataset_t *set, const uint32_t *rows, size_t n, const float *delta, size_t in, size_t out,
                            float *grad)
{
    for (size_t r = 0; r < n; r++, delta += out)
        for (uint64_t k = set->row_start[rows[r]]; k < set->row_start[rows[r] + 1]; k++) {
            float *g = grad + set->column[k];
            for (size_t o = 0; o < out; o++)
                g[o * in] += delta[o] * set->value[k];
        }
}

static void bias_gradient(const float *delta, size_t n, size_t out, float *grad)
{
    for (size_t r = 0; r < n; r++)
        for (size_t o = 0; o < out; o++)
            grad[o] += delta[r * out + o];
}

/* The callback for gradients that are known, and the loss for it. */
typedef struct listener {
    psd_model_known_fn *known; /* NULL: none, or not yet */
    void *arg;
    double loss;
} listener_t;

static void tell(const listener_t *self, size_t param)
{
    if (self->known)
        self->known(self->arg, param, self->loss);
}

/* Add to all gradients, from the derivatives with respect to the outputs in delta[0]. */
static void backward(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n, const listener_t *listener)
{
    float *delta = self->delta[0], *below = self->delta[1];
    for (size_t i = self->n_layers; i-- > 0;) {
        const size_t in = self->width[i], out = self->width[i + 1];
        const float *x = i ? self->after[i - 1] : self->input;
        if (x)
            self->blas->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)out, (int)in, (int)n, 1, delta, (int)out, x, (int)in, 1,
                              self->param[2 * i].grad, (int)in);
        else
            sparse_gradient(set, rows, n, delta, in, out, self->param[0].grad);
        bias_gradient(delta, n, out, self->param[2 * i + 1].grad);
        tell(listener, 2 * i + 1);
        tell(listener, 2 * i);
        if (!i)
            return;
        self->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)in, (int)out, 1, delta, (int)out,
                          self->param[2 * i].data, (int)in, 0, below, (int)in);
        self->activation->descend(n * in, self->before[i - 1], x, below);
        float *swap = delta;
        delta = below;
        below = swap;
    }
}

static double row_weight(const psd_dataset_t *set, uint32_t row) { return set->weight ? (double)set->weight[row] : 1; }

void psd_model_expect(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n)
{
    if (!self->input)
        return;
    self->ready_of = set;
    self->n_ready = n < self->block ? n : self->block;
    memcpy(self->ready, rows, self->n_ready * sizeof *rows);
    psd_dataset_gather(set, rows, self->n_ready, self->input);
}

double psd_model_gradient(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n)
{
    return psd_model_gradient_each(self, set, rows, n, NULL, NULL);
}

double psd_model_gradient_each(psd_model_t *self, const psd_dataset_t *set, const uint32_t *rows, size_t n,
                               psd_model_known_fn *known, void *arg)
{
    assert(n > 0 && set->n_features == self->width[0] && psd_dataset_is_sparse(set) == !self->input);
    const float *weights[PSD_MAX_PARAMS];
    const size_t out = self->width[self->n_layers];
    for (size_t i = 0; i < psd_model_n_params(self); i++) {
        weights[i] = self->param[i].data;
        memset(self->param[i].grad, 0, self->param[i].n * sizeof(float));
    }
    double total = 0;
    for (size_t at = 0; at < n; at += self->block) {
        const size_t m = n - at < self->block ? n - at : self->block;
        forward(self, weights, set, rows + at, m);
        const float *z = self->before[self->n_layers - 1];
        float *dz = self->delta[0];
        for (size_t r = 0; r < m; r++, z += out, dz += out) {
            const double weight = row_weight(set, rows[at + r]);
            const float share = (float)(weight / (double)n);
            total += weight * self->kind->loss(z, out, set->label[rows[at + r]], dz);
            for (size_t o = 0; o < out; o++)
                dz[o] *= share;
        }
        const bool is_last = at + m == n;
        backward(self, set, rows + at, m, &(listener_t){ is_last ? known : NULL, arg, total / (double)n });
    }
    return total / (double)n;
}

/* The outputs of all rows of `set`, a block at a time. */
static int each_output(psd_model_t *self, const float *const *weights, const psd_dataset_t *set, psd_model_take_fn *take, void *arg)
{
    assert(set->n_features == self->width[0] && psd_dataset_is_sparse(set) == !self->input);
    const float *own[PSD_MAX_PARAMS];
    const size_t out = self->width[self->n_layers];
    int rc = PSD_OK;
    for (size_t i = 0; i < psd_model_n_params(self); i++)
        own[i] = weights ? weights[i] : self->param[i].data;
    for (size_t at = 0; !rc && at < set->n_rows; at += self->block) {
        const size_t m = set->n_rows - at < self->block ? set->n_rows - at : self->block;
        for (size_t r = 0; r < m; r++)
            self->every[r] = (uint32_t)(at + r);
        forward(self, own, set, self->every, m);
        const float *z = self->before[self->n_layers - 1];
        for (size_t r = 0; !rc && r < m; r++, z += out)
            rc = take(arg, at + r, z, out);
    }
    return rc;
}

int psd_model_predict(psd_model_t *self, const psd_dataset_t *set, psd_model_take_fn *take, void *arg)
{
    return each_output(self, NULL, set, take, arg);
}

/* The argument of score_row. */
typedef struct scoring {
    const psd_model_kind_t *kind;
    const psd_dataset_t *set;
    psd_scorer_t *scorer;
} scoring_t;

static int score_row(void *arg, size_t row, const float *z, size_t n)
{
    const scoring_t *self = arg;
    const float label = self->set->label[row];
    psd_scorer_add(self->scorer, self->kind->loss(z, n, label, NULL), self->kind->score(z, n, label), z, n);
    return PSD_OK;
}

psd_score_t psd_model_evaluate(psd_model_t *self, const float *const *weights, const psd_dataset_t *set, const psd_metric_t *metric)
{
    scoring_t scoring = { self->kind, set, psd_scorer_new(set) };
    psd_score_t score = { .loss = (double)NAN, .metric = (double)NAN };
    for (size_t i = 0; i < PSD_MAX_METRICS; i++)
        score.value[i] = (double)NAN;
    if (scoring.scorer) {
        each_output(self, weights, set, score_row, &scoring);
        score = psd_scorer_end(scoring.scorer, metric ? metric : psd_metric_find(self->kind->metric));
    }
    psd_scorer_destroy(&scoring.scorer);
    return score;
}
