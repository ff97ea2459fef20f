#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/settings.h"

static psd_settings_t settings;
static psd_options_t *options;
static psd_err_t err;

#define SGD "sgd(lr=0.5, momentum=0, dampening=0, nesterov=0, weight_decay=0)"

static void setup(void) { clearenv(); }
static void teardown(void) { psd_options_destroy(&options); }
TestSuite(settings, .init = setup, .fini = teardown, .timeout = 600);

/* Read flags, separated by blanks, as server 0 or as server 1 would. */
static int read_as(int index, const char *flags)
{
    char copy[512], *argv[24] = { "psd", "--job=mnist" };
    int argc = 2;
    snprintf(copy, sizeof copy, "%s", flags);
    for (char *rest = copy, *word; (word = strtok_r(rest, " ", &rest));)
        argv[argc++] = word;
    psd_options_destroy(&options);
    cr_assert_not_null(options = psd_options_new(PSD_PROGRAM_SERVER));
    cr_assert_eq(psd_options_load(options, argc, argv, &err), PSD_OK, "%s", err.text);
    const psd_rendezvous_t at = { .is_first = !index, .index = index };
    return psd_settings_read(&settings, options, &at, &err);
}

static void read_first(const char *flags) { cr_assert_eq(read_as(0, flags), PSD_OK, "%s", err.text); }
static void read_other(const char *flags) { cr_assert_eq(read_as(1, flags), PSD_OK, "%s", err.text); }

Test(settings, servers_agree_on_number_mode_and_optimizer)
{
    read_first("--servers=2 --optimizer=sgd(lr=0.5)");
    cr_expect_str_eq(settings.job.text, "servers=2 mode=bsp optimizer=" SGD);
    cr_expect_eq(settings.engine.settings, settings.job.text);
    cr_expect_eq(settings.coordinator.settings, &settings.job);
    char first[PSD_MAX_TEXT];
    memcpy(first, settings.job.text, sizeof first);
    read_other("--servers=2 --optimizer=sgd(lr=0.5)");
    cr_expect_str_eq(settings.job.text, first, "or a server could not join");
}

Test(settings, servers_agree_on_asps_own_settings_in_asp)
{
    read_first("--sync-mode=asp --sync-max-staleness=7 --optimizer=sgd(lr=0.5) --checkpoint-dir=/tmp");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=asp optimizer=" SGD " lr_rule=1/W max_staleness=7 checkpoints=yes");
    cr_expect_eq(settings.engine.max_staleness, 7);
    cr_expect(!psd_mode_has_rounds(settings.engine.mode) && settings.coordinator.mode == settings.engine.mode);
}

Test(settings, limits_on_gradients_are_told_each_by_its_name)
{
    read_first("--optimizer=sgd(lr=0.5) --clip-value=2 --clip-norm=3");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=bsp optimizer=" SGD " clip_value=2 clip_norm=3");
}

Test(settings, quarantine_is_for_every_mode)
{
    read_first("--sync-quarantine-after=5");
    cr_expect_eq(settings.coordinator.quarantine_after, 5);
    read_first("--sync-quarantine-after=5 --sync-mode=asp --optimizer=sgd(lr=0.5)");
    cr_expect_eq(settings.coordinator.quarantine_after, 5);
}

Test(settings, rounds_are_added_up_only_where_there_are_rounds)
{
    read_first("--sync-accumulate=4 --optimizer=sgd(lr=0.5) --checkpoint-dir=/tmp --checkpoint-every-steps=10");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=bsp optimizer=" SGD " accumulate=4 checkpoints=yes");
    cr_expect(settings.engine.accumulate == 4 && settings.coordinator.accumulate == 4 && settings.job.accumulate == 4);
    cr_expect_eq(settings.coordinator.save_every_rounds, 40, "checkpoints count steps");
    cr_expect_eq(read_as(0, "--sync-accumulate=4 --sync-mode=asp"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "--sync-accumulate: sync.accumulate is 4, but sync.mode asp has no rounds to add up: each "
                               "push is a step by itself; set sync.mode to bsp, or make data.batch larger");
}

Test(settings, rules_whose_step_needs_a_round_are_refused_in_asp)
{
    cr_expect_eq(read_as(0, "--sync-mode=asp --optimizer=dlion"), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "--optimizer: optimizer dlion counts the votes of a round, but sync.mode asp has no "
                               "rounds; set sync.mode to bsp, or choose another optimizer");
    cr_expect_eq(read_as(0, "--sync-mode=asp --optimizer=adafactor"), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "adafactor steps whole tensors"), "%s", err.text);
    cr_expect_eq(read_as(0, "--sync-mode=asp --optimizer=lamb"), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "lamb needs sums over whole tensors"), "%s", err.text);
    cr_expect_eq(read_as(0, "--sync-mode=asp --optimizer=cautious(adam)"), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "cautious adam needs sums over whole tensors"), "%s", err.text);
}

