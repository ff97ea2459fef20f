/* cluster.h - servers and workers as real processes on loopback, for tests: started with ports that the system chooses, awaited
 * with deadlines, and killed in any case (also when the test itself crashes).
 *
 * A failure that rules out continuing, such as a server that is not ready in time, ends the test: it prints the reason and the
 * ends of all logs, kills everything, and exits with 1. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

enum { CLUSTER_MAX = 8, CLUSTER_TEXT = 128 };

typedef struct cluster_process {
    pid_t pid;     /* 0: not started, or its end was waited for */
    int code;      /* after that: exit code, or 128 + the signal that killed it */
    char name[16]; /* "server-0"; its output is in DIRECTORY/NAME.out and .err */
} cluster_process_t;

typedef struct cluster {
    const char *bin; /* directory of the programs; NULL: those built with the test */
    char directory[64];
    unsigned n_servers, n_workers;
    cluster_process_t server[CLUSTER_MAX], worker[CLUSTER_MAX];
    bool keys;                              /* each has its own key, see cluster_make_keys; otherwise all run without keys */
    char data[CLUSTER_MAX][CLUSTER_TEXT];   /* of each server: "tcp://127.0.0.1:PORT" */
    char status[CLUSTER_MAX][CLUSTER_TEXT]; /* "http://127.0.0.1:PORT" */
} cluster_t;

/* Make the directory. Sets all of `self` except `bin`. */
void cluster_open(cluster_t *self);

/* Make keys for servers ("ps"), workers by their index ("w0" ...), an admin ("op"), a monitor ("mon") and a user on no list
 * ("nobody"), as DIRECTORY/NAME.key and .pub, and the allow-list; servers and workers started from then on use them. */
void cluster_make_keys(cluster_t *self);

/* Rewrite the allow-list atomically, without the user of that name (NULL: with all). */
void cluster_allow(const cluster_t *self, const char *except);

/* Kill what still runs and remove the directory (unless PSD_KEEP is set in the environment). */
void cluster_close(cluster_t *self);

/* Start any program of `bin` with the words of `format`, which are separated by single spaces. */
void cluster_spawn(cluster_t *self, cluster_process_t *process, const char *name, const char *program, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Start one more server with these flags, the first one being server 0, and wait until it is ready. `n` is the final number of
 * servers. */
void cluster_start_server(cluster_t *self, unsigned n, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Start `n` servers with the same flags. */
void cluster_start_servers(cluster_t *self, unsigned n, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Start one more worker, with the index after the last one's; its run.dir is the cluster's directory. */
void cluster_start_worker(cluster_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same for worker `w`, of any index: restarts it if it has ended. */
void cluster_start_worker_at(cluster_t *self, unsigned w, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Wait for the end of a process: its code, or -1 when it still runs after `timeout_ms`. */
int cluster_wait(cluster_process_t *self, int timeout_ms);

/* Wait for all to exit with 0; ends the test when one does not in time. */
void cluster_finish(cluster_t *self, int timeout_ms);

/* All output to `stream`, "out" or "err". The caller frees it. */
char *cluster_printed(const cluster_t *self, const cluster_process_t *process, const char *stream);

/* A whole file of the directory; NULL when it does not exist. The caller frees it. */
char *cluster_file(const cluster_t *self, const char *name);

/* The summary.json of the worker of that index, from 0; ends the test when there is none. */
json_t *cluster_summary(const cluster_t *self, unsigned worker);

/* Whether the hashes of that worker's fast and slow weights are these ("" slow: it has none). */
bool cluster_has_weights(const cluster_t *self, unsigned worker, const char *fast, const char *slow);

/* Body of GET `path` from a server's status address; NULL when it does not answer. The caller frees it. */
char *cluster_get(const cluster_t *self, unsigned server, const char *path);

/* Its metrics as Prometheus asks for them: a server that was scraped does not end well until it was scraped again, or 15 s
 * later, so that its last words can be read. */
char *cluster_scrape(const cluster_t *self, unsigned server);

/* Value of the series whose line of /metrics begins with `series`, labels and all; 0 when there is none. */
double cluster_metric(const cluster_t *self, unsigned server, const char *series);

/* Wait until server 0 has made this many steps; ends the test when that takes over a minute. */
void cluster_await_steps(cluster_t *self, uint64_t steps);

/* Resident memory of a process in bytes; 0 when it is gone. */
size_t cluster_resident(const cluster_process_t *process);

/* Milliseconds of a clock that only runs forward; a pause between two checks of a condition. */
uint64_t cluster_now_ms(void);
void cluster_nap(void);

/* Whether the long forms of tests are requested (PSD_CAMPAIGN in the environment); and the random seed: that of PSD_SEED, or
 * `otherwise`. */
bool cluster_campaign(void);
uint64_t cluster_seed(uint64_t otherwise);

/* End the test, as described above. */
_Noreturn void cluster_give_up(cluster_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
