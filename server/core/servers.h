/* servers.h - the servers of a job in server 0's view: the index of each, which have joined, which have fallen silent, and whether
 * a process may take over an index that another one had.
 *
 * The coordinator tells it what arrives and asks; it decides nothing about the job and sends nothing. An index is never given to
 * a second process while the first may be alive: the newcomer waits until silence proves that the first is gone, and is refused
 * when the first has been heard for as long as that takes. Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include "proto/actions.h"

/* Silence after which a server counts as lost: servers speak four times a second, so that a shorter lease would lose them by
 * chance. */
enum { PSD_SERVER_LEASE_MIN_MS = 1000 };
static inline uint64_t psd_server_lease_ms(uint64_t lease_ms)
{
    return lease_ms > PSD_SERVER_LEASE_MIN_MS ? lease_ms : PSD_SERVER_LEASE_MIN_MS;
}

enum { PSD_MAX_ASKERS = 8 };

/* Others read rows; only servers.c changes them. */
typedef struct psd_server_row {
    bool joined;                 /* part of this run of the job */
    bool lost;                   /* had joined, and has been silent for longer than its lease */
    psd_peer_t peer;             /* its connection */
    uint64_t nonce;              /* of its newest hello: number of the process, then 16 bits that count its hellos */
    uint64_t epoch;              /* run of the job in which it joined */
    uint64_t clock, version;     /* rounds closed, steps made there, as last reported */
    uint64_t heard_ms;           /* when its last message came */
    char endpoint[PSD_MAX_NAME]; /* where it listens; "": the index was never held */
} psd_server_row_t;

/* Embedded by its owner; others call the functions below. */
typedef struct psd_servers {
    uint32_t n; /* of the job */
    uint64_t lease_ms;
    psd_server_row_t row[PSD_MAX_SERVERS];
    struct {
        uint64_t process, since_ms;
    } asker[PSD_MAX_ASKERS]; /* processes that requested an index when it was not free, and since when */
    uint32_t n_askers;       /* that there have been; the oldest are forgotten */
} psd_servers_t;

/* What a server says when it asks for a place. */
typedef struct psd_server_hello {
    psd_peer_t from;
    uint64_t nonce;
    uint32_t place;       /* index + 1; 0: any */
    const char *endpoint; /* below PSD_MAX_NAME bytes */
} psd_server_hello_t;

typedef enum psd_server_admission {
    PSD_SERVER_ADMITTED,
    PSD_SERVER_RESTARTED, /* another start of this server had the place, and is gone or, when the job is over, does not matter */
    PSD_SERVER_WAITS,     /* the holder may prove to be lost: ask again */
    PSD_SERVER_REFUSED,
    PSD_SERVER_OVERTAKEN /* this process has said a later hello: no answer */
} psd_server_admission_t;

/* A job of `n` servers, 1 .. PSD_MAX_SERVERS; `lease_ms` is that of a worker. */
void psd_servers_init(psd_servers_t *self, uint32_t n, uint64_t lease_ms);

/* Judge a hello, and set its place if it requests any. `over`: the job has finished, so a restarted server can be told so even if
 * its predecessor is still there. `why` gets the sentence for WAITS and REFUSED. */
psd_server_admission_t psd_servers_judge(psd_servers_t *self, uint64_t now_ms, psd_server_hello_t *hello, bool over, char *why,
                                         size_t n);

/* Give a hello that was admitted its place in run `epoch`. Returns its index, and in `*is_new` whether it was not joined before;
 * -1, and `why`, when the place is taken after all. */
int psd_servers_join(psd_servers_t *self, uint64_t now_ms, const psd_server_hello_t *hello, uint64_t epoch, bool *is_new, char *why,
                     size_t n);

/* Server `index` is no longer part of the run; it keeps its place. */
void psd_servers_leave(psd_servers_t *self, uint32_t index);

/* Another run begins: no server has joined it, and there are no steps yet. */
void psd_servers_begin_run(psd_servers_t *self);

/* Whether connection `from` speaks for server `index` of this run. */
bool psd_servers_is_from(const psd_servers_t *self, psd_peer_t from, uint32_t index);

/* Server `index` of this run reports how far it is. */
void psd_servers_note_state(psd_servers_t *self, uint64_t now_ms, uint32_t index, uint64_t clock, uint64_t version);

/* Time passes: mark servers that have fallen silent and those that are heard again, and log it (server.lost, server.back). */
void psd_servers_look(psd_servers_t *self, uint64_t now_ms, psd_actions_t *out);

/* This process did not listen for this long, which therefore does not count as any server's silence. */
void psd_servers_excuse(psd_servers_t *self, uint64_t by_ms, uint64_t now_ms);

bool psd_servers_all_joined(const psd_servers_t *self);
uint32_t psd_servers_count_joined(const psd_servers_t *self);
uint32_t psd_servers_count_lost(const psd_servers_t *self);

/* Those that have not joined, or are lost. */
uint32_t psd_servers_count_missing(const psd_servers_t *self);

/* The number of steps of all servers together, as last reported. */
uint64_t psd_servers_count_steps(const psd_servers_t *self);

/* The indices of those that have not joined, as "1, 2". */
void psd_servers_list_missing(const psd_servers_t *self, char *text, size_t n);
