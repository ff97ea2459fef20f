#include "deploy/psdctl/verbs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/words.h"

#define X(name) extern const psd_verb_t psd_verb_##name;
#include "deploy/psdctl/all.h"
#undef X

const psd_verb_t *const psd_verbs[] = {
#define X(name) &psd_verb_##name,
#include "deploy/psdctl/all.h"
#undef X
    NULL
};

/* Whether `word` is the first of a verb of two words. */
static bool is_group(const char *word)
{
    const size_t n = strlen(word);
    for (size_t i = 0; n && psd_verbs[i]; i++)
        if (!strncmp(psd_verbs[i]->name, word, n) && psd_verbs[i]->name[n] == ' ')
            return true;
    return false;
}

static const psd_verb_t *find(const char *name)
{
    for (size_t i = 0; psd_verbs[i]; i++)
        if (!strcmp(psd_verbs[i]->name, name))
            return psd_verbs[i];
    return NULL;
}

/* "list, verify, save, prune" of "checkpoint". */
static void list_group(const char *word, char *out, size_t capacity)
{
    const size_t n = strlen(word);
    *out = '\0';
    for (size_t i = 0; psd_verbs[i]; i++)
        if (!strncmp(psd_verbs[i]->name, word, n) && psd_verbs[i]->name[n] == ' ')
            snprintf(out + strlen(out), capacity - strlen(out), "%s%s", *out ? ", " : "", psd_verbs[i]->name + n + 1);
}

static void complain(const char *first, const char *name, psd_err_t *err)
{
    psd_nearest_t nearest = { 0 };
    char group[200];
    for (size_t i = 0; psd_verbs[i]; i++)
        psd_nearest_consider(&nearest, name, psd_verbs[i]->name);
    list_group(first, group, sizeof group);
    if (*nearest.word)
        psd_err_set(err, PSD_EUSAGE, "there is no verb %.60s; did you mean psdctl %s?", name, nearest.word);
    else if (*group && !strcmp(first, name))
        psd_err_set(err, PSD_EUSAGE, "%s needs a second word, one of %s", name, group);
    else if (*group)
        psd_err_set(err, PSD_EUSAGE, "there is no verb %.60s; after %s write one of %s", name, first, group);
    else if (*first == '-')
        psd_err_set(err, PSD_EUSAGE, "%.60s comes before the verb; name the verb first, as in psdctl run %.60s", first, first);
    else if (access(first, R_OK) == 0 || strstr(first, ".yaml") || strstr(first, ".yml"))
        psd_err_set(err, PSD_EUSAGE, "%.100s is not a verb; did you mean psdctl run %.100s?", first, first);
    else
        psd_err_set(err, PSD_EUSAGE, "there is no verb %.60s; psdctl help lists them all", name);
}

const psd_verb_t *psd_verbs_find(int argc, char *const *argv, int *n, psd_err_t *err)
{
    char name[128];
    const char *first = argc > 1 ? argv[1] : "";
    const bool has_second = argc > 2 && *argv[2] != '-' && is_group(first);
    snprintf(name, sizeof name, "%.60s%s%.60s", first, has_second ? " " : "", has_second ? argv[2] : "");
    *n = has_second ? 2 : 1;
    const psd_verb_t *verb = find(name);
    if (!verb)
        complain(first, name, err);
    return verb;
}
