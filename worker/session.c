#include "worker/session.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/absence.h"
#include "common/base/copy.h"
#include "common/optim/clip.h"
#include "worker/feedback.h"

enum {
    RTO_MS = 200,
    RTO_MAX_MS = 1000,
    HELLO_MS = 200,
    HEARTBEAT_MAX_MS = 1000,
    PUMP = 4,
    PULL_WINDOW = 1 << 20,     /* elements of slow weights that are asked for and have not come, 4 MiB */
    PROBE_EVERY = 1 << 18,     /* elements of pushes between two signs of life that are asked of a server, 1 MiB */
    SERVER_LEASE_MIN_MS = 2000 /* server 0 answers a heartbeat per second */
};

typedef struct server {
    bool attached;
    uint32_t n_parts;   /* parts there, at least 1 */
    uint32_t n_lacking; /* parts whose weights are awaited */
    uint8_t *lacking;   /* bitmap of those */
    uint64_t version;   /* of the weights held */
    double samples;     /* of the whole job, behind that version */
    uint64_t asked_ms;  /* when it was last probed or asked */
    uint64_t rto_ms;    /* how long to wait before asking again */
    uint64_t probe_seq; /* number of the last probe */
    uint64_t mark;      /* answers to probes of lower numbers say nothing about what is awaited now */
    uint64_t init_seq;  /* number of the newest INIT_WANTED that was answered */
    uint32_t next_pull; /* part from which on slow weights have not been asked for */
    uint64_t flying;    /* elements of those that have been and have not come */
    char waiting[192];  /* what its last WAIT said */
} server_t;

/* A server as somebody who is there or not; unlike server_t it outlives a run of the job. */
typedef struct presence {
    uint64_t heard_ms; /* when it last said something, or was not asked for anything */
    bool lost;
    uint64_t silent_ms; /* as of the last look */
    char endpoint[PSD_MAX_NAME];
} presence_t;

/* A part of a server that can be pushed. */
typedef struct ready {
    uint32_t server, part;
} ready_t;

struct psd_session {
    psd_session_config_t config;
    char *job_name, *name, *recipe;
    psd_phase_t phase;
    psd_err_t error;
    psd_cluster_t *cluster;
    server_t server[PSD_MAX_SERVERS];
    uint32_t worker, rank, world;
    uint64_t job, incarnation, view_id;

    psd_tensor_list_t list;
    psd_partition_t map;
    psd_feedback_t *feedback; /* NULL: gradients are pushed as they are */
    float **data;             /* tensors' weights, the caller's */
    float **initial;          /* their initial values, until a step is made; NULL: they are in `data` */
    bool is_large;            /* all of it together: what is copied need not stay in the cache */
    bool registered;          /* the coordinator has our list */

    uint64_t clock;         /* of the next or the open exchange, from 1 */
    bool synced;            /* the clock is known */
    const float **gradient; /* of the open exchange */
    bool *pushed;           /* its tensors that have come; n_pushed of them */
    uint32_t n_pushed;
    uint32_t *first_chunk;              /* of each tensor, and behind them all: index in the map */
    uint32_t *missing[PSD_MAX_SERVERS]; /* chunks of each part of a server whose gradient has not come */
    ready_t *ready;                     /* parts in the order in which they became whole: n_ready, of which n_sent are pushed */
    uint32_t n_ready, n_sent;
    uint64_t samples;
    uint64_t weights_ms; /* when the weights that it holds were all here */
    uint64_t away_ms;    /* for how long this process stood still while they were awaited */
    double compute_s;    /* that the caller has taken for its gradient, and its machine for something else */
    double round_loss;   /* of all samples of the last step, by the servers */
    double loss, norm2;  /* norm2, nonfinite: of the whole gradient, when each push is a step */
    bool nonfinite;
    float **slow;      /* where slow weights go */
    uint64_t pull_seq; /* numbers pulls of slow weights and settings: an answer to an older one is not taken */
    double lr;         /* that is to be set */
    bool finished;
    uint64_t heartbeat_ms, hello_ms;
    uint64_t rejoins; /* how often it has joined again by itself */
    uint64_t moved;   /* parts sent and taken */
    bool run_is_over; /* the servers have begun another run, and the caller has not asked for anything since */
    bool drains;      /* an operator wants it to leave */
    char told[192];   /* what server 0 says that the job waits for */
    presence_t presence[PSD_MAX_SERVERS];
    uint32_t n_presences; /* servers that a welcome has named */
    uint64_t lease_ms;
    uint64_t seen_ms; /* when the last event was, for our own absence */
};

psd_session_t *psd_session_new(const psd_session_config_t *config)
{
    psd_session_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->config = *config;
    self->job_name = strdup(config->job);
    self->name = strdup(config->name);
    self->recipe = strdup(config->recipe ? config->recipe : "");
    if (!self->job_name || !self->name || !self->recipe)
        psd_session_destroy(&self);
    return self;
}

static void forget_map(psd_session_t *self)
{
    psd_feedback_destroy(&self->feedback);
    psd_partition_clear(&self->map);
    free(self->first_chunk);
    free(self->ready);
    self->first_chunk = NULL;
    self->ready = NULL;
    for (uint32_t s = 0; s < PSD_MAX_SERVERS; s++) {
        free(self->missing[s]);
        self->missing[s] = NULL;
        free(self->server[s].lacking);
        self->server[s] = (server_t){ 0 };
    }
}

/* Weights that come in a code take the place of the initial values and are no longer these: they are kept for servers that begin another
 * run before the first step. */
static bool keep_initial(psd_session_t *self)
{
    if (psd_coding_is_lossless(&self->cluster->settings.codings.pull))
        return true;
    bool ok = (self->initial = calloc(self->list.n, sizeof *self->initial)) != NULL;
    for (uint32_t i = 0; ok && i < self->list.n; i++) {
        const size_t n_bytes = self->list.tensor[i].n_elements * sizeof(float);
        if ((ok = (self->initial[i] = malloc(n_bytes)) != NULL))
            memcpy(self->initial[i], self->data[i], n_bytes);
    }
    return ok;
}

static void forget_initial(psd_session_t *self)
{
    for (uint32_t i = 0; self->initial && i < self->list.n; i++)
        free(self->initial[i]);
    free(self->initial);
    self->initial = NULL;
}

void psd_session_destroy(psd_session_t **self_p)
{
    psd_session_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    forget_map(self);
    forget_initial(self);
    psd_tensors_clear(&self->list);
    free(self->data);
    free(self->gradient);
    free(self->pushed);
    free(self->slow);
    free(self->cluster);
    free(self->job_name);
    free(self->name);
    free(self->recipe);
    free(self);
}

static void fail(psd_session_t *self, int code, const char *text)
{
    psd_err_set(&self->error, code, "%s", text);
    self->phase = PSD_PHASE_FAILED;
}

