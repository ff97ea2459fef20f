/* saves.c - checkpoints by the real code (server/checkpoint/checkpoint.c) in a directory of the run, on a disk that loses data that
 * was not flushed (tests/support/disk.h). A server's disk carries out requests one by one, after a delay. */
#include <errno.h>
#include <unistd.h>

#include "common/optim/aggregate.h"
#include "server/checkpoint/shardfile.h"
#include "server/checkpoint/store.h"
#include "tests/sim/sim_state.h"
#include "tests/support/disk.h"

enum { KEPT = 2, MOST_CALLS = 12 /* of one operation, about */ };

static void make_dir(sim_t *self)
{
    snprintf(self->dir, sizeof self->dir, "%s/psd-sim-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(self->dir))
        sim_broken(self, "cannot make a directory for checkpoints: %s", strerror(errno));
}

void sim_begin_disk(sim_t *self)
{
    if (!self->config.save_every)
        return;
    make_dir(self);
    disk_record(true);
}

void sim_end_disk(sim_t *self)
{
    if (self->dir[0]) {
        disk_record(false);
        disk_forget();
        disk_remove(self->dir);
    }
    for (size_t i = 0; i < self->n_snapshots; i++) {
        free(self->snapshot[i]->crc);
        free(self->snapshot[i]->ledger.at);
        free(self->snapshot[i]->kept);
        free(self->snapshot[i]->applied);
        free(self->snapshot[i]);
    }
    free(self->snapshot);
}

psd_shard_t *sim_shard_of(const sim_t *self, uint32_t s)
{
    return (psd_shard_t *)(uintptr_t)psd_engine_shard(psd_node_engine(self->server[s].node));
}

/* ---- the contents of a file ---- */

static uint32_t crc_of_chunk(const sim_t *self, uint32_t s, uint32_t chunk)
{
    const psd_partition_t *map = psd_engine_map(psd_node_engine(self->server[s].node));
    const psd_shard_state_t state = psd_shard_state(sim_shard_of(self, s), chunk);
    const size_t n = map->chunk[map->held[s][chunk]].n * sizeof *state.w;
    uint32_t crc = psd_crc32c(state.w, n);
    const psd_chunk_t *c = &map->chunk[map->held[s][chunk]];
    const psd_rule_t *rule = &self->groups.at[self->group_of[c->tensor]].rule;
    for (int i = 0; i < rule->n_slots; i++)
        crc = psd_crc32c_extend(crc, state.slot[i],
                                psd_rule_slot_elements(rule, i, &map->tensor[c->tensor], c->offset, c->n) * sizeof *state.w);
    return psd_crc32c_extend(crc, state.state, sizeof *state.state);
}

/* The workers whose residuals the file may hold, with their clocks. */
static void note_residuals(sim_t *self, uint32_t s, snapshot_t *snapshot)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    const psd_save_point_t *point = psd_engine_point(engine);
    snapshot->kept = calloc(point->n_residuals + 1, sizeof *snapshot->kept);
    for (uint32_t i = 0, a = 0; i < point->n_residuals; i++) {
        while (point->applied[a].worker != point->residual_of[i])
            a++;
        snapshot->kept[snapshot->n_kept++] = (sim_life_t){ .run = psd_engine_run(engine),
                                                           .incarnation = point->applied[a].incarnation,
                                                           .clock = point->applied[a].samples,
                                                           .worker = point->residual_of[i] };
    }
}

static void note_applied(const sim_t *self, uint32_t s, snapshot_t *snapshot)
{
    const psd_save_point_t *point = psd_engine_point(psd_node_engine(self->server[s].node));
    snapshot->applied = calloc(point->n_applied + 1, sizeof *snapshot->applied);
    for (uint32_t i = 0; i < point->n_applied; i++)
        snapshot->applied[snapshot->n_applied++] = (psd_applied_t){ .worker = point->applied[i].worker,
                                                                    .incarnation = point->applied[i].incarnation,
                                                                    .clock = point->applied[i].samples };
}

