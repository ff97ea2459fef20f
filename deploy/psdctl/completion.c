/* completion.c - `psdctl completion`: the completion script for a shell, made from the tables of verbs and options. */
#include <stdio.h>
#include <string.h>

#include "common/base/asset.h"
#include "deploy/psdctl/verb.h"

/* A command and the words that may follow it, for both shells, whose scripts differ. */
typedef struct line {
    const char *name;       /* "psd", "psdctl config show" */
    const psd_verb_t *verb; /* NULL: a program */
    unsigned options;       /* mask of psd_program_t */
} line_t;

typedef void on_line_fn(const line_t *line);

static void each_line(const psd_verb_t *const *all, on_line_fn *then)
{
    const psd_verb_t *verb;
    then(&(line_t){ PSD_PROGRAM_NAME, NULL, PSD_PROGRAM_SERVER });
    then(&(line_t){ "psd-worker", NULL, PSD_PROGRAM_WORKER });
    for (size_t i = 0; (verb = all[i]); i++) {
        char name[80];
        snprintf(name, sizeof name, "psdctl %s", verb->name);
        then(&(line_t){ name, verb, verb->options });
    }
}

static void print_flag(const char *flag, bool takes) { printf(" %s%s", flag, takes ? "=" : ""); }

/* Every flag of a line; those that take a value end in "=". */
static void print_flags(const line_t *line)
{
    const psd_option_t *row;
    char flag[PSD_OPTION_TEXT];
    for (size_t i = 0; line->verb && line->verb->flag[i].key; i++) {
        psd_option_flag(line->verb->flag[i].key, flag, sizeof flag);
        print_flag(flag, psd_option_argument(&line->verb->flag[i]));
    }
    for (size_t i = 0; (row = psd_option_at(i)); i++)
        if (row->programs & line->options) {
            psd_option_flag(row->key, flag, sizeof flag);
            print_flag(flag, row->type != PSD_OPTION_BOOL);
        }
    fputs(line->options ? " --config= --help" : " --help", stdout);
    fputs(line->verb ? "" : " --version", stdout);
}

/* The words that a value may have: those of its range, or true and false. */
static void print_words(const psd_option_t *row)
{
    if (row->type == PSD_OPTION_BOOL)
        fputs(" true false", stdout);
    for (const char *at = row->range, *one = at; *at; one = at) {
        const size_t n = psd_option_alternative(&at);
        if (!memmem(one, n, "..", 2))
            printf(" %.*s", (int)n, one);
    }
}

static void bash_line(const line_t *line)
{
    printf("    '%s') psd_words='", line->name);
    print_flags(line);
    puts("' ;;");
}

static void print_values(void)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        char flag[PSD_OPTION_TEXT];
        psd_option_flag(row->key, flag, sizeof flag);
        if (row->type != PSD_OPTION_BOOL && !strcspn(row->range, "|") && !*row->range)
            continue;
        printf("    %s) psd_words='", flag);
        print_words(row);
        puts("' ;;");
    }
}

/* Verbs as users type them: the first words, or the second words that follow a given first one. */
static void print_verbs(const psd_verb_t *const *all, const char *first)
{
    const psd_verb_t *verb;
    const size_t n = strlen(first);
    char last[64] = "";
    for (size_t i = 0; (verb = all[i]); i++) {
        char word[64];
        const char *space = strchr(verb->name, ' ');
        if (n && !(space && (size_t)(space - verb->name) == n && !strncmp(verb->name, first, n)))
            continue;
        snprintf(word, sizeof word, "%.*s", n || !space ? 60 : (int)(space - verb->name), n ? space + 1 : verb->name);
        if (strcmp(word, last))
            printf(" %s", word);
        snprintf(last, sizeof last, "%s", word);
    }
}

static void bash_groups(const psd_verb_t *const *all)
{
    const psd_verb_t *verb;
    char last[64] = "";
    for (size_t i = 0; (verb = all[i]); i++) {
        char first[64];
        const char *space = strchr(verb->name, ' ');
        if (!space)
            continue;
        snprintf(first, sizeof first, "%.*s", (int)(space - verb->name), verb->name);
        if (!strcmp(first, last))
            continue;
        printf("    'psdctl %s' | 'psdctl help %s') psd_words='", first, first);
        print_verbs(all, first);
        puts("' ;;");
        snprintf(last, sizeof last, "%s", first);
    }
}

/* Both shells look words up in the same way: flags and verbs by the words before, values by their flag. */
static void print_tables(const psd_verb_t *const *all)
{
    puts("_psd_values() {\n    case $1 in");
    print_values();
    puts("    *) psd_words= ;;\n    esac\n}\n\n_psd_flags() {\n    case $1 in");
    each_line(all, bash_line);
    puts("    *) psd_words= ;;\n    esac\n}\n\n_psd_verbs() {\n    case $1 in");
    fputs("    psdctl | 'psdctl help') psd_words='", stdout);
    print_verbs(all, "");
    puts(" help' ;;");
    bash_groups(all);
    puts("    *) psd_words= ;;\n    esac\n}\n");
}

/* The functions of completion/completion.bash and .zsh, which read the tables. */
extern const psd_asset_t psd_asset_completion_bash, psd_asset_completion_zsh;

static void print_bash(const psd_verb_t *const *all)
{
    puts("# Completion of psd, psd-worker and psdctl for bash; made by `psdctl completion bash`.\n");
    print_tables(all);
    fputs(psd_asset_completion_bash.bytes, stdout);
}

static void print_zsh(const psd_verb_t *const *all)
{
    puts("#compdef " PSD_PROGRAM_NAME " psd-worker psdctl\n"
         "# Completion of psd, psd-worker and psdctl for zsh; made by `psdctl completion zsh`.\n");
    print_tables(all);
    fputs(psd_asset_completion_zsh.bytes, stdout);
}

static int run(const psd_args_t *args)
{
    static const struct {
        const char *shell;
        void (*print)(const psd_verb_t *const *all);
    } shells[] = { { "bash", print_bash }, { "zsh", print_zsh } };
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (!strcmp(args->word[0], shells[i].shell))
            return shells[i].print(args->all), 0;
    return psd_verb_misuse(args->verb, "there are completions for bash and zsh, not for %.60s", args->word[0]);
}

const psd_verb_t psd_verb_completion = {
    .name = "completion",
    .words = "bash|zsh",
    .does = "print the completion script for a shell",
    .about = "",
    .examples = "source <(psdctl completion bash)\n",
    .exits = "",
    .run = run,
};
