/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* File names may hold any byte; a line end or an escape sequence in one must not reach the
 * terminal. */
char message_character(char c) {
  unsigned char byte = (unsigned char)c;
  return byte < 0x20 || byte == 0x7f ? '?' : c;
}

static void (*before_message)(void);

void message_before(void (*action)(void)) {
  before_message = action;
}

static void print_line(const char *what, const char *format, va_list arguments) {
  static bool printed;
  if (printed) return;
  printed = true;

  char line[6144];
  size_t room = sizeof line - 1; /* one byte for the line end */
  int prefix = snprintf(line, room, "axisnorm: %.4096s: ", what);
  size_t length = prefix < 0 ? 0 : (size_t)prefix;
  int added = vsnprintf(line + length, room - length, format, arguments);
  if (added > 0) length += (size_t)added;
  if (length > room - 1) length = room - 1;
  for (size_t i = 0; i < length; i++) line[i] = message_character(line[i]);
  line[length++] = '\n';

  if (before_message != NULL) before_message();
  /* A broken standard error leaves nobody to tell. */
  ssize_t written = write(STDERR_FILENO, line, length);
  (void)written;
}

enum outcome message_failed(const char *what, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_line(what, format, arguments);
  va_end(arguments);
  return FAILED;
}

enum outcome message_misused(const char *what, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_line(what, format, arguments);
  va_end(arguments);
  return MISUSED;
}

enum outcome message_no_memory(void) {
  return message_failed("memory", "not enough memory for this work");
}
