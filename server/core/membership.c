#include "server/core/membership.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/absence.h"

const char *psd_worker_state_name(psd_worker_state_t state)
{
    static const char *const words[] = {
#define X(name, word) [PSD_WORKER_##name] = word,
        PSD_WORKER_STATES(X)
#undef X
    };
    return (size_t)state < sizeof words / sizeof *words ? words[state] : "unknown";
}

bool psd_worker_is_here(const psd_worker_row_t *row)
{
    return row->state == PSD_WORKER_JOINING || row->state == PSD_WORKER_WAITING || row->state == PSD_WORKER_LIVE ||
           row->state == PSD_WORKER_DONE;
}

bool psd_worker_has_pushed(const psd_worker_row_t *row, uint32_t n_shards) { return row->complete.n == n_shards; }

psd_worker_row_t *psd_membership_by_nonce(psd_membership_t *self, uint64_t nonce)
{
    for (uint32_t i = 0; i < self->n_rows; i++)
        if (self->row[i].nonce == nonce && self->row[i].state != PSD_WORKER_ABSENT)
            return &self->row[i];
    return NULL;
}

bool psd_worker_is_anothers(const psd_worker_row_t *row, uint32_t user)
{
    return row->state != PSD_WORKER_ABSENT && row->user != user;
}

/* The first row from `first` to before `last` that `user` may have; with `forget`, one whose worker has finished too. */
static psd_worker_row_t *free_row(psd_membership_t *self, uint32_t first, uint32_t last, uint32_t user, bool forget)
{
    for (uint32_t i = first; i < last && i < PSD_MAX_WORKERS; i++) {
        psd_worker_row_t *row = &self->row[i];
        if (psd_worker_is_here(row) || psd_worker_is_anothers(row, user) || (row->finished && !forget))
            continue;
        row->id = i;
        if (self->n_rows <= i)
            self->n_rows = i + 1;
        return row;
    }
    return NULL;
}

psd_worker_row_t *psd_membership_admit(psd_membership_t *self, uint32_t wanted, uint32_t user)
{
    if (wanted)
        return free_row(self, wanted - 1, wanted, user, true);
    psd_worker_row_t *row = free_row(self, 0, PSD_MAX_WORKERS, user, false);
    return row ? row : free_row(self, 0, PSD_MAX_WORKERS, user, true);
}

void psd_worker_begin_life(psd_worker_row_t *row, psd_peer_t peer, uint64_t nonce, const char *name, uint64_t now_ms)
{
    *row = (psd_worker_row_t){ .id = row->id,
                               .state = PSD_WORKER_JOINING,
                               .incarnation = row->incarnation + 1,
                               .peer = peer,
                               .user = psd_peer_user(peer),
                               .nonce = nonce,
                               .heard_ms = now_ms };
    snprintf(row->name, sizeof row->name, "%s", name);
}

void psd_worker_hears_from(psd_worker_row_t *row, psd_peer_t peer, uint64_t now_ms)
{
    row->peer = peer;
    row->heard_ms = now_ms;
}

uint32_t psd_membership_count(const psd_membership_t *self, psd_worker_state_t state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_rows; i++)
        n += self->row[i].state == state;
    return n;
}

uint32_t psd_membership_count_finished(const psd_membership_t *self)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < self->n_rows; i++)
        n += self->row[i].state == PSD_WORKER_DONE || (self->row[i].state == PSD_WORKER_LEFT && self->row[i].finished);
    return n;
}

bool psd_membership_has_quorum(const psd_membership_t *self, uint32_t live, uint32_t workers_min)
{
    return live > 0 && live + psd_membership_count_finished(self) >= workers_min;
}

bool psd_membership_has_any(const psd_membership_t *self)
{
    for (uint32_t i = 0; i < self->n_rows; i++)
        if (psd_worker_is_here(&self->row[i]))
            return true;
    return false;
}

psd_worker_row_t *psd_membership_find(psd_membership_t *self, const char *word)
{
    char id[16];
    for (uint32_t i = 0; i < self->n_rows; i++) {
        psd_worker_row_t *row = &self->row[i];
        snprintf(id, sizeof id, "%u", i);
        if (psd_worker_is_here(row) && (!strcmp(word, id) || !strcmp(word, row->name)))
            return row;
    }
    return NULL;
}

bool psd_membership_agrees(psd_membership_t *self, const psd_worker_row_t *row, const char *recipe)
{
    bool alone = true;
    for (uint32_t i = 0; i < self->n_rows; i++)
        alone = alone && (i == row->id || !psd_worker_is_here(&self->row[i]) || self->row[i].state == PSD_WORKER_JOINING);
    if (alone || !self->recipe[0])
        snprintf(self->recipe, sizeof self->recipe, "%.*s", PSD_MAX_RECIPE - 1, recipe);
    return !*recipe || !strcmp(self->recipe, recipe);
}

