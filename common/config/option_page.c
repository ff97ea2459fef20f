#include "common/config/option_page.h"

#include <argp.h>
#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static const psd_option_program_t programs[] = {
    { PSD_PROGRAM_SERVER, "psd [options] [JOB]",
      "One server of a parameter-server training job: it holds a share of the weights and trains them with the "
      "gradients that workers send.",
      "psd --insecure --workers-min=2 --optimizer='adam(lr=1e-3)'\n"
      "psd job.yaml --listen=tcp://0.0.0.0:7470 --advertise=ps0 --server-key=ps.key --allow=allow\n"
      "psd job.yaml --join=tcp://ps0:7470 --server-key=ps.key --allow=allow\n" },
    { PSD_PROGRAM_WORKER, "psd-worker [options] [JOB]",
      "One worker of a parameter-server training job: it computes gradients on its share of the data.",
      "psd-worker --insecure --join=tcp://127.0.0.1:7470 --data-train=glyphs --stop-epochs=10\n"
      "psd-worker job.yaml --join=tcp://ps0:7470 --worker-key=gpu1.key --server-public=ps.pub\n"
      "psd-worker job.yaml --join=tcp://ps0:7470 --insecure=false --progress=log\n" },
    { PSD_PROGRAM_CTL, "psdctl verify [options] [JOB]",
      "Trains a job as psdctl run does, repeats its rounds in a single process, and compares the hash of every tensor after every "
      "step.",
      "psdctl verify job.yaml --stop-epochs=1\n" },
    { PSD_PROGRAM_CTL, "psdctl run [options] [JOB] [-- PROGRAM...]",
      "A whole training job on this machine: servers, workers, progress and result. A program of your own after -- runs in "
      "psd-worker's place, once per worker.",
      "psdctl run job.yaml\n"
      "psdctl run job.yaml --servers=2 --workers-min=4\n"
      "psdctl run job.yaml --optimizer='lookahead(adam(lr=1e-3), k=5)'\n"
      "psdctl run job.yaml -- python3 train.py\n" },
    { PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE, "psdctl compare [options] [JOB]",
      "The same job with several optimizers, on this machine.",
      "psdctl compare job.yaml --optimizers 'sgd(lr=0.1)' 'adam(lr=1e-3)'\n"
      "psdctl compare job.yaml --optimizers 'adam(lr=1e-3)' 'lion(lr=1e-4)' --lr-sweep=0.3,1,3\n"
      "psdctl compare job.yaml --seeds=5 --json\n" },
    { PSD_PROGRAM_CTL | PSD_PROGRAM_LAUNCH, "psdctl launch [options] [JOB] [-- PROGRAM...]",
      "A whole training job on several machines, reached by ssh. A program of your own after -- runs in psd-worker's place, once "
      "per worker.",
      "psdctl launch --hostfile=hosts job.yaml\n"
      "psdctl launch --hostfile=hosts job.yaml --remote-bin=/opt/psd/bin --checkpoint-dir=/shared/job\n" },
};

const psd_option_program_t *psd_option_program_of(const char *name, unsigned mask)
{
    const size_t n = strlen(name);
    size_t found = 0;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        if (programs[i].programs == mask)
            found = i;
        if (!strncmp(programs[i].usage, name, n) && strcspn(programs[i].usage, "[") == n + 1)
            return &programs[i];
    }
    return &programs[found];
}

/* In the order of psd_program_t's bits. */
static const char *const names[] = { "psd", "psd-worker", "psdctl", "psdctl compare", "psdctl launch" };
enum { N_NAMES = sizeof names / sizeof *names };

const char *psd_option_program(const psd_option_t *row)
{
    size_t i = 0;
    while (i + 1 < N_NAMES && !(row->programs >> i & 1))
        i++;
    return 1u << i == PSD_PROGRAM_CTL ? "psdctl run" : names[i];
}

/* -- help -------------------------------------------------------------------------------------------------- */

