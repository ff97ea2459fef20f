/* hangup.h - SIGHUP, which a terminal that is closed sends: programs that train take it as a wish to stop, like SIGTERM,
 * unless they were started with it ignored, as by nohup. It may come twice, from the shell and from the terminal: it is never
 * the second signal that stops at once. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether whoever started this program wants SIGHUP ignored. */
static inline bool psd_hangup_is_ignored(void)
{
    struct sigaction now;
    return sigaction(SIGHUP, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}
