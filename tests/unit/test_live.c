#include <criterion/criterion.h>
#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deploy/psdctl/run/live.h"
#include "tests/support/kept.h"

/* The display of psdctl run: stderr is one end of a terminal, and the test reads the other end. */

static int screen, old_stderr;
static char text[1 << 16];
static psd_options_t *options;
static psd_live_t *live;
static psd_live_event_t event;
static psd_err_t err;

static void begin(const char *progress, unsigned short columns)
{
    const struct winsize size = { .ws_row = 24, .ws_col = columns };
    int end;
    char flag[40];
    snprintf(flag, sizeof flag, "--progress=%s", progress);
    unsetenv("PSD_WRITE_PAGES"); /* it is no option; kept.c has read it */
    options = psd_options_new(PSD_PROGRAM_CTL);
    cr_assert_eq(psd_options_load(options, 2, (char *[]){ "psdctl", flag, NULL }, &err), PSD_OK, "%s", err.text);
    setenv("TERM", "xterm", 1);
    cr_assert_eq(openpty(&screen, &end, NULL, NULL, &size), 0);
    old_stderr = dup(STDERR_FILENO);
    dup2(end, STDERR_FILENO);
    close(end);
    live = psd_live_new(options, 3, &err);
}

/* All that came to the terminal; it may come piece by piece. */
static const char *shown(void)
{
    size_t n = 0;
    cr_assert_eq(write(STDERR_FILENO, "\x01", 1), 1);
    while (!n || text[n - 1] != '\x01') {
        const ssize_t more = read(screen, text + n, sizeof text - 1 - n);
        cr_assert_gt(more, 0);
        n += (size_t)more;
    }
    text[n - 1] = '\0';
    return text;
}

static void teardown(void)
{
    psd_live_destroy(&live);
    psd_options_destroy(&options);
    dup2(old_stderr, STDERR_FILENO);
    close(screen);
}

TestSuite(live, .fini = teardown, .timeout = 20);

#define LINE(step)                                                                                                                 \
    "ts=1 level=info comp=worker job=x id=train.progress step=" step " epoch=0.5 samples=640 samples_per_s=64 loss=0.25 "          \
    "val_accuracy=0.9 eta_s=9 steps=200"

Test(live, a_terminal_has_one_line_with_the_log_above_it)
{
    begin("auto", 132);
    cr_assert(psd_live_has_bar(live));
    psd_live_gone(live, 900, 0);
    cr_assert(psd_live_progress(live, 1000, LINE("50")));
    cr_assert(psd_live_progress(live, 2000, LINE("100")));
    cr_expect_not_null(strstr(shown(),
                              "\r\033[K[############............]  50% step 100 epoch 0.50 0 samples/s loss 0.2500 accuracy "
                              "0.9000 ETA 0:02 3 of 3 workers"),
                       "%s", text);
    psd_live_say(live, "run.restart role=\"worker 1\"");
    cr_expect(!strncmp(shown(), "\r\033[Krun.restart role=\"worker 1\"\r\n[####", 37), "%s", text);
    psd_live_end(live, 3000);
    cr_expect_eq(text[strlen(shown()) - 1], '\n');
}

Test(live, a_worker_that_is_gone_or_given_up_is_missing_in_the_line_at_once)
{
    begin("bar", 132);
    psd_live_progress(live, 1000, LINE("50"));
    psd_live_gone(live, 1100, 1);
    cr_expect_not_null(strstr(shown(), " 2 of 3 workers"), "%s", text);
    psd_live_heard(live, 1200, "ts=2 level=warn id=worker.lost worker=1 name=x", &event);
    cr_expect_null(strstr(shown(), "1 of 3 workers"), "it is the same one: %s", text);
    psd_live_gone(live, 1300, 0);
    cr_expect_null(strstr(shown(), "3 of 3 workers"), "it has not joined again: %s", text);
    psd_live_heard(live, 1400, "ts=3 level=info id=worker.joined worker=1 name=x", &event);
    cr_expect_not_null(strstr(shown(), "3 of 3 workers"), "%s", text);
    psd_live_heard(live, 1500, "ts=4 level=warn id=worker.lost worker=2 name=y", &event);
    cr_expect_not_null(strstr(shown(), "2 of 3 workers"), "%s", text);
    psd_live_heard(live, 1600, "ts=5 level=info id=worker.left worker=2 name=y finished=true", &event);
    cr_expect_not_null(strstr(shown(), "3 of 3 workers"), "its work is done: %s", text);
    for (int w = 0; w < 5; w++) {
        char lost[80];
        snprintf(lost, sizeof lost, "ts=6 level=warn id=worker.lost worker=%d name=x", w);
        psd_live_heard(live, 1700 + 100 * (uint64_t)w, lost, &event);
    }
    cr_expect(strstr(shown(), " 0 of 3 workers") && !strstr(text, "429496"), "programs may join by other numbers: %s", text);
}