/* Record the shard's present state; its number in the list, from 1, goes into the file in place of the view. */
static uint64_t take_snapshot(sim_t *self, uint32_t s, uint64_t clock)
{
    snapshot_t *snapshot = calloc(1, sizeof *snapshot);
    self->snapshot = realloc(self->snapshot, (self->n_snapshots + 1) * sizeof *self->snapshot);
    self->snapshot[self->n_snapshots++] = snapshot;
    snapshot->shard = s;
    snapshot->clock = clock;
    snapshot->n_chunks = psd_shard_chunks(sim_shard_of(self, s));
    snapshot->crc = calloc(snapshot->n_chunks + 1, sizeof *snapshot->crc);
    for (uint32_t p = 0; p < snapshot->n_chunks; p++)
        snapshot->crc[p] = crc_of_chunk(self, s, p);
    sim_copy_ledger(&snapshot->ledger, &self->server[s].ledger);
    note_residuals(self, s, snapshot);
    note_applied(self, s, snapshot);
    /* If each push is a step, the next one may have begun in the same event: it is not in the file. */
    const uint64_t version = psd_engine_point(psd_node_engine(self->server[s].node))->version;
    if (!psd_mode_has_rounds(self->mode))
        snapshot->ledger.n = self->server[s].n_before_run + version - self->server[s].version_before_run;
    /* Nor are rounds that wait for those of their step. */
    while (psd_mode_has_rounds(self->mode) && snapshot->ledger.n && snapshot->ledger.at[snapshot->ledger.n - 1].clock > clock)
        snapshot->ledger.n--;
    return self->n_snapshots;
}

/* Check that the restored state is the saved one: the file has the number of its snapshot. */
static void take_up(sim_t *self, uint32_t s, uint64_t clock)
{
    char path[128];
    psd_shardfile_t file;
    psd_err_t err;
    snprintf(path, sizeof path, "%s/%012" PRIu64 "/shard-%" PRIu32 ".safetensors", self->dir, clock, s);
    const bool ok = psd_shardfile_open(&file, path, false, &err) == PSD_OK;
    const uint64_t i = ok ? file.facts.view_id : 0;
    psd_shardfile_close(&file);
    if (!ok || !i || i > self->n_snapshots) {
        sim_broken(self, "shard %u restored a file that no server wrote", s);
        return;
    }
    const snapshot_t *snapshot = self->snapshot[i - 1];
    if (snapshot->shard != s || snapshot->clock != clock)
        sim_broken(self, "shard %u restored clock %" PRIu64 " from a file of shard %u, clock %" PRIu64, s, clock, snapshot->shard,
                   snapshot->clock);
    for (uint32_t p = 0; p < snapshot->n_chunks; p++)
        if (snapshot->crc[p] != crc_of_chunk(self, s, p))
            sim_broken(self, "shard %u chunk %u of clock %" PRIu64 " was restored with other contents", s, p, clock);
    sim_copy_ledger(&self->server[s].ledger, &snapshot->ledger);
    self->server[s].n_before_run = snapshot->ledger.n;
    self->result->restores++;
    self->origin = realloc(self->origin, (self->n_origins + 1) * sizeof *self->origin);
    self->origin[self->n_origins++] =
        (sim_origin_t){ .run = psd_engine_run(psd_node_engine(self->server[s].node)), .snapshot = i, .shard = s };
}

/* ---- inherited residuals ---- */

const sim_heir_t *sim_find_heir(const sim_t *self, const sim_life_t *life)
{
    for (size_t i = self->n_heirs; i-- > 0;) {
        const sim_life_t *a = &self->heir[i].life;
        if (a->run == life->run && a->incarnation == life->incarnation && a->worker == life->worker)
            return &self->heir[i];
    }
    return NULL;
}

