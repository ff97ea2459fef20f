#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "worker/handover.h"

static psd_handover_t *handover;
static psd_err_t err;
static const psd_err_t fine, broken = { .code = PSD_EFENCED, .text = "another worker has taken its place" };

static void setup(void)
{
    cr_assert_not_null(handover = psd_handover_new());
    cr_assert_eq(psd_handover_open(handover, &err), PSD_OK);
}
static void teardown(void) { psd_handover_destroy(&handover); }
TestSuite(handover, .init = setup, .fini = teardown, .timeout = 600);

static void enter(psd_phase_t phase, uint64_t rejoins, bool done)
{
    const psd_session_position_t position = { .clock = 7 };
    psd_handover_enter(handover, phase, phase == PSD_PHASE_FAILED ? &broken : &fine, &position, rejoins, NULL, done);
}

static psd_handover_state_t look(void)
{
    psd_handover_state_t state;
    psd_handover_look(handover, &state);
    return state;
}

Test(handover, requests_are_taken_once_and_in_their_order)
{
    psd_request_t taken[PSD_HANDOVER_MAX];
    for (uint64_t i = 1; i <= 3; i++)
        psd_handover_post(handover, &(psd_request_t){ .kind = PSD_REQUEST_EXCHANGE, .samples = i });
    cr_assert_eq(psd_handover_take(handover, taken), 3);
    for (uint64_t i = 0; i < 3; i++)
        cr_expect_eq(taken[i].samples, i + 1);
    cr_expect_eq(psd_handover_take(handover, taken), 0);
}

static void *post_many(void *arg)
{
    for (uint64_t i = 0; i < 1000; i++)
        psd_handover_post(handover, &(psd_request_t){ .kind = PSD_REQUEST_REPORT, .samples = i });
    return arg;
}

Test(handover, more_requests_than_fit_wait_and_none_is_lost)
{
    pthread_t caller;
    psd_request_t taken[PSD_HANDOVER_MAX];
    uint64_t n = 0;
    pthread_create(&caller, NULL, post_many, NULL);
    while (n < 1000)
        for (uint32_t i = 0, k = psd_handover_take(handover, taken); i < k; i++)
            cr_assert_eq(taken[i].samples, n++);
    pthread_join(caller, NULL);
}

Test(handover, a_request_moves_the_phase_ahead_only_from_the_right_one)
{
    cr_expect_eq(psd_handover_begin(handover, PSD_PHASE_READY, PSD_PHASE_EXCHANGING, "exchange", &err), PSD_EINVAL);
    enter(PSD_PHASE_READY, 0, false);
    cr_expect_eq(psd_handover_begin(handover, PSD_PHASE_READY, PSD_PHASE_EXCHANGING, "exchange", &err), PSD_OK);
    cr_expect_eq(look().phase, PSD_PHASE_EXCHANGING);
    cr_expect_eq(psd_handover_begin(handover, PSD_PHASE_READY, PSD_PHASE_PULLING, "pull", &err), PSD_EINVAL, "one at a time");
    cr_expect_str_eq(err.text, "pull: called in the wrong order; connect, register, then make one exchange or pull at a time");
    cr_expect_eq(look().phase, PSD_PHASE_EXCHANGING);
}

Test(handover, a_failed_session_gives_its_reason_to_every_call)
{
    enter(PSD_PHASE_FAILED, 0, true);
    cr_expect_eq(psd_handover_begin(handover, PSD_PHASE_READY, PSD_PHASE_EXCHANGING, "exchange", &err), PSD_EFENCED);
    cr_expect_str_eq(err.text, broken.text);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", -1, &err), PSD_EFENCED);
    cr_expect_str_eq(err.text, broken.text);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 0, &err), PSD_EFENCED);
    cr_expect_eq(psd_handover_await_answer(handover, 0, "pull", -1, &err), PSD_EFENCED);
    cr_expect_not(psd_handover_leave(handover, false, 0));
    cr_expect_eq(look().phase, PSD_PHASE_FAILED);
    cr_expect_eq(look().failure.code, PSD_EFENCED);
    enter(PSD_PHASE_LEFT, 0, true);
    cr_expect_not(psd_handover_leave(handover, false, 0));
    cr_expect_eq(look().phase, PSD_PHASE_LEFT);
}

static void *fail_soon(void *arg)
{
    psd_handover_fail(handover, &broken);
    return arg;
}

Test(handover, a_request_that_cannot_begin_fails_the_session_and_wakes_its_caller)
{
    pthread_t thread;
    enter(PSD_PHASE_EXCHANGING, 0, false);
    pthread_create(&thread, NULL, fail_soon, NULL);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_LEFT, "leave", -1, &err), PSD_EFENCED);
    cr_expect_str_eq(err.text, broken.text);
    pthread_join(thread, NULL);
    cr_expect_eq(look().phase, PSD_PHASE_FAILED);
}

