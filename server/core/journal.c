#include "server/core/journal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void psd_journal_init(psd_journal_t *self, uint32_t n_shards) { *self = (psd_journal_t){ .n_shards = n_shards }; }

void psd_journal_clear(psd_journal_t *self)
{
    for (size_t i = 0; i < self->n; i++)
        psd_buf_unref(&self->entry[i].payload);
    free(self->entry);
    self->entry = NULL;
    self->n = self->capacity = 0;
    self->last = 0;
    for (uint32_t s = 0; s < self->n_shards; s++)
        self->shard[s].done = 0;
}

const psd_entry_t *psd_journal_append(psd_journal_t *self, psd_kind_t kind, uint32_t code, psd_buf_t *payload)
{
    if (self->n == self->capacity) {
        self->capacity = self->capacity ? 2 * self->capacity : 16;
        self->entry = realloc(self->entry, self->capacity * sizeof *self->entry);
        assert(self->entry && "no memory for the log");
    }
    psd_entry_t *e = &self->entry[self->n++];
    *e = (psd_entry_t){ .seq = ++self->last, .kind = kind, .code = code, .payload = payload };
    return e;
}

void psd_journal_note_sent(psd_journal_t *self, uint32_t shard, uint64_t now_ms) { self->shard[shard].sent_ms = now_ms; }

void psd_journal_note_done(psd_journal_t *self, uint32_t shard, uint64_t seq)
{
    if (seq > self->shard[shard].done)
        self->shard[shard].done = seq;
}

void psd_journal_forget(psd_journal_t *self)
{
    uint64_t done = UINT64_MAX;
    for (uint32_t s = 0; s < self->n_shards; s++)
        if (self->shard[s].done < done)
            done = self->shard[s].done;
    size_t n = 0;
    while (n < self->n && self->entry[n].seq <= done)
        psd_buf_unref(&self->entry[n++].payload);
    if (!n)
        return;
    memmove(self->entry, self->entry + n, (self->n - n) * sizeof *self->entry);
    self->n -= n;
}

size_t psd_journal_repeat(psd_journal_t *self, uint32_t shard, uint64_t now_ms, const psd_entry_t **entry)
{
    if (now_ms < self->shard[shard].sent_ms + PSD_JOURNAL_REPEAT_MS)
        return 0;
    self->shard[shard].sent_ms = now_ms;
    size_t i = 0;
    while (i < self->n && self->entry[i].seq <= self->shard[shard].done)
        i++;
    *entry = self->entry + i;
    return self->n - i;
}

uint64_t psd_journal_last(const psd_journal_t *self) { return self->last; }

bool psd_journal_is_done(const psd_journal_t *self, uint32_t shard) { return self->shard[shard].done >= self->last; }

bool psd_journal_is_done_by_all(const psd_journal_t *self)
{
    uint32_t shard = 0;
    while (shard < self->n_shards && psd_journal_is_done(self, shard))
        shard++;
    return shard == self->n_shards;
}
