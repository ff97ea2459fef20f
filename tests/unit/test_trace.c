#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/system/safetensors.h"
#include "worker/trace.h"

static char path[] = "/tmp/psd-trace-XXXXXX";
static psd_err_t err;
static float weight[3] = { 1, 2, 3 }, bias[1] = { 4 };
static const psd_param_t params[] = { { .name = "fc1.weight", .shape = { 3 }, .n_dims = 1, .n = 3, .data = weight },
                                      { .name = "fc1.bias", .shape = { 1 }, .n_dims = 1, .n = 1, .data = bias } };

static void setup(void)
{
    const int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}
static void teardown(void) { unlink(path); }
TestSuite(trace, .init = setup, .fini = teardown, .timeout = 60);

static const char *hash_of(size_t i)
{
    static char hash[PSD_SHA256_TEXT];
    const psd_saved_t saved = {
        .name = params[i].name, .shape = params[i].shape, .n_dims = params[i].n_dims, .n = params[i].n, .data = params[i].data
    };
    return psd_weights_sha256(&saved, 1, hash);
}

static void write_step(psd_trace_t *trace, uint64_t step, uint32_t world)
{
    cr_assert_eq(psd_trace_step(trace, step, world, params, 2, &err), PSD_OK, "%s", err.text);
}

Test(trace, each_step_has_a_line_for_each_tensor_and_several_workers_add_to_one_file)
{
    char hash[2][2][PSD_SHA256_TEXT];
    psd_trace_line_t line;
    psd_trace_t *first = psd_trace_new(path, &err);
    cr_assert_not_null(first, "%s", err.text);
    for (size_t i = 0; i < 2; i++)
        strcpy(hash[0][i], hash_of(i));
    write_step(first, 7, 2);
    psd_trace_t *second = psd_trace_new(path, &err);
    cr_assert_not_null(second, "%s", err.text);
    weight[1] = 5;
    for (size_t i = 0; i < 2; i++)
        strcpy(hash[1][i], hash_of(i));
    write_step(second, 8, 3);
    write_step(first, 9, 3);
    psd_trace_destroy(&first);
    psd_trace_destroy(&second);
    cr_expect_null(first);
    FILE *file = fopen(path, "r");
    for (uint64_t step = 7; step <= 9; step++)
        for (size_t i = 0; i < 2; i++) {
            cr_assert(psd_trace_read(file, &line), "step %u", (unsigned)step);
            cr_expect_eq(line.step, step);
            cr_expect_eq(line.world, step == 7 ? 2 : 3);
            cr_expect_str_eq(line.tensor, params[i].name);
            cr_expect_str_eq(line.sha256, hash[step > 7][i]);
        }
    cr_expect_not(psd_trace_read(file, &line));
    fclose(file);
    cr_expect_str_eq(hash[0][1], hash[1][1], "the bias is the same");
    cr_expect_str_neq(hash[0][0], hash[1][0]);
}

Test(trace, a_malformed_line_is_the_end)
{
    static const char *const lines[] = { "7 2 abc\n", "x 2 abc w\n", "7 2 ABC w\n", "\n" };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        psd_trace_line_t line;
        FILE *file = fmemopen((void *)(uintptr_t)lines[i], strlen(lines[i]), "r");
        cr_expect_not(psd_trace_read(file, &line), "%s", lines[i]);
        fclose(file);
    }
}

Test(trace, a_file_that_cannot_be_written_is_told_with_the_reason)
{
    cr_expect_null(psd_trace_new("/nowhere/trace", &err));
    cr_expect_eq(err.code, PSD_EIO);
    cr_expect_str_eq(err.text, "cannot write the trace /nowhere/trace: No such file or directory");
    psd_trace_t *full = psd_trace_new("/dev/full", &err);
    cr_assert_not_null(full);
    cr_expect_eq(psd_trace_step(full, 1, 1, params, 2, &err), PSD_EIO);
    cr_expect_str_eq(err.text, "cannot write the trace /dev/full: No space left on device");
    psd_trace_destroy(&full);
}

Test(trace, a_step_that_is_written_in_part_is_told)
{
    char wanted[100];
    psd_trace_t *trace = psd_trace_new(path, &err), *none = NULL;
    cr_assert_not_null(trace);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 100, RLIM_INFINITY }), 0);
    const int rc = psd_trace_step(trace, 1, 1, params, 2, &err);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY }), 0);
    snprintf(wanted, sizeof wanted, "cannot write the trace %s: no space", path);
    cr_expect_eq(rc, PSD_EIO);
    cr_expect_str_eq(err.text, wanted);
    psd_trace_destroy(&trace);
    psd_trace_destroy(&none);
}
