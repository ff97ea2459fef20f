#include <criterion/criterion.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "worker/record.h"

static char dir[] = "/tmp/test_record_XXXXXX";
static psd_record_t *record;
static psd_err_t err;

static void setup(void) { cr_assert_not_null(mkdtemp(dir)); }
static void teardown(void)
{
    char command[64];
    psd_record_destroy(&record);
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_assert_eq(system(command), 0);
}
TestSuite(record, .init = setup, .fini = teardown, .timeout = 600);

/* The file that matches `pattern` below the directory; its bytes are in `bytes`. Returns the number of bytes, -1 when there is no
 * file. */
static unsigned char bytes[1 << 16];

static long read_file(const char *pattern)
{
    char path[256];
    glob_t found;
    snprintf(path, sizeof path, "%s/%s", dir, pattern);
    int rc = glob(path, 0, NULL, &found);
    FILE *file = rc == 0 && found.gl_pathc == 1 ? fopen(found.gl_pathv[0], "r") : NULL;
    size_t n = file ? fread(bytes, 1, sizeof bytes - 1, file) : 0;
    bytes[n] = '\0';
    if (file)
        fclose(file);
    globfree(&found);
    return file ? (long)n : -1;
}

static void write_two(const char *also, uint32_t worker)
{
    cr_assert_not_null(record = psd_record_new(dir, worker, also, &err), "%s", err.text);
    psd_record_line(record, 1.5, (const psd_measure_t[]){ { "step", 1 }, { "train/loss", 0.25 }, { "lr", NAN } }, 3);
    psd_record_line(record, 2.5, (const psd_measure_t[]){ { "step", 300 }, { "val/loss", 0.5 }, { "val/accuracy", 1 } }, 3);
    cr_assert_eq(psd_record_summarise(record, "{}", &err), PSD_OK);
    psd_record_destroy(&record);
}

Test(record, evaluations_are_in_the_table_at_once_and_what_is_not_finite_is_null)
{
    cr_assert_not_null(record = psd_record_new(dir, 0, "csv", &err), "%s", err.text);
    psd_record_line(record, 1.5, (const psd_measure_t[]){ { "step", 1 }, { "train/loss", INFINITY }, { "lr", -INFINITY } }, 3);
    cr_expect_gt(read_file("metrics.jsonl"), 0);
    cr_expect_str_eq((const char *)bytes, "{\"ts\": 1.5, \"step\": 1, \"train/loss\": null, \"lr\": null}\n");
    psd_record_line(record, 2.5, (const psd_measure_t[]){ { "step", 2 }, { "epoch", 1 }, { "samples", 9 }, { "val/loss", 0.5 } },
                    4);
    cr_expect_gt(read_file("metrics.csv"), 0);
    cr_expect_not_null(strstr((const char *)bytes, "\n2.5,2,1,9,"), "readers see it: %s", bytes);
    psd_record_destroy(&record);
}

Test(record, a_table_has_the_same_columns_in_each_line_and_one_head)
{
    write_two("csv", 0);
    write_two("csv", 0); /* a second start continues */
    cr_assert_gt(read_file("metrics.csv"), 0);
    cr_assert_str_eq((char *)bytes, "ts,step,epoch,samples,train/samples,train/skipped,train/loss,lr,val/loss,val/accuracy,val/"
                                    "mse,holdout/loss,holdout/accuracy,holdout/mse,val/auc,val/logloss,val/mae,val/r2,holdout/auc,"
                                    "holdout/logloss,holdout/mae,holdout/r2,train/accuracy,train/auc,train/logloss,train/mse,"
                                    "train/mae,train/r2\n"
                                    "1.5,1,,,,,0.25,,,,,,,,,,,,,,,,,,,,,\n2.5,300,,,,,,,0.5,1,,,,,,,,,,,,,,,,,,\n"
                                    "1.5,1,,,,,0.25,,,,,,,,,,,,,,,,,,,,,\n2.5,300,,,,,,,0.5,1,,,,,,,,,,,,,,,,,,\n");
    cr_assert_eq(read_file("tb/*"), -1);
}

/* ---- a reader of records that shares nothing with the writer ---- */

