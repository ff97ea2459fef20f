/* processes.c - servers and workers as processes: each has its own clock, sleeps while it is paused, dies at any moment with all
 * its memory, and is restarted by a supervisor. This file carries out the actions of their state machines. */
#include "server/checkpoint/store.h"
#include "tests/sim/sim_state.h"

enum { LATE_MS = 15000, LATE_BY_MS = 1000, JOB_ID = 77, WORKER_AGAIN_MS = 100, SLOWEST = 750, FASTEST = 1333 };

uint32_t sim_most_workers(const sim_t *self)
{
    const uint32_t n = self->config.workers + SIM_SPARE_WORKERS;
    return n < SIM_MAX_WORKERS ? n : SIM_MAX_WORKERS;
}

/* ---- clocks ---- */

sim_clock_t *sim_clock_of(sim_t *self, uint32_t process)
{
    return process < SIM_MAX_SERVERS ? &self->server[process].clock : &self->worker[process - SIM_MAX_SERVERS].clock;
}

bool sim_is_alive(const sim_t *self, uint32_t process)
{
    return process < SIM_MAX_SERVERS ? self->server[process].node != NULL : self->worker[process - SIM_MAX_SERVERS].session != NULL;
}

uint64_t sim_local_ms(const sim_t *self, const sim_clock_t *clock)
{
    return clock->offset_ms + (self->now_ms - clock->born_ms) * clock->per_mille / 1000;
}

/* A clock begins at a random time; without faults, at the beginning of time. */
static sim_clock_t new_clock(sim_t *self)
{
    sim_clock_t clock = { .offset_ms = self->now_ms, .born_ms = self->now_ms, .per_mille = 1000 };
    if (sim_strikes(self, SIM_DRIFT)) {
        clock.per_mille = SLOWEST + sim_draw(self, FASTEST - SLOWEST);
        clock.offset_ms += sim_draw(self, 86400000);
    }
    return clock;
}

static uint64_t next_tick_ms(const sim_t *self, const sim_clock_t *clock)
{
    return self->now_ms + TICK_MS * 1000 / clock->per_mille;
}

/* ---- work ---- */

static void run_work(void *work) { psd_work_run(work); }

/* Work is completed some time later; whether it has begun before that must make no difference. */
static void start_work(sim_t *self, uint32_t s, psd_work_t *work)
{
    event_t done = {
        .at_ms = self->now_ms + sim_delay(self) / 4, .kind = WORK_DONE, .target = s, .life = self->server[s].life, .work = work
    };
    if (self->config.threads && uv_thread_create(&done.thread, run_work, work))
        sim_broken(self, "no thread could be started");
    sim_schedule(self, done);
}

void sim_finish_work(const sim_t *self, event_t *e)
{
    if (self->config.threads)
        uv_thread_join(&e->thread);
    else
        psd_work_run(e->work);
}

/* ---- servers ---- */

static void finish(sim_t *self, uint32_t s, const psd_action_t *a)
{
    self->server[s].finished = true;
    if (!s)
        sim_schedule(self, (event_t){ .at_ms = self->now_ms + LATE_MS, .kind = STOP_SERVERS });
    if (a->level != PSD_OK)
        sim_broken(self, "server %u gave up: %.300s", s, a->msg.text);
}

static void write_log(const sim_t *self, uint32_t s, const psd_action_t *a)
{
    if (getenv("PSD_SIM_DEBUG"))
        fprintf(stderr, "%8" PRIu64 " server %u %s %s\n", self->now_ms, s, a->id, a->msg.text);
}

static void run_server_action(sim_t *self, uint32_t s, const psd_action_t *a)
{
    switch (a->act) {
    case PSD_ACT_WORK:
        start_work(self, s, a->work);
        break;
    case PSD_ACT_FINISH:
        finish(self, s, a);
        break;
    case PSD_ACT_LOG:
        write_log(self, s, a);
        break;
    case PSD_ACT_SEND:
        sim_send(self, s, a);
        break;
    default:
        sim_save(self, s, a);
        break;
    }
}

/* Handed-out work belongs to the shard, and is freed with it; it only must not count as running. */
static void run_server_actions(sim_t *self, uint32_t s, psd_actions_t *out)
{
    const bool dies = sim_strikes(self, SIM_DIE_ACTING);
    const size_t n = dies ? sim_draw(self, out->n + 1) : out->n;
    for (size_t i = 0; i < n; i++)
        run_server_action(self, s, &out->at[i]);
    for (size_t i = n; i < out->n; i++)
        if (out->at[i].act == PSD_ACT_WORK)
            psd_work_run(out->at[i].work);
    psd_actions_clear(out);
    if (dies && !self->server[s].finished)
        sim_crash_server(self, s, 100 + sim_draw(self, 900));
}

