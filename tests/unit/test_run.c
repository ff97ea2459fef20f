#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* `psdctl run` and its children, real processes on loopback. Each test has its own directory. */

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

/* Run psdctl with `words`, as in a shell; returns its exit code, with its output in `output`. */
static int psdctl(const char *words)
{
    char command[2048];
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

/* Wait until there are `wanted` of them. */
static bool wait_for_processes(unsigned wanted)
{
    for (int i = 0; i < 30000; i++, usleep(10000))
        if (count_processes() == wanted)
            return true;
    return false;
}

/* The status address that a job has printed to `path`; waits until it is there. */
static void await_address(const char *path, char url[64])
{
    char text[4096];
    for (int i = 0; i < 30000; i++, usleep(10000)) {
        FILE *file = fopen(path, "r");
        text[file ? fread(text, 1, sizeof text - 1, file) : 0] = '\0';
        if (file)
            fclose(file);
        const char *at = strstr(text, "status http://");
        if (at && strchr(at, '\n') && sscanf(at, "status %63s", url) == 1)
            return;
    }
    cr_assert_fail("the job has no address: %s", text);
}

/* Start a job that is too long to end by itself; returns when one server and two workers have closed a round. */
static pid_t start_long_job(void)
{
    char run_dir[128], said[128], url[64], words[128];
    snprintf(run_dir, sizeof run_dir, "--run-dir=%s/long", directory);
    snprintf(said, sizeof said, "%s/said", directory);
    pid_t pid = fork();
    if (pid == 0) {
        int file = open(said, O_WRONLY | O_CREAT, 0600);
        dup2(file, 1);
        dup2(file, 2);
        if (chdir(PSD_SOURCE_DIR) == 0)
            execl(PSD_BIN_DIR "/psdctl", "psdctl", "run", "deploy/examples/linear.yaml", "--stop-steps=0",
                  "--stop-epochs=1000000000", "--eval-every=0", run_dir, (char *)NULL);
        _exit(127);
    }
    cr_assert(wait_for_processes(4), "%u processes", count_processes());
    await_address(said, url);
    snprintf(words, sizeof words, "wait --for=step=1 --timeout=300 %s", url);
    cr_assert_eq(psdctl(words), 0, "%s", output);
    return pid;
}

static int wait_for_code(pid_t pid)
{
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The last line of worker 0's log has the numbers of its summary, in the run of this name. */
static void expect_result_line(const char *name, const char *outcome)
{
    char path[160], text[1 << 16], wanted[600];
    snprintf(path, sizeof path, "%s/%s/summary.json", directory, name);
    json_t *summary = json_load_file(path, 0, NULL);
    cr_assert_not_null(summary, "%s", path);
    const json_t *metric = json_object_get(summary, "last_metric"), *loss = json_object_get(summary, "last_loss");
    size_t n = (size_t)snprintf(
        wanted, sizeof wanted, "\n%s run=%s steps=%lld epochs=%.6g samples=%lld seconds=%.3f", outcome,
        json_string_value(json_object_get(summary, "run")), (long long)json_integer_value(json_object_get(summary, "steps")),
        json_number_value(json_object_get(summary, "epochs")), (long long)json_integer_value(json_object_get(summary, "samples")),
        json_number_value(json_object_get(summary, "wall_time_s")));
    if (json_is_number(loss))
        n += (size_t)snprintf(wanted + n, sizeof wanted - n, " train_loss=%.6g", json_number_value(loss));
    if (json_is_number(metric))
        n += (size_t)snprintf(wanted + n, sizeof wanted - n, " val_%s=%.6g", json_string_value(json_object_get(summary, "metric")),
                              json_number_value(metric));
    static const char *const hashes[] = { "sha256", "sha256_slow" };
    for (size_t i = 0; i < 2; i++)
        if (json_is_string(json_object_get(summary, hashes[i])))
            n += (size_t)snprintf(wanted + n, sizeof wanted - n, " %s=%s", hashes[i],
                                  json_string_value(json_object_get(summary, hashes[i])));
    snprintf(wanted + n, sizeof wanted - n, " rank=%lld\n", (long long)json_integer_value(json_object_get(summary, "rank")));
    json_decref(summary);
    snprintf(path, sizeof path, "%s/%s/logs/worker-0.log", directory, name);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    cr_expect_not_null(strstr(text, wanted), "no%s in:\n%s", wanted, text);
}

Test(run, a_job_trains_to_its_end_and_leaves_its_files)
{
    char path[128];
    cr_assert_eq(run_linear("a", "--optimizer='lookahead(sgd(lr=0.1))'"), 0, "%s", output);
    expect_result_line("a", "done");
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

Test(run, the_best_score_is_printed_beside_the_last)
{
    char words[256], path[128], summary[8192] = "", line[128];
    double last, best;
    snprintf(words, sizeof words,
             "run --model-kind=softmax --data-train=glyphs:300 --data-test=glyphs:100 --data-batch=30 --stop-epochs=6 "
             "--optimizer='sgd(lr=1, momentum=0.9)' --run-dir=%s/a",
             directory);
    cr_assert_eq(psdctl(words), 0, "%s", output);
    snprintf(path, sizeof path, "%s/a/summary.json", directory);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    summary[fread(summary, 1, sizeof summary - 1, file)] = '\0';
    fclose(file);
    const char *at[] = { strstr(summary, "\"last_metric\": "), strstr(summary, "\"best_metric\": ") };
    cr_assert(at[0] && at[1] && sscanf(at[0], "\"last_metric\": %lf", &last) == 1 &&
              sscanf(at[1], "\"best_metric\": %lf", &best) == 1);
    cr_assert_gt(best, last, "with so high a rate");
    snprintf(line, sizeof line, "\n  accuracy      %.6g (best %.6g)\n", last, best);
    cr_expect_not_null(strstr(output, line), "%s is not in %s", line, output);
}

static void print_numbers(FILE *out, json_t *numbers)
{
    const char *key;
    json_t *value;
    json_object_foreach(numbers, key, value) fprintf(out, " %s %.6g", key, json_number_value(value));
}

Test(run, what_is_printed_at_the_end_is_the_summary_in_its_order_without_what_is_for_programs)
{
    static const char *const shown[] = { "outcome",   "run",           "world",          "steps",        "rounds",
                                         "skipped",   "epochs",        "samples",        "job_samples",  "samples_per_s",
                                         "last_loss", "last_val_loss", "holdout_metric", "test_metrics", "holdout_metrics",
                                         "sha256",    "sha256_slow",   "optimizer" };
    char words[512], path[128], *want;
    size_t n;
    snprintf(
        words, sizeof words,
        "run --job=whole --model-kind=softmax --data-train=glyphs:300 --data-test=glyphs:100 --data-validation=0.2 --data-batch=30 "
        "--stop-epochs=2 --workers-min=2 --optimizer='lookahead(sgd(lr=1, momentum=0.9),k=2)' --run-dir=%s/a",
        directory);
    cr_assert_eq(psdctl(words), 0, "%s", output);
    snprintf(path, sizeof path, "%s/a/summary.json", directory);
    json_t *summary = json_load_file(path, 0, NULL);
    cr_assert_not_null(summary);
    FILE *out = open_memstream(&want, &n);
    fprintf(out, "whole: done\n  accuracy      %.6g (best %.6g)\n  time          %.3f s\n  kept in       %s/a\n",
            json_number_value(json_object_get(summary, "last_metric")), json_number_value(json_object_get(summary, "best_metric")),
            json_number_value(json_object_get(summary, "wall_time_s")), directory);
    if (json_integer_value(json_object_get(summary, "worker")))
        fprintf(out, "  worker        1, whose summary this is\n");
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        json_t *value = json_object_get(summary, shown[i]);
        cr_assert(value && !json_is_null(value), "%s", shown[i]);
        fprintf(out, "  %-13.*s", json_is_object(value) ? (int)strcspn(shown[i], "_") : 100, shown[i]);
        if (json_is_object(value))
            print_numbers(out, value);
        else if (json_is_string(value))
            fprintf(out, " %s", json_string_value(value));
        else
            fprintf(out, " %.6g", json_number_value(value));
        fputc('\n', out);
    }
    fclose(out);
    const char *end = strstr(output, "\nwhole: done\n");
    cr_assert_not_null(end, "%s", output);
    cr_expect_str_eq(end + 1, want);
    cr_expect_eq(json_integer_value(json_object_get(summary, "world")), 2);
    json_decref(summary);
    free(want);
}

static bool is_there(const char *name)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return access(path, F_OK) == 0;
}

/* The number behind `key` in the summary of a run; NaN: null. */
static double in_summary(const char *name, const char *key)
{
    char path[160], text[8192] = "", wanted[64];
    double value = NAN;
    snprintf(path, sizeof path, "%s/%s/summary.json", directory, name);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s is missing", path);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    snprintf(wanted, sizeof wanted, "\"%s\": ", key);
    const char *at = strstr(text, wanted);
    cr_assert_not_null(at, "%s is not in %s", key, text);
    sscanf(at + strlen(wanted), "%lf", &value);
    return value;
}

