#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "common/rng.h"
#include "tests/support/dial.h"
#include "tests/support/reference.h"
#include "psd/worker.h"
#include "worker/model.h"
#include "worker/sampler.h"
#include "worker/session.h"

/* A job trains on two servers while a stranger throws malformed and lying messages at them, and one of the
 * three members lies beside its honest pushes. No server may die, grow, or count less than was refused, and
 * the weights must be those of an undisturbed job. */

enum { SERVERS = 2, HONEST = 2, WORLD = 3, BATCH = 60, SEED = 7, DONE_MS = 120000, MAX_PARTS = 64 };
#ifdef __SANITIZE_ADDRESS__ /* keeps what is freed for a while */
enum { GROWTH = 512 << 20 };
#else
enum { GROWTH = 64 << 20 };
#endif
#define RULE "adam(lr=0.002)"
static const size_t layers[] = { 784, 32, 10 };

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(hostile, .init = setup, .fini = teardown, .timeout = 600);

/* ---- members: each in a thread of its own ---- */

/* Rounds go on until the attack is over; then all members leave after the same one. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t newest_clock, last_clock = UINT64_MAX;

static bool goes_on(uint64_t clock)
{
    pthread_mutex_lock(&lock);
    newest_clock = clock > newest_clock ? clock : newest_clock;
    const bool on = clock <= last_clock;
    pthread_mutex_unlock(&lock);
    return on;
}

static uint64_t clock_now(void)
{
    pthread_mutex_lock(&lock);
    const uint64_t clock = newest_clock;
    pthread_mutex_unlock(&lock);
    return clock;
}

static uint64_t end_training(void)
{
    pthread_mutex_lock(&lock);
    const uint64_t last = last_clock = newest_clock + 3;
    pthread_mutex_unlock(&lock);
    return last;
}

typedef struct member {
    pthread_t thread;
    psd_dataset_t *data;
    psd_model_t *model;
    psd_sampler_t *sampler;
    const psd_param_t *params;
    size_t n;
    const float *gradient[PSD_MAX_PARAMS];
    int id;
    char failure[256]; /* "" when all went well */
    char sha256[PSD_SHA256_TEXT];
} member_t;

static bool member_open(member_t *self, int id)
{
    psd_err_t err = { 0 };
    *self = (member_t){ .id = id };
    self->data = psd_dataset_load("glyphs:1500", &(psd_dataset_options_t){ .kind = PSD_LABEL_CLASS }, &err);
    if (self->data)
        self->model = psd_model_new(
            &(psd_model_config_t){ .kind = "mlp", .layers = layers, .n_layers = 3, .seed = SEED }, self->data,
            &err);
    if (self->model)
        self->sampler = psd_sampler_new(self->data->n_rows, BATCH, true, SEED, &err);
    if (!self->sampler)
        return false;
    self->n = psd_model_n_params(self->model);
    self->params = psd_model_params(self->model);
    for (size_t i = 0; i < self->n; i++)
        self->gradient[i] = self->params[i].grad;
    return true;
}

static void member_close(member_t *self)
{
    psd_saved_t saved[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++)
        saved[i] = (psd_saved_t){ .name = self->params[i].name,
                                  .n = self->params[i].n,
                                  .data = self->params[i].data };
    psd_weights_sha256(saved, self->n, self->sha256);
    psd_sampler_destroy(&self->sampler);
    psd_model_destroy(&self->model);
    psd_dataset_destroy(&self->data);
}

static size_t member_gradient(member_t *self, uint64_t clock, uint32_t rank, uint32_t world)
{
    const psd_slice_t slice = psd_sampler_at(self->sampler, clock, rank, world);
    psd_model_gradient(self->model, self->data, slice.rows, slice.n);
    return slice.n;
}

static int train(member_t *self, psd_worker_t *worker)
{
    psd_tensor_t tensors[PSD_MAX_PARAMS];
    for (size_t i = 0; i < self->n; i++)
        tensors[i] = (psd_tensor_t){ .name = self->params[i].name,
                                     .shape = self->params[i].shape,
                                     .n_dims = self->params[i].n_dims,
                                     .data = self->params[i].data };
    int rc = psd_worker_register(worker, tensors, self->n);
    psd_position_t at;
    while (!rc && goes_on((at = psd_worker_position(worker)).clock)) {
        psd_ticket_t ticket;
        const size_t n = member_gradient(self, at.clock, at.rank, at.world);
        rc = psd_worker_exchange(worker, self->gradient, n, 1, &ticket);
        rc = rc ? rc : psd_worker_wait(worker, ticket, DONE_MS);
    }
    return rc ? rc : psd_worker_leave(worker, 1, DONE_MS);
}

