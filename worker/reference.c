#include "worker/reference.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/whole.h"
#include "common/system/safetensors.h"
#include "worker/sampler.h"

typedef struct tensor {
    float *slot[PSD_MAX_SLOTS];
    float **gradient; /* of each contributor to the open step */
    float **residual; /* of each rank: its residual of coding, or its momentum if the rule votes */
    float *w;         /* the weights that are stepped: the model's own, unless workers get coded ones */
    psd_rule_state_t state;
} tensor_t;

struct psd_reference {
    psd_reference_config_t config;
    psd_sampler_t *sampler;
    psd_groups_t groups;
    uint8_t group_of[PSD_MAX_PARAMS];
    double *weight;          /* of each contributor to the open step */
    uint32_t n_rounds;       /* number of contributors to it, ... */
    uint32_t n_gradients;    /* ... of gradients, ... */
    uint64_t n_samples;      /* ... and of samples */
    uint64_t steps, samples; /* number of steps made */
    size_t n;
    const psd_param_t *params;
    tensor_t tensor[PSD_MAX_PARAMS];
};

static const psd_rule_t *rule_of(const psd_reference_t *self, size_t i) { return &self->groups.at[self->group_of[i]].rule; }

/* The largest number of gradients in a step. */
static uint32_t most(const psd_reference_t *self)
{
    return self->config.world * (self->config.accumulate > 1 ? self->config.accumulate : 1);
}

static bool begin_tensor(psd_reference_t *self, size_t i)
{
    tensor_t *t = &self->tensor[i];
    bool ok = (t->gradient = calloc(most(self), sizeof *t->gradient)) != NULL;
    for (int s = 0; ok && s < rule_of(self, i)->n_slots; s++)
        ok = (t->slot[s] = calloc(self->params[i].n, sizeof(float))) != NULL;
    ok = ok && (t->residual = calloc(self->config.world, sizeof *t->residual)) != NULL;
    for (uint32_t k = 0; ok && k < self->config.world; k++)
        ok = (t->residual[k] = calloc(self->params[i].n, sizeof(float))) != NULL;
    for (uint32_t k = 0; ok && k < most(self); k++)
        ok = (t->gradient[k] = calloc(self->params[i].n, sizeof(float))) != NULL;
    ok = ok && (t->w = malloc(self->params[i].n * sizeof(float))) != NULL;
    if (ok) {
        memcpy(t->w, self->params[i].data, self->params[i].n * sizeof(float));
        psd_rule_init(rule_of(self, i), &t->state, t->w, t->slot, self->params[i].n);
    }
    return ok;
}

/* Give the weights to the workers, through the pull codec. */
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

/* Worker `rank` pushes the model's gradient, as the k-th contributor. False: it is not finite. */
static bool push(psd_reference_t *self, uint32_t rank, uint32_t k)
{
    uint64_t size[PSD_MAX_PARAMS];
    float *value[PSD_MAX_PARAMS], *residual[PSD_MAX_PARAMS];
    bool finite = true;
    for (size_t i = 0; i < self->n; i++) {
        size[i] = self->params[i].n;
        value[i] = self->tensor[i].gradient[k];
        residual[i] = self->tensor[i].residual[rank];
        memcpy(value[i], self->params[i].grad, size[i] * sizeof(float));
        finite = finite && psd_first_nonfinite(value[i], size[i]) == size[i];
    }
    return psd_whole_send(&psd_groups_rest(&self->groups)->rule, &self->config.codings.push, size, self->n, value, residual) &&
           finite;
}

static int assign_groups(psd_reference_t *self, psd_err_t *err)
{
    char name[PSD_MAX_PARAMS][sizeof self->params->name];
    psd_extent_t extent[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++) {
        snprintf(name[i], sizeof name[i], "%s", self->params[i].name);
        extent[i] = psd_model_extent(&self->params[i]);
    }
    return psd_groups_assign(&self->groups, *name, sizeof *name, extent, self->n, self->group_of, err);
}

/* Have the tensors begin with the state of another job. */
static int inherit(psd_reference_t *self, psd_err_t *err)
{
    const psd_reference_config_t *c = &self->config;
    if (!c->state || !c->state->n)
        return PSD_OK;
    psd_inheritance_t *all = psd_statefile_fit(c->state, c->model, c->rule, c->groups, c->partial, err);
    if (!all)
        return err->code;
    for (size_t i = 0; i < self->n; i++) {
        const psd_extent_t extent = psd_model_extent(&self->params[i]);
        if (all->of[i].t)
            psd_rule_resume(rule_of(self, i), &self->tensor[i].state, all->of[i].t, all->of[i].scalar);
        for (int s = 0; s < PSD_MAX_SLOTS; s++)
            if (all->slot[i][s])
                memcpy(self->tensor[i].slot[s], all->slot[i][s],
                       psd_rule_slot_length(rule_of(self, i), s, &extent) * sizeof(float));
    }
    psd_inheritance_destroy(&all);
    return PSD_OK;
}

