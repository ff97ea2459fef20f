#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include <math.h>
#include <string.h>

#include "server/core/health.h"
#include "tests/support/kept.h"

TestSuite(health, .timeout = 600);

enum { TENSORS = 3, MOST = 64 };
static const psd_extent_t tensors[TENSORS] = { { .n = 5000 }, { .n = 3000 }, { .n = 10 } };

static psd_health_t health;
static psd_groups_t groups;
static uint64_t step;

static void begin_with(const char *group_text, double clip_value, uint32_t servers)
{
    cr_assert_eq(psd_groups_parse(&groups, "sgd(lr=0.1)", group_text, NULL), PSD_OK);
    psd_health_init(&health, &groups, &(psd_clip_t){ .value = clip_value });
    cr_assert_eq(psd_health_begin(&health, tensors, (const uint8_t[TENSORS]){ 0 }, TENSORS, servers), PSD_OK);
    step = 0;
}

static void begin(void) { begin_with("", 0, 1); }
static void end(void) { psd_health_clear(&health); }

/* An element of a healthy tensor: a gradient of 0.1, a weight of 0.05, and a step of 0.002 times the weight. */
typedef struct element {
    double gradient, zero, reached, weight, update, rate;
} element_t;
static const element_t well = { .gradient = 0.1, .weight = 0.05, .update = 0.0001, .rate = 0.1 };

/* Shard `shard` reports a step in which all elements of tensor t are `of[t]`; NULL: there was no gradient. */
static bool tell(uint32_t shard, uint64_t of_step, const element_t *const of[TENSORS])
{
    static double terms[MOST * PSD_LOOK_TERMS];
    memset(terms, 0, sizeof terms);
    cr_assert(health.map.n_held[shard] <= MOST);
    for (uint32_t i = 0; i < health.map.n_held[shard]; i++) {
        const psd_chunk_t *c = &health.map.chunk[health.map.held[shard][i]];
        const element_t *e = of[c->tensor];
        const double n = c->n, odd = 1 + 1 / (3.0 + (double)c->offset); /* so that the order of additions matters */
        if (e)
            memcpy(terms + (size_t)i * PSD_LOOK_TERMS,
                   (double[PSD_LOOK_TERMS]){ n, n * e->gradient * e->gradient * odd, n * e->zero, n * e->reached,
                                             n * e->weight * e->weight, n * e->update * e->update, e->rate },
                   PSD_LOOK_TERMS * sizeof(double));
    }
    return psd_health_take(&health, shard, of_step, terms, (size_t)health.map.n_held[shard] * PSD_LOOK_TERMS);
}

/* A complete look, in which the middle tensor is like `middle`, and the others are healthy. */
static psd_health_state_t look(const element_t *middle)
{
    step = step ? step + 100 : 1;
    cr_assert(tell(0, step, (const element_t *const[]){ &well, middle, &well }));
    cr_expect_eq(health.tensor[0].state, PSD_HEALTH_OK);
    cr_expect_eq(health.tensor[2].state, PSD_HEALTH_OK);
    return health.tensor[1].state;
}

/* After how many looks like this one the middle tensor is in `state`; at most 20. */
static unsigned looks_until(psd_health_state_t state, const element_t *middle)
{
    unsigned n = 1;
    while (look(middle) != state && n < 20)
        n++;
    return n;
}

static void expect_words(const char *a, const char *b)
{
    char text[PSD_HEALTH_TEXT];
    psd_health_describe(&health, 1, text);
    cr_expect(strstr(text, a) && strstr(text, b), "%s", text);
}

Test(health, looks_are_after_the_first_step_after_each_n_steps_more_and_before_that_after_2_4_8)
{
    uint64_t due[32];
    size_t n = 0;
    for (uint64_t t = 0; t <= 300; t++)
        if (psd_health_is_due(100, t))
            due[n++] = t;
    const uint64_t want[] = { 1, 2, 4, 8, 16, 32, 64, 101, 201 };
    cr_assert_eq(n, sizeof want / sizeof *want);
    cr_expect_arr_eq(due, want, sizeof want);
    for (uint64_t t = 0; t <= 300; t++) {
        cr_expect_not(psd_health_is_due(0, t));
        cr_expect_eq(psd_health_is_due(1, t), t > 0);
    }
}