static void *become_ready(void *arg)
{
    enter(PSD_PHASE_READY, 0, true);
    return arg;
}

Test(handover, a_waiting_caller_wakes_when_the_phase_comes)
{
    pthread_t thread;
    enter(PSD_PHASE_EXCHANGING, 0, false);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 0, &err), PSD_EAGAIN, "a look does not wait");
    pthread_create(&thread, NULL, become_ready, NULL);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", -1, &err), PSD_OK);
    pthread_join(thread, NULL);
}

Test(handover, a_caller_whose_wait_timed_out_is_told_what_it_waited_for)
{
    enter(PSD_PHASE_EXCHANGING, 0, false);
    psd_handover_progress(handover, "waiting for workers 1, 3", false, false, 0);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 1, &err), PSD_ETIMEOUT);
    cr_expect_str_eq(err.text, "exchange: nothing after 1 ms; waiting for workers 1, 3");
    psd_handover_progress(handover, "", false, false, 0);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 0, &err), PSD_EAGAIN);
    cr_expect_str_eq(err.text, "exchange: nothing after 0 ms; waiting for the server");
}

/* Loops of the library that are run on the caller's thread: each turn's limit, until the last one, in which the phase comes. */
static struct {
    unsigned n, last;
    uint64_t limit_ns;
} turns;

static bool run_counted(void *arg, uint64_t limit_ns)
{
    cr_expect_eq(arg, &turns);
    turns.limit_ns = limit_ns;
    usleep(2000);
    if (++turns.n == turns.last)
        enter(PSD_PHASE_READY, 0, false);
    return true;
}

static int never(void *arg)
{
    cr_expect_eq(arg, &turns);
    return 0;
}

Test(handover, a_caller_runs_the_loop_for_as_long_as_it_may_wait_and_no_longer_than_it_may_not_be_interrupted)
{
    static const struct {
        int timeout_ms;
        bool interrupts;
        uint64_t limit_ns; /* at most; 0 and UINT64_MAX: exactly */
    } cases[] = { { 0, false, 0 },         { -1, false, UINT64_MAX }, { 5000, false, 5000000000 }, { 0, true, 0 },
                  { -1, true, 100000000 }, { 5000, true, 100000000 }, { 50, true, 50000000 } };
    psd_handover_run_by(handover, run_counted, &turns);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        turns.n = 0;
        turns.last = cases[i].timeout_ms ? 3 : 1;
        enter(PSD_PHASE_EXCHANGING, 0, false);
        psd_handover_set_interrupt(handover, cases[i].interrupts ? never : NULL, &turns);
        cr_expect_not(psd_handover_is_interrupted(handover));
        cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", cases[i].timeout_ms, &err), PSD_OK, "%zu: %s", i,
                     err.text);
        cr_expect_eq(turns.n, turns.last, "%zu", i);
        cr_expect_leq(turns.limit_ns, cases[i].limit_ns, "%zu", i);
        if (cases[i].limit_ns == 5000000000)
            cr_expect_leq(turns.limit_ns, 5000000000 - 2 * 2000000, "what was waited counts");
        if (cases[i].limit_ns == UINT64_MAX)
            cr_expect_eq(turns.limit_ns, UINT64_MAX);
        else
            cr_expect_geq(turns.limit_ns, cases[i].limit_ns == 5000000000 ? 100000001 : 0, "%zu", i);
    }
    turns.last = 0;
    turns.n = 0;
    enter(PSD_PHASE_EXCHANGING, 0, false);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 0, &err), PSD_EAGAIN);
    cr_expect_eq(turns.n, 1, "a look handles what is pending, once");
    enter(PSD_PHASE_READY, 0, false);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 0, &err), PSD_OK);
    cr_expect_eq(turns.n, 1, "what is reached is not waited for");
}

/* A turn of the loop on the caller's thread: 2 ms, in which a message with a part of the model comes. The model is whole after 100 of
 * them, which takes longer than the caller waits. */
static uint64_t n_parts;

static bool run_a_turn(void *arg, uint64_t limit_ns)
{
    (void)arg, (void)limit_ns;
    usleep(2000);
    psd_handover_progress(handover, "", false, false, ++n_parts);
    if (n_parts == 100)
        enter(PSD_PHASE_READY, 0, false);
    return true;
}

