/* notify.h - notifies the service manager, if there is one: systemd's sd_notify(3) without its library. */
#pragma once

#include <stdint.h>

/* Send `state` ("READY=1", "STATUS=...\nWATCHDOG=1") to the socket that the environment names, without waiting; does nothing if it
 * names none. Any thread. */
void psd_notify(const char *state);

/* The interval for WATCHDOG=1, half of the manager's timeout; 0: it does not watch this process. */
uint64_t psd_notify_watchdog_ms(void);
