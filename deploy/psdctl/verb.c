#include "deploy/psdctl/verb.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/option_page.h"
#include "common/base/words.h"

int psd_verb_misuse(const psd_verb_t *verb, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "psdctl %s: ", verb->name);
    vfprintf(stderr, format, list);
    putc('\n', stderr);
    va_end(list);
    return psd_err_exit_code(PSD_EUSAGE);
}

/* -- help -------------------------------------------------------------------------------------------------- */

static void print_usage(FILE *out, const psd_verb_t *verb)
{
    fprintf(out, "psdctl %s%s%s%s", verb->name, verb->flag[0].name || verb->options ? " [options]" : "", *verb->words ? " " : "",
            verb->words);
}

/* `text`, broken at blanks, with `indent` blanks before each line. */
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

void psd_verb_help(FILE *out, const psd_verb_t *verb)
{
    fputs("Usage: ", out);
    print_usage(out, verb);
    fprintf(out, "\n%c", verb->does[0] - 'a' + 'A');
    fprintf(out, "%s.\n", verb->does + 1);
    if (*verb->about)
        print_wrapped(out, verb->about, 0);
    for (size_t i = 0; verb->flag[i].name; i++) {
        char flag[64];
        const char *argument = verb->flag[i].argument;
        snprintf(flag, sizeof flag, "--%s%s%s", verb->flag[i].name, argument ? "=" : "", argument ? argument : "");
        fprintf(out, "%s  %-22s ", i ? "" : "\n", flag);
        print_wrapped(out, verb->flag[i].help, 25);
    }
    if (verb->options)
        fputs("\nThe options of psdctl run, too: see psdctl help run.\n", out);
    for (const char *at = verb->examples; *at; at += strcspn(at, "\n") + 1)
        fprintf(out, "%s  %.*s\n", at == verb->examples ? "\n" : "", (int)strcspn(at, "\n"), at);
}

/* -- one command line -------------------------------------------------------------------------------------- */

/* How many words the row takes: all of `words`, and those that are not in brackets. */
static size_t count_words(const psd_verb_t *verb, size_t *n_wanted)
{
    size_t n = 0;
    *n_wanted = 0;
    for (const char *at = verb->words; *at; at += strspn(at, " ")) {
        n++;
        *n_wanted += *at != '[';
        at += strcspn(at, " ");
    }
    return n;
}

static int unknown_flag(const psd_verb_t *verb, const char *name)
{
    psd_nearest_t nearest = { 0 };
    const psd_option_t *row;
    char flag[PSD_OPTION_TEXT];
    psd_nearest_consider(&nearest, name, "help");
    for (size_t i = 0; verb->flag[i].name; i++) {
        psd_nearest_consider(&nearest, name, verb->flag[i].name);
        if (strncmp(verb->flag[i].name, name, strlen(name)) == 0)
            snprintf(nearest.word, sizeof nearest.word, "%s", verb->flag[i].name);
    }
    if (*nearest.word)
        return psd_verb_misuse(verb, "unknown option --%.60s; did you mean --%s?", name, nearest.word);
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        psd_option_flag(row->key, flag, sizeof flag);
        if (!strcmp(flag + 2, name))
            return psd_verb_misuse(verb, "--%s is an option of %s, not of psdctl %s; leave it out", name, psd_option_program(row),
                                   verb->name);
    }
    return psd_verb_misuse(verb, "unknown option --%.60s; --help lists them all", name);
}

/* The row's flag of this name, SIZE_MAX when it has none. */
static size_t find_flag(const psd_verb_t *verb, const char *name)
{
    for (size_t i = 0; verb->flag[i].name; i++)
        if (!strcmp(verb->flag[i].name, name))
            return i;
    return SIZE_MAX;
}

/* Take the long option argv[*i], and its value. 0, or the exit code after what is wrong was said. */
static int take_long(psd_args_t *self, int argc, char **argv, int *i)
{
    char name[64];
    const char *word = argv[*i], *equals = strchr(word, '=');
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    const size_t at = find_flag(self->verb, name);
    if (at == SIZE_MAX && self->verb->options) {
        self->argv[self->argc++] = argv[*i];
        return 0;
    }
    if (at == SIZE_MAX)
        return unknown_flag(self->verb, name);
    const bool takes = self->verb->flag[at].argument;
    if (!takes && equals)
        return psd_verb_misuse(self->verb, "--%s takes no value", name);
    if (takes && !equals && *i + 1 == argc)
        return psd_verb_misuse(self->verb, "--%s needs a value: %s", name, self->verb->flag[at].argument);
    self->flag[at] = !takes ? "" : equals ? equals + 1 : argv[++*i];
    return 0;
}

static int take_word(psd_args_t *self, const char *word, size_t *n, size_t most)
{
    if (*n == most)
        return psd_verb_misuse(self->verb, "one word too many: %.100s; it takes %s", word,
                               *self->verb->words ? self->verb->words : "none");
    self->word[(*n)++] = word;
    return 0;
}

/* 0: go on. Else the exit code plus one. */
static int read_words(psd_args_t *self, int argc, char **argv)
{
    size_t n = 0, n_wanted, most = count_words(self->verb, &n_wanted);
    bool flags_end = false;
    for (int i = 1, code = 0; i < argc; i++) {
        char *word = argv[i];
        if (!flags_end && (!strcmp(word, "-h") || !strcmp(word, "--help") || !strncmp(word, "--help=", 7)))
            return psd_verb_help(stdout, self->verb), 1;
        if (!flags_end && !strcmp(word, "--"))
            flags_end = true;
        else if (!flags_end && !strncmp(word, "--", 2))
            code = take_long(self, argc, argv, &i);
        else if (self->verb->options)
            self->argv[self->argc++] = word;
        else if (!flags_end && *word == '-' && word[1])
            code = psd_verb_misuse(self->verb, "unknown option %.60s; --help lists them all", word);
        else
            code = take_word(self, word, &n, most);
        if (code)
            return code + 1;
    }
    if (!self->verb->options && n < n_wanted)
        return psd_verb_misuse(self->verb, "%s lacks; it takes %s", n ? "a word" : self->verb->words, self->verb->words) + 1;
    return 0;
}

int psd_verb_call(const psd_verb_t *verb, const psd_verb_t *const *all, int argc, char **argv)
{
    char title[64];
    psd_args_t args = { .verb = verb, .all = all, .argv = calloc((size_t)argc + 2, sizeof *args.argv) };
    if (!args.argv)
        return psd_err_exit_code(PSD_ENOMEM);
    snprintf(title, sizeof title, "psdctl %s", verb->name);
    args.argv[args.argc++] = title;
    int code = 0;
    if (verb->is_raw)
        while (args.argc < argc)
            args.argv[args.argc] = argv[args.argc], args.argc++;
    else
        code = read_words(&args, argc, argv);
    code = code ? code - 1 : verb->run(&args);
    free(args.argv);
    return code;
}
