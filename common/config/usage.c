#include "common/config/usage.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/flags.h"

/* -- help -------------------------------------------------------------------------------------------------- */

const char *psd_usage_line(const psd_usage_t *usage, char *out, size_t capacity)
{
    snprintf(out, capacity, "%s%s%s%s", usage->name, usage->flag[0].key || usage->programs ? " [options]" : "",
             *usage->words ? " " : "", usage->words);
    return out;
}

/* Print `text`, broken at blanks, with `indent` blanks before each line. */
static void print_wrapped(FILE *out, const char *text, int indent)
{
    enum { WIDTH = 100 };
    while (*text) {
        size_t n = strlen(text), room = (size_t)(WIDTH - indent);
        if (n > room)
            for (n = room; n > 1 && text[n] != ' '; n--)
                ;
        fprintf(out, "%.*s\n", (int)n, text);
        text += n + (text[n] == ' ');
        if (*text)
            fprintf(out, "%*s", indent, "");
    }
}

static void print_flag(FILE *out, const psd_option_t *row)
{
    char flag[PSD_OPTION_TEXT], text[PSD_OPTION_TEXT + 40], help[400];
    const char *argument = psd_option_argument(row);
    psd_option_flag(row->key, flag, sizeof flag);
    snprintf(text, sizeof text, "%s%s%s", flag, argument ? "=" : "", argument ? argument : "");
    snprintf(help, sizeof help, row->preset ? "%s [%s]" : "%s", row->help, row->preset);
    fprintf(out, "  %-22s ", text);
    print_wrapped(out, help, 25);
}

void psd_usage_help(FILE *out, const psd_usage_t *usage)
{
    char line[200];
    fprintf(out, "Usage: %s\n%c%s.\n", psd_usage_line(usage, line, sizeof line), toupper((unsigned char)*usage->does),
            usage->does + 1);
    if (*usage->about)
        print_wrapped(out, usage->about, 0);
    for (const psd_option_t *row = usage->flag; row->key; row++) {
        fputs(row == usage->flag ? "\n" : "", out);
        print_flag(out, row);
    }
    if (usage->programs)
        fputs("\nAlso takes the options of psdctl run: see psdctl help run.\n", out);
    for (const char *at = usage->examples; *at; at += strcspn(at, "\n") + 1)
        fprintf(out, "%s  %.*s\n", at == usage->examples ? "\n" : "", (int)strcspn(at, "\n"), at);
}

/* -- words ------------------------------------------------------------------------------------------------- */

/* The number of words that it takes: of all in `words`, and of those not in brackets. */
static size_t count_words(const char *words, size_t *n_wanted)
{
    size_t n = 0;
    *n_wanted = 0;
    for (const char *at = words; *at; at += strspn(at, " ")) {
        n++;
        *n_wanted += *at != '[';
        at += strcspn(at, " ");
    }
    return strstr(words, "...") ? SIZE_MAX : n;
}

static int take_word(const psd_usage_t *usage, psd_given_t *out, const char *word, psd_err_t *err)
{
    size_t n_wanted;
    if (out->n_words == count_words(usage->words, &n_wanted))
        return psd_err_set(err, PSD_EUSAGE, "one word too many: %.100s; it takes %s", word, *usage->words ? usage->words : "none");
    out->word[out->n_words++] = word;
    return PSD_OK;
}

static int take_flag(const psd_usage_t *usage, psd_given_t *out, const psd_flags_t *flags, psd_err_t *err)
{
    char why[PSD_OPTION_WHY], *text = NULL;
    const size_t i = (size_t)(flags->row - usage->flag);
    const bool adds = flags->row->type == PSD_OPTION_TEXTS && out->flag[i];
    psd_option_value_t value;
    out->flag[i] = flags->value ? flags->value : flags->row->type == PSD_OPTION_BOOL ? "true" : "";
    if (adds && asprintf(&text, "%s;%s", out->value[i].text, out->flag[i]) < 0)
        return psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
    const int rc = psd_option_read(flags->row, text ? text : out->flag[i], &value, why);
    psd_option_clear(&out->value[i]);
    out->value[i] = value;
    free(text);
    return rc ? psd_err_set(err, rc == PSD_ENOMEM ? rc : PSD_EUSAGE, "%s: %s", flags->flag, why) : PSD_OK;
}

