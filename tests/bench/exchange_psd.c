/* exchange_psd.c - stands for a user's program: it links the shared library, includes psd/worker.h, and exchanges gradients for
 * weights with servers that are psd itself, on this machine or across a link. Further workers are separate processes; the time
 * of an exchange runs from when all may begin to when all have their weights. */
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config/usage.h"
#include "common/net/keys.h"
#include "psd/worker.h"
#include "tests/bench/repeat.h"

enum { MAX_SERVERS = 16, MAX_WORKERS = 16, ENDPOINT = 128 };

enum {
    PARAMETERS,
    TENSORS,
    WORKERS,
    SERVERS,
    OPTIMIZER,
    HEALTH,
    KEYS,
    SOCKETS,
    FAR,
    NO_OVERLAP,
    ARRAYS,
    ONLY_READ,
    EACH,
    NET_THREADS,
    KEEP_HEAP,
    UNITS
};
static const psd_option_t flags[] = {
    [PARAMETERS] = REPEAT_PARAMETERS,
    [TENSORS] = { .key = "tensors",
                  .type = PSD_OPTION_UINT64,
                  .preset = "1",
                  .range = "1..65536",
                  .help = "number of tensors of about equal size" },
    [WORKERS] = { .key = "workers", .type = PSD_OPTION_UINT64, .preset = "1", .range = "1..16", .help = "processes" },
    [SERVERS] = { .key = "servers", .type = PSD_OPTION_UINT64, .preset = "1", .range = "1..16", .help = "processes" },
    [OPTIMIZER] = { .key = "optimizer", .type = PSD_OPTION_RULE, .preset = "sgd(lr=0.01)", .help = "of the servers" },
    [HEALTH] = { .key = "health-every", .type = PSD_OPTION_UINT64, .preset = "100", .help = "steps from look to look; 0: none" },
    [KEYS] = { .key = "keys", .type = PSD_OPTION_SWITCH, .help = "encrypt everything" },
    [SOCKETS] = { .key = "sockets", .type = PSD_OPTION_SWITCH, .help = "send nothing through memory" },
    [FAR] = REPEAT_FAR,
    [NO_OVERLAP] = { .key = "no-overlap",
                     .type = PSD_OPTION_SWITCH,
                     .help = "servers send no weights before the round is decided" },
    [ARRAYS] = { .key = "arrays", .type = PSD_OPTION_SWITCH, .help = "put weights and gradients into arrays of the library" },
    [ONLY_READ] = { .key = "only-read", .type = PSD_OPTION_SWITCH, .help = "put weights into arrays that the program only reads" },
    [EACH] = { .key = "each", .type = PSD_OPTION_SWITCH, .help = "push tensors one by one, the last first" },
    [NET_THREADS] = { .key = "net-threads", .type = PSD_OPTION_UINT64, .preset = "1", .range = "1..16", .help = "of each process" },
    [KEEP_HEAP] = REPEAT_KEEP_HEAP,
    [UNITS] = REPEAT_UNITS,
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "exchange_psd",
                                   .words = "",
                                   .does = "exchange a model through psd's library, whenever a line is read",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };
static const psd_given_t *given;

/* ---- keys of this run ---- */

static char directory[] = "/tmp/psd-bench-XXXXXX";
static const char *const users[] = { "ps server", "w worker" };

static const char *key_path(const char *file)
{
    static char paths[4][sizeof directory + 16];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof *paths, "%s/%s", directory, file);
    return path;
}

static void remove_keys(void)
{
    static const char *const files[] = { "allow", "ps.key", "ps.pub", "w.key", "w.pub" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        unlink(key_path(files[i]));
    rmdir(directory);
}

static void make_keys(void)
{
    char name[8], public[PSD_KEY_TEXT];
    FILE *allow = mkdtemp(directory) ? fopen(key_path("allow"), "w") : NULL;
    for (size_t i = 0; i < sizeof users / sizeof *users; i++) {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(users[i], " "), users[i]);
        if (!allow || psd_keys_write(key_path(name), public, NULL) != PSD_OK)
            repeat_die("exchange_psd: cannot write keys to %s", directory);
        fprintf(allow, "%s %s\n", users[i], public);
    }
    fclose(allow);
}

