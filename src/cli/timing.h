/* SPDX-License-Identifier: MIT */
/* Times of several pieces of work, measured turn by turn so that a change in the machine's speed
 * meets all of them alike. */
#ifndef AXISNORM_TIMING_H
#define AXISNORM_TIMING_H

#include <stddef.h>
#include <stdint.h>

enum { TIMING_ROUNDS_LEAST = 11, TIMING_ROUNDS_MOST = 301 };

struct timed {
  void (*work)(void *context);
  void *context;
  int64_t repeats;                    /* per sample; found by timing_run */
  double samples[TIMING_ROUNDS_MOST]; /* seconds for one run of the work */
};

double timing_now(void); /* seconds on a clock that never jumps */

/* Measures for about `seconds` in all, but at least the least number of rounds. Returns their
 * number: samples [i] of all works belong to one round. Shows progress within the step at hand. */
int timing_run(struct timed *works, int count, double seconds);

/* Of the first `rounds` values; `values` stay as they are. */
double timing_median(const double *values, int rounds);

#endif
