/* admin.h - `psdctl pause`, `resume`, `drain`, `set` and `checkpoint save`: an operator's wishes, brought to
 * server 0 of a running job. */
#pragma once

/* The verb whose title argv[0] is ("psdctl pause"). Returns the exit code: 0 when server 0 says that it is
 * done, 69 when it did not answer or it was not done in time, 76 when it refuses. */
int psd_ctl_admin(int argc, char **argv);
