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
    PULL_WINDOW = 1 << 20,     /* elements of slow weights that may be requested and not yet received, 4 MiB */
    PROBE_EVERY = 1 << 18,     /* elements pushed between two probes that check that a server is there, 1 MiB */
    SERVER_LEASE_MIN_MS = 2000 /* server 0 answers a heartbeat per second */
};

/* A part of weights that came while the caller may be computing with its arrays. */
typedef struct held {
    psd_buf_t *payload; /* NULL: none */
    uint32_t codec, checksum;
    bool proven;
} held_t;

typedef struct server {
    bool attached;
    uint32_t n_parts;   /* parts of that server, at least 1 */
    uint32_t n_lacking; /* parts whose weights are awaited */
    uint8_t *lacking;   /* bitmap of those */
    uint64_t attempt;   /* the newest of the server's, when it makes weights ahead of their round's decision */
    uint8_t *ahead;     /* bitmap of lacking parts that lie in the arrays, of that attempt */
    bool is_ahead;      /* some came for the open exchange, so the arrays no longer hold the former weights */
    held_t *held;       /* of each part, of that attempt, until they may be put into the arrays */
    uint64_t version;   /* of the weights held */
    double samples;     /* of the whole job, behind that version */
    uint64_t asked_ms;  /* when it was last sent a probe or request */
    uint64_t rto_ms;    /* how long to wait before the next request */
    uint64_t probe_seq; /* number of the last probe */
    uint64_t mark;      /* answers to probes with lower numbers do not concern the present requests */
    uint64_t init_seq;  /* number of the newest INIT_WANTED that was answered */
    uint32_t next_pull; /* first part whose slow weights have not been requested */
    uint64_t flying;    /* elements requested and not yet received */
    uint64_t aside;     /* the clock whose residual is set aside for it, plus 1; 0: none is */
    bool has_residual;  /* it holds this worker's residual, from a checkpoint */
    char waiting[192];  /* the text of its last WAIT */
} server_t;

/* Whether a server is present; unlike server_t this outlives a run of the job. */
typedef struct presence {
    uint64_t heard_ms; /* when it last sent something, or owed no answer */
    bool lost;
    uint64_t silent_ms; /* at the last tick */
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
    psd_groups_t groups;
    uint8_t *group_of;              /* of each tensor */
    psd_feedback_t *feedback;       /* NULL: gradients are pushed as they are */
    float **data;                   /* tensors' weights, the caller's */
    float **initial;                /* their initial values, until a step is made; NULL: they are in `data` */
    psd_inheritance_t *inheritance; /* optimizer state to start from, until a step is made; NULL: none */
    bool is_large;                  /* the model: copies need not stay in the cache */
    bool registered;                /* the coordinator has the tensor list */

    uint64_t clock;         /* of the next or the open exchange, from 1 */
    bool synced;            /* the clock is known */
    const float **gradient; /* of the open exchange */
    bool *pushed;           /* tensors already pushed in it; n_pushed of them */
    uint32_t n_pushed;
    uint32_t *first_chunk;              /* of each tensor, and behind them all: index in the map */
    uint32_t *missing[PSD_MAX_SERVERS]; /* per part of a server: chunks still without gradient */
    ready_t *ready;                     /* parts in the order in which they became complete: n_ready, of which n_sent are pushed */
    uint32_t n_ready, n_sent;
    uint64_t samples;
    uint64_t weights_ms; /* when the last of the present weights arrived */
    uint64_t away_ms;    /* how long this process was suspended while it waited for them */
    double compute_s;    /* the time that the caller took for its gradient, suspensions included */
    double round_loss;   /* over all samples of the last step, from the servers */
    double step_lr;      /* learning rate of the last step of server 0 */
    bool gathered;       /* the last closed round waits for later ones to make a step */
    double loss, norm2;  /* norm2, nonfinite: of the whole gradient, when each push is a step */
    bool nonfinite;
    float **slow;      /* where slow weights go */
    uint64_t pull_seq; /* numbers pulls of slow weights and settings; answers to older ones are ignored */
    double lr;         /* the rate to set, if that is the setting */
    char setting[sizeof PSD_SETTING_ROWS + PSD_MAX_RECIPE];
    bool finished;
    uint64_t heartbeat_ms, hello_ms;
    uint64_t rejoins;  /* how often it has rejoined by itself */
    uint64_t moved;    /* parts sent and received */
    bool run_is_over;  /* the servers have begun another run; rejoin at the caller's next request */
    bool drains;       /* an operator has asked it to leave */
    char told[192];    /* what the job waits for, as server 0 reports */
    psd_buf_t *health; /* figures of tensors, as server 0 reports; NULL: none */
    uint64_t health_step;
    presence_t presence[PSD_MAX_SERVERS];
    uint32_t n_presences; /* servers that a welcome has named */
    uint64_t lease_ms;
    uint64_t seen_ms; /* when the last event was, to notice suspensions */
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

static void drop_held(server_t *server)
{
    for (uint32_t p = 0; server->held && p < server->n_parts; p++)
        psd_buf_unref(&server->held[p].payload);
}

static void forget_map(psd_session_t *self)
{
    psd_feedback_destroy(&self->feedback);
    psd_partition_clear(&self->map);
    free(self->group_of);
    self->group_of = NULL;
    free(self->first_chunk);
    free(self->ready);
    self->first_chunk = NULL;
    self->ready = NULL;
    for (uint32_t s = 0; s < PSD_MAX_SERVERS; s++) {
        free(self->missing[s]);
        self->missing[s] = NULL;
        free(self->server[s].lacking);
        free(self->server[s].ahead);
        drop_held(&self->server[s]);
        free(self->server[s].held);
        self->server[s] = (server_t){ 0 };
    }
}

/* Coded weights differ from the initial values that they replace, so keep the initial values for servers that begin another run
 * before the first step. */
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
    psd_inheritance_destroy(&self->inheritance);
}

