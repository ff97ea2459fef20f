#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/memory/local.h"

enum { PEER = 16, ASK = 'e', TALK = 't' };
static const size_t MOST = (size_t)256 << 20;

/* One end, and what it has received. */
typedef struct end {
    psd_arena_t *arena;
    psd_local_t *local;
    char name[PSD_HANDOFF_NAME];
    unsigned got, up, broken, bad;
    uint64_t last_peer, sum;
    bool in_order, echoes, drops, keeps;
    psd_buf_t *kept; /* the last payload, if it keeps one */
    psd_buf_t *lent; /* to this end; and whether it still was when the link had ended */
    bool was_lent;
    char why[200];
} end_t;

static uv_loop_t loop;
static end_t server, client;
static uint8_t token[PSD_TOKEN_BYTES];
static psd_err_t err;

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    end_t *self = arg;
    unsigned number = 0;
    if (n_header >= 1 + sizeof number)
        memcpy(&number, (const char *)header + 1, sizeof number);
    self->in_order = (self->in_order || !self->got) && number == self->got;
    self->got++;
    self->last_peer = peer;
    for (size_t i = 0; payload && i < payload->n_bytes; i++)
        self->sum += ((const unsigned char *)payload->data)[i];
    if (self->keeps) {
        psd_buf_unref(&self->kept);
        self->kept = psd_buf_ref(payload);
    }
    if (self->echoes)
        psd_local_send(self->local, peer, header, n_header, payload);
    if (self->drops)
        psd_local_drop(self->local, peer);
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    end_t *self = arg;
    (void)peer;
    self->bad++;
    snprintf(self->why, sizeof self->why, "%s", why);
}

static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    end_t *self = arg;
    self->last_peer = peer;
    self->up += link == PSD_LINK_UP;
    self->broken += link == PSD_LINK_BROKEN;
    self->was_lent = self->lent && !psd_buf_is_unique(self->lent);
}

static void open_end(end_t *self, uv_loop_t *at)
{
    *self = (end_t){ .arena = psd_arena_new(MOST, NULL) };
    self->local = psd_local_new(at, self->arena, MOST, &(psd_socket_handler_t){ on_message, on_bad, on_link, self }, NULL);
    cr_assert_not_null(self->local);
}

static void on_patience(uv_timer_t *timer)
{
    (void)timer;
    cr_assert_fail("it never came");
}
static void on_closed(uv_handle_t *handle) { *(bool *)handle->data = true; }

#define UNTIL(condition)                                                                                                           \
    do {                                                                                                                           \
        uv_timer_t patience;                                                                                                       \
        bool is_closed = false;                                                                                                    \
        uv_timer_init(&loop, &patience);                                                                                           \
        uv_timer_start(&patience, on_patience, 60000, 0);                                                                          \
        while (!(condition))                                                                                                       \
            uv_run(&loop, UV_RUN_ONCE);                                                                                            \
        patience.data = &is_closed;                                                                                                \
        uv_close((uv_handle_t *)&patience, on_closed);                                                                             \
        while (!is_closed)                                                                                                         \
            uv_run(&loop, UV_RUN_NOWAIT);                                                                                          \
    } while (0)

