#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "common/base/rng.h"
#include "common/optim/optimizer.h"
#include "deploy/psdctl/inspect/golden.h"
#include "tests/support/codings.h"
#include "tests/support/optim_hash.h"

/* Lion with votes: the workers' half and the servers' half together. */

TestSuite(dlion, .timeout = 600);

enum { N = 1031, WORKERS = 8 };
typedef struct cluster {
    float w[N], m[WORKERS][N], u[WORKERS][N], d[N];
} cluster_t;
static cluster_t cluster;

static psd_rule_t parse(const char *spec)
{
    psd_rule_t rule;
    psd_err_t err = { .text = "" };
    cr_assert_eq(psd_rule_parse(&rule, spec, &err), PSD_OK, "%s: %s", spec, err.text);
    return rule;
}

/* One round: worker k's gradient is g[k], NULL where it is absent; the votes travel by codec sign. */
static void round_of(cluster_t *self, size_t n, const float *const *g, size_t workers, const psd_rule_t *rule, double lr)
{
    const float *votes[WORKERS] = { NULL };
    psd_rule_state_t state = { 0 };
    float *const slot[PSD_MAX_SLOTS] = { NULL };
    for (size_t k = 0; k < workers; k++) {
        if (!g[k])
            continue;
        float sent[N];
        psd_rule_vote(rule, sent, self->m[k], g[k], n);
        there_and_back("sign", sent, NULL, self->u[k], n);
        cr_expect_eq(memcmp(sent, self->u[k], n * sizeof *sent), 0, "a vote arrives as it was");
        votes[k] = self->u[k];
    }
    const psd_plan_t plan = psd_rule_plan(rule, &state, lr);
    psd_rule_sum(rule, self->d, votes, NULL, workers, n);
    psd_rule_apply(rule, &plan, self->w, slot, self->d, n);
}

/* The value of a header's key. */
static double value_of(const psd_golden_case_t *c, const char *key)
{
    char pattern[32];
    snprintf(pattern, sizeof pattern, " %s=", key);
    const char *at = strstr(c->header, pattern);
    cr_assert_not_null(at, "%s has no %s", c->id, key);
    return strtod(at + strlen(pattern), NULL);
}

static void replay(const psd_golden_case_t *c)
{
    const psd_rule_t rule = parse(c->spec);
    double largest[N];
    memset(&cluster, 0, sizeof cluster);
    memcpy(cluster.w, c->w0, c->n * sizeof *c->w0);
    cr_assert(strstr(c->header, "vote=majority") && value_of(c, "workers") <= WORKERS && c->n <= N);
    for (size_t i = 0; i < c->n; i++)
        largest[i] = fabs((double)c->w0[i]);
    for (size_t t = 0; t < c->n_steps; t++) {
        const float *g[WORKERS] = { NULL };
        for (size_t k = 0; k < c->steps[t].n_pushes; k++)
            g[c->steps[t].pushes[k].worker] = c->steps[t].pushes[k].g;
        round_of(&cluster, c->n, g, WORKERS, &rule, c->steps[t].has_lr ? c->steps[t].lr : psd_rule_lr(&rule));
        for (size_t i = 0; i < c->n; i++) {
            largest[i] = fmax(largest[i], fabs(c->steps[t].w[i]));
            cr_expect_leq(fabs((double)cluster.w[i] - c->steps[t].w[i]), c->tol * largest[i] + 1e-30,
                          "%s on %s, step %zu, weight %zu", c->id, psd_isa_name(), t + 1, i);
        }
    }
}

Test(dlion, every_golden_trajectory_is_met_on_every_instruction_set)
{
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        psd_err_t err = { .text = "" };
        size_t cases = 0;
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        FILE *file = fopen(PSD_SOURCE_DIR "/tests/golden/dlion.txt", "r");
        cr_assert_not_null(file);
        psd_golden_t *reader = psd_golden_new(file, "dlion.txt", &err);
        for (psd_golden_case_t *c; psd_golden_next(reader, &c, &err) == PSD_OK && c; psd_golden_case_destroy(&c), cases++)
            replay(c);
        cr_expect_str_eq(err.text, "");
        cr_expect_eq(cases, 2);
        psd_golden_destroy(&reader);
        fclose(file);
    }
}

