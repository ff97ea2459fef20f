#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/core/registration.h"

static psd_membership_t *members;
static psd_tensor_list_t none;
static psd_tensor_desc_t tensor[2];
static psd_tensor_list_t model = { .n = 2, .tensor = tensor, .rows = 60 };
static psd_groups_t groups;
static psd_registration_look_t look;
static psd_registration_t out;

static void setup(void)
{
    cr_assert_not_null(members = calloc(1, sizeof *members));
    for (uint32_t i = 0; i < 2; i++) {
        tensor[i] = (psd_tensor_desc_t){ .n_elements = 8, .n_dims = 1, .dim = { 8 } };
        snprintf(tensor[i].name, sizeof tensor[i].name, "fc%u.weight", i);
        members->row[i] = (psd_worker_row_t){ .id = i, .state = PSD_WORKER_WAITING, .peer = i + 1 };
    }
    members->n_rows = 2;
    cr_assert_eq(psd_groups_parse(&groups, "momentum(lr=1)", "", NULL), PSD_OK);
    look = (psd_registration_look_t){ .model = &none, .groups = &groups, .inherits = true };
}

static void teardown(void) { free(members); }
TestSuite(registration, .init = setup, .fini = teardown, .timeout = 600);

static psd_registration_verdict_t judge(uint32_t worker, const psd_tensor_list_t *theirs, const char *recipe)
{
    const psd_registrant_t it = { .row = &members->row[worker], .model = theirs, .recipe = recipe };
    psd_registration_judge(&out, &look, members, &it);
    return out.verdict;
}

/* The first worker's model is the job's. */
static void first_has_registered(void)
{
    cr_assert_eq(judge(0, &model, "glyphs, batch 64"), PSD_REGISTRATION_FITS, "%s", out.why);
    look.model = &model;
}

/* The others' list, of which a test changes something. */
static psd_tensor_list_t theirs(psd_tensor_desc_t copy[2])
{
    memcpy(copy, tensor, sizeof tensor);
    return (psd_tensor_list_t){ .n = 2, .tensor = copy, .rows = model.rows };
}

Test(registration, one_like_the_first_fits)
{
    first_has_registered();
    cr_expect_eq(judge(1, &model, "glyphs, batch 64"), PSD_REGISTRATION_FITS);
    cr_expect_str_eq(members->recipe, "glyphs, batch 64");
}

Test(registration, another_model_is_refused_and_the_tensor_is_named)
{
    psd_tensor_desc_t copy[2];
    psd_tensor_list_t list = theirs(copy);
    first_has_registered();
    copy[1].n_elements = copy[1].dim[0] = 9;
    cr_expect_eq(judge(1, &list, "glyphs, batch 64"), PSD_REGISTRATION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_SHAPE);
    cr_expect_str_eq(out.why,
                     "worker 1 registers another model: its tensor 1 is fc1.weight [9], the job's is fc1.weight [8]; give all "
                     "workers the same tensors, in the same order");
    psd_inherited_t inherited[2] = { { .t = 7, .arrays = 1 }, { .t = 7, .arrays = 1 } };
    list.inherited = inherited;
    cr_expect_eq(judge(1, &list, "glyphs, batch 64"), PSD_REGISTRATION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_SHAPE, "its state belongs to that model: %s", out.why);
}

Test(registration, what_others_train_on_is_quoted_to_one_that_trains_on_something_else)
{
    first_has_registered();
    cr_expect_eq(judge(1, &model, "glyphs, batch 32"), PSD_REGISTRATION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_CONFIG);
    cr_expect_str_eq(out.why,
                     "worker 1 trains another model, on other data or in another order: it has glyphs, batch 32; the others "
                     "have glyphs, batch 64");
}

Test(registration, one_that_is_refused_for_its_model_does_not_decide_what_the_job_trains_on)
{
    psd_tensor_desc_t copy[2];
    psd_tensor_list_t list = theirs(copy);
    look.model = &model;
    copy[0].n_elements = copy[0].dim[0] = 9;
    cr_expect_eq(judge(1, &list, "digits"), PSD_REGISTRATION_REFUSED);
    cr_expect_str_eq(members->recipe, "");
}

