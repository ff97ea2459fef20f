/* chaos.h - campaigns of faults in real processes: a row each in psd_chaos.c, run by tests/chaos. A campaign returns when its
 * promise held each time, and ends the process when it did not (cluster_give_up, job_give_up). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { CHAOS_TEXT = 512, CHAOS_SAMPLES = 1 << 16 };

typedef struct chaos {
    unsigned count;        /* number of faults to cause */
    bool whole;            /* as before a release: each fault may also be long */
    uint64_t seed, chance; /* the initial seed, and the present state */
    char text[CHAOS_TEXT]; /* figures, for the campaign's line */
    const char *skipped;   /* why it was skipped; NULL: it ran */
} chaos_t;

/* A number below `n`. */
uint64_t chaos_below(chaos_t *self, uint64_t n);

/* Add to the campaign's line. */
void chaos_say(chaos_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Milliseconds, one per fault. */
typedef struct chaos_times {
    unsigned n;
    double ms[CHAOS_SAMPLES];
} chaos_times_t;
void chaos_add(chaos_times_t *self, double ms);

/* The quantile `q` of them; sorts. */
double chaos_quantile(chaos_times_t *self, double q);

/* Add "what p50 1 ms, p99 2 ms, longest 3 ms of 4" to the line. */
void chaos_say_times(chaos_t *self, const char *what, chaos_times_t *times);

/* faults/processes.c: under psdctl run, with checkpoints */
void chaos_kill_workers(chaos_t *self);
void chaos_kill_servers(chaos_t *self);
void chaos_mix(chaos_t *self);
void chaos_last_moments(chaos_t *self);
void chaos_pause(chaos_t *self);
void chaos_terminate(chaos_t *self);
void chaos_no_memory(chaos_t *self);

/* faults/mixed.c: all faults together on real data, with changing numbers of servers */
void chaos_mixed(chaos_t *self);

/* faults/network.c: behind proxies */
void chaos_cut(chaos_t *self);
void chaos_slow_network(chaos_t *self);
void chaos_stream_flips(chaos_t *self);
void chaos_messages(chaos_t *self);
void chaos_flips(chaos_t *self);

/* faults/partition.c: in separate networks */
void chaos_partition(chaos_t *self);

/* faults/disk.c: checkpoints on a disk in trouble */
void chaos_full_disk(chaos_t *self);
void chaos_read_only_disk(chaos_t *self);
void chaos_slow_disk(chaos_t *self);

/* faults/strangers.c: at the port of a job with keys */
void chaos_strangers(chaos_t *self);

/* faults/floods.c: floods at the port */
void chaos_announce(chaos_t *self);
void chaos_endless(chaos_t *self);
void chaos_crowd(chaos_t *self);
void chaos_slow_guests(chaos_t *self);
