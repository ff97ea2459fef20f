#include "common/system/failpoint.h"

#ifdef PSD_FAILPOINTS

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The order, read once. */
static struct {
    char name[80];
    bool kills;
    int at;
} order;
static atomic_int passed;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void spare(void) { order.at = 0; }

void psd_failpoint_spare(void) { pthread_once(&once, spare); }

static void read_order(void)
{
    const char *text = getenv("FAILPOINT");
    char action[8] = "";
    if (!text)
        return;
    order.at = 1;
    int n = sscanf(text, "%79[^:]:%7[a-z]@%d", order.name, action, &order.at);
    order.kills = !strcmp(action, "kill");
    if (n < 2 || order.at < 1 || !(order.kills || !strcmp(action, "stall"))) {
        fprintf(stderr, "FAILPOINT=%s is malformed; write NAME:kill[@N] or NAME:stall[@N]\n", text);
        _exit(64);
    }
}

/* Whether this process is the one that fires. */
static bool is_first(void)
{
    const char *path = getenv("FAILPOINT_ONCE");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    if (fd >= 0)
        close(fd);
    return !path || fd >= 0;
}

void psd_failpoint(const char *place, const char *what)
{
    pthread_once(&once, read_order);
    size_t n = strlen(place);
    if (!order.at || strncmp(order.name, place, n) != 0 || (what ? order.name[n] != '.' : order.name[n] != '\0') ||
        (what && strcmp(order.name + n + 1, what) != 0))
        return;
    if (atomic_fetch_add(&passed, 1) + 1 != order.at || !is_first())
        return;
    if (order.kills)
        kill(getpid(), SIGKILL);
    struct timespec pause = { PSD_FAILPOINT_STALL_MS / 1000, PSD_FAILPOINT_STALL_MS % 1000 * 1000000L };
    nanosleep(&pause, NULL);
}

#endif
