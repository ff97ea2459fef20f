#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "server/status/page.h"
#include "server/status/report_state.h"
#include "tests/support/kept.h"
#include "tests/support/said.h"

/* One server with its coordinator and three workers; the test sends their messages, and passes each event to the report, as the
 * daemon does. The model is two tensors of 4 weights, a part each. Times are milliseconds of one clock. */
enum { JOB = 9, N = 3, PARTS = 2 };

static psd_node_t *node;
static psd_actions_t out;
static psd_report_t *report;
static psd_options_t *options;
static psd_status_t *status;
static psd_err_t err;
static uint64_t now = 1000, incarnation[N], clock_of[N], life[N];
static json_t *page;   /* /status */
static char *measured; /* /metrics */

static psd_engine_config_t engine;
static psd_coordinator_config_t coordinator;
static const char *rule = "sgd(lr=0.125)", *groups = "";
static uint64_t look_every; /* steps between two looks at the tensors; 0: none */
static const psd_job_settings_t job = { .text = "mode=x", .mode = "bsp", .optimizer = "sgd", .part_elements = 4 };

static uint64_t ns(void) { return now * 1000000; }

/* The clock of this process, which a test may stop at a second; libraries have their own. */
static time_t stopped_s;

int clock_gettime(clockid_t id, struct timespec *t)
{
    const int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_MONOTONIC && stopped_s)
        *t = (struct timespec){ .tv_sec = stopped_s };
    return rc;
}

static psd_peer_t peer_of(uint32_t worker) { return UINT64_C(1) << 63 | (5 + worker); }

static psd_msg_t message(psd_kind_t kind, uint32_t worker)
{
    return (psd_msg_t){ .kind = kind,
                        .protocol = PSD_PROTOCOL,
                        .job = JOB,
                        .worker = worker,
                        .incarnation = incarnation[worker],
                        .seq = 77 + worker + 100 * life[worker] };
}

static void carry_out(void)
{
    for (size_t i = 0; i < out.n; i++) {
        const psd_action_t a = out.at[i];
        if (a.act == PSD_ACT_SEND && a.msg.kind == PSD_MSG_WELCOME)
            incarnation[a.msg.worker] = a.msg.incarnation;
        if (a.act == PSD_ACT_SEND)
            psd_report_sent(report, &a.msg, a.msg.kind == PSD_MSG_WEIGHTS && a.payload ? a.payload->n_bytes : 1, true, ns());
        if (a.act != PSD_ACT_WORK)
            continue;
        psd_work_run(a.work);
        psd_report_apply(report, 2000000);
        psd_node_worked(node, now, a.work, &out);
        psd_report_saw(report, node, NULL, ns());
    }
    psd_actions_drop(&out, out.n);
}

static void say(uint32_t worker, const psd_msg_t *msg, const void *payload, size_t n)
{
    psd_buf_t *buf = said_with(msg, payload, n);
    psd_report_received(report, n);
    psd_node_message(node, now, peer_of(worker), msg, buf, &out);
    psd_report_saw(report, node, msg, ns());
    carry_out();
    psd_buf_unref(&buf);
}

/* Let time pass, and the server do what is due. */
static void pass(uint64_t ms)
{
    for (const uint64_t end = now + ms; now < end;) {
        now += end - now < 50 ? end - now : 50;
        psd_node_tick(node, now, &out);
        carry_out();
    }
}

static void start(const char *flags)
{
    char copy[512], *argv[16] = { "psd", "--job=mnist" };
    int argc = 2;
    snprintf(copy, sizeof copy, "%s", flags);
    for (char *rest = copy, *word; (word = strtok_r(rest, " ", &rest));)
        argv[argc++] = word;
    clearenv();
    cr_assert_not_null(options = psd_options_new(PSD_PROGRAM_SERVER));
    cr_assert_eq(psd_options_load(options, argc, argv, &err), PSD_OK, "%s", err.text);
    engine = (psd_engine_config_t){ .job = "mnist",
                                    .settings = "mode=x",
                                    .print_rule = psd_rule_print,
                                    .endpoint = "tcp://here:1",
                                    .wanted_index = -1,
                                    .nonce = 1,
                                    .mode = psd_mode_find(psd_options_string(options, PSD_OPT_sync_mode)),
                                    .lr_rule = psd_lr_rule_find("none"),
                                    .accumulate = (uint32_t)psd_options_int(options, PSD_OPT_sync_accumulate),
                                    .first = "tcp://first:7470",
                                    .fold_at = coordinator.foretell_from > 1 ? 1 : 0,
                                    .goes_ahead = coordinator.foretell_from == 1,
                                    .look_every = look_every,
                                    .lease_ms = 2000 };
    psd_groups_parse(&engine.groups, rule, groups, NULL);
    if (!coordinator.job) {
        coordinator =
            (psd_coordinator_config_t){ .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 60000, .lr = 0.125 };
    }
    coordinator.job_id = JOB;
    coordinator.settings = &job;
    coordinator.n_servers = (uint32_t)psd_options_int(options, PSD_OPT_servers);
    coordinator.mode = engine.mode;
    coordinator.groups = engine.groups;
    cr_assert_not_null(report = psd_report_new(options, "mode=x", &err));
    cr_assert_not_null(status = psd_status_new("127.0.0.1:0", "", &err), "%s", err.text);
}

static void make_node(const char *flags)
{
    start(flags);
    cr_assert_not_null(node = psd_node_new(&engine, &coordinator, &err));
    psd_report_publish(report, node, now, status);
    psd_node_tick(node, now, &out);
    carry_out();
}

static void part_of(psd_msg_t *msg, uint32_t part, const float *values)
{
    msg->part = part;
    msg->parts = PARTS;
    msg->n_elements = 4;
    msg->dtype = PSD_DTYPE_F32;
    msg->codec = PSD_CODEC_F32;
    msg->checksum = psd_crc32c(values, 4 * sizeof *values);
}

static void join(uint32_t worker)
{
    static const float initial[4] = { 1, 2, 3, 4 };
    uint8_t bytes[256];
    psd_tensor_desc_t tensor[] = { { .name = "v", .n_dims = 1, .dim = { 4 }, .n_elements = 4 },
                                   { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 } };
    psd_tensor_list_t list = { .n = 2, .tensor = tensor };
    psd_msg_t msg = message(PSD_MSG_HELLO, worker);
    snprintf(msg.text, sizeof msg.text, "mnist host%u", worker);
    say(worker, &msg, NULL, 0);
    cr_assert(incarnation[worker]);
    msg = message(PSD_MSG_ATTACH, worker);
    say(worker, &msg, NULL, 0);
    msg = message(PSD_MSG_REGISTER, worker);
    say(worker, &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
    for (uint32_t p = 0; p < PARTS; p++) {
        msg = message(PSD_MSG_INIT, worker);
        part_of(&msg, p, initial);
        say(worker, &msg, initial, sizeof initial);
    }
    clock_of[worker] = 0;
}

static void join_all(const char *flags)
{
    make_node(flags);
    for (uint32_t w = 0; w < N; w++)
        join(w);
    static const float initial[4] = { 1, 2, 3, 4 };
    for (uint32_t p = 0; p < PARTS; p++) { /* the view came with the last of them */
        psd_msg_t msg = message(PSD_MSG_INIT, 0);
        part_of(&msg, p, initial);
        say(0, &msg, initial, sizeof initial);
    }
    cr_assert_str_eq(psd_report_state(report, node), "training");
}

static void setup(void) { join_all("--workers-min=3"); }

static void teardown(void)
{
    json_decref(page);
    free(measured);
    psd_node_destroy(&node);
    psd_actions_clear(&out);
    psd_report_destroy(&report);
    psd_status_destroy(&status);
    psd_options_destroy(&options);
}

TestSuite(report, .timeout = 600);

/* A worker's push: its samples and their mean loss, 8 equal gradients, the version of the weights, and the time of computing. */
typedef struct push {
    uint64_t samples;
    double loss;
    float gradient;
    uint64_t version;
    double compute_s;
    bool ahead; /* the worker takes weights of the round before it is decided */
} push_t;

static void push_part(uint32_t worker, uint32_t part, const push_t *push)
{
    const float gradient[4] = { push->gradient, push->gradient, push->gradient, push->gradient };
    psd_msg_t msg = message(PSD_MSG_PUSH, worker);
    clock_of[worker] += part == 0;
    msg.clock = clock_of[worker];
    msg.samples = push->samples;
    msg.loss = push->loss;
    msg.base_version = push->version;
    msg.value = push->compute_s;
    msg.code = push->ahead ? PSD_PUSH_AHEAD : 0;
    part_of(&msg, part, gradient);
    say(worker, &msg, gradient, sizeof gradient);
}

static void push_all(uint32_t worker, push_t push)
{
    for (uint32_t p = 0; p < PARTS; p++)
        push_part(worker, p, &push);
}

/* Rounds, the first at once: worker w has its weights after `serve`, computes, and its two parts arrive `send` apart. A round is
 * over with the last part. */
typedef struct times {
    uint64_t serve, compute, send; /* ms */
} times_t;

static void play(const times_t times[N], uint32_t rounds)
{
    while (rounds--) {
        const uint64_t begun = now, clock = psd_engine_clock(psd_node_engine(node));
        for (; psd_engine_clock(psd_node_engine(node)) == clock; now++)
            for (uint32_t w = 0; w < N; w++) {
                const times_t *t = &times[w];
                const push_t push = { .samples = 10, .loss = 1, .compute_s = (double)t->compute * 1e-3 };
                if (now == begun + t->serve + t->compute)
                    push_part(w, 0, &push);
                if (now == begun + t->serve + t->compute + t->send)
                    push_part(w, 1, &push);
            }
        now--; /* when the last part came */
    }
}

static void look(void)
{
    const psd_instant_t instant = { .ms = now, .ns = ns() };
    json_decref(page);
    free(measured);
    cr_assert_not_null(page = psd_report_document(report, node, &instant, true));
    cr_assert_not_null(measured = psd_report_metrics(report, node, status, &instant));
}

static const json_t *worker_at(size_t i) { return json_array_get(json_object_get(page, "workers"), i); }

static double number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    cr_assert(json_is_number(value), "%s is not a number", key);
    return json_number_value(value);
}

static double of_worker(size_t i, const char *key) { return number_of(worker_at(i), key); }

static void beat(uint32_t worker, uint64_t clock)
{
    psd_msg_t msg = message(PSD_MSG_HEARTBEAT, worker);
    msg.clock = clock;
    say(worker, &msg, NULL, 0);
}

/* A line of /metrics, by its name and labels. */
static double metric(const char *series)
{
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\n%s ", series);
    const char *line = strstr(measured, wanted);
    cr_assert_not_null(line, "/metrics has no %s", series);
    return strtod(line + strlen(wanted), NULL);
}

static bool has_metric(const char *series)
{
    char wanted[128];
    snprintf(wanted, sizeof wanted, "\n%s ", series);
    return strstr(measured, wanted);
}

static const char *alert(size_t i) { return json_string_value(json_array_get(json_object_get(page, "alerts"), i)); }

static size_t n_alerts(void) { return json_array_size(json_object_get(page, "alerts")); }

static char reply[1 << 16];

static int get(const char *path)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(strrchr(psd_status_url(status), ':') + 1)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0), code = 0;
    size_t n = 0;
    ssize_t got;
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    dprintf(fd, "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", path);
    while (n < sizeof reply - 1 && (got = recv(fd, reply + n, sizeof reply - 1 - n, 0)) > 0)
        n += (size_t)got;
    reply[n] = '\0';
    close(fd);
    sscanf(reply, "HTTP/1.%*d %d", &code);
    return code;
}

/* ---- ages ---- */

Test(report, ages_are_the_seconds_since_each_was_heard_and_had_pushed, .init = setup, .fini = teardown)
{
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 1 });
    pass(400);
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, 1);
    say(1, &beat, NULL, 0);
    pass(1100);
    look();
    cr_expect_float_eq(of_worker(0, "last_heard_age_seconds"), 1.5, 1e-9);
    cr_expect_float_eq(of_worker(1, "last_heard_age_seconds"), 1.1, 1e-9);
    cr_expect_float_eq(of_worker(0, "last_push_age_seconds"), 1.5, 1e-9);
    cr_expect_float_eq(of_worker(1, "last_push_age_seconds"), 1.5, 1e-9, "a heartbeat is not a push");
    cr_expect_float_eq(number_of(page, "uptime_seconds"), 1.5, 1e-9);
    psd_server_facts_t server;
    psd_coordinator_server(psd_node_coordinator(node), 0, &server);
    pass(100);
    look();
    const json_t *row = json_array_get(json_object_get(page, "servers"), 0);
    psd_coordinator_server(psd_node_coordinator(node), 0, &server);
    cr_expect_float_eq(number_of(row, "last_heard_age_seconds"), (double)(now - server.heard_ms) * 1e-3, 1e-9);
}

