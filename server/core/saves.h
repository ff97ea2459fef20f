/* saves.h - the checkpoints of a job in server 0's view: those to which the job can go back, the one being made, whether one is
 * due, why one could not be made, and whether all training is saved.
 *
 * It orders nothing: it says that a checkpoint is due, and the coordinator orders it in the log (psd_saves_begin). Shards report
 * that their files are durable (psd_saves_note_shard), then PSD_ACT_COMMIT asks for the manifest (psd_saves_note_manifest). It
 * reads the job's progress from a psd_progress_t that the coordinator fills in by the mode's row. Pure; times are in milliseconds
 * of the caller's clock. One thread. */
#pragma once

#include "proto/actions.h"
#include "server/core/mode.h"

enum {
    PSD_MAX_POINTS = 16,      /* checkpoints that are remembered */
    PSD_SAVES_AGAIN_MS = 1000 /* time from a failed checkpoint to the next attempt */
};

typedef struct psd_saves_config {
    bool possible; /* there is a directory to save to */
    uint32_t n_servers;
    const psd_mode_t *mode;
    uint64_t every_rounds; /* rounds from one checkpoint to the next; 0: not by rounds */
    uint64_t every_ms;     /* and time; 0: not by time */
} psd_saves_config_t;

/* Others read `point`, `n_points`, `point_ms` and `took_ms`; all else is for the functions below. */
typedef struct psd_saves {
    psd_saves_config_t config;
    uint64_t point[PSD_MAX_POINTS]; /* clocks of the remembered ones, newest first */
    size_t n_points;
    uint64_t point_ms;       /* when the newest was committed; 0: before this start */
    uint64_t took_ms;        /* how long that took */
    uint64_t point_since_ms; /* when the newest was begun; 0: before this start */
    uint64_t point_progress; /* how far the job was then */
    /* the one being made, or that could not be made */
    bool wanted, saving, committing, failing;
    uint64_t clock, since_ms, progress;
    uint64_t seq;              /* the log entry that ordered it */
    psd_server_set_t saved_by; /* shards that have made their file durable */
    psd_server_set_t started;  /* shards that have all initial weights */
    char trouble[400];         /* why it could not be made, while `failing` */
} psd_saves_t;

/* `point`: the clocks of the `n` checkpoints that are there, newest first; those beyond PSD_MAX_POINTS are left alone. */
void psd_saves_init(psd_saves_t *self, const psd_saves_config_t *config, const uint64_t *point, size_t n);

/* A run begins from the newest checkpoint: nothing is being saved, and everything is saved up to there. */
void psd_saves_begin_run(psd_saves_t *self, const psd_progress_t *p);

/* Fill in the mode's facts about the newest checkpoint. `end_since_ms`: when the job began to end; 0: it does not end. */
void psd_saves_look(const psd_saves_t *self, uint64_t end_since_ms, psd_progress_t *p);

/* The clock of the newest checkpoint; 0 when there is none. */
uint64_t psd_saves_newest(const psd_saves_t *self);

/* -- when to save */

/* A checkpoint is requested. */
void psd_saves_ask(psd_saves_t *self);

/* Forget the request: the newest checkpoint holds everything. */
void psd_saves_unask(psd_saves_t *self);

/* Whether to order one now, at the progress `p`; `ending`: it is the last. */
bool psd_saves_is_due(const psd_saves_t *self, uint64_t now_ms, const psd_progress_t *p, bool ending);

/* Whether one that is due need not wait for a round to close: the first one, requested ones, and those of jobs without rounds. */
bool psd_saves_is_urgent(const psd_saves_t *self);

/* Log entry `seq` orders a checkpoint, named by the clock of `p`. */
void psd_saves_begin(psd_saves_t *self, uint64_t now_ms, const psd_progress_t *p, uint64_t seq);

/* -- its progress */

/* A SHARD_STATE reports on a shard's file; asks for the manifest when all files are durable. */
void psd_saves_note_shard(psd_saves_t *self, const psd_msg_t *msg, psd_actions_t *out);

/* The manifest of `clock` is durable, or could not be written because of `failure`. Returns whether there is a new checkpoint
 * now. */
bool psd_saves_note_manifest(psd_saves_t *self, uint64_t now_ms, uint64_t clock, const char *failure, psd_actions_t *out);

/* The newest checkpoint cannot be read: from now on the one before is the newest. */
void psd_saves_drop_newest(psd_saves_t *self);

/* -- facts */

/* Whether one is being made. */
bool psd_saves_is_busy(const psd_saves_t *self);

/* Whether the last one could not be made. */
bool psd_saves_is_failing(const psd_saves_t *self);

/* Whether the last one could not be made, and there is no earlier one. */
bool psd_saves_has_none(const psd_saves_t *self);

/* Whether steps may be made: not before the initial weights are safe, because no worker keeps them afterwards. */
bool psd_saves_is_safe(const psd_saves_t *self);

/* Whether every shard can save: there is a directory, and weights. */
bool psd_saves_can_save(const psd_saves_t *self);

/* Whether the newest checkpoint holds all that has been trained. */
bool psd_saves_is_saved(const psd_saves_t *self, const psd_progress_t *p);

/* Whether a checkpoint that was begun at this time or later exists; whether the last one was begun then, and failed. */
bool psd_saves_is_newer(const psd_saves_t *self, uint64_t ms);
bool psd_saves_has_failed_since(const psd_saves_t *self, uint64_t ms);

/* Why the last one could not be made. */
const char *psd_saves_trouble(const psd_saves_t *self);

/* The same as a sentence. */
void psd_saves_describe_trouble(const psd_saves_t *self, char *text, size_t n);