Test(settings, a_default_lr_rule_is_logged_only_in_asp)
{
    read_first("--sync-mode=asp");
    cr_expect(settings.unasked_lr_rule);
    read_first("--sync-mode=asp --sync-lr-rule=1/W");
    cr_expect_not(settings.unasked_lr_rule);
    read_first("");
    cr_expect_not(settings.unasked_lr_rule);
}

Test(settings, with_workers_lost_wait_rounds_need_workers_want)
{
    read_first("--workers-min=2 --workers-want=5 --workers-lost=wait");
    cr_expect(settings.coordinator.workers_min == 5 && settings.coordinator.workers_want == 5);
    cr_expect_not(settings.coordinator.drops_lost);
    read_first("--workers-min=2 --workers-want=5 --workers-lost=drop");
    cr_expect(settings.coordinator.workers_min == 2 && settings.coordinator.workers_want == 5);
    cr_expect(settings.coordinator.drops_lost);
    read_first("--workers-min=3");
    cr_expect(settings.coordinator.workers_min == 3 && settings.coordinator.workers_want == 3, "0 wanted: the same as the minimum");
}

Test(settings, a_server_is_lost_later_than_a_worker_with_a_short_lease)
{
    read_other("--lease=200ms --join-timeout=9s");
    cr_expect_eq(settings.engine.lease_ms, PSD_SERVER_LEASE_MIN_MS);
    cr_expect_eq(settings.engine.patience_ms, 9000);
    read_first("--lease=200ms --join-timeout=9s");
    cr_expect_eq(settings.coordinator.lease_ms, 200);
    cr_expect(settings.coordinator.patience_ms == 9000 && settings.coordinator.start_timeout_ms == 9000);
    cr_expect_eq(settings.engine.lease_ms, 0, "server 0 does not wait for itself");
}

Test(settings, server_0_takes_its_index_and_others_the_one_they_are_given)
{
    read_first("");
    cr_expect_eq(settings.engine.wanted_index, 0);
    cr_expect_eq(settings.coordinator.n_servers, 1);
    read_other("--servers=2");
    cr_expect_eq(settings.engine.wanted_index, 1);
    cr_expect_eq(settings.coordinator.n_servers, 0, "others have no coordinator");
}

Test(settings, parts_are_stepped_ahead_unless_net_overlap_is_off)
{
    read_first("");
    cr_expect(settings.engine.goes_ahead && settings.coordinator.foretell_from == 1, "also for one worker");
    read_other("--servers=2 --net-overlap=off");
    cr_expect_not(settings.engine.goes_ahead);
}

Test(settings, checkpoints_are_where_and_as_often_as_the_options_say)
{
    read_first("");
    cr_expect_str_eq(settings.checkpoint_dir, "");
    read_first("--checkpoint-dir=/tmp --checkpoint-keep=4 --checkpoint-every=2s --checkpoint-every-steps=100");
    cr_expect_str_eq(settings.checkpoint_dir, "/tmp");
    cr_expect_eq(settings.checkpoint_keep, 4);
    cr_expect(settings.coordinator.save_every_ms == 2000 && settings.coordinator.save_every_rounds == 100);
}

Test(settings, the_optimizer_gives_the_learning_rate_and_slow_weights)
{
    read_first("--optimizer=lookahead(sgd(lr=0.25),k=5)");
    cr_expect_float_eq(settings.coordinator.lr, 0.25, 1e-9);
    cr_expect(settings.job.has_slow);
    cr_expect_str_eq(settings.job.optimizer,
                     "lookahead(sgd(lr=0.25, momentum=0, dampening=0, nesterov=0, weight_decay=0), k=5, alpha=0.5, pullback=none)");
}

