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
    cr_expect_not_null(strchr(caller.name, ':'));
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

Test(caller, a_join_timeout_of_0_is_a_minute_and_a_negative_one_has_no_limit)
{
    cr_expect_eq(psd_caller_patience_ms(0), 60000);
    cr_expect_eq(psd_caller_patience_ms(-1), 0);
    cr_expect_eq(psd_caller_patience_ms(250), 250);
}