/* CRC-32C, bit by bit: the polynomial 0x1edc6f41, reflected. */
static uint32_t slow_crc(const unsigned char *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < 8 * n; i++) {
        crc ^= i % 8 ? 0 : p[i / 8];
        crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint64_t little(const unsigned char *p, unsigned n) { return n ? p[0] | little(p + 1, n - 1) << 8 : 0; }

static uint32_t unmask(uint32_t masked)
{
    uint32_t x = masked - 0xa282ead8u;
    return x >> 17 | x << 15;
}

/* Print a message's fields as NUMBER:VALUE; of the fields listed in `deep`, the message inside. */
static void dissect(const unsigned char *p, const unsigned char *end, char *out, const char *deep)
{
    while (p < end) {
        unsigned number = *p >> 3, type = *p++ & 7, shift = 0;
        uint64_t x = 0;
        float f;
        double d;
        cr_assert(type == 0 || type == 1 || type == 2 || type == 5);
        for (bool more = type == 0 || type == 2; more; shift += 7, more = p[-1] & 0x80)
            x |= (uint64_t)(*p++ & 0x7f) << shift;
        char *at = out + strlen(out);
        if (type == 0)
            sprintf(at, "%u:%lu ", number, (unsigned long)x);
        if (type == 1)
            memcpy(&d, p, 8), p += 8, sprintf(at, "%u:%g ", number, d);
        if (type == 5)
            memcpy(&f, p, 4), p += 4, sprintf(at, "%u:%g ", number, (double)f);
        if (type == 2 && *deep && number == (unsigned)(*deep - '0')) {
            sprintf(at, "%u:{", number);
            dissect(p, p + x, out, deep + 1);
            strcat(out, "} ");
        } else if (type == 2) {
            sprintf(at, "%u:%.*s ", number, (int)x, (const char *)p);
        }
        p += type == 2 ? x : 0;
    }
    cr_assert_eq(p, end);
}

/* Of wanted[0], NULL, the first record: the time of the start, and the version. */
static void expect_records(const char *const *wanted, size_t n_wanted)
{
    long n = read_file("tb/events.out.tfevents.*.0");
    cr_assert_gt(n, 0);
    const unsigned char *p = bytes;
    size_t records = 0;
    for (; p < bytes + n; records++) {
        uint64_t length = little(p, 8);
        char text[1024] = "";
        cr_assert_lt(records, n_wanted);
        cr_assert_eq(unmask((uint32_t)little(p + 8, 4)), slow_crc(p, 8));
        cr_assert_eq(unmask((uint32_t)little(p + 12 + length, 4)), slow_crc(p + 12, length));
        dissect(p + 12, p + 12 + length, text, "51");
        if (wanted[records])
            cr_assert_str_eq(text, wanted[records]);
        else
            cr_assert_not_null(strstr(text, " 3:brain.Event:2 "), "%s", text);
        p += 16 + length;
    }
    cr_assert_eq(records, n_wanted);
    cr_assert_eq(read_file("metrics.csv"), -1);
}

Test(record, tensorboard_reads_each_number_under_its_name)
{
    static const char *const wanted[] = {
        NULL,
        "1:1.5 2:1 5:{1:{1:train/loss 2:0.25 } 1:{1:lr 2:nan } } ",
        "1:2.5 2:300 5:{1:{1:val/loss 2:0.5 } 1:{1:val/accuracy 2:1 } } ",
    };
    write_two("tensorboard", 0);
    expect_records(wanted, 3);
}

Test(record, numbers_of_events_are_for_tensorboard_alone)
{
    static const char *const wanted[] = { NULL, "1:3.5 2:70000 5:{1:{1:update/w 2:0.5 } 1:{1:update/b 2:-2 } } ",
                                          "1:4 2:70001 5:{1:{1:update/b 2:8 } } " };
    cr_assert_not_null(record = psd_record_new(dir, 0, "tensorboard", &err), "%s", err.text);
    cr_assert(psd_record_has_events(record));
    psd_record_event(record, 3.5, (const psd_measure_t[]){ { "step", 70000 }, { "update/w", 0.5 }, { "update/b", -2 } }, 3);
    psd_record_event(record, 4, (const psd_measure_t[]){ { "step", 70001 }, { "update/b", 8 } }, 2);
    cr_assert_eq(psd_record_summarise(record, "{}", &err), PSD_OK);
    expect_records(wanted, 3);
    cr_expect_eq(read_file("metrics.jsonl"), 0);
}

Test(record, an_event_file_is_named_by_its_machine_and_process_and_is_whole_when_it_is_closed)
{
    char host[256] = "", pattern[400];
    cr_assert_not_null(record = psd_record_new(dir, 0, "tensorboard", &err), "%s", err.text);
    psd_record_line(record, 1.5, (const psd_measure_t[]){ { "step", 1 }, { "train/loss", 0.25 } }, 2);
    psd_record_destroy(&record); /* without a summary, as after a failure */
    gethostname(host, sizeof host - 1);
    snprintf(pattern, sizeof pattern, "tb/events.out.tfevents.1[0-9]*.%s.%d.0", host, (int)getpid());
    const long n = read_file(pattern);
    cr_assert_gt(n, 0, "there is no %s", pattern);
    cr_expect_not_null(memmem(bytes, (size_t)n, "train/loss", 10));
}

Test(record, only_the_first_worker_writes_them_and_none_writes_none)
{
    static const char *const also[] = { "both", "csv", "tensorboard" };
    for (size_t i = 0; i < 3; i++) {
        write_two(also[i], 1);
        cr_assert_eq(read_file("metrics.csv"), -1);
        cr_assert_eq(read_file("tb/*"), -1);
    }
    write_two("none", 0);
    cr_assert_eq(read_file("metrics.csv"), -1);
    cr_assert_eq(read_file("tb/*"), -1);
    cr_assert_gt(read_file("metrics.jsonl"), 0);
    cr_assert_gt(read_file("metrics-1.jsonl"), 0);
    write_two("both", 0);
    cr_assert_gt(read_file("metrics.csv"), 0);
    cr_assert_gt(read_file("tb/*"), 0);
}

static void limit_files(rlim_t most)
{
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ most, RLIM_INFINITY }), 0);
}

