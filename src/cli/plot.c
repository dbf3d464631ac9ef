/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "plot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
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

/* The child's standard input, output and error. All are above them: see high_descriptor. */
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

/* A copy that no dup2 onto 0, 1 or 2 can hit, and that the child does not keep. -1: see errno. */
static int high_descriptor(int descriptor) {
  return fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
}

/* Both ends of a pipe, as high descriptors. */
static int open_pipe(int ends[2]) {
  int low[2];
  if (pipe(low) != 0) return errno;
  int reason = 0;
  for (int i = 0; i < 2; i++) {
    ends[i] = high_descriptor(low[i]);
    if (ends[i] < 0) reason = errno;
    close(low[i]);
  }
  for (int i = 0; i < 2 && reason != 0; i++)
    if (ends[i] >= 0) close(ends[i]);
  return reason;
}

/* Starts gnuplot; *drawn is where its figure is read from. */
static int draw(FILE *script, FILE *complaints, pid_t *child, int *drawn) {
  int ends[2];
  int reason = open_pipe(ends);
  if (reason != 0) return reason;
  int descriptors[3] = {high_descriptor(fileno(script)), ends[1],
                        high_descriptor(fileno(complaints))};
  reason = descriptors[0] < 0 || descriptors[2] < 0 ? errno : start_gnuplot(descriptors, child);
  for (int i = 0; i < 3; i++)
    if (descriptors[i] >= 0) close(descriptors[i]);
  if (reason == 0)
    *drawn = ends[0];
  else
    close(ends[0]);
  return reason;
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

/* Reads to the end of what gnuplot draws, also where it cannot be written. Returns 0 or errno. */
static int copy_figure(int drawn, FILE *stream, size_t *size) {
  char bytes[1 << 14];
  int reason = 0;
  for (;;) {
    ssize_t got = read(drawn, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && reason == 0) reason = errno;
    if (got <= 0) return reason;
    *size += (size_t)got;
    errno = 0;
    if (reason == 0 && fwrite(bytes, 1, (size_t)got, stream) != (size_t)got)
      reason = errno != 0 ? errno : EIO;
  }
}

static enum outcome gnuplot_failed(int reason, int status, FILE *complaints) {
  if (reason == ENOENT || (reason == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127))
    return message_failed("gnuplot", "not found: --plot draws with it, so install gnuplot");
  if (reason != 0) return message_failed("gnuplot", "%s", strerror(reason));
  char line[160];
  last_line(complaints, line, sizeof line);
  return message_failed("gnuplot", "%s", line);
}

/* Runs the script from its beginning; what it draws goes to the output. */
static enum outcome run_gnuplot(FILE *script, struct output_file *output, size_t *size) {
  FILE *complaints = tmpfile();
  if (complaints == NULL) return message_failed("gnuplot", "%s", strerror(errno));
  pid_t child = -1;
  int drawn = -1, status = 0, unwritten = 0;
  *size = 0;
  int reason = draw(script, complaints, &child, &drawn);
  if (reason == 0) {
    unwritten = copy_figure(drawn, output_stream(output), size);
    close(drawn);
    while (reason == 0 && waitpid(child, &status, 0) < 0)
      if (errno != EINTR) reason = errno;
  }
  enum outcome outcome = DONE;
  if (unwritten != 0)
    outcome = message_failed(output_path(output), "%s", strerror(unwritten));
  else if (reason != 0 || status != 0)
    outcome = gnuplot_failed(reason, status, complaints);
  fclose(complaints);
  return outcome;
}

/* A temporary file rather than a pipe: gnuplot draws before it has read all. */
static enum outcome start_script(struct plot *plot) {
  plot->script = tmpfile();
  return plot->script != NULL ? DONE : message_failed("gnuplot", "%s", strerror(errno));
}

/* Draws what the script says, which is closed. */
static enum outcome end_script(struct plot *plot, size_t *size) {
  FILE *script = plot->script;
  plot->script = NULL;
  errno = 0;
  enum outcome outcome = DONE;
  if (fflush(script) != 0 || ferror(script) || lseek(fileno(script), 0, SEEK_SET) != 0)
    outcome = message_failed("gnuplot", "%s", strerror(errno != 0 ? errno : EIO));
  else
    outcome = run_gnuplot(script, plot->output, size);
  fclose(script);
  return outcome;
}

/* Before the work that it is to draw. */
static enum outcome try_gnuplot(struct plot *plot) {
  enum outcome outcome = start_script(plot);
  if (outcome != DONE) return outcome;
  fputs("exit\n", plot->script);
  size_t size;
  return end_script(plot, &size);
}

enum outcome plot_start(struct plot *plot, const char *path, int width, int height) {
  *plot = (struct plot){.output = NULL};
  enum outcome outcome = output_open(path, &plot->output);
  if (outcome == DONE) outcome = try_gnuplot(plot);
  if (outcome == DONE) outcome = start_script(plot);
  if (outcome != DONE) return outcome;
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
  size_t size = 0;
  enum outcome outcome = end_script(plot, &size);
  if (outcome == DONE && size == 0) outcome = message_failed("gnuplot", "drew nothing");
  return outcome;
}

void plot_release(struct plot *plot) {
  if (plot->script != NULL) fclose(plot->script);
  *plot = (struct plot){.output = NULL};
}
