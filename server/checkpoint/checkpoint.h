/* checkpoint.h - a shard's state as a file that is either whole or absent, and the manifest that makes the shards' files of one
 * clock a checkpoint.
 *
 *   DIR/<clock, 12 digits>/shard-<index>.safetensors   one per server, immutable once it has this name
 *   DIR/MANIFEST-<clock, 12 digits>.json               written when every shard's file is durable; makes it count
 *
 * A shard's file is a safetensors file, so that any tool opens it: an entry per chunk and array, F32, named
 *   fc1.weight[0:1024]             the weights
 *   fc1.weight[0:1024]/exp_avg     state, slow_param included; a state shorter than its tensor (adafactor's row_var) is stored
 *                                  with the first chunks, and is empty with the others
 *   fc1.weight[0:1024]/residual.3  worker 3's residual (codec.residual)
 * The header's __metadata__ (strings only) holds what psd needs to continue exactly: format version, job, settings, clock, version,
 * shard, servers, each chunk's update counters and scalars (doubles as hexadecimal bits), the applied table, a CRC-32C of each
 * array (at most 1 MiB), and one of the header itself (server/checkpoint/shardfile.h). Data begins at a multiple of 4096.
 *
 * Writing: a new file of its own name in the same directory, space reserved first, parts written as they come, header last,
 * fdatasync, close, rename, fsync of the directory. Any failure unlinks the file, and the next attempt has another name: a
 * failed fsync is never tried again on the same file. Reading checks everything before anything is used. Every function may be
 * called from any thread, one at a time per writer. */
#pragma once

#include <stdbool.h>

#include "common/optim/groups.h"
#include "common/base/partition.h"
#include "proto/message.h"

/* A worker's row of the applied table. */
typedef struct psd_applied {
    uint32_t worker;
    uint64_t incarnation, clock;
} psd_applied_t;

/* A worker for whose residual a file has room. */
typedef struct psd_ckpt_residual {
    uint32_t worker;
    bool is_whole; /* on the way out: all of it is there */
} psd_ckpt_residual_t;

/* What a file contains besides its arrays; strings are borrowed on the way in, owned (psd_ckpt_facts_clear) on the way out. */
typedef struct psd_ckpt_facts {
    char *job, *settings;     /* the job's name; what servers must agree on, the optimizer included */
    uint64_t clock, version;  /* closed rounds; committed steps */
    uint64_t samples;         /* samples behind the steps; only in the manifest, as server 0 counted them */
    uint64_t view_id;         /* numbered membership at that point */
    double lr;                /* learning rate in force; where there is a schedule, the base that it works on */
    uint32_t shard, n_shards; /* the server that wrote the file, and the number of servers */
    uint32_t n_applied;
    psd_applied_t *applied; /* ascending by worker */
    uint32_t n_residuals;
    psd_ckpt_residual_t *residual; /* ascending by worker */
} psd_ckpt_facts_t;
void psd_ckpt_facts_clear(psd_ckpt_facts_t *self);

/* The learning rate of the next step after it: `lr` under the schedule that the settings name, for a training set of `rows` (0: not
 * known). `*momentum` is the rule's momentum under that schedule; NaN where the schedule does not change it. */
double psd_ckpt_next_lr(const psd_ckpt_facts_t *self, uint64_t rows, double *momentum);

/* The same of one of the groups that saved it. */
double psd_ckpt_group_lr(const psd_ckpt_facts_t *self, uint64_t rows, const psd_groups_t *groups, uint32_t g, double *momentum);

typedef struct psd_ckpt_writer psd_ckpt_writer_t;

/* Begin shard `facts->shard`'s file for `facts->clock` below `dir` (made when missing): its size is known from the model, the map
 * and the groups, and reserved. NULL with PSD_EIO (which names path and reason, such as "no space left"), PSD_ENOMEM, or PSD_EINVAL
 * when the shard has too many chunks for one header (some 600 000 arrays). All arguments are borrowed until the writer is ended or
 * abandoned. */
psd_ckpt_writer_t *psd_ckpt_begin(const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model,
                                  const psd_partition_t *map, const psd_groups_t *groups, psd_err_t *err);

/* Size of the file. */
uint64_t psd_ckpt_bytes(const psd_ckpt_writer_t *self);

/* Write one chunk of the shard: its weights, its rule's slots (as many arrays as that has), its counters; `chunk` counts from 0
 * among the shard's. Each once. */
int psd_ckpt_chunk(psd_ckpt_writer_t *self, uint32_t chunk, const float *w, float *const *slot, const psd_rule_state_t *state,
                   psd_err_t *err);

/* Write one chunk of the residual of facts->residual[i]. Each at most once; the file notes a residual with missing chunks as
 * incomplete. */
int psd_ckpt_residual(psd_ckpt_writer_t *self, uint32_t i, uint32_t chunk, const float *kept, psd_err_t *err);

/* All parts are written: make the file durable under its name. Frees the writer (sets it to NULL) in any
 * case. */
int psd_ckpt_end(psd_ckpt_writer_t **self_p, psd_err_t *err);

/* Give up: unlink, free, set to NULL. NULL is fine. */
void psd_ckpt_abandon(psd_ckpt_writer_t **self_p);

