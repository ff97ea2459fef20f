#include "server/core/servers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/absence.h"

/* A server speaks three times as often. */
enum { SILENT_MS = 750 };

void psd_servers_init(psd_servers_t *self, uint32_t n, uint64_t lease_ms)
{
    *self = (psd_servers_t){ .n = n, .lease_ms = psd_server_lease_ms(lease_ms) };
}

/* ---- who may have a place ---- */

/* The number of a process, in all of its hellos. */
static uint64_t process_of(uint64_t nonce) { return nonce >> 16; }

/* Numbers of one process differ in their lower 16 bits and rise: a hello that was overtaken by a later one. */
static bool is_older(uint64_t nonce, uint64_t than) { return process_of(nonce) == process_of(than) && nonce < than; }

static bool is_at(const psd_server_row_t *row, const psd_server_hello_t *hello) { return !strcmp(row->endpoint, hello->endpoint); }

/* The row of a server that had this place, under another start of its process; NULL if there is none. */
static psd_server_row_t *started_again(psd_servers_t *self, const psd_server_hello_t *hello)
{
    psd_server_row_t *row = hello->place && hello->place <= self->n ? &self->row[hello->place - 1] : NULL;
    return row && row->endpoint[0] && row->nonce != hello->nonce ? row : NULL;
}

/* Whether a server has asked for so long that a holder that was gone when it began would by now count as lost. */
static bool has_asked_for_long(psd_servers_t *self, uint64_t now_ms, const psd_server_hello_t *hello)
{
    const uint64_t process = process_of(hello->nonce);
    for (uint32_t i = 0; i < PSD_MAX_ASKERS && i < self->n_askers; i++)
        if (self->asker[i].process == process)
            return now_ms > self->asker[i].since_ms + self->lease_ms + SILENT_MS;
    uint32_t oldest = 0;
    for (uint32_t i = 1; i < PSD_MAX_ASKERS; i++)
        if (self->asker[i].since_ms < self->asker[oldest].since_ms)
            oldest = i;
    const uint32_t at = self->n_askers < PSD_MAX_ASKERS ? self->n_askers++ : oldest;
    self->asker[at].process = process;
    self->asker[at].since_ms = now_ms;
    return false;
}

/* Whether a server that asks for any place may have this one: it has had no holder, or its holder is gone. A new process at the
 * same address proves that, once the old one is silent. */
static bool is_free(const psd_servers_t *self, uint64_t now_ms, const psd_server_row_t *row, const psd_server_hello_t *hello)
{
    const uint64_t silent_ms = now_ms - row->heard_ms;
    return (!row->joined && !row->endpoint[0]) || silent_ms > self->lease_ms || (is_at(row, hello) && silent_ms > SILENT_MS);
}

/* For one that asks for any place: the one that it has or that its address had before, else one that is free. */
static psd_server_admission_t choose_place(psd_servers_t *self, uint64_t now_ms, psd_server_hello_t *hello, char *why, size_t n)
{
    const psd_server_row_t *chosen = NULL;
    for (uint32_t s = 1; s < self->n; s++) {
        const psd_server_row_t *row = &self->row[s];
        if (row->endpoint[0] && process_of(row->nonce) == process_of(hello->nonce)) {
            chosen = row;
            break;
        }
        if (is_free(self, now_ms, row, hello) && (!chosen || (is_at(row, hello) && !is_at(chosen, hello))))
            chosen = row;
    }
    if (chosen) {
        hello->place = (uint32_t)(chosen - self->row) + 1;
        return PSD_SERVER_ADMITTED;
    }
    if (has_asked_for_long(self, now_ms, hello)) {
        snprintf(why, n, "server %s is one too many: the job has %u, all of them here", hello->endpoint, self->n);
        return PSD_SERVER_REFUSED;
    }
    snprintf(why, n, "all %u servers of the job have been heard of within %" PRIu64 " ms", self->n, self->lease_ms);
    return PSD_SERVER_WAITS;
}

/* Whether the sender may have the place that it asks for, where another start of that server had it: not while that one is
 * alive. */
static psd_server_admission_t replace(psd_servers_t *self, uint64_t now_ms, const psd_server_hello_t *hello, bool over, char *why,
                                      size_t n)
{
    const psd_server_row_t *old = started_again(self, hello);
    if (!old)
        return PSD_SERVER_ADMITTED;
    if (is_older(hello->nonce, old->nonce))
        return PSD_SERVER_OVERTAKEN;
    const uint64_t silent_ms = now_ms - old->heard_ms;
    const uint64_t enough_ms = is_at(old, hello) ? SILENT_MS : PSD_SERVER_LEASE_MIN_MS;
    if (over || process_of(hello->nonce) == process_of(old->nonce) || silent_ms > enough_ms)
        return PSD_SERVER_RESTARTED;
    if (has_asked_for_long(self, now_ms, hello)) {
        snprintf(why, n,
                 "server %s is one too many: server %u is the one at %s, which is alive; give each server an index of its own, "
                 "or none",
                 hello->endpoint, hello->place - 1, old->endpoint);
        return PSD_SERVER_REFUSED;
    }
    snprintf(why, n, "server %u at %s was here %" PRIu64 " ms ago", hello->place - 1, old->endpoint, silent_ms);
    return PSD_SERVER_WAITS;
}