/* The owner of the shard's part of the residual. A run that does not know the checkpoint cannot have it. */
static sim_life_t heritage(sim_t *self, uint64_t run, uint32_t s, uint32_t worker)
{
    for (size_t i = self->n_origins; i-- > 0;) {
        if (self->origin[i].run != run || self->origin[i].shard != s)
            continue;
        const snapshot_t *snapshot = self->snapshot[self->origin[i].snapshot - 1];
        for (uint32_t k = 0; k < snapshot->n_kept; k++)
            if (snapshot->kept[k].worker == worker)
                return snapshot->kept[k];
    }
    return (sim_life_t){ 0 };
}

/* asp: that incarnation's residual after that clock, for the whole model; NULL: none. */
static const float *kept_by(const sim_t *self, const sim_life_t *life)
{
    const push_t *push = sim_find_push(self, &(applied_t){ life->run, life->clock, life->incarnation, life->worker });
    const sim_heir_t *heir = sim_find_heir(self, life);
    return push ? push->kept : heir ? heir->kept : NULL;
}

/* Assemble its initial residual: the shards may have saved different clocks. */
static void begin_kept(sim_t *self, sim_worker_t *me, sim_heir_t *heir)
{
    const psd_partition_t *map = psd_engine_map(psd_node_engine(self->server[0].node));
    size_t first[MAX_TENSORS], n = 0;
    for (uint32_t t = 0; t < self->list.n; n += self->list.tensor[t++].n_elements)
        first[t] = n;
    heir->kept = calloc(n, sizeof *heir->kept);
    for (uint32_t i = 0; i < map->n_chunks; i++) {
        const psd_chunk_t *c = &map->chunk[i];
        const float *from = kept_by(self, &heir->of[c->server]);
        if (from)
            memcpy(heir->kept + first[c->tensor] + c->offset, from + first[c->tensor] + c->offset, c->n * sizeof *from);
    }
    for (uint32_t t = 0; t < self->list.n; t++)
        memcpy(me->kept[t], heir->kept + first[t], self->list.tensor[t].n_elements * sizeof(float));
    me->life_of_kept = heir->life;
}

void sim_note_heir(sim_t *self, uint32_t w)
{
    sim_worker_t *me = &self->worker[w];
    const psd_session_position_t at = psd_session_position(me->session);
    sim_heir_t heir = { .life = { .run = at.run, .incarnation = at.incarnation, .worker = at.worker } };
    bool any = false;
    for (uint32_t s = 0; s < self->config.servers; s++) {
        heir.of[s] = heritage(self, at.run, s, at.worker);
        any |= heir.of[s].run != 0;
    }
    if (!any)
        sim_broken(self, "worker %u continued with a residual that no server saved", w);
    if (!psd_mode_has_rounds(self->mode) && self->server[0].node && psd_engine_map(psd_node_engine(self->server[0].node))->n_chunks)
        begin_kept(self, me, &heir);
    self->heir = realloc(self->heir, (self->n_heirs + 1) * sizeof *self->heir);
    self->heir[self->n_heirs++] = heir;
    self->result->residuals++;
}

/* ---- faults ---- */

/* The faults that this operation meets. */
static void break_disk(sim_t *self, bool makes_durable)
{
    disk_fault_t fault = { 0 };
    if (makes_durable && sim_strikes(self, SIM_FAIL_FLUSH))
        fault.error = EIO;
    if (sim_strikes(self, SIM_NO_SPACE))
        fault = (disk_fault_t){ .error = ENOSPC, .left = (uint32_t)sim_draw(self, 3) };
    if (sim_strikes(self, SIM_IO_ERROR))
        fault = (disk_fault_t){ .error = EIO, .left = (uint32_t)sim_draw(self, MOST_CALLS) };
    fault.lies = makes_durable && sim_strikes(self, SIM_LIE);
    self->lied |= fault.lies;
    disk_break(fault);
}

static void mend_disk(void) { disk_break((disk_fault_t){ 0 }); }

