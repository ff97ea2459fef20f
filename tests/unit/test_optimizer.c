#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>

#include "common/optim/aggregate.h"
#include "common/optim/isa.h"
#include "common/optim/optimizer.h"
#include "deploy/psdctl/inspect/golden.h"
#include "deploy/psdctl/inspect/trajectory.h"
#include "tests/support/optim_hash.h"

#define GOLDEN PSD_SOURCE_DIR "/tests/golden"

TestSuite(optimizer, .timeout = 600);
TestSuite(rule, .timeout = 600);
TestSuite(aggregate, .timeout = 600);

static psd_rule_t parse(const char *spec)
{
    psd_rule_t rule;
    psd_err_t err = { .text = "" };
    cr_assert_eq(psd_rule_parse(&rule, spec, &err), PSD_OK, "%s: %s", spec, err.text);
    return rule;
}

/* ---- golden trajectories ---- */

/* Compares the weights of a replay with those of the file. */
typedef struct judge {
    const psd_golden_case_t *c;
    double *largest[3]; /* the largest for each weight, slow weight and clipped gradient, so far */
    double worst;       /* error, as a share of what is allowed */
    size_t judged;      /* records */
} judge_t;

static void judge_row(judge_t *self, double *largest, const double *want, const float *got)
{
    for (size_t i = 0; want && i < self->c->n; i++) {
        largest[i] = fmax(largest[i], fabs(want[i]));
        const double allowed = self->c->tol * largest[i] + 1e-30;
        const double share = fabs((double)got[i] - want[i]) / allowed;
        if (!(share <= self->worst)) /* NaN too */
            self->worst = share;
    }
}

static void judge_step(void *arg, char record, size_t t, const float *values)
{
    judge_t *self = arg;
    const psd_golden_step_t *step = &self->c->steps[t - 1];
    const double *const want[] = { step->w, step->x, step->c };
    const size_t which = (size_t)(strchr("wxc", record) - "wxc");
    cr_assert(want[which], "%s expects no record %c", self->c->id, record);
    judge_row(self, self->largest[which], want[which], values);
    self->judged++;
}

static psd_groups_t parse_groups(const psd_golden_case_t *c)
{
    psd_groups_t groups;
    psd_err_t err = { .text = "" };
    cr_assert_eq(psd_groups_parse(&groups, c->spec, c->groups, &err), PSD_OK, "%s: %s", c->id, err.text);
    return groups;
}

static double judge_case(const psd_golden_case_t *c)
{
    const psd_groups_t groups = parse_groups(c);
    judge_t judge = { .c = c };
    for (int r = 0; r < 3; r++) {
        judge.largest[r] = calloc(c->n, sizeof(double));
        for (size_t i = 0; i < c->n; i++)
            judge.largest[r][i] = fabs((double)c->w0[i]);
    }
    cr_assert_eq(psd_trajectory_run(c, &groups, judge_step, &judge, NULL), PSD_OK);
    cr_expect_eq(judge.judged, c->n_steps * (psd_groups_have_slow(&groups) ? 2 : 1), "%s", c->id);
    for (int r = 0; r < 3; r++)
        free(judge.largest[r]);
    return judge.worst;
}

/* Call `visit` for each case of each file; returns how many there were. */
static size_t each_case(void (*visit)(const psd_golden_case_t *c, void *arg), void *arg)
{
    DIR *dir = opendir(GOLDEN);
    size_t cases = 0;
    cr_assert_not_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[1024];
        psd_err_t err = { .text = "" };
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".txt") != 0 || strcmp(entry->d_name, "schedule.txt") == 0) /* no rule: test_schedule.c */
            continue;
        snprintf(path, sizeof path, GOLDEN "/%s", entry->d_name);
        FILE *file = fopen(path, "r");
        psd_golden_t *reader = psd_golden_new(file, entry->d_name, &err);
        cr_assert_not_null(reader);
        for (psd_golden_case_t *c = NULL;; cases++) {
            cr_assert_eq(psd_golden_next(reader, &c, &err), PSD_OK, "%s", err.text);
            if (!c)
                break;
            visit(c, arg);
            psd_golden_case_destroy(&c);
        }
        psd_golden_destroy(&reader);
        fclose(file);
    }
    closedir(dir);
    return cases;
}

static void expect_within_tolerance(const psd_golden_case_t *c, void *worst)
{
    const double share = judge_case(c);
    cr_expect(share <= 1.0, "%s on %s: error is %.3g of the tolerance", c->id, psd_isa_name(), share);
    *(double *)worst = fmax(*(double *)worst, share);
}

Test(optimizer, every_golden_trajectory_is_met_on_every_instruction_set)
{
    for (size_t i = 0; psd_isa_at(i); i++) {
        double worst = 0;
        cr_assert_eq(psd_isa_select(psd_isa_at(i), NULL), PSD_OK);
        const size_t cases = each_case(expect_within_tolerance, &worst);
        cr_expect(cases >= 33, "only %zu cases", cases);
        cr_log_info("%s: %zu cases, worst error %.3f of the tolerance\n", psd_isa_name(), cases, worst);
    }
}

static void mark_covered(const psd_golden_case_t *c, void *arg)
{
    const psd_rule_t rule = parse(c->spec);
    for (size_t i = 0; !*c->groups && psd_optimizer_at(i); i++)
        ((bool *)arg)[i] |= rule.opt == psd_optimizer_at(i) && !rule.lookahead && !rule.cautious;
}

