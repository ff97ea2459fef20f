#include <criterion/criterion.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/net/rendezvous.h"

static psd_rendezvous_t at;
static psd_err_t err;
static psd_options_t *options;
static const char *host = "here";

/* Each test has its own process, and so its own environment, where options also look for PSD_*. */
static const char *variable(void *arg, const char *name) { return (void)arg, getenv(name); }

static void setup(void) { clearenv(); }
static void teardown(void) { psd_options_destroy(&options); }
TestSuite(rendezvous, .init = setup, .fini = teardown, .timeout = 600);

/* Set "A=1 B=2", in which ~ stands for a blank. */
static void set(const char *text)
{
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *rest = copy, *word; (word = strtok_r(rest, " ", &rest));) {
        for (char *p = word; *p; p++)
            *p = *p == '~' ? ' ' : *p;
        char *value = strchr(word, '=');
        *value++ = '\0';
        setenv(word, value, 1);
    }
}

static int find_with(psd_program_t program, const char *flags)
{
    char copy[512], *argv[24] = { "psd", "--job=psd" }; /* without a word, psd prints its usage */
    int argc = 2;
    snprintf(copy, sizeof copy, "%s", flags);
    for (char *rest = copy, *word; (word = strtok_r(rest, " ", &rest));)
        argv[argc++] = word;
    psd_options_destroy(&options);
    cr_assert_not_null(options = psd_options_new(program));
    cr_assert_eq(psd_options_load(options, argc, argv, &err), PSD_OK, "%s", err.text);
    return psd_rendezvous_find(&at, program, options, &(psd_surroundings_t){ variable, host, NULL }, &err);
}

static void server(const char *flags) { cr_assert_eq(find_with(PSD_PROGRAM_SERVER, flags), PSD_OK, "%s", err.text); }
static void worker(const char *flags) { cr_assert_eq(find_with(PSD_PROGRAM_WORKER, flags), PSD_OK, "%s", err.text); }

/* Expect a configuration error with these words. */
static void expect_refusal(psd_program_t program, const char *flags, const char *words)
{
    cr_expect_eq(find_with(program, flags), PSD_ECONFIG, "%s %s", at.source, flags);
    cr_expect(strstr(err.text, words), "\"%s\" is not in: %s", words, err.text);
}

#define SLURM       "SLURM_JOB_NODELIST_HET_GROUP_0=n[3-4] SLURM_JOB_ID_HET_GROUP_0=10042 SLURM_NTASKS_HET_GROUP_0=2 "
#define TASK(n, of) "SLURM_STEP_ID=0 SLURM_PROCID=" #n " SLURM_STEP_NUM_TASKS=" #of " "

Test(rendezvous, a_server_without_settings_is_server_0_at_the_address_in_listen)
{
    server("");
    cr_expect(at.is_first);
    cr_expect_str_eq(at.source, "none");
    cr_expect_str_eq(at.listen, "tcp://127.0.0.1:7470");
    cr_expect_str_eq(at.status, "127.0.0.1:7471");
}

Test(rendezvous, a_worker_without_a_server_to_join_is_refused)
{
    cr_expect_eq(find_with(PSD_PROGRAM_WORKER, ""), PSD_EUSAGE);
    cr_expect(strstr(err.text, "no server to join"), "%s", err.text);
}

Test(rendezvous, the_flag_goes_before_every_other_source_and_no_launcher_is_asked)
{
    set(SLURM TASK(0, 2) "PSD_JOIN=tcp://other:1 TF_CONFIG={ OMPI_COMM_WORLD_RANK=7 OMPI_COMM_WORLD_SIZE=8");
    server("--servers=2 --join=tcp://ps0:7470");
    cr_expect_not(at.is_first, "a task 0 with an address to join is not server 0");
    cr_expect_str_eq(at.join, "tcp://ps0:7470");
    cr_expect_str_eq(at.source, "--join");
    cr_expect_eq(at.index, -1);
    worker("--join=tcp://ps0:7470");
    cr_expect_eq(at.worker, -1);
    server("--servers=2 --server-index=0");
    cr_expect(at.is_first, "psdctl run starts server 0 so, also within a Slurm job");
    cr_expect_str_eq(at.source, "none");
}

Test(rendezvous, with_join_in_the_environment_the_server_of_rank_0_is_server_0)
{
    set("PSD_JOIN=tcp://ps0:7480 PSD_RANK=0");
    server("--servers=2");
    cr_expect(at.is_first);
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:7480");
    set("PSD_RANK=1");
    server("--servers=2");
    cr_expect_not(at.is_first);
    cr_expect_eq(at.index, 1);
    cr_expect_str_eq(at.join, "tcp://ps0:7480");
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:0");
    cr_expect_str_eq(at.status, "127.0.0.1:0");
    worker("");
    cr_expect_eq(at.worker, 1);
    unsetenv("PSD_RANK");
    server("--servers=2");
    cr_expect_not(at.is_first, "without a rank it joins");
    server("--servers=2 --listen=tcp://10.0.0.1:99");
    cr_expect_str_eq(at.listen, "tcp://10.0.0.1:99");
}