const psd_division_t *psd_membership_divides_otherwise(psd_membership_t *self, psd_worker_row_t *row, const char *text)
{
    const bool is_first = !row->divides;
    bool is_alone = true;
    for (uint32_t i = 0; i < self->n_rows; i++)
        is_alone = is_alone && (i == row->id || !self->row[i].divides || !psd_worker_is_here(&self->row[i]));
    row->divides = true;
    if (is_first && is_alone)
        self->n_divisions = 0;
    for (uint32_t i = 0; i < self->n_divisions; i++)
        if (!strcmp(self->division[i].text, text))
            return NULL;
    if (self->n_divisions == PSD_MAX_DIVISIONS)
        return NULL;
    if (is_first && !is_alone)
        return &self->division[self->n_divisions - 1];
    psd_division_t *added = &self->division[self->n_divisions++];
    added->worker = row->id;
    snprintf(added->text, sizeof added->text, "%.*s", PSD_MAX_RECIPE - 1, text);
    return NULL;
}

void psd_membership_begin_run(psd_membership_t *self, bool undone)
{
    for (uint32_t i = 0; i < self->n_rows; i++) {
        psd_worker_row_t *row = &self->row[i];
        row->finished = row->finished && row->state == PSD_WORKER_LEFT && !undone;
        if (psd_worker_is_here(row))
            row->state = PSD_WORKER_LOST;
    }
}

void psd_membership_excuse(psd_membership_t *self, uint64_t by_ms, uint64_t now_ms)
{
    for (uint32_t i = 0; i < self->n_rows; i++)
        self->row[i].heard_ms = psd_absence_excuse(self->row[i].heard_ms, by_ms, now_ms);
}

/* What happened to a worker that was a member and has not finished; NULL for all others. */
static const char *fate(const psd_worker_row_t *row, bool drops_lost)
{
    if (!row->served || row->finished)
        return NULL;
    if (row->state == PSD_WORKER_LOST)
        return drops_lost ? "was lost and not replaced," : "was lost";
    if (row->state == PSD_WORKER_LEFT)
        return row->drains ? "left at an operator's request" : "left before its work was done";
    return NULL;
}

void psd_membership_describe_end(const psd_membership_t *self, const char *unit, bool drops_lost, char *text, size_t n)
{
    const uint32_t done = psd_membership_count_finished(self);
    uint32_t all = done;
    for (uint32_t i = 0; i < self->n_rows; i++)
        all += fate(&self->row[i], drops_lost) != NULL;
    if (all == done) {
        snprintf(text, n, "every worker has finished");
        return;
    }
    int at = snprintf(text, n, "%u of %u workers %s finished", done, all, done == 1 ? "has" : "have");
    for (uint32_t i = 0; i < self->n_rows && (size_t)at < n; i++) {
        const psd_worker_row_t *row = &self->row[i];
        const char *what = fate(row, drops_lost);
        if (what)
            at +=
                snprintf(text + at, n - (size_t)at, "; worker %u (%.80s) %s at %s %" PRIu64, i, row->name, what, unit, row->clock);
    }
}

void psd_worker_describe_fenced(const psd_worker_row_t *row, uint64_t incarnation, char *text, size_t n)
{
    const int at = snprintf(text, n, "worker %u incarnation %" PRIu64, row->id, incarnation);
    char *rest = text + at;
    const size_t left = n - (size_t)at;
    if (row->incarnation > incarnation)
        snprintf(rest, left, " was replaced by incarnation %" PRIu64, row->incarnation);
    else if (row->quarantined)
        snprintf(rest, left,
                 " was given up: %" PRIu64
                 " of its gradients in a row had Inf or NaN (sync.quarantine_after); look at its data and "
                 "its machine",
                 row->in_vain);
    else if (row->state == PSD_WORKER_LOST)
        snprintf(rest, left,
                 " was given up: it has sent nothing for longer than the lease, or its push came later than round_timeout");
    else if (row->state == PSD_WORKER_LEFT)
        snprintf(rest, left, " has left");
    else
        snprintf(rest, left, " is not you: the number that it drew at its start is another");
}

/* It asks with each heartbeat, at least every second. */
bool psd_membership_any_going(const psd_membership_t *self, uint64_t now_ms)
{
    enum { SILENT_MS = 2500 };
    for (uint32_t i = 0; i < self->n_rows; i++)
        if (self->row[i].going && now_ms < self->row[i].heard_ms + SILENT_MS)
            return true;
    return false;
}

void psd_worker_let_go(psd_worker_row_t *row)
{
    row->state = PSD_WORKER_LEFT;
    row->finished = true;
}
