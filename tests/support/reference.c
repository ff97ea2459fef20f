#include "tests/support/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/shard.h"
#include "worker/model.h"
#include "worker/sampler.h"

enum { MAX_WORLD = 16 };

typedef struct tensor {
    float *slot[PSD_MAX_SLOTS], *gradient[MAX_WORLD];
    psd_rule_state_t state;
} tensor_t;

struct reference {
    psd_dataset_t *data;
    psd_model_t *model;
    psd_sampler_t *sampler;
    psd_rule_t rule;
    size_t n;
    const psd_param_t *params;
    tensor_t tensor[PSD_MAX_PARAMS];
};

static void *need(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

static void begin_tensor(reference_t *self, size_t i)
{
    tensor_t *t = &self->tensor[i];
    for (int s = 0; s < self->rule.n_slots; s++)
        t->slot[s] = need(calloc(self->params[i].n, sizeof(float)));
    for (int k = 0; k < MAX_WORLD; k++)
        t->gradient[k] = need(calloc(self->params[i].n, sizeof(float)));
    psd_rule_init(&self->rule, &t->state, self->params[i].data, t->slot, self->params[i].n);
}

reference_t *reference_new(const reference_config_t *config)
{
    reference_t *self = need(calloc(1, sizeof *self));
    psd_err_t err = { 0 };
    const psd_model_config_t model = {
        .kind = config->kind, .layers = config->layers, .n_layers = config->n_layers, .seed = config->seed
    };
    if (psd_rule_parse(&self->rule, config->rule, &err) != PSD_OK ||
        !(self->data =
              psd_dataset_load(config->data, &(psd_dataset_options_t){ .kind = PSD_LABEL_CLASS }, &err)) ||
        !(self->model = psd_model_new(&model, self->data, &err)) ||
        !(self->sampler = psd_sampler_new(self->data->n_rows, config->batch, true, config->seed, &err))) {
        fprintf(stderr, "reference: %s\n", err.text);
        reference_destroy(&self);
        return NULL;
    }
    self->n = psd_model_n_params(self->model);
    self->params = psd_model_params(self->model);
    for (size_t i = 0; i < self->n; i++)
        begin_tensor(self, i);
    return self;
}

void reference_destroy(reference_t **self_p)
{
    reference_t *self = *self_p;
    *self_p = NULL;
    for (size_t i = 0; self && i < self->n; i++) {
        for (int s = 0; s < PSD_MAX_SLOTS; s++)
            free(self->tensor[i].slot[s]);
        for (int k = 0; k < MAX_WORLD; k++)
            free(self->tensor[i].gradient[k]);
    }
    if (self) {
        psd_sampler_destroy(&self->sampler);
        psd_model_destroy(&self->model);
        psd_dataset_destroy(&self->data);
    }
    free(self);
}

void reference_round(reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n)
{
    double weight[MAX_WORLD] = { 0 };
    size_t total = 0;
    uint32_t k = 0;
    for (uint32_t r = 0; r < n && k < MAX_WORLD; r++) {
        const psd_slice_t slice = psd_sampler_at(self->sampler, clock, ranks[r], world);
        if (!slice.n)
            continue;
        psd_model_gradient(self->model, self->data, slice.rows, slice.n);
        for (size_t i = 0; i < self->n; i++)
            memcpy(self->tensor[i].gradient[k], self->params[i].grad, self->params[i].n * sizeof(float));
        weight[k++] = (double)slice.n;
        total += slice.n;
    }
    for (uint32_t r = 0; r < k; r++)
        weight[r] /= (double)total;
    for (size_t i = 0; i < self->n && k; i++) {
        tensor_t *t = &self->tensor[i];
        psd_step_reference(&self->rule, &t->state, self->params[i].data, t->slot, self->params[i].n,
                           (const float *const *)t->gradient, weight, k, psd_rule_lr(&self->rule));
    }
}

void reference_run(reference_t *self, uint64_t last, uint32_t world)
{
    uint32_t ranks[MAX_WORLD];
    for (uint32_t r = 0; r < MAX_WORLD; r++)
        ranks[r] = r;
    for (uint64_t clock = 1; clock <= last; clock++)
        reference_round(self, clock, world, ranks, world);
}

static void hash(const reference_t *self, bool slow, char text[PSD_SHA256_TEXT])
{
    psd_saved_t saved[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++)
        saved[i] =
            (psd_saved_t){ .name = self->params[i].name,
                           .shape = self->params[i].shape,
                           .n_dims = self->params[i].n_dims,
                           .n = self->params[i].n,
                           .data = slow ? self->tensor[i].slot[self->rule.slow_slot] : self->params[i].data };
    psd_weights_sha256(saved, self->n, text);
}

void reference_hash(const reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    hash(self, false, fast);
    *slow = '\0';
    if (self->rule.lookahead)
        hash(self, true, slow);
}

bool reference_undisturbed(const reference_config_t *config, uint64_t last, uint32_t world,
                           char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    reference_t *self = reference_new(config);
    if (!self)
        return false;
    reference_run(self, last, world);
    reference_hash(self, fast, slow);
    reference_destroy(&self);
    return true;
}
