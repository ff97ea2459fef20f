#include <criterion/criterion.h>
#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "deploy/psdctl/compare/comparison.h"
#include "deploy/psdctl/compare/settings.h"
#include "deploy/psdctl/run/command.h"
#include "deploy/psdctl/run/place.h"

/* The files of runs are written by hand here: two workers, one server, 20 steps of half a second, evaluations at steps 10 and 20. */

static char directory[64];
static psd_options_t *options;
static psd_comparison_t comparison;
static psd_err_t err;

static void begin(const char *rules, const char *more)
{
    char flag[600], last[200];
    snprintf(flag, sizeof flag, "--compare-optimizers=%s", rules);
    snprintf(last, sizeof last, "%s", more);
    psd_comparison_clear(&comparison);
    psd_options_destroy(&options);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(psd_options_load(options, 5, (char *[]){ "psdctl", flag, "--workers-min=2", "--seed=7", last, NULL }, &err),
                 PSD_OK, "%s", err.text);
}

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/psd-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void teardown(void)
{
    psd_comparison_clear(&comparison);
    psd_options_destroy(&options);
    cr_assert_eq(psd_place_remove(directory, &err), PSD_OK);
}

TestSuite(comparison, .init = setup, .fini = teardown, .timeout = 600);

static char path[300];

static FILE *create(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file, "%s", path);
    return file;
}

/* The differences between runs; 0 and NULL stand for the usual. */
typedef struct fake {
    double accuracy;
    const char *outcome, *other_outcome; /* of workers 0 and 1 */
    const char *initial, *other_initial, *order;
    const char *metric; /* "": no test set */
    bool is_auc;        /* instead of accuracy */
    bool infinite;      /* the losses of the second half are */
    bool lost;          /* only the summary's last loss is not a number */
    bool falls;         /* the losses do, by 1 a step */
    bool blind;         /* the last metric is not a number */
    double held;        /* the metric on held-out rows */
    double chance;      /* the score of a constant prediction, on 10000 rows */
    double held_chance; /* the same on held-out rows */
    double epochs;      /* 0: 2 */
    unsigned received;  /* bytes by the server; 0: 1000 */
    unsigned steps;
} fake_t;

static void write_worker(const fake_t *fake, const char *rule, unsigned worker)
{
    const unsigned steps = fake->steps ? fake->steps : 20;
    const char *outcome = worker == 0 ? fake->outcome : fake->other_outcome;
    const char *initial = worker == 0 || !fake->other_initial ? fake->initial : fake->other_initial;
    const bool looks = worker == 0 && !fake->metric;
    FILE *out = create(worker == 0 ? "run/summary.json" : "run/summary-1.json");
    fprintf(out,
            "{\"schema\": \"psd.summary/1\", \"outcome\": \"%s\", \"steps\": %u, \"epochs\": %g, "
            "\"job_samples\": %u, "
            "\"begun_ts\": 1000.0, \"wall_time_s\": 4.0, \"last_loss\": %s, \"metric\": \"%s\", "
            "\"holdout_metric\": %s%.6g, \"holdout_chance_metric\": %s%.6g, \"holdout_rows\": 10000, "
            "\"chance_metric\": %s%.6g, \"test_rows\": 10000, \"last_metric\": %s%.6g, "
            "\"best_metric\": %.6g, \"sha256_initial\": %s%s%s, \"sha256_order\": \"%s%u\", \"optimizer\": "
            "\"%s\"}\n",
            outcome ? outcome : "done", steps, fake->epochs > 0 ? fake->epochs : 2, 100 * steps,
            fake->infinite || fake->lost ? "null" : "0.5", fake->is_auc ? "auc" : "accuracy",
            fake->held > 0 ? "" : "null, \"y\": ", fake->held, fake->held_chance > 0 ? "" : "null, \"h\": ", fake->held_chance,
            fake->chance > 0 ? "" : "null, \"z\": ", fake->chance, looks && !fake->blind ? "" : "null, \"x\": ", fake->accuracy,
            fake->accuracy + 0.01, initial && !*initial ? "null" : "\"", initial ? initial : "1111",
            initial && !*initial ? "" : "\"", fake->order ? fake->order : "2222", worker, rule);
    fclose(out);
    out = create(worker == 0 ? "run/metrics.jsonl" : "run/metrics-1.jsonl");
    for (unsigned step = 1; step <= steps; step++) {
        /* Worker 1 has three times the samples: the mean loss of step s is (s + 3 (s + 4)) / 4 = s + 3. */
        if (fake->infinite && step > steps / 2)
            fprintf(out, "{\"ts\": %.1f, \"step\": %u, \"train/samples\": 10, \"train/loss\": null}\n", 1000 + step / 2.0, step);
        else
            fprintf(out, "{\"ts\": %.1f, \"step\": %u, \"train/samples\": %u, \"train/loss\": %u}\n", 1000 + step / 2.0, step,
                    worker == 0 ? 10 : 30,
                    fake->falls   ? 100 - step
                    : worker == 0 ? step
                                  : step + 4);
        if (looks && step % 10 == 0)
            fprintf(out, "{\"ts\": %.1f, \"step\": %u, \"val/loss\": 1.0, \"val/%s\": %.6g}\n", 1000 + step / 2.0, step,
                    fake->is_auc ? "auc" : "accuracy", step == 10 ? fake->accuracy / 2 : fake->accuracy);
    }
    fclose(out);
}

/* The directory of a run with these outcomes; the next call overwrites it. */
static const char *run_that(const fake_t *fake, const char *rule)
{
    static char run[128];
    snprintf(run, sizeof run, "%s/run/logs", directory);
    cr_assert_eq(psd_place_make(run, &err), PSD_OK);
    write_worker(fake, rule, 0);
    write_worker(fake, rule, 1);
    FILE *log = create("run/logs/server-0.log");
    fprintf(
        log,
        "ts=1 level=info id=server.start\nts=2 level=info id=server.exit code=0 reason=\"x\" received_bytes=%u sent_bytes=500\n",
        fake->received ? fake->received : 1000);
    fclose(log);
    snprintf(run, sizeof run, "%s/run", directory);
    return run;
}

static int take(size_t c, unsigned s, const fake_t *fake)
{
    return psd_comparison_take(&comparison, c, s, run_that(fake, comparison.contender[c].name), &err);
}

static void take_all(const double *accuracy)
{
    for (size_t c = 0; c < comparison.n; c++)
        for (unsigned s = 0; s < comparison.n_seeds; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = accuracy[c * comparison.n_seeds + s] }), PSD_OK, "%s", err.text);
}

static char *printed;

static const char *print(void)
{
    size_t n;
    free(printed);
    FILE *out = open_memstream(&printed, &n);
    psd_comparison_print(&comparison, out);
    fclose(out);
    return printed;
}