Test(handover, a_model_that_is_on_its_way_does_not_time_out)
{
    static const psd_phase_t phases[] = { PSD_PHASE_REGISTERING, PSD_PHASE_RESTORING };
    psd_handover_run_by(handover, run_a_turn, NULL);
    for (size_t i = 0; i < 2; i++) {
        n_parts = 0;
        enter(phases[i], 0, false);
        cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "register", 50, &err), PSD_OK, "%s", err.text);
    }
    n_parts = 0;
    enter(PSD_PHASE_EXCHANGING, 0, false);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", 50, &err), PSD_ETIMEOUT,
                 "its time is the caller's to choose");
}

static bool run_an_idle_turn(void *arg, uint64_t limit_ns)
{
    (void)arg, (void)limit_ns;
    usleep(1000);
    psd_handover_progress(handover, "waiting for the rest", false, false, 1);
    return true;
}

Test(handover, a_model_of_which_nothing_more_comes_times_out)
{
    psd_handover_run_by(handover, run_an_idle_turn, NULL);
    enter(PSD_PHASE_REGISTERING, 0, false);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "register", 50, &err), PSD_ETIMEOUT);
    cr_expect_str_eq(err.text, "register: nothing after 50 ms; waiting for the rest");
}

static unsigned n_asked;

static int count_asked(void *arg)
{
    (void)arg;
    n_asked++;
    return 0;
}

Test(handover, a_program_is_asked_whether_to_go_on_about_every_100_ms)
{
    psd_handover_run_by(handover, run_counted, &turns);
    turns.last = 120; /* of 2 ms and more each */
    enter(PSD_PHASE_EXCHANGING, 0, false);
    psd_handover_set_interrupt(handover, count_asked, NULL);
    const uint64_t begun = uv_hrtime();
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", -1, &err), PSD_OK);
    const uint64_t took_ms = (uv_hrtime() - begun) / 1000000;
    cr_expect_geq(n_asked, 1);
    cr_expect_leq(n_asked, took_ms / 100);
}

static int enough(void *arg) { return (void)arg, 1; }

Test(handover, a_caller_that_is_interrupted_is_told_what_it_waited_for)
{
    psd_handover_set_interrupt(handover, enough, NULL);
    enter(PSD_PHASE_EXCHANGING, 0, false);
    psd_handover_progress(handover, "waiting for workers 1, 3", false, false, 0);
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_READY, "exchange", -1, &err), PSD_ESTOPPED);
    cr_expect_str_eq(err.text, "exchange: interrupted; waiting for workers 1, 3");
}

Test(handover, figures_of_tensors_are_the_newest_with_their_step)
{
    double figure[PSD_SESSION_FIGURES];
    uint64_t step;
    cr_expect_not(psd_handover_health(handover, 0, figure, &step), "it has none");
    for (uint64_t look = 1; look <= 2; look++) {
        psd_buf_t *told = psd_buf_new(2 * PSD_SESSION_FIGURES * sizeof(double));
        for (size_t i = 0; i < 2 * PSD_SESSION_FIGURES; i++)
            ((double *)told->data)[i] = (double)(100 * look + i);
        psd_handover_tell_health(handover, told, 7 * look);
        psd_handover_tell_health(handover, told, 7 * look);
        psd_buf_unref(&told);
        for (size_t tensor = 0; tensor < 2; tensor++) {
            cr_assert(psd_handover_health(handover, tensor, figure, &step));
            cr_expect_eq(step, 7 * look);
            for (size_t i = 0; i < PSD_SESSION_FIGURES; i++)
                cr_expect_eq(figure[i], (double)(100 * look + tensor * PSD_SESSION_FIGURES + i));
        }
        cr_expect_not(psd_handover_health(handover, 2, figure, &step), "there are two tensors");
    }
}

Test(handover, an_answer_from_another_run_does_not_count)
{
    enter(PSD_PHASE_READY, 1, false);
    cr_expect_eq(psd_handover_await_answer(handover, 1, "pull", -1, &err), PSD_OK);
    cr_expect_eq(psd_handover_await_answer(handover, 0, "pull", -1, &err), PSD_EAGAIN);
    cr_expect_str_eq(err.text, "pull: the servers have gone back to clock 7");
    cr_expect_eq(psd_handover_await(handover, PSD_PHASE_LEFT, "leave", -1, &err), PSD_EAGAIN, "there is work again");
    cr_expect_str_eq(err.text, "leave: the servers have gone back to clock 7");
}

Test(handover, finished_work_is_not_left_after_the_servers_went_back)
{
    enter(PSD_PHASE_READY, 1, false);
    cr_expect_not(psd_handover_leave(handover, true, 0));
    cr_expect_eq(look().phase, PSD_PHASE_READY);
    cr_expect(psd_handover_leave(handover, false, 0), "unfinished work may be left in any run");
    cr_expect_eq(look().phase, PSD_PHASE_LEAVING);
}

