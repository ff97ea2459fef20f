#include "deploy/psdctl/compare/study.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/system/durable.h"
#include "deploy/psdctl/compare/settings.h"

int psd_study_hold(psd_study_t *self, psd_err_t *err)
{
    return psd_settings_hold(self->options, self->verb, self->directory, &self->lock, err);
}

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
