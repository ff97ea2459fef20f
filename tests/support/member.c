#include "tests/support/member.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "psd/worker.h"

void crew_open(crew_t *self, const cluster_t *cluster, const reference_config_t *config, uint32_t world)
{
    *self = (crew_t){ .cluster = cluster, .config = *config, .world = world, .last = UINT64_MAX };
    pthread_mutex_init(&self->lock, NULL);
}

bool crew_goes_on(crew_t *self, uint64_t clock)
{
    pthread_mutex_lock(&self->lock);
    self->newest = clock > self->newest ? clock : self->newest;
    const bool on = clock <= self->last;
    pthread_mutex_unlock(&self->lock);
    return on;
}

uint64_t crew_clock(crew_t *self)
{
    pthread_mutex_lock(&self->lock);
    const uint64_t clock = self->newest;
    pthread_mutex_unlock(&self->lock);
    return clock;
}

uint64_t crew_end(crew_t *self)
{
    pthread_mutex_lock(&self->lock);
    const uint64_t last = self->last = self->newest + 3;
    pthread_mutex_unlock(&self->lock);
    return last;
}

bool member_open(member_t *self, crew_t *crew, int id)
{
    const reference_config_t *c = &crew->config;
    psd_err_t err = { 0 };
    *self = (member_t){ .crew = crew, .id = id };
    self->data = psd_dataset_load(c->data, &(psd_dataset_options_t){ .kind = PSD_LABEL_CLASS }, &err);
    if (self->data)
        self->model =
            psd_model_new(&(psd_model_config_t){ .kind = c->kind, .layers = c->layers, .n_layers = c->n_layers, .seed = c->seed },
                          self->data, &err);
    if (self->model)
        self->sampler = psd_sampler_new(self->data->n_rows, c->batch, true, c->seed, &err);
    if (!self->sampler) {
        fprintf(stderr, "member %d: %s\n", id, err.text);
        return false;
    }
    self->n = psd_model_n_params(self->model);
    self->params = psd_model_params(self->model);
    for (size_t i = 0; i < self->n; i++)
        self->gradient[i] = self->params[i].grad;
    return true;
}

void member_close(member_t *self)
{
    psd_saved_t saved[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++)
        saved[i] = (psd_saved_t){ .name = self->params[i].name, .n = self->params[i].n, .data = self->params[i].data };
    psd_weights_sha256(saved, self->n, self->sha256);
    psd_sampler_destroy(&self->sampler);
    psd_model_destroy(&self->model);
    psd_dataset_destroy(&self->data);
}

size_t member_gradient(member_t *self, uint64_t clock, uint32_t rank, uint32_t world)
{
    const psd_slice_t slice = psd_sampler_at(self->sampler, clock, rank, world);
    psd_model_gradient(self->model, self->data, slice.rows, slice.n);
    return slice.n;
}

static int train(member_t *self, psd_worker_t *worker)
{
    psd_tensor_t tensors[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++)
        tensors[i] = (psd_tensor_t){ .name = self->params[i].name,
                                     .shape = self->params[i].shape,
                                     .n_dims = self->params[i].n_dims,
                                     .data = self->params[i].data };
    int rc = psd_worker_register(worker, tensors, self->n);
    psd_position_t at = { .size = sizeof at };
    while (!rc && !(rc = psd_worker_position(worker, &at)) && crew_goes_on(self->crew, at.clock)) {
        psd_ticket_t ticket;
        const size_t n = member_gradient(self, at.clock, at.rank, at.world);
        rc = psd_worker_exchange(worker, self->gradient, n, 1, &ticket);
        rc = rc ? rc : psd_worker_wait(worker, ticket, MEMBER_WAIT_MS);
    }
    return rc ? rc : psd_worker_leave(worker, 1, MEMBER_WAIT_MS);
}

static void *run(void *arg)
{
    member_t *self = arg;
    const cluster_t *cluster = self->crew->cluster;
    psd_worker_t *worker = NULL;
    char key[128], server_public[128];
    snprintf(key, sizeof key, "%s/w%d.key", cluster->directory, self->id);
    snprintf(server_public, sizeof server_public, "%s/ps.pub", cluster->directory);
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = cluster->data[0],
                                         .worker = self->id + 1,
                                         .key = cluster->keys ? key : NULL,
                                         .server_public = cluster->keys ? server_public : NULL,
                                         .insecure = !cluster->keys };
    int rc = psd_worker_connect(&worker, &config);
    rc = rc ? rc : train(self, worker);
    if (rc)
        snprintf(self->failure, sizeof self->failure, "worker %d: %s", self->id, psd_worker_error(worker));
    psd_worker_close(&worker);
    return NULL;
}

void member_start(member_t *self)
{
    const int rc = pthread_create(&self->thread, NULL, run, self);
    assert(!rc && "a thread for a member");
}

void member_join(member_t *self) { pthread_join(self->thread, NULL); }

bool crew_has_weights(const crew_t *self, member_t *const *members, uint64_t last)
{
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    bool same = reference_undisturbed(&self->config, last, self->world, fast, slow);
    for (uint32_t i = 0; i < self->world; i++) {
        member_close(members[i]);
        if (!strcmp(members[i]->sha256, fast))
            continue;
        fprintf(stderr, "member %u after %llu rounds: weights %s; of the undisturbed run %s\n", i, (unsigned long long)last,
                members[i]->sha256, fast);
        same = false;
    }
    return same;
}
