#include "server/settings.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/config/number.h"
#include "common/optim/aggregate.h"
#include "server/core/ahead.h"

/* A pass over sums in double precision costs as much memory traffic as about four gradients, so early summing only pays with many
 * workers. With fewer, gradients are kept as they arrived until their step, or only their mean, if they arrive together through
 * memory, and parts are stepped ahead of the round's decision, if they arrive through a network: for that, all rounds are
 * foretold. */
enum { FOLD_AT = 3, FOLD_FROM = 16, FORETELL_FROM = 1 };
_Static_assert((int)FOLD_FROM > (int)PSD_AGGREGATE_TAKEN, "no mean is of pushes that are in the sums already");
_Static_assert((int)FOLD_FROM > (int)PSD_MOST_AHEAD, "no part is stepped ahead whose gradients are in the sums already");

static bool is_word(const psd_options_t *options, psd_option_id_t id, const char *word)
{
    return !strcmp(psd_options_string(options, id), word);
}

static void read_engine(psd_settings_t *out, const psd_options_t *options, const psd_rendezvous_t *at)
{
    psd_engine_config_t *engine = &out->engine;
    engine->job = psd_options_string(options, PSD_OPT_job);
    engine->settings = out->job.text;
    engine->print_rule = psd_rule_print;
    engine->wanted_index = at->is_first ? 0 : at->index;
    engine->mode = psd_mode_find(psd_options_string(options, PSD_OPT_sync_mode));
    engine->lr_rule = psd_lr_rule_find(psd_options_string(options, PSD_OPT_sync_lr_rule));
    engine->max_staleness = psd_options_uint(options, PSD_OPT_sync_max_staleness);
    psd_schedule_parse(&engine->schedule, psd_options_string(options, PSD_OPT_schedule),
                       NULL); /* the option table has checked it */
    psd_schedule_unit_find(psd_options_string(options, PSD_OPT_schedule_unit), &engine->schedule.unit);
    psd_reduce_find(psd_options_string(options, PSD_OPT_sync_reduce), &engine->reduce);
    engine->accumulate = (uint32_t)psd_options_int(options, PSD_OPT_sync_accumulate);
    engine->clip = (psd_clip_t){ .value = psd_options_double(options, PSD_OPT_clip_value),
                                 .norm = psd_options_double(options, PSD_OPT_clip_norm) };
    psd_coding_parse(&engine->codings.push, psd_options_string(options, PSD_OPT_codec_push),
                     NULL); /* the option table has checked it */
    psd_coding_parse(&engine->codings.pull, psd_options_string(options, PSD_OPT_codec_pull), NULL);
    engine->saves_residuals = *out->checkpoint_dir && is_word(options, PSD_OPT_codec_residual, "save");
    engine->max_skipped = psd_options_uint(options, PSD_OPT_sync_max_skipped);
    engine->look_every = psd_options_uint(options, PSD_OPT_health_every);
    engine->fold_at = FOLD_AT;
    engine->fold_from = FOLD_FROM;
    engine->goes_ahead = is_word(options, PSD_OPT_net_overlap, "auto");
    assert(engine->mode && engine->lr_rule && "the option table admits only names of these tables");
    if (at->is_first)
        return;
    engine->lease_ms = psd_server_lease_ms(psd_options_ms(options, PSD_OPT_lease));
    engine->patience_ms = psd_options_ms(options, PSD_OPT_join_timeout);
}

/* The job's rule. */
static const psd_rule_t *rule_of(const psd_engine_config_t *engine) { return &psd_groups_rest(&engine->groups)->rule; }