void sim_lose_writer(sim_t *self, uint32_t s)
{
    disk_break((disk_fault_t){ .dead = true });
    psd_ckpt_abandon(&self->server[s].writer);
    mend_disk();
    free(self->server[s].writing.applied);
    free(self->server[s].writing.residual);
    self->server[s].writing.applied = NULL;
    self->server[s].writing.residual = NULL;
    self->server[s].disk_until_ms = 0;
}

/* A checkpoint counts. If its flushes lied, those of the next one do not, so that one of the two kept is whole. */
static void note_commit(sim_t *self)
{
    self->n_honest = self->lied ? 0 : self->n_honest + 1;
    self->lied = false;
}

/* The newest record of a shard's file of a checkpoint; NULL: there is none. */
static const snapshot_t *find_snapshot(const sim_t *self, uint32_t s, uint64_t clock)
{
    for (size_t i = self->n_snapshots; i-- > 0;)
        if (self->snapshot[i]->shard == s && self->snapshot[i]->clock == clock)
            return self->snapshot[i];
    return NULL;
}

/* Two files of one checkpoint are at most one push of each worker apart: that is what a worker which continues from there loses. */
static void check_cut(sim_t *self, const snapshot_t *a, const snapshot_t *b)
{
    for (uint32_t i = 0; a && b && i < a->n_applied; i++)
        for (uint32_t k = 0; k < b->n_applied; k++) {
            const psd_applied_t *x = &a->applied[i], *y = &b->applied[k];
            if (x->worker == y->worker && x->incarnation == y->incarnation && x->clock > y->clock + 1)
                sim_broken(self,
                           "checkpoint %" PRIu64 " has push %" PRIu64 " of worker %u in shard %u, and %" PRIu64 " in shard %u",
                           a->clock, x->clock, x->worker, a->shard, y->clock, b->shard);
        }
}

static int commit(const sim_t *self, const event_t *e, psd_err_t *err)
{
    return psd_ckpt_commit(self->dir, &e->facts, &self->list, KEPT, err);
}

void sim_die_writing(sim_t *self, const event_t *e)
{
    psd_err_t err;
    if ((e->kind != FILE_SAVED && e->kind != COMMITTED) || !sim_strikes(self, SIM_DIE_WRITING))
        return;
    disk_break((disk_fault_t){ .dead = true, .left = (uint32_t)sim_draw(self, MOST_CALLS) });
    if (e->kind == COMMITTED)
        commit(self, e, &err);
    else if (self->server[e->target].writer)
        psd_ckpt_end(&self->server[e->target].writer, &err);
    if (e->kind == COMMITTED && self->lied)
        note_commit(self); /* it may have progressed this far */
    mend_disk();
}

void sim_lose_unflushed(sim_t *self)
{
    char old[sizeof self->dir];
    int n;
    memcpy(old, self->dir, sizeof old);
    make_dir(self);
    disk_cut(disk_calls(), psd_splitmix64(&self->random), DISK_HONEST, old, self->dir, &n);
    disk_remove(old);
}

/* ---- actions ---- */

static void later(sim_t *self, uint32_t s, event_t e)
{
    sim_server_t *server = &self->server[s];
    e.at_ms = self->now_ms + sim_delay(self);
    e.at_ms = e.at_ms < server->disk_until_ms ? server->disk_until_ms : e.at_ms;
    e.target = s;
    e.life = server->life;
    server->disk_until_ms = e.at_ms;
    sim_schedule(self, e);
}

