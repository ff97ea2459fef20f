/* promises.c - the invariants that must hold at every event, under all faults. */
#include "tests/sim/sim_state.h"

enum { MOST_IDLE_TICKS = 5000 / TICK_MS, MOST_APART = 1 };

/* ---- the pushes that count ---- */

static void append(ledger_t *self, applied_t a)
{
    if (self->n == self->capacity) {
        self->capacity = self->capacity ? 2 * self->capacity : 64;
        self->at = realloc(self->at, self->capacity * sizeof *self->at);
    }
    self->at[self->n++] = a;
}

void sim_copy_ledger(ledger_t *to, const ledger_t *from)
{
    to->n = 0;
    for (size_t i = 0; i < from->n; i++)
        append(to, from->at[i]);
}

/* bsp: clocks rise, contributors of one clock come by rank, and each shard does the same as the first one. */
static void look_at_round(sim_t *self, uint32_t s, const applied_t *a)
{
    sim_server_t *server = &self->server[s];
    const size_t i = server->ledger.n - server->n_before_run;
    if (server->ledger.n) {
        const applied_t *last = &server->ledger.at[server->ledger.n - 1];
        if (a->clock < last->clock || (a->clock == last->clock && a->worker <= last->worker))
            sim_broken(self, "shard %u applied worker %" PRIu64 " at clock %" PRIu64 " after worker %" PRIu64 " at %" PRIu64, s,
                       a->worker, a->clock, last->worker, last->clock);
    }
    if (self->history_run != server->run && server->run == self->n_runs) {
        self->history_run = server->run;
        self->history.n = 0;
    }
    if (self->history_run != server->run)
        return; /* it does not know the newest run yet */
    if (i == self->history.n)
        append(&self->history, *a);
    else if (i > self->history.n || memcmp(&self->history.at[i], a, sizeof *a))
        sim_broken(self, "shard %u applied worker %" PRIu64 " at clock %" PRIu64 ", another shard did not", s, a->worker, a->clock);
}

/* asp: incarnations of a worker rise, and so do the clocks of each. */
static void look_at_step(sim_t *self, uint32_t s, const applied_t *a)
{
    const sim_server_t *server = &self->server[s];
    for (size_t i = server->ledger.n; i-- > server->n_before_run;) {
        const applied_t *b = &server->ledger.at[i];
        if (b->worker != a->worker)
            continue;
        if (a->incarnation < b->incarnation || (a->incarnation == b->incarnation && a->clock <= b->clock))
            sim_broken(self, "shard %u applied clock %" PRIu64 " of worker %" PRIu64 ".%" PRIu64 " after %" PRIu64 " of .%" PRIu64,
                       s, a->clock, a->worker, a->incarnation, b->clock, b->incarnation);
        return;
    }
}

void sim_note_applied(void *arg, uint32_t shard, uint64_t clock, uint32_t worker, uint64_t incarnation)
{
    sim_t *self = arg;
    sim_server_t *server = &self->server[shard];
    applied_t a = {
        .run = psd_engine_run(psd_node_engine(server->node)), .clock = clock, .incarnation = incarnation, .worker = worker
    };
    if (incarnation <= server->fenced[worker])
        sim_broken(self, "shard %u applied clock %" PRIu64 " of worker %u.%" PRIu64 ", which it had fenced", shard, clock, worker,
                   incarnation);
    (!psd_mode_has_rounds(self->mode) ? look_at_step : look_at_round)(self, shard, &a);
    append(&server->ledger, a);
}

/* ---- zombies ---- */

/* Runs in the order in which coordinators begin them, each from 1. */
static uint32_t number_of_run(sim_t *self, uint64_t job)
{
    uint32_t run = self->n_runs;
    while (run && self->run[run] != job)
        run--;
    if (!run && self->n_runs < MAX_RUNS)
        self->run[run = ++self->n_runs] = job;
    return run;
}

