/* shardfile.h - the bytes of a shard's file of a checkpoint: writes its header, and reads it back with every check that the file
 * itself allows. One run of entries per chunk: the weights, then the arrays of its tensor's rule, then a residual for each worker
 * whose residual is saved. Notes of the header:
 *
 *   psd.crc        CRC-32C of length and header, with these 8 digits taken as zeros
 *   psd.format     2; of format 1, which is read too, a rule had two doubles
 *   psd.job .settings .rule .groups .lr .clock .version .view .shard .shards
 *   psd.applied    per worker: id (8 hexadecimal digits), incarnation (16), clock (16)
 *   psd.residuals  per worker whose residual has a place: id (8), and 1 when all of it is there, otherwise 0; no note: none has
 *   psd.state      per chunk: updates (16), Lookahead syncs (16), the bits of the rule's four doubles (16 each)
 *   psd.data_crc   per chunk and array: CRC-32C (8)
 *
 * Arrays have at most 1 MiB, so a reader of only some chunks has checked every byte that it uses. */
#pragma once

#include <stdbool.h>

#include "common/system/safetensors.h"
#include "server/checkpoint/checkpoint.h"

/* Where the numbers that are known last go in a header. */
typedef struct psd_shardfile_places {
    char *crc, *residuals, *state, *data_crc; /* inside the header's bytes */
} psd_shardfile_places_t;

/* Which arrays of the file are those of a shard's chunks: chunk i's are first[i] to first[i + 1] - 1. Room for one more than its
 * chunks. */
void psd_shardfile_count(uint32_t *first, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, const psd_partition_t *map,
                         const psd_groups_t *groups);

/* The elements of each of these arrays; returns the bytes of all. */
uint64_t psd_shardfile_place(uint32_t *n, const psd_ckpt_facts_t *facts, const psd_tensor_list_t *model, const psd_partition_t *map,
                             const psd_groups_t *groups, const uint32_t *first);

/* Make the header, its last numbers zero. PSD_EINVAL, PSD_ENOMEM; free(header->bytes) in any case. */
int psd_shardfile_header(psd_header_t *header, psd_shardfile_places_t *places, const psd_ckpt_facts_t *facts,
                         const psd_tensor_list_t *model, const psd_partition_t *map, const psd_groups_t *groups,
                         const uint32_t *first, psd_err_t *err);

/* Fill in a chunk's state; the CRC of one of the file's arrays; the note that the i-th residual is complete. */
void psd_shardfile_set_state(const psd_shardfile_places_t *places, uint32_t part, const psd_rule_state_t *state);
void psd_shardfile_set_crc(const psd_shardfile_places_t *places, size_t array, uint32_t crc);
void psd_shardfile_set_whole(const psd_shardfile_places_t *places, uint32_t i);

/* A file that is being read. */
typedef struct psd_shardfile {
    psd_safetensors_t st;
    psd_ckpt_facts_t facts;
    psd_groups_t groups; /* the rules that trained its chunks */
    uint32_t crc;        /* of the header */
    uint32_t n_scalars;  /* doubles of a chunk's state */
    uint32_t n_parts;    /* runs of entries, one for each chunk */
    uint32_t *first;     /* the first entry of each, and one more */
} psd_shardfile_t;

/* Open, and read all but the data. With `only_crc`, only the header's CRC is checked. PSD_ENOINPUT, PSD_EIO,
 * PSD_EDATA, PSD_ENOMEM; close it in any case. */
int psd_shardfile_open(psd_shardfile_t *out, const char *path, bool only_crc, psd_err_t *err);

/* The part of it that needs no file: `self->st` has bytes, the rest is zero. PSD_EDATA, PSD_ENOMEM. */
int psd_shardfile_parse(psd_shardfile_t *self, bool only_crc, psd_err_t *err);

void psd_shardfile_close(psd_shardfile_t *self);

/* Which chunk of `map` the i-th run of entries is; NULL with PSD_EDATA when it is none of them, or when its entries differ from
 * those that psd would write. `hint`, 0 at first, remembers where the last one was found. */
const psd_chunk_t *psd_shardfile_chunk(const psd_shardfile_t *self, uint32_t i, const psd_tensor_list_t *model,
                                       const psd_partition_t *map, uint32_t *hint, psd_err_t *err);

/* The i-th run's state, which the header has. PSD_EDATA. */
int psd_shardfile_state(const psd_shardfile_t *self, uint32_t i, psd_rule_state_t *state, psd_err_t *err);

/* Read the i-th run. PSD_EDATA when a CRC differs, PSD_EIO. */
int psd_shardfile_read(const psd_shardfile_t *self, uint32_t i, const psd_ckpt_target_t *to, psd_err_t *err);

/* Read the k-th residual of the i-th run, whose number of elements is that of its chunk. The same errors. */
int psd_shardfile_residual(const psd_shardfile_t *self, uint32_t i, uint32_t k, float *to, psd_err_t *err);