Test(rendezvous, no_server_listens_beyond_this_machine_without_keys_or_for_a_local_job)
{
    set("PSD_JOIN=tcp://127.0.0.1:7480 PSD_RANK=1");
    server("--servers=2");
    cr_expect_str_eq(at.listen, "tcp://127.0.0.1:0");
    set("PSD_JOIN=tcp://ps0:7480 PSD_RANK=0");
    server("--insecure");
    cr_expect_str_eq(at.listen, "tcp://127.0.0.1:7480");
}

Test(rendezvous, a_cluster_file_needs_no_port_but_to_know_which_server_this_is)
{
    server("--cluster-file=/f --servers=2 --rank=0");
    cr_expect(at.is_first);
    cr_expect_str_eq(at.file, "/f");
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:0");
    server("--cluster-file=/f --servers=2 --server-index=1");
    cr_expect_not(at.is_first);
    cr_expect_str_eq(at.join, "");
    server("--cluster-file=/f");
    cr_expect(at.is_first, "a single server is server 0");
    expect_refusal(PSD_PROGRAM_SERVER, "--cluster-file=/f --servers=2", "each of the 2 servers needs its number");
    worker("--cluster-file=/f");
    cr_expect_str_eq(at.source, "cluster.file");
    cr_expect_eq(at.worker, -1);
}

Test(rendezvous, slurms_first_group_has_the_servers)
{
    set(SLURM TASK(0, 2));
    server("--servers=2");
    cr_expect(at.is_first);
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:20042");
    set(TASK(1, 2));
    server("--servers=2");
    cr_expect_str_eq(at.source, "Slurm");
    cr_expect_str_eq(at.join, "tcp://n3:20042");
    cr_expect_eq(at.index, 1);
    cr_expect_str_eq(at.rank_source, "SLURM_PROCID");
    set(TASK(2, 3));
    worker("--join-timeout=5s");
    cr_expect_str_eq(at.join, "tcp://n3:20042");
    cr_expect_eq(at.worker, 2);
}

Test(rendezvous, slurms_variables_are_checked)
{
    set(SLURM TASK(0, 2));
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=3", "Slurm has 2 servers, but the job has 3");
    unsetenv("SLURM_STEP_ID");
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "batch script");
    set(TASK(0, 2) "SLURM_JOB_NODELIST_HET_GROUP_0=n[3-");
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "SLURM_JOB_NODELIST_HET_GROUP_0");
    set("SLURM_JOB_NODELIST_HET_GROUP_0=n3 SLURM_PROCID=x");
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "SLURM_PROCID is \"x\"");
    set(TASK(1, 2) "SLURM_JOB_ID_HET_GROUP_0=");
    expect_refusal(PSD_PROGRAM_WORKER, "", "SLURM_JOB_ID_HET_GROUP_0");
}

Test(rendezvous, a_batch_scripts_own_task_number_is_nobodys_rank)
{
    set("SLURM_PROCID=0 PSD_JOIN=tcp://ps0:1");
    worker("");
    cr_expect_eq(at.worker, -1, "three workers started by hand would all ask for the same place");
}

Test(rendezvous, a_headless_service_names_its_pods_by_their_number)
{
    host = "ps-1";
    set("PSD_SERVICE=ps.training.svc");
    server("--servers=2");
    cr_expect_str_eq(at.join, "tcp://ps-0.ps.training.svc:7470");
    cr_expect_str_eq(at.advertise, "ps-1.ps.training.svc");
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:7470");
    cr_expect_str_eq(at.status, "127.0.0.1:7471");
    cr_expect_eq(at.index, 1);
    host = "ps-0";
    server("--servers=2");
    cr_expect(at.is_first);
    host = "trainer-x7k";
    worker("");
    cr_expect_str_eq(at.join, "tcp://ps-0.ps.training.svc:7470");
    cr_expect_eq(at.worker, -1);
    set("JOB_COMPLETION_INDEX=4");
    worker("");
    cr_expect_eq(at.worker, 4);
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "trainer-x7k");
    host = "ps-1x";
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "ps-1x");
}

#define TF                                                                                                                         \
    "{\"cluster\":{\"ps\":[\"a:1\",\"b:2\"],\"chief\":[\"c:3\"],\"worker\":[\"d:4\",\"e:5\"]},\"task\":{"                          \
    "\"type\":\""

Test(rendezvous, tf_config_has_addresses_and_ranks)
{
    set("TF_CONFIG=" TF "ps\",\"index\":1}}");
    server("--servers=2");
    cr_expect_str_eq(at.join, "tcp://a:1");
    cr_expect_str_eq(at.advertise, "b:2");
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:2");
    cr_expect_eq(at.index, 1);
    set("TF_CONFIG=" TF "ps\",\"index\":0}}");
    server("--servers=2");
    cr_expect(at.is_first);
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:1");
    expect_refusal(PSD_PROGRAM_SERVER, "", "TF_CONFIG has 2 servers, but the job has 1");
    set("TF_CONFIG=" TF "worker\",\"index\":1}}");
    worker("");
    cr_expect_eq(at.worker, 2, "the chief is the first worker");
    set("TF_CONFIG=" TF "chief\",\"index\":0}}");
    worker("");
    cr_expect_eq(at.worker, 0);
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "type chief, but this is psd");
}

