/* run.h - `psdctl run JOB`: runs a whole job on this machine, with servers and workers as child processes, which it restarts when
 * they crash; and `psdctl launch`: the same on several machines. */
#pragma once

/* The verb: run [options] [JOB]. Starts server 0 on a free port, then the other servers and the workers; keeps their logs in
 * RUN_DIR/logs, shows the first worker's progress and all warnings, and prints the summary. It restarts a lost child while that
 * child has `restarts` left (restarts.h); the first final failure stops the others and is reported. SIGTERM and SIGINT end the
 * round and give 75; a second one ends at once. Returns the exit code. argv[0] is the program's name in --help. */
int psd_ctl_run(int argc, char **argv);

/* The same on the hosts of `hostfile` (hosts.h), each child through a remote shell and an agent on the host (agent.h). Servers
 * listen on all addresses of their host, with keys: those of the job, or new ones for this launch only. A host that cannot be
 * reached at the start ends the job, and is named; one that is lost later counts as a crashed child. */
int psd_ctl_launch(int argc, char **argv);

/* The first code of a child, with the words PARENT BINARY ARG... . From here on the child ends with its parent; it leaves the
 * parent's process group, so that Ctrl-C reaches it only through psdctl, and executes BINARY. Returns only when it cannot: the exit
 * code. */
int psd_ctl_child(int argc, char **argv);

/* The word that makes psdctl call psd_ctl_child. */
#define PSD_CTL_CHILD "--as-child"
