#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/environment.h"

/* Each test has its own process, and so its own environment. */
static psd_environment_t *environment;
static psd_worker_config_t config;
static psd_err_t err;

static void setup(void)
{
    clearenv();
    config = (psd_worker_config_t){ .size = sizeof config };
}
static void teardown(void) { psd_environment_destroy(&environment); }
TestSuite(environment, .init = setup, .fini = teardown, .timeout = 60);

static int fill(void) { return psd_environment_fill(&config, &environment, &err); }

Test(environment, variables_set_the_server_to_join_the_identity_and_the_key)
{
    setenv("PSD_JOIN", "tcp://ps0:7470", 1);
    setenv("PSD_JOB", "lines", 1);
    setenv("PSD_WORKER__ID", "3", 1);
    setenv("PSD_WORKER__KEY", "/keys/w3.key", 1);
    setenv("PSD_JOIN_TIMEOUT", "2s", 1);
    cr_assert_eq(fill(), PSD_OK, "%s", err.text);
    cr_expect_str_eq(config.join, "tcp://ps0:7470");
    cr_expect_str_eq(config.job, "lines");
    cr_expect_eq(config.worker, 4); /* the id plus 1 */
    cr_expect_str_eq(config.key, "/keys/w3.key");
    cr_expect_null(config.server_public);
    cr_expect_not(config.insecure);
    cr_expect_eq(config.join_timeout_ms, 2000);
}

Test(environment, values_that_the_program_gives_take_precedence)
{
    setenv("PSD_JOIN", "tcp://ps0:7470", 1);
    setenv("PSD_JOB", "lines", 1);
    setenv("PSD_WORKER__ID", "3", 1);
    setenv("PSD_JOIN_TIMEOUT", "0s", 1);
    config.job = "circles";
    config.worker = 1;
    config.insecure = 1;
    cr_assert_eq(fill(), PSD_OK, "%s", err.text);
    cr_expect_str_eq(config.job, "circles");
    cr_expect_eq(config.worker, 1);
    cr_expect(config.insecure);
    cr_expect_eq(config.join_timeout_ms, -1); /* 0s: no limit */
}

Test(environment, a_launcher_is_read_as_psd_worker_reads_it)
{
    setenv("DMLC_PS_ROOT_URI", "10.0.0.1", 1);
    setenv("DMLC_PS_ROOT_PORT", "9000", 1);
    setenv("DMLC_ROLE", "worker", 1);
    setenv("DMLC_TASK_ID", "2", 1);
    cr_assert_eq(fill(), PSD_OK, "%s", err.text);
    cr_expect_str_eq(config.join, "tcp://10.0.0.1:9000");
    cr_expect_eq(config.worker, 3);
}

Test(environment, a_job_file_sets_it_too)
{
    char path[] = "/tmp/psd_environment_XXXXXX";
    const int file = mkstemp(path);
    cr_assert_geq(file, 0);
    cr_assert_gt(dprintf(file, "job: squares\ninsecure: true\noptimizer: sgd(lr=0.1)\njoin: tcp://ps9:7470\n"), 0);
    close(file);
    config.job_file = path;
    cr_expect_eq(fill(), PSD_OK, "%s", err.text);
    unlink(path);
    cr_expect_str_eq(config.job, "squares");
    cr_expect_str_eq(config.join, "tcp://ps9:7470");
    cr_expect(config.insecure);
}

Test(environment, a_missing_or_wrong_one_is_an_error_with_advice)
{
    cr_expect_eq(fill(), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "set PSD_JOIN"), "%s", err.text);
    psd_environment_destroy(&environment);
    setenv("PSD_JION", "tcp://ps0:7470", 1);
    cr_expect_eq(fill(), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "did you mean PSD_JOIN?"), "%s", err.text);
    psd_environment_destroy(&environment);
    unsetenv("PSD_JION");
    config.job_file = "/nowhere/job.yaml";
    cr_expect_eq(fill(), PSD_ENOINPUT);
    cr_expect_not_null(strstr(err.text, "/nowhere/job.yaml"), "%s", err.text);
}

Test(environment, the_variable_of_the_python_package_is_no_option)
{
    setenv("PSD_LIBRARY", "/opt/libpsdworker.so", 1);
    setenv("PSD_JOIN", "tcp://ps0:7470", 1);
    cr_expect_eq(fill(), PSD_OK, "%s", err.text);
}

/* ---- the whole configuration ---- */

static char said[600];

static void on_line(void *arg, int level, const char *id, const char *line)
{
    cr_expect_eq(arg, said);
    snprintf(said, sizeof said, "%d %s %s", level, id, line);
}

static const char *word(const char *text) { return text && *text ? text : "(none)"; }

static void expect_config(const char *wanted)
{
    char text[600];
    snprintf(text, sizeof text,
             "join=%s cluster_file=%s job=%s name=%s key=%s server_public=%s insecure=%d worker=%d timeout=%d threads=%d",
             word(config.join), word(config.cluster_file), word(config.job), word(config.name), word(config.key),
             word(config.server_public), config.insecure, config.worker, config.join_timeout_ms, config.net_threads);
    cr_expect_str_eq(text, wanted, "%s", text);
}

static void set_all(void)
{
    setenv("PSD_JOIN", "tcp://ps0:7470", 1);
    setenv("PSD_JOB", "lines", 1);
    setenv("PSD_WORKER__NAME", "ann", 1);
    setenv("PSD_WORKER__ID", "3", 1);
    setenv("PSD_WORKER__KEY", "/keys/w3.key", 1);
    setenv("PSD_SERVER__PUBLIC", "/keys/server.pub", 1);
    setenv("PSD_JOIN_TIMEOUT", "2s", 1);
    setenv("PSD_NET__THREADS", "4", 1);
}

Test(environment, each_value_comes_from_its_variable_and_the_log_says_where_the_server_is)
{
    set_all();
    config.log = on_line;
    config.log_arg = said;
    cr_assert_eq(fill(), PSD_OK, "%s", err.text);
    expect_config("join=tcp://ps0:7470 cluster_file=(none) job=lines name=ann key=/keys/w3.key server_public=/keys/server.pub "
                  "insecure=0 worker=4 timeout=2000 threads=4");
    cr_expect_str_eq(said, "2 rendezvous source=PSD_JOIN join=tcp://ps0:7470 worker=3 by=worker.id", "%s", said);
}

Test(environment, no_variable_replaces_what_the_program_gives)
{
    set_all();
    config.job = "circles";
    config.name = "bob";
    config.key = "/my.key";
    config.server_public = "/my.pub";
    config.worker = 9;
    config.join_timeout_ms = 77;
    config.net_threads = 2;
    cr_assert_eq(fill(), PSD_OK, "%s", err.text);
    expect_config("join=tcp://ps0:7470 cluster_file=(none) job=circles name=bob key=/my.key server_public=/my.pub insecure=0 "
                  "worker=9 timeout=77 threads=2");
}

Test(environment, a_cluster_file_takes_the_place_of_an_address)
{
    setenv("PSD_CLUSTER__FILE", "/run/cluster.json", 1);
    setenv("PSD_INSECURE", "true", 1);
    config.log = on_line;
    config.log_arg = said;
    cr_assert_eq(fill(), PSD_OK, "%s", err.text);
    expect_config(
        "join=(none) cluster_file=/run/cluster.json job=psd name=(none) key=(none) server_public=(none) insecure=1 worker=0 "
        "timeout=60000 threads=1");
    cr_expect_str_eq(said, "2 rendezvous source=cluster.file join=/run/cluster.json worker=-1 by=server-0", "%s", said);
}
