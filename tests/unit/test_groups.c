/* Parameter groups: the group of a tensor, and its settings. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/optim/groups.h"
#include "common/optim/passes.h"
#include "common/optim/whole.h"

static const psd_shape_t vector = { .n_dims = 1 };

static psd_groups_t read_groups(const char *rule, const char *text)
{
    psd_groups_t groups = { .n = 0 };
    psd_err_t err = { 0 };
    cr_assert_eq(psd_groups_parse(&groups, rule, text, &err), PSD_OK, "%s: %s", text, err.text);
    return groups;
}

static void expect_refused(const char *rule, const char *text, const char *why)
{
    psd_groups_t groups = { .n = 77 };
    psd_err_t err = { 0 };
    cr_expect_eq(psd_groups_parse(&groups, rule, text, &err), PSD_ECONFIG, "%s", text);
    cr_expect(strstr(err.text, why), "%s: %s, not %s", text, err.text, why);
    cr_expect_eq(groups.n, 77, "the earlier groups stay");
}

Test(groups, the_first_that_matches_has_the_tensor_and_the_rest_has_what_none_does)
{
    const psd_groups_t g = read_groups("adam", "*.bias(weight_decay=0.5); emb*(lr_mult=0.5); emb.bias*(lr=1); a*b*c(lr=2)");
    cr_assert_eq(g.n, 5);
    static const struct {
        const char *name;
        uint8_t group;
    } cases[] = { { "fc1.bias", 0 }, { "emb.bias", 0 },  { ".bias", 0 },        { "bias", 4 },
                  { "emb", 1 },      { "emb.bias2", 1 }, { "fc1.weight", 4 },   { "abc", 3 },
                  { "abcbc", 3 },    { "axbxc.x", 4 },   { "fc.bias.bias", 0 }, { "fc.bias.x", 4 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(psd_groups_of(&g, cases[i].name, &vector), cases[i].group, "%s", cases[i].name);
    cr_expect_str_empty(psd_groups_rest(&g)->match);
}

Test(groups, a_group_changes_what_it_names_and_nothing_else)
{
    const psd_groups_t g = read_groups("lookahead(adamw(lr=0.1, weight_decay=0.2), k=7)",
                                       "a(weight_decay=0, beta1=0.8); b(optimizer=adagrad(lr=0.05), lr_mult=0.1, clip=false); "
                                       "c(freeze=true); d(lookahead=0); e(optimizer=sgd, momentum=0.5, lookahead=1); f(k=3)");
    char rule[PSD_RULE_TEXT];
    cr_expect_str_eq(psd_rule_print_brief(&g.at[0].rule, rule), "lookahead(adamw(lr=0.1, beta1=0.8, weight_decay=0), k=7)");
    cr_expect(g.at[0].clips && !g.at[0].freezes && g.at[0].lr_mult == 1);
    cr_expect_str_eq(psd_rule_print_brief(&g.at[1].rule, rule), "adagrad(lr=0.05)");
    cr_expect(!g.at[1].clips && g.at[1].lr_mult == 0.1);
    cr_expect(g.at[2].freezes && g.at[2].rule.n_slots == 0);
    cr_expect_str_eq(psd_rule_print_brief(&g.at[3].rule, rule), "adamw(lr=0.1, weight_decay=0.2)");
    cr_expect_eq(g.at[3].rule.n_slots, 2);
    cr_expect_str_eq(psd_rule_print_brief(&g.at[4].rule, rule), "lookahead(sgd(lr=0.01, momentum=0.5), k=7)");
    cr_expect_eq(g.at[4].rule.n_slots, 2);
    cr_expect_str_eq(psd_rule_print_brief(&g.at[5].rule, rule), "lookahead(adamw(lr=0.1, weight_decay=0.2), k=3)");
    cr_expect_eq(psd_groups_slots(&g), 3);
    cr_expect(psd_groups_have_slow(&g));
    cr_expect_not(psd_groups_have_slow(&(psd_groups_t){ .n = 1, .at[0] = g.at[3] }));
}

Test(groups, printed_they_parse_back_to_the_same)
{
    static const char *const texts[] = { "", "*.bias(weight_decay=0)", "a(lr_mult=1)", "a(clip=0); b(freeze=1); c(lr=0.3, clip=0)",
                                         "x*(optimizer=lookahead(rmsprop(lr=0.1), k=3), lr_mult=0.125, clip=0)" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char first[PSD_GROUPS_TEXT], second[PSD_GROUPS_TEXT], a[PSD_RULE_TEXT], b[PSD_RULE_TEXT];
        const psd_groups_t once = read_groups("adamw(lr=0.2)", texts[i]);
        psd_groups_print(&once, first);
        const psd_groups_t again = read_groups("adamw(lr=0.2)", first);
        cr_expect_str_eq(psd_groups_print(&again, second), first);
        cr_assert_eq(once.n, again.n);
        for (uint32_t g = 0; g < once.n; g++)
            cr_expect(!strcmp(once.at[g].match, again.at[g].match) && once.at[g].clips == again.at[g].clips &&
                          once.at[g].freezes == again.at[g].freezes && once.at[g].lr_mult == again.at[g].lr_mult &&
                          !strcmp(psd_rule_print(&once.at[g].rule, a), psd_rule_print(&again.at[g].rule, b)),
                      "%s: group %u", texts[i], g);
    }
}

Test(groups, a_wrong_group_is_refused_with_place_and_reason)
{
    expect_refused("adam", "*.bias", "column 7: expected '(' and what the group changes");
    expect_refused("adam", "*.bias(", "column 8: expected an argument");
    expect_refused("adam", "*.bias()", "column 8: expected an argument");
    expect_refused("adam", "a(lr_mult=-1)", "lr_mult=-1 is out of range");
    expect_refused("adam", "a(lr_mult=x)", "it takes a number");
    expect_refused("adam", "a(clip=2)", "clip=2 is out of range: it must be 0 or 1");
    expect_refused("adam", "a(clip=1, clip=0)", "'clip' is given twice");
    expect_refused("adam", "a(beta1=0.5, beta1=0.6)", "'beta1' of adam is given twice");
    expect_refused("adam", "a(momentum=0.5)", "unknown argument 'momentum' of adam");
    expect_refused("adam", "a(optimizer=adamm)", "the nearest is 'adam'");
    expect_refused("sgd", "a(nesterov=1)", "nesterov=1 needs momentum");
    expect_refused("adam", "a(freeze=1, lr=2)", "freeze=1 must be the only argument");
    expect_refused("adam", "a(lr=1); a(lr=2)", "pattern 'a' occurs twice");
    expect_refused("adam", "a(lr=1) b(lr=2)", "expected ';' between two groups");
    expect_refused("adam", "a(optimizer=dlion)", "workers vote, by one rule for all tensors");
    expect_refused("dlion", "a(beta1=0.5)", "workers vote, by one rule for all tensors");
    read_groups("dlion", "a(weight_decay=0.5); b(lr_mult=2); c(freeze=1)");
    char many[4096] = "";
    for (int i = 0; i < PSD_MAX_GROUPS; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "a%d(lr=2); ", i);
    expect_refused("adam", many, "a job has at most 31 groups");
}

Test(groups, a_rule_for_matrices_leaves_other_tensors_to_the_rule_that_it_names)
{
    static const psd_shape_t matrix = { 2, 1, 3, 4 }, filters = { 4, 12, 3, 3 };
    char text[PSD_GROUPS_TEXT], rule[PSD_RULE_TEXT];
    const psd_groups_t g = read_groups("lookahead(muon(lr=0.05), k=3)", "emb.*(optimizer=adam); head.*(lr=0.1, lr_mult=2, clip=0)");
    cr_assert(g.n_said == 3 && g.n == 5);
    cr_expect_eq(psd_groups_of(&g, "emb.w", &vector), 0);
    cr_expect_eq(psd_groups_of(&g, "head.w", &matrix), 1);
    cr_expect_eq(psd_groups_of(&g, "body.w", &matrix), 2);
    const psd_group_t *head = &g.at[psd_groups_of(&g, "head.b", &vector)], *body = &g.at[psd_groups_of(&g, "conv.w", &filters)];
    cr_expect_str_eq(psd_rule_print_brief(&body->rule, rule),
                     "lookahead(adamw(lr=0.0003, beta2=0.95, eps=1e-10, weight_decay=0), k=3)");
    cr_expect(head->lr_mult == 2 && !head->clips && body->lr_mult == 1 && body->clips);
    cr_expect_str_eq(psd_groups_print(&g, text), "emb.*(optimizer=adam(lr=0.001)); "
                                                 "head.*(optimizer=lookahead(muon(lr=0.1), k=3), lr_mult=2, clip=0)");
    /* Its rate follows the job's: 3e-4 where that is 0.05. */
    const psd_schedule_t constant = { .kind = NULL };
    cr_expect_float_eq(psd_groups_rate(&g, psd_groups_of(&g, "b", &vector), &constant, 0.025, 0), 1.5e-4, 1e-12);
    psd_extent_t tensor[2] = { { .n = 12, .shape = matrix }, { .n = 3, .shape = vector } };
    const char names[2][16] = { "emb.w", "head.w" };
    uint8_t group_of[2];
    psd_err_t err;
    cr_assert_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 2, group_of, &err), PSD_OK);
    cr_expect(!tensor[0].whole && !tensor[1].whole, "none of them is stepped whole");
    tensor[1] = tensor[0];
    cr_assert_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 2, group_of, &err), PSD_OK);
    cr_expect(!tensor[0].whole && tensor[1].whole);
}

