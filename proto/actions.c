#include "proto/actions.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/logtext.h"

static psd_action_t *append(psd_actions_t *self, psd_act_t act)
{
    if (self->n == self->capacity) {
        size_t capacity = self->capacity ? 2 * self->capacity : 16;
        psd_action_t *at = realloc(self->at, capacity * sizeof *at);
        assert(at && "no memory for actions");
        self->at = at;
        self->capacity = capacity;
    }
    psd_action_t *a = &self->at[self->n++];
    /* Clear everything except the text's tail: an action has over a kilobyte, and there are many per round. */
    memset(a, 0, offsetof(psd_action_t, msg) + offsetof(psd_msg_t, text) + 1);
    a->act = act;
    return a;
}

psd_msg_t *psd_actions_send(psd_actions_t *self, psd_peer_t to, psd_kind_t kind, psd_buf_t *payload)
{
    psd_action_t *a = append(self, PSD_ACT_SEND);
    a->to = to;
    a->payload = psd_buf_ref(payload);
    a->msg.kind = kind;
    a->msg.protocol = PSD_PROTOCOL;
    return &a->msg;
}

void psd_actions_work(psd_actions_t *self, struct psd_work *work) { append(self, PSD_ACT_WORK)->work = work; }

void psd_actions_checkpoint(psd_actions_t *self, psd_act_t act, uint64_t clock, uint32_t part)
{
    psd_action_t *a = append(self, act);
    a->clock = clock;
    a->part = part;
}

void psd_actions_residual(psd_actions_t *self, psd_act_t act, uint64_t clock, uint32_t worker, uint32_t part, psd_buf_t *payload)
{
    psd_action_t *a = append(self, act);
    a->clock = clock;
    a->worker = worker;
    a->part = part;
    a->payload = psd_buf_ref(payload);
}

void psd_actions_log(psd_actions_t *self, int level, const char *id, const char *format, ...)
{
    psd_action_t *a = append(self, PSD_ACT_LOG);
    a->level = level;
    a->id = id;
    va_list args;
    va_start(args, format);
    psd_logtext_compose(a->msg.text, sizeof a->msg.text, format, args);
    va_end(args);
}

void psd_actions_finish(psd_actions_t *self, int code, const char *why)
{
    psd_action_t *a = append(self, PSD_ACT_FINISH);
    a->level = code;
    snprintf(a->msg.text, sizeof a->msg.text, "%s", why);
}

void psd_actions_drop(psd_actions_t *self, size_t n)
{
    for (size_t i = 0; i < n; i++)
        psd_buf_unref(&self->at[i].payload);
    if (n && n < self->n)
        memmove(self->at, self->at + n, (self->n - n) * sizeof *self->at);
    self->n -= n;
}

void psd_actions_clear(psd_actions_t *self)
{
    psd_actions_drop(self, self->n);
    free(self->at);
    *self = (psd_actions_t){ 0 };
}

psd_buf_t *psd_payload_copy(const void *data, size_t n_bytes)
{
    psd_buf_t *buf = psd_buf_new(n_bytes);
    assert(buf && "no memory for a payload");
    memcpy(buf->data, data, n_bytes);
    return buf;
}
