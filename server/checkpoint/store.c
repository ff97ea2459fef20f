#include "server/checkpoint/store.h"

#include "common/system/failpoint.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "common/system/log.h"

/* How much nicer this thread is than the rest of the process, as in nice(1), so that a save uses processor time that training
 * leaves. Only a little nicer: a save must also finish on a machine that trains other jobs, and a step waits for the chunk that is
 * being written. */
enum { NICER = 5 };

/* One thing to do; they are done in the order in which they were asked for. */
typedef struct task {
    struct psd_store *store;
    psd_engine_t *engine; /* the engine of the shard */
    psd_act_t act;
    uint64_t clock;
    uint32_t part, worker;
    psd_buf_t *payload;    /* SAVE_RESIDUAL: the bytes to write */
    psd_buf_t **residual;  /* LOAD_RESIDUAL: the bytes read, part by part */
    uint32_t *residual_of; /* RESTORE: the workers whose residuals the checkpoint holds */
    uint32_t n_residuals;
    psd_applied_t *applied; /* SAVE_BEGIN: rows for the file; RESTORE: rows from it */
    uint32_t n_applied;
    psd_tensor_list_t model; /* COMMIT: a copy, because the engine may start over meanwhile */
    psd_ckpt_facts_t facts;  /* SAVE_BEGIN, COMMIT: the facts to write; RESTORE: those read */
    uint64_t n_bytes;        /* SAVE_END: of the file */
    int rc;
    psd_err_t err;
    struct task *next;
} task_t;

struct psd_store {
    psd_store_config_t config;
    psd_node_t *node;
    psd_actions_t *out;
    psd_ckpt_writer_t *writer; /* of the file being written; NULL after a failure too */
    psd_ckpt_facts_t writing;  /* its facts, which the writer borrows */
    uint64_t n_bytes;          /* of the newest durable file */
    task_t *first, *last;      /* the first is under way */
    /* Not a thread of the pool: there each chunk would wait for all steps of a round, and removing a file would delay a step. */
    uv_thread_t thread;
    uv_mutex_t lock; /* of what follows */
    uv_cond_t wake;  /* there is a task, or `ending` is set */
    task_t *handed;  /* to be run by the thread; NULL: none, or it has run */
    bool ending;
    int claim;       /* the open file whose lock reserves the directory for this process; -1: none */
    uv_async_t done; /* it has run; keeps the loop alive while it has not */
};

/* ---- finding ---- */

/* Settings without their first word, servers=N, because a job may continue on another number of servers. */
static const char *but_for_servers(const char *settings)
{
    const char *rest = strchr(settings, ' ');
    return rest ? rest : settings;
}

/* Continuing from an older checkpoint undoes steps, so the log gives the reason why the newest one was not used. */
static void warn_of_damaged(const char *dir, const psd_store_points_t *whole)
{
    uint64_t clock[sizeof whole->clock / sizeof *whole->clock];
    const size_t n = psd_ckpt_manifests(dir, clock, sizeof clock / sizeof *clock);
    for (size_t i = 0; whole->n && i < n && clock[i] > whole->clock[0]; i++) {
        psd_err_t why = { 0 };
        if (psd_ckpt_check(dir, clock[i], &why) != PSD_OK)
            psd_log_warn("checkpoint.damaged",
                         "clock=%" PRIu64 " reason=\"%s\" effect=\"not used; the job continues from the older one of clock %" PRIu64
                         "\"",
                         clock[i], why.text, whole->clock[0]);
    }
}

int psd_store_find(const char *dir, const char *job, const char *settings, psd_store_points_t *out, psd_err_t *err)
{
    uint64_t newest;
    psd_ckpt_facts_t facts = { 0 };
    *out = (psd_store_points_t){ 0 };
    out->n = psd_ckpt_list(dir, out->clock, sizeof out->clock / sizeof *out->clock);
    warn_of_damaged(dir, out);
    if (!out->n) {
        if (!psd_ckpt_manifests(dir, &newest, 1) || psd_ckpt_check(dir, newest, err) == PSD_OK)
            return PSD_OK;
        psd_err_wrap(err, "%s has checkpoints, but none is complete; repair it or name another directory", dir);
        return err ? err->code = PSD_EDATA : PSD_EDATA;
    }
    int rc = psd_ckpt_read(dir, out->clock[0], &facts, &out->model, err);
    if (rc == PSD_OK && (strcmp(facts.job, job) || strcmp(but_for_servers(facts.settings), but_for_servers(settings))))
        rc = psd_err_set(err, PSD_ECONFIG, "%s holds a checkpoint of job %s with%.160s; this is job %s with%.160s", dir, facts.job,
                         but_for_servers(facts.settings), job, but_for_servers(settings));
    out->lr = facts.lr;
    psd_ckpt_facts_clear(&facts);
    if (rc != PSD_OK)
        psd_tensors_clear(&out->model);
    return rc;
}

