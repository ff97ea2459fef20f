/* sim_state.h - the inside of the simulator, shared only by its files:
 *   sim.c        the queue of events, and the run from the first to the last
 *   processes.c  servers and workers: starts, deaths, pauses, their clocks, and the actions of their state machines
 *   network.c    the delivery of messages
 *   intake.c     gradients that a server takes in together
 *   saves.c      checkpoints: real files on a disk that loses data that was not flushed
 *   faults.c     the table of faults: selection by seed, and faults over time
 *   job.c        the model, its initial weights and the gradients, for workers and for the reference
 *   promises.c   the invariants that must hold at every event
 *   reference.c  the weights of a single process after the same pushes */
#pragma once

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include "common/base/rng.h"
#include "server/checkpoint/checkpoint.h"
#include "server/core/means.h"
#include "server/core/node.h"
#include "tests/sim/sim.h"
#include "worker/reading.h"
#include "worker/session.h"

enum {
    TICK_MS = 50,
    MAX_TENSORS = SIM_MAX_SERVERS,
    BATCH = 50,
    MAX_RUNS = 256,
    SIM_PROCESSES = SIM_MAX_SERVERS + SIM_MAX_WORKERS /* servers first */
};

typedef enum kind {
    TO_SERVER,
    TO_WORKER,
    WORK_DONE,
    FILE_BEGUN,
    PART_SAVED,
    RESIDUAL_SAVED,
    RESIDUAL_LOADED,
    FILE_SAVED,
    COMMITTED,
    RESTORED,
    HELD_LONG_ENOUGH,
    TICK_SERVER,
    TICK_WORKER,
    START_WORKER,
    START_SERVER,
    STOP_SERVERS,
    CUT_LINK,
    FAULTS, /* draw the faults over time */
    NOTHING /* an event whose process died before it came */
} kind_t;

typedef struct event {
    uint64_t at_ms, order; /* order: ties are kept in the order they were made */
    kind_t kind;
    uint32_t target;        /* server or worker; CUT_LINK: process that is not heard */
    uint64_t life;          /* only for this start of the target; START_..., TO_SERVER: for any */
    uint32_t worker;        /* RESIDUAL_SAVED, RESIDUAL_LOADED */
    uint64_t file;          /* PART_SAVED, RESIDUAL_SAVED: into which, by its snapshot */
    uint32_t part;          /* PART_SAVED, RESIDUAL_SAVED; CUT_LINK: process that does not hear */
    uint64_t until_ms;      /* CUT_LINK */
    bool failed;            /* FILE_SAVED: it could not even be begun */
    psd_ckpt_facts_t facts; /* COMMITTED, RESTORED: of which checkpoint; borrows */
    psd_peer_t from;
    psd_msg_t *msg;
    psd_buf_t *payload;
    bool was_held, is_joint; /* TO_SERVER: it has waited for others; it has been added up with them */
    uint64_t mean;           /* there: its number, and this one's weight */
    double weight;
    psd_work_t *work;
    uv_thread_t thread; /* WORK_DONE: where the work runs, with config.threads */
} event_t;

/* A worker's push: enough to compute its gradient again. */
typedef struct push {
    uint32_t worker, rank, world;
    uint64_t incarnation, clock, samples, run;
    float *gradient; /* asp: as it came; bsp: NULL, a function of the weights */
    float *kept;     /* asp, with residuals: the residual after it */
} push_t;

/* An incarnation of a worker at one of its clocks. */
typedef struct sim_life {
    uint64_t run, incarnation, clock;
    uint32_t worker;
} sim_life_t;

/* An incarnation that continued with a residual from a checkpoint. */
typedef struct sim_heir {
    sim_life_t life;
    sim_life_t of[SIM_MAX_SERVERS]; /* its owner, by shard; run 0: the shard holds nothing */
    float *kept;                    /* asp: its initial residual, in the simulator's copy */
} sim_heir_t;