Test(report, a_worker_that_has_not_pushed_has_no_push_age_and_no_loss, .init = setup, .fini = teardown)
{
    push_all(1, (push_t){ .samples = 4, .loss = 2.5 });
    look();
    cr_expect(json_is_null(json_object_get(worker_at(0), "last_push_age_seconds")));
    cr_expect(json_is_null(json_object_get(worker_at(0), "loss")));
    cr_expect_eq(of_worker(1, "last_push_age_seconds"), 0);
    cr_expect_eq(of_worker(1, "loss"), 2.5);
    cr_expect_eq(of_worker(1, "samples"), 4);
    cr_expect_eq(of_worker(1, "pushes"), 1);
    cr_expect_eq(of_worker(1, "parts_held"), 2);
    cr_expect(json_is_null(json_object_get(json_object_get(page, "loss"), "train")), "no step was made");
    cr_expect(!has_metric("psd_worker_last_push_timestamp_seconds{worker=\"0\"}"));
    cr_expect(has_metric("psd_worker_last_push_timestamp_seconds{worker=\"1\"}"));
    cr_expect(!has_metric("psd_training_loss"));
}

Test(report, a_worker_that_misses_a_heartbeat_is_late, .init = setup, .fini = teardown)
{
    pass(1000);
    look();
    cr_expect_str_eq(json_string_value(json_object_get(worker_at(0), "state")), "live");
    pass(1);
    look();
    cr_expect_str_eq(json_string_value(json_object_get(worker_at(0), "state")), "late");
}

Test(report, metrics_show_when_each_worker_pushed_last, .init = setup, .fini = teardown)
{
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 2 + w });
    pass(3000);
    beat(2, 1); /* which is no push */
    pass(4000);
    const double before = psd_report_unix_time() - 7;
    look();
    const double then = metric("psd_worker_last_push_timestamp_seconds{worker=\"2\"}");
    cr_expect(then >= before - 1e-3 && then <= psd_report_unix_time() - 7 + 1e-3, "%f, not %f", then, before);
    cr_expect_eq(metric("psd_worker_samples_total{worker=\"2\"}"), 4);
    cr_expect_eq(metric("psd_samples_total"), 9);
}

/* ---- where time goes ---- */

Test(report, push_times_are_those_of_each_phase, .init = setup, .fini = teardown)
{
    /* A round takes 2 + 20 + 18 = 40 ms: worker 0 gets its weights at once, computes for 10, sends for 5, and waits for 25. */
    play((const times_t[]){ { 0, 10, 5 }, { 1, 30, 4 }, { 2, 20, 18 } }, 1000);
    look();
    cr_expect_float_eq(of_worker(0, "compute_seconds"), 0.010, 1e-4);
    cr_expect_float_eq(of_worker(0, "send_seconds"), 0.005, 1e-4);
    cr_expect_float_eq(of_worker(0, "serve_seconds"), 0, 1e-4);
    cr_expect_float_eq(of_worker(2, "compute_seconds"), 0.020, 1e-4);
    cr_expect_float_eq(of_worker(2, "send_seconds"), 0.018, 1e-4);
    cr_expect_float_eq(of_worker(2, "serve_seconds"), 0.002, 1e-4);
    const json_t *shares = json_object_get(worker_at(1), "time_shares");
    cr_expect_float_eq(number_of(shares, "served"), 1 / 40.0, 2e-3);
    cr_expect_float_eq(number_of(shares, "computing"), 30 / 40.0, 2e-3);
    cr_expect_float_eq(number_of(shares, "sending"), 4 / 40.0, 2e-3);
    cr_expect_float_eq(number_of(shares, "waiting"), 5 / 40.0, 2e-3);
    cr_expect_float_eq(of_worker(1, "samples_per_second"), 250, 1, "10 in 40 ms");
    cr_expect_float_eq(of_worker(2, "awaited_share"), 5 / 40.0, 2e-3);
    cr_expect_eq(of_worker(0, "awaited_share"), 0);
    cr_expect_float_eq(metric("psd_worker_awaited_ratio{worker=\"2\"}"), 5 / 40.0, 2e-3);
    cr_expect_eq(metric("psd_worker_awaited_ratio{worker=\"1\"}"), 0);
}

/* The times that this process has seen: its histograms. */
Test(report, metrics_have_the_times_of_rounds_barriers_answers_and_steps, .init = setup, .fini = teardown)
{
    look(); /* times are counted from the first request for them */
    play((const times_t[]){ { 0, 10, 5 }, { 0, 30, 4 }, { 0, 20, 20 } }, 11);
    look();
    /* Each round takes 40 ms; the first push is whole after 15, and answered 25 ms later, the others after 34 and 40. */
    cr_expect_eq(metric("psd_round_duration_seconds_count"), 10, "the first has none before it");
    cr_expect_float_eq(metric("psd_round_duration_seconds_sum"), 10 * 0.040, 1e-9);
    cr_expect_eq(metric("psd_barrier_wait_seconds_count"), 11);
    cr_expect_float_eq(metric("psd_barrier_wait_seconds_sum"), 11 * 0.025, 1e-9);
    cr_expect_eq(metric("psd_push_latency_seconds_count"), 33);
    cr_expect_float_eq(metric("psd_push_latency_seconds_sum"), 11 * (0.025 + 0.006 + 0), 1e-9);
    cr_expect_eq(metric("psd_apply_duration_seconds_count"), 22, "two parts a round");
    cr_expect_float_eq(metric("psd_apply_duration_seconds_sum"), 22 * 0.002, 1e-9);
    cr_expect_float_eq(number_of(json_array_get(json_object_get(page, "shards"), 0), "apply_seconds_p99"), 0.002, 1e-12);
}

Test(report, the_p99_of_steps_is_that_of_the_newest, .init = setup, .fini = teardown)
{
    for (uint64_t ms = 256; ms > 0; ms--)
        psd_report_apply(report, ms * 1000000);
    cr_expect_float_eq(psd_report_apply_p99(report), 0.254, 1e-12, "three of the 256 take at least this long");
    for (unsigned i = 0; i < 256; i++)
        psd_report_apply(report, 3000000);
    cr_expect_float_eq(psd_report_apply_p99(report), 0.003, 1e-12, "the earlier ones are forgotten");
}

/* ---- blame ---- */

/* After this number of rounds with these times, this worker is blamed, for `reason`, in a sentence with `words`. Measured times are
 * a little less than the real ones: they decay as time passes, and a push only counts when it is complete. */
static void expect_blame(const times_t times[N], size_t who, const char *reason, const char *words)
{
    play(times, 600);
    look();
    for (size_t w = 0; w < N; w++) {
        const char *said = json_string_value(json_object_get(worker_at(w), "slow_reason"));
        if (w == who)
            cr_expect(said && !strcmp(said, reason), "worker %zu: %s, not %s", w, said ? said : "nothing", reason);
        else
            cr_expect_null(said, "worker %zu: %s", w, said);
    }
    cr_assert_eq(n_alerts(), 1);
    cr_expect_not_null(strstr(alert(0), words), "%s", alert(0));
}

Test(report, a_slow_machine_is_blamed_for_its_computing, .init = setup, .fini = teardown)
{
    expect_blame((const times_t[]){ { 0, 20, 2 }, { 0, 120, 2 }, { 0, 20, 2 } }, 1, "compute",
                 "rounds wait for worker 1 (host1) 82 % of the time: it computes for 119 ms a push, others for 20 ms");
}

Test(report, long_times_are_whole_milliseconds, .init = setup, .fini = teardown)
{
    expect_blame((const times_t[]){ { 0, 1020, 2 }, { 0, 2500, 2 }, { 0, 1020, 2 } }, 1, "compute",
                 "it computes for 2212 ms a push, others for 970 ms");
}

Test(report, a_slow_way_there_is_blamed_as_network, .init = setup, .fini = teardown)
{
    expect_blame((const times_t[]){ { 0, 20, 2 }, { 0, 20, 2 }, { 0, 20, 102 } }, 2, "network",
                 "rounds wait for worker 2 (host2) 82 % of the time: its pushes take 101 ms to arrive, others' 2 ms");
}

Test(report, a_slow_way_back_is_blamed_as_network, .init = setup, .fini = teardown)
{
    expect_blame((const times_t[]){ { 101, 25, 2 }, { 1, 20, 2 }, { 1, 20, 2 } }, 0, "network",
                 "rounds wait for worker 0 (host0) 83 % of the time: weights take 100 ms to reach it, others 0.998 ms");
}

Test(report, blame_compares_each_phase_with_that_of_the_others, .init = setup, .fini = teardown)
{
    expect_blame((const times_t[]){ { 60, 10, 2 }, { 60, 60, 2 }, { 60, 10, 2 } }, 1, "compute", "it computes for ");
    expect_blame((const times_t[]){ { 2, 10, 60 }, { 2, 60, 60 }, { 2, 10, 60 } }, 1, "compute", "it computes for ");
    expect_blame((const times_t[]){ { 0, 10, 60 }, { 0, 10, 60 }, { 50, 10, 60 } }, 2, "network", "weights take ");
    expect_blame((const times_t[]){ { 60, 10, 2 }, { 60, 10, 2 }, { 60, 10, 60 } }, 2, "network", "its pushes take ");
    play((const times_t[]){ { 60, 10, 2 }, { 60, 40, 2 }, { 60, 10, 2 } }, 600);
    look();
    cr_expect_gt(of_worker(1, "awaited_share"), 0.2);
    cr_expect_eq(n_alerts(), 0, "what takes all of them long is no reason: %s", alert(0));
}

Test(report, a_silent_worker_is_blamed_for_its_silence, .init = setup, .fini = teardown)
{
    const times_t alike[] = { { 0, 20, 2 }, { 0, 20, 2 }, { 0, 20, 2 } };
    play(alike, 100);
    push_all(0, (push_t){ .samples = 1, .compute_s = 0.02 });
    pass(200); /* in which two were awaited, not one */
    push_all(2, (push_t){ .samples = 1, .compute_s = 0.02 });
    for (uint32_t i = 0; i < 10; i++) {
        pass(500);
        for (uint32_t w = 0; w < N; w += 2) {
            psd_msg_t beat = message(PSD_MSG_HEARTBEAT, w);
            say(w, &beat, NULL, 0);
        }
    }
    look();
    cr_expect_str_eq(json_string_value(json_object_get(worker_at(1), "slow_reason")), "silent");
    cr_expect(json_is_null(json_object_get(worker_at(0), "slow_reason")));
    cr_expect_float_eq(of_worker(1, "awaiting_seconds"), 5, 1e-9);
    cr_assert_eq(n_alerts(), 1);
    cr_expect(strstr(alert(0), "worker 1 (host1)") && strstr(alert(0), "it has sent nothing for 5.2 s"), "%s", alert(0));
    cr_expect_eq(metric("psd_queue_length{shard=\"0\"}"), 2);
}

Test(report, no_worker_is_blamed_for_a_millisecond_or_for_what_all_take, .init = setup, .fini = teardown)
{
    play((const times_t[]){ { 0, 3, 1 }, { 0, 12, 1 }, { 0, 3, 1 } }, 1500);
    look();
    cr_expect_eq(n_alerts(), 0, "9 ms more than the others do not count: %s", alert(0));
    play((const times_t[]){ { 0, 200, 2 }, { 0, 220, 2 }, { 0, 200, 2 } }, 300);
    look();
    cr_expect_eq(n_alerts(), 0, "%s", alert(0));
    play((const times_t[]){ { 0, 100, 2 }, { 0, 140, 2 }, { 0, 100, 2 } }, 400);
    look();
    cr_expect_gt(of_worker(1, "awaited_share"), 0.2);
    cr_expect_eq(n_alerts(), 0, "somebody is always the last: %s", alert(0));
}

/* Whether worker 1 is slow if it computes for so long while the others take 2 ms to send and this long to compute. */
static void expect_slow(uint64_t others, uint64_t its, bool slow)
{
    teardown();
    page = NULL;
    measured = NULL;
    memset(clock_of, 0, sizeof clock_of);
    for (uint32_t w = 0; w < N; w++)
        life[w]++;
    setup();
    play((const times_t[]){ { 0, others, 2 }, { 0, its, 2 }, { 0, others, 2 } }, 400);
    look();
    cr_expect_eq(json_is_string(json_object_get(worker_at(1), "slow_reason")), slow, "%u ms beside %u", (unsigned)its,
                 (unsigned)others);
}