Test(registration, rows_matter_only_to_schedules_of_epochs_and_have_to_be_told_and_equal)
{
    psd_tensor_desc_t copy[2];
    psd_tensor_list_t list = theirs(copy);
    list.rows = 0;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_FITS);
    look.needs_rows = true;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_REFUSED, "the first has to tell them, too");
    cr_expect_str_eq(out.why,
                     "worker 0 does not say how many rows an epoch has, but schedule.unit is epoch; let it say so when it connects "
                     "(rows), or use schedule.unit step or sample");
    first_has_registered();
    list.rows = 61;
    cr_expect_eq(judge(1, &list, ""), PSD_REGISTRATION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_CONFIG);
    cr_expect_str_eq(out.why,
                     "worker 1 says that an epoch has 61 rows, the others say 60; schedule.unit is epoch, so all workers have "
                     "to say the same");
}

Test(registration, groups_that_name_no_tensor_of_the_first_model_fail_the_job)
{
    cr_assert_eq(psd_groups_parse(&groups, "momentum(lr=1)", "conv*(lr_mult=0.1)", NULL), PSD_OK);
    cr_expect_eq(judge(0, &model, ""), PSD_REGISTRATION_UNFIT);
    cr_expect(strstr(out.why, "conv*"), "%s", out.why);
}

Test(registration, inherited_state_has_to_be_what_the_rule_keeps)
{
    psd_inherited_t inherited[2] = { { .t = 7, .arrays = 1 }, { .t = 7, .arrays = 1 } };
    psd_tensor_list_t list = model;
    list.inherited = inherited;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_FITS, "%s", out.why);
    inherited[1].arrays = 3;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_REFUSED);
    cr_expect_str_eq(out.why,
                     "worker 0 starts with optimizer state that this job does not keep: tensor fc1.weight with arrays 0x3 and 0 "
                     "scalars, of which momentum keeps 1 and 0; give all the same optimizer");
    inherited[1].t = 0;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_FITS, "a tensor without updates has no state");
    cr_assert_eq(psd_groups_parse(&groups, "momentum(lr=1)", "fc1*(freeze=true)", NULL), PSD_OK);
    inherited[1] = (psd_inherited_t){ .t = 7, .n_scalars = 1 };
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_REFUSED);
    cr_expect_str_eq(out.why,
                     "worker 0 starts with optimizer state that this job does not keep: tensor fc1.weight with arrays 0 and 1 "
                     "scalars, of which a frozen tensor keeps 0 and 0; give all the same optimizer");
    inherited[1].n_scalars = 0;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_FITS, "%s", out.why);
}

Test(registration, inherited_state_is_judged_by_the_rule_for_each_tensors_shape)
{
    psd_inherited_t inherited[2] = { { .t = 7, .arrays = 1 }, { .t = 7, .arrays = 3 } };
    psd_tensor_list_t list = model;
    list.inherited = inherited;
    tensor[0].n_dims = 2;
    tensor[0].dim[0] = 2;
    tensor[0].dim[1] = 4;
    cr_assert_eq(psd_groups_parse(&groups, "muon(lr=1)", "", NULL), PSD_OK);
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_FITS, "%s", out.why);
    inherited[0].arrays = 3;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_REFUSED, "the matrix");
    cr_expect_str_eq(out.why,
                     "worker 0 starts with optimizer state that this job does not keep: tensor fc0.weight with arrays 0x3 and 0 "
                     "scalars, of which muon keeps 1 and 0; give all the same optimizer");
    inherited[0].arrays = 1;
    inherited[1].arrays = 7;
    cr_expect_eq(judge(0, &list, ""), PSD_REGISTRATION_REFUSED, "the other tensor");
    cr_expect_str_eq(out.why,
                     "worker 0 starts with optimizer state that this job does not keep: tensor fc1.weight with arrays 0x7 and 0 "
                     "scalars, of which adamw keeps 2 and 0; give all the same optimizer");
}

Test(registration, inherited_state_has_to_be_that_of_the_others_until_it_no_longer_matters)
{
    psd_inherited_t inherited[2] = { { .t = 7, .arrays = 1 }, { .t = 7, .arrays = 1 } };
    psd_tensor_list_t list = model;
    first_has_registered();
    list.inherited = inherited;
    cr_expect_eq(judge(1, &list, ""), PSD_REGISTRATION_REFUSED);
    cr_expect_eq(out.refusal, PSD_REFUSAL_CONFIG);
    cr_expect(strstr(out.why, "worker 1 starts with other optimizer state than the others: tensor fc0.weight"), "%s", out.why);
    look.inherits = false;
    cr_expect_eq(judge(1, &list, ""), PSD_REGISTRATION_FITS);
}
