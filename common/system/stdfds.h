/* stdfds.h - the three descriptors that every program counts on. */
#pragma once

/* First thing in main: open /dev/null on those of 0, 1 and 2 that are closed, as after `psd <&- >&-`. Else the next file
 * or socket would get such a number, and what is printed would go to it. */
void psd_stdfds_open(void);

/* The same for a program whose output is its result: what is printed to a closed 1 does not vanish, but fails. */
void psd_stdfds_open_strict(void);

/* Last thing in main: write what stdout still holds. Returns `code`, but 74 for a 0 when something that was printed is lost;
 * the program `name` then says so on stderr. */
int psd_stdfds_end(const char *name, int code);
