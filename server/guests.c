#include "server/guests.h"

#include <stddef.h>
#include <sys/socket.h>

void psd_guests_init(psd_guests_t *self)
{
    *self = (psd_guests_t){ .turn = 0 };
    for (unsigned i = 0; i < PSD_GUESTS_ROOM; i++)
        self->at[i].fd = -1;
}

static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
                           "Content-Type: text/plain\r\nContent-Length: 42\r\n\r\n"
                           "too many readers at once; try again later\n";

static void send_one_away(psd_guests_t *self)
{
    psd_guest_t *oldest = NULL;
    unsigned n = 0;
    for (psd_guest_t *g = self->at; g < self->at + PSD_GUESTS_ROOM; g++)
        if (g->turn) {
            n++;
            oldest = !oldest || g->turn < oldest->turn ? g : oldest;
        }
    if (n <= PSD_GUESTS_MOST)
        return;
    if (!oldest->has_asked)
        send(oldest->fd, busy, sizeof busy - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(oldest->fd, SHUT_RDWR);
    oldest->turn = 0;
}

psd_guest_t *psd_guests_come(psd_guests_t *self, int fd)
{
    for (psd_guest_t *g = self->at; g < self->at + PSD_GUESTS_ROOM; g++)
        if (g->fd < 0) {
            *g = (psd_guest_t){ .fd = fd, .turn = ++self->turn };
            send_one_away(self);
            return g;
        }
    return NULL;
}

void psd_guests_ask(psd_guests_t *self, psd_guest_t *guest)
{
    if (guest)
        guest->has_asked = true;
    if (guest && guest->turn)
        guest->turn = ++self->turn;
}

void psd_guests_stay(psd_guest_t *guest)
{
    if (guest)
        guest->turn = 0;
}

void psd_guests_go(psd_guest_t *guest)
{
    if (guest)
        *guest = (psd_guest_t){ .fd = -1 };
}
