/* tuning.h - a search for the learning rate of each of several rules by successive halving: all rates of a grid are trained for a
 * small share of the job, the best third of each rule's for three times as long, and so on; the best two are trained for the whole
 * job, because rankings of short runs may change later. With nine rates, that takes less than a third of the steps of training all.
 * The result includes which rates were cut in which round, and why. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "deploy/psdctl/compare/comparison.h"

enum {
    PSD_TUNING_ROUNDS = 8,
    PSD_TUNING_THIRD = 3 /* one rate of this many is kept */,
    PSD_TUNING_LAST = 2 /* rates per rule in the last round */
};

typedef struct psd_tuning {
    psd_comparison_t round[PSD_TUNING_ROUNDS]; /* the last one trains for the whole job */
    size_t n_rounds;                           /* rounds in all */
    size_t n_begun;                            /* rounds begun so far */
} psd_tuning_t;

/* The rounds that `n_rates` rates need: 1 for up to two, 2 for three, 3 for up to 9. */
size_t psd_tuning_rounds(size_t n_rates);

/* The first round, of the job's compare.optimizers and compare.lr_sweep; PSD_ECONFIG as psd_comparison_begin, and for too many
 * rates. Clear it in any case. */
int psd_tuning_begin(psd_tuning_t *self, const psd_options_t *options, psd_err_t *err);
void psd_tuning_clear(psd_tuning_t *self);

/* The present round, whose runs must be made. */
psd_comparison_t *psd_tuning_now(psd_tuning_t *self);

/* Call it when all runs of the round are finished: judges it, and begins the next one. `*done` when it was the last. PSD_ENOMEM. */
int psd_tuning_next(psd_tuning_t *self, bool *done, psd_err_t *err);

/* The chosen rule and rate: the best at the end; NULL when all failed. */
const psd_contender_t *psd_tuning_choice(const psd_tuning_t *self);

/* Whether a rate that was cut in round `r` cannot be distinguished, by the ranges over the seeds there, from the chosen one of its
 * rule: in longer runs the ranking may change. */
bool psd_tuning_overlaps(const psd_tuning_t *self, size_t r, size_t c);

/* The table of the cut rates, with round and reason; the whole search as JSON, psd.tune/1. NULL: no memory. */
void psd_tuning_print_cuts(const psd_tuning_t *self, FILE *out);
json_t *psd_tuning_json(const psd_tuning_t *self);
