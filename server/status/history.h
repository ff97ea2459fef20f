/* history.h - a server's past, for curves: samples at equal distances in time, thinned out when room runs out, and lines of the
 * log. A plain struct: callers that share it between threads copy it under a lock. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { PSD_HISTORY_POINTS = 1024, PSD_HISTORY_LINES = 200, PSD_HISTORY_TEXT = 200 };

/* Sums, not rates: the difference between two points stays right when points between them are dropped. NaN: not known. */
typedef struct psd_history_point {
    double unix_s;
    uint64_t step, samples, received_bytes, sent_bytes;
    double loss, val_loss, lr, report;
} psd_history_point_t;

typedef struct psd_history_line {
    double unix_s;
    char level[8], id[32];
    char text[PSD_HISTORY_TEXT]; /* cut when longer */
} psd_history_line_t;

typedef struct psd_history { /* all zero: an empty history */
    psd_history_point_t point[PSD_HISTORY_POINTS];
    size_t n;
    uint64_t offered;                           /* points */
    uint64_t every;                             /* number of offers per point; 0 counts as 1 */
    psd_history_line_t line[PSD_HISTORY_LINES]; /* oldest first */
    size_t n_kept;                              /* of them */
    uint64_t n_lines;                           /* lines logged in all */
} psd_history_t;

void psd_history_add(psd_history_t *self, const psd_history_point_t *point);
/* When there is no room left, the id with the most lines loses its oldest, so that frequent lines do not push out rare
 * ones. */
void psd_history_note(psd_history_t *self, double unix_s, const char *level, const char *id, const char *text);

/* {"schema": "psd.history/1", "columns": [...], "rows": [[...]], "events": [{"ts", "level", "id", "text"}]},
 * oldest first. The caller frees it; NULL when memory runs out. */
char *psd_history_json(const psd_history_t *self);
