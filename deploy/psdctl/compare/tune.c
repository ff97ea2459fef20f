/* tune.c - `psdctl tune`: finds the rule and the learning rate for a job. Range tests and rounds of short runs choose the rate of
 * each rule (tuning.h), then whole runs compare the rules. Finished runs are kept; the same command continues from there. */
#include "deploy/psdctl/verb.h"

#include <stdlib.h>
#include <string.h>

#include "common/system/json.h"
#include "deploy/psdctl/compare/settings.h"
#include "deploy/psdctl/compare/study.h"
#include "deploy/psdctl/compare/trials.h"
#include "deploy/psdctl/compare/tuning.h"

#define GRID "0.01,0.03,0.1,0.3,1,3,10,30,100" /* the factors if the job has none */

typedef struct tune {
    psd_study_t study;
    psd_tuning_t tuning;
} tune_t;

/* ---- Results ---- */

static bool write_json(const void *self, FILE *out)
{
    return psd_study_print_json(psd_tuning_json(&((const tune_t *)self)->tuning), out);
}

static bool write_page(const void *self, FILE *out) { return psd_tuning_page(&((const tune_t *)self)->tuning, out); }

/* Write a value, or an item of a list: numbers unchanged, all else in quotes. */
static void write_item(const psd_option_t *row, const char *text, FILE *out)
{
    static const psd_option_type_t plain[] = { PSD_OPTION_INT,      PSD_OPTION_UINT64, PSD_OPTION_DOUBLE, PSD_OPTION_BOOL,
                                               PSD_OPTION_DURATION, PSD_OPTION_SIZE,   PSD_OPTION_LIST,   PSD_OPTION_NUMBERS };
    bool is_plain = false;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        is_plain = is_plain || row->type == plain[i];
    json_t *string = is_plain ? NULL : json_string(text);
    char *quoted = psd_json_text(string, JSON_ENCODE_ANY);
    fputs(quoted ? quoted : text, out);
    free(quoted);
    json_decref(string);
}

static void write_value(const psd_option_t *row, const char *text, FILE *out)
{
    psd_option_value_t value = { 0 };
    char why[PSD_OPTION_WHY];
    fprintf(out, "%s: ", row->key);
    if (psd_option_is_list(row->type) && psd_option_read(row, text, &value, why) == PSD_OK) {
        fputc('[', out);
        for (size_t i = 0; i < value.n_list; i++) {
            fputs(i ? ", " : "", out);
            write_item(row, value.item[i], out);
        }
        fputc(']', out);
    } else {
        write_item(row, text, out);
    }
    fputc('\n', out);
    psd_option_clear(&value);
}

/* Write the job file with the chosen rule: all its options, except those of the search, of a single run and of the terminal. It lies in
 * another directory than the job's own file, so its paths are absolute. */
static bool write_job(const void *of, FILE *out)
{
    const tune_t *self = of;
    const psd_options_t *options = self->study.options;
    const psd_contender_t *choice = psd_tuning_choice(&self->tuning);
    const psd_option_t *row;
    for (size_t i = 0; choice && (row = psd_option_at(i)); i++) {
        const psd_option_id_t id = psd_option_id(row);
        if (id != PSD_OPT_optimizer && (!strcmp(psd_options_origin(options, id), "default") || !strncmp(row->key, "compare.", 8) ||
                                        id == PSD_OPT_run_dir || id == PSD_OPT_progress))
            continue;
        char *text = psd_settings_from_anywhere(row, id == PSD_OPT_optimizer ? choice->name : psd_options_text(options, id));
        if (!text)
            return false;
        write_value(row, text, out);
        free(text);
    }
    return choice != NULL;
}

static int conclude(const tune_t *self, psd_err_t *err)
{
    const psd_comparison_t *last = &self->tuning.round[self->tuning.n_rounds - 1];
    const psd_contender_t *choice = psd_tuning_choice(&self->tuning);
    char failed[PSD_CELL];
    char path[PSD_PLACE_DIRECTORY + 16];
    int rc = psd_study_write(&self->study, "tune.json", write_json, self, err);
    rc = rc ? rc : psd_study_write(&self->study, "report.html", write_page, self, err);
    rc = rc || !choice ? rc : psd_study_write(&self->study, "tuned.yaml", write_job, self, err);
    snprintf(path, sizeof path, "%s/tuned.yaml", self->study.directory);
    if (!choice)
        remove(path); /* of an earlier search, with fewer seeds */
    if (rc)
        return rc;
    psd_tuning_print_cuts(&self->tuning, stdout);
    putchar('\n');
    psd_comparison_print(last, stdout);
    psd_comparison_failed_seeds(last, &last->contender[0], failed);
    if (!choice)
        return psd_err_set(err, PSD_EDIVERGED,
                           "no rule is chosen, because none succeeded with every seed: of those of %s, the best, %s; widen "
                           "--lr-sweep, or train for longer",
                           last->contender[0].label, failed);
    printf("chosen: %s; %s/tuned.yaml is the job with it\n", choice->label, self->study.directory);
    printf("kept in %s: report.html, tune.json\n", self->study.directory);
    return PSD_OK;
}

/* ---- The search ---- */

