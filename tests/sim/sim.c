#include "tests/sim/sim.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include "common/rng.h"
#include "server/node.h"
#include "worker/session.h"

enum { TICK_MS = 50, LIMIT_MS = 600000, MAX_TENSORS = 8, BATCH = 50, MAX_FILES = 4096, MOST_CRASHES = 10, MOST_KILLS = 40, JOB_ID = 77, START_MS = 1000 };

typedef enum kind {
    TO_SERVER,
    TO_WORKER,
    WORK_DONE,
    PART_SAVED,
    FILE_BEGUN,
    FILE_SAVED,
    COMMITTED,
    RESTORED,
    TICK_SERVER,
    TICK_WORKER,
    START_WORKER,
    START_SERVER,
    NOTHING               /* an event whose server died before it came */
} kind_t;

typedef struct event {
    uint64_t at_ms, order;    /* order: ties are kept in the order they were made */
    kind_t kind;
    uint32_t target;          /* server or worker */
    uint64_t life;            /* of this life of the target only; START_..., TO_SERVER: of any */
    uint64_t clock;           /* of a checkpoint */
    uint32_t part;            /* PART_SAVED */
    float *copy;              /* PART_SAVED: the chunk's arrays as they were when the writer got it */
    psd_peer_t from;
    psd_msg_t *msg;
    psd_buf_t *payload;
    psd_work_t *work;
    uv_thread_t thread;       /* WORK_DONE: where the work runs, with config.threads */
} event_t;

/* What a worker pushed: enough to compute its gradient again. */
typedef struct push {
    uint32_t worker, rank, world;
    uint64_t incarnation, clock, samples;
    float *gradient;          /* asp: as it was; bsp: NULL, a function of the weights */
} push_t;

typedef struct applied {
    uint64_t clock, incarnation, worker; /* of one width: compared as bytes */
} applied_t;

/* A shard's file on the simulated disk. */
typedef struct sim_file {
    uint64_t clock;
    uint32_t shard;
    bool durable;             /* else it is being written, and a crash loses it */
    psd_engine_point_t point;
    float **part;             /* arrays of each chunk: weights, then slots */
    psd_rule_state_t *state;  /* of each chunk */
    uint32_t n_parts;
} sim_file_t;

typedef struct sim_server {
    psd_node_t *node;         /* NULL while dead */
    uint64_t life;            /* rises at each start */
    sim_file_t *writing;      /* the file that a checkpoint writes now */
    applied_t *ledger;        /* in the order of application */
    size_t n_ledger, ledger_capacity;
    bool finished;
} sim_server_t;

typedef struct sim_worker {
    psd_session_t *session;   /* NULL while dead */
    uint64_t life;            /* rises at each start */
    uint64_t sent;            /* messages of all lives */
    float *w[MAX_TENSORS], *g[MAX_TENSORS];
    bool registered, done;
    bool pulled;              /* slow weights were read before leaving */
    float *slow[MAX_TENSORS];
} sim_worker_t;

typedef struct sim {
    sim_config_t config;
    sim_result_t *result;
    uint64_t now_ms, order, random;
    event_t *heap;
    size_t n, capacity;
    psd_rule_t rule;
    const psd_mode_t *mode;
    psd_tensor_list_t list;
    sim_server_t server[SIM_MAX_SERVERS];
    sim_worker_t worker[SIM_MAX_WORKERS];
    push_t *push;
    size_t n_push, push_capacity;
    uint64_t last_round_ms, last_clock;
    sim_file_t *file[MAX_FILES];
    size_t n_files;
    uint64_t manifest[MAX_FILES]; /* clocks whose manifest is durable, in the order they were written */
    size_t n_manifests;
} sim_t;

static uint64_t data_seed(const sim_t *self) { return self->config.data_seed ? self->config.data_seed : self->config.seed; }

