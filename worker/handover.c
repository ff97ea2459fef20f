#include "worker/handover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uv.h>

enum { INTERRUPT_NS = 100000000 };

struct psd_handover {
    int done_fd;
    bool is_watched; /* the descriptor was asked for, so it is kept true; done: what it says or would say */
    bool done;
    uv_mutex_t lock;
    uv_cond_t changed;
    psd_handover_run_fn *run; /* NULL: callers only wait, and never run the loop */
    void *run_arg;
    psd_request_t request[PSD_HANDOVER_MAX];
    uint32_t n_requests;
    psd_handover_state_t state;
    int (*interrupted)(void *arg); /* NULL: waits are not interrupted */
    void *interrupted_arg;
    psd_cluster_t cluster; /* 0 servers: not joined yet */
    psd_buf_t *health;     /* figures of tensors, and their step; NULL: none */
    uint64_t health_step;
};

psd_handover_t *psd_handover_new(void)
{
    psd_handover_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->done_fd = -1;
    uv_mutex_init(&self->lock);
    uv_cond_init(&self->changed);
    return self;
}

void psd_handover_destroy(psd_handover_t **self_p)
{
    psd_handover_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    if (self->done_fd >= 0)
        close(self->done_fd);
    psd_buf_unref(&self->health);
    uv_cond_destroy(&self->changed);
    uv_mutex_destroy(&self->lock);
    free(self);
}

/* ---- callers ---- */

void psd_handover_run_by(psd_handover_t *self, psd_handover_run_fn *run, void *arg)
{
    self->run = run;
    self->run_arg = arg;
}

int psd_handover_open(psd_handover_t *self, psd_err_t *err)
{
    self->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return self->done_fd < 0 ? psd_err_set(err, PSD_ESYSTEM, "cannot start: %s", strerror(errno)) : PSD_OK;
}

/* Most programs never ask for the descriptor, and spare two system calls an exchange. */
static void show(const psd_handover_t *self)
{
    uint64_t n = 1;
    (void)!(self->done ? write(self->done_fd, &n, sizeof n) : read(self->done_fd, &n, sizeof n));
}

static void set_done(psd_handover_t *self, bool done)
{
    self->done = done;
    if (self->is_watched)
        show(self);
}

int psd_handover_fd(psd_handover_t *self)
{
    uv_mutex_lock(&self->lock);
    if (!self->is_watched)
        show(self);
    self->is_watched = true;
    uv_mutex_unlock(&self->lock);
    return self->done_fd;
}

void psd_handover_rearm(psd_handover_t *self)
{
    uv_mutex_lock(&self->lock);
    set_done(self, false);
    uv_mutex_unlock(&self->lock);
}

void psd_handover_abandon(psd_handover_t *self) { close(self->done_fd); }

void psd_handover_set_interrupt(psd_handover_t *self, int (*interrupted)(void *arg), void *arg)
{
    self->interrupted = interrupted;
    self->interrupted_arg = arg;
}

/* Wait for room: the library's thread soon takes all requests at once. */
void psd_handover_post(psd_handover_t *self, const psd_request_t *request)
{
    uv_mutex_lock(&self->lock);
    while (self->n_requests == PSD_HANDOVER_MAX)
        uv_cond_wait(&self->changed, &self->lock);
    self->request[self->n_requests++] = *request;
    uv_mutex_unlock(&self->lock);
}

int psd_handover_begin(psd_handover_t *self, psd_phase_t from, psd_phase_t to, const char *what, psd_err_t *err)
{
    int rc = PSD_OK;
    uv_mutex_lock(&self->lock);
    if (self->state.phase == from)
        self->state.phase = to;
    else if (self->state.phase == PSD_PHASE_FAILED)
        rc = psd_err_set(err, self->state.failure.code, "%s", self->state.failure.text);
    else
        rc = psd_err_set(err, PSD_EINVAL,
                         "%s: called in the wrong order; connect, register, then make one exchange or pull at a time", what);
    uv_mutex_unlock(&self->lock);
    return rc;
}