void psd_session_destroy(psd_session_t **self_p)
{
    psd_session_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    forget_map(self);
    forget_initial(self);
    psd_buf_unref(&self->health);
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

/* Whether the arrays belong to the caller, who may be computing with them. */
static bool is_callers(const psd_session_t *self) { return self->phase == PSD_PHASE_READY || self->phase == PSD_PHASE_COLLECTING; }

static uint32_t n_servers(const psd_session_t *self) { return self->cluster ? self->cluster->n_servers : 0; }

/* Parts that the server really holds: a server without chunks still has one empty part. */
static uint32_t real_parts(const psd_session_t *self, uint32_t s) { return self->map.n_parts[s]; }

static const psd_part_t *part_at(const psd_session_t *self, uint32_t s, uint32_t part) { return &self->map.part[s][part]; }

/* -- a part of the model as it lies in the caller's arrays, one per tensor */

/* The start of a part that lies in one piece: in one tensor, or in several that follow each other in memory. NULL: it must be
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
            psd_copy_large(to, array[c->tensor] + c->offset, c->n * sizeof *to, self->is_large);
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

/* ---- requests, and their repetition ---- */

static void await_all(psd_session_t *self, uint64_t now_ms)
{
    for (uint32_t s = 0; s < n_servers(self); s++) {
        server_t *server = &self->server[s];
        server->n_lacking = server->n_parts;
        memset(server->lacking, 0, psd_bitmap_bytes(server->n_parts));
        memset(server->ahead, 0, psd_bitmap_bytes(server->n_parts));
        server->is_ahead = false;
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

/* Ask a server what it has received from this worker, or, with `code` PSD_PROBE_SEND, to send the missing weights. */
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
        msg->clock = 0; /* nothing is pushed: any weights will do */
    psd_buf_unref(&map);
}

/* Ask for slow weights, or for this worker's residual, as much as the window allows. */
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
        const psd_kind_t kind = self->phase == PSD_PHASE_RESTORING ? PSD_MSG_RESIDUAL_WANTED : PSD_MSG_PULL;
        psd_msg_t *msg = send_to(self, s, kind, map, out);
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

/* Repeat the request to a server if it is time; the interval doubles until something comes. */
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

static psd_msg_t *send_leave(psd_session_t *self, psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, 0, PSD_MSG_LEAVE, NULL, out);
    msg->seq = self->config.nonce;
    msg->code = self->finished ? PSD_LEAVE_FINISHED : PSD_LEAVE_UNFINISHED;
    return msg;
}

static void send_setting(psd_session_t *self, psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, 0, PSD_MSG_SETTING, NULL, out);
    msg->seq = self->config.nonce;
    msg->code = (uint32_t)self->pull_seq; /* numbers the request, so that a late answer to an older one does not count */
    msg->value = self->lr;
    snprintf(msg->text, sizeof msg->text, "%s", self->setting);
}

/* The servers have begun another run of the job, because one of them was restarted: join it. The worker's id may change. */
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

/* Excuse a time in which this process was suspended or got no processor. Call it at each event, before the phase changes, because
 * the phase decides whether the exchange or the caller's computing was suspended. Servers count as silent only while this process
 * could receive. */
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

/* Server 0 answers heartbeats; the others answer requests. A server that owes an answer and is silent for longer than the lease is
 * lost; after patience_ms the session fails. */
static void tend_presences(psd_session_t *self, uint64_t now_ms, psd_actions_t *out)
{
    char text[320];
    for (uint32_t s = 0; s < self->n_presences; s++) {
        presence_t *p = &self->presence[s];
        /* A worker that is not a member yet gets no answer from the other servers; server 0 watches them. */
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
            send_leave(self, out); /* otherwise server 0 would count this worker as lost */
        fail(self, PSD_EUNAVAILABLE, text);
        return;
    }
}

/* Whether the session waits for all servers. */
static bool waits_for_servers(const psd_session_t *self)
{
    return self->phase == PSD_PHASE_REGISTERING || self->phase == PSD_PHASE_RESTORING || self->phase == PSD_PHASE_EXCHANGING ||
           self->phase == PSD_PHASE_PULLING;
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
    uint64_t sixth_ms = self->cluster->settings.lease_ms / 6; /* with a long lease, too few losses would be survived */
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
    if (waits_for_servers(self))
        for (uint32_t s = 0; s < n_servers(self); s++)
            ask_again(self, now_ms, s, out);
}

