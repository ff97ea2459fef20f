/* bench_exchange.c - push + step + pull through a real psd over TCP on loopback, against bare libzmq that moves the same
 * bytes in the same pieces, in one run, turn by turn; and the round trip of a small model. Prints ratios.
 *
 *     bench_exchange [--parameters N] [--rounds N] [--optimizer RULE] [--keys 1] [--profile 1]
 *
 * With --keys psd encrypts; with --profile it runs alone, for a profiler.
 *
 * The bare side is the least that any parameter server on ZeroMQ must do: one ROUTER and one DEALER in two processes,
 * 1 MiB payloads behind a small header, zero-copy sends. It answers in two ways: "echo" sends every message back at once,
 * which no synchronous round can, and "barrier" sends them back when all have come, as a round of one worker must. Both
 * are measured with the C library's heap as it comes, and with the heap kept as psd keeps its own. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "common/config/usage.h"
#include "common/net/keys.h"
#include "psd/worker.h"

enum { CHUNK = 1 << 20, HEADER = 100 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_exchange: %s\n", what);
    exit(1);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_size);
    return x[n / 2];
}

/* ---- bare libzmq ---- */

static void keep(void *data, void *hint) { (void)data, (void)hint; }

/* Bytes 0 and 1..4 of the header: whether to hold the message until `total` have come. */
static void pack_header(char header[HEADER], int hold, uint32_t total)
{
    memset(header, 0, HEADER);
    header[0] = (char)hold;
    memcpy(header + 1, &total, sizeof total);
}

static void pass_on(void *router, zmq_msg_t part[3])
{
    zmq_msg_send(&part[0], router, ZMQ_SNDMORE);
    zmq_msg_send(&part[1], router, ZMQ_SNDMORE);
    zmq_msg_send(&part[2], router, 0);
}

/* Echo every message (routing id, header, payload), or all of them when the last has come. */
static void echo(int port_fd)
{
    enum { MOST = 4096 };
    static zmq_msg_t held[MOST][3];
    char endpoint[128];
    size_t n = sizeof endpoint, n_held = 0;
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    if (zmq_bind(router, "tcp://127.0.0.1:*") || zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &n))
        die("cannot bind");
    if (write(port_fd, endpoint, sizeof endpoint) != sizeof endpoint)
        die("cannot tell the port");
    for (;;) {
        zmq_msg_t *part = held[n_held];
        uint32_t total;
        for (int i = 0; i < 3; i++) {
            zmq_msg_init(&part[i]);
            if (zmq_msg_recv(&part[i], router, 0) < 0)
                exit(0);
        }
        const char *header = zmq_msg_data(&part[1]);
        memcpy(&total, header + 1, sizeof total);
        if (!header[0])
            pass_on(router, part);
        else if (++n_held == total || n_held == MOST)
            for (; n_held; n_held--)
                pass_on(router, held[n_held - 1]);
    }
}

/* Push `data` in chunks, and take as many chunks back into it; the seconds. */
static double push_and_pull(void *dealer, char *data, size_t n_bytes, int hold)
{
    char header[HEADER];
    pack_header(header, hold, (uint32_t)((n_bytes + CHUNK - 1) / CHUNK));
    double start = now_s();
    size_t sent = 0;
    for (size_t at = 0; at < n_bytes; at += CHUNK, sent++) {
        zmq_msg_t msg;
        size_t n = n_bytes - at < CHUNK ? n_bytes - at : CHUNK;
        zmq_msg_init_data(&msg, data + at, n, keep, NULL);
        zmq_send(dealer, header, sizeof header, ZMQ_SNDMORE);
        zmq_msg_send(&msg, dealer, 0);
    }
    for (size_t i = 0; i < sent; i++) {
        zmq_msg_t head, body;
        zmq_msg_init(&head);
        zmq_msg_init(&body);
        zmq_msg_recv(&head, dealer, 0);
        zmq_msg_recv(&body, dealer, 0);
        /* The weights must end up in the caller's array, as psd's do. */
        memcpy(data + i * CHUNK, zmq_msg_data(&body), zmq_msg_size(&body));
        zmq_msg_close(&head);
        zmq_msg_close(&body);
    }
    return now_s() - start;
}