psd_reference_t *psd_reference_new(const psd_reference_config_t *config, psd_err_t *err)
{
    psd_reference_t *self = calloc(1, sizeof *self);
    if (self)
        self->config = *config;
    bool ok = self && (self->weight = calloc(most(self), sizeof *self->weight));
    if (!ok)
        psd_err_set(err, PSD_ENOMEM, "no memory for %u workers", config->world);
    if (ok) {
        self->n = psd_model_n_params(config->model);
        self->params = psd_model_params(config->model);
        ok = psd_groups_parse(&self->groups, config->rule, config->groups, err) == PSD_OK && assign_groups(self, err) == PSD_OK &&
             (self->sampler = psd_sampler_new(config->train->n_rows, config->batch, config->shuffle, config->seed, err));
    }
    for (size_t i = 0; ok && i < self->n; i++)
        if (!begin_tensor(self, i))
            ok = psd_err_set(err, PSD_ENOMEM, "no memory for the gradients of %u workers", config->world) == PSD_OK;
    ok = ok && inherit(self, err) == PSD_OK;
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
    for (uint32_t k = 0; t->gradient && k < most(self); k++)
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

/* The rates of the next step, and, where the schedule sets it, the momentum of `groups`. */
static void settle_rates(const psd_reference_t *self, psd_groups_t *groups, double lr[PSD_MAX_GROUPS])
{
    const psd_reference_config_t *c = &self->config;
    const double progress = psd_schedule_progress(&c->schedule, self->steps, self->samples, c->train->n_rows);
    double momentum;
    const bool moves = psd_schedule_momentum(&c->schedule, progress, &momentum);
    for (uint32_t g = 0; g < groups->n; g++) {
        lr[g] = psd_groups_rate(&self->groups, g, &c->schedule, psd_rule_lr(&psd_groups_rest(&self->groups)->rule), progress);
        if (moves && psd_rule_has_momentum(&groups->at[g].rule))
            psd_rule_set_momentum(&groups->at[g].rule, momentum);
    }
}

static void step(psd_reference_t *self)
{
    const psd_reduce_t how = self->config.reduce;
    const double divisor = self->config.accumulate > 1 ? psd_reduce_divisor(how, self->n_samples, self->n_gradients) : 0;
    psd_groups_t groups = self->groups;
    double lr[PSD_MAX_GROUPS];
    settle_rates(self, &groups, lr);
    psd_whole_t whole[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++) {
        tensor_t *t = &self->tensor[i];
        whole[i] = (psd_whole_t){ .n = self->params[i].n,
                                  .group = self->group_of[i],
                                  .w = t->w,
                                  .slot = t->slot,
                                  .state = &t->state,
                                  .gradient = (const float *const *)t->gradient,
                                  .shape = psd_model_extent(&self->params[i]).shape };
    }
    psd_whole_step(&groups, &self->config.clip, whole, self->n, self->weight, self->n_gradients, divisor, lr);
    self->steps++;
    self->samples += self->n_samples;
    self->n_samples = self->n_rounds = self->n_gradients = 0;
    pull(self);
}

void psd_reference_round(psd_reference_t *self, uint64_t clock, uint32_t world, const uint32_t *ranks, uint32_t n)
{
    const bool alone = self->config.accumulate < 2;
    const uint32_t first = self->n_gradients;
    size_t total = 0;
    uint32_t k = first;
    bool finite = true;
    for (uint32_t r = 0; r < n && k < first + self->config.world; r++) {
        const psd_slice_t slice = psd_sampler_at(self->sampler, clock, ranks[r], world);
        if (!slice.n)
            continue;
        psd_model_gradient(self->config.model, self->config.train, slice.rows, slice.n);
        finite = push(self, ranks[r], k) && finite;
        self->weight[k++] = (double)slice.n;
        total += slice.n;
    }
    if (!finite)
        return; /* servers skip such a round */
    for (uint32_t r = first; r < k; r++)
        self->weight[r] = alone ? psd_reduce_weight(self->config.reduce, (uint64_t)self->weight[r], total, k)
                                : psd_reduce_term(self->config.reduce, (uint64_t)self->weight[r]);
    self->n_gradients = k;
    self->n_samples += total;
    self->n_rounds += k > first;
    if (k > first && (alone || self->n_rounds == self->config.accumulate))
        step(self);
}

static psd_saved_t saved(const psd_reference_t *self, size_t i, const float *data)
{
    const psd_param_t *p = &self->params[i];
    return (psd_saved_t){ .name = p->name, .shape = p->shape, .n_dims = p->n_dims, .n = p->n, .data = data };
}

void psd_reference_hash_of(const psd_reference_t *self, size_t i, char text[PSD_SHA256_TEXT])
{
    const psd_saved_t one = saved(self, i, self->params[i].data);
    psd_weights_sha256(&one, 1, text);
}

void psd_reference_hash(const psd_reference_t *self, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    psd_saved_t all[PSD_MAX_PARAMS];
    float *values[PSD_MAX_PARAMS] = { NULL };
    for (size_t i = 0; i < self->n; i++)
        all[i] = saved(self, i, self->params[i].data);
    psd_weights_sha256(all, self->n, fast);
    *slow = '\0';
    if (!psd_groups_have_slow(&self->groups))
        return;
    for (size_t i = 0; i < self->n; i++) {
        values[i] = malloc(self->params[i].n * sizeof(float));
        assert(values[i] && "no memory for slow weights");
        psd_rule_slow(rule_of(self, i), self->tensor[i].w, self->tensor[i].slot, values[i], self->params[i].n);
        all[i] = saved(self, i, values[i]);
    }
    psd_weights_sha256(all, self->n, slow);
    for (size_t i = 0; i < self->n; i++)
        free(values[i]);
}