Test(optimizer, every_optimizer_of_the_table_has_a_golden_trajectory)
{
    bool covered[64] = { false };
    each_case(mark_covered, covered);
    for (size_t i = 0; psd_optimizer_at(i); i++)
        cr_expect(covered[i], "no golden case of %s", psd_optimizer_at(i)->name);
}

/* ---- the same bits ---- */

Test(optimizer, every_instruction_set_gives_the_committed_bits)
{
    char line[HASH_TEXT], want[HASH_TEXT];
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        FILE *file = fopen(GOLDEN "/optim_hash.expected", "r");
        cr_assert_not_null(file);
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        for (size_t i = 0; hash_line(i, line); i++) {
            cr_assert_not_null(fgets(want, sizeof want, file), "a line is missing: %s", line);
            want[strcspn(want, "\n")] = '\0';
            cr_expect_str_eq(line, want, "%s: %s instead of %s", psd_isa_name(), line, want);
        }
        cr_expect_null(fgets(want, sizeof want, file), "one line too many: %s", want);
        fclose(file);
    }
}

enum { PIECES_N = 4099 };

/* Step twelve times, each in pieces of up to `longest` elements, from arrays that begin `offset` floats into
 * aligned memory. */
/* Whether Lookahead is refused around a rule; another test checks that it is. */
static bool stays_alone(const psd_optimizer_t *opt, bool pulls)
{
    return opt->alone || (pulls && strcmp(opt->name, "ademamix") == 0);
}

static uint64_t hash_in_pieces(const psd_rule_t *rule, size_t longest, size_t offset)
{
    static _Alignas(64) float arrays[2 + PSD_MAX_SLOTS][PIECES_N + 16];
    float *w = arrays[0] + offset, *g = arrays[1] + offset, *slot[PSD_MAX_SLOTS];
    uint64_t stream = 7, hash = 1;
    psd_rule_state_t state;
    for (int i = 0; i < PSD_MAX_SLOTS; i++)
        slot[i] = arrays[2 + i] + offset;
    for (size_t i = 0; i < PIECES_N; i++)
        w[i] = hash_draw(&stream);
    psd_rule_init(rule, &state, w, slot, PIECES_N);
    for (int t = 0; t < 12; t++) {
        for (size_t i = 0; i < PIECES_N; i++)
            g[i] = hash_draw(&stream);
        const psd_plan_t plan = psd_rule_plan(rule, &state, psd_rule_lr(rule));
        if (psd_rule_is_whole(rule))
            longest = PIECES_N;
        for (size_t from = 0; from < PIECES_N; from += longest) {
            float *part[PSD_MAX_SLOTS];
            for (int i = 0; i < PSD_MAX_SLOTS; i++)
                part[i] = slot[i] + from;
            psd_rule_apply(rule, &plan, w + from, part, g + from, PIECES_N - from < longest ? PIECES_N - from : longest);
        }
    }
    hash = hash_floats(hash, w, PIECES_N);
    for (int i = 0; i < rule->n_slots; i++)
        hash = hash_floats(hash, slot[i], psd_rule_slot_length(rule, i, &(const psd_extent_t){ .n = PIECES_N }));
    return hash;
}

Test(optimizer, no_cut_and_no_alignment_changes_a_bit)
{
    static const size_t cuts[] = { 1, 3, 17, 1000, 2049 };
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        for (size_t i = 0; psd_optimizer_at(i); i++)
            for (int wrapped = 0; wrapped < 2; wrapped++) {
                char spec[PSD_RULE_TEXT];
                snprintf(spec, sizeof spec, wrapped ? "lookahead(%s, k=5, pullback=pullback)" : "%s", psd_optimizer_at(i)->name);
                if (wrapped && stays_alone(psd_optimizer_at(i), true))
                    continue;
                const psd_rule_t rule = parse(spec);
                const uint64_t whole = hash_in_pieces(&rule, PIECES_N, 0);
                for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
                    cr_expect_eq(hash_in_pieces(&rule, cuts[c], 1 + c * 3), whole, "%s on %s in pieces of %zu", spec,
                                 psd_isa_name(), cuts[c]);
            }
    }
}

Test(optimizer, the_mask_of_a_cautious_rule_does_not_depend_on_cuts_or_on_the_instruction_set)
{
    static const char *const specs[] = { "cautious(adam(weight_decay=0.1))", "cautious(adamw)", "lookahead(cautious(lion), k=3)",
                                         "cautious(nesterov)" };
    uint64_t first[4] = { 0 };
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        for (size_t i = 0; i < 4; i++) {
            const psd_rule_t rule = parse(specs[i]);
            const uint64_t whole = hash_in_pieces(&rule, PIECES_N, 0);
            first[i] = isa ? first[i] : whole;
            cr_expect_eq(whole, first[i], "%s on %s", specs[i], psd_isa_name());
            cr_expect_eq(hash_in_pieces(&rule, 1000, 3), whole, "%s in pieces", specs[i]);
        }
    }
}

