/* strangers.c - connections without a valid key, made by hand and wrong in every way that a first byte, a greeting, a handshake or
 * a recorded session can be, to a training job with keys. None may be accepted, nothing from them may arrive, the servers may not
 * grow, and the weights must be those of a single undisturbed process. */
#include "tests/faults/siege.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/net/keys.h"
#include "proto/message.h"
#include "tests/support/said.h"
#include "tests/support/dial.h"
#include "tests/support/zmtp.h"

enum {
    SERVERS = 2,
    OPEN = 128, /* this many stay open while more come */
    ANSWER_MS = 10000,
    HANDSHAKE_MS = 2900, /* a server waits at least this long for it; a slower peer is cut off, and reconnects */
    SLICES = 20,         /* between two of them the job is undisturbed */
    WARM = 4,            /* slices before memory is looked at */
    GROWTH = 8 << 20,    /* promised */
    PEACE_MS = 1000,     /* at least, to see how long a round takes; in a share, ten rounds */
    GREETED = ZMTP_GREETING + ZMTP_HELLO
};

/* Bytes that were sent in an accepted session. */
static struct {
    uint8_t initiate[ZMTP_INITIATE], hello[GREETED], messages[2 * ZMTP_MOST];
    size_t n_messages;
} recorded;

typedef struct stranger {
    chaos_t *chaos;
    zmtp_t zmtp;
    int fd;
    unsigned server;
    uint64_t since_ms; /* when it dialled */
    uint8_t bytes[ZMTP_MOST];
    uint64_t refused, slow; /* refused because their key is on no list; cut off before that, because their time was over */
} stranger_t;

static uint64_t below(stranger_t *self, uint64_t n) { return chaos_below(self->chaos, n); }
static uint32_t source(stranger_t *self) { return (uint32_t)below(self, 1 << 24) | 1; }

/* Skip peers that are cut off already. */
static void say(stranger_t *self, const void *bytes, size_t n)
{
    if (send(self->fd, bytes, n, MSG_NOSIGNAL) < 0)
        return;
}

static void flip(stranger_t *self, uint8_t *bytes, size_t n)
{
    for (uint64_t left = 1 + below(self, 8); left; left--)
        bytes[below(self, n)] ^= (uint8_t)(1u << below(self, 8));
}

static void draw(stranger_t *self, uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)below(self, 256);
}

/* ---- attacks ---- */

static void be_silent(stranger_t *self) { (void)self; }

static void talk_nonsense(stranger_t *self)
{
    const size_t n = 1 + below(self, 512);
    draw(self, self->bytes, n);
    say(self, self->bytes, n);
}

static void greet_wrongly(stranger_t *self)
{
    zmtp_greeting(self->bytes, 3, "CURVE");
    zmtp_hello(&self->zmtp, self->bytes + ZMTP_GREETING);
    flip(self, self->bytes, ZMTP_GREETING);
    say(self, self->bytes, GREETED);
}

static void break_off(stranger_t *self)
{
    zmtp_greeting(self->bytes, 3, "CURVE");
    zmtp_hello(&self->zmtp, self->bytes + ZMTP_GREETING);
    say(self, self->bytes, below(self, GREETED));
}

/* Another mechanism or version of ZMTP, and the next frames of its clients: READY or an identity, then a message. */
static void speak_another_way(stranger_t *self)
{
    static const char *const mechanisms[] = { "NULL", "PLAIN", "GSSAPI", "curve", "" };
    static const uint8_t ready[] = "\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06"
                                   "DEALER";
    static const uint8_t message[] = "\x01\x04head\0\0";
    const uint8_t major = (uint8_t)below(self, 5);
    zmtp_greeting(self->bytes, major, mechanisms[below(self, 5)]);
    say(self, self->bytes, major >= 3 ? ZMTP_GREETING : major ? 12 : 10);
    say(self, ready, sizeof ready - 1);
    say(self, message, sizeof message - 1);
}

/* A frame of any kind before the end of the handshake, with a large length. */
static void send_frames_early(stranger_t *self)
{
    zmtp_greeting(self->bytes, 3, "CURVE");
    uint8_t *frame = self->bytes + ZMTP_GREETING;
    const size_t n = below(self, 256);
    draw(self, frame, 9 + n);
    frame[0] = (uint8_t)below(self, 8);
    if (below(self, 2))
        frame[1] = (uint8_t)n;
    say(self, self->bytes, ZMTP_GREETING + 9 + n);
}

