/* schedule_text.c - the grammar of a schedule, declared in schedule.h:
 *   schedule := kind [ "(" name "=" value { "," name "=" value } ")" ]
 * A value is a number, one of the argument's words, or a list of numbers with slashes between. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/scanner.h"
#include "common/base/words.h"
#include "common/config/number.h"
#include "common/optim/schedule.h"

static int read_kind(psd_scanner_t *p, const psd_schedule_kind_t **out)
{
    char word[PSD_SCANNER_WORD], known[160] = "";
    psd_nearest_t nearest = { 0 };
    const int rc = psd_scanner_word(p, word, "the name of a schedule");
    if (rc)
        return rc;
    for (size_t i = 0; (*out = psd_schedule_kind_at(i)); i++) {
        const size_t used = strlen(known);
        if (!strcmp((*out)->name, word))
            return PSD_OK;
        psd_nearest_consider(&nearest, word, (*out)->name);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", (*out)->name);
    }
    const char *at = p->at - strlen(word);
    if (*nearest.word)
        return psd_scanner_fail(p, at, "unknown schedule '%s'; the nearest is '%s'", word, nearest.word);
    return psd_scanner_fail(p, at, "unknown schedule '%s'; there are %s", word, known);
}

static int read_name(psd_scanner_t *p, const psd_schedule_kind_t *kind, size_t *out)
{
    char word[PSD_SCANNER_WORD];
    psd_nearest_t nearest = { 0 };
    const int rc = psd_scanner_word(p, word, "the name of an argument");
    if (rc)
        return rc;
    for (*out = 0; *out < PSD_SCHEDULE_VALUES; ++*out) {
        const psd_schedule_arg_t *arg = psd_schedule_arg(kind, *out);
        if (arg && !strcmp(arg->name, word))
            return PSD_OK;
        if (arg)
            psd_nearest_consider(&nearest, word, arg->name);
    }
    const char *at = p->at - strlen(word);
    if (*nearest.word)
        return psd_scanner_fail(p, at, "%s has no '%s'; the nearest is '%s'", kind->name, word, nearest.word);
    return psd_scanner_fail(p, at, "%s has no '%s'", kind->name, word);
}

static int read_number(psd_scanner_t *p, const psd_schedule_arg_t *arg, double *value)
{
    char min[PSD_NUMBER_TEXT], max[PSD_NUMBER_TEXT];
    psd_scanner_skip_spaces(p);
    const char *at = p->at;
    const size_t n = psd_number_read(at, value);
    if (n == 0)
        return psd_scanner_expected(p, "a finite decimal number");
    p->at += n;
    if (!(*value >= arg->min && *value <= arg->max) || (arg->open_min && *value == arg->min))
        return psd_scanner_fail(p, at, "%.*s is out of range for %s: it must be %s %s and at most %s", n < 40 ? (int)n : 40, at,
                                arg->name, arg->open_min ? "above" : "at least", psd_number_print(arg->min, min),
                                psd_number_print(arg->max, max));
    return PSD_OK;
}

static int read_word(psd_scanner_t *p, const psd_schedule_arg_t *arg, double *value)
{
    char word[PSD_SCANNER_WORD], *rest, words[64], *name;
    const int rc = psd_scanner_word(p, word, arg->words);
    if (rc)
        return rc;
    snprintf(words, sizeof words, "%s", arg->words);
    rest = words;
    for (*value = 0; (name = strsep(&rest, "|")); ++*value)
        if (!strcmp(name, word))
            return PSD_OK;
    return psd_scanner_fail(p, p->at - strlen(word), "%s is %s, not '%s'", arg->name, arg->words, word);
}

static int read_list(psd_scanner_t *p, const psd_schedule_arg_t *arg, double milestone[PSD_MILESTONES], double *n)
{
    *n = 0;
    do {
        const size_t i = (size_t)*n;
        psd_scanner_skip_spaces(p);
        const char *at = p->at;
        if (i == PSD_MILESTONES)
            return psd_scanner_fail(p, at, "more than %d %s", PSD_MILESTONES, arg->name);
        const int rc = read_number(p, arg, &milestone[i]);
        if (rc)
            return rc;
        if (i && !(milestone[i] > milestone[i - 1]))
            return psd_scanner_fail(p, at, "%s must rise", arg->name);
        ++*n;
    } while (psd_scanner_take(p, '/'));
    return PSD_OK;
}

static int read_argument(psd_scanner_t *p, psd_schedule_t *out, bool given[PSD_SCHEDULE_VALUES])
{
    size_t i = 0;
    psd_scanner_skip_spaces(p);
    const char *at = p->at;
    int rc = read_name(p, out->kind, &i);
    if (rc)
        return rc;
    const psd_schedule_arg_t *arg = psd_schedule_arg(out->kind, i);
    if (given[i])
        return psd_scanner_fail(p, at, "%s is given twice", arg->name);
    if (!psd_scanner_take(p, '='))
        return psd_scanner_expected(p, "'='");
    given[i] = true;
    return arg->list    ? read_list(p, arg, out->milestone, &out->value[i])
           : arg->words ? read_word(p, arg, &out->value[i])
                        : read_number(p, arg, &out->value[i]);
}

static int read_arguments(psd_scanner_t *p, psd_schedule_t *out, bool given[PSD_SCHEDULE_VALUES])
{
    if (!psd_scanner_take(p, '(') || psd_scanner_take(p, ')'))
        return PSD_OK;
    do {
        const int rc = read_argument(p, out, given);
        if (rc)
            return rc;
    } while (psd_scanner_take(p, ','));
    return psd_scanner_take(p, ')') ? PSD_OK : psd_scanner_expected(p, "',' or ')'");
}

int psd_schedule_parse(psd_schedule_t *out, const char *spec, psd_err_t *err)
{
    psd_scanner_t p = { .what = "schedule", .text = spec, .at = spec, .err = err };
    psd_schedule_t read = { 0 };
    bool given[PSD_SCHEDULE_VALUES] = { false };
    int rc = read_kind(&p, &read.kind);
    rc = rc ? rc : read_arguments(&p, &read, given);
    if (rc)
        return rc;
    psd_scanner_skip_spaces(&p);
    if (*p.at)
        return psd_scanner_expected(&p, "nothing more");
    for (size_t i = 0; i < PSD_SCHEDULE_VALUES; i++) {
        const psd_schedule_arg_t *arg = psd_schedule_arg(read.kind, i);
        if (!arg || given[i])
            continue;
        if (isnan(arg->def))
            return psd_scanner_fail(&p, p.at, "%s needs %s, %s", read.kind->name, arg->name, arg->help);
        read.value[i] = arg->def;
    }
    *out = read;
    return PSD_OK;
}

static size_t print_value(const psd_schedule_t *self, const psd_schedule_arg_t *arg, double value, char *out, size_t room)
{
    char text[PSD_NUMBER_TEXT];
    size_t n = 0;
    if (arg->words) {
        const char *word = arg->words;
        for (size_t i = 0; i < (size_t)value; i++)
            word = strchr(word, '|') + 1;
        return (size_t)snprintf(out, room, "%.*s", (int)strcspn(word, "|"), word);
    }
    if (!arg->list)
        return (size_t)snprintf(out, room, "%s", psd_number_print(value, text));
    for (size_t i = 0; i < (size_t)value && n < room; i++)
        n += (size_t)snprintf(out + n, room - n, "%s%s", i ? "/" : "", psd_number_print(self->milestone[i], text));
    return n;
}

char *psd_schedule_print(const psd_schedule_t *self, char buf[PSD_SCHEDULE_TEXT])
{
    size_t n = (size_t)snprintf(buf, PSD_SCHEDULE_TEXT, "%s(", self->kind->name);
    for (size_t i = 0; i < PSD_SCHEDULE_VALUES; i++) {
        const psd_schedule_arg_t *arg = psd_schedule_arg(self->kind, i);
        if (!arg)
            continue;
        n += (size_t)snprintf(buf + n, PSD_SCHEDULE_TEXT - n, "%s%s=", buf[n - 1] == '(' ? "" : ", ", arg->name);
        n += print_value(self, arg, self->value[i], buf + n, PSD_SCHEDULE_TEXT - n);
    }
    snprintf(buf + n, PSD_SCHEDULE_TEXT - n, ")");
    return buf;
}
