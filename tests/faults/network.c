/* network.c - campaigns against the network between the processes of a job: proxies between every two of them cut connections,
 * lose, repeat, reorder and damage messages. Each server announces the address of its own proxy. Whatever happens, each push counts
 * once: the weights are those of a single process that made the same rounds undisturbed. */
#include "tests/faults/chaos.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/cluster.h"
#include "tests/support/ledger.h"
#include "tests/support/reference.h"

enum { SERVERS = 2, WORKERS = 4, SEED = 7, BATCH = 60, READY_MS = 300000, JOB_MS = 600000 };
#define DATA "glyphs:600"
#define RULE "adam(lr=0.002)"

static cluster_t cluster;
static cluster_process_t proxy[SERVERS];

/* A port for a server whose proxy must know it before the server listens: a socket that does not listen reserves it. */
static unsigned short reserve_port(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) || bind(fd, (struct sockaddr *)&at, sizeof at) ||
        getsockname(fd, (struct sockaddr *)&at, &n))
        cluster_give_up(&cluster, "no port to reserve");
    return ntohs(at.sin_port);
}

/* Start a proxy to `port`; `out` gets the proxy's address, "127.0.0.1:PORT". */
static void start_proxy(unsigned s, const char *program, unsigned short port, const char *flags, char out[32])
{
    char name[16];
    const uint64_t end = cluster_now_ms() + READY_MS;
    snprintf(name, sizeof name, "proxy-%u", s);
    cluster_spawn(&cluster, &proxy[s], name, program, "--to=%s127.0.0.1:%u %s", strstr(program, "message") ? "tcp://" : "", port,
                  flags);
    for (bool ready = false; !ready; cluster_nap()) {
        char *said = cluster_printed(&cluster, &proxy[s], "out");
        ready = strchr(said, '\n') && sscanf(said, "proxy ready listen=%31s", out) == 1;
        free(said);
        if (!ready && (cluster_now_ms() > end || cluster_wait(&proxy[s], 0) >= 0))
            cluster_give_up(&cluster, "%s was not ready in %d ms", name, READY_MS);
    }
}

/* End a proxy; returns its count of this name. */
static void stop_proxy(unsigned s)
{
    kill(proxy[s].pid, SIGTERM);
    if (cluster_wait(&proxy[s], READY_MS))
        cluster_give_up(&cluster, "%s ended with %d", proxy[s].name, proxy[s].code);
}

static uint64_t counted(unsigned s, const char *what)
{
    char *said = cluster_printed(&cluster, &proxy[s], "out"), key[32];
    snprintf(key, sizeof key, "%s=", what);
    const char *at = strstr(said, key);
    const uint64_t n = at ? strtoull(at + strlen(key), NULL, 10) : 0;
    free(said);
    return n;
}

/* ---- one job behind proxies ---- */

typedef struct setting {
    const char *program; /* proxy */
    const char *layers;  /* of the mlp, "784,16,10" */
    unsigned steps;
} setting_t;

static void parse_layers(const char *text, size_t layers[8], size_t *n)
{
    for (*n = 0; *text && *n < 8; text += *text == ',') {
        char *end;
        layers[(*n)++] = strtoul(text, &end, 10);
        text = end;
    }
}

static void reference_of(const setting_t *setting, char fast[PSD_SHA256_TEXT], char slow[PSD_SHA256_TEXT])
{
    size_t layers[8], n;
    parse_layers(setting->layers, layers, &n);
    if (!reference_undisturbed(
            &(reference_config_t){
                .data = DATA, .kind = "mlp", .layers = layers, .n_layers = n, .batch = BATCH, .seed = SEED, .rule = RULE },
            setting->steps, WORKERS, fast, slow))
        exit(1);
}

static void expect_ledgers(unsigned steps)
{
    for (unsigned s = 0; s < SERVERS; s++) {
        ledger_t ledger;
        psd_err_t err;
        char *log = cluster_printed(&cluster, &cluster.server[s], "err");
        if (ledger_read(&ledger, s, log, &err) || ledger_check(&ledger, steps, WORKERS, &err))
            cluster_give_up(&cluster, "ledger of shard %u: %s", s, err.text);
        ledger_clear(&ledger);
        free(log);
    }
}

static void start_servers(const setting_t *setting, const char *flags)
{
    for (unsigned s = 0; s < SERVERS; s++) {
        char address[32];
        const unsigned short port = reserve_port();
        start_proxy(s, setting->program, port, flags, address);
        cluster_start_server(&cluster, SERVERS,
                             "--listen=tcp://127.0.0.1:%u --advertise=%s --workers-min=%d --lease=20s --threads=1 --net-local=off "
                             "--message-size=4Ki "
                             "--log-level=debug --optimizer=" RULE,
                             port, address, WORKERS);
    }
}

