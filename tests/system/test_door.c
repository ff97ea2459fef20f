#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "common/net/keys.h"
#include "proto/message.h"
#include "psd/worker.h"
#include "tests/support/said.h"
#include "tests/support/dial.h"

/* A job with keys, and connections to it: from users on the list, from strangers, and from users removed from it. */

enum { DONE_MS = 600000, ASK_MS = 300000, REVOKE_MS = 1000 };

static cluster_t cluster;
static void setup(void)
{
    cluster_open(&cluster);
    cluster_make_keys(&cluster);
}
static void teardown(void) { cluster_close(&cluster); }
TestSuite(door, .init = setup, .fini = teardown, .timeout = 600);

#define WORKER                                                                                                                     \
    "--model-kind=softmax --model-layers=784,10 --data-train=glyphs:3000 --data-test=glyphs:100 "                                  \
    "--data-batch=60 --eval-every=0 "
#define FOREVER WORKER "--stop-steps=100000000"

/* ---- connections by hand ---- */

static void *context;

/* A DEALER at server 0 with the keys of `name`; NULL: without keys. It uses `server`'s public key for the servers. */
static void *dial(const char *name, const char *server)
{
    context = context ? context : zmq_ctx_new();
    return dial_as(&cluster, context, 0, name, server);
}

static void send_message(void *socket, const psd_msg_t *msg)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    uint8_t bytes[SAID_BYTES];
    const size_t n = said_bytes(msg->kind, msg->text, 0, bytes);
    zmq_send(socket, header, psd_msg_seal(msg, bytes, n, header), ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(socket, bytes, n, ZMQ_DONTWAIT);
}

/* The next answer; false when none comes within `wait_ms`. */
static bool hear(void *socket, int wait_ms, psd_msg_t *msg)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    char payload[1 << 16];
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    int n = zmq_recv(socket, header, sizeof header, 0);
    if (n < 0)
        return false;
    int n_payload = zmq_recv(socket, payload, sizeof payload, 0);
    return psd_msg_open(msg, header, (size_t)n, payload, (size_t)n_payload, NULL) == PSD_OK;
}

static const psd_msg_t hello = { .kind = PSD_MSG_HELLO, .protocol = PSD_PROTOCOL, .seq = 1234, .text = "psd w:1" };

static double received(void) { return cluster_metric(&cluster, 0, "psd_received_bytes_total{shard=\"0\"}"); }
static double refused(const char *reason)
{
    char series[96];
    snprintf(series, sizeof series, "psd_messages_rejected_total{shard=\"0\",reason=\"%s\"}", reason);
    return cluster_metric(&cluster, 0, series);
}

/* ---- refused connections ---- */

/* Bytes of a ZMTP greeting: a version, and a mechanism. */
static void greet(uint8_t major, const char *mechanism)
{
    uint8_t bytes[64] = { 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, major };
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_usec = 20000 };
    to.sin_port = htons((uint16_t)atoi(strrchr(cluster.data[0], ':') + 1));
    strncpy((char *)bytes + 12, mechanism, 20);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    /* Then the next frames of such a client: READY for version 3, its identity for earlier ones; and a message. */
    static const uint8_t ready[] = "\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06"
                                   "DEALER\x08Identity\0\0\0";
    static const uint8_t message[] = "\x01\x04head\0\0";
    const size_t n = major >= 3 ? sizeof bytes : major ? 12 : 10;
    bool sent = send(fd, bytes, n, MSG_NOSIGNAL) > 0 && send(fd, ready, sizeof ready - 1, MSG_NOSIGNAL) > 0 &&
                send(fd, message, sizeof message - 1, MSG_NOSIGNAL) > 0;
    while (sent && recv(fd, bytes, sizeof bytes, 0) > 0)
        ;
    close(fd);
}

/* A client of PLAIN. */
static void *dial_plain(void)
{
    const int linger = 0;
    context = context ? context : zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket, ZMQ_PLAIN_USERNAME, "w0", 2);
    zmq_setsockopt(socket, ZMQ_PLAIN_PASSWORD, "w0", 2);
    zmq_connect(socket, cluster.data[0]);
    return socket;
}

static void await_refusals(double n)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS;
         cluster_metric(&cluster, 0, "psd_connections_refused_total{shard=\"0\"}") < n; cluster_nap())
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "not %g connections are refused", n);
}

