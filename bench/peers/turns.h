/* SPDX-License-Identifier: MIT */
/* Times of several implementations, measured turn by turn so that a change in the machine's speed
 * meets all of them alike. */
#ifndef AXISNORM_PEERS_TURNS_H
#define AXISNORM_PEERS_TURNS_H

#include <stdint.h>

enum { ROUNDS_MOST = 301 };

struct turn {
  void (*run)(void *context);
  void *context;
  int64_t repeats;             /* per sample; found by turns_take */
  double samples[ROUNDS_MOST]; /* seconds for one run */
};

/* Measures for about `seconds` in all. Returns the number of rounds: samples [i] of all turns
 * belong to one round. */
int turns_take(struct turn *turns, int count, double seconds);

double turns_median(const struct turn *turn, int rounds);

/* The median over the rounds of theirs / ours. */
double turns_lead(const struct turn *ours, const struct turn *theirs, int rounds);

#endif