Test(live, the_worker_that_a_line_of_either_format_is_about_is_told)
{
    begin("bar", 132);
    static const struct {
        const char *line;
        int worker;
        psd_live_event_t event;
    } rows[] = {
        { "ts=1 level=info id=worker.joined worker=2 name=x", 2, PSD_LIVE_JOINED },
        { "{\"ts\":\"1\",\"id\":\"worker.joined\",\"worker\":1,\"name\":\"x\"}", 1, PSD_LIVE_JOINED },
        { "ts=1 level=info id=worker.drain worker=2 name=x", 2, PSD_LIVE_ASKED },
        { "ts=1 level=warn id=worker.lost worker=2 name=x", 2, PSD_LIVE_LOST },
        { "ts=1 level=info id=worker.left worker=2 name=x finished=false clock=7", 2, PSD_LIVE_LEFT },
        { "ts=1 level=info id=worker.left worker=2 name=x finished=true clock=7", 2, PSD_LIVE_FINISHED },
        { "{\"id\":\"worker.left\",\"worker\":0,\"name\":\"x\",\"finished\":\"false\"}", 0, PSD_LIVE_LEFT },
        { "{\"id\":\"worker.left\",\"worker\":0,\"name\":\"x\",\"finished\":\"true\"}", 0, PSD_LIVE_FINISHED },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cr_expect_eq(psd_live_heard(live, 1000, rows[i].line, &event), rows[i].worker, "%s", rows[i].line);
        cr_expect_eq(event, rows[i].event, "%s", rows[i].line);
    }
    cr_expect_eq(psd_live_heard(live, 1000, "{\"ts\":\"1\",\"id\":\"round.slow\",\"worker\":0}", &event), -1);
    cr_expect_eq(psd_live_heard(live, 1000, "ts=1 level=info id=shard.joined shard=0", &event), -1);
}

Test(live, json_lines_are_progress_too_and_other_lines_are_not)
{
    begin("bar", 132);
    cr_expect(!psd_live_progress(live, 900, "ts=1 level=info id=train.progress msg=repeated unsaid=1"));
    cr_expect(!psd_live_progress(live, 900, "{\"id\":\"data.loaded\",\"rows\":7}"));
    cr_expect(psd_live_progress(live, 1000, "{\"ts\":1,\"id\":\"train.progress\",\"step\":50,\"steps\":200,\"loss\":0.5}"));
    cr_expect(psd_live_progress(live, 2000, "{\"ts\":1,\"id\":\"train.progress\",\"step\":100,\"steps\":200,\"loss\":0.5}"));
    cr_expect_not_null(strstr(shown(), " 50% step 100 "), "%s", text);
}

Test(live, log_has_lines_and_none_has_nothing)
{
    begin("log", 80);
    cr_expect(!psd_live_has_bar(live));
    psd_live_progress(live, 1000, LINE("50"));
    cr_expect(!strncmp(shown(), "step=50 epoch=0.5 ", 18), "%s", text);
    teardown();
    begin("none", 80);
    cr_expect(psd_live_progress(live, 1000, LINE("50")));
    psd_live_end(live, 2000);
    cr_expect_str_eq(shown(), "");
}