Test(report, slow_is_one_and_a_half_times_as_long_as_others_and_ten_milliseconds_more, .init = setup, .fini = teardown)
{
    expect_slow(20, 30, false);
    expect_slow(20, 32, true);
    expect_slow(10, 19, false);
    expect_slow(10, 22, true);
    expect_slow(100, 150, false);
    expect_slow(100, 155, true);
}

Test(report, a_worker_is_silent_after_one_and_a_half_seconds, .init = setup, .fini = teardown)
{
    play((const times_t[]){ { 0, 20, 2 }, { 0, 20, 2 }, { 0, 20, 2 } }, 20);
    push_all(0, (push_t){ .samples = 1, .compute_s = 0.02 });
    push_all(2, (push_t){ .samples = 1, .compute_s = 0.02 });
    for (int past = 0; past < 2; past++) {
        pass(past ? 1 : 1500);
        look();
        const char *reason = json_string_value(json_object_get(worker_at(1), "slow_reason"));
        cr_expect_eq(reason && !strcmp(reason, "silent"), past, "%s", reason);
    }
}

Test(report, no_worker_is_blamed_if_each_is_slow_now_and_then, .init = setup, .fini = teardown)
{
    static const uint32_t slow[] = { 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0 }; /* 5 of 11 rounds, and the others 3 each */
    for (uint32_t i = 0; i < 50 * 11; i++) {
        times_t times[N] = { { 0, 5, 1 }, { 0, 5, 1 }, { 0, 5, 1 } };
        times[slow[i % 11]].compute = 205;
        play(times, 1);
    }
    look();
    cr_expect_gt(of_worker(0, "awaited_share"), 0.4);
    cr_expect_gt(of_worker(0, "compute_seconds"), 1.5 * of_worker(1, "compute_seconds"));
    cr_expect_eq(n_alerts(), 0, "%s", alert(0));
}

Test(report, a_worker_that_is_slow_more_than_twice_as_often_as_the_others_is_blamed, .init = setup, .fini = teardown)
{
    static const uint32_t slow[] = { 0, 0, 1, 0, 2, 0, 0, 1, 0, 2 }; /* 6 of 10 rounds, and the others 2 each */
    for (uint32_t i = 0; i < 50 * 10; i++) {
        times_t times[N] = { { 0, 5, 1 }, { 0, 5, 1 }, { 0, 5, 1 } };
        times[slow[i % 10]].compute = 205;
        play(times, 1);
    }
    look();
    cr_expect_lt(of_worker(0, "awaited_share"), 3.5 * of_worker(1, "awaited_share"));
    cr_expect_str_eq(json_string_value(json_object_get(worker_at(0), "slow_reason")), "compute");
    cr_expect_eq(n_alerts(), 1);
}

Test(report, a_silent_worker_is_blamed_when_a_fifth_of_the_time_has_gone_to_it, .init = setup, .fini = teardown)
{
    play((const times_t[]){ { 0, 20, 2 }, { 0, 20, 2 }, { 0, 20, 2 } }, 2500);
    push_all(0, (push_t){ .samples = 1, .compute_s = 0.02 });
    push_all(2, (push_t){ .samples = 1, .compute_s = 0.02 });
    for (int past = 0; past < 2; past++) { /* of the last ten seconds or so: 1 - exp(-0.22) are 0.198 */
        pass(past ? 150 : 2200);
        look();
        const char *reason = json_string_value(json_object_get(worker_at(1), "slow_reason"));
        cr_expect_eq(reason && !strcmp(reason, "silent"), past, "%s, %g", reason, of_worker(1, "awaited_share"));
    }
}

/* ---- what was trained ---- */

Test(report, before_the_first_step_the_learning_rate_is_that_of_the_next_one, .init = setup, .fini = teardown)
{
    look();
    cr_expect_eq(metric("psd_learning_rate"), 0.125);
    cr_expect_eq(number_of(json_object_get(page, "optimizer"), "lr_now"), 0.125);
}

Test(report, the_loss_is_weighted_by_samples, .init = setup, .fini = teardown)
{
    push_all(0, (push_t){ .samples = 8, .loss = 1, .gradient = 1 });
    push_all(1, (push_t){ .samples = 24, .loss = 2, .gradient = 2 });
    push_all(2, (push_t){ .samples = 0 + 32, .loss = 4, .gradient = 0 });
    look();
    /* (8 * 1 + 24 * 2 + 32 * 4) / 64 = 184 / 64; squares of 8 elements each: 8 * 1 + 8 * 4 = 40 */
    cr_expect_eq(number_of(json_object_get(page, "loss"), "train"), 2.875);
    cr_expect_eq(metric("psd_training_loss"), 2.875);
    cr_expect_float_eq(metric("psd_gradient_norm"), sqrt(40), 1e-12);
    cr_expect_eq(metric("psd_learning_rate"), 0.125);
    cr_expect_eq(metric("psd_clip_scale"), 1);
    cr_expect_eq(metric("psd_steps_total{shard=\"0\"}"), 1);
    cr_expect_eq(metric("psd_rounds_total{mode=\"bsp\"}"), 1);
    cr_expect_eq(metric("psd_pushes_total{shard=\"0\"}"), 6);
    cr_expect_eq(metric("psd_samples_total"), 64);
    const json_t *progress = json_object_get(page, "progress");
    cr_expect_eq(number_of(progress, "step"), 1);
    cr_expect_eq(number_of(progress, "rounds"), 1);
    cr_expect_eq(number_of(progress, "samples"), 64);
}

Test(report, a_round_without_a_step_counts_as_skipped_and_is_an_alert, .init = setup, .fini = teardown)
{
    push_all(0, (push_t){ .samples = 8, .gradient = NAN });
    push_all(1, (push_t){ .samples = 8, .gradient = 1 });
    push_all(2, (push_t){ .samples = 8, .gradient = 1 });
    look();
    cr_expect_eq(metric("psd_rounds_skipped_total"), 1);
    cr_expect_eq(metric("psd_steps_total{shard=\"0\"}"), 0);
    cr_expect_eq(number_of(page, "skipped_rounds"), 1);
    cr_expect_eq(number_of(json_object_get(page, "progress"), "rounds"), 1);
    cr_expect_eq(number_of(json_object_get(page, "progress"), "step"), 0);
    cr_assert_eq(n_alerts(), 1);
    cr_expect_str_eq(alert(0), "1 rounds were skipped because gradients had Inf or NaN");
}

static void setup_accumulate(void)
{
    coordinator = (psd_coordinator_config_t){
        .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 60000, .lr = 0.125, .accumulate = 3
    };
    join_all("--workers-min=3 --sync-accumulate=3");
}

Test(report, rounds_that_wait_for_their_step_are_gathered_and_not_skipped, .init = setup_accumulate, .fini = teardown)
{
    for (unsigned round = 1; round <= 3; round++) {
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 8, .gradient = 1 });
        look();
        const json_t *accumulate = json_object_get(page, "accumulate");
        cr_expect_eq(number_of(accumulate, "rounds"), 3);
        cr_expect_eq(number_of(accumulate, "gathered"), round % 3, "after round %u", round);
        cr_expect_eq(metric("psd_rounds_gathered"), round % 3);
        cr_expect_eq(number_of(page, "skipped_rounds"), 0);
        cr_expect_eq(metric("psd_rounds_skipped_total"), 0);
    }
    cr_expect_eq(metric("psd_steps_total{shard=\"0\"}"), 1);
}

Test(report, bytes_in_and_out_are_those_of_messages_that_found_a_way, .init = setup, .fini = teardown)
{
    const psd_msg_t msg = { .kind = PSD_MSG_HEARTBEAT };
    look();
    const double received = metric("psd_received_bytes_total{shard=\"0\"}"), sent = metric("psd_sent_bytes_total{shard=\"0\"}");
    psd_report_received(report, 100);
    psd_report_sent(report, &msg, 30, true, ns());
    psd_report_sent(report, &msg, 5000, false, ns());
    look();
    const json_t *shard = json_array_get(json_object_get(page, "shards"), 0);
    cr_expect_eq(metric("psd_received_bytes_total{shard=\"0\"}") - received, 100);
    cr_expect_eq(metric("psd_sent_bytes_total{shard=\"0\"}") - sent, 30);
    cr_expect_eq(number_of(shard, "received_bytes") - received, 100);
    cr_expect_eq(number_of(shard, "sent_bytes") - sent, 30);
    cr_expect_eq(number_of(shard, "sends_lost"), 1);
    psd_report_publish(report, node, now, status);
    cr_assert_eq(get("/history"), 200);
    json_t *history = json_loads(strstr(reply, "\r\n\r\n"), 0, NULL), *rows = json_object_get(history, "rows");
    const json_t *last = json_array_get(rows, json_array_size(rows) - 1);
    cr_expect_eq(json_number_value(json_array_get(last, 3)) - received, 100);
    cr_expect_eq(json_number_value(json_array_get(last, 4)) - sent, 30);
    json_decref(history);
}

Test(report, numbers_that_workers_report_are_shown_in_their_places, .init = setup, .fini = teardown)
{
    static const struct {
        const char *name;
        double value;
    } said[] = { { "val/loss", 0.5 }, { "val/accuracy", 0.875 }, { "progress/rows", 40 }, { "progress/left_seconds", 12 } };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        psd_msg_t msg = message(PSD_MSG_REPORT, 0);
        snprintf(msg.text, sizeof msg.text, "%s", said[i].name);
        msg.value = said[i].value;
        say(0, &msg, NULL, 0);
    }
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 20 });
    look();
    cr_expect_eq(number_of(json_object_get(page, "loss"), "val"), 0.5);
    cr_expect_eq(number_of(json_object_get(page, "progress"), "epoch"), 1.5, "60 samples of 40 rows");
    cr_expect_eq(number_of(json_object_get(page, "progress"), "left_seconds"), 12);
    cr_expect_str_eq(json_string_value(json_object_get(json_object_get(page, "report"), "name")), "val/accuracy");
    cr_expect_eq(number_of(json_object_get(page, "report"), "value"), 0.875);
    cr_expect_eq(metric("psd_epoch"), 1.5);
    cr_expect_eq(metric("psd_time_left_seconds"), 12);
    cr_expect_eq(metric("psd_validation_metric{name=\"val/loss\"}"), 0.5);
    cr_expect_eq(metric("psd_validation_metric{name=\"val/accuracy\"}"), 0.875);
    cr_expect(!has_metric("psd_validation_metric{name=\"progress/rows\"}"));
    psd_report_publish(report, node, now, status);
    cr_assert_eq(get("/history"), 200);
    json_t *history = json_loads(strstr(reply, "\r\n\r\n"), 0, NULL), *points = json_object_get(history, "rows");
    const json_t *last = json_array_get(points, json_array_size(points) - 1);
    cr_expect_eq(json_number_value(json_array_get(last, 6)), 0.5, "val/loss has a column of its own");
    cr_expect_eq(json_number_value(json_array_get(last, 8)), 0.875);
    json_decref(history);
}

/* The newest point of /history has this number in this column. */
static void expect_point(size_t column, double value)
{
    psd_report_publish(report, node, now, status);
    cr_assert_eq(get("/history"), 200);
    json_t *history = json_loads(strstr(reply, "\r\n\r\n"), 0, NULL), *rows = json_object_get(history, "rows");
    const json_t *last = json_array_get(rows, json_array_size(rows) - 1);
    cr_expect_eq(json_number_value(json_array_get(last, column)), value, "%s is %g, not %g",
                 json_string_value(json_array_get(json_object_get(history, "columns"), column)),
                 json_number_value(json_array_get(last, column)), value);
    json_decref(history);
}

Test(report, a_point_of_the_history_is_that_of_the_last_step, .init = setup, .fini = teardown)
{
    push_all(0, (push_t){ .samples = 8, .gradient = NAN });
    for (uint32_t w = 1; w < N; w++)
        push_all(w, (push_t){ .samples = 8, .gradient = 1 });
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 8, .loss = 0.75, .gradient = 1 });
    /* The next round takes another rate, which the step before did not have. */
    psd_msg_t set = message(PSD_MSG_SETTING, 0);
    snprintf(set.text, sizeof set.text, "optimizer.lr");
    set.value = 0.5;
    say(0, &set, NULL, 0);
    expect_point(1, 1); /* of two rounds, the first was skipped */
    expect_point(2, 24);
    expect_point(5, 0.75);
    expect_point(7, 0.125);
    for (uint32_t w = 0; w < N; w++) /* the command before gave this round its rate */
        push_all(w, (push_t){ .samples = 8, .loss = 0.5, .gradient = 1 });
    expect_point(1, 2);
    expect_point(5, 0.5);
    expect_point(7, 0.5);
}

