/* wait.h - `psdctl wait`: block until a job has come so far, for scripts. */
#pragma once

/* The verb: wait [--for=ready|finished|step=N] [--timeout SECONDS] [URL]. Follows the events at URL. Exit
 * code 0: it has come so far; 1: the job failed; 75: it ended, or was stopped, before; 69: nobody answered
 * for 10 s, or the timeout has passed, which then is the only limit. */
int psd_ctl_wait(int argc, char **argv);
