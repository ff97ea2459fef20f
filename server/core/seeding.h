/* seeding.h - how a shard gets the model's initial values: one member at a time is asked for a window of parts, and for more as they
 * come, so that a slow link is never full of them. It counts which parts have values. Owned by the engine; pure. */
#pragma once

#include "proto/actions.h"
#include "server/core/shard.h"

typedef struct psd_seeding {
    uint32_t n_parts;        /* parts of the shard, at least 1 */
    uint32_t n_started;      /* that have values */
    uint8_t *started;        /* bitmap of those */
    uint8_t *asked, *newest; /* those asked for that have not come; those of the newest request */
    uint64_t flying;         /* elements of `asked` */
    bool asking;             /* somebody is asked */
    uint32_t worker;         /* who; when nobody is, whose turn it is: this id or the next that is here */
    uint64_t incarnation;    /* of whoever is asked */
    uint64_t seq;            /* number of the newest request */
    uint64_t sent_ms;        /* when that was sent or repeated */
    uint64_t heard_ms;       /* when who is asked last said anything here */
} psd_seeding_t;

/* For a shard of so many parts, at least 1; false without memory. All zero before, and after psd_seeding_clear. */
bool psd_seeding_init(psd_seeding_t *self, uint32_t n_parts);
void psd_seeding_clear(psd_seeding_t *self);

/* Whether this part has values; it has now. All of them have, from a checkpoint. */
bool psd_seeding_has(const psd_seeding_t *self, uint32_t part);
void psd_seeding_set(psd_seeding_t *self, uint32_t part);
void psd_seeding_set_all(psd_seeding_t *self, uint32_t n);

/* Whether whoever is asked is to be asked still: it is this life of a worker, and has not been silent for too long. */
bool psd_seeding_waits(const psd_seeding_t *self, uint64_t incarnation, uint64_t now_ms);

/* Whether the newest request is to be repeated, and counts it as repeated now. By its number it is answered once. */
bool psd_seeding_repeats(psd_seeding_t *self, uint64_t now_ms);

/* Turn to another worker. */
void psd_seeding_turn_to(psd_seeding_t *self, uint32_t worker, uint64_t incarnation, uint64_t now_ms);

/* Who is asked said something. */
void psd_seeding_heard(psd_seeding_t *self, uint32_t worker, uint64_t now_ms);

/* Make the next request: whether there is any more to ask for within the window. It is `newest`, of number `seq`. */
bool psd_seeding_widen(psd_seeding_t *self, const psd_shard_t *shard, uint64_t now_ms);

/* The worker has answered the request of this number, and what of it has not come is lost, for messages of a connection come in their
 * order. Whether more is to be asked for. */
bool psd_seeding_answered(psd_seeding_t *self, uint32_t worker, uint64_t seq);

/* A part's values have come. Whether so much of the window has that more is to be asked for. */
bool psd_seeding_came(psd_seeding_t *self, const psd_shard_t *shard, uint32_t part);
