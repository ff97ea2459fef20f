#include "worker/draw.h"

#include <stdlib.h>

#include "common/base/rng.h"

size_t psd_draw_count(double share, size_t n_rows)
{
    const double wanted = share * (double)n_rows;
    return wanted < 1 ? 1 : (size_t)(wanted + 0.5);
}

/* The first `n` of a shuffled order of all. */
bool *psd_draw_rows(size_t n_rows, size_t n, uint64_t seed)
{
    uint32_t *order = malloc(n_rows * sizeof *order);
    bool *held = calloc(n_rows ? n_rows : 1, sizeof *held);
    uint64_t rng = seed ^ 0x686f6c646f757421; /* not the order of any epoch */
    for (size_t i = 0; order && i < n_rows; i++)
        order[i] = (uint32_t)i;
    for (size_t i = 0; order && held && i < n; i++) {
        const size_t j = i + psd_splitmix64(&rng) % (n_rows - i);
        held[order[j]] = true;
        order[j] = order[i];
    }
    if (!order) {
        free(held);
        held = NULL;
    }
    free(order);
    return held;
}
