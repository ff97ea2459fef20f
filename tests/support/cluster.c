#include "tests/support/cluster.h"

#include "common/net/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY_MS = 300000, STEPS_MS = 600000, NAP_MS = 5, ANSWER_S = 5, MAX_WORDS = 64, COMMAND = 4096 };

/* ---- time and chance ---- */

uint64_t cluster_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void cluster_nap(void) { nanosleep(&(struct timespec){ .tv_nsec = NAP_MS * 1000000L }, NULL); }

bool cluster_campaign(void) { return getenv("PSD_CAMPAIGN") != NULL; }

uint64_t cluster_seed(uint64_t otherwise)
{
    const char *text = getenv("PSD_SEED");
    return text ? strtoull(text, NULL, 10) : otherwise;
}

/* ---- files ---- */

char *cluster_file(const cluster_t *self, const char *name)
{
    char path[256], *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", self->directory, name);
    FILE *file = fopen(path, "r");
    FILE *out = file ? open_memstream(&text, &n) : NULL;
    for (int c; out && (c = getc(file)) != EOF;)
        putc(c, out);
    if (out)
        fclose(out);
    if (file)
        fclose(file);
    return text;
}

char *cluster_printed(const cluster_t *self, const cluster_process_t *process, const char *stream)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", process->name, stream);
    char *text = cluster_file(self, name);
    return text ? text : strdup("");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    return remove(path);
}

void cluster_open(cluster_t *self)
{
    const char *bin = self->bin, *parent = getenv("TMPDIR");
    *self = (cluster_t){ .bin = bin ? bin : PSD_BIN_DIR };
    snprintf(self->directory, sizeof self->directory, "%.40s/psd-test-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(self->directory))
        cluster_give_up(self, "cannot make %s: %s", self->directory, strerror(errno));
}

static void kill_all(cluster_t *self)
{
    cluster_process_t *rows[] = { self->server, self->worker };
    for (int r = 0; r < 2; r++)
        for (unsigned i = 0; i < CLUSTER_MAX; i++)
            if (rows[r][i].pid) {
                kill(rows[r][i].pid, SIGKILL);
                kill(rows[r][i].pid, SIGCONT);
                waitpid(rows[r][i].pid, NULL, 0);
                rows[r][i].pid = 0;
            }
}

void cluster_close(cluster_t *self)
{
    kill_all(self);
    if (*self->directory && !getenv("PSD_KEEP"))
        nftw(self->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    *self->directory = '\0';
}

static void print_end_of_log(const cluster_t *self, const cluster_process_t *process)
{
    char *log = cluster_printed(self, process, "err");
    size_t n = strlen(log);
    if (*process->name)
        fprintf(stderr, "---- %s, pid %d, code %d:\n%s", process->name, (int)process->pid, process->code,
                n > 2000 ? log + n - 2000 : log);
    free(log);
}

void cluster_give_up(cluster_t *self, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    for (unsigned i = 0; i < CLUSTER_MAX; i++)
        print_end_of_log(self, &self->server[i]);
    for (unsigned i = 0; i < CLUSTER_MAX; i++)
        print_end_of_log(self, &self->worker[i]);
    cluster_close(self);
    _exit(1);
}

/* ---- keys ---- */

/* Users with keys, besides the workers; a user without a role is on no list. */
static const struct {
    const char *name, *role;
} others[] = { { "ps", "server" }, { "op", "admin" }, { "mon", "monitor" }, { "nobody", NULL } };
enum { N_USERS = CLUSTER_MAX + sizeof others / sizeof *others };

static const char *name_user(unsigned i, char name[16])
{
    if (i < CLUSTER_MAX)
        snprintf(name, 16, "w%u", i);
    else
        snprintf(name, 16, "%s", others[i - CLUSTER_MAX].name);
    return i < CLUSTER_MAX ? "worker" : others[i - CLUSTER_MAX].role;
}

void cluster_allow(const cluster_t *self, const char *except)
{
    char path[256], there[256], name[16], file[32], key[PSD_KEY_TEXT];
    snprintf(path, sizeof path, "%s/allow.new", self->directory);
    snprintf(there, sizeof there, "%s/allow", self->directory);
    FILE *list = fopen(path, "w");
    for (unsigned i = 0; list && i < N_USERS; i++) {
        const char *role = name_user(i, name);
        snprintf(file, sizeof file, "%s.pub", name);
        char *text = role && !(except && !strcmp(name, except)) ? cluster_file(self, file) : NULL;
        if (text && sscanf(text, "%*[^\n] public %40s", key) == 1)
            fprintf(list, "%s %s %s\n", name, role, key);
        free(text);
    }
    if (list)
        fclose(list);
    chmod(path, 0600);
    rename(path, there);
}

void cluster_make_keys(cluster_t *self)
{
    char name[16], path[128], public[PSD_KEY_TEXT];
    psd_err_t err;
    for (unsigned i = 0; i < N_USERS; i++) {
        name_user(i, name);
        snprintf(path, sizeof path, "%s/%s", self->directory, name);
        if (psd_keys_write(path, public, &err) != PSD_OK)
            cluster_give_up(self, "%s", err.text);
    }
    cluster_allow(self, NULL);
    self->keys = true;
}

/* ---- processes ---- */

/* The programs would read options from PSD_..., which here are meant for the test. */
static void clear_options(void)
{
    for (size_t i = 0; environ[i];) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(environ[i], "="), environ[i]);
        if (!strncmp(name, "PSD_", 4) && !unsetenv(name))
            i = 0;
        else
            i++;
    }
}

