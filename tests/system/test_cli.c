#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "psd/worker.h"
#include "tests/support/cluster.h"

/* What users see of mistakes: a sentence that names both sides, and the exit code from sysexits.h. */

enum { DONE_MS = 600000 };

static cluster_t cluster;
static cluster_process_t ctl;

static void setup(void)
{
    cluster_open(&cluster);
    ctl.pid = 0;
}

static void teardown(void)
{
    if (ctl.pid)
        kill(ctl.pid, SIGKILL);
    cluster_wait(&ctl, DONE_MS);
    cluster_close(&cluster);
}
TestSuite(cli, .init = setup, .fini = teardown, .timeout = 600);

#define TINY "--data-train=glyphs:200 --data-test=glyphs:50 --data-batch=20 --model-kind=softmax"

/* Check that the process exits with this code, and has printed these words to stderr. */
static void expect_end(cluster_process_t *process, int code, const char *one, const char *other)
{
    cr_expect_eq(cluster_wait(process, DONE_MS), code, "%s ended with %d instead of %d", process->name, process->code, code);
    char *said = cluster_printed(&cluster, process, "err");
    cr_expect(strstr(said, one) && strstr(said, other), "%s lacks \"%s\" or \"%s\" in: %s", process->name, one, other, said);
    free(said);
}

static void write_job(const char *more)
{
    char path[128];
    snprintf(path, sizeof path, "%s/job.yaml", cluster.directory);
    FILE *file = fopen(path, "w");
    fprintf(file,
            "job: tiny\nseed: 1\nservers: 2\nworkers: {min: 2}\noptimizer: \"adam(lr=1e-2)\"\n"
            "model: {kind: softmax}\ndata: {train: \"glyphs:500\", test: \"glyphs:100\", batch: 50}\n%s",
            more);
    fclose(file);
}

Test(cli, a_small_job_file_runs_to_its_summary)
{
    write_job("stop: {epochs: 2}\n");
    cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "run %s/job.yaml --run-dir=%s/run", cluster.directory, cluster.directory);
    expect_end(&ctl, 0, "status http://127.0.0.1:", "");
    char *out = cluster_printed(&cluster, &ctl, "out");
    cr_expect_not_null(strstr(out, "tiny: done\n"), "%s", out);
    cr_expect_not_null(strstr(out, "  steps         20\n"), "%s", out);
    cr_expect_not_null(strstr(out, "  sha256 "), "%s", out);
    free(out);
    char *summary = cluster_file(&cluster, "run/summary-1.json");
    cr_expect_not_null(summary);
    free(summary);
}

Test(cli, a_terminal_has_a_line_with_a_bar_and_the_summary_begins_with_what_people_want)
{
    static const char *const order[] = { "% step 20 epoch 2.00 ", " 2 of 2 workers", "\ntiny: done", "\n  accuracy  ", "\n  time  ",
                                         "\n  kept in  ",         "\n  outcome  " };
    static char out[1 << 16];
    char command[512];
    write_job("stop: {epochs: 2}\n");
    snprintf(command, sizeof command,
             "TERM=xterm script -qec 'stty cols 120; %s/psdctl run %s/job.yaml --run-dir=%s/run' /dev/null </dev/null 2>&1",
             PSD_BIN_DIR, cluster.directory, cluster.directory);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    out[fread(out, 1, sizeof out - 1, pipe)] = '\0';
    cr_expect_eq(pclose(pipe), 0, "%s", out);
    const char *at = out;
    for (size_t i = 0; at && i < sizeof order / sizeof *order; i++) {
        at = strstr(at, order[i]);
        cr_expect_not_null(at, "\"%s\" is not there, or not in its place: %s", order[i], out);
    }
}

Test(cli, a_worker_of_another_job_is_refused_naming_both)
{
    cluster_start_servers(&cluster, 1, "--job=mnist");
    cluster_start_worker(&cluster, TINY " --job=cifar --stop-steps=1");
    expect_end(&cluster.worker[0], 76, "this is job mnist", "you belong to job cifar");
}

Test(cli, a_worker_that_finds_another_protocol_names_the_address)
{
    /* The status port expects HTTP, but a worker sends ZMTP. */
    cluster_start_servers(&cluster, 1, "--job=psd");
    snprintf(cluster.data[0], sizeof cluster.data[0], "tcp%.100s", cluster.status[0] + 4);
    cluster_start_worker(&cluster, TINY " --join-timeout=2s --stop-steps=1");
    expect_end(&cluster.worker[0], 69, "cannot join", cluster.data[0]);
}

Test(cli, a_worker_that_finds_no_server_names_the_address)
{
    strcpy(cluster.data[0], "tcp://127.0.0.1:1");
    cluster_start_worker(&cluster, TINY " --join-timeout=2s --stop-steps=1");
    expect_end(&cluster.worker[0], 69, "cannot join", "tcp://127.0.0.1:1");
}

Test(cli, a_server_with_other_settings_is_refused_naming_both)
{
    cluster_start_server(&cluster, 2, "--optimizer=sgd(lr=0.1)");
    cluster_spawn(&cluster, &cluster.server[1], "server-1", "psd",
                  "--servers=2 --listen=tcp://127.0.0.1:0 --status-listen=none "
                  "--optimizer=sgd(lr=0.2) --join=%s",
                  cluster.data[0]);
    expect_end(&cluster.server[1], 76, "ours servers=2 mode=bsp optimizer=sgd(lr=0.1",
               "theirs servers=2 mode=bsp optimizer=sgd(lr=0.2");
}

