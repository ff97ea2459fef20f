#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/optim/optimizer.h"
#include "tests/support/job.h"

/* Every optimizer, plain and under Lookahead: after 100 rounds on 4 servers all processes are killed, and 100 more are made from
 * the checkpoint on 1, 3 or 7 servers. The weights are those of 200 undisturbed rounds. PSD_CAMPAIGN=1 takes every rule on each
 * number of servers; otherwise one rule in seven, on one of them, by seed. */

enum { HALF = 100, WHOLE = 200, SHARE = 7, RULE = 96 };
static const unsigned servers[] = { 1, 3, 7 };
enum { N_SERVERS = sizeof servers / sizeof *servers };

static job_t job;
TestSuite(rules, .timeout = 3600);

/* Run a line of shell in the job's directory. */
static void shell(const char *line)
{
    char command[512];
    snprintf(command, sizeof command, "cd %s && %s", job.cluster.directory, line);
    cr_assert_eq(system(command), 0, "%s", command);
}

/* Half of the rounds, then a kill of all; later checkpoints do not count. */
static void make_half(const char *rule)
{
    job_open(&job, 4, 2);
    job_start(&job,
              "--optimizer=%s --stop-steps=1000000 --checkpoint-every=0s --checkpoint-every-steps=%d "
              "--checkpoint-keep=1000",
              rule, HALF);
    job_await_checkpoint(&job, HALF);
    kill(job.process.pid, SIGKILL); /* its children end with it */
    cluster_wait(&job.process, JOB_WAIT_MS);
    shell("find ckpt -name 'MANIFEST-*' ! -name 'MANIFEST-000000000100.json' -delete && cp -a ckpt kept");
}

static void go_on_with(const char *rule, unsigned n_servers)
{
    shell("rm -rf ckpt && cp -a kept ckpt");
    job_start(&job, "--optimizer=%s --stop-steps=%d --servers=%u", rule, WHOLE, n_servers);
    job_expect_code(&job, 0);
    job_expect_weights(&job, rule, WHOLE);
}

Test(rules, each_continues_after_the_death_of_all_with_the_bits_of_an_undisturbed_run)
{
    const bool campaign = cluster_campaign();
    const uint64_t turn = cluster_seed((uint64_t)getpid());
    unsigned n_rules = 0, n_jobs = 0;
    for (unsigned i = 0; psd_optimizer_at(i / 2); i++) {
        char rule[RULE];
        snprintf(rule, sizeof rule, "%s%s%s", i % 2 ? "lookahead(" : "", psd_optimizer_at(i / 2)->name, i % 2 ? ",k=7)" : "");
        if ((!campaign && (i + turn) % SHARE) || (i % 2 && psd_optimizer_at(i / 2)->alone))
            continue;
        make_half(rule);
        n_rules++;
        for (unsigned s = 0; s < N_SERVERS; s++)
            if (campaign || s == (i / SHARE + turn) % N_SERVERS)
                go_on_with(rule, servers[s]), n_jobs++;
        job_close(&job);
    }
    printf("%u rules killed after %d rounds on 4 servers, gone on with %u times (seed %llu)\n", n_rules, HALF, n_jobs,
           (unsigned long long)turn);
    fflush(stdout);
}
