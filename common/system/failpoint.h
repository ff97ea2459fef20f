/* failpoint.h - named places at which a program of a test build crashes or stalls on request:
 *
 *     FAILPOINT=srv.send.WEIGHTS:kill@3  FAILPOINT_ONCE=/tmp/fired  psdctl run job.yaml
 *
 * is meant for the servers and workers of the job, not for psdctl.
 *
 * When a process passes the place for the third time, it is killed as if by SIGKILL (`kill`), or sleeps for longer than a lease
 * (`stall`); without a number, at the first time. With FAILPOINT_ONCE, the first process to get there creates that file, and all
 * other and later processes pass. Other builds compile failpoints to nothing. Places are in the shells, before and after every
 * action that is visible outside: the pure core has none, because its events happen whole or not at all.
 *
 * Any thread. */
#pragma once

enum { PSD_FAILPOINT_STALL_MS = 1500 };

/* X(place, meaning of the word after the second dot): the table of places. */
#define PSD_FAILPOINT_PLACES(X)                                                                                                    \
    X("srv.recv", BY_KIND) /* a well-formed message has come, and is not handled yet */                                            \
    X("srv.send", BY_KIND) /* it is about to be sent */                                                                            \
    X("srv.sent", BY_KIND) /* it was handed to the socket */                                                                       \
    X("srv.step", ALONE)   /* a part is about to be stepped on the pool */                                                         \
    X("srv.stepped", ALONE)                                                                                                        \
    X("srv.load", ALONE) /* a checkpoint is about to be read */                                                                    \
    X("srv.loaded", ALONE)                                                                                                         \
    X("wrk.recv", BY_KIND)                                                                                                         \
    X("wrk.send", BY_KIND)                                                                                                         \
    X("wrk.sent", BY_KIND)                                                                                                         \
    X("disk.opened", BY_FILE) /* the temporary file is there, empty */                                                             \
    X("disk.reserved", BY_FILE)                                                                                                    \
    X("disk.write", BY_FILE) /* bytes are about to be written */                                                                   \
    X("disk.sync", BY_FILE)  /* all is written, nothing flushed */                                                                 \
    X("disk.synced", BY_FILE)                                                                                                      \
    X("disk.rename", BY_FILE) /* closed under its temporary name */                                                                \
    X("disk.renamed", BY_FILE)                                                                                                     \
    X("disk.done", BY_FILE) /* the directory is flushed, too */                                                                    \
    X("disk.prune", ALONE)  /* something old is about to be removed */

#ifdef PSD_FAILPOINTS
/* Pass the place; `what` may be NULL. */
void psd_failpoint(const char *place, const char *what);

/* Let this process pass all places, because it only starts the processes that are to fail. Call it before it passes any. */
void psd_failpoint_spare(void);
#define PSD_FAILPOINT(place, what) psd_failpoint(place, what)
#define PSD_FAILPOINT_SPARE()      psd_failpoint_spare()
#else
#define PSD_FAILPOINT(place, what) ((void)(place), (void)(what))
#define PSD_FAILPOINT_SPARE()      ((void)0)
#endif
