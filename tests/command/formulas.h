/* SPDX-License-Identifier: MIT */
/* The four normalizations as the papers define them, in float64: element by element, without any of
 * the library's algebra. */
#ifndef AXISNORM_TEST_FORMULAS_H
#define AXISNORM_TEST_FORMULAS_H

#include "run_command.h"

enum { NORMS = 4, BATCH = 0, LAYER = 1, INSTANCE = 2, GROUP = 3, GROUPS = 3 };
extern const char *const norms[NORMS];

struct moments {
  double *mean, *variance;
  double count; /* of values in each statistic */
};

int64_t statistic_of(int norm, const struct array *x, int64_t index);
int64_t statistics_of(int norm, const struct array *x);
int64_t channel_of(const struct array *x, int64_t index);
struct moments moments_of(int norm, const struct array *x);
void moments_free(struct moments *moments);

void expect_near(double value, double due, double tolerance, const char *what);

/* A normal vector of that many channels, also written to a file. */
struct array channels(const char *name, int64_t count, double offset, uint64_t seed);

#endif
