/* sim.h - whole clusters in one process from one seed: the real coordinator, engines and sessions, over a network that
 * delays, reorders, repeats and drops messages, with workers that are killed and come back. Time is simulated, so a
 * minute of it takes milliseconds, and a failure is a seed that anybody can run again. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { SIM_MAX_WORKERS = 8, SIM_MAX_SERVERS = 8 };

typedef struct sim_config {
    uint64_t seed;            /* of delays, faults and data */
    uint64_t data_seed;       /* of model, weights and gradients; 0: same as seed */
    uint32_t servers, workers;
    const char *mode;         /* "bsp" or "asp" */
    const char *rule;         /* optimizer */
    uint32_t rounds;          /* each worker leaves when its clock has passed this */
    uint32_t tensors;         /* of the model, sizes by the data seed; 0: 3 */
    double drop, duplicate;   /* chance per message */
    uint32_t delay_ms;        /* longest delay of a message, uniform: also reorders */
    uint32_t nonfinite_clock; /* rank 0's gradient of this clock holds a NaN; 0: never */
    int kill_worker;          /* this one dies ... ; -1: none */
    uint64_t kill_at;         /* ... instead of sending its message of this number, from 0 */
    double kill_chance;       /* per message of any worker: it dies; another starts 0.2 s to 4 s later */
    bool revive;              /* the worker of kill_worker starts again later */
    bool threads;             /* work runs on threads of its own, beside everything else, as in a daemon's pool */
    uint32_t save_every;      /* rounds between checkpoints; 0: none are made */
    double crash_chance;      /* per message to a server: it dies, its memory is lost; started again 0.1 s to 1 s later */
    double disk_chance;       /* per file or manifest to be made durable: that fails */
    bool all_must_stay;       /* rounds wait until every lost worker is replaced: the run must end as an undisturbed one */
    uint32_t late_worker_ms;  /* the last worker starts only then */
} sim_config_t;

typedef struct sim_result {
    bool ok;
    char why[512];                          /* the broken promise, when not ok */
    uint64_t weights_hash;                  /* of the final weights of the whole model, in tensor order */
    uint64_t slow_hash;                     /* of the slow weights (0 without) */
    uint64_t messages[SIM_MAX_WORKERS];     /* sent by each worker */
    uint64_t total_messages, kills, crashes, saves, steps, skipped;
    uint64_t ended_ms;                      /* simulated time */
    uint64_t longest_gap_ms;                /* between two closed rounds, after the first */
    uint32_t with_last_weights;             /* workers that have held the weights of the last round, one bit each */
} sim_result_t;

/* Run until the job is finished, then check: every shard applied the same contributors in every round (bsp), every
 * push of a worker at most once and in order, and the weights of every shard equal, bit for bit, a single-process
 * computation of the same steps. */
void sim_run(const sim_config_t *config, sim_result_t *result);

/* The same, and where rounds wait for every worker: the final weights must be those of the run without any fault. */
void sim_run_and_compare(const sim_config_t *config, sim_result_t *result);