static void broken(sim_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void broken(sim_t *self, const char *format, ...)
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

static bool sooner(const event_t *a, const event_t *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->order < b->order;
}

static void schedule(sim_t *self, event_t e)
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

/* ---- the network ---- */

static bool chance(sim_t *self, double p) { return p > 0 && psd_uniform(&self->random) < p; }

static uint64_t delay(sim_t *self)
{
    return self->config.delay_ms ? psd_splitmix64(&self->random) % self->config.delay_ms : 0;
}

/* Every header travels as bytes, so that what the machines say is also what the codec lets through. */
static psd_msg_t *over_the_wire(sim_t *self, const psd_msg_t *msg, const psd_buf_t *payload)
{
    uint8_t frame[PSD_MAX_HEADER];
    psd_err_t err;
    psd_msg_t *copy = malloc(sizeof *copy);
    size_t n = psd_msg_encode(msg, frame);
    if (psd_msg_decode(copy, frame, n, payload ? payload->n_bytes : 0, &err) != PSD_OK)
        broken(self, "a machine sent what the codec refuses: %s", err.text);
    return copy;
}

static void post(sim_t *self, kind_t kind, uint32_t target, uint64_t life, psd_peer_t from, const psd_action_t *a)
{
    uint32_t copies = 1 + chance(self, self->config.duplicate);
    if (chance(self, self->config.drop))
        copies = 0;
    for (uint32_t i = 0; i < copies; i++)
        schedule(self, (event_t){ .at_ms = self->now_ms + delay(self), .kind = kind, .target = target, .life = life,
                                  .from = from, .msg = over_the_wire(self, &a->msg, a->payload),
                                  .payload = a->payload ? psd_payload_copy(a->payload->data, a->payload->n_bytes) : NULL });
}

/* A server's ROUTER tells its peers apart by life, as ZeroMQ's automatic routing ids do. */
#define ROUTER_BIT (UINT64_C(1) << 63)
static psd_peer_t worker_peer(uint32_t w, uint64_t life) { return ROUTER_BIT | life << 16 | w << 1; }
static psd_peer_t server_peer(const sim_t *self, uint32_t s) { return ROUTER_BIT | self->server[s].life << 16 | s << 1 | 1; }

static void run_work(void *work) { psd_work_run(work); }

/* Work is done some time later; until then it runs, or has not begun: either must make no difference. */
static void start_work(sim_t *self, uint32_t s, psd_work_t *work)
{
    event_t done = { .at_ms = self->now_ms + delay(self) / 4, .kind = WORK_DONE, .target = s, .life = self->server[s].life,
                     .work = work };
    if (self->config.threads && uv_thread_create(&done.thread, run_work, work))
        broken(self, "no thread could be started");
    schedule(self, done);
}

static void finish_work(const sim_t *self, event_t *e)
{
    if (self->config.threads)
        uv_thread_join(&e->thread);
    else
        psd_work_run(e->work);
}

/* ---- the disk ---- */

static void later(sim_t *self, kind_t kind, uint32_t s, const psd_action_t *a, float *copy)
{
    schedule(self, (event_t){ .at_ms = self->now_ms + delay(self), .kind = kind, .target = s, .life = self->server[s].life,
                              .clock = a->clock, .part = a->part, .copy = copy });
}

static psd_shard_t *shard_of(const sim_t *self, uint32_t s)
{
    return (psd_shard_t *)(uintptr_t)psd_engine_shard(psd_node_engine(self->server[s].node));
}

/* A chunk's arrays, one after the other. */
static float *copy_chunk(const sim_t *self, uint32_t s, uint32_t part)
{
    psd_shard_state_t state = psd_shard_state(shard_of(self, s), part);
    size_t n = psd_shard_elements(shard_of(self, s), part);
    float *copy = malloc((size_t)(1 + self->rule.n_slots) * n * sizeof *copy);
    memcpy(copy, state.w, n * sizeof *copy);
    for (int i = 0; i < self->rule.n_slots; i++)
        memcpy(copy + (size_t)(1 + i) * n, state.slot[i], n * sizeof *copy);
    return copy;
}

static void free_file(sim_file_t *file)
{
    for (uint32_t p = 0; file && p < file->n_parts; p++)
        free(file->part[p]);
    if (file) {
        free((void *)(uintptr_t)file->point.applied);
        free(file->part);
        free(file->state);
    }
    free(file);
}

static void begin_file(sim_t *self, uint32_t s, uint64_t clock)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    sim_file_t *file = calloc(1, sizeof *file);
    const psd_engine_point_t *point = psd_engine_point(engine);
    psd_member_t *applied = calloc(point->n_applied + 1, sizeof *applied);
    memcpy(applied, point->applied, point->n_applied * sizeof *applied);
    file->clock = clock;
    file->shard = s;
    file->n_parts = psd_shard_parts(shard_of(self, s));
    file->part = calloc(file->n_parts + 1, sizeof *file->part);
    file->state = calloc(file->n_parts + 1, sizeof *file->state);
    file->point = *point;
    file->point.applied = applied;
    free_file(self->server[s].writing);
    self->server[s].writing = file;
    if (file->point.clock != clock)
        broken(self, "shard %u saves clock %" PRIu64 " under the name of %" PRIu64, s, file->point.clock, clock);
}

/* The writer is done with a chunk: it must be what it was when the writer got it. */
static void keep_part(sim_t *self, const event_t *e)
{
    sim_file_t *file = self->server[e->target].writing;
    float *now = copy_chunk(self, e->target, e->part);
    size_t n = (size_t)(1 + self->rule.n_slots) * psd_shard_elements(shard_of(self, e->target), e->part);
    if (memcmp(now, e->copy, n * sizeof *now))
        broken(self, "shard %u chunk %u changed while the checkpoint of clock %" PRIu64 " was reading it", e->target, e->part, e->clock);
    file->part[e->part] = now;
    file->state[e->part] = *psd_shard_state(shard_of(self, e->target), e->part).state;
}

static bool make_durable(sim_t *self, uint32_t s)
{
    sim_file_t *file = self->server[s].writing;
    bool ok = !chance(self, self->config.disk_chance) && self->n_files < MAX_FILES;
    self->server[s].writing = NULL;
    file->durable = ok;
    if (ok)
        self->file[self->n_files++] = file;
    else
        free_file(file);
    return ok;
}

static bool write_manifest(sim_t *self, uint64_t clock)
{
    bool ok = !chance(self, self->config.disk_chance) && self->n_manifests < MAX_FILES;
    if (ok)
        self->manifest[self->n_manifests++] = clock;
    self->result->saves += ok;
    return ok;
}

