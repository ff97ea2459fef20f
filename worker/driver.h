/* driver.h - the library's loop, which carries requests out on a session (worker/session.h), with the link to server 0 and a socket
 * per other server. It takes requests from a handover and reports their outcomes to it. The library's thread runs the loop, or the
 * caller's thread while that waits (worker/turn.h). */
#pragma once

#include "common/memory/arena.h"
#include "worker/caller.h"
#include "worker/handover.h"
#include "worker/views.h"

typedef struct psd_driver psd_driver_t;

/* Objects are borrowed until psd_driver_stop. */
typedef struct psd_driver_config {
    const psd_caller_t *caller; /* its `log` is called on the thread that runs the loop */
    psd_handover_t *handover;   /* open */
    psd_arena_t *arena;         /* memory that servers of this machine may read */
    psd_views_t *views;         /* arrays that may show theirs */
} psd_driver_config_t;

/* Find server 0, which may take the caller's patience, on the caller's thread; then start to join the job on the driver's thread.
 * NULL, with `err` set: as psd_uplink_new and psd_uplink_connect; PSD_ESYSTEM. */
psd_driver_t *psd_driver_start(const psd_driver_config_t *config, psd_err_t *err);

/* -- the caller's thread */

/* There is a request in the handover. */
void psd_driver_take_up(psd_driver_t *self);

/* From now on the caller's thread runs the loop while it waits, because exchanges are small. */
void psd_driver_share(psd_driver_t *self);
/* From now on only the driver's thread runs the loop, because the caller waits elsewhere. */
void psd_driver_keep(psd_driver_t *self);

/* End the thread after the requests before this call. Sets `*self_p` to NULL; NULL is fine. */
void psd_driver_stop(psd_driver_t **self_p);
