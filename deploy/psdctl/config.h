/* config.h - `psdctl config`: what a job file, the environment and flags come to. */
#pragma once

/* The verb: config [options] [JOB]. Checks them, and prints each option as "key = value   # where it came
 * from"; or, with --markdown alone, the table of options that the README holds. Returns the exit code. */
int psd_ctl_config(int argc, char **argv);
