#include "worker/turn.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <uv.h>

/* The library's thread: it runs a loop in which nothing happens, so that it sleeps until it is interrupted. */
static psd_turn_t *turn;
static uv_thread_t library;
static uv_sem_t interrupted;
static atomic_int n_interrupts, n_turns;
static atomic_bool has_ended;
static int count; /* changed only by the thread that has the turn */

static void interrupt(void *arg)
{
    cr_expect_eq(arg, &count);
    n_interrupts++;
    uv_sem_post(&interrupted);
}

static void run_library(void *arg)
{
    (void)arg;
    while (psd_turn_await(turn)) {
        n_turns++;
        do {
            count++;
            uv_sem_wait(&interrupted);
        } while (psd_turn_keep(turn));
    }
    has_ended = true;
}

static void setup(void)
{
    cr_assert_not_null(turn = psd_turn_new(interrupt, &count));
    uv_sem_init(&interrupted, 0);
    uv_thread_create(&library, run_library, NULL);
    while (!n_turns)
        uv_sleep(1);
}

static void teardown(void)
{
    psd_turn_end(turn);
    uv_thread_join(&library);
    cr_expect(has_ended);
    psd_turn_destroy(&turn);
    cr_expect_null(turn);
    uv_sem_destroy(&interrupted);
}
TestSuite(turn, .init = setup, .fini = teardown, .timeout = 60);

static void await_turns(int n)
{
    while (n_turns < n)
        uv_sleep(1);
}

Test(turn, is_the_librarys_until_the_program_may)
{
    cr_expect_not(psd_turn_try(turn));
    cr_expect_not(psd_turn_take(turn));
    cr_expect_eq(n_interrupts, 0, "a thread that may not have the turn interrupts no other");
}

Test(turn, that_nobody_has_is_had_without_an_interruption_by_a_program_that_may)
{
    psd_turn_t *idle = psd_turn_new(interrupt, &count);
    cr_assert_not_null(idle);
    cr_expect(!psd_turn_try(idle) && !psd_turn_take(idle), "it may not yet");
    psd_turn_allow(idle);
    cr_expect(psd_turn_take(idle));
    cr_expect_not(psd_turn_try(idle));
    psd_turn_give(idle);
    cr_expect(psd_turn_try(idle));
    psd_turn_give(idle);
    psd_turn_forbid(idle);
    cr_expect(!psd_turn_try(idle) && !psd_turn_take(idle), "it may no longer");
    psd_turn_end(idle);
    cr_expect_not(psd_turn_await(idle));
    cr_expect_eq(n_interrupts, 0);
    psd_turn_destroy(&idle);
}

Test(turn, is_taken_from_a_thread_that_sleeps)
{
    psd_turn_allow(turn);
    cr_expect_not(psd_turn_try(turn), "a try does not take it from another thread");
    cr_assert(psd_turn_take(turn));
    cr_expect_eq(n_interrupts, 1);
    cr_expect_not(psd_turn_try(turn), "it is had once");
    psd_turn_give(turn);
}

Test(turn, comes_back_to_the_library_by_itself)
{
    psd_turn_allow(turn);
    for (int i = 1; i <= 3; i++) {
        cr_assert(psd_turn_take(turn));
        cr_expect_eq(n_turns, i);
        psd_turn_give(turn);
        await_turns(i + 1);
    }
}

Test(turn, the_loop_stays_with_the_library_if_the_program_waits_elsewhere)
{
    psd_turn_forbid(turn);
    psd_turn_allow(turn);
    cr_expect_not(psd_turn_take(turn));
    cr_expect_not(psd_turn_try(turn));
}

Test(turn, is_had_by_one_at_a_time)
{
    enum { TIMES = 20000 };
    psd_turn_allow(turn);
    int mine = 0;
    for (int i = 0; i < TIMES; i++)
        if (i % 2 ? psd_turn_try(turn) : psd_turn_take(turn)) {
            count++;
            mine++;
            psd_turn_give(turn);
        }
    cr_assert(psd_turn_take(turn));
    cr_expect_geq(mine, TIMES / 2);
    cr_expect_geq(count, mine + n_turns, "neither thread has overwritten the other's count");
    cr_expect_leq(count, mine + n_turns + n_interrupts);
    psd_turn_give(turn);
}
