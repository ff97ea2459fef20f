/* bench_memory.c - measures messages between two processes of one machine through memory (common/memory/local.h), compared with the
 * least that the machine needs: an eventfd each way, and memcpy. In turns; medians.
 *
 *     bench_memory [TURNS]
 *
 * ping-pong    4 KiB there and back, each copied out of the program's memory, as small messages are one way      96 MiB in
 * messages of 1 MiB, which the receiver copies into its own memory: from the arena, and from private memory */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/memory/local.h"
#include "tests/bench/repeat.h"

enum { PING_BYTES = 4096, PINGS = 2000, MESSAGES = 96, MESSAGE_BYTES = 1 << 20, MOST_TURNS = 1001, PEER = 1 };
enum { PING = 'p', BULK = 'b', LAST = 'l', BELLS = 'e' };
enum { MEMORY, MEAN, EVENTFD, ARENA, PRIVATE, COPY, ROWS };
static const size_t ARENA_BYTES = (size_t)1 << 30;

typedef struct side {
    uv_loop_t loop;
    psd_arena_t *arena;
    psd_local_t *local;
    unsigned char *into; /* of the receiver */
    unsigned n, answers;
    bool is_up;
    const int *bell; /* of the receiver */
} side_t;

static void expect_ok(int rc, const psd_err_t *err)
{
    if (rc != PSD_OK)
        repeat_die("bench_memory: %s", err->text);
}

/* The limit: the receiver sleeps on one eventfd and signals another. */
static void answer_bells(const int bell[2])
{
    uint64_t n;
    for (int i = 0; i < PINGS; i++)
        if (read(bell[0], &n, sizeof n) < 0 || write(bell[1], &n, sizeof n) < 0)
            exit(1);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    side_t *self = arg;
    const char kind = *(const char *)header;
    if (!self->into) {
        self->answers++;
    } else if (kind == PING || kind == BELLS) {
        if (kind == BELLS)
            answer_bells(self->bell);
        psd_local_send(self->local, peer, header, n_header, payload);
    } else {
        memcpy(self->into + (size_t)self->n++ % MESSAGES * MESSAGE_BYTES, payload->data, payload->n_bytes);
        if (kind == LAST)
            psd_local_send(self->local, peer, header, n_header, NULL);
    }
}
static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    repeat_die("bench_memory: %s", why);
}
static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    side_t *self = arg;
    (void)peer;
    self->is_up = link == PSD_LINK_UP;
    if (!self->is_up)
        exit(0);
}

static void start(side_t *self)
{
    psd_err_t err = { 0 };
    uv_loop_init(&self->loop);
    self->arena = psd_arena_new(ARENA_BYTES, &err);
    self->local = self->arena ? psd_local_new(&self->loop, self->arena, 2 * ARENA_BYTES,
                                              &(psd_socket_handler_t){ on_message, on_bad, on_link, self }, &err)
                              : NULL;
    expect_ok(self->local ? PSD_OK : err.code, &err);
}

typedef struct card {
    char name[PSD_HANDOFF_NAME];
    uint8_t token[PSD_TOKEN_BYTES];
} card_t;

static _Noreturn void serve(int card_fd, const int bell[2])
{
    static side_t self;
    card_t card;
    psd_err_t err;
    start(&self);
    self.bell = bell;
    self.into = (unsigned char *)repeat_floats((size_t)MESSAGES * MESSAGE_BYTES / sizeof(float), 0);
    expect_ok(psd_local_listen(self.local, card.name, &err), &err);
    expect_ok(psd_local_expect(self.local, PEER, card.token, &err), &err);
    if (write(card_fd, &card, sizeof card) != sizeof card)
        exit(1);
    for (;;)
        uv_run(&self.loop, UV_RUN_DEFAULT);
}

static void await(side_t *self, unsigned answers)
{
    while (self->answers < answers)
        uv_run(&self->loop, UV_RUN_ONCE);
    self->answers = 0;
}