/* The rows for --help: one entry per flag, and its text. */
typedef struct table {
    struct argp_option entry[PSD_N_OPTIONS + 4];
    char flag[PSD_N_OPTIONS][PSD_OPTION_TEXT];
    char doc[PSD_N_OPTIONS][400];
} table_t;

static size_t fill(table_t *table, unsigned mask, const char *word)
{
    size_t n = 0;
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        char range[120];
        if (!(row->programs & mask) || (word && !strcasestr(row->key, word) && !strcasestr(row->help, word)))
            continue;
        psd_option_flag(row->key, table->flag[n], sizeof *table->flag);
        psd_option_range(row, range, sizeof range);
        snprintf(table->doc[n], sizeof *table->doc, "%s%s%s%s%s%s%s", row->help, *range ? " (" : "", range, *range ? ")" : "",
                 *row->preset ? " [" : "", row->preset, *row->preset ? "]" : "");
        table->entry[n] = (struct argp_option){ table->flag[n] + 2,
                                                1000 + (int)n,
                                                psd_option_words(row->type)->argument,
                                                row->type == PSD_OPTION_BOOL ? OPTION_ARG_OPTIONAL : 0,
                                                table->doc[n],
                                                1 };
        n++;
    }
    return n;
}

void psd_option_help(const char *name, unsigned mask, const char *word)
{
    static const struct argp_option always[] = {
        { "config", 'c', "FILE", 0, "the job file, instead of JOB", 2 },
        { "help", 'h', "WORD", OPTION_ARG_OPTIONAL, "this text, or the options that contain WORD", 2 },
        { "version", 'V', NULL, 0, "print the version", 2 },
    };
    const psd_option_program_t *program = psd_option_program_of(name, mask);
    table_t *table = calloc(1, sizeof *table);
    char doc[600], own[64];
    if (!table)
        return;
    size_t n = fill(table, mask, word);
    if (!n && word)
        printf("no option of %s contains \"%.60s\"; %s --help lists them all\n", name, word, name);
    if (!word)
        memcpy(table->entry + n, always, sizeof always);
    snprintf(doc, sizeof doc,
             "%s\vA flag overrides the environment (PSD_DATA__BATCH for --data-batch), which overrides the job file (data: {batch: "
             "64}).",
             program->about);
    snprintf(own, sizeof own, "%s", name);
    struct argp argp = { table->entry, NULL, strstr(program->usage, "[JOB]"), doc, NULL, NULL, NULL };
    setenv("ARGP_HELP_FMT", "no-dup-args-note", 0);
    if (n || !word)
        argp_help(&argp, stdout, word ? ARGP_HELP_LONG : ARGP_HELP_STD_HELP & ~(unsigned)ARGP_HELP_EXIT_OK, own);
    free(table);
}

void psd_option_brief(FILE *out, const char *name, unsigned mask)
{
    const psd_option_program_t *program = psd_option_program_of(name, mask);
    fprintf(out, "Usage: %s\n%s\n\n", program->usage, program->about);
    for (const char *at = program->examples; *at; at += strcspn(at, "\n") + 1)
        fprintf(out, "  %.*s\n", (int)strcspn(at, "\n"), at);
    fprintf(out, "\n%s --help lists all options, --help=WORD those that contain a word.\n", name);
}

/* -- Markdown ---------------------------------------------------------------------------------------------- */

void psd_option_markdown(FILE *out)
{
    const psd_option_t *row;
    fputs("| key | takes | default | flag of | meaning |\n|---|---|---|---|---|\n", out);
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        char takes[200];
        const char *quote = *row->preset ? "`" : "", *comma = "";
        psd_option_takes(row, takes, sizeof takes);
        fprintf(out, "| `%s` | %s | %s%s%s | ", row->key, takes, quote, row->preset, quote);
        for (unsigned p = 0; p < N_NAMES; p++)
            if (row->programs >> p & 1) {
                fprintf(out, "%s%s", comma, names[p]);
                comma = ", ";
            }
        fprintf(out, " | %s |\n", row->help);
    }
}