static psd_msg_t *send_to(psd_session_t *self, uint32_t s, psd_kind_t kind, psd_buf_t *payload, psd_actions_t *out)
{
    psd_msg_t *msg = psd_actions_send(out, PSD_PEER_SERVER + s, kind, payload);
    msg->job = self->job;
    msg->worker = self->worker;
    msg->incarnation = self->incarnation;
    msg->view_id = self->view_id;
    msg->map_id = 1;
    msg->shard = s;
    msg->clock = self->clock;
    return msg;
}

/* Whether the arrays are the caller's, who may be computing with them. */
static bool is_callers(const psd_session_t *self) { return self->phase == PSD_PHASE_READY || self->phase == PSD_PHASE_COLLECTING; }

static uint32_t n_servers(const psd_session_t *self) { return self->cluster ? self->cluster->n_servers : 0; }

/* Parts that the server really holds: a server without chunks still has one empty part. */
static uint32_t real_parts(const psd_session_t *self, uint32_t s) { return self->map.n_parts[s]; }

static const psd_part_t *part_at(const psd_session_t *self, uint32_t s, uint32_t part) { return &self->map.part[s][part]; }

/* -- a part of the model as it lies in the caller's arrays, one per tensor */

/* Where a part begins that lies in one piece, be it of one tensor or of several that follow each other in memory; NULL: it has to be
 * gathered. */
static const float *stretch_of(const psd_session_t *self, uint32_t s, uint32_t part, const float *const *array)
{
    const psd_chunk_t *c = psd_partition_at(&self->map, s, part, 0);
    const float *const first = array[c->tensor] ? array[c->tensor] + c->offset : NULL;
    for (uint32_t i = 1; first && i < part_at(self, s, part)->n_chunks; i++) {
        c = psd_partition_at(&self->map, s, part, i);
        if (!array[c->tensor] || array[c->tensor] + c->offset != first + c->at)
            return NULL;
    }
    return first;
}

/* Copy a part's chunks together into a new buffer of the part's elements, 0 where a tensor has no array, with `n_more` bytes
 * behind them. */
static psd_buf_t *gather(const psd_session_t *self, uint32_t s, uint32_t part, const float *const *array, size_t n_more)
{
    const psd_part_t *p = part_at(self, s, part);
    const size_t n_bytes = p->n * sizeof(float) + n_more;
    psd_buf_t *out = self->config.new_buf ? self->config.new_buf(self->config.arg, n_bytes) : NULL;
    if (!out)
        out = psd_buf_new(n_bytes);
    assert(out && "no memory for a message");
    for (uint32_t i = 0; i < p->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&self->map, s, part, i);
        float *to = (float *)out->data + c->at;
        if (array[c->tensor])
            memcpy(to, array[c->tensor] + c->offset, c->n * sizeof *to);
        else
            memset(to, 0, c->n * sizeof *to);
    }
    return out;
}

static void describe_part(const psd_session_t *self, uint32_t s, uint32_t part, uint32_t codec, psd_msg_t *msg)
{
    msg->part = part;
    msg->parts = self->server[s].n_parts;
    msg->n_elements = part_at(self, s, part)->n;
    msg->dtype = PSD_DTYPE_F32;
    msg->codec = codec;
}

/* ---- asking, and asking again ---- */

static void await_all(psd_session_t *self, uint64_t now_ms)
{
    for (uint32_t s = 0; s < n_servers(self); s++) {
        server_t *server = &self->server[s];
        server->n_lacking = server->n_parts;
        memset(server->lacking, 0, psd_bitmap_bytes(server->n_parts));
        for (uint32_t p = 0; p < server->n_parts; p++)
            psd_bitmap_set(server->lacking, p);
        server->asked_ms = now_ms;
        server->rto_ms = RTO_MS;
        server->mark = server->probe_seq + 1;
        server->next_pull = 0;
        server->flying = 0;
    }
}

static void lacks_no_more(server_t *server)
{
    server->n_lacking = 0;
    memset(server->lacking, 0, psd_bitmap_bytes(server->n_parts));
}

static bool lacks_nothing(const psd_session_t *self)
{
    for (uint32_t s = 0; s < n_servers(self); s++)
        if (self->server[s].n_lacking)
            return false;
    return true;
}

/* Ask a server where we are, or, with `code` PSD_PROBE_SEND, to send the weights that lack. */
static void send_probe(psd_session_t *self, uint32_t s, uint32_t code, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    psd_buf_t *map = psd_payload_copy(server->lacking, psd_bitmap_bytes(server->n_parts));
    psd_msg_t *msg = send_to(self, s, PSD_MSG_PROBE, map, out);
    msg->parts = server->n_parts;
    msg->code = code;
    msg->seq = ++server->probe_seq;
    msg->base_version = server->init_seq;
    if (self->phase != PSD_PHASE_EXCHANGING)
        msg->clock = 0; /* nothing is pushed: whatever weights there are */
    psd_buf_unref(&map);
}

/* Ask for slow weights, as many as the window allows. */
static void send_pull(psd_session_t *self, uint32_t s, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    psd_buf_t *map = psd_payload_copy(server->lacking, psd_bitmap_bytes(server->n_parts));
    uint32_t n = 0;
    memset(map->data, 0, map->n_bytes);
    for (; server->next_pull < real_parts(self, s) && server->flying < PULL_WINDOW; server->next_pull++)
        if (psd_bitmap_get(server->lacking, server->next_pull)) {
            psd_bitmap_set(map->data, server->next_pull);
            server->flying += part_at(self, s, server->next_pull)->n;
            n++;
        }
    if (n) {
        psd_msg_t *msg = send_to(self, s, PSD_MSG_PULL, map, out);
        msg->parts = server->n_parts;
        msg->seq = self->pull_seq;
        server->mark = server->probe_seq + 1;
    }
    psd_buf_unref(&map);
}

static void send_attach(psd_session_t *self, uint32_t s, psd_actions_t *out)
{
    send_to(self, s, PSD_MSG_ATTACH, NULL, out)->seq = self->config.nonce;
}

static void send_register(psd_session_t *self, psd_actions_t *out)
{
    psd_tensor_list_t list;
    const int rc = psd_tensors_copy(&list, &self->list);
    assert(rc == PSD_OK && "no memory for a registration");
    psd_buf_t *payload = psd_body_of_tensors(&list);
    psd_msg_t *msg = send_to(self, 0, PSD_MSG_REGISTER, payload, out);
    msg->seq = self->config.nonce;
    snprintf(msg->text, sizeof msg->text, "%s", self->recipe);
    psd_buf_unref(&payload);
}

/* Ask a server for what is awaited of it, if it is time; the interval doubles until something comes. */
static void ask_again(psd_session_t *self, uint64_t now_ms, uint32_t s, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    if (now_ms < server->asked_ms + server->rto_ms)
        return;
    server->asked_ms = now_ms;
    server->rto_ms = 2 * server->rto_ms < RTO_MAX_MS ? 2 * server->rto_ms : RTO_MAX_MS;
    if (!server->attached) {
        send_attach(self, s, out);
        server->rto_ms = RTO_MS;
    } else if (server->n_lacking && (self->phase != PSD_PHASE_REGISTERING || self->registered)) {
        send_probe(self, s, 0, out);
        if (self->phase == PSD_PHASE_REGISTERING)
            server->rto_ms = RTO_MS;
    }
}