Test(rendezvous, a_malformed_tf_config_is_named_and_nothing_else_is_tried)
{
    static const char *const bad[] = { "{",
                                       "[]",
                                       "{}",
                                       TF "ps\",\"index\":-1}}",
                                       TF "ps\",\"index\":\"0\"}}",
                                       TF "ps\",\"index\":2}}",
                                       TF "ps\"}}",
                                       "{\"cluster\":{\"ps\":[\"a\"]},\"task\":{\"type\":\"ps\",\"index\":0}}" };
    set("DMLC_PS_ROOT_URI=a DMLC_PS_ROOT_PORT=1");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("TF_CONFIG", bad[i], 1);
        expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "environment TF_CONFIG");
    }
}

Test(rendezvous, the_root_of_dmlc_is_server_0)
{
    set("DMLC_PS_ROOT_URI=10.0.0.1 DMLC_PS_ROOT_PORT=9091 DMLC_ROLE=scheduler");
    server("--servers=2");
    cr_expect(at.is_first);
    cr_expect_str_eq(at.listen, "tcp://0.0.0.0:9091");
    set("DMLC_ROLE=server");
    server("--servers=2");
    cr_expect_str_eq(at.join, "tcp://10.0.0.1:9091");
    cr_expect_not(at.is_first);
    expect_refusal(PSD_PROGRAM_WORKER, "", "DMLC_ROLE is server, but this is psd-worker");
    set("DMLC_ROLE=worker DMLC_TASK_ID=3");
    worker("");
    cr_expect_eq(at.worker, 3);
    set("DMLC_PS_ROOT_PORT=0");
    expect_refusal(PSD_PROGRAM_WORKER, "", "DMLC_PS_ROOT_PORT is \"0\"");
    unsetenv("DMLC_PS_ROOT_URI");
    set("DMLC_TRACKER_URI=10.0.0.2 DMLC_TRACKER_PORT=9092");
    worker("");
    cr_expect_str_eq(at.join, "tcp://10.0.0.2:9092");
}

Test(rendezvous, ranks_come_from_the_innermost_launcher_and_without_its_size_from_none)
{
    static const struct {
        const char *set;
        int worker;
        const char *by;
    } cases[] = {
        { "RANK=1", -1, NULL },
        { "RANK=1 WORLD_SIZE=4", 1, "RANK" },
        { "JOB_COMPLETION_INDEX=2", 2, "JOB_COMPLETION_INDEX" },
        { "PMI_RANK=3 PMI_SIZE=4", 3, "PMI_RANK" },
        { TASK(4, 9), 4, "SLURM_PROCID" },
        { "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=9", 5, "OMPI_COMM_WORLD_RANK" },
        { "PSD_RANK=6", 6, "PSD_RANK" },
        { "PSD_WORKER__ID=9", 9, "worker.id" },
    };
    set("PSD_JOIN=tcp://ps0:1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) { /* each takes precedence over those above it */
        set(cases[i].set);
        worker("");
        cr_expect_eq(at.worker, cases[i].worker, "%s gives %d", cases[i].set, at.worker);
        cr_expect(cases[i].by ? at.rank_source && !strcmp(at.rank_source, cases[i].by) : !at.rank_source, "%s", cases[i].set);
    }
}

Test(rendezvous, where_servers_and_workers_are_one_world_the_servers_come_first)
{
    set("PSD_JOIN=tcp://ps0:1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=5 PSD_SERVERS=2 "
        "PSD_WORKERS__MIN=3");
    server("");
    cr_expect_eq(at.index, 1);
    set("OMPI_COMM_WORLD_RANK=4");
    worker("");
    cr_expect_eq(at.worker, 2, "the third worker");
    set("OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_RANK=2");
    worker("");
    cr_expect_eq(at.worker, 2, "a world of workers alone");
}

Test(rendezvous, a_join_timeout_of_0_has_no_limit_and_none_exceeds_an_int)
{
    static const struct {
        const char *flag;
        int ms;
    } cases[] = { { "", 60000 }, { "--join-timeout=0s", -1 }, { "--join-timeout=1ms", 1 }, { "--join-timeout=600h", INT_MAX } };
    set("PSD_JOIN=tcp://ps0:1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        worker(cases[i].flag);
        cr_expect_eq(at.join_timeout_ms, cases[i].ms, "%s: %d", cases[i].flag, at.join_timeout_ms);
    }
}

Test(rendezvous, a_rank_that_fits_no_server_is_an_error)
{
    set("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3 PSD_JOIN=tcp://ps0:1");
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "this is server 2 by OMPI_COMM_WORLD_RANK, but the job has servers 0 to 1");
    unsetenv("PSD_JOIN");
    set("OMPI_COMM_WORLD_RANK=1");
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "the address of server 0 is missing");
    set("OMPI_COMM_WORLD_RANK=-1");
    expect_refusal(PSD_PROGRAM_SERVER, "--servers=2", "OMPI_COMM_WORLD_RANK is \"-1\"");
}