Test(optimizer, a_cautious_step_counts_the_agreement_of_a_whole_tensor_without_changing_its_state)
{
    const psd_rule_t rule = parse("cautious(momentum(lr=1, momentum=0.5))");
    psd_rule_state_t state = { .t = 1 };
    float w[4] = { 0 }, m[4] = { 1, 1, -4, 0 }, g[4] = { 1, -0.25f, 1, 0 };
    float *const slot[PSD_MAX_SLOTS] = { m };
    psd_plan_t plan = psd_rule_plan(&rule, &state, 1);
    double sum[PSD_MAX_SUMS] = { 0 };
    psd_rule_measure(&rule, &plan, w, slot, g, 4, sum);
    cr_expect(sum[0] == 1 && sum[1] == 4, "buf 1.5, 0.25, -1, 0 agrees with the first alone: %g of %g", sum[0], sum[1]);
    cr_expect_eq(m[0], 1);
    psd_rule_settle(&rule, 1, sum, &state, &plan);
    psd_rule_apply(&rule, &plan, w, slot, g, 4);
    cr_expect(w[0] == -6 && w[1] == 0 && w[2] == 0 && w[3] == 0, "%g", (double)w[0]);
    cr_expect(m[0] == 1.5f && m[1] == 0.25f && m[2] == -1, "the mask does not enter the buffer");
}

Test(optimizer, sfadamw_evaluates_the_average_that_it_does_not_keep)
{
    const psd_rule_t rule = parse("sfadamw(beta1=0.5)");
    float y[2] = { 3, 1 }, z[2] = { 2, 1 }, v[2] = { 0 }, x[2];
    cr_expect(psd_rule_has_slow(&rule));
    psd_rule_slow(&rule, y, (float *[PSD_MAX_SLOTS]){ z, v }, x, 2);
    cr_expect(x[0] == 4 && x[1] == 1, "y = 0.5 x + 0.5 z");
}

Test(optimizer, lookahead_of_alpha_1_is_the_inner_optimizer_to_the_last_bit)
{
    static const char *const pullbacks[] = { "none", "pullback" };
    for (size_t i = 0; psd_optimizer_at(i); i++)
        for (int p = 0; p < 2; p++) {
            char spec[PSD_RULE_TEXT];
            psd_rule_t inner = parse(psd_optimizer_at(i)->name);
            snprintf(spec, sizeof spec, "lookahead(%s, k=3, alpha=1, pullback=%s)", inner.opt->name, pullbacks[p]);
            if (stays_alone(inner.opt, p == 1))
                continue;
            psd_rule_t outer = parse(spec);
            /* Only the arrays of the inner rule are compared: the slow weights have no counterpart. */
            outer.n_slots = inner.n_slots;
            cr_expect_eq(hash_in_pieces(&outer, PIECES_N, 0), hash_in_pieces(&inner, PIECES_N, 0), "%s", spec);
        }
}

/* ---- rules at work ---- */

/* Make `steps` updates of one weight along the same gradient. Returns the weight; `slot` holds the state. */
static float step_one(const char *spec, float w, float g, int steps, float slot[PSD_MAX_SLOTS])
{
    const psd_rule_t rule = parse(spec);
    float *const slots[] = { &slot[0], &slot[1], &slot[2], &slot[3], &slot[4] };
    psd_rule_state_t state;
    psd_rule_init(&rule, &state, &w, slots, 1);
    for (int t = 0; t < steps; t++) {
        const psd_plan_t plan = psd_rule_plan(&rule, &state, psd_rule_lr(&rule));
        psd_rule_apply(&rule, &plan, &w, slots, &g, 1);
    }
    cr_expect_eq(state.t, (uint64_t)steps);
    return w;
}

Test(optimizer, the_first_step_of_adafactor_is_the_gradient_over_its_factors_in_proportion_to_the_weights)
{
    /* Squares 1 4 / 4 16: means of rows 2.5 and 10, of columns 2.5 and 10, of all 6.25; v is 1 4 / 4 16, and u the signs, of RMS
     * 1. The weights' RMS is 0.5, and at t = 1 the rate is at most 1: the step is 0.5 * 0.1. */
    const psd_rule_t rule = parse("adafactor(lr=0.1)");
    const psd_extent_t tensor = { .n = 4, .shape = { 2, 1, 2, 2 } };
    float w[4] = { 0.5f, -0.5f, 0.5f, 0.5f }, row[2], col[2], none[1];
    const float g[4] = { 1, -2, 2, 4 }, want[4] = { 0.45f, -0.45f, 0.45f, 0.45f };
    float *const slot[PSD_MAX_SLOTS] = { row, col, none };
    psd_rule_state_t state;
    psd_rule_begin(&rule, &state, &tensor, 0, w, slot, 4);
    psd_plan_t plan = psd_rule_plan(&rule, &state, 0.1);
    plan.shape = tensor.shape;
    psd_rule_apply(&rule, &plan, w, slot, g, 4);
    for (int i = 0; i < 4; i++)
        cr_expect_float_eq(w[i], want[i], 1e-7f, "%d: %g", i, (double)w[i]);
    cr_expect(row[0] == 2.5f && row[1] == 10 && col[0] == 2.5f && col[1] == 10);
}

