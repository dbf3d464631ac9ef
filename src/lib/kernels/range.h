/* SPDX-License-Identifier: MIT */
/* What float32 can hold of a statistic. */
#ifndef AXN_LIB_KERNELS_RANGE_H
#define AXN_LIB_KERNELS_RANGE_H

#include <float.h>
#include <math.h>
#include <stdbool.h>

static inline double axn_rstd(double variance, double epsilon) {
  return 1 / sqrt(variance + epsilon);
}

/* `value` as float, within float's finite range: an rstd beyond it belongs to values that float32
 * cannot tell apart. */
static inline float axn_narrow_rstd(double value) {
  return (float)(value > (double)FLT_MAX ? (double)FLT_MAX : value);
}

/* True where float32 could overflow or vanish on the way from values of such statistics to results
 * that it can hold, and float64 has to take its place: x - mean, its product with rstd. Where a
 * statistic is not finite there is nothing to save. */
static inline bool axn_needs_wide(double mean, double rstd) {
  /* Without short cuts, so that loops over it become vectors. */
  return (rstd < 0x1p-60) | (rstd > 0x1p60) | ((fabs(mean) > 0x1p100) & (fabs(mean) <= DBL_MAX));
}

#endif
