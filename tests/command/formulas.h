/* SPDX-License-Identifier: MIT */
/* The normalizations as the papers define them, in float64: element by element, without any of
 * the library's algebra. */
#ifndef AXISNORM_TEST_FORMULAS_H
#define AXISNORM_TEST_FORMULAS_H

#include "run_command.h"

enum { BATCH, LAYER, INSTANCE, GROUP, RMS, POSITIONAL, GHOST, NORMS, GROUPS = 3 };
extern const char *const norms[NORMS];

/* " --groups 3" or " --ghost-batch 2": what the formulas below take, or "" where there is no choice. */
const char *options_of(int norm, const struct array *x);

struct moments {
  double *mean, *variance; /* rms: 0, and the mean of the squares */
  double count;            /* of values in each statistic */
};

int64_t statistic_of(int norm, const struct array *x, int64_t index);
int64_t statistics_of(int norm, const struct array *x);
int64_t channel_of(const struct array *x, int64_t index);
struct moments moments_of(int norm, const struct array *x);
void moments_free(struct moments *moments);

/* By its name and its definition; the slope of leaky-relu is 0.125. */
double activation_of(const char *name, double z);

/* By differences, but for the two with a corner: shares nothing with the library's formulas. */
double activation_derivative(const char *name, double z);

void expect_near(double value, double due, double tolerance, const char *what);

/* A normal vector of that many channels, also written to a file. */
struct array channels(const char *name, int64_t count, double offset, uint64_t seed);

#endif
