/* compare.h - `psdctl compare JOB`: the same job with several optimizers, each with several seeds. */
#pragma once

/* The verb: compare [options] JOB --optimizers RULE... . Trains the job once per rule and seed, each time as psdctl run
 * does, and shows how they go. What is finished is kept in the comparison's directory; started again with the same
 * directory, it goes on from there. Ends in a table, compare.json and report.html. Returns the exit code: 0 when all
 * runs came to an end, diverged ones included; that of the first run that failed; 1 when runs of one seed did not begin
 * alike; 75 after SIGINT or SIGTERM. */
int psd_ctl_compare(int argc, char **argv);