Test(comparison, an_outcome_is_what_all_workers_and_servers_left)
{
    psd_outcome_t o;
    cr_assert_eq(psd_outcome_read(&o, run_that(&(fake_t){ .accuracy = 0.9 }, "sgd(lr=1)"), 2, 1, &err), PSD_OK, "%s", err.text);
    cr_expect(o.read && !o.diverged && o.final == 0.9 && o.best == 0.91);
    cr_expect(o.steps == 20 && o.seconds == 4 && o.samples_per_s == 500 && o.moved_bytes == 1500);
    cr_expect_str_eq(o.order, "22220 22221");
    cr_assert_eq(o.losses.n, 20);
    cr_expect_eq(o.losses.point[4].value, 5 + 3, "weighted by samples");
    cr_expect_float_eq(o.loss, (19 + 20) / 2.0 + 3, 1e-12, "the last tenth: steps 19 and 20");
    cr_assert_eq(o.looks.n, 2);
    cr_expect(o.looks.point[1].step == 20 && o.looks.point[1].seconds == 10 && o.looks.point[1].value == 0.9);
    cr_expect_eq(psd_outcome_reached(&o, 0.4)->step, 10);
    cr_expect_eq(psd_outcome_reached(&o, 0.5)->step, 20);
    cr_expect_null(psd_outcome_reached(&o, 0.95));
    psd_outcome_clear(&o);
}

Test(comparison, a_worker_without_rows_in_a_step_adds_nothing_to_its_loss)
{
    psd_outcome_t o;
    const char *run = run_that(&(fake_t){ .metric = "" }, "sgd(lr=1)");
    char path[200];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    FILE *file = fopen(path, "a");
    cr_assert_not_null(file);
    fputs("{\"ts\": 1010, \"step\": 20, \"train/samples\": 0, \"train/loss\": null}\n"
          "{\"ts\": 1010, \"step\": 20, \"lr\": 0.5}\n",
          file);
    fclose(file);
    cr_assert_eq(psd_outcome_read(&o, run, 2, 1, &err), PSD_OK, "%s", err.text);
    cr_expect_float_eq(o.loss, (19 + 20) / 2.0 + 3, 1e-12);
    psd_outcome_clear(&o);
}

Test(comparison, a_last_metric_that_is_no_number_is_divergence_though_the_losses_are)
{
    psd_outcome_t o;
    cr_assert_eq(psd_outcome_read(&o, run_that(&(fake_t){ .accuracy = 0.9, .blind = true }, "sgd(lr=1)"), 2, 1, &err), PSD_OK);
    cr_expect(o.diverged && !o.undefined && !o.untrained && isfinite(o.loss));
    psd_outcome_clear(&o);
}

Test(comparison, held_out_rows_whose_chance_is_unknown_leave_the_judgement_to_the_test_set)
{
    psd_outcome_t o;
    const fake_t fake = { .accuracy = 0.5, .held = 0.6, .chance = 0.9 };
    cr_assert_eq(psd_outcome_read(&o, run_that(&fake, "sgd(lr=1)"), 2, 1, &err), PSD_OK, "%s", err.text);
    cr_expect(o.untrained && !o.diverged);
    psd_outcome_clear(&o);
}

Test(comparison, of_few_steps_the_last_one_is_the_last_tenth)
{
    psd_outcome_t o;
    cr_assert_eq(psd_outcome_read(&o, run_that(&(fake_t){ .metric = "", .steps = 5 }, "sgd(lr=1)"), 2, 1, &err), PSD_OK);
    cr_expect_eq(o.loss, 5 + 3);
    psd_outcome_clear(&o);
}