Test(report, refusals_of_server_0_are_counted_with_those_of_its_shard, .init = setup, .fini = teardown)
{
    psd_msg_t hello = message(PSD_MSG_HELLO, 0);
    snprintf(hello.text, sizeof hello.text, "cifar host0");
    say(0, &hello, NULL, 0);
    psd_engine_count_refusal(psd_node_engine(node), PSD_REFUSAL_JOB);
    look();
    char series[96];
    snprintf(series, sizeof series, "psd_messages_rejected_total{shard=\"0\",reason=\"%s\"}", psd_refusal_name(PSD_REFUSAL_JOB));
    cr_expect_eq(metric(series), 2);
    const json_t *rejected = json_object_get(json_array_get(json_object_get(page, "shards"), 0), "rejected");
    cr_expect_eq(number_of(rejected, psd_refusal_name(PSD_REFUSAL_JOB)), 2);
    cr_expect_eq(number_of(rejected, psd_refusal_name(PSD_REFUSAL_CONFIG)), 0);
}

/* ---- the rule ---- */

static void setup_groups(void)
{
    groups = "w(lr_mult=2, clip=0)";
    join_all("--workers-min=3 --optimizer=sgd(lr=0.125) --groups=w(lr_mult=2,clip=0)");
}

Test(report, each_group_has_its_own_rate_and_what_it_holds, .init = setup_groups, .fini = teardown)
{
    static const struct {
        const char *match;
        double lr_mult, lr_now;
        bool clip;
    } want[] = { { "w", 2, 0.25, false }, { "*", 1, 0.125, true } };
    look();
    const json_t *list = json_object_get(json_object_get(page, "optimizer"), "groups");
    cr_assert_eq(json_array_size(list), 2);
    for (size_t g = 0; g < 2; g++) {
        const json_t *group = json_array_get(list, g);
        cr_expect_str_eq(json_string_value(json_object_get(group, "match")), want[g].match);
        cr_expect_eq(number_of(group, "lr_mult"), want[g].lr_mult);
        cr_expect_eq(number_of(group, "lr_now"), want[g].lr_now);
        cr_expect_eq(json_is_true(json_object_get(group, "clip")), want[g].clip);
        cr_expect(json_is_false(json_object_get(group, "frozen")));
        cr_expect_eq(number_of(group, "tensors"), 1);
        cr_expect_eq(number_of(group, "parameters"), 4);
        cr_expect_not_null(strstr(json_string_value(json_object_get(group, "rule")), "sgd(lr=0.125"));
    }
}

static void setup_frozen(void)
{
    groups = "w(freeze=1)";
    join_all("--workers-min=3 --optimizer=sgd(lr=0.125) --groups=w(freeze=1)");
}

Test(report, a_frozen_group_has_no_rule, .init = setup_frozen, .fini = teardown)
{
    look();
    const json_t *group = json_array_get(json_object_get(json_object_get(page, "optimizer"), "groups"), 0);
    cr_expect(json_is_true(json_object_get(group, "frozen")));
    cr_expect_str_eq(json_string_value(json_object_get(group, "rule")), "");
    cr_expect_eq(number_of(group, "lr_now"), 0);
}

static void setup_lookahead(void)
{
    rule = "lookahead(sgd(lr=0.125), k=2, alpha=0.25)";
    join_all("--workers-min=3 --optimizer=lookahead(sgd(lr=0.125),k=2,alpha=0.25)");
}

Test(report, lookaheads_phase_counts_the_steps_since_the_last_sync, .init = setup_lookahead, .fini = teardown)
{
    for (unsigned step = 0; step < 6; step++) {
        look();
        const json_t *lookahead = json_object_get(json_object_get(page, "optimizer"), "lookahead");
        cr_expect_eq(number_of(lookahead, "k"), 2);
        cr_expect_eq(number_of(lookahead, "alpha"), 0.25);
        cr_expect_eq(number_of(lookahead, "phase"), step % 2);
        cr_expect_eq(number_of(lookahead, "sync_epoch"), step / 2);
        cr_expect_eq(metric("psd_lookahead_syncs_total"), step / 2);
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 1, .gradient = 1 });
    }
    const uint8_t both = 3;
    psd_msg_t pull = message(PSD_MSG_PULL, 0);
    pull.parts = PARTS;
    pull.clock = 7;
    say(0, &pull, &both, 1);
    look();
    cr_expect_eq(metric("psd_pulls_total{shard=\"0\",which=\"slow\"}"), PARTS);
    cr_expect_eq(metric("psd_pulls_total{shard=\"0\",which=\"fast\"}"), 7 * N * PARTS, "before the first step, and after each");
}

static void setup_ahead(void)
{
    coordinator = (psd_coordinator_config_t){
        .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 60000, .lr = 0.125, .foretell_from = 1
    };
    join_all("--workers-min=3");
}

/* In each round the first part is stepped when the last worker has pushed it, 10 ms before its second. In the last round that is not
 * finite. */
Test(report, parts_stepped_ahead_and_those_in_vain_are_counted_and_their_weights_answer_no_push, .init = setup_ahead,
     .fini = teardown)
{
    look(); /* times are counted from the first request for them */
    for (unsigned round = 0; round < 5; round++) {
        push_t push = { .samples = 1, .gradient = 1, .ahead = true };
        push_all(0, push);
        push_all(1, push);
        push_part(2, 0, &push);
        now += 10;
        push.gradient = round == 4 ? NAN : 1;
        push_part(2, 1, &push);
    }
    look();
    const json_t *ahead = json_object_get(json_object_get(page, "sync"), "ahead");
    cr_expect_eq(number_of(ahead, "parts"), 5);
    cr_expect_eq(number_of(ahead, "in_vain"), 1);
    cr_expect_eq(metric("psd_parts_ahead_total{shard=\"0\"}"), 5);
    cr_expect_eq(metric("psd_parts_ahead_in_vain_total{shard=\"0\"}"), 1);
    cr_expect_eq(metric("psd_push_latency_seconds_count"), 5 * N);
    cr_expect_float_eq(metric("psd_push_latency_seconds_sum"), 5 * 2 * 0.010, 1e-9);
}

static void setup_fold(void)
{
    coordinator = (psd_coordinator_config_t){
        .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 60000, .lr = 0.125, .foretell_from = 2
    };
    join_all("--workers-min=3");
}

Test(report, pushes_added_up_early_and_those_asked_for_again_are_counted_apart, .init = setup_fold, .fini = teardown)
{
    for (unsigned round = 0; round < 4; round++)
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = round == 3 ? w + 1 : 1, .gradient = 1 });
    look();
    const json_t *folded = json_object_get(json_object_get(page, "sync"), "folded");
    cr_expect_eq(number_of(folded, "pushes"), metric("psd_pushes_folded_total{shard=\"0\"}"));
    cr_expect_eq(number_of(folded, "asked_again"), metric("psd_pushes_asked_again_total{shard=\"0\"}"));
    /* Two of each round's three pushes come before the last; in the last round only the first is as expected, in vain. */
    cr_expect_eq(number_of(folded, "pushes"), 7);
    cr_expect_eq(number_of(folded, "asked_again"), 1);
    clock_of[0]--;
    push_all(0, (push_t){ .samples = 1, .gradient = 1 });
    look();
    cr_expect_eq(of_worker(0, "pushes"), 4, "the fourth came twice");
    cr_expect_eq(of_worker(0, "samples"), 4);
    cr_expect_eq(metric("psd_worker_samples_total{worker=\"0\"}"), 4);
}

/* ---- pushes that are steps of their own ---- */

static void setup_asp(void) { join_all("--workers-min=3 --sync-mode=asp --sync-max-staleness=0"); }

Test(report, a_staleness_counts_at_most_its_own_bound, .init = setup_asp, .fini = teardown)
{
    /* The number of steps that each push has missed, by the version of its weights. */
    static const uint64_t staleness[] = { 0, 1, 2, 3, 4, 5 };
    for (uint64_t step = 0; step < 6; step++)
        push_all(0, (push_t){ .samples = 1, .version = step - staleness[step] });
    look();
    cr_expect_eq(metric("psd_staleness_steps_bucket{le=\"0\"}"), 1);
    cr_expect_eq(metric("psd_staleness_steps_bucket{le=\"1\"}"), 2);
    cr_expect_eq(metric("psd_staleness_steps_bucket{le=\"2\"}"), 3);
    cr_expect_eq(metric("psd_staleness_steps_bucket{le=\"4\"}"), 5, "3 and 4");
    cr_expect_eq(metric("psd_staleness_steps_bucket{le=\"8\"}"), 6);
    cr_expect_eq(metric("psd_staleness_steps_count"), 6);
    cr_expect_eq(metric("psd_staleness_steps_sum"), 15);
    cr_expect_eq(number_of(json_object_get(page, "progress"), "rounds"), 6, "where there are none, each step counts");
    const json_t *said = json_object_get(json_object_get(page, "sync"), "staleness");
    cr_expect_eq(number_of(said, "mean"), 2.5);
    cr_expect_eq(number_of(said, "max"), 5);
    static const double buckets[] = { 1, 1, 1, 2, 1, 0 }; /* each for itself */
    cr_expect_eq(json_array_size(json_object_get(said, "histogram")), PSD_STALENESS_BUCKETS);
    for (size_t i = 0; i < sizeof buckets / sizeof *buckets; i++)
        cr_expect_eq(json_number_value(json_array_get(json_object_get(said, "histogram"), i)), buckets[i], "%zu", i);
    cr_expect_eq(of_worker(0, "staleness"), 5);
    cr_expect_eq(of_worker(0, "lag_steps"), 0);
    cr_expect_eq(of_worker(0, "step"), 6, "though it has sent no heartbeat since");
    cr_expect_eq(of_worker(1, "lag_steps"), 6, "behind the first");
    cr_expect_eq(of_worker(1, "step"), 0);
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, 0);
    beat.clock = 7;
    say(0, &beat, NULL, 0);
    look();
    cr_expect_eq(of_worker(0, "step"), 7, "it is at the seventh");
    cr_expect_eq(metric("psd_worker_lag_steps{worker=\"1\"}"), 6);
    cr_expect_eq(metric("psd_worker_lag_steps{worker=\"0\"}"), 0);
    push_all(0, (push_t){ .samples = 1, .version = 5 });
    look();
    cr_expect_eq(of_worker(0, "staleness"), 1, "that of its last push");
}

Test(report, in_asp_a_worker_that_takes_long_is_slow, .init = setup_asp, .fini = teardown)
{
    for (uint32_t i = 0; i < 500; i++) {
        now += 20;
        for (uint32_t w = 0; w < N; w++)
            if (w != 1 || i % 5 == 4)
                push_all(w, (push_t){ .samples = 1,
                                      .version = psd_engine_version(psd_node_engine(node)),
                                      .compute_s = w == 1 ? 0.1 : 0.02 });
    }
    look();
    cr_expect_str_eq(json_string_value(json_object_get(worker_at(1), "slow_reason")), "compute");
    cr_expect(json_is_null(json_object_get(worker_at(0), "slow_reason")));
    cr_assert_eq(n_alerts(), 1);
    cr_expect_str_eq(alert(0), "worker 1 (host1) is slow: it computes for 99.5 ms a push, others for 20 ms");
    cr_expect_eq(of_worker(1, "awaited_share"), 0);
    const json_t *shares = json_object_get(worker_at(0), "time_shares");
    cr_expect_eq(number_of(shares, "waiting"), 0, "no worker waits for another");
    cr_expect_float_eq(number_of(shares, "computing"), 1, 1e-2);
    cr_expect_eq(of_worker(0, "awaiting_seconds"), 0);
    pass(500); /* it reports its state now and then */
    look();
    const json_t *server = json_array_get(json_object_get(page, "servers"), 0);
    cr_expect_eq(number_of(server, "version"), 2 * 500 + 100, "each push is a step");
    cr_expect_eq(number_of(server, "step"), 0, "clocks are each worker's own");
}