/* ---- the caller's requests ---- */

static int wrong_phase(psd_err_t *err, const char *what)
{
    return psd_err_set(err, PSD_EINVAL, "%s: called in the wrong order; register first, then make one exchange at a time", what);
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

/* Read the groups of the tensors. A group without tensors is an error that the servers report. */
static int find_groups(psd_session_t *self, psd_extent_t *extents, psd_err_t *err)
{
    const psd_job_settings_t *job = &self->cluster->settings;
    int rc = PSD_OK;
    self->groups = psd_groups_alone(&(const psd_rule_t){ 0 });
    if (self->config.read_groups)
        rc = self->config.read_groups(&self->groups, job->optimizer, job->groups, err);
    if (rc == PSD_OK && !(self->group_of = malloc(self->list.n)))
        rc = psd_err_set(err, PSD_ENOMEM, "no memory for the groups of %u tensors", self->list.n);
    if (rc == PSD_OK)
        psd_groups_assign(&self->groups, self->list.tensor->name, sizeof *self->list.tensor, extents, self->list.n, self->group_of,
                          NULL);
    return rc;
}

static int make_map(psd_session_t *self, psd_err_t *err)
{
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    int rc = extents ? find_groups(self, extents, err)
                     : psd_err_set(err, PSD_ENOMEM, "no memory for the sizes of %u tensors", self->list.n);
    if (rc == PSD_OK)
        rc = psd_partition_cut(&self->map, extents, self->list.n, n_servers(self), self->cluster->settings.part_elements, err);
    free(extents);
    for (uint32_t s = 0; rc == PSD_OK && s < n_servers(self); s++) {
        server_t *server = &self->server[s];
        server->n_parts = real_parts(self, s) ? real_parts(self, s) : 1;
        server->lacking = calloc(1, psd_bitmap_bytes(server->n_parts));
        server->ahead = calloc(1, psd_bitmap_bytes(server->n_parts));
        server->held = calloc(server->n_parts, sizeof *server->held);
        if (!server->lacking || !server->ahead || !server->held)
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for the map of %u parts", server->n_parts);
    }
    self->is_large = rc == PSD_OK && psd_copy_is_large(n_bytes_of(self));
    const psd_coding_t *coding = &self->cluster->settings.codings.push;
    if (rc == PSD_OK)
        rc = make_ready(self, err);
    const psd_rule_t *rule = rc == PSD_OK ? &psd_groups_rest(&self->groups)->rule : NULL;
    if (rc == PSD_OK && psd_feedback_is_needed(rule, coding) &&
        !(self->feedback = psd_feedback_new(rule, coding, &self->map, self->cluster->settings.saves_residuals, err)))
        rc = PSD_ENOMEM;
    return rc;
}

/* JOINED -> REGISTERING, once the tensors are known. */
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

void psd_session_inherit(psd_session_t *self, psd_inheritance_t **inheritance)
{
    psd_inheritance_destroy(&self->inheritance);
    self->inheritance = *inheritance;
    *inheritance = NULL;
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

/* The number of a part's chunks that have a gradient; it marks them in `map`, which has room for all. */
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

/* The gradient of a part. If it is one stretch of the caller's array, the first push sends that stretch uncopied; a repeat sends a
 * copy, because the exchange may be over, and the array the caller's again, before the repeat has left. NULL: the part has no
 * gradient. `*holes`: some of its chunks have none, and their bitmap follows the elements. */
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

/* The payload of a part's push; the caller gets a reference. A coded one has the same bytes each time. */
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

/* Whether server `s` may send weights of the round before it is decided: not before a step has been made, because until then the
 * arrays are the job's initial values; and not on one machine. */
static bool takes_ahead(const psd_session_t *self, uint32_t s)
{
    return self->cluster->settings.in_rounds && self->server[s].version &&
           !(self->config.is_near && self->config.is_near(self->config.arg, s));
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
    msg->code = takes_ahead(self, s) ? PSD_PUSH_AHEAD : 0;
    msg->part = part;
    msg->parts = self->server[s].n_parts;
    if (payload)
        describe_part(self, s, part, psd_coding_number(&self->cluster->settings.codings.push), msg);
    if (gradient.has_bitmap)
        msg->chunks = part_at(self, s, part)->n_chunks;
    psd_buf_unref(&payload);
}

/* The sum of squares of the whole gradient as pushed, of the elements that count for clipping; it is finite if all elements are. */
static double squares(psd_session_t *self)
{
    const psd_clip_t clip = { .value = self->cluster->settings.clip_value, .norm = 1 };
    double sum = 0;
    if (self->feedback)
        return psd_feedback_squares(self->feedback, &clip, &self->groups, self->group_of);
    for (uint32_t i = 0; i < self->list.n; i++)
        if (self->gradient[i])
            sum +=
                psd_group_squares(&self->groups.at[self->group_of[i]], &clip, self->gradient[i], self->list.tensor[i].n_elements);
    return sum;
}

/* If each push is a step, one shard cannot undo another shard's, so the whole gradient is measured first. With a lossy codec, the
 * residuals of either all parts or none change, so there too it must be known first whether everything is finite. */
static void check_whole_gradient(psd_session_t *self)
{
    self->nonfinite = self->feedback && !psd_feedback_open(self->feedback, self->gradient);
    self->norm2 = self->cluster->settings.whole_norm && !self->nonfinite ? squares(self) : 0;
    self->nonfinite |= !isfinite(self->norm2);
    if (self->nonfinite)
        self->norm2 = 0;
}

/* How long the caller took for the gradient, suspensions included. */
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

/* Take a tensor's gradient, or NULL for none; this completes the parts of which it was the last tensor. */
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

static void put_held(psd_session_t *self, uint64_t now_ms, uint32_t s);

/* All tensors have come. Servers without chunks get one empty part; without samples, all servers do. */
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
    for (uint32_t s = 0; s < n_servers(self); s++)
        put_held(self, now_ms, s);
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
                           "push: tensor %s is over %" PRIu64 " samples, but the earlier ones of this exchange are over %" PRIu64,
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

/* The number of parts that the open exchange pushes to server `s`: without samples, one empty part. */
static uint32_t pushed_parts(const psd_session_t *self, uint32_t s) { return self->samples ? self->server[s].n_parts : 1; }

/* Pushes may fill a slow link for longer than a server may be silent. Probes between them make the server answer, which shows that
 * it is there; an answer's bits for parts pushed after the probe mean nothing. */
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

/* Whether all tensors must have come before the first push, because each part carries their sum of squares, or whether they are
 * finite. */
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

/* Request everything from all servers that have chunks. */
static void pull_all(psd_session_t *self, uint64_t now_ms, psd_phase_t phase, psd_actions_t *out)
{
    self->phase = phase;
    self->pull_seq++;
    await_all(self, now_ms);
    for (uint32_t s = 0; s < n_servers(self); s++) {
        if (real_parts(self, s))
            send_pull(self, s, out);
        else
            lacks_no_more(&self->server[s]);
    }
}

int psd_session_pull_slow(psd_session_t *self, uint64_t now_ms, float *const *out_data, psd_actions_t *out, psd_err_t *err)
{
    if (self->phase != PSD_PHASE_READY)
        return wrong_phase(err, "pull");
    memcpy(self->slow, out_data, self->list.n * sizeof *self->slow);
    pull_all(self, now_ms, PSD_PHASE_PULLING, out);
    return PSD_OK;
}

static void begin_setting(psd_session_t *self, uint64_t now_ms, psd_actions_t *out)
{
    self->phase = PSD_PHASE_SETTING;
    self->pull_seq++;
    self->heartbeat_ms = now_ms;
    send_setting(self, out);
}

int psd_session_set_lr(psd_session_t *self, uint64_t now_ms, double lr, psd_actions_t *out, psd_err_t *err)
{
    if (self->phase != PSD_PHASE_READY)
        return wrong_phase(err, "set the learning rate");
    if (!(lr >= 0) || !isfinite(lr))
        return psd_err_set(err, PSD_EINVAL, "a learning rate must be a finite number of at least 0; this is %g", lr);
    snprintf(self->setting, sizeof self->setting, "optimizer.lr");
    self->lr = lr;
    begin_setting(self, now_ms, out);
    return PSD_OK;
}

int psd_session_say_rows(psd_session_t *self, uint64_t now_ms, const char *rows, psd_actions_t *out, psd_err_t *err)
{
    if (self->phase != PSD_PHASE_READY)
        return wrong_phase(err, "say what rows it trains on");
    snprintf(self->setting, sizeof self->setting, PSD_SETTING_ROWS "%.*s", PSD_MAX_RECIPE - 1, rows);
    self->lr = 0;
    begin_setting(self, now_ms, out);
    return PSD_OK;
}

void psd_session_leave(psd_session_t *self, uint64_t now_ms, bool finished, psd_actions_t *out)
{
    if (self->phase == PSD_PHASE_LEFT || self->phase == PSD_PHASE_FAILED)
        return;
    if (self->phase == PSD_PHASE_LEAVING && self->finished == finished)
        return; /* frequent calls must not delay heartbeats, with which the setting is repeated */
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

/* ---- messages from servers ---- */

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

/* Elements of a chunk in slot `slot` of what is inherited. */
static size_t n_inherited(const psd_session_t *self, const psd_chunk_t *c, uint32_t slot)
{
    const psd_rule_t *rule = &self->groups.at[self->group_of[c->tensor]].rule;
    if (!(self->inheritance->of[c->tensor].arrays >> slot & 1))
        return 0;
    return psd_rule_slot_elements(rule, (int)slot, &self->map.tensor[c->tensor], c->offset, c->n);
}

/* The part's elements of a slot, chunk after chunk. NULL: it has none. */
static psd_buf_t *gather_inherited(const psd_session_t *self, uint32_t s, uint32_t part, uint32_t slot)
{
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < part_at(self, s, part)->n_chunks; i++)
        n += n_inherited(self, psd_partition_at(&self->map, s, part, i), slot);
    psd_buf_t *out = n ? psd_buf_new(n * sizeof(float)) : NULL;
    assert((out || !n) && "no memory for a message");
    for (uint32_t i = 0; n && i < part_at(self, s, part)->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&self->map, s, part, i);
        const size_t count = n_inherited(self, c, slot);
        if (count)
            memcpy((float *)out->data + at, self->inheritance->slot[c->tensor][slot] + c->offset, count * sizeof(float));
        at += count;
    }
    return out;
}

/* A part of an array of initial values: 0 are the weights. NULL: there is none. */
static psd_buf_t *initial_part(const psd_session_t *self, uint32_t s, uint32_t part, uint32_t array)
{
    if (!array)
        return gather(self, s, part, (const float *const *)(self->initial ? self->initial : self->data), 0);
    return self->inheritance && array <= PSD_MAX_SLOTS ? gather_inherited(self, s, part, array - 1) : NULL;
}

static void on_init_wanted(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    if (self->phase != PSD_PHASE_REGISTERING || in->msg->parts != self->server[s].n_parts ||
        in->msg->seq <= self->server[s].init_seq)
        return;
    self->server[s].init_seq = in->msg->seq;
    for (uint32_t p = 0; p < real_parts(self, s); p++) {
        psd_buf_t *values = psd_bitmap_get(in->payload->data, p) ? initial_part(self, s, p, in->msg->code) : NULL;
        if (!values)
            continue;
        psd_msg_t *msg = send_to(self, s, PSD_MSG_INIT, values, in->out);
        describe_part(self, s, p, PSD_CODEC_F32, msg);
        msg->code = in->msg->code;
        msg->n_elements = (uint32_t)(values->n_bytes / sizeof(float));
        self->moved++;
        psd_buf_unref(&values);
    }
}

/* ---- weights ---- */

/* Copy, and return the checksum extended over the data, in one pass over memory: the checksum brings a block into the cache,
 * and the copy takes it from there. */
static uint32_t copy_checked(const psd_session_t *self, float *to, const float *from, size_t left, uint32_t crc)
{
    enum { BLOCK = 4096 };
    for (size_t n; left; left -= n, from += n, to += n) {
        n = left < BLOCK ? left : BLOCK;
        crc = psd_crc32c_extend(crc, from, n * sizeof *from);
        psd_copy_large(to, from, n * sizeof *from, self->is_large);
    }
    return crc;
}

/* Whether weights became those at `at` without a copy. In asp the servers go on while this worker computes, so they would have to
 * make the copy; and decoded weights need memory that can be written. */
static bool place(const psd_session_t *self, float *const *to, float *at, psd_buf_t *payload, const float *from, size_t n)
{
    const psd_session_config_t *c = &self->config;
    return to == self->data && c->place && self->cluster->settings.in_rounds &&
           psd_coding_is_lossless(&self->cluster->settings.codings.pull) && c->place(c->arg, at, payload, from, n);
}

/* Copy a part into the arrays `to`. False: it was damaged on the way. */
static bool copy_part(psd_session_t *self, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload, float *const *to)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < part_at(self, s, msg->part)->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&self->map, s, msg->part, i);
        const float *from = (const float *)payload->data + c->at;
        float *at = to[c->tensor] + c->offset;
        const bool placed = place(self, to, at, payload, from, c->n);
        if (!msg->proven)
            crc = placed ? psd_crc32c_extend(crc, at, c->n * sizeof *at) : copy_checked(self, at, from, c->n, crc);
        else if (!placed)
            psd_copy_large(at, from, c->n * sizeof *from, self->is_large);
    }
    return crc == msg->checksum;
}

