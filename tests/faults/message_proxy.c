/* message_proxy.c - psd-message-proxy: between workers and a server, it loses, repeats and reorders whole messages, by a seed. TCP
 * hides a network's faults in packets; this causes in messages the faults that ZeroMQ may cause, and more. Each connection at the
 * near side has a separate one at the far side, so the server sees the same number. */
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/usage.h"
#include "common/base/rng.h"
#include "common/net/transport.h"
#include "proto/message.h"

enum { TICK_MS = 2, MOST_WINDOW = 1024 };

static const char *to = "", *listen_at;
static uint64_t seed, drop, duplicate, window, hold_ms, corrupt;

enum { TO, LISTEN, SEED, DROP, DUPLICATE, WINDOW, HOLD, CORRUPT };
static const psd_option_t flags[] = {
    [TO] = { .key = "to",
             .type = PSD_OPTION_STRING,
             .argument = "ENDPOINT",
             .help = "address to which it forwards messages: tcp://HOST:PORT" },
    [LISTEN] = { .key = "listen",
                 .type = PSD_OPTION_STRING,
                 .preset = "tcp://127.0.0.1:0",
                 .argument = "ENDPOINT",
                 .help = "address at which it listens; port 0: any free one" },
    [SEED] = { .key = "seed", .type = PSD_OPTION_UINT64, .preset = "1", .argument = "N", .help = "random seed" },
    [DROP] = { .key = "drop", .type = PSD_OPTION_UINT64, .argument = "PERCENT", .help = "fraction of messages to lose" },
    [DUPLICATE] = { .key = "duplicate",
                    .type = PSD_OPTION_UINT64,
                    .argument = "PERCENT",
                    .help = "fraction of the others to repeat" },
    [WINDOW] = { .key = "window",
                 .type = PSD_OPTION_UINT64,
                 .preset = "1",
                 .argument = "N",
                 .help = "hold messages until there are N, and send them in any order" },
    [HOLD] = { .key = "hold", .type = PSD_OPTION_UINT64, .preset = "5", .argument = "MS", .help = "but no longer than this" },
    [CORRUPT] = { .key = "corrupt",
                  .type = PSD_OPTION_UINT64,
                  .argument = "PERCENT",
                  .help = "fraction of messages in which to flip a bit, in header or payload" },
    { .key = NULL },
};
static const psd_usage_t usage = {
    .name = "psd-message-proxy",
    .words = "",
    .does = "forward psd's messages to a server and back, with the faults that the flags set; on SIGTERM, print counts",
    .about = "",
    .flag = flags,
    .examples = ""
};

static void read_flags(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    listen_at = given->value[LISTEN].text;
    seed = given->value[SEED].u;
    drop = given->value[DROP].u;
    duplicate = given->value[DUPLICATE].u;
    window = given->value[WINDOW].u;
    hold_ms = given->value[HOLD].u;
    corrupt = given->value[CORRUPT].u;
    if (given->flag[TO])
        to = given->flag[TO];
}

typedef struct message {
    uint64_t number, since_ms;
    psd_buf_t *payload;
    size_t n_header;
    uint8_t header[PSD_MAX_FRAME_HEADER];
} message_t;

typedef struct peer peer_t;

/* One direction of a connection. */
typedef struct way {
    peer_t *peer;
    bool up; /* to the server */
    size_t n;
    uint64_t numbered, highest; /* highest number sent: a lower one is late */
    message_t *held[MOST_WINDOW];
} way_t;

struct peer {
    peer_t *next;
    uint64_t id; /* at the near side */
    psd_socket_t *far;
    way_t up, down;
    bool gone;
};

static uv_loop_t loop;
static psd_net_t *net;
static psd_socket_t *near_side;
static peer_t *peers;
static uint64_t chance;
static uint64_t received, dropped, duplicated, late, corrupted, pushes, connections;

static uint64_t below(uint64_t n) { return psd_splitmix64(&chance) % n; }
static bool lot(uint64_t percent) { return below(100) < percent; }

/* ---- messages ---- */

static void send_one(way_t *way, size_t i)
{
    message_t *message = way->held[i];
    way->held[i] = way->held[--way->n];
    if (message->number < way->highest)
        late++;
    else
        way->highest = message->number;
    psd_socket_t *socket = way->up ? way->peer->far : near_side;
    const int rc = psd_socket_send(socket, way->peer->id, message->header, message->n_header, message->payload);
    if (rc == PSD_EUNAVAILABLE && !way->up)
        way->peer->gone = true;
    psd_buf_unref(&message->payload);
    free(message);
}

/* Flip a bit anywhere. The payload is not shared, because it came from the network. */
static void damage(message_t *message)
{
    const size_t n_payload = message->payload ? message->payload->n_bytes : 0;
    const uint64_t bit = below(8 * (message->n_header + n_payload));
    uint8_t *bytes = bit / 8 < message->n_header ? message->header : message->payload->data;
    bytes[bit / 8 - (bit / 8 < message->n_header ? 0 : message->n_header)] ^= (uint8_t)(1u << bit % 8);
    corrupted++;
}

