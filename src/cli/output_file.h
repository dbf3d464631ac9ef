/* SPDX-License-Identifier: MIT */
/* Output files that appear whole or not at all: each is written under a temporary name beside its
 * place, and renamed once the whole command has worked. Whatever else ends the command, a signal
 * included, removes the temporary files. */
#ifndef AXISNORM_OUTPUT_FILE_H
#define AXISNORM_OUTPUT_FILE_H

#include "message.h"

#include <stdio.h>

struct output_file;

/* Once, first of all: signal handlers, and the removal at exit. */
void output_start(void);

/* Opens a temporary file for `path`, which must live as long as the command. */
enum outcome output_open(const char *path, struct output_file **output);

FILE *output_stream(struct output_file *output);
const char *output_path(const struct output_file *output);

/* Renames all outputs to their places. After an error output_discard_all removes those that have
 * not taken theirs. */
enum outcome output_commit_all(void);
void output_discard_all(void);

#endif