Test(health, figures_are_norms_and_shares_of_the_whole_tensor, .fini = end)
{
    begin();
    look(&(element_t){ .gradient = 0.2, .zero = 0.25, .reached = 0.5, .weight = 0.5, .update = 0.001, .rate = 0.1 });
    const psd_health_tensor_t *x = &health.tensor[1];
    cr_expect_float_eq(x->weight_norm, 0.5 * sqrt(3000), 1e-9);
    cr_expect_float_eq(x->update_ratio, 0.002, 1e-12);
    cr_expect_float_eq(x->zero_share, 0.25, 1e-12);
    cr_expect_float_eq(x->reached_share, 0.5, 1e-12);
    cr_expect_float_eq(x->gradient_norm, 0.2 * sqrt(3000), 1);
}

Test(health, shares_are_of_the_elements_that_had_a_gradient, .fini = end)
{
    static double terms[MOST * PSD_LOOK_TERMS];
    begin();
    for (uint32_t i = 0; i < health.map.n_held[0]; i++) { /* half of each chunk, of which a quarter are 0 and an eighth cut off */
        const double n = health.map.chunk[health.map.held[0][i]].n / 2.0;
        memcpy(terms + (size_t)i * PSD_LOOK_TERMS,
               (double[PSD_LOOK_TERMS]){ n, n * 0.01, n * 0.25, n * 0.125, n * 0.0025, n * 1e-8, 0.1 },
               PSD_LOOK_TERMS * sizeof(double));
    }
    cr_assert(psd_health_take(&health, 0, 1, terms, (size_t)health.map.n_held[0] * PSD_LOOK_TERMS));
    for (uint32_t t = 0; t < TENSORS; t++) {
        cr_expect_float_eq(health.tensor[t].zero_share, 0.25, 1e-12);
        cr_expect_float_eq(health.tensor[t].reached_share, 0.125, 1e-12);
    }
}

Test(health, figures_have_the_same_bits_for_any_number_of_servers_in_any_order)
{
    double want[TENSORS][3];
    for (uint32_t servers = 1; servers <= 4; servers++) {
        begin_with("", 0, servers);
        for (uint32_t s = servers; s-- > 1;)
            cr_expect_not(tell(s, 1, (const element_t *const[]){ &well, &well, &well }));
        cr_assert(tell(0, 1, (const element_t *const[]){ &well, &well, &well }));
        for (uint32_t t = 0; t < TENSORS; t++) {
            const psd_health_tensor_t *x = &health.tensor[t];
            const double is[3] = { x->gradient_norm, x->weight_norm, x->update_ratio };
            if (servers == 1)
                memcpy(want[t], is, sizeof is);
            cr_expect_eq(memcmp(want[t], is, sizeof is), 0, "tensor %u on %u servers", t, servers);
        }
        end();
    }
}

Test(health, a_tensor_whose_gradients_are_all_0_is_dead_after_five_looks_and_lives_after_the_first_that_is_not, .fini = end)
{
    element_t zeros = well;
    zeros.zero = 1, zeros.gradient = 0, zeros.update = 0;
    begin();
    cr_expect_eq(looks_until(PSD_HEALTH_DEAD, &zeros), PSD_HEALTH_IN_ROW);
    cr_expect_eq(health.tensor[1].since, step);
    cr_expect_eq(health.in_state[PSD_HEALTH_DEAD], 1);
    expect_words("all its gradients were 0 in the last 5 looks", "freeze it");
    cr_expect_str_eq(psd_health_event(PSD_HEALTH_DEAD), "tensor.dead");
    zeros.zero = 0.9999, zeros.gradient = 1e-6;
    cr_expect_eq(look(&zeros), PSD_HEALTH_OK, "an embedding, of which few rows have gradients, is not dead");
    cr_expect_eq(health.tensor[1].told, PSD_HEALTH_DEAD);
}

Test(health, a_tensor_without_gradients_is_absent_and_one_of_a_frozen_group_frozen, .fini = end)
{
    begin();
    for (unsigned i = 0; i < 20; i++)
        cr_expect_eq(look(NULL), PSD_HEALTH_ABSENT);
    cr_expect(isnan(health.tensor[1].gradient_norm));
    end();
    begin_with("*(freeze=1)", 0, 1);
    for (uint64_t t = 1; t <= 20; t++)
        tell(0, t, (const element_t *const[]){ NULL, NULL, NULL });
    cr_expect_eq(health.in_state[PSD_HEALTH_FROZEN], TENSORS);
}

