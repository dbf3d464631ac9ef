/* SPDX-License-Identifier: MIT */
#define _XOPEN_SOURCE 700
#include "run_command.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

char directory[64];

static const char *command_path(void) {
  const char *path = getenv("AXISNORM_COMMAND");
  cr_assert_not_null(path, "AXISNORM_COMMAND must name the command; meson test sets it");
  return path;
}

/* Cuts a copy of the line, which holds until the next call: the child has its own by then. */
static void make_arguments(char *arguments[ARGUMENTS_LIMIT], const char *line, va_list more) {
  int count = 0;
  static char copy[2048], command[] = "axisnorm";
  char *rest = NULL;
  cr_assert_lt(strlen(line), sizeof copy);
  strcpy(copy, line);
  arguments[count++] = command;
  for (char *word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
    cr_assert_lt(count, ARGUMENTS_LIMIT - 1);
    arguments[count++] = strcmp(word, "%s") == 0 ? va_arg(more, char *) : word;
  }
  arguments[count] = NULL;
}

static void open_as(const char *path, int flags, int descriptor) {
  int opened = open(path, flags, 0666);
  if (opened < 0 || dup2(opened, descriptor) < 0) _exit(126);
}

static pid_t start(const struct setting *setting, char **arguments, int out, int err) {
  const char *path = command_path();
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child > 0) return child;
  open_as(setting->stdin_path != NULL ? setting->stdin_path : "/dev/null", O_RDONLY, 0);
  if (setting->stdout_path != NULL)
    open_as(setting->stdout_path, O_WRONLY, 1);
  else
    dup2(out, 1);
  dup2(err, 2);
  for (int i = 0; i < 3 && setting->closed != NULL; i++)
    if (setting->closed[i]) close(i);
  if (setting->variable != NULL) setenv(setting->variable, setting->value, 1);
  if (setting->file_size_limit > 0) {
    struct rlimit limit = {(rlim_t)setting->file_size_limit, (rlim_t)setting->file_size_limit};
    signal(SIGXFSZ, SIG_IGN); /* so that write fails instead */
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  execv(path, arguments);
  _exit(126);
}

static char *text_of(FILE *stream) {
  fseek(stream, 0, SEEK_END);
  long size = ftell(stream);
  rewind(stream);
  char *text = calloc((size_t)size + 1, 1);
  cr_assert_eq(fread(text, 1, (size_t)size, stream), (size_t)size);
  fclose(stream);
  return text;
}

/* All that comes before the last process closes its end. */
static char *text_of_terminal(int terminal) {
  FILE *text = tmpfile();
  cr_assert_not_null(text);
  char bytes[4096];
  for (ssize_t got; (got = read(terminal, bytes, sizeof bytes)) > 0;)
    cr_assert_eq(fwrite(bytes, 1, (size_t)got, text), (size_t)got);
  return text_of(text);
}

static int open_terminal(int *other_end) {
  int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  cr_assert(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
  *other_end = open(ptsname(terminal), O_RDWR | O_NOCTTY);
  cr_assert_geq(*other_end, 0);
  return terminal;
}

static struct run run_arguments(const struct setting *setting, char **arguments) {
  FILE *out = tmpfile(), *err = tmpfile();
  cr_assert(out != NULL && err != NULL);
  int other_end = fileno(err), terminal = -1;
  if (setting->terminal) terminal = open_terminal(&other_end);
  pid_t child = start(setting, arguments, fileno(out), other_end);
  struct run run = {0, NULL, NULL};
  if (setting->terminal) {
    close(other_end);
    run.err = text_of_terminal(terminal);
    close(terminal);
  }
  int status;
  cr_assert_eq(waitpid(child, &status, 0), child);
  run.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  run.out = text_of(out);
  if (setting->terminal)
    fclose(err);
  else
    run.err = text_of(err);
  return run;
}

struct run run_command(const char *line, ...) {
  char *arguments[ARGUMENTS_LIMIT];
  va_list more;
  va_start(more, line);
  make_arguments(arguments, line, more);
  va_end(more);
  struct setting usual = {0};
  return run_arguments(&usual, arguments);
}

struct run run_with(const struct setting *setting, const char *line, ...) {
  char *arguments[ARGUMENTS_LIMIT];
  va_list more;
  va_start(more, line);
  make_arguments(arguments, line, more);
  va_end(more);
  return run_arguments(setting, arguments);
}

pid_t start_command(const struct setting *setting, const char *line, ...) {
  char *arguments[ARGUMENTS_LIMIT];
  va_list more;
  va_start(more, line);
  make_arguments(arguments, line, more);
  va_end(more);
  int nowhere = open("/dev/null", O_WRONLY);
  return start(setting, arguments, nowhere, nowhere);
}

void run_free(struct run *run) {
  free(run->out);
  free(run->err);
}

void expect_error(struct run run, int status, const char *what) {
  cr_expect_eq(run.status, status, "status %d in place of %d: %s", run.status, status, run.err);
  cr_expect_str_empty(run.out);
  size_t length = strlen(run.err);
  cr_expect(length > 1 && strchr(run.err, '\n') == run.err + length - 1,
            "not one line on standard error: '%s'", run.err);
  char prefix[512];
  snprintf(prefix, sizeof prefix, "axisnorm: %s%s", what != NULL ? what : "",
           what != NULL ? ": " : "");
  cr_expect_eq(strncmp(run.err, prefix, strlen(prefix)), 0, "'%s' does not begin with '%s'",
               run.err, prefix);
  run_free(&run);
}

char *expect_done(struct run run) {
  cr_expect_eq(run.status, 0, "status %d: %s", run.status, run.err);
  cr_expect_str_empty(run.err);
  free(run.err);
  return run.out;
}

void make_directory(void) {
  const char *place = getenv("TMPDIR");
  snprintf(directory, sizeof directory, "%.40s/axisnorm-XXXXXX", place != NULL ? place : "/tmp");
  cr_assert_not_null(mkdtemp(directory));
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)status, (void)kind, (void)place;
  return remove(path);
}