Test(run, held_out_rows_are_judged_beside_a_test_set_and_in_place_of_one)
{
    char words[256];
    snprintf(words, sizeof words,
             "run --model-kind=softmax --data-train=glyphs:300 --data-test=glyphs:100 --data-validation=0.2 --stop-epochs=1 "
             "--run-dir=%s/both",
             directory);
    cr_assert_eq(psdctl(words), 0, "%s", output);
    cr_expect_eq(in_summary("both", "test_rows"), 100);
    cr_expect(in_summary("both", "holdout_metric") >= 0);
    cr_expect_eq(in_summary("both", "holdout_rows"), 60);
    cr_expect_null(strstr(output, "holdout_rows"), "it is for programs: %s", output);
    cr_expect(in_summary("both", "holdout_chance_metric") > 0);
    cr_expect_eq(in_summary("both", "job_samples"), 240, "they are not trained on");
    cr_assert_eq(run_linear("one", "--data-validation=0.25 --data-test='' --stop-steps=5"), 0, "%s", output);
    cr_expect_eq(in_summary("one", "test_rows"), 50);
    cr_expect(isnan(in_summary("one", "holdout_metric")));
}

Test(run, the_results_of_an_earlier_run_in_the_directory_are_set_aside_of_every_worker)
{
    cr_assert_eq(run_linear("a", "--stop-steps=20"), 0, "%s", output);
    cr_assert(is_there("a/summary.json") && is_there("a/summary-1.json"), "of two workers");
    cr_assert_eq(run_linear("a", "--data-train=csv:/no/such.csv"), 66, "%s", output);
    cr_expect(!is_there("a/summary.json") && !is_there("a/summary-1.json"), "this run has none");
    cr_expect(is_there("a/summary.json.before") && is_there("a/summary-1.json.before"));
    cr_expect_null(strstr(output, "  steps "), "%s", output);
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

Test(run, a_schedule_that_does_not_fit_the_job_is_warned_of_once)
{
    cr_assert_eq(run_linear("doubt", "--schedule='linear(steps=9, warmup=20)' --stop-steps=20 --workers-min=2"), 0, "%s", output);
    const char *line = strstr(output, "id=schedule.doubt schedule=");
    cr_assert_not_null(line, "%s", output);
    cr_expect_not_null(strstr(line, "the warm-up takes 20 steps, but the job ends after 20"), "%s", output);
    cr_expect_null(strstr(line + 1, "id=schedule.doubt"), "once per job: %s", output);
    cr_assert_eq(run_linear("fits", "--schedule='linear(steps=18, warmup=2)' --stop-steps=20"), 0, "%s", output);
    cr_expect_null(strstr(output, "schedule.doubt"), "%s", output);
}

Test(run, without_rounds_the_learning_rate_is_divided_by_the_workers_and_that_is_logged)
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

/* The first lines of our scripts. Each process leaves its process id: `come s 2` waits until two server processes have started,
 * `gone w 1` until one worker process has ended and psdctl has noticed, because only then its id is gone. */
static const char lives[] = "#!/bin/sh\n"
                            "count() {\n"
                            "    n=0\n"
                            "    for life in lives/$2.*; do [ ! -e $life ] || $1 ${life##*.} || n=$((n + 1)); done\n"
                            "}\n"
                            "is_here() { kill -0 $1 2>/dev/null; }\n"
                            "come() { while count false $1; [ $n -lt $2 ]; do sleep 0.01; done; }\n"
                            "gone() { while count is_here $1; [ $n -lt $2 ]; do sleep 0.01; done; }\n"
                            "case $0 in *worker) me=w ;; *) me=s ;; esac\n"
                            "mkdir -p lives && : >lives/$me.$$\n";

/* Run psdctl with our own programs `psd` and `psd-worker`, which run `script`. */
static int run_with_servers_that(const char *script, const char *more)
{
    char command[1024], path[128];
    snprintf(path, sizeof path, "%s/script", directory);
    FILE *file = fopen(path, "w");
    cr_assert(file && fprintf(file, "%s%s\n", lives, script) > 0 && fclose(file) == 0);
    snprintf(command, sizeof command,
             "cd %s && mkdir bin && cp %s/psdctl bin && cp script bin/psd && cp script bin/psd-worker && "
             "chmod +x bin/psd* && bin/psdctl run --run-dir=fake --checkpoint-dir=ckpt %s 2>&1 </dev/null",
             directory, PSD_BIN_DIR, more);
    FILE *pipe = popen(command, "r");
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(run, a_process_that_keeps_dying_is_restarted_as_often_as_allowed_and_its_log_continues)
{
    char log[256] = "", path[128], script[200];
    snprintf(script, sizeof script, "echo >>%s/starts; echo dying $(wc -l <%s/starts) >&2; exit 71", directory, directory);
    cr_assert_eq(run_with_servers_that(script, "--restarts=2"), 71, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 0\" ended=\"ended with 71: dying 1\" left=1\n"), "%s", output);
    cr_expect_not_null(strstr(output, "left=0\n"), "%s", output);
    cr_expect_not_null(strstr(output, "psdctl: server 0 ended with 71: dying 3; its 2 restarts are used up; before the first it "
                                      "ended with 71: dying 1\n"),
                       "%s", output);
    snprintf(path, sizeof path, "%s/fake/logs/server-0.log", directory);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    log[fread(log, 1, sizeof log - 1, file)] = '\0';
    fclose(file);
    cr_expect_str_eq(log, "dying 1\ndying 2\ndying 3\n");
}

Test(run, a_process_that_would_fail_again_is_not_restarted)
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

/* A server that reports that it is ready. */
#define READY "echo psd ready shard=0/1 data=tcp://127.0.0.1:1 status=none job=psd; "

/* The arguments of the n-th start of the server with this index, one per line. */
static const char *words_of(unsigned index, unsigned start)
{
    static char text[1 << 14];
    char path[160];
    snprintf(path, sizeof path, "%s/args.%u.%u", directory, index, start);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s is missing: %s", path, output);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

Test(run, only_server_0_gets_the_configured_address_and_a_restarted_server_its_own)
{
#define NOTES_ITS_WORDS                                                                                                            \
    "for w; do case $w in --server-index=*) i=${w#*=};; esac; done; k=1; while [ -e args.$i.$k ]; do k=$((k + 1)); done; "         \
    "printf '%s\\n' \"$@\" >args.$i.$k; "
    cr_assert_eq(
        run_with_servers_that("case $me in w) come s 3; exit 0;; esac; " NOTES_ITS_WORDS
                              "echo psd ready shard=$i/2 data=tcp://127.0.0.1:777$i status=http://127.0.0.1:888$i job=psd; "
                              "case $i.$k in 1.1) kill -9 $$;; esac; gone w 1",
                              "--servers=2 --listen=tcp://127.0.0.1:7777 --status-listen=127.0.0.1:8888"),
        0, "%s", output);
    cr_expect_not_null(strstr(words_of(0, 1), "--listen=tcp://127.0.0.1:7777\n"), "%s", words_of(0, 1));
    cr_expect_not_null(strstr(words_of(0, 1), "--status-listen=127.0.0.1:8888\n"));
    cr_expect_not_null(strstr(words_of(1, 1), "--listen=tcp://127.0.0.1:0\n"), "%s", words_of(1, 1));
    cr_expect_not_null(strstr(words_of(1, 1), "--status-listen=127.0.0.1:0\n"));
    cr_expect_not_null(strstr(words_of(1, 1), "--join=tcp://127.0.0.1:7770\n"), "server 0's, as it has announced it");
    cr_expect_not_null(strstr(words_of(1, 2), "--listen=tcp://127.0.0.1:7771\n"), "its peers know it: %s", words_of(1, 2));
    cr_expect_not_null(strstr(words_of(1, 2), "--status-listen=127.0.0.1:8881\n"), "%s", words_of(1, 2));
}

Test(run, a_server_that_dies_after_the_last_worker_has_finished_does_no_harm)
{
#define DIES_LATE "case $me in w) exit 0;; *) " READY "gone w 1; kill -9 $$;; esac"
    cr_assert_eq(run_with_servers_that(DIES_LATE, ""), 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.late role=\"server 0\""), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that(DIES_LATE, "--sync-mode=asp"), 1, "without rounds the last pushes are lost: %s", output);
}

Test(run, a_worker_that_comes_back_when_the_servers_are_finished_is_no_failure)
{
    cr_assert_eq(run_with_servers_that("case $me in w) mkdir once && kill -9 $$; exit 76;; *) " READY "gone w 2;; esac", ""), 0,
                 "%s", output);
    cr_expect_not_null(strstr(output, "run.late role=\"worker 0\" ended=\"ended with 76"), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that("case $me in w) exit 76;; *) " READY "exec sleep 600;; esac", ""), 76,
                 "at its first start a refusal is one: %s", output);
}

/* A shell exits with 128 plus the number of the signal that killed its program. */
Test(run, a_program_of_the_users_is_restarted_after_a_signal_and_not_after_an_exit_code_of_its_own)
{
    static const struct {
        int code;
        bool comes_back;
    } ends[] = { { 1, false }, { 70, false }, { 128, false }, { 129, true }, { 137, true }, { 69, true }, { 75, true } };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        char words[80];
        teardown(), setup();
        snprintf(words, sizeof words, "--restarts=1 -- sh -c 'exit %d'", ends[i].code);
        cr_expect_eq(run_with_servers_that(READY "exec sleep 600", words), ends[i].code, "%s", output);
        cr_expect_eq(strstr(output, "run.restart role=\"worker 0\"") != NULL, ends[i].comes_back, "%d: %s", ends[i].code, output);
    }
}