Test(dlion, one_worker_gives_the_bits_of_lion)
{
    const psd_rule_t rule = parse("lion(lr=0.003, beta1=0.8, beta2=0.97, weight_decay=0.1)"),
                     by_vote = parse("dlion(lr=0.003, beta1=0.8, beta2=0.97, weight_decay=0.1)");
    psd_rule_state_t state;
    static float w[N], m[N], g[N];
    float *const slot[PSD_MAX_SLOTS] = { m };
    for (size_t isa = 0; psd_isa_at(isa); isa++) {
        uint64_t stream = 9;
        cr_assert_eq(psd_isa_select(psd_isa_at(isa), NULL), PSD_OK);
        memset(&cluster, 0, sizeof cluster);
        for (size_t i = 0; i < N; i++)
            w[i] = cluster.w[i] = hash_draw(&stream);
        psd_rule_init(&rule, &state, w, slot, N);
        for (int t = 0; t < 50; t++) {
            for (size_t i = 0; i < N; i++)
                g[i] = hash_draw(&stream);
            const psd_plan_t plan = psd_rule_plan(&rule, &state, 0.003);
            psd_rule_apply(&rule, &plan, w, slot, g, N);
            round_of(&cluster, N, (const float *const[]){ g }, 1, &by_vote, 0.003);
        }
        cr_expect_eq(memcmp(w, cluster.w, sizeof w), 0, "%s", psd_isa_name());
        cr_expect_eq(memcmp(m, cluster.m[0], sizeof m), 0, "%s", psd_isa_name());
    }
}

Test(dlion, a_weight_without_a_gradient_does_not_move_in_ten_thousand_steps)
{
    const psd_rule_t rule = parse("dlion(lr=1e-3)");
    const float g[] = { 0, 1, -0.0f };
    memset(&cluster, 0, sizeof cluster);
    cluster.w[0] = cluster.w[2] = 0.5f;
    for (int t = 0; t < 10000; t++)
        round_of(&cluster, 3, (const float *const[]){ g, g, g }, 3, &rule, 1e-3);
    cr_expect(cluster.w[0] == 0.5f && cluster.w[2] == 0.5f);
    cr_expect_leq(cluster.w[1], -9.9f);
}

Test(dlion, a_tie_is_0_and_an_absent_worker_does_not_vote)
{
    const psd_rule_t majority = parse("dlion"), mean = parse("dlion(mean=1)");
    const float up[] = { 1, 1, 0, -1 }, down[] = { -1, 1, 0, -1 }, none[] = { 0, -1, 0, -1 };
    float d[4];
    psd_rule_sum(&majority, d, (const float *const[]){ up, down }, NULL, 2, 4);
    cr_expect(d[0] == 0 && d[1] == 1 && d[2] == 0 && d[3] == -1);
    psd_rule_sum(&majority, d, (const float *const[]){ up, NULL, down, none }, NULL, 4, 4);
    cr_expect(d[0] == 0 && d[1] == 1 && d[2] == 0 && d[3] == -1);
    psd_rule_sum(&majority, d, (const float *const[]){ NULL, up, NULL }, NULL, 3, 4);
    cr_expect_eq(memcmp(d, up, sizeof up), 0);
    psd_rule_sum(&mean, d, (const float *const[]){ NULL, NULL }, NULL, 2, 4);
    cr_expect(d[0] == 0 && d[1] == 0 && d[2] == 0 && d[3] == 0);
}

Test(dlion, the_mean_is_over_those_that_vote)
{
    const psd_rule_t mean = parse("dlion(mean=1)");
    const float a[] = { 1, 1, 0, -1 }, b[] = { -1, 1, 0, -1 }, c[] = { 1, -1, 0, -1 };
    float d[4];
    psd_rule_sum(&mean, d, (const float *const[]){ a, NULL, b, c }, NULL, 4, 4);
    cr_expect(d[0] == 1.0f / 3 && d[1] == 1.0f / 3 && d[2] == 0 && d[3] == -1);
}

Test(dlion, the_order_of_votes_does_not_matter_where_a_sum_of_shares_would_not_cancel)
{
    const psd_rule_t majority = parse("dlion");
    /* With weights of 1/6 in double, six votes in this order leave 5.6e-17 instead of 0. */
    const float yes = 1, no = -1;
    float d;
    psd_rule_sum(&majority, &d, (const float *const[]){ &yes, &yes, &yes, &no, &no, &no }, NULL, 6, 1);
    cr_expect_eq(d, 0);
}

Test(dlion, a_vote_counts_as_one_at_any_size)
{
    const psd_rule_t majority = parse("dlion");
    const float loud = 1e30f, one = -1, other = -0.5f;
    float d;
    psd_rule_sum(&majority, &d, (const float *const[]){ &loud, &one, &other }, NULL, 3, 1);
    cr_expect_eq(d, -1);
    psd_rule_sum(&majority, &d, (const float *const[]){ &loud }, NULL, 1, 1);
    cr_expect_eq(d, 1);
}