static void *run_honest(void *arg)
{
    member_t *self = arg;
    psd_worker_t *worker = NULL;
    char key[128], server_public[128];
    snprintf(key, sizeof key, "%s/w%d.key", cluster.directory, self->id);
    snprintf(server_public, sizeof server_public, "%s/ps.pub", cluster.directory);
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = cluster.data[0],
                                         .worker = self->id + 1,
                                         .key = cluster.keys ? key : NULL,
                                         .server_public = cluster.keys ? server_public : NULL,
                                         .insecure = !cluster.keys };
    int rc = psd_worker_connect(&worker, &config);
    rc = rc ? rc : train(self, worker);
    if (rc)
        snprintf(self->failure, sizeof self->failure, "worker %d: %s", self->id, psd_worker_error(worker));
    psd_worker_close(&worker);
    return NULL;
}

/* ---- bytes ---- */

/* Whose keys are used where there are some: a worker's, like those of the members. */
static const char *stranger(void) { return cluster.keys ? "w7" : NULL; }
static const char *liars(void) { return cluster.keys ? "w2" : NULL; }

static void *dial(void *context, unsigned server, const char *name)
{
    void *socket = dial_as(&cluster, context, server, name, "ps");
    const int patience_ms = 20000;
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &patience_ms, sizeof patience_ms);
    return socket;
}

static bool send_frames(void *socket, const void *header, size_t n_header, const void *payload, size_t n)
{
    return zmq_send(socket, header, n_header, ZMQ_SNDMORE) >= 0 && zmq_send(socket, payload, n, 0) >= 0;
}

static bool send_message(void *socket, const psd_msg_t *msg, const void *payload, size_t n)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    return send_frames(socket, header, psd_msg_seal(msg, payload, n, header), payload, n);
}

/* What psd_msg_seal adds, to bytes that are no header. */
static size_t seal(uint8_t *frame, size_t n)
{
    const uint32_t crc = psd_crc32c(frame, n);
    for (size_t i = 0; i < PSD_SEAL; i++)
        frame[n + i] = (uint8_t)(crc >> 8 * i);
    return n + PSD_SEAL;
}

/* Read one message if there is one within `wait_ms`; `payload` is to be released. */
static bool read_message(void *socket, long wait_ms, psd_msg_t *msg, psd_buf_t **payload)
{
    zmq_pollitem_t item = { .socket = socket, .events = ZMQ_POLLIN };
    uint8_t header[PSD_MAX_FRAME_HEADER];
    zmq_msg_t body;
    if (zmq_poll(&item, 1, wait_ms) < 1)
        return false;
    const int n = zmq_recv(socket, header, sizeof header, 0);
    zmq_msg_init(&body);
    zmq_msg_recv(&body, socket, 0);
    const size_t n_body = zmq_msg_size(&body);
    const bool good =
        n >= 0 && psd_msg_open(msg, header, (size_t)n, zmq_msg_data(&body), n_body, NULL) == PSD_OK;
    *payload = good && n_body ? psd_payload_copy(zmq_msg_data(&body), n_body) : NULL;
    zmq_msg_close(&body);
    return good;
}

static uint64_t rejected(unsigned reason)
{
    char series[128];
    double n = 0;
    for (unsigned s = 0; s < SERVERS; s++) {
        snprintf(series, sizeof series, "psd_messages_rejected_total{shard=\"%u\",reason=\"%s\"}", s,
                 psd_refusal_name(reason));
        n += cluster_metric(&cluster, s, series);
    }
    return (uint64_t)n;
}

/* ---- the member that lies: the session of an honest one, driven by hand ---- */

typedef struct liar {
    member_t member;
    void *context, *socket[SERVERS];
    psd_session_t *session;
    psd_actions_t out;
    uint64_t chance;
    uint64_t pushed[SERVERS][MAX_PARTS];   /* newest clock of each chunk */
    _Atomic uint64_t lies[PSD_N_REFUSALS]; /* by the reason for which they must be refused */
} liar_t;

static void tell(liar_t *self, void *socket, psd_refusal_t reason, const psd_msg_t *msg,
                 const psd_buf_t *payload)
{
    if (send_message(socket, msg, payload ? payload->data : NULL, payload ? payload->n_bytes : 0))
        self->lies[reason]++;
}