Test(run, a_lost_worker_is_not_restarted_under_that_policy_while_enough_are_left)
{
#define ONE_DIES        "case $me in w) come w 2; mkdir once && kill -9 $$; gone w 1;; *) " READY "gone w "
#define THEN_ALL(lives) #lives ";; esac"
    cr_assert_eq(run_with_servers_that(ONE_DIES THEN_ALL(2), "--workers-min=1 --workers-want=2 --workers-lost=drop"), 0, "%s",
                 output);
    cr_expect_not_null(strstr(output, "run.dropped role=\"worker "), "%s", output);
    cr_expect_null(strstr(output, "run.restart"), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that(ONE_DIES THEN_ALL(2), "--workers-min=2 --workers-lost=drop"), 1, "%s", output);
    cr_expect_not_null(strstr(output, "was killed by signal 9"), "%s", output);
    teardown(), setup();
    cr_assert_eq(run_with_servers_that(ONE_DIES THEN_ALL(3), "--workers-min=1 --workers-want=2"), 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"worker "), "%s", output);
}

Test(run, a_finished_worker_is_needed_again_when_a_server_is_lost)
{
    cr_assert_eq(run_with_servers_that("case $0/$* in *worker/*) come s 4;; *index=1*) " READY ";; *) " READY
                                       "gone s 1; mkdir once && kill -9 $$; exit 0;; esac",
                                       "--servers=2"),
                 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 0\""), "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 1\" ended=\"finished, but is needed again\""), "%s", output);
}

