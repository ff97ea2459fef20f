/* tcp_proxy.c - psd-tcp-proxy: forwards TCP connections with faults, by a seed: connections are cut at random, and bytes may be
 * lost, held or changed, as its flags specify. `--help` lists them. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/config/usage.h"
#include "common/base/rng.h"

enum { READ = 65536, QUEUE = 1 << 20, DRIP_MS = 10, SILENT_MS = 5000 };

static const char *to = "", *listen_at;
static uint64_t seed, delay_ms, cut_ms, half_open, truncated, stall_ms, stall_for_ms, drip, flip_bytes, rate;

enum { TO, LISTEN, SEED, DELAY, CUT_EVERY, HALF_OPEN, TRUNCATE, STALL_EVERY, STALL_FOR, DRIP, RATE, FLIP_EVERY };
static const psd_option_t flags[] = {
    [TO] = { .key = "to",
             .type = PSD_OPTION_STRING,
             .argument = "HOST:PORT",
             .help = "address to which it forwards connections, IPv4" },
    [LISTEN] = { .key = "listen",
                 .type = PSD_OPTION_STRING,
                 .preset = "127.0.0.1:0",
                 .argument = "HOST:PORT",
                 .help = "address at which it listens; port 0: any free one" },
    [SEED] = { .key = "seed", .type = PSD_OPTION_UINT64, .preset = "1", .argument = "N", .help = "random seed" },
    [DELAY] = { .key = "delay", .type = PSD_OPTION_UINT64, .argument = "MS", .help = "hold data for this time" },
    [CUT_EVERY] = { .key = "cut-every",
                    .type = PSD_OPTION_UINT64,
                    .argument = "MS",
                    .help = "reset each connection after this time, on average" },
    [HALF_OPEN] = { .key = "half-open",
                    .type = PSD_OPTION_UINT64,
                    .argument = "PERCENT",
                    .help = "fraction of cuts that close the far end, and the near one 5 s later" },
    [TRUNCATE] = { .key = "truncate",
                   .type = PSD_OPTION_UINT64,
                   .argument = "PERCENT",
                   .help = "fraction of cuts in the middle of the next data" },
    [STALL_EVERY] = { .key = "stall-every",
                      .type = PSD_OPTION_UINT64,
                      .argument = "MS",
                      .help = "stop forwarding in one direction, at this mean interval" },
    [STALL_FOR] = { .key = "stall-for",
                    .type = PSD_OPTION_UINT64,
                    .preset = "1000",
                    .argument = "MS",
                    .help = "duration of such a stop" },
    [DRIP] = { .key = "drip",
               .type = PSD_OPTION_UINT64,
               .argument = "BYTES",
               .help = "forward at most this many bytes each 10 ms" },
    [RATE] = { .key = "rate",
               .type = PSD_OPTION_UINT64,
               .argument = "BYTES",
               .help = "rate of the link: bytes per second in each direction, over all connections" },
    [FLIP_EVERY] = { .key = "flip-every",
                     .type = PSD_OPTION_UINT64,
                     .argument = "BYTES",
                     .help = "flip one bit in this many, on average" },
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "psd-tcp-proxy",
                                   .words = "",
                                   .does = "forward TCP connections, with the faults that the flags set; on SIGTERM, print counts",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

static void read_flags(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    listen_at = given->value[LISTEN].text;
    seed = given->value[SEED].u;
    delay_ms = given->value[DELAY].u;
    cut_ms = given->value[CUT_EVERY].u;
    half_open = given->value[HALF_OPEN].u;
    truncated = given->value[TRUNCATE].u;
    stall_ms = given->value[STALL_EVERY].u;
    stall_for_ms = given->value[STALL_FOR].u;
    drip = given->value[DRIP].u;
    rate = given->value[RATE].u;
    flip_bytes = given->value[FLIP_EVERY].u;
    if (given->flag[TO])
        to = given->flag[TO];
}

typedef struct chunk {
    struct chunk *next;
    uint64_t due_ms;
    size_t n, at; /* bytes, and how many of them have gone */
    char bytes[];
} chunk_t;