Test(cli, a_server_too_many_is_refused)
{
    cluster_start_servers(&cluster, 2, "--optimizer=sgd");
    cluster_spawn(&cluster, &cluster.server[2], "server-2", "psd",
                  "--servers=2 --listen=tcp://127.0.0.1:0 --status-listen=none "
                  "--optimizer=sgd --join=%s",
                  cluster.data[0]);
    expect_end(&cluster.server[2], 76, "one too many", "the job has 2");
}

Test(cli, a_server_for_which_there_is_no_place_in_time_says_so)
{
    cluster_start_servers(&cluster, 2, "--optimizer=sgd");
    cluster_spawn(&cluster, &cluster.server[2], "server-2", "psd",
                  "--servers=2 --listen=tcp://127.0.0.1:0 --status-listen=none --optimizer=sgd --join-timeout=1s --join=%s",
                  cluster.data[0]);
    expect_end(&cluster.server[2], 69, "has no place for this server within 1000 ms: all 2 servers of the job have been heard of",
               "level=error comp=server job=psd id=server.exit code=69 ");
}

Test(cli, a_server_that_is_stopped_says_by_which_signal_and_that_it_is_no_error)
{
    static const struct {
        int number;
        const char *reason;
    } cases[] = { { SIGTERM, "reason=\"SIGTERM before the job was finished\"" },
                  { SIGINT, "reason=\"SIGINT before the job was finished\"" } };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        cluster_start_servers(&cluster, 1, "--optimizer=sgd");
        kill(cluster.server[0].pid, cases[i].number);
        expect_end(&cluster.server[0], 75, "level=info comp=server job=psd id=server.exit code=75 ", cases[i].reason);
        teardown(), setup();
    }
}

Test(cli, a_worker_of_another_shape_is_refused_naming_both)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2");
    cluster_start_worker(&cluster, "--data-train=glyphs:200 --data-test=glyphs:50 --data-batch=20 --model-kind=mlp "
                                   "--model-layers=784,32,10 --stop-steps=1");
    for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
        char *log = cluster_printed(&cluster, &cluster.server[0], "err");
        const bool known = strstr(log, "id=shard.model") != NULL;
        free(log);
        if (known)
            break;
        cr_assert_lt(cluster_now_ms(), end);
    }
    cluster_start_worker(&cluster, "--data-train=glyphs:200 --data-test=glyphs:50 --data-batch=20 --model-kind=mlp "
                                   "--model-layers=784,16,10 --stop-steps=1");
    expect_end(&cluster.worker[1], 76, "[32, 784]", "[16, 784]");
}

Test(cli, an_impossible_configuration_exits_with_78)
{
    strcpy(cluster.data[0], "tcp://127.0.0.1:1");
    cluster_start_worker(&cluster, TINY " --stop-steps=1 --model-layers=783,10");
    expect_end(&cluster.worker[0], 78, "783", "784");
    cluster_spawn(&cluster, &cluster.server[0], "server-0", "psd", "--optimizer=adma --listen=tcp://127.0.0.1:0");
    expect_end(&cluster.server[0], 64, "--optimizer: optimizer: rule, column 1: unknown optimizer 'adma'", "adam");
}

Test(cli, a_port_that_is_taken_is_named)
{
    cluster_start_servers(&cluster, 1, "--job=psd");
    cluster_spawn(&cluster, &cluster.server[1], "server-1", "psd", "--listen=%s --status-listen=none", cluster.data[0]);
    expect_end(&cluster.server[1], 74, cluster.data[0], "in use");
}

/* Processes whose command line contains the test's directory. */
static unsigned count_processes(void)
{
    unsigned n = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(proc));) {
        char path[300], line[4096];
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        FILE *file = *entry->d_name >= '0' && *entry->d_name <= '9' ? fopen(path, "r") : NULL;
        const size_t length = file ? fread(line, 1, sizeof line, file) : 0;
        if (file)
            fclose(file);
        n += memmem(line, length, cluster.directory, strlen(cluster.directory)) != NULL;
    }
    closedir(proc);
    return n;
}

Test(cli, a_server_tells_others_the_address_that_it_was_given)
{
    static const struct {
        const char *given, *told;
        bool own_port; /* the port of its listener */
    } cases[] = { { "ps0", "tcp://ps0", true },
                  { "ps0:9", "tcp://ps0:9", false },
                  { "[::1]", "tcp://[::1]", true },
                  { "[::1]:9", "tcp://[::1]:9", false } };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char told[CLUSTER_TEXT], port[16] = "";
        cluster_start_server(&cluster, 1, "--advertise=%s", cases[i].given);
        char *log = cluster_printed(&cluster, &cluster.server[0], "err");
        cr_assert_eq(sscanf(strstr(log, " listen="), " listen=tcp://127.0.0.1%15[:0-9]", port), 1, "%s", log);
        free(log);
        snprintf(told, sizeof told, "%s%s", cases[i].told, cases[i].own_port ? port : "");
        cr_expect_str_eq(cluster.data[0], told);
        teardown(), setup();
    }
}

Test(cli, sigterm_to_a_run_gives_75_and_leaves_no_child)
{
    write_job("stop: {epochs: 1000000}\n");
    cluster_spawn(&cluster, &ctl, "psdctl", "psdctl", "run %s/job.yaml --run-dir=%s/run", cluster.directory, cluster.directory);
    /* Both workers are in the job when the second has written metrics. */
    for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
        char *metrics = cluster_file(&cluster, "run/metrics-1.jsonl");
        const bool trains = metrics && *metrics;
        free(metrics);
        if (trains)
            break;
        cr_assert_lt(cluster_now_ms(), end);
    }
    cr_assert_eq(count_processes(), 5);
    kill(ctl.pid, SIGTERM);
    cr_expect_eq(cluster_wait(&ctl, DONE_MS), 75);
    cr_expect_eq(count_processes(), 0);
}
