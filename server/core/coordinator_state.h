/* coordinator_state.h - the inside of the coordinator, shared by its six files and nobody else:
 *   coordinator.c        the log, rounds, views, time, facts
 *   coordinator_peers.c  what workers and shards say: joining, registering, settings, leaving, states
 *   coordinator_save.c   checkpoints, the way back to one, and the end of the job
 *   coordinator_end.c    what is said at an end, good or bad
 *   coordinator_absent.c who is missing, and what follows from it
 *   coordinator_admin.c  what an operator asks for */
#pragma once

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/absence.h"
#include "server/core/coordinator.h"
#include "server/core/journal.h"
#include "server/core/saves.h"

struct psd_coordinator {
    psd_coordinator_config_t config;
    char *job, *settings;
    psd_job_state_t state;
    psd_servers_t servers;
    psd_membership_t members;
    psd_member_t view[PSD_MAX_WORKERS]; /* the view that the log last gave */
    uint32_t n_view;
    psd_tensor_list_t model; /* n = 0 before the first registration */
    psd_journal_t journal;
    uint64_t view_id;
    uint64_t clock; /* rounds decided; where there are none, checkpoints ordered */
    uint64_t skipped;
    uint64_t round_since_ms;     /* when the open round was opened */
    uint64_t first_ready_ms;     /* when the first worker registered */
    uint64_t newest_ready_ms;    /* and the newest */
    char recipe[PSD_MAX_RECIPE]; /* what those who are here train on; "": nobody has said */
    uint64_t finish_since_ms;
    uint64_t line_ms; /* when what is waited for was last said */
    uint64_t seen_ms; /* when the last event came, for one's own absence */
    bool finished_told;
    char end_text[PSD_MAX_TEXT / 2]; /* how it has ended */
    struct {
        uint64_t tick_ms;  /* when time passed last */
        uint64_t since_ms; /* since when the same ones, or more, are missing; 0: nobody is */
        uint32_t n;        /* how many are missing */
    } absent;
    struct {
        int code; /* PSD_OK: there is no such end */
        psd_refusal_t refusal;
        uint64_t since_ms;
        bool finished;
        char why[PSD_MAX_TEXT];
    } last_words; /* the job fails: everybody is told so for a while, then this process ends */
    bool paused;  /* by an operator: no round closes */
    bool holds;   /* as the log last told the shards: pushes wait */
    struct {
        uint64_t asked; /* number of the request */
        uint32_t worker;
        uint64_t incarnation;
    } drain; /* the last one that was asked for */
    struct {
        uint64_t by, ms;
    } save_asked;         /* the last checkpoint that was asked for: number of the request, and when */
    bool ending, stopped; /* the job ends, after a last checkpoint; unfinished, because it was stopped */
    uint64_t end_since_ms;
    uint64_t runs;
    psd_saves_t saves;
    psd_coordinator_facts_t report;
};

/* -- coordinator.c */

/* Write a decision into the log and send it to every shard; takes over the payload. */
void psd_coord_append_entry(psd_coordinator_t *self, uint64_t now_ms, psd_kind_t kind, uint32_t code, psd_buf_t *payload,
                            psd_actions_t *out);

/* The same for a round or view. */
void psd_coord_append_command(psd_coordinator_t *self, uint64_t now_ms, const psd_round_t *round, uint32_t code,
                              psd_actions_t *out);

/* What the mode may know, when rounds up to `clock` are closed. */
psd_progress_t psd_coord_look(const psd_coordinator_t *self, uint64_t clock);

/* Whether every shard holds the worker's push of the open round. */
bool psd_coord_has_pushed(const psd_coordinator_t *self, const psd_worker_row_t *row);