bool psd_handover_leave(psd_handover_t *self, bool finished, uint64_t rejoins)
{
    uv_mutex_lock(&self->lock);
    const bool is_over = self->state.phase == PSD_PHASE_FAILED || self->state.phase == PSD_PHASE_LEFT;
    const bool went_back = finished && self->state.rejoins != rejoins;
    if (!is_over && !went_back)
        self->state.phase = PSD_PHASE_LEAVING;
    uv_mutex_unlock(&self->lock);
    return !is_over && !went_back;
}

static int went_back(const psd_handover_t *self, const char *what, psd_err_t *err)
{
    return psd_err_set(err, PSD_EAGAIN, "%s: the servers have gone back to clock %" PRIu64, what, self->state.position.clock);
}

static bool is_reached(const psd_handover_t *self, psd_phase_t phase)
{
    return self->state.phase == phase || self->state.phase == PSD_PHASE_FAILED || self->state.phase == PSD_PHASE_READY;
}

/* Run the loop, or sleep until the thread that runs it has news. The lock is held. */
static void await_change(psd_handover_t *self, psd_phase_t phase, uint64_t limit_ns)
{
    if (self->interrupted && limit_ns > INTERRUPT_NS)
        limit_ns = INTERRUPT_NS;
    uv_mutex_unlock(&self->lock);
    const bool has_run = self->run && self->run(self->run_arg, limit_ns);
    uv_mutex_lock(&self->lock);
    if (has_run || is_reached(self, phase) || !limit_ns)
        return;
    if (limit_ns == UINT64_MAX)
        uv_cond_wait(&self->changed, &self->lock);
    else
        uv_cond_timedwait(&self->changed, &self->lock, limit_ns);
}

bool psd_handover_is_interrupted(psd_handover_t *self) { return self->interrupted && self->interrupted(self->interrupted_arg); }

/* Whether `interrupted`, called about every INTERRUPT_NS, ends the wait. The lock is held. */
static bool is_interrupted(psd_handover_t *self, uint64_t *asked_ns)
{
    if (!self->interrupted || uv_hrtime() - *asked_ns < INTERRUPT_NS)
        return false;
    uv_mutex_unlock(&self->lock);
    const bool enough = psd_handover_is_interrupted(self);
    uv_mutex_lock(&self->lock);
    *asked_ns = uv_hrtime();
    return enough;
}