static const sim_file_t *find_file(const sim_t *self, uint64_t clock, uint32_t s)
{
    for (size_t i = self->n_files; i-- > 0;)
        if (self->file[i]->clock == clock && self->file[i]->shard == s)
            return self->file[i];
    return NULL;
}

static void restore(sim_t *self, uint32_t s, uint64_t clock, psd_actions_t *out)
{
    const sim_file_t *file = find_file(self, clock, s);
    psd_engine_t *engine = psd_node_engine(self->server[s].node);
    if (!file || psd_engine_restore(engine, &self->list, NULL) != PSD_OK) {
        broken(self, "shard %u has no file of clock %" PRIu64 ", which has a manifest", s, clock);
        return;
    }
    psd_shard_t *shard = psd_engine_restoring(engine);
    for (uint32_t p = 0; p < file->n_parts; p++) {
        psd_shard_state_t to = psd_shard_state(shard, p);
        size_t n = psd_shard_elements(shard, p);
        memcpy(to.w, file->part[p], n * sizeof *to.w);
        for (int i = 0; i < self->rule.n_slots; i++)
            memcpy(to.slot[i], file->part[p] + (size_t)(1 + i) * n, n * sizeof *to.w);
        *to.state = file->state[p];
        psd_shard_filled(shard, p);
    }
    psd_node_restored(self->server[s].node, self->now_ms, true, &file->point, out);
}

static void run_server_action(sim_t *self, uint32_t s, const psd_action_t *a)
{
    switch (a->act) {
    case PSD_ACT_WORK: start_work(self, s, a->work); break;
    case PSD_ACT_FINISH: self->server[s].finished = true; break;
    case PSD_ACT_SAVE_BEGIN:
        begin_file(self, s, a->clock);
        later(self, FILE_BEGUN, s, a, NULL);
        break;
    case PSD_ACT_SAVE_PART: later(self, PART_SAVED, s, a, copy_chunk(self, s, a->part)); break;
    case PSD_ACT_SAVE_END: later(self, FILE_SAVED, s, a, NULL); break;
    case PSD_ACT_COMMIT: later(self, COMMITTED, s, a, NULL); break;
    case PSD_ACT_RESTORE: later(self, RESTORED, s, a, NULL); break;
    case PSD_ACT_LOG:
        if (getenv("PSD_SIM_DEBUG"))
            fprintf(stderr, "%8" PRIu64 " server %u %s %s\n", self->now_ms, s, a->id, a->msg.text);
        break;
    case PSD_ACT_SEND:
        if (a->to == PSD_PEER_COORDINATOR)
            post(self, TO_SERVER, 0, 0, server_peer(self, s), a);
        else if (a->to & 1)
            post(self, TO_SERVER, (uint32_t)(a->to >> 1 & 0x7fff), a->to >> 16 & 0xffffffff, PSD_PEER_COORDINATOR, a);
        else
            post(self, TO_WORKER, (uint32_t)(a->to >> 1 & 0x7fff), a->to >> 16 & 0xffffffff, PSD_PEER_SERVER + s, a);
        break;
    }
}

static void run_server_actions(sim_t *self, uint32_t s, psd_actions_t *out)
{
    for (size_t i = 0; i < out->n; i++)
        run_server_action(self, s, &out->at[i]);
    psd_actions_clear(out);
}

/* A server dies: its memory is gone, and with it the file that it was writing. Threads are let run out first, because
 * they cannot be killed here. */
static void crash_server(sim_t *self, uint32_t s)
{
    for (size_t i = 0; i < self->n; i++) {
        event_t *e = &self->heap[i];
        if (e->target != s || e->kind == TO_SERVER || e->kind == TO_WORKER || e->kind == TICK_WORKER || e->kind == START_WORKER)
            continue;
        if (e->kind == WORK_DONE)
            finish_work(self, e);
        free(e->copy);
        e->copy = NULL;
        e->kind = NOTHING;
    }
    self->result->crashes++;
    psd_node_destroy(&self->server[s].node);
    free_file(self->server[s].writing);
    self->server[s].writing = NULL;
    schedule(self, (event_t){ .at_ms = self->now_ms + 100 + psd_splitmix64(&self->random) % 900, .kind = START_SERVER, .target = s });
}

static void stop_worker(sim_t *self, uint32_t w)
{
    psd_session_destroy(&self->worker[w].session);
}

static bool dies_now(sim_t *self, uint32_t w)
{
    bool picked = self->config.kill_worker == (int)w && !self->result->kills && self->worker[w].sent == self->config.kill_at;
    if (!picked && (self->result->kills >= MOST_KILLS || !chance(self, self->config.kill_chance)))
        return false;
    self->result->kills++;
    stop_worker(self, w);
    if (!picked || self->config.revive)
        schedule(self, (event_t){ .at_ms = self->now_ms + 200 + psd_splitmix64(&self->random) % 4000,
                                  .kind = START_WORKER, .target = w });
    return true;
}

static void run_worker_actions(sim_t *self, uint32_t w, psd_actions_t *out)
{
    for (size_t i = 0; i < out->n; i++) {
        const psd_action_t *a = &out->at[i];
        if (a->act != PSD_ACT_SEND)
            continue;
        if (dies_now(self, w))
            break;
        self->worker[w].sent++;
        self->result->messages[w]++;
        post(self, TO_SERVER, (uint32_t)(a->to - PSD_PEER_SERVER), 0, worker_peer(w, self->worker[w].life), a);
    }
    psd_actions_clear(out);
}