/* Programs that tests start are on this machine, and run without keys unless a flag sets them. */
static void allow_insecure(void)
{
    clear_options();
    setenv("PSD_INSECURE", "true", 1);
}

/* In the child: become the program, and end with the test. */
static _Noreturn void become(const cluster_t *self, const char *name, const char *program, char *command, pid_t parent)
{
    static const char *const ends[] = { "in", "out", "err" };
    char path[256], *words[MAX_WORDS] = { NULL }, *rest = command;
    int n = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGHUP, SIG_DFL); /* the tests may run under nohup, which ignores it */
    if (getppid() != parent)
        _exit(125);
    allow_insecure();
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s.%s", self->directory, name, ends[i]);
        int fd = i ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666) : open("/dev/null", O_RDONLY);
        dup2(fd, i);
        close(fd);
    }
    snprintf(path, sizeof path, "%s/%s", self->bin, program);
    while (n + 1 < MAX_WORDS && (words[n] = strsep(&rest, " ")))
        n++;
    execv(path, words);
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    _exit(127);
}

static void spawn(cluster_t *self, cluster_process_t *process, const char *name, const char *program, const char *words)
{
    char command[COMMAND];
    snprintf(command, sizeof command, "%s%s%s", program, *words ? " " : "", words);
    snprintf(process->name, sizeof process->name, "%s", name);
    for (int i = 0; i < 2; i++) { /* so that output of an earlier process does not count for this one */
        char path[256];
        snprintf(path, sizeof path, "%s/%s.%s", self->directory, name, i ? "err" : "out");
        unlink(path);
    }
    const pid_t parent = getpid();
    process->pid = fork();
    if (process->pid == 0)
        become(self, name, program, command, parent);
    if (process->pid < 0)
        cluster_give_up(self, "fork: %s", strerror(errno));
}

void cluster_spawn(cluster_t *self, cluster_process_t *process, const char *name, const char *program, const char *format, ...)
{
    char words[COMMAND - 64];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    spawn(self, process, name, program, words);
}

int cluster_wait(cluster_process_t *self, int timeout_ms)
{
    const uint64_t end = cluster_now_ms() + (uint64_t)timeout_ms;
    int status;
    while (self->pid) {
        if (waitpid(self->pid, &status, WNOHANG) == self->pid) {
            self->pid = 0;
            self->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        } else if (cluster_now_ms() >= end) {
            return -1;
        } else {
            cluster_nap();
        }
    }
    return self->code;
}

