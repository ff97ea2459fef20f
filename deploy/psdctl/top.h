/* top.h - `psdctl top`: a server's status on the whole terminal, renewed each second. A view: it changes
 * nothing. */
#pragma once

/* The verb: top [URL]. Keys: q ends, s sorts workers by another column, ? explains. Exit code 0 after q; 64
 * where there is no terminal; 69 when nobody answers at the start. */
int psd_ctl_top(int argc, char **argv);
