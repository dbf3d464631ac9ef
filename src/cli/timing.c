/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "timing.h"
#include "progress.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The clock's own cost is tens of nanoseconds: below a thousandth of a sample of this length. */
static const double SHORTEST_SAMPLE = 20e-6;

double timing_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Each work begins with the caches as itself left them, not as the one before did: a streaming copy,
 * for one, leaves its output in none, and a cache that several cores share gives up what it held only
 * bit by bit. */
static void warm_up(const struct timed *timed) {
  enum { RUNS = 6 };
  static const double SECONDS = 5e-3;
  const double began = timing_now();
  int run = 0;
  do {
    timed->work(timed->context);
  } while (++run < RUNS && timing_now() - began < SECONDS);
}

static double sample(const struct timed *timed) {
  warm_up(timed);
  double began = timing_now();
  for (int64_t i = 0; i < timed->repeats; i++) timed->work(timed->context);
  return timing_now() - began;
}

/* Also the warm-up: pages are touched, threads are started. */
static void find_repeats(struct timed *timed) {
  timed->repeats = 1;
  while (sample(timed) < SHORTEST_SAMPLE && timed->repeats < INT64_C(1) << 20) timed->repeats *= 2;
}

/* In thousandths; drawn between rounds, where it disturbs no sample. */
static void show_progress(int round, double part_of_time) {
  double rounds = (double)round / TIMING_ROUNDS_LEAST;
  double least = rounds < part_of_time ? rounds : part_of_time;
  double most = (double)round / TIMING_ROUNDS_MOST;
  progress_within((int64_t)(1000 * (least > most ? least : most)), 1000);
}

int timing_run(struct timed *works, int count, double seconds) {
  for (int i = 0; i < count; i++) {
    find_repeats(&works[i]);
    show_progress(0, 0);
  }
  double began = timing_now();
  int round = 0;
  while (round < TIMING_ROUNDS_LEAST ||
         (round < TIMING_ROUNDS_MOST && timing_now() - began < seconds)) {
    for (int i = 0; i < count; i++)
      works[i].samples[round] = sample(&works[i]) / (double)works[i].repeats;
    round++;
    show_progress(round, (timing_now() - began) / seconds);
  }
  return round;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double timing_median(const double *values, int rounds) {
  double sorted[TIMING_ROUNDS_MOST];
  memcpy(sorted, values, (size_t)rounds * sizeof *values);
  qsort(sorted, (size_t)rounds, sizeof *sorted, compare_doubles);
  return rounds % 2 != 0 ? sorted[rounds / 2] : (sorted[rounds / 2 - 1] + sorted[rounds / 2]) / 2;
}