/* "psd ready shard=0/2 data=tcp://... status=http://... job=NAME" */
static void await_ready(cluster_t *self, unsigned s)
{
    const uint64_t end = cluster_now_ms() + READY_MS;
    for (bool ready = false; !ready; cluster_nap()) {
        char *out = cluster_printed(self, &self->server[s], "out");
        ready = strchr(out, '\n') &&
                sscanf(out, "psd ready shard=%*u/%*u data=%127s status=%127s", self->data[s], self->status[s]) == 2;
        free(out);
        if (!ready && cluster_wait(&self->server[s], 0) >= 0)
            cluster_give_up(self, "server %u ended with %d before it was ready", s, self->server[s].code);
        if (!ready && cluster_now_ms() > end)
            cluster_give_up(self, "server %u was not ready within %d ms", s, READY_MS);
    }
}

static void start_server(cluster_t *self, unsigned n, const char *flags)
{
    char name[16], words[COMMAND - 64], join[CLUSTER_TEXT + 16] = "", keys[256] = "";
    const unsigned s = self->n_servers++;
    if (self->keys)
        snprintf(keys, sizeof keys, " --insecure=false --server-key=%s/ps.key --allow=%s/allow", self->directory, self->directory);
    snprintf(name, sizeof name, "server-%u", s);
    if (s)
        snprintf(join, sizeof join, " --join=%s", self->data[0]);
    snprintf(words, sizeof words, "--servers=%u --server-index=%u --listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0%s%s%s%s",
             n, s, join, keys, *flags ? " " : "", flags);
    spawn(self, &self->server[s], name, "psd", words);
    await_ready(self, s);
}

