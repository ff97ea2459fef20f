/* hangup.h - SIGHUP, which a terminal sends when it closes: programs that train treat it as a request to stop, like SIGTERM, unless
 * they were started with it ignored, as by nohup. It may come twice, from the shell and from the terminal, so it never counts as
 * the second signal, which stops at once. */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether this program was started with SIGHUP ignored. */
static inline bool psd_hangup_is_ignored(void)
{
    struct sigaction now;
    return sigaction(SIGHUP, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}
