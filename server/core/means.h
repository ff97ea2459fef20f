/* means.h - brings the terms of means together (proto/measured.h): holds each until the others have come, whose senders are about to
 * push, too, because no round ends without them. It does not hold them for long, and after holding some in vain, it lets the next
 * ones pass for a while. Items are the caller's. Pure; one thread. */
#pragma once

#include "proto/measured.h"

enum { PSD_MEANS_HOLD_MS = 5 };

typedef struct psd_mean {
    struct psd_mean *next;            /* of its chain */
    struct psd_mean *earlier, *later; /* of those that are held */
    uint64_t number, since_ms;
    bool is_held;
    uint32_t n, n_here, n_left; /* terms; those that have come; those whose items it still knows */
    void *item[PSD_AGGREGATE_TAKEN];
} psd_mean_t;

typedef struct psd_means {
    psd_mean_t *chain[256];           /* by their numbers */
    psd_mean_t *first, *last;         /* those that lack terms, in the order of their beginnings */
    uint64_t pass_until_ms, pause_ms; /* until when terms pass; how long they will after the next in vain */
} psd_means_t;

/* None. */
void psd_means_init(psd_means_t *self);

/* A term has come. Returns its mean, whose item it is until psd_means_forget; it is held if psd_mean_t.is_held, otherwise it was the
 * last one, and all are here. NULL: it stands alone. Aborts when memory runs out. */
psd_mean_t *psd_means_add(psd_means_t *self, uint64_t now_ms, const psd_term_t *term, void *item);

/* When terms will have been held for long enough; UINT64_MAX: none is held. */
uint64_t psd_means_end_ms(const psd_means_t *self);

/* A mean whose terms have been held for long enough, and now stand alone: they are those of its n items that are not NULL. NULL:
 * there is none. */
psd_mean_t *psd_means_give_up(psd_means_t *self, uint64_t now_ms);

/* One of its items is no more, but may have been the last of its mean that was here: then that is freed. */
void psd_means_forget(psd_means_t *self, psd_mean_t *mean);