/* Decode a part into the arrays `to`. False: it was damaged on the way, or it is not a valid code, and the session has failed. */
static bool decode_part(psd_session_t *self, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload, float *const *to)
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
        snprintf(text, sizeof text, "server %u sent part %u of its weights in a code that is not this job's, %s: %.300s", s,
                 msg->part, psd_coding_name(coding), err.text);
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

/* Something that was missing has arrived from a server: `n` elements. */
static void heard_of(psd_session_t *self, uint64_t now_ms, uint32_t s, uint32_t n)
{
    server_t *server = &self->server[s];
    self->moved++;
    server->flying -= server->flying < n ? server->flying : n;
    server->asked_ms = now_ms;
    server->rto_ms = RTO_MS;
}

/* A missing part has arrived. */
static void came(psd_session_t *self, uint64_t now_ms, uint32_t s, uint32_t part)
{
    server_t *server = &self->server[s];
    psd_bitmap_unset(server->lacking, part);
    server->n_lacking--;
    heard_of(self, now_ms, s, part_at(self, s, part)->n);
}

/* Put a part into the arrays `to`, if it is missing; the next probe requests a damaged one again. Weights that a codec cannot
 * represent, such as Inf and NaN, come uncoded, as slow weights always do. Returns whether it lies there now. */
