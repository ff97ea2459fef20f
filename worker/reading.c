#include "worker/reading.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ASK_MS = 200,    /* between two requests to server 0, which also show it that we still read */
    SOON_MS = 50,    /* if no part comes from a server for this long, its missing parts are requested again; doubles, ... */
    LATER_MS = 1000, /* ... up to this: the server may not have the snapshot yet */
    WINDOW = 1 << 20 /* elements requested from a server that have not come, 4 MiB */
};

typedef struct server {
    uint8_t *lacking, *asked; /* parts that have not come; of these, those that are requested */
    uint32_t n_lacking;
    uint64_t flying;             /* elements of `asked` */
    uint64_t heard_ms, again_ms; /* when a part came, or was requested again; how long to wait after that */
} server_t;

struct psd_reading {
    psd_reading_config_t config;
    char *job, *name;
    psd_reading_phase_t phase;
    psd_err_t error;
    uint64_t seq;            /* of the newest request */
    uint64_t run, number;    /* of the snapshot; number 0: none yet */
    bool slow, is_gone, has; /* has: weights were read */
    uint64_t asked_ms;
    char told[256]; /* the last WAIT */
    psd_cluster_t *cluster;
    psd_tensor_list_t list;
    psd_partition_t map;
    server_t server[PSD_MAX_SERVERS];
    float **filling, **weights; /* the weights that come now, and the last complete ones; NULL: none */
    uint64_t lowest, version;   /* of these */
};

psd_reading_t *psd_reading_new(const psd_reading_config_t *config)
{
    psd_reading_t *self = calloc(1, sizeof *self);
    if (!self)
        return NULL;
    self->config = *config;
    self->seq = config->nonce;
    self->job = strdup(config->job);
    self->name = strdup(config->name);
    if (!self->job || !self->name)
        psd_reading_destroy(&self);
    return self;
}

static void free_arrays(const psd_reading_t *self, float ***arrays)
{
    for (uint32_t t = 0; *arrays && t < self->list.n; t++)
        free((*arrays)[t]);
    free(*arrays);
    *arrays = NULL;
}

static void forget_map(psd_reading_t *self)
{
    for (uint32_t s = 0; s < PSD_MAX_SERVERS; s++) {
        free(self->server[s].lacking);
        free(self->server[s].asked);
        self->server[s] = (server_t){ 0 };
    }
    psd_partition_clear(&self->map);
}

static void forget_model(psd_reading_t *self)
{
    forget_map(self);
    free_arrays(self, &self->filling);
    free_arrays(self, &self->weights);
    psd_tensors_clear(&self->list);
}

void psd_reading_destroy(psd_reading_t **self_p)
{
    psd_reading_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    forget_model(self);
    free(self->cluster);
    free(self->job);
    free(self->name);
    free(self);
}

void psd_reading_fail(psd_reading_t *self, int code, const char *why)
{
    psd_err_set(&self->error, code, "%s", why);
    self->phase = PSD_READING_FAILED;
}

/* ---- requests ---- */

/* Ask which snapshot to read, or report that this one is being read. */
static void ask(psd_reading_t *self, uint64_t now_ms, psd_actions_t *out)
{
    psd_hello_t us = { 0 };
    snprintf(us.job, sizeof us.job, "%s", self->job);
    snprintf(us.name, sizeof us.name, "%s", self->name);
    psd_buf_t *body = psd_body_of_hello(&us);
    psd_msg_t *msg = psd_actions_send(out, PSD_PEER_SERVER, PSD_MSG_FOLLOW, body);
    msg->seq = self->seq;
    msg->job = self->run;
    msg->clock = self->number;
    msg->code = (self->list.n ? 0 : PSD_FOLLOW_MODEL) | (self->is_gone ? PSD_FOLLOW_GONE : 0);
    self->asked_ms = now_ms;
    psd_buf_unref(&body);
}

static const psd_part_t *part_at(const psd_reading_t *self, uint32_t s, uint32_t part) { return &self->map.part[s][part]; }

/* The number of parts in messages: a server without parts counts as having one, which is empty. */
static uint32_t n_parts(const psd_reading_t *self, uint32_t s) { return self->map.n_parts[s] ? self->map.n_parts[s] : 1; }