/* The worker's side, in a process of its own: a round for every byte read, which says whether to hold. */
static void drive(int order_fd, int answer_fd, const char *endpoint, size_t n_bytes)
{
    int hwm = 0;
    char *data = malloc(n_bytes), hold;
    void *dealer = zmq_socket(zmq_ctx_new(), ZMQ_DEALER);
    memset(data, 1, n_bytes);
    zmq_setsockopt(dealer, ZMQ_SNDHWM, &hwm, sizeof hwm);
    zmq_setsockopt(dealer, ZMQ_RCVHWM, &hwm, sizeof hwm);
    if (zmq_connect(dealer, endpoint))
        die("cannot connect");
    while (read(order_fd, &hold, 1) == 1) {
        double seconds = push_and_pull(dealer, data, n_bytes, hold);
        if (write(answer_fd, &seconds, sizeof seconds) != sizeof seconds)
            break;
    }
    exit(0);
}

/* As psd does for itself: received megabytes are kept in one heap, not mapped each anew. */
static void keep_heap(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
}

static pid_t fork_or_die(int kept)
{
    pid_t pid = fork();
    if (pid < 0)
        die("cannot fork");
    if (!pid)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!pid && kept)
        keep_heap();
    return pid;
}

typedef struct bare {
    pid_t server, worker;
    int order_fd, answer_fd;
} bare_t;

static bare_t bare_start(size_t n_bytes, int kept)
{
    bare_t self;
    int port[2], order[2], answer[2];
    char endpoint[128];
    if (pipe(port) || pipe(order) || pipe(answer))
        die("no pipe");
    if (!(self.server = fork_or_die(kept)))
        echo(port[1]);
    if (read(port[0], endpoint, sizeof endpoint) != sizeof endpoint)
        die("no port");
    if (!(self.worker = fork_or_die(kept)))
        drive(order[0], answer[1], endpoint, n_bytes);
    self.order_fd = order[1];
    self.answer_fd = answer[0];
    return self;
}

static double bare_round(const bare_t *self, int hold)
{
    double seconds = 0;
    char order = (char)hold;
    if (write(self->order_fd, &order, 1) != 1 || read(self->answer_fd, &seconds, sizeof seconds) != sizeof seconds)
        die("the bare side has ended");
    return seconds;
}

static void bare_stop(const bare_t *self)
{
    kill(self->server, SIGKILL);
    kill(self->worker, SIGKILL);
    waitpid(self->server, NULL, 0);
    waitpid(self->worker, NULL, 0);
}

/* ---- psd ---- */

typedef struct cluster {
    pid_t pid;
    psd_worker_t *worker;
    float *weights, *gradient;
} cluster_t;

/* Where keys for both are, with --keys 1; "": none, they speak in the clear. */
static char keys[64];

static void make_keys(void)
{
    static const char *const users[] = { "ps server", "w worker" };
    char name[80], path[80], public[PSD_KEY_TEXT];
    snprintf(keys, sizeof keys, "/tmp/psd-bench-XXXXXX");
    if (!mkdtemp(keys))
        die("cannot make a directory for keys");
    snprintf(path, sizeof path, "%s/allow", keys);
    FILE *allow = fopen(path, "w");
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s/%.*s", keys, (int)strcspn(users[i], " "), users[i]);
        if (!allow || psd_keys_write(name, public, NULL) != PSD_OK)
            die("cannot write keys");
        fprintf(allow, "%s %s\n", users[i], public);
    }
    fclose(allow);
}