/* Each comes this often. */
static unsigned tries(void) { return cluster_campaign() ? 1250 : 40; }

Test(door, no_message_from_a_stranger_arrives)
{
    cluster_allow(&cluster, "w7"); /* is revoked before it comes */
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    const double before = received();
    enum { KINDS = 6, AT_ONCE = 10 };
    unsigned done = 0;
    for (unsigned i = 0; i < tries(); i += AT_ONCE) {
        void *socket[KINDS * AT_ONCE];
        for (unsigned k = 0; k < AT_ONCE; k++) {
            socket[k * KINDS] = dial("nobody", "ps");
            socket[k * KINDS + 1] = dial("w7", "ps");
            socket[k * KINDS + 2] = dial("w0", "nobody"); /* expects another server key */
            socket[k * KINDS + 3] = dial(NULL, NULL);
            socket[k * KINDS + 4] = dial_plain();
            socket[k * KINDS + 5] = dial("nobody", "nobody");
            for (unsigned j = 0; j < KINDS; j++)
                send_message(socket[k * KINDS + j], &hello);
            greet(3, "NULL");
            greet(3, "PLAIN");
            greet(3, "CURVE");
            greet(2, "");
            greet(1, "");
            greet(0, "");
            done += KINDS + 6;
        }
        await_refusals(2.0 * (i + AT_ONCE)); /* those whose keys are on no list */
        psd_msg_t msg;
        for (unsigned j = 0; j < KINDS * AT_ONCE; j++) {
            cr_expect_not(hear(socket[j], 0, &msg), "kind %u is answered", j % KINDS);
            zmq_close(socket[j]);
        }
    }
    cr_assert_eq(received(), before, "%g bytes", received() - before);
    /* The same message from a user on the list does arrive: the count can rise. */
    void *socket = dial("w0", "ps");
    psd_msg_t msg;
    send_message(socket, &hello);
    cr_assert(hear(socket, DONE_MS, &msg));
    cr_assert_eq(msg.kind, PSD_MSG_WELCOME);
    zmq_close(socket);
    for (const uint64_t end = cluster_now_ms() + DONE_MS; received() == before && cluster_now_ms() < end;)
        cluster_nap();
    cr_assert_gt(received(), before);
    fprintf(stderr, "%u unauthorised tries, none delivered\n", done);
}

Test(door, a_key_opens_what_its_role_may_and_no_more)
{
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, FOREVER);
    cluster_await_steps(&cluster, 5);
    static const char *const names[] = { "w1", "mon", "op", "ps" };
    static const struct {
        psd_msg_t msg;
        const char *who; /* may send it */
    } messages[] = {
        { { .kind = PSD_MSG_HELLO, .protocol = PSD_PROTOCOL, .seq = 99, .text = "psd w:1" }, "w1" },
        { { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL, .seq = 98, .text = "psd resume" }, "op" },
        { { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = 97, .text = "psd tcp://127.0.0.1:1 settings" }, "ps" },
        { { .kind = PSD_MSG_PROBE, .protocol = PSD_PROTOCOL, .worker = 0, .incarnation = 1, .parts = 1 }, "w1" },
    };
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        void *socket = dial(names[n], "ps");
        for (size_t m = 0; m < sizeof messages / sizeof *messages; m++) {
            psd_msg_t msg = messages[m].msg, answer;
            uint8_t header[PSD_MAX_FRAME_HEADER], payload[SAID_BYTES] = { 1 /* the bitmap of a probe */ };
            const size_t n_payload = msg.kind == PSD_MSG_PROBE ? 1 : said_bytes(msg.kind, msg.text, 0, payload);
            zmq_send(socket, header, psd_msg_seal(&msg, payload, n_payload, header), ZMQ_SNDMORE);
            zmq_send(socket, payload, n_payload, 0);
            cr_assert(hear(socket, DONE_MS, &answer), "%s, %s", names[n], psd_kind_name(msg.kind));
            const bool may = !strcmp(names[n], messages[m].who);
            const bool no = answer.kind == PSD_MSG_REFUSED && answer.code == PSD_REFUSAL_SENDER;
            cr_expect_eq(may, !no, "%s, %s: %s %s", names[n], psd_kind_name(msg.kind), psd_kind_name(answer.kind), answer.text);
        }
        zmq_close(socket);
    }
    cr_expect_geq(refused("sender"), 0);
    const uint64_t steps = (uint64_t)cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}");
    cluster_await_steps(&cluster, steps + 20);
}