void remove_directory(void) {
  nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void skip_test(const char *why) {
  remove_directory();
  cr_skip_test("%s", why);
}

const char *path_of(const char *name) {
  static char paths[64][256];
  static int next;
  char *path = paths[next++ % 64];
  snprintf(path, sizeof paths[0], "%s/%s", directory, name);
  return path;
}

int files_in_directory(void) {
  DIR *opened = opendir(directory);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(opened)) != NULL;)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) count++;
  closedir(opened);
  return count;
}

bool file_exists(const char *name) {
  return access(path_of(name), F_OK) == 0;
}

struct array array_of(const char *shape) {
  struct array array = {.rank = 0, .count = 1};
  for (const char *text = shape; *text != '\0'; array.rank++) {
    char *end;
    array.shape[array.rank] = strtoll(text, &end, 10);
    array.count *= array.shape[array.rank];
    text = *end == ',' ? end + 1 : end;
  }
  array.data = calloc((size_t)array.count + 1, sizeof(float));
  return array;
}

void array_free(struct array *array) {
  free(array->data);
}

static double uniform(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (double)((*state >> 11) + 1) * 0x1p-53;
}

void fill_normal(struct array *array, double offset, uint64_t seed) {
  for (int64_t i = 0; i < array->count; i++) {
    double radius = sqrt(-2 * log(uniform(&seed)));
    array->data[i] = (float)(offset + radius * cos(6.283185307179586 * uniform(&seed)));
  }
}

struct array normal_array(const char *name, const char *shape, double offset, uint64_t seed) {
  struct array array = array_of(shape);
  fill_normal(&array, offset, seed);
  write_array(name, &array);
  return array;
}

void write_bytes(const char *name, const void *bytes, size_t size) {
  FILE *file = fopen(path_of(name), "wb");
  cr_assert_not_null(file);
  cr_assert_eq(fwrite(bytes, 1, size, file), size);
  fclose(file);
}

const char *write_elements(const char *name, const struct array *shape, const char *type,
                           const void *elements, size_t size) {
  char header[118 + 1], extents[100] = "";
  size_t length = 0;
  for (int k = 0; k < shape->rank; k++)
    length += (size_t)snprintf(extents + length, sizeof extents - length, "%" PRId64 ", ",
                               shape->shape[k]);
  extents[length - (shape->rank > 1 ? 2 : 1)] = '\0';
  snprintf(header, sizeof header, "%-117s\n", "");
  char text[118];
  int written = snprintf(text, sizeof text,
                         "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, extents);
  memcpy(header, text, (size_t)written);
  FILE *file = fopen(path_of(name), "wb");
  cr_assert_not_null(file);
  fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file);
  fwrite(header, 1, 118, file);
  fwrite(elements, size, (size_t)shape->count, file);
  fclose(file);
  return path_of(name);
}

const char *write_array(const char *name, const struct array *array) {
  return write_elements(name, array, "<f4", array->data, sizeof(float));
}

char *read_text(const char *name, size_t *size) {
  FILE *file = fopen(path_of(name), "rb");
  cr_assert_not_null(file, "%s is not there", name);
  char *text = text_of(file);
  struct stat status;
  cr_assert_eq(stat(path_of(name), &status), 0);
  *size = (size_t)status.st_size;
  return text;
}

/* Reads what the command writes: version 1.0, the header as NumPy orders it. */
void *read_elements(const char *name, const char *type, size_t size, struct array *array) {
  size_t file_size;
  char *bytes = read_text(name, &file_size), shape[128] = "", begins[64];
  cr_assert_geq(file_size, 128);
  cr_assert_eq(memcmp(bytes, "\x93NUMPY\x01\x00", 8), 0);
  size_t header = (unsigned char)bytes[8] | (size_t)(unsigned char)bytes[9] << 8;
  cr_assert_eq((header + 10) % 64, 0);
  snprintf(begins, sizeof begins, "{'descr': '%s', 'fortran_order': False, 'shape': (", type);
  cr_assert_eq(strncmp(bytes + 10, begins, strlen(begins)), 0, "%.60s", bytes + 10);
  size_t length = 0;
  for (const char *c = bytes + 10 + strlen(begins); *c != ')' && length < sizeof shape - 1; c++)
    if (*c != ' ') shape[length++] = *c;
  *array = array_of(shape);
  cr_assert_eq(file_size, header + 10 + (size_t)array->count * size);
  memmove(bytes, bytes + header + 10, (size_t)array->count * size);
  return bytes;
}

struct array read_array(const char *name) {
  struct array array;
  void *elements = read_elements(name, "<f4", sizeof(float), &array);
  memcpy(array.data, elements, (size_t)array.count * sizeof(float));
  free(elements);
  return array;
}