Test(groups, one_that_has_no_tensor_is_an_error_that_names_what_there_is)
{
    const char names[3][16] = { "fc.weight", "fc.bias", "out.bias" };
    psd_extent_t tensor[3] = { { .n = 6 }, { .n = 2 }, { .n = 1 } };
    uint8_t group_of[3];
    psd_err_t err = { 0 };
    psd_groups_t g = read_groups("adam", "*.bias(lr=1); fc.*(lr=2)");
    cr_assert_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 3, group_of, &err), PSD_OK);
    cr_expect(group_of[0] == 1 && group_of[1] == 0 && group_of[2] == 0);
    g = read_groups("adam", "*.bias(lr=1); conv*(lr=2)");
    cr_expect_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 3, group_of, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "groups: conv* matches no tensor of the model, which has fc.weight, fc.bias, out.bias; correct the "
                               "pattern, or leave the group out");
    g = read_groups("adam", "*.bias(lr=1); out*(lr=2)");
    cr_expect_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 3, group_of, &err), PSD_ECONFIG);
    cr_expect_eq(group_of[2], 0, "an earlier group that matches takes the tensor");
    cr_expect_str_eq(err.text,
                     "groups: earlier groups take all tensors that out* matches: out.bias; put it before them, or leave it "
                     "out");
    g = read_groups("adam", "*.bias(lr=1); fc.*(lr=2); *(lr=3)");
    cr_expect_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 3, group_of, &err), PSD_OK,
                 "a star is for all others, if any");
}

