#include "deploy/psdctl/run/restarts.h"

int64_t psd_restarts_left(psd_restarts_t *self, int64_t most, uint64_t now_ms)
{
    while (self->used && now_ms >= self->back_ms + PSD_RESTART_BACK_MS) {
        self->used--;
        self->back_ms += PSD_RESTART_BACK_MS;
    }
    return most - self->used;
}

bool psd_restarts_use(psd_restarts_t *self, int64_t most, uint64_t now_ms)
{
    if (psd_restarts_left(self, most, now_ms) <= 0)
        return false;
    if (!self->used++)
        self->back_ms = now_ms;
    return true;
}
