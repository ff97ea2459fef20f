/* store.h - carries out the checkpoint actions of the engine and the coordinator. Its thread writes and reads the files one at a
 * time; each outcome is an event for the node. All calls on the loop's thread. */
#pragma once

#include <uv.h>

#include "server/checkpoint/checkpoint.h"
#include "server/core/node.h"

typedef struct psd_store psd_store_t;

typedef struct psd_store_config {
    uv_loop_t *loop;
    const char *dir;            /* where checkpoints are; borrowed */
    const char *job, *settings; /* noted in the files; borrowed */
    psd_groups_t groups;
    uint32_t keep; /* whole checkpoints that are kept */
    bool sole;     /* this is server 0: it locks the directory against every other server 0 */
    /* Called after an event was given to the node: `out` holds its actions. */
    void (*done)(void *arg);
    void *arg;
} psd_store_config_t;

/* What a new coordinator must know about the existing checkpoints. */
typedef struct psd_store_points {
    uint64_t clock[16]; /* newest first */
    size_t n;
    psd_tensor_list_t model; /* of the newest; n = 0 without any */
    double lr;               /* its learning rate */
} psd_store_points_t;

/* Look for checkpoints to continue from. PSD_EDATA when there are some but none is complete: psd does not start afresh over damaged
 * checkpoints. PSD_ECONFIG, quoting both sides, when the newest is of another job or has other settings (apart from the number of
 * servers). */
int psd_store_find(const char *dir, const char *job, const char *settings, psd_store_points_t *out, psd_err_t *err);

/* NULL with PSD_ENOMEM, PSD_ESYSTEM. */
/* PSD_ECONFIG in `err` when `sole` is set and another process has locked the directory; the lock ends with the process. */
psd_store_t *psd_store_new(const psd_store_config_t *config, psd_err_t *err);

/* Call it when no work is in progress, that is, when uv_run has returned; it runs the loop once more. Sets `*self_p` to NULL; NULL
 * is fine. */
void psd_store_destroy(psd_store_t **self_p);

/* Carry out one of the checkpoint actions for `node`; it gets the outcome, and appends its actions to `out`. */
void psd_store_carry_out(psd_store_t *self, psd_node_t *node, const psd_action_t *action, psd_actions_t *out);

/* Size of the newest durable file; 0 before the first one, and for NULL. */
uint64_t psd_store_bytes(const psd_store_t *self);
