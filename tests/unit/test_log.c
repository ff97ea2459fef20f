#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/log.h"

static char said[1 << 16]; /* everything written */
static size_t n_said;
static uint64_t clock_us;

static void take(void *arg, const char *line, size_t n)
{
    (void)arg;
    cr_assert(n <= PSD_LOG_MAX_LINE && line[n - 1] == '\n' && memchr(line, '\n', n) == line + n - 1);
    if (n_said + n >= sizeof said)
        return;
    memcpy(said + n_said, line, n);
    said[n_said += n] = '\0';
}

static uint64_t tick(void *arg)
{
    (void)arg;
    return clock_us;
}

static void start(psd_log_format_t format, psd_log_level_t level)
{
    n_said = 0;
    said[0] = '\0';
    clock_us = UINT64_C(1767225600000123); /* 2026-01-01T00:00:00.000123Z */
    psd_log_init(
        &(psd_log_config_t){ .level = level, .format = format, .comp = "server", .job = "mnist", .sink = take, .now_us = tick });
}

static unsigned lines(void)
{
    unsigned n = 0;
    for (size_t i = 0; i < n_said; i++)
        n += said[i] == '\n';
    return n;
}

TestSuite(log, .timeout = 600);

Test(log, a_line_is_logfmt_with_its_keys_in_order)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_warn("worker.lost", "worker=%u silent_ms=%" PRIu64, 3, UINT64_C(3012));
    cr_assert_str_eq(said, "ts=2026-01-01T00:00:00.000123Z level=warn comp=server job=mnist id=worker.lost "
                           "worker=3 silent_ms=3012\n");
}

Test(log, words_before_the_first_field_are_the_message_and_values_keep_their_spaces)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_info("job.start", "ready to go file=%s cause=%s \"now\" empty= n=1", "a.yaml", "it said");
    cr_assert_not_null(strstr(said, "id=job.start msg=\"ready to go\" file=a.yaml cause=\"it said \\\"now\\\"\" empty=\"\" n=1\n"),
                       "%s", said);
}

Test(log, texts_that_are_missing_cut_or_have_a_backslash_are_shown_as_such)
{
    const char *volatile none = NULL;
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_info("job.start", "file=%s by=%s cut=%.2s nothing=%.0s n=1", "C:\\dir", none, "abc", "abc");
    cr_assert_not_null(strstr(said, "file=\"C:\\\\dir\" by=(none) cut=ab nothing=\"\" n=1\n"), "%s", said);
}

Test(log, a_quoted_value_may_hold_what_looks_like_fields)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_info("server.start", "settings=\"servers=2 mode=bsp\" n=1");
    cr_assert_not_null(strstr(said, "settings=\"servers=2 mode=bsp\" n=1\n"), "%s", said);
}

Test(log, a_hostile_value_cannot_start_a_line)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_info("worker.joined", "name=\"%s\"", "x\nlevel=error \033[2J");
    cr_assert_eq(lines(), 1);
    cr_assert_not_null(strstr(said, "\\n"));
    cr_assert_null(strchr(said, '\033'));
}

/* name=%s without quotes in the format, quotes and backslashes in the value, in both forms. */
Test(log, a_hostile_value_writes_no_field_of_its_own)
{
    static const char *const hostile[] = { "gpu1 worker=0 silent_ms=0", "a\" worker=0 b=\"c", "a\\\" worker=0", "=", "" };
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        start(PSD_LOG_JSON, PSD_LOG_INFO);
        psd_log_warn("worker.lost", "name=%s worker=%u why=\"it is %s\"", hostile[i], 3, hostile[i]);
        json_t *line = json_loads(said, JSON_REJECT_DUPLICATES, NULL);
        cr_assert_not_null(line, "%s", said);
        char why[80];
        snprintf(why, sizeof why, "it is %s", hostile[i]);
        cr_expect_str_eq(json_string_value(json_object_get(line, "name")), hostile[i]);
        cr_expect_str_eq(json_string_value(json_object_get(line, "why")), why);
        cr_expect_eq(json_integer_value(json_object_get(line, "worker")), 3);
        json_decref(line);
    }
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_warn("worker.lost", "name=%s worker=%u", hostile[1], 3);
    cr_expect_not_null(strstr(said, "name=\"a\\\" worker=0 b=\\\"c\" worker=3\n"), "%s", said);
    psd_log_warn("worker.joined", "name=%s worker=%u", "n>", 3);
    cr_expect_not_null(strstr(said, " name=n> worker=3\n"), "%s", said);
}