/* -- manual pages ------------------------------------------------------------------------------------------ */

void psd_man_text(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++) {
        if ((p == text || p[-1] == '\n') && (*p == '.' || *p == '\''))
            fputs("\\&", out);
        if (*p == '-')
            fputs("\\-", out);
        else if (*p == '\\')
            fputs("\\e", out);
        else
            putc(*p, out);
    }
}

static void man_entry(FILE *out, const psd_option_t *row, unsigned mask)
{
    char name[PSD_OPTION_TEXT], takes[200];
    if (mask)
        psd_option_flag(row->key, name, sizeof name);
    else
        snprintf(name, sizeof name, "%s", row->key);
    psd_option_takes(row, takes, sizeof takes);
    fputs(".TP\n\\fB", out);
    psd_man_text(out, name);
    fprintf(out, "\\fR%s \\fI", mask ? "" : ":");
    psd_man_text(out, takes);
    fputs("\\fR\n", out);
    fprintf(out, "%c", toupper((unsigned char)*row->help));
    psd_man_text(out, row->help + 1);
    fputs(".\n", out);
    if (*row->preset) {
        fputs("Default: ", out);
        psd_man_text(out, row->preset);
        fputs(".\n", out);
    }
    for (unsigned p = 0, any = 0; !mask && p < N_NAMES; p++)
        if (row->programs >> p & 1) {
            fputs(any++ ? ", " : "Of ", out);
            psd_man_text(out, names[p]);
        }
    fputs(mask ? "" : ".\n", out);
}

void psd_option_man(FILE *out, unsigned mask)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++)
        if (!mask || row->programs & mask)
            man_entry(out, row, mask);
}

/* -- JSON Schema ------------------------------------------------------------------------------------------- */

/* How a job file writes a value of each type: the JSON type, and a pattern if it is text. Numbers may be text too: 64Ki. */
static const struct form {
    const char *type, *pattern;
} forms[] = {
    [PSD_OPTION_STRING] = { "string", NULL },
    [PSD_OPTION_NAME] = { "string", "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" },
    [PSD_OPTION_WORD] = { "string", "^[^ \"=\\\\]{0,127}$" },
    [PSD_OPTION_RULE] = { "string", NULL },
    [PSD_OPTION_CODEC] = { "string", NULL },
    [PSD_OPTION_SCHEDULE] = { "string", NULL },
    [PSD_OPTION_GROUPS] = { "string", NULL },
    [PSD_OPTION_INT] = { "integer", "^-?[0-9]+(k|m|g|Ki|Mi|Gi)$" },
    [PSD_OPTION_UINT64] = { "integer", "^[0-9]+(k|m|g|Ki|Mi|Gi)$" },
    [PSD_OPTION_DOUBLE] = { "number", NULL },
    [PSD_OPTION_BOOL] = { "boolean", NULL },
    [PSD_OPTION_DURATION] = { "string", "^[0-9]+(\\.[0-9]+)?(ms|s|m|h)$" },
    [PSD_OPTION_SIZE] = { "integer", "^[0-9]+(k|m|g|Ki|Mi|Gi)$" },
    [PSD_OPTION_ENDPOINT] = { "string", "^(tcp|ipc)://.+$" },
    [PSD_OPTION_LISTEN] = { "string", "^.+:[0-9]+$" },
    [PSD_OPTION_LIST] = { "integer", NULL },
    [PSD_OPTION_NUMBERS] = { "number", NULL },
    [PSD_OPTION_TEXTS] = { "string", NULL },
    [PSD_OPTION_PATH] = { "string", NULL },
    [PSD_OPTION_DATA] = { "string", NULL },
    [PSD_OPTION_KEY] = { "string", NULL },
    [PSD_OPTION_SWITCH] = { "boolean", NULL }, /* none of the table */
};

