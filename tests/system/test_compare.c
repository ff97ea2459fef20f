#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* `psdctl compare`, real processes on loopback: it compares, continues after an interruption, and refuses runs that cannot be
 * compared. Each test has its own directory. */

static char directory[64], output[1 << 16];

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/psd-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(compare, .init = setup, .fini = teardown, .timeout = 600);

/* Ten rows and ten steps: a run takes about half a second, mostly for starting and ending. */
#define JOB                                                                                                                        \
    "--data-train=glyphs:600 --data-test=glyphs:200 --data-batch=60 --model-layers=784,8,10 --servers=2 "                          \
    "--workers-min=2 --eval-every=0.5 --lease=20s"
#define SHORT JOB " --stop-epochs=1"
#define LONG  JOB " --stop-epochs=60"

/* Run a line of shell in the test's directory; returns its exit code, with its output in `output`. */
static int shell(const char *line)
{
    char command[4096];
    snprintf(command, sizeof command, "cd %s && { %s; } 2>&1 </dev/null", directory, line);
    FILE *pipe = popen(command, "r");
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int compare(const char *words)
{
    char line[2048];
    snprintf(line, sizeof line, PSD_BIN_DIR "/psdctl compare %s", words);
    return shell(line);
}

/* compare.json of the comparison in `name`. */
static json_t *read_result(const char *name)
{
    char path[128];
    json_error_t why;
    snprintf(path, sizeof path, "%s/%s/compare.json", directory, name);
    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    cr_assert_not_null(json, "%s: %s", path, why.text);
    return json;
}

static const json_t *run_of(const json_t *result, size_t optimizer, size_t seed)
{
    const json_t *rules = json_object_get(result, "optimizers"), *rule = json_array_get(rules, optimizer);
    return json_array_get(json_object_get(rule, "runs"), seed);
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    cr_assert_not_null(value, "no %s", key);
    return value;
}

static size_t count(const char *what)
{
    size_t n = 0;
    for (const char *at = output; (at = strstr(at, what)); at++)
        n++;
    return n;
}

/* ---- its output ---- */

/* The type of each key of an object of psd.compare/1: s text, i whole number, r number or null, a list, o
 * object, b bool, n text or null. */
static void expect_keys(const json_t *object, const char *const (*keys)[2])
{
    size_t n = 0;
    for (; keys[n][0]; n++) {
        const json_t *v = json_object_get(object, keys[n][0]);
        const char type = *keys[n][1];
        const bool good = type == 's'   ? json_is_string(v)
                          : type == 'i' ? json_is_integer(v)
                          : type == 'r' ? json_is_real(v) || json_is_null(v)
                          : type == 'a' ? json_is_array(v)
                          : type == 'o' ? json_is_object(v)
                          : type == 'b' ? json_is_boolean(v)
                                        : json_is_string(v) || json_is_null(v);
        cr_expect(good, "%s is no %s", keys[n][0], keys[n][1]);
    }
    cr_expect_eq(json_object_size(object), n, "and no key that is not written down");
}

static void expect_schema(const json_t *result)
{
    static const char *const top[][2] = {
        { "schema", "s" },      { "version", "s" },
        { "job", "s" },         { "about", "s" },
        { "metric", "s" },      { "target", "r" },
        { "seeds", "a" },       { "servers", "i" },
        { "workers", "i" },     { "smaller_is_better", "b" },
        { "target_from", "s" }, { "verdict", "s" },
        { "validation", "r" },  { "rate_chosen_on", "n" },
        { "advice", "s" },      { "winner", "n" },
        { "optimizers", "a" },  { NULL, NULL },
    };
    static const char *const rule[][2] = {
        { "optimizer", "s" },
        { "rule", "s" },
        { "named", "i" },
        { "lr", "r" },
        { "lr_factor", "r" },
        { "groups", "a" },
        { "seeds_read", "i" },
        { "chosen", "b" },
        { "at_edge", "b" },
        { "held_out", "o" },
        { "seeds_diverged", "i" },
        { "seeds_untrained", "i" },
        { "final", "o" },
        { "best", "o" },
        { "train_loss", "o" },
        { "steps_to_target", "o" },
        { "seconds_to_target", "o" },
        { "moved_bytes", "o" },
        { "samples_per_s", "o" },
        { "state_bytes_per_parameter", "i" },
        { "runs", "a" },
        { NULL, NULL },
    };
    static const char *const run[][2] = {
        { "seed", "i" },         { "outcome", "s" },        { "final", "r" },       { "best", "r" },
        { "steps", "i" },        { "train_loss", "r" },     { "epochs", "r" },      { "seconds", "r" },
        { "metrics", "o" },      { "samples_per_s", "r" },  { "moved_bytes", "i" }, { "steps_to_target", "r" },
        { "losses", "o" },       { "sha256_initial", "s" }, { "sha256", "n" },      { "seconds_to_target", "r" },
        { "sha256_order", "a" }, { "held_out", "r" },       { NULL, NULL },
    };
    const json_t *rules = json_object_get(result, "optimizers");
    expect_keys(result, top);
    cr_expect_str_eq(text(result, "schema"), "psd.compare/1");
    for (size_t i = 0; i < json_array_size(rules); i++) {
        expect_keys(json_array_get(rules, i), rule);
        for (size_t s = 0; s < json_array_size(json_object_get(result, "seeds")); s++)
            expect_keys(run_of(result, i, s), run);
    }
}

Test(compare, rules_are_compared_from_the_same_weights_on_the_same_rows)
{
    char path[128];
    cr_assert_eq(compare(JOB " --stop-epochs=4 --run-dir=c --seeds 2 --optimizers 'sgd(lr=0.5)' "
                             "'adam(lr=1e-2)' 'sgd(lr=1e9, weight_decay=1)'"),
                 0, "%s", output);
    cr_expect_eq(count("\ncompare.done ") + !strncmp(output, "compare.done ", 13), 6, "%s", output);
    cr_expect_not_null(strstr(output, "optimizer=\"sgd(lr=1000000000, weight_decay=1)\" seed=2 outcome=diverged"), "%s", output);
    cr_expect_not_null(strstr(output, "\npsd: mlp on glyphs:600, batch 60, bsp, 2 servers, 2 workers, seeds "
                                      "1 to 2, 40 steps in 4 epochs\n"),
                       "%s", output);
    cr_expect_not_null(strstr(output, "-  sgd(lr=1000000000, weight_decay=1)  diverged "), "%s", output);
    cr_expect_not_null(strstr(output, "kept in c: report.html, compare.json\n"), "%s", output);
    json_t *result = read_result("c");
    expect_schema(result);
    for (size_t s = 0; s < 2; s++) {
        for (size_t i = 1; i < 3; i++)
            cr_expect_str_eq(text(run_of(result, i, s), "sha256_initial"), text(run_of(result, 0, s), "sha256_initial"));
        cr_expect(json_equal(json_object_get(run_of(result, 1, s), "sha256_order"),
                             json_object_get(run_of(result, 0, s), "sha256_order")));
    }
    cr_expect_str_neq(text(run_of(result, 0, 0), "sha256_initial"), text(run_of(result, 0, 1), "sha256_initial"),
                      "other seeds begin elsewhere");
    cr_expect_not(
        json_equal(json_object_get(run_of(result, 0, 0), "sha256_order"), json_object_get(run_of(result, 0, 1), "sha256_order")));
    /* Forty rounds; in each, every worker sends a gradient of 6370 floats and gets as many weights: 784 * 8 + 8 + 8 * 10 + 10 is
     * 6370. In addition there are headers and the first weights. */
    const json_int_t moved = json_integer_value(json_object_get(run_of(result, 0, 0), "moved_bytes"));
    cr_expect_geq(moved, 40 * 2 * 2 * 6370 * 4);
    cr_expect_leq(moved, 40 * 2 * 2 * 6370 * 4 * 5 / 4);
    json_decref(result);
    snprintf(path, sizeof path, "%s/c/report.html", directory);
    cr_expect_eq(access(path, R_OK), 0);
}

Test(compare, a_job_file_can_have_all_options_and_json_equals_the_file)
{
    cr_assert_eq(shell("printf 'job: small\\nservers: 1\\nmodel: {layers: [784, 8, 10]}\\ndata: {train: glyphs:600, "
                       "batch: 60}\\n"
                       "stop: {epochs: 1}\\nsave: never.safetensors\\ncompare:\\n  seeds: 1\\n  lr_sweep: [1, 3]\\n"
                       "  optimizers:\\n    - sgd(lr=0.1)\\n' >job.yaml"),
                 0);
    cr_assert_eq(compare("job.yaml --json --run-dir=c 2>log"), 0, "%s", output);
    json_t *said = json_loads(output, JSON_REJECT_DUPLICATES, NULL), *kept = read_result("c");
    cr_assert_not_null(said, "%s", output);
    cr_expect(json_equal(said, kept));
    expect_schema(said);
    const json_t *rules = json_object_get(said, "optimizers");
    cr_expect_eq(json_array_size(rules), 2);
    cr_expect_str_eq(text(said, "job"), "small");
    cr_expect_not_null(strstr(text(said, "verdict"), "One rule only: "));
    cr_expect_eq(shell("test ! -e never.safetensors"), 0, "what all runs would write to is left out");
    json_decref(said);
    json_decref(kept);
}

Test(compare, a_terminal_has_a_line_for_each_run_that_is_on_no_wider_than_it_is)
{
    cr_assert_eq(shell("TERM=xterm script -qec \"stty cols 60; " PSD_BIN_DIR "/psdctl compare " LONG
                       " --run-dir=c --seeds 1 --jobs 2 --optimizers 'sgd(lr=0.5)' 'adam(lr=0.01)'\" /dev/null"),
                 0, "%s", output);
    /* Progress is shown a few times a second, and a run may take less time than that. */
    const char *both = strstr(output, "sgd(lr=0.5) seed 1  ");
    cr_assert_not_null(both, "%s", output);
    const char *other = strstr(both, "\r\nadam(lr=0.01) seed 1  ");
    cr_assert_not_null(other, "%s", output);
    cr_expect_eq(strcspn(both, "\r"), (size_t)(other - both), "one below the other: %s", output);
    cr_expect_not_null(strstr(both, " seed 1  step="), "%s", output);
    cr_expect_not_null(strstr(both, "\r\n1 of 2 runs are done, 0:0"), "%s", output);
    const char *table = strstr(output, "\npsd: mlp");
    cr_assert_not_null(table);
    for (const char *line = both; line < table; line += strcspn(line, "\n") + 1)
        if (!strstr(line, "compare.done") || strstr(line, "compare.done") > line + strcspn(line, "\n"))
            for (size_t n = 0, i = 0; line[i] && line[i] != '\n'; i++) {
                n = line[i] == '\r' || line[i] == '\033' ? 0 : n + 1;
                cr_assert_leq(n, 60 + 2, "%.100s", line);
            }
}

/* ---- interruptions ---- */

static pid_t start(const char *words)
{
    char line[2048];
    pid_t pid = fork();
    if (pid == 0) {
        snprintf(line, sizeof line, "cd %s && exec " PSD_BIN_DIR "/psdctl compare %s >said 2>&1 </dev/null", directory, words);
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    return pid;
}

/* The number of directories below c/runs of finished, or of unfinished, runs. */
static unsigned count_runs(bool finished)
{
    char path[128];
    unsigned n = 0;
    snprintf(path, sizeof path, "%s/c/runs", directory);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        n += *entry->d_name != '.' && !strstr(entry->d_name, ".part") == finished;
    if (dir)
        closedir(dir);
    return n;
}

/* Processes whose command line contains the test's directory, or that work in it. */
static unsigned count_processes(void)
{
    unsigned n = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(proc));) {
        char path[300], where[300];
        snprintf(path, sizeof path, "/proc/%s/cwd", entry->d_name);
        ssize_t length = *entry->d_name >= '0' && *entry->d_name <= '9' ? readlink(path, where, sizeof where - 1) : -1;
        if (length < 0)
            continue;
        where[length] = '\0';
        n += !strcmp(where, directory);
    }
    closedir(proc);
    return n;
}

