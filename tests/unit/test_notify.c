#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/system/notify.h"

TestSuite(notify, .timeout = 600);

/* Listen at `name`, '@' for an abstract one; the manager's side. */
static int listen_at(const char *name)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    memcpy(at.sun_path, name, strlen(name));
    if (*name == '@')
        at.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))), 0);
    return fd;
}

static void assert_told(const char *name)
{
    char text[64] = "";
    int fd = listen_at(name);
    setenv("NOTIFY_SOCKET", name, 1);
    psd_notify("READY=1");
    cr_assert_eq(recv(fd, text, sizeof text - 1, MSG_DONTWAIT), 7);
    cr_assert_str_eq(text, "READY=1");
    for (int i = 0; i < 10000; i++) /* no process reads: notifying must not block */
        psd_notify("WATCHDOG=1");
    close(fd);
}

Test(notify, the_manager_hears_it_at_a_path_and_at_an_abstract_name)
{
    char name[64];
    snprintf(name, sizeof name, "/tmp/psd-notify-%d", (int)getpid());
    assert_told(name);
    unlink(name);
    snprintf(name, sizeof name, "@psd-notify-%d", (int)getpid());
    assert_told(name);
}

Test(notify, without_a_manager_nothing_happens)
{
    unsetenv("NOTIFY_SOCKET");
    psd_notify("READY=1");
    setenv("NOTIFY_SOCKET", "/nowhere/there/is/none", 1);
    psd_notify("READY=1");
    setenv("NOTIFY_SOCKET", "relative", 1);
    psd_notify("READY=1");
}

Test(notify, the_watchdog_expects_two_reports_per_period_of_the_process_it_watches)
{
    char pid[16];
    unsetenv("WATCHDOG_PID");
    unsetenv("WATCHDOG_USEC");
    cr_assert_eq(psd_notify_watchdog_ms(), 0);
    setenv("WATCHDOG_USEC", "10000000", 1);
    cr_assert_eq(psd_notify_watchdog_ms(), 5000);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    cr_assert_eq(psd_notify_watchdog_ms(), 5000);
    setenv("WATCHDOG_PID", "1", 1);
    cr_assert_eq(psd_notify_watchdog_ms(), 0);
}

/* The next message, which has to come within 20 s. */
static const char *next_word(int fd)
{
    static char text[256];
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    cr_assert_eq(poll(&ready, 1, 20000), 1, "no message came");
    ssize_t n = recv(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

Test(notify, a_server_reports_that_it_is_ready_then_that_it_lives_then_that_it_stops, .timeout = 600)
{
    char name[64];
    snprintf(name, sizeof name, "@psd-notify-server-%d", (int)getpid());
    int fd = listen_at(name);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("NOTIFY_SOCKET", name, 1);
        setenv("WATCHDOG_USEC", "200000", 1); /* a message every 100 ms */
        execl(PSD_BIN_DIR "/psd", "psd", "--listen=tcp://127.0.0.1:0", "--status-listen=none", "--log-level=error", "--insecure",
              (char *)NULL);
        _exit(127);
    }
    bool ready = false;
    for (int i = 0; i < 100 && !ready; i++) /* it reports that it lives before it is ready */
        ready = !strcmp(next_word(fd), "READY=1");
    cr_expect(ready);
    for (int i = 0; i < 3; i++)
        cr_expect_str_eq(next_word(fd), "WATCHDOG=1\nSTATUS=step 0, loss 0");
    kill(pid, SIGTERM);
    const char *word = next_word(fd);
    for (int i = 0; i < 100 && strcmp(word, "STOPPING=1"); i++)
        word = next_word(fd);
    cr_expect_str_eq(word, "STOPPING=1");
    int status = 0;
    waitpid(pid, &status, 0);
    cr_expect_eq(WEXITSTATUS(status), 75);
    close(fd);
}
