/* compare.c - `psdctl compare`: the same job with several optimizers, each with several seeds. Finished runs are kept in the
 * comparison's directory; started again with the same directory, it continues from there. */
#include "deploy/psdctl/verb.h"

#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/compare/comparison.h"
#include "deploy/psdctl/compare/study.h"
#include "deploy/psdctl/compare/trials.h"

typedef struct compare {
    psd_study_t study;
    psd_comparison_t comparison;
    bool json; /* the result goes to stdout as JSON */
} compare_t;

/* -- the end ----------------------------------------------------------------------------------------------- */

static bool write_json(const void *comparison, FILE *out) { return psd_study_print_json(psd_comparison_json(comparison), out); }

static bool write_page(const void *comparison, FILE *out) { return psd_comparison_page(comparison, NULL, out); }

static int conclude(compare_t *self, psd_err_t *err)
{
    int rc = psd_comparison_judge(&self->comparison, err);
    rc = rc ? rc : psd_study_write(&self->study, "compare.json", write_json, &self->comparison, err);
    rc = rc ? rc : psd_study_write(&self->study, "report.html", write_page, &self->comparison, err);
    if (rc)
        return rc;
    if (self->json)
        write_json(&self->comparison, stdout);
    else
        psd_comparison_print(&self->comparison, stdout);
    if (!self->json)
        printf("kept in %s: report.html, compare.json\n", self->study.directory);
    return PSD_OK;
}

/* -- the command line -------------------------------------------------------------------------------------- */

/* Options of this verb that need not have one value. */
static const struct pliant {
    const char *word;
    const char *preset; /* the value if none follows; NULL: a value is required */
    bool takes_many;    /* all words up to the next option are its values */
} pliants[] = {
    { "--optimizers", NULL, true },
    { "--lr-sweep", "0.1,0.3,1,3,10", false },
};

static const struct pliant *find_pliant(const char *word, const char **value)
{
    const size_t n = strcspn(word, "=");
    *value = word[n] ? word + n + 1 : NULL;
    for (size_t i = 0; i < sizeof pliants / sizeof *pliants; i++)
        if (strlen(pliants[i].word) == n && !strncmp(word, pliants[i].word, n))
            return &pliants[i];
    return NULL;
}

/* Whether a word may be the value of --lr-sweep rather than the job file. */
static bool is_number(const char *word) { return *word && strspn(word, "0123456789.,eE-+") == strlen(word); }

/* The i-th word with its values, as one flag of the option table; moves `*i` to the last word used. The caller frees it; NULL with
 * `err` set. */
static char *spell_out(const struct pliant *pliant, const char *value, int argc, char **argv, int *i, psd_err_t *err)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (!out) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
        return NULL;
    }
    fprintf(out, "%s=", pliant->word);
    bool any = value;
    fputs(value ? value : "", out);
    while (!value && *i + 1 < argc && argv[*i + 1][0] != '-' && (pliant->takes_many || !any) &&
           (!pliant->preset || is_number(argv[*i + 1]))) {
        fprintf(out, "%s%s", any ? ";" : "", argv[++*i]);
        any = true;
    }
    fputs(!any && pliant->preset ? pliant->preset : "", out);
    fclose(out);
    if (any || pliant->preset)
        return text;
    psd_err_set(err, PSD_EUSAGE, "%s needs %s", pliant->word, pliant->takes_many ? "rules, such as 'sgd(lr=0.1)'" : "a value");
    free(text);
    return NULL;
}

/* Convert the words to flags of the option table. */
static int translate(compare_t *self, int argc, char **argv, char **words, int *n_words, psd_err_t *err)
{
    *n_words = 0;
    for (int i = 0; i < argc; i++) {
        const char *value;
        const struct pliant *pliant = i ? find_pliant(argv[i], &value) : NULL;
        if (i && !strcmp(argv[i], "--json")) {
            self->json = true;
            continue;
        }
        char *word = pliant ? spell_out(pliant, value, argc, argv, &i, err) : strdup(argv[i]);
        if (!word)
            return err->code ? err->code : psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
        words[(*n_words)++] = word;
    }
    return PSD_OK;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    return false;
}

