#include <criterion/criterion.h>

#include <string.h>

#include "server/core/mode.h"

TestSuite(mode, .timeout = 600);

static const psd_mode_t *bsp(void) { return psd_mode_find("bsp"); }
static const psd_mode_t *asp(void) { return psd_mode_find("asp"); }

Test(mode, every_row_answers_every_question_but_for_rounds_that_it_has_not)
{
    for (size_t i = 0; psd_mode_at(i); i++) {
        const psd_mode_t *mode = psd_mode_at(i);
        cr_expect_eq(psd_mode_find(mode->name), mode);
        cr_expect(*mode->summary && *mode->unit, "%s", mode->name);
        cr_expect(mode->whole_push && mode->may_step && mode->may_pull && mode->joins_at && mode->rate, "%s", mode->name);
        cr_expect(mode->may_change_view && mode->progress && mode->save_clock && mode->is_saved, "%s", mode->name);
        cr_expect_eq(psd_mode_has_rounds(mode), mode->closes != NULL);
    }
    cr_expect_null(psd_mode_find("ssp"));
    cr_expect(psd_mode_has_rounds(bsp()) && !psd_mode_has_rounds(asp()));
}

Test(mode, bsp_closes_a_round_when_every_member_is_complete)
{
    cr_expect_not(bsp()->closes(&(psd_progress_t){ .members = 3, .complete = 2 }));
    cr_expect(bsp()->closes(&(psd_progress_t){ .members = 3, .complete = 3 }));
    cr_expect_eq(bsp()->whole_push(&(psd_progress_t){ .staleness = 9, .max_staleness = 1 }), PSD_PUSH_WAITS);
    cr_expect_not(bsp()->may_change_view(&(psd_progress_t){ .members = 3 }), "it was begun with these members");
}

Test(mode, in_bsp_clocks_are_the_jobs_and_in_asp_each_workers_own)
{
    const psd_progress_t p = { .clock = 7, .resumes_at = 3 };
    cr_expect_eq(bsp()->joins_at(&p), 7);
    cr_expect_eq(asp()->joins_at(&p), 3);
}

Test(mode, in_asp_a_push_is_a_step_unless_it_is_too_old_or_pushes_have_to_wait)
{
    cr_expect_eq(asp()->whole_push(&(psd_progress_t){ .staleness = 4, .max_staleness = 4 }), PSD_PUSH_STEPS);
    cr_expect_eq(asp()->whole_push(&(psd_progress_t){ .staleness = 5, .max_staleness = 4 }), PSD_PUSH_DROPS);
    cr_expect_eq(asp()->whole_push(&(psd_progress_t){ .staleness = 5 }), PSD_PUSH_STEPS, "0: none is too old");
    cr_expect(asp()->may_step(&(psd_progress_t){ .held = false }));
    cr_expect_not(asp()->may_step(&(psd_progress_t){ .held = true }));
    cr_expect(asp()->may_change_view(&(psd_progress_t){ .members = 3 }));
}

Test(mode, a_rate_is_scaled_where_each_push_is_a_step)
{
    const psd_progress_t p = { .members = 4, .staleness = 2, .lr_rule = psd_lr_rule_find("1/W") };
    cr_expect_eq(asp()->rate(&p), 0.25);
    cr_expect_eq(bsp()->rate(&p), 1);
}

Test(mode, checkpoints_are_called_by_rounds_or_by_their_number)
{
    const psd_progress_t p = { .clock = 7, .servers = 2, .steps = 31 };
    cr_expect_eq(bsp()->save_clock(&p), 7);
    cr_expect_eq(asp()->save_clock(&p), 8);
    cr_expect_eq(bsp()->progress(&p), 14, "two shards have made a step in each of 7 rounds");
    cr_expect_eq(asp()->progress(&p), 31);
}

Test(mode, everything_is_saved_if_nothing_was_trained_since)
{
    psd_progress_t p = { .clock = 7, .steps = 31, .point_clock = 7, .point_progress = 30, .point_is_final = true };
    cr_expect(bsp()->is_saved(&p));
    cr_expect_not(asp()->is_saved(&p), "a step was made since");
    p.point_progress = 31;
    cr_expect(asp()->is_saved(&p));
    p.point_is_final = false;
    cr_expect_not(asp()->is_saved(&p), "a shard's word may be older than its last step");
    p.point_clock = 6;
    cr_expect_not(bsp()->is_saved(&p));
}

Test(mode, lr_rules_are_known_by_name)
{
    cr_expect_eq(psd_lr_rule_find("none")->factor(4, 9), 1);
    cr_expect_eq(psd_lr_rule_find("1/W")->factor(4, 9), 0.25);
    cr_expect_eq(psd_lr_rule_find("1/W")->factor(0, 9), 1);
    cr_expect_eq(psd_lr_rule_find("1/tau")->factor(4, 8), 0.125);
    cr_expect_eq(psd_lr_rule_find("1/tau")->factor(4, 0), 1, "a fresh one counts whole");
    cr_expect_null(psd_lr_rule_find("1/w"));
}
