/* sim_state.h - the inside of the simulator, shared by its files and nobody else:
 *   sim.c        the queue of events, and the run from the first to the last
 *   processes.c  servers and workers: starting, dying, pausing, their clocks, and what their machines want
 * done network.c    what becomes of a message saves.c      checkpoints: real files on a disk that loses what
 * was not flushed faults.c     the table of faults: who has which, and those that come with time job.c the
 * model, its first weights and the gradients, for workers and for the reference alike promises.c   what must
 * hold at every event reference.c  the weights that a single process comes to */
#pragma once

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include "common/base/rng.h"
#include "server/checkpoint/checkpoint.h"
#include "server/core/node.h"
#include "tests/sim/sim.h"
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
    FILE_SAVED,
    COMMITTED,
    RESTORED,
    TICK_SERVER,
    TICK_WORKER,
    START_WORKER,
    START_SERVER,
    STOP_SERVERS,
    CUT_LINK,
    FAULTS, /* those that come with time are drawn */
    NOTHING /* an event whose process died before it came */
} kind_t;

typedef struct event {
    uint64_t at_ms, order; /* order: ties are kept in the order they were made */
    kind_t kind;
    uint32_t target;        /* server or worker; CUT_LINK: process that is not heard */
    uint64_t life;          /* of this life of the target only; START_..., TO_SERVER: of any */
    uint32_t part;          /* PART_SAVED; CUT_LINK: process that does not hear */
    uint64_t until_ms;      /* CUT_LINK */
    bool failed;            /* FILE_SAVED: it could not even be begun */
    psd_ckpt_facts_t facts; /* COMMITTED, RESTORED: of which checkpoint; borrows */
    psd_peer_t from;
    psd_msg_t *msg;
    psd_buf_t *payload;
    psd_work_t *work;
    uv_thread_t thread; /* WORK_DONE: where the work runs, with config.threads */
} event_t;

/* What a worker pushed: enough to compute its gradient again. */
typedef struct push {
    uint32_t worker, rank, world;
    uint64_t incarnation, clock, samples, run;
    float *gradient; /* asp: as it was; bsp: NULL, a function of the weights */
} push_t;

/* A push that counts. */
typedef struct applied {
    uint64_t run, clock, incarnation, worker; /* of one width: compared as bytes */
} applied_t;

typedef struct ledger {
    applied_t *at; /* in the order of application */
    size_t n, capacity;
} ledger_t;

/* What a checkpoint's file of one shard stands for: noted when its writing begins. */
typedef struct snapshot {
    uint32_t shard, n_chunks;
    uint64_t clock;
    uint32_t *crc;   /* of each chunk's arrays */
    ledger_t ledger; /* the pushes that are in it */
} snapshot_t;

/* A process's own time, which it is told. */
typedef struct sim_clock {
    uint64_t offset_ms, per_mille, born_ms;
    uint64_t paused_until_ms;
} sim_clock_t;

typedef struct sim_server {
    psd_node_t *node; /* NULL while dead */
    uint64_t life;    /* rises at each start */
    sim_clock_t clock;
    psd_ckpt_writer_t *writer;        /* of the file that a checkpoint writes now */
    psd_ckpt_facts_t writing;         /* its facts, which the writer borrows */
    uint64_t disk_until_ms;           /* its disk does one thing after the other */
    ledger_t ledger;                  /* the pushes that its weights are made of */
    size_t n_before_run;              /* of those, how many are from before its run */
    uint64_t version_before_run;      /* and its version then */
    uint32_t run, newest_run;         /* its run, as an index into sim_t.run, from 1; 0: none yet; the newest of all
                                   its lives */
    atomic_size_t parked_bytes;       /* payloads of pushes that it holds */
    uint64_t fenced[PSD_MAX_WORKERS]; /* newest incarnation of each worker that it has fenced in its run */
    uint64_t stirred[4];              /* where the job was when it last got on (server 0) */
    uint32_t idle_ticks;              /* since then */
    bool is_bare;                     /* its checkpoint could not be loaded: it waits for the next run */
    bool finished;
} sim_server_t;

typedef struct sim_worker {
    psd_session_t *session; /* NULL while dead */
    uint64_t life;          /* rises at each start */
    sim_clock_t clock;
    uint64_t sent; /* messages of all lives */
    float *w[MAX_TENSORS], *g[MAX_TENSORS];
    bool registered, done;
    bool pulled; /* slow weights were read before leaving */
    float *slow[MAX_TENSORS];
    uint64_t computed_clock; /* the newest for which it has taken its time */
    uint64_t stirred[2];     /* where it was when it last got on */
    uint32_t idle_ticks;     /* since then */
} sim_worker_t;

