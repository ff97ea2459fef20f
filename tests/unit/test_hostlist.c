#include <criterion/criterion.h>
#include <string.h>

#include "common/net/hostlist.h"

TestSuite(hostlist, .timeout = 600);

Test(hostlist, brackets_stand_for_each_of_their_hosts_in_order)
{
    static const struct {
        const char *list;
        size_t index;
        const char *host;
    } cases[] = {
        { "n1", 0, "n1" },
        { "n[1-3,7]", 0, "n1" },
        { "n[1-3,7]", 2, "n3" },
        { "n[1-3,7]", 3, "n7" },
        { "gpu[008-010],login", 1, "gpu009" },
        { "gpu[008-010],login", 2, "gpu010" },
        { "gpu[008-010],login", 3, "login" },
        { "rack[1-2]-n[01-03].site", 0, "rack1-n01.site" },
        { "rack[1-2]-n[01-03].site", 4, "rack2-n02.site" },
        { "a,b,n[5]", 2, "n5" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char host[64];
        psd_err_t err = { 0 };
        cr_expect_eq(psd_hostlist_at(cases[i].list, cases[i].index, host, sizeof host, &err), PSD_OK, "%s: %s", cases[i].list,
                     err.text);
        cr_expect_str_eq(host, cases[i].host);
    }
}

Test(hostlist, a_malformed_list_is_an_error)
{
    static const char *const lists[] = {
        "", ",n1", "n[", "n[]", "n[1", "n[1-]", "n[3-1]", "n[a]", "n[1,]", "n1]", "n[1-99999999999]", "n 1", "n[0-99999999]"
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char host[64];
        psd_err_t err = { 0 };
        cr_expect_eq(psd_hostlist_at(lists[i], 0, host, sizeof host, &err), PSD_EINVAL, "\"%s\"", lists[i]);
        cr_expect_gt(strlen(err.text), 10);
    }
}

Test(hostlist, a_host_past_the_end_or_too_long_is_an_error)
{
    char host[6];
    psd_err_t err = { 0 };
    cr_expect_eq(psd_hostlist_at("n[1-3]", 3, host, sizeof host, &err), PSD_EINVAL);
    cr_expect(strstr(err.text, "has no host 3: it lists 3"), "%s", err.text);
    cr_expect_eq(psd_hostlist_at("n1234", 0, host, sizeof host, &err), PSD_OK, "%s", err.text);
    cr_expect_eq(psd_hostlist_at("n12345", 0, host, sizeof host, &err), PSD_EINVAL, "%s", host);
    cr_expect_eq(psd_hostlist_at("n123[45-46]", 0, host, sizeof host, &err), PSD_EINVAL, "%s", host);
}