/* A diagonal matrix stays diagonal: each value s/|u| goes through x -> 3.4445 x - 4.7750 x^3 + 2.0315 x^5 on its own. */
Test(optimizer, a_step_of_muon_brings_each_singular_value_near_one)
{
    const psd_rule_t rule = parse("muon(lr=0.1, nesterov=0, momentum=0)");
    const psd_extent_t tensor = { .n = 6, .shape = { 2, 1, 3, 2 } };
    float w[6] = { 0 }, buf[6];
    const float g[6] = { 3, 0, 0, 4, 0, 0 };
    float *const slot[PSD_MAX_SLOTS] = { buf };
    psd_rule_state_t state;
    psd_rule_begin(&rule, &state, &tensor, 0, w, slot, 6);
    psd_plan_t plan = psd_rule_plan(&rule, &state, 0.1);
    plan.shape = tensor.shape;
    psd_rule_apply(&rule, &plan, w, slot, g, 6);
    for (int i = 0; i < 2; i++) {
        double x = i ? 0.8 : 0.6;
        for (int k = 0; k < 5; k++)
            x = 3.4445 * x - 4.7750 * x * x * x + 2.0315 * x * x * x * x * x;
        cr_expect_float_eq((double)w[3 * i], -0.1 * sqrt(1.5) * x, 1e-6, "%g", (double)w[3 * i]);
        cr_expect(x > 0.6 && x < 1.3);
    }
    cr_expect(w[1] == 0 && w[2] == 0 && w[4] == 0 && w[5] == 0);
}

Test(optimizer, the_first_velocity_of_sgd_is_the_gradient_undampened)
{
    float slot[PSD_MAX_SLOTS];
    /* buf = 1 at first, then 0.5 * 1 + (1 - 0.75) * 1 = 0.75. */
    cr_expect_eq(step_one("sgd(lr=1, momentum=0.5, dampening=0.75)", 0, 1, 1, slot), -1.0f);
    cr_expect_eq(step_one("sgd(lr=1, momentum=0.5, dampening=0.75)", 0, 1, 2, slot), -1.75f);
    cr_expect_eq(slot[0], 0.75f);
}

Test(optimizer, a_reset_velocity_is_dampened_like_any_later_one)
{
    float slot[PSD_MAX_SLOTS];
    /* After the sync at t = 1 the velocity is 0; the second is 0.5 * 0 + 0.25 * 1, and is then reset again.
     * w: -1, halfway back: -0.5; then -0.5 - 0.25 = -0.75, halfway back to -0.5: -0.625. */
    cr_expect_eq(step_one("lookahead(sgd(lr=1, momentum=0.5, dampening=0.75), k=1, pullback=reset)", 0, 1, 2, slot), -0.625f);
    cr_expect_eq(slot[0], 0.0f);
    cr_expect_eq(slot[1], -0.625f);
}

Test(optimizer, a_pullback_keeps_a_copy_of_the_momentum_and_not_the_momentum_itself)
{
    float slot[PSD_MAX_SLOTS];
    /* m: 1, pulled to 0.5 * 1 + 0.5 * 0 = 0.5; then 0.5 * 0.5 + 1 = 1.25, pulled to 0.5 * 1.25 + 0.5 * 0.5 =
     * 0.875. */
    step_one("lookahead(sgd(lr=1, momentum=0.5), k=1, alpha=0.5, pullback=pullback)", 0, 1, 2, slot);
    cr_expect_eq(slot[0], 0.875f);
    cr_expect_eq(slot[2], 0.875f);
}

Test(optimizer, lookahead_syncs_at_every_kth_update_and_counts_its_syncs)
{
    const psd_rule_t rule = parse("lookahead(sgd, k=3)");
    psd_rule_state_t state;
    float w = 1, slow, *const slots[] = { &slow };
    psd_rule_init(&rule, &state, &w, slots, 1);
    cr_expect_eq(slow, 1.0f);
    for (int t = 1; t <= 9; t++)
        cr_expect_eq(psd_rule_plan(&rule, &state, 0.1).sync, t % 3 == 0);
    cr_expect_eq(state.sync_epoch, 3u);
}

Test(optimizer, the_sign_of_either_zero_moves_nothing)
{
    float slot[PSD_MAX_SLOTS];
    cr_expect_eq(step_one("lion(lr=1)", 2, 0.0f, 3, slot), 2.0f);
    cr_expect_eq(step_one("lion(lr=1)", 2, -0.0f, 3, slot), 2.0f);
    cr_expect_eq(step_one("signsgd(lr=1)", 2, -0.0f, 3, slot), 2.0f);
    cr_expect_eq(step_one("signum(lr=1)", 2, -0.0f, 3, slot), 2.0f);
}

Test(optimizer, centered_rmsprop_stays_finite_on_a_constant_gradient)
{
    /* v - ga^2 goes to 0 and rounds to either side of it; the root of the wrong side is NaN. */
    float slot[PSD_MAX_SLOTS];
    for (int i = 1; i < 50; i++)
        cr_expect(isfinite(step_one("rmsprop(centered=1, alpha=0.5)", 0, 0.1f * (float)i, 300, slot)));
}

Test(optimizer, radam_first_rectifies_at_the_sixth_update)
{
    /* Until then the step of a constant gradient is lr * m / (1 - b1^t) = lr * g, whatever its size. */
    float slot[PSD_MAX_SLOTS];
    cr_expect_float_eq(step_one("radam(lr=0.5)", 0, 8, 5, slot), -20.0f, 1e-4f);
    const float moved = step_one("radam(lr=0.5)", 0, 8, 6, slot) + 20.0f;
    cr_expect(moved > -0.5f && moved < 0.0f, "moved by %g", (double)moved);
}

