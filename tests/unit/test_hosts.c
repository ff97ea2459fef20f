#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "deploy/psdctl/run/hosts.h"

static psd_hosts_t hosts;
static psd_err_t err;

static void teardown(void) { psd_hosts_clear(&hosts); }

TestSuite(hosts, .fini = teardown, .timeout = 600);

static int parse(const char *text) { return psd_hosts_parse(&hosts, "hosts", text, strlen(text), &err); }

/* "0 1 0": the place of each index in turn. */
static const char *places(const psd_host_t *(*of)(const psd_hosts_t *, unsigned))
{
    static char text[256];
    const psd_host_t *host;
    size_t n = 0;
    for (unsigned i = 0; (host = of(&hosts, i)); i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%td", i ? " " : "", host - hosts.host);
    return n ? text : "";
}

Test(hosts, a_line_has_the_host_its_role_and_how_it_is_reached)
{
    cr_assert_eq(parse("# ours\n\nnode1 servers=1\tworkers=2\r\n ann@node2 workers=4 address=10.0.0.2"), PSD_OK, "%s", err.text);
    cr_assert_eq(hosts.n, 2);
    cr_expect_str_eq(hosts.host[0].target, "node1");
    cr_expect_str_eq(hosts.host[0].address, "node1");
    cr_expect_str_eq(hosts.host[1].target, "ann@node2");
    cr_expect_str_eq(hosts.host[1].address, "10.0.0.2");
    cr_expect(hosts.tells_servers && hosts.servers == 1 && hosts.tells_workers && hosts.workers == 6);
    cr_expect_str_eq(places(psd_hosts_of_server), "0");
    cr_expect_str_eq(places(psd_hosts_of_worker), "0 0 1 1 1 1");
}

Test(hosts, an_index_that_no_line_names_is_dealt_over_all)
{
    cr_assert_eq(parse("ann@a\nb\nc workers=1"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(hosts.host[0].address, "a");
    psd_hosts_deal(&hosts, 5, 5);
    cr_expect_str_eq(places(psd_hosts_of_server), "0 0 1 1 2", "five servers over three hosts");
    cr_expect_str_eq(places(psd_hosts_of_worker), "2", "the line for workers is the last word");
}

Test(hosts, a_mistake_is_reported_with_its_line)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        { "", "hosts names no host" },
        { "# nobody\n", "hosts names no host" },
        { "a\nb workers=three", "hosts:2: workers=\"three\" must be a whole number from 0 to 1024" },
        { "a workers=", "hosts:1: workers=\"\"" },
        { "a servers=-1", "hosts:1: servers=\"-1\"" },
        { "a servers=1025", "hosts:1: servers=\"1025\"" },
        { "a servers=99999999999999999999", "hosts:1: servers=" },
        { "a slots=4", "\"slots=4\" is not servers=N, workers=N or address=HOST" },
        { "a b", "hosts:1: \"b\" is not" },
        { "-oProxyCommand=evil", "hosts:1: \"-oProxyCommand=evil\" is not a host" },
        { "ann@-oProxyCommand", "is not a host" },
        { "ann@", "is not a host" },
        { "@a", "is not a host" },
        { "ann@b@c", "is not a host" },
        { "a;reboot", "is not a host" },
        { "$(reboot)", "is not a host" },
        { "a address=-x", "address=\"-x\" is not a name" },
        { "a address=", "address=\"\" is not a name" },
        { "a address=b@c", "is not a name" },
        { "a\nb\na", "hosts:3: a is listed already" },
        { "a servers=0\nb servers=0", "hosts: no host has a server" },
        { "a workers=0", "hosts: no host has a worker" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_eq(parse(cases[i].text), PSD_ECONFIG, "%s", cases[i].text);
        cr_expect(strstr(err.text, cases[i].words), "%s: %s", cases[i].text, err.text);
        cr_expect_null(hosts.host);
    }
    cr_expect_eq(psd_hosts_parse(&hosts, "hosts", "a\0b", 3, &err), PSD_ECONFIG);
    cr_expect(strstr(err.text, "hosts is not a text"));
    cr_expect_eq(psd_hosts_load(&hosts, "/nowhere/hosts", &err), PSD_ENOINPUT);
    cr_expect_eq(psd_hosts_load(&hosts, "/", &err), PSD_ENOINPUT, "a directory: %s", err.text);
}