Test(run, a_worker_that_a_server_dismissed_before_it_died_is_needed_again)
{
#define RUN(n) "echo psd ready shard=0/1 data=tcp://127.0.0.1:1 status=none job=psd run=" #n "; "
    cr_assert_eq(
        run_with_servers_that("case $0/$* in *worker/*) come s 4;; "
                              "*index=1*) mkdir two && { " RUN(a) "gone s 1; exit 0; }; " RUN(
                                  b) "until [ -e b ]; do sleep 0.01; done;; "
                                     "*) mkdir once && { " RUN(a) "come s 2; kill -9 $$; }; " RUN(b) ": >b; come s 4;; esac",
                              "--servers=2"),
        0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"server 1\" ended=\"finished, but is needed again\""), "%s", output);
}

Test(run, a_target_that_is_not_met_fails_the_job)
{
    cr_assert_eq(run_linear("target", "--stop-target=0.000001 --stop-steps=5"), 1, "%s", output);
    expect_result_line("target", "failed");
}

Test(run, sigint_ends_the_round_and_gives_75)
{
    pid_t pid = start_long_job();
    kill(pid, SIGINT);
    cr_assert_eq(wait_for_code(pid), 75);
    cr_assert(wait_for_processes(0));
    expect_result_line("long", "stopped");
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

/* ---- custom programs in place of psd-worker ---- */

static int run_program(const char *name, const char *program)
{
    char words[900];
    snprintf(words, sizeof words, "run deploy/examples/linear.yaml --servers=2 --run-dir=%s/%s -- %s", directory, name, program);
    return psdctl(words);
}

Test(run, a_program_of_ones_own_joins_by_its_environment)
{
    char plain[65], own[65];
    cr_assert_eq(run_linear("plain", ""), 0, "%s", output);
    take_hash(plain);
    cr_assert_eq(run_program("own", PSD_BIN_DIR "/psd-worker deploy/examples/linear.yaml"), 0, "%s", output);
    take_hash(own);
    cr_expect_str_eq(plain, own);
    cr_expect_not_null(strstr(output, "\ndone run="), "what worker 0 prints is shown: %s", output);
}

Test(run, a_program_finds_the_job_in_its_environment)
{
    cr_expect_eq(run_program("a", "sh -c 'echo I am $PSD_WORKER__ID of $PSD_JOB at $PSD_JOIN, batch $PSD_DATA__BATCH; test "
                                  "$PSD_WORKER__ID = 0 || exec sleep 1000; exit 3'"),
                 3, "%s", output);
    cr_expect_not_null(strstr(output, "I am 0 of linear at tcp://127.0.0.1:"), "%s", output);
    cr_expect_not_null(strstr(output, ", batch full\n"), "%s", output);
    cr_expect_null(strstr(output, "I am 1 of"), "the others' lines are in their logs: %s", output);
    cr_expect_null(strstr(output, "run.restart"), "nobody knows what its code means: %s", output);
}

Test(run, a_program_that_is_killed_is_started_again)
{
    char plain[65], own[65], program[400];
    cr_assert_eq(run_linear("plain", ""), 0, "%s", output);
    take_hash(plain);
    snprintf(program, sizeof program,
             "sh -c 'F=%s/$PSD_WORKER__ID; test -e $F || { touch $F; sh -c \"kill -9 \\$\\$\"; exit; }; exec %s/psd-worker "
             "deploy/examples/linear.yaml'",
             directory, PSD_BIN_DIR);
    cr_assert_eq(run_program("own", program), 0, "%s", output);
    cr_expect_not_null(strstr(output, "run.restart role=\"worker 0\" ended=\"ended with 137"), "a shell says so of what it ran: %s",
                       output);
    take_hash(own);
    cr_expect_str_eq(plain, own);
}

Test(run, a_program_that_never_joins_is_no_success)
{
    cr_expect_eq(run_program("a", "true"), 1, "%s", output);
    cr_expect_not_null(strstr(output, " has ended, and none has joined the job; check that it connects (psd.Optimizer, "), "%s",
                       output);
    cr_expect_not_null(strstr(output, "linear: failed\n"), "%s", output);
    cr_expect_eq(run_program("b --log-level=warn", "true"), 1, "%s", output);
    cr_expect_not_null(
        strstr(output, "the servers wait for more work: check that the program joins the job, and leaves it as finished"), "%s",
        output);
}

Test(run, a_program_that_ends_without_having_joined_is_named_while_the_others_wait_for_it)
{
    char words[600];
    snprintf(words, sizeof words,
             "run deploy/examples/linear.yaml --join-timeout=5s --restarts=0 --run-dir=%s/a -- sh -c 'test $PSD_WORKER__ID = 1 || "
             "exec %s/psd-worker deploy/examples/linear.yaml'",
             directory, PSD_BIN_DIR);
    cr_expect_eq(psdctl(words), 69, "%s", output);
    const char *named = strstr(output, "psdctl: the program of worker 1 has ended without having joined the job; check that it");
    const char *waited = strstr(output, "nothing after 5000 ms");
    cr_expect(named && waited && named < waited, "%s", output);
    cr_expect_null(strstr(output, "the program of worker 0"), "%s", output);
}

Test(run, a_program_that_ends_before_its_work_is_done_is_named_while_the_others_wait_for_it)
{
    char words[1200];
    snprintf(words, sizeof words,
             "run deploy/examples/linear.yaml --stop-steps=1000000 --join-timeout=5s --restarts=0 --run-dir=%s/a -- sh -c 'test "
             "$PSD_WORKER__ID = 1 || exec %s/psd-worker deploy/examples/linear.yaml; %s/psd-worker deploy/examples/linear.yaml "
             "2>%s/log & "
             "until grep -q id=worker.joined %s/log; do sleep 0.05; done; kill $!; wait $!; exit 0'",
             directory, PSD_BIN_DIR, PSD_BIN_DIR, directory, directory);
    cr_expect_eq(psdctl(words), 69, "%s", output);
    const char *named =
        strstr(output, "psdctl: the program of worker 1 has ended before its work was done, and the others may wait for it");
    const char *waited = strstr(output, "gave up after 5 s (join_timeout) of waiting for more workers");
    cr_expect(named && waited && named < waited, "%s", output);
    cr_expect_null(strstr(output, "the program of worker 0"), "%s", output);
}

Test(run, a_program_that_is_stopped_takes_its_own_children_with_it)
{
    char program[300], words[600];
    snprintf(program, sizeof program, "sh -c 'sleep 1000; echo %s'", directory); /* the shell waits, and names the directory */
    snprintf(words, sizeof words, "run deploy/examples/linear.yaml --run-dir=%s/a -- %s & sleep 2; kill -INT $!; wait $!",
             directory, program);
    cr_expect_eq(psdctl(words), 75, "%s", output);
    cr_assert(wait_for_processes(0));
}

Test(run, a_program_that_is_missing_is_named)
{
    cr_expect_eq(run_program("a", "/nowhere/train"), 66, "%s", output);
    cr_expect_not_null(strstr(output, "cannot run /nowhere/train: No such file or directory"), "%s", output);
    cr_expect_eq(psdctl("run deploy/examples/linear.yaml --"), 64, "%s", output);
    cr_expect_not_null(strstr(output, "give a program to run instead of psd-worker after --"), "%s", output);
}
