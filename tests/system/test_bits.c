#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/rng.h"
#include "tests/support/cluster.h"
#include "tests/support/reference.h"

/* The weights' bits depend on the data, the seed, the rule and the number of workers: not on the number of servers, on delays, or
 * on the compiler. SEMANTICS: a bsp cluster is bit-equal to one process that sums the workers' means in rank order. */

enum { DONE_MS = 600000, SEED = 3 };
static const size_t layers[] = { 784, 32, 10 };
#define MODEL "--model-kind=mlp --model-layers=784,32,10 --seed=3"
#define DATA  "--data-train=glyphs:1500 --data-test=glyphs:100 --data-batch=60 --eval-every=0"

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(bits, .init = setup, .fini = teardown, .timeout = 600);

/* The weights of one process after `steps` rounds of `workers`. */
static void expect(const char *rule, uint64_t steps, unsigned workers, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    const reference_config_t config = {
        .data = "glyphs:1500", .kind = "mlp", .layers = layers, .n_layers = 3, .batch = 60, .seed = SEED, .rule = rule
    };
    reference_t *reference = reference_new(&config);
    cr_assert_not_null(reference);
    reference_run(reference, steps, workers);
    reference_hash(reference, fast, slow);
    reference_destroy(&reference);
}

static void start(const char *rule, unsigned servers, unsigned workers, uint64_t steps, const char *more)
{
    cluster_start_servers(&cluster, servers, "--workers-min=%u --optimizer=%s%s", workers, rule, more);
    for (unsigned w = 0; w < workers; w++)
        cluster_start_worker(&cluster, MODEL " " DATA " --stop-steps=%llu --metrics-every=1000000", (unsigned long long)steps);
}

static void check(unsigned workers, const char *fast, const char *slow, const char *what)
{
    for (unsigned w = 0; w < workers; w++)
        cr_expect(cluster_has_weights(&cluster, w, fast, slow), "%s", what);
}

/* 30 rounds are an epoch of 25 and some of the next; the last batch of an epoch is as long as the others
 * here. */
static void compare_layouts(const char *rule)
{
    static const char *const size[] = { " --message-size=4Ki", " --message-size=20000 --net-local=off", "" };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT], what[256];
    for (unsigned workers = 2; workers <= 3; workers++) {
        expect(rule, 30, workers, fast, slow);
        for (unsigned servers = 1; servers <= 3; servers++) {
            snprintf(what, sizeof what, "%s on %u servers with %u workers%s", rule, servers, workers, size[servers - 1]);
            start(rule, servers, workers, 30, size[servers - 1]);
            cluster_finish(&cluster, DONE_MS);
            check(workers, fast, slow, what);
            cluster_close(&cluster);
            cluster_open(&cluster);
        }
    }
}

Test(bits, sgd_is_the_same_on_any_servers) { compare_layouts("sgd(lr=0.1)"); }
Test(bits, adam_is_the_same_on_any_servers) { compare_layouts("adam(lr=0.002)"); }
Test(bits, radam_is_the_same_on_any_servers) { compare_layouts("radam(lr=0.005)"); }
Test(bits, lookahead_is_the_same_on_any_servers) { compare_layouts("lookahead(radam(lr=0.005),k=5)"); }

Test(bits, an_uneven_batch_is_the_same_on_any_servers)
{
    /* 1 500 rows in batches of 7, and every 215th round has 2 rows for 3 workers: one of them has no rows. */
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    const reference_config_t config = {
        .data = "glyphs:1500", .kind = "softmax", .batch = 7, .seed = SEED, .rule = "adagrad(lr=0.05)"
    };
    reference_t *reference = reference_new(&config);
    cr_assert_not_null(reference);
    reference_run(reference, 220, 3);
    reference_hash(reference, fast, slow);
    reference_destroy(&reference);
    cluster_start_servers(&cluster, 2, "--workers-min=3 --optimizer=adagrad(lr=0.05)");
    for (int w = 0; w < 3; w++)
        cluster_start_worker(&cluster, "--model-kind=softmax --seed=3 --data-train=glyphs:1500 --data-test=glyphs:100 "
                                       "--data-batch=7 --eval-every=0 --stop-steps=220 --metrics-every=1000000");
    cluster_finish(&cluster, DONE_MS);
    check(3, fast, slow, "batches of 7");
}

/* Stop a random process for a while, repeatedly, until the workers have ended. Most pauses are short; of the long ones, which make
 * connections time out (1.5 s), some stay just below the lease. */
