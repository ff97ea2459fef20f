#include "deploy/psdctl/verb.h"

#include <stdarg.h>
#include <sys/stat.h>

#include "common/config/contradictions.h"

int psd_verb_misuse(const psd_verb_t *verb, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fprintf(stderr, "psdctl %s: ", verb->name);
    vfprintf(stderr, format, list);
    putc('\n', stderr);
    va_end(list);
    return psd_err_exit_code(PSD_EUSAGE);
}

int psd_verb_with_options(const psd_args_t *args, int (*then)(const psd_args_t *, const psd_options_t *))
{
    psd_err_t err = { 0 };
    char none[] = "--", *words[] = { args->argv[0], none, NULL };
    const bool has_words = args->argc > 1;
    psd_options_t *options = psd_options_new(args->verb->options);
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

/* Whether a verb may write a file that the job names so: a model or a state, which another verb reads. */
static bool may_be_written(psd_option_id_t id)
{
    return id == PSD_OPT_init || id == PSD_OPT_init_state || id == PSD_OPT_save || id == PSD_OPT_trace;
}

int psd_verb_check_output(const psd_args_t *args, const psd_options_t *options, size_t output, const char *to, psd_err_t *err)
{
    const psd_option_t *flag = args->verb->flag, *row;
    char why[PSD_OPTION_WHY], name[PSD_OPTION_TEXT], other[PSD_OPTION_TEXT];
    psd_option_flag(flag[output].key, name, sizeof name);
    bool is_there = !psd_options_file_is_stream(options) &&
                    psd_contradiction_replaces(name, to, "the job file", psd_options_file(options), why);
    for (size_t i = 0; !is_there && flag[i].key; i++) {
        const char *path = i != output && args->flag[i] ? psd_option_path(&flag[i], args->flag[i]) : NULL;
        psd_option_flag(flag[i].key, other, sizeof other);
        is_there = path && psd_contradiction_replaces(name, to, other, path, why);
    }
    for (size_t i = 0; !is_there && (row = psd_option_at(i)); i++) {
        const char *path =
            may_be_written((psd_option_id_t)i) ? NULL : psd_option_path(row, psd_options_text(options, (psd_option_id_t)i));
        is_there = path && psd_contradiction_replaces(name, to, row->key, path, why);
    }
    return is_there ? psd_err_set(err, PSD_EUSAGE, "%s", why) : PSD_OK;
}

int psd_verb_check_new(const char *path, bool force, const char *other, psd_err_t *err)
{
    struct stat facts;
    if (!force && stat(path, &facts) == 0 && S_ISREG(facts.st_mode))
        return psd_err_set(err, PSD_EIO, "%s exists already; add --force to replace it, or --to to name another %s", path, other);
    return PSD_OK;
}

psd_usage_t psd_verb_usage(const psd_verb_t *verb, char name[PSD_VERB_NAME])
{
    snprintf(name, PSD_VERB_NAME, "psdctl %s", verb->name);
    return (psd_usage_t){ .name = name,
                          .words = verb->words,
                          .does = verb->does,
                          .about = verb->about,
                          .flag = verb->flag,
                          .programs = verb->options,
                          .examples = verb->examples };
}

void psd_verb_help(FILE *out, const psd_verb_t *verb)
{
    char name[PSD_VERB_NAME];
    const psd_usage_t usage = psd_verb_usage(verb, name);
    psd_usage_help(out, &usage);
}

static int call_raw(const psd_verb_t *verb, const psd_verb_t *const *all, int argc, char **argv)
{
    char title[PSD_VERB_NAME], *old = argv[0];
    snprintf(title, sizeof title, "psdctl %s", verb->name);
    argv[0] = title;
    const int code = verb->run(&(psd_args_t){ .verb = verb, .all = all, .argc = argc, .argv = argv });
    argv[0] = old;
    return code;
}

int psd_verb_call(const psd_verb_t *verb, const psd_verb_t *const *all, int argc, char **argv)
{
    char name[PSD_VERB_NAME];
    const psd_usage_t usage = psd_verb_usage(verb, name);
    psd_given_t given;
    psd_err_t err;
    if (verb->is_raw)
        return call_raw(verb, all, argc, argv);
    const int rc = psd_usage_read(&usage, argc, argv, &given, &err);
    int code = rc < 0 ? psd_verb_misuse(verb, "%s", err.text) : 0;
    if (rc == PSD_ENOMEM)
        code = psd_err_exit_code(rc);
    if (rc == PSD_OK)
        code = verb->run(&(psd_args_t){ .verb = verb,
                                        .all = all,
                                        .flag = given.flag,
                                        .value = given.value,
                                        .word = given.word,
                                        .argc = given.argc,
                                        .argv = given.argv });
    psd_usage_clear(&given);
    return code;
}
