#include "server/checkpoint/checkpoint.h"

#include <stdlib.h>

void psd_ckpt_facts_clear(psd_ckpt_facts_t *self)
{
    free(self->job);
    free(self->settings);
    free(self->applied);
    *self = (psd_ckpt_facts_t){ 0 };
}
