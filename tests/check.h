/* SPDX-License-Identifier: MIT */
/*
 * Comparisons of float32 results with float64 references. Each looks at every element, and a
 * failure names the case, the tensor, the worst element and how far beyond its bound it is.
 */
#ifndef AXISNORM_TESTS_CHECK_H
#define AXISNORM_TESTS_CHECK_H

#include "rig.h"

/* float32's unit in the last place of max(|value|, floor). */
double ulp_above(double value, double floor);

/* |got - want| <= bound for every element, where want is rounded to float32's infinity or NaN as
 * float32 would. */
void check_close(const rig *self, const char *what, int64_t count, const float *got,
                 const double *want, const double *bound);

/* The same with one bound for all. */
void check_within(const rig *self, const char *what, int64_t count, const float *got,
                  const double *want, double bound);

/* The same bits; NaNs of any payload are equal. */
void check_same(const rig *self, const char *what, int64_t count, const float *got,
                const float *want);

/* y against the oracle's: see check.c for the bounds and where they come from. */
void check_y(const rig *self, const oracle_forward *expected);

/* mean and rstd against the oracle's. */
void check_statistics(const rig *self, const oracle_forward *expected);

/* All three gradients. */
void check_gradients(const rig *self, const oracle_backward *expected);

#endif
