/* verify.h - `psdctl verify`: a job's weights against those of a single process, after every step, bit for bit. */
#pragma once

/* The verb: verify [options] JOB. Trains the job as psdctl run does, then makes its rounds again in one process and
 * compares every tensor after every step, as every worker saw it. Returns the exit code: 0 when all are the same, 1 when
 * one differs or the rounds cannot be made again, else what psdctl run or the job file's mistakes give. */
int psd_ctl_verify(int argc, char **argv);
