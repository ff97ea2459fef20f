#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* `psdctl run` and its children, real processes on loopback. Each test has a directory of its own. */

static char directory[64], output[1 << 16];

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/test_run_XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(run, .init = setup, .fini = teardown, .timeout = 600);

/* Run psdctl with `words`, a shell's; its exit code, and what it wrote in `output`. */
static int psdctl(const char *words)
{
    char command[1024];
    snprintf(command, sizeof command, "cd %s && %s/psdctl %s 2>&1 </dev/null", PSD_SOURCE_DIR, PSD_BIN_DIR, words);
    FILE *pipe = popen(command, "r");
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int run_linear(const char *name, const char *more)
{
    char words[512];
    snprintf(words, sizeof words, "run deploy/examples/linear.yaml --run-dir=%s/%s %s", directory, name, more);
    return psdctl(words);
}

/* The weights' hash in the summary that was printed. */
static void take_hash(char hash[65])
{
    const char *found = strstr(output, "sha256 ");
    cr_assert_not_null(found, "%s", output);
    cr_assert_eq(sscanf(found, "sha256 %64s", hash), 1);
}

/* Processes whose command line names our directory, psdctl included. */
static unsigned count_processes(void)
{
    unsigned n = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(proc));) {
        char path[300], line[4096];
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        FILE *file = *entry->d_name >= '0' && *entry->d_name <= '9' ? fopen(path, "r") : NULL;
        if (!file)
            continue;
        size_t length = fread(line, 1, sizeof line - 1, file);
        fclose(file);
        n += memmem(line, length, directory, strlen(directory)) != NULL;
    }
    closedir(proc);
    return n;
}

/* Wait until so many are there. */
static bool wait_for_processes(unsigned wanted)
{
    for (int i = 0; i < 30000; i++, usleep(10000))
        if (count_processes() == wanted)
            return true;
    return false;
}

/* Start a job too long to end by itself; returns when one server and two workers are there. */
static pid_t start_long_job(void)
{
    char run_dir[128];
    snprintf(run_dir, sizeof run_dir, "--run-dir=%s/long", directory);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        if (chdir(PSD_SOURCE_DIR) == 0)
            execl(PSD_BIN_DIR "/psdctl", "psdctl", "run", "deploy/examples/linear.yaml", "--stop-steps=0",
                  "--stop-epochs=1000000000", "--eval-every=0", run_dir, (char *)NULL);
        _exit(127);
    }
    cr_assert(wait_for_processes(4), "%u processes", count_processes());
    usleep(300000); /* let them join, so that there is a round to end */
    return pid;
}

