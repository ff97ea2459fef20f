#include <criterion/criterion.h>
#include <stddef.h>
#include <string.h>

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
    cr_expect(strstr(err.text, "job \"two words\" must be one word"), "%s", err.text);
    given = config(), given.name = "a\"quote";
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    cr_expect(strstr(err.text, "cannot be a worker's name"), "%s", err.text);
    given = config(), given.recipe = longest;
    cr_expect_eq(read_it(&given), PSD_EINVAL);
    given = config(), given.net_threads = 17;
    cr_expect_eq(read_it(&given), PSD_EINVAL);
}

Test(caller, a_join_timeout_of_0_is_a_minute_and_a_negative_one_has_no_limit)
{
    cr_expect_eq(psd_caller_patience_ms(0), 60000);
    cr_expect_eq(psd_caller_patience_ms(-1), 0);
    cr_expect_eq(psd_caller_patience_ms(250), 250);
}