/* A user with another key tries to be worker 0, and to send messages for it, knowing everything except its nonce. */
Test(door, a_worker_with_a_key_cannot_act_as_another_worker)
{
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, FOREVER);
    cluster_await_steps(&cluster, 5);
    void *socket = dial("w1", "ps");
    psd_msg_t msg = hello, answer;
    msg.code = 1;
    send_message(socket, &msg);
    cr_assert(hear(socket, DONE_MS, &answer));
    cr_expect(answer.kind == PSD_MSG_REFUSED && answer.code == PSD_REFUSAL_WORKER, "%s", psd_kind_name(answer.kind));
    msg.code = 0;
    send_message(socket, &msg);
    cr_assert(hear(socket, DONE_MS, &answer));
    cr_assert_eq(answer.kind, PSD_MSG_WELCOME, "it is a worker of its own");
    static const psd_kind_t kinds[] = { PSD_MSG_HEARTBEAT, PSD_MSG_LEAVE, PSD_MSG_SETTING, PSD_MSG_ATTACH };
    const uint64_t job = answer.job;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        msg = (psd_msg_t){ .kind = kinds[k], .protocol = PSD_PROTOCOL, .job = job, .worker = 0, .incarnation = 1, .seq = 1234 };
        send_message(socket, &msg);
        cr_assert(hear(socket, DONE_MS, &answer), "%s", psd_kind_name(kinds[k]));
        cr_expect(answer.kind == PSD_MSG_FENCED || answer.kind == PSD_MSG_REFUSED, "%s: %s", psd_kind_name(kinds[k]),
                  psd_kind_name(answer.kind));
    }
    zmq_close(socket);
    const uint64_t steps = (uint64_t)cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}");
    cluster_await_steps(&cluster, steps + 20);
}

/* ---- removed users ---- */

/* Milliseconds until this has happened to the connection that is watched. */
static uint64_t await_event(void *monitor, uint16_t event_number, uint64_t since)
{
    zmq_pollitem_t item = { .socket = monitor, .events = ZMQ_POLLIN };
    for (const uint64_t end = since + DONE_MS; cluster_now_ms() < end;) {
        uint8_t event[6];
        char address[256];
        uint16_t number = 0;
        if (zmq_poll(&item, 1, 100) < 1)
            continue;
        zmq_recv(monitor, event, sizeof event, 0);
        zmq_recv(monitor, address, sizeof address, 0);
        memcpy(&number, event, sizeof number);
        if (number == event_number)
            return cluster_now_ms() - since;
    }
    return DONE_MS;
}

/* Wait until that server has read this many lists. */
static void await_lists(unsigned server, unsigned n)
{
    for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
        unsigned lists = 0;
        char *log = cluster_printed(&cluster, &cluster.server[server], "err");
        for (const char *at = log; (at = strstr(at, "id=allow.read")); at++)
            lists++;
        free(log);
        if (lists >= n)
            return;
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "server %u has read %u lists of %u", server, lists, n);
    }
}

Test(door, a_user_removed_from_the_list_is_out_within_a_second_and_the_others_continue)
{
    cluster_start_servers(&cluster, 2, "--workers-min=1 --workers-want=2 --lease=1s");
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, FOREVER);
    cluster_await_steps(&cluster, 20);
    /* In addition to the worker, a connection with the same key, whose end the test observes. */
    void *socket = dial("w1", "ps");
    zmq_socket_monitor(socket, "inproc://door", ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH);
    void *monitor = zmq_socket(context, ZMQ_PAIR);
    zmq_connect(monitor, "inproc://door");
    psd_msg_t answer;
    send_message(socket, &hello);
    cr_assert(hear(socket, DONE_MS, &answer));
    const uint64_t then = cluster_now_ms();
    cluster_allow(&cluster, "w1");
    const uint64_t took = await_event(monitor, ZMQ_EVENT_DISCONNECTED, then);
    cr_expect_leq(took, REVOKE_MS, "the connection was closed after %llu ms", (unsigned long long)took);
    send_message(socket, &hello);
    cr_expect_lt(await_event(monitor, ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, then), DONE_MS, "it is not let in again");
    cr_expect_not(hear(socket, 0, &answer), "and nothing it says is answered");
    cr_expect_eq(cluster_wait(&cluster.worker[1], DONE_MS), 77);
    char *log = cluster_printed(&cluster, &cluster.worker[1], "err");
    cr_expect_not_null(strstr(log, "refuses this key"), "%s", log);
    free(log);
    const uint64_t steps = (uint64_t)cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}");
    cluster_await_steps(&cluster, steps + 50);
    cr_expect_eq(cluster_wait(&cluster.worker[0], 0), -1, "the other trains on");
    cluster_allow(&cluster, NULL);
    for (unsigned s = 0; s < 2; s++)
        await_lists(s, 3); /* that of the start, the one without it, and this */
    cluster_start_worker_at(&cluster, 1, WORKER "--stop-steps=100000000");
    for (const uint64_t end = cluster_now_ms() + DONE_MS; cluster_metric(&cluster, 0, "psd_workers{state=\"live\"}") < 2;
         cluster_nap())
        if (cluster_now_ms() > end)
            cluster_give_up(&cluster, "who is on the list again does not come in");
    zmq_close(monitor);
    zmq_close(socket);
    fprintf(stderr, "revoked after %llu ms\n", (unsigned long long)took);
}

