#include "server/core/inbox.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/measured.h"

void psd_inbox_size(psd_inbox_t *self, uint32_t n_parts)
{
    if (self->parked)
        return;
    assert(n_parts && "the log names the model before the members");
    self->n_parts = n_parts;
    self->parked = calloc(n_parts, sizeof *self->parked);
    self->have = calloc(1, psd_bitmap_bytes(n_parts));
    self->ahead = calloc(1, psd_bitmap_bytes(n_parts));
    assert(self->parked && self->have && self->ahead && "no memory for a member's parked pushes");
}

static void drop_payloads(psd_inbox_t *self)
{
    for (uint32_t p = 0; p < self->n_parts; p++)
        psd_buf_unref(&self->parked[p]);
}

void psd_inbox_empty(psd_inbox_t *self)
{
    drop_payloads(self);
    if (self->have) {
        memset(self->have, 0, psd_bitmap_bytes(self->n_parts));
        memset(self->ahead, 0, psd_bitmap_bytes(self->n_parts));
    }
    *self = (psd_inbox_t){ .n_parts = self->n_parts,
                           .have = self->have,
                           .ahead = self->ahead,
                           .parked = self->parked,
                           .base_version = self->base_version };
}

void psd_inbox_clear(psd_inbox_t *self)
{
    drop_payloads(self);
    free(self->have);
    free(self->ahead);
    free(self->parked);
    *self = (psd_inbox_t){ 0 };
}

bool psd_inbox_has(const psd_inbox_t *self, uint32_t part) { return self->complete || psd_bitmap_get(self->have, part); }

bool psd_inbox_goes_ahead(const psd_inbox_t *self, uint32_t part)
{
    return self->ahead && psd_bitmap_get(self->ahead, part) && !self->joint;
}

bool psd_inbox_take(psd_inbox_t *self, const psd_msg_t *msg, psd_buf_t *payload, double norm2, uint32_t bad_chunk, uint64_t version)
{
    psd_bitmap_set(self->have, msg->part);
    if (msg->code & PSD_PUSH_AHEAD)
        psd_bitmap_set(self->ahead, msg->part);
    self->parked[msg->part] = psd_buf_ref(payload);
    self->joint |= psd_measured_mean(payload) != 0;
    self->held++;
    self->samples = msg->samples;
    self->loss = msg->loss;
    self->base_version = msg->base_version < version ? msg->base_version : version;
    /* The shard checks the values itself: the worker's report may be wrong. */
    self->nonfinite |= msg->nonfinite || !isfinite(norm2);
    if (bad_chunk && (!self->bad_chunk || bad_chunk < self->bad_chunk))
        self->bad_chunk = bad_chunk;
    self->norm2 += isfinite(norm2) ? norm2 : 0;
    self->whole_norm2 = msg->norm2;
    self->complete = self->held == self->n_parts || !msg->samples;
    return self->complete;
}

void psd_inbox_drop_gradient(psd_inbox_t *self)
{
    drop_payloads(self);
    self->samples = 0;
    self->joint = false;
    self->norm2 = self->whole_norm2 = 0;
    self->nonfinite = false;
    self->bad_chunk = 0;
}

psd_buf_t *psd_inbox_lacking(const psd_inbox_t *self)
{
    psd_buf_t *lacking = psd_payload_copy(self->have, psd_bitmap_bytes(self->n_parts));
    for (uint32_t p = 0; p < self->n_parts; p++) {
        psd_bitmap_unset(lacking->data, p);
        if (!psd_inbox_has(self, p))
            psd_bitmap_set(lacking->data, p);
    }
    return lacking;
}