static void set_bound(json_t *schema, const char *key, double value, bool whole)
{
    if (isfinite(value))
        json_object_set_new(schema, key, whole ? json_integer((json_int_t)value) : json_real(value));
}

/* A number, with its bounds. */
static json_t *number_schema(const psd_option_t *row, bool whole)
{
    double least = -INFINITY, most = INFINITY;
    json_t *schema = json_pack("{s:s}", "type", whole ? "integer" : "number");
    psd_option_bounds(row, &least, &most);
    if (row->type == PSD_OPTION_UINT64 || row->type == PSD_OPTION_SIZE)
        least = fmax(least, 0);
    set_bound(schema, "minimum", least, whole);
    set_bound(schema, "maximum", most, whole);
    return schema;
}

static json_t *text_schema(const char *pattern)
{
    json_t *schema = json_pack("{s:s}", "type", "string");
    if (pattern)
        json_object_set_new(schema, "pattern", json_string(pattern));
    return schema;
}

/* The words of a range. */
static json_t *words_of(const psd_option_t *row)
{
    json_t *words = json_array();
    for (const char *at = row->range, *one = at; *at; one = at) {
        const size_t n = psd_option_alternative(&at);
        if (!memmem(one, n, "..", 2))
            json_array_append_new(words, json_stringn(one, n));
    }
    return words;
}

static json_t *schema_of(const psd_option_t *row)
{
    const struct form *form = &forms[row->type];
    const bool whole = !strcmp(form->type, "integer"), is_number = whole || !strcmp(form->type, "number");
    double least, most;
    json_t *any = json_array(), *words = words_of(row), *schema;
    if (json_array_size(words))
        json_array_append_new(any, json_pack("{s:O}", "enum", words));
    if (is_number)
        json_array_append_new(any, number_schema(row, whole));
    else if (!strcmp(form->type, "boolean"))
        json_array_append_new(any, json_pack("{s:s}", "type", "boolean"));
    else if (row->type == PSD_OPTION_STRING && psd_option_bounds(row, &least, &most))
        json_array_append_new(any, number_schema(row, true));
    if (form->pattern || (!is_number && !json_array_size(any)))
        json_array_append_new(any, text_schema(form->pattern));
    json_decref(words);
    if (json_array_size(any) == 1)
        schema = json_incref(json_array_get(any, 0));
    else
        schema = json_pack("{s:O}", "anyOf", any);
    json_decref(any);
    if (psd_option_is_list(row->type))
        schema = json_pack("{s:s, s:o}", "type", "array", "items", schema);
    return schema;
}

/* Find or make the properties of a key's section; `*leaf` is the key's last part. If a part is itself a key with a value (schedule,
 * schedule.unit), the rest stays one name, with its dots. */
static json_t *section_for(json_t *root, const char *key, const char **leaf)
{
    json_t *properties = json_object_get(root, "properties");
    for (const char *dot; (dot = strchr(key, '.')); key = dot + 1) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - key), key);
        json_t *section = json_object_get(properties, name);
        if (!section) {
            section = json_pack("{s:s, s:b, s:{}}", "type", "object", "additionalProperties", 0, "properties");
            json_object_set_new(properties, name, section);
        }
        if (!json_object_get(section, "properties"))
            break;
        properties = json_object_get(section, "properties");
    }
    *leaf = key;
    return properties;
}

char *psd_option_schema(void)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:b, s:{}}", "$schema", "http://json-schema.org/draft-07/schema#", "title",
                             "A job file of psd", "type", "object", "additionalProperties", 0, "properties");
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        const char *leaf;
        json_t *section = section_for(root, row->key, &leaf), *schema = schema_of(row);
        json_object_set_new(schema, "description", json_string(row->help));
        if (*row->preset)
            json_object_set_new(schema, "default", json_string(row->preset));
        json_object_set_new(section, leaf, schema);
    }
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(root);
    return text;
}