Test(report, in_asp_no_worker_is_awaited_by_those_whose_pushes_an_operator_holds, .init = setup_asp, .fini = teardown)
{
    psd_msg_t pause = { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL, .seq = 1 };
    snprintf(pause.text, sizeof pause.text, "mnist pause");
    psd_buf_t *body = said_with(&pause, NULL, 0);
    psd_node_message(node, now, peer_of(9), &pause, body, &out);
    psd_buf_unref(&body);
    carry_out();
    push_all(0, (push_t){ .samples = 1 });
    pass(1000);
    look();
    cr_expect_str_eq(json_string_value(json_object_get(page, "state")), "paused");
    cr_expect_eq(of_worker(1, "awaiting_seconds"), 0);
    cr_expect_eq(of_worker(1, "awaited_share"), 0);
    const json_t *shares = json_object_get(worker_at(0), "time_shares");
    cr_expect_eq(number_of(shares, "waiting"), 0);
    cr_expect_float_eq(number_of(shares, "served"), 1, 1e-3);
    cr_expect_eq(metric("psd_queue_length{shard=\"0\"}"), 1);
}

/* ---- checkpoints ---- */

static bool asked(psd_act_t act)
{
    bool was = false;
    for (size_t i = 0; i < out.n; i++)
        was |= out.at[i].act == act;
    psd_actions_drop(&out, out.n);
    return was;
}

static void tick(uint64_t ms)
{
    now += ms;
    psd_node_tick(node, now, &out);
}

static void setup_checkpoints(void)
{
    coordinator = (psd_coordinator_config_t){
        .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 60000, .lr = 0.125, .checkpoints = true
    };
    join_all("--workers-min=3 --checkpoint-dir=/somewhere");
}

Test(report, a_checkpoint_has_its_age_its_duration_and_its_size, .init = setup_checkpoints, .fini = teardown)
{
    look();
    cr_expect_null(json_object_get(page, "checkpoint"));
    cr_expect(!has_metric("psd_checkpoint_last_success_timestamp_seconds"));
    tick(100);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    tick(150);
    psd_actions_drop(&out, out.n);
    psd_node_save_begun(node, now, &out);
    for (uint32_t p = 0; p < PARTS; p++)
        psd_node_part_saved(node, now, p, &out);
    cr_assert(asked(PSD_ACT_SAVE_END));
    psd_node_saved(node, now, NULL, &out);
    cr_assert(asked(PSD_ACT_COMMIT));
    tick(100);
    psd_actions_drop(&out, out.n);
    psd_node_committed(node, now, 0, NULL, &out);
    psd_report_stored(report, 12345);
    pass(3000);
    const double before = psd_report_unix_time() - 3;
    look();
    const json_t *point = json_object_get(page, "checkpoint");
    cr_expect_float_eq(number_of(point, "age_seconds"), 3, 1e-9);
    cr_expect_float_eq(number_of(point, "duration_seconds"), 0.25, 1e-9);
    cr_expect_eq(number_of(point, "number"), 0);
    cr_expect_eq(number_of(point, "shard_bytes"), 12345);
    cr_expect(json_is_false(json_object_get(point, "saving")) && json_is_false(json_object_get(point, "failing")));
    const double when = metric("psd_checkpoint_last_success_timestamp_seconds");
    cr_expect(when >= before - 1e-3 && when <= psd_report_unix_time() - 3 + 1e-3, "%f, not %f", when, before);
    cr_expect_eq(metric("psd_checkpoint_duration_seconds"), 0.25);
    cr_expect_eq(metric("psd_checkpoint_bytes{shard=\"0\"}"), 12345);
}

static void expect_saving(bool saving, bool failing)
{
    look();
    const json_t *point = json_object_get(page, "checkpoint");
    cr_expect_eq(json_is_true(json_object_get(point, "saving")), saving);
    cr_expect_eq(json_is_true(json_object_get(point, "failing")), failing);
}

static void make_first_checkpoint(void)
{
    tick(100);
    psd_actions_drop(&out, out.n);
    psd_node_save_begun(node, now, &out);
    for (uint32_t p = 0; p < PARTS; p++)
        psd_node_part_saved(node, now, p, &out);
    psd_node_saved(node, now, NULL, &out);
    tick(100);
    psd_actions_drop(&out, out.n);
    psd_node_committed(node, now, 0, NULL, &out);
}

Test(report, a_checkpoint_is_said_to_be_under_way_or_to_fail, .init = setup_checkpoints, .fini = teardown)
{
    make_first_checkpoint();
    expect_saving(false, false);
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 1 });
    psd_node_request_save(node);
    tick(100);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    expect_saving(true, false);
    cr_expect_eq(number_of(json_object_get(page, "checkpoint"), "last_step"), 0, "it does not hold the step since");
    psd_node_saved(node, now, "No space left on device", &out);
    tick(100);
    expect_saving(false, true);
    cr_expect_str_eq(alert(0), "checkpoints cannot be written; see the log");
    cr_expect_eq(number_of(json_object_get(page, "checkpoint"), "number"), 0, "the one before stays the newest");
}

Test(report, a_job_that_is_stopped_trains_until_its_last_checkpoint_is_safe, .init = setup_checkpoints, .fini = teardown)
{
    make_first_checkpoint();
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 1 });
    psd_node_stop(node, now, &out);
    tick(50);
    look();
    cr_expect_str_eq(json_string_value(json_object_get(page, "state")), "training");
    cr_expect_str_eq(json_string_value(json_object_get(page, "reason")), "the last checkpoint (number 1)");
    cr_expect_eq(metric("psd_job_state{state=\"stopped\"}"), 0);
    psd_node_save_begun(node, now, &out);
    for (uint32_t p = 0; p < PARTS; p++)
        psd_node_part_saved(node, now, p, &out);
    psd_node_saved(node, now, NULL, &out);
    tick(50);
    psd_node_committed(node, now, 1, NULL, &out);
    tick(50);
    look();
    cr_expect_str_eq(json_string_value(json_object_get(page, "state")), "stopped");
    cr_expect_eq(metric("psd_job_state{state=\"stopped\"}"), 1);
    cr_expect_eq(metric("psd_job_state{state=\"finished\"}"), 0);
    for (uint32_t w = 0; w < N; w++) {
        psd_msg_t leave = message(PSD_MSG_LEAVE, w);
        leave.code = PSD_LEAVE_UNFINISHED;
        say(w, &leave, NULL, 0);
    }
    look();
    cr_expect_eq(metric("psd_workers{state=\"left\"}"), N);
    cr_expect_eq(metric("psd_workers_missing"), 0, "a job that is over needs no workers");
}

Test(report, a_worker_whose_work_is_done_is_one_that_is_not_missing, .init = setup_checkpoints, .fini = teardown)
{
    make_first_checkpoint();
    for (uint32_t w = 0; w < 2; w++) {
        psd_msg_t leave = message(PSD_MSG_LEAVE, w);
        leave.code = w ? PSD_LEAVE_UNFINISHED : PSD_LEAVE_FINISHED;
        say(w, &leave, NULL, 0);
    }
    look();
    cr_expect_eq(metric("psd_workers{state=\"done\"}"), 1);
    cr_expect_eq(metric("psd_workers_missing"), 1);
}

/* ---- present workers ---- */

static void setup_drop(void)
{
    coordinator = (psd_coordinator_config_t){
        .job = "mnist", .workers_min = 2, .workers_want = N, .lease_ms = 2000, .lr = 0.125, .drops_lost = true
    };
    join_all("--workers-want=3 --workers-min=2 --workers-lost=drop");
}

/* Worker 2 is silent until its lease is over. */
static void lose_worker_2(void)
{
    for (uint32_t i = 0; i < 5; i++) {
        pass(500);
        for (uint32_t w = 0; w < 2; w++) {
            psd_msg_t beat = message(PSD_MSG_HEARTBEAT, w);
            say(w, &beat, NULL, 0);
        }
    }
}

Test(report, a_lost_worker_is_listed_counted_and_no_longer_behind, .init = setup_drop, .fini = teardown)
{
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 1 });
    push_all(0, (push_t){ .samples = 1 });
    push_all(1, (push_t){ .samples = 1 });
    look();
    cr_expect(has_metric("psd_worker_lag_steps{worker=\"2\"}"));
    cr_expect(has_metric("psd_worker_last_push_timestamp_seconds{worker=\"2\"}"));
    cr_expect_eq(metric("psd_workers{state=\"live\"}"), 3);
    lose_worker_2();
    look();
    cr_expect_eq(metric("psd_workers{state=\"live\"}"), 2);
    cr_expect_eq(metric("psd_workers{state=\"lost\"}"), 1);
    cr_expect_eq(metric("psd_workers_lost_total"), 1);
    cr_expect_eq(metric("psd_workers_missing"), 0, "where lost ones are dropped, workers.min are due");
    cr_expect(!has_metric("psd_worker_lag_steps{worker=\"2\"}"));
    cr_expect(!has_metric("psd_worker_awaited_ratio{worker=\"2\"}"));
    cr_expect(!has_metric("psd_worker_last_push_timestamp_seconds{worker=\"2\"}"));
    cr_expect_eq(number_of(page, "workers_live"), 2);
    cr_expect_eq(number_of(page, "workers_min"), 2);
    cr_expect_eq(number_of(page, "workers_want"), 3);
    const json_t *lost = json_object_get(page, "workers_lost");
    cr_assert_eq(json_array_size(lost), 1);
    cr_expect_eq(number_of(json_array_get(lost, 0), "id"), 2);
    cr_expect_float_eq(number_of(json_array_get(lost, 0), "last_heard_age_seconds"), 2.5, 1e-9);
    cr_assert_eq(n_alerts(), 1);
    cr_expect_str_eq(alert(0), "worker 2 (host2) is lost; the others continue without it");
    cr_expect_eq(metric("psd_job_state{state=\"training\"}"), 1);
    cr_expect_eq(metric("psd_job_state{state=\"degraded\"}"), 0);
}

Test(report, of_two_workers_the_slow_one_is_compared_with_the_other, .init = setup_drop, .fini = teardown)
{
    lose_worker_2();
    psd_msg_t beat = message(PSD_MSG_HEARTBEAT, 1);
    say(1, &beat, NULL, 0);
    play((const times_t[]){ { 0, 20, 2 }, { 0, 120, 2 }, { 0, UINT32_MAX, 0 } }, 600);
    look();
    cr_assert_eq(n_alerts(), 2);
    cr_expect_str_eq(alert(0),
                     "rounds wait for worker 1 (host1) 82 % of the time: it computes for 119 ms a push, others for 20 ms");
}

static void setup_leases(void)
{
    coordinator = (psd_coordinator_config_t){ .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 2000, .lr = 0.125 };
    join_all("--workers-min=3");
}

Test(report, a_missing_worker_is_reported_everywhere, .init = setup_leases, .fini = teardown)
{
    psd_msg_t left = message(PSD_MSG_REPORT, 0);
    snprintf(left.text, sizeof left.text, "progress/left_seconds");
    left.value = 12;
    say(0, &left, NULL, 0);
    look();
    cr_expect_eq(number_of(json_object_get(page, "progress"), "left_seconds"), 12);
    cr_expect_eq(metric("psd_time_left_seconds"), 12);
    lose_worker_2();
    push_all(0, (push_t){ .samples = 1 });
    /* The round waits, and closes with the workers that are left when another one has come. */
    push_all(1, (push_t){ .samples = 1 });
    pass(100);
    look();
    cr_expect_str_eq(json_string_value(json_object_get(page, "state")), "degraded");
    cr_expect_eq(metric("psd_job_state{state=\"degraded\"}"), 1);
    cr_expect_eq(metric("psd_job_state{state=\"training\"}"), 0);
    cr_expect_eq(metric("psd_workers_missing"), 1);
    cr_assert_eq(n_alerts(), 2);
    cr_expect_str_eq(alert(0), "the job waits for more workers: 2 of 3 workers are here");
    cr_expect_str_eq(alert(1), "the job waits for worker 2 (host2), silent for 2 s");
    cr_expect_eq(json_array_size(json_object_get(page, "missing")), 2);
    cr_expect_null(json_object_get(json_object_get(page, "progress"), "left_seconds"), "a job that waits does not get shorter");
    cr_expect_not(has_metric("psd_time_left_seconds"));
}

/* ---- readiness ---- */

static void expect_ready(int code, const char *words)
{
    psd_report_publish(report, node, now, status);
    cr_expect_eq(get("/readyz?verbose"), code, "%s", reply);
    cr_expect_not_null(strstr(reply, words), "\"%s\" is not in %s", words, reply);
}