static int wait_for_code(pid_t pid)
{
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(run, a_job_trains_to_its_end_and_leaves_its_files)
{
    char path[128];
    cr_assert_eq(run_linear("a", ""), 0, "%s", output);
    cr_assert_not_null(strstr(output, "status http://127.0.0.1:"));
    cr_assert_not_null(strstr(output, "linear: done\n"));
    cr_assert_not_null(strstr(output, "  steps         200\n"));
    cr_assert_null(strstr(output, "level=warn"), "nothing went wrong: %s", output);
    static const char *const files[] = { "summary.json", "metrics.jsonl", "logs/server-0.log", "logs/worker-0.log",
                                         "logs/worker-1.log" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/a/%s", directory, files[i]);
        cr_expect_eq(access(path, R_OK), 0, "%s is missing", path);
    }
    cr_assert(wait_for_processes(0));
}

Test(run, the_weights_do_not_depend_on_the_number_of_servers)
{
    char one[65], three[65];
    cr_assert_eq(run_linear("one", ""), 0, "%s", output);
    take_hash(one);
    cr_assert_eq(run_linear("three", "--servers=3"), 0, "%s", output);
    take_hash(three);
    cr_assert_str_eq(one, three);
}

Test(run, a_flag_reaches_the_children)
{
    cr_assert_eq(run_linear("flag", "--optimizer='adam(lr=0.05)' --stop-steps=20 --workers-min=3"), 0, "%s", output);
    cr_assert_not_null(strstr(output, "  steps         20\n"), "%s", output);
    cr_assert_not_null(strstr(output, "  optimizer     adam(lr=0.05"));
    cr_assert_not_null(strstr(output, "  world         3\n"));
}

Test(run, without_rounds_the_learning_rate_is_divided_by_the_workers_and_that_is_said)
{
    cr_assert_eq(run_linear("asp", "--sync-mode=asp --servers=2 --optimizer='sgd(lr=0.1)'"), 0, "%s", output);
    const char *line = strstr(output, "id=asp.lr_rule lr_rule=1/W ");
    cr_assert_not_null(line, "%s", output);
    cr_expect_null(strstr(line + 1, "id=asp.lr_rule"), "once per job: %s", output);
    cr_assert_eq(run_linear("chosen", "--sync-mode=asp --sync-lr-rule=1/W --optimizer='sgd(lr=0.1)'"), 0, "%s", output);
    cr_expect_null(strstr(output, "asp.lr_rule"), "%s", output);
}

Test(run, the_first_child_that_fails_is_named_and_stops_the_others)
{
    cr_assert_eq(run_linear("nodata", "--data-train=csv:/no/such.csv"), 66, "%s", output);
    cr_assert_not_null(strstr(output, "ended with 66: psd-worker: --data-train: /no/such.csv: No such file or directory"), "%s",
                       output);
    cr_assert_not_null(strstr(output, "linear: failed\n"));
    cr_assert(wait_for_processes(0));
}

/* Run psdctl beside programs `psd` and `psd-worker` of our own, which do what `script` says. */
static int run_with_servers_that(const char *script, const char *more)
{
    char command[1024];
    snprintf(command, sizeof command,
             "cd %s && mkdir bin && cp %s/psdctl bin && printf '#!/bin/sh\\n%s\\n' >bin/psd && cp bin/psd "
             "bin/psd-worker && "
             "chmod +x bin/psd* && bin/psdctl run --run-dir=fake --checkpoint-dir=ckpt %s 2>&1 </dev/null",
             directory, PSD_BIN_DIR, script, more);
    FILE *pipe = popen(command, "r");
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(run, what_keeps_dying_is_started_again_as_often_as_allowed_and_its_log_goes_on)
{
    char log[256] = "", path[128];
    cr_assert_eq(run_with_servers_that("echo dying >&2; exit 71", "--restarts=2"), 71, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 0\" ended=\"ended with 71: dying\" left=1\n"), "%s", output);
    cr_expect_not_null(strstr(output, "left=0\n"), "%s", output);
    cr_expect_not_null(strstr(output, "psdctl: server 0 ended with 71: dying; its 2 restarts are used, and before the first it "
                                      "ended with 71: dying\n"),
                       "%s", output);
    snprintf(path, sizeof path, "%s/fake/logs/server-0.log", directory);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    log[fread(log, 1, sizeof log - 1, file)] = '\0';
    fclose(file);
    cr_expect_str_eq(log, "dying\ndying\ndying\n");
}

Test(run, what_would_fail_again_is_not_started_again)
{
    static const int codes[] = { 64, 65, 66, 76, 77, 78 };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        char script[32];
        teardown(), setup();
        snprintf(script, sizeof script, "exit %d", codes[i]);
        cr_assert_eq(run_with_servers_that(script, ""), codes[i], "%s", output);
        cr_expect_null(strstr(output, "run.restart"), "%s", output);
    }
}

Test(run, without_checkpoints_a_lost_server_ends_the_job)
{
    cr_assert_eq(run_with_servers_that("kill -9 $$", "--checkpoint-dir="), 1, "%s", output);
    cr_expect_not_null(strstr(output, "psdctl: server 0 was killed by signal 9 (Killed)\n"), "%s", output);
}

/* A server that says it is ready. */
#define READY "echo psd ready shard=0/1 data=tcp://127.0.0.1:1 status=none job=psd; "

Test(run, a_server_that_dies_after_the_last_worker_has_finished_does_no_harm)
{
    cr_assert_eq(run_with_servers_that("case $0 in *worker) exit 0;; *) " READY "sleep 0.5; kill -9 $$;; esac", ""), 0, "%s",
                 output);
    cr_expect_not_null(strstr(output, "run.late role=\"server 0\""), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that("case $0 in *worker) exit 0;; *) " READY "sleep 0.5; kill -9 $$;; esac", "--sync-mode=asp"),
                 1, "without rounds the last pushes are lost: %s", output);
}

Test(run, a_worker_that_comes_back_when_the_servers_are_finished_is_no_failure)
{
    cr_assert_eq(run_with_servers_that("case $0 in *worker) mkdir once && kill -9 $$; exit 76;; *) " READY "sleep 1;; esac", ""), 0,
                 "%s", output);
    cr_expect_not_null(strstr(output, "run.late role=\"worker 0\" ended=\"ended with 76"), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that("case $0 in *worker) exit 76;; *) " READY "sleep 60;; esac", ""), 76,
                 "at its first start a refusal is one: %s", output);
}