static void hold(way_t *way, const void *header, size_t n_header, psd_buf_t *payload)
{
    message_t *message = malloc(sizeof *message);
    if (!message)
        abort();
    *message = (message_t){ .number = way->numbered, .since_ms = uv_now(&loop), .n_header = n_header };
    memcpy(message->header, header, n_header);
    if (payload && (!(message->payload = psd_buf_new(payload->n_bytes))))
        abort();
    if (payload)
        memcpy(message->payload->data, payload->data, payload->n_bytes);
    if (lot(corrupt))
        damage(message);
    way->held[way->n++] = message;
    while (way->n >= window)
        send_one(way, below(way->n));
}

static void take(way_t *way, const void *header, size_t n_header, psd_buf_t *payload)
{
    psd_msg_t msg;
    received++;
    way->numbered++;
    if (way->up &&
        psd_msg_open(&msg, header, n_header, payload ? payload->data : NULL, payload ? payload->n_bytes : 0, NULL) == PSD_OK)
        pushes += msg.kind == PSD_MSG_PUSH;
    if (n_header > PSD_MAX_FRAME_HEADER || lot(drop)) {
        dropped++;
        return;
    }
    hold(way, header, n_header, payload);
    if (lot(duplicate)) {
        duplicated++;
        hold(way, header, n_header, payload);
    }
}

static void send_old(way_t *way)
{
    for (size_t i = 0; i < way->n;)
        if (uv_now(&loop) >= way->held[i]->since_ms + hold_ms)
            send_one(way, i);
        else
            i++;
}

/* ---- connections ---- */

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    fprintf(stderr, "psd-message-proxy: %s\n", why);
}

static void on_far(void *arg, uint64_t id, const void *header, size_t n_header, psd_buf_t *payload)
{
    peer_t *peer = arg;
    (void)id;
    take(&peer->down, header, n_header, payload);
}

static peer_t *peer_of(uint64_t id)
{
    psd_err_t err;
    for (peer_t *peer = peers; peer; peer = peer->next)
        if (peer->id == id)
            return peer;
    peer_t *peer = calloc(1, sizeof *peer);
    if (!peer)
        abort();
    peer->id = id;
    peer->up = (way_t){ .peer = peer, .up = true };
    peer->down = (way_t){ .peer = peer };
    peer->far = psd_socket_connect(net, &loop, to, id, &(psd_socket_handler_t){ on_far, on_bad, NULL, peer }, &err);
    if (!peer->far) {
        fprintf(stderr, "psd-message-proxy: %s\n", err.text);
        exit(74);
    }
    peer->next = peers;
    connections++;
    return peers = peer;
}

static void on_near(void *arg, uint64_t id, const void *header, size_t n_header, psd_buf_t *payload)
{
    (void)arg;
    take(&peer_of(id)->up, header, n_header, payload);
}

static void drop_all(way_t *way)
{
    for (; way->n; way->n--) {
        psd_buf_unref(&way->held[way->n - 1]->payload);
        free(way->held[way->n - 1]);
    }
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
    for (peer_t **at = &peers; *at;) {
        peer_t *peer = *at;
        send_old(&peer->up);
        send_old(&peer->down);
        if (!peer->gone) {
            at = &peer->next;
            continue;
        }
        *at = peer->next;
        psd_socket_close(&peer->far, 0);
        drop_all(&peer->up);
        drop_all(&peer->down);
        free(peer);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)handle, (void)number;
    printf("connections=%" PRIu64 " received=%" PRIu64 " pushes=%" PRIu64 " dropped=%" PRIu64 " duplicated=%" PRIu64
           " late=%" PRIu64 " corrupted=%" PRIu64 "\n",
           connections, received, pushes, dropped, duplicated, late, corrupted);
    fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv)
{
    char bound[PSD_ENDPOINT_TEXT];
    psd_err_t err;
    uv_timer_t tick;
    uv_signal_t signals[2];
    read_flags(argc, argv);
    if (window < 1 || window > MOST_WINDOW || !*to) {
        fprintf(stderr, "psd-message-proxy: it needs --to, and a window of 1 to %d\n", MOST_WINDOW);
        return 64;
    }
    chance = seed;
    uv_loop_init(&loop);
    if (!(net = psd_net_new(&(psd_keys_t){ .insecure = true }, &err)) ||
        !(near_side =
              psd_socket_bind(net, &loop, listen_at, &(psd_socket_handler_t){ on_near, on_bad, NULL, NULL }, bound, &err))) {
        fprintf(stderr, "psd-message-proxy: %s\n", err.text);
        return psd_err_exit_code(err.code);
    }
    printf("proxy ready listen=%s to=%s\n", bound + strlen("tcp://"), to);
    fflush(stdout);
    uv_timer_init(&loop, &tick);
    uv_timer_start(&tick, on_tick, TICK_MS, TICK_MS);
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&loop, &signals[i]);
        uv_signal_start(&signals[i], on_signal, i ? SIGINT : SIGTERM);
    }
    return uv_run(&loop, UV_RUN_DEFAULT);
}