static int summarise_after_a_full_disk(void)
{
    limit_files(10);
    psd_record_line(record, 1.5, (const psd_measure_t[]){ { "step", 1 }, { "train/loss", 0.25 } }, 2);
    limit_files(RLIM_INFINITY); /* there is room again */
    psd_record_line(record, 2.5, (const psd_measure_t[]){ { "step", 2 }, { "val/loss", 0.25 } }, 2);
    return psd_record_summarise(record, "{}", &err);
}

Test(record, a_line_without_room_is_counted_at_the_end_even_if_later_ones_had_room)
{
    cr_assert_not_null(record = psd_record_new(dir, 0, "none", &err), "%s", err.text);
    cr_assert_eq(summarise_after_a_full_disk(), PSD_EIO);
    cr_expect_not_null(strstr(err.text, "/summary.json are incomplete: File too large"), "%s", err.text);
}

Test(record, events_without_room_are_told_at_the_end_and_copies_with_room_are_not)
{
    static const char *const also[] = { "tensorboard", "csv" };
    for (size_t i = 0; i < 2; i++) {
        errno = 0;
        cr_assert_not_null(record = psd_record_new(dir, 0, also[i], &err), "%s", err.text);
        psd_record_line(record, 1.5, (const psd_measure_t[]){ { "step", 1 }, { "train/loss", 0.25 } }, 2);
        limit_files(1000); /* room for metrics.jsonl and the summary */
        for (int k = 0; k < 10 && i == 0; k++)
            psd_record_event(record, 2.5,
                             (const psd_measure_t[]){ { "step", 1 },
                                                      { "a_name_that_is_rather_long_and_takes_room/fc1.weight", 1 },
                                                      { "another_name_that_is_long_and_takes_room/fc1.weight", 2 } },
                             3);
        const int rc = psd_record_summarise(record, "{}", &err);
        limit_files(RLIM_INFINITY);
        cr_expect_eq(rc, i == 0 ? PSD_EIO : PSD_OK, "%s", also[i]);
        cr_expect(i || strstr(err.text, "/summary.json are incomplete: File too large"), "%s", err.text);
        psd_record_destroy(&record);
    }
}

static void add_up(void *arg, uint64_t step, double value) { *(double *)arg += (double)step * value; }

