/* SPDX-License-Identifier: MIT */
/* What a command came to, and the one line on standard error that says why it failed. */
#ifndef AXISNORM_MESSAGE_H
#define AXISNORM_MESSAGE_H

/* The exit statuses of the command. */
enum outcome {
  DONE = 0,
  FAILED = 1, /* the work failed: a file, the disk, the memory, a shape in a file */
  MISUSED = 2 /* the call itself is wrong */
};

/* Both print "axisnorm: WHAT: WHY" and return their outcome. Only the first message of a run is
 * printed, so that a failure is one line whatever fails after it. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
enum outcome
message_failed(const char *what, const char *format, ...);

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
enum outcome
message_misused(const char *what, const char *format, ...);

/* The character as it may stand in a line: '?' for one that would control a terminal. */
char message_character(char c);

/* What to do before the message is printed: to wipe what else stands in the line. */
void message_before(void (*action)(void));

/* Fails with "not enough memory". */
enum outcome message_no_memory(void);

#endif