/* ---- the workers' program: a gradient that depends on the weights, the clock and the slice ---- */

static void make_gradient(const sim_t *self, const float *w, float *g, size_t n, uint32_t tensor, uint64_t clock,
                          uint32_t rank, uint32_t world)
{
    uint64_t key = data_seed(self) * 31 + clock * 1000003 + rank * 8191 + world * 131 + tensor;
    for (size_t i = 0; i < n; i++)
        g[i] = 0.05f * w[i] + (float)(psd_uniform(&key) - 0.5);
}

static uint64_t slice(uint32_t rank, uint32_t world) { return BATCH * (rank + 1) / world - BATCH * rank / world; }

static push_t *remember_push(sim_t *self)
{
    if (self->n_push == self->push_capacity) {
        self->push_capacity = self->push_capacity ? 2 * self->push_capacity : 256;
        self->push = realloc(self->push, self->push_capacity * sizeof *self->push);
    }
    return &self->push[self->n_push++];
}

static size_t model_size(const sim_t *self)
{
    size_t n = 0;
    for (uint32_t t = 0; t < self->list.n; t++)
        n += self->list.tensor[t].n_elements;
    return n;
}

static void begin_exchange(sim_t *self, uint32_t w, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[w];
    psd_session_position_t at = psd_session_position(me->session);
    push_t *push = remember_push(self);
    *push = (push_t){ .worker = at.worker, .rank = at.rank, .world = at.world, .incarnation = at.incarnation,
                      .clock = at.clock, .samples = slice(at.rank, at.world) };
    for (uint32_t t = 0; t < self->list.n; t++)
        make_gradient(self, me->w[t], me->g[t], self->list.tensor[t].n_elements, t, at.clock, at.rank, at.world);
    if (at.rank == 0 && self->config.nonfinite_clock == at.clock)
        me->g[0][0] = NAN;
    if (self->mode->per_push) {
        float *to = push->gradient = malloc(model_size(self) * sizeof *push->gradient);
        for (uint32_t t = 0; t < self->list.n; to += self->list.tensor[t++].n_elements)
            memcpy(to, me->g[t], self->list.tensor[t].n_elements * sizeof *to);
    }
    psd_err_t err;
    if (psd_session_exchange(me->session, self->now_ms, (const float *const *)me->g, push->samples, 1.0, &err) != PSD_OK)
        broken(self, "worker %u: %s", w, err.text);
    while (psd_session_pump(me->session, out))
        ;
}

static void initial_weights(const sim_t *self, float **w)
{
    uint64_t stream = data_seed(self);
    for (uint32_t t = 0; t < self->list.n; t++)
        for (size_t i = 0; i < self->list.tensor[t].n_elements; i++)
            w[t][i] = (float)(psd_uniform(&stream) - 0.5);
}

/* Go on as far as the session's phase lets the program go. */
static void advance_worker(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    psd_actions_t out = { 0 };
    psd_phase_t phase = me->session ? psd_session_phase(me->session) : PSD_PHASE_LEFT;
    if (phase == PSD_PHASE_READY && psd_session_position(me->session).clock > self->config.rounds)
        self->result->with_last_weights |= UINT32_C(1) << w;
    if (phase == PSD_PHASE_JOINED && !me->registered) {
        me->registered = true;
        initial_weights(self, me->w);
        psd_session_register(me->session, self->now_ms, &self->list, me->w, &out, NULL);
    } else if (phase == PSD_PHASE_READY && psd_session_position(me->session).clock <= self->config.rounds) {
        begin_exchange(self, w, &out);
    } else if (phase == PSD_PHASE_READY && self->rule.lookahead && !me->pulled) {
        me->pulled = true;
        psd_session_pull_slow(me->session, self->now_ms, me->slow, &out, NULL);
    } else if (phase == PSD_PHASE_READY) {
        psd_session_leave(me->session, self->now_ms, true, &out);
    } else if (phase == PSD_PHASE_FAILED) {
        /* Given up by a false alarm: a supervisor would start it again. */
        const psd_err_t *why = psd_session_error(me->session);
        if (why->code != PSD_EFENCED && !strstr(why->text, "is finished"))
            broken(self, "worker %u failed: %s", w, why->text);
        stop_worker(self, w);
        schedule(self, (event_t){ .at_ms = self->now_ms + 100, .kind = START_WORKER, .target = w });
    } else if (phase == PSD_PHASE_LEFT && me->session) {
        me->done = true;
        stop_worker(self, w);
    }
    run_worker_actions(self, w, &out);
}

static void start_worker(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    if (me->done || me->session)
        return;
    me->life++;
    me->registered = me->pulled = false;
    psd_session_config_t config = { .job = "sim", .name = "worker", .nonce = me->life << 32 | (uint64_t)(w + 1) << 16 };
    me->session = psd_session_new(&config);
    schedule(self, (event_t){ .at_ms = self->now_ms, .kind = TICK_WORKER, .target = w, .life = me->life });
}

/* ---- events ---- */

