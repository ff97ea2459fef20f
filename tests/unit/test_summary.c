#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "deploy/psdctl/run/place.h"
#include "deploy/psdctl/run/summary.h"
#include "tests/support/kept.h"

/* The files of a run's workers are written by hand here. */

static char directory[64];
static psd_err_t err;
static psd_worker_end_t end[3];
static int worker;
static json_t *summary;

static void write_file(const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static void leave(const char *name, const char *outcome, unsigned id, unsigned rank, unsigned steps, double begun_ts,
                  double ended_ts)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"outcome\": \"%s\", \"worker\": %u, \"rank\": %u, \"steps\": %u, \"rounds\": %u, \"epochs\": %g, \"samples\": %u, "
             "\"job_samples\": %u, \"begun_ts\": %g, \"ended_ts\": %g, \"wall_time_s\": %g}",
             outcome, id, rank, steps, steps, steps / 10., steps * 5, steps * 10, begun_ts, ended_ts, ended_ts - begun_ts);
    write_file(name, text);
}

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/psd-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    for (int i = 0; i < 3; i++)
        end[i] = (psd_worker_end_t){ .outcome = "done", .line = "", .lives = 1 };
}

static void teardown(void)
{
    json_decref(summary);
    cr_assert_eq(psd_place_remove(directory, &err), PSD_OK);
}

TestSuite(summary, .init = setup, .fini = teardown, .timeout = 600);

static void settle(unsigned n)
{
    json_decref(summary);
    summary = psd_summary_settle(directory, 100, end, n, &worker, &err);
    cr_assert_eq(err.code, PSD_OK, "%s", err.text);
}

/* A number of the run's summary, which is the same in the file and in the result. */
static double number(const char *key)
{
    char path[PATH_MAX];
    psd_summary_path(path, directory, 0);
    json_t *file = json_load_file(path, 0, NULL);
    cr_assert(json_equal(file, summary), "summary.json differs from the result");
    json_decref(file);
    const json_t *value = json_object_get(summary, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void expect_own(unsigned id, const char *outcome, double steps)
{
    json_t *own = psd_summary_of(directory, id);
    cr_expect_str_eq(json_string_value(json_object_get(own, "outcome")), outcome);
    cr_expect_eq(json_number_value(json_object_get(own, "worker")), id);
    cr_expect_eq(json_number_value(json_object_get(own, "steps")), steps);
    json_decref(own);
}

Test(summary, if_two_workers_are_done_the_summary_is_that_of_rank_0)
{
    leave("summary.json", "done", 0, 0, 50, 200, 250);
    leave("summary-1.json", "done", 1, 1, 50, 200, 251);
    settle(2);
    cr_expect_eq(worker, 0);
    cr_expect_eq(number("worker"), 0);
    cr_expect_eq(number("wall_time_s"), 50);
    expect_own(1, "done", 50);
}

Test(summary, of_a_run_that_failed_it_is_that_of_the_worker_that_failed)
{
    leave("summary.json", "done", 0, 0, 20, 100, 110);
    leave("summary-1.json", "input or output failed", 1, 1, 20, 100, 111);
    end[1].failed = true;
    settle(2);
    cr_expect_eq(worker, 1);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "outcome")), "input or output failed");
}

Test(summary, a_killed_workers_summary_says_so_and_the_run_takes_another)
{
    leave("summary.json", "running", 0, 0, 0, 200, 200);
    leave("summary-1.json", "done", 1, 0, 50, 200, 250);
    write_file("metrics.jsonl", "{\"ts\": 90, \"step\": 7000}\n" /* of an earlier run */
                                "{\"ts\": 210, \"step\": 12, \"epoch\": 1.2, \"samples\": 120, \"train/loss\": 0.5}\n"
                                "{\"ts\": 211, \"step\": 12, \"epoch\": 1.2, \"samples\": 120, \"val/loss\": 0.7}\n");
    end[0].outcome = psd_summary_outcome(0, 9);
    settle(2);
    cr_expect_eq(worker, 1);
    cr_expect_eq(number("steps"), 50);
    cr_expect_eq(number("worker"), 1);
    expect_own(0, "killed", 12);
    json_t *own = psd_summary_of(directory, 0);
    cr_expect_eq(json_number_value(json_object_get(own, "last_loss")), 0.5);
    cr_expect_eq(json_number_value(json_object_get(own, "job_samples")), 120);
    cr_expect_eq(json_number_value(json_object_get(own, "ended_ts")), 211);
    cr_expect_eq(json_number_value(json_object_get(own, "wall_time_s")), 11, "since this worker began, not the run");
    cr_expect_eq(json_number_value(json_object_get(own, "epochs")), 1.2);
    cr_expect(json_is_null(json_object_get(own, "rounds")), "nobody knows");
    json_decref(own);
}