static bool put_part(psd_session_t *self, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload, float *const *to)
{
    if (msg->part >= real_parts(self, s) || !psd_bitmap_get(self->server[s].lacking, msg->part) ||
        msg->n_elements != part_at(self, s, msg->part)->n || msg->chunks)
        return false;
    psd_bitmap_unset(self->server[s].ahead, msg->part);
    return (msg->codec == PSD_CODEC_F32 ? copy_part : decode_part)(self, s, msg, payload, to);
}

static void take_part(psd_session_t *self, uint64_t now_ms, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload, float *const *to)
{
    if (put_part(self, s, msg, payload, to))
        came(self, now_ms, s, msg->part);
}

/* ---- weights that were made ahead of their round's decision ---- */

/* A part of them: it stays missing until the server says that it counts. */
static void put_ahead(psd_session_t *self, uint64_t now_ms, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload)
{
    server_t *server = &self->server[s];
    server->is_ahead = true;
    if (!put_part(self, s, msg, payload, self->data))
        return;
    psd_bitmap_set(server->ahead, msg->part);
    heard_of(self, now_ms, s, msg->n_elements);
}

/* While the caller may be computing with its arrays, parts are held. */
static void take_ahead(psd_session_t *self, uint64_t now_ms, uint32_t s, const psd_msg_t *msg, psd_buf_t *payload)
{
    server_t *server = &self->server[s];
    if (msg->seq != server->attempt) {
        memset(server->ahead, 0, psd_bitmap_bytes(server->n_parts));
        drop_held(server);
    }
    server->attempt = msg->seq;
    if (self->phase == PSD_PHASE_EXCHANGING) {
        put_ahead(self, now_ms, s, msg, payload);
    } else if (msg->part < real_parts(self, s) && msg->n_elements == part_at(self, s, msg->part)->n) {
        held_t *held = &server->held[msg->part];
        psd_buf_unref(&held->payload);
        *held = (held_t){ psd_buf_ref(payload), msg->codec, msg->checksum, msg->proven };
    }
}

