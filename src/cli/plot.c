/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "plot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static bool has_suffix(const char *path, const char *suffix) {
  size_t length = strlen(path), due = strlen(suffix);
  return length > due && strcmp(path + length - due, suffix) == 0;
}

bool plot_has_known_suffix(const char *path) {
  return has_suffix(path, ".svg") || has_suffix(path, ".png");
}

/* The child's standard input, output and error. */
static int start_gnuplot(const int descriptors[3], pid_t *child) {
  char program[] = "gnuplot", defaults[] = "-d"; /* not the user's own start-up files */
  char *arguments[] = {program, defaults, NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int reason = posix_spawn_file_actions_init(&actions);
  if (reason != 0) return reason;
  reason = posix_spawnattr_init(&attributes);
  if (reason == 0) {
    for (int i = 0; i < 3 && reason == 0; i++)
      reason = posix_spawn_file_actions_adddup2(&actions, descriptors[i], i);
    if (reason == 0)
      reason = posix_spawnp(child, program, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  return reason;
}

static bool write_all(int descriptor, const char *text, size_t length) {
  while (length > 0) {
    ssize_t written = write(descriptor, text, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text += written;
    length -= (size_t)written;
  }
  return true;
}

/* The last line that gnuplot complained in, for our own message. */
static void last_line(FILE *complaints, char *line, size_t room) {
  char next[160];
  rewind(complaints);
  snprintf(line, room, "failed");
  while (fgets(next, sizeof next, complaints) != NULL) {
    next[strcspn(next, "\n")] = '\0';
    if (strspn(next, " ^") != strlen(next)) snprintf(line, room, "%s", next);
  }
}

/* Feeds `text` to gnuplot. A gnuplot that ends early must not end us by a broken pipe. */
static int feed_gnuplot(const char *text, size_t length, int output, FILE *complaints,
                        int *status) {
  int ends[2];
  if (pipe(ends) != 0) return errno;
  /* The child must not hold the writing end, or it would wait for the end of its own input. */
  int reason = 0;
  pid_t child = -1;
  struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
  int writing = ends[1];
  if (fcntl(writing, F_SETFD, FD_CLOEXEC) != 0) reason = errno;
  const int descriptors[3] = {ends[0], output, fileno(complaints)};
  if (reason == 0) reason = start_gnuplot(descriptors, &child);
  close(ends[0]);
  if (reason == 0) {
    sigaction(SIGPIPE, &ignore, &before);
    write_all(writing, text, length); /* whether it worked, the exit status tells */
    sigaction(SIGPIPE, &before, NULL);
  }
  close(writing);
  while (reason == 0 && waitpid(child, status, 0) < 0)
    if (errno != EINTR) reason = errno;
  return reason;
}

static enum outcome run_gnuplot(const char *text, size_t length, int output) {
  FILE *complaints = tmpfile();
  if (complaints == NULL) return message_failed("gnuplot", "%s", strerror(errno));
  int status = 0;
  int reason = feed_gnuplot(text, length, output, complaints, &status);
  enum outcome outcome = DONE;
  if (reason == ENOENT || (reason == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127)) {
    outcome = message_failed("gnuplot", "not found: --plot draws with it, so install gnuplot");
  } else if (reason != 0) {
    outcome = message_failed("gnuplot", "%s", strerror(reason));
  } else if (status != 0) {
    char line[160];
    last_line(complaints, line, sizeof line);
    outcome = message_failed("gnuplot", "%s", line);
  }
  fclose(complaints);
  return outcome;
}

static enum outcome no_script(void) {
  return message_failed("gnuplot", "%s", strerror(errno));
}

enum outcome plot_start(struct plot *plot, const char *path, int width, int height) {
  *plot = (struct plot){.output = NULL};
  enum outcome outcome = output_open(path, &plot->output);
  static const char nothing[] = "exit\n";
  if (outcome == DONE)
    outcome = run_gnuplot(nothing, sizeof nothing - 1, fileno(output_stream(plot->output)));
  if (outcome != DONE) return outcome;
  plot->script = open_memstream(&plot->text, &plot->length);
  if (plot->script == NULL) return no_script();
  if (has_suffix(path, ".svg"))
    fprintf(plot->script,
            "set terminal svg size %d,%d dynamic enhanced background rgb 'white' "
            "font 'Helvetica,13'\n",
            width, height);
  else /* gnuplot-nox may lack cairo; twice the size is sharp on dense screens too */
    fprintf(plot->script,
            "if (strstrt(GPVAL_TERMINALS, 'pngcairo')) { set terminal pngcairo size %d,%d "
            "enhanced background rgb 'white' font 'Helvetica,13' fontscale 2 linewidth 2 "
            "pointscale 2 } else { set terminal png size %d,%d enhanced }\n",
            2 * width, 2 * height, 2 * width, 2 * height);
  return DONE;
}

enum outcome plot_finish(struct plot *plot) {
  bool good = ferror(plot->script) == 0;
  if (fclose(plot->script) != 0) good = false;
  plot->script = NULL;
  if (!good) return message_no_memory();
  return run_gnuplot(plot->text, plot->length, fileno(output_stream(plot->output)));
}

void plot_release(struct plot *plot) {
  if (plot->script != NULL) fclose(plot->script);
  free(plot->text);
  *plot = (struct plot){.output = NULL};
}