static void send_hello(psd_session_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->hello_ms && now_ms < self->hello_ms + HELLO_MS)
        return;
    self->hello_ms = now_ms;
    psd_hello_t us = { 0 };
    snprintf(us.job, sizeof us.job, "%s", self->job_name);
    snprintf(us.name, sizeof us.name, "%s", self->name);
    psd_buf_t *body = psd_body_of_hello(&us);
    psd_msg_t *msg = psd_actions_send(out, PSD_PEER_SERVER, PSD_MSG_HELLO, body);
    msg->seq = self->config.nonce;
    msg->code = self->config.wanted;
    psd_buf_unref(&body);
}

static void send_leave(psd_session_t *self, psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, 0, PSD_MSG_LEAVE, NULL, out);
    msg->seq = self->config.nonce;
    msg->code = self->finished ? 0 : 1;
}

static void send_setting(psd_session_t *self, psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, 0, PSD_MSG_SETTING, NULL, out);
    msg->seq = self->config.nonce;
    msg->code = (uint32_t)self->pull_seq; /* which asking: a late answer to an older one is not about this */
    msg->value = self->lr;
    snprintf(msg->text, sizeof msg->text, "optimizer.lr");
}

/* The servers have begun another run of the job (one of them was started again): join it. The id may be another one. */
static void rejoin(psd_session_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_actions_log(out, PSD_LEVEL_WARN, "worker.rejoin",
                    "worker=%u clock=%" PRIu64 " reason=\"the servers have begun another run\"", self->worker, self->clock);
    forget_map(self);
    free(self->cluster);
    self->cluster = NULL;
    self->config.nonce++;
    self->registered = self->synced = self->run_is_over = false;
    self->told[0] = '\0';
    self->view_id = 0;
    self->rejoins++;
    self->phase = PSD_PHASE_JOINING;
    self->hello_ms = 0;
    send_hello(self, now_ms, out);
}

/* This process was stopped, or got no time. Asked with each event, before it changes the phase: what stood still is the exchange, or
 * the caller's computing. What we did not listen to is nobody's silence. */
static void note_absence(psd_session_t *self, uint64_t now_ms)
{
    const uint64_t away_ms = psd_absence(&self->seen_ms, now_ms);
    if (!away_ms)
        return;
    if (self->phase == PSD_PHASE_EXCHANGING)
        self->away_ms += away_ms;
    for (uint32_t s = 0; s < self->n_presences; s++)
        self->presence[s].heard_ms = psd_absence_excuse(self->presence[s].heard_ms, away_ms, now_ms);
}

/* Server 0 answers heartbeats, the others what they are asked; one that should have answered and is silent for longer than
 * the lease is lost, and after our patience so is the job. */
static void tend_presences(psd_session_t *self, uint64_t now_ms, psd_actions_t *out)
{
    char text[320];
    for (uint32_t s = 0; s < self->n_presences; s++) {
        presence_t *p = &self->presence[s];
        /* Those that are not members yet have no answer from the other servers; server 0 watches these. */
        const bool waits = self->phase == PSD_PHASE_REGISTERING && self->server[s].attached;
        const bool answers = s ? psd_session_asks(self, s) && !waits : self->cluster || psd_session_asks(self, 0);
        if (!answers)
            p->heard_ms = now_ms;
        const uint64_t silent_ms = now_ms - p->heard_ms;
        const bool lost = silent_ms > self->lease_ms;
        if (lost != p->lost)
            psd_actions_log(out, lost ? PSD_LEVEL_WARN : PSD_LEVEL_INFO, lost ? "server.lost" : "server.back",
                            "server=%u endpoint=%s silent_ms=%" PRIu64, s, p->endpoint, lost ? silent_ms : p->silent_ms);
        p->lost = lost;
        p->silent_ms = silent_ms;
        if (!lost || !self->config.patience_ms || silent_ms < self->config.patience_ms)
            continue;
        snprintf(text, sizeof text, "gave up waiting for server %u at %s, silent for %" PRIu64 " s (join_timeout)", s, p->endpoint,
                 silent_ms / 1000);
        self->finished = false;
        if (s && self->cluster)
            send_leave(self, out); /* else server 0 would take this worker for lost */
        fail(self, PSD_EUNAVAILABLE, text);
        return;
    }
}

void psd_session_tick(psd_session_t *self, uint64_t now_ms, psd_actions_t *out)
{
    note_absence(self, now_ms);
    if (self->phase != PSD_PHASE_LEFT && self->phase != PSD_PHASE_FAILED)
        tend_presences(self, now_ms, out);
    bool over = self->phase == PSD_PHASE_LEFT || self->phase == PSD_PHASE_FAILED;
    if (self->phase == PSD_PHASE_JOINING)
        send_hello(self, now_ms, out);
    if (!self->cluster || over)
        return;
    if (self->run_is_over && !is_callers(self)) {
        rejoin(self, now_ms, out);
        return;
    }
    uint64_t sixth_ms = self->cluster->settings.lease_ms / 6; /* of a long lease too few could be lost */
    if (now_ms >= self->heartbeat_ms + (sixth_ms < HEARTBEAT_MAX_MS ? sixth_ms : HEARTBEAT_MAX_MS)) {
        self->heartbeat_ms = now_ms;
        send_to(self, 0, PSD_MSG_HEARTBEAT, NULL, out)->seq = self->config.nonce;
        if (self->phase == PSD_PHASE_REGISTERING && !self->registered)
            send_register(self, out);
        if (self->phase == PSD_PHASE_SETTING)
            send_setting(self, out);
        if (self->phase == PSD_PHASE_LEAVING)
            send_leave(self, out);
    }
    if (self->phase == PSD_PHASE_REGISTERING || self->phase == PSD_PHASE_EXCHANGING || self->phase == PSD_PHASE_PULLING)
        for (uint32_t s = 0; s < n_servers(self); s++)
            ask_again(self, now_ms, s, out);
}

/* ---- what the caller wants ---- */

static int wrong_phase(psd_err_t *err, const char *what)
{
    return psd_err_set(err, PSD_EINVAL, "%s: not in this phase; exchanges follow registration, one at a time", what);
}

/* Room to note which parts can be pushed. */
static int make_ready(psd_session_t *self, psd_err_t *err)
{
    uint32_t n_parts = 0;
    bool ok = (self->first_chunk = calloc(self->list.n + 1, sizeof *self->first_chunk)) != NULL;
    for (uint32_t s = 0; ok && s < n_servers(self); s++) {
        n_parts += self->server[s].n_parts;
        ok = (self->missing[s] = calloc(self->server[s].n_parts, sizeof **self->missing)) != NULL;
    }
    if (!ok || !(self->ready = calloc(n_parts, sizeof *self->ready)))
        return psd_err_set(err, PSD_ENOMEM, "no memory for the map of %u parts", n_parts);
    for (uint32_t k = 0; k < self->map.n_chunks; k++)
        self->first_chunk[self->map.chunk[k].tensor + 1] = k + 1;
    return PSD_OK;
}

