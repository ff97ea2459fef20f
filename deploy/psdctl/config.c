/* config.c - `psdctl config`: checks and shows the options from a job file, the environment and flags. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/option_page.h"
#include "common/config/options.h"
#include "common/system/outputs.h"
#include "deploy/psdctl/verb.h"
#include "server/settings.h"
#include "worker/setup.h"

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

/* Check the job's output paths: a line for each that cannot be written. */
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

/* What only servers refuse: a rule that the mode cannot train, for instance. */
static int look_at_settings(const psd_options_t *options)
{
    static psd_settings_t settings;
    const psd_rendezvous_t first = { .is_first = true };
    psd_err_t err = { 0 };
    if (psd_settings_read(&settings, options, &first, &err) != PSD_OK)
        fprintf(stderr, "%s\n", err.text);
    return err.code;
}

/* Errors that only the data can show: missing files, a model that does not fit them. */
static int look_at_data(const psd_options_t *options)
{
    psd_err_t err = { 0 };
    psd_setup_t setup;
    psd_inheritance_t *fits = NULL;
    if (psd_setup_load(&setup, options, &err) == PSD_OK && psd_setup_check_groups(&setup, options, &err) == PSD_OK && setup.state.n)
        fits =
            psd_statefile_fit(&setup.state, setup.model, psd_options_string(options, PSD_OPT_optimizer),
                              psd_options_string(options, PSD_OPT_groups), psd_options_bool(options, PSD_OPT_init_partial), &err);
    if (err.code)
        fprintf(stderr, "%s\n", err.text);
    psd_inheritance_destroy(&fits);
    psd_setup_clear(&setup);
    return err.code;
}

static int check(const psd_args_t *args, const psd_options_t *options)
{
    const int code[] = { look_at_settings(options), look_at_data(options), look_at_outputs(options) };
    (void)args;
    for (size_t i = 0; i < sizeof code / sizeof *code; i++)
        if (code[i])
            return psd_err_exit_code(code[i]);
    return 0;
}

static int run_show(const psd_args_t *args) { return psd_verb_with_options(args, show); }

static int run_check(const psd_args_t *args) { return psd_verb_with_options(args, check); }

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
        return psd_verb_misuse(args->verb, "a verb is missing: write config check JOB, config show JOB or config schema");
    psd_option_markdown(stdout);
    return 0;
}

#define ALL (PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE | PSD_PROGRAM_SERVER | PSD_PROGRAM_WORKER)

const psd_verb_t psd_verb_config = {
    .name = "config",
    .words = "",
    .does = "the options: see config check, config show, config schema",
    .about = "",
    .flag = { { .key = "markdown", .type = PSD_OPTION_SWITCH, .help = "the table of options, as Markdown" } },
    .examples = "psdctl config check job.yaml\npsdctl config show job.yaml --servers=2\n",
    .exits = "",
    .run = run_table,
};

const psd_verb_t psd_verb_config_check = {
    .name = "config check",
    .words = "[JOB]",
    .does = "check a job file, the environment and flags",
    .about = "Prints nothing when they are right; otherwise one line per error, with its place. Reads the data and builds the "
             "model, to check that they fit together, but does not train.",
    .options = ALL,
    .examples = "psdctl config check job.yaml\n",
    .exits = "78 for an error in the file or the environment; 64 for a wrong flag; 74 when an output cannot be written; 66 when "
             "the job file or the data cannot be read; 65 for bad data",
    .run = run_check,
};

const psd_verb_t psd_verb_config_show = {
    .name = "config show",
    .words = "[JOB]",
    .does = "show the value of each option and its source",
    .about = "A value comes from its flag, then the environment, then the job file, and last from the default.",
    .flag = { { .key = "json", .type = PSD_OPTION_SWITCH, .help = "as one object, \"schema\": \"psd.config/1\"" } },
    .options = ALL,
    .examples = "psdctl config show job.yaml\nPSD_LEASE=5s psdctl config show job.yaml --servers=2 --json\n",
    .exits = "as config check",
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
