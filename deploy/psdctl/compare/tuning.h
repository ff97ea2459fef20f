/* tuning.h - a search for the learning rate of each of several rules. A range test of each rule (range.h) leaves out the rates of a
 * grid that do nothing or diverge. Successive halving chooses from the others: all are trained for a small share of the job, the
 * best third of each rule's for three times as long, and so on. The best one and the best of the lower ones are trained for the
 * whole job, because short runs favour high rates. If the last short round has none that is lower, the next lower rate of the first
 * round takes that place; instead of one that is not there or has diverged, the second best. With nine rates, that takes less than
 * a third of the steps of training all. The result includes which rates were cut in which round, and why. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "deploy/psdctl/compare/comparison.h"
#include "deploy/psdctl/compare/range.h"

enum {
    PSD_TUNING_ROUNDS = 8,
    PSD_TUNING_THIRD = 3 /* one rate of this many is kept */,
    PSD_TUNING_LAST = 2 /* rates per rule in the last round */,
    PSD_TUNING_FEW = 3 /* rates per rule that a range test leaves at least; so few are not tested */
};

/* A rule of the search. */
typedef struct psd_tuning_rule {
    char label[PSD_RULE_TEXT]; /* with its lowest and its highest rate */
    bool is_tested;            /* there is a range test of it */
    psd_range_found_t found;   /* by that, or why there is none */
} psd_tuning_rule_t;

typedef struct psd_tuning {
    psd_comparison_t grid;                     /* all rates of all rules; nothing is trained of it as a whole */
    psd_comparison_t range;                    /* the range tests: the lowest rate of each tested rule */
    psd_comparison_t round[PSD_TUNING_ROUNDS]; /* the last one trains for the whole job */
    psd_range_t rise;                          /* of the rate in the range tests */
    psd_tuning_rule_t *rule;
    size_t n_rules, n_rates; /* rates per rule, in the grid */
    size_t n_rounds;         /* rounds in all, without the range tests */
    size_t n_begun;          /* rounds begun so far; 0: the range tests are to be made */
} psd_tuning_t;

/* The rounds that `n_rates` rates need: 1 for up to two, 2 for three, 3 for up to 9. */
size_t psd_tuning_rounds(size_t n_rates);

/* Begin with the job's compare.optimizers and compare.lr_sweep; PSD_ECONFIG as psd_comparison_begin, and for too many rates. Clear
 * it in any case. */
int psd_tuning_begin(psd_tuning_t *self, const psd_options_t *options, psd_err_t *err);
void psd_tuning_clear(psd_tuning_t *self);

/* What is to be made now: the runs of the range tests, or of the present round. */
psd_comparison_t *psd_tuning_now(psd_tuning_t *self);

/* Call it when all these runs are finished: judges them, and begins the next round. `*done` when it was the last. PSD_ENOMEM. */
int psd_tuning_next(psd_tuning_t *self, bool *done, psd_err_t *err);

/* The chosen rule and rate: the best at the end; NULL when none succeeded with every seed. */
const psd_contender_t *psd_tuning_choice(const psd_tuning_t *self);

/* Whether a rate that was cut in round `r` cannot be distinguished, by the ranges over the seeds there, from the chosen one of its
 * rule: in longer runs the ranking may change. */
bool psd_tuning_overlaps(const psd_tuning_t *self, size_t r, size_t c);

/* What became of contender `c` of round `r`, "kept: next below the best", "cut: 4 of 9", "cut: diverged"; and of the grid: "" if it
 * was trained, otherwise why the range test has cut it. */
void psd_tuning_describe(const psd_tuning_t *self, size_t r, size_t c, char out[PSD_CELL]);
void psd_tuning_describe_cut(const psd_tuning_t *self, size_t c, char out[PSD_CELL]);

/* The steps that the search has taken, and those that the whole grid would take. */
uint64_t psd_tuning_steps(const psd_tuning_t *self);
uint64_t psd_tuning_grid_steps(const psd_tuning_t *self);

/* The table of the cut rates, with round and reason; the whole search as JSON, psd.tune/1 (NULL: no memory); the page: the last
 * round's, with that table and the curves of the range tests (false when `out` could not be written). */
void psd_tuning_print_cuts(const psd_tuning_t *self, FILE *out);
json_t *psd_tuning_json(const psd_tuning_t *self);
bool psd_tuning_page(const psd_tuning_t *self, FILE *out);
