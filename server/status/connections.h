/* connections.h - connections to the status endpoint, of which there is room for a few: when another one comes,
 * who has said nothing whole for longest goes. So those who speak slowly, or only listen, keep nobody out who
 * asks a question. Belongs to the endpoint's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    PSD_CONNECTIONS_MOST = 64,                      /* that may be here; those who stay are not counted */
    PSD_CONNECTIONS_ROOM = PSD_CONNECTIONS_MOST * 4 /* with those who stay, and those who are on their way out */
};

typedef struct psd_connection {
    int fd;         /* borrowed; -1: nobody is here */
    uint64_t turn;  /* when it last asked, or came; 0: it stays, or has been sent away */
    bool has_asked; /* something whole, which is answered */
} psd_connection_t;

typedef struct psd_connections {
    psd_connection_t at[PSD_CONNECTIONS_ROOM];
    uint64_t turn; /* of the last question */
} psd_connections_t;

void psd_connections_init(psd_connections_t *self);

/* Take in a new connection; NULL when there is no place for it. When too many are here, the one that has not asked for longest
 * is closed, with 503 and Retry-After if it has not been answered yet. */
psd_connection_t *psd_connections_come(psd_connections_t *self, int fd);

/* It asks something whole; it stays for as long as it likes; it has gone. NULL is fine. */
void psd_connections_ask(psd_connections_t *self, psd_connection_t *connection);
void psd_connections_stay(psd_connection_t *connection);
void psd_connections_go(psd_connection_t *connection);