/* ---- servers ---- */

/* Become server `index`; server 0 is at `first`. */
static _Noreturn void become_server(size_t index, const char *first, int ready_fd)
{
    char program[512], text[7][192], *words[24] = { "psd", "--job=bench", "--status-listen=none", "--log-level=error" };
    size_t n = 4;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 8);
    program[length > 0 ? length : 0] = '\0';
    snprintf(program + strlen(dirname(program)), 8, "/psd");
    snprintf(text[0], sizeof *text, "--optimizer=%s", given->value[OPTIMIZER].text);
    snprintf(text[1], sizeof *text, "--servers=%s", given->value[SERVERS].text);
    snprintf(text[2], sizeof *text, "--workers-min=%s", given->value[WORKERS].text);
    snprintf(text[3], sizeof *text, "--net-threads=%s", given->value[NET_THREADS].text);
    snprintf(text[4], sizeof *text, "--health-every=%s", given->value[HEALTH].text);
    snprintf(text[5], sizeof *text, "--listen=tcp://%s:0", repeat_place(given->flag[FAR]));
    snprintf(text[6], sizeof *text, "--join=%s", first);
    for (size_t i = 0; i < (index ? 7 : 6); i++)
        words[n++] = text[i];
    char key[96], allow[96];
    snprintf(key, sizeof key, "--server-key=%s", key_path("ps.key"));
    snprintf(allow, sizeof allow, "--allow=%s", key_path("allow"));
    words[n++] = given->flag[KEYS] ? key : "--insecure";
    if (given->flag[KEYS])
        words[n++] = allow;
    if (given->flag[NO_OVERLAP])
        words[n++] = "--net-overlap=off";
    if (given->flag[SOCKETS] || given->flag[FAR])
        words[n++] = "--net-local=off";
    dup2(ready_fd, STDOUT_FILENO);
    execv(program, words);
    repeat_die("exchange_psd: cannot start %s", program);
}

static void start_server(size_t index, const char *first, char endpoint[ENDPOINT])
{
    int out[2];
    char line[512];
    if (pipe(out))
        repeat_die("exchange_psd: no pipe");
    if (repeat_fork() == 0)
        become_server(index, first, out[1]);
    close(out[1]);
    FILE *lines = fdopen(out[0], "r"); /* stays open: the server may write more */
    if (!lines || !fgets(line, sizeof line, lines) || sscanf(line, "psd ready shard=%*d/%*d data=%127s", endpoint) != 1)
        repeat_die("exchange_psd: server %zu ended before it was ready", index);
}

/* ---- workers ---- */

typedef struct member {
    psd_worker_t *worker;
    const float **gradient; /* one per tensor */
    int order_fd, done_fd;  /* of a further worker: a byte is an exchange; -1 in it */
} member_t;

static member_t members[MAX_WORKERS]; /* 0: this process */

static void connect_to(member_t *self, const char *server)
{
    const bool keys = given->flag[KEYS];
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = server,
                                         .job = "bench",
                                         .insecure = !keys,
                                         .net_threads = (int)given->value[NET_THREADS].u,
                                         .key = keys ? key_path("w.key") : NULL,
                                         .server_public = keys ? key_path("ps.pub") : NULL };
    if (psd_worker_connect(&self->worker, &config))
        repeat_die("exchange_psd: %s", psd_worker_error(self->worker));
}

typedef float *alloc_fn(psd_worker_t *worker, size_t n);

/* `alloc` NULL: of the program's own. */
static float *floats(member_t *self, alloc_fn *alloc, size_t n, float value)
{
    if (!alloc)
        return repeat_floats(n, value);
    float *array = alloc(self->worker, n);
    if (!array)
        repeat_die("exchange_psd: %s", psd_worker_error(self->worker));
    for (size_t i = 0; i < n; i++)
        array[i] = value;
    return array;
}