static void say_hello_wrongly(stranger_t *self)
{
    zmtp_greeting(self->bytes, 3, "CURVE");
    zmtp_hello(&self->zmtp, self->bytes + ZMTP_GREETING);
    flip(self, self->bytes + ZMTP_GREETING, ZMTP_HELLO);
    say(self, self->bytes, GREETED);
}

static void say_hello_twice(stranger_t *self)
{
    zmtp_greeting(self->bytes, 3, "CURVE");
    zmtp_hello(&self->zmtp, self->bytes + ZMTP_GREETING);
    zmtp_hello(&self->zmtp, self->bytes + GREETED);
    say(self, self->bytes, GREETED + ZMTP_HELLO);
}

static void dial(stranger_t *self, unsigned server, uint32_t source)
{
    self->server = server;
    for (int tries = 0;; tries++) {
        self->since_ms = cluster_now_ms();
        self->fd = zmtp_dial(siege_port[server], source, ANSWER_MS);
        if (self->fd >= 0)
            return;
        if (tries == 3)
            cluster_give_up(&siege_cluster, "nobody answers");
    }
}

/* A correct peer was cut off only because its time was over, so it reconnects. */
static void come_again(stranger_t *self, const char *who, uint32_t source, unsigned times)
{
    const uint64_t age = cluster_now_ms() - self->since_ms;
    if (age < HANDSHAKE_MS || times >= SIEGE_WAIT_MS / HANDSHAKE_MS)
        cluster_give_up(&siege_cluster, "%s is cut off after %llu ms, %u times", who, (unsigned long long)age, times + 1);
    self->slow++;
    close(self->fd);
    dial(self, self->server, source);
}

/* Handshake up to WELCOME, which any peer with the servers' public key gets; false when cut off before. */
static bool await_welcome(stranger_t *self)
{
    if (!zmtp_read(self->fd, self->bytes, ZMTP_GREETING) || !zmtp_read(self->fd, self->bytes, ZMTP_WELCOME))
        return false;
    if (!zmtp_welcome(&self->zmtp, self->bytes))
        cluster_give_up(&siege_cluster, "a good HELLO is answered by something else than WELCOME");
    return true;
}

static bool begin(stranger_t *self)
{
    zmtp_greeting(self->bytes, 3, "CURVE");
    zmtp_hello(&self->zmtp, self->bytes + ZMTP_GREETING);
    say(self, self->bytes, GREETED);
    return await_welcome(self);
}

/* The answer: a command of the handshake, NULL when the connection is closed instead. */
static const char *hear(stranger_t *self)
{
    static char word[16];
    const size_t n = zmtp_read_frame(self->fd, self->bytes), length = n ? self->bytes[0] : 0;
    if (!n || length >= sizeof word || length >= n)
        return NULL;
    memcpy(word, self->bytes + 1, length);
    word[length] = '\0';
    return word;
}

/* Whether they were refused, rather than just cut off. */
static bool expect_no_entry(stranger_t *self, const char *who)
{
    const char *word = hear(self);
    if (word && strcmp(word, "ERROR"))
        cluster_give_up(&siege_cluster, "%s hears %s, seed %llu", who, word, (unsigned long long)self->chaos->seed);
    return word;
}

static void come_as_nobody(stranger_t *self)
{
    for (unsigned times = 0;; times++) {
        if (begin(self)) {
            say(self, self->bytes, zmtp_initiate(&self->zmtp, self->bytes));
            if (expect_no_entry(self, "a user on no list"))
                break;
        }
        come_again(self, "a user on no list", source(self), times);
    }
    self->refused++;
}

/* Data sent before the answer must not be kept for later. */
static void speak_as_nobody(stranger_t *self)
{
    if (!begin(self))
        return;
    say(self, self->bytes, zmtp_initiate(&self->zmtp, self->bytes));
    say(self, self->bytes, zmtp_message(&self->zmtp, "head", 4, true, self->bytes));
    say(self, self->bytes, zmtp_message(&self->zmtp, "", 0, false, self->bytes));
}

static void initiate_wrongly(stranger_t *self)
{
    if (!begin(self))
        return;
    const size_t n = zmtp_initiate(&self->zmtp, self->bytes);
    flip(self, self->bytes, n);
    say(self, self->bytes, below(self, 4) ? n : below(self, n));
}

