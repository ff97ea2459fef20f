/* floods.c - excess of everything that is allowed in small amounts: frames that are announced and never come, messages that never
 * end, countless connections to the job's port and to the status page. The server's memory stays in bounds, its threads do not
 * spin, the job continues, and its final weights are those of a single undisturbed process. */
#include "tests/faults/siege.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/zmtp.h"

enum { MIB = 1 << 20, ANSWER_MS = 10000, IO_MOST = 20 /* percent, promised */ };

/* The share of a core that ZeroMQ's thread takes over a second, in percent. */
static double io_percent(void)
{
    const double before = siege_io_seconds();
    const uint64_t since = cluster_now_ms();
    usleep(1000000);
    return 100e3 * (siege_io_seconds() - before) / (double)(cluster_now_ms() - since);
}

static double expect_calm(const char *after)
{
    const double percent = io_percent();
    if (percent >= IO_MOST * PSD_PATIENCE)
        cluster_give_up(&siege_cluster, "ZeroMQ's thread takes %.0f %% of a core after %s", percent, after);
    return percent;
}

/* ---- unencrypted connections: with keys an attacker must be on the list; after that it is the same ---- */

static uint32_t source(chaos_t *self) { return (uint32_t)chaos_below(self, 1 << 24) | 1; }

static bool say(int fd, const void *bytes, size_t n) { return send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n; }

/* A connection, up to where frames may be sent; -1 when the server does not accept it now. */
static int enter(chaos_t *self, unsigned wait_ms)
{
    static const uint8_t ready[] = "\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06"
                                   "DEALER";
    uint8_t greeting[ZMTP_GREETING];
    const int fd = zmtp_dial(siege_port[0], source(self), wait_ms);
    zmtp_greeting(greeting, 3, "NULL");
    if (fd < 0 || (say(fd, greeting, sizeof greeting) && say(fd, ready, sizeof ready - 1)))
        return fd;
    close(fd);
    return -1;
}

/* ---- frames that are announced ---- */

static void put_length(uint8_t out[8], uint64_t n)
{
    for (size_t i = 0; i < 8; i++)
        out[i] = (uint8_t)(n >> 8 * (7 - i));
}

void chaos_announce(chaos_t *self)
{
    siege_begin(1, false, "--memory-max=300Mi");
    const size_t before = siege_resident();
    const siege_pace_t pace = siege_pace_begin();
    size_t most = 0;
    for (unsigned i = 0; i < self->count; i++) {
        uint8_t frame[9 + 256] = { (uint8_t)(2 | chaos_below(self, 2)), 0 }, answer[256];
        put_length(frame + 1, UINT64_C(8) << (30 + chaos_below(self, 30)));
        const int fd = enter(self, ANSWER_MS);
        ssize_t n = 0;
        say(fd, frame, 9 + chaos_below(self, 256));
        while ((n = recv(fd, answer, sizeof answer, 0)) > 0)
            ;
        if (fd < 0 || (n < 0 && errno == EAGAIN))
            cluster_give_up(&siege_cluster, "a peer that announces a frame of 8 GiB is not cut off, seed %llu",
                            (unsigned long long)self->seed);
        close(fd);
        const size_t now = siege_resident();
        most = now > most ? now : most;
    }
    if (PSD_PATIENCE == 1 && most > before + 8 * MIB)
        cluster_give_up(&siege_cluster, "announced frames took memory: from %zu to %zu KiB", before >> 10, most >> 10);
    const double round = siege_pace_ms(pace), io = expect_calm("announced frames");
    siege_end();
    chaos_say(self,
              "%u frames of 8 GiB or more announced, all cut off, memory %zu KiB, at most %zu KiB, a round took "
              "%.1f ms, ZeroMQ's thread then %.0f %% of a core, SHA-256 equal",
              self->count, before >> 10, most >> 10, round, io);
}

/* ---- messages without end ---- */

/* The least time to send, unless all is sent earlier; and the most time to wait for the server to close, because a busy server
 * reads slowly. */
enum { MAX_MIB = 300, SPELL_MS = 4000, LONGEST_MS = 120000 };

static unsigned trips(void)
{
    char *log = cluster_printed(&siege_cluster, &siege_cluster.server[0], "err");
    unsigned n = 0;
    for (const char *at = log; (at = strstr(at, "id=memory.over")); at++)
        n++;
    free(log);
    return n;
}

typedef struct flood {
    size_t size; /* of its frames */
    uint64_t poured;
    size_t most; /* resident, of the server */
    unsigned trips;
} flood_t;

static size_t look(flood_t *flood)
{
    const size_t resident = siege_resident();
    flood->most = resident > flood->most ? resident : flood->most;
    return resident;
}

/* Send frames of one endless message, as fast as they are accepted: this many bytes, for SPELL_MS, and until the server closes
 * it. */
