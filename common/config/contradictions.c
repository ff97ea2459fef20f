#include "common/config/contradictions.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/codec/codec.h"
#include "common/optim/groups.h"
#include "common/optim/schedule.h"

/* Write the sentence; true. */
static bool says(char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool says(char *why, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(why, PSD_OPTION_WHY, format, list);
    va_end(list);
    return true;
}

static bool wants_fewer_than_least(const psd_values_t *o, char *why)
{
    const int64_t least = o->at(o->arg, PSD_OPT_workers_min)->i, want = o->at(o->arg, PSD_OPT_workers_want)->i;
    return want && want < least &&
           says(why, "workers.want is %" PRId64 ", less than workers.min, %" PRId64 "; raise it to that, or leave it out", want,
                least);
}

static bool index_is_none_of_the_servers(const psd_values_t *o, char *why)
{
    const int64_t index = o->at(o->arg, PSD_OPT_server_index)->i, n = o->at(o->arg, PSD_OPT_servers)->i;
    return index >= n &&
           says(why, "server.index is %" PRId64 " of %" PRId64 " servers, which count from 0; set servers, or 0 to %" PRId64, index,
                n, n - 1);
}

static bool has_labels_of_no_test_set(const psd_values_t *o, char *why)
{
    return *o->at(o->arg, PSD_OPT_data_test_labels)->text && !*o->at(o->arg, PSD_OPT_data_test)->text &&
           says(why, "data.test_labels is set, but data.test is not; set both, or neither");
}

static bool has_state_of_no_weights(const psd_values_t *o, char *why)
{
    return *o->at(o->arg, PSD_OPT_init_state)->text && !*o->at(o->arg, PSD_OPT_init)->text &&
           says(why, "init.state is set, but init is not: optimizer state goes with the weights that it was kept of; set both, or "
                     "leave init.state out");
}

static bool uses_a_port_twice(const psd_values_t *o, char *why)
{
    const char *listen = strrchr(o->at(o->arg, PSD_OPT_listen)->text, ':'),
               *status = strrchr(o->at(o->arg, PSD_OPT_status_listen)->text, ':');
    return listen && status && !strncmp(o->at(o->arg, PSD_OPT_listen)->text, "tcp://", 6) && strcmp(listen, ":0") &&
           !strcmp(listen, status) &&
           says(why, "status.listen and listen both have port %s; give one of them another, or 0 for any free one", status + 1);
}

/* The coding that an option names, which has been checked already. */
static psd_coding_t coding_of(const psd_values_t *o, psd_option_id_t id)
{
    psd_coding_t coding = { 0 };
    psd_coding_parse(&coding, o->at(o->arg, id)->text, NULL);
    return coding;
}

/* A gradient of mostly zeros or of signs still works, because its residual comes with the next one. Weights like that are
 * useless. */
static bool pulls_no_weights(const psd_values_t *o, char *why)
{
    const psd_coding_t coding = coding_of(o, PSD_OPT_codec_pull);
    const char *name = psd_coding_name(&coding);
    return (!strcmp(name, "topk") || !strcmp(name, "sign")) &&
           says(why, "codec.pull is %s, which is for gradients: weights would %s; use f32, bf16 or int8", name,
                *name == 's' ? "lose all but their signs" : "mostly become 0");
}

static bool keeps_too_many(const psd_values_t *o, char *why)
{
    const psd_coding_t coding = coding_of(o, PSD_OPT_codec_push);
    return !strcmp(psd_coding_name(&coding), "topk") && coding.argument > 0.5 &&
           says(why, "codec.push is %s, and a value that it keeps takes 5 bytes; keep at most 0.5 of them, or use bf16",
                o->at(o->arg, PSD_OPT_codec_push)->text);
}

/* onecycle changes the momentum unless cycle_momentum=0. */
static bool cycles_no_momentum(const psd_values_t *o, char *why)
{
    psd_schedule_t schedule;
    psd_rule_t rule;
    double momentum;
    return psd_schedule_parse(&schedule, o->at(o->arg, PSD_OPT_schedule)->text, NULL) == PSD_OK &&
           psd_rule_parse(&rule, o->at(o->arg, PSD_OPT_optimizer)->text, NULL) == PSD_OK &&
           psd_schedule_momentum(&schedule, 0, &momentum) && !psd_rule_has_momentum(&rule) &&
           says(why,
                "schedule %s changes the momentum, but %s has none; add cycle_momentum=0 to the schedule, or choose another "
                "optimizer",
                schedule.kind->name, rule.opt->name);
}

/* Check the groups together with the rule that they change. */
static bool has_groups(const psd_values_t *o, psd_groups_t *groups, psd_err_t *err)
{
    return psd_groups_parse(groups, o->at(o->arg, PSD_OPT_optimizer)->text, o->at(o->arg, PSD_OPT_groups)->text, err) == PSD_OK;
}

static bool has_no_such_groups(const psd_values_t *o, char *why)
{
    psd_groups_t groups;
    psd_err_t err = { 0 };
    return !has_groups(o, &groups, &err) && says(why, "%s", err.text);
}

/* Whether workers vote, by the rule in the option, which has been checked already; and the rule's name. */
static bool has_votes(const psd_values_t *o, const char **name)
{
    psd_rule_t rule = { 0 };
    const bool votes = psd_rule_parse(&rule, o->at(o->arg, PSD_OPT_optimizer)->text, NULL) == PSD_OK && psd_rule_votes(&rule);
    *name = votes ? rule.opt->name : "";
    return votes;
}

static bool clips_votes(const psd_values_t *o, char *why)
{
    const char *name;
    return (o->at(o->arg, PSD_OPT_clip_value)->d > 0 || o->at(o->arg, PSD_OPT_clip_norm)->d > 0) && has_votes(o, &name) &&
           says(why, "clipping shortens gradients, but with optimizer %s workers send votes; leave out clip.value and clip.norm",
                name);
}

static bool drops_votes(const psd_values_t *o, char *why)
{
    const psd_coding_t coding = coding_of(o, PSD_OPT_codec_push);
    const char *name;
    return !strcmp(psd_coding_name(&coding), "topk") && has_votes(o, &name) &&
           says(why, "codec.push is %s, which would drop most votes of optimizer %s; use sign, which keeps all of them",
                o->at(o->arg, PSD_OPT_codec_push)->text, name);
}

static bool gathers_votes(const psd_values_t *o, char *why)
{
    const char *name;
    return o->at(o->arg, PSD_OPT_sync_accumulate)->i > 1 && has_votes(o, &name) &&
           says(why, "sync.accumulate adds up gradients, but with optimizer %s workers send votes; leave it out", name);
}

/* Where a path leads, over links: a file, or, while there is none, its folder and its name there. */
typedef struct target {
    struct stat facts; /* of the file or the folder */
    const char *name;  /* "" of a file that is there */
} target_t;

static bool find_target(const char *path, target_t *out)
{
    const char *slash = strrchr(path, '/');
    char folder[PATH_MAX];
    *out = (target_t){ .name = "" };
    if (stat(path, &out->facts) == 0)
        return S_ISREG(out->facts.st_mode); /* devices and FIFOs may have several uses; directories have their own checks */
    out->name = slash ? slash + 1 : path;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash + 1 - path) : 1, slash ? path : ".");
    return stat(folder, &out->facts) == 0;
}

