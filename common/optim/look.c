#include "common/optim/look.h"

#include "common/base/lanes.h"
#include "common/optim/aggregate.h"
#include "common/optim/kernels/kernel.h"

void psd_look_add(double look[PSD_LOOK_TERMS], const float *g, const float *before, const float *after, size_t n, float bound)
{
    const psd_isa_t *isa = psd_isa_active();
    psd_lanes_t update = { 0 };
    isa->distance(update, after, before, n);
    look[PSD_LOOK_N] += (double)n;
    look[PSD_LOOK_GRADIENT2] += psd_sum_of_squares(g, n);
    look[PSD_LOOK_ZEROS] += (double)isa->zeros(g, n);
    look[PSD_LOOK_REACHED] += (double)isa->reach(g, bound, n);
    look[PSD_LOOK_WEIGHT2] += psd_sum_of_squares(before, n);
    look[PSD_LOOK_UPDATE2] += psd_lanes_total(update);
}

void psd_look_join(double look[PSD_LOOK_TERMS], const double chunk[PSD_LOOK_TERMS])
{
    for (int i = 0; i < PSD_LOOK_RATE; i++)
        look[i] += chunk[i];
    if (chunk[PSD_LOOK_N] > 0)
        look[PSD_LOOK_RATE] = chunk[PSD_LOOK_RATE];
}
