/* coordinator_absent.c - servers and workers that the job needs and that are missing: servers that have not joined or have
 * fallen silent, too few workers. A log line says so every few seconds, and the job ends when they stay away too long. */
#include "server/core/coordinator_state.h"

enum { LAST_SAVE_MS = 30000 };

bool psd_coord_is_worker_lost(const psd_coordinator_t *self, const psd_worker_row_t *row)
{
    /* Between two runs of the job every worker is out for a moment; only silence makes it a lost one. */
    return row->state == PSD_WORKER_LOST && !row->finished && self->absent.tick_ms > row->heard_ms + self->config.lease_ms;
}

/* How many more workers have to be here for a round to close. */
static uint32_t lacking_workers(const psd_coordinator_t *self)
{
    const uint32_t done = psd_coord_count_finished(self), least = self->config.workers_min;
    const uint32_t live = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    const uint32_t here =
        done + (self->state == PSD_JOB_GATHERING ? psd_membership_count(&self->members, PSD_WORKER_WAITING) : live);
    if (self->state != PSD_JOB_GATHERING && psd_coord_has_quorum(self, live))
        return 0;
    const bool nobody = self->state != PSD_JOB_GATHERING && !live;
    return here < least ? least - here : nobody;
}

static uint64_t seconds(const psd_coordinator_t *self, uint64_t since_ms)
{
    return self->absent.tick_ms > since_ms ? (self->absent.tick_ms - since_ms) / 1000 : 0;
}

static void add(char (*item)[PSD_ABSENT_TEXT], uint32_t most, uint32_t *n, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void add(char (*item)[PSD_ABSENT_TEXT], uint32_t most, uint32_t *n, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (*n < most)
        vsnprintf(item[*n], PSD_ABSENT_TEXT, format, args);
    *n += *n < most;
    va_end(args);
}

static void list_servers(const psd_coordinator_t *self, char (*item)[PSD_ABSENT_TEXT], uint32_t most, uint32_t *n)
{
    for (uint32_t s = 0; s < self->config.n_servers; s++) {
        const psd_server_row_t *shard = &self->servers.row[s];
        if (shard->lost)
            add(item, most, n, "server %u at %s, silent for %" PRIu64 " s", s, shard->endpoint, seconds(self, shard->heard_ms));
        else if (!shard->joined && shard->endpoint[0])
            add(item, most, n, "server %u at %s, which is joining again", s, shard->endpoint);
        else if (!shard->joined)
            add(item, most, n, "server %u of %u, which has not joined yet", s, self->config.n_servers);
    }
}

static void list_workers(const psd_coordinator_t *self, char (*item)[PSD_ABSENT_TEXT], uint32_t most, uint32_t *n)
{
    const uint32_t done = psd_coord_count_finished(self), least = self->config.workers_min;
    const uint32_t live = psd_membership_count(&self->members, PSD_WORKER_LIVE);
    if (!lacking_workers(self))
        return;
    if (self->state == PSD_JOB_GATHERING)
        add(item, most, n, "more workers: %u of %u workers have registered",
            psd_membership_count(&self->members, PSD_WORKER_WAITING) + done, self->config.workers_want);
    else if (done)
        add(item, most, n, "more workers: of %u workers %u %s finished, and %u %s here", least, done, done == 1 ? "has" : "have",
            live, live == 1 ? "is" : "are");
    else
        add(item, most, n, "more workers: %u of %u workers are here", live, least);
    for (uint32_t i = 0; i < self->members.n_rows; i++) {
        const psd_worker_row_t *row = &self->members.row[i];
        if (psd_coord_is_worker_lost(self, row))
            add(item, most, n, "worker %u (%.80s), silent for %" PRIu64 " s", i, row->name, seconds(self, row->heard_ms));
    }
}

uint32_t psd_coord_list_absent(const psd_coordinator_t *self, char (*item)[PSD_ABSENT_TEXT], uint32_t most)
{
    uint32_t n = 0;
    if (self->state == PSD_JOB_FINISHED || self->ending)
        return 0;
    list_servers(self, item, most, &n);
    list_workers(self, item, most, &n);
    if (psd_coord_lacks_first_point(self))
        add(item, most, &n, "the first checkpoint, which cannot be made: %.270s", psd_saves_trouble(&self->saves));
    return n;
}

void psd_coord_describe_absent(const psd_coordinator_t *self, char *text, size_t n)
{
    char item[PSD_MAX_ABSENT][PSD_ABSENT_TEXT];
    const uint32_t n_items = psd_coord_list_absent(self, item, PSD_MAX_ABSENT);
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < n_items && at + 1 < n; i++)
        at += (size_t)snprintf(text + at, n - at, "%s%s", i ? "; " : "", item[i]);
}

/* Everybody who waits is told, so that all end alike. */
static void give_up(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    char who[PSD_MAX_TEXT / 2], why[PSD_MAX_TEXT];
    if (psd_coord_lacks_first_point(self) && self->absent.n == 1) {
        snprintf(why, sizeof why,
                 "no checkpoint could be made for %" PRIu64 " s (join_timeout), and nothing is trained before there is one: %s; "
                 "make room there, or name another checkpoint.dir",
                 (now_ms - self->absent.since_ms) / 1000, psd_saves_trouble(&self->saves));
        psd_coord_fail(self, now_ms, PSD_EIO, PSD_REFUSAL_UNSAVED, why, out);
        return;
    }
    psd_coord_describe_absent(self, who, sizeof who);
    snprintf(why, sizeof why, "gave up after %" PRIu64 " s (join_timeout) of waiting for %s",
             (now_ms - self->absent.since_ms) / 1000, who);
    psd_coord_fail(self, now_ms, PSD_EUNAVAILABLE, PSD_REFUSAL_ABSENT, why, out);
}

/* Before the end what has been trained is saved, if those who could are here. */
static bool saves_first(psd_coordinator_t *self, uint64_t now_ms)
{
    const bool can = psd_saves_can_save(&self->saves) && !psd_coord_lacks_first_point(self) && self->state != PSD_JOB_GATHERING &&
                     psd_servers_all_joined(&self->servers) && !psd_servers_count_lost(&self->servers);
    if (!can || psd_coord_is_saved(self) || now_ms > self->absent.since_ms + self->config.patience_ms + LAST_SAVE_MS)
        return false;
    psd_saves_ask(&self->saves);
    return true;
}

void psd_coord_tend_absent(psd_coordinator_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->absent.tick_ms = now_ms;
    if (self->state == PSD_JOB_FINISHED)
        return;
    psd_servers_look(&self->servers, now_ms, out);
    const bool waits = !self->paused && !self->ending;
    const uint32_t n_missing =
        waits ? psd_servers_count_missing(&self->servers) + lacking_workers(self) + psd_coord_lacks_first_point(self) : 0;
    if (!n_missing)
        self->absent.since_ms = 0;
    else if (!self->absent.since_ms || n_missing < self->absent.n)
        self->absent.since_ms = now_ms; /* somebody has come: patience begins anew */
    self->absent.n = n_missing;
    if (n_missing && self->config.patience_ms && now_ms >= self->absent.since_ms + self->config.patience_ms &&
        !saves_first(self, now_ms))
        give_up(self, now_ms, out);
}
