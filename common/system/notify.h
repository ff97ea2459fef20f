/* notify.h - a word to the service manager, if there is one: systemd's sd_notify(3) without its library. */
#pragma once

#include <stdint.h>

/* Send `state` ("READY=1", "STATUS=...\nWATCHDOG=1") to the socket that the environment names; nothing where
 * it names none, and nothing is waited for. Any thread. */
void psd_notify(const char *state);

/* How often WATCHDOG=1 is to be sent, twice in the time that the manager waits; 0: it does not watch this
 * process. */
uint64_t psd_notify_watchdog_ms(void);
