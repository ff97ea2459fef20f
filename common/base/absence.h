/* absence.h - detects that this process was absent. A process that was stopped, or got no processor time, has received nothing
 * meanwhile, and must not mistake that for the silence of others. Code that judges silence calls this first, at each event. */
#pragma once

#include <stdint.h>

/* Ticks come at least every 100 ms; a longer gap than this is an absence. */
enum { PSD_ABSENCE_MS = 250 };

/* How long this process received nothing before now; 0 when there was no absence. `*seen_ms` keeps the time of the last event and
 * begins at 0. */
static inline uint64_t psd_absence(uint64_t *seen_ms, uint64_t now_ms)
{
    const uint64_t before_ms = *seen_ms;
    if (now_ms > before_ms)
        *seen_ms = now_ms;
    return before_ms && now_ms > before_ms + PSD_ABSENCE_MS ? now_ms - before_ms : 0;
}

/* A past time, moved forward by an absence, at most to now. */
static inline uint64_t psd_absence_excuse(uint64_t past_ms, uint64_t away_ms, uint64_t now_ms)
{
    return now_ms > past_ms + away_ms ? past_ms + away_ms : now_ms;
}
