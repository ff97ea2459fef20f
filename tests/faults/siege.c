#include "tests/faults/siege.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/member.h"

cluster_t siege_cluster;
uint16_t siege_port[SIEGE_MAX];

static const size_t layers[] = { 784, 128, 10 };
static crew_t crew;
static member_t member;

void siege_begin(unsigned n_servers, bool keys, const char *flags)
{
    const reference_config_t config = {
        .data = "glyphs:3000", .kind = "mlp", .layers = layers, .n_layers = 3, .batch = 600, .seed = 7, .rule = "adam(lr=0.002)"
    };
    cluster_open(&siege_cluster);
    if (keys)
        cluster_make_keys(&siege_cluster);
    cluster_start_servers(&siege_cluster, n_servers, "--workers-min=1 --threads=1 --lease=60s --optimizer=%s%s%s", config.rule,
                          *flags ? " " : "", flags);
    for (unsigned s = 0; s < n_servers; s++)
        siege_port[s] = (uint16_t)atoi(strrchr(siege_cluster.data[s], ':') + 1);
    crew_open(&crew, &siege_cluster, &config, 1);
    if (!member_open(&member, &crew, 0))
        cluster_give_up(&siege_cluster, "no member");
    member_start(&member);
    cluster_await_steps(&siege_cluster, 20);
}

void siege_end(void)
{
    member_t *members[] = { &member };
    const uint64_t last = crew_end(&crew);
    member_join(&member);
    if (*member.failure || !crew_has_weights(&crew, members, last))
        cluster_give_up(&siege_cluster, "%s",
                        *member.failure ? member.failure : "the weights differ from those of an undisturbed run");
    for (unsigned s = 0; s < siege_cluster.n_servers; s++)
        if (cluster_wait(&siege_cluster.server[s], SIEGE_WAIT_MS))
            cluster_give_up(&siege_cluster, "server %u ended with %d", s, siege_cluster.server[s].code);
    cluster_close(&siege_cluster);
}

size_t siege_resident(void)
{
    size_t most = 0;
    for (unsigned s = 0; s < siege_cluster.n_servers; s++) {
        const size_t n = cluster_resident(&siege_cluster.server[s]);
        if (!n || cluster_wait(&siege_cluster.server[s], 0) >= 0)
            cluster_give_up(&siege_cluster, "server %u ended with %d", s, siege_cluster.server[s].code);
        most = n > most ? n : most;
    }
    return most;
}

siege_pace_t siege_pace_begin(void) { return (siege_pace_t){ cluster_now_ms(), crew_clock(&crew) }; }

double siege_pace_ms(siege_pace_t since)
{
    const uint64_t end = cluster_now_ms() + SIEGE_WAIT_MS;
    for (; crew_clock(&crew) < since.clock + 10; cluster_nap())
        if (cluster_now_ms() > end)
            cluster_give_up(&siege_cluster, "the job stands still at round %llu", (unsigned long long)since.clock);
    return (double)(cluster_now_ms() - since.since_ms) / (double)(crew_clock(&crew) - since.clock);
}

/* The processor time of a thread with ZeroMQ's name; -1 when it is another thread. */
static double io_seconds_of(const char *task)
{
    char path[512], text[512];
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof path, "%s/stat", task);
    FILE *file = fopen(path, "r");
    text[file ? fread(text, 1, sizeof text - 1, file) : 0] = '\0';
    if (file)
        fclose(file);
    const char *rest = strrchr(text, ')');
    const bool is_io = strstr(text, "/IO/") != NULL;
    const int fields = rest && is_io ? sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) : 0;
    return fields == 2 ? (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK) : -1;
}

double siege_io_seconds(void)
{
    char tasks[64], task[400];
    double seconds = -1;
    snprintf(tasks, sizeof tasks, "/proc/%d/task", (int)siege_cluster.server[0].pid);
    DIR *dir = opendir(tasks);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        snprintf(task, sizeof task, "%s/%s", tasks, entry->d_name);
        const double one = io_seconds_of(task);
        seconds = one > seconds ? one : seconds;
    }
    if (dir)
        closedir(dir);
    if (seconds < 0)
        cluster_give_up(&siege_cluster, "ZeroMQ's thread is not to be found");
    return seconds;
}