static void begin_file(sim_t *self, uint32_t s, psd_ckpt_facts_t facts)
{
    sim_server_t *server = &self->server[s];
    const psd_engine_t *engine = psd_node_engine(server->node);
    const psd_save_point_t *point = psd_engine_point(engine);
    psd_err_t err;
    if (point->clock != facts.clock)
        sim_broken(self, "shard %u saves clock %" PRIu64 " under the name of %" PRIu64, s, point->clock, facts.clock);
    psd_ckpt_abandon(&server->writer);
    free(server->writing.applied);
    free(server->writing.residual);
    server->writing = facts;
    server->writing.view_id = take_snapshot(self, s, facts.clock);
    server->writing.n_applied = point->n_applied;
    server->writing.applied = calloc(point->n_applied + 1, sizeof *server->writing.applied);
    for (uint32_t i = 0; i < point->n_applied; i++)
        server->writing.applied[i] = (psd_applied_t){ .worker = point->applied[i].worker,
                                                      .incarnation = point->applied[i].incarnation,
                                                      .clock = point->applied[i].samples };
    server->writing.n_residuals = point->n_residuals;
    server->writing.residual = calloc(point->n_residuals + 1, sizeof *server->writing.residual);
    for (uint32_t i = 0; i < point->n_residuals; i++)
        server->writing.residual[i].worker = point->residual_of[i];
    break_disk(self, false);
    server->writer = psd_ckpt_begin(self->dir, &server->writing, &self->list, psd_engine_map(engine), &self->groups, &err);
    mend_disk();
    if (server->writer)
        later(self, s, (event_t){ .kind = FILE_BEGUN });
    else
        later(self, s, (event_t){ .kind = FILE_SAVED, .failed = true });
}

void sim_save(sim_t *self, uint32_t s, const psd_action_t *a)
{
    const psd_engine_t *engine = psd_node_engine(self->server[s].node);
    const psd_save_point_t *point = psd_engine_point(engine);
    static char sim[] = "sim";
    psd_ckpt_facts_t facts = { .job = sim,
                               .settings = sim,
                               .clock = a->clock,
                               .version = point->version,
                               .samples = point->samples,
                               .lr = point->lr,
                               .shard = s,
                               .n_shards = self->config.servers };
    event_t e = { .part = a->part, .worker = a->worker, .facts = facts };
    if (a->act == PSD_ACT_SAVE_BEGIN) {
        begin_file(self, s, facts);
        return;
    }
    if (a->act == PSD_ACT_LOAD_RESIDUAL) {
        e.kind = RESIDUAL_LOADED;
        later(self, s, e);
        return;
    }
    if (a->act != PSD_ACT_COMMIT && a->act != PSD_ACT_RESTORE && !self->server[s].writer)
        return; /* belongs to a file that could not be begun */
    e.file = self->server[s].writing.view_id;
    e.payload = psd_buf_ref(a->payload);
    e.kind = a->act == PSD_ACT_SAVE_PART       ? PART_SAVED
             : a->act == PSD_ACT_SAVE_RESIDUAL ? RESIDUAL_SAVED
             : a->act == PSD_ACT_SAVE_END      ? FILE_SAVED
             : a->act == PSD_ACT_COMMIT        ? COMMITTED
                                               : RESTORED;
    later(self, s, e);
}

/* ---- outcomes ---- */

static uint64_t now_at(const sim_t *self, uint32_t s) { return sim_local_ms(self, &self->server[s].clock); }

void sim_on_file_begun(sim_t *self, event_t *e, psd_actions_t *out)
{
    psd_node_save_begun(self->server[e->target].node, now_at(self, e->target), out);
}

/* Drop the requests that belong to a file that could not be written. */
static bool is_of_its_file(const sim_server_t *server, const event_t *e)
{
    return server->writer && server->writing.view_id == e->file;
}

