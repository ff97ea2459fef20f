#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/message.h"
#include "tests/support/cluster.h"

/* The reason why servers and workers cannot meet is named within seconds, and a process that waits in vain exits after join_timeout
 * with the code for it. */

enum {
    NAMED_MS = 5000 + 4000, /* the promise, and what a busy machine may add to it */
    DONE_MS = 600000
};

static cluster_t cluster;
static cluster_process_t late; /* the process that cannot join */

static void setup(void)
{
    cluster_open(&cluster);
    late.pid = 0;
}

static void teardown(void)
{
    if (late.pid)
        kill(late.pid, SIGKILL);
    cluster_wait(&late, DONE_MS);
    cluster_close(&cluster);
}
TestSuite(rendezvous, .init = setup, .fini = teardown, .timeout = 600);

#define TINY "--data-train=glyphs:200 --data-test=glyphs:50 --data-batch=20 --model-kind=softmax --progress=none "

/* Check that the process prints these words soon after its start, and exits with this code. */
static void expect_named(const cluster_process_t *process, const char *one, const char *other)
{
    bool named = false;
    for (const uint64_t end = cluster_now_ms() + NAMED_MS; !named && cluster_now_ms() < end; cluster_nap()) {
        char *said = cluster_printed(&cluster, process, "err");
        named = said && strstr(said, one) && strstr(said, other);
        free(said);
    }
    char *said = cluster_printed(&cluster, process, "err");
    cr_expect(named, "%s lacks \"%s\" or \"%s\" in: %s", process->name, one, other, said);
    free(said);
}

static void expect_end(const char *one, const char *other, int code)
{
    expect_named(&late, one, other);
    cr_expect_eq(cluster_wait(&late, DONE_MS), code, "ended with %d instead of %d", late.code, code);
}

#define WORKER_KEYS "--insecure=false --worker-key=%s/w0.key --server-public=%s/ps.pub "
#define SERVER_KEYS "--insecure=false --server-key=%s/ps.key --allow=%s/allow --status-listen=none --servers=2 "

Test(rendezvous, a_host_that_is_not_there_is_78)
{
    cluster_make_keys(&cluster);
    cluster_spawn(&cluster, &late, "late", "psd-worker",
                  TINY WORKER_KEYS "--join=tcp://no-such-host.invalid:7470 --join-timeout=10s", cluster.directory,
                  cluster.directory);
    expect_end("no-such-host.invalid", "cannot be resolved", 78);
    cluster_spawn(&cluster, &late, "late", "psd", SERVER_KEYS "--join=tcp://no-such-host.invalid:7470 --join-timeout=10s",
                  cluster.directory, cluster.directory);
    expect_end("no-such-host.invalid", "cannot be resolved", 78);
}

Test(rendezvous, a_port_without_a_listener_is_69)
{
    cluster_spawn(&cluster, &late, "late", "psd-worker", TINY "--insecure --join=tcp://127.0.0.1:1 --join-timeout=7s");
    expect_end("worker.waiting", "no process listens at 127.0.0.1:1: connection refused", 69);
    cluster_spawn(&cluster, &late, "late", "psd",
                  "--insecure --servers=2 --status-listen=none --join=tcp://127.0.0.1:1 --join-timeout=7s");
    expect_end("join.waiting", "no process listens at 127.0.0.1:1: connection refused", 69);
}

Test(rendezvous, with_a_join_timeout_of_0_a_process_still_waits_when_others_have_given_up)
{
    cluster_spawn(&cluster, &cluster.worker[0], "worker", "psd-worker",
                  TINY "--insecure --join=tcp://127.0.0.1:1 --join-timeout=0s");
    cluster.n_workers = 1;
    cluster_spawn(&cluster, &cluster.server[0], "server", "psd",
                  "--insecure --servers=2 --status-listen=none --join=tcp://127.0.0.1:1 --join-timeout=0s");
    cluster.n_servers = 1;
    expect_named(&cluster.worker[0], "worker.waiting", "connection refused");
    expect_named(&cluster.server[0], "join.waiting", "connection refused");
    cluster_spawn(&cluster, &late, "late", "psd-worker", TINY "--insecure --join=tcp://127.0.0.1:1 --join-timeout=6s");
    expect_end("worker.waiting", "connection refused", 69);
    cr_expect_eq(cluster_wait(&cluster.worker[0], 0), -1, "the worker ended with %d", cluster.worker[0].code);
    cr_expect_eq(cluster_wait(&cluster.server[0], 0), -1, "the server ended with %d", cluster.server[0].code);
}

