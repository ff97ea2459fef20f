#include "server/status/connections.h"

#include <stddef.h>
#include <sys/socket.h>

void psd_connections_init(psd_connections_t *self)
{
    *self = (psd_connections_t){ .turn = 0 };
    for (unsigned i = 0; i < PSD_CONNECTIONS_ROOM; i++)
        self->at[i].fd = -1;
}

static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
                           "Content-Type: text/plain\r\nContent-Length: 42\r\n\r\n"
                           "too many readers at once; try again later\n";

static void send_one_away(psd_connections_t *self)
{
    psd_connection_t *oldest = NULL;
    unsigned n = 0;
    for (psd_connection_t *g = self->at; g < self->at + PSD_CONNECTIONS_ROOM; g++)
        if (g->turn) {
            n++;
            oldest = !oldest || g->turn < oldest->turn ? g : oldest;
        }
    if (n <= PSD_CONNECTIONS_MOST)
        return;
    if (!oldest->has_asked)
        send(oldest->fd, busy, sizeof busy - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(oldest->fd, SHUT_RDWR);
    oldest->turn = 0;
}

psd_connection_t *psd_connections_come(psd_connections_t *self, int fd)
{
    for (psd_connection_t *g = self->at; g < self->at + PSD_CONNECTIONS_ROOM; g++)
        if (g->fd < 0) {
            *g = (psd_connection_t){ .fd = fd, .turn = ++self->turn };
            send_one_away(self);
            return g;
        }
    return NULL;
}

void psd_connections_ask(psd_connections_t *self, psd_connection_t *connection)
{
    if (connection)
        connection->has_asked = true;
    if (connection && connection->turn)
        connection->turn = ++self->turn;
}

void psd_connections_stay(psd_connection_t *connection)
{
    if (connection)
        connection->turn = 0;
}

void psd_connections_go(psd_connection_t *connection)
{
    if (connection)
        *connection = (psd_connection_t){ .fd = -1 };
}