/* The writer is done with a part. */
void sim_on_part_saved(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_server_t *server = &self->server[e->target];
    psd_shard_t *shard = sim_shard_of(self, e->target);
    const uint32_t first = psd_shard_first(shard, e->part), end = first + psd_shard_chunks_of(shard, e->part);
    const snapshot_t *snapshot = self->snapshot[server->writing.view_id - 1];
    psd_err_t err;
    bool ok = true;
    if (!is_of_its_file(server, e))
        return;
    break_disk(self, false);
    for (uint32_t c = first; ok && c < end; c++) {
        const psd_shard_state_t state = psd_shard_state(shard, c);
        if (crc_of_chunk(self, e->target, c) != snapshot->crc[c])
            sim_broken(self, "shard %u chunk %u changed before the checkpoint of clock %" PRIu64 " had read it", e->target, c,
                       snapshot->clock);
        ok = psd_ckpt_chunk(server->writer, c, state.w, state.slot, state.state, &err) == PSD_OK;
    }
    if (!ok)
        psd_ckpt_abandon(&server->writer);
    mend_disk();
    if (ok)
        psd_node_part_saved(server->node, now_at(self, e->target), e->part, out);
    else
        psd_node_saved(server->node, now_at(self, e->target), err.text, out);
}

/* The same for a part of a residual. */
void sim_on_residual_saved(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_server_t *server = &self->server[e->target];
    const psd_partition_t *map = psd_engine_map(psd_node_engine(server->node));
    psd_err_t err;
    bool ok = true;
    if (!is_of_its_file(server, e))
        return;
    uint32_t k = 0;
    while (server->writing.residual[k].worker != e->worker)
        k++;
    if (!k && !e->part) /* otherwise all writes of a file would rarely succeed */
        break_disk(self, false);
    for (uint32_t i = 0; ok && i < map->part[e->target][e->part].n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(map, e->target, e->part, i);
        ok = psd_ckpt_residual(server->writer, k, c->index, (const float *)e->payload->data + c->at, &err) == PSD_OK;
    }
    if (!ok)
        psd_ckpt_abandon(&server->writer);
    mend_disk();
    if (ok)
        psd_node_residual_saved(server->node, now_at(self, e->target), out);
    else
        psd_node_saved(server->node, now_at(self, e->target), err.text, out);
}

typedef struct residual_place {
    const psd_partition_t *map;
    uint32_t s;
    psd_buf_t **part;
} residual_place_t;

static float *where_residual_goes(void *arg, uint32_t chunk)
{
    const residual_place_t *at = arg;
    const psd_chunk_t *c = &at->map->chunk[at->map->held[at->s][chunk]];
    return (float *)at->part[c->part]->data + c->at;
}

/* Whether a worker that continues late may find its residual no more: newer checkpoints have taken the place of the one from which
 * the run began, or the disk lost what it had claimed to have flushed. In any other case the residual must be there. */
static bool may_lack_residual(const sim_t *self, uint64_t clock)
{
    uint64_t kept[KEPT];
    const size_t n = psd_ckpt_manifests(self->dir, kept, KEPT);
    return (n == KEPT && kept[KEPT - 1] > clock) || (self->result->done[SIM_LIE] && self->result->done[SIM_POWER_CUT]);
}

void sim_on_residual_loaded(sim_t *self, event_t *e, psd_actions_t *out)
{
    const uint32_t s = e->target;
    residual_place_t place = { .map = psd_engine_map(psd_node_engine(self->server[s].node)), .s = s };
    psd_err_t err = { 0 };
    place.part = calloc(place.map->n_parts[s] + 1, sizeof *place.part);
    for (uint32_t p = 0; p < place.map->n_parts[s]; p++)
        place.part[p] = psd_buf_new(place.map->part[s][p].n * sizeof(float));
    const bool ok = psd_ckpt_load_residual(self->dir, e->facts.clock, &self->list, place.map, s, e->worker, where_residual_goes,
                                           &place, &err) == PSD_OK;
    if (!ok && !may_lack_residual(self, e->facts.clock))
        sim_broken(self, "shard %u cannot load the residual of worker %u, which its checkpoint has: %s", s, e->worker, err.text);
    for (uint32_t p = 0; !ok && p < place.map->n_parts[s]; p++)
        psd_buf_unref(&place.part[p]);
    if (!ok)
        free(place.part);
    psd_node_residual_loaded(self->server[s].node, now_at(self, s), e->worker, ok ? place.part : NULL, ok ? NULL : err.text, out);
}

