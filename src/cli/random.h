/* SPDX-License-Identifier: MIT */
/* Random numbers that are the same on every machine for one seed: xoshiro256** (Blackman & Vigna
 * 2018, https://prng.di.unimi.it), seeded by splitmix64. */
#ifndef AXISNORM_RANDOM_H
#define AXISNORM_RANDOM_H

#include "tensor.h"

#include <stdint.h>

struct random {
  uint64_t state[4];
};

struct random random_start(uint64_t seed);
uint64_t random_below(struct random *random, uint64_t limit); /* limit >= 1 */
double random_normal(struct random *random);

/* Fills a whole tensor, and shows progress within the step at hand. */
void random_fill_normal(struct random *random, struct tensor *tensor);

#endif
