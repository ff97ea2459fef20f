/* config.c - `psdctl config`: what a job file, the environment and flags come to. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/option_page.h"
#include "common/config/options.h"
#include "common/system/outputs.h"
#include "deploy/psdctl/verb.h"
#include "worker/setup.h"

/* Load what the words say, and hand it on. Every complaint is said, a line each. */
static int with_options(const psd_args_t *args, int (*then)(const psd_args_t *, const psd_options_t *))
{
    psd_err_t err = { 0 };
    char none[] = "--", *words[] = { args->argv[0], none, NULL };
    const bool has_words = args->argc > 1;
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE | PSD_PROGRAM_SERVER | PSD_PROGRAM_WORKER);
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    int rc = psd_options_load(options, has_words ? args->argc : 2, has_words ? args->argv : words, &err);
    int code = rc < 0 ? psd_err_exit_code(rc) : 0;
    if (rc == PSD_OK)
        code = then(args, options);
    else if (rc < 0)
        fprintf(stderr, "%s\n", *psd_options_complaints(options) ? psd_options_complaints(options) : err.text);
    psd_options_destroy(&options);
    return code;
}

static void print_values(const psd_options_t *options)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        char line[1200];
        snprintf(line, sizeof line, "%s = %s", row->key, psd_options_text(options, psd_option_id(row)));
        printf("%-44s # %s\n", line, psd_options_origin(options, psd_option_id(row)));
    }
}

static void print_json(const psd_options_t *options)
{
    const psd_option_t *row;
    json_t *values = json_object();
    for (size_t i = 0; (row = psd_option_at(i)); i++)
        json_object_set_new(values, row->key,
                            json_pack("{s:s, s:s}", "value", psd_options_text(options, psd_option_id(row)), "from",
                                      psd_options_origin(options, psd_option_id(row))));
    json_t *root = json_pack("{s:s, s:s, s:o}", "schema", "psd.config/1", "file", psd_options_file(options), "options", values);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static int show(const psd_args_t *args, const psd_options_t *options)
{
    if (args->flag[0])
        print_json(options);
    else
        print_values(options);
    return 0;
}

/* Where the job is to write: a line for each place where it cannot. */
static int look_at_outputs(const psd_options_t *options)
{
    int rc = PSD_OK;
    psd_option_id_t id;
    for (size_t i = 0; (id = psd_outputs_at(i)) != PSD_N_OPTIONS; i++) {
        psd_err_t err = { 0 };
        if (psd_outputs_probe(options, id, &err) == PSD_OK)
            continue;
        fprintf(stderr, "%s\n", err.text);
        rc = err.code;
    }
    return rc;
}

/* What only the data can show: files that lack, a model that does not fit them. */
static int look_at_data(const psd_args_t *args, const psd_options_t *options)
{
    psd_err_t err = { 0 };
    psd_setup_t setup;
    (void)args;
    int rc = psd_setup_load(&setup, options, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.text);
    psd_setup_clear(&setup);
    const int outputs = look_at_outputs(options);
    rc = rc ? rc : outputs;
    return psd_err_exit_code(rc);
}

static int run_show(const psd_args_t *args) { return with_options(args, show); }

static int run_check(const psd_args_t *args) { return with_options(args, look_at_data); }

static int run_schema(const psd_args_t *args)
{
    (void)args;
    char *text = psd_option_schema();
    if (!text)
        return psd_err_exit_code(PSD_ENOMEM);
    puts(text);
    free(text);
    return 0;
}

static int run_table(const psd_args_t *args)
{
    if (!args->flag[0])
        return psd_verb_misuse(args->verb, "which: check JOB, show JOB, or schema?");
    psd_option_markdown(stdout);
    return 0;
}

#define ALL (PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE | PSD_PROGRAM_SERVER | PSD_PROGRAM_WORKER)

const psd_verb_t psd_verb_config = {
    .name = "config",
    .words = "",
    .does = "the options: see config check, config show, config schema",
    .about = "",
    .flag = { { .key = "markdown", .type = PSD_OPTION_SWITCH, .help = "the table of options, for a page" } },
    .examples = "psdctl config check job.yaml\npsdctl config show job.yaml --servers=2\n",
    .exits = "",
    .run = run_table,
};

const psd_verb_t psd_verb_config_check = {
    .name = "config check",
    .words = "[JOB]",
    .does = "whether a job file, the environment and flags are right",
    .about = "Says nothing when they are; else every complaint with its place, a line each. Reads the data and builds the "
             "model, to see that they go together; trains nothing.",
    .options = ALL,
    .examples = "psdctl config check job.yaml\n",
    .exits = "78 for what is wrong in the file or the environment; 64 for a wrong flag; 74 when an output cannot be written; 66 "
             "when it, or the data, cannot be read; 65 for bad data",
    .run = run_check,
};

const psd_verb_t psd_verb_config_show = {
    .name = "config show",
    .words = "[JOB]",
    .does = "what each option is, and where from",
    .about = "A value comes from its flag, else from the environment, else from the job file, else it is the default.",
    .flag = { { .key = "json", .type = PSD_OPTION_SWITCH, .help = "as one object, \"schema\": \"psd.config/1\"" } },
    .options = ALL,
    .examples = "psdctl config show job.yaml\nPSD_LEASE=5s psdctl config show job.yaml --servers=2 --json\n",
    .exits = "those of config check",
    .run = run_show,
};

const psd_verb_t psd_verb_config_schema = {
    .name = "config schema",
    .words = "",
    .does = "a JSON Schema of job files, for editors",
    .about = "",
    .examples = "psdctl config schema >psd.schema.json\n",
    .exits = "",
    .run = run_schema,
};