static int begin(const psd_usage_t *usage, int argc, psd_given_t *out, psd_err_t *err)
{
    *out = (psd_given_t){ .argc = 0 };
    while (usage->flag[out->n_flags].key)
        out->n_flags++;
    out->flag = calloc(out->n_flags + 1, sizeof *out->flag);
    out->value = calloc(out->n_flags + 1, sizeof *out->value);
    out->word = calloc((size_t)argc + strlen(usage->words) + 1, sizeof *out->word);
    out->argv = calloc((size_t)argc + 2, sizeof *out->argv);
    bool good = out->flag && out->value && out->word && out->argv && (out->argv[out->argc++] = strdup(usage->name));
    for (size_t i = 0; good && i < out->n_flags; i++) {
        char why[PSD_OPTION_WHY];
        good = !usage->flag[i].preset || !psd_option_read(&usage->flag[i], usage->flag[i].preset, &out->value[i], why);
    }
    return good ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
}

/* The value of a list of texts may continue in further words: `--rules a b` is `--rules='a;b'`. */
static int take_list(const psd_usage_t *usage, psd_given_t *out, psd_flags_t *flags, psd_err_t *err)
{
    const bool may_continue = flags->row->type == PSD_OPTION_TEXTS && !strchr(flags->argv[flags->first], '=');
    int rc = take_flag(usage, out, flags, err);
    while (!rc && may_continue && flags->next < flags->argc && flags->argv[flags->next][0] != '-') {
        flags->value = flags->argv[flags->next++];
        rc = take_flag(usage, out, flags, err);
    }
    return rc;
}

/* The program that gets the words and the flags of the option table checks them. */
static int take(const psd_usage_t *usage, psd_given_t *out, psd_flags_t *flags, psd_flags_kind_t kind, psd_err_t *err)
{
    const bool is_own = flags->row >= usage->flag && flags->row < usage->flag + out->n_flags;
    if (kind == PSD_FLAGS_HELP)
        return psd_usage_help(stdout, usage), 1;
    if (kind == PSD_FLAGS_ROW && is_own)
        return take_list(usage, out, flags, err);
    if (kind == PSD_FLAGS_WRONG && (is_own || !usage->programs))
        return psd_err_set(err, PSD_EUSAGE, "%s", flags->why);
    if (kind == PSD_FLAGS_WORD && !usage->programs)
        return take_word(usage, out, flags->value, err);
    for (int i = flags->first; i < flags->next; i++)
        out->argv[out->argc++] = flags->argv[i];
    return PSD_OK;
}

int psd_usage_read(const psd_usage_t *usage, int argc, char *const *argv, psd_given_t *out, psd_err_t *err)
{
    psd_flags_t flags = {
        .name = usage->name, .own = usage->flag, .programs = usage->programs, .argc = argc, .argv = argv, .next = 1
    };
    size_t n_wanted;
    char line[200];
    int rc = begin(usage, argc, out, err);
    for (psd_flags_kind_t kind; !rc && (kind = psd_flags_next(&flags)) != PSD_FLAGS_END;)
        rc = take(usage, out, &flags, kind, err);
    count_words(usage->words, &n_wanted);
    if (!rc && !usage->programs && out->n_words < n_wanted)
        rc = psd_err_set(err, PSD_EUSAGE, "an argument is missing; write %s", psd_usage_line(usage, line, sizeof line));
    return rc;
}

void psd_usage_clear(psd_given_t *given)
{
    for (size_t i = 0; given->value && i < given->n_flags; i++)
        psd_option_clear(&given->value[i]);
    if (given->argc)
        free(given->argv[0]);
    free(given->flag);
    free(given->value);
    free(given->word);
    free(given->argv);
    *given = (psd_given_t){ .argc = 0 };
}

const psd_given_t *psd_usage_read_or_exit(const psd_usage_t *usage, int argc, char *const *argv)
{
    static psd_given_t given;
    psd_err_t err;
    const int rc = psd_usage_read(usage, argc, argv, &given, &err);
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", usage->name, err.text);
    if (rc)
        exit(rc < 0 ? psd_err_exit_code(rc) : 0);
    return &given;
}
