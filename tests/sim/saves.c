/* saves.c - checkpoints by the real code (server/checkpoint/checkpoint.c) in a directory of the run's own, on a disk
 * that loses what was not flushed (tests/support/disk.h). A server's disk does one thing after the other,
 * some time after it was asked. */
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
        free(self->snapshot[i]);
    }
    free(self->snapshot);
}

psd_shard_t *sim_shard_of(const sim_t *self, uint32_t s)
{
    return (psd_shard_t *)(uintptr_t)psd_engine_shard(psd_node_engine(self->server[s].node));
}

/* ---- what is in a file ---- */

static uint32_t crc_of_chunk(const sim_t *self, uint32_t s, uint32_t chunk)
{
    const psd_partition_t *map = psd_engine_map(psd_node_engine(self->server[s].node));
    const psd_shard_state_t state = psd_shard_state(sim_shard_of(self, s), chunk);
    const size_t n = map->chunk[map->held[s][chunk]].n * sizeof *state.w;
    uint32_t crc = psd_crc32c(state.w, n);
    for (int i = 0; i < self->rule.n_slots; i++)
        crc = psd_crc32c_extend(crc, state.slot[i], n);
    return psd_crc32c_extend(crc, state.state, sizeof *state.state);
}

/* Note what the shard is now; its place in the list, from 1, goes into the file in the place of the view. */
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
    /* Where each push is a step, the next one may have begun in the same event: it is not in the file. */
    const uint64_t version = psd_engine_point(psd_node_engine(self->server[s].node))->version;
    if (!psd_mode_has_rounds(self->mode))
        snapshot->ledger.n = self->server[s].n_before_run + version - self->server[s].version_before_run;
    return self->n_snapshots;
}

/* What is restored is what was saved: the file says which snapshot it is. */
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
        sim_broken(self, "shard %u restored a file that nobody wrote", s);
        return;
    }
    const snapshot_t *snapshot = self->snapshot[i - 1];
    if (snapshot->shard != s || snapshot->clock != clock)
        sim_broken(self, "shard %u restored clock %" PRIu64 " from a file of shard %u, clock %" PRIu64, s, clock, snapshot->shard,
                   snapshot->clock);
    for (uint32_t p = 0; p < snapshot->n_chunks; p++)
        if (snapshot->crc[p] != crc_of_chunk(self, s, p))
            sim_broken(self, "shard %u chunk %u of clock %" PRIu64 " was restored as it had not been", s, p, clock);
    sim_copy_ledger(&self->server[s].ledger, &snapshot->ledger);
    self->server[s].n_before_run = snapshot->ledger.n;
    self->result->restores++;
}

/* ---- what goes wrong ---- */

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
    self->server[s].writing.applied = NULL;
    self->server[s].disk_until_ms = 0;
}

/* A checkpoint counts; its flushes may have lied, and then the next ones' do not: of the two that are kept one is whole. */
static void note_commit(sim_t *self)
{
    self->n_honest = self->lied ? 0 : self->n_honest + 1;
    self->lied = false;
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
        note_commit(self); /* it may have got so far */
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
    server->writing = facts;
    server->writing.view_id = take_snapshot(self, s, facts.clock);
    server->writing.n_applied = point->n_applied;
    server->writing.applied = calloc(point->n_applied + 1, sizeof *server->writing.applied);
    for (uint32_t i = 0; i < point->n_applied; i++)
        server->writing.applied[i] = (psd_applied_t){ .worker = point->applied[i].worker,
                                                      .incarnation = point->applied[i].incarnation,
                                                      .clock = point->applied[i].samples };
    break_disk(self, false);
    server->writer = psd_ckpt_begin(self->dir, &server->writing, &self->list, psd_engine_map(engine), &self->rule, &err);
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
    event_t e = { .part = a->part, .facts = facts };
    if (a->act == PSD_ACT_SAVE_BEGIN) {
        begin_file(self, s, facts);
        return;
    }
    if (a->act != PSD_ACT_COMMIT && a->act != PSD_ACT_RESTORE && !self->server[s].writer)
        return; /* of a file that could not be begun */
    e.kind = a->act == PSD_ACT_SAVE_PART  ? PART_SAVED
             : a->act == PSD_ACT_SAVE_END ? FILE_SAVED
             : a->act == PSD_ACT_COMMIT   ? COMMITTED
                                          : RESTORED;
    later(self, s, e);
}

/* ---- outcomes ---- */

static uint64_t now_at(const sim_t *self, uint32_t s) { return sim_local_ms(self, &self->server[s].clock); }

void sim_on_file_begun(sim_t *self, event_t *e, psd_actions_t *out)
{
    psd_node_save_begun(self->server[e->target].node, now_at(self, e->target), out);
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
    uint32_t n_rows = 0;
    psd_err_t err = { 0 };
    int rc = psd_ckpt_read(self->dir, e->facts.clock, &facts, &model, &err);
    if (rc == PSD_OK)
        rc = psd_engine_restore(engine, &model, &err);
    if (rc == PSD_OK)
        rc = psd_ckpt_load(self->dir, e->facts.clock, &self->list, psd_engine_map(engine), s, &self->rule, where_chunk_goes,
                           sim_shard_of(self, s), &rows, &n_rows, &err);
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
                               .n_applied = n_rows };
    psd_node_restored(self->server[s].node, now_at(self, s), rc == PSD_OK ? NULL : err.text, &point, out);
    psd_tensors_clear(&model);
    psd_ckpt_facts_clear(&facts);
    free(applied);
    free(rows);
}