Test(record, the_evaluations_of_an_earlier_life_are_read_from_its_file)
{
    write_two("none", 0);
    double sum = 0;
    psd_record_history(dir, 0, "val/accuracy", add_up, &sum);
    cr_expect_eq(sum, 300 * 1.0, "the second line has it, and step 300");
    psd_record_history(dir, 1, "val/accuracy", add_up, &sum);
    psd_record_history(dir, 0, "holdout/accuracy", add_up, &sum);
    psd_record_history("", 0, "val/accuracy", add_up, &sum);
    cr_expect_eq(sum, 300 * 1.0, "others have none");
}

Test(record, a_job_that_goes_on_keeps_its_encoding)
{
    record = psd_record_new(dir, 0, "none", &err);
    cr_assert_not_null(record);
    cr_expect_eq(psd_record_encoding(record, "{1}", true, &err), PSD_OK, "its run.dir may be another than before");
    cr_expect_eq(psd_record_encoding(record, "{1}", true, &err), PSD_OK);
    static const char *const others[] = { "{2}", "{1}}", NULL };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        cr_expect_eq(psd_record_encoding(record, others[i], true, &err), PSD_ECONFIG);
    cr_expect(strstr(err.text, "encoding.json describes: restore the training data"), "%s", err.text);
    cr_expect_eq(psd_record_encoding(record, "{1}", true, &err), PSD_OK, "the file is as it was");
    cr_expect_eq(psd_record_encoding(record, "{2}", false, &err), PSD_OK, "another job may replace it");
}

Test(record, the_first_worker_keeps_the_encoding_and_removes_that_of_an_earlier_run)
{
    char path[PATH_MAX], text[16] = "";
    snprintf(path, sizeof path, "%s/encoding.json", dir);
    psd_record_t *first = psd_record_new(dir, 0, "none", &err), *second = psd_record_new(dir, 1, "none", &err);
    cr_assert(first && second);
    cr_expect_eq(psd_record_encoding(second, "{}", false, &err), PSD_OK);
    cr_expect_neq(access(path, F_OK), 0, "it is the first worker's file");
    cr_expect_eq(psd_record_encoding(first, "{}", false, &err), PSD_OK, "%s", err.text);
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    cr_expect(fgets(text, sizeof text, file) && !strcmp(text, "{}"));
    fclose(file);
    cr_expect_eq(psd_record_encoding(second, NULL, false, &err), PSD_OK);
    cr_expect_eq(access(path, F_OK), 0);
    for (int again = 0; again < 2; again++) {
        cr_expect_eq(psd_record_encoding(first, NULL, false, &err), PSD_OK, "%s", err.text);
        cr_expect_neq(access(path, F_OK), 0);
    }
    psd_record_destroy(&first);
    psd_record_destroy(&second);
    psd_record_t *none = psd_record_new("", 0, "none", &err);
    cr_expect_eq(psd_record_encoding(none, "{}", false, &err), PSD_OK, "it keeps nothing");
    psd_record_destroy(&none);
}

static void expect_file(const char *name, const char *text)
{
    cr_assert_geq(read_file(name), 0, "there is no %s", name);
    cr_expect_str_eq((const char *)bytes, text, "%s: %s", name, bytes);
}

Test(record, each_worker_has_its_own_files_in_a_directory_that_is_made)
{
    char deep[64];
    snprintf(deep, sizeof deep, "%s/a/b", dir);
    for (uint32_t worker = 0; worker < 13; worker += 12) {
        cr_assert_not_null(record = psd_record_new(deep, worker, "none", &err), "%s", err.text);
        cr_expect_not(psd_record_has_events(record));
        psd_record_line(record, 1700000000.125, (const psd_measure_t[]){ { "step", 3 + worker }, { "val/auc", 0.1 } }, 2);
        psd_record_line(record, 2, (const psd_measure_t[]){ { "step", 4 }, { "val/auc", NAN }, { "lr", 1e-9 } }, 3);
        cr_assert_eq(psd_record_summarise(record, "{old}", &err), PSD_OK);
        cr_assert_eq(psd_record_summarise(record, worker ? "{12}" : "{0}", &err), PSD_OK);
        psd_record_destroy(&record);
    }
    expect_file("a/b/metrics.jsonl", "{\"ts\": 1700000000.125, \"step\": 3, \"val/auc\": 0.10000000000000001}\n"
                                     "{\"ts\": 2, \"step\": 4, \"val/auc\": null, \"lr\": 1.0000000000000001e-09}\n");
    expect_file("a/b/metrics-12.jsonl", "{\"ts\": 1700000000.125, \"step\": 15, \"val/auc\": 0.10000000000000001}\n"
                                        "{\"ts\": 2, \"step\": 4, \"val/auc\": null, \"lr\": 1.0000000000000001e-09}\n");
    expect_file("a/b/summary.json", "{0}\n");
    expect_file("a/b/summary-12.json", "{12}\n");
    double sum = 0;
    psd_record_history(deep, 12, "val/auc", add_up, &sum);
    cr_expect_float_eq(sum, 1.5, 1e-12, "only the first line has a number there");
}