/* Call it when every shard's file of `clock` is durable. First checks that the files match these facts and hold every chunk of the
 * model (otherwise PSD_EDATA or PSD_ENOINPUT), then writes the manifest: names, lengths, checksums of the files' headers, the
 * model's tensors, and the facts that are the same for all shards. PSD_EIO when it cannot. Then prunes as psd_ckpt_prune does, but
 * never this checkpoint; a failure to prune is only logged, because the checkpoint counts. A checkpoint of the same clock that was
 * there before is replaced, file by file: the job that saves it continued from another one. */
int psd_ckpt_commit(const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, uint32_t keep, psd_err_t *err);

/* Clocks of the checkpoints below `dir` whose manifest is readable and whose files are there with the right
 * lengths and header checksums, newest first, at most `capacity`. Returns how many; 0 when there is none (a
 * missing `dir` too). */
size_t psd_ckpt_list(const char *dir, uint64_t *clocks, size_t capacity);

/* The same, but of all that have a manifest, whatever state their files are in. */
size_t psd_ckpt_manifests(const char *dir, uint64_t *clocks, size_t capacity);

/* Whether psd_ckpt_list would name it. PSD_ENOINPUT without manifest or a file, PSD_EIO, PSD_EDATA with file
 * and reason. */
int psd_ckpt_check(const char *dir, uint64_t clock, psd_err_t *err);

/* Read the manifest of `clock`: facts (shard and applied empty) and the model. PSD_ENOINPUT, PSD_EDATA with
 * file and reason. */
int psd_ckpt_read(const char *dir, uint64_t clock, psd_ckpt_facts_t *facts, psd_tensor_list_t *model, psd_err_t *err);

/* Where a loaded chunk goes: arrays of `n` floats to be filled, and the counters. */
typedef struct psd_ckpt_target {
    float *w;
    float *slot[PSD_MAX_SLOTS];
    psd_rule_state_t *state;
} psd_ckpt_target_t;

/* Load the chunks of server `server` in `map`, whatever the number of servers was when they were saved, checking the CRC of every
 * byte used. `target(arg, chunk)` says where the server's chunk of that number goes. `applied` (may be NULL) gets the union of the
 * applied tables of all files (owned, *n_applied of them); where they differ on a worker, as in asp they may, the later row, so
 * that no push is applied twice and all shards count a worker's pushes alike. A tensor's rule may have other hyper-parameter values
 * than when it was saved, but must be the same optimizer with the same arrays. PSD_EDATA with file and reason; the caller must then
 * use nothing that was loaded. */
int psd_ckpt_load(const char *dir, uint64_t clock, const psd_tensor_list_t *model, const psd_partition_t *map, uint32_t server,
                  const psd_groups_t *groups, psd_ckpt_target_t (*target)(void *arg, uint32_t chunk), void *arg,
                  psd_applied_t **applied, uint32_t *n_applied, psd_err_t *err);

/* The workers whose residual is whole in every file: `*n` of them, ascending, for the caller to free. PSD_ENOINPUT, PSD_EIO,
 * PSD_EDATA, PSD_ENOMEM. */
int psd_ckpt_residuals(const char *dir, uint64_t clock, uint32_t **workers, uint32_t *n, psd_err_t *err);

/* Load the residual of one of them, of the chunks of server `server` in `map`, as psd_ckpt_load does. */
int psd_ckpt_load_residual(const char *dir, uint64_t clock, const psd_tensor_list_t *model, const psd_partition_t *map,
                           uint32_t server, uint32_t worker, float *(*target)(void *arg, uint32_t chunk), void *arg,
                           psd_err_t *err);

/* Check one checkpoint whole: every file, every CRC, coverage of the model. PSD_OK or PSD_EDATA naming the
 * first flaw. */
int psd_ckpt_verify(const char *dir, uint64_t clock, psd_err_t *err);

/* The rules that saved the checkpoint, and the counters and scalars of each tensor, model->n of them in `state`; reads no arrays.
 * PSD_EDATA when the chunks of a tensor are not of one update. */
int psd_ckpt_counters(const char *dir, uint64_t clock, const psd_tensor_list_t *model, psd_groups_t *groups,
                      psd_rule_state_t *state, psd_err_t *err);

/* Check the checkpoint (of `model`; NULL: of any model) as psd_ckpt_verify does and hand each chunk of the model to `each` once, in
 * any order, as soon as its CRCs are right: its place, its weights and the arrays of its rule, borrowed for the call. A return
 * value of `each` other than PSD_OK ends the walk. Chunks handed over before an error may be part of a damaged checkpoint. */
int psd_ckpt_each(const char *dir, uint64_t clock, const psd_tensor_list_t *model,
                  int (*each)(void *arg, const psd_chunk_t *chunk, const psd_ckpt_target_t *data, psd_err_t *err), void *arg,
                  psd_err_t *err);

/* Remove checkpoints older than the newest `keep` (at least 2) whole ones, and files that failed attempts older than the newest
 * whole one left behind. Later files stay, because a server may still be writing them; without any whole checkpoint, everything
 * stays. `tell`, unless NULL, is called for each file; with `dry`, nothing is removed. PSD_EIO when a file cannot be removed; other
 * files may stay then. */
int psd_ckpt_prune(const char *dir, uint32_t keep, bool dry, void (*tell)(void *arg, const char *path), void *arg, psd_err_t *err);