Test(settings, servers_agree_on_codecs_that_lose_something)
{
    read_first("--codec-push=topk(0.01) --codec-pull=int8 --optimizer=sgd(lr=0.5)");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=bsp optimizer=" SGD " codec_push=topk(0.01) codec_pull=int8");
    cr_expect_str_eq(psd_coding_name(&settings.job.codings.push), "topk");
    cr_expect_eq(settings.job.codings.push.argument, 0.01);
    cr_expect_str_eq(psd_coding_name(&settings.engine.codings.pull), "int8");
    read_first("--codec-push=f32 --optimizer=sgd(lr=0.5)");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=bsp optimizer=" SGD, "as it was before there were codecs");
}

Test(settings, servers_agree_on_the_schedule_and_on_what_it_counts)
{
    read_first("--optimizer=sgd(lr=0.5) --schedule=cosine(steps=5,warmup=2) --schedule-unit=epoch");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=bsp optimizer=" SGD
                                        " schedule=cosine(steps=5, min=0, warmup=2, warmup_start=0) schedule_unit=epoch");
    cr_expect_str_eq(settings.job.schedule, "cosine(steps=5, min=0, warmup=2, warmup_start=0)");
    cr_expect_str_eq(settings.job.schedule_unit, "epoch");
    cr_expect_eq(settings.engine.schedule.unit, PSD_UNIT_EPOCH);
    cr_expect_eq(psd_schedule_rate(&settings.engine.schedule, 0.5, 1), 0.25);
    cr_expect(settings.coordinator.needs_rows);
    read_first("--optimizer=sgd(lr=0.5)");
    cr_expect_str_eq(settings.job.text, "servers=1 mode=bsp optimizer=" SGD);
    cr_expect_not(settings.coordinator.needs_rows);
}

Test(settings, codecs_schedules_and_votes_that_make_no_sense_are_refused)
{
    static struct {
        char flag[40];
        const char *why;
        char with[24]; /* another flag; "": none */
    } row[] = {
        { "--optimizer=lookahead(dlion)", "workers send votes; leave out clip.value and clip.norm", "--clip-norm=1" },
        { "--optimizer=dlion", "workers send votes; leave out clip.value and clip.norm", "--clip-value=1" },
        { "--optimizer=dlion", "codec.push is topk(0.1), which would drop most votes of optimizer dlion; use sign",
          "--codec-push=topk(0.1)" },
        { "--codec-pull=sign",
          "codec.pull is sign, which is for gradients: weights would lose all but their signs; use f32, bf16 or int8", "" },
        { "--codec-pull=topk(0.1)", "codec.pull is topk, which is for gradients: weights would mostly become 0", "" },
        { "--codec-push=topk(0.6)", "codec.push is topk(0.6), and a value that it keeps takes 5 bytes", "" },
        { "--codec-push=int4", "unknown codec 'int4'", "" },
        { "--schedule=cosin(steps=5)", "unknown schedule 'cosin'; the nearest is 'cosine'", "" },
        { "--schedule=onecycle(steps=9)",
          "schedule onecycle changes the momentum, but sgd has none; add cycle_momentum=0 to the "
          "schedule, or choose another optimizer",
          "" },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char *argv[] = { "psd", row[i].flag, row[i].with };
        psd_options_destroy(&options);
        cr_assert_not_null(options = psd_options_new(PSD_PROGRAM_SERVER));
        cr_expect_lt(psd_options_load(options, *row[i].with ? 3 : 2, argv, &err), 0);
        cr_expect(strstr(psd_options_complaints(options), row[i].why) || strstr(err.text, row[i].why), "%s: %s", err.text,
                  psd_options_complaints(options));
    }
}

Test(settings, values_at_a_bound_contradict_nothing)
{
    static const char *const fine[] = { "--codec-push=topk(0.5)",
                                        "--codec-pull=int8",
                                        "--workers-min=3 --workers-want=3",
                                        "--workers-min=3 --workers-want=0",
                                        "--servers=3 --server-index=2",
                                        "--listen=tcp://127.0.0.1:0 --status-listen=127.0.0.1:0",
                                        "--listen=ipc:///tmp/psd:7471 --status-listen=127.0.0.1:7471",
                                        "--listen=tcp://127.0.0.1:7471 --status-listen=none",
                                        "--schedule=onecycle(steps=9,cycle_momentum=0)",
                                        "--optimizer=dlion --codec-push=sign --sync-accumulate=1" };
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
        read_first(fine[i]);
}
