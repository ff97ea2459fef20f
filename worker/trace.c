#include "worker/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/safetensors.h"

enum { LINE = 256 };

struct psd_trace {
    int fd;
    char *path;
};

psd_trace_t *psd_trace_new(const char *path, psd_err_t *err)
{
    psd_trace_t *self = calloc(1, sizeof *self);
    if (!self || !(self->path = strdup(path))) {
        free(self);
        psd_err_set(err, PSD_ENOMEM, "no memory for a trace");
        return NULL;
    }
    self->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (self->fd < 0) {
        psd_err_set(err, PSD_EIO, "cannot write the trace %s: %s", path, strerror(errno));
        psd_trace_destroy(&self);
    }
    return self;
}

void psd_trace_destroy(psd_trace_t **self_p)
{
    if (*self_p && (*self_p)->fd >= 0)
        close((*self_p)->fd);
    if (*self_p)
        free((*self_p)->path);
    free(*self_p);
    *self_p = NULL;
}

/* One write adds a step, so that the lines of several workers do not mix. */
int psd_trace_step(psd_trace_t *self, uint64_t step, uint32_t world, const psd_param_t *params, size_t n, psd_err_t *err)
{
    char text[PSD_MAX_PARAMS * LINE], hash[PSD_SHA256_TEXT];
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const psd_saved_t saved = {
            .name = params[i].name, .shape = params[i].shape, .n_dims = params[i].n_dims, .n = params[i].n, .data = params[i].data
        };
        at += (size_t)snprintf(text + at, LINE, "%" PRIu64 " %" PRIu32 " %s %s\n", step, world, psd_weights_sha256(&saved, 1, hash),
                               params[i].name);
    }
    const ssize_t done = write(self->fd, text, at);
    if (done != (ssize_t)at)
        return psd_err_set(err, PSD_EIO, "cannot write the trace %s: %s", self->path, done < 0 ? strerror(errno) : "no space");
    return PSD_OK;
}

bool psd_trace_read(FILE *file, psd_trace_line_t *out)
{
    char line[LINE];
    return fgets(line, sizeof line, file) &&
           sscanf(line, "%" SCNu64 " %" SCNu32 " %64[0-9a-f] %63[^\n]", &out->step, &out->world, out->sha256, out->tensor) == 4;
}