Test(handover, the_descriptor_is_readable_from_the_end_of_an_exchange_to_the_next)
{
    struct pollfd fd = { .fd = psd_handover_fd(handover), .events = POLLIN };
    enter(PSD_PHASE_EXCHANGING, 0, false);
    cr_expect_eq(poll(&fd, 1, 0), 0);
    enter(PSD_PHASE_READY, 0, true);
    cr_expect_eq(poll(&fd, 1, 0), 1);
    enter(PSD_PHASE_SETTING, 0, false);
    enter(PSD_PHASE_READY, 0, false);
    cr_expect_eq(poll(&fd, 1, 0), 1, "whatever else comes between");
    psd_handover_rearm(handover);
    cr_expect_eq(poll(&fd, 1, 0), 0);
}

Test(handover, a_descriptor_that_is_first_asked_for_after_an_exchange_is_readable_until_the_next)
{
    enter(PSD_PHASE_EXCHANGING, 0, false);
    enter(PSD_PHASE_READY, 0, true);
    struct pollfd fd = { .fd = psd_handover_fd(handover), .events = POLLIN };
    cr_expect_eq(poll(&fd, 1, 0), 1);
    cr_expect_eq(psd_handover_fd(handover), fd.fd, "to ask again changes nothing");
    cr_expect_eq(poll(&fd, 1, 0), 1);
    psd_handover_rearm(handover);
    cr_expect_eq(poll(&fd, 1, 0), 0);
}

Test(handover, settings_are_those_of_the_first_welcome)
{
    static psd_cluster_t cluster = { .n_servers = 1, .settings = { .mode = "bsp", .has_slow = true } };
    const psd_session_position_t position = { 0 };
    cr_expect_null(psd_handover_cluster(handover));
    psd_handover_enter(handover, PSD_PHASE_JOINED, &fine, &position, 0, &cluster, false);
    memcpy(cluster.settings.mode, "asp", 4);
    psd_handover_enter(handover, PSD_PHASE_JOINED, &fine, &position, 1, &cluster, false);
    cr_assert_not_null(psd_handover_cluster(handover));
    cr_expect_str_eq(psd_handover_cluster(handover)->settings.mode, "bsp");
    cr_expect(look().has_slow);
    cluster.settings.has_slow = false;
    psd_handover_enter(handover, PSD_PHASE_READY, &fine, &position, 1, &cluster, false);
    cr_expect(look().has_slow);
}

Test(handover, callers_see_where_the_session_is)
{
    const psd_session_position_t position = { .clock = 7, .version = 6, .worker = 3, .rank = 1, .world = 2, .samples = 640 };
    psd_handover_enter(handover, PSD_PHASE_COLLECTING, &fine, &position, 5, NULL, false);
    const psd_handover_state_t state = look();
    cr_expect_eq(state.phase, PSD_PHASE_COLLECTING);
    cr_expect_eq(state.rejoins, 5);
    cr_expect_eq(state.position.clock, 7);
    cr_expect_eq(state.position.version, 6);
    cr_expect_eq(state.position.worker, 3);
    cr_expect(state.position.rank == 1 && state.position.world == 2);
    cr_expect_eq(state.position.samples, 640);
    cr_expect_eq(state.failure.code, PSD_OK);
}

Test(handover, what_was_never_opened_has_no_descriptor_and_closes_none)
{
    psd_handover_t *closed = psd_handover_new();
    cr_assert_not_null(closed);
    cr_expect_eq(psd_handover_fd(closed), -1);
    psd_handover_destroy(&closed);
    cr_expect_null(closed);
    cr_expect_neq(fcntl(0, F_GETFD), -1, "the program's own descriptors stay open");
    psd_handover_destroy(&closed);
}

Test(handover, a_descriptor_is_closed_with_its_handle_or_when_that_is_abandoned)
{
    const int fd = psd_handover_fd(handover);
    psd_handover_destroy(&handover);
    cr_expect_eq(fcntl(fd, F_GETFD), -1);
    setup();
    cr_assert_eq(psd_handover_fd(handover), fd, "the lowest that is free");
    psd_handover_abandon(handover);
    cr_expect_eq(fcntl(fd, F_GETFD), -1);
}

Test(handover, callers_see_what_the_session_waits_for_and_whether_it_is_to_leave)
{
    psd_handover_progress(handover, "waiting for x", true, true, 5);
    psd_handover_state_t state = look();
    cr_expect_str_eq(state.waiting, "waiting for x");
    cr_expect(state.unresolved && state.drains && state.moved == 5);
    psd_handover_progress(handover, "", false, false, 6);
    state = look();
    cr_expect_str_eq(state.waiting, "");
    cr_expect(!state.unresolved && !state.drains && state.moved == 6);
    psd_handover_move(handover, "tcp://there:1");
    cr_expect_str_eq(look().join, "tcp://there:1");
}