typedef struct pair pair_t;

/* One direction of a connection. */
typedef struct way {
    pair_t *pair;
    uv_tcp_t *from, *to;
    chunk_t *first, **last;
    size_t n_bytes; /* in the queue */
    uv_timer_t timer;
    uint64_t stalls_at_ms, stalled_until_ms;
    bool reading, ended; /* ended: nothing more will come */
} way_t;

struct pair {
    uv_tcp_t near, far;
    uv_timer_t fate;
    way_t way[2];
    int open; /* handles */
    bool closing;
    bool cut_amid; /* at the next chunk */
};

static uv_loop_t *loop;
static uv_tcp_t listener;
static struct sockaddr_in target;
static uint64_t chance;
static double link_free_ms[2]; /* when each direction of the link will have passed the data queued for it */
static uint64_t connections, cuts, half_opens, truncations, stalls, flips, n_bytes;

static uint64_t below(uint64_t n) { return psd_splitmix64(&chance) % n; }

/* ---- ends ---- */

static void one_less(pair_t *pair)
{
    if (--pair->open)
        return;
    for (int i = 0; i < 2; i++)
        for (chunk_t *c = pair->way[i].first, *next; c; c = next) {
            next = c->next;
            free(c);
        }
    free(pair);
}

static void on_closed(uv_handle_t *handle) { one_less(handle->data); }
static void on_timer_closed(uv_handle_t *handle) { one_less(((way_t *)handle->data)->pair); }

static void close_one(uv_handle_t *handle, uv_close_cb then)
{
    if (!uv_is_closing(handle))
        uv_close(handle, then);
}

static void reset_one(uv_tcp_t *tcp)
{
    if (!uv_is_closing((uv_handle_t *)tcp) && uv_tcp_close_reset(tcp, on_closed))
        close_one((uv_handle_t *)tcp, on_closed);
}

static void end_pair(pair_t *pair, bool reset)
{
    if (pair->closing)
        return;
    pair->closing = true;
    if (reset) {
        reset_one(&pair->near);
        reset_one(&pair->far);
    }
    close_one((uv_handle_t *)&pair->near, on_closed);
    close_one((uv_handle_t *)&pair->far, on_closed);
    close_one((uv_handle_t *)&pair->fate, on_closed);
    close_one((uv_handle_t *)&pair->way[0].timer, on_timer_closed);
    close_one((uv_handle_t *)&pair->way[1].timer, on_timer_closed);
}

static void on_silence_over(uv_timer_t *timer) { end_pair(timer->data, true); }

/* Its time has come. */
static void on_fate(uv_timer_t *timer)
{
    pair_t *pair = timer->data;
    const uint64_t lot = below(100);
    if (lot < half_open) {
        half_opens++;
        uv_read_stop((uv_stream_t *)&pair->near);
        uv_read_stop((uv_stream_t *)&pair->far);
        reset_one(&pair->far);
        uv_timer_stop(&pair->way[0].timer);
        uv_timer_stop(&pair->way[1].timer);
        uv_timer_start(&pair->fate, on_silence_over, SILENT_MS, 0);
    } else if (lot < half_open + truncated) {
        pair->cut_amid = true;
    } else {
        cuts++;
        end_pair(pair, true);
    }
}

/* ---- bytes ---- */

typedef struct write {
    uv_write_t request;
    way_t *way;
    chunk_t *chunk; /* owned once it has gone as a whole */
} write_t;

static void forward(way_t *way);

static void on_timer(uv_timer_t *timer) { forward(timer->data); }

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle, (void)suggested;
    chunk_t *chunk = malloc(sizeof *chunk + READ);
    if (!chunk)
        abort();
    *buf = uv_buf_init(chunk->bytes, READ);
}

