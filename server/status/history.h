/* history.h - what has been, for curves: numbers at equal distances in time, ever coarser so that there is
 * always room, and lines of the log. A plain struct: whoever shares it between threads copies it
 * under a lock. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { PSD_HISTORY_POINTS = 1024, PSD_HISTORY_LINES = 200, PSD_HISTORY_TEXT = 200 };

/* Sums, not rates: what lies between two points is right however many were dropped there. NaN: not known. */
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

typedef struct psd_history { /* all zero: nothing has been */
    psd_history_point_t point[PSD_HISTORY_POINTS];
    size_t n;
    uint64_t offered;                           /* points */
    uint64_t every;                             /* that many offers make a point; 0 counts as 1 */
    psd_history_line_t line[PSD_HISTORY_LINES]; /* oldest first */
    size_t n_kept;                              /* of them */
    uint64_t n_lines;                           /* that there were in all */
} psd_history_t;

void psd_history_add(psd_history_t *self, const psd_history_point_t *point);
/* When there is no room left, the id with the most lines loses its oldest: what is said every few seconds does not push out what
 * was said once. */
void psd_history_note(psd_history_t *self, double unix_s, const char *level, const char *id, const char *text);

/* {"schema": "psd.history/1", "columns": [...], "rows": [[...]], "events": [{"ts", "level", "id", "text"}]},
 * oldest first. The caller frees it; NULL when memory runs out. */
char *psd_history_json(const psd_history_t *self);
