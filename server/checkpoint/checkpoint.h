/* checkpoint.h - a shard's state as a file that is either whole or absent, and the manifest that makes the shards' files of one
 * clock a checkpoint.
 *
 *   DIR/<clock, 12 digits>/shard-<index>.safetensors   one per server, immutable once it has this name
 *   DIR/MANIFEST-<clock, 12 digits>.json               written when every shard's file is durable; makes it count
 *
 * A shard's file is a safetensors file, so that any tool opens it: an entry per chunk and array, F32, named
 *   fc1.weight[0:1024]           the weights
 *   fc1.weight[0:1024]/exp_avg   state, slow_param included
 * The header's __metadata__ (strings only) holds what psd needs to go on exactly: format version, job, settings, clock, version,
 * shard, servers, each chunk's update counters and scalars (doubles as hexadecimal bits), the applied table, a CRC-32C of each
 * array (at most 1 MiB), and one of the header itself (server/checkpoint/shardfile.h). Data begins at a multiple of 4096.
 *
 * Writing: a new file of its own name in the same directory, space reserved first, parts written as they come, header last,
 * fdatasync, close, rename, fsync of the directory. Any failure unlinks the file, and the next attempt has another name: a failed
 * fsync is never tried again on the same file. Reading checks everything before anything is used. Every function may be called
 * from any thread, one at a time per writer. */
#pragma once

#include <stdbool.h>

#include "common/optim/optimizer.h"
#include "common/base/partition.h"
#include "proto/message.h"

/* A worker's row of the applied table. */
typedef struct psd_applied {
    uint32_t worker;
    uint64_t incarnation, clock;
} psd_applied_t;

/* What a file says beside its arrays; strings are borrowed on the way in, owned (psd_ckpt_facts_clear) on the
 * way out. */
typedef struct psd_ckpt_facts {
    char *job, *settings;     /* the job's name; what servers must agree on, the optimizer included */
    uint64_t clock, version;  /* closed rounds; committed steps */
    uint64_t samples;         /* behind the steps; in the manifest alone, by the count of server 0 */
    uint64_t view_id;         /* numbered membership at that point */
    double lr;                /* learning rate in force */
    uint32_t shard, n_shards; /* whose file, of how many */
    uint32_t n_applied;
    psd_applied_t *applied; /* ascending by worker */
} psd_ckpt_facts_t;
void psd_ckpt_facts_clear(psd_ckpt_facts_t *self);

typedef struct psd_ckpt_writer psd_ckpt_writer_t;

/* Begin shard `facts->shard`'s file for `facts->clock` below `dir` (made when missing): its size is known
 * from the model, the map and the rule, and reserved. NULL with PSD_EIO (which names path and reason, "no
 * space left" among them), PSD_ENOMEM, or PSD_EINVAL when the shard has too many chunks for one header (some
 * 600 000 arrays). All arguments are borrowed until the writer is ended or abandoned. */
psd_ckpt_writer_t *psd_ckpt_begin(const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model,
                                  const psd_partition_t *map, const psd_rule_t *rule, psd_err_t *err);

/* Size of the file. */
uint64_t psd_ckpt_bytes(const psd_ckpt_writer_t *self);

/* Write one chunk of the shard: its weights, its rule's slots (rule->n_slots arrays), its counters; `chunk` counts from 0 among the shard's.
 * Each once. */
int psd_ckpt_chunk(psd_ckpt_writer_t *self, uint32_t chunk, const float *w, float *const *slot, const psd_rule_state_t *state,
                   psd_err_t *err);

/* All parts are written: make the file durable under its name. Frees the writer (sets it to NULL) in any
 * case. */
int psd_ckpt_end(psd_ckpt_writer_t **self_p, psd_err_t *err);

/* Give up: unlink, free, set to NULL. NULL is fine. */
void psd_ckpt_abandon(psd_ckpt_writer_t **self_p);

/* Every shard's file of `clock` is durable: write the manifest (names, lengths, checksums of the files'
 * headers, the model's tensors, the facts that are the same for all shards). Before, the files are opened:
 * they are of these facts and hold every chunk of the model, else PSD_EDATA, PSD_ENOINPUT. PSD_EIO. Then
 * prune as psd_ckpt_prune does, but never this one; that it fails is logged, for the checkpoint counts. A
 * checkpoint of the same clock that was there before is replaced, file by file: whoever saves it went on from
 * another one. */
int psd_ckpt_commit(const char *dir, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, uint32_t keep, psd_err_t *err);

/* Clocks of the checkpoints below `dir` whose manifest is readable and whose files are there with the right
 * lengths and header checksums, newest first, at most `capacity`. Returns how many; 0 when there is none (a
 * missing `dir` too). */
size_t psd_ckpt_list(const char *dir, uint64_t *clocks, size_t capacity);

/* The same whatever their state is. */
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

/* Load the chunks of server `server` in `map`, whatever the number of servers was when they were saved,
 * checking the CRC of every byte used. `target(arg, chunk)` says where the server's chunk of that number goes. `applied` (may be NULL) gets
 * the union of the applied tables of all files (owned, *n_applied of them); where they differ on a worker, as
 * in asp they may, the later row, so that no push is applied twice and all shards count a worker's pushes
 * alike. The rule may have other values of its hyper-parameters than when it was saved, but it is the same
 * optimizer with the same arrays. PSD_EDATA with file and reason; nothing may be used then. */
int psd_ckpt_load(const char *dir, uint64_t clock, const psd_tensor_list_t *model, const psd_partition_t *map, uint32_t server,
                  const psd_rule_t *rule, psd_ckpt_target_t (*target)(void *arg, uint32_t chunk), void *arg,
                  psd_applied_t **applied, uint32_t *n_applied, psd_err_t *err);

/* Check one checkpoint whole: every file, every CRC, coverage of the model. PSD_OK or PSD_EDATA naming the
 * first flaw. */
int psd_ckpt_verify(const char *dir, uint64_t clock, psd_err_t *err);

/* The rule that saved the checkpoint, and the counters and scalars of each tensor, model->n of them in
 * `state`: what the files say without their arrays. PSD_EDATA when the chunks of a tensor are not of one
 * update. */
int psd_ckpt_counters(const char *dir, uint64_t clock, const psd_tensor_list_t *model, psd_rule_t *rule, psd_rule_state_t *state,
                      psd_err_t *err);

/* Check the checkpoint (of `model`; NULL: of whatever model) as psd_ckpt_verify does and hand each chunk of
 * the model to `each` once, in any order, as soon as its CRCs are right: its place, its weights and the
 * arrays of its rule, borrowed for the call. What `each` returns, unless PSD_OK, ends it. What it was given
 * before an error may be part of a damaged checkpoint. */
int psd_ckpt_each(const char *dir, uint64_t clock, const psd_tensor_list_t *model,
                  int (*each)(void *arg, const psd_chunk_t *chunk, const psd_ckpt_target_t *data, psd_err_t *err), void *arg,
                  psd_err_t *err);

/* Remove what no longer counts: checkpoints older than the newest `keep` (at least 2) whole ones, and what
 * attempts older than the newest whole one left behind. Later ones stay, for they may be being written;
 * without a whole one, all stays. `tell`, unless NULL, is told each file; with `dry`, none goes. PSD_EIO, and
 * the rest may stay. */
int psd_ckpt_prune(const char *dir, uint32_t keep, bool dry, void (*tell)(void *arg, const char *path), void *arg, psd_err_t *err);