static int load(compare_t *self, int argc, char **argv, psd_err_t *err)
{
    psd_options_t *options = self->study.options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    char **words = calloc((size_t)argc + 1, sizeof *words);
    int n = 0, rc = options && words ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
    rc = rc ? rc : translate(self, argc, argv, words, &n, err);
    rc = rc ? rc : psd_options_load(options, n, words, err);
    for (int i = 0; i < n; i++)
        free(words[i]);
    free(words);
    if (rc < 0 && options && *psd_options_complaints(options))
        snprintf(err->text, sizeof err->text, "%s", psd_options_complaints(options));
    return rc;
}

/* The exit code of the runs, or of the failure before the first run. */
static int run_all(compare_t *self, int *code, psd_err_t *err)
{
    psd_trials_t trials;
    psd_study_t *study = &self->study;
    int rc = psd_comparison_begin(&self->comparison, study->options, err);
    rc = rc ? rc : psd_study_check_rules(study, &self->comparison, err);
    rc = rc ? rc : psd_study_hold(study, err);
    rc = rc ? rc : psd_trials_run(study->verb, study->options, &self->comparison, study->directory, &trials, err);
    if (rc)
        return rc;
    *code = trials.code;
    if (!trials.stopped)
        return conclude(self, err);
    psd_study_say_kept(study, &trials, "");
    return PSD_OK;
}

static int run(const psd_args_t *args)
{
    psd_err_t err = { 0 };
    int code = 0;
    if (asks_for_help(args->argc, args->argv))
        return psd_verb_help(stdout, args->verb), 0;
    compare_t self = { .study = { .verb = "compare", .lock = -1 } };
    int rc = load(&self, args->argc, args->argv, &err);
    rc = rc ? rc : run_all(&self, &code, &err);
    psd_comparison_clear(&self.comparison);
    return psd_study_end(&self.study, rc, code, &err);
}

const psd_verb_t psd_verb_compare = {
    .name = "compare",
    .words = "[JOB]",
    .does = "train a job with several optimizers, and report which does better",
    .about = "Each rule is trained with several seeds. Finished runs are kept in run.dir; the same command with that "
             "--run-dir continues from there.",
    .flag = { { .key = "optimizers",
                .type = PSD_OPTION_TEXTS,
                .argument = "RULE...",
                .help =
                    "update rules, each in quotes, or in one text with ; between them; the first is the baseline. Default: the job "
                    "file's compare: {optimizers: ...}" },
              { .key = "seeds",
                .type = PSD_OPTION_UINT64,
                .argument = "N",
                .help = "train each with seed, seed + 1, ..., N of them [3]" },
              { .key = "lr-sweep",
                .type = PSD_OPTION_NUMBERS,
                .argument = "X,X,...",
                .help = "train each with its learning rate times each of these [0.1,0.3,1,3,10]" },
              { .key = "target",
                .type = PSD_OPTION_DOUBLE,
                .argument = "X",
                .help = "metric whose steps and time are reported [where the baseline's worst seed ends]" },
              { .key = "jobs",
                .type = PSD_OPTION_UINT64,
                .argument = "N",
                .help = "number of runs at once; they slow each other down [1]" },
              { .key = "json", .type = PSD_OPTION_SWITCH, .help = "the result as JSON instead of a table" } },
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE,
    .is_raw = true,
    .examples = "psdctl compare job.yaml --optimizers 'sgd(lr=0.1)' 'adam(lr=1e-3)' --seeds=5\n"
                "psdctl compare job.yaml --optimizers 'adam(lr=1e-3)' 'lion(lr=1e-4)' --lr-sweep=0.3,1,3\n",
    .exits = "that of the first run that failed; 1 when runs with one seed did not begin with the same weights or had other rows; "
             "75 after SIGINT, SIGTERM or SIGHUP",
    .run = run,
};
