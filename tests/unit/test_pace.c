#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <math.h>

#include "server/core/pace.h"
#include "tests/support/kept.h"

/* Tests write times in milliseconds. */
#define MS(x) ((uint64_t)(x)*1000000)

static psd_pace_t *pace;

static void setup(void) { cr_assert_not_null(pace = psd_pace_new(true)); }
static void teardown(void) { psd_pace_destroy(&pace); }
TestSuite(pace, .init = setup, .fini = teardown, .timeout = 600);

static psd_pace_facts_t facts(uint32_t worker, uint64_t ms)
{
    psd_pace_facts_t f;
    cr_assert(psd_pace_facts(pace, worker, MS(ms), &f));
    return f;
}

/* One round that begins at `start`: worker w computes for compute_ms[w], then sends for 2 ms; a step takes 1 ms. Returns when it
 * ends. */
static uint64_t play_round(uint64_t start, const uint64_t *compute_ms, uint32_t n)
{
    uint64_t last = 0;
    for (uint64_t t = start; t < start + 1000; t++)
        for (uint32_t w = 0; w < n; w++) {
            if (t == start + compute_ms[w])
                psd_pace_part(pace, w, (double)compute_ms[w] * 1e-3, MS(t));
            if (t == start + compute_ms[w] + 2)
                psd_pace_complete(pace, w, 10, (double)compute_ms[w] * 1e-3, MS(last = t));
        }
    psd_pace_close(pace, MS(last));
    for (uint32_t w = 0; w < n; w++)
        psd_pace_answer(pace, w, MS(last + 1));
    return last + 1;
}

static uint64_t play(uint64_t start, const uint64_t *compute_ms, uint32_t n, uint32_t rounds)
{
    for (uint32_t w = 0; w < n; w++)
        psd_pace_answer(pace, w, MS(start));
    while (rounds--)
        start = play_round(start, compute_ms, n);
    return start;
}

Test(pace, shares_of_time_sum_to_one_and_are_those_of_the_phases)
{
    /* A round takes 40 + 2 + 1 = 43 ms: worker 0 computes 10 of them, sends 2, waits 30, is served 1. */
    uint64_t end = play(1000, (const uint64_t[]){ 10, 40 }, 2, 1000);
    psd_pace_facts_t f = facts(0, end);
    cr_expect_float_eq(f.share[PSD_PHASE_COMPUTING], 10.0 / 43, 2e-3);
    cr_expect_float_eq(f.share[PSD_PHASE_SENDING], 2.0 / 43, 2e-3);
    cr_expect_float_eq(f.share[PSD_PHASE_WAITING], 30.0 / 43, 2e-3);
    cr_expect_float_eq(f.share[PSD_PHASE_SERVING], 1.0 / 43, 2e-3);
    cr_expect_float_eq(f.share[0] + f.share[1] + f.share[2] + f.share[3], 1, 1e-9);
    cr_expect_float_eq(f.compute_s, 0.010, 1e-4);
    cr_expect_float_eq(f.send_s, 0.002, 1e-4);
    cr_expect_float_eq(f.samples_per_s, 10 / 0.043, 1);
}

Test(pace, the_last_worker_is_awaited_from_the_second_last_push_on)
{
    /* Of 43 ms, workers 0 and 1 are there after 12 and 22, worker 2 after 42: they wait 20 ms only for worker 2. */
    uint64_t end = play(1000, (const uint64_t[]){ 10, 20, 40 }, 3, 1000);
    cr_expect_float_eq(facts(2, end).awaited, 20.0 / 43, 2e-3);
    cr_expect_eq(facts(0, end).awaited, 0);
    cr_expect_eq(facts(1, end).awaited, 0);
}

Test(pace, a_worker_that_has_become_fast_is_forgotten_and_one_that_stalls_is_seen_at_once)
{
    uint64_t end = play(1000, (const uint64_t[]){ 10, 40 }, 2, 500);
    cr_assert_gt(facts(1, end).awaited, 0.5);
    end = play(end, (const uint64_t[]){ 10, 10 }, 2, 4000); /* 52 s, of which 5 memories */
    cr_expect_lt(facts(1, end).awaited, 0.01);

    /* Worker 1 pushes, worker 0 does not. */
    psd_pace_part(pace, 1, 0.010, MS(end + 10));
    psd_pace_complete(pace, 1, 10, 0.010, MS(end + 12));
    cr_expect_float_eq(facts(0, end + 512).awaiting_s, 0.5, 1e-9);
    cr_expect_eq(facts(1, end + 512).awaiting_s, 0);
    cr_expect_gt(facts(0, end + 10012).awaited, 0.6); /* 1 - 1/e */
    cr_expect_lt(facts(1, end + 10012).awaited, 0.01);
}

