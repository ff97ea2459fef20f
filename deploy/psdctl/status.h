/* status.h - `psdctl status`: what a server says of itself, in a few lines. */
#pragma once

/* The verb: status [--json] [URL]. URL is the status endpoint that the server printed when it was ready, with
 * or without http:// (default 127.0.0.1:7471). Exit code 0: training or finished; 75: not yet, or stopped; 1:
 * failed; 69: nobody answers. */
int psd_ctl_status(int argc, char **argv);
