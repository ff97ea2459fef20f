/* bsp.c - bulk synchronous: a round is closed when every member has pushed, and makes one step of the weighted mean. */
#include "server/core/modes/answers.h"

static psd_push_t whole_push(const psd_progress_t *p)
{
    (void)p;
    return PSD_PUSH_WAITS;
}

static double whole_rate(const psd_progress_t *p)
{
    (void)p;
    return 1;
}

static bool closes(const psd_progress_t *p) { return p->complete == p->members; }

static uint64_t progress(const psd_progress_t *p) { return p->clock * p->servers; }

static bool is_saved(const psd_progress_t *p) { return p->point_clock == p->clock; }

const psd_mode_t psd_mode_bsp = {
    .name = "bsp",
    .summary = "synchronous: every round waits for every member, one step of the weighted mean",
    .unit = "round",
    .whole_push = whole_push,
    .may_step = psd_answer_yes,
    .may_pull = psd_answer_yes,
    .joins_at = psd_answer_clock,
    .rate = whole_rate,
    .closes = closes,
    .may_change_view = psd_answer_no, /* an open round was begun with these members, and is closed with them at every shard */
    .progress = progress,
    .save_clock = psd_answer_clock,
    .is_saved = is_saved,
};
