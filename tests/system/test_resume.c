#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/job.h"

/* Jobs under `psdctl run` with checkpoints are stopped and restarted, on more or fewer servers. In any case, the final weights are,
 * bit for bit, those of one process that made the same rounds undisturbed. Checkpoints that do not fit are refused. (tests/chaos
 * has faults at random moments.) */

static job_t job;
static void setup(void) { job_open(&job, 2, 2); }
static void teardown(void) { job_close(&job); }
TestSuite(resume, .init = setup, .fini = teardown, .timeout = 600);

static void expect_said(const char *words)
{
    char *err = cluster_printed(&job.cluster, &job.process, "err");
    cr_expect_not_null(strstr(err, words), "\"%s\" is not in:\n%s", words, err);
    free(err);
}

static void stop_job(void)
{
    kill(job.process.pid, SIGTERM);
    job_expect_code(&job, 75);
}

/* ---- stopped, and started again
 * ---------------------------------------------------------------------------------- */

Test(resume, a_job_that_was_stopped_continues_where_it_was)
{
    enum { STEPS = 1500 };
    job_start(&job, "--stop-steps=%d --checkpoint-every=0s --checkpoint-every-steps=200", STEPS);
    job_await_checkpoint(&job, 400);
    stop_job();
    long long clock = job_checkpoint(&job);
    cr_expect(clock % 200 && clock < STEPS, "the last checkpoint, of round %lld, was made when it was stopped", clock);
    job_start(&job, "--stop-steps=%d", STEPS);
    job_expect_code(&job, 0);
    job_expect_weights(&job, JOB_RULE, STEPS);
    job_start(&job, "--stop-steps=%d", STEPS); /* there is nothing left to do, which is not an error */
    job_expect_code(&job, 0);
    job_expect_weights(&job, JOB_RULE, STEPS);
}

static void stop_and_go_on_with(const char *rule)
{
    enum { STEPS = 2000 }; /* enough for a busy machine to stop it twice before its end */
    static const unsigned servers[] = { 2, 1, 3 };
    teardown(), setup();
    for (unsigned i = 0; i < 3; i++) {
        /* Wait for a checkpoint of the job now started, because a signal before it has started would just end the process. */
        const long long next = job_checkpoint(&job) + 100;
        job_start(&job, "--optimizer=%s --stop-steps=%d --checkpoint-every=0s --checkpoint-every-steps=100 --servers=%u", rule,
                  STEPS, servers[i]);
        if (i < 2) {
            job_await_checkpoint(&job, next);
            stop_job();
        }
    }
    job_expect_code(&job, 0);
    job_expect_weights(&job, rule, STEPS);
}

Test(resume, a_job_continues_with_the_same_bits_on_fewer_servers_and_on_more)
{
    stop_and_go_on_with("sgd(lr=0.05)");
    stop_and_go_on_with("adam(lr=0.002)");
    stop_and_go_on_with("lookahead(radam(lr=0.002),k=5)");
}

/* ---- given up
 * -------------------------------------------------------------------------------------------------------- */

/* Silent for longer than the lease: when it continues, its round has been closed without it, and its place waits for a new
 * process. */
Test(resume, a_worker_that_was_given_up_while_it_was_paused_is_started_again)
{
    enum { STEPS = 1500 };
    job_start(&job, "--stop-steps=%d --checkpoint-every=50ms --log-level=debug", STEPS);
    job_await_checkpoint(&job, 1);
    const pid_t worker = job_child(&job, (job_role_t){ .index = 1 });
    cr_assert_gt(worker, 0);
    kill(worker, SIGSTOP);
    const uint64_t end = cluster_now_ms() + JOB_WAIT_MS;
    for (bool lost = false; !lost; cluster_nap()) {
        char *log = job_server_log(&job, 0);
        lost = strstr(log, "id=worker.lost ");
        free(log);
        cr_assert_leq(cluster_now_ms(), end, "the paused worker was not given up in %d ms", JOB_WAIT_MS);
    }
    kill(worker, SIGCONT);
    job_expect_code(&job, 0);
    expect_said("run.restart role=\"worker 1\" ended=\"ended with 75: ");
    job_expect_weights(&job, JOB_RULE, STEPS);
    job_expect_ledger(&job, STEPS);
}

/* ---- refused
 * ----------------------------------------------------------------------------------------------------- */

static void make_checkpoint(void)
{
    job_start(&job, "--stop-steps=50");
    job_expect_code(&job, 0);
    cr_assert_eq(job_checkpoint(&job), 50);
}

Test(resume, another_optimizer_is_refused_and_both_are_named)
{
    make_checkpoint();
    job_start(&job, "--optimizer=sgd(lr=0.01) --stop-steps=100");
    job_expect_code(&job, 78);
    expect_said(" with mode=bsp optimizer=adam(lr=0.002,");
    expect_said(" with mode=bsp optimizer=sgd(lr=0.01,");
    cr_expect_eq(job_checkpoint(&job), 50, "what was there is still there");
}

Test(resume, another_model_is_refused_and_both_are_named)
{
    make_checkpoint();
    job_start(&job, "--stop-steps=100 --model-layers=784,12,10");
    job_expect_code(&job, 76);
    expect_said("registers another model: its tensor 0 is ");
    expect_said("[16, 784]");
    expect_said("[12, 784]");
}

