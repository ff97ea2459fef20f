#include "server/crowd.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

unsigned psd_crowd_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > UINT32_MAX ? UINT32_MAX
                                                                           : (unsigned)limit.rlim_cur;
}

/* The lowest number that is free, which a new descriptor gets: so many are in use at least. -1: there is
 * none. */
static int take_lowest(void) { return epoll_create1(EPOLL_CLOEXEC); }

static bool is_near(int fd) { return fd < 0 || (unsigned)fd + PSD_CROWD_NEAR >= psd_crowd_limit(); }

static void let_go(psd_crowd_t *self)
{
    while (self->n_reserve)
        close(self->reserve[--self->n_reserve]);
}

/* False, and nothing is held, when that would leave too few. */
static bool hold_back(psd_crowd_t *self)
{
    while (self->n_reserve < PSD_CROWD_RESERVE) {
        const int fd = take_lowest();
        if (fd >= 0)
            self->reserve[self->n_reserve++] = fd;
        if (is_near(fd)) {
            let_go(self);
            return false;
        }
    }
    return true;
}

void psd_crowd_open(psd_crowd_t *self)
{
    struct rlimit limit;
    *self = (psd_crowd_t){ .n_reserve = 0 };
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < PSD_CROWD_MOST) {
        limit.rlim_cur = limit.rlim_max < PSD_CROWD_MOST ? limit.rlim_max : PSD_CROWD_MOST;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    hold_back(self);
}

psd_crowd_do_t psd_crowd_look(psd_crowd_t *self, uint64_t now_ms)
{
    if (self->full_ms) {
        if (now_ms < self->full_ms + PSD_CROWD_PAUSE_MS || !hold_back(self))
            return PSD_CROWD_REST;
        self->full_ms = 0;
        return PSD_CROWD_TAKE;
    }
    const int fd = take_lowest();
    if (fd >= 0)
        close(fd);
    if (!is_near(fd))
        return PSD_CROWD_REST;
    let_go(self);
    self->full_ms = now_ms;
    return PSD_CROWD_REFUSE;
}

void psd_crowd_close(psd_crowd_t *self) { let_go(self); }
