/* engine_state.h - the inside of the engine, shared by its three files and nobody else:
 *   engine.c       events and facts; the coordinator's log, views, rounds and steps
 *   engine_push.c  sessions of workers: attaching, initial values, pushes, probes, pulls
 *   engine_save.c  checkpoints beside training, and starting over from one */
#pragma once

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "server/core/engine.h"
#include "server/core/update.h"

enum { PSD_MAX_HELD_COMMANDS = 16 }; /* log entries kept while a step runs; more are asked for again by their number */

typedef enum psd_standing { PSD_PENDING, PSD_MEMBER, PSD_GONE } psd_standing_t;

/* One row of the applied table. */
typedef struct psd_eng_worker {
    uint32_t id;
    uint64_t incarnation, nonce; /* of the member as the log names it; before that, of whoever attached */
    uint64_t logged;             /* newest incarnation that the log has named; 0: none */
    psd_standing_t standing;
    psd_peer_t peer;     /* its session; NONE before ATTACH */
    uint32_t rank;       /* in the view */
    uint64_t applied;    /* last clock that is closed for it */
    uint64_t resumes_at; /* asp: clocks of this worker that a checkpoint holds; it goes on from there */
    bool owed;           /* a new member that has not been sent the weights yet */
    /* its open clock, applied + 1 */
    uint64_t samples;
    double loss, norm2;
    bool nonfinite, complete;
    uint32_t bad_part; /* the first chunk of it here that is not finite, from 1; 0: none here */
    uint64_t in_vain;  /* asp: its pushes in a row that were rejected for Inf or NaN */
    uint64_t base_version;
    double whole_norm2; /* of the whole gradient, on all shards, by the worker's word */
    uint32_t held;
    uint8_t *have;      /* bitmap of chunks held */
    psd_buf_t **parked; /* their payloads; NULL: no gradient */
    psd_engine_worker_t facts;
} psd_eng_worker_t;

typedef struct psd_held_command {
    psd_msg_t msg;
    psd_buf_t *payload;
} psd_held_command_t;

struct psd_engine {
    psd_engine_config_t config;
    char *name, *settings, *endpoint; /* name: the job's */
    bool welcomed;
    uint32_t index, n_servers;
    uint64_t job, shard_epoch, view_id, log_done;
    struct {
        uint64_t heard_ms; /* when it last said something, moved on by our own absences */
        uint64_t tick_ms, line_ms;
        bool known; /* it has given us a place once */
        bool lost;
        char told[192]; /* its last WAIT */
        psd_engine_word_t word;
    } first;   /* server 0 */
    double lr; /* as the log last said */
    struct {
        char why[PSD_MAX_TEXT];
        psd_refusal_t refusal;
        uint64_t since_ms; /* the first tick after that; 0: none came */
    } failure;             /* why the job fails, by server 0's word or by what is seen here; "": it does not */
    uint64_t skipped;      /* bsp: rounds in a row that made no step, of those that had gradients */
    char bad[320];         /* whose gradient was not finite last, and where; "": not here */
    uint32_t world;        /* members of the view */

    psd_tensor_list_t model;
    psd_partition_t map;
    psd_shard_t *shard;
    uint32_t n_parts;   /* chunks here, at least 1: a shard without chunks is pushed one empty part */
    uint32_t n_started; /* chunks that have initial values */
    uint8_t *started;   /* bitmap of those */

    psd_eng_worker_t *worker[PSD_MAX_WORKERS];
    uint64_t clock, version;
    uint64_t slowest;                     /* the lowest clock that is closed for a member */
    uint64_t samples;                     /* behind the version */
    bool held;                            /* pushes wait, where each is a step */
    psd_update_t update;                  /* the step that is being made */
    const psd_eng_worker_t *stepping_for; /* whose push is being stepped; NULL: all members' */
    uint64_t sums_sent_ms;
    uint32_t queue[PSD_MAX_WORKERS], n_queued; /* asp: workers whose push is complete, in order of arrival */
    psd_held_command_t early[PSD_MAX_HELD_COMMANDS];
    uint32_t n_early;
    /* the checkpoint being written: chunks below save_next are done, the one before it may be with the writer */
    bool save_due, saving, save_in_flight;
    bool save_opening;               /* the writer makes the file; all chunks are still to be asked for */
    bool save_ending;                /* the writer makes the file durable */
    bool save_blocked;               /* the next chunk is being stepped: the writer gets it after that */
    uint64_t save_order, save_clock; /* the clock whose state the log wants; that of the one being written */
    psd_engine_point_t save_point;   /* what its file says beside the chunks */
    psd_member_t save_applied[PSD_MAX_WORKERS];
    uint32_t save_next;
    psd_work_t *deferred; /* the step of the chunk that the writer has just now */
    uint64_t saved;       /* newest durable clock + 1 */
    uint64_t save_failed; /* clock + 1 of the newest failure */
    char trouble[400];    /* why a file could not be written or read last; "": it could */
    bool restore_failed;  /* the named checkpoint could not be loaded here */
    bool restoring;       /* between PSD_ACT_RESTORE and its outcome */
    bool leaving_run;     /* the coordinator has begun another run of the job: start over when nothing runs */
    uint64_t state_sent_ms;
    /* initial values: one member is asked for a window of chunks, and for more as they come */
    struct {
        uint32_t worker;         /* who is asked; when none is, whose turn it is: this id or the next that is here */
        bool asking;             /* somebody is */
        uint64_t incarnation;    /* of whoever is */
        uint64_t seq;            /* number of the newest INIT_WANTED */
        uint64_t sent_ms;        /* when that was sent or repeated */
        uint64_t heard_ms;       /* when who is asked last said anything here */
        uint64_t flying;         /* elements of chunks asked for that have not come */
        uint8_t *asked, *newest; /* bitmaps of those chunks, and of those of the newest INIT_WANTED */
    } init;
    psd_member_t complete[PSD_MAX_WORKERS]; /* room for what psd_eng_send_state says, which it does with each push */
    uint8_t list[PSD_MAX_LIST];             /* and for its bytes */
    psd_engine_stats_t stats;
    psd_ledger_fn *ledger;
    void *ledger_arg;
};

