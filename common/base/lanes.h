/* lanes.h - a sum of doubles that comes out the same whatever the width of a register: as many running sums as the widest has room
 * for, added pairwise at the end. */
#pragma once

enum { PSD_LANES = 16 };

/* The running sums of one double: element i of a block is added to lane i % PSD_LANES. */
typedef double psd_lanes_t[PSD_LANES];

/* Their total, added pairwise; what they hold is used up. */
static inline double psd_lanes_total(psd_lanes_t sum)
{
    for (unsigned half = PSD_LANES / 2; half; half /= 2)
        for (unsigned j = 0; j < half; j++)
            sum[j] += sum[j + half];
    return sum[0];
}
