/* transcript.h - scenarios of a state machine with all that it does: a file of tests/golden/transcripts has the events, one a line
 * after "> ", and below each the actions that follow from it, with every field that is not zero. A test plays the events again and
 * compares line by line (kept.h). */
#pragma once

#include "proto/actions.h"

/* Carries out one event, which it calls `event`: changes the machine, and calls transcript_actions. */
typedef void transcript_perform_t(const char *event);

/* The name of a receiver, NULL for one that has none. */
typedef const char *transcript_name_t(psd_peer_t peer);

/* Play tests/golden/transcripts/NAME.txt. Lines that begin with "#", and empty ones, stay as they are. NULL when the machine does
 * what the file says; otherwise the first difference, or an event's "NAME=..." for which nobody has asked, valid until the next
 * call. */
const char *transcript_play(const char *name, transcript_perform_t *perform, transcript_name_t *name_of);

/* Write these actions down as those of time `now_ms`, and drop them. One that comes again below the same event stands there once,
 * with all its times. Work and references are not handed back: a test that has any looks at the actions first. */
void transcript_actions(uint64_t now_ms, psd_actions_t *actions);

/* Write another line, such as a fact. */
void transcript_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* -- what an event says */

/* The number after "NAME=", or `otherwise`. */
double transcript_number(const char *event, const char *name, double otherwise);

/* The word or the "quoted text" after "NAME="; "" when there is none. Valid until the next call. */
const char *transcript_text(const char *event, const char *name);

/* Set the fields of a header that the event names. */
void transcript_fields(const char *event, psd_msg_t *msg);

/* The kind of this name, which must be one. */
psd_kind_t transcript_kind(const char *name);