/* ---- tasks ---- */

static psd_shard_t *shard_of(const task_t *task) { return (psd_shard_t *)(uintptr_t)psd_engine_shard(task->engine); }

/* The engine does not touch a part while the writer has it, or a shard while it is being restored. */
static void write_part(task_t *task)
{
    const uint32_t first = psd_shard_first(shard_of(task), task->part), n = psd_shard_chunks_of(shard_of(task), task->part);
    for (uint32_t i = 0; task->rc == PSD_OK && i < n; i++) {
        const psd_shard_state_t s = psd_shard_state(shard_of(task), first + i);
        task->rc = psd_ckpt_chunk(task->store->writer, first + i, s.w, s.slot, s.state, &task->err);
    }
}

static void write_residual(task_t *task)
{
    const psd_partition_t *map = psd_engine_map(task->engine);
    const psd_ckpt_facts_t *facts = &task->store->writing;
    const uint32_t s = psd_engine_index(task->engine);
    uint32_t k = 0;
    while (k < facts->n_residuals && facts->residual[k].worker != task->worker)
        k++;
    assert(k < facts->n_residuals && "the file has room for the residuals that were requested");
    for (uint32_t i = 0; task->rc == PSD_OK && i < map->part[s][task->part].n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(map, s, task->part, i);
        task->rc = psd_ckpt_residual(task->store->writer, k, c->index, (const float *)task->payload->data + c->at, &task->err);
    }
}

static float *where_residual_goes(void *arg, uint32_t chunk)
{
    const task_t *task = arg;
    const psd_partition_t *map = psd_engine_map(task->engine);
    const psd_chunk_t *c = &map->chunk[map->held[psd_engine_index(task->engine)][chunk]];
    return (float *)task->residual[c->part]->data + c->at;
}

static void drop_residual(task_t *task, uint32_t n_parts)
{
    for (uint32_t p = 0; task->residual && p < n_parts; p++)
        psd_buf_unref(&task->residual[p]);
    free(task->residual);
    task->residual = NULL;
}

static void load_residual(task_t *task)
{
    const uint32_t n_parts = psd_shard_parts(shard_of(task));
    bool ok = (task->residual = calloc((size_t)n_parts + 1, sizeof *task->residual)) != NULL;
    for (uint32_t p = 0; ok && p < n_parts; p++)
        ok = (task->residual[p] = psd_buf_new(psd_shard_elements(shard_of(task), p) * sizeof(float))) != NULL;
    task->rc = ok ? psd_ckpt_load_residual(task->store->config.dir, task->clock, psd_engine_model(task->engine),
                                           psd_engine_map(task->engine), psd_engine_index(task->engine), task->worker,
                                           where_residual_goes, task, &task->err)
                  : psd_err_set(&task->err, PSD_ENOMEM, "no memory for the residual of worker %u", task->worker);
    if (task->rc != PSD_OK)
        drop_residual(task, n_parts);
}

static psd_ckpt_target_t where_chunk_goes(void *arg, uint32_t chunk)
{
    psd_shard_state_t s = psd_shard_state(arg, chunk);
    psd_ckpt_target_t target = { .w = s.w, .state = s.state };
    memcpy(target.slot, s.slot, sizeof target.slot);
    return target;
}

static void load(task_t *task)
{
    const psd_engine_t *engine = task->engine;
    PSD_FAILPOINT("srv.load", NULL);
    task->rc = psd_ckpt_load(task->store->config.dir, task->clock, psd_engine_model(engine), psd_engine_map(engine),
                             psd_engine_index(engine), &task->store->config.groups, where_chunk_goes, shard_of(task),
                             &task->applied, &task->n_applied, &task->err);
    for (uint32_t p = 0; task->rc == PSD_OK && p < psd_shard_parts(shard_of(task)); p++)
        psd_shard_filled(shard_of(task), p);
    if (task->rc == PSD_OK)
        task->rc = psd_ckpt_residuals(task->store->config.dir, task->clock, &task->residual_of, &task->n_residuals, &task->err);
    PSD_FAILPOINT("srv.loaded", NULL);
}

