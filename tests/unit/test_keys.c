#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/net/keys.h"

static char dir[] = "/tmp/psd-test-XXXXXX", name[64], public[PSD_KEY_TEXT];
static psd_err_t err;
static psd_keys_t keys;

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(name, sizeof name, "%s/w", dir);
    cr_assert_eq(psd_keys_write(name, public, &err), PSD_OK, "%s", err.text);
}

static const char *file(const char *end)
{
    static char path[2][96];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, end);
    return path[turn];
}

static void teardown(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", dir);
    cr_assert_eq(system(command), 0);
}
TestSuite(keys, .init = setup, .fini = teardown, .timeout = 600);

static int load(const char *secret, const char *server, bool insecure)
{
    err.text[0] = '\0';
    return psd_keys_load(&keys, &(psd_keys_source_t){ .secret = secret, .server = server, .insecure = insecure }, &err);
}

static void write_file(const char *end, mode_t mode, const char *text)
{
    FILE *out = fopen(file(end), "w");
    fputs(text, out);
    fclose(out);
    chmod(file(end), mode);
}

Test(keys, a_file_whose_path_looks_like_a_key_is_read)
{
    char path[96], copy[512];
    snprintf(path, sizeof path, "%s/", dir);
    memset(path + strlen(path), 'x', 40 - strlen(path));
    path[40] = '\0';
    snprintf(copy, sizeof copy, "cp %s %s", file("w.pub"), path);
    cr_assert_eq(system(copy), 0);
    cr_assert_eq(load(file("w.key"), path, false), PSD_OK, "%s", err.text);
    cr_expect_str_eq(keys.server, public);
}

Test(keys, only_its_owner_may_read_a_written_key)
{
    struct stat facts;
    cr_assert_eq(stat(file("w.key"), &facts), 0);
    cr_assert_eq(facts.st_mode & 0777, 0600);
    cr_assert_eq(load(file("w.key"), file("w.pub"), false), PSD_OK, "%s", err.text);
    cr_assert_str_eq(keys.public, public);
    cr_assert_str_eq(keys.server, public);
    cr_assert_str_neq(keys.secret, public);
    cr_assert_eq(load(file("w.key"), public, false), PSD_OK, "a public key may be given as it is: %s", err.text);
    cr_assert_str_eq(keys.server, public);
    psd_keys_wipe(&keys);
    for (size_t i = 0; i < sizeof keys; i++)
        cr_assert_eq(((char *)&keys)[i], 0);
}

Test(keys, no_file_is_overwritten_and_none_left_half)
{
    cr_assert_eq(psd_keys_write(name, public, &err), PSD_EIO);
    cr_assert_not_null(strstr(err.text, "keys are not overwritten"), "%s", err.text);
    write_file("v.pub", 0644, "mine");
    snprintf(name, sizeof name, "%s/v", dir);
    cr_assert_eq(psd_keys_write(name, public, &err), PSD_EIO);
    cr_assert_neq(access(file("v.key"), F_OK), 0, "its secret is not left behind");
    cr_assert_eq(psd_keys_write("/nowhere/x", public, &err), PSD_EIO);
    cr_assert_eq(psd_keys_write("x/", public, &err), PSD_EUSAGE);
}

Test(keys, a_secret_that_others_may_read_is_refused)
{
    static const mode_t modes[] = { 0640, 0604, 0620, 0602, 0660, 0610 };
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        chmod(file("w.key"), modes[i]);
        cr_expect_eq(load(file("w.key"), public, false), PSD_ECONFIG);
        cr_expect_not_null(strstr(err.text, "lets others read it: chmod 600"), "%s", err.text);
        cr_expect_str_eq(keys.secret, "", "nothing of it stays");
    }
    chmod(file("w.key"), 0400);
    cr_expect_eq(load(file("w.key"), public, false), PSD_OK, "%s", err.text);
}

Test(keys, missing_or_superfluous_keys_are_named_with_the_options_to_use)
{
    cr_expect_eq(load("", "", false), PSD_ECONFIG);
    cr_expect(strstr(err.text, "--worker-key FILE") && strstr(err.text, "--insecure"), "%s", err.text);
    cr_expect_eq(psd_keys_load(&keys, &(psd_keys_source_t){ .is_server = true }, &err), PSD_ECONFIG);
    cr_expect(strstr(err.text, "--server-key FILE") && strstr(err.text, "--insecure"), "%s", err.text);
    cr_expect_eq(load(file("w.key"), public, true), PSD_ECONFIG);
    cr_expect(strstr(err.text, "both keys and --insecure"), "%s", err.text);
    cr_expect_eq(load(file("w.key"), "", false), PSD_ECONFIG);
    cr_expect_eq(load("", public, false), PSD_ECONFIG);
    cr_expect_eq(load(NULL, NULL, true), PSD_OK);
    cr_expect(keys.insecure);
}

Test(keys, a_malformed_key_is_refused_without_being_shown)
{
    static const char *const texts[] = { "",
                                         "secret",
                                         "secret 123",
                                         "public 7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvdg\n",
                                         "secret 7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvd\"\n",
                                         "#",
                                         "secret 7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvdg more\n",
                                         "7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvdg\n" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_file("x.key", 0600, texts[i]);
        cr_expect_eq(load(file("x.key"), public, false), PSD_ECONFIG, "%s", texts[i]);
        cr_expect(strstr(err.text, "is not a file with a secret key") && !strstr(err.text, "7Ps"), "%s", err.text);
        unlink(file("x.key"));
    }
    cr_expect_eq(load(file("w.pub"), public, false), PSD_ECONFIG, "a public key is not a secret");
    cr_expect_eq(load(file("w.key"), file("w.key"), false), PSD_ECONFIG, "nor the other way round");
    cr_expect_eq(load(file("none.key"), public, false), PSD_ENOINPUT);
    cr_expect_eq(load(dir, public, false), PSD_ECONFIG);
    cr_expect_eq(load(file("w.key"), "7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvd", false), PSD_ENOINPUT,
                 "39 characters are a name of a file");
}

Test(keys, no_two_are_alike)
{
    psd_keys_t one, other;
    psd_keys_draw(&one);
    psd_keys_draw(&other);
    cr_assert_str_neq(one.public, other.public);
    cr_assert_str_neq(one.secret, other.secret);
}

Test(keys, a_process_with_secrets_leaves_no_core)
{
    struct rlimit core;
    psd_keys_guard_process();
    cr_assert_eq(prctl(PR_GET_DUMPABLE), 0);
    getrlimit(RLIMIT_CORE, &core);
    cr_assert(core.rlim_cur == 0 && core.rlim_max == 0);
}