/* Request missing parts from a server, as many as the window allows. */
static void request(psd_reading_t *self, uint32_t s, psd_actions_t *out)
{
    server_t *server = &self->server[s];
    const size_t n_bytes = psd_bitmap_bytes(n_parts(self, s));
    uint32_t n = 0;
    psd_buf_t *wanted = psd_payload_copy(server->asked, n_bytes);
    memset(wanted->data, 0, n_bytes);
    for (uint32_t p = 0; p < self->map.n_parts[s] && server->flying < WINDOW; p++) {
        if (!psd_bitmap_get(server->lacking, p) || psd_bitmap_get(server->asked, p))
            continue;
        psd_bitmap_set(server->asked, p);
        psd_bitmap_set(wanted->data, p);
        server->flying += part_at(self, s, p)->n;
        n++;
    }
    if (n) {
        psd_msg_t *msg = psd_actions_send(out, PSD_PEER_SERVER + s, PSD_MSG_READ, wanted);
        msg->seq = self->seq;
        msg->job = self->run;
        msg->clock = self->number;
        msg->shard = s;
        msg->parts = n_parts(self, s);
        msg->code = self->slow ? PSD_READ_SLOW : 0;
    }
    psd_buf_unref(&wanted);
}

static void forget_asked(psd_reading_t *self, uint32_t s)
{
    memset(self->server[s].asked, 0, psd_bitmap_bytes(n_parts(self, s)));
    self->server[s].flying = 0;
}

void psd_reading_begin(psd_reading_t *self, uint64_t now_ms, bool slow, psd_actions_t *out)
{
    self->seq++;
    self->slow = slow;
    self->number = 0;
    self->is_gone = false;
    self->told[0] = '\0';
    self->phase = PSD_READING_ASKING;
    ask(self, now_ms, out);
}

void psd_reading_stop(psd_reading_t *self) { self->phase = PSD_READING_IDLE; }

/* The snapshot can no longer be read: ask for another. */
static void ask_anew(psd_reading_t *self, bool is_gone)
{
    self->seq++;
    self->is_gone = is_gone;
    if (!is_gone)
        self->number = 0;
    self->phase = PSD_READING_ASKING;
}

void psd_reading_tick(psd_reading_t *self, uint64_t now_ms, psd_actions_t *out)
{
    if (self->phase != PSD_READING_ASKING && self->phase != PSD_READING_PARTS)
        return;
    if (now_ms >= self->asked_ms + ASK_MS)
        ask(self, now_ms, out);
    for (uint32_t s = 0; self->phase == PSD_READING_PARTS && s < self->map.n_servers; s++) {
        server_t *server = &self->server[s];
        if (!server->n_lacking || now_ms < server->heard_ms + server->again_ms)
            continue;
        server->heard_ms = now_ms;
        server->again_ms = 2 * server->again_ms < LATER_MS ? 2 * server->again_ms : LATER_MS;
        forget_asked(self, s);
        request(self, s, out);
    }
}

/* ---- answers ---- */

static bool new_arrays(const psd_reading_t *self, float ***out)
{
    bool ok = (*out = calloc(self->list.n + 1, sizeof **out)) != NULL;
    for (uint32_t t = 0; ok && t < self->list.n; t++)
        ok = ((*out)[t] = malloc(self->list.tensor[t].n_elements * sizeof ***out)) != NULL;
    return ok;
}

/* Partition the model as the servers have. */
static int make_map(psd_reading_t *self, psd_err_t *err)
{
    const psd_job_settings_t *job = &self->cluster->settings;
    psd_groups_t groups;
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    uint8_t *group_of = malloc(self->list.n);
    int rc = extents && group_of ? self->config.read_groups(&groups, job->optimizer, job->groups, err)
                                 : psd_err_set(err, PSD_ENOMEM, "no memory for the sizes of %" PRIu32 " tensors", self->list.n);
    if (!rc)
        psd_groups_assign(&groups, self->list.tensor->name, sizeof *self->list.tensor, extents, self->list.n, group_of, NULL);
    if (!rc)
        rc = psd_partition_cut(&self->map, extents, self->list.n, self->cluster->n_servers, job->part_elements, err);
    for (uint32_t s = 0; !rc && s < self->cluster->n_servers; s++) {
        self->server[s].lacking = calloc(1, psd_bitmap_bytes(n_parts(self, s)));
        self->server[s].asked = calloc(1, psd_bitmap_bytes(n_parts(self, s)));
        if (!self->server[s].lacking || !self->server[s].asked)
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for the map of %" PRIu32 " parts", n_parts(self, s));
    }
    free(group_of);
    free(extents);
    return rc;
}

