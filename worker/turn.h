/* turn.h - which thread runs the library's loop, one at a time: the library's own thread, or the program's, which waits for the
 * same events anyway. An exchange of a small model then needs no wake-up of the other thread, neither on the way out nor back. When
 * the program has been outside the library for GRACE_MS, the library's thread takes over; a program that exchanges without pause
 * never stays away for that long. */
#pragma once

#include <stdbool.h>

typedef struct psd_turn psd_turn_t;

/* No thread has the turn yet, and only the library's thread may take it. `interrupt` ends that thread's wait for events; it is
 * called on the program's thread, and may take effect late. NULL when memory runs out. */
psd_turn_t *psd_turn_new(void (*interrupt)(void *arg), void *arg);
/* Sets `*self_p` to NULL; NULL is fine. No thread may use it any more. */
void psd_turn_destroy(psd_turn_t **self_p);

/* -- the program's thread */

/* From now on this thread may have turns, unless psd_turn_forbid was called, before or after. */
void psd_turn_allow(psd_turn_t *self);
/* The program does not wait in the library, so the library's thread must run the loop, starting at once. */
void psd_turn_forbid(psd_turn_t *self);

/* Take the turn if it is free and this thread may. */
bool psd_turn_try(psd_turn_t *self);
/* Take the turn, interrupting the library's thread if that has it; false if this thread may not have turns. */
bool psd_turn_take(psd_turn_t *self);
void psd_turn_give(psd_turn_t *self);

/* Take the turn for good, even if this thread may not have turns: psd_turn_await then returns false. */
void psd_turn_end(psd_turn_t *self);

/* -- the library's thread */

/* Sleep until it is this thread's turn; false: it will not be again. */
bool psd_turn_await(psd_turn_t *self);
/* Whether this thread may continue; if not, it has given up the turn. Ask after each interruption. */
bool psd_turn_keep(psd_turn_t *self);