Test(comparison, the_traffic_is_that_of_all_servers)
{
    psd_outcome_t o;
    const char *run = run_that(&(fake_t){ .accuracy = 0.9 }, "sgd(lr=1)");
    cr_expect_eq(psd_outcome_read(&o, run, 2, 2, &err), PSD_EDATA);
    cr_expect_str_eq(err.text, "server 1 did not report its traffic");
    psd_outcome_clear(&o);
    FILE *log = create("run/logs/server-1.log");
    fputs("ts=2 level=info id=server.exit code=0 reason=\"x\" received_bytes=70 sent_bytes=7\n", log);
    fclose(log);
    cr_assert_eq(psd_outcome_read(&o, run, 2, 2, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(o.moved_bytes, 1577);
    psd_outcome_clear(&o);
}

Test(comparison, without_a_test_set_the_training_loss_is_the_metric)
{
    psd_outcome_t o;
    cr_assert_eq(psd_outcome_read(&o, run_that(&(fake_t){ .metric = "" }, "sgd(lr=1)"), 2, 1, &err), PSD_OK, "%s", err.text);
    cr_expect_str_eq(o.metric, "loss");
    cr_expect(o.final == 22.5 && o.best == 4.5, "the tenths are of steps 19 and 20, and of 1 and 2");
    cr_expect_eq(psd_outcome_reached(&o, 4)->step, 1, "the loss of step 1 is 4");
    psd_outcome_clear(&o);
}

static const char *verb = "compare";

/* Hold the directory for a job of 20 steps with this flag. */
static int hold(char *flag)
{
    char run_dir[100], place[PSD_PLACE_DIRECTORY];
    int lock = -1;
    snprintf(run_dir, sizeof run_dir, "--run-dir=%s/all", directory);
    psd_options_destroy(&options);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(psd_options_load(options, 4, (char *[]){ "psdctl", "--stop-steps=20", run_dir, flag, NULL }, &err), PSD_OK, "%s",
                 err.text);
    const int rc = psd_settings_hold(options, verb, place, &lock, &err);
    close(lock);
    return rc;
}

/* Whether the run of a rule gets this word. */
static bool is_given(const psd_command_t *command, const char *word)
{
    for (size_t i = 0; i < command->n; i++)
        if (!strcmp(command->word[i], word))
            return true;
    return false;
}

Test(comparison, each_run_is_on_its_own_and_as_long_as_the_others)
{
    static const char *const words[] = { "run",
                                         "--optimizer=adam(lr=0.1)",
                                         "--seed=9",
                                         "--workers-min=2",
                                         "--workers-want=2",
                                         "--stop-steps=11",
                                         "--stop-epochs=1.5",
                                         "--stop-target=0",
                                         "--data-validation=0.1",
                                         "--save=",
                                         "--trace=",
                                         "--checkpoint-dir=",
                                         "--round-timeout=0s",
                                         "--restarts=0",
                                         "--listen=tcp://127.0.0.1:0",
                                         "--status-listen=127.0.0.1:0",
                                         "--log-level=info",
                                         "--log-format=logfmt",
                                         "--progress=log",
                                         "--run-dir=here",
                                         "--data-batch=64" };
    psd_command_t command;
    psd_options_destroy(&options);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(psd_options_load(options, 11,
                                  (char *[]){ "psdctl", "--stop-steps=21", "--stop-epochs=3", "--stop-target=0.9", "--save=x.npz",
                                              "--checkpoint-dir=c", "--round-timeout=2s", "--restarts=4",
                                              "--listen=tcp://127.0.0.1:7", "--log-format=json", "--data-batch=64", NULL },
                                  &err),
                 PSD_OK, "%s", err.text);
    psd_command_run(&command, &(psd_command_run_t){ .options = options,
                                                    .psdctl = "psdctl",
                                                    .run_dir = "here",
                                                    .rule = "adam(lr=0.1)",
                                                    .seed = 9,
                                                    .n_workers = 2,
                                                    .validation = 0.1,
                                                    .share = 0.5 });
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        cr_expect(is_given(&command, words[i]), "%s", words[i]);
    cr_expect(!is_given(&command, "--stop-target=0.9") && !is_given(&command, "--eval-every=0"));
    psd_command_clear(&command);
}

Test(comparison, a_directory_takes_more_rules_seeds_and_targets_of_its_job_and_no_other_job)
{
    static char *const same[] = {
        "--compare-optimizers=adam", "--compare-seeds=9",    "--compare-target=0.5", "--stop-target=0.5",      "--seed=4",
        "--progress=none",           "--log-level=warn",     "--restarts=1",         "--listen=tcp://[::1]:0", "--save=x.npz",
        "--join-timeout=9s",         "--status-listen=none", "--checkpoint-every=9s"
    };
    static char *const others[] = { "--data-batch=7",
                                    "--workers-min=3",
                                    "--servers=2",
                                    "--sync-mode=asp",
                                    "--stop-epochs=1",
                                    "--data-validation=0.25",
                                    "--schedule=cosine(steps=5)",
                                    "--eval-metric=logloss",
                                    "--clip-norm=1" };
    cr_assert_eq(hold("--servers=1"), PSD_OK, "%s", err.text);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        cr_expect_eq(hold(same[i]), PSD_OK, "%s: %s", same[i], err.text);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        cr_expect_eq(hold(others[i]), PSD_ECONFIG, "%s", others[i]);
    cr_expect_not_null(strstr(err.text, "holds runs of another job; set run.dir to another, or change the setting back: "
                                        "clip.norm was \"0\" and is \"1\""),
                       "%s", err.text);
}

Test(comparison, a_setting_that_differs_is_shown_whole_with_the_cure_before_it)
{
    cr_assert_eq(hold("--schedule=linear(steps=123456, warmup=1234, warmup_start=0.0125, end_factor=0.00390625)"), PSD_OK, "%s",
                 err.text);
    cr_expect_eq(hold("--schedule=linear(steps=123456, warmup=1234, warmup_start=0.0125, end_factor=0.001953125)"), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "; set run.dir to another, or change the setting back: schedule was \"linear("), "%s",
                       err.text);
    cr_expect_not_null(strstr(err.text, "end_factor=0.00390625"), "%s", err.text);
    cr_expect_not_null(strstr(err.text, "end_factor=0.001953125"), "%s", err.text);
}

Test(comparison, a_directory_of_compare_is_refused_to_tune_whose_report_would_replace_the_other)
{
    cr_assert_eq(hold("--servers=1"), PSD_OK, "%s", err.text);
    verb = "tune";
    cr_expect_eq(hold("--servers=1"), PSD_ECONFIG);
    verb = "compare";
    cr_expect_not_null(strstr(err.text, "/all is the directory of a psdctl compare; set run.dir to another"), "%s", err.text);
}

Test(comparison, an_incomplete_run_has_no_outcome)
{
    static const struct {
        fake_t fake;
        const char *without, *sentence;
    } broken[] = {
        { { .other_outcome = "stopped before finishing" }, NULL, "worker 1 ended with: stopped before finishing" },
        { { .other_initial = "3333" }, NULL, "worker 1 started with other weights than worker 0" },
        { { .initial = "" }, NULL, "worker 0 joined after the first step" },
        { { .accuracy = 0.5 }, "summary-1.json", "worker 1 left no summary" },
        { { .accuracy = 0.5 }, "metrics.jsonl", "worker 0 left no metrics" },
        { { .accuracy = 0.5 }, "logs/server-0.log", "server 0 did not report its traffic" },
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        psd_outcome_t o;
        const char *run = run_that(&broken[i].fake, "sgd(lr=1)");
        if (broken[i].without) {
            snprintf(path, sizeof path, "%s/%s", run, broken[i].without);
            cr_assert_eq(unlink(path), 0);
        }
        cr_expect_eq(psd_outcome_read(&o, run, 2, 1, &err), PSD_EDATA);
        cr_expect_str_eq(err.text, broken[i].sentence);
        psd_outcome_clear(&o);
    }
}

Test(comparison, a_run_that_continued_without_worker_0_is_not_compared)
{
    psd_outcome_t o;
    const char *run = run_that(&(fake_t){ .accuracy = 0.5 }, "sgd(lr=1)");
    FILE *out = create("run/summary-0.json"); /* summary.json now belongs to worker 1 */
    fputs("{\"outcome\": \"killed\", \"worker\": 0, \"sha256_initial\": \"1111\", \"sha256_order\": null}", out);
    fclose(out);
    cr_expect_eq(psd_outcome_read(&o, run, 2, 1, &err), PSD_EDATA);
    cr_expect_str_eq(err.text, "worker 0 ended with: killed");
    psd_outcome_clear(&o);
    out = create("run/summary-0.json"); /* in asp it may end all the same */
    fputs("{\"outcome\": \"done\", \"worker\": 0, \"steps\": 7, \"sha256_initial\": \"1111\", \"sha256_order\": \"44\"}", out);
    fclose(out);
    cr_expect_eq(psd_outcome_read(&o, run, 2, 1, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(o.steps, 20, "those of the run");
    cr_expect_str_eq(o.order, "44 22221");
    psd_outcome_clear(&o);
}

Test(comparison, rules_are_named_once_and_swept_by_factors)
{
    begin("sgd(lr=0.1); adam", "--compare-lr-sweep=0.3,1,10");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(comparison.n, 6);
    cr_expect_str_eq(comparison.contender[0].label, "sgd(lr=0.03)");
    cr_expect_str_eq(comparison.contender[1].label, "sgd(lr=0.1)");
    cr_expect_str_eq(comparison.contender[5].label, "adam(lr=0.01)");
    begin("sgd(lr=0.1); adam; sgd(lr=1e-1, momentum=0)", "--compare-seeds=2");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "--compare-optimizers: rule 3 of compare.optimizers: sgd(lr=0.1) is the same as rule 1; "
                               "leave one out");
    begin("sgd; adma(lr=1)", "--compare-seeds=2");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "rule 2 of compare.optimizers: adma(lr=1): "), "%s", err.text);
    begin("sgd; adam(lr=1", "--compare-seeds=2");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "put a rule with a comma in quotes"), "%s", err.text);
    begin("sgd; adam", "--sync-mode=asp");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text,
                     "in asp, 2 workers get other rows in each run, because none waits for the others, so rules cannot be "
                     "compared; set workers.min to 1, or sync.mode to bsp");
    begin("", "--compare-seeds=2");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "nothing to compare"), "%s", err.text);
}