Test(run, a_lost_worker_is_let_be_where_the_policy_says_so_as_long_as_enough_are_left)
{
#define ONE_DIES "case $0 in *worker) mkdir once && kill -9 $$; sleep 0.5;; *) " READY "sleep 1.5;; esac"
    cr_assert_eq(run_with_servers_that(ONE_DIES, "--workers-min=1 --workers-want=2 --workers-lost=drop"), 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.dropped role=\"worker "), "%s", output);
    cr_expect_null(strstr(output, "run.restart"), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that(ONE_DIES, "--workers-min=2 --workers-lost=drop"), 1, "%s", output);
    cr_expect_not_null(strstr(output, "was killed by signal 9"), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that(ONE_DIES, "--workers-min=1 --workers-want=2"), 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"worker "), "%s", output);
}

Test(run, who_ended_well_is_needed_again_when_a_server_is_lost)
{
    cr_assert_eq(run_with_servers_that("case $0/$* in *worker/*) sleep 2;; *index=1*) " READY ";; *) " READY
                                       "sleep 1; mkdir once && kill -9 $$; exit 0;; esac",
                                       "--servers=2"),
                 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 0\""), "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 1\" ended=\"well, but is needed again\""), "%s", output);
}

Test(run, who_ended_well_by_the_word_of_a_server_that_died_meanwhile_is_needed_again)
{
#define RUN(n) "echo psd ready shard=0/1 data=tcp://127.0.0.1:1 status=none job=psd run=" #n "; "
    cr_assert_eq(
        run_with_servers_that("case $0/$* in *worker/*) sleep 3;; *index=1*) mkdir two && { " RUN(a) "sleep 1.2; exit 0; }; " RUN(
                                  b) "sleep 1.5;; *) mkdir once && { " RUN(a) "sleep 0.6; kill -9 $$; }; " RUN(b) "sleep 3;; esac",
                              "--servers=2"),
        0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 1\" ended=\"well, but is needed again\""), "%s", output);
}

Test(run, a_target_that_is_not_met_fails_the_job)
{
    cr_assert_eq(run_linear("target", "--stop-target=0.000001 --stop-steps=5"), 1, "%s", output);
}

Test(run, sigint_ends_the_round_and_gives_75)
{
    pid_t pid = start_long_job();
    kill(pid, SIGINT);
    cr_assert_eq(wait_for_code(pid), 75);
    cr_assert(wait_for_processes(0));
}

Test(run, the_children_die_with_psdctl)
{
    pid_t pid = start_long_job();
    kill(pid, SIGKILL);
    wait_for_code(pid);
    cr_assert(wait_for_processes(0), "%u processes outlive psdctl", count_processes());
}

Test(run, config_says_what_each_option_is_and_where_from)
{
    cr_assert_eq(psdctl("config show deploy/examples/linear.yaml --servers=3"), 0, "%s", output);
    cr_assert_not_null(strstr(output, "servers = 3                                  # --servers\n"), "%s", output);
    cr_assert_not_null(strstr(output, "# deploy/examples/linear.yaml:7:12\n"), "%s", output);
    cr_assert_not_null(strstr(output, "lease = 3s                                   # default\n"));
    cr_assert_eq(psdctl("config --markdown"), 0);
    cr_assert_not_null(strstr(output, "| `data.batch` | full or 1 to "));
    cr_assert_eq(psdctl("config show tests/fuzz/corpus/fuzz_options/broken"), 78);
    cr_assert_not_null(strstr(output, "broken:1:10: servers is 257; it takes 1 to 256"));
}

Test(run, wrong_words_are_wrong_usage)
{
    cr_assert_eq(psdctl(""), 64);
    cr_assert_not_null(strstr(output, "Usage: psdctl VERB"));
    cr_assert_eq(psdctl("frobnicate"), 64);
    cr_assert_not_null(strstr(output, "there is no verb frobnicate"));
    cr_assert_eq(psdctl("run --frobnicate"), 64);
    cr_assert_eq(psdctl("run /no/such/job.yaml"), 66);
    cr_assert_eq(psdctl("help"), 0);
    cr_assert_eq(psdctl("help run"), 0);
    cr_assert_not_null(strstr(output, "Usage: psdctl run [OPTION...] [JOB]"));
    cr_assert_eq(psdctl("--version"), 0);
    cr_assert_eq(psdctl("status 127.0.0.1:1"), 69);
    cr_assert_eq(psdctl("status nowhere"), 64);
    cr_assert_eq(psdctl("status --what"), 64);
}
