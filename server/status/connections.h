/* connections.h - connections to the status endpoint, which has room for a few. When it is full and another one comes,
 * the connection that has been without a complete request for longest is closed. So slow or silent clients do not
 * keep others out. Belongs to the endpoint's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    PSD_CONNECTIONS_MOST = 64,                      /* open at most, not counting those that stay */
    PSD_CONNECTIONS_ROOM = PSD_CONNECTIONS_MOST * 4 /* including those that stay and those that are closing */
};

typedef struct psd_connection {
    int fd;         /* borrowed; -1: unused */
    uint64_t turn;  /* when it last sent a request, or connected; 0: it stays, or is closing */
    bool has_asked; /* it has sent a complete request, which is being answered */
} psd_connection_t;

typedef struct psd_connections {
    psd_connection_t at[PSD_CONNECTIONS_ROOM];
    uint64_t turn; /* of the last question */
} psd_connections_t;

void psd_connections_init(psd_connections_t *self);

/* Take in a new connection; NULL when there is no room for it. When there are too many, this closes the one that has sent no
 * request for longest, with 503 and Retry-After if it has not been answered yet. */
psd_connection_t *psd_connections_come(psd_connections_t *self, int fd);

/* It has sent a complete request; it stays for as long as it likes; it has gone. NULL is fine. */
void psd_connections_ask(psd_connections_t *self, psd_connection_t *connection);
void psd_connections_stay(psd_connection_t *connection);
void psd_connections_go(psd_connection_t *connection);
