/* absence.h - one's own absence. A process that was stopped, or got no time, has heard nobody meanwhile, and must not take
 * that for their silence. Whoever judges silence asks here first, with each event. */
#pragma once

#include <stdint.h>

/* Events come at least every 100 ms, for there are ticks; a gap longer than this is an absence. */
enum { PSD_ABSENCE_MS = 250 };

/* How long nobody was listened to before now; 0 when there was no absence. `*seen_ms` keeps the time of the last event and
 * begins at 0. */
static inline uint64_t psd_absence(uint64_t *seen_ms, uint64_t now_ms)
{
    const uint64_t before_ms = *seen_ms;
    if (now_ms > before_ms)
        *seen_ms = now_ms;
    return before_ms && now_ms > before_ms + PSD_ABSENCE_MS ? now_ms - before_ms : 0;
}

/* A time of the past, moved by an absence; never beyond now. */
static inline uint64_t psd_absence_excuse(uint64_t past_ms, uint64_t away_ms, uint64_t now_ms)
{
    return now_ms > past_ms + away_ms ? past_ms + away_ms : now_ms;
}
