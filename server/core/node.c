#include "server/core/node.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/core/admin.h"

struct psd_node {
    psd_engine_t *engine;
    psd_coordinator_t *coordinator;
    psd_admin_t admin;
};

psd_node_t *psd_node_new(const psd_engine_config_t *engine, const psd_coordinator_config_t *coordinator, psd_err_t *err)
{
    psd_node_t *self = calloc(1, sizeof *self);
    if (!self) {
        psd_err_set(err, PSD_ENOMEM, "no memory for a server");
        return NULL;
    }
    self->engine = psd_engine_new(engine, err);
    if (self->engine && coordinator)
        self->coordinator = psd_coordinator_new(coordinator, err);
    if (!self->engine || (coordinator && !self->coordinator))
        psd_node_destroy(&self);
    return self;
}

void psd_node_destroy(psd_node_t **self_p)
{
    if (!*self_p)
        return;
    psd_engine_destroy(&(*self_p)->engine);
    psd_coordinator_destroy(&(*self_p)->coordinator);
    free(*self_p);
    *self_p = NULL;
}

/* Deliver the messages between the two machines, until there are none left. */
static void settle(psd_node_t *self, uint64_t now_ms, psd_actions_t *out)
{
    for (size_t i = 0; self->coordinator && i < out->n; i++) {
        const bool is_sent = out->at[i].act == PSD_ACT_SEND, to_coordinator = is_sent && out->at[i].to == PSD_PEER_COORDINATOR;
        if (!to_coordinator && !(is_sent && out->at[i].to == PSD_PEER_OWN_SHARD))
            continue;
        psd_action_t a = out->at[i]; /* a copy: delivering may move the list */
        out->at[i].payload = NULL;
        out->at[i].to = PSD_PEER_NONE;
        if (to_coordinator)
            psd_coordinator_message(self->coordinator, now_ms, PSD_PEER_OWN_SHARD, &a.msg, a.payload, out);
        else
            psd_engine_message(self->engine, now_ms, PSD_PEER_COORDINATOR, &a.msg, a.payload, out);
        psd_buf_unref(&a.payload);
    }
    size_t kept = 0;
    for (size_t i = 0; i < out->n; i++) {
        if (out->at[i].act == PSD_ACT_SEND && out->at[i].to == PSD_PEER_NONE)
            continue;
        if (kept != i)
            out->at[kept] = out->at[i];
        kept++;
    }
    out->n = kept;
}

void psd_node_refuse(psd_node_t *self, psd_peer_t from, uint64_t seq, psd_refusal_t reason, const char *why, psd_actions_t *out)
{
    psd_engine_count_refusal(self->engine, reason);
    psd_msg_t *no = psd_actions_send(out, from, PSD_MSG_REFUSED, NULL);
    no->code = reason;
    no->seq = seq;
    no->shard = psd_engine_index(self->engine);
    snprintf(no->text, sizeof no->text, "%s", why);
}

void psd_node_malformed(psd_node_t *self, psd_peer_t from, uint32_t protocol, const char *why, psd_actions_t *out)
{
    bool other_version = protocol && protocol != PSD_PROTOCOL;
    psd_node_refuse(self, from, 0, other_version ? PSD_REFUSAL_PROTOCOL : PSD_REFUSAL_MALFORMED, why, out);
}

void psd_node_message(psd_node_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                      psd_actions_t *out)
{
    char why[128];
    if (from == PSD_PEER_COORDINATOR) {
        psd_engine_message(self->engine, now_ms, from, msg, payload, out);
    } else if (psd_kind_receiver(msg->kind) & PSD_TO_COORDINATOR) {
        if (self->coordinator && psd_admin_takes(msg->kind)) {
            psd_admin_message(&self->admin, self->coordinator, now_ms, from, msg, payload, out);
        } else if (self->coordinator) {
            psd_coordinator_message(self->coordinator, now_ms, from, msg, payload, out);
        } else {
            snprintf(why, sizeof why, "this is server %u; %s is for server 0", psd_engine_index(self->engine),
                     psd_kind_name(msg->kind));
            psd_node_refuse(self, from, msg->seq, PSD_REFUSAL_SENDER, why, out);
        }
    } else if (psd_kind_sender(msg->kind) & (PSD_FROM_WORKER | PSD_FROM_FOLLOWER)) {
        if (self->coordinator && psd_kind_sender(msg->kind) & PSD_FROM_WORKER)
            psd_coordinator_heard(self->coordinator, now_ms, from, msg);
        psd_engine_message(self->engine, now_ms, from, msg, payload, out);
    } else {
        snprintf(why, sizeof why, "you may not send %s", psd_kind_name(msg->kind));
        psd_node_refuse(self, from, msg->seq, PSD_REFUSAL_SENDER, why, out);
    }
    settle(self, now_ms, out);
}

void psd_node_tick(psd_node_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_engine_tick(self->engine, now_ms, out);
    if (self->coordinator)
        psd_coordinator_tick(self->coordinator, now_ms, out);
    settle(self, now_ms, out);
}

void psd_node_worked(psd_node_t *self, uint64_t now_ms, psd_work_t *work, psd_actions_t *out)
{
    psd_engine_worked(self->engine, now_ms, work, out);
    settle(self, now_ms, out);
}

void psd_node_save_begun(psd_node_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_engine_save_begun(self->engine, now_ms, out);
    settle(self, now_ms, out);
}

void psd_node_part_saved(psd_node_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out)
{
    psd_engine_part_saved(self->engine, now_ms, part, out);
    settle(self, now_ms, out);
}

void psd_node_saved(psd_node_t *self, uint64_t now_ms, const char *failure, psd_actions_t *out)
{
    psd_engine_saved(self->engine, now_ms, failure, out);
    settle(self, now_ms, out);
}

void psd_node_residual_saved(psd_node_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_engine_residual_saved(self->engine, now_ms, out);
    settle(self, now_ms, out);
}

void psd_node_residual_loaded(psd_node_t *self, uint64_t now_ms, uint32_t worker, psd_buf_t **part, const char *failure,
                              psd_actions_t *out)
{
    psd_engine_residual_loaded(self->engine, now_ms, worker, part, failure, out);
    settle(self, now_ms, out);
}

void psd_node_restored(psd_node_t *self, uint64_t now_ms, const char *failure, const psd_save_point_t *point, psd_actions_t *out)
{
    psd_engine_restored(self->engine, now_ms, failure, point, out);
    settle(self, now_ms, out);
}

void psd_node_committed(psd_node_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out)
{
    if (self->coordinator)
        psd_coordinator_committed(self->coordinator, now_ms, clock, failure, out);
    settle(self, now_ms, out);
}

bool psd_node_request_save(psd_node_t *self)
{
    if (self->coordinator)
        psd_coordinator_request_save(self->coordinator);
    return self->coordinator != NULL;
}

bool psd_node_stop(psd_node_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->coordinator)
        psd_coordinator_stop(self->coordinator, now_ms, out);
    settle(self, now_ms, out);
    return self->coordinator != NULL;
}

psd_engine_t *psd_node_engine(const psd_node_t *self) { return self->engine; }
const psd_coordinator_t *psd_node_coordinator(const psd_node_t *self) { return self->coordinator; }