static void watch_rounds(sim_t *self)
{
    if (!self->server[0].node)
        return;
    uint64_t steps = psd_engine_stats(psd_node_engine(self->server[0].node))->rounds;
    if (steps == self->last_clock)
        return;
    if (self->last_clock && self->now_ms - self->last_round_ms > self->result->longest_gap_ms)
        self->result->longest_gap_ms = self->now_ms - self->last_round_ms;
    self->last_clock = steps;
    self->last_round_ms = self->now_ms;
}

static void build_server(sim_t *self, uint32_t s);

/* Servers that have ended are not started again, so from then on none is killed: the last weights are safe by then. */
static bool any_finished(const sim_t *self)
{
    psd_coordinator_facts_t facts = { 0 };
    if (self->server[0].node)
        psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (self->server[s].finished)
            return true;
    return facts.state == PSD_JOB_FINISHED;
}

static void on_server_event(sim_t *self, event_t *e)
{
    psd_actions_t out = { 0 };
    sim_server_t *server = &self->server[e->target];
    bool ok;
    switch (e->kind) {
    case TO_SERVER:
        self->result->total_messages++;
        if (self->result->crashes < MOST_CRASHES && !any_finished(self) && chance(self, self->config.crash_chance)) {
            crash_server(self, e->target);
            return;
        }
        psd_node_message(server->node, self->now_ms, e->from, e->msg, e->payload, &out);
        break;
    case WORK_DONE:
        finish_work(self, e);
        psd_node_worked(server->node, self->now_ms, e->work, &out);
        break;
    case PART_SAVED:
        keep_part(self, e);
        psd_node_part_saved(server->node, self->now_ms, e->part, &out);
        break;
    case FILE_BEGUN: psd_node_save_begun(server->node, self->now_ms, &out); break;
    case FILE_SAVED:
        ok = make_durable(self, e->target);
        psd_node_saved(server->node, self->now_ms, ok, &out);
        break;
    case COMMITTED:
        ok = write_manifest(self, e->clock);
        psd_node_committed(server->node, self->now_ms, e->clock, ok, &out);
        break;
    case RESTORED: restore(self, e->target, e->clock, &out); break;
    case TICK_SERVER:
        psd_node_tick(server->node, self->now_ms, &out);
        schedule(self, (event_t){ .at_ms = self->now_ms + TICK_MS, .kind = TICK_SERVER, .target = e->target, .life = e->life });
        break;
    default: break;
    }
    run_server_actions(self, e->target, &out);
    if (server->node)
        watch_rounds(self);
}

static void on_worker_event(sim_t *self, const event_t *e)
{
    psd_actions_t out = { 0 };
    if (e->kind == TO_WORKER) {
        psd_session_message(self->worker[e->target].session, self->now_ms, e->from, e->msg, e->payload, &out);
    } else {
        psd_session_tick(self->worker[e->target].session, self->now_ms, &out);
        schedule(self, (event_t){ .at_ms = self->now_ms + TICK_MS, .kind = TICK_WORKER, .target = e->target, .life = e->life });
    }
    run_worker_actions(self, e->target, &out);
    advance_worker(self, e->target);
}

static void on_event(sim_t *self, event_t *e)
{
    if (e->kind == START_WORKER) {
        start_worker(self, e->target);
    } else if (e->kind == START_SERVER) {
        build_server(self, e->target);
    } else if (e->kind == TO_WORKER || e->kind == TICK_WORKER) {
        if (self->worker[e->target].session && self->worker[e->target].life == e->life)
            on_worker_event(self, e);
    } else if (e->kind != NOTHING) {
        const sim_server_t *server = &self->server[e->target];
        bool finished = server->finished && (e->kind == TO_SERVER || e->kind == TICK_SERVER);
        if (server->node && !finished && (e->life == server->life || (e->kind == TO_SERVER && !e->life)))
            on_server_event(self, e);
    }
    free(e->msg);
    free(e->copy);
    psd_buf_unref(&e->payload);
}

/* ---- building and checking ---- */

static void note_applied(void *arg, uint32_t shard, uint64_t clock, uint32_t worker, uint64_t incarnation)
{
    (void)shard;
    sim_server_t *server = arg;
    if (server->n_ledger == server->ledger_capacity) {
        server->ledger_capacity = server->ledger_capacity ? 2 * server->ledger_capacity : 256;
        server->ledger = realloc(server->ledger, server->ledger_capacity * sizeof *server->ledger);
    }
    server->ledger[server->n_ledger++] = (applied_t){ .clock = clock, .worker = worker, .incarnation = incarnation };
}

