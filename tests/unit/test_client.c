#include <criterion/criterion.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/crc32c.h"
#include "common/memory/local.h"
#include "proto/actions.h"
#include "psd/worker.h"
#include "tests/support/fake_server.h"

/* The public library against a job of one server, which a thread of this test plays: each message that a call leads to is a line. */

enum { RUN = 9, WORKER = 3, INCARNATION = 17, VIEW = 4, RANK = 2, WORLD = 5, MAX_PARTS = 8, DONE_MS = 600000, PATIENCE_S = 60 };

#define BIT(kind) (UINT64_C(1) << PSD_MSG_##kind)

static uv_loop_t loop;
static uv_async_t stop;
static pthread_t thread;
static fake_server_t server;
static psd_worker_t *worker;

/* All that both threads use. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char lines[1 << 16]; /* of what was heard since the test has last looked */
    uint64_t mute;       /* kinds that are not answered, a bit each */
    psd_msg_t instead;   /* the answer to the next message of the kind `instead_of` */
    psd_kind_t instead_of;
    uint32_t heartbeat_code; /* in answers to heartbeats */
    bool has_figures;        /* of tensors, told with the first weights */
    char logged[1 << 14];    /* lines of the library, each as LEVEL ID LINE */
} play = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* The server's own: the test sets some of it before it connects. */
static psd_cluster_t cluster;
static psd_partition_t map;
static float weight[MAX_PARTS][16];
static uint64_t run, nonce, clock_done, samples_done;
static uint32_t n_parts, inits, pushes;
static char last_of[64][600]; /* the last line of each kind that is repeated until it is answered */
/* Shared memory, which it offers to a worker that reports "offer", and ends for one that reports "end". */
static psd_arena_t *arena;
static psd_local_t *memory;
static char memory_name[PSD_HANDOFF_NAME];
static bool by_memory; /* the message that it hears has come that way */
static atomic_uint memory_ends;
static bool gathers; /* rounds that are to make a step together with later ones */

/* ---- what was heard, in words ---- */

static void add(char *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(char *line, const char *format, ...)
{
    const size_t n = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, 600 - n, format, args);
    va_end(args);
}

static void add_tensors(char *line, const psd_tensor_list_t *list)
{
    for (uint32_t i = 0; i < list->n; i++) {
        add(line, " %s[", list->tensor[i].name);
        for (uint32_t d = 0; d < list->tensor[i].n_dims; d++)
            add(line, "%s%" PRIu64, d ? "," : "", list->tensor[i].dim[d]);
        add(line, "]");
        if (list->inherited)
            add(line, "+%" PRIu64 "/%x", list->inherited[i].t, list->inherited[i].arrays);
    }
    add(line, " of %" PRIu64 " rows", list->rows);
}

static void add_body(char *line, const psd_msg_t *msg, const psd_buf_t *body)
{
    switch (psd_kind_payload(msg->kind)) {
    case PSD_PAYLOAD_HELLO:
        add(line, " job=%s name=%s", psd_body_hello(body)->job, psd_body_hello(body)->name);
        break;
    case PSD_PAYLOAD_TENSORS:
        add_tensors(line, psd_body_tensors(body));
        break;
    case PSD_PAYLOAD_PART:
        for (size_t i = 0; body && i < body->n_bytes / sizeof(float) && i < msg->n_elements; i++)
            add(line, " %g", (double)((const float *)body->data)[i]);
        if (msg->chunks) /* those that have a gradient */
            add(line, " of %x", ((const uint8_t *)body->data)[msg->n_elements * sizeof(float)]);
        if (body && msg->checksum != (by_memory ? 0 : psd_crc32c(body->data, body->n_bytes)))
            add(line, " with checksum %x", msg->checksum);
        break;
    default:
        break;
    }
}

/* Fields that have the value that every message must have are left out. */
static void describe(char line[600], const psd_msg_t *msg, const psd_buf_t *body)
{
    const bool joins = msg->kind == PSD_MSG_HELLO;
    line[0] = '\0';
    add(line, "%s", psd_kind_name(msg->kind));
    if (!joins && (msg->job != run || msg->worker != WORKER || msg->incarnation != INCARNATION))
        add(line, " from=%" PRIu64 ".%u.%" PRIu64, msg->job, msg->worker, msg->incarnation);
    if (msg->seq && msg->seq != nonce)
        add(line, " seq=%" PRIu64, msg->seq);
    if (msg->clock)
        add(line, " clock=%" PRIu64, msg->clock);
    if (msg->base_version)
        add(line, " base=%" PRIu64, msg->base_version);
    if (msg->parts)
        add(line, " part=%u/%u", msg->part, msg->parts);
    if (msg->samples)
        add(line, " samples=%" PRIu64 " loss=%g", msg->samples, msg->loss);
    if (msg->code)
        add(line, " code=%u", msg->code);
    if (msg->value != 0 && msg->kind != PSD_MSG_PUSH) /* there it is a time */
        add(line, " value=%g", msg->value);
    if (msg->chunks)
        add(line, " chunks=%u", msg->chunks);
    if (msg->text[0])
        add(line, " \"%s\"", msg->text);
    add_body(line, msg, body);
    add(line, by_memory ? " by memory\n" : "\n");
}

/* Heartbeats and probes come when time has passed, and the rest may be repeated. */
static void note(const psd_msg_t *msg, const psd_buf_t *body)
{
    const uint64_t timed = BIT(HEARTBEAT) | BIT(PROBE),
                   repeated = BIT(HELLO) | BIT(REGISTER) | BIT(ATTACH) | BIT(SETTING) | BIT(LEAVE);
    char line[600];
    describe(line, msg, body);
    if ((timed >> msg->kind & 1) || ((repeated >> msg->kind & 1) && !strcmp(line, last_of[msg->kind])))
        return;
    snprintf(last_of[msg->kind], sizeof last_of[0], "%s", line);
    pthread_mutex_lock(&play.lock);
    strncat(play.lines, line, sizeof play.lines - strlen(play.lines) - 1);
    pthread_cond_signal(&play.changed);
    pthread_mutex_unlock(&play.lock);
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* Wait until the server has heard as many messages as there are lines, since the last time, and compare them. */
static void expect_heard_at(int line, const char *lines)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&play.lock);
    while (count_lines(play.lines) < count_lines(lines) && pthread_cond_timedwait(&play.changed, &play.lock, &end) == 0)
        ;
    cr_expect_str_eq(play.lines, lines, "line %d: the server has heard:\n%s", line, play.lines);
    play.lines[0] = '\0';
    pthread_mutex_unlock(&play.lock);
}
#define expect_heard(lines) expect_heard_at(__LINE__, lines)

/* ---- the server ---- */

static psd_msg_t answer(psd_kind_t kind)
{
    return (psd_msg_t){ .kind = kind, .job = run, .worker = WORKER, .incarnation = INCARNATION };
}

static void send_weights(void)
{
    psd_msg_t msg = answer(PSD_MSG_WEIGHTS);
    msg.view_id = VIEW;
    msg.clock = clock_done;
    msg.version = 100 + clock_done;
    msg.rank = RANK;
    msg.world = WORLD;
    msg.loss = 0.25 + (double)clock_done;
    msg.lr = 0.5;
    msg.value = (double)samples_done;
    msg.code = gathers ? PSD_WEIGHTS_GATHERED : 0;
    msg.parts = n_parts;
    for (msg.part = 0; msg.part < n_parts; msg.part++)
        fake_server_send_floats(&server, &msg, weight[msg.part], map.part[0][msg.part].n);
}