Test(optimizer, a_long_gone_start_is_no_longer_corrected)
{
    /* At t = 10^9 both corrections are 1, however the power was formed. */
    const psd_rule_t rule = parse("adam(lr=0.5)");
    psd_rule_state_t state = { .t = 1000000000 };
    const psd_plan_t plan = psd_rule_plan(&rule, &state, 0.5);
    cr_expect_eq(plan.coef[0], 0.5f);
    cr_expect_eq(plan.coef[5], 1.0f);
}

Test(optimizer, an_unknown_instruction_set_is_refused)
{
    psd_err_t err;
    cr_expect_eq(psd_isa_select("avx1024", &err), PSD_EINVAL);
    cr_expect_str_eq(err.text, "no instruction set 'avx1024' on this processor");
}

/* ---- the grammar ---- */

Test(rule, keeps_torchs_state_names_and_lays_the_slow_ones_last)
{
    const psd_rule_t rule = parse("lookahead(rmsprop(momentum=0.9, centered=1), pullback=pullback)");
    static const char *const names[] = { "square_avg", "momentum_buffer", "grad_avg", "slow_param", "slow_momentum" };
    cr_assert_eq(rule.n_slots, 5);
    for (int i = 0; i < 5; i++)
        cr_expect_str_eq(rule.slot[i].name, names[i]);
    cr_expect_eq(rule.slow_slot, 3);
    cr_expect_eq(parse("sgd").n_slots, 0);
    cr_expect_eq(parse("sgd").slow_slot, -1);
    cr_expect_eq(parse("momentum").n_slots, 1);
    cr_expect_eq(parse("adam").n_slots, 2);
    cr_expect_eq(parse("adam(amsgrad=1)").n_slots, 3);
    cr_expect_eq(parse("lookahead(adagrad, pullback=pullback)").n_slots, 2, "adagrad has no first moment to pull");
}

static void expect_same_again(const psd_rule_t *rule)
{
    char first[PSD_RULE_TEXT], second[PSD_RULE_TEXT];
    const psd_rule_t brief = parse(psd_rule_print_brief(rule, first));
    const psd_rule_t again = parse(psd_rule_print(rule, first));
    cr_expect_str_eq(first, psd_rule_print(&again, second));
    cr_expect_str_eq(first, psd_rule_print(&brief, second));
    cr_expect_eq(again.opt, rule->opt);
    cr_expect_arr_eq(again.hyper, rule->hyper, sizeof rule->hyper);
    cr_expect(again.cautious == rule->cautious && again.caution_min == rule->caution_min);
    cr_expect(again.lookahead == rule->lookahead && again.k == rule->k && again.alpha == rule->alpha &&
              again.pullback == rule->pullback && again.n_slots == rule->n_slots && again.slow_slot == rule->slow_slot);
}

Test(rule, prints_what_parses_back_to_itself)
{
    uint64_t stream = 5;
    for (size_t i = 0; psd_optimizer_at(i); i++)
        for (int draw = 0; draw < 200; draw++) {
            char spec[PSD_RULE_TEXT];
            const bool wraps = draw & 1 && !stays_alone(psd_optimizer_at(i), false);
            snprintf(spec, sizeof spec, wraps ? "lookahead(%s)" : "%s", psd_optimizer_at(i)->name);
            psd_rule_t rule = parse(spec);
            for (int h = 0; rule.opt->hyper[h].name && draw > 1; h++)
                if (!rule.opt->hyper[h].flag && rule.opt->hyper[h].min < 1 && strcmp(rule.opt->hyper[h].name, "dampening") != 0)
                    rule.hyper[h] = (rule.opt->hyper[h].max > 0 ? 1 : -1) * psd_uniform(&stream) / (double)(1u << (draw % 30));
            char text[PSD_RULE_TEXT];
            rule = parse(psd_rule_print(&rule, text)); /* other values may need other slots */
            expect_same_again(&rule);
        }
}

Test(rule, prints_every_value_in_its_shortest_form)
{
    char text[PSD_RULE_TEXT];
    psd_rule_t rule = parse("lookahead ( radam ( lr = 1e-3 , decoupled = true ) , k = 6 , pullback = reset ) ");
    cr_expect_str_eq(psd_rule_print(&rule, text),
                     "lookahead(radam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, decoupled=1, weight_decay=0), k=6, "
                     "alpha=0.5, pullback=reset)");
}

Test(rule, the_short_form_has_the_learning_rate_and_values_other_than_defaults)
{
    static const char *const specs[][2] = {
        { "sgd", "sgd(lr=0.01)" },
        { "adam(beta2=0.99, lr=2e-3, eps=1e-8)", "adam(lr=0.002, beta2=0.99)" },
        { "lookahead(radam)", "lookahead(radam(lr=0.001))" },
        { "lookahead(sgd(lr=1), k=7, alpha=0.8, pullback=reset)", "lookahead(sgd(lr=1), k=7, alpha=0.8, pullback=reset)" },
    };
    char text[PSD_RULE_TEXT];
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        const psd_rule_t rule = parse(specs[i][0]);
        cr_expect_str_eq(psd_rule_print_brief(&rule, text), specs[i][1]);
    }
}

Test(rule, lookahead_without_an_inner_rule_is_around_radam)
{
    static const char *const specs[] = { "lookahead", "lookahead()", "lookahead(radam)", "lookahead(k=5)" };
    char want[PSD_RULE_TEXT], got[PSD_RULE_TEXT];
    psd_rule_t rule = parse("lookahead(radam(lr=0.001), k=5, alpha=0.5, pullback=none)");
    psd_rule_print(&rule, want);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        rule = parse(specs[i]);
        cr_expect_str_eq(psd_rule_print(&rule, got), want);
    }
}

