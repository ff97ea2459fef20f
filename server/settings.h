/* settings.h - what the options mean to a server: they become the typed configurations of its parts, and the text of
 * settings that all servers of a job must share. Reads no file and draws no number. */
#pragma once

#include "common/config/options.h"
#include "common/net/rendezvous.h"
#include "server/core/node.h"

typedef struct psd_settings {
    /* The caller adds endpoint, nonce and, unless this is server 0, first. */
    psd_engine_config_t engine;
    /* Of server 0; all zero in others. The caller adds job_id, and checkpoints, points, n_points and model when it has
     * looked for checkpoints. */
    psd_coordinator_config_t coordinator;
    bool is_first;              /* this is server 0 */
    const char *checkpoint_dir; /* "": no checkpoints are made */
    uint32_t checkpoint_keep;   /* whole checkpoints that are kept */
    bool unasked_lr_rule;       /* each push is a step, and the user has not chosen how that scales the learning rate */
    psd_job_settings_t job;     /* sent to workers; all servers and checkpoints of one job have the same text */
} psd_settings_t;

/* Read `options` for the server `at`. Texts in `out` are those of `options`, which must outlive it; `out` must not move.
 * PSD_ECONFIG when the optimizer is malformed or the mode does not support it; the message names the place where it was set. */
int psd_settings_read(psd_settings_t *out, const psd_options_t *options, const psd_rendezvous_t *at, psd_err_t *err);