static void read_coordinator(psd_settings_t *out, const psd_options_t *options)
{
    uint32_t want = (uint32_t)psd_options_int(options, PSD_OPT_workers_want),
             min = (uint32_t)psd_options_int(options, PSD_OPT_workers_min);
    if (want < min)
        want = min;
    if (is_word(options, PSD_OPT_workers_lost, "wait")) /* the job needs every worker */
        min = want;
    const uint64_t patience_ms = psd_options_ms(options, PSD_OPT_join_timeout);
    out->coordinator = (psd_coordinator_config_t){ .job = out->engine.job,
                                                   .settings = &out->job,
                                                   .n_servers = (uint32_t)psd_options_int(options, PSD_OPT_servers),
                                                   .workers_min = min,
                                                   .workers_want = want,
                                                   .drops_lost = is_word(options, PSD_OPT_workers_lost, "drop"),
                                                   .lease_ms = psd_options_ms(options, PSD_OPT_lease),
                                                   .round_timeout_ms = psd_options_ms(options, PSD_OPT_round_timeout),
                                                   .start_timeout_ms = patience_ms,
                                                   .patience_ms = patience_ms,
                                                   .mode = out->engine.mode,
                                                   .foretell_from = FORETELL_FROM,
                                                   .accumulate = out->engine.accumulate,
                                                   .quarantine_after = psd_options_uint(options, PSD_OPT_sync_quarantine_after),
                                                   .groups = out->engine.groups,
                                                   .clip = out->engine.clip,
                                                   .needs_rows = out->engine.schedule.unit == PSD_UNIT_EPOCH,
                                                   .lr = psd_rule_lr(rule_of(&out->engine)),
                                                   .save_every_rounds = psd_options_uint(options, PSD_OPT_checkpoint_every_steps) *
                                                                        out->engine.accumulate,
                                                   .save_every_ms = psd_options_ms(options, PSD_OPT_checkpoint_every) };
}

static const char *print_clip(const psd_clip_t *clip, char *text, size_t n)
{
    char number[PSD_NUMBER_TEXT];
    size_t at = 0;
    text[0] = '\0';
    if (clip->value > 0)
        at += (size_t)snprintf(text, n, " clip_value=%s", psd_number_print(clip->value, number));
    if (clip->norm > 0)
        snprintf(text + at, n - at, " clip_norm=%s", psd_number_print(clip->norm, number));
    return text;
}

/* Empty for a constant rate. */
static const char *print_schedule(const psd_engine_config_t *engine, char *text, size_t n)
{
    char schedule[PSD_SCHEDULE_TEXT];
    text[0] = '\0';
    if (!psd_schedule_is_constant(&engine->schedule))
        snprintf(text, n, " schedule=%s schedule_unit=%s", psd_schedule_print(&engine->schedule, schedule),
                 psd_schedule_unit_name(engine->schedule.unit));
    return text;
}

/* Empty where both are f32. */
static const char *print_codings(const psd_codings_t *codings, char *text, size_t n)
{
    char name[PSD_CODEC_TEXT];
    size_t at = 0;
    text[0] = '\0';
    if (!psd_coding_is_lossless(&codings->push))
        at += (size_t)snprintf(text, n, " codec_push=%s", psd_coding_print(&codings->push, name));
    if (!psd_coding_is_lossless(&codings->pull))
        snprintf(text + at, n - at, " codec_pull=%s", psd_coding_print(&codings->pull, name));
    return text;
}

/* Fill in the fields, and print them as the text. */
static void describe(psd_settings_t *out, const psd_options_t *options)
{
    psd_job_settings_t *job = &out->job;
    char groups[PSD_GROUPS_TEXT + 16] = "", late[128] = "", accumulate[32] = "", clip[128], codings[2 * PSD_CODEC_TEXT + 32],
                                  schedule[PSD_SCHEDULE_TEXT + 40];
    const psd_engine_config_t *engine = &out->engine;
    *job = (psd_job_settings_t){ .lr = psd_rule_lr(rule_of(engine)),
                                 .clip_value = engine->clip.value,
                                 .clip_norm = engine->clip.norm,
                                 .accumulate = engine->accumulate,
                                 .lease_ms = (uint32_t)psd_options_ms(options, PSD_OPT_lease),
                                 .has_slow = psd_groups_have_slow(&engine->groups),
                                 .in_rounds = psd_mode_has_rounds(engine->mode),
                                 .whole_norm = !psd_mode_has_rounds(engine->mode),
                                 .codings = engine->codings,
                                 .checkpoints = *out->checkpoint_dir != '\0',
                                 .saves_residuals = engine->saves_residuals,
                                 .part_elements = (uint32_t)(psd_options_uint(options, PSD_OPT_message_size) / sizeof(float)) };
    snprintf(job->mode, sizeof job->mode, "%s", engine->mode->name);
    psd_rule_print(rule_of(engine), job->optimizer);
    psd_groups_print(&engine->groups, job->groups);
    if (*job->groups)
        snprintf(groups, sizeof groups, " groups=\"%s\"", job->groups);
    psd_schedule_print(&engine->schedule, job->schedule);
    snprintf(job->schedule_unit, sizeof job->schedule_unit, "%s", psd_schedule_unit_name(engine->schedule.unit));
    if (!job->in_rounds) {
        snprintf(job->lr_rule, sizeof job->lr_rule, "%s", engine->lr_rule->name);
        job->max_staleness = engine->max_staleness;
        snprintf(late, sizeof late, " lr_rule=%s max_staleness=%" PRIu64, job->lr_rule, job->max_staleness);
    }
    if (engine->accumulate > 1)
        snprintf(accumulate, sizeof accumulate, " accumulate=%u", engine->accumulate);
    snprintf(job->text, sizeof job->text, "servers=%" PRId64 " mode=%s optimizer=%s%s%s%s%s%s%s%s%s%s",
             psd_options_int(options, PSD_OPT_servers), job->mode, job->optimizer, groups,
             print_schedule(engine, schedule, sizeof schedule), print_clip(&engine->clip, clip, sizeof clip),
             engine->reduce == PSD_REDUCE_MEAN_SAMPLES ? "" : " reduce=",
             engine->reduce == PSD_REDUCE_MEAN_SAMPLES ? "" : psd_reduce_name(engine->reduce), accumulate,
             print_codings(&engine->codings, codings, sizeof codings), late, job->checkpoints ? " checkpoints=yes" : "");
}

