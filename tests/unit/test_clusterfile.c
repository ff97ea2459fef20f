#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/net/clusterfile.h"

static char dir[] = "/tmp/psd-test-XXXXXX", path[64];
static psd_err_t err;
static const psd_clusterfile_t ours = { .job = "mnist",
                                        .data = "tcp://10.0.0.1:7470",
                                        .status = "none",
                                        .server_public = "7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvdg",
                                        .run = 0x0123456789abcdef };

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/cluster.json", dir);
    umask(022);
}

static void teardown(void)
{
    unlink(path);
    cr_expect_eq(rmdir(dir), 0, "another file is left behind");
}
TestSuite(clusterfile, .init = setup, .fini = teardown, .timeout = 600);

static void put(const char *text)
{
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

Test(clusterfile, others_read_the_same_values_that_server_0_wrote)
{
    psd_clusterfile_t read;
    cr_assert_eq(psd_clusterfile_write(&ours, path, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_clusterfile_read(&read, path, "mnist", &err), PSD_OK, "%s", err.text);
    cr_expect_arr_eq(&read, &ours, sizeof ours);
    cr_expect(psd_clusterfile_is_same(&read, &ours));
    read.run++;
    cr_expect_not(psd_clusterfile_is_same(&read, &ours));
}

Test(clusterfile, one_that_is_not_there_or_another_jobs_may_come_yet)
{
    psd_clusterfile_t read;
    cr_expect_eq(psd_clusterfile_read(&read, path, "mnist", &err), PSD_EAGAIN, "%s", err.text);
    cr_assert_eq(psd_clusterfile_write(&ours, path, &err), PSD_OK);
    cr_expect_eq(psd_clusterfile_read(&read, path, "cifar", &err), PSD_EAGAIN);
    cr_expect(strstr(err.text, "belongs to job mnist, and this is job cifar"), "%s", err.text);
}

Test(clusterfile, only_its_owner_may_change_it_with_any_umask)
{
    psd_clusterfile_t read;
    umask(0);
    cr_assert_eq(psd_clusterfile_write(&ours, path, &err), PSD_OK);
    cr_expect_eq(psd_clusterfile_read(&read, path, "mnist", &err), PSD_OK, "%s", err.text);
    cr_expect_eq(umask(0), 0);
}

Test(clusterfile, one_that_others_may_write_is_not_trusted)
{
    psd_clusterfile_t read;
    cr_assert_eq(psd_clusterfile_write(&ours, path, &err), PSD_OK);
    chmod(path, 0664);
    cr_expect_eq(psd_clusterfile_read(&read, path, "mnist", &err), PSD_ECONFIG, "%s", err.text);
    chmod(path, 0602);
    cr_expect_eq(psd_clusterfile_read(&read, path, "mnist", &err), PSD_ECONFIG, "%s", err.text);
}

Test(clusterfile, a_file_that_is_not_a_cluster_file_is_an_error_that_names_it)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{\"schema\": \"psd.cluster/1\"}",
        "{\"schema\": \"psd.cluster/2\", \"job\": \"mnist\", \"data\": \"tcp://h:1\", \"status\": \"none\", "
        "\"server_public\": \"\", "
        "\"run\": \"0123456789abcdef\"}",
        "{\"schema\": \"psd.cluster/1\", \"job\": \"mnist\", \"data\": \"h:1\", \"status\": \"none\", "
        "\"server_public\": \"\", "
        "\"run\": \"0123456789abcdef\"}",
        "{\"schema\": \"psd.cluster/1\", \"job\": \"mnist\", \"data\": \"tcp://h:1\", \"status\": \"none\", "
        "\"server_public\": \"short\", "
        "\"run\": \"0123456789abcdef\"}",
        "{\"schema\": \"psd.cluster/1\", \"job\": \"mnist\", \"data\": \"tcp://h:1\", \"status\": \"none\", "
        "\"server_public\": \"\", "
        "\"run\": \"12\"}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        psd_clusterfile_t read;
        put(texts[i]);
        cr_expect_eq(psd_clusterfile_read(&read, path, "mnist", &err), PSD_EDATA, "%s", texts[i]);
        cr_expect(strstr(err.text, path), "%s", err.text);
    }
}

/* The callback learns what is missing, and then writes the file. */
static bool write_it(void *arg, const char *what)
{
    if (what)
        cr_assert_eq(psd_clusterfile_write(arg, path, NULL), PSD_OK);
    return true;
}

static bool count(void *arg, const char *what)
{
    cr_expect_null(what);
    ++*(int *)arg;
    return *(int *)arg < 3;
}

Test(clusterfile, the_wait_for_it_ends_at_the_timeout)
{
    psd_clusterfile_t read;
    int said = 0;
    cr_expect_eq(psd_clusterfile_await(&read, path, "mnist", 50, count, &said, &err), PSD_ETIMEOUT);
    cr_expect(strstr(err.text, path), "%s", err.text);
    said = 0;
    cr_expect_eq(psd_clusterfile_await(&read, path, "mnist", 600000, count, &said, &err), PSD_ESTOPPED);
    cr_expect(said == 3 && strstr(err.text, path), "%s", err.text);
    cr_expect_eq(psd_clusterfile_await(&read, path, "mnist", 600000, write_it, (void *)(uintptr_t)&ours, &err), PSD_OK, "%s",
                 err.text);
    cr_expect(psd_clusterfile_is_same(&read, &ours));
}

Test(clusterfile, a_process_removes_its_own_file_and_no_later_one)
{
    psd_clusterfile_t later = ours;
    later.run++;
    cr_assert_eq(psd_clusterfile_write(&later, path, &err), PSD_OK);
    psd_clusterfile_remove(&ours, path);
    cr_expect_eq(access(path, F_OK), 0, "that of the process started since");
    psd_clusterfile_remove(&later, path);
    cr_expect_neq(access(path, F_OK), 0);
}
