/* comparison.h - the same job with several optimizers and several seeds: the measurements, the verdict, and their output as a
 * table, as JSON and as a page. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "common/config/options.h"
#include "common/optim/schedule.h"
#include "deploy/psdctl/run/outcome.h"
#include "deploy/psdctl/compare/spread.h"

enum { PSD_CELL = 96 /* longest cell of the table, with its end */ };

/* One of the rules that are compared. */
typedef struct psd_contender {
    psd_rule_t rule;
    char label[PSD_RULE_TEXT]; /* as users see it */
    char name[PSD_RULE_TEXT];  /* with all its values */
    size_t named;              /* index of its rule as given, from 0; the contenders of a sweep share it */
    double factor;             /* in a sweep: its learning rate is the given one times this */
    psd_outcome_t *outcome;    /* per seed */
    /* Filled by psd_comparison_judge; over the seeds that ended with a finite loss. */
    unsigned n_read, n_diverged, n_undefined, n_untrained;
    psd_spread_t held;  /* the metric on the rows held out of training; empty if there are none */
    psd_spread_t ended; /* what chooses among rates, with the seeds that failed to train */
    psd_spread_t final, best, loss, seconds, samples_per_s, moved_bytes;
    psd_spread_t steps_to_target, seconds_to_target; /* over the seeds that reached the target */
    psd_spread_groups_t groups; /* by `final`, rounded to the digits of the table; none unless every seed succeeded */
    bool is_best_of_sweep;      /* the learning rate chosen for its rule: by `held` if there is one, otherwise by `final` */
    bool is_at_edge;            /* it is chosen at the edge of the grid: a rate outside may be better */
} psd_contender_t;

typedef struct psd_comparison {
    const psd_options_t *options;
    unsigned n_seeds, n_servers, n_workers;
    uint64_t first_seed;
    psd_contender_t *contender; /* in the order given; after psd_comparison_judge the best first */
    size_t n;
    /* Filled by psd_comparison_judge. */
    char metric[32];
    bool smaller_is_better;
    double target;       /* NaN: there is none */
    bool target_is_ours; /* it is the final value of the baseline's worst seed, not one given */
    char verdict[1024];
    char advice[1024];                /* rules whose learning rate needs a wider grid; "": none */
    double share;                     /* fraction of the job's steps or epochs that each run trains for; 1: all */
    char schedule[PSD_SCHEDULE_TEXT]; /* of range tests, whose losses are all that counts; "": the job's schedule */
    const char *schedule_unit;        /* of that */
    double least_factor, most_factor; /* contenders of the whole grid */
    double validation;                /* share of the training rows that is held out; 0: none */
    bool is_swept;                    /* each rule has several learning rates */
    size_t n_chosen;                  /* number of contenders that are the best of their sweeps; they come first */
    const psd_contender_t *winner;    /* NULL: none is named */
} psd_comparison_t;

/* The rules of compare.optimizers, one by one for each factor of compare.lr_sweep. `options` are borrowed until it is cleared.
 * PSD_ECONFIG for a text that is not a rule, or a repeated rule; PSD_ENOMEM. Clear it in any case. */
int psd_comparison_begin(psd_comparison_t *self, const psd_options_t *options, psd_err_t *err);
void psd_comparison_clear(psd_comparison_t *self);

/* The next round of a search: the contenders of `from` for which keep[] is true, none of which has been trained yet. Its runs train
 * for `share` of the job's steps. PSD_ENOMEM. Clear it in any case. */
int psd_comparison_narrow(psd_comparison_t *self, const psd_comparison_t *from, const bool *keep, double share, psd_err_t *err);

/* The rank of contender `c` among the learning rates of its rule, from 1: by the held-out rows if there are any, otherwise by the
 * test set; of equal ones the one nearer to the rule's own rate is first, then the lower. Call it after psd_comparison_judge. */
size_t psd_comparison_place(const psd_comparison_t *self, size_t c);

/* Sort the contenders by rule, in the order given, and then by that place. Call it after psd_comparison_judge. */
void psd_comparison_sort_by_choice(psd_comparison_t *self);

/* The spread by which rates are chosen: `held` if there is one, otherwise `final`. */
const psd_spread_t *psd_contender_chosen_by(const psd_contender_t *self);

/* A unique name for the run of contender `c` with seed number `s`, from 0, whatever else is compared. */
void psd_comparison_run_name(const psd_comparison_t *self, size_t c, unsigned s, char out[PSD_CELL]);

/* Read the results of that run from `directory`. PSD_EDATA when they are incomplete; PSD_EDIVERGED when the run did not start with
 * the same weights as the others with its seed, or had other rows. */
int psd_comparison_take(psd_comparison_t *self, size_t c, unsigned s, const char *directory, psd_err_t *err);

/* Evaluate, and sort the best first. Call it once, after the last psd_comparison_take. PSD_ENOMEM. */
int psd_comparison_judge(psd_comparison_t *self, psd_err_t *err);

/* The heading of a column: only its title; the metric; its title and the target. */
typedef enum psd_title { PSD_TITLE_PLAIN, PSD_TITLE_METRIC, PSD_TITLE_TARGET } psd_title_t;

/* The seeds that do not count, and why: "1 of 3 diverged, 1 of 3 failed to train"; false, and "": there are none. */
bool psd_comparison_failed_seeds(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL]);

/* Why no seed of it succeeded: "failed to train", "diverged", "undefined" (the metric), "failed"; NULL if one did. */
const char *psd_contender_failure(const psd_contender_t *self);

/* The rows by which learning rates are chosen: "the 10 % of the training rows that were held out"; NULL: none are chosen. */
const char *psd_comparison_chosen_on(const psd_comparison_t *self, char out[PSD_CELL]);

/* A column of the table. */
typedef struct psd_column {
    const char *title;
    psd_title_t kind;
    bool is_text;                                   /* aligned left */
    bool (*is_shown)(const psd_comparison_t *self); /* NULL: always */
    void (*text)(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL]);
    double (*value)(const psd_contender_t *c); /* the value to sort by; NaN: none */
} psd_column_t;

/* The i-th column; NULL past the last. The table leaves out columns without values. */
const psd_column_t *psd_comparison_column(size_t i);
void psd_comparison_title(const psd_comparison_t *self, size_t i, char out[PSD_CELL]);

/* Print a value with the digits of the table: a share of 1, such as accuracy, with four places, other values with four digits;
 * returns like snprintf. The second function prints a value of the comparison's metric. */
int psd_comparison_number(double value, bool is_share, char *out, size_t capacity);
void psd_comparison_value(const psd_comparison_t *self, double value, char out[PSD_CELL]);

/* Describe the comparison in a line. */
void psd_comparison_describe(const psd_comparison_t *self, char *out, size_t capacity);

/* The table, with the verdict below. */
void psd_comparison_print(const psd_comparison_t *self, FILE *out);

/* All of it, psd.compare/1; NULL when memory runs out. The caller releases it. */
json_t *psd_comparison_json(const psd_comparison_t *self);

/* What the page of a search shows besides. */
typedef struct psd_page_part {
    void (*put)(FILE *out, const void *arg); /* a section, as HTML */
    const void *arg;
    json_t *ranges; /* of range tests, in the order of the rules: labels and losses by rate, as in psd.tune/1 */
} psd_page_part_t;

/* A self-contained page, with the curves; false when `out` could not be written. NULL: no search led to it. */
bool psd_comparison_page(const psd_comparison_t *self, const psd_page_part_t *search, FILE *out);
