/* run.h - `psdctl run JOB`: a whole job on this machine, servers and workers as child processes, which are
 * started again when they die; and `psdctl launch`: the same on several machines. */
#pragma once

/* The verb: run [options] [JOB]. Starts server 0 on a free port, then the other servers and the workers;
 * keeps their logs in RUN_DIR/logs, shows the first worker's progress and everybody's warnings, and prints
 * the summary. A child that is lost is started again, as long as `restarts` of its own are left (restarts.h); the first that fails
 * for good stops the others and is named. SIGTERM and SIGINT end the round and give 75; a second one ends at
 * once. Returns the exit code. argv[0] is what help calls the program. */
int psd_ctl_run(int argc, char **argv);

/* The same on the hosts of `hostfile` (hosts.h), each child by way of a remote shell and an agent at its far end (agent.h). Servers
 * listen on all addresses of their host, with keys: those of the job, or new ones that only this launch has. A host that cannot be
 * reached when the job starts ends it, and is named; one that is lost later counts as a child that died. */
int psd_ctl_launch(int argc, char **argv);

/* What a child runs first: PARENT BINARY ARG... . Dies with its parent from here on, leaves its process
 * group, so that Ctrl-C reaches it through psdctl only, and becomes BINARY. Returns only when it cannot: the
 * exit code. */
int psd_ctl_child(int argc, char **argv);

/* The word that makes psdctl call psd_ctl_child. */
#define PSD_CTL_CHILD "--as-child"
