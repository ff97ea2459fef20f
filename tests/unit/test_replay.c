#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deploy/psdctl/optimizers.h"
#include "deploy/psdctl/replay.h"

#define GOLDEN PSD_SOURCE_DIR "/tests/golden/"

static void redirect(void)
{
    cr_redirect_stdout();
    cr_redirect_stderr();
}
TestSuite(replay, .init = redirect, .timeout = 30);

/* Run the verb on words, separated by '|'. */
static int run(int (*verb)(int, char **), const char *words)
{
    char *text = strdup(words), *argv[16] = { NULL }, *rest = text;
    int argc = 0;
    while ((argv[argc] = strsep(&rest, "|")))
        argc++;
    const int exit_code = verb(argc, argv);
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
    const int exit_code = run(psd_ctl_replay, words);
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

Test(replay, a_learning_rate_of_the_file_replaces_the_rules_for_its_step_alone)
{
    cr_expect_eq(
        run_small("--case|two|", "case two opt=sgd n=1 steps=2 lr=0.5\nw0 0\nlr 1 0.25\ng 1 1\ng 2 1\nend\n"),
        0);
    cr_expect_stdout_eq_str("w 1 -0.25\nw 2 -0.75\n");
}

Test(replay, weighs_workers_by_their_samples)
{
    /* (1 * 8 + 3 * 4) / 4 = 5. */
    cr_expect_eq(
        run_small("--case=two|", "case two opt=sgd n=1 steps=1 lr=1\nw0 0\ngw 1 0 1 8\ngw 1 1 3 4\nend\n"),
        0);
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
    cr_expect_eq(run(psd_ctl_replay, "replay|/nowhere/f.txt"), 66);
    cr_expect_stderr_eq_str("psdctl replay: /nowhere/f.txt: No such file or directory\n");
}

Test(replay, a_broken_file_is_bad_data_and_prints_nothing)
{
    cr_expect_eq(run_small("", "case two opt=sgd n=1 steps=1\nw0 oops\n"), 65);
    cr_expect_stdout_eq_str("");
}

Test(replay, a_rule_that_does_not_parse_is_wrong_usage)
{
    cr_expect_eq(run(psd_ctl_replay, "replay|--optimizer|adma|" GOLDEN "sgd.txt"), 64);
    cr_expect_stderr_eq_str(
        "psdctl replay: --optimizer: rule, column 1: unknown optimizer 'adma'; the nearest is "
        "'adam'\n");
}

Test(replay, a_server_is_not_asked_to_change_its_learning_rate)
{
    cr_expect_eq(run(psd_ctl_replay,
                     "replay|--server|tcp://127.0.0.1:1|--case|sgd-nesterov-wd-lr-schedule|" GOLDEN
                     "sgd.txt"),
                 64);
    cr_expect_stderr_eq_str(
        "psdctl replay: case sgd-nesterov-wd-lr-schedule changes its learning rate (lr lines), which "
        "a server's own schedule decides; replay it without --server\n");
}

Test(replay, a_server_is_not_asked_to_be_several_workers)
{
    cr_expect_eq(run(psd_ctl_replay,
                     "replay|--server|tcp://127.0.0.1:1|--case|aggregate-sgd-3-workers|" GOLDEN
                     "aggregate.txt"),
                 64);
}

Test(replay, two_files_or_none_are_wrong_usage)
{
    cr_expect_eq(run(psd_ctl_replay, "replay"), 64);
    cr_expect_eq(run(psd_ctl_replay, "replay|a|b"), 64);
    cr_expect_eq(run(psd_ctl_replay, "replay|--case"), 64);
    cr_expect_eq(run(psd_ctl_replay, "replay|--job|x|a"), 64);
}

Test(replay, optimizers_describes_the_named_one)
{
    cr_expect_eq(run(psd_ctl_optimizers, "optimizers|signsgd"), 0);
    cr_expect_stdout_eq_str("signsgd: a step of fixed length per weight\n"
                            "  rule      w *= 1-lr*wd; w -= lr*sign(g)\n"
                            "  defaults  signsgd(lr=0.0001, weight_decay=0)\n"
                            "  state     0 bytes per parameter\n"
                            "  paper     Bernstein et al. 2018, arXiv 1802.04434\n");
}

Test(replay, optimizers_suggests_the_nearest_name)
{
    cr_expect_eq(run(psd_ctl_optimizers, "optimizers|radma"), 64);
    cr_expect_stderr_eq_str(
        "psdctl optimizers: rule, column 1: unknown optimizer 'radma'; the nearest is 'radam'\n");
}
