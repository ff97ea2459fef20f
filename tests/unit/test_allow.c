#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/net/allow.h"

TestSuite(allow, .timeout = 600);

#define K1 "7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvdg"
#define K2 "mS1%#fYoyTK3Hhfx^6huW>9YpZ^*5dd]HVbZN:pC"
#define K3 ">04Wbd<WUu{/:wp?3o$OCC4XW+sq0Z}B5Ne.3:{-"

static psd_allow_t list;
static psd_err_t err;

static int parse(const char *text) { return psd_allow_parse(&list, "allow", text, strlen(text), &err); }

Test(allow, each_line_is_a_user_with_its_role_key_and_bounds)
{
    cr_assert_eq(parse("# name role key\n"
                       "ps server " K1 "\n"
                       "\n"
                       "  gpu-7\tworker " K2 "  0,2-3   512Mi\r\n"
                       "op.x admin " K3 " * 7"),
                 PSD_OK, "%s", err.text);
    cr_assert_eq(list.n, 3);
    const psd_user_t *ps = psd_allow_by_name(&list, "ps"), *gpu = psd_allow_by_name(&list, "gpu-7");
    cr_assert(ps->role == PSD_ROLE_SERVER && ps->shards.n == PSD_MAX_SERVERS && ps->max_bytes == UINT64_MAX);
    cr_assert(gpu->role == PSD_ROLE_WORKER && gpu->shards.n == 3 && gpu->shards.bits[0] == 0xd && gpu->max_bytes == 512u << 20);
    cr_assert(list.user[2].role == PSD_ROLE_ADMIN && list.user[2].max_bytes == 7);
    cr_assert_eq(psd_allow_by_key(&list, gpu->key), gpu);
    cr_assert_null(psd_allow_by_name(&list, "gpu"));
    cr_assert_null(psd_allow_by_key(&list, (const uint8_t[PSD_KEY_BYTES]){ 1 }));
    psd_allow_clear(&list);
}

Test(allow, an_empty_list_is_a_list)
{
    cr_assert_eq(parse(""), PSD_OK);
    cr_assert_eq(parse("# nobody\n\n"), PSD_OK);
    cr_assert_eq(list.n, 0);
    psd_allow_clear(&list);
}

Test(allow, any_error_refuses_the_whole_list_and_names_line_and_cause)
{
    static const struct {
        const char *text, *complaint;
    } cases[] = {
        { "ps server " K1 "\nps worker " K2 "\n", "allow:2: ps is listed already; each name has one key" },
        { "ps server " K1 "\n\nw worker " K1 "\n", "allow:3: w has the key of ps; each key belongs to one name" },
        { "ps wroker " K1, "allow:1: \"wroker\" is not a role; write worker, reader, monitor, admin or server" },
        { "ps Worker " K1, "allow:1: \"Worker\" is not a role" },
        { "ps worker", "allow:1: 2 words; a line needs at least a name, a role and a public key" },
        { "ps", "allow:1: 1 word; a line needs" },
        { "p\xc3\xa9 worker " K1, "is not a name: 1 to 63 letters, digits, . _ -" },
        { "0123456789012345678901234567890123456789012345678901234567890123 worker " K1, "is not a name" },
        { "ps worker " K1 "x", "is not a public key: 40 characters of Z85" },
        { "ps worker 7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvd", "is not a public key" },
        { "ps worker 7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvd\"", "is not a public key" },
        { "ps worker #####################################;##", "is not a public key" },
        { "ps worker ########################################", "is not a public key" },
        { "ps worker " K1 " 0,", "\"0,\" is not a list of servers: *, or such as 0,2-3, up to 255" },
        { "ps worker " K1 " ,1", "is not a list of servers" },
        { "ps worker " K1 " 3-2", "is not a list of servers" },
        { "ps worker " K1 " 256", "is not a list of servers" },
        { "ps worker " K1 " 0-18446744073709551616", "is not a list of servers" },
        { "ps worker " K1 " 1-2-3", "is not a list of servers" },
        { "ps worker " K1 " * 0", "\"0\" is not a size: *, or a whole number of bytes, with Ki, Mi or Gi if large, from 1" },
        { "ps worker " K1 " * 1MiB", "is not a size" },
        { "ps worker " K1 " * -1", "is not a size" },
        { "ps worker " K1 " * 17179869184Gi", "is not a size" },
        { "ps worker " K1 " * * #", "allow:1: a sixth word, \"#\"" },
        { " # worker", "allow:1: \"#\" is not a name" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_eq(parse(cases[i].text), PSD_ECONFIG, "%s", cases[i].text);
        cr_expect_not_null(strstr(err.text, cases[i].complaint), "%s: %s", cases[i].text, err.text);
        cr_expect(!list.user && !list.n);
    }
    static const char zero[] = "ps worker\0 " K1;
    cr_expect_eq(psd_allow_parse(&list, "allow", zero, sizeof zero - 1, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "allow:1: a byte that is not printable ASCII"), "%s", err.text);
    char line[600];
    memset(line, ' ', sizeof line);
    cr_expect_eq(psd_allow_parse(&list, "allow", line, sizeof line, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "allow:1: a line of 600 bytes; at most 511 are read"), "%s", err.text);
}

Test(allow, a_file_that_others_may_write_is_refused)
{
    char path[] = "/tmp/psd-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_gt(write(fd, "ps server " K1 "\n", 51), 0);
    close(fd);
    chmod(path, 0644);
    cr_expect_eq(psd_allow_load(&list, path, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(list.n, 1);
    psd_allow_clear(&list);
    chmod(path, 0664);
    cr_expect_eq(psd_allow_load(&list, path, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "only its owner may be able to write it, but its mode is 664"), "%s", err.text);
    unlink(path);
    cr_expect_eq(psd_allow_load(&list, path, &err), PSD_ENOINPUT);
    cr_expect_eq(psd_allow_load(&list, "/tmp", &err), PSD_ECONFIG);
}
