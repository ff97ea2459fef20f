#include <criterion/criterion.h>
#include <math.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/log.h"
#include "common/system/progress.h"

static int ends[2];
static char text[65536];
static psd_err_t err;

/* The output so far. */
static const char *written(void)
{
    ssize_t n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static psd_progress_t *start(const char *mode, uint64_t interval_ms)
{
    cr_assert_eq(pipe(ends), 0);
    psd_progress_t *progress =
        psd_progress_new(&(psd_progress_config_t){ .mode = mode, .interval_ms = interval_ms, .fd = ends[1] }, &err);
    cr_assert_not_null(progress, "%s", err.text);
    return progress;
}

static psd_progress_state_t at(uint64_t step)
{
    return (psd_progress_state_t){ .step = step,
                                   .steps = 100,
                                   .epoch = (double)step / 50,
                                   .samples = step * 64,
                                   .loss = 0.5,
                                   .metric = NAN,
                                   .metric_name = "accuracy" };
}

static size_t count(const char *in, char what)
{
    size_t n = 0;
    for (; *in; in++)
        n += *in == what;
    return n;
}

TestSuite(progress, .timeout = 600);

Test(progress, a_bar_is_redrawn_five_times_a_second_at_most)
{
    psd_progress_t *progress = start("bar", 1);
    for (uint64_t ms = 0; ms < 1000; ms++)
        psd_progress_update(progress, ms, &(psd_progress_state_t){ .step = ms / 20, .steps = 100, .loss = 1, .metric = NAN });
    cr_assert_eq(count(written(), '\r'), 4, "at 200, 400, 600 and 800 ms");
    psd_progress_destroy(&progress);
}

Test(progress, a_bar_shows_share_pace_and_time_left)
{
    psd_progress_t *progress = start("bar", 1);
    psd_progress_state_t state = at(0);
    psd_progress_update(progress, 1000, &state);
    state = at(25);
    state.metric = 0.9712;
    psd_progress_update(progress, 3000, &state);
    /* 25 of 100 steps in 2 s: 800 samples a second, 6 s left. */
    cr_assert_str_eq(written(), "\r\033[K[######..................]  25% step 25 epoch 0.50 800 samples/s "
                                "loss 0.5000 accuracy 0.9712 ETA 0:06");
    psd_progress_end(progress, 3000);
    cr_assert_eq(count(written(), '\n'), 1);
    psd_progress_destroy(&progress);
}

Test(progress, a_log_line_stands_above_the_bar)
{
    psd_progress_t *progress = start("bar", 1);
    psd_progress_sink(progress, "first\n", 6);
    cr_assert_str_eq(written(), "first\n");
    psd_progress_state_t state = at(0);
    psd_progress_update(progress, 0, &state);
    psd_progress_update(progress, 500, &state);
    char bar[512];
    snprintf(bar, sizeof bar, "%s", strstr(written(), "[..."));
    psd_progress_sink(progress, "line\n", 5);
    char want[1024];
    snprintf(want, sizeof want, "\r\033[Kline\n%s", bar);
    cr_assert_str_eq(written(), want);
    psd_progress_destroy(&progress);
}

static char logged[4096];
static void take(void *arg, const char *line, size_t n)
{
    (void)arg;
    strncat(logged, line, n);
}

Test(progress, off_a_terminal_it_is_a_log_line_per_interval_and_one_at_the_end)
{
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .comp = "worker", .sink = take });
    psd_progress_t *progress = start("auto", 10000);
    for (uint64_t s = 0; s <= 25; s++) {
        psd_progress_state_t state = at(s);
        psd_progress_update(progress, s * 1000, &state);
    }
    cr_assert_eq(count(logged, '\n'), 2);
    psd_progress_end(progress, 25000);
    cr_assert_eq(count(logged, '\n'), 3);
    cr_assert_not_null(
        strstr(logged, "id=train.progress step=10 epoch=0.200 samples=640 samples_per_s=64 loss=0.5 eta_s=90 steps=100"), "%s",
        logged);
    psd_progress_destroy(&progress);
}

Test(progress, none_shows_nothing_and_other_words_are_refused)
{
    psd_progress_t *progress = start("none", 1);
    psd_progress_state_t state = at(3);
    psd_progress_update(progress, 0, &state);
    psd_progress_update(progress, 90000, &state);
    psd_progress_end(progress, 90001);
    close(ends[1]);
    cr_assert_str_eq(written(), "");
    psd_progress_destroy(&progress);
    cr_assert_null(psd_progress_new(&(psd_progress_config_t){ .mode = "loud" }, &err));
    cr_assert_str_eq(err.text, "progress is 'loud'; write auto, bar, log or none");
}