static void delay_at_random(uint64_t *chance)
{
    for (unsigned pauses = 0;; pauses++) {
        const unsigned all = cluster.n_servers + cluster.n_workers;
        const unsigned i = (unsigned)(psd_splitmix64(chance) % all);
        const cluster_process_t *p = i < cluster.n_servers ? &cluster.server[i] : &cluster.worker[i - cluster.n_servers];
        const bool is_long = psd_splitmix64(chance) % 40 == 0;
        const uint64_t ms = is_long ? 1500 + psd_splitmix64(chance) % 1500 : 1 + psd_splitmix64(chance) % 60;
        const uint64_t rest_ms = psd_splitmix64(chance) % 40;
        if (p->pid && !kill(p->pid, SIGSTOP)) {
            usleep((useconds_t)ms * 1000);
            kill(p->pid, SIGCONT);
        }
        usleep((useconds_t)rest_ms * 1000);
        bool over = true;
        for (unsigned w = 0; w < cluster.n_workers; w++)
            over &= cluster_wait(&cluster.worker[w], 0) >= 0;
        if (over)
            return;
        if (pauses > 5000)
            cluster_give_up(&cluster, "the job does not end");
    }
}

/* Stop it for longer than ZeroMQ's heartbeats allow (1.5 s), so that its connections are lost and made again. */
static void outlive_connections(const cluster_process_t *process)
{
    kill(process->pid, SIGSTOP);
    usleep(2500000);
    kill(process->pid, SIGCONT);
}

Test(bits, connections_that_are_lost_and_made_again_change_nothing)
{
    enum { STEPS = 3000 };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    expect("adam(lr=0.002)", STEPS, 2, fast, slow);
    start("adam(lr=0.002)", 2, 2, STEPS, " --lease=20s");
    cluster_await_steps(&cluster, 1);
    outlive_connections(&cluster.worker[0]);
    cr_assert_eq(cluster_wait(&cluster.worker[0], 0), -1, "the job is over too soon to test anything");
    outlive_connections(&cluster.server[1]);
    cr_assert_eq(cluster_wait(&cluster.worker[0], 0), -1, "the job is over too soon to test anything");
    outlive_connections(&cluster.server[0]);
    cluster_finish(&cluster, DONE_MS);
    check(2, fast, slow, "after pauses of 2.5 s");
}

static void run_delayed(uint64_t seed, const char *bin)
{
    static const char *const rules[] = { "sgd(lr=0.1)", "adam(lr=0.002)", "lookahead(radam(lr=0.005),k=5)" };
    const uint64_t steps = cluster_campaign() ? 1500 : 500;
    uint64_t chance = seed;
    const char *rule = rules[psd_splitmix64(&chance) % 3];
    const unsigned servers = 1 + (unsigned)(psd_splitmix64(&chance) % 3);
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT], what[256];
    snprintf(what, sizeof what, "seed %llu: %s on %u servers of %s", (unsigned long long)seed, rule, servers, bin);
    fprintf(stderr, "%s\n", what);
    expect(rule, steps, 3, fast, slow);
    cluster_close(&cluster);
    cluster.bin = bin;
    cluster_open(&cluster);
    start(rule, servers, 3, steps, " --lease=10s");
    delay_at_random(&chance);
    cluster_finish(&cluster, DONE_MS);
    check(3, fast, slow, what);
}

Test(bits, delays_change_nothing, .timeout = 1800)
{
    const uint64_t seed = cluster_seed(1);
    const char *const other = PSD_BIN_DIR "/../../clang/bin";
    const bool both = cluster_campaign() && access(PSD_BIN_DIR "/../../clang/bin/psd", X_OK) == 0;
    for (uint64_t i = 0; i < (cluster_campaign() ? 20 : 2); i++)
        run_delayed(seed + i, both && i % 2 ? other : PSD_BIN_DIR);
}

Test(bits, another_compiler_gives_the_same)
{
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    static const char *const rules[] = { "sgd(lr=0.1)", "adam(lr=0.002)", "radam(lr=0.005)", "lookahead(radam(lr=0.005),k=5)" };
    if (access(PSD_BIN_DIR "/../../clang/bin/psd-worker", X_OK))
        cr_skip_test("there is no build of the preset clang");
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        expect(rules[i], 30, 2, fast, slow);
        cluster_close(&cluster);
        cluster.bin = PSD_BIN_DIR "/../../clang/bin";
        cluster_open(&cluster);
        start(rules[i], 2, 2, 30, "");
        cluster_finish(&cluster, DONE_MS);
        check(2, fast, slow, rules[i]);
    }
}
