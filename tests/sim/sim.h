/* sim.h - whole clusters in one process from one seed: the real coordinator, engines, sessions and checkpoint files, over a
 * network, disks, clocks and processes that fail in every way that the table of faults names. Time is simulated, so a minute of it
 * takes milliseconds, and a failure is a seed that anyone can run again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/optim/aggregate.h"
#include "common/optim/schedule.h"

enum { SIM_MAX_WORKERS = 1100, SIM_MAX_SERVERS = 64, SIM_SPARE_WORKERS = 2 };

/* X(NAME, description, fraction of the seeds to which sim_add_faults gives it, its highest probability there). Beside each stands
 * the event of its probability. sim_config_of_seed draws those without a fraction. */
#define SIM_FAULTS(X)                                                                                                              \
    X(LOSE, "messages lost", 0, 0)                                 /* per message */                                               \
    X(REPEAT, "messages repeated", 0, 0)                           /* per message */                                               \
    X(KILL_WORKER, "workers killed", 0, 0)                         /* per message of a worker: it dies instead of sending it */    \
    X(KILL_SERVER, "servers killed", 0, 0)                         /* per message to a server: it dies before it reads it */       \
    X(FAIL_FLUSH, "flushes failed", 0, 0)                          /* per file or manifest: it cannot be made durable */           \
    X(DIE_ACTING, "servers killed between two actions", 0.3, 0.01) /* per event of a server */                                     \
    X(DIE_WRITING, "killed between two calls to the disk", 0.7, 1) /* per file of a killed server */                               \
    X(POWER_CUT, "power cuts", 0.4, 0.04)                          /* per tick: all die, and unflushed data are lost */            \
    X(LIE, "flushes that lied", 0.5, 0.5)                          /* per file or manifest */                                      \
    X(NO_SPACE, "full disks", 0.15, 0.1)                           /* per file, chunk or manifest */                               \
    X(IO_ERROR, "failed calls to the disk", 0.15, 0.1)             /* per file, chunk or manifest */                               \
    X(PARTITION, "partitions", 0.2, 0.03)                          /* per tick: some processes from the others, both ways */       \
    X(ONE_WAY, "links cut one way", 0.2, 0.03)                     /* per tick */                                                  \
    X(CLOG, "swizzles", 0.1, 0.01)                                 /* per tick: links stopped one by one, released at random */    \
    X(PAUSE, "processes paused", 0.25, 0.03)                       /* per tick */                                                  \
    X(ZOMBIE, "workers paused and replaced", 0.15, 0.01)           /* per tick */                                                  \
    X(JUMP, "clocks that jumped", 0.15, 0.03)                      /* per tick: one process's, forward */                          \
    X(DRIFT, "clocks of another rate", 0.15, 1)                    /* per start of a process */                                    \
    X(STRAGGLE, "workers late by a second", 0, 0)                  /* per exchange */                                              \
    X(DIE_COMPUTING, "workers killed while they computed", 0, 0)   /* per exchange */

typedef enum sim_fault {
#define X(name, done, share, most) SIM_##name,
    SIM_FAULTS(X)
#undef X
        SIM_N_FAULTS
} sim_fault_t;

