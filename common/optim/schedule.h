/* schedule.h - how the learning rate goes over the steps of a job: "cosine(steps=10000, warmup=500, min=1e-5)". A kind is a row of
 * schedule.c.
 *
 * A schedule is a pure function of the base rate and of how far the job has come, s, which counts from 0 in the job's unit (steps,
 * samples or epochs) and may lie between two whole numbers. It is computed only from s, never from the step before, so that a job
 * that resumes, or that has lost rounds, is where it would have been; and with additions, multiplications, divisions and square
 * roots alone, which give the same bits on every machine, where a C library's cos() and pow() do not.
 *
 * While s < warmup the rate is base*(warmup_start + (1 - warmup_start)*s/warmup); after that the kind's formula holds for s -
 * warmup. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    PSD_SCHEDULE_ARGS = 8,                             /* arguments of one kind */
    PSD_SCHEDULE_WARMUP = PSD_SCHEDULE_ARGS,           /* where every kind has its warm-up among the values, */
    PSD_SCHEDULE_WARMUP_START = PSD_SCHEDULE_ARGS + 1, /* and what it starts from */
    PSD_SCHEDULE_VALUES = PSD_SCHEDULE_ARGS + 2,
    PSD_MILESTONES = 16,    /* of multistep */
    PSD_SCHEDULE_TEXT = 640 /* longest printed schedule, with its end */
};

typedef struct psd_schedule psd_schedule_t;

/* An argument. It must be given unless it has a default. */
typedef struct psd_schedule_arg {
    const char *name;  /* NULL ends the list */
    double def;        /* default; NaN: none */
    double min, max;   /* accepted range, both ends included */
    bool open_min;     /* whether `min` itself is refused */
    const char *words; /* it is one of these words, "cos|linear", and its value the word's place, from 0; NULL: a number */
    bool list;         /* a rising list of numbers, "5/9/20", in milestone[]; its value is how many */
    bool is_least;     /* a rate, to which that of the optimizer falls */
    const char *help;  /* a few words */
} psd_schedule_arg_t;

typedef struct psd_schedule_kind {
    const char *name;    /* "cosine" */
    const char *formula; /* one line of mathematics */
    psd_schedule_arg_t arg[PSD_SCHEDULE_ARGS];
    double (*rate)(const psd_schedule_t *self, double base, double s);
    double (*momentum)(const psd_schedule_t *self, double s); /* NULL: the rule's own */
} psd_schedule_kind_t;

/* What `s` counts. */
typedef enum psd_schedule_unit { PSD_UNIT_STEP, PSD_UNIT_SAMPLE, PSD_UNIT_EPOCH } psd_schedule_unit_t;

/* All zero is a constant rate. psd_schedule_parse makes one that counts steps. */
struct psd_schedule {
    psd_schedule_unit_t unit;
    const psd_schedule_kind_t *kind;   /* NULL: constant */
    double value[PSD_SCHEDULE_VALUES]; /* in the order of psd_schedule_arg */
    double milestone[PSD_MILESTONES];  /* of the argument that is a list */
};

/* The kinds, by index; NULL past the last. */
const psd_schedule_kind_t *psd_schedule_kind_at(size_t i);

/* Its i-th argument: the kind's own, then those that every kind has; NULL where there is none, below PSD_SCHEDULE_VALUES. */
const psd_schedule_arg_t *psd_schedule_arg(const psd_schedule_kind_t *kind, size_t i);

/* Read a schedule; spaces are free. PSD_ECONFIG with the column, the reason and the nearest valid word when it is not one. */
int psd_schedule_parse(psd_schedule_t *out, const char *spec, psd_err_t *err);

/* Print it with every value, so that it parses back to the same schedule. Returns `buf`. */
char *psd_schedule_print(const psd_schedule_t *self, char buf[PSD_SCHEDULE_TEXT]);

/* Whether it leaves every rate as it is: constant, without a warm-up. */
bool psd_schedule_is_constant(const psd_schedule_t *self);

/* Find a unit by its name, "step", "sample" or "epoch"; false when there is none. The name of a unit. */
bool psd_schedule_unit_find(const char *name, psd_schedule_unit_t *out);
const char *psd_schedule_unit_name(psd_schedule_unit_t unit);

/* How far a job has come that has made `steps` with `samples` in them, of a training set of `rows`: the `s` of the step that
 * comes next. 0 where an epoch counts and its rows are not known (0). */
double psd_schedule_progress(const psd_schedule_t *self, uint64_t steps, uint64_t samples, uint64_t rows);

enum { PSD_SCHEDULE_DOUBT = 320 };

/* What its author may not have meant, where the base rate is `base` and the job ends at `end` (0: nobody knows): the sentence, with
 * its cure, in `why`; false when there is nothing. */
bool psd_schedule_doubt(const psd_schedule_t *self, double base, double end, char why[PSD_SCHEDULE_DOUBT]);

/* The learning rate at `s` (at least 0) where the base rate is `base`. */
double psd_schedule_rate(const psd_schedule_t *self, double base, double s);

/* Whether it sets the momentum (beta1 of adam and its kin) as well, and to what at `s`. */
bool psd_schedule_momentum(const psd_schedule_t *self, double s, double *momentum);
