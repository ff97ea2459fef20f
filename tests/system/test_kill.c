#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "tests/support/cluster.h"
#include "tests/support/ledger.h"
#include "tests/support/reference.h"

/* SIGKILL ends a worker at a random moment of a bsp job. The others continue within the lease plus a second, every shard has
 * applied the same contributors in every round, and the survivors' weights are, bit for bit, those of one process with just these
 * contributors. */

enum { SERVERS = 3, WORKERS = 3, BATCH = 60, SEED = 5, LEASE_MS = 1000, DONE_MS = 600000 };
#define RULE "lookahead(adam(lr=0.002),k=5)"
static const size_t layers[] = { 784, 32, 10 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(kill, .init = setup, .fini = teardown, .timeout = 3000);

/* The contributions that a shard has applied, from its log. */
static void read_ledger(unsigned server, ledger_t *out)
{
    psd_err_t err;
    char *log = cluster_printed(&cluster, &cluster.server[server], "err");
    cr_assert_eq(ledger_read(out, server, log, &err), PSD_OK, "%s", err.text);
    free(log);
}

/* The survivor's longest time without a round, from the last one before `from_ms` (of Unix time) on. */
static double longest_gap_ms(unsigned worker, double from_ms)
{
    char name[32] = "metrics.jsonl";
    if (worker)
        snprintf(name, sizeof name, "metrics-%u.jsonl", worker);
    char *text = cluster_file(&cluster, name);
    double before = 0, longest = 0;
    for (char *rest = text, *line; rest && (line = strsep(&rest, "\n"));) {
        json_t *row = json_loads(line, 0, NULL);
        const double at = json_number_value(json_object_get(row, "ts")) * 1e3;
        if (row && before && at >= from_ms && at - before > longest)
            longest = at - before;
        before = row ? at : before;
        json_decref(row);
    }
    free(text);
    cr_assert_gt(before, from_ms, "no round after the kill");
    return longest;
}

/* Repeat the shards' rounds: the view shrinks with the first round without the dead worker. */
static void recompute(const ledger_t *ledger, unsigned victim, uint64_t rounds, char fast[PSD_SHA256_TEXT],
                      char slow[PSD_SHA256_TEXT])
{
    const reference_config_t config = {
        .data = "glyphs:1500", .kind = "mlp", .layers = layers, .n_layers = 3, .batch = BATCH, .seed = SEED, .rule = RULE
    };
    const unsigned all = (1u << WORKERS) - 1, survivors = all & ~(1u << victim);
    reference_t *reference = reference_new(&config);
    cr_assert_not_null(reference);
    bool alone = false;
    for (uint64_t clock = 1; clock <= rounds; clock++) {
        const unsigned who = ledger->who[clock];
        uint32_t ranks[WORKERS], n = 0;
        cr_assert(who == survivors || (who == all && !alone), "round %llu has contributors %x of victim %u",
                  (unsigned long long)clock, who, victim);
        for (unsigned w = 0; w < WORKERS; w++)
            if (who & 1u << w)
                ranks[n] = alone ? n : w, n++;
        reference_round(reference, clock, alone ? WORKERS - 1 : WORKERS, ranks, n);
        alone |= who == survivors;
    }
    cr_expect(alone, "the victim's work is in every round: it was not killed in time");
    reference_hash(reference, fast, slow);
    reference_destroy(&reference);
}

static double kill_once(uint64_t seed)
{
    ledger_t ledger[SERVERS];
    enum { STEPS = 3000 };
    uint64_t chance = seed;
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    const unsigned victim = (unsigned)(psd_splitmix64(&chance) % WORKERS);
    const uint64_t at_step = 1 + psd_splitmix64(&chance) % 300, more_us = psd_splitmix64(&chance) % 5000;
    double longest = 0;
    cluster_start_servers(&cluster, SERVERS,
                          "--workers-min=1 --workers-want=%d --lease=%dms --log-level=debug "
                          "--optimizer=" RULE,
                          WORKERS, LEASE_MS);
    for (unsigned w = 0; w < WORKERS; w++)
        cluster_start_worker(&cluster,
                             "--model-kind=mlp --model-layers=784,32,10 --seed=%d --data-train=glyphs:1500 "
                             "--data-test=glyphs:100 --data-batch=%d --eval-every=0 --stop-steps=%d",
                             SEED, BATCH, STEPS);
    cluster_await_steps(&cluster, at_step);
    usleep((useconds_t)more_us);
    const double killed_ms = ledger_now_ms();
    kill(cluster.worker[victim].pid, SIGKILL);
    cr_assert_eq(cluster_wait(&cluster.worker[victim], DONE_MS), 128 + SIGKILL, "the job was over before the kill");
    for (unsigned w = 0; w < WORKERS; w++)
        if (w != victim)
            cr_assert_eq(cluster_wait(&cluster.worker[w], DONE_MS), 0, "seed %llu: survivor %u", (unsigned long long)seed, w);
    for (unsigned s = 0; s < SERVERS; s++) {
        cr_assert_eq(cluster_wait(&cluster.server[s], DONE_MS), 0, "seed %llu: server %u", (unsigned long long)seed, s);
        read_ledger(s, &ledger[s]);
        cr_assert_eq(ledger[s].last, STEPS);
        cr_expect_eq(memcmp(ledger[s].who, ledger[0].who, (STEPS + 1) * sizeof *ledger->who), 0,
                     "seed %llu: shards 0 and %u applied different pushes", (unsigned long long)seed, s);
    }
    recompute(&ledger[0], victim, STEPS, fast, slow);
    for (unsigned s = 0; s < SERVERS; s++)
        ledger_clear(&ledger[s]);
    for (unsigned w = 0; w < WORKERS; w++)
        if (w != victim) {
            cr_expect(cluster_has_weights(&cluster, w, fast, slow), "seed %llu", (unsigned long long)seed);
            longest = fmax(longest, longest_gap_ms(w, killed_ms));
        }
    /* On an idle machine little more than the lease; every other end of the wait takes a minute. */
    cr_expect_leq(longest, 20 * LEASE_MS, "seed %llu: the others stood still for %.0f ms", (unsigned long long)seed, longest);
    fprintf(stderr, "seed %llu: worker %u killed after step %llu, longest gap %.0f ms\n", (unsigned long long)seed, victim,
            (unsigned long long)at_step, longest);
    return longest;
}

Test(kill, the_others_continue_and_every_shard_has_the_same_contributors)
{
    const uint64_t seed = cluster_seed(1);
    const unsigned kills = cluster_campaign() ? 50 : 5;
    double worst = 0;
    for (unsigned i = 0; i < kills; i++) {
        worst = fmax(worst, kill_once(seed + i));
        cluster_close(&cluster);
        cluster_open(&cluster);
    }
    fprintf(stderr, "%u kills, longest gap %.0f ms with a lease of %d ms\n", kills, worst, LEASE_MS);
}
