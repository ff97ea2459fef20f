/* agent.h - the far end of psdctl launch: what the remote shell runs on a host. It reads its order, one line of JSON, from the
 * near end, runs the one program that it names, and sees to it that this program does not outlive the connection.
 *
 *     {"directory": "/home/ann/job", "make": "runs/mnist-1", "environment": {}, "words": ["psd", "--servers=2", ...],
 *      "secrets": {"--server-key": "secret ..."}}
 *     alive              every PSD_AGENT_ALIVE_MS; after PSD_AGENT_SILENCE_MS without a word, the near end is gone
 *     signal 15          for the program
 *
 * Secrets come this way, and not as words, which everybody on the host can read: each becomes a file in memory, of which the
 * program is told the name. The program says what it says on stdout and stderr, after the agent's first line on stdout,
 * "psd agent VERSION". The agent ends as the program does: with its exit status, or 128 and the number of the signal. */
#pragma once

#include "deploy/psdctl/run/keyring.h"

/* The word of the command line that calls psd_ctl_agent. */
#define PSD_CTL_AGENT   "--as-agent"
#define PSD_AGENT_HELLO "psd agent "

enum { PSD_AGENT_ALIVE_MS = 2000, PSD_AGENT_SILENCE_MS = 30000, PSD_AGENT_GONE = 128, PSD_AGENT_UNREACHED = 255 };

/* The order, with its end of line; the caller frees it, after a wipe. `make` is a directory to be made there, words[0] the name of a
 * program beside psdctl; secrets may be NULL. NULL when memory runs out. */
char *psd_agent_order(const char *directory, const char *make, char *const *words, const psd_keyring_t *secrets);

/* The agent itself; returns its exit status. */
int psd_ctl_agent(int argc, char **argv);
