/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "progress.h"
#include "message.h"
#include "timing.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
  const char *what;
  int steps, done;
  bool terminal, drawn;
  double began, drawn_at;
} bar;

/* In one piece, so that nothing comes in between. A broken standard error leaves nobody to tell. */
static void put(const char *text) {
  ssize_t written = write(STDERR_FILENO, text, strlen(text));
  (void)written;
}

static void clear(void) {
  if (bar.drawn) put("\r\033[K");
  bar.drawn = false;
}

void progress_start(const char *what, int steps) {
  bar.what = what;
  bar.steps = steps;
  bar.done = 0;
  bar.terminal = isatty(STDERR_FILENO) == 1;
  bar.drawn = false;
  bar.began = bar.drawn_at = timing_now();
  message_before(clear);
}

void progress_expect(int steps) {
  bar.steps = steps;
}

static void draw(double done) {
  enum { WIDTH = 40 };
  double part = done / bar.steps;
  char cells[WIDTH + 1] = "", text[160];
  for (int i = 0; i < WIDTH; i++) cells[i] = i + 1 <= part * WIDTH ? '#' : '.';
  snprintf(text, sizeof text, "\r%s [%s] %3d%%", bar.what, cells, (int)(part * 100));
  put(text);
  bar.drawn = true;
}

void progress_within(int64_t done, int64_t of) {
  static const double FIRST_AFTER = 1, REDRAWN_AFTER = 0.1;
  if (!bar.terminal || bar.done >= bar.steps) return;
  double now = timing_now();
  if (now - bar.began < FIRST_AFTER || now - bar.drawn_at < REDRAWN_AFTER) return;
  bar.drawn_at = now;
  double within = (double)done / (double)of;
  draw(bar.done + (within < 1 ? within : 1));
}

void progress_step(void) {
  progress_within(1, 1);
  if (bar.done < bar.steps) bar.done++;
}

void progress_end(void) {
  clear();
  bar.terminal = false;
}
