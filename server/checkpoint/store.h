/* store.h - carries out the engine's and the coordinator's wishes about checkpoints: files are written and read on a
 * thread of its own, one thing after the other, and the outcome is an event of the node. All calls on the loop's thread. */
#pragma once

#include <uv.h>

#include "server/checkpoint/checkpoint.h"
#include "server/core/node.h"

typedef struct psd_store psd_store_t;

typedef struct psd_store_config {
    uv_loop_t *loop;
    const char *dir;            /* where checkpoints are; borrowed */
    const char *job, *settings; /* what the files say; borrowed */
    psd_rule_t rule;
    uint32_t keep; /* whole checkpoints that are kept */
    bool sole;     /* this is server 0: no other one may have the directory meanwhile */
    /* After an event was given to the node: `out` has what it wants done. */
    void (*done)(void *arg);
    void *arg;
} psd_store_config_t;

/* What a new coordinator must know of the checkpoints that are there. */
typedef struct psd_store_points {
    uint64_t clock[16]; /* newest first */
    size_t n;
    psd_tensor_list_t model; /* of the newest; n = 0 without any */
    double lr;               /* its learning rate */
} psd_store_points_t;

/* Look for checkpoints to go on from. PSD_EDATA when there are some and none is whole: nothing is begun anew over a damaged
 * past. PSD_ECONFIG, with both sides, when the newest is of another job or other settings (but for the number of servers). */
int psd_store_find(const char *dir, const char *job, const char *settings, psd_store_points_t *out, psd_err_t *err);

/* NULL with PSD_ENOMEM, PSD_ESYSTEM. */
/* PSD_ECONFIG in `err` when `sole` is wanted and another process has the directory; it is let go with the process. */
psd_store_t *psd_store_new(const psd_store_config_t *config, psd_err_t *err);

/* Only when nothing is under way any more, that is, after the loop has run out; runs it once more. Sets `*self_p` to NULL; NULL is fine. */
void psd_store_destroy(psd_store_t **self_p);

/* Carry out one of the actions on checkpoints for `node`; outcomes go to it with the actions in `out`. */
void psd_store_carry_out(psd_store_t *self, psd_node_t *node, const psd_action_t *action, psd_actions_t *out);

/* Size of the newest file that was made durable; 0 before the first, and of NULL. */
uint64_t psd_store_bytes(const psd_store_t *self);
