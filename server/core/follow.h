/* follow.h - snapshots of the weights for followers, which read them without taking part: when shards take a new one, and which
 * followers read the newest. A shard keeps one snapshot, so a new one waits for the readers of the previous one. Owned by the
 * coordinator; pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proto/actions.h"

enum { PSD_MAX_READERS = 64 };

typedef struct psd_follow {
    uint64_t number;   /* of the newest snapshot: its entry in the log; 0: none in this run */
    uint64_t made_ms;  /* when it was ordered */
    uint64_t progress; /* of the job then */
    struct {
        psd_peer_t peer;
        uint64_t heard_ms; /* when it last reported that it reads the snapshot */
    } reader[PSD_MAX_READERS];
    uint32_t n_readers;
} psd_follow_t;

typedef enum psd_follow_answer {
    PSD_FOLLOW_READ, /* read the newest snapshot */
    PSD_FOLLOW_MAKE, /* shards take a new one: call psd_follow_made(); the follower reads that one */
    PSD_FOLLOW_WAIT  /* other followers still read a snapshot that is too old; ask again */
} psd_follow_answer_t;

/* The log begins again, and with it the numbers. */
void psd_follow_clear(psd_follow_t *self);

/* A follower asks for weights, or, with `number`, reports that it still reads that snapshot, or that a shard does not have it
 * (`gone`). `progress`: of the job; a snapshot counts as new until that changes. */
psd_follow_answer_t psd_follow_ask(psd_follow_t *self, uint64_t now_ms, psd_peer_t from, uint64_t number, bool gone,
                                   uint64_t progress);

/* Shards have been ordered to take snapshot `number`, for this follower. */
void psd_follow_made(psd_follow_t *self, uint64_t now_ms, psd_peer_t from, uint64_t number, uint64_t progress);