Test(report, a_job_is_ready_when_its_workers_are_here, .fini = teardown)
{
    coordinator = (psd_coordinator_config_t){ .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 2000, .lr = 0.125 };
    make_node("--workers-min=3");
    expect_ready(503, "[+]joined ok\n[+]listening ok\n[-]quorum 0/3\n");
    cr_expect_not_null(strstr(reply, "[-]missing more workers: 0 of 3 workers have registered\n"), "%s", reply);
    for (uint32_t w = 0; w < N; w++)
        join(w);
    expect_ready(200, "[+]quorum 3/3\n");
    cr_expect_null(strstr(reply, "[-]"), "%s", reply);
    lose_worker_2();
    expect_ready(503, "[-]quorum 2/3\n");
    cr_expect_not_null(strstr(reply, "[-]missing worker 2 (host2), silent for 2 s\n"), "%s", reply);
    psd_msg_t leave = message(PSD_MSG_LEAVE, 0);
    life[2]++;
    join(2);
    say(0, &leave, NULL, 0);
    expect_ready(200, "[+]quorum 3/3\n");
    look();
    cr_expect_eq(metric("psd_workers_missing"), 0, "one that has finished is not missing");
}

Test(report, a_server_that_publishes_nothing_for_five_seconds_is_not_alive, .init = setup, .fini = teardown)
{
    stopped_s = 1000000;
    psd_report_publish(report, node, now, status);
    stopped_s += 4;
    cr_expect_eq(get("/livez"), 200, "%s", reply);
    stopped_s += 2;
    cr_expect_eq(get("/livez"), 500, "%s", reply);
    psd_report_publish(report, node, now, status);
    cr_expect_eq(get("/livez"), 200, "%s", reply);
}

Test(report, a_job_that_can_make_no_checkpoint_is_not_ready, .init = setup_checkpoints, .fini = teardown)
{
    expect_ready(200, "[+]quorum 3/3\n");
    tick(100);
    cr_assert(asked(PSD_ACT_SAVE_BEGIN));
    psd_node_saved(node, now, "No space left on device", &out);
    tick(100);
    expect_ready(
        503,
        "[-]missing the first checkpoint, before which nothing is trained; it cannot be made: server 0: No space left on device\n");
}

static void server_joins(uint32_t server, uint64_t process)
{
    psd_msg_t hello = { .kind = PSD_MSG_SHARD_HELLO, .protocol = PSD_PROTOCOL, .seq = process << 16, .code = server + 1 };
    snprintf(hello.text, sizeof hello.text, "mnist tcp://b:%u mode=x", server);
    psd_buf_t *body = said_with(&hello, NULL, 0);
    psd_node_message(node, now, psd_peer_make(9 + server, 1), &hello, body, &out);
    psd_buf_unref(&body);
}

static const json_t *server_at(size_t i) { return json_array_get(json_object_get(page, "servers"), i); }

static void expect_server(size_t i, bool joined, bool lost)
{
    cr_expect_eq(number_of(server_at(i), "index"), i);
    cr_expect_eq(json_is_true(json_object_get(server_at(i), "joined")), joined, "%zu", i);
    cr_expect_eq(json_is_true(json_object_get(server_at(i), "lost")), lost, "%zu", i);
}

Test(report, a_server_has_an_address_and_an_age_from_when_it_joins_even_when_it_is_lost, .fini = teardown)
{
    coordinator = (psd_coordinator_config_t){ .job = "mnist", .workers_min = 1, .workers_want = 1, .lease_ms = 2000, .lr = 0.125 };
    make_node("--servers=3");
    look();
    cr_expect_eq(json_array_size(json_object_get(page, "servers")), 3);
    expect_server(1, false, false);
    cr_expect(json_is_null(json_object_get(server_at(1), "last_heard_age_seconds")), "it has not been heard");
    server_joins(1, 1);
    server_joins(2, 2);
    psd_msg_t hello = message(PSD_MSG_HELLO, 0);
    snprintf(hello.text, sizeof hello.text, "mnist host0");
    say(0, &hello, NULL, 0);
    pass(1500);
    look();
    expect_server(1, true, false);
    cr_expect_str_eq(json_string_value(json_object_get(server_at(1), "endpoint")), "tcp://b:1");
    cr_expect_float_eq(number_of(server_at(1), "last_heard_age_seconds"), 1.5, 1e-9);
    hello = message(PSD_MSG_HEARTBEAT, 0);
    say(0, &hello, NULL, 0);
    pass(1000);
    look();
    expect_server(1, false, true);
    cr_expect_float_eq(number_of(server_at(1), "last_heard_age_seconds"), 2.5, 1e-9);
    const json_t *lost = json_array_get(json_object_get(page, "servers_lost"), 0);
    cr_expect_eq(number_of(lost, "index"), 1);
    cr_expect_float_eq(number_of(lost, "last_heard_age_seconds"), 2.5, 1e-9);
    cr_expect_eq(metric("psd_servers_lost"), 2);
    server_joins(2, 3); /* another process: the job begins another run, which server 1 has not joined */
    pass(100);
    look();
    expect_server(2, true, false);
    expect_server(1, false, true);
    cr_expect_float_eq(number_of(server_at(1), "last_heard_age_seconds"), 2.6, 1e-9);
    cr_expect_eq(number_of(page, "runs"), 2);
}

static void welcome(uint64_t code, const char *missing)
{
    psd_msg_t msg = { .kind = PSD_MSG_SHARD_WELCOME, .protocol = PSD_PROTOCOL, .seq = 1, .job = JOB, .shard = 1, .world = 2 };
    msg.n_elements = 4;
    msg.code = (uint32_t)code;
    snprintf(msg.text, sizeof msg.text, "%s", missing);
    psd_node_message(node, now, PSD_PEER_COORDINATOR, &msg, NULL, &out);
    psd_actions_drop(&out, out.n);
}

Test(report, a_server_that_has_joined_server_0_is_ready_if_that_reports_it, .fini = teardown)
{
    start("--servers=2 --server-index=1");
    cr_assert_not_null(node = psd_node_new(&engine, NULL, &err));
    psd_node_tick(node, now, &out);
    expect_ready(503, "[-]joined waiting for server 0\n");
    cr_expect_str_eq(psd_report_state(report, node), "waiting");
    welcome((PSD_JOB_DEGRADED + 1) * PSD_WELCOME_STATE, "worker 0 (a), silent for 9 s; server 2 of 3, which has not joined yet");
    expect_ready(503, "[+]joined ok\n[+]listening ok\n[-]job degraded\n"
                      "[-]missing worker 0 (a), silent for 9 s\n[-]missing server 2 of 3, which has not joined yet\n");
    look();
    cr_expect_str_eq(json_string_value(json_object_get(page, "reason")), "worker 0 (a), silent for 9 s");
    cr_expect_eq(json_array_size(json_object_get(page, "missing")), 2);
    cr_expect_eq(json_array_size(json_object_get(page, "servers_lost")), 0);
    welcome((PSD_JOB_TRAINING + 1) * PSD_WELCOME_STATE | PSD_WELCOME_READY, "");
    expect_ready(200, "[+]job training\n");
    look();
    cr_expect_null(json_object_get(page, "reason"), "it waits for nothing");
    pass(2001);
    expect_ready(503, "[-]missing server 0 at tcp://first:7470, silent for 2 s\n");
    cr_expect_str_eq(psd_report_state(report, node), "degraded");
    look();
    cr_expect_eq(metric("psd_servers_lost"), 1);
    const json_t *lost = json_object_get(page, "servers_lost");
    cr_assert_eq(json_array_size(lost), 1);
    cr_expect_float_eq(number_of(json_array_get(lost, 0), "last_heard_age_seconds"), 2.001, 1e-9);
    psd_report_end(report, PSD_ESTOPPED);
    cr_expect_str_eq(psd_report_state(report, node), "stopped");
    psd_report_end(report, PSD_OK);
    cr_expect_str_eq(psd_report_state(report, node), "finished");
    psd_report_end(report, PSD_EIO);
    cr_expect_str_eq(psd_report_state(report, node), "failed");
}

/* ---- what a job is ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "(none)";
}

Test(report, a_job_and_its_shard_are_described, .init = setup, .fini = teardown)
{
    const double before = psd_report_unix_time();
    psd_report_memory_links(report, 3);
    psd_report_connections_refused(report, 5);
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 1 });
    look();
    cr_expect_str_eq(text_of(page, "schema"), "psd.status/1");
    cr_expect_str_eq(text_of(page, "job"), "mnist");
    cr_expect_str_eq(text_of(page, "role"), "server");
    cr_expect_str_eq(text_of(page, "version"), PSD_VERSION);
    cr_expect_str_eq(text_of(page, "settings"), "mode=x");
    cr_expect(json_is_true(json_object_get(page, "ready")));
    cr_expect_eq(number_of(json_object_get(page, "shard"), "index"), 0);
    cr_expect_eq(number_of(json_object_get(page, "shard"), "count"), 1);
    cr_expect(number_of(page, "now") >= before && number_of(page, "now") <= psd_report_unix_time());
    cr_expect_str_eq(text_of(json_object_get(page, "optimizer"), "schedule"), "constant");
    cr_expect_str_eq(text_of(json_object_get(page, "optimizer"), "schedule_unit"), "step");
    psd_coordinator_facts_t facts;
    psd_coordinator_facts(psd_node_coordinator(node), &facts);
    cr_expect_eq(number_of(page, "view"), facts.view_id);
    cr_expect_eq(metric("psd_membership_epoch"), facts.view_id);
    const json_t *sync = json_object_get(page, "sync"), *shard = json_array_get(json_object_get(page, "shards"), 0);
    cr_expect_str_eq(text_of(sync, "mode"), "bsp");
    cr_assert_eq(json_array_size(json_object_get(sync, "waiting_for")), 1);
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(sync, "waiting_for"), 0)),
                     "pushes of workers 0, 1, 2 (round 2)");
    cr_expect_str_eq(text_of(page, "reason"), "pushes of workers 0, 1, 2 (round 2)");
    cr_expect_eq(number_of(shard, "index"), 0);
    cr_expect_eq(number_of(shard, "epoch"), 1);
    cr_expect_eq(number_of(shard, "version"), 1);
    cr_expect_eq(number_of(shard, "parameters"), 8);
    cr_expect_eq(number_of(shard, "bytes"), 32);
    cr_expect_eq(number_of(shard, "chunks"), 2);
    cr_expect_eq(number_of(shard, "memory_links"), 3);
    cr_expect_str_eq(text_of(worker_at(1), "name"), "host1");
    cr_expect_eq(of_worker(1, "id"), 1);
    cr_expect_eq(of_worker(1, "incarnation"), 1);
    cr_expect_eq(metric("psd_build_info{version=\"" PSD_VERSION "\"}"), 1);
    cr_expect(metric("psd_up_since_timestamp_seconds") <= before && metric("psd_up_since_timestamp_seconds") >= before - 60);
    cr_expect_eq(metric("psd_shard_version{shard=\"0\"}"), 1);
    cr_expect_eq(metric("psd_memory_links{shard=\"0\"}"), 3);
    cr_expect_eq(metric("psd_connections_refused_total{shard=\"0\"}"), 5);
    cr_expect_eq(metric("psd_http_requests_total{path=\"/livez\"}"), 0);
    get("/livez");
    get("/nowhere");
    look();
    cr_expect_eq(metric("psd_http_requests_total{path=\"/livez\"}"), 1);
    cr_expect_eq(metric("psd_http_requests_total{path=\"other\"}"), 1);
    cr_expect_eq(metric("psd_http_requests_total{path=\"/status\"}"), 0);
}

static void setup_quarantine(void)
{
    coordinator = (psd_coordinator_config_t){
        .job = "mnist", .workers_min = 2, .workers_want = N, .lease_ms = 60000, .lr = 0.125, .quarantine_after = 2
    };
    join_all("--workers-want=3 --workers-min=2");
}

Test(report, a_quarantined_worker_is_shown_as_such_and_counted_twice, .init = setup_quarantine, .fini = teardown)
{
    for (int round = 0; round < 2; round++)
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 1, .gradient = w == 1 ? NAN : 1 });
    look();
    cr_expect_str_eq(text_of(worker_at(0), "state"), "live");
    cr_expect_str_eq(text_of(worker_at(1), "state"), "quarantined");
    cr_expect_eq(metric("psd_workers_quarantined_total"), 1);
    cr_expect_eq(metric("psd_workers_lost_total"), 1);
    cr_expect_eq(number_of(page, "skipped_rounds"), 2);
}

/* ---- the health of tensors ---- */

static void setup_looks(void)
{
    look_every = 1;
    join_all("--workers-min=3 --health-every=1");
}

static const json_t *tensor_at(size_t i) { return json_array_get(json_object_get(json_object_get(page, "health"), "tensors"), i); }