/* Uses a known public key without its secret. */
static void come_as_another(stranger_t *self)
{
    const zmtp_t own = self->zmtp;
    char text[PSD_KEY_TEXT];
    dial_read_key(&siege_cluster, "w1.pub", text);
    psd_key_decode(self->zmtp.public, text);
    if (begin(self)) {
        say(self, self->bytes, zmtp_initiate(&self->zmtp, self->bytes));
        say(self, self->bytes, zmtp_message(&self->zmtp, "head", 4, true, self->bytes));
        expect_no_entry(self, "a peer that claims to be w1");
    }
    self->zmtp = own;
}

static void send_message_early(stranger_t *self)
{
    if (begin(self))
        say(self, self->bytes, zmtp_message(&self->zmtp, "head", 4, below(self, 2), self->bytes));
}

static void replay(stranger_t *self)
{
    say(self, recorded.hello, GREETED);
    say(self, recorded.initiate, ZMTP_INITIATE);
    say(self, recorded.messages, recorded.n_messages);
}

/* Waits for the answer to the greeting, as the recorded peer did. */
static void replay_slowly(stranger_t *self)
{
    say(self, recorded.hello, GREETED);
    if (!zmtp_read(self->fd, self->bytes, ZMTP_GREETING) || !zmtp_read(self->fd, self->bytes, ZMTP_WELCOME))
        return;
    say(self, recorded.initiate, ZMTP_INITIATE);
    say(self, recorded.messages, recorded.n_messages);
    expect_no_entry(self, "a recorded session");
}

static void replay_into_own_session(stranger_t *self)
{
    if (!begin(self))
        return;
    if (below(self, 2))
        say(self, recorded.initiate, ZMTP_INITIATE);
    else
        say(self, self->bytes, zmtp_initiate(&self->zmtp, self->bytes));
    say(self, recorded.messages, recorded.n_messages);
    expect_no_entry(self, "a recorded message");
}