static void build_model(sim_t *self)
{
    uint64_t stream = data_seed(self) ^ 0x5eed;
    self->list.n = self->config.tensors ? self->config.tensors : 3;
    self->list.tensor = calloc(self->list.n, sizeof *self->list.tensor);
    for (uint32_t t = 0; t < self->list.n; t++) {
        psd_tensor_desc_t *d = &self->list.tensor[t];
        snprintf(d->name, sizeof d->name, "t%u", t);
        d->n_dims = 1;
        d->dim[0] = d->n_elements = 1 + psd_splitmix64(&stream) % 3000;
    }
    for (uint32_t w = 0; w < self->config.workers; w++)
        for (uint32_t t = 0; t < self->list.n; t++) {
            self->worker[w].w[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
            self->worker[w].g[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
            self->worker[w].slow[t] = calloc(self->list.tensor[t].n_elements, sizeof(float));
        }
}

/* Start a server, for the first time or again: from what is on the disk. */
static void build_server(sim_t *self, uint32_t s)
{
    uint64_t points[MAX_FILES];
    for (size_t i = 0; i < self->n_manifests; i++)
        points[i] = self->manifest[self->n_manifests - 1 - i];
    sim_server_t *server = &self->server[s];
    server->life++;
    psd_engine_config_t engine = { .settings = "sim", .endpoint = "tcp://sim:1", .wanted_index = (int)s,
                                   .nonce = server->life << 32 | (uint64_t)(s + 1) << 16, .rule = self->rule, .mode = self->mode,
                                   .lr_rule = psd_lr_rule_find("none") };
    psd_coordinator_config_t coordinator = { .job = "sim", .job_id = JOB_ID + server->life * 1000, .settings = "sim",
        .n_servers = self->config.servers, .workers_min = self->config.all_must_stay ? self->config.workers : 1,
        .workers_want = self->config.workers - (self->config.late_worker_ms != 0), .lease_ms = 1000, .start_timeout_ms = 3000,
        .mode = self->mode, .lr = psd_rule_lr(&self->rule), .has_slow = self->rule.lookahead,
        .checkpoints = self->config.save_every != 0, .save_every_rounds = self->config.save_every, .points = points,
        .n_points = self->n_manifests, .model = self->n_manifests ? &self->list : NULL };
    server->node = psd_node_new(&engine, s ? NULL : &coordinator, NULL);
    psd_engine_set_ledger(psd_node_engine(server->node), note_applied, server);
    schedule(self, (event_t){ .at_ms = self->now_ms, .kind = TICK_SERVER, .target = s, .life = server->life });
}

static void build_servers(sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++)
        build_server(self, s);
    for (uint32_t w = 0; w < self->config.workers; w++) {
        bool late = self->config.late_worker_ms && w + 1 == self->config.workers;
        schedule(self, (event_t){ .at_ms = self->now_ms + (late ? self->config.late_worker_ms : delay(self)),
                                  .kind = START_WORKER, .target = w });
    }
}

static bool all_finished(const sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (!self->server[s].finished)
            return false;
    return true;
}

static const push_t *find_push(const sim_t *self, const applied_t *a)
{
    for (size_t i = self->n_push; i-- > 0;)
        if (self->push[i].worker == a->worker && self->push[i].clock == a->clock && self->push[i].incarnation == a->incarnation)
            return &self->push[i];
    return NULL;
}

/* The whole model stepped by one process along what shard `s`'s ledger says. */
typedef struct reference {
    float *w[MAX_TENSORS], *slot[MAX_TENSORS][PSD_MAX_SLOTS], *g[MAX_TENSORS][SIM_MAX_WORKERS];
    psd_rule_state_t state[MAX_TENSORS];
} reference_t;

static void reference_new(const sim_t *self, reference_t *r)
{
    memset(r, 0, sizeof *r);
    for (uint32_t t = 0; t < self->list.n; t++) {
        size_t n = self->list.tensor[t].n_elements;
        r->w[t] = calloc(n, sizeof(float));
        for (int i = 0; i < self->rule.n_slots; i++)
            r->slot[t][i] = calloc(n, sizeof(float));
        for (uint32_t k = 0; k < SIM_MAX_WORKERS; k++)
            r->g[t][k] = calloc(n, sizeof(float));
    }
    initial_weights(self, r->w);
    for (uint32_t t = 0; t < self->list.n; t++)
        psd_rule_init(&self->rule, &r->state[t], r->w[t], r->slot[t], self->list.tensor[t].n_elements);
}

static void reference_free(const sim_t *self, reference_t *r)
{
    for (uint32_t t = 0; t < self->list.n; t++) {
        free(r->w[t]);
        for (int i = 0; i < self->rule.n_slots; i++)
            free(r->slot[t][i]);
        for (uint32_t k = 0; k < SIM_MAX_WORKERS; k++)
            free(r->g[t][k]);
    }
}

/* One bsp round: `a[0..n)` are its contributors in rank order. */
static void reference_round(sim_t *self, reference_t *r, const applied_t *a, size_t n)
{
    const push_t *push[SIM_MAX_WORKERS];
    double weight[SIM_MAX_WORKERS];
    uint64_t total = 0;
    for (size_t k = 0; k < n; k++) {
        if (!(push[k] = find_push(self, &a[k]))) {
            broken(self, "clock %" PRIu64 " applied a push of worker %" PRIu64 " that nobody made", a[k].clock, a[k].worker);
            return;
        }
        total += push[k]->samples;
    }
    for (uint32_t t = 0; t < self->list.n; t++) {
        size_t size = self->list.tensor[t].n_elements;
        for (size_t k = 0; k < n; k++) {
            weight[k] = (double)push[k]->samples / (double)total;
            make_gradient(self, r->w[t], r->g[t][k], size, t, push[k]->clock, push[k]->rank, push[k]->world);
        }
        psd_step_reference(&self->rule, &r->state[t], r->w[t], r->slot[t], size, (const float *const *)r->g[t], weight, n,
                           psd_rule_lr(&self->rule));
    }
}

static bool same_bits(const float *a, const float *b, size_t n) { return !memcmp(a, b, n * sizeof *a); }

/* Compare one shard's chunks with the reference. */
static void check_shard(sim_t *self, const reference_t *r, uint32_t s)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    const psd_partition_t *map = psd_engine_map(engine);
    for (uint32_t p = 0; psd_engine_shard(engine) && p < map->n_parts[s]; p++) {
        const psd_chunk_t *c = &map->chunk[map->part[s][p]];
        psd_buf_t *slow = psd_shard_slow(psd_engine_shard(engine), p);
        const float *expected_slow = self->rule.lookahead ? r->slot[c->tensor][self->rule.slow_slot] : r->w[c->tensor];
        if (!same_bits(psd_shard_weights(psd_engine_shard(engine), p)->data, r->w[c->tensor] + c->offset, c->n))
            broken(self, "shard %u chunk %u differs from the single-process weights of tensor %u", s, p, c->tensor);
        if (!same_bits(slow->data, expected_slow + c->offset, c->n))
            broken(self, "shard %u chunk %u differs from the single-process slow weights of tensor %u", s, p, c->tensor);
        psd_buf_unref(&slow);
    }
}

