#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "common/base/rng.h"
#include "tests/support/said.h"
#include "tests/support/dial.h"
#include "tests/support/lies.h"
#include "tests/support/member.h"
#include "worker/session.h"

/* A job trains on two servers while a stranger throws malformed and lying messages at them, and one of the three members lies
 * beside its honest pushes. No server may crash, grow, or count fewer refusals than there were, and the weights must be those of an
 * undisturbed job. */

enum { SERVERS = 2, HONEST = 2, WORLD = 3, BATCH = 60, SEED = 7, DONE_MS = 600000, MAX_PARTS = 64 };
#ifdef __SANITIZE_ADDRESS__ /* keeps what is freed for a while */
enum { GROWTH = 512 << 20 };
#else
enum { GROWTH = 64 << 20 };
#endif
#define RULE "adam(lr=0.002)"
static const size_t layers[] = { 784, 32, 10 };

static cluster_t cluster;
static crew_t crew;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(hostile, .init = setup, .fini = teardown, .timeout = 600);

/* ---- bytes ---- */

/* With keys, it uses a worker's, like the members. */
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

/* Read one message if there is one within `wait_ms`; the caller releases `payload`. */
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
    psd_buf_t *bytes = n_body ? psd_payload_copy(zmq_msg_data(&body), n_body) : NULL;
    const bool good = n >= 0 && psd_wire_read(msg, payload, header, (size_t)n, bytes, NULL) == PSD_OK;
    psd_buf_unref(&bytes);
    zmq_msg_close(&body);
    return good;
}

static uint64_t rejected(unsigned reason)
{
    char series[128];
    double n = 0;
    for (unsigned s = 0; s < SERVERS; s++) {
        snprintf(series, sizeof series, "psd_messages_rejected_total{shard=\"%u\",reason=\"%s\"}", s, psd_refusal_name(reason));
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

static void tell(liar_t *self, void *socket, psd_refusal_t reason, const psd_msg_t *msg, const psd_buf_t *payload)
{
    if (send_message(socket, msg, payload ? payload->data : NULL, payload ? payload->n_bytes : 0))
        self->lies[reason]++;
}

/* The push with one bit of its payload changed on the way. */
static void damage(liar_t *self, void *socket, const psd_msg_t *push, const psd_buf_t *payload)
{
    psd_buf_t *other = psd_payload_copy(payload->data, payload->n_bytes);
    ((uint8_t *)other->data)[psd_splitmix64(&self->chance) % other->n_bytes] ^= (uint8_t)(1u << psd_splitmix64(&self->chance) % 8);
    tell(self, socket, PSD_REFUSAL_CHECKSUM, push, other);
    psd_buf_unref(&other);
}

/* Before a push: messages that must not be mistaken for it. */
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
    case 7:
        lie.codec = PSD_CODEC_F32 + 1 + psd_splitmix64(&self->chance) % (PSD_MAX_CODEC - PSD_CODEC_F32);
        tell(self, socket, PSD_REFUSAL_SHAPE, &lie, payload);
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
    static const uint32_t odd[] = { 0x7fc00000, 0x7f800000, 0xff800000, 0x00000001, 0x7e967699, 0 }; /* NaN, +-Inf, tiny, 1e38, 0 */
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
        const bool lies =
            a->msg.kind == PSD_MSG_PUSH && a->payload && is_first(self, &a->msg) && psd_splitmix64(&self->chance) % 4 == 0;
        psd_msg_t push = a->msg;
        push.checksum = a->payload && lies ? psd_buf_checksum(a->payload) : 0;
        if (lies)
            lie_before(self, socket, &push, a->payload);
        uint8_t header[PSD_MAX_FRAME_HEADER];
        psd_buf_t *bytes;
        const size_t n_header = psd_wire_write(&a->msg, a->payload, false, header, &bytes);
        send_frames(socket, header, n_header, bytes ? bytes->data : NULL, bytes ? bytes->n_bytes : 0);
        psd_buf_unref(&bytes);
        if (lies)
            lie_after(self, socket, &a->msg, a->payload);
    }
    psd_actions_drop(&self->out, self->out.n);
}

