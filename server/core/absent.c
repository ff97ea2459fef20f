#include "server/core/absent.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/base/absence.h"

bool psd_absent_is_worker_lost(const psd_absent_t *self, const psd_worker_row_t *row, uint64_t lease_ms)
{
    /* Between two runs of the job no worker is a member for a moment; only silence makes one lost. */
    return row->state == PSD_WORKER_LOST && !row->finished && self->tick_ms > row->heard_ms + lease_ms;
}

/* How many more workers have to be here for a round to close. */
static uint32_t lacking_workers(const psd_absent_look_t *look)
{
    const psd_membership_t *members = look->members;
    const uint32_t live = psd_membership_count(members, PSD_WORKER_LIVE);
    const uint32_t here =
        psd_membership_count_finished(members) + (look->gathering ? psd_membership_count(members, PSD_WORKER_WAITING) : live);
    if (!look->gathering && psd_membership_has_quorum(members, live, look->workers_min))
        return 0;
    const bool nobody = !look->gathering && !live;
    return here < look->workers_min ? look->workers_min - here : nobody;
}

void psd_absent_note(psd_absent_t *self, uint64_t now_ms, const psd_absent_look_t *look)
{
    const bool waits = !look->over && !look->paused;
    const uint32_t n = waits ? psd_servers_count_missing(look->servers) + lacking_workers(look) + (look->no_first != NULL) : 0;
    self->tick_ms = now_ms;
    if (!n)
        self->since_ms = 0;
    else if (!self->since_ms || n < self->n)
        self->since_ms = now_ms; /* a peer has come */
    self->n = n;
}

uint64_t psd_absent_waited_ms(const psd_absent_t *self, uint64_t now_ms)
{
    return self->n && now_ms > self->since_ms ? now_ms - self->since_ms : 0;
}

bool psd_absent_is_first_alone(const psd_absent_t *self, const psd_absent_look_t *look) { return look->no_first && self->n == 1; }

void psd_absent_excuse(psd_absent_t *self, uint64_t by_ms, uint64_t now_ms)
{
    if (self->since_ms)
        self->since_ms = psd_absence_excuse(self->since_ms, by_ms, now_ms);
}

/* ---- in words ---- */

typedef struct list {
    char (*item)[PSD_ABSENT_TEXT];
    uint32_t most, n;
} list_t;

static void add(list_t *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(list_t *to, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (to->n < to->most)
        vsnprintf(to->item[to->n++], PSD_ABSENT_TEXT, format, args);
    va_end(args);
}

static uint64_t seconds(const psd_absent_t *self, uint64_t since_ms)
{
    return self->tick_ms > since_ms ? (self->tick_ms - since_ms) / 1000 : 0;
}

static void list_servers(const psd_absent_t *self, const psd_servers_t *servers, list_t *to)
{
    for (uint32_t s = 0; s < servers->n; s++) {
        const psd_server_row_t *row = &servers->row[s];
        if (row->lost)
            add(to, "server %u at %s, silent for %" PRIu64 " s", s, row->endpoint, seconds(self, row->heard_ms));
        else if (!row->joined && row->endpoint[0])
            add(to, "server %u at %s, which is joining again", s, row->endpoint);
        else if (!row->joined)
            add(to, "server %u of %u, which has not joined yet", s, servers->n);
    }
}

static void list_workers(const psd_absent_t *self, const psd_absent_look_t *look, list_t *to)
{
    const psd_membership_t *members = look->members;
    const uint32_t done = psd_membership_count_finished(members), least = look->workers_min;
    const uint32_t live = psd_membership_count(members, PSD_WORKER_LIVE);
    if (!lacking_workers(look))
        return;
    if (look->gathering)
        add(to, "more workers: %u of %u workers have registered", psd_membership_count(members, PSD_WORKER_WAITING) + done,
            look->workers_want);
    else if (done)
        add(to, "more workers: of %u workers %u %s finished, and %u %s here", least, done, done == 1 ? "has" : "have", live,
            live == 1 ? "is" : "are");
    else
        add(to, "more workers: %u of %u workers are here", live, least);
    for (uint32_t i = 0; i < members->n_rows; i++) {
        const psd_worker_row_t *row = &members->row[i];
        if (psd_absent_is_worker_lost(self, row, look->lease_ms))
            add(to,
                row->quarantined ? "worker %u (%.80s), given up %" PRIu64 " s ago for Inf or NaN in its gradients"
                                 : "worker %u (%.80s), silent for %" PRIu64 " s",
                i, row->name, seconds(self, row->heard_ms));
        else if (!look->gathering && row->state == PSD_WORKER_LEFT && row->served && !row->finished)
            add(to, "worker %u (%.80s), which left %s", i, row->name,
                row->drains ? "at an operator's request" : "before its work was done");
    }
}

uint32_t psd_absent_list(const psd_absent_t *self, const psd_absent_look_t *look, char (*item)[PSD_ABSENT_TEXT], uint32_t most)
{
    list_t list = { .item = item, .most = most };
    if (look->over)
        return 0;
    list_servers(self, look->servers, &list);
    list_workers(self, look, &list);
    if (look->no_first)
        add(&list, "the first checkpoint, before which nothing is trained; it cannot be made: %.230s", look->no_first);
    return list.n;
}

void psd_absent_describe(const psd_absent_t *self, const psd_absent_look_t *look, char *text, size_t n)
{
    char item[PSD_MAX_ABSENT][PSD_ABSENT_TEXT];
    const uint32_t n_items = psd_absent_list(self, look, item, PSD_MAX_ABSENT);
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < n_items && at + 1 < n; i++)
        at += (size_t)snprintf(text + at, n - at, "%s%s", i ? "; " : "", item[i]);
}
