/* consistency.h - who goes on and who waits: one row per mode. The meaning of each is proved by the simulator. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct psd_mode {
    const char *name;    /* as in sync.mode */
    const char *summary; /* one line for --help and /status */
    bool per_push;       /* a complete push is a step of its own; otherwise the coordinator closes rounds */
} psd_mode_t;

/* By name; NULL when there is none. */
const psd_mode_t *psd_mode_find(const char *name);

/* The i-th, NULL past the end. */
const psd_mode_t *psd_mode_at(size_t i);

/* How an asynchronous step scales its learning rate. `workers`: members of the view, `staleness`: steps that the
 * shard made between the pull and this push. */
typedef struct psd_lr_rule {
    const char *name; /* as in sync.lr_rule */
    const char *summary;
    double (*factor)(uint32_t workers, uint64_t staleness);
} psd_lr_rule_t;

const psd_lr_rule_t *psd_lr_rule_find(const char *name);
const psd_lr_rule_t *psd_lr_rule_at(size_t i);