typedef struct link {
    uint64_t cut_until_ms;
    bool holds; /* messages come when it is mended; else they are lost */
} sim_link_t;

typedef struct sim {
    sim_config_t config;
    sim_result_t *result;
    uint64_t now_ms, order, random;
    event_t *heap;
    size_t n, capacity;
    psd_rule_t rule;
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
    ledger_t history;                      /* bsp: what the shard that is furthest in the newest run has applied in it */
    uint32_t history_run;                  /* which run that is */
    uint64_t incarnation[PSD_MAX_WORKERS]; /* of each worker, as this life of the coordinator last had it */
    uint64_t last_round_ms, last_clock;
    uint64_t last_fault_ms; /* when the last one was over */
    char dir[64];           /* checkpoints; empty without */
    snapshot_t **snapshot;
    size_t n_snapshots;
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

/* Draw those that come with time. */
void sim_draw_faults(sim_t *self);

/* A fault's effects last until then. */
void sim_note_fault(sim_t *self, uint64_t until_ms);

/* -- network.c */

uint64_t sim_delay(sim_t *self);

/* How the machines name each other. */
psd_peer_t sim_worker_peer(uint32_t w, uint64_t life);
psd_peer_t sim_server_peer(const sim_t *self, uint32_t s);

/* Send an action's message from a process: over the wire, as the faults let it. */
void sim_send(sim_t *self, uint32_t process, const psd_action_t *a);

/* Whether the coordinator gets or sends it, and not as a mere sign of life. */
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

/* Workers that there may be at a time: the configured ones, and spares. */
uint32_t sim_most_workers(const sim_t *self);

/* Stop a process until then. */
void sim_pause(sim_t *self, uint32_t process, uint64_t until_ms);

/* -- saves.c */

void sim_begin_disk(sim_t *self);
void sim_end_disk(sim_t *self);

/* Carry out an action on checkpoints. */
void sim_save(sim_t *self, uint32_t s, const psd_action_t *a);

/* What it leads to, later. */
void sim_on_file_begun(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_part_saved(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_file_saved(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_committed(sim_t *self, event_t *e, psd_actions_t *out);
void sim_on_restored(sim_t *self, event_t *e, psd_actions_t *out);

/* A server dies: what its disk was told to do happens in part or not at all. */
void sim_lose_writer(sim_t *self, uint32_t s);
void sim_die_writing(sim_t *self, const event_t *e);

/* All power is gone: what was not flushed is lost, in part. */
void sim_lose_unflushed(sim_t *self);

psd_shard_t *sim_shard_of(const sim_t *self, uint32_t s);

/* -- job.c */

void sim_make_model(sim_t *self);
void sim_initial_weights(const sim_t *self, float **w);
void sim_make_gradient(const sim_t *self, const float *w, float *g, size_t n, uint32_t tensor, uint64_t clock, uint32_t rank,
                       uint32_t world);
size_t sim_model_size(const sim_t *self);

/* Compute the gradient that the worker pushes next, and remember it; `run` is for the caller to fill in. */
push_t *sim_begin_push(sim_t *self, uint32_t w);

/* Whether that gradient holds a NaN. */
bool sim_is_nonfinite(const sim_t *self, const push_t *push);
const push_t *sim_find_push(const sim_t *self, const applied_t *a);

/* -- promises.c */

/* A shard has applied a contribution (psd_ledger_fn). */
void sim_note_applied(void *arg, uint32_t shard, uint64_t clock, uint32_t worker, uint64_t incarnation);

/* A message is about to be given to a server: note how much of it the server holds on to. */
void sim_watch_payload(sim_t *self, event_t *e);

/* What a server answers: note whom it has fenced, and which runs begin. */
void sim_look_at_answers(sim_t *self, const event_t *e, const psd_actions_t *out);

/* After an event of a server. */
void sim_look_at_server(sim_t *self, uint32_t s);

/* At a tick: whoever stands still says for what. */
void sim_look_at_wait(sim_t *self, uint32_t s);
void sim_look_at_worker(sim_t *self, uint32_t w);

/* Make one ledger say what another says. */
void sim_copy_ledger(ledger_t *to, const ledger_t *from);

/* Who waits for whom, when the run does not come to its end. */
void sim_say_who_waits(sim_t *self, uint64_t limit_ms);

/* -- reference.c */

/* Every shard's weights are what one process makes of the pushes that count. */
void sim_check_weights(sim_t *self);