/* A shard has begun a run from a snapshot, from 1. */
typedef struct sim_origin {
    uint64_t run, snapshot;
    uint32_t shard;
} sim_origin_t;

/* A push that counts. */
typedef struct applied {
    uint64_t run, clock, incarnation, worker; /* of one width: compared as bytes */
} applied_t;

typedef struct ledger {
    applied_t *at; /* in the order of application */
    size_t n, capacity;
} ledger_t;

/* The contents of one shard's checkpoint file, recorded when its writing begins. */
typedef struct snapshot {
    uint32_t shard, n_chunks;
    uint64_t clock;
    uint32_t *crc;    /* of each chunk's arrays */
    ledger_t ledger;  /* the pushes that are in it */
    sim_life_t *kept; /* the workers whose residuals it may hold */
    uint32_t n_kept;
    psd_applied_t *applied; /* each worker's last push in it */
    uint32_t n_applied;
} snapshot_t;

/* The time that a process sees. */
typedef struct sim_clock {
    uint64_t offset_ms, per_mille, born_ms;
    uint64_t paused_until_ms;
} sim_clock_t;

typedef struct sim_server {
    psd_node_t *node; /* NULL while dead */
    uint64_t life;    /* rises at each start */
    sim_clock_t clock;
    psd_means_t means;
    psd_ckpt_writer_t *writer;        /* of the file that a checkpoint writes now */
    psd_ckpt_facts_t writing;         /* its facts, which the writer borrows */
    uint64_t disk_until_ms;           /* its disk carries out one request at a time */
    ledger_t ledger;                  /* the pushes behind its weights */
    size_t n_before_run;              /* the number of them from before its run */
    uint64_t version_before_run;      /* and its version then */
    uint32_t run, newest_run;         /* its run, as an index into sim_t.run, from 1; 0: none yet; the newest of all
                                   its lives */
    atomic_size_t parked_bytes;       /* payloads of pushes that it holds */
    uint64_t fenced[PSD_MAX_WORKERS]; /* newest incarnation of each worker that it has fenced in its run */
    uint64_t stirred[4];              /* the job's position at its last progress (server 0) */
    uint32_t idle_ticks;              /* since then */
    bool is_bare;                     /* its checkpoint could not be loaded: it waits for the next run */
    bool finished;
} sim_server_t;

typedef struct sim_seen sim_seen_t;

typedef struct sim_worker {
    psd_session_t *session; /* NULL while dead */
    psd_reading_t *reading; /* of the same process; NULL: it does not follow */
    bool reads_slow;
    uint32_t reading_ticks;
    uint64_t life; /* rises at each start */
    sim_clock_t clock;
    uint64_t sent; /* messages of all lives */
    float *w[MAX_TENSORS], *g[MAX_TENSORS];
    bool registered, done;
    bool pulled; /* slow weights were read before leaving */
    float *slow[MAX_TENSORS];
    float *kept[MAX_TENSORS]; /* asp: its residual, in the simulator's copy */
    sim_life_t life_of_kept;  /* its owner */
    uint32_t n_given;         /* tensors of the open exchange, if it pushes them one by one; 0: it has not begun */
    uint64_t open_samples;    /* of these */
    uint64_t open_hash;       /* of its weights when it began */
    uint64_t computed_clock;  /* the newest one for which it has delayed */
    uint64_t stirred[2];      /* its position at its last progress */
    uint32_t idle_ticks;      /* since then */
} sim_worker_t;

typedef struct link {
    uint64_t cut_until_ms;
    bool holds; /* messages arrive when the cut ends; otherwise they are lost */
} sim_link_t;