Test(comparison, a_rate_that_a_sweep_does_not_change_is_refused_with_its_factors)
{
    begin("sgd(lr=0)", "--compare-lr-sweep=0.1,1");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text,
                     "--compare-optimizers: rule 1 of compare.optimizers: sgd(lr=0) has one learning rate at two factors of "
                     "compare.lr_sweep, 0.1 and 1; give it a rate above 0");
    begin("sgd(lr=1)", "--compare-lr-sweep=1,2,1");
    cr_expect_eq(psd_comparison_begin(&comparison, options, &err), PSD_ECONFIG);
    cr_expect_not_null(
        strstr(err.text, "sgd(lr=1) has one learning rate at two factors of compare.lr_sweep, 1 and 1; leave one out"), "%s",
        err.text);
}

Test(comparison, the_best_mean_is_first_and_no_winner_is_named_where_seeds_overlap)
{
    begin("sgd; adam; lion; radam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.90, 0.92, 0.95, 0.97, 0.91, 0.96, 0.5, 0.6 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.verdict, "No winner: over 2 seeds, the accuracy of adam(lr=0.001) overlaps with that of "
                                         "lion(lr=0.0001).");
    cr_expect_null(comparison.winner);
    const char *text = print();
    cr_expect_not_null(strstr(text, "\n    1  adam(lr=0.001)   0.9600 ±0.0141  "), "%s", text);
    cr_expect_not_null(strstr(text, "\n  1-2  lion(lr=0.0001)  0.9350 ±0.0354  "), "%s", text);
    cr_expect_not_null(strstr(text, "\n    2  sgd(lr=0.01)     0.9100 ±0.0141  "), "%s", text);
    cr_expect_not_null(strstr(text, "\n    3  radam(lr=0.001)  0.5500 ±0.0707  "), "%s", text);
    cr_expect_not_null(strstr(text, "steps to 0.9 "), "the worst seed of sgd, who was named first: %s", text);
    cr_expect_not_null(strstr(text, " not "), "radam does not get there: %s", text);
}

Test(comparison, a_winner_is_named_where_all_its_seeds_are_better_with_the_odds_of_chance)
{
    begin("sgd; adam", "--compare-seeds=3");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.90, 0.92, 0.91, 0.95, 0.97, 0.93 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.verdict, "adam(lr=0.001) is ahead: its worst seed is better than the best one of sgd(lr=0.01). "
                                         "Between two equal rules, this would happen by chance in 1 of 10 comparisons.");
    cr_assert_not_null(comparison.winner);
    cr_expect_str_eq(comparison.winner->label, "adam(lr=0.001)");
}

Test(comparison, the_odds_with_many_seeds_are_a_whole_number)
{
    begin("sgd; adam", "--compare-seeds=7");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.91, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.96 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_not_null(strstr(comparison.verdict, "by chance in 1 of 1716 comparisons."), "%s", comparison.verdict);
}

Test(comparison, rules_that_look_the_same_in_the_table_are_not_told_apart)
{
    begin("sgd; adam; lion", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.91231, 0.91232, 0.91233, 0.91234, 0.9124, 0.9125 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.contender[0].label, "lion(lr=0.0001)");
    cr_expect(comparison.contender[0].groups.last == 1, "0.9124 is not 0.9123");
    cr_expect(comparison.contender[1].groups.first == 2 && comparison.contender[2].groups.first == 2);
}

Test(comparison, the_target_is_given_or_where_the_worst_seed_of_the_first_rule_ends_with_its_best_rate)
{
    const double accuracy[] = { 0.90, 0.92, 0.50, 0.60, 0.95, 0.97, 0.5, 0.6 };
    begin("sgd; adam", "--compare-lr-sweep=0.1,1"); /* three seeds are the default: the third has the values of the first */
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (size_t c = 0; c < 4; c++)
        for (unsigned s = 0; s < 3; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = accuracy[2 * c + s % 2] }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_eq(comparison.target, 0.90, "sgd(lr=0.001), for sgd(lr=0.01) is worse");
    cr_expect(comparison.target_is_ours);
    begin("sgd; adam", "--stop-target=0.4");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(1, 0, &(fake_t){ .accuracy = 0.9 }), PSD_OK);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect(comparison.target == 0.4 && !comparison.target_is_ours);
    cr_expect_eq(comparison.contender[0].steps_to_target.mean, 10, "0.45 at step 10");
    begin("sgd; adam", "--compare-target=0.91");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(1, 0, &(fake_t){ .accuracy = 0.9 }), PSD_OK);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_eq(comparison.contender[0].steps_to_target.n, 0, "0.9 is not 0.91");
}

Test(comparison, of_many_rules_that_overlap_with_the_first_four_are_named_and_the_others_counted)
{
    for (int n = 5; n <= 6; n++) {
        begin(n == 5 ? "sgd; adam; lion; radam; nadam" : "sgd; adam; lion; radam; nadam; rmsprop", "--compare-seeds=2");
        cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
        take_all((double[]){ 0.90, 0.99, 0.90, 0.98, 0.90, 0.97, 0.90, 0.96, 0.90, 0.95, 0.90, 0.94 });
        cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
        char words[160];
        snprintf(words, sizeof words, "overlaps with that of adam(lr=0.001), lion(lr=0.0001), radam(lr=0.001), nadam(lr=0.002)%s.",
                 n == 5 ? "" : " and 1 more");
        cr_expect_not_null(strstr(comparison.verdict, words), "%s", comparison.verdict);
    }
}

