/* mode.h - the meaning of synchronisation: a row of questions per mode, one file each in modes/. Engine and coordinator know no
 * mode by its name. The one that is about to act fills in the facts and asks; every answer is a pure function of these facts. The
 * simulator tests the promises of each mode. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/core/lr_rule.h"

/* The facts that a mode may know. The asking side fills in its half; the other half is 0. */
typedef struct psd_progress {
    uint64_t clock;   /* rounds closed; where there are none, checkpoints ordered */
    uint32_t members; /* workers in the view */
    /* a shard, of one worker */
    uint64_t push;                /* the clock of its push, or of the weights that it waits for */
    uint64_t slowest;             /* the lowest clock that is closed for a member */
    uint64_t resumes_at;          /* the worker's last clock in the checkpoint from which the job resumed; 0: none */
    uint64_t staleness;           /* steps that the shard made since the worker's weights left */
    uint64_t max_staleness;       /* sync.max_staleness; 0: none is too old */
    const psd_lr_rule_t *lr_rule; /* sync.lr_rule */
    bool held;                    /* pushes must wait: the job is paused or ends, or workers or its first checkpoint are missing */
    /* the coordinator */
    uint32_t complete;       /* members whose push of the open round is complete on every shard */
    uint32_t servers;        /* of the job */
    uint64_t steps;          /* made by all shards together, as last reported */
    uint64_t point_clock;    /* of the newest checkpoint */
    uint64_t point_progress; /* how far the job was when that was ordered */
    bool point_is_final;     /* it was ordered when no push could follow any more, or pushes may still follow */
} psd_progress_t;

/* What happens to a push when it is whole. */
typedef enum psd_push {
    PSD_PUSH_WAITS, /* for its round to be closed */
    PSD_PUSH_STEPS, /* it is a step of its own, when its turn comes */
    PSD_PUSH_DROPS  /* its gradient is dropped, and it counts as a push without samples */
} psd_push_t;

typedef struct psd_mode {
    const char *name;    /* as in sync.mode */
    const char *summary; /* one line for --help and /status */
    const char *unit;    /* what a worker's clock counts: "round" */

    /* -- a shard asks */

    /* A push is whole. Asked again when the turn of a push that is a step has come. */
    psd_push_t (*whole_push)(const psd_progress_t *p);
    /* Whether whole pushes may be stepped now. */
    bool (*may_step)(const psd_progress_t *p);
    /* Whether a member may get the present weights. Otherwise it gets them later. */
    bool (*may_pull)(const psd_progress_t *p);
    /* The clock that counts as closed for a worker that becomes a member. */
    uint64_t (*joins_at)(const psd_progress_t *p);
    /* The factor on the learning rate of a step. */
    double (*rate)(const psd_progress_t *p);

    /* -- the coordinator asks */

    /* Whether to close the open round now. NULL: there are no rounds, and no decision closes a push. */
    bool (*closes)(const psd_progress_t *p);
    /* Whether members may come and go while a round is open. */
    bool (*may_change_view)(const psd_progress_t *p);
    /* How far the job is, in steps of single shards. */
    uint64_t (*progress)(const psd_progress_t *p);
    /* The clock that names a checkpoint ordered now. */
    uint64_t (*save_clock)(const psd_progress_t *p);
    /* Whether the newest checkpoint holds all training so far. */
    bool (*is_saved)(const psd_progress_t *p);
} psd_mode_t;

/* By name; NULL when there is none. */
const psd_mode_t *psd_mode_find(const char *name);

/* The i-th, NULL past the end. */
const psd_mode_t *psd_mode_at(size_t i);

/* Whether the coordinator closes rounds, so that clocks are the same for all. */
bool psd_mode_has_rounds(const psd_mode_t *mode);