/* Register or push, as far as the session allows. */
static void advance(liar_t *self, float *const *weights, const psd_tensor_list_t *list)
{
    const psd_phase_t phase = psd_session_phase(self->session);
    const psd_session_position_t at = psd_session_position(self->session);
    if (phase == PSD_PHASE_JOINED) {
        psd_session_register(self->session, cluster_now_ms(), list, weights, &self->out, NULL);
    } else if (phase == PSD_PHASE_READY && crew_goes_on(&crew, at.clock)) {
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
            /* The refusals answer the lies; an honest session would end at one. */
            const bool about_lies = msg.kind == PSD_MSG_FENCED || (msg.kind == PSD_MSG_REFUSED && msg.code != PSD_REFUSAL_SESSION);
            if (!about_lies)
                psd_session_message(self->session, cluster_now_ms(), PSD_PEER_SERVER + s, &msg, payload, &self->out);
            psd_buf_unref(&payload);
        }
}

static void *run_liar(void *arg)
{
    liar_t *self = arg;
    float *weights[PSD_MAX_PARAMS];
    psd_tensor_desc_t desc[PSD_MAX_PARAMS] = { 0 };
    const psd_tensor_list_t list = { .n = (uint32_t)self->member.n, .tensor = desc };
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
    self->session = psd_session_new(&(psd_session_config_t){ .job = "psd", .name = "liar", .wanted = WORLD, .nonce = 0x11a2 });
    const uint64_t end = cluster_now_ms() + 4 * DONE_MS;
    psd_phase_t phase = PSD_PHASE_JOINING;
    for (; phase != PSD_PHASE_LEFT && phase != PSD_PHASE_FAILED && cluster_now_ms() < end;
         phase = psd_session_phase(self->session)) {
        psd_session_tick(self->session, cluster_now_ms(), &self->out);
        hear(self);
        advance(self, weights, &list);
    }
    if (phase != PSD_PHASE_LEFT)
        snprintf(self->member.failure, sizeof self->member.failure, "the liar ends in phase %d: %.200s", phase,
                 phase == PSD_PHASE_FAILED ? psd_session_error(self->session)->text : "");
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
    lies_t lies;
    uint64_t sent, expected[PSD_N_REFUSALS];
} stranger_t;

static uint64_t draw(stranger_t *self, uint64_t n) { return psd_splitmix64(&self->lies.chance) % n; }

/* Every peer that sends HELLO learns the job's number. */
static void ask_for_job(stranger_t *self)
{
    psd_msg_t msg = { .kind = PSD_MSG_HELLO, .protocol = PSD_PROTOCOL, .seq = 0xbad };
    uint8_t bytes[SAID_BYTES];
    psd_buf_t *payload = NULL;
    void *socket = dial(self->context, 0, stranger());
    cr_assert(send_message(socket, &msg, bytes, said_bytes(msg.kind, "psd stranger", 0, bytes)));
    cr_assert(read_message(socket, DONE_MS, &msg, &payload));
    cr_assert_eq(msg.kind, PSD_MSG_WELCOME);
    self->lies.job = msg.job;
    psd_buf_unref(&payload);
    zmq_close(socket);
}

static float values[64];

/* Its knowledge when it sends to this server. */
static lies_t *facing(stranger_t *self, unsigned server)
{
    self->lies.server = server;
    self->lies.clock = crew_clock(&crew);
    return &self->lies;
}