static const struct {
    const char *spec, *sentence;
} refused[] = {
    { "cautious(adagrad)", "rule, column 10: cautious around adagrad is not supported; it is made for adam, adamw, nadam, radam, "
                           "lion, and sgd with momentum" },
    { "cautious(adafactor)",
      "rule, column 10: cautious around adafactor is not supported: its step has the signs of the gradient, so "
      "that nothing is masked" },
    { "cautious(muon)",
      "rule, column 10: cautious around muon is not supported: it moves matrices as a whole, and what is left of one that "
      "is masked is not orthogonal" },
    { "muon(ns_steps=2.5)", "rule, column 1: muon: ns_steps is a whole number" },
    { "cautious(sgd)", "rule, column 10: cautious around sgd without momentum masks nothing: a step is the gradient then" },
    { "cautious(cautious(adam))", "rule, column 10: cautious inside cautious is not supported" },
    { "cautious(lookahead(adam))", "rule, column 10: lookahead inside cautious is not supported; write lookahead(cautious(...))" },
    { "cautious(adam, caution_min=0)",
      "rule, column 28: caution_min=0 of cautious is out of range: it must be above 0 and at most 1" },
    { "lookahead(sfadamw)", "rule, column 10: lookahead around sfadamw is not supported: it averages its weights by itself" },
    { "lookahead(prodigy)",
      "rule, column 10: lookahead around prodigy is not supported: it measures how far its own steps have gone" },
    { "lookahead(ademamix, pullback=pullback)",
      "rule, column 10: pullback=pullback is not supported around ademamix, which has two first moments; use none or reset" },
    { "", "rule, column 1: expected the name of an optimizer, found the end" },
    { "  (", "rule, column 3: expected the name of an optimizer, found '('" },
    { "adma", "rule, column 1: unknown optimizer 'adma'; the nearest is 'adam'" },
    { "Adam", "rule, column 1: unknown optimizer 'Adam'; the nearest is 'adam'" },
    { "look_ahead", "rule, column 1: unknown optimizer 'look_ahead'; the nearest is 'lookahead'" },
    { "fromage",
      "rule, column 1: unknown optimizer 'fromage'; there are sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, "
      "adamw, nadam, radam, adamax, adopt, ademamix, sfadamw, prodigy, lars, lamb, adafactor, muon, lion, dlion, signsgd, signum, "
      "and "
      "lookahead and "
      "cautious around them" },
    { "adam(learning_rate=0.1)", "rule, column 6: unknown argument 'learning_rate' of adam; the nearest is 'lr' "
                                 "(it takes lr, beta1, beta2, eps, weight_decay, amsgrad)" },
    { "sgd(foo=1)", "rule, column 5: unknown argument 'foo' of sgd; it takes lr, momentum, dampening, nesterov, weight_decay" },
    { "lookahead(adam, pullback=often)", "rule, column 26: unknown pullback 'often'; it is none, reset or pullback" },
    { "lookahead(rmsprob)", "rule, column 11: unknown optimizer 'rmsprob'; the nearest is 'rmsprop'" },
    { "adam(beta=0.9)", "rule, column 6: unknown argument 'beta' of adam; the nearest is 'beta1' "
                        "(it takes lr, beta1, beta2, eps, weight_decay, amsgrad)" },
    { "lookahead(adam, alfa=1)", "rule, column 17: unknown argument 'alfa' of lookahead; the nearest is "
                                 "'alpha' (it takes k, alpha, pullback)" },
    { "adam(lr=1, lr=1)", "rule, column 12: argument 'lr' of adam is given twice" },
    { "adam(lr=-1)", "rule, column 9: lr=-1 of adam is out of range: it must be at least 0 and at most 1000000000" },
    { "adam(beta1=1)", "rule, column 12: beta1=1 of adam is out of range: it must be at least 0 and below 1" },
    { "adam(lr=1e999)", "rule, column 9: lr=1e999 of adam is out of range: it must be at least 0 and at most 1000000000" },
    { "adam(lr=nan)", "rule, column 9: expected a finite decimal number, found 'n'" },
    { "adam(lr=inf)", "rule, column 9: expected a finite decimal number, found 'i'" },
    { "adam(lr=-inf)", "rule, column 9: expected a finite decimal number, found '-'" },
    { "adam(lr=0x1p3)", "rule, column 10: expected ',' or ')', found 'x'" },
    { "adam(lr=)", "rule, column 9: expected a finite decimal number, found ')'" },
    { "adam(amsgrad=2)", "rule, column 14: amsgrad=2 of adam is out of range: it must be at least 0 and at most 1" },
    { "adam(amsgrad=0.5)", "rule, column 14: amsgrad of adam must be 0 or 1" },
    { "adam(amsgrad=yes)", "rule, column 14: expected 0, 1, false or true, found 'y'" },
    { "adam(lr)", "rule, column 8: expected '=', found ')'" },
    { "adam(lr=1", "rule, column 10: expected ',' or ')', found the end" },
    { "adam(lr=1,", "rule, column 11: expected an argument, found the end" },
    { "adam(,)", "rule, column 6: expected an argument, found ','" },
    { "adam(lr=1 eps=1)", "rule, column 11: expected ',' or ')', found 'e'" },
    { "adam)", "rule, column 5: expected nothing more, found ')'" },
    { "adam() x", "rule, column 8: expected nothing more, found 'x'" },
    { "adam(\x01", "rule, column 6: expected an argument, found byte 0x01" },
    { "lookahead(lookahead(sgd))", "rule, column 11: lookahead inside lookahead is not supported" },
    { "lookahead(adam, sgd)", "rule, column 17: the inner rule 'sgd' must be the first argument of lookahead, and the only one" },
    { "lookahead(sgd, k=0)", "rule, column 18: k=0 of lookahead is out of range: it must be at least 1 and at most 1000000000" },
    { "lookahead(sgd, k=1e30)",
      "rule, column 18: k=1e30 of lookahead is out of range: it must be at least 1 and at most 1000000000" },
    { "lookahead(sgd, k=2.5)", "rule, column 18: k of lookahead must be a whole number" },
    { "lookahead(sgd, alpha=0)", "rule, column 22: alpha=0 of lookahead is out of range: it must be above 0 and at most 1" },
    { "lookahead(sgd, pullback=rest)",
      "rule, column 25: unknown pullback 'rest'; the nearest is 'reset' (none, reset or pullback)" },
    { "sgd(nesterov=1)", "rule, column 1: sgd: nesterov=1 needs momentum above 0 and dampening=0" },
    { "nesterov(dampening=0.5)", "rule, column 1: nesterov: nesterov=1 needs momentum above 0 and dampening=0" },
    { "anoptimizerwhosenameistoolongtobeone", "rule, column 1: expected the name of an optimizer, found a word of 36 letters" },
};