static void pour(chaos_t *self, flood_t *flood, uint64_t most_bytes)
{
    static uint8_t block[MIB];
    const size_t size = flood->size, head = size < 256 ? 2 : 9, n = sizeof block / (head + size) * (head + size);
    const uint64_t since = cluster_now_ms();
    const unsigned before = trips();
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i += head + size) { /* flags: more, long; then the size */
        block[i] = size < 256 ? 1 : 3;
        for (size_t b = 1; b < head; b++)
            block[i + b] = (uint8_t)(size >> 8 * (head - 1 - b));
    }
    size_t at = 0;
    for (int fd = -1;;) {
        const uint64_t ms = cluster_now_ms() - since;
        const bool enough = bytes >= most_bytes || ms > SPELL_MS;
        if (look(flood) > (size_t)2 * PSD_PATIENCE * MAX_MIB * MIB || (enough && (trips() > before || ms > LONGEST_MS))) {
            if (fd >= 0)
                close(fd);
            break;
        }
        if (fd < 0) {
            fd = enter(self, 200);
            at = 0;
        }
        if (fd < 0) {
            cluster_nap();
            continue;
        }
        const ssize_t sent = send(fd, block + at, n - at, MSG_NOSIGNAL);
        if (sent > 0) {
            at = (at + (size_t)sent) % n; /* continue a frame that was cut in two */
            bytes += (size_t)sent;
        } else if (errno != EAGAIN) {
            close(fd);
            fd = -1;
        }
    }
    flood->poured += bytes;
    flood->trips += trips() - before;
}

/* In turns: frames of the largest size, which come fastest, and frames of two bytes, which take most memory per byte. */
void chaos_endless(chaos_t *self)
{
    flood_t floods[2] = { { .size = MIB - 9 }, { .size = 2 } }, *large = &floods[0], *small = &floods[1];
    char flags[64];
    snprintf(flags, sizeof flags, "--memory-max=%dMi", MAX_MIB);
    siege_begin(1, false, flags);
    const siege_pace_t pace = siege_pace_begin();
    double io = 0;
    for (unsigned k = 0; large->poured + small->poured < (uint64_t)self->count * MIB || k < 2; k++) {
        flood_t *flood = &floods[k % 2];
        pour(self, flood, (uint64_t)self->count * MIB);
        /* A share runs in parallel with other tests, where the server's check may come late. */
        if (PSD_PATIENCE == 1 && flood->most > (size_t)(self->whole ? 1 : 2) * MAX_MIB * MIB)
            cluster_give_up(&siege_cluster, "frames of %zu bytes: %zu MiB resident, of %d", flood->size, flood->most / MIB,
                            MAX_MIB);
        const double now = expect_calm("a message without end");
        io = now > io ? now : io;
        siege_pace_ms(siege_pace_begin()); /* the job continues */
    }
    for (flood_t *flood = floods; flood < floods + 2; flood++) {
        if (!flood->trips && flood->most >= MAX_MIB * MIB)
            cluster_give_up(&siege_cluster, "%llu MiB in frames of %zu bytes, %zu MiB resident, of %d, and nothing was closed",
                            (unsigned long long)(flood->poured / MIB), flood->size, flood->most / MIB, MAX_MIB);
        if (!flood->trips)
            self->skipped = "this machine reads no flood fast enough to fill the memory that a server may have";
    }
    const double round = siege_pace_ms(pace);
    siege_end();
    chaos_say(self,
              "of at most %d MiB: %llu MiB in frames of 1 MiB, closed %u times, %zu MiB resident; %llu MiB in "
              "frames "
              "of 2 bytes, closed %u times, %zu MiB; ZeroMQ's thread after that at most %.0f %% of a core, a round "
              "took %.1f ms, SHA-256 equal",
              MAX_MIB, (unsigned long long)(large->poured / MIB), large->trips, large->most / MIB,
              (unsigned long long)(small->poured / MIB), small->trips, small->most / MIB, io, round);
}

/* ---- more connections than descriptors ---- */

enum { LIMIT = 512 };

/* Open silent connections, all at once, twice as many as the server may have. */
static void come(chaos_t *self, int fd[2 * LIMIT])
{
    for (unsigned i = 0; i < 2 * LIMIT; i++)
        if ((fd[i] = zmtp_dial(siege_port[0], source(self), 0)) < 0)
            cluster_give_up(&siege_cluster, "no connection of the test's own: %s", strerror(errno));
}

/* Close them; returns how many had been made. */
static unsigned go(int fd[2 * LIMIT])
{
    unsigned n = 0;
    for (unsigned i = 0; i < 2 * LIMIT; i++) {
        struct sockaddr_storage peer;
        n += getpeername(fd[i], (struct sockaddr *)&peer, &(socklen_t){ sizeof peer }) == 0;
        close(fd[i]);
    }
    return n;
}

