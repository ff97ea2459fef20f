#include <criterion/criterion.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/caller.h"

static psd_err_t err;
static psd_caller_t caller;

static void teardown(void) { psd_caller_clear(&caller); }
TestSuite(caller, .fini = teardown, .timeout = 60);

static psd_worker_config_t config(void)
{
    return (psd_worker_config_t){ .size = sizeof(psd_worker_config_t), .join = "tcp://127.0.0.1:9", .insecure = 1 };
}

static int read_it(const psd_worker_config_t *given)
{
    psd_caller_clear(&caller);
    return psd_caller_read(&caller, given, &err);
}

Test(caller, what_is_not_given_has_a_default)
{
    const psd_worker_config_t given = config();
    cr_assert_eq(read_it(&given), PSD_OK, "%s", err.text);
    cr_expect_str_eq(caller.join, "tcp://127.0.0.1:9");
    cr_expect_null(caller.file);
    cr_expect_str_eq(caller.job, "psd");
    char host[65] = "", name[96];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%.63s:%d", host, (int)getpid());
    cr_expect_str_eq(caller.name, name);
    cr_expect_str_eq(caller.recipe, "");
    cr_expect(!caller.trusts_file && !caller.wanted && caller.patience_ms == 60000 && caller.net);
}

Test(caller, a_configuration_from_before_there_were_keys_runs_without_keys)
{
    psd_worker_config_t given = config();
    given.insecure = 0;
    given.size = offsetof(psd_worker_config_t, key);
    cr_expect_eq(read_it(&given), PSD_OK, "%s", err.text);
    given.size = sizeof given;
    cr_expect_neq(read_it(&given), PSD_OK, "no keys, and not insecure");
    given.size = sizeof given + 8;
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    cr_expect_eq(read_it(NULL), PSD_EINVAL);
    cr_expect(strstr(err.text, "needs `size`"), "%s", err.text);
}

Test(caller, a_worker_needs_a_key_of_its_own)
{
    char directory[] = "/tmp/psd-test-XXXXXX", name[2][64], file[160], public[2][PSD_KEY_TEXT];
    psd_worker_config_t given = config();
    cr_assert_not_null(mkdtemp(directory));
    given.insecure = 0;
    given.key = file;
    given.server_public = public[0];
    for (int k = 0; k < 2; k++) {
        snprintf(name[k], sizeof name[k], "%s/%d", directory, k);
        cr_assert_eq(psd_keys_write(name[k], public[k], &err), PSD_OK, "%s", err.text);
        snprintf(file, sizeof file, "%s.key", name[k]);
        cr_expect_eq(read_it(&given), k ? PSD_OK : PSD_ECONFIG, "%s", err.text);
    }
    cr_expect_str_eq(err.text, "the worker's key is the servers' key: give it another, made by psdctl keygen NAME");
    given.join = NULL;
    given.cluster_file = "cluster.json"; /* which will name the servers' key, unless that is given */
    cr_expect_eq(read_it(&given), PSD_OK, "%s", err.text);
    cr_expect_not(caller.trusts_file);
    given.server_public = NULL;
    cr_expect_eq(read_it(&given), PSD_OK, "%s", err.text);
    cr_expect(caller.trusts_file);
    for (int k = 0; k < 2; k++) {
        snprintf(file, sizeof file, "%s.key", name[k]);
        unlink(file);
        snprintf(file, sizeof file, "%s.pub", name[k]);
        unlink(file);
    }
    cr_expect_eq(rmdir(directory), 0);
}

Test(caller, a_cluster_file_also_brings_the_servers_key_unless_that_is_given)
{
    psd_worker_config_t given = config();
    given.join = NULL;
    given.cluster_file = "cluster.json";
    cr_assert_eq(read_it(&given), PSD_OK, "%s", err.text);
    cr_expect_str_eq(caller.join, "");
    cr_expect_str_eq(caller.file, "cluster.json");
    cr_expect(caller.trusts_file);
}

Test(caller, what_the_servers_would_refuse_is_refused_here)
{
    char longest[400];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    psd_worker_config_t given = config();
    given.join = longest;
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    cr_expect(strstr(err.text, "`join` is longer than 127 bytes"), "%s", err.text);
    given = config(), given.job = "two words";
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    cr_expect(strstr(err.text, "job \"two words\" is not the name of a job: it is one word"), "%s", err.text);
    given = config(), given.name = "a\"quote";
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    cr_expect(strstr(err.text, "cannot be a worker's name"), "%s", err.text);
    given = config(), given.recipe = longest;
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    given = config(), given.net_threads = 16;
    cr_expect_eq(read_it(&given), PSD_OK, "%s", err.text);
    given = config(), given.net_threads = 17;
    cr_expect_eq(read_it(&given), PSD_EINVAL);
}