static void send_figures(void)
{
    double figures[3 * 5];
    psd_msg_t msg = answer(PSD_MSG_HEALTH);
    for (int i = 0; i < 3 * 5; i++)
        figures[i] = 1 + i / 16.0;
    msg.version = 77;
    msg.parts = 3;
    msg.n_elements = 5;
    psd_buf_t *body = psd_payload_copy(figures, sizeof figures);
    fake_server_send(&server, &msg, body);
    psd_buf_unref(&body);
}

static void take_registration(const psd_tensor_list_t *list)
{
    psd_msg_t registered = answer(PSD_MSG_REGISTERED), attached = answer(PSD_MSG_ATTACHED), wanted = answer(PSD_MSG_INIT_WANTED);
    psd_extent_t *extents = psd_tensors_extents(list);
    psd_err_t err;
    psd_partition_clear(&map);
    cr_assert_eq(psd_partition_cut(&map, extents, list->n, 1, cluster.settings.part_elements, &err), PSD_OK, "%s", err.text);
    free(extents);
    n_parts = map.n_parts[0];
    inits = pushes = 0;
    fake_server_send(&server, &registered, NULL);
    attached.parts = n_parts;
    fake_server_send(&server, &attached, NULL);
    for (wanted.code = list->inherited ? 1 : 3; wanted.code < 3; wanted.code++) { /* the arrays of adam */
        wanted.seq++;
        fake_server_send_parts(&server, &wanted, n_parts);
    }
    wanted.code = 0;
    wanted.seq++;
    if (!clock_done)
        fake_server_send_parts(&server, &wanted, n_parts);
    else
        send_weights();
    if (play.has_figures)
        send_figures();
}

/* The gradient of a part, times the rate, is what its weights lose. */
static void take_push(const psd_msg_t *msg, const psd_buf_t *body)
{
    for (uint32_t i = 0; body && i < msg->n_elements; i++)
        weight[msg->part][i] -= 0.5f * ((const float *)body->data)[i];
    pushes++;
    if (pushes < (msg->samples ? n_parts : 1))
        return;
    pushes = 0;
    clock_done = msg->clock;
    samples_done += msg->samples;
    send_weights();
}

static void on_memory(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload);

static void on_memory_bad(void *arg, uint64_t peer, const char *why)
{
    (void)arg, (void)peer;
    cr_expect_fail("%s", why);
}

static void on_memory_link(void *arg, uint64_t peer, psd_link_t link)
{
    (void)arg, (void)peer;
    memory_ends += link != PSD_LINK_UP;
}

static void offer_memory(void)
{
    const psd_socket_handler_t handler = { on_memory, on_memory_bad, on_memory_link, NULL };
    psd_msg_t msg = answer(PSD_MSG_OFFER);
    psd_offer_t offer = { .name = "" };
    psd_err_t err;
    if (!memory) {
        cr_assert(arena = psd_arena_new((size_t)1 << 24, &err));
        cr_assert(memory = psd_local_new(&loop, arena, (size_t)1 << 30, &handler, &err));
        cr_assert_eq(psd_local_listen(memory, memory_name, &err), PSD_OK, "%s", err.text);
    }
    snprintf(offer.name, sizeof offer.name, "%.40s", memory_name);
    cr_assert_eq(psd_local_expect(memory, 7, offer.token, &err), PSD_OK, "%s", err.text);
    psd_buf_t *body = psd_body_of_offer(&offer);
    fake_server_send(&server, &msg, body);
    psd_buf_unref(&body);
}

static void take_pull(void)
{
    psd_msg_t msg = answer(PSD_MSG_SLOW);
    msg.parts = n_parts;
    msg.seq = 1;
    for (msg.part = 0; msg.part < n_parts; msg.part++)
        fake_server_send_floats(&server, &msg, weight[msg.part], map.part[0][msg.part].n);
}

static void welcome(uint64_t seq)
{
    psd_msg_t msg = answer(PSD_MSG_WELCOME);
    msg.seq = nonce = seq;
    memcpy(cluster.endpoint[0], server.at, sizeof server.at);
    fake_server_send_cluster(&server, &msg, &cluster);
}

static void reply(const psd_msg_t *msg, psd_buf_t *body)
{
    psd_msg_t set = answer(PSD_MSG_SETTING), beat = answer(PSD_MSG_HEARTBEAT), left = answer(PSD_MSG_LEFT);
    switch (msg->kind) {
    case PSD_MSG_HELLO:
        welcome(msg->seq);
        break;
    case PSD_MSG_REGISTER:
        take_registration(psd_body_tensors(body));
        break;
    case PSD_MSG_INIT:
        if (!msg->code)
            memcpy(weight[msg->part], body->data, body->n_bytes);
        inits += !msg->code;
        if (inits == n_parts)
            send_weights();
        break;
    case PSD_MSG_PUSH:
        take_push(msg, body);
        break;
    case PSD_MSG_PULL:
        take_pull();
        break;
    case PSD_MSG_REPORT:
        if (!strcmp(msg->text, "offer"))
            offer_memory();
        if (!strcmp(msg->text, "end"))
            psd_local_drop(memory, 7);
        break;
    case PSD_MSG_SETTING:
        set.code = msg->code;
        fake_server_send(&server, &set, NULL);
        break;
    case PSD_MSG_HEARTBEAT:
        beat.code = play.heartbeat_code;
        fake_server_send(&server, &beat, NULL);
        break;
    case PSD_MSG_LEAVE:
        fake_server_send(&server, &left, NULL);
        break;
    default:
        break;
    }
}

static void on_heard(fake_server_t *self, const psd_msg_t *msg, psd_buf_t *body)
{
    (void)self;
    if (msg->kind == PSD_MSG_HELLO)
        nonce = msg->seq;
    note(msg, body);
    pthread_mutex_lock(&play.lock);
    const bool is_mute = play.mute >> msg->kind & 1;
    psd_msg_t instead = { .text = "" };
    if (play.instead_of && play.instead_of == msg->kind) {
        instead = play.instead;
        play.instead_of = (psd_kind_t)0;
    }
    pthread_mutex_unlock(&play.lock);
    if (!instead.kind) {
        if (!is_mute)
            reply(msg, body);
        return;
    }
    if (instead.code == PSD_REFUSAL_RUN) { /* the servers have gone back to what they have */
        run += 2;
        clock_done = 40;
    }
    instead.job = run;
    instead.worker = WORKER;
    instead.incarnation = INCARNATION;
    fake_server_send(&server, &instead, NULL);
}