/* An honest peer can connect once the strangers' time is over. */
static double await_door(chaos_t *self)
{
    uint8_t greeting[ZMTP_GREETING];
    const uint64_t since = cluster_now_ms();
    for (bool in = false; !in; cluster_nap()) {
        const int fd = enter(self, 500);
        in = fd >= 0 && zmtp_read(fd, greeting, sizeof greeting);
        if (fd >= 0)
            close(fd);
        if (cluster_now_ms() > since + SIEGE_WAIT_MS)
            cluster_give_up(&siege_cluster, "the server accepts no more connections");
    }
    return (double)(cluster_now_ms() - since);
}

void chaos_crowd(chaos_t *self)
{
    static chaos_times_t back;
    static int fd[2 * LIMIT];
    const struct rlimit ours = { 20 * LIMIT, 20 * LIMIT }, theirs = { LIMIT, LIMIT };
    double io = 0, worst = 0;
    unsigned made = 0;
    struct rlimit now;
    if (getrlimit(RLIMIT_NOFILE, &now) || now.rlim_max < ours.rlim_cur) {
        self->skipped = "a process may not have enough descriptors";
        return;
    }
    now.rlim_cur = now.rlim_max;
    setrlimit(RLIMIT_NOFILE, &now);
    siege_begin(1, false, "");
    prlimit(siege_cluster.server[0].pid, RLIMIT_NOFILE, &theirs, NULL);
    for (unsigned round = 0; round < self->count; round++) {
        const siege_pace_t pace = siege_pace_begin();
        come(self, fd);
        const double percent = expect_calm("more connections than descriptors"), ms = siege_pace_ms(pace);
        io = percent > io ? percent : io;
        worst = ms > worst ? ms : worst;
        made += go(fd);
        chaos_add(&back, await_door(self));
    }
    siege_end();
    chaos_say(self,
              "%u times %d connections to a process that may have %d, %u were made; ZeroMQ's thread at most "
              "%.0f %% "
              "of a core while they were there, a round took at most %.1f ms, SHA-256 equal",
              self->count, 2 * LIMIT, LIMIT, made, io, worst);
    chaos_say_times(self, "others get in after", &back);
}

/* ---- the status page ---- */

enum { SLOW = 200, LETTER_MS = 100, SLOWEST_MS = 2000 };

/* Send a request that never ends, or never read the answer. */
static int ask_slowly(chaos_t *self, uint16_t port)
{
    static const char *const questions[] = { "GET /status HTTP/1.1\r\nHost: localhost\r\nX: ", "G",
                                             "GET /history HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX: ",
                                             "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" };
    const char *question = questions[chaos_below(self, 4)];
    const int fd = zmtp_dial(port, source(self), 0);
    if (fd >= 0)
        say(fd, question, strlen(question));
    return fd;
}

void chaos_slow_guests(chaos_t *self)
{
    static chaos_times_t waits;
    static int fd[SLOW];
    siege_begin(1, false, "");
    const uint16_t port = (uint16_t)atoi(strrchr(siege_cluster.status[0], ':') + 1);
    const siege_pace_t pace = siege_pace_begin();
    const uint64_t end = cluster_now_ms() + 1000 * (uint64_t)self->count;
    unsigned long long came = 0;
    size_t most = 0;
    for (unsigned i = 0; i < SLOW; i++)
        fd[i] = -1;
    while (cluster_now_ms() < end) {
        for (unsigned i = 0; i < SLOW; i++) /* send another letter; reconnect if cut off */
            if (fd[i] < 0 || !say(fd[i], "x", 1)) {
                if (fd[i] >= 0)
                    close(fd[i]);
                fd[i] = ask_slowly(self, port);
                came++;
            }
        const uint64_t asked = cluster_now_ms();
        char *answer = cluster_get(&siege_cluster, 0, "/livez");
        const uint64_t waited = cluster_now_ms() - asked;
        if (!answer || strcmp(answer, "ok\n") || waited > SLOWEST_MS * PSD_PATIENCE)
            cluster_give_up(&siege_cluster, "/livez says %s after %llu ms", answer ? answer : "nothing",
                            (unsigned long long)waited);
        free(answer);
        chaos_add(&waits, (double)waited);
        const size_t now = siege_resident();
        most = now > most ? now : most;
        usleep(1000 * LETTER_MS);
    }
    for (unsigned i = 0; i < SLOW; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    const double round = siege_pace_ms(pace);
    siege_end();
    chaos_say(self,
              "%d at a time who ask a letter at a time, %llu in %u s; memory at most %zu KiB, a round took "
              "%.1f ms, "
              "SHA-256 equal",
              SLOW, came, self->count, most >> 10, round);
    chaos_say_times(self, "/livez answers after", &waits);
}