static uint64_t n_bytes_of(const psd_session_t *self)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < n_servers(self); s++)
        n += self->map.n_elements[s] * sizeof(float);
    return n;
}

static int make_map(psd_session_t *self, psd_err_t *err)
{
    uint64_t *sizes = psd_tensors_sizes(&self->list);
    int rc = sizes
                 ? psd_partition_make(&self->map, sizes, self->list.n, n_servers(self), self->cluster->settings.part_elements, err)
                 : psd_err_set(err, PSD_ENOMEM, "no memory for the sizes of %u tensors", self->list.n);
    free(sizes);
    for (uint32_t s = 0; rc == PSD_OK && s < n_servers(self); s++) {
        server_t *server = &self->server[s];
        server->n_parts = real_parts(self, s) ? real_parts(self, s) : 1;
        if (!(server->lacking = calloc(1, psd_bitmap_bytes(server->n_parts))))
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for the map of %u parts", server->n_parts);
    }
    self->is_large = rc == PSD_OK && psd_copy_is_large(n_bytes_of(self));
    const psd_coding_t *coding = &self->cluster->settings.codings.push;
    if (rc == PSD_OK)
        rc = make_ready(self, err);
    if (rc == PSD_OK && !psd_coding_is_lossless(coding) && !(self->feedback = psd_feedback_new(coding, &self->map, err)))
        rc = PSD_ENOMEM;
    return rc;
}

/* JOINED -> REGISTERING, the tensors being known. */
static int enrol(psd_session_t *self, uint64_t now_ms, psd_actions_t *out, psd_err_t *err)
{
    int rc = make_map(self, err);
    if (rc != PSD_OK)
        return rc;
    self->phase = PSD_PHASE_REGISTERING;
    await_all(self, now_ms);
    for (uint32_t s = 0; s < n_servers(self); s++)
        send_attach(self, s, out);
    send_register(self, out);
    return PSD_OK;
}

int psd_session_register(psd_session_t *self, uint64_t now_ms, const psd_tensor_list_t *list, float *const *data,
                         psd_actions_t *out, psd_err_t *err)
{
    if (self->phase != PSD_PHASE_JOINED)
        return wrong_phase(err, "register");
    self->data = calloc(list->n, sizeof *self->data);
    self->slow = calloc(list->n, sizeof *self->slow);
    self->gradient = calloc(list->n, sizeof *self->gradient);
    self->pushed = calloc(list->n, sizeof *self->pushed);
    if (!self->data || !self->slow || !self->gradient || !self->pushed || psd_tensors_copy(&self->list, list) != PSD_OK)
        return psd_err_set(err, PSD_ENOMEM, "no memory for a list of %u tensors", list->n);
    memcpy(self->data, data, list->n * sizeof *data);
    if (!keep_initial(self))
        return psd_err_set(err, PSD_ENOMEM, "no memory for the initial values of %u tensors", list->n);
    return enrol(self, now_ms, out, err);
}

/* How many of a part's chunks have a gradient; they are marked in `map`, which has room for all. */
static uint32_t mark_gradients(const psd_session_t *self, uint32_t s, uint32_t part, uint8_t *map)
{
    const psd_part_t *p = part_at(self, s, part);
    uint32_t n = 0;
    memset(map, 0, psd_bitmap_bytes(p->n_chunks));
    for (uint32_t i = 0; i < p->n_chunks; i++)
        if (self->gradient[psd_partition_at(&self->map, s, part, i)->tensor]) {
            psd_bitmap_set(map, i);
            n++;
        }
    return n;
}

/* The gradient of a part. Where it is one stretch of the caller's array, that itself travels the first time; a repeat travels as a
 * copy, because the exchange may be over, and the array the caller's again, before the repeat has left. NULL: it has none.
 * `*holes`: some of its chunks have none, and their bitmap follows the elements. */
static psd_buf_t *raw_gradient(const psd_session_t *self, uint32_t s, uint32_t part, bool repeat, bool *holes)
{
    const psd_part_t *p = part_at(self, s, part);
    const float *stretch = stretch_of(self, s, part, self->gradient);
    *holes = false;
    if (p->n_chunks == 1 || stretch) {
        if (!self->gradient[psd_partition_at(&self->map, s, part, 0)->tensor])
            return NULL;
        const bool copies = repeat || (self->config.copies && self->config.copies(self->config.arg, s));
        psd_buf_t *own = copies ? gather(self, s, part, self->gradient, 0) : psd_buf_borrow(stretch, p->n * sizeof *stretch);
        assert(own && "no memory for a message");
        return own;
    }
    uint8_t map[PSD_MOST_OF_PART / 8];
    const uint32_t n = mark_gradients(self, s, part, map);
    const size_t n_map = psd_bitmap_bytes(p->n_chunks);
    if (!n)
        return NULL;
    *holes = n < p->n_chunks;
    psd_buf_t *own = gather(self, s, part, self->gradient, *holes ? n_map : 0);
    if (*holes)
        memcpy((float *)own->data + p->n, map, n_map);
    return own;
}

/* The gradient of a part as it is pushed; the payload is the caller's reference. In a code it is the same bytes each time. */
static psd_feedback_part_t gradient_of(psd_session_t *self, uint32_t s, uint32_t part, bool repeat)
{
    psd_feedback_part_t out = { 0 };
    if (!real_parts(self, s) || !self->samples)
        return out;
    if (self->feedback) {
        out = psd_feedback_part(self->feedback, s, part);
        psd_buf_ref(out.payload);
    } else {
        out.payload = raw_gradient(self, s, part, repeat, &out.has_bitmap);
    }
    return out;
}

static void send_push(psd_session_t *self, uint32_t s, uint32_t part, bool repeat, psd_actions_t *out)
{
    psd_feedback_part_t gradient = gradient_of(self, s, part, repeat);
    psd_buf_t *payload = gradient.payload;
    psd_msg_t *msg = send_to(self, s, PSD_MSG_PUSH, payload, out);
    msg->base_version = self->server[s].version;
    msg->samples = self->samples;
    msg->loss = self->loss;
    msg->norm2 = self->norm2;
    msg->nonfinite = self->nonfinite;
    msg->value = self->compute_s;
    msg->part = part;
    msg->parts = self->server[s].n_parts;
    if (payload)
        describe_part(self, s, part, psd_coding_number(&self->cluster->settings.codings.push), msg);
    if (gradient.has_bitmap)
        msg->chunks = part_at(self, s, part)->n_chunks;
    psd_buf_unref(&payload);
}