Test(live, a_long_line_of_json_is_read_as_far_as_there_is_room)
{
    char line[2000], word[700];
    memset(word, 'x', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    begin("log", 80);
    snprintf(line, sizeof line, "{\"id\":\"train.progress\",\"step\":60,\"word\":\"%s\",\"steps\":80,\"other\":\"%s\"}", word,
             word);
    cr_expect(psd_live_progress(live, 1000, line));
    snprintf(line, sizeof line, "id=train.progress step=60 word=%.*s\r\n", 511 - 31, word);
    cr_expect_str_eq(shown(), line);
    snprintf(line, sizeof line, "{\"id\":\"worker.lost\",\"name\":\"%s\",\"worker\":1}", word);
    cr_expect_eq(psd_live_heard(live, 1000, line, &event), -1, "its number had no room");
    cr_expect(!psd_live_progress(live, 1000, "{\"id\":\"other\",\"step\":1,\"x\":\"id=train.progress step=2\"}"));
    cr_expect_str_eq(shown(), "");
}

/* ---- all that the terminal gets, as tests/golden/report/live.txt has it ---- */

/* What psdctl run reads or does at `ms`: a line of a worker, of server 0, or of its own; so many processes are gone; the end. */
typedef struct moment {
    uint64_t ms;
    enum { WORKER, SERVER, OWN, GONE, END } what;
    const char *line;
} moment_t;

static void print_shown(FILE *out)
{
    const char *c = shown();
    fprintf(out, *c ? "     " : "");
    for (; *c; c++)
        if (*c == '\r' || *c == '\n' || *c == '\033')
            fprintf(out, *c == '\r' ? "\\r" : *c == '\n' ? "\\n" : "\\e");
        else
            fputc(*c, out);
    fputs(text[0] ? "\n" : "", out);
}

static void play(FILE *out, const char *progress, unsigned short columns, const moment_t *story, size_t n)
{
    static const char *const events[] = {
        [PSD_LIVE_JOINED] = "joined", [PSD_LIVE_LOST] = "lost",         [PSD_LIVE_ASKED] = "is asked to leave",
        [PSD_LIVE_LEFT] = "left",     [PSD_LIVE_FINISHED] = "finished",
    };
    begin(progress, columns);
    fprintf(out, "==== --progress=%s in %u columns: %s\n", progress, columns, psd_live_has_bar(live) ? "a bar" : "no bar");
    for (size_t i = 0; i < n; i++) {
        const moment_t *m = &story[i];
        fprintf(out, "%4lu %s %s\n", (unsigned long)m->ms,
                (const char *const[]){ "a worker says", "server 0 says", "psdctl says", "gone are", "it is the" }[m->what],
                m->line);
        if (m->what == WORKER)
            fprintf(out, "     = %s\n", psd_live_progress(live, m->ms, m->line) ? "progress" : "not progress");
        else if (m->what == SERVER) {
            const int worker = psd_live_heard(live, m->ms, m->line, &event);
            fprintf(out, "     = %d, %s\n", worker, worker < 0 ? "none" : events[event]);
        } else if (m->what == OWN)
            psd_live_say(live, m->line);
        else if (m->what == GONE)
            psd_live_gone(live, m->ms, (unsigned)atoi(m->line));
        else
            psd_live_end(live, m->ms);
        print_shown(out);
    }
    teardown();
}

Test(live, all_that_a_terminal_gets_is_as_kept)
{
    static const moment_t story[] = {
        { 500, GONE, "1" },
        { 600, OWN, "job.begin job=mnist" },
        { 1000, WORKER, "ts=1 level=info id=train.progress step=10 epoch=0.25 samples=100 samples_per_s=9 loss=2.5 steps=80" },
        { 1100, WORKER, "ts=1 level=info id=train.progress step=20 epoch=0.5 samples=300 samples_per_s=9 loss=2.25 steps=80" },
        { 1300, GONE, "2" },
        { 1300, GONE, "2" },
        { 1400, WORKER, "ts=2 level=info id=train.progress.slow step=70 steps=80" },
        { 1400, WORKER, "ts=2 level=info id=eval.done step=70 steps=80" },
        { 1500, WORKER,
          "ts=2 level=info id=train.progress step=30 epoch=0.75 samples=700 samples_per_s=9 loss=1.5 val_auc=0.75 eta_s=1 "
          "steps=80" },
        { 1700, WORKER, "ts=3 level=info id=train.progress step=40 epoch=1 samples=900 samples_per_s=9 loss=1.25 steps=80" },
        { 1800, SERVER, "ts=4 level=info id=worker.joined worker=2 name=x" },
        { 1900, SERVER, "ts=4 level=warn id=worker.lost name=worker worker=1" },
        { 2000, GONE, "0" },
        { 2050, SERVER, "ts=4 level=warn id=worker.lost worker=2 name=x" },
        { 2100, SERVER, "ts=4 level=info id=worker.drain worker=2 name=x" },
        { 2150, SERVER, "{\"id\": \"worker.lost\", \"worker\": 0}" },
        { 2200, SERVER, "ts=4 level=info id=worker.left worker=1 name=x finished=false" },
        { 2250, SERVER, "ts=4 level=warn id=worker.lost worker=4095" },
        { 2300, SERVER, "ts=4 level=warn id=worker.lost worker=4096" },
        { 2300, SERVER, "ts=4 level=warn id=worker.lost worker=-1" },
        { 2300, SERVER, "ts=4 level=warn id=worker.lost reworker=2" },
        { 2300, SERVER, "{\"id\": \"worker.lost\", \"worker\": \"x y\"}" },
        { 2300, SERVER, "{ worker.lost" },
        { 2400, SERVER, "{\"id\": \"worker.left\", \"worker\": 0, \"name\": \"a b\", \"finished\": \"true\"}" },
        { 2450, SERVER, "ts=4 level=info id=worker.joined worker=4095" },
        { 2500, WORKER,
          "{\"id\": \"train.progress\", \"step\": 60, \"epoch\": 1.5, \"samples\": 1200, \"loss\": 0.125, \"val_mse\": 0.0625, "
          "\"note\": \"two words\", \"steps\": 80}" },
        { 2600, OWN, "run.restart role=\"worker 1\"" },
        { 2700, WORKER, "ts=5 level=info id=train.progress step=-1 epoch=x samples=1e30 loss=nan steps=0" },
        { 2900, WORKER, "ts=5 level=info id=train.progress step=5 samples=10 loss=nan" },
        { 3000, END, "end" },
    };
    char *page;
    size_t size;
    FILE *out = open_memstream(&page, &size);
    static const char *const modes[] = { "auto", "bar", "log", "none" };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        play(out, modes[i], i == 1 ? 40 : 132, story, sizeof story / sizeof *story);
    fclose(out);
    begin("none", 80); /* for the end of the test */
    expect_kept("tests/golden/report/live.txt", page);
    free(page);
}
