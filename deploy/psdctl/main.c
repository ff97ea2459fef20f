/* main.c - psdctl, the operator's program: runs a verb of the table (all.h). */
#include <stdio.h>
#include <string.h>

#include "common/system/stdfds.h"
#include "deploy/psdctl/run/agent.h"
#include "deploy/psdctl/run/run.h"
#include "deploy/psdctl/verbs.h"

static void print_help(FILE *out)
{
    fputs("Usage: psdctl VERB [options]\n\n", out);
    for (const psd_verb_t *const *verb = psd_verbs; *verb; verb++)
        fprintf(out, "  %-17s %s\n", (*verb)->name, (*verb)->does);
    fputs("  help [VERB]       this text, or the verb's\n"
          "\n"
          "  psdctl run job.yaml                      train the job in the file\n"
          "  psdctl run job.yaml --workers-min=4      train it with four workers\n"
          "  psdctl status http://127.0.0.1:7471      show its progress\n",
          out);
}

static int misuse(const psd_err_t *err)
{
    fprintf(stderr, "psdctl: %s\n", err->text);
    return psd_err_exit_code(err->code);
}

/* A verb's help; that of run lists the options. */
static int help(int argc, char **argv)
{
    psd_err_t err;
    int n;
    char flag[] = "--help";
    if (argc == 1)
        return print_help(stdout), 0;
    const psd_verb_t *verb = psd_verbs_find(argc, argv, &n, &err);
    return verb ? psd_verb_call(verb, psd_verbs, 2, (char *[]){ argv[0], flag, NULL }) : misuse(&err);
}

static int run(int argc, char **argv)
{
    psd_err_t err;
    const char *word = argc > 1 ? argv[1] : "";
    int n;
    if (argc == 1)
        return print_help(stderr), psd_err_exit_code(PSD_EUSAGE);
    if (strcmp(word, PSD_CTL_CHILD) == 0)
        return psd_ctl_child(argc - 1, argv + 1);
    if (strcmp(word, PSD_CTL_AGENT) == 0)
        return psd_ctl_agent(argc - 1, argv + 1);
    if (strcmp(word, "help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        return printf("psdctl %s\n", PSD_VERSION), 0;
    const psd_verb_t *verb = psd_verbs_find(argc, argv, &n, &err);
    return verb ? psd_verb_call(verb, psd_verbs, argc - n, argv + n) : misuse(&err);
}

int main(int argc, char **argv)
{
    psd_stdfds_open_strict();
    return psd_stdfds_end("psdctl", run(argc, argv));
}
