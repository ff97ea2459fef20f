#include "worker/lexicon.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/base/array.h"

typedef struct word {
    const char *at;
    size_t n;
    uint64_t hash;
} word_t;

/* Open addressing: a slot holds a word's number + 1, 0 is free. Never more than half full. */
struct psd_lexicon {
    word_t *word;
    size_t n, room;
    uint32_t *slot;
    size_t n_slots; /* a power of two */
};

psd_lexicon_t *psd_lexicon_new(void) { return calloc(1, sizeof(psd_lexicon_t)); }

void psd_lexicon_destroy(psd_lexicon_t **self_p)
{
    if (*self_p) {
        free((*self_p)->word);
        free((*self_p)->slot);
    }
    free(*self_p);
    *self_p = NULL;
}

static uint32_t *place_of(const psd_lexicon_t *self, const char *at, size_t n, uint64_t hash)
{
    for (size_t i = hash & (self->n_slots - 1);; i = (i + 1) & (self->n_slots - 1)) {
        uint32_t *slot = &self->slot[i];
        if (!*slot)
            return slot;
        const word_t *word = &self->word[*slot - 1];
        if (word->hash == hash && word->n == n && !memcmp(word->at, at, n))
            return slot;
    }
}

static bool make_room(psd_lexicon_t *self)
{
    if (self->n >= UINT32_MAX - 1 || psd_array_grow(&self->word, &self->room, self->n + 1, sizeof *self->word, NULL))
        return false;
    if (2 * (self->n + 1) <= self->n_slots)
        return true;
    const size_t n_after = self->n_slots ? 2 * self->n_slots : 16;
    uint32_t *after = calloc(n_after, sizeof *after);
    if (!after)
        return false;
    free(self->slot);
    self->slot = after;
    self->n_slots = n_after;
    for (size_t i = 0; i < self->n; i++)
        *place_of(self, self->word[i].at, self->word[i].n, self->word[i].hash) = (uint32_t)i + 1;
    return true;
}

uint32_t psd_lexicon_number(psd_lexicon_t *self, const char *at, size_t n)
{
    const uint64_t hash = XXH3_64bits(at, n);
    if (!make_room(self))
        return PSD_NO_WORD;
    uint32_t *slot = place_of(self, at, n, hash);
    if (!*slot) {
        self->word[self->n] = (word_t){ at, n, hash };
        *slot = (uint32_t)++self->n;
    }
    return *slot - 1;
}

size_t psd_lexicon_size(const psd_lexicon_t *self) { return self->n; }

const char *psd_lexicon_word(const psd_lexicon_t *self, size_t i, size_t *n)
{
    assert(i < self->n);
    *n = self->word[i].n;
    return self->word[i].at;
}