/* The push with one bit of its payload changed on the way. */
static void damage(liar_t *self, void *socket, const psd_msg_t *push, const psd_buf_t *payload)
{
    psd_buf_t *other = psd_payload_copy(payload->data, payload->n_bytes);
    ((uint8_t *)other->data)[psd_splitmix64(&self->chance) % other->n_bytes] ^=
        (uint8_t)(1u << psd_splitmix64(&self->chance) % 8);
    tell(self, socket, PSD_REFUSAL_CHECKSUM, push, other);
    psd_buf_unref(&other);
}

/* Before a push is made: such as must not be taken for it. */
static void lie_before(liar_t *self, void *socket, const psd_msg_t *push, const psd_buf_t *payload)
{
    static const uint64_t ahead[] = { 1, 2, 1000, PSD_MAX_COUNT / 2 };
    psd_msg_t lie = *push;
    switch (psd_splitmix64(&self->chance) % 16) {
    case 0:
        damage(self, socket, push, payload);
        break;
    case 1:
        lie.parts++;
        tell(self, socket, PSD_REFUSAL_SHAPE, &lie, payload);
        break;
    case 2:
        if (payload->n_bytes > 4) {
            psd_buf_t shorter = { .data = payload->data, .n_bytes = payload->n_bytes - 4 };
            lie.n_elements--;
            tell(self, socket, PSD_REFUSAL_SHAPE, &lie, &shorter);
        }
        break;
    case 3:
    case 4:
    case 5:
        lie.clock += ahead[psd_splitmix64(&self->chance) % 4];
        tell(self, socket, PSD_REFUSAL_CLOCK, &lie, payload);
        break;
    case 6:
        lie.incarnation--;
        tell(self, socket, PSD_REFUSAL_INCARNATION, &lie, payload);
        break;
    default:
        lie.clock = psd_splitmix64(&self->chance) % push->clock;
        tell(self, socket, PSD_REFUSAL_DUPLICATE, &lie, payload);
    }
}

/* After it: the same again with other values, NaN among them. The first one counts. */
static void lie_after(liar_t *self, void *socket, const psd_msg_t *push, const psd_buf_t *payload)
{
    psd_msg_t lie = *push;
    psd_buf_t *other = psd_payload_copy(payload->data, payload->n_bytes);
    uint32_t *bits = other->data;
    static const uint32_t odd[] = {
        0x7fc00000, 0x7f800000, 0xff800000, 0x00000001, 0x7e967699, 0
    }; /* NaN, +-Inf, tiny, 1e38, 0 */
    for (uint32_t i = 0; i < push->n_elements; i += 1 + psd_splitmix64(&self->chance) % 7)
        bits[i] = odd[psd_splitmix64(&self->chance) % 6];
    lie.checksum = psd_crc32c(other->data, other->n_bytes);
    tell(self, socket, PSD_REFUSAL_DUPLICATE, &lie, other);
    psd_buf_unref(&other);
}

/* Whether this chunk is pushed for the first time at its clock. Beside a repeat, which may come when its
 * round is closed already, a push two clocks ahead would be one clock ahead: a bad gradient, but a member's
 * right. */
static bool is_first(liar_t *self, const psd_msg_t *push)
{
    uint64_t *clock = &self->pushed[push->shard][push->part % MAX_PARTS];
    const bool first = push->clock > *clock;
    *clock = push->clock;
    return first;
}

static void carry_out(liar_t *self)
{
    for (size_t i = 0; i < self->out.n; i++) {
        const psd_action_t *a = &self->out.at[i];
        if (a->act != PSD_ACT_SEND)
            continue;
        void *socket = self->socket[a->to - PSD_PEER_SERVER];
        const bool lies = a->msg.kind == PSD_MSG_PUSH && a->payload && is_first(self, &a->msg) &&
                          psd_splitmix64(&self->chance) % 4 == 0;
        if (lies)
            lie_before(self, socket, &a->msg, a->payload);
        send_message(socket, &a->msg, a->payload ? a->payload->data : NULL,
                     a->payload ? a->payload->n_bytes : 0);
        if (lies)
            lie_after(self, socket, &a->msg, a->payload);
    }
    psd_actions_drop(&self->out, self->out.n);
}

/* Register or push, as far as the session lets it. */
static void advance(liar_t *self, float *const *weights, const psd_tensor_list_t *list)
{
    const psd_phase_t phase = psd_session_phase(self->session);
    const psd_session_position_t at = psd_session_position(self->session);
    if (phase == PSD_PHASE_JOINED) {
        psd_session_register(self->session, cluster_now_ms(), list, weights, &self->out, NULL);
    } else if (phase == PSD_PHASE_READY && goes_on(at.clock)) {
        const size_t n = member_gradient(&self->member, at.clock, at.rank, at.world);
        psd_session_exchange(self->session, cluster_now_ms(), self->member.gradient, n, 1, NULL);
        while (psd_session_pump(self->session, &self->out))
            carry_out(self);
    } else if (phase == PSD_PHASE_READY) {
        psd_session_leave(self->session, cluster_now_ms(), true, &self->out);
    }
    carry_out(self);
}