Test(door, a_list_that_is_wrong_changes_nothing_and_is_named)
{
    char command[256];
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, FOREVER);
    cluster_await_steps(&cluster, 5);
    snprintf(command, sizeof command, "cd %s && { cat allow; echo w0 worker x; } >x && mv x allow", cluster.directory);
    cr_assert_eq(system(command), 0);
    kill(cluster.server[0].pid, SIGHUP);
    for (const uint64_t end = cluster_now_ms() + DONE_MS;; cluster_nap()) {
        char *log = cluster_printed(&cluster, &cluster.server[0], "err");
        const bool named = strstr(log, "id=allow.refused") && strstr(log, "is not a public key");
        free(log);
        if (named)
            break;
        cr_assert_lt(cluster_now_ms(), end);
    }
    const uint64_t steps = (uint64_t)cluster_metric(&cluster, 0, "psd_steps_total{shard=\"0\"}");
    cluster_await_steps(&cluster, steps + 20);
}

/* ---- excess bytes ---- */

Test(door, a_user_with_more_bytes_than_it_may_have_is_refused)
{
    char command[256];
    snprintf(command, sizeof command, "sed -i '/^w0 /s/$/ * 1Ki/' %s/allow", cluster.directory);
    cr_assert_eq(system(command), 0);
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, FOREVER);
    cr_expect_eq(cluster_wait(&cluster.worker[0], DONE_MS), 76);
    char *log = cluster_printed(&cluster, &cluster.worker[0], "err");
    cr_expect_not_null(strstr(log, "bytes of messages here; its limit is 1024"), "%s", log);
    free(log);
    for (const uint64_t end = cluster_now_ms() + DONE_MS; refused("full") == 0; cluster_nap())
        cr_assert_lt(cluster_now_ms(), end);
}

/* ---- the job itself ---- */

static void sha256_of_job(char sha256[65])
{
    cluster_start_servers(&cluster, 2, "--workers-min=2 --optimizer=adam(lr=0.002)");
    for (int w = 0; w < 2; w++)
        cluster_start_worker(&cluster, WORKER "--stop-steps=60");
    cluster_finish(&cluster, DONE_MS);
    json_t *summary = cluster_summary(&cluster, 0);
    snprintf(sha256, 65, "%s", json_string_value(json_object_get(summary, "sha256")));
    json_decref(summary);
}

Test(door, a_job_with_keys_ends_with_the_same_bits_as_one_without)
{
    char with[65], without[65];
    sha256_of_job(with);
    cluster_close(&cluster);
    cluster_open(&cluster);
    sha256_of_job(without);
    cr_assert_str_eq(with, without);
    cr_assert_eq(strlen(with), 64);
}

/* Run a program to its end; returns its exit code, with its output in `said`. */
static int ask(char said[2048], const char *program, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int ask(char said[2048], const char *program, const char *format, ...)
{
    static unsigned n;
    char words[512], name[16];
    cluster_process_t process = { 0 };
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    snprintf(name, sizeof name, "ask-%u", n++);
    cluster_spawn(&cluster, &process, name, program, "%s", words);
    int code = cluster_wait(&process, ASK_MS);
    char *out = cluster_printed(&cluster, &process, code ? "err" : "out");
    snprintf(said, 2048, "%s", out);
    free(out);
    return code;
}

static bool file_has(const char *path, const char *text)
{
    static char bytes[4 << 20];
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file)
        fclose(file);
    return memmem(bytes, n, text, strlen(text)) != NULL;
}

