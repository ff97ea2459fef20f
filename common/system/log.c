#include "common/system/log.h"

#include <ctype.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/logtext.h"
#include "common/base/printable.h"

typedef enum { LOGFMT, JOURNAL, HUMAN, JSON } style_t;

/* A line being built; what does not fit is dropped, and the '\n' always fits. */
typedef struct line {
    size_t n, begin; /* where the first field begins */
    char text[PSD_LOG_MAX_LINE];
} line_t;

/* The recent lines of an id, to tell news from repetition. */
typedef struct recent {
    char id[48];
    uint64_t since_us;  /* when its window began */
    unsigned said;      /* lines written in the window */
    uint64_t unsaid;    /* lines counted instead */
    uint64_t text_hash; /* of the last line written */
    psd_log_level_t level;
} recent_t;

enum { RECENT = 64 };

static const char *const level_names[PSD_LOG_LEVELS] = { "error", "warn", "info", "debug" };
static const char *const colours[PSD_LOG_LEVELS] = { "\033[31m", "\033[33m", "\033[32m", "\033[2m" };
static const int syslog_levels[PSD_LOG_LEVELS] = { 3, 4, 6, 7 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int threshold = -1; /* highest level written; -1 before init */
static atomic_uint_fast64_t counts[PSD_LOG_LEVELS];
static psd_log_config_t config; /* this and the rest: under the lock */
static char comp[32], job[128];
static style_t style;
static bool coloured;
static recent_t recents[RECENT];
static unsigned next_recent;

/* Whether stderr is the stream that systemd named in JOURNAL_STREAM, "device:inode". */
static bool is_journal(void)
{
    const char *named = getenv("JOURNAL_STREAM");
    struct stat st;
    char ours[64];
    if (!named || fstat(STDERR_FILENO, &st) != 0)
        return false;
    snprintf(ours, sizeof ours, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return strcmp(named, ours) == 0;
}

static style_t pick_style(const psd_log_config_t *c)
{
    if (c->format == PSD_LOG_JSON)
        return JSON;
    if (c->sink)
        return LOGFMT;
    return is_journal() ? JOURNAL : isatty(STDERR_FILENO) ? HUMAN : LOGFMT;
}

void psd_log_init(const psd_log_config_t *c)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    pthread_mutex_lock(&lock);
    config = *c;
    snprintf(comp, sizeof comp, "%s", c->comp ? c->comp : "");
    snprintf(job, sizeof job, "%s", c->job ? c->job : "");
    style = pick_style(c);
    coloured = style == HUMAN && (!no_color || !*no_color) && term && strcmp(term, "dumb") != 0;
    memset(recents, 0, sizeof recents);
    pthread_mutex_unlock(&lock);
    atomic_store(&threshold, (int)c->level);
}

static uint64_t now_us(void)
{
    struct timespec t;
    if (config.now_us)
        return config.now_us(config.sink_arg);
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void put(line_t *line, const char *text, size_t n)
{
    const size_t room = sizeof line->text - 1 - line->n; /* one byte for the end of line */
    if (n > room)
        n = room;
    memcpy(line->text + line->n, text, n);
    line->n += n;
}

static void put_str(line_t *line, const char *text) { put(line, text, strlen(text)); }

/* A string that both JSON and logfmt readers accept: in quotes, with control characters escaped, and other unprintable bytes
 * replaced. */
static void put_quoted(line_t *line, const char *text, size_t n)
{
    put(line, "\"", 1);
    for (size_t i = 0, size; i < n; i += size ? size : 1) {
        const unsigned char c = (unsigned char)text[i];
        char escape[8];
        size = psd_printable_character(text + i, n - i);
        if (c == '"' || c == '\\')
            snprintf(escape, sizeof escape, "\\%c", c);
        else if (size)
            snprintf(escape, sizeof escape, "%.*s", (int)size, text + i);
        else if (c == '\n')
            snprintf(escape, sizeof escape, "\\n");
        else
            snprintf(escape, sizeof escape, "\\u%04x", c < 0x80 ? c : 0xfffd);
        put_str(line, escape);
    }
    put(line, "\"", 1);
}

/* A number as JSON spells it: no sign but '-', no leading zero, a digit on both sides of the point. */
static bool is_number(const char *s, size_t n)
{
    char copy[40];
    if (n == 0 || n >= sizeof copy || !isdigit((unsigned char)s[n - 1]))
        return false;
    memcpy(copy, s, n);
    copy[n] = '\0';
    const char *digits = copy + (*copy == '-');
    if (!isdigit((unsigned char)*digits) || (*digits == '0' && isdigit((unsigned char)digits[1])) ||
        strspn(digits, "0123456789.eE+-") != strlen(digits) || strstr(digits, ".e"))
        return false;
    char *end;
    strtod(copy, &end);
    return *end == '\0';
}

static void put_field(line_t *line, const char *key, size_t n_key, const char *value, size_t n)
{
    if (style == JSON) {
        if (line->n > line->begin)
            put(line, ",", 1);
        put_quoted(line, key, n_key);
        put(line, ":", 1);
        if (is_number(value, n))
            put(line, value, n);
        else
            put_quoted(line, value, n);
        return;
    }
    if (line->n > line->begin)
        put(line, " ", 1);
    put(line, key, n_key);
    put(line, "=", 1);
    if (psd_logtext_is_plain(value, n))
        put(line, value, n);
    else
        put_quoted(line, value, n);
}

static void put_pair(line_t *line, const char *key, const char *value)
{
    if (*value)
        put_field(line, key, strlen(key), value, strlen(value));
}

/* Length of a field's key when one starts here ("worker" of "worker=3"), else 0. */
static size_t key_length(const char *s)
{
    size_t n = islower((unsigned char)*s) ? strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_.") : 0;
    return s[n] == '=' ? n : 0;
}

/* Where the next field starts at or after `s`: after a space; the end of the text when there is none. */
static const char *next_field(const char *s)
{
    for (; *s; s++)
        if (*s == ' ' && key_length(s + 1))
            return s;
    return s;
}

/* Where a field's value ends: at the next field or, when it opens with a quote, behind the first quote that no
 * backslash escapes, so that a quoted value may hold what looks like fields. */
static const char *value_end(const char *value)
{
    if (*value != '"')
        return next_field(value);
    const char *s = value + 1;
    while (*s && *s != '"')
        s += *s == '\\' && s[1] ? 2 : 1;
    return *s ? s + 1 : s;
}

/* A value without its quotes, and without the backslashes that escaped some of it. */
static size_t bare(char out[PSD_LOG_MAX_LINE], const char *value, size_t n)
{
    const bool quoted = n && *value == '"';
    size_t n_out = 0;
    if (!quoted) {
        memcpy(out, value, n);
        return n;
    }
    for (size_t i = 1; i < n && value[i] != '"'; i++)
        out[n_out++] = value[i] == '\\' && i + 1 < n ? value[++i] : value[i];
    return n_out;
}

/* The message on a terminal: unchanged, except for bytes that would move the cursor. */
static void put_words(line_t *line, const char *text, size_t n)
{
    put(line, " ", 1);
    for (size_t i = 0, size; i < n; i += size ? size : 1) {
        size = psd_printable_character(text + i, n - i);
        put(line, size ? text + i : "?", size ? size : 1);
    }
}

static void put_text(line_t *line, const char *text)
{
    size_t n = key_length(text);
    if (!n) { /* the words before the first field */
        const char *end = next_field(text);
        if (style == HUMAN)
            put_words(line, text, (size_t)(end - text));
        else if (end > text)
            put_field(line, "msg", 3, text, (size_t)(end - text));
        text = *end ? end + 1 : end;
    }
    while ((n = key_length(text))) {
        const char *value = text + n + 1, *end = value_end(value);
        char plain[PSD_LOG_MAX_LINE];
        put_field(line, text, n, plain, bare(plain, value, (size_t)(end - value)));
        text = end + strspn(end, " ");
    }
}

static void put_head(line_t *line, psd_log_level_t level, const char *id, uint64_t us)
{
    char stamp[40], human[96];
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    if (style == HUMAN) {
        localtime_r(&s, &tm);
        size_t n = strftime(stamp, sizeof stamp, "%H:%M:%S", &tm);
        put(line, stamp, n);
        snprintf(human, sizeof human, " %s%-5s%s %s %s", coloured ? colours[level] : "", level_names[level],
                 coloured ? "\033[0m" : "", comp, id);
        put_str(line, human);
        return;
    }
    if (style == JOURNAL) {
        snprintf(stamp, sizeof stamp, "<%d>", syslog_levels[level]);
        put_str(line, stamp);
        line->begin = line->n;
    } else {
        gmtime_r(&s, &tm);
        size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
        snprintf(stamp + n, sizeof stamp - n, ".%06uZ", (unsigned)(us % 1000000));
        put_pair(line, "ts", stamp);
    }
    put_pair(line, "level", level_names[level]);
    put_pair(line, "comp", comp);
    put_pair(line, "job", job);
    put_pair(line, "id", id);
}

static void emit(psd_log_level_t level, const char *id, const char *text, uint64_t unsaid, uint64_t us)
{
    line_t line = { .begin = style == JSON };
    char count[24];
    if (style == JSON)
        put(&line, "{", 1);
    put_head(&line, level, id, us);
    put_text(&line, text);
    snprintf(count, sizeof count, "%ju", (uintmax_t)unsaid);
    if (unsaid)
        put_pair(&line, "unsaid", count); /* number of equal lines since the last written one */
    if (style == JSON) {
        if (line.n == sizeof line.text - 1) /* cut: no longer a valid object, so write only its source */
            line.n = 1, put_head(&line, level, id, us);
        put(&line, "}", 1);
    }
    line.text[line.n++] = '\n';
    if (config.sink)
        config.sink(config.sink_arg, line.text, line.n);
    else if (write(STDERR_FILENO, line.text, line.n) < 0)
        return; /* there is no place to report this */
}

static recent_t *recent_of(const char *id)
{
    for (unsigned i = 0; i < RECENT; i++)
        if (strncmp(recents[i].id, id, sizeof recents[i].id - 1) == 0)
            return &recents[i];
    recent_t *oldest = &recents[next_recent++ % RECENT];
    *oldest = (recent_t){ .since_us = 0 };
    snprintf(oldest->id, sizeof oldest->id, "%s", id);
    return oldest;
}

/* FNV-1a: enough to tell one line from the last. */
static uint64_t hash(const char *s)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * UINT64_C(1099511628211);
    return h;
}

/* Write the line, or, if it is a repetition or one line too many, only count it and return false. */
static bool say(psd_log_level_t level, const char *id, const char *text)
{
    uint64_t us = now_us(), text_hash = hash(text);
    recent_t *recent = recent_of(id);
    if (us - recent->since_us >= PSD_LOG_WINDOW_S * UINT64_C(1000000)) {
        recent->since_us = us;
        recent->said = 0;
    }
    bool again = recent->said > 0 && recent->text_hash == text_hash;
    if (level != PSD_LOG_DEBUG && (again || recent->said >= PSD_LOG_BURST)) {
        recent->unsaid++;
        recent->level = level;
        return false;
    }
    emit(level, id, text, recent->unsaid, us);
    recent->said++;
    recent->unsaid = 0;
    recent->text_hash = text_hash;
    return true;
}

bool psd_log_write(psd_log_level_t level, const char *id, const char *format, ...)
{
    atomic_fetch_add_explicit(&counts[level], 1, memory_order_relaxed);
    if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed))
        return true;
    char text[PSD_LOG_MAX_LINE];
    va_list args;
    va_start(args, format);
    psd_logtext_compose(text, sizeof text, format, args);
    va_end(args);
    pthread_mutex_lock(&lock);
    const bool said = say(level, id, text);
    pthread_mutex_unlock(&lock);
    return said;
}

void psd_log_flush(void)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < RECENT; i++)
        if (recents[i].unsaid) {
            emit(recents[i].level, recents[i].id, "repeated", recents[i].unsaid, now_us());
            recents[i].unsaid = 0;
        }
    pthread_mutex_unlock(&lock);
}

uint64_t psd_log_count(psd_log_level_t level) { return atomic_load(&counts[level]); }

const char *psd_log_level_name(psd_log_level_t level) { return level < PSD_LOG_LEVELS ? level_names[level] : "unknown"; }

bool psd_log_level_parse(const char *name, psd_log_level_t *out)
{
    for (unsigned i = 0; i < PSD_LOG_LEVELS; i++)
        if (strcmp(name, level_names[i]) == 0) {
            *out = (psd_log_level_t)i;
            return true;
        }
    return false;
}
