#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/net/address.h"
#include "common/net/route.h"

static psd_address_t address;
static psd_sockaddr_t at;
static psd_err_t err;

Test(address, hosts_and_ports_are_read_from_all_forms_and_written_again)
{
    static const struct {
        const char *text, *host, *port, *again;
    } rows[] = { { "tcp://127.0.0.1:7470", "127.0.0.1", "7470", "127.0.0.1:7470" },
                 { "tcp://[::1]:0", "::1", "0", "[::1]:0" },
                 { "[2001:db8::1]:7471", "2001:db8::1", "7471", "[2001:db8::1]:7471" },
                 { "localhost:7471", "localhost", "7471", "localhost:7471" },
                 { "tcp://*:7470", "*", "7470", "*:7470" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char again[80];
        cr_assert(psd_address_split(&address, rows[i].text), "%s", rows[i].text);
        cr_expect_str_eq(address.host, rows[i].host);
        cr_expect_str_eq(address.port, rows[i].port);
        psd_address_join(again, sizeof again, address.host, address.port);
        cr_expect_str_eq(again, rows[i].again);
    }
}

Test(address, a_text_without_a_port_or_a_path_is_not_an_address)
{
    static const char *const none[] = { "", "host", "tcp://host", "ipc:///tmp/x:1", ":7470", "none" };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        cr_expect_not(psd_address_split(&address, none[i]), "%s", none[i]);
}

Test(address, loopback_is_known_in_both_families_and_a_name_is_looked_up)
{
    static const struct {
        const char *host;
        bool is_loopback;
    } rows[] = { { "127.0.0.1", true }, { "127.1.2.3", true },  { "::1", true },          { "localhost", true },
                 { "0.0.0.0", false },  { "192.0.2.1", false }, { "2001:db8::1", false }, { "::", false } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        address = (psd_address_t){ .port = "7470" };
        snprintf(address.host, sizeof address.host, "%s", rows[i].host);
        cr_assert_eq(psd_address_resolve(&at, &address, &err), PSD_OK, "%s", err.text);
        cr_expect_eq(psd_address_is_loopback((struct sockaddr *)&at.at), rows[i].is_loopback, "%s", rows[i].host);
    }
}

Test(address, a_name_that_means_nothing_is_an_error_that_names_it)
{
    address = (psd_address_t){ .host = "no-such-host.invalid", .port = "1" };
    cr_assert_eq(psd_address_resolve(&at, &address, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "no-such-host.invalid"), "%s", err.text);
    cr_expect_not(psd_address_parse(&at, &address), "a name is none, and is not looked up");
}

Test(address, the_way_to_an_ipv6_host_begins_at_an_address)
{
    char out[PSD_ADDRESS_TEXT] = "", host[80];
    psd_endpoint_host("tcp://[::1]:7470", host, sizeof host);
    cr_expect_str_eq(host, "::1");
    if (psd_route_to(host, out, &err) != PSD_OK)
        cr_skip_test("no IPv6 here: %s", err.text);
    cr_expect(*out);
}