/* Server 0 has finished, but others have not learned of it: their supervisor stops them, as psdctl run does. */
static void stop_servers(sim_t *self)
{
    for (uint32_t s = 0; s < self->config.servers; s++)
        self->server[s].finished = true;
}

/* A lost server may take the last rounds with it: the supervisor restarts processes that had finished. */
static void call_back_finished(sim_t *self)
{
    for (uint32_t w = 0; w < sim_most_workers(self); w++)
        if (self->worker[w].done) {
            self->worker[w].done = false;
            sim_schedule(self, (event_t){ .at_ms = self->now_ms + WORKER_AGAIN_MS, .kind = START_WORKER, .target = w });
        }
}

/* Its memory is lost, and with it the file that it was writing. Threads must end first, because they cannot be killed here. */
void sim_crash_server(sim_t *self, uint32_t s, uint64_t again_after_ms)
{
    for (size_t i = 0; i < self->n; i++) {
        event_t *e = &self->heap[i];
        const bool its_own = (e->kind >= WORK_DONE && e->kind <= TICK_SERVER) || e->kind == START_SERVER;
        if (e->target != s || !its_own)
            continue;
        if (e->kind == WORK_DONE)
            sim_finish_work(self, e);
        sim_die_writing(self, e);
        e->kind = NOTHING;
    }
    psd_node_destroy(&self->server[s].node);
    sim_lose_held(self, s);
    sim_lose_writer(self, s);
    call_back_finished(self);
    sim_schedule(self, (event_t){ .at_ms = self->now_ms + again_after_ms, .kind = START_SERVER, .target = s });
}

/* Start or restart a server, from the state of the disk. */
void sim_build_server(sim_t *self, uint32_t s)
{
    sim_server_t *server = &self->server[s];
    psd_store_points_t points = { 0 };
    psd_err_t err;
    if (!s && self->dir[0] && psd_store_find(self->dir, "sim", "sim", &points, &err) != PSD_OK) {
        sim_broken(self, "server 0 cannot start: %s", err.text);
        return;
    }
    uint64_t newest;
    if (!s && psd_ckpt_manifests(self->dir, &newest, 1) && points.n && points.clock[0] != newest)
        self->result->fallbacks++;
    server->life++;
    server->clock = new_clock(self);
    server->ledger.n = server->n_before_run = 0;
    server->run = 0;
    server->idle_ticks = 0;
    psd_engine_config_t engine = { .job = "sim",
                                   .settings = "sim",
                                   .print_rule = psd_rule_print,
                                   .endpoint = "tcp://sim:1",
                                   .wanted_index = (int)s,
                                   .nonce = server->life << 32 | (uint64_t)(s + 1) << 16,
                                   .groups = self->groups,
                                   .schedule = self->schedule,
                                   .reduce = self->config.reduce,
                                   .accumulate = self->config.accumulate,
                                   .clip = self->clip,
                                   .codings = self->codings,
                                   .saves_residuals = self->config.save_every && self->config.saves_residuals,
                                   .mode = self->mode,
                                   .lr_rule = psd_lr_rule_find("none"),
                                   .fold_at = self->config.fold_at,
                                   .fold_from = self->config.joins ? PSD_AGGREGATE_TAKEN + 1 : 0, /* no mean is of folded pushes */
                                   .goes_ahead = self->config.goes_ahead,
                                   .look_every = 3 };
    psd_job_settings_t settings = { .text = "sim",
                                    .clip_value = self->clip.value,
                                    .clip_norm = self->clip.norm,
                                    .codings = self->codings,
                                    .saves_residuals = self->config.save_every && self->config.saves_residuals,
                                    .accumulate = self->config.accumulate,
                                    .lease_ms = 1000,
                                    .has_slow = psd_groups_have_slow(&self->groups),
                                    .in_rounds = psd_mode_has_rounds(self->mode),
                                    .part_elements = self->config.part_elements ? self->config.part_elements : PSD_MOST_OF_PART,
                                    .whole_norm = !psd_mode_has_rounds(self->mode) };
    snprintf(settings.mode, sizeof settings.mode, "%s", self->mode->name);
    psd_rule_print(&psd_groups_rest(&self->groups)->rule, settings.optimizer);
    psd_groups_print(&self->groups, settings.groups);
    psd_coordinator_config_t coordinator = { .job = "sim",
                                             .job_id = JOB_ID + server->life * 1000,
                                             .settings = &settings,
                                             .n_servers = self->config.servers,
                                             .workers_min = self->config.all_must_stay ? self->config.workers : 1,
                                             .workers_want = self->config.workers - (self->config.late_worker_ms != 0),
                                             .lease_ms = 1000,
                                             .start_timeout_ms = 3000,
                                             .accumulate = self->config.accumulate,
                                             .quarantine_after = self->config.quarantine_after,
                                             .mode = self->mode,
                                             .groups = self->groups,
                                             .clip = self->clip,
                                             .lr = points.n ? points.lr : psd_rule_lr(&psd_groups_rest(&self->groups)->rule),
                                             .checkpoints = self->config.save_every != 0,
                                             .save_every_rounds = self->config.save_every,
                                             .points = points.clock,
                                             .n_points = points.n,
                                             .foretell_from = self->config.goes_ahead                      ? 1
                                                              : self->config.fold_at || self->config.joins ? 2
                                                                                                           : 0,
                                             .model = points.n ? &points.model : NULL };
    server->node = psd_node_new(&engine, s ? NULL : &coordinator, NULL);
    psd_tensors_clear(&points.model);
    if (!s)
        memset(self->incarnation, 0, sizeof self->incarnation);
    psd_engine_set_ledger(psd_node_engine(server->node), sim_note_applied, self);
    sim_schedule(self, (event_t){ .at_ms = self->now_ms, .kind = TICK_SERVER, .target = s, .life = server->life });
}