void sim_look_at_answers(sim_t *self, const event_t *e, const psd_actions_t *out)
{
    uint64_t *fenced = &self->server[e->target].fenced[e->msg->worker];
    for (size_t i = 0; i < out->n; i++) {
        const psd_msg_t *msg = &out->at[i].msg;
        const bool sent = out->at[i].act == PSD_ACT_SEND;
        if (sent && msg->kind == PSD_MSG_SHARD_WELCOME && msg->job)
            number_of_run(self, msg->job);
        if (sent && msg->kind == PSD_MSG_FENCED && msg->shard_epoch && e->msg->incarnation > *fenced)
            *fenced = e->msg->incarnation;
    }
}

/* Runs and incarnations never fall. */
static void look_at_run(sim_t *self, uint32_t s)
{
    sim_server_t *server = &self->server[s];
    const uint64_t job = psd_engine_run(psd_node_engine(server->node));
    const uint32_t run = job ? number_of_run(self, job) : 0;
    if (!job || run == server->run)
        return;
    if (run < server->newest_run)
        sim_broken(self, "shard %u went back to run %u from run %u", s, run, server->newest_run);
    server->run = server->newest_run = run;
    server->ledger.n = server->n_before_run = server->version_before_run = 0;
    server->is_bare = false;
    memset(server->fenced, 0, sizeof server->fenced);
}

static void look_at_members(sim_t *self)
{
    const psd_membership_t *members = psd_coordinator_members(psd_node_coordinator(self->server[0].node));
    for (uint32_t i = 0; i < members->n_rows; i++) {
        if (members->row[i].incarnation < self->incarnation[i])
            sim_broken(self, "worker %u went back to incarnation %" PRIu64, i, members->row[i].incarnation);
        self->incarnation[i] = members->row[i].incarnation;
    }
}

/* ---- memory ---- */

typedef struct watched {
    psd_buf_t buf;
    psd_buf_t *inside;
    atomic_size_t *bytes;
} watched_t;

static void release_watched(psd_buf_t *buf)
{
    watched_t *self = buf->owner;
    atomic_fetch_sub(self->bytes, self->inside->n_bytes);
    psd_buf_unref(&self->inside);
    free(self);
}

void sim_watch_payload(sim_t *self, event_t *e)
{
    if (e->msg->kind != PSD_MSG_PUSH || !e->payload)
        return;
    watched_t *w = malloc(sizeof *w);
    *w = (watched_t){ .inside = e->payload, .bytes = &self->server[e->target].parked_bytes };
    psd_buf_init(&w->buf, e->payload->data, e->payload->n_bytes, release_watched);
    w->buf.owner = w;
    atomic_fetch_add(w->bytes, w->inside->n_bytes);
    e->payload = &w->buf;
}

/* Whether a joint gradient is still on its way from the intake of a server to its shard. */
static bool any_joint_comes(const sim_t *self, uint32_t s)
{
    for (size_t i = 0; i < self->n; i++)
        if (self->heap[i].kind == TO_SERVER && self->heap[i].target == s && self->heap[i].is_joint)
            return true;
    return false;
}

/* Each worker's open clock is parked once, also a dead worker's until its lease has run out; the step may still use earlier
 * ones. */
static void look_at_memory(sim_t *self, uint32_t s)
{
    if (!self->server[0].node)
        return;
    const uint32_t rows = psd_coordinator_members(psd_node_coordinator(self->server[0].node))->n_rows;
    const uint32_t usual = self->config.workers + SIM_SPARE_WORKERS;
    const uint64_t shard = psd_engine_elements(psd_node_engine(self->server[s].node)) * sizeof(float);
    const uint64_t most = 2 * (rows > usual ? rows : usual) * shard;
    const double parked = shard ? (double)self->server[s].parked_bytes / (double)shard : 0;
    if (psd_engine_clock(psd_node_engine(self->server[s].node)) >= 3 && parked > self->result->most_parked)
        self->result->most_parked = parked;
    if (!shard && any_joint_comes(self, s))
        return; /* it left its run before they came; then it must drop them */
    if (self->server[s].parked_bytes > most)
        sim_broken(self, "shard %u of %" PRIu64 " bytes holds %zu bytes of gradients", s, shard,
                   (size_t)self->server[s].parked_bytes);
}

/* ---- all shards ---- */

/* Whether it takes part in a run, with weights. */
static bool is_serving(const sim_t *self, uint32_t s)
{
    const sim_server_t *server = &self->server[s];
    return server->node && server->run && !server->is_bare && psd_engine_shard(psd_node_engine(server->node));
}