static const struct kind {
    const char *name;
    void (*come)(stranger_t *self);
} kinds[] = {
    { "silent", be_silent },
    { "nonsense", talk_nonsense },
    { "another greeting", greet_wrongly },
    { "broken off", break_off },
    { "another mechanism or version", speak_another_way },
    { "frames before the handshake", send_frames_early },
    { "another HELLO", say_hello_wrongly },
    { "HELLO twice", say_hello_twice },
    { "a key that is on no list", come_as_nobody },
    { "the same, and a message at once", speak_as_nobody },
    { "another INITIATE", initiate_wrongly },
    { "another's public key", come_as_another },
    { "a message before INITIATE", send_message_early },
    { "a session replayed at once", replay },
    { "a session replayed in its time", replay_slowly },
    { "a session replayed into another", replay_into_own_session },
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

/* ---- the job ---- */

/* Messages refused for any reason, as a stranger's would be. */
static uint64_t rejected(void)
{
    uint64_t n = 0;
    for (unsigned s = 0; s < SERVERS; s++)
        for (unsigned r = 1; r < PSD_N_REFUSALS; r++) {
            char series[96];
            snprintf(series, sizeof series, "psd_messages_rejected_total{shard=\"%u\",reason=\"%s\"}", s, psd_refusal_name(r));
            n += (uint64_t)cluster_metric(&siege_cluster, s, series);
        }
    return n;
}

static void take_key(zmtp_t *zmtp, const char *name)
{
    char file[32], text[PSD_KEY_TEXT];
    dial_read_key(&siege_cluster, "ps.pub", text);
    psd_key_decode(zmtp->server, text);
    snprintf(file, sizeof file, "%s.pub", name);
    dial_read_key(&siege_cluster, file, text);
    psd_key_decode(zmtp->public, text);
    snprintf(file, sizeof file, "%s.key", name);
    dial_read_key(&siege_cluster, file, text);
    psd_key_decode(zmtp->secret, text);
}

/* A session of w1, which is on the list and sends server 0 a message that is refused, because it is of another job. The bytes sent
 * are recorded. This also shows that a message that arrives is counted. */
static void speak_as_listed(stranger_t *self)
{
    static const psd_msg_t hello = { .kind = PSD_MSG_HELLO, .protocol = PSD_PROTOCOL, .seq = 77 };
    uint8_t body[SAID_BYTES];
    const size_t n_body = said_bytes(hello.kind, "another w:1", 0, body);
    const uint64_t before = rejected();
    uint8_t header[PSD_MAX_FRAME_HEADER];
    take_key(&self->zmtp, "w1");
    dial(self, 0, 1);
    zmtp_greeting(recorded.hello, 3, "CURVE");
    for (unsigned times = 0;; times++) {
        zmtp_hello(&self->zmtp, recorded.hello + ZMTP_GREETING);
        say(self, recorded.hello, GREETED);
        if (await_welcome(self)) {
            zmtp_initiate(&self->zmtp, recorded.initiate);
            size_t n = zmtp_message(&self->zmtp, header, psd_msg_seal(&hello, body, n_body, header), true, recorded.messages);
            n += zmtp_message(&self->zmtp, body, n_body, false, recorded.messages + n);
            recorded.n_messages = n;
            say(self, recorded.initiate, ZMTP_INITIATE);
            const char *word = hear(self);
            if (word && !strcmp(word, "READY"))
                break;
            if (word)
                cluster_give_up(&siege_cluster, "w1 is on the list and gets %s", word);
        }
        come_again(self, "w1, who is on the list,", 1, times);
    }
    say(self, recorded.messages, recorded.n_messages);
    const uint64_t end = cluster_now_ms() + SIEGE_WAIT_MS;
    while (rejected() != before + 1)
        if (cluster_now_ms() > end)
            cluster_give_up(&siege_cluster, "the message of w1 is not counted");
        else
            cluster_nap();
    close(self->fd);
    take_key(&self->zmtp, "nobody");
}

static double pace_in_peace(bool whole)
{
    const siege_pace_t pace = siege_pace_begin();
    if (whole)
        usleep(1000 * PEACE_MS);
    return siege_pace_ms(pace);
}

/* ---- the campaign ---- */

static void come(stranger_t *self, uint64_t n, uint64_t *counts)
{
    static int open[OPEN];
    for (uint64_t i = 0; i < n; i++) {
        int *place = &open[i % OPEN];
        if (*place > 0)
            close(*place);
        dial(self, (unsigned)below(self, SERVERS), source(self));
        const uint64_t kind = below(self, N_KINDS);
        kinds[kind].come(self);
        *place = self->fd; /* another one, after it has reconnected */
        counts[kind]++;
    }
    for (unsigned i = 0; i < OPEN; i++) {
        if (open[i] > 0)
            close(open[i]);
        open[i] = 0;
    }
}

void chaos_strangers(chaos_t *self)
{
    static chaos_times_t longer, round;
    stranger_t stranger = { .chaos = self };
    uint64_t counts[N_KINDS] = { 0 }, connecting_ms = 0;
    size_t warm = 0, most = 0;
    siege_begin(SERVERS, true, "");
    speak_as_listed(&stranger);
    const uint64_t arrived = rejected();
    /* Real strangers compute elsewhere, so here they use idle processor time, unless other tests leave none. */
    if (self->whole)
        setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    for (unsigned slice = 0; slice < SLICES; slice++) {
        const double peace = pace_in_peace(self->whole);
        chaos_add(&round, peace);
        const siege_pace_t pace = siege_pace_begin();
        come(&stranger, self->count / SLICES, counts);
        connecting_ms += cluster_now_ms() - pace.since_ms;
        chaos_add(&longer, 100 * (siege_pace_ms(pace) / peace - 1));
        const size_t now = siege_resident();
        if (slice < WARM)
            warm = now > warm ? now : warm;
        most = now > most ? now : most;
    }
    if (rejected() != arrived)
        cluster_give_up(&siege_cluster, "%llu messages of strangers arrived", (unsigned long long)(rejected() - arrived));
    if (!stranger.refused)
        cluster_give_up(&siege_cluster, "nobody was refused by key");
    if (PSD_PATIENCE == 1 && most > warm + GROWTH) /* a sanitizer keeps what is freed */
        cluster_give_up(&siege_cluster, "a server grew from %zu to %zu KiB", warm >> 10, most >> 10);
    speak_as_listed(&stranger); /* and an honest peer can still connect */
    siege_end();
    for (unsigned k = 0; k < N_KINDS; k++)
        fprintf(stderr, "%8llu of %s\n", (unsigned long long)counts[k], kinds[k].name);
    chaos_say(self,
              "%u connections of %d kinds, %.0f a second, %llu refused by key, %llu came again, 0 let in, 0 messages arrived; "
              "a server's memory %zu KiB, at most %+lld KiB; a round takes %.1f ms, %+.1f %% (medians of %d "
              "slices); "
              "SHA-256 equal",
              self->count, N_KINDS, 1e3 * self->count / (double)connecting_ms, (unsigned long long)stranger.refused,
              (unsigned long long)stranger.slow, warm >> 10, ((long long)most - (long long)warm) / 1024,
              chaos_quantile(&round, 0.5), chaos_quantile(&longer, 0.5), SLICES);
}