/* The two ends of a terminal of `columns`: output written to one is read from the other. */
static psd_progress_t *start_on_terminal(unsigned short columns)
{
    const struct winsize size = { .ws_row = 24, .ws_col = columns };
    cr_assert_eq(openpty(&ends[0], &ends[1], NULL, NULL, &size), 0);
    psd_progress_t *progress = psd_progress_new(&(psd_progress_config_t){ .mode = "bar", .fd = ends[1] }, &err);
    cr_assert_not_null(progress);
    return progress;
}

/* All output to the terminal, which may arrive piece by piece. */
static const char *written_on_terminal(void)
{
    size_t n = 0;
    cr_assert_eq(write(ends[1], "!", 1), 1);
    while (!n || text[n - 1] != '!') {
        const ssize_t more = read(ends[0], text + n, sizeof text - 1 - n);
        cr_assert_gt(more, 0);
        n += (size_t)more;
    }
    text[n - 1] = '\0';
    return text;
}

static const char *line_of(unsigned short columns, const char *note, bool is_urgent)
{
    psd_progress_t *progress = start_on_terminal(columns);
    psd_progress_state_t state = at(0);
    psd_progress_update(progress, 1000, &state);
    psd_progress_note(progress, 1000, note, is_urgent);
    written_on_terminal();
    state = at(25);
    state.metric = 0.9712;
    psd_progress_update(progress, 3000, &state);
    const char *line = strstr(written_on_terminal(), "\033[K");
    psd_progress_destroy(&progress);
    close(ends[0]);
    close(ends[1]);
    cr_assert_not_null(line, "%u columns: %s", columns, text);
    return line + 3;
}

Test(progress, a_narrow_terminal_gets_what_people_need_most_in_one_line)
{
    cr_expect_str_eq(line_of(132, "3 of 3 workers", false), "[######..................]  25% step 25 epoch 0.50 800 samples/s "
                                                            "loss 0.5000 accuracy 0.9712 ETA 0:06 3 of 3 workers");
    cr_expect_str_eq(line_of(100, "3 of 3 workers", false), "[###.........]  25% step 25 epoch 0.50 800 samples/s "
                                                            "loss 0.5000 accuracy 0.9712 ETA 0:06");
    cr_expect_str_eq(line_of(60, "3 of 3 workers", false), " 25% step 25 loss 0.5000 accuracy 0.9712 ETA 0:06");
    cr_expect_str_eq(line_of(40, "2 of 3 workers", true), " 25% step 25 loss 0.5000 2 of 3 workers");
    for (unsigned short columns = 2; columns < 140; columns++)
        cr_expect_lt(strlen(line_of(columns, "2 of 3 workers", true)), columns, "%u columns", columns);
}

Test(progress, the_pace_starts_again_when_the_job_goes_back)
{
    psd_progress_t *progress = start("bar", 1);
    psd_progress_state_t state = at(50);
    psd_progress_update(progress, 1000, &state);
    state = at(10);
    psd_progress_update(progress, 2000, &state);
    state = at(20);
    psd_progress_update(progress, 3000, &state);
    cr_expect_not_null(strstr(written(), " 640 samples/s loss 0.5000 ETA 0:08"), "%s", text);
    psd_progress_destroy(&progress);
}

Test(progress, a_note_that_becomes_urgent_is_shown_as_such_at_once)
{
    psd_progress_t *progress = start("bar", 1);
    psd_progress_state_t state = at(10);
    psd_progress_update(progress, 1000, &state);
    psd_progress_note(progress, 1100, "2 of 3 workers", false);
    psd_progress_note(progress, 1200, "2 of 3 workers", false);
    cr_expect_eq(count(written(), '\r'), 1);
    psd_progress_note(progress, 1300, "2 of 3 workers", true);
    cr_expect_eq(count(written(), '\r'), 1, "once more");
    psd_progress_destroy(&progress);
}

Test(progress, the_pace_starts_again_when_only_samples_go_back)
{
    psd_progress_t *progress = start("bar", 1);
    psd_progress_state_t state = at(10);
    psd_progress_update(progress, 1000, &state);
    state.samples = 64;
    psd_progress_update(progress, 2000, &state);
    state = at(11);
    state.samples = 164;
    psd_progress_update(progress, 3000, &state);
    cr_expect_not_null(strstr(written(), " 100 samples/s loss 0.5000 ETA 1:29"), "100 in a second, 89 steps left: %s", text);
    psd_progress_destroy(&progress);
}

Test(progress, a_metric_of_0_is_shown_and_one_that_is_not_known_is_not)
{
    psd_progress_t *progress = start("bar", 1);
    psd_progress_state_t state = at(10);
    psd_progress_update(progress, 0, &state);
    state.metric = 0;
    psd_progress_update(progress, 1000, &state);
    cr_expect_not_null(strstr(written(), " accuracy 0.0000"), "%s", text);
    state.metric = NAN;
    psd_progress_update(progress, 2000, &state);
    cr_expect_null(strstr(written(), "accuracy"), "%s", text);
    psd_progress_destroy(&progress);
}
