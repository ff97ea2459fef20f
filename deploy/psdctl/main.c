/* main.c - psdctl, what an operator types: a table of verbs. */
#include <stdio.h>
#include <string.h>

#include "common/err.h"
#include "deploy/psdctl/admin.h"
#include "deploy/psdctl/agent.h"
#include "deploy/psdctl/checkpoint.h"
#include "deploy/psdctl/compare.h"
#include "deploy/psdctl/config.h"
#include "deploy/psdctl/export.h"
#include "deploy/psdctl/keygen.h"
#include "deploy/psdctl/optimizers.h"
#include "deploy/psdctl/replay.h"
#include "deploy/psdctl/run.h"
#include "deploy/psdctl/status.h"
#include "deploy/psdctl/top.h"
#include "deploy/psdctl/verify.h"
#include "deploy/psdctl/wait.h"

static const struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *title; /* what the verb's help calls the program */
    const char *does;
} verbs[] = {
    { "run", psd_ctl_run, "psdctl run", "train a whole job on this machine" },
    { "launch", psd_ctl_launch, "psdctl launch", "train a whole job on several machines, by ssh" },
    { "verify", psd_ctl_verify, "psdctl verify", "train a job, and compare it bit for bit with a single process" },
    { "compare", psd_ctl_compare, "psdctl compare", "train a job with several optimizers, and tell which does better" },
    { "status", psd_ctl_status, "psdctl status", "what a server is doing" },
    { "top", psd_ctl_top, "psdctl top", "the same on the whole terminal, renewed each second" },
    { "wait", psd_ctl_wait, "psdctl wait", "block until a job is ready, at a step, or finished" },
    { "pause", psd_ctl_admin, "psdctl pause", "close no more rounds of a running job" },
    { "resume", psd_ctl_admin, "psdctl resume", "go on after a pause" },
    { "drain", psd_ctl_admin, "psdctl drain", "have a worker leave after its open round" },
    { "set", psd_ctl_admin, "psdctl set", "set the learning rate of a running job" },
    { "checkpoint", psd_ctl_checkpoint, "psdctl checkpoint",
      "save now; what is saved, whether it is whole, what may go" },
    { "export", psd_ctl_export, "psdctl export", "a checkpoint as files that torch and numpy open" },
    { "inspect", psd_ctl_inspect, "psdctl inspect", "arrays and notes of a safetensors file" },
    { "keygen", psd_ctl_keygen, "psdctl keygen", "a key pair, for those who shall be let in" },
    { "config", psd_ctl_config, "psdctl config", "check a job file; what each option is, and where from" },
    { "optimizers", psd_ctl_optimizers, "psdctl optimizers",
      "the update rules: mathematics, defaults, memory" },
    { "replay", psd_ctl_replay, "psdctl replay", "step an optimizer along the gradients of a golden file" },
};

enum { N_VERBS = sizeof verbs / sizeof *verbs };

static void print_help(FILE *out)
{
    fputs("Usage: psdctl VERB [options]\n\n", out);
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(out, "  %-12s %s\n", verbs[i].name, verbs[i].does);
    fputs("  help [VERB]  this text, or the verb's\n"
          "\n"
          "  psdctl run job.yaml                      train what the job file describes\n"
          "  psdctl run job.yaml --workers-min=4      the same with four workers\n"
          "  psdctl compare job.yaml --optimizers 'sgd(lr=0.1)' 'adam(lr=1e-3)'\n"
          "  psdctl status http://127.0.0.1:7471      how it goes\n",
          out);
}

static const struct verb *find(const char *name)
{
    for (size_t i = 0; i < N_VERBS; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

/* Run `verb` with its own name as argv[0]. */
static int call(const struct verb *verb, int argc, char **argv)
{
    static char title[32];
    snprintf(title, sizeof title, "%s", verb->title);
    argv[0] = title;
    return verb->run(argc, argv);
}

static int help(int argc, char **argv)
{
    const struct verb *verb = argc > 1 ? find(argv[1]) : NULL;
    char flag[] = "--help";
    char *args[] = { NULL, flag, NULL };
    if (verb)
        return call(verb, 2, args);
    print_help(stdout);
    return argc > 1 ? psd_err_exit_code(PSD_EUSAGE) : 0;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    const struct verb *verb = find(word);
    if (verb)
        return call(verb, argc - 1, argv + 1);
    if (strcmp(word, PSD_CTL_CHILD) == 0)
        return psd_ctl_child(argc - 1, argv + 1);
    if (strcmp(word, PSD_CTL_AGENT) == 0)
        return psd_ctl_agent(argc - 1, argv + 1);
    if (strcmp(word, "help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("psdctl %s\n", PSD_VERSION);
        return 0;
    }
    if (*word)
        fprintf(stderr, "psdctl: there is no verb %s\n", word);
    print_help(stderr);
    return psd_err_exit_code(PSD_EUSAGE);
}