bool sim_any_finished(const sim_t *self)
{
    psd_coordinator_facts_t facts = { 0 };
    if (self->server[0].node)
        psd_coordinator_facts(psd_node_coordinator(self->server[0].node), &facts);
    for (uint32_t s = 0; s < self->config.servers; s++)
        if (self->server[s].finished)
            return true;
    return facts.state == PSD_JOB_FINISHED;
}

static void on_server_message(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_server_t *server = &self->server[e->target];
    self->result->total_messages++;
    self->result->leader_messages += !e->target && sim_is_leaders(e->msg->kind);
    if (sim_strikes(self, SIM_KILL_SERVER)) {
        sim_crash_server(self, e->target, 100 + sim_draw(self, 900));
        return;
    }
    if (sim_hold(self, e))
        return;
    if (!e->is_joint)
        sim_watch_payload(self, e);
    const uint64_t began_ns = uv_hrtime();
    psd_node_message(server->node, sim_local_ms(self, &server->clock), e->from, e->msg, e->payload, out);
    if (!e->target && sim_is_leaders(e->msg->kind))
        self->result->leader_ns += uv_hrtime() - began_ns;
    psd_buf_unref(&e->payload);
    sim_look_at_answers(self, e, out);
}

static void on_worked(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_server_t *server = &self->server[e->target];
    sim_finish_work(self, e);
    psd_node_worked(server->node, sim_local_ms(self, &server->clock), e->work, out);
}

static void on_server_tick(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_server_t *server = &self->server[e->target];
    psd_node_tick(server->node, sim_local_ms(self, &server->clock), out);
    sim_schedule(
        self, (event_t){ .at_ms = next_tick_ms(self, &server->clock), .kind = TICK_SERVER, .target = e->target, .life = e->life });
    sim_look_at_wait(self, e->target);
}

/* ---- workers ---- */

void sim_kill_worker(sim_t *self, uint32_t w, uint64_t again_after_ms)
{
    psd_session_destroy(&self->worker[w].session);
    psd_reading_destroy(&self->worker[w].reading);
    if (again_after_ms)
        sim_schedule(self, (event_t){ .at_ms = self->now_ms + again_after_ms, .kind = START_WORKER, .target = w });
}

static bool dies_now(sim_t *self, uint32_t w)
{
    const bool picked =
        self->config.kill_worker == (int)w && !self->result->done[SIM_KILL_WORKER] && self->worker[w].sent == self->config.kill_at;
    if (picked)
        self->result->done[SIM_KILL_WORKER]++;
    else if (!sim_strikes(self, SIM_KILL_WORKER))
        return false;
    sim_kill_worker(self, w, !picked || self->config.revive ? 200 + sim_draw(self, 4000) : 0);
    return true;
}

static void run_worker_actions(sim_t *self, uint32_t w, psd_actions_t *out)
{
    for (size_t i = 0; i < out->n; i++) {
        const psd_action_t *a = &out->at[i];
        if (a->act == PSD_ACT_LOG && !strcmp(a->id, "residual.restored"))
            sim_note_heir(self, w);
        if (a->act != PSD_ACT_SEND)
            continue;
        if (dies_now(self, w))
            break;
        self->worker[w].sent++;
        self->result->messages[w]++;
        sim_send(self, SIM_MAX_SERVERS + w, a);
    }
    psd_actions_clear(out);
}

