/* job.c - the trained model: a few tensors, and gradients that depend on the weights, the clock and the slice, so that every loss,
 * repetition or mix-up shows in the weights. */
#include <math.h>

#include "common/optim/whole.h"
#include "tests/sim/sim_state.h"

static uint64_t data_seed(const sim_t *self) { return self->config.data_seed ? self->config.data_seed : self->config.seed; }

/* Arrange the elements, or a few less, in rows. */
static void fold_to_matrix(psd_tensor_desc_t *d, uint64_t *stream)
{
    uint64_t most = 1;
    while ((most + 1) * (most + 1) <= d->n_elements)
        most++;
    d->n_dims = 2;
    d->dim[0] = 1 + psd_splitmix64(stream) % most;
    d->dim[1] = d->n_elements / d->dim[0];
    d->n_elements = d->dim[0] * d->dim[1];
}

/* Whether the job has a rule that depends on shapes. */
static bool has_whole(const sim_t *self)
{
    bool any = false;
    for (uint32_t g = 0; g < self->groups.n; g++)
        any |= psd_rule_is_whole(&self->groups.at[g].rule);
    return any;
}

void sim_make_model(sim_t *self)
{
    uint64_t stream = data_seed(self) ^ 0x5eed;
    self->list.n = self->config.tensors ? self->config.tensors : 3;
    self->list.rows = 100;
    self->list.tensor = calloc(self->list.n, sizeof *self->list.tensor);
    for (uint32_t t = 0; t < self->list.n; t++) {
        psd_tensor_desc_t *d = &self->list.tensor[t];
        snprintf(d->name, sizeof d->name, "t%u", t);
        d->n_dims = 1;
        d->dim[0] = d->n_elements = 1 + psd_splitmix64(&stream) % (self->config.most_elements ? self->config.most_elements : 3000);
        if (has_whole(self) && t % 3 != 2) /* some are matrices */
            fold_to_matrix(d, &stream);
    }
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    for (uint32_t t = 0; t < self->list.n; t++) {
        self->shape[t] = extents[t].shape;
        self->group_of[t] = psd_groups_of(&self->groups, self->list.tensor[t].name, &self->shape[t]);
    }
    free(extents);
    psd_inheritance_t *all = sim_inheritance(self);
    if (!all)
        return;
    self->list.inherited = calloc(self->list.n, sizeof *self->list.inherited);
    memcpy(self->list.inherited, all->of, self->list.n * sizeof *self->list.inherited);
    psd_inheritance_destroy(&all);
}

/* Some tensors inherit all that their rule keeps, some all but slow weights, some nothing. Second moments are above 0, and
 * scalars near those of birth. */
static void inherit_tensor(const sim_t *self, uint32_t t, const psd_extent_t *extent, psd_inheritance_t *out)
{
    const psd_group_t *group = &self->groups.at[self->group_of[t]];
    const psd_rule_t *rule = &group->rule;
    uint64_t stream = data_seed(self) * 77 + t;
    const uint64_t how = psd_splitmix64(&stream) % 4;
    if (group->freezes || (!how && t))
        return;
    psd_rule_state_t born = { 0 };
    if (rule->opt->born)
        rule->opt->born(rule->hyper, born.scalar);
    out->of[t] = (psd_inherited_t){ .t = 1 + psd_splitmix64(&stream) % 20, .n_scalars = (uint32_t)psd_rule_n_scalars(rule) };
    for (uint32_t i = 0; i < out->of[t].n_scalars; i++)
        out->of[t].scalar[i] = born.scalar[i] * 0.75;
    for (int s = 0; s < rule->n_slots; s++) {
        const uint64_t n = psd_rule_slot_length(rule, s, extent);
        if (!n || (how == 1 && rule->slow_slot >= 0 && s >= rule->slow_slot))
            continue;
        out->of[t].arrays |= 1u << s;
        out->slot[t][s] = malloc(n * sizeof(float));
        for (uint64_t i = 0; i < n; i++)
            out->slot[t][s][i] = (float)(0.01 + psd_uniform(&stream));
    }
}

psd_inheritance_t *sim_inheritance(const sim_t *self)
{
    if (!self->config.inherits)
        return NULL;
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    psd_inheritance_t *out = calloc(1, sizeof *out);
    out->n = self->list.n;
    out->of = calloc(out->n, sizeof *out->of);
    out->slot = calloc(out->n, sizeof *out->slot);
    for (uint32_t t = 0; t < self->list.n; t++)
        inherit_tensor(self, t, &extents[t], out);
    free(extents);
    return out;
}

size_t sim_model_size(const sim_t *self)
{
    size_t n = 0;
    for (uint32_t t = 0; t < self->list.n; t++)
        n += self->list.tensor[t].n_elements;
    return n;
}