static void run(task_t *task)
{
    psd_store_t *self = task->store;
    const psd_engine_t *engine = task->engine;
    switch (task->act) {
    case PSD_ACT_SAVE_BEGIN:
        psd_ckpt_abandon(&self->writer); /* of a run that ended in the middle of its file */
        self->writer = psd_ckpt_begin(self->config.dir, &self->writing, psd_engine_model(engine), psd_engine_map(engine),
                                      &self->config.groups, &task->err);
        task->rc = self->writer ? PSD_OK : task->err.code;
        break;
    case PSD_ACT_SAVE_PART:
        write_part(task);
        break;
    case PSD_ACT_SAVE_RESIDUAL:
        write_residual(task);
        break;
    case PSD_ACT_LOAD_RESIDUAL:
        load_residual(task);
        break;
    case PSD_ACT_SAVE_END:
        task->n_bytes = psd_ckpt_bytes(self->writer);
        task->rc = psd_ckpt_end(&self->writer, &task->err);
        break;
    case PSD_ACT_COMMIT:
        task->rc = psd_ckpt_commit(self->config.dir, &task->facts, &task->model, self->config.keep, &task->err);
        break;
    default:
        load(task);
        break;
    }
}

static void start_first(psd_store_t *self);

/* Skip requests for a file that could not be written. */
static void drop_rest_of_save(psd_store_t *self)
{
    psd_ckpt_abandon(&self->writer);
    for (task_t **at = &self->first->next; *at;) {
        task_t *task = *at;
        if (task->act == PSD_ACT_SAVE_PART || task->act == PSD_ACT_SAVE_RESIDUAL || task->act == PSD_ACT_SAVE_END) {
            *at = task->next;
            psd_buf_unref(&task->payload);
            free(task);
        } else {
            at = &task->next;
        }
    }
    for (self->last = self->first; self->last->next;)
        self->last = self->last->next;
}

static void tell_restored(task_t *task, uint64_t now)
{
    psd_member_t *applied = calloc(task->n_applied + 1, sizeof *applied);
    assert(applied && "no memory for the applied table");
    for (uint32_t i = 0; i < task->n_applied; i++)
        applied[i] = (psd_member_t){ .worker = task->applied[i].worker,
                                     .incarnation = task->applied[i].incarnation,
                                     .samples = task->applied[i].clock };
    psd_save_point_t point = { .clock = task->clock,
                               .version = task->facts.version,
                               .samples = task->facts.samples,
                               .lr = task->facts.lr,
                               .applied = applied,
                               .n_applied = task->n_applied,
                               .residual_of = task->residual_of,
                               .n_residuals = task->n_residuals };
    psd_node_restored(task->store->node, now, task->rc == PSD_OK ? NULL : task->err.text, &point, task->store->out);
    free(applied);
}

static void tell_loaded(task_t *task, uint64_t now)
{
    psd_buf_t **residual = task->residual;
    task->residual = NULL;
    psd_node_residual_loaded(task->store->node, now, task->worker, residual, residual ? NULL : task->err.text, task->store->out);
}

static void tell_node(task_t *task)
{
    psd_store_t *self = task->store;
    uint64_t now = uv_hrtime() / 1000000 + 1000;
    const bool ok = task->rc == PSD_OK,
               saving = task->act == PSD_ACT_SAVE_BEGIN || task->act == PSD_ACT_SAVE_PART || task->act == PSD_ACT_SAVE_RESIDUAL;
    if (!ok)
        psd_log_error("checkpoint.io", "clock=%" PRIu64 " reason=\"%s\"", task->clock, task->err.text);
    if (!ok && saving)
        drop_rest_of_save(self);
    if (task->act == PSD_ACT_SAVE_END && ok)
        self->n_bytes = task->n_bytes;
    if (task->act == PSD_ACT_SAVE_END || (!ok && saving))
        psd_node_saved(self->node, now, ok ? NULL : task->err.text, self->out);
    else if (task->act == PSD_ACT_SAVE_BEGIN)
        psd_node_save_begun(self->node, now, self->out);
    else if (task->act == PSD_ACT_SAVE_PART)
        psd_node_part_saved(self->node, now, task->part, self->out);
    else if (task->act == PSD_ACT_SAVE_RESIDUAL)
        psd_node_residual_saved(self->node, now, self->out);
    else if (task->act == PSD_ACT_LOAD_RESIDUAL)
        tell_loaded(task, now);
    else if (task->act == PSD_ACT_COMMIT)
        psd_node_committed(self->node, now, task->clock, ok ? NULL : task->err.text, self->out);
    else if (task->act == PSD_ACT_RESTORE)
        tell_restored(task, now);
}

static void free_task(task_t *task)
{
    if (task->act == PSD_ACT_RESTORE)
        psd_ckpt_facts_clear(&task->facts);
    psd_tensors_clear(&task->model);
    psd_buf_unref(&task->payload);
    free(task->residual_of);
    free(task->applied);
    free(task);
}

