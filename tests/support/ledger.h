/* ledger.h - what a shard says of itself in its log (log.level=debug), read by tests: the time of a line, and
 * each contribution that it has applied. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { LEDGER_WORKERS = 16 }; /* at most */

/* Who contributed to each round that still counts. */
typedef struct ledger {
    uint64_t last;    /* round applied last */
    uint64_t applied; /* contributions in all, those included that a restart has undone */
    size_t capacity;  /* of `who` */
    uint16_t *who;    /* of each round from 0, a bit per worker; owned */
} ledger_t;

/* Read the log of shard `shard`, all of its lives one after the other: rounds come in order, each with at
 * most one contribution of each worker; another run of the job may go back, and makes again what it undoes.
 * PSD_EDATA, with the line, when it is otherwise. `log` is cut into lines. */
int ledger_read(ledger_t *out, unsigned shard, char *log, psd_err_t *err);

/* Rounds 1 to `steps` have each had one contribution of each of `n_workers`, and there is no other.
 * PSD_EDATA. */
int ledger_check(const ledger_t *self, uint64_t steps, unsigned n_workers, psd_err_t *err);

void ledger_clear(ledger_t *self);

/* Unix time in milliseconds: now, and of a log line ("ts=2026-01-31T12:00:00.123456Z ..."; 0 when it has
 * none). */
double ledger_now_ms(void);
double ledger_line_ms(const char *line);
