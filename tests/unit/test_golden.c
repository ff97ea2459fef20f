#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/inspect/golden.h"

TestSuite(golden, .timeout = 600);

/* Read the first case of `text`. */
static int read_case(const char *text, psd_golden_case_t **c, psd_err_t *err)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    psd_golden_t *reader = psd_golden_new(file, "f.txt", err);
    const int rc = psd_golden_next(reader, c, err);
    psd_golden_destroy(&reader);
    fclose(file);
    return rc;
}

#define RATES "case s opt=schedule steps=2 kind=constant lr=0.1\n"
#define HEAD  "case a opt=sgd n=2 steps=1 lr=0.5\n"
#define WHOLE HEAD "w0 1 2\ng 1 -0 3\nw 1 1 0.5\nend\n"

Test(golden, a_case_is_read_with_its_rule_its_gradients_and_its_expected_weights)
{
    psd_golden_case_t *c = NULL;
    psd_err_t err = { .text = "" };
    cr_assert_eq(read_case("# comment\n\ncase a opt=sgd n=3 steps=2 shape=1x2,1 tol=1e-06 lr=0.5\nw0 1 2 3\n"
                           "lr 1 0.25\ng 1 -0 3 1e-40\nw 1 1 0.5 7\ngw 2 0 9 1 2 3\ngw 2 4 1 4 5 6\nend\n",
                           &c, &err),
                 PSD_OK, "%s", err.text);
    cr_expect_str_eq(c->id, "a");
    cr_expect_str_eq(c->spec, "sgd(lr=0.5)");
    cr_expect(c->n == 3 && c->n_steps == 2 && c->tol == 1e-6);
    cr_expect(c->steps[0].has_lr && c->steps[0].lr == 0.25 && !c->steps[1].has_lr);
    cr_expect(c->steps[0].g[1] == 3.0f && c->steps[0].g[2] == 1e-40f && c->steps[0].w[1] == 0.5);
    cr_expect(!c->steps[1].g && c->steps[1].n_pushes == 2 && !c->steps[1].w && !c->steps[1].x);
    cr_expect(c->steps[1].pushes[1].worker == 4 && c->steps[1].pushes[0].samples == 9 && c->steps[1].pushes[1].g[2] == 6.0f);
    psd_golden_case_destroy(&c);
}

Test(golden, the_first_alpha_is_lookaheads_and_the_second_rmsprops)
{
    psd_golden_case_t *c = NULL;
    cr_assert_eq(read_case("case a opt=lookahead n=1 steps=1 inner=rmsprop k=5 alpha=0.5 pullback=none lr=1 alpha=0.9\n"
                           "w0 1\ng 1 1\nend\n",
                           &c, NULL),
                 PSD_OK);
    cr_expect_str_eq(c->spec, "lookahead(rmsprop(lr=1, alpha=0.9), k=5, alpha=0.5, pullback=none)");
    psd_golden_case_destroy(&c);
}

Test(golden, a_case_of_clipping_has_no_weights_and_begins_at_0)
{
    psd_golden_case_t *c = NULL;
    psd_err_t err = { .text = "" };
    cr_assert_eq(
        read_case("case a opt=clip n=3 steps=1 shape=2,1 clip_value=0.5 max_norm=2\ng 1 1 2 3\nc 1 0.5 0.5 0.5\nend\n", &c, &err),
        PSD_OK, "%s", err.text);
    cr_expect(c->clips && c->clip.value == 0.5 && c->clip.norm == 2 && c->steps[0].c[2] == 0.5 && c->w0[0] == 0);
    cr_expect(c->n_tensors == 2 && c->size[0] == 2 && c->size[1] == 1);
    cr_expect_str_eq(c->spec, "sgd(lr=1)");
    psd_golden_case_destroy(&c);
}

Test(golden, an_empty_file_has_no_case)
{
    psd_golden_case_t *c = NULL;
    cr_expect_eq(read_case("# nothing\n", &c, NULL), PSD_OK);
    cr_expect_null(c);
}