/* All tensors have been pushed: what was held may be put into the arrays. */
static void put_held(psd_session_t *self, uint64_t now_ms, uint32_t s)
{
    server_t *server = &self->server[s];
    for (uint32_t p = 0; p < real_parts(self, s); p++) {
        const held_t *held = &server->held[p];
        const psd_msg_t msg = { .part = p,
                                .n_elements = part_at(self, s, p)->n,
                                .codec = held->codec,
                                .checksum = held->checksum,
                                .proven = held->proven };
        if (held->payload)
            put_ahead(self, now_ms, s, &msg, held->payload);
    }
    drop_held(server);
}

/* An attempt counts: its parts that have come are those that were missing. */
static void adopt(psd_session_t *self, uint64_t now_ms, uint32_t s, uint64_t attempt)
{
    server_t *server = &self->server[s];
    for (uint32_t p = 0; attempt == server->attempt && p < real_parts(self, s); p++)
        if (psd_bitmap_get(server->ahead, p) && psd_bitmap_get(server->lacking, p)) {
            psd_bitmap_unset(server->lacking, p);
            server->n_lacking--;
        }
    heard_of(self, now_ms, s, 0);
}

/* ---- residuals and checkpoints ---- */

/* A server makes a checkpoint and needs this worker's residual after `clock`: set it aside, so that exchanges can continue. That
 * clock is of the last closed exchange or, if one server is ahead of another, of the open one. */
static bool set_aside(psd_session_t *self, uint32_t s, uint64_t clock)
{
    server_t *server = &self->server[s];
    if (server->aside == clock + 1)
        return true;
    const bool is_open = clock == self->clock && self->phase == PSD_PHASE_EXCHANGING;
    if (!is_open && clock + 1 != self->clock)
        return false;
    psd_feedback_set_aside(self->feedback, s, is_open);
    server->aside = clock + 1;
    return true;
}

/* Every WEIGHTS of a clock says whether a checkpoint needs the residual of the clock before, so a worker always learns it in
 * time. */
static void heed_request(psd_session_t *self, uint32_t s, const psd_msg_t *msg)
{
    if (!self->feedback || !self->cluster->settings.saves_residuals || self->phase != PSD_PHASE_EXCHANGING)
        return;
    if (msg->saved) {
        set_aside(self, s, msg->saved - 1);
    } else if (self->server[s].aside) {
        psd_feedback_drop_aside(self->feedback, s);
        self->server[s].aside = 0;
    }
}

static void send_residual(psd_session_t *self, uint32_t s, uint32_t part, uint64_t clock, psd_buf_t *kept, psd_actions_t *out)
{
    psd_msg_t *msg = send_to(self, s, PSD_MSG_RESIDUAL, kept, out);
    msg->clock = clock;
    msg->part = part;
    msg->parts = self->server[s].n_parts;
    if (kept)
        describe_part(self, s, part, PSD_CODEC_F32, msg);
}

/* Before it has weights, the worker does not answer, and the server asks again. A residual that it no longer has is reported as
 * none. */
static void on_residual_wanted(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    const uint64_t clock = in->msg->clock;
    if (!self->cluster->settings.saves_residuals || self->phase < PSD_PHASE_READY || in->msg->parts != self->server[s].n_parts)
        return;
    const bool has = self->feedback && set_aside(self, s, clock);
    if (!has && clock >= self->clock)
        return;
    for (uint32_t p = 0; p < real_parts(self, s); p++)
        if (psd_bitmap_get(in->payload->data, p))
            send_residual(self, s, p, clock, has ? psd_feedback_aside(self->feedback, s, p) : NULL, in->out);
}

