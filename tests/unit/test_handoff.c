#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory/handoff.h"

static char name[PSD_HANDOFF_NAME];
static int listener, near, far;
static uint8_t packet[PSD_HANDOFF_PACKET];
static int passed;
static psd_err_t err;

static void setup(void)
{
    listener = psd_handoff_listen(name, NULL);
    near = psd_handoff_connect(name, NULL);
    far = psd_handoff_accept(listener, NULL);
    cr_assert(listener >= 0 && near >= 0 && far >= 0);
}
static void teardown(void)
{
    close(listener);
    close(near);
    close(far);
}
TestSuite(handoff, .init = setup, .fini = teardown, .timeout = 600);

static int count_descriptors(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* As a foreign peer may do. */
static void send_descriptors(size_t n_bytes, int n)
{
    char bytes[2 * PSD_HANDOFF_PACKET] = "x";
    struct iovec part = { .iov_base = bytes, .iov_len = n_bytes };
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(250 * sizeof(int))];
    } control;
    struct msghdr message = { .msg_iov = &part,
                              .msg_iovlen = 1,
                              .msg_control = n ? control.bytes : NULL,
                              .msg_controllen = n ? CMSG_SPACE(n * sizeof(int)) : 0 };
    memset(&control, 0, sizeof control);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(n * sizeof(int));
    for (int i = 0; i < n; i++)
        memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &near, sizeof near);
    cr_assert_geq(sendmsg(near, &message, 0), 0);
}

Test(handoff, a_packet_and_its_descriptor_arrive_without_a_wait)
{
    int ends[2];
    char byte = 0;
    cr_assert_eq(pipe(ends), 0);
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), PSD_EAGAIN);
    cr_expect_eq(psd_handoff_accept(listener, &err), PSD_EAGAIN);
    cr_assert_eq(psd_handoff_send(near, "hello", 5, ends[1]), PSD_OK);
    cr_assert_eq(psd_handoff_send(near, "!", 1, -1), PSD_OK);
    cr_assert_eq(psd_handoff_receive(far, packet, &passed, &err), 5);
    cr_expect_eq(memcmp(packet, "hello", 5), 0);
    cr_assert_eq(write(passed, "y", 1), 1);
    cr_expect(read(ends[0], &byte, 1) == 1 && byte == 'y');
    cr_expect(fcntl(passed, F_GETFD) & FD_CLOEXEC, "no child inherits it");
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), 1);
    cr_expect_eq(passed, -1);
}

Test(handoff, more_descriptors_than_one_or_more_bytes_than_a_packet_are_refused_and_nothing_stays_open)
{
    static const struct {
        size_t n_bytes;
        int n_descriptors;
        const char *says;
    } cases[] = { { 1, 2, "more than one descriptor" },
                  { 1, 250, "more than one descriptor" },
                  { PSD_HANDOFF_PACKET + 1, 0, "more than 256 bytes" },
                  { PSD_HANDOFF_PACKET + 1, 1, "more than 256 bytes" } };
    const int before = count_descriptors();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        send_descriptors(cases[i].n_bytes, cases[i].n_descriptors);
        cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), PSD_EPROTO);
        cr_expect(strstr(err.text, cases[i].says), "%s", err.text);
        cr_expect_eq(passed, -1);
        cr_expect_eq(count_descriptors(), before);
    }
}

Test(handoff, the_end_of_the_other_process_is_seen_after_its_last_packet)
{
    psd_handoff_send(near, "a", 1, -1);
    close(near);
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), 1);
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), PSD_EUNAVAILABLE);
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), PSD_EUNAVAILABLE);
    cr_expect_eq(psd_handoff_send(far, "a", 1, -1), PSD_EUNAVAILABLE);
}

Test(handoff, an_empty_packet_is_an_end)
{
    send(near, "", 0, 0);
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), PSD_EUNAVAILABLE);
}

Test(handoff, a_peer_that_does_not_read_delays_no_other)
{
    int rc = PSD_OK;
    for (int i = 0; i < 1000000 && rc == PSD_OK; i++)
        rc = psd_handoff_send(near, "x", 1, -1);
    cr_expect_eq(rc, PSD_EAGAIN);
}

Test(handoff, a_name_is_new_each_time_and_gone_with_its_listener)
{
    char other[PSD_HANDOFF_NAME];
    const int second = psd_handoff_listen(other, NULL);
    cr_expect_str_neq(name, other);
    close(second);
    cr_expect_eq(psd_handoff_connect(other, &err), PSD_EUNAVAILABLE);
    cr_expect_eq(psd_handoff_connect("", &err), PSD_EUNAVAILABLE);
}

Test(handoff, connecting_fails_in_the_end_when_no_connection_is_accepted)
{
    int fd, n = 0;
    while (n < 4096 && (fd = psd_handoff_connect(name, &err)) >= 0)
        n++;
    cr_expect_eq(fd, PSD_EUNAVAILABLE);
}

Test(handoff, without_a_free_descriptor_no_connection_is_accepted_and_none_is_received)
{
    send_descriptors(1, 1);
    const int knocks = psd_handoff_connect(name, NULL);
    cr_assert_geq(knocks, 0);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){ knocks + 1, knocks + 1 });
    cr_expect_eq(psd_handoff_accept(listener, &err), PSD_ESYSTEM);
    cr_expect_eq(psd_handoff_receive(far, packet, &passed, &err), PSD_ESYSTEM, "which is not the peer's fault");
    cr_expect_lt(psd_handoff_connect(name, &err), 0);
    cr_expect_lt(psd_handoff_listen(name, &err), 0);
}

Test(handoff, only_the_same_user_is_our_own)
{
    cr_expect(psd_handoff_is_own(1000, 1000));
    cr_expect(psd_handoff_is_own(0, 0));
    cr_expect_not(psd_handoff_is_own(0, 1000), "not even root");
    cr_expect_not(psd_handoff_is_own(1000, 0));
    cr_expect_not(psd_handoff_is_own(1001, 1000));
    cr_expect_not(psd_handoff_is_own((uid_t)-1, (uid_t)-1));
}

/* A process of another user, if this process may change its user. */
Test(handoff, another_user_is_refused)
{
    if (geteuid())
        cr_skip_test("only root can become another user");
    cr_assert_eq(seteuid(65534), 0);
    const int other = psd_handoff_connect(name, &err);
    cr_expect_eq(other, PSD_EAUTH, "it sees that the listener is not its own");
    cr_assert_eq(seteuid(0), 0);
    cr_expect_eq(psd_handoff_accept(listener, &err), PSD_EAUTH);
    cr_expect(strstr(err.text, "another user"), "%s", err.text);
}

Test(handoff, tokens_differ_and_a_token_equals_only_itself)
{
    uint8_t a[PSD_TOKEN_BYTES], b[PSD_TOKEN_BYTES];
    psd_token_draw(a);
    psd_token_draw(b);
    cr_expect_not(psd_token_is(a, b));
    memcpy(b, a, sizeof b);
    cr_expect(psd_token_is(a, b));
    for (int i = 0; i < PSD_TOKEN_BYTES; i++) {
        b[i] ^= 1;
        cr_expect_not(psd_token_is(a, b));
        b[i] ^= 1;
    }
}
