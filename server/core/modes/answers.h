/* answers.h - answers that many modes give. */
#pragma once

#include "server/core/mode.h"

static inline bool psd_answer_yes(const psd_progress_t *p)
{
    (void)p;
    return true;
}

static inline bool psd_answer_no(const psd_progress_t *p)
{
    (void)p;
    return false;
}

/* The coordinator's clock. */
static inline uint64_t psd_answer_clock(const psd_progress_t *p) { return p->clock; }
