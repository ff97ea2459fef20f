#include "tests/support/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The directory of the real ones; NULL: there is none. */
static const char *find_real(const char *name)
{
    char path[DATA_PATH];
    const char *folders[] = { getenv("PSD_DATA"), PSD_SOURCE_DIR "/../shared/data" };
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s/%s", folders[i] ? folders[i] : "", name);
        if (folders[i] && access(path, R_OK) == 0)
            return folders[i];
    }
    return NULL;
}

const char *data_path(const char *name, char path[DATA_PATH])
{
    const char *folder = find_real(name);
    snprintf(path, DATA_PATH, "%s/%s", folder ? folder : PSD_SOURCE_DIR "/tests/data", name);
    return path;
}

const char *data_spec(const char *format, const char *name, char spec[DATA_PATH])
{
    char path[DATA_PATH];
    snprintf(spec, DATA_PATH, "%.8s:%.180s", format, data_path(name, path));
    return spec;
}

bool data_is_drawn(const char *name) { return !find_real(name); }
