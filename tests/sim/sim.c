#include <stdarg.h>

#include "tests/sim/sim_state.h"

enum { START_MS = 1000, LIVE_MS = 120000 /* the most time from the last fault to the end of the job */ };

void sim_broken(sim_t *self, const char *format, ...)
{
    if (!self->result->ok)
        return;
    self->result->ok = false;
    va_list args;
    va_start(args, format);
    vsnprintf(self->result->why, sizeof self->result->why, format, args);
    va_end(args);
}

/* ---- the queue of events: a binary heap by (time, order) ---- */

static bool sooner(const event_t *a, const event_t *b) { return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order; }

void sim_schedule(sim_t *self, event_t e)
{
    if (self->n == self->capacity) {
        self->capacity = self->capacity ? 2 * self->capacity : 256;
        self->heap = realloc(self->heap, self->capacity * sizeof *self->heap);
    }
    e.order = self->order++;
    size_t i = self->n++;
    for (; i && sooner(&e, &self->heap[(i - 1) / 2]); i = (i - 1) / 2)
        self->heap[i] = self->heap[(i - 1) / 2];
    self->heap[i] = e;
}

static event_t next_event(sim_t *self)
{
    event_t top = self->heap[0], last = self->heap[--self->n];
    size_t i = 0;
    for (size_t child = 1; child < self->n; child = 2 * i + 1) {
        if (child + 1 < self->n && sooner(&self->heap[child + 1], &self->heap[child]))
            child++;
        if (!sooner(&self->heap[child], &last))
            break;
        self->heap[i] = self->heap[child];
        i = child;
    }
    self->heap[i] = last;
    return top;
}

/* ---- a run ---- */

static void make_workers(sim_t *self)
{
    for (uint32_t w = 0; w < sim_most_workers(self); w++)
        for (uint32_t t = 0; t < self->list.n; t++) {
            self->worker[w].w[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
            self->worker[w].g[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
            self->worker[w].slow[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
            self->worker[w].kept[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
        }
}

static void start_all(sim_t *self)
{
    sim_make_model(self);
    make_workers(self);
    sim_begin_disk(self);
    for (uint32_t s = 0; s < self->config.servers; s++) {
        psd_means_init(&self->server[s].means);
        sim_build_server(self, s);
    }
    for (uint32_t w = 0; w < self->config.workers; w++) {
        bool late = self->config.late_worker_ms && w + 1 == self->config.workers;
        sim_schedule(self, (event_t){ .at_ms = self->now_ms + (late ? self->config.late_worker_ms : sim_delay(self)),
                                      .kind = START_WORKER,
                                      .target = w });
    }
    sim_draw_faults(self);
}

static bool all_finished(const sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (!self->server[s].finished)
            return false;
    return true;
}

static void release(sim_t *self)
{
    while (self->n) {
        event_t e = next_event(self);
        if (e.kind == WORK_DONE)
            sim_finish_work(self, &e);
        free(e.msg);
        psd_buf_unref(&e.payload);
    }
    for (uint32_t s = 0; s < self->config.servers; s++) {
        psd_node_destroy(&self->server[s].node);
        sim_lose_held(self, s);
        free(self->server[s].ledger.at);
        sim_lose_writer(self, s);
    }
    sim_end_disk(self);
    for (uint32_t w = 0; w < sim_most_workers(self); w++) {
        psd_session_destroy(&self->worker[w].session);
        psd_reading_destroy(&self->worker[w].reading);
        for (uint32_t t = 0; t < self->list.n; t++) {
            free(self->worker[w].w[t]);
            free(self->worker[w].g[t]);
            free(self->worker[w].slow[t]);
            free(self->worker[w].kept[t]);
        }
    }
    for (size_t i = 0; i < self->n_push; i++) {
        free(self->push[i].gradient);
        free(self->push[i].kept);
    }
    for (size_t i = 0; i < self->n_heirs; i++)
        free(self->heir[i].kept);
    free(self->heir);
    free(self->origin);
    free(self->push);
    free(self->history.at);
    free(self->heap);
    free(self->link);
    sim_forget_seen(self);
    psd_tensors_clear(&self->list);
    free(self);
}

static void note_end(sim_t *self)
{
    psd_coordinator_facts_t facts = { 0 };
    self->result->ended_ms = self->now_ms;
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (self->server[s].node) {
            const psd_engine_stats_t *stats = psd_engine_stats(psd_node_engine(self->server[s].node));
            self->result->folded += stats->folded;
            self->result->asked_again += stats->asked_again;
            self->result->ahead += stats->ahead;
            self->result->ahead_in_vain += stats->ahead_in_vain;
        }
    if (self->server[0].node)
        psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    self->result->skipped = facts.skipped;
    self->result->quarantined = facts.workers_quarantined;
}

void sim_run(const sim_config_t *config, sim_result_t *result)
{
    sim_t *self = calloc(1, sizeof *self);
    *result = (sim_result_t){ .ok = true };
    self->config = *config;
    self->link = calloc(SIM_PROCESSES, sizeof *self->link);
    self->result = result;
    self->random = config->seed ^ 0xfa0175;
    self->now_ms = START_MS;
    self->mode = psd_mode_find(config->mode);
    self->clip = (psd_clip_t){ .value = config->clip_value, .norm = config->clip_norm };
    const bool coded = (!config->push || psd_coding_parse(&self->codings.push, config->push, NULL) == PSD_OK) &&
                       (!config->pull || psd_coding_parse(&self->codings.pull, config->pull, NULL) == PSD_OK);
    const bool scheduled = !config->schedule || psd_schedule_parse(&self->schedule, config->schedule, NULL) == PSD_OK;
    self->schedule.unit = config->unit;
    if (!coded || !scheduled || !self->mode ||
        psd_groups_parse(&self->groups, config->rule, config->groups ? config->groups : "", NULL) != PSD_OK) {
        sim_broken(self, "no such mode, rule or codec: %s, %s", config->mode, config->rule);
        free(self->link);
        free(self);
        return;
    }
    start_all(self);
    while (result->ok && self->n && !all_finished(self)) {
        event_t e = next_event(self);
        self->now_ms = e.at_ms;
        sim_on_event(self, &e);
        if (self->now_ms > self->last_fault_ms + LIVE_MS)
            sim_say_who_waits(self, LIVE_MS);
    }
    note_end(self);
    if (result->ok)
        sim_check_weights(self);
    release(self);
}

void sim_run_and_compare(const sim_config_t *config, sim_result_t *result)
{
    sim_run(config, result);
    /* A worker in quarantine leaves the rows of the next round to the others, until it is replaced. */
    if (!result->ok || !config->all_must_stay || result->resets || config->quarantine_after)
        return;
    sim_config_t calm = *config;
    sim_result_t expected;
    memset(calm.chance, 0, sizeof calm.chance);
    calm.kill_worker = -1;
    calm.save_every = 0;
    calm.all_must_stay = false; /* no worker leaves, and the run is compared with a single process */
    calm.data_seed = config->data_seed ? config->data_seed : config->seed;
    sim_run(&calm, &expected);
    if (expected.ok && expected.weights_hash == result->weights_hash)
        return;
    result->ok = false;
    snprintf(result->why, sizeof result->why, "the weights at the end differ from those of the undisturbed run%s%.200s",
             expected.ok ? "" : ", which failed: ", expected.ok ? "" : expected.why);
}