Test(health, looks_without_a_gradient_end_a_row_of_bad_ones, .fini = end)
{
    element_t sign[3] = { well, well, well };
    sign[0].zero = 1, sign[0].gradient = 0, sign[0].update = 0;
    sign[1].update = 0;
    sign[2].update = 0.3 * well.weight;
    begin();
    step = 901;
    for (int s = 0; s < 3; s++) {
        for (unsigned i = 1; i < PSD_HEALTH_IN_ROW; i++)
            cr_expect_eq(look(&sign[s]), PSD_HEALTH_OK, "sign %d", s);
        cr_expect_eq(look(NULL), PSD_HEALTH_ABSENT);
        for (unsigned i = 1; i < PSD_HEALTH_IN_ROW; i++)
            cr_expect_eq(look(&sign[s]), PSD_HEALTH_OK, "sign %d", s);
        cr_expect(psd_health_is_ill(look(&sign[s])), "sign %d", s);
        cr_expect_eq(look(&well), PSD_HEALTH_OK);
    }
}

Test(health, a_tensor_whose_weights_grow_a_hundredfold_explodes_in_one_look_and_does_not_flap, .fini = end)
{
    element_t grown = well;
    begin();
    cr_expect_eq(look(&grown), PSD_HEALTH_OK);
    grown.weight = 0.05 * 99;
    cr_expect_eq(look(&grown), PSD_HEALTH_OK);
    grown.weight = 0.05 * 101;
    cr_expect_eq(look(&grown), PSD_HEALTH_EXPLODING);
    expect_words("101 times as large as when training began", "lower the learning rate");
    grown.weight = 0.05 * 60;
    cr_expect_eq(look(&grown), PSD_HEALTH_EXPLODING);
    grown.weight = 0.05 * 40;
    cr_expect_eq(look(&grown), PSD_HEALTH_OK);
}

Test(health, weights_that_begin_at_0_are_measured_by_the_size_of_the_others, .fini = end)
{
    element_t bias = well;
    begin();
    for (unsigned i = 0; i < 20; i++) { /* they grow from 0, in each look by a hundredth of the other weights' size */
        bias.weight = i * 0.0005;
        bias.update = 0.0005;
        cr_expect_eq(look(&bias), PSD_HEALTH_OK, "look %u", i);
    }
}

Test(health, a_tensor_that_begins_small_has_grown_when_it_is_a_hundred_times_as_large_as_the_model, .fini = end)
{
    element_t small = well;
    begin();
    small.weight = 1e-4, small.update = 1e-5;
    cr_expect_eq(look(&small), PSD_HEALTH_OK);
    /* All weights together: a root mean square of 0.05 sqrt(5010 / 8010) = 0.0395. */
    small.weight = 2, small.update = 0.001;
    cr_expect_eq(look(&small), PSD_HEALTH_OK, "20,000 times as large as it began, but 51 times as large as the model");
    small.weight = 4;
    cr_expect_eq(look(&small), PSD_HEALTH_EXPLODING);
    expect_words("101 times as large", "lower the learning rate");
}

Test(health, a_model_that_begins_at_0_moves_much_in_its_first_steps_and_is_well, .fini = end)
{
    begin();
    /* t steps of equal size, back and forth: the weights are about sqrt(t) steps. */
    for (uint64_t t = 1; t <= 400; t += t < 100 ? t : 100) {
        const element_t x = { .gradient = 0.1, .weight = 0.01 * sqrt((double)t - 1), .update = 0.01, .rate = 0.1 };
        cr_assert(tell(0, t, (const element_t *const[]){ &x, &x, &x }));
        cr_expect_eq(health.in_state[PSD_HEALTH_OK], TENSORS, "step %u", (unsigned)t);
    }
}

Test(health, steps_of_more_than_a_tenth_of_the_weights_explode_in_the_fifth_look_running, .fini = end)
{
    element_t thrown = well;
    thrown.update = 0.3 * thrown.weight;
    begin();
    step = 901;
    for (unsigned i = 1; i < PSD_HEALTH_IN_ROW; i++)
        cr_expect_eq(look(&thrown), PSD_HEALTH_OK);
    cr_expect_eq(look(&well), PSD_HEALTH_OK);
    cr_expect_eq(looks_until(PSD_HEALTH_EXPLODING, &thrown), PSD_HEALTH_IN_ROW);
    expect_words("most recently 0.3 (0.001 is usual)", "clip.norm");
    cr_expect_eq(health.tensor[1].since, step);
    cr_expect_eq(look(&thrown), PSD_HEALTH_EXPLODING);
    cr_expect_eq(health.tensor[1].since, step - 100);
    thrown.weight = 10, thrown.update = 3;
    cr_expect_eq(look(&thrown), PSD_HEALTH_EXPLODING);
    expect_words("200 times as large as when training began", "clip.norm");
    cr_expect_eq(health.tensor[1].since, step - 200, "it explodes since then, whatever shows it now");
    thrown = well;
    thrown.update = 0.09 * thrown.weight;
    cr_expect_eq(look(&thrown), PSD_HEALTH_OK);
}

