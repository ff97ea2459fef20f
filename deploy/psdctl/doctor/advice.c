#include "deploy/psdctl/doctor/advice.h"

static const double gain = 1.05; /* a step that is shorter by less does not justify losing precision */

/* Bytes that the busiest link carries in a step, one after the other. */
static double travels(const psd_speeds_t *speeds, const psd_way_t *way)
{
    const double crowd = speeds->workers > speeds->servers ? (double)speeds->workers / speeds->servers : 1;
    const double longer = way->push_share > way->pull_share ? way->push_share : way->pull_share;
    return crowd * speeds->n_bytes * (speeds->overlaps ? longer : way->push_share + way->pull_share);
}

double psd_advice_step(const psd_speeds_t *speeds, const psd_way_t *way)
{
    return speeds->compute_s + way->code_s + travels(speeds, way) / speeds->link_bytes_s;
}

size_t psd_advise(const psd_speeds_t *speeds, const psd_way_t *way, size_t n)
{
    double shortest = psd_advice_step(speeds, &way[0]);
    size_t i = 0;
    for (size_t k = 1; k < n; k++)
        if (psd_advice_step(speeds, &way[k]) < shortest)
            shortest = psd_advice_step(speeds, &way[k]);
    while (psd_advice_step(speeds, &way[i]) > gain * shortest)
        i++;
    return i;
}

double psd_advice_pays_below(const psd_speeds_t *speeds, const psd_way_t *plain, const psd_way_t *way)
{
    const double saved = travels(speeds, plain) - travels(speeds, way), cost = way->code_s - plain->code_s;
    return saved > 0 && cost > 0 ? saved / cost : 0;
}