Test(log, invalid_utf8_is_replaced_so_that_json_stays_json)
{
    start(PSD_LOG_JSON, PSD_LOG_INFO);
    psd_log_warn("worker.lost", "name=%s",
                 "a\xff\xc3\xa9\xc2\x9b"
                 "2J\xed\xa0\x80");
    json_t *line = json_loads(said, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(line, "%s", said);
    cr_expect_str_eq(json_string_value(json_object_get(line, "name")), "a\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd"
                                                                       "2J\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    json_decref(line);
}

Test(log, json_is_one_object_per_line_with_numbers_as_numbers)
{
    start(PSD_LOG_JSON, PSD_LOG_INFO);
    psd_log_error("checkpoint.failed", "cannot write path=\"/a \\\\b\" n=-3 lr=1e-3 code=007 nan=nan dot=1. name=");
    json_t *line = json_loads(said, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(line, "%s", said);
    cr_assert_str_eq(json_string_value(json_object_get(line, "level")), "error");
    cr_assert_str_eq(json_string_value(json_object_get(line, "msg")), "cannot write");
    cr_assert_str_eq(json_string_value(json_object_get(line, "path")), "/a \\b");
    cr_assert_eq(json_integer_value(json_object_get(line, "n")), -3);
    cr_assert_eq(json_real_value(json_object_get(line, "lr")), 1e-3);
    cr_assert_str_eq(json_string_value(json_object_get(line, "code")), "007");
    cr_assert_str_eq(json_string_value(json_object_get(line, "nan")), "nan");
    json_decref(line);
}

Test(log, a_line_too_long_is_cut_and_json_stays_json)
{
    char longest[8000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    start(PSD_LOG_JSON, PSD_LOG_INFO);
    psd_log_info("long", "text=%s", longest);
    json_t *line = json_loads(said, 0, NULL);
    cr_assert_not_null(line, "%s", said);
    json_decref(line);
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    psd_log_info("long", "text=%s", longest);
    cr_assert_eq(n_said, PSD_LOG_MAX_LINE);
}

Test(log, lines_above_the_level_are_counted_but_not_written)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_WARN);
    uint64_t before = psd_log_count(PSD_LOG_INFO);
    psd_log_info("a", "x=1");
    psd_log_debug("b", "x=1");
    cr_assert_eq(n_said, 0);
    cr_assert_eq(psd_log_count(PSD_LOG_INFO), before + 1);
    psd_log_error("c", "x=1");
    cr_assert_eq(lines(), 1);
}

Test(log, a_repeated_line_is_written_once_and_then_counted)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    for (int i = 0; i < 42; i++)
        psd_log_warn("push.refused", "worker=1");
    cr_assert_eq(lines(), 1);
    clock_us += 10 * UINT64_C(1000000);
    psd_log_warn("push.refused", "worker=1");
    cr_assert_eq(lines(), 2);
    cr_assert_not_null(strstr(said, "worker=1 unsaid=41\n"), "%s", said);
}

Test(log, a_flood_of_different_lines_of_one_id_stops_after_its_burst)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    for (int i = 0; i < 1000; i++)
        psd_log_warn("push.refused", "worker=%d", i);
    psd_log_info("other", "x=1");
    cr_assert_eq(lines(), PSD_LOG_BURST + 1);
    psd_log_flush();
    cr_assert_not_null(strstr(said, "id=push.refused msg=repeated unsaid=980\n"), "%s", said);
    size_t n = n_said;
    psd_log_flush();
    cr_assert_eq(n_said, n);
}

Test(log, the_caller_learns_which_lines_were_only_counted)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_INFO);
    unsigned told = 0;
    for (int i = 0; i < 1000; i++)
        told += psd_log_warn("push.refused", "worker=%d", i);
    cr_expect_eq(told, PSD_LOG_BURST);
    cr_expect(psd_log_info("other", "x=1"));
    cr_expect_not(psd_log_info("other", "x=1"));
    cr_expect(psd_log_debug("quiet", "x=1"), "above the level nothing is collapsed");
}

Test(log, debug_lines_are_never_collapsed)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_DEBUG);
    for (int i = 0; i < 30; i++)
        psd_log_debug("message", "kind=PUSH");
    cr_assert_eq(lines(), 30);
}

static void *shout(void *arg)
{
    for (int i = 0; i < 200; i++)
        psd_log_debug("thread", "who=%d i=%d", *(int *)arg, i);
    return NULL;
}

Test(log, threads_do_not_mix_their_lines)
{
    start(PSD_LOG_LOGFMT, PSD_LOG_DEBUG);
    pthread_t thread[2];
    int who[2] = { 0, 1 };
    for (int i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, shout, &who[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(lines(), 400);
}

Test(log, a_terminal_gets_a_short_line_without_the_bytes_that_move_its_cursor)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    int stderr_before = dup(2), its_end = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    dup2(its_end, 2);
    unsetenv("JOURNAL_STREAM");
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .comp = "server", .job = "mnist" });
    psd_log_warn("worker.lost", "gone\033[2J worker=%u", 3);
    setenv("NO_COLOR", "1", 1);
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .comp = "server", .job = "mnist" });
    psd_log_warn("worker.left", "worker=%u", 3);
    dup2(stderr_before, 2);
    ssize_t n = read(terminal, said, sizeof said - 1);
    cr_assert_gt(n, 0);
    said[n] = '\0';
    cr_assert_not_null(strstr(said, " \033[33mwarn \033[0m server worker.lost gone?[2J worker=3"), "%s", said);
    ssize_t more = strstr(said, "worker.left") ? 0 : read(terminal, said + n, sizeof said - 1 - (size_t)n);
    said[n + (more > 0 ? more : 0)] = '\0';
    cr_assert_not_null(strstr(said, " warn  server worker.left worker=3"), "%s", said);
}

Test(log, under_systemd_a_line_begins_with_its_syslog_level)
{
    int ends[2];
    struct stat st;
    char stream[64];
    cr_assert_eq(pipe(ends), 0);
    int stderr_before = dup(2);
    dup2(ends[1], 2);
    cr_assert_eq(fstat(2, &st), 0);
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_INFO, .comp = "server", .job = "mnist" });
    psd_log_warn("worker.lost", "worker=%u", 3);
    dup2(stderr_before, 2);
    ssize_t n = read(ends[0], said, sizeof said - 1);
    cr_assert_gt(n, 0);
    said[n] = '\0';
    cr_assert_str_eq(said, "<4>level=warn comp=server job=mnist id=worker.lost worker=3\n");
}

Test(log, level_names_go_both_ways)
{
    psd_log_level_t level;
    cr_assert(psd_log_level_parse("warn", &level) && level == PSD_LOG_WARN);
    cr_assert_not(psd_log_level_parse("Warn", &level));
    cr_assert_str_eq(psd_log_level_name(PSD_LOG_DEBUG), "debug");
}