Test(health, weights_that_are_not_finite_and_gradients_too_large_to_square_are_reported_at_once, .fini = end)
{
    element_t x = well;
    begin();
    x.weight = INFINITY;
    cr_expect_eq(look(&x), PSD_HEALTH_EXPLODING);
    expect_words("Inf or NaN", "checkpoint");
    cr_expect_eq(health.tensor[1].strip[0], '!');
    x = well, x.reached = 0.001;
    cr_expect_eq(look(&x), PSD_HEALTH_EXPLODING);
    expect_words("0.1 % of its gradients are too large to be squared", "lower the learning rate");
    end();
    begin_with("", 1, 1);
    cr_expect_eq(look(&x), PSD_HEALTH_OK, "with clip.value, that share counts the gradients that are cut");
}

Test(health, a_tensor_that_is_infinite_from_the_start_hides_no_other, .fini = end)
{
    element_t x = well;
    begin();
    x.weight = INFINITY;
    for (unsigned i = 0; i < 2 * PSD_HEALTH_IN_ROW; i++) /* look() expects the others to be well */
        cr_expect_eq(look(&x), PSD_HEALTH_EXPLODING);
    cr_expect_float_eq(health.tensor[0].update_ratio, 0.002, 1e-12);
    end();
    begin_with("*(clip=0)", 1, 1);
    x = well, x.reached = 0.001;
    cr_expect_eq(look(&x), PSD_HEALTH_EXPLODING, "a group that is not clipped has gradients too large to square");
}

Test(health, steps_that_float32_loses_make_a_tensor_stuck_unless_the_rate_is_0_or_has_faded, .fini = end)
{
    element_t x = well;
    begin();
    x.update = 0, x.rate = 0;
    for (unsigned i = 0; i < 20; i++)
        cr_expect_eq(look(&x), PSD_HEALTH_OK);
    x.rate = 1e-9;
    cr_expect_eq(looks_until(PSD_HEALTH_STUCK, &x), PSD_HEALTH_IN_ROW);
    expect_words("float32 loses", "raise the learning rate");
    look(&well);
    for (unsigned i = 0; i < 20; i++)
        cr_expect_eq(look(&x), PSD_HEALTH_OK, "a schedule has ended at 1e-8 of the rate");
}

Test(health, a_stuck_tensor_whose_gradients_are_negligible_beside_the_others_may_have_no_effect, .fini = end)
{
    element_t x = well;
    begin();
    x.update = 1e-12;
    x.gradient = 1e-7; /* a millionth of the others' */
    cr_expect_eq(looks_until(PSD_HEALTH_STUCK, &x), PSD_HEALTH_IN_ROW);
    expect_words("less than 0.0001 of the model's", "bias before a normalization");
    x.gradient = 1e-4; /* a thousandth */
    cr_expect_eq(look(&x), PSD_HEALTH_STUCK);
    expect_words("although it has gradients", "raise the learning rate");
    x.gradient = 1e-7, x.update = 1e-4; /* adam moves it, however small its gradients are */
    cr_expect_eq(look(&x), PSD_HEALTH_OK);
}

Test(health, a_look_that_a_lost_message_leaves_incomplete_is_dropped_when_a_later_one_is_complete, .fini = end)
{
    const element_t *const all[] = { &well, &well, &well };
    begin_with("", 0, 2);
    cr_expect_not(tell(0, 1, all));
    cr_expect_not(tell(0, 2, all));
    cr_expect_not(tell(0, 2, all), "a repetition");
    cr_expect(tell(1, 2, all));
    cr_expect_not(tell(1, 1, all), "its other half is gone");
    cr_expect_eq(health.looks, 1);
    cr_expect_eq(health.step, 2);
    cr_expect_not(tell(1, 2, all), "it is whole already");
    cr_expect_not(psd_health_take(&health, 1, 3, NULL, 0), "a shard that sends too little");
    cr_expect_not(psd_health_take(&health, 9, 3, NULL, 0), "one that there is not");
    cr_expect_not(tell(0, 3, all), "so server 1 has not sent its part");
}