static void remove_keys(void)
{
    static const char *const files[] = { "allow", "ps.key", "ps.pub", "w.key", "w.pub" };
    char path[80];
    for (size_t i = 0; *keys && i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", keys, files[i]);
        unlink(path);
    }
    if (*keys)
        rmdir(keys);
}

static void start_server(cluster_t *self, const char *optimizer, char endpoint[128])
{
    char program[512], line[512] = "", key[96], allow[96];
    snprintf(key, sizeof key, "--%s%s%s", *keys ? "server-key=" : "insecure", keys, *keys ? "/ps.key" : "");
    snprintf(allow, sizeof allow, "--%s%s%s", *keys ? "allow=" : "insecure", keys, *keys ? "/allow" : "");
    int out[2];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 8);
    program[n > 0 ? n : 0] = '\0';
    snprintf(program + strlen(dirname(program)), 8, "/psd");
    if (pipe(out) || (self->pid = fork()) < 0)
        die("cannot fork");
    if (!self->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        execl(program, "psd", key, allow, "--listen", "tcp://127.0.0.1:0", "--status-listen", "none", "--job", "bench",
              "--log-level", "warn", "--optimizer", optimizer, (char *)NULL);
        die("cannot start psd");
    }
    close(out[1]);
    for (size_t at = 0; at + 1 < sizeof line && !strchr(line, '\n'); at++)
        if (read(out[0], line + at, 1) != 1)
            die("psd ended before it was ready");
    if (sscanf(line, "psd ready shard=0/1 data=%127s", endpoint) != 1)
        die(line);
}

static cluster_t cluster_start(size_t n, const char *optimizer)
{
    cluster_t self = { .weights = calloc(n, sizeof(float)), .gradient = calloc(n, sizeof(float)) };
    char endpoint[128];
    start_server(&self, optimizer, endpoint);
    for (size_t i = 0; i < n; i++)
        self.gradient[i] = 1e-3f;
    char key[96], server[96];
    snprintf(key, sizeof key, "%s/w.key", keys);
    snprintf(server, sizeof server, "%s/ps.pub", keys);
    psd_worker_config_t config = { .size = sizeof config,
                                   .join = endpoint,
                                   .job = "bench",
                                   .insecure = !*keys,
                                   .key = *keys ? key : NULL,
                                   .server_public = *keys ? server : NULL };
    uint64_t shape[] = { n };
    psd_tensor_t tensor = { "w", shape, 1, self.weights };
    if (psd_worker_connect(&self.worker, &config) || psd_worker_register(self.worker, &tensor, 1))
        die(psd_worker_error(self.worker));
    return self;
}

static double cluster_round(cluster_t *self)
{
    psd_ticket_t ticket;
    double start = now_s();
    if (psd_worker_exchange(self->worker, (const float *const[]){ self->gradient }, 64, 1.0, &ticket) ||
        psd_worker_wait(self->worker, ticket, 60000))
        die(psd_worker_error(self->worker));
    return now_s() - start;
}

static void cluster_stop(cluster_t *self)
{
    psd_worker_leave(self->worker, 1, 5000);
    psd_worker_close(&self->worker);
    waitpid(self->pid, NULL, 0);
    free(self->weights);
    free(self->gradient);
}

/* ---- what is printed ---- */

enum { PLAIN_BARRIER, PLAIN_ECHO, KEPT_BARRIER, KEPT_ECHO, BARE_WAYS };

static const char *const WAY[BARE_WAYS] = { "barrier", "echo", "barrier, heap as psd's", "echo, heap as psd's" };

static void print_ratio(const char *way, double *bare, double *ratio, size_t rounds, double bytes)
{
    double m = median(bare, rounds);
    printf("  against bare libzmq, %-24s %5.1f ms (%.2f GB/s): %3.0f %% (median of %zu ratios)\n", way, m * 1e3, bytes / m * 1e-9,
           median(ratio, rounds) * 100, rounds);
}

