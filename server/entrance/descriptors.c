#include "server/entrance/descriptors.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

unsigned psd_descriptors_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > UINT32_MAX ? UINT32_MAX : (unsigned)limit.rlim_cur;
}

/* The lowest free number, which the next descriptor gets: at least that many are in use. -1: none is free. */
static int take_lowest(void) { return epoll_create1(EPOLL_CLOEXEC); }

static bool is_near(int fd) { return fd < 0 || (unsigned)fd + PSD_DESCRIPTORS_NEAR >= psd_descriptors_limit(); }

static void let_go(psd_descriptors_t *self)
{
    while (self->n_reserve)
        close(self->reserve[--self->n_reserve]);
}

/* False when that would leave too few; then nothing is held. */
static bool hold_back(psd_descriptors_t *self)
{
    while (self->n_reserve < PSD_DESCRIPTORS_RESERVE) {
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

void psd_descriptors_open(psd_descriptors_t *self)
{
    struct rlimit limit;
    *self = (psd_descriptors_t){ .n_reserve = 0 };
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < PSD_DESCRIPTORS_MOST) {
        limit.rlim_cur = limit.rlim_max < PSD_DESCRIPTORS_MOST ? limit.rlim_max : PSD_DESCRIPTORS_MOST;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    hold_back(self);
}

psd_descriptors_do_t psd_descriptors_look(psd_descriptors_t *self, uint64_t now_ms)
{
    if (self->full_ms) {
        if (now_ms < self->full_ms + PSD_DESCRIPTORS_PAUSE_MS || !hold_back(self))
            return PSD_DESCRIPTORS_REST;
        self->full_ms = 0;
        return PSD_DESCRIPTORS_TAKE;
    }
    const int fd = take_lowest();
    if (fd >= 0)
        close(fd);
    if (!is_near(fd))
        return PSD_DESCRIPTORS_REST;
    let_go(self);
    self->full_ms = now_ms;
    return PSD_DESCRIPTORS_REFUSE;
}

void psd_descriptors_close(psd_descriptors_t *self) { let_go(self); }

bool psd_descriptors_are_full(const psd_descriptors_t *self) { return self->full_ms != 0; }
