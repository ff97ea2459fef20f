#include "deploy/psdctl/inspect/trajectory.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/whole.h"

/* The model of a case; each array contains its tensors one after the other. */
typedef struct model {
    const psd_golden_case_t *c;
    const psd_groups_t *groups;
    uint8_t group_of[PSD_GOLDEN_TENSORS];
    float *w, *slow, *slot[PSD_MAX_SLOTS];
    psd_rule_state_t *state;        /* of each tensor */
    psd_whole_t *tensor;            /* likewise */
    float *(*slots)[PSD_MAX_SLOTS]; /* likewise */
    const float **gradient;         /* of each tensor, PSD_GOLDEN_WORKERS at most */
    double weight[PSD_GOLDEN_WORKERS];
    float *kept[PSD_GOLDEN_WORKERS], *vote[PSD_GOLDEN_WORKERS]; /* of each worker, if workers vote; NULL: it has not voted */
} model_t;

static void model_clear(model_t *self)
{
    free(self->w);
    free(self->slow);
    for (int s = 0; s < PSD_MAX_SLOTS; s++)
        free(self->slot[s]);
    for (int k = 0; k < PSD_GOLDEN_WORKERS; k++) {
        free(self->kept[k]);
        free(self->vote[k]);
    }
    free(self->state);
    free(self->tensor);
    free(self->slots);
    free(self->gradient);
}

static const psd_rule_t *rule_of(const model_t *self, size_t t) { return &self->groups->at[self->group_of[t]].rule; }

static int model_init(model_t *self, const psd_golden_case_t *c, const psd_groups_t *groups, size_t most_workers, psd_err_t *err)
{
    *self = (model_t){ .c = c,
                       .groups = groups,
                       .w = calloc(c->n, sizeof(float)),
                       .slow = calloc(c->n, sizeof(float)),
                       .state = calloc(c->n_tensors, sizeof *self->state),
                       .tensor = calloc(c->n_tensors, sizeof *self->tensor),
                       .slots = calloc(c->n_tensors, sizeof *self->slots),
                       .gradient = calloc(c->n_tensors * most_workers, sizeof *self->gradient) };
    bool ok = self->w && self->slow && self->state && self->tensor && self->slots && self->gradient;
    for (int s = 0; ok && s < psd_groups_slots(groups); s++)
        ok = (self->slot[s] = calloc(c->n, sizeof(float))) != NULL;
    if (!ok) {
        model_clear(self);
        return psd_err_set(err, PSD_ENOMEM, "no memory to replay %zu weights", c->n);
    }
    const int rc = psd_groups_assign(groups, *c->name, sizeof *c->name, c->tensor, c->n_tensors, self->group_of, err);
    if (rc) {
        model_clear(self);
        return rc;
    }
    memcpy(self->w, c->w0, c->n * sizeof(float));
    for (size_t t = 0, at = 0; t < c->n_tensors; at += c->size[t++]) {
        for (int s = 0; s < rule_of(self, t)->n_slots; s++)
            self->slots[t][s] = self->slot[s] + at;
        self->tensor[t] = (psd_whole_t){ .n = c->size[t],
                                         .group = self->group_of[t],
                                         .w = self->w + at,
                                         .slot = self->slots[t],
                                         .state = &self->state[t],
                                         .gradient = self->gradient + t * most_workers,
                                         .shape = c->tensor[t].shape };
        psd_rule_init(rule_of(self, t), &self->state[t], self->w + at, self->slots[t], c->size[t]);
    }
    return PSD_OK;
}

/* The message of worker `k` for gradient `g`: the gradient or a vote. */
static const float *sent(model_t *self, const psd_rule_t *rule, uint32_t k, const float *g)
{
    if (!psd_rule_votes(rule))
        return g;
    if (!self->kept[k]) {
        self->kept[k] = calloc(self->c->n, sizeof *g);
        self->vote[k] = calloc(self->c->n, sizeof *g);
        assert(self->kept[k] && self->vote[k] && "no memory to vote");
    }
    psd_rule_vote(rule, self->vote[k], self->kept[k], g, self->c->n);
    return self->vote[k];
}

/* The gradients of a step and their weights: of one worker, or of several by their samples. Returns how many. */
static size_t take_gradients(model_t *self, const psd_rule_t *rule, const psd_golden_step_t *step, size_t most_workers)
{
    const size_t n = step->g ? 1 : step->n_pushes;
    uint64_t samples = 0;
    for (size_t k = 0; k < step->n_pushes; k++)
        samples += step->pushes[k].samples;
    for (size_t k = 0; k < n; k++) {
        const float *g = step->g ? sent(self, rule, 0, step->g) : sent(self, rule, step->pushes[k].worker, step->pushes[k].g);
        self->weight[k] = step->g ? 1 : (double)step->pushes[k].samples / (double)samples;
        for (size_t t = 0, at = 0; t < self->c->n_tensors; at += self->c->size[t++])
            self->gradient[t * most_workers + k] = psd_golden_skips(step, t) ? NULL : g + at;
    }
    return n;
}

/* A step of sgd(lr=1) from 0 gives minus the clipped gradient: report it, and go back to 0. */
static void tell_clipped(const model_t *self, size_t t, psd_trajectory_each_t *each, void *arg)
{
    for (size_t i = 0; i < self->c->n; i++)
        self->w[i] = -self->w[i];
    each(arg, 'c', t, self->w);
    memset(self->w, 0, self->c->n * sizeof(float));
}

static void tell_slow(model_t *self, size_t t, psd_trajectory_each_t *each, void *arg)
{
    for (size_t i = 0, at = 0; i < self->c->n_tensors; at += self->c->size[i++])
        psd_rule_slow(rule_of(self, i), self->w + at, self->slots[i], self->slow + at, self->c->size[i]);
    each(arg, 'x', t, self->slow);
}

int psd_trajectory_run(const psd_golden_case_t *c, const psd_groups_t *groups, psd_trajectory_each_t *each, void *arg,
                       psd_err_t *err)
{
    model_t self;
    static const psd_schedule_t constant = { .kind = NULL };
    const psd_rule_t *rule = &psd_groups_rest(groups)->rule;
    size_t most_workers = 1;
    for (size_t t = 0; t < c->n_steps; t++)
        most_workers = c->steps[t].n_pushes > most_workers ? c->steps[t].n_pushes : most_workers;
    const int rc = model_init(&self, c, groups, most_workers, err);
    if (rc)
        return rc;
    for (size_t t = 1; t <= c->n_steps; t++) {
        const psd_golden_step_t *step = &c->steps[t - 1];
        const size_t n = take_gradients(&self, rule, step, most_workers);
        double lr[PSD_MAX_GROUPS];
        for (uint32_t g = 0; g < groups->n; g++)
            lr[g] = psd_groups_rate(groups, g, &constant, step->has_lr ? step->lr : psd_rule_lr(rule), 0);
        psd_whole_step(groups, &c->clip, self.tensor, c->n_tensors, self.weight, n, 0, lr);
        if (c->clips) {
            tell_clipped(&self, t, each, arg);
            continue;
        }
        each(arg, 'w', t, self.w);
        if (psd_groups_have_slow(groups))
            tell_slow(&self, t, each, arg);
    }
    model_clear(&self);
    return PSD_OK;
}