Test(resume, a_second_job_on_the_directory_of_a_running_one_is_refused)
{
    enum { STEPS = 1500 };
    job_start(&job, "--stop-steps=%d --checkpoint-every=50ms", STEPS);
    job_await_checkpoint(&job, 1);
    job_t second = job;
    job_start(&second, "--stop-steps=%d --run-dir=%s/second", STEPS, job.cluster.directory);
    job_expect_code(&second, 78);
    expect_said("another server 0 makes checkpoints in ");
    job_expect_code(&job, 0);
    job_expect_weights(&job, JOB_RULE, STEPS);
}

/* Change three bytes in the middle of each file that holds weights of `checkpoints` (a pattern). */
static void damage(const char *checkpoints)
{
    char command[256];
    snprintf(command, sizeof command,
             "cd %s/ckpt && for f in %s/*; do printf '\\125\\252\\125' | dd of=$f bs=1 seek=$(($(stat -c %%s $f) / 2)) "
             "conv=notrunc status=none || exit 1; done",
             job.cluster.directory, checkpoints);
    cr_assert_eq(system(command), 0);
}

Test(resume, a_damaged_checkpoint_is_passed_over_for_the_one_before_it)
{
    enum { STEPS = 400 };
    job_start(&job, "--stop-steps=300 --checkpoint-every=0s --checkpoint-every-steps=100");
    job_expect_code(&job, 0);
    cr_assert_eq(job_checkpoint(&job), 300);
    damage("000000000300");
    job_start(&job, "--stop-steps=%d --log-level=debug", STEPS);
    job_expect_code(&job, 0);
    job_expect_weights(&job, JOB_RULE, STEPS);
    char *log = job_server_log(&job, 0);
    /* The one before may be later than 200: steps do not wait for a checkpoint to be written. */
    unsigned long long clock = 0;
    char next[64];
    const char *restart = strstr(log, " from_clock=");
    cr_assert(restart && sscanf(restart, " from_clock=%llu", &clock) == 1 && clock > 0 && clock < 300, "%s", log);
    snprintf(next, sizeof next, "id=push.applied shard=0 clock=%llu ", clock + 1);
    cr_expect_not_null(strstr(log, next), "%s", log);
    free(log);
}

/* If a file of the newest checkpoint is damaged or missing, the log says that it was not used, and why. */
static void expect_passed_over(const char *how, const char *why)
{
    char command[256], words[64];
    const unsigned before = (unsigned)job_checkpoint(&job);
    job_start(&job, "--stop-steps=%u --checkpoint-every=0s --checkpoint-every-steps=20", before + 40);
    job_expect_code(&job, 0);
    snprintf(command, sizeof command, "cd %s/ckpt && n=$(ls -d 0* | tail -n 1) && m=$(ls MANIFEST-* | tail -n 1) && %s",
             job.cluster.directory, how);
    cr_assert_eq(system(command), 0);
    job_start(&job, "--stop-steps=%u --checkpoint-every=0s", before + 50);
    job_expect_code(&job, 0);
    char *log = job_server_log(&job, 0);
    snprintf(words, sizeof words, "id=checkpoint.damaged clock=%u ", before + 40);
    cr_expect(strstr(log, words) && strstr(log, why), "%s: %s", how, log);
    free(log);
}

Test(resume, the_log_says_why_a_damaged_checkpoint_is_not_used)
{
    make_checkpoint();
    expect_passed_over("truncate -s 100 $n/shard-0.safetensors", "shard-0.safetensors");
    expect_passed_over("rm $n/shard-0.safetensors", "shard-0.safetensors: No such file");
    expect_passed_over("echo '{' >$m", "MANIFEST-");
    expect_passed_over(": >$m", "MANIFEST-");
    expect_passed_over("cp $(ls -d 0* | tail -n 2 | head -n 1)/shard-0.safetensors $n/", "shard-0.safetensors");
}

Test(resume, a_directory_with_damaged_checkpoints_only_is_refused_and_left_as_it_is)
{
    make_checkpoint();
    damage("*");
    job_start(&job, "--stop-steps=100");
    job_expect_code(&job, 65);
    expect_said("cannot load the checkpoint of clock 0");
    expect_said("is damaged: its CRC differs");
    expect_said("/ckpt");
    cr_expect_eq(job_checkpoint(&job), 50);
}

/* ---- asked for
 * --------------------------------------------------------------------------------------------------- */

Test(resume, a_signal_to_server_0_makes_a_checkpoint)
{
    job_start(&job, "--stop-steps=1000000 --checkpoint-every=0s");
    job_await_checkpoint(&job, 0);
    const uint64_t end = cluster_now_ms() + JOB_WAIT_MS;
    for (bool closed = false; !closed; cluster_nap()) { /* a round */
        char *metrics = cluster_file(&job.cluster, "run/metrics.jsonl");
        closed = metrics && strchr(metrics, '\n');
        free(metrics);
        cr_assert_leq(cluster_now_ms(), end, "no round was closed in %d ms", JOB_WAIT_MS);
    }
    cr_assert_eq(job_checkpoint(&job), 0);
    pid_t first = job_child(&job, (job_role_t){ true, 0 });
    cr_assert_gt(first, 0);
    kill(first, SIGUSR1);
    job_await_checkpoint(&job, 1);
    cr_expect_leq(cluster_now_ms(), end);
    stop_job();
}
