/* node.h - one server's machines as one: the engine of its shard and, in server 0, the coordinator. Messages between the two stay
 * inside; all others come out as actions. A daemon drives it with sockets, a simulator without. Pure. One thread at a time. */
#pragma once

#include "server/core/coordinator.h"
#include "server/core/engine.h"

typedef struct psd_node psd_node_t;

/* `coordinator` NULL: a server that joins another's job. NULL, with `err` set, when memory runs out. */
psd_node_t *psd_node_new(const psd_engine_config_t *engine, const psd_coordinator_config_t *coordinator, psd_err_t *err);
void psd_node_destroy(psd_node_t **self_p);

/* A well-formed message; `from` is a peer of the server's ROUTER, or PSD_PEER_COORDINATOR on the way from server 0.
 * Kinds that this sender may not send are refused here. `payload` is NULL when empty, borrowed. */
void psd_node_message(psd_node_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                      psd_actions_t *out);

/* Bytes from `from` that are not a valid message. `protocol`: the version that they claim, 0 if it could not be read. */
void psd_node_malformed(psd_node_t *self, psd_peer_t from, uint32_t protocol, const char *why, psd_actions_t *out);

/* Refuse `from`, count that, and do nothing else. */
void psd_node_refuse(psd_node_t *self, psd_peer_t from, uint64_t seq, psd_refusal_t reason, const char *why, psd_actions_t *out);

/* Outcomes of the actions on checkpoints, see engine.h and coordinator.h. */
void psd_node_save_begun(psd_node_t *self, uint64_t now_ms, psd_actions_t *out);
void psd_node_part_saved(psd_node_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out);
void psd_node_saved(psd_node_t *self, uint64_t now_ms, const char *failure, psd_actions_t *out);
void psd_node_residual_saved(psd_node_t *self, uint64_t now_ms, psd_actions_t *out);
void psd_node_residual_loaded(psd_node_t *self, uint64_t now_ms, uint32_t worker, psd_buf_t **part, const char *failure,
                              psd_actions_t *out);
void psd_node_committed(psd_node_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out);
void psd_node_restored(psd_node_t *self, uint64_t now_ms, const char *failure, const psd_save_point_t *point, psd_actions_t *out);

/* An operator asks to save, or to end the job unfinished. False: this is not server 0; only server 0 can. */
bool psd_node_request_save(psd_node_t *self);
bool psd_node_stop(psd_node_t *self, uint64_t now_ms, psd_actions_t *out);

void psd_node_tick(psd_node_t *self, uint64_t now_ms, psd_actions_t *out);
void psd_node_worked(psd_node_t *self, uint64_t now_ms, psd_work_t *work, psd_actions_t *out);

/* The machines, for facts; the coordinator is NULL in all servers but the first. */
psd_engine_t *psd_node_engine(const psd_node_t *self);
const psd_coordinator_t *psd_node_coordinator(const psd_node_t *self);
