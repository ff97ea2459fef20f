#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/config/number.h"
#include "deploy/psdctl/inspect/replay.h"
#include "deploy/psdctl/verb.h"

extern const psd_verb_t psd_verb_replay, psd_verb_optimizers;

#define GOLDEN PSD_SOURCE_DIR "/tests/golden/"

static void redirect(void)
{
    cr_redirect_stdout();
    cr_redirect_stderr();
}
TestSuite(replay, .init = redirect, .timeout = 600);

/* Run the verb on words, separated by '|'. */
static int run(const psd_verb_t *verb, const char *words)
{
    char *text = strdup(words), *argv[16] = { NULL }, *rest = text;
    int argc = 0;
    while ((argv[argc] = strsep(&rest, "|")))
        argc++;
    const int exit_code = psd_verb_call(verb, (const psd_verb_t *const[]){ verb, NULL }, argc, argv);
    fflush(stdout);
    fflush(stderr);
    free(text);
    return exit_code;
}

/* A file of one case: two weights, two steps. Returns its path, which lives until the next call. */
static const char *small_file(const char *more)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/psd-replay-%d.txt", (int)getpid());
    FILE *file = fopen(path, "w");
    fprintf(file, "case one opt=sgd n=2 steps=2 lr=0.5\nw0 1 -2\ng 1 1 1\ng 2 0 4\nend\n%s", more);
    fclose(file);
    return path;
}

static int run_small(const char *options, const char *more)
{
    char words[512];
    const char *path = small_file(more);
    snprintf(words, sizeof words, "replay|%s%s", options, path);
    const int exit_code = run(&psd_verb_replay, words);
    unlink(path);
    return exit_code;
}

Test(replay, prints_the_weights_after_each_step)
{
    cr_expect_eq(run_small("", ""), 0);
    cr_expect_stdout_eq_str("w 1 0.5 -2.5\nw 2 0.5 -4.5\n");
}

Test(replay, prints_slow_weights_beside_the_fast_ones)
{
    /* After the second step w is (0.5, -4.5), and half the way from (1, -2) to it is (0.75, -3.25). */
    cr_expect_eq(run_small("--optimizer=lookahead(sgd(lr=0.5), k=2)|", ""), 0);
    cr_expect_stdout_eq_str("w 1 0.5 -2.5\nx 1 1 -2\nw 2 0.75 -3.25\nx 2 0.75 -3.25\n");
}

Test(replay, a_learning_rate_in_the_file_replaces_the_rules_only_for_its_step)
{
    cr_expect_eq(run_small("--case|two|", "case two opt=sgd n=1 steps=2 lr=0.5\nw0 0\nlr 1 0.25\ng 1 1\ng 2 1\nend\n"), 0);
    cr_expect_stdout_eq_str("w 1 -0.25\nw 2 -0.75\n");
}

Test(replay, weighs_workers_by_their_samples)
{
    /* (1 * 8 + 3 * 4) / 4 = 5. */
    cr_expect_eq(run_small("--case=two|", "case two opt=sgd n=1 steps=1 lr=1\nw0 0\ngw 1 0 1 8\ngw 1 1 3 4\nend\n"), 0);
    cr_expect_stdout_eq_str("w 1 -5\n");
}

Test(replay, several_cases_come_out_each_in_its_frame)
{
    cr_expect_eq(run_small("", "case two opt=sgd n=1 steps=1 lr=1\nw0 0\ng 1 2\nend\n"), 0);
    cr_expect_stdout_eq_str("case one opt=sgd n=2 steps=2 lr=0.5\nw 1 0.5 -2.5\nw 2 0.5 -4.5\nend\n"
                            "case two opt=sgd n=1 steps=1 lr=1\nw 1 -2\nend\n");
}

Test(replay, a_missing_file_is_missing_input)
{
    cr_expect_eq(run(&psd_verb_replay, "replay|/nowhere/f.txt"), 66);
    cr_expect_stderr_eq_str("psdctl replay: /nowhere/f.txt: No such file or directory\n");
}

Test(replay, a_broken_file_is_bad_data_and_prints_nothing)
{
    cr_expect_eq(run_small("", "case two opt=sgd n=1 steps=1\nw0 oops\n"), 65);
    cr_expect_stdout_eq_str("");
}

Test(replay, a_rule_that_does_not_parse_is_wrong_usage)
{
    cr_expect_eq(run(&psd_verb_replay, "replay|--optimizer|adma|" GOLDEN "sgd.txt"), 64);
    cr_expect_stderr_eq_str("psdctl replay: --optimizer: rule, column 1: unknown optimizer 'adma'; the nearest is "
                            "'adam'\n");
}

Test(replay, a_schedules_case_prints_its_rates)
{
    cr_expect_eq(run(&psd_verb_replay, "replay|--case|schedule-multistep|" GOLDEN "schedule.txt"), 0);
    char expected[1024] = "";
    for (int t = 0; t < 26; t++)
        snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "lr %d %s\n", t,
                 t < 5    ? "0.1"
                 : t < 9  ? "0.05"
                 : t < 20 ? "0.025"
                          : "0.0125");
    cr_expect_stdout_eq_str(expected);
}

