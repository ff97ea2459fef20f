#include "worker/reference.h"

#include <stdlib.h>
#include <string.h>

#include "common/optim/whole.h"
#include "worker/sampler.h"

typedef struct tensor {
    float *slot[PSD_MAX_SLOTS];
    float **gradient; /* of each contributor */
    float **residual; /* of each rank: what the coding of its gradients has lost */
    float *w;         /* the weights that are stepped; the model's own, unless workers get them in a code */
    psd_rule_state_t state;
} tensor_t;

struct psd_reference {
    psd_reference_config_t config;
    psd_sampler_t *sampler;
    psd_rule_t rule;
    double *weight;          /* of each rank */
    uint64_t steps, samples; /* that have been made */
    size_t n;
    const psd_param_t *params;
    tensor_t tensor[PSD_MAX_PARAMS];
};

static bool begin_tensor(psd_reference_t *self, size_t i)
{
    tensor_t *t = &self->tensor[i];
    bool ok = (t->gradient = calloc(self->config.world, sizeof *t->gradient)) != NULL;
    for (int s = 0; ok && s < self->rule.n_slots; s++)
        ok = (t->slot[s] = calloc(self->params[i].n, sizeof(float))) != NULL;
    ok = ok && (t->residual = calloc(self->config.world, sizeof *t->residual)) != NULL;
    for (uint32_t k = 0; ok && k < self->config.world; k++)
        ok = (t->gradient[k] = calloc(self->params[i].n, sizeof(float))) != NULL &&
             (t->residual[k] = calloc(self->params[i].n, sizeof(float))) != NULL;
    ok = ok && (t->w = malloc(self->params[i].n * sizeof(float))) != NULL;
    if (ok) {
        memcpy(t->w, self->params[i].data, self->params[i].n * sizeof(float));
        psd_rule_init(&self->rule, &t->state, t->w, t->slot, self->params[i].n);
    }
    return ok;
}

/* Workers get the weights. */
static void pull(psd_reference_t *self)
{
    uint64_t size[PSD_MAX_PARAMS];
    float *value[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++) {
        size[i] = self->params[i].n;
        value[i] = self->params[i].data;
        memcpy(value[i], self->tensor[i].w, size[i] * sizeof(float));
    }
    psd_whole_code(&self->config.codings.pull, size, self->n, value, NULL);
}

/* Worker `rank` pushes what the model has as its gradient; it is the k-th that does. */
static void push(psd_reference_t *self, uint32_t rank, uint32_t k)
{
    uint64_t size[PSD_MAX_PARAMS];
    float *value[PSD_MAX_PARAMS], *residual[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++) {
        size[i] = self->params[i].n;
        value[i] = self->tensor[i].gradient[k];
        residual[i] = self->tensor[i].residual[rank];
        memcpy(value[i], self->params[i].grad, size[i] * sizeof(float));
    }
    psd_whole_code(&self->config.codings.push, size, self->n, value, residual);
}

psd_reference_t *psd_reference_new(const psd_reference_config_t *config, psd_err_t *err)
{
    psd_reference_t *self = calloc(1, sizeof *self);
    bool ok = self && (self->weight = calloc(config->world, sizeof *self->weight));
    if (!ok)
        psd_err_set(err, PSD_ENOMEM, "no memory for %u workers", config->world);
    if (ok) {
        self->config = *config;
        self->n = psd_model_n_params(config->model);
        self->params = psd_model_params(config->model);
        ok = psd_rule_parse(&self->rule, config->rule, err) == PSD_OK &&
             (self->sampler = psd_sampler_new(config->train->n_rows, config->batch, config->shuffle, config->seed, err));
    }
    for (size_t i = 0; ok && i < self->n; i++)
        if (!begin_tensor(self, i))
            ok = psd_err_set(err, PSD_ENOMEM, "no memory for the gradients of %u workers", config->world) == PSD_OK;
    if (ok)
        pull(self);
    else
        psd_reference_destroy(&self);
    return self;
}

static void free_tensor(const psd_reference_t *self, size_t i)
{
    const tensor_t *t = &self->tensor[i];
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        free(t->slot[s]);
    for (uint32_t k = 0; t->gradient && k < self->config.world; k++)
        free(t->gradient[k]);
    for (uint32_t k = 0; t->residual && k < self->config.world; k++)
        free(t->residual[k]);
    free(t->gradient);
    free(t->residual);
    free(t->w);
}

void psd_reference_destroy(psd_reference_t **self_p)
{
    psd_reference_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    for (size_t i = 0; i < self->n; i++)
        free_tensor(self, i);
    psd_sampler_destroy(&self->sampler);
    free(self->weight);
    free(self);
}

/* The rate of the next step, and, where the schedule sets it, the momentum of `rule`. */
static double rate_now(const psd_reference_t *self, psd_rule_t *rule)
{
    const psd_reference_config_t *c = &self->config;
    const double progress = psd_schedule_progress(c->unit, self->steps, self->samples, c->train->n_rows);
    double momentum;
    if (psd_schedule_momentum(&c->schedule, progress, &momentum))
        psd_rule_set_momentum(rule, momentum);
    return psd_schedule_rate(&c->schedule, psd_rule_lr(&self->rule), progress);
}

static void step(psd_reference_t *self, uint32_t n_gradients, uint64_t n_samples)
{
    psd_rule_t rule = self->rule;
    const double lr = rate_now(self, &rule);
    psd_whole_t whole[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++) {
        tensor_t *t = &self->tensor[i];
        whole[i] = (psd_whole_t){
            .n = self->params[i].n, .w = t->w, .slot = t->slot, .state = &t->state, .gradient = (const float *const *)t->gradient
        };
    }
    psd_whole_step(&rule, &self->config.clip, whole, self->n, self->weight, n_gradients, lr);
    self->steps++;
    self->samples += n_samples;
    pull(self);
}

void psd_reference_round(psd_reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n)
{
    size_t total = 0;
    uint32_t k = 0;
    for (uint32_t r = 0; r < n && k < self->config.world; r++) {
        const psd_slice_t slice = psd_sampler_at(self->sampler, clock, ranks[r], world);
        if (!slice.n)
            continue;
        psd_model_gradient(self->config.model, self->config.train, slice.rows, slice.n);
        push(self, ranks[r], k);
        self->weight[k++] = (double)slice.n;
        total += slice.n;
    }
    for (uint32_t r = 0; r < k; r++)
        self->weight[r] /= (double)total;
    if (k)
        step(self, k, total);
}

static psd_saved_t saved(const psd_reference_t *self, size_t i, bool slow)
{
    const psd_param_t *p = &self->params[i];
    return (psd_saved_t){ .name = p->name,
                          .shape = p->shape,
                          .n_dims = p->n_dims,
                          .n = p->n,
                          .data = slow ? self->tensor[i].slot[self->rule.slow_slot] : p->data };
}

void psd_reference_hash_of(const psd_reference_t *self, size_t i, char text[PSD_SHA256_TEXT])
{
    const psd_saved_t one = saved(self, i, false);
    psd_weights_sha256(&one, 1, text);
}

static void hash_all(const psd_reference_t *self, bool slow, char text[PSD_SHA256_TEXT])
{
    psd_saved_t all[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++)
        all[i] = saved(self, i, slow);
    psd_weights_sha256(all, self->n, text);
}

void psd_reference_hash(const psd_reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    hash_all(self, false, fast);
    *slow = '\0';
    if (self->rule.lookahead)
        hash_all(self, true, slow);
}
