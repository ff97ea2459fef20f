/* comparison.h - the same job with several optimizers and several seeds: what was measured, what it says, and how that is
 * told, as a table, as JSON and as a page. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "common/config/options.h"
#include "deploy/psdctl/run/outcome.h"
#include "deploy/psdctl/compare/spread.h"

enum { PSD_CELL = 96 /* longest cell of the table, with its end */ };

/* One of the rules that are compared. */
typedef struct psd_contender {
    psd_rule_t rule;
    char label[PSD_RULE_TEXT]; /* for people */
    char name[PSD_RULE_TEXT];  /* with every value */
    size_t named;              /* which of the rules that were named it is, from 0; several of a sweep share it */
    double factor;             /* of the sweep: its learning rate is the named one times this */
    psd_outcome_t *outcome;    /* per seed */
    /* Filled by psd_comparison_judge; over the seeds that ended with a finite loss. */
    unsigned n_read, n_diverged, n_untrained;
    psd_spread_t held; /* the metric on the rows held out of training; none: there are no such rows */
    psd_spread_t final, best, loss, seconds, samples_per_s, moved_bytes;
    psd_spread_t steps_to_target, seconds_to_target; /* of those that reached it */
    psd_groups_t groups;   /* in `final` to the digits of the table; none unless every seed came to a good end */
    bool is_best_of_sweep; /* the learning rate that is chosen for its rule: by `held` where there is one, else by `final` */
    bool is_at_edge;       /* it is chosen, and a lower or a higher rate was not tried: it may do better still */
} psd_contender_t;

typedef struct psd_comparison {
    const psd_options_t *options;
    unsigned n_seeds, n_servers, n_workers;
    uint64_t first_seed;
    psd_contender_t *contender; /* as they were named; then, judged, the best first */
    size_t n;
    /* Filled by psd_comparison_judge. */
    char metric[32];
    bool smaller_is_better;
    double target;       /* NaN: there is none */
    bool target_is_ours; /* it is where the baseline's worst seed ends, not what was told */
    char verdict[1024];
    char advice[1024];             /* whose learning rate wants a wider grid; "": nobody's */
    double validation;             /* share of the training rows that is held out; 0: none */
    bool is_swept;                 /* each rule has several learning rates */
    size_t n_chosen;               /* contenders that are the best of their sweeps: the first ones */
    const psd_contender_t *winner; /* NULL: none is named */
} psd_comparison_t;

/* The rules of compare.optimizers, one by one for each factor of compare.lr_sweep. `options` are borrowed for its life.
 * PSD_ECONFIG for what is no rule, or named twice; PSD_ENOMEM. To be cleared in any case. */
int psd_comparison_begin(psd_comparison_t *self, const psd_options_t *options, psd_err_t *err);
void psd_comparison_clear(psd_comparison_t *self);

/* A name for the run of contender `c` with seed number `s`, from 0, that it alone has, whatever else is compared. */
void psd_comparison_run_name(const psd_comparison_t *self, size_t c, unsigned s, char out[PSD_CELL]);

/* Take what that run left in `directory`. PSD_EDATA when it is not whole; PSD_EDIVERGED when it did not begin as the
 * other runs of its seed did, or was not given the same rows. */
int psd_comparison_take(psd_comparison_t *self, size_t c, unsigned s, const char *directory, psd_err_t *err);

/* Sum up, and put the best first. Once, after the last psd_comparison_take. PSD_ENOMEM. */
int psd_comparison_judge(psd_comparison_t *self, psd_err_t *err);

/* What a column is called: its title alone; the metric; its title and the target. */
typedef enum psd_title { PSD_TITLE_PLAIN, PSD_TITLE_METRIC, PSD_TITLE_TARGET } psd_title_t;

/* Whether no seed of it came to a good end, and why: "failed to train", "diverged", "failed"; NULL: one did. */
const char *psd_contender_failure(const psd_contender_t *self);

/* By which rows learning rates are chosen: "the 10 % of the training rows that were held out"; NULL: nothing is chosen. */
const char *psd_comparison_chosen_on(const psd_comparison_t *self, char out[PSD_CELL]);

/* A column of the table. */
typedef struct psd_column {
    const char *title;
    psd_title_t kind;
    bool is_text;                                   /* to be set left */
    bool (*is_shown)(const psd_comparison_t *self); /* NULL: always */
    void (*text)(const psd_comparison_t *self, const psd_contender_t *c, char out[PSD_CELL]);
    double (*value)(const psd_contender_t *c); /* to sort by; NaN: there is none */
} psd_column_t;

/* The i-th; NULL past the last. One that has nothing to show is left out of the table. */
const psd_column_t *psd_comparison_column(size_t i);
void psd_comparison_title(const psd_comparison_t *self, size_t i, char out[PSD_CELL]);

/* A value with the digits that the table has: a share of 1, such as accuracy, with four places, all else with four digits; as
 * snprintf returns. The second is of the comparison's metric. */
int psd_comparison_number(double value, bool is_share, char *out, size_t capacity);
void psd_comparison_value(const psd_comparison_t *self, double value, char out[PSD_CELL]);

/* What was compared, in a line. */
void psd_comparison_describe(const psd_comparison_t *self, char *out, size_t capacity);

/* The table, with the verdict below. */
void psd_comparison_print(const psd_comparison_t *self, FILE *out);

/* All of it, psd.compare/1; NULL when memory runs out. The caller releases it. */
json_t *psd_comparison_json(const psd_comparison_t *self);

/* A page that needs nothing else, with the curves; false when `out` could not be written. */
bool psd_comparison_page(const psd_comparison_t *self, FILE *out);