typedef struct sim {
    sim_config_t config;
    sim_result_t *result;
    uint64_t now_ms, order, random;
    event_t *heap;
    size_t n, capacity;
    psd_groups_t groups;
    uint8_t group_of[MAX_TENSORS];
    psd_shape_t shape[MAX_TENSORS];
    psd_schedule_t schedule;
    psd_clip_t clip;
    psd_codings_t codings;
    const psd_mode_t *mode;
    psd_tensor_list_t list;
    sim_server_t server[SIM_MAX_SERVERS];
    sim_worker_t worker[SIM_MAX_WORKERS];
    sim_link_t (*link)[SIM_PROCESSES]; /* [SIM_PROCESSES], from and to */
    push_t *push;
    size_t n_push, push_capacity;
    uint64_t run[MAX_RUNS + 1]; /* job ids in the order in which runs were begun, from 1 */
    uint32_t n_runs;
    ledger_t history;                      /* bsp: the pushes that the most advanced shard of the newest run has applied in it */
    uint32_t history_run;                  /* that run */
    uint64_t incarnation[PSD_MAX_WORKERS]; /* of each worker, as this coordinator process last had it */
    uint64_t last_round_ms, last_clock;
    uint64_t last_fault_ms; /* when the last one was over */
    uint64_t ending_ms;     /* since when the job ends; 0: it does not */
    char dir[64];           /* checkpoints; empty without */
    sim_seen_t *seen;       /* weights of shards, for followers */
    size_t n_seen;
    snapshot_t **snapshot;
    size_t n_snapshots;
    sim_origin_t *origin;
    size_t n_origins;
    sim_heir_t *heir;
    size_t n_heirs;
    bool lied;         /* a flush of the newest attempt */
    uint64_t n_honest; /* checkpoints committed since a flush last lied */
} sim_t;

/* -- sim.c */