/* The model comes before the first FOLLOWED, and does not change: with another model it would be another job. */
static void on_model(psd_reading_t *self, const psd_heard_t *in)
{
    if (self->phase != PSD_READING_ASKING || in->msg->seq != self->seq || self->list.n)
        return;
    if (psd_tensors_copy(&self->list, psd_body_tensors(in->payload)) != PSD_OK || !new_arrays(self, &self->filling) ||
        !new_arrays(self, &self->weights)) {
        forget_model(self);
        psd_reading_fail(self, PSD_ENOMEM, "no memory for the model's weights");
    }
}

/* The snapshot to read. */
static void on_followed(psd_reading_t *self, const psd_heard_t *in)
{
    psd_err_t err = { 0 };
    const bool is_new = self->number != in->msg->clock || self->run != in->msg->job;
    const bool awaited = self->phase == PSD_READING_ASKING || (self->phase == PSD_READING_PARTS && is_new);
    if (in->msg->seq != self->seq || !self->list.n || !awaited)
        return;
    if (!self->cluster)
        self->cluster = calloc(1, sizeof *self->cluster);
    assert(self->cluster && "no memory for the cluster's description");
    *self->cluster = *psd_body_cluster(in->payload);
    self->run = in->msg->job;
    self->number = in->msg->clock;
    self->is_gone = false;
    self->lowest = UINT64_MAX;
    self->told[0] = '\0';
    forget_map(self); /* after a restart there may be other servers, or more of them */
    if (make_map(self, &err)) {
        psd_reading_fail(self, err.code, err.text);
        return;
    }
    self->phase = PSD_READING_PARTS;
    for (uint32_t s = 0; s < self->map.n_servers; s++) {
        server_t *server = &self->server[s];
        server->n_lacking = self->map.n_parts[s];
        server->heard_ms = in->now_ms;
        server->again_ms = SOON_MS;
        for (uint32_t p = 0; p < self->map.n_parts[s]; p++)
            psd_bitmap_set(server->lacking, p);
        request(self, s, in->out);
    }
}

static bool is_whole(const psd_reading_t *self)
{
    for (uint32_t s = 0; s < self->map.n_servers; s++)
        if (self->server[s].n_lacking)
            return false;
    return true;
}

static void on_values(psd_reading_t *self, const psd_heard_t *in)
{
    const psd_msg_t *msg = in->msg;
    const uint32_t s = (uint32_t)(in->from - PSD_PEER_SERVER), part = msg->part;
    server_t *server = &self->server[s];
    if (self->phase != PSD_READING_PARTS || msg->seq != self->seq || msg->job != self->run || msg->clock != self->number ||
        s >= self->map.n_servers || part >= self->map.n_parts[s] || !psd_bitmap_get(server->lacking, part))
        return;
    if (!in->payload) {
        ask_anew(self, true);
        return;
    }
    if (msg->n_elements != part_at(self, s, part)->n || msg->codec != PSD_CODEC_F32 || msg->chunks ||
        !psd_checksum_ok(msg, in->payload->data, in->payload->n_bytes))
        return; /* requested again */
    for (uint32_t i = 0; i < part_at(self, s, part)->n_chunks; i++) {
        const psd_chunk_t *c = psd_partition_at(&self->map, s, part, i);
        memcpy(self->filling[c->tensor] + c->offset, (const float *)in->payload->data + c->at, c->n * sizeof(float));
    }
    psd_bitmap_unset(server->lacking, part);
    server->n_lacking--;
    server->heard_ms = in->now_ms;
    server->again_ms = LATER_MS;
    if (psd_bitmap_get(server->asked, part))
        server->flying -= part_at(self, s, part)->n;
    psd_bitmap_unset(server->asked, part);
    self->lowest = msg->version < self->lowest ? msg->version : self->lowest;
    if (server->flying <= WINDOW / 2)
        request(self, s, in->out);
    if (!is_whole(self))
        return;
    float **last = self->weights;
    self->weights = self->filling;
    self->filling = last;
    self->version = self->lowest == UINT64_MAX ? 0 : self->lowest;
    self->has = true;
    self->phase = PSD_READING_IDLE;
}

