/* SPDX-License-Identifier: MIT */
/* What the tests run on: seeded random numbers, data of several kinds, random descriptors. */
#ifndef AXISNORM_TESTS_CASES_H
#define AXISNORM_TESTS_CASES_H

#include <axisnorm/axisnorm.h>

/* ---- random numbers: splitmix64, so a seed means the same everywhere ---- */

typedef struct randoms {
  uint64_t state;
} randoms;

/* The seed of a test: its own number, or that of the environment's AXISNORM_TEST_SEED. Printed. */
uint64_t test_seed(uint64_t own);

/* The seed of the i-th case of a test; running with it as AXISNORM_TEST_SEED is not needed, a case
 * prints its descriptor. */
uint64_t case_seed(uint64_t seed, uint64_t i);

randoms randoms_from(uint64_t seed);
uint64_t random_bits(randoms *source);
double random_uniform(randoms *source);                             /* 0 to just below 1 */
double random_normal(randoms *source);                              /* mean 0, deviation 1 */
int64_t random_between(randoms *source, int64_t low, int64_t high); /* both ends included */

/* ---- data ---- */

typedef enum data_kind {
  DATA_NORMAL,   /* float32(offset + spread * normal) */
  DATA_CONSTANT, /* offset everywhere */
  DATA_MIXED,    /* uniform from -spread to spread: both signs, up to the largest floats */
  DATA_RELU,     /* half zeros: what a network's activations look like; a few large */
  DATA_SKEWED    /* magnitudes over eight decades around spread, both signs */
} data_kind;

typedef struct data_spec {
  data_kind kind;
  double offset;
  double spread;
} data_spec;

static const data_spec DATA_STANDARD = {DATA_NORMAL, 0.0, 1.0};

void fill_data(float *values, int64_t count, data_spec spec, randoms *source);

/* Any kind, with offsets of at most 1e4 times the spread. */
data_spec random_data(randoms *source);

/* ---- descriptors ---- */

/* A descriptor with defaults; extents after rank are not read. */
axn_desc make_desc(axn_norm norm, int rank, const int64_t *shape);

/* The same in short for the common case; spatial extents of 0 end the shape. */
axn_desc desc_of(axn_norm norm, int64_t n, int64_t c, int64_t d, int64_t h, int64_t w);

/* Random norm, rank, extents (many of them 1 or odd), layout, groups, axis, kind of parameters,
 * epsilon, momentum, of at most `limit` elements; every one is valid for training. */
axn_desc random_desc(randoms *source, int64_t limit);

/* The i-th of every norm x rank x layout x axis x groups x kind of parameters, on the first `rank`
 * of `shape`'s five extents (C divisible by 3); returns 0 past the last. */
int listed_desc(int i, const int64_t shape[5], axn_desc *desc);

/* The i-th of a list of shapes that together reach every way through the engine: short and long lines,
 * lines folded into columns, more columns, values and rows than one block holds, lines with a parameter
 * per element, outputs that go past the caches; both layouts. Returns 0 past the last. */
int reaching_desc(size_t i, axn_desc *desc);

/* Elements that share one statistic; the tests' own count, for choosing cases. */
int64_t values_of(const axn_desc *desc);

/* One line about a descriptor (a strategy of its own as oracle.h has it), for messages; the buffer is static, one per thread. */
const char *desc_text(const axn_desc *desc);

int keeps_running(const axn_desc *desc);
int needs_running(const axn_desc *desc); /* in inference: batch and ghost */
int knows_mean(const axn_desc *desc);    /* all but rms */
int takes_axis(const axn_desc *desc);    /* layer and rms */

#endif
