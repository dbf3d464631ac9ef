/* SPDX-License-Identifier: MIT */
/* The axisnorm command: picks the subcommand, and makes sure that every end is a clean one. */
#define _POSIX_C_SOURCE 200809L
#include "commands.h"
#include "output_file.h"
#include "prepare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command *const commands[] = {&command_compare, &command_apply, &command_bench,
                                                 &command_explain};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static enum outcome print_version(void) {
  axn_plan_info info;
  enum outcome outcome = prepare_machine(0, AXN_ISA_AUTO, &info);
  if (outcome != DONE) return outcome;
  printf("axisnorm %s\ninstruction set: %s\nthreads: %d\n", axn_version(), axn_isa_name(info.isa),
         info.threads);
  return DONE;
}

static void print_help(void) {
  printf(
      "axisnorm: batch, layer, instance, group and other normalizations, compared and applied\n\n"
      "Usage: axisnorm SUBCOMMAND [OPTION VALUE]...\n\n");
  for (int i = 0; i < COMMANDS; i++) printf("  %-10s%s\n", commands[i]->name, commands[i]->summary);
  printf("\n  axisnorm SUBCOMMAND --help   its options and an example\n"
         "  axisnorm --version           version, instruction set, threads\n"
         "\nExample:\n  axisnorm compare\n");
}

static enum outcome run(int count, char **arguments) {
  if (count < 2) return message_misused("subcommand", "missing; see axisnorm --help");
  const char *name = arguments[1];
  bool asks_help = options_ask_help(name);
  if (asks_help || strcmp(name, "--version") == 0) {
    if (count > 2) return message_misused(arguments[2], "nothing is expected after %s", name);
    if (!asks_help) return print_version();
    print_help();
    return DONE;
  }
  for (int i = 0; i < COMMANDS; i++) {
    if (strcmp(name, commands[i]->name) != 0) continue;
    struct options options;
    bool help;
    enum outcome outcome = options_parse(commands[i], count - 2, arguments + 2, &options, &help);
    if (outcome != DONE) return outcome;
    if (!help) return commands[i]->run(&options);
    options_print_help(commands[i]);
    return DONE;
  }
  return message_misused(name, "unknown subcommand; see axisnorm --help");
}

/* A descriptor that the caller closed would go to the first file opened, and what is printed into
 * that file. In its place: an empty input, and outputs that fail when something is written. */
static bool open_standard_streams(void) {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; descriptor++)
    if (fcntl(descriptor, F_GETFD) < 0 && errno == EBADF &&
        open("/dev/null", O_RDONLY) != descriptor)
      return false;
  return true;
}

int main(int count, char **arguments) {
  if (!open_standard_streams()) return FAILED; /* nowhere to say so */
  output_start();
  enum outcome outcome = run(count, arguments);
  if (outcome == DONE) {
    /* A full disk may show only now. Output files appear only once all else has worked. */
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout))
      outcome = message_failed("standard output", "%s", strerror(errno != 0 ? errno : EIO));
    else
      outcome = output_commit_all();
  }
  output_discard_all();
  return (int)outcome;
}