/* `n` bytes. */
static const char *of(size_t n)
{
    static char text[4][512];
    static size_t at;
    at = (at + 1) % 4;
    memset(text[at], 'x', n);
    text[at][n] = '\0';
    return text[at];
}

static void expect_read_at(int line, const psd_worker_config_t *given, const char *sentence)
{
    err = (psd_err_t){ 0 };
    cr_expect_eq(read_it(given), *sentence ? PSD_EINVAL : PSD_OK, "line %d: %s", line, err.text);
    cr_expect_str_eq(err.text, sentence, "line %d: %s", line, err.text);
}
#define expect_read(sentence, ...)                                                                                                 \
    do {                                                                                                                           \
        psd_worker_config_t given = config();                                                                                      \
        __VA_ARGS__;                                                                                                               \
        expect_read_at(__LINE__, &given, sentence);                                                                                \
    } while (0)

#define ONE_WORD_OF_JOB "is not the name of a job: it is one word of at most 127 bytes"
#define X60             "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

Test(caller, each_text_and_number_may_be_as_long_as_the_servers_take_it_and_no_longer)
{
    expect_read("", given.join = of(127));
    expect_read("`join` is longer than 127 bytes", given.join = of(128));
    expect_read("", given.job = of(127));
    expect_read("job \"" X60 "\" " ONE_WORD_OF_JOB, given.job = of(128));
    expect_read("job \"\" " ONE_WORD_OF_JOB, given.job = "");
    expect_read("", given.worker = 4096);
    expect_read("worker 4096 is too high: workers count from 0 to 4095", given.worker = 4097);
    expect_read("", given.worker = -1);
    cr_expect_eq(caller.wanted, 0, "any");
    expect_read("", given.name = of(127));
    expect_read("\"" X60 "\" cannot be a worker's name: it is one word of at most 127 bytes, without quotes, = or backslash",
                given.name = of(128));
    expect_read("", given.recipe = of(255));
    expect_read("`recipe` has 256 bytes, at most 255 fit", given.recipe = of(256));
    expect_read("`net_threads` is -1; it takes 0 to 16", given.net_threads = -1);
    expect_read("`net_threads` is 17; it takes 0 to 16", given.net_threads = 17);
}

static int never(void *arg) { return arg == NULL; }
static void say_nothing(void *arg, int level, const char *id, const char *line) { (void)arg, (void)level, (void)id, (void)line; }

Test(caller, what_is_given_is_kept_under_its_name)
{
    psd_worker_config_t given = config();
    int asked, told;
    given.job = "mnist", given.name = "eve", given.recipe = "as all", given.rows = 77, given.worker = 5;
    given.join_timeout_ms = 1234;
    given.log = say_nothing, given.log_arg = &told, given.interrupted = never, given.interrupted_arg = &asked;
    cr_assert_eq(read_it(&given), PSD_OK, "%s", err.text);
    cr_expect_str_eq(caller.job, "mnist");
    cr_expect_str_eq(caller.name, "eve");
    cr_expect_str_eq(caller.recipe, "as all");
    cr_expect(caller.rows == 77 && caller.wanted == 5 && caller.patience_ms == 1234);
    cr_expect(caller.log == say_nothing && caller.log_arg == &told);
    cr_expect(caller.interrupted == never && caller.interrupted_arg == &asked);
}

static bool wait_on(void *arg, const char *reason) { return (void)reason, arg == &caller; }

Test(caller, a_file_that_names_server_0_is_awaited_with_the_patience_of_the_program)
{
    psd_worker_config_t given = config();
    const psd_uplink_config_t calls = { .on_waiting = wait_on };
    given.join = NULL;
    given.cluster_file = "/nowhere/cluster.json";
    given.join_timeout_ms = 20;
    cr_assert_eq(read_it(&given), PSD_OK, "%s", err.text);
    cr_expect_null(psd_caller_uplink(&caller, &calls, &caller, &err));
    cr_expect_eq(err.code, PSD_ETIMEOUT, "%s", err.text);
}

Test(caller, a_join_timeout_of_0_is_a_minute_and_a_negative_one_has_no_limit)
{
    cr_expect_eq(psd_caller_patience_ms(0), 60000);
    cr_expect_eq(psd_caller_patience_ms(-1), 0);
    cr_expect_eq(psd_caller_patience_ms(250), 250);
}