Test(summary, each_killed_worker_is_described_by_its_own_metrics)
{
    leave("summary.json", "running", 0, 0, 0, 200, 200);
    leave("summary-1.json", "running", 1, 1, 0, 200, 200);
    write_file("metrics.jsonl", "{\"ts\": 210, \"step\": 12, \"epoch\": 1.2, \"samples\": 120, \"train/loss\": 0.5}\n");
    write_file("metrics-1.jsonl", "{\"ts\": 220, \"step\": 15, \"epoch\": 1.5, \"samples\": 150, \"train/loss\": 0.25}\n");
    end[0].outcome = end[1].outcome = psd_summary_outcome(0, 9);
    settle(2);
    expect_own(0, "killed", 12);
    expect_own(1, "killed", 15);
}

Test(summary, a_worker_that_was_given_up_is_not_the_one_to_be_shown)
{
    leave("summary.json", "given up by the servers, or replaced", 0, 0, 20, 200, 210);
    leave("summary-1.json", "done", 1, 0, 50, 200, 250);
    settle(2);
    cr_expect_eq(number("worker"), 1);
    expect_own(0, "given up by the servers, or replaced", 20);
}

Test(summary, where_workers_end_one_after_another_it_is_that_of_the_last_to_save)
{
    leave("summary.json", "done", 0, 0, 50, 200, 240);
    leave("summary-1.json", "done", 1, 0, 90, 200, 260);
    leave("summary-2.json", "done", 2, 1, 95, 200, 270); /* it saw no worker leave */
    settle(3);
    cr_expect_eq(number("worker"), 1);
    cr_expect_eq(number("steps"), 90);
    cr_expect_eq(number("job_samples"), 950, "those of the job, whichever worker counted them last");
    cr_expect_eq(number("epochs"), 9.5);
    expect_own(0, "done", 50);
}

Test(summary, if_no_worker_is_done_the_summary_has_only_known_values)
{
    leave("summary.json", "running", 0, 0, 0, 200, 200);
    leave("summary-1.json", "running", 1, 1, 0, 200, 200);
    end[0].outcome = end[1].outcome = psd_summary_outcome(74, 0);
    end[0].line = "failed run=00000000000000ab steps=40 epochs=4.5 samples=333 seconds=7.25";
    settle(2);
    cr_expect_eq(worker, 0);
    cr_expect_str_eq(json_string_value(json_object_get(summary, "outcome")), "input or output failed");
    cr_expect_eq(number("steps"), 40);
    cr_expect_eq(number("samples"), 333);
    cr_expect_eq(number("wall_time_s"), 7.25);
    cr_expect(isnan(number("rounds")));
    expect_own(1, "input or output failed", 0);
    cr_expect_eq(json_number_value(json_object_get(summary, "epochs")), 4.5);
}

Test(summary, the_time_of_several_lives_is_that_from_the_first)
{
    leave("summary.json", "done", 0, 0, 50, 230, 250);
    leave("summary-1.json", "done", 1, 1, 50, 200, 250);
    end[0].lives = 2;
    end[0].begun_ts = 200;
    settle(2);
    cr_expect_eq(number("wall_time_s"), 50);
    cr_expect_eq(number("begun_ts"), 200);
    cr_expect_eq(number("lives"), 2);
}

Test(summary, without_workers_summaries_the_run_has_none)
{
    settle(2);
    cr_expect_null(summary);
    cr_expect_eq(worker, -1);
    leave("summary-1.json", "running", 1, 1, 3, 200, 200);
    end[1].outcome = "killed";
    settle(2);
    cr_expect_eq(worker, 1, "one that was there is better than nothing");
}

Test(summary, exits_have_the_words_of_the_workers_own_summaries)
{
    cr_expect_str_eq(psd_summary_outcome(0, 0), "done");
    cr_expect_str_eq(psd_summary_outcome(65, 0), "bad data");
    cr_expect_str_eq(psd_summary_outcome(69, 0), "peer unavailable");
    cr_expect_str_eq(psd_summary_outcome(75, 0), "stopped before finishing");
    cr_expect_str_eq(psd_summary_outcome(0, 9), "killed");
}