/* Run it to its end, and check weights and ledgers. */
static void run_job(chaos_t *self, const setting_t *setting, const char *fast, const char *slow, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static void run_job(chaos_t *self, const setting_t *setting, const char *fast, const char *slow, const char *format, ...)
{
    char flags[256];
    va_list args;
    const size_t n = (size_t)snprintf(flags, sizeof flags, "--seed=%llu ", (unsigned long long)chaos_below(self, 1u << 30));
    va_start(args, format);
    vsnprintf(flags + n, sizeof flags - n, format, args);
    va_end(args);
    cluster_open(&cluster);
    start_servers(setting, flags);
    for (unsigned w = 0; w < WORKERS; w++)
        cluster_start_worker(&cluster,
                             "--model-kind=mlp --model-layers=%s --seed=%d --data-train=" DATA
                             " --data-test=glyphs:100 --data-batch=%d --eval-every=0 --stop-steps=%u",
                             setting->layers, SEED, BATCH, setting->steps);
    cluster_finish(&cluster, JOB_MS);
    for (unsigned s = 0; s < SERVERS; s++)
        stop_proxy(s);
    for (unsigned w = 0; w < WORKERS; w++)
        if (!cluster_has_weights(&cluster, w, fast, slow))
            cluster_give_up(&cluster, "proxy %s, %s", setting->program, flags);
    expect_ledgers(setting->steps);
}

static uint64_t count_all(const char *what)
{
    uint64_t n = 0;
    for (unsigned s = 0; s < SERVERS; s++)
        n += counted(s, what);
    return n;
}

/* ---- campaigns ---- */

/* Number of faults per job: a few in a share. */
static unsigned steps_of(const chaos_t *self, unsigned whole) { return self->whole ? whole : whole / 4; }

void chaos_cut(chaos_t *self)
{
    const setting_t setting = { "psd-tcp-proxy", "784,16,10", steps_of(self, 20) };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    uint64_t reconnects = 0, cuts = 0, half_open = 0, truncated = 0;
    unsigned jobs = 0;
    reference_of(&setting, fast, slow);
    for (; reconnects < self->count; jobs++) {
        run_job(self, &setting, fast, slow, "--cut-every=600 --truncate=30 --half-open=2");
        reconnects += count_all("connections");
        cuts += count_all("cuts");
        half_open += count_all("half_open");
        truncated += count_all("truncated");
        cluster_close(&cluster);
    }
    chaos_say(self,
              "%llu connections in %u jobs, %llu reset, %llu cut amid a message, %llu half open, SHA-256 equal, "
              "ledgers exact",
              (unsigned long long)reconnects, jobs, (unsigned long long)cuts, (unsigned long long)truncated,
              (unsigned long long)half_open);
}

void chaos_slow_network(chaos_t *self)
{
    const setting_t setting = { "psd-tcp-proxy", "784,16,10", steps_of(self, 8) };
    static const char *const ways[] = { "--delay=20", "--drip=16000", "--stall-every=500 --stall-for=900" };
    enum { WAYS = sizeof ways / sizeof *ways };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    uint64_t stalls = 0;
    reference_of(&setting, fast, slow);
    for (unsigned i = 0; i < self->count; i++) {
        run_job(self, &setting, fast, slow, "%s", ways[i % WAYS]);
        stalls += count_all("stalls");
        cluster_close(&cluster);
    }
    chaos_say(self, "%u jobs (delayed, dripped, stalled), %llu stalls of one direction, SHA-256 equal, ledgers exact", self->count,
              (unsigned long long)stalls);
}

/* Many small chunks, so that a round has many pushes. */
void chaos_messages(chaos_t *self)
{
    const setting_t setting = { "psd-message-proxy", "784,300,10", steps_of(self, 40) };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    uint64_t pushes = 0, dropped = 0, duplicated = 0, late = 0, of = 0;
    unsigned jobs = 0;
    reference_of(&setting, fast, slow);
    for (; pushes < self->count; jobs++) {
        run_job(self, &setting, fast, slow, "--duplicate=20 --window=16 --drop=5");
        pushes += count_all("pushes");
        of += count_all("received");
        dropped += count_all("dropped");
        duplicated += count_all("duplicated");
        late += count_all("late");
        cluster_close(&cluster);
    }
    chaos_say(self,
              "%llu pushes in %u jobs; of %llu messages %llu were lost, %llu came twice, %llu late; SHA-256 equal, "
              "ledgers exact",
              (unsigned long long)pushes, jobs, (unsigned long long)of, (unsigned long long)dropped, (unsigned long long)duplicated,
              (unsigned long long)late);
}

/* Flip bits in the stream: in frames, and in ZeroMQ's framing. */
void chaos_stream_flips(chaos_t *self)
{
    const setting_t setting = { "psd-tcp-proxy", "784,16,10", steps_of(self, 80) };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    uint64_t flips = 0;
    unsigned jobs = 0;
    reference_of(&setting, fast, slow);
    for (; flips < self->count; jobs++) {
        run_job(self, &setting, fast, slow, "--flip-every=400000");
        flips += count_all("flips");
        cluster_close(&cluster);
    }
    chaos_say(self, "%llu bits in %u jobs, SHA-256 equal, ledgers exact", (unsigned long long)flips, jobs);
}

/* Flip bits in a way that TCP's checksum does not detect. */
void chaos_flips(chaos_t *self)
{
    const setting_t setting = { "psd-message-proxy", "784,300,10", steps_of(self, 40) };
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    uint64_t corrupted = 0, of = 0;
    unsigned jobs = 0;
    reference_of(&setting, fast, slow);
    for (; corrupted < self->count; jobs++) {
        run_job(self, &setting, fast, slow, "--corrupt=2");
        corrupted += count_all("corrupted");
        of += count_all("received");
        cluster_close(&cluster);
    }
    chaos_say(self, "%llu of %llu messages in %u jobs had a bit changed, SHA-256 equal, ledgers exact",
              (unsigned long long)corrupted, (unsigned long long)of, jobs);
}