bool psd_contradiction_replaces(const char *output, const char *path, const char *input, const char *other,
                                char why[PSD_OPTION_WHY])
{
    target_t to, from;
    return *path && *other && find_target(path, &to) && find_target(other, &from) && to.facts.st_dev == from.facts.st_dev &&
           to.facts.st_ino == from.facts.st_ino && !strcmp(to.name, from.name) &&
           says(why, "%s would replace %s, %.160s; name another file", output, input, other);
}

/* Whether the output is the job file, or a file that another option names. */
static bool replaces_a_file(const psd_values_t *o, psd_option_id_t output, char *why)
{
    const char *key = psd_option_at(output)->key, *path = o->at(o->arg, output)->text;
    bool is_there = psd_contradiction_replaces(key, path, "the job file", o->file, why);
    for (size_t i = 0; !is_there && i < PSD_N_OPTIONS; i++) {
        const psd_option_t *row = psd_option_at(i);
        const char *other = psd_option_path(row, o->at(o->arg, (psd_option_id_t)i)->text);
        const bool goes_on = output == PSD_OPT_save && i == PSD_OPT_init; /* read before it is written: training goes on in it */
        is_there = i != output && !goes_on && other && psd_contradiction_replaces(key, path, row->key, other, why);
    }
    return is_there;
}

