/* ledger.h - reads a shard's log (log.level=debug) for tests: the time of a line, and each contribution that the shard has
 * applied. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { LEDGER_WORKERS = 16 }; /* at most */

/* The contributors of each round that still counts. */
typedef struct ledger {
    uint64_t last;    /* round applied last */
    uint64_t applied; /* contributions in all, including those undone by a restart */
    size_t capacity;  /* of `who` */
    uint16_t *who;    /* of each round from 0, a bit per worker; owned */
} ledger_t;

/* Read the log of shard `shard`, of all its processes in turn, and check that rounds come in order, each with at most one
 * contribution per worker; another run of the job may go back and repeat rounds. PSD_EDATA, with the line, if not. Cuts `log` into
 * lines. */
int ledger_read(ledger_t *out, unsigned shard, char *log, psd_err_t *err);

/* Check that rounds 1 to `steps` have each had one contribution of each of `n_workers`, and no other. PSD_EDATA if not. */
int ledger_check(const ledger_t *self, uint64_t steps, unsigned n_workers, psd_err_t *err);

void ledger_clear(ledger_t *self);

/* Unix time in milliseconds: now, and of a log line ("ts=2026-01-31T12:00:00.123456Z ..."; 0 when it has
 * none). */
double ledger_now_ms(void);
double ledger_line_ms(const char *line);