static void compare_throughput(size_t n, size_t rounds, const char *optimizer)
{
    double *t = calloc((1 + 2 * BARE_WAYS) * rounds, sizeof *t), *psd = t, bytes = 2.0 * (double)n * sizeof(float);
    double *bare = t + rounds, *ratio = bare + BARE_WAYS * rounds;
    bare_t sides[] = { bare_start(n * sizeof(float), 0), bare_start(n * sizeof(float), 1) };
    cluster_t c = cluster_start(n, optimizer);
    for (int i = 0; i < 3; i++) {
        cluster_round(&c);
        bare_round(&sides[0], i & 1);
        bare_round(&sides[1], i & 1);
    }
    for (size_t i = 0; i < rounds; i++) {
        psd[i] = cluster_round(&c);
        for (size_t way = 0; way < BARE_WAYS; way++) {
            bare[way * rounds + i] = bare_round(&sides[way / 2], way % 2 == 0);
            ratio[way * rounds + i] = bare[way * rounds + i] / psd[i];
        }
    }
    double m = median(psd, rounds);
    printf("%zu parameters, %s, 1 worker, 1 server, TCP: push+step+pull %.1f ms (%.2f GB/s)\n", n, optimizer, m * 1e3,
           bytes / m * 1e-9);
    for (size_t way = 0; way < BARE_WAYS; way++)
        print_ratio(WAY[way], bare + way * rounds, ratio + way * rounds, rounds, bytes);
    cluster_stop(&c);
    bare_stop(&sides[0]);
    bare_stop(&sides[1]);
    free(t);
}

static void measure_round_trip(size_t n, size_t rounds)
{
    double *t = calloc(rounds, sizeof *t);
    cluster_t c = cluster_start(n, "sgd(lr=0.1)");
    for (int i = 0; i < 100; i++)
        cluster_round(&c);
    for (size_t i = 0; i < rounds; i++)
        t[i] = cluster_round(&c);
    double m = median(t, rounds);
    printf("%zu parameters, sgd, TCP: round trip of push+step+pull %.1f us median, %.1f us 99th percentile of %zu\n", n, m * 1e6,
           t[rounds * 99 / 100] * 1e6, rounds);
    cluster_stop(&c);
    free(t);
}

enum { PARAMETERS, ROUNDS, OPTIMIZER, KEYS, PROFILE };
static const psd_option_t flags[] = {
    [PARAMETERS] = { .key = "parameters", .type = PSD_OPTION_UINT64, .preset = "25165824", .range = "1..", .help = "of the model" },
    [ROUNDS] = { .key = "rounds",
                 .type = PSD_OPTION_UINT64,
                 .preset = "30",
                 .range = "1..",
                 .help = "of which the median is told" },
    [OPTIMIZER] = { .key = "optimizer", .type = PSD_OPTION_RULE, .preset = "sgd(lr=0.01)", .help = "of the server" },
    [KEYS] = { .key = "keys", .type = PSD_OPTION_INT, .preset = "0", .range = "0..1", .help = "1: all is encrypted" },
    [PROFILE] = { .key = "profile",
                  .type = PSD_OPTION_INT,
                  .preset = "0",
                  .range = "0..1",
                  .help = "1: rounds alone, for a profiler" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "bench_exchange",
                                   .words = "",
                                   .does = "time rounds of a server and a worker",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const size_t n = given->value[PARAMETERS].u, rounds = given->value[ROUNDS].u;
    const char *optimizer = given->value[OPTIMIZER].text;
    if (given->value[KEYS].i)
        make_keys();
    signal(SIGPIPE, SIG_IGN);
    if (given->value[PROFILE].i) {
        cluster_t c = cluster_start(n, optimizer);
        for (size_t i = 0; i < rounds; i++)
            cluster_round(&c);
        cluster_stop(&c);
        remove_keys();
        return 0;
    }
    measure_round_trip(1024, 5000);
    compare_throughput(n, rounds, optimizer);
    remove_keys();
    return 0;
}