Test(report, tensors_have_their_figures_and_a_strip_of_looks, .init = setup_looks, .fini = teardown)
{
    look();
    const json_t *health = json_object_get(page, "health");
    cr_expect_eq(number_of(health, "every"), 1);
    cr_expect_eq(number_of(health, "looks"), 0);
    cr_expect_null(json_object_get(health, "tensors"));
    for (int step = 0; step < 2; step++)
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 1, .gradient = step ? 0 : 0.5f });
    look();
    health = json_object_get(page, "health");
    cr_expect_eq(number_of(health, "looks"), 2);
    cr_expect_eq(number_of(health, "step"), 2);
    cr_expect_eq(number_of(health, "omitted"), 0);
    cr_expect_eq(json_array_size(json_object_get(health, "columns")), 2);
    cr_expect_eq(json_integer_value(json_array_get(json_object_get(health, "columns"), 1)), 2);
    cr_expect_eq(number_of(json_object_get(health, "states"), "ok"), 2);
    cr_assert_eq(json_array_size(json_object_get(health, "tensors")), 2);
    /* A step of 0.125 * 0.5 from 1, 2, 3 and 4: their norm is then sqrt(29.07); the second gradient is 0. */
    const double w = sqrt(0.9375 * 0.9375 + 1.9375 * 1.9375 + 2.9375 * 2.9375 + 3.9375 * 3.9375);
    for (size_t i = 0; i < 2; i++) {
        cr_expect_str_eq(text_of(tensor_at(i), "name"), i ? "w" : "v");
        cr_expect_str_eq(text_of(tensor_at(i), "state"), "ok");
        cr_expect_eq(number_of(tensor_at(i), "parameters"), 4);
        cr_expect_eq(number_of(tensor_at(i), "gradient_norm"), 0);
        cr_expect_float_eq(number_of(tensor_at(i), "weight_norm"), w, 1e-3);
        cr_expect_eq(number_of(tensor_at(i), "update_ratio"), 0);
        cr_expect_eq(number_of(tensor_at(i), "zero_share"), 1);
        cr_expect_eq(number_of(tensor_at(i), "cut_share"), 0);
        cr_expect_eq(strlen(text_of(tensor_at(i), "strip")), 2);
        cr_expect_eq(text_of(tensor_at(i), "strip")[1], '-');
        cr_expect_null(json_object_get(tensor_at(i), "reason"));
    }
    for (uint32_t worker = 0; worker < N; worker++)
        push_all(worker, (push_t){ .samples = 1, .gradient = 0.5f });
    look();
    cr_expect_eq(number_of(tensor_at(0), "gradient_norm"), 1);
    cr_expect_eq(number_of(tensor_at(0), "zero_share"), 0);
    /* The figures of /status have 4 digits. */
    cr_expect_eq(metric("psd_tensor_gradient_norm{tensor=\"w\"}"), 1);
    cr_expect_float_eq(metric("psd_tensor_weight_norm{tensor=\"w\"}"), number_of(tensor_at(1), "weight_norm"), 1e-3);
    cr_expect_float_eq(metric("psd_tensor_update_ratio{tensor=\"w\"}"), number_of(tensor_at(1), "update_ratio"), 1e-5);
    cr_expect_float_eq(metric("psd_tensor_update_ratio{tensor=\"w\"}"), 0.125 / metric("psd_tensor_weight_norm{tensor=\"w\"}"),
                       1e-3);
    cr_expect_eq(metric("psd_tensor_zero_gradients_ratio{tensor=\"w\"}"), 0);
    cr_expect_eq(metric("psd_tensor_cut_gradients_ratio{tensor=\"w\"}"), 0);
    cr_expect_eq(metric("psd_tensors{state=\"ok\"}"), 2);
}

Test(report, tensors_that_are_ill_are_one_alert_with_their_names_and_since_when, .init = setup_looks, .fini = teardown)
{
    for (int step = 0; step < 2 + PSD_HEALTH_IN_ROW; step++)
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 1, .gradient = step ? 0 : 0.5f });
    look();
    cr_expect_eq(number_of(json_object_get(json_object_get(page, "health"), "states"), "dead"), 2);
    cr_expect_str_eq(text_of(tensor_at(1), "state"), "dead");
    cr_expect_eq(number_of(tensor_at(1), "since_step"), 1 + PSD_HEALTH_IN_ROW, "the first look of as many as it takes was at 2");
    cr_expect_eq(strncmp(text_of(tensor_at(1), "reason"), "all its gradients were 0 in the last 6 looks", 44), 0);
    cr_expect_eq(metric("psd_tensors{state=\"dead\"}"), 2);
    cr_expect_eq(metric("psd_tensors{state=\"ok\"}"), 0);
    cr_assert_eq(n_alerts(), 1);
    cr_expect_eq(strncmp(alert(0), "tensor v is dead: all its gradients were 0", 42), 0, "%s", alert(0));
    const char *end = strstr(alert(0), "; the same holds for");
    cr_assert_not_null(end, "%s", alert(0));
    cr_expect_str_eq(end, "; the same holds for w");
}

static void setup_fewer_looks(void)
{
    look_every = 3;
    join_all("--workers-min=3 --health-every=3");
}

/* What a step did to eight tensors of 4 weights: it leaves 7 of them without gradients, and the first with these weights. */
static void tell_look(uint64_t step, double weight2)
{
    double terms[8][PSD_LOOK_TERMS];
    psd_msg_t msg = { .kind = PSD_MSG_LOOK, .protocol = PSD_PROTOCOL, .job = JOB, .version = step, .parts = 8 };
    for (uint32_t t = 0; t < 8; t++) {
        double *x = terms[t];
        memset(x, 0, sizeof terms[t]);
        x[PSD_LOOK_N] = 4;
        x[PSD_LOOK_ZEROS] = t ? 4 : 0;
        x[PSD_LOOK_GRADIENT2] = t ? 0 : 1;
        x[PSD_LOOK_WEIGHT2] = t ? 4 : weight2;
        x[PSD_LOOK_UPDATE2] = t ? 0 : 1e-6;
        x[PSD_LOOK_RATE] = 0.125;
    }
    msg.n_elements = PSD_LOOK_TERMS;
    psd_buf_t *buf = psd_payload_copy(terms, sizeof terms);
    psd_node_message(node, now, PSD_PEER_OWN_SHARD, &msg, buf, &out);
    psd_buf_unref(&buf);
    carry_out();
}

Test(report, of_many_tensors_that_are_ill_five_are_named_and_a_figure_that_is_none_has_no_series, .fini = teardown)
{
    uint8_t bytes[1024];
    psd_tensor_desc_t tensor[8];
    const psd_tensor_list_t list = { .n = 8, .tensor = tensor };
    for (uint32_t t = 0; t < 8; t++) {
        tensor[t] = (psd_tensor_desc_t){ .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
        snprintf(tensor[t].name, sizeof tensor[t].name, "t%u", t);
    }
    make_node("--workers-min=3");
    psd_msg_t msg = message(PSD_MSG_HELLO, 0);
    snprintf(msg.text, sizeof msg.text, "mnist host0");
    say(0, &msg, NULL, 0);
    msg = message(PSD_MSG_REGISTER, 0);
    say(0, &msg, bytes, psd_tensors_encode(&list, bytes, sizeof bytes));
    for (uint64_t step = 1; step < 6; step++)
        tell_look(step, 4);
    look();
    cr_assert_eq(n_alerts(), 1);
    cr_expect_eq(strncmp(alert(0), "tensor t1 is dead: all its gradients were 0 in the last 5 looks", 63), 0, "%s", alert(0));
    cr_expect(strstr(alert(0), "; the same holds for t2, t3, t4, t5 and 2 more"), "%s", alert(0));
    cr_expect_eq(metric("psd_tensor_weight_norm{tensor=\"t0\"}"), 2);
    tell_look(6, NAN);
    look();
    cr_expect(!has_metric("psd_tensor_weight_norm{tensor=\"t0\"}"), "what is not a number is not the last number");
    cr_expect(has_metric("psd_tensor_weight_norm{tensor=\"t1\"}"));
    cr_expect_eq(metric("psd_tensors{state=\"exploding\"}"), 1);
}

Test(report, the_newest_look_is_known_by_its_step, .init = setup_fewer_looks, .fini = teardown)
{
    for (int step = 0; step < 6; step++) /* at the first, the second, and each third after the first */
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 1, .gradient = 0.5f });
    look();
    const json_t *health = json_object_get(page, "health");
    cr_expect_eq(number_of(health, "every"), 3);
    cr_expect_eq(number_of(health, "looks"), 3);
    cr_expect_eq(number_of(health, "step"), 4);
    static const int columns[] = { 1, 2, 4 };
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(json_integer_value(json_array_get(json_object_get(health, "columns"), i)), columns[i]);
}

static void setup_frozen_looks(void)
{
    look_every = 1;
    setup_frozen();
}

Test(report, a_frozen_tensor_is_shown_as_such_without_figures, .init = setup_frozen_looks, .fini = teardown)
{
    for (uint32_t w = 0; w < N; w++)
        push_all(w, (push_t){ .samples = 1, .gradient = 0.5f });
    look();
    cr_expect_str_eq(text_of(tensor_at(0), "state"), "ok");
    cr_expect_str_eq(text_of(tensor_at(1), "name"), "w");
    cr_expect_str_eq(text_of(tensor_at(1), "state"), "frozen");
    cr_expect(json_is_null(json_object_get(tensor_at(1), "gradient_norm")));
    cr_expect_eq(metric("psd_tensors{state=\"frozen\"}"), 1);
    cr_expect(has_metric("psd_tensor_gradient_norm{tensor=\"v\"}"));
    cr_expect(!has_metric("psd_tensor_gradient_norm{tensor=\"w\"}"));
    cr_expect_eq(n_alerts(), 0);
}

/* ---- whole documents, as files of tests/golden/report hold them ---- */

static FILE *keep; /* the text so far */
static char *kept;
static size_t n_kept;
static char *lines_before; /* of /metrics, at the moment before */

/* Whether a text of whole lines has one that begins like this. */
static bool has_line(const char *lines, const char *begin, size_t n)
{
    for (const char *line = lines; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (!strncmp(line, begin, n))
            return true;
    return false;
}

/* Times of this machine, and what differs from one process to the next, become words. */
static char *readable_metrics(void)
{
    static const char *const of_the_process[] = { "process_", "psd_up_since_timestamp_seconds",
                                                  "psd_worker_last_push_timestamp_seconds",
                                                  "psd_checkpoint_last_success_timestamp_seconds" };
    char *text = NULL;
    size_t n;
    FILE *lines = open_memstream(&text, &n);
    for (char *line = strtok(measured, "\n"); line; line = strtok(NULL, "\n")) {
        char *value = strrchr(line, ' '), *version = strstr(line, PSD_VERSION);
        bool is_own = false;
        for (size_t i = 0; i < sizeof of_the_process / sizeof *of_the_process; i++)
            is_own |= !strncmp(line, of_the_process[i], strlen(of_the_process[i]));
        if (*line == '#')
            continue;
        if (version)
            fprintf(lines, "%.*sVERSION%s\n", (int)(version - line), line, version + strlen(PSD_VERSION));
        else if (is_own)
            fprintf(lines, "%.*s of this machine\n", (int)(value - line), line);
        else
            fprintf(lines, "%.*s %.6g\n", (int)(value - line), line, strtod(value, NULL));
    }
    fclose(lines);
    return text;
}

/* The lines that were not there the moment before, and the series that have gone. */
static void keep_metrics(void)
{
    char *text = readable_metrics();
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1)
        if (!lines_before || !has_line(lines_before, line, strcspn(line, "\n") + 1))
            fprintf(keep, "%.*s\n", (int)strcspn(line, "\n"), line);
    for (const char *line = lines_before; line && *line; line += strcspn(line, "\n") + 1)
        if (!has_line(text, line, strcspn(line, " ")))
            fprintf(keep, "%.*s has gone\n", (int)strcspn(line, " "), line);
    free(lines_before);
    lines_before = text;
}

/* With lists of numbers on one line. */
static void keep_json(const char *text)
{
    for (size_t n_list = 0; *text; text++) {
        if (*text == '[' && strcspn(text, "]") < strcspn(text + 1, "{[\"") + 1)
            n_list = strcspn(text, "]");
        const bool is_cut = n_list && (*text == '\n' || *text == ' ');
        n_list -= n_list > 0;
        if (!is_cut)
            fputc(*text, keep);
    }
    fputc('\n', keep);
}