Test(record, a_directory_that_cannot_be_written_is_told_with_the_reason)
{
    static char long_name[5000];
    char path[128], wanted[400];
    snprintf(path, sizeof path, "%s/file", dir);
    fclose(fopen(path, "w"));
    cr_expect_null(psd_record_new(path, 0, "none", &err));
    snprintf(wanted, sizeof wanted, "cannot write to the run's directory %s: Not a directory; set run.dir to another", path);
    cr_expect_str_eq(err.text, wanted);
    snprintf(path, sizeof path, "%s/file/x", dir);
    cr_expect_null(psd_record_new(path, 0, "none", &err));
    cr_expect_not_null(strstr(err.text, "/file/x: Not a directory; set run.dir to another"), "%s", err.text);
    memset(long_name, 'x', sizeof long_name - 1);
    cr_expect_null(psd_record_new(long_name, 0, "none", &err));
    cr_expect_eq(err.code, PSD_EIO);
    cr_expect_not_null(strstr(err.text, "cannot write to the run's directory xxxx"), "%s", err.text);

    snprintf(path, sizeof path, "mkdir %s/metrics.csv && touch %s/tb", dir, dir);
    cr_assert_eq(system(path), 0);
    cr_expect_null(psd_record_new(dir, 0, "csv", &err));
    snprintf(wanted, sizeof wanted, "cannot write %s/metrics.csv: Is a directory", dir);
    cr_expect_str_eq(err.text, wanted);
    cr_expect_null(psd_record_new(dir, 0, "tensorboard", &err));
    cr_expect(strstr(err.text, "cannot write ") == err.text && strstr(err.text, ": Not a directory"), "%s", err.text);
    cr_assert_not_null(record = psd_record_new(dir, 1, "both", &err), "another worker has neither: %s", err.text);
}

Test(record, a_record_that_is_kept_nowhere_takes_everything)
{
    cr_assert_not_null(record = psd_record_new(NULL, 0, "both", &err));
    psd_record_line(record, 1, (const psd_measure_t[]){ { "step", 1 } }, 1);
    cr_expect_eq(psd_record_summarise(record, "{}", &err), PSD_OK);
    cr_expect_not(psd_record_has_events(record));
    double sum = 0;
    psd_record_history(NULL, 0, "val/auc", add_up, &sum);
    cr_expect_eq(sum, 0);
}

static void write_down(void *arg, uint64_t step, double value)
{
    snprintf((char *)arg + strlen(arg), 40, " %lu:%g", (unsigned long)step, value);
}

Test(record, lines_that_are_no_numbers_of_steps_have_no_history)
{
    char path[64];
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    FILE *file = fopen(path, "w");
    fputs("{\"step\": -1, \"val/auc\": 1}\n{\"step\": 1e30, \"val/auc\": 1}\n{\"val/auc\": 1}\n{\"step\": null, \"val/auc\": 1}\n"
          "{\"step\": 5}\n{\"step\": 7, \"xval/auc\": 1}\n\n{\"step\": 0, \"val/auc\": 9}\n{\"step\": 2, \"val/auc\": 0.5}\n"
          "{\"step\": 4, \"val/auc\": -0.25}",
          file);
    fclose(file);
    char found[200] = "";
    psd_record_history(dir, 0, "val/auc", write_down, found);
    cr_expect_str_eq(found, " 0:9 2:0.5 4:-0.25");
}
