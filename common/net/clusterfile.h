/* clusterfile.h - the file by which a job's processes find each other in a shared directory (cluster.file): server 0 writes its
 * address, the others read it. It is complete or absent. Any user that may write it is trusted with the address and the key of the
 * servers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/net/keys.h"

typedef struct psd_clusterfile {
    char job[128];
    char data[128];                   /* tcp://HOST:PORT of server 0 */
    char status[128];                 /* its http://HOST:PORT; "none" */
    char server_public[PSD_KEY_TEXT]; /* the servers' public key; "": they run without keys */
    uint64_t run;                     /* a random number of the process that wrote it, drawn when it starts */
} psd_clusterfile_t;

/* Write it atomically. PSD_EIO. */
int psd_clusterfile_write(const psd_clusterfile_t *self, const char *path, psd_err_t *err);

/* Remove it, unless another process has written it since. */
void psd_clusterfile_remove(const psd_clusterfile_t *self, const char *path);

/* Read the file of job `job`. PSD_EAGAIN, with a sentence, when it does not exist or belongs to another job: server 0 may still
 * write it. PSD_ECONFIG when others than its owner may write it, or its owner is neither this user nor root; PSD_EDATA when the
 * file there is not a cluster file. */
int psd_clusterfile_read(psd_clusterfile_t *out, const char *path, const char *job, psd_err_t *err);

/* Wait for it, for at most `timeout_ms`, and read it. `waits` is called every 100 ms, and every 4 s with what is missing, otherwise
 * with NULL; it returns false to end the wait. PSD_ETIMEOUT, PSD_ESTOPPED, and the errors of psd_clusterfile_read. */
int psd_clusterfile_await(psd_clusterfile_t *out, const char *path, const char *job, uint64_t timeout_ms,
                          bool (*waits)(void *arg, const char *what), void *arg, psd_err_t *err);

/* Whether the same process wrote both. */
bool psd_clusterfile_is_same(const psd_clusterfile_t *a, const psd_clusterfile_t *b);