static void keep_page(const char *json)
{
    static const char *const begin[] = { "<h1", "<h2", "<tr", "<div", "<section", "<li", "<svg", "<p>", "<span", "<footer" };
    static psd_history_t history;
    memset(&history, 0, sizeof history);
    for (unsigned i = 0; i < 4; i++)
        psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1000 + i * i, .loss = 3 - i * 0.75 });
    char *html = psd_page_render(json, &history);
    fputs("== the page", keep);
    for (const char *at = strstr(html, "<body"); *at; at++) {
        for (size_t i = 0; i < sizeof begin / sizeof *begin; i++)
            if (!strncmp(at, begin[i], strlen(begin[i])))
                fputc('\n', keep);
        fputc(*at, keep);
    }
    fputc('\n', keep);
    free(html);
}

/* Put everything that the server says of itself at this moment to the text. */
static void keep_all(const char *title)
{
    look();
    json_object_set_new(page, "now", json_integer(0));
    json_object_set_new(page, "version", json_string("VERSION"));
    char *text = json_dumps(page, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    fprintf(keep, "==== %s\n== /status\n", title);
    keep_json(text);
    fprintf(keep, "== /metrics%s\n", lines_before ? ", what is new" : "");
    keep_metrics();
    psd_report_publish(report, node, now, status);
    fprintf(keep, "== /readyz %d\n", get("/readyz?verbose"));
    fputs(strstr(reply, "\r\n\r\n") + 4, keep);
    get("/history");
    json_t *told = json_loads(strstr(reply, "\r\n\r\n"), 0, NULL), *columns = json_object_get(told, "columns");
    const json_t *rows = json_object_get(told, "rows"), *last = json_array_get(rows, json_array_size(rows) - 1);
    fputs("== /history, the newest\n", keep);
    for (size_t i = 1; i < json_array_size(columns); i++) {
        char *value = json_dumps(json_array_get(last, i), JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        fprintf(keep, "%s %s%s", json_string_value(json_array_get(columns, i)), value,
                i + 1 < json_array_size(columns) ? ", " : "\n");
        free(value);
    }
    if (json_array_size(json_object_get(page, "alerts")))
        keep_page(text);
    json_decref(told);
    free(text);
}

static void begin_to_keep(void) { cr_assert_not_null(keep = open_memstream(&kept, &n_kept)); }

static void expect_all_kept(const char *name)
{
    fclose(keep);
    expect_kept(name, kept);
    free(kept);
    free(lines_before);
}

static void tell_number(uint32_t worker, const char *name, double value)
{
    psd_msg_t msg = message(PSD_MSG_REPORT, worker);
    snprintf(msg.text, sizeof msg.text, "%s", name);
    msg.value = value;
    say(worker, &msg, NULL, 0);
}

static void ask_admin(const char *line, double value)
{
    psd_msg_t msg = { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL, .seq = now, .value = value };
    snprintf(msg.text, sizeof msg.text, "%s", line);
    psd_buf_t *body = said_with(&msg, NULL, 0);
    psd_node_message(node, now, peer_of(9), &msg, body, &out);
    psd_buf_unref(&body);
    carry_out();
}

/* What the shell counts: each number another. */
static void count_what_the_shell_does(void)
{
    const psd_msg_t beat = { .kind = PSD_MSG_HEARTBEAT };
    psd_report_memory_links(report, 2);
    psd_report_connections_refused(report, 5);
    psd_report_stored(report, 123456);
    psd_report_received(report, 70000);
    psd_report_sent(report, &beat, 4000, true, ns());
    for (unsigned i = 0; i < 7; i++)
        psd_report_sent(report, &beat, 90, false, ns());
    for (unsigned reason = 1; reason < PSD_N_REFUSALS; reason++)
        for (unsigned i = 0; i < 10 + reason; i++)
            psd_engine_count_refusal(psd_node_engine(node), reason);
}

static void setup_whole(void)
{
    static const uint8_t both = 3;
    rule = "lookahead(sgd(lr=0.125), k=4, alpha=0.25)";
    groups = "w(lr_mult=2, clip=0)";
    look_every = 2;
    coordinator = (psd_coordinator_config_t){ .job = "mnist",
                                              .workers_min = 2,
                                              .workers_want = N,
                                              .lease_ms = 2000,
                                              .lr = 0.125,
                                              .checkpoints = true,
                                              .quarantine_after = 2,
                                              .drops_lost = true };
    join_all("--workers-want=3 --workers-min=2 --workers-lost=drop --optimizer=lookahead(sgd(lr=0.125),k=4,alpha=0.25) "
             "--groups=w(lr_mult=2,clip=0) --health-every=2 --checkpoint-dir=/somewhere --schedule=cosine(steps=100)");
    psd_msg_t pull = message(PSD_MSG_PULL, 1);
    pull.parts = PARTS;
    say(1, &pull, &both, 1);
    make_first_checkpoint();
}

Test(report, all_that_a_server_says_of_a_job_in_rounds_is_as_kept, .init = setup_whole, .fini = teardown)
{
    begin_to_keep();
    keep_all("before the first push");
    tell_number(0, "val/loss", 0.5);
    tell_number(0, "val/accuracy", 0.875);
    tell_number(0, "progress/rows", 1280);
    tell_number(0, "progress/left_seconds", 4321);
    static const double loss[] = { 2.5, 1.75, 1.25, 3 };
    for (unsigned round = 0; round < 11; round++)
        for (uint32_t w = 0; w < N; w++) {
            now += 11 + w;
            push_all(w, (push_t){ .samples = 8 * (w + 1),
                                  .loss = loss[round % 4] + w * 0.125,
                                  .gradient = round == 9 && w == 1 ? NAN : 0.25f * (float)(w + 1) / (float)(1 + round),
                                  .version = round,
                                  .compute_s = 0.004 * (w + 1) });
        }
    count_what_the_shell_does();
    pass(350);
    beat(1, 11);
    const push_t open = { .samples = 24, .loss = 0.625, .gradient = 0.5f, .version = 10, .compute_s = 0.2 };
    push_all(2, open);
    push_part(0, 0, &open);
    pass(120);
    keep_all("in the twelfth round, after one that was skipped; one push is whole, one half");
    push_part(0, 1, &open);
    push_all(1, open);
    play((const times_t[]){ { 1, 20, 2 }, { 2, 130, 3 }, { 3, 21, 4 } }, 300);
    ask_admin("mnist set optimizer.lr", 0.0625);
    keep_all("a slow worker, and gradients that are 0");
    psd_node_request_save(node);
    tick(100);
    carry_out();
    for (unsigned round = 0; round < 3; round++)
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 1, .gradient = w == 2 && round ? NAN : 0.25f, .version = 300 + round });
    psd_node_saved(node, now, "No space left on device", &out);
    pass(700);
    beat(0, 314);
    pass(900);
    beat(0, 314);
    pass(1400);
    keep_all("a worker in quarantine, one lost, and no room for checkpoints");
    ask_admin("mnist pause", 0);
    life[1]++;
    join(1);
    pass(300);
    keep_all("paused, with a worker that came back");
    ask_admin("mnist resume", 0);
    pass(1000);
    beat(1, 314);
    life[2]++;
    join(2);
    pass(1000);
    beat(1, 315);
    keep_all("the others go on without worker 0");
    expect_all_kept("tests/golden/report/rounds.txt");
}

static void setup_whole_asp(void)
{
    look_every = 1;
    coordinator = (psd_coordinator_config_t){ .job = "mnist", .workers_min = N, .workers_want = N, .lease_ms = 60000, .lr = 0.125 };
    join_all("--workers-min=3 --sync-mode=asp --sync-max-staleness=40 --health-every=1");
}

Test(report, all_that_a_server_says_of_a_job_without_rounds_is_as_kept, .init = setup_whole_asp, .fini = teardown)
{
    static const uint64_t missed[] = { 0, 1, 2, 3, 6, 6, 17, 33 };
    begin_to_keep();
    for (uint32_t i = 0; i < 240; i++) {
        now += 20;
        for (uint32_t w = 0; w < N; w++) {
            const uint64_t version = psd_engine_version(psd_node_engine(node)), stale = missed[(i + 2 * w) % 8];
            if (w != 1 || i % 5 == 4)
                push_all(w, (push_t){ .samples = 2 + 3 * w,
                                      .loss = 1.5 / (1 + i) + 0.25 * w,
                                      .gradient = i % 7 == 3 ? 0 : 0.125f / (float)(1 + i),
                                      .version = version > stale ? version - stale : 0,
                                      .compute_s = w == 1 ? 0.1 : 0.02 });
        }
    }
    tell_number(2, "val/auc", 0.75);
    beat(1, 50);
    pass(500);
    keep_all("each push is a step");
    ask_admin("mnist pause", 0);
    push_all(2, (push_t){ .samples = 9, .loss = 0.375, .version = 400 });
    psd_msg_t leave = message(PSD_MSG_LEAVE, 1);
    say(1, &leave, NULL, 0);
    pass(1200);
    keep_all("paused, with a push that is held, and a worker that has left");
    expect_all_kept("tests/golden/report/steps.txt");
}

static void setup_whole_servers(void)
{
    coordinator = (psd_coordinator_config_t){ .job = "mnist", .workers_min = 2, .workers_want = 4, .lease_ms = 2000, .lr = 0.125 };
    make_node("--servers=4 --workers-want=4 --workers-min=2 --sync-accumulate=2");
}

Test(report, all_that_server_0_says_of_a_job_that_waits_is_as_kept, .init = setup_whole_servers, .fini = teardown)
{
    begin_to_keep();
    server_joins(2, 2);
    pass(250);
    server_joins(1, 1);
    psd_msg_t hello = message(PSD_MSG_HELLO, 1);
    snprintf(hello.text, sizeof hello.text, "mnist host1");
    say(1, &hello, NULL, 0);
    pass(500);
    keep_all("a server and most workers have not come");
    pass(1800);
    keep_all("two servers are lost");
    server_joins(2, 3);
    pass(100);
    psd_report_end(report, PSD_EIO);
    keep_all("one is back, and this server fails");
    expect_all_kept("tests/golden/report/waiting.txt");
}

Test(report, all_that_another_server_says_is_as_kept, .fini = teardown)
{
    start("--servers=2 --server-index=1");
    cr_assert_not_null(node = psd_node_new(&engine, NULL, &err));
    psd_report_publish(report, node, now, status);
    psd_node_tick(node, now, &out);
    begin_to_keep();
    welcome((PSD_JOB_DEGRADED + 1) * PSD_WELCOME_STATE, "worker 0 (a), silent for 9 s; server 2 of 3, which has not joined yet");
    count_what_the_shell_does();
    pass(700);
    keep_all("server 0 says for what the job waits");
    pass(2345);
    keep_all("server 0 is silent");
    psd_report_end(report, PSD_ESTOPPED);
    pass(1000);
    keep_all("this server ends");
    expect_all_kept("tests/golden/report/other.txt");
}

/* The counters are of this process; how far the job is counts from its beginning. */
Test(report, all_that_a_server_says_of_a_job_that_goes_on_from_a_checkpoint_is_as_kept, .fini = teardown)
{
    static const uint64_t newest[] = { 40 };
    psd_tensor_desc_t tensor[] = { { .name = "v", .n_dims = 1, .dim = { 4 }, .n_elements = 4 },
                                   { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 } };
    const psd_tensor_list_t model = { .n = 2, .tensor = tensor };
    const psd_save_point_t point = { .clock = 40, .version = 38, .samples = 5000, .lr = 0.25 };
    rule = "lookahead(sgd(lr=0.125), k=5, alpha=0.5)";
    coordinator = (psd_coordinator_config_t){ .job = "mnist",
                                              .workers_min = N,
                                              .workers_want = N,
                                              .lease_ms = 60000,
                                              .lr = 0.25,
                                              .checkpoints = true,
                                              .points = newest,
                                              .n_points = 1,
                                              .model = &model };
    make_node("--workers-min=3 --checkpoint-dir=/somewhere --optimizer=lookahead(sgd(lr=0.125),k=5,alpha=0.5)");
    begin_to_keep();
    keep_all("the checkpoint is being read");
    cr_assert_eq(psd_engine_restore(psd_node_engine(node), &model, &err), PSD_OK, "%s", err.text);
    psd_node_restored(node, now, NULL, &point, &out);
    carry_out();
    for (uint32_t w = 0; w < N; w++)
        join(w);
    tell_number(0, "progress/rows", 1000);
    pass(150);
    keep_all("it goes on");
    for (uint32_t w = 0; w < N; w++)
        clock_of[w] = 40;
    for (unsigned round = 0; round < 3; round++)
        for (uint32_t w = 0; w < N; w++)
            push_all(w, (push_t){ .samples = 20, .loss = 2, .gradient = 0.5f, .version = 38 + round, .compute_s = 0.01 });
    pass(250);
    keep_all("after three rounds");
    expect_all_kept("tests/golden/report/resumed.txt");
}