static void on_wait(psd_reading_t *self, const psd_heard_t *in)
{
    if (self->phase == PSD_READING_PARTS && in->msg->seq == self->seq)
        ask_anew(self, false);
    snprintf(self->told, sizeof self->told, "%.250s", in->msg->text);
}

/* A refusal because the job has ended is final, whichever request it answers. A server of another run, or one that has restarted,
 * refuses parts: then the next request to server 0 decides. All other refusals are final. */
static void on_refused(psd_reading_t *self, const psd_heard_t *in)
{
    char text[PSD_MAX_TEXT + 64];
    const psd_msg_t *msg = in->msg;
    const int end = psd_refusal_end(msg->code);
    const bool is_of_run = msg->code == PSD_REFUSAL_JOB || msg->code == PSD_REFUSAL_SHARD || msg->code == PSD_REFUSAL_SHAPE;
    if ((self->phase != PSD_READING_ASKING && self->phase != PSD_READING_PARTS) || (!end && msg->seq != self->seq))
        return;
    if (is_of_run && self->phase == PSD_READING_PARTS) {
        ask_anew(self, false);
        return;
    }
    snprintf(text, sizeof text, "server %" PRIu64 " refused (%s): %s", in->from - PSD_PEER_SERVER, psd_refusal_name(msg->code),
             msg->text);
    psd_reading_fail(self, end ? end : PSD_EREFUSED, text);
}

static void (*const handlers[])(psd_reading_t *self, const psd_heard_t *in) = {
    [PSD_MSG_REFUSED] = on_refused,   [PSD_MSG_WAIT] = on_wait,     [PSD_MSG_MODEL] = on_model,
    [PSD_MSG_FOLLOWED] = on_followed, [PSD_MSG_VALUES] = on_values,
};

bool psd_reading_takes(psd_kind_t kind) { return (size_t)kind < sizeof handlers / sizeof *handlers && handlers[kind]; }

void psd_reading_message(psd_reading_t *self, uint64_t now_ms, psd_peer_t from, const psd_msg_t *msg, psd_buf_t *payload,
                         psd_actions_t *out)
{
    const psd_heard_t in = { now_ms, from, msg, payload, out };
    if (psd_reading_takes(msg->kind) && from >= PSD_PEER_SERVER && from < PSD_PEER_SERVER + PSD_MAX_SERVERS)
        handlers[msg->kind](self, &in);
}

/* ---- facts ---- */

psd_reading_phase_t psd_reading_phase(const psd_reading_t *self) { return self->phase; }
const psd_err_t *psd_reading_error(const psd_reading_t *self) { return &self->error; }
const psd_cluster_t *psd_reading_cluster(const psd_reading_t *self) { return self->cluster; }
const psd_tensor_list_t *psd_reading_model(const psd_reading_t *self) { return &self->list; }
float *const *psd_reading_weights(const psd_reading_t *self) { return self->has ? self->weights : NULL; }
uint64_t psd_reading_version(const psd_reading_t *self) { return self->version; }
uint64_t psd_reading_run(const psd_reading_t *self) { return self->run; }

void psd_reading_describe_wait(const psd_reading_t *self, char *text, size_t n)
{
    text[0] = '\0';
    if (self->phase == PSD_READING_ASKING)
        snprintf(text, n, "%s", self->told[0] ? self->told : "an answer from server 0");
    for (uint32_t s = 0; self->phase == PSD_READING_PARTS && s < self->map.n_servers && !text[0]; s++)
        if (self->server[s].n_lacking)
            snprintf(text, n, "%" PRIu32 " of %" PRIu32 " parts of server %" PRIu32 " at %s", self->server[s].n_lacking,
                     n_parts(self, s), s, self->cluster->endpoint[s]);
}
