/* advice.h - which codec makes the steps of a job shorter, from the measured speeds of their stages. The model of a step is a
 * sequence: a worker computes; gradients are encoded, sent and decoded; then weights likewise, unless these are sent while gradients
 * still come. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* The speeds of the stages. */
typedef struct psd_speeds {
    double compute_s;    /* of a worker, for its gradient of one step */
    double n_bytes;      /* of a gradient, and of the weights, as floats */
    double link_bytes_s; /* between a worker and the servers, each way */
    unsigned workers, servers;
    bool overlaps; /* gradients and weights travel at the same time */
} psd_speeds_t;

/* A pair of codecs, and its cost. */
typedef struct psd_way {
    const char *push, *pull;       /* codecs, as options name them */
    double push_share, pull_share; /* bytes sent, as a fraction of those of floats */
    double code_s;                 /* to code and decode a gradient and the weights once */
} psd_way_t;

/* Seconds of a step. The busiest link decides: a worker's, or a server's, which carries every worker's bytes for that server's
 * shard. */
double psd_advice_step(const psd_speeds_t *speeds, const psd_way_t *way);

/* The index of the recommended way: the first of way[0..n), which is sorted by increasing loss, whose steps are at most 5 % longer
 * than the shortest. */
size_t psd_advise(const psd_speeds_t *speeds, const psd_way_t *way, size_t n);

/* Bytes per second of the link below which `way` makes shorter steps than `plain`; 0: it never does. */
double psd_advice_pays_below(const psd_speeds_t *speeds, const psd_way_t *plain, const psd_way_t *way);
