/* clusterfile.h - the file by which a job's processes find each other where all see one directory
 * (cluster.file): server 0 writes where it listens, the others read it. It is whole or not there, and whoever
 * may write it is trusted with the address and the key of the servers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/net/keys.h"

typedef struct psd_clusterfile {
    char job[128];
    char data[128];                   /* tcp://HOST:PORT of server 0 */
    char status[128];                 /* its http://HOST:PORT; "none" */
    char server_public[PSD_KEY_TEXT]; /* the servers' public key; "": they speak in the clear */
    uint64_t run;                     /* of the process that wrote it, drawn when it starts */
} psd_clusterfile_t;

/* Write it, in one stroke. PSD_EIO. */
int psd_clusterfile_write(const psd_clusterfile_t *self, const char *path, psd_err_t *err);

/* Remove it, unless another process has written it since. */
void psd_clusterfile_remove(const psd_clusterfile_t *self, const char *path);

/* Read the one of job `job`. PSD_EAGAIN when it is not there, or is another job's, `err` saying so: it may be
 * written yet. PSD_ECONFIG when others than its owner may write it, or its owner is neither this user nor
 * root; PSD_EDATA when what is there is no such file. */
int psd_clusterfile_read(psd_clusterfile_t *out, const char *path, const char *job, psd_err_t *err);

/* Read it as soon as it is there, for at most `timeout_ms`. `say` is called every 4 s with what is waited
 * for. PSD_ETIMEOUT, and what psd_clusterfile_read returns. */
int psd_clusterfile_await(psd_clusterfile_t *out, const char *path, const char *job, uint64_t timeout_ms,
                          void (*say)(void *arg, const char *what), void *arg, psd_err_t *err);

/* Whether two were written by the same process. */
bool psd_clusterfile_is_same(const psd_clusterfile_t *a, const psd_clusterfile_t *b);
