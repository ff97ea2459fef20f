#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/outputs.h"

static char dir[] = "/tmp/test_outputs_XXXXXX";
static psd_err_t err;

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    cr_assert_eq(chdir(dir), 0);
}

static void teardown(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(outputs, .init = setup, .fini = teardown, .timeout = 60);

static int probe(char *flag, psd_option_id_t id)
{
    psd_options_t *o = psd_options_new(PSD_PROGRAM_CTL);
    char *words[] = { "test", "--insecure", flag, NULL };
    err = (psd_err_t){ 0 };
    cr_assert_eq(psd_options_load(o, 3, words, &err), PSD_OK, "%s", err.text);
    const int rc = psd_outputs_probe(o, id, &err), all = psd_outputs_probe_all(o, PSD_PROGRAM_CTL, NULL);
    cr_assert_eq(rc, all);
    psd_options_destroy(&o);
    return rc;
}

static void touch(const char *path) { fclose(fopen(path, "w")); }

Test(outputs, an_unwritable_output_is_reported_with_option_path_and_cause)
{
    touch("file");
    mkdir("run", 0777);
    mkdir("run/summary-3.json", 0777);
    cr_assert_eq(symlink("/no/such/file", "link"), 0);
    const struct {
        char *flag;
        psd_option_id_t id;
        char *text;
    } bad[] = {
        { "--save=no/m", PSD_OPT_save, "save: cannot write no/m: No such file or directory" },
        { "--save=.", PSD_OPT_save, "save: cannot write .: it is a directory; name a file" },
        { "--save=file/m", PSD_OPT_save, "save: cannot write file/m: Not a directory" },
        { "--save=link", PSD_OPT_save, "save: cannot write link: No such file or directory" },
        { "--save=new/", PSD_OPT_save, "save: cannot write new/: Is a directory" },
        { "--trace=no/t", PSD_OPT_trace, "trace: cannot write no/t: No such file or directory" },
        { "--run-dir=file", PSD_OPT_run_dir, "run.dir: cannot make files in file: Not a directory" },
        { "--run-dir=run", PSD_OPT_run_dir, "run.dir: cannot write run/summary-3.json: it is a directory; name a file" },
        { "--checkpoint-dir=file/ck", PSD_OPT_checkpoint_dir, "checkpoint.dir: cannot make files in file/ck: Not a directory" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(probe(bad[i].flag, bad[i].id), PSD_EIO, "%s", bad[i].flag);
        cr_expect_str_eq(err.text, bad[i].text);
    }
}

Test(outputs, a_writable_output_is_not_changed_by_the_check)
{
    touch("file");
    cr_assert_eq(symlink("later", "link"), 0);
    cr_assert_eq(mkfifo("pipe", 0666), 0);
    const struct {
        char *flag;
        psd_option_id_t id;
    } good[] = {
        { "--save=file", PSD_OPT_save },
        { "--save=new", PSD_OPT_save },
        { "--save=link", PSD_OPT_save },
        { "--save=pipe", PSD_OPT_save },
        { "--save=/dev/null", PSD_OPT_save },
        { "--save=/dev/stdout", PSD_OPT_save },
        { "--trace=file", PSD_OPT_trace },
        { "--trace=new", PSD_OPT_trace },
        { "--trace=/dev/null", PSD_OPT_trace },
        { "--run-dir=a/b", PSD_OPT_run_dir },
        { "--checkpoint-dir=a/b", PSD_OPT_checkpoint_dir },
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_expect_eq(probe(good[i].flag, good[i].id), PSD_OK, "%s: %s", good[i].flag, err.text);
    cr_expect_neq(access("new", F_OK), 0);
    cr_expect_neq(access("later", F_OK), 0);
    cr_expect_neq(access("a", F_OK), 0);
    for (size_t i = 0; psd_outputs_at(i) != PSD_N_OPTIONS; i++)
        cr_expect_eq(probe("--servers=1", psd_outputs_at(i)), PSD_OK);
}