Test(health, looks_that_are_open_at_once_do_not_mix, .fini = end)
{
    begin_with("", 0, 2);
    for (uint32_t shard = 0; shard < 2; shard++)
        for (uint64_t t = 1; t <= PSD_HEALTH_OPEN; t++) {
            element_t x = well;
            x.weight *= 1 + (double)t;
            const bool whole = tell(shard, t, (const element_t *const[]){ &x, &x, &x });
            cr_expect_eq(whole, shard == 1);
            for (uint32_t i = 0; whole && i < TENSORS; i++)
                cr_expect_float_eq(health.tensor[i].weight_norm, x.weight * sqrt((double)tensors[i].n), 1e-9, "look %u",
                                   (unsigned)t);
        }
}

Test(health, shards_may_be_some_looks_apart_and_a_shard_far_ahead_leaves_the_oldest_incomplete, .fini = end)
{
    const element_t *const all[] = { &well, &well, &well };
    begin_with("", 0, 2);
    for (uint64_t t = 1; t <= PSD_HEALTH_OPEN; t++)
        cr_expect_not(tell(0, t, all));
    for (uint64_t t = 1; t <= PSD_HEALTH_OPEN; t++)
        cr_expect(tell(1, t, all), "look %u", (unsigned)t);
    for (uint64_t t = 11; t <= 11 + PSD_HEALTH_OPEN; t++)
        cr_expect_not(tell(0, t, all));
    cr_expect_not(tell(1, 11, all), "the other half was dropped");
    cr_expect(tell(1, 12, all));
    cr_expect_eq(health.looks, PSD_HEALTH_OPEN + 1);
}

Test(health, the_strip_holds_the_whole_run_and_the_strongest_look_of_each_column, .fini = end)
{
    begin();
    element_t strong = well;
    strong.update = 0.06 * strong.weight;
    for (unsigned i = 0; i < 200; i++)
        look(i == 5 ? &strong : i == 7 ? NULL : &well);
    /* 64 columns became 32, twice and once more before look 129: each holds 4 looks. */
    cr_expect_eq(health.stride, 4);
    cr_expect_eq(health.n_columns, 50);
    cr_expect_eq(health.column[0], 1);
    cr_expect_eq(health.column[1], 401);
    cr_expect_eq(health.column[49], 19601);
    cr_expect_eq(health.tensor[1].strip[0], '7', "0.002 is of the letter from 0.001 on: %c", health.tensor[1].strip[0]);
    cr_expect_eq(health.tensor[1].strip[1], 'a', "0.06: %c", health.tensor[1].strip[1]);
    cr_expect_eq(strlen(PSD_HEALTH_LETTERS), 17);
}

Test(health, each_update_ratio_has_its_letter, .fini = end)
{
    static const double ratios[] = { 5e-7, 2e-6, 5e-6, 2e-5, 5e-5, 2e-4, 5e-4, 2e-3, 5e-3, 0.02, 0.05, 0.2, 0.5, 2, 50 };
    begin();
    step = 9000;
    for (size_t i = 0; i < sizeof ratios / sizeof *ratios; i++) {
        element_t x = well;
        x.update = ratios[i] * x.weight;
        look(&x);
    }
    cr_expect_eq(strncmp(health.tensor[1].strip, "0123456789abcdd", sizeof ratios / sizeof *ratios), 0, "%.15s",
                 health.tensor[1].strip);
}

/* ---- all of it, as tests/golden/report/health.txt has it ---- */

static void print_tensor(FILE *out, uint32_t t)
{
    const psd_health_tensor_t *x = &health.tensor[t];
    char text[PSD_HEALTH_TEXT];
    fprintf(out, "  tensor %u: %s since %lu, before %s; gradient %.5g, weight %.5g, update %.5g, zeros %.5g, reached %.5g\n", t,
            psd_health_state_name(x->state), (unsigned long)x->since, psd_health_state_name(x->told), x->gradient_norm,
            x->weight_norm, x->update_ratio, x->zero_share, x->reached_share);
    fprintf(out, "    rate %.5g of %.5g, grown %.5g, in a row %u %u %u, strip %.*s\n", x->rate, x->most_rate, x->growth, x->n_zeros,
            x->n_tiny, x->n_thrown, (int)health.n_columns, x->strip);
    psd_health_describe(&health, t, text);
    if (*text || x->state != x->told)
        fprintf(out, "    %s, ill %d: %s\n", psd_health_event(x->state), psd_health_is_ill(x->state), text);
}