void cluster_start_server(cluster_t *self, unsigned n, const char *format, ...)
{
    char flags[COMMAND / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(flags, sizeof flags, format, args);
    va_end(args);
    start_server(self, n, flags);
}

void cluster_start_servers(cluster_t *self, unsigned n, const char *format, ...)
{
    char flags[COMMAND / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(flags, sizeof flags, format, args);
    va_end(args);
    while (self->n_servers < n)
        start_server(self, n, flags);
}

static void start_worker(cluster_t *self, unsigned w, const char *flags)
{
    char name[16], words[COMMAND - 64], keys[256] = "";
    if (self->keys)
        snprintf(keys, sizeof keys, "--insecure=false --worker-key=%s/w%u.key --server-public=%s/ps.pub ", self->directory, w,
                 self->directory);
    snprintf(name, sizeof name, "worker-%u", w);
    snprintf(words, sizeof words, "--join=%s --worker-id=%u --run-dir=%s --progress=none %s%s", self->data[0], w, self->directory,
             keys, flags);
    spawn(self, &self->worker[w], name, "psd-worker", words);
}

void cluster_start_worker(cluster_t *self, const char *format, ...)
{
    char flags[COMMAND / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(flags, sizeof flags, format, args);
    va_end(args);
    start_worker(self, self->n_workers++, flags);
}

void cluster_start_worker_at(cluster_t *self, unsigned w, const char *format, ...)
{
    char flags[COMMAND / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(flags, sizeof flags, format, args);
    va_end(args);
    if (w >= self->n_workers)
        self->n_workers = w + 1;
    start_worker(self, w, flags);
}

void cluster_finish(cluster_t *self, int timeout_ms)
{
    const uint64_t end = cluster_now_ms() + (uint64_t)timeout_ms;
    for (unsigned i = 0; i < self->n_workers + self->n_servers; i++) {
        cluster_process_t *p = i < self->n_workers ? &self->worker[i] : &self->server[i - self->n_workers];
        const uint64_t now = cluster_now_ms();
        const int code = cluster_wait(p, now < end ? (int)(end - now) : 0);
        if (code)
            cluster_give_up(self, code < 0 ? "%s still runs after %d ms" : "%s did not end with 0 within %d ms", p->name,
                            timeout_ms);
    }
}

/* ---- their output ---- */

json_t *cluster_summary(const cluster_t *self, unsigned worker)
{
    char name[32] = "summary.json";
    json_error_t error;
    if (worker)
        snprintf(name, sizeof name, "summary-%u.json", worker);
    char *text = cluster_file(self, name);
    json_t *summary = json_loads(text ? text : "", 0, &error);
    free(text);
    if (!summary) {
        cluster_t copy = *self;
        cluster_give_up(&copy, "%s: %s", name, error.text);
    }
    return summary;
}

bool cluster_has_weights(const cluster_t *self, unsigned worker, const char *fast, const char *slow)
{
    json_t *summary = cluster_summary(self, worker);
    const char *sha256 = json_string_value(json_object_get(summary, "sha256"));
    const char *sha256_slow = json_string_value(json_object_get(summary, "sha256_slow"));
    const bool same = sha256 && !strcmp(sha256, fast) && !strcmp(sha256_slow ? sha256_slow : "", slow);
    if (!same)
        fprintf(stderr, "worker %u has weights %s, slow %s; expected %s, slow %s\n", worker, sha256 ? sha256 : "none",
                sha256_slow ? sha256_slow : "none", fast, *slow ? slow : "none");
    json_decref(summary);
    return same;
}

static int dial(const char *url)
{
    unsigned short port = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_sec = ANSWER_S };
    if (sscanf(url, "http://127.0.0.1:%hu", &port) != 1 || fd < 0)
        return -1;
    to.sin_port = htons(port);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

static char *get_as(const char *agent, const cluster_t *self, unsigned server, const char *path)
{
    char *text = NULL, bytes[4096];
    size_t size = 0;
    int fd = dial(self->status[server]);
    if (fd < 0)
        return NULL;
    dprintf(fd, "GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\nUser-Agent: %s\r\n\r\n", path, agent);
    FILE *out = open_memstream(&text, &size);
    for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;)
        fwrite(bytes, 1, (size_t)n, out);
    fclose(out);
    close(fd);
    char *body = strstr(text, "\r\n\r\n");
    const bool unready = !strncmp(path, "/readyz", 7) && strstr(text, " 503 "); /* which has a body to read too */
    if (body && (strstr(text, " 200 ") || unready))
        memmove(text, body + 4, strlen(body + 4) + 1);
    else
        free(text), text = NULL;
    return text;
}

char *cluster_get(const cluster_t *self, unsigned server, const char *path) { return get_as("test", self, server, path); }

char *cluster_scrape(const cluster_t *self, unsigned server) { return get_as("Prometheus/2.42.0", self, server, "/metrics"); }

double cluster_metric(const cluster_t *self, unsigned server, const char *series)
{
    char *text = cluster_get(self, server, "/metrics");
    double value = 0;
    for (char *rest = text, *line; rest && (line = strsep(&rest, "\n"));)
        if (!strncmp(line, series, strlen(series)) && line[strlen(series)] == ' ')
            value = strtod(line + strlen(series), NULL);
    free(text);
    return value;
}

void cluster_await_steps(cluster_t *self, uint64_t steps)
{
    const uint64_t end = cluster_now_ms() + STEPS_MS;
    while (cluster_metric(self, 0, "psd_steps_total{shard=\"0\"}") < (double)steps) {
        if (cluster_now_ms() > end)
            cluster_give_up(self, "server 0 has not made %llu steps in %d ms", (unsigned long long)steps, STEPS_MS);
        cluster_nap();
    }
}

size_t cluster_resident(const cluster_process_t *process)
{
    char path[64], line[256];
    size_t kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)process->pid);
    FILE *file = process->pid ? fopen(path, "r") : NULL;
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "VmRSS:", 6))
            kib = strtoul(line + 6, NULL, 10);
    if (file)
        fclose(file);
    return kib * 1024;
}