psd_server_admission_t psd_servers_judge(psd_servers_t *self, uint64_t now_ms, psd_server_hello_t *hello, bool over, char *why,
                                         size_t n)
{
    if (hello->from == PSD_PEER_OWN_SHARD) {
        hello->place = 1;
    } else if (hello->place == 1) {
        snprintf(why, n,
                 "server %s cannot be server 0: that is the one which it joins; "
                 "give it another server.index, or none",
                 hello->endpoint);
        return PSD_SERVER_REFUSED;
    }
    const psd_server_admission_t chosen = hello->place ? PSD_SERVER_ADMITTED : choose_place(self, now_ms, hello, why, n);
    return chosen == PSD_SERVER_ADMITTED ? replace(self, now_ms, hello, over, why, n) : chosen;
}

/* ---- who is here ---- */

static psd_server_row_t *row_for(psd_servers_t *self, const psd_server_hello_t *hello)
{
    for (uint32_t s = 0; s < self->n; s++)
        if (self->row[s].joined && self->row[s].nonce == hello->nonce)
            return &self->row[s];
    for (uint32_t s = 0; s < self->n; s++)
        if (!self->row[s].joined && (!hello->place || hello->place == s + 1))
            return &self->row[s];
    return NULL;
}

int psd_servers_join(psd_servers_t *self, uint64_t now_ms, const psd_server_hello_t *hello, uint64_t epoch, bool *is_new, char *why,
                     size_t n)
{
    psd_server_row_t *row = row_for(self, hello);
    if (!row) {
        snprintf(why, n, "server %s is one too many: the job has %u, and that index is taken", hello->endpoint, self->n);
        return -1;
    }
    *is_new = !row->joined;
    row->joined = true;
    row->peer = hello->from;
    row->nonce = hello->nonce;
    row->epoch = epoch;
    row->heard_ms = now_ms;
    snprintf(row->endpoint, sizeof row->endpoint, "%s", hello->endpoint);
    return (int)(row - self->row);
}

void psd_servers_leave(psd_servers_t *self, uint32_t index) { self->row[index].joined = false; }

void psd_servers_begin_run(psd_servers_t *self)
{
    for (uint32_t s = 0; s < self->n; s++) {
        self->row[s].joined = false;
        self->row[s].version = 0;
    }
}

bool psd_servers_is_from(const psd_servers_t *self, psd_peer_t from, uint32_t index)
{
    return index < self->n && self->row[index].joined && self->row[index].peer == from;
}

void psd_servers_note_state(psd_servers_t *self, uint64_t now_ms, uint32_t index, uint64_t clock, uint64_t version)
{
    psd_server_row_t *row = &self->row[index];
    row->clock = clock;
    row->version = version;
    row->heard_ms = now_ms;
}

void psd_servers_look(psd_servers_t *self, uint64_t now_ms, psd_actions_t *out)
{
    for (uint32_t s = 0; s < self->n; s++) {
        psd_server_row_t *row = &self->row[s];
        const bool known = row->endpoint[0] && row->peer != PSD_PEER_OWN_SHARD;
        const bool lost = known && now_ms > row->heard_ms + self->lease_ms;
        if (lost && !row->lost)
            psd_actions_log(out, PSD_LEVEL_WARN, "server.lost", "shard=%u endpoint=%s silent_ms=%" PRIu64, s, row->endpoint,
                            now_ms - row->heard_ms);
        else if (!lost && row->lost)
            psd_actions_log(out, PSD_LEVEL_INFO, "server.back", "shard=%u endpoint=%s", s, row->endpoint);
        row->lost = lost;
    }
}

void psd_servers_excuse(psd_servers_t *self, uint64_t by_ms, uint64_t now_ms)
{
    for (uint32_t s = 0; s < self->n; s++)
        self->row[s].heard_ms = psd_absence_excuse(self->row[s].heard_ms, by_ms, now_ms);
    for (uint32_t i = 0; i < self->n_askers; i++) /* otherwise a server that was heard just now would count as alive for too long */
        self->asker[i].since_ms = psd_absence_excuse(self->asker[i].since_ms, by_ms, now_ms);
}

bool psd_servers_all_joined(const psd_servers_t *self) { return psd_servers_count_joined(self) == self->n; }

uint32_t psd_servers_count_joined(const psd_servers_t *self)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < self->n; s++)
        n += self->row[s].joined;
    return n;
}

uint32_t psd_servers_count_lost(const psd_servers_t *self)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < self->n; s++)
        n += self->row[s].lost;
    return n;
}

uint32_t psd_servers_count_missing(const psd_servers_t *self)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < self->n; s++)
        n += !self->row[s].joined || self->row[s].lost;
    return n;
}

uint64_t psd_servers_count_steps(const psd_servers_t *self)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < self->n; s++)
        n += self->row[s].version;
    return n;
}

void psd_servers_list_missing(const psd_servers_t *self, char *text, size_t n)
{
    size_t at = 0;
    for (uint32_t s = 0; s < self->n && at < n; s++)
        if (!self->row[s].joined)
            at += (size_t)snprintf(text + at, n - at, "%s%u", at ? ", " : "", s);
}
