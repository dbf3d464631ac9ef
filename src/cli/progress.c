/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "progress.h"
#include "timing.h"

#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static struct {
  const char *what;
  int steps, done;
  bool terminal, drawn;
  double began;
} bar;

void progress_start(const char *what, int steps) {
  bar.what = what;
  bar.steps = steps;
  bar.done = 0;
  bar.terminal = isatty(STDERR_FILENO) == 1;
  bar.drawn = false;
  bar.began = timing_now();
}

void progress_step(void) {
  if (bar.done < bar.steps) bar.done++;
  if (!bar.terminal || timing_now() - bar.began < 1) return;
  enum { WIDTH = 40 };
  int filled = bar.done * WIDTH / bar.steps;
  fprintf(stderr, "\r%s [", bar.what);
  for (int i = 0; i < WIDTH; i++) fputc(i < filled ? '#' : '.', stderr);
  fprintf(stderr, "] %3d%%", bar.done * 100 / bar.steps);
  bar.drawn = true;
}

void progress_end(void) {
  if (bar.drawn) fputs("\r\033[K", stderr);
  bar.drawn = false;
}