static const struct {
    const char *text, *sentence;
} refused[] = {
    { "w0 1\n", "f.txt:1: expected a case, found 'w0 1'" },
    { "case\n", "f.txt:1: the case has no id, or one of more than 63 characters" },
    { "case a n=1 steps=1\n", "f.txt:1: the case names no optimizer (opt=)" },
    { "case a opt=lookahead n=1 steps=1\n", "f.txt:1: the case names no inner= optimizer" },
    { "case a opt=sgd inner=sgd n=1 steps=1\n", "f.txt:1: inner=sgd belongs only to opt=lookahead and opt=cautious" },
    { "case a opt=sgd n=1\n", "f.txt:1: case a needs n= and steps=" },
    { "case a opt=sgd n=0 steps=1\n", "f.txt:1: n must be a whole number from 1 to 1048576, not '0'" },
    { "case a opt=sgd n=1048576 steps=1000\n", "f.txt:1: case a has more than 67108864 values" },
    { "case a opt=sgd n=4 steps=1 shape=2x3\n", "f.txt:1: the shape has 6 elements, but n=4" },
    { "case a opt=sgd n=4 steps=1 shape=2y3\n", "f.txt:1: '2y3' is not a shape" },
    { "case a opt=sgd n=4 steps=1 lr\n", "f.txt:1: expected key=value, found 'lr'" },
    { "case a opt=dlion n=4 steps=1 vote=loudest\n", "f.txt:1: vote must be majority or mean, not 'loudest'" },
    { "case a opt=sgd n=4 steps=1 agg=sum\n", "f.txt:1: agg must be wmean, not 'sum'" },
    { HEAD, "f.txt:2: the file stops within case a" },
    { HEAD "w0 1\n", "f.txt:2: 1 values where the case has n=2" },
    { HEAD "w0 1 2 3\n", "f.txt:2: more than the 2 values of the case, or a space too many" },
    { HEAD "w0 1  2\n", "f.txt:2: expected a value at byte 5" },
    { HEAD "w0 1 nan\n", "f.txt:2: a value at byte 6 must be a finite number, not 'nan'" },
    { HEAD "w0 1 1e39\n", "f.txt:2: value 2 is beyond float32" },
    { HEAD "w0 1 2\nw0 1 2\n", "f.txt:3: a second w0" },
    { HEAD "gs 1 0 1 2\n", "f.txt:2: unknown record 'gs'; it must be lr, g, gw, w, x, c, d, skip or end" },
    { HEAD "g 2 1 2\n", "f.txt:2: the step must be a whole number of at most 1, not '2'" },
    { HEAD "g 0 1 2\n", "f.txt:2: step 0 follows step 0" },
    { HEAD "g 1 1 2\ng 1 1 2\n", "f.txt:3: a second gradient of this step" },
    { HEAD "gw 1 1 1 1 2\ngw 1 0 1 1 2\n", "f.txt:3: a step has either one g or gw lines of ascending workers" },
    { HEAD "lr 1 -1\n", "f.txt:2: lr takes one number of at least 0" },
    { HEAD "w 1 1 2\nw 1 1 2\n", "f.txt:3: a second record of this kind and step" },
    { HEAD "w0 1 2\nend\n", "f.txt:3: case a has 0 of 1 steps" },
    { HEAD "g 1 1 2\nend\n", "f.txt:3: case a has no w0" },
    { HEAD "w0 1 2\nw 1 1 2\nend\n", "f.txt:4: step 1 of case a has no gradient" },
    { HEAD "w0 1 2\ng 1 1 2\nend x\n", "f.txt:4: nothing may follow 'end'" },
    { "case a opt=sgd n=1 steps=1 max_norm=1\n", "f.txt:1: clip_value= and max_norm= belong only to opt=clip" },
    { "case a opt=clip n=1 steps=1 max_norm=0\n", "f.txt:1: max_norm must be a number above 0, not '0'" },
    { RATES "lr 0 0.1\nend\n", "f.txt:3: case s has 1 of 2 steps" },
    { RATES "lr 1 0.1\n", "f.txt:2: step 1 follows 0 steps, which count from 0" },
    { RATES "lr 0 0.1 0.9 0.9\n", "f.txt:2: lr takes a rate and, at most, a momentum" },
    { RATES "w0 1\n", "f.txt:2: unknown record 'w0'; in a schedule's case it must be lr or end" },
    { "case s opt=schedule steps=2 kind=cosin lr=1\n",
      "f.txt:1: case s: schedule, column 1: unknown schedule 'cosin'; the nearest is 'cosine'" },
    { "case s opt=schedule steps=2 kind=constant\n", "f.txt:1: case s has no lr=" },
    { HEAD "w0 1\t2\n", "f.txt:2: byte 0x09 is not a printable character" },
};

Test(golden, a_case_of_a_schedule_is_read_with_its_base_rate)
{
    psd_golden_case_t *c = NULL;
    psd_err_t err = { .text = "" };
    cr_assert_eq(read_case("case s opt=schedule steps=2 kind=wsd lr=0.5 stable_steps=1 decay_steps=1 decay=linear warmup_steps=4\n"
                           "lr 0 0\nlr 1 0.125 0.9\nend\n",
                           &c, &err),
                 PSD_OK, "%s", err.text);
    cr_expect(c->schedules && c->n == 0 && c->n_steps == 2 && c->lr == 0.5);
    cr_expect_eq(psd_schedule_rate(&c->schedule, c->lr, 1), 0.125);
    cr_expect_eq(psd_schedule_rate(&c->schedule, c->lr, 5.5), 0.25, "half of a linear decay");
    psd_golden_case_destroy(&c);
}

Test(golden, a_malformed_case_is_refused_with_file_and_line)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        psd_golden_case_t *c = NULL;
        psd_err_t err = { .text = "" };
        cr_expect_eq(read_case(refused[i].text, &c, &err), PSD_EDATA, "%s", refused[i].text);
        cr_expect_str_eq(err.text, refused[i].sentence, "%s", err.text);
        cr_expect_null(c);
    }
}

Test(golden, a_cut_anywhere_is_an_error_or_the_whole_case)
{
    for (size_t n = 1; n < sizeof WHOLE - 1; n++) {
        char *text = strndup(WHOLE, n);
        psd_golden_case_t *c = NULL;
        const int rc = read_case(text, &c, NULL);
        cr_expect_eq(rc == PSD_OK, c != NULL);
        cr_expect(!c || n == sizeof WHOLE - 2, "%zu bytes of the case passed as a whole one", n);
        psd_golden_case_destroy(&c);
        free(text);
    }
}

Test(golden, rows_are_printed_with_nine_digits)
{
    char text[64] = "";
    FILE *file = fmemopen(text, sizeof text, "w");
    psd_golden_print(file, 'w', 3, (float[]){ 0.1f, -0.0f }, 2);
    fclose(file);
    cr_expect_str_eq(text, "w 3 0.100000001 -0\n");
}