/* Check that the mode supports the rule of a group. */
static int check_mode(const psd_settings_t *out, const psd_options_t *options, const psd_group_t *group, psd_err_t *err)
{
    const psd_option_id_t option = *group->match ? PSD_OPT_groups : PSD_OPT_optimizer;
    const char *why = psd_rule_n_sums(&group->rule) > 0
                          ? "needs sums over whole tensors, which servers exchange when they close a round"
                      : psd_rule_is_whole(&group->rule) ? "steps whole tensors, after a round has summed all their gradients"
                      : psd_rule_votes(&group->rule)    ? "counts the votes of a round"
                                                        : NULL;
    if (!why || psd_mode_has_rounds(out->engine.mode))
        return PSD_OK;
    return psd_err_set(err, PSD_ECONFIG,
                       "%s: optimizer %s%s %s, but sync.mode %s has no rounds; set sync.mode to bsp, or choose another optimizer",
                       psd_options_origin(options, option), group->rule.cautious ? "cautious " : "", group->rule.opt->name, why,
                       out->engine.mode->name);
}

/* Check that the mode has rounds, whose gradients can be added up. */
static int check_accumulate(const psd_settings_t *out, const psd_options_t *options, psd_err_t *err)
{
    if (out->engine.accumulate == 1 || psd_mode_has_rounds(out->engine.mode))
        return PSD_OK;
    return psd_err_set(err, PSD_ECONFIG,
                       "%s: sync.accumulate is %u, but sync.mode %s has no rounds to add up: each push is a step by itself; "
                       "set sync.mode to bsp, or make data.batch larger",
                       psd_options_origin(options, PSD_OPT_sync_accumulate), out->engine.accumulate, out->engine.mode->name);
}

int psd_settings_read(psd_settings_t *out, const psd_options_t *options, const psd_rendezvous_t *at, psd_err_t *err)
{
    *out = (psd_settings_t){ .is_first = at->is_first,
                             .checkpoint_dir = psd_options_string(options, PSD_OPT_checkpoint_dir),
                             .checkpoint_keep = (uint32_t)psd_options_int(options, PSD_OPT_checkpoint_keep) };
    if (psd_groups_parse(&out->engine.groups, psd_options_string(options, PSD_OPT_optimizer),
                         psd_options_string(options, PSD_OPT_groups), err) != PSD_OK)
        return psd_err_wrap(err, "optimizer (%s)", psd_options_origin(options, PSD_OPT_optimizer));
    read_engine(out, options, at);
    for (uint32_t g = 0; g < out->engine.groups.n; g++)
        if (check_mode(out, options, &out->engine.groups.at[g], err) != PSD_OK)
            return err ? err->code : PSD_ECONFIG;
    if (check_accumulate(out, options, err) != PSD_OK)
        return PSD_ECONFIG;
    describe(out, options);
    if (at->is_first)
        read_coordinator(out, options);
    out->unasked_lr_rule =
        !psd_mode_has_rounds(out->engine.mode) && !strcmp(psd_options_origin(options, PSD_OPT_sync_lr_rule), "default");
    return PSD_OK;
}