Test(pace, no_worker_is_awaited_in_a_job_of_one_worker_or_before_the_first_push)
{
    uint64_t end = play(1000, (const uint64_t[]){ 10 }, 1, 100);
    cr_expect_eq(facts(0, end).awaited, 0);
    cr_expect_eq(facts(0, end + 5000).awaiting_s, 0);
}

Test(pace, a_round_has_its_time_and_its_barriers)
{
    play(1000, (const uint64_t[]){ 10, 40 }, 2, 2);
    psd_pace_complete(pace, 0, 1, 0.01, MS(1100));
    psd_pace_complete(pace, 1, 1, 0.01, MS(1130));
    psd_pace_round_t round = psd_pace_close(pace, MS(1135));
    cr_expect_float_eq(round.duration_s, (1135 - (1000 + 43 + 42)) * 1e-3, 1e-9);
    cr_expect_float_eq(round.barrier_s, 0.030, 1e-9);
    cr_expect_float_eq(psd_pace_answer(pace, 0, MS(1140)), 0.040, 1e-9);
    cr_expect_lt(psd_pace_answer(pace, 0, MS(1141)), 0, "sent again: that answers nothing");
    psd_pace_complete(pace, 0, 1, 0.01, MS(1150));
    cr_expect_float_eq(psd_pace_answer(pace, 0, MS(1157)), 0.007, 1e-9, "while the round is open");
    psd_pace_t *fresh = psd_pace_new(true);
    cr_expect_lt(psd_pace_close(fresh, MS(1)).duration_s, 0, "the first has none before it");
    psd_pace_destroy(&fresh);
}

Test(pace, in_asp_no_worker_waits_for_others)
{
    psd_pace_t *bsp = pace;
    pace = psd_pace_new(false);
    uint64_t t = 1000;
    psd_pace_answer(pace, 0, MS(t));
    for (int i = 0; i < 1000; i++, t += 20) { /* 14 ms of computing, 1 of sending, 5 in the queue and the step */
        psd_pace_part(pace, 0, 0.014, MS(t + 14));
        psd_pace_complete(pace, 0, 4, 0.014, MS(t + 15));
        psd_pace_close(pace, MS(t + 15));
        psd_pace_answer(pace, 0, MS(t + 20));
    }
    psd_pace_facts_t f = facts(0, t);
    cr_expect_eq(f.share[PSD_PHASE_WAITING], 0);
    cr_expect_float_eq(f.share[PSD_PHASE_SERVING], 0.25, 2e-3);
    cr_expect_eq(f.awaited, 0);
    psd_pace_destroy(&pace);
    pace = bsp;
}

Test(pace, the_way_of_the_weights_does_not_count_as_computing)
{
    /* Worker 1 is behind a slow link: its weights take 400 ms to reach it, its push 30; it computes for 1 ms, as worker 0 does. */
    uint64_t t = 1000;
    for (uint32_t w = 0; w < 2; w++)
        psd_pace_answer(pace, w, MS(t));
    cr_expect_eq(facts(1, t + 200).share[PSD_PHASE_COMPUTING], 0, "it is not known yet that it computes");
    for (int i = 0; i < 200; i++, t += 432) {
        psd_pace_answer(pace, 1, MS(t + 1)); /* chunk by chunk */
        psd_pace_complete(pace, 0, 10, 0.001, MS(t + 2));
        psd_pace_part(pace, 1, 0.001, MS(t + 401));
        psd_pace_complete(pace, 1, 10, 0.001, MS(t + 431));
        psd_pace_close(pace, MS(t + 431));
        psd_pace_answer(pace, 0, MS(t + 432));
        psd_pace_answer(pace, 1, MS(t + 432));
    }
    cr_expect_float_eq(facts(1, t).compute_s, 0.001, 1e-4);
    cr_expect_float_eq(facts(1, t).serve_s, 0.401, 1e-2);
    cr_expect_float_eq(facts(1, t).send_s, 0.030, 1e-3);
    cr_expect_float_eq(facts(0, t).compute_s, 0.001, 1e-4);
    const double before = facts(1, t).compute_s;
    cr_expect_float_eq(facts(1, t + 300).compute_s, before, 1e-4, "on their way, as long as the last time");
    cr_expect_gt(facts(1, t + 1400).compute_s, before, "and then it computes");
}