void sim_on_file_saved(sim_t *self, event_t *e, psd_actions_t *out)
{
    sim_server_t *server = &self->server[e->target];
    psd_err_t err;
    break_disk(self, true);
    const bool ok = !e->failed && psd_ckpt_end(&server->writer, &err) == PSD_OK;
    mend_disk();
    psd_node_saved(server->node, now_at(self, e->target), ok ? NULL : "a file that fails", out);
}

void sim_on_committed(sim_t *self, event_t *e, psd_actions_t *out)
{
    psd_err_t err;
    break_disk(self, true);
    const bool ok = commit(self, e, &err) == PSD_OK;
    mend_disk();
    self->result->saves += ok;
    if (ok)
        note_commit(self);
    for (uint32_t s = 0; ok && s < self->config.servers; s++)
        for (uint32_t t = 0; t < self->config.servers; t++)
            check_cut(self, find_snapshot(self, s, e->facts.clock), find_snapshot(self, t, e->facts.clock));
    psd_node_committed(self->server[e->target].node, now_at(self, e->target), e->facts.clock, ok ? NULL : err.text, out);
}

static psd_ckpt_target_t where_chunk_goes(void *arg, uint32_t chunk)
{
    psd_shard_state_t s = psd_shard_state(arg, chunk);
    psd_ckpt_target_t target = { .w = s.w, .state = s.state };
    memcpy(target.slot, s.slot, sizeof target.slot);
    return target;
}

void sim_on_restored(sim_t *self, event_t *e, psd_actions_t *out)
{
    const uint32_t s = e->target;
    psd_engine_t *engine = psd_node_engine(self->server[s].node);
    psd_ckpt_facts_t facts = { 0 };
    psd_tensor_list_t model = { 0 };
    psd_applied_t *rows = NULL;
    uint32_t n_rows = 0, *residual_of = NULL, n_residuals = 0;
    psd_err_t err = { 0 };
    int rc = psd_ckpt_read(self->dir, e->facts.clock, &facts, &model, &err);
    if (rc == PSD_OK)
        rc = psd_engine_restore(engine, &model, &err);
    if (rc == PSD_OK)
        rc = psd_ckpt_load(self->dir, e->facts.clock, &self->list, psd_engine_map(engine), s, &self->groups, where_chunk_goes,
                           sim_shard_of(self, s), &rows, &n_rows, &err);
    if (rc == PSD_OK)
        rc = psd_ckpt_residuals(self->dir, e->facts.clock, &residual_of, &n_residuals, &err);
    psd_member_t *applied = calloc(n_rows + 1, sizeof *applied);
    for (uint32_t i = 0; i < n_rows; i++)
        applied[i] = (psd_member_t){ .worker = rows[i].worker, .incarnation = rows[i].incarnation, .samples = rows[i].clock };
    for (uint32_t p = 0; rc == PSD_OK && p < psd_shard_parts(sim_shard_of(self, s)); p++)
        psd_shard_filled(sim_shard_of(self, s), p);
    self->server[s].version_before_run = facts.version;
    if (rc == PSD_OK)
        take_up(self, s, e->facts.clock);
    else
        self->result->fallbacks++;
    self->server[s].is_bare = rc != PSD_OK;
    psd_save_point_t point = { .clock = e->facts.clock,
                               .version = facts.version,
                               .samples = facts.samples,
                               .lr = facts.lr,
                               .applied = applied,
                               .n_applied = n_rows,
                               .residual_of = residual_of,
                               .n_residuals = n_residuals };
    psd_node_restored(self->server[s].node, now_at(self, s), rc == PSD_OK ? NULL : err.text, &point, out);
    psd_tensors_clear(&model);
    psd_ckpt_facts_clear(&facts);
    free(applied);
    free(rows);
    free(residual_of);
}