static void on_memory(void *arg, uint64_t peer, const void *header, size_t n, psd_buf_t *payload)
{
    psd_msg_t msg;
    psd_buf_t *body;
    psd_err_t err;
    (void)arg;
    cr_assert_eq(psd_wire_read(&msg, &body, header, n, payload, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(peer, 7);
    by_memory = true;
    on_heard(&server, &msg, body);
    by_memory = false;
    psd_buf_unref(&body);
}

static void mute(uint64_t kinds)
{
    pthread_mutex_lock(&play.lock);
    play.mute = kinds;
    pthread_mutex_unlock(&play.lock);
}

/* The next message of this kind is answered so. */
static void answer_instead(psd_kind_t kind, const psd_msg_t *msg)
{
    pthread_mutex_lock(&play.lock);
    play.instead_of = kind;
    play.instead = *msg;
    pthread_mutex_unlock(&play.lock);
}

static void *serve(void *arg)
{
    (void)arg;
    uv_run(&loop, UV_RUN_DEFAULT);
    return NULL;
}

static void on_stop(uv_async_t *async)
{
    fake_server_close(&server);
    psd_local_close(&memory);
    uv_close((uv_handle_t *)async, NULL);
}

static void setup(void)
{
    run = RUN;
    uv_loop_init(&loop);
    uv_async_init(&loop, &stop, on_stop);
    fake_server_open(&server, &loop, on_heard);
    cluster =
        (psd_cluster_t){ .n_servers = 1,
                         .settings = { .text = "servers=1 mode=bsp",
                                       .mode = "bsp",
                                       .optimizer = "adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, weight_decay=0, amsgrad=0)",
                                       .lr_rule = "inverse",
                                       .groups = "b(lr_mult=0.25, clip=0); c(freeze=1)",
                                       .schedule = "constant()",
                                       .schedule_unit = "sample",
                                       .lr = 0.125,
                                       .max_staleness = 11,
                                       .clip_value = 13,
                                       .clip_norm = 14,
                                       .accumulate = 6,
                                       .lease_ms = 900,
                                       .part_elements = 4,
                                       .in_rounds = true } };
    cr_assert_eq(pthread_create(&thread, NULL, serve, NULL), 0);
}

static void teardown(void)
{
    psd_worker_close(&worker);
    uv_async_send(&stop);
    pthread_join(thread, NULL);
    fake_server_destroy(&server);
    if (arena)
        psd_arena_destroy(&arena);
    cr_expect_eq(uv_loop_close(&loop), 0);
    psd_partition_clear(&map);
}
TestSuite(client, .init = setup, .fini = teardown, .timeout = 120);

/* ---- the program ---- */

static float a[2], b[3], c;
static const uint64_t two = 2, three = 3;
static const psd_tensor_t tensors[] = { { "a", &two, 1, a }, { "b", &three, 1, b }, { "c", NULL, 0, &c } };

static void on_line(void *arg, int level, const char *id, const char *line)
{
    cr_expect_eq(arg, &play);
    pthread_mutex_lock(&play.lock);
    const size_t n = strlen(play.logged);
    snprintf(play.logged + n, sizeof play.logged - n, "%d %s %s\n", level, id, line);
    pthread_mutex_unlock(&play.lock);
}

static void expect_logged(const char *line)
{
    pthread_mutex_lock(&play.lock);
    cr_expect_not_null(strstr(play.logged, line), "%s was not logged, but:\n%s", line, play.logged);
    pthread_mutex_unlock(&play.lock);
}

static int join_with(int worker_plus_1, int patience_ms)
{
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = server.at,
                                         .job = "mnist",
                                         .name = "w7",
                                         .worker = worker_plus_1,
                                         .join_timeout_ms = patience_ms,
                                         .log = on_line,
                                         .log_arg = &play,
                                         .insecure = true,
                                         .recipe = "60 rows, batch 3",
                                         .rows = 1000 };
    return psd_worker_connect(&worker, &config);
}

static void expect_rc_at(int line, int rc, int wanted, const char *sentence)
{
    cr_expect_eq(rc, wanted, "line %d: %d, %s", line, rc, psd_worker_error(worker));
    if (sentence)
        cr_expect_str_eq(psd_worker_error(worker), sentence, "line %d: %s", line, psd_worker_error(worker));
}
#define expect_rc(call, wanted, sentence) expect_rc_at(__LINE__, call, wanted, sentence)
#define expect_ok(call)                   cr_assert_eq(call, PSD_W_OK, "line %d: %s", __LINE__, psd_worker_error(worker))

static void set_weights(void) { a[0] = 1, a[1] = 2, b[0] = 3, b[1] = 4, b[2] = 5, c = 6; }

static void join(void)
{
    set_weights();
    expect_ok(join_with(WORKER + 1, 0));
    expect_ok(psd_worker_register(worker, tensors, 3));
    expect_heard("HELLO code=4 job=mnist name=w7\n"
                 "ATTACH\n"
                 "REGISTER \"60 rows, batch 3\" a[2] b[3] c[] of 1000 rows\n"
                 "INIT part=0/2 1 2\n"
                 "INIT part=1/2 3 4 5 6\n");
}

static const float ga[] = { 10, 20 }, gb[] = { 30, 40, 50 }, gc = 60;
static const float *const gradients[] = { ga, gb, &gc };

static psd_position_t position(void)
{
    psd_position_t at = { .size = sizeof at };
    expect_ok(psd_worker_position(worker, &at));
    return at;
}

Test(client, a_whole_life_is_heard_message_by_message_and_what_the_server_says_is_told)
{
    psd_ticket_t first = 0, second = 0, third = 0;
    join();
    psd_position_t at = position();
    cr_expect(at.clock == 1 && at.version == 100 && at.rank == RANK && at.world == WORLD && at.worker == WORKER &&
              at.incarnation == INCARNATION && at.run == RUN && !at.has_slow && !at.gathered);
    cr_expect_eq(psd_worker_job_samples(worker), 0);
    expect_ok(psd_worker_exchange(worker, gradients, 7, 1.5, &first));
    cr_expect_eq(first, 1);
    expect_ok(psd_worker_wait(worker, first, DONE_MS));
    expect_heard("PUSH clock=1 base=100 part=0/2 samples=7 loss=1.5 10 20\n"
                 "PUSH clock=1 base=100 part=1/2 samples=7 loss=1.5 30 40 50 60\n");
    cr_expect(a[0] == -4 && a[1] == -8 && b[0] == -12 && b[1] == -16 && b[2] == -20 && c == -24);
    at = position();
    cr_expect(at.clock == 2 && at.version == 101 && !at.gathered);
    gathers = true;
    cr_expect_eq(psd_worker_round_loss(worker), 1.25);
    cr_expect_eq(psd_worker_step_lr(worker), 0.5);
    cr_expect_eq(psd_worker_job_samples(worker), 7);
    expect_ok(psd_worker_push(worker, 1, gb, 5, 2.5, &second));
    expect_ok(psd_worker_push(worker, 2, NULL, 5, 9.5, &third));
    expect_heard("PUSH clock=2 base=101 part=1/2 samples=5 loss=2.5 chunks=2 30 40 50 0 of 1\n");
    cr_expect_eq(psd_worker_wait(worker, first, 0), PSD_W_OK, "that one is over");
    cr_expect(second == 2 && third == 2, "%" PRIu64 " %" PRIu64, second, third);
    expect_ok(psd_worker_push(worker, 0, ga, 5, 9.5, &third));
    expect_ok(psd_worker_wait(worker, third, DONE_MS));
    expect_heard("PUSH clock=2 base=101 part=0/2 samples=5 loss=2.5 10 20\n");
    cr_expect(a[0] == -9 && b[2] == -45 && c == -24);
    cr_expect(position().gathered);
    expect_ok(psd_worker_exchange(worker, NULL, 0, 3.5, &first));
    expect_ok(psd_worker_wait(worker, first, -1));
    expect_heard("PUSH clock=3 base=102 part=0/2\n");
    cr_expect_eq(psd_worker_job_samples(worker), 12);
    expect_ok(psd_worker_report(worker, "val/accuracy", 0.75));
    expect_ok(psd_worker_set_lr(worker, 0.375, DONE_MS));
    expect_ok(psd_worker_say_rows(worker, "60 rows", DONE_MS));
    expect_heard("REPORT clock=4 value=0.75 \"val/accuracy\"\n"
                 "SETTING clock=4 code=1 value=0.375 \"optimizer.lr\"\n"
                 "SETTING clock=4 code=2 \"rows=60 rows\"\n");
    cr_expect_eq(psd_worker_asked_to_leave(worker), 0);
    expect_ok(psd_worker_leave(worker, 1, DONE_MS));
    expect_heard("LEAVE clock=4\nLEAVE clock=4 code=2\n");
    expect_ok(psd_worker_leave(worker, 1, DONE_MS));
    expect_logged("2 worker.welcome worker=3 incarnation=17 servers=1 settings=\"servers=1 mode=bsp\"\n");
}

Test(client, slow_weights_go_where_the_program_says_and_one_that_leaves_early_says_so)
{
    float sa[2], sb[3], sc;
    float *const out[] = { sa, sb, &sc };
    cluster.settings.has_slow = true;
    join();
    cr_expect(position().has_slow);
    a[0] = 100;
    expect_ok(psd_worker_pull_slow(worker, out, DONE_MS));
    cr_expect(sa[0] == 1 && sa[1] == 2 && sb[0] == 3 && sb[1] == 4 && sb[2] == 5 && sc == 6 && a[0] == 100);
    expect_heard("PULL seq=1 clock=1 part=0/2\n");
    expect_ok(psd_worker_leave(worker, 0, DONE_MS));
    expect_heard("LEAVE clock=1 code=1\nLEAVE clock=1 code=2\n");
}

/* Wait until a line has been logged this often. */
static void await_logged(const char *line, unsigned times)
{
    unsigned n = 0;
    while (n < times) {
        n = 0;
        pthread_mutex_lock(&play.lock);
        for (const char *at = play.logged; (at = strstr(at, line)); at++)
            n++;
        pthread_mutex_unlock(&play.lock);
        usleep(1000);
    }
}

static void exchange(void)
{
    psd_ticket_t ticket;
    expect_ok(psd_worker_exchange(worker, gradients, 1, 0, &ticket));
    expect_ok(psd_worker_wait(worker, ticket, DONE_MS));
}

Test(client, gradients_go_through_the_memory_that_the_server_offers_as_long_as_there_is_a_link_and_all_else_by_the_socket)
{
    join();
    expect_ok(psd_worker_report(worker, "offer", 0));
    await_logged("3 memory.link server=0 state=up\n", 1);
    exchange();
    expect_ok(psd_worker_report(worker, "end", 0));
    await_logged("3 memory.link server=0 state=closed\n", 1);
    exchange();
    expect_heard("REPORT clock=1 \"offer\"\n"
                 "PUSH clock=1 base=100 part=0/2 samples=1 loss=0 10 20 by memory\n"
                 "PUSH clock=1 base=100 part=1/2 samples=1 loss=0 30 40 50 60 by memory\n"
                 "REPORT clock=2 \"end\"\n"
                 "PUSH clock=2 base=101 part=0/2 samples=1 loss=0 10 20\n"
                 "PUSH clock=2 base=101 part=1/2 samples=1 loss=0 30 40 50 60\n");
    cr_expect(a[0] == -9 && c == -54);
    expect_ok(psd_worker_report(worker, "offer", 0));
    await_logged("3 memory.link server=0 state=up\n", 2);
    cr_expect_eq(memory_ends, 0);
    expect_ok(psd_worker_leave(worker, 1, DONE_MS));
    while (memory_ends < 1) /* the worker has ended it, so that its arrays are its program's own */
        usleep(1000);
}

Test(client, the_link_through_memory_ends_when_the_worker_is_given_up)
{
    psd_ticket_t ticket;
    join();
    expect_ok(psd_worker_report(worker, "offer", 0));
    await_logged("3 memory.link server=0 state=up\n", 1);
    answer_instead(PSD_MSG_PUSH, &(psd_msg_t){ .kind = PSD_MSG_FENCED, .text = "it was silent" });
    expect_ok(psd_worker_exchange(worker, gradients, 1, 0, &ticket));
    expect_rc(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_EFENCED, "server 0 gave this worker up: it was silent");
    while (memory_ends < 1)
        usleep(1000);
}

/* ---- calls that are wrong ---- */

static void expect_all_refused(int rc, const char *(*sentence)(const char *what))
{
    psd_ticket_t ticket;
    float *const out[] = { a, b, &c };
    expect_rc(psd_worker_exchange(worker, gradients, 1, 0, &ticket), rc, sentence("exchange"));
    expect_rc(psd_worker_pull_slow(worker, out, DONE_MS), rc, sentence("pull"));
    expect_rc(psd_worker_set_lr(worker, 1, DONE_MS), rc, sentence("set the learning rate"));
    expect_rc(psd_worker_say_rows(worker, "x", DONE_MS), rc, sentence("say what rows it trains on"));
}

static const char *wrong_order(const char *what)
{
    static char text[200];
    snprintf(text, sizeof text, "%s: called in the wrong order; connect, register, then make one exchange or pull at a time", what);
    return text;
}

Test(client, before_the_model_is_registered_nothing_is_exchanged_and_each_call_says_why)
{
    psd_ticket_t ticket = 0;
    expect_ok(join_with(0, 0));
    expect_heard("HELLO job=mnist name=w7\n");
    expect_all_refused(PSD_W_EINVAL, wrong_order);
    expect_rc(psd_worker_push(worker, 0, ga, 1, 0, &ticket), PSD_W_EINVAL, "push: there is no tensor 0; 0 are registered");
    expect_rc(psd_worker_wait(worker, 0, DONE_MS), PSD_W_EINVAL, "no such ticket: 0");
    expect_rc(psd_worker_wait(worker, 1, DONE_MS), PSD_W_EINVAL, "no such ticket: 1");
    expect_rc(psd_worker_health(worker, 0, &(psd_worker_health_t){ .size = sizeof(psd_worker_health_t) }), PSD_W_EINVAL,
              "health: there is no tensor 0; 0 are registered, counted from 0");
    expect_rc(psd_worker_leave(worker, 1, DONE_MS), PSD_W_EINVAL,
              "leave: no tensors are registered, so no work can be done; register first, or leave unfinished");
    expect_ok(psd_worker_leave(worker, 0, DONE_MS));
    expect_heard("LEAVE code=1\nLEAVE code=2\n");
}

Test(client, a_model_that_cannot_be_registered_is_refused_in_words_and_may_be_given_again)
{
    static const uint64_t none = 0, eight[9] = { 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    static float bad[2] = { 0, INFINITY };
    char long_name[200];
    memset(long_name, 'n', 128);
    long_name[128] = '\0';
    const char *const needs = "tensor 1 needs a name of 1 to 127 bytes, a shape of at most 8 dimensions, and data";
    const psd_tensor_t wrong[] = { { NULL, &two, 1, b }, { "", &two, 1, b },  { long_name, &two, 1, b },
                                   { "b", eight, 9, b }, { "b", NULL, 1, b }, { "b", &two, 1, NULL } };
    expect_ok(join_with(0, 0));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_rc(psd_worker_register(worker, (psd_tensor_t[]){ tensors[0], wrong[i] }, 2), PSD_W_EINVAL, needs);
    expect_rc(psd_worker_register(worker, &(psd_tensor_t){ "b", &none, 1, b }, 1), PSD_W_EINVAL, "tensor b: dimension 0 is 0");
    expect_rc(psd_worker_register(worker, (psd_tensor_t[]){ tensors[0], { "bad", &two, 1, bad } }, 2), PSD_W_EINVAL,
              "tensor bad: initial value 1 is inf; the weights must be finite");
    expect_rc(psd_worker_register(worker, NULL, 2), PSD_W_EINVAL,
              "2 tensors at NULL were given to register; 1 to 65536 are allowed: merge small ones");
    expect_rc(psd_worker_register(worker, tensors, 0), PSD_W_EINVAL,
              "0 tensors were given to register; 1 to 65536 are allowed: merge small ones");
    cr_expect_eq(psd_worker_register(worker, (psd_tensor_t[]){ tensors[0], tensors[0] }, 2), PSD_W_EINVAL, "two of one name");
    long_name[127] = '\0';
    expect_ok(psd_worker_register(worker, (psd_tensor_t[]){ tensors[0], { long_name, eight, 8, b } }, 2));
    expect_rc(psd_worker_register(worker, tensors, 3), PSD_W_EINVAL, "2 tensors are registered already; register once");
}

Test(client, while_an_exchange_is_open_no_other_call_begins_and_each_says_why)
{
    psd_ticket_t ticket = 0;
    join();
    float *mine = psd_worker_alloc(worker, 8), *theirs = psd_worker_alloc_weights(worker, 8), other[8];
    cr_assert(mine && theirs);
    cr_expect(mine[7] == 0 && (uintptr_t)mine % 64 == 0 && theirs[7] == 0);
    float *const out[] = { a, theirs + 4, &c };
    expect_rc(psd_worker_exchange(worker, NULL, 1, 0, &ticket), PSD_W_EINVAL, "an exchange with samples needs gradients");
    expect_rc(psd_worker_exchange(worker, gradients, (UINT64_C(1) << 40) + 1, 0, &ticket), PSD_W_EINVAL,
              "a gradient of 1099511627777 samples; at most 1099511627776 are counted");
    expect_rc(psd_worker_exchange(worker, gradients, UINT64_C(1) << 40, 0, NULL), PSD_W_EINVAL,
              "an exchange needs a place for its ticket");
    expect_rc(psd_worker_push(worker, 0, ga, 1, 0, NULL), PSD_W_EINVAL, "push: an exchange needs a place for its ticket");
    expect_rc(psd_worker_push(worker, 3, ga, 1, 0, &ticket), PSD_W_EINVAL, "push: there is no tensor 3; 3 are registered");
    expect_rc(psd_worker_push(worker, 0, ga, 0, 0, &ticket), PSD_W_EINVAL,
              "push: a gradient needs at least 1 sample; to take part without a gradient, exchange 0 samples");
    expect_rc(psd_worker_push(worker, 0, ga, (UINT64_C(1) << 40) + 1, 0, &ticket), PSD_W_EINVAL,
              "a gradient of 1099511627777 samples; at most 1099511627776 are counted");
    expect_rc(psd_worker_pull_slow(worker, NULL, 1), PSD_W_EINVAL, "a pull needs a place for each tensor");
    expect_rc(psd_worker_pull_slow(worker, out, 1), PSD_W_EINVAL,
              "pull: the place of tensor b lies in an array of psd_worker_alloc_weights, which is only read; take one of "
              "psd_worker_alloc");
    expect_rc(psd_worker_set_lr(worker, -1, 1), PSD_W_EINVAL, "a learning rate must be between 0 and 1e9; this is -1");
    expect_rc(psd_worker_set_lr(worker, 2e9, 1), PSD_W_EINVAL, "a learning rate must be between 0 and 1e9; this is 2e+09");
    expect_rc(psd_worker_say_rows(worker, NULL, 1), PSD_W_EINVAL, "rows are described by 1 to 255 bytes of printable UTF-8");
    expect_rc(psd_worker_report(worker, "a\tb", 1), PSD_W_EINVAL, "a reported name has 1 to 63 bytes of printable UTF-8");
    cr_expect_eq(psd_worker_wait(worker, 1, 0), PSD_W_EINVAL, "no exchange has been opened by any of these");
    expect_ok(psd_worker_push(worker, 2, &gc, 4, 1, &ticket));
    cr_expect_eq(ticket, 1);
    expect_rc(psd_worker_push(worker, 2, &gc, 4, 1, &ticket), PSD_W_EINVAL, "push: tensor c was pushed already in this exchange");
    expect_rc(psd_worker_push(worker, 1, gb, 5, 1, &ticket), PSD_W_EINVAL,
              "push: tensor b over 5 samples; this exchange is over 4");
    expect_rc(psd_worker_wait(worker, 1, DONE_MS), PSD_W_EINVAL,
              "wait: 1 of 3 tensors of this exchange have been pushed; tensor a has not");
    expect_all_refused(PSD_W_EINVAL, wrong_order);
    expect_rc(psd_worker_free(worker, mine), PSD_W_EINVAL,
              "free: an exchange or a pull is open, and may use the array; wait first");
    expect_rc(psd_worker_free(worker, other), PSD_W_EINVAL,
              "free: this array was not allocated by psd_worker_alloc on this handle");
    expect_ok(psd_worker_push(worker, 0, ga, 4, 1, &ticket));
    expect_rc(psd_worker_wait(worker, 1, DONE_MS), PSD_W_EINVAL,
              "wait: 2 of 3 tensors of this exchange have been pushed; tensor b has not");
    expect_ok(psd_worker_push(worker, 1, gb, 4, 1, &ticket));
    expect_ok(psd_worker_wait(worker, 1, DONE_MS));
    expect_rc(psd_worker_wait(worker, 2, DONE_MS), PSD_W_EINVAL, "no such ticket: 2");
    cr_expect(a[0] == -4 && b[0] == -12 && c == -24);
    expect_ok(psd_worker_free(worker, mine));
    expect_ok(psd_worker_free(worker, theirs));
    expect_ok(psd_worker_free(worker, NULL));
    cr_expect_eq(psd_worker_free(worker, mine), PSD_W_EINVAL, "it is none any more");
}

Test(client, an_array_in_which_a_tensor_lies_is_not_freed)
{
    expect_ok(join_with(0, 0));
    float *array = psd_worker_alloc(worker, 8), *views = psd_worker_alloc_weights(worker, 8);
    const psd_tensor_t lent[] = { { "x", &two, 1, array + 6 }, { "y", &two, 1, views } };
    expect_ok(psd_worker_register(worker, lent, 2));
    expect_rc(psd_worker_free(worker, array), PSD_W_EINVAL,
              "free: tensor x lies in this array, which is borrowed until the handle is closed");
    expect_rc(psd_worker_free(worker, views), PSD_W_EINVAL,
              "free: tensor y lies in this array, which is borrowed until the handle is closed");
}

/* ---- what the job is like ---- */

Test(client, each_setting_of_the_job_is_told_under_its_name)
{
    psd_err_t err;
    psd_worker_settings_t s = { .size = sizeof s };
    cr_assert_eq(psd_coding_parse(&cluster.settings.codings.push, "topk(0.25)", &err), PSD_OK);
    cr_assert_eq(psd_coding_parse(&cluster.settings.codings.pull, "bf16", &err), PSD_OK);
    cluster.settings.checkpoints = true;
    expect_rc(psd_worker_connect(&worker, NULL), PSD_W_EINVAL, NULL);
    expect_rc(psd_worker_settings(worker, &s), PSD_W_EAGAIN, "settings: this worker has not joined yet");
    expect_rc(psd_worker_check_rule(worker, "sgd"), PSD_W_EAGAIN, "rule: this worker has not joined yet");
    expect_rc(psd_worker_group(worker, "a", &(psd_worker_group_t){ .size = sizeof(psd_worker_group_t) }), PSD_W_EAGAIN,
              "group: this worker has not joined yet");
    expect_rc(psd_worker_register_with(worker, tensors, 3, &(psd_worker_state_t){ .size = sizeof(psd_worker_state_t) }),
              PSD_W_EAGAIN, "register: this worker has not joined yet");
    psd_worker_close(&worker);
    expect_ok(join_with(0, 0));
    expect_ok(psd_worker_settings(worker, &s));
    cr_expect_str_eq(s.text, "servers=1 mode=bsp");
    cr_expect_str_eq(s.mode, "bsp");
    cr_expect_str_eq(s.optimizer, cluster.settings.optimizer);
    cr_expect_str_eq(s.lr_rule, "inverse");
    cr_expect_str_eq(s.codec_push, "topk(0.25)");
    cr_expect_str_eq(s.codec_pull, "bf16");
    cr_expect_str_eq(s.schedule, "constant()");
    cr_expect_str_eq(s.schedule_unit, "sample");
    cr_expect_str_eq(s.groups, "b(lr_mult=0.25, clip=0); c(freeze=1)");
    cr_expect(s.lr == 0.125 && s.clip_value == 13 && s.clip_norm == 14 && s.max_staleness == 11);
    cr_expect(s.servers == 1 && s.lease_ms == 900 && s.accumulate == 6);
    cr_expect(!s.has_slow && s.in_rounds && s.checkpoints);
    char sentence[200];
    snprintf(sentence, sizeof sentence, "settings: size is %zu; set it to that of the struct, at most %zu", sizeof s + 1, sizeof s);
    s.size++;
    expect_rc(psd_worker_settings(worker, &s), PSD_W_EINVAL, sentence);
}

Test(client, groups_and_rules_are_told_as_the_job_has_them)
{
    psd_worker_group_t group = { .size = sizeof group };
    join();
    expect_ok(psd_worker_group(worker, "a", &group));
    cr_expect_str_eq(group.match, "");
    cr_expect_str_eq(group.optimizer, cluster.settings.optimizer);
    cr_expect(group.lr_mult == 1 && group.clips && !group.freezes);
    expect_ok(psd_worker_group(worker, "b", &group));
    cr_expect_str_eq(group.match, "b");
    cr_expect(group.lr_mult == 0.25 && !group.clips && !group.freezes);
    expect_ok(psd_worker_group(worker, "c", &group));
    cr_expect_str_eq(group.match, "c");
    cr_expect(group.clips && group.freezes);
    cr_expect_eq(psd_worker_group(worker, NULL, &group), PSD_W_EINVAL);
    expect_ok(psd_worker_check_rule(worker, "adam(lr=1e-3)"));
    expect_rc(psd_worker_check_rule(worker, "sgd(lr=0.5)"), PSD_W_EREFUSED,
              "this program asks for sgd(lr=0.5, momentum=0, dampening=0, nesterov=0, weight_decay=0), but the job trains with "
              "adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08, "
              "weight_decay=0, amsgrad=0); make them equal");
    cr_expect_eq(psd_worker_check_rule(worker, NULL), PSD_W_EINVAL);
    cr_expect_eq(psd_worker_check_rule(worker, "sgdd"), PSD_W_EINVAL);
}

Test(client, the_figures_of_a_tensor_are_told_under_their_names)
{
    psd_worker_health_t h = { .size = sizeof h };
    play.has_figures = true;
    join();
    expect_rc(psd_worker_health(worker, 3, &h), PSD_W_EINVAL, "health: there is no tensor 3; 3 are registered, counted from 0");
    while (psd_worker_health(worker, 1, &h) == PSD_W_EAGAIN) /* they are told by the clock */
        usleep(1000);
    cr_expect(h.step == 77 && h.gradient_norm == 1.3125 && h.weight_norm == 1.375 && h.update_ratio == 1.4375 &&
              h.zero_share == 1.5 && h.cut_share == 1.5625);
}

/* A struct of `n` bytes may be asked for with 8 to `n` of them. */
#define expect_sizes(name, ask, out)                                                                                               \
    do {                                                                                                                           \
        char words[120];                                                                                                           \
        static const size_t sizes[] = { 0, 7, sizeof(out) + 1 };                                                                   \
        for (size_t k = 0; k < 3; k++) {                                                                                           \
            (out).size = sizes[k];                                                                                                 \
            snprintf(words, sizeof words, name ": size is %zu; set it to that of the struct, at most %zu", sizes[k], sizeof(out)); \
            expect_rc(ask, PSD_W_EINVAL, words);                                                                                   \
        }                                                                                                                          \
        (out).size = 8;                                                                                                            \
        expect_ok(ask);                                                                                                            \
        cr_expect_eq((out).size, 8);                                                                                               \
    } while (0)

Test(client, texts_and_structs_have_the_sizes_that_they_may_have)
{
    const char *const rows = "rows are described by 1 to 255 bytes of printable UTF-8",
                      *const name = "a reported name has 1 to 63 bytes of printable UTF-8";
    char text[300];
    psd_position_t at = { .clock = 99 };
    psd_worker_settings_t settings = { .size = 0 };
    psd_worker_group_t group = { .size = 0 };
    join();
    memset(text, 'x', sizeof text);
    text[256] = '\0';
    expect_rc(psd_worker_say_rows(worker, text, DONE_MS), PSD_W_EINVAL, rows);
    text[255] = '\0';
    expect_ok(psd_worker_say_rows(worker, text, DONE_MS));
    expect_rc(psd_worker_say_rows(worker, "", DONE_MS), PSD_W_EINVAL, rows);
    text[64] = '\0';
    expect_rc(psd_worker_report(worker, text, 1), PSD_W_EINVAL, name);
    text[63] = '\0';
    expect_ok(psd_worker_report(worker, text, 1));
    expect_rc(psd_worker_report(worker, "", 1), PSD_W_EINVAL, name);
    expect_rc(psd_worker_report(worker, NULL, 1), PSD_W_EINVAL, name);
    expect_sizes("position", psd_worker_position(worker, &at), at);
    cr_expect_eq(at.clock, 99, "there was no room for it");
    expect_sizes("settings", psd_worker_settings(worker, &settings), settings);
    expect_sizes("group", psd_worker_group(worker, "a", &group), group);
}

Test(client, figures_that_were_not_told_are_awaited)
{
    join();
    expect_rc(psd_worker_health(worker, 1, &(psd_worker_health_t){ .size = sizeof(psd_worker_health_t) }), PSD_W_EAGAIN,
              "health: this worker has no figures of tensor 1");
}

Test(client, optimizer_state_goes_with_the_registration_and_what_is_missing_is_logged)
{
    static const float avg[] = { 0.5, 0.25 }, sq[] = { 0.125, 0.0625 };
    const psd_worker_field_t fields[] = { { "a", "exp_avg", avg, 2, 0 },
                                          { "a", "exp_avg_sq", sq, 2, 0 },
                                          { "a", "step", NULL, 0, 8 } };
    char sentence[200];
    psd_worker_state_t state = { .size = sizeof state - 1, .field = fields, .n = 3 };
    set_weights();
    snprintf(cluster.settings.optimizer, sizeof cluster.settings.optimizer, "adam");
    expect_ok(join_with(0, 0));
    snprintf(sentence, sizeof sentence, "register: size of the state is %zu; set it to that of the struct, %zu", sizeof state - 1,
             sizeof state);
    expect_rc(psd_worker_register_with(worker, tensors, 3, &state), PSD_W_EINVAL, sentence);
    state.size = sizeof state;
    state.field = NULL;
    expect_rc(psd_worker_register_with(worker, tensors, 3, &state), PSD_W_EINVAL, "register: 3 fields of optimizer state at NULL");
    state.field = (psd_worker_field_t[]){ fields[0], fields[1], { "a", NULL, NULL, 0, 8 } };
    expect_rc(psd_worker_register_with(worker, tensors, 3, &state), PSD_W_EINVAL,
              "field 2 of the optimizer state needs the names of its tensor and itself");
    state.field = fields;
    state.optimizer = "adam(lr=";
    cr_expect_eq(psd_worker_register_with(worker, tensors, 3, &state), PSD_W_EDATA);
    state.optimizer = "sgd";
    state.partial = 1;
    cr_expect_eq(psd_worker_register_with(worker, tensors, 3, &state), PSD_W_EDATA);
    cr_expect_eq(strncmp(psd_worker_error(worker), "optimizer state: ", 17), 0, "%s", psd_worker_error(worker));
    state.optimizer = "adam";
    state.partial = 0;
    cr_expect_eq(psd_worker_register_with(worker, tensors, 3, &state), PSD_W_EDATA, "it is not partial");
    state.partial = 1;
    expect_ok(psd_worker_register_with(worker, tensors, 3, &state));
    expect_heard("HELLO job=mnist name=w7\n"
                 "ATTACH\n"
                 "REGISTER \"60 rows, batch 3\" a[2]+8/3 b[3]+0/0 c[]+0/0 of 1000 rows\n"
                 "INIT part=0/2 code=1 0.5 0.25\n"
                 "INIT part=0/2 code=2 0.125 0.0625\n"
                 "INIT part=0/2 1 2\n"
                 "INIT part=1/2 3 4 5 6\n");
    expect_logged("1 state.missing tensors=1 fields=\"");
}

Test(client, a_program_without_a_log_registers_optimizer_state_of_some_tensors)
{
    static const float momentum[] = { 0.5, 0.25 };
    const psd_worker_field_t field = { "a", "momentum_buffer", momentum, 2, 0 };
    const psd_worker_state_t state = { .size = sizeof state, .field = &field, .n = 1, .partial = 1 };
    const psd_worker_config_t config = { .size = sizeof config, .join = server.at, .insecure = true };
    set_weights();
    snprintf(cluster.settings.optimizer, sizeof cluster.settings.optimizer, "sgd(lr=0.5, momentum=0.9)");
    expect_ok(psd_worker_connect(&worker, &config));
    expect_ok(psd_worker_register_with(worker, tensors, 3, &state));
}

/* ---- waits ---- */

Test(client, a_server_that_says_for_what_it_waits_is_quoted_when_the_time_to_join_is_over)
{
    const psd_msg_t wait = { .kind = PSD_MSG_WAIT, .text = "servers 1 and 2" };
    char sentence[300];
    mute(BIT(HELLO));
    snprintf(sentence, sizeof sentence, "job mnist at %s: not joined after 400 ms; waiting for an answer from server 0", server.at);
    expect_rc(join_with(0, 400), PSD_W_ETIMEOUT, sentence);
    psd_worker_close(&worker);
    answer_instead(PSD_MSG_HELLO, &wait);
    snprintf(sentence, sizeof sentence, "job mnist at %s: not joined after 600 ms; waiting for servers 1 and 2", server.at);
    expect_rc(join_with(0, 600), PSD_W_ETIMEOUT, sentence);
}

Test(client, a_refusal_of_the_job_ends_the_join_with_the_servers_words)
{
    const psd_msg_t no = { .kind = PSD_MSG_REFUSED, .code = PSD_REFUSAL_JOB, .text = "this is job glyphs" };
    answer_instead(PSD_MSG_HELLO, &no);
    expect_rc(join_with(0, 0), PSD_W_EREFUSED, "server 0 refused (job): this is job glyphs");
}

Test(client, a_registration_that_is_not_answered_times_out_with_the_patience)
{
    mute(BIT(ATTACH) | BIT(REGISTER));
    expect_ok(join_with(0, 300));
    cr_expect_eq(psd_worker_register(worker, tensors, 3), PSD_W_ETIMEOUT);
    cr_expect_eq(
        strncmp(psd_worker_error(worker), "register: nothing after 300 ms; waiting for a session with server 0 (tcp://", 74), 0,
        "%s", psd_worker_error(worker));
}

Test(client, a_ticket_that_is_not_done_may_be_waited_for_again_and_the_descriptor_tells_when)
{
    psd_ticket_t ticket;
    join();
    float *array = psd_worker_alloc(worker, 8);
    struct pollfd fd = { .fd = psd_worker_fd(worker), .events = POLLIN };
    expect_ok(psd_worker_exchange(worker, gradients, 1, 0, &ticket));
    cr_expect_eq(poll(&fd, 1, DONE_MS), 1, "although nobody waits");
    expect_ok(psd_worker_wait(worker, ticket, 0));
    mute(BIT(PUSH));
    expect_ok(psd_worker_exchange(worker, gradients, 1, 0, &ticket));
    cr_expect_eq(poll(&fd, 1, 0), 0);
    cr_expect_eq(psd_worker_wait(worker, ticket, 0), PSD_W_EAGAIN);
    cr_expect_eq(psd_worker_wait(worker, ticket, 50), PSD_W_ETIMEOUT);
    cr_expect_eq(strncmp(psd_worker_error(worker), "exchange: nothing after 50 ms; ", 31), 0, "%s", psd_worker_error(worker));
    answer_instead(PSD_MSG_PROBE, &(psd_msg_t){ .kind = PSD_MSG_FENCED, .text = "it was silent" });
    expect_rc(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_EFENCED, "server 0 gave this worker up: it was silent");
    cr_expect_eq(poll(&fd, 1, DONE_MS), 1);
    cr_expect_eq(psd_worker_report(worker, NULL, 0), PSD_W_EINVAL);
    expect_ok(psd_worker_free(worker, array));
    expect_rc(psd_worker_leave(worker, 1, DONE_MS), PSD_W_EFENCED, "server 0 gave this worker up: it was silent");
}

static const char *given_up(const char *what) { return (void)what, "server 0 gave this worker up: it was silent"; }

Test(client, a_worker_that_was_given_up_between_two_tensors_is_told_so_by_every_call)
{
    psd_ticket_t ticket;
    join();
    answer_instead(PSD_MSG_PUSH, &(psd_msg_t){ .kind = PSD_MSG_FENCED, .text = "it was silent" });
    expect_ok(psd_worker_push(worker, 0, ga, 1, 0, &ticket));
    expect_heard("PUSH clock=1 base=100 part=0/2 samples=1 loss=0 10 20\n");
    while (psd_worker_set_lr(worker, 1, DONE_MS) == PSD_W_EINVAL) /* "wrong order", until it is given up */
        usleep(1000);
    expect_rc(psd_worker_push(worker, 1, gb, 1, 0, &ticket), PSD_W_EFENCED, given_up("push"));
    expect_rc(psd_worker_push(worker, 1, gb, 1, 0, &ticket), PSD_W_EFENCED, given_up("push"));
    expect_rc(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_EFENCED, given_up("wait"));
    expect_all_refused(PSD_W_EFENCED, given_up);
}

static int interruptions;
static int interrupt_third(void *arg)
{
    cr_expect_eq(arg, &interruptions);
    return ++interruptions >= 3;
}

Test(client, a_program_that_is_interrupted_is_asked_while_it_waits)
{
    const psd_worker_config_t config = { .size = sizeof config,
                                         .join = server.at,
                                         .insecure = true,
                                         .join_timeout_ms = -1,
                                         .interrupted = interrupt_third,
                                         .interrupted_arg = &interruptions };
    mute(BIT(HELLO));
    cr_expect_eq(psd_worker_connect(&worker, &config), PSD_W_ESTOPPED);
    cr_expect_eq(strncmp(psd_worker_error(worker), "join: interrupted; ", 19), 0, "%s", psd_worker_error(worker));
    cr_expect_eq(interruptions, 3);
}

/* ---- when the servers go back ---- */

static const psd_msg_t another_run = { .kind = PSD_MSG_REFUSED, .code = PSD_REFUSAL_RUN };

/* The job has gone on at clock 41, whose weights are the present ones. */
static void expect_gone_back(void)
{
    const psd_position_t at = position();
    cr_expect(at.clock == 41 && at.run == RUN + 2, "%" PRIu64 ".%" PRIu64, at.run, at.clock);
    expect_logged("1 worker.rejoin worker=3 clock=1 reason=\"the servers have begun another run\"\n");
}

Test(client, a_setting_that_the_servers_forget_is_to_be_made_again)
{
    join();
    answer_instead(PSD_MSG_SETTING, &another_run);
    expect_rc(psd_worker_set_lr(worker, 0.5, DONE_MS), PSD_W_EAGAIN,
              "set the learning rate: the servers have gone back to clock 41");
    expect_gone_back();
    expect_ok(psd_worker_set_lr(worker, 0, DONE_MS));
    expect_ok(psd_worker_set_lr(worker, 1e9, DONE_MS));
}

Test(client, rows_that_the_servers_forget_are_to_be_said_again)
{
    join();
    answer_instead(PSD_MSG_SETTING, &another_run);
    expect_rc(psd_worker_say_rows(worker, "60 rows", DONE_MS), PSD_W_EAGAIN,
              "say what rows it trains on: the servers have gone back to clock 41");
    expect_gone_back();
}

Test(client, a_pull_that_the_servers_forget_is_to_be_made_again)
{
    float *const out[] = { a, b, &c };
    join();
    answer_instead(PSD_MSG_PULL, &another_run);
    expect_rc(psd_worker_pull_slow(worker, out, DONE_MS), PSD_W_EAGAIN, "pull: the servers have gone back to clock 41");
    expect_gone_back();
}

Test(client, an_exchange_that_the_servers_forget_is_over_and_the_weights_are_theirs)
{
    psd_ticket_t ticket;
    join();
    answer_instead(PSD_MSG_PUSH, &another_run);
    expect_ok(psd_worker_exchange(worker, gradients, 1, 0, &ticket));
    expect_ok(psd_worker_wait(worker, ticket, DONE_MS));
    expect_gone_back();
}

Test(client, a_worker_that_leaves_while_the_servers_go_back_is_told_to_train_on)
{
    psd_ticket_t ticket;
    join();
    answer_instead(PSD_MSG_LEAVE, &another_run);
    expect_rc(psd_worker_leave(worker, 1, DONE_MS), PSD_W_EAGAIN, "leave: the servers have gone back to clock 41");
    expect_gone_back();
    expect_ok(psd_worker_exchange(worker, gradients, 1, 0, &ticket));
    expect_ok(psd_worker_wait(worker, ticket, DONE_MS));
    expect_ok(psd_worker_leave(worker, 1, DONE_MS));
}

Test(client, a_program_that_looks_again_and_again_whether_it_has_left_is_told_to_train_on_until_it_does)
{
    const char *const back = "leave: the servers have gone back to clock 41";
    psd_ticket_t ticket;
    join();
    float *array = psd_worker_alloc(worker, 8);
    expect_ok(psd_worker_push(worker, 0, ga, 1, 0, &ticket)); /* with others to come */
    answer_instead(PSD_MSG_LEAVE, &another_run);
    while (psd_worker_leave(worker, 1, 0) == PSD_W_EAGAIN && strcmp(psd_worker_error(worker), back) != 0)
        usleep(1000);
    for (int i = 0; i < 3; i++)
        expect_rc(psd_worker_leave(worker, 1, 0), PSD_W_EAGAIN, back);
    expect_gone_back();
    for (uint64_t round = 0; round < 2; round++) {
        expect_ok(psd_worker_push(worker, 0, ga, 1, 0, &ticket));
        expect_ok(psd_worker_push(worker, 1, gb, 1, 0, &ticket));
        expect_ok(psd_worker_push(worker, 2, &gc, 1, 0, &ticket));
        expect_ok(psd_worker_wait(worker, ticket, DONE_MS));
        cr_expect_eq(position().clock, 42 + round);
    }
    expect_ok(psd_worker_leave(worker, 1, DONE_MS));
    expect_ok(psd_worker_free(worker, array));
}

/* ---- the end ---- */

Test(client, a_goodbye_that_is_not_answered_in_time_may_be_said_again)
{
    join();
    mute(BIT(LEAVE));
    cr_expect_eq(psd_worker_leave(worker, 1, 0), PSD_W_EAGAIN);
    cr_expect_eq(psd_worker_leave(worker, 1, 50), PSD_W_ETIMEOUT);
    expect_heard("LEAVE clock=1\n");
    cr_expect_eq(psd_worker_leave(worker, 0, 0), PSD_W_EAGAIN);
    expect_heard("LEAVE clock=1 code=1\n");
    mute(0);
    expect_ok(psd_worker_leave(worker, 0, DONE_MS));
}

Test(client, an_operator_who_asks_a_worker_to_leave_is_heard_with_the_next_heartbeat)
{
    join();
    cr_expect_eq(psd_worker_asked_to_leave(worker), 0);
    pthread_mutex_lock(&play.lock);
    play.heartbeat_code = PSD_HEARTBEAT_DRAIN;
    pthread_mutex_unlock(&play.lock);
    while (!psd_worker_asked_to_leave(worker))
        usleep(1000);
    cr_expect_eq(psd_worker_asked_to_leave(worker), 1);
}

Test(client, codes_and_the_version_are_told_without_a_handle)
{
    cr_expect_str_eq(psd_worker_error(NULL), "");
    cr_expect_str_eq(psd_version(), PSD_VERSION);
    cr_expect_str_eq(psd_strerror(PSD_W_EFENCED), psd_err_text(PSD_EFENCED));
    cr_expect_eq(psd_worker_connect(NULL, NULL), PSD_W_EINVAL);
    psd_worker_close(NULL);
    psd_worker_close(&worker);
}