static void join(member_t *self, const char *server)
{
    const size_t n = given->value[PARAMETERS].u, n_tensors = given->value[TENSORS].u;
    connect_to(self, server);
    alloc_fn *const of_gradients = given->flag[ARRAYS] ? psd_worker_alloc : NULL;
    alloc_fn *const of_weights = given->flag[ONLY_READ] ? psd_worker_alloc_weights : of_gradients;
    float *gradients = floats(self, of_gradients, n, 1e-3f), *weights = floats(self, of_weights, n, 0.5f);
    psd_tensor_t *tensors = calloc(n_tensors, sizeof *tensors);
    uint64_t *sizes = calloc(n_tensors, sizeof *sizes);
    char(*names)[24] = calloc(n_tensors, sizeof *names);
    self->gradient = calloc(n_tensors, sizeof *self->gradient);
    if (!tensors || !sizes || !names || !self->gradient)
        repeat_die("exchange_psd: no memory");
    for (size_t i = 0, at = 0; i < n_tensors; at += sizes[i], i++) {
        snprintf(names[i], sizeof *names, "t%zu", i);
        sizes[i] = n / n_tensors + (i < n % n_tensors);
        tensors[i] = (psd_tensor_t){ names[i], &sizes[i], 1, weights + at };
        self->gradient[i] = gradients + at;
    }
    if (psd_worker_register(self->worker, tensors, n_tensors))
        repeat_die("exchange_psd: %s", psd_worker_error(self->worker));
    free(tensors);
    free(sizes);
    free(names);
}

static void exchange_one(member_t *self)
{
    psd_ticket_t ticket;
    int rc = given->flag[EACH] ? 0 : psd_worker_exchange(self->worker, self->gradient, 64, 1.0, &ticket);
    for (size_t i = given->value[TENSORS].u; given->flag[EACH] && !rc && i-- > 0;)
        rc = psd_worker_push(self->worker, i, self->gradient[i], 64, 1.0, &ticket);
    if (rc || psd_worker_wait(self->worker, ticket, -1))
        repeat_die("exchange_psd: %s", psd_worker_error(self->worker));
}

static void start_member(member_t *self, const char *server)
{
    int order[2], done[2];
    char byte = 0;
    if (pipe(order) || pipe(done))
        repeat_die("exchange_psd: no pipe");
    if (repeat_fork() == 0) {
        join(self, server);
        while (read(order[0], &byte, 1) == 1) {
            exchange_one(self);
            if (write(done[1], &byte, 1) != 1)
                break;
        }
        _exit(0);
    }
    *self = (member_t){ .order_fd = order[1], .done_fd = done[0] };
}

/* All workers make one exchange. */
static void exchange(void *arg)
{
    const size_t n = *(const size_t *)arg;
    char byte = 0;
    for (size_t i = 1; i < n; i++)
        if (write(members[i].order_fd, &byte, 1) != 1)
            repeat_die("exchange_psd: worker %zu has ended", i);
    exchange_one(&members[0]);
    for (size_t i = 1; i < n; i++)
        if (read(members[i].done_fd, &byte, 1) != 1)
            repeat_die("exchange_psd: worker %zu has ended", i);
}

int main(int argc, char **argv)
{
    given = psd_usage_read_or_exit(&usage, argc, argv);
    size_t n_workers = given->value[WORKERS].u;
    char server[MAX_SERVERS][ENDPOINT];
    if (given->flag[KEEP_HEAP])
        repeat_keep_heap();
    if (given->value[TENSORS].u > given->value[PARAMETERS].u)
        repeat_die("exchange_psd: more tensors than parameters");
    if (given->flag[KEYS])
        make_keys();
    for (size_t i = 0; i < given->value[SERVERS].u; i++)
        start_server(i, server[0], server[i]);
    for (size_t i = 1; i < n_workers; i++)
        start_member(&members[i], server[0]);
    join(&members[0], server[0]);
    repeat_serve(exchange, &n_workers, given->value[UNITS].u);
    if (given->flag[KEYS])
        remove_keys();
    return 0;
}
