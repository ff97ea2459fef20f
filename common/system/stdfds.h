/* stdfds.h - the three descriptors that every program relies on. */
#pragma once

/* First thing in main: open /dev/null on those of 0, 1 and 2 that are closed, as after `psd <&- >&-`. Otherwise the next
 * file or socket would get such a number, and output would go to it. */
void psd_stdfds_open(void);

/* The same for a program whose output is its result: printing to a closed 1 fails instead of vanishing. */
void psd_stdfds_open_strict(void);

/* Last thing in main: flush stdout. Returns `code`, but 74 instead of 0 when printed output was lost; the program `name` then
 * reports that on stderr. */
int psd_stdfds_end(const char *name, int code);
