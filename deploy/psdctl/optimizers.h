/* optimizers.h - `psdctl optimizers`: what each update rule is. */
#pragma once

/* The verb: optimizers [--json] [NAME]. Prints, for every optimizer or the named one, its mathematics in one
 * line, its defaults, its state in bytes per parameter, and its paper. Returns the exit code. */
int psd_ctl_optimizers(int argc, char **argv);