/* The sum of squares of the whole gradient as it is pushed. */
static double squares(psd_session_t *self)
{
    const psd_clip_t clip = { .value = self->cluster->settings.clip_value };
    double sum = 0;
    if (self->feedback)
        return psd_feedback_squares(self->feedback, &clip);
    for (uint32_t i = 0; i < self->list.n; i++)
        if (self->gradient[i])
            sum += psd_clip_sum_of_squares(&clip, self->gradient[i], self->list.tensor[i].n_elements);
    return sum;
}

/* Where each push is a step, a shard cannot take back another shard's: the whole gradient is measured first. What a code loses is
 * kept, or not, of all parts alike: of a code too it is known first whether all is finite. */
static void check_whole_gradient(psd_session_t *self)
{
    self->nonfinite = self->feedback && !psd_feedback_open(self->feedback, self->gradient);
    self->norm2 = self->cluster->settings.whole_norm && !self->nonfinite ? squares(self) : 0;
    self->nonfinite |= !isfinite(self->norm2);
    if (self->nonfinite)
        self->norm2 = 0;
}

/* For how long the caller, and its machine, have been at the gradient. */
static void note_compute(psd_session_t *self, uint64_t now_ms)
{
    self->compute_s = (double)((now_ms > self->weights_ms ? now_ms - self->weights_ms : 0) + self->away_ms) * 1e-3;
}

static void open_exchange(psd_session_t *self, uint64_t samples, double loss)
{
    self->samples = samples;
    self->loss = loss;
    self->norm2 = 0;
    self->nonfinite = false;
    self->n_pushed = self->n_ready = self->n_sent = 0;
    memset(self->pushed, 0, self->list.n * sizeof *self->pushed);
    for (uint32_t s = 0; s < n_servers(self); s++)
        for (uint32_t p = 0; p < real_parts(self, s); p++)
            self->missing[s][p] = part_at(self, s, p)->n_chunks;
    self->phase = PSD_PHASE_COLLECTING;
}

static void make_part_ready(psd_session_t *self, uint32_t s, uint32_t part) { self->ready[self->n_ready++] = (ready_t){ s, part }; }

/* A tensor's gradient, or its word that it has none, is here: so are the parts of which it was the last. */
static void collect(psd_session_t *self, uint32_t tensor, const float *gradient)
{
    self->gradient[tensor] = gradient;
    self->pushed[tensor] = true;
    self->n_pushed++;
    for (uint32_t k = self->first_chunk[tensor]; self->samples && k < self->first_chunk[tensor + 1]; k++) {
        const psd_chunk_t *c = &self->map.chunk[k];
        if (--self->missing[c->server][c->part] == 0)
            make_part_ready(self, c->server, c->part);
    }
}

/* All tensors are here. Servers that hold nothing, and all where there is no gradient, get one empty part. */
static void close_exchange(psd_session_t *self, uint64_t now_ms)
{
    note_compute(self, now_ms);
    self->away_ms = 0;
    for (uint32_t s = 0; s < n_servers(self); s++)
        if (!self->samples || !real_parts(self, s))
            make_part_ready(self, s, 0);
    self->phase = PSD_PHASE_EXCHANGING;
    check_whole_gradient(self);
    await_all(self, now_ms);
}

int psd_session_push(psd_session_t *self, uint64_t now_ms, uint32_t tensor, const float *gradient, uint64_t samples, double loss,
                     psd_err_t *err)
{
    assert(tensor < self->list.n && samples);
    if (self->phase != PSD_PHASE_READY && self->phase != PSD_PHASE_COLLECTING)
        return wrong_phase(err, "push");
    note_absence(self, now_ms);
    if (self->phase == PSD_PHASE_READY)
        open_exchange(self, samples, loss);
    if (self->pushed[tensor])
        return psd_err_set(err, PSD_EINVAL, "push: tensor %s was pushed already in this exchange", self->list.tensor[tensor].name);
    if (samples != self->samples)
        return psd_err_set(err, PSD_EINVAL,
                           "push: tensor %s over %" PRIu64 " samples, those before it in this exchange over %" PRIu64,
                           self->list.tensor[tensor].name, samples, self->samples);
    note_compute(self, now_ms);
    collect(self, tensor, gradient);
    if (self->n_pushed == self->list.n)
        close_exchange(self, now_ms);
    return PSD_OK;
}

int psd_session_exchange(psd_session_t *self, uint64_t now_ms, const float *const *gradient, uint64_t samples, double loss,
                         psd_err_t *err)
{
    if (self->phase != PSD_PHASE_READY)
        return wrong_phase(err, "exchange");
    note_absence(self, now_ms);
    open_exchange(self, samples, loss);
    for (uint32_t i = 0; i < self->list.n; i++)
        collect(self, i, gradient && samples ? gradient[i] : NULL);
    close_exchange(self, now_ms);
    return PSD_OK;
}

/* Parts that a push of the open exchange has at server `s`: without samples, one empty one. */
static uint32_t pushed_parts(const psd_session_t *self, uint32_t s) { return self->samples ? self->server[s].n_parts : 1; }

/* Pushes fill a slow link for longer than a server may be silent. Its answers to probes between them show that it is there;
 * what they say of chunks behind the probe means nothing. */
static void ask_for_life(psd_session_t *self, uint32_t s, uint32_t part, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    if (!self->samples || part + 1 >= real_parts(self, s))
        return;
    server->flying += part_at(self, s, part)->n;
    if (server->flying < PROBE_EVERY)
        return;
    server->flying = 0;
    send_probe(self, s, 0, out);
    server->mark = server->probe_seq + 1;
}

/* Whether nothing can be pushed before all tensors are here: their sum of squares, or whether they are finite, goes with each part. */
static bool wants_all(const psd_session_t *self) { return self->feedback || self->cluster->settings.whole_norm; }

bool psd_session_pump(psd_session_t *self, psd_actions_t *out)
{
    const bool collects = self->phase == PSD_PHASE_COLLECTING && !wants_all(self);
    if ((self->phase != PSD_PHASE_EXCHANGING && !collects) || self->run_is_over)
        return false;
    for (uint32_t i = 0; i < PUMP * n_servers(self) && self->n_sent < self->n_ready; i++, self->n_sent++) {
        const ready_t *next = &self->ready[self->n_sent];
        send_push(self, next->server, next->part, false, out);
        ask_for_life(self, next->server, next->part, out);
    }
    return self->n_sent < self->n_ready;
}

int psd_session_pull_slow(psd_session_t *self, uint64_t now_ms, float *const *out_data, psd_actions_t *out, psd_err_t *err)
{
    if (self->phase != PSD_PHASE_READY)
        return wrong_phase(err, "pull");
    memcpy(self->slow, out_data, self->list.n * sizeof *self->slow);
    self->phase = PSD_PHASE_PULLING;
    self->pull_seq++;
    await_all(self, now_ms);
    for (uint32_t s = 0; s < n_servers(self); s++) {
        if (real_parts(self, s))
            send_pull(self, s, out);
        else
            lacks_no_more(&self->server[s]);
    }
    return PSD_OK;
}