/* Whether an unfinished run has made a step. */
static bool is_in_a_run(void)
{
    char path[400];
    struct stat file;
    bool yes = false;
    snprintf(path, sizeof path, "%s/c/runs", directory);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && !yes && (entry = readdir(dir));) {
        snprintf(path, sizeof path, "%s/c/runs/%s/metrics.jsonl", directory, entry->d_name);
        yes = strstr(entry->d_name, ".part") && stat(path, &file) == 0 && file.st_size > 0;
    }
    if (dir)
        closedir(dir);
    return yes;
}

static void wait_until_a_run_is_kept_and_another_is_on(void)
{
    for (int i = 0; i < 30000; i++, usleep(10000))
        if (count_runs(true) >= 1 && is_in_a_run())
            return;
    cr_assert_fail("%u, %u", count_runs(true), count_runs(false));
}

static int wait_for_code(pid_t pid)
{
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    for (int i = 0; i < 2000 && count_processes(); i++)
        usleep(10000);
    cr_assert_eq(count_processes(), 0, "nobody outlives it");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#define INTERRUPTED LONG " --seeds 2 --optimizers 'sgd(lr=0.5)' 'adam(lr=1e-2)' --run-dir="

/* Interrupt it, continue it, and compare with an uninterrupted one. */
static void interrupt_with(int number, int code)
{
    pid_t pid = start(INTERRUPTED "c");
    wait_until_a_run_is_kept_and_another_is_on();
    kill(pid, number);
    cr_assert_eq(wait_for_code(pid), code);
    const unsigned kept = count_runs(true);
    cr_assert(kept >= 1 && kept < 4, "%u", kept);
    cr_assert_eq(compare(INTERRUPTED "c"), 0, "%s", output);
    cr_expect_eq(count("compare.done "), 4 - kept, "the others only: %s", output);
    cr_expect_eq(count_runs(false), 0);
    cr_assert_eq(compare(INTERRUPTED "d"), 0, "%s", output);
    json_t *result = read_result("c"), *undisturbed = read_result("d");
    for (size_t i = 0; i < 2; i++)
        for (size_t s = 0; s < 2; s++)
            cr_expect_str_eq(text(run_of(result, i, s), "sha256"), text(run_of(undisturbed, i, s), "sha256"));
    json_decref(result);
    json_decref(undisturbed);
}

Test(compare, sigint_gives_75_and_the_same_command_continues)
{
    interrupt_with(SIGINT, 75);
    cr_assert_eq(shell("cat said"), 0);
    cr_expect_not_null(strstr(output, " of 4 runs are kept; continue with --run-dir=c\n"), "%s", output);
}

Test(compare, sigkill_leaves_no_process_behind_and_the_same_command_continues) { interrupt_with(SIGKILL, -SIGKILL); }

Test(compare, one_directory_is_for_one_job_and_one_psdctl_but_for_more_rules_and_seeds)
{
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 1 --optimizers 'sgd(lr=0.5)'"), 0, "%s", output);
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 1 --data-batch=30 --metrics-every=5 --optimizers 'sgd(lr=0.5)'"), 78, "%s",
                 output);
    cr_expect_str_eq(output, "psdctl compare: c holds runs of another job; set run.dir to another, or change the setting back: "
                             "data.batch was \"60\" and is \"30\" (differences in all: 2)\n");
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 2 --optimizers 'momentum(lr=0.05)' 'sgd(lr=5e-1)'"), 0, "%s", output);
    cr_expect_eq(count("compare.done "), 3, "one is there already: %s", output);
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 1 --optimizers 'sgd(lr=0.5)'"), 0, "%s", output);
    cr_expect_eq(count("compare.done "), 0, "%s", output);
    cr_assert_eq(shell("flock c/.lock " PSD_BIN_DIR "/psdctl compare " SHORT " --run-dir=c --optimizers sgd"), 78, "%s", output);
    cr_expect_not_null(strstr(output, "another psdctl works in c: wait until it has ended"), "%s", output);
    cr_assert_eq(shell("flock c/.lock " PSD_BIN_DIR "/psdctl run " SHORT " --run-dir=c"), 78, "%s", output);
    cr_expect_not_null(strstr(output, "another psdctl works in c: wait until it has ended"), "%s", output);
}

