/* reading.h - a follower's side of the protocol as a state machine: it asks server 0 for a snapshot of the weights, then all
 * servers for the parts of that snapshot, so that all weights are of one version. It takes no part in the job.
 *
 * Pure: events in, actions out (proto/actions.h). Peers are PSD_PEER_SERVER + index of the server. One thread at a time. */
#pragma once

#include "common/base/partition.h"
#include "common/optim/groups.h"
#include "proto/actions.h"

typedef struct psd_reading psd_reading_t;

typedef struct psd_reading_config {
    const char *job;  /* copied */
    const char *name; /* copied */
    uint64_t nonce;   /* its requests are numbered from here on; not 0 */
    /* Reads the job's rule and groups, as in psd_session_config_t. */
    int (*read_groups)(psd_groups_t *groups, const char *rule, const char *text, psd_err_t *err);
} psd_reading_config_t;

typedef enum psd_reading_phase {
    PSD_READING_IDLE,   /* there is no request */
    PSD_READING_ASKING, /* asks server 0 for a snapshot */
    PSD_READING_PARTS,  /* requests the parts of the snapshot */
    PSD_READING_FAILED  /* see psd_reading_error; psd_reading_begin tries again */
} psd_reading_phase_t;

/* NULL when memory runs out. */
psd_reading_t *psd_reading_new(const psd_reading_config_t *config);
void psd_reading_destroy(psd_reading_t **self_p);

/* Whether it has a handler for this kind: for those that proto/message.h sends to a follower, and no others. */
bool psd_reading_takes(psd_kind_t kind);

/* IDLE or FAILED -> ASKING, then PARTS, then IDLE with newer weights: with `slow`, Lookahead's slow weights, if there are any. */
void psd_reading_begin(psd_reading_t *self, uint64_t now_ms, bool slow, psd_actions_t *out);
/* The caller gives up. The weights that were read before stay. */
void psd_reading_stop(psd_reading_t *self);

/* A well-formed message from server `from`; `payload` NULL when empty, borrowed. */
void psd_reading_message(psd_reading_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out);
/* Call about every 50 ms while it is not idle. */
void psd_reading_tick(psd_reading_t *self, uint64_t now_ms, psd_actions_t *out);
/* Reading cannot continue. */
void psd_reading_fail(psd_reading_t *self, int code, const char *why);

psd_reading_phase_t psd_reading_phase(const psd_reading_t *self);
const psd_err_t *psd_reading_error(const psd_reading_t *self);
/* What the reading waits for, as one clause; "" when it does not wait. */
void psd_reading_describe_wait(const psd_reading_t *self, char *text, size_t n);

/* Where the servers are; NULL before they have answered. */
const psd_cluster_t *psd_reading_cluster(const psd_reading_t *self);
/* The job's tensors, and the weights that were read last, valid until psd_reading_begin after the next one; version 0 and NULL
 * before. In asp, where each server counts its own steps, the version is the lowest. */
const psd_tensor_list_t *psd_reading_model(const psd_reading_t *self);
float *const *psd_reading_weights(const psd_reading_t *self);
uint64_t psd_reading_version(const psd_reading_t *self);
/* The run of the job that they are from. */
uint64_t psd_reading_run(const psd_reading_t *self);