int psd_handover_await(psd_handover_t *self, psd_phase_t phase, const char *what, int timeout_ms, psd_err_t *err)
{
    const psd_handover_state_t *state = &self->state;
    const uint64_t limit = (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000;
    uint64_t asked = uv_hrtime(), deadline = asked + limit;
    int rc = PSD_OK;
    uv_mutex_lock(&self->lock);
    uint64_t moved = state->moved;
    if (!timeout_ms && !is_reached(self, phase))
        await_change(self, phase, 0);
    while (!is_reached(self, phase) && rc == PSD_OK) {
        uint64_t now = uv_hrtime();
        if ((state->phase == PSD_PHASE_REGISTERING || state->phase == PSD_PHASE_RESTORING) && state->moved != moved) {
            moved = state->moved;
            deadline = now + limit; /* a model is on its way, perhaps over a slow link */
        }
        if (timeout_ms >= 0 && now >= deadline)
            rc = timeout_ms ? PSD_ETIMEOUT : PSD_EAGAIN;
        else if (is_interrupted(self, &asked))
            rc = PSD_ESTOPPED;
        else
            await_change(self, phase, timeout_ms < 0 ? UINT64_MAX : deadline - now);
    }
    if (state->phase == PSD_PHASE_FAILED)
        rc = psd_err_set(err, state->failure.code, "%s", state->failure.text);
    else if (rc == PSD_OK && state->phase != phase)
        rc = went_back(self, what, err);
    else if (rc == PSD_ESTOPPED)
        psd_err_set(err, rc, "%s: interrupted; %.400s", what, state->waiting);
    else if (rc != PSD_OK)
        psd_err_set(err, rc, "%s: nothing after %d ms; %.400s", what, timeout_ms,
                    state->waiting[0] ? state->waiting : "waiting for the server");
    uv_mutex_unlock(&self->lock);
    return rc;
}

int psd_handover_await_answer(psd_handover_t *self, uint64_t rejoins, const char *what, int timeout_ms, psd_err_t *err)
{
    int rc = psd_handover_await(self, PSD_PHASE_READY, what, timeout_ms, err);
    if (rc != PSD_OK)
        return rc;
    uv_mutex_lock(&self->lock);
    if (self->state.rejoins != rejoins)
        rc = went_back(self, what, err);
    uv_mutex_unlock(&self->lock);
    return rc;
}

void psd_handover_look(psd_handover_t *self, psd_handover_state_t *out)
{
    uv_mutex_lock(&self->lock);
    *out = self->state;
    uv_mutex_unlock(&self->lock);
}

const psd_cluster_t *psd_handover_cluster(psd_handover_t *self)
{
    uv_mutex_lock(&self->lock);
    const bool joined = self->cluster.n_servers > 0;
    uv_mutex_unlock(&self->lock);
    return joined ? &self->cluster : NULL;
}

/* ---- the library's thread ---- */

uint32_t psd_handover_take(psd_handover_t *self, psd_request_t out[PSD_HANDOVER_MAX])
{
    uv_mutex_lock(&self->lock);
    const uint32_t n = self->n_requests;
    memcpy(out, self->request, n * sizeof *out);
    self->n_requests = 0;
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
    return n;
}

void psd_handover_enter(psd_handover_t *self, psd_phase_t phase, const psd_err_t *failure, const psd_session_position_t *position,
                        uint64_t rejoins, const psd_cluster_t *cluster, bool done)
{
    uv_mutex_lock(&self->lock);
    self->state.phase = phase;
    self->state.failure = *failure;
    self->state.position = *position;
    self->state.rejoins = rejoins;
    if (cluster && !self->cluster.n_servers) {
        self->cluster = *cluster;
        self->state.has_slow = cluster->settings.has_slow;
    }
    if (done)
        set_done(self, true);
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
}

void psd_handover_fail(psd_handover_t *self, const psd_err_t *failure)
{
    uv_mutex_lock(&self->lock);
    self->state.failure = *failure;
    self->state.phase = PSD_PHASE_FAILED;
    uv_cond_broadcast(&self->changed);
    uv_mutex_unlock(&self->lock);
}

void psd_handover_progress(psd_handover_t *self, const char *waiting, bool unresolved, bool drains, uint64_t moved)
{
    uv_mutex_lock(&self->lock);
    snprintf(self->state.waiting, sizeof self->state.waiting, "%s", waiting);
    self->state.unresolved = unresolved;
    self->state.drains = drains;
    self->state.moved = moved;
    uv_mutex_unlock(&self->lock);
}

void psd_handover_tell_health(psd_handover_t *self, psd_buf_t *figures, uint64_t step)
{
    uv_mutex_lock(&self->lock);
    if (figures != self->health) {
        psd_buf_unref(&self->health);
        self->health = psd_buf_ref(figures);
        self->health_step = step;
    }
    uv_mutex_unlock(&self->lock);
}

bool psd_handover_health(psd_handover_t *self, size_t tensor, double out[PSD_SESSION_FIGURES], uint64_t *step)
{
    enum { BYTES = PSD_SESSION_FIGURES * sizeof(double) };
    uv_mutex_lock(&self->lock);
    const bool has = self->health && tensor < self->health->n_bytes / BYTES;
    if (has)
        memcpy(out, (const uint8_t *)self->health->data + tensor * BYTES, BYTES);
    *step = self->health_step;
    uv_mutex_unlock(&self->lock);
    return has;
}

void psd_handover_move(psd_handover_t *self, const char *join)
{
    uv_mutex_lock(&self->lock);
    snprintf(self->state.join, sizeof self->state.join, "%s", join);
    uv_mutex_unlock(&self->lock);
}