static void hear(liar_t *self)
{
    psd_msg_t msg;
    psd_buf_t *payload;
    for (unsigned s = 0; s < SERVERS; s++)
        for (int i = 0; i < 64 && read_message(self->socket[s], s || i ? 0 : 1, &msg, &payload); i++) {
            /* What is refused are the lies; to an honest session it would be the end. */
            const bool about_lies = msg.kind == PSD_MSG_FENCED ||
                                    (msg.kind == PSD_MSG_REFUSED && msg.code != PSD_REFUSAL_SESSION);
            if (!about_lies)
                psd_session_message(self->session, cluster_now_ms(), PSD_PEER_SERVER + s, &msg, payload,
                                    &self->out);
            psd_buf_unref(&payload);
        }
}

static void *run_liar(void *arg)
{
    liar_t *self = arg;
    float *weights[PSD_MAX_PARAMS];
    psd_tensor_desc_t desc[PSD_MAX_PARAMS] = { 0 };
    const psd_tensor_list_t list = { (uint32_t)self->member.n, desc };
    for (size_t i = 0; i < self->member.n; i++) {
        const psd_param_t *p = &self->member.params[i];
        weights[i] = p->data;
        desc[i].n_dims = (uint32_t)p->n_dims;
        desc[i].n_elements = p->n;
        strcpy(desc[i].name, p->name);
        memcpy(desc[i].dim, p->shape, p->n_dims * sizeof *p->shape);
    }
    self->context = zmq_ctx_new();
    for (unsigned s = 0; s < SERVERS; s++)
        self->socket[s] = dial(self->context, s, liars());
    self->session = psd_session_new(
        &(psd_session_config_t){ .job = "psd", .name = "liar", .wanted = WORLD, .nonce = 0x11a2 });
    const uint64_t end = cluster_now_ms() + 4 * DONE_MS;
    psd_phase_t phase = PSD_PHASE_JOINING;
    for (; phase != PSD_PHASE_LEFT && phase != PSD_PHASE_FAILED && cluster_now_ms() < end;
         phase = psd_session_phase(self->session)) {
        psd_session_tick(self->session, cluster_now_ms(), &self->out);
        hear(self);
        advance(self, weights, &list);
    }
    if (phase != PSD_PHASE_LEFT)
        snprintf(self->member.failure, sizeof self->member.failure, "the liar ends in phase %d: %.200s",
                 phase, phase == PSD_PHASE_FAILED ? psd_session_error(self->session)->text : "");
    psd_session_destroy(&self->session);
    psd_actions_clear(&self->out);
    for (unsigned s = 0; s < SERVERS; s++)
        zmq_close(self->socket[s]);
    zmq_ctx_term(self->context);
    return NULL;
}

/* ---- the stranger: no member, but it knows the job's number and a member's id and incarnation ---- */

typedef struct stranger {
    void *context;
    void *socket[SERVERS];
    void *mute[SERVERS]; /* its answers are never read: the servers' queues for it must stay bounded */
    uint64_t job, chance;
    uint64_t sent, expected[PSD_N_REFUSALS];
} stranger_t;

static uint64_t draw(stranger_t *self, uint64_t n) { return psd_splitmix64(&self->chance) % n; }

/* The job's number is told to whoever says hello. */
static void ask_for_job(stranger_t *self)
{
    psd_msg_t msg = { .kind = PSD_MSG_HELLO, .protocol = PSD_PROTOCOL, .seq = 0xbad, .text = "psd stranger" };
    psd_buf_t *payload = NULL;
    void *socket = dial(self->context, 0, stranger());
    cr_assert(send_message(socket, &msg, NULL, 0));
    cr_assert(read_message(socket, DONE_MS, &msg, &payload));
    cr_assert_eq(msg.kind, PSD_MSG_WELCOME);
    self->job = msg.job;
    psd_buf_unref(&payload);
    zmq_close(socket);
}

static float values[64];

/* A push as the member of id 0 would make it; its payload is `values`. */
static psd_msg_t push_for(const stranger_t *self, unsigned server)
{
    return (psd_msg_t){ .kind = PSD_MSG_PUSH,
                        .protocol = PSD_PROTOCOL,
                        .job = self->job,
                        .worker = 0,
                        .incarnation = 1,
                        .clock = clock_now(),
                        .shard = server,
                        .parts = 14,
                        .samples = 20,
                        .norm2 = 1,
                        .loss = 1,
                        .dtype = PSD_DTYPE_F32,
                        .codec = PSD_CODEC_RAW,
                        .n_elements = 64,
                        .checksum = psd_crc32c(values, sizeof values) };
}