/* A promise is broken: the run ends. */
void sim_broken(sim_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

void sim_schedule(sim_t *self, event_t e);

/* -- faults.c */

/* Whether this fault strikes now; counts it. */
bool sim_strikes(sim_t *self, sim_fault_t fault);

uint64_t sim_draw(sim_t *self, uint64_t n); /* 0 .. n - 1 */

/* Draw the faults over time. */
void sim_draw_faults(sim_t *self);

/* The time until which a fault's effects last. */
void sim_note_fault(sim_t *self, uint64_t until_ms);

/* -- network.c */

uint64_t sim_delay(sim_t *self);

/* The names of the machines for each other. */
psd_peer_t sim_worker_peer(uint32_t w, uint64_t life);
psd_peer_t sim_server_peer(const sim_t *self, uint32_t s);

/* Send an action's message from a process: over the wire, subject to the faults. */
void sim_send(sim_t *self, uint32_t process, const psd_action_t *a);

/* Whether the coordinator receives or sends it, and it is not a heartbeat. */
bool sim_is_leaders(psd_kind_t kind);

void sim_cut_link(sim_t *self, uint32_t from, uint32_t to, uint64_t until_ms, bool holds);

/* -- processes.c */

void sim_build_server(sim_t *self, uint32_t s);
void sim_start_worker(sim_t *self, uint32_t w);
void sim_crash_server(sim_t *self, uint32_t s, uint64_t again_after_ms);
void sim_kill_worker(sim_t *self, uint32_t w, uint64_t again_after_ms);
void sim_finish_work(const sim_t *self, event_t *e);
bool sim_any_finished(const sim_t *self);
sim_clock_t *sim_clock_of(sim_t *self, uint32_t process);
bool sim_is_alive(const sim_t *self, uint32_t process);
uint64_t sim_local_ms(const sim_t *self, const sim_clock_t *clock);
void sim_on_event(sim_t *self, event_t *e);

/* The most workers at a time: the configured ones, and spares. */
uint32_t sim_most_workers(const sim_t *self);

/* Pause a process until that time. */
void sim_pause(sim_t *self, uint32_t process, uint64_t until_ms);

/* -- saves.c */

void sim_begin_disk(sim_t *self);
void sim_end_disk(sim_t *self);

/* Carry out an action on checkpoints. */
void sim_save(sim_t *self, uint32_t s, const psd_action_t *a);

/* Handle its outcome, later. */
void sim_on_file_begun(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_part_saved(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_residual_saved(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_residual_loaded(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_file_saved(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_committed(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_restored(sim_t *self, event_t *e, psd_actions_t *out);

/* A server dies: pending requests to its disk happen in part or not at all. */
void sim_lose_writer(sim_t *self, uint32_t s);
void sim_die_writing(sim_t *self, const event_t *e);

/* The power fails: data that was not flushed is lost, in part. */
void sim_lose_unflushed(sim_t *self);

psd_shard_t *sim_shard_of(const sim_t *self, uint32_t s);

/* Worker `w` has continued with a residual from a checkpoint: record its owner. */
void sim_note_heir(sim_t *self, uint32_t w);

/* The entry of this incarnation; NULL: it began with none. Its clock does not matter. */
const sim_heir_t *sim_find_heir(const sim_t *self, const sim_life_t *life);

/* -- job.c */

void sim_make_model(sim_t *self);

/* What the tensors of the model inherit; NULL: nothing. The caller destroys it. */
psd_inheritance_t *sim_inheritance(const sim_t *self);

/* Whether workers have residuals. */
bool sim_keeps(const sim_t *self);
void sim_initial_weights(const sim_t *self, float **w);
void sim_make_gradient(const sim_t *self, const float *w, float *g, size_t n, uint32_t tensor, uint64_t clock, uint32_t rank,
                       uint32_t world);
size_t sim_model_size(const sim_t *self);

/* Compute the gradient that the worker pushes next, and remember it; `run` is for the caller to fill in. */
push_t *sim_begin_push(sim_t *self, uint32_t w);

/* Whether that gradient holds a NaN. */
bool sim_is_nonfinite(const sim_t *self, const push_t *push);
const push_t *sim_find_push(const sim_t *self, const applied_t *a);

/* -- follower.c */

/* A worker's process begins to follow; whether its reading takes this message, and not its session; that message; a tick. */
void sim_begin_reading(sim_t *self, uint32_t w);
bool sim_reading_takes(const sim_worker_t *me, const psd_msg_t *msg);
void sim_read_message(sim_t *self, uint32_t w, const event_t *e, psd_actions_t *out);
void sim_tick_reading(sim_t *self, uint32_t w, psd_actions_t *out);

/* A server has done something: note weights of a new version; free them all. */
void sim_note_weights(sim_t *self, uint32_t s);
void sim_forget_seen(sim_t *self);

/* -- intake.c */

/* Whether a message that comes to a server is held until others have come, or has come with them. */
bool sim_hold(sim_t *self, event_t *e);
void sim_on_held_long_enough(sim_t *self, event_t *e, psd_actions_t *out);

/* Lose what a server holds; also before its first start. */
void sim_lose_held(sim_t *self, uint32_t s);

/* -- promises.c */

/* A shard has applied a contribution (psd_ledger_fn). */
void sim_note_applied(void *arg, uint32_t shard, uint64_t clock, uint32_t worker, uint64_t incarnation);

/* Before a message is given to a server: record how much of it the server keeps. */
void sim_watch_payload(sim_t *self, event_t *e);

/* Look at a server's answers: record the workers that it has fenced, and the runs that begin. */
void sim_look_at_answers(sim_t *self, const event_t *e, const psd_actions_t *out);

/* After an event of a server. */
void sim_look_at_server(sim_t *self, uint32_t s);

/* At a tick: check that each process that stands still reports what it waits for. */
void sim_look_at_wait(sim_t *self, uint32_t s);
void sim_look_at_worker(sim_t *self, uint32_t w);

/* Copy one ledger to another. */
void sim_copy_ledger(ledger_t *to, const ledger_t *from);

/* Describe who waits for what, when the run does not end. */
void sim_say_who_waits(sim_t *self, uint64_t limit_ms);

/* -- reference.c */
/* A number that tells the values of a whole model from others. */
uint64_t sim_hash(const sim_t *self, float *const *w);

/* Check that every shard's weights are those of one process after the pushes that count. */
void sim_check_weights(sim_t *self);
