#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "worker/progress.h"

static int ends[2];
static char text[65536];
static psd_err_t err;

/* What was written so far. */
static const char *written(void)
{
    ssize_t n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static psd_progress_t *start(const char *mode, uint64_t interval_ms)
{
    cr_assert_eq(pipe(ends), 0);
    psd_progress_t *progress = psd_progress_new(
        &(psd_progress_config_t){ .mode = mode, .interval_ms = interval_ms, .fd = ends[1] }, &err);
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
        psd_progress_update(
            progress, ms, &(psd_progress_state_t){ .step = ms / 20, .steps = 100, .loss = 1, .metric = NAN });
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
        strstr(logged,
               "id=train.progress step=10 epoch=0.200 samples=640 samples_per_s=64 loss=0.5 eta_s=90"),
        "%s", logged);
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