Test(pace, a_worker_counts_as_computing_from_when_its_weights_arrived_the_last_time)
{
    /* Weights take 100 ms to reach it, and it computes for 300. */
    uint64_t t = 1000;
    psd_pace_answer(pace, 0, MS(t));
    for (int i = 0; i < 200; i++, t += 402) {
        psd_pace_part(pace, 0, 0.3, MS(t + 400));
        psd_pace_complete(pace, 0, 10, 0.3, MS(t + 401));
        psd_pace_close(pace, MS(t + 401));
        psd_pace_answer(pace, 0, MS(t + 402));
    }
    const double before = facts(0, t).compute_s;
    cr_expect_float_eq(before, 0.3, 1e-2);
    cr_expect_float_eq(facts(0, t + 90).compute_s, before, 1e-4);
    cr_expect_gt(facts(0, t + 300).compute_s, before + 0.004, "for 200 ms now, in about 25 pushes");
}

Test(pace, a_reported_computing_time_counts_only_up_to_the_time_that_has_passed)
{
    const double said[] = { 1e9, -1, NAN, INFINITY };
    for (uint32_t w = 0; w < 4; w++) {
        psd_pace_answer(pace, w, MS(1000));
        psd_pace_complete(pace, w, 1, said[w], MS(1010));
        cr_expect_float_eq(facts(w, 1010).compute_s, said[w] > 0 ? 0.010 : 0, 1e-4, "%g", said[w]);
        cr_expect(isfinite(facts(w, 1020).serve_s));
    }
}

Test(pace, a_replacement_has_not_been_awaited_before)
{
    uint64_t end = play(1000, (const uint64_t[]){ 10, 20 }, 2, 100);
    psd_pace_complete(pace, 1, 10, 0.020, MS(end + 20));
    cr_expect_gt(facts(0, end + 30020).awaited, 0.9, "the one before was");
    psd_pace_forget(pace, 0, MS(end + 30020));
    psd_pace_facts_t f;
    cr_expect_not(psd_pace_facts(pace, 0, MS(end + 30020), &f));
    psd_pace_answer(pace, 0, MS(end + 30020));
    cr_expect_float_eq(facts(0, end + 30025).awaiting_s, 0.005, 1e-9);
    psd_pace_complete(pace, 0, 10, 0.019, MS(end + 30040));
    psd_pace_close(pace, MS(end + 30040));
    cr_expect_float_eq(facts(0, end + 30040).compute_s, 0.019, 1e-3);
    psd_pace_answer(pace, 0, MS(end + 30041));
    psd_pace_answer(pace, 1, MS(end + 30041));
    end = play(end + 30041, (const uint64_t[]){ 20, 20 }, 2, 30);
    cr_expect_lt(facts(0, end).awaited, 0.1);
}

Test(pace, a_worker_that_was_never_heard_has_no_facts)
{
    psd_pace_facts_t f;
    cr_expect_not(psd_pace_facts(pace, 7, MS(1), &f));
}

Test(pace, the_push_of_a_worker_that_was_replaced_counts_in_no_later_round)
{
    uint64_t now = play(1000, (const uint64_t[]){ 10, 10 }, 2, 3);
    psd_pace_part(pace, 0, 0.01, MS(now + 10));
    psd_pace_complete(pace, 0, 10, 0.01, MS(now + 12));
    psd_pace_forget(pace, 0, MS(now + 15));
    psd_pace_part(pace, 1, 0.01, MS(now + 20));
    psd_pace_complete(pace, 1, 10, 0.01, MS(now + 22));
    psd_pace_close(pace, MS(now + 22));
    for (uint32_t w = 0; w < 2; w++)
        psd_pace_answer(pace, w, MS(now + 23));
    cr_expect_eq(facts(0, now + 100).awaiting_s, 0, "neither has pushed in this round");
    cr_expect_eq(facts(1, now + 100).awaiting_s, 0);
    psd_pace_part(pace, 0, 0.01, MS(now + 103));
    psd_pace_complete(pace, 0, 10, 0.01, MS(now + 105));
    cr_expect_float_eq(facts(1, now + 205).awaiting_s, 0.1, 1e-9);
    psd_pace_part(pace, 1, 0.01, MS(now + 206));
    psd_pace_complete(pace, 1, 10, 0.01, MS(now + 208));
    cr_expect_float_eq(psd_pace_close(pace, MS(now + 208)).barrier_s, 0.103, 1e-9);
}

/* ---- all of it, as tests/golden/report/pace.txt has it ---- */

/* What is done at `ms`: a worker gets its weights, sends a part, sends its last part, ends and comes again; a round is closed. */
typedef struct deed {
    uint64_t ms;
    char what;
    uint32_t worker;
    uint64_t compute_ms;
} deed_t;