static int search(tune_t *self, int *code, psd_err_t *err)
{
    psd_study_t *study = &self->study;
    bool done = false;
    int rc = psd_tuning_begin(&self->tuning, study->options, err);
    rc = rc ? rc : psd_study_check_rules(study, &self->tuning.grid, err);
    rc = rc ? rc : psd_study_hold(study, err);
    while (!rc && !done) {
        psd_trials_t trials;
        char what[32];
        const size_t round = self->tuning.n_begun;
        rc = psd_trials_run(study->verb, study->options, psd_tuning_now(&self->tuning), study->directory, &trials, err);
        if (rc)
            break;
        if (trials.stopped) {
            *code = trials.code;
            snprintf(what, sizeof what, round ? "round %zu" : "the range tests", round);
            psd_study_say_kept(study, &trials, what);
            return PSD_OK;
        }
        *code = *code ? *code : trials.code;
        rc = psd_tuning_next(&self->tuning, &done, err);
    }
    return rc ? rc : conclude(self, err);
}

/* ---- The command line ---- */

enum { OPTIMIZERS, SEEDS, SWEEP, JOBS };

/* Convert the flags of this verb to those of the option table, and append them to the rest. */
static int load_with(psd_options_t *options, const psd_args_t *args, const char *sweep, psd_err_t *err)
{
    static const char *const flags[] = {
        [OPTIMIZERS] = "--optimizers", [SEEDS] = "--seeds", [SWEEP] = "--lr-sweep", [JOBS] = "--jobs"
    };
    enum { FLAGS = sizeof flags / sizeof *flags };
    char **words = calloc((size_t)args->argc + FLAGS + 2, sizeof *words), *made[FLAGS] = { NULL }, none[] = "--";
    int n = 0, rc = words ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
    for (int i = 0; !rc && i < args->argc; i++)
        words[n++] = args->argv[i];
    for (size_t f = 0; !rc && f < FLAGS; f++) {
        const char *value = f == SWEEP && sweep ? sweep : args->flag[f] ? args->value[f].text : NULL;
        if (!value)
            continue;
        if (asprintf(&made[f], "%s=%s", flags[f], value) < 0)
            rc = psd_err_set(err, PSD_ENOMEM, "no memory for the command line");
        words[n++] = made[f];
    }
    if (!rc && n < 2)
        words[n++] = none;
    rc = rc ? rc : psd_options_load(options, n, words, err);
    for (size_t f = 0; f < FLAGS; f++)
        free(made[f]);
    free(words);
    return rc;
}

/* Use the default grid if neither the command line nor the job file has one. */
static int load(psd_options_t **options, const psd_args_t *args, psd_err_t *err)
{
    int rc = PSD_OK;
    for (int again = 0; again < 2; again++) {
        size_t n_rates = 0;
        psd_options_destroy(options);
        *options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
        rc = *options ? load_with(*options, args, again ? GRID : NULL, err) : psd_err_set(err, PSD_ENOMEM, "no memory for options");
        if (rc == PSD_OK)
            psd_options_numbers(*options, PSD_OPT_compare_lr_sweep, &n_rates);
        if (rc || n_rates)
            break;
    }
    if (rc < 0 && *options && *psd_options_complaints(*options))
        snprintf(err->text, sizeof err->text, "%s", psd_options_complaints(*options));
    return rc;
}

static int run(const psd_args_t *args)
{
    psd_err_t err = { 0 };
    int code = 0;
    tune_t self = { .study = { .verb = "tune", .lock = -1 } };
    int rc = load(&self.study.options, args, &err);
    rc = rc ? rc : search(&self, &code, &err);
    psd_tuning_clear(&self.tuning);
    return psd_study_end(&self.study, rc, code, &err);
}

const psd_verb_t psd_verb_tune = {
    .name = "tune",
    .words = "[JOB]",
    .does = "find the rule and the learning rate for a job",
    .about = "Tests in a short run of each rule, in which the rate rises, which rates are worth training. Trains each rule at "
             "those for a small share of the job, the best third for three times as long, and so on; the best rate of each and the "
             "best of the lower ones for the whole job, because short runs favour high rates. "
             "Rates are chosen on validation rows, rules compared on the test set. "
             "Finished runs are kept in run.dir; the same command with that --run-dir continues from there.",
    .flag = { [OPTIMIZERS] = { .key = "optimizers",
                               .type = PSD_OPTION_TEXTS,
                               .argument = "RULE...",
                               .help = "update rules, each in quotes, or in one text with ; between them (default: the job file's "
                                       "compare: {optimizers: ...})" },
              [SEEDS] = { .key = "seeds",
                          .type = PSD_OPTION_UINT64,
                          .argument = "N",
                          .help = "number of seeds to train each with [3]" },
              [SWEEP] = { .key = "lr-sweep",
                          .type = PSD_OPTION_NUMBERS,
                          .argument = "X,X,...",
                          .help =
                              "factors of the rules' learning rates (default: compare.lr_sweep, or 0.01 to 100 in nine steps)" },
              [JOBS] = { .key = "jobs", .type = PSD_OPTION_UINT64, .argument = "N", .help = "number of runs at once [1]" } },
    .options = PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE,
    .examples = "psdctl tune job.yaml --optimizers 'sgd(lr=0.1)' 'adam(lr=1e-3)' --seeds=3\n",
    .exits = "that of the first run that failed; 1 when no rule succeeded with every seed; 75 after SIGINT, SIGTERM or SIGHUP",
    .run = run,
};