Test(rule, refuses_with_the_column_the_reason_and_the_nearest_word)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        psd_rule_t rule = { .k = 77 };
        psd_err_t err = { .text = "" };
        cr_expect_eq(psd_rule_parse(&rule, refused[i].spec, &err), PSD_ECONFIG, "%s", refused[i].spec);
        cr_expect_str_eq(err.text, refused[i].sentence, "%s: %s", refused[i].spec, err.text);
        cr_expect_eq(rule.k, 77u, "a refused rule leaves the old one as it was");
    }
}

Test(rule, refuses_a_text_too_long_to_be_a_rule)
{
    char spec[1100];
    psd_rule_t rule;
    psd_err_t err;
    memset(spec, ' ', sizeof spec);
    memcpy(spec, "adam", 4);
    spec[sizeof spec - 1] = '\0';
    cr_expect_eq(psd_rule_parse(&rule, spec, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "rule, column 1025: a rule has at most 1024 characters");
}

/* ---- sums over workers ---- */

Test(aggregate, a_single_gradient_of_weight_1_is_copied_bit_for_bit)
{
    const float g[] = { -0.0f, 1e-45f, 3.0f, INFINITY }, *const part[] = { NULL, g };
    const double weight[] = { 0.5, 1.0 };
    float out[4];
    psd_aggregate(out, part, weight, 2, 4);
    cr_expect_arr_eq(out, g, sizeof g);
}

Test(aggregate, terms_are_added_in_double_in_the_order_of_ranks)
{
    /* 2^60 + 1 rounds to 2^60 even in double, so 1 survives only where the two large terms cancel first. */
    const float large = 0x1p60f, minus = -0x1p60f, one = 1.0f;
    const double weight[] = { 1, 1, 1 };
    float out;
    psd_aggregate(&out, (const float *const[]){ &large, &minus, &one }, weight, 3, 1);
    cr_expect_eq(out, 1.0f);
    psd_aggregate(&out, (const float *const[]){ &large, &one, &minus }, weight, 3, 1);
    cr_expect_eq(out, 0.0f);
    /* In float 2^25 + 1 would already be lost. */
    const float fits = 0x1p25f, back = -0x1p25f;
    psd_aggregate(&out, (const float *const[]){ &fits, &one, &back }, weight, 3, 1);
    cr_expect_eq(out, 1.0f);
}

Test(aggregate, a_missing_gradient_adds_nothing_and_none_at_all_gives_zero)
{
    const float g[] = { 4, 8 };
    const double weight[] = { 0.25, 0.5, 0.25 };
    float out[] = { 7, 7 };
    psd_aggregate(out, (const float *const[]){ NULL, g, NULL }, weight, 3, 2);
    cr_expect(out[0] == 2.0f && out[1] == 4.0f);
    psd_aggregate(out, (const float *const[]){ NULL, NULL, NULL }, weight, 3, 2);
    cr_expect(out[0] == 0.0f && out[1] == 0.0f);
    out[0] = 7;
    psd_aggregate(out, NULL, NULL, 0, 2);
    cr_expect_eq(out[0], 0.0f);
}

Test(aggregate, what_is_copied_and_summed_at_once_has_the_bits_of_the_floats_and_of_their_sum)
{
    enum { N = 1003 };
    static _Alignas(64) float x[N], to[N + 20];
    uint64_t stream = 5;
    for (size_t i = 0; i < N; i++)
        x[i] = hash_draw(&stream);
    for (size_t isa = 0; psd_isa_at(isa); isa++)
        for (size_t n = N - 40; n <= N; n++)
            for (size_t at = 0; at < 16; at += 3)
                for (int large = 0; large < 2; large++) {
                    cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
                    memset(to, 0xee, sizeof to);
                    const double sum = psd_sum_of_squares(x, n);
                    cr_assert_eq(psd_sum_of_squares_copied(to + 1 + at, x, large, n), sum, "%s", psd_isa_at(isa));
                    cr_assert_arr_eq(to + 1 + at, x, n * sizeof *x);
                    cr_assert_arr_eq(to + at, to + 1 + at + n, sizeof *to, "nothing beside them");
                }
}

/* Gradients k of `count`, drawn. */
static void draw_gradients(float *g, size_t count, size_t n)
{
    uint64_t stream = 7;
    for (size_t i = 0; i < count * n; i++)
        g[i] = i % 11 ? hash_draw(&stream) : -0.0f;
}

Test(aggregate, gradients_that_are_taken_together_leave_the_bits_of_their_mean_and_of_their_squares)
{
    enum { N = 1003 };
    static float g[PSD_AGGREGATE_TAKEN][N];
    static _Alignas(64) float to[N + 20], mean[N];
    const double weight[PSD_AGGREGATE_TAKEN] = { 0.3, 0.5, 0.2, 1, 0.125, 3, 0.7, 0.1 };
    const float *const term[] = { g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7] };
    draw_gradients(g[0], PSD_AGGREGATE_TAKEN, N);
    for (size_t isa = 0; psd_isa_at(isa); isa++)
        for (size_t k = 2; k <= PSD_AGGREGATE_TAKEN; k++)
            for (size_t n = N - 18; n <= N; n++)
                for (int at = 0; at < 8; at++) {
                    const bool large = at % 2;
                    double squares[PSD_AGGREGATE_TAKEN];
                    cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
                    memset(to, 0xee, sizeof to);
                    psd_aggregate(mean, term, weight, k, n);
                    psd_aggregate_taken(to + 1 + at, term, weight, squares, k, large, n);
                    cr_assert_arr_eq(to + 1 + at, mean, n * sizeof *mean, "%zu by %s", k, psd_isa_at(isa));
                    cr_assert_arr_eq(to + at, to + 1 + at + n, sizeof *to, "nothing beside them");
                    for (size_t i = 0; i < k; i++)
                        cr_assert_eq(squares[i], psd_sum_of_squares(g[i], n), "%zu of %zu by %s", i, k, psd_isa_at(isa));
                }
}