static void print_health(FILE *out)
{
    double figures[PSD_HEALTH_TOLD * PSD_HEALTH_FIGURES];
    fprintf(out, "look %lu of step %lu: root mean squares %.5g and %.5g;", (unsigned long)health.looks, (unsigned long)health.step,
            health.model_rms, health.gradient_rms);
    for (unsigned s = 0; s < PSD_N_HEALTH_STATES; s++)
        fprintf(out, " %s %u", psd_health_state_name(s), health.in_state[s]);
    fprintf(out, "; column %u from step %lu, %u looks of %u\n  figures", health.n_columns,
            (unsigned long)health.column[health.n_columns - 1], health.in_last, health.stride);
    for (uint32_t i = 0; i < psd_health_figures(&health, figures) * PSD_HEALTH_FIGURES; i++)
        fprintf(out, " %.5g", figures[i]);
    fputc('\n', out);
    for (uint32_t t = 0; t < TENSORS; t++)
        print_tensor(out, t);
}

Test(health, each_state_and_its_sentence_is_as_kept, .fini = end)
{
    static const struct {
        const char *what;
        unsigned looks;
        element_t is; /* no weight: there is no gradient */
    } story[] = {
        { "well", 2, { .gradient = 0.1, .zero = 0.125, .weight = 0.05, .update = 1e-4, .rate = 0.1 } },
        { "gradients of 0", 5, { .zero = 1, .weight = 0.051, .rate = 0.2 } },
        { "no gradients", 2, { .weight = 0 } },
        { "lost in rounding", 5, { .gradient = 0.2, .weight = 0.052, .update = 5.1e-10, .rate = 0.15 } },
        { "noise", 2, { .gradient = 2e-6, .weight = 0.053, .update = 5.2e-10, .rate = 0.14 } },
        { "a rate that has faded", 2, { .gradient = 0.3, .weight = 0.054, .update = 5.2e-10, .rate = 1.9e-4 } },
        { "large steps", 6, { .gradient = 0.4, .weight = 0.055, .update = 0.0165, .rate = 0.3 } },
        { "weights that have grown", 2, { .gradient = 0.5, .weight = 5.5, .update = 0.011, .rate = 0.3 } },
        { "a little smaller", 1, { .gradient = 0.5, .weight = 2.75, .update = 0.011, .rate = 0.3 } },
        { "gradients too large", 2, { .gradient = 2, .reached = 0.0625, .weight = 0.06, .update = 0.001, .rate = 0.3 } },
        { "not finite", 1, { .gradient = 2, .weight = INFINITY, .update = 0.001, .rate = 0.3 } },
        { "a step that is not", 1, { .gradient = 2, .weight = 0.06, .update = INFINITY, .rate = 0.3 } },
        { "well again", 40, { .gradient = 0.1, .weight = 0.07, .update = 3e-5, .rate = 0.1 } },
    };
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    cr_assert_eq(psd_groups_parse(&groups, "sgd(lr=0.1)", "last(freeze=1)", NULL), PSD_OK);
    psd_health_init(&health, &groups, &(psd_clip_t){ 0 });
    cr_assert_eq(psd_health_begin(&health, tensors, (const uint8_t[TENSORS]){ 1, 1, 0 }, TENSORS, 2), PSD_OK);
    step = 0;
    for (size_t i = 0; i < sizeof story / sizeof *story; i++) {
        fprintf(out, "==== %s\n", story[i].what);
        for (unsigned k = 0; k < story[i].looks; k++) {
            element_t first = well;
            first.gradient += 0.01 * k, first.zero = 0.25, first.reached = 0, first.update *= 1 + (double)k, first.rate = 0.125;
            const element_t *const all[] = { &first, story[i].is.weight > 0 ? &story[i].is : NULL, NULL };
            step += step < 8 ? 1 : 50;
            cr_expect_not(tell(1, step, all));
            cr_expect(tell(0, step, all));
            if (k == 0 || k + 1 == story[i].looks)
                print_health(out);
        }
    }
    fclose(out);
    expect_kept("tests/golden/report/health.txt", text);
    free(text);
}
