#include "deploy/psdctl/compare/spread.h"

#include <math.h>

psd_spread_t psd_spread_of(const double *value, size_t n)
{
    if (!n)
        return (psd_spread_t){ .mean = NAN, .sd = NAN, .least = NAN, .most = NAN };
    psd_spread_t self = { .n = n, .sd = NAN, .least = value[0], .most = value[0] };
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        self.mean += value[i] / (double)n;
        self.least = fmin(self.least, value[i]);
        self.most = fmax(self.most, value[i]);
    }
    for (size_t i = 0; i < n; i++)
        squares += (value[i] - self.mean) * (value[i] - self.mean);
    if (n > 1)
        self.sd = sqrt(squares / (double)(n - 1));
    return self;
}

/* A range's ends, oriented so that up is better. */
static double top(const psd_spread_t *s, bool down) { return down ? -s->least : s->most; }
static double bottom(const psd_spread_t *s, bool down) { return down ? -s->most : s->least; }

/* The highest bottom below `limit`; -inf: none. */
static double next_bottom(const psd_spread_t *spread, size_t n, bool down, double limit)
{
    double found = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (spread[i].n && bottom(&spread[i], down) < limit)
            found = fmax(found, bottom(&spread[i], down));
    return found;
}

static bool covers(const psd_spread_t *s, bool down, double at) { return s->n && bottom(s, down) <= at && at <= top(s, down); }

/* Walk from the best value down: at the lower end of a range, the ranges that cover it form a group, unless they all belonged to an
 * earlier group. */
unsigned psd_spread_groups(const psd_spread_t *spread, size_t n, bool smaller_is_better, psd_spread_groups_t *out)
{
    unsigned groups = 0;
    double last = INFINITY; /* where the last group was found */
    for (size_t i = 0; i < n; i++)
        out[i] = (psd_spread_groups_t){ 0 };
    for (double at = INFINITY; (at = next_bottom(spread, n, smaller_is_better, at)) > -INFINITY;) {
        bool fresh = false;
        for (size_t i = 0; i < n; i++)
            fresh |= covers(&spread[i], smaller_is_better, at) && top(&spread[i], smaller_is_better) < last;
        if (!fresh)
            continue;
        last = at;
        groups++;
        for (size_t i = 0; i < n; i++)
            if (covers(&spread[i], smaller_is_better, at))
                out[i] = (psd_spread_groups_t){ .first = out[i].first ? out[i].first : groups, .last = groups };
    }
    return groups;
}

double psd_spread_chance(size_t n)
{
    double ways = 1; /* C(2n, n) */
    for (size_t i = 1; i <= n; i++)
        ways *= (double)(n + i) / (double)i;
    return 2 / ways;
}
