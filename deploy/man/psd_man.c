/* psd_man.c - write the manual pages into a directory, at build: from the table of options, that of psdctl's verbs, the table of
 * exit codes in docs/operate.md, the program in docs/library.md and the public header, so that nothing is written twice. Usage:
 * psd-man SOURCE DIR */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/option_page.h"
#include "deploy/psdctl/verbs.h"

static const char *source, *directory;

static char *read_whole(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", source, name);
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 20);
    if (!file || !text || !fread(text, 1, (1 << 20) - 1, file)) {
        fprintf(stderr, "psd-man: cannot read %s: %s\n", path, strerror(errno));
        exit(1);
    }
    fclose(file);
    return text;
}

/* -- parts of a page --------------------------------------------------------------------------------------- */

static FILE *begin(const char *name, int section, const char *does)
{
    char path[4096], title[80];
    snprintf(path, sizeof path, "%s/%s.%d", directory, name, section);
    snprintf(title, sizeof title, "%s", name);
    for (char *p = title; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    FILE *out = fopen(path, "w");
    if (!out) {
        fprintf(stderr, "psd-man: cannot write %s: %s\n", path, strerror(errno));
        exit(1);
    }
    fprintf(out, ".TH %s %d %s \"psd %s\" \"psd\"\n.SH NAME\n", title, section, PSD_DATE, PSD_VERSION);
    psd_man_text(out, name);
    fputs(" \\- ", out);
    psd_man_text(out, does);
    putc('\n', out);
    return out;
}

static void end(FILE *out)
{
    if (fclose(out) != 0) {
        fprintf(stderr, "psd-man: cannot write below %s: %s\n", directory, strerror(errno));
        exit(1);
    }
}

static void section(FILE *out, const char *title) { fprintf(out, ".SH %s\n", title); }

static void paragraph(FILE *out, const char *text)
{
    psd_man_text(out, text);
    fputs("\n", out);
}

/* A line in bold: what one types. */
static void synopsis(FILE *out, const char *line)
{
    section(out, "SYNOPSIS");
    fputs(".B ", out);
    paragraph(out, line);
}

/* Lines as they are. */
static void verbatim(FILE *out, const char *text, size_t n)
{
    fputs(".nf\n.RS 4\n", out);
    char *copy = strndup(text, n);
    psd_man_text(out, copy);
    fputs(n && copy[n - 1] == '\n' ? ".RE\n.fi\n" : "\n.RE\n.fi\n", out);
    free(copy);
}

static void examples(FILE *out, const char *text)
{
    if (!*text)
        return;
    section(out, "EXAMPLES");
    verbatim(out, text, strlen(text));
}

/* A piece of Markdown: what is between backticks is bold. */
static void inline_markdown(FILE *out, const char *text, size_t n)
{
    char *copy = strndup(text, n), *rest = copy, *piece;
    for (bool code = false; (piece = strsep(&rest, "`")); code = !code) {
        fputs(code ? "\\fB" : "", out);
        psd_man_text(out, piece);
        fputs(code ? "\\fR" : "", out);
    }
    free(copy);
}

/* The table of exit codes in docs/operate.md, whose rows are "| 64 | wrong usage |". */
static void exit_status(FILE *out, const char *more)
{
    char *page = read_whole("docs/operate.md"), *row = strstr(page, "\n| code | of all programs |");
    section(out, "EXIT STATUS");
    if (*more) {
        fputs("Of this program: ", out);
        psd_man_text(out, more);
        fputs(".\nOf all:\n", out);
    }
    for (row = row ? strchr(row + 1, '\n') : NULL; row && row[1] == '|'; row = strchr(row + 1, '\n')) {
        char code[8];
        const char *text = row + 1;
        if (sscanf(text, "| %7[0-9] | ", code) != 1)
            continue;
        text = strstr(text + 1, " | ") + 3;
        fprintf(out, ".TP\n.B %s\n", code);
        inline_markdown(out, text, strcspn(text, "\n") - 2);
        putc('\n', out);
    }
    free(page);
}

static void see_also(FILE *out, const char *references)
{
    section(out, "SEE ALSO");
    for (const char *at = references; *at; at += strspn(at, " ")) {
        const size_t n = strcspn(at, " "), name = strcspn(at, "(");
        char *copy = strndup(at, name);
        fputs(".BR ", out);
        psd_man_text(out, copy);
        fprintf(out, " %.*s%s\n", (int)(n - name), at + name, at[n] ? " ," : "");
        free(copy);
        at += n;
    }
}

static void environment(FILE *out)
{
    section(out, "ENVIRONMENT");
    paragraph(out, "Each option has a variable: that of data.batch is PSD_DATA__BATCH. A flag overrides it, and it overrides "
                   "the job file. A variable that begins with PSD_ and is not an option's is refused.");
}

/* -- the pages --------------------------------------------------------------------------------------------- */

static void program(const char *name, int number, unsigned mask, const char *does, const char *see)
{
    const psd_option_program_t *p = psd_option_program_of(name, mask);
    FILE *out = begin(name, number, does);
    synopsis(out, p->usage);
    section(out, "DESCRIPTION");
    paragraph(out, p->about);
    paragraph(out, "JOB is a job file, see psd.yaml(5). Flags and the environment set the same options.");
    section(out, "OPTIONS");
    psd_option_man(out, mask);
    fputs(".TP\n\\fB\\-c\\fR \\fIFILE\\fR, \\fB\\-\\-config\\fR=\\fIFILE\\fR\nThe job file, instead of JOB.\n"
          ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR[=\\fIWORD\\fR]\nAll options, or those that contain WORD.\n"
          ".TP\n\\fB\\-V\\fR, \\fB\\-\\-version\\fR\nThe version.\n",
          out);
    environment(out);
    exit_status(out, "");
    examples(out, p->examples);
    see_also(out, see);
    end(out);
}

/* "psdctl-checkpoint-list" */
static void page_name(const psd_verb_t *verb, char *out, size_t capacity)
{
    snprintf(out, capacity, "psdctl-%s", verb->name);
    for (char *p = out; *p; p++)
        *p = *p == ' ' ? '-' : *p;
}

static void verb_flags(FILE *out, const psd_verb_t *verb)
{
    for (const psd_option_t *row = verb->flag; row->key; row++) {
        char flag[PSD_OPTION_TEXT];
        const char *argument = psd_option_argument(row);
        psd_option_flag(row->key, flag, sizeof flag);
        fputs(".TP\n\\fB", out);
        psd_man_text(out, flag);
        fputs("\\fR", out);
        if (argument) {
            fputs("=\\fI", out);
            psd_man_text(out, argument);
            fputs("\\fR", out);
        }
        fputs("\n", out);
        paragraph(out, row->help);
    }
}

static void verb_page(const psd_verb_t *verb)
{
    char name[80], title[PSD_VERB_NAME], line[200];
    page_name(verb, name, sizeof name);
    FILE *out = begin(name, 1, verb->does);
    const psd_usage_t usage = psd_verb_usage(verb, title);
    synopsis(out, psd_usage_line(&usage, line, sizeof line));
    section(out, "DESCRIPTION");
    fprintf(out, "%c", toupper((unsigned char)*verb->does));
    psd_man_text(out, verb->does + 1);
    fputs(".\n", out);
    if (*verb->about)
        paragraph(out, verb->about);
    if (verb->flag[0].key || verb->options)
        section(out, "OPTIONS");
    verb_flags(out, verb);
    if (verb->options)
        psd_option_man(out, verb->options);
    exit_status(out, verb->exits);
    examples(out, verb->examples);
    see_also(out, "psdctl(1) psd.yaml(5) " PSD_PROGRAM_NAME "(8)");
    end(out);
}

static void psdctl_page(void)
{
    const psd_verb_t *verb;
    FILE *out = begin("psdctl", 1, "train, watch and steer jobs of psd");
    synopsis(out, "psdctl VERB [options]");
    section(out, "DESCRIPTION");
    paragraph(out, "The operator's program. Each verb has a page of its own, and psdctl help VERB says the same in short.");
    for (size_t i = 0; (verb = psd_verbs[i]); i++) {
        char name[80];
        page_name(verb, name, sizeof name);
        fputs(".TP\n\\fB", out);
        psd_man_text(out, verb->name);
        fputs("\\fR\n", out);
        fprintf(out, "%c", toupper((unsigned char)*verb->does));
        psd_man_text(out, verb->does + 1);
        fputs("; ", out);
        psd_man_text(out, name);
        fputs("(1).\n", out);
    }
    exit_status(out, "");
    examples(out, "psdctl run job.yaml\npsdctl status http://127.0.0.1:7471\npsdctl doctor job.yaml\n");
    see_also(out, "psd.yaml(5) psd-worker(1) " PSD_PROGRAM_NAME "(8)");
    end(out);
}

static void yaml_page(void)
{
    char *example = read_whole("deploy/examples/glyphs.yaml");
    FILE *out = begin("psd.yaml", 5, "a job of psd");
    section(out, "DESCRIPTION");
    paragraph(out, "A job file is YAML without its surprises: no anchors, aliases, tags, merge keys, tabs, second documents or "
                   "duplicate keys; numbers are decimal, true and false are the only truth values, durations have a unit "
                   "(500ms, 30s, 2m, 1h), whole numbers may end in k, m, g, Ki, Mi or Gi. A dot in a key below is a section "
                   "of the file: data.batch is written data: {batch: 64}. Whatever is unknown, misspelt, out of range or of "
                   "the wrong type is an error that names line and column. psdctl config check tells all of them at once; "
                   "psdctl config schema prints a JSON Schema for editors.");
    section(out, "KEYS");
    psd_option_man(out, 0);
    section(out, "EXAMPLES");
    verbatim(out, example, strlen(example));
    see_also(out, "psdctl-config-check(1) psdctl-config-schema(1) psd-worker(1) " PSD_PROGRAM_NAME "(8)");
    end(out);
    free(example);
}

/* A comment of the header as paragraphs: without its stars. */
static void comment(FILE *out, char *text)
{
    for (char *line, *rest = text; (line = strsep(&rest, "\n"));) {
        line += strspn(line, " ");
        line += *line == '*' ? 1 : 0;
        line += strspn(line, " ");
        fputs(*line ? "" : ".PP", out);
        paragraph(out, line);
    }
}

/* The header is the manual: each of its comments is text, and what stands below it is shown as it is. */
static void library_page(void)
{
    char *text = read_whole("worker/psd/worker.h"), *at = text;
    FILE *out = begin("libpsdworker", 3, "train against psd servers from a program of your own");
    section(out, "LIBRARY");
    paragraph(out, "cc $(pkg-config --cflags psd-worker) ... $(pkg-config --libs psd-worker)");
    synopsis(out, "#include <psd/worker.h>");
    section(out, "DESCRIPTION");
    for (bool first = true; (at = strstr(at, "\n/*")) || first; first = false) {
        char *begun = first ? text + 2 : at + 3, *stop = strstr(begun, "*/");
        *stop = '\0';
        fputs(first ? "" : ".PP\n", out);
        comment(out, first ? strstr(begun, "- ") + 2 : begun);
        char *code = stop + 3, *next = strstr(code, "\n/*");
        size_t n = next ? (size_t)(next - code) : strcspn(code, "#");
        while (n && isspace((unsigned char)code[n - 1]))
            n--;
        if (!first && n) {
            fputs(".PP\n", out);
            verbatim(out, code, n);
        }
        at = code - 1;
    }
    section(out, "EXAMPLES");
    char *page = read_whole("docs/library.md"), *c = strstr(page, "```c\n") + 5;
    verbatim(out, c, (size_t)(strstr(c, "```") - c));
    see_also(out, "psd-worker(1) " PSD_PROGRAM_NAME "(8)");
    end(out);
    free(page);
    free(text);
}

int main(int argc, char **argv)
{
    const psd_verb_t *verb;
    if (argc != 3)
        return fputs("Usage: psd-man SOURCE DIR\n", stderr), 64;
    source = argv[1];
    directory = argv[2];
    program(PSD_PROGRAM_NAME, 8, PSD_PROGRAM_SERVER, "one server of a parameter-server training job",
            "psd-worker(1) psdctl(1) psd.yaml(5)");
    program("psd-worker", 1, PSD_PROGRAM_WORKER, "one worker of a parameter-server training job",
            "psdctl(1) libpsdworker(3) psd.yaml(5) " PSD_PROGRAM_NAME "(8)");
    psdctl_page();
    for (size_t i = 0; (verb = psd_verbs[i]); i++)
        verb_page(verb);
    yaml_page();
    library_page();
    return 0;
}
