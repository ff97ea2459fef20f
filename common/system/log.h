/* log.h - one line per event on stderr: a level, a stable id, key=value fields.
 *
 *     psd_log_warn("worker.lost", "worker=%u silent_ms=%" PRIu64, id, silent_ms);
 *     ts=2026-01-31T09:41:22.000123Z level=warn comp=server job=mnist id=worker.lost worker=3 silent_ms=3012
 *
 * The id is an interface: documented, never reworded. error: someone must act; warn: psd coped; info: the cluster changed shape;
 * debug: per message. Events per push are metrics, not lines. In the text, `key=` at the start of a word begins a field, whose
 * value runs to the next one; text before the first field is the message. Strings cannot leave their field (common/base/logtext.h),
 * so that no name can add fields; values are quoted and escaped as the log's format requires, so a line stays a line. A program
 * that never calls psd_log_init writes nothing, because a library must not write to stderr. Any thread. This module writes JSON
 * itself, not with Jansson, and allocates nothing, so that it can log when memory has run out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum psd_log_level { PSD_LOG_ERROR, PSD_LOG_WARN, PSD_LOG_INFO, PSD_LOG_DEBUG, PSD_LOG_LEVELS } psd_log_level_t;

typedef enum psd_log_format {
    PSD_LOG_AUTO,   /* a short form with colours on a terminal, otherwise logfmt; syslog levels under systemd */
    PSD_LOG_LOGFMT, /* the same, by name */
    PSD_LOG_JSON    /* one object per line, whatever stderr is */
} psd_log_format_t;

typedef struct psd_log_config {
    psd_log_level_t level; /* lines above it are not written */
    psd_log_format_t format;
    const char *comp;                                          /* which program: "server", "worker"; copied */
    const char *job;                                           /* name of the job, NULL or "" for none; copied */
    void (*sink)(void *arg, const char *line, size_t n_bytes); /* takes each line with its '\n'; NULL: stderr */
    void *sink_arg;
    uint64_t (*now_us)(void *arg); /* microseconds since 1970, for tests; NULL: the clock */
} psd_log_config_t;

enum {
    PSD_LOG_MAX_LINE = 4096, /* bytes; the rest is cut */
    PSD_LOG_WINDOW_S = 10,   /* within it, a repeated line is counted instead of written, */
    PSD_LOG_BURST = 20       /* and so are lines of one id beyond this number; debug lines are exempt */
};

/* Start writing, or change the settings. Not while another thread logs. */
void psd_log_init(const psd_log_config_t *config);

/* Write the lines that were only counted. Call before the program ends. */
void psd_log_flush(void);

/* False when the line was counted instead of written: a caller that also keeps lines elsewhere can skip this one. */
bool psd_log_write(psd_log_level_t level, const char *id, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define psd_log_error(...) psd_log_write(PSD_LOG_ERROR, __VA_ARGS__)
#define psd_log_warn(...)  psd_log_write(PSD_LOG_WARN, __VA_ARGS__)
#define psd_log_info(...)  psd_log_write(PSD_LOG_INFO, __VA_ARGS__)
#define psd_log_debug(...) psd_log_write(PSD_LOG_DEBUG, __VA_ARGS__)

/* Events of a level since the start, written or suppressed: the metric psd_log_messages_total. */
uint64_t psd_log_count(psd_log_level_t level);

/* "warn" and back; the first is false for any other word. */
bool psd_log_level_parse(const char *name, psd_log_level_t *out);
const char *psd_log_level_name(psd_log_level_t level);
