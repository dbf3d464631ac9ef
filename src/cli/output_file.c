/* SPDX-License-Identifier: MIT */
#define _XOPEN_SOURCE 700
#include "output_file.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUTPUT_LIMIT = 16 };

struct output_file {
  const char *path;         /* as the user wrote it */
  char target[PATH_MAX];    /* where it goes, symbolic links followed */
  char temporary[PATH_MAX]; /* valid while `pending` */
  bool exists;              /* before us, as the file that the next two name */
  dev_t device;
  ino_t inode;
  FILE *stream;
  atomic_bool pending; /* the handler may read this at any time */
};

static struct output_file outputs[OUTPUT_LIMIT];
static int output_count;
static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ};
enum { ENDING_SIGNALS = sizeof ending_signals / sizeof ending_signals[0] };

/* Only calls that are safe in a signal handler. */
static void remove_and_end(int signal_number) {
  for (int i = 0; i < OUTPUT_LIMIT; i++)
    if (atomic_load(&outputs[i].pending)) unlink(outputs[i].temporary);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

static void fill_ending_signals(sigset_t *set) {
  sigemptyset(set);
  for (int i = 0; i < ENDING_SIGNALS; i++) sigaddset(set, ending_signals[i]);
}

void output_start(void) {
  struct sigaction action = {.sa_handler = remove_and_end};
  fill_ending_signals(&action.sa_mask);
  for (int i = 0; i < ENDING_SIGNALS; i++) {
    struct sigaction before;
    /* What the parent chose to ignore (nohup, a background job) stays ignored. */
    if (sigaction(ending_signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
      sigaction(ending_signals[i], &action, NULL);
  }
  /* For whoever calls exit: the OpenMP runtime does where it cannot start its threads. */
  atexit(output_discard_all);
}

/* Between a change on disk and its note in `pending` no signal may come. */
static void hold_signals(sigset_t *before) {
  sigset_t held;
  fill_ending_signals(&held);
  sigprocmask(SIG_BLOCK, &held, before);
}

static void release_signals(const sigset_t *before) {
  sigprocmask(SIG_SETMASK, before, NULL);
}

/* The permissions that the file has, or that a new one gets. */
static mode_t wanted_permissions(const struct stat *existing) {
  if (existing != NULL) return existing->st_mode & 0777;
  mode_t mask = umask(0);
  umask(mask);
  return 0666 & ~mask;
}

/* What a rename must not replace. */
static enum outcome check_existing(const char *path, const struct stat *existing) {
  if (S_ISDIR(existing->st_mode)) return message_failed(path, "%s", strerror(EISDIR));
  if (!S_ISREG(existing->st_mode))
    return message_failed(path, "not a regular file: an output appears whole or not at all, which "
                                "nothing else allows");
  if (access(path, W_OK) != 0) return message_failed(path, "%s", strerror(errno));
  return DONE;
}

/* A new file: the resolved path of its directory, and its name. */
static enum outcome find_new_target(struct output_file *output) {
  struct stat link;
  if (lstat(output->path, &link) == 0)
    return message_failed(output->path, "a symbolic link to a file that does not exist");
  const char *slash = strrchr(output->path, '/');
  const char *name = slash != NULL ? slash + 1 : output->path;
  char directory[PATH_MAX] = ".";
  size_t length = (size_t)(name - output->path);
  if (length >= sizeof directory) return message_failed(output->path, "%s", strerror(ENAMETOOLONG));
  if (length > 0) memcpy(directory, output->path, length), directory[length] = '\0';
  if (realpath(directory, output->target) == NULL)
    return message_failed(output->path, "%s", strerror(errno));
  length = strlen(output->target);
  if (length + 1 + strlen(name) >= sizeof output->target)
    return message_failed(output->path, "%s", strerror(ENAMETOOLONG));
  if (output->target[length - 1] != '/') output->target[length++] = '/';
  strcpy(output->target + length, name);
  return DONE;
}

static enum outcome find_target(struct output_file *output, mode_t *permissions) {
  struct stat existing;
  output->exists = stat(output->path, &existing) == 0;
  if (!output->exists && errno != ENOENT)
    return message_failed(output->path, "%s", strerror(errno));
  *permissions = wanted_permissions(output->exists ? &existing : NULL);
  if (!output->exists) return find_new_target(output);
  output->device = existing.st_dev;
  output->inode = existing.st_ino;
  enum outcome outcome = check_existing(output->path, &existing);
  if (outcome == DONE && realpath(output->path, output->target) == NULL)
    outcome = message_failed(output->path, "%s", strerror(errno));
  return outcome;
}

/* However the two are spelled. */
static bool is_same_file(const struct output_file *a, const struct output_file *b) {
  if (a->exists && b->exists) return a->device == b->device && a->inode == b->inode;
  return strcmp(a->target, b->target) == 0;
}

/* DIRECTORY/.axisnorm-XXXXXX: in the same directory, so that the rename stays on one disk. */
static bool name_temporary(struct output_file *output) {
  static const char name[] = ".axisnorm-XXXXXX";
  const char *slash = strrchr(output->target, '/');
  size_t directory = slash == NULL ? 0 : (size_t)(slash - output->target) + 1;
  if (directory + sizeof name > sizeof output->temporary) return false;
  memcpy(output->temporary, output->target, directory);
  memcpy(output->temporary + directory, name, sizeof name);
  return true;
}

enum outcome output_open(const char *path, struct output_file **result) {
  if (output_count == OUTPUT_LIMIT) return message_failed(path, "too many outputs");

  struct output_file *output = &outputs[output_count];
  output->path = path;
  mode_t permissions = 0;
  enum outcome outcome = find_target(output, &permissions);
  if (outcome != DONE) return outcome;
  for (int i = 0; i < output_count; i++)
    if (is_same_file(&outputs[i], output)) return message_misused(path, "named for two outputs");
  if (!name_temporary(output)) return message_failed(path, "%s", strerror(ENAMETOOLONG));

  sigset_t before;
  hold_signals(&before);
  int descriptor = mkstemp(output->temporary);
  if (descriptor >= 0) {
    atomic_store(&output->pending, true);
    output_count++;
  }
  int reason = errno;
  release_signals(&before);
  if (descriptor < 0) return message_failed(path, "%s", strerror(reason));
  output->stream = fchmod(descriptor, permissions) == 0 ? fdopen(descriptor, "wb") : NULL;
  if (output->stream == NULL) {
    reason = errno;
    close(descriptor);
    return message_failed(path, "%s", strerror(reason));
  }
  *result = output;
  return DONE;
}

FILE *output_stream(struct output_file *output) {
  return output->stream;
}

const char *output_path(const struct output_file *output) {
  return output->path;
}

/* A full disk may show only when the last bytes go out, or at the sync. */
static enum outcome close_stream(struct output_file *output) {
  FILE *stream = output->stream;
  output->stream = NULL;
  errno = 0;
  bool good = fflush(stream) == 0 && !ferror(stream) && fsync(fileno(stream)) == 0;
  int reason = errno;
  if (fclose(stream) != 0 && good) {
    good = false;
    reason = errno;
  }
  if (good) return DONE;
  return message_failed(output->path, "%s", strerror(reason != 0 ? reason : EIO));
}

enum outcome output_commit_all(void) {
  for (int i = 0; i < output_count; i++) {
    enum outcome outcome = close_stream(&outputs[i]);
    if (outcome != DONE) return outcome;
  }
  enum outcome outcome = DONE;
  sigset_t before;
  /* All the names change, or a signal comes before the first. A rename that fails all the same,
   * say because its directory was removed meanwhile, leaves those before it: what they replaced is
   * gone. */
  hold_signals(&before);
  for (int i = 0; i < output_count && outcome == DONE; i++) {
    if (rename(outputs[i].temporary, outputs[i].target) == 0)
      atomic_store(&outputs[i].pending, false);
    else
      outcome = message_failed(outputs[i].path, "%s", strerror(errno));
  }
  release_signals(&before);
  return outcome;
}

void output_discard_all(void) {
  for (int i = 0; i < output_count; i++) {
    if (outputs[i].stream != NULL) fclose(outputs[i].stream);
    outputs[i].stream = NULL;
    if (atomic_exchange(&outputs[i].pending, false)) unlink(outputs[i].temporary);
  }
}
