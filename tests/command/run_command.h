/* SPDX-License-Identifier: MIT */
/* Runs the axisnorm command as a user would, in a directory of its own. */
#ifndef AXISNORM_TEST_RUN_COMMAND_H
#define AXISNORM_TEST_RUN_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What came of a run: `status` is the exit status, or minus the signal that ended it. */
struct run {
  int status;
  char *out, *err;
};

/* How to run, beyond the arguments. All zero: as usual. */
struct setting {
  const char *stdin_path, *stdout_path; /* null: /dev/null; captured */
  const bool *closed;                   /* null: none; else which of descriptors 0 to 2 */
  const char *variable, *value;         /* an environment variable to set */
  long file_size_limit;                 /* bytes; 0: none */
  bool terminal;                        /* standard error is one */
};

enum { ARGUMENTS_LIMIT = 64 };

/* `line` is cut at its spaces; a later %s takes the next of the further arguments whole, so that a
 * path may hold spaces. */
struct run run_command(const char *line, ...);
struct run run_with(const struct setting *setting, const char *line, ...);
pid_t start_command(const struct setting *setting, const char *line, ...);
void run_free(struct run *run);

/* Asserts a failure as the contract wants it: that status, nothing on standard output, one line on
 * standard error that starts with "axisnorm: WHAT: ". `what` null: anything. Frees the run. */
void expect_error(struct run run, int status, const char *what);

/* Asserts exit 0 and an empty standard error. Returns the standard output; the caller frees. */
char *expect_done(struct run run);

/* The test's own directory: made before, removed with all that is in it after. */
extern char directory[64];
void make_directory(void);
void remove_directory(void);
void skip_test(const char *why); /* removes the directory too, which a skipped test would leave */
const char *path_of(const char *name); /* DIRECTORY/NAME, good for the next 64 calls */
int files_in_directory(void);
bool file_exists(const char *name);

/* An array as the tests hold it. */
struct array {
  int rank;
  int64_t shape[5];
  int64_t count;
  float *data;
};

struct array array_of(const char *shape); /* "2,6,5,5"; zeros */
void array_free(struct array *array);
void fill_normal(struct array *array, double offset, uint64_t seed);
/* A normal one of that shape, also written to a file. */
struct array normal_array(const char *name, const char *shape, double offset, uint64_t seed);
const char *write_array(const char *name, const struct array *array); /* its path */
struct array read_array(const char *name);

/* Files of any type, "<f8" of size 8: elements apart from an array, which gives or takes the shape. */
const char *write_elements(const char *name, const struct array *shape, const char *type,
                           const void *elements, size_t size);
void *read_elements(const char *name, const char *type, size_t size, struct array *shape);
void write_bytes(const char *name, const void *bytes, size_t size);
char *read_text(const char *name, size_t *size);

#endif