static void begin_anew(psd_session_t *self, psd_actions_t *out)
{
    psd_actions_log(out, PSD_LEVEL_WARN, "residual.reset",
                    "worker=%u clock=%" PRIu64
                    " reason=\"the worker keeps the residual of codec.push, or dlion's momentum, and %s\"",
                    self->worker, self->clock,
                    self->cluster->settings.saves_residuals ? "the checkpoint that it continues from does not hold it"
                                                            : "this worker starts without it");
}

static void become_ready(psd_session_t *self, uint64_t now_ms)
{
    self->phase = PSD_PHASE_READY;
    self->weights_ms = now_ms;
}

/* All weights have come for the first time. If they are from a checkpoint, fetch this worker's residual of that time, provided that
 * every server has its part of it. */
static void begin_residuals(psd_session_t *self, const psd_heard_t *in)
{
    bool all_have = true;
    for (uint32_t s = 0; s < n_servers(self); s++)
        all_have = all_have && (self->server[s].has_residual || !real_parts(self, s));
    if (all_have && self->clock > 1) {
        pull_all(self, in->now_ms, PSD_PHASE_RESTORING, in->out);
        return;
    }
    if (self->clock > 1)
        begin_anew(self, in->out);
    become_ready(self, in->now_ms);
}

/* A part of this worker's residual from a server, or its answer that it no longer has it. */
static void on_residual(psd_session_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    const uint32_t s = server_of(in), part = msg->part;
    server_t *server = &self->server[s];
    if (self->phase != PSD_PHASE_RESTORING || msg->seq != self->pull_seq || part >= real_parts(self, s) ||
        !psd_bitmap_get(server->lacking, part))
        return;
    if (!in->payload) {
        psd_feedback_reset(self->feedback);
        begin_anew(self, in->out);
        become_ready(self, in->now_ms);
        return;
    }
    const psd_part_t *p = part_at(self, s, part);
    if (msg->n_elements != p->n || msg->chunks || msg->codec != PSD_CODEC_F32 ||
        !psd_checksum_ok(msg, in->payload->data, in->payload->n_bytes))
        return;
    psd_feedback_take(self->feedback, s, part, in->payload->data);
    came(self, in->now_ms, s, part);
    if (server->flying <= PULL_WINDOW / 2)
        send_pull(self, s, in->out);
    if (!lacks_nothing(self))
        return;
    psd_actions_log(in->out, PSD_LEVEL_INFO, "residual.restored", "worker=%u clock=%" PRIu64, self->worker, self->clock);
    become_ready(self, in->now_ms);
}

/* ---- answers ---- */

/* A server's weights have not changed. */
static void take_unchanged(psd_session_t *self, uint32_t s, psd_actions_t *out)
{
    if (self->server[s].is_ahead || (self->config.are_placed && self->config.are_placed(self->config.arg)))
        send_probe(self, s, PSD_PROBE_SEND, out);
    else
        lacks_no_more(&self->server[s]);
}