Test(compare, a_kept_run_that_is_damaged_is_made_again)
{
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 1 --optimizers 'sgd(lr=0.5)' 'adam(lr=0.01)'"), 0, "%s", output);
    cr_assert_eq(shell("truncate -s 10 c/runs/adam-*/summary-1.json"), 0);
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 1 --optimizers 'sgd(lr=0.5)' 'adam(lr=0.01)'"), 0, "%s", output);
    cr_expect_not_null(strstr(output, "reason=\"worker 1 left no summary\""), "%s", output);
    cr_expect_eq(count("compare.done "), 1, "%s", output);
}

/* ---- errors ---- */

/* Copies of the programs in the test's directory, where the script replaces `name`; `bin` has the real ones. */
static void replace(const char *name, const char *script)
{
    char line[1024];
    snprintf(line, sizeof line,
             "mkdir -p bin && cp %s/psd* bin/ && rm bin/%s && printf '#!/bin/sh\\nbin=%s\\n%s\\nexec $bin/%s "
             "\"$@\"\\n' "
             ">bin/%s && chmod +x bin/%s",
             PSD_BIN_DIR, name, PSD_BIN_DIR, script, name, name, name);
    cr_assert_eq(shell(line), 0, "%s", output);
}

Test(compare, a_run_that_fails_is_named_with_its_log_and_the_others_continue)
{
    replace("psd", "case \"$*\" in *momentum-*) echo out of order >&2; exit 71;; esac");
    cr_assert_eq(shell("bin/psdctl compare " SHORT " --run-dir=c --seeds 2 --optimizers 'sgd(lr=0.5)' 'momentum(lr=0.05)' 'adam'"),
                 71, "%s", output);
    cr_expect_eq(count("compare.done "), 4, "%s", output);
    cr_expect_eq(count("compare.failed "), 2, "%s", output);
    const char *failed =
        strstr(output, "compare.failed run=2 of=6 optimizer=\"momentum(lr=0.05)\" seed=1 code=71 log=c/runs/momentum-");
    cr_assert_not_null(failed, "%s", output);
    cr_expect_not_null(strstr(failed, ".part/run.log reason=\"server 0 ended with 71: out of order\"\n"), "%s", output);
    cr_expect_not_null(strstr(output, "momentum(lr=0.05)  -, 2 of 2 failed"), "%s", output);
    cr_expect_eq(shell("grep -q 'out of order' c/runs/momentum-*-seed1.part/run.log"), 0);
    cr_assert_eq(compare(SHORT " --run-dir=c --seeds 2 --optimizers 'sgd(lr=0.5)' 'momentum(lr=0.05)' 'adam'"), 0, "%s", output);
    cr_expect_eq(count("compare.done "), 2, "what had failed is made again: %s", output);
}

