/* shardfile.h - what a shard's file of a checkpoint says, as bytes: its header written, and read back with
 * every check that the file itself allows. One group of entries per chunk: the weights, then the rule's
 * arrays. Notes of the header:
 *
 *   psd.crc        CRC-32C of length and header, with these 8 digits taken as zeros
 *   psd.format     1
 *   psd.job .settings .rule .lr .clock .version .view .shard .shards
 *   psd.applied    per worker: id (8 hexadecimal digits), incarnation (16), clock (16)
 *   psd.state      per chunk: updates (16), Lookahead syncs (16), the bits of the rule's two doubles (16 each)
 *   psd.data_crc   per chunk and array: CRC-32C (8)
 *
 * Arrays have at most 1 MiB, so whoever reads some chunks only has checked every byte that he uses. */
#pragma once

#include <stdbool.h>

#include "common/system/safetensors.h"
#include "server/checkpoint/checkpoint.h"

/* Where in a header the numbers go that are known last. */
typedef struct psd_shardfile_places {
    char *crc, *state, *data_crc; /* inside the header's bytes */
} psd_shardfile_places_t;

/* Make the header, its last numbers zero. PSD_EINVAL, PSD_ENOMEM; free(header->bytes) in any case. */
int psd_shardfile_header(psd_header_t *header, psd_shardfile_places_t *places, const psd_ckpt_facts_t *facts,
                         const psd_tensor_list_t *model, const psd_partition_t *map, const psd_rule_t *rule, psd_err_t *err);

/* Fill in a chunk's numbers: its state, and the CRC of each of its `n_arrays` arrays. */
void psd_shardfile_set(const psd_shardfile_places_t *places, uint32_t part, const psd_rule_state_t *state, const uint32_t *crc,
                       uint32_t n_arrays);

/* A file that is read. */
typedef struct psd_shardfile {
    psd_safetensors_t st;
    psd_ckpt_facts_t facts;
    psd_rule_t rule;
    uint32_t crc;     /* of the header */
    uint32_t n_parts; /* groups of entries */
} psd_shardfile_t;

/* Open, and read all but the data. The header's CRC alone is checked when `only_crc`. PSD_ENOINPUT, PSD_EIO,
 * PSD_EDATA, PSD_ENOMEM; close it in any case. */
int psd_shardfile_open(psd_shardfile_t *out, const char *path, bool only_crc, psd_err_t *err);

/* The part of it that needs no file: `self->st` has bytes, the rest is zero. PSD_EDATA, PSD_ENOMEM. */
int psd_shardfile_parse(psd_shardfile_t *self, bool only_crc, psd_err_t *err);

void psd_shardfile_close(psd_shardfile_t *self);

/* Which chunk of `map` the i-th group is; NULL with PSD_EDATA when it is none, or its entries are not as they
 * would be written. `hint`, 0 at first, remembers where the last one was found. */
const psd_chunk_t *psd_shardfile_chunk(const psd_shardfile_t *self, uint32_t i, const psd_tensor_list_t *model,
                                       const psd_partition_t *map, uint32_t *hint, psd_err_t *err);

/* The i-th group's state, which the header has. PSD_EDATA. */
int psd_shardfile_state(const psd_shardfile_t *self, uint32_t i, psd_rule_state_t *state, psd_err_t *err);

/* Read the i-th group. PSD_EDATA when a CRC differs, PSD_EIO. */
int psd_shardfile_read(const psd_shardfile_t *self, uint32_t i, const psd_ckpt_target_t *to, psd_err_t *err);