static void pump(sim_worker_t *me, psd_actions_t *out)
{
    while (psd_session_pump(me->session, out))
        ;
}

/* Push the next tensor of the open exchange. The program still computes with its weights, so they are as they were. */
static void push_tensor(sim_t *self, uint32_t w, uint64_t now_ms, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[w];
    const uint32_t t = self->list.n - ++me->n_given;
    psd_err_t err;
    if (sim_hash(self, me->w) != me->open_hash)
        sim_broken(self, "worker %u: weights have changed while its exchange lacked tensors", w);
    if (psd_session_push(me->session, now_ms, t, me->g[t], me->open_samples, 1.0, &err) != PSD_OK)
        sim_broken(self, "worker %u: %s", w, err.text);
    pump(me, out);
}

static void begin_exchange(sim_t *self, uint32_t w, uint64_t now_ms, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[w];
    push_t *push = sim_begin_push(self, w);
    psd_err_t err;
    push->run = psd_session_position(me->session).run;
    if (self->config.by_tensors && push->samples) {
        me->n_given = 0;
        me->open_samples = push->samples;
        me->open_hash = sim_hash(self, me->w);
        push_tensor(self, w, now_ms, out);
        return;
    }
    if (psd_session_exchange(me->session, now_ms, (const float *const *)me->g, push->samples, 1.0, &err) != PSD_OK)
        sim_broken(self, "worker %u: %s", w, err.text);
    pump(me, out);
}

/* Before a push: whether the worker makes it now. It may also die, or be late. */
static bool computes(sim_t *self, uint32_t w)
{
    if (sim_strikes(self, SIM_DIE_COMPUTING)) {
        sim_kill_worker(self, w, 200 + sim_draw(self, 4000));
        return false;
    }
    const psd_session_position_t at = psd_session_position(self->worker[w].session);
    const uint64_t late_ms = sim_strikes(self, SIM_STRAGGLE)             ? LATE_BY_MS
                             : self->worker[w].computed_clock < at.clock ? (uint64_t)self->config.stagger_ms * at.rank
                                                                         : 0;
    self->worker[w].computed_clock = at.clock;
    if (late_ms)
        sim_pause(self, SIM_MAX_SERVERS + w, self->now_ms + late_ms);
    return !late_ms;
}

/* Given up by a false alarm: a supervisor restarts it. */
static void fail(sim_t *self, uint32_t w)
{
    const psd_err_t *why = psd_session_error(self->worker[w].session);
    if (why->code != PSD_EFENCED && !strstr(why->text, "is finished") && !strstr(why->text, "was stopped"))
        sim_broken(self, "worker %u failed: %s", w, why->text);
    sim_kill_worker(self, w, WORKER_AGAIN_MS);
}

/* Continue the program as far as the session's phase allows. */
static void advance_worker(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    psd_actions_t out = { 0 };
    const uint64_t now_ms = sim_local_ms(self, &me->clock);
    const psd_phase_t phase = me->session ? psd_session_phase(me->session) : PSD_PHASE_LEFT;
    const bool has_all = phase == PSD_PHASE_READY && psd_session_position(me->session).clock > self->config.rounds;
    if (has_all && w < 64)
        self->result->with_last_weights |= UINT64_C(1) << w;
    if (phase == PSD_PHASE_JOINED && !me->registered) {
        me->registered = true;
        sim_initial_weights(self, me->w);
        psd_inheritance_t *inheritance = sim_inheritance(self);
        psd_session_inherit(me->session, &inheritance);
        psd_session_register(me->session, now_ms, &self->list, me->w, &out, NULL);
    } else if (phase == PSD_PHASE_READY && !has_all && computes(self, w)) {
        begin_exchange(self, w, now_ms, &out);
    } else if (phase == PSD_PHASE_COLLECTING) {
        push_tensor(self, w, now_ms, &out);
    } else if (has_all && psd_groups_have_slow(&self->groups) && !me->pulled) {
        me->pulled = true;
        psd_session_pull_slow(me->session, now_ms, me->slow, &out, NULL);
    } else if (has_all) {
        psd_session_leave(me->session, now_ms, true, &out);
    } else if (phase == PSD_PHASE_FAILED) {
        fail(self, w);
    } else if (phase == PSD_PHASE_LEFT && me->session) {
        me->done = true;
        sim_kill_worker(self, w, 0);
    }
    run_worker_actions(self, w, &out);
}