Test(replay, a_schedule_takes_no_optimizer_and_no_server)
{
    cr_expect_eq(run(&psd_verb_replay, "replay|--optimizer|sgd|--case|schedule-cosine|" GOLDEN "schedule.txt"), 64);
}

Test(replay, two_files_or_none_are_wrong_usage)
{
    cr_expect_eq(run(&psd_verb_replay, "replay"), 64);
    cr_expect_eq(run(&psd_verb_replay, "replay|a|b"), 64);
    cr_expect_eq(run(&psd_verb_replay, "replay|--case"), 64);
    cr_expect_eq(run(&psd_verb_replay, "replay|--job|x|a"), 64);
}

Test(replay, optimizers_describes_the_named_one)
{
    cr_expect_eq(run(&psd_verb_optimizers, "optimizers|signsgd"), 0);
    cr_expect_stdout_eq_str(
        "signsgd: a step of fixed length per weight\n"
        "  rule      w *= 1-lr*wd; w -= lr*sign(g)\n"
        "  defaults  signsgd(lr=0.0001, weight_decay=0)\n"
        "  state     0 bytes per parameter\n"
        "  use       When nothing but the sign of a gradient can be trusted: heavy-tailed noise, or as a baseline "
        "for lion.\n"
        "  paper     Bernstein et al. 2018, arXiv 1802.04434\n");
}

Test(replay, optimizers_suggests_the_nearest_name)
{
    cr_expect_eq(run(&psd_verb_optimizers, "optimizers|radma"), 64);
    cr_expect_stderr_eq_str("psdctl optimizers: rule, column 1: unknown optimizer 'radma'; the nearest is 'radam'\n");
}

/* ---- by a server ---- */

TestSuite(replay_by_server, .timeout = 600);

enum { MOST_SERVERS = 3 };

/* The servers of a job, and where server 0 is. */
typedef struct job {
    pid_t pid[MOST_SERVERS];
    unsigned n;
    char join[128];
} job_t;

/* Start a psd with these flags, on a free port; its address goes to `address`. */
static pid_t start_server(const char *const *flags, char address[128])
{
    int ends[2];
    char line[512] = "",
         *argv[24] = { "psd", "--insecure", "--listen=tcp://127.0.0.1:0", "--status-listen=none", "--log-level=error" };
    for (size_t i = 0, n = 5; flags[i]; i++)
        argv[n++] = (char *)(uintptr_t)flags[i];
    cr_assert_eq(pipe(ends), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv(PSD_BIN_DIR "/psd", argv);
        _exit(127);
    }
    close(ends[1]);
    FILE *out = fdopen(ends[0], "r");
    const char *at = fgets(line, sizeof line, out) ? strstr(line, "data=") : NULL;
    cr_assert_not_null(at, "psd did not start: '%s'", line);
    snprintf(address, 128, "%.*s", (int)strcspn(at + 5, " \n"), at + 5);
    fclose(out);
    return pid;
}

static job_t start_job(const char *optimizer, const char *groups, uint32_t workers, const psd_clip_t *clip, unsigned servers)
{
    char min[16], n[16], value[PSD_NUMBER_TEXT], norm[PSD_NUMBER_TEXT], ignored[128];
    job_t job = { .n = servers };
    snprintf(min, sizeof min, "%u", workers);
    snprintf(n, sizeof n, "%u", servers);
    psd_number_print(clip->value, value);
    psd_number_print(clip->norm, norm);
    const char *flags[] = {
        "--servers", n,          "--workers-min", min,  "--optimizer", optimizer, "--clip-value", value, "--clip-norm",
        norm,        "--groups", groups,          NULL, NULL,          NULL
    };
    job.pid[0] = start_server(flags, job.join);
    flags[12] = "--join";
    flags[13] = job.join;
    for (unsigned s = 1; s < servers; s++)
        job.pid[s] = start_server(flags, ignored);
    return job;
}

static void stop_job(const job_t *job)
{
    for (unsigned s = 0; s < job->n; s++) {
        kill(job->pid[s], SIGKILL);
        waitpid(job->pid[s], NULL, 0);
    }
}

/* All rows of a replay, one after the other. */
typedef struct rows {
    size_t n, used;
    float values[64 * 1024];
} rows_t;

static void keep_rows(void *arg, char record, size_t t, const float *values)
{
    rows_t *self = arg;
    (void)record, (void)t;
    cr_assert_leq(self->used + self->n, sizeof self->values / sizeof *self->values);
    memcpy(self->values + self->used, values, self->n * sizeof *values);
    self->used += self->n;
}