static bool throw_lie(stranger_t *self, unsigned server, size_t kind)
{
    static lie_t lie;
    void *socket = self->socket[server];
    lies_tell(facing(self, server), kind, &lie);
    self->expected[lie.reason]++;
    bool sent = zmq_send(socket, lie.header, lie.n_header, lie.n_frames > 1 ? ZMQ_SNDMORE : 0) >= 0;
    if (lie.n_frames > 1)
        sent = sent && zmq_send(socket, lie.payload, lie.n_payload, lie.n_frames > 2 ? ZMQ_SNDMORE : 0) >= 0;
    for (size_t i = 2; i < lie.n_frames && sent; i++)
        sent = zmq_send(socket, lie.payload, draw(self, LIES_MORE), i + 1 < lie.n_frames ? ZMQ_SNDMORE : 0) >= 0;
    return sent;
}

/* Read the answers: a peer that does not is cut off when its heartbeats stall, and its messages in flight are lost uncounted. */
static void drain(void *socket)
{
    psd_msg_t msg;
    psd_buf_t *payload;
    while (read_message(socket, 0, &msg, &payload))
        psd_buf_unref(&payload);
}

/* A lie with some bits or its end changed: whatever its contents, nothing may break. */
static bool throw_mutant(stranger_t *self, unsigned server)
{
    static lie_t lie;
    lies_tell(facing(self, server), draw(self, lies_n_kinds()), &lie);
    size_t n = lie.n_header > PSD_SEAL ? lie.n_header - PSD_SEAL : 1;
    for (uint64_t flips = 1 + draw(self, 4); flips; flips--)
        lie.header[draw(self, n)] ^= (uint8_t)(1u << draw(self, 8));
    if (!draw(self, 4))
        n = draw(self, n + 1);
    if (draw(self, 8))
        n = lies_seal(lie.header, n);
    const size_t n_payload = draw(self, 4) ? lie.n_payload : draw(self, lie.n_payload + 1);
    /* Send as much as the mute connection accepts; when it accepts no more, the server has stopped reading it. */
    if (zmq_send(self->mute[server], lie.header, n, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        zmq_send(self->mute[server], lie.payload, n_payload, ZMQ_DONTWAIT);
    return send_frames(self->socket[server], lie.header, n, lie.payload, n_payload);
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

/* Routing ids chosen by the client; the one of five bytes looks like an automatic one. A frame beyond the limit. */
static void odd_connections(stranger_t *self)
{
    static const char *const ids[] = { "intruder", "abcde" };
    static uint8_t huge[8 << 20];
    for (size_t i = 0; i < 2; i++) {
        void *socket = zmq_socket(self->context, ZMQ_DEALER);
        const int linger_ms = 2000;
        zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_setsockopt(socket, ZMQ_ROUTING_ID, ids[i], strlen(ids[i]));
        dial_dress(&cluster, socket, stranger(), "ps");
        zmq_connect(socket, cluster.data[0]);
        psd_msg_t m = lies_push(facing(self, 0), values, sizeof values);
        cr_assert(send_message(socket, &m, values, sizeof values));
        self->expected[i ? PSD_REFUSAL_SESSION : PSD_REFUSAL_MALFORMED]++;
        zmq_close(socket);
    }
    void *socket = dial(self->context, 0, stranger());
    const int linger_ms = 2000; /* so that it leaves; nothing is counted on it */
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    psd_msg_t m = lies_push(facing(self, 0), huge, sizeof huge);
    cr_assert(send_message(socket, &m, huge, sizeof huge));
    zmq_close(socket);
}

/* Every message is refused for its expected reason: counters reach that number, and exceed it only for reasons that members also
 * cause. */
static void check_counters(const uint64_t *before, const uint64_t *expected, bool exactly)
{
    for (unsigned r = 1; r < PSD_N_REFUSALS; r++) {
        const uint64_t end = cluster_now_ms() + DONE_MS / 4;
        uint64_t risen = 0;
        while ((risen = rejected(r) - before[r]) < expected[r] && cluster_now_ms() < end)
            cluster_nap();
        const bool alone = r != PSD_REFUSAL_DUPLICATE && r != PSD_REFUSAL_CHECKSUM && r != PSD_REFUSAL_CLOCK &&
                           r != PSD_REFUSAL_SHAPE && r != PSD_REFUSAL_INCARNATION &&
                           r != PSD_REFUSAL_VIEW; /* a probe may reach a shard before the log that names the member */
        cr_expect(exactly && alone ? risen == expected[r] : risen >= expected[r], "%s: %llu refused, %llu sent",
                  psd_refusal_name(r), (unsigned long long)risen, (unsigned long long)expected[r]);
    }
}

/* Of the mutants, a quarter of all, some still make sense; at least half must be refused, for whatever
 * reason. */
static void await_refusals(uint64_t wanted)
{
    uint64_t total = 0;
    for (const uint64_t end = cluster_now_ms() + DONE_MS / 4; total < wanted && cluster_now_ms() < end; cluster_nap()) {
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
        const size_t kind = self->sent % lies_n_kinds();
        cr_assert(throw_lie(self, server, kind), "%s: %s", lies_name(kind), zmq_strerror(zmq_errno()));
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
    *self = (stranger_t){ .lies = { .chance = seed, .keys = cluster.keys } };
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
    crew_open(
        &crew, &cluster,
        &(reference_config_t){
            .data = "glyphs:1500", .kind = "mlp", .layers = layers, .n_layers = 3, .batch = BATCH, .seed = SEED, .rule = RULE },
        WORLD);
    for (int i = 0; i < WORLD; i++)
        cr_assert(member_open(members[i], &crew, i));
    for (int i = 0; i < HONEST; i++)
        member_start(&honest[i]);
    cr_assert_eq(pthread_create(&liar.member.thread, NULL, run_liar, &liar), 0);
    cluster_await_steps(&cluster, 20);
    for (unsigned s = 0; s < SERVERS; s++)
        resident[s] = cluster_resident(&cluster.server[s]);
    const uint64_t first = crew_clock(&crew), begun = cluster_now_ms();
    stranger_open(&somebody, seed);
    attack(&somebody, n);
    uint64_t all[PSD_N_REFUSALS], lies = 0;
    for (unsigned r = 1; r < PSD_N_REFUSALS; r++) {
        lies += liar.lies[r];
        all[r] = liar.lies[r] + somebody.expected[r];
    }
    check_counters((uint64_t[PSD_N_REFUSALS]){ 0 }, all, false);
    const uint64_t taken = cluster_now_ms() - begun, rounds = crew_clock(&crew) - first;
    for (unsigned s = 0; s < SERVERS; s++) {
        const size_t now = cluster_resident(&cluster.server[s]);
        cr_expect_leq(now, resident[s] + GROWTH, "server %u grew from %zu to %zu bytes", s, resident[s], now);
        fprintf(stderr, "server %u: %zu MiB before, %zu MiB after\n", s, resident[s] >> 20, now >> 20);
    }
    const uint64_t last = crew_end(&crew);
    for (int i = 0; i < WORLD; i++) {
        member_join(members[i]);
        cr_expect_str_empty(members[i]->failure);
    }
    stranger_close(&somebody);
    cr_expect_gt(rounds, 10, "the job stood still under attack");
    cr_expect(crew_has_weights(&crew, members, last));
    cr_expect_gt(lies, 100);
    for (unsigned s = 0; s < SERVERS; s++)
        cr_expect_eq(cluster_wait(&cluster.server[s], DONE_MS), 0, "server %u ended with %d", s, cluster.server[s].code);
    fprintf(stderr, "%llu messages of %zu kinds by a stranger, %llu lies of a member, %llu rounds in %llu ms\n",
            (unsigned long long)somebody.sent, lies_n_kinds(), (unsigned long long)lies, (unsigned long long)rounds,
            (unsigned long long)taken);
}

Test(hostile, lies_and_garbage_change_nothing_and_are_counted) { expect_nothing_changed(); }

/* The same with a worker's key. */
Test(hostile, nor_do_those_of_somebody_with_a_workers_key)
{
    cluster_make_keys(&cluster);
    expect_nothing_changed();
}