static void look_at_rounds(sim_t *self, uint32_t s)
{
    const uint64_t clock = psd_engine_clock(psd_node_engine(self->server[s].node));
    for (uint32_t o = 0; is_serving(self, s) && o < self->config.servers; o++) {
        const sim_server_t *other = &self->server[o];
        if (!is_serving(self, o) || other->run != self->server[s].run)
            continue;
        const uint64_t theirs = psd_engine_clock(psd_node_engine(other->node));
        if (clock > theirs + MOST_APART)
            sim_broken(self, "shard %u is at clock %" PRIu64 ", shard %u at %" PRIu64, s, clock, o, theirs);
    }
}

static void watch_rounds(sim_t *self)
{
    const uint64_t steps = psd_engine_stats(psd_node_engine(self->server[0].node))->rounds;
    if (steps == self->last_clock)
        return;
    if (self->last_clock && self->now_ms - self->last_round_ms > self->result->longest_gap_ms)
        self->result->longest_gap_ms = self->now_ms - self->last_round_ms;
    self->last_clock = steps;
    self->last_round_ms = self->now_ms;
}

void sim_look_at_server(sim_t *self, uint32_t s)
{
    look_at_run(self, s);
    look_at_memory(self, s);
    sim_note_weights(self, s);
    if (psd_mode_has_rounds(self->mode))
        look_at_rounds(self, s);
    if (s == 0)
        look_at_members(self);
    if (self->server[0].node)
        watch_rounds(self);
    if (!self->server[0].node || !psd_coordinator_is_ending(psd_node_coordinator(self->server[0].node)))
        self->ending_ms = 0;
    else if (!self->ending_ms)
        self->ending_ms = self->now_ms;
}

/* ---- waiting ---- */

/* Whether it has stood still for so long that it must report what it waits for. */
static bool stands_still(uint64_t *stirred, const uint64_t *now, size_t n, uint32_t *idle_ticks)
{
    if (memcmp(stirred, now, n * sizeof *now))
        *idle_ticks = 0;
    memcpy(stirred, now, n * sizeof *now);
    return ++*idle_ticks > MOST_IDLE_TICKS;
}

void sim_look_at_wait(sim_t *self, uint32_t s)
{
    psd_coordinator_facts_t facts;
    if (s)
        return;
    psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    const uint64_t now[4] = { facts.state, facts.clock, facts.view_id, facts.runs };
    const bool still = stands_still(self->server[0].stirred, now, 4, &self->server[0].idle_ticks);
    const bool may = facts.state == PSD_JOB_FINISHED || (!psd_mode_has_rounds(self->mode) && facts.state == PSD_JOB_TRAINING);
    if (still && !may && !facts.waiting_for[0])
        sim_broken(self, "the coordinator has stood still for %u ticks at clock %" PRIu64 " and does not report what it waits for",
                   self->server[0].idle_ticks, facts.clock);
}

void sim_look_at_worker(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    char text[256];
    const uint64_t now[2] = { psd_session_phase(me->session), psd_session_position(me->session).clock };
    psd_session_describe_wait(me->session, text, sizeof text);
    if (stands_still(me->stirred, now, 2, &me->idle_ticks) && !text[0])
        sim_broken(self, "worker %u has stood still for %u ticks in phase %" PRIu64 " and does not report what it waits for", w,
                   me->idle_ticks, now[0]);
}

void sim_say_who_waits(sim_t *self, uint64_t limit_ms)
{
    psd_coordinator_facts_t facts = { 0 };
    char text[256] = "";
    if (self->server[0].node)
        psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    for (uint32_t w = 0; w < sim_most_workers(self) && !text[0]; w++)
        if (self->worker[w].session)
            psd_session_describe_wait(self->worker[w].session, text, sizeof text);
    sim_broken(self,
               "no end %" PRIu64 " ms after the last fault; the coordinator is %s at clock %" PRIu64
               " and waits for %.150s; a worker waits for %.200s",
               limit_ms, psd_job_state_name(facts.state), facts.clock, facts.waiting_for, text);
}