/* -- engine.c: the log, views, rounds and steps */

/* Forget what has come of the worker's open clock. */
void psd_eng_drop_open_clock(psd_engine_t *self, psd_eng_worker_t *w);

/* Keep of a whole push that it has come, and nothing else: it becomes one without samples. */
void psd_eng_drop_gradient(psd_engine_t *self, psd_eng_worker_t *w);

/* Free a row. */
void psd_eng_free_worker(psd_engine_t *self, psd_eng_worker_t *w);

/* The row of an id, made when there is none. */
psd_eng_worker_t *psd_eng_worker_row(psd_engine_t *self, uint32_t id);

/* Cut the model for the servers and make room for this one's share. */
int psd_eng_make_shard(psd_engine_t *self, psd_err_t *err);

/* What the mode may know, of one member. */
psd_progress_t psd_eng_progress(const psd_engine_t *self, const psd_eng_worker_t *w);

/* Step the next push that is a step of its own, if nothing runs. */
void psd_eng_start_queued_push(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* Whether every chunk has a value. */
bool psd_eng_is_started(const psd_engine_t *self);

/* Serve new members, if it can be done now. */
void psd_eng_pay_debts(psd_engine_t *self, psd_actions_t *out);

/* Ask an attached member for the initial values that are missing, as many as the window allows. */
void psd_eng_request_init(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);

/* The worker has answered INIT_WANTED up to `seq`: what of it has not come by now is lost, for messages of a connection come
 * in their order. */
void psd_eng_init_answered(psd_engine_t *self, uint64_t now_ms, const psd_eng_worker_t *w, uint64_t seq, psd_actions_t *out);

/* A chunk's initial values have come. */
void psd_eng_init_came(psd_engine_t *self, uint64_t now_ms, uint32_t part, psd_actions_t *out);

/* Tell the coordinator what is done and complete: of `only`, or of all when NULL. */
void psd_eng_send_state(psd_engine_t *self, const psd_eng_worker_t *only, psd_actions_t *out);

/* Ask the coordinator for a place. */
void psd_eng_send_hello(const psd_engine_t *self, psd_actions_t *out);

/* A message with this shard's marks on it. */
psd_msg_t *psd_eng_send_to(psd_engine_t *self, psd_peer_t to, psd_kind_t kind, psd_buf_t *payload, psd_actions_t *out);

/* The same, to a worker's session, with what it must know of itself. */
psd_msg_t *psd_eng_send_to_worker(psd_engine_t *self, const psd_eng_worker_t *w, psd_kind_t kind, psd_buf_t *payload,
                                  psd_actions_t *out);

/* One chunk's weights. */
void psd_eng_send_chunk(psd_engine_t *self, const psd_eng_worker_t *w, uint32_t part, psd_actions_t *out);

/* All chunks are as they were: go on. */
void psd_eng_send_unchanged(psd_engine_t *self, const psd_eng_worker_t *w, psd_actions_t *out);

/* Every chunk's weights, to a new member or one that has fallen behind. */
void psd_eng_send_all_weights(psd_engine_t *self, psd_eng_worker_t *w, psd_actions_t *out);

/* Say no, and count it. */
void psd_eng_refuse(psd_engine_t *self, psd_peer_t to, psd_refusal_t reason, psd_actions_t *out, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Tell a former member that it is one no more. */
void psd_eng_fence(psd_engine_t *self, psd_peer_t to, const psd_msg_t *about, psd_actions_t *out);

/* -- engine_push.c: what workers say */

/* A worker speaks. */
void psd_eng_on_worker_message(psd_engine_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                               psd_actions_t *out);

/* -- engine_save.c: checkpoints, and starting over */

/* As if it had just been made: no model, no members, no round. */
void psd_eng_forget_everything(psd_engine_t *self);

/* Begin the checkpoint that the log wants, if it can be begun now. */
void psd_eng_begin_save(psd_engine_t *self, psd_actions_t *out);

/* How a chunk's step must respect the checkpoint being written. False: it is put off. */
bool psd_eng_may_step(psd_engine_t *self, psd_work_t *work);

/* A chunk's step has run. */
void psd_eng_chunk_stepped(psd_engine_t *self, uint32_t part, psd_actions_t *out);

/* Leave a run that the coordinator has ended, as soon as nothing runs. True: it is left, or about to be. */
bool psd_eng_start_over_if_due(psd_engine_t *self, uint64_t now_ms, psd_actions_t *out);