int psd_session_set_lr(psd_session_t *self, uint64_t now_ms, double lr, psd_actions_t *out, psd_err_t *err)
{
    if (self->phase != PSD_PHASE_READY)
        return wrong_phase(err, "set the learning rate");
    if (!(lr >= 0) || !isfinite(lr))
        return psd_err_set(err, PSD_EINVAL, "a learning rate is a number from 0 up, not %g", lr);
    self->phase = PSD_PHASE_SETTING;
    self->lr = lr;
    self->pull_seq++;
    self->heartbeat_ms = now_ms;
    send_setting(self, out);
    return PSD_OK;
}

void psd_session_leave(psd_session_t *self, uint64_t now_ms, bool finished, psd_actions_t *out)
{
    if (self->phase == PSD_PHASE_LEFT || self->phase == PSD_PHASE_FAILED)
        return;
    if (self->phase == PSD_PHASE_LEAVING && self->finished == finished)
        return; /* a caller who asks again and again must not put off heartbeats, with which it is repeated */
    self->finished = finished;
    if (!self->cluster) {
        self->phase = PSD_PHASE_LEFT;
        return;
    }
    self->phase = PSD_PHASE_LEAVING;
    self->heartbeat_ms = now_ms;
    send_leave(self, out);
}

void psd_session_report(psd_session_t *self, const char *name, double value, psd_actions_t *out)
{
    if (!self->cluster)
        return;
    psd_msg_t *msg = send_to(self, 0, PSD_MSG_REPORT, NULL, out);
    msg->seq = self->config.nonce;
    msg->value = value;
    snprintf(msg->text, sizeof msg->text, "%.63s", name);
}

/* ---- what servers say ---- */

static uint32_t server_of(const psd_heard_t *in) { return (uint32_t)(in->from - PSD_PEER_SERVER); }

static void on_welcome(psd_session_t *self, const psd_heard_t *in)
{
    psd_err_t err;
    if (self->phase != PSD_PHASE_JOINING || in->msg->seq != self->config.nonce)
        return;
    self->cluster = calloc(1, sizeof *self->cluster);
    assert(self->cluster && "no memory for the cluster's description");
    *self->cluster = *psd_body_cluster(in->payload);
    self->worker = in->msg->worker;
    self->incarnation = in->msg->incarnation;
    self->job = in->msg->job;
    self->phase = PSD_PHASE_JOINED;
    self->lease_ms =
        self->cluster->settings.lease_ms > SERVER_LEASE_MIN_MS ? self->cluster->settings.lease_ms : SERVER_LEASE_MIN_MS;
    self->n_presences = self->cluster->n_servers;
    for (uint32_t s = 0; s < self->n_presences; s++) {
        self->presence[s].heard_ms = in->now_ms;
        memcpy(self->presence[s].endpoint, self->cluster->endpoint[s], sizeof self->presence[s].endpoint);
    }
    psd_actions_log(in->out, PSD_LEVEL_INFO, "worker.welcome", "worker=%u incarnation=%" PRIu64 " servers=%u settings=\"%s\"",
                    self->worker, self->incarnation, self->cluster->n_servers, self->cluster->settings.text);
    if (self->list.n && enrol(self, in->now_ms, in->out, &err) != PSD_OK)
        fail(self, err.code, err.text);
}

static void on_init_wanted(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    if (self->phase != PSD_PHASE_REGISTERING || in->msg->parts != self->server[s].n_parts ||
        in->msg->seq <= self->server[s].init_seq)
        return;
    self->server[s].init_seq = in->msg->seq;
    for (uint32_t p = 0; p < real_parts(self, s); p++) {
        if (!psd_bitmap_get(in->payload->data, p))
            continue;
        psd_buf_t *values = gather(self, s, p, (const float *const *)(self->initial ? self->initial : self->data), 0);
        describe_part(self, s, p, PSD_CODEC_F32, send_to(self, s, PSD_MSG_INIT, values, in->out));
        self->moved++;
        psd_buf_unref(&values);
    }
}

/* Copy, and return the checksum of all before and what was copied, in one pass over memory. */
static uint32_t copy_checked(float *to, const float *from, size_t left, uint32_t crc)
{
    enum { BLOCK = 4096 };
    for (size_t n; left; left -= n, from += n, to += n) {
        n = left < BLOCK ? left : BLOCK;
        memcpy(to, from, n * sizeof *from);
        crc = psd_crc32c_extend(crc, to, n * sizeof *to); /* of what was copied: where it came from may change meanwhile */
    }
    return crc;
}

/* Copy a part into arrays `to`. False: it was damaged on the way. */
static bool copy_part(psd_session_t *self, uint32_t s, const psd_msg_t *msg, const psd_buf_t *payload, float *const *to)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < part_at(self, s, msg->part)->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&self->map, s, msg->part, i);
        const float *from = (const float *)payload->data + c->at;
        if (msg->proven)
            psd_copy_large(to[c->tensor] + c->offset, from, c->n * sizeof *from, self->is_large);
        else
            crc = copy_checked(to[c->tensor] + c->offset, from, c->n, crc);
    }
    return crc == msg->checksum;
}

/* Decode a part into arrays `to`. False: it was damaged on the way, or is no code, with which the session fails. */
static bool decode_part(psd_session_t *self, uint32_t s, const psd_msg_t *msg, const psd_buf_t *payload, float *const *to)
{
    const psd_coding_t *coding = &self->cluster->settings.codings.pull;
    const uint8_t *code = payload->data;
    char text[PSD_MAX_TEXT];
    psd_err_t err = { 0 };
    if (!psd_checksum_ok(msg, payload->data, payload->n_bytes))
        return false;
    if (msg->codec != psd_coding_number(coding))
        psd_err_set(&err, PSD_EPROTO, "codec %u", msg->codec);
    else
        psd_coded_check(coding, &self->map, s, msg->part, payload, false, &err);
    if (err.code) {
        snprintf(text, sizeof text, "server %u sent part %u of its weights in no code of this job, %s: %.300s", s, msg->part,
                 psd_coding_name(coding), err.text);
        fail(self, PSD_EPROTO, text);
        return false;
    }
    for (uint32_t i = 0; i < part_at(self, s, msg->part)->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&self->map, s, msg->part, i);
        psd_coding_decode(coding, code, c->n, 0, c->n, to[c->tensor] + c->offset);
        code += psd_coding_bytes(coding, c->n);
    }
    return true;
}

/* A part has come for arrays `to`; a damaged one is asked for again by the next probe. Weights that a code cannot say, Inf and NaN
 * among them, come as they are, as slow weights always do. */
static void take_part(psd_session_t *self, uint64_t now_ms, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload, float *const *to)
{
    server_t *server = &self->server[s];
    if (msg->part >= real_parts(self, s) || !psd_bitmap_get(server->lacking, msg->part))
        return;
    const psd_part_t *p = part_at(self, s, msg->part);
    if (msg->n_elements != p->n || msg->chunks)
        return;
    if (!(msg->codec == PSD_CODEC_F32 ? copy_part : decode_part)(self, s, msg, payload, to))
        return;
    psd_bitmap_unset(server->lacking, msg->part);
    server->n_lacking--;
    self->moved++;
    server->flying -= server->flying < p->n ? server->flying : p->n;
    server->asked_ms = now_ms;
    server->rto_ms = RTO_MS;
}

