/* residuals.h - the residuals of workers (worker/feedback.h) for a shard's checkpoint: which workers' residuals it needs and after
 * which clock, which worker to ask for which parts now, and which parts have come. The shard asks one worker at a time, for a
 * window of parts; each part goes to the writer as it comes. A worker that does not answer is asked again after the others. A
 * worker that is given up, or does not answer for long, is left out: training continues, and a checkpoint must not wait for a dead
 * worker. Owned by the engine; pure. */
#pragma once

#include "proto/actions.h"
#include "server/core/shard.h"

typedef struct psd_residual_row {
    uint32_t worker;
    uint64_t incarnation;
    uint64_t clock; /* after which clock of the worker */
    bool is_over;   /* all of it is written, or it will not come */
    uint32_t next;  /* parts below this are written */
} psd_residual_row_t;

typedef struct psd_residuals {
    psd_residual_row_t row[PSD_MAX_WORKERS];
    uint32_t n, at;  /* rows; the one that is asked (`n`: all are over) */
    uint32_t n_over; /* rows that are */
    const psd_shard_t *shard;
    uint32_t n_parts;     /* of it */
    uint8_t *wanted;      /* bitmap of requested parts that have not come */
    uint32_t n_wanted;    /* of those */
    uint32_t n_asked;     /* parts that it was asked for */
    uint32_t n_writing;   /* parts with the writer, of whomever */
    uint64_t asked_ms;    /* when a worker was last asked, or a part came */
    uint64_t again_ms;    /* after how long a worker is asked again; doubles */
    uint64_t progress_ms; /* when a part came last, or the asking began, plus 1; 0: it has not */
    uint32_t n_turns;     /* how often another worker was asked since then */
} psd_residuals_t;

/* Begin for a shard, which is borrowed until it is cleared: it needs no residual yet. Aborts when memory runs out. */
void psd_residuals_begin(psd_residuals_t *self, const psd_shard_t *shard);

/* Need no more residuals, and free everything. All zero is empty. */
void psd_residuals_clear(psd_residuals_t *self);

/* Need the residual of a member, after its clock; ascending by worker. */
void psd_residuals_add(psd_residuals_t *self, uint32_t worker, uint64_t incarnation, uint64_t clock);

/* The clock whose residual the checkpoint still needs from this life of a worker, plus 1; 0: none. */
uint64_t psd_residuals_wish(const psd_residuals_t *self, uint32_t worker, uint64_t incarnation);

/* The row of the worker to ask now, for the parts of `wanted`. NULL: ask none now, because everything possible has been requested,
 * and it is too early to ask again. */
const psd_residual_row_t *psd_residuals_ask(psd_residuals_t *self, uint64_t now_ms);

/* A part has come. Returns whether it is awaited, so that the writer must get it. */
bool psd_residuals_take(psd_residuals_t *self, uint32_t worker, uint64_t incarnation, uint64_t clock, uint32_t part,
                        uint64_t now_ms);

/* The writer has written one. */
void psd_residuals_written(psd_residuals_t *self);

/* A worker that has not answered for so long that it must be left out; NULL: there is none. */
const psd_residual_row_t *psd_residuals_silent(const psd_residuals_t *self, uint64_t now_ms);

/* This life of a worker will send no more. */
void psd_residuals_leave_out(psd_residuals_t *self, uint32_t worker, uint64_t incarnation);

/* Whether everything that will ever come is written. */
bool psd_residuals_is_over(const psd_residuals_t *self);
