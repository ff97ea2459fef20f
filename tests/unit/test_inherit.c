#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/optim/inherit.h"

/* A matrix of 2 by 3 and a vector of 2. */
enum { N = 2 };
static const char names[N][8] = { "w", "b" };
static const psd_extent_t extents[N] = {
    { .n = 6, .shape = { .n_dims = 2, .n_matrices = 1, .rows = 2, .cols = 3 } },
    { .n = 2, .shape = { .n_dims = 1 } },
};
static const float six[6] = { 1, 2, 3, 4, 5, 6 }, two[2] = { 7, 8 };
static psd_groups_t groups, from;
static uint8_t group_of[N];
static psd_inheritance_t *all;
static psd_err_t err;

static void train_by(const char *rule, const char *text)
{
    psd_extent_t own[N] = { extents[0], extents[1] };
    cr_assert_eq(psd_groups_parse(&groups, rule, text, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_groups_assign(&groups, *names, sizeof *names, own, N, group_of, &err), PSD_OK, "%s", err.text);
}

static int inherit(const psd_state_field_t *field, size_t n, bool partial)
{
    psd_inheritance_destroy(&all);
    all = psd_inherit(*names, sizeof *names, extents, N, &groups, group_of, field, n, from.n ? &from : NULL, partial, &err);
    return all ? PSD_OK : err.code;
}

static void teardown(void) { psd_inheritance_destroy(&all); }
TestSuite(inherit, .fini = teardown, .timeout = 60);

#define ARRAY(tensor, field, data)                                                                                                 \
    {                                                                                                                              \
        tensor, field, data, sizeof data / sizeof *data, 0                                                                         \
    }
#define NUMBER(tensor, field, value)                                                                                               \
    {                                                                                                                              \
        tensor, field, NULL, 0, value                                                                                              \
    }
static const psd_state_field_t of_adam[] = { ARRAY("w", "exp_avg", six),    NUMBER("w", "step", 100), ARRAY("b", "exp_avg_sq", two),
                                             ARRAY("w", "exp_avg_sq", six), NUMBER("b", "step", 99),  ARRAY("b", "exp_avg", two) };

static void expect_refused(const psd_state_field_t *field, size_t n, bool partial, const char *why)
{
    cr_assert_eq(inherit(field, n, partial), PSD_EDATA, "accepted: %s", why);
    cr_expect(strstr(err.text, why), "\"%s\" lacks \"%s\"", err.text, why);
}

Test(inherit, fields_in_any_order_come_to_their_tensors_and_slots)
{
    train_by("adam", "");
    cr_assert_eq(inherit(of_adam, 6, false), PSD_OK, "%s", err.text);
    cr_expect_eq(all->of[0].t, 100);
    cr_expect_eq(all->of[1].t, 99);
    cr_expect_eq(all->of[0].arrays, 3);
    cr_expect_eq(memcmp(all->slot[0][1], six, sizeof six), 0);
    cr_expect_eq(memcmp(all->slot[1][0], two, sizeof two), 0);
    cr_expect_eq(all->n_taken, 2);
}

Test(inherit, scalars_of_a_rule_keep_all_their_digits)
{
    const psd_state_field_t field[] = { ARRAY("w", "exp_avg", six), ARRAY("w", "exp_avg_sq", six),
                                        NUMBER("w", "step", 3),     NUMBER("w", "mu_product", 0.1),
                                        ARRAY("b", "exp_avg", two), ARRAY("b", "exp_avg_sq", two),
                                        NUMBER("b", "step", 3),     NUMBER("b", "mu_product", 0.2) };
    train_by("nadam", "");
    cr_assert_eq(inherit(field, 8, false), PSD_OK, "%s", err.text);
    cr_expect_eq(all->of[0].scalar[0], 0.1);
    expect_refused(field, 3, false, "there is no mu_product of tensor w, which nadam keeps");
}

Test(inherit, what_is_missing_or_too_much_is_named)
{
    train_by("adam", "");
    expect_refused(of_adam, 5, false, "there is no exp_avg of tensor b, which adam keeps; allow partial state (init.partial)");
    expect_refused(of_adam, 1, false, "there is no exp_avg_sq of tensor w");
    train_by("lion", "");
    expect_refused(of_adam, 6, false, "the state of tensor w has exp_avg_sq, which lion does not keep");
    train_by("lookahead(adam)", "");
    expect_refused(of_adam, 6, false, "there is no slow_param of tensor w, which lookahead around adam keeps");
    train_by("adam", "");
    expect_refused((const psd_state_field_t[]){ ARRAY("head", "exp_avg", six) }, 1, false,
                   "it has exp_avg of tensor head, which the model does not have; its first is w");
    expect_refused((const psd_state_field_t[]){ ARRAY("w", "exp_avg", two), ARRAY("w", "exp_avg_sq", six), NUMBER("w", "step", 1) },
                   3, true, "exp_avg of tensor w has 2 elements; this job's has 6");
    expect_refused((const psd_state_field_t[]){ ARRAY("w", "exp_avg", six), ARRAY("w", "exp_avg_sq", six), NUMBER("w", "step", 1),
                                                NUMBER("w", "step", 2) },
                   4, false, "the state of tensor w has step twice");
    expect_refused((const psd_state_field_t[]){ ARRAY("b", "exp_avg", six), ARRAY("b", "exp_avg_sq", two), NUMBER("b", "step", 1) },
                   3, true, "exp_avg of tensor b has 6 elements; this job's has 2");
}

Test(inherit, numbers_that_are_none_are_refused)
{
    static const float bad[6] = { 1, 2, 3, 4, NAN, 6 };
    train_by("sgd(momentum=0.9)", "");
    expect_refused((const psd_state_field_t[]){ ARRAY("w", "momentum_buffer", bad) }, 1, true, "is nan at element 4");
    expect_refused((const psd_state_field_t[]){ ARRAY("w", "momentum_buffer", six), NUMBER("w", "step", 1.5) }, 2, true,
                   "step of tensor w is 1.5; expected a whole number");
    expect_refused((const psd_state_field_t[]){ ARRAY("w", "momentum_buffer", six), NUMBER("w", "step", -1) }, 2, true,
                   "step of tensor w is -1");
}

/* Each rule of the table, with state of a matrix and a vector that is all 0.5 except for one element or scalar of the matrix. */
static int inherit_but(const psd_rule_t *rule, const char *odd, double value)
{
    static float half[6] = { .5f, .5f, .5f, .5f, .5f, .5f }, other[6];
    psd_state_field_t field[N * (PSD_MAX_SLOTS + PSD_MAX_SCALAR + 1)];
    size_t n = 0;
    memcpy(other, half, sizeof half);
    other[0] = (float)value;
    for (uint32_t i = 0; i < N; i++) {
        for (int s = 0; s < rule->n_slots; s++) {
            const uint64_t length = psd_rule_slot_length(rule, s, &extents[i]);
            const bool is_odd = !strcmp(rule->slot[s].name, odd) && length;
            if (length)
                field[n++] = (psd_state_field_t){ names[i], rule->slot[s].name, is_odd ? other : half, length, 0 };
        }
        for (int k = 0; k < psd_rule_n_scalars(rule); k++)
            field[n++] =
                (psd_state_field_t)NUMBER(names[i], rule->opt->scalars[k], strcmp(rule->opt->scalars[k], odd) ? .5 : value);
        field[n++] = (psd_state_field_t)NUMBER(names[i], "step", 3);
    }
    return inherit(field, n, false);
}

Test(inherit, what_a_rule_takes_the_root_of_or_counts_is_never_negative)
{
    /* torch's names, and those of the rules that torch does not have, after their papers' sums of squares and magnitudes. */
    static const char *const from_0[] = { "square_avg", "acc_delta", "sum",        "exp_avg_sq", "max_exp_avg_sq",
                                          "exp_inf",    "row_var",   "col_var",    "d",          "variance",
                                          "mu_product", "lr_max",    "weight_sum", "d_max",      "k" };
    char text[PSD_RULE_TEXT + 32];
    for (size_t i = 0; psd_optimizer_at(i); i++) {
        const psd_optimizer_t *opt = psd_optimizer_at(i);
        snprintf(text, sizeof text, "%s%s", opt->name, !strcmp(opt->name, "adam") ? "(amsgrad=1)" : "");
        if (opt->others) /* it takes only matrices, and keeps only a first moment */
            continue;
        train_by(text, "");
        const psd_rule_t *rule = &psd_groups_rest(&groups)->rule;
        for (int s = 0; s < rule->n_slots + psd_rule_n_scalars(rule); s++) {
            const char *name = s < rule->n_slots ? rule->slot[s].name : opt->scalars[s - rule->n_slots];
            bool refuses = false;
            for (size_t k = 0; k < sizeof from_0 / sizeof *from_0; k++)
                refuses = refuses || !strcmp(from_0[k], name);
            cr_expect_eq(inherit_but(rule, name, 0), PSD_OK, "%s %s: %s", text, name, err.text);
            cr_expect_eq(inherit_but(rule, name, -1e-9), refuses ? PSD_EDATA : PSD_OK, "%s %s", text, name);
        }
    }
    train_by("adam", "");
    static const float bad[6] = { 1, 2, 3, 4, -0.25f, 6 };
    expect_refused(
        (const psd_state_field_t[]){ ARRAY("w", "exp_avg", bad), ARRAY("w", "exp_avg_sq", bad), NUMBER("w", "step", 1) }, 3, true,
        "exp_avg_sq of tensor w is -0.25 at element 4, but adam never makes it negative: it is damaged, or another field; "
        "write the state again from the optimizer that kept it");
}

Test(inherit, torch_counts_no_updates_of_sgd)
{
    train_by("sgd(momentum=0.9)", "");
    const psd_state_field_t field[] = { ARRAY("w", "momentum_buffer", six), ARRAY("b", "momentum_buffer", two) };
    cr_assert_eq(inherit(field, 2, false), PSD_OK, "%s", err.text);
    cr_expect_eq(all->of[0].t, 1, "the next update is not the first, which has no velocity");
    train_by("lookahead(sgd(momentum=0.9))", "");
    cr_expect_eq(inherit(field, 2, true), PSD_EDATA, "without its state, Lookahead's position between two syncs is unknown");
}

Test(inherit, partially_a_tensor_starts_with_all_its_state_or_none)
{
    train_by("lookahead(adam)", "");
    cr_assert_eq(inherit(of_adam, 5, true), PSD_OK, "%s", err.text);
    cr_expect_eq(all->of[0].t, 100);
    cr_expect_eq(all->of[0].arrays, 3, "not slow_param, which begins as the weights");
    cr_expect_eq(all->of[1].t, 0);
    cr_expect_eq(all->n_missing, 1);
    cr_expect_str_eq(all->missing, "b/exp_avg");
    expect_refused(of_adam, 1, true, "no tensor has all the state that its optimizer keeps");
}

Test(inherit, groups_inherit_by_their_own_rules)
{
    train_by("adam", "b(optimizer=sgd(momentum=0.9))");
    expect_refused(of_adam, 6, false, "the state of tensor b has exp_avg, which sgd does not keep");
    const psd_state_field_t field[] = { of_adam[0], of_adam[1], of_adam[3], ARRAY("b", "momentum_buffer", two) };
    cr_expect_eq(inherit(field, 4, false), PSD_OK, "%s", err.text);
    train_by("adam", "b(freeze=1)");
    expect_refused(field, 4, false, "the state of tensor b has momentum_buffer, which a frozen tensor does not keep");
    cr_expect_eq(inherit(field, 3, false), PSD_OK, "%s", err.text);
}

Test(inherit, state_of_another_optimizer_does_not_fit_though_its_fields_have_the_same_names)
{
    train_by("adopt", "");
    cr_assert_eq(psd_groups_parse(&from, "adam(lr=0.5)", "", &err), PSD_OK);
    expect_refused(of_adam, 6, false, "the state of tensor w was kept by adam, but this job trains it with adopt");
    cr_assert_eq(inherit(of_adam, 6, true), PSD_EDATA, "nothing of it fits");
    train_by("adam(lr=0.1)", "");
    cr_expect_eq(inherit(of_adam, 6, false), PSD_OK, "other values of the same optimizer do");
    train_by("adam", "b(optimizer=adopt)");
    cr_expect_eq(inherit(of_adam, 6, true), PSD_OK);
    cr_expect_eq(all->of[1].t, 0);
    cr_assert_eq(psd_groups_parse(&from, "adam", "b(freeze=1)", &err), PSD_OK);
    cr_expect_eq(inherit(of_adam, 6, false), PSD_OK, "b was frozen there, so no rule is known to have kept its state: %s",
                 err.text);
    from.n = 0;
}

Test(inherit, a_tensor_that_was_never_updated_starts_with_new_state)
{
    train_by("adagrad", "");
    const psd_state_field_t field[] = { ARRAY("w", "sum", six), NUMBER("w", "step", 0), ARRAY("b", "sum", two),
                                        NUMBER("b", "step", 1) };
    cr_assert_eq(inherit(field, 4, false), PSD_OK, "%s", err.text);
    cr_expect_eq(all->of[0].t, 0);
    cr_expect_eq(all->of[0].arrays, 0);
    cr_expect_eq(all->of[1].t, 1);
}

Test(inherit, arrays_that_are_shorter_than_their_tensor_have_their_own_length)
{
    static const float rows[2] = { 1, 2 }, cols[3] = { 3, 4, 5 };
    train_by("adafactor", "b(freeze=1)");
    const psd_state_field_t field[] = { ARRAY("w", "row_var", rows), ARRAY("w", "col_var", cols), NUMBER("w", "step", 5) };
    cr_assert_eq(inherit(field, 3, false), PSD_OK, "%s", err.text);
    cr_expect_eq(memcmp(all->slot[0][0], rows, sizeof rows), 0);
}