/* ---- all of it, as tests/golden/summary.txt has it ---- */

/* What a worker writes, each number another. */
static void leave_all(const char *name, const char *outcome, unsigned id, unsigned rank, double begun_ts, double ended_ts)
{
    char text[2048];
    snprintf(
        text, sizeof text,
        "{\"schema\": \"psd.summary/1\", \"job\": \"mnist\", \"outcome\": \"%s\", \"run\": \"00000000000000ab\", \"worker\": %u, "
        "\"rank\": %u, \"world\": 4, \"steps\": %u, \"rounds\": %u, \"skipped\": %u, \"epochs\": %.2f, \"samples\": %u, "
        "\"job_samples\": %u, \"begun_ts\": %.2f, \"ended_ts\": %.2f, \"wall_time_s\": %.2f, \"samples_per_s\": %.1f, "
        "\"last_loss\": 0.%u5, \"metric\": \"accuracy\", \"last_metric\": 0.8%u, \"best_metric\": 0.9%u, \"sha256_initial\": "
        "\"a%u\", "
        "\"sha256_order\": \"b%u\", \"sha256\": \"c%u\", \"sha256_slow\": null, \"optimizer\": \"adam(lr=0.01)\"}\n",
        outcome, id, rank, 50 + id, 60 + id, 3 + id, 7.25 + id, 800 + id, 3000 + id, begun_ts, ended_ts, ended_ts - begun_ts,
        123.5 + id, id, id, id, id, id, id);
    write_file(name, text);
}

static void keep_file(FILE *out, const char *name)
{
    char path[200], text[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r");
    fprintf(out, "== %s%s\n", name, file ? "" : ", which is not there");
    while (file && fgets(text, sizeof text, file))
        fputs(text, out);
    if (file)
        fclose(file);
}

static void keep_summaries(FILE *out, const char *title, unsigned n)
{
    static const char *const names[] = { "summary.json", "summary-0.json", "summary-1.json", "summary-2.json" };
    settle(n);
    fprintf(out, "==== %s: that of worker %d\n", title, worker);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        keep_file(out, names[i]);
    fprintf(out, "begun at %g, %g, %g\n", psd_summary_begun(directory, 0), psd_summary_begun(directory, 1),
            psd_summary_begun(directory, 2));
}

Test(summary, those_of_workers_with_all_ends_are_as_kept)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    leave_all("summary.json", "running", 0, 0, 101.5, 101.5);
    leave_all("summary-1.json", "running", 1, 1, 102.25, 102.25);
    leave_all("summary-2.json", "done", 2, 2, 103.75, 190.5);
    write_file("metrics.jsonl", "{\"ts\": 99, \"step\": 7000, \"epoch\": 70, \"samples\": 70000, \"train/loss\": 7}\n"
                                "{\"ts\": 120, \"step\": 21, \"epoch\": 2.5, \"samples\": 1210, \"train/loss\": 0.75}\n"
                                "not a line\n"
                                "{\"ts\": 122, \"step\": 22, \"epoch\": 2.75, \"samples\": 1220, \"train/loss\": 0.5}\n"
                                "{\"ts\": 123, \"step\": 22, \"epoch\": 2.75, \"samples\": 1220, \"val/loss\": 0.25}\n");
    end[0].outcome = psd_summary_outcome(0, 9);
    end[1].outcome = psd_summary_outcome(74, 0);
    end[1].line = "failed run=00000000000000ab steps=40 epochs=4.5 samples=333 seconds=7.25";
    end[2].lives = 3;
    end[2].begun_ts = 95.5;
    keep_summaries(out, "one was killed, one failed, one is done after three lives", 3);
    cr_assert_eq(psd_place_remove(directory, &err), PSD_OK); /* another run */
    cr_assert_eq(mkdir(directory, 0777), 0);
    leave_all("summary.json", "done", 0, 1, 201.5, 290.25);
    leave_all("summary-1.json", "done", 1, 0, 202.25, 291.5);
    leave_all("summary-2.json", "diverged", 2, 2, 203.75, 280.5);
    end[2] = (psd_worker_end_t){ .outcome = "diverged", .line = "", .lives = 1 };
    keep_summaries(out, "one diverged", 3);
    end[2].failed = true;
    keep_summaries(out, "and that was the end of the run", 3);
    fclose(out);
    expect_kept("tests/golden/report/summary.txt", text);
    free(text);
}
