#include <criterion/criterion.h>

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/status/connections.h"

/* The other ends are the test's. */
static psd_connections_t table;
static psd_connection_t *at[PSD_CONNECTIONS_ROOM + 2];
static int end[PSD_CONNECTIONS_ROOM + 2][2];
static unsigned n;

static psd_connection_t *come(void)
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, end[n]), 0);
    at[n] = psd_connections_come(&table, end[n][0]);
    return at[n++];
}

static void fill(void)
{
    while (n < PSD_CONNECTIONS_MOST)
        cr_assert_not_null(come());
}

static void setup(void) { psd_connections_init(&table); }
static void teardown(void)
{
    for (unsigned i = 0; i < n; i++)
        close(end[i][0]), close(end[i][1]);
}
TestSuite(connections, .init = setup, .fini = teardown, .timeout = 60);

static size_t got; /* bytes of that */

/* What connection `i` was sent; NULL: it is still open. */
static const char *sent_away(unsigned i)
{
    static char text[512];
    got = 0;
    ssize_t more;
    while ((more = recv(end[i][1], text + got, sizeof text - 1 - got, MSG_DONTWAIT)) > 0)
        got += (size_t)more;
    text[got] = '\0';
    return more ? NULL : text;
}

static void expect_open(unsigned first, unsigned last)
{
    for (unsigned i = first; i <= last; i++)
        cr_expect_null(sent_away(i), "%u", i);
}

Test(connections, where_there_is_room_none_is_sent_away)
{
    fill();
    expect_open(0, PSD_CONNECTIONS_MOST - 1);
}

Test(connections, one_too_many_sends_the_one_away_that_has_asked_nothing_for_longest)
{
    fill();
    psd_connections_ask(&table, at[0]);
    come();
    const char *told = sent_away(1);
    cr_assert_not_null(told);
    cr_expect_str_eq(told, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
                           "Content-Type: text/plain\r\nContent-Length: 42\r\n\r\n"
                           "too many readers at once; try again later\n");
    cr_expect_eq(got, strlen(told));
    cr_expect_eq(strlen(strstr(told, "\r\n\r\n") + 4), 42);
    expect_open(0, 0);
    expect_open(2, n - 1);
    come();
    cr_expect_not_null(sent_away(2), "one that was sent away counts no longer");
    expect_open(3, n - 1);
}

Test(connections, one_that_is_being_answered_is_closed_without_another_answer)
{
    fill();
    for (unsigned i = 0; i < n; i++)
        psd_connections_ask(&table, at[i]);
    come();
    const char *told = sent_away(0);
    cr_assert_not_null(told);
    cr_expect_str_eq(told, "");
    expect_open(1, n - 1);
}

Test(connections, of_those_that_have_asked_the_one_that_did_so_first_is_sent_away)
{
    fill();
    for (unsigned i = n; i-- > 0;)
        psd_connections_ask(&table, at[i]);
    come();
    cr_expect_not_null(sent_away(PSD_CONNECTIONS_MOST - 1));
    expect_open(0, PSD_CONNECTIONS_MOST - 2);
}

Test(connections, those_that_stay_do_not_count_and_are_not_sent_away)
{
    fill();
    for (unsigned i = 0; i < 8; i++)
        psd_connections_stay(at[i]);
    psd_connections_ask(&table, at[0]); /* it goes on staying */
    for (unsigned i = 0; i < 8; i++)
        come();
    expect_open(0, n - 1);
    come();
    cr_expect_not_null(sent_away(8));
    expect_open(0, 7);
}

Test(connections, one_that_has_gone_makes_room)
{
    fill();
    psd_connections_go(at[3]);
    come();
    expect_open(0, n - 1);
    psd_connections_go(NULL);
    psd_connections_ask(&table, NULL);
    psd_connections_stay(NULL);
}

Test(connections, there_is_an_end_to_the_room)
{
    while (n < PSD_CONNECTIONS_ROOM) {
        cr_assert_not_null(come(), "%u", n);
        psd_connections_stay(at[n - 1]);
    }
    cr_expect_null(come());
    psd_connections_go(at[5]);
    cr_expect_not_null(come());
}
