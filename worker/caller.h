/* caller.h - the program that calls the library: its psd_worker_config_t, completed by the environment, checked and copied, and the
 * network that its keys open. The same for a worker and a follower. */
#pragma once

#include "common/net/uplink.h"
#include "psd/worker.h"

typedef struct psd_caller {
    psd_net_t *net;
    char *join, *file; /* server 0's address, "": `file`, the cluster's file, has it; NULL: use `join` */
    bool trusts_file;  /* take the servers' public key from the file */
    char *job, *name, *recipe;
    uint64_t rows;
    uint32_t wanted;      /* the place that a worker asks for; 0: any */
    uint64_t patience_ms; /* of joining, registering and waiting for a lost server; 0: without limit */
    void (*log)(void *arg, int level, const char *id, const char *line);
    void *log_arg;
    int (*interrupted)(void *arg); /* NULL: waits are not interrupted */
    void *interrupted_arg;
} psd_caller_t;

/* Read `given`, of the size that it says. PSD_EINVAL, PSD_ENOMEM, and the errors of psd_environment_fill, psd_keys_load and
 * psd_net_new; clear it in any case. */
int psd_caller_read(psd_caller_t *out, const psd_worker_config_t *given, psd_err_t *err);

/* A link to the servers that it names, with these callbacks, called with `arg`: as psd_uplink_new. The caller must outlive it. */
psd_uplink_t *psd_caller_uplink(const psd_caller_t *self, const psd_uplink_config_t *calls, void *arg, psd_err_t *err);

/* Close the network, which nothing may use any more, and free the texts. */
void psd_caller_clear(psd_caller_t *self);

/* The patience that `join_timeout_ms` of a program's configuration stands for: 0 is 60 s, the default; negative is 0, no limit. */
uint64_t psd_caller_patience_ms(int join_timeout_ms);
