#include "server/core/mode.h"

#include <string.h>

#define X(name) extern const psd_mode_t psd_mode_##name;
#include "server/core/modes/all.h"
#undef X

static const psd_mode_t *const modes[] = {
#define X(name) &psd_mode_##name,
#include "server/core/modes/all.h"
#undef X
};

const psd_mode_t *psd_mode_at(size_t i) { return i < sizeof modes / sizeof *modes ? modes[i] : NULL; }

const psd_mode_t *psd_mode_find(const char *name)
{
    for (size_t i = 0; psd_mode_at(i); i++)
        if (!strcmp(modes[i]->name, name))
            return modes[i];
    return NULL;
}

bool psd_mode_has_rounds(const psd_mode_t *mode) { return mode->closes != NULL; }