Test(door, psdctl_run_gives_its_children_the_keys_that_the_job_has)
{
    char said[2048];
    const char *dir = cluster.directory;
#define RUN                                                                                                                        \
    "psdctl", "run --insecure=false --workers-min=2 --servers=2 --stop-steps=20 --model-kind=softmax "                             \
              "--model-layers=784,10 --data-train=glyphs:500 --data-test=glyphs:100 --listen=tcp://127.0.0.1:0 "                   \
              "--status-listen=127.0.0.1:0 --run-dir=%s/run"
    cr_expect_eq(ask(said, RUN " --server-key=%s/ps.key --worker-key=%s/w0.key --allow=%s/allow", dir, dir, dir, dir), 0, "%s",
                 said);
    cr_expect_not_null(strstr(said, "done"), "%s", said);
    char path[600];
    snprintf(path, sizeof path, "%s/run/logs/server-0.log", dir);
    cr_expect(file_has(path, "id=allow.read"), "the servers ask who comes");
    cr_expect_eq(ask(said, RUN " --server-key=%s/ps.key --allow=%s/allow", dir, dir, dir), 78);
    cr_expect_not_null(strstr(said, "worker.key is missing"), "%s", said);
    cr_expect_eq(ask(said, RUN, dir), 0, "without keys, it is as --insecure: %s", said);
}

Test(door, an_operator_needs_the_key_of_one)
{
    char said[2048];
    const char *dir = cluster.directory;
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    cluster_start_worker(&cluster, FOREVER);
    cluster_await_steps(&cluster, 5);
    const char *at = cluster.data[0];
    cr_expect_eq(ask(said, "psdctl", "pause --join=%s --key=%s/w1.key --server-public=%s/ps.pub", at, dir, dir), 76);
    cr_expect_not_null(strstr(said, "w1 has the role worker, which may not send ADMIN"), "%s", said);
    cr_expect_eq(ask(said, "psdctl", "pause --join=%s --key=%s/nobody.key --server-public=%s/ps.pub", at, dir, dir), 77);
    cr_expect_not_null(strstr(said, "refuses this key"), "%s", said);
    cr_expect_neq(ask(said, "psdctl", "pause --join=%s --timeout=2", at), 0);
    cr_expect_eq(ask(said, "psdctl", "pause --join=%s --key=%s/op.key --server-public=%s/ps.pub", at, dir, dir), 0, "%s", said);
    cr_expect_eq(ask(said, "psdctl", "resume --join=%s --key=%s/op.key --server-public=%s/ps.pub", at, dir, dir), 0, "%s", said);
}

Test(door, a_missing_or_contradictory_key_is_named_with_its_exit_code)
{
    char said[2048];
    const char *dir = cluster.directory;
#define PSD "psd", "--listen=tcp://127.0.0.1:0 --status-listen=none "
    cr_expect_eq(ask(said, PSD "--insecure=false"), 78);
    cr_expect(strstr(said, "--server-key FILE") && strstr(said, "--insecure"), "%s", said);
    cr_expect_eq(ask(said, "psd", "--listen=tcp://0.0.0.0:0 --advertise=x"), 78);
    cr_expect(strstr(said, "give keys") && strstr(said, "127.0.0.1"), "%s", said);
    cr_expect_eq(ask(said, PSD "--insecure=false --server-key=%s/ps.key", dir), 78);
    cr_expect(strstr(said, "add --allow FILE"), "%s", said);
    cr_expect_eq(ask(said, PSD "--allow=%s/allow", dir), 78);
    cr_expect_eq(ask(said, PSD "--insecure=false --server-key=%s/ps.key --allow=%s/none", dir, dir), 66);
    cr_expect_eq(ask(said, PSD "--insecure=false --server-key=%s/ps.pub --allow=%s/allow", dir, dir), 78);
    cr_expect_eq(ask(said, PSD "--insecure=false --server-key=%s/ps.key --allow=%s/ps.pub", dir, dir), 78);
    cluster_start_servers(&cluster, 1, "--workers-min=1");
#define JOIN "psd-worker", "--model-kind=softmax --model-layers=784,10 --data-train=glyphs:100 --join-timeout=2s --join=%s "
    const char *at = cluster.data[0];
    cr_expect_eq(ask(said, JOIN "--insecure=false --worker-key=%s/nobody.key --server-public=%s/ps.pub", at, dir, dir), 77);
    cr_expect_not_null(strstr(said, "add a line with it"), "%s", said);
    cr_expect_eq(ask(said, JOIN "--insecure=false --worker-key=%s/w0.key --server-public=%s/w1.pub", at, dir, dir), 69);
    cr_expect_not_null(strstr(said, "server.public is its public key"), "%s", said);
    cr_expect_eq(ask(said, JOIN "--insecure=false --worker-key=%s/op.key --server-public=%s/ps.pub", at, dir, dir), 76);
    int code = ask(said, JOIN "--seed=1", at);
    cr_expect(code == 69 || code == 77, "%d: %s", code, said);
    cr_expect_eq(ask(said, JOIN "--insecure=false", at), 78);
    cr_expect_eq(
        ask(said, PSD "--insecure=false --server-key=%s/nobody.key --allow=%s/allow --join-timeout=2s --join=%s", dir, dir, at),
        69);
    cr_expect_not_null(strstr(said, "server.public is its public key"), "all servers have one key pair: %s", said);
}