Test(rendezvous, another_jobs_server_is_76_also_for_a_server)
{
    cluster_start_server(&cluster, 2, "--job=mnist");
    cluster_spawn(&cluster, &late, "late", "psd", "--insecure --job=cifar --servers=2 --status-listen=none --join=%s",
                  cluster.data[0]);
    expect_end("this is job mnist", "you belong to job cifar", 76);
}

Test(rendezvous, a_key_on_no_list_is_77_and_another_servers_key_69)
{
    cluster_make_keys(&cluster);
    cluster_start_server(&cluster, 1, "--servers=1");
    cluster_spawn(&cluster, &late, "late", "psd-worker",
                  TINY "--insecure=false --worker-key=%s/nobody.key --server-public=%s/ps.pub --join=%s", cluster.directory,
                  cluster.directory, cluster.data[0]);
    expect_end("refuses this key", "allow-list", 77);
    cluster_spawn(&cluster, &late, "late", "psd-worker",
                  TINY "--insecure=false --worker-key=%s/w0.key --server-public=%s/op.pub --join=%s --join-timeout=7s",
                  cluster.directory, cluster.directory, cluster.data[0]);
    expect_end("but not the handshake", "server.public is its public key", 69);
}

/* A server 0 with another protocol, which answers all messages of `late` until that ends. */
static void answer_in_another_protocol(void *socket)
{
    const psd_msg_t msg = { .kind = PSD_MSG_REFUSED, .protocol = PSD_PROTOCOL + 1, .code = PSD_REFUSAL_PROTOCOL };
    uint8_t header[PSD_MAX_FRAME_HEADER];
    const size_t n = psd_msg_seal(&msg, NULL, 0, header);
    for (const uint64_t end = cluster_now_ms() + NAMED_MS; cluster_wait(&late, 1) < 0 && cluster_now_ms() < end; cluster_nap()) {
        char id[64], rest[4096];
        int n_id = zmq_recv(socket, id, sizeof id, ZMQ_DONTWAIT), more = n_id > 0;
        for (size_t size = sizeof more; more; zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size))
            zmq_recv(socket, rest, sizeof rest, 0);
        if (n_id > 0) {
            zmq_send(socket, id, (size_t)n_id, ZMQ_SNDMORE);
            zmq_send(socket, header, n, ZMQ_SNDMORE);
            zmq_send(socket, "", 0, 0);
        }
    }
}

Test(rendezvous, another_protocol_is_named_and_76)
{
    static const char *const programs[] = { "psd-worker", "psd" };
    static const char *const flags[] = { TINY, "--servers=2 --status-listen=none " };
    char address[CLUSTER_TEXT], words[32];
    size_t n = sizeof address;
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_ROUTER);
    cr_assert_eq(zmq_bind(socket, "tcp://127.0.0.1:*"), 0);
    cr_assert_eq(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, address, &n), 0);
    snprintf(words, sizeof words, "uses protocol %d", PSD_PROTOCOL + 1);
    for (int i = 0; i < 2; i++) {
        cluster_spawn(&cluster, &late, "late", programs[i], "%s--insecure --join=%s", flags[i], address);
        answer_in_another_protocol(socket);
        cr_expect_eq(late.code, 76, "%s ended with %d", programs[i], late.code);
        expect_named(&late, words, "server 0");
    }
    zmq_close(socket);
    zmq_ctx_term(context);
}

Test(rendezvous, a_missing_server_is_named_with_exit_code_69)
{
    cluster_start_server(&cluster, 2, "--job=psd");
    cluster_spawn(&cluster, &late, "late", "psd-worker", TINY "--insecure --join=%s --join-timeout=7s", cluster.data[0]);
    expect_end("waiting for servers", "missing 1 of 2", 69);
}