/* Replay every case of the file, here and with this number of servers. Returns the number of cases. */
static int compare_file(const char *name, unsigned servers)
{
    static rows_t here, there;
    char path[256];
    psd_err_t err = { .text = "" };
    int compared = 0;
    snprintf(path, sizeof path, GOLDEN "%s", name);
    FILE *file = fopen(path, "r");
    psd_golden_t *reader = psd_golden_new(file, name, &err);
    for (psd_golden_case_t *c; psd_golden_next(reader, &c, &err) == PSD_OK && c; psd_golden_case_destroy(&c)) {
        psd_groups_t groups;
        cr_assert_eq(psd_groups_parse(&groups, c->spec, c->groups, &err), PSD_OK);
        here.n = there.n = c->n;
        here.used = there.used = 0;
        const job_t job = start_job(c->spec, c->groups, psd_replay_workers(c), &c->clip, servers);
        cr_expect_eq(psd_replay_by_server(c, &groups, job.join, NULL, keep_rows, &there, &err), PSD_OK, "%s: %s", c->id, err.text);
        stop_job(&job);
        cr_assert_eq(psd_trajectory_run(c, &groups, keep_rows, &here, &err), PSD_OK);
        cr_expect(here.used == there.used && memcmp(here.values, there.values, here.used * sizeof(float)) == 0,
                  "%s by %u servers is not %s here", c->id, servers, c->id);
        compared++;
    }
    psd_golden_destroy(&reader);
    fclose(file);
    return compared;
}

Test(replay_by_server, gives_the_bits_that_a_replay_here_gives)
{
    static const char *const files[] = { "sgd.txt",      "momentum.txt",  "nesterov.txt",  "adagrad.txt",
                                         "adadelta.txt", "rmsprop.txt",   "adam.txt",      "adamw.txt",
                                         "nadam.txt",    "radam.txt",     "adamax.txt",    "lion.txt",
                                         "signsgd.txt",  "lookahead.txt", "aggregate.txt", "dlion.txt" };
    int compared = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        compared += compare_file(files[i], 1);
    cr_expect_eq(compared, 35);
}

Test(replay_by_server, rules_of_whole_tensors_and_newer_ones_have_the_same_bits_on_one_two_and_three_servers)
{
    int compared = 0;
    for (unsigned servers = 1; servers <= MOST_SERVERS; servers++)
        compared += compare_file("clip.txt", servers) + compare_file("lamb.txt", servers) + compare_file("dlion.txt", servers) +
                    compare_file("groups.txt", servers) + compare_file("lars.txt", servers) + compare_file("prodigy.txt", servers) +
                    compare_file("cautious.txt", servers) + compare_file("adafactor.txt", servers) +
                    compare_file("muon.txt", servers) + compare_file("sfadamw.txt", servers) +
                    compare_file("ademamix.txt", servers) + compare_file("adopt.txt", servers);
    cr_expect_eq(compared, 3 * (9 + 2 + 2 + 3 + 2 + 3 + 7 + 2 + 2 + 2 + 3 + 3));
}

Test(replay_by_server, refuses_a_server_of_another_rule_and_names_both, .init = redirect)
{
    char words[512];
    const job_t job = start_job("sgd(lr=0.2)", "", 1, &(psd_clip_t){ .norm = 0 }, 1);
    snprintf(words, sizeof words, "replay|--server|%s|--case|sgd-plain|" GOLDEN "sgd.txt", job.join);
    const int exit_code = run(&psd_verb_replay, words);
    stop_job(&job);
    cr_expect_eq(exit_code, 76);
    cr_expect_stderr_eq_str("psdctl replay: the server runs sgd(lr=0.2, momentum=0, dampening=0, nesterov=0, "
                            "weight_decay=0), but this replay "
                            "needs sgd(lr=0.1, momentum=0, dampening=0, nesterov=0, weight_decay=0)\n");
}

Test(replay_by_server, refuses_a_server_that_clips_gradients_differently_and_names_both, .init = redirect)
{
    char words[512];
    const job_t job = start_job("sgd(lr=0.1)", "", 1, &(psd_clip_t){ .norm = 2 }, 1);
    snprintf(words, sizeof words, "replay|--server|%s|--case|sgd-plain|" GOLDEN "sgd.txt", job.join);
    const int exit_code = run(&psd_verb_replay, words);
    stop_job(&job);
    cr_expect_eq(exit_code, 76);
    cr_expect_stderr_eq_str("psdctl replay: the server has clip.value 0 and clip.norm 2, but this replay needs 0 and 0; start psd "
                            "with --clip-value 0 --clip-norm 0\n");
}

Test(replay_by_server, refuses_a_server_that_codes_gradients, .init = redirect)
{
    char words[512];
    job_t job = { .n = 1 };
    job.pid[0] = start_server((const char *[]){ "--optimizer=sgd(lr=0.1)", "--codec-push=topk(0.5)", NULL }, job.join);
    snprintf(words, sizeof words, "replay|--server|%s|--case|sgd-plain|" GOLDEN "sgd.txt", job.join);
    const int exit_code = run(&psd_verb_replay, words);
    stop_job(&job);
    cr_expect_eq(exit_code, 76);
    cr_expect_stderr_eq_str("psdctl replay: the server has codec.push topk(0.5) and codec.pull f32, but a replay needs f32 for "
                            "both\n");
}
