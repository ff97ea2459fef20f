#include "common/words.h"

#include <stdio.h>
#include <string.h>

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t psd_words_distance(const char *a, const char *b)
{
    enum { LONGEST = 100 };
    size_t row[LONGEST + 1], n = strlen(b);
    if (strlen(a) > LONGEST || n > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = least(replaced, least(row[j], row[j - 1]) + 1);
        }
    }
    return row[n];
}

void psd_nearest_consider(psd_nearest_t *self, const char *typed, const char *candidate)
{
    size_t d = psd_words_distance(typed, candidate);
    if ((!*self->word || d < self->distance) && d <= 2 + strlen(typed) / 8 && d < strlen(typed)) {
        self->distance = d;
        snprintf(self->word, sizeof self->word, "%s", candidate);
    }
}