void sim_initial_weights(const sim_t *self, float **w)
{
    uint64_t stream = data_seed(self);
    for (uint32_t t = 0; t < self->list.n; t++)
        for (size_t i = 0; i < self->list.tensor[t].n_elements; i++)
            w[t][i] = (float)(psd_uniform(&stream) - 0.5);
}

void sim_make_gradient(const sim_t *self, const float *w, float *g, size_t n, uint32_t tensor, uint64_t clock, uint32_t rank,
                       uint32_t world)
{
    uint64_t key = data_seed(self) * 31 + clock * 1000003 + rank * 8191 + world * 131 + tensor;
    for (size_t i = 0; i < n; i++)
        g[i] = 0.05f * w[i] + (float)(psd_uniform(&key) - 0.5);
}

bool sim_keeps(const sim_t *self)
{
    return psd_rule_votes(&psd_groups_rest(&self->groups)->rule) || !psd_coding_is_lossless(&self->codings.push);
}

static uint64_t slice(const sim_t *self, uint64_t clock, uint32_t rank, uint32_t world)
{
    const uint64_t batch = self->config.batch ? self->config.batch : BATCH;
    const bool is_odd = self->config.odd_every && clock % self->config.odd_every == 0 && rank + 1 == world;
    const uint64_t n = batch * (rank + 1) / world - batch * rank / world;
    return is_odd ? n / 2 : n;
}

/* ---- pushes ---- */

static float *copy_model(const sim_t *self, float *const *from)
{
    float *copy = malloc(sim_model_size(self) * sizeof *copy), *to = copy;
    for (uint32_t t = 0; t < self->list.n; to += self->list.tensor[t++].n_elements)
        memcpy(to, from[t], self->list.tensor[t].n_elements * sizeof *to);
    return copy;
}

/* Code it as the worker does, with the simulator's copy of its residual; another incarnation begins with none, unless it has
 * inherited one. */
static void keep_gradient(sim_t *self, sim_worker_t *me, push_t *push, uint64_t run)
{
    float *g[MAX_TENSORS];
    uint64_t size[MAX_TENSORS];
    const sim_life_t life = { .run = run, .incarnation = push->incarnation, .worker = push->worker };
    const bool is_same = life.run == me->life_of_kept.run && life.incarnation == me->life_of_kept.incarnation &&
                         life.worker == me->life_of_kept.worker;
    for (uint32_t t = 0; t < self->list.n; t++) {
        size[t] = self->list.tensor[t].n_elements;
        g[t] = malloc(size[t] * sizeof *g[t]);
        memcpy(g[t], me->g[t], size[t] * sizeof *g[t]);
        if (!is_same)
            memset(me->kept[t], 0, size[t] * sizeof *g[t]);
    }
    me->life_of_kept = life;
    psd_whole_send(&psd_groups_rest(&self->groups)->rule, &self->codings.push, size, self->list.n, g, me->kept);
    push->gradient = copy_model(self, g);
    push->kept = sim_keeps(self) ? copy_model(self, me->kept) : NULL;
    for (uint32_t t = 0; t < self->list.n; t++)
        free(g[t]);
}

bool sim_is_nonfinite(const sim_t *self, const push_t *push)
{
    const uint64_t from = self->config.nonfinite_clock, n = self->config.quarantine_after ? self->config.quarantine_after : 1;
    const bool repeats = self->config.quarantine_after && !psd_mode_has_rounds(self->mode) && push->incarnation % 2 == 0;
    return from && push->rank == 0 && push->clock >= from && push->clock < from + n && !repeats;
}

push_t *sim_begin_push(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    psd_session_position_t at = psd_session_position(me->session);
    if (self->n_push == self->push_capacity) {
        self->push_capacity = self->push_capacity ? 2 * self->push_capacity : 256;
        self->push = realloc(self->push, self->push_capacity * sizeof *self->push);
    }
    push_t *push = &self->push[self->n_push++];
    *push = (push_t){ .worker = at.worker,
                      .rank = at.rank,
                      .world = at.world,
                      .incarnation = at.incarnation,
                      .clock = at.clock,
                      .samples = slice(self, at.clock, at.rank, at.world) };
    for (uint32_t t = 0; t < self->list.n; t++)
        sim_make_gradient(self, me->w[t], me->g[t], self->list.tensor[t].n_elements, t, at.clock, at.rank, at.world);
    if (sim_is_nonfinite(self, push))
        me->g[0][0] = NAN;
    if (!psd_mode_has_rounds(self->mode))
        keep_gradient(self, me, push, at.run);
    return push;
}

const push_t *sim_find_push(const sim_t *self, const applied_t *a)
{
    for (size_t i = self->n_push; i-- > 0;)
        if (self->push[i].worker == a->worker && self->push[i].clock == a->clock && self->push[i].incarnation == a->incarnation &&
            self->push[i].run == a->run)
            return &self->push[i];
    return NULL;
}