static void on_weights(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    if (self->phase == PSD_PHASE_REGISTERING) {
        if (self->synced && in->msg->clock + 1 < self->clock)
            return;
        if (!self->synced || in->msg->clock + 1 > self->clock) {
            self->synced = true;
            self->clock = in->msg->clock + 1;
            await_all(self, in->now_ms);
        }
    } else if (self->phase != PSD_PHASE_EXCHANGING || in->msg->clock != self->clock) {
        return;
    }
    if (in->msg->view_id >= self->view_id) {
        self->view_id = in->msg->view_id;
        self->rank = in->msg->rank;
        self->world = in->msg->world;
    }
    if (in->msg->version > self->server[s].version)
        self->server[s].version = in->msg->version;
    self->round_loss = in->msg->loss;
    if (in->msg->value > self->server[s].samples)
        self->server[s].samples = in->msg->value;
    if (in->payload)
        take_part(self, in->now_ms, s, in->msg, in->payload, self->data);
    else if (self->phase == PSD_PHASE_EXCHANGING || !real_parts(self, s))
        lacks_no_more(&self->server[s]); /* its weights are as they were */
    if (!lacks_nothing(self))
        return;
    if (self->phase == PSD_PHASE_EXCHANGING) {
        self->clock++;
        if (self->feedback)
            psd_feedback_close(self->feedback);
    } else if (self->feedback && self->clock > 1) {
        psd_actions_log(in->out, PSD_LEVEL_WARN, "residual.reset",
                        "worker=%u clock=%" PRIu64
                        " reason=\"codec.push keeps what it loses with the worker, and this one begins anew\"",
                        self->worker, self->clock);
    }
    if (self->clock > 1)
        forget_initial(self);
    self->phase = PSD_PHASE_READY;
    self->weights_ms = in->now_ms;
}

static void on_slow(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    if (self->phase != PSD_PHASE_PULLING || in->msg->seq != self->pull_seq)
        return;
    take_part(self, in->now_ms, s, in->msg, in->payload, self->slow);
    if (self->server[s].flying <= PULL_WINDOW / 2)
        send_pull(self, s, in->out);
    if (lacks_nothing(self))
        self->phase = PSD_PHASE_READY;
}

/* All that this server had sent before has come or is lost, for a connection keeps the order: what lacks is wanted again. */
static void want_again(psd_session_t *self, uint32_t s, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    if (!server->n_lacking)
        return;
    if (self->phase == PSD_PHASE_PULLING) {
        server->next_pull = 0;
        server->flying = 0;
        send_pull(self, s, out);
    } else {
        send_probe(self, s, PSD_PROBE_SEND, out);
    }
}

/* The number is that of a probe of ours; without one, chunks have come damaged. */
static void on_progress(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    server_t *server = &self->server[s];
    const bool exchanges = self->phase == PSD_PHASE_EXCHANGING;
    const bool waits = exchanges || self->phase == PSD_PHASE_REGISTERING || self->phase == PSD_PHASE_PULLING;
    if (!waits || in->msg->parts != server->n_parts || (in->msg->seq && in->msg->seq < server->mark))
        return;
    if (exchanges && in->msg->clock == self->clock) {
        for (uint32_t p = 0; p < pushed_parts(self, s); p++)
            if (psd_bitmap_get(in->payload->data, p))
                send_push(self, s, p, true, in->out);
    } else if (in->msg->seq && (!exchanges || in->msg->clock > self->clock)) {
        want_again(self, s, in->out);
    }
    if (in->msg->seq)
        server->mark = server->probe_seq + 1; /* probes on their way were sent before what was just sent again */
}

static void on_refused(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    char text[PSD_MAX_TEXT + 64];
    const int end = psd_refusal_end(in->msg->code);
    if (end) {
        if (self->phase == PSD_PHASE_LEAVING && s)
            return; /* whether its work is safe, and it may go, is server 0's to say */
        if (!in->msg->seq || in->msg->seq == self->config.nonce)
            fail(self, end, in->msg->text);
        return;
    }
    if (in->msg->code == PSD_REFUSAL_SESSION) {
        self->server[s].attached = false; /* the connection was lost and made again: attach anew, and soon */
        self->server[s].asked_ms = 0;
        return;
    }
    if (self->phase == PSD_PHASE_JOINING && in->msg->seq && in->msg->seq != self->config.nonce)
        return;
    if (in->msg->code == PSD_REFUSAL_RUN) {
        /* Before an exchange has all its gradients the arrays are the caller's, who may be computing with them: the weights to go on from
         * come with its next wish. */
        self->run_is_over = self->cluster && in->msg->job != self->job;
        if (self->run_is_over && !is_callers(self))
            rejoin(self, in->now_ms, in->out);
        return;
    }
    /* A server that is behind, or ahead: the coordinator's word decides. */
    if (in->msg->code == PSD_REFUSAL_JOB && self->list.n && !in->msg->seq)
        return;
    snprintf(text, sizeof text, "server %u refused (%s): %s", s, psd_refusal_name(in->msg->code), in->msg->text);
    fail(self, PSD_EREFUSED, text);
}

/* The server's word that we are out; one about an older life of ours is not about us. Who is leaving has done its work, and
 * the coordinator counts it even for one that was given up: only when somebody else has the place is there nobody to tell. */
static void on_fenced(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    char text[PSD_MAX_TEXT + 64];
    if (self->phase == PSD_PHASE_LEAVING) {
        if (in->msg->incarnation > self->incarnation)
            self->phase = PSD_PHASE_LEFT;
        return;
    }
    snprintf(text, sizeof text, "server %u gave this worker up: %s", s, in->msg->text);
    fail(self, PSD_EFENCED, text);
}

static void on_wait(psd_session_t *self, const psd_heard_t *in)
{
    server_t *server = &self->server[server_of(in)];
    snprintf(server->waiting, sizeof server->waiting, "%.190s", in->msg->text);
}

static void on_registered(psd_session_t *self, const psd_heard_t *in)
{
    (void)in;
    self->registered = true;
}

static void on_attached(psd_session_t *self, const psd_heard_t *in)
{
    server_t *server = &self->server[server_of(in)];
    if (!server->attached) {
        server->attached = true;
        server->asked_ms = 0; /* what was awaited may have been lost with the old connection */
    }
    server->waiting[0] = '\0';
}

static void on_set(psd_session_t *self, const psd_heard_t *in)
{
    if (self->phase == PSD_PHASE_SETTING && in->msg->code == (uint32_t)self->pull_seq)
        self->phase = PSD_PHASE_READY;
}

