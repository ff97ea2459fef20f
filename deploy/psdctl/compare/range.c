#include "deploy/psdctl/compare/range.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

enum {
    LEAST_POINTS = 2, /* of the curve, per rate of the grid */
    FIRST_POINTS = 3, /* their mean is the loss before anything was learned */
    WINDOW = 4        /* a point is smoothed over one part in this many of the points of a rate, on either side */
};

static const double BEGUN = 0.05; /* the part of the whole fall from which on the loss is said to fall */
static const double LOST = 0.9;   /* the part of it that is lost again where the loss diverges */
static const double MARGIN = 0.1; /* rates this far below that one are kept */
static const double NOISE = 4;    /* a fall is a fall if it is this many times the mean deviation from the smooth curve */

/* Fewer points than these say nothing; a long curve has no more than PSD_CURVE_POINTS. */
static double points_for(size_t n_rates) { return fmin((double)(LEAST_POINTS * n_rates), PSD_CURVE_POINTS); }

bool psd_range_is_short(const psd_range_t *self, size_t n_rates) { return !self->by_epoch && self->length < points_for(n_rates); }

psd_schedule_t psd_range_schedule(const psd_range_t *self)
{
    psd_schedule_t schedule;
    char text[PSD_SCHEDULE_TEXT];
    snprintf(text, sizeof text, "geometric(steps=%.17g, end_factor=%.17g)", self->length, self->span);
    const int rc = psd_schedule_parse(&schedule, text, NULL);
    assert(rc == PSD_OK);
    return schedule;
}

double psd_range_rate(const psd_range_t *self, const psd_curve_t *losses, size_t i, double first)
{
    const psd_schedule_t schedule = psd_range_schedule(self);
    const psd_point_t *at = &losses->point[i];
    const double made = fmax(at->step - 2, 0); /* updates before that one */
    return psd_schedule_rate(&schedule, first, self->by_epoch ? at->epochs * made / at->step : made);
}

/* The points before the first that is not finite. */
static size_t finite_of(const psd_curve_t *losses)
{
    size_t n = 0;
    while (n < losses->n && isfinite(losses->point[n].value))
        n++;
    return n;
}

static double mean_of(const psd_curve_t *losses, size_t from, size_t to)
{
    double sum = 0;
    for (size_t i = from; i < to; i++)
        sum += losses->point[i].value;
    return sum / (double)(to - from);
}

/* The mean around point i of n, not after it: a curve that is smoothed so is not late. */
static double smooth(const psd_curve_t *losses, size_t i, size_t n, size_t n_rates)
{
    const size_t reach = losses->n / (WINDOW * n_rates) + 1;
    return mean_of(losses, i > reach ? i - reach : 0, i + reach < n ? i + reach + 1 : n);
}

static psd_range_found_t nothing(const char *why_not) { return (psd_range_found_t){ .why_not = why_not }; }

psd_range_found_t psd_range_judge(const psd_range_t *self, const psd_curve_t *losses, double first, size_t n_rates)
{
    const size_t n = finite_of(losses);
    if ((double)losses->n < points_for(n_rates) || n < FIRST_POINTS)
        return nothing("it has too few steps");
    const double start = mean_of(losses, 0, FIRST_POINTS);
    double least = INFINITY, noise = 0;
    size_t best = 0, falls = 0, diverges = n;
    for (size_t i = 0; i < n; i++) {
        const double here = smooth(losses, i, n, n_rates);
        best = here < least ? i : best;
        least = fmin(here, least);
    }
    for (size_t i = 0; i <= best; i++)
        noise += fabs(losses->point[i].value - smooth(losses, i, n, n_rates)) / (double)(best + 1);
    const double fall = start - least;
    if (!(fall > NOISE * noise))
        return nothing("its loss does not fall");
    for (size_t i = 0; i < best; i++)
        falls = smooth(losses, i, n, n_rates) > start - BEGUN * fall ? i + 1 : falls;
    for (size_t i = n; i-- > best + 1;)
        diverges = smooth(losses, i, n, n_rates) > least + LOST * fall ? i : diverges;
    return (psd_range_found_t){ .falls_from = psd_range_rate(self, losses, falls, first),
                                .diverges_at = diverges < losses->n ? psd_range_rate(self, losses, diverges, first) : INFINITY };
}

psd_range_found_t psd_range_both(psd_range_found_t a, psd_range_found_t b)
{
    if (a.why_not || b.why_not)
        return nothing(a.why_not ? a.why_not : b.why_not);
    return (psd_range_found_t){ .falls_from = fmin(a.falls_from, b.falls_from), .diverges_at = fmax(a.diverges_at, b.diverges_at) };
}

void psd_range_keep(const psd_range_found_t *found, const double *rate, size_t n, size_t least, bool *keep)
{
    size_t from = 0, to = n;
    while (!found->why_not && from + 1 < n && rate[from + 1] < MARGIN * found->falls_from)
        from++;
    while (!found->why_not && to > from + 1 && rate[to - 2] >= found->diverges_at)
        to--;
    while (to - from < least && (from > 0 || to < n))
        if (from > 0)
            from--;
        else
            to++;
    for (size_t i = 0; i < n; i++)
        keep[i] = i >= from && i < to;
}
