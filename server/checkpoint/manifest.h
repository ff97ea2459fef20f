/* manifest.h - the file that makes the shards' files of one clock a checkpoint, as text: JSON with the facts that they share, the
 * model, and each file's length and header CRC. It begins with its own CRC-32C. */
#pragma once

#include <stdbool.h>

#include "server/checkpoint/checkpoint.h"

typedef struct psd_manifest_file {
    uint64_t n_bytes; /* its length */
    uint32_t crc;     /* of its header, which holds those of its data */
} psd_manifest_file_t;

typedef struct psd_manifest {
    psd_ckpt_facts_t facts; /* shard 0 and no applied table */
    psd_tensor_list_t model;
    psd_manifest_file_t file[PSD_MAX_SERVERS]; /* facts.n_shards of them */
} psd_manifest_t;

/* As text, `*n_bytes` of it; free() it. NULL with PSD_EINVAL when a string is not UTF-8 or lr not finite,
 * PSD_ENOMEM. */
char *psd_manifest_print(const psd_manifest_t *self, size_t *n_bytes, psd_err_t *err);

/* Read the text of the manifest of `clock`; `path` is for messages. PSD_EDATA, PSD_ENOMEM; clear it in any
 * case. */
int psd_manifest_parse(psd_manifest_t *out, const char *text, size_t n_bytes, uint64_t clock, const char *path, psd_err_t *err);

void psd_manifest_clear(psd_manifest_t *self);

/* Compute the CRC of a text that was changed. False when it does not begin like a manifest. */
bool psd_manifest_seal(char *text, size_t n_bytes);