Test(compare, a_run_that_loses_a_worker_is_not_a_result_and_the_others_continue)
{
    replace("psd-worker", "case \"$*\" in *adam-*worker-id=1*|*worker-id=1*adam-*) timeout -s KILL 1 "
                          "$bin/psd-worker \"$@\"; exit 71;; esac");
    cr_assert_eq(shell("bin/psdctl compare " LONG " --stop-epochs=1000 --run-dir=c --seeds 1 --workers-min=1 "
                       "--workers-want=2 --optimizers 'adam' 'sgd(lr=0.5)'"),
                 71, "%s", output);
    cr_expect_not_null(strstr(output, "compare.failed run=1 of=2 optimizer=\"adam(lr=0.001)\" seed=1 code=71"), "%s", output);
    cr_expect_not_null(strstr(output, "compare.done run=2 of=2 optimizer=\"sgd(lr=0.5)\" seed=1 outcome=done"), "%s", output);
}

Test(compare, rules_and_data_that_no_run_could_use_are_refused_before_the_first_run)
{
    cr_assert_eq(compare(SHORT " --run-dir=c --data-train=csv:/no/such.csv --model-kind=linear "
                               "--model-layers= --optimizers sgd adam"),
                 66, "%s", output);
    cr_expect_null(strstr(output, "compare.failed "), "%s", output);
    cr_expect_not_null(strstr(output, "--data-train: /no/such.csv: No such file or directory"), "%s", output);
    static const struct {
        const char *rule, *flags, *words;
    } rows[] = {
        { "dlion(lr=1e-4)", "--codec-push='topk(0.1)'", "--codec-push: codec.push is topk(0.1), which would drop most votes" },
        { "muon", "--sync-mode=asp --workers-min=1", "optimizer muon steps whole tensors" },
        { "prodigy", "--groups='*.bias(lr_mult=2)'", "its groups may differ only in weight_decay" },
        { "adam", "--groups='none(lr_mult=2)'", "none matches no tensor of the model" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char line[512];
        snprintf(line, sizeof line, SHORT " --run-dir=c %s --optimizers 'sgd(lr=0.5)' '%s'", rows[i].flags, rows[i].rule);
        cr_expect_eq(compare(line), 78, "%s: %s", rows[i].rule, output);
        cr_expect_not_null(strstr(output, "of compare.optimizers, "), "%s", output);
        cr_expect_not_null(strstr(output, rows[i].words), "%s", output);
    }
    cr_expect_neq(shell("test -e c"), 0, "no run has begun");
}

Test(compare, a_metric_that_is_undefined_on_the_rows_that_decide_is_refused_before_the_first_run)
{
    cr_assert_eq(shell("{ echo a,y; for i in $(seq 37); do echo $i,0; done; for i in 38 39 40; do echo $i,1; done; } >few.csv; "
                       "{ echo a,y; echo 1,1; echo 2,1; } >one.csv"),
                 0);
    static const struct {
        const char *verb, *flags, *words;
    } rows[] = {
        { "compare", "--data-test=csv:few.csv --lr-sweep=0.3,1",
          "eval-metric: auc is undefined on the 4 held-out rows, which all are of one class" },
        { "tune", "--data-test=csv:few.csv", "eval-metric: auc is undefined on the 4 held-out rows, which all are of one class" },
        { "compare", "--data-test=csv:few.csv --data-validation=0.5 --lr-sweep=0.3,1 --seeds=9",
          "with seed 8: --eval-metric: auc is undefined on the 20 held-out rows" },
        { "compare", "--data-test=csv:one.csv", "eval-metric: auc is undefined on the 2 test rows, which all are of one class" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char line[1024];
        snprintf(line, sizeof line,
                 PSD_BIN_DIR "/psdctl %s --data-train=csv:few.csv --model-kind=logistic --eval-metric=auc --data-batch=10 "
                             "--stop-epochs=1 --run-dir=c --seeds=1 %s --optimizers 'sgd(lr=0.5)'",
                 rows[i].verb, rows[i].flags);
        cr_expect_eq(shell(line), 78, "%s: %s", rows[i].flags, output);
        cr_expect_not_null(strstr(output, rows[i].words), "%s", output);
    }
    cr_expect_neq(shell("test -e c"), 0, "no run has begun");
}

Test(compare, runs_of_a_seed_with_other_weights_or_rows_are_not_compared)
{
    replace("psd-worker", "case \"$*\" in *adam-*) exec $bin/psd-worker \"$@\" --seed=9;; esac");
    cr_assert_eq(shell("bin/psdctl compare " SHORT " --run-dir=c --seeds 2 --optimizers 'sgd(lr=0.5)' 'adam'"), 1, "%s", output);
    cr_expect_not_null(strstr(output, "psdctl compare: with seed 1, adam(lr=0.001) started with other weights than sgd(lr=0.5)"),
                       "%s", output);
    cr_expect_not_null(strstr(output, "1 of 4 runs are kept"), "%s", output);
    cr_expect_null(strstr(output, "winner"), "there is nothing to compare: %s", output);
    replace("psd-worker", "case \"$*\" in *adam-*) exec $bin/psd-worker \"$@\" --data-shuffle=false;; esac");
    cr_assert_eq(shell("bin/psdctl compare " SHORT " --run-dir=c --seeds 2 --optimizers 'sgd(lr=0.5)' 'adam'"), 1, "%s", output);
    cr_expect_not_null(strstr(output, "with seed 1, adam(lr=0.001) was given other rows, or in another order, than sgd(lr=0.5)"),
                       "%s", output);
}

Test(compare, messages_for_wrong_words_contain_the_correct_form)
{
    static const struct {
        const char *words;
        int code;
        const char *sentence;
    } wrong[] = {
        { "--stop-steps=5", 78, "nothing to compare: name rules after --optimizers" },
        { "--optimizers sgd", 78, "nothing ends the runs: set stop.epochs or stop.steps" },
        { "--stop-steps=5 --optimizers", 64, "--optimizers needs rules, such as 'sgd(lr=0.1)'" },
        { "--stop-steps=5 --optimizers adma", 78, "rule 1 of compare.optimizers: adma: " },
        { "--stop-steps=5 --optimizers sgd adam sgd", 78,
          "rule 3 of compare.optimizers: sgd(lr=0.01) is the same as rule 1; leave one out" },
        { "--stop-steps=5 --optimizers sgd --seeds", 64, "--seeds needs a value" },
        { "--stop-steps=5 --optimizers sgd --seeds=0", 64, "compare.seeds is 0; it takes 1 to 100" },
        { "--stop-steps=5 --optimizers sgd --lr-sweep=0.1,x", 64, "compare.lr_sweep is \"0.1,x\", not a valid list of numbers" },
        { "--stop-steps=5 --optimizers sgd --lr-sweep=0", 64, "compare.lr_sweep is 0; it takes 1e-6 to 1e6" },
        { "--stop-steps=5 --optimizers sgd --lr-sweep=1,1", 78,
          "sgd(lr=0.01) has one learning rate at two factors of compare.lr_sweep, 1 and 1; leave one out" },
        { "--stop-steps=5 --optimizers sgd --target=x", 64, "compare.target is \"x\", not a valid number" },
        { "--stop-steps=5 --optimizers sgd --jobs=0", 64, "compare.jobs is 0; it takes 1 to 64" },
        { "--stop-steps=5 --optimizers sgd --frobnicate", 64, "unknown option --frobnicate" },
        { "--stop-steps=5 --optimizers sgd --run-dir=/proc/no", 74, "cannot make /proc/no" },
        { "/no/such.yaml --optimizers sgd", 66, "cannot read job file /no/such.yaml" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_expect_eq(compare(wrong[i].words), wrong[i].code, "%s: %s", wrong[i].words, output);
        cr_expect_not_null(strstr(output, wrong[i].sentence), "%s: %s", wrong[i].words, output);
    }
    cr_expect_eq(shell("test ! -e runs"), 0, "and nothing was made");
    cr_expect_eq(compare("--help"), 0);
    cr_expect_not_null(strstr(output, "--lr-sweep=X,X,..."));
}