/* One field of a push changed, and why it must be refused. */
static psd_refusal_t falsify_push(stranger_t *self, psd_msg_t *m)
{
    const uint64_t any = psd_splitmix64(&self->chance);
    switch (draw(self, 24)) {
    case 0:
        m->job ^= any | 1;
        return PSD_REFUSAL_JOB;
    case 1:
        m->job = 0;
        return PSD_REFUSAL_JOB;
    case 2:
        m->shard = m->shard ^ 1;
        return PSD_REFUSAL_SHARD;
    case 3:
        m->shard = 2 + (uint32_t)(any % 62);
        return PSD_REFUSAL_SHARD;
    case 4:
        m->shard = 64 + (uint32_t)(any % 1000);
        return PSD_REFUSAL_MALFORMED;
    case 5:
        m->incarnation = 0;
        return PSD_REFUSAL_INCARNATION;
    case 6:
        m->incarnation = 2 + any % 1000;
        return PSD_REFUSAL_VIEW;
    case 7:
        m->incarnation = PSD_MAX_COUNT + 1 + any % PSD_MAX_COUNT;
        return PSD_REFUSAL_MALFORMED;
    case 8:
        m->worker = 500 + (uint32_t)(any % 500);
        return PSD_REFUSAL_VIEW;
    case 9:
        m->worker = 1024 + (uint32_t)(any % 100000);
        return PSD_REFUSAL_MALFORMED;
    case 10:
        m->clock = UINT64_C(1) << 63;
        return PSD_REFUSAL_MALFORMED;
    case 11:
        m->clock = any % 100000;
        return PSD_REFUSAL_SESSION;
    case 12:
        m->part = m->parts + (uint32_t)(any % 1000);
        return PSD_REFUSAL_MALFORMED;
    case 13:
        m->parts = PSD_MAX_PARTS + 1 + (uint32_t)(any % 1000);
        return PSD_REFUSAL_MALFORMED;
    case 14:
        m->n_elements = 65 + (uint32_t)(any % 100);
        return PSD_REFUSAL_MALFORMED;
    case 15:
        m->n_elements = UINT32_MAX / 4 + 1 + 64;
        return PSD_REFUSAL_MALFORMED; /* times 4 is 256 in 32 bits */
    case 16:
        m->dtype = 2 + (uint32_t)(any % 5);
        return PSD_REFUSAL_MALFORMED;
    case 17:
        m->codec = 2 + (uint32_t)(any % 5);
        return PSD_REFUSAL_MALFORMED;
    case 18:
        m->protocol = 2 + (uint32_t)(any % 98);
        return PSD_REFUSAL_PROTOCOL;
    case 19:
        m->kind = (psd_kind_t)(60 + any % 1000);
        return PSD_REFUSAL_MALFORMED;
    case 20:
        m->samples = PSD_MAX_SAMPLES + 1;
        return PSD_REFUSAL_MALFORMED;
    case 21:
        m->norm2 = -1;
        return PSD_REFUSAL_MALFORMED;
    case 22:
        strcpy(m->text, "\x1b[2J\x07");
        return PSD_REFUSAL_MALFORMED;
    default:
        return PSD_REFUSAL_SESSION; /* a true copy, from somebody else's connection */
    }
}