typedef struct sim_config {
    uint64_t seed;      /* of delays, faults and data */
    uint64_t data_seed; /* of model, weights and gradients; 0: same as seed */
    uint32_t servers, workers;
    const char *mode;             /* "bsp" or "asp" */
    const char *rule;             /* optimizer */
    const char *push, *pull;      /* codecs of gradients and of weights; NULL: f32 */
    bool saves_residuals;         /* checkpoints hold the residuals of workers */
    bool follows;                 /* each worker's process also reads the job's weights, as a follower */
    bool inherits;                /* the job begins with the optimizer state of another job */
    const char *groups;           /* tensors with other settings; NULL: none */
    psd_reduce_t reduce;          /* how the gradients of a round are combined */
    uint32_t accumulate;          /* rounds that make one step together; 0: each makes a step */
    const char *schedule;         /* of the learning rate; NULL: constant */
    psd_schedule_unit_t unit;     /* what it counts; an epoch has 100 samples */
    double clip_value, clip_norm; /* bounds of the summed gradient; 0: none */
    uint32_t part_elements;       /* most elements of a part; 0: as many as fit into a message */
    uint32_t rounds;              /* each worker leaves when its clock has passed this */
    uint32_t tensors;             /* of the model, sizes by the data seed; 0: 3 */
    uint32_t fold_at;             /* pushes that shards add up together before their round is decided; 0: none are */
    bool by_tensors;              /* workers push tensor by tensor, one for each of their events, the last first */
    bool goes_ahead;              /* servers step parts before their round is decided */
    bool joins;                   /* servers take gradients in together, out of the memory of workers */
    uint32_t odd_every;     /* period, in rounds, at which the last rank has fewer samples, as at the end of an epoch; 0: never */
    uint32_t stagger_ms;    /* a worker computes for this time, multiplied by its rank */
    uint32_t batch;         /* samples of a round, over all workers; 0: 50 */
    uint32_t most_elements; /* of a tensor; 0: 3000 */
    double chance[SIM_N_FAULTS];
    uint32_t delay_ms;        /* longest delay of a message, uniform: also reorders */
    uint32_t nonfinite_clock; /* rank 0's gradient of this clock holds a NaN; 0: never */
    /* So many of its gradients, from that clock on, which cost it its place; 0: one, which does not. In asp, where a replaced worker
     * starts its clocks again, it has them in its first life, and in every second one after. */
    uint32_t quarantine_after;
    int kill_worker;     /* this worker dies ... ; -1: none */
    uint64_t kill_at;    /* ... instead of sending its message of this number, from 0 */
    bool revive;         /* the worker of kill_worker starts again later */
    bool threads;        /* work runs on separate threads, in parallel with everything else, as in a daemon's pool */
    uint32_t save_every; /* rounds between checkpoints; 0: none are made */
    bool all_must_stay;  /* rounds wait until every lost worker is replaced: the run must have the result of an undisturbed one */
    uint32_t late_worker_ms; /* the last worker starts only then */
} sim_config_t;

typedef struct sim_result {
    bool ok;
    char why[512];                      /* the broken promise, when not ok */
    uint64_t weights_hash;              /* of the final weights of the whole model, in tensor order */
    uint64_t slow_hash;                 /* of the slow weights (0 without) */
    uint64_t messages[SIM_MAX_WORKERS]; /* sent by each worker */
    uint64_t done[SIM_N_FAULTS];        /* how often each fault has struck */
    uint64_t leader_ns;                 /* of real time that the coordinator took for them, including encoding and decoding */
    uint64_t leader_messages; /* that the coordinator received or sent, except heartbeats and messages within its process */
    uint64_t total_messages, saves, restores, fallbacks, steps, skipped, quarantined;
    /* At the servers running at the end: pushes added up before their round was decided; requested again, because it was
     * decided otherwise. */
    uint64_t folded, asked_again;
    uint64_t ahead, ahead_in_vain; /* parts that were stepped before their round was decided; of these, in vain */
    uint64_t joined;               /* messages with gradients that were taken in together */
    double most_parked;         /* gradients that a server held at a time, of the size of its shard, after the first two rounds */
    uint64_t resets;            /* bsp: workers that started with a residual of 0 in a running job, and have pushed since */
    uint64_t readings;          /* shards' weights that a follower has read, and that were compared */
    uint64_t residuals;         /* workers that continued with a residual from a checkpoint */
    uint64_t ended_ms;          /* simulated time */
    uint64_t longest_gap_ms;    /* between two closed rounds, after the first */
    uint64_t with_last_weights; /* those of the first 64 workers that have held the weights of the last round, one bit each */
} sim_result_t;

/* Run until the job is finished. Invariants, checked at every event (tests/sim/promises.c): in bsp all shards apply the same
 * contributors, each push once; in asp a shard applies each worker's pushes in order; runs and incarnations never fall; no push of
 * a fenced worker counts; no two shards of a run are more than a round apart; parked gradients are bounded; a job that stands still
 * reports what it waits for; the restored state is the saved one. At the end the weights of every shard equal, bit for bit, a
 * single-process computation of the steps that count. */
void sim_run(const sim_config_t *config, sim_result_t *result);

/* The same and, if rounds wait for every worker, and none loses its place for what it sends: the final weights must be those of the
 * run without faults. With a lossy codec, this holds only if no worker has lost its residual. */
void sim_run_and_compare(const sim_config_t *config, sim_result_t *result);

/* The cluster that belongs to a seed, with loss, repetition, kills and failing flushes. */
sim_config_t sim_config_of_seed(uint64_t seed);

/* A cluster of this size, with a tensor per server, and in each round 1 % of the workers late and 1 % killed. */
sim_config_t sim_config_of_scale(uint32_t workers, uint32_t servers, uint32_t rounds);

/* Add the other faults of the table to it, each with its fraction and probability. */
void sim_add_faults(sim_config_t *config);

/* The description of a fault; its name on the command line, such as PARTITION. */
const char *sim_fault_words(sim_fault_t fault);
const char *sim_fault_name(sim_fault_t fault);