Test(groups, those_that_freeze_every_tensor_are_an_error)
{
    const char names[2][16] = { "w", "b" };
    psd_extent_t tensor[2] = { { .n = 6 }, { .n = 2 } };
    uint8_t group_of[2];
    psd_err_t err = { 0 };
    psd_groups_t g = read_groups("adam", "w(freeze=1)");
    cr_expect_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 2, group_of, &err), PSD_OK);
    g = read_groups("adam", "w(freeze=1); *(freeze=1)");
    cr_expect_eq(psd_groups_assign(&g, *names, sizeof *names, tensor, 2, group_of, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text,
                     "groups: every tensor of the model is frozen, so nothing would be trained; leave one out of the groups "
                     "with freeze");
}

Test(groups, what_is_no_group_of_any_rule_is_found_without_the_jobs)
{
    static const char *const wrong[] = { "*.bias(", "a(lr_mult=x)", "a(optimizer=adamm)", "a(freeze=1, lr=2)", "a(lr=1); a(lr=2)" };
    psd_err_t err;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_expect_eq(psd_groups_check(wrong[i], &err), PSD_ECONFIG, "%s", wrong[i]);
    cr_expect_eq(psd_groups_check("a(momentum=0.5); b(beta1=0.5, lookahead=1); c(optimizer=sgd)", &err), PSD_OK, "%s", err.text);
}

Test(groups, each_has_its_own_base_rate_on_one_schedule)
{
    const psd_groups_t g = read_groups("sgd(lr=0.1)", "a(lr=0.4); b(lr_mult=0.5); c(lr_mult=0)");
    psd_schedule_t cosine = { 0 };
    cr_assert_eq(psd_schedule_parse(&cosine, "cosine(steps=10, min=0.01)", NULL), PSD_OK);
    cr_expect_eq(psd_groups_rate(&g, 3, &cosine, 0.1, 4), psd_schedule_rate(&cosine, 0.1, 4));
    cr_expect_eq(psd_groups_rate(&g, 0, &cosine, 0.1, 4), psd_schedule_rate(&cosine, 0.4, 4));
    cr_expect_eq(psd_groups_rate(&g, 1, &cosine, 0.1, 4), 0.5 * psd_schedule_rate(&cosine, 0.1, 4));
    cr_expect_eq(psd_groups_rate(&g, 2, &cosine, 0.1, 4), 0);
    /* The job's rate is set to half of it. */
    cr_expect_eq(psd_groups_rate(&g, 0, &cosine, 0.05, 4), psd_schedule_rate(&cosine, 0.2, 4));
    const double factors[] = { 4, 0.5, 0, 1 };
    for (uint32_t i = 0; i < 4; i++)
        cr_expect_eq(psd_groups_factor(&g, i), factors[i]);
}