static void on_weights(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    if (in->msg->code & PSD_WEIGHTS_AHEAD) {
        const bool is_open = self->phase == PSD_PHASE_EXCHANGING || self->phase == PSD_PHASE_COLLECTING;
        if (is_open && in->msg->clock == self->clock && in->payload)
            take_ahead(self, in->now_ms, s, in->msg, in->payload);
        return;
    }
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
    if (s == 0)
        self->step_lr = in->msg->lr;
    if (in->msg->value > self->server[s].samples)
        self->server[s].samples = in->msg->value;
    self->server[s].has_residual = (in->msg->code & PSD_WEIGHTS_RESIDUAL) != 0;
    self->gathered = (in->msg->code & PSD_WEIGHTS_GATHERED) != 0;
    heed_request(self, s, in->msg);
    if (in->payload)
        take_part(self, in->now_ms, s, in->msg, in->payload, self->data);
    else if (in->msg->code & PSD_WEIGHTS_ADOPTED)
        adopt(self, in->now_ms, s, in->msg->seq);
    else if (!real_parts(self, s))
        lacks_no_more(&self->server[s]);
    else if (self->phase == PSD_PHASE_EXCHANGING)
        take_unchanged(self, s, in->out);
    if (!lacks_nothing(self))
        return;
    const bool is_first = self->phase == PSD_PHASE_REGISTERING;
    if (!is_first)
        self->clock++;
    if (self->clock > 1)
        forget_initial(self);
    if (self->feedback && is_first) {
        begin_residuals(self, in);
        return;
    }
    if (self->feedback)
        psd_feedback_close(self->feedback);
    become_ready(self, in->now_ms);
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

/* Everything that this server sent earlier has come or is lost, because a connection keeps the order: request the missing parts
 * again. */
static void want_again(psd_session_t *self, uint32_t s, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    if (!server->n_lacking)
        return;
    if (self->phase == PSD_PHASE_PULLING || self->phase == PSD_PHASE_RESTORING) {
        server->next_pull = 0;
        server->flying = 0;
        send_pull(self, s, out);
    } else {
        send_probe(self, s, PSD_PROBE_SEND, out);
    }
}

/* seq is the number of this worker's probe; 0 means that parts arrived damaged at the server. */
static void on_progress(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    server_t *server = &self->server[s];
    const bool exchanges = self->phase == PSD_PHASE_EXCHANGING;
    if (!waits_for_servers(self) || in->msg->parts != server->n_parts || (in->msg->seq && in->msg->seq < server->mark))
        return;
    if (exchanges && in->msg->clock == self->clock) {
        for (uint32_t p = 0; p < pushed_parts(self, s); p++)
            if (psd_bitmap_get(in->payload->data, p))
                send_push(self, s, p, true, in->out);
    } else if (in->msg->seq && (!exchanges || in->msg->clock > self->clock)) {
        want_again(self, s, in->out);
    }
    if (in->msg->seq)
        server->mark = server->probe_seq + 1; /* answers to probes already on their way do not cover the repeated parts */
}

static void on_refused(psd_session_t *self, const psd_heard_t *in)
{
    const uint32_t s = server_of(in);
    char text[PSD_MAX_TEXT + 64];
    const int end = psd_refusal_end(in->msg->code);
    if (end) {
        if (self->phase == PSD_PHASE_LEAVING && s)
            return; /* only server 0 decides whether the work is safe and the worker may go */
        if (!in->msg->seq || in->msg->seq == self->config.nonce)
            fail(self, end, in->msg->text);
        return;
    }
    if (in->msg->code == PSD_REFUSAL_SESSION) {
        self->server[s].attached = false; /* the connection was lost and made again: attach again soon */
        self->server[s].asked_ms = 0;
        return;
    }
    if (self->phase == PSD_PHASE_JOINING && in->msg->seq && in->msg->seq != self->config.nonce)
        return;
    if (in->msg->code == PSD_REFUSAL_RUN) {
        /* Until an exchange has all its gradients, the arrays belong to the caller, who may be computing with them: rejoin, and get
         * the new run's weights, at its next request. */
        self->run_is_over = self->cluster && in->msg->job != self->job;
        if (self->run_is_over && !is_callers(self))
            rejoin(self, in->now_ms, in->out);
        return;
    }
    /* This server is behind or ahead of the coordinator, which decides. */
    if (in->msg->code == PSD_REFUSAL_JOB && self->list.n && !in->msg->seq)
        return;
    snprintf(text, sizeof text, "server %u refused (%s): %s", s, psd_refusal_name(in->msg->code), in->msg->text);
    fail(self, PSD_EREFUSED, text);
}

/* The server reports that this worker is no longer a member. A worker that is leaving has done its work, and the coordinator counts
 * it even if it gave the worker up; only if another process has taken its place does leaving end here. */
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
        server->asked_ms = 0; /* answers may have been lost with the old connection */
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
    if (self->phase != PSD_PHASE_LEAVING)
        return;
    send_leave(self, in->out)->code = PSD_LEAVE_KNOWS; /* so that server 0 need not stay for another LEAVE */
    self->phase = PSD_PHASE_LEFT;
}

static void on_heartbeat(psd_session_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    self->drains = msg->worker == self->worker && msg->incarnation == self->incarnation && (msg->code & PSD_HEARTBEAT_DRAIN);
    snprintf(self->told, sizeof self->told, "%.190s", msg->text);
}

static void on_health(psd_session_t *self, const psd_heard_t *in)
{
    if (!in->payload || in->msg->n_elements != PSD_SESSION_FIGURES)
        return;
    psd_buf_unref(&self->health);
    self->health = psd_buf_ref(in->payload);
    self->health_step = in->msg->version;
}

psd_buf_t *psd_session_health(const psd_session_t *self, uint64_t *step)
{
    *step = self->health_step;
    return self->health;
}

/* The messages that a worker takes, and their handlers. A personal message is for one incarnation of a worker; another one, or one
 * that has not been welcomed, ignores it. */
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
    [PSD_MSG_RESIDUAL_WANTED] = { on_residual_wanted, true },
    [PSD_MSG_RESIDUAL] = { on_residual, true },
    [PSD_MSG_PROGRESS] = { on_progress, true },
    [PSD_MSG_SLOW] = { on_slow, true },
    [PSD_MSG_SETTING] = { on_set, false },
    [PSD_MSG_LEFT] = { on_left, false },
    [PSD_MSG_HEARTBEAT] = { on_heartbeat, false },
    [PSD_MSG_HEALTH] = { on_health, true },
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
    snprintf(text, sizeof text, "server %" PRIu64 " uses protocol %u, this worker %d; install the same version on both",
             from - PSD_PEER_SERVER, theirs, PSD_PROTOCOL);
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
    case PSD_PHASE_RESTORING:
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

/* If each push is a step, servers may be a step apart. */
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
                                     .step_lr = self->step_lr,
                                     .gathered = self->gathered,
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
    for (uint32_t s = 0; waits_for_servers(self) && s < n_servers(self) && at + 1 < n; s++) {
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