static bool saves_over_a_file(const psd_values_t *o, char *why) { return replaces_a_file(o, PSD_OPT_save, why); }

static bool traces_into_a_file(const psd_values_t *o, char *why) { return replaces_a_file(o, PSD_OPT_trace, why); }

bool psd_contradiction_is_stream(const psd_option_t *row, const char *text)
{
    const char *path = psd_option_path(row, text);
    struct stat facts;
    return path && stat(path, &facts) == 0 && !S_ISREG(facts.st_mode) && !S_ISDIR(facts.st_mode);
}

/* Each worker reads all of the data: of a pipe, the first would take what the second waits for. */
static bool shares_a_stream(const psd_values_t *o, psd_option_id_t id, char *why)
{
    const int64_t least = o->at(o->arg, PSD_OPT_workers_min)->i, want = o->at(o->arg, PSD_OPT_workers_want)->i;
    const char *text = o->at(o->arg, id)->text;
    return (want > least ? want : least) > 1 && psd_contradiction_is_stream(psd_option_at(id), text) &&
           says(why, "%s names %.160s, which can be read only once, but each of %" PRId64 " workers reads it; write it to a file",
                psd_option_at(id)->key, text, want > least ? want : least);
}

static bool shares_train(const psd_values_t *o, char *why) { return shares_a_stream(o, PSD_OPT_data_train, why); }

static bool shares_labels(const psd_values_t *o, char *why) { return shares_a_stream(o, PSD_OPT_data_labels, why); }

static bool shares_test(const psd_values_t *o, char *why) { return shares_a_stream(o, PSD_OPT_data_test, why); }

static bool shares_test_labels(const psd_values_t *o, char *why) { return shares_a_stream(o, PSD_OPT_data_test_labels, why); }

/* Evaluations that only come at the end can stop nothing. */
static bool has_patience_without_evaluations(const psd_values_t *o, char *why)
{
    return o->at(o->arg, PSD_OPT_stop_patience)->u && !(o->at(o->arg, PSD_OPT_eval_every)->d > 0) &&
           says(why, "stop.patience is set, but eval.every is 0, so the only evaluation is at the end; set eval.every above 0");
}

static const struct contradiction {
    psd_option_id_t id; /* the option to point at */
    bool (*is_there)(const psd_values_t *o, char *why);
} contradictions[] = {
    { PSD_OPT_workers_want, wants_fewer_than_least },
    { PSD_OPT_server_index, index_is_none_of_the_servers },
    { PSD_OPT_data_test_labels, has_labels_of_no_test_set },
    { PSD_OPT_init_state, has_state_of_no_weights },
    { PSD_OPT_status_listen, uses_a_port_twice },
    { PSD_OPT_codec_pull, pulls_no_weights },
    { PSD_OPT_codec_push, keeps_too_many },
    { PSD_OPT_groups, has_no_such_groups },
    { PSD_OPT_schedule, cycles_no_momentum },
    { PSD_OPT_codec_push, drops_votes },
    { PSD_OPT_optimizer, clips_votes },
    { PSD_OPT_sync_accumulate, gathers_votes },
    { PSD_OPT_save, saves_over_a_file },
    { PSD_OPT_trace, traces_into_a_file },
    { PSD_OPT_data_train, shares_train },
    { PSD_OPT_data_labels, shares_labels },
    { PSD_OPT_data_test, shares_test },
    { PSD_OPT_data_test_labels, shares_test_labels },
    { PSD_OPT_stop_patience, has_patience_without_evaluations },
};

int psd_contradiction(const psd_values_t *values, size_t i, psd_option_id_t *id, char why[PSD_OPTION_WHY])
{
    if (i >= sizeof contradictions / sizeof *contradictions)
        return -1;
    *id = contradictions[i].id;
    return contradictions[i].is_there(values, why);
}