static void read_if_room(way_t *way)
{
    const bool room = way->n_bytes < QUEUE && !way->ended;
    if (room && !way->reading)
        uv_read_start((uv_stream_t *)way->from, on_alloc, on_read);
    else if (!room && way->reading)
        uv_read_stop((uv_stream_t *)way->from);
    way->reading = room;
}

static void on_written(uv_write_t *request, int status)
{
    write_t *write = (write_t *)request;
    free(write->chunk);
    if (status < 0 && status != UV_ECANCELED)
        end_pair(write->way->pair, false);
    free(write);
}

/* Send the part of the queue that is due. */
static void forward(way_t *way)
{
    const uint64_t now = uv_now(loop);
    while (way->first && !way->pair->closing) {
        chunk_t *chunk = way->first;
        const uint64_t due = chunk->due_ms > way->stalled_until_ms ? chunk->due_ms : way->stalled_until_ms;
        if (now < due) {
            uv_timer_start(&way->timer, on_timer, due - now, 0);
            return;
        }
        if (uv_stream_get_write_queue_size((uv_stream_t *)way->to) > QUEUE) {
            uv_timer_start(&way->timer, on_timer, DRIP_MS, 0);
            return;
        }
        size_t n = chunk->n - chunk->at;
        if (drip && n > drip)
            n = drip;
        if (way->pair->cut_amid)
            n = n > 1 ? 1 + below(n - 1) : n;
        write_t *write = calloc(1, sizeof *write);
        if (!write)
            abort();
        uv_buf_t buf = uv_buf_init(chunk->bytes + chunk->at, (unsigned)n);
        write->way = way;
        chunk->at += n;
        way->n_bytes -= n;
        n_bytes += n;
        if (chunk->at == chunk->n) {
            write->chunk = chunk;
            if (!(way->first = chunk->next))
                way->last = &way->first;
        }
        if (uv_write(&write->request, (uv_stream_t *)way->to, &buf, 1, on_written)) {
            free(write->chunk);
            free(write);
            end_pair(way->pair, false);
            return;
        }
        if (way->pair->cut_amid) {
            truncations++;
            end_pair(way->pair, false); /* data already written is sent first */
            return;
        }
        if (drip) {
            uv_timer_start(&way->timer, on_timer, DRIP_MS, 0);
            break;
        }
    }
    if (way->pair->closing)
        return;
    if (!way->first && way->ended)
        end_pair(way->pair, false);
    else
        read_if_room(way);
}

/* With chance 1 in `often` per unit, whether it happens among `n` of them. */
static bool happens(uint64_t n, uint64_t often) { return often && below(often) < (n < often ? n : often); }

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    pair_t *pair = stream->data;
    way_t *way = &pair->way[stream == (uv_stream_t *)&pair->far];
    chunk_t *chunk = buf->base ? (chunk_t *)(void *)(buf->base - offsetof(chunk_t, bytes)) : NULL;
    if (n <= 0) {
        free(chunk);
        if (n < 0) {
            way->ended = true;
            way->reading = false;
            uv_read_stop(stream);
            forward(way);
        }
        return;
    }
    uint64_t passed_ms = uv_now(loop);
    if (rate) {
        double *const free_ms = &link_free_ms[way == &pair->way[1]];
        *free_ms = (*free_ms > (double)passed_ms ? *free_ms : (double)passed_ms) + 1e3 * (double)n / (double)rate;
        passed_ms = (uint64_t)*free_ms;
    }
    *chunk = (chunk_t){ .due_ms = passed_ms + delay_ms, .n = (size_t)n };
    if (happens((uint64_t)n, flip_bytes)) {
        chunk->bytes[below((uint64_t)n)] ^= (char)(1 << below(8));
        flips++;
    }
    if (stall_ms && uv_now(loop) >= way->stalls_at_ms) {
        way->stalled_until_ms = uv_now(loop) + stall_for_ms;
        way->stalls_at_ms = way->stalled_until_ms + below(2 * stall_ms);
        stalls++;
    }
    *way->last = chunk;
    way->last = &chunk->next;
    way->n_bytes += (size_t)n;
    if (way->first == chunk)
        forward(way);
    if (!pair->closing)
        read_if_room(way);
}