static void print_facts(FILE *out, uint64_t ms)
{
    static const char *const phases[] = { "computing", "sending", "waiting", "serving" };
    for (uint32_t w = 0; w < 3; w++) {
        psd_pace_facts_t f;
        if (!psd_pace_facts(pace, w, MS(ms), &f)) {
            fprintf(out, "  worker %u is not known\n", w);
            continue;
        }
        fprintf(out, "  worker %u %-9s %.5f %.5f %.5f %.5f; per push %.5g, %.5g, %.5g s; %.5g samples/s, awaited %.5f, %.5g s\n", w,
                phases[f.phase], f.share[0], f.share[1], f.share[2], f.share[3], f.compute_s, f.send_s, f.serve_s, f.samples_per_s,
                f.awaited, f.awaiting_s);
    }
}

static void print_story(FILE *out, bool has_rounds, const deed_t *deeds, size_t n)
{
    psd_pace_destroy(&pace);
    cr_assert_not_null(pace = psd_pace_new(has_rounds));
    fprintf(out, "==== %s\n", has_rounds ? "in rounds" : "without rounds");
    for (size_t i = 0; i < n; i++) {
        const deed_t *d = &deeds[i];
        psd_pace_round_t round;
        fprintf(out, "at %lu ms ", (unsigned long)d->ms);
        switch (d->what) {
        case 'a':
            fprintf(out, "worker %u is answered after %.5g s\n", d->worker, psd_pace_answer(pace, d->worker, MS(d->ms)));
            break;
        case 'p':
            fprintf(out, "a part of worker %u, which computed for %lu ms\n", d->worker, (unsigned long)d->compute_ms);
            psd_pace_part(pace, d->worker, (double)d->compute_ms * 1e-3, MS(d->ms));
            break;
        case 'c':
            fprintf(out, "the last part of worker %u, which computed for %lu ms\n", d->worker, (unsigned long)d->compute_ms);
            psd_pace_complete(pace, d->worker, 5 + d->worker, (double)d->compute_ms * 1e-3, MS(d->ms));
            break;
        case 'f':
            fprintf(out, "another life of worker %u\n", d->worker);
            psd_pace_forget(pace, d->worker, MS(d->ms));
            break;
        default:
            round = psd_pace_close(pace, MS(d->ms));
            fprintf(out, "a round is closed, %.5g s after the last, %.5g s from first to last\n", round.duration_s,
                    round.barrier_s);
        }
        print_facts(out, d->ms + 3);
    }
}

Test(pace, where_the_time_of_three_workers_goes_is_as_kept)
{
    static const deed_t rounds[] = {
        { 1000, 'a', 0, 0 },  { 1001, 'a', 1, 0 },   { 1040, 'p', 0, 30 },    { 1044, 'c', 0, 30 },     { 1060, 'a', 2, 0 },
        { 1100, 'c', 1, 70 }, { 1200, 'p', 2, 500 }, { 1207, 'p', 2, 500 },   { 1215, 'c', 2, 500 },    { 1220, 'r', 0, 0 },
        { 1221, 'a', 0, 0 },  { 1222, 'a', 1, 0 },   { 1230, 'a', 2, 0 },     { 1231, 'a', 2, 0 },      { 1300, 'p', 0, 20 },
        { 1299, 'c', 0, 20 }, { 1310, 'p', 1, 60 },  { 1350, 'f', 1, 0 },     { 1360, 'a', 1, 0 },      { 1500, 'c', 2, 200 },
        { 1800, 'c', 1, 0 },  { 1810, 'r', 0, 0 },   { 1812, 'a', 0, 0 },     { 1813, 'a', 2, 0 },      { 1840, 'a', 1, 0 },
        { 1900, 'c', 1, 40 }, { 1930, 'r', 0, 0 },   { 13000, 'c', 0, 9000 }, { 14000, 'c', 2, 11000 }, { 14100, 'c', 1, 7000 },
        { 14100, 'r', 0, 0 },
    };
    static const deed_t steps[] = {
        { 500, 'a', 0, 0 },  { 500, 'a', 1, 0 },  { 530, 'c', 0, 25 }, { 531, 'r', 0, 0 }, { 532, 'a', 0, 0 }, { 560, 'p', 1, 50 },
        { 570, 'c', 0, 30 }, { 580, 'c', 1, 50 }, { 581, 'r', 0, 0 },  { 584, 'a', 1, 0 }, { 590, 'a', 0, 0 }, { 700, 'c', 0, 80 },
    };
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    print_story(out, true, rounds, sizeof rounds / sizeof *rounds);
    print_story(out, false, steps, sizeof steps / sizeof *steps);
    fclose(out);
    expect_kept("tests/golden/report/pace.txt", text);
    free(text);
}
