#include <criterion/criterion.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/job.h"
#include "tests/support/reference.h"

/* Rounds that make one step together (sync.accumulate). Whatever faults occur between them, a step uses all of them, each once: the
 * weights at the end are, bit for bit, those of one process that adds up the same gradients in the order of rounds, then ranks. */

static job_t job;
static cluster_t cluster; /* for one server and one worker */
static void setup(void) { job_open(&job, 2, 2); }
static void teardown(void) { job_close(&job); }
TestSuite(accumulate, .init = setup, .fini = teardown, .timeout = 900);

static json_t *summary(void)
{
    char *text = cluster_file(&job.cluster, "run/summary.json");
    json_t *root = json_loads(text ? text : "", 0, NULL);
    cr_assert_not_null(root);
    free(text);
    return root;
}

static long long of_summary(const char *key)
{
    json_t *root = summary();
    const long long value = json_integer_value(json_object_get(root, key));
    json_decref(root);
    return value;
}

/* One worker's four rounds of 32 rows are the four workers' shares of one round of 128 rows. */
Test(accumulate, four_rounds_of_32_rows_are_one_round_of_four_workers)
{
    enum { STEPS = 30 }; /* more than two epochs of 12 */
    static const size_t layers[] = { 784, 32, 10 };
    const char *const rules[] = { "sgd(lr=0.1,momentum=0.9)", "lookahead(adamw(lr=0.002),k=4)", "lamb(lr=0.01)" };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
        const reference_config_t oracle = {
            .data = "glyphs:1536", .kind = "mlp", .layers = layers, .n_layers = 3, .batch = 128, .seed = 9, .rule = rules[i]
        };
        cr_assert(reference_undisturbed(&oracle, STEPS, 4, fast, slow));
        for (unsigned servers = 1; servers <= 3; servers++) {
            cluster_open(&cluster);
            cluster_start_servers(&cluster, servers, "--workers-min=1 --optimizer=%s --sync-accumulate=4", rules[i]);
            cluster_start_worker(&cluster,
                                 "--model-kind=mlp --model-layers=784,32,10 --seed=9 --data-train=glyphs:1536 --data-batch=32 "
                                 "--eval-every=0 --stop-steps=%d",
                                 STEPS);
            cluster_finish(&cluster, JOB_DONE_MS);
            cr_expect(cluster_has_weights(&cluster, 0, fast, slow), "%s on %u servers", rules[i], servers);
            cluster_close(&cluster);
        }
    }
}

static void kill_child(job_role_t role)
{
    const pid_t pid = job_child(&job, role);
    if (pid > 0)
        kill(pid, SIGKILL);
}

/* Seven rounds make a step, so that nearly every kill and every stop falls between the rounds of a step. */
Test(accumulate, killed_stopped_and_resumed_on_other_servers_between_the_rounds_of_a_step_it_ends_with_the_same_bits)
{
    enum { ROUNDS = 7, STEPS = 800 /* so many that the job outlasts the waits below on a busy machine */ };
    const char *const rule = "lookahead(adamw(lr=0.002),k=5)";
    static const unsigned servers[] = { 2, 1, 3 };
    job.accumulate = ROUNDS;
    for (unsigned i = 0; i < 3; i++) {
        const long long next = job_checkpoint(&job) + 10 * ROUNDS;
        job_start(
            &job,
            "--optimizer=%s --sync-accumulate=%d --stop-steps=%d --checkpoint-every=0s --checkpoint-every-steps=10 --servers=%u",
            rule, ROUNDS, STEPS, servers[i]);
        job_await_checkpoint(&job, next);
        kill_child((job_role_t){ .index = 1 });
        if (i == 2)
            kill_child((job_role_t){ true, 1 });
        if (i == 2)
            break;
        job_await_checkpoint(&job, job_checkpoint(&job) + 10 * ROUNDS);
        kill(job.process.pid, SIGTERM);
        job_expect_code(&job, 75);
        cr_expect_eq(job_checkpoint(&job) % ROUNDS, 0, "a checkpoint between the rounds of a step is of its beginning");
    }
    job_expect_code(&job, 0);
    job_expect_weights(&job, rule, ROUNDS * STEPS);
    cr_expect_eq(of_summary("steps"), STEPS);
}

Test(accumulate, steps_are_those_of_the_optimizer_and_the_last_one_of_the_epochs_is_whole)
{
    /* 1 000 rows in batches of 64 are 16 rounds; 20 of them make 5 steps of 4, and 16 make 4. */
    job_start(&job, "--data-train=glyphs:1000 --data-batch=64 --sync-accumulate=4 --stop-steps=5 --metrics-every=1");
    job_expect_code(&job, 0);
    cr_expect(of_summary("steps") == 5 && of_summary("rounds") == 20 && of_summary("skipped") == 0);
    char *metrics = cluster_file(&job.cluster, "run/metrics.jsonl");
    unsigned lines = 0;
    for (const char *at = metrics; at && (at = strstr(at, "\"train/loss\"")); at++)
        lines++;
    free(metrics);
    cr_expect_eq(lines, 5, "a line of metrics for each step, not for each round: %u", lines);
    teardown(), setup();
    job_start(&job, "--data-train=glyphs:1000 --data-batch=64 --sync-accumulate=3 --stop-epochs=1");
    job_expect_code(&job, 0);
    cr_expect(of_summary("steps") == 6 && of_summary("rounds") == 18, "16 rounds are filled up to 6 steps of 3");
}
