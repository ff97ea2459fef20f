/* driver.h - the library's own thread: a loop that carries requests out on a session (worker/session.h), with the link
 * to server 0 and a socket per other server. It takes requests from a handover, tells it what becomes of them, and knows
 * nothing of the callers. */
#pragma once

#include "common/memory/arena.h"
#include "worker/handover.h"

typedef struct psd_driver psd_driver_t;

/* Texts and objects are borrowed until psd_driver_stop. */
typedef struct psd_driver_config {
    psd_handover_t *handover; /* open */
    psd_net_t *net;
    psd_arena_t *arena;              /* memory that servers of this machine may read */
    const char *job, *name, *recipe; /* as in psd_session_config_t */
    uint32_t wanted;
    uint64_t patience_ms; /* how long to wait for server 0, and for a server that is lost; 0: without end */
    const char *join;     /* server 0's address; "": `file` says */
    const char *file;     /* cluster.file; may be NULL when `join` is given */
    bool trusts_file;     /* take the servers' public key from it */
    void (*log)(void *arg, int level, const char *id, const char *line); /* on either thread; NULL: nobody listens */
    void *log_arg;
} psd_driver_config_t;

/* Find server 0, which may take patience_ms, on the caller's thread; then start to join the job on the driver's own.
 * NULL, with `err` set: as psd_uplink_new and psd_uplink_connect; PSD_ESYSTEM. */
psd_driver_t *psd_driver_start(const psd_driver_config_t *config, psd_err_t *err);

/* There is a request in the handover. Any thread. */
void psd_driver_wake(psd_driver_t *self);

/* End the thread after the requests before this call. Sets `*self_p` to NULL; NULL is fine. */
void psd_driver_stop(psd_driver_t **self_p);