/* Two tensors of one element each, with gradients 3 and 4, one step of rate 1. */
static void step_two(const char *groups_text, const psd_clip_t *clip, float w[2])
{
    const psd_groups_t groups = read_groups("sgd(lr=1)", groups_text);
    const float first[1] = { 3 }, second[1] = { 4 };
    const float *const g[2] = { first, second };
    float *const none[PSD_MAX_SLOTS] = { NULL };
    psd_rule_state_t state[2] = { { 0 } };
    const psd_whole_t whole[2] = { { 1, psd_groups_of(&groups, "a", &vector), &w[0], none, &state[0], &g[0], vector },
                                   { 1, psd_groups_of(&groups, "b", &vector), &w[1], none, &state[1], &g[1], vector } };
    double lr[PSD_MAX_GROUPS];
    for (uint32_t i = 0; i < groups.n; i++)
        lr[i] = psd_groups_rate(&groups, i, &(psd_schedule_t){ .kind = NULL }, 1, 0);
    w[0] = w[1] = 0;
    psd_whole_step(&groups, clip, whole, 2, (double[]){ 1 }, 1, 0, lr);
}

Test(groups, clipping_bounds_and_counts_the_tensors_of_groups_that_clip)
{
    float w[2];
    step_two("", &(psd_clip_t){ .norm = 2.5 }, w);
    cr_expect(fabsf(w[0] + 1.5f) < 1e-5f && fabsf(w[1] + 2) < 1e-5f, "%g %g", (double)w[0], (double)w[1]);
    step_two("b(clip=0)", &(psd_clip_t){ .norm = 1.5 }, w);
    cr_expect(fabsf(w[0] + 1.5f) < 1e-5f && w[1] == -4, "%g %g", (double)w[0], (double)w[1]);
    step_two("a(clip=0)", &(psd_clip_t){ .value = 1 }, w);
    cr_expect(w[0] == -3 && w[1] == -1);
    step_two("b(freeze=1)", &(psd_clip_t){ .norm = 3 }, w);
    cr_expect(fabsf(w[0] + 3) < 1e-5f && w[1] == 0, "a frozen tensor's gradient counts for nothing");
    cr_expect_eq(psd_group_squares(&(psd_group_t){ .clips = true }, &(psd_clip_t){ .norm = 1 }, (float[]){ 3 }, 1), 9);
    cr_expect_eq(psd_group_squares(&(psd_group_t){ .clips = false }, &(psd_clip_t){ .norm = 1 }, (float[]){ 3 }, 1), 0);
    cr_expect(isnan(psd_group_squares(&(psd_group_t){ .freezes = true }, &(psd_clip_t){ .norm = 1 }, (float[]){ INFINITY }, 1)));
}

Test(groups, sums_are_asked_for_when_one_group_needs_them)
{
    const psd_clip_t none = { .norm = 0 };
    psd_groups_t g = read_groups("sgd", "a(optimizer=lamb)");
    psd_passes_t passes = psd_passes_of(&g, &none);
    cr_assert(passes.n == 1 && passes.n_sums[0] == 2 && passes.scope[0] == PSD_SCOPE_TENSOR);
    cr_expect(psd_passes_measures(&passes, 0, &g.at[0], &none) && !psd_passes_measures(&passes, 0, &g.at[1], &none));
    g = read_groups("lamb", "*(optimizer=sgd, clip=0)");
    passes = psd_passes_of(&g, &(psd_clip_t){ .norm = 1 });
    cr_expect_eq(passes.n, 2, "the rest may have tensors");
    g = read_groups("sgd", "a(freeze=1)");
    passes = psd_passes_of(&g, &(psd_clip_t){ .norm = 1 });
    cr_expect(passes.n == 1 && !psd_passes_measures(&passes, 0, &g.at[0], &(psd_clip_t){ .norm = 1 }));
}