/* The median of PINGS, and their mean: if a side waits when it should not, the mean is far from the median. */
static double ping_pong(side_t *self, psd_buf_t *payload, double *mean_s)
{
    static double took_s[PINGS];
    double sum_s = 0;
    for (int i = 0; i < PINGS; i++) {
        const double from_s = repeat_now_s();
        psd_local_send(self->local, PEER, &(char){ PING }, 1, payload);
        await(self, 1);
        sum_s += took_s[i] = repeat_now_s() - from_s;
    }
    *mean_s = sum_s / PINGS;
    return repeat_median(took_s, PINGS);
}

static double ring_bells(side_t *self, const int bell[2])
{
    uint64_t n = 1;
    psd_local_send(self->local, PEER, &(char){ BELLS }, 1, NULL);
    if (write(bell[0], &n, sizeof n) < 0 || read(bell[1], &n, sizeof n) < 0)
        exit(1);
    const double from_s = repeat_now_s();
    for (int i = 1; i < PINGS; i++)
        if (write(bell[0], &n, sizeof n) < 0 || read(bell[1], &n, sizeof n) < 0)
            exit(1);
    const double took_s = (repeat_now_s() - from_s) / (PINGS - 1);
    await(self, 1);
    return took_s;
}

static double one_way(side_t *self, psd_buf_t *const message[MESSAGES])
{
    const double from_s = repeat_now_s();
    for (int i = 0; i < MESSAGES; i++)
        psd_local_send(self->local, PEER, &(char){ i + 1 == MESSAGES ? LAST : BULK }, 1, message[i]);
    await(self, 1);
    return (repeat_now_s() - from_s);
}

int main(int argc, char **argv)
{
    static side_t self;
    static double took[ROWS][MOST_TURNS];
    const size_t n = (size_t)MESSAGES * MESSAGE_BYTES;
    const size_t turns = argc > 1 ? strtoul(argv[1], NULL, 10) % MOST_TURNS : 15;
    int cards[2], bell[2] = { eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC) };
    card_t card;
    psd_err_t err = { 0 };
    if (pipe(cards))
        return 1;
    if (repeat_fork() == 0)
        serve(cards[1], bell);
    start(&self);
    if (read(cards[0], &card, sizeof card) != sizeof card)
        return 1;
    expect_ok(psd_local_connect(self.local, card.name, card.token, PEER, &err), &err);
    while (!self.is_up)
        uv_run(&self.loop, UV_RUN_ONCE);

    unsigned char *from = (unsigned char *)repeat_floats(n / sizeof(float), 1);
    unsigned char *to = (unsigned char *)repeat_floats(n / sizeof(float), 0);
    psd_buf_t *ping = psd_buf_new(PING_BYTES), *shared[MESSAGES], *private[MESSAGES];
    memset(ping->data, 1, PING_BYTES);
    for (int i = 0; i < MESSAGES; i++) {
        shared[i] = psd_arena_new_buf(self.arena, MESSAGE_BYTES);
        memset(shared[i]->data, 1, MESSAGE_BYTES);
        private[i] = psd_buf_borrow(from + (size_t)i * MESSAGE_BYTES, MESSAGE_BYTES);
    }
    for (size_t i = 0; i < turns + 2; i++) { /* two to warm up */
        const size_t at = i < 2 ? 0 : i - 2;
        took[MEMORY][at] = ping_pong(&self, ping, &took[MEAN][at]);
        took[EVENTFD][at] = ring_bells(&self, bell);
        took[ARENA][at] = one_way(&self, shared);
        took[PRIVATE][at] = one_way(&self, private);
        const double from_s = repeat_now_s();
        memcpy(to, from, n);
        took[COPY][at] = repeat_now_s() - from_s;
    }
    static const char *const what[] = { "4 KiB there and back, median", "the same, mean",
                                        "eventfd there and back, mean", "96 MiB from the arena",
                                        "96 MiB from private memory",   "memcpy of 96 MiB" };
    for (int i = 0; i < ROWS; i++) {
        const double median_s = repeat_median(took[i], turns);
        if (i < ARENA)
            printf("%-30s %8.2f us\n", what[i], median_s * 1e6);
        else
            printf("%-30s %8.2f GB/s\n", what[i], (double)n / median_s * 1e-9);
    }
    return 0;
}
