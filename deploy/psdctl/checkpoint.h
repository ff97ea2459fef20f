/* checkpoint.h - `psdctl checkpoint` and `psdctl inspect`: what is saved, whether it is whole, and what may
 * go. */
#pragma once

/* The verb: checkpoint list|verify|prune DIR ... Returns the exit code: 65 when something is damaged, 66 when
 * there is none. */
int psd_ctl_checkpoint(int argc, char **argv);

/* The verb: inspect [--json] FILE. Arrays and notes of a safetensors file. Returns the exit code. */
int psd_ctl_inspect(int argc, char **argv);
