#include "deploy/psdctl/compare/study.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "deploy/psdctl/compare/settings.h"
#include "server/settings.h"
#include "worker/setup.h"

int psd_study_hold(psd_study_t *self, psd_err_t *err)
{
    return psd_settings_hold(self->options, self->verb, self->directory, &self->lock, err);
}

/* ---- rules ---- */

/* Whether a run of this rule is kept: then it fits the job. */
static bool has_run(const psd_study_t *self, const psd_comparison_t *comparison, size_t named)
{
    for (size_t c = 0; c < comparison->n; c++)
        for (unsigned s = 0; comparison->contender[c].named == named && s < comparison->n_seeds; s++) {
            char name[PSD_CELL], path[PATH_MAX];
            psd_comparison_run_name(comparison, c, s, name);
            snprintf(path, sizeof path, "%s/runs/%s", self->directory, name);
            if (access(path, F_OK) == 0)
                return true;
        }
    return false;
}

/* Runs are compared by the metric, and rates chosen by it on the rows that each seed holds out: it must be defined on all of them. */
static int check_metric(psd_options_t *o, const psd_comparison_t *comparison, const psd_setup_t *first, psd_err_t *err)
{
    int rc = psd_setup_check_metric(first, o, comparison->is_swept, err);
    for (unsigned s = 1; !rc && first->metric->if_equal && comparison->validation > 0 && s < comparison->n_seeds; s++) {
        psd_setup_t setup;
        char seed[24];
        snprintf(seed, sizeof seed, "%" PRIu64, comparison->first_seed + s);
        rc = psd_options_change(o, PSD_OPT_seed, seed, psd_options_origin(o, PSD_OPT_seed), err);
        rc = rc ? rc : psd_setup_load(&setup, o, err);
        rc = rc ? rc : psd_setup_check_metric(&setup, o, comparison->is_swept, err);
        psd_setup_clear(&setup);
        if (rc)
            psd_err_wrap(err, "with seed %s", seed);
    }
    return rc;
}

/* By the options, then by what only servers refuse, then by the model; the data is read once, for the first rule. */
static int check_rule(psd_options_t *o, const psd_contender_t *one, psd_setup_t *setup, psd_err_t *err)
{
    static psd_settings_t settings;
    const psd_rendezvous_t first = { .is_first = true };
    int rc = psd_options_change(o, PSD_OPT_optimizer, one->name, psd_options_origin(o, PSD_OPT_compare_optimizers), err);
    rc = rc ? rc : psd_settings_read(&settings, o, &first, err);
    if (!rc && !setup->model && (rc = psd_setup_load(setup, o, err)))
        return rc; /* that is no error of the rule */
    rc = rc ? rc : psd_setup_check_groups(setup, o, err);
    return rc ? psd_err_wrap(err, "rule %zu of compare.optimizers, %s", one->named + 1, one->label) : PSD_OK;
}

/* With the job's options as its runs have them (psd_command_run). */
static int check_rules(const psd_study_t *self, psd_options_t *o, const psd_comparison_t *comparison, psd_err_t *err)
{
    psd_setup_t setup = { 0 };
    char validation[32];
    snprintf(validation, sizeof validation, "%.9g", comparison->validation);
    int rc = psd_options_change(o, PSD_OPT_data_validation, validation, psd_options_origin(o, PSD_OPT_data_validation), err);
    rc = rc ? rc : psd_options_change(o, PSD_OPT_stop_target, "0", psd_options_origin(o, PSD_OPT_stop_target), err);
    for (size_t c = 0; !rc && c < comparison->n; c++) {
        const psd_contender_t *one = &comparison->contender[c];
        if ((!c || one[-1].named != one->named) && !has_run(self, comparison, one->named))
            rc = check_rule(o, one, &setup, err);
    }
    if (!rc && setup.model)
        rc = check_metric(o, comparison, &setup, err);
    psd_setup_clear(&setup);
    return rc;
}

int psd_study_check_rules(psd_study_t *self, const psd_comparison_t *comparison, psd_err_t *err)
{
    psd_options_t *o = self->options;
    const psd_option_id_t stream = psd_options_stream(o);
    char kind[16];
    if (stream != PSD_N_OPTIONS)
        return psd_err_set(err, PSD_ECONFIG,
                           "%s: %s names %s, which can be read only once, but each run reads it; write it to a file",
                           psd_options_origin(o, stream), psd_option_at(stream)->key, psd_options_text(o, stream));
    snprintf(kind, sizeof kind, "-%s", self->verb);
    psd_place_choose(o, kind, self->directory);
    psd_options_t *copy = psd_options_copy(o);
    const int rc = copy ? check_rules(self, copy, comparison, err) : psd_err_set(err, PSD_ENOMEM, "no memory to check the rules");
    psd_options_destroy(&copy);
    return rc;
}

/* ---- results ---- */

void psd_study_say_kept(const psd_study_t *self, const psd_trials_t *trials, const char *what)
{
    fprintf(stderr, "psdctl %s: %zu of %zu runs%s%s are kept; continue with --run-dir=%s\n", self->verb, trials->n_kept, trials->n,
            *what ? " of " : "", what, self->directory);
}

int psd_study_write(const psd_study_t *self, const char *name, bool (*write)(const void *what, FILE *out), const void *what,
                    psd_err_t *err)
{
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", self->directory, name);
    FILE *file = open_memstream(&text, &n);
    bool good = file && write(what, file);
    good = file && fclose(file) == 0 && good;
    const int rc = good ? psd_durable_put(path, text, n, err) : psd_err_set(err, PSD_ENOMEM, "no memory to write %s", path);
    free(text);
    return rc;
}

bool psd_study_print_json(json_t *json, FILE *out)
{
    const bool good = json && json_dumpf(json, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0 && fputc('\n', out) > 0;
    json_decref(json);
    return good;
}

int psd_study_end(psd_study_t *self, int rc, int code, const psd_err_t *err)
{
    if (rc < 0)
        fprintf(stderr, "psdctl %s: %s\n", self->verb, err->text);
    if (self->lock >= 0)
        close(self->lock);
    psd_options_destroy(&self->options);
    return code ? code : rc < 0 ? psd_err_exit_code(rc) : 0;
}
