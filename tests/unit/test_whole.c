#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "common/optim/passes.h"
#include "common/optim/whole.h"
#include "tests/support/alone.h"

TestSuite(whole, .timeout = 600);
TestSuite(passes, .timeout = 600);

static psd_rule_t rule_of(const char *spec)
{
    psd_rule_t rule;
    cr_assert_eq(psd_rule_parse(&rule, spec, NULL), PSD_OK);
    return rule;
}

Test(passes, a_rule_asks_for_none_unless_it_or_clipping_has_sums)
{
    const psd_rule_t adam = rule_of("adam"), lamb = rule_of("lookahead(lamb)");
    cr_expect_eq(psd_passes_of(alone(&adam), &(psd_clip_t){ .value = 1 }).n, 0);
    cr_expect_eq(psd_passes_of(alone(&adam), &(psd_clip_t){ .norm = 1 }).n, 1);
    cr_expect_eq(psd_passes_of(alone(&lamb), &(psd_clip_t){ .norm = 0 }).n, 1);
    cr_expect_eq(psd_passes_of(alone(&lamb), &(psd_clip_t){ .norm = 1 }).n, 2);
}

Test(passes, a_measuring_pass_adds_block_to_block_and_scales_what_it_sees)
{
    enum { LONG = 3 * PSD_PASS_BLOCK + 5 };
    static float g[LONG];
    const psd_rule_t sgd = rule_of("sgd");
    const psd_passes_t passes = psd_passes_of(alone(&sgd), &(psd_clip_t){ .norm = 1 });
    psd_plan_t plan = { .scale = 0.5f };
    double sum = 1;
    for (size_t i = 0; i < LONG; i++)
        g[i] = 2;
    psd_passes_measure(&passes, 0, &sgd, &plan, g, (float *[PSD_MAX_SLOTS]){ NULL }, g, LONG, &sum);
    cr_expect_eq(sum, 1 + LONG);
}

Test(whole, a_step_clips_by_value_then_by_the_norm_of_all_tensors)
{
    const psd_rule_t sgd = rule_of("sgd(lr=1)");
    float w[4] = { 0 }, first[2] = { 5, -0.5f }, second[2] = { 1, -7 };
    psd_rule_state_t state[2] = { { 0 } };
    float *const none[PSD_MAX_SLOTS] = { NULL };
    const float *g[2] = { first, second };
    const psd_whole_t whole[2] = { { 2, 0, w, none, &state[0], &g[0], { 0 } }, { 2, 0, w + 2, none, &state[1], &g[1], { 0 } } };
    psd_whole_step(alone(&sgd), &(psd_clip_t){ .value = 1, .norm = 0.5 }, whole, 2, (double[]){ 1 }, 1, 0, (double[]){ 1 });
    const double scale = 0.5 / (sqrt(1 + 0.25 + 1 + 1) + 1e-6);
    const double want[] = { -scale, scale / 2, -scale, scale };
    for (size_t i = 0; i < 4; i++)
        cr_expect_float_eq((double)w[i], want[i], 1e-7, "%zu: %g", i, (double)w[i]);
}

Test(whole, a_tensor_without_any_gradient_does_not_change)
{
    const psd_rule_t adamw = rule_of("adamw(lr=1)");
    float w[2] = { 1, 1 }, slots[4] = { 0 }, g[1] = { 1 };
    float *const a[PSD_MAX_SLOTS] = { slots, slots + 1 }, *const b[PSD_MAX_SLOTS] = { slots + 2, slots + 3 };
    psd_rule_state_t state[2];
    psd_rule_init(&adamw, &state[0], w, a, 1);
    psd_rule_init(&adamw, &state[1], w + 1, b, 1);
    const float *some[] = { g }, *nobody[] = { NULL };
    const psd_whole_t whole[2] = { { 1, 0, w, a, &state[0], some, { 0 } }, { 1, 0, w + 1, b, &state[1], nobody, { 0 } } };
    psd_whole_step(alone(&adamw), &(psd_clip_t){ .norm = 0 }, whole, 2, (double[]){ 1 }, 1, 0, (double[]){ 1 });
    cr_expect(w[0] < 1 && w[1] == 1 && state[0].t == 1 && state[1].t == 0);
}