static void finish(task_t *task)
{
    psd_store_t *self = task->store;
    tell_node(task);
    self->first = task->next;
    if (!self->first)
        self->last = NULL;
    if (task->act == PSD_ACT_SAVE_BEGIN) { /* the writer still borrows the facts */
        free(self->writing.applied);
        self->writing.applied = NULL; /* the header has them; the list of residuals is needed while the file is being written */
    }
    free_task(task);
    start_first(self);
    self->config.done(self->config.arg);
}

/* The engine makes room on the loop's thread; this module's thread reads the chunks. */
static int prepare_restore(task_t *task)
{
    psd_tensor_list_t model = { 0 };
    int rc = psd_ckpt_read(task->store->config.dir, task->clock, &task->facts, &model, &task->err);
    if (rc == PSD_OK)
        rc = psd_engine_restore(task->engine, &model, &task->err);
    psd_tensors_clear(&model);
    return rc;
}

static void prepare_save(task_t *task)
{
    const psd_save_point_t *point = psd_engine_point(task->engine);
    psd_store_t *self = task->store;
    free(self->writing.residual);
    self->writing = task->facts;
    self->writing.applied = calloc(point->n_applied + 1, sizeof *self->writing.applied);
    assert(self->writing.applied && "no memory for the applied table");
    self->writing.n_applied = point->n_applied;
    for (uint32_t i = 0; i < point->n_applied; i++)
        self->writing.applied[i] = (psd_applied_t){ .worker = point->applied[i].worker,
                                                    .incarnation = point->applied[i].incarnation,
                                                    .clock = point->applied[i].samples };
    self->writing.residual = calloc(point->n_residuals + 1, sizeof *self->writing.residual);
    assert(self->writing.residual && "no memory for a list of residuals");
    self->writing.n_residuals = point->n_residuals;
    for (uint32_t i = 0; i < point->n_residuals; i++)
        self->writing.residual[i].worker = point->residual_of[i];
}

static void start_first(psd_store_t *self)
{
    task_t *task = self->first;
    if (!task)
        return;
    if (task->act == PSD_ACT_SAVE_BEGIN)
        prepare_save(task);
    if (task->act == PSD_ACT_RESTORE && (task->rc = prepare_restore(task)) != PSD_OK) {
        finish(task);
        return;
    }
    uv_ref((uv_handle_t *)&self->done);
    uv_mutex_lock(&self->lock);
    self->handed = task;
    uv_cond_signal(&self->wake);
    uv_mutex_unlock(&self->lock);
}

/* ---- the thread ---- */

static void run_tasks(void *arg)
{
    psd_store_t *self = arg;
    const id_t me = (id_t)gettid(); /* on Linux each thread has its own priority */
    setpriority(PRIO_PROCESS, me, getpriority(PRIO_PROCESS, me) + NICER);
    uv_mutex_lock(&self->lock);
    while (!self->ending) {
        if (!self->handed) {
            uv_cond_wait(&self->wake, &self->lock);
            continue;
        }
        uv_mutex_unlock(&self->lock);
        run(self->handed);
        uv_mutex_lock(&self->lock);
        self->handed = NULL;
        uv_async_send(&self->done);
    }
    uv_mutex_unlock(&self->lock);
}

static void on_done(uv_async_t *done)
{
    psd_store_t *self = done->data;
    uv_mutex_lock(&self->lock);
    const bool has_run = self->first && !self->handed;
    uv_mutex_unlock(&self->lock);
    if (!has_run)
        return;
    uv_unref((uv_handle_t *)done);
    finish(self->first);
}

static void end_thread(psd_store_t *self)
{
    uv_mutex_lock(&self->lock);
    self->ending = true;
    uv_cond_signal(&self->wake);
    uv_mutex_unlock(&self->lock);
    uv_thread_join(&self->thread);
}

static void free_store(psd_store_t **self_p)
{
    psd_store_t *self = *self_p;
    *self_p = NULL;
    uv_cond_destroy(&self->wake);
    uv_mutex_destroy(&self->lock);
    psd_ckpt_abandon(&self->writer);
    if (self->claim >= 0)
        close(self->claim);
    free(self->writing.applied);
    free(self->writing.residual);
    free(self);
}

/* Open and lock the file; true when this process holds the lock. */
static bool lock_file(psd_store_t *self, const char *path, int flags)
{
    if (self->claim >= 0)
        close(self->claim);
    self->claim = open(path, flags | O_CREAT | O_CLOEXEC, 0666);
    return self->claim >= 0 && flock(self->claim, LOCK_EX | LOCK_NB) == 0;
}

