/* agent.h - psdctl launch's agent, which the remote shell runs on a host. It reads its order, one line of JSON, from psdctl launch,
 * runs the program in it, and ensures that this program does not outlive the connection.
 *
 *     ORDER              (order.h), the first line
 *     alive              every PSD_AGENT_ALIVE_MS; after PSD_AGENT_SILENCE_MS without a message, psdctl launch is gone
 *     signal 15          for the program
 *
 * Each secret of the order becomes a file in memory, whose name the program gets. The program writes to stdout and stderr, after
 * the agent's first line on stdout, "psd agent VERSION". The agent ends as the program does: with its exit status, or 128 and the
 * number of the signal. */
#pragma once

/* The word on the command line that calls psd_ctl_agent. */
#define PSD_CTL_AGENT   "--as-agent"
#define PSD_AGENT_HELLO "psd agent "

enum { PSD_AGENT_ALIVE_MS = 2000, PSD_AGENT_SILENCE_MS = 30000, PSD_AGENT_GONE = 128, PSD_AGENT_UNREACHED = 255 };

/* The agent itself; returns its exit status. */
int psd_ctl_agent(int argc, char **argv);
