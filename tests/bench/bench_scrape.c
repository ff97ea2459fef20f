/* bench_scrape.c - measures the cost of 10 scrapes of /metrics per second: rounds of a small model in windows of three kinds, in
 * turns: undisturbed; with scrapes of an unrelated process, which shows the cost of the scraping client; with scrapes of the
 * server. Also prints the server's processor time per scrape.
 *
 *     bench_scrape [--windows N]
 *
 * The small model is the worst case: a round takes tens of microseconds, and almost none of it is arithmetic. */
#include <arpa/inet.h>
#include <libgen.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/config/usage.h"
#include "psd/worker.h"

enum { PARAMETERS = 1024, SCRAPES_PER_S = 10, METRICS = 8192 };
enum { PEACE, OTHER, SERVER, KINDS };
static const double WINDOW_S = 0.5;

static atomic_int kind;
static int port[KINDS]; /* the port to scrape; 0: none */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_scrape: %s\n", what);
    exit(1);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void scrape(int at_port)
{
    static const char request[] = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)at_port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    char block[1 << 16];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t n = 0;
    ssize_t got = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) || write(fd, request, sizeof request - 1) < 0)
        die("cannot scrape");
    while ((got = read(fd, block, sizeof block)) > 0)
        n += (size_t)got;
    if (n < 1000)
        die("the metrics are not there");
    close(fd);
}

static void *scrape_on(void *arg)
{
    const struct timespec pause = { .tv_nsec = 1000000000 / SCRAPES_PER_S };
    for (;;) {
        int at_port = port[atomic_load(&kind)];
        if (at_port)
            scrape(at_port);
        nanosleep(&pause, NULL);
    }
    return arg;
}

static pid_t start_server(char endpoint[128])
{
    char program[512], line[512] = "";
    int out[2];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 8);
    program[n > 0 ? n : 0] = '\0';
    snprintf(program + strlen(dirname(program)), 8, "/psd");
    pid_t pid = pipe(out) ? -1 : fork();
    if (pid < 0)
        die("cannot fork");
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        execl(program, "psd", "--insecure", "--listen", "tcp://127.0.0.1:0", "--status-listen", "127.0.0.1:0", "--job", "bench",
              "--log-level", "warn", "--optimizer", "sgd(lr=0.1)", (char *)NULL);
        die("cannot start psd");
    }
    close(out[1]);
    for (size_t at = 0; at + 1 < sizeof line && !strchr(line, '\n'); at++)
        if (read(out[0], line + at, 1) != 1)
            die("psd ended before it was ready");
    if (sscanf(line, "psd ready shard=0/1 data=%127s status=http://127.0.0.1:%d", endpoint, &port[SERVER]) != 2)
        die(line);
    return pid;
}

/* A process that answers each connection with as many bytes as a scrape gets. */
static void start_other(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t n_at = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&at, &n_at))
        die("cannot listen");
    port[OTHER] = ntohs(at.sin_port);
    if (fork())
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (char block[METRICS] = "";;) {
        int fd = accept(listener, NULL, NULL);
        if (read(fd, block, sizeof block) < 0 || write(fd, block, sizeof block) < 0)
            die("no process reads");
        close(fd);
    }
}

/* Processor time of a process, in seconds. */
static double cpu_s(pid_t pid)
{
    char path[64], text[512];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[n] = '\0';
    const char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        die("no processor time");
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double rounds_per_s(psd_worker_t *worker, const float *gradient)
{
    double start = now_s(), n = 0;
    for (; now_s() < start + WINDOW_S; n++) {
        psd_ticket_t ticket;
        if (psd_worker_exchange(worker, (const float *const[]){ gradient }, 64, 1.0, &ticket) ||
            psd_worker_wait(worker, ticket, 60000))
            die(psd_worker_error(worker));
    }
    return n / (now_s() - start);
}

static const psd_option_t flags[] = {
    { .key = "windows",
      .type = PSD_OPTION_UINT64,
      .preset = "60",
      .range = "1..",
      .help = "number of windows whose ratios are printed" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "bench_scrape",
                                   .words = "",
                                   .does = "time rounds with and without a reader of /metrics",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    static float weights[PARAMETERS], gradient[PARAMETERS];
    const size_t windows = psd_usage_read_or_exit(&usage, argc, argv)->value[0].u;
    double *ratio[KINDS], *rate = calloc(windows + 1, sizeof *rate);
    for (int k = 0; k < KINDS; k++)
        ratio[k] = calloc(windows + 1, sizeof **ratio);
    char endpoint[128];
    pthread_t thread;
    pid_t pid = start_server(endpoint);
    start_other();
    psd_worker_t *worker;
    psd_worker_config_t config = { .size = sizeof config, .join = endpoint, .job = "bench", .insecure = 1 };
    uint64_t shape[] = { PARAMETERS };
    psd_tensor_t tensor = { "w", shape, 1, weights };
    if (psd_worker_connect(&worker, &config) || psd_worker_register(worker, &tensor, 1))
        die(psd_worker_error(worker));
    pthread_create(&thread, NULL, scrape_on, NULL);
    rounds_per_s(worker, gradient);
    for (size_t i = 0; i < windows; i++) {
        double rates[KINDS];
        for (size_t k = 0; k < KINDS; k++) { /* the order changes, to cancel drift */
            size_t turn = (i + k) % KINDS;
            atomic_store(&kind, (int)turn);
            rates[turn] = rounds_per_s(worker, gradient);
        }
        rate[i] = rates[PEACE];
        for (int k = 0; k < KINDS; k++)
            ratio[k][i] = rates[k] / rates[PEACE];
    }
    atomic_store(&kind, PEACE);
    for (int k = 0; k < KINDS; k++)
        qsort(ratio[k], windows, sizeof **ratio, by_size);
    qsort(rate, windows, sizeof *rate, by_size);
    printf("%d parameters: %.0f rounds/s; with %d scrapes/s of the server %.2f %% of that, of another "
           "process %.2f %% (medians of "
           "%zu ratios)\n",
           PARAMETERS, rate[windows / 2], SCRAPES_PER_S, ratio[SERVER][windows / 2] * 100, ratio[OTHER][windows / 2] * 100,
           windows);

    /* Without rounds: as many scrapes as it takes to see them in the processor time. */
    double idle = cpu_s(pid), start = now_s();
    usleep(2000000);
    idle = (cpu_s(pid) - idle) / (now_s() - start);
    double busy = cpu_s(pid);
    start = now_s();
    unsigned n = 0;
    for (; n < 5000; n++)
        scrape(port[SERVER]);
    busy = cpu_s(pid) - busy - idle * (now_s() - start);
    printf("a scrape takes %.0f us of the server's processor time: 10 a second are %.3f %% of one core\n", busy / n * 1e6,
           busy / n * 10 * 100);
    psd_worker_leave(worker, 1, 5000);
    psd_worker_close(&worker);
    waitpid(pid, NULL, 0);
    return 0;
}