typedef struct shared {
    float x[64];
    int is_over;
} shared_t;

/* A write falls between two reads of the same element, if there are two. */
static void *write_by_turns(void *arg)
{
    shared_t *const shared = arg;
    for (unsigned turn = 0; !__atomic_load_n(&shared->is_over, __ATOMIC_RELAXED); turn++)
        for (int i = 0; i < 64; i++) {
            float x = turn % 2 ? 1.0f : 3.0f;
            __atomic_store(&shared->x[i], &x, __ATOMIC_RELAXED);
        }
    return NULL;
}

Test(aggregate, what_is_summed_is_what_is_copied_while_another_thread_writes)
{
    static shared_t shared;
    pthread_t writer;
    float to[64];
    cr_assert_eq(pthread_create(&writer, NULL, write_by_turns, &shared), 0);
    long n_torn = 0;
    for (long i = 0; i < 2000000; i++) /* a sum that reads twice is wrong in about one of a thousand */
        n_torn += psd_sum_of_squares_copied(to, shared.x, i % 2, 63) != psd_sum_of_squares(to, 63);
    cr_expect_eq(n_torn, 0);
    __atomic_store_n(&shared.is_over, 1, __ATOMIC_RELAXED);
    pthread_join(writer, NULL);
}

Test(aggregate, the_squares_are_those_of_the_terms_of_the_mean_while_another_thread_writes)
{
    static shared_t shared;
    static const float none[64];
    const double weight[] = { 0.5, 0.25, 1 };
    pthread_t writer;
    float mean[64];
    cr_assert_eq(pthread_create(&writer, NULL, write_by_turns, &shared), 0);
    long n_torn = 0;
    for (long i = 0; i < 1000000; i++) {
        double squares[3];
        psd_aggregate_taken(mean, (const float *const[]){ none, none, shared.x } + 1 - i % 2, weight, squares, 2 + i % 2, i % 4 / 2,
                            63);
        n_torn += squares[1 + i % 2] != psd_sum_of_squares(mean, 63) / (i % 2 ? 1 : 0.0625);
    }
    cr_expect_eq(n_torn, 0);
    __atomic_store_n(&shared.is_over, 1, __ATOMIC_RELAXED);
    pthread_join(writer, NULL);
}

Test(aggregate, no_cut_changes_a_bit)
{
    enum { N = 3001 };
    static float g[3][N], whole[N], pieces[N];
    const double weight[] = { 0.3, 0.5, 0.2 };
    uint64_t stream = 3;
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < N; i++)
            g[k][i] = hash_draw(&stream);
    psd_aggregate(whole, (const float *const[]){ g[0], g[1], g[2] }, weight, 3, N);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(whole[i], (float)(0.3 * (double)g[0][i] + 0.5 * (double)g[1][i] + 0.2 * (double)g[2][i]));
    for (size_t from = 0, n; from < N; from += n) {
        n = 1 + from % 97 < N - from ? 1 + from % 97 : N - from;
        psd_aggregate(pieces + from, (const float *const[]){ g[0] + from, g[1] + from, g[2] + from }, weight, 3, n);
    }
    cr_expect_arr_eq(whole, pieces, sizeof whole);
}