Test(rendezvous, a_second_worker_with_the_same_id_exits_with_69_and_names_the_holder)
{
    cluster_start_servers(&cluster, 1, "--workers-min=2");
    cluster_spawn(&cluster, &cluster.worker[0], "first", "psd-worker", TINY "--insecure --join=%s --worker-id=0 --worker-name=anna",
                  cluster.data[0]);
    cluster.n_workers = 1;
    expect_named(&cluster.worker[0], "worker.welcome", "");
    cluster_spawn(&cluster, &late, "late", "psd-worker",
                  TINY "--insecure --join=%s --worker-id=0 --worker-name=bert --join-timeout=7s", cluster.data[0]);
    expect_end("worker 0 is anna", "you are bert", 69);
}

/* ---- the file ---- */

static void write_old_file(const char *job, const char *address)
{
    char path[128];
    snprintf(path, sizeof path, "%s/cluster.json", cluster.directory);
    FILE *file = fopen(path, "w");
    fprintf(file,
            "{\"schema\": \"psd.cluster/1\", \"job\": \"%s\", \"data\": \"%s\", \"status\": \"none\", "
            "\"server_public\": \"\", "
            "\"run\": \"0000000000000001\"}\n",
            job, address);
    fclose(file);
}

Test(rendezvous, a_file_that_does_not_come_is_69)
{
    cluster_spawn(&cluster, &late, "late", "psd-worker", TINY "--insecure --cluster-file=%s/cluster.json --join-timeout=7s",
                  cluster.directory);
    expect_end("worker.waiting", "cluster.json", 69);
}

Test(rendezvous, an_old_file_that_leads_to_another_job_traps_neither_servers_nor_workers)
{
    cluster_start_server(&cluster, 1, "--job=other"); /* at the port of the earlier run's server */
    write_old_file("psd", cluster.data[0]);
    cluster_process_t server[2] = { 0 };
    cluster_spawn(&cluster, &server[1], "ours-1", "psd",
                  "--insecure --cluster-file=%s/cluster.json --servers=2 --rank=1 --status-listen=none", cluster.directory);
    cluster_spawn(&cluster, &late, "late", "psd-worker", TINY "--insecure --cluster-file=%s/cluster.json --stop-steps=3",
                  cluster.directory);
    expect_named(&server[1], "join.refused", "this is job other");
    expect_named(&late, "join.refused", "this is job other");
    cluster_spawn(&cluster, &server[0], "ours-0", "psd",
                  "--insecure --cluster-file=%s/cluster.json --servers=2 --rank=0 --status-listen=none", cluster.directory);
    cr_expect_eq(cluster_wait(&late, DONE_MS), 0);
    cr_expect_eq(cluster_wait(&server[0], DONE_MS), 0);
    cr_expect_eq(cluster_wait(&server[1], DONE_MS), 0);
    char *left = cluster_file(&cluster, "cluster.json");
    cr_expect_null(left, "server 0 has left its file behind");
    free(left);
}

Test(rendezvous, an_old_file_that_stays_ends_with_the_refusal)
{
    cluster_start_server(&cluster, 1, "--job=other");
    write_old_file("psd", cluster.data[0]);
    cluster_spawn(&cluster, &late, "late", "psd-worker", TINY "--insecure --cluster-file=%s/cluster.json", cluster.directory);
    expect_end("this is job other", "you belong to job psd", 76);
    cluster_spawn(&cluster, &late, "late", "psd",
                  "--insecure --cluster-file=%s/cluster.json --servers=2 --rank=1 --status-listen=none", cluster.directory);
    expect_end("this is job other", "you belong to job psd", 76);
}

Test(rendezvous, a_worker_trusts_the_key_in_the_file_and_needs_only_its_own)
{
    cluster_make_keys(&cluster);
    cluster_process_t server = { 0 };
    cluster_spawn(&cluster, &server, "ours", "psd",
                  "--insecure=false --server-key=%s/ps.key --allow=%s/allow --cluster-file=%s/cluster.json "
                  "--listen=tcp://127.0.0.1:0 --status-listen=none",
                  cluster.directory, cluster.directory, cluster.directory);
    cluster_spawn(&cluster, &late, "late", "psd-worker",
                  TINY "--insecure=false --worker-key=%s/w0.key --cluster-file=%s/cluster.json --stop-steps=3", cluster.directory,
                  cluster.directory);
    cr_expect_eq(cluster_wait(&late, DONE_MS), 0);
    cr_expect_eq(cluster_wait(&server, DONE_MS), 0);
}