Test(door, a_program_that_was_built_before_there_were_keys_runs_as_it_did)
{
    cluster.keys = false;
    cluster_start_servers(&cluster, 1, "--workers-min=1");
    psd_worker_config_t config = { .size = offsetof(psd_worker_config_t, key),
                                   .join = cluster.data[0],
                                   .key = "this is not there to be read" };
    psd_worker_t *worker;
    cr_expect_eq(psd_worker_connect(&worker, &config), 0, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    config = (psd_worker_config_t){ .size = sizeof config, .join = cluster.data[0] };
    cr_expect_eq(psd_worker_connect(&worker, &config), PSD_W_ECONFIG);
    cr_expect_not_null(strstr(psd_worker_error(worker), "the other end cannot be verified"), "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    config = (psd_worker_config_t){ .size = sizeof config, .join = "tcp://10.0.0.1:1", .insecure = 1 };
    cr_expect_eq(psd_worker_connect(&worker, &config), PSD_W_ECONFIG);
    cr_expect_not_null(strstr(psd_worker_error(worker), "is not on this machine"), "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
}

/* ---- places where a secret could show ---- */

/* In a file of the directory that is not a key. */
static void expect_in_no_file(const char *directory, const char *secret)
{
    DIR *dir = opendir(directory);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        const char *end = strrchr(entry->d_name, '.');
        cr_expect((end && !strcmp(end, ".key")) || !file_has(path, secret), "%s", path);
    }
    closedir(dir);
}

Test(door, no_secret_is_in_arguments_environments_logs_status_or_core)
{
    static const char *const names[] = { "ps.key", "w0.key" };
    static const char *const pages[] = { "/", "/status", "/metrics", "/readyz?verbose" };
    cluster_start_servers(&cluster, 1, "--workers-min=1 --log-level=debug");
    cluster_start_worker(&cluster, FOREVER " --log-level=debug");
    cluster_await_steps(&cluster, 20);
    const cluster_process_t *processes[] = { &cluster.server[0], &cluster.worker[0] };
    for (size_t k = 0; k < 2; k++) {
        char secret[PSD_KEY_TEXT], path[64];
        dial_read_key(&cluster, names[k], secret);
        for (size_t p = 0; p < 2; p++) {
            static const char *const files[] = { "cmdline", "environ", "status" };
            for (size_t f = 0; f < 3; f++) {
                snprintf(path, sizeof path, "/proc/%d/%s", (int)processes[p]->pid, files[f]);
                cr_expect_not(file_has(path, secret), "%s", path);
            }
            snprintf(path, sizeof path, "/proc/%d/cmdline", (int)processes[p]->pid);
            cr_expect(file_has(path, "--insecure=false"), "the file is read");
            snprintf(path, sizeof path, "/proc/%d/limits", (int)processes[p]->pid);
            cr_expect(file_has(path, "Max core file size        0                    0"), "%s", path);
        }
        for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
            char *page = cluster_get(&cluster, 0, pages[i]);
            cr_expect(page && !strstr(page, secret), "%s", pages[i]);
            free(page);
        }
        expect_in_no_file(cluster.directory, secret);
    }
}