Test(comparison, the_table_says_how_much_was_moved_in_how_many_epochs_and_marks_only_rates_that_were_chosen)
{
    begin("sgd; adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(
            take(i / 2, i % 2, &(fake_t){ .accuracy = 0.5 + i / 100.0, .held = 0.5, .epochs = 1, .received = 499 + i % 2 }), PSD_OK,
            "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    const char *text = print();
    cr_expect_not_null(strstr(text, ", 20 steps in 1 epoch\n"), "%s", text);
    cr_expect_not_null(strstr(text, "  1.00 kB  "), "999.5 B: %s", text);
    cr_expect_not_null(strstr(text, "held out"), "%s", text);
    cr_expect_null(strstr(text, " *"), "there was one rate: %s", text);
}

Test(comparison, runs_that_patience_ended_at_different_steps_are_described_by_the_shortest_and_the_longest)
{
    begin("sgd; adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(take(i / 2, i % 2, &(fake_t){ .accuracy = 0.5, .steps = 20 + 10 * i, .epochs = 1 + i / 2.0 }), PSD_OK, "%s",
                     err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    const char *text = print();
    cr_expect_not_null(strstr(text, ", 20 to 50 steps in 1 to 2.5 epochs"), "%s", text);
}

Test(comparison, one_seed_names_no_winner)
{
    begin("sgd; adam", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.90, 0.99 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_not_null(strstr(comparison.verdict, "No winner: one seed cannot rule out chance"), "%s", comparison.verdict);
    cr_expect_not_null(strstr(print(), "    -  adam(lr=0.001)  0.9900  "), "%s", printed);
}

Test(comparison, small_losses_are_first)
{
    begin("sgd; adam", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(0, 0, &(fake_t){ .metric = "", .steps = 20, .falls = true }), PSD_OK, "%s", err.text);
    cr_assert_eq(take(1, 0, &(fake_t){ .metric = "", .steps = 40, .falls = true }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.metric, "loss");
    cr_expect_str_eq(comparison.contender[0].label, "adam(lr=0.001)", "its last losses are 60 to 63, not 80 and 81");
}

Test(comparison, a_diverged_rule_has_a_row_that_says_so_and_is_last)
{
    begin("sgd; adam; lion", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    const fake_t good = { .accuracy = 0.5 }, infinite = { .accuracy = 0.9, .infinite = true },
                 gave_up = { .accuracy = 0.9,
                             .outcome = "stopped before finishing",
                             .other_outcome = "job failed",
                             .steps = 15,
                             .order = "44" };
    const fake_t *fakes[] = { &infinite, &gave_up, &good, &infinite, &good, &good };
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(take(i / 2, i % 2, fakes[i]), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.contender[0].label, "lion(lr=0.0001)");
    const char *text = print();
    cr_expect_not_null(strstr(text, "-  adam(lr=0.001)   0.5000, 1 of 2 diverged  "), "%s", text);
    cr_expect_not_null(strstr(text, "-  sgd(lr=0.01)     diverged                 "), "%s", text);
    cr_expect_not_null(strstr(text, "No winner: only 1 of 3 succeeded with every seed."), "%s", text);
}

Test(comparison, a_last_loss_of_nan_is_divergence)
{
    begin("sgd; adam", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(0, 0, &(fake_t){ .accuracy = 0.9, .lost = true }), PSD_OK, "%s", err.text);
    cr_assert_eq(take(1, 0, &(fake_t){ .accuracy = 0.5 }), PSD_OK, "%s", err.text);
    cr_expect(comparison.contender[0].outcome[0].diverged);
    cr_expect(!comparison.contender[1].outcome[0].diverged);
}

Test(comparison, runs_of_a_seed_that_did_not_begin_alike_are_not_compared)
{
    begin("sgd; adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(0, 0, &(fake_t){ .accuracy = 0.5 }), PSD_OK);
    cr_assert_eq(take(1, 1, &(fake_t){ .accuracy = 0.5, .initial = "3333", .order = "44" }), PSD_OK,
                 "another seed is another matter");
    cr_assert_eq(take(1, 0, &(fake_t){ .accuracy = 0.5, .initial = "3333" }), PSD_EDIVERGED);
    cr_expect_not_null(strstr(err.text, "with seed 7, adam(lr=0.001) started with other weights than sgd(lr=0.01): "), "%s",
                       err.text);
    cr_assert_eq(take(1, 0, &(fake_t){ .accuracy = 0.5, .order = "44" }), PSD_EDIVERGED);
    cr_expect_not_null(strstr(err.text, "with seed 7, adam(lr=0.001) was given other rows, or in another order, than sgd"), "%s",
                       err.text);
    cr_assert_eq(take(1, 0, &(fake_t){ .accuracy = 0.5 }), PSD_OK);
    cr_assert_eq(psd_comparison_take(&comparison, 0, 1, run_that(&(fake_t){ .accuracy = 0.5 }, "lion(lr=1)"), &err), PSD_EDATA);
    cr_expect_str_eq(err.text, "it was trained with lion(lr=1)");
}

Test(comparison, the_name_of_a_run_depends_only_on_its_rule_and_seed)
{
    char alone[PSD_CELL], among[PSD_CELL];
    begin("lookahead(adam)", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    psd_comparison_run_name(&comparison, 0, 0, alone);
    begin("sgd; lookahead(adam(lr=1e-3), alpha=0.5)", "--compare-seeds=3");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    psd_comparison_run_name(&comparison, 1, 0, among);
    cr_expect_str_eq(alone, among);
    cr_expect(!strncmp(alone, "lookahead-adam-", 15) && strstr(alone, "-seed7"), "%s", alone);
    psd_comparison_run_name(&comparison, 1, 2, among);
    cr_expect_not_null(strstr(among, "-seed9"));
}

Test(comparison, json_has_every_run_and_unknown_values_are_null)
{
    begin("sgd; adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(0, 0, &(fake_t){ .accuracy = 0.5 }), PSD_OK);
    cr_assert_eq(take(1, 0, &(fake_t){ .infinite = true }), PSD_OK);
    cr_assert_eq(take(1, 1, &(fake_t){ .infinite = true }), PSD_OK);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    json_t *json = psd_comparison_json(&comparison), *rules = json_object_get(json, "optimizers");
    cr_assert_not_null(json);
    cr_expect_str_eq(json_string_value(json_object_get(json, "schema")), "psd.compare/1");
    cr_expect(json_is_null(json_object_get(json, "winner")));
    cr_assert_eq(json_array_size(rules), 2);
    const json_t *sgd = json_array_get(rules, 0), *adam = json_array_get(rules, 1), *runs = json_object_get(sgd, "runs"),
                 *first = json_array_get(runs, 0);
    cr_expect_str_eq(json_string_value(json_object_get(sgd, "optimizer")), "sgd(lr=0.01)");
    cr_assert_eq(json_array_size(runs), 2);
    cr_expect_eq(json_integer_value(json_object_get(first, "seed")), 7);
    cr_expect_str_eq(json_string_value(json_object_get(first, "outcome")), "done");
    cr_expect_eq(json_array_size(json_object_get(json_object_get(first, "losses"), "value")), 20);
    static const struct {
        const char *key;
        double value;
    } figures[] = { { "final", 0.5 },        { "best", 0.51 },          { "train_loss", 22.5 }, /* of steps 19 and 20 */
                    { "steps", 20 },         { "epochs", 2 },           { "seconds", 4 },           { "samples_per_s", 500 },
                    { "moved_bytes", 1500 }, { "steps_to_target", 20 }, { "seconds_to_target", 10 } };
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        cr_expect_float_eq(json_number_value(json_object_get(first, figures[i].key)), figures[i].value, 1e-9, "%s is %g",
                           figures[i].key, json_number_value(json_object_get(first, figures[i].key)));
    const json_t *looks = json_object_get(first, "metrics");
    cr_expect_eq(json_number_value(json_array_get(json_object_get(looks, "step"), 1)), 20);
    cr_expect_eq(json_number_value(json_array_get(json_object_get(looks, "seconds"), 1)), 10);
    cr_expect_eq(json_number_value(json_array_get(json_object_get(looks, "value"), 1)), 0.5);
    cr_expect_eq(json_array_size(json_object_get(first, "sha256_order")), 2, "one of each worker");
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(runs, 1), "outcome")), "failed");
    cr_expect_eq(json_integer_value(json_object_get(adam, "seeds_diverged")), 2);
    cr_expect_eq(json_integer_value(json_object_get(adam, "state_bytes_per_parameter")), 8);
    cr_expect(json_is_null(json_object_get(json_object_get(adam, "final"), "mean")));
    cr_expect_eq(json_array_size(json_object_get(sgd, "groups")), 0);
    json_decref(json);
}

/* The learning rate that convergence.tsv has for an mlp and the optimizer of that name; NaN: none. */
static double golden_lr(const char *name)
{
    char line[1024], model[16], optimizer[48];
    double lr, found = NAN;
    FILE *file = fopen(PSD_SOURCE_DIR "/tests/golden/convergence.tsv", "r");
    cr_assert_not_null(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%15s %47s %lf", model, optimizer, &lr) == 3 && !strcmp(model, "mlp") && !strcmp(optimizer, name))
            found = lr;
    fclose(file);
    return found;
}

static void begin_file(const char *name)
{
    snprintf(path, sizeof path, "%s/deploy/examples/%s", PSD_SOURCE_DIR, name);
    psd_comparison_clear(&comparison);
    psd_options_destroy(&options);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(psd_options_load(options, 2, (char *[]){ "psdctl", path, NULL }, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK, "%s", err.text);
}

Test(comparison, the_example_has_the_optimizers_of_the_articles_with_the_learning_rates_of_the_reference)
{
    static const char *const wanted[] = { "sgd",     "momentum",      "nesterov",       "adagrad",        "adadelta",
                                          "rmsprop", "adam",          "nadam",          "adamw",          "radam",
                                          "lion",    "lookahead-sgd", "lookahead-adam", "lookahead-radam" };
    char name[64];
    size_t known = 0, found = 0;
    begin_file("compare-mnist.yaml");
    cr_expect_geq(comparison.n, 14);
    for (size_t c = 0; c < comparison.n; c++) {
        const psd_rule_t *rule = &comparison.contender[c].rule;
        snprintf(name, sizeof name, "%s%s", rule->lookahead ? "lookahead-" : "", rule->opt->name);
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            found += !strcmp(wanted[i], name);
        if (isnan(golden_lr(name)))
            continue;
        known++;
        cr_expect_eq(psd_rule_lr(rule), golden_lr(name), "%s", name);
    }
    cr_expect_eq(found, sizeof wanted / sizeof *wanted);
    cr_expect_geq(known, 14);
    begin_file("compare-glyphs.yaml");
}

/* ---- the page ---- */

/* Whether every element is closed, in order; void elements are skipped. */
static void expect_balanced(const char *page)
{
    static const char *const empty[] = { "meta", "!doctype", NULL };
    char stack[32][16], name[16];
    size_t depth = 0;
    for (const char *at = strchr(page, '<'); at; at = strchr(at + 1, '<')) {
        const bool closes = at[1] == '/';
        size_t n = 0;
        for (const char *p = at + 1 + closes; (isalnum((unsigned char)*p) || *p == '!') && n < 15; p++)
            name[n++] = *p;
        name[n] = '\0';
        const char *end = strchr(at, '>');
        cr_assert(n && end, "a stray <: %.40s", at);
        bool has_none = end[-1] == '/';
        for (size_t i = 0; empty[i]; i++)
            has_none |= !strcmp(name, empty[i]);
        if (has_none)
            continue;
        if (!closes) {
            cr_assert_lt(depth, 32);
            strcpy(stack[depth++], name);
        } else {
            cr_assert(depth && !strcmp(stack[depth - 1], name), "</%s> closes <%s>", name, depth ? stack[depth - 1] : "");
            depth--;
        }
        if (!closes && (!strcmp(name, "script") || !strcmp(name, "style"))) {
            char close[24];
            snprintf(close, sizeof close, "</%s", name);
            at = strstr(at, close) - 1;
        }
    }
    cr_assert_eq(depth, 0);
}

static char *page(void)
{
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    cr_assert(psd_comparison_page(&comparison, NULL, out));
    fclose(out);
    return text;
}

/* The data that the page's script draws. */
static json_t *charts(void)
{
    static const char begin[] = "id=\"data\">";
    char *text = page(), *at = strstr(text, begin);
    cr_assert_not_null(at);
    at += sizeof begin - 1;
    json_t *json = json_loadb(at, (size_t)(strstr(at, "</script>") - at), 0, NULL);
    cr_assert_not_null(json);
    free(text);
    return json;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

Test(comparison, the_page_is_well_formed_and_self_contained_and_escapes_texts_from_files)
{
    begin("sgd; adam; lion; radam", "--data-train=idx:<b>&\"x\".gz");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.90, 0.92, 0.91, 0.95, 0.97, 0.96, 0.91, 0.96, 0.9, 0.5, 0.6, 0.55 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    char *text = page();
    expect_balanced(text);
    cr_expect_not_null(strstr(text, "idx:&lt;b&gt;&amp;&quot;x&quot;.gz"));
    cr_expect_eq(count(text, "d=\"M0 4H22\""), 4 + 4, "in the keys and the table");
    cr_expect_eq(count(text, "<tr"), 5);
    static const char *const outside[] = { "http:", "https:", "src=", "href=", "url(http", "@import", "fetch(" };
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        cr_expect_null(strstr(text, outside[i]), "the page has %s", outside[i]);
    cr_expect_null(strstr(text, "nan"));
    cr_expect_null(strstr(text, "inf"));
    cr_expect_not_null(strstr(text, "prefers-color-scheme"));
    free(text);
}

Test(comparison, the_page_has_the_order_of_the_rows_of_the_longest_run)
{
    begin("sgd; adam; lion", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    static const unsigned steps[] = { 20, 40, 10 };
    for (size_t c = 0; c < 3; c++)
        cr_assert_eq(take(c, 0, &(fake_t){ .accuracy = 0.9, .steps = steps[c], .order = (const char *[]){ "aa", "bb", "cc" }[c] }),
                     PSD_OK);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    char *text = page();
    cr_expect_not_null(strstr(text,
                              "<p>seed 7: weights before the first step <code>1111</code>; rows and labels in the order of the "
                              "steps, by worker <code>bb0 bb1</code></p>"));
    free(text);
}

Test(comparison, how_many_seeds_have_reached_the_target_is_said_unless_all_have)
{
    begin("sgd; adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.8, 0.9, 0.7, 0.9 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_not_null(strstr(print(), "20 (1 of 2)"), "adam's other seed ends below 0.8: %s", printed);
    cr_expect_null(strstr(printed, "(2 of 2)"), "%s", printed);
}

Test(comparison, a_single_look_is_a_point)
{
    begin("sgd; adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (size_t c = 0; c < 2; c++)
        for (unsigned s = 0; s < 2; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = 0.9 + s / 100.0, .steps = 10 }), PSD_OK);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    json_t *json = charts(), *look = json_array_get(json_object_get(json, "looks"), 1);
    cr_expect_eq(json_array_size(json_object_get(look, "m")), 1);
    cr_expect_eq(json_array_size(json_object_get(look, "lo")), 1, "and how far the seeds lie apart");
    json_decref(json);
}

Test(comparison, the_page_stays_small_with_many_rules_and_shows_the_best_of_each_sweep)
{
    char rules[500] = "";
    for (int i = 0; i < 20; i++)
        snprintf(rules + strlen(rules), sizeof rules - strlen(rules), "%sadam(lr=0.%03d)", i ? ";" : "", i + 1);
    begin(rules, "--compare-lr-sweep=0.12377,0.34113,1,3.17331,9.77717");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(comparison.n, 100);
    for (size_t c = 0; c < comparison.n; c++)
        for (unsigned s = 0; s < comparison.n_seeds; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = 0.5 + (double)(c * 7 % 100) / 300 + s / 1000.0, .steps = 1000 }),
                         PSD_OK);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    char *text = page();
    cr_expect_leq(strlen(text), 300 * 1024);
    expect_balanced(text);
    cr_expect_eq(count(text, " class=\"out\" aria-pressed=\"false\""), 80, "four of five are hidden");
    free(text);
}

/* The contender with that label, after the comparison. */
static const psd_contender_t *find(const char *label)
{
    for (size_t c = 0; c < comparison.n; c++)
        if (!strcmp(comparison.contender[c].label, label))
            return &comparison.contender[c];
    cr_assert_fail("there is no %s", label);
    return NULL;
}

Test(comparison, a_rule_that_does_no_better_than_one_constant_answer_has_failed_to_train)
{
    begin("sgd; adam; lion", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    const fake_t good = { .accuracy = 0.9, .chance = 0.1 }, constant = { .accuracy = 0.1, .chance = 0.1 },
                 lucky = { .accuracy = 0.1085, .chance = 0.1 }, little = { .accuracy = 0.12, .chance = 0.1 };
    const fake_t *fakes[] = { &constant, &lucky, &good, &constant, &good, &little };
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(take(i / 2, i % 2, fakes[i]), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.contender[2].label, "sgd(lr=0.01)");
    cr_expect_str_eq(psd_contender_failure(find("sgd(lr=0.01)")), "failed to train");
    cr_expect_null(psd_contender_failure(find("adam(lr=0.001)")));
    cr_expect_eq(find("adam(lr=0.001)")->final.mean, 0.9, "the seed that failed does not count");
    const char *text = print();
    cr_expect_not_null(strstr(text, "-  sgd(lr=0.01)     failed to train"), "%s", text);
    cr_expect_not_null(strstr(text, "0.9000, 1 of 2 failed to train"), "%s", text);
    json_t *whole = psd_comparison_json(&comparison), *of = json_array_get(json_object_get(whole, "optimizers"), 2);
    cr_expect_eq(json_integer_value(json_object_get(of, "seeds_untrained")), 2);
    cr_expect_eq(json_integer_value(json_object_get(of, "seeds_diverged")), 0);
    cr_expect_eq(json_integer_value(json_object_get(of, "seeds_read")), 2);
    json_decref(whole);
    json_t *json = charts(), *rules = json_object_get(json, "rules");
    cr_expect(json_is_null(json_object_get(json_array_get(rules, 0), "failure")));
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(rules, 2), "failure")), "failed to train");
    json_decref(json);
}

Test(comparison, where_rows_were_held_out_they_and_not_the_test_set_say_which_rule_has_failed_to_train)
{
    begin("sgd; adam", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    const fake_t good = { .accuracy = 0.05, .chance = 0.1, .held = 0.9, .held_chance = 0.1 },
                 constant = { .accuracy = 0.9, .chance = 0.1, .held = 0.1085, .held_chance = 0.1 };
    cr_assert_eq(take(0, 0, &constant), PSD_OK, "%s", err.text);
    cr_assert_eq(take(1, 0, &good), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(psd_contender_failure(find("sgd(lr=0.01)")), "failed to train");
    cr_expect_null(psd_contender_failure(find("adam(lr=0.001)")));
}

Test(comparison, a_seed_whose_held_out_rows_leave_the_metric_undefined_does_not_count_and_nothing_is_chosen_on_the_test_set)
{
    char chosen[PSD_CELL];
    begin("sgd", "--compare-lr-sweep=0.1,1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (size_t c = 0; c < 2; c++)
        for (unsigned s = 0; s < 3; s++)
            cr_assert_eq(take(c, s,
                              &(fake_t){ .is_auc = true,
                                         .chance = 0.5,
                                         .held_chance = 0.5,
                                         .accuracy = c ? 0.8 : 0.7 + s / 10.0,
                                         .held = c   ? 0
                                                 : s ? 0.9
                                                     : 0 }),
                         PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(psd_contender_failure(find("sgd(lr=0.01)")), "undefined");
    cr_expect_eq(find("sgd(lr=0.001)")->final.n, 2);
    cr_expect(find("sgd(lr=0.001)")->is_best_of_sweep);
    cr_expect_str_eq(psd_comparison_chosen_on(&comparison, chosen), "the 10 % of the training rows that were held out");
    const char *text = print();
    cr_expect_not_null(strstr(text, ", 1 of 3 undefined"), "%s", text);
    cr_expect_not_null(strstr(text, "  undefined  "), "%s", text);
    cr_expect_null(strstr(text, "diverged"), "%s", text);
}

Test(comparison, of_rates_that_all_failed_to_train_the_one_that_came_closest_is_the_best)
{
    begin("sgd(lr=0.1)", "--compare-lr-sweep=0.1,1,10"); /* three seeds */
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    const fake_t far = { .accuracy = 0.1, .chance = 0.2, .held = 0.12, .held_chance = 0.2 },
                 close = { .accuracy = 0.1, .chance = 0.2, .held = 0.15, .held_chance = 0.2 };
    for (size_t i = 0; i < 9; i++)
        cr_assert_eq(take(i / 3, i % 3, i / 3 == 1 ? &close : &far), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    for (size_t c = 0; c < 3; c++)
        cr_expect_str_eq(psd_contender_failure(&comparison.contender[c]), "failed to train");
    cr_expect_str_eq(comparison.contender[0].label, "sgd(lr=0.1)");
    cr_expect_eq(psd_comparison_place(&comparison, 0), 1);
}

/* As when a run is too short for Lookahead to have moved the slow weights. */
Test(comparison, of_rates_that_came_equally_far_those_near_the_rules_own_are_better)
{
    begin("sgd(lr=0.1)", "--compare-lr-sweep=0.1,1,10");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    const fake_t equal = { .accuracy = 0.1, .chance = 0.2, .held = 0.12, .held_chance = 0.2 };
    for (size_t i = 0; i < 9; i++)
        cr_assert_eq(take(i / 3, i % 3, &equal), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    psd_comparison_sort_by_choice(&comparison);
    static const double rates[] = { 0.1, 0.01, 1 };
    for (size_t c = 0; c < 3; c++) {
        cr_expect_float_eq(psd_rule_lr(&comparison.contender[c].rule), rates[c], 1e-9);
        cr_expect_eq(psd_comparison_place(&comparison, c), c + 1);
    }
}

Test(comparison, without_a_test_set_a_loss_that_did_not_fall_is_a_failure)
{
    begin("sgd; adam", "--compare-seeds=1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_assert_eq(take(0, 0, &(fake_t){ .metric = "" }), PSD_OK, "%s", err.text);
    cr_assert_eq(take(1, 0, &(fake_t){ .metric = "", .falls = true }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(psd_contender_failure(find("sgd(lr=0.01)")), "failed to train");
    cr_expect_null(psd_contender_failure(find("adam(lr=0.001)")));
    cr_expect_not_null(strstr(print(), ", ranked by training loss because there is no test set\n"), "%s", printed);
    begin("sgd", "--compare-lr-sweep=0.1,1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    comparison.validation = 0; /* as with --data-validation=0 */
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(take(i / 3, i % 3, &(fake_t){ .metric = "", .falls = true }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_not_null(
        strstr(print(), ", learning rate chosen on the training loss that it is reported by: there is no test set\n"), "%s",
        printed);
}

Test(comparison, of_two_rates_with_failed_seeds_the_one_with_fewer_is_the_best_and_the_verdict_says_that_some_failed)
{
    begin("adam", "--compare-lr-sweep=0.1,1"); /* three seeds */
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    const fake_t good = { .accuracy = 0.9 }, better = { .accuracy = 0.95 }, diverged = { .infinite = true };
    const fake_t *fakes[] = { &good, &good, &diverged, &better, &diverged, &diverged };
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(take(i / 3, i % 3, fakes[i]), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.verdict,
                     "One rule only: adam(lr=0.0001) does best of 2 learning rates, with accuracy 0.9000; of its "
                     "seeds, 1 of 3 diverged. Name another rule to compare it with.");
}

Test(comparison, a_single_rule_is_not_reported_as_ahead)
{
    begin("adam", "--compare-seeds=2");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.90, 0.92 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.verdict,
                     "One rule only: adam(lr=0.001) ends with accuracy 0.9100. Name another rule to compare it with.");
    begin("adam", "--compare-lr-sweep=0.1,1,10");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    take_all((double[]){ 0.90, 0.92, 0.91, 0.95, 0.97, 0.96, 0.8, 0.81, 0.82 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_null(comparison.winner);
    cr_expect_str_eq(comparison.verdict, "One rule only: adam(lr=0.001) does best of 3 learning rates, with accuracy 0.9600. "
                                         "Name another rule to compare it with.");
    cr_expect_str_eq(comparison.advice, "");
}

/* A rule's rates are neighbours; the highest is best on the test set, the middle one on the held-out rows. */
Test(comparison, a_learning_rate_is_chosen_by_held_out_rows_and_the_edge_of_the_grid_is_reported)
{
    const double accuracy[] = { 0.90, 0.91, 0.92, 0.80, 0.85, 0.95 }, held[] = { 0.85, 0.93, 0.90, 0.80, 0.85, 0.95 };
    begin("sgd; adam", "--compare-lr-sweep=0.1,1,10");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_expect_eq(comparison.validation, 0.1, "the default in a sweep");
    for (size_t c = 0; c < 6; c++)
        for (unsigned s = 0; s < 3; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = accuracy[c], .held = held[c] }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_eq(comparison.n_chosen, 2);
    cr_expect(find("sgd(lr=0.01)")->is_best_of_sweep && !find("sgd(lr=0.1)")->is_best_of_sweep);
    cr_expect(!find("sgd(lr=0.01)")->is_at_edge && find("adam(lr=0.01)")->is_at_edge);
    cr_expect_str_eq(comparison.advice, "adam(lr=0.01): best at the edge of the grid: widen it.");
    begin("sgd; adam", "--compare-lr-sweep=0.1,1,10");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (size_t c = 0; c < 6; c++)
        for (unsigned s = 0; s < 3; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = 0.5, .held = held[5 - c] }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(comparison.advice, "sgd(lr=0.001): best at the edge of the grid: widen it.");
    begin("sgd; adam", "--compare-lr-sweep=0.1,1,10");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    for (size_t c = 0; c < 6; c++)
        for (unsigned s = 0; s < 3; s++)
            cr_assert_eq(take(c, s, &(fake_t){ .accuracy = accuracy[c], .held = held[c] }), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    const char *text = print();
    cr_expect_not_null(strstr(text, "chosen on the 10 % of the training rows that were held out"), "%s", text);
    cr_expect_not_null(strstr(text, "0.9300 ±0.0000 *"), "%s", text);
    cr_expect_not_null(strstr(text, "widen it"), "%s", text);
    char swept[PSD_CELL], plain[PSD_CELL];
    psd_comparison_run_name(&comparison, 1, 0, swept);
    begin("sgd(lr=0.1)", "--data-validation=0");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    cr_expect_eq(comparison.validation, 0);
    psd_comparison_run_name(&comparison, 0, 0, plain);
    cr_expect_str_neq(plain, swept, "it was not given the same rows");
}

Test(comparison, the_page_states_if_a_learning_rate_was_chosen_on_the_test_set)
{
    char chosen[PSD_CELL];
    begin("sgd", "--compare-lr-sweep=0.1,1");
    cr_assert_eq(psd_comparison_begin(&comparison, options, &err), PSD_OK);
    comparison.validation = 0; /* as with --data-validation=0 */
    take_all((double[]){ 0.90, 0.92, 0.91, 0.95, 0.97, 0.96 });
    cr_assert_eq(psd_comparison_judge(&comparison, &err), PSD_OK);
    cr_expect_str_eq(psd_comparison_chosen_on(&comparison, chosen), "the test set that it is reported on, which flatters it");
    cr_expect_not_null(strstr(print(), chosen), "%s", printed);
}
