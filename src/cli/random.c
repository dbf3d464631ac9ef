/* SPDX-License-Identifier: MIT */
#include "random.h"
#include "progress.h"

#include <math.h>

static uint64_t splitmix(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

struct random random_start(uint64_t seed) {
  struct random random;
  for (int i = 0; i < 4; i++) random.state[i] = splitmix(&seed);
  return random;
}

static uint64_t rotate(uint64_t value, int bits) {
  return value << bits | value >> (64 - bits);
}

static uint64_t next(struct random *random) {
  uint64_t *s = random->state, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate(s[3], 45);
  return result;
}

uint64_t random_below(struct random *random, uint64_t limit) {
  uint64_t uneven = (UINT64_MAX - limit + 1) % limit; /* 2^64 modulo limit */
  uint64_t value;
  do value = next(random);
  while (value < uneven); /* those would favour small results */
  return value % limit;
}

/* In (0, 1]: its logarithm is finite. */
static double uniform(struct random *random) {
  return (double)((next(random) >> 11) + 1) * 0x1p-53;
}

/* Box & Muller 1958. */
double random_normal(struct random *random) {
  double radius = sqrt(-2 * log(uniform(random)));
  return radius * cos(6.283185307179586 * uniform(random));
}

void random_fill_normal(struct random *random, struct tensor *tensor) {
  enum { BETWEEN_LOOKS = 1 << 16 };
  for (int64_t i = 0; i < tensor->count; i++) {
    if (i % BETWEEN_LOOKS == 0) progress_within(i, tensor->count);
    tensor_set(tensor, i, random_normal(random));
  }
}
