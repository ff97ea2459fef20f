/* daemon.h - the psd process: owns the loop, the sockets, the pool and the clock; turns messages, timers and signals
 * into events for the node, and the node's actions into sends, work and log lines. */
#pragma once

#include "common/config/options.h"

/* Serve one shard of a job, as the options specify, until the job has finished or a signal asks it to stop. PSD_OK: every worker
 * has finished. PSD_ESTOPPED: SIGTERM or SIGINT came first. PSD_EUNAVAILABLE: the coordinator was not reached in time. PSD_ECONFIG,
 * PSD_EIO, PSD_EREFUSED, PSD_ENOMEM: see `err`. */
int psd_daemon_run(const psd_options_t *options, psd_err_t *err);
