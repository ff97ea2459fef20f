#include "common/config/flags.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/words.h"
#include "common/config/option_page.h"

/* Flags that programs take besides their tables; the last two only with a job file. In the order of psd_flags_kind_t. */
static const psd_option_t always[] = {
    { .key = "help", .type = PSD_OPTION_STRING, .letter = 'h' },
    { .key = "config", .type = PSD_OPTION_PATH, .letter = 'c', .argument = "FILE" },
    { .key = "version", .type = PSD_OPTION_SWITCH, .letter = 'V' },
};

static size_t n_always(const psd_flags_t *self) { return self->programs ? sizeof always / sizeof *always : 1; }

static bool is_always(const psd_option_t *row) { return row >= always && row < always + sizeof always / sizeof *always; }

static psd_flags_kind_t wrong(psd_flags_t *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static psd_flags_kind_t wrong(psd_flags_t *self, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(self->why, sizeof self->why, format, list);
    va_end(list);
    for (char *p = self->why; *p; p++) /* messages quote what users typed, without control bytes */
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    return PSD_FLAGS_WRONG;
}

/* -- the tables -------------------------------------------------------------------------------------------- */

/* The i-th flag that this command line takes; NULL past the last. It skips those of the option table that belong to other programs.
 * Advances `*i`. */
static const psd_option_t *each(const psd_flags_t *self, size_t *i)
{
    size_t n_own = 0, at = *i;
    while (self->own && self->own[n_own].key)
        n_own++;
    for (;; at++) {
        const size_t n = n_own + n_always(self);
        const psd_option_t *row = at < n_own ? &self->own[at] : at < n ? &always[at - n_own] : psd_option_at(at - n);
        if (!row || at < n || row->programs & self->programs) {
            *i = at + 1;
            return row;
        }
    }
}

static bool is_called(const psd_option_t *row, const char *name)
{
    char flag[PSD_OPTION_TEXT];
    psd_option_flag(row->key, flag, sizeof flag);
    return !strcmp(flag + 2, name);
}

/* A comparison takes its own options without their section, too: --seeds is --compare-seeds. */
static bool is_called_briefly(const psd_flags_t *self, const psd_option_t *row, const char *name)
{
    static const char section[] = "--compare-";
    char flag[PSD_OPTION_TEXT];
    psd_option_flag(row->key, flag, sizeof flag);
    return (self->programs & PSD_PROGRAM_COMPARE) && !strncmp(flag, section, sizeof section - 1) &&
           !strcmp(flag + sizeof section - 1, name);
}

static const psd_option_t *find(const psd_flags_t *self, const char *name)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = each(self, &i));)
        if (is_called(row, name) || is_called_briefly(self, row, name))
            break;
    return row;
}

static const psd_option_t *find_letter(const psd_flags_t *self, char letter)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = each(self, &i));)
        if (row->letter == letter)
            break;
    return row;
}

/* The flag that `name` probably meant: one that begins with it, whose key ends with it, or that is spelled alike. */
static void suggest(const psd_flags_t *self, const char *name, char out[PSD_OPTION_TEXT])
{
    psd_nearest_t nearest = { 0 };
    const psd_option_t *row;
    *out = '\0';
    for (size_t i = 0; (row = each(self, &i));) {
        char flag[PSD_OPTION_TEXT];
        const char *dot = strrchr(row->key, '.');
        psd_option_flag(row->key, flag, sizeof flag);
        psd_nearest_consider(&nearest, name, flag + 2);
        if (!*out && *name && (!strncmp(name, flag + 2, strlen(name)) || !strcmp(name, dot ? dot + 1 : row->key)))
            snprintf(out, PSD_OPTION_TEXT, "%s", flag + 2);
    }
    if (!*out)
        snprintf(out, PSD_OPTION_TEXT, "%s", nearest.word);
}

static psd_flags_kind_t unknown(psd_flags_t *self, const char *name)
{
    char meant[PSD_OPTION_TEXT];
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        if (!is_called(row, name))
            continue;
        return self->programs
                   ? wrong(self, "--%s is an option of %s; in the job file, %s is fine", name, psd_option_program(row), row->key)
                   : wrong(self, "--%s is an option of %s, not of %s; leave it out", name, psd_option_program(row), self->name);
    }
    suggest(self, name, meant);
    return wrong(self, "unknown option --%.60s; %s%s%s", name, *meant ? "did you mean --" : "--help lists them all", meant,
                 *meant ? "?" : "");
}

/* -- one word ---------------------------------------------------------------------------------------------- */

/* Whether the value of a flag is the next word, if the flag's word has none. */
static bool takes_next(const psd_option_t *row)
{
    return row->type != PSD_OPTION_BOOL && row->type != PSD_OPTION_SWITCH && row != always;
}

static psd_flags_kind_t take_flag(psd_flags_t *self, const psd_option_t *row, const char *value)
{
    self->row = row;
    self->value = value;
    if (value && row->type == PSD_OPTION_SWITCH)
        return wrong(self, "%s takes no value", self->flag);
    if (!value && takes_next(row) && self->next == self->argc)
        return wrong(self, "%s needs a value: %s", self->flag, psd_option_argument(row));
    if (!value && takes_next(row))
        self->value = self->argv[self->next++];
    return is_always(row) ? (psd_flags_kind_t)(PSD_FLAGS_HELP + (row - always)) : PSD_FLAGS_ROW;
}

static psd_flags_kind_t take_long(psd_flags_t *self, const char *word)
{
    const size_t n = strcspn(word, "=");
    snprintf(self->flag, sizeof self->flag, "%.*s", (int)(n < sizeof self->flag ? n : sizeof self->flag), word);
    const psd_option_t *row = find(self, self->flag + 2);
    return row ? take_flag(self, row, word[n] ? word + n + 1 : NULL) : unknown(self, self->flag + 2);
}

static psd_flags_kind_t take_short(psd_flags_t *self, const char *word)
{
    const psd_option_t *row = find_letter(self, word[1]);
    snprintf(self->flag, sizeof self->flag, "%.2s", word);
    if (!row || (word[2] && !takes_next(row)))
        return wrong(self, "unknown option %.60s; --help lists them all", word);
    return take_flag(self, row, word[2] ? word + 2 : NULL);
}

psd_flags_kind_t psd_flags_next(psd_flags_t *self)
{
    self->first = self->next;
    self->row = NULL;
    self->value = NULL;
    if (!self->flags_end && self->next < self->argc && !strcmp(self->argv[self->next], "--")) {
        self->flags_end = true;
        self->next++;
    }
    if (self->next >= self->argc)
        return PSD_FLAGS_END;
    const char *word = self->argv[self->next++];
    if (!self->flags_end && word[0] == '-' && word[1])
        return word[1] == '-' ? take_long(self, word) : take_short(self, word);
    self->value = word;
    return PSD_FLAGS_WORD;
}
