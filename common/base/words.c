#include "common/base/words.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST = 100 };

/* Words of other programs, and psd's words for them; in lower case, without the characters between words. */
static const struct {
    const char *theirs, *ours;
} synonyms[] = {
    { "learningrate", "lr" },
    { "stepsize", "lr" },
    { "eta", "lr" },
    { "lrate", "lr" },
    { "epsilon", "eps" },
    { "wd", "weightdecay" },
    { "l2", "weightdecay" },
    { "l2reg", "weightdecay" },
    { "decayrate", "rho" },
    { "mu", "momentum" },
    { "nag", "nesterov" },
    { "sgdm", "momentum" },
    { "sgdmomentum", "momentum" },
    { "amsgrad", "adam" },
    { "lr", "optimizer" },
    { "learningrate", "optimizer" },
    { "optimizerlr", "optimizer" },
    { "opt", "optimizer" },
    { "optim", "optimizer" },
    { "solver", "optimizer" },
    { "epochs", "stopepochs" },
    { "numepochs", "stopepochs" },
    { "maxepochs", "stopepochs" },
    { "steps", "stopsteps" },
    { "maxsteps", "stopsteps" },
    { "numsteps", "stopsteps" },
    { "iterations", "stopsteps" },
    { "batchsize", "databatch" },
    { "databatchsize", "databatch" },
    { "numservers", "servers" },
    { "nservers", "servers" },
    { "numworkers", "workersmin" },
    { "workers", "workersmin" },
    { "nworkers", "workersmin" },
    { "output", "save" },
    { "out", "save" },
    { "randomseed", "seed" },
    { "randomstate", "seed" },
    { "sep", "datadelimiter" },
    { "datasep", "datadelimiter" },
    { "delimiter", "datadelimiter" },
    { "start", "run" },
    { "train", "run" },
    { "ls", "checkpointlist" },
};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* The distance, ignoring case if `any_case`. */
static size_t measure(const char *a, const char *b, bool any_case)
{
    size_t row[3][LONGEST + 1], n = strlen(b), m = strlen(a);
    if (m > LONGEST || n > LONGEST)
        return LONGEST;
    for (size_t j = 0; j <= n; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t *now = row[i % 3], *before = row[(i - 1) % 3], *two_before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= n; j++) {
#define SAME(x, y) (any_case ? tolower((unsigned char)(x)) == tolower((unsigned char)(y)) : (x) == (y))
            now[j] = least(before[j - 1] + !SAME(a[i - 1], b[j - 1]), least(before[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && SAME(a[i - 1], b[j - 2]) && SAME(a[i - 2], b[j - 1]))
                now[j] = least(now[j], two_before[j - 2] + 1);
#undef SAME
        }
    }
    return row[m % 3][n];
}

size_t psd_words_distance(const char *a, const char *b) { return measure(a, b, false); }

static bool is_between(char c) { return c == '.' || c == '-' || c == '_' || c == ' '; }

/* The length of the common prefix, up to a dot, -, _ or blank. */
static size_t common_beginning(const char *a, const char *b)
{
    size_t n = 0;
    for (size_t i = 0; a[i] && a[i] == b[i]; i++)
        n = is_between(a[i]) ? i + 1 : n;
    return n;
}

/* Whether `word`, in lower case and without the characters between words, is `plain`. */
static bool is_plainly(const char *word, const char *plain)
{
    for (; *word; word++) {
        if (is_between(*word))
            continue;
        if (tolower((unsigned char)*word) != *plain++)
            return false;
    }
    return !*plain;
}

static bool is_synonym(const char *typed, const char *candidate)
{
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (is_plainly(typed, synonyms[i].theirs) && is_plainly(candidate, synonyms[i].ours))
            return true;
    return false;
}

static bool is_near(const char *typed, const char *candidate, size_t d)
{
    const size_t n = strlen(typed), m = strlen(candidate);
    return d < n && d <= ((n > m ? n : m) + 1) / 3 && d <= 2 + n / 8;
}

void psd_nearest_consider(psd_nearest_t *self, const char *typed, const char *candidate)
{
    const size_t same = common_beginning(typed, candidate);
    size_t d = measure(typed + same, candidate + same, true);
    bool near = is_near(typed + same, candidate + same, d);
    if (is_synonym(typed, candidate))
        d = 0, near = true;
    if (near && (!*self->word || d < self->distance)) {
        self->distance = d;
        snprintf(self->word, sizeof self->word, "%s", candidate);
    }
}
