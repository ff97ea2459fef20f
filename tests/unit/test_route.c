#include <criterion/criterion.h>
#include <string.h>

#include "common/net/route.h"

static char out[PSD_ROUTE_ENDPOINT_TEXT];
static psd_err_t err;

TestSuite(route, .timeout = 600);

static void expect(const char *bound, const char *given, const char *expected)
{
    cr_expect_eq(psd_route_advertise(out, bound, given, "", &err), PSD_OK, "%s", err.text);
    cr_expect_str_eq(out, expected, "%s by %s: %s", bound, given, out);
}

Test(route, a_socket_at_one_address_is_reached_there)
{
    expect("tcp://10.0.0.1:7470", "", "tcp://10.0.0.1:7470");
    expect("ipc:///tmp/psd", "", "ipc:///tmp/psd");
}

Test(route, a_host_that_was_given_gets_the_port_of_the_socket)
{
    expect("tcp://0.0.0.0:7470", "ps-0.ps", "tcp://ps-0.ps:7470");
    expect("tcp://10.0.0.1:7470", "10.9.9.9", "tcp://10.9.9.9:7470");
}

Test(route, a_port_that_was_given_too_is_the_one_to_use)
{
    expect("tcp://0.0.0.0:7470", "gate.example:9000", "tcp://gate.example:9000");
    expect("tcp://[::]:7470", "[2001:db8::1]:9000", "tcp://[2001:db8::1]:9000");
}

Test(route, colons_of_an_ipv6_address_are_not_its_ports)
{
    expect("tcp://[::]:7470", "2001:db8::1", "tcp://[2001:db8::1]:7470");
    expect("tcp://[::]:7470", "[2001:db8::1]", "tcp://[2001:db8::1]:7470");
}

Test(route, a_socket_at_every_address_is_reached_where_the_way_to_its_peer_begins)
{
    cr_assert_eq(psd_route_advertise(out, "tcp://0.0.0.0:7470", "", "tcp://127.0.0.1:1", &err), PSD_OK, "%s", err.text);
    cr_expect(!strstr(out, "0.0.0.0") && strstr(out, ":7470"), "%s", out);
    cr_expect_eq(psd_route_advertise(out, "tcp://0.0.0.0:7470", "", "tcp://no.such.host.invalid:1", &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "no.such.host.invalid"), "%s", err.text);
}