/* ---- connections ---- */

static void on_connected(uv_connect_t *request, int status)
{
    pair_t *pair = request->data;
    free(request);
    if (status < 0) {
        end_pair(pair, true);
        return;
    }
    connections++;
    uv_tcp_nodelay(&pair->near, 1);
    uv_tcp_nodelay(&pair->far, 1);
    read_if_room(&pair->way[0]);
    read_if_room(&pair->way[1]);
    if (cut_ms)
        uv_timer_start(&pair->fate, on_fate, 1 + below(2 * cut_ms), 0);
}

static void init_way(pair_t *pair, int i, uv_tcp_t *from, uv_tcp_t *into)
{
    way_t *way = &pair->way[i];
    *way = (way_t){ .pair = pair, .from = from, .to = into, .last = &way->first };
    uv_timer_init(loop, &way->timer);
    way->timer.data = way;
    way->stalls_at_ms = uv_now(loop) + below(2 * stall_ms + 1);
}

static void on_connection(uv_stream_t *stream, int status)
{
    if (status < 0)
        return;
    pair_t *pair = calloc(1, sizeof *pair);
    uv_connect_t *request = malloc(sizeof *request);
    if (!pair || !request)
        abort();
    uv_tcp_init(loop, &pair->near);
    uv_tcp_init(loop, &pair->far);
    uv_timer_init(loop, &pair->fate);
    init_way(pair, 0, &pair->near, &pair->far);
    init_way(pair, 1, &pair->far, &pair->near);
    pair->near.data = pair->far.data = pair->fate.data = request->data = pair;
    pair->open = 5;
    uv_accept(stream, (uv_stream_t *)&pair->near);
    if (uv_tcp_connect(request, &pair->far, (struct sockaddr *)&target, on_connected)) {
        free(request);
        end_pair(pair, true);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    (void)handle, (void)number;
    printf("connections=%" PRIu64 " cuts=%" PRIu64 " half_open=%" PRIu64 " truncated=%" PRIu64 " stalls=%" PRIu64 " flips=%" PRIu64
           " bytes=%" PRIu64 "\n",
           connections, cuts, half_opens, truncations, stalls, flips, n_bytes);
    exit(0);
}

static bool parse(const char *text, struct sockaddr_in *address)
{
    char host[64];
    int port;
    return sscanf(text, "%63[^:]:%d", host, &port) == 2 && uv_ip4_addr(host, port, address) == 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in here;
    uv_signal_t signals[2];
    char name[64];
    read_flags(argc, argv);
    if (!parse(to, &target) || !parse(listen_at, &here)) {
        fprintf(stderr, "psd-tcp-proxy: --to and --listen take HOST:PORT, not \"%s\", \"%s\"\n", to, listen_at);
        return 64;
    }
    chance = seed;
    signal(SIGPIPE, SIG_IGN);
    loop = uv_default_loop();
    uv_tcp_init(loop, &listener);
    int rc = uv_tcp_bind(&listener, (struct sockaddr *)&here, 0), n = sizeof here;
    if (!rc)
        rc = uv_listen((uv_stream_t *)&listener, 128, on_connection);
    if (rc) {
        fprintf(stderr, "psd-tcp-proxy: cannot listen at %s: %s\n", listen_at, uv_strerror(rc));
        return 74;
    }
    uv_tcp_getsockname(&listener, (struct sockaddr *)&here, &n);
    uv_ip4_name(&here, name, sizeof name);
    printf("proxy ready listen=%s:%d to=%s\n", name, ntohs(here.sin_port), to);
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        uv_signal_init(loop, &signals[i]);
        uv_signal_start(&signals[i], on_signal, i ? SIGINT : SIGTERM);
    }
    return uv_run(loop, UV_RUN_DEFAULT);
}