/* Members change without a round being closed. */
void psd_coord_change_view(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* Members have come or gone, or something else in a view is new: tell the shards, unless that has to wait for the round to be
 * closed. */
void psd_coord_view_changed(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* Workers whose work is done, whether or not they have left. */
uint32_t psd_coord_count_finished(const psd_coordinator_t *self);

/* Whether rounds wait for whoever is lost to be replaced. */
bool psd_coord_is_fixed(const psd_coordinator_t *self);

/* Where each push is a step, tell the shards whether pushes have to wait, if that has changed: while an operator has paused the job, there is no
 * checkpoint yet, too few workers are here, or the job ends. */
void psd_coord_tend_pushes(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* Whether rounds may go on with so many members. */
bool psd_coord_has_quorum(const psd_coordinator_t *self, uint32_t live);

/* Set `what` ("optimizer.lr") to `value` from the next decision on; `who` for the log. PSD_ECONFIG. */
int psd_coord_set(psd_coordinator_t *self, uint64_t now_ms, const char *what, double value, const char *who, psd_actions_t *out,
                  psd_err_t *err);

/* Look at the whole and take the decision that is due, if one is. */
void psd_coord_evaluate(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* What the job waits for, as one clause; "" when it waits for nothing. */
void psd_coord_describe_wait(const psd_coordinator_t *self, char *text, size_t n);

/* -- coordinator_peers.c */

/* A message to a worker's or shard's peer, with the marks of this run; `row` NULL: to nobody in particular. */
psd_msg_t *psd_coord_answer(psd_coordinator_t *self, psd_peer_t to, psd_kind_t kind, const psd_worker_row_t *row,
                            psd_buf_t *payload, psd_actions_t *out);

/* A worker speaks. */
void psd_coord_on_worker_message(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg,
                                 psd_buf_t *payload, psd_actions_t *out);

/* A server asks for a place. */
void psd_coord_on_shard_hello(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *hello,
                              psd_actions_t *out);

/* A shard tells what it has done and what is complete there. */
void psd_coord_on_shard_state(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                              psd_actions_t *out);

/* -- coordinator_save.c */

/* How far the job is, in steps of single shards. */
uint64_t psd_coord_progress(const psd_coordinator_t *self);

/* Whether the job stands still because the first checkpoint cannot be made. */
bool psd_coord_lacks_first_point(const psd_coordinator_t *self);

/* Whether the newest checkpoint holds all that has been trained. */
bool psd_coord_is_saved(const psd_coordinator_t *self);

/* A run begins: what is saved is what it begins from. */
void psd_coord_begin_progress(psd_coordinator_t *self);

/* The job is finished, or stopped: save, then end. */
void psd_coord_begin_end(psd_coordinator_t *self, uint64_t now_ms, bool stopped, psd_actions_t *out);

/* The last entry of the log. */
void psd_coord_finish(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* A server was started again of a job that has `trained` or has not: where weights were lost, and there is no checkpoint, no
 * other server's chunks and no worker's copy are worth going on with, and the job ends for everybody. Whether it does. */
bool psd_coord_loses_weights(psd_coordinator_t *self, bool trained, uint64_t now_ms, const char *why, psd_actions_t *out);

/* Take the job up again from the newest checkpoint. */
void psd_coord_new_run(psd_coordinator_t *self, const char *why, psd_actions_t *out);

/* Order a save that does not wait for a round to close. */
void psd_coord_save_between_rounds(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* End when the last weights are safe. */
void psd_coord_tend_end(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* A shard cannot load the newest checkpoint, for a reason: go back to the one before, or end when there is none. */
void psd_coord_drop_point(psd_coordinator_t *self, uint64_t now_ms, uint32_t shard, const char *reason, psd_actions_t *out);

/* -- coordinator_end.c */

/* The job fails: tell all servers and workers why, by a REFUSED of this reason, until they have had the time to hear it; then
 * PSD_ACT_FINISH with `code`. Nothing else happens from then on. Workers whose work is done, and safe, are let go. */
void psd_coord_fail(psd_coordinator_t *self, uint64_t now_ms, int code, psd_refusal_t refusal, const char *why, psd_actions_t *out);

/* Whether the job fails; if so, say it again. */
bool psd_coord_is_failing(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* The same to somebody who speaks meanwhile. */
void psd_coord_answer_failing(psd_coordinator_t *self, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out);

/* How the work was done, as a sentence: who has finished, and who was lost or has left before. */
void psd_coord_describe_end(const psd_coordinator_t *self, char *text, size_t n);

/* How many workers must have finished for the job to be finished when nobody else is left. */
uint32_t psd_coord_workers_due(const psd_coordinator_t *self);

/* -- coordinator_absent.c */

/* Find what is missing, log it, and end the job when it has been missing for too long. */
void psd_coord_tend_absent(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out);

/* List what is missing, one clause each, up to `most` clauses; returns how many there are. */
uint32_t psd_coord_list_absent(const psd_coordinator_t *self, char (*item)[PSD_ABSENT_TEXT], uint32_t most);

/* The same as one text; "" when nobody is. */
void psd_coord_describe_absent(const psd_coordinator_t *self, char *text, size_t n);

/* Whether a worker was given up and nobody has taken its place. */
bool psd_coord_is_worker_lost(const psd_coordinator_t *self, const psd_worker_row_t *row);

/* -- coordinator_admin.c */

/* An operator asks for something. */
void psd_coord_on_admin(psd_coordinator_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_actions_t *out);
