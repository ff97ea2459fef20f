/* environment.h - values for settings that a program leaves unset: from a job file, environment variables, and the launcher that
 * started it. The same sources, in the same order, as for psd-worker. */
#pragma once

#include "common/base/err.h"
#include "psd/worker.h"

typedef struct psd_environment psd_environment_t;

/* Fill in `config`, whose `join` and `cluster_file` are empty, as it is described in psd/worker.h. Values that are set stay. Texts
 * belong to `*out`, which the caller must destroy in any case. PSD_ECONFIG when a source is malformed, or none names a server to
 * join; PSD_ENOINPUT for a job file that cannot be read; PSD_ENOMEM. */
int psd_environment_fill(psd_worker_config_t *config, psd_environment_t **out, psd_err_t *err);

/* Sets `*self_p` to NULL; NULL is fine. */
void psd_environment_destroy(psd_environment_t **self_p);