void sim_start_worker(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    if (me->done || me->session)
        return;
    me->life++;
    me->clock = new_clock(self);
    me->registered = me->pulled = false;
    me->computed_clock = 0;
    me->idle_ticks = 0;
    psd_session_config_t config = {
        .job = "sim", .name = "worker", .read_groups = psd_groups_parse, .nonce = me->life << 32 | (uint64_t)(w + 1) << 16
    };
    me->session = psd_session_new(&config);
    sim_begin_reading(self, w);
    sim_schedule(self, (event_t){ .at_ms = self->now_ms, .kind = TICK_WORKER, .target = w, .life = me->life });
}

static void on_worker_message(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[e->target];
    if (sim_reading_takes(me, e->msg))
        sim_read_message(self, e->target, e, out);
    else
        psd_session_message(me->session, sim_local_ms(self, &me->clock), e->from, e->msg, e->payload, out);
}

static void on_worker_tick(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_worker_t *me = &self->worker[e->target];
    psd_session_tick(me->session, sim_local_ms(self, &me->clock), out);
    sim_tick_reading(self, e->target, out);
    sim_schedule(self,
                 (event_t){ .at_ms = next_tick_ms(self, &me->clock), .kind = TICK_WORKER, .target = e->target, .life = e->life });
    sim_look_at_worker(self, e->target);
}

/* ---- events ---- */

static void (*const at_process[])(sim_t *self, event_t *e, psd_actions_t *out) = {
    [TO_SERVER] = on_server_message,
    [WORK_DONE] = on_worked,
    [FILE_BEGUN] = sim_on_file_begun,
    [PART_SAVED] = sim_on_part_saved,
    [FILE_SAVED] = sim_on_file_saved,
    [COMMITTED] = sim_on_committed,
    [RESIDUAL_SAVED] = sim_on_residual_saved,
    [RESIDUAL_LOADED] = sim_on_residual_loaded,
    [RESTORED] = sim_on_restored,
    [HELD_LONG_ENOUGH] = sim_on_held_long_enough,
    [TICK_SERVER] = on_server_tick,
    [TO_WORKER] = on_worker_message,
    [TICK_WORKER] = on_worker_tick,
};

static void at_server(sim_t *self, event_t *e)
{
    sim_server_t *server = &self->server[e->target];
    const bool ended = server->finished && (e->kind == TO_SERVER || e->kind == TICK_SERVER);
    psd_actions_t out = { 0 };
    if (!server->node || ended || !(e->life == server->life || (e->kind == TO_SERVER && !e->life)))
        return;
    at_process[e->kind](self, e, &out);
    if (server->node)
        run_server_actions(self, e->target, &out);
    if (server->node)
        sim_look_at_server(self, e->target);
}

static void at_worker(sim_t *self, event_t *e)
{
    psd_actions_t out = { 0 };
    if (!self->worker[e->target].session || self->worker[e->target].life != e->life)
        return;
    at_process[e->kind](self, e, &out);
    run_worker_actions(self, e->target, &out);
    advance_worker(self, e->target);
}

/* Messages to a sleeping process wait until it wakes up. */
static bool waits(sim_t *self, const event_t *e)
{
    if (e->kind > TICK_WORKER)
        return false;
    const bool of_worker = e->kind == TO_WORKER || e->kind == TICK_WORKER;
    const uint32_t process = of_worker ? SIM_MAX_SERVERS + e->target : e->target;
    const uint64_t until_ms = sim_clock_of(self, process)->paused_until_ms;
    if (!sim_is_alive(self, process) || until_ms <= self->now_ms)
        return false;
    event_t later = *e;
    later.at_ms = until_ms;
    sim_schedule(self, later);
    return true;
}

void sim_on_event(sim_t *self, event_t *e)
{
    if (waits(self, e))
        return;
    if (e->kind == START_WORKER)
        sim_start_worker(self, e->target);
    else if (e->kind == START_SERVER)
        sim_build_server(self, e->target);
    else if (e->kind == CUT_LINK)
        sim_cut_link(self, e->target, e->part, e->until_ms, sim_draw(self, 2));
    else if (e->kind == FAULTS)
        sim_draw_faults(self);
    else if (e->kind == STOP_SERVERS)
        stop_servers(self);
    else if (e->kind == TO_WORKER || e->kind == TICK_WORKER)
        at_worker(self, e);
    else if (e->kind != NOTHING)
        at_server(self, e);
    free(e->msg);
    psd_buf_unref(&e->payload);
}