static void on_left(psd_session_t *self, const psd_heard_t *in)
{
    (void)in;
    if (self->phase == PSD_PHASE_LEAVING)
        self->phase = PSD_PHASE_LEFT;
}

static void on_heartbeat(psd_session_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    self->drains = msg->worker == self->worker && msg->incarnation == self->incarnation && (msg->code & PSD_HEARTBEAT_DRAIN);
    snprintf(self->told, sizeof self->told, "%.190s", msg->text);
}

/* What a worker takes, and with what. What is personal was said to one life of a worker, and is not for another, nor for one that
 * has not been welcomed. */
static const struct handler {
    void (*take)(psd_session_t *self, const psd_heard_t *in);
    bool personal;
} handlers[] = {
    [PSD_MSG_WELCOME] = { on_welcome, false },
    [PSD_MSG_WAIT] = { on_wait, false },
    [PSD_MSG_REFUSED] = { on_refused, false },
    [PSD_MSG_FENCED] = { on_fenced, false },
    [PSD_MSG_REGISTERED] = { on_registered, true },
    [PSD_MSG_ATTACHED] = { on_attached, true },
    [PSD_MSG_INIT_WANTED] = { on_init_wanted, true },
    [PSD_MSG_WEIGHTS] = { on_weights, true },
    [PSD_MSG_PROGRESS] = { on_progress, true },
    [PSD_MSG_SLOW] = { on_slow, true },
    [PSD_MSG_SETTING] = { on_set, false },
    [PSD_MSG_LEFT] = { on_left, false },
    [PSD_MSG_HEARTBEAT] = { on_heartbeat, false },
};

bool psd_session_takes(psd_kind_t kind) { return (size_t)kind < sizeof handlers / sizeof *handlers && handlers[kind].take; }

void psd_session_message(psd_session_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out)
{
    const psd_heard_t in = { now_ms, from, msg, payload, out };
    if (self->phase == PSD_PHASE_LEFT || self->phase == PSD_PHASE_FAILED)
        return;
    if (from < PSD_PEER_SERVER || from >= PSD_PEER_SERVER + PSD_MAX_SERVERS)
        return;
    const uint32_t s = server_of(&in);
    note_absence(self, now_ms);
    self->presence[s].heard_ms = now_ms;
    const bool ours = !self->cluster || (msg->job == self->job && s < n_servers(self));
    if (!psd_session_takes(msg->kind) || (!ours && msg->kind != PSD_MSG_REFUSED))
        return;
    const struct handler *handler = &handlers[msg->kind];
    if (handler->personal && (!self->cluster || msg->worker != self->worker || msg->incarnation != self->incarnation))
        return;
    handler->take(self, &in);
}

void psd_session_other_protocol(psd_session_t *self, psd_peer_t from, uint32_t theirs)
{
    char text[128];
    if (self->phase == PSD_PHASE_LEFT || self->phase == PSD_PHASE_FAILED)
        return;
    snprintf(text, sizeof text, "server %" PRIu64 " speaks protocol %u, this worker %d", from - PSD_PEER_SERVER, theirs,
             PSD_PROTOCOL);
    fail(self, PSD_EREFUSED, text);
}

void psd_session_shut_out(psd_session_t *self, const char *why)
{
    if (self->phase != PSD_PHASE_LEFT && self->phase != PSD_PHASE_FAILED)
        fail(self, PSD_EAUTH, why);
}

/* ---- facts ---- */

psd_phase_t psd_session_phase(const psd_session_t *self) { return self->phase; }
const psd_err_t *psd_session_error(const psd_session_t *self) { return &self->error; }

const psd_cluster_t *psd_session_cluster(const psd_session_t *self) { return self->cluster; }

bool psd_session_asks(const psd_session_t *self, uint32_t s)
{
    const server_t *server = &self->server[s];
    switch (self->phase) {
    case PSD_PHASE_JOINING:
    case PSD_PHASE_SETTING:
    case PSD_PHASE_LEAVING:
        return s == 0;
    case PSD_PHASE_REGISTERING:
    case PSD_PHASE_EXCHANGING:
    case PSD_PHASE_PULLING:
        return s < n_servers(self) && (!server->attached || server->n_lacking);
    default:
        return false;
    }
}

uint64_t psd_session_moved(const psd_session_t *self) { return self->moved; }

uint64_t psd_session_rejoins(const psd_session_t *self) { return self->rejoins; }

bool psd_session_drains(const psd_session_t *self) { return self->drains; }

/* Servers are a step apart where each push is one. */
static double job_samples(const psd_session_t *self)
{
    double most = 0;
    for (uint32_t s = 0; s < n_servers(self); s++)
        most = fmax(most, self->server[s].samples);
    return most;
}

psd_session_position_t psd_session_position(const psd_session_t *self)
{
    return (psd_session_position_t){ .clock = self->clock,
                                     .version = self->server[0].version,
                                     .view_id = self->view_id,
                                     .run = self->job,
                                     .incarnation = self->incarnation,
                                     .worker = self->worker,
                                     .round_loss = self->round_loss,
                                     .samples = job_samples(self),
                                     .rank = self->rank,
                                     .world = self->world };
}

bool psd_session_lost_server(const psd_session_t *self, uint32_t *index)
{
    for (uint32_t s = 0; s < self->n_presences; s++)
        if (self->presence[s].lost) {
            *index = s;
            return true;
        }
    return false;
}

void psd_session_describe_wait(const psd_session_t *self, char *text, size_t n)
{
    uint32_t lost;
    text[0] = '\0';
    if (psd_session_lost_server(self, &lost)) {
        snprintf(text, n, "server %u at %s, silent for %" PRIu64 " s", lost, self->presence[lost].endpoint,
                 (self->seen_ms - self->presence[lost].heard_ms) / 1000);
        return;
    }
    if (self->phase == PSD_PHASE_JOINING) {
        snprintf(text, n, "%s", self->server[0].waiting[0] ? self->server[0].waiting : "an answer from server 0");
        return;
    }
    size_t at = 0;
    bool waits = self->phase == PSD_PHASE_REGISTERING || self->phase == PSD_PHASE_EXCHANGING || self->phase == PSD_PHASE_PULLING;
    for (uint32_t s = 0; waits && s < n_servers(self) && at + 1 < n; s++) {
        const server_t *server = &self->server[s];
        if (!server->attached)
            at += (size_t)snprintf(text + at, n - at, "%sa session with server %u (%s)", at ? ", " : "", s,
                                   server->waiting[0] ? server->waiting : self->cluster->endpoint[s]);
        else if (server->n_lacking && self->told[0])
            at = (size_t)snprintf(text, n, "%s", self->told);
        else if (server->n_lacking)
            at += (size_t)snprintf(text + at, n - at, "%s%u of %u parts of server %u (clock %" PRIu64 ")", at ? ", " : "",
                                   server->n_lacking, server->n_parts, s, self->clock);
    }
    if (self->phase == PSD_PHASE_LEAVING || self->phase == PSD_PHASE_SETTING)
        snprintf(text, n, "server 0's answer");
}