static uint64_t hash_model(const sim_t *self, float *const *w)
{
    uint64_t hash = 14695981039346656037u;
    for (uint32_t t = 0; t < self->list.n; t++)
        for (size_t i = 0; i < self->list.tensor[t].n_elements * sizeof(float); i++)
            hash = (hash ^ ((const uint8_t *)w[t])[i]) * 1099511628211u;
    return hash;
}

/* The weights that the shards hold, as one model. A server that was started again after the end holds none: its last
 * file has them. */
static void hash_shards(sim_t *self)
{
    reference_t r;
    const psd_partition_t *map = NULL;
    reference_new(self, &r);
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (psd_engine_shard(psd_node_engine(self->server[s].node)))
            map = psd_engine_map(psd_node_engine(self->server[s].node));
    for (uint32_t s = 0; map && s < self->config.servers; s++) {
        const psd_shard_t *shard = psd_engine_shard(psd_node_engine(self->server[s].node));
        const sim_file_t *file = shard ? NULL : find_file(self, self->manifest[self->n_manifests - 1], s);
        for (uint32_t p = 0; p < map->n_parts[s]; p++) {
            const psd_chunk_t *c = &map->chunk[map->part[s][p]];
            memcpy(r.w[c->tensor] + c->offset, file ? file->part[p] : psd_shard_weights(shard, p)->data, c->n * sizeof(float));
        }
    }
    self->result->weights_hash = hash_model(self, r.w);
    reference_free(self, &r);
}

static void check_bsp(sim_t *self)
{
    const sim_server_t *first = &self->server[0];
    for (uint32_t s = 1; s < self->config.servers; s++)
        if (self->server[s].n_ledger != first->n_ledger ||
            memcmp(self->server[s].ledger, first->ledger, first->n_ledger * sizeof *first->ledger))
            broken(self, "shards 0 and %u applied different contributors (%zu and %zu pushes)", s, first->n_ledger,
                   self->server[s].n_ledger);
    reference_t r;
    reference_new(self, &r);
    for (size_t i = 0, n; i < first->n_ledger; i += n) {
        for (n = 1; i + n < first->n_ledger && first->ledger[i + n].clock == first->ledger[i].clock; n++)
            if (first->ledger[i + n].worker <= first->ledger[i + n - 1].worker)
                broken(self, "clock %" PRIu64 ": contributors are not in rank order", first->ledger[i].clock);
        if (i && first->ledger[i].clock <= first->ledger[i - 1].clock)
            broken(self, "clock %" PRIu64 " was closed twice", first->ledger[i].clock);
        reference_round(self, &r, &first->ledger[i], n);
        self->result->steps++;
    }
    for (uint32_t s = 0; s < self->config.servers; s++)
        check_shard(self, &r, s);
    self->result->weights_hash = hash_model(self, r.w);
    if (self->rule.lookahead) {
        float *slow[MAX_TENSORS];
        for (uint32_t t = 0; t < self->list.n; t++)
            slow[t] = r.slot[t][self->rule.slow_slot];
        self->result->slow_hash = hash_model(self, slow);
    }
    reference_free(self, &r);
}

/* Each worker life's clocks rise by one wherever they are applied; a shard may lack the last ones of a dead one. */
static void check_order(sim_t *self, uint32_t s)
{
    const sim_server_t *server = &self->server[s];
    for (size_t i = 0; i < server->n_ledger; i++)
        for (size_t j = i + 1; j < server->n_ledger; j++)
            if (server->ledger[j].worker == server->ledger[i].worker && server->ledger[j].incarnation == server->ledger[i].incarnation &&
                server->ledger[j].clock <= server->ledger[i].clock)
                broken(self, "shard %u applied clock %" PRIu64 " of worker %" PRIu64 " after %" PRIu64, s, server->ledger[j].clock,
                       server->ledger[j].worker, server->ledger[i].clock);
}