/* Take a lock that ends with the process, however it ends. The file is opened for reading, because an open writer would keep the
 * file system from being remounted read-only; only where locks need it (NFS) is it opened for writing. If the file system has no
 * locks, or cannot be written to now, the job continues without a lock and logs a warning. */
static int claim(psd_store_t *self, psd_err_t *err)
{
    char path[PATH_MAX];
    psd_err_t why = { 0 };
    snprintf(path, sizeof path, "%s/LOCK", self->config.dir);
    int rc = psd_durable_mkdir(self->config.dir, &why);
    if (rc == PSD_OK && (lock_file(self, path, O_RDONLY) || (errno == EBADF && lock_file(self, path, O_RDWR))))
        return PSD_OK;
    if (rc == PSD_OK && self->claim >= 0 && errno == EWOULDBLOCK)
        return psd_err_set(err, PSD_ECONFIG,
                           "another server 0 makes checkpoints in %s: wait until it has ended, or name another directory",
                           self->config.dir);
    psd_log_warn("checkpoint.unclaimed", "dir=\"%s\" reason=\"%s\" effect=\"nothing keeps another job out of it\"",
                 self->config.dir, rc == PSD_OK ? strerror(errno) : why.text);
    return PSD_OK;
}

/* A directory that can never be written to is an error in the job; one that is only full may have room later. */
static int look_at_directory(const psd_store_config_t *config, psd_err_t *err)
{
    psd_err_t why = { 0 };
    if (psd_durable_probe(config->dir, &why) == PSD_OK || !psd_durable_is_hopeless(errno))
        return PSD_OK;
    return psd_err_set(err, PSD_EIO, "checkpoint.dir: %s", why.text);
}

psd_store_t *psd_store_new(const psd_store_config_t *config, psd_err_t *err)
{
    if (look_at_directory(config, err) != PSD_OK)
        return NULL;
    psd_store_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a store");
        return NULL;
    }
    self->config = *config;
    self->claim = -1;
    self->done.data = self;
    uv_mutex_init(&self->lock);
    uv_cond_init(&self->wake);
    if (config->sole && claim(self, err) != PSD_OK) {
        free_store(&self);
        return NULL;
    }
    if (uv_thread_create(&self->thread, run_tasks, self) == 0) {
        if (uv_async_init(config->loop, &self->done, on_done) == 0) {
            uv_unref((uv_handle_t *)&self->done);
            return self;
        }
        end_thread(self);
    }
    psd_err_set(err, PSD_ESYSTEM, "the system refuses a thread for checkpoints, or a handle to wake the loop");
    free_store(&self);
    return NULL;
}

void psd_store_destroy(psd_store_t **self_p)
{
    psd_store_t *self = *self_p;
    if (!self)
        return;
    assert(!self->first);
    end_thread(self);
    uv_close((uv_handle_t *)&self->done, NULL);
    uv_run(self->config.loop, UV_RUN_DEFAULT); /* the handle closes */
    free_store(self_p);
}

void psd_store_carry_out(psd_store_t *self, psd_node_t *node, const psd_action_t *action, psd_actions_t *out)
{
    task_t *task = calloc(1, sizeof *task);
    assert(task && "no memory for a task");
    psd_engine_t *engine = psd_node_engine(node);
    const psd_save_point_t *point = psd_engine_point(engine);
    self->node = node;
    self->out = out;
    *task = (task_t){ .store = self,
                      .engine = engine,
                      .act = action->act,
                      .clock = action->clock,
                      .part = action->part,
                      .worker = action->worker,
                      .payload = psd_buf_ref(action->payload) };
    if (action->act != PSD_ACT_RESTORE && action->act != PSD_ACT_LOAD_RESIDUAL)
        task->facts = (psd_ckpt_facts_t){ .job = (char *)(uintptr_t)self->config.job,
                                          .settings = (char *)(uintptr_t)self->config.settings,
                                          .clock = action->clock,
                                          .version = point->version,
                                          .samples = point->samples,
                                          .lr = point->lr,
                                          .shard = psd_engine_index(engine),
                                          .n_shards = psd_engine_map(engine)->n_servers };
    int rc = action->act == PSD_ACT_COMMIT ? psd_tensors_copy(&task->model, psd_engine_model(engine)) : PSD_OK;
    assert(rc == PSD_OK && "no memory for a copy of the model's list of tensors");
    if (self->last)
        self->last->next = task;
    else
        self->first = task;
    self->last = task;
    if (self->first == task)
        start_first(self);
}

uint64_t psd_store_bytes(const psd_store_t *self) { return self ? self->n_bytes : 0; }