/* Another kind, in a member's name or out of turn. */
static psd_refusal_t falsify_kind(stranger_t *self, unsigned server, psd_msg_t *m)
{
    static const psd_kind_t to_coordinator[] = { PSD_MSG_HEARTBEAT, PSD_MSG_LEAVE, PSD_MSG_REPORT,
                                                 PSD_MSG_SETTING };
    static const psd_kind_t from_servers[] = { PSD_MSG_REFUSED,      PSD_MSG_WAIT, PSD_MSG_FENCED,
                                               PSD_MSG_REGISTERED,   PSD_MSG_LEFT, PSD_MSG_ATTACHED,
                                               PSD_MSG_SHARD_WELCOME };
    *m = (psd_msg_t){ .protocol = PSD_PROTOCOL,
                      .job = self->job,
                      .incarnation = 1,
                      .shard = server,
                      .clock = clock_now(),
                      .seq = psd_splitmix64(&self->chance) };
    switch (draw(self, 8)) {
    case 0:
    case 1:
        m->kind = to_coordinator[draw(self, 4)];
        return server ? PSD_REFUSAL_SENDER : PSD_REFUSAL_INCARNATION;
    case 2:
        m->kind = from_servers[draw(self, 7)];
        return PSD_REFUSAL_SENDER;
    case 3:
        m->kind = PSD_MSG_ATTACH;
        return PSD_REFUSAL_WORKER;
    case 4:
        m->kind = PSD_MSG_HELLO;
        strcpy(m->text, "another ../../etc/passwd");
        return server ? PSD_REFUSAL_SENDER : PSD_REFUSAL_JOB;
    case 5: /* as many as may be welcomed; then all others are asked to wait */
        m->kind = PSD_MSG_HELLO;
        strcpy(m->text, "psd flood");
        return server ? PSD_REFUSAL_SENDER : PSD_REFUSAL_NONE;
    case 6: /* a session for a worker that may come later; dropped when it does not fit */
        m->kind = PSD_MSG_ATTACH;
        m->worker = 300 + (uint32_t)draw(self, 100);
        m->incarnation = PSD_MAX_COUNT;
        return PSD_REFUSAL_NONE;
    default:
        m->kind = PSD_MSG_SHARD_HELLO;
        strcpy(m->text, "psd tcp://127.0.0.1:1 servers=2 mode=bsp optimizer=sgd");
        return server || cluster.keys ? PSD_REFUSAL_SENDER : PSD_REFUSAL_CONFIG; /* a worker is no server */
    }
}

/* Frames that are no message. */
static bool throw_frames(stranger_t *self, void *socket)
{
    static const size_t counts[] = { 1, 3, 4, 1000 };
    uint8_t bytes[PSD_MAX_FRAME_HEADER + 1] = { 0 };
    const uint64_t what = draw(self, 20);
    for (size_t i = 0; i < sizeof bytes; i += 8)
        memcpy(bytes + i, &(uint64_t){ psd_splitmix64(&self->chance) }, i + 8 <= sizeof bytes ? 8 : 1);
    bytes[0] |= 0x80; /* no header begins with a tag of two bytes */
    if (what > 4 && draw(self, 2)) { /* damaged on the way, it seems */
        self->expected[PSD_REFUSAL_CHECKSUM]++;
        return send_frames(socket, bytes, PSD_SEAL + 1 + draw(self, PSD_MAX_HEADER), bytes, draw(self, sizeof bytes));
    }
    self->expected[PSD_REFUSAL_MALFORMED]++;
    if (what == 0)
        return send_frames(socket, bytes, sizeof bytes, NULL, 0);
    if (what == 1)
        return send_frames(socket, NULL, 0, bytes, draw(self, sizeof bytes));
    if (what > 4)
        return send_frames(socket, bytes, seal(bytes, 1 + draw(self, PSD_MAX_HEADER)), bytes + 8, draw(self, sizeof bytes - 8));
    bool sent = true;
    const size_t n = what == 4 && draw(self, 50) ? 1 : counts[draw(self, what == 4 ? 4 : 3)];
    for (size_t i = 0; i < n && sent; i++)
        sent = zmq_send(socket, bytes, draw(self, 64), i + 1 < n ? ZMQ_SNDMORE : 0) >= 0;
    return sent;
}

/* Answers are read: who does not is cut off when its heartbeats stall, and what it had under way is lost
 * uncounted. */
static void drain(void *socket)
{
    psd_msg_t msg;
    psd_buf_t *payload;
    while (read_message(socket, 0, &msg, &payload))
        psd_buf_unref(&payload);
}