/* asp: replay each shard's own order of pushes; a shard's weights must be what one process makes of that order. */
static void check_asp(sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++) {
        const sim_server_t *server = &self->server[s];
        reference_t r;
        check_order(self, s);
        reference_new(self, &r);
        for (size_t i = 0; i < server->n_ledger; i++) {
            const push_t *push = find_push(self, &server->ledger[i]);
            if (!push) {
                broken(self, "shard %u applied a push that nobody made", s);
                break;
            }
            const float *g = push->gradient;
            for (uint32_t t = 0; t < self->list.n; g += self->list.tensor[t++].n_elements)
                psd_step_reference(&self->rule, &r.state[t], r.w[t], r.slot[t], self->list.tensor[t].n_elements, &g,
                                   (double[]){ 1 }, 1, psd_rule_lr(&self->rule));
        }
        check_shard(self, &r, s);
        self->result->steps = server->n_ledger;
        reference_free(self, &r);
    }
}

static void release(sim_t *self)
{
    while (self->n) {
        event_t e = next_event(self);
        if (e.kind == WORK_DONE)
            finish_work(self, &e);
        free(e.msg);
        free(e.copy);
        psd_buf_unref(&e.payload);
    }
    for (uint32_t s = 0; s < self->config.servers; s++) {
        psd_node_destroy(&self->server[s].node);
        free(self->server[s].ledger);
        free_file(self->server[s].writing);
    }
    for (size_t i = 0; i < self->n_files; i++)
        free_file(self->file[i]);
    for (uint32_t w = 0; w < self->config.workers; w++) {
        psd_session_destroy(&self->worker[w].session);
        for (uint32_t t = 0; t < self->list.n; t++) {
            free(self->worker[w].w[t]);
            free(self->worker[w].g[t]);
            free(self->worker[w].slow[t]);
        }
    }
    for (size_t i = 0; i < self->n_push; i++)
        free(self->push[i].gradient);
    free(self->push);
    free(self->heap);
    psd_tensors_clear(&self->list);
    free(self);
}

static void say_who_waits(sim_t *self)
{
    psd_coordinator_facts_t facts = { 0 };
    char text[256] = "";
    if (self->server[0].node)
        psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    for (uint32_t w = 0; w < self->config.workers && !text[0]; w++)
        if (self->worker[w].session)
            psd_session_describe_wait(self->worker[w].session, text, sizeof text);
    for (uint32_t w = 0; getenv("PSD_SIM_DEBUG") && w < self->config.workers; w++) {
        char t[256] = "";
        if (self->worker[w].session)
            psd_session_describe_wait(self->worker[w].session, t, sizeof t);
        fprintf(stderr, "worker %u: %s phase %d id %u clock %lu: %s\n", w, self->worker[w].session ? "alive" : "dead",
                self->worker[w].session ? (int)psd_session_phase(self->worker[w].session) : -1,
                self->worker[w].session ? psd_session_position(self->worker[w].session).worker : 99,
                self->worker[w].session ? psd_session_position(self->worker[w].session).clock : 0, t);
    }
    broken(self, "no end after %d simulated ms; coordinator waits for %.150s; a worker waits for %.200s", LIMIT_MS,
           facts.waiting_for, text);
}

void sim_run(const sim_config_t *config, sim_result_t *result)
{
    sim_t *self = calloc(1, sizeof *self);
    *result = (sim_result_t){ .ok = true };
    self->config = *config;
    self->result = result;
    self->random = config->seed ^ 0xfa0175;
    self->now_ms = START_MS;
    self->mode = psd_mode_find(config->mode);
    if (!self->mode || psd_rule_parse(&self->rule, config->rule, NULL) != PSD_OK) {
        broken(self, "no such mode or rule: %s, %s", config->mode, config->rule);
        free(self);
        return;
    }
    build_model(self);
    build_servers(self);
    while (result->ok && self->n && !all_finished(self)) {
        event_t e = next_event(self);
        self->now_ms = e.at_ms;
        on_event(self, &e);
        if (self->now_ms > LIMIT_MS)
            say_who_waits(self);
    }
    result->ended_ms = self->now_ms;
    if (self->server[0].node) {
        psd_coordinator_facts_t facts;
        psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
        result->skipped = facts.skipped;
    }
    if (result->ok && self->config.all_must_stay)
        hash_shards(self);
    else if (result->ok && self->mode->per_push)
        check_asp(self);
    else if (result->ok)
        check_bsp(self);
    release(self);
}

void sim_run_and_compare(const sim_config_t *config, sim_result_t *result)
{
    sim_run(config, result);
    if (!result->ok || !config->all_must_stay)
        return;
    sim_config_t calm = *config;
    sim_result_t expected;
    calm.drop = calm.duplicate = calm.kill_chance = calm.crash_chance = calm.disk_chance = 0;
    calm.kill_worker = -1;
    calm.save_every = 0;
    calm.all_must_stay = false; /* nobody goes, and the run is compared with a single process */
    calm.data_seed = config->data_seed ? config->data_seed : config->seed;
    sim_run(&calm, &expected);
    result->steps = expected.steps;
    if (expected.ok && expected.weights_hash == result->weights_hash)
        return;
    result->ok = false;
    snprintf(result->why, sizeof result->why, "after %" PRIu64 " kills and %" PRIu64 " crashes the weights differ from the undisturbed run's%s%.200s",
             result->kills, result->crashes, expected.ok ? "" : ", which failed: ", expected.ok ? "" : expected.why);
}
