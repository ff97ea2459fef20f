/* range.h - the learning-rate range test (Smith 2015, arXiv 1506.01186, section 3.3) with a rate that rises by the same factor in
 * every step, as fastai's and Lightning's lr_find have it: one short run, in which the loss first stays, then falls, then diverges.
 * Rates far below and above that are not worth a run of their own. The verdict is lenient. A rate that the loss of a few steps does
 * not show may be the best one of a whole job: rates down to a tenth of the one from which on it falls are kept, and the next lower
 * one of the grid. A run that begins with the rate at which this one diverges may train: the next higher one is kept. Nothing here
 * runs anything. */
#pragma once

#include "common/optim/schedule.h"
#include "deploy/psdctl/run/outcome.h"

/* How the rate rises. */
typedef struct psd_range {
    double span;   /* last rate over first */
    double length; /* of the rise, in steps or epochs */
    bool by_epoch; /* in epochs */
} psd_range_t;

/* What the tests of a rule have found. */
typedef struct psd_range_found {
    const char *why_not; /* why they say nothing; NULL: they do */
    double falls_from;   /* the rate from which on the loss falls */
    double diverges_at;  /* the rate at which nearly all of the fall is lost again; INFINITY: at none that was reached */
} psd_range_found_t;

/* Whether it is known before the run that it has too few steps to say anything of a grid of `n_rates` rates. */
bool psd_range_is_short(const psd_range_t *self, size_t n_rates);

/* The schedule of such a run. */
psd_schedule_t psd_range_schedule(const psd_range_t *self);

/* The rate of the last update that the i-th loss of such a run, which began with rate `first`, shows. */
double psd_range_rate(const psd_range_t *self, const psd_curve_t *losses, size_t i, double first);

/* Judge the losses of one run that began with rate `first`, for a grid of `n_rates` rates. */
psd_range_found_t psd_range_judge(const psd_range_t *self, const psd_curve_t *losses, double first, size_t n_rates);

/* Of two tests of a rule: what both have found. */
psd_range_found_t psd_range_both(psd_range_found_t a, psd_range_found_t b);

/* Which of n rates, in rising order, are worth training: keep[0..n); at least `least` of them. */
void psd_range_keep(const psd_range_found_t *found, const double *rate, size_t n, size_t least, bool *keep);
