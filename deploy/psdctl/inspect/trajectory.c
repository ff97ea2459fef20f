#include "deploy/psdctl/inspect/trajectory.h"

#include <stdlib.h>
#include <string.h>

#include "common/optim/whole.h"

/* The model of a case: each array has its tensors one after the other. */
typedef struct model {
    const psd_golden_case_t *c;
    float *w, *slot[PSD_MAX_SLOTS];
    psd_rule_state_t *state;        /* of each tensor */
    psd_whole_t *tensor;            /* likewise */
    float *(*slots)[PSD_MAX_SLOTS]; /* likewise */
    const float **gradient;         /* of each tensor, PSD_GOLDEN_WORKERS at most */
    double weight[PSD_GOLDEN_WORKERS];
} model_t;

static void model_clear(model_t *self)
{
    free(self->w);
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        free(self->slot[s]);
    free(self->state);
    free(self->tensor);
    free(self->slots);
    free(self->gradient);
}

static int model_init(model_t *self, const psd_golden_case_t *c, const psd_rule_t *rule, size_t most_workers, psd_err_t *err)
{
    *self = (model_t){ .c = c,
                       .w = calloc(c->n, sizeof(float)),
                       .state = calloc(c->n_tensors, sizeof *self->state),
                       .tensor = calloc(c->n_tensors, sizeof *self->tensor),
                       .slots = calloc(c->n_tensors, sizeof *self->slots),
                       .gradient = calloc(c->n_tensors * most_workers, sizeof *self->gradient) };
    bool ok = self->w && self->state && self->tensor && self->slots && self->gradient;
    for (int s = 0; ok && s < rule->n_slots; s++)
        ok = (self->slot[s] = calloc(c->n, sizeof(float))) != NULL;
    if (!ok) {
        model_clear(self);
        return psd_err_set(err, PSD_ENOMEM, "no memory to replay %zu weights", c->n);
    }
    memcpy(self->w, c->w0, c->n * sizeof(float));
    for (size_t t = 0, at = 0; t < c->n_tensors; at += c->size[t++]) {
        for (int s = 0; s < rule->n_slots; s++)
            self->slots[t][s] = self->slot[s] + at;
        self->tensor[t] = (psd_whole_t){ .n = c->size[t],
                                         .w = self->w + at,
                                         .slot = self->slots[t],
                                         .state = &self->state[t],
                                         .gradient = self->gradient + t * most_workers };
        psd_rule_init(rule, &self->state[t], self->w + at, self->slots[t], c->size[t]);
    }
    return PSD_OK;
}

/* The gradients of a step and their weights: of one worker, or of several by their samples. Returns how many. */
static size_t take_gradients(model_t *self, const psd_golden_step_t *step, size_t most_workers)
{
    const size_t n = step->g ? 1 : step->n_pushes;
    uint64_t samples = 0;
    for (size_t k = 0; k < step->n_pushes; k++)
        samples += step->pushes[k].samples;
    for (size_t k = 0; k < n; k++) {
        const float *g = step->g ? step->g : step->pushes[k].g;
        self->weight[k] = step->g ? 1 : (double)step->pushes[k].samples / (double)samples;
        for (size_t t = 0, at = 0; t < self->c->n_tensors; at += self->c->size[t++])
            self->gradient[t * most_workers + k] = g + at;
    }
    return n;
}

/* From 0, a step of sgd(lr=1) is the clipped gradient: tell it, and go back to 0. */
static void tell_clipped(const model_t *self, size_t t, psd_trajectory_each_t *each, void *arg)
{
    for (size_t i = 0; i < self->c->n; i++)
        self->w[i] = -self->w[i];
    each(arg, 'c', t, self->w);
    memset(self->w, 0, self->c->n * sizeof(float));
}

int psd_trajectory_run(const psd_golden_case_t *c, const psd_rule_t *rule, psd_trajectory_each_t *each, void *arg, psd_err_t *err)
{
    model_t self;
    size_t most_workers = 1;
    for (size_t t = 0; t < c->n_steps; t++)
        most_workers = c->steps[t].n_pushes > most_workers ? c->steps[t].n_pushes : most_workers;
    const int rc = model_init(&self, c, rule, most_workers, err);
    if (rc)
        return rc;
    for (size_t t = 1; t <= c->n_steps; t++) {
        const psd_golden_step_t *step = &c->steps[t - 1];
        const size_t n = take_gradients(&self, step, most_workers);
        psd_whole_step(rule, &c->clip, self.tensor, c->n_tensors, self.weight, n, step->has_lr ? step->lr : psd_rule_lr(rule));
        if (c->clips) {
            tell_clipped(&self, t, each, arg);
            continue;
        }
        each(arg, 'w', t, self.w);
        if (rule->slow_slot >= 0)
            each(arg, 'x', t, self.slot[rule->slow_slot]);
    }
    model_clear(&self);
    return PSD_OK;
}
