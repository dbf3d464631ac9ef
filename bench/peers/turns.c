/* SPDX-License-Identifier: MIT */
#define _POSIX_C_SOURCE 200809L
#include "turns.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS_LEAST = 5 };

/* The clock's own cost is tens of nanoseconds: below a thousandth of such a sample. */
static const double SHORTEST_SAMPLE = 50e-6;

/* Untimed runs before a sample. One does not do: a third-level cache that another implementation
 * filled takes some ten runs over a few megabytes until its contents are this one's. */
static const double WARM_UP = 10e-3;

/* Whatever a run this long finds in the caches does not show in its time. */
static const double LONG_RUN = 0.1;

/* Reference code can take seconds for a run: then fewer rounds must do. */
static const double OVERTIME = 20;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Idle worker threads spin before they sleep (GNU OpenMP's 4 to 9 ms), and one implementation's
 * must not take a processor from the next one's. Not a sleep: the thread that woke from one could
 * find a worker on its own processor. */
static void settle(void) {
  for (double began = now(); now() - began < 15e-3;) continue;
}

static double sample(const struct turn *turn) {
  double began = now();
  for (int64_t i = 0; i < turn->repeats; i++) turn->run(turn->context);
  return now() - began;
}

/* Wakes the threads, and leaves the caches as this implementation itself does, not as the one before
 * did. */
static void warm_up(const struct turn *turn) {
  double began = now();
  do turn->run(turn->context);
  while (now() - began < WARM_UP);
}

static double take(const struct turn *turn, double expected) {
  settle();
  if (expected < LONG_RUN) warm_up(turn);
  return sample(turn);
}

static double find_repeats(struct turn *turn) {
  turn->repeats = 1;
  double seconds = take(turn, 0);
  while (seconds < SHORTEST_SAMPLE && turn->repeats < INT64_C(1) << 20) {
    turn->repeats *= 2;
    seconds = sample(turn);
  }
  return seconds;
}

static int enough(int round, double elapsed, double seconds) {
  if (round >= ROUNDS_MOST || elapsed > OVERTIME * seconds) return 1;
  return round >= ROUNDS_LEAST && elapsed >= seconds;
}

int turns_take(struct turn *turns, int count, double seconds) {
  for (int i = 0; i < count; i++) turns[i].samples[0] = find_repeats(&turns[i]);
  double began = now();
  int round = 0;
  do {
    for (int i = 0; i < count; i++)
      turns[i].samples[round] = take(&turns[i], turns[i].samples[0]) / (double)turns[i].repeats;
    round++;
  } while (!enough(round, now() - began, seconds));
  return round;
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Sorts the values. */
static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, compare_doubles);
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

double turns_median(const struct turn *turn, int rounds) {
  double values[ROUNDS_MOST];
  memcpy(values, turn->samples, (size_t)rounds * sizeof *values);
  return median(values, rounds);
}

double turns_lead(const struct turn *ours, const struct turn *theirs, int rounds) {
  double values[ROUNDS_MOST];
  for (int i = 0; i < rounds; i++) values[i] = theirs->samples[i] / ours->samples[i];
  return median(values, rounds);
}