static void setup(void)
{
    uv_loop_init(&loop);
    open_end(&server, &loop);
    open_end(&client, &loop);
    cr_assert_eq(psd_local_listen(server.local, server.name, NULL), PSD_OK);
    cr_assert_eq(psd_local_expect(server.local, 7, token, NULL), PSD_OK);
}
static void teardown(void)
{
    psd_local_close(&server.local);
    psd_local_close(&client.local);
    uv_run(&loop, UV_RUN_DEFAULT);
    psd_arena_destroy(&server.arena);
    psd_arena_destroy(&client.arena);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
TestSuite(local, .init = setup, .fini = teardown, .timeout = 600);

static void link_up(void)
{
    cr_assert_eq(psd_local_connect(client.local, server.name, token, PEER, &err), PSD_OK, "%s", err.text);
    UNTIL(client.up && server.up);
}

static int count_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int send_number(end_t *from, uint64_t peer, char kind, unsigned number, psd_buf_t *payload)
{
    char header[1 + sizeof number] = { kind };
    memcpy(header + 1, &number, sizeof number);
    return psd_local_send(from->local, peer, header, sizeof header, payload);
}

/* ---- a process at the other end ---- */

static pid_t child;

/* It listens, admits this process as peer 7, and answers every message; or, if the first message says so, sends `n` and dies at
 * once. */
static void start_child(unsigned n)
{
    int card[2];
    struct {
        char name[PSD_HANDOFF_NAME];
        uint8_t token[PSD_TOKEN_BYTES];
    } said;
    cr_assert_eq(pipe(card), 0);
    if (!(child = fork())) {
        static uv_loop_t own;
        end_t self;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        uv_loop_init(&own);
        open_end(&self, &own);
        psd_local_listen(self.local, said.name, NULL);
        psd_local_expect(self.local, 7, said.token, NULL);
        if (write(card[1], &said, sizeof said) < 0)
            _exit(1);
        self.echoes = !n;
        while (!self.got || self.echoes)
            uv_run(&own, UV_RUN_ONCE);
        psd_buf_t *buf = psd_arena_new_buf(self.arena, 1 << 20);
        memset(buf->data, 1, buf->n_bytes);
        for (unsigned i = 0; i < n; i++)
            send_number(&self, 7, TALK, i, buf);
        kill(getpid(), SIGKILL);
    }
    cr_assert_eq(read(card[0], &said, sizeof said), sizeof said);
    close(card[0]);
    close(card[1]);
    cr_assert_eq(psd_local_connect(client.local, said.name, said.token, PEER, &err), PSD_OK, "%s", err.text);
    UNTIL(client.up);
}

static void end_child(void)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

Test(local, messages_of_every_size_come_back_from_another_process_in_order)
{
    enum { N = 600 };
    psd_buf_t *own = psd_arena_new_buf(client.arena, PSD_CHANNEL_PAYLOAD), *other = psd_buf_new(PSD_CHANNEL_PAYLOAD);
    uint64_t sum = 0;
    memset(own->data, 1, own->n_bytes);
    memset(other->data, 1, other->n_bytes);
    start_child(0);
    for (unsigned i = 0; i < N; i++) {
        const size_t n_bytes = i % 50 ? i * 13 : i % 100 ? PSD_CHANNEL_PAYLOAD : 0;
        psd_buf_t *part = n_bytes ? psd_buf_borrow(i % 2 ? own->data : other->data, n_bytes) : NULL;
        cr_assert_eq(send_number(&client, PEER, ASK, i, part), PSD_OK);
        psd_buf_unref(&part);
        sum += n_bytes;
    }
    UNTIL(client.got == N);
    cr_expect(client.in_order);
    cr_expect_eq(client.sum, sum);
    cr_expect_eq(client.last_peer, PEER);
    cr_expect_eq(psd_local_held(client.local, PEER), 0);
    psd_buf_unref(&own);
    psd_buf_unref(&other);
    end_child();
}

static void on_time(uv_timer_t *timer)
{
    *(bool *)timer->data = true;
    uv_stop(timer->loop);
}

/* Each pause is long enough for both to sleep: an end that stays asleep would never answer. */
Test(local, a_sleeping_peer_is_woken)
{
    static uv_timer_t pause;
    static bool over;
    start_child(0);
    uv_timer_init(&loop, &pause);
    pause.data = &over;
    for (unsigned i = 0; i < 60; i++) {
        over = false;
        uv_timer_start(&pause, on_time, i % 6, 0);
        UNTIL(over);
        send_number(&client, PEER, ASK, i, NULL);
        UNTIL(client.got == i + 1);
    }
    uv_close((uv_handle_t *)&pause, NULL);
    end_child();
}

Test(local, a_process_that_is_killed_ends_its_link_once_and_leaves_nothing)
{
    psd_buf_t *buf = psd_arena_new_buf(client.arena, 1 << 20);
    const int before = count_descriptors();
    start_child(0);
    for (unsigned i = 0; i < 1000; i++)
        send_number(&client, PEER, ASK, i, buf);
    UNTIL(client.got > 10);
    end_child();
    UNTIL(client.broken);
    for (int i = 0; i < 3; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect(client.broken == 1 && client.up == 1 && client.bad == 0);
    cr_expect_eq(psd_local_counts(client.local)->up, 0);
    cr_expect_eq(send_number(&client, PEER, ASK, 0, buf), PSD_EUNAVAILABLE);
    cr_expect(psd_buf_is_unique(buf), "the buffer that was sent is released");
    cr_expect_eq(count_descriptors(), before);
    psd_buf_unref(&buf);
}

Test(local, messages_that_a_process_sent_before_it_died_arrive_before_its_end)
{
    start_child(200);
    send_number(&client, PEER, TALK, 0, NULL);
    UNTIL(client.broken);
    cr_expect(client.got == 200 && client.in_order, "%u", client.got);
    cr_expect_eq(client.sum, 200ull << 20);
    waitpid(child, NULL, 0);
}

Test(local, a_suspended_process_delays_no_other)
{
    enum { N = 2000 };
    start_child(0);
    kill(child, SIGSTOP);
    for (unsigned i = 0; i < N; i++)
        cr_assert_eq(send_number(&client, PEER, ASK, i, NULL), PSD_OK);
    for (int i = 0; i < 100; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    kill(child, SIGCONT);
    UNTIL(client.got == N);
    cr_expect(client.in_order);
    end_child();
}

/* ---- admission ---- */

Test(local, both_ends_hear_that_the_link_is_up_and_messages_have_the_peers_number)
{
    cr_expect_not(psd_local_has(client.local, PEER));
    cr_expect_eq(send_number(&client, PEER, ASK, 0, NULL), PSD_EUNAVAILABLE);
    link_up();
    cr_expect(psd_local_has(client.local, PEER) && psd_local_has(server.local, 7));
    cr_expect_eq(server.last_peer, 7);
    server.echoes = true;
    send_number(&client, PEER, ASK, 0, NULL);
    UNTIL(client.got);
    cr_expect(server.last_peer == 7 && client.last_peer == PEER);
}

Test(local, a_wrong_token_is_refused)
{
    token[31] ^= 1;
    cr_assert_eq(psd_local_connect(client.local, server.name, token, PEER, NULL), PSD_OK);
    UNTIL(client.broken);
    cr_expect(psd_local_counts(server.local)->refused == 1 && !server.up && !server.broken && !client.up);
}

Test(local, a_token_opens_one_link)
{
    link_up();
    cr_assert_eq(psd_local_connect(client.local, server.name, token, PEER + 1, NULL), PSD_OK);
    UNTIL(client.broken);
    cr_expect_eq(psd_local_counts(server.local)->refused, 1);
    cr_expect(psd_local_has(client.local, PEER));
}

Test(local, a_token_is_void_when_another_was_drawn_or_its_peer_was_dropped)
{
    uint8_t second[PSD_TOKEN_BYTES];
    psd_local_expect(server.local, 7, second, NULL);
    psd_local_connect(client.local, server.name, token, PEER, NULL);
    UNTIL(client.broken == 1);
    psd_local_drop(server.local, 7);
    psd_local_connect(client.local, server.name, second, PEER, NULL);
    UNTIL(client.broken == 2);
    cr_expect_eq(psd_local_counts(server.local)->refused, 2);
}

Test(local, a_new_token_replaces_the_link)
{
    link_up();
    psd_local_expect(server.local, 7, token, NULL);
    cr_expect(psd_local_has(server.local, 7), "as long as it was not used");
    psd_local_connect(client.local, server.name, token, PEER, NULL);
    cr_expect_eq(client.broken, 1);
    UNTIL(client.up == 2 && server.up == 2);
    cr_expect_eq(server.broken, 1);
    cr_expect_eq(psd_local_counts(server.local)->up, 1);
}

Test(local, a_new_token_replaces_the_link_that_is_not_yet_up)
{
    psd_local_connect(client.local, server.name, token, PEER, NULL);
    psd_local_expect(server.local, 7, token, NULL);
    psd_local_connect(client.local, server.name, token, PEER, NULL);
    cr_expect_eq(client.broken, 1);
    UNTIL(client.up && server.up);
    cr_expect(client.up == 1 && server.up == 1 && client.broken == 1 && !server.broken);
    cr_expect_eq(psd_local_counts(server.local)->refused, 1, "the older token is void");
    psd_local_expect(server.local, 7, token, NULL);
    psd_local_connect(client.local, server.name, token, PEER, NULL);
    psd_local_drop(client.local, PEER);
    UNTIL(server.broken);
    for (int i = 0; i < 50; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect(client.up == 1 && client.broken == 2 && !psd_local_has(client.local, PEER), "it never comes up");
}

Test(local, a_connection_without_a_listener_fails_at_once)
{
    cr_expect_eq(psd_local_connect(client.local, "psd-nobody", token, PEER, &err), PSD_EUNAVAILABLE);
    cr_expect(*err.text && !client.broken);
}

Test(local, a_peer_is_dropped_by_the_handler_of_its_message)
{
    link_up();
    server.drops = true;
    for (unsigned i = 0; i < 10; i++)
        send_number(&client, PEER, ASK, i, NULL);
    UNTIL(client.broken);
    cr_expect(server.got == 1 && !server.broken && !psd_local_has(server.local, 7));
}

/* Send a payload that the client keeps. */
static psd_buf_t *lend(void)
{
    psd_buf_t *lent = psd_arena_new_buf(server.arena, 1 << 20);
    memset(lent->data, 1, lent->n_bytes);
    client.keeps = true;
    link_up();
    send_number(&server, 7, TALK, 0, lent);
    UNTIL(client.got);
    cr_expect_eq(psd_local_held(client.local, PEER), 1 << 20);
    cr_expect_eq(psd_local_held(client.local, PEER + 1), 0);
    return lent;
}

Test(local, the_side_that_listens_keeps_what_it_has_lent_to_a_dropped_peer_until_that_has_heard_of_it)
{
    psd_buf_t *lent = lend();
    client.lent = lent;
    psd_local_drop(server.local, 7);
    cr_expect_not(psd_local_has(server.local, 7));
    cr_expect_eq(psd_local_counts(server.local)->up, 0);
    cr_expect_not(psd_buf_is_unique(lent));
    UNTIL(client.broken);
    cr_expect(client.was_lent, "when the client hears of the end, its payload is as it was");
    UNTIL(psd_buf_is_unique(lent));
    cr_expect_not(server.broken);
    psd_buf_unref(&client.kept);
    psd_buf_unref(&lent);
}

Test(local, a_new_link_leaves_what_the_one_before_has_lent_until_the_client_has_heard_of_it)
{
    psd_buf_t *lent = lend();
    client.lent = lent;
    psd_local_expect(server.local, 7, token, NULL);
    psd_local_connect(client.local, server.name, token, PEER, NULL);
    cr_expect(client.broken == 1 && client.was_lent);
    UNTIL(client.up == 2 && server.up == 2 && server.broken == 1);
    UNTIL(psd_buf_is_unique(lent));
    psd_buf_unref(&client.kept);
    psd_buf_unref(&lent);
}

Test(local, the_other_side_lends_nothing_any_more_once_it_has_dropped_its_peer)
{
    psd_buf_t *lent = psd_arena_new_buf(client.arena, 1 << 20);
    server.keeps = true;
    link_up();
    send_number(&client, PEER, TALK, 0, lent);
    UNTIL(server.got);
    psd_local_drop(client.local, PEER);
    cr_expect(psd_buf_is_unique(lent), "its caller may write to it at once");
    psd_buf_unref(&server.kept);
    psd_buf_unref(&lent);
}

Test(local, silent_strangers_make_room_when_they_leave)
{
    enum { N = 60 };
    int fd[N], n = 0;
    while (n < N && (fd[n] = psd_handoff_connect(server.name, NULL)) >= 0)
        n++;
    const int before = count_descriptors();
    for (int i = 0; i < 10; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(count_descriptors(), before + 32, "so many are let in at a time");
    while (n)
        close(fd[--n]);
    link_up();
}

Test(local, one_that_is_silent_in_the_handshake_is_given_up_after_three_seconds_on_either_side)
{
    char name[PSD_HANDOFF_NAME];
    const int listener = psd_handoff_listen(name, NULL), stranger = psd_handoff_connect(server.name, NULL);
    const uint64_t begun = uv_hrtime();
    cr_assert(listener >= 0 && stranger >= 0);
    cr_assert_eq(psd_local_connect(client.local, name, token, PEER, NULL), PSD_OK);
    UNTIL(client.broken && psd_local_counts(server.local)->refused);
    cr_expect_geq(uv_hrtime() - begun, UINT64_C(2800000000));
    cr_expect(client.broken == 1 && !client.bad && !client.up && !server.broken && !server.bad);
    close(listener);
    close(stranger);
}

Test(local, a_message_that_found_no_memory_is_sent_when_there_is_some_although_nothing_else_happens)
{
    static psd_buf_t *all[512];
    size_t n = 0;
    psd_buf_t *own = psd_buf_new(1 << 20);
    memset(own->data, 1, own->n_bytes);
    link_up();
    while (n < 512 && (all[n] = psd_arena_new_buf(client.arena, 1 << 20)))
        n++;
    cr_assert(n > 0 && n < 512);
    cr_assert_eq(send_number(&client, PEER, TALK, 0, own), PSD_OK);
    for (int i = 0; i < 10; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_eq(server.got, 0);
    while (n)
        psd_buf_unref(&all[--n]);
    UNTIL(server.got);
    cr_expect_eq(server.sum, 1 << 20);
    psd_buf_unref(&own);
}

Test(local, without_a_free_descriptor_it_waits_and_then_lets_in)
{
    struct rlimit all, few;
    getrlimit(RLIMIT_NOFILE, &all);
    const int stranger = psd_handoff_connect(server.name, NULL);
    few = (struct rlimit){ stranger + 1, all.rlim_max };
    setrlimit(RLIMIT_NOFILE, &few);
    unsigned turns = 0;
    for (uint64_t until = uv_hrtime() + 300000000; uv_hrtime() < until; turns++)
        uv_run(&loop, UV_RUN_ONCE);
    cr_expect_lt(turns, 100, "it does not spin");
    setrlimit(RLIMIT_NOFILE, &all);
    link_up();
    close(stranger);
}

/* ---- lies ---- */

typedef struct liar {
    int fd;
    psd_segment_t mine;
    psd_board_t *board;
} liar_t;

static const uint8_t *hello(uint8_t kind, uint8_t version)
{
    static uint8_t packet[2 + PSD_TOKEN_BYTES];
    packet[0] = kind;
    packet[1] = version;
    memcpy(packet + 2, token, PSD_TOKEN_BYTES);
    return packet;
}

static int unsealed(void)
{
    const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(fd, psd_board_bytes()), 0);
    return fd;
}

Test(local, a_peer_with_another_handshake_is_refused_and_nothing_stays_open)
{
    psd_segment_t board, small;
    psd_segment_make(&board, psd_board_bytes(), NULL);
    psd_segment_make(&small, 4096, NULL);
    const struct {
        uint8_t kind, version;
        size_t n_bytes;
        int fd;
    } cases[] = {
        { 'W', 1, 34, board.fd }, { 'H', 2, 34, board.fd },   { 'H', 1, 33, board.fd }, { '!', 1, 1, -1 },
        { 'H', 1, 34, -1 },       { 'H', 1, 34, unsealed() }, { 'H', 1, 34, small.fd }, { 'H', 1, 34, 0 },
    };
    const int before = count_descriptors();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        psd_local_expect(server.local, 7, token, NULL);
        const int fd = psd_handoff_connect(server.name, NULL);
        psd_handoff_send(fd, hello(cases[i].kind, cases[i].version), cases[i].n_bytes, cases[i].fd);
        UNTIL(psd_local_counts(server.local)->refused == i + 1);
        close(fd);
        cr_expect_eq(count_descriptors(), before, "case %zu", i);
    }
    cr_expect(!server.up && !server.bad);
    psd_segment_close(&board);
    psd_segment_close(&small);
}

static void let_liar_in(liar_t *self)
{
    uint8_t packet[PSD_HANDOFF_PACKET];
    int board = -1;
    psd_segment_make(&self->mine, psd_board_bytes(), NULL);
    self->board = (psd_board_t *)self->mine.at;
    self->fd = psd_handoff_connect(server.name, NULL);
    psd_handoff_send(self->fd, hello('H', 1), 2 + PSD_TOKEN_BYTES, self->mine.fd);
    UNTIL(server.up);
    cr_assert_eq(psd_handoff_receive(self->fd, packet, &board, NULL), 2 + PSD_TOKEN_BYTES);
    close(board);
}

static void wake(liar_t *self) { psd_handoff_send(self->fd, "!", 1, -1); }
static void claim_too_much(liar_t *self) { self->board->sent = 300; }
static void claim_a_segment(liar_t *self)
{
    self->board->slot[0].n_header = 1;
    self->board->slot[0].n_bytes = 100;
    self->board->sent = 1;
}
static void give_back_nothing(liar_t *self) { self->board->given = 1; }
static void pass_a_file(liar_t *self)
{
    const int fd = open("/dev/null", O_RDONLY);
    psd_handoff_send(self->fd, "S\0\0\0\0", 5, fd);
    close(fd);
}
static void pass_unsealed(liar_t *self)
{
    const int fd = unsealed();
    psd_handoff_send(self->fd, "S\0\0\0\0", 5, fd);
    close(fd);
}
static void talk(liar_t *self) { psd_handoff_send(self->fd, "blah", 4, -1); }

Test(local, a_peer_that_lies_is_cut_off_with_a_sentence_and_counted)
{
    static const struct {
        void (*lie)(liar_t *self);
        const char *says;
    } cases[] = { { claim_too_much, "it has sent 300 messages" },
                  { claim_a_segment, "a payload in segment 0 of 0" },
                  { give_back_nothing, "it gives back 1 payloads" },
                  { pass_a_file, "is not memory" },
                  { pass_unsealed, "smaller or larger" },
                  { talk, "neither a wake nor a segment" } };
    const int before = count_descriptors();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        liar_t liar;
        server.up = server.broken = server.bad = 0;
        psd_local_expect(server.local, 7, token, NULL);
        let_liar_in(&liar);
        cases[i].lie(&liar);
        wake(&liar);
        UNTIL(server.broken);
        cr_expect_eq(server.bad, 1);
        cr_expect(strstr(server.why, cases[i].says), "%s", server.why);
        cr_expect_eq(psd_local_counts(server.local)->lies, i + 1);
        close(liar.fd);
        psd_segment_close(&liar.mine);
        cr_expect_eq(count_descriptors(), before);
    }
}

Test(local, to_a_peer_that_has_lied_nothing_is_sent_any_more_even_before_it_is_cut_off)
{
    liar_t liar;
    let_liar_in(&liar);
    give_back_nothing(&liar);
    cr_expect_eq(send_number(&server, 7, TALK, 0, NULL), PSD_EUNAVAILABLE);
    UNTIL(server.broken);
    cr_expect(server.bad == 1 && psd_local_counts(server.local)->lies == 1);
    close(liar.fd);
    psd_segment_close(&liar.mine);
}

Test(local, what_was_lent_to_a_dropped_peer_stays_until_that_has_closed_whatever_it_says)
{
    liar_t liar;
    psd_buf_t *lent = psd_arena_new_buf(server.arena, 1 << 20);
    let_liar_in(&liar);
    cr_assert_eq(send_number(&server, 7, TALK, 0, lent), PSD_OK);
    psd_local_drop(server.local, 7);
    wake(&liar);
    for (int i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    cr_expect_not(psd_buf_is_unique(lent));
    close(liar.fd);
    UNTIL(psd_buf_is_unique(lent));
    psd_segment_close(&liar.mine);
    psd_buf_unref(&lent);
}

Test(local, endless_wakes_do_not_keep_other_work_waiting)
{
    liar_t liar;
    let_liar_in(&liar);
    for (int i = 0; i < 100; i++) {
        for (int n = 0; n < 1000; n++)
            wake(&liar);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    psd_local_expect(server.local, 8, token, NULL);
    server.up = 0;
    link_up();
    close(liar.fd);
    psd_segment_close(&liar.mine);
}

Test(local, a_server_that_lies_is_cut_off_too)
{
    uint8_t packet[PSD_HANDOFF_PACKET];
    char name[PSD_HANDOFF_NAME];
    int board;
    const int listener = psd_handoff_listen(name, NULL), file = unsealed();
    psd_local_connect(client.local, name, token, PEER, NULL);
    const int fd = psd_handoff_accept(listener, NULL);
    cr_assert_geq(psd_handoff_receive(fd, packet, &board, NULL), 0);
    cr_expect_eq(memcmp(packet, hello('H', 1), 34), 0);
    psd_handoff_send(fd, hello('W', 1), 34, file);
    UNTIL(client.broken);
    cr_expect(client.bad == 1 && strstr(client.why, "smaller or larger"), "%s", client.why);
}