/* A valid push with some bits or its end changed: whatever it says then, nothing may break. */
static bool throw_mutant(stranger_t *self, unsigned server)
{
    uint8_t header[PSD_MAX_FRAME_HEADER];
    psd_msg_t m = push_for(self, server);
    if (draw(self, 2))
        falsify_kind(self, server, &m);
    size_t n = psd_msg_encode(&m, header);
    for (uint64_t flips = 1 + draw(self, 4); flips; flips--)
        header[draw(self, n)] ^= (uint8_t)(1u << draw(self, 8));
    if (!draw(self, 4))
        n = draw(self, n + 1);
    if (draw(self, 8))
        n = seal(header, n);
    const size_t n_payload = draw(self, 4) ? sizeof values : draw(self, sizeof values);
    /* As much as the mute connection takes; when it takes no more, the server has stopped reading it. */
    if (zmq_send(self->mute[server], header, n, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        zmq_send(self->mute[server], values, n_payload, ZMQ_DONTWAIT);
    return send_frames(self->socket[server], header, n, values, n_payload);
}

static bool throw_lie(stranger_t *self, unsigned server)
{
    psd_msg_t m = push_for(self, server);
    const bool push = draw(self, 3) != 0;
    const psd_refusal_t reason = push ? falsify_push(self, &m) : falsify_kind(self, server, &m);
    self->expected[reason]++;
    return send_message(self->socket[server], &m, values, push ? sizeof values : 0);
}

/* ---- the attack ---- */

static void raw_garbage(stranger_t *self, unsigned server)
{
    uint8_t bytes[512];
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    to.sin_port = htons((uint16_t)atoi(strrchr(cluster.data[server], ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)draw(self, 256);
    if (draw(self, 2))
        memcpy(bytes, "\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL", 16); /* well begun */
    if (send(fd, bytes, draw(self, sizeof bytes), MSG_NOSIGNAL) < 0)
        fputs("the server has hung up already\n", stderr);
    close(fd);
}

/* Routing ids of one's own choice; the one of five bytes looks like an automatic one. A frame beyond the
 * limit. */
static void odd_connections(stranger_t *self)
{
    static const char *const ids[] = { "intruder", "abcde" };
    static uint8_t huge[2 << 20];
    for (size_t i = 0; i < 2; i++) {
        void *socket = zmq_socket(self->context, ZMQ_DEALER);
        const int linger_ms = 2000;
        zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_setsockopt(socket, ZMQ_ROUTING_ID, ids[i], strlen(ids[i]));
        dial_dress(&cluster, socket, stranger(), "ps");
        zmq_connect(socket, cluster.data[0]);
        psd_msg_t m = push_for(self, 0);
        cr_assert(send_message(socket, &m, values, sizeof values));
        self->expected[i ? PSD_REFUSAL_SESSION : PSD_REFUSAL_MALFORMED]++;
        zmq_close(socket);
    }
    void *socket = dial(self->context, 0, stranger());
    psd_msg_t m = push_for(self, 0);
    cr_assert(send_message(socket, &m, huge, sizeof huge));
    usleep(100000); /* so that it leaves before the socket closes; nothing is counted on it */
    zmq_close(socket);
}

/* All that was sent is refused for the reason it should be: counters reach that, and reach no more where
 * members give no reason of their own. */
static void check_counters(const uint64_t *before, const uint64_t *expected, bool exactly)
{
    for (unsigned r = 1; r < PSD_N_REFUSALS; r++) {
        const uint64_t end = cluster_now_ms() + DONE_MS / 4;
        uint64_t risen = 0;
        while ((risen = rejected(r) - before[r]) < expected[r] && cluster_now_ms() < end)
            cluster_nap();
        const bool alone = r != PSD_REFUSAL_DUPLICATE && r != PSD_REFUSAL_CHECKSUM &&
                           r != PSD_REFUSAL_CLOCK && r != PSD_REFUSAL_SHAPE && r != PSD_REFUSAL_INCARNATION;
        cr_expect(exactly && alone ? risen == expected[r] : risen >= expected[r],
                  "%s: %llu refused, %llu sent", psd_refusal_name(r), (unsigned long long)risen,
                  (unsigned long long)expected[r]);
    }
}

/* Of the mutants, a quarter of all, some still make sense; at least half must be refused, for whatever
 * reason. */
static void await_refusals(uint64_t wanted)
{
    uint64_t total = 0;
    for (const uint64_t end = cluster_now_ms() + DONE_MS / 4; total < wanted && cluster_now_ms() < end;
         cluster_nap()) {
        total = 0;
        for (unsigned r = 1; r < PSD_N_REFUSALS; r++)
            total += rejected(r);
    }
    cr_expect_geq(total, wanted);
}

static void attack(stranger_t *self, uint64_t n)
{
    uint64_t before[PSD_N_REFUSALS], total_before = 0;
    for (unsigned r = 0; r < PSD_N_REFUSALS; r++)
        before[r] = rejected(r);
    odd_connections(self);
    for (; self->sent < n * 3 / 4; self->sent++) {
        const unsigned server = (unsigned)draw(self, SERVERS);
        drain(self->socket[server]);
        cr_assert(draw(self, 4) ? throw_lie(self, server) : throw_frames(self, self->socket[server]), "%s",
                  zmq_strerror(zmq_errno()));
    }
    check_counters(before, self->expected, true);
    for (unsigned r = 1; r < PSD_N_REFUSALS; r++)
        total_before += rejected(r);
    for (; self->sent < n; self->sent++) {
        const unsigned server = (unsigned)draw(self, SERVERS);
        drain(self->socket[server]);
        cr_assert(throw_mutant(self, server), "%s", zmq_strerror(zmq_errno()));
        if (self->sent % 25 == 0)
            raw_garbage(self, server);
    }
    check_counters(before, self->expected, false);
    await_refusals(total_before + n / 8);
}

static void stranger_open(stranger_t *self, uint64_t seed)
{
    *self = (stranger_t){ .chance = seed };
    self->context = zmq_ctx_new();
    ask_for_job(self);
    for (unsigned s = 0; s < SERVERS; s++)
        self->socket[s] = dial(self->context, s, stranger()), self->mute[s] = dial(self->context, s, stranger());
}

static void stranger_close(stranger_t *self)
{
    for (unsigned s = 0; s < SERVERS; s++)
        zmq_close(self->socket[s]), zmq_close(self->mute[s]);
    zmq_ctx_term(self->context);
}

static void check_weights(member_t *const *members, uint64_t last)
{
    char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT];
    const reference_config_t config = { .data = "glyphs:1500",
                                        .kind = "mlp",
                                        .layers = layers,
                                        .n_layers = 3,
                                        .batch = BATCH,
                                        .seed = SEED,
                                        .rule = RULE };
    reference_t *reference = reference_new(&config);
    cr_assert_not_null(reference);
    reference_run(reference, last, WORLD);
    reference_hash(reference, fast, slow);
    reference_destroy(&reference);
    for (int i = 0; i < WORLD; i++) {
        member_close(members[i]);
        cr_expect_str_eq(members[i]->sha256, fast, "member %d", i);
    }
}

static void expect_nothing_changed(void)
{
    static member_t honest[HONEST];
    static liar_t liar;
    static stranger_t somebody;
    member_t *members[WORLD] = { &honest[0], &honest[1], &liar.member };
    const uint64_t seed = cluster_seed(1), n = cluster_campaign() ? 100000 : 10000;
    size_t resident[SERVERS];
    liar.chance = seed + 1;
    cluster_start_servers(&cluster, SERVERS, "--workers-min=%d --lease=5s --optimizer=" RULE, WORLD);
    for (int i = 0; i < WORLD; i++)
        cr_assert(member_open(members[i], i));
    for (int i = 0; i < HONEST; i++)
        cr_assert_eq(pthread_create(&honest[i].thread, NULL, run_honest, &honest[i]), 0);
    cr_assert_eq(pthread_create(&liar.member.thread, NULL, run_liar, &liar), 0);
    cluster_await_steps(&cluster, 20);
    for (unsigned s = 0; s < SERVERS; s++)
        resident[s] = cluster_resident(&cluster.server[s]);
    const uint64_t first = clock_now(), begun = cluster_now_ms();
    stranger_open(&somebody, seed);
    attack(&somebody, n);
    uint64_t all[PSD_N_REFUSALS], lies = 0;
    for (unsigned r = 1; r < PSD_N_REFUSALS; r++) {
        lies += liar.lies[r];
        all[r] = liar.lies[r] + somebody.expected[r];
    }
    check_counters((uint64_t[PSD_N_REFUSALS]){ 0 }, all, false);
    const uint64_t taken = cluster_now_ms() - begun, rounds = clock_now() - first;
    for (unsigned s = 0; s < SERVERS; s++) {
        const size_t now = cluster_resident(&cluster.server[s]);
        cr_expect_leq(now, resident[s] + GROWTH, "server %u grew from %zu to %zu bytes", s, resident[s], now);
        fprintf(stderr, "server %u: %zu MiB before, %zu MiB after\n", s, resident[s] >> 20, now >> 20);
    }
    const uint64_t last = end_training();
    for (int i = 0; i < WORLD; i++) {
        pthread_join(members[i]->thread, NULL);
        cr_expect_str_empty(members[i]->failure);
    }
    stranger_close(&somebody);
    cr_expect_gt(rounds, 10, "the job stood still under attack");
    check_weights(members, last);
    cr_expect_gt(lies, 100);
    for (unsigned s = 0; s < SERVERS; s++)
        cr_expect_eq(cluster_wait(&cluster.server[s], DONE_MS), 0, "server %u ended with %d", s,
                     cluster.server[s].code);
    fprintf(stderr, "%llu frames of a stranger, %llu lies of a member, %llu rounds in %llu ms\n",
            (unsigned long long)somebody.sent, (unsigned long long)lies, (unsigned long long)rounds,
            (unsigned long long)taken);
}

Test(hostile, lies_and_garbage_change_nothing_and_are_counted) { expect_nothing_changed(); }

/* As far as a worker's key lets in. */
Test(hostile, nor_do_those_of_somebody_with_a_workers_key)
{
    cluster_make_keys(&cluster);
    expect_nothing_changed();
}
