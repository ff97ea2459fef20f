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

enum { TICK_MS = 50, LIMIT_MS = 600000, MAX_TENSORS = 8, BATCH = 50, JOB_ID = 77, START_MS = 1000 };

typedef enum kind { TO_SERVER, TO_WORKER, WORK_DONE, TICK_SERVER, TICK_WORKER, START_WORKER } kind_t;

typedef struct event {
    uint64_t at_ms, order;    /* order: ties are kept in the order they were made */
    kind_t kind;
    uint32_t target;          /* server or worker */
    uint64_t life;            /* TO_WORKER, TICK_WORKER: of this life of the worker only */
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

typedef struct sim_server {
    psd_node_t *node;
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

/* ---- the queue of events: a binary heap by (time, order) ------------------------------------------------------ */

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

/* ---- the network ------------------------------------------------------------------------------------------------ */

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
static psd_peer_t server_peer(uint32_t s) { return ROUTER_BIT | s << 1 | 1; }

static void run_work(void *work) { psd_work_run(work); }

/* Work is done some time later; until then it runs, or has not begun: either must make no difference. */
static void start_work(sim_t *self, uint32_t s, psd_work_t *work)
{
    event_t done = { .at_ms = self->now_ms + delay(self) / 4, .kind = WORK_DONE, .target = s, .work = work };
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

static void run_server_actions(sim_t *self, uint32_t s, psd_actions_t *out)
{
    for (size_t i = 0; i < out->n; i++) {
        const psd_action_t *a = &out->at[i];
        if (a->act == PSD_ACT_WORK)
            start_work(self, s, a->work);
        else if (a->act == PSD_ACT_FINISH)
            self->server[s].finished = true;
        else if (a->act == PSD_ACT_SEND && a->to == PSD_PEER_COORDINATOR)
            post(self, TO_SERVER, 0, 0, server_peer(s), a);
        else if (a->act == PSD_ACT_SEND && (a->to & 1))
            post(self, TO_SERVER, (uint32_t)(a->to >> 1 & 0x7fff), 0, PSD_PEER_COORDINATOR, a);
        else if (a->act == PSD_ACT_SEND)
            post(self, TO_WORKER, (uint32_t)(a->to >> 1 & 0x7fff), a->to >> 16 & 0xffffffff, PSD_PEER_SERVER + s, a);
    }
    psd_actions_clear(out);
}

static void stop_worker(sim_t *self, uint32_t w)
{
    psd_session_destroy(&self->worker[w].session);
}

static bool dies_now(sim_t *self, uint32_t w)
{
    bool picked = self->config.kill_worker == (int)w && !self->result->kills && self->worker[w].sent == self->config.kill_at;
    if (!picked && !chance(self, self->config.kill_chance))
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

/* ---- the workers' program: a gradient that depends on the weights, the clock and the slice ----------------------- */

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
    if (w == 0 && self->config.nonfinite_clock == at.clock)
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
    psd_session_config_t config = { .job = "sim", .name = "worker", .nonce = me->life << 16 | (w + 1) };
    me->session = psd_session_new(&config);
    schedule(self, (event_t){ .at_ms = self->now_ms, .kind = TICK_WORKER, .target = w, .life = me->life });
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void watch_rounds(sim_t *self)
{
    uint64_t steps = psd_engine_stats(psd_node_engine(self->server[0].node))->rounds;
    if (steps == self->last_clock)
        return;
    if (self->last_clock && self->now_ms - self->last_round_ms > self->result->longest_gap_ms)
        self->result->longest_gap_ms = self->now_ms - self->last_round_ms;
    self->last_clock = steps;
    self->last_round_ms = self->now_ms;
}

static void on_event(sim_t *self, event_t *e)
{
    psd_actions_t out = { 0 };
    bool server_alive = e->target < self->config.servers && !self->server[e->target].finished;
    bool worker_alive = e->target < SIM_MAX_WORKERS && self->worker[e->target].session && self->worker[e->target].life == e->life;
    switch (e->kind) {
    case TO_SERVER:
        self->result->total_messages++;
        if (server_alive)
            psd_node_message(self->server[e->target].node, self->now_ms, e->from, e->msg, e->payload, &out);
        run_server_actions(self, e->target, &out);
        break;
    case WORK_DONE:
        finish_work(self, e);
        psd_node_worked(self->server[e->target].node, self->now_ms, e->work, &out);
        run_server_actions(self, e->target, &out);
        watch_rounds(self);
        break;
    case TICK_SERVER:
        if (!server_alive)
            break;
        psd_node_tick(self->server[e->target].node, self->now_ms, &out);
        run_server_actions(self, e->target, &out);
        schedule(self, (event_t){ .at_ms = self->now_ms + TICK_MS, .kind = TICK_SERVER, .target = e->target });
        break;
    case TO_WORKER:
        if (!worker_alive)
            break;
        psd_session_message(self->worker[e->target].session, self->now_ms, e->from, e->msg, e->payload, &out);
        run_worker_actions(self, e->target, &out);
        advance_worker(self, e->target);
        break;
    case TICK_WORKER:
        if (!worker_alive)
            break;
        psd_session_tick(self->worker[e->target].session, self->now_ms, &out);
        run_worker_actions(self, e->target, &out);
        advance_worker(self, e->target);
        schedule(self, (event_t){ .at_ms = self->now_ms + TICK_MS, .kind = TICK_WORKER, .target = e->target, .life = e->life });
        break;
    case START_WORKER: start_worker(self, e->target); break;
    }
    free(e->msg);
    psd_buf_unref(&e->payload);
}

/* ---- building and checking --------------------------------------------------------------------------------------- */

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

static void build_servers(sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++) {
        psd_engine_config_t engine = { .settings = "sim", .endpoint = "tcp://sim:1", .wanted_index = (int)s, .nonce = s + 1,
                                       .rule = self->rule, .mode = self->mode, .lr_rule = psd_lr_rule_find("none") };
        psd_coordinator_config_t coordinator = { .job = "sim", .job_id = JOB_ID, .settings = "sim",
            .n_servers = self->config.servers, .workers_min = 1,
            .workers_want = self->config.workers - (self->config.late_worker_ms != 0), .lease_ms = 1000,
            .start_timeout_ms = 3000, .mode = self->mode, .lr = psd_rule_lr(&self->rule), .has_slow = self->rule.lookahead };
        self->server[s].node = psd_node_new(&engine, s ? NULL : &coordinator, NULL);
        psd_engine_set_ledger(psd_node_engine(self->server[s].node), note_applied, &self->server[s]);
        schedule(self, (event_t){ .at_ms = self->now_ms, .kind = TICK_SERVER, .target = s });
    }
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
        psd_buf_unref(&e.payload);
    }
    for (uint32_t s = 0; s < self->config.servers; s++) {
        psd_node_destroy(&self->server[s].node);
        free(self->server[s].ledger);
    }
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
    psd_coordinator_facts_t facts;
    char text[256] = "";
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
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    result->skipped = facts.skipped;
    if (result->ok && self->mode->per_push)
        check_asp(self);
    else if (result->ok)
        check_bsp(self);
    release(self);
}
