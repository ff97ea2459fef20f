#include "server/core/failure.h"

#include <stdio.h>

bool psd_failure_begin(psd_failure_t *self, uint64_t now_ms, int code, psd_refusal_t refusal, const char *why)
{
    if (self->code)
        return false;
    *self = (psd_failure_t){ .code = code, .refusal = refusal, .since_ms = now_ms };
    snprintf(self->why, sizeof self->why, "%s", why);
    return true;
}

bool psd_failure_is_on(const psd_failure_t *self) { return self->code != PSD_OK; }

bool psd_failure_is_told(const psd_failure_t *self) { return self->code && !self->finished; }

bool psd_failure_awaits_comers(const psd_failure_t *self) { return self->refusal == PSD_REFUSAL_LOST; }

bool psd_failure_is_over(const psd_failure_t *self, uint64_t now_ms)
{
    return now_ms >= self->since_ms + (psd_failure_awaits_comers(self) ? PSD_FAILURE_COMERS_MS : PSD_FAILURE_TOLD_MS);
}

void psd_failure_tell(const psd_failure_t *self, psd_msg_t *refused)
{
    refused->code = self->refusal;
    snprintf(refused->text, sizeof refused->text, "%s", self->why);
}

void psd_failure_finish(psd_failure_t *self, psd_actions_t *out)
{
    if (!self->finished)
        psd_actions_finish(out, self->code, self->why);
    self->finished = true;
}
