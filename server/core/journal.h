/* journal.h - the numbered log of decisions in server 0: its entries, which of them each shard has carried out, and which must be
 * sent again. An entry is kept until every shard has carried it out.
 *
 * The coordinator appends, sends what it appended, and asks with each tick what to repeat. The journal knows neither what an entry
 * means nor which shards have joined. Pure; times are in milliseconds of the caller's clock. One thread. */
#pragma once

#include "proto/actions.h"

enum { PSD_JOURNAL_REPEAT_MS = 200 }; /* time after which an entry that a shard has not confirmed is sent again */

typedef struct psd_entry {
    uint64_t seq;       /* its number: 1 for the first, then one more each */
    psd_kind_t kind;    /* MODEL or COMMAND */
    uint32_t code;      /* of a COMMAND: PSD_COMMAND_... */
    psd_buf_t *payload; /* borrowed from the journal */
} psd_entry_t;

/* Embedded by its owner; others call the functions below. */
typedef struct psd_journal {
    psd_entry_t *entry; /* entries that some shard has not carried out, oldest first */
    size_t n, capacity;
    uint64_t last; /* number of the newest entry; 0: there has been none */
    uint32_t n_shards;
    struct {
        uint64_t done;    /* the last entry that it says it has carried out */
        uint64_t sent_ms; /* when entries were last sent, or repeated, to it */
    } shard[PSD_MAX_SERVERS];
} psd_journal_t;

/* An empty log for `n_shards` shards, 1 .. PSD_MAX_SERVERS. */
void psd_journal_init(psd_journal_t *self, uint32_t n_shards);

/* Forget all entries and what was done: the next entry is number 1 again. Also frees what the journal holds. */
void psd_journal_clear(psd_journal_t *self);

/* Give a decision the next number; takes over the payload. The entry is valid until the next call that changes the journal.
 * Aborts when memory runs out: a decision is never lost. */
const psd_entry_t *psd_journal_append(psd_journal_t *self, psd_kind_t kind, uint32_t code, psd_buf_t *payload);

/* The newest entry was sent to a shard, or the shard has joined and reads from now on. */
void psd_journal_note_sent(psd_journal_t *self, uint32_t shard, uint64_t now_ms);

/* A shard says that it has carried out the entries up to `seq`; a lower number than before changes nothing. */
void psd_journal_note_done(psd_journal_t *self, uint32_t shard, uint64_t seq);

/* Drop the entries that every shard has done. */
void psd_journal_forget(psd_journal_t *self);

/* The entries to send to a shard again: returns their number, 0 while it is not yet time, and the first of them in `*entry`. Counts
 * them as sent now. */
size_t psd_journal_repeat(psd_journal_t *self, uint32_t shard, uint64_t now_ms, const psd_entry_t **entry);

/* Number of the newest entry; 0: there has been none. */
uint64_t psd_journal_last(const psd_journal_t *self);

/* Whether a shard has carried out every entry; whether all shards have. */
bool psd_journal_is_done(const psd_journal_t *self, uint32_t shard);
bool psd_journal_is_done_by_all(const psd_journal_t *self);
