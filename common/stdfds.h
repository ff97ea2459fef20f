/* stdfds.h - the three descriptors that every program counts on. */
#pragma once

/* First thing in main: open /dev/null on those of 0, 1 and 2 that are closed, as after `psd <&- >&-`. Else the next file
 * or socket would get such a number, and what is printed would go to it. */
void psd_stdfds_open(void);
